"""Digests and integrity are born valid."""

import pytest

from tasks_lib.digest import Digest, Integrity

HEX = "ab" * 32


def test_upper_case_is_lowered() -> None:
    """A digest pasted in upper case is the same digest."""
    assert Digest.parse(f"sha256:{HEX.upper()}") == Digest.sha256(HEX)


@pytest.mark.parametrize("text", ["", "sha256:", f"md5:{HEX}", f"sha256:{HEX}0", f"sha256:{HEX[:-1]}g", HEX])
def test_wrong_text_is_refused(text: str) -> None:
    """Only algorithm:hex of the exact length is a digest."""
    with pytest.raises(ValueError, match="digest"):
        Digest.parse(text)


def test_size_is_not_negative() -> None:
    """A negative size cannot be promised."""
    with pytest.raises(ValueError, match="size"):
        Integrity(size=-1, digest=Digest.sha256(HEX))
