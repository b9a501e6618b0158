"""The runner: limits per class, workers that never die, an end that loses nothing."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks_lib.engine.pools import Pools
from tasks_lib.fs.system_calls import usable_cores
from tests.origin import OriginRequest, reply, serving
from tests.project import CLEAN, DODO, LIBRARY, PYTHONPATH, definition, doit, ran

CORES = usable_cores()
ASYNC_DODO = """
import asyncio, threading, time
from pathlib import Path
from doit.tools import run_once
from doit_fetch import DOIT_CONFIG
from tasks_lib.ui.events import BUS
DOIT_CONFIG = {**DOIT_CONFIG, "default_tasks": None}
LOG = Path("log")
def say(*words):
    with LOG.open("a") as log:
        log.write(" ".join(map(str, (*words, threading.current_thread().name))) + "\\n")
def work(name, seconds):
    say("begin", name)
    time.sleep(seconds)
    say("end", name)
def many(kind, count, pool, seconds=0.05, **more):
    for i in range(count):
        yield {"basename": kind, "name": str(i), "actions": [(work, (f"{kind}:{i}", seconds))],
               "io": {"capture": False}, "meta": {"pool": pool}, **more}
"""


def project(tmp_path: Path, tasks: str) -> Path:
    (tmp_path / "dodo.py").write_text(ASYNC_DODO + tasks)
    return tmp_path


def log(directory: Path) -> list[list[str]]:
    return [line.split() for line in (directory / "log").read_text().splitlines()]


def most_at_once(directory: Path, kind: str = "") -> int:
    now = most = 0
    for word, name, _ in log(directory):
        if name.startswith(kind):
            now += {"begin": 1, "end": -1}[word]
            most = max(most, now)
    return most


def start(directory: Path, *words: str, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "doit", *words],
        cwd=directory,
        env={**CLEAN, "PYTHONPATH": PYTHONPATH, "FETCH_RETRIES": "0", **environ},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def until(path: Path, text: str = "") -> None:
    deadline = time.monotonic() + 60
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < deadline, f"{path} never said {text!r}"
        time.sleep(0.01)


BOTH = 'def task_all():\n    yield from many("net", 40, "network")\n    yield from many("cpu", 10, "cpu")\n'


def test_each_class_has_its_limit(tmp_path: Path) -> None:
    """FETCH_JOBS downloads and as many computations as there are cores, whatever comes first."""
    directory = project(tmp_path, BOTH)
    assert len(ran(doit(directory, FETCH_JOBS="6"))) == 50
    assert most_at_once(directory, "net") == 6
    assert most_at_once(directory, "cpu") == CORES
    workers = {worker for _, _, worker in log(directory)}
    assert workers == {f"network-{i + 1}" for i in range(6)} | {f"cpu-{i + 1}" for i in range(CORES)}


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "network"), [("1", 1), ("0", 1), ("3", 3), ("12", 12)])
def test_n_limits_everything(asked: str, network: int, tmp_path: Path) -> None:
    """With -n no more tasks than that run at once, and as many downloads may."""
    few = network == 1
    directory = project(tmp_path, BOTH.replace("10", "4").replace("40", "10") if few else BOTH)
    assert len(ran(doit(directory, "-n", asked))) == (14 if few else 50)
    assert most_at_once(directory) == most_at_once(directory, "net") == network


def test_pools() -> None:
    """Without -n classes are limited, with it the whole is; nothing is ever limited to none."""
    assert Pools.of(network=8, asked=None).limit("network") == 8
    assert Pools.of(network=8, asked=-3).total == 1
    assert Pools.of(network=8, asked=100) == Pools(network=100, cpu=CORES, others=100, total=100)


AFTER_A_FAILURE = f"""
import sys
CORES = {CORES}
every_worker_has_one = threading.Barrier(CORES)
def stopped():
    frame = sys._current_frames()[threading.main_thread().ident]
    while frame is not None and not getattr(frame.f_locals.get("self"), "_stop_running", False):
        frame = frame.f_back
    return frame is not None
def one(number):
    say("begin", str(number))
    if number < CORES:
        every_worker_has_one.wait(60)
    if not number:
        return False
    while not stopped():
        time.sleep(0.01)
def task_all():
    for number in range(100):
        meta = {{"pool": "cpu"}}
        yield {{"name": str(number), "actions": [(one, (number,))], "io": {{"capture": False}}, "meta": meta}}
