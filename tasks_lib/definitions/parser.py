"""Parser of definition files: merges defaults and reports all problems of all files at once.

Definitions of a Taskgraph tree are written for other machines: those that cannot be built here are refused with a
reason, and the others are used. Pure: no I/O.
Source: taskgraph's default loader (`tasks`, `tasks-from`, `task-defaults`), read as documentation.
"""

from __future__ import annotations

import posixpath
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from tasks_lib.definitions.cross_check import cross_check, find_unavailable, remove_toolchains
from tasks_lib.definitions.fetch import FETCH, read_fetch
from tasks_lib.definitions.fields import NAME, RESERVED_NAMES, check_name, read_relative_path
from tasks_lib.definitions.image import IMAGE, read_image
from tasks_lib.definitions.mirrors import Mirrors, find_unknown_groups, read_mirrors
from tasks_lib.definitions.packages import read_package
from tasks_lib.definitions.packed import MANY, PackedDefinitions
from tasks_lib.definitions.schema import FieldError, Location, matcher, schema_of
from tasks_lib.definitions.toolchain import TOOLCHAIN, read_toolchain
from tasks_lib.definitions.values import (
    Debian,
    DebianSource,
    Definitions,
    Fetch,
    Image,
    RefusedDefinition,
    StaticUrl,
    Toolchain,
)
from tasks_lib.definitions.yaml_tree import Node, Scalar, Tree, YamlFaultError, merge, parse_yaml
from tasks_lib.definitions.yaml_tree import Sequence as YamlSequence
from tasks_lib.errors import DefinitionError, Problem, suggest
from tasks_lib.layout import PACKAGES


