"""Pools of threads whose work stops when the thread that waits for it is interrupted."""

from __future__ import annotations

import threading
import time

import pytest

from tasks_lib.errors import CancelledError
from tasks_lib.parallel import open_pool
from tasks_lib.progress import Silent, Stoppable


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_exception_stops_the_work(error: type[BaseException]) -> None:
    """Running work stops at its next check, waiting work never begins; work of other pools goes on."""
    every = Silent()
    progress, other = Stoppable(every), Stoppable(every)
    begun = threading.Barrier(3, timeout=60)

    def work() -> None:
        begun.wait()
        while True:
            progress.check()
            time.sleep(0.01)

    with pytest.raises(error), open_pool(2, progress) as pool:
        jobs = [pool.submit(work) for _ in range(3)]
        begun.wait()
        raise error
    assert [type(job.exception()) for job in jobs[:2]] == [CancelledError, CancelledError]
    assert jobs[2].cancelled()
    other.check()


def test_all_work_is_done() -> None:
    """Without an exception the pool waits for everything, and a stop of the whole run reaches the work."""
    with open_pool(2, Stoppable(Silent())) as pool:
        jobs = [pool.submit(pow, one, 2) for one in range(5)]
    assert [job.result() for job in jobs] == [0, 1, 4, 9, 16]
    run = Stoppable(Silent())
    run.stop()
    with pytest.raises(CancelledError):
        Stoppable(run).check()
