"""Frame and block headers of a zstd stream, parsed alongside the decoder, which does not report where frames end.

Source: RFC 8878 section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, Final

from tasks_lib.archive.entries import check_trailing, damaged_archive, limit_exceeded, wrong_format
from tasks_lib.limits import Limits

#: Maximum number of bytes read at a time.
_CHUNK: Final = 1 << 20
#: First bytes of a frame and of the skippable frames. Source: RFC 8878 3.1.1, 3.1.2.
_FRAME: Final = b"\x28\xb5\x2f\xfd"
_SKIPPABLE: Final = tuple(bytes([first]) + b"\x2a\x4d\x18" for first in range(0x50, 0x60))
_MAGICS: Final = (_FRAME, *_SKIPPABLE)


class ZstdFraming:
    """File-like object that passes zstd bytes on while it parses their frame and block headers.

    python-zstandard reports neither a truncated stream nor an unknown frame; parsing the headers (RFC 8878 section 3)
    detects both and costs a few operations per 128 KiB block. Bytes that belong to no frame do not reach the decoder:
    zeros after the last frame are padding.
    """

    def __init__(self, source: BinaryIO, limits: Limits) -> None:
        self._source, self._limits = source, limits
        self._need = 4
        self._state: Callable[[bytes], None] = self._magic
        self._held = b""
        self._skip = 0
        self._checksum = 0
        self._frames = 0
        self._back = b""  # an incomplete magic number, which is not passed on yet
        self._after = ""  # what follows the last frame: "zeros" or "garbage", "" while frames follow

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes of the source after checking their headers.

        Raises:
            ArchiveError: the stream is damaged or truncated, or needs too large a window.
        """
        passed = b""
        while not passed:
            chunk = self._source.read(size if 0 < size < _CHUNK else _CHUNK)
            if not chunk:
                self._finish()
                break
            if self._after:
                self._check_after(chunk)
                continue
            data, self._back = self._back + chunk, b""
            passed = data[: self._walk(data)]
        return passed

    def _check_after(self, following: bytes) -> None:
        if self._after == "zeros" and following.count(0) != len(following):
            check_trailing(b"", (), self._limits.trailing)
            self._after = "garbage"

    def _finish(self) -> None:
        """Check that the source ended at the end of a frame, or in padding.

        Raises:
            DamagedArchiveError: the source is empty or truncated, or has other bytes after its last frame.
        """
        if not self._source.tell():
            raise wrong_format(b"")
        if self._skip or self._held or self._state != self._magic or not self._frames:
            raise damaged_archive("truncated in the middle of the compressed data", "TRUNCATED")
        if self._back.strip(b"\0"):
            check_trailing(self._back, _MAGICS, self._limits.trailing)

    def _walk(self, data: bytes) -> int:
        """Parse the headers in `data`; return how many bytes belong to frames."""
        position, end = 0, len(data)
        while position < end:
            if self._skip:
                step = min(self._skip, end - position)
                self._skip -= step
                position += step
                continue
            step = min(self._need - len(self._held), end - position)
            self._held += data[position : position + step]
            position += step
            if len(self._held) == self._need:
                held, self._held = self._held, b""
                self._state(held)
                if self._after:
                    self._check_after(data[position:])
                    return position - len(held)
        if self._state == self._magic:
            self._back, self._held = self._held, b""
        return end - len(self._back)

    def _then(self, need: int, state: Callable[[bytes], None]) -> None:
        self._need, self._state = need, state

    def _magic(self, held: bytes) -> None:
        if held == _FRAME:
            self._then(1, self._descriptor)
        elif held in _SKIPPABLE:
            self._then(4, self._skippable)
        elif not self._frames:
            raise wrong_format(held)
        elif not any(held):
            self._after = "zeros"
        else:
            check_trailing(held, (), self._limits.trailing)
            self._after = "garbage"

    def _skippable(self, held: bytes) -> None:
        self._skip = int.from_bytes(held, "little")
        self._frames += 1
        self._then(4, self._magic)

    def _descriptor(self, held: bytes) -> None:
        flags = held[0]
        single = flags >> 5 & 1
        self._checksum = 4 * (flags >> 2 & 1)
        sizes = (single, 2, 4, 8)[flags >> 6]
        dictionary = (0, 1, 2, 4)[flags & 3]
        if dictionary:
            raise damaged_archive("needs a dictionary that is not part of the archive", "DICTIONARY")
        self._single = single
        rest = (1 - single) + sizes
        self._then(rest, self._header)

    def _header(self, held: bytes) -> None:
        if self._single:
            window = int.from_bytes(held, "little") + (256 if len(held) == 2 else 0)
        else:
            exponent, mantissa = held[0] >> 3, held[0] & 7
            window = (1 << (10 + exponent)) * (8 + mantissa) // 8
        maximum = 1 << self._limits.zstd_max_window_log
        if window > maximum:
            raise limit_exceeded(
                f"needs a window of {window} bytes, more than {maximum} (zstd-max-window-log)",
                "WINDOW",
                least=(window - 1).bit_length(),
            )
        self._then(3, self._block)

    def _block(self, held: bytes) -> None:
        header = int.from_bytes(held, "little")
        last, kind, size = header & 1, header >> 1 & 3, header >> 3
        if kind == 3:
            raise damaged_archive("damaged compressed data: reserved block type", "CORRUPT")
        self._skip = 1 if kind == 1 else size
        if not last:
            self._then(3, self._block)
        elif self._checksum:
            # the checksum follows the block: skip both at once
            self._skip += self._checksum
            self._end()
        else:
            self._end()

    def _end(self) -> None:
        self._frames += 1
        self._then(4, self._magic)
