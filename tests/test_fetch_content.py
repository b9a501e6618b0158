"""The command `fetch-content` as a user sees it: files, exit status and streams, with a local Taskcluster."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tasks_lib.fetch_content.command import main
from tasks_lib.fetch_content.run import private_directory
from tasks_lib.settings import SETTINGS
from tests.archives import Member, Zipped, tar, zip_of
from tests.origin import Origin, in_turn, reply, serving
from tests.taskcluster import CLEAN, Taskcluster, fetch_content, taskcluster

MEMBERS = [
    Member("top/"),
    Member("top/run", b"#!/bin/sh\n", mode=0o755),
    Member("top/text", b"text", mode=0o640),
    Member("top/empty/"),
    Member("top/link", kind=b"2", target="text"),
    Member("top/out", kind=b"2", target="/usr/lib"),
    Member("top/hard", kind=b"1", target="top/text"),
]
TAR = tar(MEMBERS)
#: What lies in the tar, as `tree_of` tells it.
TREE = {
    "top": "directory",
    "top/run": "x #!/bin/sh\n",
    "top/text": "text",
    "top/empty": "directory",
    "top/link": "-> text",
    "top/out": "-> /usr/lib",
    "top/hard": "text",
}


def zipped_tree() -> bytes:
    """Return a zip with a program, a symlink and a file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content, mode in (
            ("top/run", b"#!/bin/sh\n", 0o100755),
            ("top/link", b"text", 0o120777),
            ("top/text", b"text", 0o100644),
        ):
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, mode << 16
            made.writestr(info, content)
    return buffer.getvalue()


ZIP = zipped_tree()
ZIP_TREE = {name: TREE[name] for name in ("top", "top/run", "top/link", "top/text")}
VERIFY: dict[str, Any] = {"verify-hash": True}
FILES = {
    "a.tar": TAR,
    "a.tar.gz": gzip.compress(TAR),
    "a.tar.bz2": bz2.compress(TAR),
    "a.tar.xz": lzma.compress(TAR),
    "a.tar.zst": zstandard.compress(TAR),
    "no-name": gzip.compress(TAR),
    "lies.zip": lzma.compress(TAR),
    "a.zip": ZIP,
    "a-1-py3-none-any.whl": ZIP,
}
PLAIN = {
    "plain.txt": b"plain",
    "one.gz": gzip.compress(b"one file"),
    "program": b"\x7fELF",
    "script.sh": b"#!/bin/sh",
    "a.deb": b"!<arch>\n",
    "e": b"",
}  # fmt: skip


def tree_of(directory: Path) -> dict[str, str]:
    """Return the tree below a directory: the text of files, with "x " before that of programs, and targets of links."""
    found = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_dir():
            found[name] = "directory"
        else:
            executable = "x " if path.stat().st_mode & 0o111 else ""
            found[name] = executable + path.read_bytes().decode("latin-1")
    return found


def unpacked(archive: Path, to: Path) -> dict[str, str]:
    """Return the tree that GNU tar extracts from an archive."""
    to.mkdir()
    subprocess.run(["tar", "--zstd", "--no-same-owner", "-C", to, "-xf", archive], check=True)
    return tree_of(to)


