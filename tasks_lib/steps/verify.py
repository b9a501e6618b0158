"""Verify: check the content of the cache and of the build directory, ignoring cached fingerprints.

Blobs and results are read completely, in parallel; an extracted tree is compared with its archive, a published
artifact with its blob. Damaged content goes to quarantine and is reported with the tasks that need it. A repair runs
the steps of those tasks.
"""

from __future__ import annotations

import fnmatch
import multiprocessing
import os
import signal
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from tasks_lib import steps
from tasks_lib.cache import Cache
from tasks_lib.cache.maintenance import InventoryItem
from tasks_lib.cache.trees import Trees
from tasks_lib.context import Context
from tasks_lib.digest import Integrity
from tasks_lib.errors import CacheError, FetchError, SettingError
from tasks_lib.fs.system_calls import usable_cores
from tasks_lib.layout import find_artifact_task
from tasks_lib.progress import Progress, Silent
from tasks_lib.steps.builds import Artifact, Delivery, ToolchainBuild
from tasks_lib.steps.checks import describe_unconfirmed, find_integrity, tree_of
from tasks_lib.steps.definition_types import load_steps
from tasks_lib.steps.extract import compare_delivery, deliver
from tasks_lib.steps.members import obtain_members
from tasks_lib.steps.plan import Plan
from tasks_lib.steps.shared_trees import check_cached_trees, tree_key

if TYPE_CHECKING:
    from tasks_lib.steps.members import Member

#: Maximum number of differences reported for one tree.
_MOST_NAMED: Final = 20


class Damage(NamedTuple):
    """A damaged item; `tasks` need it and can rebuild it."""

    kind: str
    name: str
    reason: str
    tasks: tuple[str, ...]


