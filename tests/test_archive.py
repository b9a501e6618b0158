"""Exactly the tree that the archive describes, or a clean refusal; never outside, never partial."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import resource
import stat
import subprocess
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tasks_lib import archive, formats
from tasks_lib.archive import Reshape
from tasks_lib.definitions import json_schema
from tasks_lib.errors import ArchiveError, TreeError
from tasks_lib.fs.directories import remove_tree
from tasks_lib.limits import Limits
from tasks_lib.progress import Silent
from tasks_lib.tree.extraction import Extraction
from tests import archives as headers
from tests.archives import Member, gnu, record, tar, tar_header, zipped

LIMITS = Limits(
    max_total_bytes=64 << 20,
    max_entries=1000,
    max_metadata_bytes=1 << 16,
    max_names_bytes=1 << 18,
)


def extract(data: bytes, kind: str, destination: Path, reshape: Reshape | None = None) -> Extraction:
    slot = Extraction(destination, destination.parent / "records" / f"{hashlib.sha256(data).hexdigest()[:8]}.json")
    slot.extract(
        io.BytesIO(data), name="a", format=kind, reshape=reshape or Reshape(), limits=LIMITS, key="k", progress=Silent()
    )
    return slot


def repacked(
    data: bytes,
    kind: str,
    reshape: Reshape | None = None,
    mtime: int = formats.mtime_for(None),
    limits: Limits = LIMITS,
    **options: Any,
) -> bytes:
    out = io.BytesIO()
    archive.repack(
        io.BytesIO(data), name="a", format=kind, reshape=reshape or Reshape(), limits=limits._replace(**options),
        mtime=mtime, spool=io.BytesIO(), write=out.write, progress=Silent(),
    )  # fmt: skip
    return out.getvalue()


def tree_of(root: Path) -> dict[str, str]:
    """Return path -> entry, without following symlinks."""
    found = {}
    for directory, directories, files in os.walk(os.fsencode(root)):
        for name in directories + files:
            path = os.path.join(directory, name)  # noqa: PTH118 - names are bytes
            status = os.lstat(path)
            mode = "x" if status.st_mode & 0o100 else "-"
            if stat.S_ISLNK(status.st_mode):
                what = f"-> {os.fsdecode(os.readlink(path))}"  # noqa: PTH115
            elif stat.S_ISDIR(status.st_mode):
                what = "directory"
            else:
                with open(path, "rb") as file:  # noqa: PTH123
                    what = mode + hashlib.sha256(file.read()).hexdigest()
            found[os.fsdecode(os.path.relpath(path, os.fsencode(root)))] = what
    return found


PLAIN = (
    Member("d/"),
    Member("d/a.txt", b"hello"),
    Member("d/run", b"#!/bin/sh\n", mode=0o755),
    Member("d/empty/"),
    Member("d/link", kind=b"2", target="a.txt"),
    Member("d/hard", kind=b"1", target="d/a.txt"),
)
EXPECTED = {
    "d": "directory",
    "d/a.txt": "-" + hashlib.sha256(b"hello").hexdigest(),
    "d/run": "x" + hashlib.sha256(b"#!/bin/sh\n").hexdigest(),
    "d/empty": "directory",
    "d/link": "-> a.txt",
    "d/hard": "-" + hashlib.sha256(b"hello").hexdigest(),
}
GZ, BZ, XZ = gzip.compress, bz2.compress, lzma.compress
ZST = zstandard.ZstdCompressor(write_checksum=True).compress
SKIPPABLE = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"


ACCEPTED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "tar": ("tar", bytes),
    "gz": ("tar.gz", GZ),
    "bz2": ("tar.bz2", BZ),
    "xz": ("tar.xz", XZ),
    "zst": ("tar.zst", ZST),
    "gz of two members": ("tar.gz", lambda data: GZ(data[:700]) + GZ(data[700:])),
    "gz padded": ("tar.gz", lambda data: GZ(data) + bytes(100)),
    "bz2 of two streams": ("tar.bz2", lambda data: BZ(data[:700]) + BZ(data[700:])),
    "xz padded between": ("tar.xz", lambda data: XZ(data[:700]) + bytes(8) + XZ(data[700:])),
    "zst of two frames": ("tar.zst", lambda data: ZST(data[:700]) + ZST(data[700:])),
    "zst skippable": ("tar.zst", lambda data: SKIPPABLE + ZST(data) + SKIPPABLE),
    "long zero tail": ("tar", lambda data: data + bytes(20480)),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted(case: str, tmp_path: Path) -> None:
    """A valid archive, in any format and compression, is extracted to exactly its tree."""
    kind, dress = ACCEPTED[case]
    extract(dress(tar(PLAIN)), kind, tmp_path / "out")
    assert tree_of(tmp_path / "out") == EXPECTED


def member(name: str = "a", content: bytes = b"", **fields: object) -> bytes:
    return tar([Member(name, content, **fields)])  # type: ignore[arg-type]  # checked by Member itself


def pax(records: bytes, name: str = "a", content: bytes = b"") -> bytes:
    return tar([Member("x", records, kind=b"x"), Member(name, content)])


LONG = "/".join(["d" * 250] * 12)

LONG = "/".join(["d" * 250] * 12)


def empty_pieces(number: int) -> Member:
    """Return the pax header of a sparse file of empty pieces, in format 0.1."""
    size, count, places = b"GNU.sparse.size", b"GNU.sparse.numblocks", b",".join([b"0,0"] * number)
    return headers.pax(
        record(size.decode(), b"0"), record(count.decode(), b"%d" % number), record("GNU.sparse.map", places)
    )


REFUSED: dict[str, tuple[str, bytes, str]] = {
    "dotdot": ("tar", member("../a"), "DOTDOT"),
    "dotdot inside": ("tar", member("a/../b"), "DOTDOT"),
    "leave and return": ("tar", member("../out/x"), "DOTDOT"),
    "absolute": ("tar", member("/a"), "ABSOLUTE"),
    "absolute beside": ("tar", tar([Member("a"), Member("/b")]), "ABSOLUTE"),
    "dots beside": ("tar", tar([Member("d/a"), Member("d/.."), Member("d/b")]), "DOTDOT"),
    "dot beside": ("tar", tar([Member("d/a"), Member("d/.", b"x")]), "DUPLICATE"),
    "slash beside": ("tar", tar([Member("d/a"), Member("d/b/", b"x", kind=b"0")]), "FILE_AS_DIRECTORY"),
    "control beside": ("tar", tar([Member("d/a"), Member("d/b\n", b"x")]), "NAME_CONTROL"),
    "pax dotdot": ("tar", pax(b"13 path=../a\n"), "DOTDOT"),
    "control": ("tar", member("a\x1b[31m"), "NAME_CONTROL"),
    "root as a file": ("tar", member("."), "ROOT"),
    "component": ("tar", tar([Member("L", b"x" * 300, kind=b"L"), Member("a")]), "COMPONENT_TOO_LONG"),
    "deep": ("tar", tar([Member("L", b"x/" * 300 + b"y", kind=b"L"), Member("a")]), "TOO_DEEP"),
    "symlink absolute": ("tar", member(kind=b"2", target="/etc"), "SYMLINK_ABSOLUTE"),
    "symlink outside": ("tar", member("d/a", kind=b"2", target="../../x"), "SYMLINK_OUTSIDE"),
    "symlink two hops": (
        "tar", tar([Member("a", kind=b"2", target="."), Member("x", kind=b"2", target="a/..")]), "SYMLINK_OUTSIDE",
    ),
    "symlink late": (
        "tar", tar([Member("x", kind=b"2", target="a/.."), Member("a", kind=b"2", target=".")]), "SYMLINK_OUTSIDE",
    ),
    "symlink through nothing": ("tar", member(kind=b"2", target="other/.."), "SYMLINK_OUTSIDE"),
    "through a symlink": (
        "tar", tar([Member("d", kind=b"2", target="e"), Member("e/"), Member("d/x", b"x")]), "BELOW_NON_DIRECTORY",
    ),
    "below a file": ("tar", tar([Member("d", b"x"), Member("d/x", b"x")]), "BELOW_NON_DIRECTORY"),
    "hard link outside": ("tar", member(kind=b"1", target="../x"), "DOTDOT"),
    "hard link missing": ("tar", member(kind=b"1", target="x"), "HARDLINK"),
    "hard link with content": (
        "tar", tar([Member("a"), Member("h", b"x", kind=b"1", target="a")]), "LINK_WITH_CONTENT",
    ),
    "device": ("tar", member(kind=b"3"), "TYPE"),
    "fifo": ("tar", member(kind=b"6"), "TYPE"),
    "unknown type": ("tar", member(kind=b"Z"), "TYPE"),
    "twice": ("tar", tar([Member("a", b"1"), Member("a", b"2")]), "DUPLICATE"),
    "directory with content": ("tar", member("d", b"x", kind=b"5"), "LINK_WITH_CONTENT"),
    "file with slash": ("tar", member("d/", b"x", kind=b"0"), "FILE_AS_DIRECTORY"),
    "checksum": ("tar", member()[:150] + b"9" + member()[151:], "NUMBER"),
    "bad checksum": ("tar", b"b" + member()[1:], "CHECKSUM"),
    "no end": ("tar", member()[:512], "NO_END"),
    "truncated": ("tar", member(content=b"x" * 600)[:800], "TRUNCATED"),
    "garbage after": ("tar", member() + b"x" * 512, "TRAILING_GARBAGE"),
    "dangling": ("tar", tar([Member("L", b"name", kind=b"L")]), "DANGLING"),
    "negative size": ("tar", tar_header(Member("a"), size=b"\xff" * 12) + bytes(1024), "NUMBER"),
    "huge size": (
        "tar", tar_header(Member("a"), size=b"\x80" + b"\0" * 2 + b"\x40" + b"\0" * 8) + bytes(1024), "NUMBER",
    ),
    "large size": (
        "tar", tar_header(Member("a"), size=b"\x80" + b"\0" * 4 + b"\x40" + b"\0" * 6) + bytes(1024), "MEMBER_TOO_LARGE",
    ),
    "size of letters": ("tar", tar_header(Member("a"), size=b"0000000_010\0") + bytes(1024), "NUMBER"),
    "pax size lies": ("tar", pax(b"12 size=999\n", content=b"x"), "PAX_SIZE"),
    "pax overrun": ("tar", pax(b"99 path=b\n"), "PAX_RECORD"),
    "pax twice": ("tar", pax(b"10 path=b\n10 path=c\n"), "PAX_TWICE"),
    "pax global path": ("tar", tar([Member("g", b"10 path=b\n", kind=b"g"), Member("a")]), "PAX_GLOBAL"),
    "pax and gnu": (
        "tar", tar([Member("x", b"10 path=b\n", kind=b"x"), Member("L", b"c", kind=b"L"), Member("a")]), "PAX_TWICE",
    ),
    "metadata bomb": ("tar", tar([Member("L", b"x" * (1 << 17), kind=b"L"), Member("a")]), "METADATA_TOO_LARGE"),
    "too many": ("tar", tar([Member(f"f{n}") for n in range(1001)]), "TOO_MANY_ENTRIES"),
    "long names": (
        "tar", tar(one for n in range(99) for one in (gnu(f"{LONG}/{n}"), Member("a"))), "NAMES_TOO_LARGE",
    ),
    "long targets": (
        "tar", tar(one for n in range(99) for one in (gnu(LONG, b"K"), Member(f"{n}", kind=b"2"))), "NAMES_TOO_LARGE",
    ),
    "implied directories": (
        "tar", tar([gnu("implied!/" * 250 + "x"), Member("a")]), "NAMES_TOO_LARGE",
    ),
    "zip long names": ("zip", zipped([(f"{LONG}/{n}", b"") for n in range(99)]), "NAMES_TOO_LARGE"),
    "bomb": ("tar.gz", GZ(member(content=bytes(65 << 20))), "TOO_LARGE"),
    "gz truncated": ("tar.gz", GZ(tar(PLAIN))[:-4], "TRUNCATED"),
    "gz wrong crc": ("tar.gz", GZ(tar(PLAIN))[:-8] + b"1234" + GZ(tar(PLAIN))[-4:], "CORRUPT"),
    "gz garbage": ("tar.gz", GZ(tar(PLAIN)) + b"garbage", "TRAILING_GARBAGE"),
    "bz2 broken second": ("tar.bz2", BZ(tar(PLAIN)) + BZ(bytes(99))[:-5], "TRUNCATED"),
    "bz2 garbage": ("tar.bz2", BZ(tar(PLAIN)) + b"garbage", "TRAILING_GARBAGE"),
    "xz odd padding": ("tar.xz", XZ(tar(PLAIN)) + bytes(3), "TRAILING_GARBAGE"),
    "xz broken second": ("tar.xz", XZ(tar(PLAIN)) + XZ(bytes(99))[:-6], "TRUNCATED"),
    "xz dictionary": (
        "tar.xz", lzma.compress(tar(PLAIN), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]), "DICTIONARY",
    ),
    "zst truncated": ("tar.zst", ZST(tar(PLAIN))[:-1], "TRUNCATED"),
    "zst no checksum": ("tar.zst", ZST(tar(PLAIN))[:-4], "TRUNCATED"),
    "zst wrong checksum": ("tar.zst", ZST(tar(PLAIN))[:-4] + b"1234", "CORRUPT"),
    "zst garbage": ("tar.zst", ZST(tar(PLAIN)) + b"garbage", "TRAILING_GARBAGE"),
    "zst broken second": ("tar.zst", ZST(tar(PLAIN)) + ZST(b"x" * 99)[:-3], "TRUNCATED"),
    "html": ("tar.gz", b"<html>log in", "WRONG_FORMAT"),
    "gz of gz": ("tar.gz", GZ(GZ(tar(PLAIN))), ""),
    "zip as tar.gz": ("tar.gz", zipped([("a", b"x")]), "WRONG_FORMAT"),
    "empty": ("tar.gz", b"", "WRONG_FORMAT"),
    "zip dotdot": ("zip", zipped([("../a", b"x")]), "DOTDOT"),
    "zip absolute": ("zip", zipped([("/a", b"x")]), "ABSOLUTE"),
    "zip twice": ("zip", zipped([("a", b"x"), ("a", b"y")]), "DUPLICATE"),
    "zip prefixed": ("zip", b"#!/bin/sh\n" + zipped([("a", b"x")]), "ZIP_TILING"),
    "zip garbage after": ("zip", zipped([("a", b"x")]) + b"x", "TRUNCATED"),
    "zip two": ("zip", zipped([("a", b"x")]) * 2, "ZIP_TILING"),
    "zip crc": ("zip", zipped([("a", b"xyz")]).replace(b"xyz", b"xyy"), "CHECKSUM"),
    "zip local name": ("zip", zipped([("aaaa", b"x")]).replace(b"aaaa", b"bbbb", 1), "ZIP_DISAGREE"),
    "zip symlink outside": ("zip", zipped([("s", b"../x")], mode=0o120777), "SYMLINK_OUTSIDE"),
    "zip fifo": ("zip", zipped([("s", b"")], mode=0o010644), "TYPE"),
    "zip truncated": ("zip", zipped([("a", b"x")])[:-1], "TRUNCATED"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    """A hostile or damaged archive is refused with its code; nothing is left, and nothing outside changes."""
    kind, data, code = REFUSED[case]
    (tmp_path / "records").mkdir()
    with pytest.raises(ArchiveError) as caught:
        extract(data, kind, tmp_path / "out")
    assert caught.value.code in code.split() or not code
    assert str(caught.value).startswith("a:")
    assert all(map(str.isprintable, str(caught.value).splitlines()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["records"]
    with pytest.raises(ArchiveError):
        repacked(data, kind)


def test_sparse_pieces_of_an_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pieces of all sparse files of an archive are limited together."""
    monkeypatch.setattr("tasks_lib.archive.tar.MAX_ALL_PIECES", 99)
    files = [(empty_pieces(33), Member(f"s{number}")) for number in range(4)]
    repacked(tar(one for pair in files[:3] for one in pair), "tar")
    with pytest.raises(ArchiveError, match="sparse files of more than 99 pieces in total"):
        repacked(tar(one for pair in files for one in pair), "tar")


