"""Runs with shared stores: two checkouts over a directory and over real nginx with its DAV module."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import stores
from tests.origin import Answer, Origin, OriginRequest, ranged, reply, serving
from tests.project import CLEAN, DODO, LIBRARY, PYTHONPATH, TOOL, definition, doit, written
from tests.repositories import FILES, made
from tests.stores import PASSWORD, USER
from tests.taskcluster import taskcluster

REPACKED = "    artifact-name: lib.tar.zst\n    strip-components: 1\n"
TOOLCHAIN = "built:\n  description: b\n  fetches: {fetch: [lib]}\n  run:\n    script: build.sh\n    toolchain-artifact: out.txt\n"


@dataclass
class Farm:
    """A store, an origin, and checkouts of one project that use them."""

    top: Path
    url: str
    root: Path  # of the store's files
    origin: Origin
    files: dict[str, str]
    environ: dict[str, str]

    def checkout(self, name: str, **files: str) -> Path:
        """Return a fresh checkout."""
        return written(self.top / name, {**self.files, **files})

    def run(self, directory: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run doit with the store."""
        return doit(directory, *words, **{"FETCH_STORE": self.url, **self.environ, **environ})

    def write(self, directory: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run doit with the store and its signing key, and write to it."""
        key = str(self.top / "ci.key")
        return self.run(directory, *words, **{"FETCH_STORE_WRITE": "always", "FETCH_STORE_SIGNING_KEY": key, **environ})

    def items(self, kind: str) -> dict[str, Path]:
        """Return the items of the store by name."""
        return {path.name: path for path in (self.root / kind).glob("*")}


def _project(origin: str, key: str) -> dict[str, str]:
    return {
        "dodo.py": DODO,
        "fetchdefs/fetch/all.yml": definition("lib", f"{origin}/lib.tar", LIBRARY, REPACKED)
        + definition("tool", f"{origin}/tool.tar", TOOL),
        "fetchdefs/toolchain/all.yml": TOOLCHAIN,
        "fetchdefs/toolchain/build.sh": '#!/bin/sh\ncat lib.h > "$UPLOAD_DIR/out.txt"\n',
        "fetchdefs/keys/store/ci.pub": key,
    }


@contextlib.contextmanager
def farm_at(top: Path, url: str, root: Path, environ: Mapping[str, str]) -> Iterator[Farm]:
    made = doit(top, "store", "keygen", "ci.key") if (top / "dodo.py").exists() else _keygen(top)
    assert made.returncode == 0, made.stdout
    with serving({"/lib.tar": reply(LIBRARY), "/tool.tar": reply(TOOL)}) as origin:
        files = _project(origin.url, (top / "ci.key.pub").read_text())
        yield Farm(top, url, root, origin, files, dict(environ))


def _keygen(top: Path, name: str = "ci.key") -> subprocess.CompletedProcess[str]:
    written(top, {"dodo.py": DODO})
    return doit(top, "store", "keygen", name)


@pytest.fixture(params=["directory", "nginx"])
def farm(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Farm]:
    """Yield a farm over a directory and over nginx."""
    if request.param == "directory":
        root = tmp_path / "shared"
        root.mkdir()
        with farm_at(tmp_path, root.as_uri(), root, {}) as one:
            yield one
        return
    with stores.nginx(tmp_path) as server:
        netrc = tmp_path / "netrc"
        netrc.write_text(f'machine 127.0.0.1 login {USER} password "{PASSWORD}"\n')
        with farm_at(tmp_path, server.url, tmp_path / "nginx/root", {"NETRC": str(netrc)}) as one:
            yield one


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Farm]:
    """Yield a farm over a directory only: what is tested is not the wire."""
    root = tmp_path / "shared"
    root.mkdir()
    with farm_at(tmp_path, root.as_uri(), root, {}) as one:
        yield one


def test_a_second_checkout_needs_no_origin(farm: Farm) -> None:
    """What one checkout obtained and made arrives on the second one: no request to the origin, no repack, no build."""
    first = farm.write(farm.checkout("a"))
    assert first.returncode == 0, first.stdout
    assert "2 from origin, pushed 4" in first.stdout
    asked = len(farm.origin.requests)
    b = farm.checkout("b", **{"fetchdefs/toolchain/build.sh": farm.files["fetchdefs/toolchain/build.sh"]})
    second = farm.run(b)
    assert second.returncode == 0, second.stdout
    assert len(farm.origin.requests) == asked
    assert "2 adopted" in second.stdout
    assert "4 from store " in second.stdout and "from origin" not in second.stdout
    assert not (b / "build/built/run.log").exists()
    assert (b / "build/artifacts/built/out.txt").read_text() == "#define LIB 1\n"
    assert (b / "build/artifacts/lib/lib.tar.zst").read_bytes() == (
        farm.top / "a/build/artifacts/lib/lib.tar.zst"
    ).read_bytes()


@pytest.mark.slow
def test_the_layout_of_a_store_is_bazels(farm: Farm) -> None:
    """`cas/` has content under its sha256, the empty blob too; `ac/` has canonical JSON of at most 4 KiB."""
    farm.write(farm.checkout("a"))
    blobs = farm.items("cas")
    assert hashlib.sha256().hexdigest() in blobs
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == name for name, path in blobs.items())
    assert hashlib.sha256(LIBRARY).hexdigest() in blobs
    for name, path in farm.items("ac").items():
        text = path.read_bytes()
        record = json.loads(text)
        assert text == json.dumps(record, sort_keys=True, separators=(",", ":")).encode() and len(text) <= 4096
        assert record["key"] == name and record["v"] == 1 and record["artifact"]["sha256"] in blobs
        assert set(record) - {"urls"} == {"v", "key", "artifact", "made", "sig"}
    urls = [json.loads(path.read_bytes()).get("urls") for path in farm.items("ac").values()]
    assert sorted(filter(None, urls)) == [[f"{farm.origin.url}/lib.tar"], [f"{farm.origin.url}/tool.tar"]]


@pytest.mark.slow
def test_push_and_pull(farm: Farm) -> None:
    """`push` writes what the store lacks and nothing twice; `pull` fills the cache, so that a run needs nothing."""
    a = farm.checkout("a")
    assert doit(a).returncode == 0
    tried = farm.write(a, "store", "push", "--dry-run")
    assert "4 to push" in tried.stdout and not farm.items("cas")
    assert "4 pushed" in farm.write(a, "store", "push").stdout
    again = farm.write(a, "store", "push")
    assert again.returncode == 0 and "0 pushed (0 B), 4 unchanged, 0 not in the cache" in again.stdout
    asked = len(farm.origin.requests)
    b = farm.checkout("b")
    pulled = farm.run(b, "store", "pull")
    assert pulled.returncode == 0 and "4 pulled" in pulled.stdout
    assert "4 in the cache" in farm.run(b, "store", "pull").stdout
    assert "4 adopted" in doit(b).stdout
    assert len(farm.origin.requests) == asked


@pytest.mark.slow
def test_push_and_pull_of_names(shared: Farm) -> None:
    """Names limit push and pull to a definition and what it consumes; an unknown name is an error."""
    a = shared.checkout("a")
    doit(a)
    assert "1 pushed" in shared.write(a, "store", "push", "tool").stdout
    assert set(shared.items("cas")) == {hashlib.sha256(TOOL).hexdigest(), hashlib.sha256().hexdigest()}
    assert "3 pushed" in shared.write(a, "store", "push", "toolchain:built").stdout
    wrong = shared.write(a, "store", "push", "nothing")
    assert wrong.returncode == 3 and "no definition is named 'nothing'" in wrong.stdout


@pytest.mark.slow
def test_push_of_another_platform(tmp_path: Path) -> None:
    """`push` writes the content of the platform that is selected, as a run with the same setting fetches it."""
    (tmp_path / "store").mkdir()
    files = {"macos-aarch64": b"for macOS", "linux-riscv64": b"for RISC-V"}
    entries = []
    for platform, content in files.items():
        (tmp_path / platform).write_bytes(content)
        facts = f"size: {len(content)}, sha256: {hashlib.sha256(content).hexdigest()}"
        entries.append(f"      {platform}: {{url: '{(tmp_path / platform).as_uri()}', {facts}}}\n")
    text = "tool:\n  description: d\n  fetch:\n    type: static-url\n    platforms:\n" + "".join(entries)
    written(tmp_path, {"dodo.py": DODO, "fetchdefs/fetch/all.yml": text})
    environ = {"FETCH_PLATFORM": "linux-riscv64"}
    assert doit(tmp_path, **environ).returncode == 0
    store = {"FETCH_STORE": (tmp_path / "store").as_uri(), "FETCH_STORE_WRITE": "always"}
    done = doit(tmp_path, "store", "push", "tool", **environ, **store)
    assert done.returncode == 0 and "1 pushed (10 B)" in done.stdout, done.stdout


@pytest.mark.slow
def test_nothing_is_written_outside_of_a_protected_push(shared: Farm) -> None:
    """`auto` reads only, `push` says why and ends with 1; in the CI's protected push it writes."""
    a = shared.checkout("a")
    assert shared.run(a, FETCH_STORE_SIGNING_KEY=str(shared.top / "ci.key")).returncode == 0
    done = shared.run(a, "store", "push")
    assert done.returncode == 1 and "nothing is written: " in done.stdout
    never = shared.run(
        a, "store", "push", FETCH_STORE_WRITE="never", GITHUB_REF_PROTECTED="true", GITHUB_EVENT_NAME="push"
    )
    assert never.returncode == 1
    assert not list(shared.root.glob("*"))
    pushed = shared.run(a, "store", "push", GITHUB_REF_PROTECTED="true", GITHUB_EVENT_NAME="push")
    assert pushed.returncode == 0 and "only content: " in pushed.stdout
    assert len(shared.items("cas")) == 5 and not shared.items("ac")


LIES: dict[str, Callable[[bytes], bytes]] = {
    "other bytes": lambda content: bytes(len(content)),
    "truncated": lambda content: content[:-1],
    "too long": lambda content: content + b"x",
    "empty": lambda _: b"",
    "a page": lambda _: b"<!DOCTYPE html><title>Log in</title>",
}


@pytest.mark.slow
@pytest.mark.parametrize("lie", LIES)
def test_wrong_bytes_are_refused_named_and_repaired(farm: Farm, lie: str) -> None:
    """Wrong bytes of a store are named and quarantined, the origin is asked, and a writer repairs the store."""
    farm.write(farm.checkout("a"))
    blob = farm.items("cas")[hashlib.sha256(TOOL).hexdigest()]
    blob.chmod(0o644)
    blob.write_bytes(LIES[lie](TOOL))
    b = farm.checkout("b")
    asked = len(farm.origin.requests)
    done = farm.write(b, "fetch:tool")
    assert done.returncode == 0, done.stdout
    assert [one.path for one in farm.origin.requests[asked:]] == ["/tool.tar"]
    assert "store " in done.stdout and ("expected" in done.stdout or "bytes" in done.stdout)
    assert (b / "build/artifacts/tool/tool.tar").read_bytes() == TOOL
    assert blob.read_bytes() == TOOL
    if lie != "empty":
        assert any((b / "cache/v1/quarantine").iterdir())


@pytest.mark.slow
def test_two_stores_are_asked_in_order(shared: Farm) -> None:
    """The second store provides what the first lacks; a writer lets the first have it, too."""
    shared.write(shared.checkout("a"))
    near = shared.top / "near"
    near.mkdir()
    both = f"{near.as_uri()},{shared.url}"
    asked = len(shared.origin.requests)
    done = shared.run(shared.checkout("b"), FETCH_STORE=both)
    assert done.returncode == 0 and f"4 from store {shared.url}" in done.stdout
    assert not list(near.iterdir())
    done = shared.write(shared.checkout("c"), FETCH_STORE=both)
    assert done.returncode == 0, done.stdout
    assert len(shared.origin.requests) == asked
    assert {path.name for path in (near / "cas").iterdir()} >= {hashlib.sha256(TOOL).hexdigest()}
    done = shared.run(shared.checkout("d"), "fetch:tool", FETCH_STORE=both)
    assert f"1 from store {near.as_uri()}" in done.stdout


# --- results


def _record(farm: Farm, kind: str) -> Path:
    """Return the record of the toolchain's output ("built") or of the repacked archive ("any")."""
    for path in farm.items("ac").values():
        record = json.loads(path.read_bytes())
        if "urls" not in record and (record["made"]["platform"] == "any") == (kind == "any"):
            return path
    raise AssertionError(kind)


def _write(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def _canonical(record: object) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode()


def _forge_artifact(farm: Farm) -> None:
    """Name other content than the signed one."""
    path = _record(farm, "built")
    record = json.loads(path.read_bytes())
    evil = b"evil\n"
    (farm.root / "cas" / hashlib.sha256(evil).hexdigest()).write_bytes(evil)
    record["artifact"] = {"sha256": hashlib.sha256(evil).hexdigest(), "size": len(evil)}
    _write(path, _canonical(record))


def _replay(farm: Farm) -> None:
    """Serve the signed record of another recipe key."""
    _write(_record(farm, "built"), _record(farm, "any").read_bytes())


def _unsign(farm: Farm) -> None:
    path = _record(farm, "built")
    record = json.loads(path.read_bytes())
    del record["sig"]
    _write(path, _canonical(record))


def _revoke(farm: Farm) -> None:
    """Trust another key from now on."""
    assert _keygen(farm.top, "other.key").returncode == 0
    farm.files["fetchdefs/keys/store/ci.pub"] = (farm.top / "other.key.pub").read_text()


def _damage(farm: Farm) -> None:
    path = _record(farm, "built")
    _write(path, path.read_bytes()[:-1])


def _page(farm: Farm) -> None:
    _write(_record(farm, "built"), b"<html>" * 4096)


def _spell(farm: Farm) -> None:
    """Spell the signed record in another way."""
    path = _record(farm, "built")
    _write(path, json.dumps(json.loads(path.read_bytes()), sort_keys=True).encode())


@pytest.mark.slow
@pytest.mark.parametrize("attack", [_forge_artifact, _replay, _unsign, _revoke, _damage, _page, _spell])
def test_untrusted_results_are_refused_and_made_here(shared: Farm, attack: Callable[[Farm], None]) -> None:
    """A result that no trusted key signed for this recipe is named in a warning and made here."""
    shared.write(shared.checkout("a"))
    attack(shared)
    b = shared.checkout("b")
    done = shared.run(b)
    assert done.returncode == 0, done.stdout
    assert "is not used: " in done.stdout
    assert (b / "build/built/run.log").exists()
    assert (b / "build/artifacts/built/out.txt").read_text() == "#define LIB 1\n"


@pytest.mark.slow
def test_a_result_without_its_content_is_made_here(shared: Farm) -> None:
    """A signed record whose content the store lost is not a result."""
    shared.write(shared.checkout("a"))
    record = json.loads(_record(shared, "built").read_bytes())
    shared.items("cas")[record["artifact"]["sha256"]].unlink()
    b = shared.checkout("b")
    assert shared.run(b).returncode == 0
    assert (b / "build/built/run.log").exists()


@pytest.mark.slow
def test_without_trust_only_content_is_used(shared: Farm) -> None:
    """`none`, the default without keys, uses pinned content only; `any` also believes unsigned records."""
    shared.write(shared.checkout("a"))
    _unsign(shared)
    for trust, builds in (("none", True), ("any", False), ("signed", True)):
        directory = shared.checkout(trust)
        done = shared.run(directory, FETCH_STORE_TRUST=trust)
        assert done.returncode == 0, done.stdout
        assert (directory / "build/built/run.log").exists() is builds, trust
    shared.files["fetchdefs/keys/store/ci.pub"] = ""
    bare = shared.checkout("bare")
    shutil.rmtree(bare / "fetchdefs/keys")
    done = shared.run(bare)
    assert done.returncode == 0 and (bare / "build/built/run.log").exists()
    assert "2 from store" in done.stdout


@pytest.mark.slow
def test_a_result_of_another_platform_is_made_here(shared: Farm) -> None:
    """A result for another platform is not used, even if its recipe key and its signature fit."""
    shared.write(shared.checkout("a"))
    path = _record(shared, "built")
    sign = (
        "import sys, msgspec; from tasks_lib.store import records as r\n"
        "key = r.load_signing_key(sys.argv[1]); path = sys.argv[2]\n"
        "old = r.parse_record(open(path, 'rb').read())\n"
        "made = msgspec.structs.replace(old.made, platform='linux-aarch64-glibc')\n"
        "sys.stdout.buffer.write(key.sign(msgspec.structs.replace(old, made=made, signature=None)).encode())\n"
    )
    words = [sys.executable, "-c", sign, str(shared.top / "ci.key"), str(path)]
    signed = subprocess.run(words, env={**CLEAN, "PYTHONPATH": PYTHONPATH}, capture_output=True, check=True).stdout
    _write(path, signed)
    b = shared.checkout("b")
    done = shared.run(b)
    assert done.returncode == 0 and "it is for linux-aarch64-glibc" in done.stdout
    assert (b / "build/built/run.log").exists()


# --- the URL of a definition


@pytest.mark.slow
def test_a_changed_url_is_confirmed(shared: Farm) -> None:
    """Content whose record lacks the present URL is confirmed by one download; a record is completed by it."""
    shared.write(shared.checkout("a"))
    text = shared.files["fetchdefs/fetch/all.yml"].replace("/tool.tar", "/new.tar")
    shared.origin.answers["/new.tar"] = reply(TOOL)
    asked = len(shared.origin.requests)
    done = shared.write(shared.checkout("b", **{"fetchdefs/fetch/all.yml": text}), "fetch:tool")
    assert done.returncode == 0, done.stdout
    assert [one.path for one in shared.origin.requests[asked:]] == ["/new.tar"]
    asked = len(shared.origin.requests)
    done = shared.run(shared.checkout("c", **{"fetchdefs/fetch/all.yml": text}), "fetch:tool")
    assert done.returncode == 0 and len(shared.origin.requests) == asked, done.stdout
    text = text.replace("/new.tar", "/pulled.tar")
    shared.origin.answers["/pulled.tar"] = reply(TOOL)
    pulled = shared.checkout("pulled", **{"fetchdefs/fetch/all.yml": text})
    assert shared.run(pulled, "store", "pull", "tool").returncode == 0
    assert len(shared.origin.requests) == asked
    assert doit(pulled, "fetch:tool").returncode == 0
    assert [one.path for one in shared.origin.requests[asked:]] == ["/pulled.tar"]
    text = text.replace("/pulled.tar", "/new.tar")
    shared.origin.answers["/new.tar"] = reply(bytes(len(TOOL)))
    text = text.replace("/new.tar", "/newer.tar")
    shared.origin.answers["/newer.tar"] = reply(bytes(len(TOOL)))
    done = shared.run(shared.checkout("d", **{"fetchdefs/fetch/all.yml": text}), "fetch:tool")
    assert done.returncode == 1 and "has other content" in done.stdout


@pytest.mark.slow
def test_content_without_a_record_is_only_reported(shared: Farm) -> None:
    """Content that somebody put there with curl is used without asking the origin, and its store is named."""
    cas = shared.root / "cas"
    cas.mkdir()
    (cas / hashlib.sha256(TOOL).hexdigest()).write_bytes(TOOL)
    b = shared.checkout("b")
    done = shared.run(b, "fetch:tool")
    assert done.returncode == 0 and not shared.origin.requests
    assert shared.url in doit(b, "info", "fetch:tool").stdout


# --- outages


@pytest.mark.slow
def test_a_black_hole_costs_one_timeout(shared: Farm) -> None:
    """A store that never answers is asked once in a run, and not at all by the next process of the same cache."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as hole:
        url = f"http://127.0.0.1:{hole.getsockname()[1]}/x"
        a = shared.checkout("a")
        done = shared.run(a, FETCH_STORE=url, FETCH_CONNECT_TIMEOUT_S="2")
        assert done.returncode == 0, done.stdout
        assert done.stdout.count("timed out") == 1
        hole.settimeout(0)
        hole.accept()[0].close()
        with pytest.raises(BlockingIOError):
            hole.accept()
        shutil.rmtree(a / "build")
        for path in (a / "cache").glob("v1/blobs/*/*/*"):
            path.unlink()
        done = shared.run(a, FETCH_STORE=url, FETCH_CONNECT_TIMEOUT_S="2")
        assert done.returncode == 0 and "because it did not answer" in done.stdout
        with pytest.raises(BlockingIOError):
            hole.accept()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "said"),
    [("401 Unauthorized", "FETCH_STORE_TOKEN"), ("403 Forbidden", "FETCH_STORE_TOKEN"), ("500 Oops", "HTTP 500"), ("503 Busy", "HTTP 503")],
)  # fmt: skip
def test_a_store_that_refuses_is_a_warning(shared: Farm, status: str, said: str) -> None:
    """A store that refuses or fails is named once; everything comes from the origin."""

    def refuse(connection: socket.socket, request: OriginRequest) -> None:
        reply(b"", status)(connection, request)

    with serving(_Everything(refuse)) as store:
        done = shared.run(shared.checkout("a"), FETCH_STORE=f"{store.url}/x")
    assert done.returncode == 0, done.stdout
    assert said in done.stdout and "2 fetched" in done.stdout
    assert len(store.requests) == 1
    with serving(_Everything(refuse)) as store:
        done = shared.run(shared.checkout("b"), FETCH_STORE=f"{store.url}/x", FETCH_STORE_WRITE="always")
    assert done.returncode == int(status.startswith("4")), done.stdout


class _Everything(dict[str, Answer]):
    """Answers for every path."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self._answer = answer

    def get(self, _path: str, _default: object = None) -> Answer:
        """Return the answer."""
        return self._answer


@pytest.mark.slow
def test_a_store_that_dies_in_the_run(shared: Farm) -> None:
    """A store that stops to answer after its first item costs a warning; the rest comes from the origin."""
    dead = threading.Event()

    def answer(connection: socket.socket, request: OriginRequest) -> None:
        if dead.is_set() and not request.path.endswith(hashlib.sha256().hexdigest()):
            return  # close the connection without a word
        dead.set()
        connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    with serving(_Everything(answer)) as store:
        done = shared.run(shared.checkout("a"), FETCH_STORE=f"{store.url}/x")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("closed the connection") == 1 and "2 fetched" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "mode", "code"),
    [
        ("507 Insufficient Storage", "always", 0),
        ("403 Forbidden", "always", 1),
        ("405 Method Not Allowed", "always", 1),
    ],
)
def test_a_store_that_cannot_be_written_to(shared: Farm, status: str, mode: str, code: int) -> None:
    """A full store is a warning at the end of the run; a refused write ends a run that must write with 1."""

    def answer(connection: socket.socket, request: OriginRequest) -> None:
        if "content-length" in request.headers:
            connection.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                connection.recv(1 << 20)
            reply(b"", status)(connection, request)
        else:
            reply(b"", "404 Not Found")(connection, request)

    progress = "quiet" if status.startswith("403") else "lines"  # it names what failed
    with serving(_Everything(answer)) as store:
        words = {"FETCH_STORE": f"{store.url}/x", "FETCH_STORE_WRITE": mode, "FETCH_PROGRESS": progress}
        done = shared.run(shared.checkout("a"), **words)
    assert done.returncode == code, done.stdout
    assert f"HTTP {status[:3]}" in done.stdout and "not written" in done.stdout


