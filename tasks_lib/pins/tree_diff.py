"""Differences between the trees of two archives: entries added, removed and changed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final, NamedTuple

from tasks_lib.archive import Entry, detect_format, read
from tasks_lib.context import Context
from tasks_lib.digest import Integrity
from tasks_lib.errors import ArchiveError, CacheError
from tasks_lib.formats import UNCHANGED, Reshape
from tasks_lib.limits import Limits
from tasks_lib.progress import Progress

#: What identifies an entry's content: kind, executable bit, and digest or link target.
_EntryFacts = tuple[str, int, bytes]
EntryTable = Mapping[str, _EntryFacts]
#: Entries of one kind that a text shows.
_MAX_SHOWN: Final = 10


class TreeDiff(NamedTuple):
    """The paths of the entries that differ, sorted."""

    added: list[str]
    removed: list[str]
    changed: list[str]

    def lines(self) -> list[str]:
        """Return the difference for people: the numbers, and the first entries of each kind."""
        if not any(self):
            return ["tree: no entry differs"]
        counts = f"{len(self.added)} added, {len(self.removed)} removed, {len(self.changed)} changed"
        lines = [f"tree: {counts}"]
        for sign, paths in zip("+-~", self, strict=True):
            lines += [f"  {sign} {path}" for path in paths[:_MAX_SHOWN]]
            lines += [f"  {sign} ... and {len(paths) - _MAX_SHOWN} more"] if len(paths) > _MAX_SHOWN else []
        return lines


def compare(before: EntryTable, after: EntryTable) -> TreeDiff:
    """Return how two trees differ."""
    return TreeDiff(
        added=sorted(after.keys() - before.keys()),
        removed=sorted(before.keys() - after.keys()),
        changed=sorted(path for path in before.keys() & after.keys() if before[path] != after[path]),
    )


def list_tree(
    context: Context,
    integrity: Integrity,
    name: str,
    progress: Progress,
    *,
    format: str = "",
    reshape: Reshape = UNCHANGED,
    limits: Limits | None = None,
) -> EntryTable | None:
    """Return the entries of an archive in the cache, as an extraction names them; None if it has no tree.

    It has none if it is not an archive, if the archive is refused, or if the cache does not have it. Without a `format`
    it is detected.

    Raises:
        CancelledError: the run was asked to stop.
    """
    limits = limits or context.limits(())
    found: dict[str, _EntryFacts] = {}

    def see(entry: Entry) -> None:
        content = entry.target
        if entry.kind == "file":
            digest = hashlib.sha256()
            for chunk in entry.chunks:
                digest.update(chunk)
            content = digest.digest()
        found[entry.path.decode("utf-8", "backslashreplace")] = (entry.kind, entry.executable, content)

    try:
        with context.cache.open(integrity) as file:
            kind = format or detect_format(file, name, limits)
            if kind is None:
                return None
            read(file, name=name, format=kind, reshape=reshape, limits=limits, sink=see, check=progress.check)
    except (ArchiveError, CacheError):
        return None
    return found
