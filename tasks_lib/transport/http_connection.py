"""HTTP connections: send requests with requests and urllib3 over a `DeadlineSocket`.

The session of requests is not used: merging cookies, hooks and environment costs more than the request itself, and
other modules apply the needed ones explicitly. Exceptions of the libraries are translated into `TransportError` here.
"""

from __future__ import annotations

import contextlib
import email.parser
import http.client
import io
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, Final, NamedTuple, cast

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from tasks_lib.errors import RedirectError, StalledError, TransportError, escape_text
from tasks_lib.transport.deadline import Deadline
from tasks_lib.transport.deadline_socket import DeadlineSocket
from tasks_lib.transport.proxy import Proxy
from tasks_lib.transport.urls import Origin, request_target

#: Bytes per read of a body: at this size hashing and writing run outside the interpreter lock.
CHUNK: Final = 1 << 20
#: Most idle connections kept per route.
_MAX_IDLE: Final = 32

#: Bytes per read of a body that is sent.
_SENT: Final = 1 << 18

Route = tuple[Origin, Proxy | None]
Connect = Callable[[Route, Deadline], DeadlineSocket]

_serving = threading.local()


class Outgoing(NamedTuple):
    """The method of a request, and the body: `size` bytes from the position `start` of a file."""

    method: str = "GET"
    file: BinaryIO | None = None
    start: int = 0
    size: int = 0


GET: Final = Outgoing()


class _Body:
    """The body of a request while it is sent; it ends early if the server answers before it is complete."""

    def __init__(self, outgoing: Outgoing, file: BinaryIO, deadline: Deadline) -> None:
        file.seek(outgoing.start)
        self._file, self._deadline, self.left = file, deadline, outgoing.size

    def read(self, size: int) -> bytes:
        """Return the next bytes, b"" at the end, or when a response arrived: a refusal does not need the rest."""
        sock: DeadlineSocket = _serving.sock
        if not self.left or sock.has_input():
            self._deadline.answering()
            return b""
        self._deadline.sending()
        chunk = self._file.read(min(size, self.left))
        if not chunk:
            raise TransportError(self._deadline.told("the content ended early"))
        self.left -= len(chunk)
        return chunk


#: An unambiguous field line. Source: RFC 9110 section 5.6.2 (token), RFC 9112 section 5.
_FIELD: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n]*\r?\n")
#: Most bytes of a line. Source: CPython's http.client, `_MAXLINE`.
_MAX_LINE: Final = 1 << 16
#: Most lines and bytes of a head. Source: curl, `MAX_HTTP_RESP_HEADER_COUNT` and `MAX_HTTP_RESP_HEADER_SIZE`.
_MAX_FIELDS: Final = 5000
_MAX_HEAD: Final = 300 << 10
#: The status line of an interim response; 101 (Switching Protocols) is final. Source: RFC 9110 section 15.2.
_INTERIM: Final = re.compile(rb"HTTP/1\.[0-9]+[ \t]+1(?!01)[0-9]{2}\s")
#: Fields that determine the end of the body, and fields that determine whether the connection is kept.
#: Source: RFC 9112 sections 6.3 and 9.3; http.client reads the last two in HTTP/1.0 responses.
_LENGTH: Final = frozenset({"transfer-encoding", "content-length"})
_FRAMING: Final = _LENGTH | {"connection", "keep-alive", "proxy-connection"}


def _read_lines(file: io.BufferedIOBase) -> list[bytes]:
    """Return the field lines of a head, including the empty line that ends it (b"" at the end of the stream).

    Raises:
        http.client.HTTPException: a line is too long, or there are too many.
    """
    lines: list[bytes] = []
    size = 0
    while True:
        line = file.readline(_MAX_LINE + 1)
        if len(line) > _MAX_LINE:
            raise http.client.LineTooLong("header line")
        lines.append(line)
        size += len(line)
        if line in (b"\r\n", b"\n", b""):
            return lines
        if len(lines) > _MAX_FIELDS:
            raise http.client.HTTPException(f"got more than {_MAX_FIELDS} headers")
        if size > _MAX_HEAD:
            raise http.client.HTTPException(f"got more than {_MAX_HEAD} bytes of headers")


def _read_fields(file: io.BufferedIOBase) -> http.client.HTTPMessage:
    """Return the fields of a head. Only unusual lines use Python's email parser, which is ten times slower.

    Strip whitespace around values, which neither Python nor urllib3 does. Source: RFC 9112 section 5.1.

    Raises:
        http.client.HTTPException: as `_read_lines`.
    """
    lines = _read_lines(file)
    head = http.client.HTTPMessage()
    if not lines[-1] or not all(map(_FIELD.fullmatch, lines[:-1])):
        # as `http.client.parse_headers`, which accepts only 100 lines
        head = email.parser.Parser(http.client.HTTPMessage).parsestr(b"".join(lines).decode("iso-8859-1"))
        given = head.items()
        for name, _ in given:
            del head[name]
    else:
        parts = (line.decode("iso-8859-1").rstrip("\r\n").partition(":") for line in lines[:-1])
        given = [(name, value) for name, _, value in parts]
    for name, value in given:
        head.set_raw(name, value.strip(" \t"))
    return head


