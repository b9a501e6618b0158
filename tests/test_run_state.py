"""The state of a run, and the lines that show it, with a clock of the test and without doit."""

from __future__ import annotations

import io
import re
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks_lib.ui.events import Event
from tasks_lib.ui.lines import MAX_UP_TO_DATE, LinesRenderer, summarize_failures, summarize_totals
from tasks_lib.ui.output import Output
from tasks_lib.ui.run_state import MAX_PHASES, RunState, host_of
from tasks_lib.units import counted


class Said:
    """A run state with a line renderer; the test sets the time of each event."""

    def __init__(
        self, ci: str = "", colour: str = "never", verbosity: str = "all", tasks: dict[str, Any] | None = None
    ) -> None:
        self.stream = io.StringIO()
        self.state = RunState()
        self.face = LinesRenderer(Output(self.stream), self.state, ci=ci, colour=colour, verbosity=verbosity)
        self.state.begin(tasks or {}, tuple(tasks or ()), 0.0)

    def say(self, at_s: float, task: str, name: str, **facts: str | int | float) -> None:
        event = Event(task, name, at_s, "w", facts)
        self.state.on_event(event)
        self.face.on_event(event)

    @property
    def text(self) -> str:
        return self.stream.getvalue()


def task(size: int = 0, *needs: str) -> SimpleNamespace:
    return SimpleNamespace(actions=[1], task_dep=list(needs), setup_tasks=[], meta={"size": size})


def test_a_task_that_ended_keeps_no_output() -> None:
    """What a task made is reported with its end, and kept no longer."""
    said = Said()
    said.say(0, "fetch:a", "start")
    said.say(1, "fetch:a", "output", path="/x", size=1)
    assert said.state.runs["fetch:a"].output == {"path": "/x", "size": 1}
    said.state.end("fetch:a", 2, "success")
    assert said.state.runs["fetch:a"].output == {}


def test_long_tasks_are_reported_again() -> None:
    """Every half minute a line shows phase, bytes, rate and remaining time, and nothing in between."""
    said = Said()
    said.say(0, "fetch:a", "start")
    said.say(1, "fetch:a", "phase", phase="body", url="http://a/x", total=102_400)
    for second in range(2, 62):
        said.say(second, "fetch:a", "advance", size=1024)
        said.face.beat(float(second))
    printed = [line for line in said.text.splitlines() if line.startswith("..")]
    assert printed == [
        ".. fetch:a: body: 29.0 KiB of 100.0 KiB, 1.0 KiB/s, 71 s left",
        ".. fetch:a: body: 59.0 KiB of 100.0 KiB, 1.0 KiB/s, 41 s left",
    ]
    said.say(61, "fetch:a", "phase", phase="run")
    said.face.beat(95.0)
    assert said.text.endswith(".. fetch:a: run for 1 min 35 s\n")


def test_rate_of_the_last_seconds() -> None:
    """A stall is visible within seconds, however fast the download was before."""
    said = Said()
    said.say(0, "fetch:a", "start")
    said.say(0, "fetch:a", "phase", phase="body", total=1 << 30)
    for step in range(100):
        said.say(step / 10, "fetch:a", "advance", size=1_000_000)
    run = said.state.runs["fetch:a"]
    assert run.rate(10.0) == pytest.approx(10_000_000, rel=0.15)
    assert said.state.rate(10.0) == pytest.approx(10_000_000, rel=0.15)
    assert 0 < run.rate(14.0) < 2_500_000
    assert run.rate(15.0) == 0


def test_total_rate_counts_received_bytes() -> None:
    """An initial burst counts from the start; resumed and written bytes do not count."""
    said = Said()
    for name in ("fetch:a", "fetch:b"):
        said.say(0.1, name, "start")
        said.say(0.1, name, "phase", phase="body", total=10_000_000, resumed=5_000_000)
        said.say(0.1, name, "advance", size=600_000)
    assert said.state.rate(1.0) == pytest.approx(1_200_000)
    said.say(1.0, "fetch:a", "phase", phase="repack")
    said.say(1.0, "fetch:a", "advance", size=10_000_000)
    assert said.state.rate(2.0) == pytest.approx(600_000)


def test_totals() -> None:
    """Tasks that are up to date or failed are subtracted from the total; received bytes stay in it."""
    tasks = {"a": task(100), "b": task(200), "c": task(300, "a"), "d": task(400), "group": task(0, "a", "b", "c", "d")}
    tasks["group"].actions = []
    said = Said(tasks=tasks)
    state = said.state
    assert set(state.wanted()) == {"a", "b", "c", "d"}
    assert (state.waiting(), state.bytes()) == (4, (0, 1000))
    state.passed("d", "up-to-date")
    assert (state.waiting(), state.bytes()) == (3, (0, 600))
    said.say(0, "a", "start")
    said.say(0, "a", "phase", phase="body", url="http://h/a", resumed=20)
    said.say(1, "a", "advance", size=30)
    assert (state.waiting(), state.bytes()) == (2, (50, 600))
    said.say(2, "a", "advance", size=50)
    assert state.end("a", 3, "success") == "made"  # no fetch: by its name
    said.say(3, "b", "start")
    assert state.end("b", 4, "failed", "no") == "failed"
    assert (state.waiting(), state.bytes()) == (1, (0, 300))


