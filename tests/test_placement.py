"""Cached trees, placed by clone or hard link: equal to extraction, and edits do not spread."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import random
import re
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks_lib import recipe
from tasks_lib.archive import Entry, Reshape, read
from tasks_lib.digest import Digest, Integrity
from tasks_lib.fs import system_calls
from tasks_lib.fs.copying import link_or_copy_name
from tasks_lib.fs.directories import DirectoryChain, remove_tree
from tasks_lib.limits import Limits
from tasks_lib.progress import Silent
from tasks_lib.tree.cached_tree import CachedTree, DamagedTreeError, write_cached_tree
from tasks_lib.tree.extraction import Extraction
from tests.archives import Member, tar
from tests.corpus import CASES
from tests.project import DODO, definition
from tests.test_cache_faults import NOBODY, Farm, mounted, needs_clones, needs_strace, root_only
from tests.test_corpus import LIMITS, leaves, wanted
from tests.test_maintenance import change

BODY = random.Random(3).randbytes(200_000)
MEMBERS = [
    Member("d/"), Member("d/numbers", b"1234567890" * 50), Member("d/run", b"#!x", mode=0o755), Member("d/big", BODY),
    Member("d/empty"), Member("d/same", kind=b"1", target="d/numbers"), Member("link", kind=b"2", target="d/run"),
    Member("e/"),
]  # fmt: skip
ARCHIVE = tar(MEMBERS)
TREE: dict[str, str | bytes] = {
    "d/numbers": b"1234567890" * 50, "d/run": b"x#!x", "d/big": BODY, "d/empty": b"", "d/same": b"1234567890" * 50,
    "link": "-> d/run", "e": "/",
}  # fmt: skip
FILES = ("d/numbers", "d/run", "d/big", "d/empty", "d/same")


@pytest.fixture
def farm(tmp_path: Path) -> Farm:
    """Return a repository with one archive that two toolchains extract."""
    return planted(tmp_path)


def planted(place: Path) -> Farm:
    top = place / "farm"
    (top / "fetchdefs/fetch").mkdir(parents=True)
    (top / "fetchdefs/toolchain").mkdir()
    (place / "a.tar").write_bytes(ARCHIVE)
    (top / "dodo.py").write_text(DODO)
    (top / "fetchdefs/fetch/a.yml").write_text(definition("a", f"file://{place}/a.tar", ARCHIVE))
    kits = "".join(f"{kit}:\n  description: k\n  fetches: {{fetch: [a]}}\n" for kit in ("one", "two"))
    (top / "fetchdefs/toolchain/a.yml").write_text(kits)
    farm = Farm(top)
    farm.earlier = {}
    return farm


def run(farm: Farm, *words: str, before: tuple[str, ...] = (), **environ: str) -> str:
    done = farm.doit(*words, before=before, **environ)
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in done.stdout
    return done.stdout


def unpacked(farm: Farm) -> Path:
    """Return the only tree in the cache."""
    (found,) = farm.cache.glob("v1/trees/*/*")
    return found


def inodes(root: Path) -> list[int]:
    return [(root / name).stat().st_ino for name in FILES]


def test_hard_links(farm: Farm) -> None:
    """Every copy has exactly the archive's tree, and cannot be written through."""
    run(farm, "link_mode=hardlink")
    one, two = (farm.top / f"build/{kit}/fetches" for kit in ("one", "two"))
    assert leaves(one) == leaves(two) == TREE
    assert inodes(one) == inodes(two) == inodes(unpacked(farm) / "tree")
    assert {stat.S_IMODE((one / name).stat().st_mode) for name in FILES} == {0o444, 0o555}
    assert stat.S_IMODE((one / "d").stat().st_mode) == 0o755
    shutil.rmtree(one)
    remove_tree(farm.top / "build")
    run(farm, "link_mode=copy")
    assert leaves(one) == TREE
    assert not set(inodes(one)) & set(inodes(unpacked(farm) / "tree"))
    assert stat.S_IMODE((one / "d/run").stat().st_mode) == 0o755


@pytest.mark.parametrize("mode", ["auto", "copy", "reflink"])
def test_nothing_is_kept_where_nothing_is_shared(farm: Farm, mode: str, tmp_path: Path) -> None:
    """Without the setting, or a file system with clones, the archive is extracted and no tree is cached."""
    if mode == "reflink" and clones(tmp_path):
        pytest.skip("this file system clones")
    run(farm, f"link_mode={mode}")
    assert leaves(farm.top / "build/one/fetches") == TREE
    assert not [*farm.cache.glob("v1/trees/*/*")]


