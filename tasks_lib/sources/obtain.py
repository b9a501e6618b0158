"""Obtaining: every source in order, each with its attempts, until one gave the promised bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from tasks_lib.errors import (
    DigestMismatchError,
    FetchError,
    HttpStatusError,
    IntegrityError,
    StalledError,
    TransportError,
    UnreachableError,
)
from tasks_lib.interpreter import waiting
from tasks_lib.network import Policy
from tasks_lib.progress import Progress
from tasks_lib.sources.attempt import Facts, Reader
from tasks_lib.sources.hosts import Hosts
from tasks_lib.sources.hunt import Hunt, Trial
from tasks_lib.sources.local import is_at_hand
from tasks_lib.sources.report import Report
from tasks_lib.sources.wait import wait_s
from tasks_lib.sources.wanted import Provenance, Wanted
from tasks_lib.store import Store
from tasks_lib.transport import Transport, redacted

#: Seconds between two looks at whether the run was asked to stop.
_NAP_S: Final = 0.1
#: Seconds that are waited for one source while another was not asked yet.
_PATIENCE_S: Final = 10.0


class Sources:
    """Obtains blobs; remembers within one run which hosts are dead and which URLs serve other content."""

    def __init__(
        self, store: Store, transport: Transport, policy: Policy, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._store, self._transport, self._policy, self._sleep = store, transport, policy, sleep
        self._hosts = Hosts(policy.jobs_per_host)
        self._reader = Reader(store, transport, policy, self._hosts)

    def needs_network(self, wanted: Wanted) -> bool:
        """Whether neither the store nor a local file holds it; opens no socket."""
        if self._store.has(wanted.integrity):
            return False
        return not any(map(is_at_hand, wanted.allowed))

    def obtain(self, wanted: Wanted, progress: Progress) -> Provenance:
        """Make the store hold what is wanted, and return where it came from; {} when it was there.

        Raises:
            AllSourcesFailedError: no source gave it; holds every attempt.
            OfflineError: the network is off and no local source gave it.
            StoreUnavailableError: the cache cannot be written.
            CancelledError: the run was asked to stop.
        """
        with self._store.lock(wanted.integrity.digest.hex, progress):
            if self._store.has(wanted.integrity):
                return {}
            with self._store.partial(wanted.integrity) as partial:
                return self._from_any(Hunt(wanted, partial, progress, Report(wanted)))

    def _from_any(self, hunt: Hunt) -> Provenance:
        """Ask source after source; those that are not worth waiting for get their rest when all were asked."""
        begun = time.monotonic()
        strict = hunt.wanted.strict
        urls = list(hunt.wanted.allowed) if strict else self._hosts.ordered(hunt.wanted.allowed)
        trials = [Trial.of(url, self._policy.retries) for url in urls]
        postponed: list[Trial] = []
        for number, trial in enumerate(trials, 1):
            found = self._from_one(hunt, trial, () if strict else trials[number:])
            if found is not None:
                return _provenance(found, hunt, begun)
            if trial.postponed:
                postponed.append(trial)
            if trial.url in strict and trial.error is not None and not trial.was_missing():
                break
        for trial in postponed:
            found = self._from_one(hunt, trial, ())
            if found is not None:
                return _provenance(found, hunt, begun)
        for url, why in hunt.wanted.refused.items():
            hunt.report.refused(url, why)
        raise hunt.report.failure()

    def _from_one(self, hunt: Hunt, trial: Trial, others: Sequence[Trial]) -> Facts | None:
        """Try one source until it gives the content, or asking again makes no sense; `others` were not asked yet."""
        if self._is_skipped(hunt, trial):
            return None
        trial.postponed = False
        while True:
            hunt.progress.check()
            trial.spliced = trial.shared = False
            try:
                return self._reader.once(hunt, trial)
            except (IntegrityError, TransportError) as error:
                pause_s = self._after(hunt, trial, error, others)
            trial.attempts += 1
            if pause_s is None:
                return None
            if pause_s:
                why = trial.error.message if trial.error else ""
                hunt.progress.phase("wait", url=redacted(trial.url), seconds=round(pause_s, 1), reason=why)
                self._nap(pause_s, hunt.progress)

    def _is_skipped(self, hunt: Hunt, trial: Trial) -> bool:
        if trial.origin is not None and self._policy.network == "off":
            hunt.report.offline(trial.url)
            return True
        reason = self._hosts.known_wrong(trial.url, str(hunt.wanted.integrity.digest))
        if reason:
            hunt.report.known_wrong(trial.url, reason)
        return bool(reason)

    def _after(self, hunt: Hunt, trial: Trial, error: FetchError, others: Sequence[Trial]) -> float | None:
        """Return the seconds to wait before the same source is asked again, None to leave it."""
        trial.error = error
        hunt.report.add(trial.url, error)
        if isinstance(error, IntegrityError):
            return self._after_mismatch(hunt, trial, error)
        assert isinstance(error, TransportError)
        there = hunt.partial.size > 0 or hunt.partial.is_split
        if there and isinstance(error, HttpStatusError) and error.status in (206, 416):
            # what was there does not fit to what the server has: begin anew, once
            hunt.partial.restart("")
            trial.restarts += 1
            return 0.0 if trial.restarts == 1 else None
        pause_s = self._after_failure(trial, error, others) if error.transient else None
        if pause_s is None and trial.shared and not trial.alone and time.monotonic() < trial.ends:
            trial.alone = True  # a server that refuses many connections, or parts, may well give the rest to one
            return 0.0
        return pause_s

    def _after_mismatch(self, hunt: Hunt, trial: Trial, error: IntegrityError) -> float | None:
        """Begin anew once: the damage may have been done on the way, or by putting two answers together."""
        if trial.spliced and not trial.restarts:
            trial.restarts += 1
            return 0.0
        if isinstance(error, DigestMismatchError) and trial.origin and not trial.mismatches and trial.retries:
            trial.mismatches += 1
            trial.retries -= 1
            return 0.0
        self._hosts.wrong(trial.url, str(hunt.wanted.integrity.digest), error.message)
        return None

    def _after_failure(self, trial: Trial, error: TransportError, others: Sequence[Trial]) -> float | None:
        origin = trial.origin
        assert origin is not None
        silent = isinstance(error, StalledError | UnreachableError)
        if silent:
            self._hosts.suspect(origin)
        if trial.retries <= 0 or self._hosts.is_dead(origin):
            self._hosts.dead(origin)
            return None
        pause_s = wait_s(self._policy, trial.attempts, error)
        if others and (silent or pause_s > _PATIENCE_S):
            trial.postpone()
            return None
        if time.monotonic() + pause_s >= trial.ends:
            return None
        trial.retries -= 1
        return pause_s

    def _nap(self, seconds: float, progress: Progress) -> None:
        while seconds > 0:
            progress.check()
            with waiting:
                self._sleep(min(seconds, _NAP_S))
            seconds -= _NAP_S


def _provenance(facts: Facts, hunt: Hunt, begun: float) -> Provenance:
    return {**facts, "seconds": round(time.monotonic() - begun, 3), "attempts": len(hunt.report) + 1}
