"""Definitions: Taskgraph's dialect is read unchanged, and all problems are reported at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks_lib.definitions import (
    Debian,
    Definitions,
    SourceFile,
    StaticUrl,
    json_schema,
    list_kind_files,
    parse,
    yaml_tree,
)
from tasks_lib.definitions.values import Update
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
    with pytest.raises(DefinitionError, match="unknown key"):
        read(fetch("").replace("a:", "a: &a", 1) + "b:\n  '<<': *a\n")


def test_keys_count_as_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of the nodes of a file covers keys, values and the mapping that has them."""
    text = "a: {b: c, d: e}"
    monkeypatch.setattr(yaml_tree, "MAX_NODES", 7)
    assert yaml_tree.parse_yaml(text, print) is not None
    monkeypatch.setattr(yaml_tree, "MAX_NODES", 6)
    with pytest.raises(yaml_tree.YamlFaultError, match="more than 6 values"):
        yaml_tree.parse_yaml(text, print)


def test_an_option_as_it_is_by_default_changes_nothing() -> None:
    """`refuse` is the default of the options about archives, written or not."""
    assert read(fetch("duplicates: refuse, zip-prefix: refuse")).fetch("a").source == read(fetch("")).fetch("a").source


def test_file_urls_count_from_the_yaml_file() -> None:
    """A file: URL is relative to the file that contains it."""
    source = (
        read(fetch("mirrors: ['file:../m/a%20b.tar.gz', 'file:///x']"), directory="/base dir\udcff/fetch")
        .fetch("a")
        .source
    )
    assert isinstance(source, StaticUrl)
    assert source.mirrors == ("file:///base%20dir%FF/m/a%20b.tar.gz", "file:///x")


def test_keys_about_upstream() -> None:
    """`update` and `purl` are read for every type of source, and have defaults."""
    update = "update: {from: git-tags, url: 'https://h/r.git', match: 'v(.*)', ignore: rc, prereleases: true}, purl: pkg:npm/%40a/b@1"
    wanted = Update(origin="git-tags", url="https://h/r.git", match="v(.*)", ignore="rc", prereleases=True)
    commit = f"a: {{description: d, fetch: {{type: git, repo: 'https://h/r', revision: {SHA[:40]}, {update}}}}}\n"
    for text in (fetch(update), commit, commit.replace("type: git", "type: hg")):
        source = read(text).fetch("a").source
        assert not isinstance(source, Debian)
        assert (source.update, source.purl) == (wanted, "pkg:npm/%40a/b@1")
    for text, expected in ((fetch("update: {}"), Update()), (GOOD, None)):
        source = read(text).fetch("a").source
        assert isinstance(source, StaticUrl)
        assert source.update == expected


