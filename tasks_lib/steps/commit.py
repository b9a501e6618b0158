"""Commits: fetched with their submodules into repositories of the cache, written as one deterministic archive.

The archive is a function of the commit id, the prefix and whether `.git` is kept: never of the clone, the machine,
the user, the program's version or its configuration.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, NamedTuple

from tasks_lib import recipe
from tasks_lib.archive import Entry, Reshape, entry_of, repack, write_known
from tasks_lib.cache import Result, Writer
from tasks_lib.context import Context
from tasks_lib.definitions import Git, Hg
from tasks_lib.digest import Integrity
from tasks_lib.errors import DigestMismatchError, UnsafeEntryError
from tasks_lib.limits import Limits
from tasks_lib.progress import Progress
from tasks_lib.steps.repository_access import RepositoryAccess, open_repositories
from tasks_lib.vcs import git, hg
from tasks_lib.vcs.git import MissingObjectError, Objects
from tasks_lib.vcs.urls import display_url

#: Deepest nesting and largest number of submodules. Chromium has about 300, three deep.
MAX_SUBMODULE_DEPTH: Final = 16
MAX_SUBMODULES: Final = 2000


class Part(NamedTuple):
    """A commit at its place in the archive: the wanted one, then its submodules."""

    path: bytes
    repository: git.GitRepository
    listing: git.Listing
    submodules: tuple[git.Submodule, ...]


class _ContentStream:
    """Contents in order, of which `left` are still to be taken; the last one ends the program behind it."""

    def __init__(self, contents: Generator[Iterable[bytes], None, None], left: int = 1) -> None:
        self._contents, self._left = contents, left

    def take(self, progress: Progress) -> Iterator[bytes]:
        """Yield the next content."""
        self._left -= 1
        for chunk in next(self._contents):
            progress.advance(len(chunk))
            yield chunk
        if not self._left:
            self._contents.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _GitWork:
    """What the archive of one commit is made of."""

    access: RepositoryAccess
    source: Git

    @property
    def limits(self) -> Limits:
        return self.access.world.limits(self.source.archive)

    @property
    def keeps(self) -> bool:
        return self.source.dot_git == "kept"

    def objects(self, repository: git.GitRepository) -> Objects:
        return Objects(repository.directory, self.access.world.repositories, self.access.progress)

    def parts(self) -> list[Part]:
        """Return the commit and its submodules, fetched where the cache does not hold them."""
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
        """Return one commit; damaged objects are fetched once more."""
        try:
            return self.read(path, url, commit)
        except (MissingObjectError, DigestMismatchError) as error:
            self.access.progress.warn(f"{display_url(url)}: {error.message}; fetched again")
            self.access.forget(self.access.held(url, commit))
        return self.read(path, url, commit)

    def read(self, path: bytes, url: str, commit: str) -> Part:
        repository = self.access.held(url, commit)
        if not isinstance(repository, git.GitRepository):
            raise AssertionError("access gives git repositories to git definitions")
        name = self.source.artifact_name
        with self.objects(repository) as objects:
            found = git.listing(objects, commit, name=name, max_entries=self.limits.max_entries)
            inner = git.submodules(found, repository.context(url, name), objects, self.access.progress)
            return Part(path, repository, found, tuple(inner))

    def entry(self, path: bytes, kind: str, **more: Any) -> Entry:
        return entry_of(path, kind, self.limits, archive=self.source.artifact_name, **more)

    def entries(self, part: Part, here: bytes) -> Iterator[Entry]:
        """Yield what one commit holds, files without their content."""
        leaves = part.listing.leaves
        links = [leaf.identity for leaf in leaves if leaf.kind == "symlink"]
        with self.objects(part.repository) as objects:
            targets = dict(zip(links, objects.small("blob", links), strict=True))
            sizes = objects.sizes([leaf.identity for leaf in leaves])
            for leaf, size in zip(leaves, sizes, strict=True):
                path = _below(here, leaf.path)
                if leaf.kind == "symlink":
                    yield self.entry(path, "symlink", target=targets[leaf.identity])
                else:
                    yield self.entry(path, "file", size=size, executable=leaf.executable)
        for link in part.listing.gitlinks:
            yield self.entry(_below(here, link.path), "directory")

    def contents(self, part: Part) -> Generator[Iterable[bytes], None, None]:
        """Yield the content of each file of one commit, in the order of the paths."""
        files = [leaf.identity for leaf in part.listing.leaves if leaf.kind == "file"]
        with self.objects(part.repository) as objects:
            for _, _, chunks in objects.contents(files):
                yield chunks

    def dot_git(self, part: Part, here: bytes, spool: BinaryIO) -> Iterator[tuple[Entry, Iterable[bytes]]]:
        """Yield the `.git` of one commit, its content beside each entry."""
        with self.objects(part.repository) as objects:
            for piece in git.dot_git(part.listing, part.submodules, objects, spool):
                kind = "directory" if piece.path.endswith(b"/") else "file"
                yield self.entry(_below(here, piece.path), kind, size=piece.size), piece.chunks

    def write(self, spool: BinaryIO, writer: Writer) -> dict[str, str | int]:
        """Write the archive; return what is remembered of it."""
        parts, progress = self.parts(), self.access.progress
        progress.phase("repack")
        top = self.source.path_prefix.encode("utf-8", "surrogateescape")
        entries = [self.entry(top, "directory")]
        flows: dict[bytes, _ContentStream] = {}
        with contextlib.ExitStack() as stack:
            for part in parts:
                here = _below(top, part.path)
                own = list(self.entries(part, here))
                files = [one.path for one in own if one.kind == "file"]
                contents = stack.enter_context(contextlib.closing(self.contents(part)))
                flows |= dict.fromkeys(files, _ContentStream(contents, len(files)))
                for entry, chunks in self.dot_git(part, _below(here, b".git"), spool) if self.keeps else ():
                    own.append(entry)
                    flows[entry.path] = _ContentStream(chunk for chunk in (chunks,))
                entries += own
            digest = write_known(
                entries,
                lambda entry: flows[entry.path].take(progress),
                name=self.source.artifact_name,
                limits=self.limits,
                mtime=self.access.world.mtime,
                write=writer.write,
                progress=progress,
            )
        return {"tar": f"sha256:{digest}", "tree": parts[0].listing.tree, "submodules": len(parts) - 1}

    def forget(self) -> None:
        """Drop the repositories of all parts."""
        for part in self.parts():
            self.access.forget(part.repository)


@dataclass(frozen=True, slots=True, kw_only=True)
class _HgWork:
    """What the archive of one changeset is made of."""

    access: RepositoryAccess
    source: Hg

    def parts(self) -> list[hg.HgRepository]:
        """Return the repository, which holds the changeset."""
        repository = self.access.held(self.source.repo, self.source.revision)
        if not isinstance(repository, hg.HgRepository):
            raise AssertionError("access gives hg repositories to hg definitions")
        return [repository]

    def write(self, spool: BinaryIO, writer: Writer) -> dict[str, str | int]:
        """Write the archive; return what is remembered of it."""
        source, world, progress = self.source, self.access.world, self.access.progress
        (repository,) = self.parts()
        progress.phase("repack")
        with world.store.temporary() as made:
            repository.archive(source.revision, made, source.artifact_name, progress)
            made.seek(0)
            digest = repack(
                made,
                name=source.artifact_name,
                format="tar",
                reshape=Reshape(strip=1, prefix=f"{source.path_prefix}/"),
                limits=world.limits(source.archive),
                mtime=world.mtime,
                spool=spool,
                write=writer.write,
                progress=progress,
            )
        return {"tar": f"sha256:{digest}"}

    def forget(self) -> None:
        """Drop the repository."""
        for repository in self.parts():
            self.access.forget(repository)


def _work(one: RepositoryAccess) -> _GitWork | _HgWork:
    if isinstance(one.source, Git):
        return _GitWork(access=one, source=one.source)
    return _HgWork(access=one, source=one.source)


def _below(directory: bytes, path: bytes) -> bytes:
    return b"/".join(filter(None, (directory, path)))


def _made(world: Context, source: Git | Hg) -> Integrity | None:
    """Return the archive that the store holds already."""
    result = world.store.result(recipe.repository_key(source, version=world.writer_version))
    return result.integrity if result is not None and world.store.has(result.integrity) else None


def fetch_commit(world: Context, source: Git | Hg, progress: Progress) -> None:
    """Make the cache hold the commit and its submodules, unless it holds their archive.

    Raises:
        TransportError: a commit cannot be had.
        ToolError, ArchiveError, IntegrityError, StoreUnavailableError, CancelledError: as `commit_archive`.
    """
    if _made(world, source) is None:
        with open_repositories(world, source, progress) as one:
            _work(one).parts()


def commit_archive(world: Context, source: Git | Hg, progress: Progress, *, ssh_key: str = "") -> Integrity:
    """Make the store hold the archive of a commit, fetching what is missing, and return what its bytes are.

    Args:
        world: of this run.
        source: which commit, from where, and how the archive looks.
        progress: told what happens.
        ssh_key: text of a private key for the repository's host; "" for what `source.ssh_key` names.

    Raises:
        TransportError: a commit is not here and cannot be had (`OfflineError`: the network is off).
        IntegrityError: a repository gave other objects than asked for, twice.
        ArchiveError: a name, symlink or submodule that is refused.
        ToolError: git or hg is missing or failed; the repository may not be asked.
        StoreUnavailableError, CancelledError: as in every step.
    """
    key = recipe.repository_key(source, version=world.writer_version)
    with world.store.lock(key, progress):
        made = _made(world, source)
        if made is not None:
            return made
        with open_repositories(world, source, progress, ssh_key) as one:
            work = _work(one)
            try:
                return _written(work, key)
            except (MissingObjectError, DigestMismatchError) as error:
                progress.warn(f"{display_url(source.repo)}: {error.message}; fetched again")
                work.forget()
            return _written(work, key)


def _written(work: _GitWork | _HgWork, key: str) -> Integrity:
    store, source = work.access.world.store, work.source
    with store.temporary() as spool, store.writer() as writer:
        facts = work.write(spool, writer)
        integrity = writer.commit()
    provenance = {"url": display_url(source.repo), "commit": source.revision, **facts}
    store.record(Result(key=key, integrity=integrity, provenance=provenance))
    return integrity
