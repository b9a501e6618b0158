"""Validation of all entries of an archive together: names, links, number and size.

Links are checked against the complete tree that the archive describes, never against the file system.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NoReturn

from tasks_lib.archive.entries import (
    DIRECTORY,
    FILE,
    HARDLINK,
    SYMLINK,
    Entry,
    limit_exceeded,
    option_hint,
    unsafe_entry,
)
from tasks_lib.archive.small_files import SmallFiles
from tasks_lib.limits import Limits

#: Maximum number of symlinks followed for one name. Source: Linux path_resolution(7), 40.
MAX_HOPS: Final = 40
#: Maximum number of components visited to check all symlinks: a constant plus a number per link; real links have four
#: or five. Without it a hundred thousand links of 2,000 components each would take minutes.
_STEPS: Final = 100_000
_STEPS_EACH: Final = 64


def never_repeats(_entry: Entry) -> bool:
    """Return False: the content of earlier entries is not available."""
    return False


class EntryValidator:
    """The tree that an archive describes, including directories that are only implied by names.

    It stores one table per directory and only the kind of each entry: a million entries need less than 200 MiB.

    An entry that repeats an earlier one is accepted and adds nothing: no reader can read it in two ways. `repeats`
    compares content: it reads that of an entry, and returns whether it and the executable bit equal those of the file
    that was added under the same name.

    If `limits.duplicates` is "last", any entry replaces an earlier one of the same name unless either is a directory.
    Repeated and replaced entries count towards the limits.
    """

    def __init__(self, limits: Limits, allowed: int, repeats: Callable[[Entry], bool] = never_repeats) -> None:
        self._limits = limits
        self._max_entries, self._max_names = limits.max_entries, limits.max_names_bytes
        self._allowed = allowed  # bytes of content
        self._repeats = repeats
        self._directories: dict[bytes, dict[bytes, str]] = {b"": {}}
        self._links: dict[bytes, Entry] = {}
        self._firsts: dict[bytes, bytes] = {}  # hard link -> the name of the file that has its content
        self._count = 0
        self._total = 0
        self._names = 0  # bytes of paths and link targets

    def kind(self, path: bytes) -> str | None:
        """Return the kind of the entry at a path, None if there is none."""
        directory, _, name = path.rpartition(b"/")
        return self._directories.get(directory, {}).get(name)

    def add(self, entry: Entry) -> tuple[Entry, ...]:
        """Return the entries that this one adds: implied directories, then itself; () if it repeats an earlier one.

        A hard link to a symlink becomes a symlink with the same text, as GNU tar extracts it.

        Raises:
            UnsafeEntryError: the name is already used, a parent is a file or link, or the target of a hard link is not
                an earlier file or symlink.
            ArchiveLimitError: the archive has too many entries, or too many bytes of content or names.
            Exception: any exception raised by `repeats`.
        """
        if entry[1] == HARDLINK and (link := self._links.get(entry[4])) is not None:
            entry = link._replace(path=entry.path, offset=entry.offset)
        path, kind, size, _, target = entry[:5]
        directory, _, name = path.rpartition(b"/")
        names = self._directories.get(directory)
        implied: tuple[Entry, ...] = ()
        if names is None:
            implied = self._parents(directory, entry)
            names = self._directories[directory]
        before = len(names)
        again = names.setdefault(name, kind) is not kind or len(names) == before
        if again and kind == names[name] == DIRECTORY:
            return ()
        self._count += 1
        self._total += size
        self._names += len(path) + len(target)
        if self._count > self._max_entries or self._total > self._allowed or self._names > self._max_names:
            self._refuse(entry)
        if again and not self._replaces(names, name, entry):
            return ()
        if kind != FILE:
            self._note(entry)
        return (*implied, entry) if implied else (entry,)

    def add_files(self, group: SmallFiles) -> bool:
        """Add files that are all new, in a known directory and within the limits; return whether they were added.

        `add` judges other files, one by one.
        """
        names = self._directories.get(group.directory)
        new = dict.fromkeys([file[0] for file in group.files], FILE)
        if names is None or len(new) < len(group.files) or not names.keys().isdisjoint(new):
            return False
        count = self._count + len(new)
        total = self._total + sum([file[1] for file in group.files])
        length = self._names + sum(map(len, new)) + len(new) * len(group.directory + b"/" if group.directory else b"")
        if count > self._max_entries or total > self._allowed or length > self._max_names:
            return False
        self._count, self._total, self._names = count, total, length
        names.update(new)
        return True

    def _replaces(self, names: dict[bytes, str], name: bytes, entry: Entry) -> bool:
        """Return whether an entry replaces an earlier one of the same name, False if it repeats that one."""
        known = names[name]
        if DIRECTORY in (entry.kind, known):
            raise unsafe_entry("occurs twice in the archive", "DUPLICATE", entry.path, entry.offset)
        if entry.kind == HARDLINK and entry.path == entry.target:
            return False
        if self._limits.duplicates == "last":
            names[name] = entry.kind
            self._links.pop(entry.path, None)
            return True
        if not self._is_same(entry, known):
            reason = "occurs twice in the archive, and the two differ"
            raise unsafe_entry(reason, "DUPLICATE", entry.path, entry.offset, option_hint("duplicates"))
        return False

    def _is_same(self, entry: Entry, known: str) -> bool:
        if SYMLINK in (entry.kind, known):
            return entry.kind == known and self._links[entry.path].target == entry.target
        if entry.kind == HARDLINK:
            return self._first(entry.path) == self._first(entry.target)
        return self._repeats(entry)

    def _first(self, path: bytes) -> bytes:
        return self._firsts.get(path, path)

    def _note(self, entry: Entry) -> None:
        if entry.kind == DIRECTORY:
            self._directories[entry.path] = {}
        elif entry.kind == SYMLINK:
            self._links[entry.path] = entry
        elif entry.path == entry.target or self.kind(entry.target) not in (FILE, HARDLINK):
            reason = "is a hard link whose target is not an earlier file of the archive"
            raise unsafe_entry(reason, "HARDLINK", entry.path, entry.offset)
        else:
            self._firsts[entry.path] = self._first(entry.target)

    def _refuse(self, entry: Entry) -> NoReturn:
        if self._count > self._max_entries:
            raise limit_exceeded(
                f"more entries than max-entries {self._max_entries}",
                "TOO_MANY_ENTRIES", entry.path, entry.offset,
            )  # fmt: skip
        if self._names > self._max_names:
            raise limit_exceeded(
                f"paths and link targets of more than max-names-bytes {self._max_names} in total",
                "NAMES_TOO_LARGE", entry.path[:80], entry.offset,
            )  # fmt: skip
        limit = self._limits.total_name(self._allowed)
        raise limit_exceeded(
            f"content of more than {self._allowed} bytes ({limit})", "TOO_LARGE", entry.path, entry.offset, limit=limit
        )

    def _parents(self, directory: bytes, entry: Entry) -> tuple[Entry, ...]:
        missing: list[bytes] = []
        while directory not in self._directories:
            parent = self.kind(directory)
            if parent is not None:
                raise unsafe_entry(f"is inside a {parent}", "BELOW_NON_DIRECTORY", entry.path, entry.offset)
            missing.append(directory)
            directory = directory.rpartition(b"/")[0]
        parents = (Entry(path=path, kind=DIRECTORY, offset=entry.offset) for path in reversed(missing))
        return tuple(new for parent in parents for new in self.add(parent))

    def check_links(self) -> None:
        """Check every symlink against the complete tree.

        Raises:
            UnsafeEntryError: a symlink leads outside, or could do so once another archive is extracted next to it, or
                its name equals that of a directory on a case-insensitive file system.
            ArchiveLimitError: the check needs too many steps.
        """
        self._steps = _STEPS + _STEPS_EACH * len(self._links)
        if self._limits.outward_symlinks == "refuse":
            for entry in self._links.values():
                self._check_link(entry)
        if self._limits.case_twins == "refuse":
            self._check_case_collisions()

    def twin(self) -> bytes | None:
        """Return a path that differs from another one only in case or Unicode form, None if there is none.

        Two such paths diverge in one directory, so comparing the names of one directory at a time is enough.
        """
        for directory, names in self._directories.items():
            seen: set[bytes] = set()
            for name in sorted(names):
                if case_fold_key(name) in seen:
                    return directory + b"/" + name if directory else name
                seen.add(case_fold_key(name))
        return None

    def _check_case_collisions(self) -> None:
        links = {case_fold_key(path): entry for path, entry in self._links.items()}
        for path in self._directories if links else ():
            link = links.get(case_fold_key(path))
            if link is not None:
                reason = "is a symlink whose name differs from a directory only in case or Unicode form"
                raise unsafe_entry(reason, "CASE_TWIN", link.path, link.offset, option_hint("case-twins"))

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
                next_link = self._links.get(path := b"/".join(here))
                if next_link is not None:
                    if path in followed:
                        return  # a loop leads nowhere
                    hops += 1
                    here.pop()
                    followed.append(path)
                    left += [None, *_steps(next_link, link, hops)]

    def _next(self, left: list[bytes | None], link: Entry) -> bytes | None:
        self._steps -= 1
        if self._steps < 0:
            raise limit_exceeded("resolving the symlinks takes too many steps", "SYMLINK_HOPS", link.path, link.offset)
        return left.pop()

    def _leave(self, here: list[bytes], link: Entry) -> None:
        # `..` of a path that this archive does not contain as a directory could lead anywhere once another archive is
        # extracted next to it
        if not here or b"/".join(here) not in self._directories:
            reason = "is a symlink that leads outside the destination"
            raise unsafe_entry(reason, "SYMLINK_OUTSIDE", link.path, link.offset, option_hint("outward-symlinks"))
        here.pop()


def _steps(followed: Entry, link: Entry, hops: int = 0) -> list[bytes]:
    """Return the components of a link's text in reverse order; `hops` is the number of links followed before."""
    if hops >= MAX_HOPS:
        raise unsafe_entry(f"leads through more than {MAX_HOPS} symlinks", "SYMLINK_HOPS", link.path, link.offset)
    if followed.target.startswith(b"/"):
        reason, hint = "is a symlink to an absolute path", option_hint("outward-symlinks")
        raise unsafe_entry(reason, "SYMLINK_ABSOLUTE", link.path, link.offset, hint)
    return followed.target.split(b"/")[::-1]


