"""One task's output made again outside of doit, with whatever of its inputs is not there any more."""

from __future__ import annotations

from tasks_lib.context import Context
from tasks_lib.errors import CacheError
from tasks_lib.progress import Progress
from tasks_lib.steps.artifacts import adopt, fetch, repack
from tasks_lib.steps.extract import deliver, extraction_of
from tasks_lib.steps.plan import Artifact, Delivery, Plan
from tasks_lib.steps.toolchain import build_toolchain


def deliveries(plan: Plan) -> dict[str, Delivery]:
    """Return task -> what it puts into a directory; what a toolchain places itself goes by the same kind of name."""
    found = {f"extract:{fetch.name}": plan.extraction(fetch) for fetch in plan.definitions.fetches.values()}
    for name in plan.definitions.toolchains:
        for one in plan.preparation(name).deliveries:
            found[f"extract:{name}/{one.record.stem}"] = one
    return found


def remake(world: Context, plan: Plan, task: str, progress: Progress) -> None:
    """Run the step of a task; what its input needs is made first where the store does not hold it.

    Raises:
        FetchError: as that step; StoreError for a task that makes nothing.
    """
    kind, _, name = task.partition(":")
    if kind in ("fetch", "repack"):
        definition = plan.definitions.fetches[name]
        origin, packed = plan.fetched(definition), plan.repacked(definition)
        fetch(world, definition, origin, progress)
        if kind == "repack" and packed is not None:
            repack(world, definition, origin, packed, progress)
    elif kind == "extract":
        _redeliver(world, plan, deliveries(plan)[task], progress)
    else:
        preparation = plan.preparation(name)
        for one in preparation.deliveries:
            if extraction_of(one).key() != one.key:
                _redeliver(world, plan, one, progress)
        skipped = build_toolchain(world, preparation, progress)
        if skipped:
            raise CacheError(f"its command was skipped: {skipped}")


def _redeliver(world: Context, plan: Plan, delivery: Delivery, progress: Progress) -> None:
    _provide(world, plan, delivery.artifact, progress)
    deliver(world, delivery, progress)


def _provide(world: Context, plan: Plan, artifact: Artifact, progress: Progress) -> None:
    if not adopt(world, artifact):
        remake(world, plan, artifact.task, progress)
