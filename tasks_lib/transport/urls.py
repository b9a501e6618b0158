"""URLs: one parser for both checks and requests, and redaction for messages. Pure: no sockets."""

from __future__ import annotations

import contextlib
import re
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from tasks_lib.errors import RedirectError, escape_text
from tasks_lib.network import PLAIN_URL, redacted

#: Longest accepted redirect target, in characters.
_MAX_LOCATION: Final = 8192
#: Characters that stay unescaped in a request target; "%" because it already begins an escape.
#: Source: RFC 3986 section 2.
_SAFE: Final = "%/:=&?~+!$,;'@()*[]-._"
#: Size of the caches of parsed URLs: each URL is parsed several times during a download.
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
        """`host` or `host:port`, the value of a Host header. Source: RFC 9110 section 7.2."""
        return _authority(self.scheme, self.host, self.port)


@lru_cache(maxsize=_REMEMBERED)
def _authority(scheme: str, name: str, port: int) -> str:
    host = f"[{name}]" if ":" in name else name
    return host if _PORTS.get(scheme) == port else f"{host}:{port}"


@lru_cache(maxsize=_REMEMBERED)
def origin_of(url: str) -> Origin:
    """Return the origin of `url`.

    Raises:
        ValueError: invalid URL, or port 0, at which no server can listen.
    """
    if plain := re.fullmatch(PLAIN_URL, url):
        return Origin(plain[1], plain[2], int(plain[3] or 0) or _PORTS[plain[1]])
    parts = urlsplit(url)
    if parts.port == 0:
        raise ValueError("port 0")
    scheme = parts.scheme.lower()
    host = (parts.hostname or "").lower()
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    return Origin(scheme, host, parts.port or _PORTS.get(scheme, 0))


def safe_origin(url: str) -> Origin:
    """Return the origin of an http or https URL.

    Raises:
        RedirectError: invalid URL, or another scheme.
    """
    with contextlib.suppress(ValueError):
        origin = origin_of(url)
        if origin.scheme in _PORTS and origin.host:
            return origin
    raise RedirectError(f"cannot fetch {_redact_invalid(url)!r}: not an http or https URL")


@lru_cache(maxsize=_REMEMBERED)
def request_target(url: str) -> str:
    """Return path and query of `url`, the target of a request line. Source: RFC 9112 section 3.2.1."""
    if plain := re.fullmatch(PLAIN_URL, url):
        return plain[4]
    parts = urlsplit(url)
    target = quote(parts.path or "/", safe=_SAFE)
    return f"{target}?{quote(parts.query, safe=_SAFE)}" if parts.query else target


def next_url(url: str, location: str) -> str:
    """Return the absolute URL of a redirect from `url` to `location`.

    Raises:
        RedirectError: no or invalid location, another scheme, http after https, or credentials in the URL.
    """
    location = location.replace(" ", "%20")  # as curl and browsers do; Source: WHATWG URL, path percent-encode set
    if not location or len(location) > _MAX_LOCATION or re.search(r"[\x00-\x1f\x7f\\]", location):
        raise RedirectError(f"invalid redirect: {_redact_invalid(location)!r}")
    with contextlib.suppress(ValueError):
        target = urljoin(url, location).partition("#")[0]
        parts, origin = urlsplit(target), origin_of(target)
        if parts.username is not None or parts.password is not None:
            raise RedirectError("a redirect with credentials in its URL is not followed")
        if origin.scheme not in _PORTS or not origin.host:
            raise RedirectError(
                f"a redirect to {redacted(target)[:200]!r} is not followed: only http and https are allowed"
            )
        if origin.scheme == "http" and url.lower().startswith("https:"):
            raise RedirectError(f"a redirect from https to {redacted(target)} is not followed: it would drop TLS")
        return target
    raise RedirectError(f"invalid redirect: {_redact_invalid(location)!r}")


def _redact_invalid(location: str) -> str:
    """Return the beginning of an invalid URL, without apparent credentials and query."""
    return escape_text(re.sub(r"[/\\][^/\\@]*@", "/...@", location.partition("?")[0])[:200])
