"""Edits of definition files by text span: only the requested value changes, whatever the style of the file."""

from __future__ import annotations

import difflib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks_lib.definitions import parse
from tasks_lib.definitions.parser import SourceFile
from tasks_lib.errors import EditError
from tasks_lib.pins.edit import add_to_list, insert_definition, set_values

OLD, NEW = "a" * 64, "b" * 64
CONTENT: dict[str, Any] = {
    "description": "new 1.0",
    "fetch": {"type": "static-url", "url": "https://h/new-1.0.tar", "sha256": NEW, "size": 7, "sig": "{url}.sig"},
}
BLOCK = f"""new:
  description: new 1.0
  fetch:
    type: static-url
    url: https://h/new-1.0.tar
    sha256: {NEW}
    size: 7
    sig: "{{url}}.sig"
"""
FLOW = f'new: {{description: new 1.0, fetch: {{type: static-url, url: https://h/new-1.0.tar, sha256: {NEW}, size: 7, sig: "{{url}}.sig"}}}}'

PLACES = {
    "empty": ("", BLOCK),
    "init": ("---\n# comment\n{}\n", f"---\n# comment\n{BLOCK}"),
    "only comments": ("# head\n", f"# head\n\n{BLOCK}"),
    "only dashes": ("---\n", f"---\n{BLOCK}"),
    "last": ("a:\n  x: 1\n", f"a:\n  x: 1\n\n{BLOCK}"),
    "last without line feed": ("a:\n  x: 1", f"a:\n  x: 1\n\n{BLOCK.rstrip()}"),
    "first": ("z:\n  x: 1\n", f"{BLOCK}\nz:\n  x: 1\n"),
    "first below a header": ("# head\n\n# of z\nz:\n  x: 1\n", f"# head\n\n{BLOCK}\n# of z\nz:\n  x: 1\n"),
    "first below a schema": ("# schema\nz:\n  x: 1\n", f"# schema\n{BLOCK}\nz:\n  x: 1\n"),
    "between": ("a:\n  x: 1\n\n# of z\nz:\n  x: 1\n", f"a:\n  x: 1\n\n{BLOCK}\n# of z\nz:\n  x: 1\n"),
    "between without blanks": ("a:\n  x: 1\nz:\n  x: 1\n", f"a:\n  x: 1\n{BLOCK}z:\n  x: 1\n"),
    "comments inside": ("a:\n  x: 1 # why\n  # y: 2\n\n  # z: 3\n# end of a\n\nz: {}\n", f"a:\n  x: 1 # why\n  # y: 2\n\n  # z: 3\n# end of a\n\n{BLOCK}\nz: {{}}\n"),
    "block scalar": ("a:\n  x: |\n    # text\n\n    more\n\n\nz:\n  x: 1\n", f"a:\n  x: |\n    # text\n\n    more\n\n{BLOCK}\n\nz:\n  x: 1\n"),
    "defaults": ("task-defaults:\n  x: 1\n\nz:\n  x: 1\n", f"task-defaults:\n  x: 1\n\n{BLOCK}\nz:\n  x: 1\n"),
    "only defaults": ("task-defaults:\n  x: 1\n", f"task-defaults:\n  x: 1\n\n{BLOCK}"),
    "unsorted": ("z:\n  x: 1\n\na:\n  x: 1\n\ny:\n  x: 1\n", f"z:\n  x: 1\n\na:\n  x: 1\n\n{BLOCK}\ny:\n  x: 1\n"),
    "flow": ("{a: {x: 1}, z: {x: 1}}\n", f"{{a: {{x: 1}}, {FLOW}, z: {{x: 1}}}}\n"),
    "flow first": ("{z: {x: 1}}\n", f"{{{FLOW}, z: {{x: 1}}}}\n"),
    "four spaces": ("a:\n    x: 1\n", "a:\n    x: 1\n\n" + BLOCK.replace("  ", "    ")),
    "byte order mark": ("\ufeffa:\n  x: é𝄞\n", f"\ufeffa:\n  x: é𝄞\n\n{BLOCK}"),
}  # fmt: skip


@pytest.mark.parametrize("case", PLACES)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_insert(case: str, newline: str) -> None:
    """A definition gets its sorted place and the style of the file; every other byte stays."""
    before, after = PLACES[case]
    if newline == "\r\n" and "\n" not in before:
        pytest.skip("the file has no line break")
    found = insert_definition(before.replace("\n", newline), "new", CONTENT)
    assert found == after.replace("\n", newline)


def test_insert_a_name_that_exists() -> None:
    """A name that another process has added in the meantime is not defined twice."""
    with pytest.raises(EditError, match="already"):
        insert_definition("new: {}\n", "new", CONTENT)


