"""Compare the graph with ninja and `doit --version`: CPU seconds (user and system, with children), interleaved.

    python benchmarks/graph.py noop changed commands [--definitions 10000] [--rounds 5] [--directory DIR]
    python benchmarks/graph.py cold [--definitions 2000]
    python benchmarks/graph.py schedule
    python benchmarks/graph.py load [--definitions 100000]

The N fetches and N extractions are real: file: URLs, an archive with one file each, 100 definitions in a file. ninja
has the equivalent graph: N edges that depend on a file, N that depend on those. `load` compares the first load with the
events of libyaml over the same text, and 50 definitions by a glob with the same 50 by name. Needs ninja except for
`cold`, `schedule` and `load`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

DOIT = [str(Path(sys.executable).with_name("doit"))]
DODO = "from doit_fetch import DOIT_CONFIG, task_fetchdefs\n"
SELECTION = 'DOIT_CONFIG = {**DOIT_CONFIG, "default_tasks": ["extract", "fetch"]}\n'
SCHEDULE = """
import time
from doit_fetch import DOIT_CONFIG
DOIT_CONFIG = {**DOIT_CONFIG, "default_tasks": ["compute", "load"], "verbosity": 0}
def work(seconds):
    time.sleep(seconds)
def task_compute():
    for i in range(100):
        yield {"name": str(i), "actions": [(work, (0.05,))], "task_dep": [f"load:{i}"], "io": {"capture": False},
               "meta": {"pool": "cpu"}}
def task_load():
    for i in range(400):
        yield {"name": str(i), "actions": [(work, (0.1,))], "io": {"capture": False}, "meta": {"pool": "network"}}
