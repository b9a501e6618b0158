"""Stores in a directory that machines share, such as a mounted file system."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO, Final, NoReturn
from urllib.parse import quote

from tasks_lib.errors import StoreRefusedError, StoreUnavailableError, escape_text
from tasks_lib.fs import files
from tasks_lib.fs.atomic import scratch_name
from tasks_lib.store import Method, Store, StoreAddress, StoredItem, StoreLocation

_CHUNK: Final = 1 << 20
_REFUSED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
#: Directories of items, and the one of files that are being written; the latter is on the same file system.
_KINDS: Final = ("cas", "ac")
_TMP: Final = "tmp"
#: Seconds after which a file that is being written counts as left over by a process that ended.
_ABANDONED_S: Final = 24 * 3600


class DirectoryStore(Store):
    """A store at a `file:` URL. An item gets its name by a rename, when it is complete and synced."""

    can_list = True

    def __init__(self, address: StoreAddress) -> None:
        self.address = address
        self._root: Final = Path(address.directory)

    def locate(self, method: Method, key: str) -> StoreLocation:
        """Return the file of an item."""
        del method  # the same for all
        return StoreLocation(f"file://{quote(str(self._root / key), errors='surrogateescape')}")

    def probe(self) -> None:
        """Check that the directory exists."""
        self._require_root()

    def find(self, key: str) -> StoredItem | None:
        """Return size and time of an item, None if the store does not hold it."""
        try:
            status = (self._root / key).stat()
        except (FileNotFoundError, NotADirectoryError):
            self._require_root()
            return None
        except OSError as error:
            self._fail(error)
        return StoredItem(key, status.st_size, status.st_mtime) if stat.S_ISREG(status.st_mode) else None

    def read(self, key: str, limit: int) -> bytes | None:
        """Return a small item, None if the store does not hold it; at most `limit` + 1 bytes are read."""
        try:
            with files.open_regular((self._root / key).resolve()) as file:
                return file.read(limit + 1)
        except (FileNotFoundError, NotADirectoryError):
            self._require_root()
            return None
        except OSError as error:
            self._fail(error)

    def _require_root(self) -> None:
        """Check that the directory exists: it may be a file system that is not mounted.

        Raises:
            StoreUnavailableError: it does not.
        """
        if not self._root.is_dir():
            self._fail(FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._root)))

    def put(self, key: str, file: BinaryIO, size: int) -> None:
        """Write an item of `size` bytes from the position of `file`."""
        final, scratch = self._root / key, self._root / _TMP / scratch_name()
        try:
            self._require_root()
            for directory in (final.parent, scratch.parent):
                directory.mkdir(exist_ok=True)
            self._write(scratch, file, size)
            scratch.replace(final)
        except OSError as error:
            self._fail(error)
        finally:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)

    def _write(self, scratch: Path, file: BinaryIO, size: int) -> None:
        with scratch.open("xb") as out:
            left = size
            while left and (chunk := file.read(min(_CHUNK, left))):
                out.write(chunk)
                left -= len(chunk)
            if left:
                raise OSError(errno.EIO, "the content ended early")
            out.flush()
            os.fchmod(out.fileno(), 0o444)
            os.fsync(out.fileno())

    def list(self) -> Iterator[StoredItem]:
        """Yield every item."""
        try:
            self._require_root()
            for kind in _KINDS:
                with contextlib.suppress(FileNotFoundError), os.scandir(self._root / kind) as entries:
                    for entry in entries:
                        status = entry.stat(follow_symlinks=False)
                        if stat.S_ISREG(status.st_mode):
                            yield StoredItem(f"{kind}/{entry.name}", status.st_size, status.st_mtime)
        except OSError as error:
            self._fail(error)

    def delete(self, keys: Collection[str]) -> None:
        """Delete items, and files that an ended process left unfinished; one that is missing is ignored."""
        try:
            for key in keys:
                (self._root / key).unlink(missing_ok=True)
            self._delete_abandoned()
        except OSError as error:
            self._fail(error)

    def _delete_abandoned(self) -> None:
        oldest_s = time.time() - _ABANDONED_S
        with contextlib.suppress(FileNotFoundError):
            for path in (self._root / _TMP).iterdir():
                if path.stat().st_mtime < oldest_s:
                    path.unlink(missing_ok=True)

    def _fail(self, error: OSError) -> NoReturn:
        """Raise the error of the file system as one of the store.

        Raises:
            StoreUnavailableError, StoreRefusedError: always one of them.
        """
        name = self.address.name
        kind: type[StoreRefusedError | StoreUnavailableError]
        kind = StoreRefusedError if error.errno in _REFUSED else StoreUnavailableError
        raise kind(f"store {name}: {escape_text(error.strerror or str(error))}", store=name) from error
