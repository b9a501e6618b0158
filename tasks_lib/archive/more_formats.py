"""Formats that libarchive reads in a child process with limits: 7z, rpm, and tar in lzip, compress or lz4.

The child decompresses; names, links, sizes and the tar inside are checked by this package, as for all other formats.
Needs the extra `[more-formats]`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from tasks_lib.archive import libarchive_child as child
from tasks_lib.archive.codecs import remaining_size
from tasks_lib.archive.entries import (
    DIRECTORY,
    FILE,
    HARDLINK,
    OTHER_MAGIC,
    SYMLINK,
    Entry,
    damaged_archive,
    keep_dot_components,
    limit_exceeded,
    normalize_path,
    unsafe_entry,
    unsupported_archive,
    validate_target,
    wrong_format,
)
from tasks_lib.errors import ArchiveError, ToolError, escape_text
from tasks_lib.limits import Limits
from tasks_lib.progress import Silent
from tasks_lib.subprocesses import Invocation, OutputStream, Timeouts, stream_output

#: Seconds of processor time for an archive: a constant, and one for each of these compressed bytes. LZMA, the slowest
#: of these formats, decodes 5 MiB/s on an old machine.
_CPU_S: Final = 60
_BYTES_PER_S: Final = 1 << 19
#: Factor for the time by the clock, in which the consumer writes.
_PATIENCE: Final = 20
_MAGIC: Final = {kind: magic for magic, kind in OTHER_MAGIC}
_KINDS: Final = {child.FILE: FILE, child.DIRECTORY: DIRECTORY, child.SYMLINK: SYMLINK, child.HARDLINK: HARDLINK}


def decompress_stream(source: BinaryIO, kind: str, limits: Limits) -> Iterator[bytes]:
    """Yield the decompressed content of a compressed tar.

    Raises:
        ArchiveError: libarchive cannot read it, it exceeds a limit, or the extra is not installed.
    """
    allowed = limits.max_total_for(remaining_size(source))
    total = 0
    with _reading(source, kind, limits) as records:
        records.next()
        for chunk in records.chunks():
            total += len(chunk)
            if total > allowed:
                limit = limits.total_name(allowed)
                raise limit_exceeded(f"more than {allowed} bytes decompressed ({limit})", "TOO_LARGE", limit=limit)
            yield chunk
        records.next()


def read_entries(source: BinaryIO, kind: str, limits: Limits, strip: int) -> Iterator[Entry]:
    """Yield the entries of an archive; the content of each is readable until the next one is taken.

    Raises:
        ArchiveError: as `decompress_stream`, or the name or type of an entry is refused.
    """
    with _reading(source, kind, limits) as records:
        while (entry := records.next()) is not None:
            path = normalize_path(entry.path, limits, 0)
            target = entry.target
            if entry.kind in (SYMLINK, HARDLINK):
                target = validate_target(target, entry.kind, limits, entry.path, 0)
            chunks = _ChildOutput(records, entry) if entry.kind == FILE else ()
            path = keep_dot_components(path, entry.path, strip)
            yield entry._replace(path=path, target=target, chunks=chunks)
            if isinstance(chunks, _ChildOutput):
                chunks.finish()


class _ChildOutput:
    """The content of one file, whose size must be as announced."""

    def __init__(self, records: _Records, entry: Entry) -> None:
        self._chunks, self._entry, self._left = records.chunks(), entry, entry.size

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self._left -= len(chunk)
            if self._left < 0:
                break
            yield chunk
        if self._left:
            size = self._entry.size
            raise damaged_archive(f"expected {size} bytes of content, got another number", "SIZE", self._entry.path)

    def finish(self) -> None:
        """Skip the content that was not read."""
        for _ in self:
            pass


class _Records:
    """The records that the child writes."""

    def __init__(self, output: OutputStream, limits: Limits) -> None:
        self._output, self._limits = output, limits

    def next(self) -> Entry | None:
        """Return the next entry, None at the end.

        Raises:
            ArchiveError: the child reports an error, or was ended by a limit.
        """
        kind, size, executable, name_size, target_size = child.RECORD.unpack(self._exact(child.RECORD.size))
        longest = max(name_size, target_size)
        if longest > self._limits.max_metadata_bytes:
            raise limit_exceeded("a name is longer than max-metadata-bytes", "METADATA_TOO_LARGE", least=longest)
        name, target = self._exact(name_size), self._exact(target_size)
        if kind == child.END:
            return None
        if kind == child.ERROR:
            raise _refusal(name)
        if kind not in _KINDS:
            raise unsafe_entry("is a device, FIFO or socket", "TYPE", name)
        return Entry(name, _KINDS[kind], size, executable, target)

    def chunks(self) -> Iterator[bytes]:
        """Yield the content of the current file.

        Raises:
            ArchiveError: as `next`.
        """
        while size := child.LENGTH.unpack(self._exact(child.LENGTH.size))[0]:
            if size > child.CHUNK:
                self.next()
            yield self._exact(size)

    def _exact(self, size: int) -> bytes:
        try:
            data = self._output.reader.read(size)
        except ToolError as error:
            raise limit_exceeded(error.message, "TIME") from error
        if len(data) < size:
            status = self._output.status()
            raise limit_exceeded(f"its reader was ended (status {status}): it needs too much memory or time", "TIME")
        return data


def _refusal(text: bytes) -> ArchiveError:
    """Return the error for a message of libarchive."""
    message = escape_text(text[:200])
    if "allocate" in message.lower():
        return limit_exceeded(f"needs more memory than xz-memlimit-mib allows: {message}", "DICTIONARY")
    if any(sign in message for sign in ("No module named", "shared object", "undefined symbol")):
        return _missing(message)
    return damaged_archive(f"libarchive cannot read it: {message}", "CORRUPT")


def _missing(reason: str) -> ArchiveError:
    error = unsupported_archive(f"this format is read with libarchive, which is missing ({reason})", "MORE_FORMATS")
    error.hint = "install `doit-fetch[more-formats]`, and the system's package of libarchive (libarchive13 on Debian)"
    return error


def _is_missing() -> bool:
    try:
        return importlib.util.find_spec("libarchive") is None
    except ValueError:  # sys.modules has None for it
        return True


@contextlib.contextmanager
def _reading(source: BinaryIO, kind: str, limits: Limits) -> Iterator[_Records]:
    """Start the child on a copy of the bytes that `source` yields, because these are the verified ones."""
    first = source.read(512)
    source.seek(-len(first), 1)
    if not first.startswith(_MAGIC[kind]):
        raise wrong_format(first)
    if _is_missing():
        raise _missing("no Python module libarchive")
    cpu_s = _CPU_S + remaining_size(source) // _BYTES_PER_S
    memory = limits.xz_memlimit_mib << 20
    words = [sys.executable, "-I", str(Path(child.__file__)), json.dumps(sys.path), kind, str(memory), str(cpu_s)]
    bounds = Timeouts(total_s=_PATIENCE * cpu_s, silence_s=_CPU_S)
    command = Invocation(words=words, environ={"LC_ALL": "C.UTF-8"}, bounds=bounds)
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(source, copy)
        copy.seek(0)
        with stream_output(command, Silent(), input=copy) as output:
            yield _Records(output, limits)