class _Document(NamedTuple):
    """The root node of a file, None if it is empty or invalid, and what is wrong with it: key, line, reason, hint."""

    root: Node | None
    faults: list[tuple[str, int, str, str]]


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One definition file: `kind` is "mirrors" or one of `Layout.kinds`, `directory` its absolute directory.

    In a Taskgraph tree, `root` is the repository, to which key paths and resources are relative, and `scripts` is the
    directory of the toolchain scripts; both are "" for other definitions. `part` is "all", or "defaults" for a
    `kind.yml` of which only the defaults are used.
    """

    kind: str
    path: str
    text: str
    directory: str = "/"
    root: str = ""
    scripts: str = ""
    part: str = "all"

    def only_defaults(self) -> SourceFile:
        """Return this `kind.yml` without its definitions."""
        return replace(self, part="defaults")

    @cached_property
    def document(self) -> _Document:
        """The parsed text of a `kind.yml`, which is read twice: for its list of files, and for its definitions."""
        return self.parse()

    def parse(self) -> _Document:
        """Return the parsed text."""
        faults: list[tuple[str, int, str, str]] = []

        def duplicate(line: int, key: str) -> str:
            if self.root:
                return "last"  # Source: PyYAML, with which Taskgraph reads its files
            faults.append((key, line, "duplicate key", "remove one"))
            return "first"

        try:
            return _Document(parse_yaml(self.text, duplicate), faults)
        except YamlFaultError as fault:
            faults.append(("", fault.line, f"invalid YAML: {fault.reason}", fault.hint))
            return _Document(None, faults)


@dataclass(slots=True)
class _Reading:
    fetches: PackedDefinitions[Fetch]
    toolchains: PackedDefinitions[Toolchain]
    images: PackedDefinitions[Image]
    problems: list[Problem] = field(default_factory=list)
    refused: dict[str, RefusedDefinition] = field(default_factory=dict)
    platforms: dict[str, tuple[str, ...]] = field(default_factory=dict)
    kinds: dict[str, Problem] = field(default_factory=dict)  # why a whole kind is refused
    mirrors: Mirrors | None = None
    aliases: dict[str, str] | None = None  # of the fetches, once the first package needs them
    memory: ParseCache | None = None
    unusual: set[str] = field(default_factory=set)  # names of fetches that `place` and the check of aliases look at
    by_kind: dict[str, PackedDefinitions[Any]] = field(init=False)  # in the order of `Definitions.kinds`

    def __post_init__(self) -> None:
        self.by_kind = {"fetch": self.fetches, "toolchain": self.toolchains, "image": self.images}

    def known(self, source: SourceFile, defaults: Tree | None) -> None:
        """Read one file, or use the result that `memory` has cached for it."""
        memory = None if source.kind in self.kinds else self.memory
        found = memory.recall(source, defaults) if memory is not None else None
        own = tuple(self.by_kind.values())
        if found is None or any(new.keys() & old.keys() for new, old in zip(found, own, strict=True)):
            before, sizes = (len(self.problems), len(self.refused)), [*map(len, own)]
            self.file(source, defaults)
            if memory is not None and (len(self.problems), len(self.refused)) == before:
                memory.keep(source, defaults, [_added(known, size) for known, size in zip(own, sizes, strict=True)])
            return
        for new, known in zip(found, own, strict=True):
            known.add_encoded(new)
        self.unusual.update(found[0])

    def add_fetch(self, fetch: Fetch) -> None:
        """Add a fetch; it is at hand here, and costs a decoding later."""
        self.fetches[fetch.name] = fetch
        if self.memory is not None:
            self.memory.note(fetch)
        if not _is_usual(fetch):
            self.unusual.add(fetch.name)

    def file(self, source: SourceFile, defaults: Tree | None) -> Tree | None:
        """Read one file; return the task defaults that it sets for its kind.

        In a Taskgraph tree, a problem of the file refuses the definitions in it.
        """
        own: list[Problem] = []
        where = Location(source.path, "", 1, own, source.directory, source.root, source.scripts)
        root = self.parsed(source, where)
        is_kind = is_kind_file(source.path) and source.kind != "mirrors"
        if is_kind and isinstance(root, Tree):
            _check_kind(root, where)
        if own and source.root:
            self.refuse_file(source, own[0])
        else:
            self.problems += own
        if source.kind == "mirrors":
            self.mirrors = read_mirrors(root, where.collecting(self.problems)) if root is not None else None
            return None
        return self.tasks(source, root, where.collecting(self.problems), defaults) if root is not None else None

    def parsed(self, source: SourceFile, where: Location) -> Node | None:
        """Return the root node of a file; None if it is empty or after reporting a problem."""
        root, faults = source.document if is_kind_file(source.path) else source.parse()
        for key, line, reason, hint in faults:
            (where.at(key, line) if key else where).wrong(reason, hint, line)
        if root is None or (isinstance(root, Scalar) and root.is_null):
            return None
        if source.kind != "mirrors" and not isinstance(root, Tree):
            where.wrong("must be a mapping of names", "write `name:` lines", root.line)
            return None
        return root

    def refuse_file(self, source: SourceFile, problem: Problem) -> None:
        """Refuse the definitions of a file, or the whole kind of a `kind.yml`; a broken file shows only their names."""
        name = posixpath.basename(source.path)
        if is_kind_file(source.path):
            self.kinds[source.kind] = problem
            self.refuse(f"kind:{source.kind}", "", problem)
        else:
            self.refuse(f"kind:{source.kind}/{name}", "", problem)
            for found in re.findall(rf"^({NAME}):", source.text, re.MULTILINE):
                if found not in _DEFAULTS:
                    self.refuse(f"{source.kind}:{found}", "", problem)

    def refuse(self, task: str, name: str, problem: Problem) -> None:
        """Refuse a definition; `name` is its name in the key of the problem. The first reason is kept."""
        self.refused.setdefault(task, _refusal(task, name, problem))

    def tasks(self, source: SourceFile, root: Node, where: Location, defaults: Tree | None) -> Tree | None:
        if not isinstance(root, Tree):
            return None
        tasks = root
        own = _first(root, *_DEFAULTS)
        if is_kind_file(source.path):
            inner = _first(root, "tasks", "jobs") if source.part == "all" else None
            tasks = inner if isinstance(inner, Tree) else Tree({}, {}, root.line)
        if isinstance(own, Tree):
            defaults = merge(defaults, own) if defaults else own
        for name, node in tasks.items.items():
            if name not in _DEFAULTS:
                self.task(source, name, node, where.at(name, tasks.lines[name]), defaults)
        return defaults

    def place(self, trees: Collection[str]) -> None:
        """Apply the mirrors to each download, and note its platforms; `trees` are the files of Taskgraph trees."""
        mirrors = self.mirrors or Mirrors()
        chosen = self.fetches if self.mirrors is not None or self.refused else self.unusual
        for name in [name for name in self.fetches if name in chosen]:
            fetch = self.fetches[name]
            if fetch.platforms:
                self.platforms[name] = tuple(platform for platform, _ in fetch.platforms)
            sources = [one for one in fetch.sources if isinstance(one, StaticUrl)]
            located = [fetch.source] if isinstance(fetch.source, Debian | DebianSource) else sources
            if not located:
                continue
            for group, hint in (found for one in located for found in find_unknown_groups(one, mirrors)):
                reason = f"unknown mirror group {group!r}"
                key = f"{name}.fetch.{_URL_KEYS.get(type(fetch.source), 'url')}"
                problem = Problem(fetch.file, fetch.line, key, reason, hint)
                if fetch.file in trees:
                    self.refuse(f"fetch:{name}", name, problem)
                else:
                    self.problems.append(problem)
            if self.refused and f"fetch:{name}" in self.refused:
                del self.fetches[name]
            elif self.mirrors is not None and sources:
                placed = [msgspec.structs.replace(one, rewritten=mirrors.places(fetch, one)) for one in sources]
                names = [platform for platform, _ in fetch.platforms]
                self.fetches[name] = msgspec.structs.replace(
                    fetch, source=placed[0], platforms=tuple(zip(names, placed, strict=False))
                )

    def task(self, source: SourceFile, name: str, node: Node, where: Location, defaults: Tree | None) -> None:
        """Read one definition; in a Taskgraph tree, a problem refuses only this definition."""
        task = f"{source.kind}:{name}"
        if source.kind in self.kinds:
            problem = self.kinds[source.kind]
            self.refuse(task, "", problem._replace(reason=f"its kind is refused: {_refusal('', '', problem).reason}"))
            return
        if defaults is not None and isinstance(node, Tree):
            node = merge(defaults, node)
        own: list[Problem] = []
        place = where.collecting(own)
        try:
            check_name(name)
        except FieldError as error:
            place.wrong(error.reason, error.hint)
            task = f"kind:{source.kind}/{posixpath.basename(source.path)}"  # doit cannot have a task of that name
        if name.casefold() in RESERVED_NAMES:
            reason = f"the name {name!r} is reserved for a directory or file that doit-fetch creates"
            place.refuse(reason, "choose another name")
        elif not own or not source.root:
            self.definition(source, name, node, place)
        if not own:
            return
        if source.root:
            self.drop(source.kind, name)
            self.refuse(task, name, own[0])
        else:
            self.problems += own

    def package(self, name: str, node: Node, where: Location) -> None:
        """Read the source of a package, unless a fetch has this name as its alias."""
        if self.aliases is None:  # this kind is read after all others
            self.aliases = {one.alias: one.name for one in self.fetches.values() if one.alias}
        if name in self.aliases:
            where.wrong(f"{name!r} is an alias of {self.aliases[name]}", "choose another name")
        package = read_package(name, node, where)
        if package is not None and not where.problems:
            self.add_fetch(package)

    def drop(self, kind: str, name: str) -> None:
        """Remove a definition; a package with a problem was not added, and a fetch of its name stays."""
        if kind in self.by_kind:
            self.by_kind[kind].pop(name, None)

    def definition(self, source: SourceFile, name: str, node: Node, where: Location) -> None:
        known = self.by_kind["fetch" if source.kind == PACKAGES else source.kind]
        if name in known:
            where.wrong("is defined twice", f"the other definition is at {known[name].file}:{known[name].line}")
        elif self.refused and (other := next((one for one in _tasks(source.kind, name) if one in self.refused), "")):
            where.wrong("is defined twice", f"the other definition is at {self.refused[other].place}")
        elif source.kind == PACKAGES:
            self.package(name, node, where)
        elif (found := _READERS[source.kind](name, node, where, _IS_IGNORED)) is not None:
            if isinstance(found, Fetch):
                self.add_fetch(found)
            else:
                known[name] = found


def _tasks(kind: str, name: str) -> tuple[str, ...]:
    """Return the tasks that a refused definition of this name may have; the source of a package is a fetch."""
    return (f"{kind}:{name}", f"fetch:{name}") if kind == PACKAGES else (f"{kind}:{name}",)


#: The key that has the URLs of a source, if it is not `url`.
_URL_KEYS: Final[Mapping[type, str]] = {Debian: "uri", DebianSource: "dsc.url"}


def _is_usual(fetch: Fetch) -> bool:
    """Return whether a fetch has neither an alias nor platforms nor mirror groups, as most have."""
    one = fetch.source
    located = isinstance(one, StaticUrl) and not one.mirrors and not one.url.startswith("mirror:")
    return located and not fetch.alias and not fetch.platforms


def _added(known: PackedDefinitions[Any], before: int) -> list[str]:
    """Return the names that a mapping got since it had `before` names; the others are not visited."""
    return list(islice(reversed(known), len(known) - before))[::-1]


def _refusal(task: str, name: str, problem: Problem) -> RefusedDefinition:
    """Return the refusal of a definition named `name`, with a reason that names the key."""
    key, reason = problem.key.removeprefix(name).removeprefix("."), problem.reason
    if reason == "unknown key":
        reason = f"unknown key {key!r}"
    elif key and not re.search(rf"\b{re.escape(key.rpartition('.')[2])}\b", reason):
        reason = f"{key}: {reason}"
    return RefusedDefinition(task=task, reason=reason, file=problem.file, line=problem.line, hint=problem.hint)


def is_kind_file(path: str) -> bool:
    """Return whether a file describes a kind."""
    return posixpath.basename(path) in ("kind.yml", "kind.yaml")


def _check_kind(root: Tree, where: Location) -> None:
    """Report what Taskgraph's own loader does not read; the loader itself only in a Taskgraph tree."""
    loader = root.items.get("loader")
    if where.root and loader is not None and not (isinstance(loader, Scalar) and re.fullmatch(_LOADERS, loader.text)):
        name = loader.text if isinstance(loader, Scalar) else ""
        where.at("loader", root.lines["loader"]).refuse(
            f"the loader {name!r} is not supported", "only Taskgraph's loaders read definitions from text"
        )
    ignored = matcher(KIND_IGNORED)
    for key, line in root.lines.items():
        if key not in ("tasks", "jobs") and not ignored(key):
            hint = suggest(key, ["tasks", "task-defaults", "tasks-from"])
            where.at(key, line).wrong("unknown key in kind.yml" if not where.root else "unknown key", hint)


