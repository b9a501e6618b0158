"""The cache of parsed definitions: unchanged files are not parsed again, changed files are."""

from __future__ import annotations

import ast
import os
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from doit.cmd_base import ModuleTaskLoader
from hypothesis import given
from hypothesis import strategies as st

from tasks_lib import session
from tasks_lib.definitions import FetchesEntry, StaticUrl, Toolchain, packed, parser
from tasks_lib.definitions.codec import decode, encode
from tasks_lib.definitions.packed import PackedDefinitions
from tasks_lib.definitions.yaml_tree import Tree
from tasks_lib.engine.dodo import task_fetchdefs
from tasks_lib.engine.loader import Loader
from tasks_lib.errors import DefinitionError, UnknownNameError
from tasks_lib.fs.fingerprint import RACY_NS
from tasks_lib.incremental import definition_cache
from tasks_lib.incremental.definition_cache import DefinitionCache
from tasks_lib.incremental.definition_files import load
from tasks_lib.incremental.selection import digests
from tasks_lib.relpath import RelPath
from tasks_lib.settings import Settings
from tasks_lib.shard import unpack_shares
from tests.project import PYTHONPATH, definition, written

SIGNED = (
    "signed:\n  description: d\n  fetch:\n    type: static-url\n    url: https://example.org/a-1.tar.gz\n"
    f"    sha256: {'0' * 64}\n    size: 1\n    mirrors: [https://m.example.org/a]\n    headers: {{X-A: b}}\n"
    "    archive: {max-entries: 5}\n"
    "commit:\n  description: d\n  fetch:\n    type: git\n    repo: https://example.org/r\n"
    f"    revision: {'a' * 40}\n  fetch-alias: other\n"
)
USER = (
    "user:\n  description: u\n  fetches: {fetch: [one, {artifact: other, dest: d, extract: false}]}\n"
    "  run: {script: s.sh, arguments: [a], resources: [r], env: {A: b}, toolchain-artifact: out/x.tar}\n"
)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # the mirrors of this repository do not apply
    files = {
        "fetch/one.yml": definition("one", "https://example.org/one.tar", b"1"),
        "fetch/more.yml": SIGNED,
        "toolchain/all.yml": USER,
    }
    written(tmp_path / "defs", files)
    time.sleep(2 * RACY_NS / 1e9)
    return tmp_path / "defs"


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the name of each parsed file is appended."""
    names: list[str] = []
    true = parser._Reading.file

    def noted(self: parser._Reading, source: parser.SourceFile, defaults: Tree | None) -> object:
        names.append(Path(source.path).name)
        return true(self, source, defaults)

    monkeypatch.setattr(parser._Reading, "file", noted)
    return names


def library(directory: Path, code: str = "code") -> DefinitionCache:
    return DefinitionCache(directory.parent / "kept", code)


def test_values_survive(directory: Path) -> None:
    """A value from the cache equals the parsed one in every field but the values of headers."""
    first = load(directory)
    fetches = dict(first.fetches)
    source = fetches["signed"].source
    assert isinstance(source, StaticUrl)
    assert source.headers == (("X-A", "b"),)
    without = msgspec.structs.replace(source, headers=(("X-A", ""),))
    fetches["signed"] = msgspec.structs.replace(fetches["signed"], source=without)
    load(directory, library(directory))
    again = load(directory, library(directory))
    assert dict(again.fetches) == fetches
    assert dict(again.toolchains) == dict(first.toolchains)
    assert again.fetch("other") == first.fetch("other")


@pytest.mark.parametrize(
    "harm", [(b"'Toolchain'", b"'Toolchaim'"), (b"'a/b'", b"'../'"), (b"'extract'", b"None"), (b"7", b"'x'")]
)
def test_a_damaged_value_is_none(harm: tuple[bytes, bytes]) -> None:
    """Decoding damaged bytes raises ValueError instead of returning an invalid value."""
    entry = FetchesEntry(kind="fetch", name="x", dest=RelPath("a/b"))
    value = Toolchain(name="t", description="d", fetches=(entry,), file="f", line=7)
    assert decode(encode(value)) == value
    plain = repr(msgspec.msgpack.decode(encode(value))).encode()
    assert harm[0] in plain
    with pytest.raises(ValueError, match="invalid encoded definition"):
        decode(msgspec.msgpack.encode(ast.literal_eval(plain.replace(*harm).decode())))


def test_only_what_changed_is_parsed(directory: Path, parsed: list[str]) -> None:
    """A changed byte causes its own file to be parsed; a touch, or a change elsewhere, none."""
    for code, edit, expected in (
        ("code", lambda: None, ["more.yml", "one.yml", "all.yml"]),
        ("code", lambda: None, []),
        ("code", lambda: os.utime(directory / "fetch/one.yml"), []),
        (
            "code",
            lambda: (directory / "fetch/one.yml").write_text("# new\n" + SIGNED.partition("commit:")[2][:0]),
            None,
        ),
    ):
        edit()
        time.sleep(2 * RACY_NS / 1e9)
        parsed.clear()
        if expected is None:
            with pytest.raises(DefinitionError):
                load(directory, library(directory, code))
            assert parsed == ["one.yml"]
        else:
            load(directory, library(directory, code))
            assert parsed == expected


def test_a_changed_size_is_seen(directory: Path, parsed: list[str]) -> None:
    """A file with a new size is parsed; the other files are not."""
    load(directory, library(directory))
    path = directory / "fetch/one.yml"
    path.write_text(path.read_text().replace("size: 1", "size: 2"))
    parsed.clear()
    found = load(directory, library(directory))
    assert "size=2" in repr(found.fetches["one"])
    assert parsed == ["one.yml"]


@pytest.mark.parametrize("at", [0, 30, 80, 400, -1])
def test_a_damaged_file_is_ignored(at: int, directory: Path, parsed: list[str]) -> None:
    """A flipped byte anywhere causes all files to be parsed and the cache to be rewritten."""
    load(directory, library(directory))
    path = directory.parent / "kept"
    content = bytearray(path.read_bytes())
    content[at] ^= 0x11
    path.write_bytes(content)
    parsed.clear()
    load(directory, library(directory))
    assert len(parsed) == 3
    parsed.clear()
    load(directory, library(directory))
    assert parsed == []


def test_a_directory_in_place_of_the_file_is_ignored(directory: Path, parsed: list[str]) -> None:
    """Anything but a regular file counts as missing."""
    (directory.parent / "kept").mkdir()
    load(directory, library(directory))
    assert len(parsed) == 3


def test_other_version_is_ignored(directory: Path, parsed: list[str]) -> None:
    """A cache file written by another version of the code is ignored."""
    load(directory, library(directory))
    parsed.clear()
    load(directory, library(directory, "other"))
    assert len(parsed) == 3


def test_added_removed_and_duplicate(directory: Path, parsed: list[str]) -> None:
    """Added and removed files are noticed; a duplicate name is reported although both files are cached."""
    load(directory, library(directory))
    (directory / "fetch/two.yml").write_text(definition("two", "https://example.org/2", b"2"))
    assert "two" in load(directory, library(directory)).fetches
    assert parsed[-1] == "two.yml"
    (directory / "fetch/two.yml").unlink()
    assert "two" not in load(directory, library(directory)).fetches
    (directory / "fetch/copy.yml").write_text((directory / "fetch/one.yml").read_text())
    with pytest.raises(DefinitionError, match="is defined twice"):
        load(directory, library(directory))
    (directory / "fetch/copy.yml").unlink()
    (directory / "fetch/one.yml").unlink()
    with pytest.raises(DefinitionError, match="unknown fetch 'one'"):
        load(directory, library(directory))


def test_defaults_and_mirrors_concern_every_file(directory: Path, parsed: list[str]) -> None:
    """A change of the defaults in kind.yml or of mirrors.yml causes all files to be parsed."""
    load(directory, library(directory))
    (directory / "fetch/kind.yml").write_text("task-defaults:\n  artifact-prefix: private\n")
    assert load(directory, library(directory)).fetches["one"].artifact_prefix == "private"
    (directory / "fetch/kind.yml").unlink()
    assert load(directory, library(directory)).fetches["one"].artifact_prefix == "public"
    (directory / "mirrors.yml").write_text("{}\n")
    parsed.clear()
    load(directory, library(directory))
    assert set(parsed) == {"mirrors.yml", "one.yml", "more.yml", "all.yml"}
    (directory / "mirrors.yml").unlink()
    assert load(directory, library(directory)).fetches["one"] == load(directory).fetches["one"]


def test_one_or_all(directory: Path) -> None:
    """A lookup by name equals a full load; a part of a name is not a name."""
    text = "".join(definition(f"n{number}", f"https://example.org/{number}", b"%d" % number) for number in range(40))
    (directory / "fetch/many.yml").write_text(text)
    load(directory, library(directory))
    names = ["n3", "n39", "one", "n0", "commit"]
    for before in (0, 100):
        found = load(directory, library(directory)).fetches
        for _ in range(before):
            assert "n7" in found
        assert [found[name].name for name in names] == names
        for wrong in ("n", "", "3", "n40", "n3\0n4"):
            assert wrong not in found
            with pytest.raises(KeyError):
                found[wrong]
        assert len(found) == len(list(found)) == 43


def test_definition_digests(directory: Path) -> None:
    """A changed definition gets another digest; the others keep theirs."""
    before = digests(load(directory, library(directory)))
    path = directory / "fetch/one.yml"
    path.write_text(path.read_text().replace("size: 1", "size: 2"))
    after = digests(load(directory, library(directory)))
    assert {name for name in before[0] if before[0][name] != after[0][name]} == {"one"}
    assert before[1] == after[1]
    assert len(set(before[0].values())) == len(before[0]) == 3


def test_heavy_modules_stay_out(directory: Path) -> None:
    """Loading dodo.py imports no module for sockets, compression or YAML, except those that doit imports."""
    import subprocess
    import sys

    code = "import sys, doit; stock = set(sys.modules); import doit_fetch; doit_fetch.DOIT_CONFIG; print(*sorted({'requests','urllib3','zstandard','rich','yaml','ssl'} & (set(sys.modules) - stock)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=directory.parent,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ""


# --- globs

#: Fetches with and without a repack and an extraction, and toolchains that need them and each other.
FETCHES = "".join(
    definition(f"{letter}{number}", f"https://example.org/{letter}{number}.{suffix}", b"x", more)
    for number in range(3)
    for letter, suffix, more in (
        ("z", "bin", ""),
        ("b", "tar.gz", ""),
        ("a", "tar.gz", "    artifact-name: a.tar.zst\n    strip-components: 1\n"),
    )
)
_TOOLCHAIN = "{}:\n  description: t\n  fetches: {{{}}}\n  run: {{command: [x], toolchain-artifact: o.tar}}\n"
TOOLCHAINS = (
    _TOOLCHAIN.format("u2", "fetch: [b1, a1], toolchain: [u1]")
    + _TOOLCHAIN.format("u1", "fetch: [a0]")
    + _TOOLCHAIN.format("b1", "fetch: [b0]")
)
#: The words, and the definitions that are decoded for them; None for all.
GLOBS: dict[str, str | None] = {
    "fetch:a*": "a0 a1 a2",
    "fetch:[ab]1": "a1 b1",
    "fetch:b* fetch:a*": "a0 a1 a2 b0 b1 b2",
    "fetch:b1 *:[ab]1": "a1 b0 b1",
    "repack:a*": "a0 a1 a2",
    "repack:*": "a0 a1 a2 b0 b1 b2 z0 z1 z2",
    "repack:z*": "z0 z1 z2",
    "extract:a*": "a0 a1 a2",
    "extract:u1*": "a0 u1",
    "extract:*/a*": "a0 a1 b1 u1 u2",
    "extract:b*": "b0 b1 b2",
    "toolchain:*": "a0 a1 b0 b1 u1 u2",
    "toolchain:u[12] fetch:z0": "a0 a1 b1 u1 u2 z0",
    "fetch:q*": "",
    "toolchain:a*": "",
    "extract:u9/*": "",
    "fetch:a* fetch:q*": "a0 a1 a2",
    "kind:*": None,
    "fetc?": None,
    "f*": None,
    "q*": None,
    "*/a*": None,
    "fetch:a* unknown": None,
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with these definitions, old enough for their fingerprints to prove that they are unchanged."""
    directory = tmp_path_factory.mktemp("globs")
    written(directory / "fetchdefs", {"fetch/all.yml": FETCHES, "toolchain/all.yml": TOOLCHAINS})
    time.sleep(2 * RACY_NS / 1e9)
    return directory


