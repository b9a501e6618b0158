"""Downloads that a repository makes without this package, found by reading its files; nothing is executed.

This module walks a repository and decides as what each file is read. Symlinks are not followed; large files are not
read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tasks_lib.adopt.declarations import find_in_cmake, find_in_dotslash, find_in_starlark, find_in_wrap
from tasks_lib.adopt.embedded_scripts import find_in_dockerfile, find_in_workflow
from tasks_lib.adopt.findings import FoundDownload
from tasks_lib.adopt.shell import find_in_script
from tasks_lib.fs.files import open_regular

__all__ = ["FoundDownload", "find_downloads"]

#: Maximum size in bytes of a file that is read: a script or a build file is smaller.
_MAX_BYTES: Final = 1 << 20
#: Directories of other programs, whose files do not belong to the repository.
_FOREIGN: Final = frozenset(
    {".git", ".hg", ".svn", "node_modules", "__pycache__", ".tox", ".nox", ".venv", ".mypy_cache"}
)
_SHEBANG: Final = re.compile(r"#!\s*\S*(?:/env(?: -S)?\s+)?\S*?\b(?:ba|da|k|z|a)?sh\b")

_RepositoryReader = Callable[[str], list[FoundDownload]]


def _find_in_shell(text: str) -> list[FoundDownload]:
    return find_in_script(text, 1, {})


#: The readers by file name. Source: the documentation of each tool.
_NAMES: Final[tuple[tuple[re.Pattern[str], _RepositoryReader], ...]] = (
    (re.compile(r"(.*/)?(.*\.)?(Dockerfile|Containerfile)(\..*)?|.*\.dockerfile", re.IGNORECASE), find_in_dockerfile),
    (re.compile(r"(.*/)?\.github/workflows/[^/]*\.ya?ml|(.*/)?action\.ya?ml"), find_in_workflow),
    (re.compile(r"(.*/)?CMakeLists\.txt|.*\.cmake(\.in)?"), find_in_cmake),
    (re.compile(r"(.*/)?(WORKSPACE|MODULE|BUILD)(\.bazel|\.bzlmod)?|.*\.bzl"), find_in_starlark),
    (re.compile(r".*\.wrap"), find_in_wrap),
    (re.compile(r".*\.(sh|bash|ksh|zsh)"), _find_in_shell),
)


def find_downloads(top: Path) -> Iterator[tuple[Path, FoundDownload]]:
    """Yield the downloads of a file, or of the files below a directory, in the order of names and lines.

    Raises:
        OSError: `top` cannot be read.
    """
    if top.is_dir():
        os.scandir(top).close()  # a directory that cannot be read is an error here, below it is left out
        paths = _walk(top)
    else:
        open_regular(top).close()
        paths = iter([top])
    for path in paths:
        text = _read(path)
        reader = _reader_of(path, text)
        found = {(one.line, one.url): one for one in reversed(reader(text))} if reader else {}
        yield from ((path, one) for one in sorted(found.values(), key=lambda one: (one.line, one.url)))


def _walk(top: Path) -> Iterator[Path]:
    for directory, names, files in os.walk(top):
        names[:] = sorted(name for name in names if name not in _FOREIGN)
        yield from (Path(directory, name) for name in sorted(files))


def _reader_of(path: Path, text: str) -> _RepositoryReader | None:
    """Return the reader of a file by its name, else by its first line; None for another file."""
    name = path.absolute().as_posix()
    for pattern, reader in _NAMES:
        if pattern.fullmatch(name):
            return reader
    if text.startswith("#!"):
        first = text[:200].partition("\n")[0]
        return find_in_dotslash if "dotslash" in first else _find_in_shell if _SHEBANG.match(first) else None
    return None


def _read(path: Path) -> str:
    """Return the text of a small regular file, "" for others."""
    try:
        with open_regular(path) as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError:
        return ""
    return content.decode("utf-8", "surrogateescape") if len(content) <= _MAX_BYTES and b"\0" not in content else ""
