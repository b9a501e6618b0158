"""Read a blob from the shared stores, which are asked before the origin and its mirrors.

A store is one more source: the same partial file, Range resume, measurement and quarantine. It is never waited for, and
asked again only while its answers bring the content forward.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from tasks_lib import recipe
from tasks_lib.cache import Cache, Result
from tasks_lib.cache.results import Provenance
from tasks_lib.digest import Integrity
from tasks_lib.download.attempt import Reader, _Details
from tasks_lib.download.hosts import Hosts
from tasks_lib.download.source_state import Assembly, Download, SourceState
from tasks_lib.errors import FetchError, HttpStatusError, IntegrityError, StoreError, TransportError
from tasks_lib.network import Policy
from tasks_lib.platforms import ANY_PLATFORM
from tasks_lib.progress import FailedSource, Progress
from tasks_lib.retry import Retry
from tasks_lib.store import blob_key
from tasks_lib.store.fleet import Fleet, StoreMember
from tasks_lib.store.http import status_error, unavailable
from tasks_lib.store.records import recorded_origins
from tasks_lib.store.upload import Receivers
from tasks_lib.transport import Transport

#: Seconds allowed for reading an item of a directory, and for explaining wrong bytes.
_LOCAL_S: Final = 300.0


class StoreReader:
    """Reads blobs from the stores of a run; shared by all its threads."""

    def __init__(self, fleet: Fleet, cache: Cache, transport: Transport, policy: Policy, hosts: Hosts) -> None:
        self._fleet, self._cache, self._policy = fleet, cache, policy
        self._readers: Mapping[StoreMember, Reader] = {
            member: Reader(cache, member.store.transport or transport, policy, hosts) for member in fleet.members
        }

    def read(self, download: Download) -> tuple[StoreMember, _Details] | None:
        """Publish the content as a blob of the cache; return the store that had it, None if no store did.

        Raises:
            CacheUnavailableError: the cache cannot be written.
            CancelledError: the run was asked to stop.
        """
        integrity = download.wanted.integrity
        if integrity.digest.algorithm != "sha256":
            return None
        key = blob_key(integrity.digest.hex)
        for member in self._fleet.holders(key, download.progress):
            facts = self._from_one(download, member, key)
            if facts is not None:
                member.note_held(key)
                self._fleet.counts.add_read(member.name, integrity.size)
                return member, facts
        return None

    @property
    def trust(self) -> str:
        """Whose results are used."""
        return self._fleet.trust

    def note_origins(
        self,
        integrity: Integrity,
        known: Result | None,
        member: StoreMember,
        provenance: Provenance,
        progress: Progress,
    ) -> tuple[Result, tuple[str, ...]]:
        """Record a blob that came from a store, with the URLs of its record there; return the result and those URLs."""
        key = recipe.fetch_key(integrity)
        record = self._fleet.record_of(member, key, progress)
        urls = record.urls if record is not None and record.integrity == integrity else ()
        result = known or Result(key=key, integrity=integrity)
        origins = {**result.origins, **recorded_origins(urls)}
        if record is not None and not origins:
            origins = recorded_origins([member.name])  # bytes of an unknown origin: the URL has not confirmed them
        result = msgspec.structs.replace(result, provenance=provenance, origins=origins)
        self._cache.record(result)
        return result, urls

    def share(self, integrity: Integrity, urls: Sequence[str], receivers: Receivers) -> None:
        """Let the stores have a blob that this run obtained, if it writes to them."""
        if self._fleet.uploads is not None and integrity.digest.algorithm == "sha256":
            self._fleet.uploads.add(recipe.fetch_key(integrity), integrity, ANY_PLATFORM, urls, receivers)

    def _from_one(self, download: Download, member: StoreMember, key: str) -> _Details | None:
        try:
            if member.is_local and member.store.find(key) is None:
                member.note_missing(key)
                return None
            location = member.store.locate("GET", key)
        except StoreError as error:
            member.note_failure(key, error, download.progress)
            return None
        source = SourceState.of(location.url, Retry(self._policy, _total_s(member, download)))
        inner = dataclasses.replace(
            download,
            wanted=dataclasses.replace(download.wanted, urls=(location.url,), home=location.url),
            progress=StoreProgress(download.progress, member.name),
            headers=location.headers,
        )
        for _ in range(1 + self._policy.retries):
            before = download.partial.size
            source.assembly = Assembly.ONE_RESPONSE
            try:
                return self._readers[member].once(inner, source) | {"store": member.name}
            except (IntegrityError, TransportError) as error:
                failure = error
            if not _is_worth_another(inner, source, failure, before):
                break
        self._note(download, member, key, failure)
        return None

    def _note(self, download: Download, member: StoreMember, key: str, error: FetchError) -> None:
        """Remember why a store did not provide an item, and report it unless it only lacks the item."""
        member.note_missing(key)
        if isinstance(error, HttpStatusError):
            if error.status not in (404, 410):
                failed = status_error(member.name, error.status, error.message)
                member.note_failure(key, failed, download.progress)
        elif isinstance(error, TransportError) and not member.is_local and not download.partial.size:
            member.note_failure(key, unavailable(member.name, error), download.progress)
        else:
            line = " ".join(error.message.split())
            download.report.store(member.name, line)
            download.progress.failed_source(FailedSource("store", member.store.address.url, line))


def _is_worth_another(download: Download, source: SourceState, error: FetchError, before: int) -> bool:
    """Return whether the same store may still provide the item.

    Either bytes of another server or an earlier answer were continued and did not fit, or the connection broke after
    more bytes than before arrived.
    """
    partial = download.partial
    if isinstance(error, HttpStatusError) and error.status in (206, 416) and (partial.size or partial.is_split):
        partial.restart("")
        return source.restart()
    if isinstance(error, IntegrityError):
        return source.assembly is not Assembly.ONE_RESPONSE and source.restart()
    return isinstance(error, TransportError) and error.transient and partial.size > before


def _total_s(member: StoreMember, download: Download) -> float:
    transport = member.store.transport
    return transport.settings.total_s(download.wanted.integrity.size) if transport is not None else _LOCAL_S


class StoreProgress:
    """The progress of a download from a store: every phase names the store."""

    def __init__(self, progress: Progress, store: str) -> None:
        self._progress, self._store = progress, store
        self.advance, self.check = progress.advance, progress.check
        self.warn, self.failed_source = progress.warn, progress.failed_source

    def phase(self, name: str, **facts: str | int | float) -> None:
        """Report that a phase begins."""
        self._progress.phase(name, **facts, store=self._store)
