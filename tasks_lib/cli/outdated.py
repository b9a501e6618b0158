"""`doit outdated`: which definitions have a newer version."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tasks_lib.cli.project_command import DefinitionCommand
from tasks_lib.engine.base_command import JSON, OFFLINE, format_option
from tasks_lib.pins.outdated import look_up
from tasks_lib.session import Session
from tasks_lib.ui.events import stderr_progress
from tasks_lib.units import counted

_FIELDS = ("name", "have", "newest", "where", "evidence")


class OutdatedCommand(DefinitionCommand):
    """`doit outdated`."""

    name = "outdated"
    doc_usage = "[NAME...]"
    doc_description = (
        "Without names: all definitions. Each project is asked once; answers are kept for an hour. "
        "Exit status: 0 nothing is older; 1 something is older; 2 unusable definitions; 3 invalid command line; "
        "4 something could not be looked up, whatever the rest."
    )
    cmd_options = (format_option(("text", "a table of what is older"), ("json", "all definitions")), JSON, OFFLINE)

    def answer(self, session: Session, fetches: Sequence[Any], params: Any) -> int:
        """Write the newest versions; return the exit status."""
        rows = look_up(session.context, fetches, stderr_progress())
        older = [row for row in rows if row.state == "older"]
        unknown = [row for row in rows if row.state in ("unknown", "unlisted")]
        if params["json"] or params["format"] == "json":
            listed = [{field: getattr(row, field) for field in _FIELDS} for row in rows]
            self.outstream.write(f"{json.dumps(listed, indent=2)}\n")
        else:
            if older or unknown:
                self.write_table([[field.upper() for field in _FIELDS], *([*row[:5]] for row in older + unknown)])
            uncovered = sum(row.state == "not covered" for row in rows)
            self.outstream.write(
                f"{counted(len(rows), 'definition')}: {len(older)} older, {len(unknown)} could not be looked up, "
                f"{uncovered} not covered (no version)\n"
            )
        return 4 if unknown else int(bool(older))
