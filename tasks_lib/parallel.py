"""Pools of threads that end soon after an error, or after the thread that waits for them was interrupted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tasks_lib.progress import Stoppable


@contextlib.contextmanager
def open_pool(threads: int, progress: Stoppable, name: str = "") -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of threads; wait for all of its work when the context exits.

    After an exception of the block or of the wait, such as Ctrl-C, work that has not begun is dropped, and all other
    work stops at its next check.

    Args:
        threads: maximum number of threads.
        progress: of the work of this pool only.
        name: prefix of the names of the threads.
    """
    pool = ThreadPoolExecutor(threads, name)
    try:
        yield pool
        pool.shutdown()
    except BaseException:
        progress.stop()
        pool.shutdown(cancel_futures=True)
        raise
