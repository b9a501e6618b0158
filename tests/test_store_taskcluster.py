"""Taskcluster's index as a store that is only read, with endpoints on loopback."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import zstandard

from tasks_lib.store import EMPTY, blob_key, parse_stores
from tasks_lib.store.opening import open_store
from tasks_lib.transport import Transport
from tests.archives import Member, tar
from tests.origin import Origin, reply, serving
from tests.project import DODO, doit, ran, written

PLAIN = b"pinned as it is\n" * 10
ARCHIVE = tar([Member("lib-1.0/"), Member("lib-1.0/lib.h", b"#define LIB 1\n")])
REPACKED = zstandard.compress(tar([Member("lib/"), Member("lib/lib.h", b"made by a task\n")]))
BUILT = zstandard.compress(tar([Member("out/"), Member("out/tool", b"built by a task\n")]))


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tree(origin: str) -> dict[str, str]:
    """Return a Taskgraph repository with pinned content, a repacked archive and a toolchain that cannot be built."""
    head = "loader: taskgraph.loader.transform:loader\ntransforms:\n"
    fetch = f"""{head}  - taskgraph.transforms.fetch:transforms
  - taskgraph.transforms.cached_tasks:transforms
tasks:
  plain:
    description: plain
    fetch: {{type: static-url, url: "{origin}/plain.bin", sha256: {sha(PLAIN)}, size: {len(PLAIN)}}}
  lib:
    description: lib
    fetch:
      type: static-url
      url: {origin}/lib-1.0.tar
      sha256: {sha(ARCHIVE)}
      size: {len(ARCHIVE)}
      artifact-name: lib.tar.zst
      strip-components: 1
      add-prefix: lib/
"""
    toolchain = f"""{head}  - taskgraph.transforms.run:transforms
  - taskgraph.transforms.cached_tasks:transforms
kind-dependencies: [fetch]
tasks:
  tool:
    description: tool
    worker-type: b-linux
    worker: {{max-run-time: 3600, docker-image: {{in-tree: toolchain-build}}}}
    run:
      using: toolchain-script
      script: build.sh
      toolchain-artifact: public/build/tool.tar.zst
    fetches: {{fetch: [plain]}}
"""
    return {
        "dodo.py": DODO,
        "pyproject.toml": '[tool.doit-fetch]\nfetchdefs = "."\n',
        "taskcluster/config.yml": "trust-domain: another\n",
        "taskcluster/kinds/fetch/kind.yml": fetch,
        "taskcluster/kinds/toolchain/kind.yml": toolchain,
        "taskcluster/scripts/toolchain/build.sh": "#!/bin/sh\nexit 9\n",
    }


@dataclass
class Farm:
    """A repository whose origin lacks everything, and an index whose artifacts are on another host."""

    repository: Path
    index: Origin
    storage: Origin
    origin: Origin
    paths: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"taskcluster+{self.index.url}/farm/3"

    def publish(self, task: str, name: str, content: bytes) -> None:
        """Index a task with an artifact; `task` is the name of one of doit's tasks."""
        self.storage.answers[f"/{task}"] = reply(content)
        moved = reply(b"", "303 See Other", Location=f"{self.storage.url}/{task}")
        self.index.answers[f"/api/index/v1/task/{self.paths[task]}/artifacts/{name}"] = moved


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    with serving({}) as index, serving({}) as storage, serving({}) as origin:
        index.answers["/api/index/v1/ping"] = reply(b"{}")
        made = Farm(written(tmp_path / "repository", tree(origin.url)), index, storage, origin)
        names = ("fetch:plain", "fetch:lib", "toolchain:tool")
        shown = re.findall("^index +: (.*)$", doit(made.repository, "info", *names).stdout, re.M)
        made.paths |= zip(names, (path.replace("another.cache", "farm.cache") for path in shown), strict=True)
        made.publish("fetch:plain", "public/plain.bin", PLAIN)
        made.publish("fetch:lib", "public/lib.tar.zst", REPACKED)
        made.publish("toolchain:tool", "public/build/tool.tar.zst", BUILT)
        index.requests.clear()
        yield made


def test_pinned_content_is_read_and_measured(farm: Farm) -> None:
    """Content that a definition pins comes from the task that cached it, without any trust."""
    done = doit(farm.repository, "fetch:plain", FETCH_STORE=farm.url)
    assert "fetch:plain" in ran(done), done.stdout
    assert (farm.repository / "cache/v1/blobs/sha256" / sha(PLAIN)[:2] / sha(PLAIN)).read_bytes() == PLAIN
    assert farm.origin.requests == []


