"""Each fix for a fault of doit is needed: a claim holds with the fix and fails without it.

A case is one claim, in which a line of dodo.py replaces our part with doit's own part (or none). Both halves must hold:
a claim that holds without the fix proves nothing, and a fix that doit has adopted can be removed.
"""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from doit.dependency import JSONCodec, SqliteDB

from tasks_lib.definitions import parser
from tasks_lib.engine.state import StateBackend
from tasks_lib.incremental.definition_cache import DefinitionCache
from tasks_lib.incremental.definition_files import load
from tests.archives import Member, tar
from tests.project import definition, doit, doit_alone
from tests.test_runner import CORES, project

# --- the state


def _filled(kind: Any, path: Path) -> Any:
    """Return a backend of the given kind, with 300 tasks in its file."""
    backend = kind(str(path), JSONCodec())  # type: ignore[no-untyped-call]  # doit has no types
    for number in range(300):
        backend.set(f"t{number}", "_values_:", {})
        backend.set(f"t{number}", "deps:", ())
    backend.dump()
    return kind(str(path), JSONCodec())  # type: ignore[no-untyped-call]


def _connection(backend: Any) -> sqlite3.Connection:
    if isinstance(backend, StateBackend):
        backend.begin()
        assert backend._connection is not None
        return backend._connection
    found: sqlite3.Connection = backend._conn
    return found


def _reads_at_once(kind: Any, directory: Path) -> bool:
    statements: list[str] = []
    backend = _filled(kind, directory / "db")
    with contextlib.closing(_connection(backend)) as connection:
        connection.set_trace_callback(statements.append)
        assert all(backend.get(f"t{number}", "_values_:") == {} for number in range(300))
    return len(statements) < 100


def _holds_no_lock(kind: Any, directory: Path) -> bool:
    backend = _filled(kind, directory / "db")
    backend.remove("t1")  # a task failed
    with contextlib.closing(sqlite3.connect(directory / "db", timeout=0)) as other:
        try:
            other.execute("begin immediate")
            other.rollback()  # dump() would wait for it
        except sqlite3.OperationalError:
            return False
        finally:
            backend.dump()
    return True


STATE = {"all rows are read at once": _reads_at_once, "a failed task locks nobody out": _holds_no_lock}


@pytest.mark.parametrize("claim", STATE)
def test_the_backend(claim: str, tmp_path: Path) -> None:
    """The claim holds for our backend and not for doit's own sqlite."""
    for kind in (StateBackend, SqliteDB):
        (tmp_path / kind.__name__).mkdir()
        assert STATE[claim](kind, tmp_path / kind.__name__) == (kind is StateBackend)


# --- the run

KILLED = """
import os, signal, sqlite3
def die():
    for _ in range(500):
        try:
            with sqlite3.connect("state") as state:
                if state.execute("select count(*) from tasks").fetchone()[0]:
                    break
        except sqlite3.Error:
            pass
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
def task_first():
    return {"actions": [(work, ("first", 0))], "uptodate": [run_once], "io": {"capture": False}}
def task_second():
    return {"actions": [die], "task_dep": ["first"], "io": {"capture": False}}
DOIT_CONFIG["dep_file"] = "state"
"""
MIXED = 'def task_all():\n    yield from many("cpu", 12, "cpu", 0.3)\n    yield from many("net", 12, "network", 0.3)\n'
FAR = 'def task_all():\n    yield from many("net", 20, "network", 0.1)\n    yield from many("cpu", 2, "cpu", 0)\n'
ENDING = (
    "def end():\n    raise SystemExit(7)\n"
    'def task_all():\n    yield {"basename": "all", "name": "end", "actions": [end], "io": {"capture": False}}\n'
    '    yield from many("net", 8, "network", 0)\n'
)
STOPPED = (
    "import os, signal\n"
    "def stop():\n    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(0.5)\n"
    'def task_all():\n    return {"actions": [stop], "io": {"capture": False}}\n'
)
LARGE = (
    "open('large', 'wb').write(b'x' * (1 << 20))\n"
    "def asked(task, values):\n    say('check', 'large')\n    return False\n"
    'def task_t():\n    return {"actions": [(work, ("t", 0))], "file_dep": ["large"], "uptodate": [(asked,)],\n'
    '            "io": {"capture": False}}\n'
)
STOCK = (
    "from doit import cmd_run, runner\ncmd_run.MThreadRunner, cmd_run.Runner = runner.MThreadRunner, runner.Runner\n"
)
NEAR = "from tasks_lib.engine import runner\nrunner._AHEAD = runner._MOST_AHEAD = 1\n"
AT_THE_END = "runner._wake = lambda dispatcher, node: dispatcher._update_waiting(node)\n"
MAIN = "from tasks_lib.engine import runner\nrunner.LARGE_FILE_SIZE = 1 << 60\n"
ORDER = (
    "from doit_fetch import task_fetchdefs\n"
    'DOIT_CONFIG["default_tasks"] = ["toolchain", "fetch"]\n'
    "from tasks_lib.engine import runner\nrunner._AHEAD = runner._MOST_AHEAD = 1\n"
)


