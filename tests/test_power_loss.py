"""After a power loss: files that were not synced are truncated or missing, and nothing trusts them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import sqlite3
import struct
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tasks_lib.errors import TreeError
from tasks_lib.fs import system_calls
from tasks_lib.fs.directories import remove_tree
from tasks_lib.progress import Silent
from tasks_lib.tree.extraction import Extraction
from tests.archives import Member
from tests.project import definition, doit, ran
from tests.test_cache_faults import BIG, TREE, Farm, mounted, planted, root_only
from tests.test_tree import extract


@pytest.fixture
def farm(tmp_path: Path) -> Farm:
    return planted(tmp_path)


def booted(place: Path, identity: str) -> tuple[str, ...]:
    """Return the words before a program that let it believe that the machine was started as `identity`.

    Where the start of the first process is asked for instead, every other identity is a new first process.
    """
    if not system_calls.FEATURES.proc:
        same = identity == Path("/proc/sys/kernel/random/boot_id").read_text()
        return () if same else ("unshare", "--fork", "--pid", "--mount-proc")
    (place / "boot_id").write_text(identity)
    script = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'
    return ("unshare", "-m", "sh", "-c", script, str(place / "boot_id"))


@root_only
@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is not installed")
def test_no_stamp_outlives_a_boot(farm: Farm, tmp_path: Path) -> None:
    """The snapshot of a no-op run is valid until the machine restarts; then every task is checked."""
    farm.succeed()
    assert ran(farm.doit()) == []
    with closing(sqlite3.connect(farm.cache / "doit.db")) as database:
        database.execute("update tasks set data='{}'")  # a run that trusts the database runs everything
        database.commit()

    same = Path("/proc/sys/kernel/random/boot_id").read_text()
    assert ran(farm.doit(before=booted(tmp_path, same))) == []
    assert ran(farm.doit(before=booted(tmp_path, "another\n")))


@pytest.mark.parametrize("name", ["lib/lib.h", "lib/big", "big.bin"])
@pytest.mark.parametrize("how", ["short", "gone"])
def test_what_is_torn_is_delivered_again(farm: Farm, name: str, how: str) -> None:
    """A truncated or missing file, extracted or placed, is noticed by the next run."""
    farm.succeed()
    path = farm.top / "build/kit/fetches" / name
    right = path.read_bytes()
    if how == "short":
        os.truncate(path, 0)
    else:
        path.unlink()
    farm.succeed()
    assert path.read_bytes() == right


@pytest.mark.parametrize("task", ["extract:kit/lib", ""])
def test_no_command_works_on_a_torn_tree(farm: Farm, task: str, tmp_path: Path) -> None:
    """A damaged tree is extracted again before a command has used it; afterwards it belongs to the command."""
    toolchain = farm.top / "fetchdefs/toolchain"
    (toolchain / "make.sh").write_text('#!/bin/sh\ncat lib/lib.h tool > "$UPLOAD_DIR/out"\n: > lib/lib.h\n')
    (toolchain / "make.sh").chmod(0o755)
    (tmp_path / "tool").write_bytes(b"tool")
    (farm.top / "fetchdefs/fetch/tool.yml").write_text(definition("tool", f"file://{tmp_path}/tool", b"tool"))
    (toolchain / "a.yml").write_text(
        "kit:\n  description: k\n  fetches: {fetch: [lib, {artifact: tool, extract: false}]}\n"
        "  run: {script: make.sh, toolchain-artifact: out}\n"
    )
    torn = farm.top / "build/kit/fetches/lib/lib.h"
    ran(doit(farm.top, *([task] if task else [])))
    if task:
        os.truncate(torn, 0)
        assert task in ran(doit(farm.top))
    (made,) = farm.cache.glob("artifacts/kit/*/out")
    assert made.read_bytes() == TREE["lib/lib.h"] + b"tool"
    assert torn.read_bytes() == b""  # as the command left it
    assert ran(doit(farm.top)) == []


@pytest.fixture
def slot(tmp_path: Path) -> Extraction:
    return Extraction(tmp_path / "out", tmp_path / "records" / "one.json")


@pytest.mark.parametrize("size", [0, 60, -1])
@pytest.mark.parametrize("place", ["one.json", "one.moving"])
def test_a_torn_record(place: str, size: int, slot: Extraction) -> None:
    """After a power loss a manifest may be truncated: its entries are still recognised, and foreign ones stay."""
    slot.destination.mkdir()
    (slot.destination / "other").write_bytes(b"of others")
    second = Extraction(slot.destination, slot.record.with_name("two.json"))
    extract(slot, Member("a", b"1"), Member("d/b", b"2"))
    extract(second, Member("d/c", b"3"))
    torn = slot.record.with_name(place)
    slot.record.rename(torn)
    os.truncate(torn, size if size >= 0 else torn.stat().st_size - 1)
    assert not slot.holds("k")
    if torn == slot.record:
        slot.invalidate(Silent())
    slot.clear(Silent())
    extract(slot, Member("a", b"4"), Member("d/b", b"5"), key="new")
    assert slot.holds("new")
    assert second.holds("k")
    assert (slot.destination / "other").read_bytes() == b"of others"
    assert (slot.destination / "a").read_bytes() == b"4"
    assert {path.name for path in slot.record.parent.iterdir()} >= {"one.json", "two.json"}
    assert not slot.record.with_name("one.moving").exists()
    with pytest.raises(TreeError, match=r"puts 'other' into .*, where it already exists"):
        extract(slot, Member("other", b"1"), key="third")


@pytest.mark.parametrize("size", [0, 60, -1])
def test_a_torn_record_of_a_directory_of_its_own(size: int, slot: Extraction) -> None:
    """The same without foreign entries."""
    extract(slot, Member("a", b"1"), Member("d/b", b"2"))
    os.truncate(slot.record, size if size >= 0 else slot.record.stat().st_size - 1)
    (slot.destination / "a").unlink()
    extract(slot, Member("a", b"1"), Member("d/b", b"2"))
    assert slot.holds("k")
    os.truncate(slot.record, size if size >= 0 else slot.record.stat().st_size - 1)
    remove_tree(slot.destination)
    extract(slot, Member("a", b"1"), Member("d/b", b"2"))
    assert slot.holds("k")


#: Source: linux/fs.h FS_IOC_SHUTDOWN = _IOR('X', 125, __u32); xfs_fs.h XFS_FSOP_GOING_FLAGS_LOGFLUSH, ..._NOLOGFLUSH.
_SHUTDOWN = 0x8004587D
_FLAGS = {"log flushed": 1, "log lost": 2}


@contextlib.contextmanager
def image(kind: str, tmp_path: Path) -> Iterator[Path]:
    """Yield a file with an empty file system."""
    if shutil.which(f"mkfs.{kind}") is None:
        pytest.skip(f"mkfs.{kind} is not installed")
    file = tmp_path / f"{kind}.image"
    with file.open("wb") as made:
        made.truncate(400 << 20)
    subprocess.run([f"mkfs.{kind}", *(["-F"] if kind == "ext4" else []), "-q", str(file)], check=True)
    yield file


def cut_off(place: Path, how: str) -> None:
    """Discard everything that the file system has not written to its disk."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _FLAGS[how]))
    finally:
        os.close(descriptor)


