"""`doit path`: print where an artifact or a tree is. `doit-fetch path` does the same, faster and without a dodo.py."""

from __future__ import annotations

from typing import Any

from tasks_lib.cli.project_command import ProjectCommand
from tasks_lib.engine.base_command import OFFLINE, flag, usage_error
from tasks_lib.project import Project
from tasks_lib.session import Session
from tasks_lib.ui.events import stderr_progress


class PathCommand(ProjectCommand):
    """`doit path`."""

    name = "path"
    doc_usage = "NAME"
    doc_description = (
        "NAME is the name of a definition, or fetch:NAME, toolchain:NAME or image:NAME. "
        "The path does not change with the version. "
        "Exit status: 0 success; 1 it cannot be obtained; 3 unknown name or error of the definitions."
    )
    cmd_options = (
        flag("tree", "the extracted archive, or the directory of the toolchain"),
        OFFLINE,
    )

    def work(self, session: Session, params: Any, args: list[str]) -> int:
        """Print the path."""
        if len(args) != 1:
            raise usage_error("`path` needs one name\n`doit help path` shows its options")
        project = Project(session, stderr_progress())
        path = project.tree(args[0]) if params["tree"] else project.fetch(args[0])
        self.outstream.write(f"{path.absolute()}\n")
        return 0
