"""Gecko's kind `packages`: sources become fetches, the rest is refused by name and in nobody's way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks_lib.definitions import DebianSource
from tasks_lib.incremental.definition_files import load
from tests.archives import Member, tar
from tests.origin import Origin, reply, serving
from tests.project import DODO, definition, doit, ran, written

SHA = "ab" * 32
SOURCE = tar([Member("greet-1.0/greet.c", b"int main;")])
ORIG = b"the upstream tarball"
DSC = (
    "Format: 1.0\nSource: greet\nVersion: 1.0-1\nChecksums-Sha256:\n"
    f" {hashlib.sha256(ORIG).hexdigest()} {len(ORIG)} greet_1.0.orig.tar.gz\n"
).encode()
#: Written by hand after the facts of Gecko's kind: kinds of entries, defaults and keys.
KIND = """---
loader: taskgraph.loader.transform:loader
kind-dependencies: [docker-image]
transforms:
  - gecko_taskgraph.transforms.try_job:transforms
  - gecko_taskgraph.transforms.job:transforms
task-defaults:
  treeherder: {kind: build, platform: packages/opt, tier: 1}
  worker-type: b-linux-gcp
  worker: {max-run-time: 1800}
  run-on-projects: []
tasks-from: [debian.yml, ubuntu.yml]
"""
DEBIAN = f"""---
task-defaults:
  run: {{using: debian-package, dist: jessie}}
deb-greet:
  description: a greeting for Debian
  treeherder: {{symbol: Deb(greet)}}
  run:
    dist: bookworm
    dsc:
      url: ORIGIN/pool/greet_1.0-1.dsc
      sha256: {hashlib.sha256(DSC).hexdigest()}
    patch: greet.diff
deb-greet-32:
  description: the same .dsc once more
  run:
    dsc: {{url: ORIGIN/pool/greet_1.0-1.dsc, sha256: {hashlib.sha256(DSC).hexdigest()}, size: {len(DSC)}}}
    arch: i386
deb-tarball:
  description: a tarball that has a debian directory
  run:
    tarball:
      url: ORIGIN/greet-1.0.tar
      sha256: {hashlib.sha256(SOURCE).hexdigest()}
    name: greet
    pre-build-command: >-
      debchange -v 1.0-1 "backport"
deb-git:
  description: not a file
  run: {{using: debian-package, git: "https://h/x.git"}}
deb-both:
  description: two sources
  run: {{dsc: {{url: "https://h/x.dsc", sha256: {SHA}}}, tarball: {{url: "https://h/x.tar", sha256: {SHA}}}}}
deb-wrong:
  description: a digest of another kind
  run: {{dsc: {{url: "https://h/x.dsc", sha256: abc}}}}
gmp:
  description: has the name of a fetch
  run: {{dsc: {{url: "https://h/x.dsc", sha256: {SHA}}}}}
gmp-alias:
  description: has the name of an alias
  run: {{dsc: {{url: "https://h/x.dsc", sha256: {SHA}}}}}
"""
UBUNTU = f"""---
task-defaults:
  run: {{using: ubuntu-package, dist: jammy}}
ub-greet:
  run: {{tarball: {{url: "https://h/greet-1.0.tar", sha256: {SHA}}}}}
