"""Repository URLs: validation, resolution of relative URLs, and display without credentials.

Pure: no I/O. Source of the rejected forms: git's CVE-2017-1000117, CVE-2018-17456, CVE-2020-5260 and CVE-2022-39253.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit, urlunsplit

#: Transports that repositories may use by default. `ext` runs commands and is never accepted.
#: Source: git-config(1), `protocol.allow`; CVE-2022-39253 for `file`.
PROTOCOLS: Final = ("https", "ssh", "http", "git")
#: Default ports. Source: git-fetch(1), "GIT URLS"; RFC 9110 section 4.2.
_PORTS: Final = {"https": 443, "ssh": 22, "http": 80, "git": 9418}
#: Maximum length of a URL in characters. Source: RFC 9110 section 4.1 requires support for at least 8000 octets.
MAX_URL: Final = 8000
#: `user@host:path`, which git interprets as ssh. Source: gitprotocol, "GIT URLS" of git-fetch(1).
_SCP: Final = r"(?P<user>[A-Za-z0-9_][A-Za-z0-9._-]*)@(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*):(?P<path>[^:]+)"
_HOST: Final = r"[A-Za-z0-9_][A-Za-z0-9._-]*|[0-9a-fA-F:.]+"
_USER: Final = r"[A-Za-z0-9_][A-Za-z0-9._+-]*"
#: Percent-encoded control characters: a line feed could forge a line of the credential protocol.
_ENCODED_CONTROL: Final = r"%(?:[01][0-9a-fA-F]|7[fF])"


def scheme_of(url: str) -> str:
    """Return the scheme of a URL, "ssh" for `user@host:path`, "" if it has none."""
    if re.fullmatch(_SCP, url):
        return "ssh"
    scheme, colon, _ = url.partition("://")
    return scheme.lower() if colon and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme) else ""


def host_of(url: str) -> str:
    """Return the host (with its port) of a checked URL, "" for a file URL."""
    found = re.fullmatch(_SCP, url)
    return found["host"].lower() if found else urlsplit(url).netloc.rpartition("@")[2].lower()


def endpoint_of(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port to which the program for a checked URL connects; the host of a file URL is ""."""
    scheme = scheme_of(url)
    if found := re.fullmatch(_SCP, url):
        return scheme, found["host"].lower(), _PORTS[scheme]
    parts = urlsplit(url)
    return scheme, parts.hostname or "", parts.port or _PORTS.get(scheme, 0)


def check_url(url: str, schemes: tuple[str, ...]) -> str:
    """Return `url` if it is safe to pass to git or hg.

    Raises:
        ValueError: it is not; the message is a predicate without its subject, such as "contains a space".
    """
    reason = _fault(url, schemes)
    if reason:
        raise ValueError(reason)
    return url


def _fault(url: str, schemes: tuple[str, ...]) -> str:
    if len(url) > MAX_URL:
        return f"is longer than {MAX_URL} characters"
    if any(ord(character) <= 0x20 or ord(character) == 0x7F for character in url) or re.search(_ENCODED_CONTROL, url):
        return "contains a space or a control character"
    if url.startswith("-") or "\\" in url:
        return "starts with a dash or contains a backslash"
    scheme = scheme_of(url)
    if ":" not in url:
        return "has no transport (use file:// for a local path)"
    if scheme not in schemes:
        return f"uses the transport {(scheme or strip_query(url).partition(':')[0])[:20]!r}, which is not allowed here"
    return "" if re.fullmatch(_SCP, url) else _fault_of_parts(url, scheme)


def _fault_of_parts(url: str, scheme: str) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        return f"is not a valid URL: {error}"
    if scheme == "file":
        return "" if parts.path.startswith("/") and not parts.netloc else "has no absolute path"
    if not re.fullmatch(_HOST, host):
        return f"has an invalid host: {host[:60]!r}"
    if parts.password is not None or (parts.username is not None and scheme != "ssh"):
        return "contains a user name or password"
    if parts.username is not None and not re.fullmatch(_USER, parts.username):
        return f"has an invalid user name: {parts.username[:60]!r}"
    return ""


def join_url(parent: str, text: str) -> str:
    """Return the URL of a submodule, resolved against the URL of its parent.

    Only `./` and `../` make it relative. Source: git-submodule(1), "add": relative to the parent's remote.

    Raises:
        ValueError: it leaves the parent's host, or has no path.
    """
    if not text.startswith(("./", "../")) and text not in (".", ".."):
        return text
    head, separator, path = _rooted(parent)
    parts = [part for part in path.split("/") if part]
    for part in text.split("/"):
        if part == "..":
            if not parts:
                raise ValueError("leaves the host of its parent")
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    if not parts:
        raise ValueError("has no repository path")
    return head + separator + "/".join(parts)


def _rooted(url: str) -> tuple[str, str, str]:
    """Split a checked URL into its constant prefix, the separator, and the path."""
    found = re.fullmatch(_SCP, url)
    if found:
        return f"{found['user']}@{found['host']}", ":/" if found["path"].startswith("/") else ":", found["path"]
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}", "/", parts.path


def repository_name(url: str) -> str:
    """Return the last segment of a repository URL, including `.git`.

    Source: taskgraph `transforms/fetch`, `path-prefix`.
    """
    return re.split(r"[/:]", url.rstrip("/"))[-1]


def strip_query(url: str) -> str:
    """Return `url` without its query and fragment, which may be secret; `user@host:path` has neither."""
    return url.partition("#")[0].partition("?")[0] if "://" in url else url


def redact_query(text: str, url: str) -> str:
    """Return the message of a program without the query of `url`."""
    secret = url.removeprefix(strip_query(url))
    return text.replace(secret, "").replace(secret[1:], "...") if len(secret) > 1 else text


def display_url(url: str) -> str:
    """Return `url` without user, password and query, for use in messages."""
    if re.fullmatch(_SCP, url):
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(unreadable URL)"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
