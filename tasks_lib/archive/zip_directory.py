"""The central directory of a zip, found, parsed and validated before any member is read.

Source: PKWARE APPNOTE.TXT 6.3.10 (section numbers below).
"""

from __future__ import annotations

import itertools
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from tasks_lib.archive.entries import (
    damaged_archive,
    limit_exceeded,
    option_hint,
    sniff_format,
    unsafe_entry,
    unsupported_archive,
    wrong_format,
)
from tasks_lib.errors import ArchiveError
from tasks_lib.limits import Limits

_CENTRAL: Final = struct.Struct("<4sHHHHHHIIIHHHHHII")  # 4.3.12
_END: Final = struct.Struct("<4sHHHHIIH")  # 4.3.16
_END64: Final = struct.Struct("<4sQHHIIQQQQ")  # 4.3.14
_LOCATOR64: Final = struct.Struct("<4sIQI")  # 4.3.15
_MAX32: Final = 0xFFFFFFFF
_MAX16: Final = 0xFFFF
#: Maximum size of a central directory in bytes: enough for a million members with names of 200 bytes.
_MAX_DIRECTORY: Final = 1 << 28
#: The hint for bytes that belong to no member.
PREFIX_HINT: Final = option_hint("zip-prefix")
_CHUNK: Final = 1 << 18
#: Hosts whose external attributes hold a Unix mode (4.4.2): Unix and macOS.
_UNIX: Final = (3, 19)


@dataclass(frozen=True, slots=True, kw_only=True)
class ZipMember:
    """The central directory's data of one member; `offset` is the position of its local header."""

    name: bytes
    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    mode: int
    host: int
    offset: int


