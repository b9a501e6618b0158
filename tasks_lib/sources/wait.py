"""Waits: what a failure means for the next attempt, and how long to wait before it. Pure but for the dice."""

from __future__ import annotations

import random
from typing import Final

from tasks_lib.errors import HttpStatusError, TransportError
from tasks_lib.network import Policy

#: Longest wait that a server can ask for, in seconds; who asks for more is not waited for.
#: Source: faults.md section 6, "408/425/429/5xx, Retry-After".
MAX_RETRY_AFTER_S: Final = 120.0
#: Longest backoff in seconds. Source: Nix 2026, 60 s; half of it, since mirrors are asked too.
_MAX_BACKOFF_S: Final = 30.0
#: How much longer the backoff is after "too many requests" and "unavailable". Source: Nix has a base of its own.
_BUSY: Final = frozenset({429, 503})
_BUSY_FACTOR: Final = 5


def asked_s(error: TransportError) -> float:
    """Return the seconds that the server asked to wait, 0 when it did not or asked for too much."""
    asked = error.retry_after_s if isinstance(error, HttpStatusError) else None
    return asked if asked is not None and asked <= MAX_RETRY_AFTER_S else 0.0


def is_busy(error: Exception) -> bool:
    """Whether the server says that it is asked too much."""
    return isinstance(error, HttpStatusError) and error.status in _BUSY


def wait_s(policy: Policy, attempt: int, error: TransportError) -> float:
    """Return seconds to wait after `attempt` (from 0): full jitter above what the server asks for.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015; RFC 9110 section 10.2.3.
    """
    base_s = policy.backoff_s * (_BUSY_FACTOR if is_busy(error) else 1)
    jitter_s = random.uniform(0, min(_MAX_BACKOFF_S, base_s * 2.0 ** min(attempt, 30)))
    floor_s = asked_s(error)
    return min(MAX_RETRY_AFTER_S, floor_s + jitter_s) if floor_s else jitter_s
