"""Fields that authenticate a download beyond its digest. Pure: no I/O."""

from __future__ import annotations

import posixpath
from typing import Any, Final

from tasks_lib.definitions.fields import (
    FINGERPRINT,
    MINISIGN_KEY,
    RELATIVE,
    TEXT,
    check_download_url,
    resolve_url,
)
from tasks_lib.definitions.schema import Field, FieldError, FieldTable, Location, read_table, schema_of
from tasks_lib.definitions.values import (
    Checksums,
    GpgSignature,
    Minisign,
)
from tasks_lib.definitions.yaml_tree import Node

_SIG_URL: Final = "URL of the detached signature; {url} is replaced with the URL of the signed file"
_GPG_KEYS: Final[FieldTable] = {
    "key-path": RELATIVE.needed("add the path of the public key, relative to the repository root").about(
        "file with public keys, relative to the repository root"
    ),
    "fingerprint": FINGERPRINT.about("pins the primary key; without it, any key in the file may sign"),
}
_GPG: Final[FieldTable] = {
    "sig-url": TEXT.needed(
        "add the URL of the detached signature; {url} is replaced with the URL of the signed file"
    ).about(_SIG_URL),
    **_GPG_KEYS,
}
_MINISIGN: Final[FieldTable] = {
    "public-key": MINISIGN_KEY.needed("add the second line of the .pub file (RW...)").about(
        "base64 line of the public key"
    ),
    "sig-url": TEXT.about(f"{_SIG_URL}; {{url}}.minisig by default"),
}
_SIGNED_BY: Final[FieldTable] = {
    "sig-url": TEXT.about(f"{_SIG_URL}; without it, the list is clear-signed"),
    **{key: field._replace(required="") for key, field in _GPG_KEYS.items()},
    "public-key": MINISIGN_KEY.about("base64 line of a minisign public key, instead of key-path"),
}


def read_signature_url(found: dict[str, Any], where: Location, default: str = "") -> str:
    """Return the template of a signature URL, which may contain `{url}`.

    Raises:
        FieldError: the template does not expand to a valid URL.
    """
    text: str = found.get("sig-url", default)
    if not text:
        return ""
    check_download_url(text.replace("{url}", "https://host/file"), ("https", "http", "file"))
    return resolve_url(text, where)


def _gpg(node: Node, where: Location) -> GpgSignature | None:
    found = read_table(node, where, _GPG)
    return _gpg_of(found, where) if found is not None else None


def _gpg_of(found: dict[str, Any], where: Location) -> GpgSignature:
    return GpgSignature(
        sig_url=read_signature_url(found, where),
        key_path=found["key-path"],
        fingerprint=found.get("fingerprint", ""),
        key_file=posixpath.join(where.root, str(found["key-path"])),
    )


def _minisign(node: Node, where: Location) -> Minisign | None:
    found = read_table(node, where, _MINISIGN)
    if found is None:
        return None
    return Minisign(sig_url=read_signature_url(found, where, "{url}.minisig"), public_key=found["public-key"])


def _signed_by(node: Node, where: Location) -> GpgSignature | Minisign | None:
    found = read_table(node, where, _SIGNED_BY)
    if found is None:
        return None
    if ("key-path" in found) == ("public-key" in found):
        raise FieldError("needs exactly one key", "set `key-path:` (OpenPGP) or `public-key:` (minisign)")
    if "key-path" in found:
        return _gpg_of(found, where)
    return Minisign(sig_url=read_signature_url(found, where, "{url}.minisig"), public_key=found["public-key"])


_CHECKSUMS: Final[FieldTable] = {
    "url": TEXT.needed("add the URL of the list").about(
        "URL of a `sha256sum` list; {url} is replaced with the URL of the definition"
    ),
    "signed-by": Field(_signed_by, schema_of(_SIGNED_BY), "key that signed the list").needed(
        "add the key; an unsigned list proves nothing beyond `sha256:`"
    ),
}


def _checksums(node: Node, where: Location) -> Checksums | None:
    found = read_table(node, where, _CHECKSUMS)
    if found is None:
        return None
    url = read_signature_url({"sig-url": found["url"]}, where)
    return Checksums(url=url, signed_by=found["signed-by"])


#: Keys of a `static-url` that authenticate the download beyond its digest.
SIGNATURE_FIELDS: Final[FieldTable] = {
    "gpg-signature": Field(_gpg, schema_of(_GPG), "detached OpenPGP signature to verify"),
    "minisign": Field(_minisign, schema_of(_MINISIGN), "minisign signature to verify"),
    "checksums": Field(_checksums, schema_of(_CHECKSUMS), "signed list of digests that must contain the pinned digest"),
}
