"""A source package that `add` defines: download the .dsc and its files, and write the keys of its `fetch:`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tasks_lib.debian.source import MAX_DSC_BYTES, SourcePackage, parse_dsc, signed_text
from tasks_lib.definitions import DebianSource
from tasks_lib.definitions.values import file_name_of
from tasks_lib.digest import Integrity
from tasks_lib.errors import EditError, SignatureError, UnknownSignerError, escape_text
from tasks_lib.network import redacted
from tasks_lib.pins.add_file import find_locations
from tasks_lib.pins.add_url import GivenUrl
from tasks_lib.pins.evidence import LISTED, SIGNED, UNVERIFIED, Evidence, PublicKey, for_openpgp, rank
from tasks_lib.pins.measure import measure
from tasks_lib.pins.mirror_groups import propose_group
from tasks_lib.pins.workspace import Workspace
from tasks_lib.pins.yaml_text import Value
from tasks_lib.steps.source_package import read_dsc
from tasks_lib.units import format_size


class FoundPackage(NamedTuple):
    """A .dsc in the cache: what it says, and its evidence, strongest first; `mirror` is its URL in a group, or ""."""

    url: str
    integrity: Integrity
    package: SourcePackage
    mirror: str
    evidence: tuple[Evidence, ...]

    @property
    def name(self) -> str:
        """The name of a definition: that of the package with its version, which the name of the .dsc has, too."""
        return self.package.dsc_name.removesuffix(".dsc").replace("_", "-")

    @property
    def source(self) -> DebianSource:
        """The source that the definition describes, without its mirrors and keys."""
        return DebianSource(url=self.url, digest=self.integrity.digest, size=self.integrity.size)

    def fields(self) -> dict[str, Value]:
        """Return the keys of `fetch:`."""
        dsc: dict[str, Value] = {"url": self.url, **({"mirrors": [self.mirror]} if self.mirror else {})}
        dsc |= {"sha256": self.integrity.digest.hex, "size": self.integrity.size}
        fields: dict[str, Value] = {"type": "debian-source", "dsc": dsc}
        for one in self.evidence:
            fields |= one.fields
        if ":" in self.package.version:  # the URL does not have the epoch
            fields["purl"] = f"pkg:deb/debian/{self.package.name}@{self.package.version}?arch=source"
        return fields


def is_source_package(given: GivenUrl) -> bool:
    """Return whether a URL is that of a .dsc."""
    return given.kind == "file" and file_name_of(given.url).lower().endswith(".dsc")


def obtain_dsc(workspace: Workspace, given: GivenUrl, keys: list[PublicKey]) -> FoundPackage:
    """Download a .dsc, and verify its signature if the project has the key.

    Raises:
        EditError: the URL is blocked, or the file is too large.
        SourcePackageError, UnsafePathError, SignatureError, ToolError: it is not a .dsc, or its signature is bad.
        IntegrityError, AllSourcesFailedError, OfflineError, CacheUnavailableError, CancelledError: as `measure`.
    """
    context, url = workspace.context, given.url
    label = file_name_of(url)
    urls = find_locations(workspace, url)
    measured = measure(context, label, urls, workspace.progress, written=url, headers={}, expected=given.expected)
    if measured.integrity.size > MAX_DSC_BYTES:
        raise EditError(
            f"{redacted(url)} has more than {format_size(MAX_DSC_BYTES)}: it is not a .dsc",
            hint="use the URL of the .dsc itself",
        )
    content = read_dsc(context, measured.integrity)
    package = parse_dsc(content, label)
    evidence = [
        *_judge_signature(workspace, content, keys, label),
        *(Evidence(LISTED, one.by) for one in given.expected),
    ]
    group = propose_group(url, workspace.mirrors)
    return FoundPackage(url, measured.integrity, package, group.url if group is not None else "", tuple(rank(evidence)))


def _judge_signature(workspace: Workspace, content: bytes, keys: list[PublicKey], label: str) -> Iterator[Evidence]:
    """Yield what the signature of a .dsc proves, if it has one.

    Raises:
        SignatureError: it is a bad signature by a known key.
    """
    if signed_text(content) == content:
        return
    reason = "signed, but the project has no such key"
    for key in for_openpgp(keys):
        try:
            valid, _ = workspace.context.gpg.verify_clearsigned(
                content, keys=key.content, fingerprint="", progress=workspace.progress
            )
        except UnknownSignerError as error:
            reason = error.message.removeprefix("signature refused: ")
        except SignatureError as error:
            error.message = f"{escape_text(label)}: {error.message} (key file {escape_text(key.key_path)})"
            raise
        else:
            fields: dict[str, Value] = {"signed-by": [valid.key], "key-files": [key.key_path]}
            yield Evidence(SIGNED, f"{label}, by {valid.signed_by} ({valid.key})", fields)
            return
    yield Evidence(UNVERIFIED, f"{label}: {reason}")
