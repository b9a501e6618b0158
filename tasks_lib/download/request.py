"""Requests for blobs: value types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tasks_lib.digest import Integrity
from tasks_lib.transport import origin_of

Provenance = Mapping[str, str | int | float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A blob to download: `urls` are in order of preference.

    `headers` are sent only to the origin of `home` (default: the first URL). After a URL in `strict`, the next URL is
    asked only if the response was 404 or 410. `refused` maps URLs that must not be asked to the reason.
    """

    name: str
    integrity: Integrity
    urls: tuple[str, ...]
    headers: Mapping[str, str] = field(default_factory=dict)
    home: str = ""
    strict: frozenset[str] = frozenset()
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def allowed(self) -> tuple[str, ...]:
        """The URLs that may be asked. A refused one need not be a valid URL."""
        return tuple(url for url in self.urls if url not in self.refused) if self.refused else self.urls

    def headers_for(self, url: str) -> Mapping[str, str]:
        """Return the headers to send to `url`."""
        home = self.home or self.urls[0]
        return self.headers if self.headers and network_origin(url) == network_origin(home) else {}

    def name_in_url(self) -> str:
        """Return the file name in the URL of `home`, or in the first URL."""
        return (self.home or self.urls[0]).partition("?")[0].rpartition("/")[2]


def network_origin(url: str) -> tuple[str, str, int] | None:
    """Return the origin of a network URL, None for a file.

    Raises:
        ValueError: invalid URL; `definitions` rejects those.
    """
    return None if url.lower().startswith("file:") else origin_of(url)
