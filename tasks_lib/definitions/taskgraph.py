"""What Taskgraph computes from a definition: digests and index paths of its caches, and its command. Pure: no I/O."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable

from tasks_lib.definitions.values import Fetch, Git, StaticUrl
from tasks_lib.network import redacted
from tasks_lib.vcs.urls import strip_query


def taskgraph_digest(fetch: Fetch) -> str:
    """Return the digest under which Taskgraph caches this fetch (`content.v1`), "" for a type that it lacks.

    Source: taskgraph `transforms/fetch.py`, `digest_data` of each type; newline-joined, sha256.
    """
    source = fetch.source
    if not isinstance(source, StaticUrl | Git):
        return ""
    if isinstance(source, Git):
        words = [source.revision, *(source.taskgraph_names or (source.path_prefix, source.artifact_name))]
        words += [".git"] if source.dot_git == "kept" else []
    else:
        words = _content_options(source)
        words.append(source.taskgraph_name or source.artifact_name)
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


def _content_options(source: StaticUrl) -> list[str]:
    words = ["--sha256", source.integrity.digest.hex, "--size", str(source.integrity.size)]
    words += ["--strip-components", str(source.strip_components)] if source.strip_components else []
    return words + (["--add-prefix", source.add_prefix] if source.add_prefix else [])


def toolchain_digest(words: Iterable[str]) -> str:
    """Return the digest under which Taskgraph caches a toolchain with these inputs (`toolchains.v3`)."""
    return hashlib.sha256("\n".join(words).encode("utf-8", "surrogateescape")).hexdigest()


def index_path(prefix: str, level: int, cache: str, name: str, digest: str) -> str:
    """Return the path of a cached task in Taskcluster's index; `cache` is `content.v1` or `toolchains.v3`.

    Source: taskgraph `util/cached_tasks.py`, TARGET_CACHE_INDEX.
    """
    return f"{prefix}.cache.level-{level}.{cache}.{name}.hash.{digest}"


def fetch_content_command(source: StaticUrl | Git) -> str:
    """Return the command line of `fetch-content` for a source, without the values of headers: they may be secret.

    Source: taskgraph `transforms/fetch.py`, `command` of each type.
    """
    if isinstance(source, Git):
        words = ["git-checkout-archive", "--path-prefix", source.path_prefix]
        words += [strip_query(source.repo), source.revision, source.artifact_name]
        words += ["--ssh-key-secret", source.ssh_key] if source.ssh_key else []
        words += ["--include-dot-git"] if source.dot_git == "kept" else []
        return shlex.join(["fetch-content", *words])
    words = ["static-url", *_content_options(source)]
    if source.gpg_signature is not None:
        words += ["--gpg-sig-url", redacted(source.gpg_signature.sig_url.replace("{url}", source.url))]
        words += ["--gpg-key-env", "FETCH_GPG_KEY"]
    words += [word for name, _ in source.headers for word in ("-H", f"{name}: VALUE")]
    return shlex.join(["fetch-content", *words, redacted(source.url), source.artifact_name])
