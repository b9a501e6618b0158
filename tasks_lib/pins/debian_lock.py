"""Make the lock of a definition of Debian packages, or make it again.

The steps, in order: read the present lock; download and verify the Release file of each suite (`debian.release`);
obtain the indexes that it names (`steps.debian`); let apt choose the packages (`debian.resolve`); write the lock. A
failure of any step leaves the lock as it was.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tasks_lib.debian.lock import (
    VERSION,
    Lock,
    LockedPackage,
    LockedRelease,
    decode_lock,
    encode_lock,
    read_lock_text,
)
from tasks_lib.debian.release import fetch_release, refuse_rollback
from tasks_lib.debian.resolve import resolve
from tasks_lib.definitions import Debian, Fetch
from tasks_lib.errors import LockMismatchError, LockStaleError, UnsafePathError
from tasks_lib.pins.workspace import Workspace, write_bytes
from tasks_lib.recipe import packages_digest
from tasks_lib.steps.debian import obtain_indexes, read_cached_index


class LockUpdate(NamedTuple):
    """The old lock and its text (None and b"" if there was none), and the new lock."""

    before: Lock | None
    old_text: bytes
    after: Lock
    text: bytes

    @property
    def is_changed(self) -> bool:
        """Whether the two texts differ."""
        return self.text != self.old_text

    def changes(self) -> dict[str, tuple[str, str]]:
        """Return NAME:ARCHITECTURE -> the old and the new version of each package that differs, "" for none."""
        old, new = _versions(self.before.packages if self.before is not None else ()), _versions(self.after.packages)
        pairs = {name: (old.get(name, ""), new.get(name, "")) for name in sorted({*old, *new})}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

    def diff(self, name: Path) -> str:
        """Return the unified diff of the lock."""
        old, new = self.old_text.decode("utf-8", "replace"), self.text.decode()
        lines = difflib.unified_diff(old.splitlines(True), new.splitlines(True), f"a/{name}", f"b/{name}", n=0)
        return "".join(lines)

    def dates(self) -> tuple[str, str]:
        """Return the newest date of a suite in the old lock, "" for none, and in the new one."""
        return _newest(self.before.releases if self.before is not None else ()), _newest(self.after.releases)

    def summary(self) -> Iterator[str]:
        """Yield how many packages there are and how many differ, in one line."""
        pairs = self.changes().values()
        counts = {
            "added": sum(not old for old, _ in pairs),
            "removed": sum(not new for _, new in pairs),
            "changed": sum(bool(old and new) for old, new in pairs),
        }
        differ = "".join(f", {count} {word}" for word, count in counts.items() if count)
        yield f"packages: {len(self.after.packages)}{differ}"


def _versions(packages: Iterable[LockedPackage]) -> dict[str, str]:
    return {f"{one.package}:{one.architecture}": one.version for one in packages}


def _newest(releases: Iterable[LockedRelease]) -> str:
    return max((release.date for release in releases), default="")


def update_lock(workspace: Workspace, fetch: Fetch, source: Debian, mode: str) -> LockUpdate:
    """Resolve the packages of a definition and, unless `mode` is "dry-run", write its lock.

    Raises:
        ReleaseSignatureError: a suite is not signed as required.
        ReleaseRolledBackError: a suite is older than in the lock.
        IndexDigestError: an index is not the one that a suite lists, or is not valid.
        UnresolvableError: apt cannot resolve the packages, or a suite lacks a component or architecture.
        UnsafePathError: the path of a package leaves the repository.
        LockMismatchError: the present lock is damaged, so that a roll-back would not be noticed.
        AllSourcesFailedError, OfflineError: a suite or an index has no source.
        ToolError: apt or gpg is not installed, or hangs.
        EditError: the lock cannot be written.
        CacheUnavailableError, CancelledError: as in every step.
    """
    context, progress = workspace.context, workspace.progress
    path = Path(source.lock_file)
    old_text, before = _read_present(path)
    known = {release.suite: release for release in before.releases} if before is not None else {}
    releases = [fetch_release(context, fetch.name, source, suite, progress) for suite in source.suites]
    for release in releases:
        if release.suite.name in known:
            refuse_rollback(source, release, known[release.suite.name])
    indexes = [(one, one.indexes(source.components, source.architectures)) for one in releases]
    locked = sorted((one.locked(found) for one, found in indexes), key=lambda release: release.suite)
    lock = Lock(version=VERSION, definition=packages_digest(source), releases=tuple(locked), packages=())
    unhashed = [one.suite.name for one in releases if not one.has_by_hash]
    obtain_indexes(context, fetch, source, lock, progress, unhashed)
    search = context.environ.get("PATH", os.defpath)
    packages = resolve(fetch.name, source, indexes, partial(read_cached_index, context, source), search, progress)
    lock = Lock(version=VERSION, definition=lock.definition, releases=lock.releases, packages=packages)
    done = LockUpdate(before, old_text, lock, encode_lock(lock))
    if done.is_changed and mode == "write":
        write_bytes(path, done.text)
    return done


def _read_present(path: Path) -> tuple[bytes, Lock | None]:
    """Return the text of the present lock and the lock, whose packages may have been edited: they are resolved again.

    Raises:
        LockMismatchError: it is damaged.
    """
    try:
        text = read_lock_text(path)
    except LockStaleError:
        return b"", None
    try:
        return text, decode_lock(text, str(path))
    except (LockMismatchError, UnsafePathError) as error:
        hint = "restore it, or delete it: then an older state of a suite is not noticed"
        raise LockMismatchError(error.message, hint=hint) from error
