"""doit's state as one SQLite file, a backend of doit; the file survives a crash of the run.

The first rows are read one by one, later all at once. A separate thread writes finished tasks in one short transaction
every half second and holds no lock in between; only the file keeps a row that this run wrote. A database that cannot be
used is set aside with a warning. The cache is authoritative: after a loss of this file nothing is downloaded again,
results are adopted from the cache.

Invariants: a row is written only when its task is complete. If two runs save a row for one task, the later one stays,
in whatever order they are written: it describes the present files. Forgetting a task removes the snapshot
(`snapshot_path`) before the change is committed.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final, Protocol

from tasks_lib.engine.state_database import UnusableDatabaseError, connect, read_only_rows, set_aside
from tasks_lib.errors import escape_text
from tasks_lib.fs.trust import NOBODY
from tasks_lib.session import current_session

#: Maximum seconds until a finished task is written.
INTERVAL_S: Final = 0.5
#: Number of rows that are read one by one before all are read at once.
_MAX_SINGLE_READS: Final = 64
#: Writes a row unless the file has a later one. A row from the future is not later: the clock was set back since.
_SAVE: Final = """
insert into tasks (name, data, saved_ns) values (?1, ?2, ?3) on conflict (name)
do update set data=?2, saved_ns=?3 where saved_ns <= ?3 or saved_ns > ?4
"""

StateRow = dict[str, Any]


class Codec(Protocol):
    """doit's codec of a row."""

    def encode(self, data: Any) -> str:
        """Return a row as text."""

    def decode(self, data: str) -> Any:
        """Parse the text of a row."""


def snapshot_path(database: str) -> Path:
    """Return the path of the snapshot of a no-op run, next to the database."""
    return Path(f"{os.path.splitext(database)[0]}.stamp")  # noqa: PTH122  # Path(".") has no suffix to change


