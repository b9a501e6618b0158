"""The context of a run creates each shared object once, also when several threads request it first."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tasks_lib.context import Context
from tasks_lib.settings import Settings


def test_threads_share_objects(tmp_path: Path) -> None:
    """Sixteen simultaneous threads get one object; functools.cached_property computes twice since Python 3.12."""
    for number in range(20):
        settings = Settings.parse(variables={"cache": str(tmp_path / str(number))}, environ={})
        context, barrier = Context(settings, {}), threading.Barrier(16)

        def ask(context: Context = context, barrier: threading.Barrier = barrier) -> object:
            barrier.wait()
            return context.sources

        with ThreadPoolExecutor(16) as pool:
            assert len({id(one) for one in pool.map(lambda _, ask=ask: ask(), range(16))}) == 1
