"""The record of a run, its analysis, the trace and the page as text, and `doit report`."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tasks_lib.report import record as records
from tasks_lib.report.analysis import build_advice, find_critical_path, sum_phases, summarize_hosts
from tasks_lib.report.render import render_page, render_trace
from tests.project import LIBRARY, TOOL, definition
from tests.records import record
from tests.test_reporter import broken, doit


def task(name: str, start: float, end: float, **more: Any) -> dict[str, Any]:
    return {
        "name": name, "outcome": "made", "worker": 0, "ready": start, "start": start, "end": end, "phases": [], **more,
    }  # fmt: skip


def run(*tasks: dict[str, Any], **more: Any) -> dict[str, Any]:
    ends = [one["end"] for one in tasks if "end" in one]
    return record(0) | {"tasks": list(tasks), "elapsed": max(ends, default=0)} | more


def body(url: str, ms: float, size: int = 1000) -> list[Any]:
    return ["body", 0, ms, size, url]


def test_critical_path() -> None:
    """The path follows, from the last task, the dependency that ended last; tasks that did not run are excluded."""
    tasks = [
        task("fetch:a", 0, 50),
        task("fetch:b", 0, 80),
        task("extract:a", 50, 60, needs=[0]),
        task("toolchain:t", 90, 100, needs=[1, 2, 4]),
        {"name": "fetch:c", "outcome": "up-to-date"},
        task("fetch:d", 0, 99),
    ]
    assert find_critical_path(run(*tasks)) == [1, 3]
    assert find_critical_path(run()) == []
    assert find_critical_path(run(task("a", 0, 1, needs=[0])))  # a damaged record ends too


SLOW = [
    task("fetch:a", 0, 7100, outcome="fetched", phases=[body("https://ftp.gnu.org/a", 7100)], sources=["https://ftp.gnu.org/a"]),
    task("fetch:b", 0, 2900, outcome="fetched", phases=[body("https://b.example/b", 2900)], sources=["1", "2"]),
]  # fmt: skip
ADVICE = {
    "host": (run(*SLOW), "71 % of the time with servers (7.1 s) was spent on ftp.gnu.org: add a mirror, its file has no other source."),
    "mirrored": (run(SLOW[1]), "100 % of the time with servers (2.9 s) was spent on b.example: put a faster mirror first"),
    "waits": (run(task("fetch:a", 0, 900, phases=[["wait", 0, 900]])), "1 task waited 0.90 s for a retry or for another process"),
    "queue": (run(task("a", 900, 1000, ready=0), task("b", 900, 1000, ready=0)), "Ready tasks were queued for 0.90 s on average"),
    "command": (
        run(task("fetch:a", 0, 100), task("toolchain:t", 100, 1100, needs=[0])),
        "91 % of the critical path is toolchain:t (1.0 s): its command takes the time",
    ),
    "cache": (run(task("a", 0, 1), counts={"up-to-date": 3, "made": 1}), "75 % of the tasks (3) were up to date or in the cache."),
    "cold": (run(*SLOW, counts={"fetched": 2}), "The cache was empty: 2.0 KiB had to be fetched."),
    "failed": (run(task("a", 0, 1), counts={"failed": 2}), "2 tasks failed: see their messages for the next step"),
    "left out": (run(task("a", 0, 1), left_out=7), "The record contains only 1 tasks; 7 more are not shown."),
}  # fmt: skip


LOCAL = [
    task("fetch:a", 0, 7100, outcome="fetched", phases=[body("file:///srv/a", 7100)], sources=["file:///srv/a"]),
    task("extract:a", 7100, 7200, needs=[0]),
]
#: Nothing can be advised: local files; tasks that were ready while the first one loaded modules.
SILENT = {
    "local files": run(*LOCAL, counts={"fetched": 1}),
    "loading": run(
        *(task(f"fetch:{name}", 900, 1000, ready=0, phases=[["connect", 900, 1000]]) for name in "ab"),
        counts={"made": 2},
    ),
}


@pytest.mark.parametrize("case", SILENT)
def test_no_advice(case: str) -> None:
    """Neither a copy of a local file nor the time to load modules is a reason for advice."""
    assert build_advice(SILENT[case]) == []


@pytest.mark.parametrize("case", ADVICE)
def test_advice(case: str) -> None:
    """Each finding is a sentence with figures and a next step."""
    made, printed = ADVICE[case]
    assert any(printed in sentence for sentence in build_advice(made)), build_advice(made)


def test_nothing_to_advise() -> None:
    """A short run without anything remarkable gets no advice."""
    assert build_advice(run(task("a", 0, 100))) == []


def test_hosts_and_phases() -> None:
    """Phases without a URL belong to the host that was asked before; files count for the host that gave the bytes."""
    phases: list[list[Any]] = [
        ["connect", 0, 100, 0, "http://bad/x"],
        ["connect", 100, 150, 0, "http://good:8/x"],
        ["body", 150, 350, 500, "http://good:8/x"],
        ["verify", 350, 360],
    ]
    made = run(task("fetch:a", 0, 360, outcome="fetched", phases=phases, sources=["http://bad/x", "http://good:8/x"]))
    assert [tuple(host) for host in summarize_hosts(made)] == [("good:8", 1, 500, 250, 0), ("bad", 0, 0, 100, 0)]
    assert sum_phases(made) == {"connect": 150, "body": 200, "verify": 10}


def test_trace() -> None:
    """The trace has a named thread for each worker, nested slices in microseconds, and counters that end at nothing."""
    made = record(50, workers=4)
    events = json.loads(render_trace(made))["traceEvents"]
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert names == {1: "main", 2: "network-0", 3: "network-1", 4: "network-2", 5: "network-3"}
    slices = [event for event in events if event["ph"] == "X"]
    assert len([one for one in slices if one["cat"] != "phase"]) == sum("start" in one for one in made["tasks"])
    outer: dict[int, tuple[int, int]] = {}
    at = 0
    for one in slices:
        assert {"ph", "pid", "tid", "name", "cat", "ts", "dur", "args"} <= set(one)
        begun, ended = outer.get(one["tid"], (0, 0))
        if one["cat"] != "phase":
            assert one["ts"] >= ended
            outer[one["tid"]] = (at := one["ts"], one["ts"] + one["dur"])
        else:
            assert begun <= at <= one["ts"] <= (at := one["ts"] + one["dur"]) <= ended
    running = [event["args"]["running"] for event in events if event["name"] == "tasks"]
    assert 1 < max(running) <= 4
    assert running[-1] == 0


def test_slices_of_a_trace_nest_whatever_the_record_says() -> None:
    """Phases that overlap, or stand out of their task, are cut: a reader would drop them, or turn them around."""
    phases = [["wait", 5, 12], ["connect", 12, 12], ["body", 11, 30, 7], ["verify", 40, 50]]
    made = run(task("fetch:a", 10, 20, phases=phases), workers=["w"])
    spans = [
        (one["name"], one["ts"], one["dur"])
        for one in json.loads(render_trace(made))["traceEvents"]
        if one["ph"] == "X"
    ]
    assert spans == [("fetch:a", 10000, 10000), ("wait", 10000, 2000), ("body", 12000, 8000)]


def test_a_hostile_record_stays_text() -> None:
    """No name can end the script, and the policy allows no script and no connection but the page's own."""
    evil = "</script><script>alert(1)</script><!--<script>&\u2028\x1b"
    text = render_page(run(task(evil, 0, 1, message=evil, artifact=evil, sources=[evil])))
    assert text.count("<script") == 2
    assert text.count("</script>") == 2
    assert "alert(1)</" not in text
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert data is not None
    assert json.loads(data[1])["record"]["tasks"][0]["name"] == evil
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy[1]
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text) == []


