"""Render a record: as one self-contained HTML page, and as a Chrome trace for Perfetto and chrome://tracing.

External text is embedded as JSON and displayed as text, never as markup. The page loads nothing: its content security
policy allows only its own style and scripts, by digest, and no connections.

Trace viewers drop slices of one thread that overlap without nesting. Therefore the phases of a task are nested in the
slice of the task and follow each other. A phase with no duration is left out: viewers would nest the next phase in it.
Source: "Trace Event Format", the JSON object form with complete (`X`), counter (`C`) and metadata (`M`) events;
timestamps and durations in microseconds.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from importlib.resources import files
from itertools import accumulate
from typing import Any, Final

from tasks_lib.report.analysis import (
    build_advice,
    find_critical_path,
    sum_phases,
    summarize_failed_sources,
    summarize_hosts,
)
from tasks_lib.report.record import RunRecord

#: The scripts, in dependency order.
_SCRIPTS: Final = ("words.js", "table.js", "timeline.js", "graph.js", "main.js")


def render_page(record: RunRecord) -> str:
    """Return the page as HTML."""
    style, script = _read_asset("page.css"), "\n".join(map(_read_asset, _SCRIPTS))
    data: dict[str, Any] = {
        "record": record,
        "critical": find_critical_path(record),
        "advice": build_advice(record),
        "hosts": [host._asdict() for host in summarize_hosts(record)],
        "failed": [host._asdict() for host in summarize_failed_sources(record)],
        "spent": sum_phases(record),
    }
    policy = (
        f"default-src 'none'; style-src '{_source(style)}'; script-src '{_source(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {"POLICY": policy, "STYLE": style, "SCRIPT": script, "RECORD": _escape_json(json.dumps(data))}
    text = _read_asset("page.html")
    for name, part in parts.items():
        text = text.replace(f"@{name}@", part, 1)
    return text


def _read_asset(name: str) -> str:
    return (files("tasks_lib.report") / "page" / name).read_text("utf-8")


def _source(text: str) -> str:
    """Return the policy source expression of an inline text. Source: Content Security Policy Level 3, section 2.3.1."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _escape_json(text: str) -> str:
    """Return JSON with `<`, `>` and `&` escaped, so that it cannot end the script element.

    Source: HTML, "Restrictions for contents of script elements".
    """
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


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
