"""Ed25519 by PyCA's `cryptography`, an optional dependency: importing this module fails without it.

Source: RFC 8032 (Ed25519); RFC 5958 and RFC 8410 (PKCS#8 and SubjectPublicKeyInfo).
"""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)


class VerifyingKey:
    """A public key."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key

    @classmethod
    def from_bytes(cls, raw: bytes) -> VerifyingKey:
        """Return the key of its 32 bytes.

        Raises:
            ValueError: it is not a key.
        """
        return cls(Ed25519PublicKey.from_public_bytes(raw))

    @classmethod
    def from_pem(cls, pem: bytes) -> VerifyingKey | None:
        """Return the key of a PEM text, None for a key of another kind.

        Raises:
            ValueError: it is not a public key in PEM.
        """
        try:
            key = load_pem_public_key(pem)
        except UnsupportedAlgorithm as error:
            raise ValueError(str(error)) from error
        return cls(key) if isinstance(key, Ed25519PublicKey) else None

    @property
    def keyid(self) -> str:
        """Its id, as `openssl pkey -pubin -in FILE.pub -outform DER | sha256sum` prints it."""
        der = self._key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(der).hexdigest()

    @property
    def pem(self) -> bytes:
        """The key as PEM."""
        return self._key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def has_signed(self, signature: bytes, message: bytes) -> bool:
        """Return whether this is a signature of a message by this key."""
        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


class PrivateKey:
    """A private key, which never appears in a message."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> PrivateKey:
        """Return a new key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, pem: bytes) -> PrivateKey | None:
        """Return the key of a PEM text, None for a key of another kind.

        Raises:
            TypeError: it is encrypted.
            ValueError: it is not a private key in PEM.
        """
        try:
            key = load_pem_private_key(pem, password=None)
        except UnsupportedAlgorithm as error:
            raise ValueError(str(error)) from error
        return cls(key) if isinstance(key, Ed25519PrivateKey) else None

    @property
    def public(self) -> VerifyingKey:
        """Its public key."""
        return VerifyingKey(self._key.public_key())

    @property
    def pem(self) -> bytes:
        """The key as unencrypted PEM."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def sign(self, message: bytes) -> bytes:
        """Return the signature of a message."""
        return self._key.sign(message)
