"""Which format a file's name declares, and the versions of what is written here, as values.

They stand apart from `archive` and `tree`, so that a plan can be made without loading what decodes and what writes: a
third of the time of `doit info` would go into that. Pure: no I/O.
"""

from __future__ import annotations

from typing import Final

#: Raise when the bytes of the same content may come out differently from the writer of archives.
REPACK_VERSION: Final = 3
#: Raise when the same archive may give another tree.
TREE_VERSION: Final = 2
#: Modification time of every entry: 1980-01-01T00:00:00Z, the first one that zip can hold; GNU tar warns at 0.
_MTIME: Final = 315_532_800

_SUFFIXES: Final = {
    ".tar": "tar",
    ".tar.gz": "tar.gz", ".tgz": "tar.gz", ".crate": "tar.gz",
    ".tar.bz2": "tar.bz2", ".tbz2": "tar.bz2", ".tbz": "tar.bz2",
    ".tar.xz": "tar.xz", ".txz": "tar.xz",
    ".tar.zst": "tar.zst", ".tzst": "tar.zst", ".tar.zstd": "tar.zst",
    ".zip": "zip",
    ".deb": "deb",
}  # fmt: skip


def format_for(name: str) -> str | None:
    """Return the archive format that a file name declares, None for none."""
    lowered = name.lower()
    return next((kind for suffix, kind in _SUFFIXES.items() if lowered.endswith(suffix)), None)


def mtime_for(source_date_epoch: int | None) -> int:
    """Return the time of every entry of an archive, which is no later than `source_date_epoch`.

    Source: reproducible-builds.org, SOURCE_DATE_EPOCH specification, "timestamp clamping".
    """
    return _MTIME if source_date_epoch is None else min(_MTIME, source_date_epoch)


def writer_version(mtime: int) -> str:
    """Return what every key of an archive by our writer must contain: all that shapes it and is in no definition."""
    return str(REPACK_VERSION) if mtime == _MTIME else f"{REPACK_VERSION}, mtime {mtime}"
