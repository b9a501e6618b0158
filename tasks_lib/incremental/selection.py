"""Select definitions and tasks: those that are named or affected by a change, and their dependencies."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks_lib.graph.names import GROUPS, is_glob

if TYPE_CHECKING:
    from tasks_lib.definitions import Definitions
    from tasks_lib.incremental.definition_cache import DefinitionCache
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
    compute: Callable[[], dict[str, bytes]] | None = getattr(one, "digests", None)
    if compute is None:
        raise AssertionError("a session caches its definitions")
    return compute()


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


def owners(
    definitions: Definitions, settings: Settings, definition_cache: DefinitionCache, words: Iterable[str]
) -> Names | None:
    """Return the definitions whose tasks are named or match a glob, None when a word may mean other tasks."""
    names: Names = ({}, {})
    for word in words:
        meant = _matching(definitions, definition_cache, word) if is_glob(word) else _named(definitions, settings, word)
        if not any(meant) and not is_task_glob(word):
            return None
        names[0].update(meant[0])
        names[1].update(meant[1])
    return names


def is_task_glob(word: str) -> bool:
    """Return whether a glob begins with the name of a group, so that it can mean nothing but tasks of this group."""
    return is_glob(word) and _fixed(word).startswith(tuple(f"{group}:" for group in GROUPS))


def _named(definitions: Definitions, settings: Settings, word: str) -> Names:
    kind, name = owner_of(word)
    names: Names = ({}, {})
    for one in [name] if kind else [word, *_in_path(settings, word)]:
        if one in definitions.fetches and kind != "toolchain":
            names[0][one] = None
        if one in definitions.toolchains and kind != "fetch":
            names[1][one] = None
    return names


def _fixed(glob: str) -> str:
    """Return the text before the first wildcard."""
    return re.split(r"[*?[]", glob, maxsplit=1)[0]


def _matching(definitions: Definitions, definition_cache: DefinitionCache, glob: str) -> Names:
    """Return the definitions of which a task may match, none if a whole group or the path of a target may match, too.

    Only names are compared: no definition is decoded. The steps of a fetch are known once it is decoded, so that
    `repack:x*` returns every fetch with such a name.
    """
    match = re.compile(fnmatch.translate(glob)).match
    names: Names = ({}, {})
    if any(map(match, GROUPS)) or ("/" in glob and not is_task_glob(glob)):
        return names
    fixed = _fixed(glob)
    for group in GROUPS:
        start = f"{group}:"
        if not (start.startswith(fixed) or fixed.startswith(start)):
            continue
        at, known = (1, definitions.toolchains) if group == "toolchain" else (0, definitions.fetches)
        names[at].update((name, None) for name in known if match(start + name))
        if group == "extract":
            names[1].update(
                (user, None)
                for need, users in definition_cache.consumers.items()
                for user in users
                if user in definitions.toolchains and match(f"{start}{user}/{need.partition(':')[2]}")
            )
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


def in_order(definitions: Definitions, names: Names) -> Names:
    """Return the names in the order of the definitions, in which a glob lists what it matches."""
    fetches, toolchains = names
    return (
        {name: None for name in definitions.fetches if name in fetches},
        {name: None for name in definitions.toolchains if name in toolchains},
    )