@dataclass
class Ran:
    """The result of the command."""

    status: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run the command in this process, with a clean environment."""

    def command(*words: str | Path, **environ: str) -> Ran:
        monkeypatch.chdir(tmp_path)
        for name in os.environ.keys() - CLEAN.keys():
            monkeypatch.delenv(name)
        for name, value in {"FETCH_RETRIES": "1", "FETCH_BACKOFF_S": "0.01", **environ}.items():
            monkeypatch.setenv(name, value)
        try:
            status = main([str(word) for word in words])
        except SystemExit as end:
            status = int(str(end.code))
        printed = capsys.readouterr()
        assert not printed.out or "-h" in words, "standard output stays clean"
        assert "Traceback" not in printed.err
        return Ran(status, printed.out, printed.err)

    return command


@pytest.fixture
def origin() -> Iterator[Origin]:
    with serving({f"/d/{name}": reply(content) for name, content in {**FILES, **PLAIN}.items()}) as one:
        yield one


@pytest.fixture
def cluster() -> Iterator[Taskcluster]:
    with taskcluster() as one:
        yield one


def pinned(content: bytes) -> list[str]:
    return ["--sha256", hashlib.sha256(content).hexdigest(), "--size", str(len(content))]


#: Archives that an option accepts: the variable with its value, and the tree then.
TWICE = [Member("a", b"1"), Member("b", b"2")]
OPTIONAL: dict[str, tuple[bytes, str, dict[str, str]]] = {
    "twice.tar.gz": (gzip.compress(tar([*TWICE, Member("a", b"3")])), "FETCH_DUPLICATES=last", {"a": "3", "b": "2"}),
    "icon.tar.gz": (gzip.compress(tar([Member("Icon\r", b"i")])), "FETCH_CONTROL_NAMES=keep", {"Icon\r": "i"}),
    "after.tar.gz": (gzip.compress(tar(TWICE)) + b"x", "FETCH_TRAILING=ignore", {"a": "1", "b": "2"}),
    "inside.tar.gz": (gzip.compress(tar(TWICE) + b"x"), "FETCH_TRAILING=ignore", {"a": "1", "b": "2"}),
    "prefix.zip": (b"#!/bin/sh\n" + zip_of(Zipped(name=b"a", content=b"1")), "FETCH_ZIP_PREFIX=ignore", {"a": "1"}),
    "dos.zip": (zip_of(Zipped(name=b"d\\a", content=b"1", host=0, mode=0)), "FETCH_ZIP_BACKSLASH=separator", {"d": "directory", "d/a": "1"}),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONAL)
def test_options_of_archives(run: Run, tmp_path: Path, origin: Origin, cluster: Taskcluster, name: str) -> None:
    """A refusal names the variable that accepts the archive; with it, the archive is repacked and extracted."""
    content, option, tree = OPTIONAL[name]
    variable, _, value = option.partition("=")
    origin.answers[f"/d/{name}"] = reply(content)
    cluster.publish(f"public/{name}", content)
    words = ["static-url", *pinned(content), f"{origin.url}/d/{name}", tmp_path / "out.tar.zst"]
    for command, environ in ((words, {}), (["task-artifacts", "-d", tmp_path / "fetches"], cluster.environ)):
        refused = run(*command, **environ)
        assert refused.status == 1 and option in refused.err, refused.err
        assert run(*command, **environ, **{variable: "yes"}).status == 1
        accepted = run(*command, **environ, **{variable: value})
        assert accepted.status == 0, accepted.err
    assert unpacked(tmp_path / "out.tar.zst", tmp_path / "tree") == tree
    assert tree_of(tmp_path / "fetches") == tree
    assert variable not in {one.environ for one in SETTINGS}, "doit does not read it"


REPEATED: dict[str, tuple[list[Member], int]] = {
    "same": ([*TWICE, Member("a", b"1")], 0),
    "over a link": ([*TWICE, Member("c", kind=b"1", target="a"), Member("c", b"1"), Member("a", kind=b"1", target="a")], 0),
    "other": ([*TWICE, Member("a", b"2")], 1), "mode": ([*TWICE, Member("a", b"1", mode=0o755)], 1),
    "over a link to other": ([*TWICE, Member("c", kind=b"1", target="b"), Member("c", b"1")], 1),
}  # fmt: skip


@pytest.mark.parametrize("case", REPEATED)
def test_repeated_entries(run: Run, tmp_path: Path, origin: Origin, case: str) -> None:
    """The identical tar is kept if an entry only repeats an earlier one; other content is refused."""
    members, status = REPEATED[case]
    content = gzip.compress(tar(members))
    origin.answers["/d/x.tar.gz"] = reply(content)
    ended = run("static-url", *pinned(content), f"{origin.url}/d/x.tar.gz", tmp_path / "out.tar.zst")
    assert ended.status == status, ended.err
    if not status:
        made = (tmp_path / "out.tar.zst").read_bytes()
        assert zstandard.ZstdDecompressor().decompressobj().decompress(made) == tar(members)


# --- the command line -------------------------------------------------------------------------


def test_usage(run: Run, tmp_path: Path) -> None:
    """An invalid command line prints the usage and exits with 2; help exits with 0."""
    for words in (
        [],
        ["unknown"],
        ["static-url", "x"],
        ["task-artifacts"],
        ["static-url", *pinned(b""), "http://x/", ""],
    ):
        ended = run(*words)
        assert ended.status == 2 and "usage: fetch-content" in ended.err, words
    ended = run("-h")
    assert ended.status == 0 and "git-checkout-archive" in ended.out
    assert run("task-artifacts", MOZ_FETCHES_DIR=str(tmp_path), MOZ_FETCHES="[]").status == 0


def test_executed_by_its_path(tmp_path: Path, origin: Origin) -> None:
    """run-task runs the command's file with Python; the installed script is such a file."""
    words = ["static-url", *pinned(TAR), f"{origin.url}/d/a.tar", str(tmp_path / "a.tar")]
    done = fetch_content(*words)
    assert (done.returncode, done.stdout) == (0, "")
    installed = Path(sys.executable).with_name("fetch-content")
    again = subprocess.run([sys.executable, "-u", installed, *words], env=CLEAN, capture_output=True, check=False)
    assert (again.returncode, again.stdout) == (0, b"")
    module = [sys.executable, "-m", "tasks_lib.fetch_content"]
    assert subprocess.run(module, env=CLEAN, capture_output=True, check=False).returncode == 2


# --- static-url -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dest"),
    [("a.tar.gz", "a.tar.gz"), ("a.tar.gz", "b-1.2.tar.gz"), ("a.zip", "b.zip"), ("plain.txt", "other.txt")]
    + [("plain.txt", "no-suffix"), ("a.tar.zst", "b.tar.zst"), ("a.deb", "b.deb"), ("plain.txt", "deep/er/plain.txt")],
)
def test_kept_as_it_is(run: Run, tmp_path: Path, origin: Origin, name: str, dest: str) -> None:
    """A file whose name does not require repacking arrives unchanged, readable by all users."""
    content = {**FILES, **PLAIN}[name]
    ended = run("static-url", *pinned(content), f"{origin.url}/d/{name}", tmp_path / dest)
    assert ended.status == 0, ended.err
    assert (tmp_path / dest).read_bytes() == content
    assert (tmp_path / dest).stat().st_mode & 0o777 == 0o644
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / dest]
    assert f"resolved to {len(content)} bytes with sha256" in ended.err and "Verified sha256 integrity of" in ended.err