def _first(tree: Tree, *keys: str) -> Node | None:
    return next((tree.items[key] for key in keys if key in tree.items), None)


class ParseCache(Protocol):
    """A cache of the definitions in single files: read before a file is parsed, updated after."""

    def recall(self, source: SourceFile, defaults: object) -> Sequence[dict[str, bytes]] | None:
        """Return the encoded definitions of the file by kind, or None if it must be parsed."""

    def keep(self, source: SourceFile, defaults: object, names: Sequence[list[str]]) -> None:
        """Record the names of each kind that a file without problems defines."""

    def note(self, fetch: Fetch) -> None:
        """Record what the cache keeps of a fetch beside its text."""


def parse(files: Iterable[SourceFile], memory: ParseCache | None = None) -> Definitions:
    """Return the definitions of all files, which may refer to each other.

    A `kind.yml` sets defaults for the files of its kind that follow it. In a Taskgraph tree, a definition that is
    invalid or that cannot be built here is not an error: it is returned in `refused`.

    Raises:
        DefinitionError: it contains all problems of all files, in reading order.
    """
    fresh = MANY if memory is not None else sys.maxsize  # an encoded definition loses the values of its headers
    reading = _Reading(PackedDefinitions(fresh), PackedDefinitions(fresh), PackedDefinitions(fresh), memory=memory)
    defaults: dict[str, Tree | None] = {}
    trees: set[str] = set()
    for source in files:
        trees |= {source.path} if source.root else set()
        if source.kind == "mirrors" or is_kind_file(source.path):
            defaults[source.kind] = reading.file(source, defaults.get(source.kind))
        else:
            reading.known(source, defaults.get(source.kind))
    reading.place(trees)
    for task, name, problem in find_unavailable(reading.fetches, reading.toolchains, trees, reading.refused):
        reading.refuse(task, name, problem)
    fetch_aliases, toolchain_aliases = cross_check(
        reading.fetches, reading.toolchains, reading.images, reading.unusual, trees, reading.problems
    )
    if reading.problems:
        raise DefinitionError(tuple(reading.problems))
    return Definitions(
        fetches=reading.fetches,
        toolchains=reading.toolchains,
        images=reading.images,
        refused=tuple(reading.refused.values()),
        _platforms={name: platforms for name, platforms in reading.platforms.items() if name in reading.fetches},
        _fetch_aliases=fetch_aliases,
        _toolchain_aliases=toolchain_aliases,
    )


