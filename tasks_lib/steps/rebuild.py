"""Rebuild the output of one task outside of doit, including missing inputs."""

from __future__ import annotations

from tasks_lib.context import Context
from tasks_lib.errors import CacheError
from tasks_lib.progress import Progress
from tasks_lib.steps.artifacts import adopt, fetch, repack
from tasks_lib.steps.extract import deliver, extraction_of
from tasks_lib.steps.plan import Artifact, Delivery, Plan
from tasks_lib.steps.toolchain import build_toolchain


def deliveries(plan: Plan) -> dict[str, Delivery]:
    """Return task name -> delivery; files that a toolchain places itself get a name of the same form."""
    by_task = {f"extract:{fetch.name}": plan.extraction(fetch) for fetch in plan.definitions.fetches.values()}
    for name in plan.definitions.toolchains:
        for one in plan.preparation(name).deliveries:
            by_task[f"extract:{name}/{one.record.stem}"] = one
    return by_task


def remake(world: Context, plan: Plan, task: str, progress: Progress) -> None:
    """Run the step of a task; first rebuild inputs that the cache does not have.

    Raises:
        FetchError: as that step; `CacheError` for a task whose command was skipped.
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
            raise CacheError(f"the command was skipped: {skipped}")


def _redeliver(world: Context, plan: Plan, delivery: Delivery, progress: Progress) -> None:
    _provide(world, plan, delivery.artifact, progress)
    deliver(world, delivery, progress)


def _provide(world: Context, plan: Plan, artifact: Artifact, progress: Progress) -> None:
    if not adopt(world, artifact):
        remake(world, plan, artifact.task, progress)
