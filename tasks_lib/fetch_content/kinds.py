"""Which archive a file is, by its content: the rule of `fetch-content`, which never looks at the name first.

A compressed file is an archive when a tar is in it; a wheel is a zip. A name that claims an archive binds: then
content that is none, or is damaged, is an error and not a file to leave alone.
"""

from __future__ import annotations

import re
from typing import BinaryIO, Final

from tasks_lib.archive import format_of
from tasks_lib.archive.codecs import decoded
from tasks_lib.errors import ArchiveError, DamagedArchiveError
from tasks_lib.formats import format_for
from tasks_lib.limits import Limits

_BLOCK: Final = 512
#: What upstream takes for an archive; a Debian package, say, is a file like any other.
_KINDS: Final = ("tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst", "zip")
#: Where a tar header holds its checksum. Source: POSIX ustar, v7 tar.
_CHECKSUM: Final = slice(148, 156)


def kind_of(file: BinaryIO, name: str, limits: Limits) -> str | None:
    """Return the format of an archive, None for another file; `file` is left at its start.

    Raises:
        ArchiveError: it claims to be an archive, by name or first bytes, and is damaged or too expensive to read.
    """
    file.seek(0)
    start = file.read(_BLOCK)
    claimed = format_for(name)
    claimed = claimed if claimed in _KINDS else None
    looks = format_of(start)
    kind = looks if looks in _KINDS else claimed if claimed != "zip" else None
    try:
        found = _judged(file, start, kind, claimed, limits)
    except ArchiveError as error:
        raise type(error).of(error, archive=name) from error
    finally:
        file.seek(0)
    if found is None and claimed is not None:
        raise DamagedArchiveError(
            archive=name, reason=f"its name says {claimed}, but it is no archive", code="WRONG_FORMAT"
        )
    return found


def _judged(file: BinaryIO, start: bytes, kind: str | None, claimed: str | None, limits: Limits) -> str | None:
    if kind in ("zip", "tar"):
        return kind if kind == "zip" or _is_tar(start) or claimed == "tar" else None
    if kind is None:
        return "tar" if _is_tar(start) else None
    file.seek(0)
    block = b""
    for chunk in decoded(file, kind, limits):
        block += chunk
        if len(block) >= _BLOCK:
            break
    empty = claimed is not None and not block.strip(b"\0")
    return kind if _is_tar(block) or (empty and len(block) >= _BLOCK) else None


def _is_tar(block: bytes) -> bool:
    """Whether a block is a tar header: its checksum fits, signed or unsigned. Source: GNU tar, "Checksum"."""
    text = block[_CHECKSUM].strip(b" \0")
    if len(block) < _BLOCK or not re.fullmatch(rb"[0-7]{1,7}", text):
        return False
    rest = block[:148] + b" " * 8 + block[156:_BLOCK]
    signed = sum(byte - 256 if byte > 127 else byte for byte in rest)
    return int(text, 8) in (sum(rest), signed)
