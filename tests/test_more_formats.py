"""Formats of the extra `[more-formats]`: the tree that bsdtar extracts, or a refusal of our own checks."""

from __future__ import annotations

import io
import lzma
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tasks_lib.archive import Reshape, read
from tasks_lib.errors import ArchiveError
from tasks_lib.limits import Limits
from tasks_lib.progress import Silent
from tasks_lib.tree.extraction import Extraction
from tests.archives import Member, tar
from tests.cases import ZST
from tests.project import doit
from tests.test_archive import repacked, tree_of
from tests.test_formats import STRIPPED, TOP, Row, content_of, project

pytestmark = pytest.mark.skipif(
    shutil.which("bsdtar") is None, reason="needs bsdtar, and the library libarchive of the same package"
)
FLAGS = {"7z": "--format=7zip", "tar.lz": "--lzip", "tar.Z": "--compress", "tar.lz4": "--lz4"}


def packed(kind: str, directory: Path, *names: str) -> bytes:
    """Return the archive that bsdtar makes of `names`."""
    made = directory.parent / "packed"  # a pipe would be padded
    subprocess.run(["bsdtar", "-C", directory, FLAGS[kind], "-cf", made, *(names or ("t",))], check=True)
    return made.read_bytes()


def filled(directory: Path) -> Path:
    top = directory / "t"
    (top / "sub").mkdir(parents=True)
    (top / "a").write_bytes(b"a" * 300_000)
    (top / "run ü").write_bytes(b"#!x")
    (top / "run ü").chmod(0o755)
    (top / "empty").touch()
    (top / "sub/link").symlink_to("../a")
    return directory


def extract(content: bytes, kind: str, place: Path, name: str = "a", limits: Limits | None = None) -> dict[str, str]:
    place.mkdir()
    Extraction(place / "out", place / "record").extract(
        io.BytesIO(content), name=name, format=kind, reshape=Reshape(), limits=limits or Limits(), key="k",
        progress=Silent(),
    )  # fmt: skip
    return tree_of(place / "out")


@pytest.mark.parametrize("kind", FLAGS)
def test_as_bsdtar_extracts_it(kind: str, tmp_path: Path) -> None:
    """The tree is the packed one, with symlinks and executable files; a repack gives the same tree."""
    made = packed(kind, filled(tmp_path / "in"))
    assert extract(made, kind, tmp_path / "x") == tree_of(tmp_path / "in")
    assert extract(repacked(made, kind), "tar.zst", tmp_path / "y") == tree_of(tmp_path / "in")


def header(name: bytes, mode: int, size: int, inode: int = 1, links: int = 1) -> bytes:
    """Return a header of cpio. Source: cpio(5), "New ASCII Format"."""
    fields = (inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % one for one in fields) + name + b"\0"
    return head + bytes(-len(head) % 4)


def rpm(*entries: tuple[bytes, int, bytes], group: frozenset[bytes] = frozenset()) -> bytes:
    """Return a package; the content of the names in `group`, which are hard links, follows the last one.

    Source: RPM package format: lead, signature, header, payload.
    """
    payload = b""
    for name, mode, content in entries:
        inode, links = (7, len(group)) if name in group else (hash(name) & 0xFFFF, 1)
        payload += header(name, mode, len(content), inode, links) + content + bytes(-len(content) % 4)
    payload += header(b"TRAILER!!!", 0, 0)
    empty = b"\x8e\xad\xe8\x01" + bytes(4) + struct.pack(">II", 0, 0)
    return b"\xed\xab\xee\xdb\x03\x00" + bytes(90) + empty + empty + ZST(payload)


def test_rpm(tmp_path: Path) -> None:
    """A package gives its files; hard links whose content follows the last name share it."""
    links = frozenset({b"./usr/a", b"./usr/b", b"./usr/c"})
    made = rpm(
        (b"./usr", 0o040755, b""), (b"./usr/a", 0o100755, b""), (b"./usr/x", 0o100644, b"x"), (b"./usr/b", 0o100755, b""),
        (b"./usr/c", 0o100755, b"shared"), (b"./usr/l", 0o120777, b"x"), group=links,
    )  # fmt: skip
    tree = extract(made, "rpm", tmp_path / "x")
    assert len({tree[name] for name in ("usr/a", "usr/b", "usr/c")}) == 1
    assert tree["usr/l"] == "-> x"
    assert content_of(tmp_path / "x/out")["usr/a"] == b"xshared"
    assert (tmp_path / "x/out/usr/a").stat().st_nlink == 3


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ((b"../x", 0o100644, b"x"), "DOTDOT"), ((b"/etc/x", 0o100644, b"x"), "ABSOLUTE"), ((b"dev", 0o020644, b""), "TYPE"),
        ((b"l", 0o120777, b"/etc"), "SYMLINK_ABSOLUTE"), ((b"a\nb", 0o100644, b""), "NAME_CONTROL"),
        ((b"a" * 300, 0o100644, b""), "COMPONENT_TOO_LONG"), ((b"t", 0o100644, b"again"), "DUPLICATE"),
    ],
)  # fmt: skip
def test_our_own_checks(entry: tuple[bytes, int, bytes], code: str, tmp_path: Path) -> None:
    """Names, types and links go through the same validator as those of a tar."""
    with pytest.raises(ArchiveError) as caught:
        extract(rpm((b"t", 0o100644, b"x"), entry), "rpm", tmp_path / "x")
    assert caught.value.code == code


