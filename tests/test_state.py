"""The state of doit survives kills, other processes, damage and a full disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from doit.dependency import JSONCodec

from tasks_lib.engine.state import StateBackend, snapshot_path

DODO = """
import time
from tasks_lib.engine.state import StateBackend
DOIT_CONFIG = {"backend": "doit-fetch", "dep_file": "doit.db", "verbosity": 0}
def work(targets, seconds):
    time.sleep(seconds)
    open(targets[0], "w").close()
def task_t():
    for i in range(COUNT):
        yield {"name": str(i), "actions": [(work, (), {"seconds": SECONDS})], "targets": [f"PREFIX{i}"],
               "uptodate": [True], "io": {"capture": False}}
def task_fails():
    return {"actions": [lambda: False], "io": {"capture": False}}
"""


def dodo(directory: Path, *, count: int, seconds: float, prefix: str = "out-") -> Path:
    path = directory / f"dodo_{prefix.strip('-')}.py"
    path.write_text(DODO.replace("COUNT", str(count)).replace("SECONDS", str(seconds)).replace("PREFIX", prefix))
    return path


def start(path: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "doit", "-f", str(path), *words]
    return subprocess.Popen(command, cwd=path.parent, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finished(path: Path, *words: str) -> tuple[int, str]:
    with start(path, *words) as process:
        output = process.communicate()[0]
    return process.returncode, output


def state(directory: Path) -> StateBackend:
    return StateBackend(str(directory / "doit.db"), JSONCodec())  # type: ignore[no-untyped-call]  # doit has no types


def save(one: StateBackend, *tasks: str) -> None:
    for task in tasks:
        one.set(task, "_values_:", {"key": task})
        one.set(task, "deps:", ())


def saved(directory: Path, task: str, key: str = "_values_:") -> object:
    """Return what a new process reads."""
    one = state(directory)
    try:
        return one.get(task, key)
    finally:
        one.dump()


def tasks(directory: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(directory / "doit.db")) as database:
        return {name for (name,) in database.execute("select name from tasks")}


def test_what_is_saved_is_found_again(tmp_path: Path) -> None:
    """Values are read one by one and all at once; removed values are deleted from memory and from the file."""
    names = [f"t{number}" for number in range(200)]
    one = state(tmp_path)
    save(one, *names)
    one.dump()
    two = state(tmp_path)
    assert [two.get(name, "_values_:") for name in names] == [{"key": name} for name in names]
    two.remove("t0")
    assert not two.in_("t0")
    assert two.get("nobody", "deps:") is None
    two.dump()
    assert tasks(tmp_path) == set(names[1:])
    three = state(tmp_path)
    three.remove_all()
    save(three, "new")
    three.dump()
    assert tasks(tmp_path) == {"new"}


def test_a_written_row_is_only_in_the_file(tmp_path: Path) -> None:
    """A row that was written is read from the file again, changed and removed there; it takes no memory."""
    one = state(tmp_path)
    save(one, *(f"t{number}" for number in range(100)))
    assert one.save()
    with contextlib.closing(sqlite3.connect(tmp_path / "doit.db")) as database:
        database.execute("update tasks set data='{\"_values_:\": 1}' where name='t7'")
        database.commit()
    assert one.get("t7", "_values_:") == 1
    assert one.get("t8", "_values_:") == {"key": "t8"}
    one.set("t8", "deps:", ("f",))
    one.remove("t9")
    assert one.save()
    assert not one.in_("t9")
    assert (one.get("t8", "_values_:"), one.get("t8", "deps:")) == ({"key": "t8"}, ["f"])
    one.dump()
    assert tasks(tmp_path) == {f"t{number}" for number in range(100)} - {"t9"}


def test_a_finished_task_is_in_the_file_soon(tmp_path: Path) -> None:
    """A finished task is written without closing; a task that is being saved is not."""
    one = state(tmp_path)
    save(one, "done")
    one.set("half", "_values_:", {})
    deadline = time.monotonic() + 20
    while tasks(tmp_path) != {"done"} and time.monotonic() < deadline:
        time.sleep(0.05)
    assert tasks(tmp_path) == {"done"}
    one.dump()


def test_a_value_that_is_no_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A task with a value that JSON cannot represent is not saved, not even its previous state; all others are."""
    one = state(tmp_path)
    save(one, "odd", "first")
    one.dump()
    two = state(tmp_path)
    two.set("odd", "_values_:", {"a": {1, 2}})
    two.set("odd", "deps:", ())
    save(two, "last")
    two.dump()
    assert tasks(tmp_path) == {"first", "last"}
    assert two.get("odd", "_values_:") == {"a": {1, 2}}
    assert "cannot save the values that odd returned" in capsys.readouterr().err


