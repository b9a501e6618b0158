"""Comparison with upstream: our command has the same results as its script."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.archives import Member, tar
from tests.origin import reply, serving
from tests.taskcluster import CLEAN, fetch_content, taskcluster
from tests.test_fetch_content import FILES, PLAIN, pinned, tree_of, unpacked

pytestmark = pytest.mark.slow


def upstream_script() -> Path:
    """Return upstream's script, which is part of its package."""
    spec = importlib.util.find_spec("taskgraph")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "run-task" / "fetch-content"


def theirs(*words: str | Path, **environ: str) -> int:
    """Run upstream's script; return its exit status."""
    command = [sys.executable, "-u", upstream_script(), *words]
    return subprocess.run(command, env={**CLEAN, **environ}, capture_output=True, check=False).returncode


@pytest.mark.parametrize("delivery", ["extracted", "placed"])
@pytest.mark.parametrize("name", [*FILES, *(name for name in PLAIN if name != "e")])
def test_same_trees(tmp_path: Path, name: str, delivery: str) -> None:
    """An artifact is placed or extracted as by upstream."""
    with taskcluster() as cluster:
        cluster.publish(f"public/build/{name}", {**FILES, **PLAIN}[name], extract=delivery == "extracted", dest="a/b")
        assert theirs("task-artifacts", "-d", tmp_path / "theirs", **cluster.environ) == 0
        assert fetch_content("task-artifacts", "-d", tmp_path / "ours", **cluster.environ).returncode == 0
    assert tree_of(tmp_path / "ours") == tree_of(tmp_path / "theirs")


def test_same_merge(tmp_path: Path) -> None:
    """Archives in one directory have the same tree as with upstream: the later one wins."""
    with taskcluster() as cluster:
        cluster.publish("public/1.tar", tar([Member("d/a", b"1"), Member("d/b", b"1", mode=0o755)]))
        cluster.publish("public/2.tar", tar([Member("d/b", b"2"), Member("d/c/e", b"2")]))
        cluster.publish("public/3.txt", b"3", dest="d")
        for who in ("theirs", "ours"):
            (tmp_path / who / "d").mkdir(parents=True)
            (tmp_path / who / "d/own").write_text("older")
        assert theirs("task-artifacts", "-d", tmp_path / "theirs", **cluster.environ) == 0
        assert fetch_content("task-artifacts", "-d", tmp_path / "ours", **cluster.environ).returncode == 0
    assert tree_of(tmp_path / "ours") == tree_of(tmp_path / "theirs")


@pytest.mark.parametrize(
    ("name", "dest", "flags"),
    [(name, "out.tar.zst", []) for name in FILES if name not in ("a.tar.zst", "a.zip", "a-1-py3-none-any.whl")]
    + [(name, "out.tar.zst", ["--strip-components", "1"]) for name in ("a.tar", "a.tar.gz", "a.tar.bz2", "lies.zip")]
    + [(name, "out.tar.zst", ["--strip-components", "1", "--add-prefix", "p/"]) for name in ("a.tar.xz", "no-name")]
    + [("a.tar.xz", "out.tar.zst", ["--add-prefix", "p-"]), ("a.tar.zst", "other.tar.zst", [])]
    + [(name, name, []) for name in (*FILES, *PLAIN)]
    + [("plain.txt", "b.txt", []), ("plain.txt", "bare", []), ("a.deb", "b.deb", [])]
    + [(name, "out.tar.zst", ["--force-archive"]) for name in ("plain.txt", "program", "a.tar")],
)
def test_same_files(tmp_path: Path, name: str, dest: str, flags: list[str]) -> None:
    """A download has the same result as with upstream: equal bytes, or an equal tree in a .tar.zst."""
    content = {**FILES, **PLAIN}[name]
    with serving({f"/d/{name}": reply(content)}) as origin:
        words = ["static-url", *pinned(content), *flags, f"{origin.url}/d/{name}"]
        assert theirs(*words, tmp_path / "theirs" / dest) == 0
        assert fetch_content(*words, tmp_path / "ours" / dest).returncode == 0
    one, two = tmp_path / "theirs" / dest, tmp_path / "ours" / dest
    assert sorted(tree_of(tmp_path / "theirs")) == sorted(tree_of(tmp_path / "ours"))
    if not dest.endswith(".tar.zst"):
        assert one.read_bytes() == two.read_bytes()
    else:
        filtered = {"--strip-components", "--add-prefix"} & set(flags)
        lost = {"top/empty", "empty", "p/empty", "p-top/empty"} if filtered else set()  # upstream drops directories
        wanted, found = unpacked(one, tmp_path / "1"), unpacked(two, tmp_path / "2")
        assert {key: value for key, value in found.items() if key not in lost} == wanted
