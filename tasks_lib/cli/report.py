"""`doit report`: the last run as an HTML page and as a trace for Perfetto."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks_lib.cli.project_command import ProjectCommand
from tasks_lib.engine.base_command import format_write_error, option, usage_error
from tasks_lib.errors import escape_text
from tasks_lib.report.record import RecordError, load
from tasks_lib.report.render import render_page, render_trace
from tasks_lib.session import Session

#: What a record may raise that doit-fetch, which writes atomically, did not write.
_DAMAGED = (LookupError, TypeError, ValueError, AttributeError)


class ReportCommand(ProjectCommand):
    """`doit report`."""

    name = "report"
    doc_usage = ""
    doc_description = "The page needs no network; open the trace in Perfetto."
    cmd_options = (
        option("page", "path of the page [default: report.html in the build directory]", metavar="FILE", short="o"),
        option("trace", "path of the Chrome trace [default: trace.json in the build directory]", metavar="FILE"),
    )

    def work(self, session: Session, params: Any, args: list[str]) -> int:
        """Write both files and print their paths; load no tasks.

        Raises:
            InvalidCommand: nothing is recorded, or a file cannot be written; doit prints the message.
        """
        if args:
            raise usage_error(f"`report` takes no task names, got {escape_text(args[0])!r}\nleave it out")
        self.loader.load_doit_config()
        recorded = session.output_settings.record
        assert recorded is not None, "a session has a build directory"
        files = {
            Path(params["page"] or recorded.with_name("report.html")): render_page,
            Path(params["trace"] or recorded.with_name("trace.json")): render_trace,
        }
        try:
            record = load(recorded)
            texts = {path: render(record) for path, render in files.items()}
        except (RecordError, OSError) as error:
            raise usage_error(str(error)) from None
        except _DAMAGED:
            raise usage_error(f"the record {recorded} is damaged\nrun `doit` again") from None
        for path, text in texts.items():
            try:
                path.write_text(text, "utf-8")
            except OSError as error:
                raise usage_error(format_write_error(path, error)) from None
            self.outstream.write(f"{path}\n")
        return 0
