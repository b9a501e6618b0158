"""Zips that readers agree about or do not, and Debian packages."""

from __future__ import annotations

import struct
import zlib

from tests.archives import Member, Zipped, ar, tar, zip_end, zip_end64, zip_of
from tests.cases import ALONE, BZ, GZ, TAR, TREE, XZ, ZST, Tree, accepted, refused

A, B = Zipped(name=b"a", content=b"content a"), Zipped(name=b"d/b", content=b"b" * 5000, deflate="yes")
DESCRIBED = struct.pack("<4sIII", b"PK\x07\x08", zlib.crc32(b"described"), 9, 9)
DESCRIBED64 = struct.pack("<4sIQQ", b"PK\x07\x08", zlib.crc32(b"described"), 9, 9)


def described(descriptor: bytes, **more: object) -> Zipped:
    words = {"local_crc": 0, "local_size": 0, "local_packed": 0, **more}
    return Zipped(name=b"s", content=b"described", flags=8, descriptor=descriptor, **words)  # type: ignore[arg-type]


def unicode_path(name: bytes, unicode_name: bytes) -> bytes:
    body = b"\1" + struct.pack("<I", zlib.crc32(name)) + unicode_name
    return struct.pack("<HH", 0x7075, len(body)) + body


accepted("zip", {"a": b"content a", "d/b": b"b" * 5000, "e": "/", "x": b"xx", "l": "-> d/b"}, zip_of(
    A, B, Zipped(name=b"e/", mode=0o40755), Zipped(name=b"x", content=b"x", mode=0o100755), Zipped(name=b"l", content=b"d/b", mode=0o120777)), "zip")  # fmt: skip
accepted("zip-dos", {"a": b"x", "d": "/", "d/\u00fc": b"y"}, zip_of(
    Zipped(name=b"a", content=b"x", host=0, mode=0), Zipped(name=b"d/", host=0, mode=0, attributes=16), Zipped(name=b"d/\x81", content=b"y", host=0, mode=0)), "zip")  # fmt: skip
accepted(
    "zip-utf8",
    {"\u00fc": b"x"},
    zip_of(Zipped(name="\u00fc".encode(), content=b"x", host=0, mode=0, flags=0x800)),
    "zip",
)
accepted("zip-non-utf8", {"\udcff": b"x"}, zip_of(Zipped(name=b"\xff", content=b"x")), "zip")
accepted("zip-repeated", {"a": b"content a", "d/b": b"b" * 5000}, zip_of(A, B, A, B), "zip")
accepted("zip-comment", {"a": b"content a"}, zip_of(A, comment=b"a comment"), "zip")
accepted("zip-empty", {}, zip_of(), "zip")
accepted("zip-descriptor", {"s": b"described", "a": b"content a"}, zip_of(described(DESCRIBED), A), "zip")
accepted("zip-descriptor-bare", {"s": b"described"}, zip_of(described(DESCRIBED[4:])), "zip")
accepted("zip-descriptor-64", {"s": b"described"}, zip_of(described(DESCRIBED64)), "zip")
accepted(
    "zip-unicode-path-same", {"a": b"x"}, zip_of(Zipped(name=b"a", content=b"x", extra=unicode_path(b"a", b"a"))), "zip"
)
accepted(
    "zip-extra",
    {"a": b"x"},
    zip_of(Zipped(name=b"a", content=b"x", extra=b"UT\5\0\3abcd\xfe\xca\0\0", local_extra=b"\0\0\0")),
    "zip",
)
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
accepted("zip-64-end-not-needed", {"a": b"content a"}, zip64(short=1), "zip")
accepted("zip-64-end-zeros", {"a": b"content a"}, zip64(before=bytes(7)) + bytes(9), "zip")
accepted("zip-flag-in-local", {"a": b"x"}, zip_of(Zipped(name=b"a", content=b"x", local_flags=0x808)), "zip")
accepted("zip-flag-in-central", {"a": b"x"}, zip_of(Zipped(name=b"a", content=b"x", flags=0x808, local_flags=0)), "zip")
accepted("zip-flag-unix-name", {"\u00fc": b"x"}, zip_of(Zipped(name="\u00fc".encode(), content=b"x", local_flags=0x800)), "zip")  # fmt: skip
accepted("zip-descriptor-local-only", {"s": b"described", "a": b"content a"}, zip_of(
    Zipped(name=b"s", content=b"described", local_flags=8, descriptor=DESCRIBED, local_crc=0, local_size=0, local_packed=0), A), "zip")  # fmt: skip
