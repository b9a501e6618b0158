"""Usage records of a cache: the definitions directories that use it, last uses of content, and hit rates.

Internal to the cache. The records serve prune and statistics; a cache that is not writable keeps none.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tasks_lib.fs import files

#: Minimum seconds between recorded uses: before that, the file's own time or the last line is accurate enough.
_SAME_USE_S: Final = 12 * 3600
#: Most uses that are buffered, and most seconds for which they are buffered while more arrive.
_BATCH: Final = 256
_BATCH_S: Final = 5.0
#: Size of the `used` file, in bytes, above which only the last use of each item is kept.
_COMPACT_BYTES: Final = 32 << 20
#: Number of runs whose hit rate is kept.
KEPT_RUNS: Final = 500
#: A line of `used` (key, seconds since the epoch), and of `runs` (the same seconds, hits, misses).
_USE: Final = r"([0-9A-Za-z]{1,128}) ([0-9]{1,18})"
_RUN: Final = r"([0-9]{1,18}) ([0-9]{1,18}) ([0-9]{1,18})"


class Usage:
    """Counts and records the uses of one process; thread-safe."""

    def __init__(self, top: Path, clock: Callable[[], float] = time.time) -> None:
        self._top, self._clock = top, clock
        self._lock = threading.Lock()
        self._recent: dict[str, int] | None = None
        self._seen: set[str] = set()
        self._hits: set[str] = set()
        self._missed: set[str] = set()
        self._pending: list[str] = []
        self._written_s = time.monotonic()
        weakref.finalize(self, _write_run, top, clock, self._hits, self._missed, self._pending)

    def hit(self, hex_digest: str, written_s: float) -> None:
        """Record a cache hit; `written_s` is the time at which the content was written."""
        if hex_digest in self._seen:
            return
        with self._lock:
            self._seen.add(hex_digest)
            if hex_digest not in self._missed:
                self._hits.add(hex_digest)
            self._note(hex_digest, written_s)

    def used(self, key: str, written_s: float) -> None:
        """Record the use of a tree that was written at `written_s`; hit rates count only blobs."""
        with self._lock:
            if key not in self._seen:
                self._seen.add(key)
                self._note(key, written_s)

    def _note(self, name: str, written_s: float) -> None:
        now = self._clock()
        if now - written_s < _SAME_USE_S:
            return
        if self._recent is None:
            self._recent = read_last_uses(self._top)
        if now - self._recent.get(name, 0) < _SAME_USE_S:
            return
        self._pending.append(name)
        if len(self._pending) >= _BATCH or time.monotonic() - self._written_s > _BATCH_S:
            _write_uses(self._top, self._clock, self._pending)
            self._written_s = time.monotonic()

    def miss(self, hex_digest: str) -> None:
        """Record a cache miss."""
        if hex_digest not in self._seen:
            self._missed.add(hex_digest)


def _write_uses(top: Path, clock: Callable[[], float], pending: list[str]) -> None:
    now = int(clock())
    lines = "".join(f"{hexed} {now}\n" for hexed in pending)
    pending.clear()
    files.append_text(top / "used", lines, "longer")
    with contextlib.suppress(OSError):
        if (top / "used").stat().st_size > _COMPACT_BYTES:
            compact(top, read_last_uses(top))


def _write_run(top: Path, clock: Callable[[], float], hits: set[str], missed: set[str], pending: list[str]) -> None:
    if pending:
        _write_uses(top, clock, pending)
    if missed or hits:
        files.append_text(top / "runs", f"{int(clock())} {len(hits)} {len(missed)}\n", "longer")
        recorded = read_runs(top)
        if len(recorded) > 2 * KEPT_RUNS:
            text = "".join(
                f"{when} {hit_count} {miss_count}\n" for when, hit_count, miss_count in recorded[-KEPT_RUNS:]
            )
            files.append_text(top / "runs", text, "anew")


def _read_lines(path: Path, form: str) -> list[re.Match[str]]:
    """Return the lines of this form; a torn line is dropped."""
    with contextlib.suppress(OSError, ValueError), files.open_regular(path) as file:
        return [match for line in files.read_text(file).split("\n") if (match := re.fullmatch(form, line))]
    return []


def read_last_uses(top: Path) -> dict[str, int]:
    """Return hex digest -> last recorded use, in seconds since the epoch, capped at the mtime of the record."""
    path = top / "used"
    try:
        newest = int(path.stat().st_mtime) + 1
    except OSError:
        return {}
    return {match[1]: min(int(match[2]), newest) for match in _read_lines(path, _USE)}


def compact(top: Path, uses: dict[str, int]) -> None:
    """Rewrite the `used` file with only these uses."""
    files.append_text(top / "used", "".join(f"{hexed} {when}\n" for hexed, when in uses.items()), "anew")


def read_runs(top: Path) -> list[tuple[int, int, int]]:
    """Return (time, hits, misses) of each recorded run."""
    return [(int(match[1]), int(match[2]), int(match[3])) for match in _read_lines(top / "runs", _RUN)]


#: Suffix of the file with the configurations with which a definitions directory used the cache. It is beside the note
#: of the directory, because earlier versions take the whole note as the path.
_CONFIGURATIONS: Final = ".configurations"


def record_definitions(top: Path, root: Path, directory: Path, configuration: str) -> None:
    """Record that the definitions in `directory` use this cache with a configuration, which is one line."""
    text = os.fsencode(directory.absolute()).hex()
    note = top / "roots" / hashlib.sha256(text.encode()).hexdigest()[:32]
    with contextlib.suppress(OSError):
        if _read_hex_line(note) != [[text]]:  # a torn note protects nothing: it is written again
            files.make_directory(note.parent, root)
            files.append_text(note, text + "\n", "anew")
        if configuration not in read_configurations(note):
            # a torn line of a killed run ends here
            files.append_text(note.with_suffix(_CONFIGURATIONS), f"\n{configuration}\n", "longer")


def read_configurations(note: Path) -> list[str]:
    """Return the recorded configurations of the definitions directory with this note, one line each."""
    with contextlib.suppress(OSError, ValueError), files.open_regular(note.with_suffix(_CONFIGURATIONS)) as file:
        return [line for line in files.read_text(file).splitlines() if line]
    return []


def read_definitions(top: Path) -> dict[Path, Path]:
    """Return note file -> definitions directory that uses this cache."""
    directories: dict[Path, Path] = {}
    with contextlib.suppress(OSError):
        for note in sorted(path for path in (top / "roots").iterdir() if path.suffix != _CONFIGURATIONS):
            for (text,) in _read_hex_line(note):
                directories[note] = Path(os.fsdecode(bytes.fromhex(text)))
    return directories


def _read_hex_line(note: Path) -> list[list[str]]:
    with contextlib.suppress(OSError, ValueError), files.open_regular(note) as file:
        text = files.read_text(file).strip()
        bytes.fromhex(text)
        return [[text]] if text else []
    return []
