"""Network settings as value types: deadlines, trust, retries and limits on connections.

They are separate from `transport` and `download`, so that reading the settings does not load the modules that open
sockets: that would take half of the time of `doit list`. Pure: no I/O.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

from tasks_lib.errors import SettingError, escape_text
from tasks_lib.named import NamedTuple

#: Networks that serve no public content, and whose addresses expose secrets on cloud machines.
#: Source: RFC 3927 and RFC 4291 section 2.5.6 (link-local); faults.md section 6, "SSRF-like targets".
LINK_LOCAL: Final = ("169.254.0.0/16", "fe80::/10")
#: Rate in bytes per second from which the default total deadline is computed, and its minimum in seconds.
_LEAST_BPS: Final = 50 * 1024
_LEAST_TOTAL_S: Final = 300.0
#: Longest window for the minimum rate, in seconds.
_MAX_WINDOW_S: Final = 60.0
#: URLs whose text for messages is remembered: those of one run.
_REMEMBERED_URLS: Final = 4096
#: Hosts whose addresses are remembered.
_REMEMBERED_HOSTS: Final = 256
_NONE: Final[Mapping[str, str]] = {}
#: Syntax of a header name, and characters that are not allowed in a value. Source: RFC 9110 sections 5.1 and 5.5.
HEADER_NAME: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_FORBIDDEN: Final = r"[\x00-\x08\x0a-\x1f\x7f]|[^\x00-\xff]"
#: Headers that the transport sets.
_RESERVED: Final = frozenset({"host", "range", "if-range", "content-length", "transfer-encoding", "connection"})


#: Name and value of each header, in order; references in a value are not resolved.
Headers = tuple[tuple[str, str], ...]
#: A dollar in a value: `$$`, `${NAME}`, or an invalid one.
DOLLAR: Final = r"\$(?:\$|\{([A-Z_][A-Z0-9_]*)\})?"


def header_fault(name: str, value: str) -> str:
    """Return why HTTP or the transport does not accept a header, with the next step but without its value; else ""."""
    if not re.fullmatch(HEADER_NAME, name) or not value:
        return "expected a name and a value: write `Name: value`"
    if re.search(_FORBIDDEN, value):
        return "the value contains a character that HTTP does not allow: remove line breaks and control characters"
    return "is set by the transport: remove it" if name.lower() in _RESERVED else ""


def read_secret(environ: Mapping[str, str], variable: str) -> str:
    """Return the value of an environment variable for a header, "" if it is not set; a last line feed is dropped.

    Raises:
        SettingError: HTTP does not allow the value.
    """
    value = environ.get(variable, "").strip()
    if value and header_fault("X", value):
        raise SettingError(
            f"the environment variable {variable} contains a character that HTTP does not allow",
            hint="remove line breaks and control characters from its value",
        )
    return value


def has_reference(headers: Headers) -> bool:
    """Return whether a value refers to a variable of the environment."""
    return any(found[1] for _, value in headers for found in re.finditer(DOLLAR, value))


def resolve_headers(headers: Headers, environ: Mapping[str, str], name: str) -> dict[str, str]:
    """Return the headers to send: `${NAME}` replaced from `environ`, `$$` with a dollar.

    Args:
        headers: of a definition.
        environ: the environment.
        name: of the definition, for messages.

    Raises:
        SettingError: a variable is not set or empty, or HTTP does not allow its value.
    """

    def value_of(header: str, found: re.Match[str]) -> str:
        if not (variable := found[1]):
            return "$"
        value = read_secret(environ, variable)
        if not value:
            message = f"{name}: the environment variable {variable} is not set, but the header {header} needs it"
            raise SettingError(message, hint=f"set {variable}; no server was asked")
        return value

    return {header: re.sub(DOLLAR, partial(value_of, header), text) for header, text in headers}


class HostCredential(NamedTuple):
    """A header for one host, over https only; `env` is the variable that has its value, `port` 0 means any port."""

    host: str
    port: int
    header: str
    env: str

    @property
    def key(self) -> str:
        """The name of its table in pyproject.toml."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f'[tool.doit-fetch.auth."{host}{f":{self.port}" if self.port else ""}"]'


Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
#: One part of an IPv4 address: decimal, octal or hexadecimal. Source: inet_aton(3).
_PART: Final = r"0x[0-9a-f]{0,8}|0[0-7]{0,11}|[1-9][0-9]{0,9}"
_LOOPBACK: Final = (ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1"))
#: IPv6 networks whose addresses contain an IPv4 address, and the lowest bit of that in the address. Source: RFC 4291
#: sections 2.5.5.1 and 2.5.5.2 (compatible, mapped), RFC 2765 (translated), RFC 6052 and RFC 8215 (NAT64), RFC 3056
#: (6to4), RFC 4380 (Teredo: server; the client is inverted), RFC 5214 (ISATAP, below any prefix).
_EMBEDDING: Final = tuple(
    (ipaddress.IPv6Network(network), bit)
    for network, bit in (
        ("::/96", 0),
        ("::ffff:0:0/96", 0),
        ("::ffff:0:0:0/96", 0),
        ("64:ff9b::/96", 0),
        ("64:ff9b:1::/48", 0),
        ("2002::/16", 80),
        ("2001::/32", 64),
    )
)
_TEREDO: Final = ipaddress.IPv6Network("2001::/32")
_ISATAP: Final = (0x00005EFE, 0x02005EFE)


def parse_address(host: str) -> Address | None:
    """Return the address that the system's resolver reads in `host`, in any spelling; None for a name."""
    text = unquote(host).strip("[]").partition("%")[0].lower().rstrip(".")
    if ":" in text:
        try:
            return ipaddress.IPv6Address(text)
        except ValueError:
            return None
    parts = text.split(".")
    if len(parts) > 4 or not all(re.fullmatch(_PART, part) for part in parts):
        return None
    *first, last = (
        int(part[2:] or "0", 16) if part[:2] == "0x" else int(part, 8 if part[0] == "0" else 10) for part in parts
    )
    if any(number > 0xFF for number in first) or last >= 1 << 8 * (4 - len(first)):
        return None
    return ipaddress.IPv4Address(sum(number << 8 * (3 - at) for at, number in enumerate(first)) + last)


@lru_cache(maxsize=_REMEMBERED_HOSTS)
def reached_by(address: Address) -> frozenset[Address]:
    """Return the address, the IPv4 addresses in it, and for the unspecified address the loopback addresses."""
    found: set[Address] = {address}
    if isinstance(address, ipaddress.IPv6Address):
        for inner in _embedded(address):
            found |= reached_by(inner)
    if address.is_unspecified:  # Linux connects to this machine
        found |= set(_LOOPBACK)
    return frozenset(found)


def _embedded(address: ipaddress.IPv6Address) -> Iterator[ipaddress.IPv4Address]:
    bits = int(address)
    if bits in (0, 1):
        return
    for network, bit in _EMBEDDING:
        if address in network:
            yield ipaddress.IPv4Address(bits >> bit & 0xFFFFFFFF)
    if address in _TEREDO:
        yield ipaddress.IPv4Address(~bits & 0xFFFFFFFF)
    if bits >> 32 & 0xFFFFFFFF in _ISATAP:
        yield ipaddress.IPv4Address(bits & 0xFFFFFFFF)


def is_denied(address: Address, denied: Iterable[Network]) -> bool:
    """Return whether an address, in any of its forms, is in a denied network."""
    forms = reached_by(address)
    return any(form.version == network.version and form in network for network in denied for form in forms)


@lru_cache(maxsize=_REMEMBERED_HOSTS)
def literal_addresses(host: str) -> tuple[Address, ...]:
    """Return the addresses that a host has without a name server. Source: RFC 6761 section 6.3 for localhost."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return _LOOPBACK
    address = parse_address(host)
    return (address,) if address is not None else ()


def format_trust_hint(authorities: str) -> str:
    """Return the hint of an error about a certificate; "" for the authorities of the system."""
    return (
        f"trusted authorities: {escape_text(authorities) or 'those of the system'}; certificates are always verified;"
        " set SSL_CERT_FILE or REQUESTS_CA_BUNDLE to trust another authority"
    )


class TransportSettings(NamedTuple):
    """Deadlines in seconds, the minimum rate in bytes per second, trust, proxies, denied networks and credentials."""

    connect_timeout_s: float = 10.0
    stall_timeout_s: float = 30.0
    min_rate_bps: float = 1024.0
    total_timeout_s: float = 0.0  # 0: derived from the size
    ca_bundle: str = ""
    proxies: Mapping[str, str] = _NONE
    no_proxy: str = ""
    netrc: str = ""
    denied: tuple[str, ...] = LINK_LOCAL
    credentials: tuple[HostCredential, ...] = ()

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


#: A URL without anything unusual: scheme, lower-case host, port, and a path of letters, digits and a few signs. It
#: needs no parser, which is called three times for a download.
PLAIN_URL: Final = r"(https?)://([a-z0-9](?:[a-z0-9.-]{0,250}[a-z0-9])?)(?::([1-9][0-9]{0,3}|[1-5][0-9]{4}))?((?:/[A-Za-z0-9_.~+-]{1,250}){1,50})"


@lru_cache(maxsize=_REMEMBERED_URLS)
def redacted(url: str) -> str:
    """Return `url` for a message, without credentials and query (the query of presigned URLs is secret)."""
    if re.fullmatch(PLAIN_URL, url):
        return url
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        host = f"[{host}]" if ":" in host else host
        netloc = f"{host}:{parts.port}" if parts.port else host
    except ValueError:
        return "(unreadable URL)"
    return escape_text(urlunsplit((parts.scheme, netloc, parts.path, "..." if parts.query else "", "")))
