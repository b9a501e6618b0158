"""Faults around the cache: the real program is killed, and meets full disks, failing calls and changed files.

After each fault every visible entry is right, the earlier ones are byte-identical, the next run succeeds, and nothing
grows.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import hashlib
import json
import os
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks_lib.cache import Cache, Options
from tasks_lib.digest import Digest, Integrity
from tasks_lib.errors import BlobCorruptError, BlobMissingError, CacheUnavailableError, FetchError
from tasks_lib.fs import system_calls
from tasks_lib.fs.locks import locked
from tasks_lib.fs.trust import Trust
from tasks_lib.progress import Silent
from tests import zygote
from tests.archives import Member, tar
from tests.origin import Origin, OriginRequest, reply, serving
from tests.project import CLEAN, DODO, PYTHONPATH, definition

BIG = random.Random(7).randbytes(300_000)
LIBRARY = tar([Member("lib-1/"), Member("lib-1/lib.h", b"#define A 1\n" * 50), Member("lib-1/big", BIG[:100_000])])
TREE = {"lib/lib.h": b"#define A 1\n" * 50, "lib/big": BIG[:100_000]}
REPACK = "    artifact-name: lib.tar.zst\n    strip-components: 1\n    add-prefix: lib/\n"
#: Settings without which nothing differs but the time of a test.
ENVIRON = {
    **CLEAN,
    "PYTHONPATH": PYTHONPATH,
    "FETCH_RETRIES": "0",
    "FETCH_LOCK_TIMEOUT_S": "20",
    "FETCH_DURABILITY": "fast",
}


@dataclass
class Farm:
    """A repository whose sources are files, and the entries that its cache must keep."""

    top: Path

    def doit(self, *words: str, before: tuple[str, ...] = (), **environ: str) -> subprocess.CompletedProcess[str]:
        if not before and zygote.can_fork({**ENVIRON, **environ}):
            status, out, _ = zygote.run(words, self.top, {**ENVIRON, **environ}, subprocess.STDOUT)
            return subprocess.CompletedProcess(words, status, out.decode(errors="replace"))
        return subprocess.run(
            [*before, sys.executable, "-m", "doit", *words],
            cwd=self.top,
            env={**ENVIRON, **environ},
            text=True,
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=120,
        )

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "doit", *words],
            cwd=self.top,
            env=ENVIRON,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def cache(self) -> Path:
        return self.top / "cache"

    def blobs(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.cache.glob("v1/blobs/*/*/*")}

    def clear(self) -> None:
        """Reset the repository so that a run builds everything but the initial entry; files left by a kill stay."""
        for record in self.top.glob("build/*/.fetches/*.json"):
            record.write_text(record.read_text().replace('"key": "', '"key": "x').replace('"key": "x"', '"key": ""'))
        for name in ("v1/results", "v1/trees", "artifacts"):
            shutil.rmtree(self.cache / name, ignore_errors=True)
        for path in [*self.cache.glob("doit.db*"), *self.cache.glob("v1/blobs/*/*/*")]:
            if path not in self.earlier:
                path.unlink()

    earlier: dict[Path, bytes] = None  # type: ignore[assignment]  # set by `farm`

    def check(self) -> None:
        """Check that every visible entry is complete and correct, and that the earlier ones are unchanged."""
        for path, content in self.earlier.items():
            assert path.read_bytes() == content, path
        for path in self.cache.glob("v1/blobs/*/*/*"):
            status = path.lstat()
            assert stat.S_ISREG(status.st_mode), path
            assert stat.S_IMODE(status.st_mode) == 0o444, path
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
        for path in self.cache.glob("v1/results/*/*"):
            stored = json.loads(path.read_text())
            assert re.fullmatch(r"sha256:[0-9a-f]{64}", stored["digest"]), path
        for path in (path for path in self.cache.glob("artifacts/*/*/*")):
            assert hashlib.sha256(path.read_bytes()).hexdigest() in {
                one.name for one in self.cache.glob("v1/blobs/*/*/*")
            }
        for path in self.cache.glob("v1/trees/*/*"):
            for name, content in () if path.suffix == ".part" else TREE.items():
                assert (path / "tree" / name).read_bytes() == content
        self.check_tree()

    def check_tree(self) -> None:
        record = self.top / "build/kit/.fetches/lib.json"
        if record.exists() and json.loads(record.read_text().splitlines()[0])["key"]:
            for name, content in TREE.items():
                assert (self.top / "build/kit/fetches" / name).read_bytes() == content

    def succeed(self) -> None:
        """Check that the next run builds everything, and that all of it verifies."""
        done = self.doit()
        assert done.returncode == 0, done.stdout
        for name, content in TREE.items():
            assert (self.top / "build/kit/fetches" / name).read_bytes() == content
        self.check()
        assert not [
            *self.cache.glob("v1/tmp/*"),
            # a name that was not dropped after the blob had got its own takes no space; prune does it
            *(path for path in self.cache.glob("v1/partial/*") if path.stat().st_nlink == 1),
            *self.cache.glob("v1/trees/*/*.part"),
        ]
        assert not [path for path in self.top.glob("build/**/.*") if path.suffix in (".part", ".moving")]

    def files(self) -> set[str]:
        """Return the names of all files, except doit's and those with random names."""
        return {str(path.relative_to(self.top)) for path in self.top.rglob("*") if "doit.db" not in path.name}


