"""The local cache: the only code that writes to the `cache/` directory.

Invariant: an entry is either absent, or complete and exactly the pinned bytes. Nothing that a failing run does can
change or remove another entry. A blob gets its name once, after its bytes are hashed and synced.
docs/cache.md describes the files and the behaviour on shared, read-only and network file systems.
"""

from __future__ import annotations

from tasks_lib.cache.blobs import LOCK_TIMEOUT_S, Options
from tasks_lib.cache.cache import Cache
from tasks_lib.cache.partial import Partial
from tasks_lib.cache.results import Confirmation, Result, identify_url
from tasks_lib.cache.writer import Writer
from tasks_lib.fs.atomic import write_best_effort
from tasks_lib.fs.copying import LinkMode, can_clone, link_or_copy, link_or_copy_name
from tasks_lib.fs.files import Durability
from tasks_lib.fs.locks import locked
from tasks_lib.fs.trust import Trust

__all__ = [
    "LOCK_TIMEOUT_S",
    "Cache",
    "Confirmation",
    "Durability",
    "LinkMode",
    "Options",
    "Partial",
    "Result",
    "Trust",
    "Writer",
    "can_clone",
    "identify_url",
    "link_or_copy",
    "link_or_copy_name",
    "locked",
    "write_best_effort",
]
