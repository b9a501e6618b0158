"""JSON document about a run, the only output on stdout: doit's own fields and additional ones.

Anything that this process or a child writes to stdout during the run goes to stderr or into the document.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from datetime import UTC, datetime
from io import StringIO
from typing import Any, Final

from tasks_lib.ui.events import Event
from tasks_lib.ui.output import Output, Renderer
from tasks_lib.ui.run_state import RunState, TaskRun

#: Version of the format; increase it when readers of the old format would misread the new one.
FORMAT: Final = 1
#: doit's names for the result of a task. Source: doit 0.37, reporter.JsonReporter.
_RESULTS: Final = {
    "up-to-date": "up-to-date",
    "ignored": "ignore",
    "failed": "fail",
    "not-run": "fail",
    "stopped": "fail",
}
#: doit's separator between the output of two actions. Source: as above.
_SEPARATOR: Final = "\n<------------------------------------------------>\n"


def error_document(reason: str) -> dict[str, Any]:
    """Return the document of a run that could not start."""
    summary = {"counts": {}, "bytes": 0, "elapsed_s": 0.0, "hosts": [], "stores": [], "failed_sources": []}
    return {"format": FORMAT, "tasks": [], "out": "", "err": reason, "summary": summary}


class _Text(StringIO):
    """In-memory stream; a child process that needs a file gets the descriptor, which leads to stderr."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor


class JsonRenderer(Renderer):
    """Renderer that writes nothing until the end, then one document, whatever happened."""

    interval_s = 3600.0

    def __init__(self, out: Output, state: RunState) -> None:
        self._out, self._state = out, state
        self._clock = (time.time(), time.monotonic())
        self._streams: tuple[Any, Any] = (None, None)
        self._texts = (_Text(1), _Text(2))
        self._stdout = -1

    def begin(self) -> None:
        """Redirect stdout and stderr, so that stdout contains only the document."""
        self._streams = (sys.stdout, sys.stderr)
        sys.stdout, sys.stderr = self._texts
        if self._out.descriptor == 1:
            with contextlib.suppress(OSError):
                self._stdout = os.dup(1)
                os.dup2(2, 1)

    def on_event(self, event: Event) -> None:
        """Keep what a task made; the run state records the other events."""
        if event.name == "output":
            self._state.outputs[event.task] = event.facts

    def finish(self) -> None:
        """Restore the streams and write the document."""
        if self._streams != (None, None):
            sys.stdout, sys.stderr = self._streams
        if self._stdout >= 0:
            os.dup2(self._stdout, 1)
            os.close(self._stdout)
        now = time.monotonic()
        out, err = (text.getvalue() for text in self._texts)
        document = {
            "format": FORMAT,
            "tasks": [*map(self._run, self._state.runs.values()), *map(self._seen, self._state.seen.items())],
            "out": out,
            "err": err + "\n".join(self._state.errors),
            "summary": {
                "counts": dict(+self._state.counts),
                "bytes": sum(run.fetched_bytes for run in self._state.runs.values()),
                "elapsed_s": round(now - self._state.begun_s, 4),
                "hosts": [
                    {"host": host, "files": files, "bytes": size, "seconds": round(seconds, 4)}
                    for host, (files, size, seconds) in self._state.by_host().items()
                ],
                "stores": [
                    {"store": store, "files": files, "bytes": size}
                    for store, (files, size) in self._state.by_store().items()
                ],
                "pushed": {
                    "files": self._state.pushed.files,
                    "bytes": self._state.pushed.size,
                    "problems": list(self._state.pushed.problems),
                },
                "failed_sources": [
                    {"role": role, "host": host, "files": len(reasons)}
                    for (role, host), reasons in self._state.by_failed_source().items()
                ],
            },
        }
        self._out.write(json.dumps(document) + "\n")

    def _run(self, run: TaskRun) -> dict[str, Any]:
        outcome, end_s = run.outcome or "stopped", run.end_s or time.monotonic()
        wall, monotonic = self._clock
        started = datetime.fromtimestamp(wall + run.start_s - monotonic, UTC)
        source = run.source
        return (
            self._facts(run.name, outcome, run.message)
            | self._output(run.name)
            | {
                "started": started.strftime("%Y-%m-%d %H:%M:%S.%f"),
                "elapsed": end_s - run.start_s,
                "worker": run.worker,
                "bytes": run.fetched_bytes,
                "source": source.url if source else None,
                "store": source.store or None if source else None,
                "warnings": run.warnings,
                "phases": [
                    {"phase": one.name, "seconds": round((one.end_s or end_s) - one.start_s, 6), "bytes": one.size}
                    | ({"url": one.url} if one.url else {})
                    for one in run.phases
                ],
            }
        )

    def _seen(self, seen: tuple[str, str]) -> dict[str, Any]:
        note = self._state.notes.get(seen[0])
        return (
            self._facts(seen[0], seen[1], "")
            | self._output(seen[0])
            | {
                "started": None,
                "elapsed": None,
                "warnings": [note] if note else [],
            }
        )

    def _output(self, name: str) -> dict[str, Any]:
        output = self._state.outputs.get(name, {})
        return {key: output.get(key) for key in ("path", "sha256", "size", "tree")}

    def _facts(self, name: str, outcome: str, message: str) -> dict[str, Any]:
        actions = getattr(self._state.tasks.get(name), "actions", ())
        return {
            "name": name,
            "result": _RESULTS.get(outcome, "success"),
            "outcome": outcome,
            "out": _SEPARATOR.join(action.out for action in actions if action.out),
            "err": _SEPARATOR.join(action.err for action in actions if action.err),
            "error": message or None,
        }
