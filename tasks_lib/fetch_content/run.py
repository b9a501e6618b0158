"""The context of one run of the command: settings, log, and a cache, which is private unless the user names one."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tasks_lib import recipe
from tasks_lib.archive import ARCHIVE_VARIABLES
from tasks_lib.context import Context
from tasks_lib.digest import Integrity
from tasks_lib.errors import SettingError, StoreError, TransportError
from tasks_lib.fetch_content.console import log
from tasks_lib.fs import locks, system_calls
from tasks_lib.fs.copying import link_or_copy
from tasks_lib.platforms import ANY_PLATFORM
from tasks_lib.progress import Facts, LineProgress, describe_wait
from tasks_lib.retry import Retry
from tasks_lib.settings import Settings
from tasks_lib.steps.artifacts import share_result
from tasks_lib.store import blob_key
from tasks_lib.transport import redacted
from tasks_lib.units import format_size

if TYPE_CHECKING:
    from tasks_lib.download.unverified import UnverifiedRequest

#: Prefix of the directories that this command creates and removes.
PRIVATE: Final = ".fetch-content."
#: Seconds between the two removals of private directories when a signal ends the command.
_LAST_LOOK_S: Final = 0.2
#: Private directories that were created, and directories in which abandoned ones were removed.
_created: Final[list[Path]] = []
_cleaned: Final[set[Path]] = set()
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def _describe(name: str, facts: Facts) -> str:
    """Return the log line for a phase, "" for none; a task's log has no progress bars."""
    if name == "connect":
        return f"Downloading {facts.get('url', '')}"
    if name == "wait" and "seconds" in facts:
        return f"sleeping for {facts['seconds']} s"
    return describe_wait(name, facts)


