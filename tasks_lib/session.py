"""What one run is built of: settings, definitions, plan and graph, each made when it is first asked for.

What only a part of the commands needs is imported then, too: half of the time of `doit list` would go into that.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tasks_lib.incremental.marks import code_mark, roots
from tasks_lib.settings import Settings

if TYPE_CHECKING:
    from tasks_lib.context import Context
    from tasks_lib.definitions import Definitions
    from tasks_lib.graph.tasks import TaskGraph
    from tasks_lib.incremental.definition_cache import DefinitionCache
    from tasks_lib.steps import Plan
    from tasks_lib.ui.output import TerminalInfo


_current: Session | None = None


def current_session() -> Session | None:
    """Return what `start_session` was given, None when no dodo.py asked for it."""
    return _current


def start_session(found: Session) -> None:
    """Make this the session of the process: doit creates commands and reporters without arguments of ours."""
    global _current  # the one of this process
    _current = found


class Session:
    """One run; `doit_fetch` makes it."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self.settings, self.environ = settings, environ
        self._entered = False

    @property
    def world(self) -> Context:
        """What every step is given; whoever asks for it is in."""
        self.enter()
        return self._context

    @cached_property
    def _context(self) -> Context:
        from tasks_lib.context import Context

        return Context(self.settings, self.environ)

    @cached_property
    def library(self) -> DefinitionCache:
        """Where parsed definitions are kept; whoever asks for it is in."""
        from tasks_lib.incremental.definition_cache import DefinitionCache

        self.enter()
        where = hashlib.sha256(os.fsencode(self.settings.fetchdefs.absolute())).hexdigest()
        return DefinitionCache(self.settings.cache / f"definitions-{where[:12]}.parsed", self.code)

    def enter(self) -> None:
        """Make the cache directory, note who uses it, and wait while it is pruned; done once.

        What stands in the cache is had through `world` and `library`, which enter by themselves; only who looks at the
        directory alone says so.

        Raises:
            StoreUnavailableError: it cannot be used, or prune holds it for too long.
            SettingError: there is no such trusted group.
        """
        if not self._entered:
            self._context.store.join(self.settings.fetchdefs)
            self._entered = True

    @cached_property
    def surroundings(self) -> TerminalInfo:
        """Where the run is shown, and where its record goes."""
        from tasks_lib.ui.output import TerminalInfo

        told = self.settings
        return TerminalInfo.parse(self.environ, progress=told.progress, events=told.events, build=told.build)

    @property
    def database(self) -> Path:
        """Where doit's database is."""
        return self.settings.cache / "doit.db"

    @cached_property
    def code(self) -> str:
        """What this package's own files are known by."""
        return code_mark()

    @property
    def roots(self) -> list[Path]:
        """Where definitions are looked for."""
        return roots(self.settings.fetchdefs)

    @cached_property
    def definitions(self) -> Definitions:
        """All definitions.

        Raises:
            DefinitionError: with every problem of every file.
        """
        from tasks_lib.incremental.definition_files import load

        return load(self.settings.fetchdefs, self.library)

    @cached_property
    def plan(self) -> Plan:
        """What each definition becomes."""
        from tasks_lib.incremental.definition_files import digest_of
        from tasks_lib.steps import Plan

        return Plan(
            self.definitions,
            cache=self.settings.cache,
            build=self.settings.build,
            writer_version=self.world.writer_version,
            digest_of=digest_of,
        )

    @cached_property
    def graph(self) -> TaskGraph:
        """All tasks."""
        from tasks_lib.graph.tasks import TaskGraph

        return TaskGraph(self.plan, self.world)
