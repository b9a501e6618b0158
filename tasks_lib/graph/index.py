"""Paths of the definitions in Taskcluster's index, for `doit info` and for reading what its tasks made.

Source: taskgraph `util/cached_tasks.py`, `transforms/cached_tasks.py` and `transforms/run/toolchain.py`, read as
documentation.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from tasks_lib.definitions import Fetch, FileReference, Git, StaticUrl, Toolchain
from tasks_lib.definitions.taskgraph import index_path, taskgraph_digest, toolchain_digest
from tasks_lib.errors import ToolError
from tasks_lib.layout import find_kind_directory, load_transforms, load_tree_configuration
from tasks_lib.steps import Plan
from tasks_lib.store import blob_key, record_key

#: How a path begins that is not known, and a name of an artifact that anybody can read. Source: Taskcluster, queue
#: service, "Artifact names".
_UNKNOWN: Final = "unknown: "
_PUBLIC: Final = "public/"
_CONTENT: Final = "content.v1"
_TOOLCHAINS: Final = "toolchains.v3"
#: The implementation of workers that run docker images, and the transforms of which the inputs are known.
_DOCKER: Final = "docker-worker"
_KNOWN_TRANSFORM: Final = r"taskgraph\.transforms\.\w+:transforms|taskgraph\.transforms\.\w+"
_CACHED: Final = "taskgraph.transforms.cached_tasks"


class UnknownPathError(Exception):
    """A path cannot be computed here."""


class IndexPaths:
    """The index paths of the definitions of a plan."""

    def __init__(self, plan: Plan, level: int, domain: str = "") -> None:
        """Create the paths for a level, and a trust domain; "" for the one that each tree sets."""
        self._plan, self._level, self._domain = plan, level, domain
        self._digest = lru_cache(maxsize=None)(self._toolchain_digest)

    def of_fetch(self, fetch: Fetch) -> str:
        """Return the path of a fetch, or why it is unknown."""
        try:
            if fetch.platform:
                raise UnknownPathError("Taskgraph has no platforms")
            digest = taskgraph_digest(fetch)
            if not digest:
                raise UnknownPathError("Taskgraph has no such type")
            return index_path(self._prefix(fetch.file), self._level, _CONTENT, fetch.name, digest)
        except UnknownPathError as error:
            return f"{_UNKNOWN}{error}"

    def of_toolchain(self, toolchain: Toolchain) -> str:
        """Return the path of a toolchain, or why it is unknown."""
        try:
            digest = self._digest(toolchain.name)
            return index_path(self._prefix(toolchain.file), self._level, _TOOLCHAINS, toolchain.name, digest)
        except UnknownPathError as error:
            return f"{_UNKNOWN}{error}"

    def artifacts(self) -> dict[str, str]:
        """Return item key of a store -> `NAMESPACE/artifacts/NAME`, for the public artifacts whose path is known."""
        definitions = self._plan.definitions
        found = [self._artifact_of_fetch(fetch) for fetch in definitions.fetches.values()]
        found += [self._artifact_of_toolchain(toolchain) for toolchain in definitions.toolchains.values()]
        return {
            key: f"{path}/artifacts/{name}"
            for key, path, name in filter(None, found)
            if name.startswith(_PUBLIC) and not path.startswith(_UNKNOWN)
        }

    def _artifact_of_fetch(self, fetch: Fetch) -> tuple[str, str, str] | None:
        """Return item key, path and artifact of a fetch: of what is repacked, or else of the pinned content."""
        source, made = fetch.source, self._plan.repacked(fetch)
        if isinstance(source, StaticUrl):
            name, digest = source.taskgraph_name or source.artifact_name, source.integrity.digest
            if made is None and digest.algorithm != "sha256":
                return None
            key = blob_key(digest.hex) if made is None else record_key(made.key)
        elif made is None:
            return None
        else:
            key, name = record_key(made.key), source.artifact_name
            name = source.taskgraph_names[1] if isinstance(source, Git) and source.taskgraph_names else name
        return key, self.of_fetch(fetch), f"{fetch.artifact_prefix}/{name}"

    def _artifact_of_toolchain(self, toolchain: Toolchain) -> tuple[str, str, str] | None:
        """Return item key, path and artifact of a toolchain's output."""
        if toolchain.index is None:
            return None
        output = self._plan.preparation(toolchain.name).output
        return (record_key(output.key), self.of_toolchain(toolchain), toolchain.index.artifact) if output else None

    def _prefix(self, file: str) -> str:
        return self._domain or _prefix(file)

    def _toolchain_digest(self, name: str) -> str:
        toolchain = self._plan.definitions.toolchains[name]
        run, inputs = toolchain.run, toolchain.index
        if run is None or run.script is None or inputs is None:
            raise UnknownPathError(f"toolchain {name} has no script and artifact of a Taskgraph tree")
        _check_transforms(toolchain.file)
        references = [*run.resources, run.script]
        try:
            words = [self._plan.files.tree_digest([_below_root(one, toolchain.root) for one in references])]
        except ToolError as error:
            raise UnknownPathError(str(error)) from error
        image = inputs.image if inputs.image is not None else _default_image(toolchain.file, inputs.worker_type)
        words += [inputs.artifact, *([image] if image else []), *run.arguments]
        return toolchain_digest([*words, *sorted(self._inputs(toolchain)), "True"])

    def _inputs(self, toolchain: Toolchain) -> Iterator[str]:
        """Yield the digest of each definition that a toolchain consumes or depends on, as Taskgraph writes it."""
        definitions = self._plan.definitions
        needed = dict.fromkeys([*((one.kind, one.name) for one in toolchain.fetches), *toolchain.dependencies])
        for kind, name in needed:
            if kind == "fetch":
                fetch = definitions.fetch(name)
                yield f"{_CONTENT}/{fetch.name}/{taskgraph_digest(fetch)}"
            else:
                other = definitions.toolchain(name).name
                yield f"{_TOOLCHAINS}/{other}/{self._digest(other)}"


