"""The context of a run: what its steps share is one object, however many threads ask for it first."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tasks_lib.context import Context
from tasks_lib.settings import Settings


def test_threads_share_one_of_each(tmp_path: Path) -> None:
    """Sixteen threads that ask at once get one object; functools.cached_property computes twice since Python 3.12."""
    for number in range(20):
        settings = Settings.parse(variables={"cache": str(tmp_path / str(number))}, environ={})
        context, barrier = Context(settings, {}), threading.Barrier(16)

        def ask(context: Context = context, barrier: threading.Barrier = barrier) -> object:
            barrier.wait()
            return context.sources

        with ThreadPoolExecutor(16) as pool:
            assert len({id(one) for one in pool.map(lambda _, ask=ask: ask(), range(16))}) == 1
