"""A flat Debian repository of an essential set made of this machine's programs, and how its layers are built."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tasks_lib.image.rootfs import RootFilesystem

EPOCH = 1_700_000_000
ARCHITECTURE = "amd64" if os.uname().machine == "x86_64" else "arm64"
#: What dpkg and the scripts of the packages below run.
PROGRAMS = (
    "dpkg", "dpkg-deb", "dpkg-split", "dpkg-query", "tar", "sh", "rm", "env", "diff", "ldconfig", "mkdir", "chown",
    "ln", "date", "cat", "chmod", "touch", "stat", "start-stop-daemon",
)  # fmt: skip
DIRECTORIES = ("dev", "proc", "sys", "tmp", "run", "etc/apt", "etc/dpkg", "var/log", "var/cache/tool", "var/lib/dpkg")
ACCOUNTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/sh\n_apt:x:42:65534::/:/bin/sh\n",
    "etc/group": "root:x:0:\ndaemon:x:1:\nnogroup:x:65534:\n",
}
#: Everything that differs from run to run, and from machine to machine.
POSTINST = """#!/bin/sh
set -e
date > /etc/machine-id
date > /var/log/tool.log
date > /var/cache/tool/index
mkdir -p /var/lib/tool/private /etc/ssh
date > /etc/ssh/ssh_host_ed25519_key
cat /proc/self/stat > /etc/ssh/ssh_host_rsa_key.pub
touch /var/lib/tool/private/file
chown -R daemon:daemon /var/lib/tool
chmod 700 /var/lib/tool/private
chmod 4755 /usr/bin/tool
ln /usr/bin/tool /usr/bin/a-tool
ln /usr/bin/tool /usr/bin/z-tool
touch "/etc/made-$TZ-$LC_ALL"
[ ! -e /proc/net/dev ] || cat /proc/net/dev > /etc/network-devices
"""

needs_mmdebstrap = pytest.mark.skipif(
    not shutil.which("mmdebstrap") or os.geteuid() != 0, reason="needs mmdebstrap and root"
)


def write_flat_repository(top: Path) -> Path:
    """Write a repository with an essential package and one more; return its directory."""
    repository = top / "flat"
    (repository / "pool").mkdir(parents=True)
    base = top / "tiny-base"
    for name in DIRECTORIES:
        (base / name).mkdir(parents=True)
    for name, text in ACCOUNTS.items():
        (base / name).write_text(text)
    for name in PROGRAMS:
        _copy_program(base, name)
    tool = top / "tiny-tool"
    files = {
        "usr/bin/tool": "#!/bin/sh\n", "usr/share/doc/tiny-tool/copyright": "CC0\n", "usr/share/doc/tiny-tool/NEWS": "n",
        "usr/share/man/man1/tool.1": "m", "usr/share/locale/de/LC_MESSAGES/tool.mo": "l",
    }  # fmt: skip
    for name, text in files.items():
        (tool / name).parent.mkdir(parents=True, exist_ok=True)
        (tool / name).write_text(text)
    _build(repository, base, "Essential: yes\n", {})
    _build(repository, tool, "", {"postinst": POSTINST})
    _index(repository)
    return repository


def root_filesystem(repository: Path, packages: tuple[str, ...] = ("tiny-base", "tiny-tool")) -> RootFilesystem:
    """Return what to build from it."""
    return RootFilesystem(repository, packages, "bookworm", ARCHITECTURE, True, EPOCH)


def _copy_program(base: Path, name: str) -> None:
    """Copy a program of this machine with the libraries that it loads."""
    program = Path(shutil.which(name, path="/bin:/usr/bin:/sbin:/usr/sbin") or name)
    _copy(base, program)
    listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False)
    for word in listed.stdout.split():
        if word.startswith("/"):
            _copy(base, Path(word))


def _copy(base: Path, path: Path) -> None:
    target = base / str(path).lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copy(path.resolve(), target)


def _build(repository: Path, directory: Path, more: str, scripts: Mapping[str, str]) -> None:
    control = directory / "DEBIAN"
    control.mkdir()
    (control / "control").write_text(
        f"Package: {directory.name}\nVersion: 1.0\nArchitecture: all\nMaintainer: t <t@example.org>\n{more}"
        f"Description: {directory.name}\n"
    )
    for name, text in scripts.items():
        (control / name).write_text(text)
        (control / name).chmod(0o755)
    words = ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(directory), str(repository / "pool")]
    subprocess.run(words, check=True, capture_output=True, env=os.environ | {"SOURCE_DATE_EPOCH": str(EPOCH)})


def _index(repository: Path) -> None:
    paragraphs = []
    for deb in sorted((repository / "pool").iterdir()):
        control = subprocess.run(["dpkg-deb", "-f", str(deb)], capture_output=True, text=True, check=True).stdout
        content = deb.read_bytes()
        paragraphs.append(
            f"{control.strip()}\nFilename: pool/{deb.name}\nSize: {len(content)}\n"
            f"SHA256: {hashlib.sha256(content).hexdigest()}\n"
        )
    index = "\n".join(paragraphs).encode()
    (repository / "Packages").write_bytes(index)
    (repository / "Release").write_text(
        "Suite: bookworm\nCodename: bookworm\nDate: Sat, 01 Nov 2025 00:00:00 UTC\n"
        f"SHA256:\n {hashlib.sha256(index).hexdigest()} {len(index)} Packages\n"
    )