@pytest.fixture
def farm(tmp_path: Path) -> Farm:
    """Return a farm with one initial entry: `old`."""
    return planted(tmp_path)


@pytest.fixture
def public() -> Iterator[Farm]:
    """Return such a farm that all users can read: pytest's own directories may be private to another session."""
    with tempfile.TemporaryDirectory(prefix="farm-") as name:
        Path(name).chmod(0o755)
        yield planted(Path(name))


def planted(tmp_path: Path) -> Farm:
    top = tmp_path / "farm"
    (top / "fetchdefs/fetch").mkdir(parents=True)
    (top / "fetchdefs/toolchain").mkdir()
    (tmp_path / "lib-1.tar").write_bytes(LIBRARY)
    (tmp_path / "big.bin").write_bytes(BIG)
    (tmp_path / "old.bin").write_bytes(b"old")
    (top / "dodo.py").write_text(DODO)
    (top / "fetchdefs/fetch/a.yml").write_text(
        definition("lib", f"file://{tmp_path}/lib-1.tar", LIBRARY, REPACK)
        + definition("big", f"file://{tmp_path}/big.bin", BIG)
        + definition("old", f"file://{tmp_path}/old.bin", b"old")
    )
    (top / "fetchdefs/toolchain/a.yml").write_text(
        "kit:\n  description: k\n  fetches: {fetch: [lib, {artifact: big, extract: false}]}\n"
    )
    made = Farm(top)
    made.earlier = {}
    done = made.doit("fetch:old")
    assert done.returncode == 0, done.stdout
    made.earlier = made.blobs()
    return made


def some_slow(rows: Iterable[object]) -> list[object]:
    """Return rows of a table as slow tests: they are similar to the others."""
    return [
        pytest.param(*(row if isinstance(row, tuple) else (row,)), marks=pytest.mark.slow)
        for row in sorted(rows, key=str)
    ]


# --- killed


def linking(farm: Farm) -> None:
    """Set up trees to be extracted in the cache and placed from there."""
    (farm.top / "pyproject.toml").write_text('[tool.doit-fetch]\nlink-mode = "hardlink"\n')


def test_killed_at_random(farm: Farm) -> None:
    """A kill at a random moment leaves only correct entries, and the next run succeeds."""
    killed_at_random(farm, 3)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", ["auto", "hardlink"])
def test_killed_at_200_random_moments(farm: Farm, mode: str) -> None:
    """After 200 kills no files have accumulated."""
    if mode == "hardlink":
        linking(farm)
    killed_at_random(farm, 200)


def killed_at_random(farm: Farm, times: int) -> None:
    farm.succeed()
    clean = farm.files()
    moments = random.Random(11)
    for _ in range(times):
        farm.clear()
        process = farm.start()
        time.sleep(moments.uniform(0.12, 0.5))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        farm.check()
        if moments.random() < 0.1:
            farm.succeed()
    farm.succeed()
    assert farm.files() <= clean | {name for name in farm.files() if "/v1/locks/" in name}


needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
needs_clones = pytest.mark.skipif(not system_calls.FEATURES.clone, reason="no clones are made here")
#: System calls by which a run changes the disk: each of them, each time, is a moment to die or to fail.
CALLS = (
    "fsync",
    "linkat",
    "mkdir",
    "unlink",
    "unlinkat",
    "rename",
    "fchmod",
    "ftruncate",
    "flock",
    "write",
    "pwrite64",
)


def counted(farm: Farm) -> dict[str, int]:
    """Return how often one thread makes each call, at most, in a run that builds everything."""
    farm.clear()
    log = farm.top.parent / "strace"
    words = ("strace", "-f", "-o", str(log), "-e", "trace=" + ",".join(CALLS))
    done = farm.doit(before=words, FETCH_DURABILITY="full")
    assert done.returncode == 0, done.stdout
    found: collections.Counter[tuple[str, str]] = collections.Counter()
    for line in log.read_text(errors="replace").splitlines():
        called = re.match(r"(\d+) +(\w+)\(", line)
        if called:
            found[called[1], called[2]] += 1
    most: dict[str, int] = {}
    for (_, call), count in found.items():
        most[call] = max(most.get(call, 0), count)
    return most


