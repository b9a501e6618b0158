"""Content whose digest nobody promised: a signature file, a list of digests, an artifact of a task.

It becomes a blob under the digest that it turns out to have. The same retries and deadlines as in `sources`, but no
resume: without a promise, two answers cannot be put together. Truncation is still noticed, by Content-Length or by the
framing.
"""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Final, NamedTuple

from tasks_lib.cache import Cache, Writer
from tasks_lib.digest import Digest, Integrity
from tasks_lib.download.local_files import open_local, readable
from tasks_lib.errors import (
    AllSourcesFailedError,
    Attempt,
    DigestMismatchError,
    IntegrityError,
    OfflineError,
    SizeMismatchError,
    TransportError,
    escaped,
)
from tasks_lib.network import Policy
from tasks_lib.progress import Progress
from tasks_lib.retry import Retry, rounds
from tasks_lib.transport import CHUNK, Response, Transport, redacted

#: zlib's number for "gzip wrapper, largest window". Source: zlib manual, inflateInit2.
_GZIP: Final = 31
#: Source: RFC 1952 section 2.3.1.
_GZIP_MAGIC: Final = b"\x1f\x8b"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnverifiedRequest:
    """What to ask for, and all that is known about it.

    `urls` are in order of preference; `headers` go to the first one only; `limit` bounds the bytes, compressed or not;
    `size` (-1: unknown) and `digest` are of the content after a gzip that the server applied was undone.
    """

    name: str
    urls: tuple[str, ...]
    limit: int
    headers: Mapping[str, str] = field(default_factory=dict)
    size: int = -1
    digest: Digest | None = None


class _Place(NamedTuple):
    """One URL that is asked: what is sent there, and its retries."""

    url: str
    headers: Mapping[str, str]
    retry: Retry


