"""`doit prove`: build without a network, in an empty cache, from an export."""

from __future__ import annotations

import sys
from typing import Any

from tasks_lib.cli.project_command import ProjectCommand
from tasks_lib.engine.base_command import from_start, option
from tasks_lib.engine.downloads import IS_MISSING
from tasks_lib.errors import escape_lines
from tasks_lib.export.proof import prove
from tasks_lib.progress import Silent
from tasks_lib.project import Project
from tasks_lib.session import Session


class ProveCommand(ProjectCommand):
    """`doit prove`."""

    name = "prove"
    doc_usage = "[NAME ...]"
    doc_description = (
        "NAME is the name of a definition or a glob; without names, what `doit` makes. The build runs in a network "
        "namespace, in temporary directories. "
        "Exit status: 0 no origin is needed; 1 downloads are missing, or the build failed; 3 error of the definitions."
    )
    cmd_options = (
        option(
            "from",
            "what `doit export` wrote, or its URL (default: the stores of the settings, else the cache)",
            metavar="DIR|URL",
            name="source",
        ),
    )

    def work(self, session: Session, params: Any, args: list[str]) -> int:
        """Prove."""
        source = params["source"]
        proof = prove(Project(session, Silent()), args, source, Silent(), IS_MISSING, from_start(""))
        if proof.weakness:
            sys.stderr.write(
                f"this proof is weaker: no network namespace ({proof.weakness}); only sockets of Python were denied\n"
            )
        place = source or ("the stores" if session.settings.stores else "the cache")
        if proof.holds:
            self.outstream.write(f"proven: everything is built from {place}, without a network\n")
            return 0
        for name in proof.missing:
            self.outstream.write(f"missing: {name}\n")
        if not proof.missing:
            sys.stderr.write(f"{escape_lines(proof.output)}\n")
        self.outstream.write(f"not proven: {_reason(len(proof.missing), place)}\n")
        return 1


def _reason(missing: int, place: str) -> str:
    if not missing:
        return "the build fails without a network"
    return f"{missing} {'download is' if missing == 1 else 'downloads are'} not in {place}"
