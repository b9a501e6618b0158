"""Small texts of servers: pages with links, answers of an API, signatures beside a file; several at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple, TypeVar

from tasks_lib.context import Context
from tasks_lib.errors import FetchError, HttpStatusError, OfflineError, TransportError
from tasks_lib.network import redacted
from tasks_lib.parallel import open_pool
from tasks_lib.progress import Progress, Stoppable
from tasks_lib.retry import Retry
from tasks_lib.transport import Response
from tasks_lib.transport.urls import safe_origin

_NONE: Final[Mapping[str, str]] = {}
#: Seconds for all attempts at one page.
_TOTAL_S: Final = 60.0


class Page(NamedTuple):
    """A text: `url` has no secrets and is where it was in the end; `links` is the header that names further pages."""

    url: str
    text: str
    kind: str = ""
    links: str = ""


class Probe(NamedTuple):
    """What a server says about a file: where it is in the end, where it moved to for good, its media type and size."""

    url: str
    moved: str
    kind: str
    size: int


Done = TypeVar("Done")


class Pages:
    """Requests of one run; several threads may use it."""

    def __init__(self, context: Context, progress: Progress) -> None:
        self._context, self._progress = context, progress
        self._limited: dict[str, TransportError] = {}  # origin -> why it is not asked again in this run

    def get(self, url: str, *, limit: int, headers: Mapping[str, str] = _NONE) -> Page:
        """Return the text at a URL, with the retries of every download.

        Raises:
            OfflineError: the network is off.
            TransportError: no answer, an error status, or more than `limit` bytes.
            CancelledError: the run was asked to stop.
        """
        return self._persist(url, lambda ends: self._once(url, limit, headers, ends))

    def probe(self, url: str, *, size: int, headers: Mapping[str, str] = _NONE) -> Probe:
        """Ask for the first byte of a file of `size` bytes; return what the response says about it.

        Raises:
            OfflineError, TransportError, CancelledError: as `get`; a status of 206 is a response for another size.
        """

        def act(ends: float) -> Probe:
            transport, check = self._context.transport, self._progress.check
            with transport.open(url, headers=headers, size=size, stop=min(1, size), ends=ends, check=check) as response:
                return Probe(
                    response.url, response.moved, response.kind, response.length if response.status != 206 else size
                )

        return self._persist(url, act)

    def _persist(self, url: str, act: Callable[[float], Done]) -> Done:
        """Return what `act` returns until the time it is given, with retries."""
        self._require(url)
        origin = str(safe_origin(url))
        retry = Retry(self._context.settings.policy, _TOTAL_S)
        while True:
            try:
                return act(retry.begin())
            except TransportError as error:
                if isinstance(error, HttpStatusError) and error.limited_until_s is not None:
                    self._limited[origin] = _limit_error(origin, error.limited_until_s)
                    raise self._limited[origin] from error
                if not retry.again(error, self._progress, redacted(url)):
                    raise

    def _require(self, url: str) -> None:
        """Check that a URL may be asked.

        Raises:
            OfflineError, TransportError: as `get`.
        """
        if self._context.settings.policy.network == "off":
            raise OfflineError("the network is off", hint="run once without offline=1")
        origin = safe_origin(url)
        if reason := self._context.transport.refusal(origin.host):
            raise TransportError(reason, hint="allow the host in mirrors.yml, or use another URL")
        if str(origin) in self._limited:
            raise self._limited[str(origin)]

    def _once(self, url: str, limit: int, headers: Mapping[str, str], ends: float) -> Page:
        check = self._progress.check
        with self._context.transport.open(url, headers=headers, size=-1, ends=ends, check=check) as response:
            body = _read(response, limit)
            links = response.headers.get("Link", "")
            return Page(response.url, body.decode("utf-8", "replace"), response.kind, links[:4096])


def _read(response: Response, limit: int) -> bytes:
    body = bytearray()
    for chunk in response.chunks(limit + 1):
        body += chunk
    if len(body) > limit:
        raise TransportError(f"the answer has more than {limit} bytes", hint="use a URL with a shorter answer")
    if response.broken:
        raise TransportError(f"the connection ended after {len(body)} bytes", hint="run again later", transient=True)
    if response.encoding:
        message = f"the answer is encoded as {response.encoding[:20]!r}, which was not requested"
        raise TransportError(message, hint="let the server send the file as it is, or use another URL")
    return bytes(body)


def _limit_error(origin: str, until_s: float) -> TransportError:
    """Return the error of an API whose limit is used up."""
    when = ""
    if 0 < until_s - time.time() < 7 * 24 * 3600:
        when = f" until {datetime.fromtimestamp(until_s, UTC):%H:%M} UTC"
    return TransportError(
        f"{origin}: the rate limit of the API is used up{when}", hint="set GITHUB_TOKEN, or run again later"
    )


#: Look-ups at a time.
_CONCURRENT: Final = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


def describe_failure(error: FetchError) -> str:
    """Return the reason of a failed look-up, and its next step, in one line."""
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip())


def map_concurrently(act: Callable[[Item], Result], items: Sequence[Item], progress: Stoppable) -> list[Result]:
    """Return what `act` returns for each item, in their order.

    Raises:
        Exception: any exception that `act` raises; the other calls are stopped.
    """
    if len(items) < 2:
        return [act(item) for item in items]
    with open_pool(min(_CONCURRENT, len(items)), progress) as pool:
        futures = [pool.submit(act, item) for item in items]
        return [future.result() for future in futures]
