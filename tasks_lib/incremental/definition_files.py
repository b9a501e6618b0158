"""Read definition files into values; unchanged files come from the cache of parsed definitions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from tasks_lib import definitions as parser  # a run with unchanged definitions uses none of its names
from tasks_lib.definitions import Definitions, FileReference, RefusedDefinition, Toolchain
from tasks_lib.definitions.platform_selection import select_platform
from tasks_lib.errors import DefinitionError, Problem, ToolError
from tasks_lib.fs.fingerprint import UNTRUSTED, Fingerprint
from tasks_lib.host import machine_platform
from tasks_lib.incremental.definition_cache import CachedFiles, DefinitionCache, definitions_of
from tasks_lib.incremental.fingerprints import are_unchanged, list_roots
from tasks_lib.incremental.resources import ReferencedFiles
from tasks_lib.layout import Layout, find_layout
from tasks_lib.units import format_size

if TYPE_CHECKING:
    from tasks_lib.definitions import SourceFile

#: Largest definition file in bytes; Gecko's largest is below 200 KB, 10,000 definitions are about 4 MB.
MAX_FILE_BYTES: Final = 64 << 20
_SUFFIXES: Final = (".yml", ".yaml")


def load(
    given: Path,
    definition_cache: DefinitionCache | None = None,
    files: ReferencedFiles | None = None,
    topsrcdir: str = "",
    platform: str = "",
) -> Definitions:
    """Return the definitions at a path, for one platform: see `find_layout`, `select_platform`.

    Args:
        given: the path.
        definition_cache: the cache of parsed definitions; None to parse everything.
        files: reads the files that definitions refer to; None for a reader without an environment.
        topsrcdir: the directory to which scripts, resources and keys of a Taskgraph tree are relative; "" for its
            repository.
        platform: the platform, "" or "all" for that of this machine.

    Raises:
        DefinitionError: lists every problem of every file; also raised when there are no definitions.
    """
    return select_platform(_load_all(given, definition_cache, files, topsrcdir), platform, machine_platform())


def _load_all(
    given: Path, definition_cache: DefinitionCache | None, files: ReferencedFiles | None, topsrcdir: str
) -> Definitions:
    """Return the definitions at a path, for all platforms."""
    kept = definition_cache.read() if definition_cache is not None else None
    if kept is not None and are_unchanged(kept.source_fingerprints, list_roots(given)):
        return definitions_of(kept)
    source_fingerprints = {str(root): Fingerprint.at(root) for root in list_roots(given)}
    memory = CachedFiles(kept) if definition_cache is not None else None
    layout = find_layout(given)
    if layout.root and topsrcdir:
        layout = layout._replace(root=os.path.abspath(topsrcdir))  # noqa: PTH100  # a symlink is kept
    definitions = _Loading(layout, source_fingerprints, memory).definitions()
    if layout.root:
        definitions = _with_existing_files(definitions, files or ReferencedFiles({}), source_fingerprints)
    if definition_cache is None or memory is None:
        return definitions
    made = memory.kept(definition_cache.code, source_fingerprints, definitions)
    definitions = definitions_of(made, definitions)  # before the write: frees the encoded definitions that `made` has
    definition_cache.write(made)
    return definitions


class _Loading:
    """The reading of all files of a layout."""

    def __init__(self, layout: Layout, source_fingerprints: dict[str, Fingerprint], memory: CachedFiles | None) -> None:
        self._layout, self._source_fingerprints, self._memory = layout, source_fingerprints, memory
        self._problems: list[Problem] = []
        self._refused: dict[str, RefusedDefinition] = {}
        self._count = 0

    def definitions(self) -> Definitions:
        """Return the definitions.

        Raises:
            DefinitionError: as `load`.
        """
        mirrors = self._layout.mirrors_file
        source = self._read("mirrors", mirrors, "") if mirrors is not None else None
        last = [source] if source is not None else []
        if self._memory is not None:
            self._memory.common = source.text if source is not None else ""
        try:
            definitions = parser.parse(chain(self._sources(), last), self._memory)
        except DefinitionError as error:
            self._problems += error.problems
        if not self._count and not self._problems and not self._refused:
            reason = "holds no fetch/*.yml and no toolchain/*.yml"
            hint = "set another directory: `doit fetchdefs=DIR` or FETCHDEFS_DIR"
            raise DefinitionError((Problem(str(self._layout.taken), 0, "", reason, hint),))
        if self._problems:
            raise DefinitionError(tuple(self._problems))
        return msgspec.structs.replace(definitions, refused=(*definitions.refused, *self._refused.values()))

    def _sources(self) -> Iterator[SourceFile]:
        """Yield the definition files, each `kind.yml` before the others of its kind."""
        layout = self._layout
        for kind in (layout.kind,) if layout.kind else layout.kinds:
            files = [layout.taken] if layout.kind else self._files(kind)
            for source in self._of_kind(kind, files):
                self._count += 1
                yield source

    def _of_kind(self, kind: str, files: list[Path]) -> Iterator[SourceFile]:
        described = next((path for path in files if path.stem == "kind"), None)
        if described is None:
            if self._layout.kind and os.path.isfile(above := files[0].with_name("kind.yml")):  # noqa: PTH113  # never raises
                source = self._read(kind, above, self._layout.root)
                yield from [source.only_defaults()] if source is not None else []
            rest = files
        else:
            source = self._read(kind, described, self._layout.root)
            if source is None:
                return
            yield source
            others = [] if self._layout.kind else [path for path in files if path != described]
            listed = parser.list_kind_files(source)
            rest = others if listed is None else [described.parent / name for name in listed]
        for path in rest:
            if (source := self._read(kind, path, self._layout.root)) is not None:
                yield source

    def _files(self, kind: str) -> list[Path]:
        """Return the files of a kind; an unreadable directory is a problem, a missing one is empty."""
        directory = self._layout.taken / kind
        try:
            return sorted(path for path in directory.iterdir() if path.suffix in _SUFFIXES and path.is_file())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            reason = f"cannot be read: {error.strerror}"
            problem = Problem(str(error.filename or directory), 0, "", reason, "check its permissions")
            self._report(f"kind:{kind}", problem, self._layout.root)
            return []

    def _report(self, task: str, problem: Problem, root: str) -> None:
        """Report a problem; in a Taskgraph tree it refuses only `task`."""
        if root:
            self._refused[task] = RefusedDefinition(
                task=task, reason=problem.reason, file=problem.file, line=problem.line, hint=problem.hint
            )
        else:
            self._problems.append(problem)

    def _read(self, kind: str, path: Path, root: str) -> SourceFile | None:
        self._source_fingerprints[str(path)] = Fingerprint.at(path)
        reason = hint = text = ""
        line = 1
        try:
            f"{path}{root}".encode()  # both are part of the cached definitions
            with path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
            text = data.decode("utf-8")
            if len(data) > MAX_FILE_BYTES:
                reason = f"is larger than {format_size(MAX_FILE_BYTES)}"
        except OSError as error:
            reason, line = f"cannot be read: {error.strerror or error}", 0
            hint = "check its permissions" if isinstance(error, PermissionError) else ""
        except UnicodeDecodeError as error:
            reason, hint = f"invalid UTF-8 at byte {error.start}", "save the file as UTF-8"
        except UnicodeEncodeError:
            reason, hint = "the path is not valid UTF-8", "rename it, or set a relative `fetchdefs=`"
        if reason:
            task = f"kind:{kind}/{path.name}" if path.stem != "kind" else f"kind:{kind}"
            self._report(task, Problem(str(path), line, "", reason, hint), root)
            return None
        path = Path(os.path.normpath(path))
        directory = path.parent.absolute()
        scripts = str(_scripts(Path(root))) if root else ""
        return parser.SourceFile(
            kind=kind, path=str(path), text=text, directory=str(directory), root=root, scripts=scripts
        )


def _with_existing_files(
    definitions: Definitions, files: ReferencedFiles, source_fingerprints: dict[str, Fingerprint]
) -> Definitions:
    """Refuse toolchains whose scripts or resources do not exist, and those that need them.

    What such a refusal depends on is marked, so that it ends when the files exist.
    """
    problems: dict[str, Problem] = {}
    fault_of = lru_cache(maxsize=None)(_fault)  # thousands of toolchains may have the same script
    for toolchain in definitions.toolchains.values():
        for key, one in _references(toolchain):
            fault = fault_of(files, key, one)
            if fault:
                source_fingerprints[one.path] = UNTRUSTED if "*" in one.text else Fingerprint.at(one.path)
                problems.setdefault(
                    toolchain.name, Problem(toolchain.file, toolchain.line, f"{toolchain.name}.run.{key}", *fault)
                )
    return parser.refuse(definitions, problems) if problems else definitions


def _scripts(root: Path) -> Path:
    """Return the directory of a Taskgraph tree's toolchain scripts.

    Source: `toolchain-script` of Taskgraph runs `taskcluster/scripts/toolchain/NAME`, that of Gecko
    `taskcluster/scripts/misc/NAME`.
    """
    own = root / "taskcluster" / "scripts" / "toolchain"
    return own if own.is_dir() else own.with_name("misc")


def _references(toolchain: Toolchain) -> Iterator[tuple[str, FileReference]]:
    run = toolchain.run
    if run is not None and run.script is not None:
        yield "script", run.script
    yield from (("resources", one) for one in (run.resources if run else ()))


def _fault(files: ReferencedFiles, key: str, one: FileReference) -> tuple[str, str] | None:
    """Return why a reference names no file, with a hint; None if it names one."""
    try:
        if files.paths(one):
            return None
    except ToolError as error:
        return str(error).splitlines()[0], error.hint
    if key == "script":
        return f"the script {one.text!r} does not exist", f"expected {one.path}"
    return f"the resource {one.text!r} matches no file", f"expected {one.path}"
