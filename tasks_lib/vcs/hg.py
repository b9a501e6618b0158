"""Mercurial: runs hg and manages its local repositories.

hg itself recomputes the id of every revision that it receives or reads. It runs without configuration, hooks or
prompts, and with one extension, which forbids redirects. A changeset is complete once its marker file exists.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

from tasks_lib.errors import (
    HttpStatusError,
    MovedError,
    ToolError,
    TransportError,
    UnsupportedArchiveError,
    escape_text,
)
from tasks_lib.network import RepositorySettings, format_trust_hint
from tasks_lib.progress import Progress
from tasks_lib.subprocesses import Completed, Invocation, Timeouts, last_line, run, stream_output
from tasks_lib.vcs.environment import (
    WRITE_HINT,
    fetch_bounds,
    inherited_environment,
    prepare_directory,
    ssh_command,
    transferring,
)
from tasks_lib.vcs.urls import display_url, redact_query, scheme_of

#: Permanent errors, which a retry does not fix. Source: messages of Mercurial 5 and 6, OpenSSH.
_FINAL: Final = re.compile(
    r"unknown revision|filtered revision|not found|authorization failed|authorization required|permission denied"
    r"|host key verification|certificate|no suitable response|unsupported url|http error 4(?!08|25|29)\d\d"
    r"|is not a repository|access denied"
)
#: Status of the HTTP response that ended a pull. Source: Python's urllib.error.HTTPError.
_HTTP_STATUS: Final = re.compile(r"HTTP Error (\d{3})")
#: Begin of the line of `hg_redirects.py`, which only hg runs.
_REDIRECT: Final = "doit-fetch redirect: "
_EXTENSION: Final = Path(__file__).with_name("hg_redirects.py")
#: Leading path component in the archive from hg, which the caller strips.
TOP: Final = "x"
_CHUNK: Final = 1 << 20
#: A name that is looked up, and that hg reads as nothing else, such as an option or a set of revisions.
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+/-]{0,127}")


class HgRepository:
    """A repository without a working copy in `directory`, which belongs to the cache."""

    def __init__(self, directory: Path, settings: RepositorySettings) -> None:
        self.directory, self._settings = directory, settings

    def _marker(self, changeset: str) -> Path:
        return self.directory / ".hg" / "doit-fetch" / changeset

    def holds(self, changeset: str) -> bool:
        """Whether the repository contains the changeset."""
        return self._marker(changeset).is_file()

    def fetch(self, url: str, changeset: str, progress: Progress, *, key: Path | None = None) -> None:
        """Pull the changeset and its ancestors; Mercurial does not support shallow repositories.

        Raises:
            TransportError: the server did not send it; `transient` tells whether to try again.
            MovedError: the server redirects; the caller fetches from the new URL.
            ToolError: hg is not installed or cannot write to the directory.
            CancelledError: the run was asked to stop.
        """
        if not scheme_of(url) or "://" not in url:
            raise ToolError(
                f"hg does not support the URL {display_url(url)}", hint="use https://host/path or ssh://user@host/path"
            )
        self._prepare(progress)
        progress.phase("connect", url=display_url(url))
        with transferring(url):
            done = run(self._command(["pull", "--rev", changeset, "--", url], key), progress)
        if done.status:
            raise _failure(url, done, self._settings)
        self._marker(changeset).parent.mkdir(exist_ok=True)
        self._marker(changeset).touch()

    def resolve(self, url: str, name: str, progress: Progress, *, key: Path | None = None) -> str:
        """Return the changeset to which a tag, bookmark or branch of the remote currently points.

        Raises:
            TransportError: the name does not exist, or the server does not respond.
            MovedError: the server redirects; the caller asks the new URL.
            ToolError, CancelledError: as `fetch`.
        """
        if not _NAME.fullmatch(name):
            raise TransportError(
                f"invalid name {escape_text(name[:60])!r} of a tag",
                hint="use letters, digits, '.', '_', '/', '+' or '-'",
            )
        self._prepare(progress)
        words = ["identify", "--debug", "--id", f"--rev={name}", "--", url]  # --debug: the whole id
        done = run(self._command(words, key), progress)
        lines = done.output.decode("utf-8", "replace").split()
        if done.status:
            raise _failure(url, done, self._settings)
        found = next((line for line in lines if re.fullmatch("[0-9a-f]{40}", line)), "")
        if not found:
            raise TransportError(
                f"{display_url(url)} did not name the changeset of {escape_text(name)}",
                hint="check the name with `hg identify --id --rev NAME URL`",
            )
        return found

    def forget(self) -> None:
        """Delete the repository."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def archive(self, changeset: str, out: BinaryIO, name: str, progress: Progress) -> None:
        """Write the files of a changeset as a tar archive, below the directory `TOP`.

        Raises:
            UnsupportedArchiveError: the changeset has subrepositories.
            ToolError: hg failed, because the repository is damaged or does not contain the changeset.
        """
        if not run(self._command(["files", "--rev", changeset, "path:.hgsub"]), progress).status:
            raise UnsupportedArchiveError(
                archive=name,
                reason="has subrepositories",
                code="SUBREPOSITORIES",
                entry=b".hgsub",
                hint="define each of them, and put them in place in a toolchain",
            )
        words = ["archive", "--rev", changeset, "--type", "tar", "--prefix", TOP, "--no-decode", "-"]
        with stream_output(self._command(words), progress) as stream:
            size = 0
            while chunk := stream.reader.read(_CHUNK):
                out.write(chunk)
                size += len(chunk)
            if stream.status() or not size:
                raise stream.failure(f"did not create an archive of {changeset}")

    def _prepare(self, progress: Progress) -> None:
        prepare_directory(self.directory, (self.directory / ".hg" / lock for lock in ("wlock", "store/lock")))
        if (self.directory / ".hg" / "store" / "journal").exists():
            run(self._command(["recover", "--no-verify"]), progress)
        if not (self.directory / ".hg" / "requires").is_file():
            done = run(self._command(["init"]), progress)
            if done.status:
                raise ToolError(
                    f"hg cannot create a repository in {self.directory}: {_said(done)}",
                    hint=WRITE_HINT,
                )

    def _command(self, words: Sequence[str], key: Path | None = None) -> Invocation:
        """Return the command line and environment of hg. Source: hg help environment, hg help config."""
        patience = fetch_bounds(self._settings)
        bundle = self._settings.transport.ca_bundle
        config = [
            f"ui.ssh={ssh_command(self._settings, key)}",
            "ui.archivemeta=false",
            "ui.interactive=false",
            "subrepos.allowed=false",
            "share.pool=",
            f"extensions.doitfetch={_EXTENSION}",
            f"http.timeout={max(1, round(patience.silence_s))}",
        ]
        config += [f"web.cacerts={bundle}"] if bundle else []
        options = [word for one in config for word in ("--config", one)]
        return Invocation(
            words=["hg", "--noninteractive", *options, *words],
            environ=inherited_environment(self._settings)
            | {"HGPLAIN": "1", "HGRCPATH": "", "PYTHONDONTWRITEBYTECODE": "1", "HGENCODING": "utf-8", "LC_ALL": "C"},
            directory=self.directory,
            bounds=Timeouts(total_s=patience.total_s, silence_s=patience.total_s),  # hg prints nothing during a pull
        )


def _failure(url: str, done: Completed, settings: RepositorySettings) -> TransportError:
    for line in done.errors.splitlines():
        if line.startswith(_REDIRECT):
            location = line.removeprefix(_REDIRECT).partition("?")[0]  # hg appends ?cmd=capabilities
            return MovedError(f"{display_url(url)} redirects to {display_url(location)}", location=location)
    message = f"{display_url(url)}: hg exited with status {done.status}: {redact_query(_said(done), url)}"
    final = _FINAL.search(done.errors.lower())
    if status := _HTTP_STATUS.search(done.errors):  # hg does not print headers, so that Retry-After is unknown
        return HttpStatusError(message, status=int(status[1]), transient=not final)
    hint = format_trust_hint(settings.transport.ca_bundle) if "certificate" in done.errors.lower() else ""
    return TransportError(message, hint=hint, transient=not final)


def _said(done: Completed) -> str:
    lines = [line for line in done.errors.splitlines() if line.startswith("abort:")]
    return last_line(lines[0] if lines else done.errors or done.output)
