"""Tar headers of entries: ustar, preceded by a pax header where ustar fields are too small.

Source: POSIX.1-2017 pax (ustar Interchange Format, pax Header Block).
"""

from __future__ import annotations

import functools
from typing import Final, NamedTuple

from tasks_lib.archive.entries import DIRECTORY, FILE, HARDLINK, SYMLINK, Entry
from tasks_lib.archive.exact_reader import BLOCK, byte_sum

#: A symlink has no mode of its own: Linux reports 0777.
_MODES: Final = {SYMLINK: 0o777, DIRECTORY: 0o755}
_TYPES: Final = {FILE: b"0", HARDLINK: b"1", SYMLINK: b"2", DIRECTORY: b"5"}
#: User and group.
_OWNERS: Final = 2 * b"0000000\0"
#: The largest user or group id that fits into its field.
LARGEST_ID: Final = 8**7 - 1
#: The extended attribute with the capabilities of a program. Source: star(5), SCHILY.xattr; capabilities(7), "File
#: capabilities"; the same record in layers of Docker and Podman.
_CAPABILITIES: Final = b"SCHILY.xattr.security.capability"
#: The smallest size that does not fit into the field.
_TOO_LARGE: Final = 8**11


def header_size(entry: Entry) -> int:
    """Return the size of an entry's header in bytes; most are known to be one block without being formatted."""
    if len(entry.path) < 100 and len(entry.target) <= 100 and entry.size < _TOO_LARGE:
        return BLOCK
    return len(format_header(entry, 0))


class Attributes(NamedTuple):
    """Mode, owner and modification time (in seconds since 1970) of an entry in a root file system."""

    mode: int
    user: int
    group: int
    mtime: int
    capabilities: bytes = b""


def format_header(entry: Entry, mtime: int) -> bytes:
    """Return the header of an entry; `mtime` is its modification time in seconds since 1970."""
    mode = _MODES.get(entry.kind) or (0o755 if entry.executable else 0o644)
    return _format(entry, mode, _OWNERS, mtime, b"")


def format_owned_header(entry: Entry, own: Attributes) -> bytes:
    """Return the header of an entry with its own attributes; ids are at most `LARGEST_ID`."""
    owners = b"%07o\0%07o\0" % (own.user, own.group)
    records = _record(_CAPABILITIES, own.capabilities) if own.capabilities else b""
    return _format(entry, own.mode, owners, own.mtime, records)


def _format(entry: Entry, mode: int, owners: bytes, mtime: int, attributes: bytes) -> bytes:
    """Return a header; `attributes` are pax records besides those of the names and the size."""
    name = entry.path + (b"/" if entry.kind == DIRECTORY else b"")
    records = b""
    prefix, short = _split(name)
    if short is None:
        records += _record(b"path", name)
        prefix, short = b"", name[:100]
    link = entry.target if entry.kind in (SYMLINK, HARDLINK) else b""
    if len(link) > 100:
        records += _record(b"linkpath", link)
        link = link[:100]
    size = entry.size if entry.kind == FILE else 0
    if size >= _TOO_LARGE:
        records += _record(b"size", str(size).encode())
        size = 0
    block = _block(short, mode, owners, size, mtime, _tail(_TYPES[entry.kind], link, prefix))
    if not records and not attributes:
        return block
    if not records.isascii():
        records = _encoding_record(records) + records
    records += attributes
    # POSIX does not prescribe the name of the extension header
    extension = _block(b"././@PaxHeader", 0o644, _OWNERS, len(records), mtime, _tail(b"x", b"", b""))
    return extension + records + bytes(-len(records) % BLOCK) + block


def _encoding_record(records: bytes) -> bytes:
    """Return a record that declares names as bytes if they are not UTF-8, else b"".

    Source: POSIX pax, keyword hdrcharset.
    """
    try:
        records.decode("utf-8")
    except UnicodeDecodeError:
        return _record(b"hdrcharset", b"BINARY")
    return b""


def _split(name: bytes) -> tuple[bytes, bytes | None]:
    """Return ustar's prefix and name fields; the name is None when it does not fit."""
    if len(name) <= 100:
        return b"", name
    at = name.find(b"/", len(name) - 101, 156)
    if at <= 0 or len(name) > 256 or len(name) - at - 1 > 100 or at > 155 or at == len(name) - 1:
        return b"", None
    return name[:at], name[at + 1 :]


def _record(key: bytes, value: bytes) -> bytes:
    """Return a pax record; its length includes its own digits."""
    body = b" " + key + b"=" + value + b"\n"
    size = len(body)
    while len(str(size)) + len(body) != size:
        size = len(str(size)) + len(body)
    return str(size).encode() + body


@functools.lru_cache(256)  # plain files share one value
def _tail(kind: bytes, link: bytes, prefix: bytes) -> tuple[bytes, int]:
    """Return a header from its type field on, and its share of the checksum, including the checksum field as spaces."""
    fields = b"".join(
        (
            kind, link.ljust(100, b"\0"), b"ustar\x0000", bytes(64), b"0000000\0", b"0000000\0",
            prefix.ljust(155, b"\0"), bytes(12),
        )
    )  # fmt: skip
    return fields, byte_sum(fields[:189]) + byte_sum(fields[189:]) + 8 * 0x20


def _block(name: bytes, mode: int, owners: bytes, size: int, mtime: int, tail: tuple[bytes, int]) -> bytes:
    numbers = b"%07o\0%b%011o\0%011o\0" % (mode, owners, size, mtime)
    front = name.ljust(100, b"\0") + numbers
    rest, counted = tail
    return front + b"%06o\0 " % (byte_sum(front) + counted) + rest
