"""Definitions: Taskgraph's dialect is read unchanged, and all problems are reported at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks_lib.definitions import Definitions, SourceFile, StaticUrl, json_schema, kind_files, parse
from tasks_lib.errors import DefinitionError
from tasks_lib.incremental.definition_files import load

ROOT = Path(__file__).parent.parent
SHA = "ab" * 32
GOOD = f"a: {{description: d, fetch: {{type: static-url, url: 'https://h/a.tar.gz', sha256: {SHA}, size: 3}}}}\n"


def read(fetches: str, toolchains: str = "", directory: str = "/base") -> Definitions:
    files = [SourceFile(kind="fetch", path="f.yml", text=fetches, directory=directory)]
    return parse([*files, SourceFile(kind="toolchain", path="t.yml", text=toolchains, directory=directory)])


def fetch(fields: str, name: str = "a") -> str:
    return (
        f"{name}:\n  description: d\n  fetch: {{type: static-url, url: 'https://h/a.tar.gz',"
        f" sha256: {SHA}, size: 3, {fields}}}\n"
    )


@pytest.mark.parametrize("headers", ["{X-A: 'b:c'}", "['X-A: b:c']"])
def test_both_header_dialects(headers: str) -> None:
    """Headers are a mapping (Taskgraph) or a list (Gecko), and a value may contain a colon."""
    source = read(fetch(f"headers: {headers}")).fetch("a").source
    assert isinstance(source, StaticUrl)
    assert source.headers == (("X-A", "b:c"),)


def test_taskgraph_keys_are_ignored_and_defaults_merged() -> None:
    """A file of a Taskgraph repository loads unchanged: defaults merge deeply, its own keys are ignored."""
    kind = SourceFile(
        kind="fetch",
        path="fetch/kind.yml",
        text="loader: x\ntransforms: [a]\ntask-defaults:\n  docker-image: x\n  fetch: {type: static-url, size: 3}\n",
    )
    text = (
        "task-defaults:\n  treeherder: {tier: 1}\n"
        f"a:\n  description: d\n  fetch-alias: b\n  run-on-projects: []\n  worker-type: x\n  expires-after: 1 day\n"
        f"  attributes: {{cached_task: false}}\n  fetch: {{url: 'https://h/x', sha256: {SHA.upper()}}}\n"
    )
    found = parse([kind, SourceFile(kind="fetch", path="fetch/a.yml", text=text)])
    source = found.fetch("b").source
    assert isinstance(source, StaticUrl)
    assert (source.integrity.size, source.integrity.digest.hex, source.artifact_name) == (3, SHA, "x")


def test_merge_keys_and_nulls() -> None:
    """`<<:` adds the missing keys, the first source has precedence; a null is not a string, a quoted one is."""
    text = fetch("artifact-name: x").replace("a:", "a: &a", 1) + "b:\n  <<: [*a, {fetch: {}}]\n  description: 'null'\n"
    found = read(text)
    assert found.fetch("b").source == found.fetch("a").source
    assert found.fetch("b").description == "null"
    assert read("~\n").fetches == {}
    with pytest.raises(DefinitionError, match=r"a\.fetch\.artifact-name: is empty"):
        read(fetch("artifact-name: ~"))


def test_file_urls_count_from_the_yaml_file() -> None:
    """A file: URL is relative to the file that contains it."""
    source = (
        read(fetch("mirrors: ['file:../m/a%20b.tar.gz', 'file:///x']"), directory="/base dir\udcff/fetch")
        .fetch("a")
        .source
    )
    assert isinstance(source, StaticUrl)
    assert source.mirrors == ("file:///base%20dir%FF/m/a%20b.tar.gz", "file:///x")


WRONG = {
    "no YAML": ("a: [", "f.yml:2: invalid YAML"),
    "tag": ("a: !!python/object:os.system {}", "the tag"),
    "twice": (GOOD + GOOD, "f.yml:2: a: duplicate key: remove one"),
    "digest": (GOOD.replace(SHA, "zz"), "a.fetch.sha256: expected 64 hex digits, got 2 characters: 'zz'"),
    "size": (GOOD.replace("size: 3", "size: -1"), "a.fetch.size: must be a non-negative integer, got '-1'"),
    "missing": (GOOD.replace(", size: 3", ""), "a.fetch.size: is missing: run `stat"),
    "NUL": (GOOD.replace("https://h/a", "file:%00/a"), "a.fetch.url: contains a NUL"),
    "port 0": (GOOD.replace("//h/", "//h:0/"), "a.fetch.url: port 0 cannot be used: omit the port"),
    "no letters of a host": (GOOD.replace("//h/", "//\u00e4..h/"), "a.fetch.url: invalid URL: "),
    "ftp": (GOOD.replace("https:", "ftp:"), "a.fetch.url: the URL scheme 'ftp' is not supported: use the https form"),
    "unknown key": (fetch("strip-component: 1"), "a.fetch.strip-component: unknown key: did you mean strip-components"),
    "unknown task key": (GOOD.replace("description", "descriptoin"), "a.descriptoin: unknown key: did you mean"),
    "unknown type": (GOOD.replace("static-url", "static"), "the type 'static' is not supported: did you mean static-url"),
    "mozilla type": (GOOD.replace("static-url", "chromium-fetch"), "it runs a script from Mozilla"),
    "name": (GOOD.replace("a:", "'../a':", 1), "invalid name '../a'"),
    "name begins": (GOOD.replace("a:", "_a:", 1), "invalid name '_a': use letters, digits, '.', '_', '+', '~', '@' or '-', starting with a letter or digit"),
    "prefix": (fetch("add-prefix: ../x, artifact-name: a.tar.zst"), "a.fetch.add-prefix: contains the component '..'"),
    "strip": (fetch("strip-components: -1"), "a.fetch.strip-components: must be a non-negative integer, got '-1'"),
    "duplicates": (fetch("duplicates: first"), "invalid value 'first': use refuse or last"),
    "control names": (fetch("control-names: true"), "invalid value 'true': use refuse or keep"),
    "trailing": (fetch("trailing: ignore"), "trailing"),
    "strip name": (fetch("strip-components: 1"), "require a .tar.zst artifact, got 'a.tar.gz'"),
    "artifact name": (fetch("artifact-name: a/b"), "a.fetch.artifact-name: contains a slash"),
    "other archive": (fetch("artifact-name: a.zip"), "cannot repack a .gz archive as 'a.zip': use a .tar.zst name"),
    "password": (GOOD.replace("https://", "https://u:p@"), "contains a user name or password"),
    "no file name": (GOOD.replace("/a.tar.gz", "/"), "cannot derive a file name"),
    "branch": ("a: {description: d, fetch: {type: git, repo: 'https://h/r', revision: " + "a" * 40 + ", branch: b}}", "moves"),
    "short revision": ("a: {description: d, fetch: {type: git, repo: 'https://h/r', revision: abc}}", "invalid commit id 'abc': expected the full 40 or 64 hex digits"),
    "alias": (GOOD.replace("fetch:", "fetch-alias: a, fetch:"), "alias 'a' is also the name of a definition"),
    "header": (fetch("headers: {Host: x}"), "is set by the transport"),
    "bomb": ("a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"b{n}: &b{n} [*{'a' if not n else f'b{n - 1}'}" + f", *{'a' if not n else f'b{n - 1}'}" * 8 + "]\n" for n in range(9)), "more than"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong(case: str) -> None:
    """Each mistake is reported with file, line, key, reason and hint."""
    text, expected = WRONG[case]
    with pytest.raises(DefinitionError) as caught:
        read(text)
    assert expected in str(caught.value)


def test_every_problem_of_every_file_is_reported() -> None:
    """Parsing continues after the first problem."""
    text = fetch("sha1: x, size2: y") + fetch("mirrors: ['ftp://x', 'gopher:y']", "b")
    with pytest.raises(DefinitionError) as caught:
        read(text, "t: {descriptio: x}")
    lines = [str(problem).split(": ")[:2] for problem in caught.value.problems]
    assert lines == [
        ["f.yml:3", "a.fetch.sha1"],
        ["f.yml:3", "a.fetch.size2"],
        ["f.yml:6", "b.fetch.mirrors"],
        ["f.yml:6", "b.fetch.mirrors"],
        ["t.yml:1", "t.descriptio"],
        ["t.yml:1", "t.description"],
    ]


TOOLCHAINS = {
    "unknown fetch": ("t: {description: d, fetches: {fetch: [b]}}", "unknown fetch 'b'"),
    "twice": ("t: {description: d, fetches: {fetch: [a, a]}}", "'a' is listed twice"),
    "dest": ("t: {description: d, fetches: {fetch: [{artifact: a, dest: ../x}]}}", "contains the component '..'"),
    "other kind": ("t: {description: d, fetches: {build: [a]}}", "fetches of the kind 'build' are not supported"),
    "no artifact": (
        "t: {description: d}\nu: {description: d, fetches: {toolchain: [t]}}", "toolchain 't' has no artifact",
    ),
    "circle": (
        "t: {description: d, fetches: {toolchain: [u]}, run: {command: x, toolchain-artifact: t.tar}}\n"
        "u: {description: d, fetches: {toolchain: [t]}, run: {command: x, toolchain-artifact: u.tar}}",
        "depends on itself: t -> u -> t",
    ),
    "nothing makes it": ("t: {description: d, run: {toolchain-artifact: x}}", "no command creates it"),
}  # fmt: skip


@pytest.mark.parametrize("case", TOOLCHAINS)
def test_wrong_toolchains(case: str) -> None:
    """Toolchains that conflict with other definitions are reported."""
    text, expected = TOOLCHAINS[case]
    with pytest.raises(DefinitionError) as caught:
        read(GOOD, text)
    assert expected in str(caught.value)


def test_kind_files() -> None:
    """kind.yml may list the files of its tasks; a path that leaves its directory is ignored."""
    assert kind_files("tasks-from: [a.yml, ../b.yml]") == ("a.yml",)
    assert kind_files("tasks: {}") is None
    assert kind_files("{") is None


def test_schema_is_current() -> None:
    """docs/fetchdefs.schema.json is up to date."""
    assert json.loads((ROOT / "docs/fetchdefs.schema.json").read_text("utf-8")) == json.loads(json.dumps(json_schema()))


def test_own_definitions_load() -> None:
    """The definitions of this repository load: the sample and twenty rows of the GCC toolchain."""
    found = load(ROOT / "fetchdefs")
    assert len(found.fetches) == 22
    assert set(found.toolchains) == {"sample", "linux64-gcc-14"}
