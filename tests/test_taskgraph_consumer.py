"""The real consumer: Taskgraph creates the tasks, our script runs them, and a consumer uses the artifacts."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks_lib import recipe
from tasks_lib.incremental.definition_files import load
from tests.archives import Member, tar
from tests.githost import http
from tests.origin import reply, serving
from tests.project import DODO, doit, ran
from tests.repositories import FILES, git, made
from tests.taskcluster import fetch_content, taskcluster

pytestmark = pytest.mark.slow

GMP = gzip.compress(tar([Member("gmp-6.1.0/"), Member("gmp-6.1.0/gmp.h", b"gmp")]), mtime=0)
PLAIN = b"no archive at all\n"
#: A project in the shape that an export has: the same text is Taskgraph's and ours.
PROJECT = {
    ".taskcluster.yml": "version: 1\ntasks: []\n",
    "taskcluster/config.yml": """
trust-domain: test
task-priority: low
taskgraph:
  cached-task-prefix: test
  repositories: {test: {name: test}}
treeherder: {group-names: {I: images, TL: toolchains, Fetch: fetches}}
workers:
  aliases:
    images: {provisioner: p, implementation: docker-worker, os: linux, worker-type: images}
    b-linux: {provisioner: p, implementation: docker-worker, os: linux, worker-type: b-linux}
    mac.*: {provisioner: p, implementation: generic-worker, os: macosx, worker-type: mac}
""",
    "taskcluster/docker/fetch/Dockerfile": "FROM debian\n",
    "taskcluster/docker/toolchain-build/Dockerfile": "FROM debian\n",
    "taskcluster/kinds/docker-image/kind.yml": """
loader: taskgraph.loader.transform:loader
transforms:
  - taskgraph.transforms.docker_image:transforms
  - taskgraph.transforms.cached_tasks:transforms
  - taskgraph.transforms.task:transforms
tasks: {fetch: {symbol: I(fetch)}, toolchain-build: {symbol: I(tb)}}
""",
    "taskcluster/kinds/fetch/kind.yml": """
loader: taskgraph.loader.transform:loader
kind-dependencies: [docker-image]
transforms:
  - taskgraph.transforms.fetch:transforms
  - taskgraph.transforms.run:transforms
  - taskgraph.transforms.cached_tasks:transforms
  - taskgraph.transforms.task:transforms
task-defaults: {docker-image: {in-tree: fetch}}
tasks-from: [libraries.yml]
tasks:
  plain:
    description: kept as it is
    fetch: {type: static-url, url: "ORIGIN/plain.bin", sha256: PLAIN_SHA, size: PLAIN_SIZE}
""",
    "taskcluster/kinds/fetch/libraries.yml": """
gmp-6.1.0:
  description: stripped and prefixed
  fetch-alias: gmp
  fetch:
    type: static-url
    url: ORIGIN/gmp-6.1.0.tar.gz
    headers: {X-Asked: "yes"}
    sha256: GMP_SHA
    size: GMP_SIZE
    strip-components: 1
    add-prefix: gmp-source/
    artifact-name: gmp-source.tar.zst
renamed:
  description: another compression
  fetch:
    {type: static-url, url: "ORIGIN/gmp-6.1.0.tar.gz", sha256: GMP_SHA, size: GMP_SIZE, artifact-name: same.tar.zst}
lib:
  description: a commit
  fetch: {type: git, repo: "GIT/lib.git", revision: COMMIT}
with-git:
  description: a commit with its .git
  fetch:
    {type: git, repo: "GIT/lib.git", revision: COMMIT, path-prefix: kept, artifact-name: kept.tar.zst, include-dot-git: true}
""",
    "taskcluster/kinds/toolchain/kind.yml": """
loader: taskgraph.loader.transform:loader
kind-dependencies: [fetch, docker-image]
transforms:
  - taskgraph.transforms.run:transforms
  - taskgraph.transforms.cached_tasks:transforms
  - taskgraph.transforms.task:transforms
