"""Release files: download InRelease, verify its signatures, and read the digests of the indexes that it lists.

Source: Debian wiki, "DebianRepository/Format"; apt-secure(8).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from tasks_lib.context import Context
from tasks_lib.debian.deb822 import parse_paragraph
from tasks_lib.debian.lock import REPORT, SUITE, LockedFile, LockedIndex, LockedRelease
from tasks_lib.definitions import Debian, Suite
from tasks_lib.definitions.debian_fields import SNAPSHOT_ID, SNAPSHOT_TIME
from tasks_lib.digest import Digest, Integrity
from tasks_lib.download.unverified import UnverifiedRequest
from tasks_lib.errors import (
    AllSourcesFailedError,
    FailedAttempt,
    IndexDigestError,
    ReleaseRolledBackError,
    ReleaseSignatureError,
    SignatureError,
    UnresolvableError,
    escape_text,
)
from tasks_lib.network import redacted
from tasks_lib.progress import Progress
from tasks_lib.signature import ValidSignature
from tasks_lib.signature.gpg import read_key_file
from tasks_lib.signature.packets import key_packets

#: Largest InRelease in bytes; that of Debian's unstable suite has 0.3 MiB.
_MAX_RELEASE: Final = 16 << 20
#: Largest number of files that a Release file lists; that of Debian's unstable suite lists 2,000.
_MAX_FILES: Final = 200_000
#: Endings of an index in the order of preference. Each fetch decodes the indexes, and gzip needs a quarter of the time
#: of xz: for the 50 MB of Debian 12, 0.15 s instead of 0.65 s. Its file has 11.7 MB instead of 8.8 MB.
_PACKINGS: Final = (".gz", ".xz", "")


@dataclass(frozen=True, kw_only=True)
class SignedRelease:
    """A verified Release file: the suite that it is for, its fields by lower-case name, and the files that it lists."""

    suite: Suite
    fields: Mapping[str, str]
    date: datetime
    signers: tuple[str, ...]
    inrelease: Integrity
    files: Mapping[str, Integrity]

    @property
    def codename(self) -> str:
        """The codename, or the name of the suite if the file has none, or one that is not a name."""
        given = self.fields.get("codename", "")
        return given if SUITE.fullmatch(given) else self.suite.name

    def describe_age(self, now: datetime) -> str:
        """Return a warning that the file should have been replaced by now, "" if its time is not over.

        An attacker, or a mirror that is not updated any more, can only repeat what was signed once.
        """
        text = self.fields.get("valid-until", "")
        if not text or (until := _parse_date(text)) > now:
            return ""
        return f"the suite {self.suite.name} was valid until {format_date(until)}: the mirror may be out of date"

    @property
    def has_by_hash(self) -> bool:
        """Whether mirrors have each index also at a path with its digest."""
        return self.fields.get("acquire-by-hash", "").lower() == "yes"

    def indexes(self, components: tuple[str, ...], architectures: tuple[str, ...]) -> list[LockedIndex]:
        """Return the indexes of packages for these components and architectures.

        Raises:
            UnresolvableError: one is not listed.
            IndexDigestError: one is too large.
        """
        everywhere = self._has_index_for_all()
        found = []
        for component in components:
            for architecture in sorted({*architectures, *(["all"] if everywhere else [])}):
                index = self._index(f"{component}/binary-{architecture}/Packages")
                if index is not None:
                    found.append(index)
                elif architecture != "all":
                    raise UnresolvableError(
                        f"the suite {escape_text(self.suite.name)} has no index of {component} for {architecture}",
                        hint=f"it has the components {self._quote('components')}"
                        f" and the architectures {self._quote('architectures')}",
                    )
        return found

    def _quote(self, field: str) -> str:
        return escape_text(self.fields.get(field, "unknown"))[:200]

    def _has_index_for_all(self) -> bool:
        """Return whether packages of all architectures have an index of their own, and no other one lists them.

        Source: DebianRepository/Format, "No-Support-for-Architecture-all".
        """
        listed = "all" in self.fields.get("architectures", "").split()
        return listed and "Packages" not in self.fields.get("no-support-for-architecture-all", "").split()

    def _index(self, path: str) -> LockedIndex | None:
        for packing in _PACKINGS:
            integrity = self.files.get(path + packing)
            if integrity is None:
                continue
            try:
                return LockedIndex(path=path + packing, sha256=integrity.digest.hex, size=integrity.size)
            except ValueError as error:
                raise IndexDigestError(f"InRelease of {self.suite.name}: {error}", hint=REPORT) from error
        return None

    def locked(self, indexes: list[LockedIndex]) -> LockedRelease:
        """Return the release with its indexes as a lock records it."""
        return LockedRelease(
            suite=self.suite.name,
            uri=self.suite.written,
            codename=self.codename,
            date=format_date(self.date),
            inrelease=LockedFile(sha256=self.inrelease.digest.hex, size=self.inrelease.size),
            signers=self.signers,
            indexes=tuple(sorted(indexes, key=lambda one: one.path)),
        )


def fetch_release(context: Context, name: str, source: Debian, suite: Suite, progress: Progress) -> SignedRelease:
    """Download the InRelease of a suite and verify it; its content becomes a blob.

    Raises:
        ReleaseSignatureError: it is missing, not signed as required, for another suite, or not a Release file.
        AllSourcesFailedError, OfflineError: no place has it.
        ToolError: gpg is missing or hangs.
        CacheUnavailableError, CancelledError: as in every step.
    """
    uri = suite.snapshots.replace(SNAPSHOT_ID, source.snapshot) if source.snapshot else suite.uri
    places = context.mirrors.locations(f"{uri}/dists/{suite.name}/InRelease")
    urls = tuple(place.url for place in places if not place.refused)
    title = f"{name}: InRelease of {suite.name}"
    request = UnverifiedRequest(name=title, urls=urls, limit=_MAX_RELEASE)
    try:
        if not urls:
            refused = tuple(FailedAttempt(redacted(place.url), place.refused) for place in places)
            raise AllSourcesFailedError(f"{title}: {refused[0].reason}", attempts=refused)
        integrity = context.unverified.obtain(request, progress)
    except AllSourcesFailedError as error:
        if _is_absent(error):
            raise ReleaseSignatureError(
                f"the suite {suite.name} is not signed: {redacted(uri)} has no dists/{suite.name}/InRelease",
                hint="check `uri` and `suites`; a repository without InRelease is not supported",
            ) from error
        raise
    with context.cache.open(integrity) as file:
        message = file.read()
    release = verify_release(context, source, suite, message, integrity, progress)
    if not source.snapshot and (reason := release.describe_age(datetime.now(UTC))):
        progress.warn(f"{name}: {reason}")
    return release


def _is_absent(error: AllSourcesFailedError) -> bool:
    """Return whether every place answered that it does not have the file."""
    return bool(error.attempts) and all(_ABSENT.match(attempt.reason) for attempt in error.attempts)


#: Reasons of attempts that mean: no such file.
_ABSENT: Final = re.compile(r"HTTP (?:404|410)\b|cannot read the file: No such file")


def verify_release(
    context: Context, source: Debian, suite: Suite, message: bytes, integrity: Integrity, progress: Progress
) -> SignedRelease:
    """Return the Release file in a clear-signed message.

    Raises:
        ReleaseSignatureError, ToolError, CancelledError: as `fetch_release`.
    """
    try:
        keys = b"".join(key_packets(read_key_file(path, "key-files")) for path in source.key_files)
        signatures, text = context.gpg.verify_by_any(
            message, keys=keys, fingerprints=source.signed_by, progress=progress
        )
        fields = parse_paragraph(text.replace(b"\r\n", b"\n").strip(b"\n"))
        date = _parse_date(fields.get("date", ""))
        _parse_date(fields.get("valid-until") or fields["date"])
        signers = _valid_at(date, signatures)
        _check_suite(fields, suite)
        files = _list_files(fields)
    except (SignatureError, ValueError) as error:
        reason, hint = (error.message, error.hint) if isinstance(error, SignatureError) else (str(error), REPORT)
        raise ReleaseSignatureError(f"InRelease of {suite.name}: {escape_text(reason)}", hint=hint) from error
    return SignedRelease(suite=suite, fields=fields, date=date, signers=signers, inrelease=integrity, files=files)


def format_date(date: datetime) -> str:
    """Return a date in the format of locks."""
    return f"{date.replace(microsecond=0, tzinfo=None).isoformat()}Z"


def _parse_date(text: str) -> datetime:
    """Return the date in a field.

    Raises:
        ValueError: it is not a date.
    """
    try:
        return parsedate_to_datetime(text).astimezone(UTC)
    except (ValueError, TypeError, OverflowError, IndexError) as error:
        raise ValueError(f"invalid date {text[:60]!r}") from error


def _valid_at(date: datetime, signatures: list[ValidSignature]) -> tuple[str, ...]:
    """Return the primary keys that were valid when they signed a file of this date.

    Raises:
        SignatureError: all have expired before.
    """
    seconds = date.timestamp()
    valid = [one for one in signatures if not one.key_expires or max(seconds, one.signed_at) < one.key_expires]
    if not valid:
        first = signatures[0]
        expired = datetime.fromtimestamp(first.key_expires, UTC)
        raise SignatureError(
            f"the key {first.key} expired on {expired:%Y-%m-%d}, before the date {date:%Y-%m-%d} of the file",
            hint="update the key file: the repository may have extended the expiry of its key",
        )
    return tuple(sorted({one.key for one in valid}))


def _check_suite(fields: Mapping[str, str], suite: Suite) -> None:
    """Check that a Release file is for the suite that was asked for: a mirror could serve that of another one.

    Source: apt, `debReleaseIndex::Load` and `pkgAcqMetaClearSig`: "Conflicting distribution".

    Raises:
        SignatureError: it is for another one.
    """
    names = [fields[key] for key in ("suite", "codename") if fields.get(key)]
    if names and not {suite.name, suite.name.partition("/")[0]} & set(names):
        raise SignatureError(
            f"expected the suite {suite.name}, found {' or '.join(names)}", hint="write the suite or the codename"
        )


def _list_files(fields: Mapping[str, str]) -> dict[str, Integrity]:
    """Return size and sha256 of each listed file.

    Raises:
        ValueError: the list is missing, too long, or has an invalid line.
    """
    lines = fields.get("sha256", "").split("\n")[1:]
    if not lines:
        raise ValueError("it lists no SHA256")
    if len(lines) > _MAX_FILES:
        raise ValueError(f"it lists more than {_MAX_FILES} files")
    files = {}
    for line in lines:
        words = line.split()
        if len(words) != 3 or not (words[1].isascii() and words[1].isdigit() and len(words[1]) < 16):
            raise ValueError(f"invalid line {line[:80]!r} below SHA256")
        files[words[2]] = Integrity(size=int(words[1]), digest=Digest.sha256(words[0]))
    return files


def refuse_rollback(source: Debian, release: SignedRelease, before: LockedRelease) -> None:
    """Refuse a Release file that is older than the one of the lock; a snapshot may be older than the present lock.

    Raises:
        ReleaseRolledBackError: it is.
    """
    locked = datetime.fromisoformat(before.date)
    if release.date >= locked or _is_chosen(source.snapshot, locked):
        return
    raise ReleaseRolledBackError(
        f"the Release file of {release.suite.name} is older than that of the lock: "
        f"expected {before.date} or later, found {format_date(release.date)}",
        hint="use another mirror; to go back, set `snapshot:` or delete the lock",
    )


def _is_chosen(snapshot: str, locked: datetime) -> bool:
    """Return whether a definition asks for a time before that of its lock."""
    return bool(snapshot) and datetime.strptime(snapshot, SNAPSHOT_TIME).replace(tzinfo=UTC) < locked
