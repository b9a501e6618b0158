"""Compare the time before the first request of `fetch-content` with `python -c pass`: minima of interleaved runs.

Run: python benchmarks/startup.py [RUNS]
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


def first_request_s(server: socket.socket, words: list[str]) -> float:
    port = server.getsockname()[1]
    entry = {"artifact": "public/x", "task": "T", "extract": False}
    environ = {**os.environ, "TASKCLUSTER_ROOT_URL": f"http://127.0.0.1:{port}", "MOZ_FETCHES": json.dumps([entry])}
    with tempfile.TemporaryDirectory() as directory:
        begun = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-u", ROOT / "fetch-content", *[word.format(port=port, dir=directory) for word in words]],
            env=environ,
            stderr=subprocess.DEVNULL,
        )
        connection, _ = server.accept()
        connection.recv(1)
        seconds = time.perf_counter() - begun
        connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        connection.close()
        process.wait()
    return seconds


def pass_s() -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - begun


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    commands = {
        "task-artifacts": ["task-artifacts", "-d", "{dir}"],
        "static-url": ["static-url", "--sha256", "0" * 64, "--size", "1", "http://127.0.0.1:{port}/x", "{dir}/x"],
    }
    best = dict.fromkeys(["python -c pass", *commands], 60.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        for _ in range(runs):
            best["python -c pass"] = min(best["python -c pass"], pass_s())
            for name, words in commands.items():
                best[name] = min(best[name], first_request_s(server, words))
    for name, seconds in best.items():
        print(f"{name:16} {seconds * 1000:6.0f} ms  {seconds / best['python -c pass']:5.1f} x")


if __name__ == "__main__":
    main()
