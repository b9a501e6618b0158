"""The cache: an entry is absent, or complete and exactly the pinned bytes."""

import errno
import hashlib
import os
import random
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks_lib.cache import Cache, Options, Result, hashing_writer, usage
from tasks_lib.cache import partial as partial_module
from tasks_lib.cache.hash_cache import HashCache
from tasks_lib.cache.hashing_writer import HashingWriter
from tasks_lib.cache.pieces import Pieces
from tasks_lib.digest import Digest, Integrity
from tasks_lib.errors import (
    BlobCorruptError,
    BlobMissingError,
    CacheUnavailableError,
    DigestMismatchError,
    SizeMismatchError,
)
from tasks_lib.fs.atomic import write_best_effort
from tasks_lib.fs.directories import remove_tree
from tasks_lib.fs.fingerprint import Fingerprint
from tasks_lib.fs.trust import Trust
from tasks_lib.progress import Silent

BYTES = b"content" * 1000


def integrity_of(content: bytes) -> Integrity:
    return Integrity(size=len(content), digest=Digest.sha256(hashlib.sha256(content).hexdigest()))


PINNED = integrity_of(BYTES)


def put(store: Cache, content: bytes) -> Integrity:
    with store.writer() as writer:
        writer.write(content)
        return writer.commit()


def spoil(path: Path) -> None:
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(content)


def test_a_blob_is_write_once_and_plain(store: Cache) -> None:
    """A committed blob has mode 0444 and its digest as name, and no temporary file is left."""
    assert put(store, BYTES) == PINNED
    path = store.path(PINNED.digest)
    assert path.stat().st_mode & 0o777 == 0o444
    assert path.read_bytes() == BYTES
    assert list((store.root / "v1" / "tmp").iterdir()) == []


def test_missing_and_invalid_are_different_answers(store: Cache) -> None:
    """An absent blob is missing; a damaged one is reported as corrupt once, quarantined, and then missing."""
    with pytest.raises(BlobMissingError):
        store.open(PINNED)
    put(store, BYTES)
    spoil(store.path(PINNED.digest))
    with pytest.raises(BlobCorruptError, match="damaged"):
        store.open(PINNED)
    with pytest.raises(BlobMissingError):
        store.open(PINNED)
    assert list((store.root / "v1" / "quarantine").glob(f"{PINNED.digest.hex}.*"))


@pytest.mark.parametrize("fresh", ["same store", "another process"])
def test_has_notices_one_flipped_bit(store: Cache, fresh: str) -> None:
    """The hash cache never hides a change, in this process or a later one."""
    put(store, BYTES)
    assert store.has(PINNED)
    spoil(store.path(PINNED.digest))
    os.utime(store.path(PINNED.digest), (1, 1))
    store = store if fresh == "same store" else Cache(store.root)
    assert not store.has(PINNED)


def test_a_shared_cache_is_only_read(store: Cache, tmp_path: Path) -> None:
    """Digests of a shared cache are stored in the private hash cache; damaged blobs of the shared cache stay there."""
    other = put(store, b"other")
    put(store, BYTES)
    spoil(store.path(PINNED.digest))
    (store.root / "v1" / "measured").unlink(missing_ok=True)
    before = {path: Fingerprint.of(path.lstat()) for path in store.root.rglob("*")}
    private = Cache(tmp_path / "private", Options(durability="fast", shared=store.root))
    assert private.has(other)
    assert not private.has(PINNED)
    with pytest.raises(BlobCorruptError, match="could not be moved aside"):
        private.open(PINNED)
    assert {path: Fingerprint.of(path.lstat()) for path in store.root.rglob("*")} == before
    stamp = Fingerprint.of(store.path(other.digest).lstat())
    assert private.blob_directory.hash_cache.get(stamp) == other.digest.hex
    put(private, BYTES)
    with private.open(PINNED) as file:
        assert file.read() == BYTES


@pytest.mark.parametrize("replacement", ["symlink", "fifo", "directory"])
def test_only_a_regular_file_is_a_blob(store: Cache, tmp_path: Path, replacement: str) -> None:
    """A blob replaced by another kind of file is refused, without following links or blocking."""
    put(store, BYTES)
    path = store.path(PINNED.digest)
    path.unlink()
    target = tmp_path / "target"
    target.write_bytes(BYTES)
    if replacement == "symlink":
        path.symlink_to(target)
    elif replacement == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert not store.has(PINNED)
    assert target.read_bytes() == BYTES


