"""The layouts of an export: where each download is, which texts are beside it, and the tool's line of configuration.

Pure: no I/O. URLs come from outside: each path is a `RelPath`, which cannot leave the directory of the export.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from shlex import quote
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

from tasks_lib.definitions import StaticUrl
from tasks_lib.network import redacted

#: The platforms of a DotSlash file that doit-fetch runs on. Source: DotSlash, "DotSlash File", `platforms`.
_DOTSLASH_PLATFORMS: Final = ("linux-aarch64", "linux-x86_64", "macos-aarch64", "macos-x86_64")
#: The other ones. Source: as above.
_DOTSLASH_OTHERS: Final = ("windows-aarch64", "windows-x86_64")
#: Mode of a text, and of one that is a program.
_PLAIN: Final = 0o644
_PROGRAM: Final = 0o755


class ExportedProgram(NamedTuple):
    """The path of a program in a download of this format; format "" and the file's own name for a plain file."""

    format: str
    path: str


class ExportedDownload(NamedTuple):
    """The pinned download of the definition `name`, for `platform`, or for any if that is "".

    `sha512` returns the hex digits of that digest, `program` the program in it; both read the content.
    """

    name: str
    source: StaticUrl
    sha512: Callable[[], str]
    program: Callable[[], ExportedProgram]
    platform: str = ""

    @property
    def sha256(self) -> str:
        """The hex digits of its digest."""
        return self.source.integrity.digest.hex


class ExtractedTree(NamedTuple):
    """The extracted archive of the definition `name`, at an absolute path."""

    name: str
    path: str


class WrittenText(NamedTuple):
    """A small file beside the downloads; `names` are the definitions to which it belongs, () for all."""

    path: str
    content: bytes
    names: tuple[str, ...] = ()
    mode: int = _PLAIN


class ExportTarget(NamedTuple):
    """Where an export goes: its absolute directory, and the URL at which that is served, without a slash at the end."""

    directory: str
    url: str


class Exported(NamedTuple):
    """What an export has: downloads, all that the project knows, the sha256 of each file by path, and trees."""

    downloads: Sequence[ExportedDownload]
    known: Sequence[ExportedDownload]
    digests: Mapping[str, str]
    trees: Sequence[ExtractedTree]


class ExportLayout(NamedTuple):
    """A layout: the path of a download, the texts beside the downloads, and the line of configuration of its tool.

    `has_packages`: whether it has the packages and the indexes of a lock, several of which have one file name.
    """

    place: Callable[[ExportedDownload], str]
    line: Callable[[ExportTarget], str]
    texts: Callable[[Exported, ExportTarget], Iterator[WrittenText]] = lambda _exported, _target: iter(())
    has_trees: bool = False
    has_packages: bool = False


# --- paths


def _by_file_name(one: ExportedDownload) -> str:
    """Return the file name of the URL, escapes kept; definitions reject a URL without one."""
    return one.source.file_name


def _by_decoded_name(one: ExportedDownload) -> str:
    """Return the file name as pip reads it from a URL. Source: pip, `Link.filename`.

    Raises:
        ValueError: it has an escaped slash.
    """
    return _decode(_by_file_name(one))


def _by_url(one: ExportedDownload) -> str:
    """Return `HOST[:PORT]/path`, with escapes decoded, as servers of files do before they look for a file.

    Raises:
        ValueError: the URL has no host, or a component has an escaped slash.
    """
    parts = urlsplit(one.source.url)
    host = parts.netloc.rpartition("@")[2].lower()
    if not host:
        raise ValueError("has no host")
    return "/".join([host, *map(_decode, parts.path.split("/")[1:])])


def _decode(component: str) -> str:
    decoded = unquote(component, errors="surrogateescape")
    if "/" in decoded:
        raise ValueError("contains an escaped slash")
    return decoded


def _by_digest(one: ExportedDownload) -> str:
    return f"cas/{one.sha256}"


def _name_store(target: ExportTarget) -> str:
    """Return the line of pyproject.toml for a directory, which is a store, and that of mirrors.yml for a server."""
    if target.url.startswith("file:"):
        return f'store = "{target.url}"'
    return f'content-addressed: [{{url: "{target.url}/cas/{{sha256}}", place: first}}]'


# --- texts


def _checksums(exported: Exported, _target: ExportTarget) -> Iterator[WrittenText]:
    lines = sorted(f"{digest}  {path}\n" for path, digest in exported.digests.items())
    yield WrittenText("SHA256SUMS", "".join(lines).encode("utf-8", "surrogateescape"))


def _conan_sidecars(exported: Exported, _target: ExportTarget) -> Iterator[WrittenText]:
    """Yield the files without which Conan counts a source as a miss; definitions of one digest share one.

    Source: Conan 2, "Backing up third-party sources with Conan".
    """
    urls: dict[str, set[str]] = {}
    for one in exported.known:
        urls.setdefault(one.sha256, set()).add(redacted(one.source.url))
    names: dict[str, list[str]] = {}
    for one in exported.downloads:
        names.setdefault(one.sha256, []).append(one.name)
    for digest, users in names.items():
        content = json.dumps({"references": {"unknown": sorted(urls[digest])}}, indent=4)
        yield WrittenText(f"{digest}.json", f"{content}\n".encode(), tuple(users))


