"""Digests and integrity validate their fields."""

import pytest

from tasks_lib.digest import Digest, Integrity

HEX = "ab" * 32


def test_upper_case() -> None:
    """A digest in upper case equals the digest in lower case."""
    assert Digest.parse(f"sha256:{HEX.upper()}") == Digest.sha256(HEX)


@pytest.mark.parametrize("text", ["", "sha256:", f"md5:{HEX}", f"sha256:{HEX}0", f"sha256:{HEX[:-1]}g", HEX])
def test_invalid_digest(text: str) -> None:
    """Only algorithm:hex of the exact length is a digest."""
    with pytest.raises(ValueError, match="digest"):
        Digest.parse(text)


def test_negative_size() -> None:
    """A negative size is refused."""
    with pytest.raises(ValueError, match="size"):
        Integrity(size=-1, digest=Digest.sha256(HEX))
