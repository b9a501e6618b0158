"""Failures of a server, of a repository or of git, and their messages."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from tasks_lib.definitions import Git
from tasks_lib.errors import ArchiveError, ArchiveLimitError, CancelledError, FetchError, ToolError, TransportError
from tasks_lib.progress import Silent
from tasks_lib.steps.commit import commit_archive
from tasks_lib.vcs.git.program import http_trace
from tests.githost import daemon, http, mute, ssh
from tests.origin import Origin, reply
from tests.project import CLEAN, PORTABLE, PYTHONPATH, ROOT
from tests.repositories import FILES, committed, forged, git, made, with_submodule
from tests.test_git import CHILD, archived, make_context, members, source


class Listening(Silent):
    """Records warnings and phases; requests a stop once `stop` is set."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.phases: list[str] = []
        self.stop = threading.Event()

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def phase(self, name: str, **facts: str | int | float) -> None:
        self.phases.append(f"{name} {facts}")

    def check(self) -> None:
        if self.stop.is_set():
            raise CancelledError("stopped")


def refused(cache: Path, wanted: Git, environ: dict[str, str] | None = None, **settings: str) -> FetchError:
    with pytest.raises(FetchError) as caught:
        commit_archive(make_context(cache, environ, **settings), wanted, Silent())
    assert len(str(caught.value).splitlines()) <= 3
    return caught.value


# --- servers


def history(directory: Path) -> list[str]:
    """Make three commits; return them."""
    return [made(directory, {"README": b"0"}), *(committed(directory, {"README": b"%d" % n}) for n in (1, 2))]


@pytest.mark.parametrize("kind", ["smart", "old", "dumb", "daemon"])
def test_servers(tmp_path: Path, kind: str) -> None:
    """A commit that is not a tip is fetched by its id if the server allows it, else with everything."""
    commits = history(tmp_path / "r")
    git(tmp_path, "clone", "-q", "--bare", "r", "r.git")
    git(tmp_path / "r.git", "update-server-info")
    listening = Listening()
    with daemon(tmp_path) if kind == "daemon" else http(tmp_path, kind=kind) as host:
        url = host if isinstance(host, str) else host.url
        home = make_context(tmp_path / "c")
        commit_archive(home, source(f"{url}/r.git", commits[1]), listening)
    (repository,) = (tmp_path / "c/v1/repositories").iterdir()
    fetched = int(git(repository, "rev-list", "--count", commits[1]))
    assert (fetched, bool(listening.warnings)) == ((2, True) if kind in ("old", "dumb") else (1, False))
    assert archived(home, source("http://127.0.0.1:9/", commits[1])) == archived(
        make_context(tmp_path / "c2"), source(tmp_path / "r", commits[1])
    )


@pytest.mark.slow
def test_a_busy_server_is_asked_again(tmp_path: Path) -> None:
    """A 503 and a 403 with Retry-After are retried, another 403 is not; all are reported."""
    commit = made(tmp_path / "r", FILES)
    listening = Listening()
    with http(tmp_path) as host:
        host.faults = [503]
        home = make_context(tmp_path / "c", retries="2", backoff="0")
        commit_archive(home, source(f"{host.url}/r/.git", commit), listening)
        host.faults, host.retry_after = [403], "1"
        home = make_context(tmp_path / "c1", retries="2", backoff="0")
        commit_archive(home, source(f"{host.url}/r/.git", commit), listening)
        assert len(listening.warnings) == 2
        host.retry_after = ""
        host.faults, host.requests[:] = [403, 403], []
        error = refused(tmp_path / "c2", source(f"{host.url}/r/.git", commit), retries="2", backoff="0")
    assert "403" in str(error)
    assert len(host.requests) == 1


#: What git appends to the URL of a repository.
TAIL = "/info/refs?service=git-upload-pack"


