"""Fields of an image: the artifacts in its layers, and how a container of it starts. Pure: no I/O.

Source: OCI image specification, "Image Configuration", for the fields of `config`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from tasks_lib.definitions.fields import ANYTHING, NAME_FIELD, PAIRS, TEXT, list_of, read_text
from tasks_lib.definitions.schema import Field, FieldError, FieldTable, Location, read_table, schema_of
from tasks_lib.definitions.toolchain import ENTRIES_SCHEMA, read_command, read_entry
from tasks_lib.definitions.values import FetchesEntry, Image, ImageConfig, ImageLayer
from tasks_lib.definitions.yaml_tree import Node, Sequence, Tree
from tasks_lib.relpath import RelPath

#: Names or numbers of a user and a group. Source: OCI image specification, "Image Configuration", `User`.
_USER: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?"
#: Versions as mmdebstrap prints them.
_VERSION: Final = r"[0-9]{1,9}(\.[0-9]{1,9}){1,3}"
#: Maximum number of layers below the base. Source: overlay2, Docker's limit of 128 lower directories; base and reserve.
_MAX_LAYERS: Final = 120


def _absolute(node: Node, where: Location) -> str:
    """Return a path in the root file system without its leading slash."""
    text = read_text(node, where)
    if not text.startswith("/"):
        raise FieldError(f"{text!r} is not absolute", "write a path in the image, such as /opt/NAME")
    if text == "/":
        return ""
    try:
        return str(RelPath.parse(text[1:]))
    except ValueError as error:
        raise FieldError(str(error), "write a path in the image, such as /opt/NAME") from error


def _workdir(node: Node, where: Location) -> str:
    return f"/{_absolute(node, where)}"


def _user(node: Node, where: Location) -> str:
    text = read_text(node, where)
    if not re.fullmatch(_USER, text):
        raise FieldError(f"invalid user {text[:80]!r}", "write USER or USER:GROUP, names or numbers")
    return text


def _version(node: Node, where: Location) -> str:
    text = read_text(node, where)
    if not re.fullmatch(_VERSION, text):
        raise FieldError(
            f"invalid version {text[:80]!r}", "write it as `mmdebstrap --version` prints it, such as 1.3.5"
        )
    return text


def _pairs(node: Node, where: Location) -> tuple[tuple[str, str], ...]:
    pairs: tuple[tuple[str, str], ...] = PAIRS.read(node, where)
    for name, value in pairs:
        if not name or "=" in name or "\0" in name:
            raise FieldError(f"invalid name {name[:80]!r}", "use a name without '='", node.line)
        if "\0" in value:
            raise FieldError(f"{name[:80]!r} has a NUL character", "remove it", node.line)
    return pairs


def _words(node: Node, where: Location) -> tuple[str, ...]:
    words = read_command(node, where)
    if any("\0" in word for word in words):
        raise FieldError("has a NUL character", "remove it")
    return words


def _fetches(node: Node, where: Location) -> tuple[FetchesEntry, ...]:
    entries = list_of(lambda item, place: read_entry("fetch", item, place))(node, where)
    return tuple(entry for entry in entries if entry is not None)


def _toolchain(node: Node, where: Location) -> tuple[FetchesEntry, ...]:
    entry = read_entry("toolchain", node, where)
    return (entry,) if entry is not None else ()


_LAYER: Final[FieldTable] = {
    "fetches": Field(_fetches, ENTRIES_SCHEMA, "fetch definitions whose artifacts are in the layer"),
    "toolchain": Field(_toolchain, ENTRIES_SCHEMA["items"], "toolchain whose artifact is in the layer"),
    "dest": Field(_absolute, {"type": "string", "pattern": "^/"}, "absolute directory in the image").needed(
        "add the directory in the image, such as /opt/NAME"
    ),
}
_CONFIG: Final[FieldTable] = {
    "cmd": Field(_words, {"oneOf": [TEXT.schema, {"type": "array", "items": TEXT.schema}]}, "default command"),
    "entrypoint": Field(
        _words,
        {"oneOf": [TEXT.schema, {"type": "array", "items": TEXT.schema}]},
        "words before the command, or one shell command line",
    ),
    "env": Field(_pairs, PAIRS.schema, "environment"),
    "user": Field(_user, {"type": ["string", "integer"]}, "user and group of the command: USER or USER:GROUP"),
    "workdir": Field(_workdir, {"type": "string", "pattern": "^/"}, "directory in which the command starts"),
    "labels": Field(_pairs, PAIRS.schema, "labels of the image"),
}


def _layer(node: Node, where: Location) -> ImageLayer | None:
    found = read_table(node, where, _LAYER)
    if found is None:
        return None
    if ("fetches" in found) == ("toolchain" in found):
        where.wrong("must have either `fetches` or `toolchain`", "write one layer for each", node.line)
        return None
    entries = found.get("fetches") or found.get("toolchain", ())
    if not entries:
        where.wrong("has no fetches", "add the names of fetches, or remove the layer", node.line)
        return None
    return ImageLayer(fetches=entries, dest=found["dest"], line=node.line)


def _layers(node: Node, where: Location) -> tuple[ImageLayer, ...]:
    if not isinstance(node, Sequence):
        raise FieldError("must be a list of layers", "write `- fetches: [NAME]` and `dest: /DIR`", node.line)
    if len(node.items) > _MAX_LAYERS:
        raise FieldError(f"has {len(node.items)} layers, more than {_MAX_LAYERS}", "join some of them")
    layers = [_layer(item, where.at(str(at), item.line)) for at, item in enumerate(node.items, 1)]
    return tuple(layer for layer in layers if layer is not None)


def _config(node: Node, where: Location) -> ImageConfig:
    return ImageConfig(**(read_table(node, where, _CONFIG) or {}))


IMAGE: Final[FieldTable] = {
    "description": TEXT.needed("describe the image in one line").about("the image in one line"),
    "base": NAME_FIELD.about("fetch of type `debian` whose packages make the root file system; none: from scratch"),
    "mmdebstrap": Field(
        _version, {"type": ["string", "number"]}, "version that makes the root file system; none: the installed one"
    ),
    "layers": Field(
        _layers, {"type": "array", "items": schema_of(_LAYER), "maxItems": _MAX_LAYERS}, "layers above the base"
    ),
    "config": Field(_config, schema_of(_CONFIG), "how a container starts"),
    "attributes": ANYTHING.about("ignored; Taskcluster uses it"),
}


def read_image(name: str, node: Node, where: Location, ignored: Callable[[str], bool]) -> Image | None:
    """Return the image that a mapping defines, or None after reporting a problem.

    Args:
        name: of the definition.
        node: the mapping, merged with the defaults of its kind.
        where: its position.
        ignored: whether only Taskcluster uses a key.
    """
    found: dict[str, Any] | None = read_table(node, where, IMAGE, ignored)
    if found is None or not isinstance(node, Tree):
        return None
    if not found.get("base") and not found.get("layers"):
        where.wrong("has neither `base` nor `layers`", "add one of them")
        return None
    if found.get("mmdebstrap") and not found.get("base"):
        where.wrong("has `mmdebstrap` without `base`", "remove it, or add a base")
        return None
    return Image(
        name=name,
        description=found["description"].strip(),
        base=found.get("base", ""),
        base_line=node.lines.get("base", 0),
        mmdebstrap=found.get("mmdebstrap", ""),
        layers=found.get("layers", ()),
        config=found.get("config", ImageConfig()),
        file=where.file,
        line=where.line,
    )
