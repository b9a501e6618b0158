"""Help: doit's own pages unchanged, and our pages with the defaults and settings in force."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tasks_lib.settings import SETTINGS
from tests.project import CLEAN, DODO, written

DOIT = str(Path(sys.executable).with_name("doit"))
#: doit without the commands of this package.
STOCK = """
import sys
sys.argv[0] = "doit"
import doit.plugin
true = doit.plugin.entry_points_impl()
doit.plugin.entry_points_impl = lambda: lambda group: () if group == "doit.COMMAND" else true(group=group)
from doit.doit_cmd import DoitMain
sys.exit(DoitMain().run(sys.argv[1:]))
"""
SAY = """
def task_say():
    "say something"
    param = {"name": "what", "short": "w", "long": "what", "default": "hello", "help": "the word"}
    return {"actions": ["echo %(what)s"], "params": [param], "verbosity": 2}
"""


def doit(directory: Path, words: str, **environ: str) -> tuple[int, str, str]:
    """Return status, output and errors of the program `doit`."""
    return _ended([DOIT], directory, words, environ)


def stock(directory: Path, words: str) -> tuple[int, str, str]:
    return _ended([sys.executable, "-c", STOCK], directory, words, {})


def _ended(program: list[str], directory: Path, words: str, environ: dict[str, str]) -> tuple[int, str, str]:
    command, environment = [*program, *words.split()], {**CLEAN, **environ}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def headings(text: str) -> list[str]:
    return [line for line in text.splitlines() if line[:1].isupper()]


# --- what is doit's


@pytest.mark.parametrize(
    ("words", "dodo"),
    [
        *((words, "") for words in ("list", "clean", "forget", "ignore", "help", "task")),
        ("list", SAY),
        ("list", "raise SystemExit('not to be loaded')"),
        ("ignore", "task_x = 1 +"),
    ],
)
def test_commands_of_doit(words: str, dodo: str, tmp_path: Path) -> None:
    """Without a dodo.py of ours, doit's commands have doit's page, and no dodo.py is loaded for it."""
    written(tmp_path, {"dodo.py": dodo} if dodo else {})
    assert doit(tmp_path, f"help {words}") == stock(tmp_path, f"help {words}")


@pytest.mark.parametrize(
    ("topic", "dodo"),
    [("say", ""), ("say", SAY), ("fetch:lib", SAY), ("say", DODO + SAY), ("fetch:lib", DODO + SAY)],
)
def test_tasks_of_a_user(topic: str, dodo: str, repository: Path) -> None:
    """A task of a user's own is explained as by doit, beside ours too; a name of nothing shows the commands."""
    written(repository, {"dodo.py": dodo}) if dodo else (repository / "dodo.py").unlink()
    ours, theirs = doit(repository, f"help {topic}"), stock(repository, f"help {topic}")
    if "Commands" in theirs[1]:
        assert ours == doit(repository, "help nothing") == doit(repository, "help")
        missing = set(theirs[1].splitlines()) - set(ours[1].splitlines())
        assert missing == {"  doit info              show info about a task"}  # ours says more
    else:
        assert ours == theirs
    assert ours[0] == 0 and not ours[2]


@pytest.mark.slow
def test_the_commands_are_listed(repository: Path) -> None:
    """The list has one line for each of our commands, and one for the settings if dodo.py is ours."""
    for name in ("cache", "graph", "info", "prune", "report", "verify", "why"):
        assert f"\n  doit {name:16}  " in doit(repository, "help")[1]
    assert "\n  doit help settings     show the settings of this project\n" in doit(repository, "help")[1]
    written(repository, {"dodo.py": SAY})
    assert "settings" not in doit(repository, "help")[1]
    assert doit(repository, "help settings") == doit(repository, "help")


