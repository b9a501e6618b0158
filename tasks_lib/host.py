"""The machine on which commands of toolchains run: its platform, and the environment and network that they see."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Final

from tasks_lib.errors import ToolError, escape_text
from tasks_lib.fs.system_calls import USER_ID_MAP, effective_user
from tasks_lib.platforms import name_platform

#: Variables that every command sees. Source: POSIX.1-2017, 8.3; curl, "Environment"; the manuals of OpenSSL, curl, git,
#: requests and Node.js for the variables that name certificates.
DECLARED: Final = frozenset(
    {
        "PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "TERM",
        "http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy",
        "HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY",
        "SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO",
        "NODE_EXTRA_CA_CERTS",
    }
)  # fmt: skip
_LOCALE: Final = "LC_"
#: Machines whose kernel also runs 32-bit systems, and the machine of those. Source: Linux, uname26 and compat_uts.
_NARROW: Final = {"x86_64": "i686", "amd64": "i386", "aarch64": "armv8l", "ppc64": "ppc", "s390x": "s390"}
_PROBE_S: Final = 30
#: Ids that a Debian system needs: those up to `nobody`. Source: Debian Policy 4.7, section 9.2.2.
_IDS: Final = 65535


@cache
def platform_name() -> str:
    """Return system, machine and libc, such as `linux-x86_64-glibc`; a 32-bit system on a 64-bit kernel is 32-bit."""
    system, machine = _uname()
    return f"{system}-{machine}-{_libc(system)}"


def machine_platform() -> str:
    """Return the platform of this machine as definitions name it, such as `linux-x86_64`."""
    return name_platform(*_uname())


def _uname() -> tuple[str, str]:
    system, machine = os.uname().sysname.lower(), os.uname().machine
    return system, _NARROW.get(machine, machine) if sys.maxsize < 1 << 32 else machine


def _libc(system: str) -> str:
    """Return the C library. Source: glibc, confstr(3), _CS_GNU_LIBC_VERSION, which other libraries do not know."""
    if system != "linux":
        return "libc"
    try:
        return "glibc" if (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc") else "musl"
    except (OSError, ValueError):
        return "musl"


def declared_environment(environ: Mapping[str, str], passed: Iterable[str]) -> dict[str, str]:
    """Return the variables of `environ` that a command sees: the declared ones and those with the names `passed`."""
    names = DECLARED.union(passed)
    return {name: value for name, value in environ.items() if name in names or name.startswith(_LOCALE)}


def digest_variables(environ: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Return name -> hex sha256 of the value, "" for a variable that is not set: a value may be a secret."""
    return {
        name: hashlib.sha256(os.fsencode(environ[name])).hexdigest() if name in environ else ""
        for name in sorted(set(names))
    }


def isolate_network(name: str, environ: Mapping[str, str]) -> list[str]:
    """Return the words before the command of the toolchain `name` that run it in a network namespace of its own.

    Raises:
        ToolError: the system does not allow it.
    """
    words, reason = find_isolation(environ)
    if reason:
        raise ToolError(
            f"toolchain {name}: cannot run the command without network: {escape_text(reason)}",
            hint="allow network namespaces (see unshare(1)), or the network: toolchain_network=on, `network: true`",
        )
    return words


def find_isolation(environ: Mapping[str, str]) -> tuple[list[str], str]:
    """Return the words before a command that run it in a network namespace, and why the system rejects them, or "".

    Source: util-linux, unshare(1); an unprivileged user also needs a user namespace: user_namespaces(7).
    """
    path = environ.get("PATH", os.defpath)
    program = shutil.which("unshare", path=path)
    user = [] if is_root() else ["--user", "--map-current-user"]
    words = [str(program), *user, "--net", "--"]
    return words, _probe((*words, "true"), path)[1] if program else "unshare is not installed"


def is_root() -> bool:
    """Return whether this user is root for the programs that it starts."""
    return effective_user() == 0


def find_root_isolation(environ: Mapping[str, str]) -> tuple[list[str], str]:
    """As `find_isolation`, for a command that runs as root with mounts, processes and users of its own.

    Its processes are killed when the program before it ends. An unprivileged user needs newuidmap and ranges of ids.
    Source: unshare(1); pid_namespaces(7); user_namespaces(7), "uid_map"; subuid(5).
    """
    path = environ.get("PATH", os.defpath)
    program = shutil.which("unshare", path=path)
    user = [] if is_root() else ["--user", "--map-root-user", "--map-auto"]
    words = [str(program), *user, "--net", "--mount", "--pid", "--fork", "--kill-child", "--"]
    if not program:
        return words, "unshare is not installed"
    ranges, reason = _probe((*words, "cat", USER_ID_MAP), path)
    ids = sum(int(line.split()[2]) for line in ranges.splitlines())
    if not reason and ids < _IDS:
        reason = f"a Debian system has {_IDS} user ids, but the user namespace has {ids}"
    return words, reason


@cache
def _probe(words: tuple[str, ...], path: str) -> tuple[str, str]:
    """Return what a command prints, and why this system does not run it, "" if it does."""
    try:
        done = subprocess.run(
            words,
            env={"PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_S,
            check=False,
        )
    except OSError as error:
        return "", f"{words[0]}: {error.strerror or error}"
    except subprocess.TimeoutExpired:
        return "", f"{words[0]} did not exit within {_PROBE_S} s"
    lines = done.stderr.split("\n")
    reason = lines[0].strip() or f"{words[0]} exited with status {done.returncode}"
    return done.stdout, "" if done.returncode == 0 else reason
