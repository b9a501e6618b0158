"""The types of definitions: what differs between them.

What the text of a definition decides is computed here. The rest is one module for each type, with a subclass of
`DefinitionSteps` named `STEPS`; it is imported when a definition of the type needs it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Protocol, TypeVar

from tasks_lib import recipe
from tasks_lib.definitions import (
    Checksums,
    Debian,
    DebianSource,
    Fetch,
    FileReference,
    Git,
    GpgSignature,
    Hg,
    RefusedDefinition,
    StaticUrl,
)
from tasks_lib.digest import Digest, Integrity
from tasks_lib.errors import ToolError
from tasks_lib.fs.fingerprint import Fingerprint
from tasks_lib.gil import give_up
from tasks_lib.named import NamedTuple

if TYPE_CHECKING:
    from tasks_lib.context import Context
    from tasks_lib.progress import Progress
    from tasks_lib.steps.builds import Artifact
    from tasks_lib.steps.members import Member
    from tasks_lib.store import Store

_Source = TypeVar("_Source", bound=StaticUrl | Git | Hg | Debian | DebianSource)


class Files(Protocol):
    """The files that definitions refer to."""

    @property
    def source_fingerprints(self) -> Mapping[str, Fingerprint]:
        """Each file that was read and each path that decides which files match, as it was then."""

    def digest_of(self, path: str) -> Digest:
        """Return the digest of a file's content; a missing file has a digest of its own."""

    def digest(self, one: FileReference) -> Digest:
        """Return the digest of the files that a reference names."""

    def tree_digest(self, references: Iterable[FileReference]) -> str:
        """Return the hex digest of the names and contents of files, as Taskgraph computes it."""

    def paths(self, one: FileReference) -> list[str]:
        """Return the paths of these files, [] if there are none."""

    def watched(self, one: FileReference) -> tuple[str, ...]:
        """Return the paths that change when a reference names other files."""


class PlannedFetch(NamedTuple):
    """What `fetch:NAME` publishes: recipe key and file name, and the integrity if the text of the definition has it.

    `verdict` is the key of the result that records the verification of its signatures, "" if there are none. Without
    `has_link` only its repacked archive has a path that does not change with the key.
    """

    key: str
    file_name: str
    integrity: Integrity | None = None
    verdict: str = ""
    has_link: bool = True


class DefinitionType(NamedTuple):
    """A type: the module with its steps, and what the text decides.

    Attributes:
        module: in `tasks_lib.steps`.
        plan_fetch: returns what is fetched, given the files and the version of the archive writer.
        repack_key: returns the key of what that version repacks, "" if there is nothing to repack.
        read_files: returns the paths of the files whose content is part of the key.
    """

    module: str
    plan_fetch: Callable[[Fetch, Any, Files, str], PlannedFetch]
    repack_key: Callable[[Any, str], str] = lambda _source, _version: ""
    read_files: Callable[[Any], tuple[str, ...]] = lambda _source: ()


class DefinitionSteps(ABC, Generic[_Source]):
    """The steps of one definition, which may consist of blobs (members) beside its artifact."""

    #: Whether the stores share what `fetch:NAME` publishes.
    is_shared: ClassVar[bool] = True

    def __init__(self, context: Context, definition: Fetch) -> None:
        self.context, self.definition = context, definition
        self.source: _Source = definition.source  # type: ignore[assignment]  # `load_steps` finds the class by type

    @abstractmethod
    def fetch(self, artifact: Artifact, progress: Progress) -> None:
        """Fetch the content into the cache, verify it, and publish the artifact.

        Raises:
            FetchError: as `fetch`.
        """

    @abstractmethod
    def needs_network(self, artifact: Artifact) -> bool:
        """Return whether the artifact, which the cache lacks, is available only from the network."""

    def is_short(self) -> bool:
        """Return whether `fetch` is short, and waits only inside `gil.released`."""
        return False

    def has_local(self, integrity: Integrity | None, key: str) -> bool:
        """Return whether a store on this machine has some content, or the result of a key."""
        fleet = self.context.fleet
        return fleet is not None and fleet.has_local(integrity, key)

    def repack(self, artifact: Artifact, progress: Progress) -> None:
        """Make and publish the repacked archive. `repacking` does this for a download; other types have no archive."""
        del progress
        raise AssertionError(f"{artifact.task}: the definition has nothing to repack")

    def list_members(self, directory: Path) -> list[Member]:
        """Return the members that are known here; `directory` is that to which the paths of locks are relative."""
        del directory
        return []

    def find_members(self) -> list[Member]:
        """Return the members, with what a store knows about them.

        Raises:
            CacheUnavailableError: the cache cannot be written.
        """
        return self.list_members(Path())

    def find_stored_members(self, store: Store) -> list[Member]:
        """Return the members that one store knows.

        Raises:
            StoreUnavailableError, StoreRefusedError: the store cannot be read.
        """
        del store
        return self.list_members(Path())

    def list_downloads(self) -> list[StaticUrl]:
        """Return the files of which it consists as downloads, as far as they are known here; [] for a commit."""
        return [one.download for one in self.list_members(Path())]

    def obtain_downloads(self, progress: Progress) -> list[StaticUrl]:
        """Return the files of which it consists as downloads; bring its members into the cache first.

        Raises:
            FetchError: as `fetch`, without a signature.
        """
        del progress
        return self.list_downloads()

    def list_digests(self) -> list[Digest]:
        """Return the digests of the blobs that its text, or its lock, names."""
        return [one.integrity.digest for one in self.list_members(Path())]

    def list_kept_keys(self) -> set[str]:
        """Return the keys of the results that prune keeps, beside those of its artifacts and members."""
        return set()

    def list_repositories(self) -> set[str]:
        """Return the names of the cached repositories that it needs."""
        return set()


