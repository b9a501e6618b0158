"""Parser of definition files: merges defaults and reports all problems of all files at once.

Definitions of a Taskgraph tree are written for other machines: those that cannot be built here are refused with a
reason, and the others are used. Pure: no I/O.
Source: taskgraph's default loader (`tasks`, `tasks-from`, `task-defaults`), read as documentation.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import msgspec

from tasks_lib.definitions.cross_check import cross_check, refuse_toolchains
from tasks_lib.definitions.fetch import FETCH
from tasks_lib.definitions.fields import RESERVED_NAMES, check_name, read_relative_path
from tasks_lib.definitions.mirrors import Mirrors, find_unknown_groups, read_mirrors
from tasks_lib.definitions.schema import FieldError, Location, matcher, read_table, schema_of, suggest
from tasks_lib.definitions.toolchain import TOOLCHAIN
from tasks_lib.definitions.values import Definitions, Fetch, RefusedDefinition, StaticUrl, Toolchain
from tasks_lib.definitions.yaml_tree import Node, Scalar, Sequence, Tree, YamlFaultError, merge, parse_yaml
from tasks_lib.errors import DefinitionError, Problem, Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One definition file: `kind` is "fetch", "toolchain" or "mirrors", `directory` its absolute directory.

    In a Taskgraph tree, `root` is the repository, to which key paths and resources are relative, and `scripts` is the
    directory of the toolchain scripts; both are "" for other definitions.
    """

    kind: str
    path: str
    text: str
    directory: str = "/"
    root: str = ""
    scripts: str = ""


