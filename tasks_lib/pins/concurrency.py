"""Several look-ups at a time, which an interruption stops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from tasks_lib.progress import LineProgress, Progress

#: Look-ups at a time.
_CONCURRENT: Final = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_concurrently(act: Callable[[Item], Result], items: Sequence[Item], progress: Progress) -> list[Result]:
    """Return what `act` returns for each item, in their order.

    Raises:
        Exception: any exception that `act` raises; the other calls are stopped.
    """
    if len(items) < 2:
        return [act(item) for item in items]
    with ThreadPoolExecutor(min(_CONCURRENT, len(items))) as pool:
        futures = [pool.submit(act, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:  # an interruption too: the threads would work on until their deadlines
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(progress, LineProgress):
                progress.cancel()
            raise
