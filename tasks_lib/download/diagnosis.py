"""Diagnosis of wrong bytes: describe what they are and what the user can do. Reads bytes only; changes nothing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from tasks_lib.archive import Entry, Reshape, detect_format, read
from tasks_lib.digest import Integrity
from tasks_lib.download.source_state import LOOK_BYTES
from tasks_lib.errors import ArchiveError, escape_text
from tasks_lib.limits import Limits
from tasks_lib.progress import do_nothing

_QUOTED: Final = 60
#: Source: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
_LFS: Final = b"version https://git-lfs.github.com/spec/"
#: Matched at one position only; everything here takes linear time.
_SPACES: Final = re.compile(rb"\s*")
_HTML: Final = re.compile(rb"<(?:!doctype\s+html|html|head|title|body)", re.IGNORECASE)

_REVIEW: Final = (
    "ask upstream why the content changed; if it is right, review it and pin its size and sha256 (doit update NAME)"
)
_PAGE: Final = "open the URL in a browser: the file has moved or requires a login; correct `url:` or add a mirror"
_TRY: Final = "try again later or add a mirror; the definition need not change"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A description of the bytes and the next step for the user."""

    words: str
    advice: str


class _TimeUpError(Exception):
    """The time for the diagnosis is over."""


def diagnose(
    file: BinaryIO,
    *,
    size: int,
    expected: Integrity,
    name: str,
    digest: str = "",
    earlier: Iterable[Path] = (),
    ends: float = math.inf,
    check: Callable[[], None] = do_nothing,
) -> Diagnosis:
    """Return what the `size` bytes of `file` are, given that they are not `expected`.

    Decompression and comparison end at `ends`, after `MAX_DIAGNOSIS_S`, or at a limit of `_LIMITS`; the diagnosis is
    then less specific.

    Args:
        file: the wrong bytes, or the part of them that was read.
        size: number of bytes; as the server announced it if not all were read.
        expected: size and digest in the definition.
        name: file name, which determines the expected archive format.
        digest: digest of the bytes, "" if not all were read.
        earlier: files of earlier versions of this artifact, newest first.
        ends: when the attempt ends (time.monotonic).
        check: is called often, and raises when the run was asked to stop.

    Raises:
        CancelledError: the run was asked to stop.
    """
    if digest == str(expected.digest):
        words = f"the {expected.digest.algorithm} is the pinned one; size is {size}, not {expected.size}"
        return Diagnosis(words, "correct `size:` in the definition")
    ends = min(ends, time.monotonic() + MAX_DIAGNOSIS_S)

    def check_time() -> None:
        check()
        if time.monotonic() >= ends:
            raise _TimeUpError

    file.seek(0)
    start = file.read(LOOK_BYTES)
    found = _diagnose_start(start)
    with contextlib.suppress(_TimeUpError):
        found = found or _diagnose_gzip(file, expected, check_time)
        found = found or _diagnose_archive(file, size, name, earlier, check_time)
    return found or _diagnose_size(size, expected, start)


def _diagnose_start(start: bytes) -> Diagnosis | None:
    """Recognise web pages, error responses and Git LFS pointers by their first bytes."""
    if start.startswith(_LFS):
        return Diagnosis("a Git LFS pointer, not the file it points to", "use the URL of the file itself (media/LFS)")
    if _HTML.match(start, _skip_comments(start)):
        title = _title(start)
        named = f'titled "{_quote(title)}"' if title.strip() else f'that begins with "{_quote(start)}"'
        return Diagnosis(f"an HTML page {named}", _PAGE)
    declaration, _, error = start.partition(b"<Error>")
    _, code, text = error.partition(b"<Code>")
    if code and declaration.lstrip().startswith(b"<?xml"):
        return Diagnosis(f"an XML error: {_quote(text.partition(b'<')[0])}", _PAGE)
    return _diagnose_json(start)


def _skip_comments(page: bytes) -> int:
    """Return where the first tag or text of a page begins, after white space and complete comments."""
    at = 0
    while spaces := _SPACES.match(page, at):
        at = spaces.end()
        end = page.find(b"-->", at + 4) if page.startswith(b"<!--", at) else -1
        if end < 0:
            break
        at = end + 3
    return at


def _title(page: bytes) -> bytes:
    at = page.lower().find(b"<title")
    _, tag, text = page[at:].partition(b">")
    return text.partition(b"<")[0] if at >= 0 and tag else b""


def _diagnose_json(start: bytes) -> Diagnosis | None:
    if start.lstrip()[:1] not in (b"{", b"["):
        return None
    with contextlib.suppress(ValueError, RecursionError):
        said = _message(json.loads(start))
        return Diagnosis(f"a JSON error: {_quote(said.encode('utf-8', 'replace'))}", _PAGE)
    return None


def _message(value: Any) -> str:
    """Return the message of an API error, else the whole value as JSON."""
    if isinstance(value, dict):
        for key in ("message", "error", "detail", "title", "errors"):
            if value.get(key):
                return _message(value[key])
    return value if isinstance(value, str) else json.dumps(value)


def _quote(text: bytes) -> str:
    words = " ".join(text.decode("utf-8", "replace").split())
    return escape_text(words[:_QUOTED]) + ("..." if len(words) > _QUOTED else "")


