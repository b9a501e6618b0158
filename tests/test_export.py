"""`doit export`: what is where in each layout, what is refused, and what a second export changes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from doit_fetch import Project
from tasks_lib.errors import FetchError, OfflineError, SettingError, TreeError
from tasks_lib.export import LAYOUTS, export
from tasks_lib.progress import Silent
from tests.origin import Origin, reply, throttled
from tests.project import CLEAN, DODO, DOIT, LIBRARY, PYTHONPATH, definition, doit, written
from tests.test_program import program

PLAIN = b"a plain file\n"
SHA = hashlib.sha256(PLAIN).hexdigest()
LIB = hashlib.sha256(LIBRARY).hexdigest()


@pytest.fixture
def top(tmp_path: Path, origin: Origin) -> Path:
    """Return a project with two downloads, in the directory `project`."""
    origin.answers |= {"/d/a%2Bb.txt": reply(PLAIN), "/d/a%2Bb.txt?v=1": reply(PLAIN), "/lib.tar": reply(LIBRARY)}
    return project(tmp_path, definition("plain", f"{origin.url}/d/a%2Bb.txt?v=1", PLAIN), lib(origin))


def lib(origin: Origin, name: str = "lib") -> str:
    return definition(name, f"{origin.url}/lib.tar", LIBRARY)


def project(tmp_path: Path, *definitions: str) -> Path:
    return written(tmp_path / "project", {"fetchdefs/fetch/all.yml": "".join(definitions)})


def run(top: Path, layout: str, *words: str, base: str = "", offline: bool = False) -> str:
    """Export to `out`; return the line of configuration."""
    loaded = Project.load(top, offline=offline)
    return export(loaded, layout, top.parent / "out", words, base, Silent()).line


def files(directory: Path) -> dict[str, bytes]:
    """Return the files of an export by path, without its record."""
    found = (path for path in directory.rglob("*") if path.is_file() and ".doit-fetch" not in path.parts)
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


def stamps(directory: Path) -> list[tuple[str, int, int, int]]:
    """Return what a write to any file or directory changes."""
    found = ((str(path), path.lstat()) for path in sorted([directory, *directory.rglob("*")]))
    return [(name, status.st_ino, status.st_mtime_ns, status.st_ctime_ns) for name, status in found]


#: Layout -> path of the plain file and of the library, and other files; HOST and SHA512 are replaced.
PATHS = {
    "url": ("HOST/d/a+b.txt", "HOST/lib.tar", ()),
    "cas": (f"cas/{SHA}", f"cas/{LIB}", ()),
    "sha256sum": ("a%2Bb.txt", "lib.tar", ("SHA256SUMS",)),
    "distdir": ("a%2Bb.txt", "lib.tar", ()),
    "bazel": (f"content_addressable/sha256/{SHA}/file", f"content_addressable/sha256/{LIB}/file", ()),
    "conan": (SHA, LIB, (f"{SHA}.json", f"{LIB}.json")),
    "nix": (f"sha256/{SHA}", f"sha256/{LIB}", ()),
    "meson": ("a%2Bb.txt", "lib.tar", ()),
    "vcpkg": (hashlib.sha512(PLAIN).hexdigest(), hashlib.sha512(LIBRARY).hexdigest(), ()),
    "find-links": ("a+b.txt", "lib.tar", ()),
    "dotslash": (f"cas/{SHA}", f"cas/{LIB}", ("plain", "lib")),
    "cmake": (f"cas/{SHA}", f"cas/{LIB}", ("fetch.cmake",)),
}


def test_every_layout_is_tested() -> None:
    """The table has every layout."""
    assert set(PATHS) == set(LAYOUTS)


@pytest.mark.parametrize("layout", PATHS)
def test_a_layout(layout: str, top: Path, origin: Origin) -> None:
    """Each download is at its path; a second export touches nothing, and a hidden directory has the record."""
    host = origin.url.partition("//")[2]
    line = run(top, layout)
    assert line and "\n" not in line
    out = top.parent / "out"
    plain, library, more = PATHS[layout]
    found = files(out)
    assert found.pop(plain.replace("HOST", host)) == PLAIN
    assert found.pop(library.replace("HOST", host)) == LIBRARY
    assert set(found) == set(more)
    assert {path.name for path in out.iterdir() if path.name.startswith(".")} == {".doit-fetch"}
    before, asked = stamps(out), len(origin.requests)
    assert run(top, layout) == line
    assert stamps(out) == before
    assert len(origin.requests) == asked


def test_links(top: Path) -> None:
    """A file is a hard link to the blob; the cache stays valid although its blobs got links."""
    run(top, "cas")
    blob = top / f"cache/v1/blobs/sha256/{SHA[:2]}/{SHA}"
    assert blob.samefile(top.parent / f"out/cas/{SHA}")
    assert blob.stat().st_mode & 0o777 == 0o444
    assert doit(written(top, {"dodo.py": DODO}), "verify").stdout.count("0 damaged") == 1


def test_another_file_system(top: Path) -> None:
    """Where no link is possible, the file is a copy, which a second export does not touch."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == top.stat().st_dev:
        pytest.skip("no second file system")
    out = shared / f"doit-fetch-{os.getpid()}"
    try:
        loaded = Project.load(top)
        export(loaded, "cas", out, (), "", Silent())
        before = stamps(out)
        assert files(out) == {f"cas/{SHA}": PLAIN, f"cas/{LIB}": LIBRARY}
        export(loaded, "cas", out, (), "", Silent())
        assert stamps(out) == before
    finally:
        shutil.rmtree(out, ignore_errors=True)


