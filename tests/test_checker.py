"""File dependencies: read once, by workers, and identified by size as well as time."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tasks_lib.engine.checker import LARGE_FILE_SIZE, MD5Checker
from tasks_lib.fs.fingerprint import RACY_NS
from tests.project import doit, ran

DODO = """
import hashlib, threading
from doit import dependency
from doit_fetch import DOIT_CONFIG
DOIT_CONFIG = {**DOIT_CONFIG, "default_tasks": None, "check_file_uptodate": CHECKER}
def noted(true, say=lambda: open("log", "a").write(threading.current_thread().name + "\\n")):
    def read(*words):
        say()
        return true(*words)
    return read
dependency.get_file_md5 = noted(dependency.get_file_md5)
hashlib.file_digest = noted(hashlib.file_digest)
def nothing():
    pass
def task_t():
    for i in range(4):
        yield {"name": str(i), "actions": [nothing], "file_dep": ["archive"], "io": {"capture": False}}
"""


def readers(directory: Path, checker: str) -> list[str]:
    """Return the threads that read a large file on which four tasks depend, the workers' names without a number."""
    (directory / "archive").write_bytes(b"x" * LARGE_FILE_SIZE)
    (directory / "dodo.py").write_text(DODO.replace("CHECKER", checker))
    time.sleep(2 * RACY_NS / 1e9)
    assert len(ran(doit(directory, "-n", "1"))) == 4
    return [name.partition("-")[0] for name in (directory / "log").read_text().split()]


def test_a_worker_reads_each_file_once(tmp_path: Path) -> None:
    """The main thread reads no file, and four tasks that depend on one file cause one read."""
    assert readers(tmp_path, 'DOIT_CONFIG["check_file_uptodate"]') == ["task"]


def test_doits_own_checker_reads_on_the_main_thread(tmp_path: Path) -> None:
    """Doit's own checker reads on the main thread: the reason for a checker of our own."""
    assert readers(tmp_path, '"md5"') == ["MainThread"] * 4


def test_what_changed_is_noticed(tmp_path: Path) -> None:
    """Changed content is noticed, with another size even at the same time; a touched file is not a change."""
    path = tmp_path / "file"
    path.write_bytes(b"one")
    checker = MD5Checker()
    checker.prime(str(path))
    before = path.stat()
    state = checker.get_state(str(path), None)
    assert state is not None
    assert checker.get_state(str(path), state) is None
    os.utime(path)
    assert not checker.check_modified(str(path), path.stat(), state)
    path.write_bytes(b"two")
    os.utime(path, ns=(0, before.st_mtime_ns + 1_000_000_000))
    assert checker.check_modified(str(path), path.stat(), state)
    path.write_bytes(b"three")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert checker.check_modified(str(path), path.stat(), state)


def test_what_doit_remembers_stays_valid(tmp_path: Path) -> None:
    """State saved by doit's own checker is accepted, so that switching checkers runs nothing; and vice versa."""
    for checker in ('"md5"', 'DOIT_CONFIG["check_file_uptodate"]', '"md5"'):
        (tmp_path / "archive").touch()
        (tmp_path / "archive").write_bytes(b"x" * 1000)
        (tmp_path / "dodo.py").write_text(DODO.replace("CHECKER", checker))
        done = ran(doit(tmp_path))
        assert done == ([] if (tmp_path / "once").exists() else ["t:0", "t:1", "t:2", "t:3"])
        (tmp_path / "once").touch()
