"""`add --platforms`: the files of other platforms in the same release, from a forge, a listing and a directory."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from tasks_lib.errors import EditError, IntegrityError, SignatureError
from tasks_lib.host import machine_platform
from tasks_lib.incremental.definition_files import load
from tasks_lib.pins.naming import choose_siblings, parse_asset_name, without_platform
from tests.archives import Member, tar
from tests.origin import Origin, reply
from tests.project import CLEAN, PYTHONPATH, doit, ran, written
from tests.test_add import ELF, Project, _compressed, signed_with_minisign, single, zipped
from tests.test_outdated import apache_page, nginx_page
from tests.test_program import program

PLATFORMS = {"linux-x86_64": "linux-amd64", "linux-aarch64": "linux-arm64", "macos-aarch64": "darwin-arm64"}


@pytest.fixture
def here(tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(origin)


# --- names: the given one, others, what is chosen

NAMES = {
    "dashes": (
        "tool-1.2-linux-amd64.tar.gz",
        ["tool-1.2-darwin-arm64.tar.gz", "tool-1.3-linux-arm64.tar.gz", "tool-cli-1.2-linux-arm64.tar.gz", "tool-1.2.tar.gz"],
        {"macos-aarch64": "tool-1.2-darwin-arm64.tar.gz"},
    ),
    "case and archive": (
        "tool_1.2_Linux_x86_64.tar.gz",
        ["tool_1.2_Darwin_arm64.zip", "tool_1.2_macOS-x86_64.tar.gz", "TOOL_1.2_Linux_arm64.tar.gz"],
        {"macos-aarch64": "tool_1.2_Darwin_arm64.zip", "macos-x86_64": "tool_1.2_macOS-x86_64.tar.gz"},
    ),
    "triples, with the same libc": (
        "tool-x86_64-unknown-linux-musl.tar.gz",
        [
            "tool-aarch64-unknown-linux-gnu.tar.gz",
            "tool-aarch64-unknown-linux-musl.tar.xz",
            "tool-aarch64-unknown-linux-musl.tar.gz",
            "tool-armv7-unknown-linux-gnueabihf.tar.gz",
            "tool-aarch64-apple-darwin.zip",
            "tool-aarch64-apple-darwin.tar.gz",
            "tool-x86_64-unknown-linux-gnu.tar.gz",
        ],
        {
            "linux-aarch64": "tool-aarch64-unknown-linux-musl.tar.gz",
            "linux-armv7": "tool-armv7-unknown-linux-gnueabihf.tar.gz",
            "macos-aarch64": "tool-aarch64-apple-darwin.tar.gz",
        },
    ),
    "the same archive format": (
        "tool-linux-amd64.zip",
        ["tool-darwin-arm64.tar.gz", "tool-darwin-arm64.zip"],
        {"macos-aarch64": "tool-darwin-arm64.zip"},
    ),
    "hostile": (
        "tool-linux-amd64",
        ["tool-linux/arm64", "tool-linux-arm64/..", "tool-linux-arm64\n", "a/tool-linux-arm64", "", "\0-linux-arm64", "linux-" * 9999],
        {},
    ),
    "any order": ("x64-linux-tool", ["arm64_osx_tool", "tool-cli-arm64-osx"], {"macos-aarch64": "arm64_osx_tool"}),
    "signatures, lists and packages": (
        "tool-linux-amd64.tar.gz",
        [
            f"tool-linux-arm64{ending}"
            for ending in (".tar.gz.asc", ".tar.gz.sha256", ".tar.gz.sig", ".deb", ".rpm", ".gz", "", ".sbom.json", ".pkg")
        ],
        {},
    ),
    "programs": ("jq-linux-amd64", ["jq-linux-arm64", "jq-macos-arm64.asc", "jq-linux-386.tar.gz"], {"linux-aarch64": "jq-linux-arm64"}),
    "a system in the name of the tool": (
        "mac-tools-linux-amd64",
        ["mac-tools-linux-arm64", "tools-linux-arm64"],
        {"linux-aarch64": "mac-tools-linux-arm64"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMES)
def test_choice(case: str) -> None:
    """Siblings differ in the words of the platform only; each platform has one, the most alike."""
    own, others, expected = NAMES[case]
    parsed = parse_asset_name(own)
    assert parsed is not None
    assert choose_siblings(parsed, [own, *others]).assets == expected


def test_names() -> None:
    """A name of the definition has no platform; a name with a system or a machine only has none."""
    assert without_platform("tool-x86_64-unknown-linux-musl.tar.gz") == "tool.tar.gz"
    assert [parse_asset_name(one) for one in ("tool-linux.tar.gz", "tool-amd64.deb", "xlinux-amd64", "")] == [None] * 4


# --- sources of names

ASSETS = {
    "tool_1.2_Linux_x86_64.tar.gz": single("tool-1.2-linux", "gz"),
    "tool_1.2_Darwin_arm64.zip": zipped("tool-1.2-mac/tool", "tool-1.2-mac/doc/x"),
    "tool_1.2_Linux_arm64.tar.gz": _compressed(tar([Member("tool", b"x"), Member("README", b"y")]), "gz"),
}
GIVEN = "tool_1.2_Linux_x86_64.tar.gz"
DIRECTORY = "/o/r/releases/download/v1.2/"


def forge(here: Project, *more: dict[str, Any]) -> Project:
    """Return a project whose forge has a release with the assets and more of them."""
    assets = [{"name": name, "digest": f"sha256:{sha256(content)}"} for name, content in ASSETS.items()]
    body = json.dumps({"assets": [*assets, {"name": f"{GIVEN}.sha256"}, *more]}).encode()
    here.origin.answers |= {DIRECTORY + name: reply(content) for name, content in ASSETS.items()}
    here.origin.answers["/api/repos/o/r/releases/tags/v1.2"] = reply(body)
    return Project(here.origin, FETCH_GITHUB_API=f"{here.origin.url}/api", GITHUB_TOKEN="S3CRET-token")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_release(here: Project) -> None:
    """The assets of a release become one definition; one that is missing, and those for Windows, are left out."""
    more = [
        {"name": f"tool_1.2_{one}"}
        for one in ("Windows_x86_64.zip", "Linux_i386.tar.gz", "../x", "a\nb", f"Linux_s390x{'_gnu' * 99}.tar.gz")
    ]
    project = forge(here, *more, {"name": None}, {"name": "tool_1.2_Linux_armv7/../x.tar.gz"})
    added = project.add(f"{here.origin.url}{DIRECTORY}{GIVEN}", scope="platforms")
    assert {platform: one.evidence[0].kind for platform, one in added.platforms.items()} == dict.fromkeys(
        ["linux-aarch64", "linux-x86_64", "macos-aarch64"], "api digest"
    )
    assert added.left_out.pop("tool_1.2_Windows_x86_64.zip") == "windows-x86_64 is not supported"
    (name, why), = added.left_out.items()  # fmt: skip
    assert name == "tool_1.2_Linux_i386.tar.gz"
    assert "404" in why
    assert project.definition("tool_1.2") == {
        "type": "static-url",
        "platforms": {
            "linux-aarch64": fields("tool_1.2_Linux_arm64.tar.gz", here),
            "linux-x86_64": {**fields(GIVEN, here), "artifact-name": "tool_1.2.tar.zst", "strip-components": 1},
            "macos-aarch64": {
                **fields("tool_1.2_Darwin_arm64.zip", here), "artifact-name": "tool_1.2.tar.zst", "strip-components": 1,
            },
        },
    }  # fmt: skip
    assert [one.path for one in here.origin.requests if "authorization" in one.headers] == [
        "/api/repos/o/r/releases/tags/v1.2"
    ]


def fields(name: str, here: Project) -> dict[str, Any]:
    content = ASSETS[name]
    return {"url": f"{here.origin.url}{DIRECTORY}{name}", "sha256": sha256(content), "size": len(content)}


def test_a_digest_of_a_sibling_differs(here: Project) -> None:
    """Content of any platform that contradicts the evidence refuses the whole definition."""
    project = forge(here)
    here.origin.answers[f"{DIRECTORY}tool_1.2_Darwin_arm64.zip"] = reply(b"other")
    with pytest.raises(IntegrityError, match="the API at"):
        project.add(f"{here.origin.url}{DIRECTORY}{GIVEN}", scope="platforms")
    assert not Path("fetchdefs").exists()


@pytest.mark.parametrize("page", [nginx_page, apache_page])
def test_a_listing(here: Project, page: Any) -> None:
    """The names come from the listing of the directory; each file is verified with the list beside it."""
    programs = {f"tool+x-{word}": ELF + word.encode() for word in PLATFORMS.values()}
    lists = "".join(f"{sha256(content)}  {name}\n" for name, content in programs.items())
    here.origin.answers |= {f"/v1.2/{quote(name, safe='+')}": reply(content) for name, content in programs.items()}
    here.origin.answers |= {
        "/v1.2/": page(*programs, "SHA256SUMS", "tool+x-linux-amd64.asc", "../"),
        "/v1.2/SHA256SUMS": reply(lists.encode()),
    }
    added = here.add(f"{here.origin.url}/v1.2/tool+x-linux-amd64", scope="platforms")
    assert added.name == "tool+x-1.2"
    assert {platform: one.evidence[0].kind for platform, one in added.platforms.items()} == dict.fromkeys(
        sorted(PLATFORMS), "listed"
    )
    written_fields = here.definition(added.name)
    assert written_fields["artifact-name"] == "tool+x-1.2"
    assert {platform: one["url"] for platform, one in written_fields["platforms"].items()} == {
        platform: f"{here.origin.url}/v1.2/tool+x-{word}" for platform, word in PLATFORMS.items()
    }


def test_signatures(here: Project) -> None:
    """Each file is verified; a key of the definition that all platforms share is above them, others are below."""
    signature, public = signed_with_minisign(ELF)
    own = {"public-key": public.splitlines()[1]}
    written(Path(), {"fetchdefs/keys/x.pub": public})
    names = [f"tool-1.2-{word}" for word in PLATFORMS.values()]
    here.origin.answers |= {
        f"/a/{name}{end}": reply(body) for name in names for end, body in (("", ELF), (".minisig", signature))
    }
    here.origin.answers["/a/"] = nginx_page(*names)
    here.add(f"{here.origin.url}/a/{names[0]}", scope="platforms", name="all")
    found = here.definition("all")
    assert found["minisign"] == own
    assert not any("minisign" in one for one in found["platforms"].values())
    del here.origin.answers[f"/a/{names[2]}.minisig"]
    here.add(f"{here.origin.url}/a/{names[0]}", scope="platforms", name="two")
    found = here.definition("two")
    assert "minisign" not in found
    assert [name for name, one in found["platforms"].items() if one.get("minisign") == own] == list(PLATFORMS)[1::-1]
    here.origin.answers[f"/a/{names[2]}.minisig"] = reply(signature)
    here.origin.answers[f"/a/{names[2]}"] = reply(ELF + b"changed")
    with pytest.raises(SignatureError, match="does not match the content"):
        here.add(f"{here.origin.url}/a/{names[0]}", scope="platforms", name="none")


def test_mirrors(here: Project) -> None:
    """Each platform has the mirrors of its own file."""
    names = [f"tool-1.2-{word}" for word in PLATFORMS.values()]
    here.origin.answers |= {f"/pub/{name}": reply(ELF) for name in names} | {"/pub/": nginx_page(*names)}
    written(Path(), {"fetchdefs/mirrors.yml": f"groups: {{g: {{urls: ['{here.origin.url}/pub/', 'https://h/']}}}}"})
    here.add(f"{here.origin.url}/pub/{names[0]}", scope="platforms")
    entries = here.definition("tool-1.2")["platforms"]
    assert {name: one["mirrors"] for name, one in entries.items()} == {
        name: [f"mirror://g/tool-1.2-{word}"] for name, word in PLATFORMS.items()
    }


def test_without_a_list(here: Project) -> None:
    """Without a list of names the given platform is alone, which is said."""
    here.origin.answers["/tool-1.2-linux-amd64"] = reply(ELF)
    added = here.add(f"{here.origin.url}/tool-1.2-linux-amd64?raw=1", scope="platforms")
    assert list(added.platforms) == ["linux-x86_64"]
    assert "no file of another platform was found" in added.notes


@pytest.mark.parametrize(("url", "why"), [("/tool-1.2.tar.gz", "contains no platform"), ("/o/r.git#v1", "repository")])
def test_refused(here: Project, url: str, why: str) -> None:
    """A name without a platform has no siblings; nothing is asked and nothing written."""
    with pytest.raises(EditError, match=why):
        here.add(here.origin.url + url, scope="platforms")
    assert not here.origin.requests
    assert not Path("fetchdefs").exists()


def test_a_taskgraph_tree(here: Project) -> None:
    """Taskgraph's schema needs a URL, a size and a digest beside `platforms:`."""
    kind = "loader: taskgraph.loader.transform:loader\ntasks: {}\n"
    written(Path(), {"taskcluster/kinds/fetch/kind.yml": kind, **released()})
    here.environ["FETCHDEFS_DIR"] = "."
    here.add(f"file://{Path.cwd()}/pub/tool-linux-amd64", scope="platforms")
    found = yaml.safe_load(Path("taskcluster/kinds/fetch/kind.yml").read_text())["tasks"]["tool"]["fetch"]
    assert {key: found[key] for key in ("url", "size", "sha256")} == found["platforms"]["linux-x86_64"]
    assert sorted(found["platforms"]) == sorted(PLATFORMS)
    assert "tool" in load(Path()).fetches


