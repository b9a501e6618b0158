"""Artifacts: obtain the result of a recipe key, and publish it from the cache under a descriptive name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tasks_lib.cache import Result
from tasks_lib.cache.results import Provenance
from tasks_lib.context import Context
from tasks_lib.digest import Integrity
from tasks_lib.errors import TreeError
from tasks_lib.fs.atomic import replace_symlink
from tasks_lib.progress import Progress
from tasks_lib.steps.builds import Artifact
from tasks_lib.steps.checks import find_integrity, is_linked


def publish(context: Context, integrity: Integrity, artifact: Artifact) -> None:
    """Give a blob of the cache the names of the artifact; the link only if the build directory can be written.

    Raises:
        CacheUnavailableError: the cache cannot be written.
    """
    if not context.cache.matches(artifact.path, integrity):
        context.cache.publish(integrity, artifact.path)
    with contextlib.suppress(TreeError):  # a run may fill a cache beside a build directory of another user
        link_artifact(artifact)


def link_artifact(artifact: Artifact) -> None:
    """Create the link to an artifact, unless it exists.

    Raises:
        TreeError: it cannot be created.
    """
    if is_linked(artifact):
        return
    assert artifact.link is not None, "an artifact without a link counts as linked"
    try:
        replace_symlink(artifact.link_text, artifact.link)
    except OSError as error:
        raise TreeError(
            f"cannot link {artifact.link}: {error.strerror or error}", hint="check permissions and existing entries"
        ) from error


def publish_from_cache(context: Context, artifact: Artifact) -> bool:
    """Publish the artifact from the cache; return False if the cache does not have it.

    Raises:
        CacheUnavailableError: the cache cannot be written.
    """
    integrity = find_integrity(context, artifact)
    if integrity is None or not context.cache.has(integrity):
        return False
    publish(context, integrity, artifact)
    return True


class MadeContent(NamedTuple):
    """Content in the cache that a step made, and its provenance."""

    integrity: Integrity
    provenance: Provenance


def obtain_result(
    context: Context, key: str, name: str, platform: str, make: Callable[[], MadeContent], progress: Progress
) -> Integrity:
    """Return the result of a recipe key: from the cache, else from a store, else what `make` makes, which is shared.

    Args:
        context: the context of this run.
        key: the recipe key.
        name: the name of the artifact, for messages.
        platform: `any`, or the platform of this machine for what depends on it.
        make: makes the content, under the lock of `key`.
        progress: receives progress and warnings.

    Raises:
        CacheUnavailableError, CancelledError, SettingError: as `adopt_shared_result`.
        FetchError: as `make`.
    """
    found = find_result(context, key)  # needs no lock, which a read-only cache does not offer
    if found is not None:
        return found
    with context.cache.lock(key, progress, name):
        found = find_result(context, key)
        if found is None and adopt_shared_result(context, key, name, platform, progress):
            found = find_result(context, key)
        if found is None:
            found, provenance = make()
            context.cache.record(Result(key=key, integrity=found, provenance=provenance))
            share_result(context, key, found, platform)
        return found


def find_result(context: Context, key: str) -> Integrity | None:
    """Return the integrity of the result of a recipe key if the cache has its content, else None."""
    result = context.cache.result(key)
    return result.integrity if result is not None and context.cache.has(result.integrity) else None


def adopt_shared_result(context: Context, key: str, name: str, platform: str, progress: Progress) -> bool:
    """Bring the result of a recipe key from a store into the cache; return whether there is one.

    Raises:
        CacheUnavailableError, CancelledError, SettingError: as `Downloader.obtain`; the stores cannot be opened.
    """
    fleet = context.fleet
    if fleet is None:
        return False
    from tasks_lib.steps import shared_results  # slow to import, needed only with a store

    return shared_results.adopt_from_fleet(context, fleet, key, name, platform, progress)


def share_result(context: Context, key: str, integrity: Integrity, platform: str, urls: Sequence[str] = ()) -> None:
    """Let the stores have a result that was made here, or obtained from `urls`, if this run writes to them."""
    fleet = context.fleet
    if fleet is not None and fleet.uploads is not None:
        fleet.uploads.add(key, integrity, platform, urls)
