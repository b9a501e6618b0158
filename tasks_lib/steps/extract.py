"""Deliveries: extract an artifact into a directory, or place it there unchanged."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO, Final

from tasks_lib.archive import detect_format, explain_placed
from tasks_lib.context import Context
from tasks_lib.digest import Integrity
from tasks_lib.errors import BlobCorruptError, BlobMissingError, escape_text
from tasks_lib.formats import describe_not_extracted
from tasks_lib.gil import serialized
from tasks_lib.limits import Limits
from tasks_lib.progress import Progress
from tasks_lib.steps.builds import FETCHES, RECORDS, Delivery
from tasks_lib.steps.checks import find_integrity
from tasks_lib.steps.shared_trees import Archive, link_from_cache
from tasks_lib.tree import stale_entries
from tasks_lib.tree.extraction import Extraction

#: Bytes that are read to recognise a format.
_LOOK_BYTES: Final = 64
#: Size in bytes of an artifact up to which system calls dominate its delivery: two threads would only contend for the
#: interpreter lock.
_SMALL: Final = 256 << 10


def deliver(context: Context, delivery: Delivery, progress: Progress) -> None:
    """Deliver the artifact into its directory. Like Taskgraph, place a file that is not an archive.

    Raises:
        ArchiveError: the archive is rejected; the directory is unchanged.
        TreeError: an entry of another delivery has the same path.
        BlobMissingError, BlobCorruptError: the artifact disappeared or changed in the cache.
        CacheUnavailableError: another process holds the lock of this delivery for too long.
        CancelledError: the run is cancelled.
    """
    integrity = find_integrity(context, delivery.artifact)
    if integrity is None:
        raise BlobMissingError(f"{delivery.entry.name} has not been built", hint=f"run `doit {delivery.artifact.task}`")
    if delivery.worked is not None:
        clear_worked_fetches(context, delivery.worked, progress)
    extraction = Extraction(
        delivery.destination, delivery.record, context.settings.lock_timeout_s, delivery.beside, delivery.worked
    )
    if delivery.beside:  # fetches that are no longer listed may have the same paths
        _remove_stale_entries_once(context, delivery, progress)
    with serialized(integrity.size, _SMALL), extraction.held(progress) as news:
        if news and extraction.holds(delivery.key):
            return  # another process delivered it while this one waited for the lock
        try:
            with context.cache.open(integrity) as file:
                _fill(context, delivery, extraction, file, integrity, progress)
        except BlobCorruptError:
            extraction.clear(progress)  # corruption is known only at the end: entries may have been delivered
            raise


def remove_stale_entries(
    context: Context, fetches: Path, records: Path, wanted: Collection[str], progress: Progress
) -> None:
    """Remove delivered entries of fetches that a toolchain no longer lists.

    Raises:
        TreeError: an entry cannot be removed.
        CacheUnavailableError, CancelledError: as `deliver`.
    """
    stale_entries.remove_stale_entries(fetches, records, wanted, context.settings.lock_timeout_s, progress)


def _remove_stale_entries_once(context: Context, delivery: Delivery, progress: Progress) -> None:
    """Call `remove_stale_entries` for the first delivery of a toolchain in this run; one for each would be quadratic.

    Threads that start at the same time may each scan.
    """
    records = str(delivery.record.parent)
    if context.cleaned_fetches.get(records) is not delivery.beside:  # all deliveries of a toolchain have the same tuple
        wanted = [name for name, _ in delivery.beside]
        remove_stale_entries(context, delivery.destination, delivery.record.parent, wanted, progress)
        context.cleaned_fetches[records] = delivery.beside


def clear_worked_fetches(context: Context, worked: Path, progress: Progress) -> None:
    """Empty the fetches directory of a toolchain if its command ran there, so that all fetches are delivered again.

    Files that a command wrote may conflict with entries of another version of a fetch.

    Raises:
        TreeError: an entry cannot be removed.
        CacheUnavailableError, CancelledError: as `deliver`.
    """
    directory = worked.parent
    stale_entries.reset_directory(
        directory / FETCHES, directory / RECORDS, worked, context.settings.lock_timeout_s, progress
    )


def compare_delivery(context: Context, delivery: Delivery, progress: Progress) -> dict[str, str]:
    """Compare the delivered entries with the artifact, and return path -> difference.

    Raises:
        ArchiveError, BlobMissingError, BlobCorruptError: the artifact cannot be read.
        CacheUnavailableError, CancelledError: as `deliver`.
    """
    integrity = find_integrity(context, delivery.artifact)
    if integrity is None:
        raise BlobMissingError("the artifact is not in the cache")
    name = delivery.artifact.path.name
    with context.cache.open(integrity) as file:
        limits = context.limits(delivery.limits)
        archive = format_of(delivery, file, limits)
        return Extraction(delivery.destination, delivery.record).differences(
            file, name=name, format=archive, reshape=delivery.reshape, limits=limits, progress=progress
        )


def _explain_not_extracted(name: str, file: BinaryIO) -> str:
    """Return a warning about a file that looks like an archive that cannot be extracted, "" for other files."""
    file.seek(0)
    found = describe_not_extracted(name, file.read(_LOOK_BYTES))
    file.seek(0)
    warning = f"{escape_text(name)} is placed as it is: {found} is not extracted; set `extract: false` if that is right"
    return warning if found else ""


def _fill(
    context: Context,
    delivery: Delivery,
    extraction: Extraction,
    file: BinaryIO,
    integrity: Integrity,
    progress: Progress,
) -> None:
    name, reshape = delivery.artifact.path.name, delivery.reshape
    limits = context.limits(delivery.limits)
    archive = format_of(delivery, file, limits)
    if archive is None:
        wanted = (delivery.entry.kind, delivery.entry.delivery) == ("fetch", "extract") and not reshape.executable
        if wanted and (warning := explain_placed(file, name, limits) or _explain_not_extracted(name, file)):
            progress.warn(warning)
        progress.phase("place", total=integrity.size)
        how = context.settings.link_mode
        extraction.place(
            file, file_name=name, executable=reshape.executable, key=delivery.key, how=how, progress=progress
        )
        return
    unpacked = Archive(file, integrity, name, archive, limits, reshape, delivery.format)
    if link_from_cache(context, delivery, extraction, unpacked, progress):
        return
    progress.phase("extract", total=integrity.size)
    file.seek(0)
    extraction.extract(
        file, name=name, format=archive, reshape=reshape, limits=limits, key=delivery.key, progress=progress
    )


def format_of(delivery: Delivery, file: BinaryIO, limits: Limits) -> str | None:
    """Return the format in which an artifact is extracted, None if it is placed as it is."""
    if delivery.entry.delivery != "extract":
        return None
    if delivery.reshape.executable:  # a program that looks like an archive, such as a zipapp
        return delivery.format or None
    return delivery.format or detect_format(file, delivery.artifact.path.name, limits)
