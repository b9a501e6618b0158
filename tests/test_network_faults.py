"""Faults of servers and networks: each case checks outcome, requests, use of the mirror, memory and cache.

The servers of these tests never finish by themselves, so that a missing deadline fails by the timeout of the test.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks_lib.cache import Cache
from tasks_lib.download import Downloader
from tasks_lib.errors import AllSourcesFailedError
from tasks_lib.network import Policy, TransportSettings
from tasks_lib.progress import Silent
from tasks_lib.transport import Transport, http_connection
from tasks_lib.transport.deadline import Deadline
from tasks_lib.transport.deadline_socket import DeadlineSocket
from tests.origin import Answer, Origin, OriginRequest, in_turn, ranged, raw, reply, serving
from tests.test_downloader import BODY, CHUNKED, PINNED, wanted

HEAD = b"HTTP/1.1 200 OK\r\n"
SIZE = len(BODY)
LENGTH = b"Content-Length: %d\r\n" % SIZE
#: Seconds without a byte, and in total, after which a download gives up in these tests.
STALL_S, TOTAL_S = 0.3, 0.9
#: Seconds for one test: far more than a loaded machine needs, and reached only when a deadline is missing.
TIMEOUT_S = 120
#: Largest growth of this process in KiB.
MEMORY_KIB = 60 << 10

pytestmark = pytest.mark.timeout(TIMEOUT_S)


def impatient(store: Cache, **settings: float) -> Downloader:
    deadlines = {"connect_timeout_s": 2.0, "stall_timeout_s": STALL_S, "total_timeout_s": TOTAL_S, **settings}
    return Downloader(store, Transport(TransportSettings(**deadlines)), Policy(backoff_s=0.001))  # type: ignore[arg-type]


def check_cache(store: Cache) -> None:
    """Check that every blob has the digest in its name, and that the directory `tmp` is empty."""
    for blob in (store.root / "v1/blobs").glob("*/*/*"):
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    assert not list((store.root / "v1/tmp").glob("*"))


@contextlib.contextmanager
def bounded_memory() -> Iterator[None]:
    """Fail when the peak of this process's memory grows. Source: proc(5), clear_refs and VmHWM."""

    def peak() -> int:
        status = Path("/proc/self/status").read_text("ascii")
        return int(status.partition("VmHWM:")[2].split()[0])

    Path("/proc/self/clear_refs").write_text("5", "ascii")
    before = peak()
    yield
    assert peak() - before < MEMORY_KIB


# --- answers -----------------------------------------------------------------------------------


def endless(piece: bytes, head: bytes, pause_s: float = 0.0) -> Answer:
    """Return an answer that continues until the client disconnects."""

    def answer(connection: socket.socket, _request: OriginRequest) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(piece)
            time.sleep(pause_s)

    return answer


def mute(head: bytes) -> Answer:
    """Return an answer that stops after `head` and keeps the connection open."""

    def answer(connection: socket.socket, _request: OriginRequest) -> None:
        connection.sendall(head)
        connection.recv(1)

    return answer


def reset(head: bytes) -> Answer:
    """Return an answer that ends with a connection reset."""

    def answer(connection: socket.socket, _request: OriginRequest) -> None:
        connection.sendall(head)
        time.sleep(0.05)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    return answer


def broken_off(*later: Answer) -> Answer:
    """Return an answer that sends 777 bytes of a resumable body first."""
    return in_turn(ranged(BODY, first=777), *later)


def part(span: str, body: bytes, status: str = "206 Partial Content", **headers: str) -> Answer:
    """Return an answer to a range request, with `span` as Content-Range of `body`."""
    return reply(body, status, **({"Content_Range": span} if span else {}), **{"ETag": '"v1"', **headers})


def redirect(location: str, status: str = "302 Found") -> Answer:
    return reply(b"", status, Location=location)


def grow(connection: socket.socket, request: OriginRequest) -> None:
    redirect(f"{request.path}?{'x' * 500}")(connection, request)


def bait(connection: socket.socket, request: OriginRequest) -> None:
    """Refuse requests with credentials, as presigned storage does."""
    known = "authorization" in request.headers
    (reply(b"", "403 Only one authentication") if known else reply(BODY))(connection, request)


REST = BODY[777:]
RIGHT = f"bytes 777-{SIZE - 1}/{SIZE}"
ANOTHER = b"x" + BODY[1:]


@dataclass
class Row:
    """One fault: the answer of the first origin, the most requests that it receives, and a part of the error message."""

    answer: Callable[[], Answer]
    requests: int
    message: str = ""


