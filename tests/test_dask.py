"""Runs on a Dask cluster: a real scheduler and real workers on loopback, which write to a store."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from tasks_lib.batch import BatchResult, make_batch, run_batch
from tasks_lib.definitions import Fetch, StaticUrl
from tasks_lib.digest import Digest, Integrity
from tasks_lib.errors import FetchError, SettingError, ToolError
from tasks_lib.incremental.definition_files import load
from tests import debian_project
from tests.archives import Member, tar
from tests.keys import keyring
from tests.origin import Origin, OriginRequest, reply, serving
from tests.project import CLEAN, DODO, PYTHONPATH, definition, doit

pytest.importorskip("distributed", reason="needs the extra [dask]")
from tasks_lib.engine.dask_runner import DaskRunner, connect  # imports Dask

COUNT = 400
FILES = {f"/d{number}": b"content %d" % number for number in range(COUNT)}


class Cluster(NamedTuple):
    """A scheduler, its workers, and the store to which they write."""

    address: str
    scheduler: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]]
    store: Path

    def blobs(self) -> set[str]:
        """Return the digests of the store's content, without the empty one."""
        return {path.name for path in (self.store / "cas").iterdir()} - {hashlib.sha256().hexdigest()}


@contextlib.contextmanager
def cluster(top: Path, *, workers: int = 2, **environ: str) -> Iterator[Cluster]:
    """Run a cluster; its workers have caches of their own below `top`."""
    top.mkdir()
    store = top.parent / "store"
    store.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**CLEAN, "PYTHONPATH": PYTHONPATH, "FETCH_STORE": store.as_uri(), "FETCH_STORE_WRITE": "always"}
    environment |= {"FETCH_RETRIES": "0", "FETCH_DURABILITY": "fast", **environ}
    scheme = "tls" if any("TLS" in name for name in environ) else "tcp"
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, *words: str) -> subprocess.Popen[bytes]:
        place = top / name
        place.mkdir()
        command = [
            sys.executable,
            "-m",
            f"distributed.cli.{words[0]}",
            *words[1:],
            "--host",
            "127.0.0.1",
            "--no-dashboard",
        ]
        with (place / "log").open("wb") as log:
            started.append(subprocess.Popen(command, cwd=place, env=environment, stdout=log, stderr=log))
        return started[-1]

    try:
        scheduler = start("scheduler", "dask_scheduler", "--port", str(port), "--protocol", scheme)
        options = ("--nthreads", "1", "--no-nanny", "--local-directory", "scratch")
        some = [start(f"w{one}", "dask_worker", f"{scheme}://127.0.0.1:{port}", *options) for one in range(workers)]
        for one in range(workers):
            until(lambda one=one: "Registered to" in (top / f"w{one}/log").read_text())
        yield Cluster(f"{scheme.replace('tcp', 'dask')}://127.0.0.1:{port}", scheduler, some, store)
    finally:
        for process in started:
            process.kill()
            process.wait()


def until(condition: object) -> None:
    ends = time.monotonic() + 60
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < ends
        time.sleep(0.05)


def slowly(body: bytes) -> object:
    def answer(connection: socket.socket, request: OriginRequest) -> None:
        time.sleep(0.05)
        reply(body)(connection, request)

    return answer


@pytest.fixture
def origin() -> Iterator[Origin]:
    with serving({path: slowly(body) for path, body in FILES.items()}) as one:  # type: ignore[misc]
        yield one


@pytest.fixture
def repository(tmp_path: Path, origin: Origin) -> Path:
    place = tmp_path / "repository"
    (place / "fetchdefs/fetch").mkdir(parents=True)
    (place / "dodo.py").write_text(DODO)
    text = "".join(definition(path[1:], origin.url + path, body) for path, body in FILES.items())
    (place / "fetchdefs/fetch/all.yml").write_text(text)
    return place