WRONG = {
    "no YAML": ("a: [", "f.yml:2: invalid YAML"),
    "tag": ("a: !!python/object:os.system {}", "a tag is not allowed"),
    "twice": (GOOD + GOOD, "f.yml:2: a: duplicate key: remove one"),
    "digest": (GOOD.replace(SHA, "zz"), "a.fetch.sha256: expected 64 hex digits, got 2 characters: 'zz'"),
    "tab": ("a:\n  fetch:\n\ttype: x\n", "f.yml:3: invalid YAML: a tab in the indentation, column 1: indent with spaces"),
    "tab after spaces": ("a:\n  fetch:\n  \ttype: x\n", "f.yml:3: invalid YAML: a tab in the indentation, column 3: indent"),
    "tab in a scalar": ("a:\n  b: 1\n\tc: 2\n", "f.yml:3: invalid YAML: a tab in the indentation, column 1: indent"),
    "tab before a list": ("a:\n\t- x\n", "f.yml:2: invalid YAML: a tab in the indentation, column 1: indent"),
    "column": ("a: b: c", "f.yml:1: invalid YAML: mapping values are not allowed in this context, column 5: check"),
    "sha512 key": (GOOD.replace("sha256:", "sha512:"), "a.fetch.sha512: sha512 is not supported: only sha256 is: write `sha256:`"),
    "integrity key": (GOOD.replace("sha256:", "integrity:"), "integrity is not supported: only sha256 is"),
    "sha512": (GOOD.replace(SHA, "0" * 128), "a.fetch.sha256: sha512 is not supported: only sha256 is: copy"),
    "md5 with its name": (GOOD.replace(SHA, "'md5:" + "0" * 32 + "'"), "md5 is not supported"),
    "SRI of sha512": (GOOD.replace(SHA, "sha512-" + "A" * 86 + "=="), "sha512 is not supported"),
    "SRI": (GOOD.replace(SHA, "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="), "got base64 (SRI): write e3b0c44298fc1c149afbf4c8996fb924"),
    "base64": (GOOD.replace(SHA, "'47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"), "got base64 (SRI): write e3b0c44298fc1c149afbf4c8996fb924"),
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
    "source of versions": (fetch("update: {from: gitlab}"), "a.fetch.update.from: invalid value 'gitlab': use git-tags or github or html"),
    "page of versions": (fetch("update: {from: html, url: 'file:///x'}"), "a.fetch.update: the URL scheme 'file' is not supported"),
    "page without a source": (fetch("update: {url: 'https://h/'}"), "a.fetch.update: `url` needs `from`"),
    "tags of a helper": (fetch("update: {from: git-tags, url: 'ext::sh'}"), "a.fetch.update: the URL uses the transport 'ext'"),
    "repository of a forge": (fetch("update: {from: github, url: '../x'}"), "a.fetch.update: invalid repository '../x': write OWNER/REPO"),
    "expression": (fetch("update: {match: '('}"), "a.fetch.update.match: invalid regular expression: "),
    "lookahead": (fetch("update: {ignore: '(?=a)'}"), "a.fetch.update.ignore: invalid regular expression: "),
    "groups": (fetch("update: {match: '(a)(b)'}"), "a.fetch.update.match: has 2 groups: use one group around the version"),
    "purl": (fetch("purl: flask"), "a.fetch.purl: invalid package URL 'flask': write pkg:TYPE/NAME@VERSION"),
    "prefix": (fetch("add-prefix: ../x, artifact-name: a.tar.zst"), "a.fetch.add-prefix: contains the component '..'"),
    "strip": (fetch("strip-components: -1"), "a.fetch.strip-components: must be a non-negative integer, got '-1'"),
    "duplicates": (fetch("duplicates: first"), "invalid value 'first': use refuse or last"),
    "control names": (fetch("control-names: true"), "invalid value 'true': use refuse or keep"),
    "trailing": (fetch("trailing: ignore"), "trailing"),
    "format": (fetch("format: tar.zip"), "a.fetch.format: "),
    "repack": (fetch("repack: always"), "a.fetch.repack: "),
    "single repacked": (fetch("format: gz, artifact-name: a.tar.zst"), "`format: gz` is a single file, which excludes a .tar.zst artifact: use `format: tar.gz`"),
    "single stripped": (fetch("format: xz, strip-components: 1"), "which excludes strip-components: use `format: tar.xz` for a tar"),
    "executable archive": (fetch("executable: true"), "applies to a single file, not to an archive"),
    "executable format": (fetch("executable: true, format: 7z"), "applies to a single file, not to an archive"),
    "artifact name": (fetch("artifact-name: a/b"), "a.fetch.artifact-name: contains a slash"),
    "other archive": (fetch("artifact-name: a.zip"), "cannot repack a .gz archive as 'a.zip': use a .tar.zst name"),
    "password": (GOOD.replace("https://", "https://u:p@"), "contains a user name or password"),
    "no file name": (GOOD.replace("/a.tar.gz", "/"), "cannot derive a file name"),
    "branch": ("a: {description: d, fetch: {type: git, repo: 'https://h/r', revision: " + "a" * 40 + ", branch: b}}", "moves"),
    "short revision": ("a: {description: d, fetch: {type: git, repo: 'https://h/r', revision: abc}}", "invalid commit id 'abc': expected the full 40 or 64 hex digits"),
    "alias": (GOOD.replace("fetch:", "fetch-alias: b, fetch:") + fetch("", "b"), "alias 'b' is also the name of a definition"),
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


WRONG_HEADERS = {
    "no colon": ("['Authorization Bearer S3CRET']", "header 1: expected a name and a value"),
    "name": ("{'X Token': S3CRET}", "header 1: expected a name"),
    "value as name": ("{'Authorization: S3CRET': }", "header 1: expected a name"),
    "comma": ("{Accept: a, X-A: b,S3CRET}", "header 3: expected a name"),
    "line break": ('{X-Token: "S3CRET\\r\\nX: y"}', "header X-Token: the value contains a character"),
    "not latin-1": ("{X-Token: S3CRET\u20ac}", "header X-Token: the value contains a character"),
    "mapping in a list": ("[X-Token: S3CRET]", "header 1: must be a string"),
    "list": ("{X-Token: [S3CRET]}", "header 1: must be a string"),
    "text": ("'X-Token: S3CRET'", "headers: must be a mapping of headers"),
    "alias": ("{X-Token: *S3CRET}", "unknown alias: quote a value"),
    "tag": ("{X-Token: !S3CRET x}", "a tag is not allowed: quote a value"),
    "reserved": ("{range: S3CRET}", "header range: is set by the transport: remove it"),
    "lower case": ("{X-Token: 'S3CRET ${my_token}'}", "header X-Token: invalid reference ${my_token}: write ${NAME}"),
    "text in braces": ("{X-Token: '${S3CRET text}'}", "header X-Token: '$' without a valid reference"),
    "not closed": ("{X-Token: '${S3CRET'}", "header X-Token: '$' without a valid reference"),
    "default": ("{X-Token: '${A:-S3CRET}'}", "header X-Token: '$' without a valid reference"),
    "no braces": ("{X-Token: $S3CRET}", "header X-Token: '$' without a valid reference"),
    "end": ("{X-Token: S3CRET$}", "header X-Token: '$' without a valid reference"),
}


@pytest.mark.parametrize("case", WRONG_HEADERS)
def test_a_header_mistake_prints_no_value(case: str) -> None:
    """A mistake in `headers:` is reported with the name or position of the header, never with its value."""
    text, expected = WRONG_HEADERS[case]
    with pytest.raises(DefinitionError) as caught:
        read(fetch(f"headers: {text}"))
    assert expected in str(caught.value)
    assert "S3CRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://h/x", True),
        ("HTTP://LOCALHOST:80/x", True),
        ("http://127.1.2.3/x", True),
        ("http://[::1]:8/x", True),
        ("file:/x", True),
        ("http://h/x", False),
        ("http://localhost.h/x", False),
        ("http://0.0.0.0/x", False),
        ("http://127.0.0.1.h/x", False),
    ],
)
def test_references_are_sent_over_private_routes_only(url: str, allowed: bool) -> None:
    """A header with ${NAME} requires https, or http to this machine; a literal one does not."""
    text = fetch("headers: {X-A: '${TOKEN}'}").replace("https://h/a.tar.gz", url)
    read(text.replace("${TOKEN}", "$$a"))
    if allowed:
        read(text)
    else:
        with pytest.raises(DefinitionError, match=r"are sent over https only, or over http to loopback"):
            read(text)


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
    "placed, not stripped": (
        "t: {description: d, fetches: {fetch: [{artifact: s, extract: false}]}}", "'s' is placed as it was downloaded, without strip-components: set `artifact-name: NAME.tar.zst` on it",
    ),
    "circle": (
        "t: {description: d, fetches: {toolchain: [u]}, run: {command: x, toolchain-artifact: t.tar}}\n"
        "u: {description: d, fetches: {toolchain: [t]}, run: {command: x, toolchain-artifact: u.tar}}",
        "depends on itself: t -> u -> t",
    ),
    "nothing makes it": ("t: {description: d, run: {toolchain-artifact: x}}", "no command creates it"),
}  # fmt: skip


