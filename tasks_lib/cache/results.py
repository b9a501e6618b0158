"""Results (recipe key -> output) and the artifacts that earlier versions of a definition published.

Each result carries a digest of itself, so that a flipped bit never names other bytes.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import json
import os
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from tasks_lib.digest import Digest, Integrity
from tasks_lib.fs import files
from tasks_lib.fs.trust import Trust

Provenance = Mapping[str, str | int | float]


#: Seconds after which a URL that could not be reached may be asked again. Source: issue 17, "at most once a day".
_ASK_AGAIN_S: Final = 24 * 3600
#: Most origins of one result; older ones are dropped.
_MAX_ORIGINS: Final = 64


class Confirmation(enum.Enum):
    """Whether the bytes of a result are known to come from a URL."""

    CONFIRMED = enum.auto()  # they came from it, or nothing is known about their origins
    UNREACHED = enum.auto()  # they came from elsewhere, and the URL was asked in vain
    UNASKED = enum.auto()  # they came from elsewhere


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a recipe key: the integrity of its output, and its provenance.

    `origins` are the URLs from which these bytes came: those of definitions, as written, and the places that were
    asked. `unreached` are URLs of definitions that were asked in vain, with the time in seconds since the epoch. The
    keys are those of `identify_url`, because a query may be secret; the values of `origins` are for messages.
    """

    key: str
    integrity: Integrity
    provenance: Provenance = msgspec.field(default_factory=dict)
    origins: Mapping[str, str] = msgspec.field(default_factory=dict)
    unreached: Mapping[str, int] = msgspec.field(default_factory=dict)

    def confirmation(self, url: str) -> Confirmation:
        """Return whether these bytes are known to come from `url`, as a definition writes it."""
        if not self.origins or self.has_origin(url):
            return Confirmation.CONFIRMED
        return Confirmation.UNREACHED if identify_url(url) in self.unreached else Confirmation.UNASKED

    def is_due(self, url: str, now_s: float) -> bool:
        """Return whether `url` is to be asked for these bytes: it did not confirm them, and was not asked lately."""
        if self.confirmation(url) is Confirmation.CONFIRMED:
            return False
        return not 0 <= now_s - self.unreached.get(identify_url(url), 0) < _ASK_AGAIN_S

    def with_origins(self, provenance: Provenance, origins: Mapping[str, str]) -> Result:
        """Return the result with a new provenance and more origins: URL -> URL without secrets, the main one last."""
        added = {identify_url(url): shown for url, shown in origins.items()}
        known = {identity: shown for identity, shown in self.origins.items() if identity not in added} | added
        return msgspec.structs.replace(
            self,
            provenance=provenance,
            origins=dict(islice(known.items(), max(0, len(known) - _MAX_ORIGINS), None)),
            unreached={identity: at_s for identity, at_s in self.unreached.items() if identity not in added},
        )

    def with_unreached(self, url: str, now_s: float) -> Result:
        """Return the result with the note that `url` was asked in vain."""
        noted = {**self.unreached, identify_url(url): int(now_s)}
        return msgspec.structs.replace(
            self, unreached=dict(islice(noted.items(), max(0, len(noted) - _MAX_ORIGINS), None))
        )

    def has_origin(self, url: str) -> bool:
        """Return whether these bytes came from `url`."""
        return identify_url(url) in self.origins

    @property
    def origin(self) -> str:
        """The URL from which these bytes came last, without its secrets."""
        return list(self.origins.values())[-1] if self.origins else ""


_encode: Final = json.JSONEncoder(sort_keys=True).encode


def identify_url(url: str) -> str:
    """Return a digest of a URL: equal for equal URLs, without their secrets."""
    return hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def encode(result: Result) -> str:
    """Return the content of the file of a result."""
    stored: dict[str, object] = {
        "size": result.integrity.size,
        "digest": str(result.integrity.digest),
        "provenance": dict(result.provenance),
    }
    # an array keeps the order
    stored |= {"origins": list(result.origins.items())} if result.origins else {}
    stored |= {"unreached": dict(result.unreached)} if result.unreached else {}
    text = _encode(stored)
    return f'{{"check": "{_check(result.key, text)}", {text[1:]}\n'


def read(path: str | Path, key: str, trust: Trust) -> Result:
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
        if stored.pop("check") != _check(key, _encode(stored)):
            raise ValueError("checksum mismatch")
        integrity = Integrity(size=stored["size"], digest=Digest.parse(stored["digest"]))
        return Result(
            key=key,
            integrity=integrity,
            provenance=dict(stored["provenance"]),
            origins=dict(stored.get("origins", ())),
            unreached=dict(stored.get("unreached", ())),
        )
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
