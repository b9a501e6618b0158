"""OCI image layout: the configuration, the manifest and the index of an image, as deterministic JSON. Pure: no I/O.

Source: OCI image specification 1.1: "Image Layout", "Image Index", "Image Manifest", "Image Configuration".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from tasks_lib.definitions import ImageConfig
from tasks_lib.digest import Integrity
from tasks_lib.platforms import parse_platform

_INDEX: Final = "application/vnd.oci.image.index.v1+json"
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
#: Compression -> media type of a layer. Source: OCI image specification, "Image Layer Filesystem Changeset".
_LAYERS: Final = {
    "none": "application/vnd.oci.image.layer.v1.tar",
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
}
#: Machine -> architecture and variant. Source: Go, GOARCH; OCI image specification, "Platform Variants".
_ARCHITECTURES: Final = {
    "x86_64": ("amd64", ""), "aarch64": ("arm64", ""), "i686": ("386", ""), "armv7": ("arm", "v7"),
    "armv6": ("arm", "v6"), "loongarch64": ("loong64", ""),
}  # fmt: skip
#: The annotation with the tag of an image. Source: OCI image specification, "Pre-Defined Annotation Keys".
REFERENCE: Final = "org.opencontainers.image.ref.name"
#: Name of an image in a registry. Source: OCI distribution specification, "Pulling manifests".
_REPOSITORY: Final = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*")
_LATEST_S: Final = 253_402_300_799  # 9999-12-31T23:59:59Z


class ImageFile(NamedTuple):
    """A document or a layer of a layout, as a blob of the image."""

    integrity: Integrity
    media_type: str

    @property
    def path(self) -> str:
        """Its path in a layout."""
        return f"blobs/{self.integrity.digest.algorithm}/{self.integrity.digest.hex}"

    def describe(self) -> dict[str, Any]:
        """Return its descriptor."""
        return {
            "mediaType": self.media_type, "digest": str(self.integrity.digest), "size": self.integrity.size
        }  # fmt: skip


class ImageLayout(NamedTuple):
    """The documents of one image by path, the blobs that they name, and the descriptor of the image in an index."""

    documents: Mapping[str, bytes]
    layers: Sequence[ImageFile]
    descriptor: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """The digest of the image: that of its manifest."""
        return str(self.descriptor["digest"])


class ImageFacts(NamedTuple):
    """What an image is, besides its layers; `machine` is the word of uname(1), `created_s` in seconds since 1970."""

    name: str
    machine: str
    created_s: int
    config: ImageConfig


def describe_layer(integrity: Integrity, compression: str = "none") -> ImageFile:
    """Return a layer of a layout."""
    return ImageFile(integrity, _LAYERS[compression])


def lay_out(
    facts: ImageFacts, layers: Sequence[ImageFile], diff_ids: Sequence[str], comments: Sequence[str]
) -> ImageLayout:
    """Return the layout of an image.

    Args:
        facts: what the image is.
        layers: the lowest one first, as stored.
        diff_ids: the digest of each layer without compression.
        comments: what each layer has.
    """
    platform = name_architecture(facts.machine)
    created = datetime.fromtimestamp(min(facts.created_s, _LATEST_S), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    config = _encode(
        {
            "created": created,
            **platform,
            "config": _start(facts.config),
            "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
            "history": [{"created": created, "created_by": "doit-fetch", "comment": comment} for comment in comments],
        }
    )
    first = _document(config, _CONFIG)
    manifest = _encode(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": first.describe(),
            "layers": [layer.describe() for layer in layers],
        }
    )
    second = _document(manifest, _MANIFEST)
    descriptor = {**second.describe(), "platform": platform}
    return ImageLayout({first.path: config, second.path: manifest}, layers, descriptor)


def write_index(
    images: Mapping[str, ImageLayout], tags: Mapping[str, str], others: Sequence[Mapping[str, Any]] = ()
) -> dict[str, bytes]:
    """Return `oci-layout` and `index.json` of a layout.

    Args:
        images: by name.
        tags: the reference of each.
        others: descriptors of other images in the index.
    """
    manifests = [
        *({**layout.descriptor, "annotations": _annotations(name, tags[name])} for name, layout in images.items()),
        *others,
    ]
    manifests.sort(key=lambda one: str(one["annotations"][REFERENCE]))
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": manifests}
    return {"oci-layout": _encode({"imageLayoutVersion": "1.0.0"}), "index.json": _encode(index)}


def name_architecture(machine: str) -> dict[str, str]:
    """Return `os`, `architecture` and `variant` of a machine, named as uname(1), Debian or Go name it."""
    known = parse_platform(f"linux-{machine}").partition("-")[2] or machine
    architecture, variant = _ARCHITECTURES.get(known, (known, ""))
    return {"os": "linux", "architecture": architecture, **({"variant": variant} if variant else {})}


def _annotations(name: str, tag: str) -> dict[str, str]:
    """Return the tag, and the name that `podman load` and `docker load` give to the image.

    Source: OCI image specification, "Pre-Defined Annotation Keys"; containerd, `io.containerd.image.name`.
    """
    found = {REFERENCE: tag}
    if _REPOSITORY.fullmatch(name):
        found["io.containerd.image.name"] = f"localhost/{name}:latest"
    return found


def _start(config: ImageConfig) -> dict[str, Any]:
    """Return how a container starts. Source: OCI image specification, "Image Configuration", `config`."""
    found = {
        "User": config.user,
        "Env": [f"{name}={value}" for name, value in config.env],
        "Entrypoint": list(config.entrypoint),
        "Cmd": list(config.cmd),
        "WorkingDir": config.workdir,
        "Labels": dict(config.labels),
    }
    return {key: value for key, value in found.items() if value}


def _document(content: bytes, media_type: str) -> ImageFile:
    return ImageFile(Integrity.of(content), media_type)


def _encode(value: object) -> bytes:
    """Return JSON without blanks, keys sorted: the same bytes everywhere."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")
