"""minisign: a small signature format based on Ed25519, which PyCA's `cryptography` implements (extra `minisign`).

Both signatures in the file are checked: the one of the content, and the global one of the trusted comment.
Source: https://jedisct1.github.io/minisign/ ("Signature format", "Public key format").
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import BinaryIO, Final

from tasks_lib.errors import SignatureError, ToolError, UnknownSignerError, escape_text
from tasks_lib.progress import Progress
from tasks_lib.signature.packets import MAX_SIGNATURE_BYTES
from tasks_lib.signature.status import ValidSignature
from tasks_lib.units import format_size

#: Largest content for a legacy signature, which signs the content itself instead of its hash: it must fit in memory.
MAX_LEGACY_BYTES: Final = 64 << 20
_CHUNK: Final = 1 << 20
_LEGACY, _HASHED = b"Ed", b"ED"
_TRUSTED: Final = "trusted comment: "


def verify_minisign(content: BinaryIO, signature: bytes, *, public_key: str, progress: Progress) -> ValidSignature:
    """Check a minisign signature over a whole file.

    The open file is read from its start and left there. `public_key` is its base64 line (`RW...`).

    Raises:
        SignatureError: it is not a good signature of this key.
        ToolError: `cryptography` is not installed.
        CancelledError: the run was asked to stop.
    """
    if len(signature) > MAX_SIGNATURE_BYTES:
        raise SignatureError(
            f"the signature is larger than {format_size(MAX_SIGNATURE_BYTES)}",
            hint="check the URL of the .minisig file",
        )
    key_id, key = _split(_decode(public_key, "public key"), (_LEGACY,), 32, "public key")[1:]
    lines = signature.decode("utf-8", "surrogateescape").splitlines()
    if len(lines) < 4 or not lines[2].startswith(_TRUSTED):
        raise SignatureError(
            "the signature file is not a minisign signature", hint="expected the four lines of a .minisig file"
        )
    algorithm, signer_id, signed = _split(_decode(lines[1], "signature"), (_LEGACY, _HASHED), 64, "signature")
    if signer_id != key_id:
        expected, actual = _format_key_id(key_id), _format_key_id(signer_id)
        raise UnknownSignerError(
            f"signature refused: expected one by key {expected}, found one by {actual}",
            hint="if upstream announces this key, pin it",
        )
    message = _hash(content, progress) if algorithm == _HASHED else _read_whole(content)
    comment = lines[2].removeprefix(_TRUSTED)
    _verify(key, signed, message, "it does not match the content")
    signed_comment = signed + comment.encode("utf-8", "surrogateescape")
    _verify(key, _decode(lines[3], "global signature"), signed_comment, "its trusted comment was changed")
    made = re.search(r"\btimestamp:([0-9]{1,11})\b", comment)
    return ValidSignature(
        kind="minisign",
        key=_format_key_id(key_id),
        signer=_format_key_id(key_id),
        signed_by=escape_text(comment[:200]),
        signed_at=int(made[1]) if made else 0,
    )


def _verify(key: bytes, signature: bytes, message: bytes, reason: str) -> None:
    try:
        from tasks_lib.ed25519 import VerifyingKey  # an optional dependency, and slow to import
    except ImportError as error:
        raise ToolError(
            "`cryptography` is not installed, but required to verify a minisign signature",
            hint="pip install 'doit-fetch[minisign]'",
        ) from error
    try:
        has_signed = VerifyingKey.from_bytes(key).has_signed(signature, message)
    except ValueError:  # these bytes are not a key
        has_signed = False
    if not has_signed:
        raise SignatureError(f"signature refused: {reason}", hint="compare the file with upstream's announcement first")


def _decode(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise SignatureError(
            f"the minisign {what} is not valid base64: {escape_text(text[:60])!r}",
            hint="compare it with what upstream publishes",
        ) from error


def _split(data: bytes, algorithms: tuple[bytes, ...], size: int, what: str) -> tuple[bytes, bytes, bytes]:
    """Return algorithm, key id and body."""
    if len(data) != 10 + size or data[:2] not in algorithms:
        raise SignatureError(
            f"invalid minisign {what}: {len(data)} bytes that begin with '{escape_text(data[:2])}'",
            hint=f"expected {10 + size} bytes that begin with {' or '.join(repr(a.decode()) for a in algorithms)}",
        )
    return data[:2], data[2:10], data[10:]


def _format_key_id(key_id: bytes) -> str:
    """Format a key id as minisign does: little-endian, in upper-case hex."""
    return key_id[::-1].hex().upper()


def _hash(content: BinaryIO, progress: Progress) -> bytes:
    digest = hashlib.blake2b()
    content.seek(0)
    while chunk := content.read(_CHUNK):
        digest.update(chunk)
        progress.check()
    content.seek(0)
    return digest.digest()


def _read_whole(content: BinaryIO) -> bytes:
    content.seek(0)
    data = content.read(MAX_LEGACY_BYTES + 1)
    content.seek(0)
    if len(data) > MAX_LEGACY_BYTES:
        raise SignatureError(
            f"cannot verify a legacy minisign signature of content larger than {format_size(MAX_LEGACY_BYTES)}",
            hint="ask upstream for a signature of the hash (minisign -H)",
        )
    return data