@dataclass
class VerifyReport:
    """The result of a verification.

    `missing` is not built yet; `unchecked` could not be checked, with the reason; `unconfirmed` is intact, but did not
    come from the URL of its definition.
    """

    checked: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    damaged: list[Damage] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    unconfirmed: list[str] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Verification:
    """A verification for one plan; `names` are task names or globs, empty for all tasks."""

    context: Context
    plan: Plan
    names: Sequence[str]
    progress: Progress

    def run(self, tell: Callable[[Damage], None], *, repair: Literal["no", "yes"] = "no") -> VerifyReport:
        """Check the selected tasks; call `tell` for each damaged item as soon as it is found.

        Args:
            tell: receives each damaged item.
            repair: "yes" to rebuild damaged items.

        Raises:
            SettingError: a name matches no task.
            CacheUnavailableError: the cache cannot be read.
            CancelledError: the run is cancelled.
        """
        report = VerifyReport()
        chosen = self._chosen()
        checks = (self._stored, self._published, self._unpacked, self._delivered)
        for damages in (check(chosen, report) for check in checks):
            damaged = []
            for damage in damages:
                damaged.append(damage)
                tell(damage)
            report.damaged += damaged
            if repair == "yes":
                self._repair(damaged, report)
        report.unconfirmed += self._unconfirmed(chosen)
        return report

    def _unconfirmed(self, chosen: frozenset[str]) -> Iterator[str]:
        for fetch_definition in self.plan.definitions.fetches.values():
            task = f"fetch:{fetch_definition.name}"
            note = describe_unconfirmed(self.context, fetch_definition) if task in chosen else ""
            if note:
                yield f"{task}: {note}"

    # --- selection

    def _chosen(self) -> frozenset[str]:
        """Return the selected tasks.

        Raises:
            SettingError: a name matches no task.
        """
        tasks = [*self._makers(), *list_deliveries(self.plan), *(f"toolchain:{name}" for name in self._toolchains())]
        if not self.names:
            return frozenset(tasks)
        chosen: set[str] = set()
        for name in self.names:
            matches = fnmatch.filter(tasks, name) or [one for one in tasks if one.startswith(f"{name}:")]
            matches = matches or list(filter(None, [find_artifact_task(name, tasks)]))
            if not matches:
                raise SettingError(f"no task matches {name!r}", hint="run `doit list --all` to see all tasks")
            chosen.update(matches)
        return frozenset(chosen)

    def _toolchains(self) -> dict[str, ToolchainBuild]:
        return {name: self.plan.preparation(name) for name in self.plan.definitions.toolchains}

    def _makers(self) -> dict[str, Artifact]:
        """Return task name -> the artifact that it builds."""
        return {artifact.task: artifact for artifact in self.plan.artifacts()}

    def _layers(self) -> Iterator[tuple[str, str, Integrity]]:
        """Yield task, key and integrity of each layer that the cache knows."""
        for name in self.plan.definitions.images:
            for layer in self.plan.image(name).layers:
                result = self.context.cache.result(layer.key)
                if result is not None:
                    yield f"image:{name}", layer.key, result.integrity

    def _needed(self) -> Mapping[str, list[str]]:
        """Return name of a blob or key of a result -> the tasks that need it."""
        needed = defaultdict(list)
        for task, artifact in self._makers().items():
            needed[artifact.key].append(task)
            integrity = find_integrity(self.context, artifact)
            if integrity is not None:
                needed[integrity.digest.hex].append(task)
        for task, members in self._members().items():
            for member in members:
                needed[member.integrity.digest.hex].append(task)
        for task, key, integrity in self._layers():
            needed[key].append(task)
            needed[integrity.digest.hex].append(task)
        return needed

    def _members(self) -> dict[str, list[Member]]:
        """Return task name -> the blobs that the definition of the task consists of, beside its artifact."""
        return {
            f"fetch:{fetch.name}": members
            for fetch in self.plan.definitions.fetches.values()
            if (members := load_steps(self.context, fetch).list_members(Path()))
        }

    # --- checks

    def _stored(self, chosen: frozenset[str], report: VerifyReport) -> Iterator[Damage]:
        """Yield damaged blobs and results."""
        needed = self._needed()
        for task, artifact in self._makers().items() if self.names else ():
            if task in chosen and find_integrity(self.context, artifact) is None:
                report.missing.append(task)
        items = [item for item in self.context.cache.maintenance.items() if item.kind in ("blob", "result")]
        if self.names:
            items = [item for item in items if chosen & set(needed.get(item.name, ()))]
        self.progress.phase("verify", total=sum(item.size for item in items if item.kind == "blob"))
        for item, reason in run_inspections(self.context.cache, items, self.progress):
            if item.kind == "blob":
                self.progress.advance(item.size)
            self.progress.check()
            report.checked[item.kind] += 1
            if reason:
                yield Damage(item.kind, item.name, reason, tuple(needed.get(item.name, ())))

    def _published(self, chosen: frozenset[str], report: VerifyReport) -> Iterator[Damage]:
        """Yield published artifacts that differ from their blob."""
        for task, artifact in self._makers().items():
            integrity = find_integrity(self.context, artifact)
            if task not in chosen or integrity is None or not os.path.lexists(artifact.path):
                continue
            report.checked["artifact"] += 1
            if not self.context.cache.matches(artifact.path, integrity, "afresh"):
                reason = f"its content is not {integrity}"
                self.context.cache.maintenance.set_aside(artifact.path, reason)
                yield Damage("artifact", str(artifact.path), reason, (task,))

    def _unpacked(self, chosen: frozenset[str], report: VerifyReport) -> Iterator[Damage]:
        """Yield cached trees that differ from their archive; the tasks of deliveries linked from them need them."""
        items = (
            [item for item in self.context.cache.maintenance.items() if item.kind == "tree"]
            if Trees(self.context.cache).any()
            else []
        )
        placed: dict[str, list[str]] = defaultdict(list)
        for task, delivery in list_deliveries(self.plan).items() if items else ():
            integrity = find_integrity(self.context, delivery.artifact)
            if integrity is not None and (not self.names or task in chosen):
                key = tree_key(self.context.configuration(), delivery, integrity)
                placed[key] += [task] if tree_of(delivery).key() == delivery.key else []
        items = [item for item in items if not self.names or item.name in placed]
        for item, reason, unjudged in check_cached_trees(self.context, items, self.progress):
            if unjudged:
                report.unchecked.append(f"unpacked tree {item.name}: {unjudged}")
                continue
            report.checked["unpacked tree"] += 1
            if reason:
                yield Damage("unpacked tree", item.name, reason, tuple(placed.get(item.name, ())))

    def _delivered(self, chosen: frozenset[str], report: VerifyReport) -> Iterator[Damage]:
        """Yield trees and placed files that differ from their artifact."""
        worked = {
            one.record
            for preparation in self._toolchains().values()
            for one in preparation.deliveries
            if preparation.worked.exists()
        }
        for task, delivery in list_deliveries(self.plan).items():
            owner = f"toolchain:{task.removeprefix('extract:').partition('/')[0]}"
            if not chosen & {task, owner} or tree_of(delivery).key() != delivery.key:
                continue
            if delivery.record in worked:
                report.unchecked.append(f"{task}: a toolchain command ran in its directory")
                continue
            yield from self._compared(task, delivery, report)

    def _compared(self, task: str, delivery: Delivery, report: VerifyReport) -> Iterator[Damage]:
        try:
            differences = compare_delivery(self.context, delivery, self.progress)
        except FetchError as error:
            report.unchecked.append(f"{task}: {error.message}")
            return
        report.checked["tree"] += 1
        if not differences:
            return
        tree_of(delivery).invalidate(self.progress)
        for path in [path for path, reason in differences.items() if "content" in reason][:_MOST_NAMED]:
            self.context.cache.maintenance.set_aside(
                delivery.destination / path, f"{delivery.destination / path}: content changed"
            )
        lines = [f"{path}: {reason}" for path, reason in differences.items()]
        more = f"; and {len(lines) - _MOST_NAMED} more" if len(lines) > _MOST_NAMED else ""
        yield Damage("tree", str(delivery.destination), "; ".join(lines[:_MOST_NAMED]) + more, (task,))

    def _repair(self, damaged: list[Damage], report: VerifyReport) -> None:
        members = self._members()
        blobs = {damage.name for damage in damaged if damage.kind == "blob"}
        for task in dict.fromkeys(task for damage in damaged for task in damage.tasks):
            try:
                self._obtain(task, [one for one in members.get(task, ()) if one.integrity.digest.hex in blobs])
                rebuild(self.context, self.plan, task, self.progress)
            except FetchError as error:
                report.failed.append(f"{task}: {error.message}")
            else:
                report.repaired.append(task)

    def _obtain(self, task: str, members: list[Member]) -> None:
        if members:
            fetch = self.plan.definitions.fetches[task.partition(":")[2]]
            obtain_members(self.context, fetch, members, self.progress)


