"""Clone, link or copy content out of the cache.

A file is cloned if the file system can share blocks, hard-linked on request, and copied otherwise.
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
from tasks_lib.fs.fingerprint import is_mtime_at_most
from tasks_lib.progress import Progress

#: "auto" and "reflink": a clone where the file system offers it, else a copy; "hardlink": a link to the blob.
#: What they mean for an archive: docs/cache.md, "Placement".
LinkMode = Literal["auto", "reflink", "copy", "hardlink"]
#: errno values for a file that cannot be linked: `NO_LINK`, or no permission to link it.
_NO_LINK: Final = (*system_calls.NO_LINK, errno.EACCES)
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def link_or_copy(
    file: BinaryIO, name: str | bytes, *, directory: int, mode: int, how: LinkMode, progress: Progress
) -> None:
    """Link, clone or copy an open blob to the new file `name` in an open directory.

    A hard link keeps the mode of the blob, so an executable file is never linked.

    Raises:
        OSError: the file system rejects the operation; nothing is left at `name`.
        BlobCorruptError: the blob changed meanwhile.
        CancelledError: the run is cancelled.
    """
    if how == "hardlink" and not mode & 0o111 and _link(file, name, directory):
        return
    descriptor = os.open(name, _CREATE, mode, dir_fd=directory)
    try:
        clone_or_copy(file, descriptor, how, progress)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=directory)
        raise
    finally:
        os.close(descriptor)


def clone_or_copy(file: BinaryIO, descriptor: int, how: LinkMode, progress: Progress) -> None:
    """Clone or copy the content of an open blob to an empty open file.

    Raises:
        OSError, BlobCorruptError, CancelledError: as `link_or_copy`.
    """
    file.seek(0)
    if how != "copy" and system_calls.clone(file.fileno(), descriptor):
        file.seek(0, os.SEEK_END)
        file.read(1)  # an open blob checks at its end whether it changed
        return
    while chunk := file.read(files.CHUNK):
        progress.advance(len(chunk))
        progress.check()
        view = memoryview(chunk)
        while view:
            view = view[os.write(descriptor, view) :]


def link_or_copy_name(name: bytes, source: int, directory: int, *, mode: int, how: LinkMode) -> os.stat_result:
    """Link, clone or copy the file `name` from the open directory `source` to `directory`, as a new file.

    A clone or copy gets `mode`; a hard link keeps its mode. Return the final stat result of the source file.

    Raises:
        OSError: the file system rejects the operation.
    """
    if how == "hardlink":
        try:
            if not _has_future_mtime(os.stat(name, dir_fd=source, follow_symlinks=False)):
                os.link(name, name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
                return os.stat(name, dir_fd=directory, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
    original = os.open(name, _READ, dir_fd=source)
    try:
        copy = os.open(name, _CREATE, mode, dir_fd=directory)
        try:
            if not system_calls.clone(original, copy):
                while chunk := os.read(original, files.CHUNK):
                    view = memoryview(chunk)
                    while view:
                        view = view[os.write(copy, view) :]
        finally:
            os.close(copy)
        return os.fstat(original)
    finally:
        os.close(original)


def can_clone(file: BinaryIO, directory: Path) -> bool:
    """Return whether a file in `directory` can share the blocks of an open file."""
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
    if not stat.S_ISREG(status.st_mode) or _has_future_mtime(status):
        return False
    known_as = getattr(file, "path", None)  # an open blob of the cache has a path
    try:
        system_calls.link_open_file(file.fileno(), name, known_as=known_as, directory=directory)
    except FileExistsError:
        raise
    except OSError:
        return False  # another file system, too many links, or no permission
    return True


def _has_future_mtime(status: os.stat_result) -> bool:
    """Return whether a file has an mtime in the future (the clock was set back); a link to it would look edited."""
    return not is_mtime_at_most(status, time.time_ns())
