"""`type: debian`: packages from mirrors, stores and snapshots; locks against indexes; the repository that is made."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from doit_fetch import Project
from tasks_lib import recipe
from tasks_lib.debian.deb822 import parse_paragraph, split_paragraphs
from tasks_lib.debian.lock import LockedIndex, encode_lock, parse_lock
from tasks_lib.debian.repository import format_gzip
from tasks_lib.errors import (
    AllSourcesFailedError,
    FetchError,
    IndexDigestError,
    LockMismatchError,
    LockStaleError,
    UnsafePathError,
)
from tests.debian_mirror import Deb
from tests.debian_project import (
    DATA,
    DEBS,
    GREET,
    LIBGREET,
    LOCK,
    define,
    edit,
    edit_json,
    locked,
    mirror,
    project,
    release,
)
from tests.origin import Origin, reply
from tests.project import doit, ran, written

INDEX = "/dists/stable/main/binary-amd64/Packages.xz"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the root of a published repository."""
    return mirror(tmp_path / "mirror").root


@pytest.fixture
def top(tmp_path: Path, root: Path) -> Path:
    """Return a project that fetches from it by `file:` URLs."""
    return project(tmp_path / "project", define(root.as_uri()), {"stable": (root, DEBS)})


def serve(origin: Origin, root: Path, base: str = "") -> None:
    """Let a server have the files of a repository below `base`."""
    for path in root.rglob("*"):
        if path.is_file():
            origin.answers[f"{base}/{quote(str(path.relative_to(root)))}"] = reply(path.read_bytes())


def fetch(top: Path, **environ: str) -> Path:
    """Fetch and extract; return the directory."""
    done = doit(top, "extract:debs", **environ)
    assert done.returncode == 0, done.stdout
    return top / "build/extracted/debs"


def refused(top: Path, kind: type[FetchError], text: str) -> None:
    """Require that the fetch fails with this error, and leaves no artifact."""
    with pytest.raises(kind, match=text) as error:
        Project.load(top, settings={"backoff": 0.01}).fetch("debs")
    assert type(error.value) is kind
    assert not list((top / "build").rglob("debs.tar.zst"))


# --- the repository ---------------------------------------------------------------------------


def test_the_repository_has_the_packages_and_their_paragraphs(top: Path) -> None:
    """Each package is there byte for byte, with the paragraph of the index, below a Release of these indexes."""
    tree = fetch(top)
    found = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}
    assert found == {"Packages", "Packages.gz", "Release", *(deb.pool for deb in DEBS)}
    assert all((tree / deb.pool).read_bytes() == deb.content for deb in DEBS)
    index = (tree / "Packages").read_bytes()
    assert list(split_paragraphs([index])) == [deb.paragraph.strip().encode() for deb in (GREET, DATA, LIBGREET)]
    assert gzip.decompress((tree / "Packages.gz").read_bytes()) == index
    fields = parse_paragraph((tree / "Release").read_bytes().strip())
    assert (fields["codename"], fields["date"]) == ("bookworm", "Sun, 01 Nov 2026 08:30:00 UTC")
    listed = [line.split() for line in fields["sha256"].strip().splitlines()]
    assert {name for _, _, name in listed} == {"Packages", "Packages.gz"}
    for digest, size, name in listed:
        content = (tree / name).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (digest, int(size))


def test_a_second_run_does_nothing(top: Path, root: Path) -> None:
    """Neither the packages nor the repository are made again; the mirror is not needed, and needs no by-hash."""
    shutil.rmtree(root / "dists/stable/main/binary-amd64/by-hash")
    done = doit(top)
    assert ran(done) == ["fetch:debs"] and "failed" not in done.stdout
    shutil.rmtree(root)
    assert ran(doit(top)) == []
    shutil.rmtree(top / "build")
    assert "1 adopted" in doit(top).stdout


