"""`doit report`: the last run as an HTML page and as a trace for Perfetto."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from tasks_lib.engine.base_command import (
    BaseCommand,
    format_write_error,
    load_dodo,
    option,
    require_session,
    usage_error,
    yield_to_task,
)
from tasks_lib.errors import escape_text
from tasks_lib.report.record import RecordError, load
from tasks_lib.report.render import render_page, render_trace

__all__ = ["ReportCommand"]

_OPTIONS: Final = (
    option("page", "path of the page [default: report.html in the build directory]", metavar="FILE", short="o"),
    option("trace", "path of the Chrome trace [default: trace.json in the build directory]", metavar="FILE"),
)


class ReportCommand(BaseCommand):
    """`doit report`."""

    name = "report"
    doc_usage = ""
    doc_description = "The page needs no network; open the trace in Perfetto."
    cmd_options = _OPTIONS

    def execute(self, params: Any, args: list[str]) -> int:
        """Write both files and print their paths; load no tasks.

        Raises:
            InvalidCommand: nothing is recorded, or a file cannot be written; doit prints the message.
        """
        load_dodo(self.loader, params)
        yield_to_task(self.name, self.loader)
        if args:
            raise usage_error(f"`report` takes no task names, got {escape_text(args[0])!r}\nleave it out")
        self.loader.load_doit_config()
        recorded = require_session(self.name).output_settings.record
        assert recorded is not None, "a session has a build directory"
        files = {
            Path(params["page"] or recorded.with_name("report.html")): render_page,
            Path(params["trace"] or recorded.with_name("trace.json")): render_trace,
        }
        try:
            record = load(recorded)
            texts = {path: written(record) for path, written in files.items()}
        except (RecordError, OSError) as error:
            raise usage_error(str(error)) from None
        except (
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
        ):  # not written by doit-fetch, which writes atomically
            raise usage_error(f"the record {recorded} is damaged\nrun `doit` again") from None
        for path, text in texts.items():
            try:
                path.write_text(text, "utf-8")
            except OSError as error:
                raise usage_error(format_write_error(path, error)) from None
            self.outstream.write(f"{path}\n")
        return 0