class Directory:
    """The central directory of a seekable zip; `start` is its offset."""

    def __init__(self, source: BinaryIO, limits: Limits) -> None:
        """Read the directory and validate every member.

        Raises:
            ArchiveError: the archive is rejected (any subclass); the caller adds the archive's name.
        """
        self._source, self._limits = source, limits
        self._data = b""
        self._base = 0  # offset of the zip in the file: what precedes a self-extracting one is not in its offsets
        # each member's offset and its position in the directory; a million ZipMember objects would use more memory than
        # anything else, so each is created when it is needed, and once here for validation
        self._offsets, self._places = array("Q"), array("L")
        self.start = 0
        self._judge()

    def members(self) -> Iterator[tuple[ZipMember, int]]:
        """Yield the members in the order of their data, each with the offset of the next member or of the directory.

        Raises:
            UnsafeEntryError: `limits.duplicates` is "last", and the order of the directory differs from that of the
                data, so readers would choose different members.
        """
        offsets = self._offsets
        order = sorted(range(len(offsets)), key=offsets.__getitem__)
        if self._limits.duplicates == "last" and order != list(range(len(order))):
            reason = "members have different orders in central directory and data, so the last duplicate is ambiguous"
            raise unsafe_entry(reason, "ZIP_DISAGREE", offset=0)
        for number, following in itertools.zip_longest(order, order[1:]):
            member, _ = self._member(self._places[number])
            yield member, self.start if following is None else offsets[following]

    def _judge(self) -> None:
        """Find the directory and the position of each member, and validate them."""
        end_at, (_, disk, first_disk, here, count, size, start, _) = self._end()
        here, count, size, start, limit_at, at64 = self._end64(end_at, (here, count, size, start))
        if disk or first_disk or here != count:
            raise unsupported_archive("spans several disks", "ZIP_DISKS", offset=end_at)
        self._base = self._find_base(start, size, count, limit_at)
        if at64 >= 0 and at64 + self._base != limit_at:
            raise unsafe_entry("invalid zip64 locator", "ZIP64", offset=end_at)
        start += self._base
        if count > self._limits.max_entries:
            raise limit_exceeded(
                f"{count} entries, more than max-entries {self._limits.max_entries}",
                "TOO_MANY_ENTRIES", offset=start, least=count,
            )  # fmt: skip
        self._data, self.start, at = self._central(start, size, count), start, 0
        for _ in range(count):
            if at + _CENTRAL.size > size:
                raise damaged_archive("the central directory ends too early", "TRUNCATED", offset=start + at)
            member, following = self._member(at)
            self._offsets.append(member.offset)
            self._places.append(at)
            at = following
        if at != size:
            raise unsafe_entry("the central directory has data after its last member", "ZIP_TILING", offset=start + at)
        self._check_slashes()

    def _check_slashes(self) -> None:
        """Check that backslashes in names are not ambiguous (4.4.17.1: slashes only, but MS-DOS wrote backslashes)."""
        if b"\\" not in self._data:
            return
        odd: tuple[bytes, int] | None = None
        slashes = False
        for place in self._places:
            raw_name, host = self._raw_name(place)
            slashes = slashes or b"/" in raw_name
            if odd is None and b"\\" in raw_name and (host not in _UNIX or self._reads_backslashes):
                odd = raw_name, self.start + place
        if odd is None or (self._reads_backslashes and not slashes):
            return
        if slashes:
            reason, hint = "has a backslash in its name, and other names have slashes", ""
        else:
            reason, hint = "has a backslash in its name", option_hint("zip-backslash")
        raise unsafe_entry(reason, "ZIP_BACKSLASH", *odd, hint)

    @property
    def _reads_backslashes(self) -> bool:
        return self._limits.zip_backslash == "separator"

    def _raw_name(self, place: int) -> tuple[bytes, int]:
        """Return the name and the host of the member at a position in the central directory."""
        fields = _CENTRAL.unpack_from(self._data, place)
        begin = place + _CENTRAL.size
        return self._data[begin : begin + fields[10]], fields[1] >> 8

    def _find_base(self, start: int, size: int, count: int, limit_at: int) -> int:
        """Return the offset of the zip in the file, from the position of its directory before the end record.

        Raises:
            UnsafeEntryError: there is no directory at the offset in the end record, and nothing permits a prefix, or
                readers would find two directories.
        """
        if start + size <= limit_at and is_zero(self._source, start + size, limit_at):
            return 0
        base = limit_at - size - start
        reason = "the central directory is not at the offset in its end record"
        if base < 0 or (count and not self._is_directory(limit_at - size)):
            raise unsafe_entry(reason, "ZIP_TILING", offset=limit_at)
        if self._limits.zip_prefix != "ignore":
            raise unsafe_entry(f"{reason}, as in a self-extracting zip", "ZIP_TILING", None, limit_at, PREFIX_HINT)
        if self._is_directory(start):
            raise unsafe_entry("ambiguous: two central directories", "ZIP_TILING", offset=start)
        return base

    def _is_directory(self, at: int) -> bool:
        self._source.seek(at)
        return self._source.read(4) == b"PK\x01\x02"

    def _end(self) -> tuple[int, tuple[Any, ...]]:
        """Return the offset of the only end record, and its fields."""
        total = self._source.seek(0, 2)
        filled = _end_of_data(self._source, total)  # zeros may follow, and those of the record itself
        tail_at = max(0, filled - _END.size - _MAX16)
        tail = read_at(self._source, tail_at, min(total, filled + _END.size + _MAX16) - tail_at)
        ends = [at for at in _find_all(tail, b"PK\x05\x06") if at + _END.size <= len(tail)]
        ends = [at for at in ends if tail_at + at + _END.size + _END.unpack_from(tail, at)[7] <= total]
        matching = [at for at in ends if tail_at + at + _END.size + _END.unpack_from(tail, at)[7] >= filled]
        if not matching and self._limits.trailing == "ignore":
            matching = ends
        if not matching:
            raise self._no_end(total, option_hint("trailing") if ends else "")
        # some readers use the last end record, even if it does not match the end of the file
        if len(matching) > 1 or tail.rfind(b"PK\x05\x06") != matching[0]:
            raise unsafe_entry("ambiguous: several end records", "ZIP_END", offset=tail_at + matching[0])
        return tail_at + matching[0], _END.unpack_from(tail, matching[0])

    def _no_end(self, total: int, hint: str) -> ArchiveError:
        first = read_at(self._source, 0, min(total, 512))
        if sniff_format(first) == "zip":
            return damaged_archive(
                "no end-of-central-directory record at the end (truncated, or data after the archive)",
                "TRUNCATED",
                offset=total,
                hint=hint,
            )
        return wrong_format(first)

    def _end64(self, end_at: int, short: tuple[int, int, int, int]) -> tuple[int, int, int, int, int, int]:
        """Return the fields of the zip64 end record, if its locator precedes the end record, else `short`.

        They are followed by the offset of the first of the end records, and by the offset in the locator or -1. Without
        a locator, 0xFFFF is a number of members. Source: APPNOTE 4.3.14 to 4.3.16, 4.4.1.4.
        """
        locator_at = end_at - _LOCATOR64.size
        locator = read_at(self._source, max(0, locator_at), _LOCATOR64.size) if locator_at >= 0 else bytes(4)
        if locator[:4] != b"PK\x06\x07":
            if _MAX32 in short[2:]:
                raise damaged_archive("no zip64 end record", "ZIP64", offset=end_at)
            return *short, end_at, -1
        _, disk, stated, disks = _LOCATOR64.unpack(locator)
        at = locator_at - _END64.size
        if disk or disks > 1 or at < 0:
            raise unsafe_entry("invalid zip64 locator", "ZIP64", offset=end_at)
        magic, size64, _, _, disk, first, here, count, size, start = _END64.unpack(
            read_at(self._source, at, _END64.size)
        )
        if magic != b"PK\x06\x06" or size64 != _END64.size - 12 or disk or first:
            raise unsafe_entry("invalid zip64 end record", "ZIP64", offset=at)
        for old, new, top in zip(short, (here, count, size, start), (_MAX16, _MAX16, _MAX32, _MAX32), strict=True):
            if old not in (top, new):
                raise unsafe_entry("zip64 end record and end record differ", "ZIP64", offset=at)
        return here, count, size, start, at, stated

    def _central(self, start: int, size: int, count: int) -> bytes:
        # 4.3.12: maximum size of all members; name, extra field and comment of a member count as one metadata record
        if size > count * (_CENTRAL.size + min(3 * _MAX16, self._limits.max_metadata_bytes)) or size > _MAX_DIRECTORY:
            raise limit_exceeded(
                f"a central directory of {size} bytes for {count} members", "METADATA_TOO_LARGE", offset=start
            )
        return read_at(self._source, start, size)

    def _member(self, place: int) -> tuple[ZipMember, int]:
        """Return the member at a position in the central directory, and the position of the next one."""
        data = self._data
        fields = _CENTRAL.unpack_from(data, place)
        extra_at = place + _CENTRAL.size + fields[10]
        comment_at = extra_at + fields[11]
        raw_name, extra = data[place + _CENTRAL.size : extra_at], data[extra_at:comment_at]
        at = self.start + place
        magic, made_by, _, flags, method, _, _, crc, packed, size = fields[:10]
        disk, _, external, offset = fields[13:17]
        name = name_of(raw_name, flags, made_by >> 8)
        if self._reads_backslashes:
            name = name.replace(b"\\", b"/")
        if magic != b"PK\x01\x02":
            raise damaged_archive("invalid central directory header", "ZIP_HEADER", offset=at)
        if flags & 0x2041:
            raise unsupported_archive("is encrypted", "ZIP_ENCRYPTED", name, at)
        if method not in (0, 8) or flags & 0x20:  # 4.4.4 bit 5: a patch
            raise unsupported_archive(f"is compressed with unsupported method {method}", "ZIP_METHOD", name, at)
        size, packed, offset = apply_zip64(extra, (size, packed, offset), raw_name, name, at)
        if disk or (method == 0 and size != packed):
            raise unsafe_entry("has contradictory sizes or disk numbers", "ZIP_SIZE", name, at)
        if size > self._limits.max_member_bytes:
            maximum = self._limits.max_member_bytes
            reason = f"a member of {size} bytes, more than max-member-bytes {maximum}"
            raise limit_exceeded(reason, "MEMBER_TOO_LARGE", name, at, size)
        mode = _mode_of(made_by >> 8, external, name, at)
        member = ZipMember(
            name=name, raw_name=raw_name, flags=flags, method=method, crc=crc,
            packed=packed, size=size, mode=mode, host=made_by >> 8, offset=offset + self._base,
        )  # fmt: skip
        return member, comment_at + fields[12]


