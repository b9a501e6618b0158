"""Compare downloads from a real nginx with named references, interleaved in one run; see benchmarks/README.md.

Our candidate is all of doit: start, definitions, graph, cold cache, sha256 verified, fsync on.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import operator
import os
import platform
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
MIB = 1 << 20


@dataclass(frozen=True)
class Scenario:
    """Served files, how they are served, and the reference of the ratio."""

    files: int
    size: int
    reference: str
    jobs: int = 16
    rate: int = 0  # bytes per second of one connection
    delay_ms: int = 0  # one way


SCENARIOS = {
    "large": Scenario(1, 1024 * MIB, "curl+openssl"),
    "eight": Scenario(8, 128 * MIB, "curl+openssl"),
    "small": Scenario(2000, 20 << 10, "aria2c"),
    "latency": Scenario(200, MIB, "aria2c", delay_ms=25),
    "limited": Scenario(1, 200 * MIB, "aria2c", rate=10 * MIB),
}

URLLIB = """
import concurrent.futures, hashlib, os, sys, urllib.request
def fetch(line):
    url, out, sha, size = line.split()
    digest, count = hashlib.sha256(), 0
    with urllib.request.urlopen(url) as answer, open(out + ".part", "wb") as file:
        while chunk := answer.read(65536):
            digest.update(chunk)
            file.write(chunk)
            count += len(chunk)
    assert (digest.hexdigest(), count) == (sha, int(size))
    os.rename(out + ".part", out)
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    list(pool.map(fetch, open(sys.argv[1])))
"""
POOCH = """
import logging, pooch, sys
pooch.get_logger().setLevel(logging.ERROR)
for line in open(sys.argv[1]):
    url, out, sha, _ = line.split()
    pooch.retrieve(url, known_hash=sha, fname=out, path=".")
