"""Edits of definition files by text span: every byte outside the edited values stays.

The spans come from the marks of the YAML parser. Each edit is checked before it is returned: the result must parse to
the old definitions with exactly the requested change, so that a value that is shared by an anchor is never changed for
another definition. Pure: no I/O.
Source: reach.md section B: dumping a parsed file again changes most of its lines.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

from tasks_lib.definitions.yaml_tree import Node, Scalar, Tree, YamlFaultError, parse_yaml
from tasks_lib.errors import EditError
from tasks_lib.pins.versions import parse_tag
from tasks_lib.pins.yaml_text import BOM, INDENT, KeyPath, SourceText, TextSpan, Value, block, flow_value, scalar

#: Keys beside the definitions of a file. Source: Taskgraph, `task-defaults`.
_DEFAULTS: Final = ("task-defaults", "job-defaults")
#: A comment that is only a tag, beside the commit that it names: `revision: ID # v1.2`.
_TAG_COMMENT: Final = re.compile(r"[ \t]+#[ \t]*([^ \t#]+)[ \t]*")
#: Anchors and tags of YAML before a value, which an edit keeps.
_PROPERTIES: Final = re.compile(r"(?:[&!]\S*\s+)+")


class _Edit(NamedTuple):
    start: int
    end: int
    text: str


def insert_definition(text: str, name: str, content: Mapping[str, Value], under: KeyPath = ()) -> str:
    """Return `text` with a new definition at its sorted place, in the indentation of the others.

    `text` may be empty. `under` are the keys above the definitions, such as `tasks` in a `kind.yml`.

    Raises:
        EditError: the file has a form that cannot be edited.
    """
    edited = _Editor(text)
    parent = edited.find(under)
    entry: dict[str, Value] = {name: content}
    if parent is not None and parent.value(name) is not None:
        raise EditError(f"the file has a definition named {name} already", hint="choose another name")
    if parent is None and under:
        raise EditError(f"the file has no {'.'.join(under)}", hint="add it, or use another file")
    if parent is None or (parent.kind == "scalar" and not under):
        edit = edited.append(entry)
    elif parent.kind != "mapping":
        raise EditError("the file is not a mapping of names", hint="use another file")
    elif parent.style == "flow":
        edit = edited.insert_in_flow(parent, entry, name)
    else:
        edit = edited.insert_in_block(parent, entry, name)
    return edited.apply([edit], lambda tree: _put(tree, (*under, name), content))


def set_values(text: str, values: Mapping[KeyPath, str | int], tags: Mapping[KeyPath, str] | None = None) -> str:
    """Return `text` with other scalars; a key that is missing is added to its mapping.

    `tags` has the new tag of a value, for a comment on its line that is only a tag: `revision: ID # v1.2`.

    Raises:
        EditError: a mapping does not exist in this file, or another definition shares a value.
    """
    edited = _Editor(text)
    edits = [edited.assign(path, value) for path, value in values.items()]
    edits += [edit for path, tag in (tags or {}).items() for edit in edited.retag(path, tag)]

    def change(tree: Any) -> None:
        for path, value in values.items():
            _put(tree, path, value)

    return edited.apply(edits, change)


def read_value(text: str, path: KeyPath) -> Any:
    """Return the text, list or mapping at a path, with aliases and merges resolved; None if there is none.

    Raises:
        EditError: the file is not valid YAML.
    """
    found = _plain(_parsed(text.removeprefix(BOM)))
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def add_to_list(text: str, path: KeyPath, word: str) -> str:
    """Return `text` with one more word in the list at `path`; missing mappings and a missing list are added.

    Raises:
        EditError: no definition has this name, or its list has a form that cannot be edited.
    """
    edited = _Editor(text)
    found = edited.find(path)
    if found is not None and found.kind == "sequence":
        edit = edited.extend(found, word)
    elif found is not None and (found.kind != "scalar" or found.text):
        raise EditError(f"{'.'.join(path)} is not a list of its own", hint=f"add {word} to it by hand")
    else:
        edit = edited.add_below(path, [word])
    return edited.apply([edit], lambda tree: _append(tree, path, word))


class _Editor(SourceText):
    """Builds the edits of a text."""

    def apply(self, edits: Sequence[_Edit], change: Callable[[Any], None]) -> str:
        """Return the edited text, after checking that `change` is the only difference of its content."""
        wanted = _plain(_parsed(self.text))
        wanted = {} if not isinstance(wanted, dict) else wanted
        change(wanted)
        text = self.text
        for edit in sorted(edits, reverse=True):
            text = text[: edit.start] + edit.text.replace("\n", self.newline) + text[edit.end :]
        try:
            is_right = _plain(_parsed(text)) == wanted
        except EditError:
            is_right = False
        if not is_right:
            raise EditError(
                "the edit would change something else, because of an anchor, a merge key or an unusual form",
                hint="edit the file by hand",
            )
        return self.bom + text

    def append(self, entry: Mapping[str, Value]) -> _Edit:
        """Add a definition to a file that has none."""
        if self.root is not None and self.root.text:
            raise EditError("the file is not a mapping of names", hint="use another file")
        text = block(entry, 0, INDENT)
        begin = "" if not self.text or self.text.endswith("\n") else "\n"
        blank = "\n" if self.text.rstrip().rpartition("\n")[2].startswith("#") else ""
        return _Edit(len(self.text), len(self.text), f"{begin}{blank}{text}\n")

    def insert_in_flow(self, parent: TextSpan, entry: Mapping[str, Value], name: str) -> _Edit:
        """Add a pair to a mapping in flow style; an empty one becomes a block."""
        if not parent.pairs:
            column = self.column(parent.start)
            if parent is not self.root or column:
                return _Edit(parent.start, parent.end, flow_value(entry))
            return _Edit(parent.start, parent.end, block(entry, 0, INDENT))
        before = self._predecessor(parent, name)
        if before is None:
            at = parent.pairs[0][0].start
            return _Edit(at, at, f"{flow_value(entry)[1:-1]}, ")
        at = parent.pairs[before][1].end
        return _Edit(at, at, f", {flow_value(entry)[1:-1]}")

    def insert_in_block(self, parent: TextSpan, entry: Mapping[str, Value], name: str) -> _Edit:
        """Add a definition to a block mapping, at its sorted place."""
        column = self.column(parent.start)
        text = block(entry, column, self._indentation(parent, column))
        blank = "\n" if self._has_blank_lines(parent) else ""
        before = self._predecessor(parent, name)
        if before is not None:
            at = self.end_of(parent.pairs[before][1], column)
            return _Edit(at, at, f"\n{blank}{text}")
        first = next((key for key, _ in parent.pairs if key.text not in _DEFAULTS), None)
        if first is None:  # only defaults
            at = self.end_of(parent.pairs[-1][1], column)
            return _Edit(at, at, f"\n\n{text}")
        at = self._before(first)
        return _Edit(at, at, f"{text}\n{blank}")

    def _before(self, key: TextSpan) -> int:
        """Return the start of the line of a key, or of the comment above it unless that begins the file."""
        start = self.text.rfind("\n", 0, key.start) + 1
        place = start
        while place:
            line_start = self.text.rfind("\n", 0, place - 1) + 1
            line = self.text[line_start:place].strip()
            if not line.startswith("#"):
                return start if line == "---" else place
            place = line_start
        return start

    def _predecessor(self, parent: TextSpan, name: str) -> int | None:
        """Return the index of the pair after which a name belongs, None for the first place."""
        names = [key.text for key, _ in parent.pairs]
        own = [one for one in names if one not in _DEFAULTS]
        order = next((one for one in _ORDERS if _is_sorted(own, one)), str)
        found = [index for index, one in enumerate(names) if one not in _DEFAULTS and order(one) <= order(name)]
        return found[-1] if found else None

    def _has_blank_lines(self, parent: TextSpan) -> bool:
        """Return whether blank lines separate the definitions."""
        gaps = [
            "\n" in self.text[self.last_line(value) : key.start].replace("\r", "").replace("\n", "", 1).replace(" ", "")
            for (_, value), (key, _) in pairwise(parent.pairs)
        ]
        return any(gaps) or not gaps

    def _indentation(self, parent: TextSpan, column: int) -> int:
        """Return the indentation of the definitions' own keys."""
        for _, value in parent.pairs:
            if value.kind == "mapping" and value.style == "block":
                return max(1, self.column(value.start) - column)
        return INDENT

    def assign(self, path: KeyPath, value: str | int) -> _Edit:
        """Replace a scalar in its style, or add its key."""
        found = self.find(path)
        if found is None:
            return self.add_below(path, value)
        if found.kind in ("mapping", "sequence"):
            raise EditError(f"{'.'.join(path)} is not a single value", hint="edit the file by hand")
        start = found.start
        if found.kind == "scalar" and (match := _PROPERTIES.match(self.text, start, found.end)):
            start = match.end()
        end = found.end
        if found.style in ("|", ">"):
            end = start + len(self.text[start:end].rstrip())
        space = " " if start == end and start and self.text[start - 1] == ":" else ""
        return _Edit(start, end, space + scalar(value, found.style))

    def retag(self, path: KeyPath, tag: str) -> Iterator[_Edit]:
        """Replace the tag that is the comment on the line of a value."""
        found = self.find(path)
        if found is not None:
            end = self.line_end(found.end)
            comment = _TAG_COMMENT.fullmatch(self.text, found.end, end)
            if comment is not None and parse_tag(comment[1]) is not None:
                yield _Edit(comment.start(1), comment.end(1), tag)

    def add_below(self, path: KeyPath, value: Value) -> _Edit:
        """Add a key and the mappings above it that are missing."""
        depth = len(path) - 1
        while depth and self.find(path[:depth]) is None:
            depth -= 1
        parent = self.find(path[:depth])
        if parent is None or not depth:
            raise EditError(f"the file has no {'.'.join(path[:1])}", hint="check the name and the file")
        for key in reversed(path[depth + 1 :]):
            value = {key: value}
        known = parent.value(path[depth])
        if known is not None and known.kind == "scalar" and not known.text:
            return _Edit(known.start, known.end, f" {flow_value(value)}")  # `key:` without a value
        return self._add_pair(parent, {path[depth]: value}, ".".join(path[:depth]))

    def _add_pair(self, parent: TextSpan, entry: Mapping[str, Value], name: str) -> _Edit:
        """Add a pair at the end of a mapping."""
        if parent.kind == "scalar" and not parent.text:
            return _Edit(parent.start, parent.end, f" {flow_value(entry)}")
        if parent.kind != "mapping":
            raise EditError(f"{name} is not a mapping of its own", hint="edit the file by hand")
        if not parent.pairs:
            return _Edit(parent.start, parent.end, flow_value(entry))
        if parent.style == "flow":
            at = parent.pairs[-1][1].end
            return _Edit(at, at, f", {flow_value(entry)[1:-1]}")
        at = self.last_line(parent.pairs[-1][1])
        return _Edit(at, at, f"\n{block(entry, self.column(parent.start), INDENT)}")

    def extend(self, found: TextSpan, word: str) -> _Edit:
        """Add a word to a list."""
        if found.style == "flow":
            if not found.items:
                return _Edit(found.start, found.end, flow_value([word]))
            last = found.items[-1]
            column = self.column(last.start)
            alone = not self.text[last.start - column : last.start].strip()
            return _Edit(
                last.end, last.end, (f",\n{' ' * column}" if alone else ", ") + scalar(word, "plain", flow=",")
            )
        at = self.last_line(found.items[-1])
        return _Edit(at, at, f"\n{' ' * self.column(found.start)}- {scalar(word, 'plain')}")


