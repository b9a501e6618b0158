"""Records of results in a store: which artifact a recipe key has, who made it, and a signature.

A record is canonical JSON of at most 4 KiB under `ac/<recipe key>`. Content needs no trust, because definitions contain
its digest; a record says which digest a recipe has, so it is believed only if a trusted key signed it. Signing and
verification need PyCA's `cryptography` (extra `store`).
Source: RFC 8785 (canonical JSON); RFC 8032 (Ed25519); RFC 5958 and RFC 8410 (PKCS#8 and SubjectPublicKeyInfo).
"""

from __future__ import annotations

import base64
import binascii
import errno
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tasks_lib.cache.results import identify_url
from tasks_lib.digest import Digest, Integrity
from tasks_lib.errors import SettingError, UntrustedResultError, escape_text
from tasks_lib.network import redacted
from tasks_lib.platforms import ANY_PLATFORM
from tasks_lib.store import MAX_RECORD_BYTES

if TYPE_CHECKING:
    from tasks_lib.ed25519 import PrivateKey, VerifyingKey

#: The version of the format.
VERSION: Final = 1
#: What a signature is over begins with this, so that it is never valid for another kind of document.
DOMAIN: Final = b"doit-fetch-result-v1\0"
#: Largest integer that every reader of JSON reads exactly. Source: RFC 8785 section 3.2.2.3, RFC 7493 section 2.2.
_MAX_INTEGER: Final = (1 << 53) - 1
_KEY: Final = re.compile(r"[0-9a-f]{64}")
_PLATFORM: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MAX_BY: Final = 200
#: What precedes the digest of a URL that may be secret.
_SECRET: Final = "sha256:"
_SIGNATURE_BYTES: Final = 64
#: Bytes that `sig` adds to a record: its names, the base64 of 64 bytes, and a key id.
_ROOM_FOR_SIGNATURE: Final = len(',"sig":{"ed25519":"","keyid":""}') + 88 + 64


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`keyid` is the hex sha256 of the key's SubjectPublicKeyInfo in DER; `ed25519` is base64."""

    keyid: str
    ed25519: str