"""


@dataclass(frozen=True)
class Work:
    """The files of one scenario: their location, names and digests."""

    scenario: Scenario
    base: str
    files: tuple[tuple[str, str], ...]  # name, sha256

    def urls(self) -> list[str]:
        return [f"{self.base}/{name}" for name, _ in self.files]


def generate(root: Path, scenario: Scenario) -> tuple[tuple[str, str], ...]:
    """Write the served files, the same on every machine."""
    made = []
    block = random.Random(1).randbytes(MIB)
    for number in range(scenario.files):
        digest, left = hashlib.sha256(), scenario.size
        with (root / f"f{number}.bin").open("wb") as file:
            while left:
                piece = (number.to_bytes(8) + left.to_bytes(8) + block[16:])[: min(left, MIB)]
                file.write(piece)
                digest.update(piece)
                left -= len(piece)
        made.append((f"f{number}.bin", digest.hexdigest()))
    return tuple(made)


# --- candidates: prepare once, then run in an empty directory ------------------------------------


def ours(work: Work, here: Path) -> list[str]:
    (here / "fetchdefs/fetch").mkdir(parents=True)
    (here / "dodo.py").write_text("from doit_fetch import DOIT_CONFIG, task_fetchdefs\n")
    text = "".join(
        f"{name[:-4]}:\n  description: d\n  fetch: {{type: static-url, url: '{work.base}/{name}', sha256: {sha}, "
        f"size: {work.scenario.size}}}\n"
        for name, sha in work.files
    )
    (here / "fetchdefs/fetch/all.yml").write_text(text)
    jobs = str(work.scenario.jobs)
    return [sys.executable, "-m", "doit", f"jobs={jobs}", f"jobs_per_host={jobs}"]


def aria2c(work: Work, here: Path, *more: str) -> list[str]:
    """Run aria2c: by default its pieces are at least 20 MiB, so 200 MiB use ten connections; see `aria2c-k1M`."""
    lines = [f"{work.base}/{name}\n  out={name}\n  checksum=sha-256={sha}\n" for name, sha in work.files]
    (here / "list").write_text("".join(lines))
    split = ["-x16", "-s16"] if work.scenario.rate else []
    return ["aria2c", "-q", f"-j{work.scenario.jobs}", "-i", "list", "--file-allocation=none", *split, *more]


def aria2c_k1m(work: Work, here: Path) -> list[str]:
    return aria2c(work, here, "-k1M")


def curl(work: Work, here: Path) -> list[str]:
    (here / "list").write_text("".join(f'url = "{work.base}/{n}"\noutput = "{n}"\n' for n, _ in work.files))
    (here / "sums").write_text("".join(f"{sha} *{name}\n" for name, sha in work.files))
    check = "ls f*.bin | sort | xargs openssl dgst -sha256 -r | sort >got && sort sums | cmp - got"
    return ["sh", "-c", f"curl -sf --parallel --parallel-max {work.scenario.jobs} -K list && {check}"]


def wget2(work: Work, here: Path) -> list[str]:
    (here / "list").write_text("\n".join(work.urls()))
    (here / "sums").write_text("".join(f"{sha} *{name}\n" for name, sha in work.files))
    check = "ls f*.bin | sort | xargs openssl dgst -sha256 -r | sort >got && sort sums | cmp - got"
    return ["sh", "-c", f"wget2 -q --max-threads={work.scenario.jobs} -i list && {check}"]


def python(text: str) -> Callable[[Work, Path], list[str]]:
    def prepare(work: Work, here: Path) -> list[str]:
        size = work.scenario.size
        (here / "list").write_text("".join(f"{work.base}/{name} {name} {sha} {size}\n" for name, sha in work.files))
        return [sys.executable, "-c", text, "list"]

    return prepare


Candidate = Callable[[Work, Path], list[str]]
CANDIDATES: dict[str, Candidate] = {
    "ours": ours,
    "aria2c": aria2c,
    "aria2c-k1M": aria2c_k1m,
    "curl+openssl": curl,
    "wget2+openssl": wget2,
    "pooch": python(POOCH),
    "urllib-threads": python(URLLIB),
}


class Run(NamedTuple):
    """Seconds on the clock, seconds of processors (user and system, all processes), and MiB of the largest process."""

    wall_s: float
    processor_s: float
    memory: int


def run(candidate: str, work: Work, here: Path, after: list[str]) -> Run:
    """Run a candidate in an empty directory; its time includes `after`. `ours@DIR` runs another checkout."""
    name, _, code = candidate.partition("@")
    command = CANDIDATES[name](work, here)
    environ = {k: v for k, v in os.environ.items() if not k.startswith("FETCH") and k != "PYTHONDONTWRITEBYTECODE"} | {
        "PYTHONPATH": code or str(ROOT)
    }
    begun = time.monotonic()
    process = subprocess.Popen(command, cwd=here, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    printed = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    subprocess.run(after, check=True)
    seconds = time.monotonic() - begun
    if status:
        raise SystemExit(f"{command[:3]} failed: {printed[-2000:].decode(errors='replace')}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss // 1024)


# --- the server -----------------------------------------------------------------------------------


@contextlib.contextmanager
def network(delay_ms: int) -> Iterator[tuple[list[str], str]]:
    """Yield how to run the server and its address: loopback, or a namespace of its own behind `delay.py`."""
    if not delay_ms:
        yield [], "127.0.0.1"
        return
    name = f"bench{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    carrier = subprocess.Popen(
        [sys.executable, str(ROOT / "benchmarks/delay.py"), name, str(delay_ms)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert carrier.stdout is not None
        if carrier.stdout.readline() != b"ready\n":
            raise SystemExit("no delay: that needs root, /dev/net/tun and `ip`")
        yield ["ip", "netns", "exec", name], "10.213.7.2"
    finally:
        carrier.communicate()
        subprocess.run(["ip", "netns", "del", name], check=False)


@contextlib.contextmanager
def nginx(top: Path, rate: int, inside: list[str], address: str) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    paths = "".join(f"{kind}_temp_path {top}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    limit = f"limit_rate {rate};" if rate else ""
    conf = top / "nginx.conf"
    conf.write_text(
        f"daemon off; worker_processes 2; pid {top}/pid; error_log {top}/error.log; user root;"
        f"events {{ worker_connections 1024; }} http {{ access_log off; {paths} sendfile on; tcp_nopush on;"
        f"keepalive_requests 1000000; server {{ listen {address}:{port} backlog=1024; root {top}/served; {limit} }} }}"
    )
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    process = subprocess.Popen([*inside, program, "-c", str(conf), "-e", f"{top}/error.log"])
    try:
        for _ in range(100):
            with contextlib.suppress(OSError):
                socket.create_connection((address, port), 1).close()
                break
            time.sleep(0.05)
        yield f"http://{address}:{port}"
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenarios", nargs="*", default=list(SCENARIOS), help=", ".join(SCENARIOS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--candidates", default="ours,aria2c,curl+openssl,wget2+openssl,pooch,urllib-threads")
    parser.add_argument("--reference", help="of the ratios, instead of the one of each scenario")
    parser.add_argument("--directory", default="/dev/shm", help="tmpfs by default, so that a slow disk does not matter")
    parser.add_argument(
        "--disk", action="store_true", help="count until all is on the disk; remove nothing before the end"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="of the file sizes, to try it out")
    chosen = parser.parse_args()
    names = chosen.candidates.split(",")
    print(describe_machine(), flush=True)
    for title in chosen.scenarios:
        scenario = SCENARIOS[title]
        scenario = Scenario(**{**vars(scenario), "size": int(scenario.size * chosen.scale)})
        with tempfile.TemporaryDirectory(dir=chosen.directory) as directory:
            top = Path(directory)
            top.chmod(0o755)
            (top / "served").mkdir()
            files = generate(top / "served", scenario)
            runs: dict[str, list[Run]] = {name: [] for name in names}
            with (
                network(scenario.delay_ms) as (inside, address),
                nginx(top, scenario.rate, inside, address) as base,
            ):
                work = Work(scenario, base, files)
                for number in range(chosen.rounds):
                    for name in names[number % len(names) :] + names[: number % len(names)]:
                        here = Path(tempfile.mkdtemp(dir=top))
                        after = ["sync", "-f", str(here)] if chosen.disk else ["true"]
                        runs[name].append(run(name, work, here, after))
                        if not chosen.disk:
                            shutil.rmtree(here)
        report(title, chosen.reference or scenario.reference, runs)


def report(title: str, reference: str, runs: dict[str, list[Run]]) -> None:
    print(f"\n{title}: median (minimum) of each; ratios to {reference}, of the medians (of the minima); MiB at most")
    base = runs.get(reference)
    for name, measured in runs.items():
        columns = []
        for unit, of in (("s", operator.attrgetter("wall_s")), ("s CPU", operator.attrgetter("processor_s"))):
            took = list(map(of, measured))
            median, least = statistics.median(took), min(took)
            ratio = (
                f"{median / statistics.median(map(of, base)):.2f} ({least / min(map(of, base)):.2f})" if base else "-"
            )
            columns.append(f"{median:7.3f} ({least:.3f}) {unit}   x {ratio}")
        print(f"  {name:16} {'   '.join(columns)}   {max(one.memory for one in measured)} MiB", flush=True)


def describe_machine() -> str:
    """Return what the figures depend on: cores, load, Python, and the time of the smallest program in it."""
    took = []
    for _ in range(9):
        begun = time.monotonic()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        took.append(time.monotonic() - begun)
    load, python_ms = os.getloadavg()[0], statistics.median(took) * 1000
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, load {load:.1f}, Python {platform.python_version()}, `python -c pass` {python_ms:.0f} ms"


if __name__ == "__main__":
    main()
