"""Mirrors: alternative URLs of downloads by group, rewriting and content address, and allowed or blocked hosts.

Mirrors are locations only: they are not part of a recipe key, and content is verified by digest wherever it comes from.
The file is `mirrors.yml` next to `fetch/` (docs/mirrors.md). Pure: no I/O.
Source of the terms: Bazel's downloader configuration (rewrite, allow, block), Go's GOPROXY list (`,` continues after
404 and 410, `|` after any error; `direct`), Nix's `mirror://` and hashed mirrors.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

from tasks_lib.definitions.expressions import compile_expression
from tasks_lib.definitions.fields import NAME, TEXT, TEXTS, check_download_url, one_of, one_or_list, read_text
from tasks_lib.definitions.schema import Field, FieldError, FieldTable, Location, read_table, schema_of
from tasks_lib.definitions.taskgraph import taskgraph_digest
from tasks_lib.definitions.values import Debian, DebianSource, Fetch, Place, StaticUrl, scheme_fault
from tasks_lib.definitions.yaml_tree import Node, Scalar, Sequence, Tree, YamlFaultError, parse_yaml
from tasks_lib.errors import suggest
from tasks_lib.network import parse_address, reached_by

#: Maximum number of URLs for one definition; more would be a mistake in the rules.
MAX_PLACES: Final = 64
_MIRROR: Final = re.compile(rf"mirror://({NAME})/(.*)")
#: Placeholders of a content-addressed URL, and those of an artifact of Taskcluster.
_PLACEHOLDER: Final = re.compile(r"\{(algo|hex|sha256|name|artifact|taskgraph_digest)\}")
_OF_ARTIFACT: Final = re.compile(r"\{(name|artifact|taskgraph_digest)\}")
#: In `to:`, the original URL. Source: the GOPROXY keyword for bypassing proxies.
_DIRECT: Final = "direct"


class Group(NamedTuple):
    """A named list of base URLs with the same tree of files."""

    urls: tuple[str, ...]
    go_on: str


class Rule(NamedTuple):
    """A rewrite rule: try `to` instead of a URL that matches `match` as a whole."""

    match: str
    to: tuple[str, ...]
    go_on: str


class ContentAddress(NamedTuple):
    """A content-addressed server: a URL template with {algo} and {hex}, {sha256}, or {taskgraph_digest}."""

    url: str
    place: str
    go_on: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirrors:
    """The configuration in `mirrors.yml`."""

    groups: Mapping[str, Group] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    addresses: tuple[ContentAddress, ...] = ()
    allow: tuple[str, ...] = ()
    block: tuple[str, ...] = ()
    blocked_message: str = ""

    def places(self, fetch: Fetch, source: StaticUrl) -> tuple[Place, ...]:
        """Return the URLs to try for the download of `fetch` from its `source`, in order and without duplicates."""
        found: dict[str, Place] = {}
        named = (place for url in (source.url, *source.mirrors) for place in self._named(url))
        first, last = (self._addressed(fetch, source, place) for place in ("first", "last"))
        for place in (*first, *named, *last):
            found.setdefault(place.url, self._judged(place))
        return tuple(found.values())[:MAX_PLACES]

    def locations(self, url: str) -> tuple[Place, ...]:
        """Return the URLs to try for content without a known digest."""
        return tuple(self._judged(place) for place in self._named(url))

    def is_rewritten(self, url: str) -> bool:
        """Return whether a rewrite rule matches a URL."""
        return any(compile_expression(rule.match).fullmatch(url) for rule in self.rules)

    def unknown_group(self, url: str) -> str:
        """Return the name of the group in `url` if it is not defined, else ""."""
        match = _MIRROR.fullmatch(url)
        return match[1] if match and match[1] not in self.groups else ""

    def _named(self, url: str) -> Iterator[Place]:
        """Yield the URLs to try for one URL: from the first matching rule, else from its group, else itself."""
        for rule in self.rules:
            match = compile_expression(rule.match).fullmatch(url)
            if match:
                for template in rule.to:
                    if template == _DIRECT:
                        yield from self._grouped(url, rule.go_on)
                    else:
                        yield from map(_checked, self._grouped(match.expand(template), rule.go_on))
                return
        yield from self._grouped(url, "any-error")

    def _grouped(self, url: str, go_on: str) -> Iterator[Place]:
        match = _MIRROR.fullmatch(url)
        if match is None:
            yield Place(url=url, go_on=go_on)
        elif match[1] in self.groups:
            group = self.groups[match[1]]
            for base in group.urls:
                yield Place(url=base + match[2], go_on=group.go_on)

    def _addressed(self, fetch: Fetch, source: StaticUrl, place: str) -> Iterator[Place]:
        digest = source.integrity.digest
        for one in self.addresses:
            if one.place != place or ("{sha256}" in one.url and digest.algorithm != "sha256"):
                continue
            if source.needs_repack and _OF_ARTIFACT.search(one.url):
                continue  # Taskcluster has the repacked artifact, not the download
            values = {"algo": digest.algorithm, "hex": digest.hex, "sha256": digest.hex}
            if _OF_ARTIFACT.search(one.url):
                values |= {"name": quote(fetch.name), "artifact": quote(source.artifact_name)}
                values["taskgraph_digest"] = taskgraph_digest(fetch)
            url = _PLACEHOLDER.sub(lambda found, values=values: values[found[1]], one.url)  # type: ignore[misc]
            yield Place(url=url, go_on=one.go_on, by="content")

    def _judged(self, place: Place) -> Place:
        """Return `place` with the reason for refusal if its host is blocked or not allowed."""
        host = "" if place.refused else urlsplit(place.url).hostname or ""
        return place._replace(refused=self.refusal(host) or scheme_fault(place.url)) if host else place

    def refusal(self, host: str) -> str:
        """Return why a host must not be contacted (it is blocked or not allowed), "" if it may be."""
        host = _canonical(host)
        reason = ""
        if any(_is_below(host, one) or _is_same_machine(host, one) for one in self.block):
            reason = f"{host} is blocked by mirrors.yml"
        elif self.allow and not any(_is_below(host, one) for one in self.allow):
            reason = f"{host} is not allowed by mirrors.yml"
        return f"{reason}: {self.blocked_message}" if reason and self.blocked_message else reason


def _checked(place: Place) -> Place:
    """Return `place` with the reason for refusal if a rewrite rule produced an invalid URL."""
    try:
        check_download_url(place.url, ("https", "http", "file"))
    except FieldError as error:
        return place._replace(refused=f"mirrors.yml rewrites the URL to an unusable one: {error.reason}")
    return place


def _is_below(host: str, name: str) -> bool:
    """Whether `host` is `name` or a subdomain of it; `*` matches every host."""
    return name == "*" or host == name or host.endswith(f".{name}")


def _canonical(host: str) -> str:
    """Return the one spelling of a host: of an address as of ipaddress, of a name in ASCII and without a final dot."""
    address = parse_address(host)
    if address is not None:
        return str(getattr(address, "ipv4_mapped", None) or address)
    with contextlib.suppress(UnicodeError):
        host = host if host.isascii() else host.encode("idna").decode("ascii")
        return host.lower().rstrip(".")  # "h." is "h", RFC 1034 3.1
    return host


def _is_same_machine(host: str, blocked: str) -> bool:
    """Whether both are addresses, and `host` is a form of the blocked one."""
    one, two = parse_address(host), parse_address(blocked)
    return one is not None and two is not None and not reached_by(one).isdisjoint(reached_by(two))


# --- reading ------------------------------------------------------------------------------------


def _base(node: Node, _where: Location) -> str:
    url = check_download_url(read_text(node), ("https", "http", "file"))
    if not url.endswith("/"):
        raise FieldError("must end with a slash", "write the directory to which paths are appended")
    return url


def _template(node: Node, _where: Location) -> str:
    text = read_text(node)
    if text != _DIRECT and not re.match(r"(https?|mirror|file):", text):
        raise FieldError(
            f"invalid target {text.partition('?')[0][:60]!r}", r"use a URL with \1, mirror://GROUP/\1, or direct"
        )
    if "\\" in _REFERENCE.sub("", text):
        raise FieldError(r"has a backslash that does not begin a group such as \1", "percent-encode it as %5C")
    return text


def _address(node: Node, _where: Location) -> str:
    url = check_download_url(read_text(node), ("https", "http"))
    if not any(one in url for one in ("{hex}", "{sha256}", "{taskgraph_digest}")):
        raise FieldError("has no digest placeholder", "use {algo} and {hex}, {sha256}, or {taskgraph_digest}")
    if left := re.search(r"\{[^}]*\}?", _PLACEHOLDER.sub("", url)):
        known = "{algo}, {hex}, {sha256}, {name}, {artifact}, {taskgraph_digest}"
        raise FieldError(f"unknown placeholder {left[0][:40]!r}", f"known: {known}")
    return url


def _pattern(node: Node, _where: Location) -> str:
    text = read_text(node)
    try:
        compile_expression(text)
    except ValueError as error:
        raise FieldError(f"invalid regular expression: {error}", "write it in the syntax of RE2") from error
    return text


#: A reference to a group in a target: its number, or its name.
_REFERENCE: Final = re.compile(r"\\(?:(\d{1,3})|g<(\w+)>)")


def _host(node: Node, _where: Location) -> str:
    text = _canonical(read_text(node))
    if parse_address(text) is None and not re.fullmatch(r"\*|[a-z0-9_][a-z0-9._-]*", text):
        raise FieldError(f"invalid host {text[:60]!r}", "write example.org, which includes its subdomains, or *")
    return text


_GO_ON: Final = one_of("any-error", "not-found")._replace(
    doc="when to try the next URL: after any error, or only after 404 and 410"
)
_LIST: Final[dict[str, Any]] = {"oneOf": [TEXT.schema, TEXTS.schema]}
_GROUP: Final[FieldTable] = {
    "urls": Field(one_or_list(_base), _LIST)
    .needed("list the base URLs with the same files, in order")
    .about("directories with the same files, each with a final slash"),
    "go-on": _GO_ON,
}
_RULE: Final[FieldTable] = {
    "match": Field(_pattern, TEXT.schema)
    .needed("add a regular expression for the whole URL")
    .about("regular expression for the whole URL, in RE2's syntax"),
    "to": Field(one_or_list(_template), _LIST)
    .needed(r"list the targets in order: URLs with \1, mirror://GROUP/\1, direct")
    .about(r"what to request instead, in order: URLs with \1, mirror://GROUP/\1, or direct for the original URL"),
    "go-on": _GO_ON,
}
_ADDRESS: Final[FieldTable] = {
    "url": Field(_address, TEXT.schema)
    .needed("add a URL with {algo} and {hex}, {sha256}, or {taskgraph_digest}")
    .about("URL with {algo} and {hex}, {sha256}, or {taskgraph_digest} with {name} and {artifact}"),
    "place": one_of("first", "last").about("first: before all other sources; last, the default: after them"),
    "go-on": _GO_ON,
}


def _groups(node: Node, where: Location) -> dict[str, Group]:
    if not isinstance(node, Tree):
        raise FieldError("must be a mapping of names", "write `NAME:` lines below it", node.line)
    groups = {}
    for name, inner in node.items.items():
        place = where.at(name, node.lines[name])
        if not re.fullmatch(NAME, name):
            place.wrong(
                f"invalid name {name!r}",
                "use letters, digits, '.', '_', '+', '~', '@' or '-', starting with a letter or digit",
            )
        found = read_table(inner, place, _GROUP)
        if found is not None:
            groups[name] = Group(found["urls"], found.get("go-on", "any-error"))
    return groups


def _rows(table: FieldTable) -> Any:
    """Return a reader of a list of mappings, which reports every invalid one."""

    def read(node: Node, where: Location) -> list[dict[str, Any]]:
        if not isinstance(node, Sequence):
            raise FieldError("must be a list", "write `- ...` lines", node.line)
        rows = [read_table(item, where.at(str(n), item.line), table) for n, item in enumerate(node.items, 1)]
        return [row for row in rows if row is not None]

    return read


def _rules(node: Node, where: Location) -> tuple[Rule, ...]:
    rules = []
    for row in _rows(_RULE)(node, where):
        pattern = compile_expression(row["match"])
        known = {*map(str, range(pattern.groups + 1)), *pattern.groupindex}
        for template in row["to"]:
            if not known.issuperset(filter(None, itertools.chain(*_REFERENCE.findall(template)))):
                where.wrong(
                    f"{template.partition('?')[0][:60]!r} refers to a group that {row['match'][:60]!r} does not define",
                    "count its parentheses",
                )
        rules.append(Rule(row["match"], row["to"], row.get("go-on", "any-error")))
    return tuple(rules)


def _addresses(node: Node, where: Location) -> tuple[ContentAddress, ...]:
    rows = _rows(_ADDRESS)(node, where)
    return tuple(ContentAddress(row["url"], row.get("place", "last"), row.get("go-on", "any-error")) for row in rows)


_HOSTS: Final = Field(one_or_list(_host), _LIST)
_FILE: Final[FieldTable] = {
    "groups": Field(
        _groups,
        {"type": "object", "additionalProperties": schema_of(_GROUP)},
        "groups of mirrors, used as mirror://NAME/PATH",
    ),
    "rewrite": Field(
        _rules, {"type": "array", "items": schema_of(_RULE)}, "rewrite rules; the first one that matches applies"
    ),
    "content-addressed": Field(
        _addresses, {"type": "array", "items": schema_of(_ADDRESS)}, "servers that provide content by its digest"
    ),
    "allow": _HOSTS.about("allowed hosts, including their subdomains; by default every host"),
    "block": _HOSTS.about("blocked hosts, including their subdomains"),
    "blocked-message": TEXT.about("text to append to the error message for a blocked host"),
}


def read_mirrors(node: Node, where: Location) -> Mirrors:
    """Return the configuration in a `mirrors.yml`; report every problem."""
    if isinstance(node, Scalar) and node.is_null:
        return Mirrors()
    found = read_table(node, where, _FILE)
    if found is None:
        return Mirrors()
    mirrors = Mirrors(
        groups=found.get("groups", {}),
        rules=found.get("rewrite", ()),
        addresses=found.get("content-addressed", ()),
        allow=found.get("allow", ()),
        block=found.get("block", ()),
        blocked_message=found.get("blocked-message", ""),
    )
    for rule in mirrors.rules:
        for template in rule.to:
            if name := mirrors.unknown_group(template):
                where.wrong(f"unknown mirror group {name!r}", suggest(name, mirrors.groups))
    return mirrors


def parse_mirrors(text: str) -> Mirrors:
    """Return the configuration in the text of a `mirrors.yml`; ignore problems, which `parse` reports."""
    with contextlib.suppress(YamlFaultError):
        root = parse_yaml(text, lambda _line, _key: None)
        return read_mirrors(root, Location("", "", 1, [])) if root is not None else Mirrors()
    return Mirrors()


def find_unknown_groups(source: StaticUrl | Debian | DebianSource, mirrors: Mirrors) -> Iterable[tuple[str, str]]:
    """Return the undefined mirror groups that a source refers to, each with a hint."""
    if isinstance(source, Debian):
        urls = [f"{uri}/" for suite in source.suites for uri in (suite.uri, suite.snapshots)]
    elif not source.mirrors and not source.url.startswith("mirror:"):
        return ()  # the usual case
    else:
        urls = [source.url, *source.mirrors]
    names = dict.fromkeys(filter(None, map(mirrors.unknown_group, urls)))
    return [(name, suggest(name, mirrors.groups) or "define it in mirrors.yml") for name in names]


def mirrors_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of `mirrors.yml`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:doit-fetch:mirrors.schema.json",
        "title": "doit-fetch mirrors.yml: mirrors of downloads",
        **schema_of(_FILE),
    }
