"""Archive formats by file name suffix, and the versions of the archive and tree writers.

They are separate from `archive` and `tree`, so that planning loads neither decoders nor writers, which would take a
third of the time of `doit info`. Pure: no I/O.
"""

from __future__ import annotations

from typing import Final

#: Increment when the archive writer may produce different bytes for the same content.
REPACK_VERSION: Final = 3
#: Increment when the same archive may be extracted to a different tree.
TREE_VERSION: Final = 2
#: Increment when the format of the list or the files of a cached tree change.
_CACHED_TREE_VERSION: Final = 1
#: The version of cached trees, part of their keys.
UNPACKED_VERSION: Final = f"{TREE_VERSION}.{_CACHED_TREE_VERSION}"
#: Modification time of every entry: 1980-01-01T00:00:00Z, the earliest that zip can store; GNU tar warns about 0.
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


def format_from_name(name: str) -> str | None:
    """Return the archive format that a file name declares, None if it declares none."""
    lowered = name.lower()
    return next((kind for suffix, kind in _SUFFIXES.items() if lowered.endswith(suffix)), None)


def mtime_for(source_date_epoch: int | None) -> int:
    """Return the modification time of every entry of an archive, clamped to `source_date_epoch`.

    Source: reproducible-builds.org, SOURCE_DATE_EPOCH specification, "timestamp clamping".
    """
    return _MTIME if source_date_epoch is None else min(_MTIME, source_date_epoch)


def writer_version(mtime: int) -> str:
    """Return the part of a recipe key that covers everything that shapes a written archive except its definition."""
    return str(REPACK_VERSION) if mtime == _MTIME else f"{REPACK_VERSION}, mtime {mtime}"
