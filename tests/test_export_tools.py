"""Real tools that build from an export after their origin died: each page of docs/how-to/export is followed."""

from __future__ import annotations

import contextlib
import functools
import gzip
import http.server
import io
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.archives import Member, tar
from tests.origin import reply, serving
from tests.project import CLEAN, PYTHONPATH, ROOT, definition, written
from tests.test_docs import blocks

pytestmark = pytest.mark.slow

PAGES = ROOT / "docs/how-to/export"
CMAKE = b"""cmake_minimum_required(VERSION 3.18)
project(greet NONE)
add_library(greet INTERFACE)
target_include_directories(greet INTERFACE ${CMAKE_CURRENT_SOURCE_DIR})
"""
MESON = b"""project('greet', version: '1.0')
greet_dep = declare_dependency(include_directories: include_directories('.'))
"""
WHEEL = {
    "greet.py": 'HELLO = "hello"\n',
    "greet-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: greet\nVersion: 1.0\n",
    "greet-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "greet-1.0.dist-info/RECORD": "greet.py,,\ngreet-1.0.dist-info/METADATA,,\ngreet-1.0.dist-info/WHEEL,,\ngreet-1.0.dist-info/RECORD,,\n",
}
#: Page -> the program that it needs, and what it must have printed.
TOOLS = {
    "pip": ("", "hello\n"),
    "cmake": ("cmake", "/build/extracted/greet/greet-1.0\n"),
    "meson": ("meson", "greet"),
    "conan": ("conan", '#define GREET "hello"'),
    "mise": ("mise", "hello, world\n"),
    "dotslash": ("dotslash", "hello, world\n"),
    "bazel": ("bazel", "All external dependencies fetched successfully."),
    "nix": ("nix-build", "-greet-1.0.tar\n"),
    "store": ("", "/build/artifacts/greet/greet-1.0.tar\n"),
}


