"""Files that definitions refer to: key files, scripts, and resources, which may be directories or patterns.

Source: Taskgraph's `hash_paths` and `path.match` (read as documentation): a pattern matches the tracked files whose
path, or a directory above them, it describes; `*` stays in one component, `**` covers any number of them.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from tasks_lib.definitions import FileReference
from tasks_lib.digest import Digest
from tasks_lib.fs.fingerprint import Fingerprint
from tasks_lib.named import NamedTuple

if TYPE_CHECKING:
    from tasks_lib.vcs.checkout import Checkout


def digest_of(path: str) -> Digest:
    """Return the digest of a script's or resource's content; what is missing or not a file has one of its own."""
    with contextlib.suppress(OSError):
        if os.path.isfile(path):  # noqa: PTH113  # a FIFO or device would never end
            with Path(path).open("rb") as file:
                return Digest.sha256(hashlib.file_digest(file, "sha256").hexdigest())
    return Digest.sha256(hashlib.sha256(b"missing:" + os.fsencode(path)).hexdigest())


class _Match(NamedTuple):
    """The files that a pattern matches, by sorted names below `base`, and what changes when their names change."""

    base: str
    names: tuple[str, ...]
    watched: tuple[str, ...]


class ReferencedFiles:
    """The files that definitions refer to; each is read once."""

    def __init__(self, environ: Mapping[str, str], directory: str = "") -> None:
        """Create the reader.

        Args:
            environ: the environment of git and hg.
            directory: relative paths are below it; "" for the current directory.
        """
        self._environ = environ
        self._directory = directory
        #: Of each file that was read and of each path that decides which files match, as it was then.
        self.source_fingerprints: dict[str, Fingerprint] = {}
        self.digest_of = lru_cache(maxsize=None)(self._digest_of)
        self._match = lru_cache(maxsize=None)(self._matched)
        self._checkout = lru_cache(maxsize=None)(self._listed)

    def digest(self, one: FileReference) -> Digest:
        """Return the digest of a file, or of the names and contents of the files that a pattern matches.

        Raises:
            ToolError: the tracked files cannot be listed.
        """
        if _is_plain(one):
            return self.digest_of(one.path)
        return Digest.sha256(self.tree_digest([one]))

    def tree_digest(self, references: Iterable[FileReference]) -> str:
        """Return the hex digest of the names and contents of files, as Taskgraph computes it.

        Raises:
            ToolError: the tracked files cannot be listed.
        """
        found: dict[str, str] = {}
        for match in map(self._match, references):
            found |= {os.path.join(match.base, name): name for name in match.names}  # noqa: PTH118
        lines = (f"{self._content(path)} {name}\n" for path, name in sorted(found.items()))
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def paths(self, one: FileReference) -> list[str]:
        """Return the paths of the files, [] if there are none.

        Raises:
            ToolError: the tracked files cannot be listed.
        """
        if _is_plain(one):
            return [one.path] if os.path.isfile(one.path) else []  # noqa: PTH113
        match = self._match(one)
        return [os.path.join(match.base, name) for name in match.names]  # noqa: PTH118

    def watched(self, one: FileReference) -> tuple[str, ...]:
        """Return the paths that change when other files match; directories end with a slash.

        Raises:
            ToolError: the tracked files cannot be listed.
        """
        return (one.path,) if _is_plain(one) else self._match(one).watched

    def _digest_of(self, path: str) -> Digest:
        place = os.path.join(self._directory, path)  # noqa: PTH118  # texts
        self.source_fingerprints[place] = Fingerprint.at(place)
        return digest_of(place)

    def _content(self, path: str) -> str:
        """Return the hex digest of a file, "" for what is not one: a submodule, or a file that was removed."""
        return self.digest_of(path).hex if os.path.isfile(path) else ""  # noqa: PTH113

    def _listed(self, base: str) -> Checkout | None:
        from tasks_lib.vcs.checkout import list_tracked  # slow to import, needed only for patterns

        return list_tracked(Path(base), self._environ)

    def _matched(self, one: FileReference) -> _Match:
        base, pattern = _split(one)
        fixed = _fixed_part(pattern)
        checkout = self._checkout(base) if os.path.isdir(base) else None  # noqa: PTH112
        names: Sequence[str]
        if checkout is None:
            names, watched = _walk(base, fixed)
        else:
            names, watched = _below(checkout.names, fixed), [checkout.marker]
        self.source_fingerprints |= {path: Fingerprint.at(path) for path in watched}
        expression = _expression(pattern)
        return _Match(base, tuple(name for name in names if expression.fullmatch(name)), tuple(watched))


def _is_plain(one: FileReference) -> bool:
    """Return whether a reference names one file, which may be missing."""
    return "*" not in one.text and not one.text.endswith("/") and not os.path.isdir(one.path)  # noqa: PTH112


def _split(one: FileReference) -> tuple[str, str]:
    """Return the directory and the pattern of a reference, relative to it; the path may leave its base."""
    pattern = os.path.relpath(one.path, one.base or os.curdir)
    base = one.base or os.curdir
    while pattern.startswith("../"):
        base, pattern = os.path.join(base, os.pardir), pattern[3:]  # noqa: PTH118
    return os.path.abspath(base), "" if pattern in (".", "..") else pattern  # noqa: PTH100


def _fixed_part(pattern: str) -> str:
    """Return the directory, or the file, above the first component with a `*`."""
    parts = pattern.split("/")
    return "/".join(parts[: next((at for at, part in enumerate(parts) if "*" in part), len(parts))])


def _below(names: Sequence[str], fixed: str) -> Sequence[str]:
    """Return the sorted names that are `fixed` or below it."""
    if not fixed:
        return names
    start = bisect.bisect_left(names, fixed)
    return names[start : bisect.bisect_left(names, fixed + "0", start)]  # "0" follows "/"


def _walk(base: str, fixed: str) -> tuple[list[str], list[str]]:
    """Return the names of all files that are `fixed` or below it, sorted, and the directories that were read."""
    top = os.path.join(base, fixed)  # noqa: PTH118
    if os.path.isfile(top):  # noqa: PTH113
        return [fixed], [top]
    names, directories = [], [f"{top.rstrip('/')}/"]
    for directory, inner, files in os.walk(top):
        inner[:] = sorted(name for name in inner if name not in (".git", ".hg"))
        directories += [f"{directory.rstrip('/')}/{name}/" for name in inner]
        names += [os.path.relpath(f"{directory}/{name}", base) for name in files]
    return sorted(names), directories


def _expression(pattern: str) -> re.Pattern[str]:
    """Return the expression for the paths that a pattern describes, and for everything below them."""
    if pattern in ("", "**"):
        return re.compile(".*", re.DOTALL)
    text, parts = "", pattern.split("/")
    for part in parts[:-1]:
        text += "(?:.+/)?" if part == "**" else _component(part) + "/"
    last = "(?:/.+)?" if parts[-1] == "**" else _component(parts[-1])
    text = text.removesuffix("/") + last if parts[-1] == "**" and text.endswith("/") else text + last.lstrip("/")
    return re.compile(f"{text}(?:/.*)?", re.DOTALL)


def _component(part: str) -> str:
    return "[^/]*".join(map(re.escape, re.split(r"\*+", part)))