def test_the_same_bytes_everywhere(tmp_path: Path, root: Path) -> None:
    """Time zone, locale, umask, number of connections and URI do not matter."""
    digests = set()
    shutil.copytree(root, tmp_path / "other")
    for name, uri, environ in (
        ("one", root.as_uri(), {"TZ": "Asia/Tokyo", "LC_ALL": "C", "FETCH_JOBS": "1"}),
        ("two", (tmp_path / "other").as_uri(), {"TZ": "UTC", "LC_ALL": "tr_TR.UTF-8", "FETCH_JOBS": "8"}),
    ):
        top = project(tmp_path / name, define(uri), {"stable": (root, DEBS)})
        before = os.umask(0o077 if name == "one" else 0o022)
        try:
            assert doit(top, **environ).returncode == 0
        finally:
            os.umask(before)
        digests.add(hashlib.sha256((top / "build/artifacts/debs/debs.tar.zst").read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize("size", [0, 1, 0xFFFF, 0x10000, 200_000])
def test_gzip_in_stored_blocks(size: int) -> None:
    """The compressed index does not depend on the version of zlib; golden for REPOSITORY_VERSION 1."""
    assert recipe.REPOSITORY_VERSION == 1
    content = bytes(at % 251 for at in range(size))
    assert gzip.decompress(format_gzip(content)) == content
    digest = hashlib.sha256(format_gzip(b"a" * 70_000)).hexdigest()
    assert digest == "e4d017f3b3b264417d0f6c39264a95d044f6fb1fa9268357dbf19a765bcc5dfb"


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs apt")
def test_apt_installs_from_the_repository(tmp_path: Path) -> None:
    """Real apt reads the repository through `copy:`, with an epoch and `%3a` in the name of a file."""
    odd = Deb("greet", version="1:2.0", depends="libgreet", path="pool/main/g/greet/greet_1%3a2.0_amd64.deb")
    root = mirror(tmp_path / "mirror", [odd, LIBGREET]).root
    tree = fetch(project(tmp_path / "project", define(root.as_uri()), {"stable": (root, [odd, LIBGREET])}))
    state = written(tmp_path / "apt", {"status": "", "sources.list": f"deb [trusted=yes] copy://{tree} ./\n"})
    for name in ("lists/partial", "cache/archives/partial"):
        (state / name).mkdir(parents=True)
    options = {
        "Dir::State": state, "Dir::State::Lists": state / "lists", "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache", "Dir::Etc::SourceList": state / "sources.list", "Dir::Etc::SourceParts": "/dev/null",
        "Dir::Etc::Parts": "/dev/null", "Dir::Etc::Preferences": "/dev/null", "Dir::Etc::PreferencesParts": "/dev/null",
        "APT::Architecture": "amd64", "APT::Sandbox::User": "", "Debug::NoLocking": "1", "Dir::Log": state,
    }  # fmt: skip
    apt = ["apt-get", "-q", "-y", *(f"-o{name}={value}" for name, value in options.items())]
    for words in (["update"], ["install", "--download-only", "greet"]):
        done = subprocess.run([*apt, *words], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
    archives = sorted((state / "cache/archives").glob("*.deb"))
    assert [path.read_bytes() for path in archives] == [odd.content, LIBGREET.content]


# --- locks ------------------------------------------------------------------------------------

OTHER = "0" * 64
Line = dict[str, object]
MORE = Deb("aa-more")
#: What is edited in the line of `libgreet` -> the error and a part of its message.
EDITS: dict[str, tuple[Callable[[Line], Line], type[FetchError], str]] = {
    "version": (lambda one: _with(one, version="1.1"), LockMismatchError, "expected version '1.1', the index has '1.0'"),
    "digest": (lambda one: _with(one, sha256=OTHER), LockMismatchError, "expected sha256"),
    "size": (lambda one: _with(one, size=7), LockMismatchError, "expected size '7'"),
    "source": (lambda one: _with(one, source="x"), LockMismatchError, "expected source 'x', the index has 'libgreet'"),
    "architecture": (lambda one: _with(one, architecture="all"), LockMismatchError, "expected architecture 'all'"),
    "unknown path": (lambda one: _with(one, path="pool/x.deb"), LockMismatchError, "the lock has pool/x.deb, which no index of stable lists"),
    "path of another": (lambda one: _with(one, path=GREET.pool), LockMismatchError, "two packages with the path"),
    "parent": (lambda one: _with(one, path="pool/../../x.deb"), UnsafePathError, "contains the component"),
    "absolute": (lambda one: _with(one, path="/etc/x.deb"), UnsafePathError, "is absolute"),
    "other suite": (lambda one: _with(one, release="sid"), LockMismatchError, "'sid' is not among the releases"),
}  # fmt: skip


def _with(line: Line, **changes: object) -> Line:
    return line | changes


def test_a_changed_lock_is_fetched_by_the_next_run(top: Path) -> None:
    """A bare run notices it, after runs that had nothing to do."""
    assert [ran(doit(top)) for _ in range(3)] == [["fetch:debs"], [], []]
    lock = parse_lock((top / LOCK).read_bytes(), "lock")
    edit(top, packages=lock.packages[:2])
    assert "lock was " in doit(top, "why", "fetch:debs").stdout
    assert [ran(doit(top)) for _ in range(2)] == [["fetch:debs"], []]
    tree = fetch(top)
    assert len(list(tree.rglob("*.deb"))) == 2


@pytest.mark.parametrize("what", EDITS)
def test_an_edited_lock_is_noticed(top: Path, what: str) -> None:
    """Each value of a line is compared with the index, and no path leaves the repository, whatever the digest is."""
    change, kind, text = EDITS[what]

    def edit_line(lock: dict[str, Any]) -> None:
        lock["packages"] = [change(one) if one["package"] == "libgreet" else one for one in lock["packages"]]

    edit_json(top, edit_line)
    refused(top, kind, text)


#: Edits of the text that no index can show.
UNSEEN: dict[str, tuple[str, str]] = {
    "a line is removed": (r'(?m)^.*"greet-data".*\n', ""),
    "all lines are removed": (r'(?s)"packages": \[.*?\]', '"packages": []'),
    "a package of the index is added": (r'("packages": \[)', rf"\1{json.dumps(msgspec.to_builtins(locked(MORE)))},"),
    "another date": ("2026-11-01T", "2026-11-02T"),
    "another signer": ("A{39}B", "B" * 40),
    "another URI": ('"uri": ""', '"uri": "https://example.org/"'),
    "another InRelease": ('"size": 0', '"size": 1'),
    "no digest": ('(?m)^ "digest.*\\n', ""),
    "another digest": ('"digest": "..', '"digest": "\\\\u001b[31m'),
    "a key twice": ('"version": 1', '"version": 2, "version": 1'),
    "packages twice": (r'"packages": ', '"packages": [], "packages": '),
    "another form": (r"\n +", " "),
}


@pytest.mark.parametrize("what", UNSEEN)
def test_an_edit_that_no_index_shows_is_noticed(tmp_path: Path, what: str) -> None:
    """A lock is what `doit update` writes, with its digest; the message names the command that makes it again."""
    root = mirror(tmp_path / "mirror", [*DEBS, MORE]).root
    top = project(tmp_path / "project", define(root.as_uri()), {"stable": (root, DEBS)})
    text = (top / LOCK).read_text()
    edited = re.sub(*UNSEEN[what], text)
    json.loads(edited)
    assert edited != text
    (top / LOCK).write_text(edited)
    refused(top, LockMismatchError, r"debs\.lock was edited: .*\n.*doit update NAME$")


def test_an_added_package_is_noticed(top: Path) -> None:
    """A line that no index has is refused, although a mirror has the file."""
    extra = Deb("zz-extra")
    lock = parse_lock((top / LOCK).read_bytes(), "lock")
    edit(top, packages=(*lock.packages, locked(extra)))
    refused(top, LockMismatchError, "pool/main/z/zz-extra.*, which no index of stable lists")


def test_a_lock_without_a_suite_is_noticed(top: Path) -> None:
    """A lock has a release of each suite of the definition."""
    edit(top, packages=(), releases=())
    refused(top, LockMismatchError, "lacks the suite 'stable'")


def test_a_lock_of_another_definition_is_stale(top: Path) -> None:
    """A changed definition needs a new lock; another URI or description does not."""
    file = top / "fetchdefs/fetch/debs.yml"
    file.write_text(file.read_text().replace("[greet]", "[greet, greet-data]"))
    refused(top, LockStaleError, "doit update")
    (top / LOCK).unlink()
    refused(top, LockStaleError, "debs.lock does not exist")
    done = doit(top)
    assert done.returncode == 1 and "debs.lock does not exist" in done.stdout and "Traceback" not in done.stdout


def test_a_damaged_lock_is_refused(top: Path) -> None:
    """What is not a lock is neither used nor a traceback."""
    (top / LOCK).write_text('{"version": 1')
    refused(top, LockMismatchError, "is not a lock")


def test_a_lock_with_a_huge_index_is_refused(top: Path) -> None:
    """No space is reserved for an index of a size that none has."""
    edit_json(top, lambda lock: lock["releases"][0]["indexes"][0].update(size=1 << 40))
    refused(top, LockMismatchError, r"Packages.xz has 1099511627776 bytes, more than 1073741824")


def test_a_lock_that_is_no_file_is_refused(top: Path) -> None:
    """A FIFO or a link to a device does not keep a command waiting for its end."""
    (top / LOCK).unlink()
    os.mkfifo(top / LOCK)
    done = doit(top, "fetch:debs")
    assert (done.returncode, "debs.lock: not a regular file" in done.stdout) == (1, True), done.stdout


def test_the_line_of_a_package_needs_the_index_of_its_suite(tmp_path: Path) -> None:
    """A package of one suite is not looked up in the index of another one."""
    one, two = mirror(tmp_path / "one", [GREET]), mirror(tmp_path / "two", [LIBGREET])
    suites = f"{{stable: {one.url}, updates: {two.url}}}"
    (tmp_path / "two/dists/stable").rename(tmp_path / "two/dists/updates")
    text = define(suites, suites="[stable, updates]")
    top = project(tmp_path / "project", text, {"stable": (one.root, [GREET]), "updates": (two.root, [LIBGREET])})
    assert (fetch(top) / LIBGREET.pool).read_bytes() == LIBGREET.content
    lock = parse_lock((top / LOCK).read_bytes(), "lock")
    edit(top, packages=tuple(msgspec.structs.replace(package, release="stable") for package in lock.packages))
    with pytest.raises(LockMismatchError, match=r"pool/main/l/libgreet.*, which no index of stable lists"):
        Project.load(top).fetch("debs")


@pytest.mark.slow
def test_one_of_two_versions(tmp_path: Path) -> None:
    """An index with two versions of a package serves the locked one."""
    old, new = Deb("greet", version="1.0"), Deb("greet", version="1.1")
    root = mirror(tmp_path / "mirror", [old, new]).root
    for name, deb in (("old", old), ("new", new)):
        tree = fetch(project(tmp_path / name, define(root.as_uri()), {"stable": (root, [deb])}))
        assert [path.read_bytes() for path in tree.rglob("*.deb")] == [deb.content]


# --- places -----------------------------------------------------------------------------------


def test_an_index_that_the_mirror_replaced(tmp_path: Path, root: Path, origin: Origin) -> None:
    """The index is there by its digest; without that it is refused, and the snapshot has it at the date of the lock."""
    serve(origin, root)
    origin.answers[INDEX] = reply(b"the index of the next day")
    text = define(origin.url)
    fetch(project(tmp_path / "by-hash", text, {"stable": (root, DEBS)}))
    for path in [path for path in origin.answers if "/by-hash/" in path]:
        del origin.answers[path]
    top = project(tmp_path / "replaced", text, {"stable": (root, DEBS)})
    refused(top, IndexDigestError, r"Packages.xz: no source provided \d+ bytes, sha256")
    serve(origin, root, "/snapshot/20261101T083000Z")
    text = define(origin.url, f"    snapshots: {origin.url}/snapshot/@SNAPSHOTID@\n")
    top = project(tmp_path / "snapshot", text, {"stable": (root, DEBS)})
    shutil.rmtree(root / "pool")
    assert doit(top).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"\xfd7zXZ\0truncated", b"<html>moved</html>"])
def test_a_wrong_index_is_refused(tmp_path: Path, root: Path, origin: Origin, content: bytes) -> None:
    """An empty, truncated or foreign index is not the one that the lock names."""
    serve(origin, root)
    origin.answers = {path: reply(content) if "/dists/" in path else one for path, one in origin.answers.items()}
    top = project(tmp_path / "project", define(origin.url), {"stable": (root, DEBS)})
    refused(top, IndexDigestError, "no source provided")


def test_a_lock_that_names_something_else_as_its_index(top: Path, root: Path) -> None:
    """A file with the digest that the lock names, but not an index, is refused without a traceback."""
    for packing, content in ((".xz", b"\xfd7zXZ\0not"), ("", b"x" * 2_000_000)):
        path = f"main/binary-amd64/Packages{packing}"
        (root / "dists/stable" / path).write_bytes(content)
        index = LockedIndex(path=path, sha256=hashlib.sha256(content).hexdigest(), size=len(content))
        lock = parse_lock((top / LOCK).read_bytes(), "lock")
        edit(top, releases=(msgspec.structs.replace(lock.releases[0], indexes=(index,)),))
        refused(top, IndexDigestError, "cannot read the index")


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["", ".gz", ".xz"])
def test_indexes_in_any_packing(tmp_path: Path, packing: str) -> None:
    """An index may be plain text, gzip or xz; a mirror may have it at the path of its digest only."""
    root = mirror(tmp_path / "mirror", by_hash="only").root
    top = project(tmp_path / "project", define(root.as_uri()), {"stable": (root, DEBS)})
    edit(top, releases=(release(root, "stable", packing),))
    fetch(top)


