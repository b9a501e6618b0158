"""`doit prove`: what an export lacks is named, and what it has builds without a network."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tasks_lib.export import LAYOUTS
from tests.origin import Origin, reply
from tests.project import DODO, LIBRARY, ROOT, definition, doit, written
from tests.test_export_tools import mirror
from tests.test_program import program

#: Blobs that are removed, of twice as many.
REMOVED = 20


def contents() -> dict[str, bytes]:
    """Return small files by name; the first one is an archive."""
    return {f"d{number}": f"{number}\n".encode() if number else LIBRARY for number in range(2 * REMOVED)}


@pytest.fixture
def top(tmp_path: Path, origin: Origin) -> Path:
    """Return a project without a dodo.py, and its export in `../out`, whose origin is dead."""
    origin.answers |= {f"/{name}.tar" if name == "d0" else f"/{name}": reply(body) for name, body in contents().items()}
    text = "".join(
        definition(name, f"{origin.url}/{name}{'.tar' if name == 'd0' else ''}", body)
        for name, body in contents().items()
    )
    top = written(tmp_path / "project", {"fetchdefs/fetch/all.yml": text})
    done = program(top, "export", "cas", "../out")
    assert done.returncode == 0, done.stderr
    origin.answers.clear()
    return top


def test_an_export(top: Path) -> None:
    """A complete export proves the graph; each of 20 removed blobs is named, and nothing else."""
    shutil.rmtree(top / "cache")
    done = program(top, "prove", "--from", "../out")
    assert (done.returncode, done.stdout) == (0, "proven: everything is built from ../out, without a network\n"), done
    blobs = {path.read_bytes(): path for path in (top.parent / "out/cas").iterdir()}
    removed = [name for name in contents() if int(name[1:]) % 2]
    for name in removed:
        blobs[contents()[name]].unlink()
    done = program(top, "prove", "--from", "../out")
    expected = [*(f"missing: {name}" for name in sorted(removed)), "not proven: 20 downloads are not in ../out"]
    assert (done.returncode, done.stdout.splitlines()) == (1, expected)
    blobs[contents()["d2"]].chmod(0o644)
    blobs[contents()["d2"]].write_bytes(b"x\n")
    done = program(top, "prove", "d0", "d2", "--from", "../out")
    assert done.stdout.startswith("missing: d2\nnot proven: 1 download is not in"), done


@pytest.mark.slow
def test_the_store_of_the_settings(top: Path) -> None:
    """Without `--from` a configured store feeds the build, and nothing else; with it, the store feeds nothing."""
    store = (top.parent / "out").as_uri()
    done = program(top, "prove", "d1", f"store={store}")
    assert (done.returncode, done.stdout.partition(",")[0]) == (0, "proven: everything is built from the stores"), done
    (top.parent / "other/cas").mkdir(parents=True)
    empty = program(top, "prove", "d1", f"store={(top.parent / 'other').as_uri()}")
    assert (empty.returncode, empty.stdout.splitlines()[0]) == (1, "missing: d1"), empty
    given = program(top, "prove", "d1", "--from", "../other", f"store={store}")
    assert (given.returncode, given.stdout.splitlines()[0]) == (1, "missing: d1"), given


@pytest.mark.slow
def test_a_served_export(top: Path) -> None:
    """A URL is read before the network is closed; the directories of the project stay as they are."""
    shutil.rmtree(top / "cache")
    shutil.rmtree(top / "build")
    with mirror(top.parent / "out") as url:
        done = program(top, "prove", "d*", "--from", url)
    assert (done.returncode, done.stdout.partition(":")[0]) == (0, "proven"), done
    assert not (top / "build").exists() and not (top / "cache/v1/blobs").exists()


NETWORK = """
kit:
  description: a tool that downloads
  fetches: {{fetch: [{{artifact: d1, extract: false}}]}}
  run: {{command: "python3 -c 'import urllib.request; urllib.request.urlopen(\\"{url}\\")'"}}