def read_at(source: BinaryIO, offset: int, size: int) -> bytes:
    """Return exactly `size` bytes at `offset`.

    Raises:
        DamagedArchiveError: the file ends first.
    """
    source.seek(offset)
    data = source.read(size)
    if len(data) != size:
        raise damaged_archive("truncated: the archive ends too early", "TRUNCATED", offset=offset)
    return data


def is_zero(source: BinaryIO, begin: int, end: int) -> bool:
    """Return whether all bytes from `begin` to `end` are zero: padding, which hides nothing."""
    source.seek(begin)
    while begin < end:
        chunk = source.read(min(end - begin, _CHUNK))
        if not chunk or chunk.count(0) != len(chunk):
            return False
        begin += len(chunk)
    return True


def _end_of_data(source: BinaryIO, total: int) -> int:
    """Return the offset after the last byte that is not zero."""
    while total:
        begin = max(0, total - _CHUNK)
        filled = read_at(source, begin, total - begin).rstrip(b"\0")
        if filled:
            return begin + len(filled)
        total = begin
    return 0


def _find_all(data: bytes, word: bytes) -> Iterator[int]:
    at = data.find(word)
    while at >= 0:
        yield at
        at = data.find(word, at + 1)


def _mode_of(host: int, external: int, name: bytes, at: int) -> int:
    """Return the Unix mode, 0 if there is none.

    Raises:
        UnsafeEntryError: readers would interpret the member differently.
    """
    mode = external >> 16
    if host in _UNIX:
        return mode
    if mode & 0o170000 not in (0, 0o100000, 0o040000):
        raise unsafe_entry("is a link or device, but its host system has none", "ZIP_DISAGREE", name, at)
    if external & 0x10 and not name.endswith(b"/"):  # 4.4.15, the directory attribute of MS-DOS
        raise unsafe_entry("is a directory without a trailing slash", "ZIP_DISAGREE", name, at)
    return 0


