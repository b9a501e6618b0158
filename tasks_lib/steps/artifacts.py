"""Artifacts: fetch them from their sources, repack them, and publish them under descriptive names."""

from __future__ import annotations

import contextlib
import os
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from tasks_lib import recipe
from tasks_lib.cache import Confirmation, Result
from tasks_lib.context import Context
from tasks_lib.definitions import Fetch, Git, Hg, StaticUrl
from tasks_lib.digest import Integrity
from tasks_lib.errors import CacheUnavailableError, TreeError, UnsupportedArchiveError
from tasks_lib.gil import serialized
from tasks_lib.network import redacted
from tasks_lib.progress import Progress
from tasks_lib.steps.plan import Artifact, commit_record

if TYPE_CHECKING:
    from tasks_lib.download import Request

#: Size in bytes up to which bookkeeping dominates a download, so that one at a time is fastest. Larger downloads are
#: hashed and written concurrently.
_SMALL: Final = 1 << 20


def find_integrity(context: Context, artifact: Artifact) -> Integrity | None:
    """Return the integrity of the artifact, None if it has not been built yet."""
    if artifact.integrity is not None:
        return artifact.integrity
    result = context.cache.result(artifact.key)
    return result.integrity if result else None


def is_published(context: Context, artifact: Artifact) -> bool:
    """Return whether the cache has the artifact, its signatures are verified, and its published file is unchanged.

    Return False if the cache cannot be read.
    """
    try:
        integrity = find_integrity(context, artifact)
        if integrity is None or not context.cache.has(integrity) or not _is_signature_verified(context, artifact):
            return False
        return context.cache.matches(artifact.path, integrity) and _is_linked(artifact)
    except CacheUnavailableError:
        return False  # the step reports the error


def _read_result(context: Context, definition: Fetch) -> Result | None:
    """Return the result of a download, None for a commit or if there is none."""
    source = definition.source
    return context.cache.result(recipe.fetch_key(source.integrity)) if isinstance(source, StaticUrl) else None


def is_asked(context: Context, definition: Fetch) -> bool:
    """Return whether the URL of a definition confirmed the cached content, or was asked in vain."""
    result = _read_result(context, definition)
    return result is None or result.confirmation(url_of(definition)) is not Confirmation.UNASKED


def describe_unconfirmed(context: Context, definition: Fetch) -> str:
    """Return what is not confirmed about the cached content of a download, "" if it is confirmed or absent."""
    source = definition.source
    if isinstance(source, StaticUrl) and (source.integrity.digest.hex, source.url) in context.fetched:
        return ""
    result, url = _read_result(context, definition), url_of(definition)
    if result is None or result.confirmation(url) is Confirmation.CONFIRMED or not context.cache.has(result.integrity):
        return ""
    asked = "could not be reached" if result.confirmation(url) is Confirmation.UNREACHED else "has not confirmed them"
    return f"not confirmed: these bytes were fetched from {result.origin}; {redacted(url)} {asked}"


def url_of(definition: Fetch) -> str:
    """Return the URL of a download as its definition writes it, "" for a commit."""
    return definition.source.url if isinstance(definition.source, StaticUrl) else ""


def list_artifact_files(context: Context, artifact: Artifact) -> list[str]:
    """Return the files on which `is_published` depends."""
    integrity = find_integrity(context, artifact)
    files = [
        str(artifact.path),
        *([str(artifact.link)] if artifact.link else []),
        *(context.cache.inputs(digest=integrity.digest) if integrity else []),
    ]
    keys = [artifact.verdict, "" if artifact.integrity else artifact.key]
    return files + [path for key in keys if key for path in context.cache.inputs(key=key)]


def read_provenance(context: Context, artifact: Artifact) -> dict[str, str | int | float]:
    """Return the recorded provenance of the artifact and of its signatures; {} if there is none."""
    facts: dict[str, str | int | float] = {}
    for key in (artifact.key, artifact.verdict):
        result = context.cache.result(key) if key else None
        if result is not None:
            facts |= dict(result.provenance)
            facts.setdefault("made size", result.integrity.size)
            facts.setdefault("made digest", str(result.integrity.digest))
    return facts