accepted("zip-descriptor-not-needed", {"s": b"described", "a": b"content a"}, zip_of(
    Zipped(name=b"s", content=b"described", flags=8, descriptor=DESCRIBED64), A), "zip")  # fmt: skip
accepted("zip-from-pipe", {"-": b"x", "named": b"x"}, zip_of(
    Zipped(name=b"-", content=b"x", mode=0o010600), Zipped(name=b"named", content=b"x", mode=0o010600)), "zip")  # fmt: skip
accepted("zip-symlink-empty", {"a": b"x"}, zip_of(Zipped(name=b"a", mode=0o120777)), "zip")
accepted("zip-trailing-zeros", {"a": b"content a"}, zip_of(A) + bytes(10), "zip")
accepted("zip-trailing-megabyte", {"a": b"content a"}, lambda: zip_of(A) + bytes(1 << 20), "zip")
accepted("zip-empty-padded", {}, zip_of() + bytes(10240), "zip")
accepted("zip-zeros-between", {"a": b"content a", "s": b"described", "d/b": b"b" * 5000}, zip_of(
    Zipped(name=b"a", content=b"content a", before=bytes(5)), described(DESCRIBED + bytes(3)), Zipped(name=b"d/b", content=b"b" * 5000, before=bytes(4))), "zip")  # fmt: skip

SEPARATOR, PREFIX, AFTER = {"zip_backslash": "separator"}, {"zip_prefix": "ignore"}, {"trailing": "ignore"}
DOS = {"host": 0, "mode": 0}


def dos(*names: bytes) -> bytes:
    """Return a zip of MS-DOS with these names; those that end in a separator are directories."""
    return zip_of(*(Zipped(name=name, content=b"" if name[-1:] in b"/\\" else b"x", host=0, mode=0) for name in names))


accepted(
    "zip-backslash",
    {"top/a": b"x", "top/sub/b": b"x", "c": b"x", "top/e": "/"},
    dos(b"top\\a", b"top\\sub\\b", b"c", b"top\\e\\"),
    "zip",
    SEPARATOR,
)
accepted("zip-backslash-unix", {"top/a": b"x"}, zip_of(Zipped(name=b"top\\a", content=b"x")), "zip", SEPARATOR)
for label, code, data in (
    ("mixed", "ZIP_BACKSLASH", dos(b"top\\a", b"top/b")), ("mixed-name", "ZIP_BACKSLASH", dos(b"a\\b/c")),
    ("dotdot", "DOTDOT", dos(b"a\\..\\..\\b")), ("absolute", "ABSOLUTE", dos(b"\\a")), ("drive", "ABSOLUTE", dos(b"C:\\a")),
    ("server", "ABSOLUTE", dos(b"\\\\server\\a")), ("twice", "DUPLICATE", dos(b"a\\b", b"a\\\\b").replace(b"x", b"y", 1)),
    ("nul", "NAME_CONTROL", dos(b"a\\b\0")), ("directory-with-content", "LINK_WITH_CONTENT", zip_of(Zipped(name=b"a\\", content=b"x", host=0, mode=0))),
):  # fmt: skip
    refused(f"zip-backslash-{label}", code.replace("DUPLICATE", "DUPLICATE CHECKSUM"), data, "zip", SEPARATOR)

STUB = b"#!/bin/sh\nexec unzip $0\nPK\5\6 PK\3\4 in the code\n" * 9
BLOCK = Zipped(name=b"c", content=b"x", before=b"signing block" * 99)


