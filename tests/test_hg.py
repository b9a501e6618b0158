"""Archives of Mercurial changesets: reproducible bytes, or a clear error."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from msgspec.structs import replace

from tasks_lib.definitions import Hg
from tasks_lib.errors import ArchiveError, FetchError, HttpStatusError, ToolError, TransportError
from tasks_lib.progress import Silent
from tasks_lib.steps.commit import commit_archive
from tests.origin import Origin, reply
from tests.project import DODO, doit, written
from tests.test_git import make_context, members, unpacked

needs_hg = pytest.mark.skipif(shutil.which("hg") is None, reason="needs hg")


def hg(directory: Path, *words: str) -> str:
    environ = {**os.environ, "HGRCPATH": "", "HGPLAIN": "1", "HGUSER": "a", "LC_ALL": "C"}
    done = subprocess.run(["hg", *words], cwd=directory, env=environ, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def committed(directory: Path) -> str:
    hg(directory, "addremove", "-q")
    hg(directory, "commit", "-d", "0 0", "-m", "one")
    return hg(directory, "log", "-r", ".", "-T", "{node}")


def made(directory: Path) -> str:
    (directory / "d").mkdir(parents=True)
    hg(directory, "init")
    (directory / "d/a.txt").write_bytes(b"one\n")
    (directory / ".hgeol").write_text("[patterns]\n**.txt = CRLF\n")
    (directory / "run").write_bytes(b"#!/bin/sh\n")
    (directory / "run").chmod(0o755)
    (directory / "link").symlink_to("run")
    return committed(directory)


def source(directory: Path, changeset: str) -> Hg:
    return Hg(repo=f"file://{directory}", revision=changeset, path_prefix="p", artifact_name="p.tar.zst")


@pytest.mark.slow
@needs_hg
def test_one_digest(tmp_path: Path) -> None:
    """Another clone, a user configuration and a later tag do not change the digest; no hg filter changes the bytes."""
    changeset = made(tmp_path / "r")
    hg(tmp_path, "clone", "-q", "--pull", "r", "other")
    hg(tmp_path / "r", "tag", "-d", "0 0", "v1")
    home = tmp_path / "home"
    home.mkdir()
    (home / ".hgrc").write_text(
        "[extensions]\neol=\n[eol]\nnative=CRLF\n[encode]\n** = tr a b\n[decode]\n** = tr a b\n"
    )
    first, second = (
        make_context(tmp_path / "c1"),
        make_context(tmp_path / "c2", {"HOME": str(home), "HGRCPATH": str(home / ".hgrc")}),
    )
    integrity = commit_archive(first, source(tmp_path / "r", changeset), Silent())
    assert commit_archive(second, source(tmp_path / "other", changeset), Silent()) == integrity
    found = members(unpacked(first, integrity))
    assert (found["p/d/a.txt"], found["p/link"]) == (b"one\n", "run")
    assert not [name for name in found if name.startswith("p/.hg_archival")]
    shutil.rmtree(tmp_path / "r")
    shutil.rmtree(tmp_path / "c1/v1/results")
    assert commit_archive(first, source(tmp_path / "r", changeset), Silent()) == integrity


def refused(tmp_path: Path, wanted: Hg) -> FetchError:
    with pytest.raises(FetchError) as caught:
        commit_archive(make_context(tmp_path / "c"), wanted, Silent())
    return caught.value


@pytest.mark.slow
@needs_hg
def test_refusals(tmp_path: Path) -> None:
    """A missing changeset and one with subrepositories are reported."""
    made(tmp_path / "r")
    error = refused(tmp_path, source(tmp_path / "r", "a" * 40))
    assert isinstance(error, TransportError)
    assert not error.transient
    assert "unknown revision" in str(error)
    (tmp_path / "r/.hgsub").write_text("inner = https://127.0.0.1:9/inner\n")
    hg(tmp_path / "r", "init", "inner")
    error = refused(tmp_path, source(tmp_path / "r", committed(tmp_path / "r")))
    assert isinstance(error, ArchiveError)
    assert error.code == "SUBREPOSITORIES"


@pytest.mark.slow
@needs_hg
def test_control_names(tmp_path: Path) -> None:
    """Control characters in names are refused with a hint; with the key they are kept."""
    made(tmp_path / "r")
    (tmp_path / "r/a\tb").write_text("tab")
    wanted = source(tmp_path / "r", committed(tmp_path / "r"))
    error = refused(tmp_path, wanted)
    assert isinstance(error, ArchiveError)
    assert (error.code, error.hint.partition(" under")[0]) == ("NAME_CONTROL", "set `control-names: keep`")
    commit_archive(make_context(tmp_path / "c"), replace(wanted, shape=(("control_names", "keep"),)), Silent())


def test_without_hg(tmp_path: Path) -> None:
    """If hg is not installed, the message names the program to install."""
    with pytest.raises(ToolError, match="the program hg is not installed\ninstall hg"):
        commit_archive(make_context(tmp_path / "c", {"PATH": "/nowhere"}), source(tmp_path, "a" * 40), Silent())


@needs_hg
def test_the_tasks_of_a_changeset(tmp_path: Path) -> None:
    """A changeset is fetched, and its archive is made, as for a commit of git."""
    text = f"h:\n  description: d\n  fetch: {{type: hg, repo: 'https://h.example/h', revision: {'a' * 40}}}\n"
    written(tmp_path, {"dodo.py": DODO, "fetchdefs/fetch/h.yml": text})
    listed = doit(tmp_path, "list", "--all").stdout
    assert [line.split()[0] for line in listed.splitlines() if ":h" in line] == ["extract:h", "fetch:h", "repack:h"]


def test_redirects(tmp_path: Path, origin: Origin) -> None:
    """Hg follows no redirect itself: each new URL is judged first."""
    origin.answers |= {
        "/denied": reply(b"", "302 Found", Location="http://127.9.0.1:9/r?cmd=capabilities"),
        "/moved": reply(b"", "302 Found", Location="/busy?cmd=capabilities"),
        "/busy": reply(b"", "429 Slow down"),
    }
    context = make_context(tmp_path / "c", retries="0", deny_networks="127.9.0.0/16")
    for url, said in {
        f"{origin.url}/denied": "127.9.0.1:9: its address 127.9.0.1 is in a blocked network",
        "http://127.9.1:9/r": "is in a blocked network",
        f"{origin.url}/moved": "/busy: hg exited with status 255: abort: HTTP Error 429",
    }.items():
        wanted = Hg(repo=url, revision="a" * 40, path_prefix="p", artifact_name="p.tar.zst")
        with pytest.raises(TransportError, match=re.escape(said)):
            commit_archive(context, wanted, Silent())
    assert origin.paths() == ["/denied?cmd=capabilities", "/moved?cmd=capabilities", "/busy?cmd=capabilities"]


@pytest.mark.slow
@needs_hg
def test_a_busy_server(tmp_path: Path, origin: Origin) -> None:
    """An HTTP status is reported as such, so that the wait for a busy server is longer."""
    origin.answers["/r"] = reply(b"", "429 Slow down")
    error = refused(tmp_path, Hg(repo=f"{origin.url}/r", revision="a" * 40, path_prefix="p", artifact_name="p.tar.zst"))
    assert isinstance(error, HttpStatusError)
    assert (error.status, error.transient) == (429, True)
