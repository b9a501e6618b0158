"""What every kind of store does: the same tests over a directory, nginx, rclone, OpenStack Swift and moto."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

import pytest

from tasks_lib.errors import StoreRefusedError, StoreUnavailableError
from tasks_lib.store import EMPTY, Store, blob_key, record_key
from tests.stores import SERVERS, Server

SLOW = {"swift", "moto"}  # they need seconds to start
CONTENT = b"0123456789" * 1000
KEY = blob_key(hashlib.sha256(CONTENT).hexdigest())
RECORD = record_key("a" * 64)


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in SERVERS]
)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield each server once for all tests of this module."""
    with SERVERS[request.param](tmp_path_factory.mktemp(request.param)) as one:
        yield one


@pytest.fixture
def shop(server: Server) -> Iterator[Store]:
    """Yield a store, emptied afterwards where it can list."""
    one = server.make("right")
    yield one
    one.delete([item.key for item in one.list()] if one.can_list else [KEY, RECORD, EMPTY])


def put(one: Store, key: str, content: bytes) -> None:
    one.put(key, io.BytesIO(content), len(content))


def test_what_was_put_is_found_and_read(shop: Store) -> None:
    """Content and records come back byte for byte, and the store knows their sizes."""
    for key, content in ((KEY, CONTENT), (RECORD, b"{}")):
        put(shop, key, content)
        found = shop.find(key)
        assert found is not None and found.key == key and found.size == len(content)
        assert shop.read(key, len(content)) == content


def test_absent(shop: Store) -> None:
    """An absent item is not an error: an empty store has neither content nor records, and answers."""
    shop.probe()
    assert shop.find(KEY) is None and shop.find(RECORD) is None
    assert shop.read(KEY, 10) is None and shop.read(RECORD, 10) is None
    shop.delete([KEY])


def test_empty_blob(shop: Store) -> None:
    """The empty blob is held as any other one."""
    put(shop, EMPTY, b"")
    found = shop.find(EMPTY)
    assert found is not None and found.size == 0
    assert shop.read(EMPTY, 10) == b""


def test_reading_is_bounded(shop: Store) -> None:
    """A small item is read up to one byte more than expected, so that a larger one is noticed."""
    put(shop, RECORD, CONTENT)
    assert shop.read(RECORD, 100) == CONTENT[:101]


def test_writing_again_replaces(shop: Store) -> None:
    """A writer repairs wrong content, and replaces a record."""
    put(shop, KEY, b"wrong" * 5000)
    put(shop, KEY, CONTENT)
    assert shop.read(KEY, len(CONTENT)) == CONTENT


def test_writing_begins_at_the_position_of_the_file(shop: Store) -> None:
    """`size` bytes from the position are written, and no more."""
    file = io.BytesIO(b"before" + CONTENT + b"after")
    file.seek(6)
    shop.put(KEY, file, len(CONTENT))
    assert shop.read(KEY, len(CONTENT) + 20) == CONTENT


def test_large_content(shop: Store, tmp_path: Path) -> None:
    """Content of many buffers is streamed from a file, unchanged."""
    content = bytes(range(256)) * (40 << 10)
    (tmp_path / "file").write_bytes(content)
    with (tmp_path / "file").open("rb") as file:
        shop.put(KEY, file, len(content))
    assert shop.read(KEY, len(content)) == content


def test_content_that_ends_early_is_not_visible(shop: Store) -> None:
    """An upload that cannot be completed leaves nothing."""
    with pytest.raises((StoreUnavailableError, StoreRefusedError)):
        shop.put(KEY, io.BytesIO(CONTENT), len(CONTENT) + 100_000)
    assert shop.find(KEY) is None


def test_range(shop: Store) -> None:
    """The location of an item serves a part of it, which resumes a download."""
    put(shop, KEY, CONTENT)
    url, headers = shop.locate("GET", KEY)
    if shop.transport is None:
        assert Path(unquote(urlsplit(url).path)).read_bytes()[9000:] == CONTENT[9000:]
        return
    with shop.transport.open(url, headers=headers, size=len(CONTENT), offset=9000) as response:
        assert response.start == 9000
        assert b"".join(response.chunks(2000)) == CONTENT[9000:]


def test_list_and_delete(shop: Store) -> None:
    """A store that lists names every item with its size and time; deleted ones are gone."""
    if not shop.can_list:
        with pytest.raises(StoreRefusedError, match="list"):
            list(shop.list())
        pytest.skip("this kind of store has no listing")
    contents = {blob_key(hashlib.sha256(bytes([one])).hexdigest()): bytes([one]) * one for one in range(1, 30)}
    contents[RECORD] = b"{}"
    for key, content in contents.items():
        put(shop, key, content)
    listed = list(shop.list())
    assert {item.key: item.size for item in listed} == {key: len(content) for key, content in contents.items()}
    assert all(abs(item.modified_s - listed[0].modified_s) < 300 for item in listed)
    shop.delete([*contents][:20])
    assert {item.key for item in shop.list()} == {*[*contents][20:]}


def test_wrong_credential(server: Server, shop: Store) -> None:
    """A wrong credential is a refusal, which waiting does not change, and names neither the secret nor a signed URL."""
    if server.unlike:
        pytest.skip(server.unlike)
    put(shop, KEY, CONTENT)
    wrong = server.make("wrong")
    attempts: list[Callable[[], object]] = [lambda: put(wrong, KEY, b"x"), lambda: wrong.delete([KEY])]
    if server.refuses_reads:
        attempts += [lambda: wrong.find(KEY), lambda: wrong.read(KEY, 10), wrong.probe, lambda: list(wrong.list())]
    for attempt in attempts:
        with pytest.raises(StoreRefusedError) as caught:
            attempt()
        assert "wrong" not in str(caught.value) and "X-Amz" not in str(caught.value)
    assert shop.read(KEY, len(CONTENT)) == CONTENT


class Slow(io.BytesIO):
    """A file that is read in small pieces, so that writers overlap."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size, 512) if size is not None and size >= 0 else 512)


@pytest.mark.parametrize("blobs", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_writers_of_the_same_blobs(server: Server, shop: Store, blobs: int) -> None:
    """Eight writers of the same blobs at once, each with a client of its own: every blob is complete afterwards."""
    contents = [bytes([one]) * 3000 for one in range(blobs)]
    keys = [blob_key(hashlib.sha256(content).hexdigest()) for content in contents]
    clients = [server.make("right") for _ in range(8)]
    failures: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for at in range(blobs):
                one = (at + number) % blobs
                file: BinaryIO = Slow(contents[one])
                clients[number].put(keys[one], file, len(contents[one]))
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    assert failures == []
    server.forget()
    assert [shop.read(key, 3000) for key in keys] == contents
    shop.delete(keys)