def test_two_at_once_keep_what_both_finished(tmp_path: Path) -> None:
    """Each process writes its own rows only, and none waits for the end of the other."""
    one, two = state(tmp_path), state(tmp_path)
    save(one, "a")
    save(two, "b")
    one.remove("nothing")  # stock doit holds the lock from here on
    one.dump()
    two.dump()
    assert tasks(tmp_path) == {"a", "b"}


def test_the_row_that_was_saved_last_stays(tmp_path: Path) -> None:
    """A run that writes later does not replace what another run saved after it, unless the clock was set back since."""
    one, two, three = state(tmp_path), state(tmp_path), state(tmp_path)
    one.set("a", "_values_:", {"by": "one"})
    one.set("a", "deps:", ())
    two.set("a", "_values_:", {"by": "two"})
    two.set("a", "deps:", ())
    two.dump()
    one.dump()
    assert saved(tmp_path, "a") == {"by": "two"}
    with contextlib.closing(sqlite3.connect(tmp_path / "doit.db")) as database, database:
        database.execute("update tasks set saved_ns=?", (time.time_ns() + 3600 * 10**9,))
    save(three, "a")
    three.dump()
    assert saved(tmp_path, "a") == {"key": "a"}


_FIRST_VERSION = """
create table tasks (name text not null primary key, data text not null) without rowid;
create table forgotten (times integer not null);
insert into forgotten values (3);
insert into tasks values ('a', '{"deps:": [1]}'), ('b', '{"deps:": [2]}');
pragma application_id=0x646F6974;
pragma user_version=1;
"""


def test_a_file_of_the_first_version_is_upgraded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its rows are kept, and replaced by those of later runs."""
    with contextlib.closing(sqlite3.connect(tmp_path / "doit.db")) as database:
        database.executescript(_FIRST_VERSION)
    one = state(tmp_path)
    assert (one.get("a", "deps:"), one.get("b", "deps:")) == ([1], [2])
    save(one, "a")
    one.dump()
    assert (saved(tmp_path, "a"), saved(tmp_path, "b", "deps:")) == ({"key": "a"}, [2])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("version", [0, 1])
def test_many_processes_make_the_file_at_once(version: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs that start together create the file once, or upgrade it once; none of them sets it aside."""
    for number in range(4):
        place = tmp_path / str(number)
        place.mkdir()
        if version:
            with contextlib.closing(sqlite3.connect(place / "doit.db")) as database:
                database.executescript(_FIRST_VERSION)
        barrier = threading.Barrier(8)

        def work(name: str, place: Path = place, barrier: threading.Barrier = barrier) -> None:
            one = state(place)
            barrier.wait()
            save(one, name)
            one.dump()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, "abcdefgh"))
        assert tasks(place) >= set("abcdefgh")
    assert capsys.readouterr().err == ""


def test_what_is_forgotten_takes_the_stamp_along(tmp_path: Path) -> None:
    """Forgetting or ignoring a task removes the snapshot, and other processes notice that something was forgotten."""
    stamp = snapshot_path(str(tmp_path / "doit.db"))
    watching = state(tmp_path)
    save(watching, "a")
    for forget in (lambda one: one.remove("a"), StateBackend.remove_all, lambda one: one.set("a", "ignore:", "1")):
        stamp.touch()
        one = state(tmp_path)
        forget(one)
        assert not stamp.exists()
        one.dump()
    assert not watching.save()
    watching.dump()
    later = state(tmp_path)
    later.begin()
    assert later.save()
    later.dump()


