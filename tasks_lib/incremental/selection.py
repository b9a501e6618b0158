"""Select definitions and tasks: those that are named or affected by a change, and their dependencies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks_lib.graph.names import GROUPS

if TYPE_CHECKING:
    from tasks_lib.definitions import Definitions
    from tasks_lib.incremental.snapshot import Snapshot
    from tasks_lib.settings import Settings

#: Names of fetches and of toolchains, in order.
Names = tuple[dict[str, None], dict[str, None]]


def owner_of(task: str) -> tuple[str, str]:
    """Return kind and name of the definition that a task belongs to; ("", "") for other tasks."""
    group, _, rest = task.partition(":")
    if group not in GROUPS or not rest:
        return "", ""
    name, _, inner = rest.partition("/")
    return ("toolchain" if inner or group == "toolchain" else "fetch"), name


def reached(begin: Iterable[str], leads_to: Callable[[str], Iterable[str]]) -> Iterator[str]:
    """Yield everything reachable from the names in `begin`, including them, each once."""
    seen: set[str] = set()
    left = list(begin)
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            left += leads_to(name)
            yield name


def needed(tasks: Mapping[str, Any], selected: Iterable[str]) -> Iterator[Any]:
    """Yield the selected tasks and their dependencies, each once."""
    for name in reached(selected, lambda one: (*tasks[one].task_dep, *tasks[one].setup_tasks)):
        yield tasks[name]


def digests(definitions: Definitions) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return a short digest of each cached fetch and toolchain."""
    return _digests(definitions.fetches), _digests(definitions.toolchains)


def _digests(one: Mapping[str, Any]) -> dict[str, bytes]:
    from tasks_lib.incremental.definition_cache import LazyDefinitions

    if not isinstance(one, LazyDefinitions):
        raise AssertionError("a session caches its definitions")
    return one.digests()


def affected(stamp: Snapshot, changed: list[int], definitions: Definitions, definition_cache: bytes) -> Names:
    """Return the definitions of which any task may be out of date."""
    found: Names = ({}, {})
    touched = {*stamp.open, *(stamp.touched(changed) if changed else ())}
    if stamp.definition_cache != definition_cache:
        others = _others(stamp, definitions)
        found[0].update(dict.fromkeys(others[0]))
        found[1].update(dict.fromkeys(others[1]))
        touched |= {task for task in stamp.names if _is_one_of(task, found)}
    for task in _with_dependents(stamp, touched):
        kind, name = owner_of(task)
        if kind:
            found[0 if kind == "fetch" else 1][name] = None
    known = definitions.fetches, definitions.toolchains
    return (
        {name: None for name in found[0] if name in known[0]},
        {name: None for name in found[1] if name in known[1]},
    )


def _others(stamp: Snapshot, definitions: Definitions) -> tuple[set[str], set[str]]:
    """Return the definitions that were changed, added or removed."""
    changed = []
    for before, now in zip(stamp.digests(), digests(definitions), strict=True):
        changed.append({name for name in before.keys() | now.keys() if before.get(name) != now.get(name)})
    return changed[0], changed[1]


def _is_one_of(task: str, names: Names) -> bool:
    kind, name = owner_of(task)
    return bool(kind) and name in names[0 if kind == "fetch" else 1]


def _with_dependents(stamp: Snapshot, tasks: set[str]) -> Iterable[str]:
    """Return the tasks and their dependents: a changed script changes the keys of its users."""
    users: dict[str, list[str]] = {}
    for task, row in stamp.rows().items() if tasks else ():
        for need in row.needs:
            users.setdefault(need, []).append(task)
    return reached(tasks, lambda task: users.get(task, ()))


def owners(definitions: Definitions, settings: Settings, words: Iterable[str]) -> Names | None:
    """Return the definitions whose tasks are named, None when a word may match other tasks."""
    names: Names = ({}, {})
    for word in words:
        kind, name = owner_of(word)
        meant = [name] if kind else _in_path(settings, word)
        for one in meant:
            if one in definitions.fetches and kind != "toolchain":
                names[0][one] = None
            if one in definitions.toolchains and kind != "fetch":
                names[1][one] = None
        if not any(one in names[0] or one in names[1] for one in meant):
            return None
    return names


def _in_path(settings: Settings, word: str) -> list[str]:
    """Return the definitions that the path of a target may belong to, by the layout of cache and build directory."""
    path = Path(os.path.abspath(word))  # noqa: PTH100  # text only, no file access
    for top in (settings.cache / "artifacts", settings.build / "extracted/.records", settings.build):
        with contextlib.suppress(ValueError):
            first = path.relative_to(top.absolute()).parts[:1]
            return [*first, *(one.removesuffix(".json") for one in first)]
    return []


def closure(definitions: Definitions, fetches: Iterable[str], toolchains: Iterable[str]) -> Names:
    """Return these definitions and everything that they consume or depend on."""

    def consumed(name: str, kind: str) -> list[str]:
        toolchain = definitions.toolchains[name]
        kept = definitions.fetch if kind == "fetch" else definitions.toolchain
        before = [other for one, other in toolchain.dependencies if one == kind]
        return before + [kept(entry.name).name for entry in toolchain.fetches if entry.kind == kind]

    found = dict.fromkeys(reached(toolchains, lambda name: consumed(name, "toolchain")))
    return dict.fromkeys([*fetches, *(one for name in found for one in consumed(name, "fetch"))]), found
