"""Source packages: obtain a .dsc and the files that it names, and write them as one deterministic archive.

Each file is a blob with its own digest: it is mirrored, resumed and shared like a download. The .dsc is pinned by its
definition; it pins the others. The archive is flat, so that `dpkg-source -x NAME.dsc` works where it is extracted.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

from tasks_lib import recipe
from tasks_lib.archive import make_entry, write_sized
from tasks_lib.cache import Result
from tasks_lib.context import Context
from tasks_lib.debian.source import MAX_DSC_BYTES, PackageFile, SourcePackage, parse_dsc, require_covered, signed_text
from tasks_lib.definitions import DebianSource, Fetch, StaticUrl
from tasks_lib.digest import Digest, Integrity
from tasks_lib.errors import CacheError, FetchError, SignatureError, SourcePackageError, escape_text
from tasks_lib.fs.local_urls import is_local_file
from tasks_lib.network import redacted
from tasks_lib.platforms import ANY_PLATFORM
from tasks_lib.progress import Progress, Silent
from tasks_lib.signature import ValidSignature
from tasks_lib.signature.packets import key_packets
from tasks_lib.steps.artifacts import adopt_shared_result, find_result, publish_from_cache, share_result
from tasks_lib.steps.builds import Artifact
from tasks_lib.steps.checks import find_pinned
from tasks_lib.steps.definition_types import DefinitionSteps
from tasks_lib.steps.members import Member, obtain_members
from tasks_lib.steps.pinned_file import list_urls, obtain_pinned, to_member
from tasks_lib.steps.signatures import read_measured_keys
from tasks_lib.store import Store, blob_key
from tasks_lib.units import format_size

#: Bytes of a file that are copied into the archive at once.
_PIECE: Final = 1 << 20
#: The next step when no source has a file that a .dsc names.
_PINNED: Final = "the .dsc pins its files: add a mirror that has them, or pin the .dsc of another version"


class _DebianSourceSteps(DefinitionSteps[DebianSource]):
    """The steps of one source package, whose members are the .dsc and the files that it names, or the tarball."""

    def fetch(self, artifact: Artifact, progress: Progress) -> None:
        """Fetch the files, and publish their archive; of a tarball, publish the file itself.

        Raises:
            AllSourcesFailedError, OfflineError, CacheUnavailableError, CancelledError: as `Downloader.obtain`.
            SourcePackageError, UnsafePathError: the .dsc is not one, or does not pin its files.
            SignatureError, ToolError: the .dsc is not signed as required, or gpg is missing or hangs.
            ArchiveError: a file exceeds the limits of archives.
        """
        context, source = self.context, self.source
        if self._is_checked(artifact) and publish_from_cache(context, artifact):
            return  # needs no lock, which a read-only cache does not offer
        with context.cache.lock(artifact.key, progress, artifact.path.name):
            if not (self._is_checked(artifact) and _is_made(context, artifact, progress)):
                integrity = obtain_pinned(context, self.definition, source, progress)
                if source.form == "dsc":
                    _Making(context, self.definition, source, artifact, progress).make(integrity)
        publish_from_cache(context, artifact)

    def _is_checked(self, artifact: Artifact) -> bool:
        """Return whether neither a signature nor the URL of the definition is left to be checked."""
        if artifact.verdict and self.context.cache.result(artifact.verdict) is None:
            return False
        integrity = find_pinned(self.context, self.source)
        result = self.context.cache.result(recipe.fetch_key(integrity)) if integrity is not None else None
        return result is None or not result.is_due(self.source.url, time.time())

    def needs_network(self, artifact: Artifact) -> bool:
        """Return whether the files are available only from the network; a local .dsc has them beside it."""
        if any(map(is_local_file, list_urls(self.context, self.definition, self.source))):
            return False
        if self.has_local(None, artifact.key):
            return False
        members = self.find_members()
        is_known = len(members) > 1 or (bool(members) and self.source.form == "tarball")
        return not is_known or not all(self._is_here(one.integrity) for one in members)

    def _is_here(self, integrity: Integrity) -> bool:
        return self.context.cache.has(integrity) or self.has_local(integrity, "")

    def list_members(self, directory: Path) -> list[Member]:
        """Return the files as far as the cache shows them."""
        del directory
        integrity = find_pinned(self.context, self.source)
        if integrity is None:
            return []
        return self._list_files(integrity, lambda: read_dsc(self.context, integrity))

    def find_members(self) -> list[Member]:
        """Return the files, with a .dsc that only a store has.

        Raises:
            CacheUnavailableError: the cache cannot be written.
        """
        context, integrity = self.context, find_pinned(self.context, self.source)
        if integrity is not None and context.fleet is not None and not context.cache.has(integrity):
            context.sources.obtain_from_stores(self.source.file(integrity).file_name, integrity, Silent(), "origins")
        return self.list_members(Path())

    def find_stored_members(self, store: Store) -> list[Member]:
        """Return the files as the .dsc in a store names them; [] if the store does not have it.

        Raises:
            StoreUnavailableError, StoreRefusedError: the store cannot be read.
        """
        source, key = self.source, blob_key(self.source.digest.hex)
        item = store.find(key)
        if item is None:
            return []
        content = (store.read(key, MAX_DSC_BYTES) or b"") if source.form == "dsc" else b""
        size = next((size for size in (source.size, len(content), item.size) if size > 0), 0)

        def read() -> bytes:
            if hashlib.sha256(content).hexdigest() != source.digest.hex:
                raise CacheError("the store has another content")
            return content

        return self._list_files(Integrity(size=size, digest=source.digest), read)

    def _list_files(self, integrity: Integrity, read: Callable[[], bytes]) -> list[Member]:
        """Return the pinned file, and those that it names if it can be read."""
        try:
            files = list_files(self.source, integrity, read() if self.source.form == "dsc" else b"")
        except FetchError:
            files = [self.source.file(integrity)]
        return list(map(to_member, files))

    def obtain_downloads(self, progress: Progress) -> list[StaticUrl]:
        """Bring the .dsc and the files that it names, or the tarball, into the cache; return them as downloads.

        Raises:
            FetchError: as `fetch`, without a signature.
        """
        context, source = self.context, self.source
        integrity = obtain_pinned(context, self.definition, source, progress)
        files = list_files(source, integrity, read_dsc(context, integrity) if source.form == "dsc" else b"")
        obtain_members(context, self.definition, map(to_member, files), progress, hint=_PINNED)
        return files

    def list_digests(self) -> list[Digest]:
        """Return the pinned digest."""
        return [self.source.digest]

    def list_kept_keys(self) -> set[str]:
        """Return the key of the pinned file."""
        return {recipe.pinned_key(self.source)}


STEPS: Final = _DebianSourceSteps


def _is_made(context: Context, artifact: Artifact, progress: Progress) -> bool:
    """Return whether the cache has the artifact, after asking the stores for it."""
    return find_result(context, artifact.key) is not None or adopt_shared_result(
        context, artifact.key, artifact.path.name, ANY_PLATFORM, progress
    )


class _Making:
    """The making of one archive from a .dsc in the cache."""

    def __init__(
        self, context: Context, definition: Fetch, source: DebianSource, artifact: Artifact, progress: Progress
    ) -> None:
        self._context, self._definition, self._source = context, definition, source
        self._artifact, self._progress = artifact, progress

    def make(self, dsc: Integrity) -> None:
        """Verify the .dsc, obtain the files that it names, and write the archive."""
        content = read_dsc(self._context, dsc)
        if self._artifact.verdict:
            self._verify(content, dsc)
        package = parse_dsc(content, self._source.file(dsc).file_name)
        if not _is_made(self._context, self._artifact, self._progress):
            files = [to_member(file_beside(self._source, one)) for one in package.files]
            obtain_members(self._context, self._definition, files, self._progress, hint=_PINNED)
            self._write(package, dsc)

    def _verify(self, content: bytes, dsc: Integrity) -> None:
        """Verify the signature of the .dsc, and record the verdict.

        Raises:
            SignatureError, ToolError: as `Gpg.verify_clearsigned`; there is text that the signature does not cover.
        """
        self._progress.phase("verify")
        try:
            signed_text(content)  # text around the signed one is the reason that counts
            valid, text = self._find_signature(content)
            require_covered(content, text)
        except ValueError as error:
            raise SignatureError(f"the .dsc is not text: {escape_text(str(error))}") from error
        if warning := valid.warning(time.time()):
            self._progress.warn(f"{self._definition.name}: {warning}")
        self._context.cache.record(Result(key=self._artifact.verdict, integrity=dsc, provenance=valid.facts()))

    def _find_signature(self, content: bytes) -> tuple[ValidSignature, bytes]:
        """Return the signature by a pinned key that expires last, and the text that gpg verified."""
        keys = read_measured_keys(self._source, self._artifact.verdict)
        good, text = self._context.gpg.verify_by_any(
            content,
            keys=b"".join(map(key_packets, keys.values())),
            fingerprints=self._source.signed_by,
            progress=self._progress,
        )
        valid = max(good, key=lambda one: one.key_expires or math.inf)
        if valid.key_expires and valid.key_expires < time.time():
            raise SignatureError(
                f"signature refused: its key {valid.key} has expired",
                hint="update the key file: the maintainer may have extended the expiry of the key",
            )
        return valid, text

    def _write(self, package: SourcePackage, dsc: Integrity) -> None:
        """Write the archive of all files, record it, and let the stores have it."""
        context, source = self._context, self._source
        self._progress.phase("repack")
        limits = context.limits(source.archive)
        content = {one.name.encode(): one.integrity for one in (PackageFile(package.dsc_name, dsc), *package.files)}
        entries = [
            make_entry(name, "file", limits, archive=source.artifact_name, size=integrity.size)
            for name, integrity in sorted(content.items())
        ]
        with context.cache.writer() as writer:
            tar = write_sized(
                entries,
                lambda entry: self._read(content[entry.path]),
                name=source.artifact_name,
                limits=limits,
                mtime=context.mtime,
                write=writer.write,
                progress=self._progress,
            )
            integrity = writer.commit()
        provenance: dict[str, str | int | float] = {
            "url": redacted(source.url),
            "package": f"{package.name} {package.version}",
            "files": len(content),
            "tar": f"sha256:{tar}",
        }
        context.cache.record(Result(key=self._artifact.key, integrity=integrity, provenance=provenance))
        share_result(context, self._artifact.key, integrity, ANY_PLATFORM)

    def _read(self, integrity: Integrity) -> Iterator[bytes]:
        with self._context.cache.open(integrity) as file:
            while piece := file.read(_PIECE):
                self._progress.advance(len(piece))
                yield piece


# --- the files of a source package ------------------------------------------------------------


def read_dsc(context: Context, integrity: Integrity) -> bytes:
    """Return the content of a .dsc in the cache.

    Raises:
        SourcePackageError: it is too large.
        BlobMissingError, BlobCorruptError, CacheUnavailableError: as `Cache.open`.
    """
    if integrity.size > MAX_DSC_BYTES:
        raise SourcePackageError(
            f"the .dsc has {integrity.size} bytes, more than {format_size(MAX_DSC_BYTES)}",
            hint="check that `dsc: url:` is the URL of a .dsc",
        )
    with context.cache.open(integrity) as file:
        return file.read()


def file_beside(source: DebianSource, one: PackageFile) -> StaticUrl:
    """Return a file that a .dsc names as a download."""
    return source.file(one.integrity, quote(one.name, safe="+~:@=,"))


def list_files(source: DebianSource, integrity: Integrity, content: bytes) -> list[StaticUrl]:
    """Return the .dsc with this content and the files that it names, or the tarball, as downloads.

    Raises:
        SourcePackageError, UnsafePathError, SignatureError: as `parse_dsc`.
    """
    pinned = source.file(integrity)
    if source.form == "tarball":
        return [pinned]
    return [pinned, *(file_beside(source, one) for one in parse_dsc(content, pinned.file_name).files)]
