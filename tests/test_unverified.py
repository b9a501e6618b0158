"""Unverified downloads: limited, complete, with a server's gzip decoded."""

from __future__ import annotations

import gzip
import hashlib
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from tasks_lib.cache import Cache
from tasks_lib.digest import Digest
from tasks_lib.download.unverified import UnverifiedDownloader, UnverifiedRequest
from tasks_lib.errors import AllSourcesFailedError, OfflineError
from tasks_lib.network import Policy, TransportSettings
from tasks_lib.progress import Silent
from tasks_lib.transport import Transport
from tests.origin import Answer, Origin, in_turn, ranged, raw, reply

CONTENT = b"some content\n" * 500
PACKED = gzip.compress(CONTENT)
SHA = Digest.sha256(hashlib.sha256(CONTENT).hexdigest())
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def obtained(tmp_path: Path, asked: UnverifiedRequest, policy: Policy = Policy(backoff_s=0.0)) -> bytes:  # noqa: B008 - frozen
    store = Cache(tmp_path / "cache")
    unpinned = UnverifiedDownloader(store, Transport(TransportSettings(stall_timeout_s=2)), policy, lambda _: None)
    with store.open(unpinned.obtain(asked, Silent())) as file:
        return file.read()


def asked(origin: Origin, path: str = "/x") -> UnverifiedRequest:
    return UnverifiedRequest(name="x", urls=(f"{origin.url}{path}",), limit=100_000)


@pytest.mark.parametrize(
    "answer",
    [
        reply(CONTENT),
        reply(CONTENT, Content_Length=""),
        raw(CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(CONTENT), CONTENT)),
        reply(PACKED, Content_Encoding="gzip"),
        reply(gzip.compress(CONTENT[:7]) + gzip.compress(CONTENT[7:]), Content_Encoding="x-gzip"),
        reply(CONTENT, Content_Encoding="gzip"),
        in_turn(reply(b"busy", "503 Service Unavailable"), reply(CONTENT)),
        in_turn(reply(CONTENT[:9], Content_Length=str(len(CONTENT))), reply(CONTENT)),
        in_turn(raw(CHUNKED + b"5\r\nsome \r\n"), reply(CONTENT)),
    ],
    ids=["plain", "no length", "chunked", "gzip", "two members", "no gzip", "busy once", "short once", "broken once"],
)
@pytest.mark.parametrize("promise", [{}, {"size": len(CONTENT)}, {"digest": SHA}], ids=["none", "size", "digest"])
def test_accepted(tmp_path: Path, origin: Origin, answer: Answer, promise: dict[str, object]) -> None:
    """Complete content is accepted with any combination of known size and digest."""
    origin.answers["/x"] = answer
    assert obtained(tmp_path, replace(asked(origin), **promise)) == CONTENT  # type: ignore[arg-type]  # a table


@pytest.mark.parametrize(
    ("answer", "promise", "reason", "requests"),
    [
        (reply(b"", "404 Not Found"), {}, "HTTP 404", 1),
        (reply(CONTENT), {"size": 5}, "expected 5 bytes, but the server announces", 1),
        (reply(CONTENT, Content_Length=""), {"size": 5}, "expected 5 bytes, got 6500", 2),
        (reply(b"x" * 6500), {"digest": SHA}, "expected sha256", 2),
        (reply(CONTENT * 100), {}, "exceeds its size limit", 2),
        (reply(gzip.compress(bytes(200_000)), Content_Encoding="gzip"), {}, "exceeds its size limit", 2),
        (reply(PACKED[:-9], Content_Encoding="gzip"), {}, "the stream is truncated", 2),
        (reply(PACKED[:-8] + bytes(8), Content_Encoding="gzip"), {}, "cannot be decoded", 2),
        (reply(CONTENT[:9], Content_Length="6500"), {}, "ended after 9 of 6500 bytes", 4),
        (raw(CHUNKED + b"5\r\nsome \r\n"), {}, "ended after 5 bytes", 4),
    ],
)
def test_refused(
    tmp_path: Path, origin: Origin, answer: Answer, promise: dict[str, object], reason: str, requests: int
) -> None:
    """Truncated, too large or unexpected content is refused; permanent errors are not retried."""
    origin.answers["/x"] = answer
    with pytest.raises(AllSourcesFailedError, match=reason):
        obtained(tmp_path, replace(asked(origin), **promise))  # type: ignore[arg-type]  # a table
    assert len(origin.requests) == requests


