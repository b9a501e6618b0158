"""The transport itself: one URL, its redirects, its secrets, and the line that serves it."""

from __future__ import annotations

import contextlib
import ipaddress
import netrc
import platform
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from tasks_lib.errors import HttpStatusError, RedirectError, TransportError, escaped
from tasks_lib.network import TransportSettings
from tasks_lib.transport.connect import Network, connect, open_tunnel
from tasks_lib.transport.deadline import Deadline, nothing
from tasks_lib.transport.deadline_socket import DeadlineSocket
from tasks_lib.transport.http_connection import HttpConnections, RawResponse, Route
from tasks_lib.transport.proxy import PROXY_HINT, Proxy, basic, proxy_for
from tasks_lib.transport.response import ByteRange, Response, check_response
from tasks_lib.transport.tls import context_for
from tasks_lib.transport.urls import Origin, next_url, redacted, safe_origin

#: Most redirects of one request. Source: faults.md section 6; curl and browsers stop between 10 and 50.
MAX_REDIRECTS: Final = 10
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


def nobody(_host: str) -> str:
    """Refuse no host."""
    return ""


class Transport:
    """Sockets, shared by all threads of a run."""

    def __init__(self, settings: TransportSettings | None = None, refusal: Callable[[str], str] = nobody) -> None:
        """Make it; `refusal` says of a host why a redirect to it is not followed, "" when it is."""
        self.settings, self._refusal = settings or TransportSettings(), refusal
        self._wire = HttpConnections(self._dialled)
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None
        self._netrc, self._unread = _netrc_of(self.settings.netrc)
        self._denied: tuple[Network, ...] = tuple(ipaddress.ip_network(text) for text in self.settings.denied)
        self._agent = f"doit-fetch/{_version()} (Python {platform.python_version()})"

    @contextlib.contextmanager
    def open(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        size: int,
        offset: int = 0,
        stop: int = -1,
        validator: str = "",
        ends: float = 0.0,
        check: Callable[[], None] = nothing,
        asked: Callable[[], None] = nothing,
    ) -> Iterator[Response]:
        """Ask for `url` and give the answer of status 200, or 206 for exactly what was asked.

        Args:
            url: http or https.
            headers: sent to the origin of `url` only, and never again once a redirect left it.
            size: bytes that the whole content has, for the deadline and for judging a 206; -1 when unknown.
            offset: first byte that is wanted, if `validator` still holds; the answer may be the whole content.
            stop: first byte that is not wanted any more; -1 for the end.
            validator: strong validator of the content that `offset` counts in.
            ends: when `time.monotonic` must not be passed; 0 for what the settings allow for `size` bytes.
            check: called in every wait; raises to stop it.
            asked: called when a connection stands and its answer is waited for; again after a redirect.

        Raises:
            HttpStatusError: another status.
            RedirectError: a redirect that is not followed.
            StalledError, TlsError, TransportError: see the class docstrings.
            CancelledError: `check` raised it.
        """
        deadline = Deadline(self.settings, ends or time.monotonic() + self.settings.total_s(size), check, asked)
        span = ByteRange(offset, size if stop < 0 else stop, size)
        final, answer = self._follow(url, headers, self._asked(span, validator), deadline)
        try:
            start = self._judged(answer, span, validator, deadline)
            yield Response(redacted(final), answer.status, answer.headers, start, answer, deadline)
        finally:
            answer.close()

    def _judged(self, answer: RawResponse, span: ByteRange, validator: str, deadline: Deadline) -> int:
        """As `check_response`; a refusal for want of a login names a netrc file that cannot be read."""
        try:
            return check_response(answer, span, validator, deadline)
        except HttpStatusError as error:
            if self._unread and error.status in (401, 403):
                error.hint = f"no login was sent, since {self._unread}; correct that file"
            raise

    def _asked(self, span: ByteRange, validator: str) -> dict[str, str]:
        asked = {"User-Agent": self._agent, "Accept": "*/*", "Accept-Encoding": "identity"}
        if not span.is_whole:
            asked |= {"Range": span.header} | ({"If-Range": validator} if validator else {})
        return asked

    def _follow(
        self, url: str, secret: Mapping[str, str], asked: Mapping[str, str], deadline: Deadline
    ) -> tuple[str, RawResponse]:
        home = safe_origin(url)
        secret = self._with_login(home, secret)
        for _ in range(MAX_REDIRECTS + 1):
            here = safe_origin(url)
            if here != home:
                self._require(here)
                secret = {}  # for good: a way back home was chosen by a stranger
            deadline.host = here.authority
            answer = self._wire.ask(self._route(here), url, _merged(asked, secret), deadline)
            if answer.status not in _REDIRECTS:
                return url, answer
            answer.close()
            url = next_url(url, _as_utf8(answer.headers.get("Location", "")))
        raise RedirectError(f"more than {MAX_REDIRECTS} redirects", hint="use the final URL in the definition")

    def _require(self, origin: Origin) -> None:
        """Return when a redirect may lead there.

        Raises:
            RedirectError: it may not.
        """
        if reason := self._refusal(origin.host):
            told = f"a redirect to {origin} is not followed: {reason}"
            raise RedirectError(told, hint="allow that host in mirrors.yml, or name another place")

    def _with_login(self, home: Origin, secret: Mapping[str, str]) -> Mapping[str, str]:
        """Add what netrc knows of the host that is asked first, unless credentials are given."""
        if any(name.lower() == "authorization" for name in secret):
            return secret
        known = self._netrc is not None and home.host in self._netrc.hosts
        login = self._netrc.authenticators(home.host) if self._netrc and known else None
        return {**secret, "Authorization": basic(login[0], login[2] or "")} if login else secret

    def _route(self, origin: Origin) -> Route:
        return origin, proxy_for(origin, self.settings.proxies, self.settings.no_proxy)

    def _dialled(self, route: Route, deadline: Deadline) -> DeadlineSocket:
        """Return a new line to an origin, through its proxy when it has one.

        Raises:
            StalledError, TlsError, TransportError: see the class docstrings.
        """
        origin, proxy = route
        if proxy is None:
            line = DeadlineSocket(connect(origin.host, origin.port, deadline, self._denied), deadline)
        else:
            line = _through(proxy, origin, deadline)
        try:
            if origin.scheme == "https":
                line.secure(self._trust(), origin.host)
        except BaseException:
            line.close()
            raise
        return line

    def _trust(self) -> ssl.SSLContext:
        with self._lock:
            if self._context is None:
                self._context = context_for(self.settings.ca_bundle)
            return self._context