def _log(directory: Path) -> list[tuple[str, str, str]]:
    """Return the first word, the task and the thread of each line; names of doit's threads contain spaces."""
    lines = (directory / "log").read_text().splitlines() if (directory / "log").exists() else []
    return [(word, task, thread) for word, task, thread in (line.split(" ", 2) for line in lines)]


def _remembered(directory: Path) -> bool:
    assert doit(directory, "second").returncode != 0
    doit(directory, "first")
    return sum(words[:2] == ("begin", "first") for words in _log(directory)) == 1


def _limited(directory: Path) -> bool:
    doit(directory, FETCH_JOBS=str(CORES + 4))
    now = most = 0
    for word, task, _ in _log(directory):
        now += {"begin": 1, "end": -1}[word] if task.startswith("cpu") else 0
        most = max(most, now)
    return most <= CORES


def _overlaps(directory: Path) -> bool:
    doit(directory, FETCH_JOBS="2")
    words = [(word, name.partition(":")[0]) for word, name, _ in _log(directory)]
    return words.index(("begin", "cpu")) < 10


def _goes_on(directory: Path) -> bool:
    doit(directory, "-c", "-n", "1")
    return sum(word == "end" for word, *_ in _log(directory)) == 8


def _ends_in_order(directory: Path) -> bool:
    return doit(directory).returncode == 143


def _checks_beside(directory: Path) -> bool:
    doit(directory)
    return _log(directory)[0][2] != "MainThread"


def _begins_early(directory: Path) -> bool:
    for number in range(8):
        (directory / f"s{number}").write_bytes(str(number).encode())
    _defined(
        directory,
        "toolchain",
        "".join(
            f"t{n}:\n  description: t\n  fetches: {{fetch: [{{artifact: f{n}, extract: false}}]}}\n" for n in range(8)
        ),
    )
    _defined(directory, "fetch", "".join(definition(f"f{n}", f"file:../../s{n}", str(n).encode()) for n in range(8)))
    printed = [line[3:] for line in doit(directory, "-n", "1").stdout.splitlines() if line.startswith(".  ")]
    assert len(printed) == 16
    return printed.index("toolchain:t0") < printed.index("fetch:f7")


def _defined(directory: Path, kind: str, text: str, name: str = "all.yml") -> None:
    (directory / "fetchdefs" / kind).mkdir(parents=True, exist_ok=True)
    (directory / "fetchdefs" / kind / name).write_text(text)


RUN: dict[str, tuple[str, str, Callable[[Path], bool]]] = {
    "finished tasks are in the file soon": (KILLED, 'DOIT_CONFIG["backend"] = "sqlite3"\n', _remembered),
    "each class has its limit": (MIXED, STOCK, _limited),
    "what computes does not wait behind downloads": (FAR, NEAR, _overlaps),
    "whatever an action raises, the others run": (ENDING, STOCK, _goes_on),
    "what was waited for goes first": (ORDER, AT_THE_END, _begins_early),
    "a signal ends a run in order": (STOPPED, STOCK, _ends_in_order),
    "large files are checked by workers": (LARGE, MAIN, _checks_beside),
    "sinks come first": (ORDER, 'DOIT_CONFIG["default_tasks"] = ["fetch", "toolchain"]\n', _begins_early),
}


