"""Files with several names, of which a no-op run checks one: hard links, and symlinks with the files behind them."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from tasks_lib.fs.fingerprint import compact_fingerprint
from tasks_lib.incremental.marks import RACY, entries_of

if TYPE_CHECKING:
    from tasks_lib.incremental.snapshot import Snapshot


def verified(before: Snapshot) -> dict[str, tuple[str, int, int]]:
    """Return each second name of a snapshot with the first name, the sign of the file, and that of its directory."""
    owners: dict[int, str] = {}
    paths, start = before.paths, len(before.signs) - sum(count for _, count in before.directories.values())
    for name, sign in zip(paths[:start], before.signs, strict=False):
        owners[sign] = name if sign not in owners else ""  # two files with the same sign: neither is the first name
    ends = [sign for sign, count in before.directories.values() for _ in range(count)]
    names = zip(paths[start:], before.signs[start:], ends, strict=True)
    return {name: (owners.get(sign, ""), sign, end) for name, sign, end in names if end != RACY}


def second_names(signs: Mapping[str, int], known: Mapping[str, tuple[str, int, int]]) -> dict[str, int]:
    """Return the second names of files, each with the sign of its directory.

    The sign of a directory is taken before its names are checked, so that any later change of a name changes the sign.
    A `known` second name stays valid while its directory and the file are unchanged.
    """
    found: dict[str, int] = {}
    owners: dict[int, str] = {}
    directories: dict[str, int] = {}
    for name, sign in signs.items():
        owner = owners.setdefault(sign, name)
        if owner == name or sign in (0, RACY):
            continue
        directory = posixpath.dirname(name)
        if directory not in directories:
            directories[directory] = entries_of(directory)
        end = directories[directory]
        if known.get(name) == (owner, sign, end) or _is_one_file(owner, name, sign):
            found[name] = end
    return found


def _is_one_file(one: str, two: str, sign: int) -> bool:
    """Whether both names refer to one file, and it has that sign."""
    try:
        first, second = os.lstat(one), os.lstat(two)
    except OSError:
        return False
    return os.path.samestat(first, second) and compact_fingerprint(second) == sign


def links_to_files(names: Iterable[str], signs: Mapping[str, int], before: Snapshot | None) -> dict[str, str]:
    """Return the symlinks that lead to another of these files, each with that file.

    Files whose sign is that of the previous snapshot are what they were in it.
    """
    known = dict(zip(before.paths, before.signs, strict=True)) if before is not None else {}
    linked = before.linked if before is not None else {}
    found: dict[str, str] = {}
    free = {name for name in names if signs[name] not in (0, RACY)}
    for name in [name for name in signs if name in free]:
        target = linked.get(name, "")
        if known.get(name) != signs[name] or (target and known.get(target) != signs.get(target)):
            target = _target_of(name, signs)
        if target in free and name in free and target != name:
            found[name] = target
            free -= {name, target}
    return found


def _target_of(link: str, signs: Mapping[str, int]) -> str:
    """Return the file to which a symlink leads, "" for none of these or if either changed."""
    try:
        text = os.readlink(link)  # noqa: PTH115  # as text
        directory, name = posixpath.split(posixpath.join(posixpath.dirname(link), text))
        target = posixpath.normpath(posixpath.join(directory, name))
        if compact_fingerprint(os.lstat(link)) != signs[link] or not _is_same(directory, posixpath.dirname(target)):
            return ""
        return target if signs.get(target) == compact_fingerprint(os.stat(link)) else ""  # noqa: PTH116  # as text
    except OSError:
        return ""


def _is_same(one: str, two: str) -> bool:
    """Whether two paths lead to one directory: `..` behind a symlink does not lead to where the path came from."""
    return os.path.samefile(one or ".", two or ".")  # noqa: PTH121  # as text
