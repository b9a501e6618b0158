"""Signatures: every row of faults.md section 7, with keys created by the tests."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import subprocess
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tasks_lib.errors import SignatureError, ToolError
from tasks_lib.progress import Silent
from tasks_lib.signature import MAX_KEYS_BYTES, Gpg, ValidSignature, find_listed_digest, verify_minisign
from tasks_lib.signature.packets import key_packets
from tasks_lib.signature.status import Allowed, evaluate_each
from tests.keys import Keyring, keyring

CONTENT = b"the content\n" * 1000


@pytest.fixture(scope="module")
def ring() -> Iterator[Keyring]:
    """Yield the keys of these tests."""
    with keyring() as made:
        made.make("good")
        made.make("other")
        made.make("expired", at="20200101T000000", expires="1y")
        made.make("soon", expires="41d")
        made.make("revoked")
        made.make("parent")
        made.gpg("--quick-add-key", made.fingerprints("parent")[0], "ed25519", "sign")
        made.gpg("--quick-add-key", made.fingerprints("parent")[0], "ed25519", "sign")
        yield made


def checked(
    tmp_path: Path, signature: bytes, keys: bytes, fingerprint: str = "", content: bytes = CONTENT, search: str = ""
) -> ValidSignature:
    """Verify a detached signature."""
    path = tmp_path / "content"
    path.write_bytes(content)
    with path.open("rb", buffering=0) as file:
        gpg = Gpg(search or os.environ["PATH"])
        verdict = gpg.verify(file, signature, keys=keys, fingerprint=fingerprint, progress=Silent())
        assert file.read() == content
    return verdict


def refused(tmp_path: Path, signature: bytes, keys: bytes, fingerprint: str = "", content: bytes = CONTENT) -> str:
    """Return the error for a refused signature."""
    with pytest.raises(SignatureError) as caught:
        checked(tmp_path, signature, keys, fingerprint, content)
    text = str(caught.value)
    assert len(text.splitlines()) <= 3
    return text


def test_good(ring: Keyring, tmp_path: Path) -> None:
    """A good signature of the pinned key is accepted, with signer, time and expiry."""
    primary = ring.fingerprints("good")[0]
    verdict = checked(tmp_path, ring.sign(CONTENT, "good"), ring.public("good"), primary.lower())
    assert (verdict.key, verdict.signer, verdict.key_expires) == (primary, primary, 0)
    assert verdict.signed_by == "good <good@example.org>"
    assert abs(verdict.signed_at - time.time()) < 300
    assert verdict.facts()["key_expires"] == "never"


def test_armor(ring: Keyring, tmp_path: Path) -> None:
    """Armored signatures and keys are accepted, also several key blocks in one file."""
    signature = ring.gpg("--local-user", "good", "--armor", "--detach-sign", stdin=CONTENT)
    keys = ring.public("other", armor=True) + b"\n" + ring.public("good", armor=True)
    assert checked(tmp_path, signature.replace(b"\n", b"\r\n"), keys).key == ring.fingerprints("good")[0]


def test_armor_that_does_not_end() -> None:
    """A key file of the largest size that only begins blocks is refused; the time is linear in its size."""
    begin = b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n"
    with pytest.raises(SignatureError, match="found invalid armor"):
        key_packets(begin * (MAX_KEYS_BYTES // len(begin)))


def test_days_until_expiry(ring: Keyring, tmp_path: Path) -> None:
    """A valid signature has the days until the key expires."""
    verdict = checked(tmp_path, ring.sign(CONTENT, "soon"), ring.public("soon"))
    assert verdict.days_left(time.time()) in (40, 41)


def test_expired_key(ring: Keyring, tmp_path: Path) -> None:
    """A key that has expired is refused, though gpg exits with 0."""
    signature = ring.sign(CONTENT, "expired", "--faked-system-time", "20200601T000000")
    assert "has expired" in refused(tmp_path, signature, ring.public("expired"))


def test_expired_signature(tmp_path: Path) -> None:
    """A signature with an expiry of its own is refused after it."""
    options = ("--faked-system-time", "20260101T000000", "--default-sig-expire", "1d")
    with keyring() as old:
        old.make("old", at="20250101T000000")
        signature = old.sign(CONTENT, "old", *options)
        assert "the signature itself has expired" in refused(tmp_path, signature, old.public("old"))


def test_revoked_key(tmp_path: Path) -> None:
    """A revoked key is refused, though gpg exits with 0."""
    with keyring() as other:
        primary = other.make("gone")
        signature = other.sign(CONTENT, "gone")
        revocation = (
            (other.home / "openpgp-revocs.d" / f"{primary}.rev").read_text().replace(":-----BEGIN", "-----BEGIN")
        )
        other.gpg("--import", stdin=revocation.encode())
        assert "has been revoked" in refused(tmp_path, signature, other.public("gone"))


@pytest.mark.parametrize("algorithm", ["SHA1", "RIPEMD160"])
def test_weak_digest(ring: Keyring, tmp_path: Path, algorithm: str) -> None:
    """A signature over a weak digest is refused, though gpg calls it good."""
    signature = ring.sign(CONTENT, "good", "--digest-algo", algorithm)
    assert "weak digest" in refused(tmp_path, signature, ring.public("good"))


def test_unknown_key(ring: Keyring, tmp_path: Path) -> None:
    """A signature of a key that is not in the key file is refused, and the error names the key."""
    text = refused(tmp_path, ring.sign(CONTENT, "other"), ring.public("good"))
    assert ring.fingerprints("other")[0] in text and "not in the key file" in text


def test_two_signatures(ring: Keyring, tmp_path: Path) -> None:
    """Two signatures are refused, whether the second one is known or not."""
    both = ring.sign(CONTENT, "good") + ring.sign(CONTENT, "other")
    assert "not in the key file" in refused(tmp_path, both, ring.public("good"))
    assert "found 2" in refused(tmp_path, both, ring.public("good", "other"))
    assert "found 2" in refused(tmp_path, ring.sign(CONTENT, "good") * 2, ring.public("good"))


def test_too_many_signatures(ring: Keyring, tmp_path: Path) -> None:
    """Thousands of signatures are refused before gpg reads them, as is a large file."""
    one = ring.sign(CONTENT, "good")
    assert "more than 16" in refused(tmp_path, one * 17, ring.public("good"))
    assert "larger than 64.0 KiB" in refused(tmp_path, one * 1000, ring.public("good"))
    assert "larger than" in refused(tmp_path, one, ring.public("good") + bytes(MAX_KEYS_BYTES))


def test_wrong_file(ring: Keyring, tmp_path: Path) -> None:
    """A signature over another file, or over changed bytes, is refused."""
    signature = ring.sign(CONTENT, "good")
    assert "does not match the content" in refused(tmp_path, signature, ring.public("good"), content=CONTENT + b"x")


def test_attached_signature(ring: Keyring, tmp_path: Path) -> None:
    """A signed message is refused as detached signature: it would verify its own content."""
    attached = ring.gpg("--local-user", "good", "--sign", stdin=CONTENT)
    stored = ring.gpg("--local-user", "good", "--compress-algo", "none", "--sign", stdin=CONTENT)
    clear = ring.gpg("--local-user", "good", "--clearsign", stdin=CONTENT)
    assert "message with its own content" in refused(tmp_path, attached, ring.public("good"))
    assert "its own content" in refused(tmp_path, stored + ring.sign(CONTENT, "good"), ring.public("good"))
    assert "signed message" in refused(tmp_path, clear, ring.public("good"))


def test_subkey(ring: Keyring, tmp_path: Path) -> None:
    """A signature by a subkey is accepted for its pinned primary key; pinning the subkey is refused."""
    primary, first, _ = ring.fingerprints("parent")
    signature = ring.sign(CONTENT, f"{first}!")
    verdict = checked(tmp_path, signature, ring.public("parent"), primary)
    assert (verdict.key, verdict.signer) == (primary, first)
    assert "is a subkey" in refused(tmp_path, signature, ring.public("parent"), first)


def test_revoked_subkey(tmp_path: Path) -> None:
    """A revoked subkey is refused although its primary key is good."""
    with keyring() as other:
        primary = other.make("parent")
        other.gpg("--quick-add-key", primary, "ed25519", "sign")
        subkey = other.fingerprints("parent")[1]
        signature = other.sign(CONTENT, f"{subkey}!")
        home = ["gpg", "--homedir", str(other.home), "--pinentry-mode", "loopback", "--passphrase", "", "--no-tty"]
        script = b"key 1\nrevkey\ny\n0\n\ny\nsave\n"
        subprocess.run(
            [*home, "--command-fd", "0", "--edit-key", primary], input=script, capture_output=True, check=True
        )
        assert "revoked" in refused(tmp_path, signature, other.public("parent"), primary)


def test_future(ring: Keyring, tmp_path: Path) -> None:
    """A signature made in the future is refused, though gpg calls it good."""
    signature = ring.sign(CONTENT, "good", "--faked-system-time", "20400101T000000")
    assert "in the future, on 2040-01-01" in refused(tmp_path, signature, ring.public("good"))


def test_unpinned_key_in_the_file(ring: Keyring, tmp_path: Path) -> None:
    """A signature by another key in the key file than the pinned one is refused; without a pin all are accepted."""
    keys = ring.public("good", "other")
    signature = ring.sign(CONTENT, "other")
    text = refused(tmp_path, signature, keys, ring.fingerprints("good")[0])
    assert "by the pinned key" in text and ring.fingerprints("other")[0] in text
    assert checked(tmp_path, signature, keys).key == ring.fingerprints("other")[0]
    assert "is not in the key file" in refused(tmp_path, signature, keys, "0" * 40)


@pytest.mark.parametrize(
    "keys", [b"", b"no key", b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n"], ids=["empty", "text", "cut"]
)
def test_no_keys(ring: Keyring, tmp_path: Path, keys: bytes) -> None:
    """A key file without keys is refused."""
    assert "key" in refused(tmp_path, ring.sign(CONTENT, "good"), keys)


def test_secret_key(ring: Keyring, tmp_path: Path) -> None:
    """A secret key in the key file is refused, and never imported."""
    secret = ring.gpg("--export-secret-keys", "good")
    assert "secret key" in refused(tmp_path, ring.sign(CONTENT, "good"), secret)


@pytest.mark.parametrize(
    "signature", [b"", b"<html>", b"\x88", b"\xc2\xff\xff\xff\xff\xff", b"\xc2\xe0x", b"\xcb\x01x"]
)
def test_no_signature(ring: Keyring, tmp_path: Path, signature: bytes) -> None:
    """Data that is not a signature is refused before gpg reads it."""
    refused(tmp_path, signature, ring.public("good"))


def test_gpg_missing(ring: Keyring, tmp_path: Path) -> None:
    """Without gpg, the error says what to install."""
    with pytest.raises(ToolError, match="gpg is not installed"):
        checked(tmp_path, ring.sign(CONTENT, "good"), ring.public("good"), search=str(tmp_path))


@pytest.mark.slow
def test_gpg_hangs(ring: Keyring, tmp_path: Path) -> None:
    """A gpg that hangs is killed with all its children, and reported in one line."""
    program = tmp_path / "gpg"
    program.write_text(f"#!/bin/sh\nsleep 600 & echo $! >{tmp_path}/pid\nwait\n")
    program.chmod(0o755)
    path = tmp_path / "content"
    path.write_bytes(CONTENT)
    with path.open("rb") as file, pytest.raises(ToolError, match="did not finish within 1 s"):
        Gpg(f"{tmp_path}:{os.environ['PATH']}", timeout_s=1).verify(
            file, ring.sign(CONTENT, "good"), keys=ring.public("good"), fingerprint="", progress=Silent()
        )
    child = Path("/proc", (tmp_path / "pid").read_text().strip(), "stat")
    for _ in range(100):
        with contextlib.suppress(FileNotFoundError):
            if child.read_text().rpartition(")")[2].split()[0] != "Z":  # nobody may be there to collect it
                time.sleep(0.05)
                continue
        break
    else:
        pytest.fail("a child of gpg goes on")


def test_user_settings_are_ignored(ring: Keyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Language, homedir and options of the user change nothing."""
    (tmp_path / "gpg.conf").write_text("bogus-option\n")
    for name, value in {"LANG": "de_DE.UTF-8", "LC_ALL": "de_DE.UTF-8", "GNUPGHOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    assert "does not match the content" in refused(tmp_path, ring.sign(b"x", "good"), ring.public("good"))


def test_nothing_is_left(ring: Keyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a directory nor an agent is left after the verification."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    checked(tmp_path, ring.sign(CONTENT, "good"), ring.public("good"))
    assert not list(tmp_path.glob("gpg-*"))
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    assert not [line for line in lines if b"gpg-agent" in line and bytes(tmp_path) in line]


def test_clearsigned(ring: Keyring) -> None:
    """The text of a clear-signed message is the one that gpg verified, not that in the file."""
    signed = ring.gpg("--local-user", "good", "--clearsign", stdin=b"- dashed\nline\n")
    forged = signed.replace(b"line", b"life")
    gpg = Gpg(os.environ["PATH"])
    verdict, text = gpg.verify_clearsigned(
        b"before\n" + signed + b"after\n", keys=ring.public("good"), fingerprint="", progress=Silent()
    )
    assert (verdict.key, text) == (ring.fingerprints("good")[0], b"- dashed\nline\n")
    with pytest.raises(SignatureError, match="does not match the content"):
        gpg.verify_clearsigned(forged, keys=ring.public("good"), fingerprint="", progress=Silent())
    with pytest.raises(SignatureError, match="not signed"):
        gpg.verify_clearsigned(b"plain", keys=ring.public("good"), fingerprint="", progress=Silent())


# --- lists of digests -------------------------------------------------------------------------

DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.mark.parametrize(
    "line",
    [
        f"{DIGEST}  file.tar",
        f"{DIGEST.upper()} *file.tar",
        f"{DIGEST}  ./some/where/file.tar",
        f"SHA256 (file.tar) = {DIGEST}",
        f"{DIGEST} file.tar",
        f"  {DIGEST}  file.tar",
        f"{DIGEST}\tfile.tar",
        f"SHA256(file.tar)= {DIGEST}",
        f"SHA2-256(file.tar)= {DIGEST}",
        f"{'0' * 64}  not-file.tar\n{DIGEST}  file.tar\n{DIGEST}  file.tar\n",
    ],
)
def test_listed(line: str) -> None:
    """All forms of lists that `sha256sum --check` reads are supported, and those that openssl 3 writes."""
    assert find_listed_digest(line.encode(), "file.tar").hex == DIGEST


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no sha256 line"),
        (f"{DIGEST}  other.tar", "no digest of"),
        (f"{DIGEST}  file.tar\n{'0' * 64}  a/file.tar", "two digests of"),
        (f"\\{DIGEST}  x\\nfile.tar", "no digest of"),
        (f"{DIGEST[:-1]}  file.tar", "no sha256 line"),
    ],
)
def test_not_listed(text: str, reason: str) -> None:
    """A name that is missing or ambiguous is refused."""
    with pytest.raises(SignatureError, match=reason):
        find_listed_digest(text.encode(), "file.tar")


