"""Writer of entries below a new directory.

Every file is created through a descriptor of its parent directory, with `O_NOFOLLOW` and `O_EXCL`. Symlinks are created
last, so no write can go through one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from tasks_lib.archive import HOLE, Entry, SmallFiles, is_program
from tasks_lib.fs.copying import LinkMode, link_or_copy
from tasks_lib.fs.directories import DirectoryChain
from tasks_lib.fs.system_calls import NO_LINK
from tasks_lib.progress import Progress
from tasks_lib.tree.manifest import ManifestWriter

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Modes of plain and executable files, before the umask is applied.
MODES: Final = (0o644, 0o755)
_CHUNK: Final = 1 << 20
#: Bytes or entries between two progress reports: one call for each of a million files would be measurable.
_REPORT_BYTES: Final = 1 << 20
_REPORT_ENTRIES: Final = 64


class TreeWriter:
    """Writer of entries below the directory `root`, parents first; adds each entry to the manifest `record`.

    If the file system does not support (more) hard links, up to `copies` bytes are written as copies instead.
    """

    def __init__(
        self, root: Path, record: ManifestWriter, progress: Progress, copies: int, modes: tuple[int, int] = MODES
    ) -> None:
        self._chain = DirectoryChain(root)
        self._links: list[Entry] = []
        self._record = record
        self._progress = progress
        self._modes = modes
        self._copies = copies
        self._copied: dict[bytes, bytes] = {}  # a file at its maximum number of links -> its last copy
        self._bytes = self._entries = 0

    def __enter__(self) -> TreeWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._chain.__exit__()

    def add(self, entry: Entry) -> None:
        """Write one entry into an existing directory; a symlink is created later, by `finish`.

        Raises:
            OSError: a file system operation failed.
            ArchiveError: the content of the entry is rejected.
            CancelledError: the run was asked to stop.
        """
        path, kind, size, executable, _, _, chunks = entry
        directory, _, name = path.rpartition(b"/")
        here = self._chain.here
        descriptor = here[1] if here[0] == directory else self._chain.enter(directory)
        if kind == "file":
            self._write(name, executable, size, chunks, descriptor)
        elif kind == "directory":
            os.mkdir(name, 0o755, dir_fd=descriptor)
        elif kind == "symlink":
            self._links.append(entry)
            return
        else:
            self._link(entry, descriptor, name)
        self._record.add(path, kind, executable, size, entry.target)
        self._entries += 1
        if self._entries > _REPORT_ENTRIES:
            self._report()

    def add_files(self, group: SmallFiles) -> None:
        """Write new files into an existing directory.

        Raises:
            OSError, CancelledError: see `add`.
        """
        directory, modes = self._chain.enter(group.directory), self._modes
        for name, size, executable, _, content in group.files:
            descriptor = os.open(name, _CREATE, modes[executable], dir_fd=directory)
            try:
                if size and (written := os.write(descriptor, content)) < size:
                    _write_all(descriptor, content[written:])
            finally:
                os.close(descriptor)
            self._bytes += size
        self._record.add_files(group)
        self._entries += len(group.files)
        if self._entries > _REPORT_ENTRIES or self._bytes > _REPORT_BYTES:
            self._report()

    def repeats(self, entry: Entry) -> bool:
        """Return whether the file of the same name has the content and the executable bit of this entry.

        Raises:
            OSError, ArchiveError, CancelledError: see `add`.
        """
        directory, _, name = entry.path.rpartition(b"/")
        descriptor = os.open(name, _READ, dir_fd=self._chain.enter(directory))
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
            if os.fstat(descriptor).st_mode >> 6 & 1 != entry.executable:
                return False
            for chunk in entry.chunks:
                self._progress.check()
                if file.read(len(chunk)) != chunk:
                    return False
            return not file.read(1)

    def place(self, entry: Entry, source: BinaryIO, how: LinkMode) -> None:
        """Link or copy the whole file `source` as one entry.

        Raises:
            OSError, CancelledError: see `add`.
            BlobCorruptError: the content changed in the meantime.
        """
        mode = self._modes[entry.executable]
        link_or_copy(source, entry.path, directory=self._chain.root, mode=mode, how=how, progress=self._progress)
        self._record.add(entry.path, entry.kind, entry.executable, entry.size, b"")

    def take(self, path: bytes, executable: int, size: int, put: Callable[[bytes, int, int], None]) -> None:
        """Create one file with `put`, which receives its name, a descriptor of its directory and its mode.

        Raises:
            OSError, CancelledError: see `add`.
            Exception: any exception raised by `put`.
        """
        directory, _, name = path.rpartition(b"/")
        put(name, self._chain.enter(directory), self._modes[executable])
        self._record.add(path, "file", executable, size, b"")
        self._bytes += size
        self._entries += 1
        if self._entries > _REPORT_ENTRIES:
            self._report()

    def finish(self) -> None:
        """Create the symlinks, after everything else is written.

        Raises:
            OSError, CancelledError: see `add`.
        """
        for entry in self._links:
            directory, _, name = entry.path.rpartition(b"/")
            os.symlink(entry.target, name, dir_fd=self._chain.enter(directory))
            self._record.add(entry.path, entry.kind, 0, 0, entry.target)
        self._report()

    def _report(self) -> None:
        self._progress.advance(self._bytes)
        self._progress.check()
        self._bytes = self._entries = 0

    def _write(
        self, name: bytes, executable: int, size: int, chunks: Iterable[bytes | memoryview], directory: int
    ) -> None:
        descriptor = os.open(name, _CREATE, self._modes[executable], dir_fd=directory)
        try:
            for chunk in chunks:
                if chunk is HOLE:
                    os.lseek(descriptor, len(chunk), os.SEEK_CUR)
                    continue
                _write_all(descriptor, chunk)
                self._bytes += len(chunk)
                if self._bytes > _REPORT_BYTES:
                    self._report()
            if chunks and size >= len(HOLE):  # the file may end in a hole
                os.ftruncate(descriptor, size)
        finally:
            os.close(descriptor)

    def _link(self, entry: Entry, directory: int, name: bytes) -> None:
        # no symlink exists below the root yet, so the target's path cannot lead outside
        try:
            target = self._copied.get(entry.target, entry.target)
            os.link(target, name, src_dir_fd=self._chain.root, dst_dir_fd=directory, follow_symlinks=False)
        except OSError as error:
            if error.errno not in NO_LINK:
                raise
            self._copy(entry, directory, name)

    def _copy(self, entry: Entry, directory: int, name: bytes) -> None:
        source = os.open(entry.target, _READ, dir_fd=self._chain.root)
        with open(source, "rb") as file:  # noqa: PTH123 - a descriptor
            status = os.fstat(source)
            executable = status.st_mode >> 6 & 1
            self._copies -= status.st_size
            if self._copies < 0:
                raise OSError(errno.EMLINK, "too many hard links for this file system", os.fsdecode(entry.path))
            chunks = iter(lambda: file.read(_CHUNK), b"")
            self._write(name, executable, 0, chunks, directory)
        self._copied[entry.target] = entry.path


def _write_all(descriptor: int, content: bytes | memoryview) -> None:
    written = os.write(descriptor, content)
    while written < len(content):
        written += os.write(descriptor, memoryview(content)[written:])


def file_entry(source: BinaryIO, file_name: str, executable: int = 0) -> Iterator[Entry]:
    """Yield the only entry of a placed file; the position of `source` is then at its start."""
    executable = is_program(source.read(4)) or executable
    size = source.seek(0, 2)
    source.seek(0)
    chunks = iter(lambda: source.read(_CHUNK), b"")
    yield Entry(path=os.fsencode(file_name), kind="file", executable=executable, size=size, chunks=chunks)
