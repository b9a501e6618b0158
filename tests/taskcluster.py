"""A loopback Taskcluster: the queue's artifacts, storage behind redirects, chains of trust, secrets behind the proxy."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.origin import Answer, Origin, reply, serving

ROOT = Path(__file__).parent.parent
CLEAN = {
    name: value for name, value in os.environ.items() if not name.startswith(("FETCH", "MOZ_", "TASKCLUSTER", "PERF"))
}


@dataclass
class Taskcluster:
    """The server of the root URL, and that of the proxy, which serves private artifacts."""

    root: Origin
    proxy: Origin
    fetches: list[dict[str, object]] = field(default_factory=list)

    def publish(self, name: str, content: bytes | Answer, *, task: str = "TASK", **more: Any) -> None:
        """Add an artifact to a task, and list it in MOZ_FETCHES."""
        server = self.root if name.startswith("public/") else self.proxy
        server.answers[f"/api/queue/v1/task/{task}/artifacts/{quote(name)}"] = (
            reply(content) if isinstance(content, bytes) else content
        )
        self.fetches.append({"artifact": name, "task": task, "extract": True, **more})

    def trust(self, contents: Mapping[str, bytes], task: str = "TASK") -> None:
        """Add a chain of trust with these contents to a task."""
        listed = {name: {"sha256": hashlib.sha256(content).hexdigest()} for name, content in contents.items()}
        text = json.dumps({"chainOfTrustVersion": 1, "artifacts": listed}).encode()
        self.root.answers[f"/api/queue/v1/task/{task}/artifacts/public/chain-of-trust.json"] = reply(text)

    @property
    def environ(self) -> dict[str, str]:
        """Return the environment of a task."""
        return {
            "TASKCLUSTER_ROOT_URL": self.root.url,
            "TASKCLUSTER_PROXY_URL": self.proxy.url,
            "MOZ_FETCHES": json.dumps(self.fetches),
        }


@contextlib.contextmanager
def taskcluster() -> Iterator[Taskcluster]:
    """Serve an empty Taskcluster."""
    with serving({}) as root, serving({}) as proxy:
        yield Taskcluster(root, proxy)


def fetch_content(*words: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command by its path, as run-task does; pauses are short."""
    return subprocess.run(
        [sys.executable, "-u", ROOT / "fetch-content", *words],
        env={**CLEAN, "FETCH_RETRIES": "1", "FETCH_BACKOFF_S": "0.01", **environ},
        capture_output=True,
        text=True,
        check=False,
    )
