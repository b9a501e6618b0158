"""URLs: one parser for what is checked and what is asked, and how a URL is shown. Pure: no sockets."""

from __future__ import annotations

import contextlib
import re
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

from tasks_lib.errors import RedirectError, escaped

#: Longest redirect target that is looked at, in characters.
_MAX_LOCATION: Final = 8192
#: What a request target may hold unescaped; "%" stays, since it is escaped already. Source: RFC 3986 section 2.
_SAFE: Final = "%/:=&?~+!$,;'@()*[]-._"
#: URLs that are not parsed again: each is looked at several times on its way.
_REMEMBERED: Final = 1024
_PORTS: Final = {"https": 443, "http": 80}


class Origin(NamedTuple):
    """Scheme, host and port. Source: RFC 6454 section 4."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """`host` or `host:port`, as a Host header says it. Source: RFC 9110 section 7.2."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if _PORTS.get(self.scheme) == self.port else f"{host}:{self.port}"


@lru_cache(maxsize=_REMEMBERED)
def origin_of(url: str) -> Origin:
    """Return the origin of `url`.

    Raises:
        ValueError: the text is no URL, or its port is zero, which nobody listens at.
    """
    parts = urlsplit(url)
    if parts.port == 0:
        raise ValueError("port 0")
    scheme = parts.scheme.lower()
    host = (parts.hostname or "").lower()
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    return Origin(scheme, host, parts.port or _PORTS.get(scheme, 0))


def safe_origin(url: str) -> Origin:
    """Return the origin of a URL that can be asked for.

    Raises:
        RedirectError: no URL, or neither http nor https.
    """
    with contextlib.suppress(ValueError):
        origin = origin_of(url)
        if origin.scheme in _PORTS and origin.host:
            return origin
    raise RedirectError(f"cannot ask for {_shown(url)!r}: no http or https URL")


@lru_cache(maxsize=_REMEMBERED)
def target_of(url: str) -> str:
    """Return path and query of `url`, as a request line says it. Source: RFC 9112 section 3.2.1."""
    parts = urlsplit(url)
    target = quote(parts.path or "/", safe=_SAFE)
    return f"{target}?{quote(parts.query, safe=_SAFE)}" if parts.query else target


@lru_cache(maxsize=_REMEMBERED)
def redacted(url: str) -> str:
    """Return `url` fit for a message: no credentials, no query (presigned URLs hold secrets there)."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        host = f"[{host}]" if ":" in host else host
        netloc = f"{host}:{parts.port}" if parts.port else host
    except ValueError:
        return "(unreadable URL)"
    return escaped(urlunsplit((parts.scheme, netloc, parts.path, "..." if parts.query else "", "")))


def next_url(url: str, location: str) -> str:
    """Return where a redirect leads.

    Raises:
        RedirectError: nowhere, to another scheme, away from TLS, with credentials, or unreadable.
    """
    if not location or len(location) > _MAX_LOCATION or re.search(r"[\x00-\x20\x7f\\]", location):
        raise RedirectError(f"an unreadable redirect: {_shown(location)!r}")
    with contextlib.suppress(ValueError):
        target = urljoin(url, location).partition("#")[0]
        parts, origin = urlsplit(target), origin_of(target)
        if parts.username is not None or parts.password is not None:
            raise RedirectError("a redirect with credentials in its URL is not followed")
        if origin.scheme not in _PORTS or not origin.host:
            raise RedirectError(f"a redirect to {redacted(target)[:200]!r} is not followed: only http and https are")
        if origin.scheme == "http" and url.lower().startswith("https:"):
            raise RedirectError(f"a redirect from https to {redacted(target)} is not followed: it leaves TLS")
        return target
    raise RedirectError(f"an unreadable redirect: {_shown(location)!r}")


def _shown(location: str) -> str:
    """Return the beginning of what is no URL, without what looks like credentials or a query."""
    return escaped(re.sub(r"[/\\][^/\\@]*@", "/...@", location.partition("?")[0])[:200])
