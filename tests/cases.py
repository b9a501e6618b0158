"""A case of the corpus: an archive, created in memory on demand, and its exact outcome."""

from __future__ import annotations

import bz2
import functools
import gzip
import lzma
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import zstandard

from tests.archives import Member, tar, tar_header

Pack = Callable[[bytes], bytes]
# the same archive is packed often, and names of tests contain the result
GZ: Final[Pack] = functools.cache(functools.partial(gzip.compress, mtime=0))
BZ: Final[Pack] = functools.cache(bz2.compress)
XZ: Final[Pack] = functools.cache(lzma.compress)
ALONE: Final = functools.partial(lzma.compress, format=lzma.FORMAT_ALONE)
ZST: Final = zstandard.ZstdCompressor(write_checksum=True).compress
Tree = dict[str, "str | bytes"]


@dataclass(frozen=True)
class Case:
    """An archive: `make` gives its bytes; accepted with `tree`, or refused with `code`, when it is read with `options`.

    A tree maps paths to content, `x` before that of an executable file, `-> text` for symlinks, `/` for directories.
    """

    kind: str
    make: Callable[[], bytes]
    code: str = ""
    tree: Tree = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)


CASES: Final[dict[str, Case]] = {}


def refused(
    name: str, code: str, data: bytes | Callable[[], bytes], kind: str = "tar", options: dict[str, str] | None = None
) -> None:
    CASES[name] = Case(kind, data if callable(data) else lambda: data, code, {}, options or {})


def accepted(
    name: str, tree: Tree, data: bytes | Callable[[], bytes], kind: str = "tar", options: dict[str, str] | None = None
) -> None:
    CASES[name] = Case(kind, data if callable(data) else lambda: data, "", tree, options or {})


X = Member("x", b"x")
SMUGGLED = tar_header(Member("smuggled.txt", b"")) + bytes(512)


def link(name: str, target: str) -> Member:
    return Member(name, kind=b"2", target=target)


def hard(name: str, target: str, content: bytes = b"") -> Member:
    return Member(name, content, kind=b"1", target=target)


def sized(name: str, size: bytes, kind: bytes = b"0") -> bytes:
    return tar_header(Member(name, kind=kind), size=size) + bytes(1024)


PLAIN = (
    Member("d/"), Member("d/a.txt", b"hello"), Member("d/run", b"#!/bin/sh\n", mode=0o755), Member("d/empty/"),
    Member("d/zero"), link("d/link", "a.txt"), hard("d/hard", "d/a.txt"), Member("d/large", bytes(range(256)) * 5000),
)  # fmt: skip
TREE: Tree = {
    "d/a.txt": b"hello", "d/run": b"x#!/bin/sh\n", "d/empty": "/", "d/zero": b"", "d/link": "-> a.txt", "d/hard": b"hello",
    "d/large": bytes(range(256)) * 5000,
}  # fmt: skip
TAR = tar(PLAIN)
