"""Exact, counted reads over chunks of bytes, and a strict parser for numbers in tar headers.

Source: POSIX.1-2017 pax, ustar Interchange Format; GNU tar manual "Basic Tar Format" for base-256 numbers.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator
from typing import Final

from tasks_lib.archive.entries import damaged_archive

BLOCK: Final = 512
_NO_NUMBER: Final = -1
_NEGATIVE: Final = -2


class ExactReader:
    """Exact reads over chunks; `held[at:]` is the part of the current chunk that is not read yet."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self.held = b""
        self.at = 0
        self._before = 0  # bytes before `held`

    @property
    def offset(self) -> int:
        """Bytes read so far."""
        return self._before + self.at

    def piece(self, size: int) -> bytes:
        """Return 1 to `size` bytes, b"" at the end."""
        if self.at == len(self.held):
            self._before += self.at
            self.held, self.at = next(self._chunks, b""), 0
        piece = self.held[self.at : self.at + size]
        self.at += len(piece)
        return piece

    def padded(self, size: int) -> bytes:
        """Return exactly `size` bytes, and skip the padding of the last block.

        Raises:
            DamagedArchiveError: the stream ends first.
        """
        at = self.at
        end = at + size + -size % BLOCK
        if end <= len(self.held):
            self.at = end
            return self.held[at : at + size]
        data = self.exact(size)
        self.skip(-size % BLOCK)
        return data

    def exact(self, size: int) -> bytes:
        """Return exactly `size` bytes.

        Raises:
            DamagedArchiveError: the stream ends first.
        """
        piece = self.piece(size)
        if len(piece) == size:
            return piece
        pieces = [piece]
        missing = size - len(piece)
        while missing:
            piece = self.piece(missing)
            if not piece:
                raise damaged_archive("truncated: the archive ends too early", "TRUNCATED", offset=self.offset)
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def skip(self, size: int) -> None:
        """Skip exactly `size` bytes.

        Raises:
            DamagedArchiveError: the stream ends first.
        """
        while size:
            piece = self.piece(size)
            if not piece:
                raise damaged_archive("truncated: the archive ends too early", "TRUNCATED", offset=self.offset)
            size -= len(piece)


def parse_number(text: bytes, what: str, offset: int) -> int:
    """Return the value of an octal or base-256 field.

    Raises:
        DamagedArchiveError: the field is negative or not a number.
    """
    value = decode_number(text)
    if value == _NEGATIVE:
        raise damaged_archive(f"invalid {what}: negative or too large", "NUMBER", offset=offset)
    if value == _NO_NUMBER:
        raise damaged_archive(f"invalid {what}: expected an octal number", "NUMBER", offset=offset)
    return value


@functools.lru_cache(16384)  # modes, checksums and many sizes repeat
def decode_number(text: bytes) -> int:
    """Return the value of a field, or a negative number if it is invalid."""
    digits = text.lstrip(b" ").rstrip(b" \0")
    if digits.isdigit():  # ASCII digits only: no sign, no underscore, no blank inside
        return _NO_NUMBER if b"8" in digits or b"9" in digits else int(digits, 8)
    if text[0] & 0x80:
        value = int.from_bytes(bytes([text[0] & 0x7F]) + text[1:], "big")
        return _NEGATIVE if text[0] & 0x40 or value >= 1 << 63 else value
    return _NO_NUMBER if text.strip(b"\0") else 0


def parse_decimal(text: bytes, what: str, offset: int) -> int:
    """Return the value of a decimal number in an extension header.

    Raises:
        DamagedArchiveError: the text is not a decimal number, or the value is 2^63 or more.
    """
    if not text.isdigit() or len(text) > 19 or int(text) >= 1 << 63:
        raise damaged_archive(f"invalid {what}: expected a decimal number below 2^63", "NUMBER", offset=offset)
    return int(text)


def byte_sum(piece: bytes) -> int:
    """Return the sum of at most 256 bytes: Adler-32's low half is 1 + the sum, below 65,521. Source: RFC 1950 8.2."""
    return (zlib.adler32(piece) & 0xFFFF) - 1
