"""Fingerprints: detect whether a file is unchanged without reading it.

A fingerprint is device, inode, size, mtime and ctime. Every change of the content changes the ctime, which ordinary
programs cannot set back. Within one tick of the kernel's clock a file can change twice with equal times. A file that
changed so recently is racy (git's term), and its fingerprint proves nothing.

Weaker checks, which compare only part of a fingerprint, are defined here too, each with its reason.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Final

from tasks_lib.named import NamedTuple

#: Nanoseconds that must lie between the last change of a file and its stat. Source: CONFIG_HZ >= 100: two ticks.
RACY_NS: Final = 20_000_000
#: Nanoseconds after which an ordinary write is complete; the kernel sets the times when the write starts.
_WRITE_NS: Final = 50_000_000


class Fingerprint(NamedTuple):
    """Evidence that a file is unchanged: two equal fingerprints, neither of them racy when it was taken."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Fingerprint:
        """Return the fingerprint of a stat result."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> Fingerprint:
        """Return the fingerprint of the file at `path`, `ABSENT` if there is none, `UNTRUSTED` if it is racy."""
        try:
            status = os.stat(path)  # noqa: PTH116  # thousands of them
        except OSError:
            return ABSENT
        return UNTRUSTED if is_racy(status, time.time_ns()) else cls.of(status)

    def is_at(self, path: str | os.PathLike[str]) -> bool:
        """Return whether the file at `path` is unchanged since `at` returned this; False if it was racy then."""
        return self != UNTRUSTED and self.at(path) == self

    @property
    def text(self) -> str:
        """The fields in the form that files record, so that ten thousand lines are compared without parsing."""
        return f"{self.device} {self.inode} {self.size} {self.mtime_ns} {self.ctime_ns}"

    @property
    def link_stable(self) -> tuple[int, int, int]:
        """The fields that stay when a hard link to the file is added or removed: inode, size and mtime, not ctime.

        Used for the files of extracted trees, whose links change with every link or copy of the tree. It does not
        detect a change that restores the mtime; `doit verify` reads such trees. Other checks compare the device, which
        is that of the tree.
        """
        return self.inode, self.size, self.mtime_ns


#: Fingerprint of a missing file.
ABSENT: Final = Fingerprint(0, 0, 0, 0, 0)
#: Fingerprint of a racy file.
UNTRUSTED: Final = Fingerprint(-1, -1, -1, -1, -1)


def is_racy(status: os.stat_result, looked_ns: int) -> bool:
    """Return whether a file may have changed after its stat without a change of its times.

    Args:
        status: the stat result of the file.
        looked_ns: time of the stat in nanoseconds since the epoch, or earlier.
    """
    return looked_ns - status.st_ctime_ns <= RACY_NS


def settled_fingerprint(descriptor: int) -> Fingerprint:
    """Return the fingerprint of an open file, after a pending write has had time to complete.

    Otherwise content that is read during a long write would be recorded under the fingerprint of the final content.
    """
    fingerprint = Fingerprint.of(os.fstat(descriptor))
    age_ns = time.time_ns() - fingerprint.ctime_ns
    if 0 <= age_ns < _WRITE_NS:
        time.sleep((_WRITE_NS - age_ns) / 1e9)
        fingerprint = Fingerprint.of(os.fstat(descriptor))
    return fingerprint


def compact_fingerprint(status: os.stat_result) -> int:
    """Return ctime and inode combined into 64 bits.

    Used for the snapshot of a no-op run, which compares tens of thousands of files at known paths
    (docs/decisions/0044): a full fingerprint costs half as much as the stat itself. A change of device, size or mtime
    at a known path changes the ctime too.
    """
    return status.st_ctime_ns ^ status.st_ino


def compact_fingerprints(statuses: Iterable[os.stat_result]) -> list[int]:
    """Return the compact fingerprint of each stat result; a call for each would take a tenth of a no-op run's check."""
    return [status.st_ctime_ns ^ status.st_ino for status in statuses]


def is_mtime_at_most(status: os.stat_result, written_ns: int) -> bool:
    """Return whether the mtime of a file is no later than `written_ns`.

    Used for extracted files, whose manifest contains no times (docs/decisions/0003): the manifest is written last, so
    a later mtime means an edit. The ctime is not used, because a new link or a new owner changes it without an edit.
    """
    return status.st_mtime_ns <= written_ns


def copy_stable(status: os.stat_result) -> tuple[int, int]:
    """Return the fields that a copy which preserves times keeps: size and mtime.

    Used for the code of this package, which is the same in every container of one image. Inodes, ctimes and devices of
    its files differ between containers, so a full fingerprint would make every container parse all definitions again.
    """
    return status.st_size, status.st_mtime_ns
