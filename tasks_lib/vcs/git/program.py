"""How git runs: its environment, its configuration, and the trace of its HTTP requests.

No git setting of the user has an effect. Messages of git contain only the status of an HTTP response; the trace has its
headers.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from tasks_lib.fs.system_calls import transient_file
from tasks_lib.network import RepositorySettings
from tasks_lib.retry import retry_after_s
from tasks_lib.subprocesses import Invocation
from tasks_lib.vcs.environment import fetch_bounds, inherited_environment, ssh_command

#: Configuration of every call. Source: git-config(1).
_CONFIG: Final = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "credential.helper=",
    "gc.auto=0",
    "maintenance.auto=false",
    "fetch.recurseSubmodules=false",
    "fetch.writeCommitGraph=false",
    "http.followRedirects=false",
    "protocol.version=2",
    "protocol.allow=never",
    "safe.directory=*",
)
#: Server for a local repository, which may belong to another user. It runs without hooks and configuration.
LOCAL_SERVER: Final = "git -c 'safe.directory=*' -c uploadpack.allowAnySHA1InWant=true upload-pack"


def git_command(
    settings: RepositorySettings,
    directory: Path,
    words: Sequence[str],
    *,
    scheme: str = "",
    key: Path | None = None,
    beside: Path | None = None,
) -> Invocation:
    """Return the invocation of git for the bare repository `directory`.

    `scheme` is the only transport that git may use, also after redirects; "http" includes https, "" means none. `key`
    is a private key for ssh; without it ssh chooses. `beside` is an additional object directory (git: alternate);
    nothing else of its repository is read.
    """
    config = [word for one in _CONFIG for word in ("-c", one)]
    return Invocation(
        words=["git", f"--git-dir={directory.absolute()}", *config, *words],
        environ=_environment(settings, scheme, key)
        | ({"GIT_ALTERNATE_OBJECT_DIRECTORIES": str(beside)} if beside is not None else {}),
        directory=directory,
        bounds=fetch_bounds(settings),
    )


def _environment(settings: RepositorySettings, scheme: str, key: Path | None) -> dict[str, str]:
    bundle = settings.transport.ca_bundle
    return (
        inherited_environment(settings)
        | ({"GIT_SSL_CAINFO": bundle} if bundle else {})
        | {
            "LC_ALL": "C",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_SYSTEM": "/dev/null",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "/bin/false",
            "SSH_ASKPASS": "/bin/false",
            "SSH_ASKPASS_REQUIRE": "never",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_PROTOCOL_FROM_USER": "0",
            "GIT_ALLOW_PROTOCOL": "http:https" if scheme == "http" else scheme or "none",
            "GIT_SSH_VARIANT": "ssh",
            "GIT_SSH_COMMAND": ssh_command(settings, key),
        }
    )


#: Size in bytes at which the trace is emptied, and number of bytes to read from its end.
_MAX_BYTES: Final = 1 << 20
_READ: Final = 64 << 10
#: Lines of a trace. Source: git's http.c, http_trace.
_STATUS: Final = re.compile(r"<= Recv header: HTTP/")
_LOCATION: Final = re.compile(r"\S* 30[12378][^\n]*\n(?:.*\n)*?.*<= Recv header: location:\s*([^\r\n]+)", re.IGNORECASE)
#: What git appends to the URL of a repository. Source: git's http.c, update_url_from_redirect.
_TAIL: Final = "/info/refs?service=git-upload-pack"
_RETRY_AFTER: Final = re.compile(r"<= Recv header: retry-after:([^\r\n]*)", re.IGNORECASE)


class HttpTrace:
    """A trace of the HTTP requests of git, without bodies; git redacts credentials."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def environ(self) -> Mapping[str, str]:
        """The variables that enable the trace. Source: git(1), GIT_TRACE_CURL."""
        return {"GIT_TRACE_CURL": str(self._path), "GIT_TRACE_CURL_NO_DATA": "1", "GIT_TRACE_REDACT": "1"}

    def bound(self) -> None:
        """Empty the trace if it is too large; git appends to it."""
        if self._path.stat().st_size > _MAX_BYTES:
            os.truncate(self._path, 0)

    def retry_after_s(self) -> float | None:
        """Return the Retry-After of the last response in seconds, None if it has none."""
        found = _RETRY_AFTER.search(self._last_response())
        return retry_after_s(found[1].strip()) if found else None

    def location(self) -> str:
        """Return the URL of a repository to which the last response redirects, "" if it does not."""
        found = _LOCATION.match(self._last_response())
        url = found[1].strip() if found else ""
        return url.removesuffix(_TAIL) if url.endswith(_TAIL) else ""

    def _last_response(self) -> str:
        """Return the trace from the status of the last response on."""
        return _STATUS.split(self._path.read_bytes()[-_READ:].decode("latin-1"))[-1]


@contextlib.contextmanager
def http_trace() -> Iterator[HttpTrace]:
    """Yield an empty trace; no file of it outlives this process, because it contains the queries of URLs."""
    with transient_file() as path:
        yield HttpTrace(path)
