"""Definitions as doit tasks: names, edges, targets, checks.

No task carries a closure: a check and an action are objects that hold their values. Every task has `io: capture False`,
since doit's capture mixes the output of threads; actions return values and never print.
Source of these rules: doit 0.37, measured.
"""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from doit.exceptions import TaskFailed

from tasks_lib import recipe, steps
from tasks_lib.archive import format_for
from tasks_lib.definitions import Fetch, Refused, StaticUrl, Toolchain
from tasks_lib.errors import CancelledError, FetchError, ToolError, escaped
from tasks_lib.graph.watch import RUN
from tasks_lib.progress import Progress
from tasks_lib.steps import Artifact, Delivery, Plan, Preparation, World

#: The groups, with what `doit list` says of them.
GROUPS: Final = {
    "fetch": "obtain what a definition promises, verified, into the cache",
    "repack": "make the normalised .tar.zst of a fetched archive",
    "extract": "extract an archive: TOOLCHAIN/NAME for a toolchain, NAME on its own",
    "toolchain": "prepare a toolchain: its fetches in place, its command run",
}

Task = dict[str, Any]


@dataclass(frozen=True)
class Check:
    """An uptodate item: the last success had this key, and what it made still stands."""

    key: str
    stands: Callable[..., bool]
    arguments: tuple[Any, ...]
    # doit inspects each callable at each run; a ready signature makes a no-op a fifth faster
    __signature__: ClassVar = inspect.Signature(
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("task", "values")]
    )

    def __call__(self, task: Any, values: Mapping[str, Any]) -> bool:
        """Return whether nothing needs to be done; `forget` drops the values and so makes the task run."""
        del task  # doit hands it to every check by name
        return values.get("key") == self.key and self.stands(*self.arguments)

    def __repr__(self) -> str:
        return f"made and unchanged (key {self.key[:16]})"


@dataclass(frozen=True)
class Step:
    """An action: runs a step and returns the values that `Check` looks for."""

    name: str
    key: str
    verb: Callable[..., str | None]
    arguments: tuple[Any, ...]
    __signature__: ClassVar = inspect.Signature([])
    __name__: ClassVar = "step"

    def __call__(self) -> dict[str, str] | TaskFailed:
        """Run the step; our own errors become one message without a traceback."""
        progress = RUN.progress(self.name)
        try:
            skipped = self.verb(*self.arguments, progress)
        except CancelledError as error:  # nobody needs to read it: who asked the run to stop knows
            return TaskFailed(str(error), report=False)  # type: ignore[no-untyped-call]  # doit has no types
        except FetchError as error:
            return TaskFailed(str(error))  # type: ignore[no-untyped-call]  # doit has no types
        if skipped:
            RUN.say(self.name, "skip", {"reason": skipped})
            return {"key": ""}
        return {"key": self.key}


def remove_delivery(delivery: Delivery, dryrun: bool) -> None:
    """Clean what a delivery put into its directory (doit names the parameter)."""
    if not dryrun:
        steps.slot_of(delivery).clear()


def remove_preparation(preparation: Preparation, dryrun: bool) -> None:
    """Clean a toolchain's directory, but for what its extractions own."""
    if dryrun:
        return
    for path in (preparation.stamp, preparation.log, preparation.directory / ".worked"):
        path.unlink(missing_ok=True)
    shutil.rmtree(preparation.uploads, ignore_errors=True)
    for delivery in preparation.deliveries:
        if delivery.entry.delivery == "place":
            steps.slot_of(delivery).clear()
    if preparation.output is not None:
        preparation.output.path.unlink(missing_ok=True)


def refuse(_world: World, reason: str, _progress: Progress) -> None:
    """Say why a definition of a Taskgraph tree is not made here.

    Raises:
        ToolError: always.
    """
    raise ToolError(reason)


def key_stands(delivery: Delivery) -> bool:
    """Whether a delivery that a command may have worked in is still the one that was made."""
    return steps.slot_of(delivery).key() == delivery.key and delivery.destination.is_dir()


