"""Renaming of entries: `strip-components` and `add-prefix`."""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from typing import Final

from tasks_lib.archive.entries import DIRECTORY, DRIVE, HARDLINK, Entry, Reshape, normalize_path, unsafe_entry
from tasks_lib.archive.small_files import Item, SmallFiles
from tasks_lib.errors import ArchiveError
from tasks_lib.limits import Limits

#: Length of the longest name in a group of small files: that of a header's name field.
_LONGEST: Final = 100


def rename(items: Iterator[Item], reshape: Reshape, limits: Limits) -> Iterator[Item]:
    """Yield the renamed entries, without directories whose names are stripped completely.

    Raises:
        ArchiveError: as `Reshaper.reshape`.
    """
    if not reshape.strip and not reshape.prefix:
        return filter(itemgetter(0), items)  # the path of an entry, or the files of a group
    return _rename_each(items, Reshaper(reshape, limits))


def _rename_each(items: Iterator[Item], reshaper: Reshaper) -> Iterator[Item]:
    for item in items:
        if not isinstance(item, SmallFiles):
            entry = reshaper.reshape(item)
            if entry is not None:
                yield entry
        elif (group := reshaper.reshape_files(item)) is not None:
            yield group
        else:
            yield from filter(None, map(reshaper.reshape, item.entries()))


class Reshaper:
    """Renames entries; consecutive entries of one directory take a fast path."""

    def __init__(self, reshape: Reshape, limits: Limits) -> None:
        self._reshape, self._limits = reshape, limits
        self._directory = b""
        self._renamed: bytes | None = None  # the directory's new name, None if its entries need the slow path

    def reshape(self, entry: Entry) -> Entry | None:
        """Return the renamed entry, or None for a directory whose name is stripped completely.

        The target of a hard link is renamed too; the text of a symlink is not, because it is relative.

        Raises:
            UnsafeEntryError: stripping removes the complete name of an entry other than a directory, or the new name
                is unsafe.
            ArchiveLimitError: the new name is too long or too deep.
        """
        directory, _, name = entry[0].rpartition(b"/")
        renamed_directory = self._renamed_directory(directory, entry.offset)
        if renamed_directory is not None and entry[1] != HARDLINK:
            # both the name and the directory are already validated; only their combination can be too long
            renamed = renamed_directory + b"/" + name
            if len(renamed) <= self._limits.max_path_bytes:
                return Entry(renamed, *entry[1:])
        return self._rename_slowly(entry)

    def reshape_files(self, group: SmallFiles) -> SmallFiles | None:
        """Return the renamed files, or None if each must go through `reshape`."""
        renamed = self._renamed_directory(group.directory, group.files[0][3])
        if renamed is None or len(renamed) + 1 + _LONGEST > self._limits.max_path_bytes:
            return None
        return group._replace(directory=renamed)

    def _renamed_directory(self, directory: bytes, offset: int) -> bytes | None:
        if directory != self._directory:
            self._directory, self._renamed = directory, self._rename_directory(directory, offset)
        return self._renamed

    def _rename_directory(self, directory: bytes, offset: int) -> bytes | None:
        try:
            renamed = _rename(directory, self._reshape, self._limits, offset)
        except ArchiveError:
            return None
        return renamed if renamed and renamed.count(b"/") + 2 <= self._limits.max_depth else None

    def _rename_slowly(self, entry: Entry) -> Entry | None:
        reshape, limits = self._reshape, self._limits
        path = _rename(entry.path, reshape, limits, entry.offset)
        if not path:
            if entry.kind == DIRECTORY:
                return None
            raise unsafe_entry(
                f"stripping {reshape.strip} components leaves an empty name", "STRIPPED", entry.path, entry.offset
            )
        if entry.kind != HARDLINK:
            return entry._replace(path=path)
        return entry._replace(path=path, target=_rename(entry.target, reshape, limits, entry.offset))


def _rename(path: bytes, reshape: Reshape, limits: Limits, offset: int) -> bytes:
    rest = path.split(b"/")[reshape.strip :] if path else []
    if not rest:
        return b""
    if not reshape.prefix:
        if DRIVE.match(rest[0]):
            raise unsafe_entry("begins with a Windows drive or server name after stripping", "ABSOLUTE", path, offset)
        return b"/".join(rest)
    return normalize_path(reshape.prefix.encode("utf-8", "surrogateescape") + b"/".join(rest), limits, offset)
