"""Fields of a toolchain: the artifacts it consumes and the command it runs on them. Pure: no I/O.

Source for keys and defaults: taskgraph 24.5 `transforms/run` (read as documentation), Gecko's
`taskcluster/kinds/toolchain`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from typing import Any, Final

from tasks_lib.definitions.fields import (
    ANYTHING,
    KEYED_NAMES,
    NAME_FIELD,
    PAIRS,
    RELATIVE,
    SWITCH,
    TEXT,
    TEXTS,
    list_of,
    name_keyed,
    read_name,
    read_relative_path,
    read_text,
)
from tasks_lib.definitions.schema import Field, FieldError, FieldTable, Location, matcher, read_table, schema_of
from tasks_lib.definitions.values import FetchesEntry, FileReference, IndexInputs, Toolchain, ToolchainRun
from tasks_lib.definitions.yaml_tree import Node, Scalar, Sequence, Tree
from tasks_lib.relpath import RelPath

#: Keys of `run:` that only Taskcluster uses; they are ignored. Source: taskgraph run and toolchain schemas, Gecko's.
_RUN_IGNORED: Final = (
    r"^(sparse-profile|toolchain-extract|tooltool.*|cwd|.*checkout|clone-with|cache.*|use-.*|run-as-.*)$",
    r"^(run-task-.*|base-image-id|job-script|exec-with|workdir|platform|target-.*|digest-data|metadata)$",
)

_ENTRY: Final[FieldTable] = {
    "artifact": NAME_FIELD.needed("add the name of the fetch or toolchain").about("name of the fetch or toolchain"),
    "dest": RELATIVE.about("directory below the fetches directory"),
    "extract": SWITCH.about("false: place the artifact without extracting it"),
    "verify-hash": SWITCH.about("accepted for compatibility with Taskgraph; every artifact is verified"),
}
_EDGE_ENTRY: Final[FieldTable] = {
    **_ENTRY,
    "artifact": TEXT.needed("add the file name of the artifact").about("file name of the artifact"),
}
ENTRIES_SCHEMA: Final[dict[str, Any]] = {
    "type": "array",
    "items": {"oneOf": [NAME_FIELD.schema, schema_of(_ENTRY)]},
}
#: Kinds whose tasks exist here.
_KINDS: Final = ("fetch", "toolchain")


def read_entry(kind: str, node: Node, where: Location) -> FetchesEntry | None:
    """Return one artifact that is consumed: its name, or a mapping with options; None after reporting a problem.

    Raises:
        FieldError: the name is invalid.
    """
    read, table = (read_name, _ENTRY) if kind in _KINDS else (read_text, _EDGE_ENTRY)
    if isinstance(node, Scalar):
        return FetchesEntry(kind=kind, name=read(node), line=node.line)
    found = read_table(node, where, table)
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
        if not isinstance(items, Sequence):
            place.wrong("must be a list", "write `- name` lines", items.line)
        else:
            entries += [entry for item in items.items if (entry := _noted_entry(kind, item, place))]
    return tuple(entries)


def _noted_entry(kind: str, node: Node, where: Location) -> FetchesEntry | None:
    try:
        return read_entry(kind, node, where)
    except FieldError as error:
        where.wrong(error.reason, error.hint, error.line or node.line)
        return None


def _dependencies(node: Node, where: Location) -> dict[str, tuple[str, str]]:
    """Return kind and name of the definition that each edge depends on.

    Source: taskgraph, a label is the kind and the name joined with a dash.
    """
    if not isinstance(node, Tree):
        raise FieldError("must map names to labels of tasks", "write `NAME: KIND-NAME` lines", node.line)
    edges: dict[str, tuple[str, str]] = {}
    for edge, value in node.items.items():
        place = where.at(edge, node.lines[edge])
        try:
            label = _plain(value, place)
        except FieldError as error:
            place.wrong(error.reason, error.hint, error.line)
            continue
        kind, _, name = label.partition("-")
        if kind in _KINDS and name:
            edges[edge] = kind, name
        else:
            place.refuse(f"the task {label!r} does not exist here", "only fetches and toolchains do")
    return edges


def _plain(node: Node, where: Location) -> str:
    """Return the text of a scalar; refuse a value that only Taskcluster can compute.

    Raises:
        FieldError: the value depends on another task or on parameters, or is not a string.
    """
    for key in node.items if isinstance(node, Tree) else ():
        if key.endswith("-reference"):
            raise FieldError(f"the value is a `{key}`: it needs a task that does not exist here", line=node.line)
        if key.startswith("by-"):
            raise FieldError(f"the value depends on `{key}`, which is unknown here", "write one value", node.line)
    return read_text(node, where)


def _env(node: Node, where: Location) -> tuple[tuple[str, str], ...]:
    if not isinstance(node, Tree):
        raise FieldError("must be a mapping of strings", "write `NAME: value` lines", node.line)
    pairs = []
    for name, value in node.items.items():
        place = where.at(name, node.lines[name])
        try:
            pairs.append((name, value.text if isinstance(value, Scalar) else _plain(value, place)))
        except FieldError as error:
            place.wrong(error.reason, error.hint, error.line)
    return tuple(pairs)


def _image(node: Node, _where: Location) -> str:
    image = node.items.get("in-tree") if isinstance(node, Tree) else None
    return image.text if isinstance(image, Scalar) else ""


def _using(node: Node, where: Location) -> str:
    """Return how the command runs; in a Taskgraph tree, refuse what Taskgraph's toolchains do not use."""
    text = _plain(node, where)
    if where.root and text not in ("toolchain-script", _INDEX_SEARCH):
        where.refuse(f"running with {text!r} is not supported", "use toolchain-script")
    return text


