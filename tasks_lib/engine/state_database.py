"""The sqlite file behind what doit remembers: opened, made when missing, set aside when it cannot be used."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

#: Marks the file as ours, and its layout; raise VERSION when the layout changes.
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


class UnusableError(Exception):
    """The file is no database of ours."""


def connect(name: str) -> sqlite3.Connection:
    """Open the database, made when missing.

    Raises:
        UnusableError: it is of another program or version.
        sqlite3.OperationalError: it cannot be opened: permissions, space, a lock.
        sqlite3.DatabaseError: it is broken.
    """
    connection = sqlite3.connect(name, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        if _marks(connection) != (APPLICATION, VERSION):
            with _alone(Path(name).parent):  # two processes that turn WAL on at once would not wait for each other
                _make(connection)
        connection.execute("pragma synchronous=normal")
    except OSError as error:  # no descriptor left
        connection.close()
        raise sqlite3.OperationalError(str(error)) from error
    except BaseException:
        connection.close()
        raise
    return connection


def readable(name: str) -> dict[str, str]:
    """Return the rows of a database that cannot be opened for writing."""
    address = f"{Path(name).absolute().as_uri()}?immutable=1"
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
        return dict(connection.execute("select name, data from tasks"))
    return {}


def _marks(connection: sqlite3.Connection) -> tuple[int, ...]:
    return tuple(connection.execute(f"pragma {mark}").fetchone()[0] for mark in ("application_id", "user_version"))


def _make(connection: sqlite3.Connection) -> None:
    if _marks(connection) == (APPLICATION, VERSION):
        return
    if connection.execute("select count(*) from sqlite_master").fetchone()[0]:
        raise UnusableError("it is of another version")
    connection.execute("pragma journal_mode=wal")
    connection.executescript(_SCHEMA)


def set_aside(name: str) -> Path | None:
    """Rename the database with its companions; None when another process did so already, or it cannot be done."""
    path = Path(name)
    aside = path.with_name(f"{path.name}.unusable-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
    with contextlib.suppress(OSError), _alone(path.parent):
        if _is_whole(path):
            return None
        for suffix in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + suffix).replace(aside.with_name(aside.name + suffix))
        return aside
    return None


def _is_whole(path: Path) -> bool:
    """Whether the file is a whole database of ours, or cannot be looked at now."""
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=_BUSY_S)) as connection:
            ours = _marks(connection) == (APPLICATION, VERSION)
            return ours and connection.execute("pragma quick_check(1)").fetchone()[0] == "ok"
    except sqlite3.OperationalError:
        return True
    except sqlite3.DatabaseError:
        return False


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Let one process at a time make the file or set it aside."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
