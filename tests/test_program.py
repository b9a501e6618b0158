"""The program `doit-fetch`, and `doit path`, as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.origin import Origin, reply
from tests.project import CLEAN, LIBRARY, PORCH, PYTHONPATH, definition, doit, written

PLAIN = b"a plain file\n"
SCRIPT = '#!/bin/sh\nmkdir -p "$UPLOAD_DIR"\ncp plain.txt "$UPLOAD_DIR/kit"\nchmod +x "$UPLOAD_DIR/kit"\n'
TOOLCHAIN = """
kit:
  description: a tool
  fetches: {fetch: [{artifact: plain, extract: false}]}
  run: {script: ../../build.sh, toolchain-artifact: public/build/kit}
"""


def program(directory: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from tasks_lib.cli.console import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=directory,
        env={**CLEAN, "FETCH_RETRIES": "0", "FETCH_DURABILITY": "fast", "PYTHONPATH": PYTHONPATH, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def top(tmp_path: Path, origin: Origin) -> Path:
    """Return a project without a dodo.py."""
    origin.answers |= {"/plain.txt": reply(PLAIN), "/lib.tar": reply(LIBRARY)}
    fetches = definition("plain", f"{origin.url}/plain.txt", PLAIN) + definition(
        "lib", f"{origin.url}/lib.tar", LIBRARY
    )
    files = {"fetchdefs/fetch/all.yml": fetches, "fetchdefs/toolchain/all.yml": TOOLCHAIN, "build.sh": SCRIPT}
    return written(tmp_path, files)


def test_path(top: Path) -> None:
    """The path is the only output; a known one is printed again until something it depends on changes."""
    first = program(top, "path", "plain")
    path = top / "build/artifacts/plain/plain.txt"
    assert (first.returncode, first.stdout) == (0, f"{path}\n"), first.stderr
    assert program(top / "fetchdefs", "path", "plain").stdout == first.stdout
    path.unlink()
    assert program(top, "path", "plain").stdout == first.stdout
    assert path.read_bytes() == PLAIN
    next((top / "cache/v1/blobs").rglob("*")).chmod(0o755)
    for blob in (top / "cache/v1/blobs").glob("*/*/*"):
        blob.unlink()
        blob.write_bytes(b"damaged")
    assert program(top, "path", "plain").stdout == first.stdout
    assert path.read_bytes() == PLAIN
    tree = program(top, "path", "lib", "--tree")
    assert tree.stdout == f"{top}/build/extracted/lib\n"
    (top / "build/extracted/lib/lib-1.0/lib.h").write_text("changed")
    assert program(top, "path", "lib", "--tree").stdout == tree.stdout
    assert (top / "build/extracted/lib/lib-1.0/lib.h").read_bytes() == b"#define LIB 1\n"


def test_a_known_path_loads_nothing(top: Path) -> None:
    """A known path is printed without loading doit, the definitions or argparse."""
    program(top, "path", "plain")
    code = "import sys, time; from tasks_lib.cli.console import main; main(); print(len({'doit', 'msgspec', 'argparse', 'pathlib'} & {*sys.modules}))"
    environ = {**CLEAN, "FETCH_RETRIES": "0", "FETCH_DURABILITY": "fast", "PYTHONPATH": PYTHONPATH}
    words = [sys.executable, "-S", "-c", code, "path", "plain"]
    for _ in range(9):  # files that changed just now are not trusted
        program(top, "path", "plain")
        done = subprocess.run(words, cwd=top, env=environ, capture_output=True, text=True, check=False)
        if done.stdout.endswith("0\n"):
            break
    assert done.stdout.endswith("\n0\n"), done


KIT = """
kit:
  description: a tool
  run: {{script: ../../make.sh, toolchain-artifact: public/build/kit, resources: ['../../src/**']{more}}}
user:
  description: uses it
  fetches: {{toolchain: [{{artifact: kit, extract: false}}]}}
  run: {{command: 'cp kit $UPLOAD_DIR/user', toolchain-artifact: public/build/user}}