def test_pax_records_of_an_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pax records of all headers of an archive are limited together; sixteen for each header are always allowed."""
    monkeypatch.setattr("tasks_lib.archive.tar.MAX_SPARE_RECORDS", 99)
    for each, code in ((16, ""), (60, "METADATA_TOO_LARGE")):
        header = headers.pax(*(record(f"k{number}", "") for number in range(each)))
        data = tar(one for number in range(10) for one in (header, Member(f"f{number}")))
        with pytest.raises(ArchiveError, match=code) if code else contextlib.nullcontext():
            repacked(data, "tar")


@pytest.mark.parametrize("kind", ["gnu", "pax", "ustar", "v7", "oldgnu"])
def test_agrees_with_gnu_tar(kind: str, tmp_path: Path) -> None:
    """Archives by GNU tar, in each of its formats, are read as GNU tar reads them."""
    root = tmp_path / "root"
    (root / "d" / "empty").mkdir(parents=True)
    (root / "d" / "a").write_bytes(b"a" * 5000)
    (root / "d" / "run").write_bytes(b"x")
    (root / "d" / "run").chmod(0o755)
    (root / "d" / "h").hardlink_to(root / "d" / "a")
    (root / "d" / "s").symlink_to("a")
    if kind not in ("v7", "ustar", "oldgnu"):
        long = root / ("long" * 30) / ("name" * 40)
        long.parent.mkdir()
        long.write_bytes(b"long")
        (root / "s").symlink_to("long" * 30 + "/" + "name" * 40)
        with (root / "sparse").open("wb") as file:
            file.seek(3 << 20)
            file.write(b"end")
            file.truncate(8 << 20)
    (root / os.fsdecode(b"latin-\xe9")).write_bytes(b"e")
    sparse = ["-S"] if kind in ("gnu", "pax") else []
    words = ["tar", f"--format={kind}", *sparse, "-C", str(root), "-cf", "-", "."]
    made = subprocess.run(words, stdout=subprocess.PIPE, check=True)
    extract(made.stdout, "tar", tmp_path / "out")
    assert tree_of(tmp_path / "out") == tree_of(root)
    again = tmp_path / "again"
    again.mkdir()
    data = zstandard.ZstdDecompressor().decompress(repacked(made.stdout, "tar"))
    subprocess.run(["tar", "-C", again, "-xf", "-"], input=data, check=True)
    assert tree_of(again) == tree_of(root)


def test_zip_tree(tmp_path: Path) -> None:
    """A zip with directories, modes and a symlink gives its tree, deflated or stored."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("d/", b"")
        for name, mode, content in (("d/a", 0o100644, b"a" * 9000), ("d/x", 0o100755, b"x"), ("d/s", 0o120777, b"a")):
            info = zipfile.ZipInfo(name)
            info.external_attr, info.create_system = mode << 16, 3
            made.writestr(info, content)
    extract(buffer.getvalue(), "zip", tmp_path / "out")
    assert tree_of(tmp_path / "out") == {
        "d": "directory",
        "d/a": "-" + hashlib.sha256(b"a" * 9000).hexdigest(),
        "d/x": "x" + hashlib.sha256(b"x").hexdigest(),
        "d/s": "-> a",
    }