# --- minisign ---------------------------------------------------------------------------------


class Minisigner:
    """A minisign key, created according to the published format."""

    def __init__(self, key_id: bytes = b"\x01\x02\x03\x04\x05\x06\x07\x08") -> None:
        self.key_id, self.secret = key_id, Ed25519PrivateKey.generate()
        public = self.secret.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.public_key = base64.b64encode(b"Ed" + key_id + public).decode()

    def sign(self, content: bytes, comment: str = "timestamp:1700000000\tfile:x", algorithm: bytes = b"ED") -> bytes:
        message = hashlib.blake2b(content).digest() if algorithm == b"ED" else content
        signed = self.secret.sign(message)
        sealed = self.secret.sign(signed + comment.encode())
        lines = ["untrusted comment: x", base64.b64encode(algorithm + self.key_id + signed).decode()]
        return "\n".join([*lines, f"trusted comment: {comment}", base64.b64encode(sealed).decode(), ""]).encode()


@pytest.mark.parametrize("algorithm", [b"ED", b"Ed"])
def test_minisign(algorithm: bytes) -> None:
    """Good minisign signatures are accepted, hashed and legacy."""
    signer = Minisigner()
    signature = signer.sign(CONTENT, algorithm=algorithm)
    verdict = verify_minisign(BytesIO(CONTENT), signature, public_key=signer.public_key, progress=Silent())
    assert (verdict.key, verdict.signed_at) == ("0807060504030201", 1700000000)


