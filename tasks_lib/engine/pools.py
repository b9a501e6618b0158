"""How many tasks run at once: a limit for each class of them, and one for all together where `-n` says so."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from tasks_lib.fs.system_calls import usable_cores


class Pools(NamedTuple):
    """How many tasks of each class run at once, and how many in all (None: as many as the classes allow)."""

    network: int
    cpu: int
    others: int
    total: int | None

    @classmethod
    def of(cls, *, network: int, asked: int | None) -> Pools:
        """Return the limits: `asked` is what `-n` says; without it classes have limits of their own only."""
        cores = usable_cores()
        if asked is None:
            return cls(network=network, cpu=cores, others=cores, total=None)
        most = max(1, asked)
        return cls(network=most, cpu=min(most, cores), others=most, total=most)

    def limit(self, pool: str) -> int:
        """Return how many tasks of one class run at once."""
        return self.network if pool == "network" else self.cpu if pool == "cpu" else self.others

    def has_room(self, pool: str, given: Counter[str]) -> bool:
        """Whether one more task may be given to the workers of a class, beside those of each class that are `given`.

        Without a limit for all together each worker has a next task at hand: to fall asleep and be woken costs more
        than many a task.
        """
        if self.total is None:
            return given[pool] < 2 * self.limit(pool)
        return given[pool] < self.limit(pool) and sum(given.values()) < self.total

    def are_full(self, given: Counter[str]) -> bool:
        """Whether the workers of every class that works have a next task at hand."""
        return self.total is None and all(number > self.limit(pool) for pool, number in given.items() if number)
