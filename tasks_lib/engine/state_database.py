"""SQLite file with doit's state: open it, create it if missing, set it aside if it cannot be used."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tasks_lib.fs import files
from tasks_lib.fs.trust import NOBODY, Trust

#: Identifies the file and its schema; increase VERSION when the schema changes.
#: Source: https://www.sqlite.org/pragma.html#pragma_application_id
APPLICATION: Final = 0x646F6974
VERSION: Final = 2
#: Suffixes of the files of a database; sqlite replays a WAL file that it finds. Source: https://www.sqlite.org/wal.html
_SUFFIXES: Final = ("-wal", "-shm", "")
#: Seconds to wait for another process's transaction, which takes milliseconds.
_BUSY_S: Final = 60.0

_SCHEMA: Final = f"""
begin immediate;
create table if not exists tasks
    (name text not null primary key, data text not null, saved_ns integer not null default 0) without rowid;
create table if not exists forgotten (times integer not null);
insert into forgotten select 0 where not exists (select 1 from forgotten);
pragma application_id={APPLICATION};
pragma user_version={VERSION};
commit;
"""
#: Adds to a file of version 1 when each row was saved.
_UPGRADE: Final = f"""
begin immediate;
alter table tasks add column saved_ns integer not null default 0;
pragma user_version={VERSION};
commit;
"""


class UnusableDatabaseError(Exception):
    """The file is not a state database of this version."""


def connect(name: str, trust: Trust = NOBODY) -> sqlite3.Connection:
    """Open the database; create it if missing.

    Raises:
        UnusableDatabaseError: it belongs to another program or version, or untrusted users can write to it.
        sqlite3.OperationalError: it cannot be opened: permissions, space, a lock.
        sqlite3.DatabaseError: it is corrupt.
    """
    if reason := _objection(name, trust):
        raise UnusableDatabaseError(reason)
    _make_private(Path(name), trust)
    connection = sqlite3.connect(name, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        if _read_version(connection) != (APPLICATION, VERSION):
            with _locked(Path(name), trust):  # sqlite does not make concurrent changes to WAL mode wait
                _create_schema(connection)
        connection.execute("pragma synchronous=normal")
    except OSError as error:  # no file descriptor left
        connection.close()
        raise sqlite3.OperationalError(str(error)) from error
    except BaseException:
        connection.close()
        raise
    return connection


def read_only_rows(name: str) -> dict[str, str]:
    """Return the rows of a database that cannot be opened for writing, {} if it cannot be read."""
    address = f"{Path(name).absolute().as_uri()}?immutable=1"
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
        return dict(connection.execute("select name, data from tasks"))
    return {}


def _make_private(path: Path, trust: Trust) -> None:
    """Create the file, or correct its mode: it contains text of definitions, and sqlite takes locks in it.

    sqlite gives its WAL files the same mode. An existing file is not opened: to close it would release sqlite's locks.
    Source: https://www.sqlite.org/howtocorrupt.html, section 2.2.
    """
    with contextlib.suppress(OSError):  # a database that cannot be written is still read
        if not path.exists():
            os.close(_open_private(path, os.O_EXCL, trust))
        status = path.stat()
        if status.st_uid == os.geteuid() and stat.S_ISREG(status.st_mode):
            path.chmod(_mode(trust))


def _mode(trust: Trust) -> int:
    return files.PRIVATE | (0o060 if trust.group >= 0 else 0)


def _open_private(path: Path, flags: int, trust: Trust) -> int:
    """Open or create a file that only this user and the trusted group can open; return its descriptor."""
    mode = _mode(trust)
    descriptor = os.open(path, flags | os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with contextlib.suppress(OSError):  # another user owns the file
        os.fchmod(descriptor, mode)
    return descriptor


def _read_version(connection: sqlite3.Connection) -> tuple[int, ...]:
    return tuple(connection.execute(f"pragma {mark}").fetchone()[0] for mark in ("application_id", "user_version"))


def _create_schema(connection: sqlite3.Connection) -> None:
    version = _read_version(connection)
    if version == (APPLICATION, VERSION):
        return
    if version == (APPLICATION, 1):
        connection.executescript(_UPGRADE)
        return
    if connection.execute("select count(*) from sqlite_master").fetchone()[0]:
        raise UnusableDatabaseError("it has another version")
    connection.execute("pragma journal_mode=wal")
    connection.executescript(_SCHEMA)


def set_aside(name: str, trust: Trust) -> Path | None:
    """Rename the database and its WAL files; return the new path, None if another process did so or it failed."""
    path = Path(name)
    aside = path.with_name(f"{path.name}.unusable-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
    with contextlib.suppress(OSError), _locked(path, trust):
        if not _objection(name, trust) and _is_intact(path):
            return None
        for suffix in _SUFFIXES:
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + suffix).replace(aside.with_name(aside.name + suffix))
        return aside
    return None


def _objection(name: str, trust: Trust) -> str:
    """Return which untrusted users can write to the database or to one of its WAL files, "" for none."""
    return next(filter(None, (trust.objection_at(name + suffix) for suffix in _SUFFIXES)), "")


def _is_intact(path: Path) -> bool:
    """Return whether the file is an intact state database, or cannot be checked now."""
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=_BUSY_S)) as connection:
            ours = _read_version(connection) == (APPLICATION, VERSION)
            return ours and connection.execute("pragma quick_check(1)").fetchone()[0] == "ok"
    except sqlite3.OperationalError:
        return True
    except sqlite3.DatabaseError:
        return False


@contextlib.contextmanager
def _locked(path: Path, trust: Trust) -> Iterator[None]:
    """Hold the lock of a database, so that one process at a time creates the file or sets it aside."""
    descriptor = _open_private(path.with_name(f".{path.name}.lock"), 0, trust)
    try:
        with contextlib.suppress(OSError):  # the file system has no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
