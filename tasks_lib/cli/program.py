"""The commands of the program `doit-fetch`: short ones that need no dodo.py; every other word goes to doit.

Exit status 0: success; 1: failure; 2: invalid command line; for `run`, that of the command; for words of doit, doit's.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import doit_fetch
from tasks_lib.errors import FetchError, escape_text
from tasks_lib.fs.atomic import require_destination, write_best_effort, write_new
from tasks_lib.fs.processes import replace_process
from tasks_lib.incremental import path_notes
from tasks_lib.packaging import add_arguments
from tasks_lib.settings import SETTINGS
from tasks_lib.ui.events import stderr_progress

if TYPE_CHECKING:
    from tasks_lib.project import Project

#: What `init` writes; files that exist stay.
_PROJECT: Final = {
    "dodo.py": "from doit_fetch import DOIT_CONFIG, task_fetchdefs\n",
    "fetchdefs/fetch/fetches.yml": """\
---
# One block for each download; `doit-fetch path NAME` prints where it is. For example:
#
# hello:
#     description: GNU hello
#     fetch:
#         type: static-url
#         url: https://example.org/hello-2.12.tar.gz
#         sha256: (output of `sha256sum`)
#         size: (output of `stat -c %s`)
""",
}


def run(words: list[str], environ: Mapping[str, str]) -> int:
    """Run a command line; return its exit status."""
    if words[:1] == ["help"] and words[1:2] and words[1] in COMMANDS:
        words = [words[1], "--help"]
    if words and words[0] not in COMMANDS and words[0] not in ("-h", "--help", "--version"):
        from tasks_lib.cli.doit_program import run_doit  # loads doit, which the commands of this program do not need

        return run_doit(words)
    if not words:
        _parser().print_help()
        return 2
    words, given, command = _split(words)
    options = _parser().parse_args(words)
    options.settings, options.words = given, command
    try:
        return int(COMMANDS[options.command](options, environ) or 0)
    except FetchError as error:
        sys.stderr.write(f"doit-fetch: {error}\n")
        return 1
    except OSError as error:
        place = f"{escape_text(str(error.filename))}: " if error.filename is not None else ""
        sys.stderr.write(
            f"doit-fetch: {place}{error.strerror or error}\ncheck the path, its permissions and free space\n"
        )
        return 1
    except KeyboardInterrupt:
        return 130


def _split(words: list[str]) -> tuple[list[str], dict[str, str], list[str]]:
    """Return the words for the parser, the settings among them (`offline=1`), and the command that `run` starts."""
    known = {one.variable for one in SETTINGS} - {""}
    end = len(words)
    if words[0] == "run":  # its command begins after `--`, or with the second word that is not an option or a setting
        names = [at for at, word in enumerate(words) if at and not _is_option(word, known)]
        end = names[1] if len(names) > 1 else end
    command = words[end:]
    given = {word.partition("=")[0]: word.partition("=")[2] for word in words[:end] if _is_setting(word, known)}
    return [word for word in words[:end] if not _is_setting(word, known)], given, command[command[:1] == ["--"] :]


def _is_setting(word: str, known: set[str]) -> bool:
    name, sign, _ = word.partition("=")
    return bool(sign) and name in known


def _is_option(word: str, known: set[str]) -> bool:
    return _is_setting(word, known) or (word[:1] == "-" and word != "--")


def _load(options: argparse.Namespace) -> Project:
    progress = stderr_progress()
    offline = True if options.offline else None
    return doit_fetch.Project.load(offline=offline, settings=options.settings, progress=progress)


def _path(options: argparse.Namespace, environ: Mapping[str, str]) -> None:
    project = _load(options)
    path = str(project.tree(options.name) if options.tree else project.fetch(options.name))
    if files := project.dependencies(options.name, "tree" if options.tree else "fetch"):
        note, content = path_notes.compose(str(project.cache), sys.argv[1:], environ, path, files)
        with contextlib.suppress(OSError):
            Path(note).parent.mkdir(mode=0o755, exist_ok=True)
            write_best_effort(Path(note), content)
    print(path)  # noqa: T201  # a program


def _get(options: argparse.Namespace, _environ: Mapping[str, str]) -> None:
    """Copy an artifact; replace a file atomically."""
    given = "." if options.dest is None else options.dest
    if given[-1:] in ("", "/") and not os.path.isdir(given):  # noqa: PTH112  # as `cp`; a Path has no last slash
        raise FetchError(f"{escape_text(given)!r} is not a directory", hint="create it, or choose another DEST")
    project = _load(options)
    source = project.fetch(options.name)
    target = Path(given, source.name) if Path(given).is_dir() else Path(given)
    require_destination(target, "DEST")
    with tempfile.TemporaryDirectory(prefix=".doit-fetch.", dir=target.absolute().parent) as staging:
        copy = Path(staging, source.name)
        shutil.copyfile(source, copy)
        if project.is_program(options.name):
            mode = copy.stat().st_mode
            copy.chmod(mode | (mode & 0o444) >> 2)  # who may read it may execute it
        copy.replace(target)
    print(target.absolute())  # noqa: T201  # a program


def _run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Become a command whose PATH begins with the programs of a tree."""
    words = options.words
    if not words:
        sys.stderr.write("doit-fetch: missing command\ndoit-fetch run NAME -- COMMAND...\n")
        return 2
    project = _load(options)
    tree = project.tree(options.name)
    roots = [tree / "fetches", tree] if (tree / "fetches").is_dir() else [tree]
    found = [path for root in roots for path in (root / "bin", *sorted(root.glob("*/bin")))]
    # the output of a toolchain, or a single program
    own = tree / "artifacts" if (tree / "artifacts").is_dir() else tree
    places = [str(path) for path in (*found, own) if path.is_dir()]
    path = os.pathsep.join([*places, environ.get("PATH", os.defpath)])
    status, reason = replace_process(words, {**environ, "PATH": path})
    sys.stderr.write(f"doit-fetch: {escape_text(words[0])}: {reason}\n")
    return status


