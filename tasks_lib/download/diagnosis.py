"""Diagnosis of wrong bytes: describe what they are and what the user can do. Reads bytes only; changes nothing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from tasks_lib.archive import Entry, Reshape, detect_format, read
from tasks_lib.digest import Integrity
from tasks_lib.errors import ArchiveError, escape_text
from tasks_lib.limits import Limits

#: Bytes read to recognise a web page or an error response.
LOOK_BYTES: Final = 64 << 10
_QUOTED: Final = 60
#: Source: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
_LFS: Final = b"version https://git-lfs.github.com/spec/"
_HTML: Final = re.compile(rb"\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|title|body)", re.IGNORECASE | re.DOTALL)
_TITLE: Final = re.compile(rb"<title[^>]*>([^<]*)", re.IGNORECASE)
_XML_ERROR: Final = re.compile(rb"\s*<\?xml.*?<Error>.*?<Code>([^<]*)", re.DOTALL)

_REVIEW: Final = "ask upstream why the content changed; if it is right, review it and pin its size and sha256"
_PAGE: Final = "open the URL in a browser: the file has moved or requires a login; correct `url:` or add a mirror"
_TRY: Final = "try again later or add a mirror; the definition need not change"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A description of the bytes and the next step for the user."""

    words: str
    advice: str


def diagnose(file: BinaryIO, *, size: int, expected: Integrity, name: str, earlier: Iterable[Path] = ()) -> Diagnosis:
    """Return what the `size` bytes of `file` are, given that they are not `expected`.

    Args:
        file: the wrong bytes, or the part of them that was read.
        size: number of bytes; as the server announced it if not all were read.
        expected: size and digest in the definition.
        name: file name, which determines the expected archive format.
        earlier: files of earlier versions of this artifact, newest first.
    """
    file.seek(0)
    start = file.read(LOOK_BYTES)
    found = _diagnose_start(start) or _diagnose_gzip(file, expected) or _diagnose_archive(file, size, name, earlier)
    return found or _diagnose_size(size, expected, start)


def _diagnose_start(start: bytes) -> Diagnosis | None:
    """Recognise web pages, error responses and Git LFS pointers by their first bytes."""
    if start.startswith(_LFS):
        return Diagnosis("a Git LFS pointer, not the file it points to", "use the URL of the file itself (media/LFS)")
    if _HTML.match(start):
        title = _TITLE.search(start)
        named = f'titled "{_quote(title[1])}"' if title and title[1].strip() else f'that begins with "{_quote(start)}"'
        return Diagnosis(f"an HTML page {named}", _PAGE)
    if error := _XML_ERROR.match(start):
        return Diagnosis(f"an XML error: {_quote(error[1])}", _PAGE)
    return _diagnose_json(start)


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


def _diagnose_gzip(file: BinaryIO, expected: Integrity) -> Diagnosis | None:
    """Recognise the right content compressed with gzip."""
    file.seek(0)
    decoder = zlib.decompressobj(wbits=31)
    digest, size = hashlib.new(expected.digest.algorithm), 0
    with contextlib.suppress(zlib.error):
        while size <= expected.size and (chunk := decoder.unconsumed_tail or file.read(1 << 20)):
            plain = decoder.decompress(chunk, 1 << 20)
            digest.update(plain)
            size += len(plain)
        if size == expected.size and digest.hexdigest() == expected.digest.hex:
            return Diagnosis(
                "the right content, compressed with gzip", "the server or a proxy compresses the content: add a mirror"
            )
    return None


def _diagnose_archive(file: BinaryIO, size: int, name: str, earlier: Iterable[Path]) -> Diagnosis | None:
    """Compare an archive with earlier versions; a complete archive was not truncated in transit."""
    file.seek(0, 2)
    if file.tell() != size or size > MAX_COMPARED_BYTES:
        return None
    theirs = read_members(file, name)
    if theirs is None:
        return None
    words = next(filter(None, (compare_archives(theirs, path) for path in earlier)), "")
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


#: Largest archive that is compared, and the limits for reading it: a report must not take minutes.
MAX_COMPARED_BYTES: Final = 256 << 20
_LIMITS: Final = Limits(max_total_bytes=2 << 30, max_entries=200_000)
#: Member names quoted in a report.
_QUOTED_MEMBERS: Final = 3

Members = dict[bytes, tuple[object, ...]]


def read_members(file: BinaryIO, name: str) -> Members | None:
    """Return the members of an archive by path, None when `file` is not an archive or cannot be read to its end."""
    file.seek(0)
    kind = detect_format(file, name, _LIMITS)
    found: Members = {}

    def note(entry: Entry) -> None:
        digest = hashlib.sha256()
        for chunk in entry.chunks:
            digest.update(chunk)
        found[entry.path] = (entry.kind, entry.size, entry.executable, entry.target, digest.digest())

    if kind is None:
        return None
    try:
        read(file, name=name, format=kind, reshape=Reshape(), limits=_LIMITS, sink=note)
    except (ArchiveError, OSError):
        return None
    return found


def compare_archives(theirs: Members, earlier: Path) -> str:
    """Return how `theirs` differs from the archive at `earlier`, "" when they cannot be compared."""
    try:
        if earlier.stat().st_size > MAX_COMPARED_BYTES:
            return ""
        with earlier.open("rb") as file:
            ours = read_members(file, earlier.name)
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
