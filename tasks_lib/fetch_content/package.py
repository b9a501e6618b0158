"""Build one file that contains `fetch-content` and its dependencies, for an image that has only a Python.

The file is a zip application made by shiv. It contains the dependencies for each named version of Python side by side:
compiled modules have the version in their names; all other files must be the same.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

import tasks_lib
from tasks_lib.errors import FetchError, SettingError, escape_text
from tasks_lib.fetch_content.run import private_directory

#: The dependencies that the command imports.
_NEEDED: Final = ("requests", "urllib3", "zstandard", "msgspec")
#: Lines of pip's errors that a message repeats.
_LINES: Final = 3


def package(out: Path, versions: Sequence[tuple[int, int]]) -> None:
    """Write the file; an existing one is replaced atomically.

    Args:
        out: the file to create, executable.
        versions: the versions of Python that will run it.

    Raises:
        SettingError: a program that packages is missing.
        FetchError: a dependency does not exist for a version, or packaging failed.
        OSError: a file cannot be written.
    """
    if importlib.util.find_spec("shiv") is None or importlib.util.find_spec("pip") is None:
        raise SettingError("packaging needs shiv and pip", hint="install them: pip install 'doit-fetch[package]'")
    with private_directory(out.absolute().parent) as staging:
        site = staging / "site"
        _copy_package(site)
        for major, minor in versions:
            _install(site, staging / f"{major}.{minor}", f"{major}.{minor}")
        words = ["--site-packages", str(site), "--python", "/usr/bin/env python3", "--reproducible", "--compile-pyc"]
        entry = "tasks_lib.fetch_content.command:main"
        _run("shiv", *words, "--entry-point", entry, "--output-file", str(staging / "shiv"))
        _replace_main(staging / "shiv", staging / "packaged", versions)
        (staging / "packaged").replace(out)


def _copy_package(site: Path) -> None:
    """Copy this package, with the metadata from which it reads its version."""
    source = Path(tasks_lib.__file__).parent
    shutil.copytree(source, site / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    try:
        found = distribution("doit-fetch")
    except PackageNotFoundError:
        return
    metadata = site / f"doit_fetch-{found.version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(found.read_text("METADATA") or "", "utf-8")


def _requirements() -> list[str]:
    """Return the requirements of the command as pip reads them."""
    try:
        known = distribution("doit-fetch").requires or []
    except PackageNotFoundError as error:
        raise SettingError("doit-fetch is not installed", hint="run: pip install 'doit-fetch[package]'") from error
    return [one for one in known if ";" not in one and re.split(r"[^\w-]", one, maxsplit=1)[0] in _NEEDED]


def _install(site: Path, target: Path, version: str) -> None:
    """Add the dependencies for one version of Python."""
    words = ["--quiet", "--disable-pip-version-check", "--no-compile", "--only-binary", ":all:"]
    _run("pip", "install", *words, "--python-version", version, "--target", str(target), *_requirements())
    for path in sorted(target.rglob("*")):
        inner = path.relative_to(target)
        if path.is_dir() or inner.parts[0] == "bin":
            continue
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


def _replace_main(source: Path, target: Path, versions: Sequence[tuple[int, int]]) -> None:
    """Copy a zip application with our `__main__.py`."""
    text = Path(__file__).with_name("zipapp_main.py").read_text("utf-8")
    main = re.sub(r"(?m)^VERSIONS = .*$", f"VERSIONS = {sorted(versions)!r}", text)
    with target.open("wb") as file, zipfile.ZipFile(source) as old:
        file.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(file, "w") as new:
            for member in old.infolist():
                new.writestr(member, main if member.filename == "__main__.py" else old.read(member))
    target.chmod(0o755)
