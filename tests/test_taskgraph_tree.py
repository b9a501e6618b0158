"""A Taskgraph repository loads unchanged; definitions that cannot be built here are reported but do not interfere."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks_lib.definitions import Definitions, GpgSignature, StaticUrl
from tasks_lib.errors import DefinitionError
from tasks_lib.fs.fingerprint import RACY_NS
from tasks_lib.host import platform_name
from tasks_lib.incremental.definition_cache import DefinitionCache
from tasks_lib.incremental.definition_files import load
from tasks_lib.layout import find_layout
from tests.archives import Member, tar
from tests.origin import Origin, reply, serving
from tests.project import DODO, doit, ran, written
from tests.repositories import git

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
    "taskcluster/scripts/misc/build-gcc.sh": '#!/bin/sh\ncd fetches\ncat gmp-source/gmp.h asm/nasm/nasm.c > "$UPLOAD_DIR/gcc.txt"\n',
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


def test_a_mistake_refuses_its_definition(tree: Path) -> None:
    """A typo in a fetch would fetch something else: it refuses this fetch and what consumes it, and nothing else."""
    path = tree / "taskcluster/kinds/fetch/toolchains.yml"
    path.write_text(path.read_text().replace("strip-components", "strip-component"))
    found = loaded(tree)
    refused = {one.task: one for one in found.refused}
    one = refused["fetch:gmp-6.1.0"]
    assert (one.reason, one.hint) == ("unknown key 'fetch.strip-component'", "did you mean strip-components?")
    assert one.place.endswith("toolchains.yml:19")
    assert refused["toolchain:user"].reason == "it needs toolchain:linux64-gcc, which is refused"
    assert sorted(found.fetches) == ["cbindgen", "civet-source", "inline", "mapped", "nasm"]


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
    (repository / "dodo.py").write_text(DODO)
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


def small(tmp_path: Path, files: dict[str, str]) -> Path:
    """Return the root of a tree with these files below `taskcluster/`; `{sha}` is a digest."""
    return written(
        tmp_path / "repo", {f"taskcluster/{name}": text.replace("{sha}", SHA) for name, text in files.items()}
    )


def one_fetch(name: str, more: str = "") -> str:
    return f"{name}: {{description: d, fetch: {{type: static-url, url: 'https://h/{name}.bin', sha256: {SHA}, size: 3}}{more}}}\n"


def refusals(found: Definitions) -> dict[str, str]:
    return {one.task: one.reason for one in found.refused}


KIND = "loader: taskgraph.loader.transform:loader\ntransforms: [taskgraph.transforms.run:transforms]\n"
#: One toolchain each: its text below `t:` with a script, and the reason for its refusal, "" if it loads.
TOOLCHAINS = {
    "Taskcluster's keys": ("run: {run-task-command: [x], use-caches: [], sparse-profile: null, clone-with: hg}, worker-type: b, index: {x: y}, treeherder: {symbol: S}", ""),
    "unknown key": ("run: {foo: 1}", "unknown key 'run.foo'"),
    "unknown task key": ("matrix: {a: [1]}", "unknown key 'matrix'"),
    "its own alias": ("run: {toolchain-alias: t}", ""),
    "no alias": ("run: {toolchain-alias: null}", ""),
    "keyed alias": ("run: {toolchain-alias: {by-project: {x: null, default: {by-level: {default: [other]}}}}}", ""),
    "keyed alias without a default": ("run: {toolchain-alias: {by-project: {x: other}}}", ""),
    "alias of another": ("run: {toolchain-alias: tool}", "run.toolchain-alias: alias 'tool' is also the name of a definition"),
    "index-search": ("run: {using: index-search, index-search: [x]}", "index-search takes a task of another project from Taskcluster's index"),
    "other command": ("run: {using: mach}", "run.using: running with 'mach' is not supported"),
    "keyed value": ("run: {arguments: [{by-platform: {default: x}}]}", "run.arguments: the value depends on `by-platform`, which is unknown here"),
    "task-reference": ("worker: {env: {A: {task-reference: '<b>'}}}", "worker.env.A: the value is a `task-reference`: it needs a task that does not exist here"),
    "artifact-reference": ("run: {arguments: [{artifact-reference: '<b/x>'}]}", "run.arguments: the value is a `artifact-reference`: it needs a task that does not exist here"),
    "other dependency": ("dependencies: {p: packages-deb}", "dependencies.p: the task 'packages-deb' does not exist here"),
    "unknown dependency": ("dependencies: {p: toolchain-gone}", "dependencies: the task 'toolchain-gone' does not exist here"),
    "dependency": ("dependencies: {p: toolchain-tool, f: fetch-plain}", ""),
    "artifact of a dependency": ("dependencies: {p: toolchain-tool}, fetches: {p: [{artifact: tool.tar, extract: false}]}", ""),
    "no artifact of a dependency": ("dependencies: {p: toolchain-tool}, fetches: {p: [x.tar]}", "toolchain 'tool' has no artifact 'x.tar'"),
    "itself": ("fetches: {toolchain: [t]}, run: {toolchain-artifact: public/t.tar}", "fetches.toolchain: depends on itself: t -> t"),
    "no script": ("run: {script: gone.sh}", "the script 'gone.sh' does not exist"),
    "no resource": ("run: {resources: ['src/**/*.toml']}", "run.resources: the resource 'src/**/*.toml' matches no file"),
    "resources": ("run: {resources: [src, 'src/*.c', 'src/**', src/, src/a.c]}", ""),
    "our network": ("run: {network: false}", "`run.network` is not a key of Taskgraph"),
    "our pass-env": ("run: {pass-env: [CC]}", "`run.pass-env` is not a key of Taskgraph"),
    "environment": ("worker: {env: {A: 1}, max-run-time: 5}, run: {toolchain-env: {B: b}}", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", TOOLCHAINS)
def test_toolchains(case: str, tmp_path: Path) -> None:
    """What only Taskcluster uses is ignored; what does not exist here refuses its toolchain and names the key."""
    text, reason = TOOLCHAINS[case]
    root = small(
        tmp_path,
        {
            "kinds/fetch/kind.yml": KIND + "tasks:\n  " + one_fetch("plain", ", fetch-alias: plain"),
            "kinds/toolchain/kind.yml": f"{KIND}tasks:\n  tool:\n    description: d\n    run: {{script: x.sh, toolchain-artifact: public/build/tool.tar}}\n"
            "tasks-from: [t.yml]\n",
            "kinds/toolchain/t.yml": f"task-defaults: {{run: {{using: toolchain-script, script: x.sh}}}}\nt: {{description: d, {text}}}\n",
            "scripts/toolchain/x.sh": "#!/bin/sh\n",
        },
    )
    written(root, {"src/a.c": "a"})
    found = load(root)
    assert refusals(found) == ({"toolchain:t": reason} if reason else {})
    assert ("t" in found.toolchains) == (not reason)
    assert "tool" in found.toolchains
    assert "plain" in found.fetches


def test_what_a_toolchain_keeps(tmp_path: Path) -> None:
    """Environment, arguments, dependencies and ignored keys become part of the definition."""
    root = small(
        tmp_path,
        {
            "kinds/fetch/kind.yml": KIND + "tasks:\n  " + one_fetch("plain"),
            "kinds/toolchain/kind.yml": KIND
            + """