"""


def test_after_a_failure_nothing_begins(tmp_path: Path) -> None:
    """After a failure, queued tasks do not start; with `-c` they do."""
    assert doit(project(tmp_path, AFTER_A_FAILURE), "all").returncode == 1
    begun = [name for _, name, _ in log(tmp_path)]
    assert sorted(begun, key=int) == [str(number) for number in range(CORES)]
    (tmp_path / "log").unlink()
    always = AFTER_A_FAILURE.replace("not stopped()", "False")
    assert doit(project(tmp_path, always), "-c", "all").returncode == 1
    assert len(log(tmp_path)) == 100


def test_computing_overlaps_downloading(tmp_path: Path) -> None:
    """With sinks first, tasks start while downloads that they do not need are still running."""
    directory = project(
        tmp_path,
        "def task_all():\n"
        "    for i in range(20):\n"
        '        yield from ({**one, "name": str(i), "task_dep": [f"net:{i}"]} for one in many("cpu", 1, "cpu"))\n'
        '    yield from many("net", 20, "network")\n',
    )
    assert len(ran(doit(directory, FETCH_JOBS="4"))) == 40
    words = [(word, name.partition(":")[0]) for word, name, _ in log(directory)]
    assert words.index(("begin", "cpu")) < 20
    last_download = len(words) - words[::-1].index(("end", "net"))
    assert sum(word == ("end", "cpu") for word in words[:last_download]) >= 5


ENDS = {
    "SystemExit": "raise SystemExit(7)",
    "CancelledError": "raise asyncio.CancelledError",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "GeneratorExit": "raise GeneratorExit",
}


@pytest.mark.parametrize("case", ENDS)
def test_no_exception_ends_a_worker(case: str, tmp_path: Path) -> None:
    """Any exception of an action fails only its own task; the others run and are recorded."""
    directory = project(
        tmp_path,
        f'def bad():\n    {ENDS[case]}\ndef task_bad():\n    return {{"actions": [bad], "io": {{"capture": False}}}}\n'
        'def task_all():\n    yield from many("net", 30, "network", 0.01, uptodate=[run_once])\n',
    )
    with start(directory, "-c") as process:
        printed = process.communicate(timeout=100)[0]
    assert process.returncode == 2
    assert f"{case} in an action" in printed
    assert printed.count(".  net:") == 30
    assert ran(doit(directory, "net")) == []


def test_what_is_large_is_checked_by_a_worker(tmp_path: Path) -> None:
    """The main thread decides on small files, workers look at large ones, and both decide rightly."""
    (tmp_path / "large").write_bytes(b"x" * (1 << 20))
    (tmp_path / "small").write_bytes(b"x")
    directory = project(
        tmp_path,
        "def ask(name, key, task, values):\n"
        '    say("check", name)\n    return values.get("key") == key\n'
        'def done(key):\n    return {"key": key}\n'
        "def task_t():\n"
        '    for name in ("large", "small"):\n'
        '        yield {"name": name, "actions": [(done, (name,))], "file_dep": [name],\n'
        '               "uptodate": [(lambda task, values, one=name: ask(one, one, task, values),)],\n'
        '               "io": {"capture": False}}\n',
    )
    assert ran(doit(directory)) == ["t:large", "t:small"]
    assert ran(doit(directory)) == []
    checked = {name: worker for _, name, worker in log(directory)}
    assert checked["small"] == "MainThread"
    assert checked["large"].startswith("cpu-")
    assert len(log(directory)) == 4


LONG = (
    "def patient(name):\n"
    '    say("begin", name)\n    progress = BUS.progress(name)\n'
    "    while True:\n        time.sleep(0.01)\n        progress.check()\n"
    "def deaf():\n    say('begin', 'deaf')\n    time.sleep(600)\n"
    'def task_all():\n    yield from many("net", 3, "network", 0, uptodate=[run_once])\n'
)
WAYS = {
    "SIGINT": (signal.SIGINT, 130, "patient"),
    "SIGTERM": (signal.SIGTERM, 143, "patient"),
    "SIGHUP": (signal.SIGHUP, 129, "patient"),
    "deaf": (signal.SIGTERM, 143, "deaf"),
}


@pytest.mark.parametrize("case", WAYS)
def test_a_signal_ends_a_run_cleanly(case: str, tmp_path: Path) -> None:
    """The status says which signal, nothing looks like a crash, what finished is remembered."""
    number, status, action = WAYS[case]
    words = '(patient, ("p",))' if action == "patient" else "(deaf,)"
    directory = project(
        tmp_path,
        f'{LONG}def task_last():\n    return {{"actions": [{words}], "io": {{"capture": False}}, "task_dep": ["net"]}}\n',
    )
    with start(directory) as process:
        until(directory / "log", "begin deaf" if action == "deaf" else "begin p")
        process.send_signal(number)
        printed = process.communicate(timeout=60)[0]
    assert process.returncode == status, printed
    assert "Traceback" not in printed
    assert "Failed" not in printed
    assert ran(doit(directory, "net")) == []


STRUCK = """
import signal, threading
def strike():
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)
    while True:
        time.sleep(1)
