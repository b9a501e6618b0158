"""Compare reading from a shared store with programs that transfer and verify the same bytes.

    python benchmarks/shared_store.py [--blobs 2000] [--size 20480] [--megabytes 1024] [--rounds 3] [--directory DIR]

The origin of every definition does not answer; all content comes from the store. Each round begins with an empty cache
and a checkout that was never loaded. References:

- nginx: a Python program with 16 threads and urllib, which hashes while it writes; `curl --parallel`, which does not
  verify
- `rclone serve s3`: `rclone copy`
- one large blob: `curl`, then `openssl sha256`

Rounds are interleaved; the ratios of the medians and of the minima are printed, the least processor time of the
clients, and our peak memory. The servers share the processors with the clients.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.stores import ACCESS, SECRET, environment, nginx, rclone  # noqa: E402

ENVIRON = {**os.environ, "PYTHONPATH": str(ROOT), "FETCH_PROGRESS": "quiet", "FETCH_RETRIES": "0"}
#: What 16 threads with urllib do: the same bytes, the same digests, one file each.
THREADS = """
import hashlib, sys, urllib.request
from concurrent.futures import ThreadPoolExecutor
base, out, names = sys.argv[1], sys.argv[2], open(sys.argv[3]).read().split()
def get(name):
    digest = hashlib.sha256()
    with urllib.request.urlopen(f"{base}/cas/{name}") as answer, open(f"{out}/{name}", "wb") as file:
        while chunk := answer.read(1 << 18):
            digest.update(chunk)
            file.write(chunk)
    assert digest.hexdigest() == name
with ThreadPoolExecutor(16) as pool:
    list(pool.map(get, names))
