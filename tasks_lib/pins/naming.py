"""Names of new definitions and of files of releases: the stem with its version, and the platform. Pure: no I/O."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from tasks_lib.definitions.fields import MAX_NAME
from tasks_lib.formats import describe_not_extracted, format_from_name
from tasks_lib.pins.versions import find_version
from tasks_lib.platforms import find_platform_words, parse_platform
from tasks_lib.vcs.urls import repository_name

#: Stems that name no project.
_BARE: Final = frozenset({
    "", "archive", "asset", "assets", "bin", "binary", "blob", "content", "contents", "current", "dist", "dl",
    "download", "downloads", "file", "files", "get", "head", "index", "latest", "main", "master", "package", "pkg",
    "raw", "release", "releases", "source", "sources", "src", "stable", "tarball", "trunk", "zip", "zipball",
})  # fmt: skip
#: Segments of a URL's path that name no project, beside those.
_STRUCTURAL: Final = frozenset(
    {"-", "api", "crates", "heads", "project", "projects", "refs", "tags", "tar.gz", "v1", "v2"}
)
#: A version alone, a date, or the start of a commit id.
_ONLY_VERSION: Final = re.compile(
    r"(?:[vr]|(?:ver|version|release|rel)[-_.]?)?[0-9][0-9A-Za-z.+~_-]{0,80}|[0-9a-f]{7,64}", re.IGNORECASE
)
#: Endings of files that are not archives, or that are used as they are; a compressed one has two.
_COMPRESSED: Final = re.compile(r"\.(?:gz|bz2|xz|zst|zstd|lz|lz4|z|lzma|br)$", re.IGNORECASE)
_ENDING: Final = re.compile(
    r"\.(?!(?:alpha|beta|dev|final|ga|post|pre|rc|release|snapshot)$)[A-Za-z]{1,9}$|\.(?:mp[34]|7z|bz2|so\.[0-9.]+)$",
    re.IGNORECASE,
)
#: Endings of programs that answer with a file.
_SERVERS: Final = re.compile(r"\.(?:php|cgi|aspx?|jsp|do|pl)$", re.IGNORECASE)
#: The start of a commit id at the end of a forge's top directory.
_COMMIT: Final = re.compile(r"-[0-9a-f]{7,40}$")
_INVALID: Final = re.compile(r"[^A-Za-z0-9._+~@-]+")


def propose_name(url: str, top: str) -> str:
    """Return a name for the content of a URL, "" if it shows none.

    `url` has no fragment; `top` is the only top directory of the archive, "" for none.
    """
    stem = _stem(file_name(url))
    version = find_version(url)
    if is_bare(stem):
        tops = () if version and _COMMIT.search(top) else (top,)
        stem = next((one for one in (*tops, *_segments(url)) if not is_bare(one)), "")
    if stem and version and not find_version(stem) and version not in stem:
        stem = f"{stem}-{version}"
    return _INVALID.sub("-", stem).lstrip("._+~@-").rstrip("-")[:MAX_NAME]


def propose_repository_name(url: str, version: str) -> str:
    """Return a name for a commit of a repository: that of the repository, with the version or tag."""
    name = repository_name(url).removesuffix(".git")
    version = re.sub(r"^v(?=[0-9])", "", version)
    stem = version if name and version.startswith(name) else f"{name}-{version}".rstrip("-")
    return _INVALID.sub("-", stem).lstrip("._+~@-")[:MAX_NAME]


def file_name(url: str) -> str:
    """Return the file that a URL names, unquoted: the last segment of its path, or a value of its query."""
    parts = urlsplit(url)
    last = unquote(posixpath.basename(parts.path))
    if is_bare(_stem(last)) or _SERVERS.search(last):
        named = [posixpath.basename(value) for _, value in parse_qsl(parts.query)]
        return next((one for one in named if format_from_name(one) or describe_not_extracted(one)), last)
    return last


def has_ending(name: str) -> bool:
    """Return whether a file name has an ending that says what the file is."""
    return bool(_ENDING.search(name)) and not _SERVERS.search(name)


def is_bare(stem: str) -> bool:
    """Return whether a stem names no project: a word such as `download`, or only a version."""
    return stem.lower() in _BARE or bool(_ONLY_VERSION.fullmatch(stem)) or bool(_SERVERS.search(stem))


def _segments(url: str) -> Iterator[str]:
    """Yield the other segments of the path that may name a project, the last one first."""
    for segment in reversed(unquote(urlsplit(url).path).split("/")[:-1]):
        if segment.lower() not in _STRUCTURAL:
            yield _stem(segment)


def split_name(name: str) -> tuple[str, str]:
    """Return the stem and the endings of a file name."""
    stem = _stem(name)
    return stem, name[len(stem) :]


def _stem(name: str) -> str:
    """Return a file name without its endings."""
    name = _COMPRESSED.sub("", name)
    return _ENDING.sub("", name) if not _SERVERS.search(name) else name


# --- platforms in names of files

#: Words beside a platform: the vendor, and the libc or ABI.
#: Source: Rust's and GNU's target triples.
_VENDORS: Final = frozenset({"apple", "pc", "unknown"})
_ABIS: Final = frozenset({
    "gnu", "gnueabi", "gnueabihf", "glibc", "musl", "musleabi", "musleabihf", "msvc", "android", "static",
})  # fmt: skip
_WORD: Final = re.compile(r"[A-Za-z0-9]+")
_SEPARATORS: Final = "-_."
#: Systems on which doit-fetch does not run.
_UNSUPPORTED: Final = ("windows-",)


class AssetName(NamedTuple):
    """The parts of a file name.

    `rest` has the words of the stem that are not about the platform; `kind` is "archive", or the ending of other files.
    """

    name: str
    platform: str
    abi: str
    rest: str
    kind: str
    ending: str


def parse_asset_name(name: str) -> AssetName | None:
    """Return the parts of a file name, None if it contains no platform."""
    stem, ending = split_name(name)
    words = find_platform_words(stem)
    if words is None:
        return None
    spans = list(words)
    platform = parse_platform("-".join(stem[start:end] for start, end in spans))
    abi = ""
    for found in _WORD.finditer(stem):
        word = found[0].lower()
        if word in _VENDORS or word in _ABIS:
            spans.append(found.span())
            abi = word if word in _ABIS else abi
    kind = "archive" if format_from_name(name) not in (None, "deb") else ending.lower().replace(".exe", "")
    return AssetName(name, platform, abi, _without(stem, spans), kind, ending)


def without_platform(name: str) -> str:
    """Return a name without the words of its platform; the name itself if it has none."""
    found = parse_asset_name(name)
    return found.rest + found.ending if found is not None else name


class Choice(NamedTuple):
    """The siblings of an asset, by platform, and the names that are left out: name -> reason."""

    assets: dict[str, str]
    left_out: dict[str, str]


def choose_siblings(own: AssetName, names: Iterable[str]) -> Choice:
    """Return the assets that differ from a name in their platform only, at most one for each platform.

    Those with the same ABI and the same ending as `own` come first.
    """
    found: dict[str, list[AssetName]] = {}
    for name in names:
        other = parse_asset_name(name)
        if other is not None and other.platform != own.platform and _words(other) == _words(own):
            found.setdefault(other.platform, []).append(other)
    choice = Choice({}, {})
    for platform, assets in sorted(found.items()):
        best = min(assets, key=lambda one: (one.abi != own.abi, one.ending != own.ending, one.name))
        if platform.startswith(_UNSUPPORTED):
            choice.left_out[best.name] = f"{platform} is not supported"
        else:
            choice.assets[platform] = best.name
    return choice


def _words(asset: AssetName) -> tuple[str, ...]:
    """Return what siblings have in common; names of one release use different separators and endings of archives."""
    return (*re.split(r"[-_.]+", asset.rest), asset.kind)


def _without(stem: str, spans: Iterable[tuple[int, int]]) -> str:
    """Return a text without some of its words, each with the separator before it."""
    for start, end in sorted(spans, reverse=True):
        before = start - 1 if start and stem[start - 1] in _SEPARATORS else start
        stem = stem[:before] + stem[end:]
    return stem.strip(_SEPARATORS)
