"""Evidence that a download is what upstream published, strongest first, and the public keys that verify it.

The keys are the files of `fetchdefs/keys`, and one that a command line names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from tasks_lib.errors import FetchError, escape_text
from tasks_lib.pins.yaml_text import Value
from tasks_lib.signature.gpg import read_key_file

SIGNED: Final = "signed"
LISTED: Final = "listed"
API_DIGEST: Final = "api digest"
CACHED: Final = "also in the cache"
FIRST_USE: Final = "first use"
#: A signature or list that proves nothing here, such as a signature by an unknown key.
UNVERIFIED: Final = "unverified"
_ORDER: Final = (SIGNED, LISTED, API_DIGEST, CACHED, FIRST_USE, UNVERIFIED)


class Evidence(NamedTuple):
    """One piece of evidence: its kind, what says so, and the keys that a definition gets from it."""

    kind: str
    detail: str
    fields: Mapping[str, Value] = {}


def rank(found: Iterable[Evidence]) -> list[Evidence]:
    """Return the evidence, strongest first; without any, the first use is all there is."""
    rows = sorted(found, key=lambda one: _ORDER.index(one.kind))
    if all(one.kind == UNVERIFIED for one in rows):
        rows.insert(0, Evidence(FIRST_USE, "nothing else vouches for these bytes"))
    return rows


def format_table(rows: Iterable[Evidence]) -> str:
    """Return the evidence as lines of a table."""
    return "".join(f"  {one.kind:17s}  {escape_text(one.detail)}\n" for one in rows)


def to_json(rows: Iterable[Evidence]) -> list[dict[str, Any]]:
    """Return the evidence as JSON values."""
    return [{"kind": one.kind, "detail": one.detail} for one in rows]


# --- public keys

#: Endings of key files: OpenPGP, and minisign.
SUFFIXES: Final = (".asc", ".gpg", ".pub")
#: The base64 line of a minisign key. Source: minisign, "Public key format": `Ed` as base64.
_MINISIGN: Final = re.compile(rb"^RW[A-Za-z0-9+/]{54}$", re.MULTILINE)


class PublicKey(NamedTuple):
    """A key file: `path` is where it is, or where it is copied when it has verified something; `minisign` its line."""

    path: Path
    content: bytes
    minisign: str = ""

    @property
    def key_path(self) -> str:
        """The value of `key-path:`."""
        return self.path.as_posix()


def load_keys(directory: Path, given: Path | None) -> list[PublicKey]:
    """Return the keys of a directory, after the one that is given.

    Raises:
        FetchError: the given file cannot be read or has no suffix of a key; another file has its name already.
    """
    keys = []
    if given is not None:
        if given.suffix not in SUFFIXES:
            raise FetchError(
                f"cannot tell what kind of key {escape_text(str(given))} is",
                hint=f"name the file *{', *'.join(SUFFIXES)}",
            )
        target = directory / given.name
        key = _load(given, target)
        if target.exists() and target.read_bytes() != key.content:
            raise FetchError(
                f"{escape_text(str(target))} exists and has other content than {escape_text(str(given))}",
                hint="compare the two, and rename one of them",
            )
        keys.append(key)
    own = [path for path in _list(directory) if not keys or path != keys[0].path]
    return keys + [_load(path, path) for path in own]


def _list(directory: Path) -> Iterator[Path]:
    if directory.is_dir():
        yield from sorted(path for path in directory.iterdir() if path.suffix in SUFFIXES and path.is_file())


def _load(file: Path, path: Path) -> PublicKey:
    content = read_key_file(str(file))
    found = _MINISIGN.search(content.replace(b"\r", b"")) if b"-----BEGIN" not in content else None
    return PublicKey(path, content, found[0].decode() if found else "")


def for_minisign(keys: Iterable[PublicKey]) -> list[PublicKey]:
    """Return the minisign keys."""
    return [key for key in keys if key.minisign]


def for_openpgp(keys: Iterable[PublicKey]) -> list[PublicKey]:
    """Return the OpenPGP keys."""
    return [key for key in keys if not key.minisign]
