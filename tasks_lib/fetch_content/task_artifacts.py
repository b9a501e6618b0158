"""`task-artifacts`: download what MOZ_FETCHES lists, in parallel, and merge it in the order of the list.

MOZ_FETCHES is parsed strictly and resolved to URLs and directories. Each artifact is laid out in a staging directory.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from tasks_lib.archive import Reshape
from tasks_lib.digest import Digest, Integrity
from tasks_lib.download.unverified import UnverifiedRequest
from tasks_lib.errors import DamagedArchiveError, IntegrityError, SettingError, escape_text
from tasks_lib.fetch_content import static_url
from tasks_lib.fetch_content.archive_detection import detect_archive
from tasks_lib.fetch_content.console import log
from tasks_lib.fetch_content.destinations import Destinations
from tasks_lib.fetch_content.run import Run, open_run, private_directory
from tasks_lib.formats import describe_not_extracted
from tasks_lib.transport import redacted
from tasks_lib.tree.extraction import Extraction
from tasks_lib.tree.merge import merge_tree, set_mtime

#: Largest chain of trust in bytes; it has about 150 bytes for each artifact of a task.
_MAX_TRUST_BYTES: Final = 64 << 20
#: Most replaced paths of one artifact that the log names.
_MAX_NAMED: Final = 100


def task_artifacts(dest: str, environ: Mapping[str, str]) -> None:
    """Fetch and place every artifact, in the order of the list.

    Raises:
        FetchError: a setting is invalid, or an artifact failed; artifacts that were placed before stay.
        OSError: a directory cannot be written.
    """
    begun = time.monotonic()
    base = Path(os.path.abspath(dest))  # noqa: PTH100 - does not resolve the user's symlinks
    artifacts = parse_moz_fetches(environ, base)
    if artifacts:
        places = Destinations(base, (artifact.directory for artifact in artifacts))
        with open_run(environ, base) as run:
            _fetch_all(run, artifacts, places)
    static_url.report_duration(time.monotonic() - begun, environ)


def _fetch_all(run: Run, artifacts: list[MozFetch], places: Destinations) -> None:
    trust = _TrustChains(run)
    with ExitStack() as stack:
        pool = ThreadPoolExecutor(max(1, run.settings.jobs), "fetch")
        stack.push(partial(_shut_down, run, pool))
        staged: list[tuple[MozFetch, Future[_Staged]]] = []
        for artifact in artifacts:
            staged.append((artifact, pool.submit(_stage, run, artifact, trust)))
        for artifact, future in staged:
            future.result().merge(artifact, places)


def _shut_down(run: Run, pool: ThreadPoolExecutor, kind: type[BaseException] | None, *_: object) -> None:
    """Cancel the threads and wait for them; after a signal, do not wait."""
    run.progress.cancel()
    pool.shutdown(wait=kind is None or issubclass(kind, Exception), cancel_futures=True)


@dataclass(frozen=True)
class _Staged:
    """An artifact that is ready to be merged; `close` removes its staging directory."""

    tree: Path
    close: Callable[[], None]

    def merge(self, artifact: MozFetch, places: Destinations) -> None:
        """Move the tree into the artifact's directory; its files replace existing ones."""
        try:
            places.check(self.tree, artifact.directory, artifact.name)
            replaced: list[str] = []
            merge_tree(self.tree, artifact.directory, self.tree.parent, replaced.append)
            for path in replaced[:_MAX_NAMED]:
                log(f"{artifact.directory / path} is provided by more than one fetch, replacing it")
            if len(replaced) > _MAX_NAMED:
                log(f"{len(replaced) - _MAX_NAMED} more paths below {artifact.directory} are replaced")
        finally:
            self.close()


def _stage(run: Run, artifact: MozFetch, trust: _TrustChains) -> _Staged:
    """Fetch one artifact and extract or copy it to a staging directory beside its destination."""
    begun = time.monotonic()
    url = redacted(artifact.url)
    digest = trust.digest_of(artifact) if artifact.trust else None
    limit = run.settings.limits.max_total_bytes
    asked = UnverifiedRequest(name=artifact.name, urls=(artifact.url,), limit=limit, digest=digest)
    integrity = run.unverified.obtain(asked, run.progress)
    seconds = time.monotonic() - begun
    log(f"{url} resolved to {integrity.size} bytes with sha256 {integrity.digest.hex} in {seconds:.3f}s")
    if digest is not None:
        log(f"Verified sha256 integrity of {url}")
    artifact.directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        staging = stack.enter_context(private_directory(artifact.directory))
        tree = staging / "tree"
        _fill(run, artifact, integrity, tree, staging)
        return _Staged(tree, stack.pop_all().close)


def _fill(run: Run, artifact: MozFetch, integrity: Integrity, tree: Path, staging: Path) -> None:
    begun = time.monotonic()
    # symlinks are created unchanged and last, and extraction never writes through one
    limits = run.settings.limits._replace(outward_symlinks="keep")
    with run.cache.open(integrity) as file:
        kind = detect_archive(file, artifact.file_name, limits) if artifact.delivery == "extract" else None
        if kind is None:
            found = describe_not_extracted(artifact.file_name, file.read(64)) if artifact.delivery == "extract" else ""
            if found:
                log(f"WARNING: {escape_text(artifact.file_name)} is placed as it is: {found} is not extracted")
            tree.mkdir()
            run.put(integrity, tree / artifact.file_name)
            return
        Extraction(tree, staging / "record").extract(
            file,
            name=artifact.file_name,
            format=kind,
            reshape=Reshape(),
            limits=limits,
            key="",
            progress=run.progress,
        )
    set_mtime(tree, time.time_ns())
    log(f"{redacted(artifact.url)} extracted to {artifact.directory} in {time.monotonic() - begun:.3f}s")


