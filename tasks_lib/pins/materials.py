"""Materials of a project: what its definitions fetch, where it comes from, what vouches for it, what uses it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple
from urllib.parse import quote

from tasks_lib import recipe
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
from tasks_lib.network import redacted
from tasks_lib.pins.licences import find_licence
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
