"""`task-artifacts`: fetch the list MOZ_FETCHES in parallel.

Each artifact is extracted to a staging directory; they are merged into their destinations in the order of the list.
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
from typing import Final

from tasks_lib.archive import Reshape
from tasks_lib.digest import Digest, Integrity
from tasks_lib.download.unverified import UnverifiedRequest
from tasks_lib.errors import DamagedArchiveError, IntegrityError
from tasks_lib.fetch_content import static_url
from tasks_lib.fetch_content.archive_detection import kind_of
from tasks_lib.fetch_content.console import log
from tasks_lib.fetch_content.moz_fetches import MozFetch, parse
from tasks_lib.fetch_content.run import Run, private_directory, running
from tasks_lib.transport import redacted
from tasks_lib.tree import Extraction
from tasks_lib.tree.merge import merge, settle

#: Largest chain of trust in bytes; it has about 150 bytes for each artifact of a task.
_MAX_TRUST_BYTES: Final = 64 << 20


def task_artifacts(dest: str, environ: Mapping[str, str]) -> None:
    """Fetch and place every artifact, in the order of the list.

    Raises:
        FetchError: a setting is invalid, or an artifact failed; artifacts that were placed before stay.
        OSError: a directory cannot be written.
    """
    begun = time.monotonic()
    artifacts = parse(environ, Path(os.path.abspath(dest)))  # noqa: PTH100 - does not resolve the user's symlinks
    if artifacts:
        with running(environ, Path(dest)) as run:
            _fetch_all(run, artifacts)
    static_url.report(time.monotonic() - begun, environ)


def _fetch_all(run: Run, artifacts: list[MozFetch]) -> None:
    trust = _TrustChains(run)
    with ExitStack() as stack:
        pool = ThreadPoolExecutor(max(1, run.settings.jobs), "fetch")
        stack.push(partial(_shut_down, run, pool))
        staged: list[tuple[MozFetch, Future[_Staged]]] = []
        for artifact in artifacts:
            staged.append((artifact, pool.submit(_stage, run, artifact, trust)))
        for artifact, future in staged:
            future.result().merge(artifact)


def _shut_down(run: Run, pool: ThreadPoolExecutor, kind: type[BaseException] | None, *_: object) -> None:
    """Cancel the threads and wait for them; after a signal, do not wait."""
    run.progress.cancel()
    pool.shutdown(wait=kind is None or issubclass(kind, Exception), cancel_futures=True)


@dataclass(frozen=True)
class _Staged:
    """An artifact that is ready to be merged; `close` removes its staging directory."""

    tree: Path
    close: Callable[[], None]

    def merge(self, artifact: MozFetch) -> None:
        """Move the tree into the artifact's directory; its files replace existing ones."""
        try:
            merge(self.tree, artifact.directory, self.tree.parent)
        finally:
            self.close()


def _stage(run: Run, artifact: MozFetch, trust: _TrustChains) -> _Staged:
    """Fetch one artifact and extract or copy it to a staging directory beside its destination."""
    begun = time.monotonic()
    url = redacted(artifact.url)
    digest = trust.digest_of(artifact) if artifact.trust else None
    limit = run.settings.limits.max_total_bytes
    asked = UnverifiedRequest(name=artifact.name, urls=(artifact.url,), limit=limit, digest=digest)
    integrity = run.unpinned.obtain(asked, run.progress)
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
    with run.store.open(integrity) as file:
        kind = kind_of(file, artifact.file_name, limits) if artifact.delivery == "extract" else None
        if kind is None:
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
    settle(tree, time.time_ns())
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
        with run.store.open(run.unpinned.obtain(asked, run.progress)) as file:
            try:
                listed = json.loads(file.read())["artifacts"]
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise DamagedArchiveError(
                    archive="chain-of-trust.json", reason=f"cannot read `artifacts`: {error}", code="WRONG_FORMAT"
                ) from error
        return listed if isinstance(listed, dict) else {}
