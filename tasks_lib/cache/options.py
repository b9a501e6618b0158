"""Options of a cache. Internal to the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tasks_lib.fs.files import Durability
from tasks_lib.fs.trust import NOBODY, Trust
from tasks_lib.named import NamedTuple

#: Seconds to wait for another process; enough for a download of several gigabytes.
LOCK_TIMEOUT_S: Final = 1800.0


class Options(NamedTuple):
    """Options of a cache; `shared` is the directory of a second, read-only cache that is used when the first misses."""

    durability: Durability = "full"
    lock_timeout_s: float = LOCK_TIMEOUT_S
    trust: Trust = NOBODY
    shared: Path | None = None
