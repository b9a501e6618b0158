"""Machine-readable output of a run: the event log and the JSON document."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.origin import Origin
from tests.project import LIBRARY, ROOT, TOOL
from tests.test_reporter import DOIT, ENVIRON, HOSTILE, broken, doit

SCHEMA = json.loads((ROOT / "docs/events.schema.json").read_text())


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Return the lines of an event log, validated with the schema."""
    lines = [json.loads(line) for line in path.read_text("ascii").splitlines()]
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for line in lines:
        validator.validate(line)
    return lines


def test_every_line_is_of_the_schema(repository: Path) -> None:
    """A run with a success and a failure, then a warm one, in one file; each line has the id of its run."""
    log = repository / "events.jsonl"
    doit(broken(repository), "-c", FETCH_EVENTS=str(log))
    doit(repository, "fetch:lib", FETCH_EVENTS=str(log))
    lines = lines_of(log)
    runs = list(dict.fromkeys(line["run"] for line in lines))
    assert len(runs) == 2
    first = [line for line in lines if line["run"] == runs[0]]
    ends = {line["task"]: line["outcome"] for line in first if line["event"] == "end"}
    assert ends == {"fetch:lib": "fetched", "repack:lib": "made", "fetch:tool": "failed"}
    (made,) = (line for line in first if line["event"] == "end" and line["task"] == "repack:lib")
    content = (repository / "build/artifacts/lib/lib.tar.zst").read_bytes()
    assert made["path"] == str(repository / "build/artifacts/lib/lib.tar.zst")
    assert (made["sha256"], made["size"]) == (hashlib.sha256(content).hexdigest(), len(content))
    assert [line["event"] for line in (first[0], first[-1])] == ["begin", "finish"]
    for worker in {line.get("worker") for line in first}:  # two threads may write in another order than they spoke
        times = [line["at_s"] for line in first if line.get("worker") == worker]
        assert times == sorted(times)
    phases = [line["phase"] for line in first if line["event"] == "phase" and line["task"] == "fetch:lib"]
    assert [phase for phase in phases if phase != "wait"] == ["connect", "first-byte", "body", "verify"]
    sizes = [line["size"] for line in first if line["event"] == "progress" and line["task"] == "fetch:lib"]
    assert sum(sizes) == len(LIBRARY)
    assert lines[-2] | {"run": "", "at_s": 0} == {
        "event": "end", "run": "", "at_s": 0, "task": "fetch:lib", "worker": "MainThread", "outcome": "up-to-date",
    }  # fmt: skip


def test_the_schema_refuses() -> None:
    """The schema refuses a line with a wrong outcome or a missing field."""
    good = {"event": "end", "run": "0" * 12, "at_s": 1, "task": "a", "worker": "w", "outcome": "made"}
    validator = jsonschema.Draft202012Validator(SCHEMA)
    assert validator.is_valid(good)
    assert not validator.is_valid(good | {"outcome": "fine"})
    assert not validator.is_valid({key: value for key, value in good.items() if key != "task"})


def unwritable(kind: str, directory: Path) -> str:
    if kind == "fifo":
        os.mkfifo(directory / "fifo")
    paths = {"directory": ".", "missing": "no/such/place", "full": "/dev/full", "fifo": "fifo", "nul": "a\tb/c"}
    return paths[kind]


@pytest.mark.parametrize("kind", ["directory", "missing", "full", "fifo", "nul"])
def test_a_log_that_cannot_be_written(kind: str, repository: Path) -> None:
    """One warning, and the run continues without waiting for a reader."""
    done = doit(repository, "fetch", FETCH_EVENTS=unwritable(kind, repository))
    assert done.returncode == 0
    assert done.stdout.count("the event log") == 1
    assert "ok fetch:tool" in done.stdout


