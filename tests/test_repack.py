"""The normalised archive: names, order and hard links do not depend on the form of the input."""

from __future__ import annotations

import io
import itertools
import random
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
import zstandard

from tasks_lib import archive, formats
from tasks_lib.archive import Reshape
from tasks_lib.errors import ArchiveError
from tasks_lib.limits import Limits
from tasks_lib.progress import Silent
from tests.archives import Member, tar
from tests.test_archive import repacked, tree_of

TIGHT = Limits(max_path_bytes=9, max_depth=3)
#: Every path of at most four components: shallow and deep ones follow each other.
PATHS = ["/".join(parts) for count in range(1, 5) for parts in itertools.product(("a", "bb"), repeat=count)]


def expected(path: str, strip: int, prefix: str) -> str | None:
    """Return the new name by the rules as they are documented, "" for nothing left, None for a refusal."""
    rest = "/".join(path.split("/")[strip:])
    if not rest:
        return ""
    named = (prefix + rest).split("/")
    if prefix and (len(prefix + rest) > TIGHT.max_path_bytes or len(named) > TIGHT.max_depth):
        return None
    return prefix + rest


def judged(paths: list[str]) -> list[str]:
    return [path for path in paths if len(path) <= TIGHT.max_path_bytes and path.count("/") < TIGHT.max_depth]


def names_of(path: str, before: list[str], reshape: Reshape) -> list[str]:
    """Return the names under which files come out: those of `before`, then that of `path`."""
    found: list[str] = []
    archive.read(
        io.BytesIO(tar([Member(name, b"x") for name in [*before, path]])),
        name="a", format="tar", reshape=reshape, limits=TIGHT,
        sink=lambda entry: found.append(entry.path.decode()) if entry.kind == "file" else None,
    )  # fmt: skip
    return found


@pytest.mark.parametrize("prefix", ["", "p/", "p-", "pp/q/"])
@pytest.mark.parametrize("strip", [0, 1, 2])
def test_names_follow_the_rules_wherever_they_stand(strip: int, prefix: str) -> None:
    """A name is the same, or refused the same, first of its directory or after others of it."""
    reshape = Reshape(strip=strip, prefix=prefix)
    for path in judged(PATHS):
        directory = path.rpartition("/")[0]
        first = f"{directory}/a0" if directory else "a0"
        for before in ([], [first]):
            wanted = [expected(one, strip, prefix) for one in [*before, path]]
            if len(path) <= TIGHT.max_path_bytes and all(wanted) and all(len(one) <= 9 for one in before):
                assert names_of(path, before, reshape) == wanted
            else:
                with pytest.raises(ArchiveError, match=r"STRIPPED|TOO_DEEP|PATH_TOO_LONG"):
                    names_of(path, before, reshape)


DOTTED = {
    "from a directory": ["./", "./a", "./top/", "./top/x", "./top/y", "./top/deep/z"],
    "some": ["top/x", "./top/y", "././top/z", "top/./w"],
    "many in a row": [f"./top/{number}" for number in range(40)],
}


