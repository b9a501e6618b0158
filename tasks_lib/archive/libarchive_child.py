"""The child process that reads an archive with libarchive: its input is the archive, its output a stream of records.

It imports nothing of this package, has no environment and no program to call, and cannot write files. Its parent,
`more_formats`, checks everything that it writes.
"""

from __future__ import annotations

import contextlib
import json
import locale
import os
import resource
import struct
import sys
from collections.abc import Iterator
from typing import Any, Final

#: A record: kind, size, whether the owner may execute it, lengths of name and link target, which follow. After a file
#: follow chunks, each after its length; a length of 0 or `ABORTED` is the last one.
RECORD: Final = struct.Struct(">cQBII")
LENGTH: Final = struct.Struct(">I")
#: Kinds: file, directory, symlink, hard link, something else, end, error (its text is the name).
FILE, DIRECTORY, SYMLINK, HARDLINK, OTHER, END, ERROR = b"f", b"d", b"l", b"h", b"?", b"e", b"!"

#: libarchive's format and filters by our format: only these are enabled. Source: libarchive(3), "read_filter".
_READERS: Final = {
    "tar.lz": ("raw", ("lzip",)),
    "tar.Z": ("raw", ("compress",)),
    "tar.lz4": ("raw", ("lz4",)),
    "7z": ("7zip", ("none",)),
    "rpm": ("cpio", ("rpm", "gzip", "bzip2", "xz", "lzma", "zstd")),
}
#: Largest length of a chunk, and the length that announces an error instead of a chunk.
CHUNK: Final = 1 << 18
ABORTED: Final = CHUNK + 1
#: Bytes of address space that Python and libarchive need besides buffers that depend on the archive.
_BASE: Final = 512 << 20
#: Largest file that the process can write: its standard error.
_MAX_FILE: Final = 1 << 16


def main(kind: str, memory: int, cpu_s: int) -> int:
    """Write the records of the archive on standard input, of format `kind`; return the exit status."""
    for what, limit in (
        (resource.RLIMIT_AS, _BASE + memory),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, _MAX_FILE),
        (resource.RLIMIT_CORE, 0),
    ):
        try:
            resource.setrlimit(what, (limit, limit))
        except (OSError, ValueError):  # macOS does not limit the address space
            continue
    with contextlib.suppress(locale.Error):  # a system without C.UTF-8
        locale.setlocale(locale.LC_ALL, "")
    try:
        _write_records(kind)
    except MemoryError:
        _write(ERROR, "Can't allocate memory")
        return 1
    except Exception as error:
        _write(ERROR, str(error) or type(error).__name__)
        return 1
    _write(END)
    return 0


def _write_records(kind: str) -> None:
    late = _late_contents(kind) if kind == "rpm" else {}
    waiting: dict[bytes, list[bytes]] = {}  # the file that gets the content of a group of hard links -> earlier names
    for entry in _entries(kind):
        name, target = _bytes(entry.pathname), _bytes(entry.linkpath if entry.islnk or entry.issym else b"")
        owner = late.get(target if entry.islnk else name)
        if owner is not None and owner != name:
            waiting.setdefault(owner, []).append(name)
            continue
        if entry.islnk and owner is None:
            _write(HARDLINK, name, target)
            continue
        _write_entry(entry, name, target)
        for link in waiting.pop(name, ()):
            _write(HARDLINK, link, name)


def _write_entry(entry: Any, name: bytes, target: bytes) -> None:
    executable = entry.mode >> 6 & 1
    if entry.isdir:
        _write(DIRECTORY, name)
    elif entry.issym:
        _write(SYMLINK, name, target)
    elif not entry.isreg:
        _write(OTHER, name)
    else:
        _write(FILE, name, size=entry.size or 0, executable=executable)
        output = sys.stdout.buffer
        end = ABORTED
        try:
            for block in entry.get_blocks(CHUNK):
                output.write(LENGTH.pack(len(block)))
                output.write(block)
            end = 0
        finally:
            output.write(LENGTH.pack(end))


def _late_contents(kind: str) -> dict[bytes, bytes]:
    """Return the first name of each group of hard links whose content follows another name -> that name.

    Source: cpio "newc" stores the content of hard links once, after the last name.
    """
    return {_bytes(one.linkpath): _bytes(one.pathname) for one in _entries(kind) if one.islnk and one.size}


def _entries(kind: str) -> Iterator[Any]:
    from libarchive import ffi, read  # type: ignore[import-untyped]  # an optional dependency without types

    format_name, filters = _READERS[kind]
    os.lseek(0, 0, os.SEEK_SET)
    with read.new_archive_read(format_name, filters[0]) as pointer:
        for name in filters[1:]:
            ffi.get_read_filter_function(name)(pointer)
        ffi.read_open_fd(pointer, 0, CHUNK)
        yield from read.ArchiveRead(pointer)


def _bytes(name: str | bytes | None) -> bytes:
    return name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name or b""


def _write(kind: bytes, name: bytes | str = b"", target: bytes = b"", *, size: int = 0, executable: int = 0) -> None:
    text = _bytes(name)
    sys.stdout.buffer.write(RECORD.pack(kind, size, executable, len(text), len(target)) + text + target)


if __name__ == "__main__":
    sys.path[:] = json.loads(sys.argv[1])
    sys.exit(main(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
