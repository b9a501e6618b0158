"""Transport: one attempt at one URL over sockets that it owns; raw bytes, bounded in time and size.

The transport follows redirects and checks each of them, sends secrets only to the origin they belong to, never decodes
bodies, and always verifies TLS. Every wait on a socket is bounded by the same `Deadline`, so that no server can block a
run. The transport never retries: `download` and `retry` do that.
"""

from tasks_lib.network import TransportSettings as TransportSettings  # re-exported for callers of this package
from tasks_lib.network import redacted
from tasks_lib.transport.client import MAX_REDIRECTS, Answer, Transport
from tasks_lib.transport.http_connection import CHUNK
from tasks_lib.transport.response import Response
from tasks_lib.transport.urls import origin_of

__all__ = [
    "CHUNK",
    "MAX_REDIRECTS",
    "Answer",
    "Response",
    "Transport",
    "TransportSettings",
    "origin_of",
    "redacted",
]