def wheel() -> bytes:
    """Return a wheel, the same bytes each time."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in WHEEL.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return content.getvalue()


def published() -> dict[str, bytes]:
    """Return what the origin of the pages has, by path."""
    members = [
        Member("greet-1.0/"),
        Member("greet-1.0/CMakeLists.txt", CMAKE),
        Member("greet-1.0/meson.build", MESON),
        Member("greet-1.0/greet.h", b'#define GREET "hello"\n'),
    ]
    script = b'#!/bin/sh\necho "hello, $*"\n'
    return {"/greet-1.0.tar": tar(members), "/greet": script, "/greet-1.0-py3-none-any.whl": wheel()}


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def mirror(directory: Path) -> Iterator[str]:
    """Serve a directory as any web server does; yield its URL."""
    handler = functools.partial(_Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def run(directory: Path, script: str) -> str:
    scripts = os.pathsep.join([sysconfig.get_path("scripts"), str(Path(sys.executable).parent)])
    environ = {
        **CLEAN,
        "PATH": os.pathsep.join([scripts, CLEAN["PATH"]]),
        "PYTHONPATH": PYTHONPATH,
        "HOME": str(directory / "home"),
        "XDG_CACHE_HOME": str(directory / "home/.cache"),
        "FETCH_RETRIES": "0",
        "FETCH_DURABILITY": "fast",
    }
    done = subprocess.run(
        ["sh", "-euc", script], cwd=directory, env=environ, text=True, check=False, timeout=280,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, f"{script}\n{done.stdout}"
    return done.stdout


def test_every_page_is_followed() -> None:
    """Each page has a row."""
    assert {path.stem for path in PAGES.glob("*.md")} == set(TOOLS)


#: Page -> the Debian package of its program, and files that make it run without a daemon and users of its own.
IN_CHROOT = {
    "bazel": ("bazel-bootstrap", {".bazelrc": "startup --batch --output_user_root=/tmp/bazel\n"}),
    "nix": ("nix-bin", {"nix/nix.conf": "build-users-group =\nsandbox = false\n"}),
}
#: Runs a script in a directory of a system, without a network; $1 is the system, $2 the directory, $3 the script.
CHROOT = """
mount --rbind /proc "$1/proc" && mount --rbind /dev "$1/dev" && mount --bind "$2" "$1/mnt"
exec chroot "$1" env -i PATH=/usr/bin:/bin:/usr/sbin:/sbin HOME=/tmp NIX_CONF_DIR=/mnt/nix sh -euc "cd /mnt; $3"
"""


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a Debian system with the programs that are not installed here."""
    if "CHROOT_TESTS" not in os.environ:
        pytest.skip("CHROOT_TESTS is not set: a Debian system takes two minutes and 2 GB")
    if os.geteuid() or not shutil.which("mmdebstrap"):
        pytest.skip("needs root and mmdebstrap")
    root = tmp_path_factory.mktemp("debian") / "root"
    include = "--include=" + ",".join(package for package, _ in IN_CHROOT.values())
    sources = sorted(Path("/etc/apt/sources.list.d").glob("debian.sources"))
    command = ["mmdebstrap", "--mode=root", "--variant=apt", include, "bookworm", str(root), *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    yield root
    shutil.rmtree(root)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("tool", IN_CHROOT)
def test_a_tool_in_a_chroot(tool: str, system: Path, tmp_path: Path) -> None:
    """Bazel and Nix of Debian follow their pages in a system of their own, which has no network."""
    written(tmp_path, IN_CHROOT[tool][1])
    (tmp_path / "home").mkdir()
    output = ""
    with serving({path: reply(body) for path, body in published().items()}) as origin:
        for block in blocks(PAGES / f"{tool}.md"):
            text = block.text.replace("https://files.example.org", origin.url)
            if block.title:
                written(tmp_path, {block.title: text})
            elif block.language == "sh":
                for line in text.splitlines():
                    own = line.startswith("doit-fetch")
                    words = [
                        "unshare",
                        "--net",
                        "--mount",
                        "sh",
                        "-euc",
                        CHROOT,
                        "sh",
                        str(system),
                        str(tmp_path),
                        line,
                    ]
                    output += run(tmp_path, line if own else shlex.join(words))
    assert TOOLS[tool][1] in output, output


ARCHIVES: dict[str, Callable[[list[Member]], bytes]] = {
    "greet-1.tar": tar,
    "greet-1.tar.gz": lambda members: gzip.compress(tar(members), mtime=0),
}


@pytest.mark.parametrize("name", [*ARCHIVES, "greet.gz"])
def test_a_program_in_an_archive(name: str, tmp_path: Path) -> None:
    """DotSlash runs the program of an archive, found among other files, and that of a compressed file."""
    script = b'#!/bin/sh\necho "hello, $*"\n'
    members = [Member("d/"), Member("d/bin/greet", script, mode=0o755), Member("d/bin/other", script, mode=0o755)]
    content = ARCHIVES[name](members) if name in ARCHIVES else gzip.compress(script, mtime=0)
    with serving({f"/{name}": reply(content)}) as origin, mirror(tmp_path / "mirror") as base:
        written(tmp_path, {"fetchdefs/fetch/a.yml": definition("greet-1", f"{origin.url}/{name}", content)})
        (tmp_path / "home").mkdir()
        run(tmp_path, f"doit-fetch export dotslash mirror --url-base {base}")
        assert run(tmp_path, "mirror/greet-1 world") == "hello, world\n"


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool(tool: str, tmp_path: Path) -> None:
    """The tool of a page gets everything from the export; its origin is dead since then."""
    program, printed = TOOLS[tool]
    if program and not shutil.which(program):
        pytest.skip(f"{program} is not installed")
    (tmp_path / "home").mkdir()
    answers = {path: reply(body) for path, body in published().items()}
    output: list[str] = []
    with serving(answers) as origin, mirror(tmp_path / "mirror") as base:
        for block in blocks(PAGES / f"{tool}.md"):
            text = block.text.replace("https://files.example.org", origin.url).replace("http://mirror.example", base)
            if block.title:
                path = tmp_path / block.title
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            elif block.language == "sh":
                output.append(run(tmp_path, text))
                origin.answers.clear()  # since the first block, the export, the origin has nothing
        assert len(origin.paths()) == 1, "the origin was asked after the export"
    assert printed in "".join(output), output
