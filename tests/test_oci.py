"""The documents of an OCI layout, and layers above each other: what programs that read images rely on."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from typing import Any

import pytest

from tasks_lib import recipe
from tasks_lib.definitions import ImageConfig
from tasks_lib.digest import Integrity
from tasks_lib.errors import TreeError
from tasks_lib.image.oci import ImageFacts, ImageLayout, describe_layer, lay_out, name_architecture, write_index
from tasks_lib.image.stack import LayerStack
from tasks_lib.limits import Limits
from tests.archives import Member, tar

LOWER, UPPER = Integrity.of(b"lower"), Integrity.of(b"upper")
CONFIG = ImageConfig(cmd=("a",), env=(("Z", "1"), ("A", "é")), labels=(("b", "1"), ("a", "2")), user="1")


def layout(name: str = "one", machine: str = "x86_64", config: ImageConfig = CONFIG) -> ImageLayout:
    """Return the layout of an image with two compressed layers."""
    layers = [describe_layer(Integrity.of(b"l"), "zstd"), describe_layer(Integrity.of(b"u"), "zstd")]
    facts = ImageFacts(name, machine, 1_700_000_000, config)
    return lay_out(facts, layers, [str(LOWER.digest), str(UPPER.digest)], ["first", "second"])


def read(made: ImageLayout) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return manifest and configuration of a layout."""
    manifest = json.loads(made.documents[made.digest.replace("sha256:", "blobs/sha256/")])
    return manifest, json.loads(made.documents[manifest["config"]["digest"].replace("sha256:", "blobs/sha256/")])


def test_the_same_documents_always() -> None:
    """The same image has the same documents in each release: golden for IMAGE_VERSION 1."""
    assert recipe.IMAGE_VERSION == 1
    made = layout()
    texts = {**made.documents, **write_index({"one": made}, {"one": "latest"})}
    digest = hashlib.sha256(b"".join(path.encode() + texts[path] for path in sorted(texts))).hexdigest()
    assert (made.digest[7:23], digest[:16]) == ("ac272e9476ffffb5", "fefd18e056b5ea8d")


def test_layers_of_a_layout() -> None:
    """The manifest names the stored layers, the configuration the uncompressed ones and their history, lowest first."""
    manifest, config = read(layout())
    assert [one["digest"] for one in manifest["layers"]] == [str(Integrity.of(one).digest) for one in (b"l", b"u")]
    assert (manifest["schemaVersion"], config["rootfs"]["type"]) == (2, "layers")
    assert config["rootfs"]["diff_ids"] == [str(LOWER.digest), str(UPPER.digest)]
    created = "2023-11-14T22:13:20Z"
    assert config["created"] == created
    assert config["history"] == [
        {"created": created, "created_by": "doit-fetch", "comment": comment} for comment in ("first", "second")
    ]


def test_configuration() -> None:
    """Variables keep their order; what is not set is absent."""
    assert read(layout())[1]["config"] == {
        "Cmd": ["a"], "Env": ["Z=1", "A=é"], "Labels": {"a": "2", "b": "1"}, "User": "1"
    }  # fmt: skip
    assert read(layout(config=ImageConfig()))[1]["config"] == {}


PLATFORMS = {
    "x86_64": {"architecture": "amd64"},
    "amd64": {"architecture": "amd64"},
    "arm64": {"architecture": "arm64"},
    "armhf": {"architecture": "arm", "variant": "v7"},
    "armv6": {"architecture": "arm", "variant": "v6"},
    "i386": {"architecture": "386"},
    "riscv64": {"architecture": "riscv64"},
    "s390x": {"architecture": "s390x"},
}


@pytest.mark.parametrize("machine", PLATFORMS)
def test_platform(machine: str) -> None:
    """The configuration and the index have Go's name of the machine."""
    expected = {"os": "linux", **PLATFORMS[machine]}
    assert name_architecture(machine) == expected
    made = layout(machine=machine)
    config = read(made)[1]
    assert {key: config.get(key, "") for key in expected} == expected == dict(made.descriptor["platform"])


def test_index() -> None:
    """The index has each image once, sorted by its tag, with the name that `podman load` gives to it."""
    images = {name: layout(name) for name in ("b", "a", "Upper")}
    other = {**layout("c").descriptor, "annotations": {"org.opencontainers.image.ref.name": "aa"}}
    found = json.loads(write_index(images, {name: name for name in images}, [other])["index.json"])
    assert (found["schemaVersion"], found["mediaType"]) == (2, "application/vnd.oci.image.index.v1+json")
    annotations = [one["annotations"] for one in found["manifests"]]
    assert [one["org.opencontainers.image.ref.name"] for one in annotations] == ["Upper", "a", "aa", "b"]
    assert [one.get("io.containerd.image.name") for one in annotations] == [
        None, "localhost/a:latest", None, "localhost/b:latest"
    ]  # fmt: skip


# --- layers above each other

BASE = tar(
    [
        Member("./", kind=b"5", mode=0o755),
        Member("tmp/", kind=b"5", mode=0o1777),
        Member("usr/", kind=b"5", mode=0o755),
        Member("usr/lib/", kind=b"5", mode=0o755),
        Member("usr/lib/a", b"a", mode=0o644),
        Member("lib", kind=b"2", target="usr/lib"),
    ]
)
STACKS: Mapping[str, tuple[Member, str]] = {
    "a directory as it is": (Member("usr/lib/", kind=b"5", mode=0o755), ""),
    "a file that replaces a file": (Member("usr/lib/a", b"b", mode=0o755), ""),
    "a file that replaces a symlink": (Member("lib", b"b"), ""),
    "a symlink that replaces a file": (Member("usr/lib/a", kind=b"2", target="b"), ""),
    "another mode of a directory": (
        Member("tmp/", kind=b"5", mode=0o755), "upper makes /tmp a directory of mode 0755; lower has it as mode 1777",
    ),
    "a directory that replaces a symlink": (
        Member("lib/", kind=b"5", mode=0o755), "upper makes /lib a directory; lower has it as a symlink",
    ),
    "a directory that replaces a file": (
        Member("usr/lib/a/", kind=b"5", mode=0o755), "upper makes /usr/lib/a a directory; lower has it as a file",
    ),
    "a file that replaces a directory": (Member("tmp", b"x"), "upper makes /tmp a file; lower has it as a directory"),
    "a symlink that replaces a directory": (
        Member("usr/lib", kind=b"2", target="/x"), "upper makes /usr/lib a symlink; lower has it as a directory",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", STACKS)
def test_a_layer_above_another(case: str) -> None:
    """A layer may replace files and symlinks, but neither hides nor changes a directory."""
    member, expected = STACKS[case]
    stack = LayerStack("image", Limits())
    stack.add("lower", io.BytesIO(BASE), lambda: None)
    if not expected:
        stack.add("upper", io.BytesIO(tar([member])), lambda: None)
        return
    with pytest.raises(TreeError) as error:
        stack.add("upper", io.BytesIO(tar([member])), lambda: None)
    assert expected in str(error.value)


def test_the_topmost_entry_counts() -> None:
    """A third layer is compared with what the second one made of the first."""
    stack = LayerStack("image", Limits())
    for what, member in {"a": Member("x", kind=b"2", target="y"), "b": Member("x", b"x")}.items():
        stack.add(what, io.BytesIO(tar([member])), lambda: None)
    with pytest.raises(TreeError, match=r"c makes /x a directory; b has it as a file"):
        stack.add("c", io.BytesIO(tar([Member("x/", kind=b"5", mode=0o755)])), lambda: None)