def test_minisign_published_vector() -> None:
    """The key and signature in minisign's documentation have the expected sizes."""
    public = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"
    with pytest.raises(SignatureError, match="not a minisign signature"):
        verify_minisign(BytesIO(b""), b"x", public_key=public, progress=Silent())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace(b"file:x", b"file:y"), "trusted comment was changed"),
        (lambda text: text.replace(b"trusted comment: ", b"comment: "), "not a minisign signature"),
        (lambda text: b"\n".join(text.split(b"\n")[:2]), "not a minisign signature"),
        (lambda text: text + b"x" * 70_000, "larger than"),
        (
            lambda text: text.replace(base64.b64encode(b"ED" + b"\1")[:4], b"AAAA", 1),
            "invalid minisign signature: 7[0-9] bytes",
        ),
    ],
)
def test_minisign_refused(change: object, reason: str) -> None:
    """A changed signature file is refused."""
    signer = Minisigner()
    assert callable(change)
    with pytest.raises(SignatureError, match=reason):
        verify_minisign(BytesIO(CONTENT), change(signer.sign(CONTENT)), public_key=signer.public_key, progress=Silent())


def test_minisign_other_key_or_content() -> None:
    """Another key, a key with the same id, or other content is refused."""
    signer, other, twin = Minisigner(), Minisigner(b"\x09" * 8), Minisigner()
    for content, key, reason in (
        (CONTENT, other.public_key, "expected one by key 0909090909090909"),
        (CONTENT, twin.public_key, "does not match the content"),
        (b"x", signer.public_key, "does not match the content"),
        (CONTENT, "RW==x", "not valid base64"),
    ):
        with pytest.raises(SignatureError, match=reason):
            verify_minisign(BytesIO(content), signer.sign(CONTENT), public_key=key, progress=Silent())


