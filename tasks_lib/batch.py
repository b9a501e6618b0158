"""Batches of fetches that another machine makes: what it needs as values, and what it reports.

`run_batch` runs on a worker of Dask. It fetches, verifies and repacks into the worker's own cache, and returns when the
stores have everything. Definitions travel as values, with the files that verify them. Secrets never travel: a header
contains the names of variables, and its values come from the worker's environment.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from tasks_lib import steps
from tasks_lib.context import Context
from tasks_lib.definitions import Definitions, Fetch, StaticUrl
from tasks_lib.definitions.codec import decode, encode
from tasks_lib.errors import FetchError, SettingError, ToolError, escape_text
from tasks_lib.fs.atomic import write_best_effort
from tasks_lib.incremental.resources import ReferencedFiles
from tasks_lib.layout import KINDS, MIRRORS, OWN, STORE_KEYS, find_layout
from tasks_lib.network import Headers, has_reference
from tasks_lib.platforms import ANY_PLATFORM
from tasks_lib.progress import FailedSource
from tasks_lib.settings import Settings
from tasks_lib.steps import Artifact, Plan
from tasks_lib.steps.definition_types import list_read_files
from tasks_lib.store.fleet import Fleet, State
from tasks_lib.store.upload import Uploads, make_record
from tasks_lib.ui.events import installed_version

#: Definitions of one batch. Source: issue 26; scale.md section 4 measured 2 to 4 times the rate of single calls.
SIZE: Final = 50
#: Most events that a batch reports: enough for every phase, and bounded for a source that fails again and again.
_MOST_EVENTS: Final = 20_000


class Note(msgspec.Struct, array_like=True):
    """An event of a task, `at_s` seconds after the batch began; see `ui.events.Event`."""

    task: str
    name: str
    at_s: float
    facts: dict[str, str | int | float]


class RemoteBatch(msgspec.Struct, array_like=True):
    """Definitions for one call, and what they need.

    Attributes:
        version: of the package that made it.
        fetches: each encoded.
        repacked: names of those that are repacked, too.
        headers: of each definition that has some.
        files: content by path below the directory of definitions: key files, mirrors.yml, keys of stores.
        key_files: the path of each key file, or lock, in its definition, and its path in `files`.
    """

    version: str
    fetches: list[bytes]
    repacked: list[str]
    headers: dict[str, Headers]
    files: dict[str, bytes]
    key_files: dict[str, str]


class BatchResult(msgspec.Struct, array_like=True):
    """What became of a batch: the events of its tasks, and the message of each task that failed.

    `worker` names the machine and the process, `seconds` is how long the batch took.
    """

    worker: str
    seconds: float
    notes: list[Note]
    failed: dict[str, str]


def list_shared_files(settings: Settings) -> dict[str, bytes]:
    """Return the files that every batch of a project needs: mirrors.yml and the public keys of stores.

    Raises:
        OSError: a file cannot be read.
    """
    layout = find_layout(settings.fetchdefs)
    mirrors = layout.mirrors_file
    found = {MIRRORS: mirrors.read_bytes() if mirrors else b""}  # an empty one hides a file of the worker's directory
    return found | {f"{STORE_KEYS}/{path.name}": path.read_bytes() for path in sorted(layout.store_keys.glob("*.pub"))}


def make_batch(
    fetches: Mapping[str, Fetch], repacked: Iterable[str], headers: Mapping[str, Headers], shared: Mapping[str, bytes]
) -> bytes:
    """Return a batch for `run_batch`.

    Args:
        fetches: the definitions by name.
        repacked: names of those that are repacked, too.
        headers: of each definition that has some, as written in its file.
        shared: from `list_shared_files`.

    Raises:
        ToolError: a header has a value without a variable, which may be a secret; or a key file cannot be read.
    """
    batch = RemoteBatch(installed_version(), [], list(repacked), {}, dict(shared), {})
    for fetch in fetches.values():
        batch.fetches.append(encode(fetch))
        if isinstance(fetch.source, StaticUrl):
            _add_headers(batch, fetch.name, headers.get(fetch.name, ()) if fetch.source.headers else ())
        for path in list_read_files(fetch.source):
            _add_key_file(batch, fetch.name, path)
    return msgspec.msgpack.encode(batch)


def _add_headers(batch: RemoteBatch, name: str, headers: Headers) -> None:
    for header in headers:
        if not has_reference((header,)):
            raise ToolError(
                f"{name}: the value of the header {escape_text(header[0])} is not sent to workers: it may be a secret",
                hint="write the name of a variable, as in `${TOKEN}`, and set it on the workers",
            )
    if headers:
        batch.headers[name] = headers


def _add_key_file(batch: RemoteBatch, name: str, path: str) -> None:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ToolError(
            f"{name}: cannot read {escape_text(path)}: {error.strerror}", hint="check that the file exists"
        ) from error
    batch.key_files[path] = f"keys/{hashlib.sha256(content).hexdigest()}"
    batch.files[batch.key_files[path]] = content


def run_batch(data: bytes) -> bytes:
    """Make a batch on this machine, with the settings of its environment; return an encoded `BatchResult`.

    Raises:
        FetchError: nothing can be made here: the settings, the store or the cache are not usable.
    """
    batch = msgspec.msgpack.decode(data, type=RemoteBatch)
    if batch.version != installed_version():
        raise ToolError(
            f"the worker has doit-fetch {installed_version()}, the run has {batch.version}",
            hint="install the same version on both",
        )
    settings = Settings.parse(variables={}, environ=os.environ)
    if not settings.stores:
        raise SettingError("the worker has no store, so its work would be lost", hint="set FETCH_STORE on the workers")
    settings.judge_cache()
    with tempfile.TemporaryDirectory(prefix="doit-fetch-") as top:
        fetchdefs = Path(top) / OWN
        _write_files(fetchdefs, batch.files)
        paths = {path: str(fetchdefs / inner) for path, inner in batch.key_files.items()}
        context = Context(settings._replace(fetchdefs=fetchdefs), os.environ, load_headers=lambda: batch.headers)
        fetches = [_relocate(decode(one), paths) for one in batch.fetches]
        return msgspec.msgpack.encode(_made(context, fetches, frozenset(batch.repacked)))


def _write_files(directory: Path, files: Mapping[str, bytes]) -> None:
    for kind in KINDS:
        (directory / kind).mkdir(parents=True)
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_best_effort(path, content)


def _relocate(value: Any, paths: Mapping[str, str]) -> Any:
    """Return a value of definitions with the paths of its key files, or of its lock, on this machine."""
    changed = {}
    for name in value.__struct_fields__:
        own = getattr(value, name)
        if isinstance(own, msgspec.Struct):
            changed[name] = _relocate(own, paths)
        elif name in ("key_file", "lock_file"):
            changed[name] = paths.get(own, own)
        elif name == "key_files":
            changed[name] = tuple(paths.get(path, path) for path in own)
    return msgspec.structs.replace(value, **changed)


def _made(context: Context, fetches: list[Fetch], repacked: frozenset[str]) -> BatchResult:
    """Make all definitions, several at once, and write them to the stores.

    Raises:
        SettingError: this machine does not write to its stores.
    """
    fleet = context.fleet
    if fleet is None or fleet.uploads is None:
        raise SettingError(
            "the worker does not write to its stores, so its work would be lost",
            hint="set FETCH_STORE_WRITE=always and the credential of the store on the workers",
        )
    context.cache.join(context.settings.fetchdefs, context.configuration().encode())
    definitions = Definitions(fetches={fetch.name: fetch for fetch in fetches}, toolchains={})
    plan = Plan(definitions, context, context.configuration(), ReferencedFiles(context.environ))
    log = _Log()
    making = _Steps(context, plan, fleet.uploads, log)
    with ThreadPoolExecutor(context.settings.jobs) as pool:
        list(pool.map(lambda fetch: making.make(fetch, fetch.name in repacked), fetches))
    fleet.uploads.finish(lambda: True, lambda _line: None)
    failed = log.failed
    if problems := fleet.counts.problems or making.describe_closed(fleet):
        lost = f"not in the store: {'; '.join(problems)}"
        failed = {f"fetch:{fetch.name}": lost for fetch in fetches} | failed
    return BatchResult(worker=_worker_name(), seconds=log.seconds, notes=log.notes, failed=failed)


class _Steps(NamedTuple):
    """Makes definitions, and writes each to the stores before it counts as made."""

    context: Context
    plan: Plan
    uploads: Uploads
    log: _Log

    def make(self, fetch: Fetch, to_repack: bool) -> None:
        """Fetch a definition, and repack it if it is to be."""
        context, fetched = self.context, self.plan.fetched(fetch)
        if not self.log.run(fetched.task, lambda progress: steps.fetch(context, fetch, fetched, progress)):
            return
        self._push(fetched, [url] if (url := steps.url_of(fetch)) else [])
        repacked = self.plan.repacked(fetch)
        if to_repack and repacked is not None:
            made = self.log.run(
                repacked.task, lambda progress: steps.repack(context, fetch, fetched, repacked, progress)
            )
            if made:
                self._push(repacked, [])

    def _push(self, artifact: Artifact, urls: list[str]) -> None:
        """Write an artifact that the cache had before: the steps write only what they obtain and make."""
        integrity = steps.find_integrity(self.context, artifact)
        if integrity is not None and integrity.digest.algorithm == "sha256":
            self.uploads.writer.write(make_record(artifact.key, integrity, ANY_PLATFORM, urls))

    def describe_closed(self, fleet: Fleet) -> list[str]:
        """Return the names of the stores if none of them can be used."""
        closed = [member.name for member in fleet.members if member.state is State.CLOSED]
        return [f"{name} cannot be used" for name in closed] if len(closed) == len(fleet.members) else []


def _worker_name() -> str:
    return f"{os.uname().nodename}:{os.getpid()}"


class _Log:
    """The events and failures of a batch; safe to use from any thread."""

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self.failed: dict[str, str] = {}
        self._lock = threading.Lock()
        self._begun_s = time.monotonic()

    @property
    def seconds(self) -> float:
        """The time since the batch began."""
        return round(time.monotonic() - self._begun_s, 6)

    def run(self, task: str, step: Any) -> bool:
        """Run a step; return whether it succeeded."""
        self.add(task, "start", {})
        try:
            step(_TaskLog(self, task))
        except FetchError as error:
            self.failed[task] = str(error)
        except Exception as error:  # a fault of ours must not lose the results of the whole batch
            self.failed[task] = f"{type(error).__name__}: {escape_text(str(error))}"
        self.add(task, "done", {})
        return task not in self.failed

    def add(self, task: str, name: str, facts: Mapping[str, str | int | float]) -> None:
        """Add an event; progress is summed up until the next one."""
        with self._lock:
            last = self.notes[-1] if self.notes else None
            if last is not None and name == last.name == "advance" and last.task == task:
                last.facts["size"] = int(last.facts["size"]) + int(facts["size"])
            elif len(self.notes) < _MOST_EVENTS or name in ("start", "done"):
                self.notes.append(Note(task, name, self.seconds, dict(facts)))


class _TaskLog:
    """`Progress` of one task of a batch; a batch that began is finished."""

    def __init__(self, log: _Log, task: str) -> None:
        self._log, self._task = log, task

    def phase(self, name: str, **facts: str | int | float) -> None:
        """Report that a phase begins."""
        self._log.add(self._task, "phase", {"phase": name, **facts})

    def advance(self, size: int) -> None:
        """Report that `size` more bytes are done."""
        self._log.add(self._task, "advance", {"size": size})

    def warn(self, message: str) -> None:
        """Report a warning of one line."""
        self._log.add(self._task, "warn", {"message": message})

    def failed_source(self, source: FailedSource) -> None:
        """Report a source that failed although another one provided the content."""
        self._log.add(self._task, "warn", {"message": str(source), **source._asdict()})

    def check(self) -> None:
        """Return; the work never stops."""


def read_result(data: bytes) -> BatchResult:
    """Return the result that `run_batch` returned.

    Raises:
        ValueError: the bytes are not a result.
    """
    try:
        return msgspec.msgpack.decode(data, type=BatchResult)
    except msgspec.MsgspecError as error:
        raise ValueError("invalid result of a batch") from error
