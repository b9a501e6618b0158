"""Access to repositories: one cached repository per URL, fetched into under its lock, with the ssh key of its host."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from tasks_lib import recipe
from tasks_lib.context import Context
from tasks_lib.definitions import Git, Hg
from tasks_lib.errors import (
    ArchiveError,
    CacheError,
    IntegrityError,
    MovedError,
    OfflineError,
    RedirectError,
    ToolError,
    TransportError,
)
from tasks_lib.fs.system_calls import transient_file
from tasks_lib.progress import Progress, Silent
from tasks_lib.retry import Retry
from tasks_lib.transport.client import MAX_REDIRECTS
from tasks_lib.transport.urls import next_url
from tasks_lib.vcs import git, hg
from tasks_lib.vcs.environment import fetch_bounds
from tasks_lib.vcs.git import Objects
from tasks_lib.vcs.urls import check_url, display_url, host_of

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryAccess:
    """Access to the repositories of one definition; `key` is a private key file for the host of `source.repo`."""

    context: Context
    source: Git | Hg
    progress: Progress
    key: Path | None

    def held(self, url: str, commit: str) -> git.GitRepository | hg.HgRepository:
        """Return the repository of a URL; fetch the commit if the repository does not have it.

        Raises:
            OfflineError: the commit is missing and the network is off.
            TransportError: the server did not send the commit.
            ToolError, CacheUnavailableError, CancelledError: as `GitRepository.fetch` and `Cache.lock`.
        """
        kind = git.GitRepository if isinstance(self.source, Git) else hg.HgRepository
        name = recipe.repository_name(self.source, url, commit)
        repository = kind(self.context.cache.repository(name), self.context.repositories)
        if repository.holds(commit):
            return repository
        with self.context.cache.lock(name, self.progress):
            if not repository.holds(commit):
                self._obtain(repository, url, commit)
        return repository

    def forget(self, repository: git.GitRepository | hg.HgRepository) -> None:
        """Delete a repository whose objects are damaged."""
        with self.context.cache.lock(repository.directory.name, self.progress):
            repository.forget()

    def resolve(self, name: str, directory: Path) -> str:
        """Return the commit to which a branch or tag points; `directory` becomes a repository.

        Raises:
            TransportError, ToolError, CancelledError: as `GitRepository.resolve` and `HgRepository.resolve`.
        """
        kind = git.GitRepository if isinstance(self.source, Git) else hg.HgRepository
        repository = kind(directory, self.context.repositories)
        return self._follow(
            self.source.repo, lambda place: repository.resolve(place, name, self.progress, key=self.key)
        )

    def list_refs(self, patterns: Sequence[str], directory: Path) -> dict[str, str]:
        """Return the refs of the definition's repository that match; `directory` becomes a repository.

        Raises:
            OfflineError: the network is off.
            TransportError, ToolError, CancelledError: as `GitRepository.list_refs`.
        """
        url = self.source.repo
        if self.context.settings.policy.network == "off" and not url.startswith("file:"):
            raise OfflineError(
                f"{display_url(url)} is not asked, because the network is off", hint="run without offline"
            )
        repository = git.GitRepository(directory, self.context.repositories)
        return self._follow(url, lambda place: repository.list_refs(place, patterns, self.progress, key=self.key))

    def _follow(self, url: str, ask: Callable[[str], Result]) -> Result:
        """Call `ask` with the URL, and again with the URL of each redirect; judge each before it is asked.

        Raises:
            RedirectError: too many redirects, or one to a URL that is not allowed.
            TransportError: a host is in a denied network, or raised by `ask`.
        """
        for _ in range(MAX_REDIRECTS + 1):
            self.context.judge_repository(url, self.progress)
            try:
                return ask(url)
            except MovedError as moved:
                target = next_url(url, moved.location)
            try:
                url = check_url(target, self.context.repositories.protocols)
            except ValueError as error:
                raise RedirectError(f"a redirect to {display_url(target)} is not followed: the URL {error}") from error
        raise RedirectError(f"more than {MAX_REDIRECTS} redirects", hint="use the final URL in the definition")

    def _obtain(self, repository: git.GitRepository | hg.HgRepository, url: str, commit: str) -> None:
        """Fetch a commit; retry after a delay if that may help."""
        policy = self.context.settings.policy
        if policy.network == "off" and not url.startswith("file:"):
            raise OfflineError(
                f"commit {commit} of {display_url(url)} is not in the cache, and the network is off",
                hint="run once without offline=1",
            )
        key = self.key if host_of(url) == host_of(self.source.repo) else None
        retry = Retry(policy, fetch_bounds(self.context.repositories).total_s)
        retry.begin()
        while True:
            try:
                self._follow(url, lambda place: repository.fetch(place, commit, self.progress, key=key))
            except TransportError as error:
                if not retry.again(error, self.progress, display_url(url)):
                    raise
                self.progress.warn(f"{error.message}; retrying")
            else:
                return


@contextlib.contextmanager
def open_repositories(
    context: Context, source: Git | Hg, progress: Progress, ssh_key: str = ""
) -> Iterator[RepositoryAccess]:
    """Yield access to the repositories of one definition; no file with its private key outlives this process.

    Args:
        context: the context of this run.
        source: the commit and its repository.
        progress: receives progress and warnings.
        ssh_key: text of a private key; "" to use the key that the definition names.

    Raises:
        ToolError: the protocol of the repository is not allowed, or the key that the definition names is missing.
    """
    try:
        check_url(source.repo, (*context.repositories.protocols, "file"))  # a definition may use `file:` explicitly
    except ValueError as error:
        raise ToolError(
            f"{display_url(source.repo)} {error}", hint="add the protocol to FETCH_GIT_PROTOCOLS to allow it"
        ) from error
    name = source.ssh_key if isinstance(source, Git) else ""
    text = ssh_key or (_read_ssh_key(context, name) if name else "")
    if not text:
        yield RepositoryAccess(context=context, source=source, progress=progress, key=None)
        return
    with transient_file() as key:
        key.write_text(text.rstrip("\n") + "\n", "utf-8")  # OpenSSH rejects a key without a final line feed
        yield RepositoryAccess(context=context, source=source, progress=progress, key=key)


def _read_ssh_key(context: Context, name: str) -> str:
    text = context.environ.get(name, "")
    if text:
        return text
    try:
        return Path(name).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ToolError(
            f"the ssh key {name!r} is neither an environment variable nor a readable file",
            hint="set that variable to the private key, or give the path of the key file in the definition",
        ) from error


#: Errors of a repository that has a commit only partly, or a commit that is rejected.
_UNREADABLE: Final = (ArchiveError, IntegrityError, CacheError, ToolError)


def repository_names(context: Context, source: Git | Hg) -> set[str]:
    """Return the names of the cached repositories that a definition needs.

    If one cannot be read (git is missing, damage), its submodules are unknown: return all repositories of the cache.

    Raises:
        CacheUnavailableError: other users can write to the cache.
    """
    top = recipe.repository_name(source, source.repo, source.revision)
    if isinstance(source, Hg) or _has_no_submodules(context, source):
        return {top}
    names: set[str] = set()
    pending = [(source.repo, source.revision)]
    seen = set(pending)
    while pending:
        url, commit = pending.pop()
        names.add(recipe.repository_name(source, url, commit))
        try:
            inner = set(_list_submodules(context, source, url, commit)) - seen
        except _UNREADABLE:
            return names | {item.name for item in context.cache.maintenance.items() if item.kind == "repository"}
        seen |= inner
        pending += inner
    return names


def _has_no_submodules(context: Context, source: Git) -> bool:
    """Return whether the cache records that the commit has no submodules, so that git need not run."""
    result = context.cache.result(recipe.repository_key(source, version=context.writer_version))
    return result is not None and result.provenance.get("submodules") == 0


def _list_submodules(context: Context, source: Git, url: str, commit: str) -> list[tuple[str, str]]:
    """Return URL and commit of each submodule of a commit; [] if the cache does not have the commit."""
    directory = context.cache.repository(recipe.repository_name(source, url, commit))
    repository = git.GitRepository(directory, context.repositories)
    if not repository.holds(commit):
        return []
    limits = context.limits((*source.archive, *source.shape))
    with Objects(directory, context.repositories, Silent()) as objects:
        listing = git.read_commit_tree(objects, commit, name=source.artifact_name, limits=limits)
        submodules = git.read_submodules(listing, repository.context(url, source.artifact_name), objects, Silent())
        return [(one.url, one.commit) for one in submodules if one.url]
