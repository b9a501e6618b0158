"""The command line of `fetch-content`: subcommands and flags, exit statuses, signals.

Exit status 0: success; 1: failure, with the reason on stderr; 2: invalid command line; with `run`, that of the command.
On a signal, the command removes its temporary directories and then dies by that signal.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

from tasks_lib.errors import FetchError
from tasks_lib.fetch_content import console
from tasks_lib.fetch_content.console import SignalledError
from tasks_lib.fs.processes import replace_process
from tasks_lib.packaging import add_arguments


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    environ = console.environment()
    options = _parse(console.arguments() if words is None else words, environ)
    if options.command == "run":
        environ = console.task_environment(environ)
        options.dest = environ.get("MOZ_FETCHES_DIR")
    status = _fetch(options, environ)
    if status != 0 or options.command != "run" or not options.words:
        return status
    status, reason = replace_process(options.words, environ)
    console.log(f"fetch-content: {options.words[0]}: {reason}")
    return status


def _parse(words: Sequence[str], environ: Mapping[str, str]) -> argparse.Namespace:
    """Return the options; an invalid command line ends the process with status 2."""
    parser = _parser()
    options = parser.parse_args(words)
    if options.command is None:
        if "MOZ_FETCHES" not in environ:
            parser.error("missing subcommand: static-url, task-artifacts, git-checkout-archive, run or package")
        options.command, options.words = "run", []
    if options.command == "run":
        options.dest, options.words = None, options.words[options.words[:1] == ["--"] :]
        if "MOZ_FETCHES" not in environ:
            return options
    if options.dest is None:
        options.dest = environ.get("MOZ_FETCHES_DIR") or None
    if not options.dest:
        parser.error("no destination directory specified, either pass in --dest or set $MOZ_FETCHES_DIR")
    return options


def _fetch(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Run a subcommand; return its exit status."""
    try:
        with _signals():
            if options.command != "run" or "MOZ_FETCHES" in environ:
                from tasks_lib.fetch_content.subcommands import run  # slow; `run` may have nothing to fetch

                run(options, environ)
    except FetchError as error:
        console.log(f"fetch-content: {error}")
        return 1
    except OSError as error:
        place = f"{error.filename}: " if error.filename is not None else ""
        console.log(f"fetch-content: {place}{error.strerror or error}")
        return 1
    except SignalledError as error:
        console.log(f"fetch-content: stopped by {signal.Signals(error.number).name}")
        _die(error.number)
    return 0


def _die(number: int) -> NoReturn:
    """Die by this signal, without waiting for threads."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # the signal is blocked


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into an exception; a second one, or one after the work, ends the process."""

    def stop(number: int, _frame: object) -> NoReturn:
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_DFL)
        raise SignalledError(number)

    before = {one: signal.signal(one, stop) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, signal.SIG_DFL if handler is signal.default_int_handler else handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fetch-content", description="Fetch, verify and place content for a task.")
    commands = parser.add_subparsers(title="sub commands", dest="command")

    git = commands.add_parser("git-checkout-archive", help="create a .tar.zst of one commit of a git repository")
    git.add_argument("--path-prefix", metavar="DIR", help="top-level directory in the archive")
    git.add_argument("--ssh-key-secret", metavar="NAME", help="Taskcluster secret that contains an ssh key")
    git.add_argument("--include-dot-git", action="store_true", help="keep the .git directory")
    git.add_argument("--fetch-mode", metavar="MODE", help="ignored: only the requested commit is fetched")
    git.add_argument("repo", help="URL of the repository")
    git.add_argument("commit", help="commit id, or a branch or tag")
    git.add_argument("dest", help="file to create; its name must end in .tar.zst")

    url = commands.add_parser("static-url", help="download a file with a known digest")
    url.add_argument("--sha256", required=True, metavar="HEX", help="sha256 of the download")
    url.add_argument("--size", required=True, type=int, metavar="BYTES", help="size of the download")
    url.add_argument("--gpg-sig-url", metavar="URL", help="URL of a detached signature")
    url.add_argument("--gpg-key-env", metavar="NAME", help="environment variable with the public key")
    url.add_argument("--strip-components", type=int, default=0, metavar="N", help="leading path components to drop")
    url.add_argument("--add-prefix", default="", metavar="TEXT", help="text to prepend to every name in the archive")
    url.add_argument("-H", "--header", dest="headers", action="append", default=[], help="'Name: value', repeatable")
    url.add_argument("--force-archive", action="store_true", help="wrap a file that is not an archive into one")
    url.add_argument("url", help="URL to fetch")
    url.add_argument("dest", help="file to create")

    artifacts = commands.add_parser("task-artifacts", help="fetch the artifacts that $MOZ_FETCHES lists")
    artifacts.add_argument("-d", "--dest", metavar="DIR", help="directory to fill (default: $MOZ_FETCHES_DIR)")

    run = commands.add_parser("run", help="fetch like run-task if $MOZ_FETCHES is set, then become a command")
    run.add_argument("words", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="the command and its arguments")

    package = commands.add_parser("package", help="build one file that needs only a Python, for an image")
    add_arguments(package, "dest")
    return parser
