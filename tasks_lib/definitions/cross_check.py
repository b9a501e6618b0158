"""Checks across all definitions: unknown names, alias conflicts, cycles, and artifacts delivered twice.

Pure: no I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from tasks_lib.definitions.schema import suggest
from tasks_lib.definitions.values import Fetch, FetchesEntry, RefusedDefinition, StaticUrl, Toolchain
from tasks_lib.errors import Problem
from tasks_lib.formats import Reshape

Aliases = dict[str, str]


def cross_check(
    fetches: Mapping[str, Fetch], toolchains: Mapping[str, Toolchain], problems: list[Problem]
) -> tuple[Aliases, Aliases]:
    """Return the mappings from alias to name for fetches and for toolchains; append conflicts to `problems`."""
    is_complete = not problems  # a missing name may only be a consequence of another broken definition
    fetch_aliases, toolchain_aliases = _all_aliases(fetches, toolchains, problems)
    names = _names(fetches, toolchains, fetch_aliases, toolchain_aliases)
    for toolchain in toolchains.values():
        _check_entries(toolchain, names, toolchains, problems if is_complete else [])
        _check_places(toolchain, names, fetches, toolchains, problems)
    if is_complete and not problems:
        _check_cycles(toolchains, names["toolchain"], problems)
    return fetch_aliases, toolchain_aliases


def refuse_toolchains(
    fetches: Mapping[str, Fetch],
    toolchains: dict[str, Toolchain],
    trees: Collection[str],
    known: Mapping[str, RefusedDefinition],
) -> dict[str, RefusedDefinition]:
    """Remove toolchains of Taskgraph trees with unavailable dependencies from `toolchains`; return them by task.

    Args:
        fetches: by name.
        toolchains: by name; modified in place.
        trees: files that belong to a Taskgraph tree.
        known: definitions that are already refused, by task.
    """
    found: dict[str, RefusedDefinition] = {}
    while True:
        names = _names(fetches, toolchains, *_all_aliases(fetches, toolchains, []))
        conflicts: list[tuple[Toolchain, Problem]] = []
        for toolchain in toolchains.values():
            own: list[Problem] = []
            if toolchain.file in trees:
                _check_entries(toolchain, names, toolchains, own)
                _check_places(toolchain, names, fetches, toolchains, own)
            conflicts += [(toolchain, problem) for problem in own[:1]]
        if not conflicts:
            return found
        for toolchain, problem in conflicts:
            needed = {f"{entry.kind}:{entry.name}" for entry in toolchain.fetches} & (known.keys() | found.keys())
            reason = f"it needs {min(needed)}, which is refused" if needed else problem.reason
            task = f"toolchain:{toolchain.name}"
            found[task] = RefusedDefinition(task=task, reason=reason, file=problem.file, line=problem.line)
            del toolchains[toolchain.name]


def _all_aliases(
    fetches: Mapping[str, Fetch], toolchains: Mapping[str, Toolchain], problems: list[Problem]
) -> tuple[Aliases, Aliases]:
    named = [(fetch, (fetch.alias,) if fetch.alias else ()) for fetch in fetches.values()]
    others = [(one, one.aliases) for one in toolchains.values()]
    return (
        _aliases(fetches, named, "fetch-alias", problems),
        _aliases(toolchains, others, "run.toolchain-alias", problems),
    )


def _names(
    fetches: Mapping[str, Fetch], toolchains: Mapping[str, Toolchain], fetch_aliases: Aliases, others: Aliases
) -> dict[str, dict[str, str]]:
    return {
        "fetch": {name: name for name in fetches} | fetch_aliases,
        "toolchain": {name: name for name in toolchains} | others,
    }


def _problem(one: Fetch | Toolchain, key: str, reason: str, hint: str, line: int = 0) -> Problem:
    return Problem(one.file, line or one.line, f"{one.name}.{key}", reason, hint)


def _aliases(
    known: Iterable[str],
    named: Iterable[tuple[Fetch | Toolchain, tuple[str, ...]]],
    key: str,
    problems: list[Problem],
) -> Aliases:
    names = set(known)
    aliases: Aliases = {}
    for one, own in named:
        for alias in own:
            if alias in names:
                problems.append(
                    _problem(one, key, f"alias {alias!r} is also the name of a definition", "choose another alias")
                )
            elif alias in aliases:
                reason = f"{alias!r} is also an alias of {aliases[alias]}"
                problems.append(_problem(one, key, reason, "choose another alias"))
            else:
                aliases[alias] = one.name
    return aliases


def _check_entries(
    toolchain: Toolchain,
    names: Mapping[str, Mapping[str, str]],
    toolchains: Mapping[str, Toolchain],
    problems: list[Problem],
) -> None:
    for entry in toolchain.fetches:
        known = names[entry.kind]
        if entry.name not in known:
            reason = f"unknown {entry.kind} {entry.name!r}"
            hint = suggest(entry.name, known)
            problems.append(_problem(toolchain, f"fetches.{entry.kind}", reason, hint, entry.line))
        elif entry.kind == "toolchain" and not toolchains[known[entry.name]].artifact_name:
            reason = f"toolchain {entry.name!r} has no artifact"
            problems.append(
                _problem(toolchain, "fetches.toolchain", reason, "add run.toolchain-artifact to it", entry.line)
            )


def _check_places(
    toolchain: Toolchain,
    names: Mapping[str, Mapping[str, str]],
    fetches: Mapping[str, Fetch],
    toolchains: Mapping[str, Toolchain],
    problems: list[Problem],
) -> None:
    """Report artifacts that would be delivered twice; extraction detects archives whose entries collide."""
    seen: dict[str, FetchesEntry] = {}
    placed: dict[str, str] = {}
    for entry in toolchain.fetches:
        name = names[entry.kind].get(entry.name, entry.name)
        key = f"fetches.{entry.kind}"
        if name in seen:
            problems.append(_problem(toolchain, key, f"{entry.name!r} is listed twice", "remove one", entry.line))
        seen[name] = entry
        if entry.delivery != "place":
            continue
        if entry.kind == "fetch" and (keys := _unapplied_keys(fetches.get(name))):
            reason = f"{entry.name!r} is placed as it was downloaded, without {keys}"
            hint = "set `artifact-name: NAME.tar.zst` on it, or extract it"
            problems.append(_problem(toolchain, key, reason, hint, entry.line))
        file = f"{entry.dest}/" if entry.dest else ""
        file += _artifact_name(entry.kind, name, fetches, toolchains)
        if file in placed:
            reason = f"{placed[file]} and {entry.name} are both placed at {file!r}"
            problems.append(_problem(toolchain, key, reason, "set `dest:` on one of them", entry.line))
        placed[file] = entry.name


def _artifact_name(kind: str, name: str, fetches: Mapping[str, Fetch], toolchains: Mapping[str, Toolchain]) -> str:
    if kind == "toolchain":
        return toolchains[name].artifact_name if name in toolchains else name
    return fetches[name].published_name if name in fetches else name


def _unapplied_keys(fetch: Fetch | None) -> str:
    """Return the keys of a fetch that only its extraction applies, "" for none."""
    reshape = fetch.source.reshape if fetch is not None and isinstance(fetch.source, StaticUrl) else Reshape()
    return " and ".join(
        key for key, value in (("strip-components", reshape.strip), ("add-prefix", reshape.prefix)) if value
    )


def _check_cycles(toolchains: Mapping[str, Toolchain], names: Mapping[str, str], problems: list[Problem]) -> None:
    """Report the first dependency cycle; iterative, because a long chain would exceed the recursion limit."""
    done: set[str] = set()
    for start in toolchains:
        path: dict[str, None] = {}
        stack = [(start, "enter")]
        while stack:
            name, step = stack.pop()
            if step == "leave":
                path.pop(name)
                done.add(name)
            elif name in path:
                cycle = [*list(path)[list(path).index(name) :], name]
                reason = f"depends on itself: {' -> '.join(cycle)}"
                problems.append(
                    _problem(toolchains[name], "fetches.toolchain", reason, "remove one of these dependencies")
                )
                return
            elif name not in done:
                path[name] = None
                stack.append((name, "leave"))
                needed = [names[entry.name] for entry in toolchains[name].fetches if entry.kind == "toolchain"]
                stack += [(inner, "enter") for inner in needed]
