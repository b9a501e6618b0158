"""Records of results in a store: the exact bytes, hostile bytes, signatures and keys."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from tasks_lib.digest import Digest, Integrity
from tasks_lib.errors import SettingError, UntrustedResultError
from tasks_lib.store import MAX_RECORD_BYTES
from tasks_lib.store.records import (
    Made,
    Record,
    SigningKey,
    accept_record,
    generate_key,
    load_signing_key,
    load_trusted_keys,
    parse_record,
    publish_url,
)
from tests.project import written
from tests.test_program import program

KEY, OTHER = "a" * 64, "b" * 64
SHA = hashlib.sha256(b"content").hexdigest()
URL = "https://origin.example/lib-1.0.tar"
RECORD = Record(
    key=KEY,
    integrity=Integrity(size=7, digest=Digest.sha256(SHA)),
    made=Made(by="doit-fetch 0.1.0", platform="any", at=1_790_000_000),
)
#: The canonical bytes. Source: RFC 8785 section 3.2.3: names sorted, no blanks.
TEXT = (
    f'{{"artifact":{{"sha256":"{SHA}","size":7}},"key":"{KEY}",'
    '"made":{"at":1790000000,"by":"doit-fetch 0.1.0","platform":"any"},"v":1}'
)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Return keys/store with the public key of `tmp_path`/ci."""
    directory = tmp_path / "keys/store"
    directory.mkdir(parents=True)
    generate_key(tmp_path / "ci")
    shutil.copy(tmp_path / "ci.pub", directory)
    return directory


def signer(tmp_path: Path) -> SigningKey:
    return load_signing_key(str(tmp_path / "ci"))


# --- the format ---------------------------------------------------------------------------------


def test_exact_bytes(tmp_path: Path, keys: Path) -> None:
    """A record is canonical JSON with these names; a signature adds `sig`, and its bytes are the documented ones."""
    assert RECORD.encode() == TEXT.encode()
    signed = signer(tmp_path).sign(RECORD)
    public = form.load_pem_public_key((keys / "ci.pub").read_bytes())
    assert isinstance(public, Ed25519PublicKey)
    stored = json.loads(signed.encode())
    assert list(stored) == ["artifact", "key", "made", "sig", "v"]
    signature = base64.b64decode(stored.pop("sig")["ed25519"])
    public.verify(signature, b"doit-fetch-result-v1\0" + TEXT.encode())
    assert parse_record(signed.encode()) == signed


def test_urls(tmp_path: Path) -> None:
    """The record of a download names its URLs; one with a query appears only as a digest."""
    secret = URL + "?token=hunter2"
    record = RECORD.with_urls([URL, secret, URL])
    assert b"hunter2" not in record.encode()
    assert URL.encode() in record.encode()
    again = parse_record(record.encode())
    assert again.urls == tuple(sorted(map(publish_url, (URL, secret))))
    generate_key(tmp_path / "ci")
    full = RECORD.with_urls(f"{URL}/{number:0100}" for number in range(100))
    assert 1 < len(full.urls) < 100
    assert len(signer(tmp_path).sign(full).encode()) <= MAX_RECORD_BYTES


def test_text_of_the_maker_is_escaped_as_in_javascript() -> None:
    """Other characters than `"` and a backslash are written as they are. Source: RFC 8785 section 3.2.2.2."""
    record = msgspec.structs.replace(RECORD, made=Made(by='é"\\', platform="any", at=0))
    assert '"by":"é\\"\\\\"'.encode() in record.encode()
    assert parse_record(record.encode()) == record


