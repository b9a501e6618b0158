"""Commands: names of tasks on the command line, explanations, and the graph as text."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import doit_fetch
from tasks_lib.cli.info_json import EMPTY
from tasks_lib.engine.loader import Loader
from tests.origin import Origin
from tests.project import CLEAN, DODO, LIBRARY, PYTHONPATH, TOOL, definition, doit, ran, written

NEW = TOOL.replace(b"int main;", b"int less;")


@pytest.fixture
def repository(repository: Path) -> Path:
    """Return it with a toolchain."""
    built = (
        "built:\n  description: b\n  fetches: {fetch: [lib]}\n"
        "  run: {command: [cp, lib-1.0/lib.h, ../artifacts/out.txt], toolchain-artifact: out.txt}\n"
    )
    return written(repository, {"fetchdefs/toolchain/all.yml": built})


def target(repository: Path, name: str = "tool") -> str:
    (path,) = (repository / "cache/artifacts" / name).glob("*/*")
    return str(path)


@pytest.mark.slow
def test_a_task_by_name_glob_and_path(repository: Path) -> None:
    """Run, info, forget, clean and list take the same words, however a path is written."""
    assert ran(doit(repository, "fetch:too?")) == ["fetch:tool"]
    path = target(repository)
    for word in (
        "fetch:tool",
        "fetch:t*",
        path,
        "./" + str(Path(path).relative_to(repository)),
        f"cache/../{path}"[9:],
    ):
        assert "\nfetch:tool\n" in doit(repository, "info", word).stdout, word
        assert doit(repository, "forget", word).stdout == "forgetting fetch:tool\n"
        assert ran(doit(repository, word)) == ["fetch:tool"]
    assert "fetch:tool" in doit(repository, "list", "fetch:t*").stdout
    assert "removing file" in doit(repository, "clean", path).stdout
    assert not Path(path).exists()
    assert ran(doit(repository, str(Path(path).relative_to(repository)))) == ["fetch:tool"]


#: A command with the name of a definition, and what its output names.
BARE = {
    ("why", "built"): "toolchain:built\n  it has not run here yet",
    ("run", "lib"): ".  repack:lib\n",
    ("--offline", "tool"): "tool: not in the cache, and the network is off",
    ("info", "lib"): "\nrepack:lib\n",
    ("list", "tool", "built"): "fetch:tool ",
    ("forget", "lib"): "forgetting repack:lib\n",
    ("clean", "lib"): "repack:lib - removing file",
    ("verify", "lib"): "verified 1 blob",
}


def test_the_name_of_a_definition(repository: Path) -> None:
    """Every command that takes tasks takes the name of a definition for the task of its artifact."""
    for words, expected in BARE.items():
        assert expected in doit(repository, *words).stdout, words
    with (repository / "dodo.py").open("a") as file:  # a task of the user has precedence
        file.write('def task_lib():\n    return {"actions": ["echo mine"], "verbosity": 2}\n')
    assert doit(repository, "lib").stdout.startswith(".  lib\nmine\n")


TYPOS = {
    ("fetch:libb",): "did you mean fetch:lib?",
    ("run", "toolchain:buildt"): "did you mean toolchain:built?",
    ("info", "fetch:tol"): "did you mean fetch:tool?",
    ("forget", "fecth:tool"): "did you mean fetch:tool?",
    ("clean", "fetch:toool"): "did you mean fetch:tool?",
    ("list", "fetchs"): "did you mean fetch?",
    ("why", "repack:lab"): "did you mean repack:lib?",
    ("graph", "extract:built/lab"): "did you mean extract:built/lib?",
    ("tol",): "did you mean extract:tool?",
    ("both",): "'both' is the name of a fetch and of a toolchain\nwrite fetch:both or toolchain:both",
    ("lst",): "did you mean list?",
    ("info", "lst"): "no task or target is named 'lst'\n`doit list --all` shows every task",
    ("forget", "nope"): "`doit list --all` shows every task",
    ("clean", "ingore"): "`doit list --all` shows every task",
    ("extract:plain",): "plain is not an archive (by its file name, plain.txt)\n`doit fetch:plain` makes cache",
    (
        "extract:seven",
    ): "seven is a 7z archive, which is not extracted (by its file name, s.7z)\n`doit fetch:seven` makes cache",
    ("extract:built",): "built is a toolchain, not an archive\n`doit 'extract:built/*'` extracts its fetches",
    ("info", "repack:plain"): "plain is not repacked\n`doit fetch:plain` makes cache",
    ("nothing-like-it-at-all",): "shows every task",
    ("fetch:x*",): "no task matches 'fetch:x*'",
    ("info", "evil\x1b[31m"): r"evil\\x1b[31m",
}


@pytest.mark.parametrize("words", TYPOS, ids=" ".join)
def test_a_typo(words: tuple[str, ...], repository: Path) -> None:
    """A word that means nothing gets a proposal and status 2, never a traceback, and nothing is done.

    A command is proposed only where a word may be one.
    """
    others = definition("plain", "https://h.example/plain.txt", b"1") + definition(
        "seven", "https://h.example/s.7z", b"2"
    )
    others += definition("both", "https://h.example/both.txt", b"1")
    toolchain = "both:\n  description: b\n  run: {command: [touch, ../artifacts/b], toolchain-artifact: b}\n"
    written(repository, {"fetchdefs/fetch/others.yml": others, "fetchdefs/toolchain/others.yml": toolchain})
    done = doit(repository, *words)
    assert done.returncode == 2, done.stdout
    assert TYPOS[words] in done.stdout
    assert len(done.stdout.splitlines()) == 2
    assert "\x1b" not in done.stdout


COMMANDS = ["run", "list", "info", "why", "graph", "forget", "clean", "verify", "prune", "cache", "report", "help"]
COMMANDS += ["store", "export", "update"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, repository: Path) -> None:
    """`--help` shows the same page as `doit help`; the error for an unknown option names it and the help page."""
    asked = doit(repository, name, "--help")
    assert (asked.returncode, asked.stdout) == (0, doit(repository, "help", name).stdout)
    refused = doit(repository, name, *(() if name == "run" else ("word",)), "--odd")  # options may follow words
    assert refused.returncode == 3
    assert refused.stdout == f"ERROR: {name}: option --odd not recognized\n`doit help {name}` shows its options\n"


def test_help_after_a_task_is_the_tasks(repository: Path) -> None:
    """Words after the name of a task may be options of the task."""
    assert "no task, target or command is named '--help'" in doit(repository, "fetch:lib", "--help").stdout


def test_info_tells_where_it_came_from_and_who_uses_it(repository: Path, origin: Origin) -> None:
    """Artifact, identity, sources, provenance, consumers and state stand in one page."""
    printed = doit(repository, "info", "fetch:lib")
    assert printed.returncode == 1
    assert "status     : run" in printed.stdout
    assert " * it has not run here yet" in printed.stdout
    waiting = doit(repository, "info", "repack:lib")  # what is missing is made by another task
    assert "status     : run" in waiting.stdout and "does not exist yet: fetch:lib makes it" in waiting.stdout
    ran(doit(repository))
    done = doit(repository, "info", "fetch:lib")
    assert done.returncode == 0, done.stdout
    for text in (
        "status     : up-to-date",
        "artifact   : lib.tar.zst",
        f"size       : {len(LIBRARY)}",
        hashlib.sha256(LIBRARY).hexdigest(),
        "taskgraph_digest: ",
        f"sources    : \n - {origin.url}/lib-1.0.tar",
        f"url        : {origin.url}/lib-1.0.tar",
        "seconds    : ",
        "used by    : \n - repack:lib",
    ):
        assert text in done.stdout, text
    assert (
        "used by    : \n - extract:built/lib\n - extract:lib\n - toolchain:built"
        in doit(repository, "info", "repack:lib").stdout
    )
    assert "Traceback" not in doit(repository, "info").stdout


def test_info_as_json(repository: Path, origin: Origin) -> None:
    """The facts are one list of objects with the same keys for every task; the status is that of the text."""
    words = ("info", "--format", "json", "fetch:tool", "repack:lib", "extract:lib", "toolchain:built", "own")
    (repository / "dodo.py").write_text(DODO + 'def task_own():\n    return {"actions": None, "doc": "mine"}\n')
    done = doit(repository, *words)
    tool, lib, *_ = json.loads(done.stdout)
    assert (done.returncode, tool["state"], tool["size"], lib["size"]) == (1, "run", len(TOOL), None)
    ran(doit(repository, "toolchain", "extract:lib", "fetch"))
    done = doit(repository, "info", "--json", *words[3:])
    assert done.returncode == 0
    tool, lib, extracted, built, own = found = json.loads(done.stdout)
    assert [list(one) for one in found] == [list(EMPTY)] * 5
    assert own == {**EMPTY, "name": "own", "description": "mine"}
    assert (tool["name"], tool["definition"], tool["state"]) == ("fetch:tool", "tool", "up-to-date")
    assert tool["path"] == str(repository / "build/artifacts/tool/tool.tar")
    assert (tool["sha256"], tool["size"]) == (hashlib.sha256(TOOL).hexdigest(), len(TOOL))
    assert tool["urls"] == [f"{origin.url}/tool.tar"]
    assert tool["provenance"]["url"] == f"{origin.url}/tool.tar"
    content = (repository / "build/artifacts/lib/lib.tar.zst").read_bytes()
    assert (lib["sha256"], lib["size"], lib["tree"]) == (hashlib.sha256(content).hexdigest(), len(content), None)
    assert lib["used_by"] == ["extract:built/lib", "extract:lib", "toolchain:built"]
    assert (extracted["path"], extracted["tree"]) == (lib["path"], str(repository / "build/extracted/lib"))
    assert built["path"] == str(repository / "build/artifacts/built/out.txt")
    assert (built["tree"], built["urls"]) == (str(repository / "build/built"), [])
    (tool,) = json.loads(doit(repository, "info", "--json", "--no-status", "fetch:tool").stdout)
    assert tool["state"] is None


def test_why_names_the_input_that_changed(repository: Path) -> None:
    """`doit why` reports each changed input with its old and new value, and the tasks that run because of it."""
    printed = doit(repository, "why", "fetch:lib").stdout
    assert printed.startswith("fetch:lib\n  it has not run here yet") and printed.endswith("\n1 of 1 task may run\n")
    ran(doit(repository))
    assert doit(repository, "why").stdout == "nothing to do: 5 up to date\n"
    path = repository / "fetchdefs/fetch/all.yml"
    old, new = (hashlib.sha256(one).hexdigest() for one in (TOOL, NEW))
    path.write_text(
        path.read_text().replace(old, new).replace("artifact-name: lib.tar.zst", "artifact-name: l.tar.zst")
    )
    printed = doit(repository, "why").stdout
    assert f"fetch:tool\n  sha256 was {old}, is {new}\n" in printed
    assert "repack:lib\n  artifact-name was lib.tar.zst, is l.tar.zst\n" in printed
    assert "l.tar.zst does not exist yet: repack:lib makes it" in printed
    assert "toolchain:built\n  fetch lib was " in printed
    assert "fetch:lib\n" not in printed
    (repository / "fetchdefs/fetch/all.yml").write_text(path.read_text().replace("l.tar.zst", "lib.tar.zst"))
    Path(target(repository, "built")).unlink()
    assert "out.txt is missing" in doit(repository, "why", "toolchain:built").stdout
    assert doit(repository, "info", "toolchain:built").returncode == 1


def test_why_tells_what_is_ignored(repository: Path) -> None:
    """An ignored task and its dependents are not listed as tasks that would run."""
    ran(doit(repository))
    doit(repository, "ignore", "repack:lib")
    assert doit(repository, "why", "fetch:lib").stdout == "nothing to do: 1 up to date\n"
    printed = doit(repository, "why", "toolchain:built").stdout
    assert "repack:lib\n  it is ignored: `doit forget` makes it run again\n" in printed
    assert "extract:built/lib\n  it is ignored because repack:lib is ignored\n" in printed
    assert printed.endswith("\nnothing to do: 1 up to date, 3 ignored\n")
    assert doit(repository, "toolchain:built").stdout.count("!! ") == 3


def test_default_tasks_that_name_nothing(repository: Path) -> None:
    """Every command that uses the default tasks reports an unknown one; without default tasks nothing is done."""
    dodo = repository / "dodo.py"
    dodo.write_text(DODO + 'DOIT_CONFIG = {**DOIT_CONFIG, "default_tasks": ["nothing-like-it-at-all"]}\n')
    for command in ("run", "why", "graph", "forget", "clean"):
        done = doit(repository, command)
        assert (done.returncode, len(done.stdout.splitlines())) == (2, 2), done.stdout
    dodo.write_text(DODO + 'DOIT_CONFIG = {**DOIT_CONFIG, "default_tasks": []}\n')
    assert doit(repository).stdout.startswith("nothing to do; ")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "list",
        "info fetch:tool",
        "why",
        "graph",
        "cache",
        "verify",
        "forget",
        "clean",
        "run",
        "list --help",
        "run --help",
        "help",
        "help run",
        "help settings",
    ],
)
def test_an_output_that_takes_nothing(words: str, repository: Path) -> None:
    """A full or closed output ends without a traceback; a run goes on, since its work is not its output."""
    ran(doit(repository, "fetch:tool"))
    printed = "ERROR: cannot write the output: No space left on device\ncheck its destination, then run again\n"
    for where, status, err in ((">/dev/full", 3, printed), (">&-", 0, ""), (">&- 2>&-", 0, "")):
        done = subprocess.run(
            ["/bin/sh", "-c", f"{sys.executable} -m doit {words} {where}"], cwd=repository,
            env=CLEAN | {"PYTHONPATH": PYTHONPATH, "FETCH_RETRIES": "0"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        expected = (0, "") if words == "run" else (status, err)
        assert (done.returncode, done.stderr) == expected, where


@pytest.mark.slow
def test_letters_that_the_output_cannot_write(repository: Path) -> None:
    """A description in any letters is shown on an output of any encoding, as far as that goes."""
    path = repository / "fetchdefs/fetch/all.yml"
    path.write_text(path.read_text("utf-8").replace("the tool", "größe \u2713"), "utf-8")
    for command in ("list --all", "info fetch:tool", "fetch:tool", "why", "graph", "clean"):
        done = doit(repository, *command.split(), PYTHONIOENCODING="ascii")
        assert done.returncode in (0, 1) and "Traceback" not in done.stdout, done.stdout
    assert r"gr\xf6\xdfe \u2713" in doit(repository, "list", "--all", PYTHONIOENCODING="ascii").stdout


def test_the_graph_as_text(repository: Path) -> None:
    """Mermaid, DOT and JSON show the requested tasks with all dependencies; options may follow the names."""
    mermaid = doit(repository, "graph", "toolchain:built").stdout
    assert mermaid.startswith("flowchart LR\n")
    assert 't2["repack:lib"]' in mermaid
    assert "t2 --> t0" in mermaid
    dot = doit(repository, "graph", "toolchain:built", "--format", "dot").stdout
    assert '    "repack:lib" -> "extract:built/lib";\n' in dot
    assert "tool" not in dot.replace("toolchain", "")
    assert doit(repository, "graph", "--format", "json", "-o", "graph.json").returncode == 0
    tasks = json.loads((repository / "graph.json").read_text())["tasks"]
    assert {task["name"]: task["needs"] for task in tasks}["extract:built/lib"] == ["repack:lib"]
    assert len(tasks) == 5
    assert doit(repository, "graph", "--format", "picture").returncode == 3


def refused(repository: Path, *words: str) -> list[str]:
    """Return the output of doit, which must exit with status 3, run without root's rights over files."""
    bound = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*bound, sys.executable, "-m", "doit", *words], cwd=repository, env=CLEAN | {"PYTHONPATH": PYTHONPATH},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stdout
    return done.stdout.splitlines()


