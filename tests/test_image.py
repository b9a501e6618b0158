"""Images: layers from fetches and toolchains, the OCI layout, and what each kind of command does with an image."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard
from msgspec.structs import replace

import doit_fetch
from tasks_lib import recipe
from tasks_lib.definitions import Image, ImageConfig
from tasks_lib.errors import DefinitionError
from tasks_lib.image.rootfs import mmdebstrap_version
from tasks_lib.incremental.definition_files import load
from tests.archives import Member, tar
from tests.debian_project import DEBS, define, mirror
from tests.debian_project import project as debian_project
from tests.debian_root import needs_mmdebstrap
from tests.project import DODO, definition, doit, ran, written

TREE = tar(
    [
        Member("pkg-1/bin/hi", b"#!/bin/sh\necho hi\n", mode=0o755),
        Member("pkg-1/bin/hi2", kind=b"1", target="pkg-1/bin/hi"),
        Member("pkg-1/bin/hi3", kind=b"2", target="hi"),
        Member("pkg-1/doc", b"text\n"),
    ]
)
DATA = b"data\n"
TOOLCHAIN = """\
tool:
  description: the tool
  run:
    command: "printf '#!/bin/sh\\necho VERSION\\n' > $UPLOAD_DIR/tool"
    toolchain-artifact: tool
"""
IMAGE = """\
small:
  description: a small image
  layers:
    - fetches: [pkg, {artifact: data, dest: share}]
      dest: /opt/x
    - toolchain: tool
      dest: /usr/local/bin
  config:
    cmd: [/opt/x/bin/hi, again]
    entrypoint: [/usr/local/bin/tool]
    env: {PATH: /opt/x/bin, LANG: C.UTF-8}
    user: 1000
    workdir: /opt/x/
    labels: {org.example.a: b}
"""


def project(root: Path, image: str = IMAGE, version: str = "1", more: dict[str, bytes] | None = None) -> Path:
    """Write a project with an image of two fetches and a toolchain."""
    contents = {"pkg": TREE, "data": DATA, **(more or {})}
    names = {"pkg": "pkg-1.tar", "data": "data"}
    source = root / "src"
    source.mkdir(parents=True, exist_ok=True)
    blocks = []
    for name, content in contents.items():
        file = names.get(name, f"{name}.tar")
        (source / file).write_bytes(content)
        strip = "    strip-components: 1\n" if name == "pkg" else ""
        blocks.append(definition(name, f"file:../../src/{file}", content, strip))
    return written(
        root,
        {
            "dodo.py": DODO,
            "fetchdefs/fetch/all.yml": "".join(blocks),
            "fetchdefs/toolchain/tool.yml": TOOLCHAIN.replace("VERSION", version),
            "fetchdefs/image/small.yml": image,
        },
    )


def archive_of(root: Path, name: str = "small") -> Path:
    return root / f"build/artifacts/{name}/{name}.oci.tar"


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], list[bytes]]:
    """Return index, manifest, configuration and layers of an image; each blob has the name of its digest."""
    with tarfile.open(path) as opened:
        files = {one.name: opened.extractfile(one).read() for one in opened if one.isfile()}  # type: ignore[union-attr]
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads(files["index.json"])

    def blob(descriptor: dict[str, Any]) -> bytes:
        algorithm, _, digits = descriptor["digest"].partition(":")
        content = files[f"blobs/{algorithm}/{digits}"]
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (digits, descriptor["size"])
        return content

    manifest = json.loads(blob(index["manifests"][0]))
    return index, manifest, json.loads(blob(manifest["config"])), [blob(one) for one in manifest["layers"]]


def entries(layer: bytes) -> dict[str, str]:
    """Return path -> kind or mode, and target, of each entry of a layer; all belong to root and have one time."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(layer)) as opened:
        for one in opened:
            assert (one.uid, one.gid, one.uname, one.gname, one.mtime, one.pax_headers) == (0, 0, "", "", 315532800, {})
            found[one.name] = f"{one.type.decode()} {one.mode:o} {one.linkname}".strip()
    assert list(found) == sorted(found)
    return found


def digest_of(root: Path) -> str:
    return str(read(archive_of(root))[0]["manifests"][0]["digest"])