def edited(change: Callable[[dict[str, Any]], object]) -> bytes:
    """Return canonical bytes with a change."""
    stored = json.loads(TEXT)
    change(stored)
    return json.dumps(stored, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


HOSTILE = {
    "empty": b"",
    "a page": b"<!DOCTYPE html><html>sign in</html>",
    "not UTF-8": TEXT.encode().replace(b"doit", b"\xff\xfe"),
    "too large": TEXT.encode() + b" " * 5000,
    "blanks": TEXT.replace(":", ": ").encode(),
    "a line feed at the end": TEXT.encode() + b"\n",
    "two documents": TEXT.encode() * 2,
    "byte order mark": b"\xef\xbb\xbf" + TEXT.encode(),
    "a name twice": TEXT.replace('"v":1}', '"v":1,"v":1}').encode(),
    "a nested name twice": TEXT.replace('"size":7', '"size":8,"size":7').encode(),
    "another order": json.dumps(dict(reversed(json.loads(TEXT).items())), separators=(",", ":")).encode(),
    "an escape for a letter": TEXT.replace("doit-fetch 0", "\\u0064oit-fetch 0").encode(),
    "1.0 for an integer": TEXT.replace('"size":7', '"size":7.0').encode(),
    "1e0 for an integer": TEXT.replace('"v":1}', '"v":1e0}').encode(),
    "deep": b"[" * 4000,
    "deep in a field": TEXT.replace('"any"', "[" * 2000 + "]" * 2000).encode(),
    "deep in an unknown field": edited(lambda it: it.update(z=1)).replace(
        b'"z":1', b'"z":' + b"[" * 1500 + b"]" * 1500
    ),
    "a list": b"[]",
    "null": b"null",
    "another version": edited(lambda it: it.update(v=2)),
    "no version": edited(lambda it: it.pop("v")),
    "an unknown field": edited(lambda it: it.update(extra=1)),
    "an unknown nested field": edited(lambda it: it["artifact"].update(tar=1)),
    "an upper-case key": edited(lambda it: it.update(key="A" * 64)),
    "a short key": edited(lambda it: it.update(key="a" * 63)),
    "a path as key": edited(lambda it: it.update(key="../" + "a" * 61)),
    "a number as key": edited(lambda it: it.update(key=1)),
    "an upper-case digest": edited(lambda it: it["artifact"].update(sha256=SHA.upper())),
    "a negative size": edited(lambda it: it["artifact"].update(size=-1)),
    "a huge size": edited(lambda it: it["artifact"].update(size=1 << 53)),
    "a boolean size": edited(lambda it: it["artifact"].update(size=True)),
    "a size as text": edited(lambda it: it["artifact"].update(size="7")),
    "no artifact": edited(lambda it: it.pop("artifact")),
    "a platform with a blank": edited(lambda it: it["made"].update(platform="linux x86")),
    "a negative time": edited(lambda it: it["made"].update(at=-1)),
    "a long maker": edited(lambda it: it["made"].update(by="x" * 300)),
    "a maker with terminal codes": edited(lambda it: it["made"].update(by="\x1b[2J")),
    "a maker with a command of a CI": edited(lambda it: it["made"].update(by="::error::x")),
    "a url with a line separator": edited(lambda it: it.update(urls=["https://h/\u2028"])),
    "empty urls": edited(lambda it: it.update(urls=[])),
    "unsorted urls": edited(lambda it: it.update(urls=["b", "a"])),
    "a url twice": edited(lambda it: it.update(urls=["a", "a"])),
    "urls as text": edited(lambda it: it.update(urls="a")),
    "sig null": edited(lambda it: it.update(sig=None)),
    "a signature that is not base64": edited(lambda it: it.update(sig={"keyid": KEY, "ed25519": "é" * 88})),
    "a short signature": edited(lambda it: it.update(sig={"keyid": KEY, "ed25519": "AAAA"})),
    "a signature with free bits": edited(lambda it: it.update(sig={"keyid": KEY, "ed25519": "A" * 85 + "B=="})),
    "a key id that is a path": edited(lambda it: it.update(sig={"keyid": "../x", "ed25519": "A" * 86 + "=="})),
    "a lone surrogate": TEXT.replace("doit-fetch", "\\ud800").encode(),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes(name: str) -> None:
    """Bytes that are not exactly a record are refused with a message of one printable line."""
    with pytest.raises(UntrustedResultError) as caught:
        accept_record(HOSTILE[name], key=KEY, platform="any", keys=None, store="cache.example")
    assert str(caught.value).startswith("store cache.example: the result of aaaa") and str(caught.value).isprintable()


def test_a_flipped_bit_is_noticed(tmp_path: Path, keys: Path) -> None:
    """A signed record with one bit of any byte changed is refused."""
    trusted, data = load_trusted_keys(keys), signer(tmp_path).sign(RECORD.with_urls([URL])).encode()
    trusted.verify(parse_record(data))
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        with pytest.raises(ValueError):
            trusted.verify(parse_record(bytes(changed)))


# --- trust --------------------------------------------------------------------------------------


def test_signed_result_is_trusted(tmp_path: Path, keys: Path) -> None:
    """A result signed by a key of keys/store is accepted, and says by which."""
    key = signer(tmp_path)
    trusted = load_trusted_keys(keys)
    assert trusted.verify(key.sign(RECORD)) == key.keyid
    assert trusted.files == {key.keyid: "ci.pub"}


def test_unsigned_result(keys: Path) -> None:
    """An unsigned result is refused, with the next step."""
    with pytest.raises(UntrustedResultError, match=r"(?s)not signed.*fetchdefs/keys/store/"):
        accept_record(RECORD.encode(), key=KEY, platform="any", keys=load_trusted_keys(keys), store="s")


def test_key_that_was_removed(tmp_path: Path, keys: Path) -> None:
    """A result of a key that is no longer in keys/store is refused."""
    signed = signer(tmp_path).sign(RECORD)
    (keys / "ci.pub").unlink()
    generate_key(tmp_path / "other")
    shutil.copy(tmp_path / "other.pub", keys)
    with pytest.raises(ValueError, match="not in keys/store"):
        load_trusted_keys(keys).verify(signed)


def test_key_id_of_another_key(tmp_path: Path, keys: Path) -> None:
    """A signature by an unknown key under the id of a trusted one is refused."""
    generate_key(tmp_path / "mallory")
    forged = load_signing_key(str(tmp_path / "mallory")).sign(RECORD)
    assert forged.signature is not None
    claimed = msgspec.structs.replace(forged.signature, keyid=signer(tmp_path).keyid)
    with pytest.raises(ValueError, match="does not match"):
        load_trusted_keys(keys).verify(msgspec.structs.replace(forged, signature=claimed))


def test_signature_of_another_record(tmp_path: Path, keys: Path) -> None:
    """A good signature does not make another record good: each signed field is changed once."""
    signed = signer(tmp_path).sign(RECORD)
    changes: list[dict[str, Any]] = [
        {"key": OTHER},
        {"integrity": Integrity(size=8, digest=Digest.sha256(SHA))},
        {"made": Made(by=RECORD.made.by, platform="linux-x86_64-glibc", at=RECORD.made.at)},
        {"urls": (URL,)},
    ]
    for change in changes:
        with pytest.raises(ValueError, match="does not match"):
            load_trusted_keys(keys).verify(msgspec.structs.replace(signed, **change))


def test_replayed_result(tmp_path: Path, keys: Path) -> None:
    """The signed result of one recipe key is refused under another one."""
    signed = signer(tmp_path).sign(RECORD)
    trusted = load_trusted_keys(keys)
    trusted.verify(signed)
    with pytest.raises(UntrustedResultError, match="another recipe key"):
        accept_record(signed.encode(), key=OTHER, platform="any", keys=trusted, store="s")


@pytest.mark.parametrize(
    ("made_on", "accepted"), [("any", True), ("linux-x86_64-glibc", True), ("linux-x86_64-musl", False)]
)
def test_platform(made_on: str, accepted: bool) -> None:
    """A result is used on its own platform only, unless it is for any."""
    record = msgspec.structs.replace(RECORD, made=Made(by="x", platform=made_on, at=0))
    accept = partial(accept_record, record.encode(), key=KEY, platform="linux-x86_64-glibc", keys=None, store="s")
    if accepted:
        assert accept() == record
        return
    with pytest.raises(UntrustedResultError, match="linux-x86_64-musl"):
        accept()


# --- keys ---------------------------------------------------------------------------------------


def test_keygen(tmp_path: Path) -> None:
    """`keygen` writes a private key that only its owner can read, and its public key; the umask does not matter."""
    before = os.umask(0)
    try:
        keyid = generate_key(tmp_path / "ci")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "ci").stat().st_mode) == 0o600
    assert (tmp_path / "ci").read_text().startswith("-----BEGIN PRIVATE KEY-----\n")
    assert (tmp_path / "ci.pub").read_text().startswith("-----BEGIN PUBLIC KEY-----\n")
    assert load_signing_key(str(tmp_path / "ci")).keyid == keyid


