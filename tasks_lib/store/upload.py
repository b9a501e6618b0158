"""Write to the stores of a run in the background: content first, then the record that names it.

A killed process leaves nothing half visible: an item appears in a store when it is complete. What was not written is
written by the next `doit store push`.
"""

from __future__ import annotations

import contextlib
import io
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import BinaryIO, Final, Literal

from tasks_lib.cache import Cache
from tasks_lib.digest import Integrity
from tasks_lib.errors import CacheError, StoreError, StoreRefusedError, escape_text
from tasks_lib.gil import released
from tasks_lib.progress import Silent
from tasks_lib.store import EMPTY, MAX_RECORD_BYTES, Store, blob_key, record_key
from tasks_lib.store.fleet import Counts, StoreMember
from tasks_lib.store.records import Made, Record, SigningKey, parse_record
from tasks_lib.units import counted

#: Threads that write; uploads and downloads share the machine.
_JOBS: Final = 4
#: Seconds after which an item is written again, so that `doit store prune --older-than 90d` keeps what is in use.
#: Source: issue 22, "writers put again what is older than half of it".
AGED_S: Final = 45 * 24 * 3600
#: Seconds between two checks whether the wait for uploads was interrupted.
_LOOK_S: Final = 0.2
#: Seconds for which a worker waits until the backlog is shorter: a store that hangs must not stop a run.
_BACKLOG_S: Final = 2.0
#: Seconds after which the wait for uploads is announced.
_PATIENCE_S: Final = 3.0
#: Which stores get an item: all, or those that are known to lack it or to have wrong bytes.
Receivers = Literal["all", "lacking"]
#: What became of content and its record; failed if one of the stores does not have both.
Outcome = Literal["written", "unchanged", "failed"]


def make_record(key: str, integrity: Integrity, platform: str, urls: Sequence[str] = ()) -> Record:
    """Return the record of a result that was made here now, with as many URLs as it can hold."""
    made = Made(by=f"doit-fetch {_version()}", platform=platform, at=int(time.time()))
    return Record(key=key, integrity=integrity, made=made).with_urls(urls)


def _version() -> str:
    try:
        return version("doit-fetch")
    except PackageNotFoundError:
        return "0"


class StoreWriter:
    """Writes items to stores; safe to use from any thread."""

    def __init__(self, members: Sequence[StoreMember], cache: Cache, key: SigningKey | None, counts: Counts) -> None:
        """Create the writer.

        `cache` has the content; `key` signs records, without it only content is written. `counts` also receives the
        reasons why something was not written.
        """
        self.members: Final = [one for one in members if one.store.can_write]
        self._cache, self._key, self._counts = cache, key, counts
        self._notes = _Notes(counts)
        self._closed: set[StoreMember] = set()
        self._lock = threading.Lock()

    @property
    def signs(self) -> bool:
        """Whether records are written."""
        return self._key is not None

    def write(
        self, record: Record, receivers: Receivers = "all", *, dry_run: Callable[[str], None] | None = None
    ) -> Outcome:
        """Write the content that a record names, then the record if there is a key.

        The reason of a failure is counted. With `dry_run` nothing is written; it receives the key of each item that
        would be.
        """
        number, failed = 0, False
        for member in self.members:
            if receivers == "lacking" and not member.lacks(blob_key(record.integrity.digest.hex)):
                continue
            try:
                if member in self._closed or not member.is_open(self._notes):
                    failed = True
                else:
                    number += self._to(member, record, dry_run)
            except StoreError as error:
                self._fail(member, error)
                failed = True
            except CacheError as error:
                self._counts.add_problem(error.message)
                failed = True
        return "failed" if failed else "written" if number else "unchanged"

    def _to(self, member: StoreMember, record: Record, dry_run: Callable[[str], None] | None) -> int:
        integrity = record.integrity
        key, number = blob_key(integrity.digest.hex), 0
        if self._is_due(member, key, integrity.size):
            number += 1
            if dry_run is None:
                self._write_empty_blob(member)
                with self._cache.open(integrity) as file:
                    self._put(member, key, file, integrity.size)
            else:
                dry_run(key)
        if self._key is not None:
            number += self._put_record(member, self._key.sign(record), dry_run)
        return number

    def _put_record(self, member: StoreMember, record: Record, dry_run: Callable[[str], None] | None) -> int:
        """Write a record, unless the store has one with the same content that this key signed and that is not aged."""
        key = record_key(record.key)
        if not self._is_due(member, key, -1) and _says_the_same(member.store, key, record):
            return 0
        content = record.encode()
        if dry_run is None:
            self._put(member, key, io.BytesIO(content), len(content), counted=False)
        else:
            dry_run(key)
        return 1

    def _put(self, member: StoreMember, key: str, file: BinaryIO, size: int, *, counted: bool = True) -> None:
        member.store.put(key, file, size)
        member.note_held(key)
        if counted:
            self._counts.add_pushed(size)

    def _is_due(self, member: StoreMember, key: str, size: int) -> bool:
        """Return whether a store lacks an item, has one of another size, or one that was written long ago."""
        if member.lacks(key):
            return True
        found = member.store.find(key)
        if found is None:
            return True
        if size >= 0 and found.size not in (-1, size):
            return True
        return 0 < found.modified_s < time.time() - AGED_S

    def _write_empty_blob(self, member: StoreMember) -> None:
        """Write the empty blob once, which other programs expect in every store."""
        with self._lock:
            if member.has_empty_blob:
                return
            member.has_empty_blob = True
        if member.store.find(EMPTY) is None:
            member.store.put(EMPTY, io.BytesIO(), 0)

    def note(self, error: Exception) -> None:
        """Keep an error that is not one of a store or of the cache."""
        self._counts.add_problem(f"not written: {type(error).__name__}: {escape_text(str(error))[:200]}")

    def _fail(self, member: StoreMember, error: StoreError) -> None:
        """Write no more to a store that failed."""
        is_known = member in self._closed
        self._closed.add(member)
        member.was_refused = member.was_refused or isinstance(error, StoreRefusedError)
        if not is_known:
            hint = f"; {error.hint}" if error.hint else ""
            self._counts.add_problem(f"{error.message}: not written{hint}")