"""


#: Modules are compiled once, as in an installed package.
COMPILED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def spent(command: list[str], directory: Path, **environ: str) -> tuple[float, float, int]:
    """Run a command; return CPU seconds, wall seconds and peak memory in MiB."""
    before = time.perf_counter()
    with subprocess.Popen(
        command, cwd=directory, env={**COMPILED, **environ}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        printed = process.stderr.read() if process.stderr else b""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):
        raise SystemExit(f"{command} ended with {process.returncode}: {printed.decode()}")
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - before, usage.ru_maxrss >> 10


def archive(number: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as made:
        content = str(number).encode()
        info = tarfile.TarInfo("file.txt")
        info.size = len(content)
        made.addfile(info, io.BytesIO(content))
    return file.getvalue()[:2048]


def definitions(directory: Path, count: int) -> None:
    """Write `count` definitions, 100 to a file, and their archives."""
    (directory / "sources").mkdir(parents=True)
    (directory / "fetchdefs/fetch").mkdir(parents=True)
    for start in range(0, count, 100):
        lines = []
        for number in range(start, min(count, start + 100)):
            data = archive(number)
            (directory / f"sources/p{number}.tar").write_bytes(data)
            lines.append(
                f"p{number}:\n  description: package {number}\n  fetch:\n    type: static-url\n"
                f"    url: file:../../sources/p{number}.tar\n    sha256: {hashlib.sha256(data).hexdigest()}\n"
                f"    size: {len(data)}\n"
            )
        (directory / f"fetchdefs/fetch/f{start // 100:05}.yml").write_text("".join(lines))
    (directory / "dodo.py").write_text(DODO + SELECTION)


def ninja(directory: Path, count: int) -> None:
    """Write the equivalent graph for ninja, and build it."""
    for name in ("in", "fetched", "made"):
        (directory / name).mkdir(parents=True)
    lines = ["rule copy\n  command = cp $in $out\n"]
    for number in range(count):
        (directory / f"in/{number}").write_text(str(number))
        lines.append(f"build fetched/{number}: copy in/{number}\nbuild made/{number}: copy fetched/{number}\n")
    (directory / "build.ninja").write_text("".join(lines))
    subprocess.run(["ninja"], cwd=directory, check=True, stdout=subprocess.DEVNULL)


def report(name: str, reference: str, ours: list[float], theirs: list[float], memory: int) -> None:
    median, least = statistics.median, min
    print(
        f"{name:28} {median(ours):.3f} s CPU, {reference} {median(theirs):.3f}: "
        f"x {median(ours) / median(theirs):.2f} (minima x {least(ours) / least(theirs):.2f}), {memory} MiB"
    )


def compared(
    name: str, reference: str, rounds: int, ours: Callable[[], tuple[float, float, int]], other: list[str], where: Path
) -> None:
    mine, theirs, memory = [], [], 0
    for _ in range(rounds):
        cpu, _, peak = ours()
        mine.append(cpu)
        memory = max(memory, peak)
        theirs.append(spent(other, where)[0])
    report(name, reference, mine, theirs, memory)


def edited(project: Path, round_: list[int]) -> tuple[float, float, int]:
    """Change one definition, and write its new archive."""
    round_[0] += 1
    number = 100 + round_[0]
    data = archive(10_000_000 + number)
    (project / f"sources/p{number}.tar").write_bytes(data)
    path = project / f"fetchdefs/fetch/f{number // 100:05}.yml"
    path.write_text(
        path.read_text().replace(hashlib.sha256(archive(number)).hexdigest(), hashlib.sha256(data).hexdigest())
    )
    time.sleep(0.1)
    return spent(DOIT, project)


def run(what: list[str], count: int, rounds: int, directory: Path) -> None:
    project, theirs = directory / "doit", directory / "ninja"
    if {"noop", "changed", "commands"} & set(what):
        definitions(project, count)
        cpu, wall, peak = spent(DOIT, project)
        print(f"{'first run':28} {cpu:.1f} s CPU, {wall:.1f} s, {peak} MiB, {2 * count} tasks")
        ninja(theirs, count)
    if "noop" in what:
        compared("bare, nothing changed", "ninja", rounds, lambda: spent(DOIT, project), ["ninja"], theirs)
    if "changed" in what:
        number = [0]
        compared("one definition changed", "ninja", rounds, lambda: edited(project, number), ["ninja"], theirs)
        spent(DOIT, project)
    if "commands" in what:
        for words in (["info", "fetch:p5"], ["list"], ["list", "--all"], ["extract:p7"]):
            command = [*DOIT, *words]
            compared(
                " ".join(words),
                "--version",
                rounds,
                lambda one=command: spent(one, project),
                [*DOIT, "--version"],
                project,
            )
    if "cold" in what:
        cold(directory, count, rounds)
    if "schedule" in what:
        schedule(directory)


def cold(directory: Path, count: int, rounds: int) -> None:
    """Compare a cold run with the steps alone, called one after the other in one process."""
    project = directory / "cold"
    definitions(project, count)
    script = (
        "import os, pathlib\n"
        "from tasks_lib.incremental.definition_files import load\nfrom tasks_lib.progress import Silent\n"
        "from tasks_lib.incremental.resources import ReferencedFiles\n"
        "from tasks_lib.settings import Settings\nfrom tasks_lib import context, steps\n"
        "settings = Settings.parse(variables={}, environ={})\n"
        "world = context.Context(settings, {})\n"
        "plan = steps.Plan(load(settings.fetchdefs), cache=settings.cache, build=settings.build,\n"
        "    writer_version=world.writer_version, files=ReferencedFiles({}))\n"
        "for fetch in plan.definitions.fetches.values():\n"
        "    steps.fetch(world, fetch, plan.fetched(fetch), Silent())\n"
        "    steps.deliver(world, plan.extraction(fetch), Silent())\n"
    )
    found: dict[str, list[tuple[float, float, int]]] = {"steps": [], "whole": []}
    for _ in range(rounds):
        for name, command in (("steps", [sys.executable, "-c", script]), ("whole", DOIT)):
            found[name].append(spent(command, project))
            shutil.rmtree(project / "cache")
            shutil.rmtree(project / "build")
    pairs = zip(found["whole"], found["steps"], strict=True)
    over = sorted((whole[0] - steps[0]) / (2 * count) * 1000 for whole, steps in pairs)
    printed = ", ".join(f"{one:.2f}" for one in over)
    print(f"cold, {2 * count} tasks: {statistics.median(over):.2f} ms a task over the steps alone ({printed})")
    print(f"cold: at most {max(whole[2] for whole in found['whole'])} MiB")


def schedule(directory: Path) -> None:
    """Compare with the ideal schedule: downloads 16 at once, computations 2 at once, no start-up."""
    project = directory / "schedule"
    project.mkdir(parents=True)
    (project / "dodo.py").write_text(SCHEDULE)
    cores = len(os.sched_getaffinity(0))
    ideal = max(400 * 0.1 / 16, 100 * 0.05 / cores)
    start = spent([*DOIT, "list"], project)[1]
    walls = [spent([*DOIT, "-a"], project, FETCH_JOBS="16")[1] for _ in range(3)]
    wall = statistics.median(walls)
    print(
        f"schedule: {wall:.2f} s, ideal {ideal:.2f}: x {wall / ideal:.2f}; "
        f"without start-up ({start:.2f} s) x {(wall - start) / ideal:.2f}"
    )


#: Prints the processor seconds that libyaml takes for its events.
EVENTS = """
import pathlib, time, yaml
texts = [path.read_text() for path in sorted(pathlib.Path("fetchdefs/fetch").iterdir())]
start = time.process_time()
for text in texts:
    for _ in yaml.parse(text, Loader=yaml.CSafeLoader):
        pass
