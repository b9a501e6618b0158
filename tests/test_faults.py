"""The faults of the internet, a row each: what arrives, how often was asked, and nothing wrong is kept."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from tasks_lib.errors import AllSourcesFailedError
from tasks_lib.progress import Silent
from tasks_lib.sources import Policy, Sources
from tasks_lib.store import Store
from tasks_lib.transport import Transport, TransportSettings
from tests.origin import Answer, Origin, Request, in_turn, ranged, raw, reply, serving
from tests.test_sources import BODY, CHUNKED, PINNED, sources, wanted

HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture
def origin() -> Iterator[Origin]:
    with serving({}) as one:
        yield one


def endless(piece: bytes, head: bytes) -> Answer:
    """Return an answer that goes on until the client leaves."""

    def answer(connection: socket.socket, _request: Request) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(piece)

    return answer


def partial(span: str, body: bytes, status: str = "206 Partial Content", etag: str = '"v1"') -> Answer:
    """Return an answer that breaks off first, and then says `span` about `body`."""
    lines = {"Content_Range": span} if span else {}
    return in_turn(ranged(BODY, first=777), reply(body, status, ETag=etag, **lines), ranged(BODY))


SIZE = len(BODY)
#: name -> answer, most requests; the bytes arrive.
ARRIVES = {
    "408": (in_turn(reply(b"", "408 Timeout"), reply(BODY)), 2),
    "425": (in_turn(reply(b"", "425 Too Early"), reply(BODY)), 2),
    "429 with seconds": (in_turn(reply(b"", "429 Slow Down", Retry_After="1"), reply(BODY)), 2),
    "429 with a date": (in_turn(reply(b"", "429 X", Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"), reply(BODY)), 2),
    "503 negative": (in_turn(reply(b"", "503 X", Retry_After="-5"), reply(BODY)), 2),
    "503 text": (in_turn(reply(b"", "503 X", Retry_After="soon"), reply(BODY)), 2),
    "503 huge": (in_turn(reply(b"", "503 X", Retry_After="99999999999999999999"), reply(BODY)), 2),
    "502": (in_turn(reply(b"", "502 X"), reply(BODY)), 2),
    "504": (in_turn(reply(b"", "504 X"), reply(BODY)), 2),
    "chunk cut": (in_turn(raw(CHUNKED + b"400\r\n" + BODY[:100]), reply(BODY)), 2),
    "chunk size bad": (in_turn(raw(CHUNKED + b"zz\r\n" + BODY[:100]), reply(BODY)), 2),
    "chunk without end": (in_turn(raw(CHUNKED + b"400\r\n" + BODY[:1024] + b"\r\n"), reply(BODY)), 2),
    "short, no length": (in_turn(raw(HEAD + b"\r\n" + BODY[:900]), reply(BODY)), 2),
    "range: another offset": (partial(f"bytes 5-{SIZE - 1}/{SIZE}", BODY[5:]), 3),
    "range: another total": (partial(f"bytes 777-{SIZE}/{SIZE + 1}", BODY[777:] + b"x"), 3),
    "range: no Content-Range": (partial("", BODY[777:]), 3),
    "range: multipart": (partial("", b"--x", "206 Partial Content"), 3),
    "range: wrong body": (partial(f"bytes 777-{SIZE - 1}/{SIZE}", b"x" * (SIZE - 777)), 3),
    "range: short body": (partial(f"bytes 777-{SIZE - 1}/{SIZE}", BODY[777:900]), 3),
    "range: ignored": (partial("", BODY, "200 OK", '"v2"'), 2),
    "416 once": (partial("bytes */5", b"", "416 Range Not Satisfiable"), 3),
    "302 relative": (reply(b"", "302 Found", Location="b"), 2),
    "307": (reply(b"", "307 X", Location="/b"), 2),
    "308": (reply(b"", "308 X", Location="/b?x=1"), 2),
    "disposition": (reply(BODY, Content_Disposition="attachment; filename=../../etc/passwd"), 1),
    "content-type lies": (reply(BODY, Content_Type="text/html"), 1),
    "huge cookie": (reply(BODY, Set_Cookie="a=" + "x" * 8000), 1),
}


@pytest.mark.parametrize("case", ARRIVES)
def test_arrives(case: str, origin: Origin, store: Store) -> None:
    """The promised bytes arrive whole, with a bounded number of requests."""
    answer, requests = ARRIVES[case]
    origin.answers |= {"/a": answer, "/b": reply(BODY)}
    sources(store).obtain(wanted(f"{origin.url}/a"), Silent())
    with store.open(PINNED) as file:
        assert file.read() == BODY
    assert len(origin.requests) <= requests


#: name -> answer, most requests, part of the message.
FAILS = {
    "410": (reply(b"", "410 Gone"), 1, "HTTP 410"),
    "403": (reply(b"", "403 No"), 1, "HTTP 403"),
    "304": (reply(b"", "304 Not Modified"), 1, "HTTP 304"),
    "407": (reply(b"", "407 Proxy"), 1, "HTTP 407"),
    "416 for ever": (reply(b"", "416 X", Content_Range="bytes */1"), 3, "HTTP 416"),
    "empty": (reply(b""), 1, "announces 0"),
    "status 999": (raw(b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n"), 4, "999"),
    "garbage status": (raw(b"HTTP/1.1 abc\r\n\r\n"), 4, ""),
    "HTTP 0.9": (raw(b"hello\r\n"), 4, ""),
    "negative length": (reply(b"", Content_Length="-5"), 4, ""),
    "no number as length": (reply(b"abc", Content_Length="12abc"), 4, ""),
    "header of 1 MB": (endless(b"x" * 65536, HEAD + b"X: "), 4, ""),
    "endless headers": (endless(b"X-A: b\r\n" * 1000, HEAD), 4, ""),
    "endless body": (endless(b"x" * 65536, HEAD + b"\r\n"), 4, "more than"),
    "huge chunk size": (raw(CHUNKED + b"ffffffffffffffff\r\n" + b"x" * 100), 4, ""),
    "redirect to ftp": (reply(b"", "302 X", Location="ftp://h/a"), 1, "only http and https"),
    "redirect to data": (reply(b"", "302 X", Location="data:,x"), 1, "only http and https"),
    "redirect with backslash": (reply(b"", "302 X", Location="http:\\\\h\\a"), 1, ""),
    "redirect to no URL": (reply(b"", "302 X", Location="http://[::1"), 1, ""),
    "control characters": (reply(b"\x1b[31m<title>\x1b]0;x\x07", "404 Not\x1b[31mFound"), 4, ""),
}


@pytest.mark.parametrize("case", FAILS)
def test_fails(case: str, origin: Origin, store: Store) -> None:
    """What cannot be right ends in bounded time with one printable reason, and nothing is kept."""
    answer, requests, message = FAILS[case]
    origin.answers["/a"] = answer
    with pytest.raises(AllSourcesFailedError) as caught:
        sources(store, stall_timeout_s=3, total_timeout_s=20).obtain(wanted(f"{origin.url}/a"), Silent())
    text = str(caught.value)
    assert message in text
    assert all(line.isprintable() for line in text.splitlines())
    assert len(origin.requests) <= requests
    assert not store.has(PINNED)


CA = trustme.CA()


def https(*names: str, ca: trustme.CA = CA, **facts: datetime.datetime) -> ssl.SSLContext:
    """Return a server's context with a certificate for these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate = ca.issue_cert(*names, **facts)  # type: ignore[arg-type]  # datetimes only
    certificate.configure_cert(context)
    return context