def moved(data: bytes, by: int) -> bytes:
    """Return a zip of one member whose offsets count from the start of a prefix, as `zip -A` writes them."""
    central, end = data.index(b"PK\1\2"), data.rindex(b"PK\5\6")
    at, start = struct.unpack_from("<I", data, central + 42)[0], struct.unpack_from("<I", data, end + 16)[0]
    data = data[: central + 42] + struct.pack("<I", at + by) + data[central + 46 :]
    return data[: end + 16] + struct.pack("<I", start + by) + data[end + 20 :]


def signed(data: bytes, block: bytes) -> bytes:
    """Return a zip with a block before its central directory, as Android signs packages."""
    central, end = data.index(b"PK\1\2"), data.rindex(b"PK\5\6")
    start = struct.unpack_from("<I", data, end + 16)[0] + len(block)
    return data[:central] + block + data[central : end + 16] + struct.pack("<I", start) + data[end + 20 :]


ONE: Tree = {"a": b"content a"}
accepted("zip-prefix", ONE, STUB + zip_of(A), "zip", PREFIX)
accepted("zip-prefix-moved", ONE, STUB + moved(zip_of(A), len(STUB)), "zip", PREFIX)
accepted("zip-prefix-64", ONE, STUB + zip64(), "zip", PREFIX)
accepted("zip-prefix-empty", {}, STUB + zip_of(), "zip", PREFIX)
accepted("zip-prefix-between", {**ONE, "c": b"x"}, zip_of(A, BLOCK), "zip", PREFIX)
accepted("zip-prefix-signed", ONE, signed(zip_of(A), b"APK Sig Block 42" * 99), "zip", PREFIX)
accepted(
    "zip-prefix-old-member",
    {**ONE, "c": b"x"},
    zip_of(A, Zipped(name=b"c", content=b"x", before=zip_of(B, end=b"")[:60])),
    "zip",
    PREFIX,
)
for label, code, data in (
    ("is-zip", "ZIP_TILING", zip_of(B) + zip_of(A)), ("is-moved-zip", "ZIP_TILING", zip_of(B) + moved(zip_of(A), len(zip_of(B)))),
    ("hides-zip", "ZIP_TILING", STUB + zip_of(B) + STUB + zip_of(A)), ("is-empty-zip", "ZIP_TILING", zip_of() + zip_of(A)),
    ("hides-directory", "ZIP_TILING", STUB + zip_of(B)[zip_of(B).index(b"PK\1\2"):-22] + STUB + zip_of(A)),
    ("hides-member", "ZIP_TILING", STUB + zip_of(B, end=b"")[:60] + zip_of(A)),
    ("between-hides-directory", "ZIP_TILING", zip_of(A, Zipped(name=b"c", content=b"x", before=zip_of(B)[zip_of(B).index(b"PK\1\2"):]))),
    ("signed-hides-zip", "ZIP_TILING", signed(zip_of(A), zip_of(B))), ("hides-zip64", "ZIP_TILING", STUB + zip_end64(1, 47, 0, 0) + zip_of(A)),
    ("many-signatures", "ZIP_TILING", b"PK\5\6" * 10_001 + STUB * 2000 + zip_of(A)),
    ("two-directories", "ZIP_TILING", signed(zip_of(Zipped(name=b"a", content=zip_of(B)[zip_of(B).index(b"PK\1\2"):-22])), b"x")[:-6] + struct.pack("<IH", 31, 0)),
    ("overlap", "ZIP_TILING", zip_of(Zipped(name=b"a", content=b"x" * 99, offset=0), Zipped(name=b"b", content=b"y", offset=35))),
    ("disagree", "ZIP_DISAGREE", STUB + zip_of(Zipped(name=b"a", local_name=b"b"))), ("dotdot", "DOTDOT", STUB + zip_of(Zipped(name=b"../a"))),
    ("cut", "TRUNCATED WRONG_FORMAT", (STUB + zip_of(A))[:-1]), ("comment", "ZIP_END", STUB + zip_of(A, comment=zip_of(B))),
    ("offset", "ZIP_TILING ZIP_HEADER", zip_of(A, end=zip_end(1, 47, 5))), ("trailing", "WRONG_FORMAT", STUB + zip_of(A) + b"x"),
    ("locator", "ZIP64", STUB + zip64(locator=3)),
):  # fmt: skip
    refused(f"zip-prefix-{label}", code, data, "zip", PREFIX)
