"""File names of releases: the platform that a name contains, and the names that differ in it only. Pure: no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from tasks_lib.formats import format_from_name
from tasks_lib.pins.naming import split_name
from tasks_lib.platforms import find_platform_words, parse_platform

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
