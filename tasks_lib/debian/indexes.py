"""Indexes of packages: the paragraphs of locked packages, each compared with its line of the lock.

A lock needs no trust, because an edited line differs from the index, whose digest a signed Release file contains.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO, Final

from tasks_lib.archive.codecs import decompress
from tasks_lib.debian.deb822 import parse_paragraph, select_paragraphs, split_paragraphs
from tasks_lib.debian.lock import MAX_INDEX_BYTES, REPORT, Lock, LockedIndex, LockedPackage
from tasks_lib.errors import ArchiveError, IndexDigestError, LockMismatchError, escape_text
from tasks_lib.limits import Limits

#: Compression by the ending of an index. Source: Debian wiki, "DebianRepository/Format", "Compression of indices".
_COMPRESSED: Final = {"gz": "tar.gz", "bz2": "tar.bz2", "xz": "tar.xz", "lzma": "tar.lzma", "zst": "tar.zst"}
_FILENAME: Final = b"Filename: "
_HINT: Final = "restore the lock, or make it again with: doit update NAME"


def read_index(file: BinaryIO, index: LockedIndex, limits: Limits) -> Iterator[bytes]:
    """Yield the paragraphs of an index, unparsed.

    Raises:
        IndexDigestError: it is not an index, although its digest is that of the lock.
    """
    with _read_errors_as_index_errors(index):
        yield from split_paragraphs(_decompress(file, index, limits))


def _decompress(file: BinaryIO, index: LockedIndex, limits: Limits) -> Iterator[bytes]:
    kind = _COMPRESSED.get(index.path.rpartition("/")[2].partition(".")[2], "tar")
    return decompress(file, kind, limits._replace(max_total_bytes=min(limits.max_total_bytes, MAX_INDEX_BYTES)))


@contextlib.contextmanager
def _read_errors_as_index_errors(index: LockedIndex) -> Iterator[None]:
    """Raise an IndexDigestError if an index cannot be read."""
    try:
        yield
    except (ArchiveError, ValueError) as error:
        reason = error.reason if isinstance(error, ArchiveError) else str(error)
        raise IndexDigestError(f"cannot read the index {escape_text(index.path)}: {reason}", hint=REPORT) from error


def find_paragraphs(
    lock: Lock, open_index: Callable[[LockedIndex], AbstractContextManager[BinaryIO]], limits: Limits
) -> dict[LockedPackage, bytes]:
    """Return the paragraph of each locked package, from an index of its release.

    Args:
        lock: the lock.
        open_index: opens the file of an index.
        limits: limits for the decompression.

    Raises:
        LockMismatchError: an index has other values than the lock, no index lists a package, or two packages have one
            path.
        IndexDigestError: as `read_index`.
        Exception: any exception raised by `open_index`.
    """
    _check_paths(lock)
    found: dict[LockedPackage, bytes] = {}
    for release in lock.releases:
        wanted = {one.path.encode(): one for one in lock.packages if one.release == release.suite}
        fault = ""
        for index in release.indexes if wanted else ():
            for package, paragraph in _select(open_index(index), index, limits, wanted):
                if difference := _compare(package, paragraph):
                    fault = fault or f"{index.path} of {release.suite}: {difference}"
                else:
                    found.setdefault(package, paragraph)
        missing = next((one for one in wanted.values() if one not in found), None)
        if missing is not None:
            reason = (
                f"differs from {fault}" if fault else f"has {missing.path}, which no index of {release.suite} lists"
            )
            raise LockMismatchError(f"the lock {escape_text(reason)}", hint=_HINT)
    return found


def _check_paths(lock: Lock) -> None:
    """Check that no two packages have the same path: the repository has one place for both."""
    seen: set[str] = set()
    for package in lock.packages:
        if package.path in seen:
            raise LockMismatchError(f"the lock has two packages with the path {escape_text(package.path)}", hint=_HINT)
        seen.add(package.path)


def _select(
    opened: AbstractContextManager[BinaryIO],
    index: LockedIndex,
    limits: Limits,
    wanted: dict[bytes, LockedPackage],
) -> Iterator[tuple[LockedPackage, bytes]]:
    """Yield the packages with these paths that an index lists, and their paragraphs."""
    paths = wanted | {b"./" + path: package for path, package in wanted.items()}
    with opened as file, _read_errors_as_index_errors(index):
        for path, paragraph in select_paragraphs(_decompress(file, index, limits), _FILENAME, paths):
            yield paths[path], paragraph


def _compare(package: LockedPackage, paragraph: bytes) -> str:
    """Return the first difference between a line of the lock and a paragraph, "" for none."""
    try:
        fields = parse_paragraph(paragraph)
    except ValueError as error:
        return f"the paragraph of {package.path}: {error}"
    actual = {name: fields.get(name, "") for name in ("package", "version", "architecture", "sha256", "size")}
    # "Source: name (version)" is absent if both are those of the binary package. Source: Debian Policy 5.6.1
    actual["source"] = fields.get("source", actual["package"]).partition(" ")[0]
    for name, value in actual.items():
        locked = str(getattr(package, name))
        if locked != value:
            return f"{package.path}: expected {name} {locked!r}, the index has {value!r}"
    return ""
