"""The tree of a commit, read from its objects: its files, symlinks and pinned submodules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from tasks_lib.errors import ArchiveLimitError, DamagedArchiveError, UnsafeEntryError
from tasks_lib.limits import Limits
from tasks_lib.vcs.git.objects import Objects

#: Maximum depth of directories; the limit of an archive is the same.
_MAX_DEPTH: Final = 256
#: Modes of a tree, octal. Source: git-fast-import(1), "filemodify"; 100664 occurs in histories before 2006.
_TREE: Final = b"40000"
_LINK: Final = b"120000"
_COMMIT: Final = b"160000"
_FILES: Final = {b"100644": 0, b"100664": 0, b"100755": 1}
#: Characters that HFS+ ignores in names. Source: git's utf8.c, `next_hfs_char`; CVE-2014-9390.
_HFS_IGNORED: Final = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
#: `.gitmodules` and its short names on NTFS. Source: git's path.c, `is_ntfs_dotgitmodules`.
_GITMODULES: Final = re.compile(r"\.gitmodules|gitmod~[1-4]|gi7eba~[1-9]")
#: Maximum length of a name in bytes. Source: POSIX limits.h NAME_MAX, 255 on all common Linux file systems.
_MAX_NAME: Final = 255


class Leaf(NamedTuple):
    """A file, or a symlink if `kind` is "symlink"."""

    path: bytes
    identity: str
    kind: str = "file"
    executable: int = 0


class Gitlink(NamedTuple):
    """A submodule: the commit that the tree of the parent pins at `path`."""

    path: bytes
    commit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The entries of a commit; `trees` are the ids of its tree objects in traversal order."""

    commit: str
    parents: tuple[str, ...]
    tree: str
    leaves: tuple[Leaf, ...]
    gitlinks: tuple[Gitlink, ...]
    trees: tuple[str, ...]

    def blob(self, path: bytes) -> str:
        """Return the id of the file at `path`, "" if there is none."""
        return next((one.identity for one in self.leaves if one.path == path and one.kind == "file"), "")


def read_commit_tree(objects: Objects, commit: str, *, name: str, limits: Limits) -> Listing:
    """Return the entries of a commit, verified from its id down.

    `name` is that of the archive, for messages. The limits are those of the number of entries, and of the bytes of
    their paths, in all directories.

    Raises:
        DigestMismatchError, ToolError: as `Objects.small`.
        UnsafeEntryError: some file system treats a name as `.git`, or as a path out of its directory.
        ArchiveLimitError: there are too many entries, their paths are too long together, or they are nested too deep.
        DamagedArchiveError: a commit or tree is malformed.
    """
    tree, parents = _head(next(objects.small("commit", [commit])), commit, name)
    leaves: list[Leaf] = []
    gitlinks: list[Gitlink] = []
    trees: list[str] = []
    level = [(b"", tree)]
    depth = count = size = 0
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
                size += len(path)
                _judge(entry, path, mode, name)
                if mode == _TREE:
                    below.append((path + b"/", inner))
                elif mode == _COMMIT:
                    gitlinks.append(Gitlink(path, inner))
                else:
                    kind = "symlink" if mode == _LINK else "file"
                    leaves.append(Leaf(path, inner, kind, _FILES.get(mode, 0)))
            _check_size(count, size, limits, name)
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


def _check_size(count: int, size: int, limits: Limits, name: str) -> None:
    if count > limits.max_entries:
        reason = f"more entries than max-entries {limits.max_entries}"
        hint = "set FETCH_MAX_ENTRIES to a larger number, if you trust this repository"
        raise ArchiveLimitError(archive=name, reason=reason, code="TOO_MANY_ENTRIES", hint=hint)
    if size > limits.max_names_bytes:
        reason = f"paths of more than max-names-bytes {limits.max_names_bytes} in total"
        hint = "set FETCH_MAX_NAMES_BYTES to a larger number, if you trust this repository"
        raise ArchiveLimitError(archive=name, reason=reason, code="NAMES_TOO_LARGE", hint=hint)


def _head(content: bytes, commit: str, name: str) -> tuple[str, tuple[str, ...]]:
    """Return the ids of the tree and the parents. Source: git's Documentation/user-manual, "Commit Object"."""
    digits = len(commit)
    head = content.partition(b"\n\n")[0]
    found = re.match(rb"tree ([0-9a-f]{%d})\n((?:parent [0-9a-f]{%d}\n)*)" % (digits, digits), head + b"\n")
    if found is None:
        raise DamagedArchiveError(archive=name, reason=f"the commit {commit} has no tree", code="GIT_COMMIT")
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
            raise DamagedArchiveError(archive=name, reason=f"the tree {tree} is malformed", code="GIT_TREE")
        yield content[at:space].lstrip(b"0"), content[space + 1 : zero], content[zero + 1 : stop].hex()
        at = stop


def _judge(entry: bytes, path: bytes, mode: bytes, name: str) -> None:
    """Reject names that leave the directory or refer to `.git`, and modes that git does not write.

    Raises:
        UnsafeEntryError: the name or mode is rejected.
        ArchiveLimitError: the name is too long.
    """
    if mode != _TREE and mode != _LINK and mode != _COMMIT and mode not in _FILES:
        raise UnsafeEntryError(archive=name, reason=f"has the invalid mode {mode[:10]!r}", code="GIT_MODE", entry=path)
    if entry in (b"", b".", b"..") or b"/" in entry:
        raise UnsafeEntryError(archive=name, reason=f"has the invalid name {entry!r}", code="GIT_NAME", entry=path)
    if entry[0] != 0x2E and entry[0] < 0x80 and b"~" not in entry and b"\\" not in entry:
        return
    if len(entry) > _MAX_NAME:
        raise ArchiveLimitError(
            archive=name, reason=f"name longer than {_MAX_NAME} bytes", code="COMPONENT_TOO_LONG", entry=path[:80]
        )
    for spelling in equivalent_names(entry):
        if spelling in (".git", "git~1"):
            raise UnsafeEntryError(
                archive=name, reason="is equivalent to `.git` on some file systems", code="GIT_NAME", entry=path
            )
        if mode == _LINK and _GITMODULES.fullmatch(spelling):
            raise UnsafeEntryError(archive=name, reason="is a symlink", code="GITMODULES_SYMLINK", entry=path)


def equivalent_names(entry: bytes) -> Iterator[str]:
    """Yield the names that HFS+ and NTFS may treat as equal to `entry`; NTFS splits at a backslash."""
    text = _HFS_IGNORED.sub("", entry.decode("utf-8", "surrogateescape")).lower()
    for part in text.split("\\"):
        yield part.partition(":")[0].rstrip(". ")
