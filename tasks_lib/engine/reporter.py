"""Reporters: what doit tells about its tasks and what the tasks say, shown while it happens and summed up at the end.

`Reporter` is doit's interface; it notes everything in a `RunState`, tells one `Renderer` (lines, live, JSON) and the
event log, and leaves the record of the run for `doit report`. Light to import: doit loads it at every run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from multiprocessing import active_children
from typing import Any, ClassVar

from doit.exceptions import UnmetDependency

from tasks_lib.session import current_session
from tasks_lib.ui.event_log import EventLog
from tasks_lib.ui.events import BUS, Event
from tasks_lib.ui.json_output import JsonRenderer
from tasks_lib.ui.lines import NAMED
from tasks_lib.ui.output import Output, TerminalInfo
from tasks_lib.ui.renderer import Renderer, renderer_for
from tasks_lib.ui.run_state import RunState

__all__ = ["JsonReporter", "LinesReporter", "QuietReporter", "Reporter", "TerminalInfo"]


class Reporter:
    """doit's reporter: live on a terminal, line by line elsewhere."""

    desc = "live on a terminal, one line per event elsewhere; a summary with every failure"
    kind: ClassVar[str] = ""

    def __init__(self, outstream: Any, options: object = None) -> None:
        del options  # failures are always repeated at the end
        found = current_session()  # doit makes reporters with two arguments only
        self.surroundings = found.surroundings if found is not None else TerminalInfo()
        self._ledger = RunState()
        self._face = self._made(Output(outstream))
        self._ticker = _Ticker(self._face)
        self._log: EventLog | None = None

    def _made(self, out: Output) -> Renderer:
        return renderer_for(self.kind or self.surroundings.progress, out, self._ledger, self.surroundings)

    def initialize(self, tasks: Any, selected_tasks: Any) -> None:
        """Doit has loaded its tasks and is about to run."""
        self._ledger.begin(tasks, tuple(selected_tasks or ()), time.monotonic())
        BUS.listen(self._ledger.on_event, self._face.on_event)
        self._face.begin()
        if self.surroundings.events:
            self._log = EventLog(self.surroundings.events, self._warn)
            BUS.listen(self._ledger.on_event, self._face.on_event, self._log.on_event)
            self._log.begin(sum(map(_shown, tasks.values())))

    def _warn(self, message: str) -> None:
        self._face.on_event(Event("doit", "warn", time.monotonic(), "", {"message": message}))

    def get_status(self, task: Any) -> None:
        """Doit looks whether a task is up to date."""
        self._ledger.ready(task.name, time.monotonic())

    def execute_task(self, task: Any) -> None:
        """A worker starts a task; groups and hidden tasks are not shown."""
        if _shown(task):
            self._ticker.start()
            BUS.say(task.name, "start", {})

    def add_success(self, task: Any) -> None:
        """A task ended well."""
        if _shown(task):
            # what a task of another process (`-P process`) says is not heard here: it did something, who knows what
            unheard = not self._ledger.runs[task.name].phases and bool(active_children())
            self._end(task, "made" if unheard else "success", None)

    def add_failure(self, task: Any, fail: Any) -> None:
        """A task failed, or could not run because another one failed."""
        outcome = "not-run" if isinstance(fail, UnmetDependency) else "failed"
        if outcome == "not-run" and not _shown(task):
            return
        if BUS.stopping and outcome == "failed" and "was asked to stop" in fail.message:
            outcome = "stopped"
        self._end(task, outcome, fail)

    def _end(self, task: Any, outcome: str, fail: Any) -> None:
        message = str(fail.get_msg()).strip() if fail is not None else ""
        outcome = self._ledger.end(task.name, time.monotonic(), outcome, message)
        BUS.say(task.name, "end", {"outcome": outcome, "message": message})
        self._face.ended(task.name, outcome, fail, _kept(task) if outcome == "failed" else "")

    def standing(self, names: Sequence[str]) -> None:
        """These tasks are known to be up to date without a look at each."""
        shown = names if self._log is not None else names[: NAMED + 1]
        for name in shown:
            self._pass(name, "up-to-date")
        self._ledger.stand(names[len(shown) :])

    def skip_uptodate(self, task: Any) -> None:
        """A task is up to date."""
        if _shown(task):
            self._pass(task.name, "up-to-date")

    def skip_ignore(self, task: Any) -> None:
        """A task is ignored because the user said so."""
        self._pass(task.name, "ignored")

    def _pass(self, name: str, outcome: str) -> None:
        self._ledger.passed(name, outcome)
        if self._log is not None:
            BUS.say(name, "end", {"outcome": outcome})
        self._face.passed(name, outcome)

    def cleanup_error(self, exception: Any) -> None:
        """A teardown failed."""
        self._ledger.errors.append(str(exception.get_msg()))

    def runtime_error(self, msg: str) -> None:
        """Doit itself could not go on; told at the end."""
        self._ledger.errors.append(msg)

    def teardown_task(self, task: object) -> None:
        """Nothing is said about teardowns."""

    def complete_run(self) -> None:
        """The run is over, whatever the reason."""
        self._ticker.stop()
        for name in self._ledger.stop(time.monotonic()):
            BUS.say(name, "end", {"outcome": "stopped"})
        self._record()
        if self._log is not None:
            self._log.finish(time.monotonic(), self._ledger.counts)
        self._face.finish()

    def _record(self) -> None:
        """Leave the record of the run for `doit report`; a run in which nothing was done leaves the one before."""
        path = self.surroundings.record
        if path is None or not self._ledger.runs:
            return
        from tasks_lib.report import record  # needed only here, and it needs the ledger

        try:
            record.save(record.recorded(self._ledger, now_s=time.monotonic(), ended_at=time.time()), path)
        except OSError as error:
            self._warn(f"the record {path} cannot be written: {error.strerror}; `doit report` will not show this run")


class JsonReporter(Reporter):
    """One document; in place of doit's, which dies of threads."""

    desc = "one JSON document at the end"
    #: Whether the document of this run was written.
    spoke: ClassVar[bool] = False

    def _made(self, out: Output) -> Renderer:
        return JsonRenderer(out, self._ledger)

    def complete_run(self) -> None:
        """Write the document."""
        super().complete_run()
        JsonReporter.spoke = True


class LinesReporter(Reporter):
    """Line by line even on a terminal."""

    desc = "one line per event, and a summary with every failure"
    kind: ClassVar[str] = "lines"


class QuietReporter(Reporter):
    """Warnings and failures only."""

    desc = "warnings and failures only"
    kind: ClassVar[str] = "quiet"


def _shown(task: Any) -> bool:
    return bool(task.actions) and not task.name.startswith("_")


def _kept(task: Any) -> str:
    """Return what a failed task wrote and nobody saw: a test that fails says there why.

    Source: doit 0.37, `ConsoleReporter.complete_run`.
    """
    kept = [("err", 1), ("out", 2)] if task.executed else []
    unseen = [name for name, shown_from in kept if (task.verbosity or 0) < shown_from]
    return "".join(getattr(action, name) or "" for name in unseen for action in task.actions)


class _Ticker:
    """A thread that lets a face see time pass; started with the first task that runs."""

    def __init__(self, face: Renderer) -> None:
        self._face = face
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
        self._lock = threading.Lock()

    def start(self) -> None:
        with self._lock:
            if self._thread.ident is None:
                self._thread.start()

    def stop(self) -> None:
        self._done.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=2)

    def _run(self) -> None:
        while not self._done.wait(self._face.interval_s):
            self._face.beat(time.monotonic())
