"""Root file systems: mmdebstrap runs without a network, and its tar becomes a deterministic layer."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tasks_lib.cache import Cache, Options
from tasks_lib.errors import ArchiveError, CancelledError, ToolError
from tasks_lib.fs.locks import held, hold_directory
from tasks_lib.image.root_layer import write_root_layer
from tasks_lib.image.rootfs import RootFilesystem, build_rootfs, mmdebstrap_version
from tasks_lib.limits import Limits
from tasks_lib.progress import Silent
from tests.debian_root import EPOCH, needs_mmdebstrap, root_filesystem, write_flat_repository
from tests.project import PYTHONPATH, written
from tests.test_archive import open_directory

__all__ = ["open_directory"]

#: A process that has ended: the largest id that Linux gives, plus one.
NOBODY_RUNS = 1 << 22


# --- the layer


class Member(tarfile.TarInfo):
    """A member of mmdebstrap's tar."""

    def __init__(self, name: str, content: bytes = b"", **facts: object) -> None:
        super().__init__(f"./{name}")
        self.content, self.size, self.mode, self.mtime = content, len(content), 0o644, EPOCH
        for key, value in facts.items():
            setattr(self, key, value)


def directory(name: str, mode: int = 0o755) -> Member:
    return Member(name, type=tarfile.DIRTYPE, mode=mode)


LIMITS = Limits()


def layer_of(*members: Member, limits: Limits = LIMITS, latest: int = EPOCH) -> bytes:
    """Return the layer of a tar with these members."""
    source, layer = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=source, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(member.content))
    source.seek(0)
    hexed = write_root_layer(source, latest=latest, epoch=EPOCH, limits=limits, write=layer.write, progress=Silent())
    assert hexed == hashlib.sha256(layer.getvalue()).hexdigest()
    return layer.getvalue()


