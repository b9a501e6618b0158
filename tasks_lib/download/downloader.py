"""Download of one blob: ask source after source until one yields the promised bytes.

The steps of a download, in order, each with the module that does it:

1. Check the local cache. The caller decides from it whether to download (`needs_network`); `obtain` checks again after
   it has locked the digest, because another process may have published the blob meanwhile (`cache`). A cached blob that
   came from other URLs is confirmed by one download (docs/decisions/0066-origins-of-a-result.md).
2. Order the sources: as in the definition, with hosts that did not answer lately last, unless the mirror rules fix
   the order (`hosts`). Yield them one by one (`retry.rounds`).
3. Skip a source when the network is off or the URL served other content in this run (`downloader`, `hosts`).
4. Attempt: read a local file (`fs.local_urls`), or wait for a connection to the host (`hosts`) and send one request
   (`attempt`, `transport`).
5. Resume: continue the partial download of an earlier attempt or run, by `Range` and validator (`attempt`,
   `cache.partial`).
6. Split: move a slow download to several connections (`split`).
7. Verify size and digest (`cache.partial`). Diagnose and quarantine wrong bytes (`attempt`, `diagnosis`), publish
   right ones as a blob (`cache`).
8. Retry: restart, ask the same source again after a wait, postpone it until the other sources were asked, or leave it
   (`downloader`, `retry`).
9. Record the provenance and the URLs in the result of the content, and return the provenance (`downloader`), or raise
   one error that lists every attempt (`source_state`).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from tasks_lib import recipe
from tasks_lib.cache import Cache, Result
from tasks_lib.cache.results import Provenance
from tasks_lib.digest import Integrity
from tasks_lib.download.attempt import Reader, _Details
from tasks_lib.download.hosts import Hosts
from tasks_lib.download.source_state import Assembly, AttemptLog, Download, Mode, Purpose, Request, SourceState
from tasks_lib.errors import DigestMismatchError, HttpStatusError, IntegrityError, TransportError
from tasks_lib.fs.local_urls import is_local_file
from tasks_lib.network import Policy
from tasks_lib.progress import FailedSource, Progress
from tasks_lib.retry import Retry, is_unresponsive, iterate_sources
from tasks_lib.transport import Transport, redacted

if TYPE_CHECKING:
    from tasks_lib.download.from_stores import StoreReader
    from tasks_lib.store.fleet import Fleet, StoreMember


class Downloader:
    """Downloads blobs; remembers for one run which hosts are dead and which URLs serve wrong content."""

    def __init__(
        self,
        cache: Cache,
        transport: Transport,
        policy: Policy,
        sleep: Callable[[float], None] = time.sleep,
        fleet: Fleet | None = None,
    ) -> None:
        self._cache, self._transport, self._policy, self._sleep = cache, transport, policy, sleep
        self._hosts = Hosts(policy.jobs_per_host)
        self._reader = Reader(cache, transport, policy, self._hosts)
        self._stores: StoreReader | None = None
        if fleet is not None:
            from tasks_lib.download.from_stores import StoreReader  # slow to import, needed only with a store

            self._stores = StoreReader(fleet, cache, transport, policy, self._hosts)

    def needs_network(self, wanted: Request) -> bool:
        """Whether neither the cache nor a local file has the content; opens no socket."""
        if self._cache.has(wanted.integrity):
            return False
        return not any(map(is_local_file, wanted.allowed))

    def obtain(self, wanted: Request, progress: Progress) -> Provenance:
        """Download the blob into the cache, record and return its provenance; {} when the cache already has it.

        A blob in the cache that came from other URLs than that of the definition is downloaded once more, to confirm
        it. If that URL cannot be reached, a warning says so.

        Raises:
            AllSourcesFailedError: no source provided the content, or the URL of the definition has other content than
                the cache; lists every attempt.
            OfflineError: the network is off and no local source has the content.
            CacheUnavailableError: the cache cannot be written.
            CancelledError: the run was asked to stop.
            SettingError, DefinitionError: raised by `wanted.headers`.
        """
        with self._cache.lock(wanted.integrity.digest.hex, progress, wanted.name):
            known = self._cache.result(recipe.fetch_key(wanted.integrity))
            if self._cache.has(wanted.integrity):
                return {} if known is None else self._confirm(wanted, known, progress)
            with self._cache.partial(wanted.integrity) as partial:
                download = Download(wanted, partial, progress, AttemptLog(wanted), {})
                if known is None and (self._stores is None or self._stores.trust == "none"):
                    partial.artifact = wanted.artifact  # no other URL is known that would have to be confirmed
                held = self._from_store(download)
                if held is None:
                    download.headers, partial.artifact = wanted.headers(), wanted.artifact
                    found = self._from_any(download)
            if held is not None:
                return self._adopt(wanted, known, *held, progress)
            if found is None:
                raise download.report.failure()
            return self._record(wanted, known, *found)

    def obtain_from_stores(
        self, name: str, integrity: Integrity, progress: Progress, note: Literal["origins", "nothing"] = "nothing"
    ) -> bool:
        """Bring a blob from a store into the cache, without its origin; return whether the cache has it now.

        For the content of a definition, `note` its origins: a later run confirms it if its URL is not one of them.

        Raises:
            CacheUnavailableError, CancelledError: as `obtain`.
        """
        if self._cache.has(integrity):
            return True
        with self._cache.lock(integrity.digest.hex, progress, name):
            if self._cache.has(integrity):
                return True
            wanted = Request(name=name, integrity=integrity, urls=(name,))
            with self._cache.partial(integrity) as partial:
                held = self._from_store(Download(wanted, partial, progress, AttemptLog(wanted), {}))
            if self._stores is not None and held is not None and note == "origins":
                known = self._cache.result(recipe.fetch_key(integrity))
                self._stores.note_origins(integrity, known, *held, progress)
            return held is not None

    def _from_store(self, download: Download) -> tuple[StoreMember, Provenance] | None:
        """Read the blob from the first store that has it; let the stores before that one have it, too."""
        begun = time.monotonic()
        held = self._stores.read(download) if self._stores is not None else None
        if held is None:
            return None
        member, facts = held
        return member, _build_provenance(facts, download, begun)

    def _adopt(
        self, wanted: Request, known: Result | None, member: StoreMember, provenance: Provenance, progress: Progress
    ) -> Provenance:
        """Record a blob that came from a store; confirm it if the store knows other URLs than the definition's.

        Raises:
            AllSourcesFailedError: the URL of the definition has other content.
            CacheUnavailableError, CancelledError: as `obtain`.
        """
        assert self._stores is not None, "a store had the blob"
        result, urls = self._stores.note_origins(wanted.integrity, known, member, provenance, progress)
        self._stores.share(wanted.integrity, urls, "lacking")
        return self._confirm(wanted, result, progress) or provenance

    def _record(self, wanted: Request, known: Result | None, place: str, provenance: Provenance) -> Provenance:
        """Record that the content came from `place` for the URL of the definition; return the provenance."""
        result = known or Result(key=recipe.fetch_key(wanted.integrity), integrity=wanted.integrity)
        origins = {url: redacted(url) for url in dict.fromkeys((place, wanted.written))}
        self._cache.record(result.with_origins(provenance, origins))
        if self._stores is not None:
            self._stores.share(wanted.integrity, [wanted.written], "all")
        return provenance

    def _confirm(self, wanted: Request, known: Result, progress: Progress) -> Provenance:
        """Download content that the cache has, if it came from other URLs; return the provenance, {} if not downloaded.

        Content-addressed URLs and those that the result names are not asked: they have the cached content in any case.

        Raises:
            AllSourcesFailedError: the URL of the definition has other content.
            CacheUnavailableError, CancelledError: as `obtain`.
        """
        if not known.is_due(wanted.written, time.time()):
            return {}
        if known.has_origin(wanted.named[0] if wanted.named else ""):  # mirrors.yml rewrites the URL to a known place
            return self._record(wanted, known, wanted.named[0], known.provenance)
        unknown = tuple(url for url in wanted.named if not known.has_origin(url))
        headers = wanted.headers()
        with self._cache.partial(wanted.integrity) as partial:
            request = dataclasses.replace(wanted, urls=unknown, home=wanted.written)
            download = Download(request, partial, progress, AttemptLog(request), headers, Purpose.CONFIRM)
            found = self._from_any(download)
        if found is not None:
            return self._record(wanted, known, *found)
        if download.report.has_wrong_content:
            raise download.report.contradiction(known.origin)
        if not download.report.is_offline:
            self._cache.record(known.with_unreached(wanted.written, time.time()))
        progress.warn(download.report.describe_unconfirmed(known.origin))
        progress.phase("adopt")
        return {}

    def _from_any(self, download: Download) -> tuple[str, Provenance] | None:
        """Ask source after source, then the postponed ones again; return the URL that answered, and the provenance."""
        begun = time.monotonic()
        wanted = download.wanted
        total_s = self._transport.settings.total_s(wanted.integrity.size)
        is_fixed = wanted.strict or download.purpose is Purpose.CONFIRM
        urls = wanted.allowed if is_fixed else self._hosts.ordered(wanted.allowed)
        sources = [SourceState.of(url, Retry(self._policy, total_s, self._sleep)) for url in urls]
        for number, others in iterate_sources([source.retry for source in sources], download.progress):
            source = sources[number]
            found = self._from_one(download, source, 0 if wanted.strict else others)
            if found is not None:
                self._report_failed(download, sources, source)
                return source.url, _build_provenance(found, download, begun)
            if source.url in wanted.strict and source.error is not None and not source.was_missing():
                break
            if download.purpose is Purpose.CONFIRM and download.report.has_wrong_content:
                break
        for url, why in wanted.refused.items():
            download.report.refused(url, why)
        return None

    def _from_one(self, download: Download, source: SourceState, others: int) -> _Details | None:
        """Attempt one source until it succeeds or must not be retried; `others` sources were not asked yet."""
        if self._is_skipped(download, source):
            return None
        again = True
        while again:
            download.progress.check()
            source.assembly = Assembly.ONE_RESPONSE
            try:
                return self._reader.once(download, source)
            except (IntegrityError, TransportError) as error:
                source.error = failure = error
            again = self._again(download, source, failure, others)
            download.report.add(source.url, failure)
        return None

    def _is_skipped(self, download: Download, source: SourceState) -> bool:
        if source.origin is not None and self._policy.network == "off":
            download.report.offline(source.url)
            return True
        reason = self._hosts.known_wrong(source.url, str(download.wanted.integrity.digest))
        if reason:
            download.report.known_wrong(source.url, reason)
            source.error = IntegrityError(reason)
        return bool(reason)

    def _again(
        self, download: Download, source: SourceState, error: IntegrityError | TransportError, others: int
    ) -> bool:
        """Return whether to ask the same source again, after any necessary wait."""
        if isinstance(error, IntegrityError):
            return self._after_mismatch(download, source, error)
        there = download.partial.size > 0 or download.partial.is_split
        if there and isinstance(error, HttpStatusError) and error.status in (206, 416):
            # the partial download does not match the server's content: restart once
            download.partial.restart("")
            return source.restart()
        if error.transient and self._after_failure(download, source, error, others):
            return True
        retry = source.retry
        if source.assembly is Assembly.SPLIT and not retry.is_postponed and retry.left_s > 0:
            source.mode = Mode.ONE_CONNECTION  # a server that refuses ranges or many connections may serve one
            return True
        return False

    def _after_mismatch(self, download: Download, source: SourceState, error: IntegrityError) -> bool:
        """Restart once: the content may have been damaged in transit, or by joining two responses."""
        if source.assembly is not Assembly.ONE_RESPONSE and source.restart():
            return True
        if isinstance(error, DigestMismatchError) and source.origin and source.retry.once_more():
            return True
        self._hosts.wrong(source.url, str(download.wanted.integrity.digest), error.message)
        return False

    def _after_failure(self, download: Download, source: SourceState, error: TransportError, others: int) -> bool:
        origin = source.origin
        assert origin is not None
        if is_unresponsive(error):
            self._hosts.suspect(origin, error.message)
        if source.retry.is_used_up or self._hosts.is_dead(origin):
            self._hosts.dead(origin, error.message)
            return False
        return source.retry.again(error, download.progress, redacted(source.url), others)

    def _report_failed(self, download: Download, sources: list[SourceState], used: SourceState) -> None:
        """Report the sources that failed before the one that was used, and an origin whose host did not respond.

        A mirror that does not have the file has not failed.
        """
        for source in sources:
            is_origin = source.url == download.wanted.written
            unasked = self._hosts.why_suspect(source.origin) if is_origin and source.error is None else ""
            reason = source.error.message if source.error is not None else unasked
            if source is used or not reason or (source.was_missing() and not is_origin):
                continue
            url = redacted(source.url)
            line = " ".join(reason.split()).removeprefix(f"{urlsplit(url).netloc}: ")
            download.progress.failed_source(FailedSource("origin" if is_origin else "mirror", url, line))


def _build_provenance(facts: _Details, download: Download, begun: float) -> Provenance:
    return {**facts, "seconds": round(time.monotonic() - begun, 3), "attempts": len(download.report) + 1}
