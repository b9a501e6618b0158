"""`format:`, `executable:`, `repack:` and `strip-components:` of a definition: which tree comes out of which bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
import zstandard

from tasks_lib.archive import Reshape, detect_format, explain_placed, read
from tasks_lib.errors import ArchiveError
from tasks_lib.formats import uncompressed_name
from tasks_lib.limits import Limits
from tests.archives import Member, Zipped, tar, zip_of
from tests.cases import ALONE, BZ, GZ, XZ, ZST
from tests.project import DODO, definition, doit, written
from tests.test_archive import repacked

PLAIN = GZ(b"not a tar")
PROGRAM = b"\x7fELF not really\n"
TOP = tar([Member("top/"), Member("top/a", b"a"), Member("top/sub/b", b"b", mode=0o755)])
TWICE = tar([Member("top/a", b"old"), Member("top/a", b"a"), Member("top/sub/b", b"b", mode=0o755)])
ZIPPED = zip_of(Zipped(name=b"top/a", content=b"a"))
STRIPPED = {"a": b"a", "sub/b": b"xb"}
WHOLE = {"top/a": b"a", "top/sub/b": b"xb"}
ZIPAPP = zip_of(Zipped(name=b"__main__.py", content=b"pass"))


class Row(NamedTuple):
    """A download: the name in its URL, its bytes, more keys of its definition, and the tree that a toolchain gets."""

    name: str
    content: bytes
    keys: str
    tree: Mapping[str, bytes]


ROWS = {
    "gz": Row("tool.gz", GZ(PROGRAM), "format: gz", {"tool": b"x" + PROGRAM}),
    "bz2": Row("tool.txt.bz2", BZ(b"text"), "format: bz2", {"tool.txt": b"text"}),
    "xz": Row("tool.xz", XZ(b"text"), "{format: xz, executable: true}", {"tool": b"xtext"}),
    "zst": Row("TOOL.ZST", ZST(b"#!/bin/sh\n"), "format: zst", {"TOOL": b"x#!/bin/sh\n"}),
    "renamed": Row("tool-linux.gz", GZ(b"text"), "{format: gz, artifact-name: tool}", {"tool": b"text"}),
    "empty": Row("empty.gz", GZ(b""), "format: gz", {"empty": b""}),
    "tar in gz": Row("x.tar.gz", GZ(b"text"), "format: gz", {"x.tar": b"text"}),
    "xz called gz": Row("x1.tar.gz", XZ(TOP), "format: tar.xz", WHOLE),
    "gz called zst": Row("x1.tar.zst", GZ(TOP), "format: tar.gz", WHOLE),
    "xz, repacked": Row("x2.tar.gz", XZ(TOP), "{format: tar.xz, artifact-name: x2.tar.zst}", WHOLE),
    "tar called zip": Row("x3.zip", TOP, "format: tar", WHOLE),
    "lzma": Row("x.tar.lzma", ALONE(TOP), "format: tar.lzma", WHOLE),
    "no name": Row("download", ALONE(TOP), "{format: tar.lzma, strip-components: 1}", STRIPPED),
    "strip": Row("s1.tar.gz", GZ(TOP), "{strip-components: 1, repack: never}", STRIPPED),
    "strip, automatic": Row("s2.tar.gz", GZ(TOP), "strip-components: 1", STRIPPED),
    "strip, unread name": Row("s3.tar.gz", GZ(TOP), "{strip-components: 1, repack: never, artifact-name: s.tar.zst}", STRIPPED),
    "strip and prefix": Row("s4.zip", ZIPPED, "{strip-components: 1, add-prefix: new-}", {"new-a": b"a"}),
    "strip, repacked": Row("s5.tar.gz", GZ(TOP), "{strip-components: 1, artifact-name: s5.tar.zst}", STRIPPED),
    "script": Row("macho", b"\xcf\xfa\xed\xfe", "executable: true", {"macho": b"x\xcf\xfa\xed\xfe"}),
    "zipapp": Row("app", ZIPAPP, "executable: true", {"app": b"x" + ZIPAPP}),
    "last": Row("l1.bin", XZ(TWICE), "{format: tar.xz, duplicates: last, strip-components: 1}", STRIPPED),
    "last, unread name": Row("l2.tar.gz", GZ(TWICE), "{duplicates: last, repack: never, artifact-name: l.tar.zst}", WHOLE),
    "last, repacked": Row("l3.bin", ALONE(TWICE), "{format: tar.lzma, duplicates: last, artifact-name: l3.tar.zst}", WHOLE),
    "prefix": Row("p.run", b"#!/bin/sh\n" + ZIPPED, "{zip-prefix: ignore, strip-components: 1}", {"a": b"a"}),
    "prefix, declared": Row("p.tar", b"#!/bin/sh\n" + ZIPPED, "{format: zip, zip-prefix: ignore}", {"top/a": b"a"}),
    "control names": Row("c.bin", tar([Member("Icon\r", b"i")]), "{control-names: keep, add-prefix: new/}", {"new/Icon\r": b"i"}),
    "gz without a key": Row("plain.gz", PLAIN, "", {"plain.gz": PLAIN}),
    "tar without a name": Row("tarball", GZ(TOP), "", WHOLE),
}  # fmt: skip


def content_of(root: Path) -> dict[str, bytes]:
    """Return path -> content of each file, with an x before that of an executable one."""
    return {
        str(path.relative_to(root)): b"x" * bool(path.stat().st_mode & 0o100) + path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def project(directory: Path, rows: Mapping[str, Row], entry: str = "") -> Path:
    """Write a repository with a definition for each row, and a toolchain that extracts each into a directory."""
    definitions, fetches = "", ""
    for number, row in enumerate(rows.values()):
        (directory / row.name).write_bytes(row.content)
        keys = row.keys.strip("{}").split(", ") if row.keys else []
        more = "".join(f"    {key}\n" for key in keys)
        definitions += definition(f"f{number}", f"file://{directory}/{row.name}", row.content, more)
        fetches += f"    - {{artifact: f{number}, dest: d{number}{entry}}}\n"
    return written(
        directory / "r",
        {
            "dodo.py": DODO,
            "fetchdefs/fetch/a.yml": definitions,
            "fetchdefs/toolchain/a.yml": f"kit:\n  description: k\n  fetches:\n   fetch:\n{fetches}",
        },
    )


def test_trees(tmp_path: Path) -> None:
    """Each definition gives its tree in a toolchain, `verify` agrees, and only an artifact is repacked."""
    top = project(tmp_path, ROWS)
    done = doit(top, "run", "toolchain:kit")
    assert done.returncode == 0, done.stdout
    for number, (case, row) in enumerate(ROWS.items()):
        assert content_of(top / f"build/kit/fetches/d{number}") == row.tree, case
    blobs = len(list((top / "cache/v1/blobs").glob("*/*/*")))
    assert blobs == len({row.content for row in ROWS.values()}) + 2
    assert "set `format: gz` in its definition to extract it" in done.stdout
    verified = doit(top, "verify")
    assert verified.returncode == 0, verified.stdout
    again = doit(top, "run", "toolchain:kit")
    assert not [line for line in again.stdout.splitlines() if line.startswith(".  ")], again.stdout


@pytest.mark.slow
def test_keys_shape_the_output(tmp_path: Path) -> None:
    """A change of each key runs the extraction again, with another tree; a hard-linked tree is not shared."""
    row = Row("a.gz", GZ(TOP), "", {})
    for keys, tree in {
        "format: tar.gz": WHOLE,
        "{format: tar.gz, strip-components: 1}": STRIPPED,
        "format: gz": {"a": TOP},
        "{format: gz, executable: true}": {"a": b"x" + TOP},
    }.items():
        top = project(tmp_path, {"": row._replace(keys=keys)})
        done = doit(top, "run", "extract:f0", FETCH_LINK_MODE="hardlink")
        assert done.returncode == 0, done.stdout
        assert content_of(top / "build/extracted/f0") == tree, keys
    verified = doit(top, "verify", FETCH_LINK_MODE="hardlink")
    assert verified.returncode == 0, verified.stdout
    assert len(list((top / "cache/v1/trees").iterdir())) >= 1


@pytest.mark.parametrize(
    ("name", "content", "key"),
    [
        ("a.tar.gz", XZ(TOP), "tar.xz"), ("a.tar.gz", BZ(TOP), "tar.bz2"), ("a.tar.xz", GZ(TOP), "tar.gz"),
        ("a.tar.bz2", ZST(TOP), "tar.zst"), ("a.tar.zst", XZ(TOP), "tar.xz"), ("a.tar.zst", TOP, "tar"),
        ("a.tar", GZ(TOP), "tar.gz"), ("a.zip", TOP, "tar"), ("a.zip", XZ(TOP), "tar.xz"), ("a.tar", ZIPAPP, "zip"),
        ("a.deb", GZ(TOP), "tar.gz"), ("a.tar.gz", GZ(PROGRAM), "gz"), ("a.tar", b"7z\xbc\xaf\x27\x1c" + bytes(600), "7z"),
        ("a.tgz", b"\xed\xab\xee\xdb" + bytes(100), "rpm"), ("a.tar.xz", b"LZIP\x01" + bytes(40), "tar.lz"),
    ],
)  # fmt: skip
def test_refusal_names_the_format(name: str, content: bytes, key: str) -> None:
    """The refusal of a misnamed archive names the key and the value with which it is read."""
    kind = detect_format(io.BytesIO(content), name, Limits())
    assert kind is not None
    for run in (_read, lambda *words: repacked(words[0], words[2])):
        with pytest.raises(ArchiveError) as caught:
            run(content, name, kind)
        assert f"set `format: {key}`" in str(caught.value)


def _read(content: bytes, name: str, kind: str) -> None:
    read(io.BytesIO(content), name=name, format=kind, reshape=Reshape(), limits=Limits(), sink=lambda _: None)


@pytest.mark.parametrize("content", [XZ(TOP)[:-20], GZ(TOP)[:-9], TOP[:700]])
def test_damage_is_not_another_format(content: bytes) -> None:
    """A damaged archive in the declared format is refused without a hint about the format."""
    kind = {b"\xfd": "tar.xz", b"\x1f": "tar.gz"}.get(content[:1], "tar")
    with pytest.raises(ArchiveError) as caught:
        _read(content, "a", kind)
    assert "format:" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "start", "key"),
    [
        ("a.7z", b"7z\xbc\xaf\x27\x1c", "7z"), ("a.rpm", b"\xed\xab\xee\xdb", "rpm"), ("a.tar.Z", b"\x1f\x9d", "tar.Z"),
        ("a.tar.lz", b"LZIP\x01", "tar.lz"), ("a.tar.lz4", b"\x04\x22\x4d\x18", "tar.lz4"), ("a.tar.lzma", ALONE(TOP), "tar.lzma"),
        ("a.gz", GZ(b"x"), "gz"), ("a.zst", ZST(b"x"), "zst"), ("a", b"!<arch>\ndebian-binary   ", "deb"), ("a.txt", b"text", ""),
        ("a.gz", b"\x1f\x8b damaged", ""), ("a", b"", ""),
    ],
)  # fmt: skip
def test_what_is_placed_is_named(name: str, start: bytes, key: str) -> None:
    """A file that another key would extract is placed as it is, with a warning that names the key."""
    file = io.BytesIO(start)
    assert detect_format(file, name, Limits()) is None
    warning = explain_placed(file, name, Limits())
    assert f"set `format: {key}`" in warning if key else not warning


def test_a_limit_is_not_taken_for_a_plain_file() -> None:
    """A file without a name that exceeds a limit at its beginning is refused, not placed."""
    big = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=28)).compressobj()
    file = io.BytesIO(big.compress(bytes(600)) + big.flush())
    with pytest.raises(ArchiveError, match=r"download: .*WINDOW"):
        detect_format(file, "download", Limits())


def test_names_without_their_ending() -> None:
    """A compressed file loses its ending; a name that is only an ending, or has none, is kept."""
    names = {"a.gz": "a", "a.tar.xz": "a.tar", "a.TGZ": "a.tar", "a": "a", ".gz": ".gz", "a.svgz": "a.svg"}
    assert {name: uncompressed_name(name) for name in names} == names


def test_a_bomb_in_a_single_file() -> None:
    """The limits of an archive apply to a single compressed file."""
    limits = Limits(max_total_bytes=1000)
    with pytest.raises(ArchiveError, match="TOO_LARGE"):
        read(
            io.BytesIO(GZ(bytes(5000))), name="a.gz", format="gz", reshape=Reshape(), limits=limits, sink=lambda _: None
        )