def task_struck():
    return {"actions": [strike], "io": {"capture": False}}
"""


def test_a_signal_that_does_not_wake_the_main_thread(tmp_path: Path) -> None:
    """A signal ends the run also when a worker receives it while the main thread waits."""
    with start(project(tmp_path, STRUCK)) as process:
        try:
            printed = process.communicate(timeout=60)[0]
        finally:
            process.kill()
    assert process.returncode == 130, printed


def test_ignored_signals_stay_ignored(tmp_path: Path) -> None:
    """Under nohup a hang-up does not end the run."""
    directory = project(tmp_path, 'def task_all():\n    yield from many("net", 1, "network", 0.3)\n')
    command = [sys.executable, "-c", "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN);"]
    command[-1] += " os.execv(sys.executable, [sys.executable, '-m', 'doit'])"
    with subprocess.Popen(command, cwd=directory, env={**CLEAN, "PYTHONPATH": PYTHONPATH}) as process:
        until(directory / "log", "begin")
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 0


def test_a_stubborn_command_is_stopped_with_all_it_started(tmp_path: Path) -> None:
    """A toolchain's command that ignores SIGTERM, and its children, end with doit."""
    files = {
        "dodo.py": DODO,
        "fetchdefs/toolchain/t.yml": "slow:\n  description: d\n  run: {script: s.sh}\n",
        "fetchdefs/toolchain/s.sh": "#!/bin/sh\ntrap '' TERM\nsleep 987 & echo $! >child\necho $$ >self\nwhile :; do sleep 987; done\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "fetchdefs/toolchain/s.sh").chmod(0o755)
    with start(tmp_path) as process:
        until(tmp_path / "build/slow/fetches/self", "\n")
        process.send_signal(signal.SIGINT)
        printed = process.communicate(timeout=60)[0]
    assert process.returncode == 130, printed
    for name in ("self", "child"):
        number = (tmp_path / "build/slow/fetches" / name).read_text().strip()
        status = Path(f"/proc/{number}/status")
        assert not status.exists() or "zombie" in status.read_text()


def test_an_interrupted_download_is_resumed(tmp_path: Path) -> None:
    """After Ctrl-C the next run asks for the rest only."""
    body = LIBRARY * 400
    asked: list[str] = []

    def halting(connection: object, request: OriginRequest) -> None:
        asked.append(request.headers.get("range", ""))
        send = connection.sendall  # type: ignore[attr-defined]  # a socket
        head = 'Content-Length: {}\r\nETag: "v1"\r\nConnection: close\r\n\r\n'
        if found := re.fullmatch(r"bytes=(\d+)-", asked[-1]):
            first = int(found[1])
            send(b"HTTP/1.1 206 P\r\nContent-Range: bytes %d-%d/%d\r\n" % (first, len(body) - 1, len(body)))
            send(head.format(len(body) - first).encode() + body[first:])
            return
        send(b"HTTP/1.1 200 OK\r\n" + head.format(len(body)).encode())
        for start in range(0, len(body), 1 << 16):
            send(body[start : start + (1 << 16)])
            time.sleep(0.02)

    (tmp_path / "dodo.py").write_text(DODO)
    with serving({"/big": halting, "/small": reply(b"x")}) as origin:
        path = tmp_path / "fetchdefs/fetch/all.yml"
        path.parent.mkdir(parents=True)
        path.write_text(definition("big", f"{origin.url}/big", body))
        with start(tmp_path) as process:
            partial = tmp_path / "cache/v1/partial"
            deadline = time.monotonic() + 60
            while not any(one.stat().st_size > 100_000 for one in partial.glob("*.part")):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            printed = process.communicate(timeout=60)[0]
        assert process.returncode == 130, printed
        assert ran(doit(tmp_path)) == ["fetch:big"]
    assert asked[0] == ""
    assert re.fullmatch(r"bytes=[1-9]\d*-", asked[1])


def test_offline_lists_everything_at_once(tmp_path: Path) -> None:
    """Before anything runs, every missing fetch of the requested graph is reported; other definitions are not checked."""
    (tmp_path / "dodo.py").write_text(DODO)
    (tmp_path / "fetchdefs/fetch").mkdir(parents=True)
    (tmp_path / "fetchdefs/toolchain").mkdir()
    (tmp_path / "local").write_bytes(b"here")
    text = "".join(definition(name, f"http://127.0.0.1:9/{name}", name.encode()) for name in ("a", "b", "c"))
    text += definition("near", "file:../../local", b"here")
    (tmp_path / "fetchdefs/fetch/all.yml").write_text(text)
    (tmp_path / "fetchdefs/toolchain/all.yml").write_text(
        "t:\n  description: t\n  fetches: {fetch: [{artifact: a, extract: false}, {artifact: near, extract: false}]}\n"
    )
    done = doit(tmp_path, FETCH_OFFLINE="1")
    assert done.returncode == 1
    missing = re.findall(r"(\w+): not in the cache, and the network is off", done.stdout)
    assert missing == ["a", "b", "c"]
    assert ".  " not in done.stdout
    assert "Traceback" not in done.stdout
    done = doit(tmp_path, "offline=1", "toolchain:t")
    assert re.findall(r"(\w+): not in the cache", done.stdout) == ["a"]
    assert ran(doit(tmp_path, "offline=1", "fetch:near")) == ["fetch:near"]


def test_doit_habits(tmp_path: Path) -> None:
    """-a, -s, -P process and a failure without -c do what they do in doit."""
    directory = project(
        tmp_path,
        'def task_all():\n    yield from many("net", 3, "network", 0, uptodate=[run_once])\n'
        'def task_top():\n    return {"actions": [(work, ("top", 0))], "task_dep": ["net"], "io": {"capture": False}}\n'
        'def task_fails():\n    return {"actions": ["false"]}\n'
        'def task_after():\n    return {"actions": [(work, ("after", 0))], "task_dep": ["fails"], "io": {"capture": False}}\n',
    )
    assert ran(doit(directory, "net")) == ["net:0", "net:1", "net:2"]
    assert ran(doit(directory, "-a", "net:1")) == ["net:1"]
    assert ran(doit(directory, "-s", "top")) == ["top"]
    assert ran(doit(directory, "-P", "process", "-n", "2", "top")) == ["top"]
    done = doit(directory, "after")
    assert done.returncode == 1
    assert "after" not in (directory / "log").read_text().replace("top", "")


def test_setup_tasks_and_values_of_other_tasks(tmp_path: Path) -> None:
    """A task with setup tasks, or with a value of another task, runs once after them, whatever it reads."""
    (tmp_path / "large").write_bytes(b"x" * (1 << 20))
    directory = project(
        tmp_path,
        'def task_bed():\n    return {"actions": ["echo made >> bed"], "teardown": ["echo down >> bed"]}\n'
        'def task_value():\n    return {"actions": [lambda: {"n": 3}]}\n'
        'def task_takes():\n    return {"actions": ["echo %(n)s >> bed"], "getargs": {"n": ("value", "n")},\n'
        '                        "setup": ["bed"], "file_dep": ["large"]}\n',
    )
    assert ran(doit(directory, "takes")) == ["bed", "takes", "value"]
    assert (directory / "bed").read_text().split() == ["made", "3", "down"]
    assert ran(doit(directory, "takes")) == []
    (directory / "large").write_bytes(b"y" * (1 << 20))
    assert ran(doit(directory, "-n", "4", "takes")) == ["bed", "takes", "value"]
    assert (directory / "bed").read_text().split() == ["made", "3", "down"] * 2


def test_one_after_the_other(tmp_path: Path) -> None:
    """With `-n 1` a task is checked when the one before it is done, even if nothing says that it depends on it."""
    directory = project(
        tmp_path,
        'def task_makes():\n    return {"actions": ["sleep 0.2; echo >> it"]}\n'
        'def task_takes():\n    return {"actions": ["cat it"], "file_dep": ["it"]}\n',
    )
    for _ in range(2):
        assert ran(doit(directory, "-n", "1")) == ["makes", "takes"]


def test_what_computes_dependencies_and_is_one(tmp_path: Path) -> None:
    """A task that is both `calc_dep` and `task_dep` of another one is waited for once."""
    directory = project(
        tmp_path,
        'def task_finds():\n    return {"actions": ["echo x > found", lambda: {"file_dep": ["found"]}],\n'
        '                        "targets": ["found"]}\n'
        'def task_uses():\n    return {"actions": ["cat found"], "calc_dep": ["finds"], "task_dep": ["finds"]}\n',
    )
    assert ran(doit(directory, "uses")) == ["finds", "uses"]


def test_a_value_that_changes_in_a_run(tmp_path: Path) -> None:
    """A task that uses the value of another is checked after it, as in a sequential run."""
    directory = project(
        tmp_path,
        'def value():\n    time.sleep(0.2)\n    return {"n": Path("n").read_text()}\n'
        'def task_value():\n    return {"actions": [value], "file_dep": ["n"]}\n'
        'def task_takes():\n    return {"actions": ["echo %(n)s"], "getargs": {"n": ("value", "n")}, "file_dep": ["large"]}\n'
        'def task_late():\n    return {"actions": [], "task_dep": ["takes"]}\n',
    )
    (tmp_path / "large").write_text("")
    for text in ("1", "2"):
        (tmp_path / "n").write_text(text)
        assert ran(doit(directory, "value", "takes")) == ["takes", "value"]


def test_each_action_has_its_own_streams(tmp_path: Path) -> None:
    """The output of parallel tasks is shown or captured as for one task, and a command may write to doit's streams."""
    directory = project(
        tmp_path,
        "from doit.tools import LongRunning\n"
        "def tell(name):\n    for i in range(20):\n        print(name)\n        time.sleep(0.01)\n"
        'def task_kept():\n    for i in range(3):\n        yield {"name": str(i), "actions": [(tell, ["kept!"])]}\n'
        "def task_shown():\n    for i in range(2):\n"
        '        yield {"name": str(i), "actions": [(tell, ["shown!"]), "echo shown!"], "verbosity": 2}\n'
        'def task_long():\n    return {"actions": [LongRunning("echo shown!")] * 9, "verbosity": 2}\n',
    )
    done = doit(directory, "-n", "9")
    assert done.returncode == 0, done.stdout
    assert (done.stdout.count("kept!"), done.stdout.count("shown!")) == (0, 2 * 21 + 9)


def test_what_is_set_up_by_something_up_to_date(tmp_path: Path) -> None:
    """A task that was held until the one that sets it up is looked at goes on then, whatever else is still at work."""
    directory = project(
        tmp_path,
        'def waits():\n    for _ in range(100):\n        if Path("mark").exists():\n            return True\n'
        "        time.sleep(0.05)\n    return False\n"
        'def task_long():\n    return {"actions": [waits]}\n'
        'def task_before():\n    return {"actions": ["sleep 0.2"]}\n'
        'def task_bed():\n    return {"actions": ["true"], "task_dep": ["before"], "uptodate": [True]}\n'
        'def task_sleeper():\n    return {"actions": ["echo > mark"], "setup": ["bed"]}\n',
    )
    assert ran(doit(directory, "-n", "3", "long", "bed", "sleeper")) == ["before", "long", "sleeper"]


@pytest.mark.parametrize("allowed", [0, 2])
def test_a_limit_of_threads(allowed: int, tmp_path: Path) -> None:
    """Fewer threads than the limit of a class run all its tasks; without any, the run ends with a message."""
    directory = project(
        tmp_path,
        f"left, start = {allowed}, threading.Thread.start\n"
        "def limited(thread):\n"
        "    global left\n"
        '    if thread.name.startswith("network"):\n'
        "        if not left:\n"
        '            raise RuntimeError("can\'t start new thread")\n'
        "        left -= 1\n"
        "    start(thread)\n"
        "threading.Thread.start = limited\n"
        'def task_t():\n    yield from many("t", 8, "network")\n',
    )
    done = subprocess.run(
        [sys.executable, "-m", "doit", "-n", "4"],
        cwd=directory, env={**CLEAN, "PYTHONPATH": PYTHONPATH}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr
    if allowed:
        assert done.returncode == 0 and most_at_once(directory) <= allowed and len(log(directory)) == 16
    else:
        assert done.returncode == 3 and "cannot start a thread\nraise the limit" in done.stderr