def test_strip_and_prefix(tmp_path: Path) -> None:
    """Names and hard links follow strip and prefix, symlink targets do not; a stripped file is an error."""
    extract(tar(PLAIN), "tar", tmp_path / "out", Reshape(strip=1, prefix="p/q-"))
    found = tree_of(tmp_path / "out")
    assert found["p/q-hard"] == found["p/q-a.txt"]
    assert found["p/q-link"] == "-> a.txt"
    assert found["p/q-empty"] == "directory"
    with pytest.raises(ArchiveError, match="STRIPPED"):
        extract(tar(PLAIN), "tar", tmp_path / "other", Reshape(strip=2))


#: Golden: changes only together with REPACK_VERSION.
GOLDEN_TAR = "eaf0663dd4a6f8f160510401cecf8c131e0bd6ef58f9ce5d460b61162162bda5"


def test_repack_is_deterministic() -> None:
    """The order, owners, times and compression of the input do not affect the output, whose digest is fixed."""
    first = repacked(tar(PLAIN), "tar")
    shuffled = tar([Member("d/run", b"#!/bin/sh\n", mode=0o777, mtime=99), *PLAIN[:2], *PLAIN[3:]])
    assert repacked(GZ(shuffled), "tar.gz") == first
    assert repacked(first, "tar.zst") == first
    plain = zstandard.ZstdDecompressor().decompress(first)
    assert hashlib.sha256(plain).hexdigest() == GOLDEN_TAR


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """Return a directory that all users can write to, outside pytest's private ones."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


def as_nobody(act: Callable[[], bool]) -> bool:
    """Return the result of a child process with an ordinary user, False when it raises."""
    with warnings.catch_warnings():  # pytest-xdist has threads; the child uses files only, no lock that they may hold
        warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            status = 0 if act() else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become someone else")
@pytest.mark.parametrize("verb", ["repack", "extract", "refuse"])
def test_the_same_for_nobody(verb: str, open_directory: Path) -> None:
    """An ordinary user with an open umask gets the same bytes, the same tree and the same refusal as root."""
    expected = repacked(tar(PLAIN), "tar")

    def same() -> bool:
        os.umask(0)
        if verb == "repack":
            return repacked(tar(PLAIN), "tar") == expected
        if verb == "extract":
            extract(tar(PLAIN), "tar", open_directory / "out")
            return tree_of(open_directory / "out") == EXPECTED
        with pytest.raises(ArchiveError):
            extract(member("../a"), "tar", open_directory / "out")
        return not (open_directory / "out").exists()

    assert as_nobody(same)


def test_repack_reads_back(tmp_path: Path) -> None:
    """Python's tarfile reads the normalised archive as the tree it came from."""
    data = zstandard.ZstdDecompressor().decompress(repacked(GZ(tar(PLAIN)), "tar.gz", Reshape(strip=1, prefix="p/")))
    with tarfile.open(fileobj=io.BytesIO(data)) as made:
        assert made.getnames() == ["p", "p/a.txt", "p/empty", "p/hard", "p/link", "p/run"]
        assert {(one.uid, one.mtime, one.uname) for one in made} == {(0, 315532800, "")}
        made.extraction_filter = getattr(tarfile, "tar_filter", None)  # Python before 3.11.4 has none
        made.extractall(tmp_path / "out")
    assert set(tree_of(tmp_path / "out" / "p")) == {"a.txt", "empty", "hard", "link", "run"}