def test_all_packages_are_there_with_one_mirror_dead(tmp_path: Path, root: Path, origin: Origin) -> None:
    """A mirror that does not answer, or has a wrong package, is replaced by the next of its group, and reported once."""
    serve(origin, root, "/good")
    wrong = mirror(tmp_path / "wrong").root
    (wrong / LIBGREET.pool).write_bytes(b"!<arch>\nnot this one")
    serve(origin, wrong, "/wrong")
    urls = f"[http://127.0.0.1:9/debian/, {origin.url}/wrong/, {origin.url}/good/]"
    files = {"fetchdefs/mirrors.yml": f"groups: {{debian: {{urls: {urls}}}}}\n"}
    top = project(tmp_path / "project", define("mirror://debian"), {"stable": (root, DEBS)}, **files)
    done = doit(top)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("mirror 127.0.0.1:9 failed for 1 file: connection refused") == 1, done.stdout


def test_a_wrong_package_everywhere(tmp_path: Path, root: Path, origin: Origin) -> None:
    """The error names a package and how many others are missing; what was obtained stays."""
    serve(origin, root)
    for deb in (GREET, LIBGREET):
        origin.answers[f"/{deb.pool}"] = reply(b"!<arch>\nwrong")
    top = project(tmp_path / "project", define(origin.url), {"stable": (root, DEBS)})
    refused(top, AllSourcesFailedError, r"debs: pool/main/g/greet/greet_2.0_amd64.deb: no source(?s:.*)1 more file")
    digest = hashlib.sha256(DATA.content).hexdigest()
    assert (top / f"cache/v1/blobs/sha256/{digest[:2]}/{digest}").read_bytes() == DATA.content


