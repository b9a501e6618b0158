"""Loopback servers of git repositories: smart HTTP through git's own http-backend, dumb HTTP, git's own daemon."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Host:
    """A running server: `faults` are the statuses of the next responses, sent with `retry_after`; `requests` lists the requests."""

    url: str
    faults: list[int] = field(default_factory=list)
    retry_after: str = ""
    requests: list[str] = field(default_factory=list)


class Server(ThreadingHTTPServer):
    """Serves `root`; `kind` as in `http`."""

    daemon_threads = True

    def __init__(self, root: Path, kind: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root, self.kind = root, kind
        self.host = Host(f"http://127.0.0.1:{self.server_address[1]}")


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def answer(self) -> None:
        host = self.server.host
        host.requests.append(f"{self.command} {self.path}")
        if host.faults:
            self.send(host.faults.pop(0), [f"Retry-After: {host.retry_after}"] if host.retry_after else [], b"")
        elif self.server.kind == "dumb":
            self.file()
        else:
            self.cgi()

    do_GET = do_POST = answer  # noqa: N815  # http.server asks for these names

    def file(self) -> None:
        path = self.server.root / self.path.partition("?")[0].lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        self.send(200, [], path.read_bytes())

    def send(self, status: int, headers: list[str], content: bytes) -> None:
        self.send_response(status)
        for line in headers:
            name, _, value = line.partition(": ")
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def cgi(self) -> None:
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(self.chunks())
        environ = {
            "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": str(self.server.root), "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""), "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", "") if self.server.kind == "smart" else "",
            "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
        }  # fmt: skip
        done = subprocess.run(["git", "http-backend"], env=environ, input=body, capture_output=True, check=False)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        status = re.search(rb"Status: (\d+)", head)
        headers = [line for line in head.decode().splitlines() if not line.startswith("Status")]
        self.send(int(status[1]) if status else 200, headers, content)

    def chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()


@contextlib.contextmanager
def http(root: Path, *, kind: str = "smart") -> Iterator[Host]:
    """Serve the repositories below `root`; "old" speaks the protocol of 2008, "dumb" only files."""
    server = Server(root, kind)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.host
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def reachable(port: int) -> None:
    """Return once something listens there."""
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)


@contextlib.contextmanager
def daemon(root: Path) -> Iterator[str]:
    """Serve the repositories below `root` by git's own daemon; give its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environ = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"}
    words = ["git", "daemon", "--listen=127.0.0.1", f"--port={port}", "--export-all", f"--base-path={root}", str(root)]
    process = subprocess.Popen(
        words, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        reachable(port)
        yield f"git://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 15)
        process.wait()


@contextlib.contextmanager
def mute() -> Iterator[str]:
    """Give the URL of a server that accepts and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"git://127.0.0.1:{server.getsockname()[1]}"


@contextlib.contextmanager
def ssh(directory: Path) -> Iterator[tuple[str, str, Path]]:
    """Run an sshd; give the URL of its root directory, the text of a key that it accepts, and its known_hosts."""
    directory.mkdir()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True)
    (directory / "authorized").write_text((directory / "user.pub").read_text())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (directory / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {directory}/host\nAuthorizedKeysFile {directory}/authorized\n"
        "PidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\n"
    )
    (directory / "known").write_text(f"[127.0.0.1]:{port} {(directory / 'host.pub').read_text()}")
    Path("/run/sshd").mkdir(exist_ok=True)
    process = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", directory / "config"], stderr=subprocess.DEVNULL)
    try:
        reachable(port)
        yield f"ssh://root@127.0.0.1:{port}", (directory / "user").read_text(), directory / "known"
    finally:
        process.terminate()
        process.wait()
