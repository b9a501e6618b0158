"""Whose turn at the interpreter it is, among threads that do little between many system calls.

Python's own lock is handed over at every system call: sixteen threads that each publish a small file hand it over forty
times a file, and the processor time doubles (docs/decisions/0023). So a thread works `run_alone` until it really waits,
for the network or a disk, which it says with `released`. This is advice to the scheduler and protects nothing: who
waited for long takes the turn from whoever has it, so that nothing hangs for it, and whoever says nothing is not held
up.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Final

#: Seconds after which a turn is taken from whoever has it: that thread waits for something and did not say so.
_PATIENCE_S: Final = 0.2


class _Own(threading.local):
    """What a thread has: its share of turns, and the turn itself."""

    joined = False
    turn: threading.Lock | None = None


class _Alone:
    """From `with` to its end this thread works only when no other one does that works so too."""

    def __enter__(self) -> None:
        _own.joined = True
        _take()

    def __exit__(self, *_error: object) -> None:
        _own.joined = False
        _give()


class _Waiting:
    """From `with` to its end others may work; nothing for a thread that does not work `run_alone`."""

    def __enter__(self) -> None:
        _give()

    def __exit__(self, *_error: object) -> None:
        if _own.joined:
            _take()


def _take() -> None:
    global _turn  # there is one interpreter in a process
    while True:
        serialized = _turn
        taken = serialized.acquire(timeout=_PATIENCE_S)
        if taken and serialized is _turn:
            _own.turn = serialized
            return
        if taken:  # it was given up meanwhile
            serialized.release()
        elif serialized is _turn:
            _turn = threading.Lock()


def _give() -> None:
    if _own.turn is not None:
        _own.turn.release()
        _own.turn = None


_turn = threading.Lock()
_own: Final = _Own()

#: Neither keeps anything of its own, so that one of each serves all threads; `released` inside `released` is no use.
run_alone: Final = _Alone()
released: Final = _Waiting()


def serialized(size: int, small: int) -> contextlib.AbstractContextManager[None]:
    """Return `run_alone` for work on at most `small` bytes, mostly system calls; nothing for more, mostly done outside.

    Args:
        size: bytes that are worked on.
        small: how many of them a lot of calls are made for.
    """
    return run_alone if size <= small else contextlib.nullcontext()
