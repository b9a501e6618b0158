"""Fields of a toolchain: the artifacts it consumes and the command it runs on them. Pure: no I/O.

Source for keys and defaults: taskgraph 24.2 `transforms/run` (read as documentation), Gecko's
`taskcluster/kinds/toolchain`.
"""

from __future__ import annotations

import posixpath
from typing import Any, Final

from tasks_lib.definitions.fields import (
    ANYTHING,
    NAME_FIELD,
    NAMES,
    PAIRS,
    RELATIVE,
    SWITCH,
    TEXT,
    TEXTS,
    read_name,
    read_text,
)
from tasks_lib.definitions.schema import Field, FieldError, FieldTable, Location, matcher, read_table, schema_of
from tasks_lib.definitions.values import FetchesEntry, FileReference, ToolchainRun
from tasks_lib.definitions.yaml_tree import Node, Scalar, Sequence, Tree
from tasks_lib.relpath import RelPath

#: Keys of `run:` that only Taskcluster uses; they are ignored. Source: taskgraph run and toolchain schemas.
_RUN_IGNORED: Final = (
    r"^(using|sparse-profile|toolchain-env|toolchain-extract|tooltool.*|cwd|checkout.*|cache.*|run-as-root|use-.*|job-script|exec-with|workdir|platform|target-.*|digest-data)$",
)

_ENTRY: Final[FieldTable] = {
    "artifact": NAME_FIELD.needed("add the name of the fetch or toolchain"),
    "dest": RELATIVE.about("directory below the fetches directory"),
    "extract": SWITCH.about("false: place the artifact without extracting it"),
    "verify-hash": SWITCH.about("accepted for compatibility with Taskgraph; every artifact is verified"),
}
_ENTRIES_SCHEMA: Final[dict[str, Any]] = {
    "type": "array",
    "items": {"oneOf": [NAME_FIELD.schema, schema_of(_ENTRY)]},
}


def _entry(kind: str, node: Node, where: Location) -> FetchesEntry | None:
    if isinstance(node, Scalar):
        return FetchesEntry(kind=kind, name=read_name(node), line=node.line)
    found = read_table(node, where, _ENTRY)
    if found is None:
        return None
    delivery = "extract" if found.get("extract", True) else "place"
    return FetchesEntry(kind=kind, name=found["artifact"], dest=found.get("dest"), delivery=delivery, line=node.line)


def _fetches(node: Node, where: Location) -> tuple[FetchesEntry, ...]:
    if not isinstance(node, Tree):
        raise FieldError("must map `fetch:` and `toolchain:` to lists", line=node.line)
    entries: list[FetchesEntry] = []
    for kind, items in node.items.items():
        place = where.at(kind, node.lines[kind])
        if kind not in ("fetch", "toolchain"):
            place.wrong(f"fetches of the kind {kind!r} are not supported", "use fetch or toolchain")
        elif not isinstance(items, Sequence):
            place.wrong("must be a list", "write `- name` lines", items.line)
        else:
            entries += [entry for item in items.items if (entry := _noted_entry(kind, item, place))]
    return tuple(entries)


def _noted_entry(kind: str, node: Node, where: Location) -> FetchesEntry | None:
    try:
        return _entry(kind, node, where)
    except FieldError as error:
        where.wrong(error.reason, error.hint, error.line or node.line)
        return None


def _aliases(node: Node, where: Location) -> tuple[str, ...]:
    if isinstance(node, Tree):  # Gecko's `by-project:`, which depends on a project that is unknown here
        return ()
    aliases: tuple[str, ...] = NAMES.read(node, where)
    return aliases


def _command(node: Node, where: Location) -> tuple[str, ...]:
    """Return the words to execute; a string is a shell command line."""
    return ("/bin/sh", "-c", read_text(node)) if isinstance(node, Scalar) else TEXTS.read(node, where)


_RUN: Final[FieldTable] = {
    "command": Field(_command, {"oneOf": [TEXT.schema, TEXTS.schema]}, "words to execute, or one shell command line"),
    "script": TEXT.about("file to execute, relative to the YAML file"),
    "arguments": TEXTS.about("arguments of the script"),
    "resources": TEXTS.about("files that the script reads, relative to the YAML file; part of the recipe key"),
    "toolchain-artifact": RELATIVE.about("artifact that the command creates in $UPLOAD_DIR"),
    "toolchain-alias": Field(_aliases, {}, "alternative names of the toolchain"),
    "env": PAIRS.about("environment of the command; part of the recipe key"),
}


def _run(node: Node, where: Location) -> tuple[ToolchainRun | None, tuple[str, ...]]:
    found = read_table(node, where, _RUN, matcher(_RUN_IGNORED))
    if found is None:
        return None, ()
    aliases = found.get("toolchain-alias", ())
    if "command" in found and "script" in found:
        where.wrong("has both `command` and `script`", "remove one")
    if "command" not in found and "script" not in found:
        if "toolchain-artifact" in found:
            where.wrong("has a toolchain-artifact, but no command creates it", "add `command:` or `script:`")
        return None, aliases
    artifact = found.get("toolchain-artifact")
    run = ToolchainRun(
        command=found.get("command", ()),
        script=_script(found["script"], where) if "script" in found else None,
        arguments=found.get("arguments", ()),
        resources=tuple(_resource(text, where) for text in found.get("resources", ())),
        env=found.get("env", ()),
        toolchain_artifact=_left(artifact, where) if artifact else None,
    )
    return run, aliases


def _script(text: str, where: Location) -> FileReference:
    base = where.scripts or posixpath.dirname(where.file)
    return FileReference(text=text, path=posixpath.normpath(posixpath.join(base, text)))


def _resource(text: str, where: Location) -> FileReference:
    base = where.root or posixpath.dirname(where.file)
    return FileReference(text=text, path=posixpath.normpath(posixpath.join(base, text)))


def _left(artifact: RelPath, where: Location) -> RelPath:
    """Return the path where a command creates its artifact, relative to $UPLOAD_DIR.

    Source: Taskgraph publishes $UPLOAD_DIR under the directory of `toolchain-artifact`.
    """
    return RelPath(artifact.components[-1] if where.root else str(artifact).removeprefix("public/build/"))


TOOLCHAIN: Final[FieldTable] = {
    "name": NAME_FIELD,
    "description": TEXT.needed("describe the toolchain in one line"),
    "fetches": Field(
        _fetches,
        {
            "type": "object",
            "properties": {"fetch": _ENTRIES_SCHEMA, "toolchain": _ENTRIES_SCHEMA},
            "additionalProperties": False,
        },
        "artifacts to provide in the fetches directory",
    ),
    "run": Field(_run, schema_of(_RUN, _RUN_IGNORED), "command to run in the fetches directory"),
    "attributes": ANYTHING,
}