def name_of(raw: bytes, flags: int, host: int) -> bytes:
    """Return the name: unchanged if flagged as UTF-8 or made on Unix, else decoded from code page 437 (appendix D)."""
    if flags & 0x800 or host in _UNIX or raw.isascii():
        return raw
    return raw.decode("cp437").encode()


def apply_zip64(
    extra: bytes, short: tuple[int, int, int], raw_name: bytes, name: bytes, at: int
) -> tuple[int, int, int]:
    """Return sizes and offset, read from the zip64 field where the short fields refer to it (4.5.3).

    Raises:
        ArchiveError: the field is invalid or missing, or a Unicode name field differs from the name.
    """
    fields = _extra_fields(extra, name, at)
    unicode_name = fields.get(0x7075, b"")
    if unicode_name and unicode_name[5:] not in (raw_name, name):
        raise unsafe_entry("has two different names", "ZIP_DISAGREE", name, at)
    wanted = [index for index, value in enumerate(short) if value == _MAX32]
    if not wanted:
        return short
    zip64 = fields.get(1, b"")
    if len(zip64) < 8 * len(wanted):
        raise damaged_archive("the zip64 field is missing or too short", "ZIP64", name, at)
    values = list(short)
    for place, index in enumerate(wanted):
        values[index] = int.from_bytes(zip64[8 * place : 8 * place + 8], "little")
    return values[0], values[1], values[2]


def _extra_fields(extra: bytes, name: bytes, at: int) -> dict[int, bytes]:
    fields: dict[int, bytes] = {}
    position = 0
    while position < len(extra):
        if position + 4 > len(extra):
            if not extra[position:].strip(b"\0"):  # padding written by alignment tools
                break
            raise damaged_archive("invalid extra field", "ZIP_HEADER", name, at)
        identity, size = struct.unpack_from("<HH", extra, position)
        if position + 4 + size > len(extra) or (identity in fields and identity in (1, 0x7075)):
            raise damaged_archive("invalid extra field", "ZIP_HEADER", name, at)
        fields[identity] = extra[position + 4 : position + 4 + size]
        position += 4 + size
    return fields