def refuse(definitions: Definitions, problems: Mapping[str, Problem]) -> Definitions:
    """Return the definitions without the toolchains that have these problems, by name, and what needs them."""
    toolchains = dict(definitions.toolchains)
    refused = {one.task: one for one in definitions.refused}
    for task, name, problem in remove_toolchains(problems, toolchains, definitions):
        refused.setdefault(task, _refusal(task, name, problem))
    aliases = {alias: name for alias, name in definitions._toolchain_aliases.items() if name in toolchains}
    return msgspec.structs.replace(
        definitions, toolchains=toolchains, refused=tuple(refused.values()), _toolchain_aliases=aliases
    )


def list_kind_files(source: SourceFile) -> tuple[str, ...] | None:
    """Return the files that a `kind.yml` lists in `tasks-from`, or None if it has no tasks and lists no files.

    Return None for a `kind.yml` with invalid YAML; `parse` reports the problem.
    """
    root = source.document.root
    listed = _first(root, "tasks-from", "jobs-from") if isinstance(root, Tree) else None
    if not isinstance(listed, YamlSequence):
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
    r"^(label|soft-dependencies|if-dependencies|optimization|when|shipping-.*|always-target|tags)$",
    r"^(attributes|task-from|use-.*|needs-sccache|deadline-after|requires|copy-attributes|retries)$",
    r"^(max-run-time|job-from|python-version|local-.*|require-signing|secrets|platform|job-symbol|trigger-.*|stable-.*)$",
)
#: Other keys of `kind.yml` than the tasks; they are ignored. Source: taskgraph `kind` schema.
KIND_IGNORED: Final = (
    r"^(loader|transforms|kind-dependencies|kind-.*|not-for-locales|only-for-.*|defaults|attributes|.*-defaults|.*-from)$",
)


