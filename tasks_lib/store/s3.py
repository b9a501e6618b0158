"""Buckets as stores: S3 and servers that speak it; Google's and Azure's are untested.

obstore (extra `s3`) signs URLs, and lists; the requests for items go through the transport. Each item is one signed URL
that is valid for an hour. obstore takes the credentials from the environment, or asks the cloud's own address on
link-local for them.
Source: Amazon S3, "Authenticating Requests: Using Query Parameters (AWS Signature Version 4)"; obstore, `sign`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, BinaryIO, Final
from urllib.parse import unquote

import obstore
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from tasks_lib.errors import SettingError, StoreError, StoreRefusedError, StoreUnavailableError, escape_text
from tasks_lib.network import literal_addresses
from tasks_lib.store import Method, StoreAddress, StoredItem, StoreLocation
from tasks_lib.store.http import HttpStore
from tasks_lib.transport import Transport, origin_of

#: How long a signed URL is valid: longer than any request waits for its turn.
_VALID: Final = timedelta(hours=1)
#: Limits of obstore's own requests, which list and obtain credentials.
_RETRIES: Final = 0
_TOTAL: Final = timedelta(seconds=60)
#: Attempts to write an item while the server answers.
_PUTS: Final = 4
_CREDENTIALS_HINT: Final = {
    "s3": "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, or run where the cloud provides a role",
    "gs": "set GOOGLE_SERVICE_ACCOUNT to the path of a service account's key",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
#: A header that Azure needs for an upload. Source: Azure Blob Storage REST, Put Blob.
_PUT_HEADERS: Final = {"az": {"x-ms-blob-type": "BlockBlob"}}
_ENDPOINT_HINT: Final = "check the name of the bucket, and the endpoint in the environment of the cloud"
_DENIED: Final = re.compile(r"status code: (?:400|401|403)\b|PermissionDenied|Unauthenticated")
_DIRECTORIES: Final = ("ac", "cas")


class BucketStore(HttpStore):
    """A store in a bucket or container."""

    can_list = True

    def __init__(self, address: StoreAddress, transport: Transport) -> None:
        """Create the store without asking it.

        Raises:
            SettingError: the variables of obstore are invalid.
        """
        super().__init__(address, transport)
        self.login_hint = _CREDENTIALS_HINT[address.scheme]
        self._bucket = _bucket(address, timedelta(seconds=transport.settings.connect_timeout_s))
        self._lock = threading.Lock()
        self._failure: StoreError | None = None

    def locate(self, method: Method, key: str) -> StoreLocation:
        """Return a signed URL for a request for the item `key`.

        Raises:
            StoreRefusedError: no credentials are found, or the endpoint is plain http on another machine.
        """
        url = self._sign(method, key)
        origin = origin_of(url)
        if origin.scheme != "https" and not any(one.is_loopback for one in literal_addresses(origin.host)):
            raise StoreRefusedError(
                f"store {self.address.name}: a signed URL is not sent to {origin}, because it is plain http",
                store=self.address.name,
                hint="use an https endpoint",
            )
        return StoreLocation(url, _PUT_HEADERS.get(self.address.scheme, {}) if method == "PUT" else {})

    def put(self, key: str, file: BinaryIO, size: int) -> None:
        """Write an item of `size` bytes from the position of `file`.

        Servers that do not serialise two writers of one item answer one of them with an error: `rclone serve s3` 1.75
        with 500, because it removes what it replaces. The item may then be there, or the next attempt succeeds.
        """
        start = file.tell()
        for _ in range(_PUTS - 1):
            try:
                return super().put(key, file, size)
            except StoreUnavailableError as error:
                if not error.status:  # the server did not answer
                    raise
            held = self.find(key)
            if held is not None and held.size == size:
                return None
            file.seek(start)
        return super().put(key, file, size)

    def list(self) -> Iterator[StoredItem]:
        """Yield every item whose key begins with `cas/` or `ac/`."""
        for directory in _DIRECTORIES:
            pages = iter(obstore.list(self._bucket, prefix=directory))
            while page := self._next_page(pages):
                for item in page:
                    yield StoredItem(item["path"], item["size"], item["last_modified"].timestamp())

    def _next_page(self, pages: Iterator[Any]) -> Any:
        try:
            return next(pages, None)
        except BaseError as error:
            raise self._translated(error, "it cannot be listed") from error

    def _sign(self, method: Method, key: str) -> str:
        """Return a signed URL. Only the first thread looks for credentials; a failure is remembered for the run."""
        with self._lock:
            if self._failure is None:
                try:
                    return obstore.sign(self._bucket, method, key, _VALID)
                except BaseError as error:
                    reason = f"store {self.address.name}: no credentials for signing: {_first_line(error)}"
                    self._failure = StoreRefusedError(reason, store=self.address.name, hint=self.login_hint)
            raise self._failure

    def _translated(self, error: Exception, what: str) -> StoreError:
        message = f"store {self.address.name}: {what}: {_first_line(error)}"
        if _DENIED.search(f"{type(error).__name__}: {error}"):
            return StoreRefusedError(message, store=self.address.name, hint=self.login_hint)
        return StoreUnavailableError(message, store=self.address.name, hint=_ENDPOINT_HINT)


def _bucket(address: StoreAddress, connect_timeout: timedelta) -> Any:
    """Return obstore's object for a bucket. It allows http, because `locate` judges where a signed URL is sent."""
    kinds: dict[str, Callable[..., Any]] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
    client: dict[str, Any] = {"allow_http": True, "connect_timeout": connect_timeout, "timeout": _TOTAL}
    try:
        return kinds[address.scheme](
            address.host,
            prefix=unquote(address.path).strip("/") or None,
            client_options=client,
            retry_config={"max_retries": _RETRIES, "retry_timeout": _TOTAL},
        )
    except BaseError as error:
        raise SettingError(
            f"the store {address.url} cannot be used: {_first_line(error)}", hint=_ENDPOINT_HINT
        ) from error


def _first_line(error: Exception) -> str:
    """Return the beginning of a message of obstore, without the queries of URLs: they may be signed."""
    return escape_text(re.sub(r"\?[^ ]*", "?...", str(error).split("\n", 1)[0])[:200])
