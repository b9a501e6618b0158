"""Prove that a project needs no network: build it in an empty cache, fed only with what an export has."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote, urlsplit

from tasks_lib.context import Context
from tasks_lib.definitions import StaticUrl
from tasks_lib.download import Request
from tasks_lib.errors import FetchError, SettingError, escape_text
from tasks_lib.export.directory import RECORDS, read_record
from tasks_lib.export.layouts import LAYOUTS, ExportedDownload, ExportedProgram
from tasks_lib.host import find_isolation
from tasks_lib.network import redacted
from tasks_lib.parallel import open_pool
from tasks_lib.progress import Progress, Silent, Stoppable
from tasks_lib.project import Project
from tasks_lib.steps.definition_types import load_steps
from tasks_lib.transport.urls import safe_origin

#: Where a run finds the content of a download: URLs to try.
_Places = Callable[[str, StaticUrl], tuple[str, ...]]
#: The run: the program `doit-fetch`, which needs no dodo.py.
_RUN: Final = "import sys; from tasks_lib.cli.console import main; sys.exit(main())"
#: The same without sockets, for a system without network namespaces. Source: Python, "Audit events table".
_DENIED: Final = """
import errno, os, sys

def deny(event, args):
    if event == "socket.getaddrinfo" or (
        event in ("socket.connect", "socket.sendto", "socket.sendmsg") and not isinstance(args[1], (str, bytes))
    ):
        raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))

sys.addaudithook(deny)
"""


class Proof(NamedTuple):
    """The outcome: which downloads are missing, else what the failed run printed, and why the proof is weak, or ""."""

    missing: Sequence[str]
    output: str
    weakness: str

    @property
    def holds(self) -> bool:
        """Whether the build needs no network."""
        return not self.missing and not self.output


def prove(
    project: Project, words: Sequence[str], source: str, progress: Progress, is_missing: str, start: Path
) -> Proof:
    """Build definitions in an empty cache in a network namespace.

    `words` are names or globs, () for what `doit` makes. `source` feeds the build: a directory (relative to `start`) or
    a URL in the layout of an export, "" for the stores of the project, or without any for its cache. `is_missing` is
    what an offline run prints after the name of a missing download.

    Raises:
        SettingError: `source` is neither a directory nor a URL without credentials.
        UnknownNameError: a word matches no definition.
    """
    places = None if not source and project.context.settings.stores else _find_places(project, source, start)
    tasks = project.list_tasks(words)
    with tempfile.TemporaryDirectory(prefix="doit-fetch-prove-", ignore_cleanup_errors=True) as name:
        top = Path(name)
        lacking = _feed(project, top / "cache", places, progress)
        isolation, weakness = find_isolation(project.context.environ)
        done = _run(project, top, tasks, [] if weakness else isolation, _DENIED if weakness else "")
    if done.returncode == 0:
        return Proof((), "", weakness)
    named = [line.removesuffix(is_missing) for line in done.stdout.splitlines() if line.endswith(is_missing)]
    missing = sorted({*named, *(lacking if "... and " in done.stdout else ())}) if named else []
    return Proof(missing, done.stdout or "the build failed", weakness)


def _find_places(project: Project, source: str, start: Path) -> _Places:
    """Return the function from a download to the URLs of its content in a source.

    Raises:
        SettingError: it is neither a directory nor a URL without credentials.
    """
    cache = project.context.cache
    if not source:
        return lambda _name, one: tuple(
            Path(path).absolute().as_uri() for path in cache.inputs(digest=one.integrity.digest)
        )
    directory = start / source
    if directory.is_dir():
        known = _read_records(directory)
        base = directory.absolute().as_uri()
        return lambda name, one: (*known.get(one.integrity.digest.hex, ()), *_in_layouts(base, name, one))
    with contextlib.suppress(FetchError, ValueError):
        if not source.lower().startswith("file:"):
            safe_origin(source)
        if "@" not in urlsplit(source).netloc:
            return partial(_in_layouts, source.rstrip("/"))
    shown = redacted(source) if "://" in source else escape_text(source)
    raise SettingError(
        f"invalid value {shown!r} for --from: neither a directory nor a URL without credentials",
        hint="give what `doit export` wrote, or the URL at which that is served",
    )


def _read_records(directory: Path) -> dict[str, list[str]]:
    """Return the URLs of the files that exports wrote to a directory, by sha256."""
    known: dict[str, list[str]] = {}
    for path in sorted((directory / RECORDS).glob("*.json")):
        for name, one in read_record(path).files.items():
            known.setdefault(one.sha256, []).append((directory.absolute() / name).as_uri())
    return known


def _in_layouts(base: str, name: str, source: StaticUrl) -> tuple[str, ...]:
    """Return the URLs that a download has in each layout; that of vcpkg needs its content."""
    one = ExportedDownload(name, source, str, lambda: ExportedProgram("", ""))
    return tuple(dict.fromkeys(f"{base}/{path}" for path in _paths_of(one)))


def _paths_of(one: ExportedDownload) -> Iterator[str]:
    for layout in LAYOUTS.values():
        with contextlib.suppress(ValueError):
            if path := layout.place(one):
                yield quote(os.fsencode(path))


class _Unreported(Silent):
    """Reports nothing, and stops when another progress does."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def check(self) -> None:
        """Raise when the other progress does.

        Raises:
            CancelledError: the run was asked to stop.
        """
        self._progress.check()


