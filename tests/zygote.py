"""Processes of doit that do not import its libraries again: most of the time of a short run is the import of them.

A server process has imported doit, its libraries and the modules of this package that most runs need, and forks for each
run. The forked process runs `python -m doit` to its end, with its own directory, environment, umask, descriptors and
exit; `doit_fetch` and dodo.py are imported there. A run with another environment for the interpreter itself gets an
interpreter of its own (`can_fork`), and so does every test of what a program loads, of signals, and of `doit-fetch`.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import functools
import importlib.util
import json
import os
import re
import runpy
import select
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

#: What a run of doit imports beside this package.
_LIBRARIES = (
    "doit.cmd_run", "doit.cmd_clean", "doit.cmd_forget", "doit.cmd_list", "doit.cmd_info", "doit.cmd_help", "doit.runner",
    "doit.reporter", "doit.loader", "doit.dependency", "importlib.metadata", "sqlite3", "msgspec", "yaml", "requests",
    "urllib3.util.retry", "zstandard", "rich.console", "rich.live", "re2", "lzma", "bz2", "multiprocessing", "difflib",
    "http.client", "ssl", "tomllib", "shlex", "getopt", "dbm", "email.parser", "concurrent.futures",
)  # fmt: skip
#: Modules of this package that most runs import; they have no state before a run.
_OWN = (
    "tasks_lib.cli.commands", "tasks_lib.cli.inspect", "tasks_lib.cli.maintenance", "tasks_lib.engine.dodo",
    "tasks_lib.engine.pools", "tasks_lib.engine.reporter", "tasks_lib.engine.runner", "tasks_lib.engine.signals",
    "tasks_lib.engine.state_database", "tasks_lib.graph.tasks", "tasks_lib.incremental.definition_files",
    "tasks_lib.incremental.run_plan", "tasks_lib.download", "tasks_lib.report.record", "tasks_lib.transport",
    "tasks_lib.tree", "tasks_lib.archive", "tasks_lib.steps.toolchain", "tasks_lib.ui.live", "tasks_lib.ui.lines",
)  # fmt: skip
#: Variables that an interpreter reads when it starts.
_EARLY = ("PYTHON", "LC_", "LANG", "LD_", "TZ")
_MAIN = "doit.__main__"


def can_fork(environ: Mapping[str, str]) -> bool:
    """Whether a run with this environment starts as one that this process would start."""
    early = {name for name in environ.keys() | os.environ.keys() if name.startswith(_EARLY)} - {"PYTHONPATH"}
    return all(environ.get(name) == os.environ.get(name) for name in early) and sys.platform == "linux"


def run(words: tuple[str, ...], directory: Path, environ: Mapping[str, str], stderr: int) -> tuple[int, bytes, bytes]:
    """Run `python -m doit` in a fork; return its status, output and errors (b"" with stderr=STDOUT)."""
    pipes = [os.pipe(), os.pipe()] if stderr == subprocess.PIPE else [os.pipe()]
    umask = re.search(r"(?m)^Umask:\s*(\d+)$", Path("/proc/self/status").read_text())
    assert umask is not None
    request = json.dumps([str(directory), dict(environ), words, int(umask[1], 8)]).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(_server(environ["PYTHONPATH"]))
        ends = [pipes[0][1], pipes[-1][1]]
        connection.sendmsg(
            [len(request).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", ends))]
        )
        connection.sendall(request)
        for _, end in pipes:
            os.close(end)
        texts: list[bytes] = [b"", b""]
        readers = [threading.Thread(target=_read, args=(pipe[0], texts, at)) for at, pipe in enumerate(pipes)]
        for reader in readers[1:]:
            reader.start()
        _read(pipes[0][0], texts, 0)
        for reader in readers[1:]:
            reader.join()
        status = connection.recv(8)
    return int.from_bytes(status, "big", signed=True), texts[0], texts[1]


def _read(descriptor: int, texts: list[bytes], at: int) -> None:
    with os.fdopen(descriptor, "rb") as file:
        texts[at] = file.read()


@functools.cache
def _server(path: str) -> str:
    """Start the server of this process; return the path of its socket. It ends with this process."""
    directory = tempfile.mkdtemp(prefix="doit-fetch-zygote.")
    place = f"{directory}/socket"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place)
    listener.listen(64)
    lifeline, own = os.pipe()
    environ = {**os.environ, "PYTHONPATH": path}
    words = [sys.executable, "-c", "from tests.zygote import serve; serve()", str(listener.fileno()), str(lifeline)]
    process = subprocess.Popen(
        words, cwd="/", env=environ, pass_fds=(listener.fileno(), lifeline), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    listener.close()
    os.close(lifeline)

    def stop() -> None:
        os.close(own)
        process.wait()
        with contextlib.suppress(OSError):
            Path(place).unlink()
            Path(directory).rmdir()

    atexit.register(stop)
    return place


# --- the server


def serve() -> None:
    """Fork for each connection, until the process that started this one ends."""
    descriptor, lifeline = map(int, sys.argv[1:])
    main = importlib.util.find_spec(_MAIN)
    assert main is not None and main.origin is not None
    sys.argv[:] = [main.origin]  # doit takes the name of the program from it when it is imported
    for name in (*_LIBRARIES, *_OWN):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    listener = socket.socket(fileno=descriptor)
    while lifeline not in select.select([listener.fileno(), lifeline], [], [])[0]:
        connection, _ = listener.accept()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # those that waited for a run
                pass
        if os.fork() == 0:
            listener.close()
            os.close(lifeline)
            if _is_run(connection):
                return
            os._exit(0)
        connection.close()


def _is_run(connection: socket.socket) -> bool:
    """Fork a run and report its status; return True in the run, in which the interpreter then ends as usual."""
    size, rights, _, _ = connection.recvmsg(8, socket.CMSG_LEN(8))
    request = b""
    while len(request) < int.from_bytes(size, "big"):
        request += connection.recv(1 << 20)
    out, err = array.array("i", rights[0][2])
    child = os.fork()
    if child == 0:
        connection.close()
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.close(out)
        os.close(err)
        _become(*json.loads(request))
        return True
    os.close(out)
    os.close(err)
    _, status = os.waitpid(child, 0)
    connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(8, "big", signed=True))
    return False


def _become(directory: str, environ: dict[str, str], words: list[str], umask: int) -> None:
    """Run doit; the caller returns to the top of the program, so that the interpreter ends as that of any program."""
    os.chdir(directory)
    os.umask(umask)
    os.environ.clear()
    os.environ.update(environ)
    sys.path[0] = str(Path.cwd())
    sys.argv[1:] = words
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "__mp_main__")]:
        del sys.modules[name]
    runpy.run_module("doit", run_name="__main__", alter_sys=True)