@dataclass(slots=True)
class _Reading:
    problems: list[Problem] = field(default_factory=list)
    fetches: dict[str, Fetch] = field(default_factory=dict)
    toolchains: dict[str, Toolchain] = field(default_factory=dict)
    refused: dict[str, RefusedDefinition] = field(default_factory=dict)
    mirrors: Mirrors | None = None

    def known(self, source: SourceFile, defaults: Tree | None, memory: ParseCache | None) -> None:
        """Read one file, or use the result that `memory` has cached for it."""
        found = memory.recall(source, defaults) if memory is not None else None
        if found is None or found[0].keys() & self.fetches.keys() or found[1].keys() & self.toolchains.keys():
            before = len(self.problems), len(self.refused), len(self.fetches), len(self.toolchains)
            self.file(source, defaults)
            if memory is not None and (len(self.problems), len(self.refused)) == before[:2]:
                memory.keep(source, defaults, list(self.fetches)[before[2] :], list(self.toolchains)[before[3] :])
            return
        self.fetches |= found[0]
        self.toolchains |= found[1]

    def file(self, source: SourceFile, defaults: Tree | None) -> Tree | None:
        """Read one file; return the task defaults that it sets for its kind."""
        where = Location(source.path, "", 1, self.problems, source.directory, source.root, source.scripts)
        try:
            root = parse_yaml(source.text, lambda line, key: where.at(key, line).wrong("duplicate key", "remove one"))
        except YamlFaultError as fault:
            where.wrong(f"invalid YAML: {fault.reason}", fault.hint, fault.line)
            return None
        if root is None or (isinstance(root, Scalar) and root.is_null):
            return None
        if source.kind == "mirrors":
            self.mirrors = read_mirrors(root, where)
            return None
        if not isinstance(root, Tree):
            where.wrong("must be a mapping of names", "write `name:` lines", root.line)
            return None
        return self.tasks(source, root, where, defaults)

    def tasks(self, source: SourceFile, root: Tree, where: Location, defaults: Tree | None) -> Tree | None:
        tasks = root
        own = _first(root, "task-defaults", "job-defaults")
        if posixpath.basename(source.path) in ("kind.yml", "kind.yaml"):
            inner = _first(root, "tasks", "jobs")
            self.kind_keys(root, where)
            tasks = inner if isinstance(inner, Tree) else Tree({}, {}, root.line)
        if isinstance(own, Tree):
            defaults = merge(defaults, own) if defaults else own
        for name, node in tasks.items.items():
            if name in ("task-defaults", "job-defaults"):
                continue
            self.task(source, name, node, where.at(name, tasks.lines[name]), defaults)
        return defaults

    def place(self) -> None:
        """Apply the mirrors to each download after all files have been read."""
        mirrors = self.mirrors or Mirrors()
        for name, fetch in self.fetches.items():
            source = fetch.source
            if not isinstance(source, StaticUrl):
                continue
            for group, hint in find_unknown_groups(source, mirrors):
                reason = f"unknown mirror group {group!r}"
                self.problems.append(Problem(fetch.file, fetch.line, f"{name}.fetch.url", reason, hint))
            if self.mirrors is not None:
                self.fetches[name] = msgspec.structs.replace(
                    fetch, source=msgspec.structs.replace(source, rewritten=mirrors.places(source))
                )

    def kind_keys(self, root: Tree, where: Location) -> None:
        ignored = matcher(KIND_IGNORED)
        for key, line in root.lines.items():
            if key not in ("tasks", "jobs") and not ignored(key):
                where.at(key, line).wrong(
                    "unknown key in kind.yml", suggest(key, ["tasks", "task-defaults", "tasks-from"])
                )

    def task(self, source: SourceFile, name: str, node: Node, where: Location, defaults: Tree | None) -> None:
        if defaults is not None and isinstance(node, Tree):
            node = merge(defaults, node)
        try:
            check_name(name)
        except FieldError as error:
            where.wrong(error.reason, error.hint)
        own: list[Problem] = []
        if name.casefold() in RESERVED_NAMES:
            reason = f"the name {name!r} is reserved for a directory or file that doit-fetch creates"
            replace(where, problems=own).refuse(reason, "choose another name")
        else:
            self.definition(source, name, node, replace(where, problems=own))
        if source.root and own and (source.kind == "toolchain" or all(isinstance(one, Refusal) for one in own)):
            first = own[0]
            task = f"{source.kind}:{name}"
            self.refused[task] = RefusedDefinition(task=task, reason=first.reason, file=first.file, line=first.line)
        else:
            self.problems += own

    def definition(self, source: SourceFile, name: str, node: Node, where: Location) -> None:
        table = FETCH if source.kind == "fetch" else TOOLCHAIN
        known: Mapping[str, Fetch | Toolchain] = self.fetches if source.kind == "fetch" else self.toolchains
        if name in known:
            where.wrong("is defined twice", f"the other definition is at {known[name].file}:{known[name].line}")
            return
        found = read_table(node, where, table, matcher(IGNORED))
        if found is None or not isinstance(node, Tree):
            return
        if source.kind == "fetch":
            ignored = tuple(key for key in node.items if key not in table or key == "attributes")
            self.fetches[name] = _fetch(name, found, ignored, where)
        else:
            self.toolchains[name] = _toolchain(name, found, where)


def _first(tree: Tree, *keys: str) -> Node | None:
    return next((tree.items[key] for key in keys if key in tree.items), None)


def _fetch(name: str, found: dict[str, Any], ignored: tuple[str, ...], where: Location) -> Fetch:
    prefix = found.get("artifact-prefix")
    return Fetch(
        name=name,
        description=found["description"].strip(),
        source=found["fetch"],
        alias=found.get("fetch-alias", ""),
        ignored=ignored,
        file=where.file,
        line=where.line,
        **({"artifact_prefix": str(prefix)} if prefix else {}),
    )


def _toolchain(name: str, found: dict[str, Any], where: Location) -> Toolchain:
    run, aliases = found.get("run", (None, ()))
    return Toolchain(
        name=name,
        description=found["description"].strip(),
        fetches=found.get("fetches", ()),
        run=run,
        aliases=aliases,
        file=where.file,
        line=where.line,
    )


class ParseCache(Protocol):
    """A cache of the definitions in single files: read before a file is parsed, updated after."""

    def recall(self, source: SourceFile, defaults: object) -> tuple[dict[str, Fetch], dict[str, Toolchain]] | None:
        """Return the definitions of the file, or None if it must be parsed."""

    def keep(self, source: SourceFile, defaults: object, fetches: Iterable[str], toolchains: Iterable[str]) -> None:
        """Record the names that a file without problems defines."""


