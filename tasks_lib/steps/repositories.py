"""Commits: fetched with their submodules into repositories of the cache, written as one deterministic archive.

The archive is a function of the commit id, the prefix and whether `.git` is kept: never of the clone, the machine,
the user, git's version or configuration.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from tasks_lib import recipe
from tasks_lib.archive import REPACK_VERSION, Entry, entry_of
from tasks_lib.archive import write as write_archive
from tasks_lib.definitions import Git
from tasks_lib.digest import Integrity
from tasks_lib.errors import (
    DigestMismatchError,
    OfflineError,
    ToolError,
    UnsafeEntryError,
)
from tasks_lib.git import (
    FetchFailedError,
    Listing,
    MissingObjectError,
    Objects,
    Repository,
    Submodule,
    listing,
    submodules,
)
from tasks_lib.progress import Progress
from tasks_lib.repository_url import checked, host_of, shown
from tasks_lib.steps.world import World
from tasks_lib.store import Result

#: Deepest nesting and largest number of submodules. Chromium has about 300, three deep.
MAX_SUBMODULE_DEPTH: Final = 16
MAX_SUBMODULES: Final = 2000
#: Longest pause between two attempts, and between two looks at whether to stop, in seconds.
_MAX_BACKOFF_S: Final = 30.0
_NAP_S: Final = 0.1


class Part(NamedTuple):
    """A commit at its place in the archive: the wanted one, then its submodules."""

    path: bytes
    repository: Repository
    listing: Listing
    submodules: tuple[Submodule, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one archive is made of: `key` is a private key for the host of `source.repo`."""

    world: World
    source: Git
    progress: Progress
    key: Path | None

    def parts(self) -> list[Part]:
        """Return the commit and its submodules, fetched where the cache does not hold them.

        Raises:
            FetchFailedError, OfflineError: a commit is not here and cannot be had.
            DigestMismatchError, ToolError, ArchiveError: as `git.listing` and `git.submodules`.
        """
        found: list[Part] = []
        waiting = [(b"", self.source.repo, self.source.revision, 0)]
        while waiting:
            path, url, commit, depth = waiting.pop()
            if depth > MAX_SUBMODULE_DEPTH or len(found) > MAX_SUBMODULES:
                raise UnsafeEntryError(
                    archive=self.source.artifact_name, reason="has too many submodules", code="SUBMODULES", entry=path
                )
            part = self.part(path, url, commit)
            found.append(part)
            for one in reversed(part.submodules):
                if one.url:
                    waiting.append((_below(path, one.path), one.url, one.commit, depth + 1))
        return found

    def part(self, path: bytes, url: str, commit: str) -> Part:
        """Return one commit, fetched when it is not here; damaged objects are fetched once more."""
        repository = self.held(url, commit)
        try:
            return self.read(path, url, commit, repository)
        except (MissingObjectError, DigestMismatchError) as error:
            self.progress.warn(f"{shown(url)}: {error.message}; fetched again")
            self.forget(repository)
        return self.read(path, url, commit, self.held(url, commit))

    def read(self, path: bytes, url: str, commit: str, repository: Repository) -> Part:
        """Return what a held commit says."""
        name, git = self.source.artifact_name, self.world.git
        with Objects(repository.directory, git, self.progress) as objects:
            limits = self.world.limits(self.source.archive)
            found = listing(objects, commit, name=name, max_entries=limits.max_entries)
            inner = submodules(found, objects, repository.directory, git, url, name, self.progress)
            return Part(path, repository, found, tuple(inner))

    def held(self, url: str, commit: str) -> Repository:
        """Return the repository of a URL, which holds the commit.

        Raises:
            OfflineError: it does not, and the network is off.
            FetchFailedError: the server did not give it.
        """
        name = hashlib.sha256(f"{len(commit)} {url}".encode()).hexdigest()
        repository = Repository(self.world.store.repository(name), self.world.git)
        if repository.holds(commit):
            return repository
        with self.world.store.lock(name, self.progress):
            if not repository.holds(commit):
                self.obtain(repository, url, commit)
        return repository

    def obtain(self, repository: Repository, url: str, commit: str) -> None:
        """Fetch a commit, again after a pause where that may help."""
        policy = self.world.settings.policy
        if policy.network == "off" and not url.startswith("file:"):
            raise OfflineError(
                f"commit {commit} of {shown(url)} is not in the cache, and the network is off",
                hint="run once without offline=1",
            )
        key = self.key if host_of(url) == host_of(self.source.repo) else None
        for attempt in range(policy.retries + 1):
            try:
                return repository.fetch(url, commit, self.progress, key=key)
            except FetchFailedError as error:
                if not error.transient or attempt == policy.retries:
                    raise
                self.progress.warn(f"{error.message}; tried again")
            self.pause(min(policy.backoff_s * 2**attempt, _MAX_BACKOFF_S))
        return None

    def pause(self, seconds: float) -> None:
        """Wait, unless the run is asked to stop."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.progress.check()
            time.sleep(_NAP_S)

    def forget(self, repository: Repository) -> None:
        """Drop a repository whose objects are damaged."""
        with self.world.store.lock(repository.directory.name, self.progress):
            repository.forget()

    def entries(self, parts: list[Part]) -> Iterator[Entry]:
        """Yield everything that the archive holds."""
        limits = self.world.limits(self.source.archive)
        top = self.source.path_prefix.encode("utf-8", "surrogateescape")
        yield entry_of(top, "directory", limits)
        for part in parts:
            here = _below(top, part.path)
            for link in part.listing.gitlinks:
                yield entry_of(_below(here, link.path), "directory", limits)
            with Objects(part.repository.directory, self.world.git, self.progress) as objects:
                leaves = part.listing.leaves
                contents = objects.contents([leaf.identity for leaf in leaves])
                for leaf, (_, size, chunks) in zip(leaves, contents, strict=True):
                    path = _below(here, leaf.path)
                    if leaf.kind == "symlink":
                        yield entry_of(path, "symlink", limits, target=b"".join(chunks))
                    else:
                        yield entry_of(path, "file", limits, size=size, executable=leaf.executable, chunks=chunks)


def _below(directory: bytes, path: bytes) -> bytes:
    return b"/".join(filter(None, (directory, path)))


@contextlib.contextmanager
def working(world: World, source: Git, progress: Progress, ssh_key: str = "") -> Iterator[Work]:
    """Give the work on one commit; a private key lies in a file of its own meanwhile.

    Args:
        world: of this run.
        source: which commit, from where.
        progress: told what happens.
        ssh_key: text of a private key; "" for what the definition names.

    Raises:
        ToolError: the repository may not be asked, or the key that the definition names is not there.
    """
    try:
        checked(source.repo, (*world.git.protocols, "file"))  # a definition that says `file:` asks for it
    except ValueError as error:
        raise ToolError(f"{shown(source.repo)} {error}", hint="FETCH_GIT_PROTOCOLS says what may be used") from error
    text = ssh_key or (_named_key(world, source.ssh_key) if source.ssh_key else "")
    if not text:
        yield Work(world=world, source=source, progress=progress, key=None)
        return
    with tempfile.TemporaryDirectory(prefix="doit-fetch-") as directory:  # mode 0700
        key = Path(directory) / "key"
        descriptor = os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text.rstrip("\n") + "\n")  # OpenSSH refuses a key without its last line feed
        yield Work(world=world, source=source, progress=progress, key=key)


def _named_key(world: World, name: str) -> str:
    text = world.environ.get(name, "")
    if text:
        return text
    try:
        return Path(name).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ToolError(
            f"the ssh key {name!r} is neither an environment variable nor a readable file",
            hint="put the private key into that variable, or its path into the definition",
        ) from error


def archive_key(source: Git) -> str:
    """Return the recipe key of the archive of a commit."""
    return recipe.repository_key(source, version=REPACK_VERSION)


def fetch_commit(world: World, source: Git, progress: Progress) -> None:
    """Make the cache hold the commit and its submodules, unless it holds their archive.

    Raises:
        FetchFailedError, OfflineError: a commit cannot be had.
        ToolError, ArchiveError, IntegrityError: as `commit_archive`.
    """
    made = world.store.result(archive_key(source))
    if made is not None and world.store.has(made.integrity):
        return
    with working(world, source, progress) as work:
        work.parts()


def commit_archive(world: World, source: Git, progress: Progress, *, ssh_key: str = "") -> Integrity:
    """Make the store hold the archive of a commit, fetching what is missing, and return what its bytes are.

    Args:
        world: of this run.
        source: which commit, from where, and how the archive looks.
        progress: told what happens.
        ssh_key: text of a private key for the repository's host; "" for what `source.ssh_key` names.

    Raises:
        FetchFailedError, OfflineError: a commit is not here and cannot be had.
        IntegrityError: a repository gave other objects than asked for, twice.
        ArchiveError: a name, symlink or submodule that is refused.
        ToolError: git is missing or failed; the repository may not be asked.
        StoreUnavailableError, CancelledError: as in every step.
    """
    key = archive_key(source)
    with world.store.lock(key, progress):
        made = world.store.result(key)
        if made is not None and world.store.has(made.integrity):
            return made.integrity
        with working(world, source, progress, ssh_key) as work:
            try:
                return _written(work, key)
            except (MissingObjectError, DigestMismatchError) as error:
                progress.warn(f"{shown(source.repo)}: {error.message}; fetched again")
                for part in work.parts():
                    work.forget(part.repository)
            return _written(work, key)


def _written(work: Work, key: str) -> Integrity:
    world, source, progress = work.world, work.source, work.progress
    parts = work.parts()
    progress.phase("repack")
    store = world.store
    with store.temporary() as spool, store.writer() as writer:
        tar_digest = write_archive(
            work.entries(parts),
            name=source.artifact_name,
            limits=world.limits(source.archive),
            spool=spool,
            write=writer.write,
            progress=progress,
        )
        integrity = writer.commit()
    provenance: dict[str, str | int] = {
        "url": shown(source.repo),
        "commit": source.revision,
        "tree": parts[0].listing.tree,
        "submodules": len(parts) - 1,
        "tar": f"sha256:{tar_digest}",
    }
    store.record(Result(key=key, integrity=integrity, provenance=provenance))
    return integrity
