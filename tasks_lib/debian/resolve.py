"""Resolution: apt chooses the packages, from verified indexes and in a private directory. This module has no resolver.

apt gets no network and no configuration of the system: it reads a flat repository for each suite, which has the fields
of the Release file that influence its choice, and the paragraphs of the verified indexes.
Source: apt.conf(5), apt_preferences(5) ("NotAutomatic"), apt-get(8) ("--print-uris").
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import unquote

from tasks_lib.debian.deb822 import parse_paragraph, split_paragraphs
from tasks_lib.debian.lock import NAME, REPORT, LockedIndex, LockedPackage
from tasks_lib.debian.release import SignedRelease
from tasks_lib.definitions import Debian
from tasks_lib.errors import IndexDigestError, UnresolvableError, UnsafePathError, escape_text
from tasks_lib.progress import Progress
from tasks_lib.subprocesses import Completed, Invocation, Timeouts, run

#: Fields of a Release file that influence which packages apt chooses. Source: apt_preferences(5).
_FIELDS: Final = ("Origin", "Label", "Suite", "Codename", "Version", "NotAutomatic", "ButAutomaticUpgrades")
#: Phased updates would depend on the machine, which has no identity here. Source: apt_preferences(5).
_CONFIGURATION: Final = """\
Dir "{state}";
Dir::State::status "{state}/status";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Get::Never-Include-Phased-Updates "true";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::ForceHash "SHA256";
Acquire::GzipIndexes "false";
Acquire::Check-Valid-Until "false";
"""
#: A line of `apt-get --print-uris`: the file name is NAME_VERSION_ARCHITECTURE.deb, each part percent-encoded.
_LINE: Final = re.compile(r"'[^']*' ([^\s_]+)_([^\s_]+)_([^\s_]+)\.deb \d+ SHA256:([0-9a-f]{64})")
#: A path that needs no quoting in the files of apt.
_PLAIN: Final = re.compile(r"[\w/.+-]+", re.ASCII)
_ESSENTIAL: Final = b"\nEssential: yes"
_SHA256: Final = b"\nSHA256: "
_HEX: Final = 64
_CHUNK: Final = 1 << 20
#: Maximum number of essential packages, which are arguments of apt; Debian 12 has 25 of them.
_MAX_ESSENTIAL: Final = 1000
#: Bounds of apt: it reads indexes of a hundred MiB and compares versions, without a network.
_BOUNDS: Final = Timeouts(total_s=600, silence_s=600)

#: Returns the paragraphs of a verified index, unparsed.
ReadIndex = Callable[[LockedIndex], Iterable[bytes]]


class _Chosen(NamedTuple):
    """A package that apt chose; `version` includes the epoch."""

    name: str
    version: str
    architecture: str
    sha256: str


def resolve(
    name: str,
    source: Debian,
    releases: Sequence[tuple[SignedRelease, Sequence[LockedIndex]]],
    read: ReadIndex,
    search: str,
    progress: Progress,
) -> tuple[LockedPackage, ...]:
    """Return the packages of a definition with their dependencies, for each of its architectures.

    Args:
        name: of the definition, for messages.
        source: the definition.
        releases: the verified Release files, with their indexes.
        read: returns the paragraphs of an index.
        search: the PATH on which apt is found.
        progress: checked for cancellation.

    Raises:
        UnresolvableError: apt cannot resolve them.
        IndexDigestError: an index has an invalid paragraph.
        UnsafePathError: the path of a package leaves the repository.
        ToolError: apt is not installed, or hangs.
        CancelledError: the run was asked to stop.
        Exception: any exception raised by `read`.
    """
    found: dict[tuple[str, str], LockedPackage] = {}
    usual = tempfile.gettempdir()
    parent = usual if _PLAIN.fullmatch(usual) else "/tmp"
    with tempfile.TemporaryDirectory(prefix="apt-", dir=parent, ignore_cleanup_errors=True) as directory:
        for architecture in source.architectures:
            apt = _Apt(Path(directory) / architecture, architecture, search, progress)
            essential = [apt.add(release, indexes, read) for release, indexes in releases]
            wanted = {*source.packages, *(set().union(*essential) if source.essential else ())}
            for package in apt.choose(name, sorted(wanted)):
                other = found.setdefault((package.package, package.architecture), package)
                if other != package:
                    raise UnresolvableError(
                        f"{name}: {package.package}:{package.architecture} has different versions for different "
                        f"architectures: {other.version} and {package.version}",
                        hint="wait until the repository has built it for all of them, or use a definition for each",
                    )
    return tuple(found[key] for key in sorted(found))


class _Apt:
    """apt in a private directory, for one architecture."""

    def __init__(self, directory: Path, architecture: str, search: str, progress: Progress) -> None:
        self._architecture, self._progress = architecture, progress
        self._state = directory / "state"
        self._repositories: dict[Path, SignedRelease] = {}
        self._directory = directory
        for inner in ("etc/apt/preferences.d", "var/lib/apt/lists/partial", "var/cache/apt/archives/partial"):
            (self._state / inner).mkdir(parents=True)
        (self._state / "status").touch()
        configuration = self._state / "apt.conf"
        configuration.write_text(_CONFIGURATION.format(state=self._state, architecture=architecture))
        self._environ = {
            "PATH": search, "HOME": str(self._state), "APT_CONFIG": str(configuration), "TMPDIR": str(directory),
            "LC_ALL": "C", "LANGUAGE": "C", "TZ": "UTC",
        }  # fmt: skip

    def add(self, release: SignedRelease, indexes: Iterable[LockedIndex], read: ReadIndex) -> set[str]:
        """Add the packages of a suite; return the names of those that are essential.

        Raises:
            IndexDigestError: an index is invalid, or has too many of those.
            CancelledError: the run was asked to stop.
        """
        directory = self._directory / str(len(self._repositories))
        directory.mkdir()
        self._repositories[directory] = release
        essential: set[str] = set()
        digest, size = hashlib.sha256(), 0
        with (directory / "Packages").open("wb") as file:
            for index in indexes:
                if f"/binary-{self._architecture}/" not in index.path and "/binary-all/" not in index.path:
                    continue
                for paragraph in read(index):
                    self._progress.check()
                    if _ESSENTIAL in paragraph:
                        essential.add(_read_name(paragraph, release))
                    size += file.write(text := paragraph + b"\n\n")
                    digest.update(text)
        if len(essential) > _MAX_ESSENTIAL:
            raise _invalid(release, f"{len(essential)} essential packages, more than {_MAX_ESSENTIAL}")
        (directory / "Release").write_text(_describe(release, digest.hexdigest(), size), "utf-8")
        return essential

    def choose(self, name: str, wanted: Sequence[str]) -> Iterator[LockedPackage]:
        """Yield the wanted packages and their dependencies."""
        sources = "".join(f"deb [trusted=yes] file:{directory} ./\n" for directory in self._repositories)
        (self._state / "etc/apt/sources.list").write_text(sources)
        for words in (["update"], ["install", "--print-uris", "--yes", "--", *wanted]):
            done = run(
                Invocation(words=["apt-get", "-q", *words], environ=self._environ, bounds=_BOUNDS), self._progress
            )
            if done.status != 0:
                raise _explain(name, self._architecture, done)
        lines = done.output.decode("utf-8", "replace").splitlines()
        yield from self._find(name, {_parse_line(name, line) for line in lines if line.startswith("'")})

    def _find(self, name: str, chosen: set[_Chosen]) -> Iterator[LockedPackage]:
        """Yield the paragraphs of packages as lines of a lock; of two suites with one package, the first counts."""
        digests = {one.sha256.encode() for one in chosen}
        for directory, release in self._repositories.items():
            with (directory / "Packages").open("rb") as file:
                for paragraph in split_paragraphs(iter(lambda file=file: file.read(_CHUNK), b"")):  # type: ignore[misc]
                    at = paragraph.find(_SHA256) + len(_SHA256)
                    if paragraph[at : at + _HEX] in digests:
                        fields = _parse(paragraph, release)
                        key = _Chosen(
                            *(fields.get(one, "") for one in ("package", "version", "architecture", "sha256"))
                        )
                        if key in chosen:
                            chosen.remove(key)
                            yield _lock(fields, release)
        if chosen:
            first = min(chosen)
            raise UnresolvableError(f"{name}: apt chose {first.name} {first.version}, which no index lists")


def _parse_line(name: str, line: str) -> _Chosen:
    """Return the package that a line of `apt-get --print-uris` names.

    Raises:
        UnresolvableError: its index has no valid SHA256, or its path is not that of a package.
    """
    found = _LINE.fullmatch(line)
    if found is None:
        raise UnresolvableError(
            f"{name}: apt chose a package without a SHA256 or without a .deb: "
            f"{escape_text(line.rpartition('/')[2])[:200]}",
            hint="the index of the repository has to list both",
        )
    return _Chosen(*map(unquote, found.groups()))


def _describe(release: SignedRelease, digest: str, size: int) -> str:
    """Return the Release file of a flat repository."""
    lines = [f"{key}: {value}" for key in _FIELDS if "\n" not in (value := release.fields.get(key.lower(), "\n"))]
    return "\n".join([*lines, "SHA256:", f" {digest} {size} Packages", ""])


def _invalid(release: SignedRelease, reason: str) -> IndexDigestError:
    return IndexDigestError(f"invalid index of {release.suite.name}: {reason}", hint=REPORT)


def _parse(paragraph: bytes, release: SignedRelease) -> dict[str, str]:
    """Return the fields of a paragraph of an index.

    Raises:
        IndexDigestError: it is invalid.
    """
    try:
        return parse_paragraph(paragraph)
    except ValueError as error:
        raise _invalid(release, escape_text(str(error))) from error


def _read_name(paragraph: bytes, release: SignedRelease) -> str:
    """Return the name of a package, which apt gets as an argument.

    Raises:
        IndexDigestError: it is not a name, but an expression or a removal.
    """
    name = _parse(paragraph, release).get("package", "")
    if not NAME.fullmatch(name) or name.endswith("-"):
        raise _invalid(release, f"invalid package {escape_text(name)[:80]!r}")
    return name


def _lock(fields: Mapping[str, str], release: SignedRelease) -> LockedPackage:
    """Return the line of the lock for a package.

    Raises:
        IndexDigestError: a field is invalid.
        UnsafePathError: its path leaves the repository.
    """
    size = fields.get("size", "")
    try:
        return LockedPackage(
            architecture=fields["architecture"],
            package=fields["package"],
            path=fields["filename"].removeprefix("./"),  # as dpkg-scanpackages(1) writes it for `.`
            release=release.suite.name,
            sha256=fields["sha256"],
            size=int(size) if size.isascii() and len(size) < 20 else -1,
            # "Source: name (version)" is absent if both are those of the binary package. Source: Debian Policy 5.6.1
            source=fields.get("source", fields["package"]).partition(" ")[0],
            version=fields["version"],
        )
    except UnsafePathError as error:
        raise UnsafePathError(f"invalid index of {release.suite.name}: {error.message}", hint=REPORT) from error
    except (KeyError, ValueError) as error:
        reason = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise _invalid(release, f"{escape_text(fields.get('package', ''))[:80]}: {reason}") from error


def _explain(name: str, architecture: str, done: Completed) -> UnresolvableError:
    """Return the error with apt's sentence, and the dependency that it names before."""
    said = done.output.decode("utf-8", "replace").splitlines()
    _, _, unmet = "\n".join(said).partition("have unmet dependencies:\n")
    reasons = [" ".join(line.split()) for line in unmet.splitlines()[:1]]
    reasons += [line[3:] for line in done.errors.splitlines() if line.startswith("E: ")][:1]
    reason = "; ".join(map(escape_text, reasons)) or f"apt-get exited with status {done.status}"
    return UnresolvableError(
        f"{name}: apt cannot resolve the packages for {architecture}: {reason[:500]}",
        hint="check the names in `packages`, `suites` and `components`",
    )
