"""Where a tree is put: what stands there already, what killed runs left, how deep it lies."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from tasks_lib.archive import Limits, Reshape
from tasks_lib.errors import TreeError
from tasks_lib.progress import Silent
from tasks_lib.tree import Slot
from tests.archives import Member, gnu, pax, record, tar


def extract(slot: Slot, *members: Member, key: str = "k") -> None:
    slot.extract(
        io.BytesIO(tar(members)), name="a.tar", format="tar", reshape=Reshape(), limits=Limits(), key=key, progress=Silent()
    )  # fmt: skip


@pytest.fixture
def slot(tmp_path: Path) -> Slot:
    return Slot(tmp_path / "out", tmp_path / "records" / "one.json")


@pytest.mark.parametrize("kind", ["file", "symlink", "dangling"])
def test_a_destination_that_is_no_directory_stays(kind: str, slot: Slot, tmp_path: Path) -> None:
    """Nothing is replaced, or written through, that is no directory."""
    (tmp_path / "elsewhere").mkdir()
    if kind == "file":
        slot.destination.write_bytes(b"kept")
    else:
        slot.destination.symlink_to("elsewhere" if kind == "symlink" else "nowhere")
    with pytest.raises(TreeError, match="is no directory"):
        extract(slot, Member("a", b"1"))
    assert not list((tmp_path / "elsewhere").iterdir())
    assert slot.destination.is_symlink() or slot.destination.read_bytes() == b"kept"
    assert {path.name for path in tmp_path.iterdir()} == {"out", "elsewhere", "records"}


@pytest.mark.parametrize("size", [10, 200, 3000])
def test_a_destination_of_any_length(size: int, tmp_path: Path) -> None:
    """A deep archive in a deep directory, longer together than any path: written, held, replaced, removed."""
    parent = tmp_path / "/".join(["p" * 99] * (size // 100))
    slot = Slot(parent / "out", tmp_path / "records" / "one.json")
    deep = "/".join(["d" * 250] * 15) + "/f"
    extract(slot, gnu(deep), Member("x", b"1"), Member("top", b"2"))
    assert slot.holds("k")
    extract(slot, Member("top", b"3"), key="new")
    assert slot.holds("new")
    assert [path.name for path in (parent / "out").iterdir()] == ["top"]
    extract(slot, gnu(deep), Member("x", b"1"))
    slot.clear()
    assert not (parent / "out").exists()


def test_a_new_version_may_change_what_a_name_is(slot: Slot) -> None:
    """A directory becomes a file, a file a symlink, a symlink a directory."""
    extract(slot, Member("a/x", b"1"), Member("b", b"1"), Member("c", kind=b"2", target="b"))
    extract(slot, Member("a", b"2"), Member("b", kind=b"2", target="a"), Member("c/x", b"2"), key="new")
    assert slot.holds("new")
    assert (slot.destination / "a").read_bytes() == b"2"
    assert (slot.destination / "c" / "x").read_bytes() == b"2"


def test_a_run_killed_while_it_moved_is_made_good(slot: Slot) -> None:
    """The record stands before the tree does: what was moved is known as ours, and replaced."""
    slot.destination.mkdir()
    (slot.destination / "other").write_bytes(b"of others")
    extract(slot, Member("a", b"1"), Member("d/b", b"2"), Member("e/c", b"3"))
    (slot.destination / "e" / "c").unlink()
    (slot.destination / "e").rmdir()
    assert not slot.holds("k")
    extract(slot, Member("a", b"1"), Member("d/b", b"2"), Member("e/c", b"3"))
    assert slot.holds("k")
    assert (slot.destination / "other").read_bytes() == b"of others"


def test_holes_stay_holes(slot: Slot) -> None:
    """A sparse file takes no room for what it does not hold, and has its whole size."""
    said = {"major": "1", "minor": "0", "realsize": "9000000", "name": "a"}
    header = pax(*(record(f"GNU.sparse.{key}", value) for key, value in said.items()))
    extract(slot, header, Member("x", b"1\n8000000\n3\n".ljust(512, b"\0") + b"end"))
    status = (slot.destination / "a").stat()
    assert status.st_size == 9_000_000
    assert status.st_blocks * 512 < 1_500_000
    with (slot.destination / "a").open("rb") as file:
        file.seek(7_999_999)
        assert file.read(5) == b"\0end\0"
