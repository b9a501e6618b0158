"""A bare repository, which is created on first use and fetches one commit at a time.

A commit is complete once its ref `refs/doit-fetch/<commit>` exists; git writes the ref after it has received all
objects. The caller holds the lock of the repository while it fetches.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from tasks_lib.errors import (
    ArchiveError,
    DigestMismatchError,
    HttpStatusError,
    MovedError,
    ToolError,
    TransportError,
    escape_text,
)
from tasks_lib.limits import Limits
from tasks_lib.network import RepositorySettings, format_trust_hint
from tasks_lib.progress import Progress
from tasks_lib.retry import is_rate_limit
from tasks_lib.subprocesses import Completed, last_line, run
from tasks_lib.units import format_size, parse_size
from tasks_lib.vcs.environment import WRITE_HINT, prepare_directory, transferring
from tasks_lib.vcs.git.commit_tree import read_commit_tree
from tasks_lib.vcs.git.objects import Objects
from tasks_lib.vcs.git.program import LOCAL_SERVER, HttpTrace, git_command, http_trace
from tasks_lib.vcs.git.submodules import Superproject
from tasks_lib.vcs.urls import display_url, redact_query, scheme_of

#: Errors of servers that do not serve a commit by its id; in this case everything is fetched.
#: Source: git's fetch-pack.c and remote-curl.c.
_NOT_BY_ID: Final = re.compile(
    r"does not allow request for unadvertised object|does not support (?:shallow|--depth)|shallow capabilities"
    r"|no such remote ref|couldn't find remote ref"
)
#: Permanent errors, which a retry does not fix. Source: messages of git 2.25 to 2.47, libcurl and OpenSSH.
_FINAL: Final = re.compile(
    r"not our ref|authentication failed|could not read (?:username|password)|terminal prompts disabled"
    r"|permission denied|host key verification failed|repository [^\n]{0,1000}not found"
    r"|does not appear to be a git repository"
    r"|returned error: 4(?!08|25|29)\d\d|dubious ownership|not allowed|unable to find remote helper|certificate"
    r"|repository not exported|unable to look up|no such file|access denied|bad object|mismatched algorithms"
)
#: Messages of git after a 401 or 403. Source: git's http.c and credential.c.
_LOGIN: Final = re.compile(r"authentication failed|could not read username|returned error: 40[13]\b")
#: Status of the HTTP response that ended a fetch. Source: libcurl's message for CURLE_HTTP_RETURNED_ERROR.
_HTTP_STATUS: Final = re.compile(r"The requested URL returned error: (\d{3})")
#: A progress line of git. Source: git's progress.c.
_RECEIVED: Final = re.compile(
    rb"Receiving objects:\s+\d+% \(\d+/\d+\), ([0-9]{1,9}(?:\.[0-9]{1,9})? (?:bytes|KiB|MiB|GiB))"
)


class GitRepository:
    """A bare repository in `directory`, which belongs to the cache."""

    def __init__(self, directory: Path, settings: RepositorySettings) -> None:
        self.directory, self._settings = directory, settings

    def holds(self, commit: str) -> bool:
        """Whether the repository contains the commit and all its objects, except for its history."""
        return (self.directory / REFS / commit).is_file()

    def fetch(self, url: str, commit: str, progress: Progress, *, key: Path | None = None) -> None:
        """Fetch only the commit, or everything if the server does not serve a commit by its id.

        `urls.check_url` accepted the URL. Without a `key`, ssh chooses one.

        Raises:
            TransportError: the server did not send it; `transient` tells whether to try again.
            MovedError: the server redirects; the caller fetches from the new URL.
            ToolError: git is not installed or cannot write to the directory.
            CancelledError: the run was asked to stop.
        """
        self._prepare(commit, progress)
        progress.phase("connect", url=display_url(url))
        if scheme_of(url) == "file" and copy_from_local(self.directory, self._settings, url, commit, progress):
            return
        with http_trace() as trace:
            done = self._received(url, commit, progress, key, trace)
            (self.directory / "FETCH_HEAD").unlink(missing_ok=True)  # contains the query of the URL
            if done.status:
                raise _failure(url, commit, done, trace, self._settings)

    def _received(self, url: str, commit: str, progress: Progress, key: Path | None, trace: HttpTrace) -> Completed:
        """Run git once or twice to fetch the commit; return the result of the last call."""

        def call(words: Sequence[str], *refspecs: str) -> Completed:
            return self._call(url, [*words, *_server(url), "--", url, *refspecs], progress, key, trace)

        done = call(["--depth=1"], f"+{commit}:{REFS}/{commit}")
        if done.status and _NOT_BY_ID.search(done.errors.lower()):
            progress.warn(f"{display_url(url)} does not serve a commit by its id: fetching everything")
            more = ["--prune", "--unshallow"] if (self.directory / "shallow").exists() else ["--prune"]
            done = call(more, "+refs/heads/*:refs/all/heads/*", "+refs/tags/*:refs/all/tags/*")
            if not done.status and self._plain(["update-ref", f"{REFS}/{commit}", commit], progress).status:
                raise TransportError(
                    f"{display_url(url)} has no commit {commit} on any branch or tag",
                    hint="check the revision, and whether its branch was deleted",
                )
        return done

    def context(self, url: str, archive: str) -> Superproject:
        """Return the context for reading the submodules of a commit from `url`."""
        return Superproject(self.directory, self._settings, url, archive)

    def forget(self) -> None:
        """Delete the repository, because its objects are damaged."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def resolve(self, url: str, name: str, progress: Progress, *, key: Path | None = None) -> str:
        """Return the commit to which a branch, tag or HEAD of the remote currently points.

        Raises:
            TransportError: the name does not exist, or the server does not respond.
            MovedError: the server redirects; the caller asks the new URL.
            ToolError, CancelledError: as `fetch`.
        """
        found = self.list_refs(url, (name, f"{name}^{{}}"), progress, key=key)
        for ref in (f"refs/tags/{name}^{{}}", f"refs/tags/{name}", f"refs/heads/{name}", f"{name}^{{}}", name):
            if ref in found:
                return str(found[ref])
        raise TransportError(
            f"{display_url(url)} has no branch or tag called {escape_text(name)}", hint="`git ls-remote URL` lists them"
        )

    def list_refs(
        self, url: str, patterns: Sequence[str], progress: Progress, *, key: Path | None = None
    ) -> dict[str, str]:
        """Return the refs of the remote that match the patterns, with the object of each.

        A tag object has a second entry, with `^{}`, for the commit that it names.

        Raises:
            TransportError: the server does not respond.
            MovedError: the server redirects; the caller asks the new URL.
            ToolError, CancelledError: as `fetch`.
        """
        self._prepare("0" * 40, progress)
        words = ["ls-remote", *_server(url), "--", url, *patterns]
        call = git_command(self._settings, self.directory, words, scheme=scheme_of(url), key=key)
        with http_trace() as trace:
            done = run(replace(call, environ={**call.environ, **trace.environ}), progress)
            if done.status:
                raise _failure(url, patterns[0], done, trace, self._settings)
        lines = done.output.decode("utf-8", "replace").splitlines()
        return {name: commit for commit, _, name in (line.partition("\t") for line in lines) if name}

    def _prepare(self, commit: str, progress: Progress) -> None:
        prepare_directory(self.directory, _leftovers(self.directory))
        if (self.directory / "HEAD").is_file() and (self.directory / "objects").is_dir():
            return
        form = [] if len(commit) == 40 else ["--object-format=sha256"]  # git before 2.29 supports only SHA-1
        done = self._plain(["init", "--quiet", "--bare", "--template=", *form], progress)
        if done.status:
            raise ToolError(
                f"git cannot create a repository in {self.directory}: {last_line(done.errors)}",
                hint=WRITE_HINT,
            )

    def _plain(self, words: Sequence[str], progress: Progress) -> Completed:
        return run(git_command(self._settings, self.directory, words), progress)

    def _call(
        self, url: str, words: Sequence[str], progress: Progress, key: Path | None, trace: HttpTrace
    ) -> Completed:
        """Run one `git fetch`."""
        words = ["fetch", "--progress", "--no-tags", "--no-recurse-submodules", "--force", *words]
        call = git_command(self._settings, self.directory, words, scheme=scheme_of(url), key=key)
        call = replace(call, environ={**call.environ, **trace.environ})

        def look() -> None:
            self._check_size()
            trace.bound()

        received = _ProgressReader(progress)
        with transferring(url):
            return run(call, progress, on_errors=received.line, look=look)

    def _check_size(self) -> None:
        """Raise TransportError if the received data exceeds the size limit."""
        size = sum(one.stat(follow_symlinks=False).st_size for one in _scanned(self.directory / "objects" / "pack"))
        if size > self._settings.max_bytes:
            raise TransportError(
                f"the repository is larger than {format_size(self._settings.max_bytes)}",
                hint="increase FETCH_MAX_TOTAL_BYTES if this is expected",
            )