def test_texts(top: Path, origin: Origin) -> None:
    """The texts beside the downloads are what the tools read."""
    out = top.parent / "out"
    run(top, "sha256sum")
    assert (out / "SHA256SUMS").read_text() == f"{SHA}  a%2Bb.txt\n{LIB}  lib.tar\n"
    run(top, "conan")
    assert json.loads((out / f"{LIB}.json").read_text()) == {"references": {"unknown": [f"{origin.url}/lib.tar"]}}
    run(top, "dotslash", base="https://mirror.example/files/")
    shebang, _, text = (out / "lib").read_text().partition("\n")
    entry = json.loads(text)["platforms"]["linux-x86_64"]
    assert shebang == "#!/usr/bin/env dotslash" and os.access(out / "lib", os.X_OK)
    assert (entry["format"], entry["path"]) == ("tar", "lib-1.0/run")
    assert entry["providers"] == [{"url": f"https://mirror.example/files/cas/{LIB}"}]
    run(top, "cmake")
    tree = top / "build/extracted/lib/lib-1.0"
    assert f"set(FETCHCONTENT_SOURCE_DIR_LIB [=[{tree}]=] CACHE PATH" in (out / "fetch.cmake").read_text()
    assert (tree / "lib.h").is_file()


def test_a_dotslash_file_of_several_platforms(tmp_path: Path, origin: Origin) -> None:
    """One DotSlash file has the content of each platform of a definition."""
    origin.answers |= {"/linux": reply(b"l"), "/mac": reply(b"m")}
    digests = {name: hashlib.sha256(name[:1].encode()).hexdigest() for name in ("linux", "mac")}
    sources = {name: f"{{url: '{origin.url}/{name}', sha256: {digest}, size: 1}}" for name, digest in digests.items()}
    top = project(
        tmp_path,
        "tool:\n  description: d\n  fetch:\n    type: static-url\n    artifact-name: tool\n    platforms:\n"
        f"      linux-x86_64: {sources['linux']}\n      linux-aarch64: {sources['linux']}\n"
        f"      macos-aarch64: {sources['mac']}\n",
    )
    run(top, "dotslash")
    found = json.loads((top.parent / "out/tool").read_text().partition("\n")[2])
    assert found["name"] == "tool"
    assert {platform: one["digest"] for platform, one in found["platforms"].items()} == {
        "linux-aarch64": digests["linux"],
        "linux-x86_64": digests["linux"],
        "macos-aarch64": digests["mac"],
    }
    assert not list((top.parent / "out").glob("tool@*"))


def test_changes(top: Path, origin: Origin) -> None:
    """What a definition no longer has is removed; what others put there, and what they changed, stays."""
    out = top.parent / "out"
    run(top, "distdir")
    written(out, {"of-others.txt": "x", "sub/of-others.txt": "y"})
    run(top, "url")
    origin.answers["/lib-2.tar"] = reply(b"2")
    project(top.parent, definition("lib", f"{origin.url}/lib-2.tar", b"2"))
    run(top, "distdir")
    host = origin.url.partition("//")[2]
    others = {"of-others.txt": b"x", "sub/of-others.txt": b"y"}
    assert files(out) == {"lib-2.tar": b"2", f"{host}/d/a+b.txt": PLAIN, f"{host}/lib.tar": LIBRARY, **others}
    (out / host / "lib.tar").unlink()
    (out / host / "lib.tar").write_bytes(b"edited")
    run(top, "url")
    assert files(out) == {"lib-2.tar": b"2", f"{host}/lib-2.tar": b"2", f"{host}/lib.tar": b"edited", **others}


