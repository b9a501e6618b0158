"""Content on its way to a place outside: cloned where the file system shares blocks, linked when asked, else copied.

Internal to the store and the tree.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from pathlib import Path
from typing import BinaryIO, Final, Literal

from tasks_lib.fs import files, system_calls
from tasks_lib.fs.fingerprint import predates
from tasks_lib.progress import Progress

#: "auto" and "reflink": a clone where the file system offers it, else a copy; "hardlink": a link to the blob.
#: What they mean for an archive: docs/cache.md, "Placement".
LinkMode = Literal["auto", "reflink", "copy", "hardlink"]
#: No link to this file: as `NO_LINK`, or it is not ours to link.
_NO_LINK: Final = (*system_calls.NO_LINK, errno.EACCES)
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def place(file: BinaryIO, name: str | bytes, *, directory: int, mode: int, how: LinkMode, progress: Progress) -> None:
    """Put the content of an open blob at `name` in an open directory, where nothing may stand.

    A link keeps the blob's own mode, so that it is made for files that need no other bit.

    Raises:
        OSError: the file system refused; nothing is left at `name`.
        BlobCorruptError: the blob changed meanwhile.
        CancelledError: the run was asked to stop.
    """
    if how == "hardlink" and not mode & 0o111 and _link(file, name, directory):
        return
    descriptor = os.open(name, _CREATE, mode, dir_fd=directory)
    try:
        fill(file, descriptor, how, progress)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=directory)
        raise
    finally:
        os.close(descriptor)


def fill(file: BinaryIO, descriptor: int, how: LinkMode, progress: Progress) -> None:
    """Give an empty open file the content of an open blob.

    Raises:
        OSError, BlobCorruptError, CancelledError: as `place`.
    """
    file.seek(0)
    if how != "copy" and system_calls.clone(file.fileno(), descriptor):
        file.seek(0, os.SEEK_END)
        file.read(1)  # an open blob says at its end whether it changed
        return
    while chunk := file.read(files.CHUNK):
        progress.advance(len(chunk))
        progress.check()
        view = memoryview(chunk)
        while view:
            view = view[os.write(descriptor, view) :]


def place_named(name: bytes, source: int, directory: int, *, mode: int, how: LinkMode) -> os.stat_result:
    """Put the file `name` of the open directory `source` into another one, where nothing of that name may stand.

    A file of its own has `mode`, a link what it has. Returned is the status, at the end, of the file that was taken.

    Raises:
        OSError: the file system refused.
    """
    if how == "hardlink":
        try:
            if not _is_of_the_future(os.stat(name, dir_fd=source, follow_symlinks=False)):
                os.link(name, name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
                return os.stat(name, dir_fd=directory, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
    taken = os.open(name, _READ, dir_fd=source)
    try:
        made = os.open(name, _CREATE, mode, dir_fd=directory)
        try:
            if not system_calls.clone(taken, made):
                while chunk := os.read(taken, files.CHUNK):
                    view = memoryview(chunk)
                    while view:
                        view = view[os.write(made, view) :]
        finally:
            os.close(made)
        return os.fstat(taken)
    finally:
        os.close(taken)


def can_clone(file: BinaryIO, directory: Path) -> bool:
    """Whether a file in `directory` can share the blocks of an open one."""
    with contextlib.suppress(OSError):
        descriptor = system_calls.open_nameless(directory)
        if descriptor is not None:
            try:
                return system_calls.clone(file.fileno(), descriptor)
            finally:
                os.close(descriptor)
    return False


def _link(file: BinaryIO, name: str | bytes, directory: int) -> bool:
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode) or _is_of_the_future(status):
        return False
    known_as = getattr(file, "path", None)  # an open blob of the cache knows its name
    try:
        system_calls.link_open_file(file.fileno(), name, known_as=known_as, directory=directory)
    except FileExistsError:
        raise
    except OSError:
        return False  # another file system, too many links, not ours to link
    return True


def _is_of_the_future(status: os.stat_result) -> bool:
    """Whether the clock was set back since a file was written: a link to it would look edited after it was placed."""
    return not predates(status, time.time_ns())
