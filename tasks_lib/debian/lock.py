"""Locks: the packages that `doit update` resolved for a definition, and the signed indexes that they come from.

A lock is JSON with sorted keys and one package on each line, so that merges and reviews show which packages change. The
same packages are the same bytes. A lock needs no trust: its packages are compared with the indexes that it names. Its
digest shows edits that the indexes cannot show, such as a line that was removed; it protects against accidents only.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from tasks_lib.definitions import Debian
from tasks_lib.digest import Digest, Integrity
from tasks_lib.errors import LockMismatchError, LockStaleError, UnsafePathError, escape_text
from tasks_lib.fs.files import open_regular
from tasks_lib.recipe import packages_digest
from tasks_lib.relpath import RelPath
from tasks_lib.units import format_size

#: Version of the format.
VERSION: Final = 1
#: Largest lock in bytes; the lock of all 64,000 packages of a release has 25 MiB.
MAX_LOCK_BYTES: Final = 64 << 20
#: Largest index in bytes, as it comes and decompressed; the largest of the Debian archive have 60 MiB.
MAX_INDEX_BYTES: Final = 1 << 30
#: The next step where a lock is missing or unusable.
UPDATE: Final = "make it with: doit update NAME"
#: The next step where a repository has signed what is not valid.
REPORT: Final = "use another mirror, and report it to the owner of the repository"
_RESTORE: Final = "restore it, or remove it and run: doit update NAME"
#: Source: Debian Policy 4.7, sections 5.6.1 (names), 5.6.8 (architectures), 5.6.12 (versions).
NAME: Final = re.compile(r"[a-z0-9][a-z0-9+.-]{0,254}")
_ARCHITECTURE: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+:~-]{0,254}")
#: Names of suites and codenames, which mmdebstrap gets as an argument.
SUITE: Final = re.compile(r"(?!.{256})[A-Za-z0-9][A-Za-z0-9._+~-]*(?:/[A-Za-z0-9][A-Za-z0-9._+~-]*)*")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_FINGERPRINT: Final = re.compile(r"[0-9A-F]{40}(?:[0-9A-F]{24})?")


class LockedFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Digest and size of a file."""

    sha256: str
    size: int

    def __post_init__(self) -> None:
        _require(self.sha256, _SHA256, "sha256")
        if not 0 <= self.size < 1 << 63:
            raise ValueError(f"invalid size {self.size}")

    @property
    def integrity(self) -> Integrity:
        """Size and digest as one value."""
        return Integrity(size=self.size, digest=Digest.sha256(self.sha256))