OUTCOMES = {
    "fetched": ("fetch:a", ["connect", "body"], "fetched"),
    "adopted": ("fetch:a", ["wait", "verify"], "adopted"),
    "repacked": ("repack:a", ["repack"], "made"),
    "repacked before": ("repack:a", [], "adopted"),
    "extracted": ("extract:a", ["extract"], "made"),
    "extracted without a word": ("extract:a", [], "made"),
    "a user's own": ("other", [], "made"),
}


@pytest.mark.parametrize("case", OUTCOMES)
def test_outcomes(case: str) -> None:
    """The outcome of a task follows from its events."""
    name, phases, outcome = OUTCOMES[case]
    said = Said()
    said.say(0, name, "start")
    for phase in phases:
        said.say(1, name, "phase", phase=phase)
    assert said.state.end(name, 2, "success") == outcome


def test_phases_are_bounded_and_closed() -> None:
    """The number of recorded phases is limited; each phase ends when the next one begins."""
    said = Said()
    said.say(0, "fetch:a", "start")
    for second in range(1000):
        said.say(second, "fetch:a", "phase", phase="wait", url="http://a/")
    said.state.end("fetch:a", 1000, "failed", "no")
    phases = said.state.runs["fetch:a"].phases
    assert len(phases) <= MAX_PHASES
    assert all(one.end_s == other.start_s for one, other in pairwise(phases[1:]))
    assert phases[-1].end_s == 1000


def test_a_task_ends_when_its_worker_is_done() -> None:
    """The end of a task is when its worker is done, although doit may process it after the worker's next task began."""
    said = Said()
    said.say(0, "fetch:a", "start")
    said.say(1, "fetch:a", "phase", phase="body", url="http://a/")
    said.say(2, "fetch:a", "done")
    said.say(3, "fetch:b", "start")
    assert [run.name for run in said.state.active()] == ["fetch:a", "fetch:b"]
    said.state.end("fetch:a", 4, "success")
    said.state.end("fetch:b", 5, "success")
    runs = said.state.runs
    assert [(run.start_s, run.end_s) for run in runs.values()] == [(0, 2), (3, 5)]
    assert runs["fetch:a"].phases[-1].end_s == 2


def test_body_belongs_to_the_last_host() -> None:
    """A body phase without URL belongs to the host of the last connection."""
    said = Said()
    said.say(0, "fetch:a", "start")
    said.say(0, "fetch:a", "phase", phase="connect", url="https://git.example/x")
    said.say(1, "fetch:a", "phase", phase="body")
    said.say(2, "fetch:a", "advance", size=5)
    said.state.end("fetch:a", 3, "success")
    assert said.state.by_host() == {"git.example": (1, 5, 2.0)}


def test_many_up_to_date_tasks_are_counted() -> None:
    """A hundred are listed, as by doit; ten thousand more are counted in the summary."""
    said = Said()
    for number in range(MAX_UP_TO_DATE + 10_000):
        said.state.passed(f"t{number}", "up-to-date")
        said.face.passed(f"t{number}", "up-to-date")
    assert said.text.count("\n") == MAX_UP_TO_DATE + 1
    assert summarize_totals(said.state, 1.0)[0].text == "nothing to do: 10,100 cached; 1.0 s"


def test_a_failure_is_not_repeated() -> None:
    """The summary names the task; the message was printed when it failed."""
    said = Said()
    said.state.end("x", 1, "failed", "PythonAction Error\nTraceback (most recent call last):\n  File\nValueError: no")
    assert [line.text for _, line in summarize_failures(said.state)] == ["failed: x"]


HOSTILE = st.text(st.characters(codec="utf-16", exclude_categories=()), max_size=60) | st.sampled_from(
    ["\x1b]0;x\x07", "::error::x", "\r\n::set-env", "a\u2028b", "\u202e", "##[group]", "\ud800"]
)


@given(name=HOSTILE, message=HOSTILE, ci=st.sampled_from(["", "github", "other"]))
def test_untrusted_text_is_escaped(name: str, message: str, ci: str) -> None:
    """No name or message becomes a control character, the line of another event, or a CI command."""
    said = Said(ci=ci)
    said.say(0, name, "start")
    said.say(1, name, "warn", message=message)
    said.say(1, name, "phase", phase="wait", url=message, seconds=1, reason=message)
    said.say(1, name, "skip", reason=message)
    fail = SimpleNamespace(get_name=lambda: "TaskFailed", get_msg=lambda: message, message=message)
    said.state.end(name, 2, "failed", message)
    said.face.ended(name, "failed", fail, "")
    said.face.finish()
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", said.text) is None
    if ci == "github":
        commands = [line for line in said.text.split("\n") if line.lstrip().startswith(("::", "##["))]
        assert [line.partition(" ")[0].partition("::doit")[0] for line in commands] == [
            "::group",
            "::endgroup::",
            "::error",
        ]


WORDS: dict[str, tuple[Any, dict[Any, str]]] = {
    "count": (lambda number: counted(number, "file"), {0: "0 files", 1: "1 file", 1234: "1,234 files"}),
    "host": (host_of, {"http://a:8/x": "a:8", "file:///x": "files", "https://u:p@h/": "h", "http://[::1": "(unreadable URL)"}),
}  # fmt: skip


@pytest.mark.parametrize("case", WORDS)
def test_words(case: str) -> None:
    """Numbers are shown with few digits and a unit."""
    printed, table = WORDS[case]
    assert {value: printed(value) for value in table} == table