print(time.process_time() - start)
"""


def load(directory: Path, count: int, rounds: int) -> None:
    """Compare the first load with libyaml's events, and a glob with the same names; 1,000 definitions to a file."""
    project = directory / "load"
    (project / "fetchdefs/fetch").mkdir(parents=True)
    (project / "dodo.py").write_text(DODO)
    for start in range(0, count, 1000):
        texts = [
            f"d{n:06}:\n  description: package {n}\n  fetch:\n    type: static-url\n"
            f"    url: https://example.org/pool/d{n:06}.tar.gz\n"
            f"    sha256: {hashlib.sha256(b'%d' % n).hexdigest()}\n    size: {1000 + n}\n"
            for n in range(start, min(count, start + 1000))
        ]
        (project / f"fetchdefs/fetch/f{start // 1000:05}.yml").write_text("".join(texts))
    ours, theirs, later = [], [], []
    for _ in range(rounds):
        shutil.rmtree(project / "cache", ignore_errors=True)
        ours.append(spent([*DOIT, "list"], project))
        events = subprocess.run([sys.executable, "-c", EVENTS], cwd=project, capture_output=True, check=True)
        theirs.append(float(events.stdout))
        later.append(spent([*DOIT, "list"], project))
    report("first load", "events", [one[0] for one in ours], theirs, max(one[2] for one in ours))
    print(f"{'later load':28} {statistics.median(one[0] for one in later):.3f} s CPU, {later[0][2]} MiB")
    names = [f"fetch:d{n:06}" for n in range(50)]
    for command in ("list", "info"):
        words = [*DOIT, command, "fetch:d0000[0-4]*"]
        name, by_name = f"{command} of 50 by a glob", [*DOIT, command, *names]
        compared(name, "by name", rounds, lambda one=words: spent(one, project), by_name, project)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=["noop", "changed", "commands", "cold", "schedule", "load"])
    parser.add_argument("--definitions", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path)
    words = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory(dir=words.directory or "/dev/shm") as directory:
        run(words.what, words.definitions, words.rounds, Path(directory))
        if "load" in words.what:
            load(Path(directory), words.definitions, words.rounds)


if __name__ == "__main__":
    main()
