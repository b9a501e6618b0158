"""The values of a plan: what each step publishes or delivers, with the keys, files and directories of it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from tasks_lib.definitions import Debian, FetchesEntry, Image, Toolchain
from tasks_lib.digest import Integrity
from tasks_lib.formats import UNCHANGED, Reshape, describe_not_extracted
from tasks_lib.platforms import ANY_PLATFORM
from tasks_lib.recipe import Host

#: Directory, inside a toolchain's own, with the manifests of its fetches.
RECORDS: Final = ".fetches"
#: Directory beside it in which the toolchain's command runs, and the marker file written before the command starts.
FETCHES: Final = "fetches"
WORKED: Final = ".worked"


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """A published file, identified by its recipe key; `integrity` is known in advance only for fetches.

    `verdict` is the key of the result that records the verification of its signatures, "" if there are none. `link` is
    the path of a symlink to the file that does not change with the key, and `link_text` its target; None for a download
    that is repacked.
    """

    key: str
    path: Path
    task: str
    integrity: Integrity | None = None
    verdict: str = ""
    link: Path | None = None
    link_text: str = ""

    @property
    def not_extracted(self) -> str:
        """The kind of file that its name shows, if files of this kind are never extracted, else ""."""
        return describe_not_extracted(self.path.name)


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """The delivery of one artifact into a directory: extracted, or placed unchanged."""

    artifact: Artifact
    entry: FetchesEntry
    destination: Path
    record: Path
    key: str
    limits: tuple[tuple[str, int | str], ...] = ()  # of this archive; they override the settings
    format: str = ""  # of this archive; "" for the format that its name or its content declares
    reshape: Reshape = UNCHANGED
    # name and key of all deliveries into this directory; entries of any other delivery are stale
    beside: tuple[tuple[str, str], ...] = ()
    worked: Path | None = None  # exists once a command ran in this directory; its leftovers are stale


class InputFile(msgspec.Struct, frozen=True, kw_only=True):
    """A script or resource: as written, its path, and the hex sha256 that the key of its toolchain covers."""

    text: str
    path: str
    digest: str


class ToolchainBuild(msgspec.Struct, frozen=True, kw_only=True):
    """A toolchain with its directories; `steps.attempt` describes those in which its command runs."""

    toolchain: Toolchain
    key: str
    directory: Path
    deliveries: tuple[Delivery, ...]
    output: Artifact | None
    files: tuple[tuple[str, str], ...] = ()  # as written, and digest, of each script and resource
    inputs: tuple[InputFile, ...] = ()  # these files, and those that match patterns
    watched: tuple[str, ...] = ()  # paths that change when other files match
    unmatched: tuple[str, ...] = ()  # resources as written that match no file
    env: tuple[tuple[str, str], ...] = ()  # what its definition and the toolchains among its fetches set
    before: tuple[tuple[str, str], ...] = ()  # kind and name, and key, of each definition that is only built first
    host: Host = Host()

    @property
    def sources(self) -> tuple[str, ...]:
        """The paths of its scripts and resources."""
        return tuple(one.path for one in self.inputs)

    @property
    def fetches(self) -> Path:
        """The directory that holds its fetches."""
        return self.directory / FETCHES

    @property
    def records(self) -> Path:
        """The directory of the manifests of `fetches`."""
        return self.directory / RECORDS

    @property
    def uploads(self) -> Path:
        """The directory for the output of its command."""
        return self.directory / "artifacts"

    @property
    def stamp(self) -> Path:
        """The file that records the key of the last successful build."""
        return self.directory / ".prepared.json"

    @property
    def worked(self) -> Path:
        """The marker file that exists once its command ran in `fetches`."""
        return self.directory / WORKED

    @property
    def lock(self) -> Path:
        """The lock file of its directory, held while its command runs."""
        return self.directory / ".lock"

    @property
    def log(self) -> Path:
        """The log of its command: standard output and error."""
        return self.directory / "run.log"


class RootBuild(msgspec.Struct, frozen=True, kw_only=True):
    """A root file system: the packages of a repository for one architecture of Debian.

    `program` is the path of mmdebstrap, "" if it is missing, and `version` the one that it must have, "" for any.
    """

    source: Debian
    repository: Artifact
    architecture: str
    program: str
    version: str


class LayerBuild(msgspec.Struct, frozen=True, kw_only=True):
    """A layer of an image: the root file system `root`, or `deliveries` into the directory `dest` of it.

    `platform` is that of the toolchain whose output it has, if any. `what` describes it in messages.
    """

    key: str
    what: str
    dest: str = ""
    deliveries: tuple[Delivery, ...] = ()
    root: RootBuild | None = None
    platform: str = ANY_PLATFORM

    @property
    def program(self) -> str:
        """The path of the program that makes it, "" for none."""
        return self.root.program if self.root else ""

    @property
    def artifacts(self) -> list[Artifact]:
        """What it is made from."""
        return [*([self.root.repository] if self.root else []), *(one.artifact for one in self.deliveries)]


class ImageBuild(msgspec.Struct, frozen=True, kw_only=True):
    """An image with its layers, the lowest one first.

    `machine` is a word of uname(1), `created_s` in seconds since 1970, None for the date of the lowest layer.
    """

    image: Image
    key: str
    layers: tuple[LayerBuild, ...]
    output: Artifact
    machine: str
    created_s: int | None
