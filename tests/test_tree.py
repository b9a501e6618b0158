"""Extraction into a destination: existing entries, leftovers of killed runs, deep trees."""

from __future__ import annotations

import errno
import io
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks_lib.archive import Reshape
from tasks_lib.errors import TreeError, UnsafeEntryError
from tasks_lib.fs.directories import remove_tree
from tasks_lib.limits import Limits
from tasks_lib.progress import Silent
from tasks_lib.tree.extraction import Extraction
from tasks_lib.tree.manifest import is_incomplete, read_manifest, read_manifest_header
from tasks_lib.tree.recorded_tree import os_errors_as_tree_errors
from tasks_lib.tree.stale_entries import remove_stale_entries, take_directory
from tests.archives import Member, gnu, pax, record, tar


def differences(slot: Extraction, *members: Member) -> dict[str, str]:
    return slot.differences(
        io.BytesIO(tar(members)), name="a.tar", format="tar", reshape=Reshape(), limits=Limits(), progress=Silent()
    )  # fmt: skip


def edited(path: Path, content: bytes, record: Path) -> None:
    """Overwrite a file, with a later time than the manifest although the clock of file systems is coarse."""
    path.write_bytes(content)
    later = record.stat().st_mtime_ns + 1
    os.utime(path, ns=(later, later))


def extract(slot: Extraction, *members: Member, key: str = "k") -> None:
    slot.extract(
        io.BytesIO(tar(members)), name="a.tar", format="tar", reshape=Reshape(), limits=Limits(), key=key, progress=Silent()
    )  # fmt: skip


@pytest.fixture
def slot(tmp_path: Path) -> Extraction:
    return Extraction(tmp_path / "out", tmp_path / "records" / "one.json")


def test_a_manifest_of_files_written_together(slot: Extraction) -> None:
    """Names that JSON escapes, and names that are not UTF-8, are recorded as they are."""
    names = [
        b"plain",
        b'"quoted"',
        b"'n",
        "\u00fcber \u2603 \U0001f600".encode(),
        b"cut \xe4\xb8",
        b"\xff\xfe",
        b"u0041",
    ]
    paths = [os.fsdecode(b"d \xe4\xb8/" + name) for name in names]
    extract(slot, *[Member(path, b"x") for path in paths])
    assert [line.path for line in read_manifest(slot.record) if line.kind == "file"] == paths
    assert slot.holds("k")


@pytest.mark.parametrize("kind", ["file", "symlink", "dangling"])
def test_a_destination_that_is_no_directory_stays(kind: str, slot: Extraction, tmp_path: Path) -> None:
    """A destination that is not a directory is neither replaced nor written through."""
    (tmp_path / "elsewhere").mkdir()
    if kind == "file":
        slot.destination.write_bytes(b"kept")
    else:
        slot.destination.symlink_to("elsewhere" if kind == "symlink" else "nowhere")
    with pytest.raises(TreeError, match="is not a directory"):
        extract(slot, Member("a", b"1"))
    assert not list((tmp_path / "elsewhere").iterdir())
    assert slot.destination.is_symlink() or slot.destination.read_bytes() == b"kept"
    assert {path.name for path in tmp_path.iterdir()} == {"out", "elsewhere", "records"}