needs_setpriv = pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root needs setpriv")


@needs_setpriv
def test_what_cannot_be_removed(repository: Path) -> None:
    """`doit clean` names the file that it may not remove, with what to look at."""
    ran(doit(repository, "fetch:tool"))
    path = Path(target(repository)).relative_to(repository)
    (repository / path).parent.chmod(0o555)
    printed = [f"ERROR: cannot remove {path}: Permission denied", "check its permissions"]
    assert refused(repository, "clean", "fetch:tool")[-2:] == printed


@needs_setpriv
@pytest.mark.parametrize("name", ["fetchdefs", "fetchdefs/fetch", "fetchdefs/fetch/kind.yml"])
def test_definitions_that_cannot_be_read(name: str, repository: Path) -> None:
    """Unreadable definitions are reported and not taken for an empty directory: nothing is pruned."""
    ran(doit(repository))
    (repository / "fetchdefs/fetch/kind.yml").write_text("tasks-from: [all.yml]\n")
    (repository / name).chmod(0)
    place = name if name != "fetchdefs" else "fetchdefs/fetch"
    assert f"ERROR: {place}: cannot be read: Permission denied: check its permissions" in refused(repository, "list")
    assert "cannot be read: Permission denied" in "".join(refused(repository, "prune"))
    (repository / name).chmod(0o755)
    assert ran(doit(repository)) == []


