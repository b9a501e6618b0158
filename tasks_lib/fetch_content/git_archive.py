"""`git-checkout-archive`: one commit as a `.tar.zst`, the same bytes on every machine."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import msgspec

from tasks_lib.errors import SettingError, UnsupportedArchiveError
from tasks_lib.fetch_content.porch import log
from tasks_lib.fetch_content.run import Run, destination, running
from tasks_lib.transport import redacted

if TYPE_CHECKING:
    from tasks_lib.definitions import Git
    from tasks_lib.digest import Integrity

#: Largest answer of the secrets service in bytes. Source: Taskcluster keeps secrets in one database row.
_MAX_SECRET_BYTES: Final = 1 << 20
_COMMIT: Final = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """The flags; `prefix` "" stands for the last part of the repository's URL, `dot_git` is "dropped" or "kept"."""

    repo: str
    commit: str
    dest: str
    prefix: str = ""
    ssh_key_secret: str = ""
    dot_git: str = "dropped"


def git_checkout_archive(checkout: Checkout, environ: Mapping[str, str]) -> None:
    """Fetch a commit with its submodules and write its archive.

    Raises:
        FetchError: whatever prevented it, in one of its kinds.
        OSError: the destination cannot be written.
    """
    dest = destination(checkout.dest)
    if not dest.name.endswith(".tar.zst"):
        raise UnsupportedArchiveError(archive=dest.name, reason="only .tar.zst archives are made", code="WRONG_FORMAT")
    with running(environ, dest.parent) as run:
        key = _ssh_key(run, checkout.ssh_key_secret) if checkout.ssh_key_secret else ""
        run.put(_archive(run, checkout, key), dest)


def _archive(run: Run, checkout: Checkout, key: str) -> Integrity:
    from tasks_lib.definitions import Git
    from tasks_lib.steps.commit import commit_archive

    repo = _url(checkout.repo)
    prefix = checkout.prefix or checkout.repo.rstrip("/").rpartition("/")[2]
    source = Git(
        repo=repo,
        revision="0" * 40,
        path_prefix=prefix.rstrip("/"),
        artifact_name=Path(checkout.dest).name,
        dot_git=checkout.dot_git,
        archive=(("outward_symlinks", "keep"),),  # whoever extracts it decides
    )
    commit = checkout.commit.lower()
    if not _COMMIT.fullmatch(commit):
        commit = _named(run, source, checkout.commit, key)
        log(f"WARNING: {checkout.commit} of {redacted(repo)} moves; today it is commit {commit}")
    log(f"Making {checkout.dest} of commit {commit} of {redacted(repo)}")
    return commit_archive(run, msgspec.structs.replace(source, revision=commit), run.progress, ssh_key=key)


def _named(run: Run, source: Git, name: str, key: str) -> str:
    """Return the commit that a branch or tag names now.

    Raises:
        SettingError: it can be no name.
        TransportError, ToolError, CancelledError: as `git.Repository.resolve`.
    """
    from tasks_lib.steps.repository_access import open_repositories
    from tasks_lib.vcs.git import GitRepository

    if not re.fullmatch(r"[^-\s*?\[~^:\\][^\s*?\[~^:\\]{0,250}", name):
        raise SettingError(f"{name[:80]!r} is neither a commit id nor a branch or tag")
    with (
        open_repositories(run, source, run.progress, key) as one,
        tempfile.TemporaryDirectory(prefix="doit-fetch-") as directory,
    ):
        repository = GitRepository(Path(directory) / "names", run.repositories)
        return repository.resolve(source.repo, name, run.progress, key=one.key)


def _url(repo: str) -> str:
    """Return the URL of a repository given as git also takes it: a path of this machine, or `user@host:path`."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", repo):
        return repo
    if found := re.fullmatch(r"([\w.-]+@[\w.-]+):(?!/)(.+)", repo):
        return f"ssh://{found[1]}/{found[2]}"
    return f"file://{quote(os.path.abspath(repo))}"  # noqa: PTH100 - keeps symlinks of the user's as they are


def _ssh_key(run: Run, name: str) -> str:
    """Return the private key that a Taskcluster secret holds; it never touches the cache.

    Raises:
        SettingError: no proxy to ask, or the secret holds no key.
        TransportError: the secret cannot be had.
    """
    proxy = run.environ.get("TASKCLUSTER_PROXY_URL")
    if not proxy:
        raise SettingError("TASKCLUSTER_PROXY_URL is not set, and it is needed to ask for the ssh key")
    text = run.read(f"{proxy.rstrip('/')}/api/secrets/v1/secret/{quote(name)}", _MAX_SECRET_BYTES)
    try:
        key = json.loads(text)["secret"]["ssh_privkey"]
    except (ValueError, KeyError, TypeError, RecursionError):
        key = None
    if not isinstance(key, str) or not key:
        raise SettingError(f"the secret {name} holds no `ssh_privkey`")
    return key
