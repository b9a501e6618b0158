"""The file that the definition of a source package pins: a .dsc or a tarball, perhaps without its size.

Without a size, the file is first found by its digest alone: in a store, else at its URLs, up to a limit. Its size is
recorded, and from then on it is a download as any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from tasks_lib import recipe
from tasks_lib.cache import Result
from tasks_lib.context import Context
from tasks_lib.debian.source import MAX_DSC_BYTES
from tasks_lib.definitions import DebianSource, Fetch, Place, StaticUrl
from tasks_lib.digest import Integrity
from tasks_lib.download.unverified import UnverifiedRequest
from tasks_lib.errors import AllSourcesFailedError, FailedAttempt, StoreError
from tasks_lib.network import redacted
from tasks_lib.platforms import ANY_PLATFORM
from tasks_lib.progress import Progress
from tasks_lib.steps.artifacts import share_result
from tasks_lib.steps.checks import find_pinned
from tasks_lib.steps.members import Member
from tasks_lib.store import blob_key

if TYPE_CHECKING:
    from tasks_lib.store.fleet import StoreMember

_HINT: Final = "mirrors.yml blocks these URLs: add a mirror that it allows, or change its rule"


def obtain_pinned(context: Context, definition: Fetch, source: DebianSource, progress: Progress) -> Integrity:
    """Bring the .dsc or the tarball into the cache, record where it came from, and return its integrity.

    Raises:
        AllSourcesFailedError, OfflineError, CacheUnavailableError, CancelledError: as `Downloader.obtain`.
    """
    integrity = find_pinned(context, source) or _learn_size(context, definition, source, progress)
    file = source.file(integrity)
    if context.sources.obtain(to_member(file).request(context, definition), progress):
        context.fetched.add((source.digest.hex, source.url))
    result = context.cache.result(recipe.fetch_key(integrity))
    provenance = result.provenance if result is not None else {}
    context.cache.record(Result(key=recipe.pinned_key(source), integrity=integrity, provenance=provenance))
    return integrity


def to_member(file: StaticUrl) -> Member:
    """Return a file as a member of its definition."""
    return Member(path=file.file_name, integrity=file.integrity, urls=(file.url, *file.mirrors), home=file.url)


def _learn_size(context: Context, definition: Fetch, source: DebianSource, progress: Progress) -> Integrity:
    """Bring the file into the cache by its digest alone; return its integrity."""
    key = blob_key(source.digest.hex)
    for member in context.fleet.find_holders(key, progress) if context.fleet is not None else ():
        size = _ask_size(member, key, progress)
        if size >= 0:
            integrity = Integrity(size=size, digest=source.digest)
            if context.sources.obtain_from_stores(definition.name, integrity, progress, "origins"):
                return integrity
    return _download(context, definition, source, progress)


def _ask_size(member: StoreMember, key: str, progress: Progress) -> int:
    """Return the size that a store says an item has, -1 if it says none."""
    try:
        item = member.store.find(key)
    except StoreError as error:
        member.note_failure(key, error, progress)
        return -1
    return item.size if item is not None else -1


def _download(context: Context, definition: Fetch, source: DebianSource, progress: Progress) -> Integrity:
    limit = MAX_DSC_BYTES if source.form == "dsc" else context.settings.limits.max_total_bytes
    urls = _require_urls(context, definition, source)
    request = UnverifiedRequest(
        name=definition.name, urls=urls, limit=limit, digest=source.digest, encoding="keep", on_secret="refuse"
    )
    integrity = context.unverified.obtain(request, progress)
    key, shown = recipe.fetch_key(integrity), redacted(source.url)
    result = Result(key=key, integrity=integrity).with_origins({"url": shown}, {source.url: shown})
    context.cache.record(result)
    context.fetched.add((source.digest.hex, source.url))
    share_result(context, key, integrity, ANY_PLATFORM, [source.url])
    return integrity


def list_urls(context: Context, definition: Fetch, source: DebianSource) -> tuple[str, ...]:
    """Return the URLs to try for the file."""
    return tuple(place.url for place in _list_places(context, definition, source) if not place.refused)


def _list_places(context: Context, definition: Fetch, source: DebianSource) -> tuple[Place, ...]:
    """Return what mirrors.yml gives for the file; its rules look at the digest, not at the size."""
    file = source.file(Integrity(size=0, digest=source.digest))
    return context.mirrors.places(msgspec.structs.replace(definition, source=file), file)


def _require_urls(context: Context, definition: Fetch, source: DebianSource) -> tuple[str, ...]:
    """Return the URLs to try for the file.

    Raises:
        AllSourcesFailedError: mirrors.yml refuses all of them.
    """
    if urls := list_urls(context, definition, source):
        return urls
    places = _list_places(context, definition, source)
    attempts = tuple(FailedAttempt(redacted(place.url), place.refused) for place in places)
    details = "; ".join(f"{one.url}: {one.reason}" for one in attempts)
    raise AllSourcesFailedError(f"cannot download {definition.name}\n{details}", attempts=attempts, hint=_HINT)
