"""Fetch definitions and toolchains as values.

Frozen, and born valid: whoever holds one need not check it again. Locators (URLs, mirrors, headers,
signature places) and identity (size, digest, strip, prefix, artifact name) stand side by side here;
`recipe` says which is which. Pure: no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from tasks_lib.digest import Integrity
from tasks_lib.relpath import RelPath

#: Where Taskgraph puts artifacts of fetch tasks. Source: taskgraph `transforms/fetch`, key `artifact-prefix`.
DEFAULT_ARTIFACT_PREFIX: Final = "public"


class GpgSignature(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """An OpenPGP signature; `fingerprint` pins the one primary key that may sign.

    `key_path` is relative to the repository root, `key_file` is where it is. Without a `sig_url` the text itself is
    clear-signed (only a list of digests can be).
    """

    sig_url: str
    key_path: RelPath
    fingerprint: str = ""
    key_file: str = ""


class Minisign(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """A minisign signature; `public_key` is the base64 line of the key."""

    sig_url: str
    public_key: str


class Checksums(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """A list of digests (`sha256sum`) at `url`, itself signed; it must list the file with the pinned digest."""

    url: str
    signed_by: GpgSignature | Minisign


class Place(NamedTuple):
    """One URL to ask: the next one follows after "any-error", or only after a 404 or 410 ("not-found").

    `by` is "name" for a place in a tree of files, "content" for one that knows digests; `refused` says why it is not
    asked at all.
    """

    url: str
    go_on: str = "any-error"
    by: str = "name"
    refused: str = ""


class StaticUrl(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """One file with promised bytes; `mirrors` serve the same bytes, in order of preference."""

    url: str
    integrity: Integrity
    artifact_name: str
    mirrors: tuple[str, ...] = ()
    strip_components: int = 0
    add_prefix: str = ""
    #: "refuse", or "last": of entries with one name the last one counts
    duplicates: str = "refuse"
    headers: tuple[tuple[str, str], ...] = ()
    gpg_signature: GpgSignature | None = None
    minisign: Minisign | None = None
    checksums: Checksums | None = None
    #: Limits of this archive, by the names of `archive.Limits`; they decide about refusal, never about the output.
    archive: tuple[tuple[str, int | str], ...] = ()
    #: Where `mirrors.yml` says to ask; () when it says nothing.
    rewritten: tuple[Place, ...] = ()

    @property
    def places(self) -> tuple[Place, ...]:
        """Where to ask for it, in order."""
        return self.rewritten or tuple(Place(url) for url in (self.url, *self.mirrors))

    @property
    def locations(self) -> tuple[str, ...]:
        """The URLs beside which more may lie, a signature for instance."""
        return tuple(place.url for place in self.places if place.by == "name" and not place.refused)

    @property
    def file_name(self) -> str:
        """The last segment of the URL's path, percent-encoding kept, query dropped."""
        return file_name_of(self.url)

    @property
    def vouchers(self) -> tuple[GpgSignature | Minisign | Checksums, ...]:
        """What must vouch for the bytes beside their digest."""
        return tuple(one for one in (self.gpg_signature, self.minisign, self.checksums) if one is not None)

    @property
    def needs_repack(self) -> bool:
        """Whether the artifact is another archive than what is downloaded."""
        renamed = self.artifact_name.endswith(".tar.zst") and not self.file_name.lower().endswith((".tar.zst", ".tzst"))
        return bool(self.strip_components or self.add_prefix or self.duplicates != "refuse" or renamed)


class Git(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """One commit of a git repository as an archive; `revision` is the full commit id."""

    repo: str
    revision: str
    path_prefix: str
    artifact_name: str
    dot_git: str = "dropped"
    ssh_key: str = ""  # names an environment variable that holds the key, or a file
    archive: tuple[tuple[str, int | str], ...] = ()


class Hg(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """One changeset of a Mercurial repository as an archive; `revision` is the full changeset id."""

    repo: str
    revision: str
    path_prefix: str
    artifact_name: str
    archive: tuple[tuple[str, int | str], ...] = ()


class Fetch(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """A fetch definition: which content is wanted, under which name."""

    name: str
    description: str
    source: StaticUrl | Git | Hg
    alias: str = ""
    artifact_prefix: str = DEFAULT_ARTIFACT_PREFIX
    ignored: tuple[str, ...] = ()  # keys that mean something to Taskcluster and nothing here
    file: str
    line: int


class FetchesEntry(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """One artifact that a toolchain consumes.

    `kind` is "fetch" or "toolchain", `delivery` is "extract" or "place"; `dest` lies below the fetches
    directory.
    """

    kind: str
    name: str
    dest: RelPath | None = None
    delivery: str = "extract"
    line: int = 0


class FileReference(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """A file that a definition names: `text` as written, `path` where it is."""

    text: str
    path: str


class ToolchainRun(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """What a toolchain executes in its fetches directory: a command, or a script with arguments."""

    command: tuple[str, ...] = ()
    script: FileReference | None = None
    arguments: tuple[str, ...] = ()
    resources: tuple[FileReference, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    toolchain_artifact: RelPath | None = None


class Toolchain(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """A consumer: its fetches, and optionally what it runs on them."""

    name: str
    description: str
    fetches: tuple[FetchesEntry, ...]
    run: ToolchainRun | None = None
    aliases: tuple[str, ...] = ()
    file: str
    line: int

    @property
    def artifact_name(self) -> str:
        """The file name of what it leaves, "" for none."""
        artifact = self.run.toolchain_artifact if self.run else None
        return artifact.components[-1] if artifact else ""


class RefusedDefinition(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """A definition of a Taskgraph tree that cannot be made here, and why; `task` is what it would be called."""

    task: str
    reason: str
    file: str
    line: int


class Definitions(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is wanted, by name; aliases resolve through the two lookups."""

    fetches: Mapping[str, Fetch]
    toolchains: Mapping[str, Toolchain]
    refused: tuple[RefusedDefinition, ...] = ()
    _fetch_aliases: Mapping[str, str] = msgspec.field(default_factory=dict)
    _toolchain_aliases: Mapping[str, str] = msgspec.field(default_factory=dict)

    def fetch(self, name: str) -> Fetch:
        """Return the fetch of that name or alias.

        Raises:
            KeyError: there is none; impossible for a name taken from these definitions.
        """
        return self.fetches[self._fetch_aliases.get(name, name)]

    def toolchain(self, name: str) -> Toolchain:
        """Return the toolchain of that name or alias.

        Raises:
            KeyError: there is none; impossible for a name taken from these definitions.
        """
        return self.toolchains[self._toolchain_aliases.get(name, name)]


def file_name_of(url: str) -> str:
    """Return the last segment of the path of `url`, without query and fragment."""
    return url.partition("#")[0].partition("?")[0].rpartition("/")[2]
