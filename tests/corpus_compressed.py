"""Compressed streams: valid, truncated, damaged, too large, or in another format."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import zlib
from collections.abc import Callable
from functools import partial

import zstandard

from tests.archives import Member, Zipped, tar, tar_header, zip_of
from tests.cases import BZ, GZ, TAR, TREE, XZ, ZST, accepted, refused

CUT = 512 * 7  # a boundary of blocks
SKIPPABLE = b"\x50\x2a\x4d\x18\x03\0\0\0abc"


def bomb(pack: Callable[[bytes], bytes], content: bytes) -> bytes:
    """Return it packed."""
    return pack(content)


ZST_PLAIN = zstandard.ZstdCompressor(write_content_size=False, write_checksum=False).compress


def gz_with(flags: int, fields: bytes) -> bytes:
    """Return a gzip member with optional header fields."""
    head = b"\x1f\x8b\x08" + bytes([flags]) + bytes(4) + b"\0\xff" + fields
    if flags & 2:
        head += struct.pack("<H", zlib.crc32(head) & 0xFFFF)
    return head + GZ(TAR)[10:]


def gz_broken() -> bytes:
    """Return a gzip member whose second block is of the reserved type, whatever zlib makes of the rest.

    Source: RFC 1952 section 2.3, RFC 1951 section 3.2.3.
    """
    deflate = zlib.compressobj(wbits=31)
    return deflate.compress(TAR[:CUT]) + deflate.flush(zlib.Z_FULL_FLUSH) + b"\xff" * 99


def xz_with(dictionary: int) -> bytes:
    """Return an xz stream that says it needs a dictionary of such a code. Source: xz-file-format 3.1 and 5.3.1."""
    stream = bytearray(XZ(TAR))
    assert stream[14:16] == b"\x21\x01"  # LZMA2, one byte of properties
    size = (stream[12] + 1) * 4
    stream[16] = dictionary
    stream[12 + size - 4 : 12 + size] = zlib.crc32(stream[12 : 12 + size - 4]).to_bytes(4, "little")
    return bytes(stream)


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
    ("xz-dict-64-MiB", "tar.xz", xz_with(28)),
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
    damaged = gz_broken() if label == "gz" else packed[:200] + bytes(99) + packed[299:]
    refused(f"{label}-corrupt", "CORRUPT TRUNCATED CHECKSUM", damaged, kind)
    refused(f"{label}-no-tar", "WRONG_FORMAT", pack(b"hello world, no tar here" * 99), kind)
    refused(f"{label}-of-itself", "WRONG_FORMAT", pack(packed), kind)
    refused(f"{label}-html", "WRONG_FORMAT", b"<!DOCTYPE html><html>log in</html>", kind)
    refused(f"{label}-empty-file", "WRONG_FORMAT", b"", kind)
    refused(f"{label}-of-nothing", "NO_END", pack(b""), kind)
    refused(f"{label}-zip-inside", "WRONG_FORMAT", zip_of(Zipped(name=b"a", content=b"x")), kind)
    refused(f"{label}-bomb", "TOO_LARGE", partial(bomb, pack, tar([Member("a", bytes(9 << 20))])), kind)
    refused(
        f"{label}-bomb-no-tar", "TOO_LARGE WRONG_FORMAT TRAILING_GARBAGE", partial(bomb, pack, bytes(9 << 20)), kind
    )
refused("gz-wrong-crc", "CORRUPT", GZ(TAR)[:-8] + b"1234" + GZ(TAR)[-4:], "tar.gz")
refused("gz-wrong-size", "CORRUPT", GZ(TAR)[:-4] + b"1234", "tar.gz")
refused("gz-wrong-fhcrc", "CORRUPT", gz_with(2, b"").replace(b"\0\xff", b"\0\xfe", 1), "tar.gz")
refused("gz-padding-then-garbage", "TRAILING_GARBAGE", GZ(TAR) + bytes(9) + b"x", "tar.gz")
refused("gz-reserved-flags", "CORRUPT", gz_with(0xE0, b""), "tar.gz")
refused("xz-odd-padding", "TRAILING_GARBAGE", XZ(TAR) + bytes(3), "tar.xz")
refused("xz-odd-padding-between", "TRAILING_GARBAGE", XZ(TAR[:700]) + bytes(6) + XZ(TAR[700:]), "tar.xz")
refused("xz-legacy-lzma", "WRONG_FORMAT", lzma.compress(TAR, format=lzma.FORMAT_ALONE), "tar.xz")
refused("xz-dict-1.5-GiB", "DICTIONARY", xz_with(37), "tar.xz")
IGNORE = {"trailing": "ignore"}
for label, kind, pack, magic in (("gz", "tar.gz", GZ, b"\x1f"), ("bz2", "tar.bz2", BZ, b"BZ"), ("xz", "tar.xz", XZ, b"\xfd7z"), ("zst", "tar.zst", ZST, b"\x28\xb5")):  # fmt: skip
    for number in (1, 3, 10) if label in ("bz2", "zst") else ():
        accepted(f"{label}-padding-{number}", TREE, pack(TAR) + bytes(number), kind)
    accepted(f"{label}-padding-megabyte", TREE, pack(TAR) + bytes(1 << 20), kind)
    refused(f"{label}-garbage-after-padding", "TRAILING_GARBAGE", pack(TAR) + bytes(1 << 20) + b"x", kind)
    refused(f"{label}-zero-and-garbage", "TRAILING_GARBAGE", pack(TAR) + b"\0x", kind)
    for tail in (b"x", b"trailing\n", bytes(9) + b"y" * 999, b"z" * (1 << 20)):
        accepted(f"{label}-ignored-{len(tail)}", TREE, pack(TAR) + tail, kind, IGNORE)
    refused(f"{label}-ignored-cut", "TRUNCATED", pack(TAR)[:-1], kind, IGNORE)
    refused(f"{label}-ignored-cut-magic", "TRUNCATED", pack(TAR) + magic, kind, IGNORE)
    refused(f"{label}-ignored-cut-stream", "TRUNCATED", pack(TAR) + pack(TAR)[:-9], kind, IGNORE)
    refused(
        f"{label}-ignored-corrupt", "CORRUPT TRUNCATED", pack(TAR)[:-12] + b"1234" + pack(TAR)[-8:] + b"x", kind, IGNORE
    )
    refused(f"{label}-ignored-before", "WRONG_FORMAT", b"x" + pack(TAR), kind, IGNORE)
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
refused(
    "tar-million-empty",
    "TOO_MANY_ENTRIES",
    lambda: GZ(b"".join(tar_header(Member(f"f{n}")) for n in range(2000))),
    "tar.gz",
)
refused("tar-html", "WRONG_FORMAT", b"<html>" + b"log in " * 200)
refused("tar-short-html", "WRONG_FORMAT", b"<html>log in")
refused("tar-is-gz", "WRONG_FORMAT", GZ(TAR))
refused("tar-is-zip", "WRONG_FORMAT", zip_of(Zipped(name=b"a", content=b"x" * 999)))
refused("tar-empty-file", "NO_END", b"")
refused("tar-zip-polyglot", "TRAILING_GARBAGE", TAR + zip_of(Zipped(name=b"a", content=b"x")))