def _is_signature_verified(context: Context, artifact: Artifact) -> bool:
    """Return whether its signatures were verified under the current policy; True if it needs none."""
    return not artifact.verdict or context.cache.result(artifact.verdict) is not None


def needs_network(context: Context, definition: Fetch, artifact: Artifact) -> bool:
    """Return whether the artifact is available only from the network: not from the cache or a local file."""
    source = definition.source
    if isinstance(source, Git | Hg):
        made = context.cache.result(recipe.repository_key(source, version=context.writer_version))
        if source.repo.startswith("file:") or (made is not None and context.cache.has(made.integrity)):
            return False
    else:
        from tasks_lib.download.local_files import is_local_file  # slow to import, needed only when offline

        if any(is_local_file(place.url) for place in source.places):
            return False
    integrity = find_integrity(context, artifact)
    return integrity is None or not context.cache.has(integrity)


def publish(context: Context, integrity: Integrity, artifact: Artifact) -> None:
    """Give a blob of the cache the names of the artifact; the link only if the build directory can be written.

    Raises:
        CacheUnavailableError: the cache cannot be written.
    """
    if not context.cache.matches(artifact.path, integrity):
        context.cache.publish(integrity, artifact.path)
    with contextlib.suppress(TreeError):  # a run may fill a cache beside a build directory of another user
        link_artifact(artifact)


def link_artifact(artifact: Artifact) -> None:
    """Create the link to an artifact, unless it exists.

    Raises:
        TreeError: it cannot be created.
    """
    if _is_linked(artifact):
        return
    from tasks_lib.fs.atomic import replace_symlink  # slow to import, needed only when an artifact is new

    assert artifact.link is not None, "an artifact without a link counts as linked"
    try:
        replace_symlink(artifact.link_text, artifact.link)
    except OSError as error:
        raise TreeError(
            f"cannot link {artifact.link}: {error.strerror or error}", hint="check permissions and existing entries"
        ) from error


def _is_linked(artifact: Artifact) -> bool:
    try:
        return artifact.link is None or os.readlink(artifact.link) == artifact.link_text  # noqa: PTH115  # text
    except OSError:
        return False


def publish_from_cache(context: Context, artifact: Artifact) -> bool:
    """Publish the artifact from the cache; return False if the cache does not have it.

    Raises:
        CacheUnavailableError: the cache cannot be written.
    """
    integrity = find_integrity(context, artifact)
    if integrity is None or not context.cache.has(integrity):
        return False
    publish(context, integrity, artifact)
    return True


def fetch(context: Context, definition: Fetch, artifact: Artifact, progress: Progress) -> None:
    """Fetch the content of a definition into the cache, verify its signatures, and publish it.

    Raises:
        AllSourcesFailedError, OfflineError, CacheUnavailableError, CancelledError: as `Downloader.obtain`.
        TransportError, ToolError, ArchiveError, IntegrityError: for a commit, as `fetch_commit`.
        SignatureError: the bytes are not signed as required; they stay in the cache, since their digest matches.
    """
    source = definition.source
    if not isinstance(source, StaticUrl):
        _fetch_commit(context, source, artifact, progress)
    elif source.vouchers:
        _fetch_url(
            context, definition.name, source, artifact, progress
        )  # waits for programs such as gpg: no need to serialize
    else:
        with serialized(source.integrity.size, _SMALL):
            known = context.cache.has(source.integrity)
            if not known or _is_due(context, source) or not publish_from_cache(context, artifact):
                _fetch_url(context, definition.name, source, artifact, progress)


def _is_due(context: Context, source: StaticUrl) -> bool:
    """Return whether the URL of a definition is to be asked whether it has the cached content."""
    result = context.cache.result(recipe.fetch_key(source.integrity))
    return result is not None and result.is_due(source.url, time.time())


