"""The documentation: its generated pages, its commands, its links."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest
import yaml

from tasks_lib import errors
from tasks_lib.cli import program
from tasks_lib.definitions import SourceFile, json_schema, parse
from tasks_lib.definitions.mirrors import mirrors_schema
from tasks_lib.errors import DefinitionError, SettingError
from tasks_lib.settings import SETTINGS, Settings
from tests.origin import OriginRequest, reply, serving
from tests.project import CLEAN, ROOT

DOCS = ROOT / "docs"
GENERATOR: dict[str, Any] = runpy.run_path(str(DOCS / "generate.py"))
SECTIONS = GENERATOR["SECTIONS"]
#: Keys that are in the tables only to be refused with a reason.
REFUSED = {"branch", "index-search"}
#: Needed by examples of toolchains.
OTHERS = "binutils: {description: d, run: {command: x, toolchain-artifact: b.tar}}\n"


# --- the reference ------------------------------------------------------------------------------


def test_generated_files_are_current() -> None:
    """A generated page is what the tables say; `python docs/generate.py` writes it."""
    for path, text in GENERATOR["files"]().items():
        assert path.read_text("utf-8") == text, path


def properties(schema: Any) -> list[tuple[str, Any]]:
    """Return every key of a schema, at any depth, with its schema."""
    if isinstance(schema, list):
        return [pair for one in schema for pair in properties(one)]
    if not isinstance(schema, dict):
        return []
    own = list(schema.get("properties", {}).items())
    return own + [pair for key, inner in schema.items() if key != "enum" for pair in properties(inner)]


def test_every_key_has_an_entry() -> None:
    """Every key of the schemas has a description, and an example in the reference."""
    known = {key for section in SECTIONS for key in section.examples}
    found = properties(json_schema()) + properties(mirrors_schema())
    assert {key for key, schema in found if "description" not in schema} == set()
    assert {key for key, _ in found} - {"task-defaults", "job-defaults"} == known


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.title)
def test_examples_of_keys(section: Any) -> None:
    """Every key of a mapping has an example, which the schema and the reader accept."""
    schema = GENERATOR["schema_at"](section)
    assert set(section.examples) == set(schema["properties"])
    for key, text in section.examples.items():
        example = yaml.safe_load(text)
        assert key in example
        for name, value in example.items():
            jsonschema.validate(value, schema["properties"][name])
        document = yaml.safe_load(section.base)
        place = document
        for step in section.place:
            place = place[step]
        place.update(example)
        found = [SourceFile(kind=section.kind, path="own.yml", text=yaml.safe_dump(document), directory="/base")]
        if section.kind in ("toolchain", "image"):
            gmp = GENERATOR["_FILES"]["fetch"]
            found.insert(0, SourceFile(kind="fetch", path="f.yml", text=gmp, directory="/base"))
            found.append(SourceFile(kind="toolchain", path="o.yml", text=OTHERS, directory="/base"))
        if key in REFUSED:
            with pytest.raises(DefinitionError, match=key):
                parse(found)
        else:
            parse(found)


def test_examples_of_settings() -> None:
    """Every setting has an example, which is valid and other than the default."""
    assert set(GENERATOR["VALUES"]) == {one.environ for one in SETTINGS}
    for one in SETTINGS:
        value = GENERATOR["VALUES"][one.environ]
        assert value != f"{one.default}"
        store = {"FETCH_STORE": GENERATOR["VALUES"]["FETCH_STORE"]}  # which a shard needs
        Settings.parse(variables={}, environ={**store, one.environ: value, "HOME": "/home/me"})
        if one.choices:
            with pytest.raises(SettingError):
                Settings.parse(variables={}, environ={one.environ: "banana"})


def test_schemas_stand_alone() -> None:
    """A schema has an id, is valid, and accepts the definitions of this repository."""
    for schema in (json_schema(), mirrors_schema()):
        assert schema["$id"].startswith("urn:doit-fetch:")
        jsonschema.Draft202012Validator.check_schema(schema)
    for path in (ROOT / "fetchdefs").glob("*/*.yml"):
        jsonschema.validate(yaml.safe_load(path.read_text("utf-8")), json_schema())
    jsonschema.validate(yaml.safe_load((ROOT / "fetchdefs/mirrors.yml").read_text("utf-8")), mirrors_schema())
    assert json.loads((DOCS / "fetchdefs.schema.json").read_text("utf-8")) == json.loads(json.dumps(json_schema()))


# --- the pages ----------------------------------------------------------------------------------


class Block(NamedTuple):
    """A block of a page: its language, the file that it is (""), and its text."""

    language: str
    title: str
    text: str


README = ROOT / "README.md"
TUTORIAL = DOCS / "tutorial/getting-started.md"
#: Programs of which a page needs one that may not be installed.
NEEDED = {
    "store-nginx.md": "nginx",
    "make.md": "make",
    "cmake.md": "cmake",
    "meson.md": "meson",
    "debian.md": "apt-get",
}
#: The files of the README's definitions; xz is compressed by one version only.
LIB = (
    "/Td6WFoAAATm1rRGAgAhARYAAAB0L+Wj4Cf/AHFdADYaSGYpio/nVjjeS2S7zoB1aCuN88QaOY9ZUKjpDZlikl44xo6GkanXOGpPpub5SpLWGnFMwdfJ"
    "do4x0fMkKJ5uKkx34LO4Vase4grhqRyg/111E1oOU/NT13w1fudIX0g03CxpWWc6yonUC96+7lEAAAAAAARZLlC0GULoAAGNAYBQAADgYv7dscRn+wIA"
    "AAAABFla"
)
DATA = (
    "UEsDBBQAAAAAAAAAIQAxKYbRAwAAAAMAAAAPAAAAZGF0YS9hbnN3ZXIudHh0NDIKUEsBAhQDFAAAAAAAAAAhADEphtEDAAAAAwAAAA8AAAAAAAAAAAAA"
    "AIABAAAAAGRhdGEvYW5zd2VyLnR4dFBLBQYAAAAAAQABAD0AAAAwAAAAAAA="
)
TOOL = b'#!/bin/sh\necho "tool: $*"\n'
#: What a page must have printed.
PRINTED = {
    "getting-started.md": "hello, world",
    "doit.md": "hello, world",
    "make.md": "hello, lazily",
    "cmake.md": "1.0",
    "meson.md": "1.0",
    "shell.md": "hello, from PATH",
    "python.md": "1 passed",
    "coming-from.md": "fetch:zlib",
    "private-artifacts.md": "ok fetch:firmware",
    "adopt.md": "unpinned",
    "prove.md": "proven: everything is built from store",
    "editor.md": "fetchdefs.schema.json",
    "cache.md": "0 damaged",
    "shared-cache.md": "/doit-fetch",
    "several-platforms.md": "ok fetch:tool@macos-aarch64",
    "shared-store.md": "results: signed by writer.key.pub",
    "store-nginx.md": "1 from store 127.0.0.1:8780",
    "events.md": " fetch:hello",
    "taskgraph.md": "gmp-6.1.0",
    "add.md": "listed",
    "update.md": "demo: updated 1.9 -> 1.10\n  tree: 0 added, 0 removed, 1 changed\n    ~ demo.c\n",
    "outdated.md": "tool  1.9.0  1.10.0",
    "audit.md": "EXAMPLE-1: an example; fixed in 1.1",
    "sbom.md": "fetch:hello",
    "debian.md": "  packages: 1, 1 added\n",
    "images.md": "oci:",
    "commands.md": "/build/artifacts/hello/hello-1.0.tar.gz",
}


def blocks(path: Path) -> Iterator[Block]:
    """Return the blocks of a page, in order."""
    text = path.read_text("utf-8")
    for language, title, body in re.findall(r"^```(\w+)(?: title=(\S+))?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(language, title, body)


#: The other pages with commands, but those that tests/test_export_tools.py follows.
PAGES = [
    page
    for page in sorted(DOCS.rglob("*.md"))
    if page != TUTORIAL
    and page.parent.name != "export"
    and any(one.language in ("sh", "console") and not one.title for one in blocks(page))
]


def run(directory: Path, script: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a user with this environment's programs."""
    scripts = sysconfig.get_path("scripts")
    path = os.pathsep.join([scripts, str(Path(sys.executable).parent), CLEAN["PATH"]])
    return subprocess.run(
        ["sh", "-euc", script],
        cwd=directory,
        env={
            **CLEAN,
            "PATH": path,
            "HOME": str(directory.parent / "home"),
            "FETCH_DURABILITY": "fast",
            "PIP_NO_INDEX": "1",
            **environ,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )


def follow(page: Path, directory: Path, origin: str = "https://files.example.org") -> str:
    """Do what a page says: write its files, run its commands; return their output. `origin` replaces its server."""
    output = []
    for block in blocks(page):
        block = block._replace(text=block.text.replace("https://files.example.org", origin))
        if block.title:
            path = directory / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, "utf-8")
        elif block.language == "sh":
            done = run(directory, block.text)
            assert done.returncode == 0, f"{page.name}: {block.text}\n{done.stdout}"
            output.append(done.stdout)
        elif block.language == "console":
            output.append(talk(directory, block.text))
    return "".join(output)


