"""The command line: subcommands and flags, exit codes, signals.

Exit status 0: done; 1: it failed, the reason stands on stderr; 2: the command line is wrong. A signal ends the command
as that signal, after what is temporary was removed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NoReturn

from tasks_lib.errors import FetchError
from tasks_lib.fetch_content import porch

Subcommand = Callable[[argparse.Namespace, Mapping[str, str]], None]


class _SignalledError(BaseException):
    """A signal asked to stop; no `except Exception` may swallow it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    environ = porch.environment()
    parser = _parser()
    options = parser.parse_args(porch.arguments() if words is None else words)
    if options.command is None:
        parser.error("say what to do: static-url, task-artifacts or git-checkout-archive")
    if options.dest is None:
        options.dest = environ.get("MOZ_FETCHES_DIR") or None
    if not options.dest:
        parser.error("no destination directory specified, either pass in --dest or set $MOZ_FETCHES_DIR")
    try:
        with _signals():
            _COMMANDS[options.command](options, environ)
    except FetchError as error:
        porch.log(f"fetch-content: {error}")
        return 1
    except OSError as error:
        place = f"{error.filename}: " if error.filename is not None else ""
        porch.log(f"fetch-content: {place}{error.strerror or error}")
        return 1
    except _SignalledError as error:
        porch.log(f"fetch-content: stopped by {signal.Signals(error.number).name}")
        _die(error.number)
    return 0


def _die(number: int) -> NoReturn:
    """End as by this signal, whatever threads still do."""
    from tasks_lib.fetch_content.run import remove_private_directories

    remove_private_directories()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # a signal that is blocked


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into an exception; a second one ends at once, as does one after the work."""

    def stop(number: int, _frame: object) -> NoReturn:
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_DFL)
        raise _SignalledError(number)

    before = {one: signal.signal(one, stop) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, signal.SIG_DFL if handler is signal.default_int_handler else handler)


def _static_url(options: argparse.Namespace, environ: Mapping[str, str]) -> None:
    from tasks_lib.fetch_content.static_url import StaticUrlOptions, static_url

    static_url(
        StaticUrlOptions(
            url=options.url,
            dest=options.dest,
            sha256=options.sha256,
            size=options.size,
            headers=tuple(options.headers),
            sig_url=options.gpg_sig_url or "",
            key_env=options.gpg_key_env or "",
            strip=options.strip_components,
            prefix=options.add_prefix,
            single="wrap" if options.force_archive else "keep",
        ),
        environ,
    )


def _task_artifacts(options: argparse.Namespace, environ: Mapping[str, str]) -> None:
    from tasks_lib.fetch_content.task_artifacts import task_artifacts

    task_artifacts(options.dest, environ)


def _git_checkout_archive(options: argparse.Namespace, environ: Mapping[str, str]) -> None:
    from tasks_lib.fetch_content.git_archive import Checkout, git_checkout_archive

    git_checkout_archive(
        Checkout(
            repo=options.repo,
            commit=options.commit,
            dest=options.dest,
            prefix=options.path_prefix or "",
            ssh_key_secret=options.ssh_key_secret or "",
            dot_git="kept" if options.include_dot_git else "dropped",
        ),
        environ,
    )


_COMMANDS: Mapping[str, Subcommand] = {
    "static-url": _static_url,
    "task-artifacts": _task_artifacts,
    "git-checkout-archive": _git_checkout_archive,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fetch-content", description="Fetch, verify and place content for a task.")
    commands = parser.add_subparsers(title="sub commands", dest="command")

    git = commands.add_parser("git-checkout-archive", help="make a .tar.zst of one commit of a git repository")
    git.add_argument("--path-prefix", metavar="DIR", help="directory of the content in the archive")
    git.add_argument("--ssh-key-secret", metavar="NAME", help="Taskcluster secret that holds an ssh key")
    git.add_argument("--include-dot-git", action="store_true", help="keep the .git directory")
    git.add_argument("--fetch-mode", metavar="MODE", help="accepted and ignored: a commit is always fetched alone")
    git.add_argument("repo", help="URL of the repository")
    git.add_argument("commit", help="commit id, or a branch or tag")
    git.add_argument("dest", help="file to make; its name ends in .tar.zst")

    url = commands.add_parser("static-url", help="download a file with a known digest")
    url.add_argument("--sha256", required=True, metavar="HEX", help="of the downloaded bytes")
    url.add_argument("--size", required=True, type=int, metavar="BYTES", help="of the download")
    url.add_argument("--gpg-sig-url", metavar="URL", help="URL of a detached signature")
    url.add_argument("--gpg-key-env", metavar="NAME", help="environment variable that holds the public key")
    url.add_argument("--strip-components", type=int, default=0, metavar="N", help="path components to drop")
    url.add_argument("--add-prefix", default="", metavar="TEXT", help="text put before every name in the archive")
    url.add_argument("-H", "--header", dest="headers", action="append", default=[], help="'Name: value', repeatable")
    url.add_argument("--force-archive", action="store_true", help="make an archive even of a file that is none")
    url.add_argument("url", help="URL to fetch")
    url.add_argument("dest", help="file to make")

    artifacts = commands.add_parser("task-artifacts", help="fetch the artifacts that $MOZ_FETCHES lists")
    artifacts.add_argument("-d", "--dest", metavar="DIR", help="directory to fill (default: $MOZ_FETCHES_DIR)")
    return parser