def _stock(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("create table doit (task_id text not null primary key, task_data json)")


def _other_version(path: Path) -> None:
    one = state(path.parent)
    save(one, "a")
    one.dump()
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("pragma user_version=99")


def _damaged(path: Path) -> None:
    one = state(path.parent)
    save(one, *(f"task-{number:05}" for number in range(2000)))
    one.dump()
    data = bytearray(path.read_bytes())
    data[4096:-4096] = b"\xa5" * (len(data) - 8192)
    path.write_bytes(data)


UNUSABLE = {
    "no database": lambda path: path.write_bytes(b"not a database at all " * 100),
    "of stock doit": _stock,
    "another version": _other_version,
    "damaged pages": _damaged,
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_cannot_be_used_is_set_aside(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged database is kept under another name, one line says so, and the run continues."""
    UNUSABLE[case](tmp_path / "doit.db")
    before = (tmp_path / "doit.db").read_bytes()
    one = state(tmp_path)
    for number in range(200):
        assert one.get(f"task-{number:05}", "deps:") is None
    save(one, "fresh")
    one.dump()
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "moved to" in printed
    assert tasks(tmp_path) == {"fresh"}
    (aside,) = tmp_path.glob("doit.db.unusable-*[0-9]")
    assert aside.read_bytes() == before


def test_a_damaged_row_is_no_row(tmp_path: Path) -> None:
    """A row that is not a JSON object causes only its own task to run."""
    one = state(tmp_path)
    save(one, "good", "bad", "list")
    one.dump()
    with contextlib.closing(sqlite3.connect(tmp_path / "doit.db")) as database:
        database.execute("update tasks set data='{\"deps:' where name='bad'")
        database.execute("update tasks set data='[]' where name='list'")
        database.commit()
    two = state(tmp_path)
    assert [two.in_(name) for name in ("good", "bad", "list")] == [True, False, False]
    two.dump()


def test_a_lock_of_another_program_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A process that cannot write now writes later; at the end a warning reports lost records."""
    one = state(tmp_path)
    save(one, "a")
    one.dump()
    monkeypatch.setattr("tasks_lib.engine.state_database._BUSY_S", 0.05)
    two = state(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "doit.db", isolation_level=None)) as other:
        other.execute("begin immediate")
        save(two, "b")
        two.dump()
    assert "the next run finds finished tasks" in capsys.readouterr().err
    assert tasks(tmp_path) == {"a"}


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_killed_in_the_middle(how: signal.Signals, tmp_path: Path) -> None:
    """A task that finished half a second before a kill is recorded, and the next run does not repeat it."""
    path = dodo(tmp_path, count=400, seconds=0.01)
    with start(path) as process:
        while len(list(tmp_path.glob("out-*"))) < 150:
            time.sleep(0.01)
        process.send_signal(how)
        process.communicate()
    made = len(list(tmp_path.glob("out-*")))
    kept = len(tasks(tmp_path))
    assert made - kept <= 0.5 / 0.01 + 30
    assert kept > 50


def test_a_failed_task_locks_nobody_out(tmp_path: Path) -> None:
    """While a run continues after a failure, another run can save its results."""
    slow, quick = dodo(tmp_path, count=30, seconds=0.1), dodo(tmp_path, count=3, seconds=0, prefix="quick-")
    with start(slow, "-c", "fails", "t") as process:
        while not (tmp_path / "out-1").exists():
            time.sleep(0.01)
        code, printed = finished(quick, "t")
        assert process.poll() is None
        process.kill()
        process.communicate()
    assert code == 0, printed
    assert {"t:0", "t:1", "t:2"} <= tasks(tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a directory on a file system of 256 KiB."""
    directory = tmp_path / "small"
    directory.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("needs mount(8) and root")
    if subprocess.run([mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", directory], check=False).returncode:
        pytest.skip("cannot mount here")
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)


def test_a_full_disk(small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without space the run ends with one message; the database stays readable, and works again with space."""
    one = state(small_disk)
    save(one, "first")
    one.dump()
    filler = small_disk / "filler"
    open_before = state(small_disk)
    assert open_before.in_("first")
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    for two in (open_before, state(small_disk)):
        assert two.get("first", "_values_:") == {"key": "first"}
        save(two, *(f"task-{number:0100}" for number in range(3000)))
        two.dump()
        assert capsys.readouterr().err.count("the next run finds finished tasks in the cache") >= 1
    filler.unlink()
    three = state(small_disk)
    assert three.get("first", "_values_:") == {"key": "first"}
    save(three, "second")
    three.dump()
    assert {"first", "second"} <= tasks(small_disk)


def test_rows_are_what_doit_reads(tmp_path: Path) -> None:
    """A real doit finds its tasks up to date, and `forget` makes one run again."""
    path = dodo(tmp_path, count=3, seconds=0)
    assert finished(path, "t")[1].count(".  t:") == 3
    assert finished(path, "t")[1].count("-- t:") == 3
    assert finished(path, "forget", "t:1")[0] == 0
    assert tasks(tmp_path) & {"t:0", "t:1", "t:2"} == {"t:0", "t:2"}
