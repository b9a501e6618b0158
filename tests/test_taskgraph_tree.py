"""A Taskgraph repository loads unchanged; definitions that cannot be built here are reported but do not interfere."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks_lib.definitions import Definitions, GpgSignature, StaticUrl
from tasks_lib.errors import DefinitionError
from tasks_lib.incremental.definition_files import load
from tests.archives import Member, tar
from tests.origin import Origin, reply, serving
from tests.project import PORCH, doit, ran

GMP = tar([Member("gmp-6.1.0/"), Member("gmp-6.1.0/gmp.h", b"gmp")])
NASM = tar([Member("nasm/nasm.c", b"nasm")])
SHA = "ab" * 32
#: Written by hand after the facts of Gecko's and of small projects' trees: every kind of file, dialect and key.
TREE = {
    "taskcluster/config.yml": "trust-domain: gecko\n",
    "taskcluster/kinds/fetch/kind.yml": """---
loader: taskgraph.loader.transform:loader
kind-dependencies:
  - docker-image
transforms:
  - gecko_taskgraph.transforms.try_job:transforms
  - taskgraph.transforms.fetch:transforms
  - taskgraph.transforms.task:transforms
task-defaults:
  docker-image: {in-tree: fetch}
  run-on-repo-type: [git, hg]
tasks-from:
  - toolchains.yml
  - sub/chromium.yml
tasks:
  inline:
    description: defined in kind.yml
    fetch: {type: static-url, url: "https://h/inline.bin", sha256: SHA, size: 3}
""",
    "taskcluster/kinds/fetch/toolchains.yml": """---
job-defaults:
  attributes:
    local-fetch: true
gmp-6.1.0:
  description: GMP 6.1.0 source code
  fetch-alias: gmp
  artifact-prefix: public/build
  expires-after: 1 year
  treeherder:
    symbol: gmp
  fetch:
    type: static-url
    url: ORIGIN/gmp-6.1.0.tar
    gpg-signature:
      sig-url: "{url}.sig"
      key-path: build/unix/build-gcc/343C2FF0FBEE5EC2EDBEF399F3599FF828C67298.key
    artifact-name: gmp-source.tar.zst
    strip-components: 1
    add-prefix: gmp-source/
    sha256: GMP_SHA
    size: GMP_SIZE
nasm:
  description: with headers as a list
  fetch:
    type: static-url
    url: ORIGIN/nasm.tar
    headers:
      - "Accept: text/html:x"
      - "X-Other: y"
    sha256: NASM_SHA
    size: NASM_SIZE
mapped:
  description: with headers as a map
  fetch: {type: static-url, url: "https://h/x", headers: {Accept: "a:b"}, sha256: SHA, size: 3}
cbindgen:
  description: a commit
  fetch:
    type: git
    repo: https://github.com/mozilla/cbindgen
    revision: 8d7e3bd79d6c1b8b4bd5a5b5b5c5b5b5b5b5b5b5
    fetch-mode: clone
civet-source:
  description: a private one
  artifact-prefix: project/civet
  fetch:
    type: git
    repo: git@github.com:mozilla-services/civet.git
    revision: 8d7e3bd79d6c1b8b4bd5a5b5b5c5b5b5b5b5b5b6
    ssh-key: project/civet/github-deploy-key
    include-dot-git: true
""",
    "taskcluster/kinds/fetch/sub/chromium.yml": """
linux64-chromium:
  description: Linux64 Chromium
  attributes: {cached_task: false}
  fetch:
    type: chromium-fetch
    script: fetch-chromium.py
    platform: linux
    artifact-name: chromium-linux.tar.bz2
artifacts: {description: a reserved name, fetch: {type: static-url, url: "https://h/x", sha256: SHA, size: 3}}
clang-trunk:
  description: a branch
  attributes: {cached_task: false}
  fetch: {type: git, repo: "https://github.com/llvm/llvm-project", branch: main}
""",
    "taskcluster/kinds/fetch/unlisted.yml": "not: [read at all\n",
    "taskcluster/kinds/docker-image/kind.yml": "tasks: {fetch: {symbol: I(f)}}\n",
    "taskcluster/kinds/toolchain/kind.yml": """---