def _framing_fields(fields: http.client.HTTPMessage) -> list[tuple[str, str]]:
    """Return the fields that determine the end of the body and whether the connection is kept, unfolded."""
    both = "Transfer-Encoding" in fields and "Content-Length" in fields
    wanted = _LENGTH if both else _FRAMING
    framing = [("Connection", "close")] if both else []  # Source: RFC 9112 section 6.3, item 3
    for name, value in fields.items():
        if name.lower() in wanted:
            framing.append((name, value.replace("\r", " ").replace("\n", " ")))  # Source: RFC 9112 section 5.2
    return framing


class _ResponseHead(http.client.HTTPResponse):
    """A response that skips every interim response (Python skips only 100) and parses ordinary fields fast."""

    def begin(self, **options: Any) -> None:
        """Read the head; Python derives the framing of the body from the status line and the framing fields."""
        file: Any = self.fp
        status_line = file.readline(_MAX_LINE + 1)
        while _INTERIM.match(status_line):
            _read_lines(file)
            status_line = file.readline(_MAX_LINE + 1)
        fields = _read_fields(file) if status_line.startswith(b"HTTP/") else http.client.HTTPMessage()
        head = "".join(f"{name}: {value}\r\n" for name, value in _framing_fields(fields))
        self.fp = cast(Any, io.BytesIO(status_line + head.encode("iso-8859-1") + b"\r\n"))
        try:
            super().begin(**options)
        finally:
            self.fp = file
        self.headers = self.msg = fields