# --- stores, offline, maintenance -------------------------------------------------------------


def test_a_store_has_the_packages(tmp_path: Path, root: Path) -> None:
    """A push has packages and indexes; a checkout without a mirror and without a network gets them from the store."""
    pytest.importorskip("cryptography")
    text = define(root.as_uri())
    store = {"FETCH_STORE": (tmp_path / "store").as_uri(), "FETCH_STORE_WRITE": "always"}
    (tmp_path / "store").mkdir()
    top = project(tmp_path / "one", text, {"stable": (root, DEBS)})
    assert doit(top).returncode == 0
    done = doit(top, "store", "push", **store)
    assert done.returncode == 0, done.stdout
    digests = {hashlib.sha256(deb.content).hexdigest() for deb in DEBS}
    assert digests <= {path.name for path in (tmp_path / "store/cas").rglob("*")}
    other = project(tmp_path / "two", text, {"stable": (root, DEBS)})
    pulled = project(tmp_path / "three", text, {"stable": (root, DEBS)})
    shutil.rmtree(root)
    assert doit(other, "offline=1", **store).returncode == 0
    assert doit(pulled, "store", "pull", **store).returncode == 0
    assert doit(pulled).returncode == 0


def test_offline(tmp_path: Path, root: Path, origin: Origin) -> None:
    """A run without a network names the definition, or needs none: the cache has everything."""
    serve(origin, root)
    top = project(tmp_path / "project", define(origin.url), {"stable": (root, DEBS)})
    done = doit(top, "offline=1")
    assert done.returncode, done.stdout
    assert "debs: not in the cache, and the network is off" in done.stdout
    assert doit(top).returncode == 0
    shutil.rmtree(top / "cache/artifacts")
    shutil.rmtree(top / "cache/v1/results")
    for path in (top / "cache/v1/blobs").rglob("*"):
        if path.is_file() and path.read_bytes()[:4] == b"\x28\xb5\x2f\xfd":  # the repository itself
            path.unlink()
    before = len(origin.requests)
    assert ran(doit(top, "offline=1")) == ["fetch:debs"]
    assert len(origin.requests) == before