class Made(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What made a result: the program, the platform as in toolchain keys, and seconds since the epoch."""

    by: str
    platform: str
    at: int


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a recipe key. `urls` are those of `publish_url`, only for downloads."""

    key: str
    integrity: Integrity
    made: Made
    urls: tuple[str, ...] = ()
    signature: Signature | None = None

    def __post_init__(self) -> None:
        made, urls = self.made, self.urls
        if not _KEY.fullmatch(self.key):
            raise ValueError("invalid recipe key: expected 64 lower-case hex digits")
        if self.integrity.digest.algorithm != "sha256" or self.integrity.size > _MAX_INTEGER:
            raise ValueError("invalid artifact: expected a sha256 digest and a size below 2^53")
        if not _PLATFORM.fullmatch(made.platform) or not 0 <= made.at <= _MAX_INTEGER or len(made.by) > _MAX_BY:
            raise ValueError("invalid `made`")
        if any(escape_text(text) != text for text in (made.by, *urls)):  # messages show them
            raise ValueError("invalid text: expected printable characters")
        if list(urls) != sorted(set(urls)):
            raise ValueError("invalid `urls`: expected sorted URLs without duplicates")
        if self.signature is not None:
            _signature_bytes(self.signature)

    def with_urls(self, urls: Iterable[str]) -> Record:
        """Return the unsigned record with more URLs, as definitions write them; as many as a record can hold."""
        record = msgspec.structs.replace(self, signature=None)
        for url in sorted(map(publish_url, urls)):
            more = msgspec.structs.replace(record, urls=tuple(sorted({*record.urls, url})))
            if len(_encode(more)) <= MAX_RECORD_BYTES - _ROOM_FOR_SIGNATURE:
                record = more
        return record

    def encode(self) -> bytes:
        """Return the record as canonical JSON.

        Raises:
            ValueError: it is larger than 4 KiB, or a text is not valid Unicode.
        """
        data = _encode(self)
        if len(data) > MAX_RECORD_BYTES:
            raise ValueError(f"the record has {len(data)} bytes, expected at most {MAX_RECORD_BYTES}")
        return data

    @property
    def signed_bytes(self) -> bytes:
        """What a signature of this record is over."""
        return DOMAIN + _encode(msgspec.structs.replace(self, signature=None))


class _RecordedArtifact(msgspec.Struct, forbid_unknown_fields=True):
    sha256: str
    size: int


class _StoredRecord(msgspec.Struct, forbid_unknown_fields=True):
    """The fields of a record in a store."""

    v: int
    key: str
    artifact: _RecordedArtifact
    made: Made
    urls: tuple[str, ...] = ()
    sig: Signature | None = None


def publish_url(url: str) -> str:
    """Return how a record names a URL: as written, or as `sha256:HEX` if its query or userinfo may be secret."""
    return url if redacted(url) == url else f"{_SECRET}{identify_url(url)}"


def recorded_origins(urls: Iterable[str]) -> dict[str, str]:
    """Return the URLs of a record as the origins of a result of the cache: `identify_url` -> what messages show."""
    return {url.removeprefix(_SECRET) if url.startswith(_SECRET) else identify_url(url): url for url in urls}


def published_origins(origins: Mapping[str, str]) -> list[str]:
    """Return the origins of a result of the cache as a record names them; the inverse of `recorded_origins`."""
    return [shown if identify_url(shown) == known else f"{_SECRET}{known}" for known, shown in origins.items()]


def _encode(record: Record) -> bytes:
    """Return canonical JSON. The names of the fields are ASCII, so that their order is the one of RFC 8785."""
    stored: dict[str, Any] = {
        "v": VERSION,
        "key": record.key,
        "artifact": {"sha256": record.integrity.digest.hex, "size": record.integrity.size},
        "made": msgspec.to_builtins(record.made),
    }
    stored |= {"urls": record.urls} if record.urls else {}
    stored |= {"sig": msgspec.to_builtins(record.signature)} if record.signature else {}
    return json.dumps(stored, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def accept_record(data: bytes, *, key: str, platform: str, keys: TrustedKeys | None, store: str) -> Record:
    """Return the record that a store returned for a recipe key, if it can be used.

    `data` has at most `MAX_RECORD_BYTES` + 1 bytes; `key` is the recipe key that was asked for. The record must be for
    this `platform` or for any, and signed by one of `keys`; None trusts any record.

    Raises:
        UntrustedResultError: it is not a record, belongs to another key or platform, or no trusted key signed it.
    """
    try:
        record = parse_record(data)
        if record.key != key:
            raise ValueError(f"it belongs to another recipe key, {record.key[:16]}...")
        if record.made.platform not in (ANY_PLATFORM, platform):
            raise ValueError(f"it is for {record.made.platform}, expected {platform}")
        if keys is not None:
            keys.verify(record)
    except ValueError as error:
        reason = f"store {store}: the result of {key[:16]}... is not used: {escape_text(str(error))}"
        hint = _TRUST_HINT if isinstance(error, _UntrustedKeyError) else ""
        raise UntrustedResultError(reason, store=store, hint=hint) from error
    return record


def parse_record(data: bytes) -> Record:
    """Return the record that a store returned; its signature is not verified.

    The types of the fields bound the depth; comparing with the canonical bytes refuses repeated names, other spellings
    of the same value, and bytes after the end.

    Raises:
        ValueError: it is not canonical JSON with exactly these fields.
    """
    if len(data) > MAX_RECORD_BYTES:
        raise ValueError(f"it is larger than {MAX_RECORD_BYTES} bytes")
    try:
        stored = msgspec.json.decode(data, type=_StoredRecord)
    except ValueError as error:  # msgspec's errors, and UnicodeDecodeError
        raise ValueError(f"it is not a record: {str(error)[:200]}") from error
    if stored.v != VERSION:
        raise ValueError(f"its version is {stored.v}, expected {VERSION}")
    integrity = Integrity(size=stored.artifact.size, digest=Digest("sha256", stored.artifact.sha256))
    record = Record(key=stored.key, integrity=integrity, made=stored.made, urls=stored.urls, signature=stored.sig)
    if record.encode() != data:
        raise ValueError("it is not canonical JSON (RFC 8785)")
    return record


# --- keys -----------------------------------------------------------------------------------------

#: Largest file of a key in bytes, and most files that are read.
_MAX_KEY_BYTES: Final = 16384
_MAX_KEYS: Final = 100
_PEM: Final = "-----BEGIN "
_KEYGEN: Final = "`doit store keygen FILE` or `openssl genpkey -algorithm ed25519` makes a key"


class TrustedKeys:
    """The public keys of a directory, by key id."""

    def __init__(self, keys: Mapping[str, VerifyingKey], files: Mapping[str, str]) -> None:
        self._keys = keys
        self.files: Final = files

    def verify(self, record: Record) -> str:
        """Return the id of the trusted key that signed a record.

        Raises:
            ValueError: it is unsigned, or not signed by one of these keys.
        """
        signature = record.signature
        if signature is None:
            raise _UntrustedKeyError("it is not signed")
        key = self._keys.get(signature.keyid)
        if key is None:
            raise _UntrustedKeyError(f"it is signed by {signature.keyid[:16]}..., which is not in keys/store")
        if not key.has_signed(_signature_bytes(signature), record.signed_bytes):
            raise ValueError(f"its signature by {self.files[signature.keyid]} does not match")
        return signature.keyid


class _UntrustedKeyError(ValueError):
    """A record without a signature of a known key."""


_TRUST_HINT: Final = "add the public key of the writer to fetchdefs/keys/store/, if you trust it"


def load_trusted_keys(directory: Path) -> TrustedKeys:
    """Return the keys in the files `*.pub` of a directory; none if it is missing.

    Raises:
        SettingError: a file is not the PEM of an Ed25519 public key, or `cryptography` is not installed.
    """
    paths = sorted(directory.glob("*.pub"))
    if len(paths) > _MAX_KEYS:
        raise SettingError(
            f"{escape_text(str(directory))} has {len(paths)} keys, expected at most {_MAX_KEYS}",
            hint="remove those of writers that do not write any more",
        )
    own = _require_ed25519("store_trust=signed")
    keys, files = {}, {}
    for path in paths:
        key = _load_public_key(own, path)
        keys[key.keyid], files[key.keyid] = key, escape_text(path.name)
    return TrustedKeys(keys, files)


def _require_ed25519(setting: str) -> ModuleType:
    """Return the module `ed25519`, which makes and verifies signatures; `setting` needs it.

    Raises:
        SettingError: `cryptography` is not installed.
    """
    try:
        from tasks_lib import ed25519  # an optional dependency, and slow to import
    except ImportError as error:
        reason = f"{setting} needs the Python package `cryptography`, which is not installed"
        raise SettingError(reason, hint="pip install 'doit-fetch[store]'") from error
    return ed25519


def _load_public_key(own: ModuleType, path: Path) -> VerifyingKey:
    shown = escape_text(str(path))
    try:
        key: VerifyingKey | None = own.VerifyingKey.from_pem(_read_key_file(path))
    except OSError as error:
        raise SettingError(f"cannot read {shown}: {error.strerror}", hint="check its permissions") from error
    except ValueError as error:
        raise SettingError(f"{shown} is not a public key in PEM", hint=_KEYGEN) from error
    if key is None:
        raise SettingError(f"{shown} is not an Ed25519 public key", hint=_KEYGEN)
    return key


def _read_key_file(path: Path) -> bytes:
    """Return the content of the file of one key.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large, or has more than one key.
    """
    with path.open("rb") as file:
        data = file.read(_MAX_KEY_BYTES + 1)
    if len(data) > _MAX_KEY_BYTES or data.count(_PEM.encode()) > 1:
        raise ValueError("more than one key")
    return data


class SigningKey:
    """A private key, which never appears in a message."""

    def __init__(self, key: PrivateKey) -> None:
        self._key = key
        self.keyid: Final = key.public.keyid

    def sign(self, record: Record) -> Record:
        """Return the record with a signature of this key.

        Raises:
            ValueError: it is too large for a record.
        """
        raw = self._key.sign(record.signed_bytes)
        signature = Signature(self.keyid, base64.b64encode(raw).decode())
        signed = msgspec.structs.replace(record, signature=signature)
        signed.encode()
        return signed


def load_signing_key(value: str) -> SigningKey:
    """Return the key that FETCH_STORE_SIGNING_KEY names: a path, or the PEM text itself.

    Raises:
        SettingError: it is not an unencrypted Ed25519 key in PEM, or `cryptography` is not installed.
    """
    where = "FETCH_STORE_SIGNING_KEY"  # never its value, which may be a key in another spelling
    own = _require_ed25519(where)
    try:
        data = value.strip().encode() + b"\n" if _PEM in value else _read_key_file(Path(value))
        key: PrivateKey | None = own.PrivateKey.from_pem(data)
    except OSError as error:
        hint = "expected a path, or the PEM text of a key"
        raise SettingError(f"cannot read the file that {where} names: {error.strerror}", hint=hint) from error
    except TypeError as error:
        hint = "decrypt it with `openssl pkey -in FILE -out PLAIN`, and let the CI keep that as a secret"
        raise SettingError(f"{where} is encrypted, and no password can be given", hint=hint) from error
    except ValueError as error:
        raise SettingError(f"{where} is not a private key in PEM (PKCS#8)", hint=_KEYGEN) from error
    if key is None:
        raise SettingError(f"{where} is not an Ed25519 key", hint=_KEYGEN)
    return SigningKey(key)


def generate_key(path: Path) -> str:
    """Write a new private key to `path` (0600) and its public key to `path`.pub; return the key id.

    Raises:
        SettingError: a file exists or cannot be written, or `cryptography` is not installed.
    """
    key: PrivateKey = _require_ed25519("`doit store keygen`").PrivateKey.generate()
    public_path = Path(f"{path}.pub")
    try:
        if public_path.exists() or public_path.is_symlink():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(public_path))
        _write_new(path, key.pem, 0o600)
        _write_new(public_path, key.public.pem, 0o644)
    except OSError as error:
        shown = escape_text(str(error.filename or path))
        is_there = isinstance(error, FileExistsError)
        hint = "choose another name; a key is never overwritten" if is_there else "check that its directory exists"
        raise SettingError(f"cannot write {shown}: {error.strerror}", hint=hint) from error
    return key.public.keyid


def _write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a new file, with this mode from its beginning; never follow a link.

    Raises:
        OSError: it exists or cannot be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _signature_bytes(signature: Signature) -> bytes:
    """Return the 64 bytes of a signature.

    Raises:
        ValueError: they are not canonical base64 of 64 bytes, or the key id is invalid.
    """
    try:
        raw = base64.b64decode(signature.ed25519, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("invalid signature: expected base64") from error
    canonical = base64.b64encode(raw).decode() == signature.ed25519
    if len(raw) != _SIGNATURE_BYTES or not canonical or not _KEY.fullmatch(signature.keyid):
        raise ValueError("invalid signature: expected a key id of 64 hex digits and base64 of 64 bytes")
    return raw
