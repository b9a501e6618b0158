"""`update`: definitions that move to another version, or are measured again."""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks_lib.errors import EditError, FetchError, IntegrityError, SignatureError
from tasks_lib.pins.commits import Target
from tasks_lib.pins.update import Updated, UpdateRequest, update
from tests.archives import Member, tar
from tests.keys import keyring
from tests.origin import Origin, reply
from tests.project import definition, doit, written
from tests.repositories import committed, git, made
from tests.test_add import Project as AddProject
from tests.test_add import signed_with_minisign
from tests.test_hg import committed as commit_hg
from tests.test_hg import hg, needs_hg
from tests.test_hg import made as make_hg
from tests.test_program import program


def lib(version: str, *more: str) -> bytes:
    """Return an archive: `a` is the same in each version, `b` is not."""
    top = f"lib-{version}"
    members = [Member(f"{top}/"), Member(f"{top}/a", b"a"), Member(f"{top}/b", version.encode() * 400)]
    return tar([*members, *(Member(f"{top}/{name}", b"x") for name in more)])


OLD, NEW = lib("1.9", "old"), lib("1.10", "new")
FILE = """\
# head

lib-1.9: # why this version
  description: 'the lib 1.9'
  fetch:
    type: static-url
    url:   "{url}/1.9/lib-1.9.tar"  # upstream
    mirrors: ['{url}/mirror/lib-1.9.tar']
    sha256: {sha}

    size: {size}   # bytes
    artifact-name: lib-1.9.tar.zst
    strip-components: 1
    add-prefix: lib-1.9/
{more}
# other
other: {{description: o, fetch: {{type: static-url, url: "file:x", sha256: {sha}, size: 1}}}}
"""


class Project(AddProject):
    def update(self, name: str, newest: str | Target = "", **request: Any) -> Updated:
        workspace = self.workspace()
        target = newest if isinstance(newest, Target) else Target(newest)
        return update(workspace, workspace.definitions.fetch(name), UpdateRequest(**request), target)


