"""A local origin server with answers that tests write byte by byte; it records requests."""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class OriginRequest:
    """A request: path and headers, with lower-case names."""

    path: str
    headers: dict[str, str]
    connection: int = 0  # counts the connections of the server
    stays: bool = False  # set by an answer after which the connection takes another request
    method: str = "GET"


Answer = Callable[[socket.socket, OriginRequest], None]


@dataclass
class Origin:
    """A running server; `answers` maps a path to the function that writes its answer."""

    url: str
    answers: dict[str, Answer]
    requests: list[OriginRequest] = field(default_factory=list)

    def paths(self) -> list[str]:
        """Return the requested paths, in order."""
        return [request.path for request in self.requests]


def reply(body: bytes, status: str = "200 OK", **headers: str) -> Answer:
    """Return an answer with a right Content-Length, unless a header says otherwise ("" drops it).

    With `Connection="keep-alive"` the connection stays.
    """

    def answer(connection: socket.socket, _request: OriginRequest) -> None:
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        lines = {"Content-Length": str(len(body)), "Connection": "close", **named}
        head = f"HTTP/1.1 {status}\r\n" + "".join(f"{name}: {text}\r\n" for name, text in lines.items() if text)
        connection.sendall(head.encode("latin-1") + b"\r\n" + body)
        _request.stays = lines["Connection"] == "keep-alive"

    return answer


def raw(data: bytes) -> Answer:
    """Return an answer that is exactly these bytes."""
    return lambda connection, _request: connection.sendall(data)


def ranged(body: bytes, etag: str = '"v1"', first: int | None = None) -> Answer:
    """Return an answer that honours Range and If-Range; only `first` bytes of a whole body are sent."""

    def answer(connection: socket.socket, request: OriginRequest) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if asked and request.headers.get("if-range", etag) == etag:
            begin, end = int(asked[1]), int(asked[2] or len(body) - 1)
            span = f"bytes {begin}-{end}/{len(body)}"
            reply(body[begin : end + 1], "206 Partial Content", ETag=etag, Content_Range=span)(connection, request)
        else:
            sent = body[:first] if first is not None else body
            length = str(len(body))
            reply(sent, ETag=etag, Content_Length=length, Accept_Ranges="bytes")(connection, request)

    return answer


def throttled(body: bytes, rate: float, etag: str = '"v1"') -> Answer:
    """Return an answer that honours ranges and gives each connection `rate` bytes a second."""

    def answer(connection: socket.socket, request: OriginRequest) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        whole = asked is None or request.headers.get("if-range", etag) != etag
        begin, end = (0, len(body) - 1) if whole or asked is None else (int(asked[1]), int(asked[2] or len(body) - 1))
        status = "200 OK" if whole else "206 Partial Content"
        lines = f"Content-Length: {end + 1 - begin}\r\nETag: {etag}\r\nAccept-Ranges: bytes\r\n"
        lines += "" if whole else f"Content-Range: bytes {begin}-{end}/{len(body)}\r\n"
        connection.sendall(f"HTTP/1.1 {status}\r\n{lines}\r\n".encode())
        begun, step = time.monotonic(), max(1, int(rate / 50))
        for at in range(begin, end + 1, step):
            connection.sendall(body[at : min(at + step, end + 1)])
            time.sleep(max(0.0, begun + (at + step - begin) / rate - time.monotonic()))
        request.stays = True

    return answer


def in_turn(*answers: Answer) -> Answer:
    """Return an answer that uses each of these once, and then repeats the last one."""
    left = list(answers)

    def answer(connection: socket.socket, request: OriginRequest) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(connection, request)

    return answer


@contextlib.contextmanager
def serving(
    answers: dict[str, Answer], tls: ssl.SSLContext | None = None, address: str = "127.0.0.1"
) -> Iterator[Origin]:
    """Serve on a free loopback port until the block ends, as https with a `tls`; an unknown path is a 404."""
    origin = Origin("", answers)

    connections = itertools.count(1)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            number = next(connections)
            with contextlib.suppress(OSError):
                while self.one(number):
                    pass

        def one(self, number: int) -> bool:
            """Answer one request; return whether the connection takes another one."""
            words = self.rfile.readline(65536).split()
            headers: dict[str, str] = {}
            while (line := self.rfile.readline(65536)) not in (b"\r\n", b"\n", b""):
                name, _, value = line.decode("latin-1").partition(":")
                headers[name.strip().lower()] = value.strip()
            if len(words) < 2:
                return False
            request = OriginRequest(words[1].decode("latin-1"), headers, number, method=words[0].decode("latin-1"))
            origin.requests.append(request)
            answer = origin.answers.get(request.path.partition("?")[0], reply(b"nothing here", "404 Not Found"))
            answer(self.connection, request)
            return request.stays

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True
        request_queue_size = 64
        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET

        def finish_request(self, request: Any, client_address: Any) -> None:
            if tls is None:
                super().finish_request(request, client_address)
                return
            with contextlib.suppress(OSError), tls.wrap_socket(request, server_side=True) as wrapped:
                super().finish_request(wrapped, client_address)

    with Server((address, 0), Handler) as server:
        scheme = "https" if tls else "http"
        host = f"[{address}]" if ":" in address else address
        origin.url = f"{scheme}://{host}:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield origin
        finally:
            server.shutdown()
            thread.join()
