"""The line that pins a download, or takes it from its definition. Pure: no I/O."""

from __future__ import annotations

import shlex
from typing import Final

from tasks_lib.adopt.findings import FoundDownload
from tasks_lib.digest import Integrity

#: How each syntax pins a file, and a commit. Source: the documentation of each tool.
_FILES: Final = {
    "add": "ADD --checksum=sha256:{digest} {url} {name}",
    "bazel": 'sha256 = "{digest}",',
    "cmake": "URL_HASH SHA256={digest}",
    "meson": "{key} = {digest}",
    "dotslash": '"size": {size}, "hash": "sha256", "digest": "{digest}",',
}
_COMMITS: Final = {"bazel": 'commit = "{commit}",', "cmake": "GIT_TAG {commit}", "meson": "revision = {commit}"}


def replace_file(one: FoundDownload, name: str, integrity: Integrity) -> str:
    """Return the line for a file; `name` is its definition. A script takes the file from there."""
    template = _FILES.get(one.syntax, "")
    if not template:
        if one.name == "-":
            return f'cat "$(doit-fetch path {name})"'
        return f"doit-fetch get {name} {shlex.quote(one.name)}"
    key = one.key or "sha256"
    return template.format(digest=integrity.digest.hex, size=integrity.size, url=one.url, name=one.name, key=key)


def replace_commit(one: FoundDownload, commit: str) -> str:
    """Return the line for a repository."""
    return _COMMITS.get(one.syntax, "{commit}").format(commit=commit)