loader: taskgraph.loader.transform:loader
kind-dependencies: [fetch, docker-image]
transforms: [gecko_taskgraph.transforms.job:transforms]
task-defaults:
  run-on-projects: []
  worker-type: b-linux
  worker: {max-run-time: 3600, docker-image: {in-tree: toolchain-build}}
  run: {using: toolchain-script}
tasks-from: [gcc.yml]
""",
    "taskcluster/kinds/toolchain/gcc.yml": """
linux64-gcc:
  description: "GCC toolchain build"
  treeherder: {symbol: TL(gcc), platform: toolchains/opt, tier: 1}
  use-python: default
  run:
    script: build-gcc.sh
    arguments: ["8"]
    resources: [build/unix/build-gcc/build-gcc.sh]
    toolchain-alias: linux64-gcc-alias
    toolchain-artifact: public/build/gcc.txt
    sparse-profile: null
  fetches:
    fetch: [gmp, {artifact: nasm, dest: asm}]
user:
  description: takes it by its alias
  fetches: {toolchain: [linux64-gcc-alias]}
by-platform:
  description: keyed
  run: {script: x.sh, toolchain-artifact: {by-build-platform: {default: public/build/x.tar}}}
needs-build:
  description: artifacts of another kind
  run: {script: x.sh, toolchain-artifact: public/build/nb.tar}
  fetches: {build: [target.tar.bz2]}
needs-chromium:
  description: a refused fetch
  run: {script: x.sh, toolchain-artifact: public/build/nc.tar}
  fetches: {fetch: [linux64-chromium]}
needs-the-user:
  description: a refused toolchain
  fetches: {toolchain: [needs-chromium]}
""",
    "taskcluster/scripts/misc/build-gcc.sh": '#!/bin/sh\ncat gmp-source/gmp.h asm/nasm/nasm.c > "$UPLOAD_DIR/gcc.txt"\n',
    "build/unix/build-gcc/build-gcc.sh": "# more of it\n",
}


@pytest.fixture
def origin() -> Iterator[Origin]:
    with serving({"/gmp-6.1.0.tar": reply(GMP), "/nasm.tar": reply(NASM)}) as one:
        yield one


@pytest.fixture
def tree(tmp_path: Path, origin: Origin) -> Path:
    """Return the root of a repository in Gecko's shape."""
    words = {
        "ORIGIN": origin.url, "GMP_SHA": hashlib.sha256(GMP).hexdigest(), "GMP_SIZE": str(len(GMP)),
        "NASM_SHA": hashlib.sha256(NASM).hexdigest(), "NASM_SIZE": str(len(NASM)), "SHA": SHA,
    }  # fmt: skip
    for name, text in TREE.items():
        for word, value in words.items():
            text = text.replace(word, value)
        path = tmp_path / "gecko" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "gecko/taskcluster/scripts/misc/build-gcc.sh").chmod(0o755)
    return tmp_path / "gecko"


def loaded(tree: Path) -> Definitions:
    return load(tree / "taskcluster/kinds")


def test_what_loads(tree: Path) -> None:
    """kind.yml's own tasks and the listed files load, both header dialects, keys from the repository's root."""
    found = loaded(tree)
    assert sorted(found.fetches) == ["cbindgen", "civet-source", "gmp-6.1.0", "inline", "mapped", "nasm"]
    gmp = found.fetch("gmp")
    assert isinstance(gmp.source, StaticUrl)
    assert isinstance(gmp.source.gpg_signature, GpgSignature)
    assert gmp.source.gpg_signature.key_file == f"{tree}/{gmp.source.gpg_signature.key_path}"
    assert gmp.artifact_prefix == "public/build"
    assert gmp.ignored == ("docker-image", "run-on-repo-type", "attributes", "expires-after", "treeherder")
    headers = [one.source.headers for one in map(found.fetch, ("nasm", "mapped")) if isinstance(one.source, StaticUrl)]
    assert headers == [(("Accept", "text/html:x"), ("X-Other", "y")), (("Accept", "a:b"),)]
    run = found.toolchain("linux64-gcc-alias").run
    assert run is not None
    assert run.script is not None
    assert run.script.path == f"{tree}/taskcluster/scripts/misc/build-gcc.sh"
    assert [one.path for one in run.resources] == [f"{tree}/build/unix/build-gcc/build-gcc.sh"]