def test_two_archives_share_a_directory(tmp_path: Path) -> None:
    """A second archive adds to the directory; clearing the first leaves the second's entries."""
    first = extract(tar([Member("d/a", b"1")]), "tar", tmp_path / "out")
    second = extract(tar([Member("d/b", b"2")]), "tar", tmp_path / "out")
    assert set(tree_of(tmp_path / "out")) == {"d", "d/a", "d/b"}
    assert first.holds("k")
    first.clear(Silent())
    assert set(tree_of(tmp_path / "out")) == {"d", "d/b"}
    assert second.holds("k")
    assert not first.holds("k")


def test_collision_names_both(tmp_path: Path) -> None:
    """Two archives with the same path cause an error that names both, and the directory does not change."""
    extract(tar([Member("d/a", b"1")]), "tar", tmp_path / "out")
    with pytest.raises(TreeError, match="a and a both put 'd/a'"):
        extract(tar([Member("c", b"3"), Member("d/a", b"2")]), "tar", tmp_path / "out")
    assert set(tree_of(tmp_path / "out")) == {"d", "d/a"}


def test_a_collision_leaves_what_stood(tmp_path: Path) -> None:
    """A new version that collides with another archive does not take the old version away."""
    extract(tar([Member("d/a", b"1")]), "tar", tmp_path / "out")
    slot = extract(tar([Member("d/b", b"2")]), "tar", tmp_path / "out")
    with pytest.raises(TreeError, match="both put 'd/a'"):
        slot.extract(
            io.BytesIO(tar([Member("d/b", b"3"), Member("d/a", b"3")])), name="new", format="tar",
            reshape=Reshape(), limits=LIMITS, key="new", progress=Silent(),
        )  # fmt: skip
    assert slot.holds("k")
    assert set(tree_of(tmp_path / "out")) == {"d", "d/a", "d/b"}


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_sparse_pax(version: str, tmp_path: Path) -> None:
    """Sparse files of all three pax formats are extracted completely: data at the end, a hole at the end, only a hole."""
    root = tmp_path / "root"
    root.mkdir()
    for name, pieces, size in (
        ("end", [(3 << 20, b"end")], 0),
        ("both", [(0, b"a" * 5000)], 4 << 20),
        ("none", [], 9000),
    ):
        with (root / name).open("wb") as file:
            for place, content in pieces:
                file.seek(place)
                file.write(content)
            file.truncate(size or None)
    words = ["tar", "-S", "--format=posix", f"--sparse-version={version}", "-C", str(root), "-cf", "-", "."]
    made = subprocess.run(words, stdout=subprocess.PIPE, check=True)
    assert b"GNU.sparse" in made.stdout
    extract(made.stdout, "tar", tmp_path / "out")
    assert tree_of(tmp_path / "out") == tree_of(root)


