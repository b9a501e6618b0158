"""The plan of a run: keys, files and directories of each definition, computed from text alone.

The only I/O finds out whether a relative link leads from one directory to another.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final

import msgspec

from tasks_lib import recipe
from tasks_lib.context import Context
from tasks_lib.definitions import Debian, Definitions, Fetch, FetchesEntry, Image, ImageLayer, StaticUrl, Toolchain
from tasks_lib.digest import Integrity
from tasks_lib.errors import escape_text
from tasks_lib.formats import SINGLE, TREE_VERSION, UNCHANGED, Reshape, format_from_name
from tasks_lib.named import NamedTuple
from tasks_lib.platforms import ANY_PLATFORM, parse_platform
from tasks_lib.steps.builds import (
    FETCHES,
    RECORDS,
    WORKED,
    Artifact,
    Delivery,
    ImageBuild,
    InputFile,
    LayerBuild,
    RootBuild,
    ToolchainBuild,
)
from tasks_lib.steps.definition_types import Files, find_repack_key, plan_fetch

#: Directory of the links to artifacts, beside those of toolchains.
_LINKS: Final = "artifacts"


class Plan:
    """The plan for all definitions."""

    def __init__(
        self, definitions: Definitions, context: Context, configuration: recipe.Configuration, files: Files
    ) -> None:
        """Create the plan of definitions under a configuration; `files` reads scripts, resources and key files."""
        self.definitions, self.files = definitions, files
        self.writer_version, self._host = configuration.writer_version, configuration.host
        self._image_defaults = context.image_defaults
        self._artifacts = context.settings.cache / "artifacts"
        self._build = context.settings.build
        self._links = self._build / _LINKS
        # relative: a project may be moved together with its cache; each link is one directory below
        self._to_artifacts = os.path.join(os.pardir, _relate(self._links, self._artifacts))  # noqa: PTH118
        self._last: tuple[Fetch, Artifact] | None = None  # the graph requests each fetch three times
        self.preparation = lru_cache(maxsize=None)(self._preparation)
        self.image = lru_cache(maxsize=None)(self._image)

    def _artifact(
        self, task: str, key: str, file_name: str, integrity: Integrity | None = None, verdict: str = ""
    ) -> Artifact:
        name = task.partition(":")[2]
        inner = f"{name}/{key[:16]}/{file_name}"
        return Artifact(
            key=key,
            path=self._artifacts / inner,
            task=task,
            integrity=integrity,
            verdict=verdict,
            link=self._links / name / file_name,
            link_text=f"{self._to_artifacts}/{inner}",
        )

    def fetched(self, fetch: Fetch) -> Artifact:
        """Return the artifact that `fetch:NAME` publishes."""
        known = self._last
        if known is None or known[0] is not fetch:
            planned = plan_fetch(fetch, self.files, self.writer_version)
            made = self._artifact(
                f"fetch:{fetch.name}", planned.key, planned.file_name, planned.integrity, planned.verdict
            )
            known = self._last = fetch, made if planned.has_link else msgspec.structs.replace(made, link=None)
        return known[1]

    def repacked(self, fetch: Fetch) -> Artifact | None:
        """Return the artifact that `repack:NAME` publishes, None if there is nothing to repack."""
        key = find_repack_key(fetch, self.writer_version)
        return self._artifact(f"repack:{fetch.name}", key, fetch.source.artifact_name) if key else None

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
        return bool(format_from_name(self.published(fetch).path.name) or _read(fetch).words)

    def extraction(self, fetch: Fetch) -> Delivery:
        """Return the delivery of `extract:NAME`: the artifact extracted outside of any toolchain."""
        root = self._build / "extracted"
        artifact, reading = self.published(fetch), _read(fetch)
        return Delivery(
            artifact=artifact,
            entry=FetchesEntry(kind="fetch", name=fetch.name),
            destination=root / fetch.name,
            record=root / ".records" / f"{fetch.name}.json",
            key=recipe.extract_key(artifact.key, dest="", version=TREE_VERSION, shape=reading.words),
            limits=reading.limits,
            format=reading.format,
            reshape=reading.reshape,
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
            output = self._artifact(f"toolchain:{toolchain.name}", key, toolchain.artifact_name)
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
        base = self._root(image) if image.base else None
        layers = (*([base] if base else []), *(self._layer(layer) for layer in image.layers))
        machine, created_s = self._image_defaults.machine, self._image_defaults.created_s
        if base is not None and base.root is not None:
            machine = _machine_of(base.root.architecture)
        keys = [layer.key for layer in layers]
        key = recipe.image_key(image, layers=keys, machine=machine, created_s=created_s)
        output = self._artifact(f"image:{name}", key, image.artifact_name)
        fetch, toolchain = self.definitions.fetches.get(name), self.definitions.toolchains.get(name)
        if image.artifact_name in (fetch and fetch.published_name, toolchain and toolchain.artifact_name):
            output = msgspec.structs.replace(output, link=None)  # the link of that definition has this path
        return ImageBuild(image=image, key=key, layers=layers, output=output, machine=machine, created_s=created_s)

    def _root(self, image: Image) -> LayerBuild:
        """Return the root file system of an image, for this machine if its base has packages for that."""
        fetch, defaults = self.definitions.fetch(image.base), self._image_defaults
        source, repository = fetch.source, self.published(fetch)
        if not isinstance(source, Debian):
            raise AssertionError(f"{image.base} has no packages: `definitions` rejects that")
        own = [one for one in source.architectures if _machine_of(one) == defaults.machine]
        architecture = (own or source.architectures)[0]
        version, program = defaults.find_builder()
        key = recipe.root_key(repository.key, architecture=architecture, builder=image.mmdebstrap or version)
        root = RootBuild(
            source=source,
            repository=repository,
            architecture=architecture,
            program=program,
            version=image.mmdebstrap,
        )
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
            platform=self._host.platform if is_output else ANY_PLATFORM,
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
            name, artifact, reading = fetch.name, self.published(fetch), _read(fetch)
        else:
            preparation = self.preparation(self.definitions.toolchain(entry.name).name)
            if preparation.output is None:
                raise AssertionError(f"{entry.name} has no artifact: `definitions` rejects that")
            name, artifact, reading = preparation.toolchain.name, preparation.output, _ReadOptions()
        dest, file_name = str(entry.dest or ""), artifact.path.name
        is_single_file = entry.delivery == "place" or reading.format in SINGLE or not format_from_name(file_name)
        words = (*reading.words, *([f"file name {file_name}"] if is_single_file else []))  # a command sees it
        return Delivery(
            artifact=artifact,
            entry=entry,
            destination=directory / FETCHES / dest,
            record=directory / RECORDS / f"{name}.json",
            key=recipe.extract_key(f"{entry.delivery} {artifact.key}", dest=dest, version=TREE_VERSION, shape=words),
            limits=reading.limits,
            format=reading.format,
            reshape=reading.reshape,
            worked=directory / WORKED,
        )


def _relate(start: Path, target: Path) -> str:
    """Return the relative path from one directory to another, an absolute one if `start` is behind a symlink."""
    path = os.path.relpath(target, start)
    found = os.path.realpath(os.path.join(os.path.realpath(start), path))  # noqa: PTH118  # texts
    return path if found == os.path.realpath(target) else os.path.abspath(target)  # noqa: PTH100  # text


def _machine_of(architecture: str) -> str:
    """Return the machine that Debian's name of an architecture means, in words of uname(1)."""
    return parse_platform(f"linux-{architecture}").partition("-")[2] or architecture


class _ReadOptions(NamedTuple):
    """How the artifact of a fetch is read: limits and options, declared format, and what an extraction changes.

    `words` are what the key of an extraction covers of it, () for a plain extraction.
    """

    limits: tuple[tuple[str, int | str], ...] = ()
    format: str = ""
    reshape: Reshape = UNCHANGED
    words: tuple[str, ...] = ()


def _read(fetch: Fetch) -> _ReadOptions:
    """Return how the artifact of a fetch is read; a repacked one has each name once, and no declared format."""
    source = fetch.source
    if isinstance(source, StaticUrl) and not source.needs_repack:
        words = [*recipe.option_words(source), *([f"format {source.format}"] if source.format else [])]
        reshape = source.reshape
        return _ReadOptions((*source.archive, *source.shape), source.format, reshape, (*words, *reshape.words))
    reshape = source.reshape if isinstance(source, StaticUrl) else UNCHANGED
    names = (pair for pair in source.shape if pair[0] == "control_names")
    return _ReadOptions((*source.archive, *names), "", reshape, reshape.words)
