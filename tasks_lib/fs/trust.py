"""Trust in the files of a cache: only this user, root and a configured group may write to it.

A cache that another user can write to is rejected before anything in it is read. Every digest is checked before use,
but the hash cache, the results, the snapshot and open content could be changed between check and use. The module is
fast to import: a no-op `doit` needs it.
"""

from __future__ import annotations

import functools
import grp
import os
import posixpath
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from tasks_lib.errors import CacheUnavailableError, SettingError, escape_text
from tasks_lib.named import NamedTuple

#: The directory of the present layout below the root of a cache; directories of older formats can be pruned.
FORMAT: Final = "v1"
#: The directories of `FORMAT` on which results depend.
_GUARDED: Final = ("blobs", "results", "locks")
#: A directory beside `FORMAT` that is made again from blobs.
_ARTIFACTS: Final = "artifacts"
#: Largest file that is read whole: a snapshot of a million files.
_MAX_BYTES: Final = 1 << 30
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: What to do about a parent directory of a cache that other users can write to.
Parents = Literal["refuse", "warn", "ignore"]


class Trust(NamedTuple):
    """The owners whose files are trusted; `group` is the id of a trusted group, -1 for none."""

    group: int = -1
    parents: Parents = "refuse"

    @classmethod
    def of(cls, group: str, parents: Parents = "refuse") -> Trust:
        """Return the trust in the group `group` (a name or a number), or in no group for "".

        Raises:
            SettingError: the group does not exist.
        """
        if not group:
            return cls(parents=parents)
        try:
            return cls(int(group) if group.isdigit() else grp.getgrnam(group).gr_gid, parents)
        except KeyError:
            raise SettingError(
                f"unknown group {escape_text(group)!r} on this machine", hint="`getent group` lists the groups"
            ) from None

    def objection(self, status: os.stat_result) -> str:
        """Return which untrusted users can change this file or directory, "" for none.

        Another owner counts as write permission, because the owner can always change the mode.
        """
        if status.st_mode & stat.S_IWOTH:
            return "all users can write to it"
        if owned := self._owner_objection(status):
            return owned
        if status.st_mode & stat.S_IWGRP and status.st_gid != self.group and not _is_private_group(status.st_gid):
            return f"group {status.st_gid} can write to it"
        return ""

    def _owner_objection(self, status: os.stat_result) -> str:
        if status.st_uid in (os.geteuid(), 0) or status.st_gid == self.group:
            return ""
        return f"it is owned by user {status.st_uid}, not by user {os.geteuid()}"

    def _parent_objection(self, status: os.stat_result) -> str:
        """Return which untrusted users can rename what is in this directory, or change this symlink; "" for none."""
        if stat.S_ISLNK(status.st_mode) or status.st_mode & stat.S_ISVTX:
            return self._owner_objection(status)
        return self.objection(status)

    def objection_at(self, path: str) -> str:
        """Return the objection to a file or directory and to a symlink in its place, "" if it does not exist."""
        try:
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                return self._owner_objection(status) or self.objection(os.stat(path))  # noqa: PTH116 - a str
        except OSError:
            return ""
        return self.objection(status)

    def require(self, path: Path, status: os.stat_result) -> None:
        """Check that the directory at `path` can be trusted.

        Raises:
            CacheUnavailableError: it is not a directory, or untrusted users can write to it.
        """
        shown = escape_text(str(path))
        if not stat.S_ISDIR(status.st_mode):
            raise CacheUnavailableError(
                f"{shown} cannot be used as a cache: it is not a directory",
                hint="remove it, or choose another cache directory with FETCH_CACHE_DIR",
            )
        objection = self.objection(status)
        if objection:
            raise CacheUnavailableError(
                f"the cache directory {shown} is not safe: {objection} (mode {stat.S_IMODE(status.st_mode):04o})",
                hint=f"restrict it to your user (`chmod go-w {shown}`, chown), choose another with FETCH_CACHE_DIR, or"
                f" trust its group with FETCH_CACHE_TRUST_GROUP={status.st_gid}",
            )

    def require_root(self, root: Path) -> list[str]:
        """Check the directories of the cache `root` and their parents, as far as they exist; return warnings.

        Raises:
            CacheUnavailableError: untrusted users can write to one, or replace it.
        """
        for path in (root.resolve(), *(root / FORMAT / name for name in ("", *_GUARDED))):
            try:
                status = path.lstat()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise CacheUnavailableError(
                    f"{escape_text(str(path))} cannot be used: {error.strerror}",
                    hint="check permissions, or choose another cache directory with FETCH_CACHE_DIR",
                ) from error
            self.require(path, status)
        return self._judge_parents(root) if self.parents != "ignore" else []

    def _judge_parents(self, root: Path) -> list[str]:
        """Judge the parents of a cache. Source: OpenSSH, safe_path() of StrictModes: each directory up to the root."""
        warnings = []
        for place, status in _way_to(root):
            objection = self._parent_objection(status)
            if objection:
                mode = stat.S_IMODE(status.st_mode)
                message = (
                    f"the cache {escape_text(str(root))} is not safe: {escape_text(place)} is a parent directory of it,"
                    f" and {objection} (mode {mode:04o})"
                )
                if self.parents == "refuse":
                    raise CacheUnavailableError(
                        message,
                        hint=f"restrict it (`chmod go-w {escape_text(place)}`, chown), choose another cache directory"
                        " with FETCH_CACHE_DIR, or accept this with cache_parents=warn (FETCH_CACHE_PARENTS=warn)",
                    )
                warnings.append(message)
        return warnings

    def read(self, path: Path) -> bytes | None:
        """Return the content of a file, None if it is missing, unreadable or writable for untrusted users."""
        try:
            descriptor = os.open(path, _READ)
        except OSError:
            return None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES or self.objection(status):
                return None
            with open(descriptor, "rb", closefd=False) as file:
                return file.read()
        except OSError:
            return None
        finally:
            os.close(descriptor)