@pytest.mark.parametrize("size", [10, 200, 3000])
def test_a_destination_of_any_length(size: int, tmp_path: Path) -> None:
    """A deep archive in a deep directory, longer together than PATH_MAX, is written, checked, replaced and removed."""
    parent = tmp_path / "/".join(["p" * 99] * (size // 100))
    slot = Extraction(parent / "out", tmp_path / "records" / "one.json")
    deep = "/".join(["d" * 250] * 15) + "/f"
    members = [gnu(deep), Member("x", b"1"), Member("top", b"2"), gnu(f"{deep}2"), Member("x", kind=b"1", target="top")]
    extract(slot, *members)
    assert slot.holds("k")
    assert differences(slot, *members) == {}
    changed = [
        gnu(deep),
        Member("x", b"2"),
        Member("top", b"3"),
        gnu(f"{deep}2"),
        Member("x", b"", kind=b"1", target="top"),
    ]
    assert differences(slot, *changed) == {deep: "its content changed", "top": "its content changed"}
    extract(slot, Member("top", b"3"), key="new")
    assert slot.holds("new")
    assert [path.name for path in (parent / "out").iterdir()] == ["top"]
    extract(slot, gnu(deep), Member("x", b"1"))
    slot.clear(Silent())
    assert not (parent / "out").exists()


def test_a_new_version_may_change_what_a_name_is(slot: Extraction) -> None:
    """A directory becomes a file, a file a symlink, a symlink a directory."""
    extract(slot, Member("a/x", b"1"), Member("b", b"1"), Member("c", kind=b"2", target="b"))
    extract(slot, Member("a", b"2"), Member("b", kind=b"2", target="a"), Member("c/x", b"2"), key="new")
    assert slot.holds("new")
    assert (slot.destination / "a").read_bytes() == b"2"
    assert (slot.destination / "c" / "x").read_bytes() == b"2"


def test_a_run_killed_while_it_moved_is_made_good(slot: Extraction) -> None:
    """The manifest is written before the tree: entries that were moved are recognised and replaced."""
    slot.destination.mkdir()
    (slot.destination / "other").write_bytes(b"of others")
    extract(slot, Member("a", b"1"), Member("d/b", b"2"), Member("e/c", b"3"))
    (slot.destination / "e" / "c").unlink()
    (slot.destination / "e").rmdir()
    assert not slot.holds("k")
    extract(slot, Member("a", b"1"), Member("d/b", b"2"), Member("e/c", b"3"))
    assert slot.holds("k")
    assert (slot.destination / "other").read_bytes() == b"of others"


LINKED = (
    Member("a", b"one"),
    Member("d/b", b"two"),
    Member("d/hard", kind=b"1", target="a"),
    Member("s", kind=b"2", target="a"),
)


def test_an_edit_that_keeps_the_size_is_noticed(slot: Extraction) -> None:
    """A file or symlink that is newer than the manifest is not the extracted one; added files are ignored."""
    extract(slot, *LINKED)
    (slot.destination / "d" / "built").write_bytes(b"by someone")
    assert slot.holds("k")
    for path in ("a", "d/b"):
        edited(slot.destination / path, b"TWO", slot.record)
        assert not slot.holds("k")
        extract(slot, *LINKED)
        assert slot.holds("k")
    (slot.destination / "s").unlink()
    (slot.destination / "s").symlink_to("b")
    later = slot.record.stat().st_mtime_ns + 1
    os.utime(slot.destination / "s", ns=(later, later), follow_symlinks=False)
    assert not slot.holds("k")


def test_each_difference_is_reported(slot: Extraction) -> None:
    """Each entry is compared: kind, content, executable bit, target of both kinds of links."""
    extract(slot, *LINKED)
    assert differences(slot, *LINKED) == {}
    there = slot.destination
    (there / "d" / "hard").unlink()
    (there / "d" / "hard").write_bytes(b"one")  # a copy is as good
    assert differences(slot, *LINKED) == {}
    (there / "d" / "hard").write_bytes(b"ONE")
    (there / "s").unlink()
    (there / "s").symlink_to("d")
    (there / "d" / "b").chmod(0o755)
    assert differences(slot, *LINKED) == {
        "d/hard": "differs from the target of its hard link",
        "s": "has a different target",
        "d/b": "its executable bit changed",
    }
    (there / "a").write_bytes(b"one more")
    (there / "d" / "b").unlink()
    (there / "d" / "b").mkdir()
    found = differences(slot, *LINKED)
    assert (found["a"], found["d/b"]) == ("it is longer", "is not a file")
    remove_tree(there)
    assert set(differences(slot, *LINKED).values()) == {"No such file or directory"}


def test_holes_stay_holes(slot: Extraction) -> None:
    """A sparse file occupies no space for its holes, and has its full size."""
    said = {"major": "1", "minor": "0", "realsize": "9000000", "name": "a"}
    header = pax(*(record(f"GNU.sparse.{key}", value) for key, value in said.items()))
    extract(slot, header, Member("x", b"1\n8000000\n3\n".ljust(512, b"\0") + b"end"))
    status = (slot.destination / "a").stat()
    assert status.st_size == 9_000_000
    assert status.st_blocks * 512 < 1_500_000
    with (slot.destination / "a").open("rb") as file:
        file.seek(7_999_999)
        assert file.read(5) == b"\0end\0"


def test_a_name_in_bytes_in_a_message(tmp_path: Path) -> None:
    """A call with a directory descriptor names the entry as bytes; the message shows it as text."""
    with pytest.raises(TreeError) as caught, os_errors_as_tree_errors(tmp_path / "out"):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), b"a\n")
    assert caught.value.message == f"cannot write {tmp_path / 'out'}: a\\n: Too many open files"