def test_keygen_below_a_project(tmp_path: Path) -> None:
    """A key is written relative to the current directory, not to that of the project above it."""
    below = written(tmp_path, {"fetchdefs/fetch/all.yml": "", "below/x": ""}) / "below"
    done = program(below, "store", "keygen", "ci")
    assert done.returncode == 0, done
    assert sorted(path.name for path in below.iterdir()) == ["ci", "ci.pub", "x"]
    done = program(below, "store", "keygen", "/")
    assert (done.returncode, done.stderr.partition("\n")[0]) == (3, "ERROR: cannot write /: File exists"), done


@pytest.mark.parametrize("name", ["ci", "ci.pub"])
@pytest.mark.parametrize("kind", ["file", "link", "dangling link"])
def test_keygen_never_overwrites(tmp_path: Path, name: str, kind: str) -> None:
    """An existing file or link is left as it is, and no half of a pair is written."""
    if kind == "file":
        (tmp_path / name).write_text("mine")
    else:
        if kind == "link":
            (tmp_path / "target").write_text("mine")
        (tmp_path / name).symlink_to(tmp_path / "target")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SettingError, match="never overwritten"):
        generate_key(tmp_path / "ci")
    assert sorted(tmp_path.iterdir()) == before
    assert not before[0].exists() or before[0].read_text() == "mine"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_key_of_openssl(tmp_path: Path) -> None:
    """`openssl genpkey -algorithm ed25519` makes a key that fits; its key id is what openssl and sha256sum print."""
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", tmp_path / "ci"], check=True)
    public = subprocess.run(
        ["openssl", "pkey", "-in", tmp_path / "ci", "-pubout"], capture_output=True, check=True
    ).stdout
    (tmp_path / "ci.pub").write_bytes(public)
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-outform", "DER"], input=public, capture_output=True, check=True
    ).stdout
    key = signer(tmp_path)
    assert key.keyid == hashlib.sha256(der).hexdigest()
    assert load_trusted_keys(tmp_path).verify(key.sign(RECORD)) == key.keyid


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_verifies_our_signature(tmp_path: Path) -> None:
    """Another program verifies a record with the documented bytes."""
    generate_key(tmp_path / "ci")
    signed = signer(tmp_path).sign(RECORD)
    assert signed.signature is not None
    (tmp_path / "signature").write_bytes(base64.b64decode(signed.signature.ed25519))
    (tmp_path / "message").write_bytes(b"doit-fetch-result-v1\0" + TEXT.encode())
    words = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "ci.pub", "-rawin", "-in", "message"]
    done = subprocess.run([*words, "-sigfile", "signature"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Verified Successfully" in done.stdout, done.stderr


def pem(kind: str) -> str:
    """Return a private key that is not accepted."""
    rsa = generate_private_key(65537, 2048)
    password = form.BestAvailableEncryption(b"hunter2") if kind == "encrypted" else form.NoEncryption()
    return rsa.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, password).decode()


def test_signing_key_as_text(tmp_path: Path) -> None:
    """FETCH_STORE_SIGNING_KEY is a path or the PEM text; a missing line feed at its end does not matter."""
    keyid = generate_key(tmp_path / "ci")
    assert load_signing_key((tmp_path / "ci").read_text().strip()).keyid == keyid


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (lambda: pem("encrypted"), "is encrypted"),
        (lambda: pem("rsa"), "not an Ed25519 key"),
        (
            lambda: "-----BEGIN PRIVATE KEY-----\nc2VjcmV0LXRleHQ=\n-----END PRIVATE KEY-----",
            "not a private key in PEM",
        ),
        (lambda: "-----BEGIN PRIVATE KEY-----", "not a private key in PEM"),
        (lambda: "/nothing/here", "No such file"),
        (lambda: "c2VjcmV0LXRleHQ=" * 30, "too long"),
        (lambda: "c2VjcmV0LXRleHQ=", "No such file"),
        (lambda: "/dev/null", "not a private key in PEM"),
        (lambda: "/dev/zero", "not a private key in PEM"),
        (lambda: "/", "Is a directory"),
    ],
    ids=["encrypted", "rsa", "garbage", "truncated", "missing", "long", "only base64", "empty", "endless", "directory"],
)
def test_unusable_signing_keys(value: Callable[[], str], reason: str) -> None:
    """An unusable key is a fault of the setting, whose message does not quote the key."""
    with pytest.raises(SettingError, match=reason) as caught:
        load_signing_key(value())
    assert "c2Vj" not in str(caught.value) and "BEGIN" not in str(caught.value)


