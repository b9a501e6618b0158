"""Responses: check that a response matches the request, and read its validator and its first words."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from tasks_lib.errors import HttpStatusError, TransportError, escape_text
from tasks_lib.retry import is_transient_status, retry_after_s
from tasks_lib.transport.deadline import Deadline
from tasks_lib.transport.http_connection import CHUNK, RawResponse, Space
from tasks_lib.transport.proxy import LOGIN_HINT

__all__ = ["CHUNK", "ByteRange", "Head", "Response", "check_response"]

#: Status codes of a response with the whole content. Source: RFC 9110 sections 15.3.1 and 15.3.4; RFC 3229 section
#: 10.4.1 (a server may send 226 for the identity instance manipulation).
_WHOLE: Final = frozenset({200, 203, 226})
_BROWSE: Final = "open the URL in a browser"
_NEXT_STEP: Final = {404: _BROWSE, 407: LOGIN_HINT, 410: _BROWSE}
#: Status codes of a response that may have only the requested range: `rclone serve s3` 1.75 says 200, and means it by
#: Content-Range.
_PARTIAL: Final = frozenset({200, 206})
#: Characters that are not allowed in header values, and the headers in which they are refused: those that determine
#: which bytes are read. Source: RFC 9110 section 5.5.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_DECISIVE: Final = ("Content-Length", "Transfer-Encoding", "Content-Range", "Content-Encoding", "ETag")
#: Characters of a response quoted in an error, and the bytes read for them.
_QUOTED: Final = 60
_QUOTE_READ: Final = 512
#: A strong validator. Source: RFC 9110 section 8.8.3.
_STRONG: Final = re.compile(r'"[\x21\x23-\x7e]*"')
#: Longest accepted validator, in characters.
_MAX_VALIDATOR: Final = 512


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The requested bytes of a content of `size` bytes: from `start` to `stop` (exclusive)."""

    start: int
    stop: int
    size: int

    @property
    def is_whole(self) -> bool:
        """Whether the whole content is requested, so that no Range header is needed."""
        return self.start == 0 and self.stop == self.size

    @property
    def header(self) -> str:
        """The value of the Range header. Source: RFC 9110 section 14.2."""
        return f"bytes={self.start}-" if self.stop == self.size else f"bytes={self.start}-{self.stop - 1}"


class Head(NamedTuple):
    """The response to a HEAD: status and fields."""

    status: int
    headers: Mapping[str, str]

    @property
    def kind(self) -> str:
        """The media type without parameters, in lower case."""
        return _media_type(self.headers)


@dataclass(slots=True)
class Response:
    """A response whose body has not been read; valid inside `Transport.open`.

    `url` is redacted; `start` is the offset of the body's first byte in the content; `moved` is the redacted target of
    the first redirect that is permanent, "" if there is none.
    """

    url: str
    status: int
    headers: Mapping[str, str]
    start: int
    _raw: RawResponse
    _deadline: Deadline
    moved: str = ""

    @property
    def validator(self) -> str:
        """The strong validator of the content, "" if there is none. Source: RFC 9110 section 8.8.3."""
        etag = self.headers.get("ETag", "")
        return etag if len(etag) <= _MAX_VALIDATOR and _STRONG.fullmatch(etag) else ""

    @property
    def encoding(self) -> str:
        """The content encoding that the server declares, "" for none."""
        encoding = self.headers.get("Content-Encoding", "").strip().lower()
        return "" if encoding == "identity" else encoding

    @property
    def kind(self) -> str:
        """The media type without parameters, in lower case."""
        return _media_type(self.headers)

    @property
    def length(self) -> int:
        """The announced size of the body, -1 if unknown."""
        return self._raw.length

    @property
    def broken(self) -> bool:
        """Whether the body ended before the end of its framing. A known size is a stronger check."""
        return self._raw.broken

    @property
    def waited_s(self) -> float:
        """Seconds spent waiting for the network since the beginning of the body."""
        return self._deadline.total_waited_s

    def receive(self, limit: int, space: Space) -> Iterator[int]:
        """Read the raw body as it arrives, at most `limit` bytes; if the framing is incomplete, set `broken` and end.

        Yield the number of bytes that were put into `space(most)`, the caller's memory for 1 to `most` bytes. Memory
        that is used again keeps the system from mapping new pages for each megabyte.

        Raises:
            StalledError: a deadline passed or the rate was too low.
            TransportError: the connection broke.
            CancelledError: the run was asked to stop.
        """
        self._deadline.reading()
        yield from self._raw.receive(limit, space)

    def chunks(self, limit: int) -> Iterator[bytes]:
        """Yield the raw body in pieces as it arrives, at most `limit` bytes; as `receive`."""
        self._deadline.reading()
        yield from self._raw.body(limit)


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("Content-Type", "").partition(";")[0].strip().lower()