VALID = f"VALIDSIG {'A' * 40} 2020-01-01 1577836800 0 4 0 22 8 01 {'A' * 40}"


@pytest.mark.parametrize(
    ("lines", "expiry", "expected"),
    [
        (["NEWSIG", "GOODSIG A a", VALID], 0, (1, 0)),
        (["NEWSIG", "EXPKEYSIG A a", VALID], 1600000000, (1, 0)),
        (["NEWSIG", "EXPKEYSIG A a", VALID], 0, (0, 1)),  # the listing does not say when
        (["NEWSIG", "REVKEYSIG A a", VALID], 0, (0, 1)),
        (["NEWSIG", "EXPSIG A a", VALID], 0, (0, 1)),
        (["NEWSIG", "BADSIG A a", "NEWSIG", "GOODSIG A a", VALID], 0, (1, 1)),
        (["NEWSIG", "ERRSIG B 22 8 01 1577836800 9 B", "NEWSIG", "GOODSIG A a", VALID], 0, (1, 1)),
        (["GOODSIG A a", VALID], 0, (0, 0)),
        ([], 0, (0, 0)),
    ],
)
def test_several_signatures(lines: list[str], expiry: int, expected: tuple[int, int]) -> None:
    """Each signature of a text is evaluated on its own; an expired key counts if its expiry is known."""
    allowed = Allowed(primaries=frozenset({"A" * 40}), expiries={"A" * 40: expiry})
    good, refused = evaluate_each(lines, allowed, time.time())
    assert (len(good), len(refused)) == expected
