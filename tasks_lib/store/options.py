"""How a store is to behave, as a value; what each means to a user stands in docs/cache.md."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from tasks_lib.store.files import Durability
from tasks_lib.store.trust import NOBODY, Trust

#: Raised when the layout changes; directories of older formats can then be pruned.
FORMAT: Final = "v1"
#: Seconds to wait for another process; a download of some gigabytes fits.
LOCK_TIMEOUT_S: Final = 1800.0


class Options(NamedTuple):
    """`shared` is a second cache that is only read: what it holds is used from there."""

    durability: Durability = "full"
    lock_timeout_s: float = LOCK_TIMEOUT_S
    trust: Trust = NOBODY
    shared: Path | None = None