@pytest.mark.parametrize("target", ["../out2", "b", "nowhere"])
def test_a_link_in_the_place_of_a_directory_is_replaced(target: str, slot: Extraction, tmp_path: Path) -> None:
    """A directory that became a symlink is extracted again; what the link leads to stays."""
    (tmp_path / "out2").mkdir()
    (tmp_path / "out2/f").write_bytes(b"mine")
    members = [Member("a/f", b"1"), Member("b/f", b"2")]
    for changed in (members, [Member("c/f", b"1"), Member("b/f", b"2")]):
        extract(slot, *members)
        remove_tree(slot.destination / "a")
        (slot.destination / "a").symlink_to(target)
        assert not slot.holds("k")
        extract(slot, *changed)
        assert differences(slot, *changed) == {}
        assert len(list(slot.destination.iterdir())) == 2
    assert (tmp_path / "out2/f").read_bytes() == b"mine"


def test_a_file_in_the_place_of_a_directory(slot: Extraction) -> None:
    """Entries that changed their kind are replaced, in both directions, unless a directory holds other files."""
    extract(slot, Member("a", b"1"), Member("d/", b""), Member("z", b"2"))
    (slot.destination / "a").unlink()
    (slot.destination / "a").mkdir()
    (slot.destination / "d").rmdir()
    (slot.destination / "d").write_bytes(b"mine")
    extract(slot, Member("a", b"1"), Member("d/", b""), Member("z", b"2"))
    assert (slot.destination / "a").read_bytes() == b"1" and (slot.destination / "d").is_dir()
    (slot.destination / "d/mine").write_bytes(b"mine")
    for refused in (Member("d", b"3"), Member("d", kind=b"2", target="z")):
        with pytest.raises(TreeError, match=r"puts 'd' into .* where it already exists"):
            extract(slot, refused, Member("z", b"4"))
        assert slot.holds("k")
    (slot.destination / "d/mine").unlink()
    extract(slot, Member("d", b"3"))
    assert {path.name: path.read_bytes() for path in slot.destination.iterdir()} == {"d": b"3"}


