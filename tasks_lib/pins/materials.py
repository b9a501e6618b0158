"""Materials of a project: what its definitions fetch, where it comes from, what vouches for it, what uses it.

A licence is what a package of PyPI, npm or crates declares in its metadata, if the cache has the package.
Source: https://packaging.python.org/en/latest/specifications/core-metadata/ ; package.json of npm, "license" ;
https://doc.rust-lang.org/cargo/reference/manifest.html
"""

from __future__ import annotations

import contextlib
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple
from urllib.parse import quote

import msgspec

from tasks_lib import archive, recipe
from tasks_lib.archive.entries import Entry
from tasks_lib.context import Context
from tasks_lib.definitions import (
    Checksums,
    Debian,
    DebianSource,
    Definitions,
    Fetch,
    Git,
    GpgSignature,
    Hg,
    Minisign,
    StaticUrl,
)
from tasks_lib.definitions.values import file_name_of
from tasks_lib.errors import ArchiveError, CacheError
from tasks_lib.formats import UNCHANGED, format_from_name
from tasks_lib.network import redacted
from tasks_lib.pins.purl import Purl, describe_purl
from tasks_lib.pins.versions import find_version
from tasks_lib.steps.debian import load_packages
from tasks_lib.vcs.urls import display_url


class Material(NamedTuple):
    """What one definition fetches, or one package of it; "" and -1 mean unknown.

    `urls` have no secrets, that of the definition first. `evidence` are sentences on what vouches for the content.
    `consumers` are names of toolchains. `whole` is the name of the definition that a package belongs to, else "".
    """

    name: str
    description: str
    version: str
    purl: Purl
    file_name: str
    size: int
    sha256: str
    commit: str
    urls: tuple[str, ...]
    licence: str
    evidence: tuple[str, ...]
    consumers: tuple[str, ...]
    place: str
    whole: str = ""


def list_materials(context: Context, definitions: Definitions, fetches: Iterable[Fetch]) -> list[Material]:
    """Return the material of each definition, sorted by name, each followed by its packages.

    Raises:
        CacheUnavailableError: the cache cannot be used.
    """
    consumers: dict[str, set[str]] = {}
    for toolchain in definitions.toolchains.values():
        for entry in toolchain.fetches:
            if entry.kind == "fetch":
                consumers.setdefault(definitions.fetch(entry.name).name, set()).add(toolchain.name)
    found = []
    for one in sorted(fetches, key=lambda fetch: fetch.name):
        found.append(_describe(context, one, consumers))
        if isinstance(one.source, Debian):
            found += _describe_packages(one, one.source)
    return found


def _describe_packages(fetch: Fetch, source: Debian) -> Iterator[Material]:
    """Yield the packages of the lock, none if it cannot be read.

    Source: purl-spec, types/deb-definition.json: the qualifiers `arch` and `distro`.
    """
    for one, codename, urls in load_packages(source):
        more = f"arch={quote(one.architecture)}&distro={quote(codename)}"
        yield Material(
            name=f"{fetch.name}/{one.package}:{one.architecture}",
            description=f"package of {fetch.name}, built from the source package {one.source}",
            version=one.version,
            purl=Purl("deb", "debian", one.package, one.version, more),
            file_name=one.path.rpartition("/")[2],
            size=one.size,
            sha256=one.sha256,
            commit="",
            urls=tuple(map(redacted, urls)),
            licence="",
            evidence=("listed in an index of a signed release; every fetch compares the lock with the index",),
            consumers=(),
            place=source.lock_file,
            whole=fetch.name,
        )


def _describe(context: Context, fetch: Fetch, consumers: Mapping[str, set[str]]) -> Material:
    source, purl = fetch.source, describe_purl(fetch)
    return Material(
        name=fetch.name,
        description=fetch.description,
        version=purl.version or find_version(fetch.name),
        purl=purl,
        file_name=_file_name(source),
        size=source.integrity.size if isinstance(source, StaticUrl) else getattr(source, "size", -1),
        sha256=_sha256(source),
        commit=source.revision if isinstance(source, Git | Hg) else "",
        urls=tuple(_list_urls(source)),
        licence=find_licence(context, fetch, purl),
        evidence=tuple(_list_evidence(context, fetch)),
        consumers=tuple(sorted(consumers.get(fetch.name, ()))),
        place=f"{fetch.file}:{fetch.line}",
    )


def _file_name(source: StaticUrl | Git | Hg | Debian | DebianSource) -> str:
    if isinstance(source, DebianSource):
        return file_name_of(source.url)
    return source.file_name if isinstance(source, StaticUrl) else source.artifact_name


def _sha256(source: StaticUrl | Git | Hg | Debian | DebianSource) -> str:
    if isinstance(source, DebianSource):
        return source.digest.hex
    return source.integrity.digest.hex if isinstance(source, StaticUrl) else ""


def _list_urls(source: StaticUrl | Git | Hg | Debian | DebianSource) -> Iterable[str]:
    if isinstance(source, Git | Hg):
        return [display_url(source.repo)]
    if isinstance(source, Debian):
        return dict.fromkeys(redacted(suite.uri) for suite in source.suites)
    return dict.fromkeys(map(redacted, (source.url, *source.mirrors)))


def _list_evidence(context: Context, fetch: Fetch) -> Iterable[str]:
    """Yield what vouches for the content: its pins, the signatures that each fetch verifies, and the last download."""
    source = fetch.source
    if isinstance(source, Debian):
        yield f"resolved in {source.lock_file}, from releases signed by {' or '.join(source.signed_by)}"
        return
    if isinstance(source, DebianSource):
        what = "the .dsc is pinned by sha256, and pins the other files" if source.form == "dsc" else "pinned by sha256"
        yield f"{what}; every fetch verifies this"
        if source.signed_by:
            yield f"signed, OpenPGP key {' or '.join(source.signed_by)}"
        return
    if not isinstance(source, StaticUrl):
        yield f"pinned to commit {source.revision}"
        return
    yield "pinned by sha256 and size; both are verified by every fetch"
    for voucher in source.vouchers:
        if isinstance(voucher, Checksums):
            yield f"listed in a signed list of digests, {_describe_key(voucher.signed_by)}"
        else:
            yield f"signed, {_describe_key(voucher)}"
    result = context.cache.result(recipe.fetch_key(source.integrity))
    if result is not None and result.provenance.get("url"):
        yield f"downloaded from {result.provenance['url']}"


def _describe_key(key: GpgSignature | Minisign) -> str:
    if isinstance(key, Minisign):
        return f"minisign key {key.public_key}"
    return f"OpenPGP key {key.fingerprint or 'any'} of {key.key_path}"


# --- licences

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
