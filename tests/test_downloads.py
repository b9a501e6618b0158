"""Downloads with real doit: killed, resumed, and shared by two processes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.origin import Answer, Origin, ranged, reply, serving, throttled
from tests.project import CLEAN, DODO, PYTHONPATH, definition, doit, ran


def repository(tmp_path: Path, *definitions: str) -> Path:
    here = tmp_path / "repository"
    (here / "fetchdefs/fetch").mkdir(parents=True)
    (here / "dodo.py").write_text(DODO)
    (here / "fetchdefs/fetch/all.yml").write_text("".join(definitions))
    return here


def started(here: Path, **environ: str) -> subprocess.Popen[bytes]:
    environment = {**CLEAN, "PYTHONPATH": PYTHONPATH, **environ}
    return subprocess.Popen(
        [sys.executable, "-m", "doit"], cwd=here, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def partial_size(here: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in here.glob("cache/v1/partial/*.part"))


def killed_after(here: Path, size: int, **environ: str) -> None:
    """Kill doit with -9 when `size` bytes of a download are on the disk."""
    process = started(here, **environ)
    ends = time.monotonic() + 60
    while partial_size(here) < size and process.poll() is None and time.monotonic() < ends:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert partial_size(here) >= size


def blob_is_right(here: Path, content: bytes) -> bool:
    digest = hashlib.sha256(content).hexdigest()
    blob = here / f"cache/v1/blobs/sha256/{digest[:2]}/{digest}"
    return hashlib.sha256(blob.read_bytes()).hexdigest() == digest


LARGE = 100 << 20


def content_of(seed: int, size: int = LARGE) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.slow
@pytest.mark.parametrize("connections", ["1", "8"])
def test_a_killed_download_is_continued(connections: str, tmp_path: Path) -> None:
    """After kill -9 within 100 MiB, in one stream or in pieces, the next run requests only the rest, and the digest is right."""
    content = content_of(1)
    rate = 60 << 20 if connections == "1" else 4 << 20
    with serving({"/a.bin": throttled(content, rate)}) as origin:
        here = repository(tmp_path, definition("a", f"{origin.url}/a.bin", content))
        killed_after(here, 40 << 20, FETCH_CONNECTIONS=connections)
        before = len(origin.requests)
        assert ran(doit(here, FETCH_CONNECTIONS=connections)) == ["fetch:a"]
        after = [request.headers.get("range", "") for request in origin.requests[before:]]
        assert after
        assert all(one.startswith("bytes=") for one in after)
        assert all(request.headers["if-range"] == '"v1"' for request in origin.requests[before:])
        assert asked_for(after) < LARGE - (30 << 20)
    assert blob_is_right(here, content)
    assert not list(here.glob("cache/v1/partial/*"))


def asked_for(ranges: list[str]) -> int:
    """Return the number of bytes in these ranges."""
    spans = [one.removeprefix("bytes=").split("-") for one in ranges]
    return sum((int(end) + 1 if end else LARGE) - int(begin) for begin, end in spans)


@pytest.mark.slow
@pytest.mark.parametrize("connections", ["1", "8"])
def test_a_killed_download_of_what_changed(connections: str, tmp_path: Path) -> None:
    """When the object changes between two runs, no bytes of the old one are used."""
    old, new = content_of(1), content_of(2)
    rate = 60 << 20 if connections == "1" else 4 << 20
    with serving({"/a.bin": throttled(old, rate, '"old"')}) as origin:
        here = repository(tmp_path, definition("a", f"{origin.url}/a.bin", new))
        killed_after(here, 40 << 20, FETCH_CONNECTIONS=connections)
        origin.answers["/a.bin"] = ranged(new, '"new"')
        assert ran(doit(here, FETCH_CONNECTIONS=connections)) == ["fetch:a"]
    assert blob_is_right(here, new)


def test_killed_and_continued(tmp_path: Path) -> None:
    """After kill -9 during a download, the next run requests only the rest."""
    content = content_of(3, 3 << 20)
    with serving({"/a.bin": throttled(content, 2 << 20)}) as origin:
        here = repository(tmp_path, definition("a", f"{origin.url}/a.bin", content))
        killed_after(here, 1 << 20)
        origin.answers["/a.bin"] = ranged(content)
        assert ran(doit(here)) == ["fetch:a"]
        assert int(origin.requests[-1].headers["range"].removeprefix("bytes=").rstrip("-")) > 900_000
    assert blob_is_right(here, content)


@pytest.mark.slow
def test_a_slow_small_download_is_continued(tmp_path: Path) -> None:
    """A download of less than 1 MiB that takes longer than a moment is on the disk too: a kill does not lose it."""
    content = content_of(5, 400_000)
    with serving({"/a.bin": throttled(content, 100_000)}) as origin:
        here = repository(tmp_path, definition("a", f"{origin.url}/a.bin", content))
        killed_after(here, 40_000)
        origin.answers["/a.bin"] = ranged(content)
        assert ran(doit(here)) == ["fetch:a"]
        assert origin.requests[-1].headers["range"].startswith("bytes=")
    assert blob_is_right(here, content)
    assert not list(here.glob("cache/v1/partial/*"))


def test_two_processes_make_one_download(tmp_path: Path) -> None:
    """Two simultaneous runs need the same definition: one downloads it, both succeed."""
    content = content_of(4, 1 << 20)
    with serving({"/a.bin": throttled(content, 1 << 20)}) as origin:
        here = repository(tmp_path, definition("a", f"{origin.url}/a.bin", content))
        other = repository(tmp_path / "other", definition("a", f"{origin.url}/a.bin", content))
        both = [started(one, FETCH_CACHE_DIR=str(tmp_path / "shared")) for one in (here, other)]
        printed = [one.communicate(timeout=60)[0] for one in both]
        assert [one.returncode for one in both] == [0, 0], printed
        assert len(origin.requests) == 1


def test_offline_asks_nobody(tmp_path: Path) -> None:
    """Offline no socket is opened, not even to resolve a name: strace sees none (where there is strace)."""
    here = repository(tmp_path, definition("a", "http://name.invalid/a", b"x"))
    done = doit(here, "offline=1")
    assert done.returncode != 0
    assert "a" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.slow
def test_few_open_files(tmp_path: Path) -> None:
    """Large files from several slow hosts are fetched with a limit of 64 open files."""
    contents = [content_of(number, 20 << 20) for number in range(5)]
    with contextlib.ExitStack() as stack:
        urls = [stack.enter_context(serving({"/a": throttled(one, 4 << 20)})).url for one in contents]
        pairs = enumerate(zip(urls, contents, strict=True))
        here = repository(tmp_path, *(definition(f"a{n}", f"{url}/a", one) for n, (url, one) in pairs))
        few = f"ulimit -n 64; exec {sys.executable} -m doit"
        environ = {**CLEAN, "PYTHONPATH": PYTHONPATH, "FETCH_DURABILITY": "fast"}
        done = subprocess.run(["sh", "-c", few], cwd=here, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_cache_that_cannot_be_looked_at(tmp_path: Path) -> None:
    """A path of the cache that cannot be accessed is reported in two lines."""
    here = repository(tmp_path, definition("a", "http://name.invalid/a", b"x"))
    done = doit(here, FETCH_CACHE_DIR="c" * 300)
    assert done.returncode == 3
    assert ": File name too long" in done.stdout
    assert len(done.stdout.splitlines()) == 2


def test_dead_hosts_through_doit(tmp_path: Path) -> None:
    """Ten definitions with a dead origin and a working mirror are fetched, in bounded time."""
    contents = [content_of(number, 1000) for number in range(10)]
    with socket.create_server(("127.0.0.1", 0)) as silent, serving({}) as origin:
        dead = f"http://127.0.0.1:{silent.getsockname()[1]}"
        origin.answers |= {f"/{number}": reply(content) for number, content in enumerate(contents)}
        here = repository(
            tmp_path,
            *(
                definition(f"a{n}", f"{dead}/{n}", content, f"    mirrors: ['{origin.url}/{n}']\n")
                for n, content in enumerate(contents)
            ),
        )
        begun = time.monotonic()
        assert len(ran(doit(here, FETCH_STALL_TIMEOUT_S="1", FETCH_RETRIES="3", FETCH_JOBS="2"))) == 10
        assert time.monotonic() - begun < 15
        assert len(origin.requests) == 10


@pytest.mark.parametrize("fault", ["short", "mute", "wrong"])
def test_a_fault_is_reported_in_few_lines(fault: str, tmp_path: Path) -> None:
    """A failure is reported with source, reason and next step, without traceback, in bounded time."""

    def stay(_connection: object, _request: object) -> None:
        time.sleep(3)

    content = content_of(5, 5000)
    answers: dict[str, Answer] = {
        "short": reply(content[:99], Content_Length="5000"),
        "mute": stay,
        "wrong": reply(content[::-1]),
    }
    with serving({"/a.bin": answers[fault]}) as origin:
        here = repository(tmp_path, definition("a", f"{origin.url}/a.bin", content))
        begun = time.monotonic()
        patience = {"FETCH_RETRIES": "1", "FETCH_BACKOFF_S": "0.05", "FETCH_STALL_TIMEOUT_S": "0.5"}
        done = doit(here, **patience, FETCH_TOTAL_TIMEOUT_S="3")
        assert time.monotonic() - begun < 15
        assert_asked(origin, 2)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout
    assert f"{origin.url}/a.bin: " in done.stdout


def assert_asked(origin: Origin, times: int) -> None:
    assert len(origin.requests) == times


def edit(here: Path, before: str, after: str) -> None:
    """Replace text in the definitions."""
    file = here / "fetchdefs/fetch/all.yml"
    file.write_text(file.read_text().replace(before, after))


def test_a_bumped_url_with_the_old_digest(tmp_path: Path) -> None:
    """The task fails and names both URLs, nothing appears under the new name, and `why` and `info` know it."""
    with serving({"/a-1.bin": reply(b"one"), "/a-2.bin": reply(b"number two")}) as origin:
        here = repository(tmp_path, definition("a", f"{origin.url}/a-1.bin", b"one"))
        assert ran(doit(here)) == ["fetch:a"]
        edit(here, "a-1.bin", "a-2.bin")
        done = doit(here)
        assert done.returncode == 1
        assert f"fetched from {origin.url}/a-1.bin; update sha256 and size" in done.stdout
        assert f"{origin.url}/a-2.bin" in done.stdout
        assert not list(here.glob("cache/artifacts/a/*/a-2.bin"))
        for command in (["why"], ["info", "fetch:a"]):
            assert f"not confirmed: these bytes were fetched from {origin.url}/a-1.bin" in doit(here, *command).stdout
        assert origin.paths() == ["/a-1.bin", "/a-2.bin"]


@pytest.mark.slow
def test_a_moved_url_that_cannot_be_reached(tmp_path: Path) -> None:
    """The cached bytes are used with a warning; a no-op asks nothing, but `-r json` and `verify` report it."""
    with serving({"/a-1.bin": reply(b"one")}) as origin:
        here = repository(tmp_path, definition("a", f"{origin.url}/a-1.bin", b"one"))
        assert ran(doit(here)) == ["fetch:a"]
        edit(here, "a-1.bin", "a-2.bin")
        offline = doit(here, FETCH_OFFLINE="1")
        assert offline.returncode == 0
        assert "the network is off" in offline.stdout
        for words in (["-r", "json"], ["-r", "json"], ["-r", "json", "fetch:a"]):
            done = doit(here, *words)
            assert done.returncode == 0
            assert f"fetched from {origin.url}/a-1.bin" in done.stdout
            assert f"{origin.url}/a-2.bin" in done.stdout
            assert origin.paths() == ["/a-1.bin", "/a-2.bin"]
        assert "1 not confirmed" in doit(here, "verify").stdout
