"""Evaluation of gpg's status lines. Pure: no I/O.

Source: GnuPG doc/DETAILS, "Format of the --status-fd output"; observed output of gpg 2.2.40: faults.md section 7.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from tasks_lib.errors import SignatureError, UnknownSignerError, escape_text

#: Seconds that a signer's clock may be ahead of this machine's.
MAX_AHEAD_S: Final = 24 * 3600
#: Days before the expiry of a key from which on a warning is shown, to leave time for reviewing a new key file.
WARN_DAYS: Final = 90
#: MD5, SHA-1, RIPEMD-160. Source: RFC 4880 section 9.4; RFC 9580 section 9.5 forbids them.
WEAK_DIGESTS: Final = {"1": "MD5", "2": "SHA-1", "3": "RIPEMD-160"}
#: Binary document, canonical text document. Source: RFC 4880 section 5.2.1.
_CLASSES: Final = frozenset({"00", "01"})

_REVOKED: Final = "its key {key} has been revoked"
_BAD: Final = {
    "BADSIG": "it does not match the content: the file was changed, or the signature is for another file (key {key})",
    "REVKEYSIG": _REVOKED,
    "EXPKEYSIG": "its key {key} has expired",
    "EXPSIG": "the signature itself has expired (key {key})",
}
_HINTS: Final = {
    "BADSIG": "compare the file with upstream's announcement first",
    "REVKEYSIG": "find out why it was revoked, and pin upstream's current key",
    "EXPKEYSIG": "update the key file: upstream may have extended the expiry of the key",
}
#: The reason in the sixth word of ERRSIG. Source: doc/DETAILS.
_ERRORS: Final = {
    "4": "it uses an algorithm that gpg does not support",
    "9": "it was made by key {key}, which is not in the key file",
}
_NO_KEY: Final = "9"
_PIN: Final = "if upstream announces this key, pin it, and add it to the key file"


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidSignature:
    """A good signature: the allowed primary key, the key that signed it, and times in seconds since 1970 (0: never)."""

    kind: str
    key: str
    signer: str
    signed_by: str = ""
    signed_at: int = 0
    key_expires: int = 0

    def facts(self) -> Mapping[str, str | int | float]:
        """Return the facts that a result's provenance records."""
        facts: dict[str, str | int | float] = {
            "signature": f"good ({self.kind})",
            "signed_by": escape_text(self.signed_by),
            "signing_key": self.key,
            "signed_at": _date(self.signed_at) if self.signed_at else "",
            "key_expires": _date(self.key_expires) if self.key_expires else "never",
        }
        if self.signer != self.key:
            facts["signing_subkey"] = self.signer
        return {name: fact for name, fact in facts.items() if fact}

    def warning(self, now: float) -> str:
        """Return a warning if the key expires soon, else ""."""
        days = self.days_left(now)
        if days is None or days >= WARN_DAYS:
            return ""
        return f"this key expires in {days} days: {self.key} ({self.signed_by})"

    def days_left(self, now: float) -> int | None:
        """Return the whole days until the key expires, None if it never does."""
        return int((self.key_expires - now) // 86400) if self.key_expires else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """The accepted keys: fingerprints of primary keys, and the expiry of these and their subkeys (0: never)."""

    primaries: frozenset[str]
    expiries: Mapping[str, int]


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def evaluate(lines: Iterable[str], allowed: Allowed, now: float) -> ValidSignature:
    """Return the one valid signature that gpg's status lines report.

    The lines have no prefix; `now` is in seconds since 1970.

    Raises:
        SignatureError: the lines report anything but one good signature of an allowed, valid key.
    """
    status: dict[str, list[list[str]]] = {}
    for line in lines:
        word, *rest = line.split(" ")
        status.setdefault(word, []).append(rest)
    _refuse_bad(status)
    good, valid = status.get("GOODSIG", []), status.get("VALIDSIG", [])
    if len(valid) != 1 or len(good) != 1 or len(status.get("NEWSIG", [])) > 1:
        count = max(len(valid), len(status.get("NEWSIG", [])))
        hint = "keep only the one by the pinned key" if count > 1 else ""
        raise _refused(f"expected one signature, found {count}", hint)
    return _check(valid[0], " ".join(good[0][1:]), allowed, now)


def evaluate_each(
    lines: Iterable[str], allowed: Allowed, now: float
) -> tuple[list[ValidSignature], list[SignatureError]]:
    """Return the good signatures by allowed keys of a text that several keys signed, and why others are refused.

    The caller judges the expiry of the keys: a key that has expired since it signed an old text is not refused here.
    """
    groups: list[list[str]] = []
    for line in lines:
        if line.split(" ", 1)[0] == "NEWSIG":
            groups.append([])
        if groups:
            groups[-1].append(line)
    good: list[ValidSignature] = []
    refused: list[SignatureError] = []
    for group in groups:
        try:
            good.append(_evaluate_expired(group, allowed, now))
        except SignatureError as error:
            refused.append(error)
    return good, refused


def _evaluate_expired(lines: Iterable[str], allowed: Allowed, now: float) -> ValidSignature:
    """Return the valid signature as `evaluate`, also by a key with a known expiry that has expired."""
    renamed = [_EXPIRED.sub("GOODSIG ", line) for line in lines]
    found = evaluate(renamed, allowed, now)
    return found if found.key_expires else evaluate(lines, allowed, now)


#: A good signature by a key that has expired.
_EXPIRED: Final = re.compile("^EXPKEYSIG ")


def _refuse_bad(status: Mapping[str, list[list[str]]]) -> None:
    for word, reason in _BAD.items():
        if word in status:
            raise _refused(reason.format(key=_key_of(status[word][0])), _HINTS.get(word, ""))
    for words in status.get("ERRSIG", []):
        if len(words) > 2 and words[2] in WEAK_DIGESTS:
            raise _weak(words[2])
        code = words[5] if len(words) > 5 else ""
        reason = _ERRORS.get(code, "gpg cannot verify it (key {key})")
        key = words[6] if len(words) > 6 and len(words[6]) > 16 else _key_of(words)
        refused = _refused(reason.format(key=key), "")
        raise UnknownSignerError(refused.message, hint=_PIN) if code == _NO_KEY else refused
    if "FAILURE" in status and "VALIDSIG" not in status:
        raise _refused("gpg failed before verifying it", "")


def _key_of(words: list[str]) -> str:
    return escape_text(words[0]) if words else "unknown"


def _check(words: list[str], user_id: str, allowed: Allowed, now: float) -> ValidSignature:
    if len(words) < 10:
        raise _refused("gpg's status output is invalid", "")
    signer, signed_at, digest, kind, primary = words[0], words[2], words[7], words[8], words[9]
    if digest in WEAK_DIGESTS:
        raise _weak(digest)
    if kind not in _CLASSES:
        raise _refused(f"expected a signature of a document, found one of class {escape_text(kind)}", "")
    if primary not in allowed.primaries:
        pinned = ", ".join(sorted(allowed.primaries)[:3])
        raise UnknownSignerError(
            f"signature refused: expected a signature by the pinned key {pinned}, found one by {escape_text(primary)}",
            hint=_PIN,
        )
    signed_s = int(signed_at) if signed_at.isdigit() else 0
    if signed_s > now + MAX_AHEAD_S:
        raise _refused(f"it was made in the future, on {_date(signed_s)}", "check the clock of this machine")
    expiries = [end for end in (allowed.expiries.get(primary, 0), allowed.expiries.get(signer, 0)) if end]
    return ValidSignature(
        kind="OpenPGP",
        key=primary,
        signer=signer,
        signed_by=user_id,
        signed_at=signed_s,
        key_expires=min(expiries, default=0),
    )


def _weak(digest: str) -> SignatureError:
    return _refused(f"it uses the weak digest {WEAK_DIGESTS[digest]}", "ask upstream for a signature with SHA-256")


def _refused(reason: str, hint: str) -> SignatureError:
    return SignatureError(f"signature refused: {reason}", hint=hint)
