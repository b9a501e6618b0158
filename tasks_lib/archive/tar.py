"""tar -> entries, strictly: ustar, GNU and pax; sparse files; nothing guessed, nothing after the end.

Source: POSIX.1-2017 pax (ustar Interchange Format, pax Extended Header), GNU tar manual "Basic Tar Format" and
"Storing Sparse Files".
"""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from tasks_lib.archive.entries import (
    DIRECTORY,
    FILE,
    HARDLINK,
    SYMLINK,
    Entry,
    Limits,
    checked_path,
    damaged,
    limit,
    unsafe,
    unsupported,
)

BLOCK: Final = 512
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
#: Content up to this many bytes is handed on in one piece.
_SMALL: Final = 1 << 18
_NO_NUMBER: Final = -1
_NEGATIVE: Final = -2
_ZEROS: Final = bytes(BLOCK)
#: Most pieces of one sparse file.
_MAX_SPARSE: Final = 65_536
_SPARSE_SIGNS: Final = frozenset({b"GNU.sparse.major", b"GNU.sparse.map", b"GNU.sparse.size"})
_SPARSE_PIECES: Final = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
_KINDS: Final = {b"0": FILE, b"\0": FILE, b"7": FILE, b"S": FILE, b"1": HARDLINK, b"2": SYMLINK, b"5": DIRECTORY}
_REFUSED: Final = {
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
    b"M": "a piece of a volume",
    b"D": "a dump directory",
}


