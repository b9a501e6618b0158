"""Bytes of a zip outside of its members and its central directory: padding, or another zip in hiding.

Source: PKWARE APPNOTE.TXT 6.3.10 (section numbers below).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import BinaryIO, Final

from tasks_lib.archive.entries import unsafe_entry
from tasks_lib.archive.zip_directory import PREFIX_HINT, is_zero

_CHUNK: Final = 1 << 20
#: Headers of a zip: local, central, end, zip64 end, zip64 locator.
_SIGNATURES: Final = re.compile(rb"PK(?:\x03\x04|\x01\x02|\x05\x06|\x06\x06|\x06\x07)")
#: Bytes of the largest of their fixed parts, of the zip64 end.
_LARGEST: Final = 56
#: Maximum number of signatures in all gaps. The code of a self-extracting zip has a few in its instructions.
_MOST: Final = 10_000
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
        self._left = _MOST

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
            data = self._source.read(min(end - begin, _CHUNK + _LARGEST))
            for match in _SIGNATURES.finditer(data, 0, _CHUNK + 3):
                self._left -= 1
                at = match.start()
                if self._left < 0 or _is_header(data[at : at + _LARGEST], end - begin - at, prefix):
                    reason = "data that belongs to no member contains headers of another zip"
                    raise unsafe_entry(reason, "ZIP_TILING", offset=begin + at)
            begin += _CHUNK


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
