"""A download succeeds if any source has the right bytes, and never accepts wrong bytes."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from tasks_lib import recipe
from tasks_lib.cache import Cache, identify_url
from tasks_lib.digest import Digest, Integrity
from tasks_lib.download import Downloader, Request
from tasks_lib.download.unverified import UnverifiedDownloader, UnverifiedRequest
from tasks_lib.errors import AllSourcesFailedError, CacheUnavailableError, FetchError, OfflineError
from tasks_lib.network import Policy, TransportSettings
from tasks_lib.progress import FailedSource, Silent
from tasks_lib.transport import Transport
from tests.origin import Answer, Origin, OriginRequest, in_turn, ranged, raw, reply, serving

BODY = b"0123456789" * 20_000
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
PINNED = Integrity(size=len(BODY), digest=Digest.sha256(hashlib.sha256(BODY).hexdigest()))


def sources(store: Cache, network: str = "on", **settings: float) -> Downloader:
    transport = Transport(TransportSettings(**{"connect_timeout_s": 5, "stall_timeout_s": 5, **settings}))  # type: ignore[arg-type]  # numbers only
    return Downloader(store, transport, Policy(backoff_s=0.001, network=network), sleep=lambda _s: None)


def wanted(
    *urls: str, headers: dict[str, str] | None = None, content: tuple[int, str] | None = None, **more: Any
) -> Request:
    integrity = Integrity(size=content[0], digest=Digest.sha256(content[1])) if content else PINNED
    return Request(name="a", integrity=integrity, urls=urls, headers=lambda: headers or {}, **more)


def stall(connection: socket.socket, _request: OriginRequest) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n12345" % len(BODY))
    connection.recv(1)  # until the client gives up


def stall_in_headers(connection: socket.socket, _request: OriginRequest) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    connection.recv(1)


def endless_continue(connection: socket.socket, _request: OriginRequest) -> None:
    connection.settimeout(0.01)
    while True:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 10)
        try:
            if connection.recv(1) == b"":
                return
        except TimeoutError:
            pass


ACCEPTED: dict[str, tuple[Callable[[], Answer], int]] = {
    "plain": (lambda: reply(BODY), 1),
    "no length": (lambda: reply(BODY, Content_Length=""), 1),
    "gzip claimed, not applied": (lambda: reply(BODY, Content_Encoding="gzip"), 1),
    "chunked": (
        lambda: raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n30d40\r\n" + BODY + b"\r\n0\r\n\r\n"),
        1,
    ),
    "bytes after the body": (lambda: raw(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + BODY + b"more"), 1),
    "short once": (lambda: in_turn(reply(BODY[:500], Content_Length=str(len(BODY))), reply(BODY)), 2),
    "wrong once": (lambda: in_turn(reply(b"x" + BODY[1:]), reply(BODY)), 2),
    "503 twice": (lambda: in_turn(reply(b"", "503 Busy"), reply(b"", "503 Busy"), reply(BODY)), 3),
    "reset before the answer": (lambda: in_turn(raw(b""), reply(BODY)), 2),
    "resumed": (lambda: in_turn(ranged(BODY, first=777), ranged(BODY)), 2),
    "changed between": (lambda: in_turn(ranged(b"old" + BODY[3:], '"v0"', first=777), ranged(BODY)), 2),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_arrives(case: str, origin: Origin, store: Cache) -> None:
    """The expected bytes arrive, with exactly the necessary requests."""
    make, requests = ACCEPTED[case]
    origin.answers["/a"] = make()
    found = sources(store).obtain(wanted(f"{origin.url}/a"), Silent())
    assert store.path(PINNED.digest).read_bytes() == BODY
    assert len(origin.requests) == requests
    assert found["url"] == f"{origin.url}/a"


REFUSED: dict[str, tuple[Answer, int, str]] = {
    "404": (reply(b"<title>gone</title>", "404 Not Found", Content_Type="text/html"), 1, "HTTP 404.*gone"),
    "401": (reply(b"", "401 Unauthorized"), 1, "HTTP 401"),
    "204": (reply(b"", "204 No Content"), 1, "HTTP 204"),
    "unasked 206": (reply(BODY, "206 Partial Content"), 1, "HTTP 206"),
    "500 for ever": (reply(b"", "500 Broken"), 4, "HTTP 500"),
    "wrong bytes": (reply(b"x" + BODY[1:]), 2, "expected sha256:.*, got sha256:"),
    "login page": (
        reply(b"<title>Log in", Content_Type="text/html"),
        1,
        "announces 13: an HTML page titled .Log in. .HTTP 200 text/html",
    ),
    "longer than expected": (reply(BODY + b"more", Content_Length=""), 1, "more than 200000"),
    "huge length": (reply(b"", Content_Length=str(10**15)), 1, "announces 1000000000000000"),
    "conflicting lengths": (reply(BODY, Content_Length="200000, 7"), 1, "unmatching"),
    "redirect loop": (reply(b"", "302 Found", Location="/a"), 11, "more than 10 redirects"),
    "redirect to a file": (reply(b"", "302 Found", Location="file:///etc/passwd"), 1, "only http and https"),
    "redirect nowhere": (reply(b"", "302 Found"), 1, "invalid redirect"),
    "redirect with a password": (reply(b"", "302 Found", Location="http://u:p@127.0.0.1/"), 1, "credentials"),
    "no HTTP": (raw(b"garbage\r\n\r\n"), 1, "garbage"),
    "gzip applied": (reply(b"\x1f\x8b", Content_Encoding="gzip"), 1, "applied Content-Encoding gzip"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, origin: Origin, store: Cache) -> None:
    """Unexpected content is refused after a limited number of requests, with the reason."""
    origin.answers["/a"], requests, reason = REFUSED[case]
    with pytest.raises(AllSourcesFailedError, match=reason) as caught:
        sources(store).obtain(wanted(f"{origin.url}/a"), Silent())
    assert len(origin.requests) == requests
    assert not store.has(PINNED)
    assert len(str(caught.value).partition("\n    sha256:")[0].splitlines()) <= 3


@pytest.mark.parametrize("answer", [stall, stall_in_headers, endless_continue])
def test_no_server_holds_us(answer: Answer, origin: Origin, store: Cache) -> None:
    """A server that stalls, in headers, body or endless 100s, fails at the deadline; the mirror is used."""
    origin.answers |= {"/a": answer, "/b": reply(BODY)}
    patient = Downloader(
        store,
        Transport(TransportSettings(connect_timeout_s=5, stall_timeout_s=0.5, total_timeout_s=1)),
        Policy(retries=0, backoff_s=0),
    )
    patient.obtain(wanted(f"{origin.url}/a", f"{origin.url}/b"), Silent())
    assert store.has(PINNED)


def test_mirror_steps_in_and_every_attempt_is_reported(origin: Origin, store: Cache) -> None:
    """A mismatch of one source is not hidden by the failure of another."""
    origin.answers |= {"/a": reply(b"x" + BODY[1:]), "/b": reply(b"", "404 Not Found")}
    with pytest.raises(AllSourcesFailedError) as caught:
        sources(store).obtain(wanted(f"{origin.url}/a", f"{origin.url}/b"), Silent())
    assert "expected sha256:" in str(caught.value)
    assert "HTTP 404" in str(caught.value)
    origin.answers["/b"] = reply(BODY)
    sources(store).obtain(wanted(f"{origin.url}/a", f"{origin.url}/b"), Silent())
    assert store.has(PINNED)


NOT_FOUND, OTHER, PAGE = reply(b"", "404 Not Found"), reply(b"x" + BODY[1:]), reply(b"<title>Log in")
#: answers in order -> the next step: what fits the content goes before what fits a connection, whichever was first
NEXT_STEPS: dict[str, tuple[list[Answer], str]] = {
    "no answer": ([raw(b"")], "check the URL and the network, or add a mirror to the definition"),
    "not found": ([NOT_FOUND], "open the URL in a browser"),
    "other bytes": ([OTHER], "ask upstream why the content changed"),
    "not found, other bytes": ([NOT_FOUND, OTHER], "ask upstream why the content changed"),
    "other bytes, not found": ([OTHER, NOT_FOUND], "ask upstream why the content changed"),
    "a page, other bytes": ([PAGE, OTHER], "ask upstream why the content changed"),
}


@pytest.mark.parametrize("case", NEXT_STEPS)
def test_the_next_step_fits_what_happened(case: str, origin: Origin, store: Cache) -> None:
    """The hint of an error is for the most important cause."""
    answers, reason = NEXT_STEPS[case]
    origin.answers |= {f"/{number}": answer for number, answer in enumerate(answers)}
    with pytest.raises(AllSourcesFailedError) as caught:
        sources(store).obtain(wanted(*(f"{origin.url}/{number}" for number in range(len(answers)))), Silent())
    assert caught.value.hint.startswith(reason)


def test_the_next_step_when_nobody_was_asked(origin: Origin, store: Cache) -> None:
    """A URL that served wrong content is not asked again, a blocked one never; the hint says what to change."""
    origin.answers |= {"/a": OTHER}
    shared, url = sources(store), f"{origin.url}/a"
    steps = []
    for one in (wanted(url), wanted(url), wanted(url, refused={url: "mirrors.yml blocks it"})):
        with pytest.raises(AllSourcesFailedError) as caught:
            shared.obtain(one, Silent())
        steps.append(caught.value.hint.partition(",")[0])
    assert steps == [
        "ask upstream why the content changed; if it is right",
        "add a mirror to the definition",
        "mirrors.yml blocks this URL: add a mirror that it allows",
    ]
    assert len(origin.requests) == 2


def test_a_dead_host_is_asked_once(origin: Origin, store: Cache) -> None:
    """After one definition finds a host dead, the next one tries the mirror first."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}"
    origin.answers["/a"] = reply(BODY)
    shared = sources(store)
    shared.obtain(wanted(f"{dead}/a", f"{origin.url}/a"), Silent())
    assert shared._hosts.ordered((f"{dead}/b", f"{origin.url}/b")) == [f"{origin.url}/b", f"{dead}/b"]


