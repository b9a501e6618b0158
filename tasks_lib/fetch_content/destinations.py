"""Destinations of artifacts: a `dest` may lead anywhere, but never through a symlink that an archive made.

The author of the task writes `dest`, so `..` and absolute paths are allowed, as upstream. An archive must not redirect
another artifact: below a directory into which archives are extracted, no component of a `dest` may be a symlink.
"""

from __future__ import annotations

import os
import stat
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Final

from tasks_lib.errors import TreeError, escape_text


class Destinations:
    """The directories of one list of artifacts; the check of one of them does not depend on the order of the list."""

    def __init__(self, base: Path, directories: Iterable[Path]) -> None:
        """Take absolute, normalised directories; `base`, the directory of the command, may be the user's own symlink.

        Raises:
            TreeError: a directory is reached through a symlink that an archive may have made.
        """
        listed = dict.fromkeys(directories)
        self._real: Final = {one: os.path.realpath(one) for one in (base, *listed)}
        filled = frozenset(self._real.values())
        users = {base, *base.parents}
        checked: set[Path] = set()
        for one in listed:
            for place in reversed((one, *one.parents)):
                if place not in checked and place not in users:
                    _check(place, filled, one)
                checked.add(place)
        self._needed: Final = sorted(map(_with_slash, {place for one in self._real for place in self._prefixes(one)}))

    def _prefixes(self, one: Path) -> Iterator[str]:
        yield self._real[one]
        yield from map(str, Path(self._real[one]).parents)

    def check(self, tree: Path, directory: Path, name: str) -> None:
        """Check that a staged tree puts nothing but directories in the way of a listed directory.

        Args:
            tree: the staged tree.
            directory: where it goes; one of the list.
            name: of the artifact, for the message.

        Raises:
            TreeError: an entry of the tree is a symlink or a file where a directory is needed.
        """
        into = _with_slash(self._real[directory])
        start = bisect_left(self._needed, into)
        for place in takewhile(lambda place: place.startswith(into), self._needed[start:]):
            entry = tree / place[len(into) :]
            kind = _kind(entry)
            if kind not in ("", "directory"):
                shown = escape_text(str(entry.relative_to(tree)))
                raise TreeError(
                    f"{escape_text(name)} puts the {kind} {shown!r} into {escape_text(str(directory))},"
                    " where the 'dest' of another entry needs a directory",
                    hint="set a different 'dest' for one of them",
                )


def _check(place: Path, filled: frozenset[str], directory: Path) -> None:
    if not place.is_symlink():
        return
    parent = Path(os.path.realpath(place.parent))
    if not filled.isdisjoint(map(str, (parent, *parent.parents))):
        raise TreeError(
            f"cannot write to {escape_text(str(directory))}: {escape_text(str(place))} is a symlink"
            f" to {escape_text(os.fsencode(place.readlink()))!r}, which an archive may have made",
            hint="remove it, or set a different 'dest'",
        )


def _kind(entry: Path) -> str:
    """Return what an entry is, "" if it does not exist."""
    try:
        mode = entry.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    return "directory" if stat.S_ISDIR(mode) else "symlink" if stat.S_ISLNK(mode) else "file"


def _with_slash(path: str) -> str:
    return f"{path.rstrip('/')}/"
