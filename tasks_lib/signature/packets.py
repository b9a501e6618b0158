"""OpenPGP packets: validate the framing of a signature or key file before gpg reads it.

gpg receives exactly the validated bytes: binary, with only the expected kinds of packets.
Source: RFC 4880 sections 4.2 (packet headers), 4.3 (tags) and 6.2 (armor). Pure: no I/O.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from typing import Final

from tasks_lib.errors import SignatureError, escape_text
from tasks_lib.units import format_size

#: Largest detached signature in bytes. Source: faults.md section 7; real ones are below 1 KiB.
MAX_SIGNATURE_BYTES: Final = 64 << 10
#: Largest key file in bytes; the keyring of all GNU maintainers is below 4 MiB.
MAX_KEYS_BYTES: Final = 8 << 20
#: Largest number of signatures in a file: each costs gpg a pass. Source: TUF GHSA-2828-9vh6-9m6j.
MAX_SIGNATURES: Final = 16

_DETACHED: Final = "use the .sig or .asc file that upstream publishes beside the file"
_SIGNATURE: Final = 2
_MARKER: Final = 10
#: Secret-Key and Secret-Subkey.
_SECRET: Final = frozenset({5, 7})
#: Public-Key, Public-Subkey, User ID, User Attribute, Signature, Trust, Marker.
_PUBLIC: Final = frozenset({6, 14, 13, 17, _SIGNATURE, 12, _MARKER})
#: Compressed Data and Literal Data: parts of a message, which contains its own content.
_MESSAGE: Final = frozenset({8, 11})

_EXPORT: Final = "export the public key: gpg --armor --export FINGERPRINT"
_DAMAGED: Final = "compare it with the file that upstream publishes"
_BEGIN: Final = re.compile(rb"-----BEGIN PGP ([A-Z ]+)-----")
#: The kind of a block that does not end.
_INVALID: Final = b"INVALID ARMOR"


def signature_packets(data: bytes) -> bytes:
    """Return a detached signature, armored or not, in binary form.

    Raises:
        SignatureError: empty, too large, too many signatures, not a signature, or a message with its own content.
    """
    if len(data) > MAX_SIGNATURE_BYTES:
        raise SignatureError(f"the signature is larger than {format_size(MAX_SIGNATURE_BYTES)}", hint=_DETACHED)
    binary = _dearmor(data, b"SIGNATURE")
    tags = []
    for tag in _tags(binary, "the signature"):
        if tag in _MESSAGE:  # checked before the length, which may be indeterminate
            raise SignatureError(
                "the signature file is a signed message with its own content: expected a detached signature",
                hint=_DETACHED,
            )
        tags += [tag] if tag != _MARKER else []
    if set(tags) != {_SIGNATURE}:
        raise _not_a_signature(data)
    if len(tags) > MAX_SIGNATURES:
        raise SignatureError(
            f"the signature file contains more than {MAX_SIGNATURES} signatures", hint="keep the one by the pinned key"
        )
    return binary


def key_packets(data: bytes) -> bytes:
    """Return the public keys in a key file, armored (one block or several) or not, in binary form.

    Raises:
        SignatureError: empty, too large, without public key, or with a secret key.
    """
    if len(data) > MAX_KEYS_BYTES:
        raise SignatureError(f"the key file is larger than {format_size(MAX_KEYS_BYTES)}", hint=_EXPORT)
    binary = _dearmor(data, b"PUBLIC KEY BLOCK")
    tags = set(_tags(binary, "the key file"))
    if _SECRET & tags:
        raise SignatureError("the key file contains a secret key", hint=_EXPORT)
    if 6 not in tags or tags - _PUBLIC:
        raise SignatureError("the key file contains no OpenPGP public key", hint=_EXPORT)
    return binary


def _not_a_signature(data: bytes) -> SignatureError:
    start = escape_text(data[:40])
    return SignatureError(
        f"the signature file is not an OpenPGP signature: it begins with '{start}'",
        hint="open the signature's URL in a browser",
    )


def _dearmor(data: bytes, kind: bytes) -> bytes:
    """Return the binary form of data that may be armored in blocks of `kind`.

    Raises:
        SignatureError: a block of another kind, or invalid armor.
    """
    if b"-----BEGIN PGP " not in data:
        return data
    blocks = list(_blocks(data))
    others = [found for found, _ in blocks if found != kind]
    if b"-----BEGIN PGP SIGNED MESSAGE-----" in data:
        others.insert(0, b"SIGNED MESSAGE")
    if others or not blocks:
        actual = escape_text(others[0] if others else _INVALID)
        raise SignatureError(
            f"expected a PGP {kind.decode().lower()}, found {actual.lower()}",
            hint=_DETACHED if kind == b"SIGNATURE" else _EXPORT,
        )
    return b"".join(_decode_block(body) for _, body in blocks)


def _blocks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and body of each armored block; a block that does not end is `_INVALID`.

    Source: RFC 9580 section 6.2.
    """
    kind, body = b"", list[bytes]()
    for line in map(bytes.rstrip, data.split(b"\n")):
        begin = _BEGIN.fullmatch(line)
        if kind and line == b"-----END PGP %s-----" % kind:
            yield kind, b"\n".join(body)
            kind = b""
        elif begin:
            if kind:
                yield _INVALID, b""
            kind, body = begin[1], []
        elif kind:
            body.append(line)
    if kind:
        yield _INVALID, b""


