"""Transport: owns sockets. One attempt at one URL, raw bytes, bounded in time and bytes.

Redirects are followed here, each one judged; secrets stay with the origin they were meant for; bodies are never
decoded; TLS is always verified. No retry: whether to try again is decided in `sources`.
"""

from __future__ import annotations

import contextlib
import netrc
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, cast
from urllib.parse import urljoin, urlsplit, urlunsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from tasks_lib.errors import (
    HttpStatusError,
    RedirectError,
    StalledError,
    TlsError,
    TransportError,
    escaped,
)
from tasks_lib.network import TransportSettings as TransportSettings  # a part of what this module offers

#: Most redirects of one request. Source: faults.md section 6; curl and browsers stop between 10 and 50.
MAX_REDIRECTS: Final = 10
#: Bytes per read of a body: at this size hashing and writing run outside the interpreter lock.
CHUNK: Final = 1 << 20
#: Longest text of a redirect target or validator that is looked at, in characters.
_MAX_HEADER: Final = 8192
#: Status codes after which the same request may succeed. Source: RFC 9110 section 15, RFC 6585 section 4.
_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 507, 520, 521, 522, 523, 524})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
#: Seconds between two looks of the watchdog.
_TICK_S: Final = 0.1
#: Seconds over which the minimum rate must hold.
_RATE_WINDOW_S: Final = 60.0


@dataclass(slots=True, kw_only=True)
class Response:
    """An answer whose body has not been read; valid inside `Transport.open`."""

    url: str
    status: int
    headers: Mapping[str, str]
    start: int
    _raw: Any
    _watch: _Watch
    broken: bool = False  # the body ended before its framing said so

    @property
    def validator(self) -> str:
        """The strong validator of the content, "" when there is none. Source: RFC 9110 section 8.8.3."""
        etag = self.headers.get("ETag", "")
        return etag if re.fullmatch(r'"[\x21\x23-\x7e]*"', etag) and len(etag) <= 512 else ""

    @property
    def encoding(self) -> str:
        """The content encoding that the server claims, "" for none."""
        encoding = self.headers.get("Content-Encoding", "").strip().lower()
        return "" if encoding == "identity" else encoding

    def chunks(self, limit: int) -> Iterator[bytes]:
        """Yield the raw body as it comes, at most `limit` bytes.

        Raises:
            StalledError: a deadline passed or the rate was too low.
            TransportError: the connection broke.
        """
        while limit > 0:
            with self._watch.errors("while reading the body"):
                try:
                    chunk = self._raw.read1(min(CHUNK, limit), decode_content=False)
                except urllib3.exceptions.ProtocolError:
                    chunk = b""  # it ended early: a promised size tells more than the framing
                    self.broken = True
            if not chunk:
                return
            self._watch.moved(len(chunk))
            limit -= len(chunk)
            yield chunk


def redacted(url: str) -> str:
    """Return `url` fit for a message: no credentials, no query (presigned URLs hold secrets there)."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        host = f"[{host}]" if ":" in host else host
        netloc = f"{host}:{parts.port}" if parts.port else host
    except ValueError:
        return "(unreadable URL)"
    query = "..." if parts.query else ""
    return escaped(urlunsplit((parts.scheme, netloc, parts.path, query, "")))


def origin_of(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port. Source: RFC 6454 section 4.

    Raises:
        ValueError: the text is no URL.
    """
    parts = urlsplit(url)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme.lower(), 0)
    return parts.scheme.lower(), (parts.hostname or "").lower(), port


