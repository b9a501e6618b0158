"""Serialization of threads that make system calls: one at a time, released while waiting, without deadlock."""

from __future__ import annotations

import hashlib
import queue
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tasks_lib import gil
from tasks_lib.context import Context
from tasks_lib.definitions import Fetch, FetchesEntry, StaticUrl
from tasks_lib.digest import Digest, Integrity
from tasks_lib.gil import give_up, kept, pass_on, released, run_alone
from tasks_lib.progress import Silent
from tasks_lib.settings import Settings
from tasks_lib.steps import Artifact, Delivery, deliver, fetch
from tests.origin import OriginRequest, reply, serving


def started(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most one of the serialized threads runs at any time."""
    monkeypatch.setattr(gil, "_PATIENCE_S", 3600)
    at_work, most = [0], [0]

    def work() -> None:
        for _ in range(200):
            with run_alone:
                at_work[0] += 1
                most[0] = max(most[0], at_work[0])
                open("/dev/null").close()  # noqa: PTH123  # releases the GIL
                at_work[0] -= 1

    for thread in [started(work) for _ in range(8)]:
        thread.join()
    assert most[0] == 1


def test_others_work_while_one_waits() -> None:
    """A serialized thread that waits lets another one run, and continues serialized afterwards."""
    asked: queue.SimpleQueue[str] = queue.SimpleQueue()
    answered: queue.SimpleQueue[str] = queue.SimpleQueue()

    def answer() -> None:
        for _ in range(100):
            question = asked.get()
            with run_alone:
                answered.put(question)

    other = started(answer)
    for number in range(100):
        with run_alone:
            asked.put(str(number))
            with released:
                assert not gil._own.turn
                assert answered.get(timeout=60) == str(number)
            assert gil._own.turn
    other.join()


def waiting_in_line(work: Callable[[], None]) -> threading.Thread:
    """Start a thread and return once it waits for its turn."""
    before, thread = len(gil._queue.waiting), started(work)
    while len(gil._queue.waiting) == before:
        assert thread.is_alive()
        time.sleep(0.001)
    return thread


def test_first_come_first_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads get their turns in the order in which they began to wait, the one that passed its turn on last."""
    monkeypatch.setattr(gil, "_PATIENCE_S", 3600)
    order: list[int] = []

    def work(number: int) -> None:
        with run_alone:
            order.append(number)

    with run_alone:
        assert not pass_on(), "nobody waits"
        threads = [waiting_in_line(partial(work, number)) for number in range(5)]
        assert pass_on()
        assert order == [0, 1, 2, 3, 4]
        assert gil._own.turn
    for thread in threads:
        thread.join()
    assert not pass_on(), "not inside run_alone"


def test_kept_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker keeps its turn for its next task; it ends when the worker waits, gives it up, or ends."""
    monkeypatch.setattr(gil, "_PATIENCE_S", 3600)
    passed: list[str] = []
    with kept:
        for end in (released.__enter__, give_up):
            with run_alone:
                first = gil._own.turn
            other = waiting_in_line(partial(_pass, passed))
            with run_alone:
                assert gil._own.turn == first
            assert not passed
            end()
            other.join(60)
            assert passed.pop()
        with run_alone:
            pass
        other = waiting_in_line(partial(_pass, passed))
    other.join(60)
    assert passed


def _pass(passed: list[str]) -> None:
    with run_alone:
        passed.append("passed")


def test_kept_turn_that_was_taken() -> None:
    """A worker whose kept turn was taken from it waits for a new one."""
    passed: list[str] = []
    with kept:
        with run_alone:
            first = gil._own.turn
        started(partial(_pass, passed)).join(60)
        assert passed
        with run_alone:
            assert gil._own.turn not in (0, first)
            assert gil._own.turn == gil._queue.turn


def test_who_hangs_is_passed() -> None:
    """A thread that blocks without releasing loses its turn: the others continue, and finally so does it."""
    hangs, go_on, passed = threading.Event(), threading.Event(), threading.Event()

    def hang() -> None:
        with run_alone:
            hangs.set()
            assert go_on.wait(60)
        with run_alone:
            passed.set()

    def work() -> None:
        for _ in range(3):
            with run_alone:
                pass

    first = started(hang)
    assert hangs.wait(60)
    for thread in [started(work) for _ in range(4)]:
        thread.join(60)
        assert not thread.is_alive()
    go_on.set()
    first.join(60)
    assert passed.is_set()


def test_who_was_passed_ends_no_other_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread whose turn was taken does not end the turn of the thread that has it now."""
    monkeypatch.setattr(gil, "_PATIENCE_S", 0.01)
    holds, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with run_alone:
            holds.set()
            assert go_on.wait(60)

    with run_alone:
        other = started(hold)
        assert holds.wait(60)
        monkeypatch.setattr(gil, "_PATIENCE_S", 3600)
        third = waiting_in_line(partial(_pass, []))
    assert len(gil._queue.waiting) == 1
    go_on.set()
    for thread in (other, third):
        thread.join(60)
        assert not thread.is_alive()


def test_waiting_is_nothing_to_others() -> None:
    """A thread that is not serialized neither acquires nor releases the turn."""
    holds, done = threading.Event(), threading.Event()

    def hold() -> None:
        with run_alone:
            holds.set()
            assert done.wait(60)

    other = started(hold)
    assert holds.wait(60)
    with released:
        pass
    assert not gil._own.turn
    done.set()
    other.join()


class Watched(Silent):
    """A progress that records whether the step is serialized when it begins its work."""

    def __init__(self) -> None:
        self.alone: list[bool] = []

    def phase(self, name: str, **facts: str | int | float) -> None:
        del name, facts
        self.alone.append(bool(gil._own.turn))


@pytest.mark.parametrize(("size", "takes"), [(1, True), (1 << 20, False)])
def test_small_deliveries_take_turns(size: int, takes: bool, tmp_path: Path) -> None:
    """The delivery of a small artifact, mostly system calls, is serialized; that of a large one is not."""
    settings = Settings.parse(
        variables={"cache": str(tmp_path / "cache"), "build": str(tmp_path / "build")}, environ={}
    )
    context, content, watched = Context(settings, {}), b"x" * size, Watched()
    with context.cache.writer() as writer:
        writer.write(content)
        integrity = writer.commit()
    artifact = Artifact(key="k", path=tmp_path / "one.bin", task="fetch:one", integrity=integrity)
    deliver(
        context,
        Delivery(
            artifact=artifact,
            entry=FetchesEntry(kind="fetch", name="one", delivery="place"),
            destination=tmp_path / "there",
            record=tmp_path / ".records/one.json",
            key="k",
        ),
        watched,
    )
    assert (tmp_path / "there/one.bin").read_bytes() == content
    assert set(watched.alone) == {takes}
    assert not gil._own.turn


@pytest.mark.parametrize(("size", "takes"), [(1, True), (2 << 20, False)])
def test_small_downloads_take_turns(size: int, takes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small download, mostly system calls, is serialized and gives up its turn while it waits for the server."""
    content = b"x" * size
    monkeypatch.setattr(gil, "_PATIENCE_S", 3600)  # the turn is not taken from the thread that waits for this answer

    def held(connection: socket.socket, request: OriginRequest) -> None:
        with run_alone:
            pass
        reply(content)(connection, request)

    with serving({f"/{number}": held for number in range(10)}) as origin:
        for number in range(10):
            settings = Settings.parse(variables={"cache": str(tmp_path / str(number))}, environ={})
            context, watched = Context(settings, {}), Watched()
            digest = Digest.sha256(hashlib.sha256(content).hexdigest())
            source = StaticUrl(
                url=f"{origin.url}/{number}", integrity=Integrity(size=size, digest=digest), artifact_name="one"
            )
            artifact = Artifact(key="0" * 64, path=tmp_path / "one", task="fetch:one", integrity=source.integrity)
            fetch(context, Fetch(name="one", description="d", source=source, file="f", line=1), artifact, watched)
            assert (tmp_path / "one").read_bytes() == content
            assert set(watched.alone) == {takes}
            assert not gil._own.turn
