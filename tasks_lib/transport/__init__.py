"""Transport: owns sockets. One attempt at one URL, raw bytes, bounded in time and bytes.

Redirects are followed here, each one judged; secrets stay with the origin they were meant for; bodies are never
decoded; TLS is always verified. Every wait on a socket asks the same `Deadline`, so that nothing a server does or
leaves undone can hold us. No retry: whether to try again is decided in `sources`.
"""

from tasks_lib.network import TransportSettings as TransportSettings  # a part of what this offers
from tasks_lib.transport.client import MAX_REDIRECTS, Transport
from tasks_lib.transport.http_connection import CHUNK
from tasks_lib.transport.response import Response
from tasks_lib.transport.urls import origin_of, redacted

__all__ = [
    "CHUNK",
    "LINK_LOCAL",
    "MAX_REDIRECTS",
    "Response",
    "Transport",
    "TransportSettings",
    "origin_of",
    "redacted",
]