@root_only
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is not installed")
@pytest.mark.parametrize("how", _FLAGS)
@pytest.mark.parametrize("mode", ["auto", "hardlink"])
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_real_power_loss(kind: str, mode: str, how: str, farm: Farm, tmp_path: Path) -> None:
    """After a power loss right after a run, every cache entry is correct, and the next run repairs damaged files."""
    with image(kind, tmp_path) as file:
        place = tmp_path / "disk"
        words = (f"cache={place}/cache", f"build={place}/build", f"link_mode={mode}", "durability=full")
        with mounted(place, "-o", "loop", str(file)):
            ran(farm.doit(*words))
            cut_off(place, how)
        # another test that entered a mount namespace meanwhile keeps the first one mounted there: use a copy
        options, copy = "loop,nouuid" if kind == "xfs" else "loop", tmp_path / "after"
        subprocess.run(["cp", "--sparse=always", str(file), str(copy)], check=True)
        with mounted(place, "-o", options, str(copy)):
            lost = Farm(place)
            lost.earlier = {}
            check_cache(lost)
            assert len(lost.blobs()) == 4  # all had their names before the run ended
            ran(farm.doit(*words, before=booted(tmp_path, "another\n")))
            for name, content in TREE.items():
                assert (place / "build/kit/fetches" / name).read_bytes() == content, name
            assert (place / "build/kit/fetches/big.bin").read_bytes() == BIG
            check_cache(lost)


def check_cache(farm: Farm) -> None:
    for path in farm.cache.glob("v1/blobs/*/*/*"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    for path in farm.cache.glob("v1/trees/*/*"):
        for name, content in () if path.suffix == ".part" else TREE.items():
            assert (path / "tree" / name).read_bytes() == content