@pytest.mark.parametrize("killed", [False, True])
def test_strays_go(killed: bool, slot: Extraction) -> None:
    """Entries that are no longer requested are removed, except those that another extraction has too."""
    kept = Extraction(slot.destination, slot.record.with_name("kept.json"))
    elsewhere = Extraction(slot.destination / "sub", slot.record.with_name("sub-1.0.json"))
    extract(slot, Member("d/a", b"1"), Member("d/both", b"1"))
    (slot.destination / "d/both").unlink()
    extract(kept, Member("d/both", b"2"), Member("sub/b", b"2"))
    extract(elsewhere, Member("a", b"3"))
    (slot.destination / "d/own").write_bytes(b"of others")
    if killed:
        slot.record.rename(slot.record.with_suffix(".moving"))
    remove_stale_entries(slot.destination, slot.record.parent, ["kept"], 1, Silent())
    left = {str(path.relative_to(slot.destination)) for path in slot.destination.rglob("*")}
    assert left == {"d", "d/both", "d/own", "sub", "sub/b"}
    assert kept.holds("k")
    assert [path.name for path in slot.record.parent.iterdir() if path.suffix != ".lock" and path.name != ".lock"] == [
        "kept.json"
    ]
    remove_stale_entries(slot.destination, slot.record.parent / "none", [], 1, Silent())


@pytest.mark.parametrize("into", ["{outside}", "../../outside", "../x/../../outside", "..", 7])
def test_a_record_cannot_lead_elsewhere(into: str | int, slot: Extraction, tmp_path: Path) -> None:
    """The location in a manifest is trusted only beside its own manifest."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a").write_bytes(b"1")
    slot = slot._replace(record=tmp_path / "in/records/x.json", destination=tmp_path / "in/tree")
    extract(slot, Member("a", b"1"))
    printed = slot.record.read_text().replace(
        '"../tree"', json.dumps(str(into).format(outside=outside) if into != 7 else 7)
    )
    slot.record.write_text(printed)
    remove_stale_entries(slot.destination, slot.record.parent, [], 1, Silent())
    assert (outside / "a").exists()


def test_a_slot_that_moves(slot: Extraction) -> None:
    """An extraction with a new destination removes its old entries; on a collision they stay."""
    moved = slot._replace(destination=slot.destination / "sub")
    extract(slot, Member("d/a", b"1"))
    moved.destination.mkdir()
    (moved.destination / "d").write_bytes(b"of others")
    with pytest.raises(
        TreeError, match=r"puts 'd' into .*, where it already exists\nremove it, or set a different `dest:`"
    ):
        extract(moved, Member("d/a", b"1"))
    assert slot.holds("k")
    (moved.destination / "d").unlink()
    extract(moved, Member("d/a", b"1"))
    assert moved.holds("k")
    assert not (slot.destination / "d").exists()


def test_the_way_to_a_destination_goes_with_it(tmp_path: Path) -> None:
    """Empty directories are removed, so that a file of that name can be extracted there."""
    records = tmp_path / "records"
    deep, flat = (
        Extraction(tmp_path / "out/a/b", records / "deep.json"),
        Extraction(tmp_path / "out", records / "flat.json"),
    )
    extract(deep, Member("f", b"1"))
    extract(flat, Member("kept", b"1"))
    with pytest.raises(TreeError, match="both put 'a'"):
        extract(flat, Member("a", b"2"))
    deep.clear(Silent())
    extract(flat, Member("a", b"2"))
    with pytest.raises(TreeError):
        extract(deep, Member("f", b"1"))
    with pytest.raises(UnsafeEntryError):
        extract(Extraction(tmp_path / "out/c/d", records / "bad.json"), Member("../f", b"1"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a"]
    flat.clear(Silent())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["records"]


def test_slots_in_each_others_directories(tmp_path: Path) -> None:
    """Paths of a manifest are relative to its destination: an equal path elsewhere keeps nothing here."""
    records, out = tmp_path / "records", tmp_path / "out"
    stray, deep = Extraction(out, records / "stray.json"), Extraction(out / "sub", records / "deep.json")
    extract(stray, Member("f", b"stray"), Member("sub/"), Member("sub/f2", b"stray"))
    extract(deep, Member("f", b"deep"))
    with pytest.raises(TreeError, match=r"a\.tar and a\.tar both put 'sub/f'"):
        extract(Extraction(out, records / "other.json"), Member("sub/"), Member("sub/f", b"other"))
    remove_stale_entries(out, records, ["deep"], 1.0, Silent())
    assert [str(path.relative_to(out)) for path in sorted(out.rglob("*"))] == ["sub", "sub/f"]
    assert (out / "sub/f").read_bytes() == b"deep"


def test_a_slot_that_moves_up(tmp_path: Path) -> None:
    """A new entry may have the name of the directory that contained the removed ones."""
    records = tmp_path / "records"
    extract(Extraction(tmp_path / "out/a/b", records / "one.json"), Member("f", b"1"))
    extract(Extraction(tmp_path / "out", records / "one.json"), Member("a", b"2"))
    assert (tmp_path / "out/a").read_bytes() == b"2"


def left(tmp_path: Path) -> set[str]:
    """Return the tree below a directory, without locks."""
    found = (str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    return {path for path in found if not path.endswith(".lock")}


def test_a_neighbour_that_held_all_there_was(tmp_path: Path) -> None:
    """A neighbour's earlier version that is removed leaves nothing, not even the directory."""
    out, records = tmp_path / "out/a/b", tmp_path / "records"
    extract(Extraction(out, records / "one.json"), Member("f", b"1"), key="earlier")
    other = Extraction(out, records / "two.json", beside=(("one", "now"), ("two", "k")))
    extract(other, Member("f", b"2"))
    assert other.holds("k")
    assert (out / "f").read_bytes() == b"2"


