"""Checks across all definitions: unknown names, alias conflicts, cycles, and artifacts delivered twice.

Pure: no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping
from typing import Final

from tasks_lib.definitions.values import (
    Debian,
    Definitions,
    Fetch,
    FetchesEntry,
    Image,
    RefusedDefinition,
    StaticUrl,
    Toolchain,
)
from tasks_lib.errors import Problem, suggest
from tasks_lib.formats import Reshape

Aliases = dict[str, str]
AliasTables = dict[str, dict[str, str]]
Report = Callable[[Fetch | Toolchain, Problem], None]
#: Maximum number of names that are compared with unknown ones; each comparison takes up to twenty microseconds.
_MAX_COMPARED: Final = 200_000


def cross_check(
    fetches: Mapping[str, Fetch],
    toolchains: Mapping[str, Toolchain],
    images: Mapping[str, Image],
    aliased: Collection[str],
    trees: Collection[str],
    problems: list[Problem],
) -> tuple[Aliases, Aliases]:
    """Return the mappings from alias to name for fetches and for toolchains; append conflicts to `problems`.

    Only fetches in `aliased` may have an alias. `find_unavailable` has removed the conflicts of Taskgraph trees, whose
    files are `trees`.
    """
    is_complete = not problems  # a missing name may only be a consequence of another broken definition
    aliases = _all_aliases(fetches, aliased, toolchains, lambda _one, problem: problems.append(problem))
    checks = _UseChecks(fetches, toolchains, aliases)
    own = [toolchain for toolchain in toolchains.values() if toolchain.file not in trees]
    for toolchain in own:
        if is_complete:
            problems += checks.check_entries(toolchain)
        problems += checks.check_places(toolchain)
    for image in images.values() if is_complete else ():
        problems += checks.check_image(image)
    if own and is_complete and not problems and (cycle := next(_cycles(toolchains, checks.names), [])):
        problems.append(_cycle_problem(toolchains, cycle))
    return aliases


def find_unavailable(
    fetches: MutableMapping[str, Fetch],
    toolchains: MutableMapping[str, Toolchain],
    trees: Collection[str],
    known: Mapping[str, RefusedDefinition],
) -> Iterator[tuple[str, str, Problem]]:
    """Remove the definitions of Taskgraph trees that conflict with others, or need what does not exist here.

    Yield task, name and problem of each. What needs a removed definition is removed, too.

    Args:
        fetches: by name; modified in place.
        toolchains: by name; modified in place.
        trees: files that belong to a Taskgraph tree.
        known: definitions that are already refused, by task.
    """
    if not trees:
        return
    conflicts: list[tuple[Fetch | Toolchain, Problem]] = []
    _all_aliases(fetches, fetches, toolchains, lambda one, problem: conflicts.append((one, problem)))
    aliases = _all_aliases(fetches, fetches, toolchains, lambda _one, _problem: None)
    checks = _UseChecks(fetches, toolchains, aliases)
    for toolchain in toolchains.values():
        own = [*checks.check_entries(toolchain), *checks.check_places(toolchain)]
        needed = [f"{kind}:{name}" for kind, name in _needs(toolchain) if f"{kind}:{name}" in known]
        if own and needed:
            own[0] = own[0]._replace(key=toolchain.name, reason=f"it needs {min(needed)}, which is refused", hint="")
        conflicts += [(toolchain, problem) for problem in own[:1]]
    conflicts = [(one, problem) for one, problem in conflicts if one.file in trees]
    users = _users(toolchains, checks.names)
    yield from _removed(conflicts, fetches, toolchains, users)
    for cycle in _cycles(toolchains, checks.names):
        problem = _cycle_problem(toolchains, cycle)
        if problem.file not in trees:
            return
        yield from _removed([(toolchains[cycle[0]], problem)], fetches, toolchains, users)


def remove_toolchains(
    problems: Mapping[str, Problem], toolchains: MutableMapping[str, Toolchain], definitions: Definitions
) -> Iterator[tuple[str, str, Problem]]:
    """Remove the toolchains that have these problems, by name, and their users; yield task, name and problem of each.

    Args:
        problems: by name of the toolchain.
        toolchains: by name; modified in place.
        definitions: that the toolchains belong to.
    """
    aliases = dict(definitions._fetch_aliases), dict(definitions._toolchain_aliases)
    names = _names(definitions.fetches, toolchains, aliases)
    conflicts = [(toolchains[name], problem) for name, problem in problems.items()]
    yield from _removed(conflicts, {}, toolchains, _users(toolchains, names))


def _removed(
    conflicts: Iterable[tuple[Fetch | Toolchain, Problem]],
    fetches: MutableMapping[str, Fetch],
    toolchains: MutableMapping[str, Toolchain],
    users: Mapping[str, list[str]],
) -> Iterator[tuple[str, str, Problem]]:
    """Remove the definitions with these problems and their users; yield task, name and problem of each."""
    left = list(conflicts)
    for one, problem in left:  # users are appended
        kind = "fetch" if isinstance(one, Fetch) else "toolchain"
        task, known = f"{kind}:{one.name}", fetches if kind == "fetch" else toolchains
        if one.name not in known:
            continue
        del known[one.name]
        yield task, one.name, problem
        for user in users.get(task, ()):
            if user in toolchains:
                other = toolchains[user]
                reason = f"it needs {task}, which is refused"
                left.append((other, Problem(other.file, other.line, user, reason, "")))


def _users(toolchains: Mapping[str, Toolchain], names: AliasTables) -> dict[str, list[str]]:
    """Return the toolchains that need each `fetch:NAME` and `toolchain:NAME`."""
    users: dict[str, list[str]] = {}
    for toolchain in toolchains.values():
        for kind, name in _needs(toolchain):
            users.setdefault(f"{kind}:{names[kind].get(name, name)}", []).append(toolchain.name)
    return users


def _needs(toolchain: Toolchain) -> list[tuple[str, str]]:
    """Return kind and name, or alias, of the definitions that a toolchain consumes or depends on."""
    return [*((entry.kind, entry.name) for entry in toolchain.fetches), *toolchain.dependencies]


def _all_aliases(
    fetches: Mapping[str, Fetch], aliased: Collection[str], toolchains: Mapping[str, Toolchain], report: Report
) -> tuple[Aliases, Aliases]:
    named = ((fetch, (fetch.alias,)) for name in fetches if name in aliased and (fetch := fetches[name]).alias)
    others = ((one, one.aliases) for one in toolchains.values() if one.aliases)
    return (
        _aliases(fetches, named, "fetch-alias", report),
        _aliases(toolchains, others, "run.toolchain-alias", report),
    )


def _names(fetches: Iterable[str], toolchains: Iterable[str], aliases: tuple[Aliases, Aliases]) -> AliasTables:
    return {
        "fetch": {name: name for name in fetches} | aliases[0],
        "toolchain": {name: name for name in toolchains} | aliases[1],
    }


def _problem(one: Fetch | Toolchain | Image, key: str, reason: str, hint: str, line: int = 0) -> Problem:
    return Problem(one.file, line or one.line, f"{one.name}.{key}", reason, hint)


def _aliases(
    known: Iterable[str],
    named: Iterable[tuple[Fetch | Toolchain, tuple[str, ...]]],
    key: str,
    report: Report,
) -> Aliases:
    names = set(known)
    aliases: Aliases = {}
    for one, own in named:
        for alias in own:
            if alias in names:
                reason = f"alias {alias!r} is also the name of a definition"
                report(one, _problem(one, key, reason, "choose another alias"))
            elif alias in aliases:
                reason = f"{alias!r} is also an alias of {aliases[alias]}"
                report(one, _problem(one, key, reason, "choose another alias"))
            else:
                aliases[alias] = one.name
    return aliases


class _UseChecks:
    """Checks of what toolchains and images use; each yields its problems."""

    def __init__(
        self, fetches: Mapping[str, Fetch], toolchains: Mapping[str, Toolchain], aliases: tuple[Aliases, Aliases]
    ) -> None:
        self._fetches, self._toolchains = fetches, toolchains
        self.names = _names(fetches, toolchains, aliases)
        self._left = _MAX_COMPARED

    def check_entries(self, toolchain: Toolchain) -> Iterator[Problem]:
        """Yield the fetches and dependencies of a toolchain that do not exist."""
        for entry in toolchain.fetches:
            if fault := self._entry_fault(entry):
                yield _problem(toolchain, f"fetches.{entry.kind}", *fault, entry.line)
        for kind, name in toolchain.dependencies:
            if name not in (self._fetches if kind == "fetch" else self._toolchains):
                reason = f"the task '{kind}-{name}' does not exist here"
                yield _problem(toolchain, "dependencies", reason, self._hint(name, kind))

    def check_image(self, image: Image) -> Iterator[Problem]:
        """Yield what is wrong with the base, the layers and the archive of an image."""
        yield from self._check_archive(image)
        base = self._fetches.get(self.names["fetch"].get(image.base, ""))
        if image.base and base is None:
            reason, hint = f"unknown fetch {image.base!r}", self._hint(image.base, "fetch")
            yield _problem(image, "base", reason, hint, image.base_line)
        elif base is not None and not isinstance(base.source, Debian):
            reason, hint = f"{image.base!r} is not a fetch of type debian", "list it in a layer"
            yield _problem(image, "base", reason, hint, image.base_line)
        for at, layer in enumerate(image.layers, 1):
            seen: set[str] = set()
            for entry in layer.fetches:
                key, name = f"layers.{at}", self.names[entry.kind].get(entry.name, entry.name)
                if fault := self._entry_fault(entry):
                    yield _problem(image, key, *fault, entry.line)
                elif entry.delivery == "place" and (keys := _unapplied_keys(self._fetches.get(name))):
                    reason = f"{entry.name!r} is placed as it was downloaded, without {keys}"
                    yield _problem(image, key, reason, "extract it", entry.line)
                elif name in seen:
                    yield _problem(image, key, f"{entry.name!r} is listed twice", "remove one", entry.line)
                seen.add(name)

    def _check_archive(self, image: Image) -> Iterator[Problem]:
        """Yield artifacts of another kind with the name, and so with the path, of the archive of an image."""
        for kind, known in (("fetch", self._fetches), ("toolchain", self._toolchains)):
            if image.name in known and self._artifact_name(kind, image.name) == image.artifact_name:
                reason = f"the artifact of {kind}:{image.name} is {image.artifact_name!r}, too"
                yield Problem(image.file, image.line, image.name, reason, "rename the image")

    def check_places(self, toolchain: Toolchain) -> Iterator[Problem]:
        """Yield artifacts that would be delivered twice; extraction detects archives whose entries collide."""
        seen: set[str] = set()
        placed: dict[str, str] = {}
        for entry in toolchain.fetches:
            name = self.names[entry.kind].get(entry.name, entry.name)
            key = f"fetches.{entry.kind}"
            if name in seen:
                yield _problem(toolchain, key, f"{entry.name!r} is listed twice", "remove one", entry.line)
            seen.add(name)
            if entry.delivery != "place":
                continue
            if entry.kind == "fetch" and (keys := _unapplied_keys(self._fetches.get(name))):
                reason = f"{entry.name!r} is placed as it was downloaded, without {keys}"
                hint = "set `artifact-name: NAME.tar.zst` on it, or extract it"
                yield _problem(toolchain, key, reason, hint, entry.line)
            file = f"{entry.dest}/" if entry.dest else ""
            file += self._artifact_name(entry.kind, name)
            if file in placed:
                reason = f"{placed[file]} and {entry.name} are both placed at {file!r}"
                yield _problem(toolchain, key, reason, "set `dest:` on one of them", entry.line)
            placed[file] = entry.name

    def _entry_fault(self, entry: FetchesEntry) -> tuple[str, str] | None:
        """Return why an artifact does not exist, with a hint."""
        known = self.names[entry.kind]
        if entry.name not in known:
            return f"unknown {entry.kind} {entry.name!r}", self._hint(entry.name, entry.kind)
        found = self._artifact_name(entry.kind, known[entry.name])
        if not found:
            return f"toolchain {entry.name!r} has no artifact", "add run.toolchain-artifact to it"
        if entry.artifact and entry.artifact != found:
            return f"{entry.kind} {entry.name!r} has no artifact {entry.artifact!r}", f"its artifact is {found}"
        return None

    def _artifact_name(self, kind: str, name: str) -> str:
        if kind == "toolchain":
            return self._toolchains[name].artifact_name if name in self._toolchains else name
        return self._fetches[name].published_name if name in self._fetches else name

    def _hint(self, word: str, kind: str) -> str:
        """Return the known name most similar to an unknown one; after a renaming, thousands get no hint."""
        known = self.names[kind]
        if self._left <= 0:
            return ""
        self._left -= len(known)
        return suggest(word, known)


def _unapplied_keys(fetch: Fetch | None) -> str:
    """Return the keys of a fetch that only its extraction applies, "" for none."""
    reshape = fetch.source.reshape if fetch is not None and isinstance(fetch.source, StaticUrl) else Reshape()
    return " and ".join(
        key for key, value in (("strip-components", reshape.strip), ("add-prefix", reshape.prefix)) if value
    )


def _cycle_problem(toolchains: Mapping[str, Toolchain], cycle: list[str]) -> Problem:
    reason = f"depends on itself: {' -> '.join(cycle)}"
    return _problem(toolchains[cycle[0]], "fetches.toolchain", reason, "remove one of these dependencies")


def _cycles(toolchains: Mapping[str, Toolchain], names: AliasTables) -> Iterator[list[str]]:
    """Yield the dependency cycles; the caller removes each one, with its users, before it asks for the next.

    Iterative, because a long chain would exceed the recursion limit. Each toolchain is visited once: what leads to a
    cycle is a user of it, and what leads to none stays so.
    """
    done: set[str] = set()
    for start in list(toolchains):
        if start in toolchains and (cycle := _cycle_from(start, toolchains, names["toolchain"], done)):
            yield cycle


def _cycle_from(
    start: str, toolchains: Mapping[str, Toolchain], known: Mapping[str, str], done: set[str]
) -> list[str] | None:
    """Return the first cycle that a toolchain leads to, None if there is none; add what leads to none to `done`."""
    path: dict[str, None] = {}
    stack = [(start, "enter")]
    while stack:
        name, step = stack.pop()
        if step == "leave":
            path.pop(name)
            done.add(name)
        elif name in path:
            return [*list(path)[list(path).index(name) :], name]
        elif name not in done:
            path[name] = None
            stack.append((name, "leave"))
            needed = [known.get(inner, inner) for kind, inner in _needs(toolchains[name]) if kind == "toolchain"]
            stack += [(inner, "enter") for inner in needed if inner in toolchains]
    return None
