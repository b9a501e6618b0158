"""HTTP connections: send requests with requests and urllib3 over a `DeadlineSocket`.

The session of requests is not used: merging cookies, hooks and environment costs more than the request itself, and
other modules apply the needed ones explicitly. Exceptions of the libraries are translated into `TransportError` here.
"""

from __future__ import annotations

import http.client
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, Final, NamedTuple, cast

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from tasks_lib.errors import RedirectError, StalledError, TransportError, escape_text
from tasks_lib.transport.connection_pool import MAX_IDLE, SERVING, Connect, Connection, PlainResponse, Pool, Route
from tasks_lib.transport.deadline import Deadline
from tasks_lib.transport.deadline_socket import DeadlineSocket
from tasks_lib.transport.response_head import Fields, ResponseHead
from tasks_lib.transport.urls import request_target

#: Most bytes per read of a body.
CHUNK: Final = 1 << 20
#: Most routes with idle connections: many systems limit a process to 256 open files.
_MAX_ROUTES: Final = 64
#: Bytes of a body that one wait gathers, if so many are missing.
_GATHERED: Final = 256 << 10


Space = Callable[[int], memoryview]


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
        sock: DeadlineSocket = SERVING.sock
        if not self.left or sock.is_readable():
            self._deadline.answering()
            return b""
        self._deadline.sending()
        chunk = self._file.read(min(size, self.left))
        if not chunk:
            raise TransportError(self._deadline.describe("the content ended early"))
        self.left -= len(chunk)
        return chunk


class _Adapter(HTTPAdapter):
    """Selects the pool of a route, and skips what other modules do: proxies, certificates, cookies."""

    def __init__(self, dial: Connect) -> None:
        super().__init__(max_retries=Retry(total=False, connect=0, read=False, redirect=0))
        self._dial = dial
        self._lock = threading.Lock()
        self._pools: dict[Route, Pool] = {}

    def ask(
        self, route: Route, method: str, target: str, headers: Mapping[str, str], body: _Body | None
    ) -> tuple[Any, Connection]:
        """Send a request; return the head of the response and its connection."""
        request = requests.PreparedRequest()
        request.method, request.url, request.body = method, target, cast(Any, body)
        request.headers = cast(Any, headers)
        vars(request).update(route=route)
        return cast("tuple[Any, Connection]", self.send(request, stream=True))

    def get_connection_with_tls_context(self, request: Any, *_arguments: Any, **_options: Any) -> Pool:
        return self.pool(request.route)

    def pool(self, route: Route) -> Pool:
        """Return the pool of a route; forget the one that was not used for the longest time if there are many."""
        with self._lock:
            pool = self._pools.pop(route) if route in self._pools else Pool(route, self._dial)
            self._pools[route] = pool
            if len(self._pools) > _MAX_ROUTES:
                del self._pools[next(iter(self._pools))]  # its idle connections are closed when no thread uses it
            return pool

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

        If bytes on a kept connection are not a response, they may be left from an earlier one: send the request once
        more on a new connection. Every method that is sent can be repeated (RFC 9110 section 9.2.2).

        Raises:
            StalledError, TlsError, TransportError: no response, or an invalid one.
        """
        for _ in range(MAX_IDLE):
            try:
                return self._once(route, url, headers, deadline, outgoing)
            except TransportError as error:
                sock: DeadlineSocket | None = SERVING.sock
                if sock is None or sock.is_fresh or isinstance(error, StalledError):
                    raise
                if sock.was_heard:
                    self._adapter.pool(route).close_idle()
                    break
        return self._once(route, url, headers, deadline, outgoing)

    def _once(
        self, route: Route, url: str, headers: Mapping[str, str], deadline: Deadline, outgoing: Outgoing
    ) -> RawResponse:
        SERVING.deadline, SERVING.sock = deadline, None
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
            if SERVING.sock is not None:
                SERVING.sock.abandon()
            raise _invalid_response(error, deadline) from error
        except BaseException:
            if SERVING.sock is not None:
                SERVING.sock.abandon()
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
        deadline.describe(f"invalid HTTP response ({_reason(error)})"),
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

    def __init__(self, response: Any, connection: Connection, pool: Pool, deadline: Deadline) -> None:
        self._raw, self._connection, self._pool, self._deadline = response, connection, pool, deadline
        is_plain = isinstance(response, ResponseHead | PlainResponse)
        self._plain: ResponseHead | PlainResponse | None = response if is_plain else None
        self.status: int = response.status
        self.reason: str = response.reason or ""
        fields = self._plain.plain_fields if self._plain else None
        self._gathers = False  # whether reads of the body wait for many bytes
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
        raise TransportError(
            self._deadline.describe(f"conflicting or invalid Content-Length {escape_text(text[:80])!r}")
        )

    def receive(self, limit: int, space: Space) -> Iterator[int]:
        """Read the raw body, at most `limit` bytes, into `space`; if the framing is incomplete, set `broken` and end.

        Yield the number of bytes that were put there. `space(most)` returns memory for 1 to `most` bytes.

        Raises:
            StalledError, TransportError: a deadline passed, or the connection broke.
        """
        while limit > 0:
            if limit == 1:  # the content is complete; only check that no byte follows
                self._deadline.begin_short_read()
            view = space(limit)
            try:
                count = self._read_into(view)
            except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError):
                self.broken = True
                return
            if not count:
                return
            limit -= count
            self._deadline.received += count
            yield count

    def body(self, limit: int) -> Iterator[bytes]:
        """Yield the raw body in pieces, at most `limit` bytes; as `receive`."""
        view = memoryview(bytearray(min(CHUNK, limit)))
        for count in self.receive(limit, lambda most: view[:most]):
            yield bytes(view[:count])

    def _read_into(self, view: memoryview) -> int:
        plain = self._plain
        if plain is None:
            chunk = self._raw.read1(len(view), decode_content=False)
            view[: len(chunk)] = chunk
            return len(chunk)
        if not plain.left:
            return 0
        view = view[: plain.left]
        if plain.left >= _GATHERED or self._gathers:
            self._gathers = True
            cast(DeadlineSocket, self._connection.sock).gather(min(len(view), _GATHERED))
        count = plain.receive(view)
        self.broken = not count
        plain.left -= count
        return count

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
