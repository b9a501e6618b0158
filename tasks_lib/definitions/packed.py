"""A mapping of definitions that keeps most of them encoded: a tenth of the memory for a hundred thousand. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Final, Generic, TypeVar, cast

from tasks_lib.definitions.codec import decode, encode

if TYPE_CHECKING:
    from tasks_lib.definitions.values import Fetch, Image, Toolchain

Value = TypeVar("Value", bound="Fetch | Toolchain | Image")

#: Values that are kept as they are until they are encoded together; most projects have fewer definitions.
MANY: Final = 8192


class PackedDefinitions(MutableMapping[str, Value], Generic[Value]):
    """Definitions by name, in the order in which they were added.

    A value is encoded once many have followed it, and decoded on each access: use each value once. As in the cache of
    parsed definitions, the headers of an encoded value have no values (see `codec`).
    """

    def __init__(self, most_fresh: int) -> None:
        """Create an empty mapping that keeps fewer than `most_fresh` values as they are."""
        self._most_fresh = most_fresh
        self._texts: dict[str, bytes] = {}
        self._fresh: dict[str, Value] = {}  # not encoded yet; all of them come after the encoded ones

    def __getitem__(self, name: str) -> Value:
        value = self._fresh.get(name)
        return cast("Value", decode(self._texts[name])) if value is None else value

    def __setitem__(self, name: str, value: Value) -> None:
        if name in self._texts:
            self._texts[name] = encode(value)
            return
        self._fresh[name] = value
        if len(self._fresh) >= self._most_fresh:
            self._pack()

    def __delitem__(self, name: str) -> None:
        del (self._fresh if name in self._fresh else self._texts)[name]

    def __contains__(self, name: object) -> bool:
        return name in self._fresh or name in self._texts

    def __iter__(self) -> Iterator[str]:
        yield from self._texts
        yield from self._fresh

    def __reversed__(self) -> Iterator[str]:
        yield from reversed(self._fresh)
        yield from reversed(self._texts)

    def __len__(self) -> int:
        return len(self._texts) + len(self._fresh)

    def add_encoded(self, texts: Mapping[str, bytes]) -> None:
        """Add definitions that `encode` encoded, under names that are new."""
        self._pack()
        self._texts.update(texts)

    @property
    def values_at_hand(self) -> Mapping[str, Value]:
        """The values, if all are kept as they are; none if most would have to be decoded."""
        return {} if self._texts else self._fresh

    def encoded(self) -> dict[str, bytes]:
        """Return all definitions encoded."""
        return {**self._texts, **{name: encode(one) for name, one in self._fresh.items()}}

    def _pack(self) -> None:
        self._texts.update((name, encode(one)) for name, one in self._fresh.items())
        self._fresh.clear()
