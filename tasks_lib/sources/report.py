"""The report: every attempt with its reason, and one message in which none hides another."""

from __future__ import annotations

from typing import Final

from tasks_lib.errors import AllSourcesFailedError, Attempt, FetchError, IntegrityError, OfflineError
from tasks_lib.sources.wanted import Wanted
from tasks_lib.transport import redacted

_OFFLINE: Final = "not asked: offline"
_OTHER_CONTENT: Final = "add a mirror to the definition, or correct its size and sha256 after a review of the content"
_NO_ANSWER: Final = "check the URL and the network, or add a mirror to the definition"


class Report:
    """The attempts at one blob, in order."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._attempts: list[Attempt] = []
        self._advice, self._fallback = "", _NO_ANSWER

    def __len__(self) -> int:
        return len(self._attempts)

    def add(self, url: str, error: FetchError) -> None:
        """Note a failed attempt; the advice of a mismatch is worth more than that of a connection."""
        self._attempts.append(Attempt(redacted(url), " ".join(error.message.split())))
        if isinstance(error, IntegrityError):
            self._fallback = _OTHER_CONTENT
        if error.hint and (isinstance(error, IntegrityError) or not self._advice):
            self._advice = error.hint

    def skipped(self, url: str, reason: str = _OFFLINE) -> None:
        """Note a source that was not asked."""
        self._attempts.append(Attempt(redacted(url), reason))

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
            hint=self._advice or self._fallback,
        )


def _counted(reason: str, times: int) -> str:
    return f"{reason} ({times} times)" if times > 1 else reason
