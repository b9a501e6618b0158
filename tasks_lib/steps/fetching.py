"""Fetching: the content of a definition, from the cache or its sources."""

from __future__ import annotations

import time
from functools import partial
from typing import Final

from tasks_lib import recipe
from tasks_lib.context import Context
from tasks_lib.definitions import Debian, DebianSource, Fetch, Git, Hg, RefusedDefinition, StaticUrl
from tasks_lib.download import Request
from tasks_lib.errors import ToolError
from tasks_lib.gil import serialized
from tasks_lib.progress import Progress
from tasks_lib.steps.artifacts import publish, publish_from_cache
from tasks_lib.steps.plan import Artifact, commit_record
from tasks_lib.steps.request_headers import request_headers

#: Size in bytes up to which bookkeeping dominates a download, so that one at a time is fastest. Larger downloads are
#: hashed and written concurrently.
SMALL: Final = 1 << 20


def fetch(context: Context, definition: Fetch, artifact: Artifact, progress: Progress) -> None:
    """Fetch the content of a definition into the cache, verify its signatures, and publish it.

    Raises:
        AllSourcesFailedError, OfflineError, CacheUnavailableError, CancelledError: as `Downloader.obtain`.
        TransportError, ToolError, ArchiveError, IntegrityError: for a commit, as `fetch_commit`.
        LockStaleError, LockMismatchError, UnsafePathError, IndexDigestError, ArchiveError: as `fetch_packages`.
        SourcePackageError, UnsafePathError: for a source package, as `fetch_source_package`.
        SignatureError: the bytes are not signed as required; they stay in the cache, since their digest matches.
    """
    source = definition.source
    if isinstance(source, Debian):
        from tasks_lib.steps.debian import fetch_packages  # slow to import, needed only for packages

        fetch_packages(context, definition, source, artifact, progress)
    elif isinstance(source, DebianSource):
        from tasks_lib.steps.source_package import fetch_source_package  # as above

        fetch_source_package(context, definition, source, artifact, progress)
    elif not isinstance(source, StaticUrl):
        _fetch_commit(context, source, artifact, progress)
    elif source.vouchers:
        _fetch_url(
            context, definition.name, source, artifact, progress
        )  # waits for programs such as gpg: no need to serialize
    else:
        with serialized(source.integrity.size, SMALL):
            known = context.cache.has(source.integrity)
            if not known or _is_due(context, source) or not publish_from_cache(context, artifact):
                _fetch_url(context, definition.name, source, artifact, progress)


def _is_due(context: Context, source: StaticUrl) -> bool:
    """Return whether the URL of a definition is to be asked whether it has the cached content."""
    result = context.cache.result(recipe.fetch_key(source.integrity))
    return result is not None and result.is_due(source.url, time.time())


def _fetch_url(context: Context, name: str, source: StaticUrl, artifact: Artifact, progress: Progress) -> None:
    if context.sources.obtain(build_request(context, name, source, artifact), progress):
        context.fetched.add((source.integrity.digest.hex, source.url))
    if source.vouchers:
        from tasks_lib.steps.signatures import verify_signatures  # slow to import, needed only with signatures

        verify_signatures(context, name, source, artifact.verdict, progress)
    publish(context, source.integrity, artifact)


def build_request(context: Context, name: str, source: StaticUrl, artifact: Artifact | None = None) -> Request:
    """Return what to download for a source, with the name that messages use, and the artifact that it becomes."""
    places = source.places
    return Request(
        name=name,
        integrity=source.integrity,
        urls=tuple(place.url for place in places),
        headers=partial(request_headers, context, name, source),
        home=source.url,
        strict=frozenset(place.url for place in places if place.go_on == "not-found"),
        refused={place.url: place.refused for place in places if place.refused},
        by_digest=frozenset(place.url for place in places if place.by == "content"),
        artifact=artifact.path if artifact is not None and not source.vouchers else None,
    )


def _fetch_commit(context: Context, source: Git | Hg, artifact: Artifact, progress: Progress) -> None:
    from tasks_lib.steps.commit import fetch_commit  # slow to import, needed only for commits

    fetch_commit(context, source, progress)
    with context.cache.writer() as writer:
        writer.write(commit_record(source))
        writer.commit(artifact.integrity)
    publish_from_cache(context, artifact)


def fail_refused(_context: Context, one: RefusedDefinition, _progress: Progress) -> None:
    """Fail with the reason why a definition of a Taskgraph tree is not supported.

    Raises:
        ToolError: always.
    """
    raise ToolError(f"{one.task}: {one.reason}", hint="; ".join(filter(None, (one.hint, f"see {one.place}"))))


def skip_unavailable(_context: Context, one: RefusedDefinition, _progress: Progress) -> str:
    """Return why a definition is skipped: it is not available for the platform of this run."""
    return one.reason
