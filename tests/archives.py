"""Hand-made archives, so that a test controls every byte."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Member:
    """One tar member; a name that ends in a slash is a directory unless `kind` says otherwise."""

    name: str
    content: bytes = b""
    kind: bytes = b""
    target: str = ""
    mode: int = 0o644
    mtime: int = 1
    prefix: str = ""


def field(text: str, size: int) -> bytes:
    r"""Return a text field; `\udcXX` represents a byte that is not valid UTF-8."""
    return text.encode("utf-8", "surrogateescape").ljust(size, b"\0")[:size]


def tar_header(member: Member, size: bytes | None = None, magic: bytes = b"ustar\x0000") -> bytes:
    """Return the header of a member, with a right checksum over whatever the size field says."""
    kind = member.kind or (b"5" if member.name.endswith("/") else b"0")
    fields = [
        field(member.name, 100),
        b"%07o\0" % member.mode,
        b"0001750\0" * 2,
        size if size is not None else b"%011o\0" % len(member.content),
        b"%011o\0" % member.mtime,
        b" " * 8,
        kind,
        field(member.target, 100),
        magic,
        b"user".ljust(32, b"\0"),
        b"group".ljust(32, b"\0"),
        bytes(8 + 8),
        field(member.prefix, 155),
        bytes(12),
    ]
    return resummed(b"".join(fields))


def resummed(block: bytes) -> bytes:
    """Return a header block with a right checksum."""
    return block[:148] + b"%06o\0 " % (sum(block) - sum(block[148:156]) + 256) + block[156:]


def padded(content: bytes) -> bytes:
    """Return the content, filled up to whole blocks."""
    return content + bytes(-len(content) % 512)


def blocks(members: Iterable[Member]) -> bytes:
    """Return the members without an end."""
    return b"".join(tar_header(member) + padded(member.content) for member in members)


def tar(members: Iterable[Member]) -> bytes:
    """Return a tar of the members, with two end blocks."""
    return blocks(members) + bytes(1024)


def record(key: str, value: bytes | str) -> bytes:
    """Return a pax record, which counts its own length."""
    body = b" " + key.encode() + b"=" + (value.encode() if isinstance(value, str) else value) + b"\n"
    size = len(body)
    while len(str(size)) + len(body) != size:
        size = len(str(size)) + len(body)
    return str(size).encode() + body


def pax(*records: bytes, kind: bytes = b"x") -> Member:
    """Return an extension header of these records."""
    return Member("pax", b"".join(records), kind=kind)


def gnu(text: str, kind: bytes = b"L") -> Member:
    """Return a GNU long name, or long link."""
    return Member("././@LongLink", text.encode("utf-8", "surrogateescape") + b"\0", kind=kind)


@dataclass(frozen=True, kw_only=True)
class Zipped:
    """One zip member with the fields of both of its headers; None for the true value."""

    name: bytes
    content: bytes = b""
    deflate: str = ""  # anything: deflated
    mode: int = 0o100644
    host: int = 3
    flags: int = 0
    method: int | None = None
    attributes: int = 0  # of MS-DOS
    extra: bytes = b""
    data: bytes | None = None  # in place of the compressed content
    crc: int | None = None
    size: int | None = None
    packed: int | None = None
    local_name: bytes | None = None
    local_crc: int | None = None
    local_size: int | None = None
    local_packed: int | None = None
    local_extra: bytes | None = None
    local_method: int | None = None
    local_flags: int | None = None
    descriptor: bytes = b""
    before: bytes = b""  # bytes that no member owns
    offset: int | None = None
    disk: int = 0


def _either(given: int | None, true: int) -> int:
    return true if given is None else given


def _zip_parts(members: Iterable[Zipped]) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    for one in members:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        data = packer.compress(one.content) + packer.flush() if one.deflate else one.content
        data = data if one.data is None else one.data
        method = _either(one.method, 8 if one.deflate else 0)
        crc, size = _either(one.crc, zlib.crc32(one.content)), _either(one.size, len(one.content))
        packed = _either(one.packed, len(data))
        name = one.name if one.local_name is None else one.local_name
        extra = one.extra if one.local_extra is None else one.local_extra
        local = one.before + struct.pack(
            "<4sHHHHHIIIHH", b"PK\x03\x04", 20, _either(one.local_flags, one.flags), _either(one.local_method, method),
            0, 33, _either(one.local_crc, crc), _either(one.local_packed, packed), _either(one.local_size, size),
            len(name), len(extra),
        ) + name + extra + data + one.descriptor  # fmt: skip
        central = struct.pack(
            "<4sHHHHHHIIIHHHHHII", b"PK\x01\x02", one.host << 8 | 20, 20, one.flags, method, 0, 33, crc, packed, size,
            len(one.name), len(one.extra), 0, one.disk, 0, one.mode << 16 | one.attributes,
            _either(one.offset, at + len(one.before)),
        ) + one.name + one.extra  # fmt: skip
        yield local, central
        at += len(local)


def zip_end(count: int, size: int, start: int, comment: bytes = b"", disk: int = 0) -> bytes:
    """Return an end of central directory."""
    return struct.pack("<4sHHHHIIH", b"PK\x05\x06", disk, disk, count, count, size, start, len(comment)) + comment


def zip_end64(count: int, size: int, start: int, at: int, locator: int | None = None) -> bytes:
    """Return a zip64 end with its locator, to stand at `at`."""
    end = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, start)
    return end + struct.pack("<4sIQI", b"PK\x06\x07", 0, _either(locator, at), 1)


def zip_of(*members: Zipped, end: bytes | None = None, comment: bytes = b"", count: int | None = None) -> bytes:
    """Return a zip; `end` instead of the true end record."""
    parts = list(_zip_parts(members))
    body, directory = b"".join(local for local, _ in parts), b"".join(central for _, central in parts)
    true = zip_end(_either(count, len(parts)), len(directory), len(body), comment)
    return body + directory + (true if end is None else end)


def zipped(members: Iterable[tuple[str, bytes]], mode: int = 0o100644) -> bytes:
    """Return a zip of stored members with a Unix mode."""
    return zip_of(*(Zipped(name=name.encode(), content=content, mode=mode) for name, content in members))


def ar(*members: tuple[str, bytes]) -> bytes:
    """Return an ar archive, as a Debian package is one."""
    parts = [b"!<arch>\n"]
    for name, content in members:
        head = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        parts.append(head + content + b"\n" * (len(content) % 2))
    return b"".join(parts)