def test_what_is_refused(tree: Path) -> None:
    """Definitions that run Mozilla's scripts, are not pinned, or need such ones are refused by name, with the reason."""
    reasons = {one.task: one.reason for one in loaded(tree).refused}
    assert sorted(reasons) == [
        "fetch:artifacts", "fetch:clang-trunk", "fetch:linux64-chromium", "toolchain:by-platform",
        "toolchain:needs-build", "toolchain:needs-chromium", "toolchain:needs-the-user",
    ]  # fmt: skip
    assert reasons["fetch:linux64-chromium"].startswith("the type 'chromium-fetch' is not supported: it runs a script")
    assert "a branch moves" in reasons["fetch:clang-trunk"]
    assert "the name 'artifacts' is reserved" in reasons["fetch:artifacts"]
    assert reasons["toolchain:needs-build"] == "fetches of the kind 'build' are not supported"
    assert reasons["toolchain:needs-chromium"] == "it needs fetch:linux64-chromium, which is refused"
    assert reasons["toolchain:needs-the-user"] == "it needs toolchain:needs-chromium, which is refused"


def test_scripts_of_a_small_project(tree: Path) -> None:
    """A project that is not Gecko keeps its scripts in taskcluster/scripts/toolchain."""
    (tree / "taskcluster/scripts/misc").rename(tree / "taskcluster/scripts/toolchain")
    run = loaded(tree).toolchain("linux64-gcc").run
    assert run is not None
    assert run.script is not None
    assert run.script.path == f"{tree}/taskcluster/scripts/toolchain/build-gcc.sh"


def test_mistakes_of_a_fetch_are_told(tree: Path) -> None:
    """A typo in a fetch is an error in a tree too, since it would fetch something else."""
    path = tree / "taskcluster/kinds/fetch/toolchains.yml"
    path.write_text(path.read_text().replace("strip-components", "strip-component"))
    with pytest.raises(DefinitionError, match="strip-component: unknown key: did you mean strip-components"):
        loaded(tree)


def test_elsewhere_a_refused_type_is_an_error(tmp_path: Path) -> None:
    """Outside a Taskgraph tree a refused type of definition is an error."""
    (tmp_path / "fetch").mkdir()
    (tmp_path / "fetch/x.yml").write_text(TREE["taskcluster/kinds/fetch/sub/chromium.yml"])
    with pytest.raises(DefinitionError, match="the type 'chromium-fetch' is not supported: it runs a script"):
        load(tmp_path)


def test_with_doit(tree: Path, tmp_path: Path) -> None:
    """A toolchain of the tree is built from its fetches; a refused one says why, when requested."""
    path = tree / "taskcluster/kinds/fetch/toolchains.yml"
    text = path.read_text()
    path.write_text(text[: text.index("    gpg-signature")] + text[text.index("    artifact-name: gmp") :])
    repository = tmp_path / "user"
    repository.mkdir()
    (repository / "dodo.py").write_text(PORCH)
    where = "fetchdefs=../gecko/taskcluster/kinds"
    made = ran(doit(repository, where, "toolchain:user"))
    assert made == sorted(
        ["fetch:gmp-6.1.0", "fetch:nasm", "repack:gmp-6.1.0", "extract:linux64-gcc/gmp-6.1.0"]
        + ["extract:linux64-gcc/nasm", "toolchain:linux64-gcc", "extract:user/linux64-gcc", "toolchain:user"]
    )
    assert (repository / "build/linux64-gcc/artifacts/gcc.txt").read_bytes() == b"gmpnasm"
    done = doit(repository, where, "fetch:linux64-chromium")
    assert done.returncode == 1
    assert "fetch:linux64-chromium: the type 'chromium-fetch' is not supported: it runs a script" in done.stdout
    assert "Traceback" not in done.stdout
    offline = doit(repository, where, "offline=1", "fetch:linux64-chromium").stdout
    assert "is not supported: it runs a script" in offline
    assert "Traceback" not in offline
    listed = doit(repository, where, "list").stdout
    assert "refused: fetches of the kind 'build' are not supported" in listed
    info = doit(repository, where, "info", "fetch:nasm").stdout
    assert "run-on-repo-type" in info
