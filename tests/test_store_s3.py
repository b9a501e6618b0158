"""Buckets as stores: credentials, endpoints and the extra; tests/test_store_contract.py has what all stores do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tasks_lib.errors import SettingError, StoreRefusedError, StoreUnavailableError
from tasks_lib.network import TransportSettings
from tasks_lib.store import EMPTY, Store, parse_stores
from tasks_lib.store.http import store_settings
from tasks_lib.store.opening import open_store
from tasks_lib.store.records import generate_key
from tasks_lib.transport import Transport
from tests.origin import reply, serving
from tests.project import DODO, LIBRARY, definition, doit, ran, written
from tests.stores import ACCESS, SECRET, Server, environment, free_port, moto, rclone


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the credentials of the machine; obstore's look-up on link-local goes to a port where nothing listens."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_", "AZURE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{free_port()}")


def opened(url: str) -> Store:
    return open_store(parse_stores(url)[0], Transport(TransportSettings(connect_timeout_s=2)), {})


def test_signed_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request has a signature of its own in the query, for an hour and without the secret."""
    for name, value in environment("https://s3.example").items():
        monkeypatch.setenv(name, value)
    store = opened("s3://bucket/a%20b/c/")
    get, put = (store.locate("GET", EMPTY), store.locate("PUT", EMPTY))
    assert get.url.startswith(f"https://s3.example/bucket/a%20b/c/{EMPTY}?X-Amz-")
    assert "X-Amz-Expires=3600" in get.url and SECRET not in get.url and get.headers == {}
    assert get.url != put.url


def test_plain_http_to_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signed URL is a credential: it is not sent over plain http, except to this machine."""
    for name, value in environment("http://s3.example").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreRefusedError, match="plain http") as caught:
        opened("s3://bucket").find(EMPTY)
    assert "X-Amz" not in str(caught.value)


def test_no_credentials() -> None:
    """Without credentials the store refuses, names the variables, and does not look for them again."""
    store = opened("s3://bucket/prefix")
    with pytest.raises(StoreRefusedError, match=r"(?s)no credentials for signing.*AWS_ACCESS_KEY_ID") as first:
        store.probe()
    with pytest.raises(StoreRefusedError) as second:
        store.read(EMPTY, 10)
    assert second.value is first.value


@pytest.mark.parametrize("url", ["gs://bucket/prefix", "az://container/prefix"])
def test_other_clouds_without_credentials(url: str) -> None:
    """Google's and Azure's buckets, which are untested, are at least refused clearly."""
    with pytest.raises((StoreRefusedError, SettingError)) as caught:
        opened(url).find(EMPTY)
    assert "bucket" in str(caught.value) or "container" in str(caught.value)
    assert str(caught.value).count("\n") <= 2


def test_nothing_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that does not answer is an outage, not a refusal."""
    for name, value in environment(f"http://127.0.0.1:{free_port()}").items():
        monkeypatch.setenv(name, value)
    store = opened("s3://bucket")
    for attempt in (store.probe, lambda: list(store.list())):
        with pytest.raises(StoreUnavailableError):
            attempt()


def test_missing_extra(tmp_path: Path) -> None:
    """Without obstore the setting is an error that names the extra."""
    (tmp_path / "obstore.py").write_text("raise ImportError('not here')\n")
    code = (
        "from tasks_lib.transport import Transport\nfrom tasks_lib.store import parse_stores\n"
        "from tasks_lib.store.opening import open_store\nfrom tasks_lib.errors import SettingError\n"
        "try:\n    open_store(parse_stores('s3://bucket/x')[0], Transport(), {})\n"
        "except SettingError as error:\n    print(error)\n"
    )
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parent.parent}"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout == (
        "the store s3://bucket/x needs the Python package `obstore`, which is not installed\n"
        "pip install 'doit-fetch[s3]'\n"
    )


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Server]:
    """Yield a running S3 server."""
    with rclone(tmp_path) as server:
        yield server


def test_netrc_is_not_for_buckets(bucket: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login in netrc for the host of the endpoint is not added to a signed URL, which allows one credential only."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password hunter2\n")
    for name, value in environment(bucket.url).items():
        monkeypatch.setenv(name, value)
    (address,) = parse_stores("s3://bucket/x")
    settings = store_settings(TransportSettings(netrc=str(tmp_path / "netrc")), address)
    assert open_store(address, Transport(settings), {}).find(EMPTY) is None


