"""Entries of an archive, the limits they must keep, and the one table that judges them together.

Names are bytes, as archives hold them. Nothing here touches a disk: links are judged against the tree that the
archive itself describes. Source of the rules: CVE-2007-4559, CVE-2025-4517 and their kin (docs/archives.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple, NoReturn

from tasks_lib.errors import (
    ArchiveError,
    ArchiveLimitError,
    DamagedArchiveError,
    UnsafeEntryError,
    UnsupportedArchiveError,
)

FILE: Final = "file"
DIRECTORY: Final = "directory"
SYMLINK: Final = "symlink"
HARDLINK: Final = "hardlink"

_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")

#: Most symlinks followed for one name. Source: Linux path_resolution(7), 40.
MAX_HOPS: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an archive may cost; bytes unless the name says otherwise."""

    max_total_bytes: int = 50 << 30
    max_ratio: int = 200  # decompressed : compressed, once more than `free_bytes` came out
    free_bytes: int = 1 << 30
    max_member_bytes: int = 50 << 30
    max_entries: int = 1_000_000
    max_metadata_bytes: int = 1 << 20
    max_path_bytes: int = 4095
    max_component_bytes: int = 255
    max_depth: int = 256  # components
    zstd_max_window_log: int = 27
    xz_memlimit_mib: int = 256
    #: "refuse", or "keep": create them as they are (a sysroot's /lib -> /usr/lib); nothing is ever written through one
    outward_symlinks: str = "refuse"

    def total_for(self, compressed: int) -> int:
        """Return how many bytes may come out of `compressed` bytes."""
        return min(self.max_total_bytes, max(self.free_bytes, self.max_ratio * compressed))


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
    chunks: Iterable[bytes] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reshape:
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
        raise limit(f"name longer than {limits.max_path_bytes} bytes", "PATH_TOO_LONG", name[:80], offset)
    if _CONTROL.search(name):
        raise unsafe("has a control character in its name", "NAME_CONTROL", name, offset)
    parts = name.split(b"/")
    if b".." in parts:
        raise unsafe("has `..` in its name", "DOTDOT", name, offset)
    if b"" in parts or b"." in parts:
        parts = [part for part in parts if part not in (b"", b".")]
    _check_lengths(name, parts, limits, offset)
    return b"/".join(parts)


def _check_lengths(name: bytes, parts: list[bytes], limits: Limits, offset: int) -> None:
    if len(parts) > limits.max_depth:
        raise limit(f"deeper than {limits.max_depth} directories", "TOO_DEEP", name[:80], offset)
    if len(name) > limits.max_component_bytes and any(len(part) > limits.max_component_bytes for part in parts):
        raise limit(
            f"name component longer than {limits.max_component_bytes} bytes", "COMPONENT_TOO_LONG", name[:80], offset
        )


def reshaped(entry: Entry, reshape: Reshape, limits: Limits) -> Entry | None:
    """Return the entry under its new name, or None for a directory that is stripped away.

    The name that a hard link points to follows; the text of a symlink does not, since it is relative.

    Raises:
        UnsafeEntryError: a member that is no directory would be stripped away, or the new name is unsafe.
    """
    if not reshape.strip and not reshape.prefix and entry.path:
        return entry
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
        return b"/".join(rest)
    return checked_path(reshape.prefix.encode("utf-8", "surrogateescape") + b"/".join(rest), limits, offset)


