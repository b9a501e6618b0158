"""The tree of a commit, read from its own objects: what lies where, and which submodules it pins."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from tasks_lib.errors import ArchiveLimitError, DamagedArchiveError, UnsafeEntryError
from tasks_lib.vcs.git.objects import Objects

#: Deepest nesting of directories; the archive's own limit is the same.
_MAX_DEPTH: Final = 256
#: Modes of a tree, octal. Source: git-fast-import(1), "filemodify"; 100664 stands in histories before 2006.
_TREE: Final = b"40000"
_LINK: Final = b"120000"
_COMMIT: Final = b"160000"
_FILES: Final = {b"100644": 0, b"100664": 0, b"100755": 1}
#: Characters that HFS+ leaves out of names. Source: git's utf8.c, `next_hfs_char`; CVE-2014-9390.
_HFS_IGNORED: Final = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
#: `.gitmodules` and its short names on NTFS. Source: git's path.c, `is_ntfs_dotgitmodules`.
_GITMODULES: Final = re.compile(r"\.gitmodules|gitmod~[1-4]|gi7eba~[1-9]")
#: Longest name in bytes. Source: POSIX limits.h NAME_MAX, 255 on every Linux file system of note.
_MAX_NAME: Final = 255


class Leaf(NamedTuple):
    """A file, or a symlink when `kind` is "symlink"."""

    path: bytes
    identity: str
    kind: str = "file"
    executable: int = 0


class Gitlink(NamedTuple):
    """A submodule: the commit that the parent's tree pins at `path`."""

    path: bytes
    commit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a commit holds; `trees` are all its tree objects in the order of the walk."""

    commit: str
    parents: tuple[str, ...]
    tree: str
    leaves: tuple[Leaf, ...]
    gitlinks: tuple[Gitlink, ...]
    trees: tuple[str, ...]

    def blob(self, path: bytes) -> str:
        """Return the id of the file at `path`, "" for none."""
        return next((one.identity for one in self.leaves if one.path == path and one.kind == "file"), "")


def listing(objects: Objects, commit: str, *, name: str, max_entries: int) -> Listing:
    """Return what the commit holds, verified from its id down.

    Args:
        objects: of its repository.
        commit: the full id.
        name: of the archive, for refusals.
        max_entries: most names of all its directories.

    Raises:
        DigestMismatchError, ToolError: as `Objects.small`.
        UnsafeEntryError: a name that some file system takes for `.git` or for a way out.
        ArchiveLimitError: too many entries or too deep.
        DamagedArchiveError: a commit or tree that cannot be read.
    """
    tree, parents = _head(next(objects.small("commit", [commit])), commit, name)
    leaves: list[Leaf] = []
    gitlinks: list[Gitlink] = []
    trees: list[str] = []
    level = [(b"", tree)]
    depth = count = 0
    while level:
        depth += 1
        if depth > _MAX_DEPTH:
            raise ArchiveLimitError(
                archive=name, reason=f"deeper than {_MAX_DEPTH} directories", code="TOO_DEEP", entry=level[0][0][:80]
            )
        below: list[tuple[bytes, str]] = []
        for (directory, identity), content in zip(level, objects.small("tree", [one for _, one in level]), strict=True):
            trees.append(identity)
            for mode, entry, inner in _entries(content, len(identity) // 2, identity, name):
                count += 1
                path = directory + entry
                _judge(entry, path, mode, name)
                if mode == _TREE:
                    below.append((path + b"/", inner))
                elif mode == _COMMIT:
                    gitlinks.append(Gitlink(path, inner))
                else:
                    kind = "symlink" if mode == _LINK else "file"
                    leaves.append(Leaf(path, inner, kind, _FILES.get(mode, 0)))
            if count > max_entries:
                raise ArchiveLimitError(
                    archive=name, reason=f"more than {max_entries} entries", code="TOO_MANY_ENTRIES"
                )
        level = below
    leaves.sort()
    return Listing(
        commit=commit,
        parents=parents,
        tree=tree,
        leaves=tuple(leaves),
        gitlinks=tuple(sorted(gitlinks)),
        trees=tuple(dict.fromkeys(trees)),
    )


def _head(content: bytes, commit: str, name: str) -> tuple[str, tuple[str, ...]]:
    """Return the tree and the parents. Source: git's Documentation/user-manual, "Commit Object"."""
    digits = len(commit)
    head = content.partition(b"\n\n")[0]
    found = re.match(rb"tree ([0-9a-f]{%d})\n((?:parent [0-9a-f]{%d}\n)*)" % (digits, digits), head + b"\n")
    if found is None:
        raise DamagedArchiveError(archive=name, reason=f"the commit {commit} names no tree", code="GIT_COMMIT")
    return found[1].decode(), tuple(found[2].decode().split()[1::2])


def _entries(content: bytes, width: int, tree: str, name: str) -> Iterator[tuple[bytes, bytes, str]]:
    """Yield mode, name and id of each entry. Source: gitformat-pack / git-mktree: `mode SP name NUL id`."""
    at, end = 0, len(content)
    find = content.find
    while at < end:
        space = find(b" ", at, at + 8)
        zero = find(b"\0", space)
        stop = zero + 1 + width
        if space < 0 or zero < 0 or stop > end:
            raise DamagedArchiveError(archive=name, reason=f"the tree {tree} cannot be read", code="GIT_TREE")
        yield content[at:space].lstrip(b"0"), content[space + 1 : zero], content[zero + 1 : stop].hex()
        at = stop


def _judge(entry: bytes, path: bytes, mode: bytes, name: str) -> None:
    """Refuse names that lead out or into `.git`, and modes that git does not write."""
    if mode != _TREE and mode != _LINK and mode != _COMMIT and mode not in _FILES:
        raise UnsafeEntryError(archive=name, reason=f"has the mode {mode[:10]!r}", code="GIT_MODE", entry=path)
    if entry in (b"", b".", b"..") or b"/" in entry:
        raise UnsafeEntryError(archive=name, reason=f"is called {entry!r}", code="GIT_NAME", entry=path)
    if entry[0] != 0x2E and entry[0] < 0x80 and b"~" not in entry and b"\\" not in entry:
        return
    if len(entry) > _MAX_NAME:
        raise ArchiveLimitError(
            archive=name, reason=f"name longer than {_MAX_NAME} bytes", code="COMPONENT_TOO_LONG", entry=path[:80]
        )
    for spelling in spellings(entry):
        if spelling in (".git", "git~1"):
            raise UnsafeEntryError(archive=name, reason="is `.git` for some file system", code="GIT_NAME", entry=path)
        if mode == _LINK and _GITMODULES.fullmatch(spelling):
            raise UnsafeEntryError(archive=name, reason="is a symlink", code="GITMODULES_SYMLINK", entry=path)


def spellings(entry: bytes) -> Iterator[str]:
    """Yield what HFS+ and NTFS may take a name for; a backslash separates on the latter."""
    text = _HFS_IGNORED.sub("", entry.decode("utf-8", "surrogateescape")).lower()
    for part in text.split("\\"):
        yield part.partition(":")[0].rstrip(". ")
