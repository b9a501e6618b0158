"""Value types of fetch definitions and toolchains.

Values are immutable and always valid, so that users of a value need not check it again. A value contains both locators
(URLs, mirrors, headers, signature URLs) and identity (size, digest, strip, prefix, artifact name); `recipe` defines
which fields belong to the identity. Pure: no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from tasks_lib.digest import Digest, Integrity
from tasks_lib.formats import SINGLE, UNCHANGED, Reshape
from tasks_lib.named import NamedTuple
from tasks_lib.platforms import parse_platform
from tasks_lib.relpath import RelPath

#: Directory of fetch artifacts on Taskcluster. Source: taskgraph `transforms/fetch`, key `artifact-prefix`.
DEFAULT_ARTIFACT_PREFIX: Final = "public"


class GpgSignature(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """An OpenPGP signature; `fingerprint` pins the only primary key that may sign.

    `key_path` is relative to the repository root, `key_file` is the path of the file. Without a `sig_url`, the signed
    text itself is clear-signed (possible only for a list of digests).
    """

    sig_url: str
    key_path: RelPath
    fingerprint: str = ""
    key_file: str = ""


class Minisign(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """A minisign signature; `public_key` is the base64 line of the key file."""

    sig_url: str
    public_key: str


class Checksums(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """A signed list of digests (`sha256sum`) at `url`, which must list the file with the pinned digest."""

    url: str
    signed_by: GpgSignature | Minisign


class Place(NamedTuple):
    """A URL to try; continue with the next one after "any-error", or only after a 404 or 410 ("not-found").

    `by` is "name" for a URL in a tree of files, "content" for a content-addressed URL; `refused` is the reason why the
    URL is never requested, "" if it may be.
    """

    url: str
    go_on: str = "any-error"
    by: str = "name"
    refused: str = ""


class Update(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """Where newer versions of a definition are listed; "" is derived from its URL, or no restriction.

    `origin` is "git-tags", "github" or "html"; `match` and `ignore` are regular expressions of RE2.
    """

    origin: str = ""
    url: str = ""
    match: str = ""
    ignore: str = ""
    prereleases: bool = False


class StaticUrl(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """One file with a pinned digest; `mirrors` serve the same bytes, in order of preference.

    `taskgraph_name` is the artifact name that Taskgraph uses, "" for `artifact_name`. By default it contains the query
    of the URL, which may be a secret and is part of no file name here.
    """

    url: str
    integrity: Integrity
    artifact_name: str
    mirrors: tuple[str, ...] = ()
    strip_components: int = 0
    add_prefix: str = ""
    #: Options of `archive.Limits` that shape the tree, without those at their defaults.
    shape: tuple[tuple[str, str], ...] = ()
    #: One of `formats.FORMATS`; "" for the format that the name or the content declares.
    format: str = ""
    #: Whether a plain file, or the only file of the download, is made executable.
    executable: bool = False
    #: "auto": repack if the artifact's name or another key requires it; "never": use the download as the artifact
    repack: str = "auto"
    #: Name and value of each; "" for a value that the cache of parsed definitions does not contain.
    headers: tuple[tuple[str, str], ...] = ()
    gpg_signature: GpgSignature | None = None
    minisign: Minisign | None = None
    checksums: Checksums | None = None
    #: Limits for this archive, by the field names of `archive.Limits`; they never change the output.
    archive: tuple[tuple[str, int | str], ...] = ()
    #: URLs to try according to `mirrors.yml`; () without that file.
    rewritten: tuple[Place, ...] = ()
    taskgraph_name: str = ""
    update: Update | None = None
    purl: str = ""

    def __repr__(self) -> str:
        """Return a text without URLs and headers, which may contain secrets."""
        return f"StaticUrl(artifact_name={self.artifact_name!r}, integrity={self.integrity!r})"

    @property
    def places(self) -> tuple[Place, ...]:
        """URLs to try, in order."""
        return self.rewritten or tuple(Place(url, refused=scheme_fault(url)) for url in (self.url, *self.mirrors))

    @property
    def locations(self) -> tuple[str, ...]:
        """URLs next to which related files, such as signatures, may exist."""
        return tuple(place.url for place in self.places if place.by == "name" and not place.refused)

    @property
    def file_name(self) -> str:
        """The last segment of the URL's path, percent-encoding kept, query dropped."""
        return file_name_of(self.url)

    @property
    def vouchers(self) -> tuple[GpgSignature | Minisign | Checksums, ...]:
        """Signatures that must be valid in addition to the digest."""
        return tuple(one for one in (self.gpg_signature, self.minisign, self.checksums) if one is not None)

    @property
    def needs_repack(self) -> bool:
        """Whether the artifact is a repacked archive rather than the downloaded file."""
        if self.repack == "never" or self.format in SINGLE or not self.artifact_name.endswith(".tar.zst"):
            return False
        reshaped = self.strip_components or self.add_prefix or "duplicates" in dict(self.shape)
        return bool(reshaped) or self._is_renamed or self.format not in ("", "tar.zst")

    @property
    def _is_renamed(self) -> bool:
        """Whether the artifact, but not the download, has the name of a `.tar.zst`."""
        return self.artifact_name.endswith(".tar.zst") and not self.file_name.lower().endswith((".tar.zst", ".tzst"))

    @property
    def published_name(self) -> str:
        """The file name of the artifact; that of the download if the artifact is called `.tar.zst` and is not one."""
        return self.file_name if self._is_renamed and not self.needs_repack else self.artifact_name

    @property
    def reshape(self) -> Reshape:
        """What an extraction of the artifact changes; a repack has applied the rest."""
        if not (self.strip_components or self.add_prefix or self.executable):
            return UNCHANGED
        executable = int(self.executable)
        if self.needs_repack:
            return Reshape(executable=executable)
        return Reshape(strip=self.strip_components, prefix=self.add_prefix, executable=executable)