_INDEX_SEARCH: Final = "index-search"


def _index_search(_node: Node, where: Location) -> None:
    where.refuse("index-search takes a task of another project from Taskcluster's index", "fetch its artifact by URL")


def read_command(node: Node, where: Location) -> tuple[str, ...]:
    """Return the words to execute; a string is a shell command line.

    Raises:
        FieldError: it is neither.
    """
    return ("/bin/sh", "-c", read_text(node)) if isinstance(node, Scalar) else TEXTS.read(node, where)


def _relative(node: Node, where: Location) -> RelPath:
    _plain(node, where)
    return read_relative_path(node, where)


#: Names of variables that a command may see: settings of ours reach no command.
_PASSED: Final = r"(?!FETCH)[A-Za-z_][A-Za-z0-9_]*"


#: A variable in a shell command, in upper case like those of the environment, and those that are always set.
_VARIABLE: Final = re.compile(r"\$\{?([A-Z_][A-Z0-9_]*)")
_PROVIDED: Final = frozenset({"MOZ_FETCHES", "MOZ_FETCHES_DIR", "UPLOAD_DIR", "PATH", "HOME"})


def _refuse_in_tree(key: str, where: Location, setting: str) -> None:
    """Refuse a key of ours in a Taskgraph tree: Taskgraph would run the command without it."""
    if where.root:
        where.refuse(f"`run.{key}` is not a key of Taskgraph", f"use the setting {setting}")


def _pass_env(node: Node, where: Location) -> tuple[str, ...]:
    _refuse_in_tree("pass-env", where, "pass_env=NAMES")
    names: tuple[str, ...] = TEXTS.read(node, where)
    for name in names:
        if not re.fullmatch(_PASSED, name):
            raise FieldError(f"{name!r} is not a variable that a command may see", "write names such as CC", node.line)
    return names


def _network(node: Node, where: Location) -> str:
    _refuse_in_tree("network", where, "toolchain_network=off")
    return "on" if SWITCH.read(node, where) else "off"