task-defaults: {worker: {env: {A: zero, C: c}}, run: {env: {A: never}}}
tasks:
  t:
    description: d
    dependencies: {f: fetch-plain, again: fetch-plain}
    worker-type: b-linux
    worker: {env: {A: 1}, max-run-time: 5}
    run: {script: x.sh, arguments: ["1", x], toolchain-env: {B: b}, sparse-profile: null, toolchain-alias: {by-project: {default: u}}}
""",
            "scripts/toolchain/x.sh": "#!/bin/sh\n",
        },
    )
    toolchain = load(root).toolchain("u")
    assert toolchain.run is not None
    assert toolchain.run.env == (("A", "1"), ("C", "c"))
    assert toolchain.run.toolchain_env == (("B", "b"),)
    assert toolchain.run.arguments == ("1", "x")
    assert toolchain.dependencies == (("fetch", "plain"),)
    assert toolchain.root == str(root)
    assert toolchain.ignored == ("run.sparse-profile", "worker.max-run-time", "run.toolchain-alias.by-project (its default is used)")  # fmt: skip


def test_kinds_and_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A foreign loader or key refuses its kind, a broken or missing file its definitions; all others load."""
    root = small(
        tmp_path,
        {
            "kinds/fetch/kind.yml": "tasks-from: [good.yml, broken.yml, gone.yml, text.yml]\ntasks:\n  runs: {description: d, run: {command: x}}\n",
            "kinds/fetch/good.yml": one_fetch("good")
            + one_fetch("bad/name")
            + one_fetch("twice")
            + "".join(one_fetch("said").splitlines())
            + "\n"
            + one_fetch("said"),
            "kinds/fetch/broken.yml": one_fetch("first") + "second: [\n",
            "kinds/fetch/text.yml": "just text\n",
            "kinds/toolchain/kind.yml": "loader: product.loader:loader\nreference-tasks: [a]\ntasks-from: [own.yml]\n",
            "kinds/toolchain/own.yml": "own: {description: d}\n",
        },
    )
    (root / "taskcluster/kinds/fetch/good.yml").write_text(
        one_fetch("good") + one_fetch("bad/name") + one_fetch("good2")
    )
    found = load(root / "taskcluster")
    assert sorted(found.fetches) == ["good", "good2"]
    assert refusals(found) == {
        "fetch:runs": "`run:` executes a command, but only `fetch:` declares content",
        "kind:fetch/good.yml": "invalid name 'bad/name'",
        "kind:fetch/broken.yml": "invalid YAML: did not find expected node content, column 1",
        "fetch:first": "invalid YAML: did not find expected node content, column 1",
        "fetch:second": "invalid YAML: did not find expected node content, column 1",
        "kind:fetch/text.yml": "must be a mapping of names",
        "kind:fetch/gone.yml": "cannot be read: No such file or directory",
        "kind:toolchain": "the loader 'product.loader:loader' is not supported",
        "toolchain:own": "its kind is refused: the loader 'product.loader:loader' is not supported",
    }  # fmt: skip
    (root / "taskcluster/kinds/toolchain/kind.yml").write_text("job-template: {}\n")
    assert refusals(load(root))["kind:toolchain"] == "unknown key 'job-template'"