class UnverifiedDownloader:
    """Obtains what nobody pinned."""

    def __init__(
        self, store: Cache, transport: Transport, policy: Policy, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._store, self._transport, self._policy, self._sleep = store, transport, policy, sleep

    def obtain(self, asked: UnverifiedRequest, progress: Progress) -> Integrity:
        """Make the store hold what is asked for; return what it is.

        Raises:
            AllSourcesFailedError: no URL gave it; holds every attempt.
            OfflineError: the network is off and no local file gave it.
            StoreUnavailableError: the cache cannot be written.
            CancelledError: the run was asked to stop.
        """
        attempts: list[Attempt] = []
        total_s = self._transport.settings.total_s(asked.size if asked.size >= 0 else asked.limit)
        places = [
            _Place(url, asked.headers if url == asked.urls[0] else {}, Retry(self._policy, total_s, self._sleep))
            for url in asked.urls
        ]
        for number, others in rounds([place.retry for place in places], progress):
            found = self._from_one(asked, places[number], others, attempts, progress)
            if found is not None:
                return found
        raise _failed(asked, attempts)

    def _from_one(
        self, asked: UnverifiedRequest, place: _Place, others: int, attempts: list[Attempt], progress: Progress
    ) -> Integrity | None:
        url = redacted(place.url)
        if not _is_file(place.url) and self._policy.network == "off":
            attempts.append(Attempt(url, "not asked: offline"))
            return None
        again = True
        while again:
            progress.check()
            try:
                return self._from_file(asked, place.url) if _is_file(place.url) else self._once(asked, place, progress)
            except IntegrityError as error:
                failure: IntegrityError | TransportError = error
                again = not _is_file(place.url) and place.retry.once_more()
            except TransportError as error:
                failure = error
                again = place.retry.again(error, progress, url, others)
            attempts.append(Attempt(url, failure.message))
        return None

    def _from_file(self, asked: UnverifiedRequest, url: str) -> Integrity:
        with readable(), open_local(url) as file, self._store.writer() as writer:
            _copy(file, writer, asked.limit)
            return _committed(writer, asked)

    def _once(self, asked: UnverifiedRequest, place: _Place, progress: Progress) -> Integrity:
        progress.phase("connect", url=redacted(place.url))
        with (
            self._transport.open(
                place.url, headers=place.headers, size=-1, ends=place.retry.begin(), check=progress.check
            ) as response,
            self._store.writer() as writer,
        ):
            encoded = response.encoding in ("gzip", "x-gzip")
            length = _announced(response)
            if asked.size >= 0 and length >= 0 and not encoded and length != asked.size:
                cache = escaped(response.headers.get("x-cache-status", "")[:40])
                known = f" (x-cache-status: {cache})" if cache else ""
                raise TransportError(f"expected {asked.size} bytes, but the server announces {length}{known}")
            progress.phase("body", url=response.url, **({"total": length} if length >= 0 else {}))
            pieces = _bounded(_whole(response, length, progress), asked.limit)
            if encoded:
                return self._decoded(asked, place.url, pieces)
            for piece in pieces:
                writer.write(piece)
            return _committed(writer, asked)

    def _decoded(self, asked: UnverifiedRequest, url: str, pieces: Iterator[bytes]) -> Integrity:
        """Keep the content with or without the gzip that the server says it applied: what was promised decides.

        Without a promise the gzip is undone, unless the URL itself says `.gz`. Source: fetch-content, section 1.1 of
        the contract.
        """
        with self._store.temporary() as spool:
            start = b""
            for piece in pieces:
                start = start or piece[:2]
                spool.write(piece)
            named = url.endswith(".gz")
            choices = ["as it came", "decoded"] if named or start != _GZIP_MAGIC else ["decoded", "as it came"]
            if asked.digest is not None:
                with contextlib.suppress(IntegrityError):
                    return self._kept(spool, choices[0], asked)
                choices.reverse()
            return self._kept(spool, choices[0], asked)

    def _kept(self, spool: BinaryIO, choice: str, asked: UnverifiedRequest) -> Integrity:
        spool.seek(0)
        content = _gunzipped(spool) if choice == "decoded" else iter(lambda: spool.read(CHUNK), b"")
        with self._store.writer() as writer:
            for piece in _bounded(content, asked.limit):
                writer.write(piece)
            return _committed(writer, asked)


def _is_file(url: str) -> bool:
    return url.lower().startswith("file:")


def _announced(response: Response) -> int:
    """Return Content-Length, -1 for none."""
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdigit() and len(text) < 20 and "Transfer-Encoding" not in response.headers else -1


def _whole(response: Response, length: int, progress: Progress) -> Iterator[bytes]:
    """Yield the body.

    Raises:
        TransportError: it ended too early.
    """
    arrived = 0
    for chunk in response.chunks(1 << 62):
        arrived += len(chunk)
        progress.advance(len(chunk))
        progress.check()
        yield chunk
    if response.broken or 0 <= length != arrived:
        of = f" of {length}" if length >= 0 else ""
        raise TransportError(f"the connection ended after {arrived}{of} bytes", transient=True)


def _bounded(pieces: Iterator[bytes], limit: int) -> Iterator[bytes]:
    """Yield `pieces` while they stay within `limit` bytes.

    Raises:
        IntegrityError: there is more.
    """
    for piece in pieces:
        limit -= len(piece)
        if limit < 0:
            raise IntegrityError("it is larger than the limit for it")
        yield piece


def _gunzipped(spool: BinaryIO) -> Iterator[bytes]:
    """Yield what a gzip stream of one or more members holds, to its proven end.

    Raises:
        IntegrityError: damaged or cut short.
    """
    decoder = zlib.decompressobj(_GZIP)
    waiting = spool.read(CHUNK)
    try:
        while waiting:
            yield decoder.decompress(waiting, CHUNK)
            waiting = decoder.unconsumed_tail or decoder.unused_data or spool.read(CHUNK)
            if decoder.eof and waiting:
                decoder = zlib.decompressobj(_GZIP)
    except zlib.error as error:
        raise IntegrityError(f"the server says gzip, but it cannot be decoded: {error}") from error
    if not decoder.eof:
        raise IntegrityError("the server says gzip, but the end is missing")


def _copy(file: BinaryIO, writer: Writer, limit: int) -> None:
    for piece in _bounded(iter(lambda: file.read(CHUNK), b""), limit):
        writer.write(piece)


def _committed(writer: Writer, asked: UnverifiedRequest) -> Integrity:
    """Publish what was written when it is what was promised.

    Raises:
        SizeMismatchError, DigestMismatchError: it is not.
    """
    if asked.size >= 0 and writer.size != asked.size:
        raise SizeMismatchError(
            f"expected {asked.size} bytes, got {writer.size}", expected=asked.size, actual=writer.size
        )
    if asked.digest is not None and (actual := writer.digest) != asked.digest:
        raise DigestMismatchError(
            f"expected {asked.digest}, got {actual}", expected=str(asked.digest), actual=str(actual)
        )
    return writer.commit()


def _failed(asked: UnverifiedRequest, attempts: list[Attempt]) -> AllSourcesFailedError | OfflineError:
    last = {attempt.url: attempt.reason for attempt in attempts}
    if last and all(reason == "not asked: offline" for reason in last.values()):
        return OfflineError(f"{asked.name}: not in the cache, and the network is off", hint="run once without offline")
    told = "; ".join(f"{url}: {reason}" for url, reason in last.items())
    return AllSourcesFailedError(f"cannot obtain {asked.name}\n{told}", attempts=tuple(attempts))