@pytest.mark.slow
@pytest.mark.parametrize("claim", RUN)
def test_the_run(claim: str, tmp_path: Path) -> None:
    """The claim holds with our implementation and fails with doit's."""
    tasks, off, holds = RUN[claim]
    for name, text in (("on", tasks), ("off", tasks + off)):
        (tmp_path / name).mkdir()
        assert holds(project(tmp_path / name, text)) == (name == "on")


# --- what is loaded

COUNTED = """
import atexit
from doit.task import Task
made = []
true = Task.__init__
def noted(self, *words, **more):
    made.append(self)
    true(self, *words, **more)
Task.__init__ = noted
from tasks_lib.engine.slim_task import SlimTask
ours = SlimTask.__init__
SlimTask.__init__ = lambda self, *words: made.append(self) or ours(self, *words)
atexit.register(lambda: open("made", "w").write(str(len(made))))
from doit_fetch import DOIT_CONFIG, task_fetchdefs
DOIT_CONFIG = {**DOIT_CONFIG, "default_tasks": ["fetch"]}
"""


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Return a repository of thirty local files, all fetched."""
    (tmp_path / "dodo.py").write_text(COUNTED)
    for number in range(30):
        (tmp_path / f"s{number}").write_bytes(str(number).encode())
    _defined(tmp_path, "fetch", "".join(definition(f"f{n}", f"file:../../s{n}", str(n).encode()) for n in range(30)))
    assert doit(tmp_path).returncode == 0
    return tmp_path


def _made(directory: Path, *words: str) -> int:
    """Return how many tasks doit makes for a command."""
    done = doit(directory, *words)
    assert done.returncode == 0, done.stdout
    return int((directory / "made").read_text())


def test_only_selected_tasks_are_loaded(many: Path) -> None:
    """A named task is loaded with its dependencies; if the loader cannot select, it loads everything."""
    assert _made(many, "info", "fetch:f7") < 10
    (many / "dodo.py").write_text(COUNTED + 'def task_own():\n    return {"actions": None}\n')
    assert _made(many, "info", "fetch:f7") > 30


LOADED = """
import atexit, sys
def noted():
    ours = [module for name, module in sys.modules.items() if name.startswith("tasks_lib")]
    classes = {one for module in ours for one in vars(module).values() if isinstance(one, type)}
    slow = {"dataclass:" + one.__name__ for one in classes if one.__module__.startswith("tasks_lib") and "__dataclass_fields__" in vars(one)}
    slow |= {"typing:" + one.__name__ for one in classes if issubclass(one, tuple) and getattr(one.__new__, "__annotations__", ())}
    open("loaded", "w").write(" ".join([*sys.modules, *slow]))
