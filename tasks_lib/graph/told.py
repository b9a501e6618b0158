"""Why a task would run, in words: what doit found, and which input of its identity is not what it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from tasks_lib.errors import escaped
from tasks_lib.graph.tasks import Check, step_of

_SENTENCES: Final = {
    "missing_target": "is missing",
    "changed_file_dep": "has changed",
    "added_file_dep": "is a new input",
    "removed_file_dep": "is no input any more",
}


def reasons(task: Any, status: Any, values: Mapping[str, Any], makers: Mapping[str, str]) -> list[str]:
    """Return why a task would run, most telling first; [] when it would not.

    Args:
        task: doit's task.
        status: what doit found, with its log.
        values: what the last success left.
        makers: path of a target -> name of the task that makes it.
    """
    if status.status == "up-to-date":
        return []
    told = list(_of_checks(task, status, values))
    for kind, sentence in _SENTENCES.items():
        told += [f"{escaped(path)} {sentence}" for path in sorted(status.reasons.get(kind) or ())]
    for path in sorted(status.reasons.get("missing_file_dep") or ()):
        maker = makers.get(path)
        told.append(f"{escaped(path)} is not there yet" + (f": {maker} makes it" if maker else ""))
    if status.reasons.get("checker_changed"):
        told.append("files are compared in another way than last time")
    if status.reasons.get("has_no_dependencies"):
        told.append("nothing says when it is up to date: it runs every time")
    return list(dict.fromkeys(told))


def _of_checks(task: Any, status: Any, values: Mapping[str, Any]) -> Iterator[str]:
    for check, *_ in status.reasons.get("uptodate_false") or ():
        if not isinstance(check, Check):
            yield f"its own check says so: {escaped(str(check))}"
        elif not values:
            yield "it has not been made here yet, or was forgotten; what the cache holds is adopted"
        elif values.get("key") == check.key:
            yield from check.complaints()
        else:
            yield from _differences(task, values)


def _differences(task: Any, values: Mapping[str, Any]) -> Iterator[str]:
    """Yield which identity inputs differ from those of the last success."""
    step = step_of(task)
    before, now = values.get("identity"), step.identity if step is not None else {}
    if values.get("key") == "":
        yield "its command said last time that it cannot run here; it is tried again"
    elif not isinstance(before, dict) or not now:
        yield "its recipe is another one than last time"
    else:
        for name in sorted(before.keys() | now.keys()):
            old, new = before.get(name), now.get(name)
            if old != new:
                yield f"{escaped(name)} was {_said(old)}, is {_said(new)}"


def _said(value: object) -> str:
    return "not there" if value is None else escaped(str(value))[:100]
