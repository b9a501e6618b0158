"""Shards: the part of all definitions that one machine of several fetches.

Every definition belongs to one shard, chosen by the recipe key of its download, so that two definitions of the same
bytes belong to the same one. The choice depends on nothing else, or on all sizes (`shard_by=size`): the machines need
not talk to each other.
"""

from __future__ import annotations

import heapq
import re
from array import array
from collections.abc import Mapping, Sequence
from typing import Final

from tasks_lib.errors import SettingError, escape_text
from tasks_lib.named import NamedTuple

#: Most shards of one graph.
MOST_SHARDS: Final = 100_000
_SHARD: Final = r"([0-9]{1,6})/([0-9]{1,6})"
#: The variables with the number of a job, with the count of jobs, and the number of the first job.
#: Source: GitLab "Predefined CI/CD variables"; CircleCI "Built-in environment variables"; Buildkite "Environment
#: variables"; Bitbucket Pipelines "Variables and secrets".
_CI: Final = (
    ("CI_NODE_INDEX", "CI_NODE_TOTAL", 1),
    ("CIRCLE_NODE_INDEX", "CIRCLE_NODE_TOTAL", 0),
    ("BUILDKITE_PARALLEL_JOB", "BUILDKITE_PARALLEL_JOB_COUNT", 0),
    ("BITBUCKET_PARALLEL_STEP", "BITBUCKET_PARALLEL_STEP_COUNT", 0),
)


class Shard(NamedTuple):
    """One shard of several; `number` counts from 1, up to `total`."""

    number: int
    total: int

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"

    @classmethod
    def parse(cls, text: str, environ: Mapping[str, str]) -> Shard:
        """Return the shard of a setting: `3/50`, or `auto` for that of the variables of a CI service.

        Raises:
            SettingError: the text is not a shard, or no service set its variables.
        """
        if text == "auto":
            return cls._of_ci(environ)
        found = re.fullmatch(_SHARD, text)
        return cls._checked(f"shard={escape_text(text)}", *map(int, found.groups() if found else (0, 0)))

    @classmethod
    def _of_ci(cls, environ: Mapping[str, str]) -> Shard:
        for index, total, first in _CI:
            if environ.get(index) and environ.get(total):
                name, words = f"{index}={environ[index]}, {total}={environ[total]}", (environ[index], environ[total])
                numbers = [int(word) if re.fullmatch("[0-9]{1,6}", word) else -1 for word in words]
                return cls._checked(f"shard=auto: {escape_text(name)}", numbers[0] + 1 - first, numbers[1])
        raise SettingError(
            "shard=auto: no variables of a CI service with parallel jobs are set",
            hint=f"run parallel jobs ({', '.join(index for index, _, _ in _CI)}), or set the shard, such as shard=3/50",
        )

    @classmethod
    def _checked(cls, given: str, number: int, total: int) -> Shard:
        if 1 <= number <= total <= MOST_SHARDS:
            return cls(number, total)
        raise SettingError(
            f"{given}: not a shard", hint=f"write NUMBER/COUNT from 1/1 to {MOST_SHARDS}/{MOST_SHARDS}, such as 3/50"
        )

    def select(self, keys: Sequence[int]) -> list[int]:
        """Return the positions of the keys in this shard."""
        return [at for at, key in enumerate(keys) if key % self.total == self.number - 1]

    def select_by_size(self, keys: Sequence[int], sizes: Sequence[int]) -> list[int]:
        """Return the positions of the keys in this shard, when all shards get about the same number of bytes.

        The largest one goes to the smallest shard so far, and so on. An unknown size (0) counts as the mean.
        """
        known = [size for size in sizes if size]
        mean = sum(known) // len(known) if known else 1
        largest = dict(
            sorted(zip(keys, (size or mean for size in sizes), strict=True), key=lambda one: (-one[1], one[0]))
        )
        shards = [(0, number) for number in range(1, self.total + 1)]
        own: set[int] = set()
        for key, size in largest.items():
            total, number = shards[0]
            heapq.heapreplace(shards, (total + size, number))
            if number == self.number:
                own.add(key)
        return [at for at, key in enumerate(keys) if key in own]


def pack_shares(shares: Sequence[tuple[int, int]]) -> bytes:
    """Return pairs of key and size as bytes: all keys, then all sizes, eight bytes each."""
    return array("Q", [*(key for key, _ in shares), *(size for _, size in shares)]).tobytes()


def unpack_shares(data: bytes) -> tuple[array[int], array[int]]:
    """Return the keys and the sizes of `pack_shares`."""
    values = array("Q", data)
    return values[: len(values) // 2], values[len(values) // 2 :]
