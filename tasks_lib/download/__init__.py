"""Sources: one blob from many places. Order, retries, resume, and a report of every attempt.

A wrong byte is never accepted whoever sent it; a failing source never hides what another one did. Time is bounded for
each source, attempts are bounded, and a host that was found dead costs the next definition nothing.
"""

from tasks_lib.download.downloader import Downloader
from tasks_lib.download.request import Provenance, Request
from tasks_lib.network import Policy

__all__ = ["Downloader", "Policy", "Provenance", "Request"]
