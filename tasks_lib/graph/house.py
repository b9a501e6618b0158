"""What one run is built of: settings, definitions, plan and graph, each made when it is first asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from tasks_lib.definitions import Definitions
from tasks_lib.graph.load import digest_of, load
from tasks_lib.graph.tasks import Graph
from tasks_lib.settings import Settings
from tasks_lib.steps import Plan, World


@dataclass(frozen=True)
class House:
    """One run; the porch makes it."""

    settings: Settings
    environ: Mapping[str, str]

    @cached_property
    def world(self) -> World:
        """What every step is given."""
        return World(self.settings, self.environ)

    @cached_property
    def definitions(self) -> Definitions:
        """All definitions.

        Raises:
            DefinitionError: with every problem of every file.
        """
        return load(self.settings.fetchdefs)

    @cached_property
    def plan(self) -> Plan:
        """What each definition becomes."""
        return Plan(self.definitions, cache=self.settings.cache, build=self.settings.build, digest_of=digest_of)

    @cached_property
    def graph(self) -> Graph:
        """All tasks."""
        return Graph(self.plan, self.world)