@pytest.mark.parametrize("strip", [1, 2, 3])
@pytest.mark.parametrize("case", DOTTED)
def test_stripping_counts_as_tar_does(case: str, strip: int, tmp_path: Path) -> None:
    """A name is stripped as it is written, its dots included; a hard link's target is, too."""
    members = [Member(name, b"" if name.endswith("/") else name.encode()) for name in DOTTED[case]]
    names = [one for one in DOTTED[case] if len(one.removesuffix("/").split("/")) > strip and not one.endswith("/")]
    if names:
        members.append(Member("./" * strip + "link", kind=b"1", target=names[-1]))
    kept = [one for one in members if len(one.name.removesuffix("/").split("/")) > strip or one.name.endswith("/")]
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    command = ["tar", f"--strip-components={strip}", "-C", str(theirs), "-xf", "-"]
    subprocess.run(command, input=tar(kept), check=True, capture_output=True)
    ours.mkdir()
    plain = zstandard.ZstdDecompressor().decompress(repacked(tar(kept), "tar", Reshape(strip=strip)))
    subprocess.run(["tar", "-C", ours, "-xf", "-"], input=plain, check=True)
    assert tree_of(ours) == tree_of(theirs)
    if len(kept) < len(members):
        with pytest.raises(ArchiveError, match="leaves an empty name"):
            repacked(tar(members), "tar", Reshape(strip=strip))


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize("name", ["./a/b", ".//a/b", "a//b/c", "a/./b", "././a", "a/b/./c"])
def test_stripping_counts_as_taskgraph_does(name: str, kind: str) -> None:
    """Taskgraph cuts the text at each slash; tar agrees but for doubled ones."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as zipped:
        zipped.writestr(name, b"x")
    data = made.getvalue() if kind == "zip" else tar([Member(name, b"x")])
    for strip in (1, 2):
        rest = "/".join(one for one in name.split("/")[strip:] if one not in ("", "."))
        plain = zstandard.ZstdDecompressor().decompress(repacked(data, kind, Reshape(strip=strip)))
        with tarfile.open(fileobj=io.BytesIO(plain)) as read:
            assert read.getnames()[-1] == rest


def test_no_time_is_later_than_the_source_date() -> None:
    """Every entry has one time, 1980 or SOURCE_DATE_EPOCH if that is earlier; keys tell such archives apart."""
    assert [formats.mtime_for(epoch) for epoch in (None, 1 << 50, 7, 0)] == [315_532_800, 315_532_800, 7, 0]
    assert len({formats.writer_version(mtime) for mtime in (315_532_800, 7, 0)}) == 3
    made = repacked(tar([*TREE, *LINKS]), "tar", Reshape(prefix=PREFIX), mtime=7)
    with tarfile.open(fileobj=io.BytesIO(zstandard.ZstdDecompressor().decompress(made))) as read:
        assert {one.mtime for one in read} == {7}


LONG = "n" * 90
#: Glued to each first component: names that ustar splits, and a component that needs a pax header.
PREFIX = "p" * 30 + "-"
TREE = [
    *(Member(f"d{number % 7}/{LONG}{number:02}", bytes([number]) * (number * 97)) for number in range(40)),
    Member("d0/link", kind=b"2", target=f"{LONG}00"),
    Member(LONG, b"x"),
]
#: Hard links to a file in the middle of the others: one sorts before it, the others after.
LINKS = [
    Member("a-first", kind=b"1", target=f"d3/{LONG}10"),
    Member("d3/z-last", kind=b"1", target="a-first"),
    Member("z" * 95, kind=b"1", target=f"d3/{LONG}10"),
]


@pytest.mark.parametrize("seed", range(5))
def test_the_order_leaves_no_trace(seed: int) -> None:
    """Any order of the members gives the same bytes, which Python's tarfile reads as the same tree, in order."""
    shuffled = random.Random(seed).sample(TREE, len(TREE))
    made = repacked(tar([*shuffled, *LINKS]), "tar", Reshape(prefix=PREFIX))
    assert made == repacked(tar([*TREE, *LINKS]), "tar", Reshape(prefix=PREFIX))
    plain = zstandard.ZstdDecompressor().decompress(made)
    assert zstandard.frame_content_size(made) == len(plain)
    with tarfile.open(fileobj=io.BytesIO(plain)) as read:
        found = {one.name: one for one in read}
        assert list(found) == sorted(found, key=str.encode)
        contents = {name: (read.extractfile(one) or io.BytesIO()).read() for name, one in found.items() if one.isreg()}
    linked = f"{PREFIX}d3/{LONG}10"
    wanted = {PREFIX + member.name: member.content for member in TREE if member.kind != b"2"}
    wanted[f"{PREFIX}a-first"] = wanted.pop(linked)
    assert contents == wanted
    links = {one.name: one.linkname for one in found.values() if one.islnk()}
    assert links == dict.fromkeys([linked, f"{PREFIX}d3/z-last", PREFIX + "z" * 95], f"{PREFIX}a-first")


class Listener(Silent):
    """Remembers warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        """Remember."""
        self.warnings.append(message)


@pytest.mark.parametrize(
    ("names", "twin"),
    [
        (["a/x", "b/X", "x", "b/c/x"], None),
        (["a/b/x", "a/b/X"], "a/b/x"),
        (["A/x", "a/y"], "a"),
        (["d/\u00e9", "d/e\u0301"], "d/\u00e9"),
    ],
)
def test_twins_are_named(names: list[str], twin: str | None) -> None:
    """Warn if two names of one directory differ only in case or Unicode form; ignore equal names in two directories."""
    heard = Listener()
    archive.repack(
        io.BytesIO(tar([Member(name, b"1") for name in names])), name="a", format="tar", reshape=Reshape(),
        limits=Limits(), mtime=0, spool=io.BytesIO(), write=io.BytesIO().write, progress=heard,
    )  # fmt: skip
    printed = (
        f"'{twin}' differs from another name only in case or Unicode form: some file systems can store only one of them"
    )
    assert heard.warnings == ([printed] if twin else [])
