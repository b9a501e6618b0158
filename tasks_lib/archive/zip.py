"""Strict zip reader: local headers and central directory agree, and no other zip is hidden beside the members.

Two readers that interpret a zip differently see different content; an ambiguous archive is rejected.
Source: PKWARE APPNOTE.TXT 6.3.10 (section numbers below).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final

from tasks_lib.archive.entries import (
    DIRECTORY,
    FILE,
    SYMLINK,
    Entry,
    damaged_archive,
    keep_dot_components,
    normalize_path,
    unsafe_entry,
    validate_target,
)
from tasks_lib.archive.zip_directory import PREFIX_HINT, Directory, ZipMember, apply_zip64, is_zero, name_of, read_at
from tasks_lib.errors import UnsafeEntryError
from tasks_lib.limits import Limits

_CHUNK: Final = 1 << 18
_LOCAL: Final = struct.Struct("<4sHHHHHIIIHH")  # 4.3.7
_MAX32: Final = 0xFFFFFFFF
#: Types of members. Source: inode(7).
_KINDS: Final = {0o120000: SYMLINK, 0o040000: DIRECTORY, 0o100000: FILE, 0: FILE}
_FIFO: Final = 0o010000


class ZipReader:
    """Reader of the members of a seekable zip, in the order of their data.

    If the last of several members with the same name is kept (`limits.duplicates` is "last"), the central
    directory must be in that order too. `strip` has the same meaning as in `TarReader`.
    """

    def __init__(self, source: BinaryIO, limits: Limits, strip: int) -> None:
        self._source, self._limits, self._strip = source, limits, strip
        self.last: bytes | None = None  # the name of the member being read
        self.offset = 0  # of the member being read

    def entries(self) -> Iterator[Entry]:
        """Yield entries.

        Raises:
            ArchiveError: the archive is rejected (any subclass); the caller adds the archive's name.
        """
        directory = Directory(self._source, self._limits)
        gaps = GapChecker(self._source, self._limits.zip_prefix)
        at = 0
        for member, end in directory.members():
            self.last, self.offset = member.name, member.offset
            if at != member.offset:
                gaps.check(at, member.offset)
            begin, described = self._local(member)
            at = self._end_of(member, begin + member.packed, end, described)
            yield self._entry(member, begin)
        gaps.check(at, directory.start)

    def _local(self, member: ZipMember) -> tuple[int, str]:
        """Check the local header against the central one; return where the data begins, and if a descriptor follows it.

        The latter is "required", "optional" or "none" (4.3.9, 4.4.4 bit 3).
        """
        fields = _LOCAL.unpack(read_at(self._source, member.offset, _LOCAL.size))
        magic, _, flags, method, _, _, crc, packed, size = fields[:9]
        name_size, extra_size = int(fields[9]), int(fields[10])
        data = read_at(self._source, member.offset + _LOCAL.size, name_size + extra_size)
        name, extra = data[:name_size], data[name_size:]
        if magic != b"PK\x03\x04":
            reason = "no local header at the offset in the central directory"
            raise damaged_archive(reason, "ZIP_HEADER", member.name, member.offset)
        # the flag of UTF-8 may differ if the name does not; that of a descriptor may differ if the sizes do not
        differs = flags != member.flags and name_of(name, flags, member.host) != name_of(
            name, member.flags, member.host
        )
        if differs or (name, flags & 0x2041, method) != (member.raw_name, member.flags & 0x2041, member.method):
            raise _disagreement(member)
        size, packed, _ = apply_zip64(extra, (size, packed, 0), name, member.name, member.offset)
        local, central = (crc, packed, size), (member.crc, member.packed, member.size)
        begin = member.offset + _LOCAL.size + name_size + extra_size
        if local == central:
            return begin, "optional" if (flags | member.flags) & 8 else "none"
        if not flags & 8 or any(one not in (0, other) for one, other in zip(local, central, strict=True)):
            raise _disagreement(member)
        return begin, "required"

    def _end_of(self, member: ZipMember, at: int, end: int, described: str) -> int:
        """Return the end of the member at most `end`: the end of its data `at`, or of the descriptor that follows."""
        if at > end:
            raise unsafe_entry("overlaps the next member", "ZIP_TILING", member.name, member.offset)
        if described == "none":
            return at
        forms = (
            struct.pack("<4sIQQ", b"PK\x07\x08", member.crc, member.packed, member.size),
            struct.pack("<4sIII", b"PK\x07\x08", member.crc, member.packed & _MAX32, member.size & _MAX32),
        )
        following = read_at(self._source, at, min(end - at, len(forms[0])))
        for form in (*forms, *(form[4:] for form in forms)):
            if following.startswith(form):
                return at + len(form)
        if described == "required" or following.startswith(b"PK\x07\x08"):
            raise unsafe_entry(
                "data descriptor and central directory differ", "ZIP_DISAGREE", member.name, member.offset
            )
        return at

    def _entry(self, member: ZipMember, begin: int) -> Entry:
        kind = _kind_of(member)
        if kind == SYMLINK and not member.size:
            kind = FILE  # as unzip and pip extract it: a symlink to nothing cannot be created
        path = normalize_path(member.name, self._limits, member.offset)
        if not path and kind != DIRECTORY:
            raise unsafe_entry("has the destination directory itself as its name", "ROOT", member.name, member.offset)
        path = keep_dot_components(path, member.name, self._strip)
        target = b""
        if kind == SYMLINK:
            if member.size > self._limits.max_path_bytes:
                raise unsafe_entry("has a link target that is too long", "LINK_TARGET", member.name, member.offset)
            target = b"".join(self._content(member, begin))
            target = validate_target(target, SYMLINK, self._limits, member.name, member.offset)
        return Entry(
            path=path,
            kind=kind,
            size=member.size if kind == FILE else 0,
            executable=member.mode >> 6 & 1,
            target=target,
            offset=member.offset,
            chunks=self._content(member, begin),
        )

    def _content(self, member: ZipMember, begin: int) -> Iterator[bytes]:
        crc = got = 0
        for chunk in self._unpacked(member, begin):
            crc = zlib.crc32(chunk, crc)
            got += len(chunk)
            if got > member.size:
                break
            yield chunk
        if got != member.size:
            raise damaged_archive(f"expected {member.size} bytes, got {got}", "ZIP_SIZE", member.name, member.offset)
        if crc != member.crc:
            raise damaged_archive("wrong checksum", "CHECKSUM", member.name, member.offset)

    def _unpacked(self, member: ZipMember, begin: int) -> Iterator[bytes]:
        decoder = zlib.decompressobj(wbits=-15)
        at, left = begin, member.packed
        while left:
            packed = read_at(self._source, at, min(left, _CHUNK))
            at, left = at + len(packed), left - len(packed)
            if member.method == 0:
                yield packed
                continue
            try:
                while packed and not decoder.eof:
                    if chunk := decoder.decompress(packed, _CHUNK):
                        yield chunk
                    packed = decoder.unconsumed_tail
            except zlib.error as error:
                raise damaged_archive(
                    f"damaged compressed data: {error}", "CORRUPT", member.name, member.offset
                ) from error
            if decoder.eof and (decoder.unused_data or left):
                raise damaged_archive(
                    "data after the compressed stream", "TRAILING_GARBAGE", member.name, member.offset
                )
        if member.method == 8:
            yield from self._flushed(decoder, member)

    def _flushed(self, decoder: zlib._Decompress, member: ZipMember) -> Iterator[bytes]:
        while not decoder.eof:
            chunk = decoder.decompress(b"", _CHUNK)
            if not chunk:
                raise damaged_archive(
                    "truncated in the middle of the compressed data", "TRUNCATED", member.name, member.offset
                )
            yield chunk


def _disagreement(member: ZipMember) -> UnsafeEntryError:
    return unsafe_entry("local header and central directory differ", "ZIP_DISAGREE", member.name, member.offset)


def _kind_of(member: ZipMember) -> str:
    kind = _KINDS.get(member.mode & 0o170000)
    if kind is None and (member.name == b"-" or (member.mode & 0o170000 == _FIFO and member.size)):
        kind = FILE  # what Info-ZIP read from its standard input or, with -FI, from a FIFO. Source: zip(1)
    if kind is None:
        raise unsafe_entry("is a device, FIFO or socket", "TYPE", member.name, member.offset)
    if not member.name.endswith(b"/"):
        if kind == DIRECTORY:
            raise unsafe_entry("is a directory without a trailing slash", "ZIP_DISAGREE", member.name, member.offset)
        return kind
    if kind == SYMLINK or member.size:
        raise unsafe_entry("is a directory with content", "LINK_WITH_CONTENT", member.name, member.offset)
    return DIRECTORY


#: Bytes that belong to no member and are searched at a time.
_SEARCHED: Final = 1 << 20
#: Headers of a zip: local, central, end, zip64 end, zip64 locator.
_SIGNATURES: Final = re.compile(rb"PK(?:\x03\x04|\x01\x02|\x05\x06|\x06\x06|\x06\x07)")
#: Bytes of the largest of their fixed parts, of the zip64 end.
_LARGEST_HEADER: Final = 56
#: Maximum number of signatures in all gaps. The code of a self-extracting zip has a few in its instructions.
_MAX_SIGNATURES: Final = 10_000
#: Compression methods (4.4.5) and the highest version of a reader (4.4.3).
_METHODS: Final = frozenset({*range(21), *range(93, 100)})
_VERSION: Final = 63


class GapChecker:
    """Checks of the bytes that belong to no member, in their order.

    If `prefix` is "refuse", they must be zero. If it is "ignore", they may be anything that no reader takes for headers
    of another zip. A program that reads a self-extracting zip from its start, or searches for an end record, would find
    other members there than the central directory names. Between members, old data of replaced members may remain.
    """

    def __init__(self, source: BinaryIO, prefix: str) -> None:
        self._source, self._prefix = source, prefix
        self._left = _MAX_SIGNATURES

    def check(self, begin: int, end: int) -> None:
        """Check the bytes from `begin` to `end`.

        Raises:
            UnsafeEntryError: `end` is less than `begin`, or the bytes are not accepted.
        """
        if begin == end:
            return
        if begin > end:
            raise unsafe_entry("gap or overlap before this member", "ZIP_TILING", offset=end)
        if is_zero(self._source, begin, end):
            return
        if self._prefix != "ignore":
            raise unsafe_entry("data that belongs to no member", "ZIP_TILING", offset=begin, hint=PREFIX_HINT)
        self._search(begin, end)

    def _search(self, begin: int, end: int) -> None:
        prefix = begin == 0
        while begin < end:
            self._source.seek(begin)
            data = self._source.read(min(end - begin, _SEARCHED + _LARGEST_HEADER))
            for match in _SIGNATURES.finditer(data, 0, _SEARCHED + 3):
                self._left -= 1
                at = match.start()
                if self._left < 0 or _is_header(data[at : at + _LARGEST_HEADER], end - begin - at, prefix):
                    reason = "data that belongs to no member contains headers of another zip"
                    raise unsafe_entry(reason, "ZIP_TILING", offset=begin + at)
            begin += _SEARCHED


def _is_header(data: bytes, room: int, prefix: bool) -> bool:
    """Return whether `data` begins with a header that fits into `room` bytes.

    A local header counts only before the first member, where readers that need no central directory begin.
    """
    judge = _JUDGES[data[2:4]]
    return (prefix or data[2:4] != b"\x03\x04") and judge(data, room)


def _is_local(data: bytes, room: int) -> bool:
    if len(data) < 30:
        return False
    version, _, method, _, _, _, _, _, name, extra = struct.unpack_from("<HHHHHIIIHH", data, 4)
    return version & 0xFF <= _VERSION and method in _METHODS and name > 0 and 30 + name + extra <= room


def _is_central(data: bytes, room: int) -> bool:
    if len(data) < 46:
        return False
    fields = struct.unpack_from("<HHHHHHIIIHHHHHII", data, 4)
    version, method, (name, extra, comment, disk) = fields[1], fields[3], fields[9:13]
    fits = name > 0 and 46 + name + extra + comment <= room
    return version & 0xFF <= _VERSION and method in _METHODS and not disk and fits


def _is_end(data: bytes, room: int) -> bool:
    if len(data) < 22:
        return False
    disk, first, here, count, size, _, comment = struct.unpack_from("<HHHHIIH", data, 4)
    return not disk and not first and here == count and size >= 46 * count and 22 + comment <= room


def _is_end64(data: bytes, _room: int) -> bool:
    return len(data) >= 56 and struct.unpack_from("<Q", data, 4)[0] >= 44 and data[16:24] == bytes(8)


def _is_locator64(data: bytes, _room: int) -> bool:
    return len(data) >= 20 and data[4:8] == bytes(4) and data[16:20] == b"\1\0\0\0"


_JUDGES: Final[dict[bytes, Callable[[bytes, int], bool]]] = {
    b"\x03\x04": _is_local,
    b"\x01\x02": _is_central,
    b"\x05\x06": _is_end,
    b"\x06\x06": _is_end64,
    b"\x06\x07": _is_locator64,
}
