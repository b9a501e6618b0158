"""Codec of definitions for the definition cache, which loads faster than YAML.

A value is encoded as the name of its class and its fields in order, without the values of headers, which may be
secrets: a decoded header has the value "". Decoding calls the initializers of the classes, so
that values are valid even if the cache is damaged. Pure: no I/O.
"""

from __future__ import annotations

from typing import Final

import msgspec

from tasks_lib.definitions.values import Fetch, Image, RefusedDefinition, StaticUrl, Toolchain

_DECODER: Final = msgspec.msgpack.Decoder(Fetch | Toolchain | Image)


def encode(value: Fetch | Toolchain | Image | tuple[RefusedDefinition, ...]) -> bytes:
    """Return the encoded value.

    Raises:
        TypeError: the value is not part of a definition.
    """
    if isinstance(value, Fetch) and isinstance(value.source, StaticUrl) and (value.source.headers or value.platforms):
        platforms = tuple((platform, _without_values(source)) for platform, source in value.platforms)
        value = msgspec.structs.replace(value, source=_without_values(value.source), platforms=platforms)
    return msgspec.msgpack.encode(value)


def _without_values(source: StaticUrl) -> StaticUrl:
    return msgspec.structs.replace(source, headers=tuple((name, "") for name, _ in source.headers))


def decode(text: bytes | memoryview) -> Fetch | Toolchain | Image:
    """Return the definition that `encode` encoded.

    Raises:
        ValueError: the bytes are not a valid definition.
    """
    try:
        value: Fetch | Toolchain | Image = _DECODER.decode(text)
    except msgspec.MsgspecError as error:
        raise ValueError("invalid encoded definition") from error
    return value


def decode_refused(text: bytes | memoryview | msgspec.Raw) -> tuple[RefusedDefinition, ...]:
    """Return the refused definitions that `encode` encoded.

    Raises:
        ValueError: the bytes are not valid refused definitions.
    """
    try:
        if not msgspec.msgpack.decode(text):
            return ()  # the usual case; creating a typed decoder takes as long as decoding ten definitions
        return msgspec.msgpack.decode(text, type=tuple[RefusedDefinition, ...])
    except msgspec.MsgspecError as error:
        raise ValueError("invalid encoded list of refused definitions") from error
