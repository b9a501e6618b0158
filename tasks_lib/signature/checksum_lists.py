"""Lists of digests, as written by `sha256sum`, BSD's `sha256` (also `-r`) and `openssl dgst`. Pure: no I/O.

Source: GNU coreutils manual, "cksum output modes" (including the escaping of names); src/cksum.c, split_3 and
bsd_split_3 (blanks, BSD's reversed mode, OpenSSL's form); openssl-dgst(1): since 3.0 the digest is called SHA2-256.
"""

from __future__ import annotations

import re
from typing import Final

from tasks_lib.digest import Digest
from tasks_lib.errors import SignatureError, escape_text

#: Largest number of lines of a list; Debian's longest SHA256SUMS has about 100,000.
_MAX_LINES: Final = 500_000
_HINT: Final = "check that `checksums.url` is the list of the release that has the file"
_GNU: Final = re.compile(r"[ \t]*(\\?)([0-9A-Fa-f]{64})[ \t][ *]?(.+)")
_BSD: Final = re.compile(r"[ \t]*(\\?)SHA(?:2-)?256 ?\((.+)\)[ \t]*=[ \t]*([0-9A-Fa-f]{64})")


def find_listed_digest(text: bytes, file_name: str) -> Digest:
    """Return the sha256 that a list has for `file_name`; directories of listed names are ignored.

    Raises:
        SignatureError: the file is not listed, is listed with two digests, or the text is not such a list.
    """
    lines = text.decode("utf-8", "surrogateescape").splitlines()
    if len(lines) > _MAX_LINES:
        raise SignatureError(f"the list of digests has more than {_MAX_LINES} lines", hint=_HINT)
    listed = [pair for line in lines if (pair := _parse_line(line)) is not None]
    found = {digest for name, digest in listed if name.rpartition("/")[2] == file_name}
    if len(found) == 1:
        return Digest.sha256(found.pop())
    if not listed:
        raise SignatureError("the list of digests has no sha256 line", hint="expected the output of `sha256sum`")
    what = "two digests of" if found else "no digest of"
    raise SignatureError(f"the list of digests has {what} {escape_text(file_name)!r}", hint=_HINT)


def _parse_line(line: str) -> tuple[str, str] | None:
    """Return the name and digest of a line, None for any other line."""
    if match := _GNU.fullmatch(line):
        escape, digest, name = match.groups()
    elif match := _BSD.fullmatch(line):
        escape, name, digest = match.groups()
    else:
        return None
    if escape:
        name = re.sub(r"\\([\\nr])", lambda match: {"\\": "\\", "n": "\n", "r": "\r"}[match[1]], name)
    return name, digest.lower()