def talk(directory: Path, text: str) -> str:
    """Run the commands after `$` one by one, and compare their output with the lines that follow each."""
    for command, expected in re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", text, re.MULTILINE):
        assert run(directory, command).stdout == expected.replace("/home/me/demo", str(directory)), command
    return text


@pytest.fixture(scope="session")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the project that the tutorial makes."""
    directory = tmp_path_factory.mktemp("docs") / "project"
    directory.mkdir()
    assert PRINTED[TUTORIAL.name] in follow(TUTORIAL, directory)
    return directory


@pytest.fixture
def project(tutorial: Path, tmp_path: Path) -> Path:
    """Return a copy of the tutorial's project, with its cache."""
    return Path(shutil.copytree(tutorial, tmp_path / "project", symlinks=True))


@contextlib.contextmanager
def stopping(server: Path) -> Iterator[None]:
    """Stop the server that a page started and, after a failure, did not stop; the file has its process id."""
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int(server.read_text()), signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page(page: Path, project: Path) -> None:
    """Every command of a how-to page runs in the tutorial's project."""
    if (needed := NEEDED.get(page.name)) and not shutil.which(needed):
        pytest.skip(f"{needed} is not installed")
    with serving({"/firmware-2.bin": with_token}) as origin, stopping(project / "nginx/nginx.pid"):
        assert PRINTED.get(page.name, "") in follow(page, project, origin.url)


