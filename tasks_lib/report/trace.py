"""Render a record as a Chrome trace, for Perfetto and chrome://tracing. Pure.

Trace viewers drop slices of one thread that overlap without nesting. Therefore the phases of a task are nested in the
slice of the task and follow each other. A phase with no duration is left out: viewers would nest the next phase in it.

Source: "Trace Event Format", the JSON object form with complete (`X`), counter (`C`) and metadata (`M`) events;
timestamps and durations in microseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, Final

from tasks_lib.report.record import RunRecord

#: Process id, and thread id of the main thread: viewers show the thread with the id of the process as the main one.
_MAIN: Final = 1


def render_trace(record: RunRecord) -> str:
    """Return the trace as text."""
    document = {
        "displayTimeUnit": "ms",
        "otherData": {"program": "doit-fetch", "version": record["version"], "started": record["started"]},
        "traceEvents": [*_threads(record), *_slices(record), *_counters(record)],
    }
    return json.dumps(document)


def _threads(record: RunRecord) -> Iterator[dict[str, Any]]:
    yield {"ph": "M", "pid": _MAIN, "tid": _MAIN, "name": "process_name", "args": {"name": "doit"}}
    for thread, name in enumerate(("main", *record["workers"]), _MAIN):
        yield {"ph": "M", "pid": _MAIN, "tid": thread, "name": "thread_name", "args": {"name": name}}
        yield {"ph": "M", "pid": _MAIN, "tid": thread, "name": "thread_sort_index", "args": {"sort_index": thread}}


def _slices(record: RunRecord) -> Iterator[dict[str, Any]]:
    for task in record["tasks"]:
        if "start" not in task:
            continue
        place = {"ph": "X", "pid": _MAIN, "tid": _MAIN + 1 + task["worker"]}  # worker -1: the task did not start
        facts = {key: task[key] for key in ("outcome", "artifact", "size", "sha256", "message") if key in task}
        queued = {"queued_ms": round(task["start"] - task["ready"], 1)}
        kind = task["name"].partition(":")[0]
        at, ends = _us(task["start"]), _us(task["end"])
        yield place | {"name": task["name"], "cat": kind, "args": facts | queued, "ts": at, "dur": ends - at}
        for name, start, end, *more in task["phases"]:
            begins, at = min(max(at, _us(start)), ends), min(max(at, _us(end)), ends)
            if at > begins:
                arguments = dict(zip(("bytes", "url"), more, strict=False))
                yield place | {"name": name, "cat": "phase", "args": arguments, "ts": begins, "dur": at - begins}


def _us(ms: float) -> int:
    return round(ms * 1000)


def _counters(record: RunRecord) -> Iterator[dict[str, Any]]:
    """Yield counters of running tasks and of the download rate."""
    edges: list[tuple[float, float]] = sorted(
        edge for task in record["tasks"] if "start" in task for edge in ((task["start"], 1), (task["end"], -1))
    )
    yield from _counter("tasks", "running", edges)
    rates = []
    for task in record["tasks"]:
        for name, start, end, *more in task.get("phases", ()):
            if name == "body" and more and end > start:
                rate = more[0] / 1024 / (end - start) * 1000
                rates += [(start, rate), (end, -rate)]
    yield from _counter("downloads", "KiB/s", sorted(rates))


def _counter(name: str, unit: str, edges: list[tuple[float, float]]) -> Iterator[dict[str, Any]]:
    for (at, _), value in zip(edges, accumulate(change for _, change in edges), strict=True):
        yield {"ph": "C", "pid": _MAIN, "name": name, "ts": _us(at), "args": {unit: round(max(0.0, value), 1)}}
