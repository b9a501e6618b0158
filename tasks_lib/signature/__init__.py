"""Signatures: whether given bytes are signed as promised. Owns gpg, its keyrings and its agents.

Three kinds on one seam: OpenPGP (gpg does the arithmetic, we judge what it says), minisign, and lists of digests
(`sha256sum` files). Refuses whatever is not plainly one good signature of an allowed key; an exit status is never
believed. Nothing here fetches anything.
"""

from tasks_lib.signature.checksum_lists import listed_digest
from tasks_lib.signature.gpg import Gpg
from tasks_lib.signature.minisign import verify_minisign
from tasks_lib.signature.packets import MAX_KEYS_BYTES, MAX_SIGNATURE_BYTES
from tasks_lib.signature.status import ValidSignature

__all__ = [
    "MAX_KEYS_BYTES",
    "MAX_SIGNATURE_BYTES",
    "Gpg",
    "ValidSignature",
    "listed_digest",
    "verify_minisign",
]
