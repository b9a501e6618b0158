"""Output of a run: golden lines, CI markers, colours, closed pipes, hostile text."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests import zygote
from tests.origin import Origin, in_turn, reply, serving
from tests.project import CLEAN, DODO, PYTHONPATH, TOOL, definition, written

ENVIRON = {
    name: value
    for name, value in CLEAN.items()
    if name not in ("CI", "GITHUB_ACTIONS", "GITLAB_CI", "NO_COLOR", "FORCE_COLOR", "TERM", "PYTHONUNBUFFERED")
} | {"FETCH_RETRIES": "0", "FETCH_JOBS": "1", "PYTHONPATH": PYTHONPATH}
DOIT = [sys.executable, "-m", "doit"]
#: Tasks of a user's own, whose names and messages come from anywhere.
HOSTILE = """
from doit_fetch import DOIT_CONFIG
DOIT_CONFIG = {**DOIT_CONFIG, "default_tasks": ["x"]}
def fail():
    from doit.exceptions import TaskFailed
    return TaskFailed("a\\x1b[31m\\n::set-env name=A::b\\nnext\\u202estep")
def talk():
    print("heard")
def task_x():
    yield {"name": "evil\\x1b]0;owned\\x07\\n::error::", "actions": [fail]}
    yield {"name": "talks", "actions": [talk], "verbosity": 2}
"""


def doit(directory: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    if zygote.can_fork(ENVIRON | environ):
        status, out, err = zygote.run(words, directory, ENVIRON | environ, subprocess.PIPE)
        return subprocess.CompletedProcess([*DOIT, *words], status, out.decode(), err.decode(errors="replace"))
    done = subprocess.run(
        [*DOIT, *words], cwd=directory, env=ENVIRON | environ, capture_output=True, check=False, timeout=60
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode(errors="replace")
    )


def masked(text: str, origin: Origin) -> str:
    """Return the output without times, rates, the port, and the lines of a slow run."""
    text = re.sub(r"(?m)^  slowest: .*\n", "", text)
    text = text.replace(origin.url, "http://ORIGIN").replace(origin.url.removeprefix("http://"), "ORIGIN")
    text = re.sub(r", [\d.]+ (?:[KMG]i)?B/s", ", RATE", text)
    return re.sub(r"\d+\.\d+ s\b", "T s", text)


def broken(repository: Path) -> Path:
    """Let the second definition promise another digest."""
    path = repository / "fetchdefs/fetch/all.yml"
    text = path.read_text()
    at = text.index("sha256:", text.index("tool:"))
    path.write_text(text[: at + 8] + "0" * 64 + text[at + 72 :])
    return repository


COLD = """\
.  fetch:lib
ok fetch:lib: 3.5 KiB from http://ORIGIN/lib-1.0.tar in T s
.  repack:lib
ok repack:lib: in T s
.  fetch:tool
ok fetch:tool: 2.0 KiB from http://ORIGIN/tool.tar in T s
2 fetched (5.5 KiB), 1 made; T s
  from ORIGIN: 2 files, 5.5 KiB, RATE each
