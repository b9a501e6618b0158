"""A cache of parsed definitions, which is read a hundred times faster than YAML.

The fingerprints of its files identify an unchanged directory, at the cost of one stat() call for each file. Otherwise
the digest of its content identifies each file, and only files with new content are parsed. Definitions are decoded on
access; of many, the last ones are kept. A cache file that cannot be read, or that other code wrote, counts as missing.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

import msgspec

from tasks_lib.definitions import Debian, DebianSource, Definitions, Fetch, Image, StaticUrl, Toolchain
from tasks_lib.definitions.codec import decode, decode_refused, encode
from tasks_lib.definitions.packed import MANY, PackedDefinitions
from tasks_lib.fs.atomic import write_best_effort
from tasks_lib.fs.fingerprint import Fingerprint
from tasks_lib.fs.trust import NOBODY, Trust
from tasks_lib.shard import pack_shares

if TYPE_CHECKING:
    from tasks_lib.definitions import SourceFile

#: Bytes of the digest of a definition, which only detects changes; an attacker gains nothing from a collision.
_DIGEST_BYTES: Final = 8
#: Definitions to a chunk: a single one is decoded with the others of its chunk, in a twentieth of a millisecond.
_CHUNK: Final = 512
#: The first bytes of the file; raise the number when its layout changes.
_MAGIC: Final = b"doit-fetch definitions 8\n"
#: Lookups in the text of all names before a table is built, which takes as long as fifty lookups.
_GLANCES: Final = 16
#: Characters before and after the last name to look at first: most names are asked for in about their order.
_NEAR: Final = 1 << 12

_NOTHING: Final = msgspec.msgpack.encode({})
#: Digest of a source -> the names that it defines, by kind in the order of `Definitions.kinds`.
_DefinedNames = dict[str, list[list[str]]]

Value = TypeVar("Value", bound="Fetch | Toolchain | Image")


class Block(msgspec.Struct, array_like=True):
    """All definitions of one kind, laid out so that one of ten thousand is found without decoding the others.

    Attributes:
        names: each with a NUL before and after it.
        ends: the end of each in `texts`, as eight-byte integers.
        digests: of each, eight bytes.
        chunks: the encoded definitions, `_CHUNK` to a chunk; compressed if there are several.
    """

    names: str
    ends: bytes
    digests: bytes
    chunks: list[memoryview]

    @classmethod
    def of(cls, texts: Mapping[str, bytes]) -> Block:
        """Return the block of these texts."""
        values = iter(texts.values())
        joined = iter(lambda: b"".join(islice(values, _CHUNK)), b"")  # one at a time: all take as much as the texts
        compress = _zstandard().ZstdCompressor(level=1).compress if len(texts) > _CHUNK else None
        chunks = [memoryview(_exact(compress(chunk)) if compress else chunk) for chunk in joined]
        return cls(
            "".join(f"\0{name}" for name in texts) + "\0",
            array("Q", accumulate(map(len, texts.values()))).tobytes(),
            b"".join(hashlib.blake2b(text, digest_size=_DIGEST_BYTES).digest() for text in texts.values()),
            chunks,
        )

    def chunk(self, number: int) -> memoryview:
        """Return the definitions of a chunk.

        Raises:
            ValueError: it is damaged.
        """
        if len(self.chunks) == 1:
            return self.chunks[0]
        zstandard = _zstandard()
        try:
            return memoryview(zstandard.ZstdDecompressor().decompress(self.chunks[number]))
        except zstandard.ZstdError as error:
            raise ValueError("a chunk of cached definitions is damaged") from error


class CachedDefinitions(msgspec.Struct, array_like=True):
    """The content of the file; `sources` maps digests of files to the names that they define.

    `shares` has the key and the size of the download of each fetch, see `shard.pack_shares`.
    """

    code: str
    source_fingerprints: dict[str, Fingerprint]
    sources: msgspec.Raw
    fetches: Block
    toolchains: Block
    images: Block
    fetch_aliases: dict[str, str]
    toolchain_aliases: dict[str, str]
    consumers: msgspec.Raw
    refused: msgspec.Raw
    passed: list[str]
    platforms: dict[str, tuple[str, ...]]
    shares: bytes


class LazyDefinitions(Mapping[str, Value], Generic[Value]):
    """A mapping that decodes definitions on access; if there are `MANY`, it keeps only the last ones."""

    def __init__(self, block: Block, made: Mapping[str, Value]) -> None:
        self._block, self._made = block, made
        self._decoded: dict[str, Value] = {}
        self._ends = array("Q", block.ends)
        self._places: dict[str, int] = {}
        self._glances = 0
        self._last = 0, 0  # of the name that was found last: its position in `names`, its number
        self._chunk = -1, memoryview(b"")  # the chunk that was used last, and its number

    def __getitem__(self, name: str) -> Value:
        value = self._decoded.get(name) or self._made.get(name)
        if value is None:
            value = cast("Value", decode(self.text(name)))
            if len(self._decoded) >= _CHUNK and len(self._ends) >= MANY:
                self._decoded.clear()
            self._decoded[name] = value
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._block.names[1:-1].split("\0") if self._ends else ())

    def __len__(self) -> int:
        return len(self._ends)

    def __contains__(self, name: object) -> bool:
        return self._place(name) >= 0

    def text(self, name: str) -> memoryview:
        """Return the encoded bytes of a definition.

        Raises:
            KeyError: no definition has that name.
        """
        place = self._place(name)
        if place < 0:
            raise KeyError(name)
        number = place // _CHUNK
        known, chunk = self._chunk  # one assignment for both: other threads read, too
        if known != number:
            self._chunk = number, (chunk := self._block.chunk(number))
        before = self._ends[number * _CHUNK - 1] if number else 0
        return chunk[(self._ends[place - 1] if place else 0) - before : self._ends[place] - before]

    def digests(self) -> dict[str, bytes]:
        """Return a short digest of the bytes of each definition."""
        digests = self._block.digests
        return {name: digests[at * _DIGEST_BYTES : (at + 1) * _DIGEST_BYTES] for at, name in enumerate(self)}

    def _place(self, name: object) -> int:
        """Return the position of a name, -1 for an unknown name."""
        if not isinstance(name, str) or "\0" in name:
            return -1
        if self._places:
            return self._places.get(name, -1)
        names, text, (at, number) = self._block.names, f"\0{name}\0", self._last
        found = names.find(text, at, at + _NEAR)
        if found < 0:
            found = self._search(text, at)
        if found < 0:
            return self._places.get(name, -1)
        number += names.count("\0", at, found) if found >= at else -names.count("\0", found, at)
        self._last = found, number
        return number

    def _search(self, text: str, at: int) -> int:
        """Return where a text is that is not soon after `at`; -1 if it is nowhere, or after building a table."""
        names = self._block.names
        found = names.find(text, max(0, at - _NEAR), at + 1)
        if found < 0:
            found = names.find(text, at)
        if found < 0:
            self._glances += 1
            if self._glances > _GLANCES:
                self._places = {one: place for place, one in enumerate(self)}
            else:
                found = names.find(text, 0, at + 1)
        return found


class DefinitionCache:
    """The cache file at `path`; `code` identifies the code that wrote it."""

    def __init__(self, path: Path, code: str, trust: Trust = NOBODY) -> None:
        self._path, self.code, self._trust = path, code, trust
        self.identity = b""
        self._consumers: msgspec.Raw | dict[str, list[str]] = msgspec.Raw(_NOTHING)
        self.shares = b""
        self.source_fingerprints: Mapping[str, Fingerprint] = {}

    def read(self) -> CachedDefinitions | None:
        """Return the cached definitions, None when the file is missing, unusable or not of a trusted user."""
        data = self._trust.read(self._path)
        if data is None:
            return None
        start = len(_MAGIC)
        identity, body = data[start : start + 32], memoryview(data)[start + 32 :]
        if data[:start] != _MAGIC or hashlib.sha256(body).digest() != identity:
            return None
        try:
            kept = msgspec.msgpack.decode(body, type=CachedDefinitions)
        except msgspec.MsgspecError:
            return None
        if kept.code != self.code:
            return None
        self.identity = identity
        self._remember(kept)
        return kept

    def _remember(self, kept: CachedDefinitions) -> None:
        self._consumers, self.source_fingerprints, self.shares = kept.consumers, kept.source_fingerprints, kept.shares

    @property
    def consumers(self) -> Mapping[str, list[str]]:
        """The tasks that consume each `fetch:NAME` and `toolchain:NAME`; decoded once."""
        if isinstance(self._consumers, msgspec.Raw):
            self._consumers = msgspec.msgpack.decode(self._consumers, type=dict[str, list[str]])
        return self._consumers

    def write(self, kept: CachedDefinitions) -> None:
        """Write the file; a failure is ignored, since the cache only saves time."""
        start = len(_MAGIC)
        content = bytearray(start + 32)
        msgspec.msgpack.Encoder().encode_into(kept, content, start + 32)  # a join would take the memory twice
        self.identity = hashlib.sha256(memoryview(content)[start + 32 :]).digest()
        content[: start + 32] = _MAGIC + self.identity
        self._remember(kept)
        write_best_effort(self._path, content)


def definitions_of(kept: CachedDefinitions, parsed: Definitions | None = None) -> Definitions:
    """Return the definitions; those that were just `parsed` are reused, the others are decoded on access."""
    return Definitions(
        fetches=LazyDefinitions(kept.fetches, _at_hand(parsed.fetches) if parsed else {}),
        toolchains=LazyDefinitions(kept.toolchains, _at_hand(parsed.toolchains) if parsed else {}),
        images=LazyDefinitions(kept.images, _at_hand(parsed.images) if parsed else {}),
        refused=parsed.refused if parsed else decode_refused(kept.refused),
        _platforms=kept.platforms,
        _fetch_aliases=kept.fetch_aliases,
        _toolchain_aliases=kept.toolchain_aliases,
        _passed=frozenset(kept.passed),
    )


def _at_hand(values: Mapping[str, Value]) -> Mapping[str, Value]:
    return values.values_at_hand if isinstance(values, PackedDefinitions) else values


def consumers_of(definitions: Definitions) -> dict[str, list[str]]:
    """Return `toolchain:NAME` and `image:NAME` of those that consume each `fetch:NAME` and `toolchain:NAME`."""
    consumers: dict[str, dict[str, None]] = {}
    for kind in ("toolchain", "image"):
        for consumer in definitions.kinds[kind].values():
            for entry in consumer.fetches:
                one = definitions.fetch(entry.name) if entry.kind == "fetch" else definitions.toolchain(entry.name)
                consumers.setdefault(f"{entry.kind}:{one.name}", {})[f"{kind}:{consumer.name}"] = None
    return {need: list(users) for need, users in consumers.items()}


def share_of(fetch: Fetch) -> tuple[int, int]:
    """Return the first 8 bytes of the recipe key of a fetch, and the size of its download, 0 if it is unknown."""
    from tasks_lib import recipe  # slow to import, needed only when definitions changed

    if isinstance(fetch.source, StaticUrl):
        integrity = fetch.source.integrity
        return int(recipe.fetch_key(integrity)[:16], 16), integrity.size
    if isinstance(fetch.source, Debian):
        return int(recipe.packages_digest(fetch.source)[:16], 16), 0
    if isinstance(fetch.source, DebianSource):
        return int(recipe.pinned_key(fetch.source)[:16], 16), 0
    return int(recipe.commit_key(fetch.source)[:16], 16), 0


def _encoded(values: Mapping[str, Value]) -> dict[str, bytes]:
    if isinstance(values, PackedDefinitions):
        return values.encoded()
    return {name: encode(one) for name, one in values.items()}


def _exact(data: bytes) -> bytes:
    """Return a copy of compressed bytes: the original keeps the memory that the largest result would need.

    Source: python-zstandard 0.25, `ZstdCompressor.compress`, which allocates `ZSTD_compressBound` bytes.
    """
    return bytes(memoryview(data))


def _zstandard() -> Any:
    import zstandard  # few projects have so many definitions that they are compressed

    return zstandard


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(value))


class CachedFiles:
    """Cached definitions by file; `parse` consults it before it parses a file."""

    def __init__(self, kept: CachedDefinitions | None) -> None:
        blocks = (kept.fetches, kept.toolchains, kept.images) if kept else ()
        self._by_kind: list[LazyDefinitions[Any]] = [LazyDefinitions(block, {}) for block in blocks]
        self._known = msgspec.msgpack.decode(kept.sources, type=_DefinedNames) if kept else {}
        self.common = ""  # text that affects the definitions of every file
        self._sources: _DefinedNames = {}
        self._shares: dict[str, tuple[int, int]] = {}

    def recall(self, source: SourceFile, defaults: object) -> list[dict[str, bytes]] | None:
        """Return the encoded definitions of a file with this content by kind, None when it must be parsed."""
        key = self._key(source, defaults)
        names = self._known.get(key)
        if names is None:
            return None
        try:
            found = [
                {name: bytes(known.text(name)) for name in own} for known, own in zip(self._by_kind, names, strict=True)
            ]
        except (KeyError, ValueError):
            return None
        self._sources[key] = names
        return found

    def keep(self, source: SourceFile, defaults: object, names: Sequence[list[str]]) -> None:
        """Store the names of each kind that a file defines."""
        self._sources[self._key(source, defaults)] = list(names)

    def note(self, fetch: Fetch) -> None:
        """Keep the share of a fetch that was parsed."""
        self._shares[fetch.name] = share_of(fetch)

    def kept(
        self, code: str, source_fingerprints: dict[str, Fingerprint], definitions: Definitions
    ) -> CachedDefinitions:
        """Return all definitions in the form of the cache file."""
        return CachedDefinitions(
            code=code,
            source_fingerprints=source_fingerprints,
            sources=_raw(self._sources),
            fetches=Block.of(_encoded(definitions.fetches)),
            toolchains=Block.of(_encoded(definitions.toolchains)),
            images=Block.of(_encoded(definitions.images)),
            fetch_aliases=dict(definitions._fetch_aliases),
            toolchain_aliases=dict(definitions._toolchain_aliases),
            consumers=_raw(consumers_of(definitions)),
            refused=msgspec.Raw(encode(definitions.refused)),
            passed=sorted(definitions.passed),
            platforms=dict(definitions._platforms),
            shares=pack_shares([self._share(name, definitions.fetches) for name in definitions.fetches]),
        )

    def _share(self, name: str, fetches: Mapping[str, Fetch]) -> tuple[int, int]:
        return self._shares.get(name) or share_of(fetches[name])

    def _key(self, source: SourceFile, defaults: object) -> str:
        """Return the digest of everything that affects the definitions of one file."""
        place = (source.kind, source.path, source.directory, source.root, source.scripts)
        words = (*place, repr(defaults), self.common, source.text)
        return hashlib.sha256("\0".join(words).encode("utf-8", "surrogatepass")).hexdigest()
