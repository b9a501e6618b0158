"""Entries of an archive, the limits they must keep, and their names: judged one by one, as text.

Names are bytes, as archives hold them. Nothing here touches a disk. Source of the rules: CVE-2007-4559, CVE-2025-4517
and their kin (docs/archives.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from tasks_lib.errors import (
    ArchiveError,
    ArchiveLimitError,
    DamagedArchiveError,
    UnsafeEntryError,
    UnsupportedArchiveError,
)
from tasks_lib.limits import Limits as Limits  # a part of what this module offers

FILE: Final = "file"
DIRECTORY: Final = "directory"
SYMLINK: Final = "symlink"
HARDLINK: Final = "hardlink"

_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
#: First components that are absolute elsewhere: `C:`, `C:\...` and `\\server`. `C:x` and `\x` are plain names here.
_DRIVE: Final = re.compile(rb"[A-Za-z]:(\\|\Z)|\\\\")

#: This very object among the chunks of a file means that many zeros: a sink may leave a hole instead.
HOLE: Final = bytes(1 << 18)

#: First bytes of what is supported. Source: RFC 1952 2.3.1, bzip2 format, xz-file-format 2.1.1.1, RFC 8878 3.1.1,
#: APPNOTE 4.3.7 and 4.3.16.
MAGIC: Final = (
    (b"\x1f\x8b", "tar.gz"),
    (b"BZh", "tar.bz2"),
    (b"\xfd7zXZ\x00", "tar.xz"),
    (b"\x28\xb5\x2f\xfd", "tar.zst"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
)


class Entry(NamedTuple):
    """One entry: `chunks` gives the content of a file, once, before the next entry is read.

    A tuple, since an archive holds a million of them and a frozen dataclass costs four times as much to make.
    """

    path: bytes
    kind: str
    size: int = 0
    executable: int = 0  # 1 when the owner may execute it
    target: bytes = b""
    offset: int = 0
    chunks: Iterable[bytes | memoryview] = ()


class Reshape(msgspec.Struct, frozen=True, kw_only=True):
    """Drop `strip` leading components of every name, then put the text `prefix` before it."""

    strip: int = 0
    prefix: str = ""


def unsafe(reason: str, code: str, entry: bytes | None = None, offset: int | None = None) -> UnsafeEntryError:
    """Return the refusal of an entry that is dangerous or ambiguous; the archive's name is added on top."""
    return UnsafeEntryError(archive="", reason=reason, code=code, entry=entry, offset=offset)


def damaged(reason: str, code: str, entry: bytes | None = None, offset: int | None = None) -> DamagedArchiveError:
    """Return the refusal of damaged bytes."""
    return DamagedArchiveError(archive="", reason=reason, code=code, entry=entry, offset=offset)


def limit(reason: str, code: str, entry: bytes | None = None, offset: int | None = None) -> ArchiveLimitError:
    """Return the refusal of what costs too much."""
    return ArchiveLimitError(archive="", reason=reason, code=code, entry=entry, offset=offset)


def unsupported(reason: str, code: str, entry: bytes | None = None, offset: int | None = None) -> ArchiveError:
    """Return the refusal of what is not read here."""
    return UnsupportedArchiveError(archive="", reason=reason, code=code, entry=entry, offset=offset)


def checked_path(name: bytes, limits: Limits, offset: int) -> bytes:
    """Return the path that `name` stands for: `.` and doubled slashes dropped; b"" for the root itself.

    Raises:
        UnsafeEntryError: absolute, `..`, control characters, empty.
        ArchiveLimitError: too long or too deep.
    """
    if not name:
        raise unsafe("has an empty name", "NAME_EMPTY", name, offset)
    if name[0] == 0x2F:
        raise unsafe("has an absolute name", "ABSOLUTE", name, offset)
    if len(name) > limits.max_path_bytes:
        reason = f"name of {len(name)} bytes, more than max-path-bytes {limits.max_path_bytes}"
        raise limit(reason, "PATH_TOO_LONG", name[:80], offset)
    if _CONTROL.search(name):
        raise unsafe("has a control character in its name", "NAME_CONTROL", name, offset)
    parts = name.split(b"/")
    if b".." in parts or (b"\\" in name and b".." in name.replace(b"\\", b"/").split(b"/")):
        raise unsafe("has `..` in its name", "DOTDOT", name, offset)
    if b"" in parts or b"." in parts:
        parts = [part for part in parts if part not in (b"", b".")]
    if parts and _DRIVE.match(parts[0]):
        raise unsafe("begins with a drive", "ABSOLUTE", name, offset)
    _check_lengths(name, parts, limits, offset)
    return b"/".join(parts)