def test_empty_directories(top: Path) -> None:
    """A directory that an export created is removed with its last file; one of others stays."""
    out = top.parent / "out"
    (out / "content_addressable").mkdir(parents=True)
    run(top, "bazel")
    project(top.parent)
    run(top, "bazel")
    assert [path.name for path in out.rglob("*") if path.is_dir()] == [".doit-fetch", "content_addressable"]


def test_named_exports(top: Path, origin: Origin) -> None:
    """An export of some definitions leaves the files of others alone, and the list of digests has both."""
    out = top.parent / "out"
    run(top, "sha256sum", "plain")
    assert set(files(out)) == {"a%2Bb.txt", "SHA256SUMS"}
    run(top, "sha256sum", "l*")
    assert set(files(out)) == {"a%2Bb.txt", "lib.tar", "SHA256SUMS"}
    assert (out / "SHA256SUMS").read_text().count("\n") == 2
    origin.answers["/lib-2.tar"] = reply(b"2")
    project(top.parent, definition("lib", f"{origin.url}/lib-2.tar", b"2"))
    run(top, "sha256sum", "lib")
    assert set(files(out)) == {"a%2Bb.txt", "lib-2.tar", "SHA256SUMS"}


def test_two_projects(top: Path, origin: Origin) -> None:
    """Two projects fill one directory; neither removes what the other one has."""
    out = top.parent / "out"
    other = written(top.parent / "other", {"fetchdefs/fetch/all.yml": lib(origin)})
    run(top, "cas")
    export(Project.load(other), "cas", out, (), "", Silent())
    project(top.parent)
    run(top, "cas")
    assert files(out) == {f"cas/{LIB}": LIBRARY}


def test_one_digest(top: Path, origin: Origin) -> None:
    """Definitions of one digest share a blob, and a sidecar with the URLs of all."""
    origin.answers["/other.tar"] = reply(LIBRARY)
    project(top.parent, lib(origin), definition("same", f"{origin.url}/other.tar", LIBRARY))
    run(top, "conan", "same")
    assert set(files(top.parent / "out")) == {LIB, f"{LIB}.json"}
    text = json.loads((top.parent / f"out/{LIB}.json").read_text())
    assert text["references"]["unknown"] == [f"{origin.url}/lib.tar", f"{origin.url}/other.tar"]


