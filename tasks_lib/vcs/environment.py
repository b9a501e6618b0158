"""What git and hg have in common: environment, ssh command, timeouts, directories; both run without prompts."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from tasks_lib.errors import ToolError, TransportError
from tasks_lib.network import RepositorySettings
from tasks_lib.subprocesses import Timeouts
from tasks_lib.vcs.urls import display_url

#: Variables that git and hg inherit; all others, in particular GIT_* and HG*, are removed.
_INHERITED: Final = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "SSH_AUTH_SOCK")
#: Multiplier of the stall timeout of a plain download: a server may be silent while it counts and compresses.
_PATIENCE: Final = 4
#: Default timeout of one fetch in seconds: 50 GB at 7 MB/s.
_TOTAL_S: Final = 7200.0
WRITE_HINT: Final = "check the permissions and the free space of the cache"


def inherited_environment(settings: RepositorySettings) -> dict[str, str]:
    """Return the environment of git and hg, including the proxies of the settings."""
    transport = settings.transport
    environ = {name: settings.environ[name] for name in _INHERITED if name in settings.environ}
    environ |= {f"{name}_proxy": proxy for name, proxy in transport.proxies.items()}
    return environ | ({"no_proxy": transport.no_proxy} if transport.no_proxy else {})


def fetch_bounds(settings: RepositorySettings) -> Timeouts:
    """Return the timeouts of one fetch."""
    transport = settings.transport
    return Timeouts(total_s=transport.total_timeout_s or _TOTAL_S, silence_s=transport.stall_timeout_s * _PATIENCE)


def ssh_command(settings: RepositorySettings, key: Path | None) -> str:
    """Return the ssh command line: no prompts, known host keys only. Source: ssh_config(5)."""
    options = [
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "ForwardAgent=no",
        "ForwardX11=no",
        "PermitLocalCommand=no",
        f"ConnectTimeout={max(1, round(settings.transport.connect_timeout_s))}",
        f"ServerAliveInterval={max(1, round(settings.transport.stall_timeout_s))}",
        "ServerAliveCountMax=2",
    ]
    if settings.known_hosts:
        options += [f"UserKnownHostsFile={settings.known_hosts}", "GlobalKnownHostsFile=/dev/null"]
    if key is not None:
        options += ["IdentitiesOnly=yes", "IdentityAgent=none", "PasswordAuthentication=no"]
    words = ["ssh", *(word for option in options for word in ("-o", option))]
    return shlex.join([*words, *(["-i", str(key)] if key is not None else [])])


def prepare_directory(directory: Path, leftovers: Iterable[Path]) -> None:
    """Create the directory of a repository; remove what a killed process left: this process holds the lock.

    Raises:
        ToolError: the directory cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for left in leftovers:
            left.unlink(missing_ok=True)
    except OSError as error:
        raise ToolError(f"cannot write to {directory}: {error.strerror or error}", hint=WRITE_HINT) from error


@contextlib.contextmanager
def transferring(url: str) -> Iterator[None]:
    """Report a program that hung or wrote too much as a failed transfer, which may succeed later.

    Raises:
        TransportError: it did.
        ToolError: it is not installed.
    """
    try:
        yield
    except ToolError as error:
        if "is not installed" in str(error):
            raise
        raise TransportError(f"{display_url(url)}: {error.message}", transient=True) from error
