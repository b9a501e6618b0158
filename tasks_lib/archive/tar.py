"""Strict tar reader: ustar, GNU and pax, with sparse files; nothing is guessed, no data may follow the end.

Source: POSIX.1-2017 pax (ustar Interchange Format), GNU tar manual "Basic Tar Format".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from tasks_lib.archive.entries import (
    DIRECTORY,
    FILE,
    HARDLINK,
    HOLE,
    SYMLINK,
    Entry,
    damaged_archive,
    describe_content,
    keep_dot_components,
    limit_exceeded,
    normalize_path,
    option_hint,
    unsafe_entry,
    validate_target,
)
from tasks_lib.archive.exact_reader import BLOCK, ExactReader, byte_sum, decode_number, parse_decimal, parse_number
from tasks_lib.archive.pax import (
    MAX_ALL_PIECES,
    SPARSE,
    PendingExtensions,
    SparseMap,
    read_old_gnu_sparse,
    read_pax_sparse,
)
from tasks_lib.archive.small_files import SMALL, Item, SmallFileReader
from tasks_lib.limits import Limits

_ZEROS: Final = bytes(BLOCK)
_KINDS: Final = {b"0": FILE, b"\0": FILE, b"7": FILE, b"S": FILE, b"1": HARDLINK, b"2": SYMLINK, b"5": DIRECTORY}
_REFUSED: Final = {
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
    b"M": "a part of a multi-volume file",
    b"D": "a dump directory",
}
#: Maximum number of pax records: a constant plus a number per header; real headers have fewer than ten. Without it a
#: few kilobytes that repeat one large header would take minutes.
MAX_SPARE_RECORDS: Final = 1_000_000
_RECORDS_EACH: Final = 16


class TarReader:
    """Reader of tar entries; `entries()` can be called once."""

    def __init__(self, chunks: Iterator[bytes], limits: Limits, strip: int = 0) -> None:
        """Create the reader; `strip` is the number of components that the caller drops, see `keep_dot_components`."""
        self._stream = ExactReader(chunks)
        self._limits, self._strip = limits, strip
        self._small_files = SmallFileReader(limits)
        self._extensions = self._records = self._pieces = 0
        self.last: bytes | None = None  # the name of the entry being read
        self.mode = 0  # of the last entry that is not a plain file
        self._left = 0  # bytes of the current entry's data, padding included

    @property
    def offset(self) -> int:
        """The number of bytes read so far."""
        return self._stream.offset

    def entries(self) -> Iterator[Item]:
        """Yield entries, small files of one directory together; skip content that the caller did not read.

        Raises:
            ArchiveError: the archive is rejected (any subclass); the caller adds the archive's name.
        """
        pending = PendingExtensions()
        while (block := self._next_header()) is not None:
            offset = self._stream.offset - BLOCK
            kind = block[156:157]
            size = parse_number(block[124:136], "size", offset)
            if kind in b"xXgLKV":
                self._extend(pending, kind, size, offset)
                continue
            yield self._entry(block, kind, size, pending, offset)
            if self._left:
                self._stream.skip(self._left)
                self._left = 0
            if pending:
                pending = PendingExtensions()
            elif (files := self._small_files.read(self._stream)) is not None:
                self.last = self._small_files.last
                yield files
        if pending:
            raise damaged_archive("an extension header without an entry", "DANGLING", offset=self._stream.offset)

    def _next_header(self) -> bytes | None:
        offset = self._stream.offset
        block = self._stream.piece(BLOCK)
        if not block:
            if offset and self._limits.end == "missing":
                return None
            hint = option_hint("end") if offset else ""
            raise damaged_archive("truncated: no end-of-archive block", "NO_END", offset=offset, hint=hint)
        if len(block) < BLOCK:
            block = self._whole_block(block, offset)
        if not block[0] and block == _ZEROS:
            self._skip_after_end(offset)
            return None
        if not offset and block[257:262] != b"ustar" and not _has_checksum(block):
            raise damaged_archive(
                f"not a tar archive: the content looks like {describe_content(block)}", "WRONG_FORMAT", offset=0
            )
        parse_number(block[148:156], "checksum", offset)
        if not _has_checksum(block):
            raise damaged_archive("wrong header checksum", "CHECKSUM", offset=offset)
        return block

    def _skip_after_end(self, offset: int) -> None:
        """Read to the end of the stream, so that its checksums are verified."""
        while rest := self._stream.piece(1 << 18):
            if self._limits.trailing != "ignore" and rest.count(0) != len(rest):
                hint = option_hint("trailing")
                raise damaged_archive("data after the end of the archive", "TRAILING_GARBAGE", offset=offset, hint=hint)

    def _whole_block(self, block: bytes, offset: int) -> bytes:
        """Return a header that is split across chunks.

        Raises:
            DamagedArchiveError: the stream ends first.
        """
        while len(block) < BLOCK:
            piece = self._stream.piece(BLOCK - len(block))
            if not piece and not offset:
                raise damaged_archive(
                    f"not a tar archive: the content looks like {describe_content(block)}", "WRONG_FORMAT", offset=0
                )
            if not piece:
                raise damaged_archive("truncated in the middle of a header", "TRUNCATED", offset=self._stream.offset)
            block += piece
        return block

    def _extend(self, pending: PendingExtensions, kind: bytes, size: int, offset: int) -> None:
        self._extensions += 1
        if self._extensions > 2 * self._limits.max_entries:
            raise limit_exceeded("more extension headers than twice max-entries", "TOO_MANY_ENTRIES", offset=offset)
        maximum = self._limits.max_metadata_bytes
        if size > maximum:
            reason = f"metadata of {size} bytes, more than max-metadata-bytes {maximum}"
            raise limit_exceeded(reason, "METADATA_TOO_LARGE", None, offset, size)
        data = self._stream.padded(size)
        self._records += data.count(b"\n")  # about one for each pax record; values may contain more
        if self._records > MAX_SPARE_RECORDS + _RECORDS_EACH * self._extensions:
            reason = f"more pax records than {MAX_SPARE_RECORDS} and {_RECORDS_EACH} for each extension header"
            raise limit_exceeded(reason, "METADATA_TOO_LARGE", None, offset, limit="")
        pending.add(kind, data, offset)

    def _entry(self, block: bytes, kind: bytes, size: int, pending: PendingExtensions, offset: int) -> Entry:
        pax = pending.pax
        name = self.last = _name(block, pending, offset)
        if b"size" in pax:
            declared = parse_decimal(pax[b"size"], "size", offset)
            if size not in (0, declared) and not _is_saturated(block[124:136]):
                raise unsafe_entry("pax and ustar header declare different sizes", "PAX_SIZE", name, offset)
            size = declared
        if b"SCHILY.realsize" in pax and parse_decimal(pax[b"SCHILY.realsize"], "real size", offset) != size:
            raise unsafe_entry(
                "is a sparse file in star's format, which tools read differently", "SPARSE", name, offset
            )
        what = _kind(kind, name, size, offset)
        marks = kind == b"S", any(key.startswith(SPARSE) for key in pax)
        if any(marks):
            if what != FILE or all(marks):
                raise unsafe_entry("has two sparse formats, or is not a file", "SPARSE", name, offset)
            return self._sparse(block, kind, size, pax, name, offset)
        self._start_data(size, name, offset)
        path = self._path(block, name, what, offset)
        self.mode = parse_number(block[100:108], "mode", offset)
        executable = self.mode >> 6 & 1
        if what != FILE:
            return Entry(path, what, 0, executable, self._target(block, what, pending, name, offset), offset)
        return Entry(path, what, size, executable, b"", offset, self._whole(size))

    def _path(self, block: bytes, name: bytes, what: str, offset: int) -> bytes:
        path = normalize_path(name, self._limits, offset)
        if not path and what != DIRECTORY:
            raise unsafe_entry("has the destination directory itself as its name", "ROOT", name, offset)
        path = keep_dot_components(path, name, self._strip)
        self._small_files.remember(block, name, path, what)
        return path

    def _target(self, block: bytes, what: str, pending: PendingExtensions, name: bytes, offset: int) -> bytes:
        if what not in (SYMLINK, HARDLINK):
            return b""
        target = pending.pax.get(b"linkpath", pending.link)
        if target is None:
            target = _field(block[157:257], name, offset)
        checked = validate_target(target, what, self._limits, name, offset)
        return keep_dot_components(checked, target, self._strip) if what == HARDLINK else checked

    def _start_data(self, size: int, name: bytes, offset: int) -> None:
        if size > self._limits.max_member_bytes:
            raise limit_exceeded(
                f"a member of {size} bytes, more than max-member-bytes {self._limits.max_member_bytes}",
                "MEMBER_TOO_LARGE", name, offset, size,
            )  # fmt: skip
        self._left = size + -size % BLOCK

    def _whole(self, size: int) -> Iterable[bytes]:
        """Return the content, a small one as one piece: this avoids a generator for each of a million files."""
        if size > SMALL:
            return self._content(size)
        self._left = 0
        return (self._stream.padded(size),) if size else ()

    def _content(self, size: int) -> Iterator[bytes]:
        while size:
            piece = self._stream.piece(size)
            if not piece:
                raise damaged_archive("truncated: the archive ends too early", "TRUNCATED", offset=self._stream.offset)
            size -= len(piece)
            self._left -= len(piece)
            yield piece

    def _sparse(self, block: bytes, kind: bytes, size: int, pax: dict[bytes, bytes], name: bytes, offset: int) -> Entry:
        self._start_data(size, name, offset)
        if kind == b"S":
            sparse = read_old_gnu_sparse(block, self._stream, size, name, offset)
        else:
            sparse = read_pax_sparse(pax, self._stream, size, name, offset)
        self._pieces += len(sparse.pieces)
        if self._pieces > MAX_ALL_PIECES:
            reason = f"sparse files of more than {MAX_ALL_PIECES} pieces in total"
            raise limit_exceeded(reason, "SPARSE", sparse.name, offset)
        if sparse.real > self._limits.max_member_bytes:
            raise limit_exceeded(
                f"a sparse member of {sparse.real} bytes, more than max-member-bytes {self._limits.max_member_bytes}",
                "MEMBER_TOO_LARGE", sparse.name, offset, sparse.real,
            )  # fmt: skip
        self._left -= sparse.used
        if sparse.name.endswith(b"/"):
            raise unsafe_entry("is a file, but its name ends with a slash", "FILE_AS_DIRECTORY", sparse.name, offset)
        path = self._path(block, sparse.name, FILE, offset)
        executable = parse_number(block[100:108], "mode", offset) >> 6 & 1
        return Entry(path, FILE, sparse.real, executable, b"", offset, self._filled(sparse))

    def _filled(self, sparse: SparseMap) -> Iterator[bytes]:
        at = 0
        for first, size in [*sparse.pieces, (sparse.real, 0)]:
            while at < first:
                step = min(first - at, len(HOLE))
                yield HOLE if step == len(HOLE) else bytes(step)
                at += step
            yield from self._content(size)
            at += size


def _kind(kind: bytes, name: bytes, size: int, offset: int) -> str:
    if kind not in _KINDS:
        reason = _REFUSED.get(kind, f"an entry of unknown type {kind!r}")
        raise unsafe_entry(f"is {reason}", "TYPE", name, offset)
    what = _KINDS[kind]
    if what == FILE and name.endswith(b"/"):
        if size:
            raise unsafe_entry("is a file, but its name ends with a slash", "FILE_AS_DIRECTORY", name, offset)
        what = DIRECTORY
    if what != FILE and size:
        raise unsafe_entry(f"is a {what} with content", "LINK_WITH_CONTENT", name, offset)
    return what


def _has_checksum(block: bytes) -> bool:
    """Return whether the checksum matches: the sum of all bytes with its own field as spaces.

    Some writers summed signed bytes; that sum is accepted too.
    """
    wanted = decode_number(block[148:156])
    actual = byte_sum(block[:148]) + byte_sum(block[156:345]) + byte_sum(block[345:]) + 8 * 0x20
    if wanted == actual:
        return True
    signed = actual - 256 * sum(byte > 127 for byte in block[:148] + block[156:])
    return wanted >= 0 and wanted == signed


def _is_saturated(text: bytes) -> bool:
    """Return whether an octal size field has its maximum value, which writers use together with a pax size."""
    return text.strip(b" \0") in (b"77777777777", b"777777777777")


def _field(text: bytes, name: bytes, offset: int) -> bytes:
    """Return the text of a fixed-size field.

    Raises:
        UnsafeEntryError: other bytes follow the NUL, which some readers could include in the text.
    """
    value, _, after = text.partition(b"\0")
    if after.strip(b"\0"):
        raise unsafe_entry("has a NUL character in its name or link target", "NAME_CONTROL", name, offset)
    return value


def _name(block: bytes, pending: PendingExtensions, offset: int) -> bytes:
    if b"path" in pending.pax:
        return pending.pax[b"path"]
    if pending.name is not None:
        return pending.name
    name = _field(block[:100], block[:100].rstrip(b"\0"), offset)
    # GNU tar stores times in the prefix field: it is a prefix only if the magic is that of POSIX
    if name and block[257:263] == b"ustar\0" and block[345]:
        prefix = block[345:500].partition(b"\0")[0]  # star stores times at the end of this field
        return prefix + b"/" + name
    return name