@pytest.fixture
def here(tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    origin.answers |= {"/1.9/lib-1.9.tar": reply(OLD), "/1.10/lib-1.10.tar": reply(NEW)}
    return Project(origin)


def define(here: Project, more: str = "", content: bytes = OLD) -> str:
    sha = hashlib.sha256(content).hexdigest()
    text = FILE.format(url=here.origin.url, sha=sha, size=len(content), more=more)
    written(Path(), {"fetchdefs/fetch/f.yml": text})
    return text


def read() -> str:
    return Path("fetchdefs/fetch/f.yml").read_text()


def changed_lines(before: str, after: str) -> list[str]:
    return [line[2:].strip() for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[:1] == "+"]


HOW = [{"newest": "1.10"}, {"to": "1.10"}, {"to": "v1.10"}, {"url": "{url}/1.10/lib-1.10.tar"}]


@pytest.mark.parametrize("how", HOW)
def test_a_new_version(here: Project, how: dict[str, str]) -> None:
    """The lines that hold the version change, with size and digest; names, comments, blank lines and quotes stay."""
    before = define(here)
    here.update("lib-1.9")  # the cache has the old content
    done = here.update("lib-1.9", **{key: value.format(url=here.origin.url) for key, value in how.items()})
    assert (done.state, done.before, done.after) == ("updated", "1.9", "1.10")
    url = here.origin.url
    assert changed_lines(before, read()) == [
        f'url:   "{url}/1.10/lib-1.10.tar"  # upstream',
        f"mirrors: ['{url}/mirror/lib-1.10.tar']",
        f"sha256: {hashlib.sha256(NEW).hexdigest()}",
        f"size: {len(NEW)}   # bytes",
        "artifact-name: lib-1.10.tar.zst",
        "add-prefix: lib-1.10/",
    ]
    assert done.diff.startswith("--- a/fetchdefs/fetch/f.yml\n+++ b/fetchdefs/fetch/f.yml\n")
    assert done.tree is not None
    assert [len(paths) for paths in done.tree] == [4, 4, 0]  # the prefix has the version


def test_the_tree_difference(here: Project) -> None:
    """Entries are compared by path and content, without what is stripped."""
    text = define(here)
    written(Path(), {"fetchdefs/fetch/f.yml": text.replace("    add-prefix: lib-1.9/\n", "")})
    here.update("lib-1.9")
    done = here.update("lib-1.9", "1.10", mode="dry-run")
    assert done.tree == (["new"], ["old"], ["b"])
    assert done.tree is not None
    assert done.tree.lines() == ["tree: 1 added, 1 removed, 1 changed", "  + new", "  - old", "  ~ b"]
    assert "1.10" not in read()


def test_unchanged(here: Project) -> None:
    """Without a newer version the present URL is measured again."""
    before = define(here)
    done = here.update("lib-1.9")
    assert (done.state, done.changes, read()) == ("unchanged", {}, before)
    assert here.origin.paths() == ["/1.9/lib-1.9.tar"]


def test_changed_content(here: Project) -> None:
    """Content that changed under the same URL is the way out of a mismatch: digest and size change."""
    before = define(here, content=lib("1.9"))
    done = here.update("lib-1.9")
    assert sorted(done.changes) == ["sha256", "size"]
    assert changed_lines(before, read()) == [
        f"sha256: {hashlib.sha256(OLD).hexdigest()}",
        f"size: {len(OLD)}   # bytes",
    ]
    written(Path(), {"dodo.py": "from doit_fetch import DOIT_CONFIG, task_fetchdefs\n"})
    asked = len(here.origin.requests)
    assert doit(Path(), "fetch:lib-1.9").returncode == 0
    assert len(here.origin.requests) == asked


def test_nothing_is_written_on_failure(here: Project) -> None:
    """A missing version, a web page, a digest that differs, and a URL without a version leave the file as it was."""
    before = define(here)
    here.origin.answers["/2.0/lib-2.0.tar"] = reply(b"<html>")
    for request, kind, reason in (
        ({"to": "3.0"}, FetchError, "404"),
        ({"to": "2.0"}, EditError, "web page"),
        ({"url": f"{here.origin.url}/1.10/lib-1.10.tar#sha256={'0' * 64}"}, IntegrityError, "fragment"),
        ({"url": f"{here.origin.url}/x?token=abc"}, EditError, "credential"),
    ):
        with pytest.raises(kind, match=reason) as found:
            here.update("lib-1.9", **request)
        assert read() == before
        message = str(found.value)  # `doit update` shows it after the name of the definition
        assert not message.startswith(("lib-1.9:", "cannot download lib-1.9\n")), message
    with pytest.raises(EditError, match="version"):
        here.update("other", to="2.0")


@pytest.mark.parametrize("kind", ["gpg-signature", "minisign", "checksums"])
def test_signatures(here: Project, kind: str) -> None:
    """The new content must be signed as the definition requires; the URLs of signatures follow the version."""
    url = here.origin.url
    text = f"{hashlib.sha256(NEW).hexdigest()}  lib-1.10.tar\n".encode()
    with keyring() as keys:
        keys.make("maker")
        written(Path(), {"keys/maker.asc": keys.public("maker", armor=True).decode()})
        signature, listed = keys.sign(NEW, "maker"), keys.sign(text, "maker")
    minisig, public = signed_with_minisign(NEW)
    fields = {
        "gpg-signature": f'{{sig-url: "{url}/sigs/lib-1.9.sig", key-path: keys/maker.asc}}',
        "minisign": f"{{public-key: {public.splitlines()[1]}}}",
        "checksums": f'{{url: {url}/1.9/SUMS, signed-by: {{key-path: keys/maker.asc, sig-url: "{{url}}.asc"}}}}',
    }
    define(here, f"    {kind}: {fields[kind]}\n")
    with pytest.raises(FetchError):  # no signature yet
        here.update("lib-1.9", "1.10")
    here.origin.answers |= {
        "/sigs/lib-1.10.sig": reply(signature), "/1.10/lib-1.10.tar.minisig": reply(minisig),
        "/1.10/SUMS": reply(text), "/1.10/SUMS.asc": reply(listed),
    }  # fmt: skip
    assert here.update("lib-1.9", "1.10", mode="dry-run").state == "updated"
    before = read()
    here.origin.answers["/1.10/lib-1.10.tar"] = reply(NEW + bytes(512))
    with pytest.raises((SignatureError, FetchError)):
        here.update("lib-1.9", "1.10")
    assert read() == before
    here.origin.answers["/1.10/lib-1.10.tar"] = reply(NEW)
    here.update("lib-1.9", "1.10")
    assert "1.9/lib" not in read()
    assert "lib-1.9.sig" not in read()
    assert "1.9/SUMS" not in read()


def test_files_of_other_definitions_stay(here: Project) -> None:
    """A definition whose values come from an alias or a merge key is overridden in its own block."""
    sha = hashlib.sha256(OLD).hexdigest()
    url = f"{here.origin.url}/1.9/lib-1.9.tar"
    text = (
        f"a: &a\n  description: a\n  fetch: &f {{type: static-url, url: {url}, sha256: {sha}, size: {len(OLD)}}}\n"
        f"b:\n  description: b\n  fetch:\n    <<: *f\n    artifact-name: b-1.9.tar\n"
    )
    written(Path(), {"fetchdefs/fetch/f.yml": text})
    with pytest.raises(EditError, match="anchor"):
        here.update("a", "1.10")
    assert read() == text
    here.update("b", "1.10")
    found = yaml.safe_load(read())
    assert found["a"]["fetch"]["url"] == url
    assert (found["b"]["fetch"]["url"], found["b"]["fetch"]["size"]) == (
        f"{here.origin.url}/1.10/lib-1.10.tar",
        len(NEW),
    )


# --- commits


@pytest.fixture
def upstream(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    """Return the URL of a git repository, and two of its commits: v1.2 and v1.10."""
    directory = tmp_path_factory.mktemp("upstream") / "tool.git"
    first = made(directory, {"a.txt": b"1"})
    git(directory, "tag", "v1.2")
    second = committed(directory, {"a.txt": b"2", "b.txt": b"b"})
    git(directory, "tag", "-a", "-m", "annotated", "v1.10")
    return f"file://{directory}", first, second


@pytest.mark.parametrize("how", ["1.10", "v1.10", "newest", "commit"])
def test_git(here: Project, upstream: tuple[str, str, str], how: str) -> None:
    """A commit moves to that of a tag; only its line changes."""
    url, first, second = upstream
    text = f"tool: # why\n  description: t\n  fetch:\n    type: git\n    repo: {url}\n    revision: {first} # v1.2\n"
    written(Path(), {"fetchdefs/fetch/f.yml": text})
    assert here.update("tool").state == "unchanged"
    if how == "newest":
        done = here.update("tool", Target("1.10", "v1.10", second, url))
    else:
        done = here.update("tool", to=second if how == "commit" else how)
    assert read() == text.replace(first, second).replace("# v1.2", "# v1.10" if how != "commit" else "# v1.2")
    assert done.tree == (["tool.git/b.txt"], [], ["tool.git/a.txt"])


def test_git_refused(here: Project, upstream: tuple[str, str, str]) -> None:
    """A missing tag and a missing commit leave the file as it was."""
    url, first, _ = upstream
    text = f"tool:\n  description: t\n  fetch:\n    type: git\n    repo: {url}\n    revision: {first}\n"
    written(Path(), {"fetchdefs/fetch/f.yml": text})
    for to in ("9.9", "0" * 40):
        with pytest.raises(FetchError):
            here.update("tool", to=to)
    assert read() == text


@needs_hg
@pytest.mark.slow
def test_hg(here: Project, tmp_path: Path) -> None:
    """A changeset moves to that of a tag."""
    first = make_hg(tmp_path / "r")
    (tmp_path / "r/new").write_text("new")
    second = commit_hg(tmp_path / "r")
    hg(tmp_path / "r", "tag", "-d", "0 0", "-r", second, "v1.10")
    text = f"tool:\n  description: t\n  fetch: {{type: hg, repo: 'file://{tmp_path}/r', revision: {first}}}\n"
    written(Path(), {"fetchdefs/fetch/f.yml": text})
    assert here.update("tool").state == "unchanged"
    done = here.update("tool", to="1.10")
    assert read() == text.replace(first, second)
    assert done.tree == (["r/new"], [], [])
    for to in ("9.9", "--config=x"):
        with pytest.raises(FetchError):
            here.update("tool", to=to)


# --- the command


@pytest.mark.slow
def test_the_command_line(here: Project, tmp_path: Path) -> None:
    """Names or --all; JSON is the only output; a definition that fails does not stop the others."""
    listing = '<html><a href="lib-1.9.tar">lib-1.9.tar</a> <a href="lib-1.10.tar">lib-1.10.tar</a></html>'
    here.origin.answers |= {"/pub/lib-1.9.tar": reply(OLD), "/pub/lib-1.10.tar": reply(NEW), "/gone/x-1.0": reply(OLD)}
    here.origin.answers["/pub/"] = reply(listing.encode(), Content_Type="text/html")
    files = definition("lib", f"{here.origin.url}/pub/lib-1.9.tar", OLD) + definition(
        "x", f"{here.origin.url}/gone/x-1.0", NEW
    )
    written(tmp_path, {"fetchdefs/fetch/f.yml": files})
    del here.origin.answers["/gone/x-1.0"]
    done = program(tmp_path, "update", "--all", "--json")
    found = {one["name"]: one for one in json.loads(done.stdout)}
    assert done.returncode == 1
    assert (found["lib"]["status"], found["lib"]["from"], found["lib"]["to"]) == ("updated", "1.9", "1.10")
    assert found["lib"]["changes"]["size"] == {"old": str(len(OLD)), "new": str(len(NEW))}
    assert found["lib"]["tree"] is None  # the old version is not in the cache
    assert found["x"]["status"] == "failed"
    shown = program(tmp_path, "update", "lib", "--url", f"{here.origin.url}/pub/lib-1.9.tar?raw=1")
    assert shown.returncode == 0, shown.stderr
    assert "lib: updated 1.10 -> 1.9\n  tree:" in shown.stdout
    assert f"+    url: {here.origin.url}/pub/lib-1.9.tar?raw=1" in shown.stdout
    for words in ((), ("lib", "--all"), ("none",), ("--all", "--to", "1"), ("--all", "--url", "x")):
        assert program(tmp_path, "update", *words).returncode == 3
    assert not (tmp_path / "dodo.py").exists()
