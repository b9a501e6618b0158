"""A project that fetches Debian packages, with a lock that is made without apt and gpg."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from tasks_lib.debian.lock import (
    Lock,
    LockedFile,
    LockedIndex,
    LockedPackage,
    LockedRelease,
    decode_lock,
    encode_lock,
    parse_lock,
)
from tasks_lib.definitions import Debian
from tasks_lib.errors import FetchError
from tasks_lib.incremental.definition_files import load
from tasks_lib.recipe import packages_digest
from tests.debian_mirror import Deb, DebianMirror
from tests.keys import Keyring
from tests.project import DODO, written

LOCK = "fetchdefs/fetch/debs.lock"
GREET = Deb("greet", version="1:2.0", depends="libgreet", files={"usr/bin/greet": b"#!/bin/sh\necho hello\n"})
LIBGREET = Deb("libgreet", files={"usr/lib/libgreet.so": bytes(range(256)) * 8})
DATA = Deb("greet-data", architecture="all", source="greet", files={"usr/share/greet": b"words\n"})
DEBS = (GREET, LIBGREET, DATA)


class UnsignedMirror(DebianMirror):
    """A repository whose InRelease is not signed: fetching reads no signature."""

    def sign(self, text: str) -> bytes:
        """Return the text itself."""
        return text.encode()


def mirror(root: Path, debs: Iterable[Deb] = DEBS, **more: object) -> UnsignedMirror:
    """Return a published repository."""
    found = UnsignedMirror(root=root, keyring=cast("Keyring", None), **more)  # type: ignore[arg-type]
    found.publish(debs)
    return found


def define(uri: str, more: str = "", suites: str = "[stable]") -> str:
    """Return the definition `debs`."""
    return (
        "debs:\n  description: greeters\n  fetch:\n    type: debian\n"
        f"    suites: {suites}\n    architectures: [amd64]\n    packages: [greet]\n    uri: {uri}\n"
        f"    signed-by: [{'A' * 39}B]\n    key-files: key.asc\n    lock: debs.lock\n{more}"
    )


def project(top: Path, text: str, suites: Mapping[str, tuple[Path, Iterable[Deb]]], **files: str) -> Path:
    """Write a project with a definition and its lock: suite -> root of its repository, and its locked packages."""
    written(top, {"dodo.py": DODO, "fetchdefs/fetch/debs.yml": text, **files})
    source = load(top / "fetchdefs").fetches["debs"].source
    assert isinstance(source, Debian)
    packages = [locked(deb, suite) for suite, (_, debs) in suites.items() for deb in debs]
    lock = Lock(
        version=1,
        definition=packages_digest(source),
        releases=tuple(release(root, suite) for suite, (root, _) in suites.items()),
        packages=tuple(sorted(packages, key=lambda one: (one.package, one.architecture))),
    )
    (top / LOCK).write_bytes(encode_lock(lock))
    return top


def locked(deb: Deb, suite: str = "stable") -> LockedPackage:
    """Return the line of a package."""
    return LockedPackage(
        architecture=deb.architecture,
        package=deb.name,
        path=deb.pool,
        release=suite,
        sha256=hashlib.sha256(deb.content).hexdigest(),
        size=len(deb.content),
        source=deb.source or deb.name,
        version=deb.version,
    )


def release(root: Path, suite: str, packing: str = ".xz") -> LockedRelease:
    """Return the release of a published suite; its index may be at the path of its digest only."""
    path = f"main/binary-amd64/Packages{packing}"
    directory = root / "dists" / suite
    lines = [line.split() for line in (directory / "InRelease").read_text().splitlines() if line.startswith(" ")]
    listed = {name: digest for digest, _, name in lines}
    content = next(
        one.read_bytes()
        for one in (directory / path, directory / f"main/binary-amd64/by-hash/SHA256/{listed[path]}")
        if one.exists()
    )
    return LockedRelease(
        suite=suite,
        uri="",
        codename="bookworm",
        date="2026-11-01T08:30:00Z",
        inrelease=LockedFile(sha256="0" * 64, size=0),
        signers=("A" * 39 + "B",),
        indexes=(LockedIndex(path=path, sha256=hashlib.sha256(content).hexdigest(), size=len(content)),),
    )


def edit(top: Path, **changes: object) -> None:
    """Change fields of the lock, and its digest accordingly."""
    path = top / LOCK
    path.write_bytes(encode_lock(msgspec.structs.replace(parse_lock(path.read_bytes(), "lock"), **changes)))


def edit_json(top: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Edit the lock as JSON, and write it as `doit update` does, if that is possible."""
    path = top / LOCK
    lock = json.loads(path.read_text())
    change(lock)
    text = json.dumps(lock).encode()
    with contextlib.suppress(FetchError):
        text = encode_lock(decode_lock(text, "lock"))
    path.write_bytes(text)
