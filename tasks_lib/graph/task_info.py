"""Details of a task for `doit info`: artifact, identity, place of its definition, sources."""

from __future__ import annotations

import os
from collections.abc import Callable, ItemsView, Iterator, Mapping
from typing import Any

import msgspec

from tasks_lib import recipe, steps
from tasks_lib.context import Context
from tasks_lib.definitions import Debian, DebianSource, Fetch, Git, Hg, StaticUrl
from tasks_lib.definitions.taskgraph import fetch_content_command
from tasks_lib.formats import TREE_VERSION
from tasks_lib.graph.index import IndexPaths
from tasks_lib.network import redacted
from tasks_lib.steps import Artifact, Delivery, ImageBuild, Plan, ToolchainBuild
from tasks_lib.vcs.urls import display_url


class TaskInfo(Mapping[str, Any]):
    """Lazy mapping with the details of a task for `doit info`, and `pool`, the class of its workers.

    Reading `pool` is cheap; reading anything else computes the details.
    """

    __slots__ = ("_pool", "_tell", "_words")

    def __init__(self, pool: str, tell: Callable[..., dict[str, Any]], *words: Any) -> None:
        self._pool, self._tell, self._words = pool, tell, words

    def brief(self) -> dict[str, Any]:
        """Return the details that the record of a run has: of a fetch the few that need no computation."""
        if self._tell is not fetch_info:
            return self._tell(*self._words)
        plan, name, _ = self._words
        return describe_fetch(plan.definitions.fetches[name])

    def items(self) -> ItemsView[str, Any]:
        """Return all items, computing the details once."""
        return (self._tell(*self._words) | {"pool": self._pool}).items()

    def __getitem__(self, name: str) -> Any:
        return self._pool if name == "pool" else self._tell(*self._words)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self.items()))

    def __len__(self) -> int:
        return len(self.items())

    def __bool__(self) -> bool:
        return True  # else `task.meta or {}` computes the details

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self.items()),)  # for doit's own processes: not the plan with all definitions


OutputFacts = dict[str, str | int]


def describe_output(context: Context, *arguments: Any) -> OutputFacts:
    """Return what the task of a step makes, as far as it is known: `path`, `sha256` and `size` of the artifact, `tree`.

    Args:
        context: the first argument of the step.
        arguments: its other arguments; the last one is what it makes.
    """
    found: OutputFacts = {}
    made = artifact = arguments[-1]
    if isinstance(made, Delivery | ToolchainBuild):
        artifact = made.artifact if isinstance(made, Delivery) else made.output
        found["tree"] = str(made.destination if isinstance(made, Delivery) else made.directory)
    elif isinstance(made, ImageBuild):
        artifact = made.output
    integrity = steps.find_integrity(context, artifact) if isinstance(artifact, Artifact) else None
    if integrity is not None:
        found |= {"path": str(artifact.link or artifact.path), "sha256": integrity.digest.hex, "size": integrity.size}
    return found


def make_absolute(output: OutputFacts) -> OutputFacts:
    """Return an output with absolute paths, for readers that run in other directories."""
    return {name: os.path.abspath(str(value)) if name in ("path", "tree") else value for name, value in output.items()}  # noqa: PTH100  # does not resolve links


def delivery_info(made: Delivery) -> dict[str, Any]:
    """Return the details of an extraction."""
    return {"recipe_key": made.key}


def artifact_info(made: Artifact) -> dict[str, Any]:
    """Return the details of a repacked artifact."""
    return {"artifact": made.path.name, "recipe_key": made.key}


def toolchain_info(made: ToolchainBuild, paths: IndexPaths, context: Context) -> dict[str, Any]:
    """Return the details of a toolchain."""
    toolchain = made.toolchain
    facts: dict[str, Any] = {"recipe_key": made.key, "directory": str(made.directory)}
    facts["defined"] = f"{toolchain.file}:{toolchain.line}"
    facts["index"] = paths.of_toolchain(toolchain)
    facts["platform"] = made.host.platform
    facts |= {"host-identity": made.host.identity} if made.host.identity else {}
    if toolchain.run is not None:
        facts["network"] = made.host.network_of(toolchain.run)
        facts["environment"] = steps.list_variables(context, made)  # inherited values may be secrets
    facts |= {"aliases": list(toolchain.aliases)} if toolchain.aliases else {}
    return facts | ({"ignored": list(toolchain.ignored)} if toolchain.ignored else {})


def image_info(made: ImageBuild, context: Context) -> dict[str, Any]:
    """Return the details of an image; its digest once it is made."""
    result = context.cache.result(made.key)
    facts: dict[str, Any] = {"artifact": made.output.path.name, "recipe_key": made.key}
    facts |= {"digest": str(result.provenance["digest"])} if result is not None else {}
    facts["defined"] = f"{made.image.file}:{made.image.line}"
    return facts | {"layers": [layer.what for layer in made.layers]}


def list_urls(fetch: Fetch) -> list[str]:
    """Return the URLs of a fetch, the origin first, without credentials."""
    if isinstance(fetch.source, StaticUrl | DebianSource):
        return [redacted(url) for url in (fetch.source.url, *fetch.source.mirrors)]
    if isinstance(fetch.source, Debian):
        return [redacted(url) for url in dict.fromkeys(suite.uri for suite in fetch.source.suites)]
    return [display_url(fetch.source.repo)]


