"""Headers of the last HTTP response that git received; the messages of git contain only the status."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from tasks_lib.retry import retry_after_s

#: Size in bytes at which the trace is emptied, and number of bytes to read from its end.
_MAX_BYTES: Final = 1 << 20
_READ: Final = 64 << 10
#: Lines of a trace. Source: git's http.c, http_trace.
_STATUS: Final = re.compile(r"<= Recv header: HTTP/")
_RETRY_AFTER: Final = re.compile(r"<= Recv header: retry-after:([^\r\n]*)", re.IGNORECASE)


class HttpTrace:
    """A trace of the HTTP requests of git, without bodies; git redacts credentials."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def environ(self) -> Mapping[str, str]:
        """The variables that enable the trace. Source: git(1), GIT_TRACE_CURL."""
        return {"GIT_TRACE_CURL": str(self._path), "GIT_TRACE_CURL_NO_DATA": "1", "GIT_TRACE_REDACT": "1"}

    def bound(self) -> None:
        """Empty the trace if it is too large; git appends to it."""
        if self._path.stat().st_size > _MAX_BYTES:
            os.truncate(self._path, 0)

    def retry_after_s(self) -> float | None:
        """Return the Retry-After of the last response in seconds, None if it has none."""
        text = self._path.read_bytes()[-_READ:].decode("latin-1")
        found = _RETRY_AFTER.search(_STATUS.split(text)[-1])
        return retry_after_s(found[1].strip()) if found else None


@contextlib.contextmanager
def http_trace() -> Iterator[HttpTrace]:
    """Yield an empty trace, which is deleted on exit."""
    with tempfile.NamedTemporaryFile(prefix="doit-fetch-") as file:
        yield HttpTrace(Path(file.name))