@pytest.mark.slow
def test_a_directory_that_is_not_mounted(shared: Farm) -> None:
    """A missing directory of a store is a warning, and is not created."""
    gone = shared.top / "gone"
    done = shared.write(shared.checkout("a"), FETCH_STORE=gone.as_uri())
    assert done.returncode == 0 and "No such file or directory" in done.stdout
    done = shared.write(shared.top / "a", "store", "push", FETCH_STORE=gone.as_uri())
    assert done.returncode == 1 and "0 unchanged, 4 not written" in done.stdout
    assert not gone.exists()


# --- writers


@pytest.mark.slow
def test_eight_writers_at_once(farm: Farm) -> None:
    """Eight machines push the same content at once: nothing is torn, and all succeed."""
    names = [f"w{number}" for number in range(8)]
    first = farm.checkout("w0")
    assert doit(first).returncode == 0
    for name in names[1:]:
        shutil.copytree(first, farm.top / name, symlinks=True)
    done: list[subprocess.CompletedProcess[str]] = []
    threads = [
        threading.Thread(target=lambda name=name: done.append(farm.write(farm.top / name, "store", "push")))
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.returncode for one in done] == [0] * 8, done[0].stdout
    for name, path in farm.items("cas").items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == name
    assert "4 unchanged" in farm.write(first, "store", "push").stdout