class _Watch:
    """Deadlines of one attempt; closes the socket under a library call that would wait for ever."""

    def __init__(self, settings: TransportSettings, total_s: float) -> None:
        self._settings = settings
        now = time.monotonic()
        self._ends = now + total_s
        self._total_s = total_s
        self._last = self._window_start = now
        self._window_bytes = 0
        self.verdict = ""
        self.connection: Any = None

    def moved(self, size: int) -> None:
        """Note that bytes arrived."""
        self._last = time.monotonic()
        self._window_bytes += size

    def look(self, now: float) -> None:
        """Decide, and cut the connection when a deadline passed."""
        settings = self._settings
        if now > self._ends:
            self.verdict = f"took longer than {self._total_s:.0f} s in total"
        elif now - self._last > settings.stall_timeout_s:
            self.verdict = f"no byte for {settings.stall_timeout_s:g} s"
        elif now - self._window_start > _RATE_WINDOW_S:
            if self._window_bytes < settings.min_rate_bps * _RATE_WINDOW_S:
                self.verdict = f"slower than {settings.min_rate_bps:g} bytes/s for {_RATE_WINDOW_S:.0f} s"
            self._window_start, self._window_bytes = now, 0
        if self.verdict:
            self.cut()

    def cut(self) -> None:
        """Wake whoever waits for the socket."""
        sock = getattr(self.connection, "sock", None)
        if sock is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    @contextlib.contextmanager
    def errors(self, when: str) -> Iterator[None]:
        """Translate what the libraries raise.

        Raises:
            StalledError, TlsError, TransportError: see the class docstrings.
        """
        try:
            yield
        except TransportError:
            raise
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            if self.verdict:
                raise StalledError(f"{self.verdict} {when}", transient=True) from error
            raise _translated(error, when) from error
        if self.verdict:
            raise StalledError(f"{self.verdict} {when}", transient=True)


