"""Compare maintenance of a large cache with programs that read the same files: `openssl sha256` and `find`.

    python benchmarks/store.py [--blobs 10000] [--megabytes 5000] [--names 100000] [--rounds 3] [--directory DIR]

The caches are made once below DIR (default: a temporary directory). Rounds are interleaved; the ratios of the medians
and of the minima are printed. `openssl` runs as two processes over half of the files each.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENVIRON = {**os.environ, "PYTHONPATH": str(ROOT), "FETCH_PROGRESS": "quiet"}


def fill(cache: Path, count: int, size: int) -> None:
    """Put `count` blobs of `size` bytes under the names of their digests."""
    block = os.urandom(max(size - 16, 0))
    for number in range(count):
        content = number.to_bytes(16, "big") + block
        name = hashlib.sha256(content).hexdigest()
        path = cache / "v1/blobs/sha256" / name[:2] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o444)
        os.utime(path, (1e9, 1e9))


def repository(place: Path) -> Path:
    (place / "fetchdefs/fetch").mkdir(parents=True)
    (place / "dodo.py").write_text("from doit_fetch import DOIT_CONFIG, task_fetchdefs\n")
    sha = hashlib.sha256(b"").hexdigest()
    text = "a:\n  description: a\n  fetch:\n    type: static-url\n    url: file:///dev/null\n"
    text += f"    sha256: {sha}\n    size: 0\n"
    (place / "fetchdefs/fetch/a.yml").write_text(text)
    return place


def timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def doit(place: Path, cache: Path, *words: str) -> None:
    command = [sys.executable, "-m", "doit", f"cache={cache}", *words]
    subprocess.run(command, cwd=place, env=ENVIRON, check=True, stdout=subprocess.DEVNULL)


def openssl(cache: Path) -> None:
    names = sorted(str(path) for path in cache.glob("v1/blobs/*/*/*"))
    halves = [names[::2], names[1::2]]
    processes = [
        subprocess.Popen(["xargs", "-0", "openssl", "sha256"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        for _ in halves
    ]
    for process, half in zip(processes, halves, strict=True):
        assert process.stdin is not None
        process.stdin.write("\0".join(half).encode())
        process.stdin.close()
    for process in processes:
        assert process.wait() == 0


def compare(title: str, ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> None:
    times = [(timed(ours), timed(theirs)) for _ in range(rounds)]
    mine, other = [one for one, _ in times], [two for _, two in times]
    median, least = statistics.median(mine) / statistics.median(other), min(mine) / min(other)
    print(f"{title}: ours {statistics.median(mine):.2f} s, theirs {statistics.median(other):.2f} s, ", end="")
    print(f"ours / theirs {median:.2f} (of the minima {least:.2f})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--blobs", type=int, default=10_000)
    parser.add_argument("--megabytes", type=int, default=5_000)
    parser.add_argument("--names", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        place = repository(Path(name) / "r")
        large, many = Path(name) / "large", Path(name) / "many"
        fill(large, options.blobs, options.megabytes * 10**6 // options.blobs)
        compare(
            f"verify, {options.blobs} blobs of {options.megabytes} MB, against openssl sha256 in two processes",
            lambda: doit(place, large, "verify"),
            lambda: openssl(large),
            options.rounds,
        )
        fill(many, options.names, 16)
        find = ["find", str(many), "-type", "f", "-printf", "%s %T@ %p\\n"]
        compare(
            f"prune --dry-run, {options.names} blobs, against find that prints size, time and path",
            lambda: doit(place, many, "prune", "--dry-run"),
            lambda: subprocess.run(find, check=True, stdout=subprocess.DEVNULL),
            options.rounds,
        )


if __name__ == "__main__":
    main()
