"""Addresses of stores: the URLs of the setting `store`. Pure: no I/O."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final
from urllib.parse import unquote, urlsplit

from tasks_lib.errors import SettingError
from tasks_lib.named import NamedTuple
from tasks_lib.network import literal_addresses

#: Schemes of stores, in the order of the documentation.
SCHEMES: Final = ("https", "http", "s3", "gs", "az", "file", "taskcluster+https", "taskcluster+http")
#: The value that switches off the stores of pyproject.toml.
NO_STORES: Final = "none"
#: Most stores of one run.
MAX_STORES: Final = 8
_EXPECTED: Final = (
    "expected https://HOST/PREFIX, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, file:///DIRECTORY or"
    " taskcluster+https://ROOT/TRUST-DOMAIN/LEVEL"
)
_SECRET_HINT: Final = "give the credential as FETCH_STORE_TOKEN, in netrc, or in the environment of the cloud"
#: Characters of a URL: no blanks, controls or quotes. Source: RFC 3986 section 2.
_CHARACTERS: Final = r"[A-Za-z0-9._~:/\[\]!$&'()*+;=%-]+"


class StoreAddress(NamedTuple):
    """The address of one store: `host` is the bucket or container of a cloud store; `path` has no slash at its end."""

    scheme: str
    host: str
    port: int
    path: str
    #: The name in messages, if the host alone does not tell it from another store of the same setting.
    label: str = ""

    @property
    def url(self) -> str:
        """The URL without a slash at its end; an item is at `url`/KEY."""
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def authority(self) -> str:
        """`host` or `host:port`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else host

    @property
    def name(self) -> str:
        """The name in messages: the host, or what a cloud store or a directory is called."""
        return self.label or self.authority if self.scheme in ("https", "http") else self.url

    @property
    def directory(self) -> str:
        """The path of a `file:` store."""
        return unquote(self.path, errors="surrogateescape") or "/"

    @property
    def has_records(self) -> bool:
        """Whether results have records: Taskcluster has only the artifacts themselves."""
        return not self.scheme.startswith("taskcluster+")

    @property
    def is_bucket(self) -> bool:
        """Whether it is a bucket or container of a cloud."""
        return self.scheme in ("s3", "gs", "az")

    @property
    def is_private(self) -> bool:
        """Whether a credential may be sent: over TLS, or to this machine."""
        return self.scheme not in ("http", "taskcluster+http") or any(
            address.is_loopback for address in literal_addresses(self.host)
        )


def parse_stores(text: str) -> tuple[StoreAddress, ...]:
    """Return the addresses in a comma-separated list, without its repetitions; none for the word `none`.

    Raises:
        SettingError: a URL is invalid; the message does not quote it, because it may contain a credential.
    """
    given = [one.strip() for one in text.split(",") if one.strip()] if text.strip() != NO_STORES else []
    if len(given) > MAX_STORES:
        raise SettingError(f"expected at most {MAX_STORES} stores, got {len(given)}", hint="leave some out")
    addresses = [
        _parse(one, f"store {number}" if len(given) > 1 else "the store") for number, one in enumerate(given, 1)
    ]
    names = Counter(one.name for one in dict.fromkeys(addresses))
    return tuple(one._replace(label=one.url if names[one.name] > 1 else "") for one in dict.fromkeys(addresses))


def _parse(url: str, what: str) -> StoreAddress:
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port or 0
    except ValueError as error:
        raise SettingError(f"the URL of {what} is invalid", hint=_EXPECTED) from error
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        raise SettingError(f"the URL of {what} contains a user name or password", hint=_SECRET_HINT)
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise SettingError(f"the URL of {what} contains a query or fragment", hint=_SECRET_HINT)
    address = StoreAddress(parts.scheme.lower(), host, port, parts.path.rstrip("/"))
    if fault := _fault(address, url):
        raise SettingError(f"the URL of {what} {fault}", hint=_EXPECTED)
    return address


def _fault(address: StoreAddress, url: str) -> str:
    """Return why a URL is not the address of a store, "" if it is."""
    is_file = address.scheme == "file"
    if address.scheme not in SCHEMES:
        return "has an unknown scheme"
    if not is_file and not re.fullmatch(_CHARACTERS, url):
        return "contains a character that a URL does not allow"
    if is_file and (
        address.host not in ("", "localhost") or not address.path.startswith("/") or "\0" in address.directory
    ):
        return "names no absolute directory"
    if not is_file and not address.host:
        return "has no host"
    if any(unquote(part) in (".", "..") for part in address.path.split("/")):
        return "contains `.` or `..`"
    is_taskcluster = address.scheme.startswith("taskcluster+")
    if is_taskcluster and not re.fullmatch(r"(?:/[A-Za-z0-9_.-]+)*/[a-z0-9-]+/[0-9]{1,2}", address.path):
        return "does not end with /TRUST-DOMAIN/LEVEL"
    if address.is_bucket and address.port:
        return "has a port: set the endpoint in the environment of the cloud"
    return ""
