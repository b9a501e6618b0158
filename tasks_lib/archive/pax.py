"""What extension headers say about the next entry: pax records, GNU long names.

Every reader must understand the same: a record that some readers follow and others do not is refused. Source:
POSIX.1-2017 pax, pax Extended Header; GNU tar manual "Storing Sparse Files"; star(4) for SCHILY.*; libarchive tar(5).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from tasks_lib.archive.entries import damaged, unsafe

SPARSE: Final = b"GNU.sparse."
_PIECES: Final = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
#: A file of several volumes, and a dump directory, in pax clothes.
_REFUSED: Final = (b"GNU.volume.filename", b"GNU.volume.offset", b"GNU.volume.size", b"GNU.dumpdir", b"SCHILY.dir")
#: What names or frames an entry; for all entries at once it has no sense.
_FRAMING: Final = frozenset({b"path", b"linkpath", b"size", b"SCHILY.realsize", b"SCHILY.filetype", *_REFUSED})


@dataclass(slots=True)
class Pending:
    """What extension headers said about the next entry."""

    pax: dict[bytes, bytes] = field(default_factory=dict)
    name: bytes | None = None
    link: bytes | None = None

    def __bool__(self) -> bool:
        return bool(self.pax) or self.name is not None or self.link is not None

    def add(self, kind: bytes, data: bytes, offset: int) -> None:
        """Take one extension header: `x` or `X` (Solaris), `g`, `L`, `K` or `V`.

        Raises:
            DamagedArchiveError: it is broken.
            UnsafeEntryError: readers would differ about it.
        """
        if kind in b"gV":
            # a reader may take the waiting header for one of these
            if self:
                raise unsafe("an extension header for no entry", "PAX_TWICE", offset=offset)
            _judge_global(kind, data, offset)
        elif kind in b"xX":
            if self:
                raise unsafe("two extension headers for one entry", "PAX_TWICE", offset=offset)
            self.pax = _records(data, offset) or {b"": b""}
            if bad := [key for key in _REFUSED if key in self.pax]:
                raise unsafe(f"is a piece of a volume or dump ({bad[0].decode()})", "TYPE", b"", offset)
        else:
            self._add_gnu(kind, data, offset)

    def _add_gnu(self, kind: bytes, data: bytes, offset: int) -> None:
        text = data.rstrip(b"\0")
        if b"\0" in text or not text:
            raise damaged("a GNU long name with a NUL inside, or empty", "GNU_NAME", offset=offset)
        if self.pax or (self.name if kind == b"L" else self.link) is not None:
            raise unsafe("two extension headers for one entry", "PAX_TWICE", offset=offset)
        if kind == b"L":
            self.name = text
        else:
            self.link = text


def _judge_global(kind: bytes, data: bytes, offset: int) -> None:
    if kind == b"V":  # a volume label names the archive, and nothing in it
        if data:
            raise unsafe("a volume label with content", "LINK_WITH_CONTENT", offset=offset)
        return
    for key in _records(data, offset):
        if key in _FRAMING or key.startswith(SPARSE):
            raise unsafe(f"a global header sets {key[:40].decode('ascii', 'replace')!r}", "PAX_GLOBAL", offset=offset)


def _records(data: bytes, offset: int) -> dict[bytes, bytes]:
    """Return the records, a line `LENGTH KEY=VALUE` each.

    Raises:
        DamagedArchiveError: a wrong length, no newline, an empty or repeated keyword.
    """
    records: dict[bytes, bytes] = {}
    pieces: list[bytes] = []
    for key, value in _lines(data, offset):
        if key in _PIECES:  # sparse format 0.0 repeats these two, in turn
            if key != _PIECES[len(pieces) % 2]:
                raise damaged("a broken sparse map", "SPARSE", offset=offset)
            pieces.append(value)
        elif key in records:
            raise unsafe(f"a pax header sets {key[:40]!r} twice", "PAX_TWICE", offset=offset)
        else:
            records[key] = value
    if pieces and records.setdefault(b"GNU.sparse.map", b",".join(pieces)) != b",".join(pieces):
        raise unsafe("two sparse maps", "PAX_TWICE", offset=offset)
    return records


def _lines(data: bytes, offset: int) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        digits = data[at:space]
        if space < 0 or not digits.isdigit():
            raise damaged("a broken pax record", "PAX_RECORD", offset=offset)
        end = at + int(digits)
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if end > len(data) or end <= space + 1 or data[end - 1 : end] != b"\n" or not key or not equals:
            raise damaged("a broken pax record", "PAX_RECORD", offset=offset)
        yield key, value
        at = end