def test_rules_of_definitions_are_not_its(run: Run, tmp_path: Path, origin: Origin) -> None:
    """A mirrors.yml in the current directory is ignored."""
    (tmp_path / "fetchdefs").mkdir()
    (tmp_path / "fetchdefs/mirrors.yml").write_text("block: [localhost]\n")
    elsewhere = origin.url.replace("127.0.0.1", "localhost") + "/d/plain.txt"
    origin.answers["/moved/plain.txt"] = reply(b"", "302 Found", Location=elsewhere)
    ended = run("static-url", *pinned(PLAIN["plain.txt"]), f"{origin.url}/moved/plain.txt", tmp_path / "plain.txt")
    assert ended.status == 0, ended.err


@pytest.mark.parametrize("name", [name for name in FILES if name != "a.tar.zst"])
def test_repacked(run: Run, tmp_path: Path, origin: Origin, name: str) -> None:
    """Any archive is repacked as .tar.zst, whatever its name; the tar inside stays identical."""
    ended = run("static-url", *pinned(FILES[name]), f"{origin.url}/d/{name}", tmp_path / "out.tar.zst")
    assert ended.status == 0, ended.err
    assert unpacked(tmp_path / "out.tar.zst", tmp_path / "tree") == (ZIP_TREE if FILES[name] == ZIP else TREE)
    if FILES[name] != ZIP:
        made = (tmp_path / "out.tar.zst").read_bytes()
        assert zstandard.ZstdDecompressor().decompressobj().decompress(made) == TAR


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("strip", "prefix"), [(1, ""), (0, "p-"), (1, "new/")])
def test_reshaped(run: Run, tmp_path: Path, origin: Origin, name: str, strip: int, prefix: str) -> None:
    """Components are stripped and the prefix is prepended, also for a .tar.zst and for symlinks in a zip."""
    flags = ["--strip-components", str(strip), "--add-prefix", prefix]
    dest = tmp_path / "a.tar.zst"
    assert run("static-url", *pinned(FILES[name]), *flags, f"{origin.url}/d/{name}", dest).status == 0
    wanted = {
        prefix + key.split("/", strip)[-1]: value
        for key, value in (ZIP_TREE if FILES[name] == ZIP else TREE).items()
        if key.count("/") >= strip
    }
    found = {key: value for key, value in unpacked(dest, tmp_path / "tree").items() if key != prefix.rstrip("/")}
    assert found == wanted
    first = dest.read_bytes()
    assert run("static-url", *pinned(FILES[name]), *flags, f"{origin.url}/d/{name}", dest).status == 0
    assert dest.read_bytes() == first


@pytest.mark.parametrize(("name", "executable"), [("plain.txt", ""), ("program", "x ")])
def test_wrapped(run: Run, tmp_path: Path, origin: Origin, name: str, executable: str) -> None:
    """--force-archive wraps a single file reproducibly."""
    words = ["static-url", *pinned(PLAIN[name]), "--force-archive", f"{origin.url}/d/{name}"]
    made = []
    for dest in ("one.tar.zst", "two.tar.zst"):
        assert run(*words, tmp_path / dest).status == 0
        made.append((tmp_path / dest).read_bytes())
    assert unpacked(tmp_path / "one.tar.zst", tmp_path / "tree") == {name: executable + PLAIN[name].decode("latin-1")}
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("name", "dest", "flags", "reason"),
    [
        ("plain.txt", "y.bin", [], "only .tar.zst archives are made"),
        ("a.tar.gz", "a.tgz", [], "only .tar.zst archives are made"),
        ("a.tar", "a.tar", ["--strip-components", "1"], "only .tar.zst archives are made"),
        ("a.tar", "a.tar.zst", ["--strip-components", "2"], "leaves an empty name"),
        ("plain.txt", "p.tar.zst", [], "not an archive in a known format"),
        (
            "plain.txt",
            "p.tar.zst",
            ["--force-archive", "--strip-components", "1"],
            "cannot strip components of a single file",
        ),
        ("plain.txt", "p.txt", ["--sha256", "0" * 64], "expected sha256:0000"),
        ("plain.txt", "p.txt", ["--sha256", "xyz"], "expected 64 hex digits"),
        ("plain.txt", "p.txt", ["--size", "4"], "expected 4 bytes, but the server announces 5"),
        ("plain.txt", "p.txt", ["-H", "no colon"], "expected 'Name: value'"),
        ("plain.txt", "p.txt", ["-H", "A: b\nC: d"], "control characters"),
        ("plain.txt", "p.txt", ["--gpg-key-env", "KEY"], "must both be defined"),
        ("plain.txt", "p.txt", ["--gpg-sig-url", "http://x/y"], "must both be defined"),
        (
            "plain.txt",
            "p.txt",
            ["--gpg-sig-url", "http://x/y", "--gpg-key-env", "KEY"],
            "KEY (--gpg-key-env) is not set",
        ),
        ("missing", "missing", [], "HTTP 404"),
    ],
)
def test_refused(run: Run, tmp_path: Path, origin: Origin, name: str, dest: str, flags: list[str], reason: str) -> None:
    """A failure prints at most four lines and exits with 1; nothing is left, and an older file stays."""
    (tmp_path / dest).write_bytes(b"older")
    content = {**FILES, **PLAIN}.get(name, b"")
    ended = run("static-url", *pinned(content or b"x"), *flags, f"{origin.url}/d/{name}", tmp_path / dest)
    assert ended.status == 1 and reason in ended.err, ended.err
    assert tree_of(tmp_path) == {dest: "older"}


