"""A deterministic repository for a commit with a working tree: one uncompressed pack, an index and a detached HEAD.

The files that git writes depend on zlib, the delta search, time and the file system; these depend only on the commit.
The directory contains no history, remotes, reflogs or hooks.
The repository of a submodule is in that of its parent, as `git submodule update` puts it.
Source of the formats: gitformat-pack, gitformat-index, gitrepository-layout ("modules", "gitdir: ").
"""

from __future__ import annotations

import hashlib
import itertools
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final, NamedTuple

from tasks_lib.vcs.git.commit_tree import Listing
from tasks_lib.vcs.git.objects import Objects, hasher
from tasks_lib.vcs.git.submodules import Submodule

_KINDS: Final = {"commit": 1, "tree": 2, "blob": 3}
_MODES: Final = {("file", 0): 0o100644, ("file", 1): 0o100755, ("symlink", 0): 0o120000}
_GITLINK: Final = 0o160000
#: Maximum size of a stored block in bytes. Source: RFC 1951 section 3.2.4.
_STORED: Final = 65_535
_CHUNK: Final = 1 << 20


class GitdirPaths(NamedTuple):
    """Where a repository and its working tree are, relative to the working tree of the outermost commit."""

    worktree: bytes
    gitdir: bytes


class Piece(NamedTuple):
    """One file, with its path from the outermost working tree; a directory if its path ends with a slash."""

    path: bytes
    size: int
    chunks: Iterable[bytes]


def gitdir_files(
    listing: Listing, submodules: Iterable[Submodule], place: GitdirPaths, objects: Objects, spool: BinaryIO
) -> Iterator[Piece]:
    """Yield the files of the repository of a commit; for a submodule, also the file `.git` of its working tree.

    The submodules are marked as active. The pack is appended to `spool`, a temporary file, and read from it.

    Raises:
        MissingObjectError, DigestMismatchError, ToolError: as `Objects`.
    """
    above = place.gitdir + b"/"
    texts = {
        above + b"HEAD": f"{listing.commit}\n".encode(),
        above + b"config": _config(listing.commit, submodules, place),
        above + b"index": _index(listing),
    }
    if listing.parents:
        texts[above + b"shallow"] = texts[above + b"HEAD"]
    if place.worktree:
        texts[place.worktree + b"/.git"] = b"gitdir: %s\n" % _relative(place.gitdir, place.worktree)
    for name, text in texts.items():
        yield Piece(name, len(text), (text,))
    yield Piece(above + b"refs/", 0, ())
    begin = spool.seek(0, 2)
    pack = _Pack(spool, listing.commit)
    count = 1 + len(listing.trees) + len({leaf.identity for leaf in listing.leaves})
    pack.begin(count)
    for kind, identities in (("commit", [listing.commit]), ("tree", list(listing.trees))):
        for identity, content in zip(identities, objects.small(kind, identities), strict=True):
            pack.add(kind, identity, len(content), (content,))
    blobs = list(dict.fromkeys(leaf.identity for leaf in listing.leaves))
    for identity, size, chunks in objects.contents(blobs):
        pack.add("blob", identity, size, chunks)
    name = pack.end()
    index = pack.index()
    yield Piece(b"%sobjects/pack/pack-%s.idx" % (above, name), len(index), (index,))
    yield Piece(b"%sobjects/pack/pack-%s.pack" % (above, name), spool.tell() - begin, _read(spool, begin, spool.tell()))


def _relative(path: bytes, directory: bytes) -> bytes:
    """Return the path from a directory to another path, both relative to the same directory."""
    return b"../" * (directory.count(b"/") + 1) + path


def _read(spool: BinaryIO, begin: int, end: int) -> Iterator[bytes]:
    spool.seek(begin)
    for at in range(begin, end, _CHUNK):
        yield spool.read(min(_CHUNK, end - at))


def _config(commit: str, submodules: Iterable[Submodule], place: GitdirPaths) -> bytes:
    lines = ["[core]", "\trepositoryformatversion = 0", "\tfilemode = true", "\tbare = false"]
    if place.worktree:
        worktree = _relative(place.worktree, place.gitdir).decode("utf-8", "surrogateescape")
        lines += [f'\tworktree = "{_quote(worktree)}"']
    if len(commit) == 64:
        lines[1] = "\trepositoryformatversion = 1"
        lines += ["[extensions]", "\tobjectformat = sha256"]
    for one in submodules:
        if one.url and one.name.isprintable():
            lines += [f'[submodule "{_quote(one.name)}"]', "\tactive = true"]
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")


