"""Copy content and results between the cache and the shared stores, for definitions that are named or for all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

from tasks_lib import recipe
from tasks_lib.cache import Result
from tasks_lib.context import Context
from tasks_lib.digest import Integrity
from tasks_lib.progress import Progress
from tasks_lib.steps.definition_types import load_steps
from tasks_lib.steps.plan import Plan
from tasks_lib.steps.shared_results import adopt_shared_result
from tasks_lib.store import Store
from tasks_lib.store.records import ANY_PLATFORM, published_origins
from tasks_lib.store.upload import Outcome, StoreWriter, make_record

#: Threads that transfer: enough for many small items over one connection each.
_JOBS: Final = 8


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

    def write(pair: tuple[SharedItem, Result]) -> Outcome:
        progress.check()
        item, result = pair
        urls = published_origins(result.origins) if item.integrity is not None else ()
        return writer.write(make_record(item.key, result.integrity, item.platform, urls), dry_run=dry_run)

    with ThreadPoolExecutor(_JOBS) as pool:
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
    with ThreadPoolExecutor(_JOBS) as pool:
        found = list(pool.map(lambda item: _pull(context, item, progress), missing))
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
