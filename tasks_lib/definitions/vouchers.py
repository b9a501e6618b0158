"""Who vouches for bytes beside their digest: the fields `gpg-signature`, `minisign` and `checksums`. Pure: no I/O."""

from __future__ import annotations

import posixpath
from typing import Any, Final

from tasks_lib.definitions.fields import FINGERPRINT, MINISIGN_KEY, RELATIVE, TEXT, checked_url, resolved
from tasks_lib.definitions.tables import Field, FieldError, Table, Where, read_table, schema_of
from tasks_lib.definitions.values import Checksums, GpgSignature, Minisign
from tasks_lib.definitions.yaml_tree import Node

_SIG_URL: Final = "URL of the detached signature; {url} stands for the URL of what is signed"
_GPG_KEYS: Final[Table] = {
    "key-path": RELATIVE.needed("the public key, relative to the repository root").about(
        "file with the public keys, relative to the repository root"
    ),
    "fingerprint": FINGERPRINT.about("pins the primary key; without it every key of the file is allowed"),
}
_GPG: Final[Table] = {"sig-url": TEXT.needed(_SIG_URL).about(_SIG_URL), **_GPG_KEYS}
_MINISIGN: Final[Table] = {
    "public-key": MINISIGN_KEY.needed("the base64 line of the public key, RW...").about(
        "base64 line of the public key"
    ),
    "sig-url": TEXT.about(f"{_SIG_URL}; {{url}}.minisig when it does not say"),
}
_SIGNED_BY: Final[Table] = {
    "sig-url": TEXT.about(f"{_SIG_URL}; without it the list is clear-signed"),
    **{key: field._replace(required="") for key, field in _GPG_KEYS.items()},
    "public-key": MINISIGN_KEY.about("base64 line of a minisign public key, instead of key-path"),
}


def _sig_url(found: dict[str, Any], where: Where, default: str = "") -> str:
    """Return the URL of a signature, with `{url}` in it, that would make a URL.

    Raises:
        FieldError: it would not.
    """
    text: str = found.get("sig-url", default)
    if not text:
        return ""
    checked_url(text.replace("{url}", "https://host/file"), ("https", "http", "file"))
    return resolved(text, where)


def _gpg(node: Node, where: Where) -> GpgSignature | None:
    found = read_table(node, where, _GPG)
    return _gpg_of(found, where) if found is not None else None


def _gpg_of(found: dict[str, Any], where: Where) -> GpgSignature:
    return GpgSignature(
        sig_url=_sig_url(found, where),
        key_path=found["key-path"],
        fingerprint=found.get("fingerprint", ""),
        key_file=posixpath.join(where.root, str(found["key-path"])),
    )


def _minisign(node: Node, where: Where) -> Minisign | None:
    found = read_table(node, where, _MINISIGN)
    if found is None:
        return None
    return Minisign(sig_url=_sig_url(found, where, "{url}.minisig"), public_key=found["public-key"])


def _signed_by(node: Node, where: Where) -> GpgSignature | Minisign | None:
    found = read_table(node, where, _SIGNED_BY)
    if found is None:
        return None
    if ("key-path" in found) == ("public-key" in found):
        raise FieldError("needs one key to believe", "`key-path:` (OpenPGP) or `public-key:` (minisign), not both")
    if "key-path" in found:
        return _gpg_of(found, where)
    return Minisign(sig_url=_sig_url(found, where, "{url}.minisig"), public_key=found["public-key"])


_CHECKSUMS: Final[Table] = {
    "url": TEXT.needed("URL of the list").about("URL of a `sha256sum` list; {url} stands for the definition's URL"),
    "signed-by": Field(_signed_by, schema_of(_SIGNED_BY), "who signed the list").needed(
        "a list that nobody signed proves nothing that `sha256:` does not prove"
    ),
}


def _checksums(node: Node, where: Where) -> Checksums | None:
    found = read_table(node, where, _CHECKSUMS)
    if found is None:
        return None
    url = _sig_url({"sig-url": found["url"]}, where)
    return Checksums(url=url, signed_by=found["signed-by"])


#: Keys of a `static-url`.
VOUCHERS: Final[Table] = {
    "gpg-signature": Field(_gpg, schema_of(_GPG), "detached OpenPGP signature to verify"),
    "minisign": Field(_minisign, schema_of(_MINISIGN), "minisign signature to verify"),
    "checksums": Field(_checksums, schema_of(_CHECKSUMS), "signed list of digests that must agree"),
}
