"""Signals at random moments, and simultaneous runs: the state stays usable."""

from __future__ import annotations

import contextlib
import random
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.archives import Member, tar
from tests.origin import Origin, OriginRequest, serving
from tests.project import DODO, definition, doit, ran
from tests.test_runner import start, until

COUNT = 40
ARCHIVES = {f"/p{number}.tar": tar([Member(f"p/{number}", b"%d" % number)]) for number in range(COUNT)}
TRIES = 200


def slowly(body: bytes) -> object:
    def answer(connection: object, _request: OriginRequest) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body))  # type: ignore[attr-defined]
        for at in range(0, len(body), 1024):
            time.sleep(0.005)
            connection.sendall(body[at : at + 1024])  # type: ignore[attr-defined]

    return answer


@pytest.fixture
def origin() -> Iterator[Origin]:
    with serving({path: slowly(body) for path, body in ARCHIVES.items()}) as one:  # type: ignore[misc]
        yield one


@pytest.fixture
def repository(tmp_path: Path, origin: Origin) -> Path:
    (tmp_path / "dodo.py").write_text(DODO)
    for name in ("fetch", "toolchain"):
        (tmp_path / "fetchdefs" / name).mkdir(parents=True)
    (tmp_path / "fetchdefs/fetch/all.yml").write_text(
        "".join(
            definition(f"p{number}", f"{origin.url}/p{number}.tar", ARCHIVES[f"/p{number}.tar"])
            for number in range(COUNT)
        )
    )
    (tmp_path / "fetchdefs/toolchain/all.yml").write_text(
        "".join(
            f"t{number}:\n  description: t\n  fetches: {{fetch: [{{artifact: p{number}, dest: a}}, p{number + 1}]}}\n"
            "  run: {command: 'sleep 0.02; echo made >$UPLOAD_DIR/o', toolchain-artifact: o}\n"
            for number in range(0, COUNT, 2)
        )
    )
    return tmp_path


def whole(repository: Path) -> bool:
    """Return whether doit's database can be read and is sound."""
    path = repository / "cache/doit.db"
    if not path.exists():
        return True
    with contextlib.closing(sqlite3.connect(path)) as database:
        rows = database.execute("pragma integrity_check").fetchall()
        return rows == [("ok",)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_random_signals(repository: Path) -> None:
    """After each of 200 signals the database is intact; finally one run builds everything and the next one nothing."""
    chance = random.Random(20_261_124)
    for number in range(TRIES):
        how = chance.choice([signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
        with start(repository, FETCH_JOBS="4") as process:
            time.sleep(chance.uniform(0, 1.2))
            process.send_signal(how)
            printed = process.communicate(timeout=60)[0]
        assert "database is locked" not in printed, printed
        assert "unusable" not in printed, printed
        if ".  " in printed:  # before that Python and doit are being loaded
            assert "Traceback" not in printed, printed
            assert process.returncode in (0, 128 + how, -how), (number, printed)
        assert whole(repository), number
        if number % 20 == 19:  # begin again, so that there is something to interrupt
            doit(repository, "clean", "-a", "--forget")
            for blob in (repository / "cache/v1/blobs/sha256").glob("*/*"):
                blob.unlink()
    assert doit(repository).returncode == 0
    assert ran(doit(repository)) == []


@pytest.mark.parametrize("command", ["run", "list", "forget"])
def test_an_interrupt_while_python_leaves(repository: Path, command: str) -> None:
    """Ctrl-C after the work is done, while Python tears itself down, ends the process without a traceback."""
    with (repository / "dodo.py").open("a") as dodo:
        dodo.write("import atexit, os, signal\natexit.register(os.kill, os.getpid(), signal.SIGINT)\n")
    done = doit(repository, command, *(["fetch:p0"] if command == "run" else []))
    assert done.returncode == -signal.SIGINT
    assert "Traceback" not in done.stdout
    assert whole(repository)


@pytest.mark.slow
def test_two_runs_at_once(repository: Path) -> None:
    """Two simultaneous runs of one repository succeed, fetch nothing twice, and leave a valid state."""
    with start(repository) as one, start(repository) as two:
        printed = [process.communicate(timeout=120)[0] for process in (one, two)]
    assert [one.returncode, two.returncode] == [0, 0], "".join(printed)
    assert "Traceback" not in "".join(printed)
    assert "locked" not in "".join(printed)
    assert whole(repository)
    assert ran(doit(repository)) == []


@pytest.mark.slow
def test_a_run_beside_forget(repository: Path) -> None:
    """A task that is forgotten during a run is not up to date in the next one."""
    ran(doit(repository))
    (repository / "build/t0/.prepared.json").unlink()
    replace = (
        (repository / "fetchdefs/toolchain/all.yml")
        .read_text()
        .replace("sleep 0.02; echo made", "touch ../begun; sleep 2; echo more", 1)
    )
    (repository / "fetchdefs/toolchain/all.yml").write_text(replace)
    with start(repository) as process:
        until(repository / "build/t0/begun")
        assert doit(repository, "forget", "fetch:p9").returncode == 0
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert ran(doit(repository)) == ["fetch:p9"]