class LockedIndex(LockedFile, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An index of packages; `path` is relative to the directory of its suite."""

    path: str

    def __post_init__(self) -> None:
        check_path(self.path)
        super().__post_init__()
        if self.size > MAX_INDEX_BYTES:
            name = escape_text(self.path)[:200]
            raise ValueError(f"the index {name} has {self.size} bytes, more than {MAX_INDEX_BYTES}")


class LockedRelease(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The Release file of a suite: its date, the primary keys that signed it, and the indexes that were used."""

    suite: str
    uri: str
    codename: str
    date: str
    inrelease: LockedFile
    signers: tuple[str, ...]
    indexes: tuple[LockedIndex, ...]

    def __post_init__(self) -> None:
        _require(self.suite, SUITE, "suite")
        _require(self.codename, SUITE, "codename")
        _require_date(self.date)
        for signer in self.signers:
            _require(signer, _FINGERPRINT, "fingerprint")


class LockedPackage(LockedFile, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A binary package; `path` is its `Filename`, relative to the URI, and `release` the suite that it comes from."""

    architecture: str
    package: str
    path: str
    release: str
    source: str
    version: str

    def __post_init__(self) -> None:
        _require(self.package, NAME, "package")
        _require(self.source, NAME, "source package")
        _require(self.architecture, _ARCHITECTURE, "architecture")
        _require(self.version, _VERSION, "version")
        check_path(self.path)
        if not self.path.endswith(".deb"):  # no package is at the path of an index
            raise ValueError(f"the path {escape_text(self.path)[:200]!r} does not end in .deb")
        super().__post_init__()


class Lock(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The content of a lock.

    `definition` is the digest of the definition that it was made for, `digest` the one in its text, "" for none.
    """

    version: int
    definition: str
    digest: str = ""
    releases: tuple[LockedRelease, ...]
    packages: tuple[LockedPackage, ...]

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise ValueError(f"version {self.version} of the format is not supported, only {VERSION}")
        _require(self.definition, _SHA256, "digest of the definition")
        suites = [release.suite for release in self.releases]
        if len(set(suites)) != len(suites):
            raise ValueError("a suite is listed twice")
        names = [(one.package, one.architecture) for one in self.packages]
        if twice := next((name for name, after in itertools.pairwise(names) if name == after), None):
            raise ValueError(f"the package {twice[0]}:{twice[1]} is listed twice")
        if names != sorted(names):
            raise ValueError("the packages are not sorted by name and architecture")
        if missing := {one.release for one in self.packages}.difference(suites):
            raise ValueError(f"the suite {escape_text(min(missing))!r} is not among the releases")


def read_lock(path: Path) -> Lock:
    """Return a lock, which may be stale.

    Raises:
        LockStaleError, LockMismatchError, UnsafePathError: as `read_lock_text` and `parse_lock`.
    """
    return parse_lock(read_lock_text(path), str(path))


def read_lock_text(path: Path) -> bytes:
    """Return the text of a lock.

    Raises:
        LockStaleError: it does not exist.
        LockMismatchError: it cannot be read.
    """
    try:
        with open_regular(path) as file:
            text = file.read(MAX_LOCK_BYTES + 1)
    except FileNotFoundError:
        raise LockStaleError(f"the lock {escape_text(str(path))} does not exist", hint=UPDATE) from None
    except OSError as error:
        reason = f"cannot read the lock {escape_text(str(path))}: {error.strerror or error}"
        raise LockMismatchError(reason, hint=_RESTORE) from error
    if len(text) > MAX_LOCK_BYTES:
        raise LockMismatchError(
            f"the lock {escape_text(str(path))} is larger than {format_size(MAX_LOCK_BYTES)}", hint=_RESTORE
        )
    return text


def parse_lock(text: bytes, name: str) -> Lock:
    """Return the lock that a text is, as `doit update` wrote it.

    Raises:
        LockMismatchError: it is not a lock, or was edited.
        UnsafePathError: a path in it leaves the repository.
    """
    lock = decode_lock(text, name)
    if text != encode_lock(lock):  # has another digest, a key twice, or another form
        raise LockMismatchError(
            f"{escape_text(name)} was edited: `doit update` writes its content differently, with the digest "
            f"{content_digest(lock)[:16]}...",
            hint="restore it, or resolve the packages again with: doit update NAME",
        )
    return lock


def decode_lock(text: bytes, name: str) -> Lock:
    """Return the lock that a text is, which may have been edited.

    Raises:
        LockMismatchError: it is not a lock.
        UnsafePathError: a path in it leaves the repository.
    """
    try:
        return msgspec.json.decode(text, type=Lock)
    except UnsafePathError as error:
        raise UnsafePathError(f"{escape_text(name)}: {error.message}", hint=_RESTORE) from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LockMismatchError(f"{escape_text(name)} is not a lock: {escape_text(str(error))}", hint=UPDATE) from error


def release_date(lock: Lock) -> int:
    """Return the date of the newest release, in seconds since 1970, 0 if there is none.

    Raises:
        LockMismatchError: a date does not exist, or is before 1970.
    """
    newest = max((one.date for one in lock.releases), default="1970-01-01T00:00:00Z")
    try:
        seconds = int(datetime.fromisoformat(newest).timestamp())
    except ValueError:
        seconds = -1
    if seconds < 0:
        raise LockMismatchError(f"the lock has a release of {escape_text(newest)}, which is not a date", hint=UPDATE)
    return seconds


def require_current(lock: Lock, source: Debian) -> None:
    """Check that a lock was made for a definition as it is now.

    Raises:
        LockStaleError: it was not.
    """
    if lock.definition != (expected := packages_digest(source)):
        raise LockStaleError(
            f"{escape_text(source.lock_file)} was made for another state of its definition: "
            f"expected {expected[:16]}..., found {lock.definition[:16]}...",
            hint="resolve the packages again with: doit update NAME",
        )


def content_digest(lock: Lock) -> str:
    """Return the digest of a lock: that of its JSON without the digest, with sorted keys and without blanks."""
    return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(lock, digest=""), order="sorted")).hexdigest()


def encode_lock(lock: Lock) -> bytes:
    """Return a lock as text with its digest, the same for equal locks."""
    return "".join(_write(lock)).encode()


def _write(lock: Lock) -> Iterator[str]:
    """Yield the lines: one for each package, several for each release."""
    yield f'{{\n "definition": "{lock.definition}",\n "digest": "{content_digest(lock)}",\n "packages": [\n'
    yield ",\n".join(
        "  " + json.dumps(msgspec.to_builtins(one), sort_keys=True, ensure_ascii=False) for one in lock.packages
    )
    releases = json.dumps(msgspec.to_builtins(lock.releases), sort_keys=True, ensure_ascii=False, indent=1)
    yield '\n ],\n "releases": ' + releases.replace("\n", "\n ")
    yield f',\n "version": {lock.version}\n}}\n'


def check_path(path: str) -> None:
    """Check that a path of a repository cannot leave it.

    Raises:
        UnsafePathError: it can.
    """
    try:
        RelPath(path)
    except ValueError as error:
        raise UnsafePathError(f"unsafe path {escape_text(path)[:200]!r}: it {error}") from None


def _require_date(text: str) -> None:
    _require(text, _DATE, "date")
    datetime.fromisoformat(text)  # a ValueError for example for a 13th month


def _require(text: str, expression: re.Pattern[str], what: str) -> None:
    if not expression.fullmatch(text):
        raise ValueError(f"invalid {what} {escape_text(text)[:80]!r}")
