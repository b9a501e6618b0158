"""Fields of a `static-url` with a file for each platform. Pure: no I/O.

Source for the shape: DotSlash (`platforms`), mise (other names of a platform).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from tasks_lib.definitions.schema import Field, FieldError, FieldTable, Location, read_table, schema_of
from tasks_lib.definitions.source_fields import STATIC_URL, read_static_url
from tasks_lib.definitions.values import StaticUrl
from tasks_lib.definitions.yaml_tree import Node, Tree, merge
from tasks_lib.errors import find_similar, suggest
from tasks_lib.platforms import EXAMPLES, HINT, PATTERN, parse_platform


def _entries(node: Node, where: Location) -> dict[str, tuple[str, Node]]:
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
_OWN: Final = ("url", "size", "sha256")
#: A `static-url` with a file for each platform; its other keys are those of every platform that does not have them.
BY_PLATFORM: Final[FieldTable] = {
    **{key: one._replace(required="") for key, one in STATIC_URL.items()},
    "platforms": Field(
        _entries,
        {
            "type": "object",
            "minProperties": 1,
            "propertyNames": {"pattern": f"^({PATTERN})$"},
            "additionalProperties": schema_of({key: one for key, one in STATIC_URL.items() if key != "type"}),
        },
        "the file for each platform, by its own url, size and sha256; other keys override those above",
    ).needed(HINT),
}


class ByPlatform(NamedTuple):
    """The sources of a definition with platforms."""

    sources: tuple[tuple[str, StaticUrl], ...]


def has_platforms(node: Tree, where: Location) -> bool:
    """Return whether a `static-url` has platforms; in a Taskgraph tree the key may belong to a transform."""
    inner = node.items.get("platforms")
    return inner is not None and (not where.root or (isinstance(inner, Tree) and any(map(parse_platform, inner.items))))


def read_platforms(node: Tree, where: Location, ignored: Callable[[str], bool]) -> ByPlatform | None:
    """Return the sources of a mapping with `platforms:`, or None after reporting a problem."""
    found = read_table(node, where, BY_PLATFORM, ignored)
    if found is None:
        return None
    above = Tree(
        {key: one for key, one in node.items.items() if key not in ("platforms", *_OWN)}, node.lines, node.line
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
    return ByPlatform(tuple(sources)) if len(sources) == len(found["platforms"]) else None
