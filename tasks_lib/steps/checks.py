"""Checks of outputs: whether the output of a step is unchanged, and the files on which this depends.

Every command about tasks needs these; the steps that change files are in the other modules.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tasks_lib import recipe
from tasks_lib.cache import Confirmation, Result
from tasks_lib.context import Context
from tasks_lib.definitions import DebianSource, Fetch, StaticUrl
from tasks_lib.digest import Integrity
from tasks_lib.errors import CacheUnavailableError
from tasks_lib.network import redacted
from tasks_lib.steps.builds import Artifact, Delivery, ToolchainBuild
from tasks_lib.steps.definition_types import load_steps

if TYPE_CHECKING:
    from tasks_lib.tree.recorded_tree import RecordedTree


def find_integrity(context: Context, artifact: Artifact) -> Integrity | None:
    """Return the integrity of the artifact, None if it has not been built yet."""
    if artifact.integrity is not None:
        return artifact.integrity
    result = context.cache.result(artifact.key)
    return result.integrity if result else None


def is_published(context: Context, artifact: Artifact) -> bool:
    """Return whether the cache has the artifact, its signatures are verified, and its published file is unchanged.

    Return False if the cache cannot be read.
    """
    try:
        integrity = find_integrity(context, artifact)
        if integrity is None or not context.cache.has(integrity) or not _is_signature_verified(context, artifact):
            return False
        return context.cache.matches(artifact.path, integrity) and is_linked(artifact)
    except CacheUnavailableError:
        return False  # the step reports the error


def _is_signature_verified(context: Context, artifact: Artifact) -> bool:
    """Return whether its signatures were verified under the current policy; True if it needs none."""
    return not artifact.verdict or context.cache.result(artifact.verdict) is not None


def list_artifact_files(context: Context, artifact: Artifact) -> list[str]:
    """Return the files on which `is_published` depends."""
    integrity = find_integrity(context, artifact)
    files = [
        str(artifact.path),
        *([str(artifact.link)] if artifact.link else []),
        *(context.cache.inputs(digest=integrity.digest) if integrity else []),
    ]
    keys = [artifact.verdict, "" if artifact.integrity else artifact.key]
    return files + [path for key in keys if key for path in context.cache.inputs(key=key)]


def is_linked(artifact: Artifact) -> bool:
    """Return whether the link to an artifact exists, or none is wanted."""
    try:
        return artifact.link is None or os.readlink(artifact.link) == artifact.link_text  # noqa: PTH115  # text
    except OSError:
        return False


def read_provenance(context: Context, artifact: Artifact) -> dict[str, str | int | float]:
    """Return the recorded provenance of the artifact and of its signatures; {} if there is none."""
    facts: dict[str, str | int | float] = {}
    for key in (artifact.key, artifact.verdict):
        result = context.cache.result(key) if key else None
        if result is not None:
            facts |= dict(result.provenance)
            facts.setdefault("made size", result.integrity.size)
            facts.setdefault("made digest", str(result.integrity.digest))
    return facts


def url_of(definition: Fetch) -> str:
    """Return the URL of a download as its definition writes it, "" for a commit."""
    return definition.source.url if isinstance(definition.source, StaticUrl | DebianSource) else ""


def find_pinned(context: Context, source: StaticUrl | DebianSource) -> Integrity | None:
    """Return the integrity of the file that a definition pins, None while its size is not known."""
    if isinstance(source, StaticUrl):
        return source.integrity
    if source.size >= 0:
        return Integrity(size=source.size, digest=source.digest)
    result = context.cache.result(recipe.pinned_key(source))
    return result.integrity if result is not None else None


def _read_result(context: Context, definition: Fetch) -> Result | None:
    """Return the result of a download, None for a commit or if there is none."""
    source = definition.source
    integrity = find_pinned(context, source) if isinstance(source, StaticUrl | DebianSource) else None
    return context.cache.result(recipe.fetch_key(integrity)) if integrity is not None else None


def is_asked(context: Context, definition: Fetch) -> bool:
    """Return whether the URL of a definition confirmed the cached content, or was asked in vain."""
    result = _read_result(context, definition)
    return result is None or result.confirmation(url_of(definition)) is not Confirmation.UNASKED


def describe_unconfirmed(context: Context, definition: Fetch) -> str:
    """Return what is not confirmed about the cached content of a download, "" if it is confirmed or absent."""
    source = definition.source
    pin = source.integrity if isinstance(source, StaticUrl) else source if isinstance(source, DebianSource) else None
    if pin is not None and (pin.digest.hex, url_of(definition)) in context.fetched:
        return ""
    result, url = _read_result(context, definition), url_of(definition)
    if result is None or result.confirmation(url) is Confirmation.CONFIRMED or not context.cache.has(result.integrity):
        return ""
    asked = "could not be reached" if result.confirmation(url) is Confirmation.UNREACHED else "has not confirmed them"
    return f"not confirmed: these bytes were fetched from {result.origin}; {redacted(url)} {asked}"


def needs_network(context: Context, definition: Fetch, artifact: Artifact) -> bool:
    """Return whether the artifact is available only from the network: not from the cache, a store or a local file."""
    integrity = find_integrity(context, artifact)
    if integrity is not None and context.cache.has(integrity):
        return False
    return load_steps(context, definition).needs_network(artifact)


def tree_of(delivery: Delivery) -> RecordedTree:
    """Return what a delivery left: its directory and its manifest."""
    from tasks_lib.tree.recorded_tree import RecordedTree  # slow to import, and a fetch has no tree

    return RecordedTree(delivery.destination, delivery.record)


def is_delivered(delivery: Delivery) -> bool:
    """Return whether every entry is as delivered."""
    return tree_of(delivery).holds(delivery.key)


def list_delivery_files(delivery: Delivery) -> Iterator[str]:
    """Yield the files on which `is_delivered` depends: the manifest, the directories, and every delivered entry."""
    tree = tree_of(delivery)
    yield str(delivery.record)
    yield from map(str, tree.directories())
    yield from map(str, tree.paths())


def is_built(context: Context, preparation: ToolchainBuild) -> bool:
    """Return whether the toolchain is built with this key and the cache has its output."""
    if _read_built_key(preparation.stamp) != preparation.key:
        return False
    if not all(is_placed(preparation, one) for one in preparation.deliveries if one.entry.delivery == "place"):
        return False
    return preparation.output is None or is_published(context, preparation.output)


def is_placed(preparation: ToolchainBuild, delivery: Delivery) -> bool:
    """Return whether a file is as placed; after the command ran, compare only the key: the command may change files."""
    tree = tree_of(delivery)
    return tree.key() == delivery.key if preparation.worked.exists() else tree.holds(delivery.key)


def list_build_files(context: Context, preparation: ToolchainBuild) -> list[str]:
    """Return the files on which `is_built` depends."""
    placed = [one for one in preparation.deliveries if one.entry.delivery == "place"]
    files = [path for one in placed for path in list_delivery_files(one)]
    output = list_artifact_files(context, preparation.output) if preparation.output is not None else []
    return [str(preparation.stamp), str(preparation.worked), *files, *output]


def _read_built_key(stamp: Path) -> str:
    try:
        return str(json.loads(stamp.read_text("ascii"))["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