#: Quick tasks, each with a check that keeps doit's own thread from hearing of them at once.
BUSY = """
import time
from doit_fetch import DOIT_CONFIG
DOIT_CONFIG = {**DOIT_CONFIG, "default_tasks": ["x"]}
def act():
    pass
def check():
    time.sleep(0.001)
    return False
def task_x():
    for number in range(200):
        yield {"name": f"{number:03}", "actions": [act], "uptodate": [check]}
"""


def test_report_of_a_run(repository: Path) -> None:
    """`doit report` writes page and trace of the last run in which something was done, from a sub-directory too."""
    doit(broken(repository), "-c", "fetch", "repack")
    found = records.load(repository / "build/.run.json")
    by_name = {one["name"]: one for one in found["tasks"]}
    lib = by_name["fetch:lib"]
    assert found["counts"] == {"fetched": 1, "made": 1, "failed": 1}
    assert [phase[0] for phase in lib["phases"] if phase[0] in ("connect", "body", "verify")] == [
        "connect",
        "body",
        "verify",
    ]
    assert lib["ready"] <= lib["start"] <= lib["phases"][0][1] <= lib["phases"][-1][2] <= lib["end"] <= found["elapsed"]
    assert lib["size"] == len(LIBRARY)
    assert lib["defined"] == "fetchdefs/fetch/all.yml:1"
    assert [found["tasks"][number]["name"] for number in by_name["repack:lib"]["needs"]] == ["fetch:lib"]
    assert "no source provided" in by_name["fetch:tool"]["message"]
    assert doit(repository, "fetch:lib").returncode == 0  # nothing to do: the record stays
    (repository / "sub").mkdir()
    done = doit(repository / "sub", "report", "-k")
    assert (done.returncode, done.stdout) == (0, "build/report.html\nbuild/trace.json\n")
    assert "fetch:tool" in (repository / "build/report.html").read_text()
    assert json.loads((repository / "build/trace.json").read_text())["otherData"]["program"] == "doit-fetch"


