"""Who may change what lies in the cache: only this user, root, and a group that was named as trusted.

Internal to the store. A cache that somebody else can write is no cache: every digest is checked before use, but the
memo of measured files, the results and the content that is open right now could be changed between check and use.
"""

from __future__ import annotations

import functools
import grp
import os
import pwd
import stat
from pathlib import Path
from typing import Final, NamedTuple

from tasks_lib.errors import CacheUnavailableError, SettingError, escaped
from tasks_lib.fs.files import Durability


class Trust(NamedTuple):
    """Whose files are believed; `group` is the id of a trusted group, -1 for none."""

    group: int = -1

    @classmethod
    def of(cls, group: str) -> Trust:
        """Return the trust in the group called `group` (a name or a number), or in nobody for "".

        Raises:
            SettingError: there is no such group.
        """
        if not group:
            return cls()
        try:
            return cls(int(group) if group.isdigit() else grp.getgrnam(group).gr_gid)
        except KeyError:
            raise SettingError(f"there is no group {escaped(group)!r} on this machine") from None

    def objection(self, status: os.stat_result) -> str:
        """Return who else could change this file or directory, "" when nobody that matters.

        The owner can always change the mode, so that another owner is as good as write permission.
        """
        if status.st_mode & stat.S_IWOTH:
            return "everybody can write it"
        grouped = status.st_gid == self.group
        if status.st_uid not in (os.geteuid(), 0) and not grouped:
            return f"it belongs to user {status.st_uid}, not to user {os.geteuid()}"
        if status.st_mode & stat.S_IWGRP and not grouped and not _is_private_group(status.st_gid):
            return f"group {status.st_gid} can write it"
        return ""

    def require(self, path: Path, status: os.stat_result) -> None:
        """Return when the directory at `path` can be believed.

        Raises:
            StoreUnavailableError: it is no directory, or others can write it.
        """
        told = escaped(str(path))
        if not stat.S_ISDIR(status.st_mode):
            raise CacheUnavailableError(
                f"{told} cannot be used as a cache: it is no directory",
                hint="remove it, or set another cache directory with FETCH_CACHE_DIR",
            )
        objection = self.objection(status)
        if objection:
            raise CacheUnavailableError(
                f"the cache directory {told} is not safe: {objection} (mode {stat.S_IMODE(status.st_mode):04o})",
                hint=f"make it yours alone (`chmod go-w {told}`, chown), set another one with FETCH_CACHE_DIR, or trust"
                f" its group with FETCH_CACHE_TRUST_GROUP={status.st_gid}",
            )


#: No group is trusted.
NOBODY: Final = Trust()


@functools.cache
def _is_private_group(group: int) -> bool:
    """Whether the group is an ordinary user's own, which distributions with umask 002 give to everybody.

    Source: Debian's OpenSSH patch user-group-modes: same name as the user, nobody else in it.
    """
    user = os.geteuid()
    if user == 0:
        return False
    try:
        name = pwd.getpwuid(user).pw_name
        found = grp.getgrgid(group)
    except KeyError:
        return False
    return found.gr_name == name and not set(found.gr_mem) - {name}


#: Raised when the layout changes; directories of older formats can then be pruned.
FORMAT: Final = "v1"
#: Seconds to wait for another process; a download of some gigabytes fits.
LOCK_TIMEOUT_S: Final = 1800.0


class Options(NamedTuple):
    """`shared` is a second cache that is only read: what it holds is used from there."""

    durability: Durability = "full"
    lock_timeout_s: float = LOCK_TIMEOUT_S
    trust: Trust = NOBODY
    shared: Path | None = None