#: Taskgraph's loaders, which read `tasks` and `tasks-from`. Source: taskgraph `loader/`; Gecko had a copy of one.
_LOADERS: Final = r"(gecko_)?taskgraph\.loader\.(transform|default):loader"
_DEFAULTS: Final = ("task-defaults", "job-defaults")
_IS_IGNORED: Final[Callable[[str], bool]] = matcher(IGNORED)
_READERS: Final[Mapping[str, Callable[..., Fetch | Toolchain | Image | None]]] = {
    "fetch": read_fetch,
    "toolchain": read_toolchain,
    "image": read_image,
}


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a definition file of any kind."""
    tables = {"fetch": FETCH, "toolchain": TOOLCHAIN, "image": IMAGE}
    kinds = {kind: schema_of(table, IGNORED) for kind, table in tables.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:doit-fetch:fetchdefs.schema.json",
        "title": "doit-fetch definitions by name: fetches, toolchains or images, as the directory of the file says",
        "type": "object",
        "properties": {
            "task-defaults": {"type": "object", "description": "keys that every definition of the file has by default"},
            "job-defaults": {"type": "object", "description": "the older name of task-defaults"},
        },
        "additionalProperties": {"anyOf": [{"$ref": f"#/$defs/{kind}"} for kind in kinds]},
        "$defs": kinds,
    }
