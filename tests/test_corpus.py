"""Every archive of the corpus has its exact tree or its clean refusal, in this process and with the real program."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks_lib import archive
from tasks_lib.archive import Reshape
from tasks_lib.errors import ArchiveError
from tasks_lib.fs.directories import remove_tree
from tasks_lib.limits import Limits
from tasks_lib.progress import Silent
from tasks_lib.tree.extraction import Extraction
from tests.archives import Member, tar
from tests.cases import ZST, Case, Tree
from tests.corpus import CASES
from tests.project import DODO, PYTHONPATH

ROOT = Path(__file__).parent.parent
LIMITS = Limits(max_total_bytes=8 << 20, max_entries=1000, max_metadata_bytes=1 << 16, max_names_bytes=3 << 20)
ENVIRON = {
    "FETCH_MAX_TOTAL_BYTES": str(8 << 20),
    "FETCH_MAX_ENTRIES": "1000",
    "FETCH_MAX_METADATA_BYTES": "65536",
    "FETCH_MAX_NAMES_BYTES": str(3 << 20),
}
REFUSAL = re.compile(r"([^ :]+):(?: entry '.*')? \(offset \d+\): .+ \[([A-Z0-9_]+)\]")
NOBODY = 65534


def leaves(root: Path) -> Tree:
    """Return the tree below `root` as in `Case`; only empty directories are listed."""
    found: Tree = {}
    for directory, directories, files in os.walk(os.fsencode(root)):
        for name in directories + files:
            path = os.path.join(directory, name)  # noqa: PTH118 - names are bytes
            text = os.fsdecode(os.path.relpath(path, os.fsencode(root)))
            mode = os.lstat(path).st_mode
            if os.path.islink(path):  # noqa: PTH114 - the same
                found[text] = f"-> {os.fsdecode(os.readlink(path))}"  # noqa: PTH115 - the same
                continue
            assert not mode & 0o7022, text
            if name in files:
                with open(path, "rb") as file:  # noqa: PTH123 - the same
                    found[text] = (b"x" if mode & 0o100 else b"") + file.read()
            elif not os.listdir(path):  # noqa: PTH208 - the same
                found[text] = "/"
    return found


def wanted(tree: Tree) -> Tree:
    """Return the tree without directories that are not empty."""
    return {path: what for path, what in tree.items() if what != "/" or not any(o.startswith(f"{path}/") for o in tree)}


def stripped(tree: Tree) -> Tree | None:
    """Return the tree with one leading component less; None when a file or link would vanish."""
    if any("/" not in path and what != "/" for path, what in tree.items()):
        return None
    return {path.partition("/")[2]: what for path, what in tree.items() if "/" in path}


#: What is left of those whose names begin with a dot: that is the component that goes.
DOTTED: dict[str, Tree] = {
    "tar-dot-prefix": {"a/b": b"x", "a/c": b"y"},
    "tar-duplicate-directory": {"d": "/", "x": b"x"},
}


def extract(data: bytes, kind: str, destination: Path, options: dict[str, Any]) -> None:
    slot = Extraction(destination, destination.parent / "records" / "one.json")
    limits = LIMITS._replace(**options)
    slot.extract(io.BytesIO(data), name="a", format=kind, reshape=Reshape(), limits=limits, key="k", progress=Silent())
    assert slot.holds("k")


@pytest.mark.parametrize("name", CASES)
def test_exact_or_refused(name: str, tmp_path: Path) -> None:
    """The tree is exactly that of the archive; or the archive is refused with its code, and nothing changes."""
    case = CASES[name]
    data = case.make()
    if not case.code:
        extract(data, case.kind, tmp_path / "out", case.options)
        assert leaves(tmp_path / "out") == wanted(case.tree)
    else:
        (tmp_path / "records").mkdir()
        with pytest.raises(ArchiveError) as caught:
            extract(data, case.kind, tmp_path / "out", case.options)
        said = REFUSAL.fullmatch(caught.value.message)
        assert said, str(caught.value)
        assert said[2] in case.code.split(), str(caught.value)
        assert all(map(str.isprintable, str(caught.value).splitlines()))
        assert {path.name for path in tmp_path.rglob("*")} <= {"records", ".lock"}
    remove_tree(tmp_path)  # pytest's own removal gives up at such depths


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_repacked_the_same(name: str, tmp_path: Path) -> None:
    """An archive that can be extracted can be repacked reproducibly to the same tree; a refused one is refused again."""
    case = CASES[name]
    options: dict[str, Any] = case.options
    limits = LIMITS._replace(**options)

    def repacked(data: bytes, kind: str) -> bytes:
        made = io.BytesIO()
        archive.repack(
            io.BytesIO(data), name="a", format=kind, reshape=Reshape(), limits=limits, mtime=0, spool=io.BytesIO(),
            write=made.write, progress=Silent(),
        )  # fmt: skip
        return made.getvalue()

    if case.code:
        with pytest.raises(ArchiveError) as caught:
            repacked(case.make(), case.kind)
        assert caught.value.code in case.code.split()
        return
    made = repacked(case.make(), case.kind)
    assert repacked(made, "tar.zst") == made
    extract(made, "tar.zst", tmp_path / "out", case.options)
    assert leaves(tmp_path / "out") == wanted(case.tree)
    remove_tree(tmp_path)


def test_every_code_is_documented_and_tried() -> None:
    """The codes of the source, of docs/archives.md and of the corpus are the same."""
    source = "".join(path.read_text() for path in (ROOT / "tasks_lib/archive").glob("*.py"))
    codes = set(re.findall(r'"([A-Z][A-Z0-9_]{2,})"', source)) - {
        "ARCHIVE_VARIABLES",
        "BINARY",
        "FORMAT",
        "HOLE",
        "LC_ALL",
        "NFKD",
    }
    documented = set(re.findall(r"\b[A-Z][A-Z0-9_]{2,}\b", (ROOT / "docs/archives.md").read_text()))
    assert not codes - documented
    assert codes - {"STRIPPED", "SIZE", "MORE_FORMATS", "TIME"} == {
        code for case in CASES.values() for code in case.code.split()
    }


OPTION = re.compile(r"set `([a-z-]+): (\w+)` under `(fetch|archive):`")
OTHER_FORMAT = re.compile(r"set `format: ([a-zA-Z0-9.]+)` in its definition")
#: Codes with an option, and how it is written.
LIFTED = {
    "DUPLICATE": "duplicates: last", "SYMLINK_ABSOLUTE": "outward-symlinks: keep", "SYMLINK_OUTSIDE": "outward-symlinks: keep",
    "CASE_TWIN": "case-twins: keep", "NAME_CONTROL": "control-names: keep", "LINK_TARGET": "control-names: keep",
    "TRAILING_GARBAGE": "trailing: ignore", "TRUNCATED": "trailing: ignore", "NO_END": "end: missing",
    "ZIP_BACKSLASH": "zip-backslash: separator", "ZIP_TILING": "zip-prefix: ignore",
    "PATH_TOO_LONG": "max-path-bytes: 4220", "COMPONENT_TOO_LONG": "max-component-bytes: 256", "TOO_DEEP": "max-depth: 257",
    "WINDOW": "zstd-max-window-log: 28", "METADATA_TOO_LARGE": "max-metadata-bytes: 41943041",
}  # fmt: skip
#: Codes of limits whose necessary value is not known.
RAISED = {
    "TOO_LARGE": "max-total-bytes", "TOO_MANY_ENTRIES": "max-entries", "DICTIONARY": "xz-memlimit-mib",
    "NAMES_TOO_LARGE": "max-names-bytes",
}  # fmt: skip


def read_content(entry: archive.Entry) -> None:
    for _ in entry.chunks:
        pass


def refusal(case: Case, options: dict[str, Any]) -> tuple[str, str]:
    """Return code and hint of a refusal, empty if the archive is accepted."""
    try:
        archive.read(
            io.BytesIO(case.make()), name="a", format=case.kind, reshape=Reshape(), limits=LIMITS._replace(**options),
            sink=read_content,
        )  # fmt: skip
    except ArchiveError as error:
        return error.code, error.hint
    return "", ""


@pytest.mark.slow
def test_hints_lift_refusals() -> None:
    """A hint names an option with its value, and that option lifts the refusal or leads to another one."""
    named: dict[str, set[str]] = {}
    for name, case in CASES.items():
        if not case.code or "bomb" in name:
            continue
        code, hint = refusal(case, case.options)
        if other := OTHER_FORMAT.search(hint):
            assert refusal(replace(case, kind=other[1]), case.options) != (code, hint), name
            continue
        found = OPTION.search(hint)
        if found is None:
            assert not hint or RAISED.get(code, "?") in hint, name
            named.setdefault(code, set()).update({RAISED[code]} if code in RAISED else ())
            continue
        named.setdefault(code, set()).add(f"{found[1]}: {found[2]}")
        value = int(found[2]) if found[2].isdigit() else found[2]
        option = {found[1].replace("-", "_"): value}
        assert refusal(case, case.options | option) != (code, hint), name
    assert {code for code, hint in (LIFTED | RAISED).items() if hint not in named.get(code, ())} == set()


def test_zstd_cut_anywhere() -> None:
    """A truncated zstd frame is never accepted as complete."""
    plain = tar([Member("a", bytes(range(256)) * 8)])
    for data in (ZST(plain), ZST(plain[:1000]) + ZST(plain[1000:])):
        for size in range(len(data)):
            with pytest.raises(ArchiveError):
                archive.read(
                    io.BytesIO(data[:size]), name="a", format="tar.zst", reshape=Reshape(), limits=LIMITS, sink=list[object]().append
                )  # fmt: skip


# --- through the real program


@pytest.fixture
def directory(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Return a directory on the requested file system that all users can access."""
    with tempfile.TemporaryDirectory(dir=request.param if Path(request.param).is_dir() else None) as name:
        path = Path(name)
        path.chmod(0o1777)
        yield path
        for left in path.iterdir():
            remove_tree(left)


