"""The session of one `doit` process: settings, definitions, plan and graph, each created on first use.

Modules that only some commands need are imported on first use, too: they would take half of the time of `doit list`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tasks_lib.incremental.fingerprints import compute_code_digest, list_roots
from tasks_lib.layout import find_layout
from tasks_lib.settings import Settings
from tasks_lib.ui.output import OutputSettings

if TYPE_CHECKING:
    from tasks_lib.context import Context
    from tasks_lib.definitions import Definitions
    from tasks_lib.graph.tasks import TaskGraph
    from tasks_lib.incremental.definition_cache import DefinitionCache
    from tasks_lib.incremental.project_files import ProjectFiles
    from tasks_lib.recipe import Configuration
    from tasks_lib.steps import Plan
    from tasks_lib.store.fleet import Fleet


_current: Session | None = None


def current_session() -> Session | None:
    """Return the session of this process, None when no dodo.py has started one."""
    return _current


def start_session(session: Session) -> None:
    """Make this the session of the process: doit creates commands and reporters without arguments of ours."""
    global _current  # the one of this process
    _current = session


class Session:
    """The shared parts of one process; `doit_fetch` starts it."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self.settings, self.environ = settings, environ
        self.creates_cache = True  # False for a command that only reads: a missing cache is an empty one
        self._entered = False

    @property
    def context(self) -> Context:
        """The context of the steps; the first access opens the cache."""
        self.enter()
        return self._context

    @property
    def opened_fleet(self) -> Fleet | None:
        """The shared stores if a task of this process asked for them, else None; opens nothing."""
        context: Context | None = vars(self).get("_context")
        return context.opened_fleet if context is not None else None

    @cached_property
    def _context(self) -> Context:
        from tasks_lib.context import Context  # opens the cache, which a no-op run does not need

        return Context(
            self.settings,
            self.environ,
            load_headers=lambda: self._files.load_headers(),
            artifact_paths=lambda domain, level: self.graph.artifact_paths(domain, level),
        )

    @cached_property
    def _files(self) -> ProjectFiles:
        from tasks_lib.incremental.project_files import ProjectFiles  # a no-op run reads no definitions

        return ProjectFiles(self.settings, self.environ, self.code)

    @property
    def definition_cache(self) -> DefinitionCache:
        """The cache of parsed definitions; the first access opens the cache directory."""
        self.enter()
        return self._files.cache

    def enter(self) -> None:
        """Create the cache directory, register these definitions as its user, and wait while it is pruned; done once.

        A command that only reads does nothing if the directory does not exist.

        `context` and `definition_cache` call this themselves; other code that uses the cache directory calls it first.

        Raises:
            CacheUnavailableError: the cache cannot be used, or `doit prune` holds it for too long.
            SettingError: the trusted group does not exist.
        """
        if not self._entered:
            self._join(self._context.configuration())
            self._entered = True

    def _join(self, configuration: Configuration) -> None:
        if self.creates_cache or os.path.exists(self.settings.cache):  # noqa: PTH110 - never raises
            self._context.cache.join(find_layout(self.settings.fetchdefs).taken, configuration.encode())

    @cached_property
    def output_settings(self) -> OutputSettings:
        """The terminal and the CI that show the run, and the path of its record."""
        own = self.settings
        return OutputSettings.parse(self.environ, progress=own.progress, events=own.events, build=own.build)

    @property
    def database(self) -> Path:
        """The path of doit's database: in a cache outside of the project, which others may use too, one of its own."""
        here = Path.cwd()
        if self.settings.cache.absolute().is_relative_to(here):
            return self.settings.cache / "doit.db"
        return self.settings.cache / f"doit-{hashlib.sha256(os.fsencode(here)).hexdigest()[:12]}.db"

    @cached_property
    def code(self) -> str:
        """A digest of the source files of this package."""
        return compute_code_digest()

    @property
    def roots(self) -> list[Path]:
        """The directories and files that may hold definitions."""
        return list_roots(self.settings.fetchdefs)

    @property
    def definitions(self) -> Definitions:
        """All definitions.

        Raises:
            DefinitionError: lists every problem of every file.
        """
        self.enter()
        return self._files.definitions

    @cached_property
    def plan(self) -> Plan:
        """The keys, files and directories of each definition."""
        from tasks_lib.steps import Plan  # `doit list` needs no steps

        configuration = self.context.configuration(self.definitions.passed)
        if self.definitions.passed:  # prune needs the values of variables that only the definitions name
            self._join(configuration)
        return Plan(self.definitions, self.context, configuration, self._files.references)

    @cached_property
    def graph(self) -> TaskGraph:
        """All tasks."""
        from tasks_lib.graph.tasks import TaskGraph  # as above

        return TaskGraph(self.plan, self.context)
