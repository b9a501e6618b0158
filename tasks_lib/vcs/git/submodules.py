"""Which repository each submodule of a commit is: `.gitmodules` beside the commit that the tree pins."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from tasks_lib.errors import ToolError, UnsafeEntryError, escaped
from tasks_lib.network import RepositorySettings
from tasks_lib.progress import Progress
from tasks_lib.subprocesses import last_line, run
from tasks_lib.units import format_size
from tasks_lib.vcs.git.commit_tree import Gitlink, Listing
from tasks_lib.vcs.git.objects import Objects
from tasks_lib.vcs.git.program import command
from tasks_lib.vcs.urls import check_url, join_url, scheme_of

#: Largest `.gitmodules` in bytes; that of a project with 600 submodules is about 100 KB.
_MAX_SETTINGS: Final = 4 << 20


class Submodule(NamedTuple):
    """A pinned commit at a path of its parent; `url` is "" where the directory stays empty."""

    path: bytes
    name: str
    commit: str
    url: str


class Superproject(NamedTuple):
    """Where a parent commit lies: in the bare repository `directory`, from `url`, on its way into `archive`."""

    directory: Path
    settings: RepositorySettings
    url: str
    archive: str

    @property
    def protocols(self) -> tuple[str, ...]:
        """What its submodules may use: `file` only beside a parent that uses it too."""
        return self.settings.protocols + (("file",) if scheme_of(self.url) == "file" else ())


def submodules(listing: Listing, context: Superproject, objects: Objects, progress: Progress) -> Iterator[Submodule]:
    """Yield the submodules of a commit.

    Args:
        listing: of the parent.
        context: of the parent; relative URLs count from its own.
        objects: of the parent's repository.
        progress: told what stays empty.

    Raises:
        UnsafeEntryError: a submodule whose name, path or URL is not accepted.
        ToolError: `.gitmodules` cannot be read.
    """
    if not listing.gitlinks:
        return
    identity = listing.blob(b".gitmodules")
    if not identity:
        for link in listing.gitlinks:
            place = escaped(link.path)
            progress.warn(f"{context.archive}: {place} is a submodule without .gitmodules: left empty")
            yield Submodule(link.path, "", link.commit, "")
        return
    content = next(objects.small("blob", [identity]))
    if len(content) > _MAX_SETTINGS:
        raise ToolError(f"{context.archive}: .gitmodules is larger than {format_size(_MAX_SETTINGS)}")
    by_path = {fields.get("path", "").rstrip("/"): (name, fields) for name, fields in _read(content, context, progress)}
    for link in listing.gitlinks:
        name, fields = by_path.get(link.path.decode("utf-8", "surrogateescape"), ("", {}))
        yield _submodule(link, name, fields, context)


def _read(content: bytes, context: Superproject, progress: Progress) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Let git itself read its format. Source: gitmodules(5), git-config(1) `--file -`."""
    words = ["config", "--file", "-", "--no-includes", "--null", "--list"]
    done = run(command(context.settings, context.directory, words), progress, input=content)
    if done.status:
        raise ToolError(f".gitmodules cannot be read: {last_line(done.errors)}")
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
        raise refuse("is a submodule, and .gitmodules gives no URL for it", "SUBMODULE_URL")
    # Source: CVE-2018-11235 (names), CVE-2018-17456 (paths and URLs), CVE-2019-19604 (commands)
    if not name or ".." in re.split(r"[/\\]", name) or name.startswith("-"):
        raise refuse(f"is a submodule called {name[:80]!r}", "SUBMODULE_NAME")
    if link.path.startswith(b"-"):
        raise refuse("is a submodule whose path begins with a dash", "SUBMODULE_PATH")
    if fields.get("update", "").startswith("!"):
        raise refuse("is a submodule that runs a command", "SUBMODULE_UPDATE")
    if fields.get("update") == "none":
        return Submodule(link.path, name, link.commit, "")
    try:
        url = check_url(join_url(context.url, fields["url"]), context.protocols)
    except ValueError as error:
        raise refuse(f"is a submodule whose URL {fields['url'][:200]!r} {error}", "SUBMODULE_URL") from error
    return Submodule(link.path, name, link.commit, url)