def clones(place: Path) -> bool:
    (place / "x").write_bytes(b"x" * 5000)
    return subprocess.run(["cp", "--reflink=always", place / "x", place / "y"], capture_output=True).returncode == 0


def edit(path: Path) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"X")


def swap(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)


def spoil_list(path: Path) -> None:
    place = path.parents[2 if path.parent.name == "d" else 1] / "list"
    text = place.read_text()
    place.chmod(0o644)
    place.write_text(text.replace("d/run", "d/rum", 1))


#: name -> what is done to d/numbers, or beside it, in the cache's tree.
HARMS: dict[str, Callable[[Path], None]] = {
    "edited": edit,
    "mode": lambda path: path.chmod(0o644),
    "gone": Path.unlink,
    "replaced": swap,
    "truncated": lambda path: os.truncate(path, 3),
    "directory gone": lambda path: shutil.rmtree(path.parent),
    "list": spoil_list,
    "no list": lambda path: (path.parents[2] / "list").unlink(),
}


@pytest.mark.slow
@pytest.mark.parametrize("harm", HARMS)
def test_a_tree_that_changed_is_not_placed_again(farm: Farm, harm: str) -> None:
    """A file changed through a link or in the cache is reported, moved to quarantine and restored."""
    run(farm, "link_mode=hardlink", "toolchain:one")
    HARMS[harm](unpacked(farm) / "tree/d/numbers")
    printed = run(farm, "link_mode=hardlink", "toolchain:two")
    assert "ignoring its unpacked tree in the cache" in printed
    assert leaves(farm.top / "build/two/fetches") == TREE
    assert leaves(unpacked(farm) / "tree") == TREE
    assert inodes(unpacked(farm) / "tree") == inodes(farm.top / "build/two/fetches")
    evidence = [path.name for path in farm.cache.glob("v1/quarantine/*") if path.suffix != ".reason"]
    assert bool(evidence) == (harm in ("edited", "mode", "replaced", "truncated")), evidence
    assert not [*farm.cache.glob("v1/tmp/*"), *farm.cache.glob("v1/trees/*/*.part")]
    done = farm.doit("verify", "--repair")  # the first place is damaged where it shares the file
    assert done.returncode == 0, done.stdout
    assert leaves(farm.top / "build/one/fetches") == TREE


def test_a_file_of_the_future(farm: Farm, tmp_path: Path) -> None:
    """A tree from before the clock was set back is copied: if linked, it would look edited at every run."""
    entry = "{artifact: a, extract: false}"
    (farm.top / "fetchdefs/toolchain/a.yml").write_text(f"one:\n  description: k\n  fetches: {{fetch: [{entry}]}}\n")
    run(farm, "link_mode=hardlink", "fetch:a")
    (blob,) = farm.cache.glob("v1/blobs/*/*/*")
    ahead = time.time() + 1e6
    os.utime(blob, (ahead, ahead))
    run(farm, "link_mode=hardlink")
    assert "nothing to do" in run(farm, "link_mode=hardlink")
    (tmp_path / "to").mkdir()
    with DirectoryChain(blob.parent) as there, DirectoryChain(tmp_path / "to") as to:
        name = os.fsencode(blob.name)
        link_or_copy_name(name, there.enter(b""), to.enter(b""), mode=0o644, how="hardlink")
    assert not (tmp_path / "to" / blob.name).samefile(blob)


def test_a_tree_of_a_shared_cache_that_changed(farm: Farm) -> None:
    """Damage in a read-only shared cache is reported and stays; the private cache gets its own tree."""
    run(farm, "link_mode=hardlink", "toolchain:one")
    edit(unpacked(farm) / "tree/d/numbers")
    before = {*farm.cache.rglob("*")}
    own = farm.top.parent / "own"
    printed = run(farm, "link_mode=hardlink", f"private_cache={own}", "toolchain:two")
    assert "ignoring its unpacked tree in the cache" in printed
    assert leaves(farm.top / "build/two/fetches") == TREE
    assert {*farm.cache.rglob("*")} == before
    (made,) = own.glob("v1/trees/*/*")
    assert inodes(made / "tree") == inodes(farm.top / "build/two/fetches")


