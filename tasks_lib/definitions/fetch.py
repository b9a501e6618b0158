"""Fields of a fetch definition, also of one with a file for each platform. Pure: no I/O.

Source for keys and defaults: taskgraph 24.2 `transforms/fetch.py` (read as documentation), Gecko's
`taskcluster/kinds/fetch`. For the shape of `platforms:`: DotSlash; for other names of a platform: mise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from tasks_lib.definitions.debian_fields import DEBIAN, read_debian
from tasks_lib.definitions.debian_source_fields import DEBIAN_SOURCE, read_debian_source
from tasks_lib.definitions.fields import ANYTHING, KEYED_NAMES, NAME_FIELD, RELATIVE, TEXT, name_keyed
from tasks_lib.definitions.schema import Field, FieldError, FieldTable, Location, read_table, schema_of
from tasks_lib.definitions.source_fields import GIT, HG, SOURCES, STATIC_URL, read_repository, read_static_url
from tasks_lib.definitions.values import DEFAULT_ARTIFACT_PREFIX, Debian, DebianSource, Fetch, Git, Hg, StaticUrl
from tasks_lib.definitions.yaml_tree import Node, Scalar, Tree, merge
from tasks_lib.errors import find_similar, suggest
from tasks_lib.platforms import EXAMPLES, HINT, PATTERN, parse_platform

#: The file for each platform, in the order of the definition.
_Platforms = tuple[tuple[str, StaticUrl], ...]

_REFUSED_TYPES: Final = {
    "chromium-fetch": "it runs a script from Mozilla that requests 'latest', which is not reproducible",
    "cft-chromedriver-fetch": "it runs a script from Mozilla that requests 'latest', which is not reproducible",
    "onnxruntime-deps-fetch": "it runs a shell script from Mozilla",
    "crx3-url": "it runs a script from Mozilla that rewrites the extension",
    "fetch-url": "it is the format of 2018, which had no types",
}


def _read_platform_entries(node: Node, where: Location) -> dict[str, tuple[str, Node]]:
    """Return platform -> key as written and value.

    Raises:
        FieldError: there is none.
    """
    if not isinstance(node, Tree) or not node.items:
        raise FieldError("needs at least one platform", HINT, node.line)
    found: dict[str, tuple[str, Node]] = {}
    for key, inner in node.items.items():
        platform = parse_platform(key)
        if not platform:
            where.at(key, node.lines[key]).wrong("unknown platform", suggest(key, find_similar(key, EXAMPLES)) or HINT)
        elif platform in found:
            reason = f"is the platform {platform}, as is {found[platform][0]!r}"
            where.at(key, node.lines[key]).wrong(reason, "remove one")
        found.setdefault(platform, (key, inner))
    return found


#: Keys of each platform, which has its own file.
_OF_PLATFORM: Final = ("url", "size", "sha256")
#: A `static-url` with a file for each platform; its other keys are those of every platform that does not have them.
_BY_PLATFORM: Final[FieldTable] = {
    **{key: one._replace(required="") for key, one in STATIC_URL.items()},
    "platforms": Field(
        _read_platform_entries,
        {
            "type": "object",
            "minProperties": 1,
            "propertyNames": {"pattern": f"^({PATTERN})$"},
            "additionalProperties": schema_of({key: one for key, one in STATIC_URL.items() if key != "type"}),
        },
        "the file for each platform, by its own url, size and sha256; other keys override those above",
    ).needed(HINT),
}


def _has_platforms(node: Tree, where: Location) -> bool:
    """Return whether a `static-url` has platforms; in a Taskgraph tree the key may belong to a transform."""
    inner = node.items.get("platforms")
    return inner is not None and (not where.root or (isinstance(inner, Tree) and any(map(parse_platform, inner.items))))


def _read_platforms(node: Tree, where: Location, ignored: Callable[[str], bool]) -> _Platforms | None:
    """Return the sources of a mapping with `platforms:`, or None after reporting a problem."""
    found = read_table(node, where, _BY_PLATFORM, ignored)
    if found is None:
        return None
    above = Tree(
        {key: one for key, one in node.items.items() if key not in ("platforms", *_OF_PLATFORM)}, node.lines, node.line
    )
    outer, sources = where.at("platforms", node.lines["platforms"]), []
    for platform, (key, inner) in found["platforms"].items():
        place = outer.at(key, inner.line)
        if not isinstance(inner, Tree):
            place.wrong("must be a mapping", "write `url:`, `size:` and `sha256:` below it", inner.line)
        elif "type" in inner.items:
            place.at("type", inner.lines["type"]).wrong("is that of every platform", "move it above `platforms:`")
        else:
            values = read_table(merge(above, inner), place, STATIC_URL, ignored)
            source = read_static_url(values, place) if values is not None else None
            sources += [(platform, source)] if source is not None else []
    return tuple(sources) if len(sources) == len(found["platforms"]) else None


def read_source(node: Node, where: Location) -> StaticUrl | Git | Hg | Debian | DebianSource | _Platforms | None:
    """Return the source that a mapping describes, or None after reporting a problem.

    Raises:
        FieldError: the mapping has no type.
    """
    kind = node.items.get("type") if isinstance(node, Tree) else None
    if not isinstance(kind, Scalar) or not isinstance(node, Tree):
        raise FieldError("has no `type:`", f"use one of {', '.join(SOURCES)}")
    table = SOURCES.get(kind.text)
    if table is None:
        place, reason = where.at("type", kind.line), f"the type {kind.text!r} is not supported"
        if kind.text in _REFUSED_TYPES:
            place.refuse(f"{reason}: {_REFUSED_TYPES[kind.text]}", "use static-url")
        else:
            place.wrong(reason, suggest(kind.text, SOURCES))
        return None
    if "branch" in table and "branch" in node.items:
        place = where.at("branch", node.lines["branch"])
        place.refuse("a branch moves, so the content would change under the same definition", "pin `revision:`")
        return None
    ignored = _is_foreign(table) if where.root else lambda _: False
    if table is STATIC_URL and _has_platforms(node, where):
        return _read_platforms(node, where, ignored)
    found = read_table(node, where, table, ignored)
    if found is None:
        return None
    return _READERS.get(kind.text, read_repository)(found, where)


_READERS: Final[
    Mapping[str, Callable[[dict[str, Any], Location], StaticUrl | Git | Hg | Debian | DebianSource | None]]
] = {
    "static-url": read_static_url,
    "debian": read_debian,
    "debian-source": read_debian_source,
}


def _is_foreign(table: FieldTable) -> Callable[[str], bool]:
    """Return whether a key of a Taskgraph tree belongs to a transform of the project, and is not a misspelt one.

    Source: taskgraph's builders ignore unknown keys of `fetch:`.
    """
    return lambda key: not find_similar(key, table)


FETCH: Final[FieldTable] = {
    "name": NAME_FIELD.about("name of the definition, instead of the key above it"),
    "description": TEXT.needed("describe the content in one line").about("the content in one line"),
    "fetch": Field(
        read_source,
        {"oneOf": [schema_of(one) for one in (STATIC_URL, GIT, HG, _BY_PLATFORM, DEBIAN, DEBIAN_SOURCE)]},
        "content to fetch",
    ).needed("add a mapping with type, url, sha256 and size"),
    "fetch-alias": KEYED_NAMES.about("alternative name for use in toolchains"),
    "artifact-prefix": RELATIVE.about("directory of the artifact on Taskcluster"),
    "attributes": ANYTHING.about("ignored; Taskcluster uses it"),
}


def read_fetch(name: str, node: Node, where: Location, ignored: Callable[[str], bool]) -> Fetch | None:
    """Return the fetch that a mapping defines, or None after reporting a problem.

    Args:
        name: of the definition.
        node: the mapping, merged with the defaults of its kind.
        where: its position.
        ignored: whether only Taskcluster uses a key.
    """
    if isinstance(node, Tree) and "run" in node.items and "fetch" not in node.items:
        _run_instead(where.at("run", node.lines["run"]))
        return None
    found = read_table(node, where, FETCH, ignored)
    if found is None or not isinstance(node, Tree):
        return None
    prefix = found.get("artifact-prefix", DEFAULT_ARTIFACT_PREFIX)
    aliases = [one for one in found.get("fetch-alias", ()) if one != name]
    source = found["fetch"]
    if isinstance(source, Debian | DebianSource) and not source.artifact_name:
        source = msgspec.structs.replace(source, artifact_name=f"{name}.tar.zst")
    platforms = source if isinstance(source, tuple) else ()
    return Fetch(
        name=name,
        description=found["description"].strip(),
        source=platforms[0][1] if platforms else source,
        platforms=platforms,
        alias=aliases[0] if aliases else "",
        ignored=tuple(_ignored(node, ("platforms",) if platforms else ())),
        file=where.file,
        line=where.line,
        artifact_prefix=str(prefix),
    )


def _run_instead(where: Location) -> None:
    where.refuse("`run:` executes a command, but only `fetch:` declares content", "declare its content with `fetch:`")


#: Keys of a fetch that have a meaning here.
_WITH_MEANING: Final = FETCH.keys() - {"attributes"}


def _ignored(node: Tree, used: tuple[str, ...]) -> list[str]:
    """Return the keys that have no meaning here; `used` are those that not every source has."""
    keys: list[str] = []
    if not node.items.keys() <= _WITH_MEANING:
        keys += [key for key in node.items if key not in _WITH_MEANING]
    source = node.items["fetch"]
    if isinstance(source, Tree) and isinstance(kind := source.items["type"], Scalar):
        table = SOURCES[kind.text]
        if not source.items.keys() <= table.keys():
            keys += [f"fetch.{key}" for key in source.items if key not in table and key not in used]
    return keys + name_keyed("fetch-alias", node.items.get("fetch-alias"))
