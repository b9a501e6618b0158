"""Compare `doit export` by hard links with `cp -al` of the same files.

    python benchmarks/export.py [--files 2000] [--layout cas] [--rounds 5] [--directory DIR]

The project and its cache are made once below DIR (default: a temporary directory). Rounds are interleaved; "again" is
an export that has nothing to do.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENVIRON = {**os.environ, "PYTHONPATH": str(ROOT), "FETCH_DURABILITY": "fast"}


def project(place: Path, count: int) -> None:
    """Write `count` small files and a definition of each."""
    (place / "fetchdefs/fetch").mkdir(parents=True)
    (place / "files").mkdir()
    text = []
    for number in range(count):
        content = f"{number}\n".encode() * 100
        (place / f"files/f{number}").write_bytes(content)
        sha = hashlib.sha256(content).hexdigest()
        url = f"file:///{place}/files/f{number}"
        fetch = f"{{type: static-url, url: '{url}', sha256: {sha}, size: {len(content)}}}"
        text.append(f"f{number}:\n  description: f\n  fetch: {fetch}\n")
    (place / "fetchdefs/fetch/all.yml").write_text("".join(text))


def timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--layout", default="cas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        place = Path(name)
        project(place, options.files)
        code = "import sys; from tasks_lib.cli.console import main; sys.exit(main())"
        words = [sys.executable, "-c", code, "export", options.layout, str(place / "out")]

        def export() -> None:
            subprocess.run(words, cwd=place, env=ENVIRON, check=True, capture_output=True)

        def copy() -> None:
            subprocess.run(["cp", "-al", place / "out", place / "copy"], check=True)

        export()
        times: dict[str, list[float]] = {"cp -al": [], "export": [], "again": []}
        for _ in range(options.rounds):
            times["cp -al"].append(timed(copy))
            shutil.rmtree(place / "copy")
            times["again"].append(timed(export))
            shutil.rmtree(place / "out")
            times["export"].append(timed(export))
        for what, found in times.items():
            ratio = statistics.median(found) / statistics.median(times["cp -al"])
            print(f"{what:8} median {statistics.median(found):.3f} s, minimum {min(found):.3f} s, {ratio:.1f} x cp -al")


main()
