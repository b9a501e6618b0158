"""Sources: one blob from many places. Order, retries, resume, and a report of every attempt.

A wrong byte is never accepted whoever sent it; a failing source never hides what another one did.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from tasks_lib.digest import Integrity
from tasks_lib.errors import (
    AllSourcesFailedError,
    Attempt,
    HttpStatusError,
    IntegrityError,
    OfflineError,
    TransportError,
    escaped,
)
from tasks_lib.network import Policy as Policy  # a part of what this module offers
from tasks_lib.progress import Progress
from tasks_lib.store import Partial, Store
from tasks_lib.transport import CHUNK, Response, Transport, origin_of, redacted

#: Longest wait that a server can ask for, in seconds.
MAX_RETRY_AFTER_S: Final = 120.0
#: Longest backoff in seconds, and how much longer it is after 429 and 503.
_MAX_BACKOFF_S: Final = 30.0
_BUSY_FACTOR: Final = 4
#: Seconds between two looks at whether the run was asked to stop.
_NAP_S: Final = 0.1

Provenance = Mapping[str, str | int | float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to obtain: `urls` in order of preference; `headers` go to the origin of the first one only."""

    name: str
    integrity: Integrity
    urls: tuple[str, ...]
    headers: Mapping[str, str] = field(default_factory=dict)