def test_another_access_key(bucket: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown access key is refused, with the variables as the next step."""
    for name, value in {**environment(bucket.url), "AWS_ACCESS_KEY_ID": f"x{ACCESS}"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreRefusedError, match=r"(?s)403.*AWS_ACCESS_KEY_ID"):
        opened("s3://bucket").probe()
    with pytest.raises(StoreRefusedError, match=r"(?s)403.*AWS_ACCESS_KEY_ID"):
        list(opened("s3://bucket").list())


def test_runs_over_s3(bucket: Server, tmp_path: Path) -> None:
    """One checkout writes content and a signed result to a bucket; another one needs neither origin nor repacking."""
    more = "    artifact-name: lib.tar.zst\n"
    with serving({"/lib-1.0.tar": reply(LIBRARY)}) as origin:
        files = {
            "dodo.py": DODO,
            "fetchdefs/fetch/all.yml": definition("lib", f"{origin.url}/lib-1.0.tar", LIBRARY, more),
        }
        first, second = written(tmp_path / "first", files), written(tmp_path / "second", files)
        environ = {**environment(bucket.url), "FETCH_STORE": "s3://bucket/a%20b", "FETCH_STORE_WRITE": "always"}
        generate_key(tmp_path / "key")
        for one in (first, second):
            (one / "fetchdefs/keys/store").mkdir(parents=True)
            shutil.copy(tmp_path / "key.pub", one / "fetchdefs/keys/store")
        ran(doit(first, **environ, FETCH_STORE_SIGNING_KEY=str(tmp_path / "key")))
        asked = len(origin.requests)
        assert asked > 0
        done = doit(second, **environ)
        assert done.returncode == 0 and "from store s3://bucket/a%20b" in done.stdout, done.stdout
        assert len(origin.requests) == asked
    (result,) = (second / "cache/artifacts/lib").glob("*/lib.tar.zst")
    (made,) = (first / "cache/artifacts/lib").glob("*/lib.tar.zst")
    assert result.read_bytes() == made.read_bytes()
    results = [json.loads(path.read_text()) for path in (second / "cache/v1/results").glob("*/*")]
    assert any("signed by" in one["provenance"] for one in results)


@pytest.mark.parametrize(("mode", "status"), [pytest.param("never", 0, marks=pytest.mark.slow), ("always", 1)])
def test_runs_with_a_wrong_secret(bucket: Server, tmp_path: Path, mode: str, status: int) -> None:
    """A bucket that refuses is a warning, and the content comes from the origin; with `always` the run ends with 1."""
    with serving({"/lib-1.0.tar": reply(LIBRARY)}) as origin:
        files = {"dodo.py": DODO, "fetchdefs/fetch/all.yml": definition("lib", f"{origin.url}/lib-1.0.tar", LIBRARY)}
        place = written(tmp_path / "checkout", files)
        wrong = environment(bucket.url, "wrong-wrong-wrong")
        done = doit(place, **wrong, FETCH_STORE="s3://bucket", FETCH_STORE_WRITE=mode)
    assert done.returncode == status, done.stdout
    assert "403" in done.stdout and "1 fetched" in done.stdout
    assert "wrong-wrong" not in done.stdout and "X-Amz" not in done.stdout


@pytest.mark.slow
def test_conditional_write(tmp_path: Path) -> None:
    """A server with conditional writes keeps what it has under `If-None-Match: *`; we write without, to repair."""
    with moto(tmp_path) as server:
        store = server.make("right")

        headers = {"If-None-Match": "*", "Content-Type": "application/octet-stream"}

        def create(content: bytes) -> int:
            request = Request(store.locate("PUT", EMPTY).url, data=content, method="PUT", headers=headers)
            try:
                with urlopen(request, timeout=20) as answer:
                    return int(answer.status)
            except HTTPError as error:
                return int(error.code)

        assert create(b"first") == 200
        assert create(b"second") == 412
        assert store.read(EMPTY, 10) == b"first"
