"""Split downloads: detect a slow download, and fetch the rest of it over several connections.

When in doubt, use one connection. A split requires that the server supports ranges and sends a strong validator, that
the network and not the local disk is the bottleneck, and that the host has free connections.
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

from tasks_lib.cache import Partial
from tasks_lib.cache.pieces import Span
from tasks_lib.download.hosts import Hosts
from tasks_lib.download.source_state import Download, SourceState, network_origin
from tasks_lib.errors import CancelledError, HttpStatusError, TransportError
from tasks_lib.network import Policy
from tasks_lib.retry import is_busy
from tasks_lib.transport import Response, Transport

#: Least and largest size of a piece in bytes: large enough that a request costs little, small enough to fetch again.
LEAST_PIECE: Final = 2 << 20
_LARGEST_PIECE: Final = 64 << 20
#: Pieces per connection, so that a slow connection does not delay the others.
_PIECES_EACH: Final = 8
#: Seconds between two measurements of the rate, and the least estimated remaining seconds for a split.
_LOOK_S: Final = 0.1
_WORTH_S: Final = 2.0
#: Least connections per download for a split to pay when several downloads from a host are running.
_LEAST_SHARE: Final = 4
#: Most mirrors that are also asked for pieces.
_MAX_MIRRORS: Final = 3


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """The connections of a split download, each a URL and the function that releases it, and the size of a piece."""

    members: tuple[tuple[str, Callable[[], None]], ...]
    piece: int

    @classmethod
    def of(cls, download: Download, source: SourceState, policy: Policy, hosts: Hosts) -> SplitPlan:
        """Return a plan with the source's own connection and the free extra ones, alternating source and mirrors."""
        left = download.partial.expected.size - download.partial.size
        running = hosts.running(source.origin) if source.origin else 1
        share = policy.connections // max(1, running)  # each running download already has a connection
        most = min(share if share >= _LEAST_SHARE else 1, -(-left // LEAST_PIECE))
        found: list[tuple[str, Callable[[], None]]] = [(source.url, lambda: None)]  # the caller holds this connection
        for url in _alternate(_find_urls(download, source, hosts), most - 1):
            origin = network_origin(url)
            free = hosts.take_spare_connection(origin) if origin else None
            if free is not None:
                found.append((url, free))
        piece = min(_LARGEST_PIECE, max(LEAST_PIECE, left // (len(found) * _PIECES_EACH)))
        return cls(tuple(found), piece)


def _find_urls(download: Download, source: SourceState, hosts: Hosts) -> list[str]:
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


def _alternate(places: list[str], count: int) -> Iterator[str]:
    for number in range(count):
        yield places[(number + 1) % len(places)]


class SlowDownloadError(Exception):
    """The download should be split; not a failure."""

    def __init__(self, plan: SplitPlan) -> None:
        super().__init__("more connections would be faster")
        self.plan = plan


class RateMonitor:
    """Checks the rate in every wait of a download; raises `SlowDownloadError` once a split is worthwhile."""

    def __init__(self, download: Download, source: SourceState, policy: Policy, hosts: Hosts) -> None:
        self._download, self._source, self._policy, self._hosts = download, source, policy, hosts
        self._response: Response | None = None
        self._since = self._waited = 0.0
        self._size = 0

    def begin(self, response: Response) -> None:
        """Monitor the body of `response` if the download can be split."""
        partial, policy = self._download.partial, self._policy
        ranges = response.start > 0 or response.headers.get("Accept-Ranges", "").strip().lower() == "bytes"
        large = partial.expected.size - partial.size >= max(policy.split_size, 2 * LEAST_PIECE)
        if large and ranges and partial.validator and policy.connections > 1 and self._source.can_split:
            self._response = response
            self._since, self._size = time.monotonic(), partial.size

    def __call__(self) -> None:
        """Return if the rate is sufficient or no connection is free; let a kill lose no more than the last moment.

        Raises:
            SlowDownloadError: a split is worthwhile; the connections of its plan are held.
            CancelledError: the run was asked to stop.
        """
        self._download.progress.check()
        self._download.partial.keep()
        if self._response is None or not self._is_slow(self._response):
            return
        plan = SplitPlan.of(self._download, self._source, self._policy, self._hosts)
        if len(plan.members) > 1:
            raise SlowDownloadError(plan)
        self._response = None

    def _is_slow(self, response: Response) -> bool:
        """Return whether the last tenth of a second was mostly waiting, and much time is left at this rate."""
        now, partial = time.monotonic(), self._download.partial
        seconds = now - self._since
        if seconds < _LOOK_S:
            return False
        rate = (partial.size - self._size) / seconds
        waited_s = response.waited_s - self._waited
        self._since, self._size, self._waited = now, partial.size, response.waited_s
        left = partial.expected.size - partial.size
        return left >= 2 * LEAST_PIECE and waited_s > seconds / 2 and left > rate * _WORTH_S


#: Bytes per read of one of several connections.
_READ: Final = 256 << 10


@dataclass(slots=True)
class _SplitWork:
    """State shared by the connections: pieces to fetch, completed pieces (None: a thread ended), and errors."""

    waiting: deque[Span]
    came: queue.SimpleQueue[Span | None] = field(default_factory=queue.SimpleQueue)
    stop: threading.Event = field(default_factory=threading.Event)
    errors: list[tuple[str, TransportError | OSError]] = field(default_factory=list)

    def give_back(self, span: Span) -> None:
        """Let another connection fetch the rest of a piece; without a rest it is complete."""
        if span[0] < span[1]:
            self.waiting.appendleft(span)
        else:
            self.came.put(span)

    def check(self) -> None:
        if self.stop.is_set():
            raise CancelledError("the other connections stopped")

    def failure(self, url: str) -> TransportError | OSError:
        """Return why pieces are missing: a local error, else an error of the source `url`, never of a mirror."""
        relevant = [error for place, error in self.errors if place == url or isinstance(error, OSError)]
        relevant.sort(key=lambda error: isinstance(error, TransportError))
        return next(iter(relevant), TransportError("the other connections did not fetch the rest", transient=True))


class SplitDownload:
    """Fetches the missing pieces of a download over several connections."""

    def __init__(self, transport: Transport, policy: Policy, hosts: Hosts) -> None:
        self._transport, self._policy, self._hosts = transport, policy, hosts

    def run(self, download: Download, source: SourceState, plan: SplitPlan) -> int:
        """Fetch all missing pieces and hash them in order; return the number of connections.

        Releases the connections of `plan` in any case.

        Raises:
            HttpStatusError: a server did not return the requested range; restart the download.
            TransportError: every connection gave up; the completed pieces are kept.
            OSError: writing failed.
            CancelledError: the run was asked to stop.
        """
        work = _SplitWork(deque(download.partial.split(plan.piece)))
        threads = [
            threading.Thread(target=self._worker, args=(download, source, url, work), name="piece", daemon=True)
            for url, _ in plan.members
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
            for _, give_back in plan.members:
                give_back()
        return len(threads)

    @staticmethod
    def _gather(download: Download, work: _SplitWork, running: int) -> None:
        """Hash completed pieces until the content is complete or all threads ended."""
        while download.partial.size < download.partial.expected.size:
            download.progress.check()
            try:
                span = work.came.get(timeout=_LOOK_S)
            except queue.Empty:
                continue
            if span is not None:
                download.partial.measure()
                continue
            running -= 1
            if not running and work.came.empty():
                break

    def _worker(self, download: Download, source: SourceState, url: str, work: _SplitWork) -> None:
        """Run `_pieces`; report the end of the thread in any case, because `_gather` counts the running threads."""
        try:
            with contextlib.suppress(CancelledError):
                self._pieces(download, source, url, work)
        finally:
            work.came.put(None)

    def _pieces(self, download: Download, source: SourceState, url: str, work: _SplitWork) -> None:
        """Fetch pieces until none is left or this URL failed too often."""
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
                work.give_back(download.partial.rest(span[0]))
                work.errors.append((url, error))
                failures = self._failed(error, failures)

    def _failed(self, error: TransportError | OSError, failures: int) -> int:
        """Return the number of failures after `error`; one that an immediate retry cannot fix exhausts the retries."""
        can_retry = isinstance(error, TransportError) and error.transient and not is_busy(error)
        return failures + 1 if can_retry else self._policy.retries + 1

    def _piece(self, download: Download, source: SourceState, url: str, span: Span, work: _SplitWork) -> None:
        begin, end = span
        partial = download.partial
        own = network_origin(url) == source.origin
        piece = _PieceWriter(partial, span, work)
        with self._transport.open(
            url,
            headers=download.headers_for(url),
            size=partial.expected.size,
            offset=begin,
            stop=end,
            validator=partial.validator if own else "",
            ends=source.retry.ends,
            check=piece.check,
        ) as response:
            if response.status != 206 or response.start != begin:
                raise HttpStatusError(
                    "requested a range, received the whole content: it changed, or the server does not support ranges",
                    status=206,
                )
            view = memoryview(bytearray(_READ))
            for count in response.receive(end - begin, lambda most: view[:most]):
                piece.write(view[:count])
                download.progress.advance(count)
                piece.check()
        if piece.at != end:
            raise TransportError(
                f"the connection ended after {piece.at - begin} of {end - begin} bytes", transient=True
            )
        work.came.put(span)


class _PieceWriter:
    """Writes the bytes of a piece, and notes how many there are, so that a kill loses no more than the last moment."""

    def __init__(self, partial: Partial, span: Span, work: _SplitWork) -> None:
        self._partial, self._work = partial, work
        self.at, self._end = span
        self._noted, self._noted_s = self.at, 0.0

    def write(self, content: memoryview) -> None:
        """Write the next bytes.

        Raises:
            OSError: writing failed.
        """
        self._partial.write_at(self.at, content)
        self.at += len(content)
        if self.at == self._end:
            self._note()

    def check(self) -> None:
        """Note what is written, at most every `_LOOK_S`; called in every wait.

        The end of the piece raises an error of writing; here it would look like one of the connection.

        Raises:
            CancelledError: the other connections stopped.
        """
        if self._noted < self.at and time.monotonic() - self._noted_s > _LOOK_S:
            with contextlib.suppress(OSError):
                self._note()
        self._work.check()

    def _note(self) -> None:
        self._noted, self._noted_s = self.at, time.monotonic()
        self._partial.note(self.at)
