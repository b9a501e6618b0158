"""Indexes of packages: the paragraphs of locked packages, each compared with its line of the lock.

A lock needs no trust, because an edited line differs from the index, whose digest a signed Release file contains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import BinaryIO, Final

from tasks_lib.archive.codecs import decompress
from tasks_lib.debian.deb822 import parse_paragraph, split_paragraphs
from tasks_lib.debian.lock import Lock, LockedIndex, LockedPackage
from tasks_lib.errors import ArchiveError, IndexDigestError, LockMismatchError, escape_text
from tasks_lib.limits import Limits

#: Compression by the ending of an index. Source: Debian wiki, "DebianRepository/Format", "Compression of indices".
_COMPRESSED: Final = {"gz": "tar.gz", "bz2": "tar.bz2", "xz": "tar.xz", "lzma": "tar.lzma", "zst": "tar.zst"}
_FILENAME: Final = b"\nFilename: "
_HINT: Final = "restore the lock, or make it again with: doit update NAME"


def read_index(file: BinaryIO, index: LockedIndex, limits: Limits) -> Iterator[bytes]:
    """Yield the paragraphs of an index, unparsed.

    Raises:
        IndexDigestError: it is not an index, although its digest is that of the lock.
    """
    kind = _COMPRESSED.get(index.path.rpartition("/")[2].partition(".")[2], "tar")
    try:
        yield from split_paragraphs(decompress(file, kind, limits))
    except (ArchiveError, ValueError) as error:
        reason = error.reason if isinstance(error, ArchiveError) else str(error)
        raise IndexDigestError(f"cannot read the index {escape_text(index.path)}: {reason}", hint=_HINT) from error


def find_paragraphs(lock: Lock, read: Callable[[LockedIndex], Iterable[bytes]]) -> dict[LockedPackage, bytes]:
    """Return the paragraph of each locked package, from an index of its release.

    Args:
        lock: the lock.
        read: returns the paragraphs of an index.

    Raises:
        LockMismatchError: an index has other values than the lock, no index lists a package, or two packages have one
            path.
        Exception: any exception raised by `read`.
    """
    _check_paths(lock)
    found: dict[LockedPackage, bytes] = {}
    for release in lock.releases:
        wanted = {one.path.encode(): one for one in lock.packages if one.release == release.suite}
        fault = ""
        for index in release.indexes if wanted else ():
            for path, paragraph in _select(read(index), wanted):
                package = wanted[path]
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


def _select(paragraphs: Iterable[bytes], wanted: Mapping[bytes, LockedPackage]) -> Iterator[tuple[bytes, bytes]]:
    """Yield path and text of the paragraphs with these paths; parsing all of an index would take seconds."""
    for paragraph in paragraphs:
        start = paragraph.find(_FILENAME) + len(_FILENAME)
        if start >= len(_FILENAME):
            end = paragraph.find(b"\n", start)
            path = paragraph[start : end if end >= 0 else len(paragraph)].removeprefix(b"./")
            if path in wanted:
                yield path, paragraph


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