def test_a_link_to_nothing_is_replaced(run: Run, tmp_path: Path, origin: Origin) -> None:
    """A dangling symlink is replaced, not followed. Source: upstream's download_to_path unlinks the destination."""
    (tmp_path / "dangling").symlink_to("nowhere")
    name, content = next(iter(PLAIN.items()))
    ended = run("static-url", *pinned(content), f"{origin.url}/d/{name}", tmp_path / "dangling")
    assert ended.status == 0, ended.err
    assert not (tmp_path / "dangling").is_symlink() and (tmp_path / "dangling").read_bytes() == content
    assert not (tmp_path / "nowhere").exists()


def test_what_is_no_file_is_not_replaced(run: Run, tmp_path: Path, origin: Origin) -> None:
    """A device (here a FIFO), a link to one, and a directory are not replaced; no request is sent."""
    os.mkfifo(tmp_path / "fifo.tar.zst")
    (tmp_path / "link.tar.zst").symlink_to("fifo.tar.zst")
    for dest in ("fifo.tar.zst", "link.tar.zst", "."):
        ended = run("static-url", *pinned(TAR), f"{origin.url}/d/a.tar", dest)
        assert ended.status == 1 and f"{dest} is not a regular file" in ended.err
        ended = run("git-checkout-archive", str(tmp_path), "a" * 40, dest)
        assert ended.status == 1 and f"{dest} is not a regular file" in ended.err
    assert (tmp_path / "fifo.tar.zst").is_fifo() and (tmp_path / "link.tar.zst").is_symlink()
    assert origin.paths() == []


@pytest.mark.parametrize("url", ["http://h:99999/x", "http://u:hunter2@h:x/", "http://[::1/x", "file://[::1/x"])
@pytest.mark.parametrize("size", ["0", "1"])
def test_unreadable_urls(run: Run, tmp_path: Path, size: str, url: str) -> None:
    """An invalid host or port is refused without quoting the URL, for the file and for its signature."""
    words = ("static-url", "--sha256", "0" * 64, "--size", size)
    signed = ("--gpg-sig-url", url, "--gpg-key-env", "KEY", "http://127.0.0.1:1/x")
    for ended in (run(*words, url, tmp_path / "x"), run(*words, *signed, tmp_path / "x", KEY="k")):
        assert ended.status == 1
        assert ended.err == "fetch-content: (unreadable URL): invalid host or port\nwrite https://HOST/PATH\n"


def test_permanent_errors_are_asked_once(run: Run, tmp_path: Path, origin: Origin) -> None:
    """A 404 is not retried; a 503 is."""
    run("static-url", *pinned(b"x"), f"{origin.url}/missing", tmp_path / "x")
    assert origin.paths() == ["/missing"]
    origin.answers["/busy"] = in_turn(reply(b"busy", "503 Service Unavailable"), reply(b"content"))
    assert run("static-url", *pinned(b"content"), f"{origin.url}/busy", tmp_path / "busy").status == 0


def test_headers(run: Run, tmp_path: Path, origin: Origin) -> None:
    """Header values may contain colons; -H and --header may be repeated; a mistake prints no value."""
    words = ["-H", "X-Time: 12:30:00", "--header", "Authorization: Bearer a:b"]
    assert run("static-url", *pinned(b"plain"), *words, f"{origin.url}/d/plain.txt", tmp_path / "x").status == 0
    sent = origin.requests[-1].headers
    assert (sent["x-time"], sent["authorization"]) == ("12:30:00", "Bearer a:b")
    wrong = [*words[:2], "-H", "Authorization Bearer S3CRET"]
    ended = run("static-url", *pinned(b"plain"), *wrong, f"{origin.url}/x", tmp_path / "x")
    assert "invalid --header, number 2" in ended.err
    assert "S3CRET" not in ended.err


@pytest.mark.parametrize("name", ["plain.txt", "plain.gz"])
def test_content_encoding(run: Run, tmp_path: Path, origin: Origin, name: str) -> None:
    """Size and digest are those of the content without the server's gzip encoding."""
    origin.answers[f"/{name}"] = reply(gzip.compress(b"plain"), Content_Encoding="gzip")
    ended = run("static-url", *pinned(b"plain"), f"{origin.url}/{name}", tmp_path / name)
    assert ended.status == 0, ended.err
    assert (tmp_path / name).read_bytes() == b"plain"
    packed = gzip.compress(b"plain")
    origin.answers[f"/{name}"] = reply(packed, Content_Encoding="gzip")
    assert run("static-url", *pinned(packed), f"{origin.url}/{name}", tmp_path / name).status == 0
    assert (tmp_path / name).read_bytes() == packed


