"""doit verify, prune and cache on a real repository: damage is found and reported, needed items stay."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.archives import Member, tar
from tests.keys import Keyring, keyring
from tests.origin import Origin, reply, serving
from tests.project import DODO, LIBRARY, TOOL, definition, doit, ran, written
from tests.test_cache_faults import some_slow

ZIPPED = tar([Member("data/numbers", b"1234567890" * 50), Member("data/words", b"abc")])


@pytest.fixture
def origin() -> Iterator[Origin]:
    answers = {"/lib-1.0.tar": reply(LIBRARY), "/tool.tar": reply(TOOL), "/data.tar": reply(ZIPPED)}
    with serving(answers) as one:
        yield one


@pytest.fixture(scope="module")
def ring() -> Iterator[Keyring]:
    with keyring() as made:
        made.make("good")
        yield made


@pytest.fixture
def repository(tmp_path: Path, origin: Origin) -> Path:
    """Return a repository after a run: two fetches, one repacked, a toolchain that extracts one and places another."""
    top = tmp_path / "repository"
    repack = "    artifact-name: lib.tar.zst\n    strip-components: 1\n    add-prefix: lib/\n"
    files = {
        "dodo.py": DODO,
        "fetchdefs/fetch/all.yml": definition("lib", f"{origin.url}/lib-1.0.tar", LIBRARY, repack)
        + definition("data", f"{origin.url}/data.tar", ZIPPED)
        + definition("tool", f"{origin.url}/tool.tar", TOOL),
        "fetchdefs/toolchain/all.yml": "kit:\n  description: k\n"
        "  fetches:\n    fetch: [data, {artifact: lib, dest: l}, {artifact: tool, extract: false}]\n",
    }
    written(top, files)
    ran(doit(top))
    return top


def blob(top: Path, content: bytes) -> Path:
    digest = hashlib.sha256(content).hexdigest()
    return top / f"cache/v1/blobs/sha256/{digest[:2]}/{digest}"


def change(path: Path) -> None:
    """Flip one bit in place, keeping size, mode and modification time."""
    status = path.stat()
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    path.chmod(status.st_mode & 0o777)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def age(top: Path, hours: float) -> None:
    """Change the times of everything in the cache to be older."""
    then = time.time() - hours * 3600
    for path in [*(top / "cache").rglob("*")]:
        if path.name != "doit.db":
            os.utime(path, (then, then), follow_symlinks=False)


def test_intact_cache(repository: Path) -> None:
    """Everything is verified, nothing is damaged, the exit status is 0."""
    done = doit(repository, "verify")
    assert done.returncode == 0, done.stdout
    assert "verified 4 blobs, 4 results, 4 artifacts, 3 trees" in done.stdout
    assert "0 damaged" in done.stdout


#: what is changed -> the kind that is reported, a task that is named, what a repair says.
DAMAGES = {
    "cache/v1/blobs/LIB": ("damaged blob", "fetch:lib", "repaired: fetch:lib"),
    "cache/v1/results/RESULT": ("damaged result", "repack:lib", "repaired: repack:lib"),
    "build/kit/fetches/data/numbers": ("damaged tree", "extract:kit/data", "repaired: extract:kit/data"),
    "build/kit/fetches/l/lib/lib.h": ("damaged tree", "extract:kit/lib", "repaired: extract:kit/lib"),
    "build/kit/fetches/tool.tar": ("damaged tree", "extract:kit/tool", "repaired: extract:kit/tool"),
}

QUICK = ["cache/v1/blobs/LIB", "build/kit/fetches/data/numbers"]


def place_of(repository: Path, name: str) -> Path:
    if name.endswith("LIB"):
        return blob(repository, LIBRARY)
    if name.endswith("RESULT"):
        return next(
            path
            for path in repository.glob("cache/v1/results/*/*")
            if "sha256:" in path.read_text().split("tar", 1)[-1]
        )
    return repository / name


@pytest.mark.parametrize("name", [*QUICK, *some_slow(DAMAGES.keys() - QUICK)])
def test_flipped_bit(name: str, repository: Path) -> None:
    """A change that keeps size and time is found, quarantined and reported with its task; --repair rebuilds it."""
    kind, task, repaired = DAMAGES[name]
    path = place_of(repository, name)
    right = path.read_bytes()
    change(path)
    done = doit(repository, "verify")
    assert done.returncode == 1, done.stdout
    assert kind in done.stdout
    assert task in done.stdout
    assert any((repository / "cache/v1/quarantine").iterdir())
    if path.parent.parent.name != "results":
        ran(doit(repository))
        assert path.read_bytes() == right
        change(path)
    done = doit(repository, "verify", "--repair")
    assert repaired in done.stdout or path.parent.parent.name == "results", done.stdout
    assert done.returncode == 0, done.stdout
    assert doit(repository, "verify").returncode == 0
    ran(doit(repository))
    assert path.read_bytes() == right


def test_a_hard_link_changed_in_place_is_found(repository: Path) -> None:
    """A change to a hard-linked file also changes the blob: both are found and restored."""
    shutil.rmtree(repository / "build")
    ran(doit(repository, "link_mode=hardlink"))
    placed = repository / "build/kit/fetches/tool.tar"
    assert placed.stat().st_ino == blob(repository, TOOL).stat().st_ino
    change(placed)
    done = doit(repository, "verify", "--repair", "link_mode=copy")
    assert "damaged blob" in done.stdout
    assert done.returncode == 0, done.stdout
    assert placed.read_bytes() == blob(repository, TOOL).read_bytes() == TOOL


def test_verify_by_name(repository: Path) -> None:
    """A name or a glob limits the check; a name that matches no task is rejected."""
    change(blob(repository, LIBRARY))
    assert doit(repository, "verify", "fetch:tool").returncode == 0
    assert doit(repository, "verify", "fetch:l*").returncode == 1
    done = doit(repository, "verify", "nothing")
    assert done.returncode == 3
    assert "no task matches 'nothing'" in done.stdout


def drop(repository: Path, name: str) -> None:
    """Remove a definition and its users."""
    path = repository / "fetchdefs/fetch/all.yml"
    before, _, after = path.read_text().partition(f"{name}:\n")
    rest = after.partition("\ntool:")[2]
    path.write_text(before + ("tool:" + rest if rest else ""))
    toolchain = repository / "fetchdefs/toolchain/all.yml"
    toolchain.write_text(toolchain.read_text().replace(f"[{name}, ", "["))


def test_prune_removes_what_no_definitions_need(repository: Path) -> None:
    """Unneeded items older than an hour are removed, with reason and size; needed ones stay and nothing runs again."""
    drop(repository, "data")
    done = doit(repository, "prune")
    assert "0 removed" in done.stdout, done.stdout
    assert "3 younger than 1 h: --older-than 0)\n" in done.stdout, done.stdout
    done = doit(repository, "prune", "--dry-run", "--older-than", "0.5h")
    assert "0 would be removed" in done.stdout and "3 younger than --older-than)\n" in done.stdout, done.stdout
    done = doit(repository, "prune", "--dry-run", "--older-than", "0")
    assert "3 would be removed" in done.stdout and " needed)\n" in done.stdout, done.stdout
    age(repository, 2)
    done = doit(repository, "prune", "--dry-run")
    assert (
        f"blob {hashlib.sha256(ZIPPED).hexdigest()}: 3.0 KiB: not needed by any definition, last used 2 h ago"
        in done.stdout
    )
    assert blob(repository, ZIPPED).exists()
    done = doit(repository, "prune")
    assert done.returncode == 0, done.stdout
    assert not blob(repository, ZIPPED).exists()
    assert not (repository / "cache/artifacts/data").exists()
    assert blob(repository, LIBRARY).exists()
    assert doit(repository, "verify").returncode == 0
    ran(doit(repository))


def test_prune_reads_every_user_of_the_cache(repository: Path, tmp_path: Path) -> None:
    """Entries that another definitions directory needs stay until it is empty; invalid definitions prevent pruning."""
    shutil.copytree(repository / "fetchdefs", tmp_path / "other")
    doit(repository, f"fetchdefs={tmp_path}/other", "list")
    drop(repository, "data")
    age(repository, 2)
    assert "0 removed" in doit(repository, "prune").stdout
    (tmp_path / "other/fetch/all.yml").write_text("x: {")
    done = doit(repository, "prune")
    assert done.returncode == 3
    assert "other, which used this cache:" in done.stdout
    shutil.rmtree(tmp_path / "other/fetch")
    shutil.rmtree(tmp_path / "other/toolchain")
    doit(repository, "prune")
    assert not blob(repository, ZIPPED).exists()


#: Environment of the run of another repository -> why its content has other keys there.
CONFIGURATIONS = {
    "SOURCE_DATE_EPOCH": "1000",
    "FETCH_MAX_DEPTH": "99",
    "FETCH_LINK_MODE": "hardlink",
}


def test_prune_knows_the_configurations_of_every_user(repository: Path, tmp_path: Path, ring: Keyring) -> None:
    """What another repository needs under its own settings and key files stays: it needs no network and runs nothing."""
    other, environ = tmp_path / "other", {**CONFIGURATIONS, "FETCH_CACHE_DIR": str(repository / "cache")}
    shutil.copytree(repository / "fetchdefs", other / "fetchdefs")
    signed = "    gpg-signature: {sig-url: 'file:tool.sig', key-path: good.asc}\n"
    definitions = (other / "fetchdefs/fetch/all.yml").read_text() + signed
    kit = "kit:\n  description: k\n  fetches: {fetch: [lib, data]}\n  run:\n    toolchain-artifact: out\n"
    kit += "    command: 'cp lib/lib.h $UPLOAD_DIR/out'\n"
    files = {"dodo.py": DODO, "fetchdefs/fetch/all.yml": definitions, "fetchdefs/toolchain/all.yml": kit}
    written(other, files)
    (other / "good.asc").write_bytes(ring.public("good"))
    (other / "fetchdefs/fetch/tool.sig").write_bytes(ring.sign(TOOL, "good"))
    ran(doit(other, **environ))
    for path in (repository / "cache/v1/roots").glob("*.configurations"):
        with path.open("a") as file:
            file.write('{"writer')  # a process was killed while it wrote
    ran(doit(other, "list", FETCH_MAX_DEPTH="98", FETCH_CACHE_DIR=environ["FETCH_CACHE_DIR"]))
    age(repository, 2)
    kept = sorted(str(path) for path in (repository / "cache").rglob("*") if "/locks/" not in str(path))
    doit(repository, "prune", "link_mode=copy")
    gone = set(kept) - {str(path) for path in (repository / "cache").rglob("*")}
    assert not [path for path in gone if "/v1/tmp/" not in path]
    drop(repository, "data")
    drop(other, "data")
    assert "removed" in doit(repository, "prune").stdout


def test_prune_removes_partial_of_finished_download(repository: Path) -> None:
    """A partial download is not needed when its content is a blob, even if a definition needs the blob."""
    digest = hashlib.sha256(LIBRARY).hexdigest()
    left = repository / f"cache/v1/partial/{digest}.part"
    left.hardlink_to(blob(repository, LIBRARY))
    resumable = repository / f"cache/v1/partial/{hashlib.sha256(TOOL).hexdigest()}.part"
    resumable.write_bytes(TOOL[:100])
    blob(repository, TOOL).unlink()
    age(repository, 2)
    printed = doit(repository, "prune").stdout
    assert f"partial {digest}.part: 3.5 KiB: leftover, 2 h old" in printed, printed
    assert not left.exists()
    assert blob(repository, LIBRARY).exists()
    assert resumable.exists()


def test_bounds(repository: Path) -> None:
    """--older-than and --max-size select among unneeded items; a limit that cannot be met is reported with status 1."""
    drop(repository, "data")
    age(repository, 48)
    assert "0 would be removed" in doit(repository, "prune", "--dry-run", "--older-than", "3d").stdout
    assert "0 would be removed" in doit(repository, "prune", "--dry-run", "--max-size", "1GiB").stdout
    assert "3 would be removed" in doit(repository, "prune", "--dry-run", "--older-than", "1d").stdout
    done = doit(repository, "prune", "--max-size", "1KiB")
    assert done.returncode == 1
    assert "still over --max-size (1.0 KiB), because these are kept:" in done.stdout
    assert "needed" in done.stdout
    assert not blob(repository, ZIPPED).exists()
    refused = doit(repository, "prune", "--older-than", "banana")
    assert refused.returncode == 3
    assert "invalid value 'banana' for --older-than: expected a duration such as 30d or 12h\n" in refused.stdout


def test_cache_command(repository: Path) -> None:
    """`doit cache` shows sizes by kind, hit rates, the largest entries by name, and the users."""
    printed = doit(repository, "cache").stdout
    assert "blob               4" in printed
    assert "of" in printed
    assert " hits (" in printed
    assert "data/" in printed
    assert str(repository / "fetchdefs") in printed


def test_one_format_for_sizes(repository: Path) -> None:
    """A run, its totals and `doit cache` format a size alike."""
    shutil.rmtree(repository / "cache")
    done = doit(repository, "-r", "lines", "fetch:tool")
    size = re.search(r"ok fetch:tool: (\S+ \S+) from", done.stdout)
    assert size is not None, done
    assert f"1 fetched ({size[1]})" in done.stdout
    assert f"  {size[1]:>10}  blob {hashlib.sha256(TOOL).hexdigest()}" in doit(repository, "cache").stdout


def test_a_command_registers_the_definitions(repository: Path) -> None:
    """A command registers its definitions directory with the cache, even if no task was ever run."""
    shutil.copytree(repository / "fetchdefs", repository / "others")
    done = doit(repository, "cache", "fetchdefs=others")
    assert f"used by the definitions in:\n  {repository / 'fetchdefs'}\n  {repository / 'others'}\n" in done.stdout
