"""Reader of repository objects, which hashes each object and compares the digest with the requested id."""

from __future__ import annotations

import contextlib
import hashlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tasks_lib.errors import DigestMismatchError, ToolError, escape_text
from tasks_lib.network import RepositorySettings
from tasks_lib.progress import Progress
from tasks_lib.subprocesses import OutputStream, stream_output
from tasks_lib.units import format_size
from tasks_lib.vcs.git.program import git_command

#: Maximum size of a commit, tree or configuration file in bytes; a tree of a million names has about 50 MiB.
MAX_SMALL: Final = 64 << 20
#: Number of ids to send before reading replies: they fit into a pipe (64 KiB on Linux), so that neither side blocks.
_AT_ONCE: Final = 500
#: Maximum size in bytes of content that is read in one piece.
_CHUNK: Final = 1 << 20


class MissingObjectError(ToolError):
    """The repository lacks a required object, because it is damaged or incomplete."""


class AnnotatedTagError(ToolError):
    """The id of an annotated tag where a commit is expected; `target` is the object that the tag names."""

    def __init__(self, message: str, *, target: str, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.target = target

    @classmethod
    def of(cls, identity: str, content: bytes) -> AnnotatedTagError:
        """Return the error for a tag, from its content. Source: git's `fsck_tag_standalone`, the order of fields."""
        digits = len(identity)
        found = re.match(rb"object ([0-9a-f]{%d})\ntype (commit|tag)\ntag ([^\n]*)\n" % digits, content)
        if found is None:
            raise ToolError(f"{identity} is a tag, but not of a commit", hint="pin the id of a commit")
        target, kind, name = found[1].decode(), found[2].decode(), escape_text(found[3][:100])
        return cls(
            f"{identity} is the id of the annotated tag {name!r}, not of a commit",
            target=target,
            hint=f"the tag names the {kind} {target}: pin `revision: {target}`" if kind == "commit" else "",
        )


def hasher(identity: str) -> hashlib._Hash:
    """Return a new hash object for the algorithm of `identity`: 40 hex digits are SHA-1, 64 are SHA-256.

    Git rejects known SHA-1 collisions when it receives objects. Source: gitformat-pack, hash-function-transition.
    """
    return hashlib.sha1(usedforsecurity=False) if len(identity) == 40 else hashlib.sha256()


class Objects:
    """A reader of one bare repository, which needs no lock because objects never change."""

    def __init__(
        self, directory: Path, settings: RepositorySettings, progress: Progress, beside: Path | None = None
    ) -> None:
        self._directory, self._settings, self._progress, self._beside = directory, settings, progress, beside
        self._stream: OutputStream | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Objects:
        """Return the reader."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop git."""
        self._stack.close()

    def small(self, kind: str, identities: Sequence[str]) -> Iterator[bytes]:
        """Yield the contents of commits, trees or small blobs in the order of `identities`.

        Raises:
            MissingObjectError: an object is missing.
            DigestMismatchError: an object does not match its id.
            AnnotatedTagError: an object is a tag where a commit is expected.
            ToolError: an object is of another kind or too large, or git failed.
        """
        if self._stream is None:
            words = ["cat-file", "--batch"]
            self._stream = self._stack.enter_context(
                stream_output(git_command(self._settings, self._directory, words, beside=self._beside), self._progress)
            )
        for at in range(0, len(identities), _AT_ONCE):
            some = identities[at : at + _AT_ONCE]
            self._stream.send("".join(f"{one}\n" for one in some).encode())
            for identity in some:
                size = _size(self._stream, kind, identity)
                if size > MAX_SMALL:
                    raise ToolError(f"the {kind} {identity} is larger than {format_size(MAX_SMALL)}")
                yield _whole(self._stream, kind, identity, size)

    def sizes(self, identities: Sequence[str]) -> Iterator[int]:
        """Yield the size of each blob in the order of `identities`; reading the content verifies it.

        Raises:
            MissingObjectError, ToolError: as `small`.
        """
        with self._asked(identities, "--batch-check") as stream:
            for identity in identities:
                yield _size(stream, "blob", identity)

    def contents(self, identities: Sequence[str]) -> Iterator[tuple[str, int, Iterator[bytes] | tuple[bytes]]]:
        """Yield the id, size and content of blobs in the order of `identities`; consume each content before the next.

        Raises:
            MissingObjectError, DigestMismatchError, ToolError: as `small`, also while the content is read.
        """
        with self._asked(identities, "--batch") as stream:
            for identity in identities:
                size = _size(stream, "blob", identity)
                if size <= _CHUNK:
                    yield identity, size, (_whole(stream, "blob", identity, size),)
                else:
                    yield identity, size, _pieces(stream, identity, size)

    @contextlib.contextmanager
    def _asked(self, identities: Sequence[str], how: str) -> Iterator[OutputStream]:
        """Request all these objects at once, without waiting for each reply."""
        with tempfile.TemporaryFile() as wanted:
            wanted.writelines(f"{one}\n".encode() for one in identities)
            wanted.seek(0)
            call = git_command(self._settings, self._directory, ["cat-file", how, "--buffer"], beside=self._beside)
            with stream_output(call, self._progress, input=wanted) as stream:
                yield stream


def _size(stream: OutputStream, kind: str, identity: str) -> int:
    """Read the header of a reply and return the size. Source: git-cat-file(1), "BATCH OUTPUT"."""
    line = stream.reader.readline(200)
    if line == f"{identity} missing\n".encode():
        raise MissingObjectError(f"the {kind} {identity} is missing in the repository")
    found = re.fullmatch(rb"([0-9a-f]+) ([a-z]+) ([0-9]{1,18})\n", line)
    if found is None or found[1].decode() != identity:
        raise stream.failure(f"did not return the {kind} {identity}")
    actual, size = found[2].decode(), int(found[3])
    if (actual, kind) == ("tag", "commit") and size <= MAX_SMALL:
        raise AnnotatedTagError.of(identity, _whole(stream, "tag", identity, size))
    if actual != kind:
        raise ToolError(f"{identity} is a {actual}, not a {kind}", hint="pin the id of a commit")
    return size


def _whole(stream: OutputStream, kind: str, identity: str, size: int) -> bytes:
    content = stream.reader.read(size + 1)
    if len(content) != size + 1:
        raise stream.failure(f"exited before the end of the {kind} {identity}")
    content = content[:size]
    digest = hasher(identity)
    digest.update(b"%s %d\0" % (kind.encode(), size))
    digest.update(content)
    _compare(kind, identity, digest.hexdigest())
    return content


def _pieces(stream: OutputStream, identity: str, size: int) -> Iterator[bytes]:
    digest = hasher(identity)
    digest.update(b"blob %d\0" % size)
    left = size
    while left:
        chunk = stream.reader.read(min(left, _CHUNK))
        if not chunk:
            raise stream.failure(f"exited before the end of the blob {identity}")
        digest.update(chunk)
        left -= len(chunk)
        yield chunk
    if stream.reader.read(1) != b"\n":
        raise stream.failure(f"exited at the end of the blob {identity}")
    _compare("blob", identity, digest.hexdigest())


def _compare(kind: str, identity: str, actual: str) -> None:
    if actual != identity:
        algorithm = "sha1" if len(identity) == 40 else "sha256"
        raise DigestMismatchError(
            f"the {kind} from the repository does not match its id: expected {algorithm}:{identity}, got {actual}",
            expected=f"{algorithm}:{identity}",
            actual=f"{algorithm}:{actual}",
            hint="the objects of the repository are damaged or have been replaced",
        )
