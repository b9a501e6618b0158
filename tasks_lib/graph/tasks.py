"""Definitions as doit tasks: names, edges, targets, checks.

Tasks contain no closures: checks and actions are objects with the values they need. Every task has `io: capture False`,
because doit's capture mixes the output of threads; actions return values and never print.
Source of these rules: doit 0.37, measured.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec
from doit.exceptions import TaskFailed

from tasks_lib import steps
from tasks_lib.cache import identify_url
from tasks_lib.context import Context
from tasks_lib.definitions import Fetch, RefusedDefinition, StaticUrl, Toolchain
from tasks_lib.errors import CancelledError, FetchError, ToolError, escape_text
from tasks_lib.graph import task_info
from tasks_lib.graph.index import IndexPaths
from tasks_lib.graph.names import GROUPS
from tasks_lib.progress import Progress, Silent
from tasks_lib.steps import Artifact, Delivery, Plan, ToolchainBuild
from tasks_lib.ui.events import BUS

Task = dict[str, Any]
#: Maximum number of missing files that are listed.
_MAX_LISTED: Final = 5


class UpToDateCheck(msgspec.Struct, frozen=True):
    """An uptodate item: true if the last success had this key and its output is unchanged."""

    key: str
    is_unchanged: Callable[..., bool]
    arguments: tuple[Any, ...]
    sources: tuple[str, ...] = ()  # files whose content is part of the key
    variables: tuple[str, ...] = ()  # variables whose values are part of the key and of no setting
    # doit inspects each callable in each run; a precomputed signature makes a no-op run a fifth faster
    __signature__: ClassVar = inspect.Signature(
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("task", "values")]
    )

    def __call__(self, task: Any, values: Mapping[str, Any]) -> bool:
        """Return whether the task is up to date; `forget` deletes the values, so that the task runs."""
        del task  # doit passes it to every check by name
        return values.get("key") == self.key and self.is_unchanged(*self.arguments)

    def holds(self) -> bool:
        """Return whether the output is unchanged, regardless of doit's state."""
        return self.is_unchanged(*self.arguments)

    def inputs(self) -> Iterator[str]:
        """Yield the files on which `holds` depends: while none of them changes, the result does not change."""
        yield from _INPUTS[self.is_unchanged](*self.arguments)

    def note(self) -> str:
        """Return what is not confirmed about an output that is up to date, "" for nothing."""
        return ""

    def explain_change(self) -> list[str]:
        """Return the changes of the output since the last success, for a success with this key."""
        missing = [path for path in self.inputs() if not os.path.lexists(path)]
        reasons = [f"{escape_text(path)} is missing" for path in missing[:_MAX_LISTED]]
        reasons += [f"and {len(missing) - _MAX_LISTED} more are missing"] if len(missing) > _MAX_LISTED else []
        return reasons or ["its output was changed by something else"]

    def history(self) -> dict[str, Any]:
        """Return the recorded provenance of the output; {} if there is none."""
        history: dict[str, Any] = {}
        for one in self.arguments[1:]:
            artifact = getattr(one, "output", one)
            if isinstance(artifact, Artifact):
                history |= steps.read_provenance(self.arguments[0], artifact)
        return history

    def __repr__(self) -> str:
        return f"made and unchanged (key {self.key[:16]})"


