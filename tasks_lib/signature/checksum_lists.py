"""Lists of digests, as `sha256sum`, BSD's `sha256` (`-r` too) and `openssl dgst` write them. Pure: no I/O.

Source: GNU coreutils manual, "cksum output modes" (escaping of names included); src/cksum.c, split_3 and bsd_split_3
(blanks, BSD's reversed mode, OpenSSL's form); openssl-dgst(1): since 3.0 the digest is called SHA2-256.
"""

from __future__ import annotations

import re
from typing import Final

from tasks_lib.digest import Digest
from tasks_lib.errors import SignatureError, escaped

#: Most lines of one list: Debian's longest SHA256SUMS has about 100,000.
_MAX_LINES: Final = 500_000
_GNU: Final = re.compile(r"[ \t]*(\\?)([0-9A-Fa-f]{64})[ \t][ *]?(.+)")
_BSD: Final = re.compile(r"[ \t]*(\\?)SHA(?:2-)?256 ?\((.+)\)[ \t]*=[ \t]*([0-9A-Fa-f]{64})")


def listed_digest(text: bytes, file_name: str) -> Digest:
    """Return the sha256 that a list gives for `file_name`; directories before a listed name do not count.

    Raises:
        SignatureError: not listed, listed with two digests, or no list at all.
    """
    lines = text.decode("utf-8", "surrogateescape").splitlines()
    if len(lines) > _MAX_LINES:
        raise SignatureError(f"the list of digests has more than {_MAX_LINES} lines")
    listed = [pair for line in lines if (pair := _pair(line)) is not None]
    found = {digest for name, digest in listed if name.rpartition("/")[2] == file_name}
    if len(found) == 1:
        return Digest.sha256(found.pop())
    if not listed:
        raise SignatureError("the list of digests holds no sha256 line", hint="`sha256sum` writes such lists")
    what = "two digests of" if found else "no digest of"
    raise SignatureError(f"the list of digests has {what} {escaped(file_name)!r}")


def _pair(line: str) -> tuple[str, str] | None:
    """Return name and digest of one line, None when it is something else."""
    if found := _GNU.fullmatch(line):
        escape, digest, name = found.groups()
    elif found := _BSD.fullmatch(line):
        escape, name, digest = found.groups()
    else:
        return None
    if escape:
        name = re.sub(r"\\([\\nr])", lambda match: {"\\": "\\", "n": "\n", "r": "\r"}[match[1]], name)
    return name, digest.lower()
