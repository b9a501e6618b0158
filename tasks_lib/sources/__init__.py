"""Sources: one blob from many places. Order, retries, resume, and a report of every attempt.

A wrong byte is never accepted whoever sent it; a failing source never hides what another one did. Time is bounded for
each source, attempts are bounded, and a host that was found dead costs the next definition nothing.
"""

from tasks_lib.network import Policy
from tasks_lib.sources.obtain import Sources
from tasks_lib.sources.wanted import Provenance, Wanted

__all__ = ["Policy", "Provenance", "Sources", "Wanted"]
