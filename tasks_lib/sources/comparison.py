"""Two archives of one thing: the same members, or which ones differ. For reports only; nothing is believed here."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO, Final

from tasks_lib.archive import Entry, Limits, Reshape, kind_of, read
from tasks_lib.errors import ArchiveError, escaped

#: Largest archive that is compared, and what may come out of it: a report must not take minutes.
MAX_COMPARED_BYTES: Final = 256 << 20
_LIMITS: Final = Limits(max_total_bytes=2 << 30, max_entries=200_000)
#: Names that a report quotes.
_QUOTED: Final = 3

Members = dict[bytes, tuple[object, ...]]


def members(file: BinaryIO, name: str) -> Members | None:
    """Return what the archive holds, by path; None when it is none that can be read to its end."""
    file.seek(0)
    kind = kind_of(file, name)
    found: Members = {}

    def note(entry: Entry) -> None:
        digest = hashlib.sha256()
        for chunk in entry.chunks:
            digest.update(chunk)
        found[entry.path] = (entry.kind, entry.size, entry.executable, entry.target, digest.digest())

    if kind is None:
        return None
    try:
        read(file, name=name, format=kind, reshape=Reshape(), limits=_LIMITS, sink=note)
    except (ArchiveError, OSError):
        return None
    return found


def compared(theirs: Members, earlier: Path) -> str:
    """Return what differs from the archive at `earlier`, "" when nobody can tell."""
    try:
        if earlier.stat().st_size > MAX_COMPARED_BYTES:
            return ""
        with earlier.open("rb") as file:
            ours = members(file, earlier.name)
    except OSError:
        return ""
    if ours is None:
        return ""
    if ours == theirs:
        return "recompressed: the same content as before, compressed otherwise"
    if not ours.keys() & theirs.keys():  # a repacked archive has another first directory
        ours, theirs = _below(ours), _below(theirs)
    if not ours.keys() & theirs.keys():
        return ""
    if ours == theirs:
        return "recompressed: the same content as before, packed otherwise"
    differing = sorted(path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path))
    names = ", ".join(escaped(path[:80]) for path in differing[:_QUOTED])
    more = f" and {len(differing) - _QUOTED} more" if len(differing) > _QUOTED else ""
    return f"re-released: these members differ from before: {names}{more}"


def _below(found: Members) -> Members:
    return {path.partition(b"/")[2]: facts for path, facts in found.items() if b"/" in path}
