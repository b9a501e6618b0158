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

from tasks_lib.session import current_session

#: Identifies the file and its schema; increase VERSION when the schema changes.
#: Source: https://www.sqlite.org/pragma.html#pragma_application_id
APPLICATION: Final = 0x646F6974
VERSION: Final = 1
#: Seconds to wait for another process's transaction, which takes milliseconds.
_BUSY_S: Final = 60.0

_SCHEMA: Final = f"""
begin immediate;
create table if not exists tasks (name text not null primary key, data text not null) without rowid;
create table if not exists forgotten (times integer not null);
insert into forgotten select 0 where not exists (select 1 from forgotten);
pragma application_id={APPLICATION};
pragma user_version={VERSION};
commit;
"""


class UnusableDatabaseError(Exception):
    """The file is not a state database of this version."""


def connect(name: str) -> sqlite3.Connection:
    """Open the database; create it if missing.

    Raises:
        UnusableError: it belongs to another program or version.
        sqlite3.OperationalError: it cannot be opened: permissions, space, a lock.
        sqlite3.DatabaseError: it is corrupt.
    """
    _make_private(Path(name))
    connection = sqlite3.connect(name, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        if _read_version(connection) != (APPLICATION, VERSION):
            with _locked(Path(name).parent):  # sqlite does not make concurrent changes to WAL mode wait
                _create_schema(connection)
        connection.execute("pragma synchronous=normal")
    except OSError as error:  # no file descriptor left
        connection.close()
        raise sqlite3.OperationalError(str(error)) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _make_private(path: Path) -> None:
    """Create the file if it is missing, and hide the text of definitions in it from untrusted users.

    sqlite gives its WAL files the same mode. An existing file is not opened: to close it would release sqlite's locks.
    Source: https://www.sqlite.org/howtocorrupt.html, section 2.2.
    """
    with contextlib.suppress(OSError):  # sqlite reports the error
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        status, session = path.stat(), current_session()
        shared = session is not None and session.settings.trust_group
        if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
            path.chmod(0o660 if shared else 0o600)


def read_only_rows(name: str) -> dict[str, str]:
    """Return the rows of a database that cannot be opened for writing, {} if it cannot be read."""
    address = f"{Path(name).absolute().as_uri()}?immutable=1"
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
        return dict(connection.execute("select name, data from tasks"))
    return {}


def _read_version(connection: sqlite3.Connection) -> tuple[int, ...]:
    return tuple(connection.execute(f"pragma {mark}").fetchone()[0] for mark in ("application_id", "user_version"))


def _create_schema(connection: sqlite3.Connection) -> None:
    if _read_version(connection) == (APPLICATION, VERSION):
        return
    if connection.execute("select count(*) from sqlite_master").fetchone()[0]:
        raise UnusableDatabaseError("it has another version")
    connection.execute("pragma journal_mode=wal")
    connection.executescript(_SCHEMA)


def set_aside(name: str) -> Path | None:
    """Rename the database and its WAL files; return the new path, None if another process did so or it failed."""
    path = Path(name)
    aside = path.with_name(f"{path.name}.unusable-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
    with contextlib.suppress(OSError), _locked(path.parent):
        if _is_intact(path):
            return None
        for suffix in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + suffix).replace(aside.with_name(aside.name + suffix))
        return aside
    return None


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
def _locked(directory: Path) -> Iterator[None]:
    """Lock the directory, so that one process at a time creates the file or sets it aside."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # the file system has no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
