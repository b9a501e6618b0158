"""Cache of file hashes, so that a warm run does not read content again.

Internal to the cache. An unchanged fingerprint means that the content of the file is still the hashed content.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from pathlib import Path
from typing import Final

from tasks_lib.fs import files
from tasks_lib.fs.fingerprint import Fingerprint
from tasks_lib.fs.trust import Trust

#: Valid lengths of the hex digest in a line; in a torn line the length differs.
_HEX_LENGTHS: Final = (64, 128)


#: Most hashes that are buffered, and most seconds for which they are buffered while more arrive; a kill loses them.
_BATCH: Final = 128
_BATCH_S: Final = 0.5
#: Number of lookups by text search before the text is parsed; parsing takes as long as forty searches.
_MAX_SEARCHES: Final = 8


class HashCache:
    """Fingerprint -> hex digest: an append-only text file, read once; thread-safe.

    A hash cache with an `upper` one is read-only; new hashes go to `upper`.
    """

    #: Number of lines after which the file is started again; a line has about 130 bytes.
    MAX_LINES: Final = 500_000

    def __init__(self, path: Path, trust: Trust, upper: HashCache | None = None) -> None:
        self._path, self._trust, self._upper = path, trust, upper
        self._known: dict[str, str] | None = None  # fingerprint text -> hex digest
        self._read = 0  # bytes of the file that were read
        self._lines = ""  # text that was read and not parsed yet
        self._glances = 0
        self._lock = threading.Lock()
        self._pending: list[str] = []
        self._written_s = 0.0
        weakref.finalize(self, _write, path, self._pending)

    def _loaded(self) -> dict[str, str]:
        if self._known is None:
            with self._lock:
                if self._known is None:
                    self._known = _parse_lines(self._lines or self._new_lines())
                    self._lines = ""
        return self._known

    def _search_lines(self, key: str) -> str:
        """Search the unparsed lines for a fingerprint; return "" if it is missing or after too many searches."""
        with self._lock:
            self._glances += 1
            if self._glances > _MAX_SEARCHES or self._known is not None:
                return ""
            self._lines = self._lines or self._new_lines()
            at = self._lines.rfind(f" {key}\n")
            hexed = self._lines[self._lines.rfind("\n", 0, at) + 1 : at] if at >= 0 else ""
            return hexed if len(hexed) in _HEX_LENGTHS else ""

    def _new_lines(self) -> str:
        """Return the lines that this and other processes wrote since the last read."""
        with contextlib.suppress(OSError, ValueError), files.open_regular(self._path) as file:
            status = os.fstat(file.fileno())
            if self._trust.objection(status):
                return ""
            file.seek(self._read if status.st_size >= self._read else 0)
            text = files.read_text(file)
            whole = text.rfind("\n") + 1  # another process may be writing the last line
            self._read = file.tell() - len(text) + whole
            return text[:whole]
        return ""

    def get(self, fingerprint: Fingerprint) -> str:
        """Return the hex digest that this or another process recorded for a fingerprint, "" if there is none."""
        key = fingerprint.text
        hexed = self._search_lines(key) if self._known is None else self._known.get(key, "")
        if not hexed:
            known = self._loaded()
            if key not in known:
                with self._lock:
                    known.update(_parse_lines(self._new_lines()))
            hexed = known.get(key, "")
        return hexed or (self._upper.get(fingerprint) if self._upper else "")

    def put(self, fingerprint: Fingerprint, hex_digest: str) -> None:
        """Record the hash of a file; failures to write are ignored."""
        if self._upper is not None:
            self._upper.put(fingerprint, hex_digest)
            return
        known, key = self._loaded(), fingerprint.text
        if known.get(key) == hex_digest:
            return
        with self._lock:
            if len(known) >= self.MAX_LINES:
                known.clear()
                self._pending.clear()
                files.append_text(self._path, "", "anew")
            known[key] = hex_digest
            self._pending.append(f"{hex_digest} {key}\n")
            now = time.monotonic()
            if len(self._pending) >= _BATCH or now - self._written_s > _BATCH_S:
                _write(self._path, self._pending)
                self._written_s = now

    def keep_only(self, hexes: frozenset[str]) -> None:
        """Remove the hashes of all other content."""
        kept = {key: hexed for key, hexed in self._loaded().items() if hexed in hexes}
        if len(kept) < len(self._loaded()):
            with self._lock:
                self._known = kept
                self._pending.clear()
                text = "".join(f"{hexed} {key}\n" for key, hexed in kept.items())
                files.append_text(self._path, text, "anew")


def _parse_lines(lines: str) -> dict[str, str]:
    """Return fingerprint text -> hex digest."""
    words = (line.partition(" ") for line in lines.split("\n"))
    return {key: hexed for hexed, _, key in words if len(hexed) in _HEX_LENGTHS}


def _write(path: Path, pending: list[str]) -> None:
    text = "".join(pending)
    pending.clear()
    if text:
        files.append_text(path, text, "longer")
