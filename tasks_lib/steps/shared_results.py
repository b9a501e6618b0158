"""Results that machines share: adopt what another machine made, and let the stores have what this one makes.

The content comes first, then the record: a result of the cache always names content that was there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from tasks_lib.cache import Result
from tasks_lib.cache.results import Provenance
from tasks_lib.context import Context
from tasks_lib.digest import Integrity
from tasks_lib.download.unverified import UnverifiedRequest
from tasks_lib.errors import AllSourcesFailedError
from tasks_lib.network import redacted
from tasks_lib.progress import FailedSource, Progress
from tasks_lib.store import record_key
from tasks_lib.store.upload import make_record

if TYPE_CHECKING:
    from tasks_lib.store.fleet import Fleet, StoreMember

#: How the reason begins why a store without an artifact did not provide it.
_NOT_FOUND: Final = ("HTTP 404", "HTTP 410")


class MadeContent(NamedTuple):
    """Content in the cache that a step made, and its provenance."""

    integrity: Integrity
    provenance: Provenance


def obtain_result(
    context: Context, key: str, name: str, platform: str, make: Callable[[], MadeContent], progress: Progress
) -> Integrity:
    """Return the result of a recipe key: from the cache, else from a store, else what `make` makes, which is shared.

    Args:
        context: the context of this run.
        key: the recipe key.
        name: the name of the artifact, for messages.
        platform: `any`, or the platform of this machine for what depends on it.
        make: makes the content, under the lock of `key`.
        progress: receives progress and warnings.

    Raises:
        CacheUnavailableError, CancelledError, SettingError: as `adopt_shared_result`.
        FetchError: as `make`.
    """
    found = find_result(context, key)  # needs no lock, which a read-only cache does not offer
    if found is not None:
        return found
    with context.cache.lock(key, progress, name):
        found = find_result(context, key)
        if found is None and adopt_shared_result(context, key, name, platform, progress):
            found = find_result(context, key)
        if found is None:
            found, provenance = make()
            context.cache.record(Result(key=key, integrity=found, provenance=provenance))
            share_result(context, key, found, platform)
        return found


def find_result(context: Context, key: str) -> Integrity | None:
    """Return the integrity of the result of a recipe key if the cache has its content, else None."""
    result = context.cache.result(key)
    return result.integrity if result is not None and context.cache.has(result.integrity) else None


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


def share_result(context: Context, key: str, integrity: Integrity, platform: str, urls: Sequence[str] = ()) -> None:
    """Let the stores have a result that was made here, or obtained from `urls`, if this run writes to them."""
    fleet = context.fleet
    if fleet is not None and fleet.uploads is not None:
        fleet.uploads.add(make_record(key, integrity, platform, urls))
