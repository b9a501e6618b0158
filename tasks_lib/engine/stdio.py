"""Thread-local stdout and stderr, so that an action captures only its own output.

doit replaces `sys.stdout` while a Python action runs. With several actions at once, each would write to the replacement
of another one, and the last one to end would leave a replacement behind that nobody reads.
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
    """Proxy of a stream of `sys`: the replacement that the current thread has set, else the original stream."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.put = stream, threading.local()

    @property
    def now(self) -> Any:
        """Stream of the current thread."""
        return getattr(self.put, "stream", self.stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.now, name)


class _Sys:
    """Replacement of `sys` in doit's modules, with thread-local streams."""

    def __init__(self) -> None:
        self.__dict__["standing"] = {name: _StreamProxy(getattr(sys, name)) for name in ("stdout", "stderr")}

    def __getattr__(self, name: str) -> Any:
        return self.standing[name].now if name in self.standing else getattr(sys, name)

    def __setattr__(self, name: str, stream: Any) -> None:
        self.standing[name].put.stream = stream


@contextlib.contextmanager
def thread_local_stdio() -> Iterator[None]:
    """Make the streams that doit's actions replace thread-local inside this context."""
    if any(isinstance(module.sys, _Sys) for module in _DOIT):
        yield  # nested run inside an action: the outer run restores the streams
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