def describe_fetch(fetch: Fetch) -> dict[str, Any]:
    """Return artifact, place of the definition, integrity or revision, and sources of a fetch."""
    facts: dict[str, Any] = {"artifact": fetch.published_name, "defined": f"{fetch.file}:{fetch.line}"}
    if isinstance(fetch.source, StaticUrl):
        facts["size"] = fetch.source.integrity.size
        facts["sha256"] = fetch.source.integrity.digest.hex
    elif isinstance(fetch.source, Debian):
        facts["lock"] = fetch.source.lock_file
    elif isinstance(fetch.source, DebianSource):
        facts |= {"size": fetch.source.size} if fetch.source.size >= 0 else {}
        facts["sha256"] = fetch.source.digest.hex
    else:
        facts["revision"] = fetch.source.revision
    facts["sources"] = list_urls(fetch)
    return facts


def fetch_info(plan: Plan, name: str, paths: IndexPaths) -> dict[str, Any]:
    """Return the details of the fetch `name`; a finished task does not keep its definition."""
    fetch = plan.definitions.fetches[name]
    facts = describe_fetch(fetch)
    facts["recipe_key"] = plan.fetched(fetch).key
    facts["taskgraph_digest"] = recipe.taskgraph_digest(fetch)
    facts["index"] = paths.of_fetch(fetch)
    if isinstance(fetch.source, StaticUrl | Git):
        facts["fetch-content"] = fetch_content_command(fetch.source)
    facts |= {"alias": fetch.alias} if fetch.alias else {}
    if fetch.ignored:
        facts["ignored"] = list(fetch.ignored)
    return facts


#: Number of hex digits of a key that are shown: enough to distinguish keys.
_SHOWN = 16

Identity = dict[str, str]


def fetch_identity(fetch: Fetch) -> Identity:
    """Return the inputs that determine the content of a fetch."""
    source = fetch.source
    if isinstance(source, StaticUrl):
        return {"size": str(source.integrity.size), source.integrity.digest.algorithm: source.integrity.digest.hex}
    if isinstance(source, DebianSource):
        return ({"size": str(source.size)} if source.size >= 0 else {}) | {source.digest.algorithm: source.digest.hex}
    if isinstance(source, Debian):
        return {"suites": " ".join(one.name for one in source.suites), "packages": " ".join(source.packages)}
    return {"revision": source.revision}


def packages_identity(fetch: Fetch, lock: str) -> Identity:
    """Return the inputs that determine a repository of packages; `lock` is the digest of the lock."""
    return fetch_identity(fetch) | {"lock": lock}


def repack_identity(fetch: Fetch, writer_version: str) -> Identity:
    """Return the inputs that determine a normalised archive."""
    source = fetch.source
    shape = {"artifact-name": source.artifact_name, "version of the archive writer": writer_version}
    if isinstance(source, StaticUrl):
        shape |= {"strip-components": str(source.strip_components), "add-prefix": source.add_prefix}
        shape |= {name.replace("_", "-"): value for name, value in source.shape}
        shape |= {"format": source.format} if source.format else {}
    elif isinstance(source, Git | Hg):
        shape |= {"path-prefix": source.path_prefix}
    return fetch_identity(fetch) | shape


def delivery_identity(delivery: Delivery) -> Identity:
    """Return the inputs that determine an extracted or placed artifact."""
    return {
        f"artifact {delivery.artifact.path.name}": delivery.artifact.key[:_SHOWN],
        "dest": str(delivery.entry.dest or ""),
        "delivery": delivery.entry.delivery,
        "version of the tree writer": str(TREE_VERSION),
        **({"format": delivery.format} if delivery.format else {}),
        **{word: value for word, _, value in (one.partition(" ") for one in delivery.reshape.words)},
    }


def toolchain_identity(preparation: ToolchainBuild) -> Identity:
    """Return the inputs that determine a toolchain."""
    run, host = preparation.toolchain.run, preparation.host
    identity = {"platform": host.platform, "host-identity": host.identity}
    identity |= {f"before {one}": key[:_SHOWN] for one, key in preparation.before}
    identity |= {f"{one.entry.kind} {one.entry.name}": one.key[:_SHOWN] for one in preparation.deliveries}
    identity |= {f"content of {text}": digest for text, digest in preparation.files}
    if run is not None:
        identity |= {f"env {name}": value for name, value in preparation.env}
        identity |= {f"passed {name}": digest[:_SHOWN] or "unset" for name, digest in host.passed_to(run).items()}
        identity |= {"network": host.network_of(run)}
        identity |= {"command": " ".join(run.command), "script": run.script.text if run.script else ""}
        identity |= {"arguments": " ".join(run.arguments), "toolchain-artifact": str(run.toolchain_artifact or "")}
    return {name: value for name, value in identity.items() if value}


def image_identity(build: ImageBuild) -> Identity:
    """Return the inputs that determine an image."""
    identity = {
        f"{layer.what} {one.entry.kind} {one.entry.name}": one.key[:_SHOWN]
        for layer in build.layers
        for one in layer.deliveries
    }
    identity |= {f"config {name}": str(value) for name, value in msgspec.structs.asdict(build.image.config).items()}
    identity |= {layer.what: layer.key[:_SHOWN] for layer in build.layers if layer.root is not None}
    created = "date of the base" if build.created_s is None else str(build.created_s)
    return identity | {"machine": build.machine, "created": created}