def test_secrets_stay_home(store: Cache, origin: Origin) -> None:
    """Headers of the definition are sent to its origin only, not after a redirect to another one, nor to a mirror."""
    with serving({"/b": reply(BODY[:-1] + b"x")}) as other:
        origin.answers |= {"/a": reply(b"", "302 Found", Location=f"{other.url}/b")}
        with pytest.raises(AllSourcesFailedError):
            sources(store).obtain(wanted(f"{origin.url}/a", f"{other.url}/b", headers={"X-Api-Key": "s"}), Silent())
        assert all(request.headers["x-api-key"] == "s" for request in origin.requests)
        assert len(other.requests) == 4
        assert all("x-api-key" not in request.headers for request in other.requests)


def test_a_later_run_resumes(origin: Origin, store: Cache) -> None:
    """The next run resumes the partial download of a failed one, with Range and If-Range."""
    origin.answers["/a"] = ranged(BODY, first=777)
    gone = Downloader(store, Transport(), Policy(retries=0, backoff_s=0))
    with pytest.raises(AllSourcesFailedError, match="after 777 of 200000 bytes"):
        gone.obtain(wanted(f"{origin.url}/a"), Silent())
    found = sources(store).obtain(wanted(f"{origin.url}/a"), Silent())
    assert found["resumed"] == 777
    assert origin.requests[-1].headers["range"] == "bytes=777-"
    assert store.has(PINNED)


