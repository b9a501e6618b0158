"""`fetch-content` with keys: signed downloads, and commits that need an ssh key."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.keys import Keyring, keyring
from tests.origin import reply, serving
from tests.taskcluster import CLEAN, taskcluster
from tests.test_fetch_content import Run, pinned, run, tree_of, unpacked

__all__ = ["run"]

CONTENT = b"signed content"


@pytest.fixture(scope="module")
def ring() -> Iterator[Keyring]:
    """Yield a good key, one that expires soon, and one that has expired."""
    with keyring() as made:
        made.make("good")
        made.make("soon", expires="41d")
        made.make("expired", at="20200101T000000", expires="1y")
        yield made


@pytest.mark.parametrize(
    ("signer", "key", "reason"),
    [
        ("good", "good", "Verified signature of"),
        ("soon", "soon", "WARNING: this key expires in 4"),
        ("good", "soon", "not in the key file"),
        ("expired", "expired", "has expired"),
        ("other content", "good", "does not match the content"),
        ("missing", "good", "HTTP 404"),
    ],
)
@pytest.mark.parametrize("form", ["binary", "armored"])
def test_signed(run: Run, ring: Keyring, tmp_path: Path, signer: str, key: str, reason: str, form: str) -> None:
    """The key comes from an environment variable; everything but a good signature by it is refused."""
    flags: tuple[str, ...] = ("--armor",) if form == "armored" else ()
    if signer == "expired":
        flags += ("--faked-system-time", "20200601T000000")
    signed = CONTENT if signer != "other content" else b"other"
    signature = ring.sign(signed, signer if signer in ("good", "soon", "expired") else "good", *flags)
    with serving({"/f.txt": reply(CONTENT)}) as origin:
        if signer != "missing":
            origin.answers["/f.txt.sig"] = reply(signature)
        words = ["--gpg-sig-url", f"{origin.url}/f.txt.sig", "--gpg-key-env", "FETCH_GPG_KEY"]
        text = ring.public(key, armor=True).decode()
        ended = run(
            "static-url", *pinned(CONTENT), *words, f"{origin.url}/f.txt", tmp_path / "f.txt", FETCH_GPG_KEY=text
        )
    good = reason.startswith(("Verified", "WARNING"))
    assert (ended.status, reason in ended.err) == (0 if good else 1, True), ended.err
    assert (tmp_path / "f.txt").exists() == good
    assert text[100:200] not in ended.err


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository with two commits on main and a tag on the first."""
    path = tmp_path_factory.mktemp("git") / "project.git"
    path.mkdir()
    for words in (
        ["init", "-q", "-b", "main"], ["config", "user.name", "x"], ["config", "user.email", "x@example.org"],
        ["commit", "-q", "--allow-empty", "-m", "one"], ["tag", "v1"],
    ):  # fmt: skip
        subprocess.run(["git", "-C", path, *words], env=CLEAN, check=True)
    (path / "run").write_text("#!/bin/sh\n")
    (path / "run").chmod(0o755)
    (path / "d").mkdir()
    (path / "d/link").symlink_to("../run")
    tags = ["tag", "-a", "-m", "t", "v2"], ["tag", "-a", "-m", "t", "v3", "v2"]
    for words in (["add", "."], ["commit", "-q", "-m", "two"], *tags):
        subprocess.run(["git", "-C", path, *words], env=CLEAN, check=True)
    return path


def commit(repository: Path, name: str = "main") -> str:
    words = ["git", "-C", str(repository), "rev-parse", name]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("form", ["commit", "branch", "HEAD", "path", "prefix", "tag", "tag of a tag"])
