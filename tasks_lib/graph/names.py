"""Resolve command-line words to tasks: names, globs or paths of targets; suggest a name for a typo."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from doit import get_initial_workdir

from tasks_lib.errors import UnknownNameError, escape_text, find_similar
from tasks_lib.layout import find_artifact_task

#: The groups, with their descriptions for `doit list`.
GROUPS: Final = {
    "fetch": "fetch and verify the content of a definition, and put it into the cache",
    "repack": "repack a fetched archive as a normalised .tar.zst",
    "extract": "extract an archive: TOOLCHAIN/NAME for a toolchain, NAME on its own",
    "toolchain": "build a toolchain: put its fetches in place and run its command",
    "image": "build a container image from fetches and toolchains",
}
#: Minimum similarity of two names for a suggestion, and of a name to that of a command; below it suggestions are noise.
_MIN_SIMILARITY: Final = 0.6
_MIN_SIMILARITY_TO_COMMAND: Final = 0.7
#: Maximum number of names that are compared with a typo; each comparison takes a few microseconds.
_MAX_COMPARED: Final = 20_000
_GLOB: Final = frozenset("*?[")


def is_glob(word: str) -> bool:
    """Return whether a word has a wildcard."""
    return not _GLOB.isdisjoint(word)


def resolve_names(words: Iterable[str], tasks: Mapping[str, Any], commands: Iterable[str] = ()) -> list[str]:
    """Return the names of the matching tasks, each once, in order.

    Args:
        words: names, globs, or paths of targets in any notation; a definition's name is the task of its artifact.
        tasks: all tasks by name.
        commands: names of commands to suggest too, where a word may be one.

    Raises:
        UnknownNameError: a word matches nothing, or definitions of several kinds; names what it may mean.
    """
    found: dict[str, None] = {}
    targets: dict[str, str] = {}
    for word in words:
        if word in tasks:
            found[word] = None
            continue
        if not targets:
            targets = {os.path.normpath(path): task.name for task in tasks.values() for path in task.targets}
        if path := next((one for one in _paths(word) if one in targets), ""):
            found[targets[path]] = None
        elif is_glob(word) and (matches := fnmatch.filter(tasks, word)):
            found.update(dict.fromkeys(matches))
        elif name := find_artifact_task(word, tasks):
            found[name] = None
        else:
            raise _unknown(word, tasks, commands)
    return list(found)


def _paths(word: str) -> Iterator[str]:
    """Yield the paths for a word: relative to the directory of dodo.py, then to the one in which doit was started."""
    yield _relative(word)
    if start := get_initial_workdir():  # type: ignore[no-untyped-call]  # doit has no types
        yield _relative(os.path.join(start, word))  # noqa: PTH118  # texts, not files


def _relative(word: str) -> str:
    """Return a path in the notation of targets: relative if it is below the current directory, else unchanged."""
    path = os.path.normpath(word)
    here = os.path.relpath(os.path.abspath(path))  # noqa: PTH100  # texts, not files
    return path if here.startswith("..") or (os.path.isabs(path) and here == path) else here  # noqa: PTH117


def _unknown(word: str, tasks: Mapping[str, Any], commands: Iterable[str]) -> UnknownNameError:
    if is_glob(word):
        return UnknownNameError(f"no task matches {escape_text(word)!r}", hint="`doit list --all` shows every task")

    commands = list(commands)
    names = list(tasks)[:_MAX_COMPARED]
    group, _, rest = word.partition(":")
    close = find_similar(word, commands, _MIN_SIMILARITY_TO_COMMAND)
    close = close or find_similar(word, names, _MIN_SIMILARITY)
    if not rest:  # may be the name of a definition, without its kind
        ends = {name.partition(":")[2]: name for name in reversed(names) if ":" in name}
        near = [word] if word in ends else find_similar(group, ends, _MIN_SIMILARITY)
        close = [ends[end] for end in near] if word in ends or not close else close
    hint = f"did you mean {escape_text(close[0])}?" if close else "`doit list --all` shows every task"
    kinds = "task, target or command" if commands else "task or target"
    return UnknownNameError(f"no {kinds} is named {escape_text(word)!r}", hint=hint)
