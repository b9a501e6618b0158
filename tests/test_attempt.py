"""Attempts to run a toolchain's command: killed runs, processes that a command leaves, and inputs that change."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tasks_lib.errors import ToolError
from tasks_lib.fs.locks import locked
from tasks_lib.fs.processes import is_running
from tasks_lib.fs.system_calls import FEATURES
from tasks_lib.host import isolate_network
from tasks_lib.progress import Silent
from tests.project import CLEAN, DODO, PYTHONPATH, definition, doit, ran, written

KIT = "kit: {description: k, run: {script: make.sh, toolchain-artifact: out}}\n"
#: Appends to its output before and after it reads a line from `gate`; `pid` says that it has begun.
WORK = """echo 1 >> "$UPLOAD_DIR/out"
echo $$ > "$HERE/pid.new" && mv "$HERE/pid.new" "$HERE/pid"
read line < "$HERE/gate"
echo 2 >> "$UPLOAD_DIR/out"
"""
HOLDS_THE_LOCK = f"#!/bin/sh\n{WORK}"
GIVES_IT_UP = (
    f"#!{sys.executable}\nimport os\nos.closerange(3, 4096)\nif os.fork():\n    os.wait()\nelse:\n    os.setsid()\n"
    f"    os.execvp('sh', ['sh', '-c', {WORK!r}])\n"
)
#: Without /proc, only the processes of the command's process group are found, and a holder of a lock has no name.
needs_proc = pytest.mark.skipif(not FEATURES.proc, reason="the system does not report processes in /proc")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a repository with one toolchain, whose script is missing."""
    os.mkfifo(tmp_path / "gate")
    return written(tmp_path, {"dodo.py": DODO, "fetchdefs/toolchain/kit.yml": KIT})


def wait_for(condition: Callable[[], object]) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("nothing happened for a minute")


def start(repository: Path) -> subprocess.Popen[bytes]:
    environ = {**CLEAN, "FETCH_DURABILITY": "fast", "PYTHONPATH": PYTHONPATH}
    environ |= {"HERE": str(repository), "FETCH_PASS_ENV": "HERE"}
    with (repository / "said").open("wb") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "doit"], cwd=repository, env=environ, stdout=said, stderr=subprocess.STDOUT
        )


def output(repository: Path) -> str:
    (path,) = repository.glob("cache/artifacts/kit/*/out")
    return path.read_text()


def test_a_command_that_outlives_a_killed_run(repository: Path) -> None:
    """The next run waits for the command and names it; only the output of its own command is kept."""
    written(repository, {"fetchdefs/toolchain/make.sh": HOLDS_THE_LOCK})
    said, pid, gate = repository / "said", repository / "pid", repository / "gate"
    with start(repository) as killed:
        wait_for(pid.exists)
        killed.kill()
    first = pid.read_text().strip()
    named = f"{first} (make.sh)" if FEATURES.proc else str(killed.pid)
    with start(repository) as again:
        wait_for(lambda: f"waiting for process {named}" in said.read_text())
        gate.write_text("go\n")
        wait_for(lambda: pid.read_text().strip() != first)
        gate.write_text("go\n")
    assert again.returncode == 0, said.read_text()
    assert output(repository) == "1\n2\n"
    assert (repository / "build/kit/artifacts").resolve().name == "artifacts-2"
    assert [path.name for path in repository.glob("build/kit/attempt-*")] == ["attempt-2"]
    shutil.rmtree(repository / "build")
    assert ran(doit(repository, HERE=str(repository), FETCH_PASS_ENV="HERE")) == ["toolchain:kit"]
    assert output(repository) == "1\n2\n"


@needs_proc
def test_a_command_that_gives_up_the_lock(repository: Path) -> None:
    """A command of a killed run that closed its descriptors and left its session is ended and named by the next run."""
    written(repository, {"fetchdefs/toolchain/make.sh": GIVES_IT_UP})
    said, pid, gate = repository / "said", repository / "pid", repository / "gate"
    with start(repository) as killed:
        wait_for(pid.exists)
        killed.kill()
    first = pid.read_text().strip()
    written(repository, {"fetchdefs/toolchain/make.sh": HOLDS_THE_LOCK})  # the key differs, not the directory
    with start(repository) as again:
        wait_for(lambda: pid.read_text().strip() != first)
        gate.write_text("go\n")
    text = said.read_text()
    assert again.returncode == 0, text
    assert re.search(rf"ended processes that an interrupted run of kit left: .*{first} \(sh\)", text), text
    assert output(repository) == "1\n2\n"
    assert not is_running(int(first))


