"""The ground: every error of the house, and how text from outside is shown.

Families answer *who is at fault*, the class answers *will waiting help*. Every error is a plain
class with plain fields, picklable, and carries one sentence that says the next step (`hint`).
`str(error)` is at most three lines: what happened, expected and actual, the next step.
This module imports nothing of the house.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self


def escaped(text: str | bytes) -> str:
    r"""Return outside text as one printable line: undecodable bytes and control characters as `\xNN`.

    Unicode that a terminal would act on (line separators, bidirectional overrides) is escaped too.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(_escaped_character(character) for character in text)


def _escaped_character(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


class FetchError(Exception):
    """The base of all errors of the house; caught only in graph and in the command line."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return (_restored, (type(self), self.args, self.__dict__))


def _restored(kind: type[FetchError], args: tuple[Any, ...], fields: dict[str, Any]) -> FetchError:
    """Rebuild a pickled error without calling its own initialiser, whose signature may differ."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(fields)
    return error


class CancelledError(FetchError):
    """The run was asked to stop; what was downloaded so far stays resumable."""


# --- our text is wrong ------------------------------------------------------------------------


class Problem(NamedTuple):
    """One thing wrong in one definition file, as `file:line: key: reason: hint`; line 0 is the file as a whole."""

    file: str
    line: int
    key: str
    reason: str
    hint: str

    def __str__(self) -> str:
        place = escaped(f"{self.file}:{self.line}" if self.line else self.file)
        parts = [place, escaped(self.key), escaped(self.reason), escaped(self.hint)]
        return ": ".join(part for part in parts if part)


class Refusal(Problem):
    """A definition that is understood and cannot be made here, whatever is corrected in its text."""

    __slots__ = ()


class DefinitionError(FetchError):
    """Definitions are wrong; holds every problem of every file, in reading order."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class SettingError(FetchError):
    """A setting of the environment or of pyproject.toml has an unusable value."""


# --- could not get the bytes ------------------------------------------------------------------


class TransportError(FetchError):
    """Could not get the bytes. `transient` says whether the same request may succeed later."""

    def __init__(self, message: str, *, hint: str = "", transient: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.transient = transient


class HttpStatusError(TransportError):
    """The server answered with a status that is no success."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        hint: str = "",
        transient: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint, transient=transient)
        self.status = status
        self.retry_after_s = retry_after_s


class StalledError(TransportError):
    """A deadline passed: connecting, between bytes, below the minimum rate, or in total."""


class UnreachableError(TransportError):
    """No connection came about: no such name, no address that answers, a broken handshake."""


class TlsError(TransportError):
    """The TLS handshake or the certificate was refused; never retried without verification."""


class RedirectError(TransportError):
    """A redirect that is not followed: too many, another scheme, unreadable."""


class OfflineError(TransportError):
    """The network is switched off by the user and the store does not hold the content."""


# --- got bytes, not the promised ones ---------------------------------------------------------


class IntegrityError(FetchError):
    """Bytes arrived, and they are not the promised ones."""


class SizeMismatchError(IntegrityError):
    """The number of bytes differs from the promised size (both in bytes)."""

    def __init__(self, message: str, *, expected: int, actual: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.expected = expected
        self.actual = actual


class DigestMismatchError(IntegrityError):
    """The digest of the bytes differs from the promised one (both as `algorithm:hex`)."""

    def __init__(self, message: str, *, expected: str, actual: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.expected = expected
        self.actual = actual


class SignatureError(FetchError):
    """The bytes are not signed as the definition promises."""


# --- right bytes, unusable or hostile ---------------------------------------------------------


class ArchiveError(FetchError):
    """An archive that is refused: `ARCHIVE: entry 'escaped name' (offset N): reason [CODE]`.

    `entry` is the name as the archive spells it, or None when the fault is of the whole stream;
    `offset` counts bytes of the decompressed stream.
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
        named = f" entry '{escaped(entry)}'" if entry is not None else ""
        where = f" (offset {offset})" if offset is not None else ""
        subject = f"{named}{where}:" if named or where else ""
        super().__init__(f"{escaped(archive)}:{subject} {reason} [{code}]", hint=hint)
        self.archive = archive
        self.entry = entry
        self.offset = offset
        self.reason = reason
        self.code = code

    @classmethod
    def of(cls, other: ArchiveError, *, archive: str) -> Self:
        """Return the same refusal under another archive name."""
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
    """An entry that would leave the destination, or that no two readers understand alike."""


class ArchiveLimitError(ArchiveError):
    """A limit was crossed: bytes, entries, metadata, path, window or memory."""


class DamagedArchiveError(ArchiveError):
    """Truncated, wrong checksum, trailing garbage, or not what its name says."""


# --- our own cache, our own disk --------------------------------------------------------------


class CacheError(FetchError):
    """The cache could not do its work."""


class BlobMissingError(CacheError):
    """The store does not hold the blob."""


class BlobCorruptError(CacheError):
    """The blob was there and is not the pinned bytes; it was moved to quarantine."""


class CacheUnavailableError(CacheError):
    """The cache directory cannot be used: permissions, space, a lock that is not given up."""


class TreeError(FetchError):
    """An extracted directory cannot be written: a collision, permissions, space."""


class ToolError(FetchError):
    """A program of the system (gpg, git, the toolchain's own command) is missing or failed."""


# --- all of it --------------------------------------------------------------------------------


class Attempt(NamedTuple):
    """One try at one source; `url` has its secrets redacted, `reason` is one line."""

    url: str
    reason: str


class AllSourcesFailedError(FetchError):
    """No source gave the promised bytes; holds every attempt with its reason, in order."""

    def __init__(self, message: str, *, attempts: tuple[Attempt, ...], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.attempts = attempts