def test_insert_into_a_kind() -> None:
    """In a kind.yml, definitions are below `tasks`."""
    text = "tasks:\n  a:\n    x: 1\n\n  z:\n    x: 1\nloader: x\n"
    found = insert_definition(text, "new", {"x": "1"}, ("tasks",))
    assert found == 'tasks:\n  a:\n    x: 1\n\n  new:\n    x: "1"\n\n  z:\n    x: 1\nloader: x\n'


@pytest.mark.parametrize(
    ("names", "place"),
    [(["gcc-8", "gcc-9", "gcc-11"], 2), (["gcc-11", "gcc-8", "gcc-9"], 0), (["B", "a", "h"], 2)],
)
def test_order(names: list[str], place: int) -> None:
    """The order of the file is kept: by text, without case, or with numbers by value."""
    text = "".join(f"{name}: {{}}\n" for name in names)
    found = insert_definition(text, "gcc-10", {"x": "y"})
    assert [line.partition(":")[0] for line in found.splitlines() if not line.startswith(" ")].index("gcc-10") == place


LISTS = {
    "flow": ("t:\n  fetches: {fetch: [a, b]}\n", "t:\n  fetches: {fetch: [a, b, new]}\n"),
    "empty flow": ("t:\n  fetches: {fetch: []} # x\n", "t:\n  fetches: {fetch: [new]} # x\n"),
    "block": ("t:\n  fetches:\n    fetch:\n      - a # why\n      - artifact: b\n        dest: c\n  z: 1\n", "t:\n  fetches:\n    fetch:\n      - a # why\n      - artifact: b\n        dest: c\n      - new\n  z: 1\n"),
    "indentless": ("t:\n  fetches:\n    fetch:\n    - a\n", "t:\n  fetches:\n    fetch:\n    - a\n    - new\n"),
    "lines": ("t:\n  fetches:\n    fetch: [\n      a,\n      b,\n    ]\n", "t:\n  fetches:\n    fetch: [\n      a,\n      b,\n      new,\n    ]\n"),
    "none": ("t:\n  description: x\n\nu: {}\n", "t:\n  description: x\n  fetches:\n    fetch: [new]\n\nu: {}\n"),
    "other kind": ("t:\n  fetches:\n    toolchain: [x]\n", "t:\n  fetches:\n    toolchain: [x]\n    fetch: [new]\n"),
    "null": ("t:\n  fetches:\n    fetch:\n  z: 1\n", "t:\n  fetches:\n    fetch: [new]\n  z: 1\n"),
    "all flow": ("t: {description: x}\n", "t: {description: x, fetches: {fetch: [new]}}\n"),
}  # fmt: skip


@pytest.mark.parametrize("case", LISTS)
def test_list(case: str) -> None:
    """A list in either style gets one more word; a missing one is added."""
    before, after = LISTS[case]
    assert add_to_list(before, ("t", "fetches", "fetch"), "new") == after


def test_shared_values_are_not_changed() -> None:
    """A value that another definition shares by an anchor or a merge key is not edited."""
    shared = f"a:\n  fetch: &f {{sha256: {OLD}}}\nb:\n  fetch: *f\n"
    with pytest.raises(EditError, match="anchor"):
        set_values(shared, {("a", "fetch", "sha256"): NEW})
    with pytest.raises(EditError, match="of its own"):
        set_values(shared, {("b", "fetch", "sha256"): NEW})
    with pytest.raises(EditError, match="anchor"):
        add_to_list("t: {fetches: {fetch: &l [a]}}\nu: {fetches: {fetch: *l}}\n", ("t", "fetches", "fetch"), "new")


def test_own_values_override_shared_ones() -> None:
    """A value that comes from an alias or a merge key is overridden in the definition itself."""
    text = f"x: &d {{type: a, sha256: &s {OLD}}}\na:\n  fetch:\n    <<: *d\n    size: 1 # bytes\nb: {{fetch: {{sha256: *s}}}}\n"
    found = set_values(text, {("a", "fetch", "sha256"): NEW, ("a", "fetch", "size"): 2, ("b", "fetch", "sha256"): NEW})
    assert found == (
        f"x: &d {{type: a, sha256: &s {OLD}}}\na:\n  fetch:\n    <<: *d\n    size: 2 # bytes\n    sha256: {NEW}\n"
        f"b: {{fetch: {{sha256: {NEW}}}}}\n"
    )


