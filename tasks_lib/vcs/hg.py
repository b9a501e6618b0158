"""Mercurial: owns the hg program and what lies in its repositories.

hg itself recomputes the id of every revision that it receives and reads. It runs without configuration, extension,
hook or prompt of anybody's; a changeset is here once its marker stands.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

from tasks_lib.errors import HttpStatusError, ToolError, TransportError, UnsupportedArchiveError
from tasks_lib.network import RepositorySettings
from tasks_lib.progress import Progress
from tasks_lib.subprocesses import Completed, Invocation, Timeouts, last_line, run, streaming
from tasks_lib.vcs.environment import fetch_bounds, inherited_environment, ssh_command
from tasks_lib.vcs.urls import display_url, scheme_of

#: What waiting does not help against. Source: messages of Mercurial 5 and 6, OpenSSH.
_FINAL: Final = re.compile(
    r"unknown revision|filtered revision|not found|authorization failed|authorization required|permission denied"
    r"|host key verification|certificate|no suitable response|unsupported url|http error 4(?!08|25|29)\d\d"
    r"|repository .* not found|is not a repository|access denied"
)
#: The status of an HTTP answer that ended a pull. Source: Python's urllib.error.HTTPError.
_HTTP_STATUS: Final = re.compile(r"HTTP Error (\d{3})")
#: Leading component of hg's own archive, which the caller strips.
TOP: Final = "x"
_CHUNK: Final = 1 << 20


class HgRepository:
    """A repository without a working copy in `directory`, which the store gave."""

    def __init__(self, directory: Path, settings: RepositorySettings) -> None:
        self.directory, self._settings = directory, settings

    def _marker(self, changeset: str) -> Path:
        return self.directory / ".hg" / "doit-fetch" / changeset

    def holds(self, changeset: str) -> bool:
        """Whether the changeset was pulled."""
        return self._marker(changeset).is_file()

    def fetch(self, url: str, changeset: str, progress: Progress, *, key: Path | None = None) -> None:
        """Pull the changeset and its ancestors; Mercurial knows no shallow repository.

        Raises:
            TransportError: the server did not give it; `transient` says whether to try again.
            ToolError: hg is missing or cannot write here.
            CancelledError: the run was asked to stop.
        """
        if not scheme_of(url) or "://" not in url:
            raise ToolError(
                f"{display_url(url)} is no URL that hg reads", hint="write https://host/path or ssh://user@host/path"
            )
        self._prepare(progress)
        progress.phase("connect", url=display_url(url))
        try:
            done = run(self._command(["pull", "--rev", changeset, "--", url], key), progress)
        except ToolError as error:
            if "is not installed" in str(error):
                raise
            raise TransportError(f"{display_url(url)}: {error.message}", transient=True) from error
        if done.status:
            raise _failure(url, done)
        self._marker(changeset).parent.mkdir(exist_ok=True)
        self._marker(changeset).touch()

    def forget(self) -> None:
        """Remove the whole repository."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def archive(self, changeset: str, out: BinaryIO, name: str, progress: Progress) -> None:
        """Write the files of a changeset as a tar, below the directory `TOP`.

        Raises:
            UnsupportedArchiveError: it has subrepositories.
            ToolError: hg failed; the repository is damaged or does not hold the changeset.
        """
        if not run(self._command(["files", "--rev", changeset, "path:.hgsub"]), progress).status:
            raise UnsupportedArchiveError(
                archive=name, reason="has subrepositories", code="SUBREPOSITORIES", entry=b".hgsub"
            )
        words = ["archive", "--rev", changeset, "--type", "tar", "--prefix", TOP, "--no-decode", "-"]
        with streaming(self._command(words), progress) as stream:
            size = 0
            while chunk := stream.reader.read(_CHUNK):
                out.write(chunk)
                size += len(chunk)
            if stream.status() or not size:
                raise stream.failure(f"gave no archive of {changeset}")

    def _prepare(self, progress: Progress) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            for lock in ("wlock", "store/lock"):  # of a process that was killed: the lock is ours
                (self.directory / ".hg" / lock).unlink(missing_ok=True)
        except OSError as error:
            raise ToolError(f"{self.directory} cannot be written: {error.strerror or error}") from error
        if (self.directory / ".hg" / "store" / "journal").exists():
            run(self._command(["recover", "--no-verify"]), progress)
        if not (self.directory / ".hg" / "requires").is_file():
            done = run(self._command(["init"]), progress)
            if done.status:
                raise ToolError(f"hg cannot make a repository in {self.directory}: {_said(done)}")

    def _command(self, words: Sequence[str], key: Path | None = None) -> Invocation:
        """Return a call of hg. Source: hg help environment, hg help config."""
        patience = fetch_bounds(self._settings)
        bundle = self._settings.transport.ca_bundle
        config = [
            f"ui.ssh={ssh_command(self._settings, key)}",
            "ui.archivemeta=false",
            "ui.interactive=false",
            "subrepos.allowed=false",
            "share.pool=",
            f"http.timeout={max(1, round(patience.silence_s))}",
        ]
        config += [f"web.cacerts={bundle}"] if bundle else []
        options = [word for one in config for word in ("--config", one)]
        return Invocation(
            words=["hg", "--noninteractive", *options, *words],
            environ=inherited_environment(self._settings)
            | {"HGPLAIN": "1", "HGRCPATH": "", "HGENCODING": "utf-8", "LC_ALL": "C"},
            directory=self.directory,
            bounds=Timeouts(total_s=patience.total_s, silence_s=patience.total_s),  # hg pulls without a word
        )


def _failure(url: str, done: Completed) -> TransportError:
    told, final = f"{display_url(url)}: hg ended with {done.status}: {_said(done)}", _FINAL.search(done.errors.lower())
    if status := _HTTP_STATUS.search(done.errors):  # hg tells no header, so that a Retry-After stays unknown
        return HttpStatusError(told, status=int(status[1]), transient=not final)
    return TransportError(told, transient=not final)


def _said(done: Completed) -> str:
    lines = [line for line in done.errors.splitlines() if line.startswith("abort:")]
    return last_line(lines[0] if lines else done.errors or done.output)