def test_from_a_subdirectory_and_with_f(repository: Path) -> None:
    """Backend, runner and commands hold wherever doit is started."""
    below = repository / "some/where"
    below.mkdir(parents=True)
    assert len(ran(doit(below, "-k"))) == 5
    assert "nothing to do" in doit(below, "-k").stdout
    assert "nothing to do" in doit(Path("/"), "-f", str(repository / "dodo.py")).stdout
    path = Path(target(repository)).relative_to(repository)
    for word in (f"../../{path}", str(path)):  # as a shell completes it there, and as `doit info` shows it
        assert doit(below, "forget", "-k", word).stdout == "forgetting fetch:tool\n"
        assert ran(doit(below, "-k", word)) == ["fetch:tool"]
    assert doit(below, "forget", "-k", "fetch:tool").stdout == "forgetting fetch:tool\n"
    assert doit(below, "info", "-f", "../../dodo.py", "fetch:typo").returncode == 2
    assert [path.name for path in repository.glob("*.db*")] == []
    assert list(below.iterdir()) == []


def test_a_closed_pipe_is_no_crash(repository: Path) -> None:
    """`doit list --all | head -1` shows one line and nothing else."""
    lines = "".join(definition(f"p{number}", f"http://127.0.0.1:9/{number}", b"x") for number in range(2000))
    (repository / "fetchdefs/fetch/many.yml").write_text(lines)
    for command in ("list --all", "graph fetch", "why fetch"):
        line = f"{sys.executable} -m doit {command} | head -1"
        environment = {**CLEAN, "PYTHONPATH": PYTHONPATH}
        done = subprocess.run(line, shell=True, cwd=repository, env=environment, capture_output=True, check=False)
        assert done.stdout.count(b"\n") == 1, command
        assert done.stderr == b"", command


