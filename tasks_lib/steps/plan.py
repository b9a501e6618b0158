"""The plan of a run: keys, files and directories of each definition, computed from text alone without I/O."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final, Protocol

import msgspec

from tasks_lib import recipe
from tasks_lib.definitions import (
    Checksums,
    Debian,
    DebianSource,
    Definitions,
    Fetch,
    FetchesEntry,
    FileReference,
    Git,
    GpgSignature,
    Hg,
    Image,
    ImageLayer,
    StaticUrl,
    Toolchain,
)
from tasks_lib.digest import Digest, Integrity
from tasks_lib.errors import escape_text
from tasks_lib.formats import TREE_VERSION, UNCHANGED, Reshape, describe_not_extracted, format_from_name
from tasks_lib.fs.fingerprint import Fingerprint
from tasks_lib.platforms import parse_platform

#: Directory, inside a toolchain's own, with the manifests of its fetches.
RECORDS: Final = ".fetches"
#: Directory beside it in which the toolchain's command runs, and the marker file written before the command starts.
FETCHES: Final = "fetches"
#: Directory of the links to artifacts, beside those of toolchains.
LINKS: Final = "artifacts"
WORKED: Final = ".worked"


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """A published file, identified by its recipe key; `integrity` is known in advance only for fetches.

    `verdict` is the key of the result that records the verification of its signatures, "" if there are none. `link` is
    the path of a symlink to the file that does not change with the key, and `link_text` its target; None for a download
    that is repacked.
    """

    key: str
    path: Path
    task: str
    integrity: Integrity | None = None
    verdict: str = ""
    link: Path | None = None
    link_text: str = ""

    @property
    def not_extracted(self) -> str:
        """The kind of file that its name shows, if files of this kind are never extracted, else ""."""
        return describe_not_extracted(self.path.name)


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """The delivery of one artifact into a directory: extracted, or placed unchanged."""

    artifact: Artifact
    entry: FetchesEntry
    destination: Path
    record: Path
    key: str
    limits: tuple[tuple[str, int | str], ...] = ()  # of this archive; they override the settings
    format: str = ""  # of this archive; "" for the format that its name or its content declares
    reshape: Reshape = UNCHANGED
    # name and key of all deliveries into this directory; entries of any other delivery are stale
    beside: tuple[tuple[str, str], ...] = ()
    worked: Path | None = None  # exists once a command ran in this directory; its leftovers are stale


class InputFile(msgspec.Struct, frozen=True, kw_only=True):
    """A script or resource: as written, its path, and the hex sha256 that the key of its toolchain covers."""

    text: str
    path: str
    digest: str


class ToolchainBuild(msgspec.Struct, frozen=True, kw_only=True):
    """A toolchain with its directories; `steps.attempt` describes those in which its command runs."""

    toolchain: Toolchain
    key: str
    directory: Path
    deliveries: tuple[Delivery, ...]
    output: Artifact | None
    files: tuple[tuple[str, str], ...] = ()  # as written, and digest, of each script and resource
    inputs: tuple[InputFile, ...] = ()  # these files, and those that match patterns
    watched: tuple[str, ...] = ()  # paths that change when other files match
    unmatched: tuple[str, ...] = ()  # resources as written that match no file
    env: tuple[tuple[str, str], ...] = ()  # what its definition and the toolchains among its fetches set
    before: tuple[tuple[str, str], ...] = ()  # kind and name, and key, of each definition that is only built first
    host: recipe.Host = recipe.Host()

    @property
    def sources(self) -> tuple[str, ...]:
        """The paths of its scripts and resources."""
        return tuple(one.path for one in self.inputs)

    @property
    def fetches(self) -> Path:
        """The directory that holds its fetches."""
        return self.directory / FETCHES

    @property
    def records(self) -> Path:
        """The directory of the manifests of `fetches`."""
        return self.directory / RECORDS

    @property
    def uploads(self) -> Path:
        """The directory for the output of its command."""
        return self.directory / "artifacts"

    @property
    def stamp(self) -> Path:
        """The file that records the key of the last successful build."""
        return self.directory / ".prepared.json"

    @property
    def worked(self) -> Path:
        """The marker file that exists once its command ran in `fetches`."""
        return self.directory / WORKED

    @property
    def lock(self) -> Path:
        """The lock file of its directory, held while its command runs."""
        return self.directory / ".lock"

    @property
    def log(self) -> Path:
        """The log of its command: standard output and error."""
        return self.directory / "run.log"


class RootBuild(msgspec.Struct, frozen=True, kw_only=True):
    """A root file system: the packages of a repository for one architecture of Debian.

    `program` is the path of mmdebstrap, "" if it is missing.
    """

    source: Debian
    repository: Artifact
    architecture: str
    program: str


class LayerBuild(msgspec.Struct, frozen=True, kw_only=True):
    """A layer of an image: the root file system `root`, or `deliveries` into the directory `dest` of it.

    `platform` is that of the toolchain whose output it has, "any" without one. `what` describes it in messages.
    """

    key: str
    what: str
    dest: str = ""
    deliveries: tuple[Delivery, ...] = ()
    root: RootBuild | None = None
    platform: str = "any"

    @property
    def program(self) -> str:
        """The path of the program that makes it, "" for none."""
        return self.root.program if self.root else ""

    @property
    def artifacts(self) -> list[Artifact]:
        """What it is made from."""
        return [*([self.root.repository] if self.root else []), *(one.artifact for one in self.deliveries)]


class ImageBuild(msgspec.Struct, frozen=True, kw_only=True):
    """An image with its layers, the lowest one first.

    `machine` is a word of uname(1), `created_s` in seconds since 1970, None for the date of the lowest layer.
    """

    image: Image
    key: str
    layers: tuple[LayerBuild, ...]
    output: Artifact
    machine: str
    created_s: int | None


class Files(Protocol):
    """The files that definitions refer to."""

    @property
    def marks(self) -> Mapping[str, Fingerprint]:
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


class Plan:
    """The plan for all definitions."""

    def __init__(
        self,
        definitions: Definitions,
        *,
        cache: Path,
        build: Path,
        writer_version: str,
        files: Files,
        host: recipe.Host,
        image_defaults: recipe.ImageDefaults = recipe.ImageDefaults(),  # noqa: B008  # immutable
    ) -> None:
        """Create the plan.

        Args:
            definitions: all definitions.
            cache: the directory of the cache.
            build: the directory of extracted trees and toolchains.
            writer_version: version of the archive writer, `Context.writer_version`.
            files: reads scripts, resources and key files.
            host: where the commands of toolchains run.
            image_defaults: what the definitions of images do not say.
        """
        self.definitions = definitions
        self.writer_version = writer_version
        self._artifacts = cache / "artifacts"
        self._build = build
        self._links = build / LINKS
        # relative: a project may be moved together with its cache; each link is one directory below
        self._to_artifacts = os.path.join(os.pardir, os.path.relpath(self._artifacts, self._links))  # noqa: PTH118
        self._last: tuple[Fetch, Artifact] | None = None  # the graph requests each fetch three times
        self.files, self._host = files, host
        self._image_defaults = image_defaults
        self.preparation = lru_cache(maxsize=None)(self._preparation)
        self.image = lru_cache(maxsize=None)(self._image)

    def _artifact(self, name: str, key: str, file_name: str, task: str, integrity: Integrity | None = None) -> Artifact:
        inner = f"{name}/{key[:16]}/{file_name}"
        return Artifact(
            key=key,
            path=self._artifacts / inner,
            task=task,
            integrity=integrity,
            link=self._links / name / file_name,
            link_text=f"{self._to_artifacts}/{inner}",
        )

    def fetched(self, fetch: Fetch) -> Artifact:
        """Return the artifact that `fetch:NAME` publishes."""
        known = self._last
        if known is None or known[0] is not fetch:
            known = self._last = fetch, self._fetched(fetch)
        return known[1]

    def _fetched(self, fetch: Fetch) -> Artifact:
        source = fetch.source
        task = f"fetch:{fetch.name}"
        if isinstance(source, Git | Hg):
            key = recipe.commit_key(source)
            integrity = Integrity.of(commit_record(source))
            made = self._artifact(fetch.name, key, f"{fetch.name}.commit", task, integrity)
            return msgspec.structs.replace(made, link=None)
        if isinstance(source, Debian):
            key = recipe.packages_key(source, self.files.digest_of(source.lock_file), version=self.writer_version)
            return self._artifact(fetch.name, key, source.artifact_name, task)
        if isinstance(source, DebianSource):
            key = recipe.source_package_key(source, version=self.writer_version)
            made = self._artifact(fetch.name, key, source.artifact_name, task)
            return msgspec.structs.replace(made, verdict=self.verdict(source)) if source.signed_by else made
        file_name = source.file_name if source.needs_repack else source.published_name
        plain = self._artifact(fetch.name, recipe.fetch_key(source.integrity), file_name, task, source.integrity)
        if source.needs_repack:
            plain = msgspec.structs.replace(plain, link=None)
        return msgspec.structs.replace(plain, verdict=self.verdict(source)) if source.vouchers else plain

    def verdict(self, source: StaticUrl | DebianSource) -> str:
        """Return the key of the result of verifying the signatures of a download, "" if it has none."""
        return recipe.verdict_key(source, {path: self.files.digest_of(path) for path in list_key_files(source)})

    def repacked(self, fetch: Fetch) -> Artifact | None:
        """Return the artifact that `repack:NAME` publishes, None if there is nothing to repack."""
        source = fetch.source
        if isinstance(source, StaticUrl):
            key = recipe.repack_key(source, version=self.writer_version) if source.needs_repack else ""
        elif isinstance(source, Debian | DebianSource):
            return None
        else:
            key = recipe.repository_key(source, version=self.writer_version)
        return self._artifact(fetch.name, key, source.artifact_name, f"repack:{fetch.name}") if key else None

    def published(self, fetch: Fetch) -> Artifact:
        """Return the artifact of a definition: the repacked one if there is one, else the fetched one."""
        return self.repacked(fetch) or self.fetched(fetch)

    def artifacts(self) -> Iterator[Artifact]:
        """Yield every artifact that the definitions publish."""
        for fetch in self.definitions.fetches.values():
            yield self.fetched(fetch)
            repacked = self.repacked(fetch)
            if repacked is not None:
                yield repacked
        for name in self.definitions.toolchains:
            output = self.preparation(name).output
            if output is not None:
                yield output
        for name in self.definitions.images:
            yield self.image(name).output

    def layers(self) -> Iterator[LayerBuild]:
        """Yield the layers of all images."""
        for name in self.definitions.images:
            yield from self.image(name).layers

    def can_extract(self, fetch: Fetch) -> bool:
        """Return whether `extract:NAME` exists: the artifact is declared an archive, or is changed when placed."""
        return bool(format_from_name(self.published(fetch).path.name) or _shape(fetch))

    def extraction(self, fetch: Fetch) -> Delivery:
        """Return the delivery of `extract:NAME`: the artifact extracted outside of any toolchain."""
        root = self._build / "extracted"
        artifact = self.published(fetch)
        return Delivery(
            artifact=artifact,
            entry=FetchesEntry(kind="fetch", name=fetch.name),
            destination=root / fetch.name,
            record=root / ".records" / f"{fetch.name}.json",
            key=recipe.extract_key(artifact.key, dest="", version=TREE_VERSION, shape=_shape(fetch)),
            limits=_limits(fetch),
            format=_format(fetch),
            reshape=_reshape(fetch),
        )

    def _preparation(self, name: str) -> ToolchainBuild:
        toolchain = self.definitions.toolchain(name)
        directory = self._build / toolchain.name
        alone = [self._delivery(directory, entry) for entry in toolchain.fetches]
        beside = tuple((one.record.stem, one.key) for one in alone)
        deliveries = tuple(msgspec.structs.replace(one, beside=beside) for one in alone)
        files = toolchain.run.files if toolchain.run else ()
        digests = {file.text: self.files.digest(file) for file in files}
        paths = {file.text: self.files.paths(file) for file in files}
        env, before = self._env(toolchain), self._before(toolchain)
        inputs = {f"{one.entry.kind}:{one.entry.name}": one.key for one in deliveries}
        inputs |= {f"before {one}": key for one, key in before}
        key = recipe.toolchain_key(toolchain, inputs=inputs, files=digests, env=env, host=self._host)
        output = None
        if toolchain.artifact_name:
            output = self._artifact(toolchain.name, key, toolchain.artifact_name, f"toolchain:{toolchain.name}")
            same = self.definitions.fetches.get(toolchain.name)
            if same is not None and same.source.artifact_name == toolchain.artifact_name:
                output = msgspec.structs.replace(output, link=None)  # the link of the fetch has that path
        return ToolchainBuild(
            toolchain=toolchain,
            key=key,
            directory=directory,
            deliveries=deliveries,
            output=output,
            files=tuple((text, digest.hex) for text, digest in digests.items()),
            inputs=tuple(
                InputFile(text=text, path=path, digest=self.files.digest_of(path).hex)
                for text, found in paths.items()
                for path in found
            ),
            watched=tuple(path for file in files for path in self.files.watched(file)),
            unmatched=tuple(text for text, found in paths.items() if not found),
            env=tuple(env.items()),
            before=before,
            host=self._host,
        )

    def _image(self, name: str) -> ImageBuild:
        image = self.definitions.images[name]
        base = self._root(image.base) if image.base else None
        layers = (*([base] if base else []), *(self._layer(layer) for layer in image.layers))
        machine, created_s = self._image_defaults.machine, self._image_defaults.created_s
        if base is not None and base.root is not None:
            machine = _machine_of(base.root.architecture)
        keys = [layer.key for layer in layers]
        key = recipe.image_key(image, layers=keys, machine=machine, created_s=created_s)
        output = self._artifact(name, key, image.artifact_name, f"image:{name}")
        fetch, toolchain = self.definitions.fetches.get(name), self.definitions.toolchains.get(name)
        if image.artifact_name in (fetch and fetch.published_name, toolchain and toolchain.artifact_name):
            output = msgspec.structs.replace(output, link=None)  # the link of that definition has this path
        return ImageBuild(image=image, key=key, layers=layers, output=output, machine=machine, created_s=created_s)

    def _root(self, base: str) -> LayerBuild:
        """Return the root file system of a base, for this machine if the base has packages for it."""
        fetch, defaults = self.definitions.fetch(base), self._image_defaults
        source, repository = fetch.source, self.published(fetch)
        if not isinstance(source, Debian):
            raise AssertionError(f"{base} has no packages: `definitions` rejects that")
        own = [one for one in source.architectures if _machine_of(one) == defaults.machine]
        architecture = (own or source.architectures)[0]
        version, program = defaults.find_builder()
        key = recipe.root_key(repository.key, architecture=architecture, builder=version)
        root = RootBuild(source=source, repository=repository, architecture=architecture, program=program)
        return LayerBuild(key=key, what=f"root file system of {fetch.name}", root=root)

    def _layer(self, layer: ImageLayer) -> LayerBuild:
        root = Path("/", layer.dest)
        deliveries = tuple(self._delivery(root, entry) for entry in layer.fetches)
        is_output = any(entry.kind == "toolchain" for entry in layer.fetches)
        return LayerBuild(
            key=recipe.layer_key(layer.dest, [one.key for one in deliveries], version=self.writer_version),
            what=f"layer {escape_text(str(root))}",
            dest=layer.dest,
            deliveries=deliveries,
            platform=self._host.platform if is_output else "any",
        )

    def _env(self, toolchain: Toolchain) -> dict[str, str]:
        """Return the variables that a definition sets, and below them those of the toolchains among its fetches.

        Source: taskgraph `use_fetches`, which reads `toolchain-env` only of the kind `toolchain`, sorted by name.
        """
        env: dict[str, str] = {}
        for entry in sorted(toolchain.fetches, key=lambda one: one.name):
            if entry.kind == "toolchain" and not entry.artifact:
                fetched = self.definitions.toolchain(entry.name).run
                env |= dict(fetched.toolchain_env if fetched else ())
        return env | dict(toolchain.run.env if toolchain.run else ())

    def _before(self, toolchain: Toolchain) -> tuple[tuple[str, str], ...]:
        """Return the key of each definition that is built first: a command may use what it leaves."""
        found = []
        for kind, name in toolchain.dependencies:
            if kind == "fetch":
                found.append((f"{kind}:{name}", self.published(self.definitions.fetch(name)).key))
            else:
                found.append((f"{kind}:{name}", self.preparation(self.definitions.toolchain(name).name).key))
        return tuple(found)

    def _delivery(self, directory: Path, entry: FetchesEntry) -> Delivery:
        if entry.kind == "fetch":
            fetch = self.definitions.fetch(entry.name)
            name, artifact, limits = fetch.name, self.published(fetch), _limits(fetch)
            kind, reshape, shape = _format(fetch), _reshape(fetch), _shape(fetch)
        else:
            preparation = self.preparation(self.definitions.toolchain(entry.name).name)
            if preparation.output is None:
                raise AssertionError(f"{entry.name} has no artifact: `definitions` rejects that")
            name, artifact, limits = preparation.toolchain.name, preparation.output, ()
            kind, reshape, shape = "", UNCHANGED, ()
        dest = str(entry.dest or "")
        return Delivery(
            artifact=artifact,
            entry=entry,
            destination=directory / FETCHES / dest,
            record=directory / RECORDS / f"{name}.json",
            key=recipe.extract_key(f"{entry.delivery} {artifact.key}", dest=dest, version=TREE_VERSION, shape=shape),
            limits=limits,
            format=kind,
            reshape=reshape,
            worked=directory / WORKED,
        )


def _machine_of(architecture: str) -> str:
    """Return the machine that Debian's name of an architecture means, in words of uname(1)."""
    return parse_platform(f"linux-{architecture}").partition("-")[2] or architecture


