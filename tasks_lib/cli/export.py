"""`doit export`: give downloads of the cache to other programs, in the layout that each of them reads."""

from __future__ import annotations

import sys
from typing import Any, Final

from tasks_lib.engine.base_command import BaseCommand, from_start, load_dodo, usage_error, yield_to_task
from tasks_lib.errors import DefinitionError, FetchError, SettingError, UnknownNameError, escape_lines
from tasks_lib.session import current_session

#: Definitions that are left out and shown by name.
_MAX_SHOWN: Final = 5


class ExportCommand(BaseCommand):
    """`doit export`."""

    name = "export"
    doc_purpose = "give downloads to other programs: a directory in the layout of each"
    doc_usage = "LAYOUT DIR [NAME ...]"
    doc_description = (
        "LAYOUT is url, cas, sha256sum, distdir, bazel, conan, nix, meson, vcpkg, find-links, dotslash or cmake. "
        "NAME is the name of a definition or a glob; a toolchain means its fetches; without names, all. "
        "What the cache lacks is fetched first. Files of others in DIR stay. "
        "Prints the line that configures the program. Exit status: 0 success; 1 failure; 3 error of the definitions."
    )
    cmd_options = (
        {
            "name": "url_base", "short": "", "long": "url-base", "metavar": "URL", "type": str, "default": "",
            "help": "the URL at which DIR is served (default: its file: URL)",
        },
    )  # fmt: skip

    def execute(self, params: Any, args: list[str]) -> int:
        """Export; a task of the dodo.py that is called `export` runs instead.

        Raises:
            InvalidCommand: the command line or the definitions are wrong; doit prints the message.
        """
        load_dodo(self.loader, params)
        yield_to_task(self.name, self.loader)
        from doit_fetch import DOIT_CONFIG  # noqa: F401  # creates the session, also for a dodo.py without it
        from tasks_lib.export import export  # loads the steps, which `doit help` does not need
        from tasks_lib.progress import LineProgress, describe_wait
        from tasks_lib.project import Project
        from tasks_lib.ui.events import write_to_stderr

        if len(args) < 2:
            raise usage_error("`export` needs a layout and a directory\n`doit help export` shows the layouts")
        session = current_session()
        assert session is not None
        progress = LineProgress(write_to_stderr, describe_wait)
        try:
            layout, directory, *words = args
            done = export(
                Project(session, progress), layout, from_start(directory), words, params["url_base"], progress
            )
        except (UnknownNameError, SettingError, DefinitionError) as error:
            raise usage_error(escape_lines(str(error))) from None
        except FetchError as error:
            sys.stderr.write(f"{escape_lines(str(error))}\n")
            return 1
        except KeyboardInterrupt:
            return 130
        for line in _shortened(done.left_out):
            sys.stderr.write(f"not exported: {line}\n")
        written, unchanged, removed = done.changes
        sys.stderr.write(f"{layout}: {written} files written, {unchanged} unchanged, {removed} removed\n")
        self.outstream.write(f"{done.line}\n")
        return 0


def _shortened(lines: Any) -> list[str]:
    more = len(lines) - _MAX_SHOWN
    return [*lines[:_MAX_SHOWN], *([f"and {more} more"] if more > 0 else [])]
