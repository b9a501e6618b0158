"""Results: recipe key -> output integrity and provenance.

Internal to the cache. Each file contains a checksum of itself, so that a flipped bit never selects other content.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from tasks_lib.cache.trust import Trust
from tasks_lib.digest import Digest, Integrity
from tasks_lib.fs import files

Provenance = Mapping[str, str | int | float]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a recipe key: the integrity of its output, and its provenance."""

    key: str
    integrity: Integrity
    provenance: Provenance = msgspec.field(default_factory=dict)


def encoded(result: Result) -> str:
    """Return the content of the file of a result."""
    stored: dict[str, object] = {
        "size": result.integrity.size,
        "digest": str(result.integrity.digest),
        "provenance": dict(result.provenance),
    }
    text = json.dumps(stored, sort_keys=True)
    return f'{{"check": "{_check(result.key, text)}", {text[1:]}\n'


def read(path: Path, key: str, trust: Trust) -> Result:
    """Read the result of `key` from the file at `path`.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: it is damaged, or untrusted users can write to it.
    """
    with files.open_regular(path) as file:
        objection = trust.objection(os.fstat(file.fileno()))
        if objection:
            raise ValueError(objection)
        text = files.text_of(file)
    try:
        stored = json.loads(text)
        if stored.pop("check") != _check(key, json.dumps(stored, sort_keys=True)):
            raise ValueError("checksum mismatch")
        integrity = Integrity(size=stored["size"], digest=Digest.parse(stored["digest"]))
        return Result(key=key, integrity=integrity, provenance=dict(stored["provenance"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("missing or invalid fields") from error


def _check(key: str, text: str) -> str:
    return hashlib.sha256(f"{key} {text}".encode()).hexdigest()