def _scanned(directory: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            yield from entries
    except OSError:
        return


def _leftovers(directory: Path) -> Iterator[Path]:
    """Yield lock files, incomplete packs and the file that names the last URL."""
    yield directory / "FETCH_HEAD"  # contains the query of the URL
    yield from directory.glob("*.lock")
    yield from (directory / REFS).glob("*.lock")
    yield from (directory / "objects" / "pack").glob("tmp_*")


def _server(url: str) -> list[str]:
    return [f"--upload-pack={LOCAL_SERVER}"] if scheme_of(url) == "file" else []


def _failure(url: str, wanted: str, done: Completed, trace: HttpTrace, settings: RepositorySettings) -> TransportError:
    if location := trace.location():
        return MovedError(f"{display_url(url)} redirects to {display_url(location)}", location=location)
    lines = [
        line
        for line in done.errors.replace("\r", "\n").splitlines()
        if "fatal:" in line or "error:" in line or _FINAL.search(line.lower())  # ssh prints its error before git does
    ]
    said = last_line(redact_query("\n".join(lines[:1]) or done.errors, url))
    final = _FINAL.search(done.errors.lower())
    hint = ""
    if "not our ref" in done.errors:
        hint = f"the repository has no commit {wanted}: check the revision"
    elif "host key verification" in done.errors.lower():
        hint = "add the key of the host to known_hosts, or set FETCH_SSH_KNOWN_HOSTS"
    elif _LOGIN.search(done.errors.lower()):
        hint = "if a login is required, add it to ~/.netrc: `headers` and `auth` do not apply to repositories"
    elif "certificate" in done.errors.lower():
        hint = format_trust_hint(settings.transport.ca_bundle)
    message = f"{display_url(url)}: git exited with status {done.status}: {said}"
    if found := _HTTP_STATUS.search(done.errors):
        status, retry_after_s = int(found[1]), trace.retry_after_s()
        transient = not final or is_rate_limit(status, retry_after_s)
        return HttpStatusError(message, status=status, hint=hint, transient=transient, retry_after_s=retry_after_s)
    return TransportError(message, hint=hint, transient=not final)


class _ProgressReader:
    """A reader of the progress output of git."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._size = progress, 0

    def line(self, chunk: bytes) -> None:
        """Report the newly received bytes."""
        for found in _RECEIVED.finditer(chunk):
            size = parse_size(found[1].decode(), "git")
            if not self._size:
                self._progress.phase("body")
            if size > self._size:
                self._progress.advance(size - self._size)
                self._size = size


#: Prefix of the refs to the commits that a repository contains.
REFS: Final = "refs/doit-fetch"
#: Limits for a commit to copy; a larger commit is fetched by git.
_LIMITS: Final = Limits(max_entries=2_000_000, max_names_bytes=256 << 20)


def copy_from_local(directory: Path, settings: RepositorySettings, url: str, commit: str, progress: Progress) -> bool:
    """Copy a commit from a `file:` URL into the bare repository `directory`; return whether it succeeded.

    Raises:
        ToolError: git is not installed.
        CancelledError: the run was asked to stop.
    """
    place = Path(unquote(urlsplit(url).path, errors="surrogateescape"))
    objects = next((one / "objects" for one in (place / ".git", place) if (one / "objects").is_dir()), None)
    if objects is None:
        return False
    try:
        with Objects(directory, settings, progress, objects) as found:
            one = read_commit_tree(found, commit, name=place.name, limits=_LIMITS)
    except (ArchiveError, DigestMismatchError, ToolError):
        return False  # `git fetch` reports the error
    wanted = dict.fromkeys([commit, *one.trees, *(leaf.identity for leaf in one.leaves)])
    words = ["pack-objects", "--quiet", "--window=0", str(directory.absolute() / "objects" / "pack" / "pack")]
    packed = run(
        git_command(settings, directory, words, beside=objects), progress, input="".join(_lines(wanted)).encode()
    )
    if packed.status:
        return False
    if one.parents:
        _make_shallow(directory / "shallow", commit)
    return not run(git_command(settings, directory, ["update-ref", f"{REFS}/{commit}", commit]), progress).status


def _lines(identities: dict[str, None]) -> Iterator[str]:
    for one in identities:
        yield f"{one}\n"


def _make_shallow(path: Path, commit: str) -> None:
    """Mark the parents of the commit as missing. Source: git's Documentation/technical/shallow.txt."""
    known = set(path.read_text("ascii").split()) if path.exists() else set()
    aside = path.with_name("shallow.new")
    aside.write_text("".join(f"{one}\n" for one in sorted(known | {commit})), "ascii")
    aside.replace(path)