def _fetch_url(context: Context, name: str, source: StaticUrl, artifact: Artifact, progress: Progress) -> None:
    if context.sources.obtain(_build_request(context, name, source), progress):
        context.fetched.add((source.integrity.digest.hex, source.url))
    if source.vouchers:
        from tasks_lib.steps.signatures import verify_signatures  # slow to import, needed only with signatures

        verdict = verify_signatures(context, name, source, artifact.verdict, progress)
        with context.cache.lock(source.integrity.digest.hex, progress):
            known = context.cache.result(artifact.key) or Result(key=artifact.key, integrity=source.integrity)
            context.cache.record(known.with_origins({**known.provenance, **verdict}, {}))
    publish(context, source.integrity, artifact)


def _build_request(context: Context, name: str, source: StaticUrl) -> Request:
    from tasks_lib.download import Request  # slow to import, needed only when a task downloads

    places = source.places
    return Request(
        name=name,
        integrity=source.integrity,
        urls=tuple(place.url for place in places),
        headers=partial(context.request_headers, name, source),
        home=source.url,
        strict=frozenset(place.url for place in places if place.go_on == "not-found"),
        refused={place.url: place.refused for place in places if place.refused},
        by_digest=frozenset(place.url for place in places if place.by == "content"),
    )


def _fetch_commit(context: Context, source: Git | Hg, artifact: Artifact, progress: Progress) -> None:
    from tasks_lib.steps.commit import fetch_commit  # slow to import, needed only for commits

    fetch_commit(context, source, progress)
    with context.cache.writer() as writer:
        writer.write(commit_record(source))
        writer.commit(artifact.integrity)
    publish_from_cache(context, artifact)


def repack(context: Context, definition: Fetch, origin: Artifact, artifact: Artifact, progress: Progress) -> None:
    """Repack a downloaded archive or a commit as a normalised archive, and publish it.

    Raises:
        ArchiveError: the archive is rejected; the download stays in the cache, since its digest matches.
        BlobMissingError, BlobCorruptError: the download disappeared or changed in the cache.
        CacheUnavailableError, CancelledError: as `fetch`.
        TransportError, ToolError, IntegrityError: for a commit, as `commit_archive`.
    """
    from tasks_lib.archive import Reshape, detect_format  # slow to import, needed only when a task repacks
    from tasks_lib.archive import repack as repack_archive  # as above

    source = definition.source
    if not isinstance(source, StaticUrl):
        from tasks_lib.steps.commit import commit_archive  # slow to import, needed only for commits

        commit_archive(context, source, progress)
        publish_from_cache(context, artifact)
        return
    if origin.integrity is None:
        raise AssertionError("the definition of a download has its integrity")
    if publish_from_cache(context, artifact):  # needs no lock, which a read-only cache does not offer
        return
    with context.cache.lock(artifact.key, progress, artifact.path.name):
        if publish_from_cache(context, artifact):
            return
        progress.phase("repack", total=source.integrity.size)
        cache = context.cache
        with cache.open(origin.integrity) as file, cache.temporary() as spool, cache.writer() as writer:
            limits = context.limits((*source.archive, *source.shape))
            kind = source.format or detect_format(file, source.file_name, limits)
            if kind is None:
                reason = "has no supported archive format"
                raise UnsupportedArchiveError(archive=source.file_name, reason=reason, code="WRONG_FORMAT")
            tar_digest = repack_archive(
                file,
                name=source.file_name,
                format=kind,
                reshape=Reshape(strip=source.strip_components, prefix=source.add_prefix),
                limits=limits,
                mtime=context.mtime,
                spool=spool,
                write=writer.write,
                progress=progress,
            )
            integrity = writer.commit()
        cache.record(Result(key=artifact.key, integrity=integrity, provenance={"tar": f"sha256:{tar_digest}"}))
        publish_from_cache(context, artifact)