def test_the_list_loads_no_command(tmp_path: Path) -> None:
    """The list of commands imports none of them, and says of each what the command's own class says."""
    code = STOCK.split("import doit.plugin")[0] + (
        "from doit.doit_cmd import DoitMain\nDoitMain().run(['help'])\nprint(*sys.modules)\n"
        "for name, one in DoitMain().get_cmds().to_dict().items(): print(f'  doit {name:16s}  {one.doc_purpose}')"
    )
    status, printed, err = _ended([sys.executable, "-c", code], tmp_path, "", {})
    shown = printed.partition("  doit help <task-name>")[0]
    modules, _, purposes = printed.partition("show task usage\n")[2].partition("\n")
    assert (status, err) == (0, "")
    loaded = {name for name in modules.split() if name.startswith("tasks_lib.cli.")}
    assert loaded <= {"tasks_lib.cli.help", "tasks_lib.cli.commands"}
    assert len(purposes.splitlines()) > 25 and all(line in shown.splitlines() for line in purposes.splitlines())


def test_a_task_that_is_called_settings(repository: Path) -> None:
    """A task of that name is explained as by doit; a dodo.py that has our tasks through a module of its own has the page."""
    written(repository, {"dodo.py": DODO + SAY.replace("task_say", "task_settings")})
    assert doit(repository, "help settings") == stock(repository, "help settings")
    written(repository, {"ours.py": DODO, "dodo.py": "from ours import *\n"})
    assert (
        "\n    jobs, FETCH_JOBS: 3 (environment; default: 16)\n" in doit(repository, "help settings", FETCH_JOBS="3")[1]
    )


def test_a_directory_that_is_gone(tmp_path: Path) -> None:
    """In a removed directory, help on commands works; help on a task fails with the reason."""
    script = f"mkdir gone && cd gone && rmdir ../gone && {DOIT} help run >/dev/null && {DOIT} help say"
    status, printed, err = _ended(["/bin/sh", "-c", script], tmp_path, "", {})
    assert (status, printed) == (3, "")
    assert err.startswith("ERROR: the current directory was removed\n") and "Traceback" not in err


# --- what is in force


def test_the_defaults_in_force(repository: Path) -> None:
    """`doit help run` shows the defaults of dodo.py, wherever it is, and makes nothing."""
    more = '"verbosity": 2, "check_file_uptodate": "timestamp"'
    written(repository, {"dodo.py": DODO + f"DOIT_CONFIG = {{**DOIT_CONFIG, {more}}}\n"})
    (repository / "elsewhere").mkdir()
    for words, directory in (
        ("help run", repository),
        ("help -f ../dodo.py run", repository / "elsewhere"),
        ("-f ../dodo.py help run", repository / "elsewhere"),
        ("help -k run", repository / "elsewhere"),
        ("-k run --help", repository / "elsewhere"),
    ):
        status, printed, err = doit(directory, words, FETCH_JOBS="3", COLUMNS="100")
        assert (status, err) == (0, ""), words
        for text in (
            "[default: 3 downloads, other tasks one per processor] (config: num_process)",
            "[default: thread] (config: par_type)",
            "[default: fetch] (config: reporter)",
            "[default: 2] (config: verbosity)",
            "[default: doit-fetch] (config: backend)",
            "[default: cache/doit.db] (config: dep_file)",
            "[default: timestamp]",
        ):
            assert text in " ".join(printed.split()), (words, text)
    assert "[default: doit-fetch]" in doit(repository, "help ignore")[1]
    assert not (repository / "cache").exists()


def test_a_run_names_the_settings(repository: Path) -> None:
    """`doit help run` names every setting with its meaning; the other commands say where they are explained."""
    printed = doit(repository, "help run", COLUMNS="100")[1].splitlines()
    for one in SETTINGS:
        assert any(line.startswith(f"    {one.variable or one.environ} ") for line in printed), one
    assert (
        "    `doit help settings` shows every setting, its value and its origin.\n"
        in (doit(repository, "help prune")[1])
    )


@pytest.mark.parametrize("name", ["verify", "cache", "report", "graph", "info"])
def test_options_of_doit_stand_last(name: str, repository: Path) -> None:
    """A command's own options come before those that every command of doit has, with and without a dodo.py of ours."""
    found = headings(doit(repository, f"help {name}")[1])
    assert found[:2] == ["PURPOSE", "USAGE"] and found[-1] == "OPTIONS OF DOIT"
    (repository / "dodo.py").unlink()
    status, printed, err = doit(repository, f"help {name}")
    assert (status, err, headings(printed)) == (0, "", [one for one in found if one != "SETTINGS"])
    assert "[default: dbm]" in printed
    assert doit(repository, f"{name} --help")[1] == printed


