"""Entries of an archive, and checks of single names and link targets against rules and limits.

Names are bytes, as archives contain them. Nothing in this module accesses the file system. Source of the rules:
CVE-2007-4559, CVE-2025-4517 and similar vulnerabilities (docs/archives.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from tasks_lib.errors import (
    ArchiveError,
    ArchiveLimitError,
    DamagedArchiveError,
    UnsafeEntryError,
    UnsupportedArchiveError,
)
from tasks_lib.formats import Reshape as Reshape  # re-exported
from tasks_lib.limits import Limits as Limits  # re-exported

FILE: Final = "file"
DIRECTORY: Final = "directory"
SYMLINK: Final = "symlink"
HARDLINK: Final = "hardlink"

_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
#: First components that are absolute on Windows: `C:`, `C:\...` and `\\server`. `C:x` and `\x` are allowed as names.
DRIVE: Final = re.compile(rb"[A-Za-z]:(\\|\Z)|\\\\")

#: This object (by identity) among the chunks of a file means its zeros: a sink may write a hole instead.
HOLE: Final = bytes(1 << 18)

#: First bytes of the formats that are recognized by content. Source: RFC 1952 2.3.1, bzip2 format, xz-file-format
#: 2.1.1.1, RFC 8878 3.1.1, APPNOTE 4.3.7 and 4.3.16.
MAGIC: Final = (
    (b"\x1f\x8b", "tar.gz"),
    (b"BZh", "tar.bz2"),
    (b"\xfd7zXZ\x00", "tar.xz"),
    (b"\x28\xb5\x2f\xfd", "tar.zst"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
)


#: First bytes of other formats, which are read only if the definition declares them. Source: lzip manual "File format";
#: compress(1), magic(5); LZ4 frame format; 7zFormat.txt; RPM package format "Lead"; deb(5).
OTHER_MAGIC: Final = (
    (b"LZIP\x01", "tar.lz"),
    (b"\x1f\x9d", "tar.Z"),
    (b"\x04\x22\x4d\x18", "tar.lz4"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"\xed\xab\xee\xdb", "rpm"),
    (b"!<arch>\ndebian-binary", "deb"),
)


class Entry(NamedTuple):
    """An entry; `chunks` yields the content of a file once, and only until the next entry is read.

    It is a tuple because an archive has up to a million entries, and creating a frozen dataclass costs four times as
    much.
    """

    path: bytes
    kind: str
    size: int = 0
    executable: int = 0  # 1 when the owner may execute it
    target: bytes = b""
    offset: int = 0
    chunks: Iterable[bytes | memoryview] = ()


#: Options that accept what is refused by default, and the effect of each. Those under `archive:` only permit; those
#: under `fetch:` shape the tree.
_FETCH_OPTIONS: Final = {
    "duplicates": ("last", "to use the last entry of each name"),
    "control-names": ("keep", "to keep such names"),
    "zip-backslash": ("separator", "to read backslashes as slashes"),
    "zip-prefix": ("ignore", "to ignore bytes that belong to no member"),
}
_ARCHIVE_OPTIONS: Final = {
    "outward-symlinks": ("keep", "to keep such symlinks"),
    "case-twins": ("keep", "to keep both"),
    "trailing": ("ignore", "to ignore these bytes"),
    "end": ("missing", "to accept an archive without an end"),
}
#: Options that are also environment variables of fetch-content, whose tasks have no definition.
ARCHIVE_VARIABLES: Final = {
    f"FETCH_{name.replace('-', '_').upper()}": (name.replace("-", "_"), value)
    for name, (value, _) in (_FETCH_OPTIONS | {"trailing": _ARCHIVE_OPTIONS["trailing"]}).items()
}


def option_hint(name: str) -> str:
    """Return the hint that names the option which lifts a refusal, with its value and place."""
    value, effect = _FETCH_OPTIONS.get(name) or _ARCHIVE_OPTIONS[name]
    place = "fetch" if name in _FETCH_OPTIONS else "archive"
    variable = f"FETCH_{name.replace('-', '_').upper()}"
    also = f" ({variable}={value} for fetch-content)" if variable in ARCHIVE_VARIABLES else ""
    return f"set `{name}: {value}` under `{place}:`{also} {effect}"


#: The limit that each code names; TOO_LARGE has several.
_LIMITS: Final = {
    "MEMBER_TOO_LARGE": "max-member-bytes",
    "TOO_MANY_ENTRIES": "max-entries",
    "METADATA_TOO_LARGE": "max-metadata-bytes",
    "PATH_TOO_LONG": "max-path-bytes",
    "COMPONENT_TOO_LONG": "max-component-bytes",
    "TOO_DEEP": "max-depth",
    "WINDOW": "zstd-max-window-log",
    "DICTIONARY": "xz-memlimit-mib",
    "NAMES_TOO_LARGE": "max-names-bytes",
}


def _limit_hint(name: str, least: int) -> str:
    """Return the hint that names the limit to raise; `least` is the value that is needed, 0 if it is unknown."""
    value = f"`{name}: {least}`" if least else f"a larger `{name}`"
    variable = f"FETCH_{name.replace('-', '_').upper()}"
    return f"set {value} under `archive:`, or {variable}, if you trust this archive"


def unsafe_entry(
    reason: str, code: str, entry: bytes | None = None, offset: int | None = None, hint: str = ""
) -> UnsafeEntryError:
    """Return the error for an entry that is dangerous or ambiguous; the caller adds the archive's name."""
    return UnsafeEntryError(archive="", reason=reason, code=code, entry=entry, offset=offset, hint=hint)


