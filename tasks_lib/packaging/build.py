"""Build one file that contains a program and its dependencies, for a machine that has only a Python.

The file is a zip application made by shiv. It contains the dependencies for each named version of Python side by side:
compiled modules have the version in their names; all other files must be the same.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final, NamedTuple

import tasks_lib
from tasks_lib.errors import FetchError, SettingError, escape_text
from tasks_lib.fs.atomic import require_destination


class Program(NamedTuple):
    """A program of this package: its name, the function that runs it, the dependencies that it imports ((): all)."""

    name: str
    entry: str
    needed: tuple[str, ...] = ()


FETCH_CONTENT: Final = Program(
    "fetch-content", "tasks_lib.fetch_content.command:main", ("requests", "urllib3", "zstandard", "msgspec")
)
DOIT_FETCH: Final = Program("doit-fetch", "tasks_lib.cli.console:main")
#: Lines of pip's errors that a message repeats.
_LINES: Final = 3


def package(program: Program, out: Path, versions: Sequence[tuple[int, int]]) -> None:
    """Write the file; an existing one is replaced atomically.

    `versions` are those of the Pythons that will run the file.

    Raises:
        SettingError: a program that packages is missing.
        FetchError: a dependency does not exist for a version, or packaging failed.
        OSError: a file cannot be written.
    """
    if importlib.util.find_spec("shiv") is None or importlib.util.find_spec("pip") is None:
        raise SettingError("packaging needs shiv and pip", hint="install them: pip install 'doit-fetch[package]'")
    require_destination(out, "OUT")
    with tempfile.TemporaryDirectory(prefix=f".{program.name}.", dir=out.absolute().parent) as directory:
        staging = Path(directory)
        site = staging / "site"
        _copy_package(site)
        for major, minor in versions:
            _install(program, site, staging / f"{major}.{minor}", f"{major}.{minor}")
        words = ["--site-packages", str(site), "--python", "/usr/bin/env python3", "--reproducible", "--compile-pyc"]
        _run("shiv", *words, "--entry-point", program.entry, "--output-file", str(staging / "shiv"))
        _replace_main(program, staging / "shiv", staging / "packaged", versions)
        (staging / "packaged").replace(out)


def _copy_package(site: Path) -> None:
    """Copy this package, with the metadata that has its version and the commands that doit finds."""
    source = Path(tasks_lib.__file__).parent
    shutil.copytree(source, site / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(source.with_name("doit_fetch.py"), site)
    try:
        found = distribution("doit-fetch")
    except PackageNotFoundError:
        return
    metadata = site / f"doit_fetch-{found.version}.dist-info"
    metadata.mkdir()
    for name in ("METADATA", "entry_points.txt"):
        (metadata / name).write_text(found.read_text(name) or "", "utf-8")


def _requirements(program: Program) -> list[str]:
    """Return the requirements of a program as pip reads them."""
    try:
        known = distribution("doit-fetch").requires or []
    except PackageNotFoundError as error:
        raise SettingError("doit-fetch is not installed", hint="run: pip install 'doit-fetch[package]'") from error
    names = {one: re.split(r"[^\w-]", one, maxsplit=1)[0] for one in known if ";" not in one}
    return [one for one, name in names.items() if name in (program.needed or names.values())]


def _install(program: Program, site: Path, target: Path, version: str) -> None:
    """Add the dependencies for one version of Python."""
    words = ["--quiet", "--disable-pip-version-check", "--no-compile", "--only-binary", ":all:"]
    _run("pip", "install", *words, "--python-version", version, "--target", str(target), *_requirements(program))
    for path in sorted(target.rglob("*")):
        inner = path.relative_to(target)
        if path.is_dir() or inner.parts[0] == "bin" or path.name == "RECORD":
            continue  # RECORD has digests of the scripts in `bin`, which name the Python that packages
        placed = site / inner
        if not placed.exists():
            placed.parent.mkdir(parents=True, exist_ok=True)
            path.replace(placed)
        elif not inner.parts[0].endswith(".dist-info") and placed.read_bytes() != path.read_bytes():
            raise FetchError(
                f"{inner} differs between versions of Python", hint=f"package Python {version} into a file of its own"
            )


def _run(module: str, *words: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise FetchError(
            f"{module} failed with status {done.returncode}: {escape_text(' '.join(said[-_LINES:]))}",
            hint="check the versions of --python and the package index",
        )


def _replace_main(program: Program, source: Path, target: Path, versions: Sequence[tuple[int, int]]) -> None:
    """Copy a zip application with our `__main__.py`."""
    text = Path(__file__).with_name("zipapp_main.py").read_text("utf-8")
    main = re.sub(r"(?m)^VERSIONS = .*$", f"VERSIONS = {sorted(versions)!r}", text)
    main = re.sub(r"(?m)^PROGRAM = .*$", f"PROGRAM = {program.name!r}", main)
    with target.open("wb") as file, zipfile.ZipFile(source) as old:
        file.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(file, "w") as new:
            for member in old.infolist():
                new.writestr(member, main if member.filename == "__main__.py" else old.read(member))
    target.chmod(0o755)
