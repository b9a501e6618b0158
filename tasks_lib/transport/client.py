"""HTTP client: one request, its redirects, its credentials, and the connection for it."""

from __future__ import annotations

import contextlib
import ipaddress
import netrc
import platform
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import BinaryIO, Final, Literal, NamedTuple

from tasks_lib.errors import (
    FetchError,
    HttpStatusError,
    RedirectError,
    SettingError,
    TransportError,
    UnreachableError,
    escape_text,
)
from tasks_lib.network import (
    HostCredential,
    Network,
    TransportSettings,
    is_denied,
    literal_addresses,
    read_secret,
    redacted,
)
from tasks_lib.progress import do_nothing
from tasks_lib.transport.connect import connect, denied_error, judge, open_tunnel
from tasks_lib.transport.connection_pool import Route
from tasks_lib.transport.deadline import Deadline
from tasks_lib.transport.deadline_socket import DeadlineSocket, create_context
from tasks_lib.transport.http_connection import GET, HttpConnections, Outgoing, RawResponse
from tasks_lib.transport.proxy import PROXY_HINT, Proxy, basic_authorization, proxy_for
from tasks_lib.transport.response import ByteRange, Head, Response, check_response
from tasks_lib.transport.secrets import SentSecrets
from tasks_lib.transport.urls import Origin, next_url, safe_origin

#: Most redirects of one request. Source: faults.md section 6; curl and browsers stop between 10 and 50.
MAX_REDIRECTS: Final = 10
_NO_ENVIRON: Final[Mapping[str, str]] = MappingProxyType({})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
#: Methods of requests that are sent again to the target of a redirect: those that change nothing.
_FOLLOWED: Final = frozenset({"GET", "HEAD"})
#: Source: RFC 9110 sections 15.4.2 and 15.4.9.
_PERMANENT: Final = frozenset({301, 308})


def allow_all(_host: str) -> str:
    """Allow redirects to every host."""
    return ""


class Answer(NamedTuple):
    """A small response: `content` are the first bytes of its body, `is_cut` says whether more follow."""

    status: int
    reason: str
    headers: Mapping[str, str]
    content: bytes
    is_cut: bool


