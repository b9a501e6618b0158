"""The one table that judges the entries of an archive together: names, links, number and size.

Links are judged against the tree that the archive itself describes, as a whole, and never against a disk.
"""

from __future__ import annotations

import unicodedata
from typing import Final, NoReturn

from tasks_lib.archive.entries import DIRECTORY, FILE, HARDLINK, SYMLINK, Entry, limit, unsafe
from tasks_lib.limits import Limits

#: Most symlinks followed for one name. Source: Linux path_resolution(7), 40.
MAX_HOPS: Final = 40
#: Components looked at to judge all symlinks: some, and so many for each; real links have four or five. A hundred
#: thousand links of 2,000 components each would take minutes.
_STEPS: Final = 100_000
_STEPS_EACH: Final = 64


class EntryValidator:
    """The tree that an archive describes, with the directories that names imply.

    Directory by directory, kinds only: what a million entries need stays below 200 MiB.

    Where `duplicates` is "last", an entry takes the place of an earlier one of its name unless one of the two is a
    directory; `replaced` says whether one did. All of them count for the limits.
    """

    def __init__(self, limits: Limits, allowed: int, duplicates: str = "refuse") -> None:
        self._limits = limits
        self._allowed = allowed  # bytes of content
        self._duplicates = duplicates
        self.replaced = False
        self._directories: dict[bytes, dict[bytes, str]] = {b"": {}}
        self._links: dict[bytes, Entry] = {}
        self._count = 0
        self._total = 0

    def kind(self, path: bytes) -> str | None:
        """Return what stands at a path, None for nothing."""
        directory, _, name = path.rpartition(b"/")
        return self._directories.get(directory, {}).get(name)

    def add(self, entry: Entry) -> tuple[Entry, ...]:
        """Return what is new with this entry: directories that its name implies, then itself; () for a known one.

        Raises:
            UnsafeEntryError: the name is taken, lies below a file or link, or is a hard link to no earlier file.
            ArchiveLimitError: too many entries or bytes.
        """
        path, kind, size = entry[:3]
        directory, _, name = path.rpartition(b"/")
        names = self._directories.get(directory)
        implied: tuple[Entry, ...] = ()
        if names is None:
            implied = self._parents(directory, entry)
            names = self._directories[directory]
        before = len(names)
        if names.setdefault(name, kind) is not kind or len(names) == before:
            if kind == names[name] == DIRECTORY:
                return ()
            self._replace(names, name, entry)
        if kind != FILE:
            self._note(entry)
        self._count += 1
        self._total += size
        if self._count > self._limits.max_entries or self._total > self._allowed:
            self._refuse(entry)
        return (*implied, entry) if implied else (entry,)

    def _replace(self, names: dict[bytes, str], name: bytes, entry: Entry) -> None:
        if self._duplicates != "last" or DIRECTORY in (entry.kind, names[name]):
            raise unsafe("stands twice in the archive", "DUPLICATE", entry.path, entry.offset)
        names[name] = entry.kind
        self._links.pop(entry.path, None)
        self.replaced = True

    def _note(self, entry: Entry) -> None:
        if entry.kind == DIRECTORY:
            self._directories[entry.path] = {}
        elif entry.kind == SYMLINK:
            self._links[entry.path] = entry
        elif entry.path == entry.target or self.kind(entry.target) not in (FILE, HARDLINK):
            raise unsafe("is a hard link to no earlier file of the archive", "HARDLINK", entry.path, entry.offset)

    def _refuse(self, entry: Entry) -> NoReturn:
        if self._count > self._limits.max_entries:
            raise limit(
                f"more entries than max-entries {self._limits.max_entries}",
                "TOO_MANY_ENTRIES", entry.path, entry.offset,
            )  # fmt: skip
        raise limit(
            f"content of more than {self._allowed} bytes ({self._limits.total_name(self._allowed)})",
            "TOO_LARGE", entry.path, entry.offset,
        )  # fmt: skip

    def _parents(self, directory: bytes, entry: Entry) -> tuple[Entry, ...]:
        missing: list[bytes] = []
        while directory not in self._directories:
            standing = self.kind(directory)
            if standing is not None:
                raise unsafe(f"lies below a {standing}", "BELOW_NON_DIRECTORY", entry.path, entry.offset)
            missing.append(directory)
            directory = directory.rpartition(b"/")[0]
        made = (Entry(path=path, kind=DIRECTORY, offset=entry.offset) for path in reversed(missing))
        return tuple(new for one in made for new in self.add(one))

    def check_links(self) -> None:
        """Judge every symlink against the whole tree.

        Raises:
            UnsafeEntryError: a symlink that leads outside, or could once another archive stands beside it, or that a
                file system without case would take for a directory of the archive.
        """
        self._steps = _STEPS + _STEPS_EACH * len(self._links)
        if self._limits.outward_symlinks == "refuse":
            for entry in self._links.values():
                self._check_link(entry)
        if self._limits.case_twins == "refuse":
            self._check_twins()

    def twin(self) -> bytes | None:
        """Return a path that differs from another one in case or form only, None when there is none.

        Two such paths part in one directory, so that the names of one directory at a time need to be compared.
        """
        for directory, names in self._directories.items():
            seen: set[bytes] = set()
            for name in sorted(names):
                if folded(name) in seen:
                    return directory + b"/" + name if directory else name
                seen.add(folded(name))
        return None

    def _check_twins(self) -> None:
        links = {folded(path): entry for path, entry in self._links.items()}
        for path in self._directories if links else ():
            link = links.get(folded(path))
            if link is not None:
                reason = "is a symlink that another file system takes for a directory of the archive"
                raise unsafe(reason, "CASE_TWIN", link.path, link.offset)

    def _check_link(self, link: Entry) -> None:
        here = link.path.split(b"/")[:-1]
        left: list[bytes | None] = [*_steps(link, link)]  # None: the innermost followed link ends here
        followed: list[bytes] = [link.path]
        hops = 0
        while left:
            part = self._next(left, link)
            if part is None:
                followed.pop()
            elif part == b"..":
                self._leave(here, link)
            elif part not in (b"", b"."):
                here.append(part)
                standing = self._links.get(path := b"/".join(here))
                if standing is not None:
                    if path in followed:
                        return  # a loop leads nowhere
                    hops += 1
                    here.pop()
                    followed.append(path)
                    left += [None, *_steps(standing, link, hops)]

    def _next(self, left: list[bytes | None], link: Entry) -> bytes | None:
        self._steps -= 1
        if self._steps < 0:
            raise limit("symlinks too intricate to be judged", "SYMLINK_HOPS", link.path, link.offset)
        return left.pop()

    def _leave(self, here: list[bytes], link: Entry) -> None:
        # `..` of what is no directory of this archive could lead anywhere once another one stands beside it
        if not here or b"/".join(here) not in self._directories:
            raise unsafe("is a symlink that leads outside", "SYMLINK_OUTSIDE", link.path, link.offset)
        here.pop()


def _steps(followed: Entry, link: Entry, hops: int = 0) -> list[bytes]:
    """Return the components of a link's text, the first one last; `hops` other links were followed to it."""
    if hops >= MAX_HOPS:
        raise unsafe(f"needs more than {MAX_HOPS} symlinks", "SYMLINK_HOPS", link.path, link.offset)
    if followed.target.startswith(b"/"):
        raise unsafe("is a symlink that leads to an absolute path", "SYMLINK_ABSOLUTE", link.path, link.offset)
    return followed.target.split(b"/")[::-1]


def folded(path: bytes) -> bytes:
    """Return what file systems without case or with one Unicode form take this name for. Source: Unicode 5.18."""
    if path.isascii():
        return path.lower()
    text = path.decode("utf-8", "surrogateescape")
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return text.encode("utf-8", "surrogateescape")