"""
WARM = """\
-- fetch:lib
-- repack:lib
-- fetch:tool
nothing to do: 3 cached; T s
"""
ADOPTED = """\
.  fetch:lib
ok fetch:lib: adopted from the cache in T s
1 adopted; T s
"""


def test_golden_lines(repository: Path, origin: Origin) -> None:
    """Cold, warm and adopted: each event is one line, the summary says where the bytes came from."""
    assert masked(doit(repository, "-n", "1").stdout, origin) == COLD
    assert masked(doit(repository).stdout, origin) == WARM
    doit(repository, "forget", "fetch:lib")
    assert masked(doit(repository, "fetch:lib").stdout, origin) == ADOPTED


def test_golden_failure(repository: Path) -> None:
    """A failure is reported at once with its next step; the end names it and counts its dependents."""
    done = doit(broken(repository), "-c", "fetch:tool", "extract:tool")
    assert done.returncode != 0
    assert done.stdout.startswith(".  fetch:tool\nTaskFailed - taskid:fetch:tool\ntool: no source provided")
    assert "\n\nnot run: extract:tool: it needs fetch:tool\n1 failed, 1 not run; " in done.stdout
    pin = f"\n    sha256: {hashlib.sha256(TOOL).hexdigest()}\n    size: {len(TOOL)}\n"
    assert f"\nask upstream why the content changed; if it is right, review it and pin its size and sha256 (doit update NAME){pin}" in done.stdout  # fmt: skip
    assert done.stdout.endswith("\nfailed: fetch:tool\n")
    assert done.stdout.count("no source provided") == 1
    assert "Traceback" not in done.stdout + done.stderr


def test_github(repository: Path) -> None:
    """On GitHub the events form one group, the summary is outside of it, and a failure annotates its definition."""
    done = doit(broken(repository), "-c", "fetch", GITHUB_ACTIONS="true")
    lines = done.stdout.splitlines()
    assert lines[0] == "::group::doit"
    assert lines.index("::endgroup::") < lines.index("failed: fetch:tool")
    annotation = next(line for line in lines if line.startswith("::error "))
    number = (repository / "fetchdefs/fetch/all.yml").read_text().splitlines().index("tool:") + 1
    assert annotation.startswith(
        f"::error file=fetchdefs/fetch/all.yml,line={number},title=fetch%3Atool::tool: no source"
    )
    assert "%0Aask upstream" in annotation


def test_gitlab(repository: Path) -> None:
    """On GitLab the events are a section whose markers are right; nothing else has a control character."""
    text = doit(repository, "fetch", GITLAB_CI="true").stdout
    begin = re.match(r"\x1b\[0Ksection_start:\d+:doit\r\x1b\[0Kdoit\n", text)
    assert begin
    end = re.search(r"\x1b\[0Ksection_end:\d+:doit\r\x1b\[0K\n2 fetched", text)
    assert end
    inside = text[begin.end() : end.start()]
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f]", inside) is None
    assert "ok fetch:lib" in inside


COLOURS = {
    "pipe": ({}, False),
    "forced": ({"FORCE_COLOR": "1"}, True),
    "refused": ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    "empty words do not count": ({"FORCE_COLOR": "", "NO_COLOR": ""}, False),
}


@pytest.mark.parametrize("case", COLOURS)
def test_colours(case: str, repository: Path) -> None:
    """A pipe gets no control character unless colour is forced, and none when colour is refused."""
    environ, coloured = COLOURS[case]
    assert ("\x1b[" in doit(repository, "fetch", **environ).stdout) is coloured


def test_quiet(repository: Path) -> None:
    """Quiet says nothing of what goes well, by reporter or by setting, and everything of a failure."""
    assert doit(repository, "-r", "quiet", "fetch:lib").stdout == ""
    assert doit(repository, "--quiet", "repack:lib").stdout == ""
    assert doit(repository, "run", "-q").stdout == ""
    done = doit(broken(repository), "progress=quiet", "fetch:tool")
    assert done.stdout.startswith("TaskFailed - taskid:fetch:tool\ntool: no source provided")
    assert ".  fetch" not in done.stdout


def test_each_line_comes_at_once(repository: Path, origin: Origin) -> None:
    """The line of a task that begins is read while the task waits for its server."""
    may = threading.Event()
    answer = origin.answers["/lib-1.0.tar"]

    def late(*arguments: object) -> object:
        may.wait(30)
        return answer(*arguments)  # type: ignore[arg-type]  # the origin calls it as it calls every answer

    origin.answers["/lib-1.0.tar"] = late  # type: ignore[assignment]  # as above
    command = [*DOIT, "fetch:lib"]
    with subprocess.Popen(command, cwd=repository, env=ENVIRON, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == ".  fetch:lib\n"
        may.set()
        assert process.stdout.readline().startswith("ok fetch:lib")
        process.stdout.read()
    assert process.returncode == 0


@pytest.mark.parametrize("words", [(), ("-r", "json")], ids=["lines", "json"])
def test_a_closed_pipe_is_no_failure(words: tuple[str, ...], repository: Path) -> None:
    """A closed pipe does not stop the run: no traceback, exit status 0."""
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [*DOIT, *words], cwd=repository, env=ENVIRON, stdout=write, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
    assert (repository / "cache/artifacts/tool").is_dir()


def test_no_stdout_at_all(repository: Path) -> None:
    """Doit whose stdout is closed from the start works too."""
    command = f"exec {sys.executable} -m doit fetch >&-"
    done = subprocess.run(["sh", "-c", command], cwd=repository, env=ENVIRON, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("ci", ["GITHUB_ACTIONS", "CI"])
def test_text_from_outside_is_escaped(ci: str, tmp_path: Path) -> None:
    """Names and messages reach neither the terminal nor the CI as commands."""
    (tmp_path / "dodo.py").write_text(HOSTILE)
    done = doit(tmp_path, "-c", **{ci: "true"})
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", done.stdout) is None
    assert r".  x:evil\x1b]0;owned\x07\n::error::" in done.stdout
    assert "heard" in done.stdout
    assert not [line for line in done.stdout.splitlines() if re.match(r"\s*::(?!group|endgroup|error )", line)]


#: What the runners of CI services act on. Source: see `errors._CI_MARKERS`.
COMMANDS = re.compile(
    r"##\w*\[|^\s*::[a-z-]+.*::|section_(start|end):\d+:|travis_(fold|time):", re.MULTILINE | re.IGNORECASE
)


@pytest.mark.slow
@pytest.mark.parametrize("ci", ["TF_BUILD", "GITHUB_ACTIONS"])
def test_commands_of_a_ci_from_outside(ci: str, tmp_path: Path) -> None:
    """No output holds a CI command of a server or a definition, in the middle of a line either; it stays readable."""
    evil = (
        "a ##[add-mask]b ##vso[task.setvariable variable=A]c ::set-output name=x::y section_start:1:s travis_fold:start"
    )
    answer = reply(f"{evil}\n::set-env name=A::b\n##[group]".encode(), f"403 No {evil}")
    with serving({"/a": answer}) as origin:
        text = definition("lib", f"{origin.url}/a", b"x").replace("the lib", f'"{evil}"')
        written(tmp_path, {"dodo.py": DODO, "fetchdefs/fetch/all.yml": text})
        shown = [
            doit(tmp_path, *words, **{ci: "true"}) for words in (["fetch"], ["list", "--all"], ["info", "fetch:lib"])
        ]
        (tmp_path / "fetchdefs/fetch/all.yml").write_text(text.replace("size: 1", f'size: "{evil}"'))
        shown += [
            doit(tmp_path, *words, **{ci: "true"})
            for words in (["list"], ["verify"], ["fetch", f"cache_parents={evil}"])
        ]
        (tmp_path / "fetchdefs/fetch/all.yml").write_text("")
        shown.append(doit(tmp_path, "info", evil.replace("=", "-"), **{ci: "true"}))
    for done in shown:
        own = re.sub(
            r"^::(group::doit|endgroup::|error file.*?::)", "", done.stdout + (done.stderr or ""), flags=re.MULTILINE
        )
        assert COMMANDS.search(own) is None, own
        assert "add-mask" in own and "Traceback" not in own


def test_an_outlandish_encoding(tmp_path: Path) -> None:
    """A terminal without Unicode gets escapes instead of an exception."""
    (tmp_path / "dodo.py").write_text(HOSTILE.replace("talks", "größe"))
    done = doit(tmp_path, "x:größe", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert r"x:gr\xf6\xdfe" in done.stdout


def test_an_interrupted_run_tells_what_was_stopped(repository: Path, origin: Origin) -> None:
    """After Ctrl-C the summary, the event log and the record count finished and stopped tasks."""
    may = threading.Event()
    origin.answers["/tool.tar"] = lambda _connection, _request: (may.wait(30), None)[1]
    environ = ENVIRON | {"FETCH_JOBS": "2", "FETCH_EVENTS": "events.jsonl"}
    command = [*DOIT, "fetch"]
    with subprocess.Popen(command, cwd=repository, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = [process.stdout.readline() for _ in range(3)]
        assert sum(line.startswith("ok fetch:lib") for line in seen) == 1
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        may.set()
    assert "1 stopped, 1 fetched (3.5 KiB); " in rest
    assert "\n  run again to continue; partial downloads are resumed where possible\n" in rest
    events = [json.loads(line) for line in (repository / "events.jsonl").read_text().splitlines()]
    assert events[-1]["counts"] == {"fetched": 1, "stopped": 1}
    assert [one["outcome"] for one in events if one.get("task") == "fetch:tool" and one["event"] == "end"] == [
        "stopped"
    ]
    record = json.loads((repository / "build/.run.json").read_text())
    assert {task["name"]: task["outcome"] for task in record["tasks"]} == {
        "fetch:lib": "fetched",
        "fetch:tool": "stopped",
    }


def test_other_processes_are_not_heard(repository: Path) -> None:
    """With doit's own processes it is not claimed that something came from the cache."""
    done = doit(repository, "-n", "2", "-P", "process")
    assert done.returncode == 0
    assert "\n3 made; " in done.stdout
    assert "cache" not in done.stdout


