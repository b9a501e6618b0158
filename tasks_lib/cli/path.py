"""`doit path`: print where an artifact or a tree is. `doit-fetch path` does the same, faster and without a dodo.py."""

from __future__ import annotations

import sys
from typing import Any

from tasks_lib.engine.base_command import OFFLINE, BaseCommand, load_dodo, require_session, usage_error, yield_to_task
from tasks_lib.errors import DefinitionError, FetchError, SettingError, UnknownNameError
from tasks_lib.progress import LineProgress, describe_wait
from tasks_lib.ui.events import write_to_stderr


class PathCommand(BaseCommand):
    """`doit path`."""

    name = "path"
    doc_purpose = "print the path of an artifact or a tree, obtaining it if it is missing"
    doc_usage = "NAME"
    doc_description = (
        "NAME is the name of a definition, or fetch:NAME or toolchain:NAME. The path does not change with the version. "
        "Exit status: 0 success; 1 it cannot be obtained; 3 unknown name or error of the definitions."
    )
    cmd_options = (
        {
            "name": "tree", "short": "", "long": "tree", "type": bool, "default": False,
            "help": "the extracted archive, or the directory of the toolchain",
        },
        OFFLINE,
    )  # fmt: skip

    def execute(self, params: Any, args: list[str]) -> int:
        """Print the path; a task of the dodo.py that is called `path` runs instead.

        Raises:
            InvalidCommand: the command line is wrong, or dodo.py does not use this package; doit prints the message.
        """
        from tasks_lib.project import Project  # loads the steps, which `doit help` does not need

        load_dodo(self.loader, params)
        yield_to_task(self.name, self.loader)
        session = require_session("path NAME")
        if len(args) != 1:
            raise usage_error("`path` needs one name\n`doit help path` shows its options")
        try:
            project = Project(session, LineProgress(write_to_stderr, describe_wait))
            path = project.tree(args[0]) if params["tree"] else project.fetch(args[0])
        except (UnknownNameError, SettingError, DefinitionError) as error:
            raise usage_error(str(error)) from None
        except FetchError as error:
            sys.stderr.write(f"{error}\n")
            return 1
        except KeyboardInterrupt:
            return 130
        self.outstream.write(f"{path.absolute()}\n")
        return 0