def _quote(text: str) -> str:
    """Return text for double quotes in a configuration file. Source: git-config(1), "Syntax"."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _index(listing: Listing) -> bytes:
    """Return an index without file times: git compares contents, as after `git read-tree`."""
    entries = [(leaf.path, _MODES[leaf.kind, leaf.executable], leaf.identity) for leaf in listing.leaves]
    entries += [(link.path, _GITLINK, link.commit) for link in listing.gitlinks]
    parts = [struct.pack(">4sII", b"DIRC", 2, len(entries))]
    for path, mode, identity in sorted(entries):
        head = struct.pack(">6I", 0, 0, 0, 0, 0, 0) + struct.pack(">4I", mode, 0, 0, 0)
        entry = head + bytes.fromhex(identity) + struct.pack(">H", min(len(path), 0xFFF)) + path
        parts += [entry, bytes(8 - len(entry) % 8)]
    content = b"".join(parts)
    digest = hasher(listing.commit)
    digest.update(content)
    return content + digest.digest()


class _Pack:
    """A version 2 pack of stored (uncompressed) objects, which has the same bytes with any zlib."""

    def __init__(self, spool: BinaryIO, commit: str) -> None:
        self._spool, self._commit = spool, commit
        self._digest: hashlib._Hash = hasher(commit)
        self._at = 0
        self._places: list[tuple[bytes, int, int]] = []  # id, CRC-32 of the entry, offset
        self._trailer = b""

    def _write(self, data: bytes) -> None:
        self._spool.write(data)
        self._digest.update(data)
        self._at += len(data)

    def begin(self, count: int) -> None:
        """Write the header."""
        self._write(struct.pack(">4sII", b"PACK", 2, count))

    def add(self, kind: str, identity: str, size: int, chunks: Iterable[bytes]) -> None:
        """Write one object."""
        at, checksum = self._at, 0
        for data in itertools.chain((_head(kind, size),), _stored(size, chunks)):
            self._write(data)
            checksum = zlib.crc32(data, checksum)
        self._places.append((bytes.fromhex(identity), checksum, at))

    def end(self) -> bytes:
        """Write the trailer and return the name of the pack."""
        self._trailer = self._digest.digest()
        self._spool.write(self._trailer)
        return self._trailer.hex().encode()

    def index(self) -> bytes:
        """Return the pack index, version 2."""
        self._places.sort()
        counts = [0] * 256
        for identity, _, _ in self._places:
            counts[identity[0]] += 1
        total = 0
        fanout = []
        for count in counts:
            total += count
            fanout.append(total)
        large = [at for _, _, at in self._places if at >= 1 << 31]
        places = iter(range(len(large)))
        offsets = [at if at < 1 << 31 else 1 << 31 | next(places) for _, _, at in self._places]
        content = b"".join(
            (
                b"\377tOc" + struct.pack(">I", 2),
                struct.pack(">256I", *fanout),
                *(identity for identity, _, _ in self._places),
                struct.pack(f">{total}I", *(checksum for _, checksum, _ in self._places)),
                struct.pack(f">{total}I", *offsets),
                struct.pack(f">{len(large)}Q", *large),
                self._trailer,
            )
        )
        digest = hasher(self._commit)
        digest.update(content)
        return content + digest.digest()


def _head(kind: str, size: int) -> bytes:
    """Return the encoded type and size. Source: gitformat-pack, "Object types" and size encoding."""
    head = bytearray()
    byte, size = _KINDS[kind] << 4 | size & 15, size >> 4
    while size:
        head.append(byte | 0x80)
        byte, size = size & 0x7F, size >> 7
    head.append(byte)
    return bytes(head)


def _stored(size: int, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a zlib stream of stored blocks. Source: RFC 1950, RFC 1951 section 3.2.4."""
    yield b"\x78\x01"
    checksum, left = 1, size
    for chunk in chunks:
        checksum = zlib.adler32(chunk, checksum)
        for at in range(0, len(chunk), _STORED):
            block = chunk[at : at + _STORED]
            left -= len(block)
            yield struct.pack("<BHH", not left, len(block), len(block) ^ 0xFFFF) + block
    if not size:
        yield b"\x01\x00\x00\xff\xff"
    yield struct.pack(">I", checksum)
