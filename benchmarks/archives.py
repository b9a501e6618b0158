"""Compare extraction and repacking with named references, interleaved in one run; see benchmarks/README.md."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

DECODERS = {"tar": "cat", "tar.gz": "gzip -dc", "tar.bz2": "bzip2 -dc", "tar.xz": "xz -dc", "tar.zst": "zstd -dc"}
ENCODERS = {"tar.gz": "gzip -1", "tar.bz2": "bzip2 -1", "tar.xz": "xz -1 -T2", "tar.zst": "zstd -q -3 -T2"}


def generate(files: int, mean: int, out: Path) -> None:
    """Write a tar of `files` text files of `mean` bytes on average, 20 to a directory."""
    import io
    import random
    import tarfile

    rng = random.Random(1)  # the same archive on every machine
    words = [f"{rng.getrandbits(rng.choice([16, 24, 32, 40])):x}".encode() for _ in range(4000)]
    pool = b" ".join(rng.choice(words) for _ in range(1_200_000))
    with out.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as made:
        for number in range(files):
            directory = f"tree/{number // 2000:04d}/dir{number // 20:05d}"
            if number % 20 == 0:
                one = tarfile.TarInfo(directory)
                one.type, one.mode = tarfile.DIRTYPE, 0o755
                made.addfile(one)
            size = min(int(rng.expovariate(1 / mean)), 9 * mean) if mean else 0
            one = tarfile.TarInfo(f"{directory}/source-file-{number}.txt")
            one.size, one.mode = size, 0o644
            start = rng.randrange(max(1, len(pool) - size))
            content = (pool[start:] + pool * (size // len(pool)))[:size] if start + size > len(pool) else b""
            made.addfile(one, io.BytesIO(content or pool[start : start + size]))


def ours(verb: str, archive: Path, kind: str, out: Path) -> None:
    """Extract, or repack with strip and prefix, with the product's own functions; print the peak memory."""
    from tasks_lib.archive import Reshape, repack
    from tasks_lib.formats import mtime_for
    from tasks_lib.limits import Limits
    from tasks_lib.progress import Silent
    from tasks_lib.tree.extraction import Extraction

    limits = Limits(max_entries=2_000_000)
    with archive.open("rb") as file:
        if verb == "extract":
            slot = Extraction(out / "tree", out / "records" / "one.json")
            slot.extract(
                file, name=archive.name, format=kind, reshape=Reshape(), limits=limits, key="k", progress=Silent()
            )
        else:
            with (out / "made.tar.zst").open("wb") as made, (out / "spool").open("w+b") as spool:
                repack(
                    file, name=archive.name, format=kind, reshape=Reshape(strip=1, prefix="p/"), limits=limits,
                    mtime=mtime_for(None), spool=spool, write=made.write, progress=Silent(),
                )  # fmt: skip
    # not ru_maxrss: that starts with the memory of the parent process
    status = Path("/proc/self/status").read_text("ascii")
    print(int(status.partition("VmHWM:")[2].split()[0]) // 1024)


def commands(verb: str, archive: Path, kind: str, out: Path) -> dict[str, list[str]]:
    """Return name -> command; the first one is the reference."""
    me = [sys.executable, __file__, "--child", verb, str(archive), kind, str(out)]
    if verb == "extract":
        shell = f"{DECODERS[kind]} {archive} | tar -xf - -C {out}"
        return {"gnu tar": ["sh", "-c", shell], "doit-fetch": me}
    return {
        "decode | zstd -3": ["sh", "-c", f"{DECODERS[kind]} {archive} | zstd -q -3 -o {out}/x.zst"],
        "doit-fetch": me,
    }


def cpu() -> float:
    """Return the processor seconds of ended children."""
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measured(command: list[str], out: Path, then: list[str]) -> tuple[float, float, int]:
    """Return seconds of a command and of `then`, its processor seconds, and the MiB that it prints."""
    import subprocess

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    os.sync()
    began, spent = time.perf_counter(), cpu()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    spent = cpu() - spent
    subprocess.run(then, check=True)
    return time.perf_counter() - began, spent, int(done.stdout or 0)


def main() -> None:
    """Run the comparison."""
    import argparse
    import statistics
    import subprocess

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verb", choices=["extract", "repack"])
    parser.add_argument("kinds", nargs="+", choices=sorted(DECODERS))
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--mean", type=int, default=6_800, help="bytes of a file on average")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path, default=Path("/dev/shm/doit-fetch-bench"))
    parser.add_argument(
        "--disk", action="store_true", help="count until all is on the disk; remove nothing before the end"
    )
    words = parser.parse_args()
    words.directory.mkdir(exist_ok=True)
    plain = words.directory / f"{words.files}x{words.mean}.tar"
    if not plain.exists() and words.kinds != [kind for kind in words.kinds if Path(f"{plain}{kind[3:]}").exists()]:
        generate(words.files, words.mean, plain)
    for kind in words.kinds:
        archive = plain if kind == "tar" else plain.with_name(plain.name.removesuffix(".tar") + f".{kind}")
        if not archive.exists():
            subprocess.run(f"{ENCODERS[kind]} -c {plain} > {archive}", shell=True, check=True)
        outs = [words.directory / "out"]
        names = list(commands(words.verb, archive, kind, outs[0]))
        times: dict[str, list[float]] = {name: [] for name in names}
        spends: dict[str, list[float]] = {name: [] for name in names}
        memory = 0
        for name in names * words.rounds:
            if words.disk:
                outs.append(words.directory / f"out{len(outs)}")
            command = commands(words.verb, archive, kind, outs[-1])[name]
            seconds, spent, peak = measured(
                command, outs[-1], ["sync", "-f", str(outs[-1])] if words.disk else ["true"]
            )
            times[name].append(seconds)
            spends[name].append(spent)
            memory = max(memory, peak)
        for out in outs:
            shutil.rmtree(out, ignore_errors=True)
        reference, own = (statistics.median(one) for one in times.values())
        lows, spents = ("/".join(f"{min(one):.2f}" for one in all.values()) for all in (times, spends))
        print(
            f"{words.verb} {kind} {words.files} files: {next(iter(times))} {reference:.2f} s, doit-fetch {own:.2f} s, "
            f"ratio {own / reference:.2f} (minima {lows}, cpu {spents}), peak {memory} MiB"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        ours(sys.argv[2], Path(sys.argv[3]), sys.argv[4], Path(sys.argv[5]))
    else:
        main()