def entries(layer: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        return {member.name: member for member in tar}


LEFT_OUT = {
    "a device": Member("dev/null", type=tarfile.CHRTYPE),
    "a link of devices": Member("dev/fd", type=tarfile.SYMTYPE, linkname="/proc/self/fd"),
    "a directory of devices": directory("dev/pts"),
    "a process": Member("proc/1/stat", b"x"),
    "a device of the kernel": directory("sys/class"),
    "a named pipe": Member("srv/pipe", type=tarfile.FIFOTYPE),
    "a log": Member("var/log/apt/term.log", b"x"),
    "a cache": Member("var/cache/debconf/config.dat", b"x"),
    "a directory of apt's cache": directory("var/cache/apt/archives"),
    "a package list": Member("var/lib/apt/lists/lock"),
    "the host's name": Member("etc/hostname", b"x"),
    "the host's resolver": Member("etc/resolv.conf", b"x"),
    "the package source": Member("etc/apt/sources.list", b"copy:///here"),
    "another package source": Member("etc/apt/sources.list.d/0000here.list", b"copy:///here"),
    "options of mmdebstrap for apt": Member("etc/apt/apt.conf.d/99mmdebstrap"),
    "options of mmdebstrap for dpkg": Member("etc/dpkg/dpkg.cfg.d/99mmdebstrap"),
    "a host key": Member("etc/ssh/ssh_host_rsa_key", b"secret"),
    "a manual": Member("usr/share/man/man1/ls.1.gz", b"x"),
    "a page of info": Member("usr/share/info/ls.info", b"x"),
    "the options of a linter": Member("usr/share/lintian/overrides/ls", b"x"),
    "documentation": Member("usr/share/doc/ls/NEWS", b"x"),
    "documentation below the name of a copyright": Member("usr/share/doc/ls/copyright/x", b"x"),
    "a translation": Member("usr/share/locale/de/LC_MESSAGES/ls.mo", b"x"),
}
KEPT = {
    "the directory of devices": directory("dev"),
    "a directory of logs": directory("var/log/apt"),
    "a directory of caches": directory("var/cache/debconf"),
    "a directory of manuals": directory("usr/share/man/man1"),
    "a copyright": Member("usr/share/doc/ls/copyright", b"x"),
    "a link to a copyright": Member("usr/share/doc/ls2/copyright", type=tarfile.SYMTYPE, linkname="../ls/copyright"),
    "locale.alias": Member("usr/share/locale/locale.alias", b"x"),
    "options of a package": Member("etc/apt/apt.conf.d/01autoremove", b"x"),
    "a package source of a package": Member("etc/apt/sources.list.d/vendor.list", b"x"),
    "the configuration of ssh": Member("etc/ssh/ssh_config", b"x"),
    "a name that begins like a directory": Member("device", b"x"),
}


@pytest.mark.parametrize("what", LEFT_OUT)
def test_left_out(what: str) -> None:
    """What differs between machines and runs, and documentation, is not in the layer."""
    assert list(entries(layer_of(LEFT_OUT[what], Member("kept", b"x")))) == ["kept"]


@pytest.mark.parametrize("what", KEPT)
def test_kept(what: str) -> None:
    """The directories of what is left out, copyrights, and all else are in the layer."""
    assert list(entries(layer_of(KEPT[what]))) == [KEPT[what].name.removeprefix("./")]


def test_attributes() -> None:
    """Mode, numeric owner, capabilities and earlier times are kept; later times are clamped, names of owners dropped."""
    capabilities = b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\n\xff\x00".decode("utf-8", "surrogateescape")
    found = entries(
        layer_of(
            directory(".", 0o755),
            Member("z", b"later", mtime=EPOCH + 1, uid=42, gid=65534, uname="_apt", gname="nogroup"),
            Member("ping", b"x", mode=0o4755, pax_headers={"SCHILY.xattr.security.capability": capabilities,
                                                            "SCHILY.xattr.user.note": "host"}, mtime=7.9),
            directory("tmp", 0o1777),
            Member("x", type=tarfile.SYMTYPE, linkname="./y/"),
            latest=EPOCH,
        )
    )  # fmt: skip
    assert list(found) == [".", "ping", "tmp", "x", "z"]
    assert found["x"].linkname == "./y/"
    assert (found["z"].mtime, found["z"].uid, found["z"].gid, found["z"].uname, found["z"].gname) == (
        EPOCH, 42, 65534, "", "",
    )  # fmt: skip
    assert (found["ping"].mode, found["ping"].mtime, found["tmp"].mode) == (0o4755, 7, 0o1777)
    assert found["ping"].pax_headers == {"SCHILY.xattr.security.capability": capabilities}


def test_a_time_after_the_start_is_clamped() -> None:
    """With an epoch in the future, what the program made gets the epoch, so that two runs are the same."""
    times = {"made": EPOCH - 5, "before": EPOCH - 10, "packaged": EPOCH - 20}
    found = entries(layer_of(*(Member(name, mtime=time) for name, time in times.items()), latest=EPOCH - 10))
    assert {name: one.mtime for name, one in found.items()} == {**times, "made": EPOCH}


def test_order_and_hard_links() -> None:
    """The order of the source has no effect; the first kept name of a file has its content, also if that was elsewhere."""
    members = [
        Member("usr/share/doc/x/NEWS", b"content"),
        Member("b", type=tarfile.LNKTYPE, linkname="./usr/share/doc/x/NEWS"),
        Member("a/ä" + "long" * 40, type=tarfile.LNKTYPE, linkname="./usr/share/doc/x/NEWS"),
        directory("a"),
        Member("a-b", b"x"),
    ]  # fmt: skip
    layer = layer_of(*members)
    found = entries(layer)
    assert list(found) == ["a", "a-b", "a/ä" + "long" * 40, "b"]
    assert found["b"].linkname == "a/ä" + "long" * 40
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        content = tar.extractfile("b")
        assert content is not None
        assert content.read() == b"content"
    assert layer_of(members[3], members[4], *members[:3]) == layer
    assert len(layer) % 10240 == 0


REFUSED: Mapping[str, tuple[Callable[[], object], str]] = {
    "too many entries": (lambda: layer_of(Member("a"), Member("b"), limits=Limits(max_entries=1)), "TOO_MANY_ENTRIES"),
    "too many bytes": (lambda: layer_of(Member("a", b"xx"), limits=Limits(max_total_bytes=1)), "TOO_LARGE"),
    "a large user id": (lambda: layer_of(Member("a", uid=8**7)), "NUMBER"),
    "a link to nothing": (lambda: layer_of(Member("a", type=tarfile.LNKTYPE, linkname="./b")), "HARDLINK"),
    "no tar": (lambda: write_root_layer(
        io.BytesIO(b"x" * 1024), latest=0, epoch=0, limits=Limits(), write=len, progress=Silent()), "CORRUPT"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str) -> None:
    """A damaged or too large tar is refused with its code."""
    act, code = REFUSED[what]
    with pytest.raises(ArchiveError, match=rf"\[{code}\]"):
        act()


# --- the program


def test_mmdebstrap_is_missing(tmp_path: Path) -> None:
    """The error names the Debian package."""
    with pytest.raises(ToolError, match=r"mmdebstrap is not installed\ninstall .*; or set `mmdebstrap` of the image"):
        mmdebstrap_version(str(tmp_path))


@pytest.mark.parametrize("printed", ["mmdebstrap 0.7.5", "mmdebstrap 1.2.10"])
def test_mmdebstrap_is_too_old(printed: str, tmp_path: Path) -> None:
    """The error names the versions that work; a fitting one is returned for the recipe key."""
    program = written(tmp_path / printed, {"mmdebstrap": f"#!/bin/sh\necho '{printed}'\n"}) / "mmdebstrap"
    program.chmod(0o755)
    with pytest.raises(ToolError, match=rf"{printed} is too old\ninstall .* version 1.3 or later"):
        mmdebstrap_version(str(program.parent))
    program.write_text("#!/bin/sh\necho mmdebstrap 1.10.0\n")
    mmdebstrap_version.cache_clear()
    assert mmdebstrap_version(str(program.parent)) == "1.10.0"


#: Prints the words before mmdebstrap, and why the system rejects them.
ISOLATION = "import os; from tasks_lib.host import find_root_isolation; print(*find_root_isolation(os.environ))"


def isolation(*before: str) -> str:
    """Return what a program that runs after these words prints."""
    words = [*before, sys.executable, "-c", ISOLATION]
    environ = {**os.environ, "PYTHONPATH": PYTHONPATH}
    return subprocess.run(words, env=environ, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(not shutil.which("fakeroot"), reason="needs fakeroot")
def test_fakeroot_changes_nothing() -> None:
    """Below fakeroot, root is root, and any other user needs a user namespace: no command inherits the library."""
    assert isolation("fakeroot") == isolation()
    assert ("--map-auto" in isolation("fakeroot")) == (os.geteuid() != 0)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and unshare")
def test_a_user_namespace_with_one_id() -> None:
    """The reason names the ids that a user namespace lacks, instead of a failure of tar in mmdebstrap."""
    if subprocess.run(["unshare", "--map-root-user", "true"], check=False).returncode:
        pytest.skip("no user namespace can be made here, as in a chroot: user_namespaces(7)")
    assert "a Debian system has 65535 user ids, but the user namespace has 1" in isolation("unshare", "--map-root-user")
    assert "user namespace has" not in isolation()


def test_staging_of_a_killed_run(tmp_path: Path) -> None:
    """The next run removes the directory of a killed one, but not while a program works in it."""
    cache = Cache(tmp_path / "cache", Options("fast"))
    with cache.staging() as own:
        left = own.with_name(f"{NOBODY_RUNS}-0")
        used = own.with_name(f"{NOBODY_RUNS}-1")
        for path in (left, used):
            written(path, {"a/b": "x"})
            (path / "a").chmod(0)
        with hold_directory(used):
            program = subprocess.Popen(["sleep", "600"], pass_fds=held())
        cache.join(tmp_path, "{}")
        assert (own.exists(), left.exists(), used.exists()) == (True, False, True)
    assert not own.exists()
    program.kill()
    program.wait()
    cache.join(tmp_path, "{}")
    assert not used.exists()


# --- mmdebstrap itself


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a flat repository."""
    return write_flat_repository(tmp_path_factory.mktemp("debian"))


def build(root: RootFilesystem, cache: Path, progress: Silent | None = None) -> bytes:
    """Return the layer."""
    layer = io.BytesIO()
    with Cache(cache, Options("fast")).staging() as staging:
        build_rootfs(
            root,
            staging=staging,
            write=layer.write,
            environ=os.environ,
            limits=Limits(),
            progress=progress or Silent(),
        )
    assert not list((cache / "v1/tmp").iterdir())
    return layer.getvalue()


@pytest.fixture(scope="module")
def first(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the layer that root builds."""
    return build(root_filesystem(repository), tmp_path_factory.mktemp("cache"))


@needs_mmdebstrap
@pytest.mark.slow
def test_layer(first: bytes) -> None:
    """Scripts run as root, without a network, in UTC and C.UTF-8; the layer has no path of this machine."""
    found = entries(first)
    assert "etc/made-UTC-C.UTF-8" in found
    assert (found["usr/bin/tool"].mode, found["usr/bin/tool"].linkname) == (0o4755, "usr/bin/a-tool")
    assert (found["var/lib/tool/private"].mode, found["var/lib/tool/private/file"].uid) == (0o700, 1)
    assert found["etc/machine-id"].size == 0
    assert {one.mtime for one in found.values()} == {EPOCH}
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        devices = tar.extractfile("etc/network-devices")
        assert devices is not None
        assert [line.partition(":")[0].strip() for line in devices.read().decode().splitlines()[2:]] == ["lo"]
    assert b"pytest" not in first


@needs_mmdebstrap
@pytest.mark.slow
def test_the_same_elsewhere(first: bytes, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time zone, locale, umask, the number of cores and the place of the repository have no effect."""
    moved = shutil.copytree(repository, tmp_path / "an other/place")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setenv("LC_ALL", "C")
    mask, pinned = os.umask(0o077), ["taskset", "--pid", "--cpu-list"]
    cores = subprocess.run([*pinned, str(os.getpid())], capture_output=True, text=True, check=True).stdout.split()[-1]
    try:
        subprocess.run([*pinned, "0", str(os.getpid())], capture_output=True, check=True)
        assert build(root_filesystem(moved), tmp_path / "cache") == first
    finally:
        subprocess.run([*pinned, cores, str(os.getpid())], capture_output=True, check=True)
        os.umask(mask)


@needs_mmdebstrap
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("newuidmap"), reason="needs newuidmap (Debian package uidmap)")
def test_the_same_for_nobody(first: bytes, repository: Path, open_directory: Path) -> None:
    """An ordinary user gets the same bytes, and removes what a killed run left with ids of its range."""
    open_directory.chmod(0o755)
    moved = shutil.copytree(repository, open_directory / "flat")
    left = open_directory / f"cache/v1/tmp/{NOBODY_RUNS}-0"
    foreign = left / "mmdebstrap.x/var/lib/private"
    foreign.mkdir(parents=True)
    (foreign / "file").touch()
    for path in (open_directory / "cache").rglob("*"):
        os.chown(path, 65534, 65534)
    os.chown(open_directory / "cache", 65534, 65534)
    os.chown(foreign, 500_001, 500_001)
    foreign.chmod(0o700)
    ranges = written(open_directory, {"ranges": "nobody:500000:65536\n"}) / "ranges"
    status = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", AS_NOBODY, str(ranges), str(moved), str(open_directory / "cache")],
        env={**os.environ, "PYTHONPATH": PYTHONPATH}, check=False, capture_output=True,
    )  # fmt: skip
    assert status.returncode == 0, status.stderr.decode()
    assert status.stdout == first


#: Run by root in a mount namespace of its own, where `nobody` has a range of ids.
AS_NOBODY = """
import subprocess, sys
from pathlib import Path
from tests.test_archive import as_nobody
from tests.test_rootfs import build
from tests.debian_root import root_filesystem
for name in ("/etc/subuid", "/etc/subgid"):
    subprocess.run(["mount", "--bind", sys.argv[1], name], check=True)
def act():
    sys.stdout.buffer.write(build(root_filesystem(Path(sys.argv[2])), Path(sys.argv[3])))
    sys.stdout.flush()
    return True
sys.exit(0 if as_nobody(act) else 1)
"""


@needs_mmdebstrap
@pytest.mark.slow
def test_failure(repository: Path, tmp_path: Path) -> None:
    """A package that is missing fails with apt's reason; nothing is left."""
    with pytest.raises(ToolError, match=r"mmdebstrap failed with status \d+: E: Unable to locate package absent"):
        build(root_filesystem(repository, ("tiny-base", "absent")), tmp_path)
    assert not list((tmp_path / "v1/tmp").iterdir())


class Stopped(Silent):
    """A progress that stops the run once mmdebstrap works."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    def check(self) -> None:
        if list(self._cache.glob("v1/tmp/*/mmdebstrap.*/var")):
            raise CancelledError("stopped")


@needs_mmdebstrap
@pytest.mark.slow
def test_cancelled(repository: Path, tmp_path: Path) -> None:
    """A cancelled run leaves nothing: no process, no mount, no file."""
    with pytest.raises(CancelledError):
        build(root_filesystem(repository), tmp_path, Stopped(tmp_path))
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


@needs_mmdebstrap
@pytest.mark.slow
def test_killed(repository: Path, tmp_path: Path) -> None:
    """After kill -9 of the run, its programs end, and the next run finds no mount and leaves no file of it."""
    code = "import sys; from pathlib import Path; from tests.test_rootfs import build, root_filesystem\n"
    code += "build(root_filesystem(Path(sys.argv[1])), Path(sys.argv[2]))"
    running = subprocess.Popen(
        [sys.executable, "-c", code, str(repository), str(tmp_path)], env={**os.environ, "PYTHONPATH": PYTHONPATH}
    )
    while not list(tmp_path.glob("v1/tmp/*/mmdebstrap.*/var")):
        assert running.poll() is None
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    cache = Cache(tmp_path, Options("fast"))
    while list((tmp_path / "v1/tmp").iterdir()):
        assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
        cache.join(tmp_path, "{}")
        time.sleep(0.1)
