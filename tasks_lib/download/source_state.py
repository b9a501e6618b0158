"""State of one download: the request, its sources with their retries, and the log of its attempts."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tasks_lib.cache import Partial
from tasks_lib.digest import Integrity
from tasks_lib.errors import (
    AllSourcesFailedError,
    FailedAttempt,
    FetchError,
    HttpStatusError,
    IntegrityError,
    MissingFileError,
    OfflineError,
)
from tasks_lib.progress import Progress
from tasks_lib.retry import Retry
from tasks_lib.transport import origin_of, redacted

#: Bytes of a response that show what it is: a web page, or an error.
LOOK_BYTES: Final = 64 << 10


class Purpose(enum.Enum):
    """Why content is downloaded."""

    OBTAIN = enum.auto()  # the cache does not have it: any source may provide it
    CONFIRM = enum.auto()  # the cache has it: the first source that answers decides


@dataclass(slots=True)
class Download:
    """One running download: the request, the partial content, the progress listener, and the failed attempts.

    `headers` are sent only to the origin of `wanted.home`.
    """

    wanted: Request
    partial: Partial
    progress: Progress
    report: AttemptLog
    headers: Mapping[str, str]
    purpose: Purpose = Purpose.OBTAIN

    def headers_for(self, url: str) -> Mapping[str, str]:
        """Return the headers to send to `url`."""
        return self.headers if self.headers and network_origin(url) == network_origin(self.wanted.written) else {}


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
        """Whether the last attempt failed with status 404 or 410, or found no local file."""
        if isinstance(self.error, MissingFileError):
            return True
        return isinstance(self.error, HttpStatusError) and self.error.status in (404, 410)


_OFFLINE: Final = "skipped: offline"
_WRONG_CONTENT_HINT: Final = "add a mirror to the definition, or review the content and correct size and sha256"
_REFUSED_HINT: Final = "mirrors.yml blocks this URL: add a mirror that it allows, or change its rule"
_NO_RESPONSE_HINT: Final = "check the URL and the network, or add a mirror to the definition"


class AttemptLog:
    """The failed and skipped attempts of one download, in order."""

    def __init__(self, wanted: Request) -> None:
        self._wanted = wanted
        self._attempts: list[FailedAttempt] = []
        self._of_content = self._of_connection = self._pin = ""

    def __len__(self) -> int:
        return len(self._attempts)

    @property
    def has_wrong_content(self) -> bool:
        """Whether a source has other content than the requested one."""
        return bool(self._of_content)

    @property
    def is_offline(self) -> bool:
        """Whether every source was skipped because the network is off."""
        return bool(self._attempts) and all(one.reason == _OFFLINE for one in self._attempts)

    def lines(self) -> list[str]:
        """Return one line for each source, with all its reasons."""
        reasons: dict[str, dict[str, int]] = {}
        for one in self._attempts:
            counts = reasons.setdefault(one.url, {})
            counts[one.reason] = counts.get(one.reason, 0) + 1
        return [
            f"{url}: {'; '.join(_format_count(*pair) for pair in counts.items())}" for url, counts in reasons.items()
        ]

    def add(self, url: str, error: FetchError) -> None:
        """Add a failed attempt; the hint of a mismatch takes precedence over that of a connection."""
        fault = "content" if isinstance(error, IntegrityError) else "source"
        self._attempts.append(FailedAttempt(redacted(url), " ".join(error.message.split()), fault))
        if isinstance(error, IntegrityError):
            self._of_content, self._pin = error.hint or _WRONG_CONTENT_HINT, error.pin
        else:
            self._of_connection = self._of_connection or error.hint

    def store(self, name: str, reason: str) -> None:
        """Add a shared store that had other bytes or broke off; it says nothing about the sources."""
        self._attempts.append(FailedAttempt(f"store {name}", reason))

    def offline(self, url: str) -> None:
        """Add a source that was skipped because the network is off."""
        self._attempts.append(FailedAttempt(redacted(url), _OFFLINE))

    def refused(self, url: str, reason: str) -> None:
        """Add a source that must not be asked."""
        self._attempts.append(FailedAttempt(redacted(url), f"skipped: {reason}"))
        self._of_connection = self._of_connection or _REFUSED_HINT

    def known_wrong(self, url: str, reason: str) -> None:
        """Add a source that served wrong content to an earlier task of this run."""
        line = f"skipped after an earlier failure in this run: {reason}"
        self._attempts.append(FailedAttempt(redacted(url), line, "content"))
        self._of_content = self._of_content or _WRONG_CONTENT_HINT

    def failure(self) -> AllSourcesFailedError | OfflineError:
        """Return the error: one line per source with all its reasons, and the next step."""
        wanted = self._wanted
        if self.is_offline:
            return OfflineError(
                f"{wanted.name}: not in the cache, and the network is off", hint="run once without offline"
            )
        return AllSourcesFailedError(
            "\n".join([f"{wanted.name}: no source provided {wanted.integrity}", *self.lines()]),
            attempts=tuple(self._attempts),
            hint=self._with_pin(self._of_content or self._of_connection or _NO_RESPONSE_HINT),
        )

    def describe_unconfirmed(self, before: str) -> str:
        """Return the warning for cached content that was fetched from `before`, and that no source confirmed."""
        url = redacted(self._wanted.written)
        why = "the network is off" if self.is_offline else "; ".join(self.lines()).removeprefix(f"{url}: ")
        return (
            f"the cached bytes are used unconfirmed: they were fetched from {before}, and {url} did not confirm them"
            f" ({why or 'it must not be asked'})"
        )

    def contradiction(self, before: str) -> AllSourcesFailedError:
        """Return the error for content that differs from the cached one, which was fetched from `before`."""
        wanted = self._wanted
        first = f"{wanted.name}: {wanted.integrity} is in the cache, but {redacted(wanted.written)} has other content"
        return AllSourcesFailedError(
            "\n".join([first, *self.lines()]),
            attempts=tuple(self._attempts),
            hint=self._with_pin(f"these bytes were fetched from {before}; update sha256 and size"),
        )

    def _with_pin(self, hint: str) -> str:
        return f"{hint}\n{self._pin}" if self._pin else hint


def _format_count(reason: str, times: int) -> str:
    return f"{reason} ({times} times)" if times > 1 else reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A blob to download: `urls` are in order of preference.

    `headers` returns headers for the origin of `home`, the URL as the definition writes it (default: the first URL); it
    is called before any URL is asked, and may raise. After a URL in `strict`, the next URL is asked only if the answer
    was 404 or 410. `refused` maps URLs that must not be asked to the reason. `by_digest` are content-addressed URLs,
    which say nothing about `home`. `artifact` is the name that the content of a source gets in the cache, if its digest
    is all that is to be checked.
    """

    name: str
    integrity: Integrity
    urls: tuple[str, ...]
    headers: Callable[[], Mapping[str, str]] = dict
    home: str = ""
    strict: frozenset[str] = frozenset()
    refused: Mapping[str, str] = field(default_factory=dict)
    by_digest: frozenset[str] = frozenset()
    artifact: Path | None = None

    @property
    def written(self) -> str:
        """The URL as the definition writes it."""
        return self.home or self.urls[0]

    @property
    def named(self) -> tuple[str, ...]:
        """The URLs that name the content by its path, those of the definition's URL first."""
        return tuple(url for url in self.urls if url not in self.by_digest)

    @property
    def allowed(self) -> tuple[str, ...]:
        """The URLs that may be asked. A refused one need not be a valid URL."""
        return tuple(url for url in self.urls if url not in self.refused) if self.refused else self.urls

    def name_in_url(self) -> str:
        """Return the file name in the URL of `home`, or in the first URL."""
        return self.written.partition("?")[0].rpartition("/")[2]


def network_origin(url: str) -> tuple[str, str, int] | None:
    """Return the origin of a network URL, None for a file.

    Raises:
        ValueError: invalid URL; `definitions` rejects those.
    """
    return None if url.lower().startswith("file:") else origin_of(url)