#: Bytes that one process reads in the time it takes to start another one.
_WORTH_A_PROCESS: Final = 32 << 20
#: Maximum number of items per batch: small items are read faster than they are sent to a worker.
_CHUNK: Final = 16

#: The cache that a worker inspects; set only in workers, when they start.
_cache: list[Cache] = []


def run_inspections(
    cache: Cache, items: list[InventoryItem], progress: Progress
) -> Iterator[tuple[InventoryItem, str]]:
    """Yield each item with its damage, "" for none, in the order of `items`; see `Cache.inspect`.

    Raises:
        CacheError: a worker process was killed.
        CacheUnavailableError, CancelledError: as `Cache.inspect`.
    """
    workers = min(usable_cores(), len(items), 1 + sum(item.size for item in items) // _WORTH_A_PROCESS)
    if workers < 2:
        for item in items:
            progress.check()
            yield item, cache.maintenance.inspect(item, Silent())
        return
    fork = multiprocessing.get_context("fork")  # workers inherit the cache; it cannot be pickled
    pool = ProcessPoolExecutor(workers, mp_context=fork, initializer=_init_worker, initargs=(cache,))
    try:
        size = max(1, min(_CHUNK, len(items) // (4 * workers)))
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # workers start with it blocked, then ignore it
        try:
            reasons = pool.map(_inspect, items, chunksize=size)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        yield from zip(items, reasons, strict=True)
    except BrokenProcessPool as error:
        raise CacheError("a verification process was killed", hint="check that enough memory is available") from error
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _init_worker(cache: Cache) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all processes; the parent handles it
    threading.Thread(target=_exit_with_parent, name="parent", daemon=True).start()
    _cache.append(cache)


def _exit_with_parent() -> None:
    """Exit this worker when its parent process ends for any reason."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _inspect(item: InventoryItem) -> str:
    return _cache[0].maintenance.inspect(item, Silent())


def list_deliveries(plan: Plan) -> dict[str, Delivery]:
    """Return task name -> delivery; files that a toolchain places itself get a name of the same form."""
    by_task = {f"extract:{fetch.name}": plan.extraction(fetch) for fetch in plan.definitions.fetches.values()}
    for name in plan.definitions.toolchains:
        for one in plan.preparation(name).deliveries:
            by_task[f"extract:{name}/{one.record.stem}"] = one
    return by_task


def rebuild(context: Context, plan: Plan, task: str, progress: Progress) -> None:
    """Run the step of a task; first rebuild inputs that the cache does not have.

    Raises:
        FetchError: as that step; `CacheError` for a task whose command was skipped.
    """
    kind, _, name = task.partition(":")
    if kind in ("fetch", "repack"):
        definition = plan.definitions.fetches[name]
        origin, packed = plan.fetched(definition), plan.repacked(definition)
        steps.fetch(context, definition, origin, progress)
        if kind == "repack" and packed is not None:
            steps.repack(context, definition, origin, packed, progress)
    elif kind == "extract":
        _redeliver(context, plan, list_deliveries(plan)[task], progress)
    elif kind == "image":
        _rebuild_image(context, plan, name, progress)
    else:
        preparation = plan.preparation(name)
        for one in preparation.deliveries:
            if tree_of(one).key() != one.key:
                _redeliver(context, plan, one, progress)
        skipped = steps.build_toolchain(context, preparation, progress)
        if skipped:
            raise CacheError(f"the command was skipped: {skipped}")


def _rebuild_image(context: Context, plan: Plan, name: str, progress: Progress) -> None:
    build = plan.image(name)
    for layer in build.layers:
        for artifact in layer.artifacts:
            _ensure_artifact(context, plan, artifact, progress)
    steps.build_image(context, build, progress)


def _redeliver(context: Context, plan: Plan, delivery: Delivery, progress: Progress) -> None:
    _ensure_artifact(context, plan, delivery.artifact, progress)
    deliver(context, delivery, progress)


def _ensure_artifact(context: Context, plan: Plan, artifact: Artifact, progress: Progress) -> None:
    if artifact.task.startswith("fetch:") or not steps.publish_from_cache(context, artifact):
        rebuild(context, plan, artifact.task, progress)
