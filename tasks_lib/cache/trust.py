"""Trust in the files of a cache: only this user, root and a configured group may write to it.

Internal to the cache. A cache that another user can write to is rejected. Every digest is checked before use, but the
hash cache, the results and open content could be changed between check and use.
"""

from __future__ import annotations

import functools
import grp
import os
import pwd
import stat
from pathlib import Path
from typing import Final, NamedTuple

from tasks_lib.errors import CacheUnavailableError, SettingError, escape_text
from tasks_lib.fs.files import Durability


class Trust(NamedTuple):
    """The owners whose files are trusted; `group` is the id of a trusted group, -1 for none."""

    group: int = -1

    @classmethod
    def of(cls, group: str) -> Trust:
        """Return the trust in the group `group` (a name or a number), or in no group for "".

        Raises:
            SettingError: the group does not exist.
        """
        if not group:
            return cls()
        try:
            return cls(int(group) if group.isdigit() else grp.getgrnam(group).gr_gid)
        except KeyError:
            raise SettingError(f"unknown group {escape_text(group)!r} on this machine") from None

    def objection(self, status: os.stat_result) -> str:
        """Return which untrusted users can change this file or directory, "" for none.

        Another owner counts as write permission, because the owner can always change the mode.
        """
        if status.st_mode & stat.S_IWOTH:
            return "all users can write to it"
        grouped = status.st_gid == self.group
        if status.st_uid not in (os.geteuid(), 0) and not grouped:
            return f"it is owned by user {status.st_uid}, not by user {os.geteuid()}"
        if status.st_mode & stat.S_IWGRP and not grouped and not _is_private_group(status.st_gid):
            return f"group {status.st_gid} can write to it"
        return ""

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


#: Trust in no group.
NOBODY: Final = Trust()


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


#: Increased when the layout changes; directories of older formats can then be pruned.
FORMAT: Final = "v1"
#: Seconds to wait for another process; enough for a download of several gigabytes.
LOCK_TIMEOUT_S: Final = 1800.0


class Options(NamedTuple):
    """Options of a cache; `shared` is the directory of a second, read-only cache that is used when the first misses."""

    durability: Durability = "full"
    lock_timeout_s: float = LOCK_TIMEOUT_S
    trust: Trust = NOBODY
    shared: Path | None = None
