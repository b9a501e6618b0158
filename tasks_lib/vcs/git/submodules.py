"""Submodules of a commit: URLs from `.gitmodules`, commits from the tree."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from tasks_lib.errors import ToolError, UnsafeEntryError, escape_text
from tasks_lib.network import RepositorySettings
from tasks_lib.progress import Progress
from tasks_lib.subprocesses import last_line, run
from tasks_lib.units import format_size
from tasks_lib.vcs.git.commit_tree import Gitlink, Listing
from tasks_lib.vcs.git.objects import Objects
from tasks_lib.vcs.git.program import git_command
from tasks_lib.vcs.urls import check_url, join_url, scheme_of

#: Maximum size of `.gitmodules` in bytes; a project with 600 submodules has about 100 KB.
_MAX_SETTINGS: Final = 4 << 20


class Submodule(NamedTuple):
    """A pinned commit at a path of its parent; `url` is "" if the directory stays empty."""

    path: bytes
    name: str
    commit: str
    url: str


class Superproject(NamedTuple):
    """The parent of submodules: its bare repository `directory`, its `url`, and the `archive` to create."""

    directory: Path
    settings: RepositorySettings
    url: str
    archive: str

    @property
    def protocols(self) -> tuple[str, ...]:
        """Transports that its submodules may use; `file` only if the parent uses it too."""
        return self.settings.protocols + (("file",) if scheme_of(self.url) == "file" else ())


def read_submodules(
    listing: Listing, context: Superproject, objects: Objects, progress: Progress
) -> Iterator[Submodule]:
    """Yield the submodules of a commit.

    Relative URLs are resolved against that of the parent, `context`. A directory that stays empty is a warning.

    Raises:
        UnsafeEntryError: the name, path or URL of a submodule is rejected.
        ToolError: `.gitmodules` is too large or malformed.
    """
    if not listing.gitlinks:
        return
    identity = listing.blob(b".gitmodules")
    if not identity:
        for link in listing.gitlinks:
            place = escape_text(link.path)
            progress.warn(
                f"{context.archive}: {place} is a submodule, but .gitmodules is missing: the directory stays empty"
            )
            yield Submodule(link.path, "", link.commit, "")
        return
    content = next(objects.small("blob", [identity]))
    if len(content) > _MAX_SETTINGS:
        raise ToolError(
            f"{context.archive}: .gitmodules is larger than {format_size(_MAX_SETTINGS)}", hint="leave submodules out"
        )
    by_path = {fields.get("path", "").rstrip("/"): (name, fields) for name, fields in _read(content, context, progress)}
    for link in listing.gitlinks:
        name, fields = by_path.get(link.path.decode("utf-8", "surrogateescape"), ("", {}))
        yield _submodule(link, name, fields, context)


def _read(content: bytes, context: Superproject, progress: Progress) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Parse `.gitmodules` with git. Source: gitmodules(5), git-config(1) `--file -`."""
    words = ["config", "--file", "-", "--no-includes", "--null", "--list"]
    done = run(git_command(context.settings, context.directory, words), progress, input=content)
    if done.status:
        raise ToolError(
            f"cannot read .gitmodules: {last_line(done.errors)}",
            hint="check it with `git config --file .gitmodules --list`, or leave submodules out",
        )
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for item in done.output.decode("utf-8", "surrogateescape").split("\0"):
        key, _, value = item.partition("\n")
        parts = re.fullmatch(r"submodule\.(.*)\.([a-z0-9-]+)", key, re.DOTALL)
        if parts:
            found[parts[1]][parts[2]] = value
    yield from found.items()


def _submodule(link: Gitlink, name: str, fields: Mapping[str, str], context: Superproject) -> Submodule:
    def refuse(reason: str, code: str) -> UnsafeEntryError:
        return UnsafeEntryError(archive=context.archive, reason=reason, code=code, entry=link.path)

    if "url" not in fields:
        raise refuse("is a submodule without a URL in .gitmodules", "SUBMODULE_URL")
    # Source: CVE-2018-11235 (names), CVE-2018-17456 (paths and URLs), CVE-2019-19604 (commands)
    if not name or ".." in re.split(r"[/\\]", name) or name.startswith("-"):
        raise refuse(f"is a submodule with the invalid name {name[:80]!r}", "SUBMODULE_NAME")
    if link.path.startswith(b"-"):
        raise refuse("is a submodule whose path starts with a dash", "SUBMODULE_PATH")
    if fields.get("update", "").startswith("!"):
        raise refuse("is a submodule that runs a command", "SUBMODULE_UPDATE")
    if fields.get("update") == "none":
        return Submodule(link.path, name, link.commit, "")
    try:
        url = check_url(join_url(context.url, fields["url"]), context.protocols)
    except ValueError as error:
        raise refuse(f"is a submodule whose URL {fields['url'][:200]!r} {error}", "SUBMODULE_URL") from error
    return Submodule(link.path, name, link.commit, url)