@needs_strace
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", ["auto", "hardlink"])
def test_killed_at_each_call(farm: Farm, mode: str) -> None:
    """A kill at each call that changes the disk leaves only correct entries."""
    if mode == "hardlink":
        linking(farm)
    moments = [(call, when) for call, count in counted(farm).items() for when in range(1, min(count, 8) + 1)]
    assert len(moments) > 30
    for call, when in moments:
        farm.clear()
        inject = f"inject={call}:signal=KILL:when={when}"
        farm.doit(before=("strace", "-f", "-o", "/dev/null", "-e", inject), FETCH_DURABILITY="full")
        try:
            farm.check()
            if when % 3 == 0:
                farm.succeed()
        except AssertionError as error:
            raise AssertionError(f"killed at {call} number {when}") from error
    farm.succeed()


@needs_strace
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("errno", "most", "mode"),
    [
        ("ENOSPC", 4, "auto"),
        ("EIO", 4, "auto"),
        ("EDQUOT", 99, "auto"),
        ("EROFS", 99, "auto"),
        ("EDQUOT", 8, "hardlink"),
    ],
)
def test_each_call_refused(farm: Farm, errno: str, most: int, mode: str) -> None:
    """A failing system call causes a clear error or none; nothing is lost, and the next run succeeds."""
    if mode == "hardlink":
        linking(farm)
    calls = set(CALLS) - {"pwrite64", "flock"}  # sqlite's own, and what is never refused for want of space
    for call, count in counted(farm).items():
        for when in range(1, min(count, most) + 1) if call in calls else ():
            refused(farm, f"inject={call}:error={errno}:when={when}")


def refused(farm: Farm, inject: str, *filter: str) -> None:
    """Let a call fail while everything is built; check the files left, and that the next run succeeds."""
    farm.clear()
    words = ("strace", "-f", "-o", "/dev/null", *filter, "-e", inject)
    done = farm.doit(before=words, FETCH_DURABILITY="full")
    try:
        assert "Traceback" not in done.stdout, done.stdout
        farm.check()
        farm.succeed()
    except AssertionError as error:
        raise AssertionError(" ".join([*filter, inject])) from error


def opened(farm: Farm) -> dict[str, int]:
    """Return how often each file or directory of cache and build is opened when everything is built."""
    farm.clear()
    log = farm.top.parent / "strace"
    done = farm.doit(before=("strace", "-f", "-o", str(log), "-e", "trace=openat"))
    assert done.returncode == 0, done.stdout
    found = re.findall(r'openat\(AT_FDCWD, "([^"]*)"', log.read_text(errors="replace"))
    names = [name for name in found if re.match(rf"(?:{re.escape(str(farm.top))}/)?(?:cache|build)\b", name)]
    return collections.Counter(name for name in names if not re.search(r"\.[0-9a-f]{8}$", name))


@needs_strace
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("errno", ["EMFILE", "EROFS"])
def test_each_open_refused(farm: Farm, errno: str) -> None:
    """Like `test_each_call_refused`, for opening each file of the cache and of the build."""
    places = opened(farm)
    assert len(places) > 30
    for place, count in places.items():
        most = 9 if "/.fetches/" in place else 3  # each reader of a record has to tell absent from unreadable
        for when in range(1, min(count, most) + 1):
            refused(farm, f"inject=openat:error={errno}:when={when}", "-P", place)


# --- no room


@contextlib.contextmanager
def mounted(place: Path, *words: str) -> Iterator[None]:
    place.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *words, str(place)], check=False, capture_output=True)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@root_only
@pytest.mark.parametrize("task", ["fetch:big", *some_slow(["repack:lib"])])
def test_no_space(farm: Farm, task: str, tmp_path: Path) -> None:
    """The error for a full disk has path, needed and free bytes; no temporary file is left; with space, the run continues."""
    place = tmp_path / "small"
    with mounted(place, "-t", "tmpfs", "-o", "size=1m", "tmpfs"):
        small = Farm(farm.top)
        cache = f"cache={place}/cache"
        assert small.doit(cache, "fetch:old").returncode == 0
        small.earlier = {path: path.read_bytes() for path in place.glob("cache/v1/blobs/*/*/*")}
        room = 200_000 if task == "fetch:big" else 150_000
        free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
        (place / "ballast").write_bytes(b"x" * (free - room))
        done = small.doit(cache, task)
        assert done.returncode != 0
        assert "No space left on device" in done.stdout, done.stdout
        assert str(place) in done.stdout
        assert re.search(r"\d+ bytes are needed, \d+ bytes are free", done.stdout), done.stdout
        assert "Traceback" not in done.stdout
        assert not [*place.glob("cache/v1/tmp/*"), *place.glob("cache/v1/partial/*")]
        for path, content in small.earlier.items():
            assert path.read_bytes() == content
        (place / "ballast").unlink()
        done = small.doit(cache, task)
        assert done.returncode == 0, done.stdout