def parse(files: Collection[SourceFile], memory: ParseCache | None = None) -> Definitions:
    """Return the definitions of all files, which may refer to each other.

    A `kind.yml` sets defaults for the files of its kind that follow it. In a Taskgraph tree, a fetch of a refused type
    and a toolchain that cannot be built here are not errors: they are returned in `refused`.

    Raises:
        DefinitionError: it contains all problems of all files, in reading order.
    """
    reading = _Reading()
    defaults: dict[str, Tree | None] = {}
    for source in files:
        if source.kind == "mirrors" or posixpath.basename(source.path) in ("kind.yml", "kind.yaml"):
            defaults[source.kind] = reading.file(source, defaults.get(source.kind))
        else:
            reading.known(source, defaults.get(source.kind), memory)
    reading.place()
    trees = {source.path for source in files if source.root}
    reading.refused |= refuse_toolchains(reading.fetches, reading.toolchains, trees, reading.refused)
    fetch_aliases, toolchain_aliases = cross_check(reading.fetches, reading.toolchains, reading.problems)
    if reading.problems:
        raise DefinitionError(tuple(reading.problems))
    return Definitions(
        fetches=reading.fetches,
        toolchains=reading.toolchains,
        refused=tuple(reading.refused.values()),
        _fetch_aliases=fetch_aliases,
        _toolchain_aliases=toolchain_aliases,
    )


def kind_files(text: str) -> tuple[str, ...] | None:
    """Return the files that a `kind.yml` lists in `tasks-from`, or None if it has no tasks and lists no files.

    Return None for a `kind.yml` with invalid YAML; `parse` reports the problem.
    """
    try:
        root = parse_yaml(text, lambda _line, _key: None)
    except YamlFaultError:
        return None
    listed = _first(root, "tasks-from", "jobs-from") if isinstance(root, Tree) else None
    if not isinstance(listed, Sequence):
        own = _first(root, "tasks", "jobs") if isinstance(root, Tree) else None
        return () if isinstance(own, Tree) and own.items else None
    return tuple(item.text for item in listed.items if isinstance(item, Scalar) and _is_plain_file(item))


def _is_plain_file(node: Scalar) -> bool:
    try:
        read_relative_path(node, Location("", "", 0, []))
    except FieldError:
        return False
    return True


#: Keys of a task that only Taskcluster uses; they are ignored.
#: Source: taskgraph task, run and toolchain schemas.
IGNORED: Final = (
    r"^(treeherder|docker-image|expires-after|worker|worker-.*|run-on-.*|run-task.*|scopes|routes|extra|index|priority|tier)$",
    r"^(label|dependencies|soft-dependencies|if-dependencies|optimization|when|shipping-.*|always-target|tags)$",
    r"^(attributes|task-from|use-.*|needs-sccache|deadline-after|from-deps|requires|copy-attributes|retries)$",
    r"^(python-version|local-.*|require-signing|secrets|platform|job-symbol|trigger-.*|stable-.*)$",
)
#: Other keys of `kind.yml` than the tasks; they are ignored. Source: taskgraph `kind` schema.
KIND_IGNORED: Final = (
    r"^(loader|transforms|kind-dependencies|kind-.*|not-for-locales|only-for-.*|defaults|attributes|.*-defaults|.*-from)$",
)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a definition file of either kind."""
    kinds = {"fetch": schema_of(FETCH, IGNORED), "toolchain": schema_of(TOOLCHAIN, IGNORED)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "doit-fetch definitions: fetches (fetch/*.yml) or toolchains (toolchain/*.yml) by name",
        "type": "object",
        "properties": {"task-defaults": {"type": "object"}, "job-defaults": {"type": "object"}},
        "additionalProperties": {"anyOf": [{"$ref": f"#/$defs/{kind}"} for kind in kinds]},
        "$defs": kinds,
    }
