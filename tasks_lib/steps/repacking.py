"""Repacking: a download or a commit as a normalised archive."""

from __future__ import annotations

from functools import partial

from tasks_lib.archive import Reshape, detect_format
from tasks_lib.archive import repack as repack_archive
from tasks_lib.context import Context
from tasks_lib.definitions import Fetch, StaticUrl
from tasks_lib.digest import Integrity
from tasks_lib.errors import UnsupportedArchiveError
from tasks_lib.platforms import ANY_PLATFORM
from tasks_lib.progress import Progress
from tasks_lib.steps.artifacts import MadeContent, obtain_result, publish_from_cache
from tasks_lib.steps.builds import Artifact
from tasks_lib.steps.definition_types import load_steps


def repack(context: Context, definition: Fetch, origin: Artifact, artifact: Artifact, progress: Progress) -> None:
    """Repack a downloaded archive or a commit as a normalised archive, and publish it.

    Raises:
        ArchiveError: the archive is rejected; the download stays in the cache, since its digest matches.
        BlobMissingError, BlobCorruptError: the download disappeared or changed in the cache.
        CacheUnavailableError, CancelledError: as `fetch`.
        TransportError, ToolError, IntegrityError: for a commit, as `commit_archive`.
    """
    source = definition.source
    if not isinstance(source, StaticUrl):
        load_steps(context, definition).repack(artifact, progress)
        return
    if origin.integrity is None:
        raise AssertionError("the definition of a download has its integrity")
    make = partial(_repack, context, source, origin.integrity, progress)
    obtain_result(context, artifact.key, artifact.path.name, ANY_PLATFORM, make, progress)
    publish_from_cache(context, artifact)


def _repack(context: Context, source: StaticUrl, integrity: Integrity, progress: Progress) -> MadeContent:
    progress.phase("repack", total=source.integrity.size)
    cache = context.cache
    with cache.open(integrity) as file, cache.temporary() as spool, cache.writer() as writer:
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
        return MadeContent(writer.commit(), {"tar": f"sha256:{tar_digest}"})