def _parsed(text: str) -> Node | None:
    try:
        return parse_yaml(text, lambda _line, _key: "last")
    except YamlFaultError as error:
        raise EditError(f"line {error.line}: {error.reason}", hint=error.hint) from error


def _is_sorted(names: Sequence[str], order: Callable[[str], Any]) -> bool:
    return all(order(one) <= order(two) for one, two in pairwise(names))


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Return a key that compares numbers in names by value."""
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.findall(r"[0-9]{1,18}|[^0-9]+", name)
    ]


#: The orders in which the names of a file may be sorted, the usual one first.
_ORDERS: Final[tuple[Callable[[str], Any], ...]] = (str, str.casefold, _natural)


def _plain(node: Node | None) -> Any:
    """Return the content of a node as text, lists and dicts."""
    if node is None or isinstance(node, Scalar):
        return node.text if node is not None else ""
    if isinstance(node, Tree):
        return {key: _plain(value) for key, value in node.items.items()}
    return [_plain(item) for item in node.items]


def _put(tree: Any, path: KeyPath, value: Value) -> None:
    """Set a value in the content of a file."""
    above = _mapping_above(tree, path)
    if isinstance(above, list):
        above[int(path[-1])] = _copied(value)
    else:
        above[path[-1]] = _copied(value)


def _append(tree: Any, path: KeyPath, word: str) -> None:
    parent = _mapping_above(tree, path)
    known = parent.get(path[-1])
    parent[path[-1]] = [*(known if isinstance(known, list) else ()), word]


def _mapping_above(tree: Any, path: KeyPath) -> Any:
    """Return the mapping or list of the last key of a path; create mappings that are missing."""
    for key in path[:-1]:
        if not isinstance(tree.get(key), dict | list):
            tree[key] = {}
        tree = tree[key]
    return tree


def _copied(value: Value) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(one) for key, one in value.items()}
    if isinstance(value, str | int):
        return str(value)
    return [_copied(one) for one in value]
