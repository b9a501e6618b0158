"""The files of a checkout that version control tracks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tasks_lib.errors import ToolError, escape_text
from tasks_lib.progress import Silent
from tasks_lib.subprocesses import Invocation, last_line, run

#: Variables that git and hg inherit here; both read a local repository only.
_INHERITED = ("PATH", "HOME")


class Checkout(NamedTuple):
    """The tracked files below a directory: sorted names relative to it, and `marker`, a file that changes with them."""

    names: tuple[str, ...]
    marker: str


def list_tracked(directory: Path, environ: Mapping[str, str]) -> Checkout | None:
    """Return the tracked files below a directory, None if version control tracks none there.

    Raises:
        ToolError: the program of the version control is missing or fails.
    """
    place = next((path for path in (directory, *directory.parents) if _marker(path)), None)
    if place is None:
        return None
    if _marker(place) == ".hg":
        words, index = ["hg", "--cwd", str(directory), "files", "--print0"], place / ".hg" / "dirstate"
    else:
        # Source: git-config(1); a repository must not start a program, and may belong to another user
        options = ["-c", "core.fsmonitor=false", "-c", f"safe.directory={place}"]
        words, index = ["git", *options, "-C", str(directory), "ls-files", "-z"], _git_directory(place) / "index"
    given = {name: environ[name] for name in _INHERITED if name in environ} | {"HGPLAIN": "1"}
    done = run(Invocation(words=words, environ=given), Silent())
    names = os.fsdecode(done.output).split("\0")[:-1]
    if done.status and (done.errors.strip() or names):  # `hg files` exits with 1 when there are none
        raise ToolError(
            f"cannot list the tracked files of {escape_text(str(directory))}: {escape_text(last_line(done.errors))}",
            hint=f"check `{words[0]} status` there",
        )
    return Checkout(tuple(sorted(names)), str(index)) if names else None


def _marker(path: Path) -> str:
    return next((name for name in (".git", ".hg") if (path / name).exists()), "")


def _git_directory(place: Path) -> Path:
    """Return the git directory of a work tree. Source: gitrepository-layout(5), "gitfile"."""
    entry = place / ".git"
    if entry.is_dir():
        return entry
    return place / entry.read_text("utf-8", "surrogateescape").removeprefix("gitdir:").strip()
