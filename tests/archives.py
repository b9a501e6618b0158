"""Archives made by hand, so that a test can say exactly which byte lies."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Iterable
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


def tar_header(member: Member, size: bytes | None = None) -> bytes:
    """Return the ustar header of a member, with a right checksum over whatever the size field says."""
    kind = member.kind or (b"5" if member.name.endswith("/") else b"0")
    fields = [
        member.name.encode().ljust(100, b"\0"),
        b"%07o\0" % member.mode,
        b"0001750\0" * 2,
        size if size is not None else b"%011o\0" % len(member.content),
        b"%011o\0" % member.mtime,
        b" " * 8,
        kind,
        member.target.encode().ljust(100, b"\0"),
        b"ustar\x0000",
        b"user".ljust(32, b"\0"),
        b"group".ljust(32, b"\0"),
        bytes(8 + 8 + 155 + 12),
    ]
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def tar(members: Iterable[Member]) -> bytes:
    """Return a tar of the members, with two end blocks."""
    parts = [tar_header(member) + member.content + bytes(-len(member.content) % 512) for member in members]
    return b"".join(parts) + bytes(1024)


def zipped(members: Iterable[tuple[str, bytes]], mode: int = 0o100644) -> bytes:
    """Return a zip of stored members with a Unix mode."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as made:
        warnings.simplefilter("ignore")
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, mode << 16
            made.writestr(info, content)
    return buffer.getvalue()
