"""Split downloads: large and slow files over several connections, never with a wrong byte."""

from __future__ import annotations

import hashlib
import itertools
import random
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tasks_lib.cache import Cache
from tasks_lib.cache.pieces import Pieces, Span
from tasks_lib.download import Downloader, Request
from tasks_lib.download.split import LEAST_PIECE
from tasks_lib.errors import AllSourcesFailedError, CancelledError
from tasks_lib.network import Policy, TransportSettings
from tasks_lib.progress import Silent
from tasks_lib.transport import Transport
from tests.origin import Answer, Origin, OriginRequest, in_turn, raw, reply, serving, throttled
from tests.test_downloader import wanted

BODY = random.Random(1).randbytes(9 << 20)
SHA = hashlib.sha256(BODY).hexdigest()
#: Bytes per second of one connection: alone it would take 9 s.
RATE = 1 << 20


def sources(store: Cache, **policy: Any) -> Downloader:
    options = {"connections": 16, "retries": 2, "backoff_s": 0.001, "split_size": 4 << 20, **policy}
    return Downloader(store, Transport(TransportSettings(stall_timeout_s=5, total_timeout_s=60)), Policy(**options))


def large(*urls: str, **more: Any) -> Request:
    return wanted(*urls, content=(len(BODY), SHA), **more)


def is_there(store: Cache) -> bool:
    return hashlib.sha256(store.path(large("http://h/").integrity.digest).read_bytes()).hexdigest() == SHA


def ranges(origin: Origin) -> list[str]:
    return [request.headers["range"] for request in origin.requests if "range" in request.headers]


def test_a_slow_file_is_split(store: Cache, origin: Origin) -> None:
    """Several connections download a slow file in a fraction of the time, each byte once."""
    origin.answers["/a"] = throttled(BODY, 2 * RATE)
    found = sources(store).obtain(large(f"{origin.url}/a"), Silent())
    assert found["connections"] == 5
    assert is_there(store)
    spans = sorted(tuple(map(int, one.removeprefix("bytes=").split("-"))) for one in ranges(origin) if one[-1] != "-")
    assert len(ranges(origin)) >= 4
    assert all(one[0] > before[0] for before, one in itertools.pairwise(spans))
    assert all(request.headers["if-range"] == '"v1"' for request in origin.requests[1:])
    assert not list((store.root / "v1/partial").iterdir())


IN_ONE: dict[str, tuple[dict[str, Any], Answer]] = {
    "switched off": ({"connections": 1}, throttled(BODY, 30 << 20)),
    "small": ({"split_size": 10 << 20}, throttled(BODY, 30 << 20)),
    "fast": ({}, reply(BODY, ETag='"v1"', Accept_Ranges="bytes")),
    "weak validator": ({}, throttled(BODY, 30 << 20, 'W/"v1"')),
    "no connection to spare": ({"jobs_per_host": 1}, throttled(BODY, 8 << 20)),
}


@pytest.mark.parametrize("case", IN_ONE)
def test_one_connection_when_in_doubt(case: str, store: Cache, origin: Origin) -> None:
    """A file that is small, fast or without a strong validator, or whose host is busy, uses one connection."""
    policy, origin.answers["/a"] = IN_ONE[case]
    found = sources(store, **policy).obtain(large(f"{origin.url}/a"), Silent())
    assert "connections" not in found
    assert len(origin.requests) == 1
    assert is_there(store)


