"""Names that a no-op run does not look at one by one.

A file with several names is checked by one of them: hard links, and symlinks with the files behind them. Hard links and
directories are checked through the directory that has their names.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from tasks_lib.fs.fingerprint import compact_fingerprint
from tasks_lib.incremental.fingerprints import RACY, read_directory_fingerprint

if TYPE_CHECKING:
    from tasks_lib.incremental.snapshot import Snapshot

#: Least fingerprint of a file, below which it is the inode of a directory: a change time after February 1971.
_FIRST_TIME_NS: Final = 1 << 55


def list_verified_names(before: Snapshot) -> dict[str, tuple[str, int, int]]:
    """Return what `find_names` found: each name with the first name of the file, and both fingerprints.

    The first name is "" for a directory. The fingerprints are of the file, and of the directory that has the name.
    """
    owners: dict[int, str] = {}
    paths, start = before.paths, len(before.fingerprints) - sum(count for _, count in before.directories.values())
    for name, fingerprint in zip(paths[:start], before.fingerprints, strict=False):
        owners[fingerprint] = "" if fingerprint in owners else name  # of two files with it, neither is the first name
    ends = [fingerprint for fingerprint, count in before.directories.values() for _ in range(count)]
    names = zip(paths[start:], before.fingerprints[start:], ends, strict=True)
    return {name: (owners.get(fingerprint, ""), fingerprint, end) for name, fingerprint, end in names if end != RACY}


def find_names(fingerprints: Mapping[str, int], known: Mapping[str, tuple[str, int, int]]) -> dict[str, int]:
    """Return the second names of files, and the directories, each with the fingerprint of the directory that has it.

    The fingerprint of a directory is read before its names are checked, so that any later change of a name changes it.
    A `known` name stays valid while its directory and the file are unchanged.
    """
    found: dict[str, int] = {}
    owners: dict[int, str] = {}
    directories: dict[str, int] = {}
    for name, fingerprint in fingerprints.items():
        first = owners.setdefault(fingerprint, name)
        if fingerprint in (0, RACY) or (first == name and fingerprint >= _FIRST_TIME_NS):
            continue
        if first == name:
            first = ""  # a directory has no other name
        directory = posixpath.dirname(name)
        if directory not in directories:
            directories[directory] = read_directory_fingerprint(directory)
        end = directories[directory]
        if known.get(name) == (first, fingerprint, end) or _is_found(name, first, fingerprint):
            found[name] = end
    return found


def _is_found(name: str, first: str, fingerprint: int) -> bool:
    """Return whether a name is that of the file `first`, or of a directory if that is "", with this fingerprint."""
    try:
        status = os.lstat(name)
        if not first:
            return stat.S_ISDIR(status.st_mode) and status.st_ino == fingerprint
        return os.path.samestat(os.lstat(first), status) and compact_fingerprint(status) == fingerprint
    except OSError:
        return False


def find_links(names: Iterable[str], fingerprints: Mapping[str, int], before: Snapshot | None) -> dict[str, str]:
    """Return the symlinks that lead to another of these files, each with that file.

    Files whose fingerprint is that of the previous snapshot are what they were in it.
    """
    known = dict(zip(before.paths, before.fingerprints, strict=True)) if before is not None else {}
    linked = before.linked if before is not None else {}
    found: dict[str, str] = {}
    free = {name for name in names if fingerprints[name] not in (0, RACY)}
    for name in [name for name in fingerprints if name in free]:
        target = linked.get(name, "")
        if known.get(name) != fingerprints[name] or (target and known.get(target) != fingerprints.get(target)):
            target = _find_target(name, fingerprints)
        if target in free and name in free and target != name:
            found[name] = target
            free -= {name, target}
    return found


def _find_target(link: str, fingerprints: Mapping[str, int]) -> str:
    """Return the file to which a symlink leads, "" for none of these or if either changed."""
    try:
        text = os.readlink(link)  # noqa: PTH115  # as text
        directory, name = posixpath.split(posixpath.join(posixpath.dirname(link), text))
        target = posixpath.normpath(posixpath.join(directory, name))
        if compact_fingerprint(os.lstat(link)) != fingerprints[link] or not _is_one_directory(
            directory, posixpath.dirname(target)
        ):
            return ""
        return target if fingerprints.get(target) == compact_fingerprint(os.stat(link)) else ""  # noqa: PTH116  # as text
    except OSError:
        return ""


def _is_one_directory(one: str, two: str) -> bool:
    """Return whether two paths lead to one directory: `..` behind a symlink leads elsewhere."""
    return os.path.samefile(one or ".", two or ".")  # noqa: PTH121  # as text
