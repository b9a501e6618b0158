"""HTTP connections: send requests with requests and urllib3 over a `DeadlineSocket`.

The session of requests is not used: merging cookies, hooks and environment costs more than the request itself, and
other modules apply the needed ones explicitly. Exceptions of the libraries are translated into `TransportError` here.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import re
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, BinaryIO, Final, NamedTuple, cast

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from tasks_lib.errors import RedirectError, StalledError, TransportError, escape_text
from tasks_lib.transport.deadline import Deadline
from tasks_lib.transport.deadline_socket import DeadlineSocket
from tasks_lib.transport.proxy import Proxy
from tasks_lib.transport.response_head import Fields, PlainHead, ResponseHead
from tasks_lib.transport.urls import Origin, request_target

#: Bytes per read of a body: at this size hashing and writing run outside the interpreter lock.
CHUNK: Final = 1 << 20
#: Most idle connections kept per route.
_MAX_IDLE: Final = 32

#: Bytes per read of a body that is sent.
_SENT: Final = 1 << 18
#: Bytes of a body that one wait gathers, if so many are missing.
_GATHERED: Final = 256 << 10
#: Most bytes that are received at once while the head of a response is expected.
_BEGIN: Final = 64 << 10

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
        if not self.left or sock.is_readable():
            self._deadline.answering()
            return b""
        self._deadline.sending()
        chunk = self._file.read(min(size, self.left))
        if not chunk:
            raise TransportError(self._deadline.told("the content ended early"))
        self.left -= len(chunk)
        return chunk


class _Buffer(threading.local):
    """The buffer of each thread into which the beginning of a response is received."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(_BEGIN))


_BUFFER: Final = _Buffer()


class _PlainResponse:
    """A response with a plain head, and the bytes of its body that arrived with the head; as `ResponseHead`."""

    def __init__(self, head: PlainHead, begin: bytes, sock: DeadlineSocket) -> None:
        self.status, self.reason, self.plain_fields, self.left = head[:4]
        self.length, self._sock = self.left, sock
        self._begin, self._is_alone = begin[: self.left], len(begin) <= self.left
        self.fp = self

    @property
    def closed(self) -> bool:
        """Whether the body was read to its end, and nothing else arrived with it."""
        return not self.left and self._is_alone

    def read1(self, size: int) -> bytes:
        """Return at least one byte and at most `size` of them, b"" at the end of the stream."""
        begin = self._begin
        if begin:
            self._begin = begin[size:]
            return begin[:size]
        return self._file.read1(size)

    @cached_property
    def _file(self) -> io.BufferedReader:
        return self._sock.makefile()

    def close(self) -> None:
        """Release the socket."""
        if "_file" in vars(self):
            self._file.close()


