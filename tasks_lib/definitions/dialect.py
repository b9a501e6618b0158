"""The dialect of Taskgraph's fetch and toolchain kinds, with mirrors and file URLs: what a file of definitions holds.

Every problem of every file is found in one go. A key or a type that is not known is refused by name. Pure: no I/O.
"""

from __future__ import annotations

from typing import Any, Final

from tasks_lib.definitions.fetches import FETCH
from tasks_lib.definitions.tables import schema_of
from tasks_lib.definitions.toolchains import TOOLCHAIN

#: Keys of a task that mean something to Taskcluster and nothing here.
#: Source: taskgraph task, run and toolchain schemas.
IGNORED: Final = (
    r"^(treeherder|docker-image|expires-after|worker|worker-.*|run-on-.*|run-task.*|scopes|routes|extra|index|priority|tier)$",
    r"^(label|dependencies|soft-dependencies|if-dependencies|optimization|when|shipping-.*|always-target|tags)$",
    r"^(attributes|task-from|use-.*|needs-sccache|deadline-after|from-deps|requires|copy-attributes|retries)$",
    r"^(python-version|local-.*|require-signing|secrets|platform|job-symbol|trigger-.*|stable-.*)$",
)
#: Keys of `kind.yml` beside the tasks. Source: taskgraph `kind` schema.
KIND_IGNORED: Final = (
    r"^(loader|transforms|kind-dependencies|kind-.*|not-for-locales|only-for-.*|defaults|attributes|.*-defaults|.*-from)$",
)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of one definition file of either kind."""
    kinds = {"fetch": schema_of(FETCH, IGNORED), "toolchain": schema_of(TOOLCHAIN, IGNORED)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "doit-fetch definitions: names of fetches (fetch/*.yml) or of toolchains (toolchain/*.yml)",
        "type": "object",
        "properties": {"task-defaults": {"type": "object"}, "job-defaults": {"type": "object"}},
        "additionalProperties": {"anyOf": [{"$ref": f"#/$defs/{kind}"} for kind in kinds]},
        "$defs": kinds,
    }