#: Faults that a download survives, with this many requests and without the mirror.
SURVIVED = {
    "short once": Row(lambda: in_turn(reply(BODY[:500], Content_Length=str(SIZE)), reply(BODY)), 2),
    "no length": Row(lambda: reply(BODY, Content_Length=""), 1),
    "no length, short once": Row(lambda: in_turn(raw(HEAD + b"\r\n" + BODY[:900]), reply(BODY)), 2),
    "no length, connection kept open": Row(lambda: mute(HEAD + b"\r\n" + BODY), 1),
    "longer than declared": Row(lambda: raw(HEAD + LENGTH + b"\r\n" + BODY + b"more"), 1),
    "chunked": Row(lambda: raw(CHUNKED + b"30d40\r\n" + BODY + b"\r\n0\r\n\r\n"), 1),
    "chunk size negative, all bytes there": Row(lambda: raw(CHUNKED + b"-5\r\n" + BODY), 1),
    "chunked, then a blank": Row(lambda: raw(CHUNKED[:-4] + b" \t\r\n\r\n30d40\r\n" + BODY + b"\r\n0\r\n\r\n"), 1),
    "chunk extension": Row(lambda: raw(CHUNKED + b"30d40;a=b\r\n" + BODY + b"\r\n0\r\nX: y\r\n\r\n"), 1),
    "chunked and length": Row(lambda: raw(CHUNKED[:-2] + b"Content-Length: 7\r\n\r\n30d40\r\n" + BODY + b"\r\n0\r\n\r\n"), 1),
    "chunk cut once": Row(lambda: in_turn(raw(CHUNKED + b"400\r\n" + BODY[:100]), reply(BODY)), 2),
    "chunk size bad once": Row(lambda: in_turn(raw(CHUNKED + b"zz\r\n" + BODY[:100]), reply(BODY)), 2),
    "no last chunk once": Row(lambda: in_turn(raw(CHUNKED + b"400\r\n" + BODY[:1024] + b"\r\n"), reply(BODY)), 2),
    "endless trailers": Row(lambda: endless(b"X: y\r\n" * 99, CHUNKED + b"30d40\r\n" + BODY + b"\r\n0\r\n"), 1),
    "same length twice": Row(lambda: raw(HEAD + LENGTH * 2 + b"\r\n" + BODY), 1),
    "gzip claimed, not applied": Row(lambda: reply(BODY, Content_Encoding="gzip"), 1),
    "many encodings claimed": Row(lambda: reply(BODY, Content_Encoding="gzip, " * 99 + "br"), 1),
    "type lies": Row(lambda: reply(BODY, Content_Type="text/html"), 1),
    "disposition": Row(lambda: reply(BODY, Content_Disposition="attachment; filename=../../etc/passwd"), 1),
    "huge cookie": Row(lambda: reply(BODY, Set_Cookie="a=" + "x" * 8000), 1),
    "early hints": Row(
        lambda: raw(
            b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </s.css>; rel=preload\r\n\r\n"
            + HEAD + LENGTH + b"\r\n" + BODY
        ),
        1,
    ),
    "one 100": Row(lambda: raw(b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + LENGTH + b"\r\n" + BODY), 1),
    "folded header": Row(lambda: raw(HEAD + LENGTH + b"X: a\r\n b\r\n\r\n" + BODY), 1),
    "150 headers": Row(lambda: raw(HEAD + LENGTH + b"".join(b"X-%d: y\r\n" % one for one in range(150)) + b"\r\n" + BODY), 1),
    "150 headers, one folded": Row(lambda: raw(HEAD + LENGTH + b"X: a\r\n b\r\n" + b"Y: y\r\n" * 150 + b"\r\n" + BODY), 1),
    "control character in an unused header": Row(lambda: reply(BODY, X_Evil="a\x1b]0;b\x07\x00"), 1),
    "same validator and type twice": Row(lambda: raw(HEAD + LENGTH + b'ETag: "a"\r\nContent-Type: text/html\r\n' * 2 + b"\r\n" + BODY), 1),
    "203": Row(lambda: reply(BODY, "203 Non-Authoritative Information"), 1),
    "226": Row(lambda: reply(BODY, "226 IM Used"), 1),
    "202 twice": Row(lambda: in_turn(*[reply(b"", "202 Accepted")] * 2, reply(BODY)), 3),
    "403 with Retry-After": Row(lambda: in_turn(reply(b"", "403 Slow Down", Retry_After="0"), reply(BODY)), 2),
    "wrong bytes once": Row(lambda: in_turn(reply(ANOTHER), reply(BODY)), 2),
    "408": Row(lambda: in_turn(reply(b"", "408 Timeout"), reply(BODY)), 2),
    "425": Row(lambda: in_turn(reply(b"", "425 Too Early"), reply(BODY)), 2),
    "429 twice": Row(lambda: in_turn(*[reply(b"", "429 Slow Down")] * 2, reply(BODY)), 3),
    "500": Row(lambda: in_turn(reply(b"", "500 X"), reply(BODY)), 2),
    "502": Row(lambda: in_turn(reply(b"", "502 X"), reply(BODY)), 2),
    "503 with a past date": Row(lambda: in_turn(reply(b"", "503 X", Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"), reply(BODY)), 2),
    "503 negative": Row(lambda: in_turn(reply(b"", "503 X", Retry_After="-5"), reply(BODY)), 2),
    "503 text": Row(lambda: in_turn(reply(b"", "503 X", Retry_After="soon"), reply(BODY)), 2),
    "503 beyond numbers": Row(lambda: in_turn(reply(b"", "503 X", Retry_After="9" * 400), reply(BODY)), 2),
    "504": Row(lambda: in_turn(reply(b"", "504 X"), reply(BODY)), 2),
    "closed before the answer": Row(lambda: in_turn(raw(b""), reply(BODY)), 2),
    "closed in the headers": Row(lambda: in_turn(raw(HEAD + b"X"), reply(BODY)), 2),
    "reset before the answer": Row(lambda: in_turn(reset(b""), reply(BODY)), 2),
    "reset in the body": Row(lambda: in_turn(reset(HEAD + LENGTH + b"\r\n" + BODY[:99]), reply(BODY)), 2),
    "resumed": Row(lambda: broken_off(ranged(BODY)), 2),
    "resumed twice": Row(lambda: broken_off(part(RIGHT, REST[:900], Content_Length=str(len(REST))), ranged(BODY)), 3),
    "range ignored": Row(lambda: broken_off(reply(BODY, ETag='"v1"')), 2),
    "range ignored and short": Row(lambda: broken_off(reply(BODY[:800], Content_Length=str(SIZE)), reply(BODY)), 3),
    "range: another offset": Row(lambda: broken_off(part(f"bytes 5-{SIZE - 1}/{SIZE}", BODY[5:]), ranged(BODY)), 3),
    "range: another total": Row(lambda: broken_off(part(f"bytes 777-{SIZE}/{SIZE + 1}", REST + b"x"), ranged(BODY)), 3),
    "range: unknown total": Row(lambda: broken_off(part(f"bytes 777-{SIZE - 1}/*", REST), ranged(BODY)), 3),
    "range: no Content-Range": Row(lambda: broken_off(part("", REST), ranged(BODY)), 3),
    "range: multipart": Row(lambda: broken_off(part("", b"--x", Content_Type="multipart/byteranges; boundary=x"), ranged(BODY)), 3),
    "range: another length": Row(lambda: broken_off(part(RIGHT, REST + b"x"), ranged(BODY)), 3),
    "range: wrong body": Row(lambda: broken_off(part(RIGHT, b"x" * len(REST)), ranged(BODY)), 3),
    "range: encoded": Row(lambda: broken_off(part(RIGHT, REST, Content_Encoding="gzip"), ranged(BODY)), 3),
    "If-Range ignored, object changed": Row(lambda: broken_off(part(RIGHT, b"y" * len(REST), ETag='"v2"'), ranged(BODY)), 3),
    "object changed": Row(lambda: in_turn(ranged(b"old" + BODY[3:], '"v0"', first=777), ranged(BODY)), 2),
    "416": Row(lambda: broken_off(reply(b"", "416 X", Content_Range="bytes */5"), reply(BODY)), 3),
    "weak validator": Row(lambda: in_turn(ranged(BODY, 'W/"v1"', first=777), reply(BODY)), 2),
    "stall once": Row(lambda: in_turn(mute(HEAD + LENGTH + b"\r\n123"), reply(BODY)), 2),
    "stall in the headers once": Row(lambda: in_turn(mute(HEAD + b"X"), reply(BODY)), 2),
    "301 relative": Row(lambda: redirect("b", "301 X"), 2),
    "301, then a blank": Row(lambda: redirect("/b ", "301 X"), 2),
    "302 protocol-relative": Row(lambda: in_turn(lambda c, r: redirect(f"//{r.headers['host']}/b")(c, r)), 2),
    "302 to a name with a blank": Row(lambda: redirect("/b c"), 2),
    "302 twice to one place": Row(lambda: raw(b"HTTP/1.1 302 X\r\nLocation: /b\r\nlocation:  /b \r\nContent-Length: 0\r\n\r\n"), 2),
    "303 to letters of UTF-8": Row(lambda: raw("HTTP/1.1 303 X\r\nLocation: /ä?c\r\nContent-Length: 0\r\n\r\n".encode()), 2),
    "307": Row(lambda: redirect("/b", "307 X"), 2),
    "308 with a query": Row(lambda: redirect("/b?x=1#y", "308 X"), 2),
}  # fmt: skip


@pytest.mark.parametrize("case", SURVIVED)
def test_survived(case: str, origin: Origin, store: Cache) -> None:
    """The expected bytes arrive complete, in bounded time and memory, and the mirror is not used."""
    row = SURVIVED[case]
    origin.answers |= {"/a": row.answer()} | dict.fromkeys(("/b", "/b%20c", "/%C3%A4"), reply(BODY))
    with serving({"/a": reply(BODY)}) as second, bounded_memory():
        patient = impatient(
            store, stall_timeout_s=STALL_S if "stall" in case or "kept" in case or "trailers" in case else 5.0
        )
        silent = "stall" in case
        urls = (f"{origin.url}/a",) if silent else (f"{origin.url}/a", f"{second.url}/a")
        patient.obtain(wanted(*urls), Silent())
        assert not second.requests
    with store.open(PINNED) as file:
        assert file.read() == BODY
    assert len(origin.requests) == row.requests
    check_cache(store)


#: Answers of `SURVIVED` whose head or framing matters, and that a kept connection gives as the second one.
AGAIN = (
    "no length", "longer than declared", "chunked", "chunked and length", "same length twice", "one 100", "early hints",
    "folded header", "150 headers", "control character in an unused header", "203", "500", "closed before the answer",
    "closed in the headers", "reset before the answer", "reset in the body", "stall in the headers once", "301 relative",
)  # fmt: skip


@pytest.mark.parametrize("case", AGAIN)
def test_survived_on_a_kept_connection(case: str, origin: Origin, store: Cache, tmp_path: Path) -> None:
    """A request that repeats the one before it on a kept connection reads every answer as the first one does."""
    row = SURVIVED[case]
    origin.answers |= {"/before": kept(BODY), "/a": row.answer(), "/b": reply(BODY)}
    transport = Transport(TransportSettings(stall_timeout_s=STALL_S if "stall" in case else 5.0))
    policy = Policy(backoff_s=0.001)
    Downloader(Cache(tmp_path / "before"), transport, policy).obtain(wanted(f"{origin.url}/before"), Silent())
    Downloader(store, transport, policy).obtain(wanted(f"{origin.url}/a"), Silent())
    before, first, *_ = origin.requests
    assert (first.path, first.connection, first.headers) == ("/a", before.connection, before.headers)
    with store.open(PINNED) as file:
        assert file.read() == BODY
    assert len(origin.requests) == 1 + row.requests
    check_cache(store)


#: Faults that no retry repairs: a single source fails, and with a mirror the download succeeds.
LOST = {
    "short": Row(lambda: reply(BODY[:500], Content_Length=str(SIZE)), 4, "ended after 500 of 200000 bytes"),
    "no length and short": Row(lambda: raw(HEAD + b"\r\n" + BODY[:900]), 4, "ended after 900 of 200000"),
    "longer than expected": Row(lambda: reply(BODY + b"more"), 1, "announces 200004"),
    "longer, undeclared": Row(lambda: reply(BODY + b"more", Content_Length=""), 1, "more than 200000"),
    "chunk cut": Row(lambda: raw(CHUNKED + b"400\r\n" + BODY[:100]), 4, "ended after 100 of"),
    "stall within a chunk": Row(lambda: mute(CHUNKED + b"400\r\n" + BODY[:100]), 4, "no data for 0.3 s while reading the body after 100"),
    "chunk size bad": Row(lambda: raw(CHUNKED + b"zz\r\n"), 4, "ended after 0 of"),
    "chunk size huge": Row(lambda: raw(CHUNKED + b"f" * 16 + b"\r\n" + b"x" * 100), 4, "ended after 100 of"),
    "chunk size endless": Row(lambda: endless(b"0" * 4096, CHUNKED), 4, "of 200000"),
    "two lengths": Row(lambda: raw(HEAD + LENGTH + b"Content-Length: 7\r\n\r\n" + BODY), 1, "unmatching"),
    "length negative": Row(lambda: reply(BODY, Content_Length="-5"), 1, "Content-Length '-5'"),
    "length no number": Row(lambda: reply(BODY, Content_Length="12abc"), 1, "Content-Length '12abc'"),
    "length 10^15": Row(lambda: endless(b"x" * 65536, HEAD + b"Content-Length: 1000000000000000\r\n\r\n"), 1, "announces 1000000000000000"),
    "infinite body": Row(lambda: endless(b"x" * 65536, HEAD + b"\r\n"), 1, "more than 200000"),
    "gzip applied": Row(lambda: reply(gzip.compress(BODY, mtime=0), Content_Encoding="gzip"), 1, "compressed with gzip"),
    "gzip bomb": Row(lambda: reply(gzip.compress(bytes(30 << 20), mtime=0), Content_Encoding="gzip"), 1, "Content-Encoding gzip"),
    "login page": Row(lambda: reply(b"<!DOCTYPE html><title>Log in</title>", Content_Type="text/html"), 1, 'an HTML page titled "Log in" (HTTP 200 text/html'),
    "login page of the same size": Row(lambda: reply(b"<html>" + b" " * (SIZE - 6)), 2, "an HTML page"),
    "empty": Row(lambda: reply(b""), 1, "an empty response"),
    "204": Row(lambda: reply(b"", "204 No Content"), 1, "HTTP 204"),
    "304": Row(lambda: reply(b"", "304 Not Modified"), 1, "HTTP 304"),
    "unasked 206": Row(lambda: part(f"bytes 0-{SIZE - 1}/{SIZE}", BODY), 1, "HTTP 206"),
    "wrong bytes": Row(lambda: reply(ANOTHER), 2, f"expected {PINNED.digest}, got sha256:{hashlib.sha256(ANOTHER).hexdigest()}"),
    "redirect loop": Row(lambda: redirect("/a"), 11, "more than 10 redirects"),
    "redirect grows": Row(lambda: grow, 11, "more than 10 redirects"),
    "redirect to a file": Row(lambda: redirect("file:///etc/passwd"), 1, "only http and https"),
    "redirect to ftp": Row(lambda: redirect("ftp://h/a"), 1, "only http and https"),
    "redirect to data": Row(lambda: redirect("data:,x"), 1, "only http and https"),
    "redirect with a password": Row(lambda: redirect("http://u:hunter2@127.0.0.1/"), 1, "with credentials"),
    "redirect with a password, unreadable": Row(lambda: redirect("http://u:hunter2@[::1"), 1, "invalid redirect"),
    "redirect with a backslash": Row(lambda: redirect("http:\\\\h\\a"), 1, "invalid redirect"),
    "redirect to no URL": Row(lambda: redirect("http://[::1"), 1, "invalid redirect"),
    "redirect to no port": Row(lambda: redirect("http://h:99999/"), 1, "invalid redirect"),
    "redirect to port 0": Row(lambda: redirect("http://127.0.0.1:0/"), 1, "invalid redirect"),
    "redirect nowhere": Row(lambda: reply(b"", "302 Found"), 1, "invalid redirect"),
    "redirect to two places": Row(lambda: raw(b"HTTP/1.1 302 X\r\nLocation: /b\r\nLocation: /c\r\nContent-Length: 0\r\n\r\n"), 1, "2 different Location headers"),
    "redirect with a control character": Row(lambda: redirect("/b\tc"), 1, "invalid redirect"),
    "202 always": Row(lambda: reply(b"", "202 Accepted"), 4, "HTTP 202 Accepted (4 times)"),
    "401": Row(lambda: reply(b"", "401 Unauthorized", WWW_Authenticate='Basic realm="x"'), 1, "HTTP 401"),
    "403": Row(lambda: reply(b'{"message": "rate limit"}', "403 No", Content_Type="application/json"), 1, "rate limit"),
    "404": Row(lambda: reply(b"gone", "404 Not Found"), 1, "HTTP 404"),
    "410": Row(lambda: reply(b"", "410 Gone"), 1, "HTTP 410"),
    "407": Row(lambda: reply(b"", "407 Proxy"), 1, "HTTP 407"),
    "416 always": Row(lambda: reply(b"", "416 X", Content_Range="bytes */1"), 1, "HTTP 416"),
    "416 after the first": Row(lambda: broken_off(reply(b"", "416 X")), 3, "HTTP 416"),
    "503, to come again tomorrow": Row(lambda: reply(b"", "503 X", Retry_After="86400"), 1, "HTTP 503 X; the server asks to wait 86400 s, but 0."),
    "500 always": Row(lambda: reply(b"", "500 X"), 4, "HTTP 500 X (4 times)"),
    "slow": Row(lambda: endless(b"x", HEAD + LENGTH + b"\r\n", 0.05), 4, "slower than 1024 bytes/s over 0.6 s"),
    "slow headers": Row(lambda: endless(b"X", HEAD, 0.05), 4, "timed out after 0.3 s while waiting for the response"),
    "stall": Row(lambda: mute(HEAD + LENGTH + b"\r\n123"), 4, "no data for 0.3 s while reading the body after 3 bytes"),
    "stall in the headers": Row(lambda: mute(HEAD + b"X: "), 4, "timed out after 0.3 s while waiting for the response"),
    "mute": Row(lambda: mute(b""), 4, "timed out after 0.3 s while waiting for the response"),
    "endless 100": Row(lambda: endless(b"HTTP/1.1 100 Continue\r\n\r\n", b""), 4, "while waiting for the response"),
    "endless 102": Row(lambda: endless(b"HTTP/1.1 102 Processing\r\n\r\n", b""), 4, "while waiting for the response"),
    "closed": Row(lambda: raw(b""), 4, "the server closed the connection while waiting for the response"),
    "reset": Row(lambda: reset(HEAD + LENGTH + b"\r\n" + BODY[:99]), 4, "reset the connection while reading the body after 99"),
    "huge header": Row(lambda: endless(b"x" * 65536, HEAD + b"X: "), 1, "invalid HTTP response"),
    "endless headers": Row(lambda: endless(b"X-A: b\r\n" * 1000, HEAD), 1, "invalid HTTP response"),
    "control characters in a header that is read": Row(lambda: reply(BODY, ETag='"a\x1b"'), 1, "control characters in the header ETag"),
    "5001 headers": Row(lambda: raw(HEAD + b"X: y\r\n" * 5001 + b"\r\n"), 1, "more than 5000 headers"),
    "many long headers": Row(lambda: raw(HEAD + (b"X: " + b"y" * 60_000 + b"\r\n") * 6 + b"\r\n"), 1, "more than 307200 bytes of headers"),
    "garbage status": Row(lambda: raw(b"HTTP/1.1 abc\r\n\r\n"), 1, "invalid HTTP response"),
    "status 999": Row(lambda: raw(b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n"), 1, "HTTP 999"),
    "HTTP 0.9": Row(lambda: raw(b"hello\r\n"), 1, "invalid HTTP response"),
    "HTTP 2 spoken unasked": Row(lambda: raw(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + bytes(18)), 4, "closed the connection"),
    "escapes in the reason": Row(lambda: reply(b"", "404 Not\x1b[31mFound"), 1, "Not\\x1b[31mFound"),
}  # fmt: skip


@pytest.mark.parametrize("case", LOST)
def test_lost(case: str, origin: Origin, store: Cache) -> None:
    """The download fails in bounded time and memory with a printable reason, and nothing of it is cached."""
    row = LOST[case]
    origin.answers |= {"/a": row.answer()}
    with bounded_memory(), pytest.raises(AllSourcesFailedError) as caught:
        impatient(store).obtain(wanted(f"{origin.url}/a"), Silent())
    text = str(caught.value)
    assert row.message in text
    assert "hunter2" not in text
    assert all(line.isprintable() for line in text.splitlines())
    assert len(text.partition("\n    sha256:")[0].splitlines()) <= 3
    assert 0 < len(origin.requests) <= row.requests
    assert not store.has(PINNED)
    check_cache(store)


@pytest.mark.parametrize("case", LOST)
def test_lost_but_mirrored(case: str, origin: Origin, store: Cache) -> None:
    """Whatever one origin does, the download from the mirror succeeds, in one or two requests."""
    row = LOST[case]
    origin.answers |= {"/a": row.answer()}
    with serving({"/a": ranged(BODY)}) as second:
        impatient(store).obtain(wanted(f"{origin.url}/a", f"{second.url}/a"), Silent())
        assert len(second.requests) in (1, 2)
    assert store.has(PINNED)
    check_cache(store)


@pytest.mark.parametrize("target", ["/a%2fb%c3%b6?s=a%2fb%2B", "/%7euser/%41;x=(1)?a%3Db=%26"])
def test_escapes_are_sent_as_written(target: str, origin: Origin, store: Cache) -> None:
    """Percent escapes of the URL and of a Location reach the server unchanged."""
    path = target.partition("?")[0]
    origin.answers |= {path: in_turn(redirect(f"/b{target}"), redirect("/c")), f"/b{path}": reply(BODY)}
    impatient(store).obtain(wanted(f"{origin.url}{target}"), Silent())
    assert origin.paths() == [target, f"/b{target}"]


def test_a_hang_up_is_answered_by_the_mirror_at_once(origin: Origin, store: Cache) -> None:
    """The mirror is tried before the retries of a source that does not answer."""
    origin.answers["/a"] = mute(b"")
    with serving({"/a": reply(BODY)}) as second:
        impatient(store).obtain(wanted(f"{origin.url}/a", f"{second.url}/a"), Silent())
    assert len(origin.requests) == 1


def test_a_login_page_keeps_the_partial_download(origin: Origin, store: Cache) -> None:
    """The partial download from one source survives a login page and is resumed from another source."""
    page = reply(b"<html><title>Log in</title>", Content_Type="text/html")
    origin.answers |= {"/a": in_turn(ranged(BODY, first=777), page), "/b": ranged(BODY)}
    facts = impatient(store).obtain(wanted(f"{origin.url}/a", f"{origin.url}/b"), Silent())
    assert facts["resumed"] == 777
    assert store.has(PINNED)


def test_time_spent_elsewhere_is_not_counted(origin: Origin, store: Cache) -> None:
    """The time spent with another source does not count towards the deadline of a source that is retried."""
    origin.answers["/a"] = in_turn(mute(b""), reply(BODY))
    with serving({"/a": endless(b"x", HEAD + LENGTH + b"\r\n", 0.05)}) as slow:
        patient = impatient(store, total_timeout_s=0.8)
        patient.obtain(wanted(f"{origin.url}/a", f"{slow.url}/a"), Silent())
    assert len(origin.requests) == 2


class Waits(Silent):
    """The phases `wait`: seconds before each retry."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def phase(self, name: str, **facts: str | int | float) -> None:
        if name == "wait":
            self.seconds.append(float(facts["seconds"]))


def test_retry_after_is_a_minimum(origin: Origin, store: Cache) -> None:
    """A retry waits at least as long as the server asks for."""
    origin.answers["/a"] = in_turn(reply(b"", "429 X", Retry_After="1"), reply(BODY))
    begun, waits = time.monotonic(), Waits()
    impatient(store, total_timeout_s=10.0).obtain(wanted(f"{origin.url}/a"), waits)
    assert time.monotonic() - begun >= 1.0
    assert len(waits.seconds) == 1 and 1 <= waits.seconds[0] < 5
    assert len(origin.requests) == 2


def test_too_long_a_wait_ends_the_source(origin: Origin, store: Cache) -> None:
    """A wait that would exceed the deadline of the source does not begin."""
    origin.answers["/a"] = reply(b"", "503 X", Retry_After="60")
    waits = Waits()
    with pytest.raises(AllSourcesFailedError, match="503"):
        impatient(store).obtain(wanted(f"{origin.url}/a"), waits)
    assert not waits.seconds
    assert len(origin.requests) == 1


def test_presigned_storage(origin: Origin, store: Cache) -> None:
    """A redirect to storage that refuses credentials works, because none are sent there."""
    with serving({"/b": bait}) as storage:
        origin.answers["/a"] = redirect(f"{storage.url}/b?sig=hunter2")
        facts = impatient(store).obtain(wanted(f"{origin.url}/a", headers={"Authorization": "t"}), Silent())
    assert "hunter2" not in str(facts)


# --- connections --------------------------------------------------------------------------------


def kept(body: bytes, **headers: str) -> Answer:
    return reply(body, Connection="keep-alive", **headers)


def test_good_connections_are_reused(origin: Origin, tmp_path: Path) -> None:
    """Downloads share a connection; one that the server has closed costs no attempt."""
    origin.answers["/a"] = in_turn(kept(BODY), kept(BODY), reply(BODY), kept(BODY))
    transport = Transport(TransportSettings())
    for number in range(4):
        shared = Downloader(Cache(tmp_path / str(number)), transport, Policy(retries=0))
        shared.obtain(wanted(f"{origin.url}/a"), Silent())
        time.sleep(0.05)
    assert [request.connection for request in origin.requests] == [1, 1, 1, 2]


def test_idle_connections_to_many_hosts_are_closed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The host that was asked last keeps its connection; the number of hosts does not exhaust the open files."""
    monkeypatch.setattr(http_connection, "_MAX_ROUTES", 2)
    transport = Transport(TransportSettings())
    with contextlib.ExitStack() as stack:
        hosts = [stack.enter_context(serving({"/a": kept(BODY)})) for _ in range(3)]
        for number, host in enumerate([*hosts, *reversed(hosts)]):
            downloader = Downloader(Cache(tmp_path / str(number)), transport, Policy(retries=0))
            downloader.obtain(wanted(f"{host.url}/a"), Silent())
    connections = [[request.connection for request in host.requests] for host in hosts]
    assert connections == [[1, 2], [1, 1], [1, 1]]


def talkative(connection: socket.socket, request: OriginRequest) -> None:
    kept(BODY)(connection, request)
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")


def both(connection: socket.socket, request: OriginRequest) -> None:
    connection.sendall(CHUNKED[:-2] + b"Content-Length: 7\r\n\r\n30d40\r\n" + BODY + b"\r\n0\r\n\r\n")
    request.stays = True


BAD_CONNECTIONS: dict[str, Callable[[], Answer]] = {
    "short": lambda: raw(HEAD + LENGTH + b"\r\n" + BODY[:99]),
    "unread": lambda: kept(b"x" * 20_000_000),
    "more than declared": lambda: talkative,
    "chunked and length": lambda: both,
}


@pytest.mark.parametrize("case", BAD_CONNECTIONS)
def test_bad_connections_are_not_reused(case: str, origin: Origin, tmp_path: Path) -> None:
    """A connection with unexpected bytes never serves another request."""
    origin.answers |= {"/a": BAD_CONNECTIONS[case](), "/b": kept(BODY)}
    transport = Transport(TransportSettings())
    with contextlib.suppress(AllSourcesFailedError):
        Downloader(Cache(tmp_path / "1"), transport, Policy(retries=0)).obtain(wanted(f"{origin.url}/a"), Silent())
    time.sleep(0.05)
    other = Cache(tmp_path / "2")
    Downloader(other, transport, Policy(retries=0)).obtain(wanted(f"{origin.url}/b"), Silent())
    assert [request.connection for request in origin.requests] == [1, 2]
    assert other.has(PINNED)


def test_bytes_after_a_small_response_close_a_kept_connection(origin: Origin, tmp_path: Path) -> None:
    """What arrives together with a response, and is more than it, is not read as the next one."""
    content = b"small"
    pinned = len(content), hashlib.sha256(content).hexdigest()

    def two(connection: socket.socket, request: OriginRequest) -> None:
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
        connection.sendall(answer + content + answer + b"wrong")
        request.stays = True

    origin.answers |= {"/1": kept(content), "/2": two, "/3": kept(content)}
    transport = Transport(TransportSettings())
    for number in (1, 2, 3):
        request = wanted(f"{origin.url}/{number}", content=pinned)
        Downloader(Cache(tmp_path / str(number)), transport, Policy(retries=0)).obtain(request, Silent())
    assert [request.connection for request in origin.requests] == [1, 1, 2]


STRAYS = {"text": b"junk", "a line": b"junk\r\n", "an empty line": b"\r\n", "a cut head": b"HTTP/1.1 200 OK\r\nA: b"}


@pytest.mark.parametrize("case", STRAYS)
def test_stray_bytes_on_a_kept_connection_cost_no_attempt(case: str, origin: Origin, tmp_path: Path) -> None:
    """What follows a response late, and is not the next one, closes the connection; a new one takes the request once."""

    def late(connection: socket.socket, _request: OriginRequest) -> None:
        connection.sendall(STRAYS[case])
        connection.shutdown(socket.SHUT_WR)

    origin.answers |= {"/a": in_turn(kept(BODY), late, kept(BODY), late)}
    transport = Transport(TransportSettings())
    for number in (1, 2):
        downloader = Downloader(Cache(tmp_path / str(number)), transport, Policy(retries=0))
        downloader.obtain(wanted(f"{origin.url}/a"), Silent())
    with pytest.raises(AllSourcesFailedError):
        Downloader(Cache(tmp_path / "3"), transport, Policy(retries=0)).obtain(wanted(f"{origin.url}/a"), Silent())
    assert [request.connection for request in origin.requests] == [1, 1, 2, 2, 3]


def test_a_large_body_is_gathered() -> None:
    """A wait for a large body lasts until many bytes have arrived or a moment has passed; the next head needs one."""
    deadline = Deadline(TransportSettings(), time.monotonic() + TIMEOUT_S)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as near:
        far, _ = server.accept()
        sock = DeadlineSocket(near, deadline)
        deadline.reading()
        with far:
            view = memoryview(bytearray(2000))
            sock.gather(1000)
            assert near.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1000
            far.sendall(b"x" * 1500)
            assert sock.receive(view) == 1500
            far.sendall(b"y" * 10)
            assert sock.receive(view) == 10
            sock.serve(deadline)
            assert near.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
            sock.gather(1000)
            far.sendall(b"z")
            while not sock.is_readable():  # an idle connection with one byte must not be used again
                time.sleep(0.01)


# --- hosts --------------------------------------------------------------------------------------


def test_refused_and_unresolvable(store: Cache) -> None:
    """The error for a closed port or an unknown host name names the host and the phase."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}/a"
    with pytest.raises(AllSourcesFailedError) as caught:
        impatient(store).obtain(wanted(dead, "http://name.invalid/a"), Silent())
    assert "connection refused while connecting" in str(caught.value)
    assert "name.invalid: cannot resolve the host name" in str(caught.value)


@pytest.mark.slow
def test_a_port_that_accepts_nothing(store: Cache) -> None:
    """A listener that never accepts fails at the connect deadline, also with TLS."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(AllSourcesFailedError, match=r"performing the TLS handshake.*\n.*waiting for the response"):
            impatient(store, connect_timeout_s=0.4).obtain(
                wanted(f"https://127.0.0.1:{port}/a", f"http://127.0.0.1:{port}/a"), Silent()
            )


def test_ipv6(store: Cache) -> None:
    """An IPv6 literal works."""
    try:
        with serving({"/a": reply(BODY)}, address="::1") as origin:
            impatient(store).obtain(wanted(f"{origin.url}/a"), Silent())
            assert origin.requests[0].headers["host"] == origin.url.removeprefix("http://")
    except OSError:
        pytest.skip("no IPv6 on this machine")


def test_dead_address_first(monkeypatch: pytest.MonkeyPatch, origin: Origin, store: Cache) -> None:
    """When the first address of a host drops packets, the second one is tried long before the connect deadline."""
    real = socket.getaddrinfo
    port = int(origin.url.rpartition(":")[2])

    def answers(host: str, *arguments: object, **options: object) -> object:
        if host != "two.invalid":
            return real(host, *arguments, **options)  # type: ignore[arg-type]
        # 192.0.2.0/24 is not routed. Source: RFC 5737
        return [(socket.AF_INET, 1, 6, "", (one, port)) for one in ("192.0.2.1", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", answers)
    origin.answers["/a"] = reply(BODY)
    patient = impatient(store, connect_timeout_s=10 * TIMEOUT_S, total_timeout_s=10 * TIMEOUT_S)
    patient.obtain(wanted(f"http://two.invalid:{port}/a"), Silent())


def test_a_resolver_that_hangs(monkeypatch: pytest.MonkeyPatch, store: Cache) -> None:
    """A name server that never answers fails at the connect deadline."""
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_a, **_o: released.wait() and [])
    try:
        with pytest.raises(AllSourcesFailedError, match="resolving the host name"):
            impatient(store, connect_timeout_s=0.4).obtain(wanted("http://h.invalid/a"), Silent())
    finally:
        released.set()


def test_denied_networks(origin: Origin, store: Cache) -> None:
    """A redirect into a denied network is not followed; the default denies link-local addresses."""
    origin.answers["/a"] = redirect("http://169.254.169.254/latest/meta-data/")
    with pytest.raises(AllSourcesFailedError, match="in a blocked network"):
        impatient(store).obtain(wanted(f"{origin.url}/a"), Silent())
    assert len(origin.requests) == 1


#: Hosts that reach 127.9.0.1 or this machine, and hosts that do not.
DENIED = (
    "127.9.0.1", "127.9.1", "2131296257", "0x7f.9.1", "0x7f090001", "017702200001", "127.9.0.1.", "%31%32%37.9.0.1",
    "[::ffff:127.9.0.1]", "[::ffff:7f09:1]", "[::127.9.0.1]", "[64:ff9b::127.9.0.1]", "[64:ff9b:1::7f09:1]",
    "[2002:7f09:1::]", "[2001:0:7f09:1::]", "[2001:0:1:1::80f6:fffe]", "[2001:db8::5efe:7f09:1]", "[::ffff:0:7f09:1]",
    "0.0.0.0", "0", "0x0", "[::]", "[::ffff:0.0.0.0]", "[::1]", "[0:0:0:0:0:0:0:1]", "localhost", "a.localhost.",
    "\uff11\uff12\uff17\u3002\uff19\u3002\uff10\u3002\uff11",
)  # fmt: skip
ALLOWED = (
    "files.example",
    "128.9.0.1",
    "127.example",
    "[64:ff9b::8.8.8.8]",
    "[2001:db8::1]",
    "1.2.3.4.5",
    "0127.9.0.9",
)


def test_denied_in_every_spelling(store: Cache) -> None:
    """A denied address is asked neither directly nor through a proxy, in no spelling, and not after a redirect."""
    with serving({}) as proxy:
        settings = TransportSettings(denied=("127.0.0.0/8", "::1/128"), proxies={"http": proxy.url})
        downloader = Downloader(store, Transport(settings), Policy(retries=0, backoff_s=0.001))
        for host in DENIED:
            direct, target = f"http://{host}:{proxy.url.rpartition(':')[2]}/a", f"http://{host}/secret"
            proxy.answers = {"http://files.example/a": redirect(target.encode().decode("latin-1"))}
            for url in (direct, "http://files.example/a"):
                with pytest.raises(AllSourcesFailedError, match="in a blocked network") as caught:
                    downloader.obtain(wanted(url), Silent())
                assert "FETCH_DENY_NETWORKS" in str(caught.value)
        assert set(proxy.paths()) == {"http://files.example/a"}
        proxy.requests.clear()
        for host in ALLOWED:
            proxy.answers = {f"http://{host}/a": reply(BODY)}
            downloader.obtain(wanted(f"http://{host}/a", content=(len(BODY), PINNED.digest.hex)), Silent())
            (store.root / "v1/blobs/sha256" / PINNED.digest.hex[:2] / PINNED.digest.hex).unlink()
        assert len(proxy.requests) == len(ALLOWED)


def test_a_denied_address_without_a_proxy(origin: Origin, store: Cache) -> None:
    """Spellings that only the system's resolver knows are judged too."""
    settings = TransportSettings(denied=("127.0.0.0/8", "::1/128"))
    downloader = Downloader(store, Transport(settings), Policy(retries=0))
    for host in ("127.1", "0", "0.0.0.0", "2130706433", "localhost", "[::ffff:0.0.0.0]", "[::]"):
        with pytest.raises(AllSourcesFailedError, match="in a blocked network"):
            downloader.obtain(wanted(f"http://{host}:{origin.url.rpartition(':')[2]}/a"), Silent())
    assert not origin.requests


def test_ten_definitions_one_dead_host(store: Cache, origin: Origin) -> None:
    """Ten definitions with the same dead origin and a working mirror wait for the origin once, not ten times."""
    origin.answers |= {f"/{n}": reply(BODY + bytes([n])) for n in range(10)}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dead = f"http://127.0.0.1:{silent.getsockname()[1]}"
        shared = impatient(store, total_timeout_s=30)
        for number in range(10):
            content = BODY + bytes([number])
            digest = hashlib.sha256(content).hexdigest()
            one = wanted(f"{dead}/{number}", f"{origin.url}/{number}", content=(len(content), digest))
            shared.obtain(one, Silent())
        assert pending_connections(silent) == 1
    assert len(origin.requests) == 10


def pending_connections(listener: socket.socket) -> int:
    """Return how many clients have connected to a listener that accepts none of them."""
    listener.setblocking(False)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()
            count += 1
    return count
