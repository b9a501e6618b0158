"""Results: recipe key -> what it gave. Each carries a digest of itself, so that a flipped bit never names other bytes.

Internal to the store.
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
    """What a recipe key gave: the integrity of its output, and where it came from."""

    key: str
    integrity: Integrity
    provenance: Provenance = msgspec.field(default_factory=dict)


def encoded(result: Result) -> str:
    """Return the text of a result's file."""
    stored: dict[str, object] = {
        "size": result.integrity.size,
        "digest": str(result.integrity.digest),
        "provenance": dict(result.provenance),
    }
    text = json.dumps(stored, sort_keys=True)
    return f'{{"check": "{_check(result.key, text)}", {text[1:]}\n'


def read(path: Path, key: str, trust: Trust) -> Result:
    """Return the result of `key` that stands at `path`.

    Raises:
        OSError: it is not there, or cannot be read.
        ValueError: it is damaged, or others could have written it.
    """
    with files.open_regular(path) as file:
        objection = trust.objection(os.fstat(file.fileno()))
        if objection:
            raise ValueError(objection)
        text = files.text_of(file)
    try:
        stored = json.loads(text)
        if stored.pop("check") != _check(key, json.dumps(stored, sort_keys=True)):
            raise ValueError("it is not what was written")
        integrity = Integrity(size=stored["size"], digest=Digest.parse(stored["digest"]))
        return Result(key=key, integrity=integrity, provenance=dict(stored["provenance"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("it is no result") from error


def _check(key: str, text: str) -> str:
    return hashlib.sha256(f"{key} {text}".encode()).hexdigest()
