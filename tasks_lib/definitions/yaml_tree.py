"""YAML parser that returns a tree with line numbers.

Supports mappings, sequences, scalars, anchors, aliases and merge keys. Rejects tags, multiple documents and unbounded
input. A scalar keeps its text (`yes` does not become true, a digest does not become a number), and the field that reads
it decides its type. Pure: no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import yaml
from yaml.events import MappingEndEvent, ScalarEvent, SequenceEndEvent

#: Maximum nesting depth of a definition file; real files have fewer than 10 levels.
MAX_DEPTH: Final = 40
#: Maximum number of nodes in one file; each use of an alias counts (10,000 definitions have about 300,000).
MAX_NODES: Final = 4_000_000

#: Plain scalars that mean null. Source: YAML 1.1, https://yaml.org/type/null.html
NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Scalar(msgspec.Struct, frozen=True):
    """A value as text; `plain` if it was written without quotes."""

    text: str
    plain: bool
    line: int

    @property
    def is_null(self) -> bool:
        """Whether this is the YAML null value."""
        return self.text in NULLS and self.plain


class Sequence(msgspec.Struct, frozen=True):
    """A list of nodes."""

    items: list[Node]
    line: int


class Tree(msgspec.Struct, frozen=True):
    """A mapping; `lines` contains the line number of each key."""

    items: dict[str, Node]
    lines: dict[str, int]
    line: int


Node = Scalar | Sequence | Tree


class YamlFaultError(Exception):
    """Invalid or unsupported YAML; `line` counts from 1."""

    def __init__(self, line: int, reason: str, hint: str = "check indentation and quotes") -> None:
        super().__init__(reason)
        self.line = line
        self.reason = reason
        self.hint = hint


def parse_yaml(text: str, duplicate: Callable[[int, str], object]) -> Node | None:
    """Return the tree of the only document in `text`, or None if there is none.

    Call `duplicate(line, key)` for each duplicate key of a mapping; the first value is used, or the last one if the
    call returns "last".

    Raises:
        YamlFaultError: the text has a syntax error, a tag, an unknown alias or a second document, or is too deep or
            too large.
    """
    try:
        loader = _Loader(text)
        try:
            return _Builder(iter(loader.get_event, None), duplicate).document()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise _syntax_fault(error, text) from error
    except yaml.YAMLError as error:  # the error for an unreadable character has no mark
        raise YamlFaultError(1, str(error).splitlines()[0]) from error


def _syntax_fault(error: yaml.MarkedYAMLError, text: str) -> YamlFaultError:
    """Return the fault for a syntax error; a tab is often reported as another error."""
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line, mark.column) if mark else (0, 0)
    for number in (line, line - 1):
        content = "".join(text.split("\n")[max(number, 0) : number + 1])
        indentation = content[: len(content) - len(content.lstrip(" \t"))]
        if "\t" in indentation:
            at = indentation.index("\t") + 1
            return YamlFaultError(number + 1, f"a tab in the indentation, column {at}", "indent with spaces")
    return YamlFaultError(line + 1, f"{error.problem or error}, column {column + 1}")


def merge(lower: Tree, upper: Tree) -> Tree:
    """Return `lower` overridden by `upper`, nested mappings included. Source: Taskgraph's `task-defaults`."""
    items = dict(lower.items)
    for key, node in upper.items.items():
        under = items.get(key)
        both = isinstance(under, Tree) and isinstance(node, Tree)
        items[key] = merge(under, node) if both else node  # type: ignore[arg-type]  # `both` implies that they are trees
    return Tree(items, {**lower.lines, **upper.lines}, upper.line)


@dataclass(slots=True)
class _Builder:
    events: Iterator[Any]
    duplicate: Callable[[int, str], object]
    anchors: dict[str, tuple[Node, int]] = field(default_factory=dict)
    nodes: int = 0

    def document(self) -> Node | None:
        root: Node | None = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    line = event.start_mark.line + 1 if event.start_mark else 1
                    raise YamlFaultError(line, "a file must contain only one document")
            elif isinstance(event, yaml.NodeEvent):
                root = self.node(event, 0)
        return root

    def count(self, amount: int, line: int) -> None:
        self.nodes += amount
        if self.nodes > MAX_NODES:
            raise YamlFaultError(line, f"more than {MAX_NODES} values")

    def node(self, event: Any, depth: int) -> Node:
        line = event.start_mark.line + 1
        if type(event) is ScalarEvent and event.tag is event.anchor is None and depth <= MAX_DEPTH:
            self.nodes += 1  # most nodes are such scalars
            if self.nodes > MAX_NODES:
                self.count(0, line)
            return Scalar(event.value, not event.style, line)
        return self.unusual(event, line, depth)

    def unusual(self, event: Any, line: int, depth: int) -> Node:
        """Return the node of a collection, an alias, or a scalar with a tag or an anchor."""
        if depth > MAX_DEPTH:
            raise YamlFaultError(line, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise YamlFaultError(line, "unknown alias: quote a value that begins with *")  # it may be a secret
            node, size = self.anchors[event.anchor]
            self.count(size, line)
            return node
        if event.tag is not None and not (isinstance(event, ScalarEvent) and event.implicit[1]):
            raise YamlFaultError(line, "a tag is not allowed: quote a value that begins with !")  # it may be a secret
        before = self.nodes
        self.count(1, line)
        value = self.value(event, line, depth)
        if event.anchor:
            self.anchors[event.anchor] = (value, self.nodes - before)
        return value

    def value(self, event: Any, line: int, depth: int) -> Node:
        if isinstance(event, ScalarEvent):
            # the style of a plain scalar is "" in libyaml, None in pure Python
            return Scalar(event.value, not event.style, line)
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while type(inner := next(self.events)) is not SequenceEndEvent:
                items.append(self.node(inner, depth + 1))
            return Sequence(items, line)
        return self.mapping(line, depth)

    def mapping(self, line: int, depth: int) -> Tree:
        items: dict[str, Node] = {}
        lines: dict[str, int] = {}
        below: list[Tree] = []
        events, node, inner = self.events, self.node, depth + 1
        while type(event := next(events)) is not MappingEndEvent:
            at = event.start_mark.line + 1
            if type(event) is ScalarEvent and event.tag is event.anchor is None:
                self.nodes += 1  # most keys are such scalars; their values check the depth and the number of nodes
                text, plain = event.value, not event.style
                value = node(next(events), inner)
            else:
                key, value = node(event, inner), node(next(events), inner)
                if not isinstance(key, Scalar):
                    raise YamlFaultError(key.line, "a key must be a scalar, not a list or a mapping")
                text, plain, at = key.text, key.plain, key.line
            if text == "<<" and plain:
                below.extend(_merge_sources(value))
            elif text not in items or self.duplicate(at, text) == "last":
                items[text], lines[text] = value, at
        _add_below(items, lines, below)
        return Tree(items, lines, line)


def _add_below(items: dict[str, Node], lines: dict[str, int], below: list[Tree]) -> None:
    """Add the keys that are missing: a YAML merge is shallow, and the first source takes precedence."""
    for tree in below:
        for name in tree.items:
            if name not in items:
                items[name], lines[name] = tree.items[name], tree.lines[name]


def _merge_sources(node: Node) -> list[Tree]:
    """Return the mappings that `<<:` merges. Source: https://yaml.org/type/merge.html."""
    nodes = node.items if isinstance(node, Sequence) else [node]
    trees = [item for item in nodes if isinstance(item, Tree)]
    if len(trees) != len(nodes):
        raise YamlFaultError(node.line, "<<: requires a mapping or a list of mappings")
    return trees
