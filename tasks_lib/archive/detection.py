"""Detection of formats by content: whether a file is an archive, and which key of a definition reads it."""

from __future__ import annotations

import re
from typing import BinaryIO, Final

from tasks_lib.archive.codecs import CODECS, decompress
from tasks_lib.archive.entries import OTHER_MAGIC, sniff_format
from tasks_lib.errors import ArchiveLimitError, DamagedArchiveError, escape_text
from tasks_lib.formats import SINGLE, format_from_name
from tasks_lib.limits import Limits

_BLOCK: Final = 512
#: Position of the checksum in a tar header. Source: POSIX ustar, v7 tar.
_CHECKSUM: Final = slice(148, 156)
_SINGLE_OF: Final = {archive: single for single, archive in SINGLE.items()}


def is_tar(block: bytes) -> bool:
    """Return whether a block is a tar header, with a valid signed or unsigned checksum. Source: GNU tar, "Checksum"."""
    text = block[_CHECKSUM].strip(b" \0")
    if len(block) < _BLOCK or not re.fullmatch(rb"[0-7]{1,7}", text):
        return False
    rest = block[:148] + b" " * 8 + block[156:_BLOCK]
    signed = sum(byte - 256 if byte > 127 else byte for byte in rest)
    return int(text, 8) in (sum(rest), signed)


def first_block(file: BinaryIO, kind: str, limits: Limits) -> bytes:
    """Return the first block of the decompressed content, less if it is shorter; leave `file` anywhere.

    Raises:
        ArchiveError: the compressed data is damaged or exceeds a limit.
    """
    file.seek(0)
    block = b""
    for chunk in decompress(file, kind, limits):
        block += chunk
        if len(block) >= _BLOCK:
            break
    return block[:_BLOCK]


def detect_content(file: BinaryIO, limits: Limits) -> str | None:
    """Return the value of `format:` with which the content is read, None if it is unknown; leave `file` at its start.

    Compressed content is an archive if it contains a tar, else a single file. `tar.lz`, `tar.Z` and `tar.lz4` are not
    decompressed for this.

    Raises:
        ArchiveLimitError: decompressing the beginning exceeds a limit.
    """
    try:
        file.seek(0)
        start = file.read(_BLOCK)
        kind = sniff_format(start)
        if kind in CODECS and kind != "tar":
            return kind if is_tar(first_block(file, kind, limits)) else _SINGLE_OF.get(kind)
        if kind is None:
            kind = (
                "tar" if is_tar(start) else next((one for magic, one in OTHER_MAGIC if start.startswith(magic)), None)
            )
        return kind
    except DamagedArchiveError:  # the magic number of a compressed format in a file of another one
        return None
    finally:
        file.seek(0)


def detect_format(file: BinaryIO, name: str, limits: Limits) -> str | None:
    """Return the format that `name` declares, or the format detected from the content; None for any other file.

    The formats in `formats.SINGLE` and `formats.MORE` are never detected: a definition must declare them, so that no
    file is extracted that its users expect as it is. A file whose definition allows a prefix of a zip is a zip.

    Raises:
        ArchiveLimitError: as `detect_content`; `archive` is `name`.
    """
    declared = format_from_name(name)
    if declared is not None:
        return declared
    try:
        detected = detect_content(file, limits)
    except ArchiveLimitError as error:
        raise ArchiveLimitError.of(error, archive=name) from error
    if detected is None and limits.zip_prefix == "ignore":
        return "zip"
    return detected if detected in (*CODECS, "zip") else None


def explain_placed(file: BinaryIO, name: str, limits: Limits) -> str:
    """Return a warning that a file looks like an archive and is placed as it is, "" if it does not look like one.

    Raises:
        ArchiveLimitError: as `detect_content`.
    """
    kind = "tar.lzma" if name.lower().endswith((".lzma", ".tlz")) else detect_content(file, limits)
    if kind is None or format_from_name(name):
        return ""
    return (
        f"{escape_text(name)} is placed as it is: set `format: {kind}` in its definition to extract it, "
        "or `extract: false` where it is used"
    )