OUTWARD = tar([Member("lib", kind=b"2", target="/usr/lib"), Member("d/up", kind=b"2", target="../../x"), Member("d/a")])


def test_outward_symlinks_can_be_kept(tmp_path: Path) -> None:
    """A definition may keep outward symlinks: they are created unchanged, and nothing is written through them."""
    keep = Limits(outward_symlinks="keep")
    slot = Extraction(tmp_path / "out", tmp_path / "records" / "one.json")
    slot.extract(
        io.BytesIO(OUTWARD), name="a", format="tar", reshape=Reshape(), limits=keep, key="k", progress=Silent()
    )
    assert tree_of(tmp_path / "out")["lib"] == "-> /usr/lib"
    through = tar([Member("d", kind=b"2", target=str(tmp_path)), Member("d/written", b"x")])
    with pytest.raises(ArchiveError, match="BELOW_NON_DIRECTORY"):
        Extraction(tmp_path / "two", tmp_path / "records" / "two.json").extract(
            io.BytesIO(through), name="a", format="tar", reshape=Reshape(), limits=keep, key="k", progress=Silent()
        )
    assert {path.name for path in tmp_path.iterdir()} == {"out", "records"}


def test_case_twins_can_be_kept(tmp_path: Path) -> None:
    """A definition may accept a symlink that differs from a directory in case only; repacking warns about it."""
    data = tar([Member("Python", kind=b"2", target="python"), Member("python/x", b"1")])
    words: dict[str, Any] = {"name": "a", "format": "tar", "reshape": Reshape(), "limits": Limits(case_twins="keep")}
    slot = Extraction(tmp_path / "out", tmp_path / "records" / "one.json")
    slot.extract(io.BytesIO(data), key="k", progress=Silent(), **words)
    assert set(tree_of(tmp_path / "out")) == {"Python", "python", "python/x"}
    heard = Listener()
    archive.repack(io.BytesIO(data), mtime=0, spool=io.BytesIO(), write=io.BytesIO().write, progress=heard, **words)
    assert heard.warnings == [
        "'python' differs from another name only in case or Unicode form: some file systems can store only one of them"
    ]