def test_redirects(tmp_path: Path, origin: Origin) -> None:
    """A redirect is followed if its host may be asked; not into a denied network, to another scheme, or for ever."""
    commit = made(tmp_path / "r", FILES)
    with http(tmp_path) as host:
        port = host.url.rpartition(":")[2]
        places = {
            "/moved/info/refs": f"{host.url}/r/.git{TAIL}",
            "/again/info/refs": f"/moved{TAIL}",
            "/denied/info/refs": f"http://127.9.0.1:{port}/r/.git{TAIL}",
            "/zero/info/refs": f"http://[::ffff:127.9.0.1]:{port}/r/.git{TAIL}",
            "/file/info/refs": f"file:///r/.git{TAIL}",
            "/loop/info/refs": f"/loop{TAIL}",
            "/login/info/refs": f"{host.url}/login",
        }
        origin.answers |= {path: reply(b"", "302 Found", Location=to) for path, to in places.items()}
        settings = {"deny_networks": "127.9.0.0/16", "retries": "0"}
        commit_archive(make_context(tmp_path / "c", None, **settings), source(f"{origin.url}/again", commit), Silent())
        assert f"GET /r/.git{TAIL}" in host.requests
        host.requests.clear()
        for path, said in {
            "denied": "its address 127.9.0.1 is in a blocked network\nFETCH_DENY_NETWORKS",
            "zero": "is in a blocked network",
            "file": "only http and https are allowed",
            "loop": "more than 10 redirects",
            "login": "error: 302",
        }.items():
            assert said in str(refused(tmp_path / "c2", source(f"{origin.url}/{path}", commit), None, **settings))
        assert host.requests == []


def test_denied_networks(tmp_path: Path) -> None:
    """Git is not started for a URL or a submodule in a denied network, whatever the protocol and the spelling."""
    with http(tmp_path) as host:
        port = host.url.rpartition(":")[2]
        hosts = ("127.0.0.1", "localhost", "0.0.0.0", "127.1", "[::ffff:127.0.0.1]", "[::]")
        urls = [f"http://{one}:{port}/x.git" for one in hosts]
        urls += [f"git://127.0.0.1:{port}/x", "ssh://git@127.1/x", "git@localhost:x", f"https://0:{port}/x"]
        for url in urls:
            error = refused(tmp_path / "c", source(url, "1" * 40), deny_networks="127.0.0.0/8,::1/128")
            assert "is in a blocked network\nFETCH_DENY_NETWORKS" in str(error), url
        made(tmp_path / "inner", FILES)
        made(tmp_path / "outer", FILES)
        with_submodule(tmp_path / "outer", str(tmp_path / "inner"), "inner")
        modules = tmp_path / "outer/.gitmodules"
        moved = re.sub(r"url = .*", f"url = http://127.9.0.1:{port}/inner", modules.read_text())
        commit = committed(tmp_path / "outer", {".gitmodules": moved.encode()})
        git(tmp_path, "clone", "-q", "--bare", "outer", "outer.git")
        error = refused(tmp_path / "c", source(f"{host.url}/outer.git", commit), deny_networks="127.9.0.0/16")
        assert "127.9.0.1 is in a blocked network" in str(error)
        assert not [one for one in host.requests if "inner" in one or "x.git" in one]


def test_a_mute_server(tmp_path: Path) -> None:
    """A silent server fails after the timeout."""
    with mute() as url:
        error = refused(tmp_path / "c", source(f"{url}/r", "a" * 40), stall_timeout="0.1")
    assert isinstance(error, TransportError)
    assert "git produced no output for 0.4 s" in str(error)


