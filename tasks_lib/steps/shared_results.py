"""Results that machines share: adopt what another machine made.

The content comes first, then the record: a result of the cache always names content that was there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tasks_lib.cache import Result
from tasks_lib.context import Context
from tasks_lib.download.unverified import UnverifiedRequest
from tasks_lib.errors import AllSourcesFailedError
from tasks_lib.network import redacted
from tasks_lib.progress import FailedSource, Progress
from tasks_lib.store import record_key

if TYPE_CHECKING:
    from tasks_lib.store.fleet import Fleet, StoreMember

#: How the reason begins why a store without an artifact did not provide it.
_NOT_FOUND: Final = ("HTTP 404", "HTTP 410")


def adopt_from_fleet(context: Context, fleet: Fleet, key: str, name: str, platform: str, progress: Progress) -> bool:
    """Bring the result of a recipe key and its content from a store into the cache; return whether there is one.

    A result that the cache has is not replaced. The caller holds the lock of `key`.

    Args:
        context: the context of this run.
        fleet: its stores.
        key: the recipe key.
        name: the name of the artifact, for messages.
        platform: `any`, or the platform of this machine for what depends on it.
        progress: receives progress, and a warning for a record that is not trusted.

    Raises:
        CacheUnavailableError, CancelledError: as `Downloader.obtain`.
        SettingError: the stores cannot be opened.
    """
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
    return known is None and fleet.trust == "any" and _adopt_artifact(context, fleet, key, name, progress)


def _adopt_artifact(context: Context, fleet: Fleet, key: str, name: str, progress: Progress) -> bool:
    """Bring the result of a recipe key from a store that has artifacts without records, and record who is trusted."""
    item = record_key(key)
    for member in fleet.holders(item, progress):
        transport = member.store.transport
        if member.store.address.has_records or transport is None:
            continue
        location = member.store.locate("GET", item)
        limit = context.settings.limits.max_total_bytes
        request = UnverifiedRequest(name=name, urls=(location.url,), limit=limit, headers=location.headers)
        try:
            integrity = context.asking_once(transport).obtain(request, progress)
        except AllSourcesFailedError as error:
            member.note_missing(item)
            _report(member, error, progress)
            continue
        member.note_held(item)
        fleet.counts.add_read(member.name, integrity.size)
        provenance = {"store": member.name, "trusted from": redacted(location.url)}
        context.cache.record(Result(key=key, integrity=integrity, provenance=provenance))
        return True
    return False


def _report(member: StoreMember, error: AllSourcesFailedError, progress: Progress) -> None:
    """Report why an artifact was not read, unless no task made it."""
    reason = error.attempts[-1].reason if error.attempts else error.message
    if not reason.startswith(_NOT_FOUND):
        progress.failed_source(FailedSource("store", member.name, reason))