def test_unusable_public_keys(tmp_path: Path, keys: Path) -> None:
    """A file in keys/store that is not one Ed25519 public key is named."""
    ours = (keys / "ci.pub").read_bytes()
    rsa = generate_private_key(65537, 2048).public_key()
    rows = {
        "the private half": (tmp_path / "ci").read_bytes(),
        "two keys": ours * 2,
        "rsa": rsa.public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo),
        "large": ours + b"#" * 20000,
        "text": b"not a key",
    }
    for content in rows.values():
        (keys / "x.pub").write_bytes(content)
        with pytest.raises(SettingError, match=r"x\.pub"):
            load_trusted_keys(keys)


def test_no_keys(tmp_path: Path) -> None:
    """Without keys no signature is trusted."""
    generate_key(tmp_path / "ci")
    with pytest.raises(ValueError, match="not in keys/store"):
        load_trusted_keys(tmp_path / "missing").verify(signer(tmp_path).sign(RECORD))


def test_without_cryptography(tmp_path: Path) -> None:
    """Without the extra, signing, checking and keygen are errors of the settings that name it."""
    (tmp_path / "cryptography.py").write_text("raise ImportError('not here')\n")
    code = (
        "from pathlib import Path; from tasks_lib.errors import SettingError; from tasks_lib.store import records\n"
        "for work in (lambda: records.load_trusted_keys(Path('keys')), lambda: records.load_signing_key('x'),"
        " lambda: records.generate_key(Path('k'))):\n"
        "    try:\n        work()\n    except SettingError as error:\n        print(error)\n"
    )
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path.cwd()}"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.count("pip install 'doit-fetch[store]'") == 3
    for setting in ("store_trust=signed", "FETCH_STORE_SIGNING_KEY", "`doit store keygen`"):
        assert setting in done.stdout
