"""Select definitions and tasks: those that are named or affected by a change, and their dependencies."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tasks_lib.graph.names import GROUPS, is_glob

if TYPE_CHECKING:
    from tasks_lib.definitions import Definitions, Image, Toolchain
    from tasks_lib.incremental.definition_cache import DefinitionCache
    from tasks_lib.incremental.snapshot import Snapshot
    from tasks_lib.settings import Settings

#: Names of fetches, toolchains and images, in order.
Names = tuple[dict[str, None], dict[str, None], dict[str, None]]
#: The digests of definitions by name, as `Names`.
Digests = tuple[dict[str, bytes], dict[str, bytes], dict[str, bytes]]
#: Kind -> its place in `Names`.
PLACES: Final = {"fetch": 0, "toolchain": 1, "image": 2}


def owner_of(task: str) -> tuple[str, str]:
    """Return kind and name of the definition that a task belongs to; ("", "") for other tasks."""
    group, _, rest = task.partition(":")
    if group not in GROUPS or not rest:
        return "", ""
    name, _, inner = rest.partition("/")
    if group in ("toolchain", "image"):
        return group, name
    return ("toolchain" if inner else "fetch"), name


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


def digests(definitions: Definitions) -> Digests:
    """Return a short digest of each cached definition."""
    return _digests(definitions.fetches), _digests(definitions.toolchains), _digests(definitions.images)


def no_names() -> Names:
    """Return no names of any kind."""
    return {}, {}, {}


def _digests(one: Mapping[str, Any]) -> dict[str, bytes]:
    compute: Callable[[], dict[str, bytes]] | None = getattr(one, "digests", None)
    if compute is None:
        raise AssertionError("a session caches its definitions")
    return compute()


def affected(stamp: Snapshot, changed: list[int], definitions: Definitions, definition_cache: bytes) -> Names:
    """Return the definitions of which any task may be out of date."""
    found = no_names()
    touched = {*stamp.open, *(stamp.touched(changed) if changed else ())}
    if stamp.definition_cache != definition_cache:
        for names, others in zip(found, _others(stamp, definitions), strict=True):
            names.update(dict.fromkeys(others))
        touched |= {task for task in stamp.names if _is_one_of(task, found)}
    for task in _with_dependents(stamp, touched):
        kind, name = owner_of(task)
        if kind:
            found[PLACES[kind]][name] = None
    for names, known in zip(found, definitions.kinds.values(), strict=True):
        for name in [name for name in names if name not in known]:
            del names[name]
    return found


def _others(stamp: Snapshot, definitions: Definitions) -> Iterator[set[str]]:
    """Yield the definitions of each kind that were changed, added or removed."""
    for before, now in zip(stamp.digests(), digests(definitions), strict=True):
        yield {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}


def _is_one_of(task: str, names: Names) -> bool:
    kind, name = owner_of(task)
    return bool(kind) and name in names[PLACES[kind]]


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
    names = no_names()
    for word in words:
        meant = _matching(definitions, definition_cache, word) if is_glob(word) else _named(definitions, settings, word)
        if not any(meant) and not is_task_glob(word):
            return None
        for known, new in zip(names, meant, strict=True):
            known.update(new)
    return names


def is_task_glob(word: str) -> bool:
    """Return whether a glob begins with the name of a group, so that it can mean nothing but tasks of this group."""
    return is_glob(word) and _fixed(word).startswith(tuple(f"{group}:" for group in GROUPS))


def _named(definitions: Definitions, settings: Settings, word: str) -> Names:
    kind, name = owner_of(word)
    names = no_names()
    for one in [name] if kind else [word, *_in_path(settings, word)]:
        for other, known in definitions.kinds.items():
            if one in known and kind in ("", other):
                names[PLACES[other]][one] = None
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
    names = no_names()
    if any(map(match, GROUPS)) or ("/" in glob and not is_task_glob(glob)):
        return names
    fixed = _fixed(glob)
    for group in GROUPS:
        start = f"{group}:"
        if not (start.startswith(fixed) or fixed.startswith(start)):
            continue
        kind = group if group in PLACES else "fetch"
        names[PLACES[kind]].update((name, None) for name in definitions.kinds[kind] if match(start + name))
        if group == "extract":
            names[1].update(
                (user, None)
                for need, users in definition_cache.consumers.items()
                for kind, user in map(owner_of, users)
                if kind == "toolchain"
                and user in definitions.toolchains
                and match(f"{start}{user}/{need.partition(':')[2]}")
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


def closure(
    definitions: Definitions, fetches: Iterable[str], toolchains: Iterable[str], images: Iterable[str] = ()
) -> Names:
    """Return these definitions and everything that they consume or depend on."""

    def consumed(consumer: Toolchain | Image, kind: str) -> list[str]:
        kept = definitions.fetch if kind == "fetch" else definitions.toolchain
        before = [other for one, other in consumer.dependencies if one == kind]
        return before + [kept(entry.name).name for entry in consumer.fetches if entry.kind == kind]

    chosen = dict.fromkeys(images)
    users = [definitions.images[name] for name in chosen]
    begin = [*toolchains, *(name for user in users for name in consumed(user, "toolchain"))]
    found = dict.fromkeys(reached(begin, lambda name: consumed(definitions.toolchains[name], "toolchain")))
    consumers: list[Toolchain | Image] = [*users, *(definitions.toolchains[name] for name in found)]
    return dict.fromkeys([*fetches, *(one for user in consumers for one in consumed(user, "fetch"))]), found, chosen


def in_order(definitions: Definitions, names: Names) -> Names:
    """Return the names in the order of the definitions, in which a glob lists what it matches."""
    fetches, toolchains, images = names
    return (
        {name: None for name in definitions.fetches if name in fetches},
        {name: None for name in definitions.toolchains if name in toolchains},
        {name: None for name in definitions.images if name in images},
    )