class _TrustChains:
    """Chains of trust, each downloaded once."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._known: dict[str, Mapping[str, object]] = {}

    def digest_of(self, artifact: MozFetch) -> Digest:
        """Return the sha256 that the task's chain of trust lists for the artifact.

        Raises:
            FetchError: the chain of trust cannot be downloaded, or does not list the artifact.
        """
        with self._lock:
            own = self._locks.setdefault(artifact.trust, threading.Lock())
        with own:
            if artifact.trust not in self._known:
                self._known[artifact.trust] = self._download(artifact)
        listed = self._known[artifact.trust].get(artifact.name)
        text = listed.get("sha256") if isinstance(listed, dict) else None
        try:
            return Digest.sha256(str(text))
        except ValueError as error:
            raise IntegrityError(
                f"the chain of trust of task {artifact.task} has no sha256 of {artifact.name}",
                hint="it lists only artifacts that the worker uploaded; remove `verify-hash` for others",
            ) from error

    def _download(self, artifact: MozFetch) -> Mapping[str, object]:
        run = self._run
        name = f"the chain of trust of task {artifact.task}"
        asked = UnverifiedRequest(name=name, urls=(artifact.trust,), limit=_MAX_TRUST_BYTES)
        with run.cache.open(run.unverified.obtain(asked, run.progress)) as file:
            try:
                listed = json.loads(file.read())["artifacts"]
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise DamagedArchiveError(
                    archive="chain-of-trust.json", reason=f"cannot read `artifacts`: {error}", code="WRONG_FORMAT"
                ) from error
        return listed if isinstance(listed, dict) else {}


#: Largest number of entries; Gecko's largest task has about 300.
MAX_ENTRIES: Final = 100_000
_PUBLIC: Final = "public/"


@dataclass(frozen=True, slots=True, kw_only=True)
class MozFetch:
    """One artifact of a task, with its URL and the directory to place it in.

    `delivery` is "extract" or "place"; `trust` is the URL of the task's chain of trust, "" when it is not verified.
    """

    name: str
    task: str
    url: str
    directory: Path
    delivery: str
    trust: str = ""

    @property
    def file_name(self) -> str:
        """The name of the file, without directories."""
        return self.name.rpartition("/")[2]


def parse_moz_fetches(environ: Mapping[str, str], base: Path) -> list[MozFetch]:
    """Parse the list in the environment, in its order; relative directories start at `base`.

    Raises:
        SettingError: no list, an entry without a required key, or no URL to fetch from.
    """
    text = environ.get("MOZ_FETCHES")
    if text is None:
        raise SettingError("MOZ_FETCHES is not set", hint="Taskgraph sets it for tasks that have `fetches`")
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingError(f"MOZ_FETCHES is not valid JSON: {error}") from error
    if not isinstance(listed, list) or len(listed) > MAX_ENTRIES:
        raise SettingError(f"MOZ_FETCHES is not a list of at most {MAX_ENTRIES} entries")
    return [_artifact(one, environ, base, f"MOZ_FETCHES entry {at}") for at, one in enumerate(listed, 1)]


def _artifact(one: Any, environ: Mapping[str, str], base: Path, where: str) -> MozFetch:
    if not isinstance(one, dict):
        raise SettingError(f"{where} is not an object")
    name, task = _text(one, "artifact", where), _text(one, "task", where)
    if "extract" not in one:
        raise SettingError(f"{where} ({escape_text(name)}) has no 'extract'")
    file_name = name.rpartition("/")[2]
    if file_name in ("", ".", "..") or "\0" in name:
        raise SettingError(f"{where}: artifact {escape_text(name)!r} does not end in a valid file name")
    root = _root(environ, "TASKCLUSTER_ROOT_URL")
    host = root if name.startswith(_PUBLIC) else _root(environ, "TASKCLUSTER_PROXY_URL")
    return MozFetch(
        name=name,
        task=task,
        url=_url(host, task, name),
        directory=_directory(one, base, where),
        delivery="extract" if one["extract"] else "place",
        trust=_url(root, task, "public/chain-of-trust.json") if one.get("verify-hash") else "",
    )


def _text(one: Mapping[str, Any], key: str, where: str) -> str:
    value = one.get(key)
    if not isinstance(value, str) or not value:
        raise SettingError(f"{where} has no {key!r}")
    return value


def _root(environ: Mapping[str, str], name: str) -> str:
    root = environ.get(name)
    if not root:
        purpose = "a private artifact" if "PROXY" in name else "fetching artifacts"
        raise SettingError(f"{name} is not set, but required for {purpose}")
    return root.rstrip("/")


def _url(root: str, task: str, name: str) -> str:
    """Return the URL of an artifact. Source: Taskcluster queue, `getLatestArtifact`."""
    return f"{root}/api/queue/v1/task/{quote(task, safe='')}/artifacts/{quote(name)}"


def _directory(one: Mapping[str, Any], base: Path, where: str) -> Path:
    """Return the destination directory, normalised; like upstream, it may be outside of `base`.

    Raises:
        SettingError: `dest` is not text.
    """
    dest = one.get("dest") or ""
    if not isinstance(dest, str) or "\0" in dest:
        raise SettingError(f"{where}: 'dest' is not valid text")
    return Path(os.path.normpath(base / dest))