def btrfs(image: Path) -> str:
    """Create a file system with quotas and shared blocks; return its image."""
    if shutil.which("mkfs.btrfs") is None:
        pytest.skip("btrfs-progs is not installed")
    with image.open("wb") as file:
        file.truncate(200 << 20)
    subprocess.run(["mkfs.btrfs", "-q", str(image)], check=True)
    return str(image)


@root_only
@pytest.mark.slow
def test_quota(farm: Farm, tmp_path: Path) -> None:
    """An exhausted quota is reported like a full disk."""
    place = tmp_path / "quota"
    with mounted(place, "-o", "loop", btrfs(tmp_path / "image")):
        for words in (["quota", "enable", str(place)], ["subvolume", "create", f"{place}/sub"]):
            subprocess.run(["btrfs", *words], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["btrfs", "qgroup", "limit", "300K", f"{place}/sub"], check=True)
        done = farm.doit(f"cache={place}/sub/cache", "fetch:big")
        assert done.returncode != 0
        assert "Disk quota exceeded" in done.stdout, done.stdout
        assert "300000 bytes are needed" in done.stdout
        assert not [*place.glob("sub/cache/v1/partial/*")]


#: shell words before doit -> what the error must contain.
STARVED = {"ulimit -f 100": "File too large", "ulimit -n 20": "Too many open files", "ulimit -n 32": ""}


