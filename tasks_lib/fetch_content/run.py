"""One run of the command: settings, a cache that is its own unless the user names one, and where bytes come from."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tasks_lib.context import Context
from tasks_lib.errors import SettingError, TransportError, escaped
from tasks_lib.fetch_content.porch import log
from tasks_lib.fs.copying import place
from tasks_lib.progress import Facts, LineProgress, describe_wait
from tasks_lib.retry import Retry
from tasks_lib.settings import Settings
from tasks_lib.transport import redacted

if TYPE_CHECKING:
    from tasks_lib.digest import Integrity

#: Directories that this command makes and removes begin like this.
PRIVATE: Final = ".fetch-content."
#: Seconds between the two looks for what is left when a signal ends the command.
_LAST_LOOK_S: Final = 0.2
#: Private directories that were made.
_made: Final[list[Path]] = []


def _described(name: str, facts: Facts) -> str:
    """Return the line of the task's log for a phase; a log is no place for progress bars."""
    if name == "connect":
        return f"Downloading {facts.get('url', '')}"
    if name == "wait" and "seconds" in facts:
        return f"sleeping for {facts['seconds']} s"
    return describe_wait(name, facts)


class Run(Context):
    """Hold what every subcommand needs: a context and the task's log."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], progress: LineProgress) -> None:
        super().__init__(settings, environ, mirrors="none")
        self.progress: Final = progress

    def read(self, url: str, limit: int) -> bytes:
        """Return a short answer that must not be kept anywhere: a secret.

        Raises:
            TransportError: it did not arrive.
            CancelledError: the run was asked to stop.
        """
        retry, check = Retry(self.settings.policy, self.settings.transport.total_s(limit)), self.progress.check
        while True:
            try:
                with self._transport.open(url, headers={}, size=-1, ends=retry.begin(), check=check) as response:
                    return b"".join(response.chunks(limit))
            except TransportError as error:
                if not retry.again(error, self.progress, redacted(url)):
                    raise

    def put(self, integrity: Integrity, path: Path) -> None:
        """Let a blob stand at `path`, whatever stood there; a reader sees the old file or the whole new one.

        Raises:
            OSError, StoreError: the file system refused, or the blob vanished.
            CancelledError: the run was asked to stop.
        """
        with private_directory(path.parent) as staging, self.store.open(integrity) as file:
            directory = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
            try:
                place(file, path.name, directory=directory, mode=0o666, how="auto", progress=self.progress)
            finally:
                os.close(directory)
            (staging / path.name).replace(path)


def destination(text: str) -> Path:
    """Return where a file is to stand.

    Raises:
        SettingError: what stands there is no file: a device would be replaced, and be missed by all who use it.
    """
    path = Path(text)
    if path.exists() and not path.is_file():
        raise SettingError(f"{escaped(text)} is no regular file, and would be replaced", hint="name a file")
    return path


@contextlib.contextmanager
def running(environ: Mapping[str, str], beside: Path) -> Iterator[Run]:
    """Give a run; without FETCH_CACHE_DIR its cache is a private directory in `beside`, gone afterwards.

    Raises:
        SettingError: a setting that cannot be used.
        OSError: `beside` cannot be made or written.
    """
    beside.mkdir(parents=True, exist_ok=True)
    progress = LineProgress(log, _described)
    if environ.get("FETCH_CACHE_DIR"):
        yield _run(environ, progress, {})
        return
    with private_directory(beside) as cache:
        yield _run(environ, progress, {"cache": str(cache), "durability": "fast"})


def _run(environ: Mapping[str, str], progress: LineProgress, variables: Mapping[str, str]) -> Run:
    settings = Settings.parse(variables=variables, environ=environ)
    return Run(settings, environ, progress)


@contextlib.contextmanager
def private_directory(beside: Path) -> Iterator[Path]:
    """Give a new directory in `beside`, on its file system, removed afterwards.

    Raises:
        OSError: it cannot be made.
    """
    path = Path(tempfile.mkdtemp(prefix=PRIVATE, dir=beside))
    _made.append(path)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def remove_private_directories() -> None:
    """Remove every one of them, although threads may work in them: the process ends now.

    A thread whose answer came in this very moment makes its directory again, so that there is a second look.
    """
    for pause_s in (_LAST_LOOK_S, 0.0):
        for path in _made:
            shutil.rmtree(path, ignore_errors=True)
        time.sleep(pause_s)
