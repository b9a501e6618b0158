"""Quarantine: wrong and damaged files, each with its reason; the oldest are removed when it grows too large."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

#: Most files and bytes that are kept: a report quotes the newest, and quarantine must not fill the disk.
MAX_FILES: Final = 32
MAX_BYTES: Final = 1 << 30
_REASON: Final = ".reason"


class Quarantine:
    """A quarantine directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def take(self, path: Path, name: str, reason: str) -> Path:
        """Move the file at `path` to quarantine as `name`, with a note of the reason; return its new path.

        Never raises OSError: a file that cannot be moved is deleted.
        """
        aside = self._directory / name
        with contextlib.suppress(OSError):
            self._directory.mkdir(parents=True, exist_ok=True)
            path.replace(aside)
            if aside.stat().st_size > MAX_BYTES:
                os.truncate(aside, MAX_BYTES)
            aside.with_name(name + _REASON).write_text(f"{reason}\n", "utf-8")
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        self.shrink(aside)
        return aside

    def shrink(self, newest: Path) -> None:
        """Delete the oldest files until count and bytes are within the limits; keep `newest`."""
        kept = []
        with contextlib.suppress(OSError), os.scandir(self._directory) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if not entry.name.endswith(_REASON):
                    kept.append((entry.name != newest.name, -status.st_mtime_ns, status.st_size, Path(entry.path)))
        size = 0
        for files, (_, _, file_size, path) in enumerate(sorted(kept), 1):
            size += file_size
            if files > MAX_FILES or (size > MAX_BYTES and path != newest):
                with contextlib.suppress(OSError):
                    path.unlink()
                    path.with_name(path.name + _REASON).unlink(missing_ok=True)