class _Connection(urllib3.connection.HTTPConnection):
    """A connection over one route; serves the attempt of the thread that uses it."""

    response_class = _ResponseHead

    def __init__(self, *arguments: Any, route: Route, dial: Connect, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._route, self._dial = route, dial

    def connect(self) -> None:
        deadline: Deadline = _serving.deadline
        sock = self._dial(self._route, deadline)
        _serving.sock = sock
        self.sock = cast(Any, sock)
        deadline.answering()

    def request(self, method: str, url: str, *arguments: Any, **options: Any) -> None:  # noqa: ARG002  # urllib3 calls it
        """Send a request for the target as written; urllib3 passes one with upper-case percent escapes."""
        if self.sock is not None:
            _serving.sock = cast(Any, self.sock)
            _serving.sock.serve(_serving.deadline)
            _serving.deadline.answering()
        super().request(method, _serving.target, *arguments, **options)


class _Pool(urllib3.HTTPConnectionPool):
    """Idle connections of one route. `DeadlineSocket` does TLS."""

    ConnectionCls = _Connection


class _Adapter(HTTPAdapter):
    """Selects the pool of a route, and skips what other modules do: proxies, certificates, cookies."""

    def __init__(self, dial: Connect) -> None:
        super().__init__(max_retries=Retry(total=False, connect=0, read=False, redirect=0))
        self._dial = dial
        self._lock = threading.Lock()
        self._pools: dict[Route, _Pool] = {}

    def get_connection_with_tls_context(self, request: Any, *_arguments: Any, **_options: Any) -> _Pool:
        route: Route = request.route
        with self._lock:
            if route not in self._pools:
                origin = route[0]
                self._pools[route] = _Pool(
                    origin.host,
                    origin.port,
                    maxsize=_MAX_IDLE,
                    route=route,
                    dial=self._dial,
                    retries=False,
                    blocksize=_SENT,
                )
            return self._pools[route]

    def cert_verify(self, *_arguments: Any, **_options: Any) -> None:
        """Do nothing: `DeadlineSocket` verifies certificates."""

    def request_url(self, request: Any, proxies: Any) -> str:  # noqa: ARG002  # requests' own signature
        return cast(str, request.target)

    def build_response(self, req: Any, resp: Any) -> Any:  # noqa: ARG002  # requests' own signature
        """Return the response of urllib3: the additions of requests (cookies, text, history) are not needed."""
        return resp


class HttpConnections:
    """Sends requests; shared by all threads of a run."""

    def __init__(self, dial: Connect) -> None:
        self._adapter = _Adapter(dial)

    def ask(
        self, route: Route, url: str, headers: Mapping[str, str], deadline: Deadline, outgoing: Outgoing = GET
    ) -> RawResponse:
        """Send a request and read the head of the response; replace kept connections that turn out to be dead.

        Raises:
            StalledError, TlsError, TransportError: no response, or an invalid one.
        """
        for _ in range(_MAX_IDLE):
            try:
                return self._once(route, url, headers, deadline, outgoing)
            except TransportError as error:
                sock: DeadlineSocket | None = _serving.sock
                if sock is None or sock.is_fresh or sock.was_heard or isinstance(error, StalledError):
                    raise
        return self._once(route, url, headers, deadline, outgoing)

    def _once(
        self, route: Route, url: str, headers: Mapping[str, str], deadline: Deadline, outgoing: Outgoing
    ) -> RawResponse:
        _serving.deadline, _serving.sock = deadline, None
        origin, proxy = route
        request = requests.PreparedRequest()
        body = _Body(outgoing, outgoing.file, deadline) if outgoing.file is not None else None
        request.method, request.url, request.body, target = outgoing.method, url, cast(Any, body), request_target(url)
        own = {"Host": origin.authority, **headers} | ({"Content-Length": str(outgoing.size)} if body else {})
        if proxy is not None and origin.scheme == "http":
            target, own = f"http://{origin.authority}{target}", own | proxy.headers
        request.headers = cast(Any, own)
        _serving.target = target
        vars(request).update(route=route, target=target)
        try:
            with translate_errors(deadline):
                response = RawResponse(self._adapter.send(request, stream=True), deadline)
                response.broken = body is not None and body.left > 0  # the connection is not usable again
                return response
        except BaseException:
            if _serving.sock is not None:
                _serving.sock.abandon()
            raise


@contextlib.contextmanager
def translate_errors(deadline: Deadline) -> Iterator[None]:
    """Translate exceptions of the libraries; errors of `DeadlineSocket` pass unchanged.

    Raises:
        TransportError: the response is not valid HTTP; permanent.
    """
    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise TransportError(
            deadline.told(f"invalid HTTP response ({_reason(error)})"),
            hint="check the port, and that a web server listens there",
        ) from error


def _reason(error: BaseException) -> str:
    """Return the innermost reason, without the wrapping exceptions of the libraries."""
    for _ in range(10):
        inner = getattr(error, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((one for one in error.args if isinstance(one, BaseException)), None)
        if inner is None:
            break
        error = inner
    return escape_text(" ".join(str(error).split())[:160]) or type(error).__name__


def _merge_repeated(headers: urllib3.HTTPHeaderDict) -> Mapping[str, str]:
    """Return the fields by name, in any case; equal values of a repeated field count once."""
    return urllib3.HTTPHeaderDict({name: ", ".join(dict.fromkeys(headers.getlist(name))) for name in headers})


class RawResponse:
    """The head of a response, and its raw body as a stream."""

    def __init__(self, response: Any, deadline: Deadline) -> None:
        self._raw, self._deadline = response, deadline
        self.status: int = response.status
        self.reason: str = response.reason or ""
        self.headers: Mapping[str, str] = _merge_repeated(response.headers)
        self.broken = False

    @property
    def location(self) -> str:
        """The target of a redirect, "" if there is none.

        Raises:
            RedirectError: different Location headers.
        """
        targets = set(self._raw.headers.getlist("Location"))
        if len(targets) > 1:
            raise RedirectError(
                f"the redirect has {len(targets)} different Location headers",
                hint="open the URL in a browser, and use the final URL in the definition",
            )
        return targets.pop() if targets else ""

    @property
    def length(self) -> int:
        """Size of the body by its headers, -1 if unknown. Source: RFC 9110 section 8.6.

        Raises:
            TransportError: conflicting lengths, or an invalid one.
        """
        text = self.headers.get("Content-Length", "")
        if not text or "Transfer-Encoding" in self.headers:
            return -1  # chunked framing takes precedence; the digest verifies a message with both
        values = {value.strip() for value in text.split(",")}
        if len(values) == 1 and re.fullmatch("[0-9]{1,20}", only := values.pop()):
            return int(only)
        raise TransportError(self._deadline.told(f"conflicting or invalid Content-Length {escape_text(text[:80])!r}"))

    def body(self, limit: int, largest: int = CHUNK) -> Iterator[bytes]:
        """Yield the raw body, at most `limit` bytes; if the framing is incomplete, set `broken` and end.

        Raises:
            StalledError, TransportError: a deadline passed, or the connection broke.
        """
        while limit > 0:
            if limit == 1:  # the content is complete; only check that no byte follows
                self._deadline.begin_short_read()
            try:
                chunk = self._raw.read1(min(largest, limit), decode_content=False)
            except (urllib3.exceptions.HTTPError, OSError, ValueError):
                self.broken = True
                return
            if not chunk:
                return
            limit -= len(chunk)
            self._deadline.received += len(chunk)
            yield chunk

    def close(self) -> None:
        """Return the connection to the pool if the body was read to its end, else close it."""
        if self.broken or not self._raw.closed:
            self._raw.close()
        self._raw.release_conn()
