"""The lowest layer of an image: the tar of a Debian root file system, without what differs from run to run.

What is left out: devices, logs, caches, package lists, host name and resolver, host keys, the package source (which
names a directory of this machine), and documentation except copyrights, as in Debian's images `*-slim`.
Entries are sorted by path; modes, numeric owners, file capabilities and earlier modification times are kept.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, Final, NamedTuple

from tasks_lib.archive.entries import DIRECTORY, FILE, HARDLINK, SYMLINK, Entry, damaged_archive, limit_exceeded
from tasks_lib.archive.exact_reader import BLOCK
from tasks_lib.archive.tar_header import LARGEST_ID, Attributes, format_owned_header
from tasks_lib.errors import escape_text
from tasks_lib.limits import Limits
from tasks_lib.progress import Progress

_KINDS: Final = {
    tarfile.REGTYPE: FILE, tarfile.AREGTYPE: FILE, tarfile.DIRTYPE: DIRECTORY, tarfile.SYMTYPE: SYMLINK,
    tarfile.LNKTYPE: HARDLINK,
}  # fmt: skip
#: Directories that are empty in the layer. apt makes the directories in its own ones again.
_EMPTY: Final = re.compile(rb"(?:dev|proc|sys|var/cache/apt|var/lib/apt/lists)/")
#: Directories whose files are left out, and the files in them that are kept. Source: FHS 3.0, 5.5 and 5.10 for caches
#: and logs; debuerreotype, `.slimify-excludes` and `.slimify-includes`, for documentation.
_FILES: Final = re.compile(
    rb"(?:var/cache|var/log|usr/share/man|usr/share/info|usr/share/lintian|usr/share/locale|usr/share/doc)/"
)
_KEPT: Final = re.compile(rb"usr/share/doc/[^/]+/copyright|usr/share/locale/locale\.alias")
#: Single files: what mmdebstrap copies from the host or writes for itself, and keys that must not be shared.
_SINGLE: Final = re.compile(
    rb"etc/(?:hostname|resolv\.conf|apt/sources\.list(?:\.d/0000[^/]*)?|apt/apt\.conf\.d/99mmdebstrap"
    rb"|dpkg/dpkg\.cfg\.d/99mmdebstrap|ssh/ssh_host_[^/]*)"
)
#: Source: star(5), SCHILY.xattr.
_CAPABILITIES: Final = "SCHILY.xattr.security.capability"
_RECORD: Final = 20 * BLOCK
_CHUNK: Final = 1 << 20


class _RootEntry(NamedTuple):
    """An entry, `entry.offset` being the place of its content in the source, and its attributes."""

    entry: Entry
    own: Attributes


def write_root_layer(
    source: BinaryIO,
    *,
    latest: int,
    epoch: int,
    limits: Limits,
    write: Callable[[bytes], object],
    progress: Progress,
) -> str:
    """Write the tar of a root file system as a layer, uncompressed; return its sha256 in hex.

    Args:
        source: a seekable file with the tar that mmdebstrap wrote.
        latest: modification times up to this second are kept.
        epoch: all later modification times become this one.
        limits: the number of entries and bytes that are allowed.
        write: receives the bytes of the layer.
        progress: checked for cancellation.

    Raises:
        ArchiveError: the tar is damaged or exceeds a limit; `archive` is empty.
        CancelledError: the run is cancelled.
    """
    digest, size = hashlib.sha256(), 0
    try:
        members = list(_list_members(source, latest, epoch, limits))
        for piece in _pieces(source, _place_links(members)):
            progress.check()
            digest.update(piece)
            write(piece)
            size += len(piece)
    except tarfile.TarError as error:
        raise damaged_archive(escape_text(str(error)), "CORRUPT") from error
    end = bytes(2 * BLOCK + -(size + 2 * BLOCK) % _RECORD)
    digest.update(end)
    write(end)
    return digest.hexdigest()


def is_left_out(path: bytes, kind: str) -> bool:
    """Return whether an entry of the root file system is not part of the layer."""
    if _EMPTY.match(path) or _SINGLE.fullmatch(path):
        return True
    return kind != DIRECTORY and _FILES.match(path) is not None and _KEPT.fullmatch(path) is None


def _list_members(source: BinaryIO, latest: int, epoch: int, limits: Limits) -> Iterator[_RootEntry]:
    count = total = 0
    with tarfile.open(fileobj=source, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
        for found in tar:
            count, total = count + 1, total + found.size
            if count > limits.max_entries:
                raise limit_exceeded(f"more than {limits.max_entries} entries", "TOO_MANY_ENTRIES")
            if total > limits.max_total_bytes:
                raise limit_exceeded(f"more than {limits.max_total_bytes} bytes", "TOO_LARGE", limit="max-total-bytes")
            kind, path = _KINDS.get(found.type), _path(found.name)
            if kind is not None:  # neither a device nor a named pipe
                yield _RootEntry(_entry(found, path, kind), _attributes(found, latest, epoch))


def _entry(found: tarfile.TarInfo, path: bytes, kind: str) -> Entry:
    target = _path(found.linkname) if kind == HARDLINK else os.fsencode(found.linkname)
    return Entry(path, kind, found.size if kind == FILE else 0, target=target, offset=found.offset_data)


def _attributes(found: tarfile.TarInfo, latest: int, epoch: int) -> Attributes:
    if max(found.uid, found.gid) > LARGEST_ID:
        reason = f"user {found.uid}, group {found.gid}: expected at most {LARGEST_ID}"
        raise damaged_archive(reason, "NUMBER", os.fsencode(found.name))
    own = found.pax_headers.get(_CAPABILITIES, "").encode("utf-8", "surrogateescape")
    mtime = int(found.mtime) if found.mtime <= latest else epoch
    return Attributes(found.mode & 0o7777, found.uid, found.gid, mtime, own)


def _path(name: str) -> bytes:
    """Return the path below the root, which itself is `.`."""
    return os.fsencode(name.removeprefix("./")).rstrip(b"/") or b"."


def _place_links(members: list[_RootEntry]) -> Iterator[_RootEntry]:
    """Yield what is kept, sorted by path; of several names of one file, the first one has the content."""
    linked = {one.entry.target for one in members if one.entry.kind == HARDLINK}
    contents = {one.entry.path: one.entry for one in members if one.entry.path in linked}
    first: dict[bytes, bytes] = {}
    for one in sorted(members):
        entry = one.entry
        if is_left_out(entry.path, entry.kind):
            continue
        name = entry.target if entry.kind == HARDLINK else entry.path
        if name not in linked:
            yield one
        elif name in first:
            yield _RootEntry(Entry(entry.path, HARDLINK, target=first[name]), one.own)
        elif name in contents:
            first[name] = entry.path
            yield _RootEntry(contents[name]._replace(path=entry.path), one.own)
        else:
            raise damaged_archive("a hard link to a file that is missing", "HARDLINK", entry.path)


def _pieces(source: BinaryIO, members: Iterable[_RootEntry]) -> Iterator[bytes]:
    for entry, own in members:
        yield format_owned_header(entry, own)
        if entry.kind != FILE:
            continue
        source.seek(entry.offset)
        left = entry.size
        while left:
            chunk = source.read(min(left, _CHUNK))
            if not chunk:
                raise damaged_archive("the data ends too early", "TRUNCATED", entry.path)
            left -= len(chunk)
            yield chunk
        yield bytes(-entry.size % BLOCK)
