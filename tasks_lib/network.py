"""Network settings as value types: deadlines, trust, retries and limits on connections.

They are separate from `transport` and `download`, so that reading the settings does not load the modules that open
sockets: that would take half of the time of `doit list`. Pure: no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from tasks_lib.errors import escape_text

#: Networks that serve no public content, and whose addresses expose secrets on cloud machines.
#: Source: RFC 3927 and RFC 4291 section 2.5.6 (link-local); faults.md section 6, "SSRF-like targets".
LINK_LOCAL: Final = ("169.254.0.0/16", "fe80::/10")
#: Rate in bytes per second from which the default total deadline is computed, and its minimum in seconds.
_LEAST_BPS: Final = 50 * 1024
_LEAST_TOTAL_S: Final = 300.0
#: Longest window for the minimum rate, in seconds.
_MAX_WINDOW_S: Final = 60.0
_NONE: Final[Mapping[str, str]] = {}


def format_trust_hint(authorities: str) -> str:
    """Return the hint of an error about a certificate; "" for the authorities of the system."""
    return (
        f"trusted authorities: {escape_text(authorities) or 'those of the system'}; certificates are always verified;"
        " set SSL_CERT_FILE or REQUESTS_CA_BUNDLE to trust another authority"
    )


class TransportSettings(NamedTuple):
    """Deadlines in seconds, the minimum rate in bytes per second, trust, proxies and denied networks."""

    connect_timeout_s: float = 10.0
    stall_timeout_s: float = 30.0
    min_rate_bps: float = 1024.0
    total_timeout_s: float = 0.0  # 0: derived from the size
    ca_bundle: str = ""
    proxies: Mapping[str, str] = _NONE
    no_proxy: str = ""
    netrc: str = ""
    denied: tuple[str, ...] = LINK_LOCAL

    @property
    def rate_window_s(self) -> float:
        """Seconds of waiting over which the minimum rate applies: twice the stall timeout, at most a minute."""
        return min(_MAX_WINDOW_S, 2 * self.stall_timeout_s)

    def total_s(self, size: int) -> float:
        """Return the seconds allowed for all attempts at one source of `size` bytes (-1: unknown)."""
        return self.total_timeout_s or max(_LEAST_TOTAL_S, size / _LEAST_BPS)


class Policy(NamedTuple):
    """Retries and limits on connections; `network` is "on" or "off".

    A slow download of at least `split_size` bytes is split over up to `connections` connections.
    """

    retries: int = 3
    backoff_s: float = 1.0
    jobs_per_host: int = 16
    network: str = "on"
    connections: int = 16
    split_size: int = 16 << 20


class RepositorySettings(NamedTuple):
    """Settings for programs that fetch from repositories. They inherit only a few variables of `environ`."""

    environ: Mapping[str, str]
    transport: TransportSettings = TransportSettings()
    protocols: tuple[str, ...] = ()
    known_hosts: str = ""
    max_bytes: int = 50 << 30