class _Connection(urllib3.connection.HTTPConnection):
    """A connection over one route; serves the attempt of the thread that uses it."""

    response_class = ResponseHead
    #: The bytes of the last request without a body, as http.client formatted them.
    asked = b""
    #: urllib3's own looks for a value that only it passes, in every header of a request.
    putheader = http.client.HTTPConnection.putheader

    def __init__(self, *arguments: Any, route: Route, dial: Connect, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._route, self._dial = route, dial

    def connect(self) -> None:
        deadline: Deadline = _serving.deadline
        sock = self._dial(self._route, deadline)
        _serving.sock = sock
        self.sock = cast(Any, sock)
        deadline.answering()

    def is_silent(self) -> bool:
        """Whether the connection is open and no data has arrived on it since the last response."""
        return self.sock is not None and not cast(DeadlineSocket, self.sock).is_readable()

    def request(self, method: str, url: str, *arguments: Any, **options: Any) -> None:
        """Send a request."""
        if self.sock is not None:
            _serving.sock = cast(Any, self.sock)
            _serving.sock.serve(_serving.deadline)
            _serving.deadline.answering()
        http.client.HTTPConnection.request(self, method, url, *arguments, **options)

    def send(self, data: Any) -> None:
        """Send a part of a request, and keep it."""
        self.asked = data if isinstance(data, bytes) else b""
        super().send(data)

    def repeat(self, target: str, fields: bytes) -> Any:
        """Send a GET for another target with the fields of an earlier request; read the head of the response."""
        _serving.sock = sock = cast(DeadlineSocket, self.sock)
        sock.serve(_serving.deadline)
        _serving.deadline.answering()
        sock.sendall(b"GET %b HTTP/1.1\r\n%b" % (target.encode("ascii"), fields))
        begin = bytes(_BUFFER.view[: sock.receive(_BUFFER.view)])
        plain = PlainHead.parse(begin)
        if plain is not None:
            return _PlainResponse(plain, begin[plain.end :], sock)
        sock.give_back(begin)
        head = ResponseHead(sock, method="GET")
        try:
            head.begin()
        except BaseException:
            head.close()
            raise
        if head.will_close:
            self.close()
        return self._wrapped(head)

    def getresponse(self) -> Any:
        """Read the head of the response."""
        return self._wrapped(cast(ResponseHead, http.client.HTTPConnection.getresponse(self)))

    @staticmethod
    def _wrapped(head: ResponseHead) -> Any:
        """Return a head as it is if it is plain: a wrapper of urllib3 takes as long as the head."""
        if head.plain_fields is not None:
            return head
        return urllib3.HTTPResponse(
            body=head,
            headers=urllib3.HTTPHeaderDict(head.msg.items()),
            status=head.status,
            version=head.version,
            reason=head.reason,
            preload_content=False,
            decode_content=False,
            original_response=cast(Any, head),
            request_method=head.asked_method,
        )


class _Pool(urllib3.HTTPConnectionPool):
    """Idle connections of one route, the last one first. `DeadlineSocket` does TLS."""

    def __init__(self, route: Route, dial: Connect) -> None:
        super().__init__(route[0].host, route[0].port)
        self._route, self._dial = route, dial
        self._idle: deque[_Connection] = deque()
        self._formatted: tuple[Mapping[str, str], bytes] | None = None  # headers, and the fields that carried them
        weakref.finalize(self, _close_all, self._idle)

    def urlopen(self, method: str, url: str, body: Any = None, headers: Any = None, **_options: Any) -> Any:  # type: ignore[override]
        """Send a request; return the head of the response and its connection, which `keep` takes back.

        urllib3's own retries, redirects and errors do the work of other modules twice.
        """
        connection = self._take() or _Connection(
            self.host, self.port, route=self._route, dial=self._dial, blocksize=_SENT
        )
        try:
            connection.request(method, url, body, headers)
            if method == "GET" and body is None:
                self._formatted = headers, connection.asked.partition(b"\r\n")[2]
            return connection.getresponse(), connection
        except BaseException:
            connection.close()
            raise

    def repeat(self, target: str, headers: Mapping[str, str]) -> tuple[Any, _Connection] | None:
        """Send a GET like the last one, which differs in its target only, over a kept connection; return as `urlopen`.

        Return None if there is no such request, or no such connection.
        """
        formatted = self._formatted
        connection = self._take() if formatted is not None and formatted[0] == headers else None
        if connection is None or formatted is None:
            return None
        try:
            return connection.repeat(target, formatted[1]), connection
        except BaseException:
            connection.close()
            raise

    def _take(self) -> _Connection | None:
        """Return an idle connection; a connection that was closed or has sent unexpected data is dropped."""
        with contextlib.suppress(IndexError):
            while True:
                connection = self._idle.pop()
                if connection.is_silent():
                    return connection
                connection.close()
        return None

    def keep(self, connection: _Connection) -> None:
        """Take back a connection whose response was read to its end."""
        if len(self._idle) < _MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.close()


def _close_all(connections: Iterable[_Connection]) -> None:
    for connection in connections:
        connection.close()


class _Adapter(HTTPAdapter):
    """Selects the pool of a route, and skips what other modules do: proxies, certificates, cookies."""

    def __init__(self, dial: Connect) -> None:
        super().__init__(max_retries=Retry(total=False, connect=0, read=False, redirect=0))
        self._dial = dial
        self._lock = threading.Lock()
        self._pools: dict[Route, _Pool] = {}

    def ask(
        self, route: Route, method: str, target: str, headers: Mapping[str, str], body: _Body | None
    ) -> tuple[Any, _Connection]:
        """Send a request; return the head of the response and its connection."""
        request = requests.PreparedRequest()
        request.method, request.url, request.body = method, target, cast(Any, body)
        request.headers = cast(Any, headers)
        vars(request).update(route=route)
        return cast("tuple[Any, _Connection]", self.send(request, stream=True))

    def get_connection_with_tls_context(self, request: Any, *_arguments: Any, **_options: Any) -> _Pool:
        return self.pool(request.route)

    def pool(self, route: Route) -> _Pool:
        """Return the pool of a route."""
        with self._lock:
            if route not in self._pools:
                self._pools[route] = _Pool(route, self._dial)
            return self._pools[route]

    def cert_verify(self, *_arguments: Any, **_options: Any) -> None:
        """Do nothing: `DeadlineSocket` verifies certificates."""

    def request_url(self, request: Any, proxies: Any) -> str:  # noqa: ARG002  # requests' own signature
        return cast(str, request.url)

    def build_response(self, req: Any, resp: Any) -> Any:  # noqa: ARG002  # requests' own signature
        """Return the response and its connection: the additions of requests (cookies, text) are not needed."""
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
        body = _Body(outgoing, outgoing.file, deadline) if outgoing.file is not None else None
        origin, proxy = route
        target = request_target(url)
        own = {"Host": origin.authority, **headers} | ({"Content-Length": str(outgoing.size)} if body else {})
        if proxy is not None and origin.scheme == "http":
            target, own = f"http://{origin.authority}{target}", own | proxy.headers
        pool = self._adapter.pool(route)
        try:
            answer = pool.repeat(target, own) if outgoing is GET else None
            head, connection = answer or self._adapter.ask(route, outgoing.method, target, own, body)
        except _INVALID as error:
            if _serving.sock is not None:
                _serving.sock.abandon()
            raise _invalid_response(error, deadline) from error
        except BaseException:
            if _serving.sock is not None:
                _serving.sock.abandon()
            raise
        response = RawResponse(head, connection, pool, deadline)
        response.broken = body is not None and body.left > 0  # the connection is not usable again
        return response


#: Exceptions of the libraries that mean an invalid response; errors of `DeadlineSocket` are none of them.
_INVALID: Final = (
    requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError
)  # fmt: skip


def _invalid_response(error: Exception, deadline: Deadline) -> TransportError:
    """Return the error for a response that is not valid HTTP; permanent."""
    return TransportError(
        deadline.told(f"invalid HTTP response ({_reason(error)})"),
        hint="check the port, and that a web server listens there",
    )


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


class RawResponse:
    """The head of a response, and its raw body as a stream."""

    def __init__(self, response: Any, connection: _Connection, pool: _Pool, deadline: Deadline) -> None:
        self._raw, self._connection, self._pool, self._deadline = response, connection, pool, deadline
        is_plain = isinstance(response, ResponseHead | _PlainResponse)
        self._plain: ResponseHead | _PlainResponse | None = response if is_plain else None
        self.status: int = response.status
        self.reason: str = response.reason or ""
        fields = self._plain.plain_fields if self._plain else None
        self._gathers = False  # whether waits for the body last until many bytes have arrived
        self.headers: Fields = Fields([*response.headers.iteritems()]) if fields is None else fields
        self.broken = False

    @property
    def is_plain(self) -> bool:
        """Whether the head is plain; see `ResponseHead`."""
        return self._plain is not None

    @property
    def location(self) -> str:
        """The target of a redirect, "" if there is none.

        Raises:
            RedirectError: different Location headers.
        """
        targets = set() if self._plain else set(self._raw.headers.getlist("Location"))
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
        if self._plain is not None:
            return cast(int, self._plain.length)
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
                chunk = self._read(min(largest, limit))
            except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError):
                self.broken = True
                return
            if not chunk:
                return
            limit -= len(chunk)
            self._deadline.received += len(chunk)
            yield chunk

    def _read(self, size: int) -> bytes:
        plain = self._plain
        if plain is None:
            return cast(bytes, self._raw.read1(size, decode_content=False))
        if not plain.left:
            return b""
        size = min(size, plain.left)
        if plain.left >= _GATHERED or self._gathers:
            self._gathers = True
            cast(DeadlineSocket, self._connection.sock).gather(min(size, _GATHERED))
        chunk: bytes = cast(Any, plain.fp).read1(size)
        self.broken = not chunk
        plain.left -= len(chunk)
        return chunk

    def close(self) -> None:
        """Return the connection to the pool if the body was read to its end, else close it."""
        plain = self._plain
        if plain is not None and not plain.left:
            plain.close()
        if self.broken or not self._raw.closed or self._connection.sock is None:
            self._raw.close()
            self._connection.close()
        else:
            self._pool.keep(self._connection)
