"""Results (recipe key -> output) and the artifacts that earlier versions of a definition published.

Each result carries a digest of itself, so that a flipped bit never names other bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from tasks_lib.digest import Digest, Integrity
from tasks_lib.fs import files
from tasks_lib.fs.trust import Trust

Provenance = Mapping[str, str | int | float]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a recipe key: the integrity of its output, and its provenance."""

    key: str
    integrity: Integrity
    provenance: Provenance = msgspec.field(default_factory=dict)


def encode(result: Result) -> str:
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
        text = files.read_text(file)
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


#: Most artifacts of one name that are returned; each version of a definition leaves one or two.
_MAX_ARTIFACTS: Final = 4


def list_previous_artifacts(root: Path, name: str) -> list[Path]:
    """Return the artifacts that were published for definition `name`, newest first."""
    artifacts: list[tuple[int, Path]] = []
    with contextlib.suppress(OSError):
        for path in (root / "artifacts" / name).glob("*/*"):
            if path.is_file() and not path.is_symlink() and not path.name.startswith("."):
                artifacts.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(artifacts, reverse=True)[:_MAX_ARTIFACTS]]
