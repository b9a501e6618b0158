"""Start of the program `doit-fetch`: a path that is known is printed before anything else is loaded."""

from __future__ import annotations

import os
import sys

from tasks_lib.incremental import path_notes


def main() -> int:
    """Run the program; return its exit status."""
    try:
        return _main(sys.argv[1:])
    except KeyboardInterrupt:  # while modules are loaded
        return 130


def _main(words: list[str]) -> int:
    try:
        here = os.getcwd()  # noqa: PTH109  # pathlib is slow to import
    except FileNotFoundError:
        sys.stderr.write("doit-fetch: the current directory was removed\nchange to an existing one, then run again\n")
        return 1
    if words[:1] == ["path"]:
        known = path_notes.read(path_notes.find_project(here), words, os.environ)
        if known is not None:
            print(known)  # noqa: T201  # a program
            return 0
    from tasks_lib.cli.program import run  # slow to import, not needed for a known path

    return run(words, os.environ)
