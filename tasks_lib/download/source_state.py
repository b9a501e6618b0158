"""Trials of one download: a source, its retries, and what its attempts showed."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from tasks_lib.cache import Partial
from tasks_lib.download.request import Request, network_origin
from tasks_lib.errors import AllSourcesFailedError, Attempt, FetchError, HttpStatusError, IntegrityError, OfflineError
from tasks_lib.progress import Progress
from tasks_lib.retry import Retry
from tasks_lib.transport import redacted


@dataclass(slots=True)
class Download:
    """One blob on its way: what is wanted, what is there, who watches, what failed."""

    wanted: Request
    partial: Partial
    progress: Progress
    report: AttemptLog


class Mode(enum.Enum):
    """How the next attempt at a source may read the content; it only moves down this list."""

    SPLIT_ALLOWED = enum.auto()
    ONE_CONNECTION = enum.auto()  # a split download failed
    RESTARTED = enum.auto()  # the bytes were dropped once; as ONE_CONNECTION, and the next restart is refused


class Assembly(enum.Enum):
    """How the last attempt at a source put the content together."""

    ONE_RESPONSE = enum.auto()  # read from the first byte, or nothing was read
    RESUMED = enum.auto()  # appended to the bytes of an earlier response
    SPLIT = enum.auto()  # fetched over several connections


@dataclass(slots=True)
class SourceState:
    """One source: its URL, its retries, and the results of its attempts.

    `url`, `origin` (None for a local file) and `retry` are never reassigned. `mode` and `assembly` are independent:
    `mode` lasts as long as the source, while every attempt begins at `Assembly.ONE_RESPONSE` and may resume in any
    mode. `error` is the failure of the last attempt.
    """

    url: str
    retry: Retry
    origin: tuple[str, str, int] | None = None
    mode: Mode = Mode.SPLIT_ALLOWED
    assembly: Assembly = Assembly.ONE_RESPONSE
    error: FetchError | None = None

    @classmethod
    def of(cls, url: str, retry: Retry) -> SourceState:
        """Return the state of a source before its first attempt."""
        return cls(url, retry, network_origin(url))

    @property
    def can_split(self) -> bool:
        """Whether the next attempt may use several connections."""
        return self.mode is Mode.SPLIT_ALLOWED

    def restart(self) -> bool:
        """Enter `Mode.RESTARTED`; return whether the source was not in it before."""
        is_first = self.mode is not Mode.RESTARTED
        self.mode = Mode.RESTARTED
        return is_first

    def was_missing(self) -> bool:
        """Whether the last attempt failed with status 404 or 410."""
        return isinstance(self.error, HttpStatusError) and self.error.status in (404, 410)


_OFFLINE: Final = "not asked: offline"
_OTHER_CONTENT: Final = "add a mirror to the definition, or correct its size and sha256 after a review of the content"
_REFUSED: Final = "mirrors.yml says so: add a mirror that it allows, or change its rule"
_NO_ANSWER: Final = "check the URL and the network, or add a mirror to the definition"


class AttemptLog:
    """The attempts at one blob, in order."""

    def __init__(self, wanted: Request) -> None:
        self._wanted = wanted
        self._attempts: list[Attempt] = []
        self._of_content = self._of_connection = ""

    def __len__(self) -> int:
        return len(self._attempts)

    def add(self, url: str, error: FetchError) -> None:
        """Note a failed attempt; the advice of a mismatch is worth more than that of a connection."""
        self._attempts.append(Attempt(redacted(url), " ".join(error.message.split())))
        if isinstance(error, IntegrityError):
            self._of_content = error.hint
        else:
            self._of_connection = self._of_connection or error.hint

    def offline(self, url: str) -> None:
        """Note a source that was not asked because the network is off."""
        self._attempts.append(Attempt(redacted(url), _OFFLINE))

    def refused(self, url: str, reason: str) -> None:
        """Note a source that may not be asked."""
        self._attempts.append(Attempt(redacted(url), f"not asked: {reason}"))
        self._of_connection = self._of_connection or _REFUSED

    def known_wrong(self, url: str, reason: str) -> None:
        """Note a source that gave other content to an earlier task of this run."""
        self._attempts.append(Attempt(redacted(url), f"not asked again: {reason}"))
        self._of_content = self._of_content or _OTHER_CONTENT

    def failure(self) -> AllSourcesFailedError | OfflineError:
        """Return the error: one line a source with each of its reasons, and the next step."""
        wanted = self._wanted
        if self._attempts and all(one.reason == _OFFLINE for one in self._attempts):
            return OfflineError(
                f"{wanted.name}: not in the cache, and the network is off", hint="run once without offline"
            )
        reasons: dict[str, dict[str, int]] = {}
        for one in self._attempts:
            told = reasons.setdefault(one.url, {})
            told[one.reason] = told.get(one.reason, 0) + 1
        lines = [f"{url}: {'; '.join(_counted(*pair) for pair in told.items())}" for url, told in reasons.items()]
        return AllSourcesFailedError(
            "\n".join([f"{wanted.name}: no source gave {wanted.integrity}", *lines]),
            attempts=tuple(self._attempts),
            hint=self._of_content or self._of_connection or _NO_ANSWER,
        )


def _counted(reason: str, times: int) -> str:
    return f"{reason} ({times} times)" if times > 1 else reason
