"""How to deal with the network, as values: deadlines, whom to trust, how stubborn and how polite to be.

They stand apart from `transport` and `sources`, so that settings can be read without loading what opens sockets: half
of the time of `doit list` would go into that. Pure: no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

#: Networks that no public content lives in, and whose addresses give secrets away on cloud machines.
#: Source: RFC 3927 and RFC 4291 section 2.5.6 (link-local); faults.md section 6, "SSRF-like targets".
LINK_LOCAL: Final = ("169.254.0.0/16", "fe80::/10")
#: Least bytes per second of a download for which the default total deadline allows, and its least seconds.
_LEAST_BPS: Final = 50 * 1024
_LEAST_TOTAL_S: Final = 300.0
#: Longest window over which the minimum rate must hold, in seconds.
_MAX_WINDOW_S: Final = 60.0
_NONE: Final[Mapping[str, str]] = {}


class TransportSettings(NamedTuple):
    """Deadlines in seconds, rate in bytes per second, and whom to trust."""

    connect_timeout_s: float = 10.0
    stall_timeout_s: float = 30.0
    min_rate_bps: float = 1024.0
    total_timeout_s: float = 0.0  # 0: from the size
    ca_bundle: str = ""
    proxies: Mapping[str, str] = _NONE
    no_proxy: str = ""
    netrc: str = ""
    denied: tuple[str, ...] = LINK_LOCAL

    @property
    def rate_window_s(self) -> float:
        """Seconds of waiting over which the minimum rate must hold: two stalls, at most a minute."""
        return min(_MAX_WINDOW_S, 2 * self.stall_timeout_s)

    def total_s(self, size: int) -> float:
        """Return the seconds that one source has for `size` bytes (-1: unknown), with all its attempts."""
        return self.total_timeout_s or max(_LEAST_TOTAL_S, size / _LEAST_BPS)


class Policy(NamedTuple):
    """How stubborn and how polite to be; `network` is "on" or "off".

    A file of at least `split_size` bytes that comes slowly is fetched over up to `connections` lines.
    """

    retries: int = 3
    backoff_s: float = 1.0
    jobs_per_host: int = 16
    network: str = "on"
    connections: int = 16
    split_size: int = 16 << 20


class RepositorySettings(NamedTuple):
    """What programs that fetch from repositories are told; of `environ`, the caller's, little is passed on."""

    environ: Mapping[str, str]
    transport: TransportSettings = TransportSettings()
    protocols: tuple[str, ...] = ()
    known_hosts: str = ""
    max_bytes: int = 50 << 30
