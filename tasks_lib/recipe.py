"""Recipe keys: the identity of a step, computed from everything that shapes its output and nothing else.

Pure: no I/O. Locators (URLs, mirrors, headers, signature URLs, descriptions) are never part of a key. A test
fails if a field of a definition is classified as neither identity nor locator.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final

import msgspec

from tasks_lib.definitions import (
    Checksums,
    Debian,
    DebianSource,
    Git,
    GpgSignature,
    Hg,
    Image,
    Minisign,
    StaticUrl,
    Toolchain,
    ToolchainRun,
)
from tasks_lib.definitions.taskgraph import taskgraph_digest as taskgraph_digest
from tasks_lib.digest import Digest, Integrity

#: Increase to run every step again: only for a change of meaning, not of style.
RECIPE_VERSION: Final = 1

#: Fields of a definition that determine *which* bytes it names.
IDENTITY_FIELDS: Final = frozenset(
    {
        "integrity",
        "digest",
        "size",
        "form",
        "artifact_name",
        "strip_components",
        "add_prefix",
        "shape",
        "format",
        "executable",
        "repack",
        "revision",
        "path_prefix",
        "dot_git",
        "suites",
        "architectures",
        "packages",
        "components",
        "essential",
        "signed_by",
        "snapshot",
    }
)
#: Fields that determine where the bytes are, how they are verified and how they are named.
LOCATOR_FIELDS: Final = frozenset(
    {
        "name", "description", "source", "alias", "artifact_prefix", "ignored", "file", "line", "platforms", "platform",
        "url", "mirrors", "rewritten", "headers", "gpg_signature", "minisign", "checksums",
        "repo", "ssh_key", "archive", "taskgraph_name", "taskgraph_names", "update", "purl",
        "key_files", "lock_file",
    }
)  # fmt: skip


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """What the keys of toolchains say about the machine and its settings.

    `passed` are the names of the variables that the settings pass to every command; `variables` has the digest of the
    value of each passed variable, "" if it is not set. `network` is "on" or "off".
    """

    platform: str = ""
    identity: str = ""
    network: str = "on"
    passed: tuple[str, ...] = ()
    variables: Mapping[str, str] = {}

    def network_of(self, run: ToolchainRun) -> str:
        """Return "off" for a command that runs without network, else "on"."""
        return "off" if "off" in (self.network, run.network) else "on"

    def passed_to(self, run: ToolchainRun) -> dict[str, str]:
        """Return name -> digest of each variable that is passed to a command, besides the declared ones."""
        return {name: self.variables.get(name, "") for name in sorted({*self.passed, *run.pass_env})}


class ImageDefaults(msgspec.Struct, frozen=True, kw_only=True):
    """What an image depends on besides its definition.

    `machine` is the one that it is for, such as `x86_64`; `created_s` its date in seconds since 1970, None for that of
    its base. `find_builder` returns the version and the path of the program that makes root file systems, "" if it is
    missing.
    """

    machine: str = ""
    created_s: int | None = None
    find_builder: Callable[[], tuple[str, str]] = lambda: ("", "")


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """Everything besides the definitions that shapes the names of cache items: `prune` needs that of earlier runs.

    `directory` is the one to which relative paths of key files, scripts and resources refer. `limits` are those of the
    settings, for reading archives. `trees` is the version of unpacked trees. A new field needs a default, because the
    lines of earlier versions lack it.
    """

    writer_version: str
    trees: str
    limits: Mapping[str, int | str]
    link_mode: str
    directory: str
    host: Host = Host()

    def encode(self) -> str:
        """Return the configuration as one line of ASCII text."""
        return json.dumps(msgspec.to_builtins(self), sort_keys=True)

    @classmethod
    def decode(cls, line: str) -> Configuration:
        """Return the configuration of a line.

        Raises:
            ValueError: the line is torn, or another version wrote it.
        """
        return msgspec.convert(json.loads(line), cls)


#: Contents whose keys are remembered: a download needs its key several times.
_REMEMBERED: Final = 4096


def _key(kind: str, *parts: str) -> str:
    """Return the hex sha256 of the parts, each prefixed with its length so that the concatenation is unambiguous."""
    digest = hashlib.sha256()
    for part in (f"doit-fetch {RECIPE_VERSION} {kind}", *parts):
        raw = part.encode("utf-8", "surrogateescape")
        digest.update(f"{len(raw)}:".encode())
        digest.update(raw)
    return digest.hexdigest()


@lru_cache(maxsize=_REMEMBERED)
def fetch_key(integrity: Integrity) -> str:
    """Return the key of a fetch: the integrity of its content."""
    return _key("fetch", str(integrity.size), str(integrity.digest))


def verdict_key(source: StaticUrl | DebianSource, keys: Mapping[str, Digest]) -> str:
    """Return the key of the verification of these bytes under this policy, "" if there are no signatures.

    The key includes the accepted signers, but not the URLs of signatures.

    Args:
        source: the source of the definition.
        keys: path of each key file -> digest of its content.
    """
    if isinstance(source, DebianSource):
        policy = (*sorted(source.signed_by), "keys", *sorted(str(keys[path]) for path in source.key_files))
        return _key("dsc verdict", str(source.digest), *policy) if source.signed_by else ""
    parts = [part for voucher in source.vouchers for part in _policy(voucher, source.file_name, keys)]
    return _key("verdict", str(source.integrity.size), str(source.integrity.digest), *parts) if parts else ""


def _policy(voucher: GpgSignature | Minisign | Checksums, name: str, keys: Mapping[str, Digest]) -> list[str]:
    if isinstance(voucher, Checksums):
        return ["checksums", name, *_policy(voucher.signed_by, name, keys)]
    if isinstance(voucher, Minisign):
        return ["minisign", voucher.public_key]
    return ["gpg", str(keys[voucher.key_file]), voucher.fingerprint]


def evidence_key(integrity: Integrity, url: str) -> str:
    """Return the key of the signature or checksum list from `url` for these bytes."""
    return _key("evidence", str(integrity.size), str(integrity.digest), url)


def repack_key(source: StaticUrl, *, version: str) -> str:
    """Return the key of the archive that version `version` of the archive writer repacks."""
    return _key(
        "repack",
        version,
        str(source.integrity.size),
        str(source.integrity.digest),
        str(source.strip_components),
        source.add_prefix,
        source.artifact_name,
        *option_words(source),
        *([f"format {source.format}"] if source.format else []),
    )


#: Increase when the archive of a source package may change although the archive writer does not.
SOURCE_PACKAGE_VERSION: Final = 1


def pinned_key(source: DebianSource) -> str:
    """Return the key of the .dsc or the tarball of a source, whose size may not be known."""
    return _key("debian-source file", str(source.size), str(source.digest))


def source_package_key(source: DebianSource, *, version: str) -> str:
    """Return the key of the artifact of a source: the tarball, or the archive that `version` of the writer writes."""
    if source.form == "tarball":
        return pinned_key(source)
    words = (str(source.size), str(source.digest), source.artifact_name, *option_words(source))
    return _key("debian-source", f"{SOURCE_PACKAGE_VERSION}.{version}", *words)


def option_words(source: StaticUrl | Git | Hg | Debian | DebianSource) -> list[str]:
    """Return a word for each option that shapes the tree; none for the defaults, so that they change no key."""
    return [f"{name} {value}" for name, value in sorted(source.shape)]


#: Increase when the archive of a commit may change although the archive writer does not.
COMMIT_VERSION: Final = 1
#: Increment when the same commit may get a different `.git`.
DOT_GIT_VERSION: Final = 2


def commit_key(source: Git | Hg) -> str:
    """Return the key of a commit in the cache."""
    return _key("commit", "git" if isinstance(source, Git) else "hg", source.revision)


def repository_key(source: Git | Hg, *, version: str) -> str:
    """Return the key of the archive of a commit that version `version` of the archive writer writes."""
    dot_git = source.dot_git if isinstance(source, Git) else ""
    dot_git = f"{dot_git} {DOT_GIT_VERSION}" if dot_git == "kept" else dot_git
    kind = "git" if isinstance(source, Git) else "hg"
    parts = (source.revision, source.path_prefix, dot_git, source.artifact_name, *option_words(source))
    return _key(kind, f"{COMMIT_VERSION}.{version}", *parts)


def repository_name(source: Git | Hg, url: str, commit: str) -> str:
    """Return the name of the cached repository for commits of that kind from a URL of `source` or of a submodule."""
    kind = "git" if isinstance(source, Git) else "hg"
    return hashlib.sha256(f"{kind} {len(commit)} {url}".encode()).hexdigest()


#: Increment when the same packages may become another repository.
REPOSITORY_VERSION: Final = 1


def packages_digest(source: Debian) -> str:
    """Return the digest of the packages that a definition asks for: neither URIs nor the order of lists matter."""
    asked: dict[str, object] = {
        "architectures": sorted(source.architectures),
        "components": sorted(source.components),
        "essential": source.essential,
        "packages": sorted(source.packages),
        "signed-by": sorted(source.signed_by),
        "snapshot": source.snapshot,
        "suites": sorted(suite.name for suite in source.suites),
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def packages_key(source: Debian, lock: Digest, *, version: str) -> str:
    """Return the key of a repository of Debian packages that version `version` of the archive writer writes."""
    return _key("debian", f"{REPOSITORY_VERSION}.{version}", packages_digest(source), str(lock))


def extract_key(artifact_key: str, *, dest: str, version: int, shape: Sequence[str] = ()) -> str:
    """Return the key of one artifact extracted or placed into the directory `dest`.

    `shape` is what the extraction changes, and the options that it applies.
    """
    return _key("extract", str(version), artifact_key, dest, *shape)


def unpacked_key(
    integrity: Integrity, *, format: str, limits: Mapping[str, int | str], version: str, shape: Sequence[str] = ()
) -> str:
    """Return the key of the unpacked tree of an archive.

    Args:
        integrity: the integrity of the archive.
        format: the format that its name declares, "" to detect it from the content.
        limits: all limits: a definition never reuses a tree that was unpacked under the limits of another one.
        version: the version of the unpacking code.
        shape: what the unpacking changes.
    """
    words = (f"{name}={value}" for name, value in sorted(limits.items()))
    return _key("unpacked", version, str(integrity.size), str(integrity.digest), format, *words, *shape)


#: Increase when a toolchain's command runs in another way: its directory, its variables, what its key covers.
TOOLCHAIN_VERSION: Final = 2


def toolchain_key(
    toolchain: Toolchain,
    *,
    inputs: Mapping[str, str],
    files: Mapping[str, Digest],
    env: Mapping[str, str],
    host: Host,
) -> str:
    """Return the key of a toolchain's output.

    Args:
        toolchain: the toolchain; its name, description and location are not part of the key.
        inputs: `kind:name` of each of its fetches -> the key of its delivery; `before kind:name` of each definition
            that is only built first -> its key.
        files: path of each script and resource as written -> digest of its content.
        env: what the definition and the toolchains among the fetches set.
        host: where the command runs.
    """
    run = toolchain.run or ToolchainRun()
    parts = [f"version {TOOLCHAIN_VERSION}", "platform", host.platform, "identity", host.identity]
    parts += [f"{name}={key}" for name, key in sorted(inputs.items())]
    parts += ["command", *run.command, "script", run.script.text if run.script else "", *run.arguments]
    parts += ["files", *(f"{name}={digest}" for name, digest in sorted(files.items()))]
    parts += ["env", *(f"{name}={value}" for name, value in sorted(env.items()))]
    parts += ["passed", *(f"{name}={digest}" for name, digest in host.passed_to(run).items())]
    parts += ["network", host.network_of(run), "layout", "vcs" if toolchain.root else "fetches"]
    parts += ["artifact", str(run.toolchain_artifact or ""), toolchain.index.artifact if toolchain.index else ""]
    return _key("toolchain", *parts)


#: Increase when a layer may have other bytes for the same inputs.
LAYER_VERSION: Final = 1
#: Increase when a root file system may have other bytes for the same packages.
ROOT_VERSION: Final = 1
#: Increase when an image may have other bytes for the same layers.
IMAGE_VERSION: Final = 1


def layer_key(dest: str, inputs: Iterable[str], *, version: str) -> str:
    """Return the key of a layer of an image.

    Args:
        dest: the directory of its artifacts, relative to the root file system.
        inputs: the key of the delivery of each artifact; their order does not matter.
        version: the version of the archive writer.
    """
    return _key("layer", f"{LAYER_VERSION}.{version}", dest, *sorted(inputs))


def root_key(packages: str, *, architecture: str, builder: str) -> str:
    """Return the key of a root file system.

    Args:
        packages: the key of the repository of its packages.
        architecture: Debian's name of the architecture.
        builder: the version of mmdebstrap.
    """
    return _key("root", str(ROOT_VERSION), packages, architecture, builder)


def compressed_key(layer: Integrity, compression: str) -> str:
    """Return the key of a compressed layer; `compression` is everything that determines its bytes."""
    return _key("compressed", str(layer.size), str(layer.digest), compression)


def image_key(image: Image, *, layers: Sequence[str], machine: str, created_s: int | None) -> str:
    """Return the key of the archive of an image.

    Args:
        image: the image; its description and location are not part of the key.
        layers: the key of each layer, the lowest one first.
        machine: the machine that the image is for.
        created_s: the time of its creation, in seconds since 1970; None for that of its packages.
    """
    config = json.dumps(msgspec.to_builtins(image.config))
    return _key("image", str(IMAGE_VERSION), image.name, machine, str(created_s), config, *layers)
