"""A Debian repository of tiny packages, made and signed on the fly; served from a directory."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from tests.archives import Member, tar
from tests.keys import Keyring

#: Date of a suite, unless a test needs another one.
DATE = datetime(2026, 11, 1, 8, 30, tzinfo=UTC)


@dataclass(frozen=True)
class Deb:
    """A binary package; `files` are below the root, `path` is where it is in the repository, "" for the usual place."""

    name: str
    version: str = "1.0"
    architecture: str = "amd64"
    depends: str = ""
    essential: bool = False
    source: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    path: str = ""
    more: str = ""

    @property
    def pool(self) -> str:
        """The path in the repository."""
        bare = self.version.partition(":")[2] or self.version
        return self.path or f"pool/main/{self.name[0]}/{self.name}/{self.name}_{bare}_{self.architecture}.deb"

    @property
    def control(self) -> str:
        """The paragraph in the package."""
        text = f"Package: {self.name}\nVersion: {self.version}\nArchitecture: {self.architecture}\n"
        text += f"Source: {self.source}\n" if self.source else ""
        text += "Essential: yes\n" if self.essential else ""
        text += f"Depends: {self.depends}\n" if self.depends else ""
        return text + f"Maintainer: t <t@example.org>\n{self.more}Description: {self.name}\n more about it\n"

    @property
    def content(self) -> bytes:
        """The file."""
        directories = {f"./{part}/" for name in self.files for part in _parents(name)}
        members = [Member(name, mode=0o755) for name in ["./", *sorted(directories, key=len)]]
        for name, content in sorted(self.files.items()):
            members.append(Member(f"./{name}", content, mode=0o755 if "bin/" in name else 0o644))
        data = tar(members)
        parts = {"debian-binary": b"2.0\n", "control.tar.gz": _gzip(tar([Member("./control", self.control.encode())]))}
        return _ar(parts | {"data.tar.gz": _gzip(data)})

    @property
    def paragraph(self) -> str:
        """The paragraph in an index, without its digest."""
        content = self.content
        return (
            f"{self.control}Filename: {self.pool}\nSize: {len(content)}\n"
            f"MD5sum: {hashlib.md5(content).hexdigest()}\nSHA256: {hashlib.sha256(content).hexdigest()}\n"
        )


@dataclass(kw_only=True)
class DebianMirror:
    """A repository below `root`, signed with the key `signer` of a keyring.

    `by_hash`: whether each index is also, or only, at the path of its digest. `release` changes the text of a Release
    file before it is signed.
    """

    root: Path
    keyring: Keyring
    signer: str = "archive"
    by_hash: Literal["no", "also", "only"] = "also"
    packings: tuple[str, ...] = ("", ".xz", ".gz")
    release: Callable[[str], str] = lambda text: text
    options: tuple[str, ...] = ()  # of gpg, when it signs

    @property
    def url(self) -> str:
        """The URI of the repository."""
        return self.root.absolute().as_uri()

    def publish(
        self,
        debs: Iterable[Deb],
        *,
        suite: str = "stable",
        codename: str = "bookworm",
        date: datetime = DATE,
        architectures: Iterable[str] = ("amd64",),
        component: str = "main",
    ) -> None:
        """Write packages, indexes and InRelease of a suite, which replace those of before; packages stay."""
        debs = list(debs)
        for deb in debs:
            write(self.root / deb.pool, deb.content)
        listed: dict[str, bytes] = {}
        for architecture in architectures:
            chosen = [deb for deb in debs if deb.architecture in (architecture, "all")]
            text = "\n".join(deb.paragraph for deb in chosen).encode()
            for packing in self.packings:
                listed[f"{component}/binary-{architecture}/Packages{packing}"] = pack(text, packing)
            listed.setdefault(f"{component}/binary-{architecture}/Packages", text)
        self.publish_files(
            listed,
            suite,
            f"Suite: {suite}\nCodename: {codename}\nDate: {date:%a, %d %b %Y %H:%M:%S} UTC\n"
            f"Architectures: {' '.join(architectures)}\nComponents: {component}\n",
        )

    def publish_files(self, files: Mapping[str, bytes], suite: str, head: str) -> None:
        """Write index files and the InRelease that lists them."""
        directory = self.root / "dists" / suite
        for path, content in files.items():
            if path.endswith("/Packages") and "" not in self.packings:
                continue  # a mirror lists the digest of the text, but does not have it
            by_hash = f"{path.rpartition('/')[0]}/by-hash/SHA256/{hashlib.sha256(content).hexdigest()}"
            for place in {"no": [path], "also": [path, by_hash], "only": [by_hash]}[self.by_hash]:
                write(directory / place, content)
        lines = "".join(f" {hashlib.sha256(one).hexdigest()} {len(one):8} {path}\n" for path, one in files.items())
        hashed = "" if self.by_hash == "no" else "Acquire-By-Hash: yes\n"
        text = f"Origin: Tests\nLabel: Tests\n{head}{hashed}SHA256:\n{lines}"
        write(directory / "InRelease", self.sign(self.release(text)))

    def sign(self, text: str) -> bytes:
        """Return a clear-signed text."""
        users = [word for name in self.signer.split() for word in ("--local-user", name)]
        return self.keyring.gpg(*self.options, *users, "--clearsign", stdin=text.encode())


def write(path: Path, content: bytes) -> None:
    """Write a file and its directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def pack(text: bytes, packing: str) -> bytes:
    """Return a text as an index that ends with `packing`."""
    if packing == ".xz":
        return lzma.compress(text)
    return _gzip(text) if packing == ".gz" else text


def _gzip(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def _ar(parts: Mapping[str, bytes]) -> bytes:
    """Return an archive in the format of deb(5)."""
    out = io.BytesIO(b"!<arch>\n")
    out.seek(0, io.SEEK_END)
    for name, content in parts.items():
        out.write(f"{name:16}{0:<12}{0:<6}{0:<6}{'100644':8}{len(content):<10}`\n".encode())
        out.write(content + b"\n" * (len(content) % 2))
    return out.getvalue()


def _parents(name: str) -> list[str]:
    parts = name.split("/")[:-1]
    return ["/".join(parts[: end + 1]) for end in range(len(parts))]
