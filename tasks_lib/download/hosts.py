"""Hosts: what one run learns of them, and whose turn it is. A host that answered is alive again."""

from __future__ import annotations

import contextlib
import resource
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Final

from tasks_lib.download.request import network_origin
from tasks_lib.gil import released
from tasks_lib.progress import Progress

#: Seconds between two looks at whether the run was asked to stop.
_LOOK_S: Final = 0.2

#: Files that a run needs without more connections: three a download, doit's own and what programs are given; the
#: share of the others that may be connections, and how many are enough for everybody.
_NEEDED_FILES: Final = 96
_SHARE: Final = 2
_UNLIMITED: Final = 1 << 16

Origin = tuple[str, str, int]


class Hosts:
    """The hosts of one run; safe to use from any thread."""

    def __init__(self, jobs_per_host: int) -> None:
        self._lock = threading.Lock()
        self._suspect: set[Origin] = set()
        self._dead: set[Origin] = set()
        self._wrong: dict[tuple[str, str], str] = {}
        self._running: dict[Origin, int] = defaultdict(int)
        self._turns: dict[Origin, threading.Semaphore] = defaultdict(lambda: threading.Semaphore(jobs_per_host))
        self._spare = threading.Semaphore(_spare_files())

    def ordered(self, urls: tuple[str, ...]) -> list[str]:
        """Return the URLs with those last whose host did not answer lately."""
        with self._lock:
            if not self._suspect:
                return list(urls)
            return sorted(urls, key=lambda url: network_origin(url) in self._suspect)

    def suspect(self, origin: Origin) -> None:
        """Note that the host did not answer: others are asked first."""
        with self._lock:
            self._suspect.add(origin)

    def dead(self, origin: Origin) -> None:
        """Note that the host did not answer however often it was asked: it is not asked twice any more."""
        with self._lock:
            self._suspect.add(origin)
            self._dead.add(origin)

    def alive(self, origin: Origin) -> None:
        """Note that the host answered."""
        if origin in self._suspect:
            with self._lock:
                self._suspect.discard(origin)
                self._dead.discard(origin)

    def is_suspect(self, url: str) -> bool:
        """Whether the host of `url` did not answer lately."""
        return network_origin(url) in self._suspect

    def is_dead(self, origin: Origin | None) -> bool:
        """Whether retries of this host are a waste of time."""
        return origin in self._dead

    def wrong(self, url: str, digest: str, reason: str) -> None:
        """Note that `url` does not serve the content of `digest`."""
        with self._lock:
            self._wrong[url, digest] = reason

    def known_wrong(self, url: str, digest: str) -> str:
        """Return why `url` is not asked for `digest` again in this run, "" when it may be."""
        return self._wrong.get((url, digest), "")

    @contextlib.contextmanager
    def turn(self, origin: Origin, url: str, progress: Progress) -> Iterator[None]:
        """Hold one of the connections that this host may have at a time; `url` is for whom that is waited for.

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

    def running(self, origin: Origin) -> int:
        """Return how many downloads from this host run now."""
        return self._running.get(origin, 0)

    def spare_turn(self, origin: Origin) -> Callable[[], None] | None:
        """Take one more connection if one is free; return what gives it back, None when there is none."""
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


def _spare_files() -> int:
    """Return how many files this process may open for connections beyond one a download: a part of what is left."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _UNLIMITED if limit == resource.RLIM_INFINITY else max(0, limit - _NEEDED_FILES) // _SHARE
