"""The fetches of a run that makes no toolchains: those of its platform, or of its shard."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tasks_lib.definitions import Definitions
from tasks_lib.definitions.platform_selection import SelectedDefinitions
from tasks_lib.incremental.definition_cache import DefinitionCache, share_of
from tasks_lib.platforms import ALL
from tasks_lib.shard import Shard, unpack_shares


def fetches_of_run(definitions: Definitions, platform: str) -> dict[str, None]:
    """Return the fetches of a bare run: those of other platforms only if the setting `platform` is "all"."""
    fetches = definitions.fetches
    if platform == ALL or not isinstance(fetches, SelectedDefinitions):
        return dict.fromkeys(fetches)
    return dict.fromkeys(fetches.of_this_platform())


def fetches_of_shard(
    definitions: Definitions, definition_cache: DefinitionCache, shard: Shard, by: str, wanted: Iterable[str]
) -> tuple[dict[str, None], int]:
    """Return the fetches of a shard, and the known size of their downloads; only those of a platform are decoded.

    Args:
        definitions: all definitions.
        definition_cache: the cache from which they were loaded.
        shard: the shard.
        by: "key", or "size" for shards of about the same number of bytes.
        wanted: the fetches of all shards together.
    """
    names: Sequence[str] = list(wanted)
    keys: Sequence[int]
    sizes: Sequence[int]
    keys, sizes = unpack_shares(definition_cache.shares)
    fetches = definitions.fetches
    if isinstance(fetches, SelectedDefinitions):
        all_keys, all_sizes, chosen = keys, sizes, set(names)
        shares = {
            name: share_of(fetches[name]) if platform else (all_keys[at], all_sizes[at])
            for name, at, platform in fetches.origins()
            if name in chosen
        }
        names, keys, sizes = list(shares), [key for key, _ in shares.values()], [size for _, size in shares.values()]
    own = shard.select(keys) if by == "key" else shard.select_by_size(keys, sizes)
    return {names[at]: None for at in own}, sum(sizes[at] for at in own)
