"""minisign: a small signature format on Ed25519. The arithmetic is PyCA's `cryptography` (extra `minisign`).

Both signatures of the file are checked: the one over the content, and the global one over the trusted comment.
Source: https://jedisct1.github.io/minisign/ ("Signature format", "Public key format").
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import BinaryIO, Final

from tasks_lib.errors import SignatureError, ToolError, escaped
from tasks_lib.progress import Progress
from tasks_lib.signature.packets import MAX_SIGNATURE_BYTES
from tasks_lib.signature.status import ValidSignature
from tasks_lib.units import format_size

#: Largest content that a legacy signature, which is over the content itself, is checked for: it must fit in memory.
MAX_LEGACY_BYTES: Final = 64 << 20
_CHUNK: Final = 1 << 20
_LEGACY, _HASHED = b"Ed", b"ED"
_TRUSTED: Final = "trusted comment: "


def verify_minisign(content: BinaryIO, signature: bytes, *, public_key: str, progress: Progress) -> ValidSignature:
    """Check a minisign signature over a whole file.

    Args:
        content: an open file; read from its start, left at its start.
        signature: the text of the `.minisig` file.
        public_key: its base64 line (`RW...`).
        progress: asked whether to go on.

    Raises:
        SignatureError: it is no good signature of this key.
        ToolError: `cryptography` is not installed.
        CancelledError: the run was asked to stop.
    """
    if len(signature) > MAX_SIGNATURE_BYTES:
        raise SignatureError(f"the signature is larger than {format_size(MAX_SIGNATURE_BYTES)}")
    key_id, key = _parts(_decoded(public_key, "public key"), (_LEGACY,), 32, "public key")[1:]
    lines = signature.decode("utf-8", "surrogateescape").splitlines()
    if len(lines) < 4 or not lines[2].startswith(_TRUSTED):
        raise SignatureError("the signature file is no minisign signature", hint="its four lines end in .minisig")
    algorithm, signer_id, signed = _parts(_decoded(lines[1], "signature"), (_LEGACY, _HASHED), 64, "signature")
    if signer_id != key_id:
        expected, found = _shown(key_id), _shown(signer_id)
        raise SignatureError(f"the signature is refused: expected one of key {expected}, found one of {found}")
    message = _hashed(content, progress) if algorithm == _HASHED else _whole(content)
    comment = lines[2].removeprefix(_TRUSTED)
    _verify(key, signed, message, "it does not fit these bytes")
    sealed = signed + comment.encode("utf-8", "surrogateescape")
    _verify(key, _decoded(lines[3], "global signature"), sealed, "its trusted comment was changed")
    made = re.search(r"\btimestamp:([0-9]{1,11})\b", comment)
    return ValidSignature(
        kind="minisign",
        key=_shown(key_id),
        signer=_shown(key_id),
        signed_by=escaped(comment[:200]),
        signed_at=int(made[1]) if made else 0,
    )


def _verify(key: bytes, signature: bytes, message: bytes, wrong: str) -> None:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        raise ToolError(
            "a minisign signature must be checked, and `cryptography` is not installed",
            hint="pip install 'doit-fetch[minisign]'",
        ) from error
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise SignatureError(f"the signature is refused: {wrong}") from error


def _decoded(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise SignatureError(f"the minisign {what} is no base64: {escaped(text[:60])!r}") from error


def _parts(data: bytes, algorithms: tuple[bytes, ...], size: int, what: str) -> tuple[bytes, bytes, bytes]:
    """Return algorithm, key id and body."""
    if len(data) != 10 + size or data[:2] not in algorithms:
        raise SignatureError(f"the minisign {what} has {len(data)} bytes of another kind")
    return data[:2], data[2:10], data[10:]


def _shown(key_id: bytes) -> str:
    """Return a key id as minisign prints it: little-endian."""
    return key_id[::-1].hex().upper()


def _hashed(content: BinaryIO, progress: Progress) -> bytes:
    digest = hashlib.blake2b()
    content.seek(0)
    while chunk := content.read(_CHUNK):
        digest.update(chunk)
        progress.check()
    content.seek(0)
    return digest.digest()


def _whole(content: BinaryIO) -> bytes:
    content.seek(0)
    data = content.read(MAX_LEGACY_BYTES + 1)
    content.seek(0)
    if len(data) > MAX_LEGACY_BYTES:
        raise SignatureError(
            f"a legacy minisign signature over more than {format_size(MAX_LEGACY_BYTES)} is not checked"
        )
    return data
