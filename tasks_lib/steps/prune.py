"""Prune: find cache items that no definition needs, and select which of them to remove.

The decision uses names, sizes and times only. Link counts are not used: they mean nothing for cloned files.
Items that a definition needs are always kept, even if a limit is then exceeded; that is reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from tasks_lib import recipe
from tasks_lib.cache.maintenance import InventoryItem
from tasks_lib.cache.trees import Trees
from tasks_lib.context import Context
from tasks_lib.steps.checks import find_integrity
from tasks_lib.steps.definition_types import load_steps
from tasks_lib.steps.plan import Plan
from tasks_lib.steps.shared_trees import tree_key
from tasks_lib.steps.verify import list_deliveries
from tasks_lib.units import format_age

#: Age in seconds below which every item is kept, unless the user gives an age: a run may be about to use it.
YOUNG_S: Final = 3600.0
#: Kinds that are kept up to that age whatever the user gives: no lease shows whether a run uses them.
_UNLEASED_KINDS: Final = frozenset(("temporary", "lock"))
#: Reasons of items that stay.
YOUNG: Final = "younger than 1 h"
#: Kinds that are never content: they are removed once they are older than that.
_DISPOSABLE_KINDS: Final = frozenset(("temporary", "lock", "quarantine", "format"))
#: Kinds whose last use is recorded.
_KINDS_WITH_USES: Final = frozenset(("blob", "tree"))
_WITHIN: Final = "within the limits"


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneLimits:
    """The limits to enforce; without any, remove every item that no definition needs."""

    older_than_s: float | None = None
    max_size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Referenced:
    """The names of all cache items that some definitions need."""

    keys: frozenset[str]
    digests: frozenset[str]
    artifacts: frozenset[str]
    repositories: frozenset[str]
    trees: frozenset[str] = frozenset()

    def holds(self, item: InventoryItem) -> bool:
        """Return whether an item of the cache is needed."""
        if item.kind == "blob":
            return item.name in self.digests
        if item.kind == "partial":
            return item.name.partition(".")[0] in self.digests
        if item.kind == "artifact":
            return item.name in self.artifacts
        by_name = {"result": self.keys, "repository": self.repositories, "tree": self.trees}
        return item.name in by_name.get(item.kind, ())


class PruneDecision(NamedTuple):
    """One item, whether to remove it, and why; `used_s` is when it was last written or used."""

    item: InventoryItem
    goes: bool
    why: str
    used_s: float


class Root(NamedTuple):
    """The plan of a definitions directory under one of the configurations with which it used the cache."""

    plan: Plan
    configuration: recipe.Configuration


def find_referenced(context: Context, roots: Iterable[Root]) -> Referenced:
    """Return the cache items that these roots need: their inputs and their results."""
    keys: set[str] = set()
    digests: set[str] = set()
    artifacts: set[str] = set()
    repositories: set[str] = set()
    roots = list(roots)
    for plan, configuration in roots:
        for artifact in plan.artifacts():
            keys |= {artifact.key, artifact.verdict}
            artifacts.add("/".join(artifact.path.parts[-3:]))
            if artifact.integrity is not None:
                digests.add(artifact.integrity.digest.hex)
        keys.update(layer.key for layer in plan.layers())
        for fetch in plan.definitions.fetches.values():
            steps = load_steps(context, fetch)
            members = steps.list_members(Path(configuration.directory))
            keys |= steps.list_kept_keys() | {recipe.fetch_key(one.integrity) for one in members}
            digests |= {one.integrity.digest.hex for one in members}
            repositories |= steps.list_repositories()
    digests |= {
        result.integrity.digest.hex for key in keys if key and (result := context.cache.result(key)) is not None
    }
    return Referenced(
        keys=frozenset(keys),
        digests=frozenset(digests),
        artifacts=frozenset(artifacts),
        repositories=frozenset(repositories),
        trees=frozenset(_trees(context, roots)),
    )


def _trees(context: Context, roots: Iterable[Root]) -> Iterator[str]:
    """Yield the keys of the cached trees that these roots link from; none for the link mode copy."""
    if not Trees(context.cache).any():
        return
    for plan, configuration in roots:
        for delivery in list_deliveries(plan).values() if configuration.link_mode != "copy" else ():
            integrity = find_integrity(context, delivery.artifact)
            if integrity is not None:
                yield tree_key(configuration, delivery, integrity)


def decide(
    items: Iterable[InventoryItem], reached: Referenced, uses: Mapping[str, int], bounds: PruneLimits, now_s: float
) -> list[PruneDecision]:
    """Return for each item whether to remove it, with the reason."""
    age_of = lru_cache(maxsize=None)(format_age)  # most items of a cache have one of a few ages
    verdicts = []
    items = list(items)
    finished = _find_finished(items)
    for item in items:
        used_s = max(item.written_s, uses.get(item.name, 0)) if item.kind in _KINDS_WITH_USES else item.written_s
        age_s = max(0.0, now_s - used_s)  # a time in the future counts as now
        if reached.holds(item) and item.path not in finished:
            verdicts.append(PruneDecision(item, False, "needed", used_s))
        elif young := _explain_young(item, age_s, bounds):
            verdicts.append(PruneDecision(item, False, young, used_s))
        elif item.kind in _DISPOSABLE_KINDS or item.path in finished:
            verdicts.append(PruneDecision(item, True, f"leftover, {age_of(int(age_s))} old", used_s))
        elif _is_over_age(age_s, bounds):
            why = f"not needed by any definition, last used {age_of(int(age_s))} ago"
            verdicts.append(PruneDecision(item, True, why, used_s))
        else:
            verdicts.append(PruneDecision(item, False, _WITHIN, used_s))
    return verdicts if bounds.max_size is None else _enforce_max_size(verdicts, bounds.max_size, now_s)


def remove(
    verdicts: list[PruneDecision], bounds: PruneLimits, discard: Callable[[InventoryItem], str], now_s: float
) -> tuple[list[PruneDecision], dict[str, str]]:
    """Remove the selected items; return the updated decisions, and path -> reason of each item that had to stay.

    If an item cannot be removed (in use, locked) and a size limit applies, select the next least recently used one.

    Args:
        verdicts: from `decide`.
        bounds: as for `decide`.
        discard: removes an item; returns "" on success, else the reason why the item stays.
        now_s: as for `decide`.

    Raises:
        Whatever `discard` raises.
    """
    kept: dict[str, str] = {}
    tried: set[str] = set()
    while going := [one.item for one in verdicts if one.goes and one.item.path not in tried]:
        for item in going:
            tried.add(item.path)
            why = discard(item)
            if why:
                kept[item.path] = why
        if bounds.max_size is not None:
            current = [one._replace(goes=False, why="stays") if one.item.path in kept else one for one in verdicts]
            verdicts = _enforce_max_size(current, bounds.max_size, now_s)
    return verdicts, kept


def _find_finished(items: list[InventoryItem]) -> frozenset[str]:
    """Return the paths of partial downloads that already exist as a blob: a process was killed before removing them."""
    partials = [item for item in items if item.kind == "partial"]
    blobs = {item.name for item in items if item.kind == "blob"} if partials else ()
    return frozenset(item.path for item in partials if item.name.partition(".")[0] in blobs)


def _explain_young(item: InventoryItem, age_s: float, bounds: PruneLimits) -> str:
    """Return why an item is too young to be removed, "" if it is not; an age that the user gives lifts the hour."""
    if age_s >= YOUNG_S:
        return ""
    if item.kind in _UNLEASED_KINDS:
        return "temporary"
    if bounds.older_than_s is None:
        return YOUNG
    return "younger than --older-than" if age_s < bounds.older_than_s else ""


def _is_over_age(age_s: float, bounds: PruneLimits) -> bool:
    if bounds.older_than_s is not None:
        return age_s >= bounds.older_than_s
    return bounds.max_size is None


def _enforce_max_size(verdicts: list[PruneDecision], max_size: int, now_s: float) -> list[PruneDecision]:
    """Select the least recently used items for removal until the rest fits into `max_size`."""
    names = Counter(one.item.inode for one in verdicts if not one.goes)
    size = total_size(one.item for one in verdicts if not one.goes)
    spare = [place for place, one in enumerate(verdicts) if not one.goes and one.why == _WITHIN]
    for place in sorted(spare, key=lambda place: verdicts[place].used_s):
        if size <= max_size:
            break
        one = verdicts[place]
        why = f"over the size limit, not needed by any definition, last used {format_age(now_s - one.used_s)} ago"
        verdicts[place] = one._replace(goes=True, why=why)
        names[one.item.inode] -= 1
        if not names[one.item.inode]:
            size -= one.item.size
    return verdicts


def total_size(items: Iterable[InventoryItem]) -> int:
    """Return the size in bytes of these items; hard links to one file count once."""
    return sum({item.inode: item.size for item in items}.values())
