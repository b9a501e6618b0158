"""Error classes, and the escaping of untrusted text.

The family of an error says who is at fault; the class says whether waiting helps. Every error is a picklable class with
plain fields and one sentence for the next step (`hint`). `str(error)` has at most three lines: what happened, expected
and actual, the next step. This module imports nothing else of `tasks_lib` but `named`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, Self

from tasks_lib.named import NamedTuple

#: Markers that a CI service acts on in the output of a job; the second character of each is escaped.
#: Source: Azure Pipelines, "Logging commands": `##vso[` and `##[` anywhere in a line; GitHub runner, ActionCommand:
#: `##[` anywhere and `::name ...::` after leading blanks; TeamCity, "Service messages"; GitLab, "Custom collapsible
#: sections"; Travis, `travis_fold:`. Text before a marker may be at the start of a line after wrapping.
_CI_MARKERS: Final = (
    r"(?i)#(?P<a>#)(?=[a-z]*\[)|(?:^ *|(?<= )):(?P<b>:)(?=[a-z])"
    r"|section(?P<c>_)(?=(?:start|end):)|travis(?P<d>_)(?=fold:|time:)"
)


def find_similar(word: str, known: Iterable[str], cutoff: float = 0.6, count: int = 1) -> list[str]:
    """Return the known words that are at least as similar to `word` as `cutoff`, at most `count`, the closest first."""
    import difflib  # needed only for an error or a warning

    return difflib.get_close_matches(word, known, count, cutoff)


def suggest(word: str, known: Iterable[str]) -> str:
    """Return a hint: the known word most similar to `word`, else all known words if they are few."""
    names = list(known)
    close = find_similar(word, names)
    if close:
        return f"did you mean {close[0]}?"
    return f"known: {', '.join(sorted(names))}" if 0 < len(names) <= 20 else ""


def escape_text(text: str | bytes) -> str:
    r"""Return untrusted text as one printable line: undecodable bytes and control characters become `\xNN`.

    Unicode characters that a terminal interprets (line separators, bidirectional overrides) are escaped too, and so are
    the commands of CI services: no output of a job may contain one that came from outside.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    if not text.isprintable():
        text = "".join(_escaped_character(character) for character in text)
    if "##" in text or "::" in text or "section_" in text or "travis_" in text:  # faster than the expression
        return re.sub(_CI_MARKERS, _escaped_marker, text)
    return text


def escape_lines(text: str) -> str:
    """Return untrusted text with each of its lines escaped, without empty lines."""
    return "\n".join(escape_text(line.rstrip()) for line in text.split("\n") if line.strip())


def _escaped_marker(found: re.Match[str]) -> str:
    kind = str(found.lastgroup)
    return f"{found[0][: found.start(kind) - found.start()]}\\x{ord(found[kind]):02x}"


def _escaped_character(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


class FetchError(Exception):
    """The base of all errors; caught only by the doit adapters and the command line."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return (_restored, (type(self), self.args, self.__dict__))


def _restored(kind: type[FetchError], args: tuple[Any, ...], fields: dict[str, Any]) -> FetchError:
    """Rebuild a pickled error without calling its initialiser, whose signature may differ."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(fields)
    return error


class CancelledError(FetchError):
    """The run was asked to stop; partial downloads stay resumable."""


# --- invalid definitions and settings ---------------------------------------------------------


class Problem(NamedTuple):
    """A fault in a definition file, shown as `file:line: key: reason: hint`; line 0 is the file as a whole."""

    file: str
    line: int
    key: str
    reason: str
    hint: str

    def __str__(self) -> str:
        place = escape_text(f"{self.file}:{self.line}" if self.line else self.file)
        parts = [place, escape_text(self.key), escape_text(self.reason), escape_text(self.hint)]
        return ": ".join(part for part in parts if part)


class Refusal(Problem):
    """A valid definition that cannot be produced here; no correction of its text helps."""

    __slots__ = ()


class DefinitionError(FetchError):
    """Definitions are invalid; contains every problem of every file, in reading order."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class UnknownNameError(FetchError):
    """A word names no definition, task, target or command."""


class SettingError(FetchError):
    """A setting in the environment or in pyproject.toml has an invalid value."""


# --- failed downloads -------------------------------------------------------------------------


class TransportError(FetchError):
    """A request failed. `transient` says whether the same request may succeed later."""

    def __init__(self, message: str, *, hint: str = "", transient: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.transient = transient


class HttpStatusError(TransportError):
    """The server answered with an error status."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        hint: str = "",
        transient: bool = False,
        retry_after_s: float | None = None,
        limited_until_s: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint, transient=transient)
        self.status = status
        #: When the limit of an API ends, in seconds since the epoch; None if the error is not about a limit.
        self.limited_until_s = limited_until_s
        self.retry_after_s = retry_after_s


class StalledError(TransportError):
    """A deadline passed: connecting, between bytes, below the minimum rate, or in total."""


class UnreachableError(TransportError):
    """No connection was established: unknown host name, no address that answers, a broken handshake."""


class MissingFileError(TransportError):
    """A `file:` URL names no file: the local counterpart of status 404."""


class TlsError(TransportError):
    """The TLS handshake or the certificate was refused; never retried without verification."""


class RedirectError(TransportError):
    """A redirect was not followed: too many, a different scheme, or invalid."""


class MovedError(RedirectError):
    """A repository redirects to `location`; git and hg follow no redirect, since the new host must be judged first."""

    def __init__(self, message: str, *, location: str) -> None:
        super().__init__(message)
        self.location = location


class OfflineError(TransportError):
    """The user disabled the network, and the cache does not contain the content."""


