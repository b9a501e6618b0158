"""Commits: fetch them with their submodules into cached repositories, and write each as one deterministic archive.

The archive depends only on the commit id, the prefix and whether `.git` is kept. It never depends on the clone, the
machine, the user, or the version or configuration of git or hg.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, Final, NamedTuple

from tasks_lib import recipe
from tasks_lib.archive import Entry, Reshape, make_entry, repack, write_sized
from tasks_lib.cache import Writer
from tasks_lib.context import Context
from tasks_lib.definitions import Git, Hg
from tasks_lib.digest import Integrity
from tasks_lib.errors import DigestMismatchError, UnsafeEntryError
from tasks_lib.limits import Limits
from tasks_lib.platforms import ANY_PLATFORM
from tasks_lib.progress import Progress
from tasks_lib.steps.artifacts import MadeContent, adopt_shared_result, find_result, obtain_result, publish_from_cache
from tasks_lib.steps.builds import Artifact
from tasks_lib.steps.definition_types import DefinitionSteps, commit_record
from tasks_lib.steps.repository_access import RepositoryAccess, open_repositories, repository_names
from tasks_lib.vcs import git, hg
from tasks_lib.vcs.git import MissingObjectError, Objects
from tasks_lib.vcs.urls import display_url

#: Maximum nesting depth and number of submodules. Chromium has about 300, three deep.
MAX_SUBMODULE_DEPTH: Final = 16
MAX_SUBMODULES: Final = 2000


class CommitPart(NamedTuple):
    """A commit and its path in the archive: the requested commit or one of its submodules.

    `gitdir` is the path of its repository in an archive that keeps `.git`; that of a submodule is in its parent's.
    """

    path: bytes
    gitdir: bytes
    repository: git.GitRepository
    listing: git.Listing
    submodules: tuple[git.Submodule, ...]


class _ContentStream:
    """File contents in order; `left` of them remain. Taking the last one closes the generator and its program."""

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
    """The inputs of the archive of one git commit."""

    access: RepositoryAccess
    source: Git

    @property
    def limits(self) -> Limits:
        return self.access.context.limits((*self.source.archive, *self.source.shape))

    @property
    def keeps(self) -> bool:
        return self.source.dot_git == "kept"

    def objects(self, repository: git.GitRepository) -> Objects:
        return Objects(repository.directory, self.access.context.repositories, self.access.progress)

    def parts(self) -> list[CommitPart]:
        """Return the commit and its submodules; fetch those that the cache does not have."""
        parts: list[CommitPart] = []
        pending = [(b"", b".git", self.source.repo, self.source.revision, 0)]
        while pending:
            path, gitdir, url, commit, depth = pending.pop()
            if depth > MAX_SUBMODULE_DEPTH or len(parts) > MAX_SUBMODULES:
                raise UnsafeEntryError(
                    archive=self.source.artifact_name, reason="has too many submodules", code="SUBMODULES", entry=path
                )
            part = self.part(path, gitdir, url, commit)
            parts.append(part)
            for one in reversed(part.submodules):
                if one.url:
                    below = _below(gitdir, b"modules/" + one.name.encode("utf-8", "surrogateescape"))
                    pending.append((_below(path, one.path), below, one.url, one.commit, depth + 1))
        return parts

    def part(self, path: bytes, gitdir: bytes, url: str, commit: str) -> CommitPart:
        """Return one commit; if its objects are damaged, fetch them once more."""
        try:
            return self.read(path, gitdir, url, commit)
        except (MissingObjectError, DigestMismatchError) as error:
            self.access.progress.warn(f"{display_url(url)}: {error.message}; fetching it again")
            self.access.forget(self.access.held(url, commit))
        return self.read(path, gitdir, url, commit)

    def read(self, path: bytes, gitdir: bytes, url: str, commit: str) -> CommitPart:
        repository = self.access.held(url, commit)
        if not isinstance(repository, git.GitRepository):
            raise AssertionError("a git definition has a git repository")
        name = self.source.artifact_name
        with self.objects(repository) as objects:
            listing = git.read_commit_tree(objects, commit, name=name, limits=self.limits)
            submodules = git.read_submodules(listing, repository.context(url, name), objects, self.access.progress)
            return CommitPart(path, gitdir, repository, listing, tuple(submodules))

    def entry(self, path: bytes, kind: str, **more: Any) -> Entry:
        return make_entry(path, kind, self.limits, archive=self.source.artifact_name, **more)

    def entries(self, part: CommitPart, here: bytes) -> Iterator[Entry]:
        """Yield the entries of one commit; files come without their content."""
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

    def contents(self, part: CommitPart) -> Generator[Iterable[bytes], None, None]:
        """Yield the content of each file of one commit, in path order."""
        files = [leaf.identity for leaf in part.listing.leaves if leaf.kind == "file"]
        with self.objects(part.repository) as objects:
            for _, _, chunks in objects.contents(files):
                yield chunks

    def dot_git(self, part: CommitPart, top: bytes, spool: BinaryIO) -> Iterator[tuple[Entry, Iterable[bytes]]]:
        """Yield each entry of the repository of one commit, with its content."""
        with self.objects(part.repository) as objects:
            for piece in git.gitdir_files(
                part.listing, part.submodules, git.GitdirPaths(part.path, part.gitdir), objects, spool
            ):
                kind = "directory" if piece.path.endswith(b"/") else "file"
                yield self.entry(_below(top, piece.path), kind, size=piece.size), piece.chunks

    def write(self, spool: BinaryIO, writer: Writer) -> dict[str, str | int]:
        """Write the archive; return its provenance."""
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
                for entry, chunks in self.dot_git(part, top, spool) if self.keeps else ():
                    own.append(entry)
                    flows[entry.path] = _ContentStream(chunk for chunk in (chunks,))
                entries += own
            digest = write_sized(
                entries,
                lambda entry: flows[entry.path].take(progress),
                name=self.source.artifact_name,
                limits=self.limits,
                mtime=self.access.context.mtime,
                write=writer.write,
                progress=progress,
            )
        return {"tar": f"sha256:{digest}", "tree": parts[0].listing.tree, "submodules": len(parts) - 1}

    def forget(self) -> None:
        """Delete the repositories of all parts."""
        for part in self.parts():
            self.access.forget(part.repository)


@dataclass(frozen=True, slots=True, kw_only=True)
class _HgWork:
    """The inputs of the archive of one Mercurial changeset."""

    access: RepositoryAccess
    source: Hg

    def parts(self) -> list[hg.HgRepository]:
        """Return the repository; it has the changeset."""
        repository = self.access.held(self.source.repo, self.source.revision)
        if not isinstance(repository, hg.HgRepository):
            raise AssertionError("an hg definition has an hg repository")
        return [repository]

    def write(self, spool: BinaryIO, writer: Writer) -> dict[str, str | int]:
        """Write the archive; return its provenance."""
        source, context, progress = self.source, self.access.context, self.access.progress
        (repository,) = self.parts()
        progress.phase("repack")
        with context.cache.temporary() as tar:
            repository.archive(source.revision, tar, source.artifact_name, progress)
            tar.seek(0)
            digest = repack(
                tar,
                name=source.artifact_name,
                format="tar",
                reshape=Reshape(strip=1, prefix=f"{source.path_prefix}/"),
                limits=context.limits((*source.archive, *source.shape)),
                mtime=context.mtime,
                spool=spool,
                write=writer.write,
                progress=progress,
            )
        return {"tar": f"sha256:{digest}"}

    def forget(self) -> None:
        """Delete the repository."""
        for repository in self.parts():
            self.access.forget(repository)


def _create_work(one: RepositoryAccess) -> _GitWork | _HgWork:
    if isinstance(one.source, Git):
        return _GitWork(access=one, source=one.source)
    return _HgWork(access=one, source=one.source)


def _below(directory: bytes, path: bytes) -> bytes:
    return b"/".join(filter(None, (directory, path)))


class _CommitSteps(DefinitionSteps[Git | Hg]):
    """The steps of one commit."""

    is_shared = False  # the record of a commit is made from its definition

    def fetch(self, artifact: Artifact, progress: Progress) -> None:
        """Fetch the commit and its submodules, unless the cache has their archive, and publish the commit's record.

        Raises:
            TransportError: a commit cannot be fetched.
            ToolError, ArchiveError, IntegrityError, CacheUnavailableError, CancelledError: as `commit_archive`.
        """
        cache = self.context.cache
        if find_result(self.context, self._key) is None:
            with cache.lock(self._key, progress):
                is_held = adopt_shared_result(
                    self.context, self._key, self.source.artifact_name, ANY_PLATFORM, progress
                )
            if not is_held:
                with open_repositories(self.context, self.source, progress) as one:
                    _create_work(one).parts()
        with cache.writer() as writer:
            writer.write(commit_record(self.source))
            writer.commit(artifact.integrity)
        publish_from_cache(self.context, artifact)

    @property
    def _key(self) -> str:
        return recipe.repository_key(self.source, version=self.context.writer_version)

    def repack(self, artifact: Artifact, progress: Progress) -> None:
        """Write the archive of the commit, and publish it.

        Raises:
            TransportError, ToolError, ArchiveError, IntegrityError, CacheError, CancelledError: as `commit_archive`.
        """
        commit_archive(self.context, self.source, progress)
        publish_from_cache(self.context, artifact)

    def needs_network(self, artifact: Artifact) -> bool:
        """Return whether neither the cache, a local repository nor a local store has the commit."""
        del artifact
        is_here = self.source.repo.startswith("file:") or find_result(self.context, self._key) is not None
        return not (is_here or self.has_local(None, self._key))

    def list_repositories(self) -> set[str]:
        """Return the names of the repositories of the commit and its submodules."""
        return repository_names(self.context, self.source)


STEPS: Final = _CommitSteps


def commit_archive(context: Context, source: Git | Hg, progress: Progress, *, ssh_key: str = "") -> Integrity:
    """Write the archive of a commit to the cache, fetch missing objects, and return the integrity of the archive.

    Args:
        context: the context of this run.
        source: the commit, its repository and the layout of the archive.
        progress: receives progress and warnings.
        ssh_key: text of a private key for the repository's host; "" to use the key that `source.ssh_key` names.

    Raises:
        TransportError: a commit is not in the cache and cannot be fetched (`OfflineError`: the network is off).
        IntegrityError: a repository returned wrong objects twice.
        ArchiveError: a name, symlink or submodule is rejected.
        ToolError: git or hg is missing or failed, or the protocol of the repository is not allowed.
        CacheUnavailableError, CancelledError: as in every step.
    """
    key = recipe.repository_key(source, version=context.writer_version)
    make = partial(_make_archive, context, source, progress, ssh_key)
    return obtain_result(context, key, source.artifact_name, ANY_PLATFORM, make, progress)


def _make_archive(context: Context, source: Git | Hg, progress: Progress, ssh_key: str) -> MadeContent:
    with open_repositories(context, source, progress, ssh_key) as one:
        work = _create_work(one)
        try:
            return _write_archive(work)
        except (MissingObjectError, DigestMismatchError) as error:
            progress.warn(f"{display_url(source.repo)}: {error.message}; fetching it again")
            work.forget()
        return _write_archive(work)


def _write_archive(work: _GitWork | _HgWork) -> MadeContent:
    cache, source = work.access.context.cache, work.source
    with cache.temporary() as spool, cache.writer() as writer:
        facts = work.write(spool, writer)
        integrity = writer.commit()
    return MadeContent(integrity, {"url": display_url(source.repo), "commit": source.revision, **facts})