accepted("zip-trailing", ONE, zip_of(A) + b"certificate", "zip", AFTER)
accepted("zip-trailing-after-comment", ONE, zip_of(A, comment=b"PK is a comment") + b"certificate", "zip", AFTER)
for label, code, data in (
    ("zip", "ZIP_END ZIP_TILING", zip_of(A) + zip_of(B)), ("end", "ZIP_END", zip_of(A) + zip_end(0, 0, 0)[:-1] + b"x"),
    ("cut", "TRUNCATED", zip_of(A)[:-1]), ("cut-comment", "TRUNCATED", zip_of(A, comment=b"abc")[:-1]), ("prefix", "ZIP_TILING", STUB + zip_of(A) + b"x"),
):  # fmt: skip
    refused(f"zip-trailing-{label}", code, data, "zip", AFTER)
for label, code, data in (
    ("dotdot", "DOTDOT", zip_of(Zipped(name=b"../a"))), ("dotdot-middle", "DOTDOT", zip_of(Zipped(name=b"a/../b"))),
    ("dotdot-backslash", "DOTDOT", zip_of(Zipped(name=b"..\\a"))), ("absolute", "ABSOLUTE", zip_of(Zipped(name=b"/a"))),
    ("absolute-drive", "ABSOLUTE", zip_of(Zipped(name=b"C:\\a"))), ("backslash-dos", "ZIP_BACKSLASH", zip_of(Zipped(name=b"d\\a", host=0, mode=0))),
    ("nul-name", "NAME_CONTROL", zip_of(Zipped(name=b"a\0b"))), ("empty-name", "NAME_EMPTY", zip_of(Zipped(name=b""))),
    ("control-name", "NAME_CONTROL", zip_of(Zipped(name=b"a\x1b"))), ("root", "ROOT", zip_of(Zipped(name=b"."))),
    ("duplicate", "DUPLICATE", zip_of(A, Zipped(name=b"a", content=b"content b"))), ("duplicate-dotted", "DUPLICATE", zip_of(A, Zipped(name=b"./a"))),
    ("file-as-directory", "BELOW_NON_DIRECTORY", zip_of(A, Zipped(name=b"a/b"))),
    ("local-name", "ZIP_DISAGREE", zip_of(Zipped(name=b"a", local_name=b"b"))), ("local-crc", "ZIP_DISAGREE", zip_of(Zipped(name=b"a", content=b"x", local_crc=5))),
    ("local-size", "ZIP_DISAGREE", zip_of(Zipped(name=b"a", content=b"x", local_size=5))),
    ("local-packed", "ZIP_DISAGREE", zip_of(Zipped(name=b"a", content=b"x", local_packed=5))),
    ("local-method", "ZIP_DISAGREE", zip_of(Zipped(name=b"a", content=b"x", local_method=8))),
    ("local-flags", "ZIP_DISAGREE", zip_of(Zipped(name=b"\x81", content=b"x", host=0, mode=0, local_flags=0x800))), ("central-flags", "ZIP_DISAGREE", zip_of(Zipped(name=b"\xc3\xbc", content=b"x", host=0, mode=0, flags=0x800, local_flags=0))),
    ("local-descriptor-only-zeros", "ZIP_DISAGREE", zip_of(Zipped(name=b"a", content=b"x", local_flags=8, local_crc=0, local_size=0, local_packed=0))),
    ("central-descriptor-zeros", "ZIP_DISAGREE", zip_of(Zipped(name=b"a", content=b"x", flags=8, local_flags=0, local_crc=0, local_size=0, local_packed=0, descriptor=b""))),
    ("descriptor-wrong-optional", "ZIP_DISAGREE", zip_of(Zipped(name=b"a", content=b"x", flags=8, descriptor=DESCRIBED))),
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
    ("truncated", "TRUNCATED", zip_of(A)[:-5]), ("cut", "TRUNCATED", zip_of(A, B)[:60]),
    ("no-end", "TRUNCATED", zip_of(A, end=b"")), ("html", "WRONG_FORMAT", b"<html>log in"), ("empty-file", "WRONG_FORMAT", b""), ("is-tar", "WRONG_FORMAT", TAR),
    ("unicode-path-extra", "ZIP_DISAGREE", zip_of(Zipped(name=b"a", content=b"x", extra=unicode_path(b"a", b"../evil")))),
    ("unicode-path-extra-local", "ZIP_DISAGREE", zip_of(Zipped(name=b"a", content=b"x", local_extra=unicode_path(b"a", b"evil")))),
    ("zip64-locator-lie", "ZIP64", zip64(locator=3)), ("zip64-locator-gap", "ZIP64 ZIP_TILING", zip64(before=b"gap!", locator=86)),
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
    ("symlink-nul", "LINK_TARGET", zip_of(Zipped(name=b"a", content=b"b\0c", mode=0o120777))),
    ("symlink-long", "LINK_TARGET", zip_of(Zipped(name=b"a", content=b"b" * 5000, mode=0o120777))), ("symlink-dos", "ZIP_DISAGREE", zip_of(Zipped(name=b"a", content=b"b", mode=0o120777, host=0))),
    ("symlink-slash", "LINK_WITH_CONTENT", zip_of(Zipped(name=b"a/", content=b"b", mode=0o120777))),
    *((f"type-{label}", "TYPE", zip_of(Zipped(name=b"a", mode=mode))) for label, mode in (("fifo", 0o010644), ("chr", 0o020644), ("blk", 0o060644), ("socket", 0o140644))),
    ("directory-with-content", "LINK_WITH_CONTENT", zip_of(Zipped(name=b"d/", content=b"x", mode=0o40755))), ("directory-no-slash", "ZIP_DISAGREE", zip_of(Zipped(name=b"d", mode=0o40755))),
    ("directory-dos-no-slash", "ZIP_DISAGREE", zip_of(Zipped(name=b"d", host=0, mode=0, attributes=16))),
    ("extra-broken", "ZIP_HEADER", zip_of(Zipped(name=b"a", extra=b"UT\xff\0\3"))),
):  # fmt: skip
    refused(f"zip-{label}", code, data, "zip")