def test_gz_url_is_not_decoded(tmp_path: Path, origin: Origin) -> None:
    """A URL that ends in .gz yields the compressed bytes, unless the digest is that of the decoded ones."""
    origin.answers["/x.gz"] = reply(PACKED, Content_Encoding="gzip")
    assert obtained(tmp_path, asked(origin, "/x.gz")) == PACKED
    assert obtained(tmp_path, replace(asked(origin, "/x.gz"), digest=SHA)) == CONTENT


def test_offline_and_files(tmp_path: Path, origin: Origin) -> None:
    """Without network only file URLs are read."""
    (tmp_path / "file").write_bytes(CONTENT)
    offline = Policy(network="off")
    one = replace(asked(origin), urls=(f"{origin.url}/x", f"file://{tmp_path}/file"))
    assert obtained(tmp_path, one, offline) == CONTENT
    with pytest.raises(OfflineError):
        obtained(tmp_path, asked(origin), offline)
    assert not origin.requests


def test_many_retries(tmp_path: Path) -> None:
    """The pause between two attempts stays finite however often it doubles."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}/x"
    with pytest.raises(AllSourcesFailedError, match="connection refused"):
        obtained(tmp_path, UnverifiedRequest(name="x", urls=(dead,), limit=1), Policy(retries=1100, backoff_s=0.0))


@pytest.mark.parametrize("on_secret", ["keep", "refuse"])
def test_content_that_repeats_a_credential(tmp_path: Path, origin: Origin, on_secret: str) -> None:
    """An answer with a credential of the request, in two pieces of it, is kept only where any content is wanted."""
    origin.answers["/x"] = raw(CHUNKED + b"8\r\nyou S3CR\r\n5\r\nET-wo\r\n3\r\nrd!\r\n0\r\n\r\n")
    sent = replace(asked(origin), headers={"Private-Token": "S3CRET-word"}, on_secret=on_secret)  # type: ignore[arg-type]  # a table
    if on_secret == "keep":
        assert obtained(tmp_path, sent) == b"you S3CRET-word!"
    else:
        with pytest.raises(AllSourcesFailedError, match="repeats a credential of the request, and is not kept"):
            obtained(tmp_path, sent)
        assert not [
            path for path in (tmp_path / "cache").rglob("*") if path.is_file() and b"S3CRET" in path.read_bytes()
        ]


def test_resume(tmp_path: Path, origin: Origin) -> None:
    """A broken download goes on where it broke, if the server has a strong validator; the request has its range."""
    origin.answers["/x"] = in_turn(ranged(CONTENT, first=1000), ranged(CONTENT))
    assert obtained(tmp_path, asked(origin)) == CONTENT
    assert [one.headers.get("range") for one in origin.requests] == [None, "bytes=1000-"]
    assert origin.requests[1].headers["if-range"] == '"v1"'


OTHERS = {
    "another version": ranged(CONTENT[::-1], etag='"v2"'),
    "no range": reply(CONTENT[::-1]),
    "gzip": reply(gzip.compress(CONTENT[::-1]), Content_Encoding="gzip"),
    "wrong range": in_turn(
        reply(CONTENT[5:], "206 Partial Content", Content_Range=f"bytes 5-{len(CONTENT) - 1}/{len(CONTENT)}"),
        reply(CONTENT[::-1]),
    ),
    "416": in_turn(reply(b"", "416 Range Not Satisfiable"), reply(CONTENT[::-1])),
}


@pytest.mark.parametrize("case", OTHERS)
def test_no_resume(tmp_path: Path, origin: Origin, case: str) -> None:
    """The bytes of two versions are never joined."""
    origin.answers["/x"] = in_turn(ranged(CONTENT, first=1000), OTHERS[case])
    assert obtained(tmp_path, asked(origin)) == CONTENT[::-1]


def test_no_resume_without_a_validator(tmp_path: Path, origin: Origin) -> None:
    """A weak validator does not show that two responses belong together."""
    origin.answers["/x"] = in_turn(ranged(CONTENT, etag='W/"v1"', first=1000), ranged(CONTENT, etag='W/"v1"'))
    assert obtained(tmp_path, asked(origin)) == CONTENT
    assert [one.headers.get("range") for one in origin.requests] == [None, None]
