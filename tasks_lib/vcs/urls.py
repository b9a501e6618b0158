"""URLs of repositories as text: which are accepted, how a relative one continues its parent, what a message may show.

Pure: no I/O. Source of the refusals: git's CVE-2017-1000117, CVE-2018-17456, CVE-2020-5260 and CVE-2022-39253.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit, urlunsplit

#: Transports that repositories may use unless a setting says more. `ext` runs commands and is never accepted.
#: Source: git-config(1), `protocol.allow`; CVE-2022-39253 for `file`.
PROTOCOLS: Final = ("https", "ssh", "http", "git")
#: Longest URL in characters. Source: RFC 9110 section 4.1 asks for 8000 octets at least.
MAX_URL: Final = 8000
#: `user@host:path`, which git reads as ssh. Source: gitprotocol, "GIT URLS" of git-fetch(1).
_SCP: Final = re.compile(r"(?P<user>[A-Za-z0-9_][A-Za-z0-9._-]*)@(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*):(?P<path>[^:]+)")
_HOST: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*|[0-9a-fA-F:.]+")
_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")
#: Percent-encoded control characters: a line feed forges a line of the credential protocol.
_ENCODED_CONTROL: Final = re.compile(r"%(?:[01][0-9a-fA-F]|7[fF])")


def scheme_of(url: str) -> str:
    """Return the scheme of a URL, "ssh" for `user@host:path`, "" when there is none."""
    if _SCP.fullmatch(url):
        return "ssh"
    scheme, colon, _ = url.partition("://")
    return scheme.lower() if colon and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme) else ""


def host_of(url: str) -> str:
    """Return the host (with its port) that a checked URL leads to, "" for a file URL."""
    found = _SCP.fullmatch(url)
    return found["host"].lower() if found else urlsplit(url).netloc.rpartition("@")[2].lower()


def check_url(url: str, schemes: tuple[str, ...]) -> str:
    """Return `url` when a program may be given it.

    Raises:
        ValueError: with the one reason why not.
    """
    reason = _fault(url, schemes)
    if reason:
        raise ValueError(reason)
    return url


def _fault(url: str, schemes: tuple[str, ...]) -> str:
    if len(url) > MAX_URL:
        return f"is longer than {MAX_URL} characters"
    if any(ord(character) <= 0x20 or ord(character) == 0x7F for character in url) or _ENCODED_CONTROL.search(url):
        return "holds a blank or a control character"
    if url.startswith("-") or "\\" in url:
        return "begins with a dash or holds a backslash"
    scheme = scheme_of(url)
    if ":" not in url:
        return "names no transport; a path of this machine begins with file://"
    if scheme not in schemes:
        return f"uses the transport {(scheme or url.partition(':')[0])[:20]!r}, which is not allowed here"
    return "" if _SCP.fullmatch(url) else _fault_of_parts(url, scheme)


def _fault_of_parts(url: str, scheme: str) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        return f"is no URL: {error}"
    if scheme == "file":
        return "" if parts.path.startswith("/") and not parts.netloc else "names no absolute path"
    if not _HOST.fullmatch(host):
        return f"names no usable host: {host[:60]!r}"
    if parts.password is not None or (parts.username is not None and scheme != "ssh"):
        return "holds a user name or password"
    if parts.username is not None and not _USER.fullmatch(parts.username):
        return f"names no usable user: {parts.username[:60]!r}"
    return ""


def join_url(parent: str, text: str) -> str:
    """Return what the URL `text` of a submodule means beside its parent's.

    Only `./` and `../` make it relative. Source: git-submodule(1), "add": relative to the parent's remote.

    Raises:
        ValueError: it climbs out of the parent's host.
    """
    if not text.startswith(("./", "../")) and text not in (".", ".."):
        return text
    head, separator, path = _rooted(parent)
    parts = [part for part in path.split("/") if part]
    for part in text.split("/"):
        if part == "..":
            if not parts:
                raise ValueError("climbs out of the parent's host")
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    if not parts:
        raise ValueError("leads to no repository")
    return head + separator + "/".join(parts)


def _rooted(url: str) -> tuple[str, str, str]:
    """Split a checked URL into what never changes, the separator, and the path below it."""
    found = _SCP.fullmatch(url)
    if found:
        return f"{found['user']}@{found['host']}", ":/" if found["path"].startswith("/") else ":", found["path"]
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}", "/", parts.path


def name_of(url: str) -> str:
    """Return the last segment of a repository's URL, `.git` kept.

    Source: taskgraph `transforms/fetch`, `path-prefix`.
    """
    return re.split(r"[/:]", url.rstrip("/"))[-1]


def display_url(url: str) -> str:
    """Return `url` fit for a message: no user, no password, no query."""
    if _SCP.fullmatch(url):
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(unreadable URL)"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
