"""The idle connections of one route, and the requests on them: the first one of a kind, and those that repeat it."""

from __future__ import annotations

import contextlib
import http.client
import io
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Final, cast

import urllib3

from tasks_lib.transport.deadline import Deadline
from tasks_lib.transport.deadline_socket import DeadlineSocket
from tasks_lib.transport.proxy import Proxy
from tasks_lib.transport.response_head import PlainHead, ResponseHead
from tasks_lib.transport.urls import Origin

#: Most idle connections kept per route.
MAX_IDLE: Final = 32

#: Bytes per read of a body that is sent.
_SENT: Final = 1 << 18
#: Most bytes that are received at once while the head of a response is expected.
_BEGIN: Final = 64 << 10

Route = tuple[Origin, Proxy | None]
Connect = Callable[[Route, Deadline], DeadlineSocket]

#: The deadline of the attempt of this thread, and the socket that serves it.
SERVING: Final = threading.local()


class _Buffer(threading.local):
    """The buffer of each thread into which the beginning of a response is received."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(_BEGIN))


_BUFFER: Final = _Buffer()


class PlainResponse:
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


class Connection(urllib3.connection.HTTPConnection):
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
        """Open the connection for the attempt of this thread."""
        deadline: Deadline = SERVING.deadline
        sock = self._dial(self._route, deadline)
        SERVING.sock = sock
        self.sock = cast(Any, sock)
        deadline.answering()

    def is_silent(self) -> bool:
        """Whether the connection is open and no data has arrived on it since the last response."""
        return self.sock is not None and not cast(DeadlineSocket, self.sock).is_readable()

    def request(self, method: str, url: str, *arguments: Any, **options: Any) -> None:
        """Send a request."""
        if self.sock is not None:
            SERVING.sock = cast(Any, self.sock)
            SERVING.sock.serve(SERVING.deadline)
            SERVING.deadline.answering()
        http.client.HTTPConnection.request(self, method, url, *arguments, **options)

    def send(self, data: Any) -> None:
        """Send a part of a request, and keep it."""
        self.asked = data if isinstance(data, bytes) else b""
        super().send(data)

    def repeat(self, target: str, fields: bytes) -> Any:
        """Send a GET for another target with the fields of an earlier request; read the head of the response."""
        SERVING.sock = sock = cast(DeadlineSocket, self.sock)
        sock.serve(SERVING.deadline)
        SERVING.deadline.answering()
        sock.sendall(b"GET %b HTTP/1.1\r\n%b" % (target.encode("ascii"), fields))
        begin = bytes(_BUFFER.view[: sock.receive(_BUFFER.view)])
        plain = PlainHead.parse(begin)
        if plain is not None:
            return PlainResponse(plain, begin[plain.end :], sock)
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


class Pool(urllib3.HTTPConnectionPool):
    """Idle connections of one route, the last one first. `DeadlineSocket` does TLS."""

    def __init__(self, route: Route, dial: Connect) -> None:
        super().__init__(route[0].host, route[0].port)
        self._route, self._dial = route, dial
        self._idle: deque[Connection] = deque()
        self._formatted: tuple[Mapping[str, str], bytes] | None = None  # headers, and the fields that carried them
        weakref.finalize(self, _close_all, self._idle)

    def urlopen(self, method: str, url: str, body: Any = None, headers: Any = None, **_options: Any) -> Any:  # type: ignore[override]
        """Send a request; return the head of the response and its connection, which `keep` takes back.

        urllib3's own retries, redirects and errors do the work of other modules twice.
        """
        connection = self._take() or Connection(
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

    def repeat(self, target: str, headers: Mapping[str, str]) -> tuple[Any, Connection] | None:
        """Send a GET like the last one, which differs in its target only, over a kept connection; return as `urlopen`.

        Return None if the last GET had other headers, or no idle connection is left.
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

    def _take(self) -> Connection | None:
        """Return an idle connection; a connection that was closed or has sent unexpected data is dropped."""
        with contextlib.suppress(IndexError):
            while True:
                connection = self._idle.pop()
                if connection.is_silent():
                    return connection
                connection.close()
        return None

    def keep(self, connection: Connection) -> None:
        """Take back a connection whose response was read to its end."""
        if len(self._idle) < MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.close()

    def close_idle(self) -> None:
        """Close the idle connections, so that the next request opens a new one."""
        _close_all(self._idle)


def _close_all(connections: deque[Connection]) -> None:
    with contextlib.suppress(IndexError):
        while True:
            connections.pop().close()