def _below_root(one: FileReference, root: str) -> FileReference:
    return FileReference(text=os.path.relpath(one.path, root), path=one.path, base=root)


def _configuration(file: str) -> dict[str, Any]:
    """Return the configuration of the Taskgraph tree of a file, or of the current directory; {} if there is none."""
    kind_directory = find_kind_directory(file)
    return load_tree_configuration(kind_directory.parents[1] if kind_directory is not None else Path("taskcluster"))


def _prefix(file: str) -> str:
    configuration = _configuration(file)
    inner = configuration.get("taskgraph")
    prefix = inner.get("cached-task-prefix") if isinstance(inner, dict) else None
    prefix = prefix or configuration.get("trust-domain")
    if not prefix:
        raise UnknownPathError("no taskcluster/config.yml sets a trust-domain")
    return str(prefix)


def _check_transforms(file: str) -> None:
    """Require that only Taskgraph's own transforms compute the digest."""
    kind_directory = find_kind_directory(file)
    transforms = load_transforms(kind_directory) if kind_directory is not None else ()
    foreign = next((one for one in transforms if not re.fullmatch(_KNOWN_TRANSFORM, one)), "")
    if foreign:
        raise UnknownPathError(f"the transform {foreign} may add inputs")
    if not any(one.startswith(_CACHED) for one in transforms):
        raise UnknownPathError("its kind does not use cached_tasks")


def _default_image(file: str, worker_type: str) -> str:
    """Return the docker image of a toolchain that names none. Source: taskgraph `transforms/run/toolchain.py`."""
    workers = _configuration(file).get("workers")
    aliases = workers.get("aliases") if isinstance(workers, dict) else None
    aliases = aliases if isinstance(aliases, dict) else {}
    found = [one for key, one in aliases.items() if key == worker_type or re.fullmatch(str(key), worker_type)]
    if not found or not isinstance(found[0], dict):
        raise UnknownPathError(f"taskcluster/config.yml does not define the worker type {worker_type!r}")
    return "toolchain-build" if found[0].get("implementation") == _DOCKER else ""
