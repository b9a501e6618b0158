"""Values as YAML text, in block or flow style. Pure: no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml

#: What a definition contains: text, numbers, lists and mappings of them, in the order of the file.
Value = str | int | Sequence[str] | Mapping[str, Any]
#: Indentation in files that have none of their own.
INDENT: Final = 2


def block(entry: Mapping[str, Value], column: int, indent: int) -> str:
    """Return a mapping in block style without a final line feed."""
    lines = []
    for key, value in entry.items():
        space = " " * column
        if isinstance(value, Mapping):
            lines += [f"{space}{scalar(key, 'plain')}:", block(value, column + indent, indent)]
        elif isinstance(value, str | int):
            lines.append(f"{space}{scalar(key, 'plain')}: {scalar(value, 'plain')}")
        else:
            lines.append(f"{space}{scalar(key, 'plain')}: {flow_value(value)}")
    return "\n".join(lines)


def flow_value(value: Value) -> str:
    """Return a value in flow style."""
    if isinstance(value, Mapping):
        pairs = (f"{scalar(key, 'plain', flow=',')}: {flow_value(one)}" for key, one in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, str | int):
        return scalar(value, "plain", flow=",")
    return "[" + ", ".join(flow_value(one) for one in value) + "]"


def scalar(value: str | int, style: str, flow: str = "") -> str:
    """Return a scalar in a style; a plain one is quoted where YAML would read something else.

    `flow` has the characters that a plain scalar must not have in its place.
    """
    text = str(value)
    if style == "'" and text.isprintable():
        return "'" + text.replace("'", "''") + "'"
    if style != '"' and (isinstance(value, int) or _is_plain(text)) and not any(one in text for one in flow):
        return text
    return '"' + "".join(_ESCAPES.get(one, one) if one.isprintable() else f"\\U{ord(one):08x}" for one in text) + '"'


_ESCAPES: Final = {'"': '\\"', "\\": "\\\\"}
#: Characters of a plain scalar, in block and flow context; what follows them is judged by `_is_plain`.
#: Source: YAML 1.1, "Plain Style".
_PLAIN: Final = re.compile(
    r"[A-Za-z0-9_/.+(][^\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff#{}\[\],]*(?:#[^\x00-\x20{}\[\],]*)?"
)


def _is_plain(text: str) -> bool:
    """Return whether a text needs no quotes: YAML reads the same text, and not a number, a date or null."""
    if not _PLAIN.fullmatch(text) or ": " in text or text.endswith((":", " ")) or " #" in text:
        return False
    node = yaml.SafeLoader.yaml_implicit_resolvers.get(text[0], [])
    return not any(expression.match(text) for _, expression in node)