def fetch(context: Context, definition: Fetch, artifact: Artifact, progress: Progress) -> None:
    """Fetch the content of a definition into the cache, verify its signatures, and publish it.

    Raises:
        AllSourcesFailedError, OfflineError, CacheUnavailableError, CancelledError: as `Downloader.obtain`.
        TransportError, ToolError, ArchiveError, IntegrityError: for a commit, as `commit_archive`.
        LockStaleError, LockMismatchError, UnsafePathError, IndexDigestError, ArchiveError: for packages.
        SourcePackageError, UnsafePathError: for a source package.
        SignatureError: the bytes are not signed as required; they stay in the cache, since their digest matches.
    """
    steps = load_steps(context, definition)
    if not steps.is_short():
        give_up()  # the turn that the previous task kept
    steps.fetch(artifact, progress)


def load_steps(context: Context, definition: Fetch) -> DefinitionSteps[Any]:
    """Return the steps of a definition; import their module on first use."""
    module = import_module(f"tasks_lib.steps.{_TYPES[type(definition.source)].module}")
    steps: DefinitionSteps[Any] = module.STEPS(context, definition)
    return steps


def fail_refused(_context: Context, one: RefusedDefinition, _progress: Progress) -> None:
    """Fail with the reason why a definition of a Taskgraph tree is not supported.

    Raises:
        ToolError: always.
    """
    raise ToolError(f"{one.task}: {one.reason}", hint="; ".join(filter(None, (one.hint, f"see {one.place}"))))


def skip_unavailable(_context: Context, one: RefusedDefinition, _progress: Progress) -> str:
    """Return why a definition is skipped: it is not available for the platform of this run."""
    return one.reason


# --- what the text decides --------------------------------------------------------------------


def plan_fetch(fetch: Fetch, files: Files, version: str) -> PlannedFetch:
    """Return what `fetch:NAME` publishes; `version` is that of the archive writer."""
    return _TYPES[type(fetch.source)].plan_fetch(fetch, fetch.source, files, version)


def find_repack_key(fetch: Fetch, version: str) -> str:
    """Return the recipe key of the archive that `repack:NAME` publishes, "" if there is nothing to repack."""
    return _TYPES[type(fetch.source)].repack_key(fetch.source, version)


def list_read_files(source: StaticUrl | Git | Hg | Debian | DebianSource) -> tuple[str, ...]:
    """Return the paths of the files whose content is part of the key of a fetch: key files, or the lock."""
    return _TYPES[type(source)].read_files(source)


def commit_record(source: Git | Hg) -> bytes:
    """Return the content of the file that `fetch:NAME` publishes for a commit: its kind and its id."""
    return f"{type(source).__name__.lower()} {source.revision}\n".encode()


def _plan_download(_fetch: Fetch, source: StaticUrl, files: Files, _version: str) -> PlannedFetch:
    name = source.file_name if source.needs_repack else source.published_name
    verdict = _verdict(source, files) if source.vouchers else ""
    return PlannedFetch(
        recipe.fetch_key(source.integrity), name, source.integrity, verdict, has_link=not source.needs_repack
    )


def _plan_commit(fetch: Fetch, source: Git | Hg, _files: Files, _version: str) -> PlannedFetch:
    integrity = Integrity.of(commit_record(source))
    return PlannedFetch(recipe.commit_key(source), f"{fetch.name}.commit", integrity, has_link=False)


def _plan_packages(_fetch: Fetch, source: Debian, files: Files, version: str) -> PlannedFetch:
    key = recipe.packages_key(source, files.digest_of(source.lock_file), version=version)
    return PlannedFetch(key, source.artifact_name)


def _plan_source_package(_fetch: Fetch, source: DebianSource, files: Files, version: str) -> PlannedFetch:
    verdict = _verdict(source, files) if source.signed_by else ""
    return PlannedFetch(recipe.source_package_key(source, version=version), source.artifact_name, verdict=verdict)


def _verdict(source: StaticUrl | DebianSource, files: Files) -> str:
    """Return the key of the result of verifying the signatures of a download, "" if it has none."""
    return recipe.verdict_key(source, {path: files.digest_of(path) for path in list_read_files(source)})


def _repack_key(source: StaticUrl, version: str) -> str:
    return recipe.repack_key(source, version=version) if source.needs_repack else ""


def _repository_key(source: Git | Hg, version: str) -> str:
    return recipe.repository_key(source, version=version)


def _key_files(source: StaticUrl) -> tuple[str, ...]:
    signed = [one.signed_by if isinstance(one, Checksums) else one for one in source.vouchers]
    return tuple(one.key_file for one in signed if isinstance(one, GpgSignature))


_TYPES: Final[Mapping[type, DefinitionType]] = {
    StaticUrl: DefinitionType("static_url", _plan_download, _repack_key, _key_files),
    Git: DefinitionType("commit", _plan_commit, _repository_key),
    Hg: DefinitionType("commit", _plan_commit, _repository_key),
    Debian: DefinitionType("debian", _plan_packages, read_files=lambda source: (source.lock_file,)),
    DebianSource: DefinitionType("source_package", _plan_source_package, read_files=lambda source: source.key_files),
}