def test_forget_without_defaults(repository: Path) -> None:
    """A dodo.py that says default_tasks: None forgets all groups, where doit itself crashes."""
    ran(doit(repository))
    dodo = DODO
    (repository / "dodo.py").write_text(dodo + 'DOIT_CONFIG = {**DOIT_CONFIG, "default_tasks": None}\n')
    assert "forgetting toolchain:built" in doit(repository, "forget").stdout


def test_a_dodo_without_ours_is_doits_own(tmp_path: Path) -> None:
    """In a project that never heard of doit-fetch commands are stock: other words, other statuses."""
    (tmp_path / "dodo.py").write_text('def task_a():\n    return {"actions": ["echo hello"], "verbosity": 2}\n')
    done = doit(tmp_path)
    assert done.stdout == ".  a\nhello\n"
    assert doit(tmp_path, "b").returncode == 3
    assert "a" in doit(tmp_path, "list").stdout
    assert doit(tmp_path, "clean", "a").returncode == 0
    assert not (tmp_path / "cache").exists()


def test_own_tasks_beside_ours(repository: Path) -> None:
    """Own tasks depend on ours, take parameters, and are found by the same words."""
    with (repository / "dodo.py").open("a") as file:
        file.write(
            "def task_ship():\n"
            '    return {"actions": ["echo shipping %(to)s"], "task_dep": ["toolchain:built"], "verbosity": 2,\n'
            '            "params": [{"name": "to", "short": "t", "default": "home"}]}\n'
        )
    done = doit(repository, "ship", "-t", "moon")
    assert "shipping moon" in done.stdout
    assert ".  toolchain:built" in done.stdout
    assert "ship" in doit(repository, "list").stdout
    done = doit(repository, "shipp")
    assert (done.returncode, "did you mean ship?" in done.stdout) == (2, True)