def definition_keys(options: dict[str, str]) -> str:
    """Return the lines of a definition that set these options."""
    permits = {name: value for name, value in options.items() if name in ("trailing", "end")}
    lines = [f"    {name.replace('_', '-')}: {value}\n" for name, value in options.items() if name not in permits]
    return "".join(lines) + (f"    archive: {json.dumps(permits)}\n" if permits else "")


def repository(directory: Path, strip: int) -> None:
    """Write the whole corpus with its definitions; `strip` creates `repack:` tasks."""
    (directory / "fetchdefs/fetch").mkdir(parents=True)
    (directory / "dodo.py").write_text(DODO)
    definitions = []
    for number, case in enumerate(CASES.values()):
        data = case.make()
        (directory / f"{number}.{case.kind}").write_bytes(data)
        definitions.append(
            f"c{number}:\n  description: d\n  fetch:\n    type: static-url\n    url: file:../../{number}.{case.kind}\n"
            f"    sha256: {hashlib.sha256(data).hexdigest()}\n    size: {len(data)}\n"
            + (f"    strip-components: {strip}\n    artifact-name: {number}.tar.zst\n" if strip else "")
            + definition_keys(case.options)
        )
    (directory / "fetchdefs/fetch/all.yml").write_text("".join(definitions))


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become someone else")
@pytest.mark.parametrize(
    ("directory", "user", "umask", "strip"),
    [("/dev/shm", 0, 0o000, 0), ("/var/tmp", NOBODY, 0o077, 0), ("/dev/shm", NOBODY, 0o000, 1), ("/var/tmp", 0, 0o077, 1)],
    indirect=["directory"],
)  # fmt: skip
def test_through_the_program(directory: Path, user: int, umask: int, strip: int) -> None:
    """The real program does the same for root and for nobody, with any umask, on tmpfs and on disk, stripped or not."""
    home = directory / "home"
    home.mkdir()
    repository(home, strip)
    for path in (home, *home.rglob("*")):
        os.chown(path, user, user)
    # he may read whatever root may, since Python itself can stand below /root; he may write nothing but his own
    become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    become += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"] if user else []
    done = subprocess.run(
        [*become, sys.executable, "-m", "doit", "-c", "-n", "2", "extract:*"],
        cwd=home, env={"PATH": os.environ["PATH"], "PYTHONPATH": PYTHONPATH, "HOME": str(home), **ENVIRON},
        umask=umask, capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "Traceback" not in said
    assert all(line.isprintable() for line in said.splitlines())
    refusals = {match[1]: match[2] for line in said.splitlines() if (match := REFUSAL.fullmatch(line.strip()))}
    extracted = home / "build/extracted"
    for number, (name, case) in enumerate(CASES.items()):
        code = refusals.get(f"{number}.{case.kind}", "")
        tree = DOTTED.get(name, stripped(case.tree)) if strip else case.tree
        if case.code or tree is None:
            expected = [*case.code.split(), *(["STRIPPED"] if strip else [])]
            assert code in expected, f"{name}: {code or 'not refused'}"
            assert not os.path.lexists(extracted / f"c{number}"), name
        elif case.kind != "zip" or case.make():
            assert not code, f"{name}: {code}"
            assert leaves(extracted / f"c{number}") == wanted(tree), name
    assert {path.name for path in extracted.iterdir()} <= {".records", *(f"c{number}" for number in range(len(CASES)))}
    assert not [
        path for path in (home / "cache").rglob("*") if path.name.endswith(".part") or path.parent.name == "tmp"
    ]
    assert {path.name for path in directory.iterdir()} == {"home"}