class Stream:
    """Exact reads over chunks, counting bytes."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._held = b""
        self._at = 0
        self._before = 0  # bytes before `_held`

    @property
    def offset(self) -> int:
        """Bytes read so far."""
        return self._before + self._at

    def piece(self, size: int) -> bytes:
        """Return 1 to `size` bytes, b"" at the end."""
        if self._at == len(self._held):
            self._before += self._at
            self._held, self._at = next(self._chunks, b""), 0
        piece = self._held[self._at : self._at + size]
        self._at += len(piece)
        return piece

    def padded(self, size: int) -> bytes:
        """Return exactly `size` bytes, and skip what fills their last block.

        Raises:
            DamagedArchiveError: the stream ends before.
        """
        at = self._at
        end = at + size + -size % BLOCK
        if end <= len(self._held):
            self._at = end
            return self._held[at : at + size]
        data = self.exact(size)
        self.skip(-size % BLOCK)
        return data

    def exact(self, size: int) -> bytes:
        """Return exactly `size` bytes.

        Raises:
            DamagedArchiveError: the stream ends before.
        """
        piece = self.piece(size)
        if len(piece) == size:
            return piece
        pieces = [piece]
        missing = size - len(piece)
        while missing:
            piece = self.piece(missing)
            if not piece:
                raise damaged("ends too early", "TRUNCATED", offset=self.offset)
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def skip(self, size: int) -> None:
        """Skip exactly `size` bytes.

        Raises:
            DamagedArchiveError: the stream ends before.
        """
        while size:
            piece = self.piece(size)
            if not piece:
                raise damaged("ends too early", "TRUNCATED", offset=self.offset)
            size -= len(piece)


@dataclass(slots=True)
class _Pending:
    """What extension headers said about the next entry."""

    pax: dict[bytes, bytes] = field(default_factory=dict)
    name: bytes | None = None
    link: bytes | None = None

    def __bool__(self) -> bool:
        return bool(self.pax) or self.name is not None or self.link is not None


def number(text: bytes, what: str, offset: int) -> int:
    """Return an octal or base-256 field. Source: POSIX ustar; GNU tar "base-256" for large values.

    Raises:
        DamagedArchiveError: anything but digits, or negative.
    """
    value = _number(text)
    if value == _NEGATIVE:
        raise damaged(f"its {what} is negative or too large", "NUMBER", offset=offset)
    if value == _NO_NUMBER:
        raise damaged(f"its {what} is no octal number", "NUMBER", offset=offset)
    return value


@functools.lru_cache(4096)  # modes and many sizes come again and again
def _number(text: bytes) -> int:
    digits = text.lstrip(b" ").rstrip(b" \0")
    if digits.isdigit():  # ASCII digits only: no sign, no underscore, no blank inside
        return _NO_NUMBER if b"8" in digits or b"9" in digits else int(digits, 8)
    if text[0] & 0x80:
        value = int.from_bytes(bytes([text[0] & 0x7F]) + text[1:], "big")
        return _NEGATIVE if text[0] & 0x40 or value >= 1 << 63 else value
    return _NO_NUMBER if text.strip(b"\0") else 0


def _decimal(text: bytes, what: str, offset: int) -> int:
    if not text.isdigit() or len(text) > 19 or int(text) >= 1 << 63:
        raise damaged(f"its {what} is no decimal number", "NUMBER", offset=offset)
    return int(text)


class TarReader:
    """Reads entries one by one; `entries()` can be used once."""

    def __init__(self, chunks: Iterator[bytes], limits: Limits) -> None:
        self._stream = Stream(chunks)
        self._limits = limits
        # short names need no look at these limits unless they are tighter than a header's name field
        roomy = min(limits.max_path_bytes, limits.max_component_bytes) >= 100
        self._small = min(_SMALL, limits.max_member_bytes) if roomy else -1
        self._directory: bytes | None = None  # of the entry before, when its name needed no change
        self._extensions = 0
        self._left = 0  # bytes of the current entry's data, padding included

    def entries(self) -> Iterator[Entry]:
        """Yield entries; content that was not read is skipped.

        Raises:
            ArchiveError: one of its kinds; the archive's name is added by the caller.
        """
        pending = _Pending()
        while (block := self._next_header()) is not None:
            offset = self._stream.offset - BLOCK
            kind = block[156:157]
            size = number(block[124:136], "size", offset)
            if kind in b"xgLKV":
                self._extensions += 1
                if self._extensions > 2 * self._limits.max_entries:
                    raise limit("more extension headers than entries may have", "TOO_MANY_ENTRIES", offset=offset)
                self._extend(pending, kind, size, offset)
                continue
            plain = kind == b"0" and size <= self._small and not pending
            entry = self._short_file(block, size, offset) if plain else None
            yield entry or self._entry(block, kind, size, pending, offset)
            if self._left:
                self._stream.skip(self._left)
                self._left = 0
            if pending:
                pending = _Pending()
        if pending:
            raise damaged("an extension header without its entry", "DANGLING", offset=self._stream.offset)

    def _next_header(self) -> bytes | None:
        offset = self._stream.offset
        block = self._stream.piece(BLOCK)
        if len(block) < BLOCK:
            if not block:
                raise damaged("ends without an end-of-archive block", "NO_END", offset=offset)
            block += self._stream.exact(BLOCK - len(block))
        if not block[0] and block == _ZEROS:
            while rest := self._stream.piece(1 << 18):
                if rest.count(0) != len(rest):
                    raise damaged("data after the end of the archive", "TRAILING_GARBAGE", offset=offset)
            return None
        wanted = number(block[148:156], "checksum", offset)
        actual = _sum(block) - sum(block[148:156]) + 8 * 0x20
        if wanted != actual:
            signed = actual - 256 * sum(byte > 127 for byte in block[:148] + block[156:])
            if wanted != signed:  # historic tars summed signed bytes
                raise damaged("header checksum is wrong", "CHECKSUM", offset=offset)
        return block

    def _extend(self, pending: _Pending, kind: bytes, size: int, offset: int) -> None:
        if size > self._limits.max_metadata_bytes:
            raise limit(f"metadata of {size} bytes", "METADATA_TOO_LARGE", offset=offset)
        data = self._stream.exact(size)
        self._stream.skip(-size % BLOCK)
        if kind == b"g":
            records = _pax_records(data, offset)
            if bad := records.keys() & {b"path", b"linkpath", b"size"}:
                raise unsafe(f"a global header sets {min(bad).decode()!r}", "PAX_GLOBAL", offset=offset)
        elif kind == b"x":
            if pending:
                raise unsafe("two extension headers for one entry", "PAX_TWICE", offset=offset)
            pending.pax = _pax_records(data, offset) or {b"": b""}
        elif kind != b"V":  # a volume label names the archive, and nothing in it
            self._extend_gnu(pending, kind, data.removesuffix(b"\0"), offset)

    def _extend_gnu(self, pending: _Pending, kind: bytes, text: bytes, offset: int) -> None:
        if b"\0" in text or not text:
            raise damaged("a GNU long name with a NUL inside, or empty", "GNU_NAME", offset=offset)
        if pending.pax or (pending.name if kind == b"L" else pending.link) is not None:
            raise unsafe("two extension headers for one entry", "PAX_TWICE", offset=offset)
        if kind == b"L":
            pending.name = text
        else:
            pending.link = text

    def _entry(self, block: bytes, kind: bytes, size: int, pending: _Pending, offset: int) -> Entry:
        pax = pending.pax
        name = _name(block, pending, offset)
        if b"size" in pax:
            declared = _decimal(pax[b"size"], "size", offset)
            if size not in (0, declared) and not _saturated(block[124:136]):
                raise unsafe("its size differs between pax and ustar header", "PAX_SIZE", name, offset)
            size = declared
        what = _kind(kind, name, size, offset)
        if what == FILE and (kind == b"S" or not _SPARSE_SIGNS.isdisjoint(pax)):
            return self._sparse(block, kind, size, pax, name, offset)
        self._start_data(size, name, offset)
        path = self._path(name, what, offset)
        executable = number(block[100:108], "mode", offset) >> 6 & 1
        if what != FILE:
            return Entry(path, what, 0, executable, self._target(block, what, pending, name, offset), offset)
        return Entry(path, what, size, executable, b"", offset, self._whole(size))

    def _short_file(self, block: bytes, size: int, offset: int) -> Entry | None:
        """Return a small file beside the entry before it, as nearly all are; None for `_entry` to look closer.

        The same rules in fewer calls, worth a tenth of an extraction: no prefix, a directory that passed
        `checked_path` as it is, and a name of at most 100 bytes that is no `.` or `..`.
        """
        name = block[:100].rstrip(b"\0")
        directory, _, base = name.rpartition(b"/")
        # without a directory the name could begin with a slash
        if not directory or directory != self._directory or block[345]:
            return None
        if not base or base[0] == 0x2E or _CONTROL.search(base):
            return None
        executable = number(block[100:108], "mode", offset) >> 6 & 1
        return Entry(name, FILE, size, executable, b"", offset, (self._stream.padded(size),) if size else ())

    def _path(self, name: bytes, what: str, offset: int) -> bytes:
        path = checked_path(name, self._limits, offset)
        self._directory = path.rpartition(b"/")[0] if path == name else None
        if not path and what != DIRECTORY:
            raise unsafe("names the destination itself", "ROOT", name, offset)
        return path

    def _target(self, block: bytes, what: str, pending: _Pending, name: bytes, offset: int) -> bytes:
        if what not in (SYMLINK, HARDLINK):
            return b""
        target = pending.pax.get(b"linkpath") or pending.link or _text(block[157:257])
        if not target or b"\0" in target or len(target) > self._limits.max_path_bytes:
            raise unsafe("has an empty or unusable link target", "LINK_TARGET", name, offset)
        return checked_path(target, self._limits, offset) if what == HARDLINK else target

    def _start_data(self, size: int, name: bytes, offset: int) -> None:
        if size > self._limits.max_member_bytes:
            raise limit(f"a member of {size} bytes", "MEMBER_TOO_LARGE", name, offset)
        self._left = size + -size % BLOCK

    def _whole(self, size: int) -> Iterable[bytes]:
        """Return the content: small ones at once, which spares a generator for each of a million files."""
        if size > _SMALL:
            return self._content(size)
        self._left = 0
        return (self._stream.padded(size),) if size else ()

    def _content(self, size: int) -> Iterator[bytes]:
        while size:
            piece = self._stream.piece(size)
            if not piece:
                raise damaged("ends too early", "TRUNCATED", offset=self._stream.offset)
            size -= len(piece)
            self._left -= len(piece)
            yield piece

    # --- sparse files

    def _sparse(self, block: bytes, kind: bytes, size: int, pax: dict[bytes, bytes], name: bytes, offset: int) -> Entry:
        self._start_data(size, name, offset)
        stored = size
        if kind == b"S":
            real = number(block[483:495], "real size", offset)
            pieces = self._old_gnu_map(block, offset)
        elif pax.get(b"GNU.sparse.major") == b"1" and pax.get(b"GNU.sparse.minor") == b"0":
            name = pax.get(b"GNU.sparse.name", name)
            real = _decimal(pax.get(b"GNU.sparse.realsize", b""), "real size", offset)
            pieces, used = self._pax_map(size, offset)
            stored -= used
        elif b"GNU.sparse.major" not in pax:  # format 0.1; 0.0 was brought to it
            name = pax.get(b"GNU.sparse.name", name)
            real = _decimal(pax.get(b"GNU.sparse.size", b""), "real size", offset)
            pieces = _inline_map(pax, offset)
        else:
            raise unsupported("a sparse file of an unknown pax format", "SPARSE", name, offset)
        _check_map(pieces, real, stored, name, offset)
        if real > self._limits.max_member_bytes:
            raise limit(f"a sparse member of {real} bytes", "MEMBER_TOO_LARGE", name, offset)
        return Entry(
            path=self._path(name, FILE, offset),
            kind=FILE,
            size=real,
            executable=number(block[100:108], "mode", offset) >> 6 & 1,
            offset=offset,
            chunks=self._filled(pieces, real),
        )

    def _old_gnu_map(self, block: bytes, offset: int) -> list[tuple[int, int]]:
        fields, more = block[386:482], block[482]
        pieces: list[tuple[int, int]] = []
        while True:
            for at in range(0, len(fields) - 23, 24):
                if fields[at : at + 24].strip(b"\0 "):
                    first = number(fields[at : at + 12], "sparse offset", offset)
                    pieces.append((first, number(fields[at + 12 : at + 24], "sparse size", offset)))
            if not more:
                return pieces
            if len(pieces) > _MAX_SPARSE:
                raise limit(f"more than {_MAX_SPARSE} pieces of a sparse file", "SPARSE", offset=offset)
            extension = self._stream.exact(BLOCK)
            fields, more = extension[:504], extension[504]

    def _pax_map(self, size: int, offset: int) -> tuple[list[tuple[int, int]], int]:
        """Read the map that stands before the data: decimal numbers, one a line, padded to a block."""
        numbers: list[int] = []
        used, text, wanted = 0, b"", 1
        while len(numbers) < wanted:
            if used + BLOCK > size:
                raise damaged("a sparse map without end", "SPARSE", offset=offset)
            text += self._stream.exact(BLOCK)
            used += BLOCK
            self._left -= BLOCK
            *lines, text = text.split(b"\n")
            numbers += [_decimal(line, "sparse map", offset) for line in lines[: wanted - len(numbers)]]
            if wanted == 1 and numbers:
                wanted = 1 + 2 * numbers[0]
                if numbers[0] > _MAX_SPARSE:
                    raise limit(f"more than {_MAX_SPARSE} pieces of a sparse file", "SPARSE", offset=offset)
                rest = lines[1:wanted]
                numbers += [_decimal(line, "sparse map", offset) for line in rest]
        return list(zip(numbers[1::2], numbers[2::2], strict=True)), used

    def _filled(self, pieces: list[tuple[int, int]], real: int) -> Iterator[bytes]:
        at = 0
        for first, size in [*pieces, (real, 0)]:
            while at < first:
                step = min(first - at, 1 << 18)
                yield bytes(step)
                at += step
            yield from self._content(size)
            at += size


def _inline_map(pax: dict[bytes, bytes], offset: int) -> list[tuple[int, int]]:
    """Return the map that stands in a pax header as numbers with commas between them."""
    text = pax.get(b"GNU.sparse.map", b"")
    numbers = [_decimal(one, "sparse map", offset) for one in text.split(b",")] if text else []
    pieces = list(zip(numbers[::2], numbers[1::2], strict=False))
    if 2 * len(pieces) != len(numbers) or pax.get(b"GNU.sparse.numblocks") != str(len(pieces)).encode():
        raise damaged("a sparse map that is not as long as it says", "SPARSE", offset=offset)
    if len(pieces) > _MAX_SPARSE:
        raise limit(f"more than {_MAX_SPARSE} pieces of a sparse file", "SPARSE", offset=offset)
    return pieces


def _check_map(pieces: list[tuple[int, int]], real: int, stored: int, name: bytes, offset: int) -> None:
    at = 0
    for first, size in pieces:
        if first < at or first + size > real:
            raise damaged("its sparse map overlaps or leaves the file", "SPARSE", name, offset)
        at = first + size
    if sum(size for _, size in pieces) != stored:
        raise damaged("its sparse map does not fit to its data", "SPARSE", name, offset)


def _kind(kind: bytes, name: bytes, size: int, offset: int) -> str:
    if kind not in _KINDS:
        reason = _REFUSED.get(kind, f"of the unknown type {kind!r}")
        raise unsafe(f"is {reason}", "TYPE", name, offset)
    what = _KINDS[kind]
    if what == FILE and name.endswith(b"/"):
        if size:
            raise unsafe("is a file with a name that ends in a slash", "FILE_AS_DIRECTORY", name, offset)
        what = DIRECTORY
    if what != FILE and size:
        raise unsafe(f"is a {what} with content", "LINK_WITH_CONTENT", name, offset)
    return what


def _sum(block: bytes) -> int:
    """Return the sum of 512 bytes: Adler-32's low half is 1 + the sum, exact below 65,521. Source: RFC 1950 8.2."""
    return (zlib.adler32(block[:256]) & 0xFFFF) + (zlib.adler32(block[256:]) & 0xFFFF) - 2


