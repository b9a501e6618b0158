"""Secrets of definitions and of the environment: they reach the server that they belong to, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.origin import Origin, reply
from tests.project import PORCH, definition, doit, written

CONTENT = b"the content"


def project(root: Path, definitions: str) -> Path:
    return written(root, {"dodo.py": PORCH, "fetchdefs/fetch/all.yml": definitions})


def succeed(root: Path, *words: str, **environ: str) -> str:
    """Run doit; return its output."""
    done: subprocess.CompletedProcess[str] = doit(root, *words, FETCH_EVENTS=str(root / "events"), **environ)
    assert done.returncode == 0, done.stdout
    return done.stdout


def show_everything(root: Path, name: str, **environ: str) -> str:
    """Return the output of each command that shows a fetch."""
    commands = (
        ["info", f"fetch:{name}"], ["list", "--all"], ["graph", f"fetch:{name}", "--format", "json"], ["why"], ["-r", "json", "-a"],
        ["report"], ["help", "settings"],
    )  # fmt: skip
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
    """An unset, empty or invalid variable is an error that names it before any server is asked; a key has no values."""
    origin.answers["/x"] = reply(CONTENT)
    more = f'    headers: {{Private-Token: "${{MY_TOKEN}}"}}\n    mirrors: [{origin.url}/y]\n'
    root = project(tmp_path, definition("x", f"{origin.url}/x", CONTENT, more))
    for environ in ({}, {"MY_TOKEN": ""}, {"MY_TOKEN": "ENV\r\nSECRET"}):
        done = doit(root, **environ)
        assert done.returncode != 0
        assert "the environment variable MY_TOKEN" in done.stdout
        assert "SECRET" not in done.stdout
    assert origin.requests == []
    succeed(root, MY_TOKEN="one")
    succeed(root, MY_TOKEN="other")
    succeed(root)
    assert len(origin.requests) == 1


def test_the_environment_counts_when_a_request_is_made(tmp_path: Path, origin: Origin) -> None:
    """A variable that dodo.py sets after its import is used; a proxy does not get it in plain text."""
    origin.answers["/x"] = reply(CONTENT)
    headers = '    headers: {Private-Token: "${MY_TOKEN}"}\n'
    root = project(tmp_path, definition("x", f"{origin.url}/x", CONTENT, headers))
    (root / "dodo.py").write_text(PORCH + "import os\nos.environ['MY_TOKEN'] = 'ENVSECRET'\n")
    done = doit(root, http_proxy=origin.url)
    assert "the proxy would receive the values of `headers` unencrypted\nadd 127.0.0.1 to no_proxy" in done.stdout
    assert origin.requests == []
    succeed(root, http_proxy=origin.url, no_proxy="127.0.0.1")
    assert origin.requests[0].headers["private-token"] == "ENVSECRET"
