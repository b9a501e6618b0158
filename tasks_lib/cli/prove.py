"""`doit prove`: build without a network, in an empty cache, from an export."""

from __future__ import annotations

import sys
from typing import Any

from tasks_lib.engine.base_command import BaseCommand, from_start, load_dodo, usage_error, yield_to_task
from tasks_lib.errors import DefinitionError, FetchError, SettingError, UnknownNameError, escape_lines
from tasks_lib.session import current_session


class ProveCommand(BaseCommand):
    """`doit prove`."""

    name = "prove"
    doc_purpose = "build in an empty cache without a network, to show that no origin is needed"
    doc_usage = "[NAME ...]"
    doc_description = (
        "NAME is the name of a definition or a glob; without names, what `doit` makes. The build runs in a network "
        "namespace, in temporary directories. "
        "Exit status: 0 no origin is needed; 1 downloads are missing, or the build failed; 3 error of the definitions."
    )
    cmd_options = (
        {
            "name": "source", "short": "", "long": "from", "metavar": "DIR|URL", "type": str, "default": "",
            "help": "what `doit export` wrote, or its URL (default: the stores of the settings, else the cache)",
        },
    )  # fmt: skip

    def execute(self, params: Any, args: list[str]) -> int:
        """Prove; a task of the dodo.py that is called `prove` runs instead.

        Raises:
            InvalidCommand: the command line or the definitions are wrong; doit prints the message.
        """
        load_dodo(self.loader, params)
        yield_to_task(self.name, self.loader)
        from doit_fetch import DOIT_CONFIG  # noqa: F401  # creates the session, also for a dodo.py without it
        from tasks_lib.engine.offline import IS_MISSING
        from tasks_lib.export.proof import prove  # loads the steps, which `doit help` does not need
        from tasks_lib.progress import Silent
        from tasks_lib.project import Project

        session = current_session()
        assert session is not None
        source = params["source"]
        try:
            proof = prove(Project(session, Silent()), args, source, Silent(), IS_MISSING, from_start(""))
        except (UnknownNameError, SettingError, DefinitionError) as error:
            raise usage_error(escape_lines(str(error))) from None
        except FetchError as error:
            sys.stderr.write(f"{escape_lines(str(error))}\n")
            return 1
        except KeyboardInterrupt:
            return 130
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