STYLES = {
    "plain": f"a:\n  sha256: {OLD} # of a\n",
    "single": f"a:\n  sha256:   '{OLD}'\n",
    "double": f'a:\n  sha256: "{OLD}"\n',
    "flow": f"{{a: {{sha256: {OLD}, size: 1}}, b: {{}}}}\n",
    "anchor": f"a:\n  sha256: &d {OLD}\n",
    "own line": f"a:\n  sha256:\n    {OLD}\n",
    "quoted keys": f"'a':\n  \"sha256\": {OLD}\n",
}


@pytest.mark.parametrize("case", STYLES)
def test_style_is_kept(case: str) -> None:
    """A value keeps its quotes, its anchor, its comment and its place."""
    assert set_values(STYLES[case], {("a", "sha256"): NEW}) == STYLES[case].replace(OLD, NEW)


def test_folded_value() -> None:
    """A value over several lines becomes one line, and what follows stays."""
    found = set_values("a:\n  url: >-\n    https://h/\n    x\n\n  size: 1\n", {("a", "url"): "https://h/y"})
    assert found == "a:\n  url: https://h/y\n\n  size: 1\n"


@pytest.mark.parametrize("value", ["123", "1e3", "0x10", "yes", "null", "2026-11-28", "~", "- a", "a: b", "a #b", "", "'", '"\\', "é", "*x", "1.10", "a\nb", "12345_6"])  # fmt: skip
@pytest.mark.parametrize("text", ["a: {k: v}\n", "a:\n  k: v\n", "a:\n  k: 'v'\n", 'a:\n  k: "v"\n'])
def test_any_text(value: str, text: str) -> None:
    """Each text is written so that YAML reads the same text."""
    import yaml

    assert yaml.safe_load(set_values(text, {("a", "k"): value}))["a"]["k"] == value


def _definition(draw: Any, number: int) -> tuple[str, str]:
    """Return a definition in a drawn style, and the same with another digest, size and URL."""
    quote = draw(st.sampled_from(["", "'", '"']))
    comment = draw(st.sampled_from(["", " # why", "   # two  "]))
    indent = " " * draw(st.integers(1, 5))
    name = f"d{number}"
    pair = []
    for digest, size, version in ((OLD, 10, "1.0"), (NEW, 12, "1.1")):
        url = f"{quote}https://h/{name}-{version}.tar{quote}"
        lines = [
            f"type: static-url{comment}",
            f"url: {url}{comment}",
            f"sha256: {quote}{digest}{quote}",
            f"size: {size}{comment}",
        ]
        pair.append((lines, url, digest, size))
    shape = draw(st.sampled_from(["block", "flow", "lines"]))
    head = draw(st.sampled_from(["", "\n", "# a comment\n", "\n# a paragraph\n\n"]))
    texts = []
    for lines, url, digest, size in pair:
        if shape == "block":
            inner = "".join(f"{indent * 2}{line}\n" for line in lines)
            texts.append(f"{head}{name}:{comment}\n{indent}description: {quote}x y{quote}\n{indent}fetch:\n{inner}")
        elif shape == "flow":
            texts.append(
                f"{head}{name}: {{description: x, fetch: {{type: static-url, url: {url if quote else repr(url)}, sha256: {digest}, size: {size}}}}}{comment}\n"
            )
        else:
            inner = ",\n".join(f"{indent * 2}{line.partition(' #')[0].rstrip()}" for line in lines)
            texts.append(f"{head}{name}:\n{indent}description: x\n{indent}fetch: {{\n{inner}\n{indent}}}\n")
    return texts[0], texts[1]


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_only_the_lines_of_a_value_change(data: Any) -> None:
    """In a file of any style, an update changes the lines of its values and nothing else."""
    definitions = [_definition(data.draw, number) for number in range(data.draw(st.integers(1, 4)))]
    which = data.draw(st.integers(0, len(definitions) - 1))
    newline = data.draw(st.sampled_from(["\n", "\r\n"]))
    end = data.draw(st.sampled_from(["", "\n", "\n# the end\n", "\n\n"]))
    before = ("".join(one for one, _ in definitions).rstrip("\n") + end).replace("\n", newline)
    after = ("".join(pair[index == which] for index, pair in enumerate(definitions)).rstrip("\n") + end).replace(
        "\n", newline
    )
    path = (f"d{which}", "fetch")
    found = set_values(
        before, {(*path, "url"): f"https://h/d{which}-1.1.tar", (*path, "sha256"): NEW, (*path, "size"): 12}
    )
    assert found == after
    changed = [line for line in difflib.ndiff(before.splitlines(), found.splitlines()) if line[:1] == "+"]
    assert len(changed) <= 3
    parse([SourceFile(kind="fetch", path="f.yml", text=found)])
