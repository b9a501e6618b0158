"""Detection of the archive format of a file by its content, as `fetch-content` does.

A compressed file is an archive when it contains a tar; a wheel is a zip. When the name declares an archive, content
that is damaged or not an archive is an error instead of a plain file.
"""

from __future__ import annotations

from typing import BinaryIO, Final

from tasks_lib.archive import sniff_format
from tasks_lib.archive.detection import first_block, is_tar
from tasks_lib.errors import ArchiveError, DamagedArchiveError
from tasks_lib.formats import format_from_name
from tasks_lib.limits import Limits

_BLOCK: Final = 512
#: The formats that upstream treats as archives; a Debian package, for example, is a plain file.
_KINDS: Final = ("tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst", "zip")


def detect_archive(file: BinaryIO, name: str, limits: Limits) -> str | None:
    """Return the format of an archive, None for any other file; `file` is left at its start.

    Raises:
        ArchiveError: the name or first bytes declare an archive, and it is damaged or exceeds a limit.
    """
    file.seek(0)
    start = file.read(_BLOCK)
    claimed = format_from_name(name)
    claimed = claimed if claimed in _KINDS else None
    looks = sniff_format(start)
    kind = looks if looks in _KINDS else claimed
    try:
        detected = _detect(file, start, kind, claimed, limits)
    except ArchiveError as error:
        raise type(error).of(error, archive=name) from error
    finally:
        file.seek(0)
    if detected is None and claimed is not None:
        raise DamagedArchiveError(
            archive=name, reason=f"not an archive, although its name declares {claimed}", code="WRONG_FORMAT"
        )
    return detected


def _detect(file: BinaryIO, start: bytes, kind: str | None, claimed: str | None, limits: Limits) -> str | None:
    if kind in ("zip", "tar"):
        return kind if kind == "zip" or is_tar(start) or claimed == "tar" else None
    if kind is None:
        return "tar" if is_tar(start) else None
    block = first_block(file, kind, limits)
    empty = claimed is not None and not block.strip(b"\0")
    return kind if is_tar(block) or (empty and len(block) >= _BLOCK) else None