refused("zip-deflate-bomb", "TOO_LARGE", lambda: zip_of(Zipped(name=b"a", content=bytes(9 << 20), deflate="y")), "zip")
refused(
    "zip-deflate-bomb-many", "TOO_LARGE",
    lambda: zip_of(*(Zipped(name=b"%d" % n, content=bytes(1 << 20), deflate="y") for n in range(9))), "zip",
)  # fmt: skip
refused("zip-many", "TOO_MANY_ENTRIES", lambda: zip_of(*(Zipped(name=b"%d" % n) for n in range(1001))), "zip")
accepted("zip-setuid", {"a": b"xx"}, zip_of(Zipped(name=b"a", content=b"x", mode=0o106777)), "zip")


CONTROL = ("control.tar.gz", GZ(tar([Member("./control", b"Package: x\n")])))
BINARY = ("debian-binary", b"2.0\n")
for label, data_member in (("gz", ("data.tar.gz", GZ(TAR))), ("xz", ("data.tar.xz", XZ(TAR))), ("zst", ("data.tar.zst", ZST(TAR))), ("bz2", ("data.tar.bz2", BZ(TAR))), ("lzma", ("data.tar.lzma", ALONE(TAR))), ("tar", ("data.tar", TAR))):  # fmt: skip
    accepted(f"deb-{label}", TREE, ar(BINARY, CONTROL, data_member), "deb")
