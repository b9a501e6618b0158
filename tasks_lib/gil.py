"""Reduce GIL contention among threads that do little work between many system calls.

Python releases the GIL at every system call: sixteen threads that each publish a small file switch forty times per
file, and the processor time doubles (docs/decisions/0023). Therefore a thread holds a process-wide lock inside
`run_alone`, and releases it inside `released` while it waits for the network or a disk. The lock is a scheduling hint
and protects no data: a thread that has waited too long replaces the lock, so that nothing can hang. Threads that use
neither context are not delayed.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Final

#: Seconds after which a waiting thread replaces the lock: its holder probably blocks outside `released`.
_PATIENCE_S: Final = 0.2


class _Own(threading.local):
    """State of a thread: whether it is inside `run_alone`, and the lock that it holds."""

    joined = False
    turn: threading.Lock | None = None


class _Alone:
    """Run at most one thread inside this context."""

    def __enter__(self) -> None:
        _own.joined = True
        _acquire()

    def __exit__(self, *_error: object) -> None:
        _own.joined = False
        _release()


class _Waiting:
    """Release the lock inside this context; no effect outside `run_alone`."""

    def __enter__(self) -> None:
        _release()

    def __exit__(self, *_error: object) -> None:
        if _own.joined:
            _acquire()


def _acquire() -> None:
    global _turn  # one lock per process, as there is one interpreter
    while True:
        lock = _turn
        taken = lock.acquire(timeout=_PATIENCE_S)
        if taken and lock is _turn:
            _own.turn = lock
            return
        if taken:  # the lock was replaced meanwhile
            lock.release()
        elif lock is _turn:
            _turn = threading.Lock()


def _release() -> None:
    if _own.turn is not None:
        _own.turn.release()
        _own.turn = None


_turn = threading.Lock()
_own: Final = _Own()

#: Both are stateless, so that one instance serves all threads. Do not nest `released`: the inner exit takes the lock.
run_alone: Final = _Alone()
released: Final = _Waiting()


def serialized(size: int, small: int) -> contextlib.AbstractContextManager[None]:
    """Return `run_alone` for at most `small` bytes, else a null context: large work runs mostly outside the GIL.

    Args:
        size: bytes to process.
        small: largest size whose processing is dominated by system calls.
    """
    return run_alone if size <= small else contextlib.nullcontext()
