"""Artificial records of runs, of any size, for tests of their readers."""

from __future__ import annotations

import random
from typing import Any

HOSTS = ("ftp.gnu.org", "example.org:8443", "files.example")


def record(artifacts: int, workers: int = 16) -> dict[str, Any]:
    """Return the record of a run that fetches and extracts so many artifacts; every twentieth fetch fails."""
    chance = random.Random(1)
    clock = [0.0] * workers
    tasks: list[dict[str, Any]] = []

    def run(name: str, outcome: str, phases: list[tuple[str, float, Any]], ready: float, **more: Any) -> float:
        worker = clock.index(min(clock))
        at = start = max(clock[worker], ready)
        described = []
        for phase, took, facts in phases:
            described.append([phase, round(at, 1), round(at + took, 1), *facts])
            at += took
        clock[worker] = at
        task = {"name": name, "outcome": outcome, "worker": worker, "ready": ready, "start": start, "end": at}
        tasks.append(task | {"phases": described} | more)
        return at

    for number in range(artifacts):
        size, host = chance.randrange(1000, 90_000_000), HOSTS[0 if chance.random() < 0.7 else chance.randrange(3)]
        url = f"https://{host}/pub/package-{number:05}.tar.xz"
        network: list[tuple[str, float, Any]] = [
            ("queue", chance.random() * 4, []),
            ("connect", 2 + chance.random() * 30, [0, url]),
            ("first-byte", 5 + chance.random() * 40, [0, url]),
            ("body", size / 20_000, [size, url]),
            ("verify", size / 1_000_000, []),
        ]
        sha = f"{chance.getrandbits(256):064x}"
        facts = {"artifact": f"package-{number:05}.tar.xz", "size": size, "sha256": sha, "sources": [url]}
        bad = number % 20 == 7
        end = run(
            f"fetch:package-{number:05}", "failed" if bad else "fetched", network[: 3 if bad else 5], 0.0, **facts,
            **({"message": "no source provided it\nadd a mirror"} if bad else {}), defined=f"fetchdefs/fetch/all.yml:{number}",
        )  # fmt: skip
        if bad:
            tasks.append({"name": f"extract:package-{number:05}", "outcome": "not-run", "needs": [len(tasks) - 1]})
        else:
            needs = [len(tasks) - 1]
            run(f"extract:package-{number:05}", "made", [("extract", size / 90_000, [size])], end, needs=needs)
    ends = [task["end"] for task in tasks if "end" in task]
    counts = {
        state: sum(task["outcome"] == state for task in tasks) for state in ("fetched", "made", "failed", "not-run")
    }
    return {
        "format": 1,
        "version": "0.1.0",
        "started": "2026-11-24T20:00:00+00:00",
        "elapsed": max(ends, default=0.0),
        "counts": {state: number for state, number in counts.items() if number},
        "errors": [],
        "workers": [f"network-{number}" for number in range(workers)],
        "left_out": 0,
        "tasks": tasks,
    }
