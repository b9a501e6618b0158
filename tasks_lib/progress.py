"""What a working step tells whoever watches it, and how it is asked to stop.

One `Progress` belongs to one running task. The steps speak; a face (graph, fetch_content) listens.
Nothing here prints, and nothing here knows a clock.
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """The seam between a step and its watcher; implementations are safe to call from any thread."""

    def phase(self, name: str, **facts: str | int | float) -> None:
        """Say that a phase begins: queue, wait, connect, first-byte, body, verify, repack, extract, place, run.

        Usual facts: `url` (secrets redacted), `total` (bytes of this phase), `resumed` (bytes had before); of a `wait`
        `holder` (the process that is waited for) or `seconds` and `reason` (before the source is asked again).
        """

    def advance(self, size: int) -> None:
        """Say that `size` more bytes of the current phase are done."""

    def warn(self, message: str) -> None:
        """Say one line that a person should read although the task goes on."""

    def check(self) -> None:
        """Return at once, or stop the work.

        Raises:
            CancelledError: the run was asked to stop.
        """


class Silent:
    """A watcher that listens to nothing and never stops the work."""

    def phase(self, name: str, **facts: str | int | float) -> None:
        """Ignore."""

    def advance(self, size: int) -> None:
        """Ignore."""

    def warn(self, message: str) -> None:
        """Ignore."""

    def check(self) -> None:
        """Never stops."""
