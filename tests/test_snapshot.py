"""The snapshot of a no-op run: `doit` without arguments uses it, and every edit invalidates it."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from doit.task import Task

from tasks_lib.fs.fingerprint import RACY_NS, UNTRUSTED, Fingerprint
from tasks_lib.incremental import other_names
from tasks_lib.incremental import snapshot as stamps
from tasks_lib.incremental.definition_cache import DefinitionCache
from tasks_lib.incremental.fingerprints import RACY, compute_code_digest, read_fingerprints, read_settled_fingerprints
from tasks_lib.incremental.run_plan import Observations
from tests.archives import Member, tar
from tests.origin import Origin, reply
from tests.project import CLEAN, DODO, LIBRARY, ROOT, TOOL, definition, doit, ran, written

NEW = tar([Member("tool/tool.c", b"int other;")])
DIGEST = hashlib.sha256(LIBRARY).hexdigest()
BUILT = ["toolchain:built"]


@pytest.fixture
def repository(tmp_path: Path, origin: Origin) -> Path:
    """Return a repository where everything is up to date, with a snapshot."""
    repack = "    artifact-name: lib.tar.zst\n    strip-components: 1\n    add-prefix: lib/\n"
    files = {
        "dodo.py": DODO,
        "fetchdefs/fetch/all.yml": definition("lib", f"{origin.url}/lib-1.0.tar", LIBRARY, repack)
        + definition("tool", f"{origin.url}/tool.tar", TOOL),
        "fetchdefs/toolchain/all.yml": "built:\n  description: b\n  fetches: {fetch: [lib]}\n"
        "  run:\n    script: build.sh\n    resources: [words.txt]\n    toolchain-artifact: out.txt\n"
        "user:\n  description: u\n  fetches:\n    fetch: [tool]\n    toolchain: [{artifact: built, extract: false}]\n",
        "fetchdefs/toolchain/build.sh": '#!/bin/sh\ncat lib/lib.h > "$UPLOAD_DIR/out.txt"\n',
        "fetchdefs/toolchain/words.txt": "words",
    }
    written(tmp_path / "r", files)
    time.sleep(2 * RACY_NS / 1e9)
    assert len(ran(doit(tmp_path / "r"))) == 7
    return tmp_path / "r"


def stamp(repository: Path) -> Path:
    return repository / "cache/doit.stamp"


def artifact(repository: Path, name: str) -> Path:
    (found,) = (repository / "cache/artifacts").glob(f"*/*/{name}")
    return found


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def replaced(path: Path, content: bytes | None) -> None:
    """Replace a file by another one, or by a symlink for None."""
    path.unlink()
    if content is None:
        path.symlink_to("elsewhere")
    else:
        path.write_bytes(content)


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def flip(path: Path) -> None:
    """Change one byte and restore all times that can be set."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(before.st_mode & 0o7777)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_nothing_changed(repository: Path) -> None:
    """After a run nothing is checked, parsed or read from the database, and the report is the same."""
    written = stamp(repository).stat().st_mtime_ns
    with closing(sqlite3.connect(repository / "cache/doit.db")) as database:
        database.execute("update tasks set data='{}'")  # a run that asked the database would run everything
        database.commit()
    done = doit(repository)
    assert ran(done) == []
    assert "nothing to do: 7 cached" in done.stdout
    assert done.stdout.count("\n-- ") == 6
    assert stamp(repository).stat().st_mtime_ns == written


def _blob(repository: Path) -> Path:
    return repository / f"cache/v1/blobs/sha256/{DIGEST[:2]}/{DIGEST}"


def _new_version(repository: Path) -> None:
    replace(repository / "fetchdefs/fetch/all.yml", hashlib.sha256(TOOL).hexdigest(), hashlib.sha256(NEW).hexdigest())


def _new_file(repository: Path) -> None:
    (repository / "source").write_bytes(b"here")
    (repository / "fetchdefs/fetch/more.yml").write_text(definition("more", "file:../../source", b"here"))


def _new_toolchain(repository: Path) -> None:
    more = "third:\n  description: t\n  fetches: {fetch: [tool]}\n"
    (repository / "fetchdefs/toolchain/more.yml").write_text(more)


