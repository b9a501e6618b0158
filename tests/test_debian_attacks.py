"""Attacks on what `doit update` reads for Debian packages: Release files, signatures, indexes, the lock."""

from __future__ import annotations

import dataclasses
import gzip
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks_lib.errors import (
    FetchError,
    IndexDigestError,
    LockMismatchError,
    ReleaseRolledBackError,
    ReleaseSignatureError,
    SignatureError,
    UnresolvableError,
    UnsafePathError,
)
from tests.debian_mirror import DATE, Deb, pack, write
from tests.debian_update import (
    COMMON,
    DEBS,
    LOCK,
    Project,
    change,
    here,
    keys,
    needs_apt,
    read,
    release_of,
    revoked,
)
from tests.keys import keyring

__all__ = ["here", "keys"]


# --- signatures ---------------------------------------------------------------------------------


@needs_apt
def test_several_signers(here: Project) -> None:
    """One good signature by a pinned key suffices; the lock names the pinned keys that signed."""
    dataclasses.replace(here.mirror, signer="stranger archive").publish(DEBS)
    here.update()
    assert read().releases[0].signers == (here.mirror.keyring.fingerprints("archive")[0],)
    dataclasses.replace(here.mirror, signer="second archive").publish(DEBS)
    here.define(keys=("archive", "second"))
    here.update()
    both = sorted(here.mirror.keyring.fingerprints(name)[0] for name in ("archive", "second"))
    assert list(read().releases[0].signers) == both


@needs_apt
@pytest.mark.slow
def test_a_subkey(here: Project) -> None:
    """A subkey of a pinned primary key may sign, as Debian's do; the lock names the primary key."""
    with keyring() as ring:
        ring.gpg("--quick-gen-key", "archive <archive@example.org>", "rsa2048", "cert", "never")
        primary = ring.fingerprints("archive")[0]
        ring.gpg("--quick-add-key", primary, "rsa2048", "sign", "1y")
        here.mirror.keyring = ring
        here.mirror.publish(DEBS)
        here.define()
        here.update()
        assert read().releases[0].signers == (primary,)
        here.define(signed_by=ring.fingerprints("archive")[1:])
        here.refused(ReleaseSignatureError, "is a subkey: pin its primary key")


@needs_apt
def test_a_key_that_expired_later(here: Project) -> None:
    """A key that was valid at the date of the Release file may have expired since."""
    options = ("--faked-system-time", "20200601T000000")
    old = dataclasses.replace(here.mirror, signer="expired", options=options)
    old.publish(DEBS, date=datetime(2020, 6, 1, tzinfo=UTC))
    here.define(keys=("expired",))
    here.update()
    assert read().releases[0].date == "2020-06-01T00:00:00Z"
    old.publish(DEBS, date=datetime(2021, 6, 1, tzinfo=UTC))
    here.refused(ReleaseSignatureError, "expired on 2020-12-31, before the date 2021-06-01 of the file")


def publish(here: Project, **changes: Any) -> None:
    dataclasses.replace(here.mirror, **changes).publish(DEBS)


def wrong_suite(here: Project) -> None:
    here.mirror.publish(DEBS, suite="oldstable", codename="bullseye")
    shutil.copy(release_of(here, "oldstable"), release_of(here))


def revoke(here: Project) -> None:
    publish(here, signer="revoked")
    here.define(keys=("revoked",))
    write(Path("keys/revoked.gpg"), revoked(here.mirror.keyring))


def expire(here: Project) -> None:
    publish(here, signer="expired", options=("--faked-system-time", "20200601T000000"))
    here.define(keys=("expired",))


def sign_with_another(here: Project) -> None:
    publish(here, signer="stranger")
    here.define(key_files=["keys/archive.gpg", "keys/stranger.gpg"])
    write(Path("keys/stranger.gpg"), here.mirror.keyring.public("stranger"))


def sign_as_binary(here: Project) -> None:
    ring, path = here.mirror.keyring, release_of(here)
    path.write_bytes(ring.gpg("--local-user", "archive", "--sign", stdin=b"Suite: stable\n"))


def unsign(here: Project) -> None:
    lines = release_of(here).read_bytes().partition(b"-----BEGIN PGP SIGNATURE")[0].split(b"\n\n", 1)
    release_of(here).write_bytes(lines[1])


def surround(here: Project) -> None:
    release_of(here).write_bytes(b"Suite: stable\n" + release_of(here).read_bytes())


def append(here: Project) -> None:
    release_of(here).write_bytes(release_of(here).read_bytes() * 2)


def twice(here: Project) -> None:
    publish(here, release=lambda text: text.replace("Suite: stable\n", "Suite: stable\nSuite: other\n"))