def _decode_block(body: bytes) -> bytes:
    """Return the bytes of an armored block: headers end at an empty line, `=` starts the checksum."""
    lines = [line.strip() for line in body.replace(b"\r", b"").split(b"\n")]
    if b"" in lines:
        lines = lines[lines.index(b"") + 1 :]
    text = b"".join(line for line in lines if line and not re.fullmatch(rb"=[A-Za-z0-9+/]{4}", line))
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error as error:
        raise SignatureError(f"invalid PGP armor: {error}", hint=_DAMAGED) from error


def _tags(data: bytes, what: str) -> Iterator[int]:
    """Yield the tag of each packet, before validating its length.

    Raises:
        SignatureError: the bytes are not a sequence of whole packets.
    """
    at = 0
    while at < len(data):
        first = data[at]
        if not first & 0x80:
            raise (
                _not_a_signature(data)
                if "signature" in what
                else SignatureError(f"{what} is not OpenPGP data", hint=_EXPORT)
            )
        new = first & 0x40
        yield first & 0x3F if new else first >> 2 & 0x0F
        size_at, size = (_new_length if new else _old_length)(data, at)
        if size < 0 or size_at + size > len(data):
            raise SignatureError(f"{what} is truncated or damaged at byte {at}", hint=_DAMAGED)
        at = size_at + size


def _new_length(data: bytes, at: int) -> tuple[int, int]:
    """Return the offset of the body and its length, -1 if the length is invalid. Source: RFC 4880 section 4.2.2."""
    length = data[at + 1 : at + 6]
    if not length or 224 <= length[0] < 255:  # partial lengths are allowed in messages only
        return at, -1
    if length[0] < 192:
        return at + 2, length[0]
    if length[0] < 224:
        return (at + 3, (length[0] - 192 << 8) + length[1] + 192) if len(length) > 1 else (at, -1)
    return (at + 6, int.from_bytes(length[1:5])) if len(length) == 5 else (at, -1)


def _old_length(data: bytes, at: int) -> tuple[int, int]:
    """Return the offset of the body and its length, -1 if it is indeterminate. Source: RFC 4880 section 4.2.1."""
    octets = {0: 1, 1: 2, 2: 4}.get(data[at] & 3, 0)
    length = data[at + 1 : at + 1 + octets]
    return (at + 1 + octets, int.from_bytes(length)) if octets and len(length) == octets else (at, -1)
