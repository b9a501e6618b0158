"""Trials of one hunt: a source, its retries, and what its attempts showed."""

from __future__ import annotations

from dataclasses import dataclass, field

from tasks_lib.errors import FetchError, HttpStatusError
from tasks_lib.progress import Progress
from tasks_lib.retry import Retry
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
    """One source: its retries, and what its attempts showed."""

    url: str
    retry: Retry
    origin: tuple[str, str, int] | None = None
    restarts: int = 0
    spliced: bool = False  # the last content was put together from several answers
    shared: bool = False  # the last attempt was left to several connections
    alone: bool = False  # several connections are not tried any more
    told: str = ""  # who sent it
    error: FetchError | None = field(default=None)

    @classmethod
    def of(cls, url: str, retry: Retry) -> Trial:
        """Return the trial of a source that was not asked yet."""
        return cls(url, retry, network_origin(url))

    def was_missing(self) -> bool:
        """Whether the source said that it has no such thing."""
        return isinstance(self.error, HttpStatusError) and self.error.status in (404, 410)