def test_info_tells_what_an_own_task_takes(repository: Path) -> None:
    """`doit info` reports setup tasks, getargs and calc_dep as doit does."""
    with (repository / "dodo.py").open("a") as file:
        file.write(
            'def task_gives():\n    return {"actions": ["true"], "uptodate": [True]}\n'
            'def task_takes():\n    return {"actions": ["true"], "setup": ["gives"], "calc_dep": ["gives"],\n'
            '            "getargs": {"n": ("gives", None)}, "params": [{"name": "to", "default": "home"}]}\n'
        )
    printed = doit(repository, "info", "takes").stdout
    for line in ("setup_tasks: \n - gives\n", "calc_dep   : \n - gives\n", " - n: ('gives', None)\n", "'name': 'to'"):
        assert line in printed


def test_own_tasks_that_are_called_like_ours(repository: Path) -> None:
    """A task whose name could be one of a definition is its user's own."""
    with (repository / "dodo.py").open("a") as file:
        file.write('def task_own():\n    yield {"basename": "fetch:own", "actions": ["true"], "uptodate": [True]}\n')
    done = doit(repository, "info", "fetch:own")
    assert (done.returncode, "up-to-date" in done.stdout) == (0, True), done.stdout


@pytest.mark.slow
def test_words_beside_own_tasks_that_take_words(repository: Path) -> None:
    """Paths and typos work the same beside tasks with parameters and delayed tasks, for every command."""
    with (repository / "dodo.py").open("a") as file:
        file.write(
            "from doit import create_after\n"
            'def task_takes():\n    return {"actions": ["echo %(pos)s > said"], "pos_arg": "pos"}\n'
            'def task_flag():\n    return {"actions": [], "params": [{"name": "a", "short": "a", "default": ""}]}\n'
            'def task_own():\n    return {"actions": ["touch own.h"], "targets": ["own.h"]}\n'
            '@create_after(executed="own", target_regex=r".*\\.late")\n'
            'def task_late():\n    yield {"name": "0", "actions": ["touch 0.late"], "targets": ["0.late"]}\n'
        )
    for words in (["run"], ["info"], ["list"], ["why"], ["forget"]):
        assert "own" in doit(repository, *words, "./own.h").stdout
        done = doit(repository, *words, "nothing-like-it-at-all")
        assert (done.returncode, len(done.stdout.splitlines())) == (2, 2), done.stdout
    done = doit(repository, "flag", "-a", "x", "./own.h")
    assert (done.returncode, done.stdout) == (2, "ERROR: unknown task './own.h'\ndid you mean own?\n")
    assert doit(repository, "*.late").returncode == 2
    assert ran(doit(repository, "./own.h", "takes", "./own.h", "x*")) == ["own", "takes"]
    assert (repository / "said").read_text() == "./own.h x*\n"
    assert ran(doit(repository, "[t-z]akes", "*lag", "own")) == ["own", "takes"]
    assert (repository / "said").read_text() == "\n"
    assert ran(doit(repository, "0.late")) == ran(doit(repository, "late:0")) == ["late:0", "own"]


