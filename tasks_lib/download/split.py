"""Pace: whether a download comes so slowly that more connections would bring it sooner, and who would make them.

One connection when in doubt: the server must promise ranges and name the version strongly, the network (not our disk)
must be what is waited for, and the host must have connections to spare.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from tasks_lib.download.hosts import Hosts
from tasks_lib.download.request import network_origin
from tasks_lib.download.source_state import Download, SourceState
from tasks_lib.errors import CancelledError, HttpStatusError, TransportError
from tasks_lib.network import Policy
from tasks_lib.retry import is_busy
from tasks_lib.transport import Response, Transport

#: Least and largest bytes of a piece: large enough that a request costs little, small enough to be fetched again.
LEAST_PIECE: Final = 2 << 20
_LARGEST_PIECE: Final = 64 << 20
#: Pieces that each connection gets, so that a slow one holds nobody up.
_PIECES_EACH: Final = 8
#: Seconds of watching before a judgement, and seconds that must be left for it to matter.
_LOOK_S: Final = 0.1
_WORTH_S: Final = 2.0
#: Connections that one of several downloads from a host must be able to have for a split to pay.
_LEAST_SHARE: Final = 4
#: Other places that are asked for pieces too.
_MAX_MIRRORS: Final = 3


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """Who fetches pieces: URLs, one a connection, each with what gives its turn back; and the size of a piece."""

    members: tuple[tuple[str, Callable[[], None]], ...]
    piece: int

    @classmethod
    def of(cls, download: Download, source: SourceState, policy: Policy, hosts: Hosts) -> SplitPlan:
        """Return the source's own connection and as many more as may be spared, mirrors in turn with it."""
        left = download.partial.expected.size - download.partial.size
        running = hosts.running(source.origin) if source.origin else 1
        share = policy.connections // max(1, running)  # several downloads are several connections already
        most = min(share if share >= _LEAST_SHARE else 1, -(-left // LEAST_PIECE))
        found: list[tuple[str, Callable[[], None]]] = [(source.url, lambda: None)]  # its turn is held already
        for url in _in_turns(_places(download, source, hosts), most - 1):
            origin = network_origin(url)
            free = hosts.spare_turn(origin) if origin else None
            if free is not None:
                found.append((url, free))
        piece = min(_LARGEST_PIECE, max(LEAST_PIECE, left // (len(found) * _PIECES_EACH)))
        return cls(tuple(found), piece)


def _places(download: Download, source: SourceState, hosts: Hosts) -> list[str]:
    wanted = download.wanted
    if wanted.strict:
        return [source.url]
    digest = str(wanted.integrity.digest)
    others = [
        url
        for url in hosts.ordered(wanted.allowed)
        if url != source.url
        and network_origin(url)
        and not hosts.is_suspect(url)
        and not hosts.known_wrong(url, digest)
    ]
    return [source.url, *others[:_MAX_MIRRORS]]


def _in_turns(places: list[str], count: int) -> Iterator[str]:
    for number in range(count):
        yield places[(number + 1) % len(places)]


class SlowDownloadError(Exception):
    """The download is left to a crew; not a failure."""

    def __init__(self, crew: SplitPlan) -> None:
        super().__init__("more connections would be faster")
        self.crew = crew


class RateMonitor:
    """Called in every wait of a download; raises `SlowDownloadError` once a crew is worth its connections."""

    def __init__(self, download: Download, source: SourceState, policy: Policy, hosts: Hosts) -> None:
        self._download, self._source, self._policy, self._hosts = download, source, policy, hosts
        self._response: Response | None = None
        self._since = self._waited = 0.0
        self._size = 0

    def begin(self, response: Response) -> None:
        """Watch the body of `response`, if it could be split at all."""
        partial, policy = self._download.partial, self._policy
        ranges = response.start > 0 or response.headers.get("Accept-Ranges", "").strip().lower() == "bytes"
        large = partial.expected.size - partial.size >= max(policy.split_size, 2 * LEAST_PIECE)
        if large and ranges and partial.validator and policy.connections > 1 and self._source.can_split:
            self._response = response
            self._since, self._size = time.monotonic(), partial.size

    def __call__(self) -> None:
        """Go on, or leave the rest to a crew.

        Raises:
            TooSlowError: a crew is worth it; its turns are held.
            CancelledError: the run was asked to stop.
        """
        self._download.progress.check()
        if self._response is None or not self._is_slow(self._response):
            return
        crew = SplitPlan.of(self._download, self._source, self._policy, self._hosts)
        if len(crew.members) > 1:
            raise SlowDownloadError(crew)
        self._response = None

    def _is_slow(self, response: Response) -> bool:
        """Judge the last tenth of a second: mostly waited, and at this rate far from done."""
        now, partial = time.monotonic(), self._download.partial
        seconds = now - self._since
        if seconds < _LOOK_S:
            return False
        rate = (partial.size - self._size) / seconds
        waited_s = response.waited_s - self._waited
        self._since, self._size, self._waited = now, partial.size, response.waited_s
        left = partial.expected.size - partial.size
        return left >= 2 * LEAST_PIECE and waited_s > seconds / 2 and left > rate * _WORTH_S


#: Bytes per read of one of many connections.
_READ: Final = 256 << 10

Span = tuple[int, int]


@dataclass(slots=True)
class _Work:
    """What the crew shares: pieces to fetch, pieces that came, and what went wrong."""

    waiting: deque[Span]
    came: queue.SimpleQueue[Span | None] = field(default_factory=queue.SimpleQueue)
    stop: threading.Event = field(default_factory=threading.Event)
    errors: list[tuple[str, TransportError | OSError]] = field(default_factory=list)

    def check(self) -> None:
        if self.stop.is_set():
            raise CancelledError("the other connections stopped")

    def failure(self, url: str) -> TransportError | OSError:
        """Return why pieces are missing: our disk, else the source `url`; what a mirror did says nothing of either."""
        told = [error for place, error in self.errors if place == url or isinstance(error, OSError)]
        told.sort(key=lambda error: isinstance(error, TransportError))
        return next(iter(told), TransportError("the other connections did not bring the rest", transient=True))


class SplitDownload:
    """Fetches the missing pieces of a download over several connections."""

    def __init__(self, transport: Transport, policy: Policy, hosts: Hosts) -> None:
        self._transport, self._policy, self._hosts = transport, policy, hosts

    def run(self, download: Download, source: SourceState, crew: SplitPlan) -> int:
        """Bring all pieces, measured in order as they become whole; return the number of connections.

        Raises:
            HttpStatusError: a server answers with something else than the piece; begin anew.
            TransportError: every connection gave up; what came stays.
            OSError: the file system refused.
            CancelledError: the run was asked to stop.
        """
        work = _Work(deque(download.partial.split(crew.piece)))
        threads = [
            threading.Thread(target=self._worker, args=(download, source, url, work), name="piece", daemon=True)
            for url, _ in crew.members
        ]
        try:
            for thread in threads:
                thread.start()
            self._gather(download, work, len(threads))
            if download.partial.size < download.partial.expected.size:
                raise work.failure(source.url)
        finally:
            work.stop.set()
            for thread in threads:
                thread.join()
            for _, give_back in crew.members:
                give_back()
        return len(threads)

    @staticmethod
    def _gather(download: Download, work: _Work, running: int) -> None:
        """Mark and measure what comes until all is there, or nobody is left to bring it."""
        while download.partial.size < download.partial.expected.size:
            download.progress.check()
            try:
                span = work.came.get(timeout=_LOOK_S)
            except queue.Empty:
                continue
            if span is not None:
                download.partial.mark(span[0])
                continue
            running -= 1
            if not running and work.came.empty():
                break

    def _worker(self, download: Download, source: SourceState, url: str, work: _Work) -> None:
        """Fetch pieces as `_pieces`; that it ended is told however it did, since it is waited for."""
        try:
            with contextlib.suppress(CancelledError):
                self._pieces(download, source, url, work)
        finally:
            work.came.put(None)

    def _pieces(self, download: Download, source: SourceState, url: str, work: _Work) -> None:
        """Fetch pieces until none is left, or this place failed too often."""
        failures = 0
        while not work.stop.is_set() and failures <= self._policy.retries:
            try:
                span = work.waiting.popleft()
            except IndexError:
                break
            try:
                self._piece(download, source, url, span, work)
                failures = 0
            except (TransportError, OSError) as error:
                work.waiting.appendleft(span)
                work.errors.append((url, error))
                failures = self._failed(error, failures)

    def _failed(self, error: TransportError | OSError, failures: int) -> int:
        """Return the failures of a place after `error`; one that asking again at once does not mend counts as all."""
        mends = isinstance(error, TransportError) and error.transient and not is_busy(error)
        return failures + 1 if mends else self._policy.retries + 1

    def _piece(self, download: Download, source: SourceState, url: str, span: Span, work: _Work) -> None:
        begin, end = span
        partial = download.partial
        own = network_origin(url) == source.origin
        with self._transport.open(
            url,
            headers=download.wanted.headers_for(url),
            size=partial.expected.size,
            offset=begin,
            stop=end,
            validator=partial.validator if own else "",
            ends=source.retry.ends,
            check=work.check,
        ) as response:
            if response.status != 206 or response.start != begin:
                raise HttpStatusError(
                    "asked for a piece, got the whole: it changed, or ranges are not served", status=206
                )
            at = begin
            for chunk in response.chunks(end - begin, _READ):
                partial.write_at(at, chunk)
                at += len(chunk)
                download.progress.advance(len(chunk))
                work.check()
        if at != end:
            raise TransportError(f"a piece ended after {at - begin} of {end - begin} bytes", transient=True)
        work.came.put(span)
