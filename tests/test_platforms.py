"""`platforms:`: one definition with a file for each platform."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tasks_lib.definitions import Definitions, SourceFile, json_schema, parse
from tasks_lib.definitions.codec import decode, encode
from tasks_lib.definitions.platform_selection import select_platform
from tasks_lib.definitions.values import Fetch, StaticUrl
from tasks_lib.errors import DefinitionError, SettingError
from tasks_lib.host import machine_platform
from tasks_lib.platforms import name_platform, parse_platform
from tasks_lib.settings import Settings
from tests.project import DODO, doit, ran, written

HERE = machine_platform()
OTHER = "macos-aarch64" if HERE != "macos-aarch64" else "linux-x86_64"
THIRD = "windows-x86_64"


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ("linux-x86_64", "linux-x86_64"),
        ("linux-amd64", "linux-x86_64"),
        ("Linux/x64", "linux-x86_64"),
        ("linux_x86_64", "linux-x86_64"),
        ("darwin-arm64", "macos-aarch64"),
        ("osx-arm64", "macos-aarch64"),
        ("macos-aarch64", "macos-aarch64"),
        ("win32-x64", "windows-x86_64"),
        ("linux-armhf", "linux-armv7"),
        ("linux-x86", "linux-i686"),
        ("freebsd-amd64", "freebsd-x86_64"),
        ("linux", ""),
        ("linux-", ""),
        ("plan9-x86_64", ""),
        ("linux-x86_64-musl", ""),
        ("linux-x86_64\n", ""),
        ("", ""),
    ],
)
def test_names_of_platforms(text: str, platform: str) -> None:
    """Usual names mean one platform; what is none is no platform."""
    assert parse_platform(text) == platform


def test_this_machine() -> None:
    """The words of uname(1) become a platform; unknown ones stay."""
    assert name_platform("Darwin", "arm64") == "macos-aarch64"
    assert name_platform("Linux", "mips") == "linux-mips"


def entry(url: str = "https://e/x", content: bytes = b"x", **more: Any) -> dict[str, Any]:
    return {"url": url, "size": len(content), "sha256": hashlib.sha256(content).hexdigest(), **more}


def document(platforms: Any, **more: Any) -> str:
    fetch = {"type": "static-url", "platforms": platforms, **more}
    return yaml.safe_dump({"tool": {"description": "a tool", "fetch": fetch}}, sort_keys=False)


def parsed(*texts: str, kind: str = "fetch") -> Definitions:
    return parse([SourceFile(kind=kind, path=f"f{at}.yml", text=text) for at, text in enumerate(texts)])


def static(definitions: Definitions, name: str) -> StaticUrl:
    source = definitions.fetches[name].source
    assert isinstance(source, StaticUrl)
    return source


def test_selection() -> None:
    """NAME is the content of the selected platform, NAME@PLATFORM that of another one; keys above hold for all."""
    text = document(
        {
            "linux-amd64": entry("https://e/lin.tar.gz", b"l"),
            "darwin-arm64": entry("https://e/mac.zip", b"m", **{"strip-components": 0, "archive": {"max-entries": 2}}),
        },
        **{"strip-components": 1, "artifact-name": "tool.tar.zst", "archive": {"max-ratio": 9}},
    )
    found = select_platform(parsed(text), "", "linux-x86_64")
    assert list(found.fetches) == ["tool", "tool@macos-aarch64"]
    assert (static(found, "tool").url, static(found, "tool").strip_components) == ("https://e/lin.tar.gz", 1)
    mac = static(found, "tool@macos-aarch64")
    assert (mac.url, mac.strip_components, mac.artifact_name) == ("https://e/mac.zip", 0, "tool.tar.zst")
    assert dict(mac.archive) == {"max_ratio": 9, "max_entries": 2}
    assert [found.fetches[name].name for name in found.fetches] == list(found.fetches)
    other = select_platform(parsed(text), "macos-aarch64", "linux-x86_64")
    assert list(other.fetches) == ["tool", "tool@linux-x86_64"]
    assert static(other, "tool").url == "https://e/mac.zip"
    assert found.skipped == other.skipped == ()
    none = select_platform(parsed(text), "windows-x86_64", "linux-x86_64")
    assert list(none.fetches) == ["tool@linux-x86_64", "tool@macos-aarch64"]
    assert [(one.task, one.reason) for one in none.skipped] == [
        ("fetch:tool", "it has no content for windows-x86_64, only for linux-x86_64, macos-aarch64")
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (document({"linux-x86_64": entry(), "linux-amd64": entry()}), "platforms.linux-amd64: is the platform linux-x86"),
        (document({"linux-x8664": entry()}), "platforms.linux-x8664: unknown platform: did you mean linux-x86_64"),
        (document({}), "tool.fetch.platforms: needs at least one platform"),
        (document([entry()]), "tool.fetch.platforms: needs at least one platform"),
        (document({"linux-x86_64": "x"}), "platforms.linux-x86_64: must be a mapping"),
        (document({"linux-x86_64": {"url": "https://e/x", "size": 1}}, sha256="0" * 64), "linux-x86_64.sha256: is missing"),
        (document({"linux-x86_64": {"size": 1, "sha256": "0" * 64}}, url="https://e/x"), "linux-x86_64.url: is missing"),
        (document({"linux-x86_64": entry(type="git")}), "platforms.linux-x86_64.type: is that of every platform"),
        (document({"linux-x86_64": entry(mirror="x")}), "platforms.linux-x86_64.mirror: unknown key"),
        (document({"linux-x86_64": entry(platforms={})}), "platforms.linux-x86_64.platforms: unknown key"),
        (document({"linux-x86_64": entry("ftp://e/x")}), "platforms.linux-x86_64.url"),
        (document({"linux-x86_64": entry()}, type="git", repo="https://e/r", revision="0" * 40), "platforms: unknown key"),
        (document({"linux-x86_64": entry()}).replace("tool:", "tool@darwin-arm64:", 1), "ends with a platform"),
    ],
)  # fmt: skip
def test_invalid_platforms(text: str, reason: str) -> None:
    """A definition with an invalid platform is refused by place and reason."""
    with pytest.raises(DefinitionError, match=f"(?s){reason}"):
        parsed(text)


def test_own_url_beside_platforms() -> None:
    """A url, size and sha256 for Taskgraph beside the platforms have no effect."""
    text = document({"linux-x86_64": entry("https://e/lin")}, **entry("https://e/own", b"own"))
    assert static(select_platform(parsed(text), "linux-x86_64", "linux-x86_64"), "tool").url == "https://e/lin"


@pytest.mark.parametrize("foreign", [["linux", "mac"], {"linux64": {}}, "all"])
def test_a_key_of_a_transform(foreign: Any) -> None:
    """In a Taskgraph tree, `platforms` of another shape belongs to a transform of the project, and is ignored."""
    text = document(foreign, **entry())
    found = parse([SourceFile(kind="fetch", path="f.yml", text=text, root="/tree")])
    assert (list(found.fetches), found.fetches["tool"].platforms, found.refused) == (["tool"], (), ())
    assert found.fetches["tool"].ignored == ("fetch.platforms",)
    own = SourceFile(kind="fetch", path="f.yml", text=document({HERE: entry()}, **entry()), root="/tree")
    used = parse([own]).fetches["tool"]
    assert ([name for name, _ in used.platforms], used.ignored) == ([HERE], ())


def test_schema() -> None:
    """The JSON Schema accepts platforms, and refuses what the reader refuses."""
    schema = json_schema()
    jsonschema.validate(yaml.safe_load(document({"linux-amd64": entry()}, executable=True)), schema)
    for platforms in ({}, {"amiga": entry()}, {"linux-x86_64": {"url": "https://e/x"}}, {"linux-x86_64": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(yaml.safe_load(document(platforms)), schema)


def test_cached_definitions_have_no_header_values() -> None:
    """The encoded definition has the names of headers only, for each platform."""
    secret: dict[str, Any] = {"headers": {"X-Token": "hunter2"}}
    fetch = parsed(document({HERE: entry(**secret), OTHER: entry()}, **secret)).fetches["tool"]
    assert b"hunter2" not in encode(fetch)
    again = decode(encode(fetch))
    assert isinstance(again, Fetch)
    assert [name for name, _ in again.platforms] == [HERE, OTHER]


def test_mirrors_of_platforms() -> None:
    """mirrors.yml applies to each platform; an unknown group of any of them is an error."""
    mirrors = SourceFile(kind="mirrors", path="m.yml", text="groups: {gnu: {urls: [https://a/, https://b/]}}\n")
    text = document({HERE: entry("https://e/x"), OTHER: entry("mirror://gnu/x")})
    found = parse([mirrors, SourceFile(kind="fetch", path="f.yml", text=text)])
    other = static(select_platform(found, OTHER, HERE), "tool")
    assert [place.url for place in other.places] == ["https://a/x", "https://b/x"]
    with pytest.raises(DefinitionError, match="unknown mirror group 'gone'"):
        parse([mirrors, SourceFile(kind="fetch", path="f.yml", text=text.replace("gnu/x", "gone/x"))])


def test_setting() -> None:
    """The setting takes any name of a platform, and `all`."""
    for text, platform in (("darwin-arm64", "macos-aarch64"), ("all", "all"), ("", "")):
        assert Settings.parse(variables={"platform": text}, environ={}).platform == platform
    with pytest.raises(SettingError, match="invalid value 'amiga' for FETCH_PLATFORM: unknown platform"):
        Settings.parse(variables={}, environ={"FETCH_PLATFORM": "amiga"})


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project: `both` for two platforms, `away` only for another one, and toolchains that need them."""
    files = {"here": b"here", "there": b"there", "plain": b"plain"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    own = {name: entry(f"file:../../{name}", content) for name, content in files.items()}
    fetches = {
        "both": {"platforms": {HERE: own["here"], OTHER: own["there"]}},
        "away": {"platforms": {OTHER: own["there"]}},
        "plain": own["plain"],
    }
    chains: dict[str, Any] = {
        "command": {"fetches": {"fetch": ["both"]}, "run": {"command": ["cp", "here", "../artifacts-1/out"], "toolchain-artifact": "out"}},
        "files": {"fetches": {"fetch": [{"artifact": "both", "extract": False}]}},
        "needs-away": {"fetches": {"fetch": ["away"]}},
        "needs-command": {"fetches": {"toolchain": ["command"]}},
    }  # fmt: skip
    described = {name: {"description": name, "fetch": {"type": "static-url", **one}} for name, one in fetches.items()}
    toolchains = {name: {"description": name, **one} for name, one in chains.items()}
    return written(
        tmp_path,
        {
            "dodo.py": DODO,
            "fetchdefs/fetch/f.yml": yaml.safe_dump(described, sort_keys=False),
            "fetchdefs/toolchain/t.yml": yaml.safe_dump(toolchains, sort_keys=False),
        },
    )


def test_a_run_takes_its_platform(project: Path) -> None:
    """A bare run fetches for this machine and skips, with a sentence, what is not available for it."""
    done = doit(project, "toolchain:files", "fetch")
    assert "fetch:both" in ran(done)
    assert "@" not in done.stdout
    assert f"fetch:away: skipped: it has no content for {HERE}, only for {OTHER}" in done.stdout
    assert (project / "build/files/fetches/here").read_bytes() == b"here"
    done = doit(project)
    assert done.returncode == 0, done.stdout
    reason = f"toolchain:needs-away: skipped: it needs fetch:away, which is not available for {HERE}"
    assert reason in done.stdout
    assert reason in doit(project).stdout  # a run that has nothing else to do says it again


def test_a_named_definition_without_the_platform_is_an_error(project: Path) -> None:
    """To name what is not available fails before anything runs; so does a run of its toolchain."""
    for words in (["fetch:away"], ["fetch:plain", "toolchain:needs-away"]):
        done = doit(project, *words)
        assert done.returncode == 2
        assert f"not available for {HERE}" in done.stdout or f"no content for {HERE}" in done.stdout
        assert ".  fetch" not in done.stdout
    assert not (project / "build").exists()


def test_another_platform_by_name(project: Path) -> None:
    """A task of another platform runs when it is named, by any name of the platform."""
    alias = OTHER.replace("macos-aarch64", "darwin-arm64").replace("linux-x86_64", "linux-amd64")
    assert ran(doit(project, f"fetch:both@{alias}", f"fetch:away@{OTHER}")) == [f"fetch:away@{OTHER}", f"fetch:both@{OTHER}"]  # fmt: skip
    assert (project / f"build/artifacts/both@{OTHER}/there").read_bytes() == b"there"
    assert ran(doit(project, f"fetch:both@{HERE}")) == ["fetch:both"]
    assert f"fetch:both@{OTHER}" in doit(project, "list", "--all").stdout
    done = doit(project, f"fetch:both@{THIRD}")
    assert (done.returncode, "no task" in done.stdout) == (2, True)


def test_platform_of_another_machine(project: Path) -> None:
    """With `platform=` of another machine, its content is `fetch:NAME`, and toolchains with a command are skipped."""
    done = doit(project, FETCH_PLATFORM=OTHER)
    assert done.returncode == 0, done.stdout
    assert f"toolchain:command: skipped: its command runs on {HERE}, not on {OTHER}" in done.stdout
    assert f"toolchain:needs-command: skipped: it needs toolchain:command, which is not available for {OTHER}" in done.stdout  # fmt: skip
    assert (project / "build/files/fetches/there").read_bytes() == b"there"
    assert (project / "build/needs-away/fetches/there").exists()
    info = doit(project, "info", "fetch:both", f"platform={OTHER}").stdout
    assert ("toolchain:files" in info, "toolchain:command" in info) == (True, False)
    assert doit(project, "extract:*", f"platform={OTHER}").returncode == 0
    done = doit(project, "toolchain:command", f"platform={OTHER}")
    assert (done.returncode, f"its command runs on {HERE}" in done.stdout) == (2, True)
    assert ran(doit(project, "toolchain:files"))[-1] == "toolchain:files"  # back on this machine
    assert (project / "build/files/fetches/here").exists()


def test_every_platform(project: Path) -> None:
    """`platform=all` fetches for every platform; prune keeps the content of all of them."""
    done = doit(project, "fetch", "platform=all")
    assert ran(done) == ["fetch:away", f"fetch:away@{OTHER}", "fetch:both", f"fetch:both@{OTHER}", "fetch:plain"]
    pruned = doit(project, "prune", "--older-than=0", "--dry-run")
    assert "0 would be removed" in pruned.stdout
    assert doit(project, "verify").returncode == 0
