"""Segments: several connections feed one file, piece by piece; what fails is asked for again, alone."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from tasks_lib.errors import CancelledError, HttpStatusError, TransportError
from tasks_lib.network import Policy
from tasks_lib.retry import is_busy
from tasks_lib.sources.hosts import Hosts
from tasks_lib.sources.hunt import Hunt, Trial
from tasks_lib.sources.pace import Crew
from tasks_lib.sources.wanted import network_origin
from tasks_lib.transport import Transport

#: Seconds between two looks at whether the run was asked to stop.
_LOOK_S: Final = 0.1

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


class Segments:
    """Fetches the missing pieces of a download over several connections."""

    def __init__(self, transport: Transport, policy: Policy, hosts: Hosts) -> None:
        self._transport, self._policy, self._hosts = transport, policy, hosts

    def run(self, hunt: Hunt, trial: Trial, crew: Crew) -> int:
        """Bring all pieces, measured in order as they become whole; return the number of connections.

        Raises:
            HttpStatusError: a server answers with something else than the piece; begin anew.
            TransportError: every connection gave up; what came stays.
            OSError: the file system refused.
            CancelledError: the run was asked to stop.
        """
        work = _Work(deque(hunt.partial.split(crew.piece)))
        threads = [
            threading.Thread(target=self._worker, args=(hunt, trial, url, work), name="piece", daemon=True)
            for url, _ in crew.members
        ]
        try:
            for thread in threads:
                thread.start()
            self._gather(hunt, work, len(threads))
            if hunt.partial.size < hunt.partial.expected.size:
                raise work.failure(trial.url)
        finally:
            work.stop.set()
            for thread in threads:
                thread.join()
            for _, give_back in crew.members:
                give_back()
        return len(threads)

    @staticmethod
    def _gather(hunt: Hunt, work: _Work, running: int) -> None:
        """Mark and measure what comes until all is there, or nobody is left to bring it."""
        while hunt.partial.size < hunt.partial.expected.size:
            hunt.progress.check()
            try:
                span = work.came.get(timeout=_LOOK_S)
            except queue.Empty:
                continue
            if span is not None:
                hunt.partial.mark(span[0])
                continue
            running -= 1
            if not running and work.came.empty():
                break

    def _worker(self, hunt: Hunt, trial: Trial, url: str, work: _Work) -> None:
        """Fetch pieces as `_pieces`; that it ended is told however it did, since it is waited for."""
        try:
            with contextlib.suppress(CancelledError):
                self._pieces(hunt, trial, url, work)
        finally:
            work.came.put(None)

    def _pieces(self, hunt: Hunt, trial: Trial, url: str, work: _Work) -> None:
        """Fetch pieces until none is left, or this place failed too often."""
        failures = 0
        while not work.stop.is_set() and failures <= self._policy.retries:
            try:
                span = work.waiting.popleft()
            except IndexError:
                break
            try:
                self._piece(hunt, trial, url, span, work)
                failures = 0
            except (TransportError, OSError) as error:
                work.waiting.appendleft(span)
                work.errors.append((url, error))
                failures = self._failed(error, failures)

    def _failed(self, error: TransportError | OSError, failures: int) -> int:
        """Return the failures of a place after `error`; one that asking again at once does not mend counts as all."""
        mends = isinstance(error, TransportError) and error.transient and not is_busy(error)
        return failures + 1 if mends else self._policy.retries + 1

    def _piece(self, hunt: Hunt, trial: Trial, url: str, span: Span, work: _Work) -> None:
        begin, end = span
        partial = hunt.partial
        own = network_origin(url) == trial.origin
        with self._transport.open(
            url,
            headers=hunt.wanted.headers_for(url),
            size=partial.expected.size,
            offset=begin,
            stop=end,
            validator=partial.validator if own else "",
            ends=trial.retry.ends,
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
                hunt.progress.advance(len(chunk))
                work.check()
        if at != end:
            raise TransportError(f"a piece ended after {at - begin} of {end - begin} bytes", transient=True)
        work.came.put(span)