@needs_proc
def test_processes_that_a_command_leaves(repository: Path) -> None:
    """They are ended and named, however they left; the directory is used again afterwards."""
    script = (
        '#!/bin/sh\nleave() { "$@" & echo $! >> "$UPLOAD_DIR/out"; }\nsleep=$(command -v sleep)\n'
        'leave sleep 1000\nleave setsid sleep 1001\nleave env -i "$(command -v setsid)" "$sleep" 1002\n'
        "leave sh -c 'trap \"\" TERM; sleep 1003; sleep 1003'\nsleep 0.2\n"
    )
    written(repository, {"fetchdefs/toolchain/make.sh": script})
    done = doit(repository)
    assert done.returncode == 0, done.stdout
    left = output(repository).split()
    (line,) = [line for line in done.stdout.splitlines() if "ended processes that the command of kit left" in line]
    assert len(left) == 4 and all(f"{process} (" in line for process in left), (left, line)
    assert not any(is_running(int(process)) for process in left)
    written(repository, {"fetchdefs/toolchain/make.sh": '#!/bin/sh\npwd > "$UPLOAD_DIR/out"\n'})
    done = doit(repository)
    assert ran(done) == ["toolchain:kit"] and "ended processes" not in done.stdout
    kept = max(repository.glob("cache/artifacts/kit/*/out"), key=lambda path: path.stat().st_ctime_ns)
    assert kept.read_text() == f"{repository}/build/kit/fetches-1\n"


#: Name of a toolchain -> which file changes, and what its command does; `before` is changed by another toolchain.
CHANGING = {
    "script": ("script.sh", "echo '# more' >> \"$0\""),
    "resource": ("resource.data", "touch resource.data"),
    "restored": ("restored.data", "cp -p restored.data kept; echo other > restored.data; cp -p kept restored.data"),
    "before": ("before.data", ":"),
}


def test_inputs_that_change_while_doit_runs(repository: Path) -> None:
    """A script or resource that changes after it was measured fails the toolchain; its output is not kept."""
    kits, files = "early: {description: e, run: {script: early.sh, toolchain-artifact: out}}\n", {}
    commands = {name: command for name, (_, command) in CHANGING.items()} | {"early": "echo other > before.data"}
    for name, command in commands.items():
        files[f"{name}.sh"] = f'#!/bin/sh\ncd "$(dirname "$0")"\n{command}\necho {name} > "$UPLOAD_DIR/out"\n'
    for name in CHANGING:
        kits += f"{name}:\n  description: k\n  fetches: {{toolchain: [early]}}\n"
        kits += f"  run: {{script: {name}.sh, resources: [{name}.data], toolchain-artifact: out}}\n"
        files[f"{name}.data"] = "data"
    written(repository, {f"fetchdefs/toolchain/{name}": text for name, text in (files | {"kit.yml": kits}).items()})
    done = doit(repository, "-c")
    assert done.returncode == 1
    for name, (changed, _) in CHANGING.items():
        reason = f"toolchain {name}: {changed} changed while doit ran, so the output is not kept\nrun doit again"
        assert reason in done.stdout
        assert not list(repository.glob(f"cache/artifacts/{name}"))
    files |= {f"{name}.sh": files[f"{name}.sh"].replace(f"{command}\n", "") for name, command in commands.items()}
    written(repository, {f"fetchdefs/toolchain/{name}": text for name, text in files.items()})
    assert len(ran(doit(repository))) == 2 * len(CHANGING) + 1
    for name in CHANGING:
        (path,) = repository.glob(f"cache/artifacts/{name}/*/out")
        assert path.read_text() == f"{name}\n"


