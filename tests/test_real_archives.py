"""Real archives are not refused: what GNU tar makes of them is what we make of them."""

from __future__ import annotations

import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from tasks_lib import archive
from tasks_lib.archive import Limits, Reshape
from tasks_lib.progress import Silent
from tasks_lib.tree import Slot
from tests.test_archive import tree_of

pytestmark = pytest.mark.slow
#: A directory with archives, found at any depth.
DIRECTORY = os.environ.get("REAL_ARCHIVES", "")
FOUND = sorted(path for path in Path(DIRECTORY).rglob("*") if archive.format_for(path.name)) if DIRECTORY else []


@pytest.mark.skipif(not FOUND, reason="REAL_ARCHIVES names no directory with archives")
@pytest.mark.parametrize("path", FOUND, ids=lambda path: str(path.name))
def test_equal_to_the_reference(path: Path, tmp_path: Path) -> None:
    """The extracted tree, and the tree of the repacked archive, equal what GNU tar (or zipfile) extracts."""
    kind = archive.format_for(path.name) or ""
    reference, again = tmp_path / "reference", tmp_path / "again"
    reference.mkdir()
    if kind == "zip":
        zipfile.ZipFile(path).extractall(reference)
    else:
        subprocess.run(["tar", "-C", reference, "-xf", path], check=True)
    words = {"name": path.name, "format": kind, "reshape": Reshape(), "limits": Limits(), "progress": Silent()}
    with path.open("rb") as file:
        Slot(tmp_path / "out", tmp_path / "one.json").extract(file, key="k", **words)  # type: ignore[arg-type]
        file.seek(0)
        with (tmp_path / "spool").open("w+b") as spool, (tmp_path / "made.tar.zst").open("wb") as made:
            archive.repack(file, spool=spool, write=made.write, **words)  # type: ignore[arg-type]
    again.mkdir()
    subprocess.run(["tar", "--zstd", "-C", again, "-xf", tmp_path / "made.tar.zst"], check=True)
    wanted, found = tree_of(reference), tree_of(tmp_path / "out")
    if kind == "zip":  # zipfile drops the executable bit
        wanted, found = ({name: what.lstrip("x-") for name, what in tree.items()} for tree in (wanted, found))
        assert found == wanted
    else:
        assert found == wanted
        assert tree_of(again) == wanted
