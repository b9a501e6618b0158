"""Archives unpacked once into the cache, and their trees placed from there: by clones, or by hard links when asked.

A cache that cannot take an unpacked tree, or a file system that shares nothing, costs nobody anything: the archive is
extracted, as without it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from tasks_lib import recipe
from tasks_lib.archive import Entry, Reshape, read
from tasks_lib.cache.maintenance import InventoryItem
from tasks_lib.cache.trees import Trees
from tasks_lib.context import Context
from tasks_lib.digest import Digest, Integrity
from tasks_lib.errors import ArchiveError, CacheError, CacheUnavailableError
from tasks_lib.formats import TREE_VERSION, format_for
from tasks_lib.fs.copying import can_clone
from tasks_lib.limits import Limits
from tasks_lib.progress import Progress
from tasks_lib.steps.plan import Delivery
from tasks_lib.tree import UNPACKED_VERSION, CachedTree, DamagedTreeError, Extraction, remove_tree, unpack

#: Rounds for one delivery: a tree that is damaged goes, a new one is made, and that is placed.
_ROUNDS: Final = 3
#: Changed files of one tree that are kept as evidence.
_MOST_KEPT: Final = 20


class Archive(NamedTuple):
    """An open archive, and what decides how it is read."""

    file: BinaryIO
    integrity: Integrity
    name: str
    format: str
    limits: Limits

    @property
    def key(self) -> str:
        """The key of its unpacked tree."""
        return _key(self.integrity, self.name, self.limits)

    def read(self, sink: Callable[[Entry], None]) -> None:
        """Give every entry to `sink`.

        Raises:
            ArchiveError: it is refused.
        """
        self.file.seek(0)
        read(self.file, name=self.name, format=self.format, reshape=Reshape(), limits=self.limits, sink=sink)


def _key(integrity: Integrity, name: str, limits: Limits) -> str:
    version = f"{TREE_VERSION}.{UNPACKED_VERSION}"
    return recipe.unpacked_key(integrity, format=format_for(name) or "", limits=limits._asdict(), version=version)


def tree_key(world: Context, delivery: Delivery, integrity: Integrity) -> str:
    """Return the key of the unpacked tree that a delivery is placed from where there is one."""
    return _key(integrity, delivery.artifact.path.name, world.limits(delivery.limits))


def link_from_cache(world: Context, delivery: Delivery, slot: Extraction, archive: Archive, progress: Progress) -> bool:
    """Whether the archive's tree could be placed from the cache; else it has to be extracted.

    `auto` clones from an unpacked tree that stands and makes none; `reflink` and `hardlink` make it.

    Raises:
        ArchiveError, TreeError, BlobCorruptError, CancelledError: as `Extraction.extract`.
    """
    how, trees = world.settings.link_mode, world.store.trees(remove_tree)
    if how == "copy" or not _can_share(world, archive, slot.destination):
        return False
    for _ in range(_ROUNDS):
        try:
            with trees.leased(archive.key) as directory:
                if directory is not None:
                    progress.phase("place")
                    unpacked = CachedTree(directory)
                    slot.lay(
                        unpacked, name=archive.name, how=how, limits=archive.limits, key=delivery.key, progress=progress
                    )
                    return True
            if how == "auto":
                return False
            with world.store.lock(archive.key, progress):
                trees.make(archive.key, lambda empty: _unpack(empty, archive, progress))
        except DamagedTreeError as error:
            progress.warn(f"{archive.name}: its unpacked tree in the cache is not used: {error.message}")
            if not _is_dropped(world, trees, archive.key, {error.path: error.message}):
                return False
        except CacheUnavailableError as error:
            progress.warn(f"{archive.name}: extracted, since the cache cannot keep its tree: {error.message}")
            return False
    return False


def _can_share(world: Context, archive: Archive, destination: Path) -> bool:
    """Whether files of the cache can be placed without a copy; `auto` asks only when there are any."""
    how = world.settings.link_mode
    if how == "auto" and not world.store.trees(remove_tree).holds(archive.key):
        return False
    above = next(path for path in (destination.absolute().parent, *destination.absolute().parents) if path.is_dir())
    if how == "hardlink":
        return world.store.root.stat().st_dev == above.stat().st_dev  # directories: overlayfs has others for files
    return can_clone(archive.file, above)


def _unpack(empty: Path, archive: Archive, progress: Progress) -> None:
    progress.phase("extract", total=archive.integrity.size)
    facts = {
        "name": archive.name,
        "format": archive.format,
        "size": archive.integrity.size,
        "digest": str(archive.integrity.digest),
        "limits": archive.limits._asdict(),
    }
    copies = archive.limits.max_total_bytes
    unpack(empty, lambda writer: archive.read(writer.add), facts, copies=copies, progress=progress)
    archive.file.seek(0, os.SEEK_END)
    archive.file.read(1)  # an open blob says at its end whether it changed


def _is_dropped(world: Context, trees: Trees, key: str, differences: dict[str, str]) -> bool:
    """Keep what shows the damage as evidence and take the tree away; False when the cache cannot be written.

    A shared cache keeps what it has.
    """
    try:
        with trees.leased(key) as directory:
            for path, reason in list(differences.items())[:_MOST_KEPT]:
                if directory is not None and path and world.store.root in directory.parents:
                    file = directory / "tree" / path
                    world.store.upkeep.set_aside(file, f"{file}: {reason}")
        trees.drop(key)
    except CacheUnavailableError:
        return False
    return True


def judged(
    world: Context, items: Iterable[InventoryItem], progress: Progress
) -> Iterator[tuple[InventoryItem, str, str]]:
    """Yield each unpacked tree, what is wrong with it, and why it could not be judged; "" for nothing.

    One that is damaged goes; the next placement makes it again.

    Raises:
        CancelledError: the run was asked to stop.
    """
    trees = world.store.trees(remove_tree)
    for item in items:
        with trees.leased(item.name) as directory:
            if directory is None:
                continue
            try:
                unpacked = CachedTree(directory)
                differences = _differences(world, unpacked, item.name, progress)
                if not differences and (unpacked.is_copy() or unpacked.is_touched()):
                    yield item, "", "right, but copied or touched: made again when it is needed"
                    continue
            except DamagedTreeError as error:
                differences = {"": error.message}
            except (ArchiveError, CacheError) as error:
                yield item, "", error.message
                continue
        if differences:
            _is_dropped(world, trees, item.name, differences)
        told = [f"{path}: {reason}" if path else reason for path, reason in differences.items()]
        more = f"; and {len(told) - _MOST_KEPT} more" if len(told) > _MOST_KEPT else ""
        yield item, "; ".join(told[:_MOST_KEPT]) + more, ""


def _differences(world: Context, unpacked: CachedTree, key: str, progress: Progress) -> dict[str, str]:
    archive = _made_of(unpacked.facts())
    if _key(archive[0], archive[1], archive[3]) != key:
        raise DamagedTreeError("its list is of another tree")
    with world.store.open(archive[0]) as file:
        return unpacked.compare(Archive(file, *archive).read, progress)


def _made_of(facts: dict[str, Any]) -> tuple[Integrity, str, str, Limits]:
    try:
        integrity = Integrity(size=facts["size"], digest=Digest.parse(facts["digest"]))
        return integrity, str(facts["name"]), str(facts["format"]), Limits(**facts["limits"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedTreeError("its list cannot be read") from error