def _own_task(repository: Path) -> None:
    own = 'def task_own():\n    return {"actions": [["true"]]}\n'
    (repository / "dodo.py").write_text(
        DODO + own + 'DOIT_CONFIG = {**DOIT_CONFIG, "default_tasks": ["own", "toolchain"]}\n'
    )


def _lost_results(repository: Path) -> None:
    shutil.rmtree(repository / "cache/v1/results")
    (repository / "build/built/run.log").unlink()


def _other_selection(repository: Path) -> None:
    (repository / "dodo.py").write_text(DODO + 'DOIT_CONFIG = {**DOIT_CONFIG, "default_tasks": ["extract:tool"]}\n')


Edit = Callable[[Path], object]
EDITS: dict[str, tuple[Edit, list[str]]] = {
    "output removed": (lambda r: artifact(r, "lib-1.0.tar").unlink(), ["fetch:lib"]),
    "output replaced": (lambda r: replaced(artifact(r, "tool.tar"), b"other"), ["fetch:tool"]),
    "output flipped, times set back": (lambda r: flip(artifact(r, "lib-1.0.tar")), ["fetch:lib"]),
    "link removed": (lambda r: (r / "build/artifacts/tool/tool.tar").unlink(), ["fetch:tool"]),
    "link replaced": (lambda r: replaced(r / "build/artifacts/tool/tool.tar", None), ["fetch:tool"]),
    "output behind its link flipped": (lambda r: flip(r / "build/artifacts/tool/tool.tar"), ["fetch:tool"]),
    "blob lost": (lambda r: _blob(r).unlink(), ["fetch:lib"]),
    "blob renamed": (lambda r: _blob(r).rename(_blob(r).with_name("aside")), ["fetch:lib"]),
    "blob moved away": (lambda r: _blob(r).rename(r / "aside"), ["fetch:lib"]),
    "blobs moved away": (
        lambda r: (r / "cache/v1/blobs/sha256").rename(r / "aside"),
        ["fetch:lib", "fetch:tool", "repack:lib", "toolchain:built"],
    ),
    "digest in a definition": (_new_version, ["extract:user/tool", "fetch:tool", "toolchain:user"]),
    "new definition file": (_new_file, ["fetch:more"]),
    "new toolchain": (_new_toolchain, ["extract:third/tool", "toolchain:third"]),
    "script edited": (
        lambda r: replace(r / "fetchdefs/toolchain/build.sh", "cat", "cat "),
        ["toolchain:built", "toolchain:user"],
    ),
    "resource edited": (lambda r: flip(r / "fetchdefs/toolchain/words.txt"), ["toolchain:built", "toolchain:user"]),
    "command's environment": (
        lambda r: replace(r / "fetchdefs/toolchain/all.yml", "  run:\n", "  run:\n    env: {A: b}\n"),
        ["toolchain:built", "toolchain:user"],
    ),
    "tree: file removed": (lambda r: (r / "build/user/fetches/tool/tool.c").unlink(), ["extract:user/tool"]),
    "tree: file longer": (
        lambda r: (r / "build/user/fetches/tool/tool.c").write_text("x" * 99),
        ["extract:user/tool"],
    ),
    "tree: other kind": (lambda r: replaced(r / "build/user/fetches/tool/tool.c", None), ["extract:user/tool"]),
    "result of a command": (lambda r: artifact(r, "out.txt").unlink(), BUILT),
    "toolchain's own stamp": (lambda r: (r / "build/built/.prepared.json").unlink(), BUILT),
    "forget": (lambda r: doit(r, "forget", "fetch:lib"), ["fetch:lib"]),
    "clean": (lambda r: doit(r, "clean", "repack:lib"), ["repack:lib"]),
    "ignore and forget": (
        lambda r: (doit(r, "ignore", "fetch:tool"), doit(r, "forget", "fetch:tool")),
        ["fetch:tool"],
    ),
    "results lost": (_lost_results, ["repack:lib", "toolchain:built"]),
    "own task in dodo.py": (_own_task, ["own"]),
    "other default tasks": (_other_selection, ["extract:tool"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("edit", EDITS)
def test_every_edit_is_noticed(edit: str, repository: Path, origin: Origin) -> None:
    """After an edit exactly the affected tasks run; then the snapshot is valid again."""
    change, expected = EDITS[edit]
    origin.answers["/tool.tar"] = reply(NEW if edit == "digest in a definition" else TOOL)
    change(repository)
    assert ran(doit(repository)) == sorted(expected)
    if edit != "own task in dodo.py":
        assert ran(doit(repository)) == []


@pytest.mark.parametrize("way", ["extract: true", "extract: false"])
def test_directory_behind_a_symlink_is_noticed(way: str, tmp_path: Path) -> None:
    """The snapshot notices what the check of an extraction does: a directory above it was moved behind a symlink."""
    (tmp_path / "tool.tar").write_bytes(TOOL)
    toolchain = f"t:\n  description: t\n  fetches: {{fetch: [{{artifact: tool, dest: a/b, {way}}}]}}\n"
    files = {
        "dodo.py": DODO,
        "fetchdefs/fetch/all.yml": definition("tool", (tmp_path / "tool.tar").as_uri(), TOOL),
        "fetchdefs/toolchain/all.yml": toolchain,
    }
    fetches = written(tmp_path / "r", files) / "build/t/fetches"
    ran(doit(tmp_path / "r"))
    for place in (fetches / "a", fetches):
        place.rename(tmp_path / "moved")
        place.symlink_to(tmp_path / "moved")
        done = doit(tmp_path / "r")
        assert f"{place.relative_to(tmp_path / 'r')} is not a directory" in done.stdout
        place.unlink()
        (tmp_path / "moved").rename(place)
        assert doit(tmp_path / "r").returncode == 0


def test_irrelevant_edits_are_checked_once(repository: Path) -> None:
    """A touched output or a comment in a definition causes a check but no work; then the snapshot is valid again."""
    edits: tuple[Callable[[], object], ...] = (
        lambda: os.utime(artifact(repository, "lib-1.0.tar")),
        lambda: append(repository / "fetchdefs/fetch/all.yml", "# a comment\n"),
        lambda: os.utime(repository / "fetchdefs/toolchain/build.sh"),
    )
    for edit in edits:
        before = stamp(repository).stat().st_mtime_ns
        edit()
        time.sleep(2 * RACY_NS / 1e9)
        assert ran(doit(repository)) == []
        between = stamp(repository).stat().st_mtime_ns
        assert between != before
        assert ran(doit(repository)) == []
        assert stamp(repository).stat().st_mtime_ns == between


def test_removed_definition(repository: Path) -> None:
    """Removing a definition that another one needs is an error although nothing else changed."""
    path = repository / "fetchdefs/fetch/all.yml"
    path.write_text(path.read_text().partition("tool:\n")[0])
    done = doit(repository)
    assert done.returncode == 3
    assert "unknown fetch 'tool'" in done.stdout


@pytest.mark.parametrize("words", [("build=elsewhere",), ("-a",), ("cache=other",)])
def test_other_settings(words: tuple[str, ...], repository: Path) -> None:
    """A snapshot is valid only for its build directory, cache and command-line options."""
    assert "toolchain:user" in ran(doit(repository, *words))


def test_lost_database(repository: Path, origin: Origin) -> None:
    """Without its database doit checks everything, and sends no request."""
    asked = len(origin.requests)
    (repository / "cache/doit.db").unlink()
    assert len(ran(doit(repository))) == 7
    assert len(origin.requests) == asked


@pytest.mark.parametrize("place", ["cache", "cache/v1", "cache/v1/blobs"])
def test_cache_that_others_can_write(place: str, repository: Path) -> None:
    """The snapshot is not used if other users can write to the cache; the cache itself then refuses to run."""
    (repository / place).chmod(0o777)
    done = doit(repository)
    assert done.returncode == 3
    assert "is not safe" in done.stdout
    (repository / place).chmod(0o755)
    assert ran(doit(repository)) == []


def test_damaged_snapshot(repository: Path) -> None:
    """A flipped byte anywhere causes a complete check."""
    content = bytearray(stamp(repository).read_bytes())
    content[len(content) // 2] ^= 1
    stamp(repository).write_bytes(content)
    assert ran(doit(repository)) == []
    assert stamp(repository).read_bytes() != bytes(content)


def test_failed_task_is_retried(repository: Path, origin: Origin) -> None:
    """A failed task runs again although nothing changed; the other tasks are not checked."""
    origin.answers["/tool.tar"] = reply(b"no", "404 Not Found")
    _new_version(repository)
    for _ in range(2):
        done = doit(repository, "-c")
        assert done.returncode != 0
        assert "failed: fetch:tool" in done.stdout
    origin.answers["/tool.tar"] = reply(NEW)
    assert ran(doit(repository)) == ["extract:user/tool", "fetch:tool", "toolchain:user"]


def test_changed_code(tmp_path: Path) -> None:
    """A snapshot by other code is ignored; every file of the code counts."""
    head = stamps.SnapshotHead("code", "settings", "selection", 1)
    stamps.write(
        tmp_path / "s",
        head,
        DefinitionCache(tmp_path / "l", ""),
        ({}, {}),
        {"t": stamps.SnapshotRow((), ("/",), (1,))},
        ["t"],
    )
    assert stamps.read(tmp_path / "s", head) is not None
    for other in (("new", "settings", "selection", 1), ("code", "settings", "selection", 2)):
        assert stamps.read(tmp_path / "s", stamps.SnapshotHead(*other)) is None
    shutil.copytree(ROOT / "tasks_lib", tmp_path / "tasks_lib")
    command = [
        sys.executable,
        "-c",
        "from tasks_lib.incremental.fingerprints import compute_code_digest; print(compute_code_digest())",
    ]
    digests = []
    for text in ("", "#\n"):
        append(tmp_path / "tasks_lib/tree/manifest.py", text)
        digests.append(subprocess.check_output(command, cwd=tmp_path, env={**CLEAN, "PYTHONPATH": str(tmp_path)}))
    assert digests[0] != digests[1]
    assert compute_code_digest() == compute_code_digest()


def _stamped(directory: Path, *names: str) -> tuple[Path, stamps.SnapshotHead]:
    """Write a snapshot of one task with these files."""
    time.sleep(2 * RACY_NS / 1e9)
    head, paths = stamps.SnapshotHead("code", "settings", "selection", 1), [str(directory / name) for name in names]
    row = stamps.SnapshotRow((), tuple(paths), read_settled_fingerprints(paths))
    stamps.write(directory / "s", head, DefinitionCache(directory / "l", ""), ({}, {}), {"t": row}, ["t"])
    return directory / "s", head


SECOND: dict[str, tuple[Edit, bool]] = {
    "nothing": (lambda d: d.touch(), False),
    "another file beside it": (lambda d: (d / "blobs/new").write_text("2"), False),
    "renamed": (lambda d: (d / "blobs/b").rename(d / "blobs/c"), True),
    "removed": (lambda d: (d / "blobs/b").unlink(), True),
    "another file in its place": (lambda d: replaced(d / "blobs/b", b"1"), True),
    "written through it": (lambda d: (d / "blobs/b").write_text("2"), True),
    "written through the other": (lambda d: (d / "artifact").write_text("2"), True),
    "its directory gone": (lambda d: (d / "blobs").rename(d / "aside"), True),
    "another directory": (
        lambda d: ((d / "blobs").rename(d / "aside"), shutil.copytree(d / "aside", d / "blobs")),
        True,
    ),
}


@pytest.mark.parametrize("edit", SECOND)
def test_hard_link_is_checked_through_its_directory(edit: str, tmp_path: Path) -> None:
    """A file with two names costs one stat, and a change of either name is noticed."""
    change, noticed = SECOND[edit]
    (tmp_path / "blobs").mkdir()
    (tmp_path / "artifact").write_text("1")
    (tmp_path / "blobs/b").hardlink_to(tmp_path / "artifact")
    path, head = _stamped(tmp_path, "artifact", "blobs/b")
    before = stamps.read(path, head)
    assert before is not None
    assert before.first == os.fsencode(tmp_path / "artifact")
    change(tmp_path)
    changed = before.changed()
    assert bool(changed) == noticed
    assert changed == [
        one for one in (0, 1) if read_fingerprints([before.paths[one]]) != [before.fingerprints[one]]
    ]  # both names


@pytest.mark.parametrize("edit", SECOND)
def test_hard_link_in_the_previous_snapshot(edit: str, tmp_path: Path) -> None:
    """A second name in the previous snapshot is not checked again, and is not trusted after any edit."""
    change, noticed = SECOND[edit]
    (tmp_path / "blobs").mkdir()
    (tmp_path / "artifact").write_text("1")
    (tmp_path / "blobs/b").hardlink_to(tmp_path / "artifact")
    before = stamps.read(*_stamped(tmp_path, "artifact", "blobs/b"))
    assert before is not None
    change(tmp_path)
    again = other_names.find_names(
        dict(zip(before.paths, before.fingerprints, strict=True)), other_names.list_verified_names(before)
    )
    first_changed = (
        read_fingerprints(before.paths[:1]) != before.fingerprints[:1].tolist()
    )  # which the next run looks at anyway
    assert (before.paths[1] not in again or first_changed) == noticed


def _other_target(directory: Path) -> None:
    """Let the link lead to another file with the same content."""
    (directory / "other").write_text("1")
    replaced(directory / "links/l", None)
    (directory / "links/elsewhere").symlink_to("../other")


LINKED: dict[str, tuple[Edit, list[str]]] = {
    "nothing": (lambda d: d.touch(), []),
    "another file beside it": (lambda d: (d / "links/new").write_text("2"), []),
    "link removed": (lambda d: (d / "links/l").unlink(), ["links/l"]),
    "link renamed": (lambda d: (d / "links/l").rename(d / "links/m"), ["links/l"]),
    "a file in its place": (lambda d: replaced(d / "links/l", b"1"), ["links/l"]),
    "leads elsewhere": (_other_target, ["links/l"]),
    "file removed": (lambda d: (d / "files/f").unlink(), ["links/l", "files/f"]),
    "file renamed": (lambda d: (d / "files/f").rename(d / "files/g"), ["links/l", "files/f"]),
    "another file behind it": (lambda d: replaced(d / "files/f", b"1"), ["links/l", "files/f"]),
    "written through it": (lambda d: (d / "links/l").write_text("2"), ["links/l", "files/f"]),
    "flipped, times set back": (lambda d: flip(d / "files/f"), ["links/l", "files/f"]),
    "files moved away": (lambda d: (d / "files").rename(d / "aside"), ["links/l", "files/f"]),
    "links moved away": (lambda d: (d / "links").rename(d / "aside"), ["links/l"]),
}


@pytest.mark.parametrize("edit", LINKED)
def test_link_is_checked_with_its_file(edit: str, tmp_path: Path) -> None:
    """A symlink to a file of the snapshot costs one stat with this file, and a change of either is noticed."""
    change, expected = LINKED[edit]
    for name in ("links", "files"):
        (tmp_path / name).mkdir()
    (tmp_path / "files/f").write_text("1")
    (tmp_path / "links/l").symlink_to("../files/f")
    before = stamps.read(*_stamped(tmp_path, "files/f", "links/l"))
    assert before is not None
    assert (before.first, before.links) == (b"", os.fsencode(tmp_path / "links/l"))
    assert other_names.find_links(before.paths, dict(zip(before.paths, before.fingerprints, strict=True)), before)
    change(tmp_path)
    assert [before.paths[one] for one in before.changed()] == [str(tmp_path / name) for name in expected]


@pytest.mark.parametrize("link", ["../absent", "../other/f", "../elsewhere/f", "/dev/null", ".."])
def test_link_to_no_file_of_the_snapshot(link: str, tmp_path: Path) -> None:
    """Any other symlink is checked by itself: also one that leads through a directory with another name."""
    for name in ("links", "files", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "files/f").write_text("1")
    (tmp_path / "other/f").hardlink_to(tmp_path / "files/f")
    (tmp_path / "elsewhere").symlink_to("other")
    (tmp_path / "links/l").symlink_to(link)
    before = stamps.read(*_stamped(tmp_path, "files/f", "links/l"))
    assert before is not None
    assert before.links == b""
    assert before.changed() == []


def test_link_in_a_directory_with_another_name(tmp_path: Path) -> None:
    """`..` of a link in a directory that is a symlink does not lead to where the path came from."""
    (tmp_path / "real/links").mkdir(parents=True)
    (tmp_path / "links").symlink_to("real/links")
    (tmp_path / "real/f").write_text("1")
    (tmp_path / "f").hardlink_to(tmp_path / "real/f")
    (tmp_path / "links/l").symlink_to("../f")
    before = stamps.read(*_stamped(tmp_path, "f", "links/l"))
    assert before is not None
    assert before.links == b""


@pytest.mark.parametrize("gone", ["", "links/l", "links/m"])
def test_two_links_to_one_file(gone: str, tmp_path: Path) -> None:
    """One of two links to a file is checked with the file, the other by itself."""
    for name in ("links", "files"):
        (tmp_path / name).mkdir()
    (tmp_path / "files/f").write_text("1")
    for name in ("links/l", "links/m"):
        (tmp_path / name).symlink_to("../files/f")
    before = stamps.read(*_stamped(tmp_path, "files/f", "links/l", "links/m"))
    assert before is not None
    assert len(before.paths) == len(before.fingerprints) == 3
    if gone:
        (tmp_path / gone).unlink()
    assert [before.paths[one] for one in before.changed()] == ([str(tmp_path / gone)] if gone else [])


def test_directories_and_missing_files(tmp_path: Path) -> None:
    """A missing file and a directory match while they stay what they are."""
    (tmp_path / "d").mkdir()
    (tmp_path / "f").write_text("1")
    before = stamps.read(*_stamped(tmp_path, "missing", "d", "f"))
    assert before is not None
    (tmp_path / "d/new").write_text("names in it do not matter")
    assert before.changed() == []
    (tmp_path / "missing").write_text("1")
    (tmp_path / "d").rename(tmp_path / "aside")
    assert sorted(before.paths[one] for one in before.changed()) == [str(tmp_path / "d"), str(tmp_path / "missing")]


def _behind_a_symlink(path: Path) -> None:
    """Move a directory, and leave a symlink to it."""
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def _another_directory(path: Path) -> None:
    path.rename(path.with_name("aside"))
    path.mkdir()


def _file_in_place_of(path: Path) -> None:
    path.rmdir()
    path.write_text("1")


DIRECTORIES: dict[str, tuple[Edit, list[str]]] = {
    "nothing": (lambda d: d.touch(), []),
    "a name in it": (lambda d: (d / "top/d/new").write_text("1"), []),
    "a name beside it": (lambda d: (d / "top/new").write_text("1"), []),
    "gone": (lambda d: (d / "top/d").rmdir(), ["top/d"]),
    "another one in its place": (lambda d: _another_directory(d / "top/d"), ["top/d"]),
    "a file in its place": (lambda d: _file_in_place_of(d / "top/d"), ["top/d"]),
    "behind a symlink": (lambda d: _behind_a_symlink(d / "top/d"), ["top/d"]),
    "the one above it behind a symlink": (lambda d: _behind_a_symlink(d / "top"), ["top"]),
}


@pytest.mark.parametrize("edit", DIRECTORIES)
def test_directory_is_checked_through_the_one_above(edit: str, tmp_path: Path) -> None:
    """A directory costs no stat while that above it has the same names; the next snapshot trusts it no more than that."""
    change, noticed = DIRECTORIES[edit]
    (tmp_path / "top/d").mkdir(parents=True)
    (tmp_path / "top/f").write_text("1")
    before = stamps.read(*_stamped(tmp_path, "top", "top/d", "top/f"))
    assert before is not None and before.first == os.fsencode(tmp_path / "top/f")
    known, marks = other_names.list_verified_names(before), dict(zip(before.paths, before.fingerprints, strict=True))
    change(tmp_path)
    assert [before.paths[one] for one in before.changed()] == [str(tmp_path / one) for one in noticed]
    assert {*marks} - {*other_names.find_names(marks, known)} == {str(tmp_path / one) for one in ("top/f", *noticed)}


def test_too_recent_directory(tmp_path: Path) -> None:
    """A directory that changed within a clock tick is not trusted: its names are checked one by one."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "artifact").write_text("1")
    (tmp_path / "blobs/b").hardlink_to(tmp_path / "artifact")
    time.sleep(2 * RACY_NS / 1e9)
    (tmp_path / "blobs/new").write_text("2")
    fingerprints = dict(
        zip(
            names := [str(tmp_path / "artifact"), str(tmp_path / "blobs/b")],
            read_settled_fingerprints(names),
            strict=True,
        )
    )
    assert other_names.find_names(fingerprints, {}) == {names[1]: RACY}


def test_directory_from_the_future(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that changed before the clock was set back is never trusted: another one in its place is noticed."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "artifact").write_text("1")
    (tmp_path / "blobs/b").hardlink_to(tmp_path / "artifact")
    names = [str(tmp_path / "artifact"), str(tmp_path / "blobs/b")]
    time.sleep(2 * RACY_NS / 1e9)
    row = stamps.SnapshotRow((), tuple(names), read_settled_fingerprints(names))
    head = stamps.SnapshotHead("code", "settings", "selection", 1)
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    stamps.write(tmp_path / "s", head, DefinitionCache(tmp_path / "l", ""), ({}, {}), {"t": row}, ["t"])
    before = stamps.read(tmp_path / "s", head)
    assert before is not None and before.directories == {str(tmp_path / "blobs"): [RACY, 1]}
    assert before.changed() == []
    (tmp_path / "blobs").rename(tmp_path / "aside")
    shutil.copytree(tmp_path / "aside", tmp_path / "blobs")
    assert [before.paths[one] for one in before.changed()] == [names[1]]


def test_file_from_before_1970(tmp_path: Path) -> None:
    """A file with a negative time is checked in each run; a snapshot has no room for its sign."""
    (tmp_path / "old").write_text("1")
    row = stamps.SnapshotRow((), (str(tmp_path / "old"),), (-5,))
    head = stamps.SnapshotHead("code", "settings", "selection", 1)
    stamps.write(tmp_path / "s", head, DefinitionCache(tmp_path / "l", ""), ({}, {}), {"t": row}, ["t"])
    before = stamps.read(tmp_path / "s", head)
    assert before is not None and before.changed() == [0]


def test_too_recent_file(tmp_path: Path) -> None:
    """A file may change twice within a clock tick: its fingerprint matches nothing."""
    path = tmp_path / "young"
    path.write_text("1")
    assert Fingerprint.at(path) == UNTRUSTED
    assert read_settled_fingerprints([str(path)])[0] == RACY
    time.sleep(2 * RACY_NS / 1e9)
    assert read_settled_fingerprints([str(path)]) == tuple(read_fingerprints([str(path)]))
    assert Fingerprint.at(path) == Fingerprint.of(path.stat())
    assert read_settled_fingerprints([str(path)], before=path.stat().st_ctime_ns)[0] == RACY


def test_clock_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run waits until its files are old enough, but not until the clock reaches a time from before it was set back."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    seen = Observations(0)
    seen.note_made(Task("made", None))  # type: ignore[no-untyped-call]  # doit has no types
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    seen.settle()
    assert sum(slept) <= 2 * RACY_NS / 1e9


def _planted(path: Path) -> None:
    """Give a file to another user, as if that user had written it."""
    os.chown(path, 65534, 65534)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_snapshot_of_another_user_is_not_believed(repository: Path) -> None:
    """What another user planted while the cache was open to all is neither read nor used afterwards."""
    cache = repository / "cache"
    stamp(repository).chmod(0o666)
    assert ran(doit(repository)) == []
    assert stamp(repository).stat().st_mode & 0o777 == 0o644  # not believed, and written again
    (published,) = (repository / "cache/artifacts").glob("*/*/tool.tar")
    content = published.read_bytes()
    shutil.move(cache / "artifacts", cache / "gone")
    published.parent.mkdir(parents=True)
    published.write_bytes(b"EVIL")
    for planted in (stamp(repository), cache / "doit.db", next(cache.glob("definitions-*")), cache / "artifacts"):
        _planted(planted)
    cache.chmod(0o777)
    refused = doit(repository)
    assert refused.returncode == 3 and "all users can write to it" in refused.stdout
    cache.chmod(0o755)
    done = doit(repository)
    assert done.returncode == 0, done.stdout
    assert "artifacts is not used, because it is owned by user 65534" in done.stdout
    assert "doit.db (it is owned by user 65534, not by user 0)" in done.stdout
    assert published.read_bytes() == content and published.parent.parent.parent.stat().st_uid == 0
    assert [path.read_bytes() for path in cache.glob("artifacts.untrusted-*/*/*/*")] == [b"EVIL"]
    assert "nothing to do" in doit(repository).stdout
