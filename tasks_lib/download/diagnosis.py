"""Autopsy: what wrong bytes are, in words that let a person act. Reads bytes; believes and changes nothing."""

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

from tasks_lib.archive import Entry, Reshape, kind_of, read
from tasks_lib.digest import Integrity
from tasks_lib.errors import ArchiveError, escaped
from tasks_lib.limits import Limits

#: Bytes that are looked at to recognise a page or an error.
LOOK_BYTES: Final = 64 << 10
_QUOTED: Final = 60
#: Source: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
_LFS: Final = b"version https://git-lfs.github.com/spec/"
_HTML: Final = re.compile(rb"\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|title|body)", re.IGNORECASE | re.DOTALL)
_TITLE: Final = re.compile(rb"<title[^>]*>([^<]*)", re.IGNORECASE)
_XML_ERROR: Final = re.compile(rb"\s*<\?xml.*?<Error>.*?<Code>([^<]*)", re.DOTALL)

_REVIEW: Final = "ask upstream why it changed; if the new content is right, pin its size and sha256 after a review"
_PAGE: Final = "open the URL in a browser: the file moved, or it wants a login; correct `url:` or add a mirror"
_TRY: Final = "try again later or add a mirror; the definition is right if it ever was"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the bytes are, and what to do next."""

    words: str
    advice: str


def diagnose(file: BinaryIO, *, size: int, expected: Integrity, name: str, earlier: Iterable[Path] = ()) -> Diagnosis:
    """Return what the `size` bytes of `file` are instead of `expected`.

    Args:
        file: the wrong bytes, or as many of them as were read.
        size: bytes that they have, by the server's words if not all were read.
        expected: what the definition promises.
        name: file name that says which archive it should be.
        earlier: files that once were right, newest first.
    """
    file.seek(0)
    start = file.read(LOOK_BYTES)
    found = _recognised(start) or _wrapped(file, expected) or _archive(file, size, name, earlier)
    return found or _sized(size, expected, start)


def _recognised(start: bytes) -> Diagnosis | None:
    """Recognise pages, errors and pointers by their first bytes."""
    if start.startswith(_LFS):
        return Diagnosis("a Git LFS pointer, not the file it points to", "use the URL of the file itself (media/LFS)")
    if _HTML.match(start):
        title = _TITLE.search(start)
        named = f'titled "{_quoted(title[1])}"' if title and title[1].strip() else f'beginning "{_quoted(start)}"'
        return Diagnosis(f"an HTML page {named}", _PAGE)
    if error := _XML_ERROR.match(start):
        return Diagnosis(f"an XML error: {_quoted(error[1])}", _PAGE)
    return _json(start)


def _json(start: bytes) -> Diagnosis | None:
    if start.lstrip()[:1] not in (b"{", b"["):
        return None
    with contextlib.suppress(ValueError, RecursionError):
        said = _message(json.loads(start))
        return Diagnosis(f"a JSON error: {_quoted(said.encode('utf-8', 'replace'))}", _PAGE)
    return None


def _message(value: Any) -> str:
    """Return the words that APIs put into their errors, else the beginning of it all."""
    if isinstance(value, dict):
        for key in ("message", "error", "detail", "title", "errors"):
            if value.get(key):
                return _message(value[key])
    return value if isinstance(value, str) else json.dumps(value)


def _quoted(text: bytes) -> str:
    words = " ".join(text.decode("utf-8", "replace").split())
    return escaped(words[:_QUOTED]) + ("..." if len(words) > _QUOTED else "")


def _wrapped(file: BinaryIO, expected: Integrity) -> Diagnosis | None:
    """Recognise the right content with gzip on top."""
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
                "the right content with gzip applied on top", "the server or a proxy compresses: add a mirror"
            )
    return None


def _archive(file: BinaryIO, size: int, name: str, earlier: Iterable[Path]) -> Diagnosis | None:
    """Compare with what once was right; a complete archive of other content was not cut off on the way."""
    file.seek(0, 2)
    from tasks_lib.download.diagnosis import (  # reads archives: loaded when needed
        MAX_COMPARED_BYTES,
        compare_archives,
        members,
    )

    if file.tell() != size or size > MAX_COMPARED_BYTES:
        return None
    theirs = members(file, name)
    if theirs is None:
        return None
    words = next(filter(None, (compare_archives(theirs, path) for path in earlier)), "")
    return Diagnosis(words or "a complete archive of other content: re-released, or another version", _REVIEW)


def _sized(size: int, expected: Integrity, start: bytes) -> Diagnosis:
    text = f'; it begins "{_quoted(start)}"' if start and _is_text(start) else ""
    if not size:
        return Diagnosis("an empty answer", _TRY)
    if size < expected.size:
        return Diagnosis(f"truncated by {expected.size - size} bytes, or another file{text}", _TRY)
    if size > expected.size:
        return Diagnosis(f"longer than promised: another file{text}", _REVIEW)
    return Diagnosis(f"other content of the same size{text}", _REVIEW)


def _is_text(start: bytes) -> bool:
    return not re.search(rb"[\x00-\x08\x0e-\x1f\x7f-\xff]", start[:256])


#: Largest archive that is compared, and what may come out of it: a report must not take minutes.
MAX_COMPARED_BYTES: Final = 256 << 20
_LIMITS: Final = Limits(max_total_bytes=2 << 30, max_entries=200_000)
#: Names that a report quotes.
_QUOTED_MEMBERS: Final = 3

Members = dict[bytes, tuple[object, ...]]


def members(file: BinaryIO, name: str) -> Members | None:
    """Return what the archive holds, by path; None when it is none that can be read to its end."""
    file.seek(0)
    kind = kind_of(file, name)
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
    """Return what differs from the archive at `earlier`, "" when nobody can tell."""
    try:
        if earlier.stat().st_size > MAX_COMPARED_BYTES:
            return ""
        with earlier.open("rb") as file:
            ours = members(file, earlier.name)
    except OSError:
        return ""
    if ours is None:
        return ""
    if ours == theirs:
        return "recompressed: the same content as before, compressed otherwise"
    if not ours.keys() & theirs.keys():  # a repacked archive has another first directory
        ours, theirs = _below(ours), _below(theirs)
    if not ours.keys() & theirs.keys():
        return ""
    if ours == theirs:
        return "recompressed: the same content as before, packed otherwise"
    differing = sorted(path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path))
    names = ", ".join(escaped(path[:80]) for path in differing[:_QUOTED_MEMBERS])
    more = f" and {len(differing) - _QUOTED_MEMBERS} more" if len(differing) > _QUOTED_MEMBERS else ""
    return f"re-released: these members differ from before: {names}{more}"


def _below(found: Members) -> Members:
    return {path.partition(b"/")[2]: facts for path, facts in found.items() if b"/" in path}