@pytest.mark.parametrize("file", ["a", "a/b", "a/b/c"])
def test_a_neighbour_on_the_way(file: str, tmp_path: Path) -> None:
    """A neighbour's earlier version is removed if it has a file or symlink in the path of a destination."""
    out, records = tmp_path / "out", tmp_path / "records"
    earlier = Extraction(out, records / "one.json")
    other = Extraction(out / "a/b/c", records / "two.json", beside=(("one", "now"), ("two", "k")))
    for member in (Member(file, b"1"), Member(file, kind=b"2", target="elsewhere")):
        extract(earlier, member, Member("elsewhere/"), key="earlier")
        extract(other, Member("f", b"2"))
        assert other.holds("k")
        assert left(out) == {"a", "a/b", "a/b/c", "a/b/c/f"}
        other.clear(Silent())


@pytest.mark.parametrize("kind", ["file", "symlink"])
def test_a_way_that_is_no_directory(kind: str, tmp_path: Path) -> None:
    """A file or symlink above a destination stays, and nothing is written through it."""
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "elsewhere").mkdir()
    if kind == "file":
        (out / "a").write_bytes(b"kept")
    else:
        (out / "a").symlink_to("../elsewhere")
    with pytest.raises(TreeError, match="a is not a directory\nremove it and run again"):
        extract(Extraction(out / "a/b", tmp_path / "records/one.json"), Member("f", b"1"))
    assert left(tmp_path) == {"out", "out/a", "elsewhere", "records"}


def test_a_way_through_a_symlink_of_a_neighbour(tmp_path: Path) -> None:
    """A symlink of an archive in the path of another destination is refused in either order, and names the archive."""
    out, records, outside = tmp_path / "out", tmp_path / "records", tmp_path / "outside"
    (outside / "lib").mkdir(parents=True)
    (outside / "lib/f").write_bytes(b"theirs")
    one, two = Extraction(out, records / "one.json"), Extraction(out / "usr/lib", records / "two.json")
    link, limits = Member("usr", kind=b"2", target=str(outside)), Limits(outward_symlinks="keep")

    def extract_link() -> None:
        one.extract(
            io.BytesIO(tar([link])), name="one.tar", format="tar", reshape=Reshape(), limits=limits, key="k", progress=Silent()
        )  # fmt: skip

    extract(two, Member("f", b"ours"))
    with pytest.raises(TreeError, match=r"one.tar puts 'usr' into .* where it already exists|both put 'usr'"):
        extract_link()
    two.clear(Silent())
    extract_link()
    with pytest.raises(TreeError, match=rf"a.tar needs a directory, is a symlink to '{outside}' of one.tar"):
        extract(two, Member("f", b"ours"))
    assert left(outside) == {"lib", "lib/f"} and (outside / "lib/f").read_bytes() == b"theirs"