def test_cache(run: Run, tmp_path: Path, origin: Origin) -> None:
    """With a cache directory, content is fetched once; without one, nothing is left behind."""
    words = ["static-url", *pinned(TAR), f"{origin.url}/d/a.tar"]
    cache = {"FETCH_CACHE_DIR": str(tmp_path / "cache")}
    assert run(*words, tmp_path / "one/a.tar", **cache).status == 0
    assert run(*words, tmp_path / "two/a.tar.zst", FETCH_OFFLINE="1", **cache).status == 0
    assert len(origin.requests) == 1
    (tmp_path / "one/a.tar").write_bytes(b"changed by its owner")
    assert run(*words, tmp_path / "three/a.tar", **cache).status == 0
    assert (tmp_path / "three/a.tar").read_bytes() == TAR
    offline = run(*words, tmp_path / "four/a.tar", FETCH_OFFLINE="1")
    assert offline.status == 1 and "the network is off" in offline.err
    assert not list((tmp_path / "four").iterdir())


def test_a_moved_url_with_a_kept_cache(run: Run, tmp_path: Path, origin: Origin) -> None:
    """Cached content is confirmed once by a new URL; other content is an error, and an unreachable URL a warning."""
    origin.answers |= {"/a-1": reply(b"one"), "/b-1": reply(b"one"), "/a-2": reply(b"two")}
    cache = {"FETCH_CACHE_DIR": str(tmp_path / "cache")}
    for name, status, words in (
        ("a-1", 0, ""),
        ("b-1", 0, ""),
        ("b-1", 0, ""),
        ("a-2", 1, f"fetched from {origin.url}/b-1; update sha256 and size"),
        ("a-3", 0, f"fetched from {origin.url}/b-1, and {origin.url}/a-3 did not confirm them"),
    ):
        ended = run("static-url", *pinned(b"one"), f"{origin.url}/{name}", tmp_path / name, **cache)
        assert ended.status == status, ended.err
        assert words in ended.err
    assert not (tmp_path / "a-2").exists()
    assert [path for path in origin.paths() if path != "/a-2"] == ["/a-1", "/b-1", "/a-3"]


def test_unchecked(run: Run, tmp_path: Path, origin: Origin) -> None:
    """As in upstream's command, size 0 and an empty digest disable their checks; the latter prints a warning."""
    words = ["--sha256", "", "--size", "0", f"{origin.url}/d/plain.txt", tmp_path / "x"]
    ended = run("static-url", *words)
    assert ended.status == 0 and "WARNING: no sha256" in ended.err
    assert run("static-url", *pinned(b"plain")[:2], *words[2:]).status == 0
    assert run("static-url", *pinned(b"other")[:2], *words[2:]).status == 1


# --- task-artifacts ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("delivery", ["extracted", "placed"])
def test_archives(run: Run, tmp_path: Path, cluster: Taskcluster, name: str, delivery: str) -> None:
    """Archives are detected by content and extracted, unless the entry says otherwise."""
    cluster.publish(f"public/build/{name}", FILES[name], extract=delivery == "extracted")
    ended = run("task-artifacts", "-d", tmp_path / "fetches", **cluster.environ)
    assert ended.status == 0, ended.err
    if delivery == "extracted":
        assert tree_of(tmp_path / "fetches") == (ZIP_TREE if FILES[name] == ZIP else TREE)
        times = {path.lstat().st_mtime_ns for path in (tmp_path / "fetches/top").iterdir()}
        assert len(times) == 1, "make would remake what is older than its sources"
    else:
        assert (tmp_path / "fetches" / name).read_bytes() == FILES[name]
        assert [path.name for path in (tmp_path / "fetches").iterdir()] == [name]


@pytest.mark.parametrize("name", PLAIN)
def test_files_are_placed(run: Run, tmp_path: Path, cluster: Taskcluster, name: str) -> None:
    """A file that is not an archive is placed unchanged although `extract` is set."""
    cluster.publish(f"public/{name}", PLAIN[name])
    assert run("task-artifacts", "-d", tmp_path / "fetches", **cluster.environ).status == 0
    assert tree_of(tmp_path / "fetches") == {name: PLAIN[name].decode("latin-1")}
    assert (tmp_path / "fetches" / name).stat().st_mode & 0o777 == 0o644