def test_a_group_of_local_directories_needs_no_network(tmp_path: Path, root: Path) -> None:
    """An offline run reads the packages from a mirror group with a `file:` URL."""
    files = {"fetchdefs/mirrors.yml": f"groups: {{debian: {{urls: ['{root.as_uri()}/']}}}}\n"}
    top = project(tmp_path / "project", define("mirror://debian/"), {"stable": (root, DEBS)}, **files)
    assert ran(doit(top, "offline=1")) == ["fetch:debs"]


def test_an_export_has_the_packages(tmp_path: Path, root: Path) -> None:
    """`cas` has packages and indexes by digest, which `prove` and a checkout without a mirror are fed with."""
    text = define(root.as_uri())
    top = project(tmp_path / "one", text, {"stable": (root, DEBS)})
    done = doit(top, "export", "cas", "../out")
    assert done.returncode == 0, done.stdout
    names = {path.name for path in (tmp_path / "out/cas").iterdir()}
    assert {hashlib.sha256(deb.content).hexdigest() for deb in DEBS} < names and len(names) == 4
    files = {"pyproject.toml": f"[tool.doit-fetch]\n{done.stdout.splitlines()[-1]}\n"}
    other = project(tmp_path / "two", text, {"stable": (root, DEBS)}, **files)
    shutil.rmtree(root)
    assert ran(doit(other, "offline=1")) == ["fetch:debs"]
    for path in (top, other):
        (path / "pyproject.toml").unlink(missing_ok=True)
        assert doit(path, "prove", "--from", "../out").stdout.startswith("proven: "), path
    artifacts = [next((path / "build").rglob("debs.tar.zst")).read_bytes() for path in (top, other)]
    assert artifacts[0] == artifacts[1]
    (tmp_path / "out/cas" / hashlib.sha256(GREET.content).hexdigest()).unlink()
    assert "missing: debs\n" in doit(top, "prove", "--from", "../out").stdout
    refused = doit(top, "export", "bazel", "../other", "debs")
    assert (refused.returncode, "debs cannot be exported: it is not one download" in refused.stdout) == (1, True)
    assert "use another layout: cas has all" in refused.stdout


