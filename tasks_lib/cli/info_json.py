"""`doit info --format json`: the facts about a task as one JSON object, with the same keys for every task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from tasks_lib.definitions import Definitions, Fetch
from tasks_lib.graph.actions import output_of, step_of
from tasks_lib.graph.names import GROUPS
from tasks_lib.graph.task_info import list_urls
from tasks_lib.steps import Artifact, Delivery, ImageBuild, ToolchainBuild

#: Every key, in order, and its value for a task that has none.
EMPTY: Final[Mapping[str, Any]] = {
    "name": "",
    "kind": None,
    "definition": None,
    "description": "",
    "defined": None,
    "aliases": [],
    "path": None,
    "sha256": None,
    "size": None,
    "tree": None,
    "state": None,
    "reasons": [],
    "urls": [],
    "recipe_key": None,
    "provenance": {},
    "stores": None,
    "targets": [],
    "task_dep": [],
    "used_by": [],
}


def describe_task(
    task: Any,
    definitions: Definitions,
    *,
    state: str | None,
    reasons: list[str],
    users: Iterable[str],
    history: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the facts about a task.

    A task of the user has the facts that doit knows. `state` is doit's name for its state, None if it is not asked for;
    `reasons` say why it would run; `users` depend on it; `history` is the recorded provenance of its output.
    """
    return {
        **EMPTY,
        "name": task.name,
        "description": task.doc or "",
        "state": state,
        "reasons": reasons,
        "targets": list(task.targets),
        "task_dep": list(task.task_dep),
        "used_by": sorted(users),
        **_describe_definition(task, definitions),
        **output_of(task),
        "provenance": {name: value for name, value in history.items() if not name.startswith("made ")},
    }


def _describe_definition(task: Any, definitions: Definitions) -> dict[str, Any]:
    step = step_of(task)
    kind = task.name.partition(":")[0]
    if step is None or kind not in GROUPS:
        return {}
    first, made = step.arguments[1], step.arguments[-1]
    found = {"kind": kind, "recipe_key": step.key}
    if isinstance(made, ToolchainBuild):
        one = made.toolchain
        return {**found, "definition": one.name, "defined": f"{one.file}:{one.line}", "aliases": list(one.aliases)}
    if isinstance(made, ImageBuild):
        return {**found, "definition": made.image.name, "defined": f"{made.image.file}:{made.image.line}"}
    if isinstance(made, Delivery) and made.entry.kind == "toolchain":
        return {**found, "definition": made.entry.name}
    fetch = first if isinstance(first, Fetch) else definitions.fetch(made.entry.name)
    expected = made.integrity if isinstance(made, Artifact) else None
    facts = {"sha256": expected.digest.hex, "size": expected.size} if expected is not None else {}
    return {
        **found,
        **facts,
        "definition": fetch.name,
        "defined": f"{fetch.file}:{fetch.line}",
        "aliases": [fetch.alias] if fetch.alias else [],
        "urls": list_urls(fetch),
    }