def test_names_in_conflict(tmp_path: Path) -> None:
    """A name that two files define is refused, and so is an alias of another definition; a repeated key is Taskgraph's last."""
    root = small(
        tmp_path,
        {
            "ci/fetch/kind.yml": "jobs-from: [a.yml, b.yml]\n",
            "ci/fetch/a.yml": one_fetch("same")
            + one_fetch("plain", ", fetch-alias: plain")
            + one_fetch("one", ", fetch-alias: plain"),
            "ci/fetch/b.yml": one_fetch("same")
            + one_fetch("last").replace("size: 3", "size: 2, size: 3, project-key: x"),
        },
    )
    found = load(root)
    assert sorted(found.fetches) == ["last", "plain"]
    assert found.fetches["last"].source.integrity.size == 3  # type: ignore[union-attr]
    assert found.fetches["last"].ignored == ("fetch.project-key",)
    assert refusals(found) == {
        "fetch:same": "is defined twice",
        "fetch:one": "fetch-alias: alias 'plain' is also the name of a definition",
    }


@pytest.mark.parametrize(
    "given",
    ["", "taskcluster", "taskcluster/kinds", "taskcluster/kinds/fetch/kind.yml", "taskcluster/kinds/fetch/more.yml"],
)
def test_what_fetchdefs_may_be(given: str, tmp_path: Path) -> None:
    """The root, `taskcluster`, its kinds, one kind.yml or one file; a file has the defaults of its kind."""
    root = small(
        tmp_path,
        {
            "kinds/fetch/kind.yml": "task-defaults: {description: of the kind}\ntasks-from: [more.yml]\ntasks:\n  "
            + one_fetch("own"),
            "kinds/fetch/more.yml": one_fetch("more").replace("description: d, ", ""),
        },
    )
    layout = find_layout(root / given)
    assert layout.note == (
        "" if given.endswith(("kinds", ".yml")) else f"fetchdefs={root / given}: using {root}/taskcluster/kinds"
    )
    found = load(root / given)
    assert sorted(found.fetches) == (["more"] if given.endswith("more.yml") else ["more", "own"])
    assert found.fetches["more"].description == "of the kind"
    assert layout.root == str(root)


def test_a_file_alone(tmp_path: Path) -> None:
    """A file outside of a tree defines fetches, or the kind that its directory is named after."""
    written(tmp_path, {"defs.yml": one_fetch("a"), "toolchain/t.yml": "t: {description: d}\n"})
    assert list(load(tmp_path / "defs.yml").fetches) == ["a"]
    assert list(load(tmp_path / "toolchain/t.yml").toolchains) == ["t"]