class Sources:
    """Obtains blobs; remembers within one run which hosts are dead."""

    def __init__(
        self, store: Store, transport: Transport, policy: Policy, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._store, self._transport, self._policy, self._sleep = store, transport, policy, sleep
        self._dead: dict[tuple[str, str, int], str] = {}
        self._lock = threading.Lock()
        self._turns: dict[tuple[str, str, int], threading.Semaphore] = defaultdict(
            lambda: threading.Semaphore(policy.jobs_per_host)
        )

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
                return self._from_any(wanted, partial, progress)

    def _from_any(self, wanted: Wanted, partial: Partial, progress: Progress) -> Provenance:
        attempts: list[Attempt] = []
        begun = time.monotonic()
        for url in self._ordered(wanted.urls):
            source = _Source(wanted, url, {} if url != wanted.urls[0] else wanted.headers)
            found = self._from_one(source, partial, attempts, progress)
            if found is not None:
                return {**found, "seconds": round(time.monotonic() - begun, 3), "attempts": len(attempts) + 1}
        raise _failed(wanted, attempts, self._policy)

    def _ordered(self, urls: tuple[str, ...]) -> list[str]:
        """Return the sources with those on hosts known to be dead last."""
        with self._lock:
            dead = set(self._dead)
        return sorted(urls, key=lambda url: _origin(url) in dead)

    def _from_one(
        self, source: _Source, partial: Partial, attempts: list[Attempt], progress: Progress
    ) -> Provenance | None:
        """Try one source until it gives the content or there is no sense in asking again."""
        origin = _origin(source.url)
        if origin and self._policy.network == "off":
            attempts.append(Attempt(redacted(source.url), "not asked: offline"))
            return None
        with self._lock:
            retries = 0 if origin in self._dead else self._policy.retries
        attempt = 0
        while attempt <= retries:
            progress.check()
            resumed = partial.size > 0
            try:
                return self._once(source, partial, progress)
            except (IntegrityError, TransportError) as error:
                attempts.append(Attempt(redacted(source.url), error.message))
                # what was put together from two answers says nothing about this source yet
                spliced = resumed and isinstance(error, IntegrityError)
                wait_s = self._after(error, source, partial, 0 if spliced else attempt)
                if wait_s is None:
                    return None
                retries += spliced
            attempt += 1
            if attempt <= retries:
                progress.phase("wait", url=redacted(source.url), seconds=round(wait_s, 1))
                self._nap(wait_s, progress)
        self._remember_dead(source, attempts)
        return None

    def _after(
        self, error: IntegrityError | TransportError, source: _Source, partial: Partial, attempt: int
    ) -> float | None:
        """Return the seconds to wait before the same source is asked again, None to leave it."""
        if isinstance(error, TransportError):
            if isinstance(error, HttpStatusError) and error.status in (206, 416) and partial.size:
                partial.restart("")  # what was there does not fit to what the server has: begin anew
                return 0.0
            return self._backoff_s(attempt, error) if error.transient else None
        if partial.size:
            partial.quarantine(f"{redacted(source.url)}: {error.message}")
        # one more request from the first byte: the damage may have happened on the way
        return 0.0 if attempt == 0 and _origin(source.url) else None

    def _remember_dead(self, source: _Source, attempts: list[Attempt]) -> None:
        origin = _origin(source.url)
        if origin:
            with self._lock:
                self._dead[origin] = attempts[-1].reason

    def _backoff_s(self, attempt: int, error: TransportError | None) -> float:
        """Return seconds to wait: full jitter, and never less than the server asks for.

        Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
        """
        busy = isinstance(error, HttpStatusError) and error.status in (429, 503)
        ceiling = min(_MAX_BACKOFF_S, self._policy.backoff_s * 2**attempt) * (_BUSY_FACTOR if busy else 1)
        asked = error.retry_after_s if isinstance(error, HttpStatusError) and error.retry_after_s else 0.0
        return max(random.uniform(0, ceiling), min(asked, MAX_RETRY_AFTER_S))

    def _nap(self, seconds: float, progress: Progress) -> None:
        while seconds > 0:
            progress.check()
            self._sleep(min(seconds, _NAP_S))
            seconds -= _NAP_S

    def _once(self, source: _Source, partial: Partial, progress: Progress) -> Provenance:
        """Read one answer to its end and publish it.

        Raises:
            IntegrityError: the content is not the promised one.
            TransportError: it did not arrive.
        """
        resumed = 0
        if not _origin(source.url):
            facts: dict[str, str | int | float] = {"url": source.url}
            self._read_file(source, partial, progress)
        else:
            with self._turn(source.url), self._asked(source, partial, progress) as response:
                resumed = response.start
                facts = {"url": response.url}
                if "Date" in response.headers:
                    facts["server_date"] = escaped(response.headers["Date"][:64])
                self._read_body(response, partial, progress)
                if partial.size < source.wanted.integrity.size:
                    partial_of = f"{partial.size} of {source.wanted.integrity.size} bytes"
                    raise TransportError(f"the connection ended after {partial_of}", transient=True)
                with _explained(response):
                    partial.verify()
        progress.phase("verify")
        self._store.finish(partial)
        return facts | ({"resumed": resumed} if resumed else {})

    @contextlib.contextmanager
    def _turn(self, url: str) -> Iterator[None]:
        with self._lock:
            turn = self._turns[origin_of(url)]
        with turn:
            yield

    @contextlib.contextmanager
    def _asked(self, source: _Source, partial: Partial, progress: Progress) -> Iterator[Response]:
        size = source.wanted.integrity.size
        offset = partial.size if partial.validator and 0 < partial.size < size else 0
        progress.phase("connect", url=redacted(source.url), total=size)
        with self._transport.open(
            source.url, headers=source.headers, size=size, offset=offset, validator=partial.validator
        ) as response:
            if response.start == 0:
                partial.restart(response.validator)
            progress.phase("body", url=response.url, total=size, resumed=response.start)
            yield response

    def _read_body(self, response: Response, partial: Partial, progress: Progress) -> None:
        # one byte more than promised is enough to know that it is too long
        for chunk in response.chunks(partial.expected.size + 1 - partial.size):
            partial.append(chunk)
            progress.advance(len(chunk))
            progress.check()

    def _read_file(self, source: _Source, partial: Partial, progress: Progress) -> None:
        path = Path(unquote(urlsplit(source.url).path))
        partial.restart("")
        progress.phase("body", url=source.url, total=source.wanted.integrity.size)
        try:
            with path.open("rb") as file:
                while partial.size <= partial.expected.size:
                    chunk = file.read(min(CHUNK, partial.expected.size + 1 - partial.size))
                    if not chunk:
                        break
                    partial.append(chunk)
                    progress.advance(len(chunk))
                    progress.check()
        except OSError as error:
            raise TransportError(f"cannot read the file: {error.strerror or error}") from error


@dataclass(frozen=True, slots=True)
class _Source:
    wanted: Wanted
    url: str
    headers: Mapping[str, str]


def _origin(url: str) -> tuple[str, str, int] | None:
    """Return the origin of a network URL, None for a file."""
    return None if url.lower().startswith("file:") else origin_of(url)


@contextlib.contextmanager
def _explained(response: Response) -> Iterator[None]:
    """Say what the server did on top, which explains most mismatches."""
    try:
        yield
    except IntegrityError as error:
        if response.encoding:
            error.message += f"; the server applied Content-Encoding {escaped(response.encoding[:40])}"
        raise


def _failed(wanted: Wanted, attempts: list[Attempt], policy: Policy) -> AllSourcesFailedError | OfflineError:
    """Return the error that tells every source with its last reason, in one line."""
    last = {attempt.url: attempt.reason for attempt in attempts}
    told = "; ".join(f"{url}: {reason}" for url, reason in last.items())
    if policy.network == "off" and all(reason == "not asked: offline" for reason in last.values()):
        return OfflineError(f"{wanted.name}: not in the cache, and the network is off", hint="run once without offline")
    return AllSourcesFailedError(
        f"{wanted.name}: no source gave {wanted.integrity}\n{told}",
        attempts=tuple(attempts),
        hint="add a mirror to the definition, or correct its size and sha256 after a review of the content",
    )
