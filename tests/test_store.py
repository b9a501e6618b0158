"""Shared stores: addresses, and the interface over a directory and over HTTP."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks_lib.errors import SettingError
from tasks_lib.settings import Settings
from tasks_lib.store import parse_stores
from tests.project import DODO, doit


@pytest.mark.parametrize(
    ("text", "name", "url"),
    [
        ("https://Cache.Example/p/", "cache.example", "https://cache.example/p"),
        ("http://127.0.0.1:80/cas", "127.0.0.1:80", "http://127.0.0.1:80/cas"),
        ("https://[::1]:8/x", "[::1]:8", "https://[::1]:8/x"),
        ("s3://bucket/prefix", "s3://bucket/prefix", "s3://bucket/prefix"),
        ("gs://bucket", "gs://bucket", "gs://bucket"),
        ("az://container/p", "az://container/p", "az://container/p"),
        ("file:///srv/a%20b", "file:///srv/a%20b", "file:///srv/a%20b"),
        ("taskcluster+https://tc.example/gecko/3", "taskcluster+https://tc.example/gecko/3", "taskcluster+https://tc.example/gecko/3"),
    ],
)  # fmt: skip
def test_an_address_of_each_kind(text: str, name: str, url: str) -> None:
    """Each kind of store has an address with a name and a URL without a slash at its end."""
    (address,) = parse_stores(text)
    assert (address.name, address.url) == (name, url)


@pytest.mark.parametrize(
    "text",
    [
        "https://user:hunter2@cache.example/p",
        "https://hunter2@cache.example/p",
        "https://cache.example/p?sig=hunter2",
        "https://cache.example/p#hunter2",
        "https://cache.example/hunter2 x",
        "s3://hunter2:hunter2@bucket/p",
        "ftp://cache.example/hunter2",
        "https:///hunter2",
        "hunter2",
        "file://host/hunter2",
        "file:hunter2",
        "https://cache.example:port/hunter2",
        "https://cache.example/a/../hunter2",
        "s3://bucket:9000/hunter2",
        "taskcluster+https://tc.example/hunter2",
        ",".join(f"https://h{number}/hunter2" for number in range(9)),
    ],
)
def test_an_invalid_address_is_not_quoted(text: str) -> None:
    """An invalid URL is an error of the setting that does not quote it: it may contain a credential."""
    with pytest.raises(SettingError) as caught:
        parse_stores(text)
    assert "hunter2" not in str(caught.value)


def test_a_list_of_addresses_keeps_its_order() -> None:
    """Blank and repeated entries of the list are dropped, the order stays."""
    found = parse_stores(" https://b/x, file:///y ,, https://b/x/")
    assert [one.url for one in found] == ["https://b/x", "file:///y"]


def test_names_and_none() -> None:
    """A store is named by its host, two on one host by their URLs; `none` is no store."""
    assert [one.name for one in parse_stores("https://b/x,https://c/y")] == ["b", "c"]
    names = [one.name for one in parse_stores("https://b/x,https://b/y,https://c/z")]
    assert names == ["https://b/x", "https://b/y", "c"]
    assert parse_stores("none") == parse_stores("") == ()


@pytest.mark.parametrize(
    ("text", "private"),
    [("https://h/x", True), ("http://h/x", False), ("http://127.0.0.1/x", True), ("http://localhost:9/x", True), ("http://[::1]/x", True)],
)  # fmt: skip
def test_only_a_private_address_gets_credentials(text: str, private: bool) -> None:
    """A credential goes over TLS or to this machine only."""
    assert parse_stores(text)[0].is_private is private


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"FETCH_STORE": "https://u:hunter2@h/x"}, "contains a user name or password"),
        ({"FETCH_STORE": "https://h/x?sig=hunter2"}, "contains a query or fragment"),
        ({"FETCH_STORE": "http://h.example/x", "FETCH_STORE_TOKEN": "hunter2"}, "not sent over plain http"),
        ({"FETCH_STORE": "https://h/x,https://i/x", "FETCH_STORE_TOKEN": "hunter2"}, "for one http store"),
        ({"FETCH_STORE": "https://h/x", "FETCH_STORE_TOKEN": "hunter2\nX: y"}, "character that HTTP does not allow"),
        ({"FETCH_STORE": "https://h/x", "FETCH_STORE_TRUST": "all"}, "expected one of signed, any, none"),
        ({"FETCH_STORE": "https://h/x", "FETCH_STORE_WRITE": "yes"}, "expected one of auto, always, never"),
    ],
)
def test_invalid_settings_of_stores(environ: dict[str, str], said: str) -> None:
    """A setting that would expose a credential is refused before anything is asked, without echoing it."""
    with pytest.raises(SettingError, match=said) as caught:
        Settings.parse(variables={}, environ=environ)
    assert "hunter2" not in str(caught.value)


def test_the_page_of_settings_shows_no_credential(tmp_path: Path) -> None:
    """`doit help settings` does not quote an invalid store."""
    (tmp_path / "dodo.py").write_text(DODO)
    shown = doit(tmp_path, "help", "settings", FETCH_STORE="https://h/x?sig=hunter2")
    assert "contains a query or fragment" in shown.stdout and "hunter2" not in shown.stdout