def trusting(store: Store, tmp_path: Path, **settings: object) -> Sources:
    """Return sources that trust our certificate authority only."""
    CA.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    transport = Transport(TransportSettings(ca_bundle=str(tmp_path / "ca.pem"), **settings))  # type: ignore[arg-type]
    return Sources(store, transport, Policy(backoff_s=0.001, network="on"), sleep=lambda _s: None)


def test_https(store: Store, tmp_path: Path) -> None:
    """A certificate of the configured authority is trusted."""
    with serving({"/a": reply(BODY)}, https("127.0.0.1")) as origin:
        trusting(store, tmp_path).obtain(wanted(f"{origin.url}/a"), Silent())
    assert store.has(PINNED)


LONG_AGO = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)
BAD_TLS: dict[str, tuple[Callable[[], ssl.SSLContext], str]] = {
    "unknown authority": (lambda: https("127.0.0.1", ca=trustme.CA()), "certificate"),
    "wrong host": (lambda: https("example.org"), "127.0.0.1"),
    "expired": (lambda: https("127.0.0.1", not_after=LONG_AGO), "expired"),
}


@pytest.mark.parametrize("case", BAD_TLS)
def test_bad_certificates(case: str, store: Store, tmp_path: Path) -> None:
    """A certificate that does not fit ends the source at once, with a reason; nothing is asked, the mirror delivers."""
    made, message = BAD_TLS[case]
    with serving({"/a": reply(BODY)}, made()) as bad, serving({"/a": reply(BODY)}, https("127.0.0.1")) as good:
        with pytest.raises(AllSourcesFailedError, match=message):
            trusting(store, tmp_path).obtain(wanted(f"{bad.url}/a"), Silent())
        trusting(store, tmp_path).obtain(wanted(f"{bad.url}/a", f"{good.url}/a"), Silent())
        assert not bad.requests
    assert store.has(PINNED)


def test_not_tls(store: Store, tmp_path: Path) -> None:
    """A plain server behind an https URL is a failure that says so."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                    connection.close()

        threading.Thread(target=answer, daemon=True).start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/a"
        with pytest.raises(AllSourcesFailedError, match=r"TLS|SSL"):
            trusting(store, tmp_path).obtain(wanted(url), Silent())


def test_no_downgrade(store: Store, tmp_path: Path, origin: Origin) -> None:
    """Https never leads to http."""
    origin.answers["/a"] = reply(BODY)
    answer = reply(b"", "302 Found", Location=f"{origin.url}/a")
    with serving({"/a": answer}, https("127.0.0.1")) as secure, pytest.raises(AllSourcesFailedError, match="http"):
        trusting(store, tmp_path).obtain(wanted(f"{secure.url}/a"), Silent())
    assert not origin.requests


def test_proxy(store: Store, tmp_path: Path) -> None:
    """A proxy is asked with the whole URL, its password goes to it and to nobody else; NO_PROXY goes around it."""
    with serving({}) as proxy, serving({"/a": reply(BODY)}) as origin:
        url = f"{origin.url}/a"
        proxy.answers[url] = reply(b"", "503 X")
        proxies = {"http": proxy.url.replace("//", "//user:secret@")}
        with pytest.raises(AllSourcesFailedError) as caught:
            trusting(store, tmp_path, proxies=proxies).obtain(wanted(url), Silent())
        assert "secret" not in str(caught.value)
        assert proxy.requests[0].path == url
        assert "proxy-authorization" in proxy.requests[0].headers
        assert not origin.requests
        trusting(store, tmp_path, proxies=proxies, no_proxy="127.0.0.1").obtain(wanted(url), Silent())
        assert "proxy-authorization" not in origin.requests[0].headers