@pytest.mark.slow
def test_wrong_pinned_content_is_not_used(farm: Farm) -> None:
    """A task that published other bytes provides nothing, even if every result is believed."""
    farm.publish("fetch:plain", "public/plain.bin", PLAIN[::-1])
    done = doit(farm.repository, "fetch:plain", FETCH_STORE=farm.url, FETCH_STORE_TRUST="any")
    assert done.returncode == 1 and "404" in done.stdout, done.stdout
    assert [one.path for one in farm.origin.requests] == ["/plain.bin"]


def test_results_need_trust(farm: Farm) -> None:
    """Without `store_trust=any` neither a repacked archive nor the output of a toolchain is read."""
    for trust in ("none", "signed"):
        done = doit(
            farm.repository, "-c", "repack:lib", "toolchain:tool", FETCH_STORE=farm.url, FETCH_STORE_TRUST=trust
        )
        assert done.returncode == 1, done.stdout
    asked = [one.path for one in farm.index.requests]
    assert not any("lib.tar.zst" in path or "tool.tar.zst" in path for path in asked)


def test_toolchain_of_a_task(farm: Farm) -> None:
    """With `store_trust=any` the output of a toolchain comes from its task; it is recorded from where, and not built."""
    done = doit(farm.repository, "toolchain:tool", FETCH_STORE=farm.url, FETCH_STORE_TRUST="any")
    assert done.returncode == 0, done.stdout
    (output,) = (farm.repository / "cache/artifacts/tool").glob("*/tool.tar.zst")
    assert output.read_bytes() == BUILT
    records = [json.loads(path.read_text()) for path in (farm.repository / "cache/v1/results").glob("*/*")]
    (record,) = [one for one in records if one["digest"] == f"sha256:{sha(BUILT)}"]
    assert record["provenance"]["store"] == farm.url
    assert record["provenance"]["trusted from"].startswith(f"{farm.index.url}/api/index/v1/task/farm.cache.level-3.")
    again = doit(farm.repository, "toolchain:tool", "offline=1")
    assert again.returncode == 0, again.stdout


@pytest.mark.slow
def test_repacked_archive_of_a_task(farm: Farm) -> None:
    """With `store_trust=any` a repacked archive comes from its task; only the pinned archive comes from the origin."""
    farm.origin.answers["/lib-1.0.tar"] = reply(ARCHIVE)
    done = doit(farm.repository, "repack:lib", FETCH_STORE=farm.url, FETCH_STORE_TRUST="any")
    assert done.returncode == 0, done.stdout
    (output,) = (farm.repository / "cache/artifacts/lib").glob("*/lib.tar.zst")
    assert output.read_bytes() == REPACKED


@pytest.mark.slow
def test_nothing_indexed(farm: Farm) -> None:
    """An index without the task is an absence: the origin is asked, and nothing is warned about."""
    farm.index.answers = {"/api/index/v1/ping": reply(b"{}")}
    farm.origin.answers["/plain.bin"] = reply(PLAIN)
    done = doit(farm.repository, "fetch:plain", FETCH_STORE=farm.url, FETCH_STORE_TRUST="any")
    assert done.returncode == 0, done.stdout
    assert "warning" not in done.stdout.lower()


@pytest.mark.slow
def test_index_that_fails(farm: Farm) -> None:
    """An index that answers with errors is left alone; the run goes on from the origin."""
    farm.index.answers = {"/api/index/v1/ping": reply(b"", "503 Service Unavailable")}
    farm.origin.answers["/plain.bin"] = reply(PLAIN)
    done = doit(farm.repository, "fetch:plain", FETCH_STORE=farm.url)
    assert done.returncode == 0, done.stdout
    assert [one.path for one in farm.index.requests] == ["/api/index/v1/ping"]


def test_locations() -> None:
    """Only items that a definition names are asked for, below the index of the root URL."""
    key = blob_key(sha(PLAIN))
    store = open_store(
        parse_stores("taskcluster+https://tc.example/root/farm/1")[0],
        Transport(),
        {},
        lambda domain, level: {key: f"{domain}.cache.level-{level}.content.v1.a.hash.x/artifacts/public/a b.tar"},
    )
    root = "https://tc.example/root/api/index/v1"
    assert (
        store.locate("GET", key).url == f"{root}/task/farm.cache.level-1.content.v1.a.hash.x/artifacts/public/a%20b.tar"
    )
    assert store.locate("HEAD", EMPTY).url == f"{root}/ping"
    assert store.may_hold(key) and not store.may_hold(EMPTY)
    assert not store.can_write and not store.can_list and store.read(EMPTY, 10) is None and store.find(EMPTY) is None
