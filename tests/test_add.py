"""`add`: definitions that write themselves, with evidence, from real servers, gpg, minisign keys and git."""

from __future__ import annotations

import base64
import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks_lib.context import Context
from tasks_lib.definitions import Definitions
from tasks_lib.errors import EditError, FetchError, IntegrityError, SignatureError
from tasks_lib.incremental.definition_files import load
from tasks_lib.pins.add import Added, AddRequest, add
from tasks_lib.pins.workspace import Workspace
from tasks_lib.progress import Silent
from tasks_lib.settings import Settings
from tests.archives import Member, tar
from tests.keys import keyring
from tests.origin import Answer, Origin, in_turn, reply
from tests.project import DODO, LIBRARY, definition, doit, ran, written
from tests.repositories import committed, git, made
from tests.test_program import program

_COMPRESSORS: Mapping[str, Callable[[bytes], bytes]] = {"bz2": bz2.compress, "xz": lzma.compress}


def single(top: str, suffix: str = "") -> bytes:
    """Return a tar with one top directory."""
    content = tar([Member(f"{top}/"), Member(f"{top}/a.txt", b"a"), Member(f"{top}/sub/b.txt", b"b")])
    return content if not suffix else _compressed(content, suffix)


def _compressed(content: bytes, suffix: str) -> bytes:
    return gzip.compress(content) if suffix == "gz" else _COMPRESSORS[suffix](content)


def zipped(*names: str) -> bytes:
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as archive:
            for name in names:
                archive.writestr(name, b"x")
        return file.getvalue()


SEVERAL = tar([Member("a/"), Member("a/x", b"1"), Member("b", b"2")])
ELF = b"\x7fELF" + bytes(100)
PAGE = b"<!DOCTYPE html><html>welcome</html>"


class Project:
    """A project in the current directory, and the answers of its origin."""

    def __init__(self, origin: Origin, **environ: str) -> None:
        self.origin, self.environ = origin, environ

    def workspace(self) -> Workspace:
        """Return the files as they are, and a new run."""
        environ = {"FETCH_DURABILITY": "fast", "FETCH_RETRIES": "0", **self.environ}
        settings = Settings.parse(variables={}, environ=environ)
        try:
            definitions = load(settings.fetchdefs)
        except FetchError:
            definitions = Definitions(fetches={}, toolchains={})
        context = Context(settings, {"PATH": os.environ["PATH"], **self.environ})
        return Workspace(context, definitions, Silent())

    def add(self, url: str, **options: Any) -> Added:
        return add(self.workspace(), AddRequest(url=url, **options))

    def definition(self, name: str) -> Any:
        text = Path("fetchdefs/fetch/fetches.yml").read_text()
        return yaml.safe_load(text)[name]["fetch"]


