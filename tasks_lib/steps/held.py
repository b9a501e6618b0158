"""Which repositories of the cache a commit and its submodules lie in: prune leaves them alone.

Only the tree of a commit says what its submodules are, so that git is asked; nothing is fetched.
"""

from __future__ import annotations

from typing import Final

from tasks_lib import git, recipe
from tasks_lib.context import Context
from tasks_lib.definitions import Git, Hg
from tasks_lib.errors import ArchiveError, IntegrityError, StoreError, ToolError
from tasks_lib.git import Objects
from tasks_lib.progress import Silent

#: What a repository says of a commit that it does not hold whole, or that nobody accepts.
_UNREADABLE: Final = (ArchiveError, IntegrityError, StoreError, ToolError)


def repository_names(world: Context, source: Git | Hg) -> set[str]:
    """Return the names of the cache's repositories that a definition needs.

    Where one cannot be read (no git here, damage), nobody knows what its submodules are: all that there are stay.

    Raises:
        StoreUnavailableError: others can write the cache.
    """
    top = recipe.repository_name(source, source.repo, source.revision)
    if isinstance(source, Hg) or _has_none(world, source):
        return {top}
    found: set[str] = set()
    waiting = [(source.repo, source.revision)]
    seen = set(waiting)
    while waiting:
        url, commit = waiting.pop()
        found.add(recipe.repository_name(source, url, commit))
        try:
            inner = set(_submodules(world, source, url, commit)) - seen
        except _UNREADABLE:
            return found | {item.name for item in world.store.upkeep.items() if item.kind == "repository"}
        seen |= inner
        waiting += inner
    return found


def _has_none(world: Context, source: Git) -> bool:
    """Whether it is recorded that the commit has no submodules, so that git need not be asked."""
    result = world.store.result(recipe.repository_key(source, version=world.writer_version))
    return result is not None and result.provenance.get("submodules") == 0


def _submodules(world: Context, source: Git, url: str, commit: str) -> list[tuple[str, str]]:
    """Return URL and commit of each submodule of a commit; nothing when the cache does not hold it."""
    directory = world.store.repository(recipe.repository_name(source, url, commit))
    repository = git.Repository(directory, world.repositories)
    if not repository.holds(commit):
        return []
    limits = world.limits(source.archive)
    with Objects(directory, world.repositories, Silent()) as objects:
        listing = git.listing(objects, commit, name=source.artifact_name, max_entries=limits.max_entries)
        found = git.submodules(listing, repository.context(url, source.artifact_name), objects, Silent())
        return [(one.url, one.commit) for one in found if one.url]
