"""Trials of one hunt: a source, what is left of its attempts and its time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tasks_lib.errors import FetchError, HttpStatusError
from tasks_lib.progress import Progress
from tasks_lib.sources.report import Report
from tasks_lib.sources.wanted import Wanted, network_origin
from tasks_lib.store import Partial


@dataclass(slots=True)
class Hunt:
    """One blob on its way: what is wanted, what is there, who watches, what failed."""

    wanted: Wanted
    partial: Partial
    progress: Progress
    report: Report


@dataclass(slots=True)
class Trial:
    """One source: attempts so far, retries left, and when its time is over."""

    url: str
    retries: int
    origin: tuple[str, str, int] | None = None
    attempts: int = 0
    restarts: int = 0
    mismatches: int = 0
    ends: float = 0.0
    left_s: float = 0.0  # of a trial that was postponed
    postponed: bool = False
    spliced: bool = False  # the last content was put together from several answers
    shared: bool = False  # the last attempt was left to several connections
    alone: bool = False  # several connections are not tried any more
    told: str = ""  # who sent it
    error: FetchError | None = field(default=None)

    @classmethod
    def of(cls, url: str, retries: int) -> Trial:
        """Return the trial of a source that was not asked yet."""
        return cls(url, retries, network_origin(url))

    def begin(self, total_s: Callable[[], float]) -> None:
        """Start the clock of this source with its first attempt, or go on after it was postponed."""
        if not self.ends:
            self.ends = time.monotonic() + (self.left_s or total_s())

    def postpone(self) -> None:
        """Stop the clock: others are asked first."""
        self.postponed = True
        self.left_s, self.ends = max(1.0, self.ends - time.monotonic()), 0.0

    def was_missing(self) -> bool:
        """Whether the source said that it has no such thing."""
        return isinstance(self.error, HttpStatusError) and self.error.status in (404, 410)