def test_where_artifacts_come_from(run: Run, tmp_path: Path, cluster: Taskcluster) -> None:
    """Public artifacts come from the root URL through redirects, private ones from the proxy; names are percent-encoded."""
    with serving({"/bucket/x": reply(b"from storage")}) as storage:
        cluster.publish("public/a b+c%2F.txt", reply(b"", "303 See Other", Location=f"{storage.url}/bucket/x"))
        cluster.publish("private/p.txt", b"private", dest="deep/../else//where", unknown=["ignored"])
        ended = run("task-artifacts", **cluster.environ, MOZ_FETCHES_DIR=str(tmp_path / "f"))
    assert ended.status == 0, ended.err
    assert tree_of(tmp_path / "f") == {
        "a b+c%2F.txt": "from storage", "else": "directory", "else/where": "directory", "else/where/p.txt": "private",
    }  # fmt: skip
    assert cluster.root.paths() == ["/api/queue/v1/task/TASK/artifacts/public/a%20b%2Bc%252F.txt"]
    assert cluster.proxy.paths() == ["/api/queue/v1/task/TASK/artifacts/private/p.txt"]


@pytest.mark.parametrize(
    ("listed", "reason"),
    [
        (None, "MOZ_FETCHES is not set"),
        ("{", "not valid JSON"),
        ('{"a": 1}', "not a list"),
        ("[1]", "entry 1 is not an object"),
        ('[{"task": "T", "extract": true}]', "has no 'artifact'"),
        ('[{"artifact": "public/x", "extract": true}]', "has no 'task'"),
        ('[{"artifact": "public/x", "task": "T"}]', "has no 'extract'"),
        ('[{"artifact": "public/x/", "task": "T", "extract": true}]', "does not end in a valid file name"),
        ('[{"artifact": "public/..", "task": "T", "extract": true}]', "does not end in a valid file name"),
        ('[{"artifact": "private/x", "task": "T", "extract": true}]', "TASKCLUSTER_PROXY_URL is not set"),
        ('[{"artifact": "public/x", "task": "T", "extract": true}]', "HTTP 404"),
    ],
)
def test_wrong_lists(run: Run, tmp_path: Path, cluster: Taskcluster, listed: str | None, reason: str) -> None:
    """An invalid list is refused before any request."""
    environ = {"TASKCLUSTER_ROOT_URL": cluster.root.url} | ({"MOZ_FETCHES": listed} if listed is not None else {})
    ended = run("task-artifacts", "-d", tmp_path / "f", **environ)
    assert ended.status == 1 and reason in ended.err, ended.err
    assert len(cluster.root.requests) == (reason == "HTTP 404")
    assert not (tmp_path / "f").exists() or not list((tmp_path / "f").iterdir())


def test_dest_outside(run: Run, tmp_path: Path, cluster: Taskcluster) -> None:
    """The author of the list may choose any directory: above the base, absolute, and through symlinks of the user."""
    (tmp_path / "real/deep").mkdir(parents=True)
    (tmp_path / "f").symlink_to("real/deep")
    (tmp_path / "artifacts").symlink_to("real")
    for name, dest in (("a", "../artifacts/x"), ("b", f"{tmp_path}/f/y"), ("c", "a/../../z"), ("d", ""), ("e", "y")):
        cluster.publish(f"public/{name}", name.encode(), dest=dest)
    ended = run("task-artifacts", "-d", tmp_path / "f", **cluster.environ)
    assert ended.status == 0, ended.err
    assert tree_of(tmp_path / "real") | {"z/c": (tmp_path / "z/c").read_text()} == {
        "deep": "directory", "deep/d": "d", "deep/y": "directory", "deep/y/b": "b", "deep/y/e": "e",
        "x": "directory", "x/a": "a", "z/c": "c",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("first", "link", "second"),
    [
        ("", "usr", "usr/lib"),
        ("", "usr", "usr"),
        ("", "a/b", "a/b/c/d"),
        ("x", "usr", "x/usr/lib"),
        ("x/../x", "usr", "./x//usr"),
        ("../side", "usr", "../side/usr/lib"),
        ("", "usr", "{base}/usr/lib"),
        ("", "usr", "{alias}/usr/lib"),
        ("{alias}", "usr", "usr/lib"),
        ("..", "f", ""),
    ],
)
def test_dest_through_a_symlink_of_an_archive(
    run: Run, tmp_path: Path, cluster: Taskcluster, first: str, link: str, second: str
) -> None:
    """No `dest` goes through a symlink that an archive made: in any order, with any number of jobs, in a second run."""
    base, outside, alias = tmp_path / "f", tmp_path / "outside", tmp_path / "alias"
    outside.mkdir()
    alias.symlink_to("f")
    members = [Member(f"{above}/") for above in map(str, Path(link).parents) if above != "."]
    archive = tar([*reversed(members), Member(link, kind=b"2", target=str(outside))])
    places = {"base": str(base), "alias": str(alias)}
    cluster.publish("public/a.tar", archive, dest=first.format(**places))
    cluster.publish("public/b.tar", tar([Member("pwned", b"own")]), dest=second.format(**places))
    both, base_is_needed = cluster.fetches.copy(), first == ".."
    for listed in (both, both[::-1], both[:1], both):  # the third list makes the symlink, and the fourth one finds it
        cluster.fetches[:] = listed
        ended = run("task-artifacts", "-d", base, **cluster.environ, FETCH_JOBS="4")
        assert tree_of(outside) == {}
        assert ended.status == (len(listed) == 2 or base_is_needed)
        assert not ended.status or repr(link) in ended.err or f"/{link} is a symlink" in ended.err, ended.err