def begin(repository: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "doit", *words]
    environment = {**CLEAN, "PYTHONPATH": PYTHONPATH}
    return subprocess.Popen(
        command, cwd=repository, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.mark.slow
def test_a_worker_is_lost(tmp_path: Path, repository: Path, origin: Origin) -> None:
    """A worker killed in mid-run: all blobs are in the store, status 0, and only its batches are fetched twice."""
    with cluster(tmp_path / "cluster") as one:
        with begin(repository, "run", "--on", one.address) as process:
            until(lambda: len(origin.requests) > 60)
            os.kill(one.workers[0].pid, signal.SIGKILL)
            printed = process.communicate(timeout=120)[0]
        assert process.returncode == 0, printed
        assert one.blobs() == {hashlib.sha256(body).hexdigest() for body in FILES.values()}
        assert f"{COUNT} fetched" in printed or "adopted" in printed
        repeated = sum(Counter(origin.paths()).values()) - COUNT
        assert repeated <= 2 * 50, "at most the batches that the lost worker had"
        origin.requests.clear()
        again = doit(repository, "run", "--on", one.address)
        assert again.returncode == 0 and not origin.requests, again.stdout


@pytest.mark.slow
def test_the_scheduler_is_lost(tmp_path: Path, repository: Path, origin: Origin) -> None:
    """A scheduler killed in mid-run: the run fails within a minute and says what to do; the next one goes on."""
    with cluster(tmp_path / "cluster") as one, begin(repository, "run", "--on", one.address) as process:
        until(lambda: len(origin.requests) > 60)
        one.scheduler.kill()
        printed = process.communicate(timeout=60)[0]
        assert process.returncode != 0
        assert "does not answer any more" in printed and "Traceback" not in printed, printed
        time.sleep(2)  # the workers finish what they have
    before = len(set(origin.paths()))
    origin.requests.clear()
    with cluster(tmp_path / "other") as two:
        done = doit(repository, "run", "--on", two.address)
        assert done.returncode == 0, done.stdout
        assert two.blobs() == {hashlib.sha256(body).hexdigest() for body in FILES.values()}
    assert len(origin.requests) <= COUNT - before + 2 * 50


@pytest.mark.slow
def test_the_scheduler_is_lost_at_any_moment(tmp_path: Path) -> None:
    """Until the client has noticed that the scheduler is gone, each question fails; none of that is a traceback."""
    with cluster(tmp_path / "cluster", workers=1) as one:
        runner: Any = DaskRunner.__new__(DaskRunner)
        runner._client, runner._address = connect(one.address), one.address
        done = runner._client.submit(len, "a", pure=False)
        until(lambda: done.status == "finished")
        one.scheduler.kill()
        assert [runner._window() for _ in range(100)][-1] == 2
        with pytest.raises(ToolError, match="does not answer any more"):
            runner._collect(done, [], {})
        runner._client.close(timeout=2)


@pytest.mark.slow
def test_what_travels(tmp_path: Path, origin: Origin) -> None:
    """Workers repack, verify with the key files of the definitions, and send headers with values of their own."""
    place = tmp_path / "repository"
    (place / "fetchdefs/fetch").mkdir(parents=True)
    (place / "fetchdefs/toolchain").mkdir()
    (place / "dodo.py").write_text(DODO)
    archive = tar([Member("top/a", b"1")])
    with keyring() as keys:
        fingerprint = keys.make("signer")
        (place / "signer.gpg").write_bytes(keys.public("signer"))
        origin.answers |= {"/a.tar": reply(archive), "/a.tar.sig": reply(keys.sign(archive, "signer"))}
    signed = f"    gpg-signature: {{sig-url: '{{url}}.sig', key-path: signer.gpg, fingerprint: {fingerprint}}}\n"
    text = definition("a", f"{origin.url}/a.tar", archive, f"{signed}    artifact-name: a.tar.zst\n")
    secret = "    headers: ['Authorization: Bearer ${TOKEN}']\n"
    text += definition("b", f"{origin.url}/d1", FILES["/d1"], secret)
    text += definition("c", f"{origin.url}/d2", FILES["/d2"] + b"!")
    (place / "fetchdefs/fetch/all.yml").write_text(text)
    (place / "fetchdefs/toolchain/all.yml").write_text("t: {description: d, fetches: {fetch: [a]}}\n")
    with cluster(tmp_path / "cluster", workers=1, TOKEN="worker's own") as one:
        done = doit(place, "run", "--continue", "--on", one.address, TOKEN="never sent")
        assert done.returncode == 1, done.stdout
        assert "ok repack:a" in done.stdout and "failed: fetch:c" in done.stdout and "Traceback" not in done.stdout
        sent = {request.path: request.headers.get("authorization") for request in origin.requests}
        assert sent["/d1"] == "Bearer worker's own" and sent["/a.tar.sig"] is None
        assert len(one.blobs()) >= 3
        refused = doit(place, "run", "--on", one.address, "toolchain:t")
        assert refused.returncode == 3 and "only fetches and repacks run on other machines" in refused.stdout
        named = doit(place, "run", "--on", one.address, "fetch:b")
        assert named.returncode == 0 and "1 adopted" in named.stdout, named.stdout


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_tls(tmp_path: Path, repository: Path, origin: Origin) -> None:
    """Over TLS, certificates of Dask's configuration authenticate both sides; a client without one is refused."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=dask"]
    subprocess.run([*words, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    tls = {"CA_FILE": certificate, "REQUIRE_ENCRYPTION": "true"}
    tls |= {
        f"{role}__{name}": path
        for role in ("SCHEDULER", "WORKER", "CLIENT")
        for name, path in (("CERT", certificate), ("KEY", key))
    }
    environ = {
        f"DASK_DISTRIBUTED__COMM__{'' if name.startswith('REQUIRE') else 'TLS__'}{name}": str(value)
        for name, value in tls.items()
    }
    with cluster(tmp_path / "cluster", workers=2, **environ) as one:
        refused = doit(repository, "run", "--on", one.address)
        assert refused.returncode == 3 and "distributed.comm.tls" in refused.stdout, refused.stdout
        assert not origin.requests
        done = doit(repository, "run", "--on", one.address, **environ)
        assert done.returncode == 0, done.stdout
        assert one.blobs() == {hashlib.sha256(body).hexdigest() for body in FILES.values()}
        plain = doit(repository, "run", "--on", one.address.replace("tls:", "dask:"))
        assert plain.returncode == 3 and "cannot reach the Dask scheduler" in plain.stdout, plain.stdout


@pytest.mark.slow
def test_a_worker_without_a_store(tmp_path: Path, repository: Path, origin: Origin) -> None:
    """A worker that would lose its work does nothing, and says which setting is missing."""
    for number, (environ, reason) in enumerate(
        [
            ({"FETCH_STORE": ""}, "the worker has no store"),
            ({"FETCH_STORE_WRITE": "never"}, "does not write to its stores"),
        ]
    ):
        with cluster(tmp_path / f"cluster{number}", workers=1, **environ) as one:
            done = doit(repository, "run", "--on", one.address)
            assert done.returncode != 0 and reason in done.stdout and "Traceback" not in done.stdout, done.stdout
    assert not origin.requests


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "invalid value"),
        ("http://127.0.0.1:1", "invalid value"),
        ("dask://user@host:1", "invalid value"),
        ("dask://127.0.0.1:1", "cannot reach the Dask scheduler at dask://127.0.0.1:1"),
    ],
)
@pytest.mark.slow
def test_no_scheduler(address: str, message: str, tmp_path: Path) -> None:
    """An address without a scheduler is an error with the next step."""
    (tmp_path / "fetchdefs/fetch").mkdir(parents=True)
    (tmp_path / "fetchdefs/fetch/a.yml").write_text(definition("a", "https://a.example/a", b"a"))
    (tmp_path / "dodo.py").write_text(DODO)
    done = doit(tmp_path, "run", "--on", address)
    assert done.returncode == 3 and message in done.stdout and "Traceback" not in done.stdout, done.stdout


@pytest.mark.slow
def test_no_worker(tmp_path: Path, repository: Path) -> None:
    """A run that waits for a worker says so once, and what to start; a signal ends the wait."""
    with cluster(tmp_path / "cluster", workers=1) as one:
        one.workers[0].kill()
        with begin(repository, "run", "--on", one.address) as process:
            assert process.stdout is not None
            seen = ""
            while "waiting for a worker" not in seen:
                seen += process.stdout.readline()
                assert process.poll() is None, seen
            time.sleep(2)
            process.send_signal(signal.SIGINT)
            rest = process.communicate(timeout=60)[0]
    assert f"waiting for a worker of {one.address}: start one with `dask worker`" in seen
    assert process.returncode == 130 and "waiting" not in rest and "Traceback" not in rest, rest


@pytest.mark.slow
def test_no_logger_prints_a_traceback() -> None:
    """What Dask, tornado and asyncio log about a lost connection is not shown: the error of the run says it."""
    code = (
        "import contextlib, logging\n"
        "from tasks_lib.engine.dask_runner import connect\n"
        "with contextlib.suppress(Exception):\n    connect('dask://127.0.0.1:1')\n"
        "for name in ('asyncio', 'distributed.client', 'distributed.core', 'tornado.application'):\n"
        "    logging.getLogger(name).error('shown: %s', name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**CLEAN, "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "shown" not in done.stdout + done.stderr


def fetch(**more: object) -> Fetch:
    integrity = Integrity(size=1, digest=Digest.sha256(hashlib.sha256(b"1").hexdigest()))
    source = StaticUrl(url="https://a.example/a", integrity=integrity, artifact_name="a", **more)  # type: ignore[arg-type]
    return Fetch(name="a", description="d", source=source, file="f.yml", line=1)


def test_a_literal_header_stays_here() -> None:
    """A header without a variable may be a secret and never leaves the machine."""
    one = fetch(headers=(("X-Key", ""),))
    with pytest.raises(ToolError, match="not sent to workers") as caught:
        make_batch({"a": one}, [], {"a": (("X-Key", "secret"),)}, {})
    assert "secret'" not in str(caught.value)
    assert b"secret" not in make_batch({"a": one}, [], {"a": (("X-Key", "${KEY}"),)}, {})


def test_a_batch_has_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker makes the packages of a lock, which it gets with the definition, and writes them to the store."""
    root = debian_project.mirror(tmp_path / "mirror").root
    text = debian_project.define(root.as_uri())
    top = debian_project.project(tmp_path / "project", text, {"stable": (root, debian_project.DEBS)})
    monkeypatch.chdir(top)
    data = make_batch({"debs": load(top / "fetchdefs").fetches["debs"]}, [], {}, {})
    (tmp_path / "store").mkdir()
    worker = tmp_path / "worker"
    worker.mkdir()
    monkeypatch.chdir(worker)
    monkeypatch.setenv("FETCH_STORE", (tmp_path / "store").as_uri())
    monkeypatch.setenv("FETCH_STORE_WRITE", "always")
    result = msgspec.msgpack.decode(run_batch(data), type=BatchResult)
    assert result.failed == {}
    digests = {hashlib.sha256(deb.content).hexdigest() for deb in debian_project.DEBS}
    assert digests <= {path.name for path in (tmp_path / "store").rglob("*")}


def test_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker with another version of the package refuses a batch."""
    data = make_batch({"a": fetch()}, [], {}, {})
    monkeypatch.setattr("tasks_lib.batch.installed_version", lambda: "99")
    with pytest.raises(FetchError, match="the worker has doit-fetch 99"):
        run_batch(data)
    monkeypatch.undo()
    monkeypatch.delenv("FETCH_STORE", raising=False)
    with pytest.raises(SettingError, match="no store"):
        run_batch(data)
