"""Pools of threads that end soon after the thread that waits for them was interrupted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tasks_lib.progress import LineProgress, Progress


@contextlib.contextmanager
def open_pool(threads: int, progress: Progress) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of threads; wait for all of its work when the context exits.

    After an exception of the block or of the wait, such as Ctrl-C, the work that has not begun is dropped. The other
    work stops at its next check if `progress` is that of a command; the tasks of a run are stopped by the run.
    """
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
        pool.shutdown()
    except BaseException:
        if isinstance(progress, LineProgress):
            progress.cancel()
        pool.shutdown(cancel_futures=True)
        raise
