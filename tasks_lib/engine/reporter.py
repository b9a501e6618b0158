"""Reporters: show doit's notifications and the events of tasks during a run, and a summary at the end.

`Reporter` implements doit's interface; it updates a `RunState`, calls one `Renderer` (lines, live, JSON) and the event
log, and writes the run record for `doit report`. Keep it fast to import: doit loads it in every run.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import active_children
from pathlib import Path
from typing import Any, ClassVar

from doit.exceptions import UnmetDependency

from tasks_lib.report import record
from tasks_lib.session import current_session
from tasks_lib.ui.events import BUS, Event, EventLog
from tasks_lib.ui.json_output import JsonRenderer, error_document
from tasks_lib.ui.lines import MAX_UP_TO_DATE, create_renderer
from tasks_lib.ui.output import Output, OutputSettings, Renderer
from tasks_lib.ui.run_state import Pushed, RunState

__all__ = ["JsonReporter", "LinesReporter", "OutputSettings", "QuietReporter", "Reporter"]


class Reporter:
    """doit's reporter: live on a terminal, line by line elsewhere."""

    desc = "live on a terminal, one line per event elsewhere; a summary"
    kind: ClassVar[str] = ""

    def __init__(self, outstream: Any, options: object = None) -> None:
        del options  # doit's options for failures: the message of each is always printed
        session = current_session()  # doit creates reporters with two arguments only
        self.output_settings = session.output_settings if session is not None else OutputSettings()
        self._state = RunState()
        self._face = self._made(Output(outstream))
        self._ticker = _Ticker(self._face)
        self._log: EventLog | None = None

    def _made(self, out: Output) -> Renderer:
        return create_renderer(self.kind or self.output_settings.progress, out, self._state, self.output_settings)

    def initialize(self, tasks: Any, selected_tasks: Any) -> None:
        """Start the display; doit has loaded its tasks and is about to run them."""
        self._state.begin(tasks, tuple(selected_tasks or ()), time.monotonic())
        BUS.listen(self._state.on_event, self._face.on_event)
        self._face.begin()
        if self.output_settings.events:
            self._log = EventLog(self.output_settings.events, self._warn)
            BUS.listen(self._state.on_event, self._face.on_event, self._log.on_event)
            self._log.begin(sum(map(_is_shown, tasks.values())))

    def _warn(self, message: str) -> None:
        self._face.on_event(Event("doit", "warn", time.monotonic(), "", {"message": message}))

    def get_status(self, task: Any) -> None:
        """Record that doit checks whether a task is up to date."""
        self._state.ready(task.name, time.monotonic())

    def execute_task(self, task: Any) -> None:
        """Report that a worker starts a task, unless it is a group or hidden."""
        if _is_shown(task):
            self._ticker.start()
            BUS.say(task.name, "start", {})

    def add_success(self, task: Any) -> None:
        """Report that a task succeeded."""
        if _is_shown(task):
            # events of a task in another process (`-P process`) do not arrive here: its outcome is only "made"
            unheard = not self._state.runs[task.name].phases and bool(active_children())
            self._end(task, "made" if unheard else "success", None)

    def add_failure(self, task: Any, fail: Any) -> None:
        """Report that a task failed, or could not run because another one failed."""
        outcome = "not-run" if isinstance(fail, UnmetDependency) else "failed"
        if outcome == "not-run" and not _is_shown(task):
            return
        if BUS.stopping and outcome == "failed" and "was asked to stop" in fail.message:
            outcome = "stopped"
        self._end(task, outcome, fail)

    def _end(self, task: Any, outcome: str, fail: Any) -> None:
        message = str(fail.get_msg()).strip() if fail is not None else ""
        output = self._state.runs[task.name].output if task.name in self._state.runs else {}
        outcome = self._state.end(task.name, time.monotonic(), outcome, message)
        BUS.say(task.name, "end", {"outcome": outcome, "message": message, **output})
        self._face.ended(task.name, outcome, fail, _unseen_output(task) if outcome == "failed" else "")

    def standing(self, names: Sequence[str], notes: Mapping[str, str]) -> None:
        """Report tasks that are known to be up to date without a check of each; `notes` are what is not confirmed."""
        self._state.notes.update(notes)
        shown = names if self._log is not None else names[: MAX_UP_TO_DATE + 1]
        for name in shown:
            self._pass(name, "up-to-date")
        self._state.add_up_to_date(names[len(shown) :])

    def skip_uptodate(self, task: Any) -> None:
        """Report that a task is up to date."""
        if _is_shown(task):
            self._pass(task.name, "up-to-date")

    def skip_ignore(self, task: Any) -> None:
        """Report that a task is ignored after `doit ignore`."""
        self._pass(task.name, "ignored")

    def _pass(self, name: str, outcome: str) -> None:
        self._state.passed(name, outcome)
        if self._log is not None:
            BUS.say(name, "end", {"outcome": outcome})
        self._face.passed(name, outcome)

    def stores(self, pushed: Pushed) -> None:
        """Record what the run wrote to its stores."""
        self._state.pushed = pushed

    def cleanup_error(self, exception: Any) -> None:
        """Record that a teardown failed."""
        self._state.errors.append(str(exception.get_msg()))

    def runtime_error(self, msg: str) -> None:
        """Record an error of doit itself; the summary shows it."""
        self._state.errors.append(msg)

    def teardown_task(self, task: object) -> None:
        """Do nothing: teardowns are not shown."""

    def complete_run(self) -> None:
        """End the run, for whatever reason: write the run record and the summary."""
        self._ticker.stop()
        for name in self._state.stop(time.monotonic()):
            BUS.say(name, "end", {"outcome": "stopped"})
        self._record()
        if self._log is not None:
            self._log.finish(time.monotonic(), self._state.counts)
        self._face.finish()
        BUS.listen()  # the listeners hold every task, and so the files that a dodo.py leaves open

    def _record(self) -> None:
        """Write the run record for `doit report`; a run that did nothing keeps the previous record."""
        path = self.output_settings.record
        if path is None or not self._state.runs:
            return
        try:
            record.save(record.build_record(self._state, now_s=time.monotonic(), ended_at=time.time()), path)
        except OSError as error:
            self._warn(f"cannot write the run record {path}: {error.strerror}; `doit report` will not show this run")