def _diagnose_gzip(file: BinaryIO, expected: Integrity, check: Callable[[], None]) -> Diagnosis | None:
    """Recognise the right content compressed with gzip."""
    if expected.size > _LIMITS.max_total_bytes:
        return None
    file.seek(0)
    decoder = zlib.decompressobj(wbits=31)
    digest, size = hashlib.new(expected.digest.algorithm), 0
    with contextlib.suppress(zlib.error):
        while size <= expected.size and (chunk := decoder.unconsumed_tail or file.read(1 << 20)):
            check()
            plain = decoder.decompress(chunk, 1 << 20)
            digest.update(plain)
            size += len(plain)
        if size == expected.size and digest.hexdigest() == expected.digest.hex:
            return Diagnosis(
                "the right content, compressed with gzip", "the server or a proxy compresses the content: add a mirror"
            )
    return None


def _diagnose_archive(
    file: BinaryIO, size: int, name: str, earlier: Iterable[Path], check: Callable[[], None]
) -> Diagnosis | None:
    """Compare an archive with earlier versions; a complete archive was not truncated in transit."""
    file.seek(0, 2)
    if file.tell() != size or size > MAX_COMPARED_BYTES:
        return None
    theirs = read_members(file, name, check)
    if theirs is None:
        return None
    words = next(filter(None, (compare_archives(theirs, path, check) for path in earlier)), "")
    return Diagnosis(words or "a complete archive with different content: a re-release or another version", _REVIEW)


def _diagnose_size(size: int, expected: Integrity, start: bytes) -> Diagnosis:
    text = f'; it begins with "{_quote(start)}"' if start and _is_text(start) else ""
    if not size:
        return Diagnosis("an empty response", _TRY)
    if size < expected.size:
        return Diagnosis(f"truncated by {expected.size - size} bytes, or a different file{text}", _TRY)
    if size > expected.size:
        return Diagnosis(f"longer than expected: a different file{text}", _REVIEW)
    return Diagnosis(f"different content of the same size{text}", _REVIEW)


def _is_text(start: bytes) -> bool:
    return not re.search(rb"[\x00-\x08\x0e-\x1f\x7f-\xff]", start[:256])


#: Largest archive that is compared, the limits for reading it, and the longest time in seconds: a report must not take
#: minutes.
MAX_COMPARED_BYTES: Final = 256 << 20
_LIMITS: Final = Limits(max_total_bytes=2 << 30, max_entries=200_000, max_names_bytes=16 << 20)
MAX_DIAGNOSIS_S: Final = 30.0
#: Member names quoted in a report.
_QUOTED_MEMBERS: Final = 3

Members = dict[bytes, tuple[object, ...]]


class _CheckedFile:
    """A file that calls `check` before each read: empty streams keep a decoder busy without any output."""

    def __init__(self, file: BinaryIO, check: Callable[[], None]) -> None:
        self._file, self._check = file, check

    def read(self, size: int = -1) -> bytes:
        self._check()
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def read_members(file: BinaryIO, name: str, check: Callable[[], None]) -> Members | None:
    """Return the members of an archive by path, None when `file` is not an archive or cannot be read to its end.

    Raises:
        Exception: any exception raised by `check`, which is called for every piece of input and content.
    """
    source = cast("BinaryIO", _CheckedFile(file, check))
    source.seek(0)
    found: Members = {}

    def note(entry: Entry) -> None:
        digest = hashlib.sha256()
        check()
        for chunk in entry.chunks:
            check()
            digest.update(chunk)
        found[entry.path] = (entry.kind, entry.size, entry.executable, entry.target, digest.digest())

    try:
        kind = detect_format(source, name, _LIMITS)
        if kind is None:
            return None
        read(source, name=name, format=kind, reshape=Reshape(), limits=_LIMITS, sink=note, check=check)
    except (ArchiveError, OSError):
        return None
    return found


def compare_archives(theirs: Members, earlier: Path, check: Callable[[], None]) -> str:
    """Return how `theirs` differs from the archive at `earlier`, "" when they cannot be compared.

    Raises:
        Exception: as `read_members`.
    """
    try:
        if earlier.stat().st_size > MAX_COMPARED_BYTES:
            return ""
        with earlier.open("rb") as file:
            ours = read_members(file, earlier.name, check)
    except OSError:
        return ""
    if ours is None:
        return ""
    if ours == theirs:
        return "recompressed: the same content as before, compressed differently"
    if not ours.keys() & theirs.keys():  # a repacked archive has a different top directory
        ours, theirs = _strip_top_directory(ours), _strip_top_directory(theirs)
    if not ours.keys() & theirs.keys():
        return ""
    if ours == theirs:
        return "recompressed: the same content as before, packed differently"
    differing = sorted(path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path))
    names = ", ".join(escape_text(path[:80]) for path in differing[:_QUOTED_MEMBERS])
    more = f" and {len(differing) - _QUOTED_MEMBERS} more" if len(differing) > _QUOTED_MEMBERS else ""
    return f"re-released: these members differ from before: {names}{more}"


def _strip_top_directory(found: Members) -> Members:
    return {path.partition(b"/")[2]: facts for path, facts in found.items() if b"/" in path}
