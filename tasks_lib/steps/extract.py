"""Deliveries: an artifact extracted into a directory, or placed there as it is."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from tasks_lib.context import Context
from tasks_lib.digest import Integrity
from tasks_lib.errors import BlobCorruptError, BlobMissingError
from tasks_lib.gil import serialized
from tasks_lib.progress import Progress
from tasks_lib.steps import artifacts
from tasks_lib.steps.plan import FETCHES, RECORDS, Delivery

if TYPE_CHECKING:
    from tasks_lib.tree import Extraction

#: Bytes of an artifact up to which delivering it is mostly system calls: two at once would only hand the lock over.
_SMALL: Final = 256 << 10


def extraction_of(delivery: Delivery) -> Extraction:
    """Return the place of a delivery."""
    from tasks_lib.tree import Extraction  # what extracts is loaded when a tree is looked at

    return Extraction(delivery.destination, delivery.record)


def is_delivered(delivery: Delivery) -> bool:
    """Whether every entry stands as delivered."""
    return extraction_of(delivery).holds(delivery.key)


def delivered_by(delivery: Delivery) -> Iterator[str]:
    """Yield the files on which `is_delivered` depends: whatever was delivered, and its record."""
    yield str(delivery.record)
    yield from map(str, extraction_of(delivery).paths())


def deliver(world: Context, delivery: Delivery, progress: Progress) -> None:
    """Put the artifact into its directory; a file that is no archive is placed, as Taskgraph does.

    Raises:
        ArchiveError: the archive is refused; the directory is as before.
        TreeError: another delivery's entry stands in the way.
        BlobMissingError, BlobCorruptError: the artifact vanished meanwhile.
        StoreUnavailableError: another process works on this delivery for too long.
        CancelledError: the run was asked to stop.
    """
    integrity = artifacts.integrity_of(world, delivery.artifact)
    if integrity is None:
        raise BlobMissingError(f"{delivery.entry.name} has not been made", hint=f"run `doit {delivery.artifact.task}`")
    if delivery.worked is not None:
        start_over(world, delivery.worked, progress)
    slot = extraction_of(delivery)._replace(lock_timeout_s=world.settings.lock_timeout_s, beside=delivery.beside)
    if delivery.beside:  # what is not listed any more may stand where this one goes
        _drop_others_once(world, delivery, progress)
    with serialized(integrity.size, _SMALL), slot.held(progress) as news:
        if news and slot.holds(delivery.key):
            return  # another process made it while this one waited
        try:
            with world.store.open(integrity) as file:
                _fill(world, delivery, slot, file, integrity, progress)
        except BlobCorruptError:
            slot.clear(progress)  # it may have been delivered before its last byte was judged
            raise


def drop_others(world: Context, fetches: Path, records: Path, wanted: Collection[str], progress: Progress) -> None:
    """Remove what deliveries put into a toolchain's directory that it does not ask for any more.

    Raises:
        TreeError: the file system refused.
        StoreUnavailableError, CancelledError: as `deliver`.
    """
    from tasks_lib.tree import drop_strays

    drop_strays(fetches, records, wanted, world.settings.lock_timeout_s, progress)


def _drop_others_once(world: Context, delivery: Delivery, progress: Progress) -> None:
    """Call `drop_others` for the first delivery of a toolchain in this run: a look for each costs their square.

    Threads that begin at once may each look.
    """
    records = str(delivery.record.parent)
    if world.looked_through.get(records) is not delivery.beside:  # all deliveries of a toolchain have the same tuple
        wanted = [name for name, _ in delivery.beside]
        drop_others(world, delivery.destination, delivery.record.parent, wanted, progress)
        world.looked_through[records] = delivery.beside


def start_over(world: Context, worked: Path, progress: Progress) -> None:
    """Remove everything from the fetches of a toolchain whose command has worked in them, so that all comes anew.

    What a command made may have the name of what another version of a fetch brings, and would stay in its way.

    Raises:
        TreeError: the file system refused.
        StoreUnavailableError, CancelledError: as `deliver`.
    """
    from tasks_lib import tree

    directory = worked.parent
    tree.start_over(directory / FETCHES, directory / RECORDS, worked, world.settings.lock_timeout_s, progress)


def compare(world: Context, delivery: Delivery, progress: Progress) -> dict[str, str]:
    """Return path -> what is wrong there, of what was delivered; the artifact is read again for that.

    Raises:
        ArchiveError, BlobMissingError, BlobCorruptError: the artifact cannot be read.
        StoreUnavailableError, CancelledError: as `deliver`.
    """
    from tasks_lib.archive import kind_of  # what decodes is loaded when needed

    integrity = artifacts.integrity_of(world, delivery.artifact)
    if integrity is None:
        raise BlobMissingError("its artifact is not in the cache")
    name = delivery.artifact.path.name
    with world.store.open(integrity) as file:
        archive = kind_of(file, name) if delivery.entry.delivery == "extract" else None
        limits = world.limits(delivery.limits)
        return extraction_of(delivery).differences(file, name=name, format=archive, limits=limits, progress=progress)


def _fill(
    world: Context, delivery: Delivery, slot: Extraction, file: BinaryIO, integrity: Integrity, progress: Progress
) -> None:
    from tasks_lib.archive import Reshape, kind_of
    from tasks_lib.steps.shared_trees import Archive, link_from_cache

    name = delivery.artifact.path.name
    archive = kind_of(file, name) if delivery.entry.delivery == "extract" else None
    if archive is None:
        progress.phase("place", total=integrity.size)
        how = world.settings.link_mode
        slot.place(file, file_name=name, key=delivery.key, how=how, progress=progress)
        return
    limits = world.limits(delivery.limits)
    if link_from_cache(world, delivery, slot, Archive(file, integrity, name, archive, limits), progress):
        return
    progress.phase("extract", total=integrity.size)
    file.seek(0)
    slot.extract(file, name=name, format=archive, reshape=Reshape(), limits=limits, key=delivery.key, progress=progress)