# --- the command


def released() -> dict[str, str]:
    """Return the files of a release."""
    return {f"pub/tool-{word}": word for word in (*PLATFORMS.values(), "windows-x64.exe")}


@pytest.mark.slow
def test_without_a_terminal(tmp_path: Path) -> None:
    """Without a terminal, --yes or --dry-run is needed; the result has all platforms, which a run fetches."""
    written(tmp_path, released())
    words = ("add", f"file://{tmp_path}/pub/tool-linux-amd64", "--platforms")
    done = program(tmp_path, *words)
    assert done.returncode == 3
    assert "--yes" in done.stderr
    shown = program(tmp_path, *words, "--dry-run", "--json")
    assert shown.returncode == 0, shown.stderr
    found = json.loads(shown.stdout)
    assert (found["written"], sorted(found["platforms"])) == (False, sorted(PLATFORMS))
    assert found["left_out"] == {"tool-windows-x64.exe": "windows-x86_64 is not supported"}
    assert not (tmp_path / "fetchdefs").exists()
    done = program(tmp_path, *words, "--yes")
    assert done.returncode == 0, done.stderr
    assert "left out: tool-windows-x64.exe: windows-x86_64 is not supported\n" in done.stdout
    names = ["fetch:tool" if one == machine_platform() else f"fetch:tool@{one}" for one in sorted(PLATFORMS)]
    assert sorted(ran(doit(tmp_path, "platform=all"))) == sorted(names)
    again = program(tmp_path, "add", f"file://{tmp_path}/pub/tool-darwin-arm64", "--platforms", "--yes").stdout
    assert "is already defined as tool@macos-aarch64" in again


