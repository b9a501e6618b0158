"""What is wanted, and from where: values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tasks_lib.digest import Integrity
from tasks_lib.transport import origin_of

Provenance = Mapping[str, str | int | float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to obtain: `urls` in order of preference.

    `headers` go to the origin of `home` only (default: the first URL). After a URL of `strict` the next one is asked
    only when the answer was 404 or 410. `refused` says of a URL why it is not asked at all.
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
        """The URLs that may be asked; a refused one may even be none."""
        return tuple(url for url in self.urls if url not in self.refused) if self.refused else self.urls

    def headers_for(self, url: str) -> Mapping[str, str]:
        """Return the headers that may be sent to `url`."""
        home = self.home or self.urls[0]
        return self.headers if self.headers and network_origin(url) == network_origin(home) else {}

    def name_in_url(self) -> str:
        """Return the file name that the first URL gives it."""
        return (self.home or self.urls[0]).partition("?")[0].rpartition("/")[2]


def network_origin(url: str) -> tuple[str, str, int] | None:
    """Return the origin of a network URL, None for a file.

    Raises:
        ValueError: no URL; `definitions` refuses those.
    """
    return None if url.lower().startswith("file:") else origin_of(url)
