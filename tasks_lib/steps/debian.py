"""Debian packages: fetch the locked packages and the indexes that list them, and make one flat repository of them."""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import quote

from tasks_lib import recipe
from tasks_lib.context import Context
from tasks_lib.debian.indexes import find_paragraphs, read_index
from tasks_lib.debian.lock import (
    UPDATE,
    Lock,
    LockedIndex,
    LockedPackage,
    LockedRelease,
    parse_lock,
    read_lock,
    read_lock_text,
    require_current,
)
from tasks_lib.debian.repository import write_repository
from tasks_lib.definitions import Debian, Fetch, StaticUrl
from tasks_lib.definitions.debian_fields import SNAPSHOT_ID
from tasks_lib.digest import Digest
from tasks_lib.errors import (
    AllSourcesFailedError,
    FetchError,
    IndexDigestError,
    LockMismatchError,
    LockStaleError,
    escape_text,
)
from tasks_lib.fs.local_urls import is_local_file
from tasks_lib.platforms import ANY_PLATFORM
from tasks_lib.progress import Progress
from tasks_lib.steps.artifacts import MadeContent, obtain_result, publish_from_cache
from tasks_lib.steps.builds import Artifact
from tasks_lib.steps.definition_types import DefinitionSteps
from tasks_lib.steps.members import Member, obtain_members, obtaining

#: Bytes read from a package at a time.
_CHUNK: Final = 1 << 20


class _DebianSteps(DefinitionSteps[Debian]):
    """The steps of one definition of packages, whose members are the indexes and packages that the lock names."""

    def fetch(self, artifact: Artifact, progress: Progress) -> None:
        """Fetch the packages, make the repository, and publish it.

        Raises:
            LockStaleError: there is no lock, or it was made for another state of the definition.
            LockMismatchError, UnsafePathError: the lock is damaged, or an index has other values.
            IndexDigestError: no source has an index as the lock names it, but one has another.
            AllSourcesFailedError, OfflineError: an index or a package has no source.
            ArchiveError: the repository exceeds a limit of the archives.
            CacheUnavailableError, CancelledError: as in every step.
        """
        make = partial(_make_repository, self.context, self.definition, self.source, artifact, progress)
        obtain_result(self.context, artifact.key, artifact.path.name, ANY_PLATFORM, make, progress)
        publish_from_cache(self.context, artifact)

    def list_members(self, directory: Path) -> list[Member]:
        """Return the indexes and packages, [] if there is no lock that can be read."""
        try:
            return _list_locked(self.source, read_lock(directory / self.source.lock_file))
        except FetchError:
            return []  # the step reports it

    def obtain_downloads(self, progress: Progress) -> list[StaticUrl]:
        """Bring the indexes and packages into the cache; return them as downloads.

        Raises:
            LockStaleError, LockMismatchError, UnsafePathError: as `read_lock`.
            AllSourcesFailedError, OfflineError, CacheUnavailableError, CancelledError: as `obtain_members`.
        """
        members = _list_locked(self.source, read_lock(Path(self.source.lock_file)))
        obtain_members(self.context, self.definition, members, progress, hint=_advise(self.definition))
        return [one.download for one in members]

    def needs_network(self, artifact: Artifact) -> bool:
        """Return whether something that the repository is made of is available only from the network."""
        if self.has_local(None, artifact.key):
            return False
        return any(map(self._is_remote, self.list_members(Path())))

    def _is_remote(self, member: Member) -> bool:
        if self.context.cache.has(member.integrity):
            return False
        if any(map(is_local_file, member.request(self.context, self.definition).allowed)):
            return False
        return not self.has_local(member.integrity, "")


STEPS: Final = _DebianSteps


def _make_repository(
    context: Context, definition: Fetch, source: Debian, artifact: Artifact, progress: Progress
) -> MadeContent:
    """Make the repository while the packages arrive, after the indexes, which are compared with the lock meanwhile."""
    lock, cache, advice = load_lock(context, source, artifact), context.cache, _advise(definition)
    indexes = list(list_index_members(source, lock).values())
    packages = sorted(list_package_members(source, lock).values(), key=lambda one: one.path.encode())
    progress.phase("repack", total=sum(one.size for one in lock.packages))
    with obtaining(context, definition, [*indexes, *packages], progress, hint=advice) as wait_for:
        with _refusing_other_indexes(advice):
            for index in indexes:
                wait_for(index.integrity)
        paragraphs = find_paragraphs(lock, lambda index: cache.open(index.integrity), context.limits(source.archive))

        def read_package(package: LockedPackage) -> Iterator[bytes]:
            wait_for(package.integrity)
            with cache.open(package.integrity) as file:
                while chunk := file.read(_CHUNK):
                    yield chunk

        with cache.writer() as writer:
            tar = write_repository(
                lock,
                source.architectures,
                paragraphs,
                read_package,
                name=artifact.path.name,
                limits=context.limits(source.archive),
                mtime=context.mtime,
                write=writer.write,
                progress=progress,
            )
            integrity = writer.commit()
    return MadeContent(integrity, {"tar": f"sha256:{tar}", "packages": len(lock.packages)})


