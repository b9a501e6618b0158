"""Artifacts: publish them from the cache under descriptive names."""

from __future__ import annotations

import contextlib

from tasks_lib.context import Context
from tasks_lib.digest import Integrity
from tasks_lib.errors import TreeError
from tasks_lib.fs.atomic import replace_symlink
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
