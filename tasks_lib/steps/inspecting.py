"""Content read and judged by as many processes as there are processors.

Threads would hand Python's lock over for every chunk, which costs a fifth of the time of two of them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Final

from tasks_lib.errors import StoreError
from tasks_lib.fs.system_calls import usable_cores
from tasks_lib.progress import Progress, Silent
from tasks_lib.store import Store
from tasks_lib.store.survey import Item

#: Bytes that one process reads in the time that another one takes to start.
_WORTH_A_PROCESS: Final = 32 << 20
#: Things handed over at once: small ones are read faster than they are handed over.
_CHUNK: Final = 16

#: What a worker inspects with; set in workers only, right after they begin.
_store: list[Store] = []


def inspected(store: Store, items: list[Item], progress: Progress) -> Iterator[tuple[Item, str]]:
    """Yield each thing with what is wrong with it, "" for nothing, in their order; see `Store.inspect`.

    Raises:
        StoreError: a worker ended without a word.
        StoreUnavailableError, CancelledError: as `Store.inspect`.
    """
    workers = min(usable_cores(), len(items), 1 + sum(item.size for item in items) // _WORTH_A_PROCESS)
    if workers < 2:
        for item in items:
            progress.check()
            yield item, store.upkeep.inspect(item, Silent())
        return
    context = multiprocessing.get_context("fork")  # a store is not sent, it is inherited
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(store,))
    try:
        size = max(1, min(_CHUNK, len(items) // (4 * workers)))
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # workers begin with it blocked, and ignore it then
        try:
            found = pool.map(_inspect, items, chunksize=size)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        yield from zip(items, found, strict=True)
    except BrokenProcessPool as error:
        raise StoreError("a process that reads the cache was killed", hint="is there memory enough?") from error
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(store: Store) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the first process decides
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    _store.append(store)


def _end_with_parent() -> None:
    """End this worker with the process that started it, however that one ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _inspect(item: Item) -> str:
    return _store[0].upkeep.inspect(item, Silent())