@pytest.mark.parametrize("limit", ["ulimit -f 100", *some_slow(["ulimit -n 20", "ulimit -n 32"])])
def test_limits_of_the_process(farm: Farm, limit: str) -> None:
    """With low limits for file size or descriptors, a run succeeds or fails clearly; nothing is lost."""
    done = subprocess.run(
        ["sh", "-c", f"{limit}; exec {sys.executable} -m doit"],
        cwd=farm.top, env=ENVIRON, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    if done.returncode:
        assert STARVED[limit] in done.stdout, done.stdout
        assert "Traceback" not in done.stdout
    farm.check()
    farm.succeed()


# --- who may write


@pytest.mark.parametrize(
    ("place", "mode"),
    [
        ("cache", 0o1777),
        ("cache/v1", 0o775),
        *some_slow([("cache", 0o777), ("cache", 0o775), ("cache/v1/blobs", 0o777), ("cache/v1/locks", 0o1777)]),
    ],
)
def test_a_cache_that_others_can_write_is_refused(farm: Farm, place: str, mode: int) -> None:
    """The error says who can write to the cache and what to do; trusting the group is an option."""
    (farm.top / place).chmod(mode)
    done = farm.doit("list")
    assert done.returncode != 0
    assert "is not safe" in done.stdout
    assert "chmod go-w" in done.stdout
    assert "Traceback" not in done.stdout
    trusted = farm.doit("fetch", "trust_group=0")
    assert (trusted.returncode == 0) == (mode == 0o775), trusted.stdout


PARENTS: dict[str, tuple[str, str]] = {
    "all": ("chmod 0777 {up}", "{up} is a parent directory of it, and all users can write to it (mode 0777)"),
    "all, two above": ("mkdir {up}/a {up}/a/b; chmod 0777 {up}", "{up} is a parent"),
    "a group": ("chgrp 65534 {up}; chmod 0770 {up}", "group 65534 can write to it"),
    "its owner": ("chown 65534 {up}", "it is owned by user 65534"),
    "its owner, with a sticky bit": ("chown 65534 {up}; chmod 1777 {up}", "it is owned by user 65534"),
    "that of a symlink": ("mkdir {top}/own; ln -s {top}/own {up}/cache; chmod 0777 {up}", "{up} is a parent"),
    "that of its target": ("ln -s {up} {top}/link; mkdir {up}/b; ln -s b {up}/cache; chmod 0777 {up}", "{up} is a"),
    "a symlink of another user": (
        "chmod 1777 {up}; mkdir {top}/own; ln -s {top}/own {up}/cache; chown -h 65534 {up}/cache",
        "{up}/cache is a parent directory of it, and it is owned by user 65534",
    ),
    "all, with a sticky bit": ("chmod 1777 {up}", ""),
    "nobody": ("chmod 0755 {up}", ""),
}


@root_only
@pytest.mark.parametrize("case", PARENTS)
def test_a_parent_that_others_can_write(tmp_path: Path, case: str) -> None:
    """A user who can replace a directory or symlink on the way to a cache can replace the cache: refused, or warned."""
    made, message = PARENTS[case]
    up = tmp_path / "up"
    up.mkdir(mode=0o755)
    places = {"up": str(up), "top": str(tmp_path)}
    subprocess.run(["sh", "-ec", made.format(**places)], check=True)
    root = (tmp_path / "link" if "target" in case else up / "a/b" if "two" in case else up) / "cache"
    cache = Cache(root)
    if not message:
        assert cache.blob_directory.top == root / "v1"
        return
    with pytest.raises(CacheUnavailableError) as caught:
        cache.blob_directory.top  # noqa: B018 - a property that raises
    assert message.format(**places) in str(caught.value) and "cache_parents=warn" in str(caught.value)
    assert [message.format(**places) in line for line in Trust(parents="warn").require_root(root)] == [True]
    assert Trust(parents="ignore").require_root(root) == []


def test_the_setting_for_parents(farm: Farm) -> None:
    """With `cache_parents=warn`, every run warns about the parent; a no-op without it is refused again."""
    farm.top.chmod(0o777)
    refused, warned = farm.doit("list"), farm.doit("list", "cache_parents=warn")
    assert refused.returncode == 3 and f"{farm.top} is a parent directory" in refused.stdout, refused.stdout
    assert warned.returncode == 0 and f"warning: the cache cache is not safe: {farm.top} is a" in warned.stdout


#: May read what Python and this checkout are, wherever they lie, and write nowhere.
NOBODY = (
    "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
    "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search",
)  # fmt: skip


@root_only
def test_a_read_only_cache(public: Farm) -> None:
    """A read-only cache serves hits; a miss fails clearly, or is written to a private cache."""
    farm = public
    done = farm.doit("fetch:lib", "repack:lib")
    assert done.returncode == 0
    home = farm.top.parent / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    build = f"build={home}/build"
    before = farm.files()
    hit = farm.doit(build, "extract:lib", before=NOBODY)
    assert hit.returncode == 0, hit.stdout
    assert (home / "build/extracted/lib/lib/lib.h").read_bytes() == TREE["lib/lib.h"]
    miss = farm.doit(build, "fetch:big", before=NOBODY)
    assert miss.returncode != 0
    assert "big is not in the read-only cache cache (Permission denied)\nset FETCH_PRIVATE_CACHE_DIR" in miss.stdout
    assert "locks" not in miss.stdout
    assert "Traceback" not in miss.stdout
    private = farm.doit(build, f"private_cache={home}/own", before=NOBODY)
    assert private.returncode == 0, private.stdout
    assert farm.files() == before
    assert len([*(home / "own").glob("v1/blobs/*/*/*")]) == 1


def umasked(farm: Farm, mask: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", f"umask {mask}; exec {sys.executable} -m doit cache=fresh/cache build=fresh/build"],
        cwd=farm.top, env=ENVIRON, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("mask", ["000", *some_slow(["077"])])
def test_umask(farm: Farm, mask: str) -> None:
    """With any umask: the same content, blobs with mode 0444, and nothing that others can write."""
    for _ in range(2):
        done = umasked(farm, mask)
        assert done.returncode == 0, done.stdout
    farm.succeed()
    fresh = farm.top / "fresh/cache"
    names = {path.name for path in fresh.glob("v1/blobs/*/*/*")}
    assert names == {path.name for path in farm.cache.glob("v1/blobs/*/*/*")}
    for path in fresh.rglob("*"):
        if "doit.db" not in path.name and not path.is_symlink():
            assert path.stat().st_mode & 0o022 == 0, path
        if path.parent.parent.name == "sha256":
            assert path.stat().st_mode & 0o777 == 0o444


#: name -> environment and words around the program.
SURROUNDINGS = {
    "LANG=C": ({"LANG": "C", "LC_ALL": "C"}, ()),
    "no HOME": ({"HOME": ""}, ("env", "-u", "HOME")),
    "closed stdout": ({}, ("sh", "-c", 'exec "$@" >&-', "sh")),
    "closed everything": ({}, ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh")),
    "TZ": ({"TZ": "Pacific/Kiritimati"}, ()),
}


@pytest.mark.parametrize("name", ["closed everything", *some_slow(set(SURROUNDINGS) - {"closed everything"})])
def test_environments(farm: Farm, name: str) -> None:
    """The results are the same in every environment."""
    environ, before = SURROUNDINGS[name]
    done = farm.doit(before=before, **environ)
    assert done.returncode == 0, done.stdout
    farm.succeed()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is not installed")
@pytest.mark.parametrize("when", ["1970-01-02 00:00:00", "2100-01-01 00:00:00", "-400d"])
def test_clock(farm: Farm, when: str) -> None:
    """A clock that jumps causes no hang, no wrong ages, and no removal of needed entries."""
    done = farm.doit(before=("faketime", "-f", when))
    assert done.returncode == 0, done.stdout
    blobs = farm.blobs()
    for time_of_prune in (when, "+0d"):
        done = farm.doit("prune", before=("faketime", "-f", time_of_prune))
        assert done.returncode == 0, done.stdout
        assert farm.blobs() == blobs
    farm.succeed()


# --- what is in a blob's place


def replace(path: Path, kind: str, elsewhere: Path) -> None:
    content = path.read_bytes()
    path.chmod(0o644)
    if kind == "bit flip":
        flipped = bytearray(content)
        flipped[len(flipped) // 2] ^= 1
        path.write_bytes(flipped)
    elif kind == "truncation":
        os.truncate(path, len(content) - 1)
    elif kind == "others can write":
        path.chmod(0o666)
    else:
        path.unlink()
        elsewhere.write_bytes(b"not ours")
        if kind == "symlink":
            path.symlink_to(elsewhere)
        elif kind == "hard link":
            path.hardlink_to(elsewhere)
        elif kind == "FIFO":
            os.mkfifo(path)
        elif kind == "directory":
            path.mkdir()


@pytest.mark.parametrize(
    "kind", ["bit flip", "symlink", *some_slow(["truncation", "hard link", "FIFO", "directory", "others can write"])]
)
def test_replaced_blob(farm: Farm, kind: str, tmp_path: Path) -> None:
    """Another kind of file in the place of a blob is never followed or served, but quarantined; the content is fetched again."""
    farm.succeed()
    elsewhere = tmp_path / "elsewhere"
    path = farm.cache / "v1/blobs/sha256" / hashlib.sha256(BIG).hexdigest()[:2] / hashlib.sha256(BIG).hexdigest()
    replace(path, kind, elsewhere)
    found = farm.doit("verify")
    assert found.returncode == 1, found.stdout
    assert "fetch:big" in found.stdout
    assert not os.path.lexists(path)
    farm.succeed()
    replace(path, kind, elsewhere)
    farm.succeed()
    if elsewhere.exists():
        assert elsewhere.read_bytes() == b"not ours"
    assert any((farm.cache / "v1/quarantine").iterdir())


# --- others at work


@contextlib.contextmanager
def stubborn(body: bytes) -> Iterator[tuple[Origin, threading.Event]]:
    """Serve `/slow`: half of the body, and the rest when the event is set."""
    go = threading.Event()

    def answer(connection: object, request: OriginRequest) -> None:
        del request
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
        connection.sendall(head + body[: len(body) // 2])  # type: ignore[attr-defined]
        go.wait(60)
        connection.sendall(body[len(body) // 2 :])  # type: ignore[attr-defined]

    with serving({"/slow": answer}) as origin:
        yield origin, go


@pytest.mark.slow
def test_a_stopped_holder(farm: Farm) -> None:
    """A run that waits for a stopped process names it and times out; when that process continues, both succeed."""
    body = b"slow" * 1000
    with stubborn(body) as (origin, go):
        (farm.top / "fetchdefs/fetch/slow.yml").write_text(definition("slow", f"{origin.url}/slow", body))
        process = farm.start("fetch:slow")
        while not origin.requests:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGSTOP)
        begun = time.monotonic()
        done = farm.doit("fetch:slow", "lock_timeout=1")
        took_s = time.monotonic() - begun
        assert done.returncode != 0
        assert f"waited 1 s for process {process.pid}" in done.stdout, done.stdout
        assert took_s < 15
        os.kill(process.pid, signal.SIGCONT)
        go.set()
        assert process.wait(30) == 0
        assert farm.doit("fetch:slow").returncode == 0
        assert len(origin.requests) == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_eight_processes_and_a_reader(tmp_path: Path) -> None:
    """8 processes with 50 definitions and one cache: each is fetched once, and a verifying reader sees no partial blob."""
    bodies = {f"n{number}": random.Random(number).randbytes(20_000 + 997 * number) for number in range(50)}
    with serving({f"/{name}": reply(body) for name, body in bodies.items()}) as origin:
        text = "".join(definition(name, f"{origin.url}/{name}", body) for name, body in bodies.items())
        farms = []
        for number in range(8):
            top = tmp_path / f"r{number}"
            (top / "fetchdefs/fetch").mkdir(parents=True)
            (top / "dodo.py").write_text(DODO)
            (top / "fetchdefs/fetch/a.yml").write_text(text)
            farms.append(Farm(top))
        cache = f"cache={tmp_path}/cache"
        processes = [farm.start(cache) for farm in farms]
        torn, looks = 0, 0
        while any(process.poll() is None for process in processes):
            for path in tmp_path.glob("cache/v1/blobs/*/*/*"):
                torn += hashlib.sha256(path.read_bytes()).hexdigest() != path.name
            assert farms[0].doit(cache, "verify").returncode == 0
            looks += 1
        assert [process.returncode for process in processes] == [0] * 8
        assert torn == 0
        assert looks
        assert collections.Counter(origin.paths()) == {f"/{name}": 1 for name in bodies}


@pytest.mark.parametrize("times", [40, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("how", ["rename", "in place"])
def test_swaps_between_verify_and_use(tmp_path: Path, how: str, times: int) -> None:
    """While a blob's content is replaced continuously, a reader gets the right bytes or an error."""
    right, wrong = b"right" * 2000, b"wrong" * 2000
    pinned = Integrity(size=len(right), digest=Digest.sha256(hashlib.sha256(right).hexdigest()))
    store = Cache(tmp_path / "cache")

    def put() -> None:
        with store.writer() as writer:
            writer.write(right)
            writer.commit()

    put()
    path = store.path(pinned.digest)
    stop = threading.Event()
    pauses = random.Random(3)

    def swap() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            time.sleep(pauses.choice([0, 0, 0.001, 0.12]))
            with contextlib.suppress(OSError):
                if how == "rename":
                    other = tmp_path / f"other{number % 7}"
                    other.write_bytes(wrong if number % 2 else right)
                    other.chmod(0o444)
                    other.rename(path)
                else:
                    with path.open("r+b") as file:
                        file.write(wrong if number % 2 else right)

    thread = threading.Thread(target=swap)
    thread.start()
    served = refused = 0
    try:
        for _ in range(times):
            try:
                with store.open(pinned) as file:
                    content = b"".join(iter(lambda: file.read(4096), b""))
                assert content == right
                served += 1
            except BlobMissingError:
                with contextlib.suppress(FetchError):
                    put()
            except BlobCorruptError:
                refused += 1
    finally:
        stop.set()
        thread.join()
    assert served
    assert len(list(tmp_path.glob("cache/v1/quarantine/*"))) < 100


@pytest.mark.slow
def test_an_open_blob_survives_prune(farm: Farm) -> None:
    """An open blob is leased: prune reports that it stays, and removes it once it is closed."""
    farm.succeed()
    path = next(iter(farm.earlier))
    definitions = farm.top / "fetchdefs/fetch/a.yml"
    definitions.write_text(definitions.read_text().partition("old:\n")[0])
    then = time.time() - 7200
    for one in farm.cache.rglob("*"):
        if "doit.db" not in one.name:
            os.utime(one, (then, then), follow_symlinks=False)
    with path.open("rb") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_SH)
        done = farm.doit("prune")
        assert "in use" in done.stdout, done.stdout
        assert path.exists()
    farm.doit("prune")
    assert not path.exists()
    farm.earlier = {}
    farm.succeed()


def test_failures_keep_no_descriptor(tmp_path: Path) -> None:
    """A thousand failures leak no descriptor."""
    store = Cache(tmp_path / "cache")
    pinned = Integrity(size=3, digest=Digest.sha256(hashlib.sha256(b"abc").hexdigest()))
    store.has(pinned)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(1000):
        with pytest.raises(FetchError), store.writer() as writer:
            writer.write(b"abd")
            writer.commit(pinned)
        with pytest.raises(FetchError):
            store.open(pinned)
        assert not store.has(pinned)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@needs_strace
def test_has_is_one_stat(farm: Farm) -> None:
    """A repeated lookup of a blob costs one lstat."""
    content = b"old"
    code = (
        "import os; from pathlib import Path\n"
        "from tasks_lib.digest import Digest, Integrity; from tasks_lib.cache import Cache\n"
        f"pinned = Integrity(size=3, digest=Digest.sha256('{hashlib.sha256(content).hexdigest()}'))\n"
        "store = Cache(Path('cache')); assert store.has(pinned)\n"
        "os.access('/begin', 0)\n"
        "for _ in range(10): assert store.has(pinned)\n"
        "os.access('/end', 0)\n"
    )
    log = farm.top.parent / "log"
    words = ["strace", "-o", str(log), sys.executable, "-c", code]
    subprocess.run(words, cwd=farm.top, env=ENVIRON, check=True)
    calls = log.read_text().partition('"/begin"')[2].partition('"/end"')[0].splitlines()[1:-1]
    assert len(calls) == 10, calls
    assert all("stat" in call for call in calls)


@root_only
@pytest.mark.slow
@needs_clones
def test_clones(farm: Farm, tmp_path: Path) -> None:
    """With shared blocks, placing takes no space, and a write to the placed file does not change the blob."""
    place = tmp_path / "btrfs"
    with mounted(place, "-o", "loop", btrfs(tmp_path / "image")):
        words = (f"cache={place}/cache", f"build={place}/build")
        assert farm.doit(*words).returncode == 0
        placed = place / "build/kit/fetches/big.bin"
        blob = next(place.glob(f"cache/v1/blobs/*/*/{hashlib.sha256(BIG).hexdigest()}"))
        assert placed.stat().st_ino != blob.stat().st_ino
        extents = [
            subprocess.run(["filefrag", "-v", path], stdout=subprocess.PIPE, text=True).stdout
            for path in (placed, blob)
        ]
        assert "shared" in extents[0]
        placed.write_bytes(b"changed")
        assert blob.read_bytes() == BIG
        shutil.rmtree(place / "build")
        farm.doit(*words, "link_mode=hardlink")
        assert placed.stat().st_ino == blob.stat().st_ino


def children(process: int) -> list[int]:
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(word) for word in path.read_text().split()] if path.exists() else []


@pytest.mark.slow
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_a_verify_that_is_stopped(farm: Farm, number: str) -> None:
    """A stopped verify ends soon with its workers; after SIGINT the exit status is 130."""
    for place in range(8):
        with farm.cache.joinpath("ballast").open("wb") as file:
            file.truncate((200 << 20) + place)
        digest = f"{place:064x}"
        name = farm.cache / "v1/blobs/sha256" / digest[:2] / digest
        name.parent.mkdir(exist_ok=True)
        farm.cache.joinpath("ballast").rename(name)
    process = farm.start("verify")
    while not (workers := children(process.pid)):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, getattr(signal, number)) if number == "SIGINT" else process.send_signal(
        getattr(signal, number)
    )
    begun = time.monotonic()
    status = process.wait(30)
    assert time.monotonic() - begun < 10
    assert status == (130 if number == "SIGINT" else -getattr(signal, number))
    time.sleep(0.5)
    for worker in workers:
        state = Path(f"/proc/{worker}/stat")
        assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


@needs_strace
@pytest.mark.slow
def test_order_for_a_power_loss(farm: Farm) -> None:
    """Each blob is synced before it is renamed, and its directory afterwards."""
    farm.clear()
    log = farm.top.parent / "log"
    words = ("strace", "-f", "-y", "-o", str(log), "-e", "trace=fsync,linkat")
    assert farm.doit(before=words, FETCH_DURABILITY="full").returncode == 0
    synced: dict[str, list[str]] = collections.defaultdict(list)  # of each thread, since its last name
    named = 0
    lines = log.read_text(errors="replace").splitlines()
    for number, line in enumerate(lines):
        if found := re.search(r"fsync\(\d+<([^>]*)>", line):
            synced[line.split()[0]].append(found[1])
        elif found := re.search(
            r'linkat\(.*, "(?:/proc/self/fd/\d+|[^"]*/v1/(?:partial|tmp)/[^"]+)", .*, "[^"]*/v1/(blobs/sha256/..)/([0-9a-f]{64})"',
            line,
        ):
            named += 1
            assert any("/v1/partial/" in path or "/v1/tmp/" in path for path in synced[line.split()[0]]), line
            later = [one for one in lines[number:] if f"/v1/{found[1]}>" in one and "fsync" in one]
            assert later, line
            synced[line.split()[0]].clear()
    assert named >= 3


#: Tries to take every lock below a directory, as a user who may only read; prints how many, and their files.
TAKE_LOCKS = """
import fcntl, os, sys
held = []
for root, _, files in os.walk(sys.argv[1]):
    for path in (os.path.join(root, one) for one in files):
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        if "lock" in path[len(sys.argv[1]):] or path.endswith(("doit.db", "-shm", "-wal")):
            held.append(path)
print(held)
"""


@root_only
def test_locks_that_others_cannot_open(farm: Farm, tmp_path: Path) -> None:
    """No other user can open a lock file or the database, old or new; with a trusted group its members can."""
    assert farm.doit().returncode == 0
    locks = [path for path in farm.top.rglob("*") if path.is_file() and "lock" in str(path.relative_to(farm.top))]
    assert len(locks) > 3 and {stat.S_IMODE(path.stat().st_mode) for path in locks} == {0o600}
    locks[0].chmod(0o644)  # as earlier versions made it
    with locked(locks[0], timeout_s=1, progress=Silent()):
        assert stat.S_IMODE(locks[0].stat().st_mode) == 0o600
    (farm.top / "cache/doit.db").chmod(0o644)
    assert farm.doit("fetch").returncode == 0
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o755)
    reader = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "python3", "-c", TAKE_LOCKS, str(farm.top)]
    found = subprocess.run(reader, capture_output=True, text=True, check=True, cwd="/")
    assert found.stdout == "[]\n"
    shared = Cache(tmp_path / "shared", Options(trust=Trust(group=65534)))
    shared.root.mkdir()
    os.chown(shared.root, 0, 65534)
    shared.root.chmod(0o2775)
    with shared.lock("ab"):
        status = (shared.root / "v1/locks/ab").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o660, 65534)
