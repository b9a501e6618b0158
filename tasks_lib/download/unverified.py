"""Download of content without a pinned digest: a signature file, a list of digests, an artifact of a task.

The content becomes a blob under its actual digest. Retries and deadlines are the same as in `downloader`. A broken
download is resumed only at the same URL and with a strong validator: without a digest, nothing else shows whether two
responses belong together. Truncation is detected by Content-Length or by the framing.
"""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Final, Literal, NamedTuple

from tasks_lib.cache import Cache, Writer
from tasks_lib.digest import Digest, Integrity
from tasks_lib.errors import (
    AllSourcesFailedError,
    DigestMismatchError,
    FailedAttempt,
    HttpStatusError,
    IntegrityError,
    OfflineError,
    SizeMismatchError,
    TransportError,
    escape_text,
)
from tasks_lib.fs.local_urls import open_local, translate_read_errors
from tasks_lib.network import Policy
from tasks_lib.progress import Progress
from tasks_lib.retry import Retry, iterate_sources
from tasks_lib.transport import CHUNK, Response, Transport, redacted

#: zlib's window bits for a gzip wrapper with the largest window. Source: zlib manual, inflateInit2.
_GZIP: Final = 31
#: Source: RFC 1952 section 2.3.1.
_GZIP_MAGIC: Final = b"\x1f\x8b"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnverifiedRequest:
    """Content to download, and everything known about it.

    `urls` are in order of preference; `headers` are sent to the first one only; `limit` is the maximum size in bytes,
    both compressed and decompressed; `size` (-1: unknown) and `digest` describe the content without a gzip encoding
    that the server applied; if `encoding` is "keep", they describe the bytes as they are sent, as for `Downloader`. If
    `on_secret` is "refuse", content that repeats a credential of a request is not kept.
    """

    name: str
    urls: tuple[str, ...]
    limit: int
    headers: Mapping[str, str] = field(default_factory=dict)
    size: int = -1
    digest: Digest | None = None
    on_secret: Literal["keep", "refuse"] = "keep"
    encoding: Literal["decode", "keep"] = "decode"


class _Source(NamedTuple):
    """One URL, with the headers to send and its retries."""

    url: str
    headers: Mapping[str, str]
    retry: Retry


class _Arrived:
    """What has arrived from one URL: kept between its attempts if the server has a strong validator for it.

    `total` is the size of the whole content, and `size` what has arrived of it; without a validator they are -1 and 0.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._stack = contextlib.ExitStack()
        self._writer: Writer | None = None
        self._total, self.validator = -1, ""

    def __enter__(self) -> _Arrived:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    @property
    def size(self) -> int:
        size = self._writer.size if self._writer is not None else 0
        return size if self.validator and size < self._total else 0

    @property
    def total(self) -> int:
        return self._total if self.size else -1

    def begin(self, total: int, validator: str) -> Writer:
        """Drop what has arrived, and return the writer of a new content."""
        self.drop()
        self._total, self.validator = total, validator
        self._writer = self._stack.enter_context(self._cache.writer())
        return self._writer

    def resume(self) -> Writer:
        """Return the writer of what has arrived."""
        assert self._writer is not None, "a range is requested only when bytes have arrived"
        return self._writer

    def drop(self) -> None:
        """Drop what has arrived."""
        self._stack.close()
        self._writer, self._total, self.validator = None, -1, ""


class UnverifiedDownloader:
    """Downloads content without a pinned digest."""

    def __init__(
        self, cache: Cache, transport: Transport, policy: Policy, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._cache, self._transport, self._policy, self._sleep = cache, transport, policy, sleep

    def obtain(self, request: UnverifiedRequest, progress: Progress) -> Integrity:
        """Download the content into the cache; return its size and digest.

        Raises:
            AllSourcesFailedError: no URL provided the content; lists every attempt.
            OfflineError: the network is off and no local file has the content.
            CacheUnavailableError: the cache cannot be written.
            CancelledError: the run was request to stop.
        """
        attempts: list[FailedAttempt] = []
        total_s = self._transport.settings.total_s(request.size if request.size >= 0 else request.limit)
        places = [
            _Source(url, request.headers if url == request.urls[0] else {}, Retry(self._policy, total_s, self._sleep))
            for url in request.urls
        ]
        for number, others in iterate_sources([place.retry for place in places], progress):
            found = self._from_one(request, places[number], others, attempts, progress)
            if found is not None:
                return found
        raise _build_failure(request, attempts)

    def _from_one(
        self, request: UnverifiedRequest, place: _Source, others: int, attempts: list[FailedAttempt], progress: Progress
    ) -> Integrity | None:
        with _Arrived(self._cache) as arrived:
            return self._try_one(request, place, others, attempts, arrived, progress)

    def _try_one(
        self,
        request: UnverifiedRequest,
        place: _Source,
        others: int,
        attempts: list[FailedAttempt],
        arrived: _Arrived,
        progress: Progress,
    ) -> Integrity | None:
        url = redacted(place.url)
        if not _is_file(place.url) and self._policy.network == "off":
            attempts.append(FailedAttempt(url, "skipped: offline"))
            return None
        again = True
        while again:
            progress.check()
            try:
                if _is_file(place.url):
                    return self._from_file(request, place.url)
                return self._once(request, place, arrived, progress)
            except IntegrityError as error:
                arrived.drop()
                failure: IntegrityError | TransportError = error
                again = not _is_file(place.url) and place.retry.once_more()
            except TransportError as error:
                failure = error
                is_misfit = isinstance(error, HttpStatusError) and error.status in (206, 416) and arrived.size > 0
                again = is_misfit or place.retry.again(error, progress, url, others)
                if is_misfit:
                    arrived.drop()
            attempts.append(FailedAttempt(url, failure.message))
        return None

    def _from_file(self, request: UnverifiedRequest, url: str) -> Integrity:
        with translate_read_errors(), open_local(url) as file, self._cache.writer() as writer:
            _copy(file, writer, request.limit)
            return _verify_and_commit(writer, request)

    def _once(self, request: UnverifiedRequest, place: _Source, arrived: _Arrived, progress: Progress) -> Integrity:
        progress.phase("connect", url=redacted(place.url))
        with self._transport.open(
            place.url,
            headers=place.headers,
            size=arrived.total,
            offset=arrived.size,
            validator=arrived.validator,
            ends=place.retry.begin(),
            check=progress.check,
        ) as response:
            encoded = request.encoding == "decode" and response.encoding in ("gzip", "x-gzip")
            length = _announced_size(response)
            whole = response.start + length if length >= 0 else -1
            if request.size >= 0 and whole >= 0 and not encoded and whole != request.size:
                cache = escape_text(response.headers.get("x-cache-status", "")[:40])
                known = f" (x-cache-status: {cache})" if cache else ""
                raise TransportError(f"expected {request.size} bytes, but the server announces {whole}{known}")
            progress.phase("body", url=response.url, **({"total": length} if length >= 0 else {}))
            pieces = _limit_size(_read_body(response, length, progress), request.limit - response.start)
            pieces = self._transport.sent.refuse(pieces) if request.on_secret == "refuse" else pieces
            if encoded:
                arrived.drop()
                return self._decoded(request, place.url, pieces)
            writer = arrived.resume() if response.start else arrived.begin(whole, response.validator)
            for piece in pieces:
                writer.write(piece)
            return _verify_and_commit(writer, request)

    def _decoded(self, request: UnverifiedRequest, url: str, pieces: Iterator[bytes]) -> Integrity:
        """Publish the content with or without the gzip that the server declares, whichever matches the digest.

        Without a digest, decompress it unless the URL ends in `.gz`. Source: fetch-content, section 1.1 of the
        contract.
        """
        with self._cache.temporary() as spool:
            start = b""
            for piece in pieces:
                start = start or piece[:2]
                spool.write(piece)
            named = url.endswith(".gz")
            choices = ["raw", "decoded"] if named or start != _GZIP_MAGIC else ["decoded", "raw"]
            if request.digest is not None:
                with contextlib.suppress(IntegrityError):
                    return self._kept(spool, choices[0], request)
                choices.reverse()
            return self._kept(spool, choices[0], request)

    def _kept(self, spool: BinaryIO, choice: str, request: UnverifiedRequest) -> Integrity:
        spool.seek(0)
        content = _gunzip(spool) if choice == "decoded" else iter(lambda: spool.read(CHUNK), b"")
        with self._cache.writer() as writer:
            for piece in _limit_size(content, request.limit):
                writer.write(piece)
            return _verify_and_commit(writer, request)


def _is_file(url: str) -> bool:
    return url.lower().startswith("file:")


def _announced_size(response: Response) -> int:
    """Return Content-Length, -1 if there is none or the body is chunked."""
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdigit() and len(text) < 20 and "Transfer-Encoding" not in response.headers else -1


def _read_body(response: Response, length: int, progress: Progress) -> Iterator[bytes]:
    """Yield the whole body.

    Raises:
        TransportError: the body ended early.
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


