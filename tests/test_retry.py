"""What a server asks for with Retry-After."""

from __future__ import annotations

import pytest

from tasks_lib.retry import retry_after_s


@pytest.mark.parametrize(("text", "seconds"), [("0", 0), (" 120 ", 120), ("Sun, 06 Nov 1994 08:49:37 GMT", 0)])
def test_retry_after(text: str, seconds: float) -> None:
    """Seconds and dates are read; a date that is gone by asks for no wait."""
    assert retry_after_s(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5", "1.5", "9" * 400, "Sun, 99 Nov 1994 08:49:37 GMT", "\u0661"])
def test_no_retry_after(text: str) -> None:
    """What is neither a number of seconds nor a date counts as none."""
    assert retry_after_s(text) is None