def test_layout(tmp_path: Path) -> None:
    """The archive is an OCI layout with one uncompressed layer for each one of the definition."""
    made = doit(project(tmp_path), "image:small")
    assert ran(made) == ["fetch:data", "fetch:pkg", "image:small", "toolchain:tool"]
    index, manifest, config, layers = read(archive_of(tmp_path))
    (descriptor,) = index["manifests"]
    assert index["mediaType"] == "application/vnd.oci.image.index.v1+json"
    assert manifest["mediaType"] == descriptor["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.oci.image.config.v1+json"
    assert {one["mediaType"] for one in manifest["layers"]} == {"application/vnd.oci.image.layer.v1.tar"}
    assert descriptor["annotations"]["org.opencontainers.image.ref.name"] == "latest"
    assert config["rootfs"] == {"type": "layers", "diff_ids": [one["digest"] for one in manifest["layers"]]}
    assert (config["os"], config["created"]) == ("linux", "1970-01-01T00:00:00Z")
    assert config["config"] == {
        "Cmd": ["/opt/x/bin/hi", "again"],
        "Entrypoint": ["/usr/local/bin/tool"],
        "Env": ["PATH=/opt/x/bin", "LANG=C.UTF-8"],
        "Labels": {"org.example.a": "b"},
        "User": "1000",
        "WorkingDir": "/opt/x",
    }
    assert entries(layers[0]) == {
        "opt": "5 755",
        "opt/x": "5 755",
        "opt/x/bin": "5 755",
        "opt/x/bin/hi": "0 755",
        "opt/x/bin/hi2": "1 755 opt/x/bin/hi",
        "opt/x/bin/hi3": "2 777 hi",
        "opt/x/doc": "0 644",
        "opt/x/share": "5 755",
        "opt/x/share/data": "0 644",
    }
    assert entries(layers[1]) == {
        "usr": "5 755", "usr/local": "5 755", "usr/local/bin": "5 755", "usr/local/bin/tool": "0 755"
    }  # fmt: skip
    assert [one["comment"] for one in config["history"]] == ["layer /opt/x", "layer /usr/local/bin"]
    files = entries(archive_of(tmp_path).read_bytes())
    blobs = [one["digest"].replace(":", "/") for one in (descriptor, manifest["config"], *manifest["layers"])]
    names = {"index.json", "oci-layout", *(f"blobs/{one}" for one in blobs)}
    assert files == {"blobs": "5 755", "blobs/sha256": "5 755", **dict.fromkeys(names, "0 644")}


def test_options_of_a_layer(tmp_path: Path) -> None:
    """The options of a definition apply to its artifact in a layer, too; `extract: false` places an archive."""
    image = LAYERS + "  - {fetches: [pkg, data, {artifact: outward, extract: false}, far], dest: /opt}\n"
    outward = tar([Member("etc", kind=b"2", target="../../../etc")])
    root = project(tmp_path, image, more={"outward": outward, "far": outward})
    file = root / "fetchdefs/fetch/all.yml"
    text = file.read_text().replace("    strip-components: 1\n", "    strip-components: 1\n    add-prefix: top/\n")
    text = text.replace(f"size: {len(DATA)}\n", f"size: {len(DATA)}\n    executable: true\n")
    file.write_text(f"{text}    archive: {{outward-symlinks: keep}}\n")
    assert doit(root, "image:x").returncode == 0
    assert entries(read(archive_of(root, "x"))[3][0]) == {
        "opt": "5 755",
        "opt/data": "0 755",
        "opt/etc": "2 777 ../../../etc",
        "opt/outward.tar": "0 644",
        "opt/top": "5 755",
        "opt/top/bin": "5 755",
        "opt/top/bin/hi": "0 755",
        "opt/top/bin/hi2": "1 755 opt/top/bin/hi",
        "opt/top/bin/hi3": "2 777 hi",
        "opt/top/doc": "0 644",
    }


def test_same_digest_elsewhere(tmp_path: Path) -> None:
    """Time zone, locale, umask, number of jobs and directory do not matter."""
    one, two = project(tmp_path / "one"), project(tmp_path / "a/longer/path")
    assert doit(one, "image:small", TZ="UTC", LC_ALL="C").returncode == 0
    command = 'umask 077; exec "$@"'
    words = ["/bin/sh", "-c", command, "sh", shutil.which("doit") or "doit", "-n", "4", "image:small"]
    environment = {**os.environ, "TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8"}
    subprocess.run(words, cwd=two, env=environment, check=True, capture_output=True)
    assert archive_of(one).read_bytes() == archive_of(two).read_bytes()


def test_upgrade_changes_one_layer(tmp_path: Path) -> None:
    """Another version of the tool changes its layer only, and no other one is made again."""
    assert doit(project(tmp_path), "image:small").returncode == 0
    before = read(archive_of(tmp_path))[1]["layers"]
    project(tmp_path, version="2")
    assert ran(doit(tmp_path, "image:small")) == ["image:small", "toolchain:tool"]
    after = read(archive_of(tmp_path))[1]["layers"]
    assert (before[0], len(after)) == (after[0], 2)
    assert before[1] != after[1]


def test_commands_know_images(tmp_path: Path) -> None:
    """A second run makes nothing; list, info, graph and path have the image; a changed definition is noticed."""
    assert "image:small" in ran(doit(project(tmp_path)))
    assert ran(doit(tmp_path)) == []
    digest = digest_of(tmp_path)
    assert "image:small" in doit(tmp_path, "list", "--all").stdout
    assert f"digest     : {digest}" in doit(tmp_path, "info", "image:small").stdout
    (facts,) = json.loads(doit(tmp_path, "info", "--json", "image:small").stdout)
    assert (facts["kind"], facts["definition"], facts["provenance"]["digest"]) == ("image", "small", digest)
    assert facts["path"] == str(archive_of(tmp_path))
    assert "image:small" in doit(tmp_path, "info", "toolchain:tool").stdout.partition("used by")[2]
    assert "image:small" in doit(tmp_path, "graph", "small").stdout
    assert doit(tmp_path, "path", "small").stdout.splitlines()[-1] == str(archive_of(tmp_path))
    image = tmp_path / "fetchdefs/image/small.yml"
    image.write_text(image.read_text().replace("user: 1000", "user: nobody"))
    assert "config user was 1000, is nobody" in doit(tmp_path, "why", "image:small").stdout
    assert ran(doit(tmp_path)) == ["image:small"]
    assert read(archive_of(tmp_path))[2]["config"]["User"] == "nobody"
    image.unlink()
    assert ran(doit(tmp_path)) == []


@pytest.mark.slow
def test_date(tmp_path: Path) -> None:
    """SOURCE_DATE_EPOCH is the date of the image; the layers stay the same."""
    assert doit(project(tmp_path), "image:small").returncode == 0
    layers = read(archive_of(tmp_path))[1]["layers"]
    assert ran(doit(tmp_path, "image:small", SOURCE_DATE_EPOCH="1764288000")) == ["image:small"]
    _, manifest, config, _ = read(archive_of(tmp_path))
    assert (config["created"], manifest["layers"]) == ("2025-11-28T00:00:00Z", layers)
    assert doit(tmp_path, "image:small", SOURCE_DATE_EPOCH="9" * 18).returncode == 0
    assert read(archive_of(tmp_path))[2]["created"] == "9999-12-31T23:59:59Z"


def shared_store(top: Path) -> dict[str, str]:
    """Make a store and a key that signs results; return the variables of a run that writes to it."""
    (top / "store").mkdir()
    written(top, {"dodo.py": DODO})
    assert doit(top, "store", "keygen", "ci.key").returncode == 0
    return {
        "FETCH_STORE": (top / "store").as_uri(),
        "FETCH_STORE_WRITE": "always",
        "FETCH_STORE_SIGNING_KEY": str(top / "ci.key"),
    }


def is_adopted(root: Path, digest: str) -> bool:
    """Return whether the cache of a project has a result with this digest from a store."""
    results = (path.read_text() for path in (root / "cache/v1/results").rglob("*") if path.is_file())
    return any(digest in text and '"made by"' in text for text in results)


def test_second_checkout_from_a_store(tmp_path: Path) -> None:
    """Layers and inputs come from the store: without an origin and without the command, the image is the same."""
    variables = shared_store(tmp_path)
    one, two = project(tmp_path / "one"), project(tmp_path / "two")
    for root in (one, two):
        written(root, {"fetchdefs/keys/store/ci.pub": (tmp_path / "ci.key.pub").read_text()})
    assert doit(one, "image:small", **variables).returncode == 0
    shutil.rmtree(two / "src")
    made = doit(two, "image:small", **variables)
    assert made.returncode == 0, made.stdout
    assert archive_of(one).read_bytes() == archive_of(two).read_bytes()
    assert all(is_adopted(two, layer["digest"]) for layer in read(archive_of(two))[1]["layers"])


@pytest.mark.slow
def test_store_prune_keeps_layers(tmp_path: Path) -> None:
    """`doit store prune` keeps the content and the result of each layer of an image that is defined."""
    variables = shared_store(tmp_path)
    assert doit(project(tmp_path / "p"), "image:small", **variables).returncode == 0
    for path in (tmp_path / "store").glob("*/*"):
        os.utime(path, (1, 1))
    before = sorted((tmp_path / "store").glob("*/*"))
    done = doit(tmp_path / "p", "store", "prune", "--older-than", "90d", "--yes", **variables)
    assert "0 deleted" in done.stdout, done.stdout
    assert sorted((tmp_path / "store").glob("*/*")) == before


@pytest.mark.slow
def test_verify_and_prune(tmp_path: Path) -> None:
    """`prune` keeps the layers of an image, `verify` repairs them."""
    assert doit(project(tmp_path), "image:small").returncode == 0
    layers = [one["digest"].removeprefix("sha256:") for one in read(archive_of(tmp_path))[1]["layers"]]
    assert doit(tmp_path, "prune", "--older-than", "0s").returncode == 0
    blobs = [tmp_path / f"cache/v1/blobs/sha256/{one[:2]}/{one}" for one in layers]
    assert all(blob.exists() for blob in blobs)
    blobs[0].chmod(0o644)
    blobs[0].write_bytes(blobs[0].read_bytes().replace(b"text", b"TEXT"))
    found = doit(tmp_path, "verify", "image:small")
    assert (found.returncode, "image:small" in found.stdout) == (1, True), found.stdout
    archive_of(tmp_path).unlink()
    assert doit(tmp_path, "verify", "--repair").returncode == 0
    assert doit(tmp_path, "image:small").returncode == 0
    assert doit(tmp_path, "verify").returncode == 0


def test_python_api(tmp_path: Path) -> None:
    """`Project.fetch` makes an image and what it needs."""
    own = doit_fetch.Project.load(project(tmp_path), settings={"durability": "fast"})
    assert own.fetch("image:small") == own.fetch("small") == archive_of(tmp_path)
    assert [one.name for one in own.select(["small"])] == ["pkg", "data"]
    with pytest.raises(doit_fetch.errors.UnsupportedArchiveError, match="has no tree"):
        own.tree("small")


LINKED = tar([Member("lib", kind=b"2", target="usr/lib"), Member("tmp/", mode=0o755)])
LIBRARY = tar([Member("lib/x.so", b"x")])
HIDING = tar([Member("bin/.wh.sh", b"")])
TWICE = tar([Member("doc", b"another text\n")])
LAYERS = "x:\n  description: x\n  layers:\n"
CONFLICTS: dict[str, tuple[str, str]] = {
    "a symlink": (
        "  - {fetches: [linked], dest: /}\n  - {fetches: [library], dest: /}\n",
        "layer / makes /lib a directory; layer / has it as a symlink",
    ),
    "a whiteout": ("  - {fetches: [hiding], dest: /}\n", "would remove a file of the layers below [WHITEOUT]"),
    "a whiteout that is a directory": ("  - {fetches: [data], dest: /bin/.wh.sh}\n", "[WHITEOUT]"),
    "two files": ("  - {fetches: [pkg, twice], dest: /}\n", "occurs twice in the archive, and the two differ"),
    "a file": (
        "  - {fetches: [data], dest: /opt}\n  - {fetches: [pkg], dest: /opt/data}\n",
        "layer /opt/data makes /opt/data a directory; layer /opt has it as a file",
    ),
}


@pytest.mark.parametrize("name", CONFLICTS)
def test_layer_that_hides_another(name: str, tmp_path: Path) -> None:
    """A layer may not remove or replace what another one has, except files."""
    layers, reason = CONFLICTS[name]
    more = {"linked": LINKED, "library": LIBRARY, "hiding": HIDING, "twice": TWICE}
    found = doit(project(tmp_path, LAYERS + layers, more=more), "image:x")
    assert (found.returncode, reason in found.stdout) == (1, True), found.stdout
    assert "Traceback" not in found.stdout


def test_an_option_of_one_archive_does_not_choose_among_two(tmp_path: Path) -> None:
    """`duplicates: last` of a fetch does not let a layer have two entries of one name."""
    root = project(tmp_path, LAYERS + "  - {fetches: [pkg, twice], dest: /}\n", more={"twice": TWICE})
    file = root / "fetchdefs/fetch/all.yml"
    file.write_text(file.read_text() + "    duplicates: last\n")
    found = doit(root, "image:x")
    assert (found.returncode, "occurs twice" in found.stdout) == (1, True), found.stdout
    assert "write a layer for each of them" in found.stdout


FAULTS: dict[str, tuple[str, str]] = {
    "relative dest": ("layers: [{fetches: [pkg], dest: opt}]", "'opt' is not absolute"),
    "dots": ("layers: [{fetches: [pkg], dest: /opt/../etc}]", "contains the component '..'"),
    "no dest": ("layers: [{fetches: [pkg]}]", "layers.1.dest: is missing"),
    "no content": ("config: {cmd: [x]}", "has neither `base` nor `layers`"),
    "nothing in a layer": ("layers: [{dest: /opt}]", "must have either `fetches` or `toolchain`"),
    "both in a layer": ("layers: [{fetches: [pkg], toolchain: tool, dest: /o}]", "either `fetches` or `toolchain`"),
    "empty layer": ("layers: [{fetches: [], dest: /opt}]", "has no fetches"),
    "unknown fetch": ("layers: [{fetches: [pgk], dest: /opt}]", "unknown fetch 'pgk'"),
    "unknown toolchain": ("layers: [{toolchain: tol, dest: /opt}]", "unknown toolchain 'tol'"),
    "a version without a base": (
        "mmdebstrap: 1.3.5\n  layers: [{fetches: [pkg], dest: /opt}]",
        "has `mmdebstrap` without `base`",
    ),
    "a version that is none": (
        "mmdebstrap: 1.3.5-7\n  base: pkg",
        "invalid version '1.3.5-7'",
    ),
    "unknown base": ("base: debain\n  layers: [{fetches: [pkg], dest: /opt}]", "unknown fetch 'debain'"),
    "listed twice": ("layers: [{fetches: [pkg, pkg], dest: /opt}]", "'pkg' is listed twice"),
    "unknown key": ("layers: [{fetches: [pkg], dst: /opt}]", "layers.1.dst: unknown key"),
    "unknown config": ("layers: [{fetches: [pkg], dest: /o}]\n  config: {comand: [x]}", "config.comand: unknown key"),
    "variable": ("layers: [{fetches: [pkg], dest: /o}]\n  config: {env: {A=B: c}}", "invalid name 'A=B'"),
    "NUL in a variable": (
        'layers: [{fetches: [pkg], dest: /o}]\n  config: {env: {A: "\\0"}}',
        "'A' has a NUL character",
    ),
    "NUL in a word": (
        'layers: [{fetches: [pkg], dest: /o}]\n  config: {cmd: ["\\0"]}',
        "config.cmd: has a NUL character",
    ),
    "user": ("layers: [{fetches: [pkg], dest: /o}]\n  config: {user: 'a b'}", "invalid user 'a b'"),
    "workdir": ("layers: [{fetches: [pkg], dest: /o}]\n  config: {workdir: x}", "'x' is not absolute"),
    "not a list": ("layers: {fetches: [pkg], dest: /o}", "must be a list of layers"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_definitions(name: str, tmp_path: Path) -> None:
    """A mistake is reported with file, line, key and reason before anything runs."""
    text, reason = FAULTS[name]
    with pytest.raises(DefinitionError) as found:
        load(project(tmp_path, f"x:\n  description: x\n  {text}\n") / "fetchdefs")
    assert (reason in str(found.value), "image/small.yml:" in str(found.value)) == (True, True), found.value


def test_an_archive_has_a_path_of_its_own(tmp_path: Path) -> None:
    """An image does not replace the artifact of a fetch with the same name, and a message names both kinds."""
    root = project(tmp_path, IMAGE.replace("small:", "pkg:"))
    done = doit(root, "info", "pkg")
    assert "'pkg' is the name of a fetch and of an image" in done.stdout
    file = root / "fetchdefs/fetch/all.yml"
    (root / "src/pkg-1.tar").rename(root / "src/pkg.oci.tar")
    file.write_text(file.read_text().replace("pkg-1.tar", "pkg.oci.tar"))
    with pytest.raises(DefinitionError, match=r"the artifact of fetch:pkg is 'pkg.oci.tar', too: rename the image"):
        load(root / "fetchdefs")


BASE = """\
debian:
  description: packages and a tool
  base: debs
  layers:
    - {toolchain: tool, dest: /usr/bin}
"""


@pytest.mark.slow
@needs_mmdebstrap
def test_base(tmp_path: Path) -> None:
    """The packages of the base are the lowest layer, which stores share; the date of the image is that of the lock."""
    packages, variables = mirror(tmp_path / "mirror"), shared_store(tmp_path)
    one, two = (
        debian_project(
            tmp_path / name,
            define(packages.url),
            {"stable": (packages.root, DEBS)},
            **{
                "fetchdefs/image/a.yml": BASE,
                "fetchdefs/toolchain/tool.yml": TOOLCHAIN.replace("VERSION", name),
                "fetchdefs/keys/store/ci.pub": (tmp_path / "ci.key.pub").read_text(),
            },
        )
        for name in ("one", "two")
    )
    assert ran(doit(one, "image:debian", **variables)) == ["fetch:debs", "image:debian", "toolchain:tool"]
    _, manifest, config, (root, tool) = read(archive_of(one, "debian"))
    with tarfile.open(fileobj=io.BytesIO(root)) as opened:
        assert {"usr/bin/greet", "usr/lib/libgreet.so", "usr/share/greet"} <= set(opened.getnames())
        assert opened.getmember("var/lib/dpkg/status").mtime == 1793521800  # the date of the lock
    assert list(entries(tool)) == ["usr", "usr/bin", "usr/bin/tool"]
    assert (config["architecture"], config["created"]) == ("amd64", "2026-11-01T08:30:00Z")
    shutil.rmtree(packages.root)
    assert doit(two, "image:debian", **variables).returncode == 0
    after = read(archive_of(two, "debian"))[1]["layers"]
    assert (after[0], after[1] != manifest["layers"][1]) == (manifest["layers"][0], True)
    assert is_adopted(two, after[0]["digest"])


@pytest.mark.slow
@needs_mmdebstrap
def test_base_without_mmdebstrap(tmp_path: Path) -> None:
    """An image that pins the version of mmdebstrap needs the program only where its lowest layer is made."""
    packages, variables = mirror(tmp_path / "mirror"), shared_store(tmp_path)
    version = mmdebstrap_version(None)
    image = f"debian:\n  description: x\n  base: debs\n  mmdebstrap: {version}\n"
    files = {"fetchdefs/image/a.yml": image, "fetchdefs/keys/store/ci.pub": (tmp_path / "ci.key.pub").read_text()}
    one, two = (
        debian_project(tmp_path / name, define(packages.url), {"stable": (packages.root, DEBS)}, **files)
        for name in ("one", "two")
    )
    hidden = ("unshare", "--mount", "sh", "-ec", 'mount --bind /dev/null "$1" && shift && exec "$@"', "sh")
    mmdebstrap = shutil.which("mmdebstrap") or ""

    def without(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
        command = [*hidden, mmdebstrap, shutil.which("doit") or "doit", *words]
        return subprocess.run(
            command, cwd=root, env={**os.environ, **variables}, capture_output=True, text=True, check=False
        )

    missing = without(one, "image:debian")
    assert (missing.returncode, "mmdebstrap is not installed" in missing.stdout) == (1, True), missing.stdout
    assert doit(one, "image:debian", **variables).returncode == 0
    made = without(two, "image:debian")
    assert made.returncode == 0, made.stdout
    assert archive_of(one, "debian").read_bytes() == archive_of(two, "debian").read_bytes()
    written(two, {"fetchdefs/image/a.yml": image.replace(version, "9.9")})
    other = doit(two, "image:debian", **variables)
    assert (other.returncode, f"made by mmdebstrap 9.9, but {version} is installed" in other.stdout) == (1, True)


@pytest.mark.slow
@needs_mmdebstrap
def test_base_from_an_export(tmp_path: Path) -> None:
    """A second checkout that is fed only by an export makes the same image, in a namespace without a network."""
    packages = mirror(tmp_path / "mirror")
    (tmp_path / "mirror/doc").write_bytes(TREE)
    image = "debian:\n  description: x\n  base: debs\n  layers: [{fetches: [pkg], dest: /opt}]\n"
    more = {"fetchdefs/image/a.yml": image}
    more["fetchdefs/fetch/pkg.yml"] = definition("pkg", f"{packages.url}/doc", TREE, "    artifact-name: pkg.tar\n")
    one, two = (
        debian_project(tmp_path / name, define(packages.url), {"stable": (packages.root, DEBS)}, **more)
        for name in ("one", "two")
    )
    assert doit(one, "image:debian").returncode == 0
    done = doit(one, "export", "cas", "../out")
    assert done.returncode == 0, done.stdout
    shutil.rmtree(packages.root)
    shutil.move(tmp_path / "one", tmp_path / "gone")
    environ = {**os.environ, "FETCH_OFFLINE": "1", "FETCH_STORE": (tmp_path / "out").as_uri()}
    words = ["unshare", "--net", shutil.which("doit") or "doit", "image:debian"]
    made = subprocess.run(words, cwd=two, env=environ, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    assert archive_of(two, "debian").read_bytes() == archive_of(tmp_path / "gone", "debian").read_bytes()


def layers_of(directory: Path, name: str) -> list[tuple[str, bytes]]:
    """Return media type and content of each layer of an image in an exported layout."""

    def blob(descriptor: dict[str, Any]) -> bytes:
        content: bytes = (directory / "blobs" / descriptor["digest"].replace(":", "/")).read_bytes()
        assert descriptor["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
        return content

    index = json.loads((directory / "index.json").read_bytes())
    reference = "org.opencontainers.image.ref.name"
    manifest = next(one for one in index["manifests"] if one["annotations"][reference] == name)
    layers = [(one["mediaType"], blob(one)) for one in json.loads(blob(manifest))["layers"]]
    config = json.loads(blob(json.loads(blob(manifest))["config"]))
    texts = [decompressed(content, kind.rpartition(".tar")[2].lstrip("+")) for kind, content in layers]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(text).hexdigest()}" for text in texts]
    return layers


def decompressed(content: bytes, compression: str) -> bytes:
    if compression == "zstd":
        return zstandard.ZstdDecompressor().decompressobj().decompress(content)
    return gzip.decompress(content) if compression == "gzip" else content


def names_of(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "compression", ["zstd", pytest.param("gzip", marks=pytest.mark.slow), pytest.param("none", marks=pytest.mark.slow)]
)
def test_export(compression: str, tmp_path: Path) -> None:
    """`doit export oci` compresses the layers, and a second one writes nothing."""
    assert doit(project(tmp_path), "image:small").returncode == 0
    command = ("export", "oci", "out", "--compression", compression)
    assert f"oci:{tmp_path / 'out'}:small\n" in doit(tmp_path, *command).stdout
    suffix = "" if compression == "none" else f"+{compression}"
    found = layers_of(tmp_path / "out", "small")
    assert {kind for kind, _ in found} == {f"application/vnd.oci.image.layer.v1.tar{suffix}"}
    assert [decompressed(content, compression) for _, content in found] == read(archive_of(tmp_path))[3]
    assert "0 files written" in doit(tmp_path, *command).stdout
    two = project(tmp_path / "two")
    assert doit(two, *command).returncode == 0  # makes the image first
    assert layers_of(two / "out", "small") == found


@pytest.mark.slow
def test_export_of_some_images(tmp_path: Path) -> None:
    """An export of one image leaves the others in the index; one of all removes what no image needs."""
    more = "other:\n  description: o\n  layers: [{fetches: [data], dest: /opt}]\n"
    assert doit(project(tmp_path, IMAGE + more), "export", "oci", "out", "other").returncode == 0
    first = names_of(tmp_path / "out")
    assert doit(tmp_path, "export", "oci", "out", "small").returncode == 0
    assert first < names_of(tmp_path / "out")
    assert [len(layers_of(tmp_path / "out", name)) for name in ("small", "other")] == [2, 1]
    project(tmp_path, more)
    assert doit(tmp_path, "export", "oci", "out").returncode == 0
    assert names_of(tmp_path / "out") == first
    assert doit(tmp_path, "export", "oci", "out", "--compression", "gzip").returncode == 0
    assert [kind[-5:] for kind, _ in layers_of(tmp_path / "out", "other")] == ["+gzip"]
    unknown = doit(tmp_path, "export", "oci", "out", "smal")
    assert (unknown.returncode, "no image definition is named 'smal'" in unknown.stdout) == (3, True)
    for words in (("cas", "x", "--compression", "gzip"), ("oci", "x", "--url-base", "https://h/")):
        refused = doit(tmp_path, "export", *words)
        assert (refused.returncode, "has no meaning" in refused.stdout) == (3, True), refused.stdout


def test_keys() -> None:
    """What shapes an image or a layer is in its key; the description and the order of fetches are not."""
    image = Image(name="x", description="d", layers=(), config=ImageConfig(cmd=("a",)), file="f", line=1)

    def key(
        one: Image, machine: str = "x86_64", created_s: int | None = 0, layers: tuple[str, ...] = ("1", "2")
    ) -> str:
        return recipe.image_key(one, layers=layers, machine=machine, created_s=created_s)

    values: dict[str, Any] = {"env": (("a", "b"),), "labels": (("a", "b"),), "cmd": ("a", "b"), "entrypoint": ("a",)}
    values |= {"user": "u", "workdir": "/w"}
    assert set(values) == set(ImageConfig.__struct_fields__)
    others = [replace(image, config=replace(image.config, **{name: value})) for name, value in values.items()]
    found = [key(image), *map(key, others), key(replace(image, name="y")), key(image, machine="aarch64")]
    found += [key(image, created_s=1), key(image, created_s=None), key(image, layers=("2", "1"))]
    assert len(set(found)) == len(found)
    assert key(replace(image, description="e", file="g", line=2)) == key(image)
    layers = {recipe.layer_key(dest, ["a", "b"], version=version) for dest in ("", "opt") for version in ("1", "2")}
    assert len(layers) == 4
    assert recipe.layer_key("", ["b", "a"], version="1") in layers
    roots = [("p", "amd64", "1.3"), ("q", "amd64", "1.3"), ("p", "arm64", "1.3"), ("p", "amd64", "1.4")]
    assert len({recipe.root_key(one, architecture=two, builder=three) for one, two, three in roots}) == 4


def test_other_programs_read_it(tmp_path: Path) -> None:
    """`skopeo` and `umoci` read the image as the specification says."""
    missing = [one for one in ("skopeo", "umoci") if shutil.which(one) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    assert doit(project(tmp_path), "image:small").returncode == 0
    inspected = subprocess.run(
        ["skopeo", "inspect", f"oci-archive:{archive_of(tmp_path)}"], capture_output=True, check=True
    )
    assert json.loads(inspected.stdout)["Digest"] == digest_of(tmp_path)
    layout = tmp_path / "layout"
    layout.mkdir()
    subprocess.run(["tar", "-xf", archive_of(tmp_path), "-C", layout], check=True)
    subprocess.run(
        ["umoci", "unpack", "--rootless", "--image", f"{layout}:latest", str(tmp_path / "bundle")],
        check=True,
        capture_output=True,
    )
    program = tmp_path / "bundle/rootfs/opt/x/bin/hi2"
    assert program.read_text() == "#!/bin/sh\necho hi\n"
    assert program.stat().st_nlink == 2