@pytest.mark.slow
def test_commands_of_the_readme(tmp_path: Path) -> None:
    """The README's minute and its lines for other programs work in an empty directory."""
    for needed in ("make", "cmake"):
        if not shutil.which(needed):
            pytest.skip(f"{needed} is not installed")
    answers = {"/lib-1.0.tar.xz": reply(base64.b64decode(LIB)), "/data.zip": reply(base64.b64decode(DATA))}
    with serving({**answers, "/tool": reply(TOOL)}) as origin:
        output = follow(README, tmp_path, origin.url)
    assert output.endswith(f"{tmp_path}/build/extracted/lib\ntool: --version\n{tmp_path}/docker/lib-1.0.tar.xz\n")
    table = dict(re.findall(r"^\| (\w[\w ]+) \| `(.*?)`", README.read_text("utf-8"), re.MULTILINE))
    lib = tmp_path / "build/extracted/lib"
    assert run(tmp_path, f"{table['a shell']}; echo $lib").stdout == f"{lib}\n"
    (tmp_path / "Makefile").write_text(f"{table['make']}\nall:\n\t@echo $(LIB)\n")
    assert run(tmp_path, "make").stdout == f"{lib}\n"
    (tmp_path / "x.cmake").write_text(f'{table["CMake"]}\nmessage("${{LIB}}")\n')
    assert run(tmp_path, "cmake -P x.cmake").stdout == f"{lib}\n"
    assert run(tmp_path, f"python3 -c 'import doit_fetch; print({table['Python']})'").stdout.endswith("data.zip\n")
    assert (tmp_path / table["a Dockerfile"].split()[1]).is_file()


def with_token(connection: socket.socket, request: OriginRequest) -> None:
    """Serve the private artifact of a page for its token only."""
    right = request.headers.get("authorization") == "Bearer secret"
    (reply(b"firmware 2\n") if right else reply(b"", "401 Unauthorized"))(connection, request)


