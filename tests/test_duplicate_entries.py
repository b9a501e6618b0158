"""`duplicates: last`: of several entries with the same name, the repacked archive contains the last one."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks_lib.archive import Reshape
from tasks_lib.errors import ArchiveError
from tasks_lib.limits import Limits
from tests.archives import Member, Zipped, tar, zip_of
from tests.project import DODO, definition
from tests.test_archive import LIMITS, extract, repacked, tree_of
from tests.test_reporter import doit


def hard(name: str, target: str) -> Member:
    return Member(name, kind=b"1", target=target)


def link(name: str, target: str) -> Member:
    return Member(name, kind=b"2", target=target)


A1, A2 = Member("a", b"1"), Member("a", b"22")
#: members -> names that share one content, then content or target by name; as GNU tar and bsdtar extract them
LAST: dict[str, tuple[list[Member], list[str], dict[str, str]]] = {
    "file": ([A1, A2], [], {"a": "22"}),
    "dotted": ([A1, Member("./a", b"22")], [], {"a": "22"}),
    "shorter": ([A2, A1], [], {"a": "1"}),
    "thrice, others between": ([A1, Member("b"), A2, Member("0"), Member("a", b"333")], [], {"0": "", "a": "333", "b": ""}),
    "file, then symlink": ([A1, link("a", "b")], [], {"a": "-> b"}),
    "symlink, then file": ([Member("b", b"0"), link("a", "b"), A1], [], {"a": "1", "b": "0"}),
    "symlink, then symlink": ([link("a", "b"), link("a", "c")], [], {"a": "-> c"}),
    "outward symlink, then file": ([link("a", "../x"), A1], [], {"a": "1"}),
    "a link keeps what it was made to": ([A1, hard("b", "a"), A2], [], {"a": "22", "b": "1"}),
    "links before and after": (
        [A1, hard("b", "a"), A2, hard("c", "a"), hard("d", "b")], ["ac", "bd"], {"a": "22", "b": "1", "c": "22", "d": "1"},
    ),
    "link, then file": ([A1, hard("b", "a"), Member("b", b"2")], [], {"a": "1", "b": "2"}),
    "file, then link": ([A1, Member("b", b"2"), hard("b", "a")], ["ab"], {"a": "1", "b": "1"}),
    "link, then other link": ([A1, Member("c", b"2"), hard("b", "a"), hard("b", "c")], ["bc"], {"a": "1", "b": "2", "c": "2"}),
    "link, then symlink": ([A1, hard("b", "a"), link("a", "b")], [], {"a": "-> b", "b": "1"}),
    "links in a circle": ([A1, hard("b", "a"), hard("a", "b")], ["ab"], {"a": "1", "b": "1"}),
    "a link to a link that went": (
        [A1, hard("b", "a"), hard("c", "b"), Member("b", b"2")], ["ac"], {"a": "1", "b": "2", "c": "1"},
    ),
    "a link to itself": ([A1, hard("a", "a"), A2, hard("a", "a")], [], {"a": "22"}),
    "a link to what became a symlink": ([A1, link("a", "c"), hard("b", "a")], [], {"a": "-> c", "b": "-> c"}),
    "a link to a symlink that went": ([link("a", "c"), hard("b", "a"), A1], [], {"a": "1", "b": "-> c"}),
    "a directory twice": ([Member("d/"), Member("d/x", b"1"), Member("d/")], [], {"d": "/", "d/x": "1"}),
}  # fmt: skip


def unpacked(made: bytes, directory: Path) -> Path:
    directory.mkdir()
    plain = zstandard.ZstdDecompressor().decompress(made)
    assert zstandard.frame_content_size(made) == len(plain)
    subprocess.run(["tar", "-C", directory, "-xf", "-"], input=plain, check=True)
    return directory


def shown(root: Path) -> dict[str, str]:
    """Return name -> content, "-> target", or "/"."""
    found = {}
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        else:
            found[name] = "/" if path.is_dir() else path.read_text()
    return found


def groups(root: Path) -> list[list[str]]:
    """Return the names of each file that has more than one."""
    found: dict[int, list[str]] = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            found.setdefault(path.stat().st_ino, []).append(path.relative_to(root).as_posix())
    return sorted(names for names in found.values() if len(names) > 1)


@pytest.mark.parametrize("case", LAST)
def test_last_entry_wins(case: str, tmp_path: Path) -> None:
    """The archive contains the last entry of each name; a hard link refers to the content at its position."""
    members, linked, wanted = LAST[case]
    data = tar(members)
    made = repacked(data, "tar", duplicates="last")
    again = unpacked(made, tmp_path / "gnu")
    assert shown(again) == wanted
    assert groups(again) == sorted(map(list, linked))
    extract(made, "tar.zst", tmp_path / "ours")
    assert shown(tmp_path / "ours") == wanted
    assert repacked(made, "tar.zst") == made
    if case not in ("a directory twice", "links in a circle"):
        with pytest.raises(ArchiveError) as refusal:
            repacked(data, "tar")
        assert refusal.value.code == "DUPLICATE"


@pytest.mark.parametrize("mode", [0o644, 0o755])
def test_mode_of_the_last_entry(mode: int, tmp_path: Path) -> None:
    """The executable bit of an earlier entry is dropped."""
    made = repacked(
        tar([Member("a", b"1", mode=0o1400 ^ mode), Member("a", b"2", mode=mode)]), "tar", duplicates="last"
    )
    assert bool((unpacked(made, tmp_path / "x") / "a").stat().st_mode & 0o100) == bool(mode & 0o100)


def test_duplicates_after_strip(tmp_path: Path) -> None:
    """Names are compared after stripping and prefixing."""
    data = tar([Member("x/a", b"1"), Member("y/a", b"2")])
    made = repacked(data, "tar", Reshape(strip=1), duplicates="last")
    assert shown(unpacked(made, tmp_path / "x")) == {"a": "2"}


REFUSED: dict[str, tuple[list[Member], str]] = {
    "file, then directory": ([A1, Member("a/")], "DUPLICATE"),
    "directory, then file": ([Member("a/"), A1], "DUPLICATE"),
    "implied directory, then symlink": ([Member("a/b", b"1"), link("a", "c")], "DUPLICATE"),
    "symlink, then directory": ([Member("e/"), link("a", "e"), Member("a/")], "DUPLICATE"),
    "below a file": ([A1, A2, Member("a/b")], "BELOW_NON_DIRECTORY"),
    "below a symlink that goes": ([Member("e/"), link("a", "e"), Member("a/b"), A1], "BELOW_NON_DIRECTORY"),
    "hard link to what became a directory": ([Member("b/"), hard("a", "b")], "HARDLINK"),
    "outward symlink at last": ([A1, link("a", "../x")], "SYMLINK_OUTSIDE"),
    "a twin of a directory at last": ([Member("A"), link("A", "x"), Member("a/")], "CASE_TWIN"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_duplicates(case: str) -> None:
    """A directory and another kind of entry, writes through links, and faults of the final tree are refused."""
    members, code = REFUSED[case]
    with pytest.raises(ArchiveError) as refusal:
        repacked(tar(members), "tar", duplicates="last")
    assert refusal.value.code == code


def test_all_duplicates_count_for_limits() -> None:
    """A name that occurs a thousand times counts as a thousand entries, with their bytes."""
    data = tar([Member("a", b"x" * 100)] * 20)
    for limits, code in ((Limits(max_entries=19), "TOO_MANY_ENTRIES"), (Limits(max_total_bytes=1999), "TOO_LARGE")):
        with pytest.raises(ArchiveError) as refusal:
            repacked(data, "tar", limits=limits, duplicates="last")
        assert refusal.value.code == code
    once = repacked(tar([Member("a", b"x" * 100)]), "tar")
    assert repacked(data, "tar", limits=Limits(max_entries=20), duplicates="last") == once


FIRST, SECOND = Zipped(name=b"a", content=b"1"), Zipped(name=b"a", content=b"22", deflate="x", mode=0o100755)
SYMLINK = Zipped(name=b"a", content=b"b", mode=0o120777)


@pytest.mark.parametrize(
    ("members", "wanted"),
    [([FIRST, SECOND], "22"), ([SECOND, FIRST], "1"), ([FIRST, SYMLINK], "-> b"), ([SYMLINK, FIRST], "1")],
)
def test_zip(members: list[Zipped], wanted: str, tmp_path: Path) -> None:
    """The same for zip, in the order of data and directory."""
    made = repacked(zip_of(*members, Zipped(name=b"b")), "zip", duplicates="last")
    assert shown(unpacked(made, tmp_path / "x")) == {"a": wanted, "b": ""}


def test_a_zip_in_two_orders_is_refused() -> None:
    """Where directory and data have another order, readers differ in which one is the last."""
    data = zip_of(Zipped(name=b"a", content=b"1"), Zipped(name=b"b", content=b"2"))
    start = data.index(b"PK\x01\x02")
    middle, end = data.index(b"PK\x01\x02", start + 4), data.index(b"PK\x05\x06")
    turned = data[:start] + data[middle:end] + data[start:middle] + data[end:]
    assert repacked(turned, "zip") == repacked(data, "zip") == repacked(data, "zip", duplicates="last")
    with pytest.raises(ArchiveError) as refusal:
        repacked(turned, "zip", duplicates="last")
    assert refusal.value.code == "ZIP_DISAGREE"


@pytest.mark.slow
def test_a_definition_asks_for_it(tmp_path: Path) -> None:
    """Unset, such an archive is refused; set, it has a key of its own, and a toolchain finds the last one."""
    data = tar([Member("lib/a.h", b"old"), Member("lib/b.h", b"b"), Member("lib/a.h", b"new")])
    (tmp_path / "dodo.py").write_text(DODO)
    for kind in ("fetch", "toolchain"):
        (tmp_path / "fetchdefs" / kind).mkdir(parents=True)
    (tmp_path / "lib.tar").write_bytes(data)
    more = "    artifact-name: lib.tar.zst\n    strip-components: 1\n"
    file = tmp_path / "fetchdefs/fetch/a.yml"
    file.write_text(definition("lib", "file:../../lib.tar", data, more))
    (tmp_path / "fetchdefs/toolchain/a.yml").write_text("t:\n  description: t\n  fetches: {fetch: [lib]}\n")
    done = doit(tmp_path)
    assert done.returncode == 1
    assert "entry 'a.h' (offset 2048): occurs twice in the archive, and the two differ [DUPLICATE]" in done.stdout
    assert "set `duplicates: last` under `fetch:`" in done.stdout
    bare = definition("bare", "file:../../lib.tar", data, "    duplicates: last\n")
    file.write_text(definition("lib", "file:../../lib.tar", data, more + "    duplicates: last\n") + bare)
    assert doit(tmp_path, "toolchain:t", "extract:bare").returncode == 0
    assert shown(tmp_path / "build/t/fetches") == {"a.h": "new", "b.h": "b"}
    assert shown(tmp_path / "build/extracted/bare/lib") == {"a.h": "new", "b.h": "b"}
    file.write_text(definition("lib", "file:../../lib.tar", data, more))
    assert "duplicates" in doit(tmp_path, "why", "repack:lib").stdout
    assert "DUPLICATE" in doit(tmp_path).stdout


_NAMES = ["a", "b", "c", "d/a", "d/b"]
_step = st.one_of(
    st.tuples(st.just("file"), st.sampled_from(_NAMES), st.integers(0, 700), st.booleans()),
    st.tuples(
        st.just("symlink"), st.sampled_from(["a", "b", "c"]), st.sampled_from(["a", "b", "c", "d"]), st.just(False)
    ),
    st.tuples(st.just("hardlink"), st.sampled_from(_NAMES), st.sampled_from(_NAMES), st.just(False)),
)


def members_of(steps: list[tuple[str, str, object, bool]]) -> list[Member]:
    """Return the members of these steps; hard links refer only to existing files, and not to themselves."""
    kinds: dict[str, str] = {}
    made = []
    for number, (kind, name, other, runs) in enumerate(steps):
        if kind == "file":
            content = (f"{number}:" * 200)[: int(str(other))].encode()
            made.append(Member(name, content, mode=0o755 if runs else 0o644))
        elif kind == "symlink":
            made.append(link(name, str(other)))
        elif name != other and kinds.get(str(other)) in ("file", "hardlink"):
            made.append(hard(name, str(other)))
        else:
            continue
        kinds[name] = kind
    return made


@pytest.mark.slow
@settings(max_examples=int(os.environ.get("EXAMPLES", "60")), deadline=None)
@given(st.lists(_step, max_size=14))
def test_as_gnu_tar_extracts_it(steps: list[tuple[str, str, object, bool]]) -> None:
    """For any order of files and links, the archive extracts to the tree that GNU tar extracts from the original."""
    data = tar([Member("d/"), *members_of(steps)])
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        (base / "gnu").mkdir()
        subprocess.run(["tar", "-C", base / "gnu", "-xf", "-"], input=data, check=True)
        ours = unpacked(repacked(data, "tar", limits=LIMITS, duplicates="last"), base / "ours")
        assert tree_of(ours) == tree_of(base / "gnu")
        assert groups(ours) == groups(base / "gnu")
