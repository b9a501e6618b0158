"""Stores that speak HTTP: any server with Bazel's HTTP cache layout, such as nginx-dav, bazel-remote or a bucket.

Source: Bazel, "Remote caching", HTTP caching protocol: GET, HEAD and PUT of `cas/HASH` and `ac/HASH`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Mapping
from email.utils import parsedate_to_datetime
from typing import BinaryIO, Final, NoReturn

from tasks_lib.errors import StoreError, StoreRefusedError, StoreUnavailableError, TransportError, escape_text
from tasks_lib.network import TransportSettings
from tasks_lib.store import EMPTY, Method, Store, StoreAddress, StoredItem, StoreLocation
from tasks_lib.transport import Answer, Transport

#: Bytes of an answer that are read so that its connection can be used again.
_DRAINED: Final = 16 << 10
_ABSENT: Final = frozenset({404, 410})
_READ: Final = frozenset({200})
#: Source: RFC 9110 section 9.3.4 (200, 201, 204), Bazel's client accepts any 2xx.
_WRITTEN: Final = frozenset({200, 201, 202, 204})
_DENIED: Final = frozenset({401, 403})
#: Statuses of a server that does not accept writes at all. Source: RFC 9110 sections 15.5.6 and 15.6.2.
_READ_ONLY: Final = frozenset({405, 501})
_LOGIN_HINT: Final = "set FETCH_STORE_TOKEN, or add the host to netrc"
_NEXT_STEP: Final = {
    405: "let the server accept PUT, or set store_write=never",
    409: "let the server create directories (nginx: `create_full_put_path on`)",
    413: "let the server accept large bodies (nginx: `client_max_body_size 0`)",
    501: "let the server accept PUT, or set store_write=never",
    507: "free space on the store, for example with `doit store prune`",
}


class HttpStore(Store):
    """A store at an http or https URL; a subclass may compute other locations for the same requests."""

    login_hint: str = _LOGIN_HINT

    def __init__(
        self, address: StoreAddress, transport: Transport, headers: Callable[[], Mapping[str, str]] = dict
    ) -> None:
        """Create the store without asking it; `headers` returns those with the credential when a request is made."""
        self.address, self.transport, self._transport, self._headers = address, transport, transport, headers

    def locate(self, method: Method, key: str) -> StoreLocation:
        """Return where to send a request for the item `key`."""
        del method  # the same for all; a signature covers it
        return StoreLocation(f"{self.address.url}/{key}", self._headers())

    def probe(self) -> None:
        """Check that it answers, whatever it holds, within one connection timeout."""
        answer = self._ask("HEAD", EMPTY, ends=time.monotonic() + self._transport.settings.connect_timeout_s)
        if answer.status not in _READ | _ABSENT:
            self._fail(answer, "HEAD")

    def find(self, key: str) -> StoredItem | None:
        """Return what the store says about an item, None if it does not hold it."""
        answer = self._ask("HEAD", key)
        if answer.status in _ABSENT:
            return None
        if answer.status not in _READ:
            self._fail(answer, "HEAD")
        return StoredItem(key, _length(answer.headers), _modified_s(answer.headers))

    def read(self, key: str, limit: int) -> bytes | None:
        """Return a small item, None if the store does not hold it; at most `limit` + 1 bytes are read."""
        answer = self._ask("GET", key, limit=limit + 1)
        if answer.status in _ABSENT:
            return None
        if answer.status not in _READ:
            self._fail(answer, "GET")
        return answer.content

    def put(self, key: str, file: BinaryIO, size: int) -> None:
        """Write an item of `size` bytes from the position of `file`."""
        answer = self._ask("PUT", key, body=file, size=size)
        if answer.status not in _WRITTEN:
            self._fail(answer, "PUT")

    def delete(self, keys: Collection[str]) -> None:
        """Delete items; one that is missing is ignored."""
        for key in keys:
            answer = self._ask("DELETE", key)
            if answer.status not in _WRITTEN | _ABSENT:
                self._fail(answer, "DELETE")

    def _ask(
        self,
        method: Method,
        key: str,
        *,
        body: BinaryIO | None = None,
        size: int = 0,
        limit: int = _DRAINED,
        ends: float = 0.0,
    ) -> Answer:
        location = self.locate(method, key)
        try:
            return self._transport.send(
                method,
                location.url,
                headers=location.headers,
                body=body,
                size=size,
                limit=limit,
                ends=ends,
            )
        except TransportError as error:
            raise unavailable(self.address.name, error) from error

    def _fail(self, answer: Answer, method: Method) -> NoReturn:
        """Raise the error of a status.

        Raises:
            StoreUnavailableError, StoreRefusedError: always one of them.
        """
        said = f"{method}: HTTP {answer.status} {answer.reason[:60]}"
        raise status_error(self.address.name, answer.status, said, self.login_hint)


def status_error(store: str, status: int, said: str, login_hint: str = _LOGIN_HINT) -> StoreError:
    """Return the error for a status that does not answer the question; `said` is what the server said."""
    message = f"store {store}: {escape_text(said.strip())}"
    if status in _DENIED:
        return StoreRefusedError(message, store=store, hint=login_hint, status=status)
    kind = StoreRefusedError if status in _READ_ONLY else StoreUnavailableError
    return kind(message, store=store, hint=_NEXT_STEP.get(status, ""), status=status)


def unavailable(store: str, error: TransportError) -> StoreUnavailableError:
    """Return the error of a store for a request that got no answer; the message names the store once."""
    reason = error.message.removeprefix(f"{store}: ")
    return StoreUnavailableError(f"store {store}: {reason}", store=store, hint=error.hint)


def store_settings(settings: TransportSettings, address: StoreAddress) -> TransportSettings:
    """Return the settings of the transport of one store.

    An answer may take as long as a connection: a store is asked before the origin, so it must not hold up a run. A
    login of netrc is not sent over plain http to another machine, nor with a signed URL, which is a credential itself.
    """
    return settings._replace(
        stall_timeout_s=min(settings.stall_timeout_s, settings.connect_timeout_s),
        netrc=settings.netrc if address.is_private and not address.is_bucket else "",
    )


def _length(headers: Mapping[str, str]) -> int:
    text = headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1


def _modified_s(headers: Mapping[str, str]) -> float:
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return parsedate_to_datetime(headers.get("Last-Modified", "")).timestamp()
    return 0.0