def test_asking_again_is_reported(repository: Path, origin: Origin) -> None:
    """A line reports which source is retried, after how long, and why."""
    origin.answers["/tool.tar"] = in_turn(reply(b"", "503 Service Unavailable"), reply(TOOL))
    done = doit(repository, "fetch:tool", FETCH_RETRIES="1", FETCH_BACKOFF_S="0.01")
    assert done.returncode == 0
    printed = [line for line in masked(done.stdout, origin).splitlines() if ": retries " in line]
    assert len(printed) == 1
    assert printed[0].startswith("fetch:tool: retries http://ORIGIN/tool.tar in T s: ")
    assert "503" in printed[0]


@pytest.mark.parametrize("verbosity", [0, 1, 2])
def test_what_a_failed_task_wrote(verbosity: int, tmp_path: Path) -> None:
    """The output of a user's failed task is shown once: while it runs, or after the failure, as in doit."""
    (tmp_path / "dodo.py").write_text(
        "from doit_fetch import DOIT_CONFIG\n"
        'DOIT_CONFIG = {**DOIT_CONFIG, "default_tasks": None}\n'
        'def task_x():\n    return {"actions": ["echo its; echo erring >&2; exit 1"],'
        f' "verbosity": {verbosity}}}\n'
    )
    done = doit(tmp_path)
    lines = (done.stdout + done.stderr).splitlines()
    assert (lines.count("its"), lines.count("erring")) == (1, 1), done.stdout


