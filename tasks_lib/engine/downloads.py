"""What the requested tasks would have to download: an offline run is refused, and the stores are asked ahead."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tasks_lib.context import Context
from tasks_lib.definitions import Fetch
from tasks_lib.errors import OfflineError, escape_text
from tasks_lib.graph.actions import step_of
from tasks_lib.incremental.selection import needed
from tasks_lib.steps import needs_network
from tasks_lib.steps.definition_types import load_steps
from tasks_lib.store import blob_key

#: Maximum number of missing artifacts that are named; the others are counted.
_NAMED = 100
#: The end of the message about each of them.
IS_MISSING = ": not in the cache, and the network is off"


def refuse_missing(tasks: Mapping[str, Any], selected: Iterable[str]) -> None:
    """Return if the cache or local files hold everything that the selected tasks fetch.

    Raises:
        OfflineError: names everything that would have to come from the network.
    """
    missing = [
        step.arguments[1].name
        for task in needed(tasks, selected)
        if task.name.startswith("fetch:")
        and (step := step_of(task)) is not None
        and isinstance(step.arguments[1], Fetch)  # not a refused definition
        and needs_network(*step.arguments)
    ]
    if missing:
        lines = [f"{escape_text(name)}{IS_MISSING}" for name in sorted(missing)[:_NAMED]]
        lines += [f"... and {len(missing) - _NAMED} more"] if len(missing) > _NAMED else []
        hint = "nothing was run; run once without offline=1, or copy a cache that holds them"
        raise OfflineError("offline, and this is missing:\n" + "\n".join(lines), hint=hint)


def list_blobs(context: Context, tasks: Mapping[str, Any], selected: Iterable[str]) -> Iterator[str]:
    """Yield the key of each download that the selected tasks need and the cache lacks."""
    for task in needed(tasks, selected):
        step = step_of(task) if task.name.startswith("fetch:") else None
        definition = step.arguments[1] if step is not None else None
        for digest in load_steps(context, definition).list_digests() if isinstance(definition, Fetch) else ():
            if not os.path.exists(context.cache.path(digest)):  # noqa: PTH110  # a hint suffices
                yield blob_key(digest.hex)