atexit.register(noted)
from doit_fetch import DOIT_CONFIG, task_fetchdefs
DOIT_CONFIG = {**DOIT_CONFIG, "default_tasks": ["fetch"]}
"""
#: What opens, decodes, extracts, runs or shows, and what else takes long to load.
_HEAVY = {
    "requests",
    "ssl",
    "zstandard",
    "yaml",
    "rich",
    "tasks_lib.transport",
    "tasks_lib.download",
    "tasks_lib.archive",
    "tasks_lib.tree",
    "tasks_lib.signature",
    "tasks_lib.cache.maintenance",
    "tasks_lib.cache.trees",
}
_RUNNING = {"tasks_lib.engine.runner", "tasks_lib.engine.reporter"}


WITHOUT = {
    "info fetch:f7": _HEAVY | _RUNNING,
    "why fetch:f7": _HEAVY | _RUNNING,
    "list": _HEAVY | _RUNNING | {"tasks_lib.steps"},
    "forget fetch:f7": _HEAVY | _RUNNING,
    "": _HEAVY | {"msgspec", "tasks_lib.cache", "tasks_lib.steps", "tasks_lib.definitions"},
}


@pytest.fixture(scope="module")
def stock() -> set[str]:
    """Return the modules that doit itself imports: since Python 3.14, pdb imports asyncio, which imports ssl."""
    code = "import sys, doit.doit_cmd; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("words", WITHOUT)
def test_a_command_loads_what_it_needs(words: str, many: Path, stock: set[str]) -> None:
    """A command imports no module that it does not use, and none whose classes take half a millisecond to create."""
    (many / "dodo.py").write_text(LOADED)
    assert doit_alone(many, *words.split()).returncode == 0
    loaded = (many / "loaded").read_text().split()
    assert not WITHOUT[words] & (set(loaded) - stock)
    assert [name for name in loaded if name.startswith(("dataclass:", "typing:"))] == []
    assert doit_alone(many, "-a", "fetch:f7").returncode == 0  # what runs loads what runs it
    assert set((many / "loaded").read_text().split()) >= _RUNNING


def test_the_stamp_answers_alone(many: Path) -> None:
    """A bare doit makes no task at all while nothing changed; without its stamp it makes all."""
    assert _made(many) == _made(many, "-q") == 0
    (many / "cache/doit.stamp").unlink()
    assert _made(many) > 30


def test_parsed_definitions_are_cached(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unchanged files are not parsed again; without the definition cache all are, each time."""
    names: list[str] = []
    true = parser._Reading.file

    def noted(self: Any, source: parser.SourceFile, defaults: Any) -> object:
        names.append(source.path)
        return true(self, source, defaults)

    monkeypatch.setattr(parser._Reading, "file", noted)
    monkeypatch.chdir(many)  # else the mirrors.yml of this repository is used
    kept = DefinitionCache(many / "kept", "code")
    for library, parsed in ((kept, 1), (kept, 1), (None, 2), (None, 3)):
        load(many / "fetchdefs", library)
        assert len(names) == parsed


# --- growth

#: A dodo.py that counts what the process does: lines, turns of loops, and calls of functions in C.
WORK = """
import atexit, os, sys, threading
done = [0]
def line(frame, event, arg):
    done[0] += event == "line"
    return line
def call(frame, event, arg):
    done[0] += event == "c_call"
def report():
    sys.settrace(None)
    open("work", "w").write(str(done[0]))
atexit.register(report)
threading.settrace(line), threading.setprofile(call), sys.settrace(line), sys.setprofile(call)
from doit_fetch import DOIT_CONFIG, task_fetchdefs
"""
#: Commands over one toolchain of many fetches; the first one reads the definitions, the later ones find them cached.
GROWING = {
    "first load": ("list",),
    "list": ("list", "--all"),
    "why": ("why", "toolchain:kit"),
    "glob": ("list", "fetch:f*"),
    "cold": ("run", "-n", "1", "toolchain:kit"),
    "nothing to do": ("run", "-n", "1", "toolchain:kit"),
    "info of all": ("info", "*:*"),
    "clean": ("clean", "toolchain:kit"),
}

#: Largest growth of what is added when the number doubles: 2, and 4 for a quadratic part, of which a fiftieth shows.
_LINEAR = 2.06


@pytest.mark.slow  # 24 processes that count
def test_work_grows_with_the_number_of_definitions(tmp_path: Path) -> None:
    """No command does more work for each of many fetches of one toolchain than for each of a few."""
    found: dict[str, list[int]] = {}
    for count in (20, 40, 80):
        directory = tmp_path / str(count)
        directory.mkdir()
        (directory / "dodo.py").write_text(WORK)
        for start in range(0, count, 5):
            names = range(start, start + 5)
            for number in names:
                (directory / f"s{number}.tar").write_bytes(tar([Member(f"p{number}", b"x")]))
            text = "".join(definition(f"f{n}", f"file:../../s{n}.tar", tar([Member(f"p{n}", b"x")])) for n in names)
            _defined(directory, "fetch", text, f"{start}.yml")
        wanted = ", ".join(f"{{artifact: f{n}, extract: {'true' if n % 2 else 'false'}}}" for n in range(count))
        _defined(directory, "toolchain", f"kit: {{description: k, fetches: {{fetch: [{wanted}]}}}}\n")
        for name, words in GROWING.items():
            done = doit(directory, *words)
            assert done.returncode in (0, 1), done.stdout
            found.setdefault(name, []).append(int((directory / "work").read_text()))
    growth = {name: (many - more) / (more - few) for name, (few, more, many) in found.items()}
    assert {name: grown for name, grown in growth.items() if grown > _LINEAR} == {}, found