@pytest.mark.slow
def test_a_killed_push_leaves_nothing_half_visible(farm: Farm) -> None:
    """Kill -9 in the middle of a push: every visible item is complete, and the next push completes."""
    big = os.urandom(24 << 20)
    farm.origin.answers["/big"] = reply(big)
    text = farm.files["fetchdefs/fetch/all.yml"] + definition("big", f"{farm.origin.url}/big", big)
    a = farm.checkout("a", **{"fetchdefs/fetch/all.yml": text})
    assert doit(a, "fetch:big", "fetch:tool").returncode == 0
    environ = {
        **CLEAN,
        "PYTHONPATH": PYTHONPATH,
        "FETCH_STORE": farm.url,
        "FETCH_STORE_WRITE": "always",
        **farm.environ,
    }
    words = [sys.executable, "-m", "doit", "store", "push"]
    for wait_s in (0.5, 0.6, 0.7, 0.8, 0.9):
        process = subprocess.Popen(words, cwd=a, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(wait_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for name, path in farm.items("cas").items():
            assert hashlib.sha256(path.read_bytes()).hexdigest() == name
    assert farm.write(a, "store", "push", "big", "tool").returncode == 0
    assert farm.items("cas")[hashlib.sha256(big).hexdigest()].stat().st_size == len(big)


# --- credentials


@pytest.mark.slow
def test_a_token_is_sent_to_the_store_only(shared: Farm) -> None:
    """FETCH_STORE_TOKEN goes to the store as Bearer, not along a redirect, not to the origin, and into no output."""
    with serving({}) as elsewhere:
        name = hashlib.sha256(TOOL).hexdigest()
        elsewhere.answers[f"/{name}"] = reply(TOOL)
        with serving({f"/x/cas/{name}": reply(b"", "302 Found", Location=f"{elsewhere.url}/{name}")}) as store:
            b = shared.checkout("b")
            done = shared.run(b, "fetch:tool", FETCH_STORE=f"{store.url}/x", FETCH_STORE_TOKEN="s3cret-token")
            assert done.returncode == 0, done.stdout
            assert {one.headers.get("authorization") for one in store.requests} == {"Bearer s3cret-token"}
            assert [one.headers.get("authorization") for one in elsewhere.requests] == [None]
            assert not shared.origin.requests
            assert "s3cret-token" not in done.stdout
            kept = subprocess.run(["grep", "-rl", "s3cret-token", str(b)], capture_output=True, text=True, check=False)
            assert kept.stdout == ""


@pytest.mark.slow
def test_prune_keeps_what_is_needed(shared: Farm) -> None:
    """`prune` deletes what is old and not needed by these definitions, with --all whatever is old; never on its own."""
    a = shared.checkout("a")
    shared.write(a)
    old = b"old content"
    (shared.root / "cas" / hashlib.sha256(old).hexdigest()).write_bytes(old)
    for path in shared.root.glob("*/*"):
        os.utime(path, (1, 1))
    words = ("store", "prune", "--older-than", "90d")
    assert shared.write(a, *words).returncode == 3
    assert "1 would be deleted, 11 B; 9 kept" in shared.write(a, *words, "--dry-run").stdout
    refused = shared.run(a, *words, "--yes")
    assert refused.returncode == 1 and "nothing is deleted" in refused.stdout
    assert "1 deleted" in shared.write(a, *words, "--yes").stdout
    assert len(list(shared.root.glob("cas/*"))) == 5
    assert "8 deleted" in shared.write(a, *words, "--yes", "--all").stdout
    assert [path.name for path in shared.root.glob("*/*")] == [hashlib.sha256().hexdigest()]
    assert "4 pushed" in shared.write(a, "store", "push").stdout


@pytest.mark.slow
def test_aged_items_are_written_again(shared: Farm) -> None:
    """`push` writes again what was written longer than 45 days ago, so that a prune of 90 days keeps it."""
    a = shared.checkout("a")
    shared.write(a)
    for path in shared.root.glob("*/*"):
        os.utime(path, (time.time() - 46 * 24 * 3600,) * 2)
    assert "4 pushed" in shared.write(a, "store", "push").stdout
    assert "4 unchanged" in shared.write(a, "store", "push").stdout


@pytest.mark.slow
def test_status(farm: Farm) -> None:
    """`doit store` says what each store can do, whether this run writes, and whose results it uses."""
    done = farm.write(farm.checkout("a"), "store")
    assert done.returncode == 0
    assert "answers in " in done.stdout and "signed by ci.pub" in done.stdout and "writes: yes" in done.stdout


@pytest.mark.slow
def test_json_and_the_record_of_a_run(shared: Farm) -> None:
    """`-r json` has what came from and went to stores."""
    document = json.loads(shared.write(shared.checkout("a"), "-r", "json").stdout)
    assert document["summary"]["pushed"]["files"] == 4 and document["summary"]["stores"] == []
    document = json.loads(shared.run(shared.checkout("b"), "-r", "json").stdout)
    size = sum(task["bytes"] for task in document["tasks"])
    assert document["summary"]["stores"] == [{"store": shared.url, "files": 4, "bytes": size}]
    assert {task["store"] for task in document["tasks"] if task["bytes"]} == {shared.url}
    record = json.loads((shared.top / "b/build/.run.json").read_text())
    assert record["stores"].startswith(f"4 from store {shared.url}")


@pytest.mark.slow
def test_info_says_which_stores_hold_an_artifact(shared: Farm) -> None:
    """`info` asks the stores whether they hold the content, or the result of what is not made yet."""
    a = shared.checkout("a")
    assert "held by    : no store" in shared.run(a, "info", "fetch:tool").stdout
    shared.write(a)
    for task in ("fetch:tool", "repack:lib", "toolchain:built"):
        assert f"store {shared.url}" in shared.run(shared.checkout("b"), "info", task).stdout
    assert "held by" not in doit(a, "info", "fetch:tool").stdout
    (found,) = json.loads(shared.run(a, "info", "fetch:tool", "--json").stdout)
    assert found["stores"] == [shared.url] and "held by" not in found["provenance"]
    assert json.loads(doit(a, "info", "fetch:tool", "--json").stdout)[0]["stores"] is None


@pytest.mark.slow
def test_offline_with_a_directory(shared: Farm) -> None:
    """A store in a directory needs no network: it is used offline; another one is not asked."""
    shared.write(shared.checkout("a"))
    asked = len(shared.origin.requests)
    done = shared.run(shared.checkout("b"), "offline=1", FETCH_STORE=f"http://127.0.0.1:1/x,{shared.url}")
    assert done.returncode == 0 and "4 from store" in done.stdout, done.stdout
    assert len(shared.origin.requests) == asked


def test_commands_that_are_offline(shared: Farm) -> None:
    """Offline, a store that needs the network is named as not asked, and what was asked of it fails."""
    a = shared.checkout("a")
    for words in ((), ("push",), ("pull",)):
        done = shared.write(a, "store", *words, "offline=1", FETCH_STORE=f"http://127.0.0.1:1/x,{shared.url}")
        assert done.returncode == 1, done
        assert done.stdout.startswith("store 127.0.0.1:1: not asked, because the network is off\n"), done


@pytest.mark.slow
def test_fetch_content_uses_the_store(farm: Farm) -> None:
    """`fetch-content static-url` with a digest reads from the store, and writes what it downloaded."""
    environ = {**CLEAN, "PYTHONPATH": PYTHONPATH, "FETCH_STORE": farm.url, **farm.environ, "FETCH_RETRIES": "0"}
    url, sha256 = f"{farm.origin.url}/tool.tar", hashlib.sha256(TOOL).hexdigest()

    def fetch(dest: str, *flags: str, **more: str) -> str:
        words = [sys.executable, "-m", "tasks_lib.fetch_content", "static-url", "--sha256", sha256, *flags, url, dest]
        done = subprocess.run(words, cwd=farm.top, env={**environ, **more}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    assert "pushed 1" in fetch("one.tar", "--size", str(len(TOOL)), FETCH_STORE_WRITE="always")
    asked = len(farm.origin.requests)
    assert "1 from store" in fetch("two.tar", "--size", str(len(TOOL)))
    assert "1 from store" in fetch("three.tar", "--size", "0")
    assert len(farm.origin.requests) == asked
    assert (farm.top / "three.tar").read_bytes() == TOOL


@pytest.mark.slow
def test_fetch_content_reads_artifacts_with_a_digest(shared: Farm) -> None:
    """`fetch-content task-artifacts` takes an artifact from the store whose chain of trust has its digest."""
    cas = shared.root / "cas"
    cas.mkdir()
    (cas / hashlib.sha256(TOOL).hexdigest()).write_bytes(TOOL)
    with taskcluster() as cluster:
        cluster.publish("public/tool.tar", reply(b"", "404 Not Found"), **{"verify-hash": True})  # type: ignore[arg-type]  # mypy takes it for `task`
        cluster.trust({"public/tool.tar": TOOL})
        environ = {
            **CLEAN,
            **cluster.environ,
            "PYTHONPATH": PYTHONPATH,
            "FETCH_STORE": shared.url,
            "FETCH_RETRIES": "0",
        }
        words = [sys.executable, "-m", "tasks_lib.fetch_content", "task-artifacts", "-d", "out"]
        done = subprocess.run(words, cwd=shared.top, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert (shared.top / "out/tool/tool.c").read_bytes() == b"int main;"


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", ["no cryptography", "a bad public key", "a bad signing key", "a signing key that is missing"]
)
def test_a_key_that_is_not_usable_ends_the_run(shared: Farm, fault: str) -> None:
    """Signatures that cannot be made or checked are an error of the settings, never a silent rebuild."""
    a, environ = shared.checkout("a"), {"FETCH_STORE_WRITE": "always"}
    if fault == "no cryptography":
        (a / "blocked/cryptography").mkdir(parents=True)
        (a / "blocked/cryptography/__init__.py").write_text("raise ImportError")
        environ["PYTHONPATH"] = f"{a}/blocked{os.pathsep}{PYTHONPATH}"
    elif fault == "a bad public key":
        (a / "fetchdefs/keys/store/other.pub").write_text(
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
        )
    else:
        environ["FETCH_STORE_SIGNING_KEY"] = str(a / "dodo.py") if fault == "a bad signing key" else str(a / "none")
    done = shared.run(a, **environ)
    assert done.returncode == 3, done.stdout
    assert ("doit-fetch[store]" in done.stdout) == (fault == "no cryptography")
    assert not shared.origin.requests


@pytest.mark.slow
def test_a_store_that_lacks_much_is_asked_ahead(tmp_path: Path) -> None:
    """From the first miss on, HEAD requests go ahead of the run; no item is asked for twice once it is known to lack."""
    contents = {f"/{number}": f"content {number}".encode() for number in range(80)}
    with stores.nginx(tmp_path) as server, serving({path: reply(text) for path, text in contents.items()}) as origin:
        fetches = "".join(definition(f"f{path[1:]}", f"{origin.url}{path}", text) for path, text in contents.items())
        a = written(tmp_path / "a", {"dodo.py": DODO, "fetchdefs/fetch/all.yml": fetches})
        done = doit(a, FETCH_STORE=server.url)
        assert done.returncode == 0, done.stdout
        asked = [line.split() for line in server.requests()]
        missed = [path for method, path, _ in asked if method == "HEAD" and "/cas/" in path]
        assert len(missed) > 10 and len(set(missed)) == len(missed)
        assert len([path for method, path, _ in asked if method == "GET"]) < len(contents)


@pytest.mark.slow
def test_a_commit_arrives_without_its_repository(shared: Farm) -> None:
    """The archive of a commit comes from a store: neither git nor the repository is needed."""
    commit = made(shared.top / "r", FILES)
    text = f"c:\n  description: d\n  fetch: {{type: git, repo: 'file://{shared.top}/r', revision: {commit}}}\n"
    shared.files["fetchdefs/fetch/commit.yml"] = text
    assert shared.write(shared.checkout("a"), "repack:c").returncode == 0
    (shared.top / "r").rename(shared.top / "moved")
    b = shared.checkout("b")
    done = shared.run(b, "repack:c")
    assert done.returncode == 0 and f"1 from store {shared.url}" in done.stdout, done.stdout
    name = f"c-{commit}.tar.zst"
    found = [path.read_bytes() for path in shared.top.glob("[ab]/build/artifacts/c/*")]
    assert len(found) == 2 and found[0] == found[1], name


@pytest.mark.slow
def test_large_content_is_resumed(shared: Farm) -> None:
    """A store whose connection breaks in the middle is asked for the rest by Range."""
    content = os.urandom(4 << 20)
    name = hashlib.sha256(content).hexdigest()
    text = definition("big", f"{shared.origin.url}/gone", content)
    with serving({f"/x/cas/{name}": ranged(content, first=1 << 20)}) as store:
        b = shared.checkout("b", **{"fetchdefs/fetch/big.yml": text})
        done = shared.run(b, "fetch:big", FETCH_STORE=f"{store.url}/x", FETCH_RETRIES="3")
        assert done.returncode == 0, done.stdout
        ranges = [one.headers["range"] for one in store.requests if "range" in one.headers]
    assert ranges and not shared.origin.requests


@pytest.mark.slow
def test_the_api_writes_before_it_returns(shared: Farm) -> None:
    """`doit path` uses the stores as a run does, and what it obtained is written when it ends."""
    a = shared.checkout("a")
    assert shared.write(a, "path", "tool").returncode == 0
    assert hashlib.sha256(TOOL).hexdigest() in shared.items("cas")
    asked = len(shared.origin.requests)
    assert shared.run(shared.checkout("b"), "path", "tool").returncode == 0
    assert len(shared.origin.requests) == asked
