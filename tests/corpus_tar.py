"""Hard links, types, frames, numbers, extension headers and sparse files of tar."""

from __future__ import annotations

from tests.archives import Member, blocks, gnu, padded, pax, record, resummed, tar, tar_header
from tests.cases import GZ, SMUGGLED, X, accepted, hard, link, refused, sized

# --- hard links

for label, code, members in (
    ("outside", "DOTDOT", [hard("a", "../x")]), ("absolute", "ABSOLUTE", [hard("a", "/etc/passwd")]),
    ("dotdot-middle", "DOTDOT", [Member("d/f"), hard("a", "d/../../x")]), ("missing", "HARDLINK", [hard("a", "x")]),
    ("forward", "HARDLINK", [hard("a", "b"), Member("b")]), ("to-directory", "HARDLINK", [Member("d/"), hard("a", "d")]),
    ("through-symlink", "HARDLINK", [Member("d/f"), link("s", "d"), hard("h", "s/f")]),
    ("fallback-symlink", "SYMLINK_OUTSIDE", [Member("a/"), link("a/b", "../x"), hard("c", "a/b")]),
    ("below-hardlinked-symlink", "BELOW_NON_DIRECTORY", [link("s", "d"), hard("h", "s"), Member("h/x")]),
    ("to-root", "HARDLINK", [hard("a", ".")]), ("root", "ROOT", [Member("x"), hard(".", "x")]),
    ("self-missing", "HARDLINK", [hard("a", "a")]), ("target-empty", "LINK_TARGET", [Member("x"), hard("a", "")]),
    ("with-data", "LINK_WITH_CONTENT", [Member("x"), hard("a", "x", SMUGGLED)]),
    ("below-symlink", "BELOW_NON_DIRECTORY", [Member("f"), link("d", "e"), hard("d/h", "f")]),
):  # fmt: skip
    refused(f"tar-hardlink-{label}", code, tar(members))
accepted(
    "tar-hardlink",
    {"d/a": b"1", "b": b"1", "d/c": b"1"},
    tar([Member("d/a", b"1"), hard("b", "./d/a"), hard("d/c", "b")]),
)
accepted(
    "tar-hardlink-long",
    {"n" * 150: b"1", "m" * 150: b"1"},
    tar([gnu("n" * 150), Member("x", b"1"), gnu("n" * 150, b"K"), gnu("m" * 150), hard("y", "z")]),
)

# --- types and modes

for number, label in zip(
    b"346MDNAZ\x01",
    ["chr", "blk", "fifo", "multivolume", "dumpdir", "oldlong", "vendor-a", "unknown-z", "unknown-1"],
    strict=True,
):
    refused(f"tar-type-{label}", "TYPE", tar([Member("a", kind=bytes([number]))]))
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
IGNORE, MISSING = {"trailing": "ignore"}, {"end": "missing"}
accepted("tar-ignored-data", {"b": b"2"}, tar(TWO[1:]) + b"x" * 512, options=IGNORE)
accepted("tar-ignored-archive", {"a": b"1" * 600}, tar(TWO[:1]) + tar(TWO[1:]), options=IGNORE)
refused("tar-ignored-no-end", "NO_END", blocks(TWO), options=IGNORE)
refused("tar-ignored-garbage-block", "NUMBER CHECKSUM", blocks(TWO) + b"garbage!" * 64 + bytes(1024), options=IGNORE)
accepted("tar-missing-end", {"a": b"1" * 600, "b": b"2"}, blocks(TWO), options=MISSING)
refused("tar-missing-end-empty", "NO_END", b"", options=MISSING)
refused("tar-missing-end-data", "TRUNCATED", blocks(TWO)[:-1], options=MISSING)
refused("tar-missing-end-header", "TRUNCATED", blocks(TWO)[:-900], options=MISSING)
refused("tar-missing-end-dangling", "DANGLING", blocks([*TWO, pax(record("path", "x"))]), options=MISSING)
refused("tar-missing-end-trailing", "TRAILING_GARBAGE", tar(TWO) + b"x" * 512, options=MISSING)
refused("tar-missing-end-gz-cut", "TRUNCATED", lambda: GZ(blocks(TWO))[:-1], "tar.gz", MISSING)
accepted("tar-one-end-block", {"b": b"2"}, blocks(TWO[1:]) + bytes(512))
accepted("tar-trailing-zeros", {"b": b"2"}, tar(TWO[1:]) + bytes(20480))
accepted("tar-empty", {}, bytes(10240))
accepted("tar-signed-checksum", {"caf\udce9": b"x"}, lambda: _signed(Member("caf\udce9", b"x")))
accepted(
    "tar-v7",
    {"d": "/", "d/a": b"x"},
    lambda: (
        b"".join(
            resummed(tar_header(m, magic=bytes(8))) + padded(m.content)
            for m in (Member("d/", kind=b"\0"), Member("d/a", b"x", kind=b"\0"))
        )
        + bytes(1024)
    ),
)


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
refused(
    "tar-mode-no-number",
    "NUMBER",
    lambda: resummed(tar_header(X)[:100] + b"rw-r--r-" + tar_header(X)[108:]) + padded(b"x") + bytes(1024),
)
accepted(
    "tar-size-blanks", {"a": b"x"}, tar_header(Member("a", b"x"), size=b"          1 ") + padded(b"x") + bytes(1024)
)
accepted(
    "tar-size-base256",
    {"a": b"x"},
    tar_header(Member("a", b"x"), size=b"\x80" + bytes(10) + b"\x01") + padded(b"x") + bytes(1024),
)

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
LONG = "/".join(["d" * 250] * 15)
refused("tar-long-names", "NAMES_TOO_LARGE", lambda: tar([x for n in range(900) for x in (gnu(f"{LONG}/{n}"), X)]))
refused("tar-pax-40-MiB", "METADATA_TOO_LARGE", lambda: tar([pax(record("comment", b"x" * (40 << 20))), X]))
refused("tar-gnu-40-MiB", "METADATA_TOO_LARGE", lambda: tar([gnu("x" * (40 << 20)), X]))
refused(
    "tar-pax-size-smuggles",
    "NO_END",
    tar([pax(record("size", "1024")), Member("a"), Member("smuggled.txt")])[:-1024] + bytes(512),
)
accepted(
    "tar-pax-size-override",
    {"a": SMUGGLED[:600]},
    blocks([pax(record("size", "600"))]) + tar_header(Member("a")) + padded(SMUGGLED[:600]) + bytes(1024),
)
accepted(
    "tar-pax-size-saturated",
    {"a": b"x"},
    blocks([pax(record("size", "1"))]) + tar_header(Member("a"), size=b"77777777777\0") + padded(b"x") + bytes(1024),
)
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
refused(
    "tar-gnulong-aregtype-slash",
    "FILE_AS_DIRECTORY",
    tar([gnu("d" * 120 + "/"), Member("short", SMUGGLED, kind=b"\0"), X]),
)
accepted(
    "tar-gnulong-cut-at-slash",
    {"d" * 99 + "/x": SMUGGLED},
    tar([gnu("d" * 99 + "/x"), Member("d" * 99 + "/", SMUGGLED, kind=b"\0")]),
)

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
    records = [
        record(f"GNU.sparse.{key}", value)
        for key, value in {"major": "1", "minor": "0", "name": name, "realsize": str(real), **more}.items()
    ]
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
