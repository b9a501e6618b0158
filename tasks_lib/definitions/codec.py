"""Values of definitions <-> bytes, for a cache that is read faster than YAML.

A value is the name of its class and its fields in order. Reading makes values by their own initialisers, so they are
born valid however the cache was damaged. Pure: no I/O.
"""

from __future__ import annotations

from typing import Final

import msgspec

from tasks_lib.definitions.values import Fetch, RefusedDefinition, Toolchain

_DECODER: Final = msgspec.msgpack.Decoder(Fetch | Toolchain)


def encode(value: Fetch | Toolchain | tuple[RefusedDefinition, ...]) -> bytes:
    """Return a value as bytes.

    Raises:
        TypeError: it is none of a definition.
    """
    return msgspec.msgpack.encode(value)


def decode(text: bytes | memoryview) -> Fetch | Toolchain:
    """Return the definition that `encode` took apart.

    Raises:
        ValueError: it is none, or not a valid one.
    """
    try:
        value: Fetch | Toolchain = _DECODER.decode(text)
    except msgspec.MsgspecError as error:
        raise ValueError("no value of a definition") from error
    return value


def decode_refused(text: bytes | memoryview | msgspec.Raw) -> tuple[RefusedDefinition, ...]:
    """Return the refused definitions that `encode` took apart.

    Raises:
        ValueError: they are none, or not valid.
    """
    try:
        if not msgspec.msgpack.decode(text):
            return ()  # nearly always, and the reader of a class takes as long to make as ten definitions to read
        return msgspec.msgpack.decode(text, type=tuple[RefusedDefinition, ...])
    except msgspec.MsgspecError as error:
        raise ValueError("no refused definitions") from error