def check_response(response: RawResponse, span: ByteRange, validator: str, deadline: Deadline) -> int:
    """Return the offset at which the body begins: 0, or `span.start` for exactly the requested range.

    Raises:
        HttpStatusError: an error status, or a 206 of another range or version.
        TransportError: a header that determines which bytes are read has control characters.
    """
    fields = () if response.is_plain else _DECISIVE  # a plain head has no control characters
    odd = next((name for name in fields if _CONTROL.search(response.headers.get(name, ""))), None)
    if odd is not None:
        raise TransportError(deadline.describe(f"control characters in the header {odd}"))
    if response.status in _PARTIAL and not span.is_whole:
        misfit = _describe_mismatch(response, span, validator)
        if not misfit:
            return span.start
        if response.status == 206:
            raise HttpStatusError(f"{deadline.host}: requested {span.header}, received {misfit}", status=206)
    if response.status not in _WHOLE:
        status, reason = response.status, escape_text(response.reason[:_QUOTED])
        after_s = retry_after_s(response.headers.get("Retry-After", ""))
        message = f"HTTP {status} {reason}".rstrip() + quote_body(response, deadline)
        raise HttpStatusError(
            message,
            status=status,
            transient=is_transient_status(status, after_s),
            retry_after_s=after_s,
            hint=_NEXT_STEP.get(status, ""),
            limited_until_s=_limited_until_s(response.headers) if status in (403, 429) else None,
        )
    return 0


def _limited_until_s(headers: Mapping[str, str]) -> float | None:
    """Return when the used-up limit of an API ends, 0 if that is unknown, None if no limit is used up.

    Source: GitHub, "Rate limits for the REST API": x-ratelimit-remaining, x-ratelimit-reset.
    """
    if headers.get("X-RateLimit-Remaining", "").strip() != "0":
        return None
    reset = headers.get("X-RateLimit-Reset", "").strip()
    return float(reset) if re.fullmatch("[0-9]{1,12}", reset) else 0.0


def _describe_mismatch(response: RawResponse, span: ByteRange, validator: str) -> str:
    """Return how a 206 differs from the request, "" if it does not. Source: RFC 9110 section 15.3.7."""
    given = response.headers.get("Content-Range", "").strip()
    if given.lower() != f"bytes {span.start}-{span.stop - 1}/{span.size}":
        return f"Content-Range {escape_text(given[:80])!r}"
    if response.length not in (-1, span.stop - span.start):
        return f"a length of {response.length} bytes"
    etag = response.headers.get("ETag", "").strip()
    if etag and validator and etag != validator:
        return f"another version, {escape_text(etag[:60])}"
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    return "" if encoding in ("", "identity") else f"Content-Encoding {escape_text(encoding[:40])}"


def quote_body(response: RawResponse, deadline: Deadline) -> str:
    """Return a quote of the beginning of a text response, "" for other media types. It exposes login pages."""
    kind = _media_type(response.headers)
    if not (kind.startswith("text/") or kind.endswith(("json", "xml"))):
        return ""
    start = b""
    deadline.begin_short_read()
    with contextlib.suppress(TransportError):
        for piece in response.body(_QUOTE_READ):
            start += piece
    words = " ".join(start.decode("utf-8", "replace").split())
    return f"; {escape_text(kind[:40])} beginning with {escape_text(words[:_QUOTED])!r}"