def damaged_archive(
    reason: str, code: str, entry: bytes | None = None, offset: int | None = None, hint: str = ""
) -> DamagedArchiveError:
    """Return the error for damaged data."""
    return DamagedArchiveError(archive="", reason=reason, code=code, entry=entry, offset=offset, hint=hint)


def wrong_format(first: bytes) -> DamagedArchiveError:
    """Return the error for content in another format than the expected one; `first` is its beginning."""
    reason = f"not in the expected format: the content looks like {describe_content(first)}"
    return damaged_archive(reason, "WRONG_FORMAT", offset=0)


def limit_exceeded(
    reason: str,
    code: str,
    entry: bytes | None = None,
    offset: int | None = None,
    least: int = 0,
    limit: str | None = None,
) -> ArchiveLimitError:
    """Return the error for an archive that exceeds a limit.

    Args:
        reason: what exceeds it.
        code: the code of the error.
        entry: the name of the entry.
        offset: the offset of the entry.
        least: the value of the limit that accepts the archive, 0 if it is unknown.
        limit: the key of the limit, None for the one that belongs to the code, "" if no key raises the limit.
    """
    key = _LIMITS.get(code, "") if limit is None else limit
    hint = _limit_hint(key, least) if key else ""
    return ArchiveLimitError(archive="", reason=reason, code=code, entry=entry, offset=offset, hint=hint)


def check_trailing(following: bytes, magics: tuple[bytes, ...], trailing: str) -> None:
    """Check the first bytes after a stream, which do not begin another one.

    Args:
        following: these bytes, as many as `magics` have, fewer only at the end.
        magics: the first bytes of a stream; a part of them at the end of the file is a stream that was cut.
        trailing: "refuse", or "ignore" such bytes.

    Raises:
        DamagedArchiveError: they are refused.
    """
    if following in magics:  # after padding of a wrong length
        raise damaged_archive("invalid padding before another stream", "TRAILING_GARBAGE")
    if following and any(magic.startswith(following) for magic in magics):
        raise damaged_archive("truncated: another stream begins at the end", "TRUNCATED")
    if trailing != "ignore":
        hint = option_hint("trailing")
        raise damaged_archive("trailing garbage after the compressed data", "TRAILING_GARBAGE", hint=hint)


def unsupported_archive(reason: str, code: str, entry: bytes | None = None, offset: int | None = None) -> ArchiveError:
    """Return the error for an unsupported format or feature."""
    return UnsupportedArchiveError(archive="", reason=reason, code=code, entry=entry, offset=offset)


def normalize_path(name: bytes, limits: Limits, offset: int) -> bytes:
    """Return the normalized path of `name`, without `.` components and doubled slashes; b"" for the root itself.

    Raises:
        UnsafeEntryError: the name is absolute or empty, or contains `..` or control characters.
        ArchiveLimitError: the name is too long or too deep.
    """
    if not name:
        raise unsafe_entry("has an empty name", "NAME_EMPTY", name, offset)
    if name[0] == 0x2F:
        raise unsafe_entry("has an absolute name", "ABSOLUTE", name, offset)
    if len(name) > limits.max_path_bytes:
        reason = f"name of {len(name)} bytes, more than max-path-bytes {limits.max_path_bytes}"
        raise limit_exceeded(reason, "PATH_TOO_LONG", name[:80], offset, len(name))
    if _CONTROL.search(name):
        _check_control(name, limits, offset)
    parts = name.split(b"/")
    if b".." in parts or (b"\\" in name and b".." in name.replace(b"\\", b"/").split(b"/")):
        raise unsafe_entry("has `..` in its name", "DOTDOT", name, offset)
    if b"" in parts or b"." in parts:
        parts = [part for part in parts if part not in (b"", b".")]
    if parts and DRIVE.match(parts[0]):
        raise unsafe_entry("begins with a Windows drive or server name", "ABSOLUTE", name, offset)
    _check_lengths(name, parts, limits, offset)
    return b"/".join(parts)