class Git(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """One commit of a git repository as an archive; `revision` is the full commit id.

    `taskgraph_names` are path prefix and artifact name as Taskgraph uses them, () if they are the same here, as in
    `StaticUrl`.
    """

    repo: str
    revision: str
    path_prefix: str
    artifact_name: str
    dot_git: str = "dropped"
    ssh_key: str = ""  # environment variable or file that contains the key
    shape: tuple[tuple[str, str], ...] = ()
    archive: tuple[tuple[str, int | str], ...] = ()
    taskgraph_names: tuple[str, ...] = ()
    update: Update | None = None
    purl: str = ""


class Hg(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """One changeset of a Mercurial repository as an archive; `revision` is the full changeset id."""

    repo: str
    revision: str
    path_prefix: str
    artifact_name: str
    shape: tuple[tuple[str, str], ...] = ()
    archive: tuple[tuple[str, int | str], ...] = ()
    update: Update | None = None
    purl: str = ""


class Suite(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A suite of a Debian repository, such as `bookworm-updates`, and the URI below which it has `dists/`.

    `snapshots` is the URI of its states at other times, with `@SNAPSHOTID@` for the time; "" if there is none.
    `written` is the URI as the definition has it: a `file:` URI may be relative to the YAML file.
    """

    name: str
    uri: str
    written: str
    snapshots: str = ""


class Debian(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """Debian packages with everything that they depend on, as a flat repository; the lock file names each of them.

    `key_files` are the paths of files with public keys, `signed_by` the fingerprints of the primary keys that may sign
    the suites. `lock_file` is the path of the lock.
    """

    suites: tuple[Suite, ...]
    architectures: tuple[str, ...]
    packages: tuple[str, ...]
    components: tuple[str, ...]
    essential: bool
    signed_by: tuple[str, ...]
    key_files: tuple[str, ...]
    lock_file: str
    artifact_name: str  # that of the archive
    snapshot: str = ""
    shape: tuple[tuple[str, str], ...] = ()
    archive: tuple[tuple[str, int | str], ...] = ()
    purl: str = ""


class DebianSource(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """The source of a Debian package: a .dsc and the files that it names, or for the form "tarball" one file.

    `size` is -1 if the definition of a Taskgraph tree does not give it: the digest suffices, since it is verified.
    `signed_by` are the fingerprints of the primary keys that may sign the .dsc, () if its digest suffices, `key_files`
    the paths of files with these keys.
    """

    url: str
    digest: Digest
    size: int = -1
    artifact_name: str = ""
    mirrors: tuple[str, ...] = ()
    form: str = "dsc"
    signed_by: tuple[str, ...] = ()
    key_files: tuple[str, ...] = ()
    shape: tuple[tuple[str, str], ...] = ()
    archive: tuple[tuple[str, int | str], ...] = ()
    update: Update | None = None
    purl: str = ""

    def __repr__(self) -> str:
        """Return a text without URLs, which may contain secrets."""
        return f"DebianSource(artifact_name={self.artifact_name!r}, digest={self.digest!r})"

    def file(self, integrity: Integrity, name: str = "") -> StaticUrl:
        """Return the .dsc or the tarball as a download, or the file `name` beside it (percent-encoded)."""
        url, *mirrors = (_beside(one, name) if name else one for one in (self.url, *self.mirrors))
        last = file_name_of(url)
        return StaticUrl(url=url, integrity=integrity, artifact_name=last, mirrors=tuple(mirrors), repack="never")

    @property
    def pinned(self) -> StaticUrl | None:
        """The .dsc or the tarball as a download, None if its size is not known."""
        return self.file(Integrity(size=self.size, digest=self.digest)) if self.size >= 0 else None


class Fetch(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """A fetch definition: the content to fetch and its name."""

    name: str
    description: str
    source: StaticUrl | Git | Hg | Debian | DebianSource
    alias: str = ""
    artifact_prefix: str = DEFAULT_ARTIFACT_PREFIX
    ignored: tuple[str, ...] = ()  # keys that only Taskcluster uses
    platforms: tuple[tuple[str, StaticUrl], ...] = ()  # the content for each; `source` is that of the first one
    platform: str = ""  # that of `source`, once one is selected
    file: str
    line: int

    @property
    def sources(self) -> tuple[StaticUrl | Git | Hg | Debian | DebianSource, ...]:
        """The content for each platform, or the only one."""
        return tuple(source for _, source in self.platforms) or (self.source,)

    @property
    def is_other_platform(self) -> bool:
        """Whether its content is that of another platform than the selected one."""
        return bool(self.platform) and self.name.endswith(f"@{self.platform}")

    @property
    def published_name(self) -> str:
        """The file name of the artifact."""
        source = self.source
        return source.published_name if isinstance(source, StaticUrl) else source.artifact_name


class FetchesEntry(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """One artifact that a toolchain consumes.

    `kind` is "fetch" or "toolchain", `delivery` is "extract" or "place"; `dest` is relative to the fetches
    directory. `artifact` is the file name that the definition expects, "" for any.
    """

    kind: str
    name: str
    dest: RelPath | None = None
    delivery: str = "extract"
    line: int = 0
    artifact: str = ""


class FileReference(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """Files that a definition refers to: `text` as written, and its `path`, both possibly a directory or a pattern.

    `base` is the directory to which `text` is relative.
    """

    text: str
    path: str
    base: str = ""


class ToolchainRun(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """The command, or the script with arguments, that a toolchain runs in its fetches directory."""

    command: tuple[str, ...] = ()
    script: FileReference | None = None
    arguments: tuple[str, ...] = ()
    resources: tuple[FileReference, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    toolchain_artifact: RelPath | None = None
    toolchain_env: tuple[tuple[str, str], ...] = ()  # environment of the commands that consume this toolchain
    pass_env: tuple[str, ...] = ()  # variables of doit's environment that the command sees
    network: str = "on"

    @property
    def files(self) -> tuple[FileReference, ...]:
        """The resources and the script."""
        return (*self.resources, self.script) if self.script else self.resources


class IndexInputs(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """What only Taskgraph's index path of a toolchain depends on; `artifact` is `toolchain-artifact` as written.

    `image` is the docker image in the tree, "" for one that is not in the tree, None for the default one.
    """

    artifact: str
    worker_type: str
    image: str | None


class Toolchain(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """A consumer of artifacts: its fetches, and optionally the command that it runs on them."""

    name: str
    description: str
    fetches: tuple[FetchesEntry, ...]
    run: ToolchainRun | None = None
    aliases: tuple[str, ...] = ()
    dependencies: tuple[tuple[str, str], ...] = ()  # kind and name of definitions to build first, without their output
    ignored: tuple[str, ...] = ()  # keys that only Taskcluster uses
    root: str = ""  # the checkout that a Taskgraph tree belongs to
    index: IndexInputs | None = None
    file: str
    line: int

    @property
    def artifact_name(self) -> str:
        """The file name of its artifact, "" for none."""
        artifact = self.run.toolchain_artifact if self.run else None
        return artifact.components[-1] if artifact else ""


class ImageLayer(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """One layer of an image: artifacts below `dest`, a path in its root file system without the leading slash."""

    fetches: tuple[FetchesEntry, ...]
    dest: str
    line: int


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """How a container of an image starts; "" and () are not written into the image."""

    cmd: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    user: str = ""
    workdir: str = ""
    labels: tuple[tuple[str, str], ...] = ()


class Image(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """A container image: layers above the root file system that the packages of the fetch `base` make, "" for none.

    `mmdebstrap` is the version that makes it, "" for the installed one.
    """

    name: str
    description: str
    layers: tuple[ImageLayer, ...]
    config: ImageConfig
    base: str = ""
    base_line: int = 0
    mmdebstrap: str = ""
    file: str
    line: int

    @property
    def fetches(self) -> tuple[FetchesEntry, ...]:
        """What it consumes: its base, and the artifacts of its layers."""
        base = (FetchesEntry(kind="fetch", name=self.base, line=self.base_line),) if self.base else ()
        return (*base, *(entry for layer in self.layers for entry in layer.fetches))

    @property
    def dependencies(self) -> tuple[tuple[str, str], ...]:
        """Definitions that are built before it and not consumed: none."""
        return ()

    @property
    def artifact_name(self) -> str:
        """The file name of its artifact."""
        return f"{self.name}.oci.tar"


class RefusedDefinition(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """A definition of a Taskgraph tree that cannot be built here, with the reason; `task` is its task name.

    `kind:KIND` stands for a whole kind, `kind:KIND/FILE` for a file.
    """

    task: str
    reason: str
    file: str
    line: int
    hint: str = ""

    @property
    def place(self) -> str:
        """The file and line of what is not supported."""
        return f"{self.file}:{self.line}" if self.line else self.file


class Definitions(msgspec.Struct, frozen=True, kw_only=True):
    """All definitions by name; `fetch` and `toolchain` also accept aliases.

    `skipped` are those that a bare run skips, because they are not available for the selected platform.
    """

    fetches: Mapping[str, Fetch]
    toolchains: Mapping[str, Toolchain]
    images: Mapping[str, Image] = msgspec.field(default_factory=dict)
    refused: tuple[RefusedDefinition, ...] = ()
    skipped: tuple[RefusedDefinition, ...] = ()
    _platforms: Mapping[str, tuple[str, ...]] = msgspec.field(default_factory=dict)  # of each fetch that has some
    _fetch_aliases: Mapping[str, str] = msgspec.field(default_factory=dict)
    _toolchain_aliases: Mapping[str, str] = msgspec.field(default_factory=dict)
    _passed: frozenset[str] | None = None  # computed from all toolchains; None until then

    @property
    def kinds(self) -> dict[str, Mapping[str, Any]]:
        """The definitions of each kind, what is consumed before its consumers."""
        return {"fetch": self.fetches, "toolchain": self.toolchains, "image": self.images}

    @property
    def passed(self) -> frozenset[str]:
        """The names of the variables that toolchains pass to their commands."""
        if self._passed is not None:
            return self._passed
        return frozenset(name for one in self.toolchains.values() if one.run for name in one.run.pass_env)

    def fetch(self, name: str) -> Fetch:
        """Return the fetch with this name or alias.

        Raises:
            KeyError: it does not exist; impossible for a name taken from these definitions.
        """
        return self.fetches[self._fetch_aliases.get(name, name)]

    def toolchain(self, name: str) -> Toolchain:
        """Return the toolchain with this name or alias.

        Raises:
            KeyError: it does not exist; impossible for a name taken from these definitions.
        """
        return self.toolchains[self._toolchain_aliases.get(name, name)]

    def canonical_name(self, word: str) -> str:
        """Return the name of a task whose word may end with another name of its platform, or with the selected one."""
        task, _, last = word.rpartition("@")
        platform = parse_platform(last)
        name = task.partition(":")[2] or task
        offered = self._platforms.get(name, ())
        if platform not in offered:
            return word
        return f"{task}@{platform}" if f"{name}@{platform}" in self.fetches else task


def scheme_fault(url: str) -> str:
    """Return why a URL is never requested, "" if it may be."""
    return "ftp is not supported: add a mirror or a rule to mirrors.yml" if url[:4].lower() == "ftp:" else ""


def _beside(url: str, name: str) -> str:
    """Return the URL of the file `name` in the same directory, without the query. Source: RFC 3986 section 5.2."""
    return f"{url.partition('#')[0].partition('?')[0].rpartition('/')[0]}/{name}"


def file_name_of(url: str) -> str:
    """Return the last path segment of `url`, without query and fragment."""
    return url.partition("#")[0].partition("?")[0].rpartition("/")[2]
