"""Tables of fields: one declaration per key defines its reader, its errors and its JSON Schema.

A reader takes a node and returns its value or raises `FieldError`. Reading continues after a problem and reports all.
Pure: no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from tasks_lib.definitions.yaml_tree import Node, Scalar, Tree
from tasks_lib.errors import Problem, Refusal, suggest


class FieldError(Exception):
    """An invalid value; `line` 0 means the line of the field."""

    def __init__(self, reason: str, hint: str = "", line: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint
        self.line = line


class Location(msgspec.Struct, frozen=True):
    """A position in a file, and the list that collects its problems."""

    file: str
    key: str
    line: int
    problems: list[Problem]
    base: str = ""  # absolute directory of the file
    root: str = ""  # directory of the repository, "" for the current directory
    scripts: str = ""  # directory of toolchain scripts in a Taskgraph tree

    def at(self, key: str, line: int) -> Location:
        """Return the position of a key below this one."""
        below = f"{self.key}.{key}" if self.key else key
        return Location(self.file, below, line, self.problems, self.base, self.root, self.scripts)

    def collecting(self, problems: list[Problem]) -> Location:
        """Return this position with another list of problems."""
        return Location(self.file, self.key, self.line, problems, self.base, self.root, self.scripts)

    def refuse(self, reason: str, hint: str = "") -> None:
        """Report that this value is known but not supported."""
        self.problems.append(Refusal(self.file, self.line, self.key, reason, hint))

    def wrong(self, reason: str, hint: str = "", line: int = 0) -> None:
        """Report a problem at this position."""
        self.problems.append(Problem(self.file, line or self.line, self.key, reason, hint))


class Field(NamedTuple):
    """The reader of one key, its JSON Schema, and whether it is required."""

    read: Callable[[Node, Location], Any]
    schema: dict[str, Any]
    doc: str = ""
    required: str = ""  # hint if the key is missing; "" for an optional key

    def needed(self, why: str) -> Field:
        """Return this field as a required one; `why` is the hint if it is missing."""
        return self._replace(required=why)

    def about(self, doc: str) -> Field:
        """Return this field with a description for the JSON Schema."""
        return self._replace(doc=doc)


FieldTable = Mapping[str, Field]

#: Keys under which other tools have a digest.
_DIGESTS: Final = frozenset({
    "md5", "sha1", "sha224", "sha384", "sha512", "sha3", "blake2b", "blake3", "b2sum", "hash", "digest", "checksum",
    "integrity", "sri",
})  # fmt: skip


def read_table(
    node: Node, where: Location, table: FieldTable, ignored: Callable[[str], bool] = lambda _: False
) -> dict[str, Any] | None:
    """Return the values of the mapping `node`, or None after reporting a problem."""
    if not isinstance(node, Tree):
        where.wrong("must be a mapping", "write `key: value` lines below it", node.line)
        return None
    before = len(where.problems)
    values: dict[str, Any] = {}
    items, lines = node.items, node.lines
    for key, inner in items.items():
        place = where.at(key, lines.get(key, inner.line))
        field = table.get(key)
        if field is None:
            _check_unknown(key, table, place, ignored)
        elif not (where.root and _is_omitted(inner, field)):
            try:
                values[key] = field.read(inner, place)
            except FieldError as error:
                place.wrong(error.reason, error.hint, error.line)
    for key, hint in _required(table).items():
        if key not in items:
            where.at(key, node.line).wrong("is missing", hint)
    return values if len(where.problems) == before else None


def _is_omitted(node: Node, field: Field) -> bool:
    """Return whether a value counts as missing: null is not a value of an optional field in a Taskgraph tree."""
    return not field.required and isinstance(node, Scalar) and node.is_null


def _required(table: FieldTable) -> dict[str, str]:
    """Return the hints of the required keys of a table, which are collected once."""
    known = _REQUIRED.get(id(table))
    if known is None or known[0] is not table:
        known = _REQUIRED[id(table)] = table, {key: field.required for key, field in table.items() if field.required}
    return known[1]


#: The hints of the required keys, by the identity of their table, which is kept with them.
_REQUIRED: Final[dict[int, tuple[FieldTable, dict[str, str]]]] = {}


def _check_unknown(key: str, table: FieldTable, place: Location, ignored: Callable[[str], bool]) -> None:
    """Report a key that the table lacks, unless it is ignored."""
    if ignored(key):
        return
    if key.lower().replace("-", "") in _DIGESTS and "sha256" in table:
        place.wrong(f"{key} is not supported: only sha256 is", "write `sha256:` with the output of `sha256sum`")
    else:
        place.wrong("unknown key", suggest(key, table))


def schema_of(table: FieldTable, patterns: Iterable[str] = ()) -> dict[str, Any]:
    """Return the JSON Schema of a mapping with these fields; it allows any key that matches `patterns`."""
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {
            key: {**field.schema, **({"description": field.doc} if field.doc else {})} for key, field in table.items()
        },
        "additionalProperties": False,
    }
    if required := list(_required(table)):
        schema["required"] = required
    if patterns := list(patterns):
        schema["patternProperties"] = {pattern: {} for pattern in patterns}
    return schema


def matcher(patterns: Iterable[str]) -> Any:
    """Return a predicate that is true for a key that matches one of the patterns."""
    compiled = re.compile("|".join(patterns))
    return lambda key: compiled.match(key) is not None