def _check_control(name: bytes, limits: Limits, offset: int) -> None:
    """Check a name that has control characters; no file system can store a NUL."""
    if b"\0" in name:
        raise unsafe_entry("has a NUL character in its name", "NAME_CONTROL", name, offset)
    if limits.control_names != "keep":
        hint = option_hint("control-names")
        raise unsafe_entry("has a control character in its name", "NAME_CONTROL", name, offset, hint)


def keep_dot_components(path: bytes, name: bytes, strip: int) -> bytes:
    """Return `path` with a leading `.` for each empty or `.` component among the first `strip` ones of `name`.

    Normalization removes these components, but stripping counts them: `./top/x` without its first component is
    `top/x`. Source: Taskgraph, fetch-content, `name.split("/")`; GNU tar does the same except for doubled slashes.
    """
    # the final slash of a directory begins no component: what is in it has its own name there
    parts = name.removesuffix(b"/").split(b"/")[:strip] if strip else ()
    dropped = sum(part in (b"", b".") for part in parts)
    return (b"./" * dropped + path).rstrip(b"/") if dropped else path


def _check_lengths(name: bytes, parts: list[bytes], limits: Limits, offset: int) -> None:
    if len(parts) > limits.max_depth:
        reason = f"name with {len(parts)} components, more than max-depth {limits.max_depth}"
        raise limit_exceeded(reason, "TOO_DEEP", name[:80], offset, len(parts))
    if len(name) > limits.max_component_bytes and (longest := max(map(len, parts))) > limits.max_component_bytes:
        reason = f"name component of {longest} bytes, more than max-component-bytes {limits.max_component_bytes}"
        raise limit_exceeded(reason, "COMPONENT_TOO_LONG", name[:80], offset, longest)


def validate_target(target: bytes, kind: str, limits: Limits, name: bytes, offset: int) -> bytes:
    """Return the target of a link: a path in the archive for a hard link, the unchanged text for a symlink.

    Raises:
        UnsafeEntryError: the target is empty or too long, contains control characters, or is not an accepted path.
    """
    if not target or len(target) > limits.max_path_bytes or b"\0" in target:
        raise unsafe_entry("has a link target that is empty, too long or has a NUL", "LINK_TARGET", name, offset)
    if limits.control_names != "keep" and _CONTROL.search(target):
        hint = option_hint("control-names")
        raise unsafe_entry("has a control character in its link target", "LINK_TARGET", name, offset, hint)
    if kind == SYMLINK:
        return target
    try:
        return normalize_path(target, limits, offset)
    except ArchiveError as error:
        raise type(error)(
            archive="",
            reason=f"invalid hard link target: {error.reason}",
            code=error.code,
            entry=name,
            offset=offset,
            hint=error.hint,
        ) from None


def is_program(first: bytes) -> int:
    """Return 1 for the first bytes of an ELF file or of a script with a `#!` line, else 0."""
    return int(first.startswith((b"\x7fELF", b"#!")))


def describe_content(first: bytes) -> str:
    """Return a description of the first bytes of a file, for an error message."""
    kind = sniff_format(first) or _starting(first, OTHER_MAGIC)
    if kind:
        return kind
    if first.lstrip()[:1] == b"<":
        return "an HTML or XML page"
    return f"{first[:16]!r}" if first else "an empty file"


def sniff_format(first_bytes: bytes) -> str | None:
    """Return the format detected from the first 512 bytes; a compressed stream is assumed to contain a tar."""
    return _starting(first_bytes, MAGIC) or ("tar" if first_bytes[257:262] == b"ustar" else None)


def _starting(first: bytes, table: tuple[tuple[bytes, str], ...]) -> str | None:
    return next((kind for magic, kind in table if first.startswith(magic)), None)