class FetchCheck(UpToDateCheck, frozen=True, kw_only=True):
    """The check of a fetch: also false while the URL of its definition was not asked for the cached content.

    The last success knows the URL that it asked, so that the cache need not be read.
    """

    definition: Fetch

    @property
    def url(self) -> str:
        """What identifies the URL of the definition."""
        return identify_url(steps.url_of(self.definition))

    def __call__(self, task: Any, values: Mapping[str, Any]) -> bool:
        """Return whether the task is up to date; a success of an earlier version did not record its URL."""
        return values.get("url") in (None, self.url) and UpToDateCheck.__call__(self, task, values)

    def holds(self) -> bool:
        """Return whether the output of a run that succeeded is unchanged, and the URL was asked."""
        return UpToDateCheck.holds(self) and self._was_asked()

    def _was_asked(self) -> bool:
        """Return whether a run that succeeded asked the URL if it had to: always, unless the network is off."""
        context = self.arguments[0]
        return context.settings.policy.network != "off" or steps.is_asked(context, self.definition)

    def note(self) -> str:
        """Return what is not confirmed about the content, "" for nothing."""
        return steps.describe_unconfirmed(self.arguments[0], self.definition)

    def explain_change(self) -> list[str]:
        """Return the changes of the output since the last success, first a URL that is to be asked."""
        note = "" if steps.is_asked(self.arguments[0], self.definition) else self.note()
        return [note] if note else UpToDateCheck.explain_change(self)

    def history(self) -> dict[str, Any]:
        """Return the recorded provenance of the content, and what is not confirmed about it."""
        note = self.note()
        return UpToDateCheck.history(self) | ({"content": note} if note else {})

    def success(self) -> dict[str, str]:
        """Return the values to record with a success: the URL, if it was asked."""
        return {"url": self.url if self._was_asked() else ""}


class Step(msgspec.Struct, frozen=True):
    """An action: runs a step and returns the values that `UpToDateCheck` looks for."""

    name: str
    key: str
    parts: tuple[Any, ...]
    verb: Callable[..., str | None]
    arguments: tuple[Any, ...]
    check: FetchCheck | None = None  # records more values with a success

    @property
    def identity(self) -> task_info.Identity:
        """The inputs that determine the output, by name; computed on access."""
        compute, *arguments = self.parts
        return dict(compute(*arguments))

    def __call__(self) -> dict[str, Any] | TaskFailed:
        """Run the step; report errors of this package as a message without a traceback."""
        progress = BUS.progress(self.name)
        self.arguments[0].build  # noqa: B018  # creates the directory
        try:
            skipped = self.verb(*self.arguments, progress)
        except CancelledError as error:  # not reported: the user requested the stop
            return TaskFailed(str(error), report=False)  # type: ignore[no-untyped-call]  # doit has no types
        except FetchError as error:
            return TaskFailed(str(error))  # type: ignore[no-untyped-call]  # doit has no types
        if skipped:
            BUS.say(self.name, "skip", {"reason": skipped})
            return {"key": ""}
        made = self.check.success() if self.check is not None else {}
        output = task_info.describe_output(*self.arguments)
        BUS.say(self.name, "output", task_info.make_absolute(output))
        return {"key": self.key, "identity": self.identity, **made, **output}


def step_of(task: Any) -> Step | None:
    """Return the step of a task, None for a task that this package did not create."""
    for action in task._actions:
        if isinstance(action, tuple) and isinstance(action[0], Step):
            return action[0]
    return None


def output_of(task: Any) -> task_info.Output:
    """Return what a task makes, with absolute paths; {} for a task that this package did not create."""
    step = step_of(task)
    return task_info.make_absolute(task_info.describe_output(*step.arguments)) if step is not None else {}


def note_of(task: Any) -> str:
    """Return what is not confirmed about the output of a task, "" for nothing."""
    return "; ".join(filter(None, (check.note() for check, *_ in task.uptodate if isinstance(check, UpToDateCheck))))


def remove_delivery(delivery: Delivery, dryrun: bool) -> None:
    """Remove the files that a delivery put into its directory (doit defines the name `dryrun`)."""
    if not dryrun:
        steps.extraction_of(delivery).clear(Silent())


def remove_toolchain_build(context: Context, preparation: ToolchainBuild, dryrun: bool) -> None:
    """Clean a toolchain's directory; keep the files of its extractions, unless its command has worked on them."""
    if dryrun:
        return
    for path in (preparation.stamp, preparation.log):
        path.unlink(missing_ok=True)
    steps.clear_worked_fetches(
        context, preparation.worked, Silent()
    )  # else the next command would start from the files that this one left
    steps.remove_attempts(preparation)
    for delivery in preparation.deliveries:
        if delivery.entry.delivery == "place":
            steps.extraction_of(delivery).clear(Silent())
    if preparation.output is not None:
        for target in _targets(preparation.output):
            Path(target).unlink(missing_ok=True)


