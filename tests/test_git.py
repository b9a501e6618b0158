"""Archives of commits: reproducible bytes, verified objects, and rejection of attacks from CVEs of git."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from msgspec.structs import replace

from tasks_lib.context import Context
from tasks_lib.definitions import Git
from tasks_lib.digest import Integrity
from tasks_lib.errors import ArchiveError, OfflineError, ToolError
from tasks_lib.progress import Silent
from tasks_lib.settings import Settings
from tasks_lib.steps.commit import commit_archive
from tests.archives import Member, pax, record, tar
from tests.githost import http
from tests.project import DODO, PYTHONPATH, definition, doit, ran, written
from tests.repositories import FILES, committed, forged, git, made, with_submodule
from tests.test_archive import repacked

ROOT = Path(__file__).parent.parent


def make_context(cache: Path, environ: dict[str, str] | None = None, **variables: Any) -> Context:
    environment = dict(os.environ) | (environ or {})
    defaults = {"cache": str(cache), "retries": "0", "stall_timeout": "5"}
    return Context(Settings.parse(variables={**defaults, **variables}, environ=environment), environment)


def source(repository: Path | str, commit: str, **more: Any) -> Git:
    url = repository if isinstance(repository, str) else f"file://{repository}"
    return Git(repo=url, revision=commit, path_prefix="p", artifact_name="p.tar.zst", **more)


def archived(home: Context, wanted: Git) -> bytes:
    """Return the tar of a commit."""
    return unpacked(home, commit_archive(home, wanted, Silent()))


def unpacked(home: Context, integrity: Integrity) -> bytes:
    """Return the tar of an archive in the cache."""
    with home.cache.open(integrity) as file:
        return zstandard.ZstdDecompressor().decompress(file.read())


def members(tar: bytes) -> dict[str, bytes | str]:
    """Return name -> content, or target of a symlink, or "directory"."""
    found: dict[str, bytes | str] = {}
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() else None
            found[member.name] = content.read() if content else member.linkname or "directory"
    return found


def test_what_the_archive_holds(tmp_path: Path) -> None:
    """The archive contains the bytes of the tree; attributes, filters and substitutions have no effect."""
    commit = made(tmp_path / "r", FILES)
    tar = archived(make_context(tmp_path / "c"), source(tmp_path / "r", commit))
    found = members(tar)
    assert {name: found[f"p/{name}"] for name in FILES} == FILES
    assert (found["p/link"], found["p/d/e"]) == ("README", "directory")
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        modes = {member.name: member.mode for member in archive}
    assert (modes["p/run"], modes["p/README"], modes["p"]) == (0o755, 0o644, 0o755)


def test_outward_symlinks(tmp_path: Path) -> None:
    """A symlink that points outside is kept unchanged if the definition allows it."""
    made(tmp_path / "r", FILES)
    commit = forged(tmp_path / "r", [("120000", "x", b"/usr/lib"), ("120000", "y", b"../../z")])
    wanted = source(tmp_path / "r", commit, archive=(("outward_symlinks", "keep"),))
    found = members(archived(make_context(tmp_path / "c"), wanted))
    assert (found["p/x"], found["p/y"]) == ("/usr/lib", "../../z")


SYMLINK_TARGETS = {b"Icon\r": "", b"a\nb": "", b"": "LINK_TARGET", b"a\0b": "LINK_TARGET", b"../../x": "SYMLINK_OUTSIDE", b"/x": "SYMLINK_ABSOLUTE"}  # fmt: skip


def outcome(attempt: Callable[..., object], *words: object, **options: str) -> tuple[str, str]:
    """Return code and hint of a refusal, empty for success."""
    try:
        attempt(*words, **options)
    except ArchiveError as error:
        return error.code, error.hint
    return "", ""


@pytest.mark.parametrize("target", SYMLINK_TARGETS, ids=str)
def test_one_rule_for_symlink_targets(target: bytes, tmp_path: Path) -> None:
    """A symlink of a commit is accepted and refused as that of a tar, with the same code and hint."""
    made(tmp_path / "r", FILES)
    commit = forged(tmp_path / "r", [("120000", "x", target)])
    data = tar([pax(record("linkpath", target)), Member("x", kind=b"2", target="y")])
    for shape in ((), (("control_names", "keep"),)):
        wanted = source(tmp_path / "r", commit, shape=shape)
        of_git = outcome(archived, make_context(tmp_path / "c"), wanted)
        assert of_git == outcome(repacked, data, "tar", **dict(shape))
        assert of_git[0] == (SYMLINK_TARGETS[target] or ("" if shape else "LINK_TARGET"))


@pytest.mark.slow
def test_control_names_with_doit(tmp_path: Path) -> None:
    """Control characters in names are refused by default; with the key, commit and tar are extracted completely."""
    names = {"Icon\r": b"icon", "d/a\nb": b"x", "\x1b[31m": b"y"}
    commit = made(tmp_path / "r", {**FILES, **names})
    data = tar([Member(name, content) for name, content in names.items()])
    (tmp_path / "icon.tar").write_bytes(data)
    repository = tmp_path / "user"

    def write(more: str) -> None:
        where = f"repo: 'file:../../../r', revision: {commit}, include-dot-git: true"
        git_definition = f"lib:\n  description: d\n  fetch: {{type: git, {where}{more and ', ' + more}}}\n"
        files = {
            "dodo.py": DODO,
            "fetchdefs/fetch/a.yml": git_definition
            + definition("icon", "file:../../../icon.tar", data, more and f"    {more}\n"),
            "fetchdefs/toolchain/a.yml": "t:\n  description: d\n  fetches: {fetch: [lib, icon]}\n",
        }
        written(repository, files)

    write("")
    refused = doit(repository, "-c", "toolchain:t")
    for name in ("r.tar.zst", "icon.tar"):
        line = next(line for line in refused.stdout.splitlines() if line.startswith(f"{name}: entry"))
        assert "[NAME_CONTROL]" in line
    assert "set `control-names: keep` under `fetch:`" in refused.stdout
    write("control-names: keep")
    assert doit(repository).returncode == 0
    for root in (repository / "build/t/fetches/r", repository / "build/t/fetches"):
        assert {name: (root / name).read_bytes() for name in names} == names
    assert git(repository / "build/t/fetches/r", "status", "--porcelain", GIT_OPTIONAL_LOCKS="0") == ""
    assert ran(doit(repository)) == []
    (repository / "build/t/fetches/Icon\r").write_bytes(b"changed")
    assert ran(doit(repository)) == ["extract:t/icon"]
    assert doit(repository, "verify").returncode == 0


CHILD = """
import os, sys
from pathlib import Path
from tasks_lib.definitions import Git
from tasks_lib.progress import Silent
from tasks_lib.settings import Settings
from tasks_lib.context import Context
from tasks_lib.steps.commit import commit_archive
context = Context(Settings.parse(variables={"cache": sys.argv[1]}, environ=os.environ), dict(os.environ))
source = Git(repo=sys.argv[2], revision=sys.argv[3], path_prefix="p", artifact_name="p.tar.zst", dot_git=sys.argv[4])
print(commit_archive(context, source, Silent()).digest)
"""


#: May read what Python and this checkout are, wherever they lie, and write only what is its own.
DROP = [
    "setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups",
    "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search",
]  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")
def test_one_digest() -> None:
    """The clone, the user, the umask, core.autocrlf and a later tag do not change the digest."""
    with tempfile.TemporaryDirectory() as directory:  # pytest's own are closed to other users
        Path(directory).chmod(0o755)
        same_for_all(Path(directory))


def same_for_all(tmp_path: Path) -> None:
    commit = made(tmp_path / "r", FILES)
    git(tmp_path, "clone", "-q", "--no-local", "--bare", "r", "other.git")
    git(tmp_path / "r", "tag", "-a", "-m", "later", "v1")
    git(tmp_path / "r", "repack", "-q", "-a", "-d")
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text("[core]\n autocrlf = true\n attributesFile = ~/x\n[tar]\n umask = 0077\n")
    (home / "x").write_text("* text eol=crlf\n")
    digests = set()
    for number, (umask, user, repository) in enumerate(
        [(0o022, "root", "r"), (0o077, "root", "other.git"), (0o002, "nobody", "r"), (0o077, "nobody", "other.git")]
    ):
        cache = tmp_path / f"cache{number}"
        cache.mkdir()
        shutil.chown(cache, user)
        drop = DROP if user == "nobody" else []
        words = [*drop, sys.executable, "-c", CHILD, str(cache), f"file://{tmp_path}/{repository}", commit, "dropped"]
        environ = {**os.environ, "HOME": str(home), "PYTHONPATH": PYTHONPATH, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(words, env=environ, umask=umask, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout)
    assert len(digests) == 1


@pytest.mark.parametrize("form", ["sha1", "sha256"])
def test_submodules_three_deep(tmp_path: Path, form: str) -> None:
    """Each submodule has the commit that the tree of its parent pins, even if its branch has moved."""
    for name in ("third", "second", "first", "top"):
        made(tmp_path / name, {"README": name.encode()}, form=form)
    with_submodule(tmp_path / "second", "../third", "c")
    with_submodule(tmp_path / "first", "./../second", "b/b")
    commit = with_submodule(tmp_path / "top", f"file://{tmp_path}/first", "a")
    committed(tmp_path / "third", {"README": b"moved"})
    found = members(archived(make_context(tmp_path / "c"), source(tmp_path / "top", commit)))
    contents = [found[f"p{path}/README"] for path in ("", "/a", "/a/b/b", "/a/b/b/c")]
    assert contents == [b"top", b"first", b"second", b"third"]
    assert "p/a/.git" not in found


def test_the_cache_answers(tmp_path: Path) -> None:
    """A fetched commit needs no remote repository, and an existing archive needs no git."""
    commit = made(tmp_path / "r", FILES)
    home = make_context(tmp_path / "c")
    first = archived(home, source(tmp_path / "r", commit))
    shutil.rmtree(tmp_path / "r")
    other = replace(source(tmp_path / "r", commit), path_prefix="q")
    assert "q/README" in members(archived(home, other))
    shutil.rmtree(tmp_path / "c/v1/repositories")
    assert archived(make_context(tmp_path / "c", {"PATH": "/nowhere"}), source(tmp_path / "r", commit)) == first


def test_offline(tmp_path: Path) -> None:
    """Offline, a commit that is not in the cache is reported, and no connection is opened."""
    wanted = source("https://127.0.0.1:9/r.git", "a" * 40)
    with pytest.raises(OfflineError, match="is not in the cache, and the network is off"):
        archived(make_context(tmp_path / "c", offline="1"), wanted)


def test_missing_git(tmp_path: Path) -> None:
    """If git is not installed, the message names the program to install."""
    with pytest.raises(ToolError, match="the program git is not installed"):
        archived(make_context(tmp_path / "c", {"PATH": "/nowhere"}), source(tmp_path, "a" * 40))


def test_with_doit(tmp_path: Path) -> None:
    """A toolchain consumes a commit; the second doit does nothing, and a lost database does not run git again."""
    commit = made(tmp_path / "r", FILES)
    repository = tmp_path / "user"
    (repository / "fetchdefs/fetch").mkdir(parents=True)
    (repository / "fetchdefs/toolchain").mkdir()
    (repository / "dodo.py").write_text(DODO)
    (repository / "fetchdefs/fetch/all.yml").write_text(
        f"lib:\n  description: d\n  fetch: {{type: git, repo: 'file:../../../r', revision: {commit}}}\n"
    )
    (repository / "fetchdefs/toolchain/all.yml").write_text("t:\n  description: d\n  fetches: {fetch: [lib]}\n")
    assert ran(doit(repository)) == ["extract:t/lib", "fetch:lib", "repack:lib", "toolchain:t"]
    assert (repository / "build/t/fetches/r/hidden").read_bytes() == b"still here\n"
    assert os.access(repository / "build/t/fetches/r/run", os.X_OK)
    assert ran(doit(repository)) == []
    (repository / "cache/doit.db").unlink()
    shutil.rmtree(repository / "cache/v1/repositories")
    shutil.rmtree(tmp_path / "r")
    assert "fetch:lib" in ran(doit(repository))
    assert ran(doit(repository)) == []


@pytest.mark.slow
@pytest.mark.parametrize("form", ["sha1", "sha256"])
def test_dot_git(tmp_path: Path, form: str) -> None:
    """A kept .git is a working repository of the commit with submodules, with the same bytes from any clone."""
    files = FILES | {"big": bytes(range(256)) * 8192, "empty": b""}
    made(tmp_path / "third", files, form=form)
    made(tmp_path / "inner", files, form=form)
    with_submodule(tmp_path / "inner", "../third", "deep/er")
    made(tmp_path / "r", {"README": b"old"}, form=form)
    committed(tmp_path / "r", files)
    commit = with_submodule(tmp_path / "r", "../inner", "in ner")
    git(tmp_path, "clone", "-q", "--no-local", "--bare", "r", "other.git")
    git(tmp_path, "clone", "-q", "--no-local", "--bare", "inner", "inner2.git")
    tar = archived(make_context(tmp_path / "c"), source(tmp_path / "r", commit, dot_git="kept"))
    assert archived(make_context(tmp_path / "c2"), source(tmp_path / "other.git", commit, dot_git="kept")) == tar
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        archive.extraction_filter = getattr(tarfile, "tar_filter", None)  # Python before 3.11.4 has none
        archive.extractall(tmp_path / "out")
    for directory in (tmp_path / "out/p", tmp_path / "out/p/in ner", tmp_path / "out/p/in ner/deep/er"):
        git(directory, "fsck", "--strict", "--full")
        assert git(directory, "status", "--porcelain", "-uall") == ""
        assert len(git(directory, "log", "--format=%H").splitlines()) == 1
    assert git(tmp_path / "out/p", "rev-parse", "HEAD") == commit
    assert git(tmp_path / "out/p", "submodule", "status").startswith(git(tmp_path / "inner", "rev-parse", "HEAD"))
    assert (tmp_path / "out/p/in ner/.git").read_text() == "gitdir: ../.git/modules/in ner\n"  # as git writes it
    deepest = tmp_path / "out/p/in ner/deep/er/.git"
    assert deepest.read_text() == "gitdir: ../../../.git/modules/in ner/modules/deep/er\n"
    (tmp_path / "out/p/README").write_text("changed")
    assert git(tmp_path / "out/p", "status", "--porcelain") == "M README"


@pytest.mark.slow
@pytest.mark.parametrize("known", ["fetched", "archived", "without git"])
def test_prune_leaves_the_repositories_of_submodules(tmp_path: Path, known: str) -> None:
    """Prune keeps repositories of nested submodules until the definition is removed; without git it keeps all."""
    for name in ("third", "second", "top", "alien"):
        made(tmp_path / name, {"README": name.encode()})
    with_submodule(tmp_path / "second", "../third", "c")
    commit = with_submodule(tmp_path / "top", "../second", "b")
    alien = git(tmp_path / "alien", "rev-parse", "HEAD")
    user = tmp_path / "user"
    (user / "fetchdefs/fetch").mkdir(parents=True)
    (user / "dodo.py").write_text(DODO)
    define = "{0}:\n  description: d\n  fetch: {{type: git, repo: 'file:../../../{0}', revision: {1}}}\n".format
    (user / "fetchdefs/fetch/top.yml").write_text(define("top", commit))
    (user / "fetchdefs/fetch/alien.yml").write_text(define("alien", alien))
    ran(doit(user, "fetch"))
    if known == "archived":
        ran(doit(user, "repack"))
    (user / "fetchdefs/fetch/alien.yml").unlink()
    repositories = user / "cache/v1/repositories"
    assert len([*repositories.iterdir()]) == 4
    then = time.time() - 7200
    for path in (user / "cache").rglob("*"):
        os.utime(path, (then, then), follow_symlinks=False)
    environ = {"PATH": "/nowhere"} if known == "without git" else {}
    printed = doit(user, "prune", **environ)
    assert printed.returncode == 0, printed.stdout
    assert len([*repositories.iterdir()]) == (4 if known == "without git" else 3), printed.stdout
    for name in ("second", "third", "top"):
        shutil.rmtree(tmp_path / name)
    for name in ("v1/results", "v1/blobs", "artifacts"):
        shutil.rmtree(user / "cache" / name, ignore_errors=True)
    ran(doit(user, "offline=1", "repack"))  # nothing but the repositories is left, and they have everything
    (user / "fetchdefs/fetch/top.yml").write_text(definition("other", "file:/dev/null", b""))
    ran(doit(user, "list"))
    for path in (user / "cache").rglob("*"):
        os.utime(path, (then, then), follow_symlinks=False)
    assert doit(user, "prune").returncode == 0
    assert not [*repositories.iterdir()]


def test_offline_with_doit(tmp_path: Path) -> None:
    """Offline, a cached commit archive is used, and a missing one is reported before any task runs."""
    commit = made(tmp_path / "hosted/r", FILES)
    repository = tmp_path / "user"
    (repository / "fetchdefs/fetch").mkdir(parents=True)
    (repository / "dodo.py").write_text(DODO)
    with http(tmp_path / "hosted") as host:
        text = f"lib:\n  description: d\n  fetch: {{type: git, repo: '{host.url}/r/.git', path-prefix: p, revision: {commit}}}\n"
        (repository / "fetchdefs/fetch/all.yml").write_text(text)
        printed = doit(repository, "offline=1", "repack:lib")
        assert printed.returncode != 0
        assert "lib: not in the cache, and the network is off" in printed.stdout
        assert host.requests == []
        assert ran(doit(repository, "repack:lib")) == ["fetch:lib", "repack:lib"]
    for path in (repository / "cache/doit.db", *(repository / "cache/artifacts/lib").glob("*/lib.commit")):
        path.unlink()
    shutil.rmtree(repository / "cache/v1/repositories")
    assert ran(doit(repository, "offline=1", "repack:lib"))
