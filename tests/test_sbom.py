"""`doit sbom`: valid documents with all that is known, the same bytes each time."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tasks_lib.cli.sbom import write
from tasks_lib.pins.materials import list_materials
from tasks_lib.session import Session
from tasks_lib.settings import Settings
from tests.archives import Member, tar
from tests.project import CLEAN, DODO, PYTHONPATH, definition, doit, written
from tests.test_program import program

CONTENT = b"content"
COMMIT = "a" * 40
EPOCH = "1764288000"
FORMATS = ("cyclonedx-1.6", "cyclonedx-1.7", "spdx-2.3")
KEY = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """Return a project with one definition of each kind, and a toolchain that uses two of them."""
    (tmp_path / "plain-1.0.txt").write_bytes(CONTENT)
    fetches = definition(
        "flask",
        "https://example.org/packages/ab/cd/ef01/Flask-2.3.0-py3-none-any.whl?token=secret",
        CONTENT,
        "    artifact-name: f.whl\n",
    )
    fetches += definition(
        "plain",
        f"file://{tmp_path}/plain-1.0.txt",
        CONTENT,
        "    mirrors: ['https://mirror.example.org/plain-1.0.txt']\n",
    )
    fetches += definition("a_b", "https://example.org/x-1.0~rc1.tar", CONTENT, f"    minisign: {{public-key: {KEY}}}\n")
    fetches += definition("a-b", "https://example.org/x.tar", CONTENT, "    purl: pkg:deb/debian/x@1:2-3?arch=amd64\n")
    fetches += f"git:\n  description: \"a 'quoted' <text> \u00e9\"\n  fetch: {{type: git, repo: 'https://example.net/r.git', revision: {COMMIT}}}\n"
    fetches += f"hg:\n  description: d\n  fetch: {{type: hg, repo: 'https://example.net/h', revision: {COMMIT}}}\n"
    toolchain = "kit:\n  description: d\n  fetches: {fetch: [plain, git]}\n  run: {command: ['true'], toolchain-artifact: x.tar}\n"
    files = {"dodo.py": DODO, "fetchdefs/fetch/all.yml": fetches, "fetchdefs/toolchain/all.yml": toolchain}
    return written(tmp_path / "top", files)


def made(top: Path, form: str, *names: str, **environ: str) -> Any:
    done = program(top, "sbom", "--format", form, *names, SOURCE_DATE_EPOCH=EPOCH, **environ)
    assert done.returncode == 0, done.stderr
    assert "secret" not in done.stdout
    return json.loads(done.stdout)


@pytest.mark.parametrize("version", ["1.6", "1.7"])
def test_cyclonedx(top: Path, version: str) -> None:
    """The document is valid (strict), and has package, digest, URLs, size, evidence and consumers."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    document = made(top, f"cyclonedx-{version}")
    assert JsonStrictValidator(SchemaVersion.from_version(version)).validate_str(json.dumps(document)) is None
    found = {one["bom-ref"]: one for one in document["components"]}
    assert sorted(found) == [
        "fetch:a-b",
        "fetch:a_b",
        "fetch:flask",
        "fetch:git",
        "fetch:hg",
        "fetch:plain",
        "toolchain:kit",
    ]
    flask = found["fetch:flask"]
    assert (flask["name"], flask["version"], flask["purl"]) == ("flask", "2.3.0", "pkg:pypi/flask@2.3.0")
    assert flask["hashes"][0]["alg"] == "SHA-256"
    assert (
        flask["externalReferences"][0]["url"]
        == "https://example.org/packages/ab/cd/ef01/Flask-2.3.0-py3-none-any.whl?..."
    )
    facts = {(one["name"], one["value"]) for one in found["fetch:plain"]["properties"]}
    assert {
        ("doit-fetch:size", "7"),
        ("doit-fetch:consumer", "kit"),
        ("doit-fetch:definition", "fetchdefs/fetch/all.yml:9"),
    } <= facts
    assert len(found["fetch:plain"]["externalReferences"]) == 2
    assert f"signed, minisign key {KEY}" in {one["value"] for one in found["fetch:a_b"]["properties"]}
    assert found["fetch:git"]["externalReferences"][0]["type"] == "vcs"
    kit = next(one for one in document["dependencies"] if one["ref"] == "toolchain:kit")
    assert kit["dependsOn"] == ["fetch:git", "fetch:plain"]
    assert document["metadata"]["timestamp"].startswith("2025-11-28T00:00:00")