class Listener(Silent):
    """Remembers warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        """Remember."""
        self.warnings.append(message)


def test_definitions_name_every_limit() -> None:
    """The archive options of a definition are the existing limits."""
    table = json_schema()["$defs"] if "$defs" in json_schema() else json_schema()
    said = set(re.findall(r'"([a-z-]+)": \{"(?:type|enum|description)"', json.dumps(table)))
    assert {name.replace("_", "-") for name in Limits._fields} <= said


@pytest.mark.slow
def test_removal_of_hostile_trees(tmp_path: Path) -> None:
    """A tree of depth 1,900 with directories of mode 000 is removed, and the targets of symlinks stay."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").write_bytes(b"x")
    root = tmp_path / "root"
    root.mkdir()
    above = os.open(root, os.O_RDONLY)
    for _ in range(1900):
        os.mkdir("d", 0o755, dir_fd=above)
        os.symlink(tmp_path / "outside", "s", dir_fd=above)
        below = os.open("d", os.O_RDONLY, dir_fd=above)
        os.fchmod(above, 0 if os.getuid() == 0 else 0o300)
        os.close(above)
        above = below
    os.close(above)
    remove_tree(root)
    assert not root.exists()
    assert (tmp_path / "outside" / "kept").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become someone else")
def test_removal_as_nobody(open_directory: Path) -> None:
    """An ordinary user can remove directories of mode 000 that he owns."""

    def removed() -> bool:
        (open_directory / "root" / "a" / "b").mkdir(parents=True)
        (open_directory / "root" / "a" / "b" / "f").write_bytes(b"x")
        for name in ("root/a/b", "root/a", "root"):
            (open_directory / name).chmod(0)
        remove_tree(open_directory / "root")
        return not (open_directory / "root").exists()

    assert as_nobody(removed)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_nobody_else_may_write(mask: int, tmp_path: Path) -> None:
    """With any umask, group and others cannot write to extracted files."""
    before = os.umask(mask)
    try:
        extract(tar([*PLAIN, Member("d/s", b"x", mode=0o6777)]), "tar", tmp_path / "out")
    finally:
        os.umask(before)
    found = [tmp_path / "out", *(tmp_path / "out").rglob("*")]
    assert not any(path.lstat().st_mode & 0o7022 for path in found if not path.is_symlink())