def test_a_file_where_a_dest_needs_a_directory(run: Run, tmp_path: Path, cluster: Taskcluster) -> None:
    """A file in the way of another entry's directory is refused by name and does not replace that directory."""
    cluster.publish("public/b.txt", b"b", dest="usr/lib")
    cluster.publish("public/usr", b"a file")
    ended = run("task-artifacts", "-d", tmp_path / "f", **cluster.environ)
    assert ended.status == 1 and "public/usr puts the file 'usr' into" in ended.err, ended.err
    assert (tmp_path / "f/usr/lib/b.txt").read_bytes() == b"b"


def test_no_root_url(run: Run, tmp_path: Path) -> None:
    """The root URL is required, unless the list is empty."""
    entry = '[{"artifact": "public/x", "task": "T", "extract": true}]'
    ended = run("task-artifacts", "-d", tmp_path, MOZ_FETCHES=entry)
    assert ended.status == 1 and "TASKCLUSTER_ROOT_URL is not set" in ended.err
    assert run("task-artifacts", "-d", tmp_path, MOZ_FETCHES="[]").status == 0


def test_verify_hash(run: Run, tmp_path: Path, cluster: Taskcluster) -> None:
    """The chain of trust is downloaded once for each task, from the root URL, and verifies its artifacts."""
    for name in ("public/a.txt", "public/b.txt", "private/c.txt"):
        cluster.publish(name, name.encode(), **VERIFY)
    cluster.trust({name: name.encode() for name in ("public/a.txt", "public/b.txt", "private/c.txt")})
    assert run("task-artifacts", "-d", tmp_path / "f", **cluster.environ).status == 0
    assert [path.rpartition("/")[2] for path in cluster.root.paths()].count("chain-of-trust.json") == 1
    assert sorted(tree_of(tmp_path / "f")) == ["a.txt", "b.txt", "c.txt"]


@pytest.mark.parametrize(
    ("trusted", "reason"),
    [
        ({"public/a.txt": b"other"}, "expected sha256:"),
        ({"public/b.txt": b"a"}, "has no sha256 of public/a.txt"),
        (None, "HTTP 404"),
    ],
)
def test_broken_trust(
    run: Run, tmp_path: Path, cluster: Taskcluster, trusted: dict[str, bytes] | None, reason: str
) -> None:
    """Content that does not match the chain of trust is not placed."""
    cluster.publish("public/a.txt", b"a", **VERIFY)
    if trusted is not None:
        cluster.trust(trusted)
    ended = run("task-artifacts", "-d", tmp_path / "f", **cluster.environ)
    assert ended.status == 1 and reason in ended.err
    assert tree_of(tmp_path / "f") == {}


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("cut.tar.gz", gzip.compress(TAR)[:-20], "cut.tar.gz"),
        ("short.tar.zst", zstandard.compress(TAR)[:20], "short.tar.zst"),
        ("page.tar.xz", b"<html>not found</html>", "page.tar.xz"),
        ("text.tgz", gzip.compress(b"text"), "its name declares tar.gz"),
        ("empty.zip", b"", "WRONG_FORMAT"),
        ("bad.zip", ZIP[:-30], "bad.zip"),
        ("noise", b"\x28\xb5\x2f\xfd" + b"\xff" * 60, "noise"),
        ("evil.tar", tar([Member("good", b"x"), Member("../evil", b"x")]), "DOTDOT"),
        ("evil.tar", tar([Member("d", kind=b"2", target="/tmp"), Member("d/evil", b"x")]), "BELOW_NON_DIRECTORY"),
    ],
    ids=range(9),
)
def test_damaged_archives(
    run: Run, tmp_path: Path, cluster: Taskcluster, name: str, content: bytes, reason: str
) -> None:
    """A damaged archive, declared by name or first bytes, is an error and leaves nothing."""
    cluster.publish("public/good.txt", b"good")
    cluster.publish(f"public/{name}", content)
    ended = run("task-artifacts", "-d", tmp_path / "f", **cluster.environ)
    assert ended.status == 1 and reason in ended.err, ended.err
    assert tree_of(tmp_path / "f") == {"good.txt": "good"}
    assert not (tmp_path / "evil").exists()


def test_one_directory(run: Run, tmp_path: Path, cluster: Taskcluster) -> None:
    """Several fetches merge into one directory without a race: the later entry of the list wins."""
    one = [
        Member("top/both", b"one"),
        Member("top/one", b"1"),
        Member("top/d/x", b"x"),
        Member("top/l", kind=b"2", target="/"),
    ]
    two = [Member("top/both", b"two", mode=0o755), Member("top/two", b"2"), Member("top/l/y", b"y")]
    for round_ in range(5):
        cluster.fetches.clear()
        cluster.publish("public/one.tar", tar(one))
        cluster.publish("public/two.tar.gz", gzip.compress(tar(two)))
        cluster.publish("public/same.txt", b"first")
        cluster.publish("public/a/same.txt", b"last", extract=False)
        place = tmp_path / f"f{round_}"
        ended = run("task-artifacts", "-d", place, **cluster.environ)
        assert ended.status == 0
        replaced = [line for line in ended.err.splitlines() if "provided by more than one fetch" in line]
        assert [line.split(" ")[0] for line in replaced] == [
            f"{place}/{name}" for name in ("top/both", "top/l", "same.txt")
        ]
        assert tree_of(place) == {
            "same.txt": "last", "top": "directory", "top/both": "x two", "top/one": "1", "top/two": "2",
            "top/d": "directory", "top/d/x": "x", "top/l": "directory", "top/l/y": "y",
        }  # fmt: skip


