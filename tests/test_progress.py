"""Progress as plain lines, for commands, tasks without a display, and the log of fetch-content."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tasks_lib.errors import CancelledError
from tasks_lib.fs.locks import locked
from tasks_lib.progress import Facts, LineProgress, Silent, describe_wait
from tests.origin import reply, serving
from tests.project import CLEAN, DODO, ROOT, TOOL, definition, written

FETCH_CONTENT = ("-c", "from tasks_lib.fetch_content.command import main; raise SystemExit(main())", "static-url")


def described(name: str, facts: Facts) -> str:
    return f"{facts['size']} of {facts['total']}" if name == "advance" else describe_wait(name, facts)


def test_lines() -> None:
    """The caller describes phases, warnings are written, and an empty description writes nothing."""
    lines: list[str] = []
    progress = LineProgress(lines.append, described)
    progress.phase("body", total=5)
    progress.phase("wait", holder=7)
    progress.phase("wait", seconds=1)
    progress.advance(3)
    progress.warn("two\nlines")
    assert lines == ["waiting for process 7", "two\nlines"]


def test_how_far_it_is() -> None:
    """Bytes are counted over all phases; the total is that of the current one."""
    lines: list[str] = []
    progress = LineProgress(lines.append, described, 0)
    progress.advance(3)
    progress.phase("body", total=50)
    progress.advance(4)
    assert lines == ["3 of 0", "7 of 50"]


def test_threads() -> None:
    """With several threads no byte is lost and no line is interleaved; one call cancels all of them."""
    written: list[str] = []

    def write(message: str) -> None:
        for part in (message, "\n"):
            written.append(part)

    progress = LineProgress(write, described)
    stopped: list[bool] = []
    begun = threading.Barrier(9)

    def work() -> None:
        begun.wait()
        for _ in range(1000):
            progress.advance(1)
            progress.warn("x")
        with pytest.raises(CancelledError):
            while True:
                progress.check()
        stopped.append(True)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    begun.wait()
    progress.cancel()
    for thread in threads:
        thread.join()
    assert (progress.size, written, len(stopped)) == (8000, ["x", "\n"] * 8000, 8)


@pytest.mark.parametrize("words", [("-m", "doit", "-r", "console"), ("-m", "doit", "-r", "lines"), FETCH_CONTENT])
def test_one_sentence_for_one_wait(words: tuple[str, ...], tmp_path: Path) -> None:
    """Waiting for a lock names its holder in the same words with doit's reporter, ours, and in fetch-content."""
    cache, digest = tmp_path / "cache", hashlib.sha256(TOOL).hexdigest()
    with serving({"/tool.tar": reply(TOOL)}) as origin:
        url = f"{origin.url}/tool.tar"
        written(tmp_path, {"dodo.py": DODO, "fetchdefs/fetch/a.yml": definition("tool", url, TOOL)})
        (cache / "v1/locks").mkdir(parents=True)
        asked = ["fetch:tool"] if "doit" in words else ["--sha256", digest, "--size", str(len(TOOL)), url, "out"]
        limits = {"FETCH_LOCK_TIMEOUT_S": "0.2", "FETCH_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
        with locked(cache / "v1/locks" / digest, timeout_s=1, progress=Silent()):
            done = subprocess.run(
                [sys.executable, *words, *asked],
                cwd=tmp_path,
                env={**CLEAN, **limits},
                capture_output=True,
                text=True,
                check=False,
            )
    printed = [line for line in (done.stdout + done.stderr).splitlines() if "waiting for process" in line]
    assert [line.removeprefix("fetch:tool: ") for line in printed] == [f"waiting for process {os.getpid()}"], done