"""
MAKE = '#!/bin/sh\ncat "$(dirname "$0")"/src/* > "$UPLOAD_DIR/kit"\necho "$CC" >> "$UPLOAD_DIR/kit"\n'
#: What changes -> file and text, and what the output is then.
CHANGES = {
    "nothing": ("other", "", "a\n\n"),
    "script": ("make.sh", MAKE.replace("$CC", "of another script"), "a\nof another script\n"),
    "resource": ("src/a", "A\n", "A\n\n"),
    "new resource": ("src/b", "b\n", "a\nb\n\n"),
    "definition": ("fetchdefs/toolchain/all.yml", KIT.format(more="").replace("cp kit", "wc -l < kit >"), "2\n"),
    "passed variable": ("other", "", "a\nclang\n"),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_what_a_known_path_depends_on(change: str, tmp_path: Path) -> None:
    """A path is known as long as nothing changes on which its content depends, also that of another toolchain."""
    name, text, expected = CHANGES[change]
    more = ", pass-env: [CC]" if change == "passed variable" else ""
    top = written(tmp_path, {"fetchdefs/toolchain/all.yml": KIT.format(more=more), "make.sh": MAKE, "src/a": "a\n"})
    for _ in range(3):  # files that changed just now are not trusted
        path = Path(program(top, "path", "user", CC="gcc").stdout.strip())
    assert path.read_text() == ("a\ngcc\n" if more else "a\n\n")
    assert len(list(top.glob("cache/v1/paths/*"))) == (not more)
    (top / name).write_text(text)
    again = program(top, "path", "user", CC="clang")
    assert again.stdout == f"{path}\n", again.stderr
    assert path.read_text() == expected


@pytest.mark.parametrize("broken", ["key", "json", "rights"])
def test_a_note_that_cannot_be_trusted(broken: str, top: Path) -> None:
    """A damaged note, or one that another user could write, is not used."""
    program(top, "path", "plain")
    (note,) = (top / "cache/v1/paths").iterdir()
    text = note.read_text().replace(str(top), "/etc")
    note.write_text({"key": text.replace("plain", "other", 1), "json": text[:40], "rights": text}[broken])
    note.chmod(0o666 if broken == "rights" else 0o644)
    assert program(top, "path", "plain").stdout == f"{top}/build/artifacts/plain/plain.txt\n"


FAILURES = {
    "a typo": (("path", "plane"), 1, "did you mean plain?"),
    "offline": (("path", "--offline", "lib"), 1, "offline"),
    "no archive": (("path", "--tree", "plain"), 1, "is not an archive"),
    "no command": (("run", "kit"), 1, "missing command"),
    "a missing command": (("run", "kit", "--", "no-such-program"), 127, "command not found"),
    "no name": (("path",), 2, "NAME"),
    "a setting": (("offline=1", "fetch:lib"), 1, "lib: not in the cache, and the network is off"),
    "a word of doit": (("list", "fetch:nothing"), 2, "did you mean"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failures(case: str, top: Path) -> None:
    """A mistake is a message without a traceback, on stderr, with its own exit status."""
    words, status, message = FAILURES[case]
    done = program(top, *words)
    assert (done.returncode, done.stdout) == (status, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_run(top: Path) -> None:
    """A command finds the output of a toolchain on its PATH; its exit status is returned."""
    done = program(top, "run", "kit", "--", "sh", "-c", "command -v kit; exit 7")
    assert (done.returncode, done.stdout) == (7, f"{top}/build/kit/artifacts/kit\n"), done.stderr


def test_get(top: Path) -> None:
    """A copy is an ordinary file of the user, in the directory or under the name that was given."""
    (top / "out").mkdir()
    for dest, path in (("out", "out/plain.txt"), ("other.txt", "other.txt"), ("other.txt", "other.txt")):
        done = program(top, "get", "plain", dest)
        assert (done.returncode, done.stdout) == (0, f"{top / path}\n"), done.stderr
        assert (top / path).read_bytes() == PLAIN
        assert os.access(top / path, os.W_OK)
        assert not (top / path).is_symlink()
    assert sorted(path.name for path in top.iterdir() if path.name.startswith(".")) == []


def test_a_new_project(tmp_path: Path) -> None:
    """`init` asks nothing, keeps files that exist, and what it makes loads."""
    assert program(tmp_path, "init").returncode == 0
    (tmp_path / "dodo.py").write_text(PORCH + "# mine\n")
    assert "kept dodo.py" in program(tmp_path, "init").stdout
    done = program(tmp_path, "list")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fetch" in done.stdout


def test_words_of_doit_without_a_dodo(top: Path) -> None:
    """Any other word goes to doit, which finds the definitions without a dodo.py."""
    done = program(top, "toolchain:kit")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "toolchain:kit" in program(top / "fetchdefs/fetch", "list", "--all").stdout
    assert program(top, "--version").stdout.startswith("doit-fetch ")


def test_a_pyproject_that_is_broken(top: Path) -> None:
    """A pyproject.toml that is not TOML is one line with its place, for doit's words too."""
    (top / "pyproject.toml").write_text("[tool.doit-fetch]\njobs = = 3\n")
    for words, status in ((("list",), 3), (("path", "plain"), 1)):
        done = program(top, *words)
        assert done.returncode == status
        assert "pyproject.toml:2:" in done.stderr
        assert "Traceback" not in done.stderr


def test_doit_path(top: Path) -> None:
    """`doit path` prints the same path."""
    (top / "dodo.py").write_text(PORCH)
    assert doit(top, "path", "plain").stdout == f"{top}/build/artifacts/plain/plain.txt\n"
    assert doit(top, "path", "--tree", "kit").stdout.endswith(f"{top}/build/kit\n")
    offline = doit(top, "path", "lib", "--offline")
    assert (offline.returncode, "offline" in offline.stdout) == (1, True)
    assert doit(top, "path", "plane").returncode == 3


def test_a_task_that_is_called_path(top: Path) -> None:
    """A user's task of that name runs, with a sentence; a dodo.py without this package gets a message."""
    (top / "dodo.py").write_text(PORCH + 'def task_path():\n    return {"actions": ["echo mine"], "verbosity": 2}\n')
    done = doit(top, "path")
    assert done.returncode == 0, done.stdout
    assert "mine\n" in done.stdout
    assert "`doit-fetch path` is the command" in done.stdout
    (top / "dodo.py").write_text('def task_other():\n    return {"actions": None}\n')
    done = doit(top, "path", "plain")
    assert (done.returncode, "does not use doit_fetch" in done.stdout) == (3, True)