def commit_record(source: Git | Hg) -> bytes:
    """Return the content of the file that `fetch:NAME` publishes for a commit: its kind and its id."""
    return f"{type(source).__name__.lower()} {source.revision}\n".encode()


def list_key_files(source: StaticUrl | DebianSource) -> tuple[str, ...]:
    """Return the paths of the key files that verify a download's signatures."""
    if isinstance(source, DebianSource):
        return source.key_files
    signed = [one.signed_by if isinstance(one, Checksums) else one for one in source.vouchers]
    return tuple(one.key_file for one in signed if isinstance(one, GpgSignature))


def list_read_files(source: StaticUrl | Git | Hg | Debian | DebianSource) -> tuple[str, ...]:
    """Return the paths of the files whose content is part of the key of a fetch: key files, or the lock."""
    if isinstance(source, Debian):
        return (source.lock_file,)
    return list_key_files(source) if isinstance(source, StaticUrl | DebianSource) else ()


def _is_repacked(fetch: Fetch) -> bool:
    return not isinstance(fetch.source, StaticUrl) or fetch.source.needs_repack


def _limits(fetch: Fetch) -> tuple[tuple[str, int | str], ...]:
    """Return the limits and options for reading an artifact; a repacked one has each name once."""
    repacked = _is_repacked(fetch)
    shape = (pair for pair in fetch.source.shape if not repacked or pair[0] == "control_names")
    return (*fetch.source.archive, *shape)


def _format(fetch: Fetch) -> str:
    """Return the declared format of the artifact, "" if there is none or it was repacked."""
    source = fetch.source
    return source.format if isinstance(source, StaticUrl) and not source.needs_repack else ""


def _reshape(fetch: Fetch) -> Reshape:
    return fetch.source.reshape if isinstance(fetch.source, StaticUrl) else UNCHANGED


def _shape(fetch: Fetch) -> tuple[str, ...]:
    """Return what an extraction changes and its options, for its key; () for a plain extraction."""
    kind = _format(fetch)
    options = () if _is_repacked(fetch) else recipe.option_words(fetch.source)
    return (*options, *([f"format {kind}"] if kind else []), *_reshape(fetch).words)
