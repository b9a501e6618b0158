"""Standard output and error of each worker: what one action captures is not what another one wrote.

doit puts something in the place of `sys.stdout` while an action in Python runs. With several at once each would write
into what another one put there, and the last to end would leave something behind that nobody reads.
Source: doit 0.37, `PythonAction.execute`, `Stream._get_out_err`; issues #236 and #363.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

from doit import action, task

_DOIT: Any = (action, task)  # doit has no types


class _StreamProxy:
    """Stands for a stream of `sys`: what a thread put in its place, else the stream that was there before."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.put = stream, threading.local()

    @property
    def now(self) -> Any:
        """Where this thread writes to."""
        return getattr(self.put, "stream", self.stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.now, name)


class _Sys:
    """`sys` as doit's actions see it: its streams are those of the thread."""

    def __init__(self) -> None:
        self.__dict__["standing"] = {name: _StreamProxy(getattr(sys, name)) for name in ("stdout", "stderr")}

    def __getattr__(self, name: str) -> Any:
        return self.standing[name].now if name in self.standing else getattr(sys, name)

    def __setattr__(self, name: str, stream: Any) -> None:
        self.standing[name].put.stream = stream


@contextlib.contextmanager
def thread_local_stdio() -> Iterator[None]:
    """Let each thread have streams of its own, as far as doit's actions are concerned."""
    if any(isinstance(module.sys, _Sys) for module in _DOIT):
        yield  # a run within an action of another one, which goes on when this one ends
        return
    own = _Sys()
    before = {name: getattr(sys, name) for name in own.standing}
    for module in _DOIT:
        module.sys = own
    for name, standing in own.standing.items():
        setattr(sys, name, standing)
    try:
        yield
    finally:
        for module in _DOIT:
            module.sys = sys
        for name, stream in before.items():
            setattr(sys, name, stream)
