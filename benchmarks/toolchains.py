"""Compare many small fetches in one toolchain with the same fetches spread over toolchains of ten, interleaved.

    python benchmarks/toolchains.py [--fetches 300 1000 3000] [--rounds 3] [--kind both] [--directory DIR]
    python benchmarks/toolchains.py --code CHECKOUT --fetches 1000     # the same with another version of the code

Each size and layout is run cold, again with nothing changed, after two fetches got a new version, after all got one,
and with only half of them; then `doit clean` removes everything. The script prints medians of wall and processor time
(user and system, with children), divided by the number of tasks of the cold run, and the ratio of the layouts. Fetches
are file: URLs: every second one is a plain file that is placed, the others are archives of two files.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from collections.abc import Container, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DODO = "from doit_fetch import DOIT_CONFIG, task_fetchdefs\n"
SELECTION = 'DOIT_CONFIG = {**DOIT_CONFIG, "default_tasks": ["toolchain"]}\n'
#: Fetches per toolchain in the spread layout.
FEW = 10
STEPS = ("cold", "nothing changed", "one new version", "all new versions", "half as many", "clean")


def is_archive(number: int, kind: str) -> bool:
    return kind == "archive" or (kind == "both" and number % 2 == 0)


def content(number: int, kind: str, version: int = 1) -> bytes:
    """Return an archive with two files below a directory of their own, or a file's content."""
    text = f"{number} in version {version}\n".encode()
    if not is_archive(number, kind):
        return text
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as made:
        for name in ("a.txt", "b.txt"):
            info = tarfile.TarInfo(f"p{number}/{name}")
            info.size = len(text)
            made.addfile(info, io.BytesIO(text))
    return file.getvalue()[:4096]


class Project:
    """A repository of `count` fetches, `many` in each toolchain."""

    def __init__(self, top: Path, count: int, many: int, kind: str) -> None:
        self.top, self.count, self.many, self.kind = top, count, many, kind
        for name in ("sources", "fetchdefs/fetch", "fetchdefs/toolchain"):
            (top / name).mkdir(parents=True)
        (top / "dodo.py").write_text(DODO + SELECTION)
        for start in range(0, count, 100):
            self.define(start)
        self.ask(count)

    @property
    def tasks(self) -> int:
        """Return how many tasks make everything."""
        archives = sum(is_archive(number, self.kind) for number in range(self.count))
        return self.count + archives + len(range(0, self.count, self.many))

    def define(self, start: int, newer: Container[int] = ()) -> None:
        """Write a hundred definitions with their sources; those in `newer` in another version."""
        texts = []
        for number in range(start, min(self.count, start + 100)):
            data = content(number, self.kind, 2 if number in newer else 1)
            name = f"p{number}.tar" if is_archive(number, self.kind) else f"p{number}.txt"
            (self.top / "sources" / name).write_bytes(data)
            texts.append(
                f"p{number}:\n  description: package {number}\n  fetch:\n    type: static-url\n"
                f"    url: file:../../sources/{name}\n    sha256: {hashlib.sha256(data).hexdigest()}\n"
                f"    size: {len(data)}\n"
            )
        (self.top / f"fetchdefs/fetch/f{start // 100:05}.yml").write_text("".join(texts))

    def ask(self, count: int) -> None:
        """Write toolchains that use the first `count` fetches."""
        texts = []
        for start in range(0, count, self.many):
            numbers = range(start, min(count, start + self.many))
            asked = (
                f"p{number}" if is_archive(number, self.kind) else f"{{artifact: p{number}, extract: false}}"
                for number in numbers
            )
            texts.append(f"t{start}:\n  description: kit\n  fetches:\n    fetch: [{', '.join(asked)}]\n")
        (self.top / "fetchdefs/toolchain/t.yml").write_text("".join(texts))

    def steps(self, code: Path, wanted: list[str]) -> Iterator[tuple[str, float, float]]:
        """Run doit once for each step; yield its name, wall and processor seconds."""
        for step in wanted:
            if step == "one new version":
                self.define(0, (0, 1))
            elif step == "all new versions":
                for start in range(0, self.count, 100):
                    self.define(start, range(self.count))
            elif step == "half as many":
                self.ask(self.count // 2)
            time.sleep(0.1)
            yield step, *spent(self.top, code, ["clean", "-a"] if step == "clean" else [])


def spent(directory: Path, code: Path, words: list[str]) -> tuple[float, float]:
    """Run doit; return wall and processor seconds."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    begun = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "doit", *words],
        cwd=directory,
        env={**environ, "PYTHONPATH": str(code)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        printed = process.stderr.read() if process.stderr else b""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"doit {words} ended with {process.returncode}: {printed.decode()}")
    return time.perf_counter() - begun, usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fetches", type=int, nargs="+", default=[300, 1000, 3000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kind", choices=["both", "archive", "file"], default="both")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--code", type=Path, nargs="+", default=[ROOT], help="checkouts to run, interleaved")
    words = parser.parse_args()
    for count in words.fetches:
        found: dict[tuple[Path, str, str], list[tuple[float, float]]] = defaultdict(list)
        for _ in range(words.rounds):
            for code in words.code:
                for name, many in (("one", count), ("spread", FEW)):
                    with tempfile.TemporaryDirectory(dir=words.directory or "/dev/shm") as directory:
                        project = Project(Path(directory) / "project", count, many, words.kind)
                        for step, wall, cpu in project.steps(code, words.steps):
                            found[code, step, name].append((wall / project.tasks, cpu / project.tasks))
                        shutil.rmtree(project.top)
        for code in words.code:
            print(f"{count} fetches, {code.name}, milliseconds a task: one toolchain, spread, ratio")
            for step in words.steps:
                tell(step, found[code, step, "one"], found[code, step, "spread"])


def tell(step: str, one: list[tuple[float, float]], spread: list[tuple[float, float]]) -> None:
    parts = []
    for at, name in enumerate(("wall", "CPU")):
        ours, theirs = ([1000 * each[at] for each in values] for values in (one, spread))
        ratio = statistics.median(ours) / statistics.median(theirs)
        least = min(ours) / min(theirs)
        parts.append(
            f"{name} {statistics.median(ours):.3f}, {statistics.median(theirs):.3f}, x {ratio:.2f} (minima {least:.2f})"
        )
    print(f"  {step:16} {'; '.join(parts)}", flush=True)


if __name__ == "__main__":
    main()
