"""Prune a shared store that can list what it holds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Final, NamedTuple

from tasks_lib.context import Context
from tasks_lib.errors import StoreError, StoreRefusedError
from tasks_lib.steps.plan import Plan
from tasks_lib.steps.transfer import list_shared_items
from tasks_lib.store import EMPTY, MAX_RECORD_BYTES, Store, StoredItem, blob_key, record_key
from tasks_lib.store.records import parse_record

#: Items that are deleted by one request, where the store can do that.
_BATCH: Final = 500


class StorePruning(NamedTuple):
    """What is deleted, and how many items stay."""

    going: list[StoredItem]
    kept: int


def prune_store(context: Context, store: Store, plan: Plan | None, before_s: float, *, dry_run: bool) -> StorePruning:
    """Delete what was written before a time (seconds since the epoch), except for what a plan needs and the empty blob.

    Raises:
        StoreUnavailableError, StoreRefusedError: it cannot list or does not let us delete.
    """
    if not (store.can_list and store.can_write):
        raise StoreRefusedError(f"store {store.address.name} cannot list what it holds", store=store.address.name)
    kept_keys = {EMPTY} | (_needed(context, store, plan) if plan is not None else set())
    items = list(store.list())
    going = [one for one in items if one.modified_s < before_s and one.key not in kept_keys]
    if not dry_run:
        # records first: none may name content that is gone
        keys = sorted((one.key for one in going), key=lambda key: (not key.startswith("ac/"), key))
        for at in range(0, len(keys), _BATCH):
            store.delete(keys[at : at + _BATCH])
    return StorePruning(going, len(items) - len(going))


def _needed(context: Context, store: Store, plan: Plan) -> set[str]:
    """Return the keys of everything that the definitions reach: content, records, and the content that those name."""
    definitions = plan.definitions
    needed: set[str] = set()
    for item in list_shared_items(context, plan, definitions.fetches, definitions.toolchains, store=store):
        needed.add(record_key(item.key))
        needed.update([blob_key(item.integrity.digest.hex)] if item.integrity is not None else _named(store, item.key))
    return needed


def _named(store: Store, key: str) -> Iterable[str]:
    """Return the content that the record of a result names. Its signature does not matter for keeping something."""
    with contextlib.suppress(ValueError, StoreError):
        content = store.read(record_key(key), MAX_RECORD_BYTES)
        if content is not None:
            return {blob_key(parse_record(content).integrity.digest.hex)}
    return ()