def _targets(artifact: Artifact) -> list[str]:
    """Return the paths of an artifact: the one named by its identity, and the link whose path never changes."""
    return [str(artifact.path), *([str(artifact.link)] if artifact.link else [])]


def fail_refused(_context: Context, one: RefusedDefinition, _progress: Progress) -> None:
    """Fail with the reason why a definition of a Taskgraph tree is not supported.

    Raises:
        ToolError: always.
    """
    raise ToolError(f"{one.task}: {one.reason}", hint="; ".join(filter(None, (one.hint, f"see {one.place}"))))


def is_delivery_unchanged(delivery: Delivery, worked: Path) -> bool:
    """Return whether a delivery is unchanged; if `worked` exists, a command has changed it, and only the key counts."""
    if not worked.exists():
        return steps.is_delivered(delivery)
    return steps.extraction_of(delivery).key() == delivery.key and delivery.destination.is_dir()


def delivery_inputs(delivery: Delivery, worked: Path) -> Iterable[str]:
    """Return the files on which `is_delivery_unchanged` depends."""
    known = (str(delivery.record),) if worked.exists() else steps.list_delivery_files(delivery)
    return (str(worked), str(delivery.destination), *known)


_INPUTS: Final[Mapping[Callable[..., bool], Callable[..., Iterable[str]]]] = {
    steps.is_published: steps.list_artifact_files,
    steps.is_delivered: steps.list_delivery_files,
    steps.is_built: steps.list_build_files,
    is_delivery_unchanged: delivery_inputs,
}


