"""Without what Linux offers beyond POSIX: each fallback is used, and keeps the promises of the cache.

The other tests run with all fallbacks too, by `PYTHONPATH=$PWD/tests/portable pytest`; see docs/platforms.md.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.project import CLEAN, PORTABLE, PYTHONPATH, ROOT, ran
from tests.test_cache_faults import BIG, Farm, needs_strace, planted, root_only

needs_unshare = pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is not installed")
#: PYTHONPATH of a program with what Linux offers, and of one with all fallbacks.
EITHER = {"linux": str(ROOT), "portable": PORTABLE}


@pytest.fixture
def farm(tmp_path: Path) -> Farm:
    return planted(tmp_path)


def output(code: str, *, path: str = PORTABLE, before: tuple[str, ...] = ()) -> str:
    """Return the output of a Python program, by default with all fallbacks."""
    done = subprocess.run(
        [*before, sys.executable, "-c", code],
        env={**CLEAN, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_module_can_be_imported() -> None:
    """No module needs features that macOS lacks at import."""
    code = (
        "import importlib, os, pkgutil, tasks_lib\n"
        "assert not hasattr(os, 'O_TMPFILE')\n"
        "names = [one.name for one in pkgutil.walk_packages(tasks_lib.__path__, 'tasks_lib.')]\n"
        "for name in names:\n    name.endswith(('__main__', 'dask_runner')) or importlib.import_module(name)\n"
        "print(len(names))"
    )
    assert int(output(code)) > 100


#: A call of Linux as strace shows it -> what a run that makes everything uses instead.
CALLS = {
    "O_TMPFILE": r'openat\(.*"[^"]*/v1/tmp/\d+-\w+", O_RDWR\|O_CREAT\|O_EXCL',
    r'linkat\(.*"/proc/self/fd/': r'linkat\(.*"[^"]*/v1/(partial|tmp)/',
    "FICLONE": "",
    r"\bsyncfs\(": r"fsync\(\d+<[^>]*\.part/tree/",
    "O_PATH": r"openat\(.*O_RDONLY\|O_NOFOLLOW\|O_CLOEXEC\|O_DIRECTORY",
    "boot_id": r'execve\("[^"]*/ps"',
}


@pytest.mark.slow
@needs_strace
@pytest.mark.parametrize("system", EITHER)
def test_what_is_called(system: str, farm: Farm) -> None:
    """Each system call is used where it exists; with all fallbacks, only its replacement is."""
    text = ""
    for mode in ("hardlink", "auto"):
        words = (f"link_mode={mode}", f"cache={mode}/cache", f"build={mode}/build")
        log = farm.top.parent / mode
        before = ("strace", "-f", "-y", "-o", str(log), "-e", "trace=openat,linkat,ioctl,syncfs,fsync,execve")
        done = farm.doit(*words, before=before, FETCH_DURABILITY="full", PYTHONPATH=EITHER[system])
        assert done.returncode == 0, done.stdout
        lines = log.read_text(errors="replace").splitlines()
        others = {line.split()[0] for line in lines if re.search(r'execve\("[^"]*/ps"', line)}
        text += "\n".join(line for line in lines if "execve" in line or line.split()[0] not in others)
    used = {call for call in CALLS if re.search(call, text)}
    assert used == (set() if system == "portable" else set(CALLS))
    instead = {call for call, other in CALLS.items() if other and re.search(other, text)}
    assert system == "linux" or instead == {call for call, other in CALLS.items() if other}


@root_only
@needs_unshare
@pytest.mark.parametrize("durability", ["full", "fast"])
def test_proc_is_not_mounted(durability: str, farm: Farm) -> None:
    """Without /proc, as in a chroot, everything is built; artifacts are still hard links of their blobs."""
    hidden = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs none /proc && exec "$0" "$@"')
    done = farm.doit(before=hidden, FETCH_DURABILITY=durability)
    assert done.returncode == 0, done.stdout
    farm.check()
    (artifact,) = farm.cache.glob("artifacts/big/*/*")
    assert artifact.samefile(farm.cache / "v1/blobs/sha256" / blob_of(BIG)[:2] / blob_of(BIG))
    farm.succeed()


def blob_of(content: bytes) -> str:
    return subprocess.run(["sha256sum"], input=content, capture_output=True, check=True).stdout.decode().split()[0]


@pytest.mark.slow
@needs_strace
def test_no_links(farm: Farm) -> None:
    """Without hard links a blob is renamed to its name, and an artifact is a copy."""
    before = ("strace", "-f", "-o", "/dev/null", "-e", "trace=linkat", "-e", "inject=linkat:error=EPERM")
    done = farm.doit(before=before, FETCH_DURABILITY="full", PYTHONPATH=PORTABLE)
    assert done.returncode == 0, done.stdout
    assert {path.stat().st_nlink for path in farm.cache.glob("v1/blobs/*/*/*") if path not in farm.earlier} == {1}
    assert [path.read_bytes() for path in farm.cache.glob("artifacts/big/*/*")] == [BIG]
    farm.check()
    farm.succeed()


@pytest.mark.slow
@needs_strace
@pytest.mark.parametrize("delayed", ["fchmod", "linkat"])
def test_a_temporary_name_that_is_replaced(delayed: str, tmp_path: Path) -> None:
    """Another file with the temporary name, before or while it is linked, never becomes the blob."""
    code = (
        "from pathlib import Path; from tasks_lib.errors import CacheUnavailableError; from tasks_lib.cache import Cache\n"
        "try:\n    with Cache(Path('cache')).writer() as writer:\n        writer.write(b'right'); writer.commit()\n"
        "except CacheUnavailableError as error:\n    print(error)\n"
    )
    hold = f"inject={delayed}:delay_{'enter' if delayed == 'linkat' else 'exit'}=3000000:when=1"
    words = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={delayed}", "-e", hold, sys.executable, "-c", code]
    with subprocess.Popen(
        words, cwd=tmp_path, env={**CLEAN, "PYTHONPATH": PORTABLE}, stdout=subprocess.PIPE, text=True
    ) as process:
        while not (found := [one for one in tmp_path.glob("cache/v1/tmp/*") if one.stat().st_mode & 0o777 == 0o444]):
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(0.3)
        found[0].unlink()
        found[0].write_bytes(b"wrong")
        said = process.communicate()[0]
    assert "was replaced while it was open" in said
    assert not [*tmp_path.glob("cache/v1/blobs/*/*/*")]
    assert [path.read_bytes() for path in tmp_path.glob("cache/v1/quarantine/*") if path.suffix != ".reason"] == (
        [b"wrong"] if delayed == "linkat" else []
    )


@root_only
@needs_unshare
@pytest.mark.parametrize("known", ["start of the first process", "nothing"])
def test_no_stamp_outlives_a_boot(known: str, farm: Farm) -> None:
    """Without a boot id the start time of the first process is used; without that, every task is checked."""
    no_ps = ("unshare", "-m", "sh", "-c", 'mount --bind /dev/null "$0" && exec "$@"', shutil.which("ps") or "")
    words, later = (no_ps, no_ps) if known == "nothing" else ((), ("unshare", "--fork", "--pid", "--mount-proc"))
    farm.succeed()
    assert farm.doit(before=words, PYTHONPATH=PORTABLE).returncode == 0
    with closing(sqlite3.connect(farm.cache / "doit.db")) as database:
        database.execute("update tasks set data='{}'")  # a run that trusts the database runs everything
        database.commit()
    if known != "nothing":
        assert ran(farm.doit(PYTHONPATH=PORTABLE)) == []
    assert ran(farm.doit(before=later, PYTHONPATH=PORTABLE))


@pytest.mark.parametrize("system", EITHER)
def test_facts_of_the_system(system: str) -> None:
    """All ways to find child processes and processors have the same result."""
    code = (
        "import os, subprocess; from tasks_lib.fs import system_calls as calls\n"
        "program = subprocess.Popen(['sleep', '60'])\n"
        "print(calls.child_processes() == [program.pid], calls.usable_cores() > 0)\n"
        "program.kill(); program.wait()"
    )
    assert output(code, path=EITHER[system]) == "True True"


@root_only
@pytest.mark.parametrize("mode", ["000", "300", "500", "755"])
@pytest.mark.parametrize("system", EITHER)
def test_directories_that_cannot_be_entered(system: str, mode: str) -> None:
    """An ordinary user removes a tree with directories of any mode, and nothing that a symlink in it leads to."""
    code = (
        "import os, tempfile; from pathlib import Path; from tasks_lib.fs.directories import remove_tree\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "with tempfile.TemporaryDirectory() as name:\n"
        "    top = Path(name); (top / 'kept').mkdir(mode=0o500); (top / 'tree/a/b').mkdir(parents=True)\n"
        "    (top / 'tree/link').symlink_to(top / 'kept'); (top / 'tree/a/file').write_bytes(b'x')\n"
        f"    (top / 'tree/a/b').chmod(0o{mode}); (top / 'tree/a').chmod(0o{mode}); (top / 'tree').chmod(0o{mode})\n"
        "    remove_tree(top / 'tree'); print([one.name for one in top.iterdir()], oct((top / 'kept').stat().st_mode))"
    )
    assert output(code, path=EITHER[system]) == "['kept'] 0o40500"


@needs_strace
def test_the_drive_is_asked_to_empty_its_cache(tmp_path: Path) -> None:
    """Where the system has F_FULLFSYNC it is used, and a file system that refuses it is synced as elsewhere."""
    code = (
        "import fcntl, os; from tasks_lib.fs import system_calls as calls\n"
        "fcntl.F_FULLFSYNC = 51; descriptor = os.open('file', os.O_RDWR | os.O_CREAT)\n"  # its number on macOS
        "calls.sync(descriptor); os.access('/end', 0)"
    )
    log = tmp_path / "log"
    words = ("strace", "-y", "-o", str(log), "-e", "trace=fcntl,fsync,access", "env", "-C", str(tmp_path))
    output(code, before=words)
    lines = log.read_text().partition('"/end"')[0].splitlines()
    assert re.search(r"fcntl\(\d+<[^>]*/file>, 0x33.*EINVAL", lines[-3]), lines
    assert re.search(r"fsync\(\d+<[^>]*/file>", lines[-2])


def test_every_fallback_is_in_force_when_all_tests_run_so() -> None:
    """Run with `tests/portable`, the tests and the programs that they start have all fallbacks."""
    from tasks_lib.fs import system_calls

    wanted = "tests/portable" in os.environ.get("PYTHONPATH", "")
    assert (system_calls.Features() == system_calls.FEATURES) is wanted
    code = "from tasks_lib.fs import system_calls as calls; print(calls.FEATURES == calls.Features())"
    assert output(code, path=PYTHONPATH) == str(wanted)
