"""Fields of a fetch definition. Pure: no I/O.

Source for keys and defaults: taskgraph 24.2 `transforms/fetch.py` (read as documentation), Gecko's
`taskcluster/kinds/fetch`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tasks_lib.definitions.fields import ANYTHING, KEYED_NAMES, NAME_FIELD, RELATIVE, TEXT, name_keyed
from tasks_lib.definitions.schema import Field, FieldTable, Location, read_table, schema_of
from tasks_lib.definitions.source_fields import GIT, HG, SOURCES, STATIC_URL, read_source
from tasks_lib.definitions.values import DEFAULT_ARTIFACT_PREFIX, Fetch
from tasks_lib.definitions.yaml_tree import Node, Scalar, Tree

FETCH: Final[FieldTable] = {
    "name": NAME_FIELD.about("name of the definition, instead of the key above it"),
    "description": TEXT.needed("describe the content in one line").about("the content in one line"),
    "fetch": Field(
        read_source, {"oneOf": [schema_of(STATIC_URL), schema_of(GIT), schema_of(HG)]}, "content to fetch"
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
    return Fetch(
        name=name,
        description=found["description"].strip(),
        source=found["fetch"],
        alias=aliases[0] if aliases else "",
        ignored=tuple(_ignored(node)),
        file=where.file,
        line=where.line,
        artifact_prefix=str(prefix),
    )


def _run_instead(where: Location) -> None:
    where.refuse("`run:` executes a command, but only `fetch:` declares content", "declare its content with `fetch:`")


def _ignored(node: Tree) -> list[str]:
    """Return the keys that have no meaning here."""
    keys = [key for key in node.items if key not in FETCH or key == "attributes"]
    source = node.items["fetch"]
    if isinstance(source, Tree) and isinstance(kind := source.items["type"], Scalar):
        keys += [f"fetch.{key}" for key in source.items if key not in SOURCES[kind.text]]
    return keys + name_keyed("fetch-alias", node.items.get("fetch-alias"))