def test_an_export_needs_a_lock(top: Path) -> None:
    """An export does not leave out a definition without a lock, or with a stale one, silently."""
    definition = top / "fetchdefs/fetch/debs.yml"
    definition.write_text(definition.read_text().replace("[greet]", "[greet, other]"))
    done = doit(top, "export", "cas", "../out")
    assert (done.returncode, "made for another state of its definition" in done.stdout) == (1, True), done.stdout
    (top / LOCK).unlink()
    done = doit(top, "export", "cas", "../out")
    assert (done.returncode, "debs.lock does not exist" in done.stdout) == (1, True), done.stdout


def test_prune_keeps_what_the_lock_names(top: Path) -> None:
    """Packages and indexes of the lock are needed; those of an earlier one are not."""
    assert doit(top).returncode == 0
    blobs = top / "cache/v1/blobs"
    count = len([path for path in blobs.rglob("*") if path.is_file()])
    assert doit(top, "prune", "--older-than", "0").returncode == 0
    assert len([path for path in blobs.rglob("*") if path.is_file()]) == count == 5
    lock = parse_lock((top / LOCK).read_bytes(), "lock")
    edit(top, packages=lock.packages[:2])
    assert doit(top, "prune", "--older-than", "0").returncode == 0
    digest = hashlib.sha256(LIBGREET.content).hexdigest()
    assert not list(blobs.rglob(digest))
    assert list(blobs.rglob(hashlib.sha256(GREET.content).hexdigest()))