def _through(proxy: Proxy, origin: Origin, deadline: Deadline) -> DeadlineSocket:
    """Return a line to a proxy, which is the user's choice wherever it stands, or through it for https."""
    deadline.host = f"{proxy.host}:{proxy.port} (proxy)"
    line = None
    try:
        line = DeadlineSocket(connect(proxy.host, proxy.port, deadline, ()), deadline)
        if origin.scheme == "https":
            open_tunnel(line, origin, proxy, deadline)
    except BaseException as error:
        if line is not None:
            line.close()
        if isinstance(error, TransportError):
            error.hint = error.hint or PROXY_HINT
        raise
    deadline.host = origin.authority
    return line


def _as_utf8(location: str) -> str:
    """Return a Location whose bytes are UTF-8 as what they mean; header values are read as latin-1."""
    with contextlib.suppress(UnicodeError):
        return location.encode("latin-1").decode("utf-8")
    return location


def _merged(asked: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Return both; a given header replaces ours of the same name."""
    names = {name.lower() for name in given}
    return {name: value for name, value in asked.items() if name.lower() not in names} | dict(given)


def _version() -> str:
    try:
        return version("doit-fetch")
    except PackageNotFoundError:
        return "0"


def _netrc_of(path: str) -> tuple[netrc.netrc | None, str]:
    """Return the logins of a netrc file, and why there is one that cannot be read."""
    try:
        return netrc.netrc(path) if path else None, ""
    except FileNotFoundError:
        return None, ""
    except netrc.NetrcParseError as error:
        return None, f"{escaped(path)} is no netrc file, see its line {error.lineno}"  # its words may be secret
    except (OSError, UnicodeError) as error:
        return None, f"{escaped(path)} cannot be read: {escaped(str(error))}"
