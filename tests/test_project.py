"""The Python API `doit_fetch`: paths of artifacts and trees without doit, from threads and processes."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import doit_fetch
from doit_fetch import Project, errors
from tests.origin import Origin, reply
from tests.project import CLEAN, DODO, LIBRARY, PYTHONPATH, TOOL, definition, doit, ran, written

PLAIN = b"a plain file\n"
TOOLCHAIN = """
kit:
  description: builds from both
  fetches: {fetch: [lib, {artifact: plain, extract: false}]}
  run:
    script: ../../build.sh
    toolchain-artifact: public/build/kit.txt
    pass-env: [COUNT]
bare:
  description: has no command
  fetches: {fetch: [{artifact: plain, extract: false}]}
"""
SCRIPT = '#!/bin/sh\necho ran >> "$COUNT"\ncat lib-1.0/lib.h plain.txt > "$UPLOAD_DIR/kit.txt"\n'


@pytest.fixture
def top(tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project of a file, two archives and a toolchain; it is the current directory."""
    origin.answers |= {"/plain.txt": reply(PLAIN), "/lib.tar": reply(LIBRARY), "/tool.tar": reply(TOOL)}
    stripped = "    strip-components: 1\n    artifact-name: tool.tar.zst\n"
    fetches = [
        definition("plain", f"{origin.url}/plain.txt", PLAIN),
        definition("lib", f"{origin.url}/lib.tar", LIBRARY),
        definition("tool", f"{origin.url}/tool.tar", TOOL, stripped),
    ]
    written(
        tmp_path,
        {
            "dodo.py": "from doit_fetch import DOIT_CONFIG, task_fetchdefs\n",
            "fetchdefs/fetch/all.yml": "".join(fetches),
            "fetchdefs/toolchain/all.yml": TOOLCHAIN,
            "build.sh": SCRIPT,
        },
    )
    for name in CLEAN.keys() ^ os.environ.keys():
        monkeypatch.delenv(name)
    monkeypatch.setenv("FETCH_RETRIES", "0")
    monkeypatch.setenv("FETCH_DURABILITY", "fast")
    monkeypatch.setenv("COUNT", str(tmp_path / "count"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file(top: Path, origin: Origin) -> None:
    """The path is absolute and the same for every version; a second call makes no request."""
    path = doit_fetch.fetch("plain")
    assert path == top / "build/artifacts/plain/plain.txt"
    assert path.read_bytes() == PLAIN
    assert doit_fetch.fetch("fetch:plain") == path
    assert len(origin.requests) == 1
    origin.answers["/plain.txt"] = reply(b"new")
    text = (top / "fetchdefs/fetch/all.yml").read_text()
    old, new = (
        definition("plain", f"{origin.url}/plain.txt", PLAIN),
        definition("plain", f"{origin.url}/plain.txt", b"new"),
    )
    (top / "fetchdefs/fetch/all.yml").write_text(text.replace(old, new))
    assert doit_fetch.fetch("plain") == path
    assert path.read_bytes() == b"new"


def test_trees(top: Path, origin: Origin) -> None:
    """An archive is extracted once, a repacked one from its artifact; what is damaged is made again; `format:` makes one."""
    assert (doit_fetch.tree("lib") / "lib-1.0/lib.h").read_bytes() == b"#define LIB 1\n"
    tree = doit_fetch.tree("tool")
    assert tree == top / "build/extracted/tool"
    assert (tree / "tool.c").is_file()
    assert doit_fetch.fetch("tool").name == "tool.tar.zst"
    assert len(origin.requests) == 2
    (tree / "tool.c").unlink()
    assert (doit_fetch.tree("tool") / "tool.c").is_file()
    assert len(origin.requests) == 2
    origin.answers["/tool.bin"] = reply(TOOL)
    unnamed = definition("unnamed", f"{origin.url}/tool.bin", TOOL, "    format: tar\n")
    (top / "fetchdefs/fetch/unnamed.yml").write_text(unnamed)
    assert (doit_fetch.tree("unnamed") / "tool/tool.c").is_file()


def test_a_toolchain(top: Path) -> None:
    """The command of a toolchain runs once; its output is its artifact."""
    assert doit_fetch.fetch("kit").read_bytes() == b"#define LIB 1\n" + PLAIN
    assert doit_fetch.tree("toolchain:kit") == top / "build/kit"
    assert doit_fetch.fetch("kit") == top / "build/artifacts/kit/kit.txt"
    assert (top / "count").read_text() == "ran\n"


def _trusted() -> tuple[Project, Path]:
    """Return a project whose files are old enough to be trusted, and the path of its toolchain's output."""
    for _ in range(100):
        path = doit_fetch.fetch("kit")
        project = Project.load()
        assert project.fetch("kit") == path
        if project.is_current():
            return project, path
        time.sleep(0.05)
    pytest.fail("the files of the project are never trusted")


@pytest.mark.parametrize("change", ["script", "variable", "setting"])
def test_a_change_in_a_long_process(change: str, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that goes on notices what changed since its last call: scripts, passed variables, settings."""
    project, first = _trusted()
    if change == "script":
        (top / "build.sh").write_text(SCRIPT + 'echo more >> "$UPLOAD_DIR/kit.txt"\n')
    elif change == "variable":
        monkeypatch.setenv("COUNT", str(top / "other"))
    else:
        (top / "pyproject.toml").write_text('[tool.doit-fetch]\nbuild = "elsewhere"\n')
    assert not project.is_current()
    again = doit_fetch.fetch("kit")
    assert (again == first) == (change != "setting")
    assert again.read_text().endswith("more\n") == (change == "script")
    assert (top / "other").exists() == (change == "variable")


def test_doit_and_the_api_share_everything(top: Path, origin: Origin) -> None:
    """What doit made is there for the API, and what the API made for doit."""
    assert ran(doit(top, "fetch:plain", "toolchain:kit", COUNT=str(top / "count")))
    made = doit_fetch.fetch("kit")
    doit_fetch.tree("tool")
    assert len(origin.requests) == 3
    assert not {"fetch:plain", "fetch:lib", "toolchain:kit"} & set(ran(doit(top, COUNT=str(top / "count"))))
    assert len(origin.requests) == 3
    assert made.read_bytes()
    assert (top / "count").read_text() == "ran\n"


def test_a_removed_link_is_made_again(top: Path, origin: Origin) -> None:
    """The path that never changes is a target: doit makes it again, without a request."""
    assert ran(doit(top, "fetch:plain"))
    (top / "build/artifacts/plain/plain.txt").unlink()
    assert ran(doit(top, "fetch:plain")) == ["fetch:plain"]
    assert (top / "build/artifacts/plain/plain.txt").read_bytes() == PLAIN
    assert ran(doit(top, "fetch:plain")) == []
    assert len(origin.requests) == 1


USER = """
from doit_fetch import DOIT_CONFIG, task_fetchdefs

def task_use():
    given = {"plain": ("fetch:plain", "path"), "sha": ("repack:tool", "sha256"), "tree": ("extract:tool", "tree")}
    return {"actions": ["echo %(plain)s %(sha)s %(tree)s; ls %(plain)s %(tree)s/tool.c"], "getargs": given, "uptodate": [False], "verbosity": 2}
"""


def test_values_for_other_tasks(top: Path) -> None:
    """A task of the user finds paths and digests of what our tasks made, also when those are up to date."""
    (top / "dodo.py").write_text(USER)
    for _ in range(2):
        done = doit(top, "use", COUNT=str(top / "count"))
        assert done.returncode == 0, done.stdout
        path, sha, tree = next(line for line in done.stdout.splitlines() if "build/extracted" in line).split()
        assert (top / path).read_bytes() == PLAIN
        assert sha == hashlib.sha256(doit_fetch.fetch("tool").read_bytes()).hexdigest()
        assert (top / tree / "tool.c").is_file()


def test_a_name_counts_before_an_alias(top: Path) -> None:
    """The alias of a fetch does not hide the toolchain with this name."""
    path = top / "fetchdefs/fetch/all.yml"
    path.write_text(path.read_text().replace("plain:\n", "plain:\n  fetch-alias: bare\n", 1))
    assert doit_fetch.tree("bare") == top / "build/bare"
    assert doit_fetch.fetch("fetch:bare").read_bytes() == PLAIN


ERRORS: dict[str, tuple[str, str, type[errors.FetchError], str]] = {
    "a typo": ("fetch", "plane", errors.UnknownNameError, "did you mean plain?"),
    "a wrong kind": ("fetch", "toolchain:plain", errors.UnknownNameError, "no definition is named"),
    "no archive": ("tree", "plain", errors.UnsupportedArchiveError, "doit path fetch:plain"),
    "no artifact": ("fetch", "bare", errors.ToolError, "doit path toolchain:bare --tree"),
}


@pytest.mark.usefixtures("top")
@pytest.mark.parametrize("case", ERRORS)
def test_errors(case: str, origin: Origin) -> None:
    """A mistake is an error of the API's own classes with the next step, before any request."""
    function, name, kind, text = ERRORS[case]
    with pytest.raises(kind, match=text):
        getattr(doit_fetch, function)(name)
    assert not origin.requests


@pytest.mark.usefixtures("top")
def test_offline(origin: Origin) -> None:
    """Offline, what the cache has is returned; anything else is an error without a request."""
    doit_fetch.fetch("plain")
    assert doit_fetch.fetch("plain", offline=True).read_bytes() == PLAIN
    with pytest.raises(errors.OfflineError):
        doit_fetch.fetch("lib", offline=True)
    assert len(origin.requests) == 1


def test_a_mismatch(top: Path, origin: Origin) -> None:
    """Other bytes are an error that can be caught, and nothing is placed."""
    origin.answers["/plain.txt"] = reply(b"another file\n")
    with pytest.raises(errors.AllSourcesFailedError, match="sha256"):
        doit_fetch.fetch("plain")
    assert not (top / "build/artifacts/plain").exists()


def test_a_url_that_was_bumped_without_its_digest(top: Path, origin: Origin) -> None:
    """A digest that stays while its URL changes is confirmed by one download before it is believed."""
    doit_fetch.fetch("plain")
    origin.answers["/plain-2.txt"] = reply(b"plain version 2\n")
    text = (top / "fetchdefs/fetch/all.yml").read_text()
    (top / "fetchdefs/fetch/all.yml").write_text(text.replace("/plain.txt", "/plain-2.txt"))
    with pytest.raises(errors.AllSourcesFailedError, match=r"plain-2\.txt"):
        doit_fetch.fetch("plain")
    assert len(origin.requests) >= 2


def test_a_project_elsewhere(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory, or a loaded project, may be named from anywhere; definitions are readable."""
    monkeypatch.chdir("/")
    assert doit_fetch.fetch("plain", project=top).read_bytes() == PLAIN
    project = Project.load(top)
    assert sorted(project.definitions) == ["bare", "kit", "lib", "plain", "tool"]
    assert doit_fetch.fetch("plain", project=project) == project.fetch("plain")
    monkeypatch.chdir(top / "fetchdefs/fetch")
    assert doit_fetch.fetch("plain") == project.fetch("plain")


def test_threads_and_processes_download_once(top: Path, origin: Origin) -> None:
    """Eight threads, and four processes at the same time, make one request."""
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(doit_fetch.tree("lib"))) for _ in range(8)]
    code = "import doit_fetch; print(doit_fetch.tree('lib'))"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=top,
            env={**os.environ, "PYTHONPATH": PYTHONPATH},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outputs = [process.communicate()[0].strip() for process in processes]
    assert {*map(str, paths), *outputs} == {str(top / "build/extracted/lib")}
    assert len(paths) == 8
    assert len(origin.requests) == 1


WARM = """
import sys, time, doit_fetch
seen = []
sys.addaudithook(lambda name, words: seen.append((name, str(words[0]))) if name.partition(".")[0] in ("open", "socket") else None)
for _ in range(100):  # files that changed just now are not trusted
    seen.clear()
    doit_fetch.fetch("plain"), doit_fetch.tree("lib"), doit_fetch.fetch("tool")
    places = ("/blobs/", "/artifacts/", "extracted/lib/")
    found = [one for one in seen if one[0] != "open" or any(place in one[1] for place in places)]
    if not found:
        break
    time.sleep(0.05)
print(found)
"""


def test_a_warm_call_reads_nothing(top: Path, origin: Origin) -> None:
    """A file and a tree that exist are returned without a socket, and without opening any content."""
    done = subprocess.run(
        [sys.executable, "-c", WARM],
        cwd=top,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "[]\n", done.stdout + done.stderr
    assert len(origin.requests) == 3


def test_names() -> None:
    """The module has at most eight public names, and imports neither doit nor requests until one is used."""
    assert len(doit_fetch.__all__) <= 8
    code = "import sys, doit_fetch; from doit_fetch.errors import FetchError; print({'doit', 'requests', 'yaml'} & {*sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**CLEAN, "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "set()\n"


def test_a_variable_that_changes(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A passed variable with another value gives another output; a project that knows the earlier one refuses to run."""
    path = doit_fetch.fetch("kit")
    project = doit_fetch.Project.load()
    assert project.fetch("kit") == path
    target = path.resolve()
    monkeypatch.setenv("COUNT", str(top / "other"))
    for one in (top / "build/kit/.prepared.json", *top.glob("cache/v1/results/*/*")):
        one.unlink()
    with pytest.raises(doit_fetch.errors.ToolError, match="the variable COUNT changed after the project was loaded"):
        project.fetch("kit")
    assert doit_fetch.fetch("kit").resolve() != target
    assert (top / "other").read_text() == "ran\n"


def test_projects_that_share_a_cache(top: Path, tmp_path: Path, origin: Origin) -> None:
    """In the user's cache each project has a database of its own: a task of one is not done because another ran it."""
    once = (
        "def task_once():\n    from doit.tools import run_once\n"
        '    return {"actions": ["echo made here"], "uptodate": [run_once], "verbosity": 2}\n'
    )
    environ = {"FETCH_CACHE_DIR": "user", "XDG_CACHE_HOME": str(tmp_path / "xdg")}
    for name in ("one", "two"):
        here = tmp_path / name
        shutil.copytree(top / "fetchdefs", here / "fetchdefs")
        written(here, {"dodo.py": DODO + once, "build.sh": SCRIPT})
        done = doit(here, "once", "fetch:plain", **environ)
        assert "made here" in done.stdout, done.stdout
        assert "made here" not in doit(here, "once", **environ).stdout
        assert not (here / "cache").exists()
    assert len(origin.requests) == 1
    assert len(list((tmp_path / "xdg/doit-fetch").glob("doit-*.db"))) == 2


def test_outputs_are_ignored_by_git(top: Path) -> None:
    """New directories ignore themselves; one that has files keeps what it has."""
    doit_fetch.fetch("plain")
    for name, own in (("cache", ".gitignore"), ("build", "other.o")):
        assert (top / name / ".gitignore").read_text() == "*\n"
        (top / name).rename(top / f"old-{name}")
        written(top, {f"{name}/{own}": "mine\n"})
    ran(doit(top, "extract:lib"))
    assert (top / "cache/.gitignore").read_text() == "mine\n"
    assert not (top / "build/.gitignore").exists()
    for name in ("cache", "build"):
        (top / name).rename(top / f"other-{name}")
    ran(doit(top, "extract:lib"))
    assert [(top / name / ".gitignore").read_text() for name in ("cache", "build")] == ["*\n"] * 2
