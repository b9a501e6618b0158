"""State of a run in progress: every task with its phases, bytes, source and outcome.

`RunState` collects events; every renderer (lines, live, JSON) and the run record read it. It prints nothing and reads
no clock: times are the monotonic seconds of the events. Untrusted text is stored as received: renderers escape it.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from tasks_lib.named import NamedTuple
from tasks_lib.network import PLAIN_URL
from tasks_lib.progress import Facts, FailedSource
from tasks_lib.ui.events import Event

#: Phases in which a task only waits or checks: a task with no other phase found an existing result.
IDLE_PHASES: Final = frozenset({"queue", "wait", "verify"})
#: Maximum number of phases kept per task, so that endless retries do not fill the memory.
MAX_PHASES: Final = 64
#: The output of a task that has none, or that has ended.
_NO_FACTS: Final[Facts] = {}
#: Seconds over which the current rate is averaged: long enough to be steady, short enough to show a stall.
_WINDOW_S: Final = 5.0


class _TransferRate:
    """Number of bytes received, and their recent rate."""

    __slots__ = ("_marks", "_moved_s", "_size")

    def __init__(self, at_s: float) -> None:
        self._size, self._moved_s = 0, at_s
        self._marks = [(at_s, 0)]  # (time, size), two a second, for the last seconds

    def add(self, size: int, at_s: float) -> None:
        """Add `size` received bytes."""
        self._size += size
        self._moved_s = at_s
        if at_s - self._marks[-1][0] >= _WINDOW_S / 10:
            self._marks = [*self._marks[-11:], (at_s, self._size)]

    def rate(self, now: float) -> float:
        """Return bytes per second over the last seconds, 0 if none were received."""
        if now - self._moved_s >= _WINDOW_S:
            return 0.0
        before = [mark for mark in self._marks if mark[0] <= now - _WINDOW_S]
        at_s, size = before[-1] if before else self._marks[0]
        return (self._size - size) / (now - at_s) if now > at_s else 0.0


class Phase:
    """One phase: `start_s` to `end_s` (0 while in progress), `size` bytes done of `total` (0: unknown).

    `store` is the name of the shared store that is asked, "" for an origin or a mirror.
    """

    __slots__ = ("end_s", "name", "resumed", "size", "start_s", "store", "total", "url")

    def __init__(
        self, name: str, start_s: float, url: str = "", total: int = 0, resumed: int = 0, store: str = ""
    ) -> None:
        self.name, self.start_s, self.end_s, self.url, self.store = name, start_s, 0.0, url, store
        self.size, self.total, self.resumed = 0, total, resumed


class TaskRun:
    """One execution of one task; `outcome` is "" while in progress.

    `done_s` is the time when its worker finished (0: unknown), which is before doit processed the result.
    """

    __slots__ = (
        "_flow", "done_s", "end_s", "failed_sources", "message", "name", "outcome",
        "output", "phases", "ready_s", "start_s", "warnings", "worker",
    )  # fmt: skip

    def __init__(self, name: str, ready_s: float, start_s: float, worker: str) -> None:
        self.name, self.ready_s, self.start_s, self.worker = name, ready_s, start_s, worker
        self.done_s, self.end_s, self.outcome, self.message = 0.0, 0.0, "", ""
        self.phases: list[Phase] = []
        self.warnings: tuple[str, ...] = ()
        self.failed_sources: tuple[FailedSource, ...] = ()
        self.output = _NO_FACTS  # `path`, `sha256`, `size` and `tree`, as far as the task has them; until its end
        self._flow: _TransferRate | None = None  # of the current phase

    @property
    def phase(self) -> Phase | None:
        """The current phase."""
        return self.phases[-1] if self.phases else None

    @property
    def source(self) -> Phase | None:
        """The last body phase, which delivered the bytes; None if there was none."""
        for phase in reversed(self.phases):
            if phase.name == "body":
                return phase
        return None

    @property
    def worked(self) -> bool:
        """Whether the task did more than find an existing result."""
        return any(phase.name not in IDLE_PHASES for phase in self.phases)

    @property
    def fetched_bytes(self) -> int:
        """Bytes received from sources, failed attempts included."""
        return sum(phase.size for phase in self.phases if phase.name == "body")

    def rate(self, now: float) -> float:
        """Return bytes per second of the current phase over the last seconds, 0 if none were received."""
        return self._flow.rate(now) if self._flow is not None else 0.0

    def on_event(self, event: Event) -> None:
        """Record an event that follows `start`."""
        name = event.name
        if name == "phase":
            self._begin(str(event.facts["phase"]), event.at_s, event.facts)
        elif name == "advance":
            self._advance(int(event.facts["size"]), event.at_s)
        elif name == "done":
            self.done_s = event.at_s
        elif name == "output":
            self.output = event.facts
        elif name == "warn":
            self.warnings += (str(event.facts["message"]),)
            if "role" in event.facts:
                self.failed_sources += (FailedSource(*(str(event.facts[key]) for key in ("role", "url", "reason"))),)
        elif name == "skip":
            self.outcome, self.message = "skipped", str(event.facts["reason"])

    def _begin(self, name: str, at_s: float, facts: Facts) -> None:
        before = self.phases[-1] if self.phases else None
        known = facts.get
        url = known("url", "")
        if before is not None:
            before.end_s = before.end_s or at_s
            if name == "body" and "url" not in facts:  # git and hg report the URL in the phase `connect`
                url = before.url
            if len(self.phases) >= MAX_PHASES:
                self.phases.pop(1)
        total, resumed = int(known("total", 0)), int(known("resumed", 0))
        self.phases.append(Phase(name, at_s, str(url), total, resumed, str(known("store", ""))))
        self._flow = None

    def _advance(self, size: int, at_s: float) -> None:
        if not self.phases:
            return
        phase = self.phases[-1]
        phase.size += size
        if self._flow is None:
            self._flow = _TransferRate(phase.start_s)
        self._flow.add(size, at_s)

    def finish(self, at_s: float, outcome: str, message: str) -> None:
        """End the run, at `done_s` if known, else at `at_s`."""
        self.end_s, self.outcome, self.message = self.done_s or at_s, outcome, message
        if self.phases:
            self.phases[-1].end_s = self.phases[-1].end_s or self.end_s
        self._flow, self.output = None, _NO_FACTS  # saves memory: ten thousand runs are kept to the end


def host_of(url: str) -> str:
    """Return the host of a URL, "files" for a local one."""
    if plain := re.fullmatch(PLAIN_URL, url):
        return f"{plain[2]}:{plain[3]}" if plain[3] else plain[2]
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        return (f"{host}:{parts.port}" if parts.port else host) or "files"
    except ValueError:
        return "(unreadable URL)"


class Pushed(NamedTuple):
    """What a run wrote to its stores: blobs, bytes, and the reasons why something was not written."""

    files: int = 0
    size: int = 0
    problems: tuple[str, ...] = ()


class RunState:
    """State of one run; thread-safe."""

    def __init__(self) -> None:
        self.begun_s = 0.0
        self.runs: dict[str, TaskRun] = {}
        self.counts: Counter[str] = Counter()
        self.seen: dict[str, str] = {}  # outcome of tasks that did not run
        self.notes: dict[str, str] = {}  # what is not confirmed about the output of some of them
        self.outputs: dict[str, Facts] = {}  # of tasks that ended, if a renderer shows it
        self.errors: list[str] = []  # doit's own errors
        self.pushed = Pushed()
        self.tasks: Mapping[str, Any] = {}
        self.selected: tuple[str, ...] = ()
        self._active: dict[str, TaskRun] = {}
        self._ready: dict[str, float] = {}
        self._left: dict[str, int] | None = None  # size of each wanted task that has not ended
        self._left_bytes = self._had_bytes = 0
        self._flow = _TransferRate(0.0)  # of all downloads
        self._lock = threading.Lock()

    def begin(self, tasks: Mapping[str, Any], selected: tuple[str, ...], at_s: float) -> None:
        """Record the start of the run: doit's tasks by name, and the selected ones."""
        self.tasks, self.selected, self.begun_s = tasks, selected, at_s
        self._flow = _TransferRate(at_s)

    def ready(self, name: str, at_s: float) -> None:
        """Record that doit checks a task: its dependencies are done."""
        self._ready.setdefault(name, at_s)

    def passed(self, name: str, outcome: str) -> None:
        """Record the outcome of a task that did not run: up-to-date, ignored, not-run."""
        self.seen[name] = outcome
        self.counts[outcome] += 1
        self._settle(name)

    def add_up_to_date(self, names: Iterable[str]) -> None:
        """Record many tasks that are up to date."""
        before = len(self.seen)
        self.seen.update(dict.fromkeys(names, "up-to-date"))
        self.counts["up-to-date"] += len(self.seen) - before

    def _settle(self, name: str) -> None:
        if self._left is not None:
            self._left_bytes -= self._left.pop(name, 0)

    def on_event(self, event: Event) -> None:
        """Record an event of a running task."""
        with self._lock:
            if event.name == "start":
                ready = self._ready.pop(event.task, event.at_s)
                began = TaskRun(event.task, ready, event.at_s, event.worker)
                self.runs[event.task] = self._active[event.task] = began
                return
            run = self.runs.get(event.task)
            if run is None:
                return
            run.on_event(event)
            if event.name == "advance" and run.phases and run.phases[-1].name == "body":
                self._flow.add(int(event.facts["size"]), event.at_s)

    def end(self, name: str, at_s: float, outcome: str, message: str = "") -> str:
        """Record the end of a task; return its final outcome.

        The outcome is "failed", "stopped" or "success"; success becomes fetched, made, adopted or skipped.
        """
        with self._lock:
            run = self.runs.get(name)
            if run is None and outcome == "not-run":
                self.passed(name, outcome)
                return outcome
            if run is None:  # doit could not start it
                run = self.runs[name] = TaskRun(name, at_s, at_s, "")
            if outcome == "success":
                outcome, message = run.outcome or _success_outcome(run), run.message
            run.finish(at_s, outcome, message)
            self._active.pop(name, None)
            self.counts[outcome] += 1
            self._settle(name)
            if outcome == "fetched" and run.source is not None:
                self._had_bytes += run.source.size + run.source.resumed
            return outcome

    def stop(self, at_s: float) -> list[str]:
        """End all running tasks as stopped, because no more events follow; return their names."""
        left = [run.name for run in self.active()]
        for name in left:
            self.end(name, at_s, "stopped")
        return left

    def active(self) -> list[TaskRun]:
        """Return the running tasks in start order."""
        with self._lock:
            return list(self._active.values())

    def ended(self, *outcomes: str) -> Iterator[TaskRun]:
        """Yield the runs with one of these outcomes, in start order."""
        with self._lock:
            runs = list(self.runs.values())
        return (run for run in runs if run.end_s and run.outcome in outcomes)

    def wanted(self) -> Iterator[str]:
        """Yield the names of the selected tasks and all their dependencies, without groups."""
        left, known = list(self.selected), set(self.selected)
        while left:
            name = left.pop()
            task = self.tasks.get(name)
            needed = {*task.task_dep, *task.setup_tasks} - known if task is not None else set()
            known |= needed
            left += needed
            if task is not None and task.actions:
                yield name

    def _wanted_sizes(self) -> dict[str, int]:
        if self._left is None:
            ended = {name for name, run in self.runs.items() if run.end_s} | self.seen.keys()
            sizes = {name: _size_of(self.tasks[name]) for name in self.wanted() if name not in ended}
            self._left, self._left_bytes = sizes, sum(sizes.values())
        return self._left

    def waiting(self) -> int:
        """Return the number of tasks that have not started."""
        with self._lock:
            return len(self._wanted_sizes()) - len(self._active)

    def bytes(self) -> tuple[int, int]:
        """Return the bytes fetched so far, and the expected total as far as sizes are known."""
        with self._lock:
            self._wanted_sizes()
            bodies = [run.source for run in self._active.values()]
            have = self._had_bytes + sum(body.size + body.resumed for body in bodies if body is not None)
            return have, max(have, self._had_bytes + self._left_bytes)

    def rate(self, now: float) -> float:
        """Return the recent bytes per second of all sources together, without resumed bytes."""
        with self._lock:
            return self._flow.rate(now)

    def by_host(self) -> dict[str, tuple[int, int, float]]:
        """Return files, bytes and seconds of each host, longest time first."""
        found: dict[str, tuple[int, int, float]] = {}
        for run in self.ended("fetched"):
            for phase in run.phases:
                if phase.name != "body" or not phase.url or phase.store:
                    continue
                host = host_of(phase.url)
                files, size, seconds = found.get(host, (0, 0, 0.0))
                last = phase is run.source
                took = seconds + phase.end_s - phase.start_s
                found[host] = (files + last, size + phase.size, took)
        return dict(sorted(found.items(), key=lambda item: -item[1][2]))

    def by_store(self) -> dict[str, tuple[int, int]]:
        """Return files and bytes that each shared store provided, most files first."""
        found: dict[str, tuple[int, int]] = {}
        for run in self.ended("fetched", "adopted", "made"):
            source = run.source
            if source is not None and source.store:
                files, size = found.get(source.store, (0, 0))
                found[source.store] = files + 1, size + source.size + source.resumed
        return dict(sorted(found.items(), key=lambda item: -item[1][0]))

    def by_failed_source(self) -> dict[tuple[str, str], list[str]]:
        """Return role and host of the sources that failed for fetched files -> the reason of each file's failure."""
        found: dict[tuple[str, str], list[str]] = {}
        for run in self.ended("fetched"):
            for source in run.failed_sources:
                found.setdefault((source.role, host_of(source.url)), []).append(source.reason)
        return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def _size_of(task: Any) -> int:
    size = (task.meta or {}).get("size")
    return size if isinstance(size, int) else 0


def _success_outcome(run: TaskRun) -> str:
    if run.name.startswith("fetch:"):
        is_adopted = any(phase.name == "adopt" for phase in run.phases)
        return "adopted" if is_adopted or not run.worked else "fetched"
    is_shared = run.source is not None and bool(run.source.store)
    if run.name.startswith(("repack:", "toolchain:")) and (is_shared or not run.worked):
        return "adopted"
    return "made"