def _saturated(text: bytes) -> bool:
    """Whether an octal size field says only "too large for me", as writers do beside a pax size."""
    return text.strip(b" \0") in (b"77777777777", b"777777777777")


def _text(text: bytes) -> bytes:
    return text.partition(b"\0")[0]


def _name(block: bytes, pending: _Pending, offset: int) -> bytes:
    if b"path" in pending.pax:
        name = pending.pax[b"path"]
        if b"\0" in name:
            raise unsafe("has a NUL in its name", "NAME_CONTROL", name, offset)
        return name
    if pending.name is not None:
        return pending.name
    name = _text(block[:100])
    # GNU tar uses the prefix field for times: only POSIX's magic says that it is a prefix
    if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
        return prefix + b"/" + name
    return name


def _pax_records(data: bytes, offset: int) -> dict[bytes, bytes]:
    """Return the records, a line `LENGTH KEY=VALUE` each. Source: POSIX pax Extended Header.

    Raises:
        DamagedArchiveError: a wrong length, no newline, an empty or repeated keyword.
    """
    records: dict[bytes, bytes] = {}
    pieces: list[bytes] = []
    for key, value in _pax_lines(data, offset):
        if key in _SPARSE_PIECES:  # sparse format 0.0 repeats these two, in turn
            if key != _SPARSE_PIECES[len(pieces) % 2]:
                raise damaged("a broken sparse map", "SPARSE", offset=offset)
            pieces.append(value)
        elif key in records:
            raise unsafe(f"a pax header sets {key[:40]!r} twice", "PAX_TWICE", offset=offset)
        else:
            records[key] = value
    if pieces and records.setdefault(b"GNU.sparse.map", b",".join(pieces)) != b",".join(pieces):
        raise unsafe("two sparse maps", "PAX_TWICE", offset=offset)
    return records


def _pax_lines(data: bytes, offset: int) -> Iterator[tuple[bytes, bytes]]:
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
