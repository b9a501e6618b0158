"""Compare the archive of a commit with `git archive | zstd`, interleaved in one run; see benchmarks/README.md."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path


def generate(files: int, mean: int, out: Path) -> str:
    """Make a bare repository of one commit through `git fast-import`; return the commit."""
    rng = random.Random(1)  # the same commit on every machine
    words = [f"{rng.getrandbits(rng.choice([16, 24, 32, 40])):x}".encode() for _ in range(4000)]
    pool = b" ".join(rng.choice(words) for _ in range(1_200_000))
    subprocess.run(["git", "init", "-q", "--bare", out], check=True)
    with subprocess.Popen(["git", "-C", out, "fast-import", "--quiet"], stdin=subprocess.PIPE) as process:
        pipe = process.stdin
        assert pipe is not None
        pipe.write(b"commit refs/heads/main\ncommitter a <a@example.org> 1000000000 +0000\ndata 1\nx")
        for number in range(files):
            size = min(int(rng.expovariate(1 / mean)), 9 * mean)
            start = rng.randrange(len(pool) - size)
            path = f"{number // 2000:04d}/dir{number // 20:05d}/source-file-{number}.txt"
            pipe.write(b"M 644 inline %s\ndata %d\n%s\n" % (path.encode(), size, pool[start : start + size]))
    done = subprocess.run(["git", "-C", out, "rev-parse", "main"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def ours(repository: Path, commit: str, cache: Path) -> None:
    """Write the archive with the product's own step; print the peak memory."""
    from tasks_lib.context import Context
    from tasks_lib.definitions import Git
    from tasks_lib.progress import Silent
    from tasks_lib.settings import Settings
    from tasks_lib.steps.commit import commit_archive

    world = Context(Settings.parse(variables={"cache": str(cache)}, environ=os.environ), dict(os.environ))
    source = Git(repo=f"file://{repository}", revision=commit, path_prefix="p", artifact_name="p.tar.zst")
    commit_archive(world, source, Silent())
    # not ru_maxrss: that starts with the memory of the parent process
    status = Path("/proc/self/status").read_text("ascii")
    print(int(status.partition("VmHWM:")[2].split()[0]) // 1024)


def main() -> None:
    """Run the comparison: the commit is fetched beforehand, so that both read a repository on this disk."""
    import argparse
    import statistics

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--mean", type=int, default=6_800, help="bytes of a file on average")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path, default=Path("/dev/shm/doit-fetch-bench"))
    words = parser.parse_args()
    words.directory.mkdir(exist_ok=True)
    repository, cache, out = (words.directory / name for name in (f"{words.files}x{words.mean}.git", "cache", "x.zst"))
    shutil.rmtree(repository, ignore_errors=True)
    shutil.rmtree(cache, ignore_errors=True)
    commit = generate(words.files, words.mean, repository)
    shell = f"git -C {repository} archive --prefix=p/ {commit} | zstd -q -3 -T2 -f -o {out}"
    commands = {
        "git archive | zstd": ["sh", "-c", shell],
        "doit-fetch": [sys.executable, __file__, "--child", str(repository), commit, str(cache)],
    }
    subprocess.run(commands["doit-fetch"], check=True, capture_output=True)
    times: dict[str, list[float]] = {}
    memory = 0
    for _ in range(words.rounds):
        for name, command in commands.items():
            shutil.rmtree(cache / "v1/results", ignore_errors=True)
            shutil.rmtree(cache / "v1/blobs", ignore_errors=True)
            began = time.perf_counter()
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            times.setdefault(name, []).append(time.perf_counter() - began)
            memory = max(memory, int(done.stdout or 0))
    shutil.rmtree(words.directory)
    reference, own = (statistics.median(one) for one in times.values())
    lows = "/".join(f"{min(one):.2f}" for one in times.values())
    print(
        f"{words.files} files: git archive | zstd {reference:.2f} s, doit-fetch {own:.2f} s, "
        f"ratio {own / reference:.2f} (minima {lows}), peak {memory} MiB"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        ours(Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
    else:
        main()
