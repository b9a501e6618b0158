"""Locks of Debian packages, and the definitions that they are made for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tasks_lib.debian.lock import (
    Lock,
    LockedFile,
    LockedIndex,
    LockedPackage,
    LockedRelease,
    decode_lock,
    encode_lock,
    parse_lock,
    read_lock,
    require_current,
)
from tasks_lib.definitions import Debian, Definitions, SourceFile, parse
from tasks_lib.definitions.codec import decode, encode
from tasks_lib.errors import DefinitionError, FetchError, LockMismatchError, LockStaleError, UnsafePathError
from tasks_lib.recipe import packages_digest

SHA = "ab" * 32
KEY = "4D64FEC119C2029067D6E791F8D2585B8783D481"
MIRRORS = "groups: {debian: {urls: ['https://deb.example/debian/']}}\n"
FIELDS: dict[str, Any] = {
    "type": "debian",
    "suites": ["bookworm", "bookworm-updates"],
    "architectures": ["amd64"],
    "packages": ["git", "zstd=1.5.4+dfsg2-5"],
    "essential": True,
    "uri": "mirror://debian/",
    "signed-by": [KEY.lower()],
    "key-files": ["keys/debian.asc"],
    "lock": "image.lock",
}


def read(**changes: Any) -> Definitions:
    fields = FIELDS | {key.replace("_", "-"): one for key, one in changes.items()}
    fields = {key: one for key, one in fields.items() if one is not None}
    text = f"image:\n  description: d\n  fetch: {json.dumps(fields)}\n"
    files = [SourceFile(kind="fetch", path="fetchdefs/fetch/a.yml", text=text, directory="/base")]
    return parse([*files, SourceFile(kind="mirrors", path="m.yml", text=MIRRORS, directory="/base")])


def source(**changes: Any) -> Debian:
    found = read(**changes).fetch("image").source
    assert isinstance(found, Debian)
    return found


def test_a_definition() -> None:
    """The paths of keys are relative to the repository root, that of the lock to the YAML file."""
    found = source()
    assert [suite.name for suite in found.suites] == ["bookworm", "bookworm-updates"]
    assert (found.suites[0].uri, found.components, found.signed_by) == ("mirror://debian", ("main",), (KEY,))
    assert (found.key_files, found.lock_file) == (("keys/debian.asc",), "fetchdefs/fetch/image.lock")
    assert (found.essential, found.artifact_name) == (True, "image.tar.zst")
    fetch = read().fetch("image")
    assert decode(encode(fetch)) == fetch


def test_only_essential_packages() -> None:
    """A definition of the essential packages needs no others."""
    assert (source(packages=None).packages, source(packages=None).essential) == ((), True)


def test_a_uri_for_each_suite() -> None:
    """Suites of one definition may have different URIs, and snapshots are below them by default."""
    uris = {"bookworm": "https://a.example/debian/", "bookworm-updates": "https://b.example/@SNAPSHOTID@/debian"}
    one, two = source(uri=uris, snapshot="20261101T000000Z").suites
    assert (one.uri, one.snapshots) == ("https://a.example/debian", "https://a.example/debian/@SNAPSHOTID@")
    assert two.snapshots == two.uri == "https://b.example/@SNAPSHOTID@/debian"


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "no suites": ({"suites": []}, "fetch.suites: is empty: list at least one"),
    "a suite that leaves": ({"suites": ["../x"]}, "invalid suite '../x'"),
    "a flat suite": ({"suites": ["./"]}, "invalid suite './'"),
    "a suite twice": ({"suites": ["a", "a"]}, "a is listed twice"),
    "one word": ({"packages": "git"}, "must be a list"),
    "two versions": ({"packages": ["git=1.0", "zstd", "git=2.0"]}, "`packages` has two versions of git"),
    "an option": ({"packages": ["-o"]}, "invalid package '-o'"),
    "a removal": ({"packages": ["git-"]}, "invalid package 'git-'"),
    "a pattern": ({"packages": ["?essential"]}, "invalid package '?essential'"),
    "a file": ({"packages": ["./a.deb"]}, "invalid package './a.deb'"),
    "all": ({"architectures": ["all"]}, "invalid architecture 'all'"),
    "a component": ({"components": ["main contrib"]}, "invalid component 'main contrib'"),
    "no signer": ({"signed_by": None}, "fetch.signed-by: is missing"),
    "no signers": ({"signed_by": []}, "fetch.signed-by: is empty"),
    "a short key": ({"signed_by": ["F8D2585B8783D481"]}, "expected the full 40 or 64 hex digits"),
    "no keys": ({"key_files": None}, "fetch.key-files: is missing"),
    "no lock": ({"lock": None}, "fetch.lock: is missing"),
    "a lock elsewhere": ({"lock": "../image.lock"}, "contains the component '..'"),
    "a lock that is a YAML file": ({"lock": "a.yml"}, "has the name of a file of definitions"),
    "an unknown group": ({"uri": "mirror://ubuntu/"}, "image.fetch.uri: unknown mirror group 'ubuntu'"),
    "a query": ({"uri": "https://a.example/?x"}, "has a query or a fragment"),
    "a suite without a URI": ({"uri": {"bookworm": "https://a.example/"}}, "no URI for the suite 'bookworm-updates'"),
    "a time": ({"snapshot": "20261101"}, "write it as 20261101T000000Z"),
    "a month": ({"snapshot": "20261301T000000Z"}, "write it as 20261101T000000Z"),
    "no packages": ({"packages": None, "essential": None}, "add `packages:` or `essential: true`"),
    "a URI of an unknown suite": (
        {"uri": {"bookworm": "https://a.example/", "bookworm-update": "https://a.example/"}},
        "`uri` has the unknown suite 'bookworm-update': did you mean bookworm-updates?",
    ),
    "no time": ({"uri": "https://a.example/@SNAPSHOTID@"}, "there is no `snapshot`"),
    "no place for a time": ({"snapshots": "https://a.example/"}, "has no @SNAPSHOTID@"),
    "another kind of artifact": ({"artifact_name": "image.zip"}, "use a .tar.zst name"),
    "an unknown key": ({"recommends": True}, "unknown key"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_faulty_definition(case: str) -> None:
    """A definition that cannot mean what it says is refused with the place and the reason."""
    changes, expected = FAULTS[case]
    with pytest.raises(DefinitionError) as error:
        read(**changes)
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({"uri": "https://other.example/debian"}, True),
        ({"packages": ["zstd=1.5.4+dfsg2-5", "git"]}, True),
        ({"key_files": ["keys/other.asc"]}, True),
        ({"packages": ["git"]}, False),
        ({"suites": ["bookworm"]}, False),
        ({"components": ["main", "contrib"]}, False),
        ({"architectures": ["arm64"]}, False),
        ({"essential": False}, False),
        ({"signed_by": [KEY[::-1]]}, False),
        ({"snapshot": "20261101T000000Z"}, False),
    ],
)
def test_what_makes_a_lock_stale(changes: dict[str, Any], is_same: bool) -> None:
    """A lock is stale when the definition asks for something else, not when it comes from elsewhere."""
    old, new = source(), source(**changes)
    made = msgspec.structs.replace(lock(), definition=packages_digest(old))
    assert (packages_digest(old) == packages_digest(new)) is is_same
    require_current(made, old)
    if not is_same:
        with pytest.raises(LockStaleError, match=r"image\.lock was made for another state of its definition"):
            require_current(made, new)


def package(name: str, **changes: Any) -> LockedPackage:
    fields: dict[str, Any] = {
        "architecture": "amd64", "package": name, "path": f"pool/main/{name}_1%3a1.0_amd64.deb", "release": "bookworm",
        "sha256": SHA, "size": 7, "source": name, "version": "1:1.0",
    }  # fmt: skip
    return LockedPackage(**(fields | changes))


def lock(*packages: LockedPackage) -> Lock:
    release = LockedRelease(
        suite="bookworm",
        uri="mirror://debian",
        codename="bookworm",
        date="2026-11-28T08:00:00Z",
        inrelease=LockedFile(sha256=SHA, size=5),
        signers=(KEY,),
        indexes=(LockedIndex(path="main/binary-amd64/Packages.xz", sha256=SHA, size=6),),
    )
    return Lock(version=1, definition=SHA, releases=(release,), packages=packages)


def test_the_text_of_a_lock(tmp_path: Path) -> None:
    """A lock has sorted keys and one package on each line, and is read as it was written."""
    made = lock(package("git"), package("zstd"))
    text = encode_lock(made)
    lines = text.decode().splitlines()
    assert [line for line in lines if '"package": "git"' in line] == [
        '  {"architecture": "amd64", "package": "git", "path": "pool/main/git_1%3a1.0_amd64.deb", "release": "bookworm",'
        f' "sha256": "{SHA}", "size": 7, "source": "git", "version": "1:1.0"}},'
    ]
    assert list(json.loads(text)) == ["definition", "digest", "packages", "releases", "version"]
    assert text.endswith(b"}\n")
    (tmp_path / "a.lock").write_bytes(text)
    found = read_lock(tmp_path / "a.lock")
    assert msgspec.structs.replace(found, digest="") == made
    assert encode_lock(found) == text


def test_the_digest_of_a_lock() -> None:
    """It is that of the JSON without it, with sorted keys and without blanks; golden for version 1 of the format."""
    fields = json.loads(encode_lock(lock(package("git"), package("zstd", path="pool/\u00e9/zstd.deb"))))
    text = json.dumps(
        {name: value for name, value in fields.items() if name != "digest"},
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
    )
    assert fields["digest"] == hashlib.sha256(text.encode()).hexdigest()
    assert fields["digest"][:16] == "6dd341de4b48fad8"


def test_a_missing_lock(tmp_path: Path) -> None:
    """A lock that does not exist is stale; the message names the command that makes it."""
    with pytest.raises(LockStaleError, match=r"does not exist \[LockStaleError\]\nmake it with: doit update NAME"):
        read_lock(tmp_path / "a.lock")


HOSTILE: dict[str, tuple[str, str, type[FetchError]]] = {
    "not JSON": ("{", "[", LockMismatchError),
    "another version": ('"version": 1', '"version": 2', LockMismatchError),
    "an unknown key": ('"version": 1', '"version": 1, "more": 1', LockMismatchError),
    "a path that leaves": ("pool/main/git", "pool/../../git", UnsafePathError),
    "a path of an index": ("pool/main/git_1%3a1.0_amd64.deb", "Packages", LockMismatchError),
    "an absolute path": ("pool/main/git", "/pool/main/git", UnsafePathError),
    "an index that leaves": ("main/binary", "../main/binary", UnsafePathError),
    "a digest": (f'"sha256": "{SHA}", "size": 7', '"sha256": "ab", "size": 7', LockMismatchError),
    "a size": ('"size": 7', '"size": -7', LockMismatchError),
    "a huge size": ('"size": 7', f'"size": {1 << 63}', LockMismatchError),
    "a name": ('"package": "git"', '"package": "-o"', LockMismatchError),
    "a version": ('"version": "1:1.0"', '"version": "1\\n"', LockMismatchError),
    "an unknown suite": ('"release": "bookworm"', '"release": "sid"', LockMismatchError),
    "another order": ('"package": "git"', '"package": "zzz"', LockMismatchError),
    "two versions of a package": ('"package": "git"', '"package": "zstd"', LockMismatchError),
    "a date": ("2026-11-28T08:00:00Z", "yesterday", LockMismatchError),
    "a month": ("2026-11-28T08:00:00Z", "2026-13-28T08:00:00Z", LockMismatchError),
    "a codename": ('"codename": "bookworm"', '"codename": "bookworm\\nX: y"', LockMismatchError),
    "a suite": ('"suite": "bookworm"', '"suite": ""', LockMismatchError),
    "a signer": (KEY, "me", LockMismatchError),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_lock(case: str) -> None:
    """A text that `doit update` does not write is refused in three lines at most, whatever its digest."""
    old, new, kind = HOSTILE[case]
    text = encode_lock(lock(package("git"), package("zstd"))).decode()
    assert old in text
    with pytest.raises(kind) as error:
        decode_lock(text.replace(old, new, 1).encode(), "a.lock")
    assert len(str(error.value).splitlines()) <= 3


@pytest.mark.parametrize("text", [b"", b"[" * 100_000, b"\xff\xfe", b"null", b"{}"])
def test_a_text_that_is_no_lock(text: bytes) -> None:
    """Any other text is refused, too."""
    with pytest.raises(LockMismatchError):
        parse_lock(text, "a.lock")
