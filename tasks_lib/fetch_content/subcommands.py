"""The subcommands; `command` parses their options."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tasks_lib.fetch_content.console import SignalledError
from tasks_lib.fetch_content.git_archive import CheckoutOptions, git_checkout_archive
from tasks_lib.fetch_content.run import remove_private_directories
from tasks_lib.fetch_content.static_url import StaticUrlOptions, static_url
from tasks_lib.fetch_content.task_artifacts import task_artifacts
from tasks_lib.packaging.build import FETCH_CONTENT, package

Subcommand = Callable[[argparse.Namespace, Mapping[str, str]], None]


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> None:
    """Run a subcommand.

    Raises:
        FetchError, OSError: it fails.
        SignalledError: a signal asked to stop; what threads may still use is removed.
    """
    try:
        _SUBCOMMANDS[options.command](options, environ)
    except SignalledError:
        remove_private_directories()
        raise


def _static_url(options: argparse.Namespace, environ: Mapping[str, str]) -> None:
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
    task_artifacts(options.dest, environ)


def _git_checkout_archive(options: argparse.Namespace, environ: Mapping[str, str]) -> None:
    git_checkout_archive(
        CheckoutOptions(
            repo=options.repo,
            commit=options.commit,
            dest=options.dest,
            prefix=options.path_prefix or "",
            ssh_key_secret=options.ssh_key_secret or "",
            dot_git="kept" if options.include_dot_git else "dropped",
        ),
        environ,
    )


def _package(options: argparse.Namespace, _environ: Mapping[str, str]) -> None:
    package(FETCH_CONTENT, Path(options.dest), options.python)


_SUBCOMMANDS: Final[Mapping[str, Subcommand]] = {
    "static-url": _static_url,
    "task-artifacts": _task_artifacts,
    "git-checkout-archive": _git_checkout_archive,
    "run": _task_artifacts,
    "package": _package,
}