class Run(Context):
    """The context of a subcommand, with the task's log."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], progress: LineProgress) -> None:
        super().__init__(settings, environ, mirrors="none")
        self.progress: Final = progress

    def read(self, url: str, limit: int) -> bytes:
        """Download at most `limit` bytes without caching them: a secret.

        Raises:
            TransportError: the download failed.
            CancelledError: the run was asked to stop.
        """
        retry, check = Retry(self.settings.policy, self.settings.transport.total_s(limit)), self.progress.check
        while True:
            try:
                with self.transport.open(url, headers={}, size=-1, ends=retry.begin(), check=check) as response:
                    return b"".join(response.chunks(limit))
            except TransportError as error:
                if not retry.again(error, self.progress, redacted(url)):
                    raise

    def obtain(self, asked: UnverifiedRequest) -> Integrity:
        """Obtain content with a known digest from a shared store, else download it; let the stores have it then.

        Raises:
            FetchError: as `UnverifiedDownloader.obtain`.
        """
        held = self._held_by_store(asked) if asked.digest is not None else None
        if held is not None:
            return held
        integrity = self.unverified.obtain(asked, self.progress)
        if asked.digest is not None:
            share_result(self, recipe.fetch_key(integrity), integrity, ANY_PLATFORM, asked.urls)
        return integrity

    def _held_by_store(self, asked: UnverifiedRequest) -> Integrity | None:
        """Bring content into the cache from the first store that has it; its size may be known only to the store."""
        fleet = self.fleet
        if fleet is None or asked.digest is None or asked.digest.algorithm != "sha256":
            return None
        key = blob_key(asked.digest.hex)
        for member in fleet.holders(key, self.progress):
            try:
                found = member.store.find(key)
            except StoreError as error:
                member.note_failure(key, error, self.progress)
                continue
            size = asked.size if asked.size >= 0 or found is None else found.size
            if found is None or not 0 <= size <= asked.limit:
                member.note_missing(key)
                continue
            integrity = Integrity(size=size, digest=asked.digest)
            if self.sources.obtain_from_stores(asked.name, integrity, self.progress):
                return integrity
        return None

    def _is_running(self) -> bool:
        """Return True.

        Raises:
            CancelledError: the run was asked to stop.
        """
        self.progress.check()
        return True

    def finish_uploads(self) -> None:
        """Wait until the stores have what this run obtained; log what came from them and went to them.

        Raises:
            CancelledError: the run was asked to stop.
        """
        fleet = self.opened_fleet
        if fleet is None:
            return
        fleet.finish(self._is_running, log)
        for name, (files, size) in fleet.counts.read.items():
            log(f"{files} from store {name} ({format_size(size)})")
        if fleet.counts.pushed:
            log(f"pushed {fleet.counts.pushed} ({format_size(fleet.counts.pushed_bytes)})")
        for problem in fleet.counts.problems:
            log(f"warning: {problem}")

    def put(self, integrity: Integrity, path: Path) -> None:
        """Place a blob at `path` and atomically replace a file there.

        Raises:
            OSError, CacheError: the file system refused, or the blob vanished.
            CancelledError: the run was asked to stop.
        """
        with private_directory(path.parent) as staging, self.cache.open(integrity) as file:
            directory = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
            try:
                link_or_copy(file, path.name, directory=directory, mode=0o666, how="auto", progress=self.progress)
            finally:
                os.close(directory)
            (staging / path.name).replace(path)


@contextlib.contextmanager
def open_run(environ: Mapping[str, str], beside: Path) -> Iterator[Run]:
    """Yield a run; without FETCH_CACHE_DIR its cache is a private directory in `beside` that is removed afterwards.

    Raises:
        SettingError: a setting is invalid.
        OSError: `beside` cannot be created or written.
    """
    beside.mkdir(parents=True, exist_ok=True)
    progress = LineProgress(log, _describe)
    if environ.get("FETCH_CACHE_DIR"):
        run = _run(environ, progress, {})
        for line in run.settings.judge_cache():
            log(f"warning: {line}")
        yield run
        run.finish_uploads()
        return
    with private_directory(beside) as cache:
        run = _run(environ, progress, {"cache": str(cache), "durability": "fast", "cache_parents": "ignore"})
        yield run
        run.finish_uploads()


def _run(environ: Mapping[str, str], progress: LineProgress, variables: Mapping[str, str]) -> Run:
    settings = Settings.parse(variables=variables, environ=environ)
    limits = settings.limits._replace(**_archive_options(environ))
    return Run(settings._replace(limits=limits), environ, progress)


def _archive_options(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the options for archives: a definition has keys for them, a Taskgraph task only its environment.

    Raises:
        SettingError: a value is invalid.
    """
    options = {}
    for variable, (name, value) in ARCHIVE_VARIABLES.items():
        given = environ.get(variable) or "refuse"
        if given not in ("refuse", value):
            raise SettingError(f"invalid value {given[:80]!r} for {variable}: expected refuse or {value}")
        options[name] = given
    return options


@contextlib.contextmanager
def private_directory(beside: Path) -> Iterator[Path]:
    """Yield a new directory in `beside`, on the same file system; it is removed afterwards.

    The process holds a lock on it, so that a later run recognises and removes what a killed one left.

    Raises:
        OSError: the directory cannot be created.
    """
    _remove_abandoned(beside)
    path, lock = _create_locked(beside)
    _created.append(path)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _create_locked(beside: Path) -> tuple[Path, int]:
    """Create a private directory; return its path and the descriptor that holds its lock.

    Another process may take a new directory for an abandoned one and remove it before it is locked: try again.
    """
    while True:
        path = Path(tempfile.mkdtemp(prefix=PRIVATE, dir=beside))
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(path, _DIRECTORY)
            locks.lease(lock)
            if system_calls.is_same(lock, path):
                return path, lock
            os.close(lock)


def _remove_abandoned(beside: Path) -> None:
    """Remove private directories of processes that no longer run, once per directory and process."""
    if beside in _cleaned:
        return
    _cleaned.add(beside)
    for path in beside.glob(f"{PRIVATE}*"):
        with contextlib.suppress(OSError):
            lock = os.open(path, _DIRECTORY)
            try:
                if os.fstat(lock).st_uid == os.geteuid() and locks.try_descriptor(lock):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)


def remove_private_directories() -> None:
    """Remove all private directories although threads may still use them: the process is about to end.

    A thread may recreate its directory during the first removal, so that a second one follows.
    """
    for pause_s in (_LAST_LOOK_S, 0.0):
        for path in _created:
            shutil.rmtree(path, ignore_errors=True)
        time.sleep(pause_s)
