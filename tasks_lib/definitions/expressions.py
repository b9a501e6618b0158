"""Regular expressions of users, which meet text from outside: their time is linear. Pure: no I/O."""

from __future__ import annotations

import functools
from typing import Any

import re2


@functools.lru_cache(maxsize=256)
def compile_expression(pattern: str) -> Any:
    """Compile a regular expression of RE2, whose time is linear in the length of a text and whose memory is bounded.

    Raises:
        ValueError: it is invalid, too large, or has a construct that has no linear time, such as a lookahead.
    """
    re2.set_fallback_notification(re2.FALLBACK_EXCEPTION)  # never the backtracking matcher of the standard library
    try:
        return re2.compile(pattern)
    except re2.error as error:
        raise ValueError(str(error)) from error
