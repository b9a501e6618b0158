"""Flat repositories: locked packages as a deterministic archive from which apt and mmdebstrap install.

Source: sources.list(5), "deb copy:///DIRECTORY ./"; apt-secure(8); Debian wiki, "DebianRepository/Format".
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from struct import pack
from typing import Final

from tasks_lib.archive import Entry, make_entry, write_sized
from tasks_lib.debian.lock import Lock, LockedPackage
from tasks_lib.limits import Limits
from tasks_lib.progress import Progress

#: Magic, deflate, no flags, no time, no extra flags, unknown system. Source: RFC 1952 section 2.3.
_GZIP_HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
#: Largest stored block. Source: RFC 1951 section 3.2.4.
_MAX_STORED: Final = 0xFFFF


def write_repository(
    lock: Lock,
    architectures: Iterable[str],
    paragraphs: Mapping[LockedPackage, bytes],
    read_package: Callable[[LockedPackage], Iterable[bytes]],
    *,
    name: str,
    limits: Limits,
    mtime: int,
    write: Callable[[bytes], object],
    progress: Progress,
) -> str:
    """Write the repository as a `.tar.zst` through `write`; return the sha256 hex of the tar.

    Args:
        lock: the packages.
        architectures: those of the definition, which the Release file lists.
        paragraphs: the paragraph of each package in its index.
        read_package: returns the content of a package; called in the order of the paths, from another thread.
        name: name of the archive, for errors.
        limits: limits for the archive.
        mtime: the mtime of all entries, from `mtime_for`.
        write: receives compressed bytes.
        progress: checked for cancellation.

    Raises:
        ArchiveError: a path is rejected, or a limit is exceeded.
        Exception: any exception raised by `read_package` or `write`.
    """
    index = b"".join(paragraphs[package] + b"\n\n" for package in lock.packages)
    files = {"Packages": index, "Packages.gz": format_gzip(index)}
    files["Release"] = format_release(lock, architectures, files)
    packages = {one.path.encode(): one for one in lock.packages}

    def read(entry: Entry) -> Iterable[bytes]:
        return read_package(packages[entry.path]) if entry.path in packages else (files[entry.path.decode()],)

    sizes = {path: one.size for path, one in packages.items()}
    sizes |= {path.encode(): len(content) for path, content in files.items()}
    return write_sized(
        [make_entry(path, "file", limits, archive=name, size=size) for path, size in sizes.items()],
        read,
        name=name,
        limits=limits,
        mtime=mtime,
        write=write,
        progress=progress,
    )


def format_release(lock: Lock, architectures: Iterable[str], files: Mapping[str, bytes]) -> bytes:
    """Return a Release file: suite and codename of the first release, and the latest date.

    mmdebstrap finds the essential packages by the codename.
    """
    first, date = lock.releases[0], max(release.date for release in lock.releases)
    moment = datetime.strptime(date, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    lines = [
        f"Suite: {first.suite}",
        f"Codename: {first.codename}",
        f"Date: {format_datetime(moment, usegmt=True).removesuffix('GMT')}UTC",
        f"Architectures: {' '.join(sorted(architectures))}",
        "SHA256:",
        *(f" {hashlib.sha256(content).hexdigest()} {len(content)} {name}" for name, content in files.items()),
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def format_gzip(content: bytes) -> bytes:
    """Return content as gzip in stored blocks: a compressed form depends on the version of zlib."""
    return b"".join(_stored(content))


def _stored(content: bytes) -> Iterator[bytes]:
    yield _GZIP_HEADER
    for start in range(0, max(len(content), 1), _MAX_STORED):
        block = content[start : start + _MAX_STORED]
        is_last = start + _MAX_STORED >= len(content)
        yield pack("<BHH", is_last, len(block), len(block) ^ _MAX_STORED) + block
    yield pack("<II", zlib.crc32(content), len(content) & 0xFFFFFFFF)