def _says_the_same(store: Store, key: str, record: Record) -> bool:
    """Return whether a store holds a record that differs from ours only in who made it and when."""
    content = store.read(key, MAX_RECORD_BYTES)
    with contextlib.suppress(ValueError):
        held = parse_record(content or b"")
        ours = (record.key, record.integrity, record.signature.keyid if record.signature else "")
        theirs = (held.key, held.integrity, held.signature.keyid if held.signature else "")
        return ours == theirs and set(record.urls) <= set(held.urls)
    return False


class _Notes(Silent):
    """Keeps warnings for the end of the run: a background thread belongs to no task."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def warn(self, message: str) -> None:
        """Keep a warning."""
        self._counts.add_problem(message)


class Uploads:
    """The queue of a run: threads write what the run obtained and made, while it goes on."""

    def __init__(self, writer: StoreWriter, backlog: int) -> None:
        """Create the queue; while more than `backlog` results wait, adding one waits, but at most `_BACKLOG_S`."""
        self.writer: Final = writer
        self._backlog = backlog
        self._jobs: queue.SimpleQueue[tuple[Record, Receivers]] = queue.SimpleQueue()
        self._left = 0
        self._threads = 0
        self._changed = threading.Condition()

    def add(
        self, key: str, integrity: Integrity, platform: str, urls: Sequence[str] = (), receivers: Receivers = "all"
    ) -> None:
        """Write the content of a result that was made here now, and its record, soon."""
        record = make_record(key, integrity, platform, urls)
        with released if self._left >= self._backlog else contextlib.nullcontext(), self._changed:
            self._changed.wait_for(lambda: self._left < self._backlog, _BACKLOG_S)
            self._left += 1
            start = self._threads < min(_JOBS, self._left)
            self._threads += start
        self._jobs.put((record, receivers))
        if start:
            threading.Thread(target=self._work, name="upload", daemon=True).start()

    def _work(self) -> None:
        while True:
            record, receivers = self._jobs.get()
            try:
                self.writer.write(record, receivers)
            except Exception as error:  # a fault of ours must not end the thread: the run would wait for ever
                self.writer.note(error)
            finally:
                with self._changed:
                    self._left -= 1
                    self._changed.notify_all()

    def finish(self, is_running: Callable[[], bool], say: Callable[[str], None]) -> int:
        """Wait until everything is written, or the run is stopping; return the number of results that are not.

        A longer wait is announced to `say`.
        """
        announced_s = time.monotonic() + _PATIENCE_S
        with self._changed:
            while self._left and is_running():
                self._changed.wait(_LOOK_S)
                if self._left and time.monotonic() > announced_s:
                    announced_s = math.inf
                    say(f"writing {counted(self._left, 'result')} to the stores")
            return self._left
