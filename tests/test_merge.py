"""Merging trees into a shared directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tasks_lib.errors import TreeError
from tasks_lib.tree.merge import merge_tree, set_mtime


def laid_out(root: Path, entries: dict[str, str]) -> Path:
    """Create files with their text; the text `-> x` creates a symlink, a name with a trailing slash a directory."""
    for name, text in entries.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        elif text.startswith("-> "):
            path.symlink_to(text[3:])
        else:
            path.write_text(text)
    return root


def aside_of(root: Path) -> Path:
    """Return the directory for replaced files."""
    path = root / "aside"
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("standing", "coming", "found"),
    [
        ({"a": "1"}, {"a": "2"}, {"a": "2"}),
        ({"d/a": "1"}, {"d/b": "2"}, {"d/a": "1", "d/b": "2"}),
        ({"d": "file"}, {"d/a": "2"}, {"d/a": "2"}),
        ({"d": "-> /nowhere"}, {"d/a": "2"}, {"d/a": "2"}),
        ({"d/": ""}, {"d": "2"}, {"d": "2"}),
        ({"d/e/a": "1", "d/b": "1"}, {"d/e": "2"}, {"d/e": "2", "d/b": "1"}),
        ({"d/a": "1"}, {"d": "-> x"}, {"d": "-> x"}),
        ({"l": "-> x"}, {"l": "-> y"}, {"l": "-> y"}),
        ({"x": "1"}, {"x": "-> y"}, {"x": "-> y"}),
        ({"a/b/c/d": "1"}, {"a/b/c/e": "2", "a/f": "3"}, {"a/b/c/d": "1", "a/b/c/e": "2", "a/f": "3"}),
    ],
)
def test_merged(tmp_path: Path, standing: dict[str, str], coming: dict[str, str], found: dict[str, str]) -> None:
    """New entries replace existing ones; directories are merged; no symlink is followed."""
    target, tree = laid_out(tmp_path / "target", standing), laid_out(tmp_path / "tree", coming)
    merge_tree(tree, target, aside_of(tmp_path))
    left = {
        path.relative_to(target).as_posix(): f"-> {path.readlink()}" if path.is_symlink() else path.read_text()
        for path in target.rglob("*")
        if path.is_symlink() or path.is_file()
    }
    assert left == found


def test_never_through_a_symlink(tmp_path: Path) -> None:
    """A symlink to a directory outside is replaced, and its target does not change."""
    outside = laid_out(tmp_path / "outside", {"a": "outside"})
    target = laid_out(tmp_path / "target", {"d": f"-> {outside}"})
    merge_tree(laid_out(tmp_path / "tree", {"d/a": "new", "d/b": "new"}), target, aside_of(tmp_path))
    assert [path.name for path in outside.iterdir()] == ["a"] and (outside / "a").read_text() == "outside"
    assert (target / "d/a").read_text() == "new"


def test_refused(tmp_path: Path) -> None:
    """An error of the file system names the entry, and no descriptor leaks."""
    tree = laid_out(tmp_path / "tree", {"a/b/c": "2"})
    target = laid_out(tmp_path / "target", {"a/b/c/d": "1"})
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are enough
    with pytest.raises(TreeError, match="cannot move 'c' into"):
        merge_tree(tree, target, tmp_path / "nowhere")
    assert (target / "a/b/c/d").read_text() == "1"
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_deep_and_wide(tmp_path: Path) -> None:
    """Thousands of common directories, and 250 nested ones, need only descriptors for the current path."""
    names = {f"w{at}/x": "x" for at in range(2000)} | {"/".join(["d"] * 250) + "/x": "x"}
    target = laid_out(tmp_path / "target", names)
    merge_tree(laid_out(tmp_path / "tree", {name[:-1] + "y": "y" for name in names}), target, aside_of(tmp_path))
    assert sum(path.name == "y" for path in target.rglob("*")) == 2001


def test_one_time(tmp_path: Path) -> None:
    """All entries get the same time, also symlinks, but not their targets."""
    outside = laid_out(tmp_path / "outside", {"f": "x"})
    before = (outside / "f").stat().st_mtime_ns
    tree = laid_out(tmp_path / "tree", {"a/b": "1", "c": "2", "l": f"-> {outside / 'f'}", "m": f"-> {outside}"})
    set_mtime(tree, 10**18)
    assert {path.lstat().st_mtime_ns for path in tree.rglob("*")} == {10**18}
    assert (outside / "f").stat().st_mtime_ns == before
