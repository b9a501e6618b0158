"""One archive at least for every row of what is accepted and refused (docs/archives.md), with its exact outcome.

The names are those under which such faults are known; each is made in memory when a test asks for it.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import zstandard

from tests.archives import (
    Member,
    Zipped,
    ar,
    blocks,
    gnu,
    padded,
    pax,
    record,
    resummed,
    tar,
    tar_header,
    zip_end,
    zip_end64,
    zip_of,
)

GZ, BZ, XZ = gzip.compress, bz2.compress, lzma.compress
ZST: Final = zstandard.ZstdCompressor(write_checksum=True).compress
Tree = dict[str, "str | bytes"]


@dataclass(frozen=True)
class Case:
    """An archive: `make` gives its bytes; accepted with `tree`, or refused with `code`.

    A tree maps paths to content, `x` before that of an executable file, `-> text` for symlinks, `/` for directories.
    """

    kind: str
    make: Callable[[], bytes]
    code: str = ""
    tree: Tree = field(default_factory=dict)


CASES: Final[dict[str, Case]] = {}


def refused(name: str, code: str, data: bytes | Callable[[], bytes], kind: str = "tar") -> None:
    CASES[name] = Case(kind, data if callable(data) else lambda: data, code)


def accepted(name: str, tree: Tree, data: bytes | Callable[[], bytes], kind: str = "tar") -> None:
    CASES[name] = Case(kind, data if callable(data) else lambda: data, "", tree)


X = Member("x", b"x")
SMUGGLED = tar_header(Member("smuggled.txt", b"")) + bytes(512)


def link(name: str, target: str) -> Member:
    return Member(name, kind=b"2", target=target)


def hard(name: str, target: str, content: bytes = b"") -> Member:
    return Member(name, content, kind=b"1", target=target)


def sized(name: str, size: bytes, kind: bytes = b"0") -> bytes:
    return tar_header(Member(name, kind=kind), size=size) + bytes(1024)


# --- names

for label, name, code in (
    ("dotdot", "../evil", "DOTDOT"), ("dotdot-middle", "a/../b", "DOTDOT"), ("dotdot-end", "a/..", "DOTDOT"),
    ("dotdot-deep", "a/b/../../../evil", "DOTDOT"), ("dotdot-dot", "./../evil", "DOTDOT"),
    ("dotdot-directory", "../evil/", "DOTDOT"), ("dotdot-backslash", "..\\evil", "DOTDOT"),
    ("dotdot-backslash-inner", "a\\..\\..\\evil", "DOTDOT"),
    ("absolute", "/tmp/evil", "ABSOLUTE"), ("absolute-double", "//tmp/evil", "ABSOLUTE"),
    ("absolute-directory", "/evil/", "ABSOLUTE"), ("absolute-drive", "C:\\evil", "ABSOLUTE"),
    ("absolute-drive-slash", "C:/evil", "ABSOLUTE"), ("absolute-drive-dot", "./C:/evil", "ABSOLUTE"),
    ("absolute-unc", "\\\\server\\evil", "ABSOLUTE"), ("leave-and-return", "../out/x", "DOTDOT"),
    ("name-empty", "", "NAME_EMPTY"), ("name-dot", ".", "ROOT"), ("name-dots", "./.", "ROOT"),
    ("name-newline", "a\nb", "NAME_CONTROL"), ("name-escape", "a\x1b[31mb", "NAME_CONTROL"),
    ("name-delete", "a\x7fb", "NAME_CONTROL"), ("name-tab", "a\tb", "NAME_CONTROL"), ("name-return", "a\rb", "NAME_CONTROL"),
    ("name-nul", "safe\0/../evil", "NAME_CONTROL"),
):  # fmt: skip
    refused(f"tar-{label}", code, tar([Member(name) if name.endswith("/") else Member(name, b"x")]))
    if "\0" not in name and name and not name.endswith("/"):
        refused(f"tar-pax-{label}", code, tar([pax(record("path", name)), X]))
        refused(f"tar-gnu-{label}", code, tar([gnu(name), X]))
refused("tar-name-slash", "ABSOLUTE", tar([Member("/")]))
refused("tar-dotdot-prefix-field", "DOTDOT", tar([Member("x", b"x", prefix="../evil")]))
refused("tar-absolute-prefix-field", "ABSOLUTE", tar([Member("x", b"x", prefix="/evil")]))
refused("tar-pax-nul", "NAME_CONTROL", tar([pax(record("path", b"a\0b")), X]))
refused("tar-gnu-nul", "GNU_NAME", tar([gnu("a\0b"), X]))
refused("tar-gnu-empty", "GNU_NAME", tar([gnu(""), X]))
refused("tar-pax-path-empty", "NAME_EMPTY", tar([pax(record("path", "")), X]))
refused("tar-component-256", "COMPONENT_TOO_LONG", tar([gnu("n" * 256), X]))
refused("tar-path-4096", "PATH_TOO_LONG", tar([gnu("/".join(["n" * 200] * 21)), X]))
refused("tar-depth-257", "TOO_DEEP", tar([gnu("d/" * 256 + "f"), X]))
refused("tar-depth-1900", "TOO_DEEP", tar([gnu("d/" * 1900 + "f"), X]))
accepted("tar-depth-256", {"d/" * 255 + "f": b"x"}, tar([gnu("d/" * 255 + "f"), X]))
accepted("tar-component-255", {"n" * 255: b"x"}, tar([gnu("n" * 255), X]))
ODD = ("-rf", "~", "$HOME", "`id`", "a b", "*", "a'b", 'a"b', "a\\b", "a:b", "\u202egnp.exe", "\u200b", "a;b", "{x}", "a&b", "C:b", "A::B", "trailing.", " ", "\udcff\udcfe", "caf\udce9")  # fmt: skip
accepted("tar-odd-names", {name: name.encode("utf-8", "surrogateescape") for name in ODD},
         tar([Member(name, name.encode("utf-8", "surrogateescape")) for name in ODD]))  # fmt: skip
accepted("tar-case-twins", {"a": b"1", "A": b"2", "\u00e9": b"3", "e\u0301": b"4", "d/x": b"5", "D/x": b"6"},
         tar([Member("a", b"1"), Member("A", b"2"), Member("\u00e9", b"3"), Member("e\u0301", b"4"), Member("d/x", b"5"), Member("D/x", b"6")]))  # fmt: skip
accepted("tar-own-markers", {".prepared.json": b"{}", ".records/x.json": b"{}", ".part": b"x", ".lock": b"y"},
         tar([Member(".prepared.json", b"{}"), Member(".records/x.json", b"{}"), Member(".part", b"x"), Member(".lock", b"y")]))  # fmt: skip
accepted("tar-dot-prefix", {"a/b": b"x", "a/c": b"y"}, tar([Member("./"), Member("./a/"), Member("./a/b", b"x"), Member("./a//c", b"y")]))

# --- symlinks

for label, target in (("absolute", "/etc/passwd"), ("absolute-root", "/"), ("absolute-double", "//x")):
    refused(f"tar-symlink-{label}", "SYMLINK_ABSOLUTE", tar([link("a", target)]))
for label, members in {
    "dotdot": [link("a", "../x")], "dotdot-only": [link("a", "..")], "dotdot-deep": [link("d/a", "../../x")],
    "dotdot-middle": [Member("d/"), link("a", "d/../../x")], "trailing-slash": [link("d/a/", "../../x")],
    "trailing-slash-one": [link("a/", "..")],
    "two-hop": [link("a", "."), link("b", "a/..")], "two-hop-deep": [Member("d/"), link("d/a", ".."), link("b", "d/a/..")],
    "late-rebind": [link("b", "a/.."), link("a", ".")], "late-rebind-deep": [link("x", "d/e/../.."), Member("d/"), link("d/e", "..")],
    "through-nothing": [link("a", "nothing/..")], "through-a-file": [Member("f"), link("a", "f/../..")],
    "dir-metadata": [link("d", "../.."), Member("e/")],
}.items():  # fmt: skip
    refused(f"tar-symlink-{label}", "SYMLINK_OUTSIDE", tar(members))


def pathmax() -> bytes:
    """CVE-2025-4517: a chain of short links to long directories, longer than PATH_MAX once resolved."""
    members, here, long = [], "", "d" * 247
    for step in "abcdefghijklmnop":
        members += [gnu(f"{here}{long}/"), Member("x/"), gnu(f"{here}{step}"), gnu(long, b"K"), link("x", "y")]
        here += f"{long}/"
    chain = "/".join("abcdefghijklmnop")
    end = f"{chain}/{'l' * 254}"
    return tar([*members, gnu(end), gnu("../" * 16, b"K"), link("x", "y"), gnu("escape"), gnu(f"{end}/../../../etc", b"K"), link("x", "y")])


refused("tar-symlink-pathmax", "BELOW_NON_DIRECTORY PATH_TOO_LONG SYMLINK_OUTSIDE", pathmax)
PATHMAX_OF_NAMES = [
    part for index, step in enumerate("abcdefgh")
    for part in ([gnu(("d" * 200 + "/") * (index + 1)), Member("x/"), gnu(("d" * 200 + "/") * index + step), gnu("d" * 200, b"K"), link("x", "y")])
]  # fmt: skip
refused("tar-symlink-pathmax-inside", "SYMLINK_OUTSIDE",
        tar([*PATHMAX_OF_NAMES, gnu("escape"), gnu("/".join("abcdefgh") + "/.." * 9, b"K"), link("x", "y")]))  # fmt: skip
refused("tar-symlink-hops", "SYMLINK_HOPS", tar([*(link(f"l{n}", f"l{n - 1}") for n in range(1, 50)), X]))
accepted("tar-symlink-39-hops", {"l0": b"x", **{f"l{n}": f"-> l{n - 1}" for n in range(1, 40)}},
         tar([Member("l0", b"x"), *(link(f"l{n}", f"l{n - 1}") for n in range(1, 40))]))  # fmt: skip
refused("tar-symlink-intricate", "SYMLINK_HOPS", lambda: tar([m for n in range(600) for m in (gnu("./" * 2000 + "x", b"K"), link(f"l{n}", "y"))]))
refused("tar-symlink-doubling", "SYMLINK_HOPS", tar([Member("d/"), link("l0", "d"), *(link(f"l{n}", f"l{n - 1}/../l{n - 1}") for n in range(1, 60))]))
accepted("tar-symlink-inside", {"d/a": b"x", "l": "-> d/a", "d/up": "-> ../l", "d/self": "-> .", "top": "-> d/.."},
         tar([link("l", "d/a"), Member("d/a", b"x"), link("d/up", "../l"), link("d/self", "."), link("top", "d/..")]))  # fmt: skip
accepted("tar-symlink-dangling", {"a": "-> nothing", "d/b": "-> ../nothing/at/all"}, tar([link("a", "nothing"), link("d/b", "../nothing/at/all")]))
accepted("tar-symlink-loop", {"a": "-> b", "b": "-> a", "c": "-> c"}, tar([link("a", "b"), link("b", "a"), link("c", "c")]))
accepted("tar-symlink-loop-in-path", {"a": "-> a/b", "c": "-> a/../d"}, tar([link("a", "a/b"), link("c", "a/../d")]))
for label, members in {
    "write-through": [link("d", "e"), Member("e/"), Member("d/x", b"x")],
    "write-through-outside": [link("d", "/tmp"), Member("d/x", b"x")],
    "write-through-directory": [link("d", "e"), Member("e/"), Member("d/f/")],
    "write-through-link": [link("d", "e"), Member("e/"), link("d/x", "y")],
    "internal-deep": [Member("a/b/"), link("c", "a"), Member("c/b/x", b"x")],
    "loop-write": [link("d", "d"), Member("d/x", b"x")],
}.items():  # fmt: skip
    refused(f"tar-symlink-{label}", "BELOW_NON_DIRECTORY", tar(members))
refused("tar-symlink-casefold-swap", "CASE_TWIN", tar([link("Dir", "e"), Member("e/"), Member("dir/x", b"x")]))
refused("tar-symlink-unicode-swap", "CASE_TWIN", tar([link("stra\u00dfe", "e"), Member("e/"), Member("strasse/x", b"x")]))
refused("tar-symlink-unicode-form", "CASE_TWIN", tar([link("\u00e9", "e"), Member("e/"), Member("e\u0301/x", b"x")]))
for label, members in {
    "dir-then-symlink": [Member("d/"), link("d", "e")], "symlink-then-dir": [link("d", "e"), Member("d/")],
    "symlink-then-file": [link("d", "e"), Member("d", b"x")], "file-then-symlink": [Member("d", b"x"), link("d", "e")],
    "duplicate-symlink": [link("d", "e"), link("d", "f")], "duplicate-file": [Member("a", b"1"), Member("a", b"2")],
    "duplicate-same": [Member("a", b"1"), Member("a", b"1")], "duplicate-dotted": [Member("a", b"1"), Member("./a", b"2")],
    "file-then-directory": [Member("a", b"1"), Member("a/")], "directory-then-file": [Member("a/"), Member("a", b"1")],
    "implied-then-file": [Member("a/b", b"1"), Member("a", b"1")],
    "hardlink-alias-overwrite": [Member("a", b"1"), hard("b", "a"), Member("b", b"2")],
    "hardlink-self": [Member("a", b"1"), hard("a", "a")],
}.items():  # fmt: skip
    refused(f"tar-{label}", "DUPLICATE", tar(members))
refused("tar-file-as-directory", "BELOW_NON_DIRECTORY", tar([Member("a", b"1"), Member("a/b", b"2")]))
refused("tar-hardlink-as-directory", "BELOW_NON_DIRECTORY", tar([Member("f"), hard("a", "f"), Member("a/b", b"2")]))
accepted("tar-duplicate-directory", {"d": "/", "d/x": b"x"}, tar([Member("d/"), Member("d/x", b"x"), Member("d/"), Member("./d/")]))
for label, target in (("empty", ""), ("nul", "a\0b"), ("newline", "a\nb")):
    refused(f"tar-symlink-target-{label}", "LINK_TARGET NAME_CONTROL", tar([link("a", target)]))
refused("tar-symlink-target-long", "LINK_TARGET", tar([gnu("n" * 5000, b"K"), link("a", "x")]))
refused("tar-symlink-target-pax-empty", "LINK_TARGET", tar([pax(record("linkpath", "")), link("a", "x")]))
refused("tar-symlink-root", "ROOT", tar([link(".", "x")]))
refused("tar-symlink-root-slash", "ROOT", tar([link("./", "x")]))

# --- hard links

for label, code, members in (
    ("outside", "DOTDOT", [hard("a", "../x")]), ("absolute", "ABSOLUTE", [hard("a", "/etc/passwd")]),
    ("dotdot-middle", "DOTDOT", [Member("d/f"), hard("a", "d/../../x")]), ("missing", "HARDLINK", [hard("a", "x")]),
    ("forward", "HARDLINK", [hard("a", "b"), Member("b")]), ("to-directory", "HARDLINK", [Member("d/"), hard("a", "d")]),
    ("to-symlink", "HARDLINK", [link("s", "x"), hard("h", "s")]),
    ("to-symlink-depth", "HARDLINK", [Member("d/"), link("d/s", "x"), hard("h", "d/s")]),
    ("through-symlink", "HARDLINK", [Member("d/f"), link("s", "d"), hard("h", "s/f")]),
    ("fallback-symlink", "HARDLINK", [Member("a/"), link("a/b", "../x"), hard("c", "a/b")]),
    ("to-root", "HARDLINK", [hard("a", ".")]), ("root", "ROOT", [Member("x"), hard(".", "x")]),
    ("self-missing", "HARDLINK", [hard("a", "a")]), ("target-empty", "LINK_TARGET", [Member("x"), hard("a", "")]),
    ("with-data", "LINK_WITH_CONTENT", [Member("x"), hard("a", "x", SMUGGLED)]),
    ("below-symlink", "BELOW_NON_DIRECTORY", [Member("f"), link("d", "e"), hard("d/h", "f")]),
):  # fmt: skip
    refused(f"tar-hardlink-{label}", code, tar(members))
accepted("tar-hardlink", {"d/a": b"1", "b": b"1", "d/c": b"1"}, tar([Member("d/a", b"1"), hard("b", "./d/a"), hard("d/c", "b")]))
accepted("tar-hardlink-long", {"n" * 150: b"1", "m" * 150: b"1"}, tar([gnu("n" * 150), Member("x", b"1"), gnu("n" * 150, b"K"), gnu("m" * 150), hard("y", "z")]))

# --- types and modes

for kind, label in zip(b"346MDNAZ\x01", "chr blk fifo multivolume dumpdir oldlong vendor-a unknown-z unknown-1".split(), strict=True):
    refused(f"tar-type-{label}", "TYPE", tar([Member("a", kind=bytes([kind]))]))
refused("tar-pax-dumpdir", "TYPE", tar([pax(record("GNU.dumpdir", "Yx")), Member("d/")]))
refused("tar-pax-volume", "TYPE", tar([pax(record("GNU.volume.filename", "x"), record("GNU.volume.offset", "5")), X]))
accepted("tar-volume-label", {"x": b"x"}, tar([Member("label", kind=b"V"), X]))
refused("tar-volume-label-with-data", "LINK_WITH_CONTENT", tar([Member("label", SMUGGLED, kind=b"V"), X]))
refused("tar-volume-label-takes-pax", "PAX_TWICE", tar([pax(record("path", "y")), Member("label", kind=b"V"), X]))
accepted("tar-contiguous", {"x": b"x"}, tar([Member("x", b"x", kind=b"7")]))
accepted("tar-modes", {"s": b"xs", "g": b"xg", "w": b"w", "n": b"n", "t/f": b"xf", "z": "/"},
         tar([Member("s", b"s", mode=0o4755), Member("g", b"g", mode=0o2711), Member("w", b"w", mode=0o666), Member("n", b"n", mode=0),
              Member("t/", mode=0o1777), Member("z/", mode=0), Member("t/f", b"f", mode=0o777)]))  # fmt: skip

# --- frames

TWO = [Member("a", b"1" * 600), Member("b", b"2")]
refused("tar-truncated-header", "TRUNCATED", blocks(TWO)[:-900])
refused("tar-truncated-data", "TRUNCATED", blocks(TWO)[:900])
refused("tar-truncated-padding", "TRUNCATED", blocks(TWO)[:-10])
refused("tar-no-end", "NO_END", blocks(TWO))
refused("tar-bad-checksum", "CHECKSUM", lambda: b"c" + tar(TWO)[1:])
refused("tar-bad-checksum-second", "CHECKSUM", lambda: tar(TWO).replace(b"b\0", b"c\0", 1))
refused("tar-checksum-no-number", "NUMBER", lambda: tar(TWO)[:148] + b"xxxxxxxx" + tar(TWO)[156:])
refused("tar-garbage-block", "NUMBER CHECKSUM", blocks(TWO) + b"garbage!" * 64 + bytes(1024))
refused("tar-zero-block-mid", "TRAILING_GARBAGE", blocks(TWO[:1]) + bytes(512) + tar(TWO[1:]))
refused("tar-trailing-data", "TRAILING_GARBAGE", tar(TWO) + b"x" * 512)
refused("tar-trailing-byte", "TRAILING_GARBAGE", tar(TWO) + bytes(511) + b"x")
refused("tar-two-concatenated", "TRAILING_GARBAGE", tar(TWO[:1]) + tar(TWO[1:]))
refused("tar-pax-dangling", "DANGLING", tar([pax(record("path", "x"))]))
refused("tar-gnu-dangling", "DANGLING", tar([gnu("x")]))
accepted("tar-one-end-block", {"b": b"2"}, blocks(TWO[1:]) + bytes(512))
accepted("tar-trailing-zeros", {"b": b"2"}, tar(TWO[1:]) + bytes(20480))
accepted("tar-empty", {}, bytes(10240))
accepted("tar-signed-checksum", {"caf\udce9": b"x"}, lambda: _signed(Member("caf\udce9", b"x")))
accepted("tar-v7", {"d": "/", "d/a": b"x"}, lambda: b"".join(resummed(tar_header(m, magic=bytes(8))) + padded(m.content) for m in (Member("d/", kind=b"\0"), Member("d/a", b"x", kind=b"\0"))) + bytes(1024))


def _signed(member: Member) -> bytes:
    block = tar_header(member)
    total = sum(byte - 256 if byte > 127 else byte for byte in block) - sum(block[148:156]) + 256
    return block[:148] + b"%06o\0 " % total + block[156:] + padded(member.content) + bytes(1024)


# --- numbers

for label, size in {
    "negative-base256": b"\xff" * 12, "negative-one": b"\xff" * 11 + b"\xfe", "huge-base256": b"\x80\0\0\x40" + bytes(8),
    "overflow-base256": b"\x80" + b"\xff" * 11, "underscore": b"0000000_010\0", "plus": b"+0000000010\0", "minus": b"-0000000010\0",
    "blank-inside": b"000 0000010\0", "nul-inside": b"0000\0000010\0", "eight": b"00000000018\0", "letters": b"0x000000010\0",
    "unicode-digits": "\u0661".encode() + b"0000000000",
}.items():  # fmt: skip
    refused(f"tar-size-{label}", "NUMBER", sized("a", size))
refused("tar-size-2-to-62", "MEMBER_TOO_LARGE", sized("a", b"\x80\0\0\0\x40" + bytes(7)))
refused("tar-size-64-GiB", "MEMBER_TOO_LARGE", sized("a", b"777777777777"))
refused("tar-size-more-than-there", "TRUNCATED", sized("a", b"00000100000\0"))
refused("tar-mode-no-number", "NUMBER", lambda: resummed(tar_header(X)[:100] + b"rw-r--r-" + tar_header(X)[108:]) + padded(b"x") + bytes(1024))
accepted("tar-size-blanks", {"a": b"x"}, tar_header(Member("a", b"x"), size=b"          1 ") + padded(b"x") + bytes(1024))
accepted("tar-size-base256", {"a": b"x"}, tar_header(Member("a", b"x"), size=b"\x80" + bytes(10) + b"\x01") + padded(b"x") + bytes(1024))

# --- pax

for label, code, content in (
    ("overrun", "PAX_RECORD", b"99 path=y\n"), ("short", "PAX_RECORD", b"5 path=y\n"), ("zero", "PAX_RECORD", b"0 path=y\n"),
    ("no-newline", "PAX_RECORD", b"9 path=yy"), ("empty-key", "PAX_RECORD", b"5 =y\n"), ("no-equals", "PAX_RECORD", b"8 pathy\n"),
    ("garbage", "PAX_RECORD", b"garbage"), ("negative", "PAX_RECORD", b"-9 path=y\n"), ("plus", "PAX_RECORD", b"+9 path=y\n"),
    ("underscore", "PAX_RECORD", b"1_0 path=y\n"), ("digits-bomb", "PAX_RECORD", b"9" * 60_000 + b" path=y\n"),
    ("redos", "PAX_RECORD", b"1" * 20_000 + b"\n" * 10), ("duplicate", "PAX_TWICE", record("path", "y") + record("path", "z")),
    ("size-vs-ustar", "PAX_SIZE", record("size", "512")), ("size-negative", "NUMBER", record("size", "-1")),
    ("size-huge", "NUMBER", record("size", "9" * 30)), ("size-garbage", "NUMBER", record("size", "1x")),
    ("size-empty", "NUMBER", record("size", "")), ("size-unicode", "NUMBER", record("size", "\u0661")),
    ("size-float", "NUMBER", record("size", "1.0")), ("realsize", "SPARSE", record("SCHILY.realsize", "512")),
    ("padding-garbage", "PAX_RECORD", record("path", "y") + b"\0" * 8),
):  # fmt: skip
    refused(f"tar-pax-{label}", code, tar([Member("pax", content, kind=b"x"), X, Member("y", SMUGGLED)]))
for key in ("path", "linkpath", "size", "GNU.sparse.name", "SCHILY.realsize"):
    refused(f"tar-pax-global-{key}", "PAX_GLOBAL", tar([pax(record(key, "1"), kind=b"g"), X]))
refused("tar-pax-twice", "PAX_TWICE", tar([pax(record("mtime", "1")), pax(record("path", "y")), X]))
refused("tar-pax-then-gnu", "PAX_TWICE", tar([pax(record("path", "y")), gnu("z"), X]))
refused("tar-gnu-then-pax", "PAX_TWICE", tar([gnu("z"), pax(record("path", "y")), X]))
refused("tar-gnu-twice", "PAX_TWICE", tar([gnu("z"), gnu("y"), X]))
refused("tar-pax-then-global", "PAX_TWICE", tar([pax(record("path", "y")), pax(record("comment", "c"), kind=b"g"), X]))
refused("tar-pax-40-MiB", "METADATA_TOO_LARGE", lambda: tar([pax(record("comment", b"x" * (40 << 20))), X]))
refused("tar-gnu-40-MiB", "METADATA_TOO_LARGE", lambda: tar([gnu("x" * (40 << 20)), X]))
refused("tar-pax-size-smuggles", "NO_END", tar([pax(record("size", "1024")), Member("a"), Member("smuggled.txt")])[:-1024] + bytes(512))
accepted("tar-pax-size-override", {"a": SMUGGLED[:600]}, blocks([pax(record("size", "600"))]) + tar_header(Member("a")) + padded(SMUGGLED[:600]) + bytes(1024))
accepted("tar-pax-size-saturated", {"a": b"x"}, blocks([pax(record("size", "1"))]) + tar_header(Member("a"), size=b"77777777777\0") + padded(b"x") + bytes(1024))
accepted("tar-pax-harmless", {"y": b"x"}, tar([
    pax(record("comment", "0" * 40), kind=b"g"),
    pax(record("path", "y"), record("mtime", "1.5"), record("atime", "-1"), record("uid", "99999999999"), record("gid", "x"),
        record("uname", "\u00fc"), record("hdrcharset", "BINARY"), record("SCHILY.xattr.user.x", b"\0\1"), record("LIBARCHIVE.creationtime", "1"),
        record("RHT.security.selinux", "u"), record("SCHILY.fflags", "nodump"), record("LIBARCHIVE.xattr.user.y", "AA"), record("SCHILY.acl.access", "u")), X]))  # fmt: skip
accepted("tar-pax-bytes", {"\udcff": b"x"}, tar([pax(record("path", b"\xff")), X]))
accepted("tar-pax-empty", {"x": b"x"}, tar([Member("pax", b"", kind=b"x"), X]))
accepted("tar-pax-solaris", {"y": b"x"}, tar([pax(record("path", "y"), kind=b"X"), X]))
accepted("tar-gnu-no-nul", {"y" * 120: b"x"}, tar([Member("L", b"y" * 120, kind=b"L"), X]))
refused("tar-symlink-with-size", "LINK_WITH_CONTENT", tar([Member("a", SMUGGLED, kind=b"2", target="x"), X]))
refused("tar-directory-with-size", "LINK_WITH_CONTENT", tar([Member("a/", SMUGGLED), X]))
refused("tar-v7-dir-with-size", "FILE_AS_DIRECTORY", tar([Member("a/", SMUGGLED, kind=b"\0"), X]))
refused("tar-name-trailing-slash-file", "FILE_AS_DIRECTORY", tar([Member("a/", SMUGGLED, kind=b"0"), X]))
refused("tar-gnulong-aregtype-slash", "FILE_AS_DIRECTORY", tar([gnu("d" * 120 + "/"), Member("short", SMUGGLED, kind=b"\0"), X]))
accepted("tar-gnulong-cut-at-slash", {"d" * 99 + "/x": SMUGGLED}, tar([gnu("d" * 99 + "/x"), Member("d" * 99 + "/", SMUGGLED, kind=b"\0")]))

# --- sparse


def old_sparse(pieces: list[tuple[int, int]], real: int, content: bytes, more: bytes = b"") -> bytes:
    """Return a sparse member of the old GNU format and an end; `more` are its extension blocks."""
    block = bytearray(tar_header(Member("a", content, kind=b"S"), magic=b"ustar  \0"))
    for index, (start, size) in enumerate(pieces):
        block[386 + 24 * index : 410 + 24 * index] = b"%011o\0%011o\0" % (start, size)
    block[482] = bool(more)
    block[483:495] = b"%011o\0" % real if real < 8**11 else b"\x80" + real.to_bytes(11, "big")
    return resummed(bytes(block)) + more + padded(content) + bytes(1024)


def pax_sparse(text: str, content: bytes, real: int, name: str = "a", **more: str) -> bytes:
    records = [record(f"GNU.sparse.{key}", value) for key, value in {"major": "1", "minor": "0", "name": name, "realsize": str(real), **more}.items()]
    return tar([pax(*records), Member("GNUSparseFile.0/a", padded(text.encode()) + content)])


MORE = (b"%011o\0%011o\0" % (8, 1)).ljust(512, b"\0")
accepted("tar-sparse-old", {"a": bytes(600) + b"end" + bytes(397)}, old_sparse([(600, 3)], 1000, b"end"))
accepted("tar-sparse-old-extended", {"a": b"ab" + bytes(6) + b"c"}, old_sparse([(0, 1), (1, 1)], 9, b"abc", MORE))
accepted("tar-sparse-pax-1.0", {"a": bytes(600) + b"end" + bytes(397)}, pax_sparse("1\n600\n3\n", b"end", 1000))
accepted("tar-sparse-hole-only", {"a": bytes(700_000)}, pax_sparse("0\n", b"", 700_000))
for label, code, data in (
    ("overlap", "SPARSE", old_sparse([(0, 3), (2, 3)], 10, b"abcdef")), ("descending", "SPARSE", old_sparse([(5, 3), (0, 3)], 10, b"abcdef")),
    ("beyond", "SPARSE", old_sparse([(9, 3)], 10, b"abc")), ("more-data", "SPARSE", old_sparse([(0, 2)], 10, b"abc")),
    ("less-data", "SPARSE", old_sparse([(0, 600)], 1000, b"abc")), ("4-TiB", "MEMBER_TOO_LARGE", old_sparse([], 1 << 42, b"")),
    ("name-dotdot", "DOTDOT", pax_sparse("1\n0\n3\n", b"end", 3, name="../a")), ("name-absolute", "ABSOLUTE", pax_sparse("1\n0\n3\n", b"end", 3, name="/a")),
    ("name-slash", "FILE_AS_DIRECTORY", pax_sparse("1\n0\n3\n", b"end", 3, name="a/")),
    ("pax-4-TiB", "MEMBER_TOO_LARGE", pax_sparse("1\n0\n3\n", b"end", 1 << 42)), ("pax-overlap", "SPARSE", pax_sparse("2\n0\n2\n1\n1\n", b"end", 3)),
    ("pax-many", "SPARSE", pax_sparse("99999999\n", b"", 3)), ("pax-negative", "NUMBER", pax_sparse("1\n-1\n3\n", b"end", 3)),
    ("pax-endless", "SPARSE", pax_sparse("1" * 2000, b"", 3)), ("pax-short", "SPARSE", pax_sparse("5\n0\n", b"", 3)),
    ("pax-2.0", "SPARSE", pax_sparse("1\n0\n3\n", b"end", 3, major="2")), ("pax-no-realsize", "NUMBER", pax_sparse("1\n0\n3\n", b"end", 3, realsize="x")),
    ("pax-0.1-odd", "SPARSE", tar([pax(record("GNU.sparse.size", "9"), record("GNU.sparse.numblocks", "1"), record("GNU.sparse.map", "0")), X])),
    ("name-alone", "NUMBER SPARSE", tar([pax(record("GNU.sparse.name", "evil")), X])),
    ("realsize-alone", "NUMBER SPARSE", tar([pax(record("GNU.sparse.realsize", "600")), X])),
    ("directory", "SPARSE", tar([pax(record("GNU.sparse.name", "evil")), Member("d/")])),
    ("twice", "SPARSE", blocks([pax(record("GNU.sparse.name", "evil"))]) + old_sparse([(0, 3)], 3, b"abc")),
    ("old-endless", "SPARSE", old_sparse([(0, 1)], 9, b"", (bytes(504) + b"\1" + bytes(7)) * 4000)),
):  # fmt: skip
    refused(f"tar-sparse-{label}", code, data)

# --- compression

PLAIN = (
    Member("d/"), Member("d/a.txt", b"hello"), Member("d/run", b"#!/bin/sh\n", mode=0o755), Member("d/empty/"),
    Member("d/zero"), link("d/link", "a.txt"), hard("d/hard", "d/a.txt"), Member("d/large", bytes(range(256)) * 5000),
)  # fmt: skip
TREE: Tree = {
    "d/a.txt": b"hello", "d/run": b"x#!/bin/sh\n", "d/empty": "/", "d/zero": b"", "d/link": "-> a.txt", "d/hard": b"hello",
    "d/large": bytes(range(256)) * 5000,
}  # fmt: skip
TAR = tar(PLAIN)
CUT = 512 * 7  # a boundary of blocks
SKIPPABLE = b"\x50\x2a\x4d\x18\x03\0\0\0abc"
ZST_PLAIN = zstandard.ZstdCompressor(write_content_size=False, write_checksum=False).compress


def gz_with(flags: int, fields: bytes) -> bytes:
    """Return a gzip member with optional header fields."""
    head = b"\x1f\x8b\x08" + bytes([flags]) + bytes(4) + b"\0\xff" + fields
    if flags & 2:
        head += struct.pack("<H", zlib.crc32(head) & 0xFFFF)
    return head + GZ(TAR)[10:]


def xz_with(**words: object) -> bytes:
    """Return an xz stream with one filter of such words."""
    return lzma.compress(TAR, filters=[{"id": lzma.FILTER_LZMA2, **words}])  # type: ignore[dict-item]  # lzma checks them


def zst_with(window_log: int) -> bytes:
    """Return a zstd frame that says it needs such a window."""
    frame = bytearray(ZST_PLAIN(TAR))
    assert not frame[4]  # no content size, no checksum, no dictionary
    frame[5] = (window_log - 10) << 3
    return bytes(frame)


def zst_streamed(size: int, said: int) -> bytes:
    """Return a frame whose header says `said` bytes, before `size` of them."""
    frame = bytearray(zstandard.ZstdCompressor(write_content_size=True, write_checksum=False).compress(TAR[:size]))
    assert frame[4] >> 6 == 2  # four bytes of content size
    assert frame[4] & 0x20  # and no window
    frame[5:9] = said.to_bytes(4, "little")
    return bytes(frame)


for label, kind, data in (
    ("gz", "tar.gz", GZ(TAR)), ("bz2", "tar.bz2", BZ(TAR)), ("xz", "tar.xz", XZ(TAR)), ("zst", "tar.zst", ZST(TAR)),
    ("gz-multi-member", "tar.gz", GZ(TAR[:700]) + GZ(TAR[700:])), ("gz-multi-boundary", "tar.gz", GZ(TAR[:CUT]) + GZ(TAR[CUT:])),
    ("gz-empty-members", "tar.gz", GZ(b"") + GZ(TAR) + GZ(b"")), ("gz-padding", "tar.gz", GZ(TAR) + bytes(100)),
    ("gz-many-members", "tar.gz", b"".join(GZ(TAR[at : at + 4096]) for at in range(0, len(TAR), 4096))),
    ("gz-fname", "tar.gz", gz_with(8, b"name.tar\0")), ("gz-fextra", "tar.gz", gz_with(4, b"\4\0abcd")),
    ("gz-fcomment", "tar.gz", gz_with(16, b"comment\0")), ("gz-fhcrc", "tar.gz", gz_with(2, b"")),
    ("gz-all-fields", "tar.gz", gz_with(30, b"\4\0abcdname\0comment\0")), ("gz-stored", "tar.gz", gzip.compress(TAR, 0)),
    ("bz2-multi-stream", "tar.bz2", BZ(TAR[:700]) + BZ(TAR[700:])), ("bz2-multi-boundary", "tar.bz2", BZ(TAR[:CUT]) + BZ(TAR[CUT:])),
    ("bz2-empty-streams", "tar.bz2", BZ(b"") + BZ(TAR) + BZ(b"")), ("bz2-multi-block", "tar.bz2", bz2.compress(TAR, 1)),
    ("xz-multi-stream", "tar.xz", XZ(TAR[:700]) + XZ(TAR[700:])), ("xz-multi-boundary", "tar.xz", XZ(TAR[:CUT]) + XZ(TAR[CUT:])),
    ("xz-padding", "tar.xz", XZ(TAR) + bytes(8)), ("xz-padding-between", "tar.xz", XZ(TAR[:700]) + bytes(4) + XZ(TAR[700:])),
    ("xz-empty-streams", "tar.xz", XZ(b"") + XZ(TAR) + XZ(b"")), ("xz-crc32", "tar.xz", lzma.compress(TAR, check=lzma.CHECK_CRC32)),
    ("xz-sha256", "tar.xz", lzma.compress(TAR, check=lzma.CHECK_SHA256)), ("xz-no-check", "tar.xz", lzma.compress(TAR, check=lzma.CHECK_NONE)),
    ("xz-dict-64-MiB", "tar.xz", xz_with(dict_size=64 << 20)),
    ("zst-multi-frame", "tar.zst", ZST(TAR[:700]) + ZST(TAR[700:])), ("zst-multi-boundary", "tar.zst", ZST(TAR[:CUT]) + ZST(TAR[CUT:])),
    ("zst-skippable", "tar.zst", SKIPPABLE + ZST(TAR[:700]) + SKIPPABLE + SKIPPABLE + ZST(TAR[700:]) + SKIPPABLE),
    ("zst-skippable-empty", "tar.zst", b"\x5f\x2a\x4d\x18" + bytes(4) + ZST(TAR)),
    ("zst-empty-frames", "tar.zst", ZST(b"") + ZST(TAR) + ZST(b"")), ("zst-no-checksum", "tar.zst", ZST_PLAIN(TAR)),
    ("zst-window-128-MiB", "tar.zst", zst_with(window_log=27)),
):  # fmt: skip
    accepted(label, TREE, data, kind)

for label, kind, pack in (("gz", "tar.gz", GZ), ("bz2", "tar.bz2", BZ), ("xz", "tar.xz", XZ), ("zst", "tar.zst", ZST)):
    packed, second = pack(TAR), pack(b"x" * 999)
    for cut in (1, 4, 8, 9, len(packed) // 2, len(packed) - 8):
        refused(f"{label}-truncated-{cut}", "TRUNCATED", packed[:-cut], kind)
    refused(f"{label}-truncated-magic", "TRUNCATED WRONG_FORMAT", packed[:3], kind)
    refused(f"{label}-second-truncated", "TRUNCATED TRAILING_GARBAGE", packed + second[:-2], kind)
    refused(f"{label}-second-cut-to-magic", "TRUNCATED TRAILING_GARBAGE", packed + second[:3], kind)
    refused(f"{label}-second-corrupt", "CORRUPT TRUNCATED", packed + second[:12] + b"\xff\xfe" + second[14:], kind)
    refused(f"{label}-trailing-garbage", "TRAILING_GARBAGE", packed + b"garbage", kind)
    refused(f"{label}-trailing-byte", "TRAILING_GARBAGE", packed + b"x", kind)
    refused(f"{label}-corrupt", "CORRUPT TRUNCATED CHECKSUM", packed[:200] + bytes(99) + packed[299:], kind)
    refused(f"{label}-no-tar", "WRONG_FORMAT", pack(b"hello world, no tar here" * 99), kind)
    refused(f"{label}-of-itself", "WRONG_FORMAT", pack(packed), kind)
    refused(f"{label}-html", "WRONG_FORMAT", b"<!DOCTYPE html><html>log in</html>", kind)
    refused(f"{label}-empty-file", "WRONG_FORMAT", b"", kind)
    refused(f"{label}-of-nothing", "NO_END", pack(b""), kind)
    refused(f"{label}-zip-inside", "WRONG_FORMAT", zip_of(Zipped(name=b"a", content=b"x")), kind)
    refused(f"{label}-bomb", "TOO_LARGE", lambda pack=pack: pack(tar([Member("a", bytes(9 << 20))])), kind)  # type: ignore[misc]
    refused(f"{label}-bomb-no-tar", "TOO_LARGE WRONG_FORMAT TRAILING_GARBAGE", lambda pack=pack: pack(bytes(9 << 20)), kind)  # type: ignore[misc]
refused("gz-wrong-crc", "CORRUPT", GZ(TAR)[:-8] + b"1234" + GZ(TAR)[-4:], "tar.gz")
refused("gz-wrong-size", "CORRUPT", GZ(TAR)[:-4] + b"1234", "tar.gz")
refused("gz-wrong-fhcrc", "CORRUPT", gz_with(2, b"").replace(b"\0\xff", b"\0\xfe", 1), "tar.gz")
refused("gz-padding-then-garbage", "TRAILING_GARBAGE", GZ(TAR) + bytes(9) + b"x", "tar.gz")
refused("gz-reserved-flags", "CORRUPT", gz_with(0xE0, b""), "tar.gz")
refused("xz-odd-padding", "TRAILING_GARBAGE", XZ(TAR) + bytes(3), "tar.xz")
refused("xz-odd-padding-between", "TRAILING_GARBAGE", XZ(TAR[:700]) + bytes(6) + XZ(TAR[700:]), "tar.xz")
refused("xz-legacy-lzma", "WRONG_FORMAT", lzma.compress(TAR, format=lzma.FORMAT_ALONE), "tar.xz")
refused("xz-dict-1.5-GiB", "DICTIONARY", xz_with(dict_size=3 << 29), "tar.xz")
refused("bz2-padding", "TRAILING_GARBAGE", BZ(TAR) + bytes(10), "tar.bz2")
refused("zst-padding", "TRAILING_GARBAGE", ZST(TAR) + bytes(10), "tar.zst")
refused("zst-wrong-checksum", "CORRUPT", ZST(TAR)[:-4] + b"1234", "tar.zst")
refused("zst-content-size-lie", "CORRUPT", lambda: zst_streamed(len(TAR), len(TAR) - 512), "tar.zst")
refused("zst-content-size-more", "CORRUPT", lambda: zst_streamed(len(TAR), len(TAR) + 512), "tar.zst")
refused("zst-content-size-huge", "WINDOW", lambda: zst_streamed(len(TAR), (1 << 32) - 1), "tar.zst")
refused("zst-window-256-MiB", "WINDOW", zst_with(window_log=28), "tar.zst")
refused("zst-window-2-GiB", "WINDOW", zst_with(window_log=31), "tar.zst")
refused("zst-window-3.75-TiB", "WINDOW", b"\x28\xb5\x2f\xfd\0\xff" + bytes(99), "tar.zst")
refused("zst-dictionary", "DICTIONARY", b"\x28\xb5\x2f\xfd\x01\x58\x07\1\0\0", "tar.zst")
refused("zst-reserved-block", "CORRUPT", b"\x28\xb5\x2f\xfd\0\x58\7\0\0" + bytes(99), "tar.zst")
refused("zst-skippable-only", "NO_END", SKIPPABLE, "tar.zst")
refused("zst-skippable-truncated", "TRUNCATED", ZST(TAR) + SKIPPABLE[:-1], "tar.zst")
refused("zst-skippable-4-GiB", "TRUNCATED", ZST(TAR) + SKIPPABLE[:4] + b"\xff" * 4 + b"abc", "tar.zst")
# frames of blocks that repeat one byte: 128 KiB from four bytes
RLE = b"\x28\xb5\x2f\xfd\0\x58" + (2 | (1 << 17) << 3).to_bytes(3, "little").join([b"", *[b"\0"] * 2000]) + b"\1\0\0"
refused("zst-rle-no-tar", "TOO_LARGE", RLE, "tar.zst")
refused("gz-many-empty-members", "NO_END", lambda: GZ(b"") * 100_000, "tar.gz")
refused("tar-million-empty", "TOO_MANY_ENTRIES", lambda: GZ(b"".join(tar_header(Member(f"f{n}")) for n in range(2000))), "tar.gz")
refused("tar-html", "WRONG_FORMAT", b"<html>" + b"log in " * 200)
refused("tar-short-html", "WRONG_FORMAT", b"<html>log in")
refused("tar-is-gz", "WRONG_FORMAT", GZ(TAR))
refused("tar-is-zip", "WRONG_FORMAT", zip_of(Zipped(name=b"a", content=b"x" * 999)))
refused("tar-empty-file", "NO_END", b"")
refused("tar-zip-polyglot", "TRAILING_GARBAGE", TAR + zip_of(Zipped(name=b"a", content=b"x")))

# --- zip

A, B = Zipped(name=b"a", content=b"content a"), Zipped(name=b"d/b", content=b"b" * 5000, deflate="yes")
DESCRIBED = struct.pack("<4sIII", b"PK\x07\x08", zlib.crc32(b"described"), 9, 9)
DESCRIBED64 = struct.pack("<4sIQQ", b"PK\x07\x08", zlib.crc32(b"described"), 9, 9)


def described(descriptor: bytes, **more: object) -> Zipped:
    words = {"local_crc": 0, "local_size": 0, "local_packed": 0, **more}
    return Zipped(name=b"s", content=b"described", flags=8, descriptor=descriptor, **words)  # type: ignore[arg-type]


def unicode_path(name: bytes, told: bytes) -> bytes:
    body = b"\1" + struct.pack("<I", zlib.crc32(name)) + told
    return struct.pack("<HH", 0x7075, len(body)) + body


accepted("zip", {"a": b"content a", "d/b": b"b" * 5000, "e": "/", "x": b"xx", "l": "-> d/b"}, zip_of(
    A, B, Zipped(name=b"e/", mode=0o40755), Zipped(name=b"x", content=b"x", mode=0o100755), Zipped(name=b"l", content=b"d/b", mode=0o120777)), "zip")  # fmt: skip
accepted("zip-dos", {"a": b"x", "d": "/", "d/\u00fc": b"y"}, zip_of(
    Zipped(name=b"a", content=b"x", host=0, mode=0), Zipped(name=b"d/", host=0, mode=0, attributes=16), Zipped(name=b"d/\x81", content=b"y", host=0, mode=0)), "zip")  # fmt: skip
accepted("zip-utf8", {"\u00fc": b"x"}, zip_of(Zipped(name="\u00fc".encode(), content=b"x", host=0, mode=0, flags=0x800)), "zip")
accepted("zip-non-utf8", {"\udcff": b"x"}, zip_of(Zipped(name=b"\xff", content=b"x")), "zip")
accepted("zip-comment", {"a": b"content a"}, zip_of(A, comment=b"a comment"), "zip")
accepted("zip-empty", {}, zip_of(), "zip")
accepted("zip-descriptor", {"s": b"described", "a": b"content a"}, zip_of(described(DESCRIBED), A), "zip")
accepted("zip-descriptor-bare", {"s": b"described"}, zip_of(described(DESCRIBED[4:])), "zip")
accepted("zip-descriptor-64", {"s": b"described"}, zip_of(described(DESCRIBED64)), "zip")
accepted("zip-unicode-path-same", {"a": b"x"}, zip_of(Zipped(name=b"a", content=b"x", extra=unicode_path(b"a", b"a"))), "zip")
accepted("zip-extra", {"a": b"x"}, zip_of(Zipped(name=b"a", content=b"x", extra=b"UT\5\0\3abcd\xfe\xca\0\0", local_extra=b"\0\0\0")), "zip")
MEMBER64 = Zipped(name=b"a", content=b"x", extra=struct.pack("<HHQQ", 1, 16, 1, 1), size=0xFFFFFFFF, packed=0xFFFFFFFF)
accepted("zip-64-member", {"a": b"x"}, zip_of(MEMBER64), "zip")


def zip64(count: int = 1, locator: int | None = None, before: bytes = b"", short: int = 0xFFFF) -> bytes:
    """Return a zip of one member with a zip64 end."""
    body = zip_of(A, end=b"")
    size = 46 + 1
    start = len(body) - size
    at = len(body) + len(before)
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, short, short, size, 0xFFFFFFFF, 0)
    return body + before + zip_end64(count, size, start, at, locator) + end


accepted("zip-64-end", {"a": b"content a"}, zip64(), "zip")
for label, code, data in (
    ("dotdot", "DOTDOT", zip_of(Zipped(name=b"../a"))), ("dotdot-middle", "DOTDOT", zip_of(Zipped(name=b"a/../b"))),
    ("dotdot-backslash", "DOTDOT", zip_of(Zipped(name=b"..\\a"))), ("absolute", "ABSOLUTE", zip_of(Zipped(name=b"/a"))),
    ("absolute-drive", "ABSOLUTE", zip_of(Zipped(name=b"C:\\a"))), ("backslash-dos", "ZIP_BACKSLASH", zip_of(Zipped(name=b"d\\a", host=0, mode=0))),
    ("nul-name", "NAME_CONTROL", zip_of(Zipped(name=b"a\0b"))), ("empty-name", "NAME_EMPTY", zip_of(Zipped(name=b""))),
    ("control-name", "NAME_CONTROL", zip_of(Zipped(name=b"a\x1b"))), ("root", "ROOT", zip_of(Zipped(name=b"."))),
    ("duplicate", "DUPLICATE", zip_of(A, A)), ("duplicate-dotted", "DUPLICATE", zip_of(A, Zipped(name=b"./a"))),
    ("file-as-directory", "BELOW_NON_DIRECTORY", zip_of(A, Zipped(name=b"a/b"))),
    ("local-name", "ZIP_DISAGREE", zip_of(Zipped(name=b"a", local_name=b"b"))), ("local-crc", "ZIP_DISAGREE", zip_of(Zipped(name=b"a", content=b"x", local_crc=5))),
    ("local-size", "ZIP_DISAGREE", zip_of(Zipped(name=b"a", content=b"x", local_size=5))),
    ("local-packed", "ZIP_DISAGREE", zip_of(Zipped(name=b"a", content=b"x", local_packed=5))),
    ("local-method", "ZIP_DISAGREE", zip_of(Zipped(name=b"a", content=b"x", local_method=8))),
    ("local-flags", "ZIP_DISAGREE", zip_of(Zipped(name=b"a", content=b"x", local_flags=0x800))),
    ("local-descriptor-flag", "ZIP_DISAGREE", zip_of(Zipped(name=b"a", content=b"x", local_flags=8))),
    ("local-zeros", "ZIP_DISAGREE", zip_of(Zipped(name=b"a", content=b"x", local_crc=0, local_size=0, local_packed=0))),
    ("hidden-before", "ZIP_TILING", zip_of(Zipped(name=b"a", content=b"x", before=zip_of(B, end=b"")[:60]))),
    ("hidden-between", "ZIP_TILING", zip_of(A, Zipped(name=b"c", content=b"x", before=b"hidden"))),
    ("hidden-entry", "ZIP_TILING", zip_of(A, B)[:39 + 9 - 9] + zip_of(Zipped(name=b"h"), end=b"")[:31] + zip_of(A, B)[39:]),
    ("prefixed", "ZIP_TILING", b"#!/bin/sh\n" + zip_of(A)), ("quoted-overlap", "ZIP_TILING ZIP_DISAGREE", zip_of(B, Zipped(name=b"c", content=b"b" * 5000, deflate="y", offset=0))),
    ("overlap", "ZIP_TILING", zip_of(Zipped(name=b"a", content=b"x" * 99, offset=0), Zipped(name=b"b", content=b"y", offset=35))),
    ("eocd-count-less", "ZIP_TILING", zip_of(A, B, count=1)), ("eocd-count-more", "TRUNCATED", zip_of(A, count=2)),
    ("eocd-offset", "ZIP_TILING", zip_of(A, end=zip_end(1, 47, 5))), ("eocd-size", "ZIP_TILING", zip_of(A, end=zip_end(1, 40, 40))),
    ("eocd-disk", "ZIP_DISKS", zip_of(A, end=zip_end(1, 47, 39 + 1, disk=1))), ("multi-disk", "ZIP_SIZE", zip_of(Zipped(name=b"a", disk=1))),
    ("eocd-two", "ZIP_END", zip_of(A, comment=zip_end(0, 0, 0))), ("comment-embeds", "ZIP_END", zip_of(A, comment=zip_of(B))),
    ("comment-signature", "ZIP_END", zip_of(A, comment=b"PK\5\6")), ("comment-length", "TRUNCATED", zip_of(A, comment=b"abc")[:-1]),
    ("two-concatenated", "ZIP_TILING", zip_of(A) + zip_of(B)), ("trailing-garbage", "TRUNCATED", zip_of(A) + b"x"),
    ("trailing-zeros", "TRUNCATED", zip_of(A) + bytes(10)), ("truncated", "TRUNCATED", zip_of(A)[:-5]), ("cut", "TRUNCATED", zip_of(A, B)[:60]),
    ("no-end", "TRUNCATED", zip_of(A, end=b"")), ("html", "WRONG_FORMAT", b"<html>log in"), ("empty-file", "WRONG_FORMAT", b""), ("is-tar", "WRONG_FORMAT", TAR),
    ("unicode-path-extra", "ZIP_DISAGREE", zip_of(Zipped(name=b"a", content=b"x", extra=unicode_path(b"a", b"../evil")))),
    ("unicode-path-extra-local", "ZIP_DISAGREE", zip_of(Zipped(name=b"a", content=b"x", local_extra=unicode_path(b"a", b"evil")))),
    ("zip64-locator-lie", "ZIP64", zip64(locator=3)), ("zip64-locator-gap", "ZIP64", zip64(before=b"gap!", locator=86)),
    ("zip64-count", "ZIP64", zip64(count=2, short=1)),
    ("zip64-member-missing", "ZIP64", zip_of(Zipped(name=b"a", content=b"x", size=0xFFFFFFFF, packed=0xFFFFFFFF))),
    ("zip64-member-twice", "ZIP_HEADER", zip_of(Zipped(name=b"a", content=b"x", extra=MEMBER64.extra * 2, size=0xFFFFFFFF, packed=0xFFFFFFFF))),
    ("encrypted", "ZIP_ENCRYPTED", zip_of(Zipped(name=b"a", content=b"x", flags=1))), ("encrypted-strong", "ZIP_ENCRYPTED", zip_of(Zipped(name=b"a", content=b"x", flags=0x41))),
    ("masked", "ZIP_ENCRYPTED", zip_of(Zipped(name=b"a", content=b"x", flags=0x2000))), ("patch", "ZIP_METHOD", zip_of(Zipped(name=b"a", content=b"x", flags=0x20))),
    *((f"method-{method}", "ZIP_METHOD", zip_of(Zipped(name=b"a", content=b"x", method=method))) for method in (1, 6, 9, 12, 14, 93, 99)),
    ("size-lie-less", "ZIP_SIZE", zip_of(Zipped(name=b"a", content=b"b" * 5000, deflate="y", size=10))),
    ("size-lie-more", "ZIP_SIZE", zip_of(Zipped(name=b"a", content=b"b" * 5000, deflate="y", size=9999))),
    ("stored-size-lie", "ZIP_SIZE", zip_of(Zipped(name=b"a", content=b"b" * 50, size=10))), ("crc-lie", "CHECKSUM", zip_of(Zipped(name=b"a", content=b"b", crc=1))),
    ("deflate-corrupt", "CORRUPT", zip_of(Zipped(name=b"a", method=8, data=b"\xff" * 20, size=20))), ("deflate-cut", "TRUNCATED", zip_of(Zipped(name=b"a", method=8, data=b"\0\5\0\xfa\xffab", size=5))),
    ("deflate-more", "TRAILING_GARBAGE", zip_of(Zipped(name=b"a", method=8, data=b"\3\0more", size=0, crc=0))),
    ("descriptor-lie", "ZIP_DISAGREE", zip_of(described(DESCRIBED[:4] + b"\1\2\3\4" + DESCRIBED[8:]))), ("descriptor-missing", "ZIP_DISAGREE", zip_of(described(b""))),
    ("descriptor-unannounced", "ZIP_TILING", zip_of(Zipped(name=b"a", content=b"described", descriptor=DESCRIBED))),
    ("symlink-absolute", "SYMLINK_ABSOLUTE", zip_of(Zipped(name=b"a", content=b"/etc", mode=0o120777))), ("symlink-outside", "SYMLINK_OUTSIDE", zip_of(Zipped(name=b"a", content=b"../x", mode=0o120777))),
    ("symlink-write-through", "BELOW_NON_DIRECTORY", zip_of(Zipped(name=b"a", content=b"b", mode=0o120777), Zipped(name=b"a/x"))),
    ("symlink-empty", "LINK_TARGET", zip_of(Zipped(name=b"a", mode=0o120777))), ("symlink-nul", "LINK_TARGET", zip_of(Zipped(name=b"a", content=b"b\0c", mode=0o120777))),
    ("symlink-long", "LINK_TARGET", zip_of(Zipped(name=b"a", content=b"b" * 5000, mode=0o120777))), ("symlink-dos", "ZIP_DISAGREE", zip_of(Zipped(name=b"a", content=b"b", mode=0o120777, host=0))),
    ("symlink-slash", "LINK_WITH_CONTENT", zip_of(Zipped(name=b"a/", content=b"b", mode=0o120777))),
    *((f"type-{label}", "TYPE", zip_of(Zipped(name=b"a", mode=mode))) for label, mode in (("fifo", 0o010644), ("chr", 0o020644), ("blk", 0o060644), ("socket", 0o140644))),
    ("directory-with-content", "LINK_WITH_CONTENT", zip_of(Zipped(name=b"d/", content=b"x", mode=0o40755))), ("directory-no-slash", "ZIP_DISAGREE", zip_of(Zipped(name=b"d", mode=0o40755))),
    ("directory-dos-no-slash", "ZIP_DISAGREE", zip_of(Zipped(name=b"d", host=0, mode=0, attributes=16))),
    ("extra-broken", "ZIP_HEADER", zip_of(Zipped(name=b"a", extra=b"UT\xff\0\3"))), ("deflate-bomb", "TOO_LARGE", lambda: zip_of(Zipped(name=b"a", content=bytes(9 << 20), deflate="y"))),
    ("deflate-bomb-many", "TOO_LARGE", lambda: zip_of(*(Zipped(name=b"%d" % n, content=bytes(1 << 20), deflate="y") for n in range(9)))),
    ("many", "TOO_MANY_ENTRIES", lambda: zip_of(*(Zipped(name=b"%d" % n) for n in range(1001)))),
):  # fmt: skip
    refused(f"zip-{label}", code, data, "zip")
accepted("zip-setuid", {"a": b"xx"}, zip_of(Zipped(name=b"a", content=b"x", mode=0o106777)), "zip")

# --- Debian packages

CONTROL = ("control.tar.gz", GZ(tar([Member("./control", b"Package: x\n")])))
BINARY = ("debian-binary", b"2.0\n")
for label, data_member in (("gz", ("data.tar.gz", GZ(TAR))), ("xz", ("data.tar.xz", XZ(TAR))), ("zst", ("data.tar.zst", ZST(TAR))), ("bz2", ("data.tar.bz2", BZ(TAR))), ("tar", ("data.tar", TAR))):  # fmt: skip
    accepted(f"deb-{label}", TREE, ar(BINARY, CONTROL, data_member), "deb")
DATA = ("data.tar.gz", GZ(TAR))
DEB = ar(BINARY, CONTROL, DATA)
for label, code, data in (
    ("order", "DEB", ar(BINARY, DATA, CONTROL)), ("two-data", "DEB", ar(BINARY, CONTROL, DATA, DATA)), ("no-data", "DEB", ar(BINARY, CONTROL)),
    ("no-control", "DEB", ar(BINARY, DATA)), ("extra-member", "DEB", ar(BINARY, CONTROL, ("_x", b"x"), DATA)), ("version", "DEB", ar(("debian-binary", b"3.0\n"), CONTROL, DATA)),
    ("name-path", "DEB", ar(BINARY, CONTROL, ("../data.tar.gz", GZ(TAR)))), ("compression", "DEB", ar(BINARY, CONTROL, ("data.tar.lz", GZ(TAR)))),
    ("size-letters", "DEB", DEB.replace(b"4         `", b"x         `", 1)), ("size-negative", "DEB", DEB.replace(b"4         `", b"-4        `", 1)),
    ("size-huge", "TRUNCATED", DEB.replace(b"4         `", b"9999999999`", 1)), ("magic", "DEB", DEB.replace(b"`\n", b"``", 1)),
    ("truncated", "TRUNCATED", DEB[:-20]), ("trailing", "TRUNCATED DEB", DEB + b"x" * 20), ("data-dotdot", "DOTDOT", ar(BINARY, CONTROL, ("data.tar", tar([Member("../x", b"x")])))),
    ("data-corrupt", "CORRUPT TRUNCATED", ar(BINARY, CONTROL, ("data.tar.gz", GZ(TAR)[:-9]))), ("control-corrupt", "TRUNCATED CORRUPT", ar(BINARY, ("control.tar.gz", CONTROL[1][:-9]), DATA)),
    ("html", "WRONG_FORMAT", b"<html>log in"), ("empty-file", "WRONG_FORMAT", b""),
):  # fmt: skip
    refused(f"deb-{label}", code, data, "deb")