#: What is refused: layout, URLs of the definitions a and b with different content, and words of the message.
REFUSED = {
    "one file name": ("distdir", "/x/f", "/y/f", "a and b have one path in this layout: f"),
    "the query alone": ("url", "/f?v=1", "/f?v=2", "a and b have one path in this layout: HOST/f"),
    "an escape alone": ("find-links", "/f", "/%66", "a and b have one path"),
    "a file and a directory": ("url", "/f", "/f/g", "a and b have one path in this layout: HOST/f"),
    "the list itself": ("sha256sum", "/SHA256SUMS", "/g", "a and the file SHA256SUMS have one path"),
    "the records": ("distdir", "/.doit-fetch", "/g", "a and the records of exports have one path"),
    "a parent": ("url", "/%2e%2e/%2e%2e/f", "/g", "a cannot be exported: its URL contains the component '..'"),
    "a slash": ("find-links", "/..%2Ff", "/g", "a cannot be exported: its URL contains an escaped slash"),
    "a backslash": ("url", "/x%5Cf", "/g", "a cannot be exported: its URL contains a backslash"),
    "a NUL": ("url", "/%00", "/g", "a cannot be exported: its URL contains a control character"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str, tmp_path: Path, origin: Origin) -> None:
    """A path that two definitions have, or that leaves the directory, is refused by name before anything is written."""
    layout, first, second, words = REFUSED[case]
    origin.answers |= {first: reply(b"a"), second: reply(b"b")}
    top = project(
        tmp_path, definition("a", f'"{origin.url}{first}"', b"a", "    artifact-name: a\n"),
        definition("b", f'"{origin.url}{second}"', b"b", "    artifact-name: b\n"),
    )  # fmt: skip
    with pytest.raises(TreeError) as caught:
        run(top, layout, "a", "b")
    assert words.replace("HOST", origin.url.partition("//")[2]) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_files_of_others(top: Path) -> None:
    """A file that no export wrote is not replaced, nor is a symlink followed; the same content is left as it is."""
    out = written(top.parent / "out", {"lib.tar": "mine"})
    with pytest.raises(TreeError, match=r"lib\.tar exists, and no export wrote it"):
        run(top, "distdir")
    assert files(out) == {"lib.tar": b"mine"}
    (out / "lib.tar").write_bytes(LIBRARY)
    run(top, "distdir")
    project(top.parent)
    run(top, "distdir")
    assert files(out) == {"lib.tar": LIBRARY}


def test_a_symlink_in_the_directory(top: Path) -> None:
    """A symlink below the directory is not followed."""
    (top.parent / "out").mkdir()
    (top.parent / "out/cas").symlink_to(top)
    with pytest.raises(TreeError, match="cannot export to"):
        run(top, "cas")
    assert not (top / SHA).exists()


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x"])
def test_a_hostile_record(name: str, top: Path) -> None:
    """A record with a path that leaves the directory is refused."""
    run(top, "cas")
    (record,) = (top.parent / "out/.doit-fetch").iterdir()
    record.write_text(record.read_text().replace(f"cas/{SHA}", name))
    with pytest.raises(TreeError, match="cannot read the record"):
        run(top, "cas")


def test_what_is_missing(top: Path) -> None:
    """Offline, all that is missing is listed, and nothing is written."""
    with pytest.raises(OfflineError, match="offline, and not in the cache: plain, lib"):
        run(top, "cas", offline=True)
    assert not (top.parent / "out").exists()


def test_wrong_words(top: Path) -> None:
    """An unknown layout, name or URL is refused with what is expected."""
    with pytest.raises(SettingError, match=r"no layout is named 'maven'\nuse one of url, cas, .*, oci$"):
        run(top, "maven")
    with pytest.raises(FetchError, match="did you mean plain"):
        run(top, "cas", "plane")
    for url in ("mirror", "https://u:p@h/", "https://h/?x", "https://h/a b", 'https://h/"'):
        with pytest.raises(SettingError, match="--url-base"):
            run(top, "cas", base=url)


def test_the_commands(top: Path) -> None:
    """`doit-fetch export` needs no dodo.py, in any directory of the project; a task of that name runs instead."""
    done = program(top / "fetchdefs", "export", "cas", "../../out", "--url-base", "http://h:1/x/", "plain")
    expected = 'content-addressed: [{url: "http://h:1/x/cas/{sha256}", place: first}]\n'
    assert (done.returncode, done.stdout) == (0, expected), done.stderr
    assert files(top.parent / "out") == {f"cas/{SHA}": PLAIN}
    written(top, {"dodo.py": DODO + "def task_export():\n    return {'actions': ['echo mine'], 'verbosity': 2}\n"})
    assert "mine" in doit(top, "export").stdout


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FETCH_RETRIES", "0")
    monkeypatch.setenv("FETCH_DURABILITY", "fast")
    yield


@pytest.mark.slow
@pytest.mark.parametrize("words", [["export", "cas", "out"], ["store", "pull"]])
def test_an_interruption_stops_the_downloads(words: list[str], tmp_path: Path, origin: Origin) -> None:
    """Ctrl-C ends a command that downloads several files at a time, although the server is slow."""
    contents = {name: name.encode() * 100_000 for name in ("a", "b", "c")}
    for name, content in contents.items():
        digest = hashlib.sha256(content).hexdigest()
        origin.answers |= dict.fromkeys((f"/{name}", f"/cas/{digest}"), throttled(content, 1000))
    here = project(tmp_path, *(definition(name, f"{origin.url}/{name}", one) for name, one in contents.items()))
    environ = {**CLEAN, "PYTHONPATH": PYTHONPATH, "FETCH_STORE": origin.url if "pull" in words else ""}
    (here / "dodo.py").write_text(DODO)
    with subprocess.Popen([*DOIT, *words], cwd=here, env=environ) as process:
        while sum(path.endswith(("/a", "/b", "/c")) or "/cas/" in path for path in origin.paths()) < 3:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