class TaskGraph:
    """Creates the doit tasks of a plan."""

    def __init__(self, plan: Plan, context: Context) -> None:
        self._plan, self._context = plan, context
        self._paths = IndexPaths(plan, context.settings.level)

    def tasks(self, fetches: Iterable[str] | None = None, toolchains: Iterable[str] | None = None) -> Iterator[Task]:
        """Yield groups first, then tasks before their dependencies: doit starts tasks in this order.

        Args:
            fetches: names of the fetch definitions to create tasks for; None for all.
            toolchains: the same for toolchains.
        """
        definitions = self._plan.definitions
        for group, doc in GROUPS.items():
            yield {"basename": group, "name": None, "doc": doc}
        for name in definitions.toolchains if toolchains is None else toolchains:
            yield from self._toolchain(definitions.toolchains[name])
        for name in definitions.fetches if fetches is None else fetches:
            yield from self._fetch(definitions.fetches[name])
        if fetches is None:
            yield from self.refused()

    def refused(self) -> Iterator[Task]:
        """Yield the tasks of refused definitions, which belong to no group."""
        for one in self._plan.definitions.refused:
            yield self._refused(one)

    def _task(
        self,
        name: str,
        key: str,
        parts: tuple[Any, ...],
        doc: str,
        verb: Callable[..., str | None],
        *arguments: Any,
        check: FetchCheck | None = None,
    ) -> Task:
        group, _, rest = name.partition(":")
        return {
            "basename": group,
            "name": rest,
            "doc": escape_text(doc.splitlines()[0]) if doc else "",
            "actions": [(Step(name, key, parts, verb, (self._context, *arguments), check),)],
            "io": {"capture": False},
            "verbosity": 2,
        }

    def _fetch(self, fetch: Fetch) -> Iterator[Task]:
        fetched, repacked = self._plan.fetched(fetch), self._plan.repacked(fetch)
        if repacked is not None:
            yield self._repack(fetch, fetched, repacked)
        if self._plan.can_extract(fetch):
            delivery = self._plan.extraction(fetch)
            yield self._extract(
                f"extract:{fetch.name}", delivery, UpToDateCheck(delivery.key, steps.is_delivered, (delivery,))
            )
        asked = self._fetch_check(fetch, fetched)
        task = self._task(
            f"fetch:{fetch.name}",
            fetched.key,
            (task_info.fetch_identity, fetch),
            fetch.description,
            steps.fetch,
            fetch,
            fetched,
            check=asked,
        )
        yield task | {
            "targets": _targets(fetched),
            "uptodate": [asked or UpToDateCheck(fetched.key, steps.is_published, (self._context, fetched))],
            "clean": True,
            "meta": task_info.TaskInfo("network", task_info.fetch_info, fetch, fetched.key, self._paths),
        }

    def _fetch_check(self, fetch: Fetch, fetched: Artifact) -> FetchCheck | None:
        """Return the check of a download, None for a commit: its URL does not matter."""
        if not isinstance(fetch.source, StaticUrl):
            return None
        return FetchCheck(fetched.key, steps.is_published, (self._context, fetched), definition=fetch)

    def _refused(self, one: RefusedDefinition) -> Task:
        """Return a task that fails; it belongs to no group, so it runs only if it is named."""
        doc = f"refused: {one.reason} ({'; '.join(filter(None, (one.place, one.hint)))})"
        task = self._task(one.task, "", (dict,), doc, fail_refused, one)
        del task["name"]
        facts = {"defined": one.place, "refused": one.reason, "hint": one.hint}
        return task | {"basename": one.task, "meta": {name: fact for name, fact in facts.items() if fact}}

    def _repack(self, fetch: Fetch, fetched: Artifact, repacked: Artifact) -> Task:
        task = self._task(
            repacked.task,
            repacked.key,
            (task_info.repack_identity, fetch, self._plan.writer_version),
            f"{repacked.path.name} of {fetch.name}",
            steps.repack,
            fetch,
            fetched,
            repacked,
        )
        return task | {
            "file_dep": [str(fetched.path)],
            "task_dep": [fetched.task],
            "targets": _targets(repacked),
            "uptodate": [UpToDateCheck(repacked.key, steps.is_published, (self._context, repacked))],
            "clean": True,
            "meta": task_info.TaskInfo("cpu", task_info.artifact_info, repacked),
        }

    def _extract(self, name: str, delivery: Delivery, check: UpToDateCheck) -> Task:
        doc = f"{delivery.artifact.path.name} into {delivery.destination}"
        return self._task(name, delivery.key, (task_info.delivery_identity, delivery), doc, steps.deliver, delivery) | {
            "file_dep": [str(delivery.artifact.path)],
            "task_dep": [delivery.artifact.task],
            "targets": [str(delivery.record)],
            "uptodate": [check],
            "clean": [(remove_delivery, [delivery])],
            "meta": task_info.TaskInfo("cpu", task_info.delivery_info, delivery),
        }

    def _toolchain(self, toolchain: Toolchain) -> Iterator[Task]:
        preparation = self._plan.preparation(toolchain.name)
        extracted = [one for one in preparation.deliveries if one.entry.delivery == "extract"]
        placed = [one for one in preparation.deliveries if one.entry.delivery == "place"]
        names = {one.record: f"extract:{toolchain.name}/{one.record.stem}" for one in extracted}
        task = self._task(
            f"toolchain:{toolchain.name}",
            preparation.key,
            (task_info.toolchain_identity, preparation),
            toolchain.description,
            steps.build_toolchain,
            preparation,
        )
        targets = [str(preparation.stamp), *(_targets(preparation.output) if preparation.output else [])]
        definitions = self._plan.definitions
        before = [
            self._plan.published(definitions.fetches[name]).task if kind == "fetch" else f"toolchain:{name}"
            for kind, name in toolchain.dependencies
        ]
        yield task | {
            "file_dep": [
                *(str(one.record) for one in extracted),
                *(str(one.artifact.path) for one in placed),
                *preparation.sources,
            ],
            "task_dep": [*names.values(), *(one.artifact.task for one in placed), *before],
            "targets": targets,
            "uptodate": [
                UpToDateCheck(
                    preparation.key,
                    steps.is_built,
                    (self._context, preparation),
                    (*preparation.sources, *preparation.watched),
                    toolchain.run.pass_env if toolchain.run else (),
                )
            ],
            "clean": [(remove_toolchain_build, [self._context, preparation])],
            "meta": task_info.TaskInfo("cpu", task_info.toolchain_info, preparation, self._paths, self._context),
        }
        for one in extracted:
            # a command may change the files that it works on: then only the manifest can be compared
            yield self._extract(
                names[one.record], one, UpToDateCheck(one.key, is_delivery_unchanged, (one, preparation.worked))
            )