def test_options_of_doit_are_options(repository: Path) -> None:
    """A maintenance command takes the options of doit as before."""
    assert doit(repository, "cache --backend json --db-file other.db -f dodo.py")[0] == 0


@pytest.mark.parametrize(("dodo", "reason"), [("1 / 0", "division by zero"), ("raise SystemExit(5)", "5"), ("", "'x' for FETCH_JOBS")])  # fmt: skip
def test_a_dodo_that_cannot_be_loaded(dodo: str, reason: str, repository: Path) -> None:
    """Help is shown all the same, with a warning that its defaults are those of doit."""
    written(repository, {"dodo.py": f"{DODO}{dodo}\n"})
    status, printed, err = doit(repository, "help prune", **({} if dodo else {"FETCH_JOBS": "x"}))
    assert status == 0 and "[default: dbm]" in printed
    assert err.startswith("warning: cannot load dodo.py, showing the built-in defaults: ") and reason in err
    assert len(err.splitlines()) == 1


# --- the settings


def test_the_settings(repository: Path) -> None:
    """Every setting is shown with both names, its value, where that comes from, its default and its meaning."""
    written(repository, {"pyproject.toml": "[tool.doit-fetch]\nretries = 9\nmax-entries = 7\njobs = 5\n"})
    words = "help settings retries=1 offline=yes"
    status, printed, err = doit(repository, words, FETCH_JOBS="4", FETCH_BACKOFF_S="2.5", COLUMNS="100")
    assert (status, err) == (0, "")
    for text in (
        "    retries, FETCH_RETRIES: 1 (command line; default: 3)",
        "    offline, FETCH_OFFLINE: 1 (command line; default: 0)",
        "    jobs, FETCH_JOBS: 4 (environment; default: 16)",
        "    backoff, FETCH_BACKOFF_S: 2.5 (environment; default: 1)",
        "    FETCH_MAX_ENTRIES: 7 (pyproject.toml; default: 1000000)",
        "    durability, FETCH_DURABILITY: full (default)\n        full: survives a power loss; fast: no fsync",
        '    events, FETCH_EVENTS: "" (default)',
    ):
        assert f"\n{text}\n" in printed, text
    for one in SETTINGS:
        assert f"{one.environ}: " in printed and f"\n        {one.meaning}\n" in printed, one
    assert not (repository / "cache").exists()


def test_settings_that_cannot_be_used(repository: Path) -> None:
    """A value that is refused is shown as it is given, with why; the other settings are shown all the same."""
    status, printed, err = doit(repository, "help settings lock_timeout=x", FETCH_CACHE_DIR="\x1bx", COLUMNS="100")
    assert status == 0 and err.startswith("warning: ")
    invalid = "    lock_timeout, FETCH_LOCK_TIMEOUT_S: x (command line; default: 1800)\n"
    assert (
        f"{invalid}        seconds to wait for another process\n        invalid value 'x' for lock_timeout: expected a non-negative number"
        in printed
    )
    assert "\n    cache, FETCH_CACHE_DIR: \\x1bx (environment; default: cache)\n" in printed
    written(repository, {"pyproject.toml": "[tool]\ndoit-fetch = 1\n"})
    status, printed, err = doit(repository, "help settings")
    assert (status, printed) == (3, "") and err.splitlines()[-2:] == [
        "ERROR: pyproject.toml: [tool.doit-fetch] is not a table",
        "write `name = value` lines below it",
    ]