def test_a_changed_tree_is_noticed(tmp_path: Path) -> None:
    """A missing, resized or replaced entry is noticed."""
    slot = extract(tar(PLAIN), "tar", tmp_path / "out")
    assert slot.holds("k")
    assert not slot.holds("other")
    (tmp_path / "out" / "d" / "a.txt").write_bytes(b"longer than it was")
    assert not slot.holds("k")


def test_formats_by_name_and_content() -> None:
    """A format is detected by suffix and by first bytes."""
    assert formats.format_from_name("x.TGZ") == "tar.gz"
    assert formats.format_from_name("x.deb") == "deb"
    assert formats.format_from_name("x.rpm") is None
    assert archive.sniff_format(GZ(b"x")) == "tar.gz"
    assert archive.sniff_format(tar(PLAIN)[:512]) == "tar"
    assert archive.sniff_format(b"\x7fELF") is None
    assert zlib.crc32(b"") == 0


# --- small files of one directory, which are read, validated and written together


def read_entries(data: bytes, *, together: bool, **options: Any) -> list[object]:
    """Return path, executable bit and content of each entry, and code, entry and offset of the error that ends them."""
    found: list[object] = []

    def add(entry: archive.Entry) -> None:
        found.append((entry.path, entry.kind, entry.executable, entry.size, b"".join(entry.chunks), entry.offset))

    def add_files(group: archive.SmallFiles) -> None:
        for entry in group.entries():
            add(entry)

    def repeats(entry: archive.Entry) -> bool:
        content = b"".join(entry.chunks)
        return any(one[0] == entry.path and one[4] == content for one in found)  # type: ignore[index]

    shape = Reshape(strip=options.pop("strip", 0), prefix=options.pop("prefix", ""))
    try:
        archive.read(
            io.BytesIO(data), name="a", format="tar", reshape=shape, limits=Limits(**options), sink=add,
            sink_files=add_files if together else None, repeats=repeats,
        )  # fmt: skip
    except ArchiveError as error:
        found.append((error.code, error.entry, error.offset))
    return found


