"""What is found: a download, whether it is pinned, and the line that replaces it. Pure: no I/O."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Final, NamedTuple

from tasks_lib.digest import Integrity

#: Digests that pin content: sha256, sha384, sha512. Others can be forged.
_STRONG: Final = (64, 96, 128)
_HEX: Final = re.compile(r"[0-9a-fA-F]{40,128}")
_URL: Final = re.compile(r"https?://(?:\$\{\{[^{}\n]{0,300}\}\}|[^\s\"'<>|;`\\])+", re.IGNORECASE)
_VARIABLE: Final = re.compile(
    r"\$\{\{ *(?:env\.)?(\w{1,99}) *\}\}|\$\{(\w{1,99})(?::?[-=][^{}$]{0,200})?\}|\$(\w{1,99})"
)
#: Longest URL; a variable in another one must not let it grow without bound.
MAX_URL: Final = 2000


class FoundDownload(NamedTuple):
    """A download; `syntax` names the kind of its file.

    `name` is that of its declaration, or of the file that a script writes, "-" if another program reads the download.
    `key` is that of its digest in a wrap file.
    `digest` is the sha256 that pins it, "" if there is none or another algorithm pins it. `revision` is that
    of a repository, None for a file.
    """

    line: int
    syntax: str
    url: str
    pinned: bool
    name: str = ""
    digest: str = ""
    revision: str | None = None
    key: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether the URL is known to its end: it contains no variable."""
        return not {*"${}"}.intersection(self.url)


def is_strong(text: str) -> bool:
    """Return whether a text is a digest that pins content, in hex digits."""
    return len(text) in _STRONG and _HEX.fullmatch(text) is not None


def has_strong_digest(text: str) -> bool:
    """Return whether a text contains such a digest."""
    return any(len(found) in _STRONG for found in _HEX.findall(text))


def is_commit(text: str) -> bool:
    """Return whether a text is a full commit id. Source: git, gitglossary(7), "object name"."""
    return len(text) in (40, 64) and _HEX.fullmatch(text) is not None


def find_url(text: str) -> str:
    """Return the URL at the start of a text, "" if it has none."""
    found = _URL.match(text)
    return found[0].rstrip(",)") if found and len(found[0]) <= MAX_URL else ""


def expand(text: str, variables: Mapping[str, str], depth: int = 5) -> str:
    """Replace the variables of a shell, of CMake or of a workflow whose values are known; others stay as they are."""

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2] or found[3]
        known = variables.get(name, found[0])
        return known if len(known) <= MAX_URL else found[0]

    for _ in range(depth):
        expanded = _VARIABLE.sub(value, text) if len(text) <= MAX_URL else text
        if expanded == text:
            break
        text = expanded
    return text


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