@pytest.mark.slow
def test_files_of_the_dockerfile(project: Path) -> None:
    """What the Dockerfile copies exists after the commands of its page, as files and no links."""
    follow(DOCS / "how-to/dockerfile.md", project)
    copied = re.findall(r"^(?:COPY|ADD) (\S+)", (project / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    assert copied == ["docker/hello", "docker/hello-1.0.tar.gz"]
    assert [name for name in copied if not (project / name).exists() or (project / name).is_symlink()] == []
    assert not [path for path in (project / "docker").rglob("*") if path.is_symlink()]


def scripts_of_ci() -> dict[str, list[str]]:
    """Return the commands of the page's job of each service, but the installation."""
    files = {block.title: yaml.safe_load(block.text) for block in blocks(DOCS / "how-to/ci.md") if block.title}
    github = [step.get("run", "") for step in files[".github/workflows/build.yml"]["jobs"]["build"]["steps"]]
    gitlab = files[".gitlab-ci.yml"]["build"]["script"]
    return {
        name: [line for line in lines if line and "pip install" not in line]
        for name, lines in (("github", github), ("gitlab", gitlab))
    }


@pytest.mark.slow
@pytest.mark.parametrize("service", ["github", "gitlab"])
@pytest.mark.parametrize("mask", ["022", "002", "000"])
@pytest.mark.parametrize("saved", ["cache/v1/blobs", "cache/v1/blobs cache/v1/results"])
def test_a_restored_cache(service: str, mask: str, saved: str, tutorial: Path, tmp_path: Path) -> None:
    """The saved directories serve a job with another umask or owner, as the page says, without network or origin."""
    job = tmp_path / "job"
    job.mkdir()
    for name in ("dodo.py", "fetchdefs"):
        run(tmp_path, f"cp -r {tutorial}/{name} job")
    restore = f"tar -C {tutorial} -cf ../saved.tar {saved}; umask {mask}; tar --no-same-permissions -xf ../saved.tar"
    if os.geteuid() == 0:
        restore += "; chown -R 12345 cache"
    assert run(job, restore).returncode == 0
    environ = {"FETCH_OFFLINE": "1"}
    if service == "gitlab" and mask == "000":
        job.chmod(0o777)
        environ["FETCH_CACHE_PARENTS"] = "warn"
    for line in scripts_of_ci()[service]:
        done = run(job, f"umask {mask}; {line}", **environ)
        assert done.returncode == 0, f"{line}\n{done.stdout}"
    assert (job / "build/artifacts/hello/hello-1.0.tar.gz").is_file()


def test_blocks_are_run() -> None:
    """README and tutorial are short, every page states what it prints, and no page shows commands in a block that is not run."""
    assert len(README.read_text("utf-8").splitlines()) <= 120
    text = "".join(block.text for block in blocks(TUTORIAL) if block.language == "sh")
    lines = re.sub(r"<<END\n.*?^END$", "", text, flags=re.DOTALL | re.MULTILINE).splitlines()
    assert 8 <= len(lines) <= 16
    assert {page.name for page in (TUTORIAL, *PAGES)} == {*PRINTED, "dockerfile.md"}
    for page in DOCS.rglob("*.md"):
        assert not [block for block in blocks(page) if block.language in ("bash", "shell") and not block.title]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_can_be_pasted_into_one_shell(page: Path) -> None:
    """No block but the last leaves the shell in another directory than the next one expects."""
    commands = [block.text for block in blocks(page) if block.language == "sh" and not block.title]
    assert not re.search(r"^cd ", "".join(commands[:-1]), re.MULTILINE)


def test_pages_that_are_named_exist() -> None:
    """A page that the text of another one, the README or the code names exists."""
    sources = [*DOCS.rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / "tasks_lib").rglob("*.py")]
    missing = {
        (str(source.relative_to(ROOT)), name)
        for source in sources
        for name in re.findall(r"(?<![\w/])docs/[\w/.-]+\.(?:md|json|py)", source.read_text("utf-8"))
        if not (ROOT / name).exists()
    }
    assert missing == set()


def test_messages_that_are_explained_exist() -> None:
    """The words of a message that the troubleshooting page explains are in the code."""
    code = "".join(path.read_text("utf-8") for path in (ROOT / "tasks_lib").rglob("*.py"))
    code = re.sub(r'"\s*f?"', "", code)
    table = (DOCS / "troubleshooting.md").read_text("utf-8").partition("## Messages")[2].partition("## Exit")[0]
    words = [word for row in table.splitlines() for word in re.findall(r"`([^`]+)`", row.partition(" | ")[0])]
    pieces = [piece.strip() for word in words for piece in re.split(r"\.\.\.|\bN\b|sha256:|FILE:LINE: KEY:", word)]
    assert [piece for piece in pieces if len(piece) > 8 and piece not in code] == []
    for name in re.findall(r"^\| `(\w+Error)`", (DOCS / "troubleshooting.md").read_text("utf-8"), re.MULTILINE):
        assert f"class {name}(" in code


def test_every_exception_and_command_is_explained() -> None:
    """Each exception is on the troubleshooting page, and each command of doit and of `doit-fetch` on its page."""
    explained = (DOCS / "troubleshooting.md").read_text("utf-8")
    kinds = [name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) > 20
    assert [name for name in kinds if f"`{name}`" not in explained] == []
    commands = (DOCS / "reference/commands.md").read_text("utf-8")
    ours = [one.name for one in entry_points(group="doit.COMMAND") if one.value.startswith("tasks_lib.")]
    missing = [name for name in ours if not re.search(rf"`doit {name}\b", commands)]
    assert missing == ["run"]  # the command of a bare `doit`
    assert [name for name in program.COMMANDS if f"`doit-fetch {name}" not in commands] == []


@pytest.mark.slow
def test_the_site_builds(tmp_path: Path) -> None:
    """`mkdocs build --strict` accepts every page and link, and fails for a broken one."""
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f"]  # -q would count no warning
    done = subprocess.run(
        [*command, ROOT / "mkdocs.yml", "-d", tmp_path / "site"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "<strong>Makefile</strong>" in (tmp_path / "site/how-to/make.html").read_text("utf-8")
    assert 'href="network.html"' in (tmp_path / "site/cache.html").read_text("utf-8")
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    (tmp_path / "docs/glossary.md").write_text("[x](cache.md#nothing)")
    done = subprocess.run(
        [*command, tmp_path / "mkdocs.yml", "-d", tmp_path / "other"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
