"""Proxies: select the proxy for an origin. The password of a proxy is sent to that proxy only.

Source: the conventions that curl documents ("Environment", NO_PROXY).
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from tasks_lib.errors import TransportError
from tasks_lib.network import redacted
from tasks_lib.transport.urls import Origin

#: Next steps for proxy errors.
LOGIN_HINT: Final = "the proxy requires a login: set http_proxy and https_proxy to http://USER:PASSWORD@HOST:PORT"
PROXY_HINT: Final = "check the proxy settings: http_proxy and https_proxy set it, no_proxy bypasses it"


class Proxy(NamedTuple):
    """An HTTP proxy; `login` is its Proxy-Authorization, "" for none."""

    host: str
    port: int
    login: str

    @property
    def headers(self) -> dict[str, str]:
        """Headers that are sent to the proxy only."""
        return {"Proxy-Authorization": self.login} if self.login else {}


def proxy_for(origin: Origin, proxies: Mapping[str, str], no_proxy: str) -> Proxy | None:
    """Return the proxy for `origin`, None for a direct connection.

    Raises:
        TransportError: an unsupported kind of proxy.
    """
    url = proxies.get(origin.scheme, "")
    if not url or _is_exempt(origin, no_proxy):
        return None
    url = url if "://" in url else f"http://{url}"
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme == "http" and parts.hostname and parts.port != 0:
            user = parts.username
            login = "" if user is None else basic_authorization(unquote(user), unquote(parts.password or ""))
            return Proxy(parts.hostname, parts.port or 80, login)
    raise TransportError(
        f"the proxy {redacted(url)} is not supported: only http:// proxies are", hint="set http_proxy and https_proxy"
    )


def basic_authorization(user: str, password: str) -> str:
    """Return the value of a Basic authorization header. Source: RFC 7617."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")


def _is_exempt(origin: Origin, no_proxy: str) -> bool:
    return any(_matches_no_proxy(word, origin) for word in no_proxy.lower().replace(",", " ").split())


def _matches_no_proxy(word: str, origin: Origin) -> bool:
    if word == "*":
        return True
    with contextlib.suppress(ValueError):  # an address, or a network in CIDR form
        return ipaddress.ip_address(origin.host) in ipaddress.ip_network(word.strip("[]"), strict=False)
    name, colon, port = word.rpartition(":")
    if colon and port.isdecimal():
        if port != str(origin.port):
            return False
        word = name.strip("[]")
    word = word.removeprefix("*").removeprefix(".")
    return origin.host == word or origin.host.endswith(f".{word}")