@pytest.mark.parametrize(("answer", "status"), [(b"n\n", 1), (b"\n", 1), (b"\x04", 1), (b"y\n", 0)])
def test_on_a_terminal(tmp_path: Path, answer: bytes, status: int) -> None:
    """A terminal is asked once, after the table; only a yes writes."""
    written(tmp_path, released())
    code = "import sys; from tasks_lib.cli.console import main; sys.exit(main())"
    words = ["add", f"file://{tmp_path}/pub/tool-linux-amd64", "--platforms"]
    controller, terminal = pty.openpty()
    environ = {**CLEAN, "FETCH_DURABILITY": "fast", "PYTHONPATH": PYTHONPATH}
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=tmp_path, env=environ, stdin=terminal, stdout=terminal, stderr=terminal
    ) as process:  # fmt: skip
        os.close(terminal)
        shown = read_until(controller, b"[y/N] ")
        assert b"macos-aarch64  file://" in shown
        assert not (tmp_path / "fetchdefs").exists()
        os.write(controller, answer)
        rest = read_until(controller, b"")
    os.close(controller)
    assert process.returncode == status, rest
    assert (b"nothing was written" in rest) == bool(status)
    assert (tmp_path / "fetchdefs/fetch/fetches.yml").exists() == (not status)


def read_until(controller: int, end: bytes) -> bytes:
    """Return what a terminal shows until a text, or until it ends."""
    shown = b""
    while not end or end not in shown:
        try:
            piece = os.read(controller, 4096)
        except OSError:  # Linux returns EIO when the last writer has closed it
            piece = b""
        if not piece:
            break
        shown += piece
    return shown