def test_a_nested_tree(tmp_path: Path) -> None:
    """Scripts, resources and keys of a tree inside of another repository are looked for from `topsrcdir`."""
    files = {
        "comm/taskcluster/kinds/toolchain/kind.yml": "tasks:\n  t: {description: d, run: {script: x.sh, resources: [top.txt]}}\n",
        "taskcluster/scripts/misc/x.sh": "#!/bin/sh\n",
        "top.txt": "x",
    }
    written(tmp_path, files)
    assert refusals(load(tmp_path / "comm"))["toolchain:t"] == "the script 'x.sh' does not exist"
    toolchain = load(tmp_path / "comm", topsrcdir=str(tmp_path)).toolchain("t")
    assert toolchain.run is not None
    assert [one.path for one in toolchain.run.files] == [
        f"{tmp_path}/top.txt",
        f"{tmp_path}/taskcluster/scripts/misc/x.sh",
    ]
    assert toolchain.root == str(tmp_path)


def test_a_refusal_ends_when_the_file_exists(tmp_path: Path) -> None:
    """A missing script or resource is noticed when it appears, although no definition changed."""
    text = "tasks:\n  t: {description: d, run: {script: x.sh, resources: ['src/*.c']}}\n"
    root = small(tmp_path, {"kinds/toolchain/kind.yml": text})
    cache = DefinitionCache(tmp_path / "kept", "code")
    time.sleep(2 * RACY_NS / 1e9)
    assert "toolchain:t" in refusals(load(root, cache))
    written(root, {"taskcluster/scripts/misc/x.sh": ""})
    assert "resources" in refusals(load(root, cache))["toolchain:t"]
    written(root, {"src/a.c": ""})
    assert list(load(root, cache).toolchains) == ["t"]
    assert list(load(root, cache).toolchains) == ["t"]


def test_resources_of_a_checkout(tmp_path: Path) -> None:
    """Directories and patterns are the tracked files: a change of their names or contents rebuilds, and nothing else does."""
    root = small(
        tmp_path,
        {
            "kinds/toolchain/kind.yml": """
tasks:
  tool:
    description: d
    worker: {env: {A: one}}
    run: {script: x.sh, resources: [src/, "**/*.toml"], toolchain-artifact: public/tool.txt, foo-bar: 1}
  used:
    description: d
    dependencies: {p: toolchain-kit}
    run: {script: x.sh, arguments: [x], resources: [src], toolchain-artifact: public/tool.txt, sparse-profile: null}
    worker: {env: {A: one}}
  kit: {description: d}
""",
            "scripts/toolchain/x.sh": '#!/bin/sh\necho $A $1 > "$UPLOAD_DIR/tool.txt"\n',
        },
    )
    written(root, {"src/a.c": "a", "src/deep/b.c": "b", "Cargo.toml": "c", "other.txt": "o"})
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "one"]):
        git(root, *words)
    user = written(tmp_path / "user", {"dodo.py": DODO})
    listed = doit(user, "fetchdefs=../repo", "list").stdout
    assert "note: fetchdefs=../repo: using ../repo/taskcluster/kinds" in listed
    assert (
        "toolchain:tool   refused: unknown key 'run.foo-bar' (../repo/taskcluster/kinds/toolchain/kind.yml:6; known: arg"
        in listed
    )
    assert ran(doit(user, "fetchdefs=../repo")) == ["toolchain:kit", "toolchain:used"]
    assert (user / "build/used/artifacts/tool.txt").read_text() == "one x\n"
    assert ran(doit(user, "fetchdefs=../repo")) == []
    changes: list[tuple[str, str, str, list[str]]] = [
        ("untracked", "src/new.c", "n", []),
        ("not a resource", "other.txt", "2", []),
        ("content", "src/deep/b.c", "2", ["toolchain:used"]),
        ("add", "src/new.c", "n", ["toolchain:used"]),
    ]
    for change, name, text, expected in changes:
        written(root, {name: text})
        if change == "add":
            git(root, "add", "-A")
        assert ran(doit(user, "fetchdefs=../repo")) == expected, change
    info = doit(user, "fetchdefs=../repo", "info", "toolchain:used").stdout
    assert "ignored    : \n - run.sparse-profile\n" in info
    assert "index      : unknown: its kind does not use cached_tasks\n" in info
    assert "task_dep   : \n - toolchain:kit\n" in info
    assert doit(user, "fetchdefs=../repo", "toolchain:tool").stdout.count("unknown key 'run.foo-bar'") == 1