def _limit_size(pieces: Iterator[bytes], limit: int) -> Iterator[bytes]:
    """Yield `pieces` while they stay within `limit` bytes.

    Raises:
        IntegrityError: the content is larger.
    """
    for piece in pieces:
        limit -= len(piece)
        if limit < 0:
            raise IntegrityError("the content exceeds its size limit")
        yield piece


def _gunzip(spool: BinaryIO) -> Iterator[bytes]:
    """Yield the decompressed content of a gzip stream of one or more members, up to a verified end.

    Raises:
        IntegrityError: the stream is damaged or truncated.
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
        raise IntegrityError(f"the server declares gzip, but the content cannot be decoded: {error}") from error
    if not decoder.eof:
        raise IntegrityError("the server declares gzip, but the stream is truncated")


def _copy(file: BinaryIO, writer: Writer, limit: int) -> None:
    for piece in _limit_size(iter(lambda: file.read(CHUNK), b""), limit):
        writer.write(piece)


def _verify_and_commit(writer: Writer, request: UnverifiedRequest) -> Integrity:
    """Publish the written content if it has the requested size and digest.

    Raises:
        SizeMismatchError, DigestMismatchError: the content differs.
    """
    if request.size >= 0 and writer.size != request.size:
        raise SizeMismatchError(
            f"expected {request.size} bytes, got {writer.size}", expected=request.size, actual=writer.size
        )
    if request.digest is not None and (actual := writer.digest) != request.digest:
        raise DigestMismatchError(
            f"expected {request.digest}, got {actual}", expected=str(request.digest), actual=str(actual)
        )
    return writer.commit()


def _build_failure(request: UnverifiedRequest, attempts: list[FailedAttempt]) -> AllSourcesFailedError | OfflineError:
    last = {attempt.url: attempt.reason for attempt in attempts}
    if last and all(reason == "skipped: offline" for reason in last.values()):
        return OfflineError(
            f"{request.name}: not in the cache, and the network is off", hint="run once without offline"
        )
    details = "; ".join(f"{url}: {reason}" for url, reason in last.items())
    return AllSourcesFailedError(
        f"cannot download {request.name}\n{details}",
        attempts=tuple(attempts),
        hint="check the URL in a browser, or run again later",
    )