def test_no_secret_is_shown(repository: Path) -> None:
    """A password in a URL is left out, and what other programs read too is named only."""
    secrets = {"https_proxy": "http://user:hush@proxy:1", "FETCH_CACHE_DIR": "https://user:hush@host/cache?token=hush"}
    auth = '[tool.doit-fetch.auth."h:1"]\nheader = "X-Token"\nenv = "A"\n[tool.doit-fetch.auth."g"]\nheader = "Y"\nenv = "B"\n'
    written(repository, {"pyproject.toml": auth})
    secrets["A"] = "hush"
    status, printed, err = doit(repository, "help settings", **secrets)
    assert (status, err) == (0, "") and "hush" not in printed
    assert '\n    [tool.doit-fetch.auth."h:1"]\n        header X-Token from A (set)\n' in printed
    assert '\n    [tool.doit-fetch.auth."g"]\n        header Y from B (not set)\n' in printed
    assert "https_proxy (set)" in printed and "https://host/cache (environment; default: cache)" in printed


# --- where it is written


PAGES = ["help", "help task", "help run", "help settings", "help fetch:lib", "cache --help"]


@pytest.mark.parametrize("words", PAGES)
def test_a_reader_that_went_away(words: str, repository: Path) -> None:
    """A pipe that nobody reads ends help with status 141 and no text; `| head -1` shows the first line."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([DOIT, *words.split()], cwd=repository, env=CLEAN, stdout=writing, stderr=subprocess.PIPE, check=False)  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")
    piped = subprocess.run(["/bin/sh", "-c", f"{DOIT} {words} | head -1"], cwd=repository, env=CLEAN, capture_output=True, check=False)  # fmt: skip
    assert (piped.stderr, piped.stdout.count(b"\n")) == (b"", 1)


@pytest.mark.slow
@pytest.mark.parametrize("words", PAGES)
def test_an_output_that_takes_nothing(words: str, repository: Path) -> None:
    """A full output ends with what to do, a closed one without a word."""
    printed = b"ERROR: cannot write the output: No space left on device\ncheck its destination, then run again\n"
    for where, expected in ((">/dev/full", (3, printed)), (">&-", (0, b"")), (">&- 2>&-", (0, b""))):
        done = subprocess.run(["/bin/sh", "-c", f"{DOIT} {words} {where}"], cwd=repository, env=CLEAN, capture_output=True, check=False)  # fmt: skip
        assert (done.returncode, done.stderr) == expected, where


def on_a_terminal(directory: Path, words: str, columns: int) -> list[str]:
    """Return the lines that a terminal of that width shows."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environ = {name: value for name, value in CLEAN.items() if name != "COLUMNS"}
    with subprocess.Popen([DOIT, *words.split()], cwd=directory, env=environ, stdout=terminal, stderr=terminal):
        os.close(terminal)
        printed = b""
        while part := _read(controller):
            printed += part
    os.close(controller)
    return printed.decode().splitlines()


def _read(controller: int) -> bytes:
    try:
        return os.read(controller, 1 << 16)
    except OSError:  # Linux says EIO when the last writer has closed it
        return b""


@pytest.mark.parametrize(("columns", "least", "most"), [(50, 40, 50), (90, 80, 90), (200, 90, 100)])
@pytest.mark.parametrize("words", ["help run", "verify --help"])
def test_lines_fit_the_terminal(words: str, columns: int, least: int, most: int, repository: Path) -> None:
    """Pages are as wide as the terminal, up to a readable width."""
    assert least <= max(map(len, on_a_terminal(repository, words, columns))) <= most


def test_nothing_heavy_is_loaded(repository: Path) -> None:
    """Help on a command of doit loads neither what fetches and stores nor the other commands."""
    script = "import sys\nfrom doit.doit_cmd import DoitMain\nDoitMain().run(['help', 'run'])\n"
    script += "open('loaded', 'w').write(' '.join(sys.modules))"
    subprocess.run([sys.executable, "-c", script], cwd=repository, env=CLEAN, check=True, capture_output=True)
    loaded = set((repository / "loaded").read_text().split())
    assert "tasks_lib.engine.dodo" in loaded
    heavy = {"requests", "urllib3", "zstandard", "yaml", "msgspec", "tasks_lib.steps", "tasks_lib.cache"}
    assert not loaded & (heavy | {"tasks_lib.cli.maintenance", "tasks_lib.cli.inspect"})