def test_a_damaged_package_is_repaired(top: Path) -> None:
    """`verify` names the definition that needs a package of the cache, and obtains the package again."""
    assert doit(top).returncode == 0
    digest = hashlib.sha256(GREET.content).hexdigest()
    blob = top / f"cache/v1/blobs/sha256/{digest[:2]}/{digest}"
    blob.chmod(0o644)
    blob.write_bytes(b"damaged")
    done = doit(top, "verify", "--repair")
    assert "fetch:debs" in done.stdout and "1 damaged" in done.stdout, done.stdout
    assert blob.read_bytes() == GREET.content


COMMANDS: dict[str, Callable[[str], bool]] = {
    "info fetch:debs": lambda text: "fetchdefs/fetch/debs.lock" in text and "packages   : 3" in text,
    "info --json fetch:debs": lambda text: '"state": "up-to-date"' in text,
    "list --all": lambda text: "fetch:debs     greeters" in text,
    "verify": lambda text: "; 0 damaged" in text,
    "why": lambda text: "Traceback" not in text,
    "export url out": lambda text: "not exported: debs: it is not one download" in text,
    "outdated": lambda text: "not covered" in text,
    "audit --offline": lambda text: "Traceback" not in text,
    "report": lambda text: "Traceback" not in text,
    "store status": lambda text: "Traceback" not in text,
}


def test_other_commands(top: Path) -> None:
    """Every command about definitions knows the type."""
    assert doit(top).returncode == 0
    for command, is_expected in COMMANDS.items():
        done = doit(top, *command.split())
        assert "Traceback" not in done.stdout, done.stdout
        assert is_expected(done.stdout), (command, done.stdout)


def test_bill_of_materials(top: Path) -> None:
    """Each package is a component with its package URL and digest, contained in the definition."""
    done = doit(top, "sbom", "--format", "spdx-2.3")
    packages = {one["name"]: one for one in json.loads(done.stdout)["packages"]}
    assert set(packages) == {"debs", "debs/greet:amd64", "debs/libgreet:amd64", "debs/greet-data:all"}
    purl = packages["debs/greet:amd64"]["externalRefs"][0]["referenceLocator"]
    assert purl == "pkg:deb/debian/greet@1:2.0?arch=amd64&distro=bookworm"
    digest = hashlib.sha256(GREET.content).hexdigest()
    assert packages["debs/greet:amd64"]["checksums"][0]["checksumValue"] == digest
    related = [one["relationshipType"] for one in json.loads(done.stdout)["relationships"]]
    assert related.count("CONTAINS") == 3
    pytest.importorskip("cyclonedx")
    document = json.loads(doit(top, "sbom").stdout)
    purls = {one.get("purl") for one in document["components"]}
    assert "pkg:deb/debian/greet-data@1.0?arch=all&distro=bookworm" in purls
    contained = next(one for one in document["dependencies"] if one["ref"] == "fetch:debs")
    assert len(contained["dependsOn"]) == 3


def test_the_lock_is_written_as_update_writes_it(top: Path) -> None:
    """The helper of these tests writes the format of `doit update`."""
    raw = (top / LOCK).read_bytes()
    assert encode_lock(parse_lock(raw, "lock")) == raw