def test_a_destination_that_was_redirected(tmp_path: Path) -> None:
    """When a symlink replaces a component of a destination, what is behind it is neither believed nor removed."""
    out, outside = tmp_path / "out", tmp_path / "outside"
    moved = Extraction(out / "usr/lib", tmp_path / "records/one.json")
    extract(moved, Member("f", b"1"))
    (out / "usr").rename(outside)
    (out / "usr").symlink_to(outside)
    assert not moved.holds("k")
    moved.clear(Silent())
    assert left(tmp_path) == {"out", "out/usr", "outside", "outside/lib", "outside/lib/f", "records"}


def test_a_neighbour_that_was_killed(tmp_path: Path) -> None:
    """Leftovers of a neighbour's killed delivery are removed: its next delivery extracts them again."""
    out, records = tmp_path / "out", tmp_path / "records"
    killed = Extraction(out, records / "one.json")
    extract(killed, Member("f", b"1"), Member("g", b"1"))
    killed.record.rename(killed.record.with_suffix(".moving"))
    other = Extraction(out, records / "two.json", beside=(("one", "k"), ("two", "k")))
    extract(other, Member("f", b"2"))
    assert left(tmp_path) == {"out", "out/f", "records", "records/two.json"}


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("then", ["cleared", "delivered"])
def test_a_slot_that_moved_meanwhile(then: str, killed: bool, tmp_path: Path) -> None:
    """Entries are removed from their old location, also after a killed run; foreign entries at the new location stay."""
    records = tmp_path / "records"
    before, now = (Extraction(tmp_path / "out" / name, records / "one.json") for name in ("before", "now"))
    other = Extraction(tmp_path / "out/now", records / "two.json")
    extract(before, Member("f", b"1"), Member("own", b"1"))
    extract(other, Member("f", b"2"))
    (now.destination / "own").write_bytes(b"of the user")
    if killed:
        before.record.rename(before.record.with_suffix(".moving"))
    if then == "cleared":
        now.clear(Silent())
    else:
        extract(now, Member("g", b"2"))
    made = {"out/now/g", "records/one.json"} if then == "delivered" else set()
    assert left(tmp_path) == {"out", "out/now", "out/now/f", "out/now/own", "records", "records/two.json"} | made
    assert other.holds("k")


def test_a_delivery_that_was_killed_before_it_moved(tmp_path: Path) -> None:
    """A half-written tree is removed by the next delivery to any directory, and with a fetch that is no longer requested."""
    records = tmp_path / "records"
    slot = Extraction(tmp_path / "out/now", records / "one.json")
    for _ in range(2):
        (records / "one.part/d").mkdir(parents=True)
        (records / "one.new").write_text("half")
        with slot.held(Silent()):
            extract(slot, Member("f", b"1"))
        assert left(records) == {"one.json"}
    (records / "one.part").mkdir()
    (records / "gone.part").mkdir()
    (records / "gone.next").write_text("half")
    remove_stale_entries(tmp_path / "out", records, ["one"], 1, Silent())
    assert not (records / "gone.lock").exists()
    assert left(records) == {"one.json", "one.part"}  # the delivery of one that is asked for may be at work


def test_strays_are_removed_together(tmp_path: Path) -> None:
    """Entries that several extractions share stay if one of them is still requested."""
    out, records = tmp_path / "out", tmp_path / "records"
    kept = Extraction(out / "sub", records / "kept.json")
    for name in "abc":
        extract(Extraction(out, records / f"{name}.json"), Member("sub/"), Member("sub/f", b"1"), Member(name, b"1"))
        (out / "sub/f").unlink()
    extract(kept, Member("f", b"2"))
    remove_stale_entries(out, records, ["kept"], 1, Silent())
    assert left(tmp_path) == {"out", "out/sub", "out/sub/f", "records", "records/kept.json"}


