"""Headers of the last HTTP answer that git received: its messages name the status only."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from tasks_lib.retry import retry_after_s

#: Bytes of the trace after which it begins anew, and bytes of its end that are read.
_MAX_BYTES: Final = 1 << 20
_READ: Final = 64 << 10
#: Lines of a trace. Source: git's http.c, http_trace.
_STATUS: Final = re.compile(r"<= Recv header: HTTP/")
_RETRY_AFTER: Final = re.compile(r"<= Recv header: retry-after:([^\r\n]*)", re.IGNORECASE)


class HttpTrace:
    """The trace of git's HTTP requests, without bodies; git redacts credentials."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def environ(self) -> Mapping[str, str]:
        """The variables that make git write it. Source: git(1), GIT_TRACE_CURL."""
        return {"GIT_TRACE_CURL": str(self._path), "GIT_TRACE_CURL_NO_DATA": "1", "GIT_TRACE_REDACT": "1"}

    def bound(self) -> None:
        """Empty the trace when it is large; git appends to it."""
        if self._path.stat().st_size > _MAX_BYTES:
            os.truncate(self._path, 0)

    def retry_after_s(self) -> float | None:
        """Return the seconds that the last answer asked to wait, None when it did not."""
        text = self._path.read_bytes()[-_READ:].decode("latin-1")
        found = _RETRY_AFTER.search(_STATUS.split(text)[-1])
        return retry_after_s(found[1].strip()) if found else None


@contextlib.contextmanager
def http_trace() -> Iterator[HttpTrace]:
    """Give an empty trace, which is removed afterwards."""
    with tempfile.NamedTemporaryFile(prefix="doit-fetch-") as file:
        yield HttpTrace(Path(file.name))
