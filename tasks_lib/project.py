"""The Python API: obtain one artifact or one tree of a project, without doit. `doit_fetch` exports it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tasks_lib import steps
from tasks_lib.definitions import Fetch, FetchesEntry, Image, StaticUrl, Toolchain
from tasks_lib.definitions.lookup import find_definition, find_definitions
from tasks_lib.errors import OfflineError, ToolError, UnsupportedArchiveError
from tasks_lib.formats import format_from_name
from tasks_lib.fs.fingerprint import Fingerprint
from tasks_lib.host import digest_variables
from tasks_lib.incremental.fingerprints import are_unchanged
from tasks_lib.incremental.path_notes import find_project
from tasks_lib.parallel import open_pool
from tasks_lib.progress import Progress, Silent, Stoppable
from tasks_lib.session import Session
from tasks_lib.settings import Settings, load_project
from tasks_lib.steps import Artifact, Delivery, Plan

if TYPE_CHECKING:
    from tasks_lib.context import Context
    from tasks_lib.digest import Integrity
    from tasks_lib.image.oci import ImageLayout

_environ: Mapping[str, str] = {}


def use_environment(environ: Mapping[str, str]) -> None:
    """Let projects read this environment when they are loaded: of the entry point, which may access it."""
    global _environ  # the one of this process
    _environ = environ


class Project:
    """The definitions of a directory, and what is made from them; several threads may use it.

    A file or a tree that exists and is unchanged is returned without a network request and without reading it.
    """

    def __init__(self, session: Session, progress: Progress) -> None:
        self._session, self._progress = session, progress
        self._guard = threading.RLock()
        self._locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
        self._settings_fingerprints: dict[str, Fingerprint] = {}

    @classmethod
    def load(
        cls,
        directory: str | os.PathLike[str] = "",
        *,
        offline: bool | None = None,
        settings: Mapping[str, object] | None = None,
        progress: Progress | None = None,
    ) -> Project:
        """Load a project.

        Args:
            directory: the directory that has `fetchdefs`; "" for the current directory or the closest one above it.
            offline: True to make no network request, False to allow them, None for the setting `offline`.
            settings: settings as on doit's command line, such as {"jobs": 8}; environment and pyproject.toml are below.
            progress: receives progress and warnings; nothing is shown by default.

        Raises:
            DefinitionError: lists every problem of every definition.
            SettingError: a setting is invalid.
            CacheUnavailableError: the cache cannot be used, or untrusted users can write to it.
        """
        top = Path(directory).absolute() if directory else Path(find_project(str(Path.cwd())))
        variables = {**(settings or {}), **({} if offline is None else {"offline": str(int(offline))})}
        file = top / "pyproject.toml"
        mark = Fingerprint.at(file)
        found = Settings.parse(variables=variables, environ=_environ, project=load_project(file).table)
        found = found._replace(
            fetchdefs=top / found.fetchdefs,
            cache=top / found.cache,
            build=top / found.build,
            shared=top / found.shared if found.shared is not None else None,
        )
        progress = progress or Silent()
        for warning in found.judge_cache():
            progress.warn(warning)
        project = cls(Session(found, _environ), progress)
        project._settings_fingerprints[str(file)] = mark
        project.definitions  # noqa: B018  # every problem is reported now
        project._passed  # noqa: B018  # as they are now
        return project

    @cached_property
    def definitions(self) -> Mapping[str, Fetch | Toolchain | Image]:
        """The definitions by name; `fetch:NAME`, `toolchain:NAME` and `image:NAME` if several kinds have that name."""
        with self._guard:
            kinds = self._session.definitions.kinds
        counts = Counter(name for known in kinds.values() for name in known)
        return {
            name if counts[name] == 1 else f"{kind}:{name}": one
            for kind, known in kinds.items()
            for name, one in known.items()
        }

    def is_current(self) -> bool:
        """Return whether nothing that was read has changed since: definitions, settings, scripts, passed variables."""
        same = digest_variables(_environ, self._passed) == self._passed
        return same and are_unchanged(self._inputs(), self._session.roots)

    def _inputs(self) -> dict[str, Fingerprint]:
        """Return each file that was read for the definitions and their keys, as it was then."""
        return {
            **self._settings_fingerprints,
            **self._session.definition_cache.source_fingerprints,
            **self._plan.files.source_fingerprints,
        }

    @cached_property
    def _passed(self) -> dict[str, str]:
        """The digest of each variable that is passed to a command, when the project was loaded."""
        session = self._session
        return digest_variables(session.environ, session.definitions.passed.union(session.settings.pass_env))

    def fetch(self, name: str) -> Path:
        """Return the path of an artifact; obtain or make it if it is missing.

        Args:
            name: the name or alias of a definition; `fetch:NAME`, `toolchain:NAME` or `image:NAME` for one of that
                kind. The artifact of a toolchain is its output, that of an image an archive with an OCI layout.

        Returns:
            An absolute path that stays the same when the definition changes. The file is read-only and belongs to the
            cache.

        Raises:
            UnknownNameError: no definition has this name, or definitions of several kinds have it.
            ToolError: the toolchain has no output, or its command failed or does not run on this machine.
            FetchError: it cannot be obtained; see `doit_fetch.errors`.
        """
        definition = self._find(name)
        with self._held(definition):
            artifact = self._artifact(definition)
            steps.link_artifact(artifact)
        self._finish_uploads()
        return Path(os.path.abspath(artifact.link or artifact.path))  # noqa: PTH100  # does not resolve the link

    def tree(self, name: str) -> Path:
        """Return the path of an extracted archive or of a toolchain's directory; make it if it is missing.

        Args:
            name: as for `fetch`.

        Raises:
            UnsupportedArchiveError: the artifact is not an archive.
            UnknownNameError, ToolError, FetchError: as `fetch`.
        """
        definition = self._find(name)
        with self._held(definition):
            if isinstance(definition, Image):
                raise UnsupportedArchiveError(
                    archive=definition.artifact_name,
                    reason="is an image, which has no tree",
                    code="WRONG_FORMAT",
                    hint=f"use the archive: doit path image:{definition.name}",
                )
            found = self._build(definition) if isinstance(definition, Toolchain) else self._extract(definition)
        self._finish_uploads()
        return found

    def _extract(self, definition: Fetch) -> Path:
        delivery = self._plan.extraction(definition)
        if not self._plan.can_extract(definition):
            raise UnsupportedArchiveError(
                archive=delivery.artifact.path.name,
                reason="is not an archive",
                code="WRONG_FORMAT",
                hint=f"use the file itself: doit path fetch:{definition.name}",
            )
        self._obtain(definition)
        self._deliver(delivery)
        return delivery.destination

    def is_program(self, name: str) -> bool:
        """Return whether the artifact of a definition is a file that its definition declares `executable`."""
        definition = self._find(name)
        if not isinstance(definition, Fetch) or not isinstance(definition.source, StaticUrl):
            return False
        is_archive = definition.source.format or format_from_name(self._plan.published(definition).path.name)
        return definition.source.executable and not is_archive

    @property
    def context(self) -> Context:
        """What the steps share: cache, settings, downloader."""
        with self._guard:
            return self._session.context

    def select(self, words: Iterable[str]) -> list[Fetch]:
        """Return the fetches with these names, aliases or globs, each once; a toolchain means all of its fetches.

        Without words, return all.

        Raises:
            UnknownNameError: a word matches no definition.
        """
        found = self._session.definitions
        chosen: dict[str, Fetch] = {}
        if not (words := list(words)):
            return list(found.fetches.values())
        for definition in find_definitions(self._session.definitions, words):
            chosen.update((one.name, one) for one in self._fetches_of(definition))
        return list(chosen.values())

    def _fetches_of(self, definition: Fetch | Toolchain | Image) -> list[Fetch]:
        """Return a fetch, or all that a toolchain or an image and those that it needs consume."""
        chosen: dict[str, Fetch] = {}
        waiting, seen = [definition], set[str]()
        while waiting:
            one = waiting.pop()
            if isinstance(one, Fetch):
                chosen[one.name] = one
            elif (key := f"{type(one).__name__} {one.name}") not in seen:
                seen.add(key)
                needed = [*((entry.kind, entry.name) for entry in one.fetches), *one.dependencies]
                waiting += [self._find(f"{kind}:{name}") for kind, name in reversed(needed)]
        return list(chosen.values())

    def list_tasks(self, words: Iterable[str]) -> list[str]:
        """Return the names of the tasks that make the definitions with these names, aliases or globs.

        Raises:
            UnknownNameError: a word matches no definition.
        """
        tasks: list[str] = []
        for definition in find_definitions(self._session.definitions, words):
            if not isinstance(definition, Fetch):
                tasks.append(f"{type(definition).__name__.lower()}:{definition.name}")
                continue
            tasks.append(self._plan.published(definition).task)
            tasks += [f"extract:{definition.name}"] if self._plan.can_extract(definition) else []
        return tasks

    def obtain(self, names: Iterable[str]) -> None:
        """Obtain the pinned downloads of fetches, several at a time; the cache has them, verified, afterwards.

        Raises:
            OfflineError: the network is disabled, and some are not in the cache; names all of them.
            FetchError: one cannot be obtained; the others are obtained.
        """
        missing = [one for one in map(self._session.definitions.fetch, names) if self._lacks(one)]
        if not missing:
            return
        if self.context.settings.policy.network == "off" and (needed := list(filter(self._needs_network, missing))):
            raise OfflineError(
                f"offline, and not in the cache: {', '.join(one.name for one in needed)}", hint="run once with network"
            )
        progress = Stoppable(self._progress)
        with open_pool(self.context.settings.jobs, progress) as threads:
            jobs = [threads.submit(self._obtain_download, one, progress) for one in missing]
        for job in jobs:
            job.result()

    def _lacks(self, definition: Fetch) -> bool:
        """Return whether the cache lacks a download, the verdict on its signatures or the confirmation of its URL."""
        context, artifact = self.context, self._plan.fetched(definition)
        verified = not artifact.verdict or context.cache.result(artifact.verdict) is not None
        known = artifact.integrity is not None and context.cache.has(artifact.integrity)
        return not (known and verified and steps.is_asked(context, definition))

    def _needs_network(self, definition: Fetch) -> bool:
        return steps.needs_network(self.context, definition, self._plan.fetched(definition))

    def _obtain_download(self, definition: Fetch, progress: Progress) -> None:
        with self._held(definition):
            steps.fetch(self.context, definition, self._plan.fetched(definition), progress)

    def is_archive(self, definition: Fetch) -> bool:
        """Return whether a definition is one of an archive that `tree` extracts."""
        return self._plan.can_extract(definition)

    def dependencies(self, name: str, what: str) -> dict[str, Fingerprint]:
        """Return the files on which the path that `fetch` or `tree` (`what`) returned depends, as they were then.

        Return {} if it depends on more than files: on variables that are passed to the command of a toolchain.
        """
        definition, context, plan = self._find(name), self._session.context, self._plan
        outputs: list[str] = []
        if not isinstance(definition, Fetch) and self._passed:
            return {}
        if isinstance(definition, Toolchain):
            outputs += steps.list_build_files(context, plan.preparation(definition.name))
        elif isinstance(definition, Image):
            if definition.base:  # its key has the version of a program
                return {}
            outputs += steps.list_artifact_files(context, plan.image(definition.name).output)
        else:
            for artifact in filter(None, (plan.fetched(definition), plan.repacked(definition))):
                outputs += steps.list_artifact_files(context, artifact)
            if what == "tree":
                outputs += steps.list_delivery_files(plan.extraction(definition))
        return {**self._inputs(), **{path: Fingerprint.at(path) for path in outputs}}

    @property
    def cache(self) -> Path:
        """The directory of the cache."""
        return self._session.settings.cache

    @property
    def _plan(self) -> Plan:
        with self._guard:
            return self._session.plan

    @contextlib.contextmanager
    def _held(self, definition: Fetch | Toolchain | Image) -> Iterator[None]:
        """Let one thread at a time work on a definition."""
        with self._guard:
            lock = self._locks[f"{type(definition).__name__} {definition.name}"]
        with lock:
            self._session.context.build  # noqa: B018  # creates the directory
            yield

    def _finish_uploads(self) -> None:
        """Wait until the stores have what was obtained and made: the process may end after this."""
        fleet = self._session.opened_fleet
        if fleet is not None:
            fleet.finish(self._is_running, self._progress.warn)
            for problem in fleet.counts.problems:
                self._progress.warn(problem)
            fleet.counts.problems.clear()

    def _is_running(self) -> bool:
        """Return True.

        Raises:
            CancelledError: the run was asked to stop.
        """
        self._progress.check()
        return True

    def _find(self, name: str) -> Fetch | Toolchain | Image:
        return find_definition(self._session.definitions, name)

    def _artifact(self, definition: Fetch | Toolchain | Image) -> Artifact:
        if isinstance(definition, Image):
            return self._assemble(definition)
        return self._obtain(definition) if isinstance(definition, Fetch) else self._output(definition)

    def select_images(self, words: Iterable[str]) -> list[Image]:
        """Return the images with these names or globs, each once; all without words.

        Raises:
            UnknownNameError: a word matches no image.
        """
        definitions = self._session.definitions
        if not (words := list(words)):
            return list(definitions.images.values())
        return [one for one in find_definitions(definitions, words, ("image",)) if isinstance(one, Image)]

    def lay_out(self, definition: Image, compression: str) -> ImageLayout:
        """Return the layout of an image, of which the cache has the layers afterwards.

        Args:
            definition: the image.
            compression: of the layers: "zstd", "gzip" or "none".

        Raises:
            FetchError: it cannot be made.
        """
        build, context = self._plan.image(definition.name), self._session.context
        with self._held(definition):
            layers = self._obtain_layers(definition)
            return steps.lay_out_image(context, build, layers, compression, self._progress)

    def _assemble(self, definition: Image) -> Artifact:
        build = self._plan.image(definition.name)
        if not steps.publish_from_cache(self._session.context, build.output):
            self._obtain_layers(definition)
            steps.build_image(self._session.context, build, self._progress)
        return build.output

    def _obtain_layers(self, definition: Image) -> list[Integrity]:
        context, build = self._session.context, self._plan.image(definition.name)
        if not steps.has_layers(context, build):
            self._obtain_inputs(definition.fetches)
        return steps.obtain_layers(context, build, self._progress)

    def _obtain_inputs(self, entries: Iterable[FetchesEntry]) -> None:
        for entry in entries:
            used = self._find(f"{entry.kind}:{entry.name}")
            with self._held(used):
                self._artifact(used)

    def _obtain(self, definition: Fetch) -> Artifact:
        context, plan = self._session.context, self._plan
        fetched, repacked = plan.fetched(definition), plan.repacked(definition)
        if repacked is None:
            self._download(definition, fetched)
            return fetched
        signed = isinstance(definition.source, StaticUrl) and definition.source.vouchers
        if signed or not steps.is_asked(context, definition) or not steps.publish_from_cache(context, repacked):
            self._download(definition, fetched)
            steps.repack(context, definition, fetched, repacked, self._progress)
        return repacked

    def _download(self, definition: Fetch, artifact: Artifact) -> None:
        context = self._session.context
        if not steps.is_published(context, artifact) or not steps.is_asked(context, definition):
            steps.fetch(context, definition, artifact, self._progress)

    def _deliver(self, delivery: Delivery) -> None:
        if not steps.is_delivered(delivery):
            steps.deliver(self._session.context, delivery, self._progress)

    def _output(self, definition: Toolchain) -> Artifact:
        preparation = self._plan.preparation(definition.name)
        if preparation.output is None:
            raise ToolError(
                f"toolchain {definition.name} has no artifact",
                hint=f"use its directory: doit path toolchain:{definition.name} --tree",
            )
        if not steps.publish_from_cache(self._session.context, preparation.output):
            self._build(definition)
        return preparation.output

    def _build(self, definition: Toolchain) -> Path:
        context, preparation = self._session.context, self._plan.preparation(definition.name)
        if not steps.is_built(context, preparation):
            self._obtain_inputs(one.entry for one in preparation.deliveries)
            for delivery in preparation.deliveries:
                if delivery.entry.delivery == "extract":
                    self._deliver(delivery)
            skipped = steps.build_toolchain(context, preparation, self._progress)
            if skipped:
                raise ToolError(
                    f"toolchain {definition.name}: {skipped}", hint="build it on a machine that its command supports"
                )
        return preparation.directory
