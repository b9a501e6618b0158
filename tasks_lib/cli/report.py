"""`doit report`: the last run as an HTML page and as a trace for Perfetto."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from doit.exceptions import InvalidCommand

from tasks_lib.engine.base_command import BaseCommand, format_write_error, load_dodo
from tasks_lib.report.record import RecordError, load
from tasks_lib.session import current_session

__all__ = ["ReportCommand"]

_OPTIONS: Final = (
    {
        "name": "page",
        "short": "o",
        "long": "page",
        "metavar": "FILE",
        "type": str,
        "default": "",
        "help": "path of the page [default: report.html in the build directory]",
    },
    {
        "name": "trace",
        "short": "",
        "long": "trace",
        "metavar": "FILE",
        "type": str,
        "default": "",
        "help": "path of the Chrome trace [default: trace.json in the build directory]",
    },
)


class ReportCommand(BaseCommand):
    """`doit report`."""

    name = "report"
    doc_purpose = "write a page and a trace of the last run"
    doc_usage = ""
    doc_description = "The page needs no network; open the trace in Perfetto."
    cmd_options = _OPTIONS

    def execute(self, params: Any, args: list[str]) -> int:
        """Write both files and print their paths; load no tasks.

        Raises:
            InvalidCommand: nothing is recorded, or a file cannot be written; doit prints the message.
        """
        from tasks_lib.report import page, trace  # not needed by `doit help`, which imports this module

        if args:
            raise _error(f"`report` takes no task names, got {args[0]!r}")
        load_dodo(self.loader, params)
        self.loader.load_doit_config()
        session = current_session()
        recorded = session.surroundings.record if session is not None else None
        if recorded is None:
            raise _error("this dodo.py does not use doit_fetch, which records runs")
        files = {
            Path(params["page"] or recorded.with_name("report.html")): page.render_page,
            Path(params["trace"] or recorded.with_name("trace.json")): trace.render_trace,
        }
        try:
            record = load(recorded)
            texts = {path: written(record) for path, written in files.items()}
        except (RecordError, OSError) as error:
            raise _error(str(error)) from None
        except (
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
        ):  # not written by doit-fetch, which writes atomically
            raise _error(f"the record {recorded} is damaged\nrun `doit` again") from None
        for path, text in texts.items():
            try:
                path.write_text(text, "utf-8")
            except OSError as error:
                raise _error(format_write_error(path, error)) from None
            self.outstream.write(f"{path}\n")
        return 0


def _error(reason: str) -> InvalidCommand:
    return InvalidCommand(reason)  # type: ignore[no-untyped-call]  # doit has no types
