"""Evidence that a download is what upstream published, strongest first. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from tasks_lib.errors import escape_text
from tasks_lib.pins.yaml_style import Value

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