class StateBackend:
    """doit's backend; doit calls it from one thread, its own thread commits."""

    desc = "sqlite, committed every half second"

    def __init__(self, name: str, codec: Codec, *, module_name: str | None = None) -> None:
        del module_name  # only doit's dbm backend needs it
        self.name = name
        self._codec = codec
        session = current_session()
        self._trust = session.settings.trust if session is not None else NOBODY
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._opened = False
        self._whole = False
        self._asked = 0
        self._raw: dict[str, str] = {}
        self._rows: dict[str, StateRow] = {}
        self._written: set[str] = set()  # the tasks of which this run wrote a row; only the file has it
        self._dirty: dict[str, int] = {}  # when the row of a task was saved, in nanoseconds since 1970
        self._deleted: set[str] = set()
        self._wiped = self._closing = self._reported = False
        self._forgotten = 0
        self._writer: threading.Thread | None = None
        self._wake = threading.Event()

    # --- what doit calls

    def get(self, task: str, key: str) -> Any:
        """Return one value of a task's row, None if there is none."""
        row = self._row(task)
        return None if row is None else row.get(key)

    def set(self, task: str, key: str, value: Any) -> None:
        """Set one value of a task's row; the row is written when it is complete."""
        with self._lock:
            row = self._row(task)
            if row is None:
                row = self._rows[task] = {}
            row[key] = value
            if key == "ignore:":
                self._forget()
            if key in ("deps:", "ignore:"):  # doit sets "deps:" last, and "ignore:" alone
                self._dirty[task] = time.time_ns()
                self._start()

    def in_(self, task: str) -> bool:
        """Return whether the task has a row."""
        return self._row(task) is not None

    def remove(self, task: str) -> None:
        """Forget a task."""
        with self._lock:
            self._forget()
            for known in (self._rows, self._raw):
                known.pop(task, None)
            self._written.discard(task)
            self._dirty.pop(task, None)
            self._deleted.add(task)
            self._start()

    def remove_all(self) -> None:
        """Forget every task."""
        with self._lock:
            self._forget()
            self._whole = self._wiped = True
            for known in (self._rows, self._raw, self._written, self._dirty):
                known.clear()

    def dump(self) -> None:
        """Write everything and close."""
        self._closing = True
        self._wake.set()
        if self._writer is not None:
            self._writer.join()
        with self._lock:
            self._commit()
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    # --- for the snapshot

    def begin(self) -> None:
        """Open the database; from now on `save` notices when another process forgets tasks."""
        with self._lock:
            self._open()

    def save(self) -> bool:
        """Write now; return whether everything is written and no other process has forgotten tasks."""
        with self._lock:
            if not self._opened:
                return True
            self._commit()
            try:
                return not (self._dirty or self._deleted) and self._times() == self._forgotten
            except sqlite3.Error:
                return False

    # --- reading

    def _row(self, task: str) -> StateRow | None:
        row = self._rows.get(task)
        if row is not None:
            return row
        with self._lock:
            text = self._text(task)
            if text is None:
                return None
            try:
                row = self._codec.decode(text)
            except (ValueError, TypeError):
                row = None  # treat a damaged row as missing: its task is checked again
            if not isinstance(row, dict):
                return None
            self._rows[task] = row
            return row

    def _text(self, task: str) -> str | None:
        if self._whole and task not in self._written:
            return self._raw.get(task)
        if task in self._deleted:
            return None
        self._open()
        try:
            if task in self._written:
                return self._read(task)
            self._asked += 1
            return self._read(task) if self._asked <= _MAX_SINGLE_READS else self._read_all().get(task)
        except sqlite3.DatabaseError as error:
            self._replace(error)
            return None

    def _read(self, task: str) -> str | None:
        if self._connection is None:
            return None
        found = self._connection.execute("select data from tasks where name=?", (task,)).fetchone()
        return None if found is None else str(found[0])

    def _read_all(self) -> dict[str, str]:
        if self._connection is not None:
            self._raw = dict(self._connection.execute("select name, data from tasks"))
        for task in self._deleted:
            self._raw.pop(task, None)
        self._whole = True
        return self._raw

    def _times(self) -> int:
        if self._connection is None:
            return 0
        return int(self._connection.execute("select times from forgotten").fetchone()[0])

    # --- opening

    def _open(self) -> None:
        if self._opened:
            return
        self._opened = True
        try:
            self._connection = connect(self.name, self._trust)
            self._forgotten = self._times()
        except UnusableDatabaseError as error:
            self._replace(error)
        except sqlite3.OperationalError:
            self._raw, self._whole = (
                read_only_rows(self.name),
                True,
            )  # no space or no permission: reading may still work
        except sqlite3.DatabaseError as error:
            self._replace(error)

    def _replace(self, error: Exception) -> None:
        """Set the file aside and create a new one from the rows in memory."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None
        aside = set_aside(self.name, self._trust)
        if aside is not None:
            self._warn(f"cannot use {self.name} ({error}); file moved to {aside}; nothing needs to be fetched again")
        self._dirty = dict.fromkeys(self._rows, 0) | self._dirty
        self._written.clear()
        with contextlib.suppress(UnusableDatabaseError, sqlite3.Error):  # the next write reports the error
            self._connection = connect(self.name, self._trust)
            self._forgotten = self._times()

    def _warn(self, line: str) -> None:
        sys.stderr.write(f"doit-fetch: {escape_text(line)}\n")
        sys.stderr.flush()

    # --- writing

    def _forget(self) -> None:
        with contextlib.suppress(OSError):
            snapshot_path(self.name).unlink()

    def _start(self) -> None:
        self._open()
        if self._writer is None and not self._closing:
            self._writer = threading.Thread(target=self._write, name="state", daemon=True)
            self._writer.start()

    def _write(self) -> None:
        while not self._wake.wait(INTERVAL_S):
            with self._lock:
                self._commit()

    def _commit(self) -> None:
        """Write changes in one transaction; after an error keep them for the next time."""
        if not (self._dirty or self._deleted or self._wiped):
            return
        self._open()
        try:
            self._connection = self._connection or connect(self.name, self._trust)
            self._transaction(self._connection)
        except (sqlite3.OperationalError, UnusableDatabaseError) as error:
            self._rollback(error)
        except sqlite3.DatabaseError as error:
            self._replace(error)

    def _transaction(self, connection: sqlite3.Connection) -> None:
        now = time.time_ns()
        rows = [(task, text, at, now) for task, at in self._dirty.items() if (text := self._encoded(task))]
        lost = self._wiped or bool(self._deleted)
        connection.execute("begin immediate")
        if self._wiped:
            connection.execute("delete from tasks")
        connection.executemany("delete from tasks where name=?", [(task,) for task in self._deleted])
        connection.executemany(_SAVE, rows)
        if lost:
            connection.execute("update forgotten set times=times+1")
        connection.execute("commit")
        self._forgotten += lost
        for task, *_ in rows:
            self._rows.pop(task, None)
            self._raw.pop(task, None)
            self._written.add(task)
        self._dirty.clear()
        self._deleted.clear()
        self._wiped = False

    def _encoded(self, task: str) -> str:
        """Encode the row of a task; return "" if it has none, or a value of a user that JSON cannot represent.

        Such a value affects only that task: its row from an earlier run is deleted, because it is outdated.
        """
        if task not in self._rows:
            return ""
        try:
            return self._codec.encode(self._rows[task])
        except (TypeError, ValueError) as error:
            self._warn(f"cannot save the values that {escape_text(task)} returned ({error}); it runs again next time")
            self._deleted.add(task)
            return ""

    def _rollback(self, error: Exception) -> None:
        if self._connection is not None and self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("rollback")
        if self._closing or not self._reported:
            self._reported = True
            self._warn(f"cannot write {self.name}: {error}; the next run finds finished tasks in the cache")