def test_git(run: Run, repository: Path, tmp_path: Path, form: str) -> None:
    """A commit, or that of a branch, is archived below the last part of the URL or the prefix."""
    tags = {"tag": commit(repository, "v2"), "tag of a tag": commit(repository, "v3")}
    name = {"branch": "main", "HEAD": "HEAD", **tags}.get(form, commit(repository))
    url = str(repository) if form == "path" else f"file://{repository}/"
    flags = ["--path-prefix", "some/where"] if form == "prefix" else []
    ended = run("git-checkout-archive", *flags, url, name, tmp_path / "x.tar.zst")
    assert ended.status == 0, ended.err
    top = "some/where" if form == "prefix" else "project.git"
    found = unpacked(tmp_path / "x.tar.zst", tmp_path / "tree")
    assert found.items() >= {f"{top}/run": "x #!/bin/sh\n", f"{top}/d/link": "-> ../run"}.items()
    assert (f"it names {commit(repository)}" in ended.err) == (form in tags)
    assert ("is not pinned; it is commit" in ended.err) == (form in ("branch", "HEAD"))
    assert not any("/.git/" in path for path in found)


def test_git_is_reproducible(run: Run, repository: Path, tmp_path: Path) -> None:
    """The archive of a commit is reproducible; .git is kept on request."""
    words = ["git-checkout-archive", f"file://{repository}", commit(repository)]
    for at in ("1", "2"):
        assert run(*words, tmp_path / f"{at}.tar.zst").status == 0
    assert (tmp_path / "1.tar.zst").read_bytes() == (tmp_path / "2.tar.zst").read_bytes()
    assert run(*words[:1], "--include-dot-git", "--fetch-mode", "clone", *words[1:], tmp_path / "3.tar.zst").status == 0
    unpacked(tmp_path / "3.tar.zst", tmp_path / "tree")
    log = subprocess.run(
        ["git", "-C", tmp_path / "tree/project.git", "-c", "safe.directory=*", "status", "--porcelain"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert log.stdout == ""


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["file:///nowhere", "0" * 40, "x.tar.zst"], "nowhere"),
        (["file://{}", "0" * 40, "x.tar.zst"], "0000"),
        (["file://{}", "no-such-branch", "x.tar.zst"], "no branch or tag called no-such-branch"),
        (["file://{}", "--", "-u", "x.tar.zst"], "neither a commit id nor a branch"),
        (["file://{}", "main", "x.tar.gz"], "only .tar.zst archives are made"),
        (["ext::sh -c touch% evil", "main", "x.tar.zst"], "fetch-content: "),
        (["--ssh-key-secret", "s", "file://{}", "main", "x.tar.zst"], "TASKCLUSTER_PROXY_URL is not set"),
    ],
)
def test_git_refused(run: Run, repository: Path, tmp_path: Path, words: list[str], reason: str) -> None:
    """A failed fetch exits with 1 and leaves nothing."""
    ended = run("git-checkout-archive", *(word.format(repository) for word in words))
    assert ended.status == 1 and reason in ended.err, ended.err
    assert tree_of(tmp_path) == {}


def test_ssh_key_secret(run: Run, repository: Path, tmp_path: Path) -> None:
    """The key is read from the secrets service of the proxy and never written to the cache."""
    words = ["git-checkout-archive", "--ssh-key-secret", "a/b", f"file://{repository}", commit(repository)]
    cache = tmp_path / "cache"
    with taskcluster() as cluster:
        secret = json.dumps({"secret": {"ssh_privkey": "PRIVATE-TEXT"}}).encode()
        path = "/api/secrets/v1/secret/a/b"
        cluster.proxy.answers[path] = reply(secret)
        environ = {"TASKCLUSTER_PROXY_URL": cluster.proxy.url, "FETCH_CACHE_DIR": str(cache)}
        ended = run(*words, tmp_path / "x.tar.zst", **environ)
        assert ended.status == 0, ended.err
        assert cluster.proxy.paths() == [path]
        found = [path for path in cache.rglob("*") if path.is_file() and b"PRIVATE-TEXT" in path.read_bytes()]
        assert not found and "PRIVATE-TEXT" not in ended.err
        cluster.proxy.answers[path] = reply(b'{"secret": {}}')
        assert "does not contain `ssh_privkey`" in run(*words, tmp_path / "y.tar.zst", **environ).err
