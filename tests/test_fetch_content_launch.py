"""`fetch-content` without run-task: driven by variables, as a command's launcher, and as one file for an image."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project import CLEAN, ROOT
from tests.taskcluster import Taskcluster, fetch_content, taskcluster

#: The real program, of the release that is installed.
RUN_TASK = Path(
    str(importlib.metadata.distribution("taskcluster-taskgraph").locate_file("taskgraph/run-task/run-task"))
)
#: A Python without this package.
SYSTEM = "/usr/bin/python3"
needs_system = pytest.mark.skipif(not Path(SYSTEM).exists(), reason="no Python of the system")


@pytest.fixture
def queue() -> Iterator[Taskcluster]:
    with taskcluster() as served:
        served.publish("public/one.txt", b"one", extract=False)
        yield served


def run(queue: Taskcluster, directory: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a task's directory, with a relative MOZ_FETCHES_DIR."""
    return subprocess.run(
        [sys.executable, "-u", ROOT / "fetch-content", *words],
        cwd=directory,
        env={**CLEAN, **queue.environ, "MOZ_FETCHES_DIR": "fetches", **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_variables_alone(queue: Taskcluster, tmp_path: Path) -> None:
    """Without a subcommand, the fetches of $MOZ_FETCHES are placed."""
    done = run(queue, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "fetches/one.txt").read_bytes() == b"one"


def test_a_command_gets_the_environment_of_run_task(queue: Taskcluster, tmp_path: Path) -> None:
    """The command finds the fetches and the variables that the real run-task leaves, in the same state."""
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    environ = {"UPLOAD_DIR": "artifacts", "CARGO_HOME": "../cargo", "TASKCLUSTER_CACHES": "", "X": "kept"}
    words = ("--", "sh", "-c", "env; cat fetches/one.txt; exit 7")
    ours = run(queue, tmp_path / "ours", "run", *words, **environ)
    assert ours.returncode == 7, ours.stderr
    assert ours.stdout.endswith("one")
    beside = tmp_path / "bin"
    beside.mkdir()
    (beside / "fetch-content").symlink_to(ROOT / "fetch-content")
    path = f"{beside}{os.pathsep}{CLEAN['PATH']}"
    task = {**CLEAN, **queue.environ, "MOZ_FETCHES_DIR": "fetches", **environ, "PATH": path}
    del task["TASKCLUSTER_CACHES"]  # run-task refuses an empty list
    user = ("--user", "root", "--group", "root")
    theirs = subprocess.run(
        [sys.executable, RUN_TASK, *user, *words],
        cwd=tmp_path / "theirs",
        env=task,
        capture_output=True,
        text=True,
        check=False,
    )
    assert theirs.returncode == 7, theirs.stdout + theirs.stderr
    wanted = {line.split("] ", 1)[-1] for line in theirs.stdout.splitlines() if line.startswith("[task ")}
    names = ("MOZ_FETCHES_DIR", "UPLOAD_DIR", "CARGO_HOME", "TASK_WORKDIR", "TASKCLUSTER_CACHES", "X")
    found = {line for line in ours.stdout.splitlines() if line.partition("=")[0] in names}
    assert len(found) == 5
    assert {line.replace("/ours", "/theirs") for line in found} <= wanted


def test_a_command_starts_clean(queue: Taskcluster, tmp_path: Path) -> None:
    """No signal is blocked, ignored or caught, and no descriptor of ours is open."""
    code = "cat /proc/self/status; ls /proc/self/fd"
    done = run(queue, tmp_path, "run", "--", "sh", "-c", code)
    masks = {
        line.split(":")[0]: int(line.split()[1], 16)
        for line in done.stdout.splitlines()
        if line[:4] in ("SigB", "SigI", "SigC")
    }
    assert {name: masks[name] for name in ("SigBlk", "SigIgn", "SigCgt")} == dict.fromkeys(
        ("SigBlk", "SigIgn", "SigCgt"), 0
    )
    assert [line for line in done.stdout.splitlines() if line.isdigit()] == ["0", "1", "2", "3"]  # 3: the directory


def test_a_signal_ends_the_command(queue: Taskcluster, tmp_path: Path) -> None:
    """The command has replaced this process: it gets the signals, and its end is the end."""
    words = [sys.executable, "-u", str(ROOT / "fetch-content"), "run", "--", "sh", "-c", "echo ready; exec sleep 60"]
    environ = {**CLEAN, **queue.environ, "MOZ_FETCHES_DIR": "fetches"}
    with subprocess.Popen(words, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM


STATUSES = {
    "missing": (["run", "--", "no-such-program"], 127, "no-such-program: command not found"),
    "not executable": (["run", "--", "/etc/passwd"], 126, "/etc/passwd: Permission denied"),
    "nothing to do": (["run"], 0, ""),
    "no destination": (["run", "--", "true"], 2, "$MOZ_FETCHES_DIR"),
}


@pytest.mark.parametrize("case", STATUSES)
def test_the_exit_status(case: str, queue: Taskcluster, tmp_path: Path) -> None:
    """The statuses of a command that cannot be started are those of `env`."""
    words, status, message = STATUSES[case]
    done = run(queue, tmp_path, *words, MOZ_FETCHES_DIR="" if case == "no destination" else "fetches")
    assert (done.returncode, message in done.stderr) == (status, True)


def test_a_failed_fetch_starts_nothing(queue: Taskcluster, tmp_path: Path) -> None:
    """When a fetch fails, the command does not run."""
    queue.fetches.append({"artifact": "public/none", "task": "TASK", "extract": False})
    done = run(queue, tmp_path, "run", "--", "touch", "ran", FETCH_RETRIES="0")
    assert done.returncode == 1
    assert not (tmp_path / "ran").exists()


@needs_system
def test_the_wrong_python_names_the_right_one(tmp_path: Path) -> None:
    """A console script that another Python runs names its own."""
    script = tmp_path / "fetch-content"
    text = (ROOT / "fetch-content").read_text().split("\n", 1)[1]
    for first in ("#!/opt/own/bin/python3.11", "#!/bin/sh\n'''exec' \"/opt/own/bin/python3.11\" \"$0\" \"$@\"\n' '''"):
        script.write_text(f"{first}\n{text}")
        done = subprocess.run([SYSTEM, "-u", script, "--help"], env=CLEAN, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.count("\n") == 1
        assert "use /opt/own/bin/python3.11" in done.stderr


# --- one file


@pytest.fixture(scope="module")
def one_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file for the running Python."""
    out = tmp_path_factory.mktemp("packaged") / "fetch-content"
    done = fetch_content("package", out)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in out.parent.iterdir()] == ["fetch-content"]
    return out


def alone(directory: Path, **environ: str) -> dict[str, str]:
    """Return the environment of a machine that has only a Python."""
    kept = {"PATH": "/usr/bin:/bin", "HOME": str(directory / "home"), "TMPDIR": str(directory / "tmp")}
    for path in (directory / "home", directory / "tmp"):
        path.mkdir(exist_ok=True)
    return {**kept, **environ}


@pytest.mark.slow
@needs_system
def test_one_file_is_all_that_run_task_needs(one_file: Path, queue: Taskcluster, tmp_path: Path) -> None:
    """The real run-task runs it beside itself; nothing but its own directory is added to HOME."""
    for path in (RUN_TASK, one_file):
        shutil.copy(path, tmp_path)
    environ = alone(tmp_path, MOZ_FETCHES_DIR="fetches", **queue.environ)
    words = [SYSTEM, "run-task", "--user", "root", "--group", "root", "--", "cat", "fetches/one.txt"]
    done = subprocess.run(words, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "] one" in done.stdout
    assert [path.name for path in (tmp_path / "fetches").iterdir()] == ["one.txt"]
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("home/*/*")] == [
        "home/.cache/fetch-content"
    ]
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.slow
def test_one_file_does_not_name_its_packager(one_file: Path) -> None:
    """The same versions give the same bytes in another directory: nothing in the file depends on the Python's path."""
    with zipfile.ZipFile(one_file) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    assert not [name for name, content in contents.items() if sys.prefix.encode() in content]
    assert not [name for name in contents if name.endswith("/RECORD")]  # with digests of scripts that have the path


PLACES = {
    "no home": {"HOME": "/nonexistent"},
    "a home that is a file": {"HOME": "/etc/passwd"},
    "a home in a read-only file system": {"HOME": "/proc/self"},
}


@pytest.mark.slow
@needs_system
@pytest.mark.parametrize("case", PLACES)
def test_it_unpacks_elsewhere(case: str, one_file: Path, tmp_path: Path) -> None:
    """Without a usable HOME it unpacks to $TMPDIR; without that it says so, status 1."""
    environ = alone(tmp_path, **PLACES[case])
    done = subprocess.run([SYSTEM, one_file, "--help"], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "tmp").iterdir()] == [f"fetch-content-{os.getuid()}"]
    environ["TMPDIR"] = "/proc/self"
    done = subprocess.run([SYSTEM, one_file, "--help"], env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, "cannot unpack itself" in done.stderr) == (1, True)
    assert done.stderr.count("\n") == 2


@pytest.mark.slow
@needs_system
def test_a_directory_that_others_prepared(one_file: Path, tmp_path: Path) -> None:
    """Code of a directory that another user can write is not run."""
    environ = alone(tmp_path, HOME="/nonexistent")
    planted = tmp_path / "tmp" / f"fetch-content-{os.getuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    done = subprocess.run([SYSTEM, one_file, "--help"], env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, "another user can change it" in done.stderr) == (1, True)


@pytest.mark.slow
@needs_system
def test_the_environment_of_the_command_is_its_own(one_file: Path, tmp_path: Path) -> None:
    """What shiv needs does not reach the command."""
    done = subprocess.run(
        [SYSTEM, one_file, "run", "--", "env"], env=alone(tmp_path), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {line.split("=")[0] for line in done.stdout.splitlines()} <= {
        "PATH",
        "HOME",
        "TMPDIR",
        "TASK_WORKDIR",
        "LC_CTYPE",
        "PWD",
    }


@needs_system
def test_a_version_that_was_not_packaged(tmp_path: Path) -> None:
    """Another version of Python gets one sentence, status 1."""
    main = (ROOT / "tasks_lib/packaging/zipapp_main.py").read_text()
    (tmp_path / "main.py").write_text(main.replace("VERSIONS = [(3, 11)]", "VERSIONS = [(3, 2), (3, 99)]"))
    done = subprocess.run([SYSTEM, tmp_path / "main.py"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "needs Python 3.2 or 3.99" in done.stderr
    ast.parse(main, feature_version=(3, 4))  # every Python 3 can compile it
