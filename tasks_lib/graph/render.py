"""Render the task graph as Mermaid, DOT or JSON; names are untrusted and quoted for each format."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from tasks_lib.errors import escape_text


def _edges(tasks: Sequence[Any]) -> list[tuple[str, str]]:
    """Return the edges (dependency, dependent) among these tasks."""
    there = {task.name for task in tasks}
    return [(need, task.name) for task in tasks for need in dict.fromkeys(task.task_dep) if need in there]


def mermaid(tasks: Sequence[Any]) -> str:
    """Return a Mermaid flowchart. Source: Mermaid documentation, "Flowcharts", entity codes in quoted text."""
    number = {task.name: f"t{at}" for at, task in enumerate(tasks)}
    lines = ["flowchart LR"]
    lines += [f'    {number[task.name]}["{_entities(task.name)}"]' for task in tasks]
    lines += [f"    {number[need]} --> {number[user]}" for need, user in _edges(tasks)]
    return "\n".join(lines) + "\n"


def _entities(text: str) -> str:
    plain = frozenset(" :/._-+~@")
    return "".join(one if one.isalnum() or one in plain else f"#{ord(one)};" for one in escape_text(text))


def dot(tasks: Sequence[Any]) -> str:
    """Return a graph in the DOT language. Source: Graphviz documentation, "DOT Language", quoted strings."""
    lines = ["digraph tasks {", "    rankdir=LR;", "    node [shape=box];"]
    lines += [f"    {_quoted(task.name)};" for task in tasks]
    lines += [f"    {_quoted(need)} -> {_quoted(user)};" for need, user in _edges(tasks)]
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    inner = escape_text(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{inner}"'


def json_document(tasks: Sequence[Any]) -> str:
    """Return one JSON document: `tasks`, each with name, doc, needs, inputs and targets."""
    there = {task.name for task in tasks}
    listed: list[Mapping[str, Any]] = [
        {
            "name": task.name,
            "doc": task.doc or "",
            "needs": [need for need in dict.fromkeys(task.task_dep) if need in there],
            "inputs": sorted(task.file_dep),
            "targets": list(task.targets),
        }
        for task in tasks
    ]
    return json.dumps({"version": 1, "tasks": listed}, indent=1) + "\n"


FORMATS: Final[Mapping[str, Callable[[Sequence[Any]], str]]] = {"mermaid": mermaid, "dot": dot, "json": json_document}