#: Trust in no group.
NOBODY: Final = Trust()


def set_aside_artifacts(root: Path, trust: Trust) -> list[str]:
    """Rename the artifacts of a cache that another user made, so that they are made again; return warnings."""
    path = root / _ARTIFACTS
    objection = trust.objection_at(str(path))
    if not objection:
        return []
    aside = path.with_name(f"{_ARTIFACTS}.untrusted-{os.urandom(4).hex()}")
    try:
        path.rename(aside)
    except OSError as error:
        raise CacheUnavailableError(
            f"{escape_text(str(path))} is not safe: {objection}; it cannot be renamed: {error.strerror}",
            hint="remove it and run again",
        ) from error
    return [f"{escape_text(str(path))} is not used, because {objection}; it is now {escape_text(str(aside))}"]


def _way_to(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield every directory and symlink that leads to `root`, without the directory itself."""
    end = os.path.realpath(root)
    pending, seen = [os.path.abspath(root), end], set[str]()  # noqa: PTH100 - does not resolve symlinks
    while pending:
        place = pending.pop()
        while place not in seen:
            seen.add(place)
            here, place = place, posixpath.dirname(place)
            try:
                status = os.lstat(here)
            except OSError:
                continue
            if stat.S_ISLNK(status.st_mode):
                pending.append(posixpath.normpath(posixpath.join(os.path.realpath(place), Path(here).readlink())))
            if here != end:
                yield here, status


@functools.cache
def _is_private_group(group: int) -> bool:
    """Return whether the group is the private group of an ordinary user; distributions with umask 002 create them.

    Source: Debian's OpenSSH patch user-group-modes: same name as the user, no other members.
    """
    user = os.geteuid()
    if user == 0:
        return False
    try:
        name = pwd.getpwuid(user).pw_name
        entry = grp.getgrgid(group)
    except KeyError:
        return False
    return entry.gr_name == name and not set(entry.gr_mem) - {name}