_SEARCH: Final = Field(_index_search, {}, "refused, because it takes a task of another project")
_ENV: Final = Field(_env, PAIRS.schema, "environment of the command; part of the recipe key")
_RUN: Final[FieldTable] = {
    "using": Field(_using, TEXT.schema, "accepted for compatibility with Taskgraph: toolchain-script"),
    "command": Field(
        read_command, {"oneOf": [TEXT.schema, TEXTS.schema]}, "words to execute, or one shell command line"
    ),
    "script": Field(_plain, TEXT.schema, "file to execute, relative to the YAML file"),
    "arguments": Field(list_of(_plain), TEXTS.schema, "arguments of the script"),
    "resources": Field(
        list_of(_plain),
        TEXTS.schema,
        "files, directories and patterns (`**/*.toml`) that the script reads, relative to the YAML file; part of the"
        " recipe key",
    ),
    "toolchain-artifact": Field(_relative, RELATIVE.schema, "artifact that the command creates in $UPLOAD_DIR"),
    "toolchain-alias": KEYED_NAMES.about("alternative names of the toolchain"),
    "toolchain-env": _ENV.about("environment of the commands that consume this toolchain"),
    "env": _ENV,
    "pass-env": Field(
        _pass_env,
        {"type": "array", "items": {"type": "string", "pattern": f"^{_PASSED}$"}},
        "variables of doit's environment that the command sees; their values are part of the recipe key",
    ),
    "network": Field(_network, SWITCH.schema, "false: run the command in a network namespace of its own"),
    _INDEX_SEARCH: _SEARCH,
}


def _run(node: Node, where: Location) -> dict[str, Any] | None:
    found = read_table(node, where, _RUN, matcher(_RUN_IGNORED))
    if found is None:
        return None
    if "command" in found and "script" in found:
        where.wrong("has both `command` and `script`", "remove one")
    if "command" not in found and "script" not in found and "toolchain-artifact" in found:
        where.wrong("has a toolchain-artifact, but no command creates it", "add `command:` or `script:`")
    return found


def _file(text: str, base: str) -> FileReference:
    return FileReference(text=text, path=posixpath.normpath(posixpath.join(base, text)), base=base)


def _left(artifact: RelPath, where: Location) -> RelPath:
    """Return the path where a command creates its artifact, relative to $UPLOAD_DIR.

    Source: Taskgraph publishes $UPLOAD_DIR under the directory of `toolchain-artifact`.
    """
    return RelPath(artifact.components[-1] if where.root else str(artifact).removeprefix("public/build/"))


def _worker_type(node: Node, _where: Location) -> str:
    return node.text if isinstance(node, Scalar) else ""


#: Keys of `worker:` that have a meaning here.
_WORKER: Final[FieldTable] = {
    "env": _ENV.about("environment of the command, which overrides `run.env`"),
    "docker-image": Field(_image, {}, "only part of Taskgraph's index path"),
}


def _worker(node: Node, where: Location) -> dict[str, Any] | None:
    return read_table(node, where, _WORKER, lambda _: True)


TOOLCHAIN: Final[FieldTable] = {
    "name": NAME_FIELD.about("name of the definition, instead of the key above it"),
    "description": TEXT.needed("describe the toolchain in one line").about("the toolchain in one line"),
    "fetches": Field(
        _fetches,
        {
            "type": "object",
            "properties": {
                kind: {**ENTRIES_SCHEMA, "description": f"{kind} definitions, by name or with options"}
                for kind in _KINDS
            },
            "additionalProperties": ENTRIES_SCHEMA,
        },
        "artifacts to provide in the fetches directory, by kind or by name of a dependency",
    ),
    "run": Field(_run, schema_of(_RUN, _RUN_IGNORED), "command to run in the fetches directory"),
    "dependencies": Field(
        _dependencies,
        {"type": "object", "additionalProperties": TEXT.schema},
        "definitions to build first, as `fetch-NAME` or `toolchain-NAME`",
    ),
    "worker": Field(_worker, schema_of(_WORKER, (".*",)), "the environment of the command; other keys are ignored"),
    "worker-type": Field(_worker_type, {}, "only part of Taskgraph's index path"),
    _INDEX_SEARCH: _SEARCH,
    "attributes": ANYTHING.about("ignored; Taskcluster uses it"),
}