def command_lines() -> Iterator[str]:
    """Yield the command line of every process."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            yield path.read_text("utf-8", "replace")


def test_cancel(tmp_path: Path) -> None:
    """A cancelled fetch ends long before its timeout and leaves no process running."""
    listening = Listening()
    with mute() as url:
        timer = threading.Timer(0.3, listening.stop.set)
        timer.start()
        with pytest.raises(CancelledError):
            commit_archive(make_context(tmp_path / "c"), source(f"{url}/r", "a" * 40), listening)
        timer.join()
    assert url not in " ".join(command_lines())


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("file:///nowhere/r", "does not appear to be a git repository"),
        ("http://127.0.0.1:9/r", "git exited with status 128"),
        ("git://127.0.0.1:9/r", "git exited with status 128"),
    ],
)
def test_no_repository(tmp_path: Path, url: str, said: str) -> None:
    """The error of git is reported in one line."""
    assert said in str(refused(tmp_path / "c", source(url, "a" * 40)))


def test_no_commit(tmp_path: Path) -> None:
    """A missing commit and the id of a tag are reported with a hint."""
    made(tmp_path / "r", FILES)
    assert "the repository has no commit " + "a" * 40 in str(refused(tmp_path / "c", source(tmp_path / "r", "a" * 40)))
    git(tmp_path / "r", "tag", "-a", "-m", "t", "v1")
    tag = git(tmp_path / "r", "rev-parse", "v1")
    commit = git(tmp_path / "r", "rev-parse", "HEAD")
    error = str(refused(tmp_path / "c", source(tmp_path / "r", tag)))
    assert f"{tag} is the id of the annotated tag 'v1', not of a commit" in error
    assert f"pin `revision: {commit}`" in error
    git(tmp_path / "r", "tag", "-a", "-m", "t", "v2", "HEAD^{tree}")
    tag = git(tmp_path / "r", "rev-parse", "v2")
    assert f"{tag} is a tag, but not of a commit" in str(refused(tmp_path / "c", source(tmp_path / "r", tag)))


def test_protocols_of_the_setting(tmp_path: Path) -> None:
    """A transport that the settings do not allow is rejected before git runs."""
    wanted = source("git://127.0.0.1:9/r", "a" * 40)
    error = refused(tmp_path / "c", wanted, {"PATH": "/nowhere"}, git_protocols="https,ssh")
    assert "uses the transport 'git', which is not allowed here" in str(error)


# --- repositories that lie or were damaged


def rotten(cache: Path, commit: str, path: str = "README") -> None:
    """Replace the content of an object: `git cat-file` does not verify a loose object."""
    (repository,) = (cache / "v1/repositories").iterdir()
    for pack in (repository / "objects/pack").glob("*.pack"):
        moved = cache / pack.name
        pack.rename(moved)
        git(repository, "unpack-objects", "-q", input=moved.read_bytes())
    for left in (repository / "objects/pack").iterdir():
        left.unlink()
    identity = git(repository, "rev-parse", f"{commit}:{path}" if path else commit)
    loose = repository / "objects" / identity[:2] / identity[2:]
    kind = git(repository, "cat-file", "-t", identity)
    content = b"other" if kind == "blob" else git(repository, "cat-file", kind, identity).encode() + b"more\n"
    loose.chmod(0o644)
    loose.write_bytes(zlib.compress(b"%s %d\0" % (kind.encode(), len(content)) + content))


@pytest.mark.parametrize("path", ["README", ""])
def test_other_bytes_under_an_id(tmp_path: Path, path: str) -> None:
    """Objects that do not match their id are detected and fetched again; without an origin no archive is created."""
    commit = made(tmp_path / "r", FILES)
    first = archived(make_context(tmp_path / "c"), source(tmp_path / "r", commit))
    shutil.rmtree(tmp_path / "c/v1/results")
    rotten(tmp_path / "c", commit, path)
    listening = Listening()
    home = make_context(tmp_path / "c")
    commit_archive(home, source(tmp_path / "r", commit), listening)
    assert "does not match its id" in listening.warnings[0]
    assert archived(home, source(tmp_path / "r", commit)) == first
    shutil.rmtree(tmp_path / "c/v1/results")
    rotten(tmp_path / "c", commit, path)
    shutil.rmtree(tmp_path / "r")
    refused(tmp_path / "c", source(tmp_path / "r", commit))
    assert not (tmp_path / "c/v1/results").exists()


def test_leftovers_of_a_killed_fetch(tmp_path: Path) -> None:
    """Locks and incomplete packs of a killed process do not block the next one."""
    commits = history(tmp_path / "r")
    archived(make_context(tmp_path / "c"), source(tmp_path / "r", commits[0]))
    (repository,) = (tmp_path / "c/v1/repositories").iterdir()
    (repository / "shallow.lock").touch()
    (repository / f"refs/doit-fetch/{commits[1]}.lock").touch()
    (repository / "objects/pack/tmp_pack_x").write_bytes(b"half")
    archived(make_context(tmp_path / "c"), source(tmp_path / "r", commits[1]))
    assert not (repository / "objects/pack/tmp_pack_x").exists()


def program(directory: Path, text: str) -> dict[str, str]:
    """Return an environment in which git is this script; $GIT is the real program."""
    directory.mkdir()
    script = directory / "git"
    script.write_text(f"#!/bin/sh\nGIT={shutil.which('git')}\n{text}\n")
    script.chmod(0o755)
    return {"PATH": f"{directory}:/usr/bin:/bin"}


FAILING = {
    "dies while it writes": ('case "$*" in *--buffer*) "$GIT" "$@" | head -c 100; exit 3;; esac; exec "$GIT" "$@"', ToolError),
    "hangs while it writes": ('case "$*" in *--buffer*) sleep 60;; esac; exec "$GIT" "$@"', ToolError),
    "says nothing": ('case "$*" in *cat-file*) exit 0;; esac; exec "$GIT" "$@"', ToolError),
    "fails": ("exit 3", ToolError),
}  # fmt: skip


@pytest.mark.parametrize("case", FAILING)
def test_a_failing_git_is_an_error(tmp_path: Path, case: str) -> None:
    """No failure of git results in an incomplete archive."""
    text, kind = FAILING[case]
    commit = made(tmp_path / "r", FILES)
    error = refused(
        tmp_path / "c", source(tmp_path / "r", commit), program(tmp_path / "bin", text), stall_timeout="0.5"
    )
    assert isinstance(error, kind)
    assert not list((tmp_path / "c/v1").glob("blobs/*/*/*"))


def test_limits(tmp_path: Path) -> None:
    """Too many entries or bytes, of content or names, are rejected, also by limits in the definition."""
    commit = made(tmp_path / "r", FILES)
    for limits in ((("max_entries", 3),), (("max_total_bytes", 100),), (("max_names_bytes", 9),)):
        error = refused(tmp_path / "c", source(tmp_path / "r", commit, archive=limits))
        assert isinstance(error, ArchiveLimitError)


# --- tricks


BLOB = b"content"
TREES = {
    "dot git": ([("40000", ".git", b"")], "GIT_NAME"),
    "upper case": ([("100644", ".GIT", BLOB)], "GIT_NAME"),
    "HFS+": ([("100644", ".g\u200cit", BLOB)], "GIT_NAME"),
    "NTFS short name": ([("100644", "git~1", BLOB)], "GIT_NAME"),
    "NTFS tail": ([("100644", ".git. ", BLOB)], "GIT_NAME"),
    "NTFS stream": ([("100644", ".git::$INDEX_ALLOCATION", BLOB)], "GIT_NAME"),
    "NTFS separator": ([("100644", "x\\.git\\config", BLOB)], "GIT_NAME"),
    "parent": ([("100644", "..", BLOB)], "GIT_NAME"),
    "dot": ([("100644", ".", BLOB)], "GIT_NAME"),
    "slash": ([("100644", "a/../../b", BLOB)], "GIT_NAME"),
    "symlink as .gitmodules": ([("120000", ".gitmodules", b"x")], "GITMODULES_SYMLINK"),
    "symlink as .gitmodules on NTFS": ([("120000", "GITMOD~1", b"x")], "GITMODULES_SYMLINK"),
    "outward symlink": ([("120000", "x", b"../../etc/passwd")], "SYMLINK_OUTSIDE"),
    "absolute symlink": ([("120000", "x", b"/etc/passwd")], "SYMLINK_ABSOLUTE"),
    "empty symlink": ([("120000", "x", b"")], "LINK_TARGET"),
    "twice": ([("100644", "x", BLOB), ("120000", "x", b"y")], "DUPLICATE"),
    "control character": ([("100644", "a\x1bb", BLOB)], "NAME_CONTROL"),
    "mode": ([("140000", "x", BLOB)], "GIT_MODE"),
}  # fmt: skip


@pytest.mark.parametrize("case", TREES)
def test_trees(tmp_path: Path, case: str) -> None:
    """Trees that git would not create are rejected; the message names the entry."""
    entries, code = TREES[case]
    made(tmp_path / "r", {"README": b""})
    error = refused(tmp_path / "c", source(tmp_path / "r", forged(tmp_path / "r", entries)))
    assert isinstance(error, ArchiveError)
    assert error.code == code
    assert error.archive == "p.tar.zst"


SUBMODULES = {
    "no URL": ("", "SUBMODULE_URL"),
    "another path": ('[submodule "s"]\npath = t\nurl = ../inner\n', "SUBMODULE_URL"),
    "name": ('[submodule "../s"]\npath = s\nurl = ../inner\n', "SUBMODULE_NAME"),
    "option as name": ('[submodule "-s"]\npath = s\nurl = ../inner\n', "SUBMODULE_NAME"),
    "option as URL": ('[submodule "s"]\npath = s\nurl = --upload-pack=touch /tmp/x\n', "SUBMODULE_URL"),
    "option as host": ('[submodule "s"]\npath = s\nurl = ssh://-oProxyCommand=x/y\n', "SUBMODULE_URL"),
    "ext": ('[submodule "s"]\npath = s\nurl = ext::sh -c touch%20/tmp/x\n', "SUBMODULE_URL"),
    "local path": ('[submodule "s"]\npath = s\nurl = /etc\n', "SUBMODULE_URL"),
    "command": ('[submodule "s"]\npath = s\nurl = ../inner\nupdate = !touch /tmp/x\n', "SUBMODULE_UPDATE"),
    "line feed": ('[submodule "s"]\npath = s\nurl = "https://h/x\\nhost=evil"\n', "SUBMODULE_URL"),
    "encoded line feed": ('[submodule "s"]\npath = s\nurl = https://h/%0ahost=evil\n', "SUBMODULE_URL"),
}  # fmt: skip


@pytest.mark.parametrize("case", SUBMODULES)
def test_submodule_tricks(tmp_path: Path, case: str) -> None:
    """Names, paths and URLs from CVEs of git are rejected before a submodule is fetched."""
    text, code = SUBMODULES[case]
    inner = made(tmp_path / "inner", {"README": b""})
    made(tmp_path / "r", {"README": b""})
    entries = [("160000", "s", inner.encode()), ("100644", ".gitmodules", text.encode())]
    error = refused(tmp_path / "c", source(tmp_path / "r", forged(tmp_path / "r", entries)))
    assert isinstance(error, ArchiveError)
    assert error.code == code


def test_a_remote_repository_reads_no_file(tmp_path: Path) -> None:
    """A local submodule of a remote parent is rejected, unless a setting allows it."""
    made(tmp_path / "inner", {"README": b"inner"})
    made(tmp_path / "r", {"README": b""})
    commit = with_submodule(tmp_path / "r", f"file://{tmp_path}/inner", "s")
    with http(tmp_path) as host:
        wanted = source(f"{host.url}/r/.git", commit)
        error = refused(tmp_path / "c", wanted)
        assert isinstance(error, ArchiveError)
        assert error.code == "SUBMODULE_URL"
        assert "uses the transport 'file'" in str(error)
        found = members(archived(make_context(tmp_path / "c", git_protocols="http file"), wanted))
    assert found["p/s/README"] == b"inner"


def test_submodules_that_stay_empty(tmp_path: Path) -> None:
    """`update = none` and a missing .gitmodules result in an empty directory; the latter with a warning."""
    made(tmp_path / "r", {"README": b""})
    entries = [("160000", "s", b"a" * 40)]
    listening = Listening()
    home = make_context(tmp_path / "c")
    commit_archive(home, source(tmp_path / "r", forged(tmp_path / "r", entries)), listening)
    assert "s is a submodule, but .gitmodules is missing: the directory stays empty" in listening.warnings[0]
    text = b'[submodule "s"]\npath = s\nurl = ../inner\nupdate = none\n'
    commit = forged(tmp_path / "r", [*entries, ("100644", ".gitmodules", text)], below="2")
    assert members(archived(home, source(tmp_path / "r", commit)))["p/s"] == "directory"


def test_chains_of_submodules_end(tmp_path: Path) -> None:
    """A repository that recursively pins its own earlier commits is rejected at the limit."""
    commit = made(tmp_path / "r", {"README": b""})
    text = b'[submodule "s"]\npath = s\nurl = ../r\n'
    for number in range(18):
        entries = [("160000", "s", commit.encode()), ("100644", ".gitmodules", text)]
        commit = forged(tmp_path / "r", entries, below=str(number))
    error = refused(tmp_path / "c", source(tmp_path / "r", commit))
    assert "has too many submodules" in str(error)


def test_two_at_once(tmp_path: Path) -> None:
    """Two processes with one cache fetch a commit once, and both get its archive."""
    commits = history(tmp_path / "r")
    with http(tmp_path) as host:
        words = [sys.executable, "-c", CHILD, str(tmp_path / "c"), f"{host.url}/r/.git"]
        environ = {**os.environ, "PYTHONPATH": PYTHONPATH}
        both = [
            subprocess.Popen([*words, commit, "dropped"], env=environ, stdout=subprocess.PIPE, text=True)
            for commit in (commits[0], commits[0], commits[2])
        ]
        digests = [one.communicate()[0] for one in both]
    assert [one.returncode for one in both] == [0, 0, 0]
    assert digests[0] == digests[1] != digests[2]
    assert len([one for one in host.requests if one.startswith("GET")]) == 2


# --- ssh


@pytest.mark.slow
@pytest.mark.skipif(not Path("/usr/sbin/sshd").exists() or os.geteuid() != 0, reason="needs sshd and root")
def test_ssh(tmp_path: Path) -> None:
    """The key comes from a variable, a file or the caller; only known hosts are contacted."""
    commit = made(tmp_path / "r", FILES)
    with ssh(tmp_path / "ssh") as (url, key, known):
        wanted = source(f"{url}{tmp_path}/r", commit, ssh_key="THE_KEY")
        environ = {"THE_KEY": key, "HOME": str(tmp_path), "SSH_AUTH_SOCK": ""}
        assert "add the key of the host to known_hosts" in str(refused(tmp_path / "c", wanted, environ))
        home = make_context(tmp_path / "c1", environ, known_hosts=str(known))
        assert members(archived(home, wanted))["p/hidden"] == b"still here\n"
        by_file = replace(wanted, ssh_key=str(tmp_path / "ssh/user"))
        assert archived(make_context(tmp_path / "c2", environ, known_hosts=str(known)), by_file)
        without = replace(wanted, ssh_key="")
        given = make_context(tmp_path / "c3", environ, known_hosts=str(known))
        commit_archive(given, without, Silent(), ssh_key=key)
        (tmp_path / "known_hosts").write_text(known.read_text().replace("ssh-ed25519 A", "ssh-ed25519 B"))
        refused(tmp_path / "c4", wanted, environ, known_hosts=str(tmp_path / "known_hosts"))
        printed = refused(tmp_path / "c5", without, environ, known_hosts=str(known), retries="3")
        assert "ermission denied" in str(printed)
        missing = replace(wanted, ssh_key="NO_KEY")
        assert "neither an environment variable nor a readable file" in str(refused(tmp_path / "c6", missing, environ))


#: Starts git with an ssh that never ends, then is killed; with "sweep", opens another file of the same kind.
HOLDING_A_KEY = """
import os, sys
from pathlib import Path
from tasks_lib.fs.system_calls import transient_file
from tests.test_git import make_context, source
from tasks_lib.progress import Silent
from tasks_lib.steps.commit import commit_archive
home = Path(sys.argv[1])
if sys.argv[2] == "sweep":
    with transient_file():
        sys.exit()