def test_fetches_that_change_while_doit_runs(repository: Path) -> None:
    """A command starts with unmodified fetches: a file that changed since its extraction is extracted again."""
    (repository / "data").write_bytes(b"data")
    file = f"{repository}/build/kit/fetches/data"
    kits = "early: {description: e, run: {script: early.sh, toolchain-artifact: early}}\n"
    kits += "kit:\n  description: k\n  fetches: {fetch: [data], toolchain: [early]}\n"
    kits += "  run: {command: 'cat data > $UPLOAD_DIR/out', toolchain-artifact: out}\n"
    early = f"for _ in $(seq 200); do [ -f {file} ] && break; sleep 0.1; done\nrm -f {file}; echo other > {file}\n"
    files = {
        "fetchdefs/fetch/data.yml": definition("data", f"file://{repository}/data", b"data"),
        "fetchdefs/toolchain/kit.yml": kits,
        "fetchdefs/toolchain/early.sh": f"#!/bin/sh\n{early}touch $UPLOAD_DIR/early\n",
    }
    written(repository, files)
    assert "toolchain:kit" in ran(doit(repository))
    assert output(repository) == "data"


def test_a_recorded_output_needs_no_lock(repository: Path) -> None:
    """While another process holds the locks of a toolchain, its recorded output is adopted without waiting."""
    written(repository, {"fetchdefs/toolchain/make.sh": '#!/bin/sh\necho made > "$UPLOAD_DIR/out"\n'})
    ran(doit(repository))
    locks = [*repository.glob("cache/v1/locks/*"), repository / "build/kit/.lock"]
    (repository / "build/kit/.prepared.json").unlink()
    with ExitStack() as stack:
        for path in locks:
            if path.name != "prune":
                stack.enter_context(locked(path, timeout_s=1, progress=Silent()))
        assert ran(doit(repository, "lock_timeout=0.5")) == ["toolchain:kit"]


#: Writes down the names of all variables, sorted, and one value.
SEES = f"""#!{sys.executable}
import os
names = sorted(set(os.environ) - {{"LC_CTYPE"}})
open(os.environ["UPLOAD_DIR"] + "/out", "w").write(" ".join(names) + " CC=" + os.environ.get("CC", ""))
"""
OURS = "MOZ_FETCHES MOZ_FETCHES_DIR PATH UPLOAD_DIR"


def environment(repository: Path, *words: str, **environ: str) -> tuple[list[str], str]:
    """Return what runs with exactly this environment, and what the command saw."""
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": PYTHONPATH, "FETCH_DURABILITY": "fast", **environ}
    command = [sys.executable, "-m", "doit", *words]
    done = subprocess.run(command, cwd=repository, env=environ, capture_output=True, text=True, check=False)
    return ran(done), (repository / "build/artifacts/kit/out").read_text()


@pytest.mark.slow
def test_the_declared_environment(repository: Path) -> None:
    """A command sees declared variables only; a passed one is part of the key, any other changes nothing."""
    written(repository, {"fetchdefs/toolchain/make.sh": SEES})
    made: list[str] = ["toolchain:kit"]
    none: list[str] = []
    more = {"HOME": "/h", "LC_ALL": "C", "https_proxy": "p", "CC": "gcc", "LD_LIBRARY_PATH": "/x", "FETCH_RETRIES": "1"}
    assert environment(repository, **more) == (made, f"HOME LC_ALL {OURS} https_proxy CC=")
    first = f"HOME LC_ALL {OURS} https_proxy CC="
    assert environment(repository, **more | {"CC": "clang", "HOME": "/other"}) == (none, first)
    assert environment(repository, "pass_env=CC", CC="gcc") == (made, f"CC {OURS} CC=gcc")
    assert environment(repository, "pass_env=CC", CC="gcc") == (none, f"CC {OURS} CC=gcc")
    assert environment(repository, "pass_env=CC", CC="clang") == (made, f"CC {OURS} CC=clang")
    assert environment(repository, "pass_env=CC") == (made, f"{OURS} CC=")
    assert environment(repository, "pass_env=CC", "host_identity=image-1") == (made, f"{OURS} CC=")
    assert len(list(repository.glob("cache/artifacts/kit/*"))) == 5
    written(repository, {"fetchdefs/toolchain/kit.yml": KIT.replace("run: {", "run: {pass-env: [CC], env: {A: b}, ")})
    assert environment(repository, CC="gcc") == (made, f"A CC {OURS} CC=gcc")
    assert environment(repository, CC="gcc") == (none, f"A CC {OURS} CC=gcc")
    assert environment(repository, CC="tcc") == (made, f"A CC {OURS} CC=tcc")
    # prune knows with which values the outputs were made
    for path in repository.glob("cache/v1/**/*"):
        if path.is_file() and "locks" not in path.parts:
            os.utime(path, (1, 1))
    pruned = doit(repository, "prune")
    assert pruned.returncode == 0, pruned.stdout
    assert len(list(repository.glob("cache/artifacts/kit/*"))) >= 2
    (repository / "build/kit/run.log").unlink()
    assert environment(repository, CC="gcc") == (made, f"A CC {OURS} CC=gcc")
    assert not (repository / "build/kit/run.log").exists(), "the output is adopted"


