"""Real git repositories that tests create."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

IDENTITY = {
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_AUTHOR_DATE": "1000000000 +0000",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_COMMITTER_DATE": "1000000000 +0000",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
}
#: Every trap for a program that makes archives through a checkout or `git archive`.
FILES = {
    "README": b"$Format:%H %d$\n",
    ".gitattributes": b"README export-subst\nhidden export-ignore\n*.txt text eol=crlf\n*.bin filter=lfs\n",
    "hidden": b"still here\n",
    "a.txt": b"one\ntwo\n",
    "d/e/data.bin": bytes(range(256)),
}


def git(directory: Path, *words: str, input: bytes | None = None, **environ: str) -> str:
    """Run git there and return its output."""
    command = ["git", "-c", "protocol.file.allow=always", *words]
    done = subprocess.run(
        command, cwd=directory, env={**os.environ, **IDENTITY, **environ}, input=input, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def made(directory: Path, files: dict[str, bytes], *, form: str = "sha1") -> str:
    """Make a repository with one commit of these files, an executable and a symlink; return the commit."""
    directory.mkdir(parents=True)
    git(directory, "init", "-q", "-b", "main", f"--object-format={form}")
    return committed(directory, files)


def committed(directory: Path, files: dict[str, bytes]) -> str:
    """Add one commit; return its id."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (directory / "run").write_bytes(b"#!/bin/sh\n")
    (directory / "run").chmod(0o755)
    if not (directory / "link").is_symlink():
        (directory / "link").symlink_to("README")
    git(directory, "add", "-A")
    git(directory, "commit", "-q", "-m", "one")
    return git(directory, "rev-parse", "HEAD")


def with_submodule(directory: Path, url: str, path: str) -> str:
    """Add a submodule; return the new commit."""
    git(directory, "submodule", "--quiet", "add", url, path)
    git(directory, "commit", "-q", "-m", "submodule")
    return git(directory, "rev-parse", "HEAD")


def forged(directory: Path, entries: list[tuple[str, str, bytes]], *, below: str = "") -> str:
    """Commit a tree that git itself would refuse to create: (mode, name, content or, for 160000, a commit id)."""
    raw = b""
    for mode, name, content in sorted(entries, key=lambda one: one[1] + ("/" if one[0] == "40000" else "")):
        if mode == "160000":
            identity = content.decode()
        elif mode == "40000":
            identity = git(directory, "hash-object", "-w", "-t", "tree", "--literally", "--stdin", input=content)
        else:
            identity = git(directory, "hash-object", "-w", "--stdin", input=content)
        raw += f"{mode} {name}".encode("utf-8", "surrogateescape") + b"\0" + bytes.fromhex(identity)
    tree = git(directory, "hash-object", "-w", "-t", "tree", "--literally", "--stdin", input=raw)
    commit = git(directory, "commit-tree", tree, "-m", "forged")
    git(directory, "update-ref", f"refs/heads/forged{below}", commit)
    return commit