class JsonReporter(Reporter):
    """One JSON document; replaces doit's reporter, which fails with threads."""

    desc = "one JSON document at the end"
    #: Whether the document of this run was written.
    document_written: ClassVar[bool] = False

    def _made(self, out: Output) -> Renderer:
        return JsonRenderer(out, self._state)

    def skip_uptodate(self, task: Any) -> None:
        """Report that a task is up to date, what is not confirmed about it, and what it made."""
        from tasks_lib.graph import actions, checks  # slow to import, and only this format needs them

        if note := checks.note_of(task):
            self._state.notes[task.name] = note
        self._state.outputs[task.name] = actions.output_of(task)
        super().skip_uptodate(task)

    def complete_run(self) -> None:
        """Write the document."""
        super().complete_run()
        JsonReporter.document_written = True


class LinesReporter(Reporter):
    """One line per event, also on a terminal."""

    desc = "one line per event, and a summary"
    kind: ClassVar[str] = "lines"


class QuietReporter(Reporter):
    """Warnings and failures only."""

    desc = "warnings and failures only"
    kind: ClassVar[str] = "quiet"


def _is_shown(task: Any) -> bool:
    return bool(task.actions) and not task.name.startswith("_")


def _unseen_output(task: Any) -> str:
    """Return the captured output of a failed task that was not shown: it may say why a test failed.

    Source: doit 0.37, `ConsoleReporter.complete_run`.
    """
    kept = [("err", 1), ("out", 2)] if task.executed else []
    unseen = [name for name, shown_from in kept if (task.verbosity or 0) < shown_from]
    return "".join(getattr(action, name) or "" for name in unseen for action in task.actions)


class _Ticker:
    """Thread that calls a renderer's `beat` regularly; started with the first task that runs."""

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


@contextlib.contextmanager
def shown(params: Any) -> Iterator[None]:
    """Select the reporter in doit's `params`; write the JSON document if an error ends the run before it does."""
    if params["quiet"]:
        params["reporter"] = "quiet"
    JsonReporter.document_written = False
    try:
        yield
    except BaseException as error:
        if params["reporter"] == "json" and not JsonReporter.document_written:
            text = json.dumps(error_document(str(error) or type(error).__name__)) + "\n"
            _write(text, params["outfile"])
        raise


def _write(text: str, outfile: Any) -> None:
    if isinstance(outfile, str):
        with contextlib.suppress(OSError):
            Path(outfile).write_text(text, "utf-8")
    else:
        Output(sys.stdout).write(text)
