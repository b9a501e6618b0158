"""Digests and integrity (size and digest), as value types.

Pure: no I/O. Constructors validate, so that an instance is always valid.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final, Self

import msgspec

#: Length of the hex form by algorithm. Source: FIPS 180-4 section 1 (256 and 512 bit outputs).
HEX_LENGTHS: Final = {"sha256": 64, "sha512": 128}

_HEX: Final = re.compile(r"[0-9a-f]+")


class Digest(msgspec.Struct, frozen=True, order=True):
    """Algorithm and lower-case hex."""

    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        length = HEX_LENGTHS.get(self.algorithm)
        if length is None:
            raise ValueError(f"unknown digest algorithm {self.algorithm!r}")
        if len(self.hex) != length or not _HEX.fullmatch(self.hex):
            raise ValueError(f"invalid {self.algorithm} digest: expected {length} lower-case hex digits")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a digest written as `algorithm:hex`; the hex digits may be upper-case.

        Raises:
            ValueError: unknown algorithm, wrong length, or a character that is not a hex digit.
        """
        algorithm, _, digits = text.partition(":")
        return cls(algorithm, digits.lower())

    @classmethod
    def sha256(cls, hex_digits: str) -> Self:
        """Return a sha256 digest from its hex digits, which may be upper-case.

        Raises:
            ValueError: not exactly 64 hex digits.
        """
        return cls("sha256", hex_digits.lower())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


class Integrity(msgspec.Struct, frozen=True, kw_only=True):
    """The size in bytes and the digest that a definition promises for a blob."""

    size: int
    digest: Digest

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"invalid size {self.size}: expected zero or more bytes")

    @classmethod
    def of(cls, content: bytes) -> Self:
        """Return the integrity of `content`, with its sha256 digest."""
        return cls(size=len(content), digest=Digest.sha256(hashlib.sha256(content).hexdigest()))

    def __str__(self) -> str:
        return f"{self.size} bytes, {self.digest}"
