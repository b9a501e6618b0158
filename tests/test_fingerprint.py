"""Fingerprints: evidence that a file is unchanged, without reading it."""

from __future__ import annotations

import ast
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks_lib.fs.fingerprint import (
    ABSENT,
    RACY_NS,
    UNTRUSTED,
    Fingerprint,
    compact_fingerprint,
    copy_stable,
    is_mtime_at_most,
    is_racy,
    settled_fingerprint,
)
from tasks_lib.incremental.fingerprints import are_unchanged
from tasks_lib.progress import Silent
from tasks_lib.tree.extraction import Extraction
from tests.test_architecture import MODULES, name_of


def rewritten(path: Path) -> None:
    """Write other content of the same size and set mtime back, as an archiver or `touch -r` does."""
    before = path.stat()
    path.write_text("x" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def swapped(path: Path) -> None:
    """Replace a file by another one with the same content."""
    other = path.with_name("other")
    shutil.copy2(path, other)
    other.replace(path)


#: what happens to a file -> whether the fingerprint, its link-stable and its copy-stable part notice
EVENTS: dict[str, tuple[Callable[[Path], object], tuple[bool, bool, bool]]] = {
    "nothing": (lambda path: path.read_text(), (False, False, False)),
    "written": (lambda path: path.write_text("longer"), (True, True, True)),
    "written, its size and time as before": (rewritten, (True, False, False)),
    "linked": (lambda path: path.with_name("link").hardlink_to(path), (True, False, False)),
    "copied over": (swapped, (True, True, False)),
    "touched": (lambda path: os.utime(path, ns=(1, 1)), (True, True, True)),
    "another mode": (lambda path: path.chmod(0o600), (True, False, False)),
}


@pytest.mark.parametrize("event", EVENTS)
def test_what_is_noticed(event: str, tmp_path: Path) -> None:
    """A fingerprint notices every change; each field notices exactly the documented ones."""
    happen, noticed = EVENTS[event]
    path = tmp_path / "file"
    path.write_text("text")
    time.sleep(2 * RACY_NS / 1e9)
    before, status = Fingerprint.at(path), path.stat()
    happen(path)
    after = Fingerprint.of(path.stat())
    copied = copy_stable(path.stat()) != copy_stable(status)
    assert (after != before, after.link_stable != before.link_stable, copied) == noticed
    assert (compact_fingerprint(path.stat()) != compact_fingerprint(status)) == (not before.is_at(path)) == noticed[0]


def test_every_field_counts(tmp_path: Path) -> None:
    """Definitions are parsed again when any field differs, also the device."""
    time.sleep(2 * RACY_NS / 1e9)
    kept = Fingerprint.at(tmp_path)
    if kept == UNTRUSTED:
        time.sleep(2 * RACY_NS / 1e9)
        kept = Fingerprint.at(tmp_path)
    assert are_unchanged({str(tmp_path): kept}, [tmp_path])
    for field in Fingerprint._fields:
        other = kept._replace(**{field: getattr(kept, field) + 1})
        assert not are_unchanged({str(tmp_path): other}, [tmp_path]), field


def test_what_is_absent(tmp_path: Path) -> None:
    """The absence of a file is recorded, and is invalid once the file exists."""
    path = tmp_path / "file"
    assert Fingerprint.at(path) == ABSENT
    assert ABSENT.is_at(path)
    path.touch()
    assert not ABSENT.is_at(path)


def test_what_is_racy(tmp_path: Path) -> None:
    """A file that may change again within the same clock tick is trusted neither now nor later."""
    path = tmp_path / "file"
    path.touch()
    status = path.stat()
    assert Fingerprint.at(path) == UNTRUSTED
    assert not UNTRUSTED.is_at(path)
    assert is_racy(status, status.st_ctime_ns + RACY_NS)
    assert not is_racy(status, status.st_ctime_ns + RACY_NS + 1)
    assert is_racy(status, 0), "a clock that was set back"
    assert is_mtime_at_most(status, status.st_mtime_ns)
    assert not is_mtime_at_most(status, status.st_mtime_ns - 1)


def test_a_file_settles(tmp_path: Path) -> None:
    """The fingerprint of an open file is taken when it is no longer racy."""
    with (tmp_path / "file").open("w+b") as file:
        found = settled_fingerprint(file.fileno())
        assert not is_racy(os.fstat(file.fileno()), time.time_ns())
        assert found == Fingerprint.of(os.fstat(file.fileno()))


@pytest.mark.slow
def test_one_notion() -> None:
    """Only one module reads change times, so that there is one definition of an unchanged file."""
    users = {
        name_of(path)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr.startswith("st_ctime")
    }
    assert users == {"fs/fingerprint.py"}


def test_a_record_that_changed_in_place(tmp_path: Path) -> None:
    """A process that waited for an extraction notices a new manifest even with the same inode: systems reuse numbers."""
    slot = Extraction(tmp_path / "tree", tmp_path / ".records/tree.json")
    slot.record.parent.mkdir()
    slot.record.write_text("{}\n")
    printed: list[bool] = []

    class Waits(Silent):
        def phase(self, name: str, **facts: str | int | float) -> None:
            assert name == "wait" and "holder" in facts
            waits.set()

    def second() -> None:
        with slot.held(Waits()) as changed:
            printed.append(changed)

    waits = threading.Event()
    with slot.held(Silent()):
        thread = threading.Thread(target=second)
        thread.start()
        waits.wait()
        slot.record.write_text('{"key": "k"}\n')
    thread.join()
    assert printed == [True]