def test_a_directory_in_the_way(run: Run, tmp_path: Path, cluster: Taskcluster) -> None:
    """A later entry replaces an earlier one, also a file a whole directory."""
    (tmp_path / "f/top/old").mkdir(parents=True)
    cluster.publish("public/a.tar", tar([Member("top", b"file")]))
    assert run("task-artifacts", "-d", tmp_path / "f", **cluster.environ).status == 0
    assert tree_of(tmp_path / "f") == {"top": "file"}


def test_perfherder(run: Run, tmp_path: Path) -> None:
    """The time is logged for Perfherder on stderr; in automation, it is also written to a file."""
    path = tmp_path / "new/perf.json"
    environ = {"MOZ_FETCHES": "[]", "PERFHERDER_FETCH_CONTENT_JSON_PATH": str(path)}
    ended = run("task-artifacts", "-d", tmp_path / "f", **environ)
    line = next(line for line in ended.err.splitlines() if line.startswith("PERFHERDER_DATA: "))
    printed = json.loads(line.partition(": ")[2])
    assert printed["framework"] == {"name": "build_metrics"}
    assert [suite["name"] for suite in printed["suites"]] == ["fetch_content"]
    assert printed["suites"][0].keys() == {"name", "value", "lowerIsBetter", "shouldAlert", "subtests"}
    assert not path.exists()
    run("task-artifacts", "-d", tmp_path / "f", MOZ_AUTOMATION="1", **environ)
    assert json.loads(path.read_text())["framework"] == {"name": "build_metrics"}


def test_two_hundred(run: Run, tmp_path: Path, cluster: Taskcluster) -> None:
    """Two hundred artifacts are fetched in parallel, complete, and leave no temporary files."""
    for at in range(200):
        content = tar([Member(f"d{at % 7}/f{at}", b"%d" % at)]) if at % 2 else b"%d" % at
        cluster.publish(f"public/a{at}" + (".tar" if at % 2 else ".txt"), content, task=f"T{at % 9}")
    assert run("task-artifacts", "-d", tmp_path / "f", **cluster.environ, FETCH_JOBS="16").status == 0
    found = tree_of(tmp_path / "f")
    assert all(found[f"d{at % 7}/f{at}" if at % 2 else f"a{at}.txt"] == str(at) for at in range(200))
    assert len(found) == 207


def test_failure_ends_early(run: Run, tmp_path: Path, cluster: Taskcluster) -> None:
    """The first failure ends the command and cancels the other downloads."""

    def slowly(connection: socket.socket, _request: object) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        for _ in range(600):
            connection.sendall(b"x" * 10)
            time.sleep(0.05)

    cluster.publish("public/missing", reply(b"", "404 Not Found"))
    cluster.publish("public/slow", slowly)
    begun = time.monotonic()
    assert run("task-artifacts", "-d", tmp_path / "f", **cluster.environ).status == 1
    assert time.monotonic() - begun < 15  # the slow answer takes 30 s: a bound of another magnitude, no timing
    assert tree_of(tmp_path / "f") == {}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_signals(tmp_path: Path, cluster: Taskcluster, number: signal.Signals) -> None:
    """The command dies by the signal and removes its temporary files; after SIGKILL a later command does so.

    The later command leaves the directory of a command that still runs.
    """

    def never(connection: socket.socket, _request: object) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx")
        connection.recv(1)

    cluster.publish("public/a", never)
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks_lib.fetch_content", "task-artifacts", "-d", tmp_path / "f"],
        env={**CLEAN, **cluster.environ},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not cluster.root.requests and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    _, printed = process.communicate(timeout=20)
    assert process.returncode == -number
    if number != signal.SIGKILL:
        assert f"stopped by {number.name}" in printed and "Traceback" not in printed
        assert tree_of(tmp_path / "f") == {}
        return
    assert len(tree_of(tmp_path / "f")) > 0
    (tmp_path / "f/.fetch-content.file").write_text("the user's own")
    (tmp_path / "f/.fetch-content.link").symlink_to(tmp_path)
    with private_directory(tmp_path / "f") as running:
        (tmp_path / "a").write_bytes(b"a")
        digest = hashlib.sha256(b"a").hexdigest()
        url = f"file://{tmp_path}/a"
        words = ("static-url", "--sha256", digest, "--size", "1", url, tmp_path / "f/a")
        assert fetch_content(*words).returncode == 0
        assert {path.name for path in (tmp_path / "f").iterdir()} == {
            "a", ".fetch-content.file", ".fetch-content.link", running.name,
        }  # fmt: skip
