"""Verification of signatures. Owns gpg, its keyrings and its agents.

Three kinds: OpenPGP (gpg verifies, this package evaluates its status lines), minisign, and lists of digests
(`sha256sum` files). Everything but exactly one good signature of an allowed key is refused; exit statuses of gpg are
ignored. This package fetches nothing.
"""

from tasks_lib.signature.checksum_lists import find_listed_digest
from tasks_lib.signature.gpg import Gpg
from tasks_lib.signature.minisign import verify_minisign
from tasks_lib.signature.packets import MAX_KEYS_BYTES, MAX_SIGNATURE_BYTES
from tasks_lib.signature.status import ValidSignature

__all__ = [
    "MAX_KEYS_BYTES",
    "MAX_SIGNATURE_BYTES",
    "Gpg",
    "ValidSignature",
    "find_listed_digest",
    "verify_minisign",
]