class Transport:
    """An HTTP client with kept connections; shared by all threads of a run."""

    def __init__(
        self,
        settings: TransportSettings | None = None,
        refusal: Callable[[str], str] = allow_all,
        environ: Mapping[str, str] = _NO_ENVIRON,
    ) -> None:
        """Create a client.

        Args:
            settings: deadlines, trust and credentials.
            refusal: returns why a redirect to a host is not followed, "" if it is allowed.
            environ: the environment, from which the values of credentials are taken when a request is made.
        """
        self.settings, self._refusal, self._environ = settings or TransportSettings(), refusal, environ
        self.sent: Final = SentSecrets()
        self._wire = HttpConnections(self._dialled)
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None
        self._netrc, self._unread = _load_netrc(self.settings.netrc)
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
        check: Callable[[], None] = do_nothing,
        asked: Callable[[], None] = do_nothing,
    ) -> Iterator[Response]:
        """Send a GET for `url` and yield the response: the whole content, or a 206 with exactly the requested range.

        Args:
            url: http or https.
            headers: sent to the origin of `url` only, and not sent again after a redirect to another origin.
            size: bytes of the whole content, for the deadline and for checking a 206; -1 if unknown.
            offset: first byte to request, if `validator` still matches; the response may be the whole content.
            stop: end of the range (exclusive); -1 for the end of the content.
            validator: strong validator of the content that `offset` refers to.
            ends: deadline (`time.monotonic`); 0 for the time that the settings allow for `size` bytes.
            check: called in every wait; raises to stop it.
            asked: called when a connection is open and the wait for its response begins; again after a redirect.

        Raises:
            HttpStatusError: any other status.
            RedirectError: a redirect that must not be followed.
            StalledError, TlsError, TransportError: see the class docstrings.
            CancelledError: `check` raised it.
        """
        deadline = Deadline(self.settings, ends or time.monotonic() + self.settings.total_s(size), check, asked)
        span = ByteRange(offset, size if stop < 0 else stop, size)
        try:
            final, response, moved = self._follow(url, headers, self._asked(span, validator), deadline, GET)
            try:
                start = self._judged(url, response, span, validator, deadline)
                shown, moved = (self.sent.redact(redacted(place)) for place in (final, moved))
                yield Response(shown, response.status, response.headers, start, response, deadline, moved)
            finally:
                response.close()
        except FetchError as error:
            error.message = self.sent.redact(error.message)  # it may quote a response that repeats the request
            raise

    def send(
        self,
        method: Literal["GET", "HEAD", "PUT", "DELETE"],
        url: str,
        *,
        headers: Mapping[str, str],
        body: BinaryIO | None = None,
        size: int = 0,
        limit: int = 0,
        ends: float = 0.0,
        check: Callable[[], None] = do_nothing,
    ) -> Answer:
        """Send a request with a small answer, and return the answer of any status.

        Args:
            method: only GET and HEAD follow redirects.
            url: http or https.
            headers: sent to the origin of `url` only.
            body: the content to send, `size` bytes from its position; the caller keeps it open.
            size: as above.
            limit: most bytes of the answer that are read.
            ends: deadline (`time.monotonic`); 0 for the time that the settings allow for `size` bytes.
            check: called in every wait; raises to stop it.

        Raises:
            RedirectError: a redirect that must not be followed.
            StalledError, TlsError, TransportError: see the class docstrings.
            CancelledError: `check` raised it.
        """
        deadline = Deadline(self.settings, ends or time.monotonic() + self.settings.total_s(size), check)
        outgoing = Outgoing(method, body, body.tell() if body is not None else 0, size)
        try:
            _, response, _ = self._follow(url, headers, self._asked(ByteRange(0, -1, -1), ""), deadline, outgoing)
            try:
                deadline.reading()
                content = b"".join(response.body(limit + 1))
                return Answer(response.status, response.reason, response.headers, content[:limit], len(content) > limit)
            finally:
                response.close()
        except FetchError as error:
            error.message = self.sent.redact(error.message)
            raise

    def head(self, url: str, *, headers: Mapping[str, str], check: Callable[[], None] = do_nothing) -> Head:
        """Send a HEAD for `url`; return status and fields of the response, whatever the status is.

        Args:
            url: http or https.
            headers: as for `open`.
            check: as for `open`.

        Raises:
            RedirectError, StalledError, TlsError, TransportError, CancelledError: as `open`.
        """
        answer = self.send("HEAD", url, headers=headers, check=check)
        return Head(answer.status, answer.headers)

    def _judged(self, url: str, response: RawResponse, span: ByteRange, validator: str, deadline: Deadline) -> int:
        """As `check_response`; the hint of a 401 or 403 says how to give credentials, or why none were sent."""
        try:
            return check_response(response, span, validator, deadline)
        except HttpStatusError as error:
            if error.status in (401, 403):
                error.hint = self._credentials_hint(safe_origin(url))
            raise

    def _credentials_hint(self, home: Origin) -> str:
        """Return how to give credentials, or why those that are configured were not sent."""
        own = _find_credential(self.settings.credentials, home)
        if own is not None and home.scheme != "https":
            reason = f"{own.key} applies to https only"
        elif own is not None and not self._environ.get(own.env, "").strip():
            reason = f"the environment variable {own.env} of {own.key} is not set"
        elif own is None and self._unread:
            reason = f"{self._unread}; correct that file"
        else:
            return (
                "if a login is required, add it to the netrc file, to `headers:` of the definition, or to"
                f' [tool.doit-fetch.auth."{home.host}"]; else open the URL in a browser'
            )
        return f"no credentials were sent because {reason}"

    def _asked(self, span: ByteRange, validator: str) -> dict[str, str]:
        asked = {"User-Agent": self._agent, "Accept": "*/*", "Accept-Encoding": "identity"}
        if not span.is_whole:
            asked |= {"Range": span.header} | ({"If-Range": validator} if validator else {})
        return asked

    def _follow(
        self, url: str, secret: Mapping[str, str], asked: Mapping[str, str], deadline: Deadline, outgoing: Outgoing
    ) -> tuple[str, RawResponse, str]:
        home, moved = safe_origin(url), ""
        secret = self._with_credentials(home, secret)
        self.sent.add(secret, url)
        for _ in range(MAX_REDIRECTS + 1):
            here = safe_origin(url)
            if here != home:
                self._require(here)
                secret = {}  # even if a later redirect leads back: another origin chose it
            deadline.host = here.authority
            self._judge_literal(here)
            response = self._wire.ask(self._route(here), url, _merge_headers(asked, secret), deadline, outgoing)
            if response.status not in _REDIRECTS or outgoing.method not in _FOLLOWED:
                return url, response, moved
            response.close()
            url = next_url(url, _decode_location(response.location))
            if response.status in _PERMANENT:
                moved = moved or url
            self.sent.add({}, url)
        raise RedirectError(f"more than {MAX_REDIRECTS} redirects", hint="use the final URL in the definition")

    def refusal(self, host: str) -> str:
        """Return why a host is not asked, unless a definition names it; "" if it may be."""
        return self._refusal(host)

    def _require(self, origin: Origin) -> None:
        """Check that a redirect may lead to `origin`.

        Raises:
            RedirectError: the redirect is not allowed.
        """
        if reason := self._refusal(origin.host):
            message = f"a redirect to {origin} is not followed: {reason}"
            raise RedirectError(message, hint="allow that host in mirrors.yml, or use another URL")

    def judge(self, scheme: str, host: str, port: int, check: Callable[[], None]) -> None:
        """Check that another program may connect to a host: git, hg or ssh.

        Only an address in the URL is checked if the program uses a proxy, which then resolves the name.

        Raises:
            TransportError: an address of the host is in a denied network.
            CancelledError: `check` raised it.
        """
        origin = Origin(scheme, host, port)
        self._judge_literal(origin)
        if scheme in ("http", "https") and self._route(origin)[1] is not None:
            return
        deadline = Deadline(self.settings, time.monotonic() + self.settings.connect_timeout_s, check, do_nothing)
        deadline.host = origin.authority
        with contextlib.suppress(UnreachableError):  # ssh may know a name that the resolver does not know
            judge(host, port, deadline, self._denied)

    def _judge_literal(self, origin: Origin) -> None:
        """Check an address in the URL itself: a proxy would ask it.

        Raises:
            TransportError: it is in a denied network.
        """
        for address in literal_addresses(origin.host):
            if is_denied(address, self._denied):
                raise denied_error(origin.authority, address)

    def _with_credentials(self, home: Origin, secret: Mapping[str, str]) -> Mapping[str, str]:
        """Add the credential of the first host, from the settings or else from netrc, unless `secret` has that header.

        Raises:
            TransportError: the variable with the credential has an invalid value.
        """
        own = _find_credential(self.settings.credentials, home) if home.scheme == "https" else None
        try:
            value = read_secret(self._environ, own.env) if own is not None else ""
        except SettingError as error:
            raise TransportError(error.message, hint=error.hint) from error
        if own is not None and value:
            return _merge_headers({own.header: value}, secret)
        if any(name.lower() == "authorization" for name in secret):
            return secret
        known = self._netrc is not None and home.host in self._netrc.hosts
        login = self._netrc.authenticators(home.host) if self._netrc and known else None
        return {**secret, "Authorization": basic_authorization(login[0], login[2] or "")} if login else secret

    def _route(self, origin: Origin) -> Route:
        return origin, proxy_for(origin, self.settings.proxies, self.settings.no_proxy)

    def _dialled(self, route: Route, deadline: Deadline) -> DeadlineSocket:
        """Return a new connection to an origin, through its proxy if there is one.

        Raises:
            StalledError, TlsError, TransportError: see the class docstrings.
        """
        origin, proxy = route
        if proxy is None:
            sock = DeadlineSocket(connect(origin.host, origin.port, deadline, self._denied), deadline)
        else:
            sock = _connect_to_proxy(proxy, origin, deadline)
        try:
            if origin.scheme == "https":
                sock.secure(self._trust(), origin.host)
        except BaseException:
            sock.close()
            raise
        return sock

    def _trust(self) -> ssl.SSLContext:
        with self._lock:
            if self._context is None:
                self._context = create_context(self.settings.ca_bundle)
            return self._context