def _init(_options: argparse.Namespace, _environ: Mapping[str, str]) -> None:
    for name, text in _PROJECT.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            state = "created" if write_new(path, text.encode()) else "kept"
        except OSError as error:
            raise FetchError(f"cannot write {name}: {error.strerror}", hint="check space and permissions") from error
        print(f"{state} {name}")  # noqa: T201  # a program


def _package(options: argparse.Namespace, _environ: Mapping[str, str]) -> None:
    from tasks_lib.packaging.build import DOIT_FETCH, package  # loads what only this command needs

    package(DOIT_FETCH, Path(options.out), options.python)
    print(Path(options.out).absolute())  # noqa: T201  # a program


def _completion(options: argparse.Namespace, _environ: Mapping[str, str]) -> None:
    from tasks_lib.cli.completion import write_script  # loads doit, which other commands do not need

    if options.shell != "names":
        program, commands = _parsers()
        pages = {name: one.format_help() for name, one in {"": program, **commands}.items()}
        sys.stdout.write(write_script(options.shell, pages))
        return
    with contextlib.suppress(FetchError, OSError):  # a shell shows no errors while a line is typed
        options.offline = False
        for name in _load(options).definitions:
            print(name)  # noqa: T201  # a program


#: Each command of the program by name; it gets the parsed command line and the environment.
COMMANDS: Final[Mapping[str, Callable[[argparse.Namespace, Mapping[str, str]], int | None]]] = {
    "init": _init,
    "get": _get,
    "path": _path,
    "run": _run,
    "package": _package,
    "completion": _completion,
}


class _Version(argparse.Action):
    """Print the versions; reading them takes longer than most commands."""

    def __call__(self, *_: object) -> None:
        print(f"doit-fetch {version('doit-fetch')}, doit {version('doit')}")  # noqa: T201  # a program
        raise SystemExit(0)


def _parser() -> argparse.ArgumentParser:
    return _parsers()[0]


def _parsers() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """Return the parser of the program, and those of its commands."""
    parser = argparse.ArgumentParser(
        prog="doit-fetch",
        description="Obtain, verify and use pinned content.",
        epilog="Every other word is a command of doit: `doit-fetch list`, `doit-fetch fetch:NAME`, `doit-fetch help`.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the versions of doit-fetch and doit")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    commands.add_parser("init", help="create dodo.py and a file for definitions")
    get = commands.add_parser("get", help="copy an artifact")
    path = commands.add_parser("path", help="print the path of an artifact")
    run = commands.add_parser("run", help="run a command that finds the programs of a toolchain or an archive")
    package = commands.add_parser("package", help="write doit-fetch as one file, for a machine that has only a Python")
    completion = commands.add_parser("completion", help="print a script that completes commands, options and names")
    for command in (get, path, run):
        command.add_argument("--offline", action="store_true", help="make no network request")
        command.add_argument(
            "name", metavar="NAME", help="name of a definition, or fetch:NAME, toolchain:NAME or image:NAME"
        )
    path.add_argument("--tree", action="store_true", help="the extracted archive, or the directory of the toolchain")
    get.add_argument("dest", metavar="DEST", nargs="?", help="file or directory (default: the current directory)")
    run.usage = "doit-fetch run [-h] [--offline] NAME -- COMMAND..."
    add_arguments(package, "out")
    completion.add_argument("shell", choices=("bash", "zsh", "fish", "names"), metavar="bash|zsh|fish")
    return parser, commands.choices