def test_spdx(top: Path) -> None:
    """The document is valid, and has the same facts."""
    parser = pytest.importorskip("spdx_tools.spdx.parser.jsonlikedict.json_like_dict_parser")
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    document = made(top, "spdx-2.3")
    parsed = parser.JsonLikeDictParser().parse(json.loads(json.dumps(document)))
    assert [one.validation_message for one in validate_full_spdx_document(parsed, "SPDX-2.3")] == []
    found = {one["name"]: one for one in document["packages"]}
    assert sorted(found) == ["a-b", "a_b", "flask", "git", "hg", "kit", "plain"]
    assert len({one["SPDXID"] for one in document["packages"]}) == 7
    assert found["flask"]["externalRefs"][0]["referenceLocator"] == "pkg:pypi/flask@2.3.0"
    assert found["a-b"]["externalRefs"][0]["referenceLocator"] == "pkg:deb/debian/x@1:2-3?arch=amd64"
    assert found["plain"]["checksums"][0]["algorithm"] == "SHA256"
    assert (
        "7 bytes\nalso at https://mirror.example.org/plain-1.0.txt\nused by toolchain kit" in found["plain"]["comment"]
    )
    assert found["git"]["downloadLocation"] == f"git+https://example.net/r.git@{COMMIT}"
    assert found["hg"]["downloadLocation"] == f"hg+https://example.net/h@{COMMIT}"
    assert {
        one["relatedSpdxElement"]
        for one in document["relationships"]
        if one["relationshipType"] == "BUILD_DEPENDENCY_OF"
    } == {"SPDXRef-toolchain-kit"}
    assert document["creationInfo"]["created"] == "2025-11-28T00:00:00Z"


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_same_bytes(top: Path, form: str) -> None:
    """With SOURCE_DATE_EPOCH the document is the same each time, whatever the time zone; a name restricts it."""
    first = program(top, "sbom", "--format", form, SOURCE_DATE_EPOCH=EPOCH)
    again = doit(
        top, "sbom", f"--format={form}", "-o", "x.json", SOURCE_DATE_EPOCH=EPOCH, TZ="Asia/Tokyo", PYTHONHASHSEED="7"
    )
    assert again.returncode == 0, again.stdout
    assert (top / "x.json").read_text() == first.stdout
    assert program(top, "sbom", "--format", form, SOURCE_DATE_EPOCH="0").stdout != first.stdout
    assert len(json.dumps(made(top, form, "hg"))) < len(json.dumps(json.loads(first.stdout))) / 2


@pytest.mark.slow
def test_evidence_of_a_download(top: Path) -> None:
    """The last download is evidence, once there was one."""
    assert program(top, "path", "plain").returncode == 0
    (package,) = made(top, "spdx-2.3", "plain")["packages"][:1]
    assert f"downloaded from file://{top.parent}/plain-1.0.txt" in package["comment"]


@pytest.mark.slow
def test_the_extra_is_missing(top: Path) -> None:
    """Without the library, CycloneDX is an error that names the extra; SPDX works."""
    code = "import sys; sys.modules['cyclonedx'] = None\nfrom tasks_lib.cli.console import main; sys.exit(main())"
    for form, status in (("cyclonedx-1.6", 1), ("spdx-2.3", 0)):
        done = subprocess.run(
            [sys.executable, "-c", code, "sbom", "--format", form],
            cwd=top, env={**CLEAN, "PYTHONPATH": PYTHONPATH}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        assert ("doit-fetch[sbom]" in done.stderr) is bool(status)


def test_what_an_image_is_made_of(top: Path) -> None:
    """The name of an image or a toolchain means the fetches that it consists of, those of its toolchains too."""
    image = "box: {description: d, layers: [{toolchain: kit, dest: /a}, {fetches: [a-b], dest: /b}]}\n"
    written(top, {"fetchdefs/image/all.yml": image})
    for name, expected in {"image:box": ["a-b", "git", "plain"], "kit": ["git", "plain"]}.items():
        names = {one["name"] for one in made(top, "spdx-2.3", name)["packages"]}
        assert sorted(names - {"kit"}) == expected


@pytest.mark.slow
def test_statuses(top: Path) -> None:
    """A wrong format or file is a wrong command line; unusable definitions have their own status."""
    assert doit(top, "sbom", "--format=cyclonedx-1.4").returncode == 3
    assert doit(top, "sbom", "--format=spdx-2.3", "-o", "nowhere/x").returncode == 3
    (top / "fetchdefs/fetch/all.yml").write_text("x: {}\n")
    assert doit(top, "sbom").returncode == 2


def wheel(metadata: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/__init__.py", "")
        archive.writestr("x-1.0.dist-info/METADATA", metadata)
    return file.getvalue()


def packed(name: str, text: str) -> bytes:
    return gzip.compress(tar([Member("x-1.0/"), Member("x-1.0/a", b"1"), Member(name, text.encode())]))


LICENCES = {
    "wheel": (
        "packages/a/b/c/x-1.0-py3-none-any.whl",
        wheel("Name: x\nLicense-Expression: MIT\n\nLicense: none"),
        "MIT",
    ),
    "old wheel": ("packages/a/b/c/x-1.0-py3-none-any.whl", wheel("Name: x\nLicense: Some words\n\n"), "Some words"),
    "npm": ("x/-/x-1.0.tgz", packed("package/package.json", '{"license": "ISC"}'), "ISC"),
    "crate": (
        "crates/x/x-1.0.crate",
        packed("x-1.0/Cargo.toml", '[package]\nlicense = "MIT/Apache-2.0"\n'),
        "MIT OR Apache-2.0",
    ),
    "broken": ("x/-/x-1.0.tgz", packed("package/package.json", "[" * 10_000), ""),
    "no archive": ("x/-/x-1.0.tgz", b"x", ""),
}


@pytest.mark.parametrize("case", LICENCES)
def test_licence(tmp_path: Path, case: str) -> None:
    """The licence that a cached package declares is known; another word than an identifier is a comment in SPDX."""
    path, content, licence = LICENCES[case]
    written(tmp_path, {"fetchdefs/fetch/a.yml": definition("x", f"https://example.org/{path}", content)})
    with contextlib.chdir(tmp_path):
        session = Session(Settings.parse(variables={}, environ={"FETCH_DURABILITY": "fast"}), {})
        with session.context.cache.writer() as writer:
            writer.write(content)
            writer.commit()
        (material,) = list_materials(session.context, session.definitions, session.definitions.fetches.values())
        assert material.licence == licence
        package = json.loads(write([material], "spdx-2.3", 0))["packages"][0]
        assert package["licenseDeclared"] == (licence if licence and case != "old wheel" else "NOASSERTION")
        component = json.loads(write([material], "cyclonedx-1.6", 0))["components"][0]
        assert bool(component.get("licenses")) is bool(licence)
