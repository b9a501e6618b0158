"""Answers of upstream that the cache keeps for a while, such as the tags of a repository."""

from __future__ import annotations

import contextlib
import hashlib
import stat
import time
from pathlib import Path
from typing import Final

from tasks_lib.fs.atomic import write_best_effort

#: Bytes of one answer, and seconds after which it is removed.
_MAX_BYTES: Final = 16 << 20
_KEEP_S: Final = 24 * 3600


class Lookups:
    """Answers by key in one directory; a lost, damaged or old one is asked again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def get(self, key: str, max_age_s: float) -> bytes | None:
        """Return the answer for a key, None if there is none that is at most `max_age_s` seconds old."""
        path = self._path(key)
        with contextlib.suppress(OSError):
            status = path.lstat()
            fresh = 0 <= time.time() - status.st_mtime <= max_age_s
            if fresh and stat.S_ISREG(status.st_mode) and status.st_size <= _MAX_BYTES:
                return path.read_bytes()
        return None

    def put(self, key: str, answer: bytes) -> None:
        """Keep an answer if possible, and remove the old ones."""
        if len(answer) > _MAX_BYTES:
            return
        write_best_effort(self._path(key), answer)
        oldest = time.time() - _KEEP_S
        with contextlib.suppress(OSError):
            for path in self._directory.iterdir():
                if path.lstat().st_mtime < oldest:
                    path.unlink()

    def _path(self, key: str) -> Path:
        return self._directory / hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
