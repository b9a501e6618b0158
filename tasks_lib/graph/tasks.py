"""Definitions as doit tasks: names, edges, targets, checks.

Tasks contain no closures: checks and actions are objects with the values they need. Every task has `io: capture False`,
because doit's capture mixes the output of threads; actions return values and never print.
Source of these rules: doit 0.37, measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tasks_lib import steps
from tasks_lib.context import Context
from tasks_lib.definitions import Debian, DebianSource, Fetch, RefusedDefinition, StaticUrl, Toolchain
from tasks_lib.errors import escape_text
from tasks_lib.graph import task_info
from tasks_lib.graph.actions import Step, list_targets, remove_delivery, remove_toolchain_build
from tasks_lib.graph.checks import FetchCheck, UpToDateCheck, is_delivery_unchanged
from tasks_lib.graph.index import IndexPaths
from tasks_lib.graph.names import GROUPS
from tasks_lib.platforms import ALL
from tasks_lib.steps import Artifact, Delivery, Plan
from tasks_lib.steps.definition_types import list_read_files

Task = dict[str, Any]


class TaskGraph:
    """Creates the doit tasks of a plan."""

    def __init__(self, plan: Plan, context: Context) -> None:
        self._plan, self._context = plan, context
        self._paths = IndexPaths(plan, context.settings.level)

    def tasks(
        self,
        fetches: Iterable[str] | None = None,
        toolchains: Iterable[str] | None = None,
        images: Iterable[str] | None = None,
    ) -> Iterator[Task]:
        """Yield groups first, then tasks before their dependencies: doit starts tasks in this order.

        Args:
            fetches: names of the fetch definitions to create tasks for; None for all.
            toolchains: the same for toolchains.
            images: the same for images.
        """
        definitions = self._plan.definitions
        for group, doc in GROUPS.items():
            yield {"basename": group, "name": None, "doc": doc}
        for name in definitions.images if images is None else images:
            yield self._image(name)
        for name in definitions.toolchains if toolchains is None else toolchains:
            yield from self._toolchain(definitions.toolchains[name])
        for name in definitions.fetches if fetches is None else fetches:
            yield from self._fetch(definitions.fetches[name])
        if fetches is None:
            yield from self.refused()
        for one in definitions.skipped:
            yield self._skipped(one)

    def artifact_paths(self, domain: str, level: int) -> Mapping[str, str]:
        """Return which artifacts of Taskcluster's tasks the definitions reach: item key -> path below the index."""
        return IndexPaths(self._plan, level, domain).artifacts()

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
        verb: steps.Verb,
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
        """Yield the tasks of a fetch; a group does not run those of another platform, unless every one is wanted."""
        is_grouped = not fetch.is_other_platform or self._context.settings.platform == ALL
        for task in self._fetch_steps(fetch):
            if not is_grouped:
                task["is_grouped"] = False
            yield task

    def _fetch_steps(self, fetch: Fetch) -> Iterator[Task]:
        fetched, repacked = self._plan.fetched(fetch), self._plan.repacked(fetch)
        if repacked is not None:
            yield self._repack(fetch, fetched, repacked)
        if self._plan.can_extract(fetch):
            delivery = self._plan.extraction(fetch)
            yield self._extract(
                f"extract:{fetch.name}", delivery, UpToDateCheck(delivery.key, steps.is_delivered, (delivery,))
            )
        check = self._fetch_check(fetch, fetched)
        task = self._task(
            f"fetch:{fetch.name}",
            fetched.key,
            self._identity(fetch),
            fetch.description,
            "fetch",
            fetch,
            fetched,
            check=check if isinstance(check, FetchCheck) else None,
        )
        yield task | {
            "targets": list_targets(fetched),
            "uptodate": [check],
            "clean": True,
            "meta": task_info.TaskInfo("network", task_info.fetch_info, self._plan, fetch.name, self._paths),
        }

    def _identity(self, fetch: Fetch) -> tuple[Any, ...]:
        """Return what computes the inputs of a fetch."""
        if isinstance(fetch.source, Debian):
            return task_info.packages_identity, fetch, self._plan.files.digest_of(fetch.source.lock_file).hex
        return task_info.fetch_identity, fetch

    def _fetch_check(self, fetch: Fetch, fetched: Artifact) -> UpToDateCheck:
        """Return the check of a fetch; only that of a download asks its URL."""
        arguments = (self._context, fetched)
        files = list_read_files(fetch.source)
        if isinstance(fetch.source, StaticUrl | DebianSource):
            return FetchCheck(fetched.key, steps.is_published, arguments, files, definition=fetch)
        return UpToDateCheck(fetched.key, steps.is_published, arguments, files)

    def _refused(self, one: RefusedDefinition) -> Task:
        """Return a task that fails; it belongs to no group, so it runs only if it is named."""
        doc = f"refused: {one.reason} ({'; '.join(filter(None, (one.place, one.hint)))})"
        task = self._task(one.task, "", (dict,), doc, "fail_refused", one)
        del task["name"]
        facts = {"defined": one.place, "refused": one.reason, "hint": one.hint}
        return task | {"basename": one.task, "meta": {name: fact for name, fact in facts.items() if fact}}

    def _skipped(self, one: RefusedDefinition) -> Task:
        """Return the task of a definition that is not available for the platform; it says so in each run."""
        task = self._task(one.task, "", (dict,), f"skipped: {one.reason}", "skip_unavailable", one)
        meta = {"defined": one.place, "skipped": one.reason, "hint": one.hint}
        return task | {"targets": [], "uptodate": [None], "clean": True, "meta": meta}

    def _repack(self, fetch: Fetch, fetched: Artifact, repacked: Artifact) -> Task:
        task = self._task(
            repacked.task,
            repacked.key,
            (task_info.repack_identity, fetch, self._plan.writer_version),
            f"{repacked.path.name} of {fetch.name}",
            "repack",
            fetch,
            fetched,
            repacked,
        )
        return task | {
            "file_dep": [str(fetched.path)],
            "task_dep": [fetched.task],
            "targets": list_targets(repacked),
            "uptodate": [UpToDateCheck(repacked.key, steps.is_published, (self._context, repacked))],
            "clean": True,
            "meta": task_info.TaskInfo("cpu", task_info.artifact_info, repacked),
        }

    def _extract(self, name: str, delivery: Delivery, check: UpToDateCheck) -> Task:
        doc = f"{delivery.artifact.path.name} into {delivery.destination}"
        return self._task(name, delivery.key, (task_info.delivery_identity, delivery), doc, "deliver", delivery) | {
            "file_dep": [str(delivery.artifact.path)],
            "task_dep": [delivery.artifact.task],
            "targets": [str(delivery.record)],
            "uptodate": [check],
            "clean": [(remove_delivery, [delivery])],
            "meta": task_info.TaskInfo("cpu", task_info.delivery_info, delivery),
        }

    def _image(self, name: str) -> Task:
        build = self._plan.image(name)
        artifacts = [one for layer in build.layers for one in layer.artifacts]
        programs = tuple(filter(None, (layer.program for layer in build.layers)))
        task = self._task(
            f"image:{name}", build.key, (task_info.image_identity, build), build.image.description, "build_image", build
        )
        return task | {
            "file_dep": list(dict.fromkeys(str(artifact.path) for artifact in artifacts)),
            "task_dep": list(dict.fromkeys(artifact.task for artifact in artifacts)),
            "targets": list_targets(build.output),
            "uptodate": [UpToDateCheck(build.key, steps.is_published, (self._context, build.output), programs)],
            "clean": True,
            "meta": task_info.TaskInfo("cpu", task_info.image_info, build, self._context),
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
            "build_toolchain",
            preparation,
        )
        targets = [str(preparation.stamp), *(list_targets(preparation.output) if preparation.output else [])]
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
