"""A user's repository and real doit in it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests import zygote
from tests.archives import Member, tar

ROOT = Path(__file__).parent.parent
#: Where a program finds this package, and `tests/portable` when the tests themselves run with it.
PYTHONPATH = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
#: The same for a program that has all fallbacks; see there.
PORTABLE = os.pathsep.join((str(ROOT), str(ROOT / "tests/portable")))
#: The environment, without what would be heard here.
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("FETCH", "MOZ_", "UPLOAD"))}
DOIT = (sys.executable, "-m", "doit")
#: All that a user's dodo.py needs.
DODO = "from doit_fetch import DOIT_CONFIG, task_fetchdefs\n"
LIBRARY = tar(
    [Member("lib-1.0/"), Member("lib-1.0/lib.h", b"#define LIB 1\n"), Member("lib-1.0/run", b"x", mode=0o755)]
)
TOOL = tar([Member("tool/tool.c", b"int main;")])


def doit(directory: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run doit, if possible in a process that has its libraries."""
    environment = _environment(environ)
    if not zygote.can_fork(environment) or environment["PYTHONPATH"] != PYTHONPATH:
        return doit_alone(directory, *words, **environ)
    status, output, _ = zygote.run(words, directory.absolute(), environment, subprocess.STDOUT)
    return subprocess.CompletedProcess([*DOIT, *words], status, output.decode())


def doit_alone(directory: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run doit in an interpreter of its own, for a test of what it loads."""
    return subprocess.run(
        [*DOIT, *words],
        cwd=directory,
        env=_environment(environ),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    return {**CLEAN, "FETCH_RETRIES": "0", "FETCH_DURABILITY": "fast", "PYTHONPATH": PYTHONPATH, **environ}


def ran(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the tasks whose actions ran."""
    assert done.returncode == 0, done.stdout
    return sorted(line[3:].strip() for line in done.stdout.splitlines() if line.startswith(".  "))


def definition(name: str, url: str, content: bytes, more: str = "") -> str:
    sha = hashlib.sha256(content).hexdigest()
    return (
        f"{name}:\n  description: the {name}\n  fetch:\n    type: static-url\n    url: {url}\n"
        f"    sha256: {sha}\n    size: {len(content)}\n{more}"
    )


def written(root: Path, files: Mapping[str, str]) -> Path:
    """Write files below a directory, scripts executable; return the directory."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if name.endswith(".sh"):
            path.chmod(0o755)
    return root