class Table:
    """The tree that an archive describes, with the directories that names imply.

    Directory by directory, kinds only: what a million entries need stays below 200 MiB.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._directories: dict[bytes, dict[bytes, str]] = {b"": {}}
        self._links: dict[bytes, Entry] = {}
        self._count = 0
        self._total = 0

    def kind(self, path: bytes) -> str | None:
        """Return what stands at a path, None for nothing."""
        directory, _, name = path.rpartition(b"/")
        return self._directories.get(directory, {}).get(name)

    def add(self, entry: Entry) -> tuple[Entry, ...]:
        """Return what is new with this entry: directories that its name implies, then itself; () for a known one.

        Raises:
            UnsafeEntryError: the name is taken, lies below a file or link, or is a hard link to no earlier file.
            ArchiveLimitError: too many entries or bytes.
        """
        directory, _, name = entry.path.rpartition(b"/")
        names = self._directories.get(directory)
        implied: tuple[Entry, ...] = ()
        if names is None:
            implied = self._parents(directory, entry)
            names = self._directories[directory]
        before = names.get(name)
        if before is not None:
            if before == entry.kind == DIRECTORY:
                return ()
            raise unsafe("stands twice in the archive", "DUPLICATE", entry.path, entry.offset)
        names[name] = entry.kind
        if entry.kind != FILE:
            self._note(entry)
        self._count += 1
        self._total += entry.size
        if self._count > self._limits.max_entries or self._total > self._limits.max_total_bytes:
            self._refuse(entry)
        return (*implied, entry) if implied else (entry,)

    def _note(self, entry: Entry) -> None:
        if entry.kind == DIRECTORY:
            self._directories[entry.path] = {}
        elif entry.kind == SYMLINK:
            self._links[entry.path] = entry
        elif entry.path == entry.target or self.kind(entry.target) not in (FILE, HARDLINK):
            raise unsafe("is a hard link to no earlier file of the archive", "HARDLINK", entry.path, entry.offset)

    def _refuse(self, entry: Entry) -> NoReturn:
        if self._count > self._limits.max_entries:
            raise limit(f"more than {self._limits.max_entries} entries", "TOO_MANY_ENTRIES", entry.path, entry.offset)
        most = self._limits.max_total_bytes
        raise limit(f"more than {most} bytes of content", "TOO_LARGE", entry.path, entry.offset)

    def _parents(self, directory: bytes, entry: Entry) -> tuple[Entry, ...]:
        missing: list[bytes] = []
        while directory not in self._directories:
            standing = self.kind(directory)
            if standing is not None:
                raise unsafe(f"lies below a {standing}", "BELOW_NON_DIRECTORY", entry.path, entry.offset)
            missing.append(directory)
            directory = directory.rpartition(b"/")[0]
        made = (Entry(path=path, kind=DIRECTORY, offset=entry.offset) for path in reversed(missing))
        return tuple(new for one in made for new in self.add(one))

    def check_links(self) -> None:
        """Judge every symlink against the whole tree.

        Raises:
            UnsafeEntryError: a symlink that leads outside, or could once another archive stands beside it.
        """
        if self._limits.outward_symlinks == "refuse":
            for entry in self._links.values():
                self._check_link(entry)

    def _check_link(self, link: Entry) -> None:
        here = link.path.split(b"/")[:-1]
        left = _steps(link, link)
        hops = 0
        while left:
            part = left.pop()
            if part == b"..":
                self._leave(here, link)
            elif part not in (b"", b"."):
                here.append(part)
                standing = self._links.get(b"/".join(here))
                if standing is not None:
                    hops += 1
                    if hops > MAX_HOPS:
                        return  # a loop leads nowhere: the kernel refuses it as well
                    here.pop()
                    left.extend(_steps(standing, link))

    def _leave(self, here: list[bytes], link: Entry) -> None:
        # `..` of what is no directory of this archive could lead anywhere once another one stands beside it
        if not here or b"/".join(here) not in self._directories:
            raise unsafe("is a symlink that leads outside", "SYMLINK_OUTSIDE", link.path, link.offset)
        here.pop()


def _steps(followed: Entry, link: Entry) -> list[bytes]:
    """Return the components of a link's text, the first one last."""
    if followed.target.startswith(b"/"):
        raise unsafe("is a symlink that leads to an absolute path", "SYMLINK_ABSOLUTE", link.path, link.offset)
    return followed.target.split(b"/")[::-1]
