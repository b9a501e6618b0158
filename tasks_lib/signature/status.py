"""gpg's status lines -> a verdict. Pure: no I/O.

Source: GnuPG doc/DETAILS, "Format of the --status-fd output"; what gpg 2.2.40 really says: faults.md section 7.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from tasks_lib.errors import SignatureError, escaped

#: Seconds that a signer's clock may be ahead of ours.
MAX_AHEAD_S: Final = 24 * 3600
#: Days before a key's expiry from which on it is told: time for a review of a new key file.
WARN_DAYS: Final = 90
#: MD5, SHA-1, RIPEMD-160. Source: RFC 4880 section 9.4; RFC 9580 section 9.5 forbids them.
WEAK_DIGESTS: Final = {"1": "MD5", "2": "SHA-1", "3": "RIPEMD-160"}
#: Binary document, canonical text document. Source: RFC 4880 section 5.2.1.
_CLASSES: Final = frozenset({"00", "01"})

_REVOKED: Final = "its key {key} has been revoked"
_BAD: Final = {
    "BADSIG": "it does not fit these bytes: they were changed, or it belongs to another file (key {key})",
    "REVKEYSIG": _REVOKED,
    "EXPKEYSIG": "its key {key} has expired",
    "EXPSIG": "it has expired itself (key {key})",
}
_HINTS: Final = {
    "BADSIG": "compare with upstream's announcement before anything else",
    "REVKEYSIG": "find out why, and pin the key that upstream uses now",
    "EXPKEYSIG": "update the key file: upstream may have published the key with a later expiry",
}
#: The reason in ERRSIG's sixth word. Source: doc/DETAILS.
_ERRORS: Final = {"4": "an algorithm that gpg does not know", "9": "key {key}, which is not in the key file"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidSignature:
    """A good signature: the allowed primary key, the key that signed, when (seconds since 1970; 0: never)."""

    kind: str
    key: str
    signer: str
    signed_by: str = ""
    signed_at: int = 0
    key_expires: int = 0

    def facts(self) -> Mapping[str, str | int | float]:
        """Return what a result's provenance tells of it."""
        facts: dict[str, str | int | float] = {
            "signature": f"good ({self.kind})",
            "signed_by": escaped(self.signed_by),
            "signing_key": self.key,
            "signed_at": _date(self.signed_at) if self.signed_at else "",
            "key_expires": _date(self.key_expires) if self.key_expires else "never",
        }
        if self.signer != self.key:
            facts["signing_subkey"] = self.signer
        return {name: fact for name, fact in facts.items() if fact}

    def warning(self, now: float) -> str:
        """Return that the key expires soon, "" when it does not."""
        days = self.days_left(now)
        if days is None or days >= WARN_DAYS:
            return ""
        return f"this key expires in {days} days: {self.key} ({self.signed_by})"

    def days_left(self, now: float) -> int | None:
        """Return the whole days until the key expires, None when it never does."""
        return int((self.key_expires - now) // 86400) if self.key_expires else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """Whose signatures count: fingerprints of primary keys, and the expiry of them and their subkeys (0: never)."""

    primaries: frozenset[str]
    expiries: Mapping[str, int]


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def evaluate(lines: Iterable[str], allowed: Allowed, now: float) -> ValidSignature:
    """Return the verdict that gpg's status lines allow.

    Args:
        lines: the status lines, without their prefix.
        allowed: whose signatures count.
        now: seconds since 1970.

    Raises:
        SignatureError: anything but one good signature of an allowed, valid key.
    """
    said: dict[str, list[list[str]]] = {}
    for line in lines:
        word, *rest = line.split(" ")
        said.setdefault(word, []).append(rest)
    _refuse_bad(said)
    good, valid = said.get("GOODSIG", []), said.get("VALIDSIG", [])
    if len(valid) != 1 or len(good) != 1 or len(said.get("NEWSIG", [])) > 1:
        count = max(len(valid), len(said.get("NEWSIG", [])))
        raise _refused(f"expected one signature, found {count}", "keep the one of the pinned key" if count > 1 else "")
    return _checked(valid[0], " ".join(good[0][1:]), allowed, now)


def _refuse_bad(said: Mapping[str, list[list[str]]]) -> None:
    for word, reason in _BAD.items():
        if word in said:
            raise _refused(reason.format(key=_key_of(said[word][0])), _HINTS.get(word, ""))
    for words in said.get("ERRSIG", []):
        if len(words) > 2 and words[2] in WEAK_DIGESTS:
            raise _weak(words[2])
        reason = _ERRORS.get(words[5] if len(words) > 5 else "", "gpg cannot check it (key {key})")
        key = words[6] if len(words) > 6 and len(words[6]) > 16 else _key_of(words)
        raise _refused(f"made by {reason.format(key=key)}" if "key file" in reason else reason.format(key=key), "")
    if "FAILURE" in said and "VALIDSIG" not in said:
        raise _refused("gpg failed before it could check it", "")


def _key_of(words: list[str]) -> str:
    return escaped(words[0]) if words else "unknown"


def _checked(words: list[str], user_id: str, allowed: Allowed, now: float) -> ValidSignature:
    if len(words) < 10:
        raise _refused("gpg's answer cannot be understood", "")
    signer, signed_at, digest, kind, primary = words[0], words[2], words[7], words[8], words[9]
    if digest in WEAK_DIGESTS:
        raise _weak(digest)
    if kind not in _CLASSES:
        raise _refused(f"it is no signature of a document but of class {escaped(kind)}", "")
    if primary not in allowed.primaries:
        pinned = ", ".join(sorted(allowed.primaries)[:3])
        raise _refused(
            f"expected a signature of the pinned key {pinned}, found one of {escaped(primary)}",
            "is this the key that upstream announces? then pin it",
        )
    made = int(signed_at) if signed_at.isdigit() else 0
    if made > now + MAX_AHEAD_S:
        raise _refused(f"it was made in the future, on {_date(made)}", "is the clock of this machine right?")
    ends = [end for end in (allowed.expiries.get(primary, 0), allowed.expiries.get(signer, 0)) if end]
    return ValidSignature(
        kind="OpenPGP",
        key=primary,
        signer=signer,
        signed_by=user_id,
        signed_at=made,
        key_expires=min(ends, default=0),
    )


def _weak(digest: str) -> SignatureError:
    return _refused(f"it uses the weak digest {WEAK_DIGESTS[digest]}", "ask upstream for a signature with SHA-256")


def _refused(reason: str, hint: str) -> SignatureError:
    return SignatureError(f"the signature is refused: {reason}", hint=hint)