def obtain_indexes(
    context: Context,
    definition: Fetch,
    source: Debian,
    lock: Lock,
    progress: Progress,
    unhashed: Collection[str],
) -> None:
    """Obtain the indexes of a lock; `unhashed` are as in `list_index_members`.

    Raises:
        IndexDigestError: no source has an index as the lock names it, but one has another.
        AllSourcesFailedError, OfflineError, CacheUnavailableError, CancelledError: as `obtain_members`.
    """
    hint = "use another mirror; a mirror that is being updated is complete again after some minutes"
    with _refusing_other_indexes(hint):
        obtain_members(context, definition, list_index_members(source, lock, unhashed).values(), progress)


@contextlib.contextmanager
def _refusing_other_indexes(hint: str) -> Iterator[None]:
    """Raise an IndexDigestError if a source has another index than the lock names."""
    try:
        yield
    except AllSourcesFailedError as error:
        wrong = next((attempt for attempt in error.attempts if attempt.fault == "content"), None)
        if wrong is None:
            raise
        first = error.message.partition("\n")[0]
        raise IndexDigestError(f"{first}\n{wrong.url}: {wrong.reason}", hint=hint) from error


def _advise(definition: Fetch) -> str:
    """Return the next step when the mirrors lack what the lock names."""
    return f"resolve again with: doit update {definition.name}; or name an archive of older states in `snapshots:`"


def read_cached_index(context: Context, source: Debian, index: LockedIndex) -> Iterator[bytes]:
    """Yield the paragraphs of an index that `obtain_indexes` obtained.

    Raises:
        IndexDigestError: as `read_index`.
        BlobMissingError, BlobCorruptError, CacheUnavailableError: as `Cache.open`.
    """
    with context.cache.open(index.integrity) as file:
        yield from read_index(file, index, context.limits(source.archive))


def load_lock(context: Context, source: Debian, artifact: Artifact) -> Lock:
    """Return the lock of a definition, which is the one that the key of its artifact covers.

    Raises:
        LockStaleError: it is missing, was made for another state of the definition, or changed during this run.
        LockMismatchError, UnsafePathError: it is damaged.
    """
    text = read_lock_text(Path(source.lock_file))
    lock = parse_lock(text, source.lock_file)
    require_current(lock, source)
    if missing := {suite.name for suite in source.suites}.difference(one.suite for one in lock.releases):
        reason = f"{escape_text(source.lock_file)} lacks the suite {escape_text(min(missing))!r}"
        raise LockMismatchError(reason, hint=UPDATE)
    digest = Digest.sha256(hashlib.sha256(text).hexdigest())
    if recipe.packages_key(source, digest, version=context.writer_version) != artifact.key:
        raise LockStaleError(f"{escape_text(source.lock_file)} changed during this run", hint="run the command again")
    return lock


def _list_locked(source: Debian, lock: Lock) -> list[Member]:
    return [*list_index_members(source, lock).values(), *list_package_members(source, lock).values()]


def load_packages(source: Debian) -> list[tuple[LockedPackage, str, tuple[str, ...]]]:
    """Return each package of a definition with the codename of its release and its URLs, [] without a lock."""
    try:
        lock = read_lock(Path(source.lock_file))
        members = list_package_members(source, lock)
    except FetchError:
        return []
    codenames = {release.suite: release.codename for release in lock.releases}
    return [(one, codenames[one.release], member.urls) for one, member in members.items()]


def list_index_members(source: Debian, lock: Lock, unhashed: Collection[str] = ()) -> dict[str, Member]:
    """Return the indexes by path; each is asked for by its digest first, since a mirror may have a newer one.

    `unhashed` are the suites whose Release files say that their mirrors have no indexes by digest.

    Source: Debian wiki, "DebianRepository/Format", "Acquire-By-Hash".

    Raises:
        LockMismatchError: the lock has a suite that the definition lacks.
    """
    found = {}
    for release in lock.releases:
        bases = _bases(source, release)[:: -1 if source.snapshot else 1]  # a mirror has the present indexes
        for index in release.indexes:
            path = f"dists/{release.suite}/{index.path}"
            by_hash = f"{posixpath.dirname(path)}/by-hash/SHA256/{index.sha256}"
            places = (path, by_hash) if release.suite in unhashed else (by_hash, path)
            urls = [f"{base}/{quote(one)}" for base in bases for one in places]
            home = f"{bases[0]}/{quote(path)}"
            found[path] = Member(path=path, integrity=index.integrity, urls=tuple(urls), home=home)
    return found


def list_package_members(source: Debian, lock: Lock) -> dict[LockedPackage, Member]:
    """Return the packages.

    Raises:
        LockMismatchError: as `list_index_members`.
    """
    bases = {release.suite: _bases(source, release) for release in lock.releases}
    found = {}
    for one in lock.packages:
        urls = tuple(f"{base}/{quote(one.path)}" for base in bases[one.release])
        found[one] = Member(path=one.path, integrity=one.integrity, urls=urls, home=urls[0])
    return found


def _bases(source: Debian, release: LockedRelease) -> list[str]:
    """Return the URIs that have the files of a release: those of its mirrors, then the snapshot of its date."""
    suite = next((one for one in source.suites if one.name == release.suite), None)
    if suite is None:
        raise LockMismatchError(
            f"{escape_text(source.lock_file)} has the suite {escape_text(release.suite)!r}, which the definition lacks",
            hint=UPDATE,
        )
    moment = source.snapshot or release.date.replace("-", "").replace(":", "")
    return list(dict.fromkeys(uri.replace(SNAPSHOT_ID, moment) for uri in (suite.uri, suite.snapshots) if uri))
