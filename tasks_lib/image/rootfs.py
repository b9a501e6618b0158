"""Debian root file systems: mmdebstrap installs the packages of a flat repository, without a network.

It runs as root of its own network, mount and process namespaces, or of a user namespace too if this user is not root.
Its processes and mounts end with it, and files that it leaves belong to ids of this user.
Source: mmdebstrap(1), unshare(1), user_namespaces(7).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from tasks_lib.errors import ArchiveError, ToolError, escape_text
from tasks_lib.fs.directories import remove_tree
from tasks_lib.fs.locks import remove_stale_files
from tasks_lib.host import find_root_isolation, is_root
from tasks_lib.image.root_layer import write_root_layer
from tasks_lib.limits import Limits
from tasks_lib.progress import Progress, Silent
from tasks_lib.subprocesses import Completed, Invocation, Timeouts, last_line, run

_PROGRAM: Final = "mmdebstrap"
#: The oldest version with the behaviour that is used here: that of Debian 12.
_OLDEST: Final = (1, 3)
_INSTALL: Final = "install the Debian package mmdebstrap, version 1.3 or later"
#: Directories of programs that need root, which other users may not have in PATH. Source: FHS 3.0, 3.16 and 4.10.
_SBIN: Final = ("/usr/sbin", "/sbin")
#: Prefixes of the lines of mmdebstrap, apt and dpkg that give a reason, the number of such lines in a message, and the
#: lines that only say that something failed.
_REASONS: Final = ("E: ", "dpkg: ")
_LINES: Final = 2
_NO_REASON: Final = ("E: setup failed", "E: mmdebstrap failed")
#: Hash seeds keep the order of what Perl and Python write; bytecode is written only by the scripts of packages, which
#: honour SOURCE_DATE_EPOCH. Source: perlrun(1), PERL_HASH_SEED; Python, "Environment variables".
_FIXED: Final = {
    "TZ": "UTC", "LC_ALL": "C.UTF-8", "LANG": "C.UTF-8", "HOME": "/root", "PERL_HASH_SEED": "0", "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1", "DEBIAN_FRONTEND": "noninteractive",
}  # fmt: skip
#: Seconds for an installation, and without any line of output.
_TIMEOUTS: Final = Timeouts(total_s=7200.0, silence_s=1800.0)
#: Seconds before the start of the program from which a file counts as made by it: coarse clocks of file systems.
_COARSE_S: Final = 3


class RootFilesystem(NamedTuple):
    """What to install: all `packages` of a flat repository, a directory with `Packages`, `Release` and `pool/`.

    With `essential`, the packages that Debian marks as essential are installed, then the others. Without, packages are
    unpacked and none of their scripts runs. `epoch` is the latest modification time, in seconds since 1970.
    """

    repository: Path
    packages: Sequence[str]
    suite: str
    architecture: str
    essential: bool
    epoch: int


@cache
def mmdebstrap_version(path: str | None) -> str:
    """Return the version of mmdebstrap, found in the directories `path` (as in PATH).

    Raises:
        ToolError: it is missing, too old or does not run.
    """
    program = find_mmdebstrap(path)
    done = run(Invocation(words=[program, "--version"], environ={"PATH": _search(path)}), Silent())
    found = re.search(rb"\d+(?:\.\d+){1,3}", done.output)
    if done.status or not found:
        raise ToolError(f"mmdebstrap --version failed: {last_line(done.errors or done.output)}", hint=_INSTALL)
    version = found[0].decode("ascii")
    if tuple(map(int, version.split("."))) < _OLDEST:
        raise ToolError(f"mmdebstrap {version} is too old", hint=_INSTALL)
    return version


def require_version(path: str | None, version: str) -> None:
    """Check that mmdebstrap, found in the directories `path` (as in PATH), has a version, "" for any.

    Raises:
        ToolError: it has another one, is missing, too old or does not run.
    """
    if version and (found := mmdebstrap_version(path)) != version:
        raise ToolError(
            f"the image is made by mmdebstrap {version}, but {found} is installed",
            hint="install that version, use a store that has the root file system, or change `mmdebstrap` of the image",
        )


def build_rootfs(
    root: RootFilesystem,
    *,
    staging: Path,
    write: Callable[[bytes], object],
    environ: Mapping[str, str],
    limits: Limits,
    progress: Progress,
) -> str:
    """Install packages and write the root file system as a layer, an uncompressed tar; return its sha256 in hex.

    Args:
        root: what to install.
        staging: an empty directory, owned by the caller; it is empty afterwards unless this process is killed.
        write: receives the bytes of the layer.
        environ: its PATH has the programs.
        limits: the number of entries and bytes that are allowed.
        progress: checked for cancellation.

    Raises:
        ToolError: a program is missing or failed, or the system does not allow the namespaces.
        ArchiveError: the root file system is larger than the limits.
        CancelledError: the run is cancelled.
        OSError: `staging` cannot be used.
    """
    path = environ.get("PATH")
    program, isolation = find_mmdebstrap(path), _isolate(environ)
    with contextlib.suppress(ToolError):
        remove_stale_files(staging.parent, remove=lambda left: _remove(left, isolation, path))
    staging = staging.absolute()
    output = staging / "root.tar"
    latest = min(root.epoch, int(time.time()) - _COARSE_S)
    try:
        progress.phase("run", command=_PROGRAM)
        words = [*isolation, *_list_words(program, root, output)]
        fixed = {**_FIXED, "PATH": _search(path), "TMPDIR": str(staging), "SOURCE_DATE_EPOCH": str(root.epoch)}
        done = run(Invocation(words=words, environ=fixed, directory=staging, bounds=_TIMEOUTS), progress)
        if done.status:
            raise ToolError(
                f"mmdebstrap failed with status {done.status}: {_explain(done)}",
                hint="check the packages of the base, and the free space in TMPDIR",
            )
        progress.phase("repack")
        with output.open("rb") as tar:
            return write_root_layer(tar, latest=latest, epoch=root.epoch, limits=limits, write=write, progress=progress)
    except ArchiveError as error:
        raise type(error).of(error, archive="root file system") from error.__cause__
    finally:
        for left in staging.iterdir():
            _remove(left, isolation, path)


def find_mmdebstrap(path: str | None) -> str:
    """Return the path of mmdebstrap, found in the directories `path` (as in PATH).

    Raises:
        ToolError: it is missing.
    """
    program = shutil.which(_PROGRAM, path=_search(path))
    if program is None:
        hint = f"{_INSTALL}; or set `mmdebstrap` of the image to the version whose layer a store has"
        raise ToolError("the program mmdebstrap is not installed", hint=hint)
    return program


def _search(path: str | None) -> str:
    return os.pathsep.join([path or os.defpath, *_SBIN])


def _isolate(environ: Mapping[str, str]) -> list[str]:
    words, reason = find_root_isolation(environ)
    if reason:
        hint = "allow network, mount and process namespaces (see unshare(1))"
        if is_root():
            hint = f"{hint}; in a user namespace, map all ids, as `unshare --map-auto` does"
        else:
            hint = f"{hint}; install the Debian package uidmap and give this user ranges of ids in /etc/subuid"
        raise ToolError(f"cannot run mmdebstrap without network: {escape_text(reason)}", hint=hint)
    return words


def _list_words(program: str, root: RootFilesystem, output: Path) -> list[str]:
    """Return the command. `force-unsafe-io` skips syncs that only protect an installation from a power loss."""
    location = root.repository.absolute().as_uri().removeprefix("file:")
    return [
        program,
        "--mode=root",
        "--format=tar",
        f"--variant={'essential' if root.essential else 'extract'}",
        f"--architectures={root.architecture}",
        f"--include={','.join(root.packages)}",
        "--dpkgopt=force-unsafe-io",
        '--aptopt=APT::Sandbox::User "root"',
        '--aptopt=APT::Install-Recommends "false"',
        root.suite,
        str(output),
        f"deb [trusted=yes] copy:{location} ./",
    ]


def _explain(done: Completed) -> str:
    """Return the last lines that give a reason."""
    lines = [line for line in done.errors.splitlines() if line.startswith(_REASONS)]
    reasons = [line for line in lines if not line.startswith(_NO_REASON)] or [done.errors]
    return "; ".join(map(last_line, reasons[-_LINES:]))


def _remove(path: Path, isolation: Sequence[str], search: str | None) -> None:
    """Remove a file or directory, whose files may belong to other ids of this user.

    Raises:
        OSError, ToolError: it cannot be removed.
    """
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    with contextlib.suppress(PermissionError):
        remove_tree(path)
        return
    words = [*isolation, "rm", "-rf", "--one-file-system", "--", str(path.absolute())]
    done = run(Invocation(words=words, environ={"PATH": _search(search)}), Silent())
    if done.status:
        raise ToolError(f"cannot remove {escape_text(str(path))}: {last_line(done.errors)}", hint="remove it by hand")
