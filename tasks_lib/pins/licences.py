"""Licences that packages declare: read from the metadata of a package of PyPI, npm or crates that the cache has.

Source: https://packaging.python.org/en/latest/specifications/core-metadata/ ; package.json of npm, "license" ;
https://doc.rust-lang.org/cargo/reference/manifest.html
"""

from __future__ import annotations

import contextlib
import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from tasks_lib import archive
from tasks_lib.archive.entries import Entry
from tasks_lib.context import Context
from tasks_lib.definitions import Fetch, StaticUrl
from tasks_lib.errors import ArchiveError, CacheError
from tasks_lib.formats import UNCHANGED, format_from_name
from tasks_lib.pins.purl import Purl

#: Bytes of a package that is read, of its metadata, and characters of a licence.
_MAX_PACKAGE: Final = 256 << 20
_MAX_METADATA: Final = 1 << 20
_MAX_LICENCE: Final = 200


def _read_core_metadata(text: str) -> str:
    head = text.partition("\n\n")[0]
    found = re.search(r"^License-Expression: *(.+)$", head, re.MULTILINE) or re.search(
        r"^License: *(.+)$", head, re.MULTILINE
    )
    return found[1] if found is not None else ""


def _read_package_json(text: str) -> str:
    licence = msgspec.json.decode(text, type=dict[str, object]).get("license")
    return licence if isinstance(licence, str) else ""


def _read_cargo_toml(text: str) -> str:
    package = tomllib.loads(text).get("package")
    licence = package.get("license") if isinstance(package, dict) else ""
    return licence.replace("/", " OR ") if isinstance(licence, str) else ""


#: Path of the metadata in a package of each type, and what reads it.
_METADATA: Final[Mapping[str, tuple[re.Pattern[bytes], Callable[[str], str]]]] = {
    "pypi": (re.compile(rb"[^/]+\.dist-info/METADATA|[^/]+/PKG-INFO"), _read_core_metadata),
    "npm": (re.compile(rb"[^/]+/package\.json"), _read_package_json),
    "cargo": (re.compile(rb"[^/]+/Cargo\.toml"), _read_cargo_toml),
}


class _FoundError(Exception):
    """The metadata was read; the rest of the package is not needed."""


def find_licence(context: Context, fetch: Fetch, purl: Purl) -> str:
    """Return the licence that a package declares, "" if it is not known.

    Raises:
        CacheUnavailableError: the cache cannot be used.
    """
    source = fetch.source
    if purl.kind not in _METADATA or not isinstance(source, StaticUrl) or source.integrity.size > _MAX_PACKAGE:
        return ""
    if not context.cache.has(source.integrity):
        return ""
    pattern, parse = _METADATA[purl.kind]
    try:
        text = _read_metadata(context, source, pattern, "zip" if purl.kind == "pypi" else "tar.gz")
        return " ".join(parse(text).split())[:_MAX_LICENCE]
    except (ArchiveError, CacheError, msgspec.MsgspecError, tomllib.TOMLDecodeError, RecursionError):
        return ""


def _read_metadata(context: Context, source: StaticUrl, path: re.Pattern[bytes], usual: str) -> str:
    """Return the text of the first file with a path, "" if there is none.

    Raises:
        ArchiveError, CacheError: the package cannot be read.
    """
    content = bytearray()

    def keep(entry: Entry) -> None:
        if entry.kind == "file" and path.fullmatch(entry.path) and entry.size <= _MAX_METADATA:
            for chunk in entry.chunks:
                content.extend(chunk)
            raise _FoundError

    form = source.format or format_from_name(source.file_name) or usual
    limits = context.limits(source.archive)
    with context.cache.open(source.integrity) as package, contextlib.suppress(_FoundError):
        archive.read(package, name=source.file_name, format=form, reshape=UNCHANGED, limits=limits, sink=keep)
    return content.decode("utf-8", "replace")
