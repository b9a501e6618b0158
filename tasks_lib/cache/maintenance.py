"""Operations of prune, verify and `doit cache` on the files of a cache; their callers decide what to do.

Internal to the cache, except for the object that `Cache.upkeep` returns.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple

from tasks_lib.cache import results, usage
from tasks_lib.cache.blobs import BlobDirectory
from tasks_lib.cache.quarantine import Quarantine
from tasks_lib.cache.trees import delete
from tasks_lib.fs import atomic, files, locks
from tasks_lib.fs.locks import locked
from tasks_lib.fs.trust import FORMAT
from tasks_lib.progress import Progress


class Maintenance:
    """Maintenance of one cache directory: inventory, inspection and removal."""

    def __init__(self, blobs: BlobDirectory) -> None:
        self._blobs = blobs
        self._root, self._options = blobs.root, blobs.options

    def items(self) -> list[InventoryItem]:
        """Return all items in the cache.

        Raises:
            CacheUnavailableError: untrusted users can write to it.
        """
        return list(inventory(self._blobs.top.parent))

    def inspect(self, item: InventoryItem, progress: Progress) -> str:
        """Read a whole blob or result, ignoring the hash cache; return the problem, "" for none.

        A damaged item goes to quarantine.

        Raises:
            CacheUnavailableError: the system cannot read it.
            CancelledError: the run is cancelled.
        """
        path = Path(item.path)
        if item.kind == "blob":
            return self._blobs.inspect(path, progress)
        try:
            results.read(path, item.name, self._options.trust)
        except FileNotFoundError:
            return ""
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and not isinstance(error, files.NotRegularError):
                raise files.cache_error(path, error) from error
            self.set_aside(path, f"invalid result: {error}")
            return str(error)
        return ""

    def set_aside(self, path: Path, reason: str) -> None:
        """Move a damaged file of the cache or of an extracted tree to quarantine; leave it if that fails."""
        directory = self._blobs.top / "quarantine"
        aside = directory / f"{path.name[:100]}.{atomic.scratch_name()}"
        with contextlib.suppress(OSError):
            files.make_directory(directory, self._root)
            path.rename(aside)
            files.append_text(aside.with_name(f"{aside.name}.reason"), ascii(reason)[1:-1] + "\n", "longer")
        Quarantine(directory).shrink(aside)

    @contextlib.contextmanager
    def pruning(self, progress: Progress) -> Iterator[Callable[[InventoryItem], str]]:
        """Yield a function that removes an item and returns why it stays, "" if it is removed; no run starts meanwhile.

        Raises:
            CacheUnavailableError: another prune holds the cache for too long, or it is read-only.
            CancelledError: the run is cancelled while it waits.
        """
        gate = self._blobs.top / "locks" / "prune"
        with files.convert_os_errors(gate):
            files.make_directory(gate.parent, self._root)
        with locked(gate, timeout_s=self._options.lock_timeout_s, progress=progress):
            yield lambda item: discard(item, self._root)
            left = [item for item in self.items() if item.kind in ("blob", "tree")]
            self._blobs.hash_cache.keep_only(frozenset(item.name for item in left if item.kind == "blob"))
            names = frozenset(item.name for item in left)
            uses = {name: when for name, when in self.last_uses().items() if name in names}
            usage.compact(self._blobs.top, uses)

    def last_uses(self) -> dict[str, int]:
        """Return hex digest -> time of last use, in seconds since the epoch; only uses later than the file itself."""
        return usage.read_last_uses(self._blobs.top)

    def runs(self) -> list[tuple[int, int, int]]:
        """Return (time, hits, misses) of each recorded run, oldest first."""
        return usage.read_runs(self._blobs.top)

    def definitions(self) -> dict[Path, Path]:
        """Return note file -> definitions directory, for each directory whose definitions use this cache."""
        return usage.read_definitions(self._blobs.top)

    def configurations(self, note: Path) -> list[str]:
        """Return the configurations with which the definitions directory of a note used this cache."""
        return usage.read_configurations(note)


Kind = Literal[
    "blob", "result", "artifact", "partial", "repository", "tree", "quarantine", "temporary", "lock", "format"
]  # fmt: skip
_HEX: Final = re.compile(r"[0-9a-f]{40,128}")
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FORMAT: Final = re.compile(r"v([0-9]{1,4})")


class InventoryItem(NamedTuple):
    """An item: `name` is its digest, key or path below the cache; `inode` is device and inode, to recognise links."""

    kind: Kind
    name: str
    path: str
    size: int
    inode: tuple[int, int]
    written_s: float


def inventory(root: Path) -> Iterator[InventoryItem]:
    """Yield all items of known kinds in the cache."""
    top = root / FORMAT
    for algorithm in _list_directories(top / "blobs"):
        yield from _list_fanned(algorithm, "blob")
    for fan in _list_directories(top / "results"):
        yield from _list_files(fan, "result")
    for name in _list_directories(root / "artifacts"):
        for key in _list_directories(name):
            yield from _list_files(key, "artifact", str(root / "artifacts"))
    yield from _list_files(top / "partial", "partial")
    yield from _list_fanned(top / "trees", "tree")
    yield from _list_entries(top / "tmp", "temporary")
    yield from _list_files(top / "locks", "lock")
    yield from _list_entries(top / "quarantine", "quarantine")
    yield from _list_entries(top / "repositories", "repository")
    for one in _list_directories(root):
        version = _FORMAT.fullmatch(one.name)
        if version and int(version[1]) < int(FORMAT[1:]):
            yield _measure_tree(one, "format")


def _list_directories(path: Path) -> list[Path]:
    try:
        with os.scandir(path) as entries:
            return sorted(Path(one.path) for one in entries if one.is_dir(follow_symlinks=False))
    except OSError:
        return []


def _list_fanned(path: Path, kind: Kind) -> Iterator[InventoryItem]:
    for fan in _list_directories(path):
        yield from _list_entries(fan, kind)


def _list_files(directory: Path, kind: Kind, below: str = "") -> Iterator[InventoryItem]:
    """Yield the files of a directory; ignore its subdirectories."""
    return _list_entries(directory, kind, below, "skip")


def _list_entries(
    directory: Path, kind: Kind, below: str = "", inner: Literal["tree", "skip"] = "tree"
) -> Iterator[InventoryItem]:
    """Yield the entries of a directory; each subdirectory is one item."""
    parent = str(directory)
    prefix = f"{parent[len(below) + 1 :]}/" if below else ""
    try:
        descriptor = os.open(directory, _DIRECTORY)
    except OSError:
        return
    try:  # by descriptor: with the paths of os.scandir the kernel resolves each of 100,000 names
        for name in os.listdir(descriptor):  # noqa: PTH208 - a descriptor
            try:
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISDIR(status.st_mode):
                if inner == "tree":
                    yield _measure_tree(directory / name, kind)
                continue
            inode = (status.st_dev, status.st_ino)
            yield InventoryItem(kind, prefix + name, f"{parent}/{name}", status.st_size, inode, status.st_mtime)
    finally:
        os.close(descriptor)


def _measure_tree(path: Path, kind: Kind) -> InventoryItem:
    """Return a directory with its contents as one item; its time is that of the newest entry."""
    status = path.lstat()
    size, newest = 0, status.st_mtime
    waiting = [path]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for one in entries:
                with contextlib.suppress(OSError):
                    inner = one.stat(follow_symlinks=False)
                    size, newest = size + inner.st_size, max(newest, inner.st_mtime)
                    if stat.S_ISDIR(inner.st_mode):
                        waiting.append(Path(one.path))
    return InventoryItem(kind, path.name, str(path), size, (status.st_dev, status.st_ino), newest)


def discard(item: InventoryItem, root: Path) -> str:
    """Remove an item; return "" or why it stays.

    An item stays if another process writes it (holds the lock of its name), reads it (holds a lease) or has replaced it
    since the inventory.
    """
    path = Path(item.path)
    with contextlib.ExitStack() as stack:
        if item.kind in ("blob", "partial", "result", "repository", "tree"):
            name = item.name.partition(".")[0]
            if _HEX.fullmatch(name) and not stack.enter_context(locks.try_lock(root / FORMAT / "locks" / name)):
                return "locked"
        if item.kind in ("blob", "tree", "temporary", "lock") and not stack.enter_context(_unleased(path)):
            return "in use"
        try:
            _remove(item, root)
        except FileNotFoundError:
            return ""
        except OSError as error:
            return error.strerror or "cannot be removed"
    return ""


def _remove(item: InventoryItem, root: Path) -> None:
    path = Path(item.path)
    status = path.lstat()
    if (status.st_dev, status.st_ino) != item.inode:
        raise OSError(errno.ESTALE, "replaced meanwhile")
    if not stat.S_ISDIR(status.st_mode):
        path.unlink()
    else:
        delete(path, root)
    if item.kind == "artifact":
        _drop_empty(path.parent, root / "artifacts")


@contextlib.contextmanager
def _unleased(path: Path) -> Iterator[bool]:
    """Yield whether no process leases the file or tree; no process can lease it meanwhile."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        yield not path.is_file()
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        except OSError:
            yield True  # a file system without locks, or one that needs write access for them (NFS)
        else:
            yield True
    finally:
        os.close(descriptor)


def _drop_empty(directory: Path, root: Path) -> None:
    while directory != root and root in directory.parents:
        try:
            directory.rmdir()
        except OSError:
            return
        directory = directory.parent
