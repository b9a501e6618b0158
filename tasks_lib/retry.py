"""Retries: how long a server asks to wait."""

from __future__ import annotations

import contextlib
import re
import time


def retry_after_s(text: str) -> float | None:
    """Return the seconds that a Retry-After header asks to wait, None when it is none.

    Source: RFC 9110 section 10.2.3.
    """
    if re.fullmatch("[0-9]{1,15}", text.strip()):
        return float(text)
    from email.utils import parsedate_to_datetime  # it loads sockets, and dates are rare

    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return None