def selected(words: str, *, everything: bool) -> tuple[list[str], set[str]]:
    """Return the tasks that the words mean, or the error, and the loaded tasks."""
    settings = Settings.parse(variables={}, environ={})
    session.start_session(session.Session(settings, {}))
    others: dict[str, Any] = {"task_zz": lambda: {"actions": None}} if everything else {}
    stock: Any = ModuleTaskLoader({"task_fetchdefs": task_fetchdefs, **others})  # type: ignore[no-untyped-call]
    stock.cmd_names, stock.config = [], {}
    named = words.split()
    try:
        tasks = Loader(stock).load_tasks(SimpleNamespace(execute_tasks=False, scope="all"), named)
    except UnknownNameError as error:
        return [str(error)], set()
    return named, {task.name for task in tasks}


@pytest.mark.parametrize("words", GLOBS)
def test_a_glob_loads_what_it_selects(words: str, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A glob means the same tasks as with all of them loaded, and only what it selects is decoded."""
    monkeypatch.chdir(repository)
    monkeypatch.setattr(session, "_current", None)
    meant, _ = selected(words, everything=True)
    found: set[str] = set()
    true = decode

    def noted(text: memoryview) -> Any:
        found.add(true(text).name)
        return true(text)

    monkeypatch.setattr(definition_cache, "decode", noted)
    here, loaded = selected(words, everything=False)
    assert here == meant
    expected = GLOBS[words]
    assert found == (
        {f"{a}{n}" for a in "abz" for n in range(3)} | {"u1", "u2"} if expected is None else set(expected.split())
    )
    assert not loaded or set(here) <= loaded


OPERATIONS = st.lists(st.tuples(st.sampled_from(["set", "delete", "add"]), st.integers(0, 12), st.integers(1, 3)))


@given(operations=OPERATIONS, most_fresh=st.integers(1, 6))
def test_packed_definitions_are_a_mapping(operations: list[tuple[str, int, int]], most_fresh: int) -> None:
    """Encoded or not, the definitions are those of a dict, in its order."""
    packed: PackedDefinitions[Toolchain] = PackedDefinitions(most_fresh)
    expected: dict[str, Toolchain] = {}
    for word, number, line in operations:
        name, value = f"t{number}", Toolchain(name=f"t{number}", description="d", fetches=(), file="f", line=line)
        if word == "delete" and name in expected:
            del expected[name], packed[name]
        elif word == "set":
            expected[name] = packed[name] = value
        elif word == "add" and name not in expected:
            expected[name] = value
            packed.add_encoded({name: encode(value)})
        assert len(packed) == len(expected) and len(packed.values_at_hand) < most_fresh
    assert list(packed.items()) == list(expected.items())
    assert list(reversed(packed)) == list(reversed(expected))
    assert packed.encoded() == {name: encode(one) for name, one in expected.items()}
    assert all(name in packed for name in expected) and "other" not in packed


def test_many_definitions_are_encoded(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With many definitions the first load and the next ones return what a load without a cache returns."""
    monkeypatch.setattr(parser, "MANY", 2)
    plain = load(directory)
    for _ in range(2):
        kept = load(directory, DefinitionCache(directory / "kept", "code"))
        assert list(kept.fetches) == list(plain.fetches) and list(kept.toolchains) == list(plain.toolchains)
        assert {name: encode(one) for name, one in kept.fetches.items()} == {
            name: encode(one) for name, one in plain.fetches.items()
        }
        assert kept.fetch("other").name == "commit"
    headers = plain.fetches["signed"].source.headers  # type: ignore[union-attr]
    assert [str(value) for _, value in headers] == ["b"], "a load without a cache keeps the values of headers"


def test_the_shares_are_those_of_the_definitions(directory: Path) -> None:
    """Shards divide the definitions by the recipe keys and sizes that are noted while the files are read."""
    cache = DefinitionCache(directory / "cache", "code")
    fetches = load(directory, cache).fetches
    expected = {name: definition_cache.share_of(fetch) for name, fetch in fetches.items()}
    keys, sizes = unpack_shares(cache.shares)
    assert dict(zip(fetches, zip(keys, sizes, strict=True), strict=True)) == expected
    assert len(set(expected.values())) == 3


def test_many_definitions_are_compressed_one_chunk_at_a_time() -> None:
    """A block of many definitions takes the memory of their compressed bytes, and never that of all their bytes."""
    texts = {f"d{number}": os.urandom(8) + bytes(240) for number in range(40 * definition_cache._CHUNK)}
    definition_cache.Block.of(dict.fromkeys(texts, b"x"))  # imports
    tracemalloc.start()
    try:
        block = definition_cache.Block.of(texts)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    kept = sum(map(len, (block.names, block.ends, block.digests, *block.chunks)))
    assert held < 1.2 * kept
    assert peak < 0.75 * sum(map(len, texts.values()))


@given(
    names=st.lists(st.text("ab", min_size=1, max_size=4), unique=True, max_size=30),
    asked=st.lists(st.text("ab\0", max_size=4), max_size=60),
    chunk=st.sampled_from([1, 3, 512]),
    near=st.sampled_from([1, 8, 4096]),
)
def test_a_block_has_each_definition(names: list[str], asked: list[str], chunk: int, near: int) -> None:
    """Whatever the order of the questions, a name leads to its own bytes, and other names to none."""
    texts = {name: f"definition {name} ".encode() * 9 for name in names}
    before = definition_cache._CHUNK, definition_cache._NEAR
    definition_cache._CHUNK, definition_cache._NEAR = chunk, near  # type: ignore[misc]
    try:
        lazy: definition_cache.LazyDefinitions[Any] = definition_cache.LazyDefinitions(
            definition_cache.Block.of(texts), {}
        )
        for name in [*asked, *names, *asked]:
            assert (name in lazy) is (name in texts)
            if name in texts:
                assert bytes(lazy.text(name)) == texts[name]
        assert list(lazy) == names and len(lazy) == len(names)
    finally:
        definition_cache._CHUNK, definition_cache._NEAR = before  # type: ignore[misc]


def test_the_first_load_decodes_what_needs_it(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the definitions that were encoded early, only those with an alias, platforms or mirrors are decoded."""
    monkeypatch.setattr(parser, "MANY", 2)
    others = [definition(name, f"https://example.org/{name}.tar", b"1") for name in ("a", "b", "c")]
    mirrored = definition("m", "https://example.org/m.tar", b"1", "    mirrors: [https://m.example.org/m.tar]\n")
    alias = definition("n", "https://example.org/n.tar", b"1") + "  fetch-alias: other-n\n"
    written(directory, {"fetch/two.yml": "".join((*others, mirrored, alias))})
    (directory / "fetch/more.yml").unlink()
    (directory / "toolchain/all.yml").unlink()
    found: set[str] = set()

    def noted(text: bytes) -> Any:
        found.add(decode(text).name)
        return decode(text)

    monkeypatch.setattr(packed, "decode", noted)
    definitions = load(directory, DefinitionCache(directory / "cache", "code"))
    assert found == {"m", "n"}
    assert definitions.fetch("other-n").name == "n"
