"""The wheel and the source distribution: their content, and that they build to the same bytes everywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.project import CLEAN, ROOT

#: How a build environment may differ: umask, time zone, locale, and the name of the directory.
PLACES = {"one": ("022", "UTC0", "C"), "a/longer place": ("077", "XYZ-11", "C.UTF-8")}
BUILD = "from hatchling.build import build_{0} as build; print(build({1!r}))"
NEEDED = ("tasks_lib", "docs", "fetchdefs")


def copied(place: Path, umask: str) -> Path:
    """Copy what a build reads, with the modes of a checkout under an umask and with new times."""
    place.mkdir(parents=True)
    names = [path.name for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]
    for name in names:
        shutil.copyfile(ROOT / name, place / name)
    for name in NEEDED:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, place / name, ignore=ignored, copy_function=shutil.copyfile)
    for path in place.rglob("*"):
        is_executable = path.is_dir() or os.access(ROOT / path.relative_to(place), os.X_OK)
        path.chmod((0o777 if is_executable else 0o666) & ~int(umask, 8))
    return place


def built(kind: str, source: Path, out: Path, place: str) -> Path:
    umask, zone, locale = PLACES[place]
    out.mkdir(exist_ok=True)
    words = ["sh", "-c", f'umask {umask}; exec "$0" "$@"', sys.executable, "-c", BUILD.format(kind, str(out))]
    environ = {**CLEAN, "SOURCE_DATE_EPOCH": "1700000000", "TZ": zone, "LC_ALL": locale}
    done = subprocess.run(words, cwd=source, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_builds_are_reproducible(tmp_path: Path) -> None:
    """Two directories, umasks, time zones and file times give the same bytes; so does a wheel built from the sdist."""
    wheels, sdists = [], []
    for place in PLACES:
        source = copied(tmp_path / place, PLACES[place][0])
        wheels.append(built("wheel", source, tmp_path / f"{place[:1]}-wheel", place))
        sdists.append(built("sdist", source, tmp_path / f"{place[:1]}-sdist", place))
    assert sdists[0].read_bytes() == sdists[1].read_bytes()
    with tarfile.open(sdists[0]) as archive:
        names = {member.name.partition("/")[2] for member in archive}
    (tmp_path / "unpacked").mkdir()
    subprocess.run(["tar", "-xf", sdists[0], "-C", tmp_path / "unpacked"], check=True)
    wheels.append(built("wheel", next((tmp_path / "unpacked").iterdir()), tmp_path / "from-sdist", "one"))
    assert len({wheel.read_bytes() for wheel in wheels}) == 1
    assert {"pyproject.toml", "LICENSE", "README.md", "doit_fetch.py", "fetch-content"} <= names
    with zipfile.ZipFile(wheels[0]) as wheel:
        assert {info.date_time for info in wheel.infolist()} == {(2023, 11, 14, 22, 13, 20)}
        found = {info.filename: info.external_attr >> 16 & 0o777 for info in wheel.infolist()}
    own = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tasks_lib").rglob("*") if path.is_file()}
    own = {name for name in own if "__pycache__" not in name}
    metadata = {name for name in found if name.startswith("doit_fetch-")}
    assert set(found) - metadata == own | {"doit_fetch.py"}
    assert {name.partition(".data/")[2]: found[name] for name in metadata if ".data/" in name} == {
        "scripts/fetch-content": 0o755,
        "data/share/doit-fetch/fetchdefs.schema.json": 0o644,
        "data/share/doit-fetch/mirrors.schema.json": 0o644,
    }