def test_no_worker_is_in_two_places(tmp_path: Path) -> None:
    """A task ends when its worker is done with it, not when doit, which is busy with others, hears of it."""
    (tmp_path / "dodo.py").write_text(BUSY)
    assert doit(tmp_path, "-n", "4").returncode == 0
    found = records.load(tmp_path / "build/.run.json")
    assert {one["worker"] for one in found["tasks"]} == set(range(len(found["workers"])))
    for worker in range(len(found["workers"])):
        spans = sorted((one["start"], one["end"]) for one in found["tasks"] if one["worker"] == worker)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))


def test_secrets_are_in_no_record(repository: Path, origin: Any) -> None:
    """Credentials and queries of URLs appear neither in the record, nor in the event log, nor in the output."""
    path = repository / "fetchdefs/fetch/all.yml"
    path.write_text(definition("tool", f"{origin.url}/tool.tar?token=sesame", TOOL))
    done = doit(repository, "fetch", FETCH_EVENTS="events.jsonl")
    assert done.returncode == 0
    doit(repository, "report")
    for name in ("build/.run.json", "build/report.html", "build/trace.json", "events.jsonl"):
        text = (repository / name).read_text()
        assert "tool.tar" in text
        assert "sesame" not in text
    assert "sesame" not in done.stdout


REFUSALS = {
    "no run": (None, "no run is recorded in build/.run.json"),
    "damaged": ("{", "cannot read the record"),
    "of other things": ('{"format": 1, "tasks": [{}], "workers": 7}', "is damaged"),
    "other version": ('{"format": 99}', "has an unsupported format"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_no_record(case: str, repository: Path) -> None:
    """Without a usable record `doit report` says so in a line or two, with what to do."""
    text, printed = REFUSALS[case]
    (repository / "build").mkdir()
    if text is not None:
        (repository / "build/.run.json").write_text(text)
    done = doit(repository, "report")
    assert done.returncode == 3
    assert printed in done.stderr
    assert "run `doit` " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_record_that_cannot_be_written(repository: Path) -> None:
    """A build directory that is a file costs one warning."""
    (repository / "build").write_text("")
    done = doit(repository, "fetch")
    assert done.returncode == 0
    assert done.stdout.count("`doit report` will not show this run") == 1


def test_a_record_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """More tasks than the record has room for are counted, not kept."""
    from tasks_lib.ui.run_state import RunState

    monkeypatch.setattr(records, "MAX_TASKS", 10)
    state = RunState()
    for number in range(25):
        state.passed(f"fetch:{number}", "up-to-date")
    made = records.build_record(state, now_s=1.0, ended_at=1000.0)
    assert (len(list(made["tasks"])), made["left_out"]) == (10, 15)
