"""Limits of concurrent tasks: one for each class of tasks, and one for all tasks if `-n` is given."""

from __future__ import annotations

from collections import Counter

from tasks_lib.fs.system_calls import usable_cores
from tasks_lib.named import NamedTuple


class Pools(NamedTuple):
    """Limits of concurrent tasks of each class, and of all tasks together (None: no common limit)."""

    network: int
    cpu: int
    others: int
    total: int | None

    @classmethod
    def of(cls, *, network: int, asked: int | None) -> Pools:
        """Return the limits; `asked` is the value of `-n`, None if it is not given."""
        cores = usable_cores()
        if asked is None:
            return cls(network=network, cpu=cores, others=cores, total=None)
        most = max(1, asked)
        return cls(network=most, cpu=min(most, cores), others=most, total=most)

    def limit(self, pool: str) -> int:
        """Return the limit of concurrent tasks of a class."""
        return self.network if pool == "network" else self.cpu if pool == "cpu" else self.others

    def has_room(self, pool: str, given: Counter[str]) -> bool:
        """Return whether the workers of a class accept one more task; `given` counts the tasks that each class has.

        Without a common limit each worker gets its next task in advance: sleeping and waking up takes longer than many
        tasks.
        """
        if self.total is None:
            return given[pool] < 2 * self.limit(pool)
        return given[pool] < self.limit(pool) and sum(given.values()) < self.total

    def are_full(self, given: Counter[str]) -> bool:
        """Return whether the workers of every class with tasks have a next task queued."""
        return self.total is None and all(number > self.limit(pool) for pool, number in given.items() if number)
