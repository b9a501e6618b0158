"""Removal of stale entries from a shared directory: extractions no longer listed, or a directory used for work."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from tasks_lib.errors import CacheUnavailableError, TreeError
from tasks_lib.fs.directories import remove_tree
from tasks_lib.fs.locks import locked
from tasks_lib.progress import Progress, Silent
from tasks_lib.tree.manifest import list_stems
from tasks_lib.tree.recorded_tree import RecordedTree, os_errors_as_tree_errors

#: The files of an extraction except its lock: its manifest, a manifest being applied, and leftovers of a killed run.
_SUFFIXES: Final = (".json", ".moving", ".part", ".new", ".next")


def remove_stale_entries(
    destination: Path, records: Path, kept: Collection[str], timeout_s: float, progress: Progress
) -> None:
    """Remove entries of extractions that are no longer listed; keep paths that a listed extraction has too.

    Args:
        destination: the destination of extractions whose manifest does not name one.
        records: the manifest directory.
        kept: names of the extractions that are still listed.
        timeout_s: seconds to wait for another process.
        progress: receives a report while waiting.

    Raises:
        CacheUnavailableError, TreeError, CancelledError: see `RecordedTree.held`.
    """
    with os_errors_as_tree_errors(destination):
        if not list_stems(records, *_SUFFIXES).difference(kept):
            return
        with locked(records / ".lock", timeout_s=timeout_s, progress=progress):
            _drop(destination, records, list_stems(records, *_SUFFIXES).difference(kept))


def reset_directory(destination: Path, records: Path, worked: Path, timeout_s: float, progress: Progress) -> None:
    """Call `reset_worked` with the lock of the manifest directory.

    Args:
        destination: the directory to remove.
        records: the directory of its manifests.
        worked: a file that marks the directory as used; without it nothing is removed.
        timeout_s: seconds to wait for another process.
        progress: receives a report while waiting.

    Raises:
        CacheUnavailableError, TreeError, CancelledError: see `RecordedTree.held`.
    """
    if not os.path.lexists(worked):
        return
    with os_errors_as_tree_errors(destination):
        records.mkdir(parents=True, exist_ok=True)
        with locked(records / ".lock", timeout_s=timeout_s, progress=progress):
            reset_worked(destination, records, worked)


def reset_worked(directory: Path, records: Path, worked: Path) -> None:
    """Remove a directory in which a command ran, and make its manifests empty; without `worked`, do nothing.

    The caller holds the lock of the manifest directory. The manifest files are kept because they are targets of doit
    tasks; the mark is removed last.

    Raises:
        OSError: a file system operation failed; the next call continues.
    """
    if not os.path.lexists(worked):
        return
    for name in list_stems(records, ".json", ".moving"):
        RecordedTree(directory, records / f"{name}.json").forget()
    if directory.is_symlink() or directory.is_file():
        directory.unlink()
    remove_tree(directory)
    worked.unlink()


def take_directory(
    directory: Path,
    target: Path,
    worked: Path,
    records: Path,
    keys: Mapping[str, str],
    timeout_s: float,
    progress: Progress,
) -> None:
    """Mark a directory as one in which a command runs, and move it to `target`; none of its entries changes meanwhile.

    A symlink to `target` takes its place under the same lock. A process that extracts later replaces the symlink.

    Args:
        directory: the directory; created if it does not exist.
        target: its new path, beside it or below a directory beside it.
        worked: the mark, a file.
        records: the directory of its manifests.
        keys: name and key of the extractions that it must have.
        timeout_s: seconds to wait for another process.
        progress: receives a report while waiting.

    Raises:
        TreeError: another process failed to replace an extraction, or a file system operation failed.
        CacheUnavailableError, CancelledError: see `RecordedTree.held`.
    """
    with os_errors_as_tree_errors(directory):
        records.mkdir(parents=True, exist_ok=True)
        with locked(records / ".lock", timeout_s=timeout_s, progress=progress):
            for name, key in keys.items():
                if RecordedTree(directory, records / f"{name}.json").key() != key:
                    raise TreeError(f"another process changed {directory}", hint="run again")
            directory.mkdir(exist_ok=True)
            worked.touch()
            directory.rename(target)
            directory.symlink_to(target.relative_to(directory.parent))


def _drop(destination: Path, records: Path, names: Collection[str]) -> None:
    """Remove the entries of extractions; the paths of all others are collected once.

    Raises:
        OSError: a file system operation failed; the next call continues.
    """
    kept = (
        RecordedTree(destination, records / f"{name}.json") for name in list_stems(records, ".json").difference(names)
    )
    others = frozenset(path for extraction in kept for path in extraction.owned_paths())
    for name in sorted(names):
        extraction = RecordedTree(destination, records / f"{name}.json")
        extraction.recover(others)
        extraction.withdraw(others)
        # another process with other definitions may be extracting it right now
        with contextlib.suppress(CacheUnavailableError), locked(extraction.lock, timeout_s=0, progress=Silent()):
            extraction.sweep()
            extraction.lock.unlink(missing_ok=True)  # a waiting process creates the lock file again
