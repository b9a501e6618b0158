"""Results that machines share: adopt what another machine made, and let the stores have what this one makes.

The content comes first, then the record: a result of the cache always names content that was there.
"""

from __future__ import annotations

from typing import Final

from tasks_lib.cache import Result
from tasks_lib.context import Context
from tasks_lib.digest import Integrity
from tasks_lib.progress import Progress

#: The platform of results that are the same on every machine. Source: `store.records.ANY_PLATFORM`.
ANY: Final = "any"


def adopt_shared_result(context: Context, key: str, name: str, platform: str, progress: Progress) -> bool:
    """Bring the result of a recipe key and its content from a store into the cache; return whether there is one.

    A result that the cache has is not replaced. The caller holds the lock of `key`.

    Args:
        context: the context of this run.
        key: the recipe key.
        name: the name of the artifact, for messages.
        platform: `any`, or the platform of this machine for what depends on it.
        progress: receives progress, and a warning for a record that is not trusted.

    Raises:
        CacheUnavailableError, CancelledError: as `Downloader.obtain`.
        SettingError: the stores cannot be opened.
    """
    fleet = context.fleet
    if fleet is None:
        return False
    known = context.cache.result(key)
    for member, record in fleet.records(key, platform, progress):
        if known is not None and known.integrity != record.integrity:
            continue  # the same recipe had another output here
        if context.sources.obtain_from_stores(name, record.integrity, progress):
            signer = record.signature.keyid[:16] if record.signature is not None else ""
            provenance: dict[str, str | int | float] = {
                "store": member.name,
                "made by": record.made.by,
                "made on": record.made.platform,
                "made at": record.made.at,
                **({"signed by": signer} if signer else {}),
            }
            if known is None:
                context.cache.record(Result(key=key, integrity=record.integrity, provenance=provenance))
            return True
    return False


def share_result(context: Context, key: str, integrity: Integrity, platform: str) -> None:
    """Let the stores have a result that was made here, if this run writes to them."""
    fleet = context.fleet
    if fleet is not None and fleet.uploads is not None:
        from tasks_lib.store.upload import make_record  # slow to import, needed only to write

        fleet.uploads.add(make_record(key, integrity, platform))
