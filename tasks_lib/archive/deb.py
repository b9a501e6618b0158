"""Debian packages: finds the data archive in a strict ar archive.

The members are debian-binary, control.tar.* and data.tar.*, in this order. Members between them whose names begin with
`_`, and all members after data.tar.*, are ignored, except a second control or data archive.

Source: deb(5) "FORMAT"; ar(5) for the 60-byte header of each member.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO, Final

from tasks_lib.archive.codecs import decompress, remaining_size
from tasks_lib.archive.entries import damaged_archive, unsafe_entry, unsupported_archive, wrong_format
from tasks_lib.archive.tar import TarReader
from tasks_lib.errors import ArchiveError
from tasks_lib.limits import Limits

MAGIC: Final = b"!<arch>\n"
_HEADER: Final = 60
#: Largest number of members. Real packages have three to five.
_MAX_MEMBERS: Final = 100
_KINDS: Final = {
    b"": "tar", b".gz": "tar.gz", b".bz2": "tar.bz2", b".lzma": "tar.lzma", b".xz": "tar.xz", b".zst": "tar.zst",
}  # fmt: skip


class _ArMember(io.RawIOBase):
    """A read-only view of a byte range of a file."""

    def __init__(self, source: BinaryIO, start: int, size: int) -> None:
        self._source, self._start, self._size = source, start, size
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes."""
        left = self._size - self._at
        self._source.seek(self._start + self._at)
        data = self._source.read(left if size < 0 else min(size, left))
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Set the position and return it."""
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def tell(self) -> int:
        """Return the current position."""
        return self._at


def open_data_archive(source: BinaryIO, limits: Limits) -> tuple[BinaryIO, str]:
    """Return the data archive of a package and its format; the control archive is validated too.

    Raises:
        ArchiveError: the package is rejected (any subclass); the caller adds the archive's name.
    """
    members = _required_members(list(_members(source)))
    names = [name for name, _ in members]
    kinds = [
        _KINDS.get(name.removeprefix(stem))
        for name, stem in zip(names[1:], (b"control.tar", b"data.tar"), strict=False)
    ]
    if len(names) != 3 or names[0] != b"debian-binary" or None in kinds:
        shown = b", ".join(name[:20] for name in names[:5])
        raise unsupported_archive("expected the members debian-binary, control.tar.* and data.tar.*", "DEB", shown, 0)
    version = members[0][1].read(16)
    if not version.startswith(b"2."):
        raise unsupported_archive(f"unsupported package version {version!r}, expected 2.x", "DEB", b"debian-binary", 0)
    control = TarReader(decompress(members[1][1], str(kinds[0]), limits), limits)
    try:
        for _ in control.entries():
            pass
    except ArchiveError as error:
        raise type(error)(
            archive="",
            reason=f"in the control archive: {error.reason}",
            code=error.code,
            entry=names[1],
            offset=control.offset,
            hint=error.hint,
        ) from error
    return members[2][1], str(kinds[1])


def _required_members(members: list[tuple[bytes, BinaryIO]]) -> list[tuple[bytes, BinaryIO]]:
    """Return the members that a reader must not ignore; the caller checks their number and order."""
    required: list[tuple[bytes, BinaryIO]] = []
    for name, part in members:
        is_archive = name.startswith((b"control.tar", b"data.tar"))
        if is_archive or (len(required) < 3 and not (required and name.startswith(b"_"))):
            required.append((name, part))
    return required


def _members(source: BinaryIO) -> Iterator[tuple[bytes, BinaryIO]]:
    end = remaining_size(source)
    at = len(MAGIC)
    first = source.read(512)
    if not first.startswith(MAGIC):
        raise wrong_format(first)
    for _ in range(_MAX_MEMBERS + 1):
        if at == end:
            return
        source.seek(at)
        header = source.read(_HEADER)
        name, size_text = header[:16].rstrip(b" ").removesuffix(b"/"), header[48:58].rstrip(b" ")
        if len(header) < _HEADER:
            raise damaged_archive("truncated in the middle of a header", "TRUNCATED", offset=at)
        if header[58:] != b"`\n" or not size_text.isdigit():
            raise damaged_archive("invalid ar header", "DEB", name, at)
        start, size = at + _HEADER, int(size_text)
        if start + size > end:
            raise damaged_archive("truncated: the file ends inside this member", "TRUNCATED", name, at)
        part = _ArMember(source, start, size)
        yield name, part  # type: ignore[misc]  # it has the methods of BinaryIO that are used
        at = start + size + size % 2
        if at > end:
            raise damaged_archive("truncated: the file ends inside this member", "TRUNCATED", name, at)
    raise unsafe_entry(f"more than {_MAX_MEMBERS} members", "DEB", offset=at)
