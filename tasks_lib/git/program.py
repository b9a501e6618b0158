"""How git is run: which environment and configuration it sees. Nothing of the user's git settings has an effect."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tasks_lib.programs import Bounds, Command
from tasks_lib.repository_url import PROTOCOLS

#: Variables of the caller that git needs; everything else, above all GIT_*, is left out.
_INHERITED: Final = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "SSH_AUTH_SOCK")
#: Longest silence of a server that counts and compresses, against that of a plain download.
_PATIENCE: Final = 4
#: Seconds for one fetch when no setting says otherwise: 50 GB at 7 MB/s.
_TOTAL_S: Final = 7200.0
#: Configuration of every call. Source: git-config(1).
_CONFIG: Final = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "credential.helper=",
    "gc.auto=0",
    "maintenance.auto=false",
    "fetch.recurseSubmodules=false",
    "fetch.writeCommitGraph=false",
    "protocol.version=2",
    "protocol.allow=never",
    "safe.directory=*",
)
#: What serves a repository on this disk: whose owner another user may be. It runs without a hook or configuration.
LOCAL_SERVER: Final = "git -c 'safe.directory=*' -c uploadpack.allowAnySHA1InWant=true upload-pack"


@dataclass(frozen=True, slots=True, kw_only=True)
class GitSettings:
    """What git is told from outside; `environ` is the caller's environment, of which little is passed on."""

    environ: Mapping[str, str]
    protocols: tuple[str, ...] = PROTOCOLS
    connect_timeout_s: float = 10.0
    stall_timeout_s: float = 30.0
    total_timeout_s: float = 0.0
    max_bytes: int = 50 << 30
    known_hosts: str = ""
    ca_bundle: str = ""
    proxies: Mapping[str, str] = field(default_factory=dict)
    no_proxy: str = ""

    @property
    def bounds(self) -> Bounds:
        """The deadlines of one fetch."""
        return Bounds(total_s=self.total_timeout_s or _TOTAL_S, silence_s=self.stall_timeout_s * _PATIENCE)


def command(
    settings: GitSettings, directory: Path, words: Sequence[str], *, scheme: str = "", key: Path | None = None
) -> Command:
    """Return the call of git in the bare repository `directory`.

    Args:
        settings: of this run.
        directory: its repository; the only one that git looks at.
        words: the subcommand and what follows.
        scheme: the one transport that this call may use, redirects included; "" for none.
        key: private key for ssh; "None" lets ssh choose.
    """
    config = [word for one in _CONFIG for word in ("-c", one)]
    return Command(
        words=["git", f"--git-dir={directory.absolute()}", *config, *words],
        environ=_environment(settings, scheme, key),
        directory=directory,
        bounds=settings.bounds,
    )


def _environment(settings: GitSettings, scheme: str, key: Path | None) -> dict[str, str]:
    environ = {name: settings.environ[name] for name in _INHERITED if name in settings.environ}
    environ |= {f"{name}_proxy": proxy for name, proxy in settings.proxies.items()}
    environ |= {"no_proxy": settings.no_proxy} if settings.no_proxy else {}
    environ |= {"GIT_SSL_CAINFO": settings.ca_bundle} if settings.ca_bundle else {}
    return environ | {
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
        "GIT_ALLOW_PROTOCOL": scheme or "none",
        "GIT_SSH_VARIANT": "ssh",
        "GIT_SSH_COMMAND": _ssh(settings, key),
    }


def _ssh(settings: GitSettings, key: Path | None) -> str:
    """Return how ssh is called: never asking, the host's key known beforehand. Source: ssh_config(5)."""
    options = [
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "ForwardAgent=no",
        "ForwardX11=no",
        "PermitLocalCommand=no",
        f"ConnectTimeout={max(1, round(settings.connect_timeout_s))}",
        f"ServerAliveInterval={max(1, round(settings.stall_timeout_s))}",
        "ServerAliveCountMax=2",
    ]
    if settings.known_hosts:
        options += [f"UserKnownHostsFile={settings.known_hosts}", "GlobalKnownHostsFile=/dev/null"]
    if key is not None:
        options += ["IdentitiesOnly=yes", "IdentityAgent=none", "PasswordAuthentication=no"]
    words = ["ssh", *(word for option in options for word in ("-o", option))]
    return shlex.join([*words, *(["-i", str(key)] if key is not None else [])])
