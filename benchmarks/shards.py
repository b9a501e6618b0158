"""Fetch a large graph in shards, each a process with a cache of its own, into one store; lose one, and repeat it.

    python benchmarks/shards.py [--definitions 100000] [--size 4096] [--shards 8] [--together 2] [--directory DIR]
    python benchmarks/shards.py --dask 2 [--definitions 2000]

nginx serves the origin and, with its DAV module, the store. The passes:

- reference: a graph of `--reference` definitions, from an empty store, and again from the full one
- as many exact names as a shard has, and one shard alone: compare "start", the time until the first request
- cold: all shards, `--together` at a time. The first is killed (SIGKILL) once it has made half of its requests, and
  runs again with an empty cache, as on another machine.
- all from the store: all shards again, each with an empty cache

Each pass prints its wall time, the processor time of a file, the time until the first request (median), the largest
memory of a process, the requests to the origin, and the blobs in the store. With `--dask N`, runs on a scheduler with N
workers take the place of the shards.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.stores import NGINX, PASSWORD, USER, free_port, running  # noqa: E402

CONFIG = """
daemon off; worker_processes 1; pid {top}/pid; error_log {top}/error.log; {user} events {{ worker_connections 4096; }}
http {{
    log_format one '$msec $request_method $uri $status';
    keepalive_requests 1000000; sendfile on; tcp_nopush on;
    client_body_temp_path {top}/b; proxy_temp_path {top}/p; fastcgi_temp_path {top}/f;
    uwsgi_temp_path {top}/u; scgi_temp_path {top}/s;
    server {{
        listen 127.0.0.1:{port};
        location /origin/ {{ alias {top}/origin/; access_log {top}/origin.log one; }}
        location /store/ {{
            access_log {top}/store.log one;
            alias {top}/store/;
            client_body_temp_path {top}/store/tmp;
            client_max_body_size 0;
            dav_methods PUT DELETE;
            create_full_put_path on;
            limit_except GET HEAD {{ auth_basic "store"; auth_basic_user_file {top}/htpasswd; }}
        }}
    }}
}}
"""


def block(number: int, size: int) -> bytes:
    """Return the content of a file: different for each, and quick to make."""
    return number.to_bytes(8, "big") + hashlib.sha256(number.to_bytes(8, "big")).digest() * (size // 32)


@dataclass
class Usage:
    """What one process cost: seconds of processor time, seconds until its first request, and KiB of memory."""

    processor_s: float
    start_s: float
    peak_kib: int
    status: int
    printed: str


@dataclass
class Farm:
    """A server, a checkout with `count` definitions, and the caches of machines."""

    top: Path
    count: int
    size: int
    url: str
    names: list[str] = field(default_factory=list)

    def write(self) -> None:
        """Write the files of the origin and the checkout."""
        origin, fetchdefs = self.top / "origin", self.top / "checkout/fetchdefs/fetch"
        fetchdefs.mkdir(parents=True)
        (self.top / "checkout/dodo.py").write_text("from doit_fetch import DOIT_CONFIG, task_fetchdefs\n")
        for first in range(0, self.count, 1000):
            (origin / str(first)).mkdir(parents=True)
            text = ""
            for number in range(first, min(first + 1000, self.count)):
                content, name = block(number, self.size), f"d{number}"
                (origin / str(first) / name).write_bytes(content)
                self.names.append(f"fetch:{name}")
                text += (
                    f"{name}:\n  description: a file\n  fetch:\n    type: static-url\n"
                    f"    url: {self.url}/origin/{first}/{name}\n"
                    f"    sha256: {hashlib.sha256(content).hexdigest()}\n    size: {len(content)}\n"
                )
            (fetchdefs / f"f{first}.yml").write_text(text)

    def environ(self, machine: str) -> dict[str, str]:
        netrc = self.top / "netrc"
        netrc.write_text(f'machine 127.0.0.1 login {USER} password "{PASSWORD}"\n')
        netrc.chmod(0o600)
        cache = {"FETCH_CACHE_DIR": str(self.top / "caches" / machine), "NETRC": str(netrc)}
        store = {"FETCH_STORE": f"{self.url}/store", "FETCH_STORE_WRITE": "always", "FETCH_PROGRESS": "quiet"}
        return {**os.environ, "PYTHONPATH": str(ROOT), **cache, **store}

    def machine(self, name: str, count: int) -> Path:
        """Return a checkout with the first `count` definitions and an empty cache: what a CI job begins with."""
        place = self.top / "machines" / name
        shutil.rmtree(self.top / "caches" / name, ignore_errors=True)
        shutil.rmtree(place, ignore_errors=True)
        (place / "fetchdefs/fetch").mkdir(parents=True)
        shutil.copy(self.top / "checkout/dodo.py", place)
        for first in range(0, count, 1000):
            shutil.copy(self.top / f"checkout/fetchdefs/fetch/f{first}.yml", place / "fetchdefs/fetch")
        return place

    def run(self, name: str, words: Iterable[str], kill_after: int = 0, count: int = 0) -> Usage:
        """Run doit on a new machine with `count` definitions, or all; kill it after some requests to the origin."""
        place, log = self.machine(name, count or self.count), self.top / f"{name}.out"
        watched = [self.top / "origin.log", self.top / "store.log"]
        ends = [path.stat().st_size for path in watched]
        lines = self.requests()
        command = [sys.executable, "-m", "doit", *words]
        begun = time.time()
        with log.open("wb") as out:
            process = subprocess.Popen(command, cwd=place, env=self.environ(name), stdout=out, stderr=out)
        if kill_after:
            while process.poll() is None and self.requests() < lines + kill_after:
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        first = [self._first_request(path, end) for path, end in zip(watched, ends, strict=True)]
        start = min((one for one in first if one), default=begun) - begun
        return Usage(
            usage.ru_utime + usage.ru_stime, start, usage.ru_maxrss, process.returncode, log.read_text()[-300:]
        )

    def _first_request(self, log: Path, end: int) -> float:
        with log.open() as lines:
            lines.seek(end)
            return float((lines.readline() or "0").split()[0])

    def requests(self) -> int:
        with (self.top / "origin.log").open("rb") as log:
            return sum(1 for _ in log)

    def blobs(self) -> int:
        """Return how many blobs the store has, without the empty one."""
        cas = self.top / "store/cas"
        return sum(1 for one in os.scandir(cas) if one.stat().st_size) if cas.exists() else 0


@contextlib.contextmanager
def farm(top: Path, count: int, size: int) -> Iterator[Farm]:
    """Yield a farm with an empty store."""
    port = free_port()
    user = "user root;" if os.geteuid() == 0 else ""
    (top / "store/tmp").mkdir(parents=True)
    (top / "nginx.conf").write_text(CONFIG.format(top=top, port=port, user=user))
    words = ["openssl", "passwd", "-apr1", PASSWORD]
    digest = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    (top / "htpasswd").write_text(f"{USER}:{digest}\n")
    assert NGINX is not None
    one = Farm(top, count, size, f"http://127.0.0.1:{port}")
    one.write()
    with running([NGINX, "-c", top / "nginx.conf", "-e", top / "error.log"], port, top / "output"):
        yield one


def report(title: str, usages: list[Usage], files: int, wall_s: float, one: Farm, before: int) -> None:
    processor = sum(usage.processor_s for usage in usages)
    print(
        f"{title}: {wall_s:.1f} s, {processor / files * 1000:.2f} ms of processor time a file, "
        f"start {statistics.median(usage.start_s for usage in usages):.2f} s, "
        f"memory at most {max(usage.peak_kib for usage in usages) / 1024:.0f} MiB; "
        f"{one.requests() - before} requests to the origin, {one.blobs()} blobs in the store",
        flush=True,
    )
    for usage in usages:
        if usage.status or "WARNING" in usage.printed:
            print(f"  status {usage.status}: {usage.printed.strip()}", flush=True)


def measure_reference(one: Farm, count: int) -> None:
    for title in ("reference, cold", "reference, hit"):
        before, begun = one.requests(), time.time()
        usage = one.run("reference", [], count=count)
        report(f"{title}, a graph of {count}", [usage], count, time.time() - begun, one, before)


def measure_shards(one: Farm, shards: int, together: int) -> None:
    share = one.count // shards
    before, begun = one.requests(), time.time()
    usages = [one.run("names", one.names[-share:])]
    report(f"{share} exact names, cold", usages, share, time.time() - begun, one, before)
    shutil.rmtree(one.top / "store/cas", ignore_errors=True)
    first = [f"shard=1/{shards}"]
    before, begun = one.requests(), time.time()
    report(f"shard 1 of {shards} alone, cold", [one.run("alone", first)], share, time.time() - begun, one, before)
    shutil.rmtree(one.top / "store/cas", ignore_errors=True)
    before, begun = one.requests(), time.time()
    with ThreadPoolExecutor(together) as pool:
        killed = pool.submit(one.run, "killed", first, share // 2)
        rest = [pool.submit(one.run, f"s{at}", [f"shard={at}/{shards}"]) for at in range(2, shards + 1)]
        print(f"killed with status {killed.result().status}", flush=True)
        rest.append(pool.submit(one.run, "s1", first))
        usages = [future.result() for future in rest]
    report(f"{shards} shards, cold, one killed", usages, one.count, time.time() - begun, one, before)
    before, begun = one.requests(), time.time()
    with ThreadPoolExecutor(together) as pool:
        usages = list(pool.map(lambda at: one.run(f"s{at}", [f"shard={at}/{shards}"]), range(1, shards + 1)))
    report(f"{shards} shards, all from the store", usages, one.count, time.time() - begun, one, before)


def measure_dask(one: Farm, workers: int) -> None:
    port = free_port()
    words = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port)]
    with contextlib.ExitStack() as stack:
        stack.enter_context(running([*words, "--no-dashboard"], port, one.top / "scheduler.log"))
        started = []
        for at in range(workers):
            words = [sys.executable, "-m", "distributed.cli.dask_worker", f"tcp://127.0.0.1:{port}", "--no-nanny"]
            words += ["--nthreads", "1", "--no-dashboard", "--local-directory", str(one.top / f"scratch{at}")]
            started.append(subprocess.Popen(words, env=one.environ(f"w{at}"), stderr=subprocess.DEVNULL))
        for title in ("cold", "all from the store"):
            before, begun = one.requests(), time.time()
            usage = one.run("coordinator", ["run", "--on", f"dask://127.0.0.1:{port}"])
            report(f"{workers} workers, {title} (processor time and memory: coordinator)", [usage], one.count,
                   time.time() - begun, one, before)  # fmt: skip
        for process in started:
            process.terminate()
            _, _, usage = os.wait4(process.pid, 0)
            print(f"worker: {usage.ru_utime + usage.ru_stime:.1f} s of processor time, {usage.ru_maxrss >> 10} MiB")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--definitions", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--together", type=int, default=2)
    parser.add_argument("--reference", type=int, default=2000)
    parser.add_argument("--dask", type=int, default=0)
    parser.add_argument("--directory", default="/dev/shm")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        Path(name).chmod(0o755)
        with farm(Path(name), options.definitions, options.size) as one:
            if options.reference:
                measure_reference(one, options.reference)
                shutil.rmtree(one.top / "store/cas", ignore_errors=True)
            if options.dask:
                measure_dask(one, options.dask)
            else:
                measure_shards(one, options.shards, options.together)


if __name__ == "__main__":
    main()
