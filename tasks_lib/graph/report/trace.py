"""A record as a Chrome trace, for Perfetto and chrome://tracing. Pure.

Source: "Trace Event Format", the JSON object form with complete (`X`), counter (`C`) and metadata (`M`) events;
timestamps and durations in microseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from tasks_lib.graph.report.record import Record


def trace(record: Record) -> str:
    """Return the trace as text."""
    document = {
        "displayTimeUnit": "ms",
        "otherData": {"program": "doit-fetch", "version": record["version"], "started": record["started"]},
        "traceEvents": [*_threads(record), *_slices(record), *_counters(record)],
    }
    return json.dumps(document)


def _threads(record: Record) -> Iterator[dict[str, Any]]:
    yield {"ph": "M", "pid": 1, "tid": 0, "name": "process_name", "args": {"name": "doit"}}
    for number, worker in enumerate(record["workers"], 1):
        yield {"ph": "M", "pid": 1, "tid": number, "name": "thread_name", "args": {"name": worker}}
        yield {"ph": "M", "pid": 1, "tid": number, "name": "thread_sort_index", "args": {"sort_index": number}}


def _slices(record: Record) -> Iterator[dict[str, Any]]:
    for task in record["tasks"]:
        if "start" not in task:
            continue
        place = {"ph": "X", "pid": 1, "tid": task["worker"] + 1}
        facts = {key: task[key] for key in ("outcome", "artifact", "size", "sha256", "message") if key in task}
        queued = {"queued_ms": round(task["start"] - task["ready"], 1)}
        kind = task["name"].partition(":")[0]
        yield place | {"name": task["name"], "cat": kind, "args": facts | queued} | _span(task["start"], task["end"])
        for name, start, end, *more in task["phases"]:
            arguments = dict(zip(("bytes", "url"), more, strict=False))
            yield place | {"name": name, "cat": "phase", "args": arguments} | _span(start, end)


def _span(start: float, end: float) -> dict[str, float]:
    return {"ts": round(start * 1000), "dur": max(0, round(end * 1000) - round(start * 1000))}


def _counters(record: Record) -> Iterator[dict[str, Any]]:
    """Yield how many tasks run, and at what rate bytes arrive."""
    edges: list[tuple[float, float]] = sorted(
        edge for task in record["tasks"] if "start" in task for edge in ((task["start"], 1), (task["end"], -1))
    )
    yield from _counter("running tasks", edges)
    rates = []
    for task in record["tasks"]:
        for name, start, end, *more in task.get("phases", ()):
            if name == "body" and more and end > start:
                rates += [(start, more[0] / (end - start)), (end, -more[0] / (end - start))]
    yield from _counter("kB/s", sorted(rates))


def _counter(name: str, edges: list[tuple[float, float]]) -> Iterator[dict[str, Any]]:
    for (at, _), value in zip(edges, accumulate(change for _, change in edges), strict=True):
        yield {"ph": "C", "pid": 1, "name": name, "ts": round(at * 1000), "args": {name: round(max(0.0, value), 1)}}
