"""Tell whether a file is unchanged without reading it.

A fingerprint is device, inode, size, mtime and ctime. Whatever changes the content of a file changes its ctime, which
no ordinary program can set back. Within a tick of the kernel's clock a file can change twice and look the same: one
that changed so lately is racy (git's word), and nothing is concluded from its fingerprint.

What takes less evidence than a whole fingerprint is defined here too, each with its reason.
"""

from __future__ import annotations

import os
import time
from typing import Final, NamedTuple

#: Nanoseconds that a file must be older than the look at it. Source: CONFIG_HZ is at least 100: two ticks.
RACY_NS: Final = 20_000_000
#: Nanoseconds after which a write of ordinary length is done; the kernel sets the times when it begins.
_WRITE_NS: Final = 50_000_000


class Fingerprint(NamedTuple):
    """Evidence that a file is unchanged: equal fingerprints, neither of them racy when it was taken."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Fingerprint:
        """Return the fingerprint of a file's status."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> Fingerprint:
        """Return the fingerprint of what is at `path`, `ABSENT` for nothing, `UNTRUSTED` while it is racy."""
        try:
            status = os.stat(path)  # noqa: PTH116  # thousands of them
        except OSError:
            return ABSENT
        return UNTRUSTED if is_racy(status, time.time_ns()) else cls.of(status)

    def is_at(self, path: str | os.PathLike[str]) -> bool:
        """Return whether `path` is what it was when `at` returned this; never when it was racy then."""
        return self != UNTRUSTED and self.at(path) == self

    @property
    def text(self) -> str:
        """The fields as one line has them: ten thousand lines are compared as they are, none is taken apart."""
        return f"{self.device} {self.inode} {self.size} {self.mtime_ns} {self.ctime_ns}"

    @property
    def link_stable(self) -> tuple[int, int, int]:
        """What stays when a name is linked to the file or removed: inode, size and mtime, without ctime.

        For the files of unpacked trees, whose links come and go with every placement. A change that sets mtime back is
        not seen here; `doit verify` reads such trees. The device is the tree's own, which other checks look at.
        """
        return self.inode, self.size, self.mtime_ns


#: No file.
ABSENT: Final = Fingerprint(0, 0, 0, 0, 0)
#: A racy file.
UNTRUSTED: Final = Fingerprint(-1, -1, -1, -1, -1)


def is_racy(status: os.stat_result, looked_ns: int) -> bool:
    """Return whether a file may have changed again, unnoticed, after it was looked at.

    Args:
        status: of the file.
        looked_ns: the clock when it was looked at, or before.
    """
    return looked_ns - status.st_ctime_ns <= RACY_NS


def settled(descriptor: int) -> Fingerprint:
    """Return the fingerprint of an open file once no write is going on that began before.

    Content that is read while a long write goes on would be known by the fingerprint of what is about to be there.
    """
    found = Fingerprint.of(os.fstat(descriptor))
    age_ns = time.time_ns() - found.ctime_ns
    if 0 <= age_ns < _WRITE_NS:
        time.sleep((_WRITE_NS - age_ns) / 1e9)
        found = Fingerprint.of(os.fstat(descriptor))
    return found


def compact_of(status: os.stat_result) -> int:
    """Return ctime and inode folded into 64 bits.

    For the snapshot of a no-op run, which compares ten thousands of files at known paths (docs/decisions/0044): a whole
    fingerprint costs half as much as the look itself. What changes device, size or mtime there changes ctime too.
    """
    return status.st_ctime_ns ^ status.st_ino


def predates(status: os.stat_result, written_ns: int) -> bool:
    """Return whether a file was last written no later than `written_ns`: mtime alone.

    For extracted files, of which a record keeps no times (docs/decisions/0003): it was written after all of them, and a
    later mtime is an edit. Their ctime says less, since a link to one of them, or a new owner, is no edit.
    """
    return status.st_mtime_ns <= written_ns


def copy_stable(status: os.stat_result) -> tuple[int, int]:
    """Return what a copy that keeps times has too: size and mtime.

    For the code of this package, which is the same in every container made of one image. Its files have other inodes,
    ctimes and devices there, and all definitions would be parsed again.
    """
    return status.st_size, status.st_mtime_ns