ATTACKS: dict[str, tuple[Callable[[Project], object], str]] = {
    "unsigned": (unsign, "is not signed"),
    "no InRelease": (lambda here: release_of(here).unlink(), "the suite stable is not signed"),
    "empty": (lambda here: release_of(here).write_bytes(b""), "is not signed"),
    "another form of signature": (sign_as_binary, "is not signed"),
    "a changed text": (lambda here: change(release_of(here), b"Origin: Tests", b"Origin: Tasts"), "does not match"),
    "text before": (surround, "is not signed"),
    "two texts": (append, "is not signed"),
    "a wrong key": (lambda here: publish(here, signer="stranger"), "is not in the key file"),
    "an expired key": (expire, "expired on 2020-12-31, before the date 2026-11-01"),
    "a revoked key": (revoke, "has been revoked"),
    "a key that is not pinned": (sign_with_another, "expected a signature by the pinned key"),
    "a weak digest": (lambda here: publish(here, options=("--digest-algo", "SHA1")), "weak digest SHA-1"),
    "another suite": (wrong_suite, "expected the suite stable, found oldstable or bullseye"),
    "a field twice": (twice, "the field 'Suite' occurs twice"),
    "no date": (lambda here: publish(here, release=lambda text: text.replace("Date:", "Dote:")), "invalid date"),
    "no digests": (lambda here: publish(here, release=lambda text: text.partition("SHA256")[0]), "lists no SHA256"),
    "a strange digest": (lambda here: publish(here, release=lambda text: text.replace(" main/", " x main/", 1)), "invalid line"),
    "no key file": (lambda _here: shutil.rmtree("keys"), "cannot read key file keys/archive.gpg"),
    "a key file without the key": (
        lambda here: write(Path("keys/archive.gpg"), here.mirror.keyring.public("second")), "is not in the key file",
    ),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_on_a_release(here: Project, attack: str) -> None:
    """A Release file that is not signed as required is refused, whatever it says; the lock stays as it is."""
    attacked, expected = ATTACKS[attack]
    write(Path(LOCK), b"")
    Path(LOCK).unlink()
    attacked(here)
    here.refused(ReleaseSignatureError, expected)


def test_a_release_error_is_a_signature_error() -> None:
    """Callers that handle refused signatures handle those of Release files, too."""
    assert issubclass(ReleaseSignatureError, SignatureError)
    assert issubclass(ReleaseRolledBackError, SignatureError)


@needs_apt
def test_a_roll_back(here: Project) -> None:
    """An older, correctly signed state is refused; the same one and a newer one are not."""
    here.update()
    here.mirror.publish(DEBS, date=DATE - timedelta(seconds=1))
    text = here.refused(ReleaseRolledBackError)
    assert "expected 2026-11-01T08:30:00Z or later, found 2026-11-01T08:29:59Z" in text
    here.define(packages=["other"])  # a stale lock knows how old a suite may be, too
    here.refused(ReleaseRolledBackError)
    here.mirror.publish(DEBS, date=DATE)
    assert here.update().state == "updated"


@needs_apt
def test_a_damaged_lock(here: Project) -> None:
    """A lock that cannot be read is not replaced, because a roll-back would not be noticed."""
    here.update()
    change(Path(LOCK), b'"version": 1\n', b'"version": 1\n<<<<<<<')
    here.refused(LockMismatchError, "restore it, or delete it")
    Path(LOCK).unlink()
    here.update()
    change(Path(LOCK), b'"pool/', b'"../pool/')
    here.refused(LockMismatchError, f"{LOCK}: unsafe path '../pool/")


@needs_apt
def test_an_edited_lock(here: Project) -> None:
    """An update resolves the packages of an edited lock again, and compares the dates that it has."""
    here.update()
    text = Path(LOCK).read_bytes()
    change(Path(LOCK), b'"version": "1.4"', b'"version": "1.3"')
    assert here.update().changes == {"libhello:amd64": ("1.3", "1.4")}
    assert Path(LOCK).read_bytes() == text
    change(Path(LOCK), b'"version": "1.4"', b'"version": "1.3"')
    here.mirror.publish(DEBS, date=DATE - timedelta(seconds=1))
    here.refused(ReleaseRolledBackError)


# --- indexes ------------------------------------------------------------------------------------

INDEX = "dists/stable/main/binary-amd64/"


def each_index(here: Project, work: Callable[[Path], object]) -> None:
    for path in Path(here.mirror.root, INDEX).rglob("*"):
        if path.is_file():
            work(path)


def swap(path: Path) -> None:
    """Replace an index with another one of the same size, if it is not packed."""
    text = Deb("hello", "9.9").paragraph.encode()
    path.write_bytes(pack(text, path.suffix if path.suffix in (".xz", ".gz") else ""))


BROKEN: dict[str, Callable[[Path], object]] = {
    "swapped": swap,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "empty": lambda path: path.write_bytes(b""),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    "same size": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"#"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_attack_on_an_index(here: Project, case: str) -> None:
    """An index that is not the one of the Release file is refused, wherever the mirror has it."""
    each_index(here, BROKEN[case])
    here.refused(IndexDigestError, "main/binary-amd64/Packages.gz")


def test_a_missing_index(here: Project) -> None:
    """A mirror without an index is an error of the mirror, not an attack."""
    each_index(here, Path.unlink)
    with pytest.raises(FetchError) as error:
        here.update()
    assert not isinstance(error.value, IndexDigestError)


@needs_apt
@pytest.mark.parametrize(
    ("old", "new", "kind", "expected"),
    [
        ("Filename: pool/", "Filename: ../pool/", UnsafePathError, "of stable: unsafe path '../pool/"),
        pytest.param("Filename: pool/", "Filename: /pool/", UnsafePathError, "is absolute", marks=pytest.mark.slow),
        pytest.param("Filename: pool/main/", "Filename: pool/../../", UnsafePathError, "'..'", marks=pytest.mark.slow),
        pytest.param("Filename: pool/", "Filename: pool\\", UnsafePathError, "backslash", marks=pytest.mark.slow),
        ("_amd64.deb", "_amd64/Release", UnresolvableError, "without a .deb: Release"),
        ("SHA256: ", "SHA256: zz", UnresolvableError, "without a SHA256 or without a .deb: hello_1.0_amd64.deb"),
        pytest.param("Size: ", "Size: 99999999999999999999", IndexDigestError, "size", marks=pytest.mark.slow),
        ("Maintainer: ", "Version: 9\nMaintainer: ", IndexDigestError, "occurs twice"),
    ],
)  # fmt: skip
def test_a_hostile_paragraph(here: Project, old: str, new: str, kind: type[FetchError], expected: str) -> None:
    """A signed index is not trusted to have only safe paths and valid fields."""

    class Hostile(Deb):
        @property
        def paragraph(self) -> str:
            text = super().paragraph
            assert old in text
            return text.replace(old, new)

    bad = Hostile("hello", "1.0")
    mirror = here.mirror
    text = f"{bad.paragraph}\n{COMMON.paragraph}".encode()
    mirror.publish_files(
        {"main/binary-amd64/Packages": text},
        "stable",
        "Suite: stable\nDate: Sun, 01 Nov 2026 08:30:00 UTC\nArchitectures: amd64\nComponents: main\n",
    )
    here.refused(kind, expected)


@pytest.mark.parametrize("name", ["?installed", "hello-", "-oDir=x", "~nhello", "Hello"])
def test_a_hostile_name(here: Project, name: str) -> None:
    """The name of an essential package is an argument of apt, and has to be a name."""
    here.mirror.publish([*DEBS, Deb(name, essential=True, path="pool/x.deb")])
    here.define(essential=True)
    here.refused(IndexDigestError, f"invalid package {name!r}")


def test_many_essential_packages(here: Project) -> None:
    """Essential packages are arguments of apt, and no system has thousands of them."""
    here.mirror.publish([*DEBS, *(Deb(f"e{at}", essential=True, path=f"pool/{at}.deb") for at in range(1001))])
    here.define(essential=True)
    here.refused(IndexDigestError, "invalid index of stable: 1001 essential packages, more than 1000")


def test_a_large_index(here: Project) -> None:
    """The size of an index is checked before space is reserved for it."""
    publish(here, release=lambda text: re.sub(r"[0-9]+ (main/.*gz)", rf"{(1 << 30) + 1} \1", text))
    here.refused(IndexDigestError, "Packages.gz has 1073741825 bytes, more than 1073741824")


@pytest.mark.slow
def test_an_index_that_grows(here: Project) -> None:
    """An index of blank lines is read to the largest size of an index only, below the usual limits of archives."""
    content = b"".join([gzip.compress(b"Package: x\n\n"), *[gzip.compress(b"\n" * (64 << 20), 1)] * 17])
    here.mirror.publish_files(
        {"main/binary-amd64/Packages.gz": content},
        "stable",
        "Suite: stable\nDate: Sun, 01 Nov 2026 08:30:00 UTC\nArchitectures: amd64\nComponents: main\n",
    )
    here.refused(IndexDigestError, "more than 1073741824 bytes decompressed")
