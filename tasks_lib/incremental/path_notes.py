"""Notes of paths that were found, so that `doit-fetch path` answers again without loading definitions or doit.

A note is valid while no file on which the answer depends has changed. This module uses texts, not `Path`: it is loaded
by a program that takes hardly longer than Python itself.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping

from tasks_lib.directories import expand_cache, load_toml
from tasks_lib.fs.fingerprint import Fingerprint

_OTHERS_WRITE = 0o022
#: A directory with one of these is that of a project.
_SIGNS = ("fetchdefs", "dodo.py")


def find_project(start: str) -> str:
    """Return the closest directory at or above `start` that holds definitions, `start` if there is none."""
    directory = start
    while True:
        if any(os.path.exists(os.path.join(directory, sign)) for sign in _SIGNS):  # noqa: PTH110, PTH118
            return directory
        above = os.path.dirname(directory)  # noqa: PTH120
        if above == directory:
            return start
        directory = above


def read(top: str, words: list[str], environ: Mapping[str, str]) -> str | None:
    """Return the path that was noted for these words of the command line; None if it is unknown or may have changed.

    Args:
        top: the directory of the project.
        words: the command line.
        environ: the process environment.
    """
    key = _key(words, environ)
    try:
        cache = _find_cache(top, environ)
        note = _place(cache, key)
        if not all(_is_private(path) for path in (cache, os.path.dirname(note), note)):  # noqa: PTH120
            return None
        with open(note, encoding="utf-8") as file:  # noqa: PTH123
            known = json.load(file)
        if known["key"] != key or not all(Fingerprint(*mark).is_at(path) for path, mark in known["files"].items()):
            return None
        return str(known["path"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _find_cache(top: str, environ: Mapping[str, str]) -> str:
    """Return the directory of the cache by environment and pyproject.toml, with the precedence of `settings`.

    Raises:
        OSError, ValueError: pyproject.toml cannot be read; AttributeError: it has no table where one is expected.
    """
    table: dict[str, object] = {}
    try:
        with open(os.path.join(top, "pyproject.toml"), "rb") as file:  # noqa: PTH118, PTH123
            content = file.read()
    except FileNotFoundError:
        content = b""
    if b"doit-fetch" in content:
        table = load_toml(content.decode()).get("tool", {}).get("doit-fetch", {})
    private = table.get("private-cache") or table.get("private_cache")
    given = environ.get("FETCH_PRIVATE_CACHE_DIR") or private or environ.get("FETCH_CACHE_DIR") or table.get("cache")
    return os.path.join(top, expand_cache(str(given or "cache"), environ))  # noqa: PTH118


def compose(
    cache: str, words: list[str], environ: Mapping[str, str], path: str, files: Mapping[str, Fingerprint]
) -> tuple[str, bytes]:
    """Return the path and the content of the note of an answer.

    Args:
        cache: the directory of the cache.
        words: the command line.
        environ: the process environment.
        path: the answer.
        files: the files on which it depends, each as it was when it was used; a racy one makes the note useless.
    """
    key = _key(words, environ)
    return _place(cache, key), json.dumps({"key": key, "path": path, "files": files}).encode()


def _key(words: list[str], environ: Mapping[str, str]) -> list[object]:
    own = sorted(item for item in environ.items() if item[0].startswith(("FETCH", "SOURCE_DATE", "XDG_CACHE", "HOME")))
    return [words, [list(item) for item in own]]


def _place(cache: str, key: list[object]) -> str:
    return f"{cache}/v1/paths/{zlib.crc32(json.dumps(key).encode()):08x}.json"


def _is_private(path: str) -> bool:
    """Return whether only this user can change a file: a stricter rule than that of `fs.trust`, and faster to load."""
    status = os.lstat(path)
    return status.st_uid == os.geteuid() and not status.st_mode & _OTHERS_WRITE