def _feed(project: Project, cache: Path, places: _Places | None, progress: Progress) -> list[str]:
    """Put into a new cache all blobs that a source has; return the names of the downloads that it lacks.

    `places` returns the URLs of the content of a download; None asks the stores of the project.
    """
    settings = project.context.settings
    stores = settings.stores if places is None else ()
    new = settings._replace(cache=cache, shared=None, durability="fast", stores=stores, store_write="never")
    context = Context(new, project.context.environ, mirrors="none")
    cache.mkdir(mode=0o700)

    stoppable = Stoppable(progress)

    def lacks(name: str, one: StaticUrl) -> bool:
        stoppable.check()
        if places is None:
            return not context.sources.obtain_from_stores(name, one.integrity, stoppable)
        urls = places(name, one)
        request = Request(name=name, integrity=one.integrity, urls=urls, home=urls[0], by_digest=frozenset(urls))
        try:
            context.sources.obtain(request, _Unreported(stoppable))
        except FetchError:
            return True
        return False

    fetches = [
        (one.name, file) for one in project.select(()) for file in load_steps(project.context, one).list_downloads()
    ]
    with open_pool(settings.jobs, stoppable) as threads:
        lacking = list(threads.map(lambda pair: lacks(*pair), fetches))
    shutil.rmtree(cache / "v1/results", ignore_errors=True)  # where the blobs came from proves nothing
    return [name for (name, _), is_lacking in zip(fetches, lacking, strict=True) if is_lacking]


def _run(
    project: Project, top: Path, tasks: Sequence[str], isolation: Sequence[str], prelude: str
) -> subprocess.CompletedProcess[str]:
    """Run doit on the empty cache; its output is one text."""
    environ = {
        **project.context.environ,
        "FETCHDEFS_DIR": str(project.context.settings.fetchdefs),
        "FETCH_CACHE_DIR": str(top / "cache"),
        "FETCH_PRIVATE_CACHE_DIR": str(top / "private") if project.context.settings.shared else "",
        "FETCH_BUILD_DIR": str(top / "build"),
        "FETCH_OFFLINE": "1",
        "FETCH_PROGRESS": "quiet",
        "FETCH_DURABILITY": "fast",
    }
    if project.context.settings.stores:  # a store that is empty: "" would leave the one of pyproject.toml in force
        (top / "store").mkdir()
        environ |= {
            "FETCH_STORE": (top / "store").as_uri(),
            "FETCH_STORE_WRITE": "never",
            "FETCH_STORE_TRUST": "none",
        }
    return subprocess.run(
        [*isolation, sys.executable, "-c", prelude + _RUN, "offline=1", *tasks],
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="backslashreplace",
        check=False,
    )