"""
TREE = {
    "taskcluster/config.yml": "trust-domain: gecko\n",
    "taskcluster/kinds/fetch/kind.yml": "---\ntasks:\n  "
    + definition("gmp", "https://h/gmp.tar", b"gmp", "    \n").replace("\n", "\n  ").rstrip()
    + "\n    fetch-alias: gmp-alias\n",
    "taskcluster/kinds/toolchain/kind.yml": "---\ntasks:\n  tool:\n    description: needs a built package\n"
    "    fetches: {packages: [deb-greet]}\n    run: {using: toolchain-script, script: tool.sh}\n",
    "taskcluster/scripts/toolchain/tool.sh": "#!/bin/sh\n",
    "taskcluster/kinds/packages/kind.yml": KIND,
    "taskcluster/kinds/packages/debian.yml": DEBIAN,
    "taskcluster/kinds/packages/ubuntu.yml": UBUNTU,
}
ANSWERS = {
    "/pool/greet_1.0-1.dsc": reply(DSC),
    "/pool/greet_1.0.orig.tar.gz": reply(ORIG),
    "/greet-1.0.tar": reply(SOURCE),
}


@pytest.fixture
def origin() -> Iterator[Origin]:
    with serving(dict(ANSWERS)) as one:
        yield one


def tree(root: Path, origin: str = "https://h", **files: str) -> Path:
    return written(root, {name: text.replace("ORIGIN", origin) for name, text in {**TREE, **files}.items()})


def test_what_becomes_a_fetch_and_what_is_refused(tmp_path: Path) -> None:
    """A .dsc and a tarball do, with or without a size; each of the others has its reason."""
    definitions = load(tree(tmp_path))
    assert sorted(definitions.fetches) == ["deb-greet", "deb-greet-32", "deb-tarball", "gmp", "ub-greet"]
    greet, sized, tarball = (definitions.fetches[name].source for name in ("deb-greet", "deb-greet-32", "deb-tarball"))
    assert isinstance(greet, DebianSource) and isinstance(sized, DebianSource) and isinstance(tarball, DebianSource)
    assert (greet.form, greet.size, greet.artifact_name) == ("dsc", -1, "deb-greet.tar.zst")
    assert (sized.size, greet.digest) == (len(DSC), sized.digest)
    assert (tarball.form, tarball.size, tarball.artifact_name) == ("tarball", -1, "greet-1.0.tar")
    assert definitions.fetches["deb-greet"].description == "a greeting for Debian"
    assert {"run.patch", "run.dist", "run.using", "treeherder"} <= {*definitions.fetches["deb-greet"].ignored}
    refused = {one.task: one.reason for one in definitions.refused}
    assert "packages" in refused.pop("toolchain:tool")
    assert refused == {
        "packages:deb-git": "run: has neither `dsc:` nor `tarball:`",
        "packages:deb-both": "run: has both `dsc:` and `tarball:`",
        "packages:deb-wrong": "run.dsc.sha256: expected 64 hex digits, got 3 characters: 'abc'",
        "packages:gmp": "is defined twice",
        "packages:gmp-alias": "'gmp-alias' is an alias of gmp",
    }
    assert definitions.fetch("gmp-alias").name == "gmp"


@pytest.mark.parametrize(
    ("file", "text", "task"),
    [
        ("kind.yml", KIND.replace("taskgraph.loader.transform", "own.loader"), "kind:packages"),
        ("kind.yml", "tasks: [\n", "kind:packages"),
        ("debian.yml", "deb-greet: [\n", "kind:packages/debian.yml"),
    ],
)
def test_a_broken_kind_is_in_nobodys_way(tmp_path: Path, file: str, text: str, task: str) -> None:
    """The fetches of the tree stay."""
    definitions = load(tree(tmp_path, **{f"taskcluster/kinds/packages/{file}": text}))
    assert "gmp" in definitions.fetches
    assert task in {one.task for one in definitions.refused}


def test_a_file_of_the_kind_alone(tmp_path: Path) -> None:
    """It is read as packages, with the defaults of its kind."""
    definitions = load(tree(tmp_path) / "taskcluster/kinds/packages/ubuntu.yml")
    assert list(definitions.fetches) == ["ub-greet"]
    assert definitions.fetches["ub-greet"].description == "source of the package ub-greet"


def test_packages_of_a_project_are_no_kind(tmp_path: Path) -> None:
    """Only a Taskgraph tree has this kind."""
    files = {"fetch/all.yml": definition("a", "https://h/a", b"a"), "packages/all.yml": DEBIAN}
    assert list(load(written(tmp_path, files)).fetches) == ["a"]


def test_sources_without_a_size_are_fetched_by_their_digest(tmp_path: Path, origin: Origin) -> None:
    """The size is learned once; then everything works as with one, also offline."""
    repository = tree(tmp_path, origin.url, **{"dodo.py": DODO})
    environ = {"FETCHDEFS_DIR": "taskcluster/kinds"}
    names = ["fetch:deb-greet", "fetch:deb-tarball"]
    assert ran(doit(repository, *names, **environ)) == names
    assert sorted(origin.paths()) == sorted(ANSWERS)
    artifacts = repository / "build/artifacts"
    assert (artifacts / "deb-tarball/greet-1.0.tar").read_bytes() == SOURCE
    assert (artifacts / "deb-greet/deb-greet.tar.zst").exists()
    assert ran(doit(repository, *names, **environ)) == []
    assert ran(doit(repository, "extract:deb-tarball", FETCH_OFFLINE="1", **environ)) == ["extract:deb-tarball"]
    assert (repository / "build/extracted/deb-tarball/greet-1.0/greet.c").read_bytes() == b"int main;"
    facts = json.loads(doit(repository, "info", "--json", "deb-tarball", **environ).stdout)[0]
    assert (facts["size"], facts["sha256"]) == (len(SOURCE), hashlib.sha256(SOURCE).hexdigest())
    doit(repository, "prune", "--older-than=0s", **environ)
    assert ran(doit(repository, *names, FETCH_OFFLINE="1", **environ)) == []


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"x" * len(DSC), DSC + b"\n" * (5 << 20)])
def test_other_bytes_are_refused_without_a_size(tmp_path: Path, origin: Origin, content: bytes) -> None:
    """The digest suffices, and a .dsc has a limit."""
    origin.answers["/pool/greet_1.0-1.dsc"] = reply(content)
    done = doit(tree(tmp_path, origin.url, **{"dodo.py": DODO}), "fetch:deb-greet", FETCHDEFS_DIR=".")
    assert done.returncode == 1
    assert "/pool/greet_1.0-1.dsc" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.slow
def test_refused_packages_are_listed_with_their_reason(tmp_path: Path) -> None:
    """`doit list` shows them, and running one fails with the reason."""
    repository = tree(tmp_path, **{"dodo.py": DODO})
    listed = doit(repository, "list", "--all", FETCHDEFS_DIR=".").stdout
    assert "packages:deb-git" in listed and "has neither `dsc:` nor `tarball:`" in listed
    done = doit(repository, "packages:deb-git", FETCHDEFS_DIR=".")
    assert done.returncode == 1
    assert "has neither `dsc:` nor `tarball:`" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("dead", ["origin", "store"])
def test_a_store_has_sources_without_a_size(tmp_path: Path, origin: Origin, dead: str) -> None:
    """They are found there by their digest; a store that lost them is passed over."""
    (tmp_path / "store").mkdir()
    environ = {"FETCHDEFS_DIR": "taskcluster/kinds", "FETCH_STORE": (tmp_path / "store").as_uri()}
    names = ["fetch:deb-greet", "fetch:deb-tarball"]
    first, second = (tree(tmp_path / name, origin.url, **{"dodo.py": DODO}) for name in ("a", "b"))
    ran(doit(first, *names, FETCH_STORE_WRITE="always", **environ))
    if dead == "origin":
        origin.answers.clear()
    else:
        for one in (SOURCE, DSC, ORIG):
            (blob,) = (tmp_path / "store").rglob(hashlib.sha256(one).hexdigest())
            blob.write_bytes(b"x")
    assert ran(doit(second, *names, **environ)) == names
    assert (second / "build/artifacts/deb-tarball/greet-1.0.tar").read_bytes() == SOURCE