LEFT: dict[str, tuple[bytes, bytes, bytes]] = {
    "more than promised": (BODY + b"more", b"", b""),
    "more than promised, resumable": (b"x" * 300_000, b'"v1"\nORIGIN', b""),
    "more than promised, in pieces": (b"x" * 300_000, b'"v1"\nORIGIN', b"0 100000\n11"),
    "no validator": (b"x" * 777, b"", b"0 100000\n11"),
    "a validator of no server": (BODY[:777], '"\u20ac"\nORIGIN'.encode(), b""),
    "pieces that are not in the file": (BODY[:777], b'"v1"\nORIGIN', b"0 100000 2\n" + b"\xff" * 16),
    "pieces after a gap": (BODY[:777], b'"v1"\nORIGIN', b"1000 100000 2\n" + b"\xff" * 16),
    "marks of an earlier version": (BODY[:777] + bytes(100_000), b'"v1"\nORIGIN', b"777 100000\n01"),
    "pieces of a byte": (BODY, b'"v1"\nORIGIN', b"0 1\n"),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_an_earlier_run_left(case: str, origin: Origin, store: Cache) -> None:
    """Whatever files exist in its place, a download yields exactly the expected bytes, and leaves nothing else."""
    origin.answers["/a"] = ranged(BODY)
    partial, note, pieces = LEFT[case]
    with store.partial(PINNED):
        pass
    place = store.root / "v1/partial" / PINNED.digest.hex
    place.with_suffix(".part").write_bytes(partial)
    for suffix, content in {".validator": note, ".pieces": pieces}.items():
        if content:
            place.with_suffix(suffix).write_bytes(content.replace(b"ORIGIN", origin.url.encode()))
    sources(store, total_timeout_s=5).obtain(wanted(f"{origin.url}/a"), Silent())
    assert store.path(PINNED.digest).read_bytes() == BODY
    assert len(origin.requests) <= 2
    assert not list(place.parent.iterdir())


def test_only_what_was_measured_becomes_a_blob(store: Cache) -> None:
    """Bytes after the end of a download are not part of its blob."""
    with store.partial(PINNED) as partial:
        partial.restart("")
        partial.append(BODY)
        partial.write_at(len(BODY), b"more")
        store.finish(partial)
    assert store.path(PINNED.digest).read_bytes() == BODY


def test_a_failure_to_write_during_a_wait_leaves_no_gap(origin: Origin, store: Cache) -> None:
    """A file that cannot be written while the server is slow ends the download; no blob gets its name without them."""

    def stop_for_a_moment(connection: socket.socket, request: OriginRequest) -> None:
        ranged(BODY, first=777)(connection, request)
        time.sleep(0.8)

    origin.answers["/a"] = in_turn(stop_for_a_moment, ranged(BODY))
    (store.root / "v1/partial" / f"{PINNED.digest.hex}.validator").mkdir(parents=True)
    with pytest.raises(CacheUnavailableError, match="Is a directory"):
        sources(store).obtain(wanted(f"{origin.url}/a"), Silent())
    assert not store.path(PINNED.digest).exists()
    assert not [*store.root.glob("v1/partial/*.part")]
    assert origin.paths() == ["/a"]


def test_offline_opens_no_socket(origin: Origin, store: Cache) -> None:
    """With the network disabled no request is sent, and the error says what to do."""
    origin.answers["/a"] = reply(BODY)
    with pytest.raises(OfflineError, match="network is off"):
        sources(store, network="off").obtain(wanted(f"{origin.url}/a"), Silent())
    assert origin.requests == []


def test_file_mirror(store: Cache, tmp_path: Path, origin: Origin) -> None:
    """A file: source works when the origin is down, offline too; a wrong file is refused."""
    (tmp_path / "a b").write_bytes(BODY)
    url = (tmp_path / "a b").as_uri()
    sources(store, network="off").obtain(wanted(f"{origin.url}/a", url), Silent())
    assert store.has(PINNED)
    other = Cache(tmp_path / "other")
    (tmp_path / "a b").write_bytes(BODY + b"more")
    with pytest.raises(AllSourcesFailedError, match="more than 200000"):
        sources(other).obtain(wanted(url), Silent())


@pytest.mark.parametrize(("name", "reason"), [("pipe", "not a regular file"), ("device", "not a regular file"), ("loop", "symbolic"), ("a%00b", "its URL has no valid path"), ("none", "No such file"), ("dir", "not a regular file"), ("[::1", "its URL has no valid path"), ("x" * 300, "too long")])  # fmt: skip
def test_what_is_no_file(name: str, reason: str, store: Cache, tmp_path: Path) -> None:
    """A pipe does not block, a device is not read, and anything but a file is reported; a link to a file is followed."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dir").mkdir()
    (tmp_path / "right").write_bytes(BODY)
    for link, target in {"device": "/dev/zero", "loop": "loop", "link": "right"}.items():
        (tmp_path / link).symlink_to(target)
    url = f"file://{name}" if name[0] == "[" else f"file://{tmp_path}/{name}"
    assert sources(store).needs_network(wanted(url))
    with pytest.raises(AllSourcesFailedError, match=f"cannot read the file: .*{reason}"):
        sources(store).obtain(wanted(url), Silent())
    asked = UnverifiedRequest(name="a", urls=(url,), limit=1 << 20)
    with pytest.raises(AllSourcesFailedError, match=f"cannot read the file: .*{reason}"):
        UnverifiedDownloader(store, Transport(TransportSettings()), Policy()).obtain(asked, Silent())
    sources(store).obtain(wanted(f"file://{tmp_path}/link"), Silent())
    assert store.has(PINNED)


def test_two_at_once_download_once(origin: Origin, store: Cache) -> None:
    """Two threads that need the same blob share one download."""
    origin.answers["/a"] = reply(BODY)
    shared, failures = sources(store), []

    def work() -> None:
        try:
            shared.obtain(wanted(f"{origin.url}/a"), Silent())
        except FetchError as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert origin.paths() == ["/a"]


def test_who_waits_for_a_turn_at_a_host_says_so(origin: Origin, store: Cache) -> None:
    """With one connection per host, the second request is queued until the first one ends."""
    asked, go_on = threading.Event(), threading.Event()
    waited: list[str] = []

    def held(connection: socket.socket, request: OriginRequest) -> None:
        asked.set()
        assert go_on.wait(60)
        reply(BODY)(connection, request)

    class Notified(Silent):
        def phase(self, name: str, **facts: str | int | float) -> None:
            if name == "queue":
                waited.append(str(facts["url"]))
                go_on.set()

    origin.answers.update({"/a": held, "/b": reply(b"b")})
    transport = Transport(TransportSettings())
    one = Downloader(store, transport, Policy(jobs_per_host=1))
    first = threading.Thread(target=one.obtain, args=(wanted(f"{origin.url}/a"), Notified()))
    first.start()
    assert asked.wait(60)
    one.obtain(wanted(f"{origin.url}/b", content=(1, hashlib.sha256(b"b").hexdigest())), Notified())
    first.join()
    assert waited == [f"{origin.url}/b"]


class Heard(Silent):
    """Remembers warnings and failed sources."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.failed: list[FailedSource] = []

    def failed_source(self, source: FailedSource) -> None:
        self.failed.append(source)

    def warn(self, message: str) -> None:
        self.warnings.append(message)


class Moved(NamedTuple):
    """A definition whose content is in the cache, fetched from /old; `url` and `mirrors` are new.

    `asked` are the paths that confirm it, `again` those that the next run asks.
    """

    outcome: str
    asked: list[str]
    again: list[str]
    url: str = "/new"
    mirrors: tuple[str, ...] = ()


MOVED: dict[str, Moved] = {
    "the same URL": Moved("confirmed", [], [], "/old"),
    "another mirror": Moved("confirmed", [], [], "/old", ("/mirror",)),
    "the same bytes": Moved("confirmed", ["/new"], []),
    "other bytes": Moved("other content", ["/other"] * 2, ["/other"] * 2, "/other"),
    "longer": Moved("other content", ["/longer"], ["/longer"], "/longer"),
    "a page": Moved("other content", ["/page"], ["/page"], "/page"),
    "other bytes, and a mirror with the old ones": Moved(
        "other content", ["/longer"], ["/longer"], "/longer", ("/mirror",)
    ),
    "not found": Moved("unconfirmed", ["/gone"], [], "/gone"),
    "not found, and the known place as a mirror": Moved("unconfirmed", ["/gone"], [], "/gone", ("/old",)),
    "not found, and a new mirror": Moved("confirmed", ["/gone", "/mirror"], [], "/gone", ("/mirror",)),
    "not found, and a mirror with other bytes": Moved(
        "other content", ["/gone", "/longer"], ["/gone", "/longer"], "/gone", ("/longer", "/mirror")
    ),
    "not found, and a content-addressed place": Moved("unconfirmed", ["/gone"], [], "/gone", ("/cas",)),
    "an unknown query": Moved("confirmed", ["/new?version=2"], [], "/new?version=2"),
}


def origins_of(cache: Cache) -> list[str]:
    """Return what the result of the content says about its origins."""
    result = cache.result(recipe.fetch_key(PINNED))
    assert result is not None
    return [url.partition("//")[2].partition("/")[2] for url in result.origins.values()]


@pytest.mark.parametrize("case", MOVED)
def test_a_moved_url_is_asked_once(case: str, origin: Origin, store: Cache) -> None:
    """Cached content from other URLs is confirmed by one download; other bytes fail, and unreachable URLs warn."""
    moved = MOVED[case]
    origin.answers |= dict.fromkeys(("/old", "/new", "/new?version=2", "/mirror", "/cas"), reply(BODY))
    origin.answers |= {
        "/other": reply(b"x" + BODY[1:]),
        "/longer": reply(BODY + b"x"),
        "/page": reply(b"<title>Log in"),
    }
    sources(store).obtain(wanted(f"{origin.url}/old"), Silent())
    request = wanted(
        *(f"{origin.url}{path}" for path in (moved.url, *moved.mirrors)), by_digest=frozenset({f"{origin.url}/cas"})
    )
    for expected in (moved.asked, moved.again):
        before, heard = len(origin.requests), Heard()
        if moved.outcome == "other content":
            with pytest.raises(AllSourcesFailedError, match="update sha256 and size") as caught:
                sources(store).obtain(request, heard)
            assert f"{origin.url}/old" in str(caught.value)
            assert f"{origin.url}{moved.url}" in str(caught.value)
        else:
            sources(store).obtain(request, heard)
        assert origin.paths()[before:] == expected
        warned = moved.outcome == "unconfirmed" and expected
        assert len(heard.warnings) == bool(warned)
        assert all(f"{origin.url}/old" in one and f"{origin.url}{moved.url}" in one for one in heard.warnings)
    assert (moved.url.partition("?")[0][1:] in [one.partition("?")[0] for one in origins_of(store)]) is (
        moved.outcome == "confirmed"
    )
    assert store.path(PINNED.digest).read_bytes() == BODY


def test_the_place_counts_too(origin: Origin, store: Cache) -> None:
    """A URL that becomes the mirror which had the bytes, or that mirrors.yml rewrites to it, asks nothing."""
    origin.answers["/mirror"] = reply(BODY)
    mirror = f"{origin.url}/mirror"
    sources(store).obtain(wanted(f"{origin.url}/gone", mirror), Silent())
    before = len(origin.requests)
    for request in (wanted(mirror), wanted(mirror, home="mirror://group/a"), wanted(mirror, home="mirror://group/a")):
        sources(store).obtain(request, Silent())
    assert len(origin.requests) == before
    assert "a" in origins_of(store)


def test_no_network_and_a_day_later(origin: Origin, store: Cache) -> None:
    """Without a network the next run asks; a URL that was asked in vain is asked again only after a day."""
    origin.answers["/old"] = reply(BODY)
    sources(store).obtain(wanted(f"{origin.url}/old"), Silent())
    request = wanted(f"{origin.url}/new")
    for network, expected in (("off", 0), ("on", 1), ("on", 1)):
        sources(store, network).obtain(request, Silent())
        assert origin.paths().count("/new") == expected
    known = store.result(recipe.fetch_key(PINNED))
    assert known is not None
    ((identity, asked_s),) = known.unreached.items()
    assert identity == identify_url(request.urls[0])
    store.record(msgspec.structs.replace(known, unreached={identity: asked_s - 25 * 3600}))
    origin.answers["/new"] = reply(BODY)
    sources(store).obtain(request, Silent())
    assert origin.paths().count("/new") == 2
    assert "new" in origins_of(store)


def test_content_of_unknown_origin_asks_nothing(origin: Origin, store: Cache) -> None:
    """A blob without a record of its origins (restored, of an older version) is used as it is."""
    origin.answers["/old"] = reply(BODY)
    sources(store).obtain(wanted(f"{origin.url}/old"), Silent())
    known = store.result(recipe.fetch_key(PINNED))
    assert known is not None
    store.record(msgspec.structs.replace(known, origins={}))
    sources(store).obtain(wanted(f"{origin.url}/new"), Silent())
    assert origin.paths() == ["/old"]


def test_a_query_is_not_recorded(origin: Origin, store: Cache) -> None:
    """The query of a URL, which may be secret, tells two URLs apart and is written nowhere."""
    origin.answers["/a"] = reply(BODY)
    for number in (1, 2):
        sources(store).obtain(wanted(f"{origin.url}/a?token=s3cret{number}"), Silent())
    assert len(origin.requests) == 2
    files = [path.read_bytes() for path in store.root.rglob("*") if path.is_file()]
    assert not any(b"s3cret" in content for content in files)


def chunked(body: bytes) -> Answer:
    return raw(CHUNKED + b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n")


#: Answers with content that is read to its end, in several framings.
PINS: dict[str, Answer] = {
    "announced": reply(BODY),
    "chunked": chunked(BODY),
    "until the connection closes": reply(BODY, Content_Length=""),
    "in ranges": ranged(BODY),
}


@pytest.mark.parametrize("case", PINS)
@pytest.mark.parametrize("off_by", [1, -1, 150_000, -150_000, 1_000_000])
def test_only_the_size_is_wrong(case: str, off_by: int, origin: Origin, store: Cache) -> None:
    """Content with the pinned digest and another size is named as such, with both sizes and a block to paste."""
    origin.answers["/a"] = PINS[case]
    request = wanted(f"{origin.url}/a", content=(len(BODY) + off_by, PINNED.digest.hex))
    with pytest.raises(AllSourcesFailedError) as caught:
        sources(store).obtain(request, Silent())
    text = str(caught.value)
    assert f"the sha256 is the pinned one; size is {len(BODY)}, not {len(BODY) + off_by}" in text
    assert text.endswith(f"\n    sha256: {PINNED.digest.hex}\n    size: {len(BODY)}")
    assert not any(word in text for word in ("truncated", "re-released", "ask upstream", "different"))


@pytest.mark.parametrize("case", PINS)
@pytest.mark.parametrize("more", [-5, 0, 5, 100_000])
def test_a_block_to_paste(case: str, more: int, origin: Origin, store: Cache, tmp_path: Path) -> None:
    """A mismatch ends with digest and size of the content, if it was read to its end."""
    content = b"x" + BODY[1:] + b"x" * more if more >= 0 else b"x" + BODY[1:more]
    answers = {"announced": reply(content), "chunked": chunked(content), "in ranges": ranged(content)}
    origin.answers["/a"] = answers.get(case, reply(content, Content_Length=""))
    (tmp_path / "a").write_bytes(content)
    cut_short = more < 0 and case in ("chunked", "until the connection closes")  # may be a broken connection
    for url in (f"{origin.url}/a", (tmp_path / "a").as_uri()):
        with pytest.raises(AllSourcesFailedError) as caught:
            sources(store).obtain(wanted(url), Silent())
        pin = f"\n    sha256: {hashlib.sha256(content).hexdigest()}\n    size: {len(content)}"
        assert str(caught.value).endswith(pin) is not (cut_short and url.startswith("http"))


def test_no_block_for_a_part(origin: Origin, store: Cache) -> None:
    """The digest of content that was not read to its end is not offered."""

    def endless_body(connection: socket.socket, _request: OriginRequest) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(bytes(1 << 16))

    origin.answers |= {"/a": endless_body, "/b": reply(b"", Content_Length=str(10**15))}
    for path in ("/a", "/b"):
        with pytest.raises(AllSourcesFailedError) as caught:
            sources(store).obtain(wanted(f"{origin.url}{path}"), Silent())
        assert "size: " not in str(caught.value)


#: The paths in order, the definition's URL, and the failed sources that are reported: role, path, reason.
FAILED_SOURCES: dict[str, tuple[list[str], str, list[tuple[str, str, str]]]] = {
    "none": (["/good", "/gone"], "/good", []),
    "an origin that is refused": (["refused", "/good"], "refused", [("origin", "", "connection refused")]),
    "an origin that lost the file": (["/gone", "/good"], "/gone", [("origin", "/gone", "HTTP 404 Not Found")]),
    "an origin with other bytes": (["/other", "/good"], "/other", [("origin", "/other", "expected sha256:")]),
    "a mirror that does not have it": (["/gone", "/good"], "/good", []),
    "a broken mirror first": (["/broken", "/good"], "/good", [("mirror", "/broken", "HTTP 500")]),
    "a broken mirror, then the origin's mirror": (
        ["/broken", "/gone", "/good"],
        "/gone",
        [("mirror", "/broken", "HTTP 500"), ("origin", "/gone", "HTTP 404")],
    ),
    "a retry that helped": (["/shaky", "/good"], "/shaky", []),
}


@pytest.mark.parametrize("case", FAILED_SOURCES)
def test_failed_sources_are_reported(case: str, origin: Origin, store: Cache) -> None:
    """When another source helps, an origin that failed and a mirror that is broken are reported with the reason."""
    paths, home, expected = FAILED_SOURCES[case]
    origin.answers |= {"/good": reply(BODY), "/gone": NOT_FOUND, "/other": OTHER, "/broken": reply(b"", "500 Broken")}
    origin.answers["/shaky"] = in_turn(reply(b"", "503 Busy"), reply(BODY))
    urls = {path: "http://127.0.0.1:1/a" if path == "refused" else f"{origin.url}{path}" for path in paths}
    heard = Heard()
    sources(store).obtain(wanted(*urls.values(), home=urls[home]), heard)
    assert [one.role for one in heard.failed] == [role for role, _, _ in expected]
    for one, (_, path, reason) in zip(heard.failed, expected, strict=True):
        assert one.url.endswith(path)
        assert one.reason.startswith(reason)


def test_an_origin_that_is_not_asked_again_is_reported(origin: Origin, store: Cache) -> None:
    """Every file of a dead origin names it, also when the mirror is asked first because its host did not respond."""
    other = b"other"
    origin.answers |= {"/good": reply(BODY), "/other": reply(other)}
    downloader, heard = sources(store), Heard()
    downloader.obtain(wanted("http://127.0.0.1:1/a", f"{origin.url}/good"), heard)
    pinned = (len(other), hashlib.sha256(other).hexdigest())
    downloader.obtain(wanted("http://127.0.0.1:1/b", f"{origin.url}/other", content=pinned), heard)
    assert [(one.role, one.url[-1], one.reason.startswith("connection refused")) for one in heard.failed] == [
        ("origin", "a", True),
        ("origin", "b", True),
    ]


def test_a_source_known_to_be_wrong_is_reported(origin: Origin, store: Cache) -> None:
    """A source that is skipped because it had other content before is reported as failed."""
    origin.answers |= {"/other": OTHER}
    downloader, heard = sources(store), Heard()
    with pytest.raises(AllSourcesFailedError):
        downloader.obtain(wanted(f"{origin.url}/other"), Silent())
    origin.answers["/good"] = reply(BODY)
    downloader.obtain(wanted(f"{origin.url}/other", f"{origin.url}/good"), heard)
    assert [one.role for one in heard.failed] == ["origin"]