def test_publish_keeps_the_blob_warm(store: Cache, tmp_path: Path) -> None:
    """A hard link changes the blob's ctime; the cache still does not read the blob again."""
    put(store, BYTES)
    store.publish(PINNED, tmp_path / "cache" / "artifacts" / "a.bin")
    blob = store.path(PINNED.digest)
    assert store.blob_directory.hash_cache.get(Fingerprint.of(blob.lstat())) == PINNED.digest.hex
    assert store.matches(tmp_path / "cache" / "artifacts" / "a.bin", PINNED)


def test_commit_refuses_other_bytes(store: Cache) -> None:
    """Content that does not match is never published; the error has the expected and actual values."""
    with store.writer() as writer:
        writer.write(BYTES[:-1])
        with pytest.raises(SizeMismatchError, match="expected 7000 bytes, got 6999"):
            writer.commit(PINNED)
    with store.writer() as writer:
        writer.write(BYTES[:-1] + b"x")
        with pytest.raises(DigestMismatchError):
            writer.commit(PINNED)
    assert not store.has(PINNED)


def test_a_partial_survives_only_with_its_validator(store: Cache) -> None:
    """A partial download is resumed when its validators are known."""
    with store.partial(PINNED) as partial:
        partial.restart('"etag"')
        partial.append(BYTES[:100])
    with store.partial(PINNED) as partial:
        assert (partial.size, partial.validator) == (100, '"etag"')
        partial.append(BYTES[100:])
        store.finish(partial)
    assert store.has(PINNED)
    with store.partial(PINNED) as partial:
        partial.append(b"no validator")
    with store.partial(PINNED) as partial:
        assert partial.size == 0