class Graph:
    """All tasks of a plan."""

    def __init__(self, plan: Plan, world: World) -> None:
        self._plan, self._world = plan, world

    def tasks(self) -> Iterator[Task]:
        """Yield groups first, then sinks before what they need: doit starts tasks in this order."""
        for group, doc in GROUPS.items():
            yield {"basename": group, "name": None, "doc": doc}
        for toolchain in self._plan.definitions.toolchains.values():
            yield from self._toolchain(toolchain)
        for fetch in self._plan.definitions.fetches.values():
            yield from self._fetch(fetch)
        for refused in self._plan.definitions.refused:
            yield self._refused(refused)

    def _task(self, name: str, key: str, doc: str, verb: Callable[..., str | None], *arguments: Any) -> Task:
        group, _, rest = name.partition(":")
        return {
            "basename": group,
            "name": rest,
            "doc": escaped(doc.splitlines()[0]) if doc else "",
            "actions": [(Step(name, key, verb, (self._world, *arguments)),)],
            "io": {"capture": False},
            "verbosity": 2,
        }

    def _fetch(self, fetch: Fetch) -> Iterator[Task]:
        fetched, repacked = self._plan.fetched(fetch), self._plan.repacked(fetch)
        if repacked is not None:
            yield self._repack(fetch, fetched, repacked)
        if format_for(self._plan.published(fetch).path.name):
            delivery = self._plan.extraction(fetch)
            yield self._extract(f"extract:{fetch.name}", delivery, Check(delivery.key, steps.is_delivered, (delivery,)))
        task = self._task(f"fetch:{fetch.name}", fetched.key, fetch.description, steps.fetch, fetch, fetched)
        yield task | {
            "targets": [str(fetched.path)],
            "uptodate": [Check(fetched.key, steps.is_published, (self._world, fetched))],
            "clean": True,
            "meta": _facts(fetch, fetched) | {"pool": "network"},
        }

    def _refused(self, one: Refused) -> Task:
        """Return a task that stands beside the groups: nothing runs it but its own name, and it fails."""
        task = self._task(one.task, "", f"refused: {one.reason}", refuse, f"{one.task}: {one.reason}")
        del task["name"]
        return task | {"basename": one.task, "meta": {"defined": f"{one.file}:{one.line}", "refused": one.reason}}

    def _repack(self, fetch: Fetch, fetched: Artifact, repacked: Artifact) -> Task:
        task = self._task(
            repacked.task, repacked.key, f"{repacked.path.name} of {fetch.name}", steps.repack, fetch, fetched, repacked
        )
        return task | {
            "file_dep": [str(fetched.path)],
            "task_dep": [fetched.task],
            "targets": [str(repacked.path)],
            "uptodate": [Check(repacked.key, steps.is_published, (self._world, repacked))],
            "clean": True,
            "meta": {"artifact": repacked.path.name, "recipe_key": repacked.key, "pool": "cpu"},
        }

    def _extract(self, name: str, delivery: Delivery, check: Check) -> Task:
        doc = f"{delivery.artifact.path.name} into {delivery.destination}"
        return self._task(name, delivery.key, doc, steps.deliver, delivery) | {
            "file_dep": [str(delivery.artifact.path)],
            "task_dep": [delivery.artifact.task],
            "targets": [str(delivery.record)],
            "uptodate": [check],
            "clean": [(remove_delivery, [delivery])],
            "meta": {"recipe_key": delivery.key, "pool": "cpu"},
        }

    def _toolchain(self, toolchain: Toolchain) -> Iterator[Task]:
        preparation = self._plan.preparation(toolchain.name)
        extracted = [one for one in preparation.deliveries if one.entry.delivery == "extract"]
        placed = [one for one in preparation.deliveries if one.entry.delivery == "place"]
        names = {one.record: f"extract:{toolchain.name}/{one.record.stem}" for one in extracted}
        task = self._task(
            f"toolchain:{toolchain.name}", preparation.key, toolchain.description, steps.prepare, preparation
        )
        targets = [preparation.stamp, *([preparation.output.path] if preparation.output else [])]
        run = toolchain.run
        files = [*run.resources, *([run.script] if run.script else [])] if run else []
        yield task | {
            "file_dep": [
                *(str(one.record) for one in extracted),
                *(str(one.artifact.path) for one in placed),
                *(file.path for file in files if Path(file.path).is_file()),
            ],
            "task_dep": [*names.values(), *(one.artifact.task for one in placed)],
            "targets": [str(path) for path in targets],
            "uptodate": [Check(preparation.key, steps.is_prepared, (self._world, preparation))],
            "clean": [(remove_preparation, [preparation])],
            "meta": {"recipe_key": preparation.key, "directory": str(preparation.directory), "pool": "cpu"},
        }
        for one in extracted:
            # a command may change what it works on: then only the record can be compared
            works = run is not None and bool(run.command or run.script)
            stands = key_stands if works else steps.is_delivered
            yield self._extract(names[one.record], one, Check(one.key, stands, (one,)))


def _facts(fetch: Fetch, fetched: Artifact) -> dict[str, Any]:
    """Return what `doit info` shows of a fetch."""
    facts: dict[str, Any] = {"artifact": fetch.source.artifact_name, "defined": f"{fetch.file}:{fetch.line}"}
    if isinstance(fetch.source, StaticUrl):
        facts["size"] = fetch.source.integrity.size
        facts["sha256"] = fetch.source.integrity.digest.hex
        facts["sources"] = [fetch.source.url, *fetch.source.mirrors]
    else:
        facts["revision"] = fetch.source.revision
        facts["sources"] = [fetch.source.repo]
    facts["recipe_key"] = fetched.key
    facts["taskgraph_digest"] = recipe.taskgraph_digest(fetch)
    if fetch.ignored:
        facts["ignored"] = list(fetch.ignored)
    return facts