@pytest.mark.parametrize(("kind", "limits", "code"), [
    ("tar.lz4", Limits(max_total_bytes=1000), "TOO_LARGE"), ("7z", Limits(max_total_bytes=1000), "TOO_LARGE"),
    ("7z", Limits(max_entries=2), "TOO_MANY_ENTRIES"), ("7z", Limits(max_path_bytes=3), "PATH_TOO_LONG"),
])  # fmt: skip
def test_limits(kind: str, limits: Limits, code: str, tmp_path: Path) -> None:
    """The limits of an archive apply."""
    with pytest.raises(ArchiveError) as caught:
        extract(packed(kind, filled(tmp_path / "in")), kind, tmp_path / "x", limits=limits)
    assert caught.value.code == code


@pytest.mark.parametrize("kind", FLAGS)
def test_damage(kind: str, tmp_path: Path) -> None:
    """A truncated archive is refused, and the destination does not appear."""
    made = packed(kind, filled(tmp_path / "in"))
    for content in (made[: len(made) * 2 // 3], made[:20], b""):
        with pytest.raises(ArchiveError) as caught:
            extract(content, kind, tmp_path / "x")
        assert "Traceback" not in str(caught.value)
        assert not (tmp_path / "x/out").exists()
        shutil.rmtree(tmp_path / "x")


def test_memory(tmp_path: Path) -> None:
    """A dictionary larger than the limit is refused, and only the child needs the memory."""
    stream = lzma.compress(bytes(1000), format=lzma.FORMAT_ALONE)
    member = b"LZIP\x01" + b"\x1d" + stream[13:] + bytes(20)  # a dictionary of 512 MiB
    with pytest.raises(ArchiveError, match="xz-memlimit-mib"):
        extract(member, "tar.lz", tmp_path / "x", limits=Limits(xz_memlimit_mib=1))


def test_a_definition_declares_it(tmp_path: Path) -> None:
    """`format:` extracts, strips and repacks; without it, the file is placed with a warning that names the key."""
    (tmp_path / "top").mkdir()
    filled(tmp_path / "in")
    made, lz = packed("7z", tmp_path / "in", "t"), subprocess.run(
        ["bsdtar", "--lzip", "-cf", "-", "@-"], input=TOP, check=True, stdout=subprocess.PIPE
    ).stdout  # fmt: skip
    rows = {
        "lz": Row("x.tar.lz", lz, "{format: tar.lz, strip-components: 1}", STRIPPED),
        "lz repacked": Row("y.tar.lz", lz, "{format: tar.lz, artifact-name: y.tar.zst, strip-components: 1}", STRIPPED),
        "7z": Row("x.7z", made, "{format: 7z, strip-components: 2}", {"link": b"a" * 300_000}),
        "7z without a key": Row("plain.7z", made, "", {"plain.7z": made}),
    }
    rows["7z"] = rows["7z"]._replace(keys="format: 7z", tree=content_of(tmp_path / "in"))
    top = project(tmp_path, rows)
    done = doit(top, "run", "toolchain:kit")
    assert done.returncode == 0, done.stdout
    for number, (case, row) in enumerate(rows.items()):
        assert content_of(top / f"build/kit/fetches/d{number}") == row.tree, case
    assert "plain.7z is placed as it is: set `format: 7z`" in done.stdout


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, the refusal says what to install."""
    monkeypatch.setitem(sys.modules, "libarchive", None)
    with pytest.raises(ArchiveError, match=r"install `doit-fetch\[more-formats\]`"):
        read(
            io.BytesIO(b"7z\xbc\xaf\x27\x1c"), name="a.7z", format="7z", reshape=Reshape(), limits=Limits(), sink=lambda _: None,
        )  # fmt: skip


def test_an_inner_tar_is_checked(tmp_path: Path) -> None:
    """A tar in lzip goes through the strict tar reader."""
    bad = tar([Member("a", b"1"), Member("../b", b"2")])
    made = subprocess.run(["bsdtar", "--version"], check=True, stdout=subprocess.PIPE).stdout
    assert made
    lz4 = shutil.which("lz4")
    if lz4 is None:
        pytest.skip("needs lz4")
    content = subprocess.run([lz4, "-c"], input=bad, check=True, stdout=subprocess.PIPE).stdout
    with pytest.raises(ArchiveError) as caught:
        extract(content, "tar.lz4", tmp_path / "x")
    assert caught.value.code == "DOTDOT"