tasks:
  consumer:
    description: takes all of them
    worker-type: b-linux
    worker: {docker-image: {in-tree: fetch}, max-run-time: 600}
    run: {using: toolchain-script, script: build.sh, toolchain-artifact: public/build/out.txt}
    fetches:
      fetch:
        - gmp
        - {artifact: renamed, dest: other, verify-hash: true}
        - {artifact: plain, extract: false}
        - lib
        - {artifact: with-git, dest: src}
  patterns:
    description: reads files of the checkout
    worker-type: b-linux
    worker: {max-run-time: 600, env: {A: "1"}}
    run:
      using: toolchain-script
      script: build.sh
      arguments: [one, two]
      resources: [patches/*.patch, "src/**/*.txt", src/deep, src/a.c, "**/Cargo.toml"]
      toolchain-artifact: public/build/patterns.tar.zst
      toolchain-alias: patterns
      toolchain-env: {B: b}
  other:
    description: needs the others
    worker-type: macosx
    worker: {max-run-time: 600}
    dependencies: {edge: toolchain-consumer, of: fetch-lib}
    run: {using: toolchain-script, script: sub/other.sh, toolchain-artifact: public/build/other.zip}
    fetches:
      toolchain: [patterns]
      edge: [{artifact: out.txt, extract: false}]
""",
    "taskcluster/scripts/toolchain/sub/other.sh": "#!/bin/sh\n",
    "patches/one.patch": "1",
    "patches/sub/two.patch": "2",
    "src/a.c": "a",
    "src/deep/Cargo.toml": "c",
    "src/deep/er/x.txt": "x",
    "Cargo.toml": "top",
    "taskcluster/scripts/toolchain/build.sh": '#!/bin/sh\ncd "$MOZ_FETCHES_DIR" && find . -name gmp.h | sort > "$UPLOAD_DIR/out.txt"\n',
}
PARAMETERS = """
head_repository: https://github.com/org/project
base_repository: https://github.com/org/project
head_rev: "abababababababababababababababababababab"
head_ref: main
project: project
level: "1"
repository_type: git
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """Return a project whose origins are served on loopback."""
    commit = made(tmp_path / "hosted/lib.git", FILES)
    answers = {"/gmp-6.1.0.tar.gz": reply(GMP), "/plain.bin": reply(PLAIN)}
    with serving(answers) as origin, http(tmp_path / "hosted") as host:
        words = {
            "ORIGIN": origin.url, "GIT": host.url, "COMMIT": commit,
            "PLAIN_SHA": hashlib.sha256(PLAIN).hexdigest(), "PLAIN_SIZE": str(len(PLAIN)),
            "GMP_SHA": hashlib.sha256(GMP).hexdigest(), "GMP_SIZE": str(len(GMP)),
        }  # fmt: skip
        for name, text in PROJECT.items():
            path = tmp_path / "project" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(re.sub("|".join(words), lambda found: words[found[0]], text))
        (tmp_path / "project/taskcluster/scripts/toolchain/build.sh").chmod(0o755)
        git(tmp_path / "project", "init", "-q", "-b", "main")
        git(tmp_path / "project", "add", "-A")
        git(tmp_path / "project", "commit", "-q", "-m", "one")
        (tmp_path / "parameters.yml").write_text(PARAMETERS)
        yield tmp_path / "project"


def graph(project: Path) -> dict[str, Any]:
    """Return Taskgraph's tasks of the project, by label."""
    words = ["taskgraph", "full", "-J", "--root", "taskcluster", "-p", str(project.parent / "parameters.yml")]
    tool = Path(sys.executable).with_name("taskgraph")
    environ = {**os.environ, "TASKCLUSTER_ROOT_URL": "https://tc.example"}  # only written into the tasks
    done = subprocess.run([tool, *words[1:]], cwd=project, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_its_tasks_run_with_our_script(project: Path, tmp_path: Path) -> None:
    """Each fetch's command gives the artifact that doit makes, under the same cache digest; a consumer takes them all."""
    tasks = graph(project)
    definitions = load(project / "taskcluster/kinds")
    user = tmp_path / "user"
    user.mkdir()
    (user / "dodo.py").write_text(DODO)
    ran(doit(user, f"fetchdefs={project}/taskcluster/kinds", "fetch", "repack", "toolchain:consumer"))
    contents: dict[str, dict[str, bytes]] = {}
    for name, fetch in definitions.fetches.items():
        task = tasks[f"fetch-{name}"]
        assert task["attributes"]["cached_task"]["digest"] == recipe.taskgraph_digest(fetch), name
        payload = task["task"]["payload"]
        words = payload["command"][payload["command"].index("fetch-content") + 1 :]
        uploads = tmp_path / "uploads" / name
        there = [word.replace("/builds/worker/artifacts", str(uploads)) for word in words]
        done = fetch_content(*there, **{key: value for key, value in payload["env"].items() if isinstance(value, str)})
        assert done.returncode == 0, done.stderr
        artifact = task["attributes"]["fetch-artifact"]
        (left,) = uploads.iterdir()
        assert f"public/{left.name}" == artifact
        contents[name] = {artifact: left.read_bytes()}
        (ours,) = (user / "cache/artifacts" / name).glob(f"*/{left.name}")
        if name != "gmp-6.1.0":
            assert name == "renamed" or ours.read_bytes() == left.read_bytes()
    consume(tasks["toolchain-consumer"]["task"]["payload"]["env"], contents, tmp_path / "fetches")
    assert (user / "build/consumer/artifacts/out.txt").read_text() == "./gmp-source/gmp.h\n./other/gmp-6.1.0/gmp.h\n"


def test_its_index_paths_are_ours(project: Path, tmp_path: Path) -> None:
    """`doit info` shows the path under which Taskgraph caches each fetch and toolchain, at each level."""
    (project / "src/untracked.txt").write_text("not part of any pattern")
    tasks = graph(project)
    (tmp_path / "user").mkdir()
    (tmp_path / "user/dodo.py").write_text(DODO)
    shown: dict[str, str] = {}
    for kind, names in {
        "fetch": ["plain", "gmp-6.1.0", "renamed", "lib", "with-git"],
        "toolchain": ["consumer", "patterns", "other"],
    }.items():
        done = doit(tmp_path / "user", f"fetchdefs={project}", "level=1", "info", *(f"{kind}:{name}" for name in names))
        shown |= dict(
            zip((f"{kind}-{name}" for name in names), re.findall("^index +: (.*)$", done.stdout, re.M), strict=True)
        )
    routes = {label: tasks[label]["task"]["routes"] for label in shown}
    assert {f"index.{path}" in routes[label] for label, path in shown.items()} == {True}, (shown, routes)


def consume(environ: dict[str, Any], contents: dict[str, dict[str, bytes]], directory: Path) -> None:
    """Run our script with the environment that Taskgraph wrote for the consumer, as run-task does."""
    listed = environ["MOZ_FETCHES"]["task-reference"]
    with taskcluster() as cluster:
        for name, published in contents.items():
            for artifact, content in published.items():
                cluster.publish(artifact, content, task=f"TASK-{name}")
            cluster.trust(published, task=f"TASK-{name}")
        listed = re.sub("<fetch-([^>]+)>", r"TASK-\1", listed)
        where = {"MOZ_FETCHES": listed, "MOZ_FETCHES_DIR": str(directory)}
        done = fetch_content("task-artifacts", **{**cluster.environ, **where})
    assert done.returncode == 0, done.stderr
    assert (directory / "gmp-source/gmp.h").read_bytes() == b"gmp"
    assert (directory / "other/gmp-6.1.0/gmp.h").read_bytes() == b"gmp"
    assert (directory / "plain.bin").read_bytes() == PLAIN
    assert (directory / "lib.git/hidden").read_bytes() == FILES["hidden"]
    assert git(directory / "src/kept", "status", "--porcelain") == ""
