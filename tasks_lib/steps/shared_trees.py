"""Shared trees: unpack an archive into the cache once, then link it from there: by reflink, or by hard link on request.

If the cache cannot store an unpacked tree, or the file system cannot share files, the archive is extracted directly.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple

import msgspec

from tasks_lib import recipe
from tasks_lib.archive import Entry, Reshape, read
from tasks_lib.cache.trees import Trees
from tasks_lib.context import Context
from tasks_lib.digest import Digest, Integrity
from tasks_lib.errors import ArchiveError, CacheError, CacheUnavailableError
from tasks_lib.formats import SINGLE, UNPACKED_VERSION, format_from_name
from tasks_lib.fs.copying import can_clone
from tasks_lib.limits import Limits
from tasks_lib.progress import Progress
from tasks_lib.steps.builds import Delivery
from tasks_lib.tree.cached_tree import CachedTree, DamagedTreeError, write_cached_tree
from tasks_lib.tree.extraction import Extraction

if TYPE_CHECKING:
    from tasks_lib.cache.maintenance import InventoryItem

#: Attempts for one delivery: drop a damaged tree, unpack it again, link it.
_ROUNDS: Final = 3
#: Maximum number of changed files of one tree that go to quarantine.
_MOST_KEPT: Final = 20


class Archive(NamedTuple):
    """An open archive with the parameters for reading it."""

    file: BinaryIO
    integrity: Integrity
    name: str
    format: str
    limits: Limits
    reshape: Reshape = Reshape()
    declared: str = ""  # format that its definition declares

    @property
    def key(self) -> str:
        """The key of its unpacked tree."""
        return _key(self.integrity, self.name, self.declared, self.reshape, self.limits._asdict())

    def read(self, sink: Callable[[Entry], None], repeats: Callable[[Entry], bool]) -> None:
        """Pass every entry to `sink`; see `archive.read` for `repeats`.

        Raises:
            ArchiveError: the archive is rejected.
        """
        self.file.seek(0)
        read(
            self.file,
            name=self.name,
            format=self.format,
            reshape=self.reshape,
            limits=self.limits,
            sink=sink,
            repeats=repeats,
        )


def _key(
    integrity: Integrity,
    name: str,
    declared: str,
    reshape: Reshape,
    limits: Mapping[str, int | str],
    version: str = UNPACKED_VERSION,
) -> str:
    return recipe.unpacked_key(
        integrity,
        format=declared or format_from_name(name) or "",
        limits=limits,
        version=version,
        shape=(*reshape.words, *([name] if declared in SINGLE else [])),
    )


def tree_key(configuration: recipe.Configuration, delivery: Delivery, integrity: Integrity) -> str:
    """Return the key of the cached tree that runs with this configuration can link a delivery from."""
    limits = {**configuration.limits, **dict(delivery.limits)}
    name = delivery.artifact.path.name
    return _key(integrity, name, delivery.format, delivery.reshape, limits, configuration.trees)


def link_from_cache(
    context: Context, delivery: Delivery, extraction: Extraction, archive: Archive, progress: Progress
) -> bool:
    """Link the tree of an archive from the cache. Return False if the caller has to extract the archive instead.

    `auto` clones from a tree that the cache has, and does not create one; `reflink` and `hardlink` create it.

    Raises:
        ArchiveError, TreeError, BlobCorruptError, CancelledError: as `Extraction.extract`.
    """
    how, trees = context.settings.link_mode, Trees(context.cache)
    if how == "copy" or not _can_share(context, archive, extraction.destination):
        return False
    for _ in range(_ROUNDS):
        try:
            with trees.leased(archive.key) as directory:
                if directory is not None:
                    progress.phase("place")
                    unpacked = CachedTree(directory)
                    extraction.lay(
                        unpacked, name=archive.name, how=how, limits=archive.limits, key=delivery.key, progress=progress
                    )
                    return True
            if how == "auto":
                return False
            with context.cache.lock(archive.key, progress):
                trees.make(archive.key, lambda empty: _unpack(empty, archive, progress))
        except DamagedTreeError as error:
            progress.warn(f"{archive.name}: ignoring its unpacked tree in the cache: {error.message}")
            if not _quarantine_tree(context, trees, archive.key, {error.path: error.message}):
                return False
        except CacheUnavailableError as error:
            progress.warn(
                f"{archive.name}: extracting directly: the cache cannot store the unpacked tree: {error.message}"
            )
            return False
    return False


def _can_share(context: Context, archive: Archive, destination: Path) -> bool:
    """Return whether files of the cache can be linked without a copy; `auto` also requires a cached tree."""
    how = context.settings.link_mode
    if how == "auto" and not Trees(context.cache).holds(archive.key):
        return False
    above = next(path for path in (destination.absolute().parent, *destination.absolute().parents) if path.is_dir())
    if how == "hardlink":
        return (
            context.cache.root.stat().st_dev == above.stat().st_dev
        )  # compare directories: overlayfs reports other devices for files
    return can_clone(archive.file, above)


def _unpack(empty: Path, archive: Archive, progress: Progress) -> None:
    progress.phase("extract", total=archive.integrity.size)
    facts = {
        "name": archive.name,
        "format": archive.format,
        "size": archive.integrity.size,
        "digest": str(archive.integrity.digest),
        "limits": archive.limits._asdict(),
        "reshape": msgspec.structs.asdict(archive.reshape),
        "declared": archive.declared,
    }
    copies = archive.limits.max_total_bytes
    write_cached_tree(
        empty, lambda writer: archive.read(writer.add, writer.repeats), facts, copies=copies, progress=progress
    )
    archive.file.seek(0, os.SEEK_END)
    archive.file.read(1)  # an open blob is verified when it is read to its end


def _quarantine_tree(context: Context, trees: Trees, key: str, differences: dict[str, str]) -> bool:
    """Move damaged files to quarantine and drop the tree; return False if the cache cannot be written.

    Files of a shared, read-only cache stay in place.
    """
    try:
        with trees.leased(key) as directory:
            for path, reason in list(differences.items())[:_MOST_KEPT]:
                if directory is not None and path and context.cache.root in directory.parents:
                    file = directory / "tree" / path
                    context.cache.maintenance.set_aside(file, f"{file}: {reason}")
        trees.drop(key)
    except CacheUnavailableError:
        return False
    return True


def check_cached_trees(
    context: Context, items: Iterable[InventoryItem], progress: Progress
) -> Iterator[tuple[InventoryItem, str, str]]:
    """Yield each cached tree, its damage ("" for none), and why it could not be checked ("" if it was).

    A damaged tree is dropped; the next delivery that links from it unpacks it again.

    Raises:
        CancelledError: the run is cancelled.
    """
    trees = Trees(context.cache)
    for item in items:
        with trees.leased(item.name) as directory:
            if directory is None:
                continue
            try:
                unpacked = CachedTree(directory)
                differences = _compare_tree(context, unpacked, item.name, progress)
                if not differences and (unpacked.is_copy() or unpacked.is_touched()):
                    yield item, "", "intact, but copied or touched: it is unpacked again when needed"
                    continue
            except DamagedTreeError as error:
                differences = {"": error.message}
            except (ArchiveError, CacheError) as error:
                yield item, "", error.message
                continue
        if differences:
            _quarantine_tree(context, trees, item.name, differences)
        lines = [f"{path}: {reason}" if path else reason for path, reason in differences.items()]
        more = f"; and {len(lines) - _MOST_KEPT} more" if len(lines) > _MOST_KEPT else ""
        yield item, "; ".join(lines[:_MOST_KEPT]) + more, ""


def _compare_tree(context: Context, unpacked: CachedTree, key: str, progress: Progress) -> dict[str, str]:
    archive = _parse_facts(unpacked.facts())
    if archive.key != key:
        raise DamagedTreeError("its manifest describes another tree")
    with context.cache.open(archive.integrity) as file:
        return unpacked.compare(archive._replace(file=file).read, progress)


def _parse_facts(facts: dict[str, Any]) -> Archive:
    """Return the archive of an unpacked tree, not open."""
    try:
        return Archive(
            file=io.BytesIO(),
            integrity=Integrity(size=facts["size"], digest=Digest.parse(facts["digest"])),
            name=str(facts["name"]),
            format=str(facts["format"]),
            limits=Limits(**facts["limits"]),
            reshape=Reshape(**facts.get("reshape", {})),
            declared=str(facts.get("declared", "")),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedTreeError("cannot read its manifest") from error
