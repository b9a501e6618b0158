"""Materials of a project: what its definitions fetch, where it comes from, what vouches for it, what uses it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tasks_lib import recipe
from tasks_lib.context import Context
from tasks_lib.definitions import Checksums, Definitions, Fetch, GpgSignature, Minisign, StaticUrl
from tasks_lib.network import redacted
from tasks_lib.pins.licences import find_licence
from tasks_lib.pins.purl import Purl, describe_purl
from tasks_lib.pins.versions import find_version
from tasks_lib.vcs.urls import display_url


class Material(NamedTuple):
    """What one definition fetches; "" and -1 mean unknown.

    `urls` have no secrets, that of the definition first. `evidence` are sentences on what vouches for the content.
    `consumers` are names of toolchains.
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


def list_materials(context: Context, definitions: Definitions, fetches: Iterable[Fetch]) -> list[Material]:
    """Return the material of each definition, sorted by name.

    Raises:
        CacheUnavailableError: the cache cannot be used.
    """
    consumers: dict[str, set[str]] = {}
    for toolchain in definitions.toolchains.values():
        for entry in toolchain.fetches:
            if entry.kind == "fetch":
                consumers.setdefault(definitions.fetch(entry.name).name, set()).add(toolchain.name)
    return [_describe(context, one, consumers) for one in sorted(fetches, key=lambda fetch: fetch.name)]


def _describe(context: Context, fetch: Fetch, consumers: Mapping[str, set[str]]) -> Material:
    source, purl = fetch.source, describe_purl(fetch)
    is_file = isinstance(source, StaticUrl)
    urls = (source.url, *source.mirrors) if isinstance(source, StaticUrl) else ()
    return Material(
        name=fetch.name,
        description=fetch.description,
        version=purl.version or find_version(fetch.name),
        purl=purl,
        file_name=source.file_name if isinstance(source, StaticUrl) else source.artifact_name,
        size=source.integrity.size if isinstance(source, StaticUrl) else -1,
        sha256=source.integrity.digest.hex if isinstance(source, StaticUrl) else "",
        commit="" if isinstance(source, StaticUrl) else source.revision,
        urls=tuple(dict.fromkeys(map(redacted, urls))) if is_file else (_repository_url(fetch),),
        licence=find_licence(context, fetch, purl),
        evidence=tuple(_list_evidence(context, fetch)),
        consumers=tuple(sorted(consumers.get(fetch.name, ()))),
        place=f"{fetch.file}:{fetch.line}",
    )


def _repository_url(fetch: Fetch) -> str:
    source = fetch.source
    return display_url(source.url if isinstance(source, StaticUrl) else source.repo)


def _list_evidence(context: Context, fetch: Fetch) -> Iterable[str]:
    """Yield what vouches for the content: its pins, the signatures that each fetch verifies, and the last download."""
    source = fetch.source
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