"""


@pytest.mark.slow
def test_a_command_that_downloads(top: Path, origin: Origin) -> None:
    """A toolchain whose command needs the network fails the proof, and its output says why."""
    origin.answers["/x"] = reply(b"x")
    written(top, {"fetchdefs/toolchain/all.yml": NETWORK.format(url=f"{origin.url}/x")})
    done = program(top, "prove", "kit")
    assert done.returncode == 1
    assert done.stdout == "not proven: the build fails without a network\n"
    assert "toolchain:kit" in done.stderr and "Traceback (most" not in done.stderr.partition("toolchain:kit")[0]


@pytest.mark.slow
def test_the_cache(top: Path) -> None:
    """Without a source the blobs of the cache feed the build; one that is damaged is missing."""
    assert program(top, "prove").stdout == "proven: everything is built from the cache, without a network\n"
    next(
        path for path in (top / "cache/v1/blobs").rglob("*") if path.is_file() and path.read_bytes() == b"7\n"
    ).unlink()
    shutil.rmtree(top / "cache/artifacts", ignore_errors=True)
    done = program(top, "prove")
    assert done.stdout == "missing: d7\nnot proven: 1 download is not in the cache\n", done


@pytest.mark.slow
def test_only_the_source_feeds_a_proof(top: Path) -> None:
    """Neither a store that is a directory nor a private cache, both of pyproject.toml, adds to what a proof has."""
    (top.parent / "store").mkdir()
    settings = f'[tool.doit-fetch]\nstore = "file://{top.parent}/store"\nshard = "1/2"\n'
    written(top, {"pyproject.toml": settings})
    assert program(top, "store", "push", FETCH_STORE_WRITE="always").returncode == 0
    (top.parent / "empty").mkdir()
    shutil.rmtree(top / "cache")
    done = program(top, "prove", "d1", "d2", "--from", "../empty")
    expected = "missing: d1\nmissing: d2\nnot proven: 2 downloads are not in ../empty\n"
    assert (done.returncode, done.stdout) == (1, expected), done
    written(top, {"pyproject.toml": '[tool.doit-fetch]\nprivate_cache = "own"\n'})
    with mirror(top.parent / "out") as url:
        assert program(top, "prove", "d1", "--from", url).returncode == 0
    assert not list((top / "own").glob("v1/blobs/sha256/*"))


@pytest.mark.slow
def test_no_namespace(top: Path) -> None:
    """Where the system allows no network namespace, sockets are denied, and the proof says that it is weaker."""
    done = program(top, "prove", PATH="/nonexistent")
    assert done.returncode == 0
    assert done.stderr == (
        "this proof is weaker: no network namespace (unshare is not installed); only sockets of Python were denied\n"
    )


@pytest.mark.slow
def test_wrong_words(top: Path) -> None:
    """An unknown name or source is refused with what is expected."""
    for words, expected in (
        (("nothing",), "no definition is named 'nothing'"),
        (("--from", "../missing"), "invalid value '../missing' for --from: neither a directory nor a URL"),
        (("--from", "http://me:secret@h/x"), "invalid value 'http://h/x' for --from: neither a directory nor a URL"),
    ):
        done = program(top, "prove", *words)
        assert done.returncode == 3 and expected in done.stderr, done


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout(layout: str, top: Path) -> None:
    """The directory of every layout feeds the build."""
    assert program(top, "export", layout, "../other").returncode == 0
    shutil.rmtree(top / "cache")
    assert program(top, "prove", "--from", "../other").returncode == 0


@pytest.mark.slow
def test_the_sample(tmp_path: Path) -> None:
    """The sample of this repository is built without a network from its export."""
    shutil.copytree(ROOT / "fetchdefs", tmp_path / "fetchdefs")
    written(tmp_path, {"dodo.py": (ROOT / "dodo.py").read_text()})
    assert doit(tmp_path, "export", "distdir", "out", "sample").returncode == 0
    sample = tmp_path / "fetchdefs/fetch/sample.yml"
    text = sample.read_text()
    sample.write_text("\n".join(line for line in text.splitlines() if "mirrors:" not in line))
    assert "proven" in doit(tmp_path, "prove", "--from", "out").stdout
    assert "proven" in doit(tmp_path, "prove", "sample", "--from", "out").stdout
    next((tmp_path / "out").glob("libgreet*")).unlink()
    assert "missing: libgreet-1.0\n" in doit(tmp_path, "prove", "--from", "out").stdout


@pytest.mark.slow
def test_a_task_of_that_name(top: Path) -> None:
    """A task of dodo.py that is called `prove` runs instead."""
    written(top, {"dodo.py": DODO + "def task_prove():\n    return {'actions': ['echo mine'], 'verbosity': 2}\n"})
    assert "mine" in doit(top, "prove").stdout
