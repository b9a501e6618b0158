"""What `doit store` does: copy content and results to and from the shared stores, describe them, and prune them."""

from __future__ import annotations

import contextlib
import io
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from email.utils import parsedate_to_datetime
from typing import Final, Literal, NamedTuple

from tasks_lib import recipe
from tasks_lib.cache import Result
from tasks_lib.context import Context
from tasks_lib.digest import Integrity
from tasks_lib.errors import SettingError, StoreError, TransportError
from tasks_lib.parallel import open_pool
from tasks_lib.platforms import ANY_PLATFORM
from tasks_lib.progress import Progress, Stoppable
from tasks_lib.steps.artifacts import adopt_shared_result
from tasks_lib.steps.definition_types import load_steps
from tasks_lib.steps.plan import Plan
from tasks_lib.store import EMPTY, MAX_RECORD_BYTES, Store, StoredItem, blob_key, record_key
from tasks_lib.store.opening import Opening
from tasks_lib.store.records import load_trusted_keys, parse_record, published_origins
from tasks_lib.store.upload import Outcome, StoreWriter, make_record

#: Threads that transfer: enough for many small items over one connection each.
_JOBS: Final = 8
#: Items that are deleted by one request, where the store can do that.
_BATCH: Final = 500
#: Seconds by which clocks may differ without a word.
_CLOCK_S: Final = 2.0


class SharedItem(NamedTuple):
    """One artifact: its recipe key, its name, and the pinned integrity, None for what is made.

    `platform` is `any`, or that of this machine for what depends on it.
    """

    key: str
    name: str
    integrity: Integrity | None
    platform: str = ANY_PLATFORM


def list_shared_items(
    context: Context,
    plan: Plan,
    fetches: Iterable[str],
    toolchains: Iterable[str],
    images: Iterable[str] = (),
    *,
    store: Store | None = None,
) -> Iterator[SharedItem]:
    """Yield what the definitions share: each download, each repacked archive or commit, each output, each layer.

    The archive of an image has the bytes of its layers again, and is made from them. The files of a definition that
    consists of several are those that `store` knows, or without it those that are known here or to any store.
    """
    for name in fetches:
        fetch = plan.definitions.fetches[name]
        steps = load_steps(context, fetch)
        for one in steps.find_stored_members(store) if store is not None else steps.find_members():
            yield SharedItem(recipe.fetch_key(one.integrity), one.path, one.integrity)
        shared = [plan.fetched(fetch)] if steps.is_shared else []
        repacked = plan.repacked(fetch)
        for artifact in (*shared, *([repacked] if repacked is not None else [])):
            yield SharedItem(artifact.key, artifact.path.name, artifact.integrity)
    for name in toolchains:
        preparation = plan.preparation(name)
        if preparation.output is not None:
            yield SharedItem(preparation.key, preparation.output.path.name, None, preparation.host.platform)
    layers = ((name, layer) for name in images for layer in plan.image(name).layers)
    yield from (SharedItem(layer.key, f"{layer.what} of {name}", None, layer.platform) for name, layer in layers)


class PushedItems(NamedTuple):
    """Numbers of items: written or to be written, unchanged, not written, and not in the cache."""

    written: int
    unchanged: int
    failed: int
    absent: int


def push(
    context: Context,
    items: Sequence[SharedItem],
    writer: StoreWriter,
    progress: Progress,
    dry_run: Callable[[str], None] | None = None,
) -> PushedItems:
    """Write what the stores lack; a result that came from a store is not written, because it was not made here.

    With `dry_run` nothing is written; it receives the key of each item that would be.

    Raises:
        CacheUnavailableError, CancelledError: the cache cannot be read, or the run is cancelled.
    """
    found = [(item, _find(context, item)) for item in items]
    made = [(item, result) for item, result in found if result is not None and not _is_adopted(item, result)]

    stoppable = Stoppable(progress)

    def write(pair: tuple[SharedItem, Result]) -> Outcome:
        stoppable.check()
        item, result = pair
        urls = published_origins(result.origins) if item.integrity is not None else ()
        return writer.write(make_record(item.key, result.integrity, item.platform, urls), dry_run=dry_run)

    with open_pool(_JOBS, stoppable) as pool:
        outcomes = Counter(pool.map(write, made))
    absent = sum(result is None for _, result in found)
    unchanged = len(found) - absent - outcomes["written"] - outcomes["failed"]
    return PushedItems(outcomes["written"], unchanged, outcomes["failed"], absent)


def _is_adopted(item: SharedItem, result: Result) -> bool:
    return item.integrity is None and "store" in result.provenance


def pull(context: Context, items: Sequence[SharedItem], progress: Progress) -> tuple[int, int]:
    """Bring what the stores have into the cache; return how many items were pulled, and how many they lack.

    Raises:
        CacheUnavailableError, CancelledError, SettingError: as `adopt_shared_result`.
    """
    missing = [item for item in items if _find(context, item) is None]
    stoppable = Stoppable(progress)
    with open_pool(_JOBS, stoppable) as pool:
        found = list(pool.map(lambda item: _pull(context, item, stoppable), missing))
    return sum(found), len(found) - sum(found)


def _pull(context: Context, item: SharedItem, progress: Progress) -> bool:
    progress.check()
    if item.integrity is not None:
        return context.sources.obtain_from_stores(item.name, item.integrity, progress, "origins")
    with context.cache.lock(item.key, progress, item.name):
        return adopt_shared_result(context, item.key, item.name, item.platform, progress)


def _find(context: Context, item: SharedItem) -> Result | None:
    """Return the result of an item whose content the cache has, else None."""
    result = context.cache.result(item.key)
    if result is None and item.integrity is not None:
        result = Result(key=item.key, integrity=item.integrity)
    return result if result is not None and context.cache.has(result.integrity) else None


# --- status -------------------------------------------------------------------------------------


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


# --- prune --------------------------------------------------------------------------------------


class StorePruning(NamedTuple):
    """What is deleted, and how many items stay."""

    going: list[StoredItem]
    kept: int


def prune_store(context: Context, store: Store, plan: Plan | None, before_s: float, *, dry_run: bool) -> StorePruning:
    """Delete what was written before a time (seconds since the epoch), except for what a plan needs and the empty blob.

    Raises:
        StoreUnavailableError, StoreRefusedError: it cannot list or does not let us delete.
    """
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
    own = plan.definitions
    needed: set[str] = set()
    for item in list_shared_items(context, plan, own.fetches, own.toolchains, own.images, store=store):
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
