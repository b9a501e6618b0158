"""A mapping of keys as a table of fields: one declaration each, from which reading, errors and the JSON Schema follow.

A reader takes a node and returns its value, or raises `FieldError`; nothing here stops at the first problem.
Pure: no I/O.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from tasks_lib.definitions.yaml_tree import Node, Tree
from tasks_lib.errors import Problem, Refusal


class FieldError(Exception):
    """A value that cannot be read; `line` 0 means the line of the field."""

    def __init__(self, reason: str, hint: str = "", line: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint
        self.line = line


@dataclass(frozen=True, slots=True)
class Location:
    """A place in a file, and the list that collects its problems."""

    file: str
    key: str
    line: int
    problems: list[Problem]
    base: str = ""  # absolute directory of the file
    root: str = ""  # of the repository, "" for the current directory
    scripts: str = ""  # where a Taskgraph tree keeps the scripts of its toolchains

    def at(self, key: str, line: int) -> Location:
        """Return the place of a key below this one."""
        return replace(self, key=f"{self.key}.{key}" if self.key else key, line=line)

    def refuse(self, reason: str, hint: str = "") -> None:
        """Note that what stands here is understood and not supported."""
        self.problems.append(Refusal(self.file, self.line, self.key, reason, hint))

    def wrong(self, reason: str, hint: str = "", line: int = 0) -> None:
        """Note a problem here."""
        self.problems.append(Problem(self.file, line or self.line, self.key, reason, hint))


class Field(NamedTuple):
    """How one key is read, what its JSON Schema is, and whether it must be there."""

    read: Callable[[Node, Location], Any]
    schema: dict[str, Any]
    doc: str = ""
    required: str = ""  # why it must be there; "" when it need not

    def needed(self, why: str) -> Field:
        """Return this field as one that must be there."""
        return self._replace(required=why)

    def about(self, doc: str) -> Field:
        """Return this field with its description for the schema."""
        return self._replace(doc=doc)


FieldTable = Mapping[str, Field]


def read_table(
    node: Node, where: Location, table: FieldTable, ignored: Callable[[str], bool] = lambda _: False
) -> dict[str, Any] | None:
    """Return the values of the mapping `node`, or None when it noted a problem."""
    if not isinstance(node, Tree):
        where.wrong("must be a mapping of keys", "write `key: value` lines below it", node.line)
        return None
    before = len(where.problems)
    values: dict[str, Any] = {}
    for key, inner in node.items.items():
        place = where.at(key, node.lines.get(key, inner.line))
        field = table.get(key)
        if field is None:
            if not ignored(key):
                place.wrong("unknown key", nearest(key, table))
            continue
        try:
            values[key] = field.read(inner, place)
        except FieldError as wrong:
            place.wrong(wrong.reason, wrong.hint, wrong.line)
    for key, field in table.items():
        if field.required and key not in node.items:
            where.at(key, node.line).wrong("is missing", field.required)
    return values if len(where.problems) == before else None


def schema_of(table: FieldTable, patterns: Iterable[str] = ()) -> dict[str, Any]:
    """Return the JSON Schema of a mapping with these fields; keys that match `patterns` are ignored."""
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {
            key: {**field.schema, **({"description": field.doc} if field.doc else {})} for key, field in table.items()
        },
        "additionalProperties": False,
    }
    if required := [key for key, field in table.items() if field.required]:
        schema["required"] = required
    if patterns := list(patterns):
        schema["patternProperties"] = {pattern: {} for pattern in patterns}
    return schema


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint that names what was probably meant, or what there is."""
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    return f"known: {', '.join(sorted(names))}" if 0 < len(names) <= 20 else ""


def matcher(patterns: Iterable[str]) -> Any:
    """Return a check whether a key matches one of the patterns."""
    compiled = re.compile("|".join(patterns))
    return lambda key: compiled.match(key) is not None