def _connect_to_proxy(proxy: Proxy, origin: Origin, deadline: Deadline) -> DeadlineSocket:
    """Return a connection to a proxy, or for https a tunnel through it. Proxies may be in denied networks."""
    deadline.host = f"{proxy.host}:{proxy.port} (proxy)"
    sock = None
    try:
        sock = DeadlineSocket(connect(proxy.host, proxy.port, deadline, ()), deadline)
        if origin.scheme == "https":
            open_tunnel(sock, origin, proxy, deadline)
    except BaseException as error:
        if sock is not None:
            sock.close()
        if isinstance(error, TransportError):
            error.hint = error.hint or PROXY_HINT
        raise
    deadline.host = origin.authority
    return sock


def _find_credential(credentials: Iterable[HostCredential], origin: Origin) -> HostCredential | None:
    """Return the credential of an origin's host; one for its port takes precedence over one for any port."""
    found = [one for one in credentials if one.host == origin.host and one.port in (0, origin.port)]
    return max(found, key=lambda one: one.port, default=None)


def _decode_location(location: str) -> str:
    """Decode a Location header as UTF-8 if possible; header values are read as latin-1."""
    with contextlib.suppress(UnicodeError):
        return location.encode("latin-1").decode("utf-8")
    return location


def _merge_headers(asked: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of both; `given` replaces headers of the same name."""
    if not given:
        return dict(asked)
    names = {name.lower() for name in given}
    return {name: value for name, value in asked.items() if name.lower() not in names} | dict(given)


def _version() -> str:
    try:
        return version("doit-fetch")
    except PackageNotFoundError:
        return "0"


def _load_netrc(path: str) -> tuple[netrc.netrc | None, str]:
    """Return the logins of a netrc file, and the reason if it cannot be read."""
    try:
        return netrc.netrc(path) if path else None, ""
    except FileNotFoundError:
        return None, ""
    except netrc.NetrcParseError as error:
        # the message of netrc may contain secrets
        return None, f"{escape_text(path)} is not a valid netrc file (line {error.lineno})"
    except (OSError, UnicodeError) as error:
        return None, f"{escape_text(path)} cannot be read: {escape_text(str(error))}"