@pytest.mark.parametrize(("size", "step"), [(7000, 1500), (17 << 20, 3 << 20)], ids=["small", "large"])
@pytest.mark.parametrize("free", [0, 1])
def test_a_wait_writes_what_has_arrived(
    free: int, size: int, step: int, store: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """During a wait the file gets the bytes so far, and the memory for the next ones remains valid."""
    monkeypatch.setattr(hashing_writer, "_FREE_CORES", threading.Semaphore(free))
    monkeypatch.setattr(partial_module, "_MOMENT_S", -1)
    content = random.Random(size).randbytes(size)
    with store.partial(integrity_of(content)) as partial:
        partial.restart('"etag"')
        while partial.size < size:
            begin, space = partial.size, partial.space(min(step, size - partial.size))
            partial.keep()
            for path in (store.root / "v1/partial").glob("*.part"):
                while path.stat().st_size < begin:  # a thread writes
                    time.sleep(0.001)
            space[:] = content[begin : begin + len(space)]
            partial.extend(len(space))
        store.finish(partial)
    assert store.path(integrity_of(content).digest).read_bytes() == content


@pytest.mark.parametrize("waits", [True, False])
def test_wrong_content_of_a_tiny_file_is_read_in_large_parts(
    waits: bool, store: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory of an expected byte does not receive megabytes of another content byte by byte."""
    monkeypatch.setattr(partial_module, "_MOMENT_S", -1 if waits else 1000)
    with store.partial(integrity_of(b"1")) as partial:
        for _ in range(2):
            space = partial.space(1)
            partial.keep()
            space[:] = b"2"
            partial.extend(1)
        assert len(partial.space(1 << 20)) >= 64 << 10


def test_the_file_has_every_byte_that_counts(store: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader of a large download, and a map of its pieces, find the bytes that a thread has yet to write."""
    monkeypatch.setattr(hashing_writer, "_FREE_CORES", threading.Semaphore(1))
    content = random.Random(0).randbytes(17 << 20)
    with store.partial(integrity_of(content)) as partial:
        partial.restart('"etag"')
        partial.append(content[:1000])
        with partial.reading() as file:
            assert file.read() == content[:1000]
        partial.append(content[1000:2000])
        partial.split(1 << 20)
        (path,) = (store.root / "v1/partial").glob("*.part")
        assert path.read_bytes() == content[:2000]


def test_a_small_download_has_no_partial_file(store: Cache) -> None:
    """The bytes of a small download have no name before the blob has; if it ends early, they are kept for the next."""
    place = store.root / "v1/partial"
    with store.partial(PINNED) as partial:
        partial.restart('"etag"')
        partial.append(BYTES[:100])
        with partial.reading() as file:
            assert file.read() == BYTES[:100]
        assert list(place.iterdir()) == []
    assert {path.suffix for path in place.iterdir()} == {".part", ".validator"}
    with store.partial(PINNED) as partial:
        partial.restart("")
        partial.append(BYTES)
        store.finish(partial)
    assert list(place.iterdir()) == []
    with store.open(PINNED) as file:
        assert file.read() == BYTES
    store.path(PINNED.digest).unlink()
    with store.partial(PINNED) as partial:
        partial.restart("")  # no later run could continue these bytes
        partial.append(BYTES[:100])
    assert list(place.iterdir()) == []


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS syncs by fcntl()")
def test_a_large_download_is_synced_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With full durability the content is on the disk when the blob gets its name."""
    content = b"x" * (partial_module.SMALL + 1)
    integrity = Integrity.of(content)
    store = Cache(tmp_path / "c", Options(durability="full"))
    synced: list[tuple[int, bool]] = []
    for name in {"fsync", "fdatasync"} & {*dir(os)}:
        known = getattr(os, name)

        def sync(descriptor: int, known: Callable[[int], None] = known) -> None:
            known(descriptor)
            synced.append((os.fstat(descriptor).st_size, store.path(integrity.digest).exists()))

        monkeypatch.setattr(os, name, sync)
    with store.partial(integrity) as partial:
        partial.append(content)
        store.finish(partial)
    assert (len(content), False) in synced


def obtained(store: Cache, artifact: Path, content: bytes = BYTES) -> None:
    with store.partial(PINNED) as partial:
        partial.artifact = artifact
        partial.append(content)
        store.finish(partial)


def test_a_blob_gets_its_artifact_at_once(store: Cache) -> None:
    """A new blob is linked at the artifact as well, and is known under both names without hashing."""
    artifact = store.root / "artifacts/name/0123/lib.tar"
    obtained(store, artifact)
    blob = store.path(PINNED.digest)
    assert blob.samefile(artifact)
    assert store.blob_directory.hash_cache.get(Fingerprint.of(artifact.lstat())) == PINNED.digest.hex


def test_wrong_bytes_get_no_artifact(store: Cache) -> None:
    """The digest is measured before any name exists."""
    artifact = store.root / "artifacts/name/0123/lib.tar"
    with pytest.raises(DigestMismatchError):
        obtained(store, artifact, BYTES[:-1] + b"x")
    assert not artifact.exists()


@pytest.mark.parametrize("obstacle", ["file", "directory"])
def test_an_artifact_in_the_way_does_not_fail_the_blob(store: Cache, obstacle: str) -> None:
    """What cannot be linked with the blob stays as it is, and is left to `publish`."""
    artifact = store.root / "artifacts/name/0123/lib.tar"
    artifact.parent.mkdir(parents=True)
    artifact.write_bytes(b"other") if obstacle == "file" else artifact.mkdir()
    obtained(store, artifact)
    assert store.has(PINNED)
    assert artifact.is_dir() or artifact.read_bytes() == b"other"


def test_a_small_download_that_is_too_long_is_a_file(store: Cache) -> None:
    """Bytes after the expected end are kept for the diagnosis in a file, which goes to quarantine."""
    with store.partial(PINNED) as partial:
        partial.append(BYTES)
        partial.append(b"more")
        with pytest.raises(SizeMismatchError):
            store.finish(partial)
        aside = partial.quarantine("test")
    assert aside.read_bytes() == BYTES + b"more"
    assert not store.has(PINNED)


@pytest.mark.parametrize(
    ("head", "written", "missing"),
    [
        ("0 10 2", (10, 0, 10), [(10, 20)]),
        ("0 10 2", (10, 4), [(14, 20), (20, 30)]),
        ("0 10 2", (1 << 60, 11, 99), []),
        ("5 10 2", (10,), [(15, 25), (25, 30)]),
        ("0 1 2", (), [(at, at + 1) for at in range(30)]),
        ("0 10", (10,), None),
        ("0 10 1", (10,), None),
        ("30 10 2", (), None),
        ("-5 10 2", (), None),
        ("0 0 2", (), None),
        ("0 -1 2", (), None),
        ("0 2", (), None),
        ("", (), None),
    ],
)
def test_map_of_pieces(
    head: str, written: tuple[int, ...], missing: list[tuple[int, int]] | None, tmp_path: Path
) -> None:
    """A map is used only if it has the format of this version, and its pieces cover the download."""
    (tmp_path / "map").write_bytes(f"{head}\n".encode() + b"".join(one.to_bytes(8, "little") for one in written))
    found = Pieces.load(tmp_path / "map", total=30, existing_size=30)
    assert (found.missing() if found is not None else None) == missing


@pytest.mark.parametrize(("total", "is_used"), [(1 << 16, True), ((1 << 16) + 1, False)])
def test_map_of_many_pieces(total: int, is_used: bool, tmp_path: Path) -> None:
    """A map has no more pieces than memory may hold."""
    (tmp_path / "map").write_bytes(b"0 1 2\n")
    assert (Pieces.load(tmp_path / "map", total=total, existing_size=total) is not None) == is_used


def test_map_of_a_shorter_file(tmp_path: Path) -> None:
    """Bytes that the file does not have are missing, whatever its map says."""
    (tmp_path / "map").write_bytes(b"0 10 2\n" + (10).to_bytes(8, "little") * 3)
    found = Pieces.load(tmp_path / "map", total=30, existing_size=14)
    assert found is not None and found.missing() == [(14, 20), (20, 30)]


def test_piece_is_not_noted_through_a_symlink(tmp_path: Path) -> None:
    """Another file in the place of the map stays as it is."""
    pieces = Pieces.begin(tmp_path / "map", start=0, piece=10, total=30)
    (tmp_path / "other").write_text("0 10 2\n")
    (tmp_path / "map").unlink()
    (tmp_path / "map").symlink_to("other")
    with pytest.raises(OSError, match="symbolic"):
        pieces.note(10)
    assert (tmp_path / "other").read_text() == "0 10 2\n"


def test_wrong_partial_goes_to_quarantine(store: Cache) -> None:
    """Wrong bytes are kept for the report and never resumed."""
    wrong = BYTES[:-1] + b"x"
    with store.partial(PINNED) as partial:
        partial.append(wrong)
        with pytest.raises(DigestMismatchError):
            store.finish(partial)
        aside = partial.quarantine("test")
        assert partial.size == 0
    assert aside.read_bytes() == wrong
    assert not store.has(PINNED)


def test_results_round_trip(store: Cache) -> None:
    """A result is found by its key; a damaged one is ignored."""
    key = "ab" * 32
    assert store.result(key) is None
    result = Result(key=key, integrity=PINNED, provenance={"url": "https://a.invalid/x"})
    store.record(result)
    assert store.result(key) == result
    (store.root / "v1" / "results" / "ab" / key).write_text("{")
    assert store.result(key) is None


def test_an_unusable_cache_says_so(tmp_path: Path) -> None:
    """A cache directory that is a file causes one clear error."""
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(CacheUnavailableError, match="cannot be used"), Cache(tmp_path / "cache").writer():
        pass


def test_what_is_open_is_leased(store: Cache) -> None:
    """Prune keeps entries that are being read or are locked, and removes them afterwards."""
    put(store, BYTES)
    (item,) = [one for one in store.maintenance.items() if one.kind == "blob"]
    with store.maintenance.pruning(Silent()) as discard:
        with store.open(PINNED):
            assert discard(item) == "in use"
        with store.lock(item.name):
            assert discard(item) == "locked"
        assert store.has(PINNED)
        assert discard(item) == ""
    assert not store.has(PINNED)


def test_a_wrong_size_in_a_definition_harms_no_blob(store: Cache) -> None:
    """A definition with the right digest and a wrong size fails, and the blob stays in the cache."""
    put(store, BYTES)
    wrong = Integrity(size=PINNED.size + 1, digest=PINNED.digest)
    assert not store.has(wrong)
    with pytest.raises(BlobMissingError, match="expected 7001 bytes"):
        store.open(wrong)
    assert store.has(PINNED)


def test_a_second_name_never_replaces_the_first(store: Cache) -> None:
    """Writing the same content again keeps the first file; a wrong file in its place is quarantined."""
    put(store, BYTES)
    path = store.path(PINNED.digest)
    first = path.stat().st_ino
    put(store, BYTES)
    assert path.stat().st_ino == first
    spoil(path)
    put(store, BYTES)
    assert path.read_bytes() == BYTES
    assert list((store.root / "v1/quarantine").glob(f"{path.name}.*"))


class Written(bytearray):
    """The content of a file, written in order; the write at `fails_at` fails once."""

    fails_at = -1

    def write(self, offset: int, content: memoryview) -> None:
        assert offset == len(self)
        if offset >= self.fails_at >= 0:
            self.fails_at = 1 << 60
            raise OSError(errno.ENOSPC, "no space")
        self += content


@pytest.mark.parametrize("free", [0, 1])
def test_writing_and_hashing_beside(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content and digest are right for reads of any size, with a thread or without, and when requested in between."""
    chance = random.Random(free)
    monkeypatch.setattr(hashing_writer, "_FREE_CORES", threading.Semaphore(free))
    for size in (hashing_writer._LARGE - 1, hashing_writer._LARGE):
        written = Written()
        one, two = HashingWriter("sha256", size, written.write), hashlib.sha256()
        content, threads = chance.randbytes(size), set[str]()
        at = 0
        while at < size:
            space = one.space(min(size - at, chance.choice([1, 70_000, 1 << 20, 9 << 20])))
            if chance.random() < 0.3:
                one.flush()  # during the wait for the bytes
            count = chance.randint(1, len(space))
            space[:count] = content[at : at + count]
            two.update(content[at : at + count])
            one.add(count, at)
            at += count
            threads |= {thread.name for thread in threading.enumerate()}
            if chance.random() < 0.1:
                assert one.hexdigest() == two.hexdigest()
                assert bytes(written) == content[:at]
        assert one.hexdigest() == two.hexdigest()
        assert bytes(written) == content
        assert ("hash" in threads) == (free > 0 and size >= hashing_writer._LARGE)
        assert hashing_writer._FREE_CORES.acquire(blocking=False) == (free > 0)  # given back
        if free:
            hashing_writer._FREE_CORES.release()


@pytest.mark.parametrize("free", [0, 1])
def test_a_failed_write_leaves_no_gap(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error nothing more is written, so that the bytes before it can be continued; the caller gets the error."""
    monkeypatch.setattr(hashing_writer, "_FREE_CORES", threading.Semaphore(free))
    written = Written()
    written.fails_at = 10 << 20
    one, at = HashingWriter("sha256", 64 << 20, written.write), 0
    with pytest.raises(OSError, match="no space"):
        while at < 64 << 20:
            count = len(one.space(1 << 20))
            one.add(count, at)
            at += count
    with pytest.raises(OSError, match="no space"):
        one.hexdigest()
    assert at < 64 << 20
    assert len(written) <= 14 << 20
    assert (hashing_writer._FREE_CORES.acquire(blocking=False)) == (free > 0)


def test_a_buffer_is_used_again_when_all_of_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The part of a buffer that a wait hands over does not free the buffer."""
    monkeypatch.setattr(hashing_writer, "_FREE_CORES", threading.Semaphore(1))
    begun, gate = threading.Event(), threading.Event()

    def write(offset: int, content: memoryview) -> None:
        assert content
        begun.set()
        if offset:
            gate.wait()

    one = HashingWriter("sha256", hashing_writer._LARGE, write)
    first = one.space(1000)
    one.add(1000, 0)
    one.flush()
    begun.wait()
    time.sleep(0.02)  # a mistake frees the buffer now
    one.add(len(one.space(64 << 20)), 1000)
    assert one.space(1).obj is not first.obj
    gate.set()
    one.hexdigest()


@pytest.mark.parametrize("free", [0, 1])
def test_the_memory_of_a_download_is_released_at_its_end(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The buffers are released with the digest, not when the garbage collector finds the download."""
    monkeypatch.setattr(hashing_writer, "_FREE_CORES", threading.Semaphore(free))
    one, at = HashingWriter("sha256", 32 << 20, Written().write), 0
    tracemalloc.start()
    try:
        while at < 32 << 20:
            count = len(one.space(1 << 20))
            one.add(count, None)
            at += count
        one.hexdigest()
        assert tracemalloc.get_traced_memory()[0] < 256 << 10
    finally:
        tracemalloc.stop()


def test_directories_that_go_meanwhile(store: Cache, tmp_path: Path) -> None:
    """Directories that another process removed meanwhile (prune removes empty ones) are created again."""
    result = Result(key="ab" * 32, integrity=put(store, b"one"))
    for _ in range(2):
        put(store, b"one")
        store.record(result)
        store.publish(result.integrity, tmp_path / "cache/artifacts/a/k/f")
        for name in ("v1/blobs", "v1/results", "artifacts"):
            remove_tree(tmp_path / "cache" / name)
    put(store, b"one")
    store.record(result)
    store.publish(result.integrity, tmp_path / "cache/artifacts/a/k/f")
    assert store.result(result.key) == result
    assert (tmp_path / "cache/artifacts/a/k/f").read_bytes() == b"one"


def test_few_and_many_are_remembered_alike(tmp_path: Path) -> None:
    """A lookup in the text of the hash cache equals one in its table: the last line of a fingerprint, whole lines only."""
    path = tmp_path / "measured"
    stamps = [Fingerprint(1, number, 2, 3, 4) for number in range(40)]
    lines = [f"{number:064x} {stamp.text}\n" for number, stamp in enumerate(stamps)]
    lines += [f"{99:064x} {stamps[3].text}\n", f"torn {stamps[5].text}\n", f"{7:064x} {stamps[39].text}"]
    for first in (0, 30):  # the first ones are looked for in the text
        path.write_text("".join(lines))
        path.chmod(0o600)
        hash_cache = HashCache(path, Trust())
        for stamp in stamps[10 : 10 + first]:
            assert hash_cache.get(stamp) == f"{stamp.inode:064x}"
        assert hash_cache.get(stamps[3]) == f"{99:064x}"
        assert hash_cache.get(stamps[39]) == f"{39:064x}"
        assert hash_cache.get(stamps[5]) == f"{5:064x}"
        assert hash_cache.get(Fingerprint(1, 0, 2, 3, 44)) == hash_cache.get(Fingerprint(11, 0, 2, 3, 4)) == ""
        with path.open("a") as file:
            file.write(f"\n{8:064x} {Fingerprint(9, 9, 9, 9, 9).text}\n")
        assert hash_cache.get(Fingerprint(9, 9, 9, 9, 9)) == f"{8:064x}"


def test_a_partial_that_cannot_be_continued_is_closed(store: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error while an earlier download is read leaves no open file."""
    with store.partial(PINNED) as partial:
        partial.restart('"etag"', "http://h")
        partial.append(BYTES[:10])
    (note,) = (store.root / "v1/partial").glob("*.validator")
    note.unlink()

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "ftruncate", fail)
    before = os.dup(0)
    os.close(before)
    with pytest.raises(CacheUnavailableError), store.partial(PINNED):
        pass
    after = os.dup(0)
    os.close(after)
    assert after == before


def test_no_space_leaves_nothing_of_a_download(store: Cache) -> None:
    """A partial file that found no space is removed with its notes, which would describe other bytes later."""
    with pytest.raises(CacheUnavailableError), store.partial(PINNED) as partial:
        partial.restart('"etag"', "http://h")
        partial.append(BYTES[:10])
        partial.split(5)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not list((store.root / "v1/partial").iterdir())


def test_hints_leave_nothing(tmp_path: Path) -> None:
    """The temporary file of a best-effort write that was killed is removed by the next write; others stay."""
    for name in (".a[b.stamp.0123abcd", ".a[b.stamp.x", ".a[b.stampede", "a[b.stamp"):
        (tmp_path / name).write_bytes(b"old")
    write_best_effort(tmp_path / "a[b.stamp", b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        ".a[b.stampede": b"old",
        "a[b.stamp": b"new",
    }
    write_best_effort(tmp_path / "none/a", b"new")


def test_a_torn_note_of_definitions(tmp_path: Path) -> None:
    """A torn note of a directory that uses the cache is written again by the next run there."""
    store = Cache(tmp_path / "cache")
    store.join(tmp_path / "defs", "one")
    (note,) = [path for path in (tmp_path / "cache/v1/roots").iterdir() if not path.suffix]
    for torn in (b"", b"\0" * 40, note.read_bytes()[:11]):
        note.write_bytes(torn)
        Cache(tmp_path / "cache").join(tmp_path / "defs", "one")
        assert list(store.maintenance.definitions().values()) == [tmp_path / "defs"]


TORN = (
    b"\0\0\0\0 17 1\n1\xff\xfe 5\n\xc2\xb2 \xc2\xb2 \xc2\xb2\nab \xc2\xb2\n-1 0 0\n"
    + b"9" * 5000
    + b" 1 1\n1 2 3 4\n17 1\x0b2\n"
)


def test_torn_notes(tmp_path: Path) -> None:
    """Lines that a power loss tore are dropped from the notes; the others count, and the notes can be rewritten."""
    (tmp_path / "runs").write_bytes(b"100 2 1\n" + TORN + b"200 3 0\n300 4")
    (tmp_path / "used").write_bytes(b"ab12 100\n" + TORN + b"cd34 200\n")
    assert usage.read_runs(tmp_path) == [(100, 2, 1), (200, 3, 0)]
    uses = usage.read_last_uses(tmp_path)
    assert {"ab12", "cd34"} <= set(uses) <= {"ab12", "cd34", "17"}
    usage.compact(tmp_path, uses)
    assert usage.read_last_uses(tmp_path) == uses