# --- bytes that do not match ------------------------------------------------------------------


class IntegrityError(FetchError):
    """The downloaded bytes do not match the definition.

    `pin` is digest and size of the content as lines of a definition, "" if the content was not read to its end.
    """

    pin: str = ""


class SizeMismatchError(IntegrityError):
    """The size differs from the expected one (both in bytes)."""

    def __init__(self, message: str, *, expected: int, actual: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.expected = expected
        self.actual = actual


class DigestMismatchError(IntegrityError):
    """The digest differs from the expected one (both as `algorithm:hex`)."""

    def __init__(self, message: str, *, expected: str, actual: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.expected = expected
        self.actual = actual


class EditError(FetchError):
    """A definition file cannot be edited as requested; nothing was written."""


class SignatureError(FetchError):
    """The bytes are not signed as the definition requires."""


class UnknownSignerError(SignatureError):
    """The signature was made by a key that is not among the accepted ones."""


# --- Debian packages --------------------------------------------------------------------------


class DebianError(FetchError):
    """The base of the errors of Debian packages; their first line ends with the class, as that of an archive does."""

    def __str__(self) -> str:
        first, newline, rest = super().__str__().partition("\n")
        return f"{first} [{type(self).__name__}]{newline}{rest}"


class ReleaseSignatureError(DebianError, SignatureError):
    """A Release file is not signed by a pinned key, or that key was not valid at the date of the file."""


class ReleaseRolledBackError(DebianError, SignatureError):
    """A Release file is older than the one that the lock records."""


class IndexDigestError(DebianError, IntegrityError):
    """An index of packages is not the one that its Release file names."""


class UnsafePathError(DebianError):
    """A path in an index, a lock or a .dsc leaves its directory."""


class SourcePackageError(DebianError):
    """A .dsc is not one, or does not pin each file of its source package by size and sha256."""


class UnresolvableError(DebianError):
    """apt cannot resolve the packages of a definition."""


class LockStaleError(DebianError):
    """The lock was made for another state of its definition, or does not exist."""


class LockMismatchError(DebianError, IntegrityError):
    """The lock is not one that `doit update` writes, or differs from the indexes that it names."""


# --- unusable or hostile archives -------------------------------------------------------------


class ArchiveError(FetchError):
    """An archive was refused: `ARCHIVE: entry 'escaped name' (offset N): reason [CODE]`.

    `entry` is the name as the archive spells it, None when the fault concerns the whole stream; `offset` counts
    bytes in the decompressed stream.
    """

    def __init__(
        self,
        *,
        archive: str,
        reason: str,
        code: str,
        entry: bytes | None = None,
        offset: int | None = None,
        hint: str = "",
    ) -> None:
        named = f" entry '{escape_text(entry)}'" if entry is not None else ""
        where = f" (offset {offset})" if offset is not None else ""
        subject = f"{named}{where}:" if named or where else ""
        super().__init__(f"{escape_text(archive)}:{subject} {reason} [{code}]", hint=hint)
        self.archive = archive
        self.entry = entry
        self.offset = offset
        self.reason = reason
        self.code = code

    @classmethod
    def of(cls, other: ArchiveError, *, archive: str) -> Self:
        """Return the same error under another archive name."""
        return cls(
            archive=archive,
            reason=other.reason,
            code=other.code,
            entry=other.entry,
            offset=other.offset,
            hint=other.hint,
        )


class UnsupportedArchiveError(ArchiveError):
    """A format, method or feature that is not supported."""


class UnsafeEntryError(ArchiveError):
    """An entry would leave the destination, or readers disagree about its meaning."""


class ArchiveLimitError(ArchiveError):
    """A limit was exceeded: bytes, entries, metadata, path, window or memory."""


class DamagedArchiveError(ArchiveError):
    """Truncated, wrong checksum, trailing garbage, or not the format that its name declares."""


# --- cache and disk ---------------------------------------------------------------------------


class CacheError(FetchError):
    """The cache failed."""


class BlobMissingError(CacheError):
    """The cache does not contain the blob."""


class BlobCorruptError(CacheError):
    """The cached blob differs from the pinned bytes; it was moved to quarantine."""


class CacheUnavailableError(CacheError):
    """The cache directory cannot be used: permissions, space, a lock that is not released."""


# --- shared stores ----------------------------------------------------------------------------


class StoreError(FetchError):
    """A shared store failed; the run goes on without it.

    `store` is its name in messages, `status` the status with which it answered, 0 if it did not.
    """

    def __init__(self, message: str, *, store: str, hint: str = "", status: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.store = store
        self.status = status


class StoreUnavailableError(StoreError):
    """A store does not answer, fails, or has no space."""


class StoreRefusedError(StoreError):
    """A store refuses the credentials, or the policy does not allow to write to it."""


class UntrustedResultError(StoreError):
    """The record of a result is not signed by a trusted key, damaged, or for another recipe key or platform."""


class TreeError(FetchError):
    """An extracted directory cannot be written: a collision, permissions, space."""


class ToolError(FetchError):
    """An external program (gpg, git, the toolchain's own command) is missing or failed."""


# --- all attempts -----------------------------------------------------------------------------


class FailedAttempt(NamedTuple):
    """One attempt to download from one source; `url` has its secrets redacted, `reason` is one line.

    `fault` is "content" if the source has other bytes, else "source".
    """

    url: str
    reason: str
    fault: str = "source"


class AllSourcesFailedError(FetchError):
    """No source returned the expected bytes; contains every attempt with its reason, in order."""

    def __init__(self, message: str, *, attempts: tuple[FailedAttempt, ...], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.attempts = attempts