@pytest.fixture
def here(tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(origin)


# --- shapes of URLs: path, content, name, whether the top directory is stripped

SHAPES: Mapping[str, tuple[str, bytes, str, bool]] = {
    "gnu bz2": ("/gnu/gmp/gmp-6.1.0.tar.bz2", single("gmp-6.1.0", "bz2"), "gmp-6.1.0", True),
    "gnu xz": ("/gnu/gcc/gcc-8.5.0/gcc-8.5.0.tar.xz", single("gcc-8.5.0", "xz"), "gcc-8.5.0", True),
    "gnu gz": ("/gnu/mpc/mpc-1.0.3.tar.gz", single("mpc-1.0.3", "gz"), "mpc-1.0.3", True),
    "tgz": ("/nasm-2.14.02.tgz", single("nasm-2.14.02", "gz"), "nasm-2.14.02", True),
    "tar": ("/lib-1.0.tar", LIBRARY, "lib-1.0", True),
    "several tops": ("/bundle-1.0.tar.gz", _compressed(SEVERAL, "gz"), "bundle-1.0", False),
    "zip": ("/nsis-3.07.zip", zipped("nsis-3.07/a", "nsis-3.07/b/c"), "nsis-3.07", True),
    "zip without top": ("/wix-3.14.0.zip", zipped("wix.exe", "doc/readme"), "wix-3.14.0", False),
    "crate": ("/api/v1/crates/windows-rs/0.3.1/download", single("windows-rs-0.3.1", "gz"), "windows-rs-0.3.1", True),
    "crate file": ("/crates/serde/serde-1.0.200.crate", single("serde-1.0.200", "gz"), "serde-1.0.200", True),
    "npm": ("/pkg/-/pkg-1.2.3.tgz", single("package", "gz"), "pkg-1.2.3", True),
    "npm scope": ("/@scope/pkg/-/pkg-1.2.3.tgz", single("package", "gz"), "pkg-1.2.3", True),
    "wheel": ("/packages/foo-1.0-py3-none-any.whl", zipped("foo/a.py"), "foo-1.0-py3-none-any", False),
    "sdist": ("/packages/source/f/foo/foo-1.0.tar.gz", single("foo-1.0", "gz"), "foo-1.0", True),
    "jar": ("/maven/org/x/tool-1.0.jar", zipped("META-INF/x"), "tool-1.0", False),
    "forge archive": ("/o/repo/archive/refs/tags/v1.2.3.tar.gz", single("repo-1.2.3", "gz"), "repo-1.2.3", True),
    "forge archive zip": ("/o/repo/archive/v1.2.3.zip", zipped("repo-1.2.3/a"), "repo-1.2.3", True),
    "forge tarball": ("/o/repo/tarball/v1.2.3", single("o-repo-0123abc", "gz"), "repo-1.2.3", True),
    "codeload": ("/o/repo/tar.gz/refs/tags/v1.2.3", single("repo-1.2.3", "gz"), "repo-1.2.3", True),
    "gitlab": ("/o/repo/-/archive/v1.2/repo-v1.2.tar.gz", single("repo-v1.2-abc", "gz"), "repo-v1.2", True),
    "asset": ("/o/repo/releases/download/v1.2.3/tool-1.2.3-linux.tar.gz", single("tool", "gz"), "tool-1.2.3-linux", True),
    "asset program": ("/o/repo/releases/download/v1.2.3/jq-linux64", ELF, "jq-linux64-1.2.3", False),
    "sourceforge": ("/projects/foo/files/foo/1.0/foo-1.0.tar.gz/download", single("foo-1.0", "gz"), "foo-1.0", True),
    "sourceforge program": ("/projects/foo/files/foo/1.0/foo-1.0.exe/download", ELF, "foo-1.0", False),
    "source": ("/tool/2.0.1/source", single("tool-2.0.1", "gz"), "tool-2.0.1", True),
    "query": ("/x-1.0.tar.gz?raw=1", single("x-1.0", "gz"), "x-1.0", True),
    "query with the name": ("/get.php?file=tool-1.0.zip", zipped("tool-1.0/a"), "tool-1.0", True),
    "gitweb": ("/cgit/tool/snapshot/tool-1.4.tar.gz?id=v1.4", single("tool-1.4", "gz"), "tool-1.4", True),
    "version in the path": ("/1.2.3/tool.tar.gz", single("tool", "gz"), "tool-1.2.3", True),
    "version in the path, no archive": ("/release/v1.30.2/bin/linux/amd64/kubectl", ELF, "kubectl-1.30.2", False),
    "no suffix": ("/tool-1.5", ELF, "tool-1.5", False),
    "no suffix, an archive": ("/tool-1.5", single("tool-1.5", "xz"), "tool-1.5", True),
    "only a version": ("/tool/v1.2.3", single("tool-1.2.3", "gz"), "tool-1.2.3", True),
    "date": ("/snap/tool-2026-11-28.tar.xz", single("tool", "xz"), "tool-2026-11-28", True),
    "date without dashes": ("/snap/tool-20261128.tar.xz", single("tool", "xz"), "tool-20261128", True),
    "dfsg": ("/pool/f/foo/foo_1.2.3+dfsg.orig.tar.xz", single("foo-1.2.3", "xz"), "foo_1.2.3+dfsg.orig", True),
    "dfsg encoded": ("/pool/foo_1.2.3%2Bdfsg.orig.tar.xz", single("foo-1.2.3", "xz"), "foo_1.2.3+dfsg.orig", True),
    "release candidate": ("/llvm-19.1.0-rc2.src.tar.xz", single("llvm-19.1.0rc2.src", "xz"), "llvm-19.1.0-rc2.src", True),
    "openssl": ("/openssl-1.1.1w.tar.gz", single("openssl-1.1.1w", "gz"), "openssl-1.1.1w", True),
    "boost": ("/boost_1_84_0.tar.bz2", single("boost_1_84_0", "bz2"), "boost_1_84_0", True),
    "deb": ("/pool/xmlstarlet_1.6.1-3_amd64.deb", b"!<arch>\ndebian-binary", "xmlstarlet_1.6.1-3_amd64", False),
    "data": ("/data/words.json", b"{}", "words", False),
    "compressed data": ("/data/words-1.2.txt.gz", _compressed(b"a" * 99, "gz"), "words-1.2", False),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(here: Project, shape: str) -> None:
    """The definition of each shape of URL is the one that is written by hand."""
    path, content, name, strips = SHAPES[shape]
    here.origin.answers[path.partition("?")[0]] = reply(content)
    url = here.origin.url + path
    assert here.add(url).name == name
    repacked = {"artifact-name": f"{name}.tar.zst", "strip-components": 1} if strips else {}
    digest = hashlib.sha256(content).hexdigest()
    assert here.definition(name) == {
        "type": "static-url",
        "url": url,
        "sha256": digest,
        "size": len(content),
        **repacked,
    }
    load(Path("fetchdefs"))


def test_redirect(here: Project) -> None:
    """The URL is the given one, without its fragment; never the signed target of a redirect."""
    content = single("x-1.0", "gz")
    here.origin.answers |= {
        "/latest/x-1.0.tar.gz": reply(
            b"", "302 Found", Location=f"{here.origin.url}/cdn?X-Amz-Signature=0123456789abcdef"
        ),
        "/cdn": reply(content),
    }
    added = here.add(f"{here.origin.url}/latest/x-1.0.tar.gz#sha256={hashlib.sha256(content).hexdigest()}")
    assert here.definition("x-1.0")["url"] == f"{here.origin.url}/latest/x-1.0.tar.gz"
    assert [one.kind for one in added.evidence] == ["listed"]


@pytest.mark.parametrize("path", ["/tool/1.5/download", "/get.php?file=tool-1.5.zip"])
def test_an_archive_without_a_suffix(here: Project, path: str) -> None:
    """An archive that keeps its names, and whose URL does not say what it is, gets a name that does."""
    here.origin.answers[path.partition("?")[0]] = reply(zipped("a", "b/c"))
    assert here.add(here.origin.url + path).name == "tool-1.5"
    assert here.definition("tool-1.5")["artifact-name"] == "tool-1.5.zip"


def test_content_encoding(here: Project) -> None:
    """Size and digest are those of the bytes that a run receives, also if the server compresses them."""
    packed = gzip.compress(LIBRARY)
    here.origin.answers["/lib-1.0.tar"] = reply(packed, Content_Encoding="gzip")
    here.add(f"{here.origin.url}/lib-1.0.tar")
    found = here.definition("lib-1.0")
    assert (found["size"], found["sha256"]) == (len(packed), hashlib.sha256(packed).hexdigest())
    assert (found["format"], found["strip-components"]) == ("tar.gz", 1)


def test_what_the_command_line_says(here: Project) -> None:
    """Name, strip, prefix and file are those of the command line."""
    here.origin.answers["/x-1.0.tar.gz"] = reply(single("x-1.0", "gz"))
    url = f"{here.origin.url}/x-1.0.tar.gz"
    here.add(url, name="own", strip="2", prefix="p/", file=Path("fetchdefs/fetch/other.yml"))
    found = yaml.safe_load(Path("fetchdefs/fetch/other.yml").read_text())["own"]["fetch"]
    assert (found["artifact-name"], found["strip-components"], found["add-prefix"]) == ("own.tar.zst", 2, "p/")
    here.add(url, name="plain", strip="0", file=Path("fetchdefs/fetch/other.yml"))
    assert "artifact-name" not in yaml.safe_load(Path("fetchdefs/fetch/other.yml").read_text())["plain"]["fetch"]


REFUSED: Mapping[str, tuple[str, Answer, dict[str, Any], str]] = {
    "AWS": ("/x?X-Amz-Signature=abc", reply(b"x"), {}, "carries a credential"),
    "Azure": ("/x?sv=1&sig=abc", reply(b"x"), {}, "carries a credential"),
    "token": ("/x?access_token=abc", reply(b"x"), {}, "carries a credential"),
    "GitLab": ("/x?private_token=abc", reply(b"x"), {}, "carries a credential"),
    "signed": ("/x?e=1&sign=abc", reply(b"x"), {}, "carries a credential"),
    "user": ("/x", reply(b"x"), {"url": "http://me:abc@127.0.0.1/x"}, "credentials"),
    "ftp": ("/x", reply(b"x"), {"url": "ftp://127.0.0.1/x"}, "not supported"),
    "git token": ("/x.git?private_token=abc#v1", reply(b"x"), {}, "carries a credential"),
    "git user": ("/x", reply(b"x"), {"url": "https://me:abc@127.0.0.1/x.git#v1"}, "user name or password"),
    "no URL": ("/x", reply(b"x"), {"url": "x.tar.gz"}, "not supported"),
    "bad URL": ("/x", reply(b"x"), {"url": "http://[x/y"}, "Invalid IPv6 URL"),
    "relative": ("/x", reply(b"x"), {"url": "file:x"}, "is relative"),
    "no name": ("/download", reply(b"x"), {}, "shows no name"),
    "no file": ("/x/", reply(b"x"), {}, "cannot derive a file name"),
    "page": ("/x-1.0.zip", reply(PAGE), {}, "a web page"),
    "missing": ("/x-1.0.zip", reply(b"", "404 Not Found"), {}, "404"),
    "fragment": ("/x-1.0#sha256=" + "0" * 64, reply(b"x"), {}, "the fragment of the URL has sha256:0000"),
    "bad fragment": ("/x-1.0#sha256=12", reply(b"x"), {}, "invalid sha256"),
    "strip": ("/x-1.0", reply(ELF), {"strip": "1"}, "is not an archive"),
    "bad name": ("/x-1.0", reply(b"x"), {"name": "a b"}, "invalid name"),
    "bad key": ("/x-1.0", reply(b"x"), {"key": Path("nothing.asc")}, "cannot read key file"),
    "other file": ("/x-1.0", reply(b"x"), {"file": Path("other.yml")}, "not a file of fetch definitions"),
    "toolchain": ("/x-1.0", reply(b"x"), {"toolchain": "toolchain:none"}, "no toolchain is named none"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(here: Project, case: str) -> None:
    """What cannot be pinned is refused with a reason, and nothing is written."""
    path, answer, options, reason = REFUSED[case]
    here.origin.answers[re.split("[?#]", path)[0]] = answer
    with pytest.raises(FetchError, match=re.escape(reason)) as caught:
        here.add(**{"url": here.origin.url + path, **options})
    assert "abc" not in f"{caught.value}{caught.value.hint}"
    assert not Path("fetchdefs").exists()
    assert not Path("dodo.py").exists()


def test_known_urls_and_digests(here: Project) -> None:
    """An URL that is defined is not added twice; the same content under another one is said."""
    here.origin.answers |= {"/x-1.0": reply(ELF), "/y-1.0": reply(ELF)}
    here.add(f"{here.origin.url}/x-1.0")
    before = Path("fetchdefs/fetch/fetches.yml").read_bytes()
    asked = len(here.origin.requests)
    again = here.add(f"{here.origin.url}/x-1.0")
    assert (again.files, len(here.origin.requests)) == ({}, asked)
    assert "already defined as x-1.0 (fetchdefs/fetch/fetches.yml:1)" in again.notes[0]
    assert Path("fetchdefs/fetch/fetches.yml").read_bytes() == before
    with pytest.raises(IntegrityError, match="the fragment of the URL has sha256:0000"):
        here.add(f"{here.origin.url}/x-1.0#sha256={'0' * 64}")
    other = here.add(f"{here.origin.url}/y-1.0")
    assert "x-1.0 has the same content" in other.notes[0]
    assert other.evidence[0].kind == "also in the cache"
    with pytest.raises(EditError, match=r"the name x-1\.0 is taken"):
        here.add(f"{here.origin.url}/y-1.0?again", name="x-1.0")


def test_a_taskgraph_tree(here: Project) -> None:
    """In a Taskgraph repository, the definition goes into the tasks of the kind."""
    kind = "loader: taskgraph.loader.transform:loader\ntasks:\n  a:\n    description: a\n    fetch: {type: static-url, url: 'https://h/a', sha256: SHA, size: 1}\n"
    written(Path(), {"taskcluster/kinds/fetch/kind.yml": kind.replace("SHA", "0" * 64)})
    here.environ["FETCHDEFS_DIR"] = "."
    here.origin.answers["/x-1.0"] = reply(ELF)
    here.add(f"{here.origin.url}/x-1.0")
    assert list(load(Path()).fetches) == ["a", "x-1.0"]
    assert (
        yaml.safe_load(Path("taskcluster/kinds/fetch/kind.yml").read_text())["tasks"]["x-1.0"]["description"] == "x-1.0"
    )


def test_dry_run(here: Project) -> None:
    """A dry run shows the same and writes nothing but the cache."""
    here.origin.answers["/x-1.0"] = reply(ELF)
    added = here.add(f"{here.origin.url}/x-1.0", mode="dry-run")
    assert list(added.files) == [Path("fetchdefs/fetch/fetches.yml"), Path("dodo.py")]
    assert [path.name for path in Path().iterdir()] == ["cache"]


@pytest.mark.parametrize("style", ["[lib]", "\n      - lib # why"])
def test_toolchain(here: Project, style: str) -> None:
    """`--to` adds the artifact to a toolchain, in the style of its list."""
    here.origin.answers["/x-1.0"] = reply(ELF)
    url = f"{here.origin.url}/x-1.0"
    here.add(url, name="lib")
    text = f"t:\n  description: t\n  fetches:\n    fetch: {style}\n"
    written(Path(), {"fetchdefs/toolchain/t.yml": text})
    here.add(url, name="new", toolchain="toolchain:t")
    assert yaml.safe_load(Path("fetchdefs/toolchain/t.yml").read_text())["t"]["fetches"]["fetch"] == ["lib", "new"]
    before = Path("fetchdefs/toolchain/t.yml").read_text()
    here.add(url, toolchain="t")  # defined, and listed
    assert Path("fetchdefs/toolchain/t.yml").read_text() == before


# --- evidence

URL = "/d/x-1.0.tar.gz"
CONTENT = single("x-1.0", "gz")
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def signed_with_minisign(content: bytes) -> tuple[bytes, str]:
    """Return a signature and the key file."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    public = base64.b64encode(b"Ed" + b"12345678" + key.public_key().public_bytes_raw()).decode()
    signature = key.sign(hashlib.blake2b(content).digest())
    comment = "timestamp:1700000000\tfile:x"
    lines = [
        "untrusted comment: x",
        base64.b64encode(b"ED" + b"12345678" + signature).decode(),
        f"trusted comment: {comment}",
        base64.b64encode(key.sign(signature + comment.encode())).decode(),
    ]
    return "\n".join(lines).encode() + b"\n", f"untrusted comment: minisign public key\n{public}\n"


def kinds(added: Added) -> list[str]:
    return [one.kind for one in added.evidence]


@pytest.mark.parametrize("suffix", [".asc", ".sig", ".sign"])
def test_openpgp(here: Project, suffix: str) -> None:
    """A signature by a known key is written with its fingerprint, and is not downloaded again by a run."""
    with keyring() as keys:
        fingerprint = keys.make("maker")
        signature = keys.sign(CONTENT, "maker", *(["--armor"] if suffix == ".asc" else []))
        public = keys.public("maker", armor=True)
    here.origin.answers |= {URL: reply(CONTENT), URL + suffix: reply(signature)}
    written(Path(), {"fetchdefs/keys/maker.asc": public.decode()})
    added = here.add(here.origin.url + URL)
    assert kinds(added) == ["signed"]
    assert here.definition("x-1.0")["gpg-signature"] == {
        "sig-url": "{url}" + suffix, "key-path": "fetchdefs/keys/maker.asc", "fingerprint": fingerprint,
    }  # fmt: skip
    if suffix == ".sig":
        asked = len(here.origin.requests)
        done = doit(Path())
        assert done.returncode == 0, done.stdout
        assert len(here.origin.requests) == asked


def test_a_given_key_is_kept_if_it_verifies(here: Project, tmp_path: Path) -> None:
    """`--key` is copied when it verified; otherwise the signature is shown as unverified and written nowhere."""
    with keyring() as keys:
        keys.make("maker")
        keys.make("other")
        signature, maker, other = keys.sign(CONTENT, "maker"), keys.public("maker"), keys.public("other")
    (tmp_path / "maker.gpg").write_bytes(maker)
    (tmp_path / "other.gpg").write_bytes(other)
    here.origin.answers |= {URL: reply(CONTENT), f"{URL}.sig": reply(signature)}
    added = here.add(here.origin.url + URL, key=tmp_path / "other.gpg", name="a")
    assert kinds(added) == ["first use", "unverified"]
    assert not Path("fetchdefs/keys").exists()
    assert "gpg-signature" not in here.definition("a")
    added = here.add(here.origin.url + URL, key=tmp_path / "maker.gpg", name="b")
    assert kinds(added)[0] == "signed"
    assert Path("fetchdefs/keys/maker.gpg").read_bytes() == maker
    assert here.definition("b")["gpg-signature"]["key-path"] == "fetchdefs/keys/maker.gpg"


def test_a_bad_signature_is_refused(here: Project) -> None:
    """A bad signature by a known key writes nothing."""
    with keyring() as keys:
        keys.make("maker")
        signature, public = keys.sign(CONTENT + b"x", "maker"), keys.public("maker", armor=True)
    here.origin.answers |= {URL: reply(CONTENT), f"{URL}.sig": reply(signature)}
    written(Path(), {"fetchdefs/keys/maker.asc": public.decode()})
    with pytest.raises(SignatureError, match="does not match the content"):
        here.add(here.origin.url + URL)
    assert not Path("fetchdefs/fetch").exists()


def test_minisign(here: Project) -> None:
    """A minisign signature is written with its key; a bad one is refused."""
    signature, public = signed_with_minisign(CONTENT)
    here.origin.answers |= {URL: reply(CONTENT), f"{URL}.minisig": reply(signature)}
    written(Path(), {"fetchdefs/keys/x.pub": public})
    added = here.add(here.origin.url + URL)
    assert kinds(added) == ["signed"]
    assert here.definition("x-1.0")["minisign"] == {"public-key": public.splitlines()[1]}
    here.origin.answers |= {"/d/y-1.0.tar.gz": reply(CONTENT + b"\0"), "/d/y-1.0.tar.gz.minisig": reply(signature)}
    with pytest.raises(SignatureError, match="does not match the content"):
        here.add(f"{here.origin.url}/d/y-1.0.tar.gz")


LISTS = {
    ".sha256 digest": (".sha256", f"{DIGEST}\n", ["listed"]),
    ".sha256 line": (".sha256", f"{DIGEST}  x-1.0.tar.gz\n", ["listed"]),
    ".sha256 other name": (".sha256", f"{DIGEST.upper()} *build/out.tgz\n", ["listed"]),
    ".sha256sum": (".sha256sum", f"SHA256 (x-1.0.tar.gz) = {DIGEST}\n", ["listed"]),
    "SHA256SUMS": ("SHA256SUMS", f"{'0' * 64}  y\n{DIGEST}  x-1.0.tar.gz\n", ["listed"]),
    "SHA256SUMS of others": ("SHA256SUMS", f"{'0' * 64}  y\n{'1' * 64}  z\n", ["first use"]),
    "HTML": (".sha256", "<html>", ["first use"]),
    "empty": (".sha256", "", ["first use"]),
    "differs": (".sha256", f"{'0' * 64}\n", []),
    "SHA256SUMS differs": ("SHA256SUMS", f"{'0' * 64}  x-1.0.tar.gz\n", []),
}  # fmt: skip


@pytest.mark.parametrize("case", LISTS)
def test_lists(here: Project, case: str) -> None:
    """A listed digest is evidence without keys of its own; one that differs is refused."""
    suffix, text, expected = LISTS[case]
    place = f"{URL}{suffix}" if suffix.startswith(".") else f"/d/{suffix}"
    here.origin.answers |= {URL: reply(CONTENT), place: reply(text.encode())}
    if expected:
        assert kinds(here.add(here.origin.url + URL)) == expected
        assert set(here.definition("x-1.0")) == {"type", "url", "sha256", "size", "artifact-name", "strip-components"}
    else:
        with pytest.raises(IntegrityError, match=f"lists sha256:0+, the download has sha256:{DIGEST}"):
            here.add(here.origin.url + URL)
        assert not Path("fetchdefs").exists()


def test_a_signed_list(here: Project) -> None:
    """A signed list becomes `checksums:`, which a run verifies from the cache."""
    text = f"{DIGEST}  x-1.0.tar.gz\n".encode()
    with keyring() as keys:
        keys.make("maker")
        signature, public = keys.sign(text, "maker"), keys.public("maker", armor=True)
    here.origin.answers |= {
        URL: reply(CONTENT), "/d/SHA256SUMS": reply(text), "/d/SHA256SUMS.asc": reply(signature),
    }  # fmt: skip
    written(Path(), {"fetchdefs/keys/maker.asc": public.decode()})
    assert kinds(here.add(here.origin.url + URL)) == ["signed"]
    found = here.definition("x-1.0")["checksums"]
    assert (found["url"], found["signed-by"]["sig-url"]) == (f"{here.origin.url}/d/SHA256SUMS", "{url}.asc")
    asked = len(here.origin.requests)
    assert doit(Path()).returncode == 0
    assert len(here.origin.requests) == asked


@pytest.mark.parametrize(
    "answer", [reply(PAGE, Content_Type="text/html"), reply(PAGE), reply(CONTENT)], ids=["html", "untyped", "file"]
)
def test_a_server_that_answers_everything(here: Project, answer: Answer) -> None:
    """A server that answers every path has no siblings; it is asked at most 12 times with HEAD."""

    class Always(dict[str, Answer]):
        def get(self, path: str, _default: Any = None) -> Answer:
            return reply(CONTENT) if path == URL else answer

    here.origin.answers = Always()
    added = here.add(here.origin.url + URL)
    assert "signed" not in kinds(added)
    assert "listed" not in kinds(added)
    assert 0 < sum(one.method == "HEAD" for one in here.origin.requests) <= 12


def test_siblings_without_head(here: Project) -> None:
    """A server that does not answer HEAD is asked with GET."""

    def no_head(answer: Answer) -> Answer:
        return lambda connection, request: (
            reply(b"", "405 Method Not Allowed") if request.method == "HEAD" else answer
        )(connection, request)

    here.origin.answers |= {URL: reply(CONTENT), f"{URL}.sha256": no_head(reply(f"{DIGEST}\n".encode()))}
    assert kinds(here.add(here.origin.url + URL)) == ["listed"]


# --- the forge

ASSET = "/o/r/releases/download/v1.0/x-1.0.tar.gz"
RELEASE = "/api/repos/o/r/releases/tags/v1.0"


def forge(here: Project, *assets: dict[str, Any], **more: Any) -> Project:
    here.origin.answers |= {ASSET: reply(CONTENT), RELEASE: reply(json.dumps({"assets": assets, **more}).encode())}
    return Project(here.origin, FETCH_GITHUB_API=f"{here.origin.url}/api", GITHUB_TOKEN="S3CRET-token")


def test_api_digest(here: Project) -> None:
    """The API's digest of an asset is evidence; the token goes to the API only."""
    added = forge(here, {"name": "x-1.0.tar.gz", "digest": f"sha256:{DIGEST}"}).add(here.origin.url + ASSET)
    assert kinds(added) == ["api digest"]
    sent = {one.path: one.headers.get("authorization") for one in here.origin.requests}
    assert sent[RELEASE] == "Bearer S3CRET-token"
    assert set(sent.values()) == {"Bearer S3CRET-token", None}
    assert [path for path, value in sent.items() if value] == [RELEASE]
    assert not any(b"S3CRET" in path.read_bytes() for path in Path().rglob("*") if path.is_file())


def test_api_digest_differs(here: Project) -> None:
    """A download that differs from the API's digest is refused."""
    with pytest.raises(IntegrityError, match="the API at"):
        forge(here, {"name": "x-1.0.tar.gz", "digest": f"sha256:{'0' * 64}"}).add(here.origin.url + ASSET)
    assert not Path("fetchdefs").exists()


def test_api_pages(here: Project) -> None:
    """An asset that the release does not list is looked for in its pages."""
    project = forge(here, id=7)
    pages = [[{"name": f"a{n}"} for n in range(100)], [{"name": "x-1.0.tar.gz", "digest": f"sha256:{DIGEST}"}]]
    here.origin.answers["/api/repos/o/r/releases/7/assets"] = in_turn(
        *(reply(json.dumps(page).encode()) for page in pages)
    )
    assert kinds(project.add(here.origin.url + ASSET)) == ["api digest"]


API = {
    "rate limit": reply(b'{"message": "API rate limit exceeded"}', "403 Forbidden", X_RateLimit_Remaining="0"),
    "secondary rate limit": reply(b"", "429 Too Many Requests", Retry_After="3600"),
    "missing": reply(b"{}", "404 Not Found"),
    "no JSON": reply(b"\xff{"),
    "deep": reply(b"[" * 100_000),
    "other JSON": reply(b'[1, "x"]'),
    "null": reply(b'{"assets": [null, {"name": "x-1.0.tar.gz", "digest": null}]}'),
    "other digest": reply(b'{"assets": [{"name": "x-1.0.tar.gz", "digest": "sha512:00"}]}'),
}


@pytest.mark.parametrize("case", API)
def test_api_without_an_answer(here: Project, case: str) -> None:
    """Without an answer of the API the definition is written with the evidence that is left."""
    project = forge(here)
    here.origin.answers[RELEASE] = API[case]
    assert kinds(project.add(here.origin.url + ASSET)) == ["first use"]


# --- mirrors


def test_mirror_groups(here: Project) -> None:
    """A URL in a group of mirrors.yml gets it; a rewritten one and an unknown one do not."""
    url = here.origin.url
    here.origin.answers |= {
        "/pub/x-1.0": reply(ELF),
        "/own/y-1.0": reply(ELF + b"y"),
        "/other/z-1.0": reply(ELF + b"z"),
    }
    rules = f"groups: {{own: {{urls: ['{url}/pub/', '{url}/pub2/']}}}}\nrewrite:\n  - {{match: '.*/other/(.*)', to: direct}}\n"
    written(Path(), {"fetchdefs/mirrors.yml": rules})
    for path in ("/pub/x-1.0", "/own/y-1.0", "/other/z-1.0"):
        here.add(url + path)
    assert here.definition("x-1.0")["mirrors"] == ["mirror://own/x-1.0"]
    assert "mirrors" not in here.definition("y-1.0")
    assert "mirrors" not in here.definition("z-1.0")


KNOWN = {
    "http://ftp.gnu.org/gnu/gmp/gmp-6.1.0.tar.bz2": "mirror://gnu/gmp/gmp-6.1.0.tar.bz2",
    "http://cdn.kernel.org/pub/linux/x-1.0.tar.xz": "mirror://kernel/linux/x-1.0.tar.xz",
    "http://deb.debian.org/debian/pool/x-1.0.tar.xz": "mirror://debian/pool/x-1.0.tar.xz",
    "http://sourceforge.net/projects/foo/files/1.0/foo-1.0.exe/download": "mirror://sourceforge/foo/1.0/foo-1.0.exe",
}


@pytest.mark.parametrize("url", KNOWN)
def test_well_known_mirrors(here: Project, url: str) -> None:
    """A file of a well-known server gets the group of its mirrors, which mirrors.yml gets too."""
    here.origin.answers[url] = reply(ELF)  # the origin plays an HTTP proxy
    written(Path(), {"fetchdefs/mirrors.yml": "# mine\ngroups:\n  zzz:\n    urls: [https://example.org/]\n"})
    added = Project(here.origin, http_proxy=here.origin.url).add(url)
    assert here.definition(added.name)["mirrors"] == [KNOWN[url]]
    text = Path("fetchdefs/mirrors.yml").read_text()
    assert text.startswith("# mine\ngroups:\n")
    assert load(Path("fetchdefs")).fetches[added.name].source.places[1].url.startswith("https://")  # type: ignore[union-attr]


def test_blocked_host(here: Project) -> None:
    """A host that mirrors.yml blocks is not asked."""
    written(Path(), {"fetchdefs/mirrors.yml": "block: 127.0.0.1\n"})
    with pytest.raises(EditError, match="is blocked by"):
        here.add(f"{here.origin.url}/x-1.0")
    assert not here.origin.requests


# --- commits


@pytest.fixture
def upstream(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """Return the URL of a git repository, and the commit of each of its refs."""
    directory = tmp_path_factory.mktemp("upstream") / "tool.git"
    first = made(directory, {"a.txt": b"1"})
    git(directory, "tag", "v1.2")
    second = committed(directory, {"a.txt": b"2"})
    git(directory, "tag", "-a", "-m", "annotated", "v1.10")
    branch = git(directory, "symbolic-ref", "--short", "HEAD").strip()
    return f"file://{directory}", {"v1.2": first, "v1.10": second, branch: second, "": second}


@pytest.mark.parametrize("tag", ["v1.2", "v1.10", "refs/tags/v1.10"])
def test_a_tag(here: Project, upstream: tuple[str, dict[str, str]], tag: str) -> None:
    """A tag becomes the commit that it names, and a run fetches nothing more."""
    url, commits = upstream
    added = here.add(f"{url}#{tag}")
    given, tag = tag, tag.removeprefix("refs/tags/")
    assert added.name == f"tool-{tag[1:]}"
    assert here.definition(added.name) == {"type": "git", "repo": url, "revision": commits[tag]}
    if given == "v1.10":
        done = doit(Path(), FETCH_OFFLINE="1", FETCH_GIT_PROTOCOLS="https")
        assert done.returncode == 0, done.stdout
    assert "already defined" in here.add(f"{url}#{tag}").notes[0]


def test_refused_refs(here: Project, upstream: tuple[str, dict[str, str]]) -> None:
    """A branch, a missing tag and no tag at all are refused; a commit is taken as it is."""
    url, commits = upstream
    branch = next(name for name in commits if name and not name.startswith("v"))
    for tag, reason in ((branch, "branches move"), ("v9", "has no tag v9"), ("", "which commit")):
        with pytest.raises(EditError, match=reason):
            here.add(f"{url}#{tag}")
    assert not Path("fetchdefs").exists()
    assert here.add(f"{url}#{commits['v1.2']}", prefix="src/tool/").name == f"tool-{commits['v1.2'][:12]}"
    assert here.definition(f"tool-{commits['v1.2'][:12]}")["path-prefix"] == "src/tool"


# --- the command


def test_the_first_minute(here: Project, tmp_path: Path) -> None:
    """After adding three URLs in an empty directory, doit makes them without a further request."""
    here.origin.answers |= {"/a-1.0": reply(ELF), URL: reply(CONTENT), "/lib-1.0.tar": reply(LIBRARY)}
    done = program(tmp_path, "add", f"{here.origin.url}/a-1.0")
    assert done.returncode == 0, done.stderr
    for path in (URL, "/lib-1.0.tar"):
        here.add(here.origin.url + path)
    asked = len(here.origin.requests)
    assert ran(doit(tmp_path)) == ["fetch:a-1.0", "fetch:lib-1.0", "fetch:x-1.0", "repack:lib-1.0", "repack:x-1.0"]
    assert len(here.origin.requests) == asked
    assert sorted(path.name for path in tmp_path.iterdir()) == ["build", "cache", "dodo.py", "fetchdefs"]


@pytest.mark.slow
def test_the_command_line(here: Project, tmp_path: Path) -> None:
    """Paths are relative to the working directory; JSON is the only output; failures have their status."""
    here.origin.answers |= {"/a-1.0": reply(ELF)}
    url = f"{here.origin.url}/a-1.0"
    written(tmp_path, {"fetchdefs/fetch/a.yml": "# mine\n", "fetchdefs/fetch/b.yml": "# mine\n"})
    done = program(tmp_path / "fetchdefs/fetch", "add", url, "--file", "b.yml", "--json")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "dodo.py").exists()  # `--file` is not doit's own option
    again = program(tmp_path / "fetchdefs/fetch", "add", f"{url}?raw=1#x", "--file", "b.yml", "--name=c", "--dry-run")
    assert again.returncode == 0, again.stderr
    assert f"url: {url}?raw=1\n" in again.stdout
    found = json.loads(done.stdout)
    assert (found["name"], found["file"], found["written"]) == ("a-1.0", "fetchdefs/fetch/b.yml", True)
    assert found["evidence"] == [{"kind": "first use", "detail": "nothing else vouches for these bytes"}]
    assert (tmp_path / "fetchdefs/fetch/b.yml").read_text().startswith("# mine\n\na-1.0:\n")
    assert program(tmp_path, "add", f"{here.origin.url}/none").returncode == 1
    assert program(tmp_path, "add").returncode == 3
    assert program(tmp_path, "add", url, "--strip", "x").returncode == 3
    shown = program(tmp_path, "add", url, "--name", "again", "--dry-run").stdout
    assert "also in the cache" in shown
    assert "would write fetchdefs/fetch/fetches.yml" in shown


def test_a_task_of_that_name_runs(tmp_path: Path) -> None:
    """A task of dodo.py that is called as a command runs instead, as before the command existed."""
    own = "\ndef task_add():\n    return {'actions': ['echo mine'], 'verbosity': 2}\n"
    written(tmp_path, {"dodo.py": DODO + own, "fetchdefs/fetch/f.yml": definition("f", "https://example.org/f", b"")})
    assert "mine" in doit(tmp_path, "add").stdout
