"""Real archives are not refused, and are extracted as by GNU tar.

They are had by name through the machine's ordinary package clients, or stand in `REAL_ARCHIVES=DIR`; without either
the test is skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks_lib import archive, formats
from tasks_lib.archive import Reshape
from tasks_lib.fs.directories import remove_tree
from tasks_lib.limits import Limits
from tasks_lib.progress import Silent
from tasks_lib.tree.extraction import Extraction
from tests.test_archive import tree_of

pytestmark = pytest.mark.slow
#: Debian sources of many ages and makers: two archives each, upstream's (gz, bz2, xz) and the packaging's.
SOURCES = (
    "hello sed gzip bzip2 m4 bc units netcat-traditional ncompress cpio patch ed figlet sl lua5.4 zlib giflib tcpdump traceroute "
    "libtest-deep-perl rust-libc golang-github-pkg-errors libcommons-cli-java haskell-mtl r-cran-digest ocaml-findlib dos2unix tree "
    "bsdgames fortune-mod unifdef mawk byacc indent pax libarchive zsh dash"
)  # fmt: skip
BINARIES = "hello sed tzdata libc6"
NPM = "lodash semver left-pad typescript@5.0.2"
WHEELS = "attrs requests numpy==1.26.4"


def run(*words: str | Path, cwd: Path, seconds: int = 240, **environ: str) -> None:
    """Run a package client; packages that are unavailable are omitted."""
    if shutil.which(str(words[0])):
        subprocess.run(
            words, cwd=cwd, env={**os.environ, **environ}, timeout=seconds, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
        )  # fmt: skip


def debian_sources(directory: Path) -> None:
    """Download Debian sources, from where this machine has its packages, with lists of our own."""
    found = [*Path("/etc/apt").glob("sources.list.d/*.sources"), *Path("/etc/apt").glob("sources.list")]
    if not found:
        return
    suffix = ".sources" if found[0].suffix == ".sources" else ".list"
    text = "\n\n".join(path.read_text() for path in found if path.suffix == suffix)
    lines = [
        line.replace("Types: deb", "Types: deb-src", 1) if line == "Types: deb" else line for line in text.splitlines()
    ]
    lines = [f"deb-src{line.removeprefix('deb')}" if line.startswith("deb ") else line for line in lines]
    own = directory / "apt"
    for name in ("lists/partial", "cache/archives/partial", "tmp"):
        (own / name).mkdir(parents=True)
    (own / f"our{suffix}").write_text("\n".join(lines) + "\n")
    options = {
        "Dir::Etc::SourceList": own / f"our{suffix}", "Dir::Etc::SourceParts": "/dev/null", "Dir::State::Lists": own / "lists",
        "Dir::Cache": own / "cache", "APT::Sandbox::User": "root",
    }  # fmt: skip
    words = [f"-o{key}={value}" for key, value in options.items()]
    run("apt-get", *words, "-qq", "update", cwd=directory, TMPDIR=str(own / "tmp"))
    for name in SOURCES.split():  # one by one: a package that is gone takes no other with it
        run(
            "apt-get",
            *words,
            "-qq",
            "source",
            "--download-only",
            name,
            cwd=directory,
            seconds=60,
            TMPDIR=str(own / "tmp"),
        )
    shutil.rmtree(own)


@pytest.fixture(scope="module")
def archives() -> Iterator[list[Path]]:
    """Return the available archives."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(os.environ.get("REAL_ARCHIVES") or name)
        if "REAL_ARCHIVES" not in os.environ:
            debian_sources(directory)
            run("apt-get", "-qq", "download", *BINARIES.split(), cwd=directory)
            run("npm", "pack", "--silent", *NPM.split(), cwd=directory, HOME=name)
            run("pip", "download", "-q", "--no-deps", "--only-binary", ":all:", *WHEELS.split(), cwd=directory)
        paths = sorted(path for path in directory.rglob("*") if kind_of(path))
        if not paths:
            pytest.skip("no archives: no package client has any, and REAL_ARCHIVES names no directory")
        yield paths


def kind_of(path: Path) -> str:
    return formats.format_from_name(path.name) or ("zip" if path.suffix in (".whl", ".jar") else "")


def reference(path: Path, directory: Path) -> None:
    """Extract with the reference program of the format."""
    if kind_of(path) == "zip":
        zipfile.ZipFile(path).extractall(directory)
    elif kind_of(path) == "deb":
        subprocess.run(["dpkg-deb", "-x", path, directory], check=True)
    else:
        subprocess.run(["tar", "-C", directory, "-xf", path], check=True)


def test_equal_to_the_reference(archives: list[Path]) -> None:
    """The extracted tree, and the tree of the repacked archive, equal what GNU tar, dpkg-deb or zipfile extracts."""
    for path in archives:
        with tempfile.TemporaryDirectory() as name:
            base = Path(name)
            compare(path, base)
            for left in base.iterdir():
                if left.is_dir():
                    remove_tree(left)


def compare(path: Path, base: Path) -> None:
    # packages of the system link to absolute paths
    limits = Limits(outward_symlinks="keep" if kind_of(path) == "deb" else "refuse")
    words = {"name": path.name, "format": kind_of(path), "reshape": Reshape(), "limits": limits, "progress": Silent()}
    (base / "reference").mkdir()
    (base / "again").mkdir()
    reference(path, base / "reference")
    with path.open("rb") as file:
        Extraction(base / "out", base / "one.json").extract(file, key="k", **words)  # type: ignore[arg-type]
        file.seek(0)
        with (base / "spool").open("w+b") as spool, (base / "made.tar.zst").open("wb") as made:
            archive.repack(file, mtime=0, spool=spool, write=made.write, **words)  # type: ignore[arg-type]
    subprocess.run(["tar", "--zstd", "-C", base / "again", "-xf", base / "made.tar.zst"], check=True)
    wanted, found, again = (tree_of(base / name) for name in ("reference", "out", "again"))
    assert again == found, path.name
    if kind_of(path) == "zip":  # zipfile drops the executable bit
        wanted, found = ({name: what.lstrip("x-") for name, what in tree.items()} for tree in (wanted, found))
    assert found == wanted, path.name