def test_resources_outside_of_a_checkout(tmp_path: Path) -> None:
    """Without version control all files count, and a new one rebuilds."""
    files = {
        "dodo.py": DODO,
        "fetchdefs/toolchain/t.yml": "t: {description: d, run: {command: 'ls ../../../src > $UPLOAD_DIR/o', resources: ['../../src/'], toolchain-artifact: o}}\n",
        "src/a": "",
    }
    written(tmp_path, files)
    assert ran(doit(tmp_path)) == ["toolchain:t"]
    assert ran(doit(tmp_path)) == []
    written(tmp_path, {"src/deep/b": ""})
    assert ran(doit(tmp_path)) == ["toolchain:t"]
    written(tmp_path, {"src/deep/c": ""})
    assert ran(doit(tmp_path)) == ["toolchain:t"]


def test_info_of_a_fetch(tmp_path: Path) -> None:
    """`doit info` shows the path in Taskcluster's index, and the equivalent command without the values of headers."""
    root = small(
        tmp_path,
        {
            "config.yml": "trust-domain: dom\n",
            "kinds/fetch/kind.yml": "tasks:\n  " + one_fetch("a").replace("size: 3", "size: 3, headers: {X: secret}"),
        },
    )
    written(tmp_path, {"dodo.py": DODO, "fetchdefs/fetch/a.yml": one_fetch("a")})
    digest = hashlib.sha256(f"--sha256\n{SHA}\n--size\n3\na.bin".encode()).hexdigest()
    info = doit(tmp_path, f"fetchdefs={root}", "level=1", "info", "fetch:a").stdout
    assert f"index      : dom.cache.level-1.content.v1.a.hash.{digest}\n" in info
    assert (
        f"fetch-content: fetch-content static-url --sha256 {SHA} --size 3 -H 'X: VALUE' https://h/a.bin a.bin\n" in info
    )
    assert (
        "index      : unknown: no taskcluster/config.yml sets a trust-domain\n"
        in doit(tmp_path, "info", "fetch:a").stdout
    )


def test_ftp_and_null(tmp_path: Path) -> None:
    """What Taskgraph accepts loads with its digest: an ftp origin, which only mirrors serve, and null for no value."""
    with serving({"/a.bin": reply(NASM)}) as mirror:
        text = one_fetch("a").replace("https://h", "ftp://ftp.h/pub").replace(SHA, hashlib.sha256(NASM).hexdigest())
        text = text.replace("size: 3", f"size: {len(NASM)}, artifact-name: null, headers: ~")
        root = small(tmp_path, {"kinds/fetch/kind.yml": "tasks:\n  " + text})
        user = written(tmp_path / "user", {"dodo.py": DODO})
        done = doit(user, f"fetchdefs={root}", "fetch:a")
        assert done.returncode == 1
        assert "ftp is not supported: add a mirror or a rule to mirrors.yml" in done.stdout
        rule = f"rewrite: [{{match: 'ftp://ftp.h/pub/(.*)', to: '{mirror.url}/\\1'}}]\n"
        written(user, {"fetchdefs/mirrors.yml": rule})
        assert ran(doit(user, f"fetchdefs={root}", "fetch:a")) == ["fetch:a"]


#: A tree with a script that writes down what it sees; PATH of the script below is that of Gecko.
SCRIPT = """#!/bin/sh
set -e
[ "$PWD" = "$TASK_WORKDIR" ] && [ "$MOZ_FETCHES_DIR" = "$TASK_WORKDIR/fetches" ]
{
  cat "$VCS_PATH/requirements.txt" "$VCS_PATH"/patches/*.patch vcs/requirements.txt
  echo "$A $LEVEL $KIT ${GECKO_PATH:-no} $TOOLCHAIN_ARTIFACT $FETCHDEFS_DIR$FETCH_DURABILITY$SECRET"
  ls -d "$MOZ_FETCHES_DIR/kit" "$VCS_PATH"/*.txt | sed "s|$TASK_WORKDIR/||"
} > "$UPLOAD_DIR/used.txt"
"""
TOOLS = """
tasks:
  kit:
    description: d
    run:
      using: toolchain-script
      script: kit.sh
      toolchain-artifact: public/build/kit.tar
      toolchain-alias: the-kit
      toolchain-env: {KIT: from-kit, A: from-kit}
  used:
    description: d
    worker: {env: {A: one, LEVEL: 3}}
    fetches: {toolchain: [the-kit]}
    run:
      using: toolchain-script
      script: used.sh
      resources: [requirements.txt, patches/*.patch]
      toolchain-artifact: public/build/used.txt
"""