class _Watchdog:
    """One thread that looks at all attempts; started with the first one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watches: set[_Watch] = set()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def guarding(self, watch: _Watch) -> Iterator[None]:
        with self._lock:
            self._watches.add(watch)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._watches.discard(watch)

    def _run(self) -> None:
        while True:
            time.sleep(_TICK_S)
            with self._lock:
                now = time.monotonic()
                for watch in self._watches:
                    watch.look(now)


_current = threading.local()


class _HttpConnection(urllib3.connection.HTTPConnection):
    """Tells the watch of this thread which socket works for it."""

    def request(self, *args: Any, **kwargs: Any) -> None:
        _current.watch.connection = self
        super().request(*args, **kwargs)


class _HttpsConnection(urllib3.connection.HTTPSConnection):
    """The same over TLS."""

    def request(self, *args: Any, **kwargs: Any) -> None:
        _current.watch.connection = self
        super().request(*args, **kwargs)


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}


class Transport:
    """Sockets, shared by all threads of a run."""

    def __init__(self, settings: TransportSettings | None = None) -> None:
        self.settings = settings or TransportSettings()
        session = requests.Session()
        session.trust_env = False  # netrc and proxies are applied on purpose, below
        session.headers.clear()
        session.proxies.update(dict(self.settings.proxies))
        adapter = _Adapter(pool_connections=64, pool_maxsize=self.settings.connections, max_retries=0)
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        self._session = session
        self._watchdog = _Watchdog()
        self._netrc = _netrc_of(self.settings.netrc)
        self._agent = f"doit-fetch/{_version()} (+python-requests/{requests.__version__})"

    @contextlib.contextmanager
    def open(
        self, url: str, *, headers: Mapping[str, str], size: int, offset: int = 0, validator: str = ""
    ) -> Iterator[Response]:
        """Ask for `url` and give the answer of status 200, or 206 for exactly what was asked.

        Args:
            url: http or https.
            headers: sent to the origin of `url` only, never further along a redirect.
            size: bytes that are expected, for the total deadline and for judging a 206; -1 when unknown.
            offset: bytes that are there already; more than 0 asks for the rest, if `validator` still holds.
            validator: strong validator of the bytes that are there.

        Raises:
            HttpStatusError: another status.
            RedirectError: a redirect that is not followed.
            StalledError, TlsError, TransportError: see the class docstrings.
        """
        watch = _Watch(self.settings, self._total_s(size))
        _current.watch = watch
        with self._watchdog.guarding(watch):
            asked = {"User-Agent": self._agent, "Accept": "*/*", "Accept-Encoding": "identity"}
            if offset:
                asked |= {"Range": f"bytes={offset}-", "If-Range": validator}
            final, response = self._follow(url, headers, asked, watch)
            try:
                start = _start_of(response, final, offset=offset, size=size)
                yield Response(
                    url=redacted(final),
                    status=response.status_code,
                    headers=cast("Mapping[str, str]", response.headers),
                    start=start,
                    _raw=response.raw,
                    _watch=watch,
                )
                # a body that was read to its end frees its connection for the next request
            finally:
                if getattr(response.raw, "_fp_bytes_read", -1) != _length_of(response, strictly=False):
                    response.close()
                else:
                    response.raw.release_conn()

    def _total_s(self, size: int) -> float:
        if self.settings.total_timeout_s:
            return self.settings.total_timeout_s
        return max(300.0, size / (50 * 1024))

    def _follow(
        self, url: str, secret: Mapping[str, str], asked: Mapping[str, str], watch: _Watch
    ) -> tuple[str, requests.Response]:
        home = _safe_origin(url)
        for _ in range(MAX_REDIRECTS + 1):
            here = _safe_origin(url)
            headers = {**asked, **(secret if here == home else {})}
            if not any(name.lower() == "authorization" for name in headers):
                headers |= self._login(here[1])
            with watch.errors(f"while asking {here[1]}"):
                response = self._session.get(
                    url,
                    headers=headers,
                    stream=True,
                    allow_redirects=False,
                    timeout=(self.settings.connect_timeout_s, self.settings.stall_timeout_s),
                    verify=self.settings.ca_bundle or True,
                    proxies=self._proxies(url),
                )
                self._session.cookies.clear()
            watch.moved(0)
            if response.status_code not in _REDIRECTS:
                return url, response
            location = response.headers.get("Location", "")
            response.close()
            url = _next_url(url, location)
        raise RedirectError(f"more than {MAX_REDIRECTS} redirects", hint="use the final URL in the definition")

    def _login(self, host: str) -> dict[str, str]:
        login = self._netrc.authenticators(host) if self._netrc and host in self._netrc.hosts else None
        if not login:
            return {}
        authorization: str = requests.auth._basic_auth_str(login[0], login[2] or "")
        return {"Authorization": authorization}

    def _proxies(self, url: str) -> dict[str, str]:
        if self.settings.proxies and requests.utils.should_bypass_proxies(url, self.settings.no_proxy or None):
            return {"http": "", "https": ""}
        return dict(self.settings.proxies)


def _version() -> str:
    try:
        return version("doit-fetch")
    except PackageNotFoundError:
        return "0"


def _netrc_of(path: str) -> netrc.netrc | None:
    try:
        return netrc.netrc(path) if path else None
    except (OSError, netrc.NetrcParseError):
        return None


def _safe_origin(url: str) -> tuple[str, str, int]:
    try:
        return origin_of(url)
    except ValueError as error:
        raise RedirectError(f"cannot read the URL {escaped(url[:200])!r}") from error


def _next_url(url: str, location: str) -> str:
    """Return where a redirect leads.

    Raises:
        RedirectError: nowhere, to another scheme, away from TLS, with credentials, or unreadable.
    """
    if not location or len(location) > _MAX_HEADER or re.search(r"[\x00-\x20\x7f\\]", location):
        raise RedirectError(f"an unreadable redirect: {escaped(location[:200])!r}")
    with contextlib.suppress(ValueError):
        target = urljoin(url, location).partition("#")[0]
        parts = urlsplit(target)
        scheme, host, _ = origin_of(target)
        if scheme not in ("http", "https") or not host:
            raise RedirectError(f"a redirect to {escaped(target[:200])!r} is not followed: only http and https are")
        if scheme == "http" and url.lower().startswith("https:"):
            raise RedirectError(f"a redirect from https to {redacted(target)} is not followed: it leaves TLS")
        if parts.username is not None or parts.password is not None:
            raise RedirectError("a redirect with credentials in its URL is not followed")
        return target
    raise RedirectError(f"an unreadable redirect: {escaped(location[:200])!r}")


def _length_of(response: requests.Response, *, strictly: bool) -> int:
    """Return Content-Length, -1 for none. Source: RFC 9110 section 8.6."""
    text = response.headers.get("Content-Length", "")
    if not text or "Transfer-Encoding" in response.headers:
        return -1
    values = {value.strip() for value in text.split(",")}
    if len(values) == 1 and re.fullmatch("[0-9]{1,19}", only := values.pop()):
        return int(only)
    if strictly and len(values) > 0:
        raise TransportError(f"conflicting Content-Length: {escaped(text[:80])!r}")
    return -1


def _start_of(response: requests.Response, url: str, *, offset: int, size: int) -> int:
    """Judge status and length; return the offset at which the body begins.

    Raises:
        HttpStatusError: no success, or a 206 that is not what was asked for.
        TransportError: a length that cannot be the promised content.
    """
    status = response.status_code
    if status == 206 and offset:
        expected = f"bytes {offset}-{size - 1}/{size}"
        given = response.headers.get("Content-Range", "")
        if given != expected:
            raise HttpStatusError(
                f"asked for the rest from byte {offset}, got Content-Range {escaped(given[:80])!r}", status=status
            )
        return offset
    if status != 200:
        raise HttpStatusError(
            f"HTTP {status} {escaped((response.reason or '')[:60])}{_said(response)}".rstrip(),
            status=status,
            transient=status in _TRANSIENT,
            retry_after_s=_retry_after(response.headers.get("Retry-After", "")),
            hint="look at the URL in a browser" if status in (401, 403, 404, 410) else "",
        )
    length = _length_of(response, strictly=True)
    if size >= 0 and length >= 0 and length != size:
        encoding = response.headers.get("Content-Encoding", "")
        applied = f"; the server applied Content-Encoding {escaped(encoding[:40])}" if encoding else ""
        raise TransportError(
            f"expected {size} bytes, but the server announces {length}{applied}{_said(response)}",
            hint=f"look at {redacted(url)}: the content changed, or this is another page",
        )
    return 0


def _said(response: requests.Response) -> str:
    """Return the first characters of a text answer, so that a login page is recognised at once."""
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if not (kind.startswith("text/") or kind.endswith("json")):
        return ""
    with contextlib.suppress(requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError):
        start = response.raw.read1(400, decode_content=False)
        words = " ".join(start.decode("utf-8", "replace").split())
        return f"; {escaped(kind)} beginning {escaped(words[:60])!r}"
    return ""


def _retry_after(text: str) -> float | None:
    """Return the seconds that the server asks to wait. Source: RFC 9110 section 10.2.3."""
    if re.fullmatch("[0-9]{1,9}", text):
        return float(text)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return None


def _translated(error: Exception, when: str) -> TransportError:
    reason = _root_reason(error)
    if isinstance(error, requests.exceptions.SSLError | urllib3.exceptions.SSLError):
        return TlsError(f"TLS: {reason}", hint="certificates are always verified; REQUESTS_CA_BUNDLE names another CA")
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return StalledError(f"timed out {when}", transient=True)
    if isinstance(error, requests.exceptions.InvalidHeader | urllib3.exceptions.InvalidHeader):
        return TransportError(f"{reason} {when}")
    if isinstance(error, ValueError) and not isinstance(error, requests.RequestException):
        return TransportError(f"unreadable answer {when}: {reason}")
    return TransportError(f"{reason} {when}", transient=True)


def _root_reason(error: BaseException) -> str:
    """Return the innermost reason: the libraries wrap it in words about their own classes."""
    seen = 0
    while seen < 10:
        inner = getattr(error, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((arg for arg in error.args if isinstance(arg, BaseException)), None)
        if inner is None:
            break
        error, seen = inner, seen + 1
    if isinstance(error, socket.gaierror):
        return "the name of the host cannot be resolved"
    text = getattr(error, "strerror", None) or str(error)
    if "Failed to resolve" in text:
        return "the name of the host cannot be resolved"
    return escaped(re.sub(r"^<[^>]*>: ", "", str(text))[:200]) or type(error).__name__
