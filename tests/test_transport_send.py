"""Requests with a body or without one: HEAD, PUT and DELETE over the transport."""

from __future__ import annotations

import io
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tasks_lib.errors import StalledError, TransportError
from tasks_lib.transport import Transport, TransportSettings
from tests.origin import OriginRequest, reply, serving


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # the client keeps its connection


def test_a_body_is_sent_from_the_position_of_its_file() -> None:
    """A PUT sends `size` bytes from the position of the file, with their length, over one kept connection."""
    content = os.urandom(3 << 20)
    received: list[tuple[bytes, str | None, int]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:  # http.server's name
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((body, self.headers["Transfer-Encoding"], self.client_address[1]))
            self.send_response(201)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with _Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/cas/x"
        transport, file = Transport(), io.BytesIO(b"head" + content + b"tail")
        try:
            for _ in range(2):
                file.seek(4)
                assert transport.send("PUT", url, headers={}, body=file, size=len(content)).status == 201
        finally:
            server.shutdown()
            thread.join()
    assert [(body, coding) for body, coding, _ in received] == [(content, None)] * 2
    assert len({port for _, _, port in received}) == 1


def test_an_early_refusal_ends_the_upload() -> None:
    """A server that refuses before it read the body is heard, and the rest is not sent."""
    content = b"x" * (64 << 20)

    def answer(connection: socket.socket, request: OriginRequest) -> None:
        reply(b"no", "401 Unauthorized")(connection, request)
        connection.settimeout(5)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 20):
            pass

    with serving({"/cas/x": answer}) as origin:
        file = io.BytesIO(content)
        answered = Transport().send("PUT", f"{origin.url}/cas/x", headers={}, body=file, size=len(content), limit=10)
        assert (answered.status, answered.content) == (401, b"no")
        assert file.tell() < len(content)


def test_a_head_has_no_body_and_keeps_its_connection() -> None:
    """HEAD requests read only the head, and use one connection."""

    def answer(connection: socket.socket, request: OriginRequest) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        request.stays = True

    with serving({"/cas/x": answer}) as origin:
        transport = Transport()
        found = [transport.send("HEAD", f"{origin.url}/cas/x", headers={}) for _ in range(3)]
    assert [(one.status, one.headers["Content-Length"]) for one in found] == [(200, "5")] * 3
    assert {request.connection for request in origin.requests} == {1}


def test_a_redirect_of_a_put_is_not_followed() -> None:
    """The body goes to the URL that was given, and to no other one."""
    with serving({"/cas/x": reply(b"", "307 Temporary Redirect", Location="/other")}) as origin:
        file = io.BytesIO(b"abc")
        assert Transport().send("PUT", f"{origin.url}/cas/x", headers={}, body=file, size=3).status == 307
    assert origin.paths() == ["/cas/x"]


def test_an_upload_that_is_not_read_stalls(tmp_path: Path) -> None:
    """A server that stops reading ends the upload after the stall timeout."""
    listener = socket.create_server(("127.0.0.1", 0))
    kept: list[socket.socket] = []
    thread = threading.Thread(target=lambda: kept.append(listener.accept()[0]))
    thread.start()
    big = tmp_path / "big"
    big.write_bytes(b"")
    os.truncate(big, 1 << 30)
    settings = TransportSettings(stall_timeout_s=0.3)
    try:
        with big.open("rb") as file, pytest.raises(StalledError, match="sending the body"):
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/cas/x"
            Transport(settings).send("PUT", url, headers={}, body=file, size=1 << 30)
    finally:
        thread.join()
        listener.close()
        for one in kept:
            one.close()


def test_a_file_that_shrinks_is_an_error() -> None:
    """Content that ends before its size is no request at all: the server never sees it as complete."""

    def answer(connection: socket.socket, request: OriginRequest) -> None:
        while connection.recv(1 << 16):  # until the client gives up
            pass
        reply(b"", "201 Created")(connection, request)

    with serving({"/cas/x": answer}) as origin, pytest.raises(TransportError, match="ended early"):
        Transport().send("PUT", f"{origin.url}/cas/x", headers={}, body=io.BytesIO(b"ab"), size=3)
