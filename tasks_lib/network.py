"""How to deal with the network, as values: deadlines, whom to trust, how stubborn and how polite to be.

They stand apart from `transport` and `sources`, so that settings can be read without loading what opens sockets: half
of the time of `doit list` would go into that. Pure: no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportSettings:
    """Deadlines in seconds, rate in bytes per second, and whom to trust."""

    connect_timeout_s: float = 10.0
    stall_timeout_s: float = 30.0
    min_rate_bps: float = 1024.0
    total_timeout_s: float = 0.0  # 0: from the size, at least 300 s and 50 KiB/s
    ca_bundle: str = ""
    proxies: Mapping[str, str] = field(default_factory=dict)
    no_proxy: str = ""
    netrc: str = ""
    connections: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How stubborn and how polite to be; `network` is "on" or "off"."""

    retries: int = 3
    backoff_s: float = 1.0
    jobs_per_host: int = 8
    network: str = "on"


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositorySettings:
    """What programs that fetch from repositories are told; of `environ`, the caller's, little is passed on."""

    environ: Mapping[str, str]
    transport: TransportSettings = TransportSettings()
    protocols: tuple[str, ...] = ()
    known_hosts: str = ""
    max_bytes: int = 50 << 30