def test_verify_finds_an_edit_that_keeps_its_time(farm: Farm) -> None:
    """Changing a hard link while keeping size and time is found in the cache and in every copy; all are restored."""
    run(farm, "link_mode=hardlink")
    assert "1 unpacked tree," in run(farm, "verify")
    change(farm.top / "build/one/fetches/d/numbers")
    done = farm.doit("verify")
    assert done.returncode == 1
    assert "damaged unpacked tree" in done.stdout
    assert "d/numbers: its content changed; needed by extract:one/a, extract:two/a" in done.stdout
    assert done.stdout.count("damaged tree") == 2
    assert not [*farm.cache.glob("v1/trees/*/*")]
    assert any(farm.cache.glob("v1/quarantine/numbers.*"))
    run(farm, "link_mode=hardlink")
    change(farm.top / "build/one/fetches/d/numbers")
    assert "repaired: extract:two/a" in run(farm, "link_mode=hardlink", "verify", "--repair")
    for kit in ("one", "two"):
        assert leaves(farm.top / f"build/{kit}/fetches") == TREE
    assert "0 damaged" in run(farm, "verify")


def test_verify_finds_a_list_that_changed(farm: Farm) -> None:
    """A manifest has its own digest; a tree whose archive is gone cannot be verified, and that is reported."""
    run(farm, "link_mode=hardlink")
    (blob,) = farm.cache.glob("v1/blobs/*/*/*")
    blob.rename(farm.top / "aside")
    assert "not checked: unpacked tree" in farm.doit("verify").stdout
    (farm.top / "aside").rename(blob)
    spoil_list(unpacked(farm) / "tree/link")
    done = farm.doit("verify", "extract:two/a")
    assert "damaged unpacked tree" in done.stdout, done.stdout
    assert done.returncode == 1


def age(farm: Farm, hours: float) -> None:
    then = time.time() - hours * 3600
    for path in farm.cache.rglob("*"):
        if "doit.db" not in path.name:
            os.utime(path, (then, then), follow_symlinks=False)


