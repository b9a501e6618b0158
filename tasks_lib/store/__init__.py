"""Shared stores: content and results that machines exchange, over HTTP, S3, a directory, or from Taskcluster.

The layout is that of Bazel's HTTP cache: `cas/<sha256>` has content, `ac/<recipe key>` has a record. Content in a store
needs no trust, because a definition pins its digest and every byte is measured. A result needs a trusted signature.
A store is never needed: absence, wrong bytes and outages fall through to the next store, and then to the origin.

`Store` is the interface of one store. `directory` and `http` implement it; `s3` gives `http` its locations. `address`
parses the URLs, `records` signs and checks records, `opening` opens the stores and says which jobs write, `fleet` has
the stores of a run in their order, and `upload` writes in the background.
"""

from __future__ import annotations

import abc
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, BinaryIO, Final, Literal

from tasks_lib.errors import StoreRefusedError
from tasks_lib.named import NamedTuple
from tasks_lib.store.address import StoreAddress, parse_stores

if TYPE_CHECKING:
    from tasks_lib.transport import Transport

__all__ = [
    "EMPTY",
    "MAX_RECORD_BYTES",
    "Method",
    "Store",
    "StoreAddress",
    "StoreLocation",
    "StoredItem",
    "blob_key",
    "parse_stores",
    "record_key",
]

Method = Literal["GET", "HEAD", "PUT", "DELETE"]

#: The key of the empty blob, which every store holds. Source: scale.md section 2 (buildbox-casd asks for it).
EMPTY: Final = "cas/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#: Most bytes of a record. Source: issue 22.
MAX_RECORD_BYTES: Final = 4096


class StoreLocation(NamedTuple):
    """Where one request for an item goes: the URL (http, https or file), and headers for its origin only.

    The URL may contain a signature; the transport redacts the query.
    """

    url: str
    headers: Mapping[str, str] = {}


class StoredItem(NamedTuple):
    """An item of a listing; `modified_s` is in seconds since the epoch."""

    key: str
    size: int
    modified_s: float


class Store(abc.ABC):
    """One store. Its methods are safe to call from any thread, and retry nothing.

    Every method may raise:
        StoreUnavailableError: it does not answer, fails, or has no space.
        StoreRefusedError: it refuses the credentials (401, 403, or the permissions of a directory), or an operation.
        CancelledError: the run was asked to stop.

    `transport` sends requests to its locations, None if they are files. `can_write` and `can_list` say what this kind
    of store can do at all.
    """

    address: StoreAddress
    transport: Transport | None = None
    can_write = True
    can_list = False

    @abc.abstractmethod
    def probe(self) -> None:
        """Check that it answers, whatever it holds, within one connection timeout."""

    @abc.abstractmethod
    def locate(self, method: Method, key: str) -> StoreLocation:
        """Return where to send a request for the item `key` now; large content is read from there."""

    def may_hold(self, key: str) -> bool:
        """Return whether to ask for an item at all; needs no request."""
        del key
        return True

    @abc.abstractmethod
    def find(self, key: str) -> StoredItem | None:
        """Return what the store says about an item, None if it does not hold it; size -1 and time 0 if not known."""

    @abc.abstractmethod
    def read(self, key: str, limit: int) -> bytes | None:
        """Return a small item, None if the store does not hold it; at most `limit` + 1 bytes are read."""

    @abc.abstractmethod
    def put(self, key: str, file: BinaryIO, size: int) -> None:
        """Write an item of `size` bytes from the position of `file`; it becomes visible only when it is complete.

        An existing item is replaced. The caller has verified the bytes.
        """

    def list(self) -> Iterator[StoredItem]:
        """Yield every item whose key begins with `cas/` or `ac/`; only if `can_list`."""
        raise StoreRefusedError(
            f"store {self.address.name}: it cannot list what it holds",
            store=self.address.name,
            hint="prune it with the tools of its server",
        )

    @abc.abstractmethod
    def delete(self, keys: Collection[str]) -> None:
        """Delete items; one that is missing is ignored."""


def blob_key(digest_hex: str) -> str:
    """Return the key of the content with this sha256 digest."""
    return f"cas/{digest_hex}"


def record_key(recipe_key: str) -> str:
    """Return the key of the record of a recipe key."""
    return f"ac/{recipe_key}"