def counted(path: bytes, name: bytes, strip: int) -> bytes:
    """Return the path of `name` with a `.` for each component that stripping drops and the path has no more.

    A name is stripped as it is written: `./top/x` without its first component is `top/x`. Source: Taskgraph,
    fetch-content, `name.split("/")`; GNU tar does the same but for doubled slashes.
    """
    dropped = sum(part in (b"", b".") for part in name.split(b"/")[:strip]) if strip else 0
    return (b"./" * dropped + path).rstrip(b"/") if dropped else path


def _check_lengths(name: bytes, parts: list[bytes], limits: Limits, offset: int) -> None:
    if len(parts) > limits.max_depth:
        raise limit(
            f"{len(parts)} components deep, more than max-depth {limits.max_depth}", "TOO_DEEP", name[:80], offset
        )
    if len(name) > limits.max_component_bytes and (longest := max(map(len, parts))) > limits.max_component_bytes:
        reason = f"name component of {longest} bytes, more than max-component-bytes {limits.max_component_bytes}"
        raise limit(reason, "COMPONENT_TOO_LONG", name[:80], offset)


def checked_target(target: bytes, kind: str, limits: Limits, name: bytes, offset: int) -> bytes:
    """Return what a link points to: a path of the archive for a hard link, text as it is for a symlink.

    Raises:
        UnsafeEntryError: empty, with control characters, longer than a path, or no path that is accepted.
    """
    if not target or len(target) > limits.max_path_bytes or _CONTROL.search(target):
        raise unsafe("has an empty, too long or unprintable link target", "LINK_TARGET", name, offset)
    if kind == SYMLINK:
        return target
    try:
        return checked_path(target, limits, offset)
    except ArchiveError as error:
        raise type(error)(
            archive="",
            reason=f"is a hard link to a name that {error.reason}",
            code=error.code,
            entry=name,
            offset=offset,
        ) from None


def look(first: bytes) -> str:
    """Return, for a message, what these first bytes look like."""
    kind = format_of(first)
    if kind:
        return kind
    if first.lstrip()[:1] == b"<":
        return "an HTML or XML page"
    return f"{first[:16]!r}" if first else "an empty file"


def format_of(first_bytes: bytes) -> str | None:
    """Return the format that the first 512 bytes look like; a compressed stream counts as a tar in it."""
    for magic, kind in MAGIC:
        if first_bytes.startswith(magic):
            return kind
    return "tar" if first_bytes[257:262] == b"ustar" else None


class Reshaper:
    """Gives entries their new names; those of one directory, which come one after the other, are cheap."""

    def __init__(self, reshape: Reshape, limits: Limits) -> None:
        self._reshape, self._limits = reshape, limits
        self._same = not reshape.strip and not reshape.prefix
        self._directory = b""
        self._renamed: bytes | None = None  # the directory's new name, None for one that needs all the rules

    def reshaped(self, entry: Entry) -> Entry | None:
        """Return the entry under its new name, or None for a directory that is stripped away.

        The name that a hard link points to follows; the text of a symlink does not, since it is relative.

        Raises:
            UnsafeEntryError: a member that is no directory would be stripped away, or the new name is unsafe.
            ArchiveLimitError: the new name is too long or too deep.
        """
        path = entry[0]
        if self._same and path:
            return entry
        directory, _, name = path.rpartition(b"/")
        if directory != self._directory:
            self._directory, self._renamed = directory, self._of_directory(directory, entry.offset)
        if self._renamed is not None and entry[1] != HARDLINK:
            # the name was judged when it was read, the directory just now: only together they can be too long
            renamed = self._renamed + b"/" + name
            if len(renamed) <= self._limits.max_path_bytes:
                return Entry(renamed, *entry[1:])
        return self._by_all_rules(entry)

    def _of_directory(self, directory: bytes, offset: int) -> bytes | None:
        try:
            renamed = _renamed(directory, self._reshape, self._limits, offset)
        except ArchiveError:
            return None
        return renamed if renamed and renamed.count(b"/") + 2 <= self._limits.max_depth else None

    def _by_all_rules(self, entry: Entry) -> Entry | None:
        reshape, limits = self._reshape, self._limits
        path = _renamed(entry.path, reshape, limits, entry.offset)
        if not path:
            if entry.kind == DIRECTORY:
                return None
            raise unsafe(
                f"nothing is left of its name after stripping {reshape.strip}", "STRIPPED", entry.path, entry.offset
            )
        if entry.kind != HARDLINK:
            return entry._replace(path=path)
        return entry._replace(path=path, target=_renamed(entry.target, reshape, limits, entry.offset))


def _renamed(path: bytes, reshape: Reshape, limits: Limits, offset: int) -> bytes:
    rest = path.split(b"/")[reshape.strip :] if path else []
    if not rest:
        return b""
    if not reshape.prefix:
        if _DRIVE.match(rest[0]):
            raise unsafe("begins with a drive after stripping", "ABSOLUTE", path, offset)
        return b"/".join(rest)
    return checked_path(reshape.prefix.encode("utf-8", "surrogateescape") + b"/".join(rest), limits, offset)