def read_toolchain(name: str, node: Node, where: Location, ignored: Callable[[str], bool]) -> Toolchain | None:
    """Return the toolchain that a mapping defines, or None after reporting a problem.

    Args:
        name: of the definition.
        node: the mapping, merged with the defaults of its kind.
        where: its position.
        ignored: whether only Taskcluster uses a key.
    """
    found = read_table(node, where, TOOLCHAIN, ignored)
    if found is None or not isinstance(node, Tree):
        return None
    run, edges = found.get("run") or {}, found.get("dependencies", {})
    before = len(where.problems)
    fetches = tuple(_resolved(entry, edges, where) for entry in found.get("fetches", ()))
    if len(where.problems) > before:
        return None
    consumed = {(entry.kind, entry.name) for entry in fetches}
    return Toolchain(
        name=name,
        description=found["description"].strip(),
        fetches=fetches,
        run=_run_of(run, found.get("worker") or {}, where),
        aliases=tuple(alias for alias in run.get("toolchain-alias", ()) if alias != name),
        dependencies=tuple(edge for edge in dict.fromkeys(edges.values()) if edge not in consumed),
        ignored=tuple(_ignored(node)),
        root=where.root,
        index=_index_inputs(found, where),
        file=where.file,
        line=where.line,
    )


def _resolved(entry: FetchesEntry, edges: dict[str, tuple[str, str]], where: Location) -> FetchesEntry:
    """Return an entry whose kind is `fetch` or `toolchain`; Taskgraph also allows the name of a dependency.

    Source: taskgraph `use_fetches`: an artifact of the task that the dependency names.
    """
    if entry.kind in _KINDS:
        return entry
    if entry.kind not in edges:
        place = where.at("fetches", entry.line).at(entry.kind, entry.line)
        place.refuse(f"fetches of the kind {entry.kind!r} are not supported", "use fetch or toolchain")
        return entry
    kind, name = edges[entry.kind]
    return FetchesEntry(
        kind=kind, name=name, dest=entry.dest, delivery=entry.delivery, line=entry.line, artifact=entry.name
    )


def _named_variables(run: dict[str, Any]) -> list[str]:
    """Return the variables that a shell command names, such as `$CC`: to name one declares it."""
    command = run.get("command", ())
    names = _VARIABLE.findall(command[-1]) if command[:2] == ("/bin/sh", "-c") else ()
    given = dict(run.get("env", ()))
    return [name for name in names if re.fullmatch(_PASSED, name) and name not in given and name not in _PROVIDED]


def _run_of(run: dict[str, Any], worker: dict[str, Any], where: Location) -> ToolchainRun | None:
    if "command" not in run and "script" not in run:
        return None
    artifact, directory = run.get("toolchain-artifact"), posixpath.dirname(where.file)
    return ToolchainRun(
        command=run.get("command", ()),
        script=_file(run["script"], where.scripts or directory) if "script" in run else None,
        arguments=run.get("arguments", ()),
        resources=tuple(_file(text, where.root or directory) for text in run.get("resources", ())),
        env=tuple((dict(run.get("env", ())) | dict(worker.get("env", ()))).items()),
        toolchain_artifact=_left(artifact, where) if artifact else None,
        toolchain_env=run.get("toolchain-env", ()),
        pass_env=tuple(dict.fromkeys((*run.get("pass-env", ()), *_named_variables(run)))),
        network=run.get("network", "on"),
    )


def _index_inputs(found: dict[str, Any], where: Location) -> IndexInputs | None:
    run = found.get("run") or {}
    if not where.root or "script" not in run or "toolchain-artifact" not in run:
        return None
    return IndexInputs(
        artifact=str(run["toolchain-artifact"]),
        worker_type=found.get("worker-type", ""),
        image=(found.get("worker") or {}).get("docker-image"),
    )


def _ignored(node: Tree) -> list[str]:
    """Return the keys that have no meaning here, and the aliases of which the default is used."""
    keys = [key for key in node.items if key not in TOOLCHAIN or key == "attributes"]
    for name, table in (("run", _RUN), ("worker", _WORKER)):
        inner = node.items.get(name)
        keys += [f"{name}.{key}" for key in inner.items if key not in table] if isinstance(inner, Tree) else []
    run = node.items.get("run")
    alias = run.items.get("toolchain-alias") if isinstance(run, Tree) else None
    return keys + name_keyed("run.toolchain-alias", alias)