def document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_json_document(repository: Path) -> None:
    """One document has success, failure and the tasks that depend on it, with doit's fields and more."""
    done = doit(broken(repository), "-c", "-r", "json", "repack:lib", "extract:tool")
    assert done.returncode != 0
    found = document(done)
    tasks = {task["name"]: task for task in found["tasks"]}
    assert {name: (task["result"], task["outcome"]) for name, task in tasks.items()} == {
        "fetch:lib": ("success", "fetched"),
        "repack:lib": ("success", "made"),
        "fetch:tool": ("fail", "failed"),
        "extract:tool": ("fail", "not-run"),
    }
    assert "no source provided" in tasks["fetch:tool"]["error"]
    assert tasks["fetch:lib"]["bytes"] == len(LIBRARY)
    assert tasks["fetch:lib"]["source"].endswith("/lib-1.0.tar")
    assert tasks["fetch:lib"]["elapsed"] > 0
    assert found["summary"]["counts"] == {"fetched": 1, "made": 1, "failed": 1, "not-run": 1}
    assert {"name", "result", "out", "err", "error", "started", "elapsed"} <= set(tasks["extract:tool"])
    outputs = {name: [task[key] for key in ("path", "size", "tree")] for name, task in tasks.items()}
    assert outputs["fetch:lib"] == [
        str(next((repository / "cache/artifacts/lib").glob("*/lib-1.0.tar"))),
        len(LIBRARY),
        None,
    ]
    assert outputs["extract:tool"] == [None] * 3
    tasks = {task["name"]: task for task in document(doit(repository, "-r", "json", "extract:lib"))["tasks"]}
    assert tasks["extract:lib"]["tree"] == str(repository / "build/extracted/lib")
    again = {task["name"]: task for task in document(doit(repository, "-r", "json", "extract:lib"))["tasks"]}
    assert again["extract:lib"]["outcome"] == "up-to-date"
    for key in ("path", "sha256", "size", "tree"):
        assert again["extract:lib"][key] == tasks["extract:lib"][key]


def test_json_document_with_threads_and_talkative_tasks(tmp_path: Path) -> None:
    """The document is complete with captured tasks on threads, children that write to stdout, and hostile text."""
    text = HOSTILE + '    yield {"name": "child", "actions": ["echo child; echo \\udcff"], "io": {"capture": False}}\n'
    text += '    yield from ({"name": str(number), "actions": [talk]} for number in range(60))\n'
    (tmp_path / "dodo.py").write_text(text, "utf-8", "surrogateescape")
    done = doit(tmp_path, "-c", "-n", "8", "-P", "thread", "-r", "json")
    found = document(done)
    assert len(found["tasks"]) == 63
    assert {task["result"] for task in found["tasks"]} == {"success", "fail"}


def test_json_into_a_file(repository: Path) -> None:
    """With -o the document goes to the file, and stdout stays empty."""
    done = doit(repository, "-r", "json", "-o", "out.json", "fetch")
    assert done.stdout == ""
    assert json.loads((repository / "out.json").read_text())["summary"]["bytes"] == len(LIBRARY) + len(TOOL)


def test_json_of_a_run_that_cannot_begin(repository: Path) -> None:
    """A target of two tasks is an error of doit's: the document contains it."""
    (repository / "dodo.py").write_text(
        "from doit_fetch import DOIT_CONFIG\n"
        "def task_a():\n    return {'actions': ['true'], 'file_dep': ['nowhere']}\n"
        "DOIT_CONFIG = {**DOIT_CONFIG, 'default_tasks': ['a']}\n"
    )
    done = subprocess.run([*DOIT, "-r", "json"], cwd=repository, env=ENVIRON, capture_output=True, check=False)
    assert done.returncode != 0
    assert "nowhere" in json.loads(done.stdout)["tasks"][0]["error"]


REFUSED = {
    "wrong definitions": ((), "nope.yml", 3, "unknown key"),
    "unknown task": (("fetch:nothing",), "", None, "fetch:nothing"),
    "offline": (("offline=1", "fetch"), "", 1, "not in the cache"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_json_of_a_run_that_is_refused(case: str, repository: Path) -> None:
    """An error before the run begins is written to a document too, with doit's exit status."""
    words, extra, status, printed = REFUSED[case]
    if extra:
        (repository / "fetchdefs/fetch" / extra).write_text("y: {descriptio: d}\n")
    done = doit(repository, "-r", "json", *words)
    found = document(done)
    assert printed in found["err"]
    assert found["tasks"] == []
    assert done.returncode == status if status else done.returncode != 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_json_of_a_run_that_is_stopped(number: signal.Signals, repository: Path, origin: Origin) -> None:
    """A signal ends the run with one complete document of finished and interrupted tasks, and nothing else."""
    may, asked = threading.Event(), threading.Event()

    def late(_connection: object, _request: object) -> None:
        asked.set()
        may.wait(30)

    origin.answers["/tool.tar"] = late
    command = [*DOIT, "-r", "json", "fetch"]
    environ = ENVIRON | {"FETCH_JOBS": "4", "FETCH_EVENTS": "events.jsonl"}
    with subprocess.Popen(
        command, cwd=repository, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert asked.wait(30)
        log = repository / "events.jsonl"
        while '"end"' not in log.read_text():
            time.sleep(0.02)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        may.set()
    assert (process.returncode, err) == (128 + number, b"")
    outcomes = {task["name"]: task["outcome"] for task in json.loads(out)["tasks"]}
    assert outcomes == {"fetch:lib": "fetched", "fetch:tool": "stopped"}
