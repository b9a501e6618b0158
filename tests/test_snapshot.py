"""The stamp answers a bare doit, and notices every edit."""

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
from tasks_lib.incremental import snapshot as stamps
from tasks_lib.incremental.definition_cache import DefinitionCache
from tasks_lib.incremental.marks import RACY, code_mark, look_at, signs_of
from tasks_lib.incremental.recorder import Recorder
from tests.archives import Member, tar
from tests.origin import Origin, reply
from tests.project import CLEAN, LIBRARY, PORCH, ROOT, TOOL, definition, doit, ran, written

NEW = tar([Member("tool/tool.c", b"int other;")])
DIGEST = hashlib.sha256(LIBRARY).hexdigest()
BUILT = ["toolchain:built"]


@pytest.fixture
def repository(tmp_path: Path, origin: Origin) -> Path:
    """Return a repository where everything is done, and a stamp says so."""
    repack = "    artifact-name: lib.tar.zst\n    strip-components: 1\n    add-prefix: lib/\n"
    files = {
        "dodo.py": PORCH,
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
    """Let another file stand in a file's place, a symlink for None."""
    path.unlink()
    if content is None:
        path.symlink_to("elsewhere")
    else:
        path.write_bytes(content)


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def flip(path: Path) -> None:
    """Change one byte and let every time that can be set be as before."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(before.st_mode & 0o7777)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_nothing_changed(repository: Path) -> None:
    """Right after a run nothing is checked, parsed or asked of the database, and everything is reported as it was."""
    written = stamp(repository).stat().st_mtime_ns
    with closing(sqlite3.connect(repository / "cache/doit.db")) as database:
        database.execute("update tasks set data='{}'")  # whoever asked the database would run everything
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
        PORCH + own + 'DOIT_CONFIG = {**DOIT_CONFIG, "default_tasks": ["own", "toolchain"]}\n'
    )


def _lost_results(repository: Path) -> None:
    shutil.rmtree(repository / "cache/v1/results")
    (repository / "build/built/run.log").unlink()


def _other_selection(repository: Path) -> None:
    (repository / "dodo.py").write_text(PORCH + 'DOIT_CONFIG = {**DOIT_CONFIG, "default_tasks": ["extract:tool"]}\n')


Edit = Callable[[Path], object]
EDITS: dict[str, tuple[Edit, list[str]]] = {
    "output removed": (lambda r: artifact(r, "lib-1.0.tar").unlink(), ["fetch:lib"]),
    "output replaced": (lambda r: replaced(artifact(r, "tool.tar"), b"other"), ["fetch:tool"]),
    "output flipped, times set back": (lambda r: flip(artifact(r, "lib-1.0.tar")), ["fetch:lib"]),
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
    """After an edit exactly what it concerns runs; after that the stamp holds again."""
    change, expected = EDITS[edit]
    origin.answers["/tool.tar"] = reply(NEW if edit == "digest in a definition" else TOOL)
    change(repository)
    assert ran(doit(repository)) == sorted(expected)
    if edit != "own task in dodo.py":
        assert ran(doit(repository)) == []


def test_what_changes_no_answer_is_looked_at_once(repository: Path) -> None:
    """A touched output and a comment in a definition make a check and no work; then the stamp is true again."""
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


def test_a_removed_definition_is_told(repository: Path) -> None:
    """A definition that is needed and gone is an error although nothing else changed."""
    path = repository / "fetchdefs/fetch/all.yml"
    path.write_text(path.read_text().partition("tool:\n")[0])
    done = doit(repository)
    assert done.returncode == 3
    assert "there is no fetch called 'tool'" in done.stdout


@pytest.mark.parametrize("words", [("build=elsewhere",), ("-a",), ("cache=other",)])
def test_other_settings_are_another_question(words: tuple[str, ...], repository: Path) -> None:
    """A stamp for one build directory, cache or way of running says nothing about another."""
    assert "toolchain:user" in ran(doit(repository, *words))


def test_a_lost_database_is_noticed(repository: Path, origin: Origin) -> None:
    """Without its database doit looks at everything, and asks no server."""
    asked = len(origin.requests)
    (repository / "cache/doit.db").unlink()
    assert len(ran(doit(repository))) == 7
    assert len(origin.requests) == asked


@pytest.mark.parametrize("place", ["cache", "cache/v1", "cache/v1/blobs"])
def test_a_stamp_in_a_cache_that_others_can_write(place: str, repository: Path) -> None:
    """A stamp answers only while nobody else may write the cache; else the store is asked, and refuses."""
    (repository / place).chmod(0o777)
    done = doit(repository)
    assert done.returncode == 3
    assert "is not safe" in done.stdout
    (repository / place).chmod(0o755)
    assert ran(doit(repository)) == []


def test_a_damaged_stamp_is_no_stamp(repository: Path) -> None:
    """A flipped byte anywhere makes doit check everything."""
    content = bytearray(stamp(repository).read_bytes())
    content[len(content) // 2] ^= 1
    stamp(repository).write_bytes(content)
    assert ran(doit(repository)) == []
    assert stamp(repository).read_bytes() != bytes(content)


def test_what_failed_stays_open(repository: Path, origin: Origin) -> None:
    """A task that failed is tried again although nothing changed; what stands beside it is not checked."""
    origin.answers["/tool.tar"] = reply(b"no", "404 Not Found")
    _new_version(repository)
    for _ in range(2):
        done = doit(repository, "-c")
        assert done.returncode != 0
        assert "failed: fetch:tool" in done.stdout
    origin.answers["/tool.tar"] = reply(NEW)
    assert ran(doit(repository)) == ["extract:user/tool", "fetch:tool", "toolchain:user"]


def test_other_code_is_noticed(tmp_path: Path) -> None:
    """A stamp by other code is none; and the code is known by every file of it."""
    head = stamps.SnapshotHead("code", "settings", "selection", 1)
    stamps.write(
        tmp_path / "s",
        head,
        DefinitionCache(tmp_path / "l", ""),
        ({}, {}),
        [],
        {"t": stamps.SnapshotRow((), ("/",), (1,))},
        ["t"],
    )
    assert stamps.read(tmp_path / "s", head) is not None
    for other in (("new", "settings", "selection", 1), ("code", "settings", "selection", 2)):
        assert stamps.read(tmp_path / "s", stamps.SnapshotHead(*other)) is None
    shutil.copytree(ROOT / "tasks_lib", tmp_path / "tasks_lib")
    command = [sys.executable, "-c", "from tasks_lib.incremental.marks import code_mark; print(code_mark())"]
    marks = []
    for text in ("", "#\n"):
        append(tmp_path / "tasks_lib/tree/manifest.py", text)
        marks.append(subprocess.check_output(command, cwd=tmp_path, env={**CLEAN, "PYTHONPATH": str(tmp_path)}))
    assert marks[0] != marks[1]
    assert code_mark() == code_mark()


def _stamped(directory: Path, *names: str) -> tuple[Path, stamps.SnapshotHead]:
    """Leave a stamp of one task with these files."""
    time.sleep(2 * RACY_NS / 1e9)
    head, paths = stamps.SnapshotHead("code", "settings", "selection", 1), [str(directory / name) for name in names]
    row = stamps.SnapshotRow((), tuple(paths), look_at(paths))
    stamps.write(directory / "s", head, DefinitionCache(directory / "l", ""), ({}, {}), [], {"t": row}, ["t"])
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
def test_a_second_name_is_looked_at_through_its_directory(edit: str, tmp_path: Path) -> None:
    """A file with two names costs one look, and whatever happens to either name is noticed."""
    change, noticed = SECOND[edit]
    (tmp_path / "blobs").mkdir()
    (tmp_path / "artifact").write_text("1")
    (tmp_path / "blobs/b").hardlink_to(tmp_path / "artifact")
    path, head = _stamped(tmp_path, "artifact", "blobs/b")
    before = stamps.read(path, head)
    assert before is not None
    assert before.first == [str(tmp_path / "artifact")]
    change(tmp_path)
    assert bool(before.changed()) == noticed


@pytest.mark.parametrize("edit", SECOND)
def test_a_second_name_of_the_stamp_before(edit: str, tmp_path: Path) -> None:
    """What the stamp before knew of a second name is not looked at again, and is not believed after any edit."""
    change, noticed = SECOND[edit]
    (tmp_path / "blobs").mkdir()
    (tmp_path / "artifact").write_text("1")
    (tmp_path / "blobs/b").hardlink_to(tmp_path / "artifact")
    before = stamps.read(*_stamped(tmp_path, "artifact", "blobs/b"))
    assert before is not None
    change(tmp_path)
    again = stamps._second_names(dict(zip(before.paths, before.signs, strict=True)), stamps._verified(before))
    first_changed = signs_of(before.first) != before.signs[:1]  # which the next run looks at anyway
    assert (before.paths[1] not in again or first_changed) == noticed


def test_a_directory_that_is_too_young_vouches_for_nothing(tmp_path: Path) -> None:
    """What came into a directory just now could have gone in the same tick: its names are looked at one by one."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "artifact").write_text("1")
    (tmp_path / "blobs/b").hardlink_to(tmp_path / "artifact")
    time.sleep(2 * RACY_NS / 1e9)
    (tmp_path / "blobs/new").write_text("2")
    signs = dict(zip(names := [str(tmp_path / "artifact"), str(tmp_path / "blobs/b")], look_at(names), strict=True))
    assert stamps._second_names(signs, {}) == {names[1]: RACY}


def test_a_file_that_is_too_young_is_not_believed(tmp_path: Path) -> None:
    """Within a tick of the clock a file could change twice: its sign fits to nothing."""
    path = tmp_path / "young"
    path.write_text("1")
    assert Fingerprint.at(path) == UNTRUSTED
    assert look_at([str(path)])[0] == RACY
    time.sleep(2 * RACY_NS / 1e9)
    assert look_at([str(path)]) == tuple(signs_of([str(path)]))
    assert Fingerprint.at(path) == Fingerprint.of(path.stat())
    assert look_at([str(path)], before=path.stat().st_ctime_ns)[0] == RACY


def test_a_clock_that_is_set_back_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run waits for its files to be old enough, and not for the time that the clock had before."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    recorder = Recorder(0)
    recorder.made(Task("made", None))  # type: ignore[no-untyped-call]  # doit has no types
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    recorder.settle()
    assert sum(slept) <= 2 * RACY_NS / 1e9