environ = {"THE_KEY": "KEYSECRET", "HOME": str(home), "PATH": f"{home}/bin:/usr/bin:/bin", "TMPDIR": str(home / "tmp")}
commit_archive(make_context(home / "c", environ), source("ssh://git@127.0.0.1/x", "a" * 40, ssh_key="THE_KEY"), Silent())
"""
#: Copies the key to standard output of this program, then kills the program that holds it.
SSH = """#!/bin/sh
for word in "$@"; do [ "$last" = -i ] && cat "$word" > {home}/seen; last=$word; done
kill -9 $(cat {home}/pid)
"""


@pytest.mark.slow
@pytest.mark.parametrize("path", [str(ROOT), PORTABLE], ids=["linux", "portable"])
def test_a_kill_leaves_no_ssh_key(tmp_path: Path, path: str) -> None:
    """A program can read the ssh key; after kill -9 no file has it, at the latest when the next run needs a key."""
    for name in ("bin", "tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / "bin/ssh").write_text(SSH.format(home=tmp_path))
    (tmp_path / "bin/ssh").chmod(0o755)
    environ = {**CLEAN, "PYTHONPATH": path, "TMPDIR": str(tmp_path / "tmp")}
    for mode in ("hold", "sweep"):
        command = ["/bin/sh", "-c", 'echo $$ > "$2/pid"; exec "$0" -c "$1" "$2" "$3"', sys.executable, HOLDING_A_KEY]
        done = subprocess.run([*command, str(tmp_path), mode], env=environ, cwd=ROOT, check=False, timeout=60)
        assert done.returncode == (-9 if mode == "hold" else 0)
    assert (tmp_path / "seen").read_text() == "KEYSECRET\n"
    assert list((tmp_path / "tmp").iterdir()) == []


# --- what git's HTTP library heard


def test_headers_of_the_last_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Retry-After of the last response is used; the trace stays small and is deleted."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with http_trace() as trace:
        path = Path(trace.environ["GIT_TRACE_CURL"])
        first = "<= Recv header: HTTP/1.1 302 Found\n<= Recv header: Retry-After: 7\n"
        path.write_text(first)
        assert trace.retry_after_s() == 7
        path.write_text(f"{first}<= Recv header: HTTP/2 503\n<= Recv header: server: x\n")
        assert trace.retry_after_s() is None
        path.write_text("x" * (2 << 20))
        trace.bound()
        assert path.stat().st_size == 0
    assert list(tmp_path.iterdir()) == []