def test_a_script_finds_what_run_task_gives_it(tmp_path: Path) -> None:
    """A script finds the checkout, its fetches and its variables; it runs again if a file or variable changes, only then."""
    kit = '#!/bin/sh\nmkdir kit; tar cf "$UPLOAD_DIR/kit.tar" kit\n'
    files = {
        "config.yml": "trust-domain: small\n",
        "kinds/toolchain/kind.yml": TOOLS,
        "scripts/toolchain/kit.sh": kit,
        "scripts/toolchain/used.sh": SCRIPT,
    }
    root = written(small(tmp_path, files), {"requirements.txt": "r1\n", "patches/a.patch": "a1\n", "other.txt": ""})
    user = written(tmp_path / "user", {"dodo.py": DODO})

    def again() -> list[str]:
        return ran(doit(user, "fetchdefs=../repo", SECRET="s3cret"))

    assert again() == ["extract:used/kit", "toolchain:kit", "toolchain:used"]
    output, kind = user / "build/used/artifacts/used.txt", root / "taskcluster/kinds/toolchain/kind.yml"
    listed = "fetches/kit\nvcs/other.txt\nvcs/requirements.txt\n"
    assert output.read_text() == f"r1\na1\nr1\none 3 from-kit no public/build/used.txt \n{listed}"
    assert (user / "build/used/attempt-1/vcs").resolve() == root
    assert again() == []
    for name, text in (("other.txt", "x"), ("patches/read.me", "x"), ("taskcluster/config.yml", "trust-domain: x\n")):
        written(root, {name: text})
        assert again() == [], name
    changes: list[tuple[Path, str, str, list[str]]] = [
        (root / "requirements.txt", "r1", "r2", ["toolchain:used"]),
        (root / "patches/b.patch", "", "b1\n", ["toolchain:used"]),
        (kind, "LEVEL: 3", "LEVEL: 4", ["toolchain:used"]),
        (kind, "KIT: from-kit", "KIT: of-kit", ["toolchain:used"]),
        (root / "requirements.txt", "r2", "r1", ["toolchain:used"]),
    ]
    for path, before, after, expected in changes:
        path.write_text(path.read_text().replace(before, after) if before else after)
        assert again() == expected, (path, after)
    assert output.read_text() == f"r1\na1\nb1\nr1\none 4 of-kit no public/build/used.txt \n{listed}"
    info = doit(user, "fetchdefs=../repo", "info", "toolchain:used").stdout
    assert f"platform   : {platform_name()}\n" in info
    assert (
        " - A=one\n" in info
        and " - KIT=of-kit\n" in info
        and " - PATH\n" in info
        and " - VCS_PATH\n" in info
        and "SECRET" not in info
    )
    shutil.rmtree(user / "build")
    uploads = len(list(user.glob("cache/artifacts/used/*")))
    assert again() == ["extract:used/kit", "toolchain:kit", "toolchain:used"]  # adopted: the command does not run
    assert not list(user.glob("build/used/attempt-*"))
    assert len(list(user.glob("cache/artifacts/used/*"))) == uploads


@pytest.mark.parametrize(
    ("domain", "transforms"), [("gecko", "taskgraph.transforms.task"), ("x", "gecko_taskgraph.transforms.job")]
)
def test_gecko_path(domain: str, transforms: str, tmp_path: Path) -> None:
    """Scripts of Gecko find the checkout as GECKO_PATH, too."""
    kind = f"transforms: ['{transforms}:transforms']\n{TOOLS[: TOOLS.index('  used')]}"
    script = '#!/bin/sh\n[ "$GECKO_PATH" = "$VCS_PATH" ] && echo y > "$UPLOAD_DIR/kit.tar"\n'
    files = {"config.yml": f"trust-domain: {domain}\n", "kinds/toolchain/kind.yml": kind, "scripts/misc/kit.sh": script}
    small(tmp_path, files)
    user = written(tmp_path / "user", {"dodo.py": DODO})
    assert ran(doit(user, "fetchdefs=../repo")) == ["toolchain:kit"]
