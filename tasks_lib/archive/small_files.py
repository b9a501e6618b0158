"""Small files of a tar that follow each other in one directory: read, validated and written together.

Nearly all entries of a large archive are such files. Together they cost a third of what they cost one by one
(docs/decisions/0010). Anything unusual is left to the full rules.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Final, NamedTuple

from tasks_lib.archive.entries import DIRECTORY, FILE, Entry
from tasks_lib.archive.exact_reader import BLOCK, ExactReader, byte_sum, decode_number
from tasks_lib.limits import Limits

#: Content up to this many bytes is passed on in one piece.
SMALL: Final = 1 << 18
#: Name, mode, size, checksum and all from the type on; owner and time are not used. Source: POSIX pax, ustar header
#: block.
_FIELDS: Final = Struct("100s8s16x12s12x8s356s")
#: A name field that needs none of the checks of `normalize_path`: one component, NUL only after it.
_PLAIN_NAME: Final = re.compile(rb"([^\x00-\x1f\x7f/.:\\][^\x00-\x1f\x7f/:\\]*)\x00*")

#: Name without its directory, size, executable bit, offset of the header, content.
SmallFile = tuple[bytes, int, int, int, memoryview]


class SmallFiles(NamedTuple):
    """At least one file in `directory`; the content of all is in memory."""

    files: list[SmallFile]
    directory: bytes

    def entries(self) -> Iterator[Entry]:
        """Yield the same files one by one."""
        prefix = self.directory + b"/" if self.directory else b""
        for name, size, executable, offset, content in self.files:
            yield Entry(prefix + name, FILE, size, executable, b"", offset, (content,) if size else ())


Item = Entry | SmallFiles


def one_by_one(items: Iterable[Item]) -> Iterator[Entry]:
    """Yield the entries of `items`."""
    for item in items:
        if isinstance(item, SmallFiles):
            yield from item.entries()
        else:
            yield item


class SmallFileReader:
    """Reads the small files that follow in the same directory as the previous entry, or in it.

    It requires: a header whose second part, from the type on, equals that of a plain file read before (no link, no
    prefix); a name of at most 100 bytes with the same directory prefix as the previous one, which passed
    `normalize_path`, and one harmless last component; content that is already in memory.
    """

    def __init__(self, limits: Limits) -> None:
        # names that fit a header's name field need no check unless these limits are smaller than the field
        roomy = min(limits.max_path_bytes, limits.max_component_bytes) >= 100
        self._small = min(SMALL, limits.max_member_bytes) if roomy else -1
        self._max_depth = limits.max_depth
        # the previous entry's directory (or the entry itself if it is one), the prefix of raw names in that directory,
        # and the second part of a plain file's header
        self._directory = self._start = self._tail = b""
        self.last = b""  # the name of the last file that `read` returned

    def remember(self, block: bytes, name: bytes, path: bytes, what: str) -> None:
        """Remember what the next files may share with the entry of the header `block`."""
        if what == FILE and block[156:157] == b"0" and not block[345]:
            self._tail = block[156:]
        if what == FILE and name.endswith(b"/."):  # the file `d/.` is `d`, so that what is below `d/` is not beside it
            self._tail = b""
        elif what == FILE:
            self._start, self._directory = name[: name.rfind(b"/") + 1], path.rpartition(b"/")[0]
        elif what == DIRECTORY:
            self._start, self._directory = name.removesuffix(b"/") + b"/", path
            if path.count(b"/") + 2 > self._max_depth:
                self._tail = b""

    def read(self, stream: ExactReader) -> SmallFiles | None:
        """Return the next small files, None if the next entry needs the full rules."""
        start, tail, small = self._start, self._tail, self._small
        if not tail:
            return None
        plain_name, adler32, fields = _PLAIN_NAME.fullmatch, zlib.adler32, _FIELDS.unpack_from
        rest = byte_sum(tail[:189]) + byte_sum(tail[189:]) + 8 * 0x20 - 1  # see `byte_sum`
        begin, last_mode, executable = len(start), b"", 0
        held, at = stream.held, stream.at
        base, view, end = stream.offset - at, memoryview(held), len(held)
        found: list[SmallFile] = []
        while (content := at + BLOCK) <= end:
            name, mode, octal, checksum, others = fields(held, at)
            if others != tail or not name.startswith(start) or (plain := plain_name(name, begin)) is None:
                break
            size = decode_number(octal)
            following = content + size + -size % BLOCK
            if (
                not 0 <= size <= small
                or following > end
                or decode_number(checksum) != rest + (adler32(held[at : at + 148]) & 0xFFFF)
            ):
                break
            if mode != last_mode:
                if (bits := decode_number(mode)) < 0:
                    break
                last_mode, executable = mode, bits >> 6 & 1
            found.append((plain[1], size, executable, base + at, view[content : content + size]))
            at = following
        stream.at = at
        if not found:
            return None
        self.last = start + found[-1][0]
        return SmallFiles(found, self._directory)
