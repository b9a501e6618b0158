"""The stores of a run: their order, what they are known to lack, and which of them do not answer.

A store is asked for its first item by one thread; the others wait for that answer. A store that does not answer is left
alone: by this run from then on, and by other processes of the same cache for a minute, through a file in `v1/hints`.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tasks_lib.digest import Integrity
from tasks_lib.errors import StoreError, StoreRefusedError, UntrustedResultError, escape_text
from tasks_lib.fs.atomic import write_best_effort
from tasks_lib.gil import released
from tasks_lib.platforms import ANY_PLATFORM
from tasks_lib.progress import Progress, Silent
from tasks_lib.store import MAX_RECORD_BYTES, Store, blob_key, record_key
from tasks_lib.store.records import Record, TrustedKeys, accept_record
from tasks_lib.units import counted

if TYPE_CHECKING:
    from tasks_lib.store.upload import Uploads

#: Seconds for which a store that did not answer is left alone by other processes. Source: issue 22.
LEFT_ALONE_S: Final = 60.0
#: Failures in a row after which a store that answers is left alone, too.
_MOST_FAILURES: Final = 3
#: Connections for HEAD requests. Source: scale.md section 2, 2,000 in 0.42 s over 8.
_JOBS: Final = 8


class State(enum.Enum):
    """Whether a store is asked in this run."""

    UNASKED = enum.auto()
    OPEN = enum.auto()
    CLOSED = enum.auto()


class StoreMember:
    """One store of a run, with what is known about it; safe to use from any thread."""

    def __init__(self, store: Store, hints: Path) -> None:
        self.store: Final = store
        self.name: Final = store.address.name  # one string: each file of a run refers to it
        self.state = State.UNASKED
        self.was_refused = False  # whether it refused the credentials, or to be written to
        self.has_empty_blob = False  # whether this run wrote the empty blob, or found it
        self._asking = threading.Lock()
        self._missing: set[str] = set()
        self._ahead: _HeadsAhead | None = None
        self._failures = 0
        self._warned = False
        self._hint = hints / f"store-{hashlib.sha256(store.address.url.encode()).hexdigest()[:32]}"

    @property
    def is_local(self) -> bool:
        """Whether it needs no network."""
        return self.store.address.scheme == "file"

    def is_open(self, progress: Progress) -> bool:
        """Return whether to ask the store; the first caller finds out, the others wait for it."""
        if self.state is State.UNASKED:
            with released:
                self._asking.acquire()
            try:
                if self.state is State.UNASKED:
                    self._open(progress)
            finally:
                self._asking.release()
        return self.state is State.OPEN

    def _open(self, progress: Progress) -> None:
        left_s = self._left_alone_s()
        if left_s > 0:
            self._close(f"store {self.name}: not asked for {left_s:.0f} s, because it did not answer", progress)
            return
        try:
            self.store.probe()
        except StoreError as error:
            self._fail(error, progress)
        else:
            self.state = State.OPEN

    def expect(self, keys: Callable[[], Iterable[str]]) -> None:
        """Set the items that the run needs: after a first miss the store is asked for them ahead of the run."""
        self._ahead = _HeadsAhead(self, keys) if not self.is_local else None

    def lacks(self, key: str) -> bool:
        """Return whether the store is known not to hold an item."""
        return key in self._missing

    def note_missing(self, key: str) -> None:
        """Remember for this run that the store does not hold an item."""
        self._missing.add(key)
        if self._ahead is not None and key.startswith("cas/"):
            self._ahead.begin()

    def note_held(self, key: str) -> None:
        """Remember that the store holds an item and answers."""
        self._failures = 0
        self._missing.discard(key)

    def note_failure(self, key: str, error: StoreError, progress: Progress) -> None:
        """Close the store if it does not answer or fails repeatedly; else treat the item as missing."""
        self._missing.add(key)
        self.was_refused = self.was_refused or isinstance(error, StoreRefusedError)
        self._failures += 1
        if self._failures >= _MOST_FAILURES or not error.status:
            self._fail(error, progress)
        else:
            self._warn(str(error.message), progress)

    def _fail(self, error: StoreError, progress: Progress) -> None:
        self.was_refused = self.was_refused or isinstance(error, StoreRefusedError)
        if not isinstance(error, StoreRefusedError) and not self.is_local:
            with contextlib.suppress(OSError):
                self._hint.parent.mkdir(exist_ok=True)
                write_best_effort(self._hint, f"{int(time.time())}\n".encode())
        self._close(" ".join(filter(None, (f"{error.message};", error.hint))).rstrip("; "), progress)

    def _close(self, message: str, progress: Progress) -> None:
        self.state = State.CLOSED
        self._warn(message, progress)

    def _warn(self, message: str, progress: Progress) -> None:
        """Warn once in a run: the same store fails for every task."""
        if not self._warned:
            self._warned = True
            progress.warn(message)

    def _left_alone_s(self) -> float:
        """Return for how many seconds another process of this cache asks that the store is left alone."""
        with contextlib.suppress(OSError, ValueError):
            passed_s = time.time() - int(self._hint.read_text("ascii")[:20])
            return LEFT_ALONE_S - passed_s if 0 <= passed_s < LEFT_ALONE_S else 0.0
        return 0.0


class _HeadsAhead:
    """Asks a store ahead of the run which items it lacks; the first call of `begin` starts the questions.

    A store that holds everything needs no question: each item is one GET. From the first miss on, HEAD requests for
    the other items of the run go ahead of it over a few kept connections, so that a miss costs a task no round trip.
    """

    def __init__(self, asked: StoreMember, keys: Callable[[], Iterable[str]]) -> None:
        """Create the questions; `keys` returns the keys of the items that the run needs, in its order."""
        self._asked, self._load = asked, keys
        self._keys: Iterator[str] = iter(())
        self._lock = threading.Lock()
        self._has_begun = False

    def begin(self) -> None:
        """Start to ask in the background."""
        with self._lock:
            has_begun, self._has_begun = self._has_begun, True
        if not has_begun:
            self._keys = iter(list(self._load()))
            for _ in range(_JOBS):
                threading.Thread(target=self._work, name="heads", daemon=True).start()

    def _work(self) -> None:
        while self._asked.state is State.OPEN:
            with self._lock:
                key = next(self._keys, None)
            if key is None:
                return
            if not self._asked.lacks(key):
                try:
                    if self._asked.store.find(key) is None:
                        self._asked.note_missing(key)
                except StoreError:  # the task that needs the item finds out, and reports it
                    return


class Fleet:
    """All stores of a run, in their order, and whose records are believed."""

    def __init__(
        self,
        members: Sequence[StoreMember],
        counts: Counts,
        *,
        trust: str = "none",
        keys: TrustedKeys | None = None,
        uploads: Uploads | None = None,
    ) -> None:
        """Create the fleet.

        `trust` is "none": records are not read; "any": they are believed; "signed": if one of `keys` signed them.
        `uploads` writes what the run obtains and makes; None if it does not write.
        """
        self.members: Final = members
        self.counts: Final = counts
        self.trust: Final = trust
        self.uploads: Final = uploads
        self._keys = keys if trust == "signed" else None

    def expect(self, keys: Callable[[], Iterable[str]]) -> None:
        """Set the items that the run needs, in its order."""
        for member in self.members:
            member.expect(keys)

    @property
    def was_refused(self) -> bool:
        """Whether a store refused the credentials, or to be written to."""
        return any(member.was_refused for member in self.members)

    def finish(self, is_running: Callable[[], bool], say: Callable[[str], None]) -> None:
        """Wait until the stores have what the run obtained and made, or it is stopping; count what is not written."""
        left = self.uploads.finish(is_running, say) if self.uploads is not None else 0
        if left:
            self.counts.add_problem(
                f"{counted(left, 'result')} not written to the stores, because the run was interrupted"
            )

    @property
    def has_failed(self) -> bool:
        """Whether a store did not answer or refused."""
        return any(member.state is State.CLOSED for member in self.members)

    def holders(self, key: str, progress: Progress) -> Iterator[StoreMember]:
        """Yield the stores that may hold an item, in their order."""
        for member in self.members:
            if not member.lacks(key) and member.store.may_hold(key) and member.is_open(progress):
                yield member

    def find_holders(self, key: str, progress: Progress) -> Iterator[StoreMember]:
        """Yield the stores that say that they hold an item."""
        for member in self.holders(key, progress):
            try:
                if member.store.find(key) is not None:
                    yield member
                else:
                    member.note_missing(key)
            except StoreError as error:
                member.note_failure(key, error, progress)

    def list_holders(self, integrity: Integrity | None, recipe_key: str, progress: Progress) -> list[str]:
        """Return the names of the stores that hold content, or, if that is not known, a result of the recipe key."""
        key = blob_key(integrity.digest.hex) if integrity is not None else record_key(recipe_key)
        return [member.name for member in self.find_holders(key, progress)]

    def has_local(self, integrity: Integrity | None, recipe_key: str) -> bool:
        """Return whether a store that needs no network has the content, or a believed result of the recipe key."""
        if integrity is not None:
            return any(one.is_local for one in self.find_holders(blob_key(integrity.digest.hex), Silent()))
        return any(member.is_local for member, _ in self.records(recipe_key, ANY_PLATFORM, Silent()))

    def records(self, recipe_key: str, platform: str, progress: Progress) -> Iterator[tuple[StoreMember, Record]]:
        """Yield the believed records of a recipe key, in the order of the stores; a refused one is a warning."""
        key = record_key(recipe_key)
        for member in self.holders(key, progress) if self.trust != "none" else ():
            has_records = member.store.address.has_records
            record = self._record(member, recipe_key, platform, progress) if has_records else None
            if record is not None:
                yield member, record

    def record_of(self, member: StoreMember, recipe_key: str, progress: Progress) -> Record | None:
        """Return the believed record of a recipe key for any platform in one store, None if there is none."""
        if self.trust == "none" or member.lacks(record_key(recipe_key)):
            return None
        return self._record(member, recipe_key, "", progress)

    def _record(self, member: StoreMember, recipe_key: str, platform: str, progress: Progress) -> Record | None:
        key = record_key(recipe_key)
        try:
            content = member.store.read(key, MAX_RECORD_BYTES)
            if content is None:
                member.note_missing(key)
                return None
            member.note_held(key)
            return accept_record(content, key=recipe_key, platform=platform, keys=self._keys, store=member.name)
        except UntrustedResultError as error:
            member.note_missing(key)
            progress.warn(" ".join(filter(None, (error.message, error.hint))))
        except StoreError as error:
            member.note_failure(key, error, progress)
        return None


class Counts:
    """What stores provided and received in a run; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.read: dict[str, tuple[int, int]] = {}  # store -> items, bytes
        self.pushed = self.pushed_bytes = 0
        self.problems: list[str] = []

    def add_read(self, store: str, size: int) -> None:
        """Count content that a store provided."""
        with self._lock:
            items, total = self.read.get(store, (0, 0))
            self.read[store] = items + 1, total + size

    def add_pushed(self, size: int) -> None:
        """Count content that was written to a store."""
        with self._lock:
            self.pushed += 1
            self.pushed_bytes += size

    def add_problem(self, message: str) -> None:
        """Add a reason why something was not written, once."""
        line = escape_text(message)
        with self._lock:
            if line not in self.problems:
                self.problems.append(line)
