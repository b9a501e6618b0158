"""YAML as text: the span of each node, by the marks of the parser, and values in block or flow style. Pure: no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import yaml
from yaml.events import AliasEvent, MappingEndEvent, MappingStartEvent, NodeEvent, ScalarEvent, SequenceEndEvent

from tasks_lib.errors import EditError

#: The byte order mark, which the parsers count differently.
BOM: Final = "\ufeff"
#: A path of keys, and of positions in lists.
KeyPath = tuple[str, ...]

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(slots=True)
class TextSpan:
    """A node: where its text is, its style ("block", "flow", or that of a scalar), and what is below it."""

    start: int
    end: int
    style: str
    text: str = ""
    pairs: list[tuple[TextSpan, TextSpan]] = field(default_factory=list)
    items: list[TextSpan] = field(default_factory=list)
    kind: str = "scalar"

    def value(self, key: str) -> TextSpan | None:
        """Return the value of a key, or the item of a list, that is written in this node itself."""
        if self.kind == "sequence":
            return self.items[int(key)] if key.isdecimal() and int(key) < len(self.items) else None
        return next((value for name, value in self.pairs if name.text == key and name.kind == "scalar"), None)


class SourceText:
    """The text of a file, with the spans of its nodes."""

    def __init__(self, text: str) -> None:
        self.bom = BOM if text.startswith(BOM) else ""
        self.text = text.removeprefix(BOM)
        first = self.text.find("\n")
        self.newline = "\r\n" if first > 0 and self.text[first - 1] == "\r" else "\n"
        try:
            events = iter([one for one in yaml.parse(self.text, Loader=_Loader) if _is_node(one)])
            self.root = next((self._node(one, events) for one in events), None)
        except yaml.YAMLError as error:
            raise EditError("the file is not valid YAML", hint="run `doit list`, which reports the line") from error

    def _node(self, event: Any, events: Iterator[Any]) -> TextSpan:
        start, end = event.start_mark.index, event.end_mark.index
        if isinstance(event, ScalarEvent):
            return TextSpan(start, end, event.style or "plain", event.value)
        if isinstance(event, AliasEvent):
            return TextSpan(start, end, "alias", event.anchor or "", kind="alias")
        span = TextSpan(start, end, "flow" if event.flow_style else "block")
        if isinstance(event, MappingStartEvent):
            span.kind = "mapping"
            while not isinstance(one := next(events), MappingEndEvent):
                key = self._node(one, events)
                span.pairs.append((key, self._node(next(events), events)))
            last = span.pairs[-1][1].end if span.pairs else end
        else:
            span.kind = "sequence"
            while not isinstance(one := next(events), SequenceEndEvent):
                span.items.append(self._node(one, events))
            last = span.items[-1].end if span.items else end
        span.end = one.end_mark.index if span.style == "flow" else last
        return span

    def find(self, path: KeyPath) -> TextSpan | None:
        """Return the node at a path of keys that are written in the file, without aliases and merges."""
        span = self.root
        for key in path:
            span = span.value(key) if span is not None else None
        return span

    def column(self, at: int) -> int:
        """Return the column of a position."""
        return at - (self.text.rfind("\n", 0, at) + 1)

    def line_end(self, at: int) -> int:
        """Return the position of the line break after `at`, or of the end of the text."""
        end = self.text.find("\n", at)
        if end < 0:
            return len(self.text)
        return end - 1 if end > 0 and self.text[end - 1] == "\r" else end

    def last_line(self, span: TextSpan) -> int:
        """Return the end of the last line of a node, without blank lines after a block scalar."""
        leaf = span
        while leaf.style == "block" and (leaf.pairs or leaf.items):
            leaf = leaf.pairs[-1][1] if leaf.pairs else leaf.items[-1]
        body = self.text[leaf.start : leaf.end]
        if leaf.style in ("|", ">"):
            keeps = "+" in body.partition("\n")[0].partition("#")[0]
            return self.line_end(leaf.start + len(body if keeps else body.rstrip()) - (1 if keeps else 0))
        return self.line_end(leaf.end)

    def end_of(self, span: TextSpan, column: int) -> int:
        """Return the end of the last line of a node and of the comments that belong to it."""
        end = at = self.last_line(span)
        is_adjacent = True
        while start := self.text.find("\n", at) + 1:
            at = self.line_end(start)
            line = self.text[start:at]
            bare = line.strip()
            if bare and not bare.startswith("#"):
                break
            is_inner = len(line) - len(line.lstrip(" ")) > column
            if bare and (is_inner or (is_adjacent and self._ends_paragraph(at))):
                end = at
            is_adjacent = bool(bare)
        return end

    def _ends_paragraph(self, at: int) -> bool:
        """Return whether the comment that ends at `at` is followed by a blank line or the end of the file."""
        lines = (line.strip() for line in self.text[at:].split("\n")[1:])
        return not next((line for line in lines if not line.startswith("#")), "")


def _is_node(event: Any) -> bool:
    return isinstance(event, NodeEvent | MappingEndEvent | SequenceEndEvent)


#: What a definition contains: text, numbers, lists and mappings of them, in the order of the file.
Value = str | int | Sequence[str] | Mapping[str, Any]
#: Indentation in files that have none of their own.
INDENT: Final = 2


# --- values as text


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