@pytest.mark.slow
def test_prune(farm: Farm) -> None:
    """A tree stays while definitions use it, while it is recent, and while it is leased; then it is pruned."""
    run(farm, "link_mode=hardlink")
    shown = run(farm, "cache")
    assert "tree               1" in shown
    assert f"tree {unpacked(farm).name}" in shown.partition("largest:")[2]
    (farm.cache / "v1/trees/ab").mkdir()
    half = farm.cache / f"v1/trees/ab/{'ab' * 32}.part"
    half.mkdir()
    dropped = farm.cache / "v1/tmp/999999999-00/tree"  # a kill in the middle of a removal
    dropped.mkdir(parents=True)
    (dropped / "file").touch()
    assert "0 removed" in run(farm, "prune", "link_mode=copy")
    age(farm, 2)
    run(farm, "prune")
    assert not half.exists()
    assert not dropped.parent.exists()
    tree = unpacked(farm)
    assert "intact, but copied or touched" in run(farm, "verify")  # its times are others now
    descriptor = os.open(tree, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    assert "in use" in run(farm, "prune", "link_mode=copy")
    os.close(descriptor)
    assert tree.exists()
    assert f"tree {tree.name}" in run(farm, "prune", "--dry-run", "link_mode=copy")
    run(farm, "prune", "link_mode=copy")
    assert not tree.exists()
    assert not [*farm.cache.glob("v1/tmp/*")]
    assert leaves(farm.top / "build/one/fetches") == TREE


def test_a_copied_cache(farm: Farm) -> None:
    """The trees of a cache that was copied as a whole are unpacked again; nothing is reported as damaged."""
    run(farm, "link_mode=hardlink", "toolchain:one")
    subprocess.run(["cp", "-a", "cache", "copied"], cwd=farm.top, check=True)
    printed = run(farm, "cache=copied", "build=other", "link_mode=hardlink", "verify")
    assert "intact, but copied or touched" in printed
    run(farm, "cache=copied", "build=other", "link_mode=hardlink")
    assert leaves(farm.top / "other/one/fetches") == TREE
    assert not [*farm.top.glob("copied/v1/quarantine/*")]


@root_only
@pytest.mark.slow
def test_another_file_system(farm: Farm, tmp_path: Path) -> None:
    """Across devices the archive is extracted; where only the link is refused (a bind mount), files are copied."""
    place = tmp_path / "other"
    with mounted(place, "-t", "tmpfs", "tmpfs"):
        run(farm, "link_mode=hardlink", f"build={place}/build")
        assert leaves(place / "build/one/fetches") == TREE
        assert not [*farm.cache.glob("v1/trees/*/*")]
    (farm.top / "real").mkdir()
    with mounted(place, "--bind", str(farm.top / "real")):
        run(farm, "link_mode=hardlink", f"build={place}/build")
        assert leaves(place / "build/one/fetches") == TREE
        assert not set(inodes(place / "build/one/fetches")) & set(inodes(unpacked(farm) / "tree"))
        assert stat.S_IMODE((place / "build/one/fetches/d/run").stat().st_mode) == 0o755


@root_only
@pytest.mark.slow
def test_more_links_than_a_file_can_have(tmp_path: Path) -> None:
    """A file that has all the links that its file system allows is copied."""
    with filesystem("ext4", tmp_path) as place:
        farm = planted(place)
        run(farm, "link_mode=hardlink", "toolchain:one")
        full = place / "links"
        full.mkdir()
        with pytest.raises(OSError, match="Too many links"):
            for number in range(70_000):
                os.link(unpacked(farm) / "tree/d/big", full / str(number))
        run(farm, "link_mode=hardlink", "toolchain:two")
        two = farm.top / "build/two/fetches"
        assert leaves(two) == TREE
        assert (two / "d/big").stat().st_nlink == 1
        assert (two / "d/run").stat().st_ino == (unpacked(farm) / "tree/d/run").stat().st_ino


@root_only
@pytest.mark.slow
def test_a_read_only_cache_serves_its_trees() -> None:
    """A user who cannot write to the cache links the trees in it and extracts other archives."""
    with tempfile.TemporaryDirectory(prefix="placed-") as name:
        top = Path(name)
        top.chmod(0o755)
        farm = planted(top)
        run(farm, "fetch:a")
        home = top / "home"
        home.mkdir(mode=0o777)
        home.chmod(0o777)
        printed = run(farm, "link_mode=hardlink", f"build={home}/b1", "extract:one/a", before=NOBODY)
        assert "extracting directly: the cache cannot store the unpacked tree" in printed
        assert leaves(home / "b1/one/fetches") == TREE
        run(farm, "link_mode=hardlink", "toolchain:one")
        before = farm.files()
        run(farm, "link_mode=hardlink", f"build={home}/b2", "extract:one/a", before=NOBODY)
        assert leaves(home / "b2/one/fetches") == TREE
        assert {path for path in farm.files() if path.startswith("cache")} <= before


@contextlib.contextmanager
def filesystem(kind: str, tmp_path: Path) -> Iterator[Path]:
    if shutil.which(f"mkfs.{kind}") is None:
        pytest.skip(f"mkfs.{kind} is not installed")
    image, place = tmp_path / f"{kind}.image", tmp_path / kind
    with image.open("wb") as file:
        file.truncate(400 << 20)
    subprocess.run([f"mkfs.{kind}", *(["-F"] if kind == "ext4" else []), "-q", str(image)], check=True)
    with mounted(place, "-o", "loop", str(image)):
        yield place


def shares(path: Path) -> bool:
    """Whether the file's blocks are shared with another file's."""
    done = subprocess.run(["filefrag", "-v", str(path)], stdout=subprocess.PIPE, text=True, check=True)
    return "shared" in done.stdout


@root_only
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("filefrag") is None, reason="filefrag is not installed")
@needs_clones
@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_clones(kind: str, tmp_path: Path) -> None:
    """With reflinks, placed files are separate files that take no space; `auto` uses an existing tree."""
    with filesystem(kind, tmp_path) as place:
        farm = planted(place)
        run(farm, "toolchain:one")
        one, two = (farm.top / f"build/{kit}/fetches" for kit in ("one", "two"))
        assert not [*farm.cache.glob("v1/trees/*/*")]
        assert not shares(one / "d/big")
        remove_tree(farm.top / "build")
        run(farm, "link_mode=reflink", "toolchain:one", FETCH_DURABILITY="full")
        tree = unpacked(farm) / "tree"
        run(farm, "toolchain:two")
        for built in (one, two):
            assert leaves(built) == TREE
            assert not set(inodes(built)) & set(inodes(tree))
            assert shares(built / "d/big")
            assert stat.S_IMODE((built / "d/run").stat().st_mode) == 0o755
            assert stat.S_IMODE((built / "d/big").stat().st_mode) == 0o644
        (one / "d/big").write_bytes(b"changed")
        assert leaves(tree) == leaves(two) == TREE
        run(farm, "verify", "extract:two/a")
        remove_tree(farm.top / "build")
        run(farm, "link_mode=hardlink")
        assert inodes(one) == inodes(tree)