def test_every_cycle_of_a_tree_is_refused() -> None:
    """A Taskgraph tree with several cycles keeps the toolchains that lead to none of them."""
    needs = {
        "a": "b",
        "b": "a",
        "c": "d",
        "d": "e",
        "e": "c",
        "user": "d",
        "itself": "itself",
        "good": "base",
        "base": "",
    }
    text = "".join(
        f"{name}: {{description: d, fetches: {{toolchain: [{need}]}},"
        f" run: {{script: s.sh, toolchain-artifact: public/{name}.tar}}}}\n"
        for name, need in needs.items()
    )
    found = parse([SourceFile(kind="toolchain", path="t.yml", text=text, root="/r", scripts="/r/s")])
    assert set(found.toolchains) == {"good", "base"}
    reasons = {one.task: one.reason for one in found.refused}
    assert reasons["toolchain:user"] == "it needs toolchain:d, which is refused"
    assert sorted(one for one in reasons.values() if "itself" in one) == [
        "fetches.toolchain: depends on itself: a -> b -> a",
        "fetches.toolchain: depends on itself: c -> d -> e -> c",
        "fetches.toolchain: depends on itself: itself -> itself",
    ]


@pytest.mark.slow
def test_many_unknown_names() -> None:
    """All unknown names are reported; the number of names compared for suggestions does not grow with theirs."""
    fetches = "".join(fetch("strip-components: 0", f"name-a{number}") for number in range(1000))
    entries = ", ".join(f"name-b{number}" for number in range(1000))
    with pytest.raises(DefinitionError) as caught:
        read(fetches, f"t: {{description: d, fetches: {{fetch: [{entries}]}}}}")
    problems = caught.value.problems
    assert len(problems) == 1000
    hints = [bool(one.hint) for one in problems]
    assert hints == sorted(hints, reverse=True)
    assert 10 <= sum(hints) <= 300


