"""Package URLs: what a definition says, or what its URL suggests. Pure: no I/O.

A registry is recognised by the shape of its URLs, so that a mirror or proxy of one suggests the same package.

Source: https://github.com/package-url/purl-spec, "PURL-SPECIFICATION.rst" and "PURL-TYPES.rst".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple
from urllib.parse import SplitResult, quote, unquote, urlsplit

from tasks_lib.definitions import Debian, DebianSource, Fetch, Git, Hg, StaticUrl
from tasks_lib.network import redacted
from tasks_lib.pins.versions import find_version
from tasks_lib.vcs.urls import display_url

#: Longest URL that is compared with the shapes, in characters.
_MAX_URL: Final = 2000
_NAME: Final = r"[A-Za-z0-9][\w.+-]{0,199}"
_VERSION: Final = r"[0-9][\w.+!~-]{0,99}"
#: Paths of files of package registries: type, expression.
_SHAPES: Final = tuple(
    (kind, re.compile(text, re.ASCII))
    for kind, text in (
        (
            "pypi",
            (rf".*/packages/[^/]+/[^/]+/[^/]+/(?P<name>{_NAME}?)-(?P<version>{_VERSION}?)"
             r"(?:-[\w.]+-[\w.]+-[\w.]+\.whl|\.tar\.gz|\.zip)"),
        ),
        ("npm", rf".*?/(?P<space>@{_NAME}/)?(?P<name>{_NAME})/-/(?P=name)-(?P<version>{_VERSION})\.tgz"),
        ("cargo", rf".*/crates/(?P<name>{_NAME})/(?:(?P=name)-)?(?P<version>{_VERSION}?)(?:\.crate|/download)"),
        ("gem", rf".*/gems/(?P<name>{_NAME}?)-(?P<version>{_VERSION}?)\.gem"),
        (
            "golang",
            (r".*?/(?P<space>[\w-]+(?:\.[\w-]+)+/(?:[\w.!-]+/)*)(?P<name>[\w.!-]+)"
             rf"/@v/v(?P<version>{_VERSION}?)\.(?:zip|mod)"),
        ),
        (
            "maven",
            rf".*/maven2/(?P<space>(?:[\w.-]+/)+)(?P<name>[\w.-]+)/(?P<version>{_VERSION})/(?P=name)-(?P=version)[\w.-]*",
        ),
        ("deb", rf".*/pool/.*/(?P<name>{_NAME}?)_(?P<version>{_VERSION}?)_(?P<arch>[a-z0-9]+)\.deb"),
        ("deb", rf".*/(?P<name>{_NAME}?)_(?P<version>{_VERSION}?)\.(?P<arch>dsc)"),
    )
)  # fmt: skip
_GITHUB: Final = re.compile(
    r"/(?P<space>[\w.-]+/)(?P<name>[\w.-]+)/"
    r"(?:releases/download|archive/refs/tags|archive|(?:tar\.gz|zip)/refs/tags|(?:tar\.gz|zip))/(?P<version>[^/]+).*",
    re.ASCII,
)
_GITHUB_HOSTS: Final = ("github.com", "codeload.github.com")
_PURL: Final = re.compile(r"pkg:/*(?P<kind>[^/]+)/(?P<rest>[^?#@]+)(?:@(?P<version>[^?#]*))?(?:\?(?P<more>[^#]*))?")
#: Types whose names do not depend on case. Source: PURL-TYPES.
_CASELESS: Final = ("pypi", "github", "deb")


class Purl(NamedTuple):
    """A package URL; the parts are decoded, `qualifiers` are not."""

    kind: str
    namespace: str
    name: str
    version: str = ""
    qualifiers: str = ""

    def __str__(self) -> str:
        space = "".join(f"{quote(part, safe='')}/" for part in self.namespace.split("/") if part)
        version = f"@{quote(self.version, safe=':')}" if self.version else ""
        more = f"?{self.qualifiers}" if self.qualifiers else ""
        return f"pkg:{self.kind}/{space}{quote(self.name, safe='')}{version}{more}"

    @property
    def package(self) -> str:
        """The package URL without version and qualifiers: the same for all versions."""
        return str(self._replace(version="", qualifiers=""))

    @property
    def full_name(self) -> str:
        """The name as the registry of the package writes it."""
        separator = ":" if self.kind == "maven" else "/"
        return f"{self.namespace}{separator}{self.name}" if self.namespace and self.kind != "deb" else self.name


def parse_purl(text: str) -> Purl:
    """Return a package URL that a definition has, of which the form was checked.

    Raises:
        ValueError: it is not a package URL.
    """
    found = _PURL.fullmatch(text.partition("#")[0])
    if found is None:
        raise ValueError(f"invalid package URL {text[:80]!r}")
    kind = found["kind"].lower()
    space, _, name = found["rest"].strip("/").rpartition("/")
    purl = Purl(kind, unquote(space), unquote(name), unquote(found["version"] or ""), found["more"] or "")
    return _normalize(purl)


def _normalize(purl: Purl) -> Purl:
    if purl.kind in _CASELESS:
        purl = purl._replace(namespace=purl.namespace.lower(), name=purl.name.lower())
    return purl._replace(name=re.sub(r"[-_.]+", "-", purl.name)) if purl.kind == "pypi" else purl


def find_purl(fetch: Fetch) -> Purl | None:
    """Return the package URL of a definition, None if neither it nor its URL names a package of a registry or forge."""
    if fetch.source.purl:
        return parse_purl(fetch.source.purl)
    return next((purl for url in _locations(fetch) if (purl := _suggest(url)) is not None), None)


def describe_purl(fetch: Fetch) -> Purl:
    """Return the package URL of a definition; its type is `generic` if it does not come from a registry or forge."""
    found = find_purl(fetch)
    if found is not None:
        return found
    source = fetch.source
    if isinstance(source, StaticUrl):
        version = find_version(source.url) or find_version(fetch.name)
        place = redacted(source.locations[0]) if source.locations else redacted(source.url)
        more = f"checksum=sha256:{source.integrity.digest.hex}&download_url={quote(place, safe=':/')}"
        return Purl("generic", "", fetch.name, version, more)
    if isinstance(source, Debian):
        return Purl("generic", "", fetch.name)
    if isinstance(source, DebianSource):
        more = f"checksum=sha256:{source.digest.hex}&download_url={quote(redacted(source.url), safe=':/')}"
        return Purl("generic", "", fetch.name, find_version(source.url) or find_version(fetch.name), more)
    tool = "hg" if type(source).__name__ == "Hg" else "git"
    place = quote(f"{tool}+{display_url(source.repo)}@{source.revision}", safe=":/")
    return Purl("generic", "", fetch.name, source.revision, f"vcs_url={place}")


def _locations(fetch: Fetch) -> Iterator[str]:
    source = fetch.source
    if isinstance(source, StaticUrl | DebianSource):
        yield from dict.fromkeys((source.url, *source.mirrors))
    elif isinstance(source, Git | Hg) and urlsplit(source.repo).hostname in _GITHUB_HOSTS:
        yield f"{source.repo.rstrip('/').removesuffix('.git')}/archive/{source.revision}"


def _suggest(url: str) -> Purl | None:
    if len(url) > _MAX_URL:
        return None
    parts = urlsplit(url)
    path = unquote(parts.path)
    if (parts.hostname or "").lower() in _GITHUB_HOSTS:
        found = _GITHUB.fullmatch(path)
        if found is None:
            return None
        version = re.sub(r"\.(?:tar\.[a-z0-9]+|tgz|zip)$", "", found["version"])
        return _normalize(Purl("github", found["space"].strip("/"), found["name"], version))
    for kind, shape in _SHAPES:
        found = shape.fullmatch(path)
        if found is not None:
            groups = found.groupdict()
            space = _distribution(parts) if kind == "deb" else (groups.get("space") or "").strip("/")
            space = space.replace("/", ".") if kind == "maven" else space
            version = f"v{found['version']}" if kind == "golang" else found["version"]
            more = f"arch={groups['arch'].replace('dsc', 'source')}" if kind == "deb" else ""
            return _normalize(Purl(kind, space, found["name"], version, more))
    return None


def _distribution(parts: SplitResult) -> str:
    """Return the distribution that publishes a package, as its URL suggests: Debian, or Ubuntu.

    Source: purl-spec, types/deb-definition.json: the namespace is the vendor.
    """
    return "ubuntu" if "ubuntu" in re.split(r"[./]", f"{parts.hostname}{parts.path}".lower()) else "debian"
