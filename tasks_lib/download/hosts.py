"""State of the hosts of one run, and limits on their connections. A host that responds is no longer suspect or dead."""

from __future__ import annotations

import contextlib
import resource
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Final

from tasks_lib.download.source_state import network_origin
from tasks_lib.gil import released
from tasks_lib.progress import Progress

#: Seconds between two checks for cancellation.
_LOOK_S: Final = 0.2

#: File descriptors that a run needs without extra connections (three per download, those of doit and of subprocesses);
#: the divisor that yields the part of the others used for connections; the number of connections used without a limit.
_NEEDED_FILES: Final = 96
_SHARE: Final = 2
_UNLIMITED: Final = 1 << 16

HostAddress = tuple[str, str, int]


class Hosts:
    """The hosts of one run; thread-safe."""

    def __init__(self, jobs_per_host: int) -> None:
        self._lock = threading.Lock()
        self._suspect: dict[HostAddress, str] = {}  # with the reason
        self._dead: set[HostAddress] = set()
        self._wrong: dict[tuple[str, str], str] = {}
        self._running: dict[HostAddress, int] = defaultdict(int)
        self._turns: dict[HostAddress, threading.Semaphore] = defaultdict(lambda: threading.Semaphore(jobs_per_host))
        self._spare = threading.Semaphore(_count_spare_files())

    def ordered(self, urls: tuple[str, ...]) -> list[str]:
        """Return the URLs, those of suspect hosts last."""
        with self._lock:
            if not self._suspect:
                return list(urls)
            return sorted(urls, key=lambda url: network_origin(url) in self._suspect)

    def suspect(self, origin: HostAddress, reason: str) -> None:
        """Mark a host that did not respond: other hosts are asked first."""
        with self._lock:
            self._suspect[origin] = reason

    def dead(self, origin: HostAddress, reason: str) -> None:
        """Mark a host that did not respond to any retry: it gets one attempt per source from now on."""
        with self._lock:
            self._suspect[origin] = reason
            self._dead.add(origin)

    def alive(self, origin: HostAddress) -> None:
        """Unmark a host that responded."""
        if origin in self._suspect:
            with self._lock:
                self._suspect.pop(origin, None)
                self._dead.discard(origin)

    def why_suspect(self, origin: HostAddress | None) -> str:
        """Return why a host did not respond to its last request, "" if it did."""
        return self._suspect.get(origin, "") if origin is not None else ""

    def is_suspect(self, url: str) -> bool:
        """Whether the host of `url` did not respond to its last request."""
        return network_origin(url) in self._suspect

    def is_dead(self, origin: HostAddress | None) -> bool:
        """Whether this host is not worth a retry."""
        return origin in self._dead

    def wrong(self, url: str, digest: str, reason: str) -> None:
        """Record that `url` does not serve the content of `digest`, and why."""
        with self._lock:
            self._wrong[url, digest] = reason

    def known_wrong(self, url: str, digest: str) -> str:
        """Return why `url` must not be asked for `digest` again in this run, "" when it may be."""
        return self._wrong.get((url, digest), "")

    @contextlib.contextmanager
    def turn(self, origin: HostAddress, url: str, progress: Progress) -> Iterator[None]:
        """Hold one of the connections allowed to this host; report the wait for it under `url`.

        Raises:
            CancelledError: the run was asked to stop.
        """
        with self._lock:
            turns = self._turns[origin]
        if not turns.acquire(blocking=False):
            progress.phase("queue", url=url)
            with released:
                while not turns.acquire(timeout=_LOOK_S):
                    progress.check()
        with self._lock:
            self._running[origin] += 1
        try:
            yield
        finally:
            with self._lock:
                self._running[origin] -= 1
            turns.release()

    def running(self, origin: HostAddress) -> int:
        """Return the number of running downloads from this host."""
        return self._running.get(origin, 0)

    def take_spare_connection(self, origin: HostAddress) -> Callable[[], None] | None:
        """Take an extra connection; return the function that releases it, None when no connection is free."""
        with self._lock:
            turns = self._turns[origin]
        if not self._spare.acquire(blocking=False):
            return None
        if not turns.acquire(blocking=False):
            self._spare.release()
            return None

        def give_back() -> None:
            turns.release()
            self._spare.release()

        return give_back


def _count_spare_files() -> int:
    """Return how many extra connections the limit on open files allows."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _UNLIMITED if limit == resource.RLIM_INFINITY else max(0, limit - _NEEDED_FILES) // _SHARE