@pytest.mark.skipif(shutil.which("setarch") is None or os.uname().machine != "x86_64", reason="needs a 32-bit machine")
def test_another_machine(repository: Path) -> None:
    """A run on a 32-bit machine does not adopt the output of a 64-bit one, and each finds its own again."""
    written(repository, {"fetchdefs/toolchain/make.sh": '#!/bin/sh\nuname -m > "$UPLOAD_DIR/out"\n'})
    narrow = ["setarch", "i686", sys.executable, "-m", "doit"]
    environ = {**CLEAN, "FETCH_DURABILITY": "fast", "PYTHONPATH": PYTHONPATH}
    assert ran(doit(repository)) == ["toolchain:kit"]
    for expected in (["toolchain:kit"], []):
        done = subprocess.run(narrow, cwd=repository, env=environ, stdout=subprocess.PIPE, text=True, check=False)
        assert ran(done) == expected
        assert (repository / "build/artifacts/kit/out").read_text() == "i686\n"
    assert ran(doit(repository)) == ["toolchain:kit"]
    assert (repository / "build/artifacts/kit/out").read_text() == "x86_64\n"


def test_a_command_without_network(repository: Path) -> None:
    """Such a command sees no interface but its own loopback; a system without namespaces fails it, and does not allow it."""
    files = {
        "fetchdefs/toolchain/make.sh": '#!/bin/sh\nsed 1,2d /proc/net/dev | cut -d: -f1 > "$UPLOAD_DIR/out"\nid -u\n',
        "fetchdefs/toolchain/kit.yml": KIT.replace("run: {", "run: {network: false, "),
        "bin/unshare": "#!/bin/sh\necho 'unshare: unshare failed: Operation not permitted' >&2\nexit 1\n",
    }
    written(repository, files)
    (repository / "bin/unshare").chmod(0o755)
    refused = doit(repository, PATH=f"{repository}/bin{os.pathsep}{os.environ['PATH']}")
    assert refused.returncode == 1 and not list(repository.glob("cache/artifacts/kit/*"))
    assert (
        "toolchain kit: cannot run the command without network: unshare: unshare failed: Operation not permitted"
        in refused.stdout
    )
    if not isolates_network():
        pytest.skip("the system does not allow network namespaces")
    assert ran(doit(repository)) == ["toolchain:kit"]
    assert (repository / "build/artifacts/kit/out").read_text().split() == ["lo"]
    assert (repository / "build/kit/run.log").read_text() == f"{os.getuid()}\n"
    written(repository, {"fetchdefs/toolchain/kit.yml": KIT})
    assert ran(doit(repository, "toolchain_network=off")) == [], "the same key"
    assert ran(doit(repository)) == ["toolchain:kit"]


def isolates_network() -> bool:
    try:
        return bool(isolate_network("kit", os.environ))
    except ToolError:
        return False


def test_a_variable_that_a_command_names(repository: Path) -> None:
    """A shell command sees the variables that it names in upper case, and is built again when one changes."""
    command = 'echo "$CC ${CFLAGS-none} $LD_LIBRARY" > $UPLOAD_DIR/out'
    kit = f"kit: {{description: d, run: {{command: '{command}', toolchain-artifact: out}}}}\n"
    written(repository, {"fetchdefs/toolchain/kit.yml": kit})
    made: list[str] = ["toolchain:kit"]
    none: list[str] = []
    assert environment(repository, CC="gcc", OTHER="x") == (made, "gcc none \n")
    assert environment(repository, CC="gcc", OTHER="y") == (none, "gcc none \n")
    assert environment(repository, CC="gcc", CFLAGS="-O2") == (made, "gcc -O2 \n")