def case_fold_key(path: bytes) -> bytes:
    """Return a key that is equal for names that differ only in case or Unicode form. Source: Unicode 5.18."""
    if path.isascii():
        return path.lower()
    text = path.decode("utf-8", "surrogateescape")
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return text.encode("utf-8", "surrogateescape")


def find_last(entries: Iterable[Entry], validator: EntryValidator) -> dict[int, list[bytes]]:
    """Return the number of each entry whose content is part of the final tree -> its names there.

    Of several entries with one name, the last one remains; a hard link keeps the content that its target had when the
    link was read.

    Raises:
        ArchiveError: as `EntryValidator.add`.
    """
    holders: dict[bytes, int] = {}
    for number, entry in enumerate(entries):
        validator.add(entry)
        if entry.kind == HARDLINK:
            holders[entry.path] = holders[entry.target]
        elif entry.kind != DIRECTORY:
            holders[entry.path] = number
    names: dict[int, list[bytes]] = {}
    for path, number in holders.items():
        names.setdefault(number, []).append(path)
    return names


def select(entries: Iterable[Entry], names: dict[int, list[bytes]]) -> Iterator[Entry]:
    """Yield the entries of the final tree, each name once; `names` comes from `find_last` for the same entries."""
    for number, entry in enumerate(entries):
        if entry.kind == DIRECTORY:
            yield entry
            continue
        leader, *others = names.get(number, (b"",))
        if leader:
            yield entry._replace(path=leader)
        for path in others:
            again = entry._replace(path=path)
            yield again if entry.kind == SYMLINK else Entry(path, HARDLINK, target=leader, offset=entry.offset)