MANY = [Member(f"d/{number}", b"%d" % number) for number in range(50)]
GROUPS: dict[str, tuple[list[Member], dict[str, Any]]] = {
    "plain": (MANY, {}),
    "modes": ([Member(f"d/{one}", b"x", mode=0o755 if one % 3 else 0o644) for one in range(20)], {}),
    "root": ([Member(str(one), b"x") for one in range(20)], {}),
    "same name and content": ([*MANY, Member("d/7", b"7"), *MANY], {}),
    "same name in another group": ([*MANY, Member("e/x"), *MANY], {}),
    "other content in another group": ([*MANY, Member("e/x"), *MANY[:7], Member("d/7", b"8"), *MANY[8:]], {}),
    "same name, other content": ([*MANY, Member("d/7", b"8")], {}),
    "same name twice in a group": ([MANY[0], Member("d/x", b"1"), Member("d/x", b"2"), *MANY[1:]], {}),
    "below a file": ([*MANY, Member("d/7/x", b"x"), Member("d/7/y", b"y")], {}),
    "odd names": ([*MANY[:9], Member("d/.x"), Member("d/a:b"), Member("d/a\\b"), Member("d//c"), *MANY[9:]], {}),
    "leaves": ([*MANY[:9], Member("d/../x"), *MANY[9:]], {}),
    "too many entries": (MANY, {"max_entries": 20}),
    "too many bytes": ([Member(f"d/{one}", bytes(700)) for one in range(50)], {"max_total_bytes": 9000}),
    "names too long": (MANY, {"max_names_bytes": 90}),
    "member too large": ([*MANY, Member("d/large", bytes(3000)), *MANY], {"max_member_bytes": 2000}),
    "stripped": (MANY, {"strip": 1}),
    "renamed": (MANY, {"strip": 1, "prefix": "p/q/"}),
    "renamed, too long": (MANY, {"prefix": "p" * 60 + "/", "max_path_bytes": 63}),
    "renamed, too deep": (MANY, {"prefix": "p/q/", "max_depth": 3}),
    "all stripped": (MANY, {"strip": 2}),
    "last of each name": ([*MANY, Member("d/7", b"8")], {"duplicates": "last"}),
}


@pytest.mark.parametrize("name", GROUPS)
def test_files_together_as_one_by_one(name: str) -> None:
    """Files that are accepted together are those that the full rules accept one by one, with the same errors."""
    members, options = GROUPS[name]
    data = tar(members)
    assert read_entries(data, together=True, **options) == read_entries(data, together=False, **options)


def test_files_are_read_together() -> None:
    """The files of a directory arrive together, except for the first one, which follows the full rules."""
    groups: list[int] = []
    archive.read(
        io.BytesIO(tar(MANY)), name="a", format="tar", reshape=Reshape(prefix="p/"), limits=Limits(),
        sink=lambda _: None, sink_files=lambda group: groups.append(len(group.files)),
    )  # fmt: skip
    assert groups == [49]


def test_a_short_write_is_continued(tmp_path: Path) -> None:
    """A file of a group that is written in part fails the extraction: here the system writes only up to its limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(TreeError, match="File too large"):
            extract(tar([*MANY[:5], Member("d/large", bytes(6000))]), "tar", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "out").exists()