"""


def make_blobs(count: int, size: int) -> dict[str, bytes]:
    block = os.urandom(max(size - 16, 0))
    contents = [number.to_bytes(16, "big") + block for number in range(count)]
    return {hashlib.sha256(content).hexdigest(): content for content in contents}


def checkout(place: Path, sizes: dict[str, int]) -> Path:
    """Write a repository whose fetches are the blobs; nothing listens at their origin."""
    (place / "fetchdefs/fetch").mkdir(parents=True)
    (place / "dodo.py").write_text("from doit_fetch import DOIT_CONFIG, task_fetchdefs\n")
    text = "".join(
        f"b{number}:\n  description: a blob\n  fetch:\n    type: static-url\n"
        f"    url: http://127.0.0.1:1/b{number}\n    sha256: {name}\n    size: {size}\n"
        for number, (name, size) in enumerate(sizes.items())
    )
    (place / "fetchdefs/fetch/all.yml").write_text(text)
    return place


def fill(directory: Path, blobs: dict[str, bytes]) -> None:
    (directory / "cas").mkdir(parents=True, exist_ok=True)
    for name, content in blobs.items():
        (directory / "cas" / name).write_bytes(content)


def timed(work: Callable[[Path], object], top: Path) -> tuple[float, float]:
    """Return the seconds of `work` in an empty directory, which is removed afterwards, and its processor time."""
    place = Path(tempfile.mkdtemp(dir=top))
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    work(place)
    spent, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    shutil.rmtree(place)
    return spent, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(
    title: str, top: Path, ours: Callable[[Path], object], theirs: Callable[[Path], object], rounds: int
) -> None:
    times = [(timed(ours, top), timed(theirs, top)) for _ in range(rounds)]
    mine, other = zip(*times, strict=True)
    wall = [statistics.median(one for one, _ in side) for side in (mine, other)]
    least = [min(one for one, _ in side) for side in (mine, other)]
    processor = [min(two for _, two in side) for side in (mine, other)]
    print(f"{title}: ours {wall[0]:.2f} s, theirs {wall[1]:.2f} s, ours / theirs {wall[0] / wall[1]:.2f}", end=" ")
    print(
        f"(of the minima {least[0] / least[1]:.2f}); processor time {processor[0]:.2f} s and {processor[1]:.2f} s",
        end="",
    )
    print(f"; load {os.getloadavg()[0]:.0f}", flush=True)


class Doit:
    """A cold run of doit on a new checkout; keeps the largest memory."""

    def __init__(self, sizes: dict[str, int], **environ: str) -> None:
        self.sizes, self.environ, self.peak_kib = sizes, environ, 0

    def __call__(self, place: Path) -> None:
        checkout(place, self.sizes)
        command = [sys.executable, "-m", "doit"]
        with subprocess.Popen(command, cwd=place, env=ENVIRON | self.environ, stdout=subprocess.DEVNULL) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        self.peak_kib = max(self.peak_kib, usage.ru_maxrss)


def small(top: Path, count: int, size: int, rounds: int) -> None:
    blobs = make_blobs(count, size)
    sizes = dict.fromkeys(blobs, size)
    names = top / "names"
    names.write_text("\n".join(blobs))
    title = f"{count} blobs of {size} bytes"
    with nginx(top) as server:
        fill(top / "nginx/root", blobs)
        doit = Doit(sizes, FETCH_STORE=server.url)
        threads = [sys.executable, "-c", THREADS, server.url]
        compare(
            f"{title}, nginx, against 16 threads with urllib and sha256",
            top,
            doit,
            lambda place: subprocess.run([*threads, str(place), str(names)], check=True),
            rounds,
        )
        urls = top / "urls"
        urls.write_text("".join(f'url = "{server.url}/cas/{name}"\noutput = "{name}"\n' for name in blobs))
        curl = [
            "curl",
            "--silent",
            "--no-progress-meter",
            "--fail",
            "--parallel",
            "--parallel-max",
            "16",
            "--config",
            str(urls),
        ]
        compare(
            f"{title}, nginx, against curl --parallel without verification",
            top,
            doit,
            lambda place: subprocess.run(curl, cwd=place, check=True),
            rounds,
        )
        print(f"peak memory {doit.peak_kib // 1024} MiB", flush=True)
    with rclone(top) as server:
        fill(top / "rclone/bucket/prefix", blobs)
        doit = Doit(sizes, FETCH_STORE="s3://bucket/prefix", **environment(server.url))
        remote = f":s3,provider=Other,access_key_id='{ACCESS}',secret_access_key={SECRET},endpoint='{server.url}'"
        copy = ["rclone", "--config", "/dev/null", "copy", f"{remote}:bucket/prefix/cas"]
        compare(
            f"{title}, rclone serve s3, against rclone copy",
            top,
            doit,
            lambda place: subprocess.run([*copy, str(place)], check=True),
            rounds,
        )


def large(top: Path, size: int, rounds: int) -> None:
    with nginx(top / "large") as server:
        path = top / "large/nginx/root/cas/new"
        path.parent.mkdir()
        digest = hashlib.sha256()
        with path.open("wb") as file:
            for _ in range(size >> 20):
                chunk = os.urandom(1 << 20)
                digest.update(chunk)
                file.write(chunk)
        name = digest.hexdigest()
        path.rename(path.with_name(name))
        doit = Doit({name: size}, FETCH_STORE=server.url)

        def curl(place: Path) -> None:
            subprocess.run(["curl", "-sfo", "x", f"{server.url}/cas/{name}"], cwd=place, check=True)
            subprocess.run(["openssl", "sha256", "x"], cwd=place, check=True, stdout=subprocess.DEVNULL)

        compare(f"{size >> 20} MiB, nginx, against curl and then openssl sha256", top, doit, curl, rounds)
        print(f"peak memory {doit.peak_kib // 1024} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--blobs", type=int, default=2000)
    parser.add_argument("--size", type=int, default=20480)
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        (Path(name) / "large").mkdir()
        small(Path(name), options.blobs, options.size, options.rounds)
        large(Path(name), options.megabytes << 20, options.rounds)


if __name__ == "__main__":
    main()
