"""Secrets of definitions and of the environment: they reach the server that they belong to, and nothing else."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks_lib import recipe
from tasks_lib.definitions import Hg, SourceFile, parse
from tasks_lib.errors import TransportError
from tasks_lib.progress import Silent
from tasks_lib.steps.commit import commit_archive
from tasks_lib.transport.secrets import SentSecrets
from tests.githost import http
from tests.origin import Origin, reply, serving
from tests.project import DODO, LIBRARY, definition, doit, written
from tests.repositories import made
from tests.test_git import make_context, source
from tests.test_trust import CA, https

CONTENT = b"the content"


def project(root: Path, definitions: str) -> Path:
    return written(root, {"dodo.py": DODO, "fetchdefs/fetch/all.yml": definitions})


def succeed(root: Path, *words: str, **environ: str) -> str:
    """Run doit; return its output."""
    done: subprocess.CompletedProcess[str] = doit(root, *words, FETCH_EVENTS=str(root / "events"), **environ)
    assert done.returncode == 0, done.stdout
    return done.stdout


def show_everything(root: Path, name: str, **environ: str) -> str:
    """Return the output of the commands that show the sources of a fetch."""
    commands = (
        ["info", f"fetch:{name}"],
        ["graph", f"fetch:{name}", "--format", "json"],
        ["-r", "json", "-a"],
        ["report"],
    )
    return "".join(succeed(root, *words, **environ) for words in commands)


def files_with(secret: str, *directories: Path) -> list[str]:
    """Return the files that contain the text in their name or content."""
    files = [path for one in directories for path in [one, *one.rglob("*")]]
    return [
        str(path) for path in files if secret in path.name or (path.is_file() and secret.encode() in path.read_bytes())
    ]


def test_header_values_are_sent_and_kept_nowhere(tmp_path: Path, origin: Origin) -> None:
    """Literal values and `${NAME}` reach the server, also after a load from the cache, and no file or output."""
    origin.answers["/x"] = reply(CONTENT)
    headers = '    headers: {Authorization: "Bearer LITERALSECRET", Private-Token: "${MY_TOKEN}", X-Price: "a$$b"}\n'
    root = project(tmp_path, definition("x", f"{origin.url}/x", CONTENT, headers))
    shown = succeed(root, MY_TOKEN="ENVSECRET\n")
    shown += show_everything(root, "x", MY_TOKEN="ENVSECRET")
    for secret in ("LITERALSECRET", "ENVSECRET"):
        assert secret not in shown
        assert files_with(secret, root / "cache", root / "build", root / "events") == []
    assert (root / "cache/doit.db").stat().st_mode & 0o777 == 0o600
    assert [path.stat().st_mode & 0o777 for path in (root / "cache").glob("*.parsed")] == [0o600]
    shutil.rmtree(root / "cache/v1")
    shutil.rmtree(root / "cache/artifacts")
    succeed(root, MY_TOKEN="ENVSECRET")
    assert len(origin.requests) == 2
    for request in origin.requests:
        sent = [request.headers[name] for name in ("authorization", "private-token", "x-price")]
        assert sent == ["Bearer LITERALSECRET", "ENVSECRET", "a$b"]


def test_a_variable_without_a_value(tmp_path: Path, origin: Origin) -> None:
    """An empty or invalid variable is an error that names it before any server is asked; a key has no values."""
    origin.answers["/x"] = reply(CONTENT)
    more = f'    headers: {{Private-Token: "${{MY_TOKEN}}"}}\n    mirrors: [{origin.url}/y]\n'
    root = project(tmp_path, definition("x", f"{origin.url}/x", CONTENT, more))
    for environ in ({"MY_TOKEN": ""}, {"MY_TOKEN": "ENV\r\nSECRET"}):
        done = doit(root, **environ)
        assert done.returncode != 0
        assert "the environment variable MY_TOKEN" in done.stdout
        assert "SECRET" not in done.stdout
    assert origin.requests == []
    succeed(root, MY_TOKEN="one")
    succeed(root)
    assert len(origin.requests) == 1


def test_the_environment_counts_when_a_request_is_made(tmp_path: Path, origin: Origin) -> None:
    """A variable that dodo.py sets after its import is used; a proxy does not get it in plain text."""
    origin.answers["/x"] = reply(CONTENT)
    headers = '    headers: {Private-Token: "${MY_TOKEN}"}\n'
    root = project(tmp_path, definition("x", f"{origin.url}/x", CONTENT, headers))
    (root / "dodo.py").write_text(DODO + "import os\nos.environ['MY_TOKEN'] = 'ENVSECRET'\n")
    done = doit(root, http_proxy=origin.url)
    assert "the proxy would receive the values of `headers` unencrypted\nadd 127.0.0.1 to no_proxy" in done.stdout
    assert origin.requests == []
    succeed(root, http_proxy=origin.url, no_proxy="127.0.0.1")
    assert origin.requests[0].headers["private-token"] == "ENVSECRET"


def test_the_credential_of_a_host_in_pyproject(tmp_path: Path) -> None:
    """`auth` of pyproject.toml is sent over https, and its value is in no file or output."""
    with serving({"/x": reply(CONTENT)}, https("127.0.0.1")) as origin:
        root = project(tmp_path, definition("x", f"{origin.url}/x", CONTENT))
        auth = '[tool.doit-fetch.auth."127.0.0.1"]\nheader = "Private-Token"\nenv = "my_token"\n'
        written(root, {"pyproject.toml": auth})
        CA.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        shown = succeed(root, REQUESTS_CA_BUNDLE=str(tmp_path / "ca.pem"), my_token="ENVSECRET")
    assert origin.requests[0].headers["private-token"] == "ENVSECRET"
    shown += succeed(root, "help", "settings", my_token="ENVSECRET") + succeed(root, "report", my_token="ENVSECRET")
    assert "header Private-Token from my_token (set)" in shown
    assert "ENVSECRET" not in shown
    assert files_with("ENVSECRET", root / "cache", root / "build", root / "events") == []


def test_the_query_of_a_url_is_sent_only(tmp_path: Path, origin: Origin) -> None:
    """The query of a URL reaches the server; no name, no record and no output has it, nor has a message of a failure."""
    query = "?token=QUERYSECRET&part=1/2"
    origin.answers["/x.tar"] = reply(LIBRARY)
    fetches = definition("x", f"{origin.url}/x.tar{query}", LIBRARY, f"    mirrors: ['{origin.url}/m{query}']\n")
    toolchain = "t:\n  description: t\n  fetches: {fetch: [{artifact: x, extract: false}]}\n"
    root = written(project(tmp_path, fetches), {"fetchdefs/toolchain/t.yml": toolchain})
    shown = succeed(root) + succeed(root, "extract:x") + show_everything(root, "x")
    assert origin.paths() == [f"/x.tar{query}"]
    assert "x.tar" in shown
    (root / "fetchdefs/fetch/bad.yml").write_text(definition("bad", f"{origin.url}/bad{query}", b"y"))
    done = doit(root, "fetch:bad", FETCH_EVENTS=str(root / "events"))
    assert "HTTP 404" in done.stdout
    assert "QUERYSECRET" not in shown + done.stdout + succeed(root, "report")
    found = files_with("QUERYSECRET", root / "cache", root / "build", root / "events")
    assert [Path(name).suffix for name in found] == [".parsed"]


def test_taskgraph_digest_of_a_url_with_a_query() -> None:
    """The names of files have no query, while the digest is of the names that Taskgraph derives from the URL."""
    files = {
        "a": "type: static-url, url: 'https://h/a.tar.zst?t=1#x', sha256: SHA, size: 3",
        "b": "type: static-url, url: 'https://h/b.tar.zst?t=1', sha256: SHA, size: 3, artifact-name: b.tar.zst",
        "c": "type: git, repo: 'https://h/c.git?t=1', revision: REV",
        "d": "type: git, repo: 'https://h/c.git?t=1', revision: REV, path-prefix: p, artifact-name: d.tar.zst",
    }
    text = "".join(f"{name}: {{description: d, fetch: {{{fields}}}}}\n" for name, fields in files.items())
    text = text.replace("SHA", "a" * 64).replace("REV", "b" * 40)
    found = parse([SourceFile(kind="fetch", path="f.yml", text=text)])
    names = [found.fetch(name).source.artifact_name for name in files]
    assert names == ["a.tar.zst", "b.tar.zst", "c.git.tar.zst", "d.tar.zst"]
    url = ["--sha256", "a" * 64, "--size", "3"]
    words = [
        [*url, "a.tar.zst?t=1#x"],
        [*url, "b.tar.zst"],
        ["b" * 40, "c.git?t=1", "c.git?t=1.tar.zst"],
        ["b" * 40, "p", "d.tar.zst"],
    ]
    expected = [hashlib.sha256("\n".join(one).encode()).hexdigest() for one in words]
    assert [recipe.taskgraph_digest(found.fetch(name)) for name in files] == expected


def test_the_query_of_a_repository_url_is_not_kept(tmp_path: Path) -> None:
    """No message of git or hg and no file of the cache has the query of a repository's URL."""
    commit = made(tmp_path / "host/r", {"a": b"1"})
    with http(tmp_path / "host") as host:
        commit_archive(make_context(tmp_path / "c"), source(f"{host.url}/r", commit), Silent())
        secret = f"{host.url}/missing?token=QUERYSECRET"
        other = Hg(repo=secret, revision="a" * 40, path_prefix="p", artifact_name="p.tar.zst")
        for wanted in (source(secret, "a" * 40), other):
            with pytest.raises(TransportError, match="exited with status") as caught:
                commit_archive(make_context(tmp_path / "c"), wanted, Silent())
            assert "QUERYSECRET" not in str(caught.value)
        assert any("QUERYSECRET" in request for request in host.requests)
    assert files_with("QUERYSECRET", tmp_path / "c") == files_with("FETCH_HEAD", tmp_path / "c") == []


LETTERS = st.text("ab%<'é/", min_size=8, max_size=12)


@settings(max_examples=20)
@given(st.lists(LETTERS, min_size=1, max_size=5), st.lists(LETTERS | st.text("ab%", max_size=9)), st.just(0))
@example(["abababab"], ["xabababx"], 600)
def test_every_word_that_was_sent_is_redacted(secrets: list[str], texts: list[str], others: int) -> None:
    """No text keeps a value of a header or a query that was sent lately, however many others were sent before."""
    sent = SentSecrets()
    for number in range(others):
        sent.add({}, f"https://host/?signature={number:032}")
    for secret in secrets:
        sent.add({"X-Token": secret}, f"https://host/?key={quote(secret)}&x={secret.replace('%', '')}")
    text = " ".join(one for pair in zip(texts, secrets, strict=False) for one in pair)
    shown = sent.redact(text)
    assert not [secret for secret in secrets for form in (secret, quote(secret, safe="")) if form in shown]
    assert sent.redact("nothing of it") == "nothing of it"