@pytest.mark.parametrize("words", ["graph -o", "report -o", "report --trace", "run -o", "run -r lines -o"])
def test_a_file_that_cannot_be_written(words: str, repository: Path) -> None:
    """The error names an output file that cannot be written, and the next step."""
    ran(doit(repository))
    done = doit(repository, *words.split(), "none/here")
    assert done.returncode == 3
    assert done.stdout.splitlines()[-2:] == [
        "ERROR: cannot write none/here: No such file or directory",
        "check that its directory exists and is writable",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("words", ["--backend sqlite3 --db-file other.db", "--db-file ."])
def test_another_database(words: str, repository: Path) -> None:
    """Another backend behaves as in stock doit; a database that cannot be opened is reported."""
    ran(doit(repository))
    everything = ran(doit(repository, *words.split()))
    assert "fetch:lib" in everything
    assert ran(doit(repository, *words.split())) == ([] if "sqlite3" in words else everything)


@pytest.mark.parametrize("words", ["list", "", "info fetch:tool", "verify", "report", "-f ../dodo.py list", "graph"])
def test_a_directory_that_was_removed(words: str, repository: Path) -> None:
    """Started where nothing is any more, every command says so, and doit's traceback is not shown."""
    gone = repository / "gone"
    gone.mkdir()
    script = f'rmdir ../gone && exec "$0" -m doit {words}'
    done = subprocess.run(
        ["/bin/sh", "-c", script, sys.executable], cwd=gone, env=CLEAN | {"PYTHONPATH": PYTHONPATH},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    printed = "ERROR: the current directory was removed\nchange to an existing directory, then run again\n"
    assert (done.returncode, done.stdout, done.stderr) == (3, "", printed)


LEFT_OPEN = """
log = open("log", "w")
log.write("loaded")
def act():
    log.write(" acted")
def task_own():
    return {"actions": [act], "io": {"capture": False}}
"""
OF_OURS = "from doit_fetch import DOIT_CONFIG, task_fetchdefs\n" + LEFT_OPEN
MANY = (
    OF_OURS
    + """
def task_many():
    for number in range(2000):
        yield {"name": str(number), "actions": []}
"""
)


@pytest.mark.parametrize(
    ("names", "own"),
    [
        ({}, False),
        ({"__file__": "dodo.py", "fetch": doit_fetch.fetch}, False),
        ({"fetch": 1}, True),
        ({"log": 1}, True),
    ],
)
def test_names_of_its_own(names: dict[str, object], own: bool) -> None:
    """Only a dodo.py with names of its own can leave something open, for which the final collection must look."""
    assert Loader(SimpleNamespace(namespace=names)).has_own_names() == own


@pytest.mark.parametrize("ours", [LEFT_OPEN, OF_OURS, MANY], ids=["doit", "ours", "many"])
@pytest.mark.parametrize(
    ("words", "written"),
    [
        ("own", "loaded acted"),
        ("list", "loaded"),
        ("info own", "loaded"),
        ("forget own", "loaded"),
        ("fetch:tool", "loaded"),
    ],
)
def test_what_a_dodo_leaves_open_is_written(words: str, written: str, ours: str, repository: Path) -> None:
    """A file that dodo.py never closes is complete once doit has ended, as with stock doit."""
    (repository / "dodo.py").write_text(ours)
    doit(repository, *words.split())
    assert (repository / "log").read_text() == written


PLUGIN = """
from doit.reporter import ConsoleReporter
class Diary(ConsoleReporter):
    desc = "writes a file"
    def __init__(self, *words):
        super().__init__(*words)
        self.log, self.cycle = open("log", "w"), self
    def execute_task(self, task):
        self.log.write(task.name)
"""


def test_what_a_plugin_leaves_open_is_written(repository: Path) -> None:
    """A file that a reporter of the project never closes is complete, even if dodo.py has no names of its own."""
    (repository / "dodo.py").write_text("from doit_fetch import DOIT_CONFIG, task_fetchdefs\n")
    (repository / "diary.py").write_text(PLUGIN)
    (repository / "doit.cfg").write_text("[REPORTER]\ndiary = diary:Diary\n")
    doit(repository, "run", "-r", "diary", "fetch:tool", PYTHONPATH=f"{PYTHONPATH}:{repository}")
    assert (repository / "log").read_text() == "fetch:tool"


#: `doit`, which prints the groups of entry points that it looks for.
COUNTED = """
import sys
import doit.plugin
true = doit.plugin.entry_points_impl()
def asked(group):
    sys.stderr.write(group + "\\n")
    return true(group=group)
doit.plugin.entry_points_impl = lambda: asked
from doit.doit_cmd import DoitMain
sys.exit(DoitMain().run(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("words", "groups"),
    [
        ("list", []),
        ("info fetch:tool", []),
        ("run fetch:tool", []),
        ("run -r json fetch:tool", ["REPORTER"]),
        ("run --backend sqlite3 fetch:tool", ["BACKEND"]),
    ],
)
def test_packages_are_searched_for_plugins_that_are_named(words: str, groups: list[str], repository: Path) -> None:
    """Doit reads the metadata of all packages for its commands, and again only for a name that is not ours."""
    (repository / "dodo.py").write_text("from doit_fetch import DOIT_CONFIG, task_fetchdefs\n")
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, *words.split()], cwd=repository, capture_output=True, text=True, check=False
    )
    asked = [line for line in done.stderr.splitlines() if line.startswith("doit.")]
    assert asked == [f"doit.{group}" for group in ["COMMAND", *groups]]


@pytest.mark.parametrize("option", ["backend", "reporter"])
def test_an_unknown_plugin_of_the_configuration_is_refused(option: str, repository: Path) -> None:
    """A name in DOIT_CONFIG, which doit does not check, is an error of two lines."""
    (repository / "dodo.py").write_text(DODO + f"DOIT_CONFIG = {{**DOIT_CONFIG, '{option}': 'nope'}}\n")
    done = doit(repository)
    known = {"backend": "dbm, doit-fetch, json, sqlite3", "reporter": "console, error-only"}[option]
    assert done.returncode == 3
    assert done.stdout.startswith(f"ERROR: unknown {option} 'nope'\nexpected one of {known}"), done.stdout


def test_a_plugin_that_cannot_be_imported_is_refused(repository: Path) -> None:
    """The message names the module, and where the plug-in is declared."""
    (repository / "doit.cfg").write_text("[REPORTER]\nmine = not_a_module:Reporter\n")
    done = doit(repository, "-r", "mine")
    assert done.returncode == 3
    assert "module `not_a_module` not found.\ncorrect its table in doit.cfg" in done.stdout, done.stdout


@pytest.mark.parametrize("option", ["--backend", "--reporter"])
def test_an_unknown_plugin_is_refused(option: str, repository: Path) -> None:
    """The message lists the names that doit knows and ours."""
    done = doit(repository, "run", option, "nope")
    assert done.returncode == 3
    assert "'nope'" in done.stdout
    assert all(
        name in done.stdout for name in {"--backend": ("dbm", "doit-fetch"), "--reporter": ("zero", "fetch")}[option]
    )


#: Commands that only read, with the exit status for a project without a run.
READING = {
    "list": 0,
    "list --all --status": 0,
    "info fetch:lib": 1,  # it would run
    "report": 3,
    "why toolchain:built": 0,
    "graph": 0,
    "cache": 0,
    "sbom": 0,
}


@pytest.mark.parametrize("words", READING)
def test_reading_creates_nothing(words: str, repository: Path) -> None:
    """A command that only reads creates neither the directory of the cache nor anything else."""
    before = {*repository.rglob("*")}
    done = doit(repository, *words.split(), PYTHONDONTWRITEBYTECODE="1")
    assert done.returncode == READING[words] and "Traceback" not in done.stdout, done.stdout
    assert {*repository.rglob("*")} == before
