"""Rules of the architecture: layers, imports, names and the choices that the project fixes."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "tasks_lib").rglob("*.py"))
PURE = (
    "errors.py",
    "digest.py",
    "relpath.py",
    "formats.py",
    "vcs/urls.py",
    "recipe.py",
    "definitions/",
    "pins/versions.py",
    "pins/purl.py",
    "pins/questions.py",
    "pins/spdx.py",
)
#: Starts of programs, which read the environment.
PROGRAMS = ("batch.py", "fetch_content/console.py", "packaging/zipapp_main.py", "cli/console.py")
IO = {"os", "pathlib", "time", "random", "subprocess", "socket", "requests", "tempfile", "shutil"}


def imported(path: Path) -> set[str]:
    """Return the modules that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def name_of(path: Path) -> str:
    return path.relative_to(ROOT / "tasks_lib").as_posix()


@pytest.mark.parametrize("path", [path for path in MODULES if name_of(path).startswith(PURE)], ids=name_of)
def test_pure_modules_do_no_io(path: Path) -> None:
    """Modules that work on text and values only do no I/O."""
    assert not {module.partition(".")[0] for module in imported(path)} & IO


def test_imports_are_confined() -> None:
    """Only transport uses sockets, only three packages doit, only fetch_content the environment, only fs what POSIX lacks."""
    for path in MODULES:
        roots = {module.partition(".")[0] for module in imported(path)}
        name = name_of(path)
        assert not roots & {"requests", "urllib3", "socket", "ssl"} or name.startswith("transport/"), name
        assert "doit" not in roots or name.startswith(("graph/", "engine/", "cli/")), name
        # a zip application; the tar of mmdebstrap, with owners and capabilities
        assert not roots & {"tarfile", "zipfile"} or name in ("packaging/build.py", "image/root_layer.py"), name
        if name != "fs/system_calls.py":  # attributes of modules that only Linux has: mypy --platform darwin
            assert "ctypes" not in roots and not re.search(r"\bioctl\(|[\"']/proc/", path.read_text("utf-8")), name
        assert "os.environ" not in path.read_text("utf-8") or name in PROGRAMS, name


def test_module_names_are_specific() -> None:
    """No module has a generic name."""
    assert not {path.stem for path in MODULES} & {"utils", "util", "helpers", "common", "misc", "base", "manager"}


def test_supported_pythons_are_tested() -> None:
    """The classifiers name exactly the Pythons that .ci/python has and .ci/run runs; README names them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    prefix = "Programming Language :: Python :: "
    named = {text.removeprefix(prefix) for text in project["classifiers"] if text.startswith(prefix)}
    run, python = ((ROOT / ".ci" / name).read_text("utf-8") for name in ("run", "python"))
    cases = re.findall(r"^    ([\d. |]+)\) release=", python, re.MULTILINE)
    loop = re.findall(r"^for version in ([\d. ]+); do", run, re.MULTILINE)
    assert named == set(re.findall(r"[\d.]+", " ".join(cases)))
    assert named == set(re.findall(r"[\d.]+", " ".join(loop))) | set(
        re.findall(r"^\.ci/python ([\d.]+)", run, re.MULTILINE)
    )
    assert f"Python {', '.join(sorted(named)[:-1])} and {max(named)}" in (ROOT / "README.md").read_text("utf-8")


def test_fixed_dependencies() -> None:
    """doit, requests and zstandard are fixed: no other engine, HTTP client or zstd library replaces them.

    In transport, requests carries each request (an adapter over urllib3's pools; own sockets below a urllib3 connection,
    which check a deadline at each wait, are allowed; h11 or a protocol implementation of our own is not).
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = {re.split(r"[<>=!~\[ ]", text)[0] for text in project["dependencies"]}
    assert {"doit", "requests", "zstandard"} <= named
    assert not named & {"h11", "httpx", "httpcore", "aiohttp", "pycurl", "urllib3-future"}
    transport = [path for path in MODULES if name_of(path).startswith("transport")]
    assert any("requests" in imported(path) | {one.partition(".")[0] for one in imported(path)} for path in transport)


def test_the_threat_model_names_tests() -> None:
    """Every test that docs/threat-model.md names exists."""
    page = (ROOT / "docs/threat-model.md").read_text("utf-8")
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", page)
    assert len(named) > 20
    for file, name in named:
        assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text("utf-8"), (file, name)


#: The parts of a run: each is created in one module, for every command.
COMPOSED = {"Cache", "Transport", "Downloader", "UnverifiedDownloader", "Gpg", "RepositorySettings"}


def test_one_composition_root() -> None:
    """One module creates the parts of a run, and one the transports of its stores; all others receive them."""
    creators = {
        name_of(path)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in COMPOSED
    }
    assert creators == {"context.py"}