@pytest.mark.parametrize("name", ["extracted", "Extracted", "fetches", "artifacts", "report.html", "trace.json"])
def test_reserved_names(name: str) -> None:
    """A fetch or toolchain with the name of a directory or file of the build directory is refused by name."""
    reason = f"1: {name}: the name '{name}' is reserved for a directory or file that doit-fetch creates: choose another"
    for fetches, toolchains in ((GOOD.replace("a:", f"{name}:", 1), ""), (GOOD, f"{name}: {{description: d}}")):
        with pytest.raises(DefinitionError) as caught:
            read(fetches, toolchains)
        assert reason in str(caught.value)


@pytest.mark.parametrize("case", TOOLCHAINS)
def test_wrong_toolchains(case: str) -> None:
    """Toolchains that conflict with other definitions are reported."""
    text, expected = TOOLCHAINS[case]
    with pytest.raises(DefinitionError) as caught:
        read(GOOD + fetch("strip-components: 1", "s"), text)
    assert expected in str(caught.value)


def listed(text: str) -> tuple[str, ...] | None:
    return list_kind_files(SourceFile(kind="fetch", path="kind.yml", text=text))


def test_kind_files() -> None:
    """kind.yml may list the files of its tasks; a path that leaves its directory is ignored."""
    assert listed("tasks-from: [a.yml, ../b.yml]") == ("a.yml",)
    assert listed("tasks: {}") is None
    assert listed("{") is None


def test_schema_is_current() -> None:
    """docs/fetchdefs.schema.json is up to date."""
    assert json.loads((ROOT / "docs/fetchdefs.schema.json").read_text("utf-8")) == json.loads(json.dumps(json_schema()))


def test_own_definitions_load() -> None:
    """The definitions of this repository load: the sample, its packages, and twenty rows of the GCC toolchain, the image."""
    found = load(ROOT / "fetchdefs")
    assert len(found.fetches) == 24
    assert set(found.toolchains) == {"sample", "linux64-gcc-14", "image-tools"}