def test_a_record_that_cannot_be_read_is_not_an_absent_one(slot: Extraction) -> None:
    """Entries of a manifest that cannot be opened now are neither forgotten nor treated as foreign."""
    extract(slot, Member("f", b"1"))
    other = Extraction(slot.destination, slot.record.with_name("two.json"))
    aside = slot.record.rename(slot.record.with_name("aside"))
    slot.record.symlink_to(slot.record.name)  # ELOOP
    readers: tuple[Callable[[Path], object], ...] = (
        read_manifest_header,
        is_incomplete,
        lambda record: list(read_manifest(record)),
    )
    for read in readers:
        with pytest.raises(OSError, match="symbolic links"):
            read(slot.record)
    assert not slot.holds("k")
    assert slot.key() == ""
    assert not list(slot.paths())
    attempts: tuple[Callable[[], None], ...] = (
        lambda: extract(slot, Member("f", b"2")),
        lambda: slot.clear(Silent()),
        lambda: extract(other, Member("f", b"2")),
    )
    for attempt in attempts:
        with pytest.raises(TreeError, match="symbolic links"):
            attempt()
        assert (slot.destination / "f").read_bytes() == b"1"
    aside.replace(slot.record)
    assert slot.holds("k")


def test_a_command_of_another_run_has_the_directory(tmp_path: Path) -> None:
    """An extraction that was checked before another run's command started resets the directory and completes."""
    fetches, records, worked = tmp_path / "fetches", tmp_path / "records", tmp_path / ".worked"
    first = Extraction(fetches / "a", records / "first.json", worked=worked)
    second = Extraction(fetches, records / "second.json", worked=worked)
    extract(first, Member("one", b"1"))
    take_directory(fetches, tmp_path / "fetches-1", worked, records, {"first": "k"}, 1, Silent())
    assert fetches.readlink() == Path("fetches-1"), "made with the lock, so that it replaces nothing of another run"
    extract(second, Member("two", b"2"))
    assert second.holds("k") and not first.holds("k") and not worked.exists()
    assert left(tmp_path / "fetches-1") == {"a", "a/one"}, "what the other run's command reads stays"


def test_a_directory_is_taken_complete(tmp_path: Path) -> None:
    """A command does not start on fetches that another run has changed since they were checked."""
    fetches, records = tmp_path / "fetches", tmp_path / "records"
    extract(Extraction(fetches, records / "one.json"), Member("one", b"1"))
    with pytest.raises(TreeError, match="another process changed"):
        take_directory(fetches, tmp_path / "fetches-1", tmp_path / ".worked", records, {"one": "l"}, 1, Silent())
    assert left(fetches) == {"one"} and not (tmp_path / ".worked").exists()


def test_a_run_killed_before_it_emptied_the_manifest(slot: Extraction) -> None:
    """The key of a manifest does not outlive the entries that the next run removes."""
    extract(slot, Member("a", b"1"))
    os.link(slot.record, slot.record.with_suffix(".moving"))
    slot.recover()
    assert left(slot.destination.parent) == {"records", "records/one.json"} and slot.key() == ""


def test_a_manifest_is_there_at_every_moment(slot: Extraction) -> None:
    """While an extraction is replaced its manifest exists: it is a dependency of another run's task."""
    extract(slot, Member("a", b"1"))
    ended, missing = threading.Event(), []

    def look() -> None:
        while not ended.is_set():
            if not slot.record.exists():
                missing.append(1)

    watch = threading.Thread(target=look)
    watch.start()
    for number in range(30):
        extract(slot, *(Member(f"{number}-{one}", b"1") for one in range(20)), key=str(number))
    ended.set()
    watch.join()
    assert slot.holds("29")
    assert not missing
