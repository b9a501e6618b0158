"""What a person wrote -> tasks: a name, a glob, or the path of a target; for a typo, what was probably meant."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from doit import get_initial_workdir

from tasks_lib.errors import FetchError, escaped

#: The groups, with what `doit list` says of them.
GROUPS: Final = {
    "fetch": "obtain what a definition promises, verified, into the cache",
    "repack": "make the normalised .tar.zst of a fetched archive",
    "extract": "extract an archive: TOOLCHAIN/NAME for a toolchain, NAME on its own",
    "toolchain": "prepare a toolchain: its fetches in place, its command run",
}
#: How alike two names are for one to be proposed for the other; below it proposals are noise.
_ALIKE: Final = 0.6
#: Most names that are compared with a typo: comparing takes some microseconds each.
_COMPARED: Final = 20_000
_GLOB: Final = frozenset("*?[")


class UnknownNameError(FetchError):
    """A word names no task, no target and no command."""


def resolve_names(words: Iterable[str], tasks: Mapping[str, Any], others: Iterable[str] = ()) -> list[str]:
    """Return the names of the tasks that are meant, each once, in order.

    Args:
        words: names, globs, or paths of targets however they are written.
        tasks: all tasks by name.
        others: what else could have been meant: names of commands.

    Raises:
        UnknownNameError: with a proposal, for the first word that means nothing.
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
        elif _GLOB.intersection(word) and (matches := fnmatch.filter(tasks, word)):
            found.update(dict.fromkeys(matches))
        else:
            raise _unknown(word, tasks, others)
    return list(found)


def _paths(word: str) -> Iterator[str]:
    """Yield the paths that a word may mean: from the directory of dodo.py, then from that in which doit was started."""
    yield _relative(word)
    if start := get_initial_workdir():  # type: ignore[no-untyped-call]  # doit has no types
        yield _relative(os.path.join(start, word))  # noqa: PTH118  # texts, not files


def _relative(word: str) -> str:
    """Return a path as targets are written: from here if it lies below, else as it is."""
    path = os.path.normpath(word)
    here = os.path.relpath(os.path.abspath(path))  # noqa: PTH100  # texts, not files
    return path if here.startswith("..") or (os.path.isabs(path) and here == path) else here  # noqa: PTH117


def _unknown(word: str, tasks: Mapping[str, Any], others: Iterable[str]) -> UnknownNameError:
    if _GLOB.intersection(word):
        return UnknownNameError(f"no task is called like {escaped(word)!r}", hint="`doit list --all` shows every task")
    import difflib

    names = [*others, *list(tasks)[:_COMPARED]]
    group, _, rest = word.partition(":")
    close = difflib.get_close_matches(word, names, n=1, cutoff=_ALIKE)
    if not rest:  # perhaps the name of a definition, without its kind
        ends = {name.partition(":")[2]: name for name in reversed(names) if ":" in name}
        near = [word] if word in ends else difflib.get_close_matches(group, ends, n=1, cutoff=_ALIKE)
        close = [ends[end] for end in near] if word in ends or not close else close
    hint = f"did you mean {escaped(close[0])}?" if close else "`doit list --all` shows every task"
    return UnknownNameError(f"there is no task, target or command called {escaped(word)!r}", hint=hint)
