"""The program `doit-fetch`, and `doit path`, as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks_lib.engine import base_command
from tasks_lib.incremental import path_notes
from tests.origin import Origin, reply
from tests.project import CLEAN, DODO, LIBRARY, PYTHONPATH, definition, doit, written

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


def test_a_name_of_two_kinds(top: Path) -> None:
    """Every command refuses a name that a fetch and a toolchain have, and accepts both full names."""
    file = top / "fetchdefs/toolchain/all.yml"
    file.write_text(file.read_text().replace("kit:", "plain:", 1))
    message = "'plain' is the name of a fetch and of a toolchain\nwrite fetch:plain or toolchain:plain\n"
    for words in (("path", "plain"), ("get", "plain"), ("run", "plain", "--", "true"), ("export", "cas", "x", "plain")):
        done = program(top, *words)
        assert (done.returncode != 0, done.stderr.endswith(message)) == (True, True), (words, done.stderr)
    assert program(top, "info", "plain").stderr == f"ERROR: {message}"
    assert program(top, "completion", "names").stdout.split() == ["fetch:plain", "lib", "toolchain:plain"]
    artifacts = [program(top, "path", f"{kind}:plain").stdout for kind in ("fetch", "toolchain")]
    assert [path.rpartition("/")[2] for path in artifacts] == ["plain.txt\n", "kit\n"]


def test_a_store_that_does_not_answer(top: Path) -> None:
    """`doit store` names a store once."""
    done = program(top, "store", FETCH_STORE="http://127.0.0.1:1/x", FETCH_STORE_TRUST="none")
    assert done.stdout.startswith("store 127.0.0.1:1\n  connection refused while connecting\nwrites: "), done.stdout


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


def test_a_known_path_with_settings(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is known in whatever cache the environment and pyproject.toml name."""
    monkeypatch.chdir(top)
    (top / "pyproject.toml").write_text('[tool.doit-fetch]\ncache = "user"\n')
    environ = {"XDG_CACHE_HOME": str(top / "xdg"), "PYTHONPATH": PYTHONPATH, "PATH": CLEAN["PATH"], "HOME": str(top)}
    for cache, more in (("xdg/doit-fetch", {}), ("env", {"FETCH_CACHE_DIR": "env"})):
        for _ in range(9):  # files that changed just now are not trusted
            path = program(top, "path", "plain", **environ, **more).stdout
            known = path_notes.read(
                str(top),
                ["path", "plain"],
                {**CLEAN, "FETCH_RETRIES": "0", "FETCH_DURABILITY": "fast", **environ, **more},
            )
            if known:
                break
        assert f"{known}\n" == path
        assert list((top / cache / "v1/paths").iterdir())
        assert not (top / "cache").exists()


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
    "no command": (("run", "kit"), 2, "missing command"),
    "not a file": (("get", "plain", "fifo"), 1, "fifo is not a regular file"),
    "a link to no file": (("get", "plain", "link"), 1, "link is not a regular file"),
    "not a directory": (("get", "plain", "new/"), 1, "'new/' is not a directory"),
    "an empty name": (("get", "plain", ""), 1, "'' is not a directory"),
    "a missing command": (("run", "kit", "--", "no-such-program"), 127, "command not found"),
    "no name": (("path",), 2, "NAME"),
    "a setting": (("offline=1", "fetch:lib"), 1, "lib: not in the cache, and the network is off"),
    "a word of doit": (("list", "fetch:nothing"), 2, "did you mean"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failures(case: str, top: Path) -> None:
    """A mistake is a message without a traceback, on stderr, with its own exit status."""
    words, status, message = FAILURES[case]
    os.mkfifo(top / "fifo")
    (top / "link").symlink_to("fifo")
    done = program(top, *words)
    assert (done.returncode, done.stdout) == (status, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [("path", "plain"), ("get", "plain"), ("list",)])
def test_a_current_directory_that_was_removed(words: tuple[str, ...], tmp_path: Path) -> None:
    """A removed current directory is a message, for every command."""
    (tmp_path / "gone").mkdir()
    script = 'rmdir ../gone; exec "$0" -c "from tasks_lib.cli.console import main; raise SystemExit(main())" "$@"'
    done = subprocess.run(
        ["sh", "-c", script, sys.executable, *words],
        cwd=tmp_path / "gone", env={**CLEAN, "PYTHONPATH": PYTHONPATH}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("doit-fetch: the current directory was removed\n") and done.stderr.count("\n") == 2


def test_an_interrupt_while_modules_load(top: Path) -> None:
    """Ctrl-C before the program has set up anything ends it without a traceback."""
    code = """
import importlib.abc, os, signal, sys
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "tasks_lib.cli.program":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from tasks_lib.cli.console import main
raise SystemExit(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "list"],
        cwd=top, env={**CLEAN, "PYTHONPATH": PYTHONPATH}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_mismatch(top: Path, origin: Origin) -> None:
    """Other bytes than the pinned ones are a message with both digests, and nothing is printed or placed."""
    origin.answers["/plain.txt"] = reply(b"another file\n")
    done = program(top, "get", "plain", "copy.txt")
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (1, "", False)
    assert "expected sha256:" in done.stderr
    assert not (top / "copy.txt").exists()


#: Command lines that must make no request, and their exit status.
OFFLINE = {
    "path": (("path", "lib", "--offline"), 1),
    "path, a setting": (("path", "lib", "offline=1"), 1),
    "get": (("get", "lib", "out.tar", "offline=1"), 1),
    "get, an option": (("get", "--offline", "lib"), 1),
    "run": (("run", "kit", "offline=1", "--", "true"), 1),
    "run, an option": (("run", "kit", "--offline", "--", "true"), 1),
    "a word of doit": (("fetch:lib", "offline=1"), 1),
    "an option of doit": (("--offline", "fetch:lib"), 1),
    "doit run": (("run-of-doit", "--offline", "lib"), 1),
}


@pytest.mark.slow
def test_offline(top: Path, origin: Origin) -> None:
    """`--offline` and `offline=1` mean the same for every command, and for `doit` itself."""
    for case, (words, status) in OFFLINE.items():
        if words[0] == "run-of-doit":
            (top / "dodo.py").write_text(DODO)
            done = doit(top, "run", *words[1:])
        else:
            done = program(top, *words)
        text = done.stdout + (done.stderr or "")
        assert done.returncode == status, (case, text)
        assert "offline" in text, (case, text)
        assert "Traceback" not in text
    assert not origin.requests
    assert not (top / "offline=1").exists()
    done = program(top, "run", "kit", f"cache={top}/other", "--", "sh", "-c", "echo $0 $1", "jobs=1", "offline=1")
    assert done.stdout == "jobs=1 offline=1\n", done.stderr
    assert (top / "other/v1").is_dir()
    assert not list((top / "cache/v1/blobs").glob("*/*/*"))


def test_run(top: Path) -> None:
    """A command finds the output of a toolchain on its PATH; its exit status is returned."""
    done = program(top, "run", "kit", "--", "sh", "-c", "command -v kit; exit 7")
    assert (done.returncode, done.stdout) == (7, f"{top}/build/kit/artifacts/kit\n"), done.stderr
    done = program(top, "run", "--offline", "kit", "jobs=2", "sh", "-c", "echo $*", "0", "--", "jobs=3", "--offline")
    assert done.stdout == "-- jobs=3 --offline\n", done.stderr


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
    assert not os.access(top / "other.txt", os.X_OK)
    (top / "dangling").symlink_to("nowhere")  # replaced as by fetch-content, see test_a_link_to_nothing_is_replaced
    assert program(top, "get", "plain", "dangling").returncode == 0
    assert (top / "dangling").read_bytes() == PLAIN and not (top / "nowhere").exists()
    text = (top / "fetchdefs/fetch/all.yml").read_text()
    (top / "fetchdefs/fetch/all.yml").write_text(text.replace("lib:", "    executable: true\nlib:", 1))
    assert program(top, "get", "plain", "other.txt").returncode == 0
    assert os.access(top / "other.txt", os.X_OK)


def test_a_new_project_on_a_full_disk(tmp_path: Path) -> None:
    """`init` leaves no empty file, which its next call would keep."""
    script = 'ulimit -f 0; exec "$0" -c "from tasks_lib.cli.console import main; raise SystemExit(main())" init'
    done = subprocess.run(
        ["sh", "-c", script, sys.executable],
        cwd=tmp_path, env={**CLEAN, "PYTHONPATH": PYTHONPATH}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("doit-fetch: cannot write dodo.py: File too large\n")
    assert list(tmp_path.iterdir()) == []


def test_a_new_project(tmp_path: Path) -> None:
    """`init` asks nothing, keeps files that exist, and what it makes loads."""
    (tmp_path / "plain").write_bytes(b"")
    assert program(tmp_path, "init").returncode == 0
    assert (tmp_path / "dodo.py").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "dodo.py").write_text(DODO + "# mine\n")
    assert "kept dodo.py" in program(tmp_path, "init").stdout
    with (tmp_path / "fetchdefs/fetch/fetches.yml").open("a") as file:  # below the comments, as one does
        file.write(definition("plain", "https://h.example/plain.txt", PLAIN))
    done = program(tmp_path, "list")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fetch" in done.stdout
    assert "fetch:plain" in program(tmp_path, "list", "--all").stdout


def test_words_of_doit_without_a_dodo(top: Path) -> None:
    """Any other word goes to doit, which finds the definitions without a dodo.py."""
    done = program(top, "toolchain:kit")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "toolchain:kit" in program(top / "fetchdefs/fetch", "list", "--all").stdout
    assert program(top, "--version").stdout.startswith("doit-fetch ")


def test_help_of_its_own_commands(tmp_path: Path) -> None:
    """`help` shows the page of the command that the program runs, which has precedence over doit's."""
    for name in ("run", "get", "package"):
        assert program(tmp_path, "help", name).stdout == program(tmp_path, name, "--help").stdout != ""


def test_an_empty_word(tmp_path: Path) -> None:
    """An unset variable of a script is an error of two lines."""
    done = program(tmp_path, "update", "")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "ERROR: a word of the command line is empty\ncheck the variables from which it comes\n"


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
    (top / "dodo.py").write_text(DODO)
    assert doit(top, "path", "plain").stdout == f"{top}/build/artifacts/plain/plain.txt\n"
    assert doit(top, "path", "--tree", "kit").stdout.endswith(f"{top}/build/kit\n")
    offline = doit(top, "path", "lib", "--offline")
    assert (offline.returncode, "offline" in offline.stdout) == (1, True)


def test_a_name_that_no_definition_has(top: Path) -> None:
    """Every command about definitions takes the same words, and refuses an unknown one with the same status."""
    (top / "dodo.py").write_text(DODO)
    words = {"path": "plane", "update": "z*", "audit": "toolchain:plain", "export": "fetch:kit"}
    for command, word in words.items():
        done = doit(top, command, *(("url", "out") if command == "export" else ()), word)
        assert done.returncode == 3, done.stdout
        assert f"definition is named '{word}'\n" in done.stdout and "Traceback" not in done.stdout
    assert "did you mean plain?" in doit(top, "path", words["path"]).stdout
    assert "2 files written" in doit(top, "export", "url", "out", "fetch:pl?in", "[k-l]i*").stdout


NEW_COMMANDS = base_command.YIELDING
MINE = """
def task_{0}():
    return {{"actions": ["echo mine %(at)s"], "verbosity": 2, "params": [{{"name": "at", "default": "{0}"}}]}}
"""


@pytest.mark.parametrize("names", [("path", "why"), pytest.param(NEW_COMMANDS, marks=pytest.mark.slow)])
def test_a_task_with_the_name_of_a_command(names: tuple[str, ...], top: Path) -> None:
    """A user's task runs, with a sentence, wherever its dodo.py is; `doit-fetch` and other commands still work."""
    (top / "own.py").write_text(DODO + "".join(map(MINE.format, NEW_COMMANDS)))
    for name in names:
        done = doit(top / "fetchdefs", "-f", "../own.py", name)
        assert done.returncode == 0, done.stdout
        assert f"mine {name}\n" in done.stdout
        assert f"running the task '{name}' of dodo.py; `doit-fetch {name}` is the command\n" in done.stdout
    (top / "own.py").rename(top / "dodo.py")
    assert "why" in doit(top, "list").stdout
    assert "verified" in program(top, "verify").stdout
    assert "task" in program(top, "why", "plain").stdout


@pytest.mark.slow
def test_commands_in_a_dodo_without_this_package(top: Path) -> None:
    """A command that needs definitions says that dodo.py does not use them, and makes nothing."""
    (top / "dodo.py").write_text('def task_other():\n    return {"actions": None}\n')
    for words in (("path", "plain"), ("verify",), ("prune",), ("cache",), ("report",), ("info", "--json", "other")):
        done = doit(top, *words)
        assert done.returncode == 3, done.stdout
        assert done.stdout.startswith("ERROR: this dodo.py does not use doit_fetch\n`doit-fetch "), done.stdout
    assert not (top / "cache").exists()
    assert program(top, "verify").returncode == 0


def test_a_broken_setting_without_a_dodo(top: Path) -> None:
    """A setting that is wrong is a message for words of doit, too."""
    done = program(top, "list", FETCH_JOBS="banana")
    assert (done.returncode, "Traceback" in done.stderr) == (3, False)
    assert "FETCH_JOBS" in done.stderr
