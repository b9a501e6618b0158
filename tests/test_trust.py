"""Certificates, credentials and proxies."""

from __future__ import annotations

import base64
import contextlib
import datetime
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
import trustme

from tasks_lib.cache import Cache
from tasks_lib.download import Downloader
from tasks_lib.errors import AllSourcesFailedError
from tasks_lib.network import HostCredential, Policy, TransportSettings
from tasks_lib.progress import Silent
from tasks_lib.transport import Transport
from tests.origin import Answer, Origin, OriginRequest, raw, reply, serving
from tests.test_downloader import BODY, PINNED, wanted

CA = trustme.CA()
#: Content of the size of `BODY` that no server sends.
OTHER = (len(BODY), "0" * 64)
LONG_AGO = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)
LATER = datetime.datetime(2090, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture
def origin() -> Iterator[Origin]:
    with serving({"/a": reply(BODY)}) as one:
        yield one


def https(*names: str, ca: trustme.CA = CA, **facts: datetime.datetime) -> ssl.SSLContext:
    """Return a server's context with a certificate for these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(*names, **facts).configure_cert(context)  # type: ignore[arg-type]  # datetimes only
    return context


def self_signed(tmp_path: Path) -> ssl.SSLContext:
    """Return a context with a self-signed certificate."""
    own = trustme.CA()
    own.cert_pem.write_to_path(str(tmp_path / "own.pem"))
    own.private_key_pem.write_to_path(str(tmp_path / "own.key"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "own.pem", tmp_path / "own.key")
    return context


def trusting(
    store: Cache, tmp_path: Path, environ: Mapping[str, str] = MappingProxyType({}), **settings: object
) -> Downloader:
    """Return a downloader that trusts only the certificate authority of the tests."""
    CA.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    chosen = {"ca_bundle": str(tmp_path / "ca.pem"), "connect_timeout_s": 2.0, **settings}
    transport = Transport(TransportSettings(**chosen), environ=environ)  # type: ignore[arg-type]
    return Downloader(store, transport, Policy(retries=1, backoff_s=0.001))


def test_https(store: Cache, tmp_path: Path) -> None:
    """A certificate of the configured authority is trusted."""
    with serving({"/a": reply(BODY)}, https("127.0.0.1")) as origin:
        trusting(store, tmp_path).obtain(wanted(f"{origin.url}/a"), Silent())
    assert store.has(PINNED)


def test_directories_of_certificates(store: Cache, tmp_path: Path) -> None:
    """SSL_CERT_DIR may list several directories, also missing ones."""
    hashed = tmp_path / "hashed"
    hashed.mkdir()
    CA.cert_pem.write_to_path(str(hashed / "ca.pem"))
    name = subprocess.run(["openssl", "x509", "-hash", "-noout", "-in", hashed / "ca.pem"], capture_output=True, text=True, check=True)  # fmt: skip
    (hashed / "ca.pem").rename(hashed / f"{name.stdout.strip()}.0")
    with serving({"/a": reply(BODY)}, https("127.0.0.1")) as origin:
        trusting(store, tmp_path, ca_bundle=f"/nowhere:{tmp_path}:{hashed}").obtain(wanted(f"{origin.url}/a"), Silent())
    assert store.has(PINNED)


def test_bytes_after_a_response_close_a_kept_connection(tmp_path: Path, store: Cache) -> None:
    """What TLS has decrypted together with the end of a body is not read as the next response."""

    def two(connection: socket.socket, request: OriginRequest) -> None:
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY)
        connection.sendall(answer + BODY[:-9])
        connection.sendall(BODY[-9:] + answer)
        request.stays = True

    with serving({"/1": two, "/2": reply(BODY, Connection="keep-alive")}, https("127.0.0.1")) as origin:
        downloader = trusting(store, tmp_path)
        downloader.obtain(wanted(f"{origin.url}/1"), Silent())
        store.path(PINNED.digest).unlink()
        downloader.obtain(wanted(f"{origin.url}/2"), Silent())
    assert [request.connection for request in origin.requests] == [1, 2]


BAD_TLS: dict[str, tuple[Callable[[Path], ssl.SSLContext], str]] = {
    "unknown authority": (lambda _: https("127.0.0.1", ca=trustme.CA()), "untrusted authority"),
    "self-signed": (self_signed, "self-signed|untrusted authority"),
    "wrong host": (lambda _: https("example.org"), "for another address"),
    "expired": (lambda _: https("127.0.0.1", not_after=LONG_AGO), "has expired"),
    "not yet valid": (lambda _: https("127.0.0.1", not_before=LATER, not_after=LATER), "is not valid yet"),
}


@pytest.mark.parametrize("case", BAD_TLS)
def test_bad_certificates(case: str, store: Cache, tmp_path: Path) -> None:
    """An invalid certificate fails the source at once, with its own reason; the mirror is used."""
    made, message = BAD_TLS[case]
    with serving({"/a": reply(BODY)}, made(tmp_path)) as bad, serving({"/a": reply(BODY)}, https("127.0.0.1")) as good:
        with pytest.raises(AllSourcesFailedError, match=message) as caught:
            trusting(store, tmp_path).obtain(wanted(f"{bad.url}/a"), Silent())
        assert len(caught.value.attempts) == 1
        assert f"trusted authorities: {tmp_path}/ca.pem; certificates are always verified" in str(caught.value)
        trusting(store, tmp_path).obtain(wanted(f"{bad.url}/a", f"{good.url}/a"), Silent())
        assert not bad.requests
    assert store.has(PINNED)


def test_an_authority_that_cannot_be_read(store: Cache, tmp_path: Path) -> None:
    """The error for a missing bundle names it; no other bundle is used."""
    with serving({"/a": reply(BODY)}, https("127.0.0.1")) as origin:
        for bundle in (tmp_path / "none.pem", tmp_path):  # a directory without certificates trusts nobody
            with pytest.raises(
                AllSourcesFailedError, match=r"cannot read the certificates of .*none.pem|untrusted authority"
            ):
                trusting(store, tmp_path, ca_bundle=str(bundle)).obtain(wanted(f"{origin.url}/a"), Silent())
        assert not origin.requests


@contextlib.contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve each connection by `answer`; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with contextlib.suppress(OSError), connection:
                        answer(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def plain(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def test_not_tls(store: Cache, tmp_path: Path) -> None:
    """A server without TLS at an https URL fails at once with that reason."""
    with listening(plain) as port, pytest.raises(AllSourcesFailedError, match="does not speak TLS") as caught:
        trusting(store, tmp_path).obtain(wanted(f"https://127.0.0.1:{port}/a"), Silent())
    assert len(caught.value.attempts) == 1


def test_tls_that_breaks_off(store: Cache, tmp_path: Path) -> None:
    """A server that disconnects during the handshake is retried."""
    with (
        listening(lambda connection: connection.close()) as port,
        pytest.raises(AllSourcesFailedError, match=r"closed|reset"),
    ):
        trusting(store, tmp_path).obtain(wanted(f"https://127.0.0.1:{port}/a"), Silent())


def cut(connection: socket.socket, _request: OriginRequest) -> None:
    """Send half a body without a length, and disconnect without TLS's close_notify."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + BODY[:999])
    socket.socket.shutdown(connection, socket.SHUT_RDWR)


def test_no_close_notify(store: Cache, tmp_path: Path) -> None:
    """A TLS connection that ends without close_notify is verified by size."""
    with serving({"/a": cut}, https("127.0.0.1")) as origin:
        with pytest.raises(AllSourcesFailedError, match=r"999 of 200000|after 999 bytes"):
            trusting(store, tmp_path).obtain(wanted(f"{origin.url}/a"), Silent())
        assert len(origin.requests) == 2


def test_no_downgrade(store: Cache, tmp_path: Path, origin: Origin) -> None:
    """A redirect from https to http is not followed."""
    answer = reply(b"", "302 Found", Location=f"{origin.url}/a")
    with serving({"/a": answer}, https("127.0.0.1")) as secure, pytest.raises(AllSourcesFailedError, match="http"):
        trusting(store, tmp_path).obtain(wanted(f"{secure.url}/a"), Silent())
    assert not origin.requests


# --- credentials --------------------------------------------------------------------------------

SECRETS = {"Authorization": "Bearer hunter2", "PRIVATE-TOKEN": "hunter2", "X-Api-Key": "hunter2", "Cookie": "s=hunter2"}


def leads_to(url: str) -> Answer:
    return reply(b"", "302 Found", Location=url, Set_Cookie="session=hunter3")


def netrc_for(tmp_path: Path, host: str = "127.0.0.1") -> str:
    (tmp_path / "netrc").write_text(f"machine {host} login u password hunter2\n")
    return str(tmp_path / "netrc")


@pytest.mark.parametrize("way", ["another port", "there and back"])
def test_secrets_stay_home(way: str, store: Cache, tmp_path: Path, origin: Origin) -> None:
    """Headers of a definition, cookies and netrc are sent only to the origin, also when another host redirects back to it."""
    with serving({}) as other:
        target = f"{other.url}/b"
        origin.answers |= {"/start": leads_to("/same"), "/same": leads_to(target)}
        other.answers["/b"] = leads_to(f"{origin.url}/a") if way == "there and back" else reply(BODY)
        sources = trusting(store, tmp_path, netrc=netrc_for(tmp_path))
        sources.obtain(wanted(f"{origin.url}/start", headers=SECRETS), Silent())
        assert [request.headers.get("x-api-key") for request in origin.requests[:2]] == ["hunter2"] * 2
        assert all("hunter" not in str(request.headers) for request in [*origin.requests[2:], *other.requests])
        assert all("cookie" not in request.headers for request in other.requests)


def test_a_mirror_gets_no_secrets(store: Cache, tmp_path: Path, origin: Origin) -> None:
    """Headers are sent to the origin of the definition's own URL, at any position in the order."""
    with serving({"/b": reply(b"", "404 X")}) as other:
        urls = (f"{other.url}/b", f"{origin.url}/a")
        trusting(store, tmp_path).obtain(wanted(*urls, headers=SECRETS, home=urls[1]), Silent())
        assert "hunter2" not in str(other.requests[0].headers)
        assert origin.requests[0].headers["private-token"] == "hunter2"


def test_netrc(store: Cache, tmp_path: Path, origin: Origin) -> None:
    """Netrc applies to the first host only, never overrides a header of the definition, and is not used after a redirect."""
    with serving({"/b": leads_to(f"{origin.url}/a")}) as first:
        trusting(store, tmp_path, netrc=netrc_for(tmp_path)).obtain(wanted(f"{first.url}/b"), Silent())
        sent = first.requests[0].headers["authorization"]
        assert base64.b64decode(sent.removeprefix("Basic ")) == b"u:hunter2"
        assert "authorization" not in origin.requests[0].headers
        (tmp_path / "2").mkdir()
        other = trusting(Cache(tmp_path / "2/cache"), tmp_path, netrc=netrc_for(tmp_path))
        other.obtain(wanted(f"{first.url}/b", headers={"authorization": "Bearer t"}), Silent())
        assert first.requests[1].headers["authorization"] == "Bearer t"


def test_a_netrc_that_cannot_be_read(store: Cache, tmp_path: Path) -> None:
    """The error for a missing login says why none was sent, without quoting the file; other errors do not."""
    path = tmp_path / "netrc"
    path.write_text("machine 127.0.0.1 login u\n hunter2 password\n")
    with serving({"/a": reply(b"", "401 Unauthorized"), "/b": reply(b"", "404 Not Found")}) as origin:
        printed = {}
        for name in ("a", "b"):
            with pytest.raises(AllSourcesFailedError) as caught:
                trusting(store, tmp_path, netrc=str(path)).obtain(wanted(f"{origin.url}/{name}"), Silent())
            printed[name] = str(caught.value)
    assert f"no credentials were sent because {path} is not a valid netrc file (line 2)" in printed["a"]
    assert "netrc" not in printed["b"]
    assert "hunter2" not in printed["a"]


TOKEN = {"MY_TOKEN": "ENVSECRET\n"}


def credential(url: str = "", **facts: object) -> HostCredential:
    """Return the credential of a host: of its port if there is a URL."""
    port = int(url.rpartition(":")[2]) if url else 0
    return HostCredential(**{"host": "127.0.0.1", "port": port, "header": "Private-Token", "env": "MY_TOKEN", **facts})  # type: ignore[arg-type]


@pytest.mark.parametrize("case", ["host", "port", "another port", "another host", "not set", "own header"])
def test_the_credential_of_a_host(case: str, store: Cache, tmp_path: Path) -> None:
    """`auth` is sent to its host over https instead of netrc; a header of the definition takes precedence."""
    with serving({"/a": reply(BODY)}, https("127.0.0.1")) as origin:
        port = origin.url if case == "port" else origin.url + "0" if case == "another port" else ""
        own = credential(port, host="localhost") if case == "another host" else credential(port)
        others = (credential(header="X-Any"), own) if case == "port" else (own,)
        environ = {} if case == "not set" else TOKEN
        sources = trusting(store, tmp_path, environ, credentials=others, netrc=netrc_for(tmp_path))
        given = {"private-token": "own"} if case == "own header" else {}
        sources.obtain(wanted(f"{origin.url}/a", headers=given), Silent())
    sent = origin.requests[0].headers
    expected = {"host": "ENVSECRET", "port": "ENVSECRET", "own header": "own"}.get(case)
    assert sent.get("private-token") == expected
    assert ("authorization" in sent) == (expected is None)
    assert "x-any" not in sent


def test_the_credential_of_a_host_stays_there(store: Cache, tmp_path: Path, origin: Origin) -> None:
    """`auth` is not sent over http, nor to where a redirect leads; the hint of a 401 or 403 says why."""
    own = credential(), credential(header="X-Other", host="localhost")
    for answer, path in ((reply(b"", "401 Unauthorized"), "/401"), (reply(b"", "403 Forbidden"), "/403")):
        origin.answers[path] = answer
    with serving({"/b": leads_to("/c"), "/d": reply(BODY)}, https("127.0.0.1")) as first:
        with serving({"/c": leads_to(f"{first.url}/d")}, https("127.0.0.1")) as second:
            first.answers["/c"] = leads_to(f"{second.url}/c")
            trusting(store, tmp_path, TOKEN, credentials=own).obtain(wanted(f"{first.url}/b"), Silent())
        first.answers["/e"] = reply(b"", "401 Unauthorized")
        printed = [
            failing(trusting(store, tmp_path, environ, credentials=credentials), url)
            for environ, credentials, url in (
                (TOKEN, own, f"{origin.url}/401"),
                ({}, own, f"{first.url}/e"),
                ({}, (), f"{origin.url}/403"),
                ({"MY_TOKEN": "ENV\nSECRET"}, own, f"{first.url}/e"),
            )
        ]
    assert [request.headers.get("private-token") for request in first.requests] == ["ENVSECRET"] * 2 + [None] * 2
    assert all("private-token" not in request.headers for request in [*second.requests, *origin.requests])
    reasons = (
        'no credentials were sent because [tool.doit-fetch.auth."127.0.0.1"] applies to https only',
        'because the environment variable MY_TOKEN of [tool.doit-fetch.auth."127.0.0.1"] is not set',
        'netrc file, to `headers:` of the definition, or to [tool.doit-fetch.auth."127.0.0.1"]; else open',
        "the environment variable MY_TOKEN contains a character that HTTP does not allow",
    )
    assert [reason in text for reason, text in zip(reasons, printed, strict=True)] == [True] * 4
    assert "SECRET" not in "".join(printed)


def failing(sources: Downloader, url: str, **headers: str) -> str:
    """Return the message of a download of `OTHER` that fails."""
    with pytest.raises(AllSourcesFailedError) as caught:
        sources.obtain(wanted(url, headers=headers, content=OTHER), Silent())
    return str(caught.value)


ECHOES = {
    "401": reply(b"you sent Bearer S3CRET-word", "401 Unauthorized", Content_Type="text/plain"),
    "cut quotation": reply(b"x" * 50 + b" S3CRET-word", "404 Not Found", Content_Type="text/plain"),
    "reason": reply(b"", "400 S3CRET-word"),
    "same size": reply(b"S3CRET-word".ljust(len(BODY))),
    "page": reply(b"<html><title>S3CRET-word</title>"),
    "JSON": reply(b'{"message": "Authorization: Bearer S3CRET-word"}', ETag='"S3CRET-word"'),
    "cut body": reply(b"S3CRET-word", Content_Length=str(len(BODY)), ETag='"S3CRET-word"'),
    "date": reply(b"x" * len(BODY), Date="S3CRET-word"),
    "password": reply(b"the password hunter2 is wrong".ljust(len(BODY))),
    "query": reply(b"no /a?key=Q3ERY-word here", "404 Not Found", Content_Type="text/plain"),
    "location": leads_to("/S3CRET-word"),
}


@pytest.mark.parametrize("case", ECHOES)
def test_an_answer_that_repeats_a_secret(case: str, store: Cache, tmp_path: Path) -> None:
    """An answer that contains a credential of the request is neither quoted nor kept."""
    headers = {} if case == "password" else {"Authorization": "Bearer S3CRET-word"}
    sources = trusting(store, tmp_path, netrc=netrc_for(tmp_path))
    with serving({"/a": ECHOES[case], "/S3CRET-word": reply(b"y")}) as origin:
        printed = failing(sources, f"{origin.url}/a?key=Q3ERY-word", **headers)
    secrets = ("S3CRET", "Q3ERY", "hunter2")
    assert [one for one in secrets if one in printed] == []
    kept = b"".join(path.read_bytes() for path in store.root.rglob("*") if path.is_file())
    assert [one for one in secrets if one.encode() in kept] == []


# --- proxies ------------------------------------------------------------------------------------


def test_proxy(store: Cache, tmp_path: Path, origin: Origin) -> None:
    """A proxy receives the whole URL, and only it receives its password; NO_PROXY bypasses it."""
    with serving({}) as proxy:
        url = f"{origin.url}/a"
        proxy.answers[url] = reply(b"", "503 X")
        proxies = {"http": proxy.url.replace("//", "//user:hunter2@")}
        with pytest.raises(AllSourcesFailedError) as caught:
            trusting(store, tmp_path, proxies=proxies).obtain(wanted(url), Silent())
        assert "hunter2" not in str(caught.value)
        assert proxy.requests[0].path == url
        assert "proxy-authorization" in proxy.requests[0].headers
        assert not origin.requests
        trusting(store, tmp_path, proxies=proxies, no_proxy="127.0.0.0/8").obtain(wanted(url), Silent())
        assert "proxy-authorization" not in origin.requests[0].headers


def tunnelling(seen: list[bytes], status: bytes = b"200 OK") -> Callable[[socket.socket], None]:
    """Return a proxy that connects, or refuses with another status."""

    def answer(connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(4096)
        seen.append(head)
        connection.sendall(b"HTTP/1.1 " + status + b"\r\n\r\n")
        if status[:1] != b"2":
            return
        host, port = head.split()[1].decode().split(":")
        with socket.create_connection((host, int(port))) as onward:
            back = threading.Thread(target=pump, args=(onward, connection), daemon=True)
            back.start()
            pump(connection, onward)
            back.join()

    return answer


def pump(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    with contextlib.suppress(OSError):
        other.shutdown(socket.SHUT_RDWR)


def test_tunnel(store: Cache, tmp_path: Path) -> None:
    """Https uses a tunnel through the proxy; a refusal is reported as such."""
    seen: list[bytes] = []
    with serving({"/a": reply(BODY)}, https("127.0.0.1")) as origin:
        with listening(tunnelling(seen, b"407 Login")) as port:
            proxies = {"https": f"http://u:hunter2@127.0.0.1:{port}"}
            with pytest.raises(AllSourcesFailedError, match="407 Login"):
                trusting(store, tmp_path, proxies=proxies).obtain(wanted(f"{origin.url}/a"), Silent())
        with listening(tunnelling(seen)) as port:
            proxies = {"https": f"http://u:hunter2@127.0.0.1:{port}"}
            trusting(store, tmp_path, proxies=proxies).obtain(
                wanted(f"{origin.url}/a", headers={"X-Api-Key": "hunter4"}), Silent()
            )
        assert b"Proxy-Authorization" in seen[-1]
        assert b"hunter4" not in b"".join(seen)
        assert "proxy-authorization" not in origin.requests[0].headers


PASSED = [b"200 Connection established", b"204 No Content", b"200 OK\r\nTransfer-Encoding: chunked", b"200 "]


@pytest.mark.parametrize("status", PASSED)
def test_every_success_of_a_proxy_is_a_tunnel(status: bytes, store: Cache, tmp_path: Path) -> None:
    """Any 2xx status opens the tunnel, and header fields about a body are ignored. Source: RFC 9110 section 9.3.6."""
    with serving({"/a": reply(BODY)}, https("127.0.0.1")) as origin, listening(tunnelling([], status)) as port:
        proxies = {"https": f"http://127.0.0.1:{port}"}
        trusting(store, tmp_path, proxies=proxies).obtain(wanted(f"{origin.url}/a"), Silent())
    assert store.has(PINNED)


#: what the proxy says -> how often it is asked, and the next step
NO_TUNNEL = {
    b"407 Login": (1, "the proxy requires a login"),
    b"403 Forbidden": (1, "check the proxy"),
    b"503 Busy": (2, "check the proxy"),
}


@pytest.mark.parametrize("status", NO_TUNNEL)
def test_no_tunnel(status: bytes, store: Cache, tmp_path: Path) -> None:
    """A temporary failure of the proxy is retried, a permanent one is not; the hint is about the proxy."""
    seen: list[bytes] = []
    asked, hint = NO_TUNNEL[status]
    with listening(tunnelling(seen, status)) as port, pytest.raises(AllSourcesFailedError) as caught:
        proxies = {"https": f"http://127.0.0.1:{port}"}
        trusting(store, tmp_path, proxies=proxies).obtain(wanted("https://127.0.0.1:1/a"), Silent())
    assert len(seen) == asked
    assert caught.value.hint.startswith(hint)


def test_the_next_step_is_about_the_proxy(store: Cache, tmp_path: Path) -> None:
    """The hint for a proxy that requires a login or is unreachable is not about the URL."""
    with serving({"http://h.invalid/a": reply(b"", "407 Login")}) as proxy:
        pass_by = (({"http": proxy.url}, "the proxy requires a login"), ({"http": "127.0.0.1:1"}, "check the proxy"))
        for proxies, hint in pass_by:
            with pytest.raises(AllSourcesFailedError) as caught:
                trusting(store, tmp_path, proxies=proxies).obtain(wanted("http://h.invalid/a"), Silent())
            assert caught.value.hint.startswith(hint)


def test_unsupported_proxy(store: Cache, tmp_path: Path, origin: Origin) -> None:
    """The error for an unsupported kind of proxy omits its password; no request bypasses it."""
    proxies = {"http": "socks5://u:hunter2@127.0.0.1:1"}
    with pytest.raises(AllSourcesFailedError, match="only http:// proxies") as caught:
        trusting(store, tmp_path, proxies=proxies).obtain(wanted(f"{origin.url}/a"), Silent())
    assert "hunter2" not in str(caught.value)
    assert not origin.requests


@pytest.mark.parametrize(
    "proxy", ["u:hunter2@h:80a", "u:hunter2@h:99999", "u:hunter2@", "u:hunter2@[::1", "u:hun/ter2@h"]
)
def test_the_password_of_an_unreadable_proxy(proxy: str, store: Cache, tmp_path: Path, origin: Origin) -> None:
    """An invalid proxy without scheme is not quoted, because it may contain a password."""
    with pytest.raises(AllSourcesFailedError, match="only http:// proxies") as caught:
        trusting(store, tmp_path, proxies={"http": proxy}).obtain(wanted(f"{origin.url}/a"), Silent())
    assert not {"hunter2", "ter2"} & set(re.findall("[a-z0-9]+", str(caught.value)))
    assert not origin.requests


NO_PROXY = {
    "*": True,
    "127.0.0.1": True,
    "127.0.0.0/8, example.org": True,
    "127.0.0.1:1": False,
    "example.org": False,
    ".0.0.1": True,  # a suffix is a suffix
    "7.0.0.1": False,
    "example.org 127.0.0.1": True,  # curl takes blanks too
    "127.0.0.1:\u00b2": False,
    "127.0.0.1:" + "9" * 5000: False,
}


@pytest.mark.parametrize("text", NO_PROXY)
def test_no_proxy(text: str, store: Cache, tmp_path: Path, origin: Origin) -> None:
    """NO_PROXY names hosts, domains, networks and ports."""
    with serving({}) as proxy:
        proxy.answers[f"{origin.url}/a"] = reply(BODY)
        sources = trusting(store, tmp_path, proxies={"http": proxy.url}, no_proxy=text)
        sources.obtain(wanted(f"{origin.url}/a"), Silent())
        assert bool(origin.requests) is NO_PROXY[text]


def test_garbage_from_a_proxy(store: Cache, tmp_path: Path) -> None:
    """A server that is not a proxy is distinguished from a failing origin."""
    with (
        serving({"127.0.0.1:9": raw(b"hello\r\n\r\n")}) as proxy,
        pytest.raises(AllSourcesFailedError, match="cannot open a tunnel"),
    ):
        trusting(store, tmp_path, proxies={"https": proxy.url}).obtain(wanted("https://127.0.0.1:9/a"), Silent())
