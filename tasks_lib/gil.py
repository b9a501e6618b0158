"""Reduce GIL contention among threads that do little work between many system calls.

Python releases the GIL at every system call: sixteen threads that each publish a small file switch forty times per
file, and the processor time doubles (docs/decisions/0023). Therefore a thread has a process-wide turn inside
`run_alone`, and gives it up inside `released` while it waits for the network or a disk. The turn is a scheduling hint
and protects no data: a thread that has waited too long takes it, so that nothing can hang. Threads that use none of
these contexts are not delayed.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from typing import Final

#: Seconds without a new turn after which a waiting thread takes it: its owner probably blocks outside `released`.
_PATIENCE_S: Final = 0.2


class _Place:
    """The place of a thread in the queue; it is called by setting `turn` and releasing `lock`."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock.acquire()
        self.turn = 0


class _Queue:
    """The number of the current turn, and the threads that wait for one: first come, first served.

    A lock that any waiting thread can take is taken again by the thread that has just released it, and wakes the others
    in vain.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._is_free = True
        self.turn = 1
        self.waiting: deque[_Place] = deque()

    def enter(self, place: _Place) -> int:
        """Wait for a turn and return its number."""
        with self._guard:
            if self._is_free:
                self._is_free = False
                return self._next()
            self.waiting.append(place)
            seen = self.turn
        while not place.lock.acquire(timeout=_PATIENCE_S):
            with self._guard:
                if place not in self.waiting:  # called at this moment
                    continue
                if self.turn == seen:
                    self.waiting.remove(place)
                    return self._next()
                seen = self.turn
        return place.turn

    def leave(self, turn: int) -> None:
        """End a turn and call the next thread, unless another one has taken it."""
        with self._guard:
            if turn != self.turn:
                return
            if not self.waiting:
                self._is_free = True
                return
            place = self.waiting.popleft()
            place.turn = self._next()
            place.lock.release()

    def _next(self) -> int:
        self.turn += 1
        return self.turn


class _Own(threading.local):
    """State of a thread: whether it is inside `run_alone` and `kept`, its turn (0: none), and its place."""

    joined = keeps = False
    turn = 0

    def __init__(self) -> None:
        self.place = _Place()


class _Alone:
    """Run at most one thread inside this context."""

    def __enter__(self) -> None:
        _own.joined = True
        if _own.turn != _queue.turn:  # else it was kept
            _own.turn = _queue.enter(_own.place)

    def __exit__(self, *_error: object) -> None:
        _own.joined = False
        if not _own.keeps:
            give_up()


class _Waiting:
    """Give up the turn inside this context; no effect without one."""

    def __enter__(self) -> None:
        give_up()

    def __exit__(self, *_error: object) -> None:
        if _own.joined:
            _own.turn = _queue.enter(_own.place)


class _Kept:
    """Keep the turn of `run_alone` beyond its end, until this thread waits or gives it up: the next task uses it."""

    def __enter__(self) -> None:
        _own.keeps = True

    def __exit__(self, *_error: object) -> None:
        _own.keeps = False
        give_up()


def give_up() -> None:
    """End the turn of this thread, if it has one."""
    turn = _own.turn
    if turn:
        _own.turn = 0
        _queue.leave(turn)


def pass_on() -> bool:
    """Let the threads that wait have their turns, if there are any and this thread is inside `run_alone`.

    Return whether that took a while, so that what this thread waits for may have happened. Waking up for it and then
    waiting for a turn would interrupt the thread that has one.
    """
    if not (_queue.waiting and _own.joined):
        return False
    with released:
        return True


_queue: Final = _Queue()
_own: Final = _Own()

#: They are stateless, so that one instance serves all threads. Do not nest `released`: the inner exit takes a turn.
run_alone: Final = _Alone()
released: Final = _Waiting()
kept: Final = _Kept()


def serialized(size: int, small: int) -> contextlib.AbstractContextManager[None]:
    """Return `run_alone` for at most `small` bytes, else a null context: large work runs mostly outside the GIL.

    Args:
        size: bytes to process.
        small: largest size whose processing is dominated by system calls.
    """
    return run_alone if size <= small else contextlib.nullcontext()
