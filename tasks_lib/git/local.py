"""A commit of a repository on this disk: its objects are packed into ours, without a server between.

Only the other repository's objects are looked at, never its configuration, and each tree is recomputed on the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from tasks_lib.errors import ArchiveError, DigestMismatchError, ToolError
from tasks_lib.git.listing import listing
from tasks_lib.git.objects import Objects
from tasks_lib.git.program import command
from tasks_lib.network import RepositorySettings
from tasks_lib.programs import run
from tasks_lib.progress import Progress

#: Below this name stand the commits that a repository of ours holds.
REFS: Final = "refs/doit-fetch"
#: Most names of one commit here; a larger one comes through git's own fetch.
_MAX_ENTRIES: Final = 2_000_000


def copied(directory: Path, settings: RepositorySettings, url: str, commit: str, progress: Progress) -> bool:
    """Take a commit from a `file:` URL into the bare repository `directory`; return whether that was possible.

    Raises:
        ToolError: git is missing.
        CancelledError: the run was asked to stop.
    """
    place = Path(unquote(urlsplit(url).path, errors="surrogateescape"))
    objects = next((one / "objects" for one in (place / ".git", place) if (one / "objects").is_dir()), None)
    if objects is None:
        return False
    try:
        with Objects(directory, settings, progress, objects) as found:
            one = listing(found, commit, name=place.name, max_entries=_MAX_ENTRIES)
    except (ArchiveError, DigestMismatchError, ToolError):
        return False  # git's own fetch says what is wrong
    wanted = dict.fromkeys([commit, *one.trees, *(leaf.identity for leaf in one.leaves)])
    words = ["pack-objects", "--quiet", "--window=0", str(directory.absolute() / "objects" / "pack" / "pack")]
    packed = run(command(settings, directory, words, beside=objects), progress, input="".join(_lines(wanted)).encode())
    if packed.status:
        return False
    if one.parents:
        _make_shallow(directory / "shallow", commit)
    return not run(command(settings, directory, ["update-ref", f"{REFS}/{commit}", commit]), progress).status


def _lines(identities: dict[str, None]) -> Iterator[str]:
    for one in identities:
        yield f"{one}\n"


def _make_shallow(path: Path, commit: str) -> None:
    """Say that the commit's parents are not here. Source: git's Documentation/technical/shallow.txt."""
    known = set(path.read_text("ascii").split()) if path.exists() else set()
    aside = path.with_name("shallow.new")
    aside.write_text("".join(f"{one}\n" for one in sorted(known | {commit})), "ascii")
    aside.replace(path)