def _dotslash_files(exported: Exported, target: ExportTarget) -> Iterator[WrittenText]:
    """Yield a DotSlash file for each name, with the download of each platform. Source: DotSlash, "DotSlash File"."""
    files: dict[str, list[ExportedDownload]] = {}
    for one in exported.downloads:
        if one.platform in ("", *_DOTSLASH_PLATFORMS, *_DOTSLASH_OTHERS):
            files.setdefault(one.name.removesuffix(f"@{one.platform}"), []).append(one)
    for name, downloads in files.items():
        platforms = {
            platform: _dotslash_entry(one, target)
            for one in downloads
            for platform in ((one.platform,) if one.platform else _DOTSLASH_PLATFORMS)
        }
        content = json.dumps({"name": name, "platforms": dict(sorted(platforms.items()))}, indent=2)
        names = tuple(one.name for one in downloads)
        yield WrittenText(name, f"#!/usr/bin/env dotslash\n\n{content}\n".encode(), names, _PROGRAM)


def _dotslash_entry(one: ExportedDownload, target: ExportTarget) -> dict[str, Any]:
    program = one.program()
    return {
        "size": one.source.integrity.size,
        "hash": "sha256",
        "digest": one.sha256,
        **({"format": program.format} if program.format else {}),
        "path": program.path,
        "providers": [{"url": f"{target.url}/{_by_digest(one)}"}],
    }


def _cmake_script(exported: Exported, _target: ExportTarget) -> Iterator[WrittenText]:
    """Yield the initial cache of CMake. Source: CMake, FetchContent, FETCHCONTENT_SOURCE_DIR_<uppercaseName>.

    Raises:
        ValueError: two names differ only in case.
    """
    lines = ["# written by `doit export cmake`; use it with `cmake -C`\n"]
    names: dict[str, str] = {}
    for one in sorted(exported.trees):
        variable = f"FETCHCONTENT_SOURCE_DIR_{one.name.upper()}"
        if variable in names:
            raise ValueError(f"{names[variable]} and {one.name} have one name in CMake, {variable}")
        names[variable] = one.name
        lines.append(f'set({variable} {_cmake_word(one.path)} CACHE PATH "tree of {one.name}")\n')
    yield WrittenText("fetch.cmake", "".join(lines).encode("utf-8", "surrogateescape"))


def _cmake_word(text: str) -> str:
    """Return a text as one argument of CMake. Source: cmake-language(7), "Bracket Argument"."""
    equals = "="
    while f"]{equals}]" in text:
        equals += "="
    return f"[{equals}[{text}]{equals}]"


#: The name of the layout of images, which is not one of files.
OCI: Final = "oci"
#: The layouts by name. Source of each: reach.md section F, and the documentation of the tool.
LAYOUTS: Final[Mapping[str, ExportLayout]] = {
    "url": ExportLayout(_by_url, lambda to: f'url_replacements = {{"regex:^https?://" = "{to.url}/"}}'),
    "cas": ExportLayout(
        _by_digest,
        _name_store,
        has_packages=True,
    ),
    "sha256sum": ExportLayout(
        _by_file_name,
        lambda to: f"cd {quote(to.directory)} && sha256sum --check --quiet SHA256SUMS",
        _checksums,
    ),
    "distdir": ExportLayout(_by_file_name, lambda to: f"build --distdir={quote(to.directory)}"),
    "bazel": ExportLayout(
        lambda one: f"content_addressable/sha256/{one.sha256}/file",
        lambda to: f"build --repository_cache={quote(to.directory)}",
    ),
    "conan": ExportLayout(
        lambda one: one.sha256,
        lambda to: f"core.sources:download_urls={json.dumps([f'{to.url}/', 'origin'])}",
        _conan_sidecars,
    ),
    "nix": ExportLayout(lambda one: f"sha256/{one.sha256}", lambda to: f"hashed-mirrors = {to.url}"),
    "meson": ExportLayout(_by_file_name, lambda to: f"export MESON_PACKAGE_CACHE_DIR={quote(to.directory)}"),
    "vcpkg": ExportLayout(
        lambda one: one.sha512(), lambda to: f"export X_VCPKG_ASSET_SOURCES='clear;x-azurl,{to.url}/,,read'"
    ),
    "find-links": ExportLayout(
        _by_decoded_name, lambda to: f"pip install --no-index --find-links={quote(to.directory)}"
    ),
    "dotslash": ExportLayout(_by_digest, lambda to: f"export PATH={quote(to.directory)}:$PATH", _dotslash_files),
    "cmake": ExportLayout(
        _by_digest, lambda to: f"cmake -C {quote(f'{to.directory}/fetch.cmake')}", _cmake_script, has_trees=True
    ),
}
