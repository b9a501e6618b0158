"""Commits of repositories by tag or version."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import NamedTuple

import msgspec

from tasks_lib.context import Context
from tasks_lib.definitions import Git, Hg
from tasks_lib.errors import EditError, TransportError, escape_text
from tasks_lib.pins.add_url import GivenUrl
from tasks_lib.pins.versions import parse_tag
from tasks_lib.pins.workspace import Workspace
from tasks_lib.progress import Progress
from tasks_lib.steps.repository_access import open_repositories
from tasks_lib.vcs.urls import display_url


class Target(NamedTuple):
    """Where a definition goes: a version, the tag and commit that have it, "" if unknown, and where it was seen."""

    version: str = ""
    tag: str = ""
    commit: str = ""
    where: str = ""


def resolve_tag(workspace: Workspace, given: GivenUrl) -> Target:
    """Return the commit that a fragment names.

    Raises:
        EditError: it is missing, or names nothing that stays.
        TransportError, ToolError: the repository cannot be asked.
    """
    wanted = given.tag.removeprefix("refs/tags/")
    if _is_commit(wanted):
        return Target(commit=wanted)
    refs = list_refs(workspace.context, given.url, ("refs/tags/*", "refs/heads/*"), workspace.progress)
    found = refs.get(f"refs/tags/{wanted}^{{}}") or refs.get(f"refs/tags/{wanted}")
    if wanted and found:
        return Target(tag=wanted, commit=found)
    place = escape_text(display_url(given.url))
    if not wanted:
        raise EditError(f"which commit of {place}?", hint="append #TAG or #COMMIT")
    branch = refs.get(f"refs/heads/{wanted.removeprefix('refs/heads/')}")
    if branch:
        raise EditError(
            f"{escape_text(wanted)} is a branch of {place}, and branches move",
            hint=f"append #{branch}, where it is now",
        )
    raise EditError(f"{place} has no tag {escape_text(wanted)}", hint="`git ls-remote --tags URL` lists them")


def _is_commit(word: str) -> bool:
    return len(word) in (40, 64) and not word.strip("0123456789abcdef")


def list_refs(context: Context, url: str, patterns: tuple[str, ...], progress: Progress) -> dict[str, str]:
    """Return the refs of a Git repository, with the object of each.

    Raises:
        TransportError, ToolError, CancelledError: as `RepositoryAccess.list_refs`.
    """
    source = Git(repo=url, revision="0" * 40, path_prefix="", artifact_name="")
    with (
        open_repositories(context, source, progress) as one,
        tempfile.TemporaryDirectory(prefix="doit-fetch.") as place,
    ):
        return one.list_refs(patterns, Path(place, "refs"))


def find_commit(workspace: Workspace, source: Git | Hg, repo: str, word: str) -> Target:
    """Return the commit that a tag, a version or a commit id names.

    Raises:
        EditError: the repository does not have the tag.
    """
    if _is_commit(word):
        return Target(tag=word, commit=word)
    if isinstance(source, Hg):
        return _find_changeset(workspace, source, repo, word)
    refs = list_refs(workspace.context, repo, ("refs/tags/*",), workspace.progress)
    tags = {name.removeprefix("refs/tags/"): commit for name, commit in refs.items() if not name.endswith("^{}")}
    wanted = parse_tag(word)
    names = [word] if word in tags else []
    if not names and wanted is not None:
        names = [tag for tag in tags if (parsed := parse_tag(tag)) and parsed.version == wanted.version]
    if len(names) != 1:
        several = f"several tags for {word}: {', '.join(sorted(names)[:5])}" if names else f"no tag {word}"
        raise EditError(
            f"{escape_text(display_url(repo))} has {escape_text(several)}", hint="`git ls-remote --tags URL` lists them"
        )
    return Target(tag=names[0], commit=refs.get(f"refs/tags/{names[0]}^{{}}") or tags[names[0]])


def _find_changeset(workspace: Workspace, source: Hg, repo: str, word: str) -> Target:
    """Return the changeset that a tag names, with or without the `v` of `v1.10`.

    Raises:
        TransportError: the repository does not have the tag.
    """
    other = word[1:] if word.startswith("v") else f"v{word}"
    with (
        open_repositories(workspace.context, msgspec.structs.replace(source, repo=repo), workspace.progress) as one,
        tempfile.TemporaryDirectory(prefix="doit-fetch.") as directory,
    ):
        try:
            return Target(tag=word, commit=one.resolve(word, Path(directory, "tags")))
        except TransportError as error:
            with contextlib.suppress(TransportError):
                return Target(tag=other, commit=one.resolve(other, Path(directory, "tags")))
            raise error from None
