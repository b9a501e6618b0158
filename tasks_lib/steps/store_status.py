"""What each shared store can do, asked now: for `doit store`."""

from __future__ import annotations

import contextlib
import io
import time
from email.utils import parsedate_to_datetime
from typing import Final, Literal

from tasks_lib.errors import SettingError, StoreError, TransportError
from tasks_lib.store import EMPTY, Store
from tasks_lib.store.opening import Opening
from tasks_lib.store.records import load_trusted_keys

#: Seconds by which clocks may differ without a word.
_CLOCK_S: Final = 2.0


def describe_stores(opening: Opening) -> tuple[list[str], int]:
    """Return lines about each store and about whose results are used, and 1 if a store does not answer, else 0."""
    lines: list[str] = []
    status = 0
    verdict = opening.verdict
    for member in opening.members():
        store = member.store
        lines.append(f"store {store.address.name}")
        try:
            lines += [f"  {line}" for line in _describe(store, tries="write" if verdict.writes else "read")]
        except StoreError as error:
            reason = error.message.removeprefix(f"store {store.address.name}: ")
            lines.append(f"  {reason}" + (f" ({error.hint})" if error.hint else ""))
            status = 1
    lines.append(f"writes: {'yes' if verdict.writes else 'no'} ({verdict.reason})")
    return [*lines, f"results: {_describe_trust(opening)}"], status


def _describe(store: Store, tries: Literal["read", "write"]) -> list[str]:
    begun = time.monotonic()
    store.probe()
    lines = [f"answers in {1000 * (time.monotonic() - begun):.0f} ms"]
    lines.append(f"lists: {'yes' if store.can_list else 'no'}")
    lines.append(f"writes: {_try_write(store) if tries == 'write' and store.can_write else 'not tried'}")
    transport = store.transport
    if transport is not None:
        location = store.locate("HEAD", EMPTY)
        try:
            answer = transport.send("HEAD", location.url, headers=location.headers)
        except TransportError as error:
            return [*lines, error.message]
        ranges = answer.headers.get("Accept-Ranges", "").strip().lower() == "bytes"
        lines.append(f"ranges: {'yes' if ranges else 'not announced'}")
        lines += _describe_clock(answer.headers.get("Date", ""))
    return lines


def _try_write(store: Store) -> str:
    """Write the empty blob, which every store holds; return what became of it."""
    try:
        store.put(EMPTY, io.BytesIO(), 0)
    except StoreError as error:
        return error.message
    return "accepted"


def _describe_clock(date: str) -> list[str]:
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        apart_s = parsedate_to_datetime(date).timestamp() - time.time()
        return [f"clock: {'the same' if abs(apart_s) <= _CLOCK_S else f'{apart_s:+.0f} s from ours'}"]
    return []


def _describe_trust(opening: Opening) -> str:
    trust = opening.effective_trust
    if trust != "signed":
        return {"any": "any record is believed", "none": "not used (store_trust=none)"}[trust]
    try:
        names = sorted(load_trusted_keys(opening.keys).files.values())
    except SettingError as error:
        return error.message
    return f"signed by {', '.join(names)}" if names else f"no key in {opening.keys}"
