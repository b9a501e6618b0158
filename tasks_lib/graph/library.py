"""Parsed definitions, kept: a file of the cache that is read a hundred times faster than YAML.

An unchanged directory is known by the status of its files (inode, size, times) and costs one small look at each;
otherwise each file is known by the digest of its content, and only a file with new content is parsed again. Definitions
are decoded when they are asked for. What cannot be read, or was written by other code, is as if it were not there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import msgspec

from tasks_lib.graph.marks import Mark

if TYPE_CHECKING:
    from tasks_lib.definitions import Definitions, Fetch, SourceFile, Toolchain

#: First bytes of the file; raise the number when its layout changes.
_MAGIC: Final = b"doit-fetch definitions 1\n"

Value = TypeVar("Value", bound="Fetch | Toolchain")


class Kept(msgspec.Struct, array_like=True):
    """What the file holds; `files` are digests of sources with the names of what they define."""

    code: str
    marks: dict[str, Mark]
    sources: dict[str, tuple[list[str], list[str]]]
    fetches: dict[str, msgspec.Raw]
    toolchains: dict[str, msgspec.Raw]
    fetch_aliases: dict[str, str]
    toolchain_aliases: dict[str, str]
    consumers: dict[str, list[str]]
    refused: msgspec.Raw


class Lazy(Mapping[str, Value], Generic[Value]):
    """Definitions that are decoded when they are asked for."""

    def __init__(self, raw: Mapping[str, msgspec.Raw], made: Mapping[str, Value]) -> None:
        self.raw = raw
        self._made: dict[str, Value] = dict(made)

    def __getitem__(self, name: str) -> Value:
        if name not in self._made:
            self._made[name] = decoded(self.raw[name])
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.raw)

    def __len__(self) -> int:
        return len(self.raw)

    def __contains__(self, name: object) -> bool:
        return name in self.raw


def decoded(raw: msgspec.Raw) -> Any:
    """Return the definition of its bytes."""
    from tasks_lib.definitions.packed import unpacked

    return unpacked(msgspec.msgpack.decode(raw))


class Library:
    """The file at `path`; `code` says which code wrote it."""

    def __init__(self, path: Path, code: str) -> None:
        self._path, self.code = path, code
        self.identity = b""
        self.consumers: Mapping[str, list[str]] = {}
        self.marks: Mapping[str, Mark] = {}

    def read(self) -> Kept | None:
        """Return what is kept, None when there is nothing that can be used."""
        try:
            data = self._path.read_bytes()
        except OSError:
            return None
        start = len(_MAGIC)
        identity, body = data[start : start + 32], data[start + 32 :]
        if data[:start] != _MAGIC or hashlib.sha256(body).digest() != identity:
            return None
        try:
            kept = msgspec.msgpack.decode(body, type=Kept)
        except msgspec.MsgspecError:
            return None
        if kept.code != self.code:
            return None
        self.identity, self.consumers, self.marks = identity, kept.consumers, kept.marks
        return kept

    def write(self, kept: Kept) -> None:
        """Keep it; a cache that cannot be written just does not help."""
        body = msgspec.msgpack.encode(kept)
        self.identity, self.consumers, self.marks = hashlib.sha256(body).digest(), kept.consumers, kept.marks
        from tasks_lib.store import write_hint  # slow to import, and most runs write none

        write_hint(self._path, _MAGIC + self.identity + body)


def definitions_of(kept: Kept, parsed: Definitions | None = None) -> Definitions:
    """Return the definitions, each decoded when it is asked for, if it was not `parsed` just now."""
    from tasks_lib.definitions import Definitions

    return Definitions(
        fetches=Lazy(kept.fetches, parsed.fetches if parsed else {}),
        toolchains=Lazy(kept.toolchains, parsed.toolchains if parsed else {}),
        refused=parsed.refused if parsed else decoded(kept.refused),
        _fetch_aliases=kept.fetch_aliases,
        _toolchain_aliases=kept.toolchain_aliases,
    )


def consumers_of(definitions: Definitions) -> dict[str, list[str]]:
    """Return which toolchains consume each `fetch:NAME` and `toolchain:NAME`."""
    consumers: dict[str, list[str]] = {}
    for toolchain in definitions.toolchains.values():
        for entry in toolchain.fetches:
            one = definitions.fetch(entry.name) if entry.kind == "fetch" else definitions.toolchain(entry.name)
            consumers.setdefault(f"{entry.kind}:{one.name}", []).append(toolchain.name)
    return consumers


class Memory:
    """What is known of single files while they are read; `parse` asks it before it parses."""

    def __init__(self, kept: Kept | None) -> None:
        self._kept = kept
        self.common = ""  # text that shapes what every file defines
        self._sources: dict[str, tuple[list[str], list[str]]] = {}
        self._raw: dict[int, tuple[object, msgspec.Raw]] = {}

    def recall(self, source: SourceFile, defaults: object) -> tuple[dict[str, Fetch], dict[str, Toolchain]] | None:
        """Return what a file with this content defines, None when it must be parsed."""
        key = self._key(source, defaults)
        if self._kept is None or key not in self._kept.sources:
            return None
        names = self._kept.sources[key]
        try:
            fetches = {name: self._decoded(self._kept.fetches[name]) for name in names[0]}
            toolchains = {name: self._decoded(self._kept.toolchains[name]) for name in names[1]}
        except (KeyError, ValueError):
            return None
        self._sources[key] = names
        return fetches, toolchains

    def _decoded(self, raw: msgspec.Raw) -> Any:
        value = decoded(raw)
        self._raw[id(value)] = value, raw  # held, so that no other value gets its id
        return value

    def keep(self, source: SourceFile, defaults: object, fetches: Iterable[str], toolchains: Iterable[str]) -> None:
        """Remember which names a file defines."""
        self._sources[self._key(source, defaults)] = (list(fetches), list(toolchains))

    def kept(self, code: str, marks: dict[str, Mark], definitions: Definitions) -> Kept:
        """Return what is to be kept of all definitions."""
        from tasks_lib.definitions.packed import packed

        return Kept(
            code=code,
            marks=marks,
            sources=self._sources,
            fetches={name: self._encoded(one) for name, one in definitions.fetches.items()},
            toolchains={name: self._encoded(one) for name, one in definitions.toolchains.items()},
            fetch_aliases=dict(definitions._fetch_aliases),
            toolchain_aliases=dict(definitions._toolchain_aliases),
            consumers=consumers_of(definitions),
            refused=msgspec.Raw(msgspec.msgpack.encode(packed(definitions.refused))),
        )

    def _encoded(self, value: Fetch | Toolchain) -> msgspec.Raw:
        from tasks_lib.definitions.packed import packed

        known = self._raw.get(id(value))
        return known[1] if known else msgspec.Raw(msgspec.msgpack.encode(packed(value)))

    def _key(self, source: SourceFile, defaults: object) -> str:
        """Return the digest of everything that shapes what one file defines."""
        place = (source.kind, source.path, source.directory, source.root, source.scripts)
        words = (*place, repr(defaults), self.common, source.text)
        return hashlib.sha256("\0".join(words).encode("utf-8", "surrogatepass")).hexdigest()