@needs_strace
@pytest.mark.slow
def test_order_for_a_power_loss(farm: Farm) -> None:
    """A tree is synced before it is renamed, and its directory afterwards."""
    log = farm.top.parent / "log"
    words = ("strace", "-f", "-y", "-o", str(log), "-e", "trace=syncfs,rename,fsync")
    run(farm, "link_mode=hardlink", "extract:one/a", before=words, FETCH_DURABILITY="full")
    lines = [line for line in log.read_text(errors="replace").splitlines() if "/v1/trees/" in line]
    synced = {found[1] for line in lines[:-2] if (found := re.search(r"sync(?:fs)?\(\d+<[^>]*\.part(/?[^>]*)>", line))}
    each = {f"/tree/{name}" for name in FILES} | {"", "/list", "/tree", "/tree/d", "/tree/e"}
    assert synced == ({""} if system_calls.FEATURES.syncfs else each), lines
    assert "rename" in lines[-2]
    assert "fsync" in lines[-1]


@pytest.mark.slow
def test_processes_at_once(farm: Farm) -> None:
    """Six processes that place the same tree extract it once, and each has its own correct copy."""
    run(farm, "fetch:a")
    processes = [farm.start("link_mode=hardlink", f"build=b{number}", "-n", "2", f"db={number}") for number in range(6)]
    assert [process.wait(120) for process in processes] == [0] * 6
    for number in range(6):
        for kit in ("one", "two"):
            assert leaves(farm.top / f"b{number}/{kit}/fetches") == TREE
            assert inodes(farm.top / f"b{number}/{kit}/fetches") == inodes(unpacked(farm) / "tree")


def archive_of(data: bytes, kind: str) -> Callable[[Callable[[Entry], None], Callable[[Entry], bool]], None]:
    def give(sink: Callable[[Entry], None], repeats: Callable[[Entry], bool]) -> None:
        read(io.BytesIO(data), name="a", format=kind, reshape=Reshape(), limits=LIMITS, sink=sink, repeats=repeats)

    return give


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not (case.code or case.options)])
def test_every_archive_of_the_corpus(name: str, tmp_path: Path) -> None:
    """A tree that is placed from the cache equals the extracted one."""
    case = CASES[name]
    give = archive_of(case.make(), case.kind)
    (tmp_path / "kept").mkdir()
    write_cached_tree(
        tmp_path / "kept", lambda writer: give(writer.add, writer.repeats), {}, copies=1 << 20, progress=Silent()
    )
    kept = CachedTree(tmp_path / "kept")
    for how in ("hardlink", "auto"):
        slot = Extraction(tmp_path / how, tmp_path / "records" / f"{how}.json")
        slot.lay(kept, name="a", how=how, limits=LIMITS, key="k", progress=Silent())
        assert slot.holds("k")
        assert leaves(tmp_path / how) == wanted(case.tree)
    assert kept.compare(give, Silent()) == {}
    remove_tree(tmp_path)  # pytest's own removal gives up at such depths


def test_a_damaged_tree_leaves_the_destination(tmp_path: Path) -> None:
    """An error found while placing a tree leaves existing entries unchanged."""
    (tmp_path / "kept").mkdir()
    write_cached_tree(
        tmp_path / "kept",
        lambda writer: archive_of(ARCHIVE, "tar")(writer.add, writer.repeats),
        {},
        copies=0,
        progress=Silent(),
    )
    slot = Extraction(tmp_path / "out", tmp_path / "records" / "one.json")
    slot.lay(CachedTree(tmp_path / "kept"), name="a", how="copy", limits=LIMITS, key="k", progress=Silent())
    edit(tmp_path / "kept/tree/d/same")
    with pytest.raises(DamagedTreeError, match="was changed"):
        slot.lay(CachedTree(tmp_path / "kept"), name="a", how="copy", limits=LIMITS, key="new", progress=Silent())
    assert slot.holds("k")
    assert leaves(slot.destination) == TREE
    assert {path.name for path in tmp_path.iterdir()} == {"kept", "out", "records"}


def test_the_key_of_an_unpacked_tree() -> None:
    """Everything that determines a tree, or whether it is allowed, is in the key, which changes only with a version."""
    pinned = Integrity(size=len(ARCHIVE), digest=Digest.sha256(hashlib.sha256(b"").hexdigest()))
    limits = {"max_entries": 7, "outward_symlinks": "refuse"}

    def key(**other: object) -> str:
        words = {"format": "tar", "limits": limits, "version": "1.1", **other}
        return recipe.unpacked_key(pinned, **words)  # type: ignore[arg-type]

    others = [key(format=""), key(version="2"), key(limits={**limits, "outward_symlinks": "keep"}), key()]
    assert len(set(others)) == 4
    assert set(Limits._fields) >= {"outward_symlinks", "case_twins"}
    assert key() == "f1abcc6912715f6d0716993d7f5ee8c14730149a878e79bb8d7cffc7e4aeb197"