def test_a_dead_origin_is_named(tmp_path: Path, origin: Origin) -> None:
    """When a mirror helps, the line, the summary, the events, the page and `-r json` name the origin and the reason."""
    origin.answers["/data"] = reply(b"data")
    mirrors = f"    mirrors: [{origin.url}/data]\n"
    text = definition("data", "http://127.0.0.1:1/data", b"data", mirrors)
    here = written(tmp_path / "here", {"dodo.py": DODO, "fetchdefs/fetch/all.yml": text})
    lines = doit(here, FETCH_EVENTS="events").stdout.splitlines()
    assert f"from mirror {origin.url}/data (origin: connection refused" in lines[1]
    assert any(line.startswith("  origin 127.0.0.1:1 failed for 1 file: connection refused") for line in lines)
    events = [json.loads(line) for line in (here / "events").read_text().splitlines()]
    (event,) = [one for one in events if one["event"] == "warning"]
    assert event["role"] == "origin" and "refused" in event["reason"]
    assert doit(here, "report").returncode == 0
    assert '"reason": "connection refused' in (here / "build/report.html").read_text()
    shutil.rmtree(here / "cache")
    document = json.loads(doit(here, "-r", "json").stdout)
    assert [one["warnings"] for one in document["tasks"]] == [[event["message"]]]
    assert document["summary"]["failed_sources"] == [{"role": "origin", "host": "127.0.0.1:1", "files": 1}]
    shutil.rmtree(here / "cache")
    quiet = doit(here, "-q").stdout
    assert event["message"] in quiet
