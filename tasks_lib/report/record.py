"""The record of a run for `doit report`: compact JSON of limited size, written once at the end.

Times are milliseconds since the start of the run. The record contains no secrets: URLs are stored without credentials
and query. An error while writing or reading a record is reported, but never fails a run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

from tasks_lib.errors import FetchError
from tasks_lib.ui.events import installed_version
from tasks_lib.ui.lines import describe_stores
from tasks_lib.ui.run_state import Phase, RunState, TaskRun

#: Increase when the page can no longer read older records.
FORMAT: Final = 1
#: Maximum number of tasks in a record; tasks that ran come first. A page with more would be slow to open.
MAX_TASKS: Final = 60_000
#: Maximum length of a message in characters, and maximum number of warnings of a task.
_MAX_TEXT: Final = 2000
_MAX_WARNINGS: Final = 20
#: Number of tasks that are encoded at once.
_AT_ONCE: Final = 256

RunRecord = dict[str, Any]


class RecordError(FetchError):
    """The record is missing or unusable."""


def build_record(state: RunState, *, now_s: float, ended_at: float) -> RunRecord:
    """Return the record of a run that ends now; `tasks` is a generator.

    `now_s` is monotonic; `ended_at` counts from the epoch.
    """
    names = [*state.runs, *(name for name in state.seen if name not in state.runs)]
    kept = names[:MAX_TASKS]
    numbers = {name: number for number, name in enumerate(kept)}
    workers = sorted({run.worker for run in state.runs.values() if run.worker}, key=_natural)
    elapsed_s = now_s - state.begun_s
    return {
        "format": FORMAT,
        "version": installed_version(),
        "started": datetime.fromtimestamp(ended_at - elapsed_s, UTC).isoformat(timespec="seconds"),
        "elapsed": _ms(elapsed_s),
        "counts": dict(+state.counts),
        "errors": [error[:_MAX_TEXT] for error in state.errors[:_MAX_WARNINGS]],
        "workers": workers,
        "stores": "; ".join(filter(None, (describe_stores(state), *state.pushed.problems))),
        "left_out": len(names) - len(kept),
        "tasks": (_task(state, name, numbers, workers, now_s) for name in kept),
    }


def _task(state: RunState, name: str, numbers: Mapping[str, int], workers: list[str], now_s: float) -> RunRecord:
    task, run = state.tasks.get(name), state.runs.get(name)
    facts = _brief(task.meta or {}) if task is not None else {}
    record: RunRecord = {
        "name": name,
        "outcome": state.seen.get(name, "stopped") if run is None else run.outcome or "stopped",
    }
    if task is not None:
        record["needs"] = sorted(numbers[other] for other in task.task_dep if other in numbers)
    for key in ("artifact", "size", "sha256", "defined", "sources"):
        if facts.get(key):
            record[key] = facts[key]
    return record | (_run_fields(run, workers, state.begun_s, now_s) if run is not None else {})


def _brief(meta: Any) -> Mapping[str, Any]:
    """Return the facts of a task that a record has; those of our tasks are not computed one by one."""
    brief = getattr(meta, "brief", None)
    facts: Mapping[str, Any] = brief() if brief is not None else meta
    return facts


def _run_fields(run: TaskRun, workers: list[str], begun_s: float, now_s: float) -> RunRecord:
    end_s = run.end_s or now_s
    record: RunRecord = {
        "worker": workers.index(run.worker) if run.worker else -1,
        "ready": _ms(run.ready_s - begun_s),
        "start": _ms(run.start_s - begun_s),
        "end": _ms(end_s - begun_s),
        "phases": [_phase(phase, begun_s, end_s) for phase in run.phases if not _is_empty_queue(phase)],
    }
    if run.message:
        record["message"] = run.message[:_MAX_TEXT]
    if run.warnings:
        record["warnings"] = [warning[:_MAX_TEXT] for warning in run.warnings[:_MAX_WARNINGS]]
    if run.failed_sources:
        record["failed_sources"] = [
            [one.role, one.url, one.reason[:_MAX_TEXT]] for one in run.failed_sources[:_MAX_WARNINGS]
        ]
    return record


def _phase(phase: Phase, begun_s: float, end_s: float) -> list[str | float | int]:
    row: list[str | float | int] = [phase.name, _ms(phase.start_s - begun_s), _ms((phase.end_s or end_s) - begun_s)]
    return [*row, phase.size, phase.url] if phase.url else [*row, phase.size] if phase.size else row


def _is_empty_queue(phase: Phase) -> bool:
    """Return whether the phase is a queue phase too short to record."""
    return phase.name == "queue" and 0 < phase.end_s - phase.start_s < 0.001


def _natural(name: str) -> tuple[str, int]:
    """Return a sort key that orders `network-2` before `network-10`."""
    kind, _, number = name.rpartition("-")
    return (kind, int(number)) if number.isdecimal() else (name, 0)


def _ms(seconds: float) -> float:
    return round(max(0.0, seconds) * 1000, 1)


def save(record: RunRecord, path: Path) -> None:
    """Replace the record at `path` atomically. Encode a few tasks at a time: all would double the memory of the run.

    Raises:
        OSError: the record cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.new")
    encode = json.JSONEncoder(separators=(",", ":")).encode
    with temporary.open("w", encoding="ascii") as file:
        file.write(encode({name: value for name, value in record.items() if name != "tasks"})[:-1] + ',"tasks":[')
        tasks, comma = iter(record["tasks"]), ""
        while some := list(islice(tasks, _AT_ONCE)):
            file.write(comma + encode(some)[1:-1])
            comma = ","
        file.write("]}")
    temporary.replace(path)


def load(path: Path) -> RunRecord:
    """Return the record at `path`.

    Raises:
        RecordError: the record is missing, or this version cannot read it.
    """
    try:
        record = json.loads(path.read_text("ascii"))
    except FileNotFoundError:
        raise RecordError(
            f"no run is recorded in {path}", hint="run `doit` first; a run with nothing to do writes no record"
        ) from None
    except (OSError, ValueError) as error:
        raise RecordError(f"cannot read the record {path}: {error}", hint="run `doit` again") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise RecordError(f"the record {path} has an unsupported format", hint="run `doit` again")
    return record