DATA = ("data.tar.gz", GZ(TAR))
DEB = ar(BINARY, CONTROL, DATA)
OWN = ("_x", b"x")
for label, members in (
    ("signed", (BINARY, CONTROL, DATA, ("_gpgorigin", b"signature"))), ("marked", (BINARY, OWN, ("_y", b""), CONTROL, OWN, DATA)),
    ("more", (BINARY, CONTROL, DATA, ("future", b"x"), ("//", b"names"))), ("version-21", (("debian-binary", b"2.1\nmore\n"), CONTROL, DATA)),
):  # fmt: skip
    accepted(f"deb-{label}", TREE, ar(*members), "deb")
for label, code, data in (
    ("order", "DEB", ar(BINARY, DATA, CONTROL)), ("two-data", "DEB", ar(BINARY, CONTROL, DATA, DATA)), ("no-data", "DEB", ar(BINARY, CONTROL)),
    ("no-control", "DEB", ar(BINARY, DATA)), ("extra-member", "DEB", ar(BINARY, CONTROL, ("x", b"x"), DATA)), ("extra-first", "DEB", ar(OWN, BINARY, CONTROL, DATA)),
    ("two-control", "DEB", ar(BINARY, CONTROL, CONTROL, DATA)), ("two-data-kinds", "DEB", ar(BINARY, CONTROL, DATA, ("data.tar.lzma", ALONE(TAR)))), ("control-last", "DEB", ar(BINARY, CONTROL, DATA, CONTROL)),
    ("many", "DEB", ar(BINARY, *[OWN] * 1000, CONTROL, DATA)), ("lzma-cut", "TRUNCATED", ar(BINARY, CONTROL, ("data.tar.lzma", ALONE(TAR)[:-9]))),
    ("lzma-trailing", "TRAILING_GARBAGE", ar(BINARY, CONTROL, ("data.tar.lzma", ALONE(TAR) + b"x"))), ("lzma-xz", "WRONG_FORMAT", ar(BINARY, CONTROL, ("data.tar.lzma", XZ(TAR)))),
    ("lzma-dictionary", "DICTIONARY", ar(BINARY, CONTROL, ("data.tar.lzma", ALONE(TAR)[:1] + (3 << 29).to_bytes(4, "little") + ALONE(TAR)[5:]))),
    ("version", "DEB", ar(("debian-binary", b"3.0\n"), CONTROL, DATA)),
    ("name-path", "DEB", ar(BINARY, CONTROL, ("../data.tar.gz", GZ(TAR)))), ("compression", "DEB", ar(BINARY, CONTROL, ("data.tar.lz", GZ(TAR)))),
    ("size-letters", "DEB", DEB.replace(b"4         `", b"x         `", 1)), ("size-negative", "DEB", DEB.replace(b"4         `", b"-4        `", 1)),
    ("size-huge", "TRUNCATED", DEB.replace(b"4         `", b"9999999999`", 1)), ("magic", "DEB", DEB.replace(b"`\n", b"``", 1)),
    ("truncated", "TRUNCATED", DEB[:-20]), ("trailing", "TRUNCATED DEB", DEB + b"x" * 20), ("data-dotdot", "DOTDOT", ar(BINARY, CONTROL, ("data.tar", tar([Member("../x", b"x")])))),
    ("data-corrupt", "CORRUPT TRUNCATED", ar(BINARY, CONTROL, ("data.tar.gz", GZ(TAR)[:-9]))), ("control-corrupt", "TRUNCATED CORRUPT", ar(BINARY, ("control.tar.gz", CONTROL[1][:-9]), DATA)),
    ("html", "WRONG_FORMAT", b"<html>log in"), ("empty-file", "WRONG_FORMAT", b""),
):  # fmt: skip
    refused(f"deb-{label}", code, data, "deb")