@pytest.mark.slow
def test_many_downloads_are_not_split(store: Cache, origin: Origin) -> None:
    """Several downloads from one host are not split while all of them run, however slow they are."""
    all_run, all_were_slow = threading.Barrier(5, timeout=60), threading.Barrier(5, timeout=60)

    def together(content: bytes) -> Answer:
        """Return an answer that is slow while all five downloads run, until too little is left for a split."""

        def answer(connection: socket.socket, _request: OriginRequest) -> None:
            all_run.wait()
            head = f'HTTP/1.1 200 OK\r\nETag: "v1"\r\nAccept-Ranges: bytes\r\nContent-Length: {len(content)}\r\n\r\n'
            connection.sendall(head.encode())
            slow = len(content) - 2 * LEAST_PIECE + 1
            for at in range(0, slow, RATE // 10):
                connection.sendall(content[at : min(at + RATE // 10, slow)])
                time.sleep(0.05)
            all_were_slow.wait()
            connection.sendall(content[slow:])

        return answer

    origin.answers |= {f"/{n}": together(BODY[n:]) for n in range(5)}
    shared, found = sources(store), []

    def work(number: int) -> None:
        content = BODY[number:]
        one = wanted(f"{origin.url}/{number}", content=(len(content), hashlib.sha256(content).hexdigest()))
        found.append(shared.obtain(one, Silent()))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ["connections" in one for one in found] == [False] * 5
    assert len(origin.requests) == 5


def test_mirrors_help(store: Cache, origin: Origin) -> None:
    """Mirrors provide pieces too; secrets and the validator are sent to the origin only."""
    origin.answers["/a"] = throttled(BODY, 2 * RATE)
    with serving({"/a": throttled(BODY, 2 * RATE, '"other"')}) as mirror:
        one = large(f"{origin.url}/a", f"{mirror.url}/a", headers={"X-Key": "s"})
        sources(store).obtain(one, Silent())
        assert mirror.requests
        assert all("x-key" not in request.headers and "if-range" not in request.headers for request in mirror.requests)
    assert is_there(store)


def once(bad: Answer, good: Answer) -> Answer:
    """Return an answer that fails for the first piece only."""
    lock, left = threading.Lock(), [bad]

    def answer(connection: socket.socket, request: OriginRequest) -> None:
        with lock:
            chosen = left.pop() if left and "range" in request.headers else good
        chosen(connection, request)

    return answer


def half(connection: socket.socket, request: OriginRequest) -> None:
    asked = request.headers["range"].removeprefix("bytes=")
    begin, end = map(int, asked.split("-"))
    head = f'HTTP/1.1 206 X\r\nETag: "v1"\r\nContent-Length: {end + 1 - begin}\r\n'
    connection.sendall(f"{head}Content-Range: bytes {asked}/{len(BODY)}\r\n\r\n".encode() + BODY[begin : begin + 99])


PIECE_FAULTS: dict[str, Answer] = {"cut short": half, "503": reply(b"", "503 Busy"), "reset": lambda c, _r: c.close()}


@pytest.mark.slow
@pytest.mark.parametrize("case", PIECE_FAULTS)
def test_a_piece_is_asked_for_again(case: str, store: Cache, origin: Origin) -> None:
    """A failed piece is fetched again, alone; the whole file is requested once."""
    origin.answers["/a"] = once(PIECE_FAULTS[case], throttled(BODY, 2 * RATE))
    sources(store).obtain(large(f"{origin.url}/a"), Silent())
    assert is_there(store)
    assert [("range" in request.headers) for request in origin.requests].count(False) == 1


def test_a_changed_object_is_not_mixed(store: Cache, origin: Origin) -> None:
    """An object that changes after the first answer is fetched again; no piece of the old one is used."""
    old = throttled(b"x" * len(BODY), 2 * RATE, '"v0"')
    origin.answers["/a"] = in_turn(old, throttled(BODY, 30 << 20))
    sources(store).obtain(large(f"{origin.url}/a"), Silent())
    assert is_there(store)
    assert [request.headers.get("if-range") for request in origin.requests][-1] is None


@pytest.mark.slow
def test_wrong_pieces_of_a_mirror_end_in_one_connection(store: Cache, origin: Origin) -> None:
    """When a mirror sent a wrong piece, the file is fetched again over one connection."""
    origin.answers["/a"] = throttled(BODY, 2 * RATE)
    with serving({"/a": throttled(b"x" * len(BODY), 2 * RATE)}) as mirror:
        found = sources(store).obtain(large(f"{origin.url}/a", f"{mirror.url}/a"), Silent())
    assert is_there(store)
    assert "connections" not in found


@pytest.mark.slow
def test_pieces_survive(store: Cache, origin: Origin) -> None:
    """Pieces of an interrupted run are not fetched again."""

    class Stopper(Silent):
        size = 0

        def advance(self, size: int) -> None:
            self.size += size

        def check(self) -> None:
            if self.size > 6 << 20:
                raise CancelledError("stop")

    origin.answers["/a"] = throttled(BODY, 2 * RATE)
    with pytest.raises(CancelledError):
        sources(store).obtain(large(f"{origin.url}/a"), Stopper())
    before = len(origin.requests)
    found = sources(store).obtain(large(f"{origin.url}/a"), Silent())
    assert is_there(store)
    assert found.get("resumed") or len(origin.requests) == 1  # it came too fast to be split
    assert len(origin.requests) - before <= 4
    assert all("range" in request.headers for request in origin.requests[before:])


#: Downloads sys.argv[2] to the cache sys.argv[1].
DOWNLOAD = """
import sys
from pathlib import Path
from tasks_lib.cache import Cache
from tasks_lib.progress import Silent
from tests.test_split_download import large, sources

sources(Cache(Path(sys.argv[1]))).obtain(large(sys.argv[2]), Silent())
"""


def left_by_run(store: Cache) -> tuple[list[Span], list[int]]:
    """Return the missing span of each incomplete piece, and how much of the piece is noted."""
    path = store.root / "v1/partial" / f"{SHA}.pieces"
    pieces = Pieces.load(path, total=len(BODY), existing_size=len(BODY))
    spans = pieces.missing() if pieces else []
    return spans, [(begin - pieces.start) % pieces.piece for begin, _ in spans] if pieces else []


#: Bytes of each piece that a server sends before it waits.
PART = 100_000


@pytest.mark.slow
def test_parts_of_pieces_survive_a_kill(store: Cache, origin: Origin) -> None:
    """A later run asks for the rest of each piece, and for nothing else, although no killed run completed a piece."""
    ends = threading.Event()

    def begin_only(connection: socket.socket, request: OriginRequest) -> None:
        begin, end = asked(request)
        lines = f'ETag: "v1"\r\nContent-Length: {end - begin}\r\nContent-Range: bytes {begin}-{end - 1}/{len(BODY)}'
        connection.sendall(f"HTTP/1.1 206 X\r\n{lines}\r\n\r\n".encode() + BODY[begin : begin + PART])
        ends.wait()

    origin.answers["/a"] = in_turn(throttled(BODY, RATE), begin_only)
    words = [sys.executable, "-c", DOWNLOAD, str(store.root), f"{origin.url}/a"]
    spans: list[Span] = []
    for number in range(1, 5):
        before = len(origin.requests)
        with subprocess.Popen(words, cwd=Path(__file__).parents[1]) as run:
            while (found := left_by_run(store))[1] != [PART * number] * 5:
                assert run.poll() is None, found
                time.sleep(0.01)
            run.kill()
        if spans:
            assert sorted(map(asked, origin.requests[before:])) == spans
        spans = found[0]
    ends.set()
    origin.answers["/a"] = throttled(BODY, 2 * RATE)
    before = len(origin.requests)
    sources(store).obtain(large(f"{origin.url}/a"), Silent())
    assert sorted(map(asked, origin.requests[before:])) == spans
    assert is_there(store)


def asked(request: OriginRequest) -> Span:
    """Return the span of a request for a part."""
    begin, end = request.headers["range"].removeprefix("bytes=").split("-")
    return int(begin), int(end) + 1 if end else len(BODY)


def in_pieces(pieces: Answer, whole: Answer) -> Answer:
    """Return an answer that sends `pieces` for a range with an end."""

    def answer(connection: socket.socket, request: OriginRequest) -> None:
        (pieces if request.headers.get("range", "-")[-1] != "-" else whole)(connection, request)

    return answer


@pytest.mark.slow
def test_what_a_mirror_did_is_not_the_fault_of_the_origin(store: Cache, origin: Origin) -> None:
    """A permanent failure of a mirror affects neither the origin nor the bytes received."""

    def late(connection: socket.socket, request: OriginRequest) -> None:
        time.sleep(1.5)  # the origin's own connections found nothing more to do
        reply(b"", "404 Not Found")(connection, request)

    origin.answers["/a"] = in_pieces(throttled(BODY, 16 * RATE), throttled(BODY, 2 * RATE))
    with serving({"/a": late}) as mirror:
        sources(store).obtain(large(f"{origin.url}/a", f"{mirror.url}/a"), Silent())
    assert is_there(store)
    assert [("range" in request.headers) for request in origin.requests].count(False) == 1


def test_a_report_names_who_failed(store: Cache, origin: Origin) -> None:
    """When pieces of both sources fail, the error lists each reason with its URL."""
    origin.answers["/a"] = in_turn(throttled(BODY, 2 * RATE), reply(b"", "500 Origin"))
    with serving({"/a": reply(b"", "502 Mirror")}) as mirror, pytest.raises(AllSourcesFailedError) as caught:
        sources(store).obtain(large(f"{origin.url}/a", f"{mirror.url}/a"), Silent())
    assert {(one.url == f"{origin.url}/a", "500 Origin" in one.reason) for one in caught.value.attempts} == {
        (True, True),
        (False, False),
    }


CROWDS: dict[str, Answer] = {
    "forbidden": reply(b"", "403 One connection only"),
    "no parts": reply(b"", "404 Not Found"),
    "busy": reply(b"", "503 Busy"),
    "too many": reply(b"", "429 Slow down", Retry_After="0"),
    "hung up": raw(b""),
    "no HTTP": raw(b"go away\r\n\r\n"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CROWDS)
def test_a_host_that_wants_no_crowd(case: str, store: Cache, origin: Origin) -> None:
    """If a host refuses several connections or ranges, one connection resumes where the first stopped."""
    origin.answers["/a"] = in_pieces(CROWDS[case], throttled(BODY, 2 * RATE))
    found = sources(store).obtain(large(f"{origin.url}/a"), Silent())
    assert is_there(store)
    assert "connections" not in found
    assert found["resumed"]
    limit = 4 * 5 if case in ("busy", "too many") else 4 * 5 * 3  # connections that must wait ask once each
    assert len(origin.requests) < limit


@pytest.mark.slow
def test_a_crowd_that_must_wait_for_a_day(store: Cache, origin: Origin) -> None:
    """A wait that exceeds the deadline of the source ends the split; one connection is still tried."""
    busy = reply(b"", "429 Slow down", Retry_After="86400")
    origin.answers["/a"] = in_pieces(busy, throttled(BODY, 4 * RATE))
    assert "connections" not in sources(store).obtain(large(f"{origin.url}/a"), Silent())
    assert is_there(store)


def test_what_refused_pieces_does_not_stay(store: Cache, origin: Origin) -> None:
    """Pieces left by an earlier run do not prevent a download from a host that now refuses ranges."""
    origin.answers["/a"] = in_pieces(reply(b"", "403 X"), in_turn(throttled(BODY, 2 * RATE), reply(b"", "403 X")))
    with pytest.raises(AllSourcesFailedError, match="403"):
        sources(store).obtain(large(f"{origin.url}/a"), Silent())
    origin.answers["/a"] = in_pieces(reply(b"", "403 X"), throttled(BODY, 16 * RATE))
    sources(store).obtain(large(f"{origin.url}/a"), Silent())
    assert is_there(store)


def test_a_blocked_mirror_is_not_asked_for_pieces(store: Cache, origin: Origin) -> None:
    """A blocked source is not used for pieces either."""
    origin.answers["/a"] = throttled(BODY, 2 * RATE)
    with serving({"/a": throttled(BODY, 2 * RATE)}) as mirror:
        url = f"{mirror.url}/a"
        found = sources(store).obtain(large(f"{origin.url}/a", url, refused={url: "blocked"}), Silent())
        assert found["connections"] == 5
        assert not mirror.requests
    assert is_there(store)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_line_that_ends_by_a_fault_of_ours_holds_nobody(store: Cache, origin: Origin) -> None:
    """The download does not wait for a connection whose thread ended; the remaining one continues."""

    class Faulty(Silent):
        def advance(self, size: int) -> None:
            if size and threading.current_thread().name == "piece":
                raise RuntimeError("a fault")

    origin.answers["/a"] = throttled(BODY, 4 * RATE)
    sources(store, retries=0).obtain(large(f"{origin.url}/a"), Faulty())
    assert is_there(store)
