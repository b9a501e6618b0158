"""Completion of `doit-fetch` in real shells, and the program as one file."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.origin import Origin, reply
from tests.project import CLEAN, PYTHONPATH, definition, written
from tests.test_fetch_content_launch import SYSTEM, alone, needs_system
from tests.test_program import PLAIN, program

#: What is typed, and what is offered among other words.
TYPED = {
    "doit-fetch pat": "path",
    "doit-fetch path plai": "plain",
    "doit-fetch plai": "plain",
    "doit-fetch path --t": "--tree",
    "doit-fetch info --jso": "--json",
    "doit-fetch prune --dry": "--dry-run",
    "doit-fetch completion zs": "zsh",
}
BASH = """
. ./script
COMP_WORDS=({0}) COMP_CWORD=$(({1} - 1))
_doit_fetch
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """Return a project with one definition, and the program in `bin`."""
    code = "import sys; from tasks_lib.cli.console import main; sys.exit(main())"
    files = {
        "fetchdefs/fetch/all.yml": definition("plain", "https://h.example/plain.txt", PLAIN),
        "bin/doit-fetch": f"#!/bin/sh\nexec {sys.executable} -c '{code}' \"$@\"\n",
    }
    written(tmp_path, files)
    (tmp_path / "bin/doit-fetch").chmod(0o755)
    return tmp_path


def shell(top: Path, name: str, *words: str) -> str:
    """Run a shell that knows the script; return its output."""
    (top / "script").write_text(program(top, "completion", name).stdout)
    environ = {**CLEAN, "PATH": f"{top}/bin:{CLEAN['PATH']}", "PYTHONPATH": PYTHONPATH, "HOME": str(top)}
    done = subprocess.run([name, *words], cwd=top, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_bash(top: Path) -> None:
    """Bash completes commands, names and options."""
    for typed, expected in TYPED.items():
        assert shell(top, "bash", "-c", BASH.format(typed, len(typed.split()))).split() == [expected], typed


@pytest.mark.slow
def test_fish(top: Path) -> None:
    """Fish completes the same."""
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    for typed, expected in TYPED.items():
        found = shell(top, "fish", "--no-config", "-c", f"source script; complete -C '{typed}'")
        assert [line.split("\t")[0] for line in found.splitlines()] == [expected], typed


@pytest.mark.slow
def test_zsh(top: Path) -> None:
    """Zsh completes the same, as it is typed."""
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    (top / "script").write_text(program(top, "completion", "zsh").stdout)
    environ = {
        **CLEAN,
        "PATH": f"{top}/bin:{CLEAN['PATH']}",
        "PYTHONPATH": PYTHONPATH,
        "HOME": str(top),
        "TERM": "dumb",
    }
    (top / ".zshrc").write_text("autoload -Uz compinit; compinit -D -u; . ./script\n")
    lines = "".join(f": {number}; {typed}\t\x01print -r -- '[\x05]'\n" for number, typed in enumerate(TYPED))
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        ["zsh", "-i", "-o", "no_global_rcs"],
        cwd=top,
        env=environ,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    os.close(follower)
    os.write(leader, f"{lines}exit\n".encode())
    text = b""
    try:
        while piece := os.read(leader, 4096):
            text += piece
    except OSError:  # the end of a terminal
        pass
    process.wait()
    os.close(leader)
    for number, (typed, expected) in enumerate(TYPED.items()):
        whole = " ".join([*typed.split()[:-1], expected])
        assert f"[: {number}; {whole}]".encode() in text.replace(b"\r", b""), text.decode()


def test_names_outside_of_a_project(tmp_path: Path) -> None:
    """Where nothing is defined, or definitions are invalid, no names are offered and nothing is printed."""
    done = program(tmp_path, "completion", "names")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    written(tmp_path, {"fetchdefs/fetch/all.yml": "a: 1\n"})
    done = program(tmp_path, "completion", "names")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
@needs_system
def test_the_program_as_one_file(tmp_path: Path, origin: Origin) -> None:
    """One file obtains an artifact on a machine that has only a Python, and runs words of doit."""
    origin.answers["/plain.txt"] = reply(PLAIN)
    out = tmp_path / "doit-fetch"
    done = program(tmp_path, "package", "doit-fetch")
    assert (done.returncode, done.stdout) == (0, f"{out}\n"), done.stderr
    environ = alone(tmp_path)
    (tmp_path / "project").mkdir()

    def run(*words: str) -> str:
        command = [SYSTEM, str(out), *words]
        done: subprocess.CompletedProcess[str] = subprocess.run(
            command, cwd=tmp_path / "project", env=environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert run("--version").startswith("doit-fetch ")
    assert run("init") == "created dodo.py\ncreated fetchdefs/fetch/fetches.yml\n"
    written(tmp_path / "project", {"fetchdefs/fetch/all.yml": definition("plain", f"{origin.url}/plain.txt", PLAIN)})
    path = run("path", "plain").strip()
    assert Path(path).read_bytes() == PLAIN
    assert run("path", "plain").strip() == path
    assert "fetch:plain" in run("list", "--all")
    assert "verified" in run("verify")
    assert program(tmp_path, "package", "no/such/place").stderr.startswith("doit-fetch: no/such is not a directory\n")
    os.mkfifo(tmp_path / "fifo")
    assert program(tmp_path, "package", "fifo").stderr.startswith("doit-fetch: fifo is not a regular file\n")
