"""Running processes: which ones belong to a command, and which ones hold a lock."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks_lib.fs import processes
from tasks_lib.fs.locks import try_lock
from tasks_lib.fs.system_calls import FEATURES
from tests.project import CLEAN, PYTHONPATH

MARK = f"A_COMMAND_OF_{os.getpid()}"


@contextmanager
def sleeping(**environ: str) -> Iterator[int]:
    """Yield the id of a process in a session of its own that waits; the system shows its environment once it runs."""
    words, pipe = ["sh", "-c", "echo runs; read _"], subprocess.PIPE
    environment = {**CLEAN, **environ}
    with subprocess.Popen(words, env=environment, stdin=pipe, stdout=pipe, start_new_session=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"runs\n"
            yield process.pid
        finally:
            process.kill()


def found(session: int | None = None, variable: str = f"{MARK}=") -> list[int]:
    return [one.id for one in processes.find_command_processes(variable, session)]


def test_processes_of_a_command() -> None:
    """A process belongs to a command by its session or its environment; unknown ones match nothing."""
    with sleeping() as plain, sleeping(**{MARK: "x"}) as marked:
        assert found(plain) == ([plain, marked] if FEATURES.proc else [plain])
        assert found() == ([marked] if FEATURES.proc else [])
        assert found(None, f"{MARK}=y") == []
        assert processes.is_running(plain)
        ended = processes.end(lambda: processes.find_command_processes("-", plain), settle_s=0, grace_s=5).ended
        assert [one.id for one in ended] == [plain]
        assert not processes.is_running(plain) or not FEATURES.proc  # a zombie until its parent waits


@pytest.mark.parametrize("session", [0, -1, 1])
def test_sessions_that_are_not_commands(session: int) -> None:
    """The system's processes, this process, its session and its ancestors never belong to a command."""
    assert found(session) == []
    assert os.getpid() not in found(os.getsid(0)) and found(os.getsid(0)) == []
    code = "from tasks_lib.fs.processes import find_command_processes as f\nprint(f('MARKED='))"
    words = ["sh", "-c", '"$0" -c "$1"; true', sys.executable, code]
    environ = {**CLEAN, "PYTHONPATH": PYTHONPATH, "MARKED": "x"}
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=True, start_new_session=True)
    assert done.stdout == "[]\n"


def test_a_lock_lasts_as_long_as_the_program_under_it(tmp_path: Path) -> None:
    """A program that is started under a lock holds it when the process that took it is killed."""
    lock, gate = tmp_path / "lock", tmp_path / "gate"
    os.mkfifo(gate)
    code = (
        "import sys\nfrom pathlib import Path\nfrom tasks_lib.fs.locks import locked\n"
        "from tasks_lib.progress import Silent\nfrom tasks_lib.subprocesses import Invocation, run\n"
        "with locked(Path('lock'), timeout_s=1, progress=Silent()):\n"
        "    run(Invocation(words=['sh', '-c', 'touch begun; read line < gate'], environ={}), Silent())\n"
    )
    environ = {**CLEAN, "PYTHONPATH": PYTHONPATH}
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environ) as process:
        while not (tmp_path / "begun").exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    with try_lock(lock) as free, lock.open() as file:
        assert not free
        holders = processes.find_lock_holders(file.fileno())
        assert [one.name for one in holders] == (["sh"] if FEATURES.proc else [])
    gate.write_text("\n")
    while True:
        with try_lock(lock) as free:
            if free:
                break
        time.sleep(0.02)


@pytest.mark.skipif(not FEATURES.proc, reason="needs /proc")
def test_no_descriptor_is_left_to_list_processes(tmp_path: Path) -> None:
    """When too many files are open, the holder of a lock is unknown; the processes of a command are not taken as ended."""
    code = f"""
import os, resource
from tasks_lib.fs import processes
lock = os.open({str(tmp_path / "lock")!r}, os.O_RDWR | os.O_CREAT)
resource.setrlimit(resource.RLIMIT_NOFILE, (lock + 1, lock + 1))
assert processes.find_lock_holders(lock) == []
try:
    processes.find_command_processes("NAME=value")
except OSError:
    raise SystemExit(0)
raise SystemExit("processes that cannot be listed were taken as ended")
"""
    subprocess.run([sys.executable, "-c", code], env={**CLEAN, "PYTHONPATH": PYTHONPATH}, check=True)
