"""Serialization of threads that make system calls: one at a time, released while waiting, without deadlock."""

from __future__ import annotations

import hashlib
import queue
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks_lib import gil
from tasks_lib.context import Context
from tasks_lib.definitions import Fetch, FetchesEntry, StaticUrl
from tasks_lib.digest import Digest, Integrity
from tasks_lib.gil import released, run_alone
from tasks_lib.progress import Silent
from tasks_lib.settings import Settings
from tasks_lib.steps import Artifact, Delivery, deliver, fetch
from tests.origin import OriginRequest, reply, serving


def started(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_one_after_another() -> None:
    """At most one of the serialized threads runs at any time."""
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
                assert gil._own.turn is None
                assert answered.get(timeout=60) == str(number)
            assert gil._own.turn is not None
    other.join()


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
    assert gil._own.turn is None
    done.set()
    other.join()


class Watched(Silent):
    """A progress that records whether the step is serialized when it begins its work."""

    def __init__(self) -> None:
        self.alone: list[bool] = []

    def phase(self, name: str, **facts: str | int | float) -> None:
        del name, facts
        self.alone.append(gil._own.turn is not None)


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
    assert gil._own.turn is None


@pytest.mark.parametrize(("size", "takes"), [(1, True), (2 << 20, False)])
def test_small_downloads_take_turns(size: int, takes: bool, tmp_path: Path) -> None:
    """A small download, mostly system calls, is serialized and releases its turn while it waits for the server."""
    content, given_up = b"x" * size, []

    def held(connection: socket.socket, request: OriginRequest) -> None:
        before = gil._turn
        with run_alone:
            given_up.append(gil._turn is before)  # else it was taken from the thread that waits for this answer
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
            assert gil._own.turn is None
    assert any(given_up)
