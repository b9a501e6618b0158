"""Entries of an archive, the limits they must keep, and the one table that judges them together.

Names are bytes, as archives hold them. Nothing here touches a disk: links are judged against the tree that the
archive itself describes. Source of the rules: CVE-2007-4559, CVE-2025-4517 and their kin (docs/archives.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

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

    def total_for(self, compressed: int) -> int:
        """Return how many bytes may come out of `compressed` bytes."""
        return min(self.max_total_bytes, max(self.free_bytes, self.max_ratio * compressed))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry: `chunks()` gives the content of a file, once, before the next entry is read."""

    path: bytes
    kind: str
    size: int = 0
    executable: int = 0  # 1 when the owner may execute it
    target: bytes = b""
    offset: int = 0
    chunks: Callable[[], Iterator[bytes]] = field(default=lambda: iter(()), compare=False)


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
    if min(name) < 0x20 or 0x7F in name:
        raise unsafe("has a control character in its name", "NAME_CONTROL", name, offset)
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise unsafe("has `..` in its name", "DOTDOT", name, offset)
    if len(parts) > limits.max_depth:
        raise limit(f"deeper than {limits.max_depth} directories", "TOO_DEEP", name[:80], offset)
    if any(len(part) > limits.max_component_bytes for part in parts):
        raise limit(
            f"name component longer than {limits.max_component_bytes} bytes", "COMPONENT_TOO_LONG", name[:80], offset
        )
    return b"/".join(parts)


def reshaped(entry: Entry, reshape: Reshape, limits: Limits) -> Entry | None:
    """Return the entry under its new name, or None for a directory that is stripped away.

    The name that a hard link points to follows; the text of a symlink does not, since it is relative.

    Raises:
        UnsafeEntryError: a member that is no directory would be stripped away, or the new name is unsafe.
    """
    path = _renamed(entry.path, reshape, limits, entry.offset)
    if not path:
        if entry.kind == DIRECTORY:
            return None
        raise unsafe(
            f"nothing is left of its name after stripping {reshape.strip}", "STRIPPED", entry.path, entry.offset
        )
    if entry.kind != HARDLINK:
        return replace(entry, path=path)
    return replace(entry, path=path, target=_renamed(entry.target, reshape, limits, entry.offset))


def _renamed(path: bytes, reshape: Reshape, limits: Limits, offset: int) -> bytes:
    rest = path.split(b"/")[reshape.strip :] if path else []
    if not rest:
        return b""
    if not reshape.prefix:
        return b"/".join(rest)
    return checked_path(reshape.prefix.encode("utf-8", "surrogateescape") + b"/".join(rest), limits, offset)


class Table:
    """The tree that an archive describes: path -> entry, with the directories that names imply."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.entries: dict[bytes, Entry] = {}
        self._total = 0

    def add(self, entry: Entry) -> bool:
        """Add an entry; return False for a directory that was there.

        Raises:
            UnsafeEntryError: the name is taken, lies below a file or link, or is a hard link to no earlier file.
            ArchiveLimitError: too many entries or bytes.
        """
        before = self.entries.get(entry.path)
        if before is not None:
            if before.kind == entry.kind == DIRECTORY:
                return False
            raise unsafe("stands twice in the archive", "DUPLICATE", entry.path, entry.offset)
        self._add_parents(entry)
        if entry.kind == HARDLINK:
            target = self.entries.get(entry.target)
            if target is None or target.kind not in (FILE, HARDLINK):
                raise unsafe("is a hard link to no earlier file of the archive", "HARDLINK", entry.path, entry.offset)
        self._put(entry)
        return True

    def _put(self, entry: Entry) -> None:
        self.entries[entry.path] = entry
        if len(self.entries) > self._limits.max_entries:
            raise limit(f"more than {self._limits.max_entries} entries", "TOO_MANY_ENTRIES", entry.path, entry.offset)
        self._total += entry.size
        if self._total > self._limits.max_total_bytes:
            raise limit(
                f"more than {self._limits.max_total_bytes} bytes of content", "TOO_LARGE", entry.path, entry.offset
            )

    def _add_parents(self, entry: Entry) -> None:
        parent = entry.path.rpartition(b"/")[0]
        missing: list[bytes] = []
        while parent:
            above = self.entries.get(parent)
            if above is not None:
                if above.kind != DIRECTORY:
                    raise unsafe(f"lies below a {above.kind}", "BELOW_NON_DIRECTORY", entry.path, entry.offset)
                break
            missing.append(parent)
            parent = parent.rpartition(b"/")[0]
        for path in reversed(missing):
            self._put(Entry(path=path, kind=DIRECTORY, offset=entry.offset))

    def check_links(self) -> None:
        """Judge every symlink against the whole tree.

        Raises:
            UnsafeEntryError: a symlink that leads outside, or could once another archive stands beside it.
        """
        for entry in self.entries.values():
            if entry.kind == SYMLINK:
                self._check_link(entry)

    def _check_link(self, link: Entry) -> None:
        here = link.path.split(b"/")[:-1]
        left = self._steps(link, link)
        hops = 0
        while left:
            part = left.pop()
            if part == b"..":
                self._leave(here, link)
            elif part not in (b"", b"."):
                here.append(part)
                standing = self.entries.get(b"/".join(here))
                if standing is not None and standing.kind == SYMLINK:
                    hops += 1
                    if hops > MAX_HOPS:
                        return  # a loop leads nowhere: the kernel refuses it as well
                    here.pop()
                    left.extend(self._steps(standing, link))

    def _steps(self, followed: Entry, link: Entry) -> list[bytes]:
        """Return the components of a link's text, the first one last."""
        if followed.target.startswith(b"/"):
            raise unsafe("is a symlink that leads to an absolute path", "SYMLINK_ABSOLUTE", link.path, link.offset)
        return followed.target.split(b"/")[::-1]

    def _leave(self, here: list[bytes], link: Entry) -> None:
        # `..` of what is no directory of this archive could lead anywhere once another one stands beside it
        standing = self.entries.get(b"/".join(here)) if here else None
        if standing is None or standing.kind != DIRECTORY:
            raise unsafe("is a symlink that leads outside", "SYMLINK_OUTSIDE", link.path, link.offset)
        here.pop()
