"""`git-checkout-archive`: create a reproducible `.tar.zst` of one commit."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec

from tasks_lib.definitions import Git
from tasks_lib.digest import Integrity
from tasks_lib.errors import SettingError, UnsupportedArchiveError
from tasks_lib.fetch_content.console import log
from tasks_lib.fetch_content.run import Run, open_run, private_directory
from tasks_lib.fs.atomic import require_replaceable
from tasks_lib.steps.commit import commit_archive
from tasks_lib.steps.repository_access import open_repositories
from tasks_lib.transport import redacted
from tasks_lib.vcs.git import AnnotatedTagError
from tasks_lib.vcs.urls import strip_query

#: Largest response of the secrets service in bytes. Source: Taskcluster stores a secret in one database row.
_MAX_SECRET_BYTES: Final = 1 << 20
#: Most annotated tags followed from one id, the first of a chain of tags included.
_MAX_TAGS: Final = 5
_COMMIT: Final = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckoutOptions:
    """The flags; `prefix` "" means the last part of the repository's URL, `dot_git` is "dropped" or "kept"."""

    repo: str
    commit: str
    dest: str
    prefix: str = ""
    ssh_key_secret: str = ""
    dot_git: str = "dropped"


def git_checkout_archive(checkout: CheckoutOptions, environ: Mapping[str, str]) -> None:
    """Fetch a commit with its submodules and write its archive.

    Raises:
        FetchError: a setting is invalid, or one of the steps failed; a subclass says which.
        OSError: the destination cannot be written.
    """
    dest = Path(checkout.dest)
    require_replaceable(dest, "destination")
    if not dest.name.endswith(".tar.zst"):
        raise UnsupportedArchiveError(archive=dest.name, reason="only .tar.zst archives are made", code="WRONG_FORMAT")
    with open_run(environ, dest.parent) as run:
        key = _ssh_key(run, checkout.ssh_key_secret) if checkout.ssh_key_secret else ""
        run.put(_archive(run, checkout, key), dest)


def _archive(run: Run, checkout: CheckoutOptions, key: str) -> Integrity:
    repo = _parse_repository(checkout.repo)
    prefix = checkout.prefix or strip_query(checkout.repo).rstrip("/").rpartition("/")[2]
    source = Git(
        repo=repo,
        revision="0" * 40,
        path_prefix=prefix.rstrip("/"),
        artifact_name=Path(checkout.dest).name,
        dot_git=checkout.dot_git,
        shape=(("control_names", "keep"),) if run.settings.limits.control_names == "keep" else (),
        archive=(("outward_symlinks", "keep"),),  # refusing them is left to the extraction
    )
    commit = checkout.commit.lower()
    if not _COMMIT.fullmatch(commit):
        commit = _resolve(run, source, checkout.commit, key, Path(checkout.dest).parent)
        log(f"WARNING: {checkout.commit} of {redacted(repo)} is not pinned; it is commit {commit} now")
    for _ in range(_MAX_TAGS):
        log(f"Making {checkout.dest} of commit {commit} of {redacted(repo)}")
        try:
            return commit_archive(run, msgspec.structs.replace(source, revision=commit), run.progress, ssh_key=key)
        except AnnotatedTagError as error:  # `git checkout` accepts its id, which pins the commit too
            log(f"{error.message}; it names {error.target}")
            commit = error.target
    raise SettingError(f"{checkout.commit} is a tag of more than {_MAX_TAGS} nested tags")


def _resolve(run: Run, source: Git, name: str, key: str, beside: Path) -> str:
    """Return the commit that a branch or tag currently refers to; temporary files are in `beside`.

    Raises:
        SettingError: `name` is not a valid name of a branch or tag.
        TransportError, ToolError, CancelledError: as `GitRepository.resolve`.
    """
    if not re.fullmatch(r"[^-\s*?\[~^:\\][^\s*?\[~^:\\]{0,250}", name):
        raise SettingError(f"{name[:80]!r} is neither a commit id nor a branch or tag")
    with (
        open_repositories(run, source, run.progress, key) as access,
        private_directory(beside) as directory,
    ):
        return access.resolve(name, directory / "names")


def _parse_repository(repo: str) -> str:
    """Return the URL of a repository; like git, accept a local path or `user@host:path` too."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", repo):
        return repo
    if match := re.fullmatch(r"([\w.-]+@[\w.-]+):(?!/)(.+)", repo):
        return f"ssh://{match[1]}/{match[2]}"
    return f"file://{quote(os.path.abspath(repo))}"  # noqa: PTH100 - does not resolve the user's symlinks


def _ssh_key(run: Run, name: str) -> str:
    """Return the private key in a Taskcluster secret; it is never cached.

    Raises:
        SettingError: TASKCLUSTER_PROXY_URL is not set, or the secret contains no key.
        TransportError: the secret cannot be downloaded.
    """
    proxy = run.environ.get("TASKCLUSTER_PROXY_URL")
    if not proxy:
        raise SettingError("TASKCLUSTER_PROXY_URL is not set, but required for reading the ssh key")
    text = run.read(f"{proxy.rstrip('/')}/api/secrets/v1/secret/{quote(name)}", _MAX_SECRET_BYTES)
    try:
        key = json.loads(text)["secret"]["ssh_privkey"]
    except (ValueError, KeyError, TypeError, RecursionError):
        key = None
    if not isinstance(key, str) or not key:
        raise SettingError(f"the secret {name} does not contain `ssh_privkey`")
    return key
