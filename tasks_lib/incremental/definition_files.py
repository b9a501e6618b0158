"""Read definition files into values; unchanged files come from the cache of parsed definitions."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tasks_lib.definitions import Definitions
from tasks_lib.digest import Digest
from tasks_lib.errors import DefinitionError, Problem
from tasks_lib.fs.fingerprint import Fingerprint
from tasks_lib.incremental.definition_cache import CachedFiles, DefinitionCache, definitions_of
from tasks_lib.incremental.marks import KINDS, MIRRORS, roots, unchanged
from tasks_lib.units import format_size

if TYPE_CHECKING:
    from tasks_lib.definitions import SourceFile

#: Largest definition file in bytes; Gecko's largest is below 200 KB, 10,000 definitions are about 4 MB.
MAX_FILE_BYTES: Final = 64 << 20
_SUFFIXES: Final = (".yml", ".yaml")


def load(directory: Path, definition_cache: DefinitionCache | None = None) -> Definitions:
    """Return the definitions of `directory`/fetch and `directory`/toolchain.

    Args:
        directory: of the definitions.
        definition_cache: the cache of parsed definitions; None to parse everything.

    Raises:
        DefinitionError: lists every problem of every file; also raised when there are no definitions.
    """
    kept = definition_cache.read() if definition_cache is not None else None
    if kept is not None and unchanged(kept.marks, roots(directory)):
        return definitions_of(kept)
    marks = {str(root): Fingerprint.at(root) for root in roots(directory)}
    memory = CachedFiles(kept)
    definitions = _parsed(directory, marks, memory)
    if definition_cache is None:
        return definitions
    made = memory.kept(definition_cache.code, marks, definitions)
    definition_cache.write(made)
    return definitions_of(made, definitions)


def _parsed(directory: Path, marks: dict[str, Fingerprint], memory: CachedFiles) -> Definitions:
    from tasks_lib.definitions import parse  # loads the YAML parser, needed only when something changed

    problems: list[Problem] = []
    root = _root_above(Path(os.path.normpath(directory.absolute())))
    sources = []
    for kind in KINDS:
        for path in _files(directory / kind, problems):
            marks[str(path)] = Fingerprint.at(path)
            if (source := _read(kind, path, root, problems)) is not None:
                sources.append(source)
    if not sources and not problems:
        reason = "holds no fetch/*.yml and no toolchain/*.yml"
        hint = "set another directory: `doit fetchdefs=DIR` or FETCHDEFS_DIR"
        raise DefinitionError((Problem(str(directory), 0, "", reason, hint),))
    mirrors = directory / MIRRORS
    # an unreadable directory was reported with the directories above
    if os.path.isfile(mirrors) and (source := _read("mirrors", mirrors, root, problems)) is not None:  # noqa: PTH113
        sources.append(source)
        memory.common = source.text
    try:
        definitions = parse(sources, memory)
    except DefinitionError as error:
        problems += error.problems
    if problems:
        raise DefinitionError(tuple(problems))
    return definitions


def _files(directory: Path, problems: list[Problem]) -> list[Path]:
    """Return the definition files of one kind; an unreadable directory is a problem, a missing one is empty."""
    try:
        return _listed(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
        problems.append(Problem(str(error.filename or directory), 0, "", reason, "check its permissions"))
        return []


def _listed(directory: Path) -> list[Path]:
    """Return the files of a directory, `kind.yml` first, which may list the others."""
    from tasks_lib.definitions import kind_files

    found = sorted(path for path in directory.iterdir() if path.suffix in _SUFFIXES and path.is_file())
    kind = next((path for path in found if path.stem == "kind"), None)
    if kind is None:
        return found
    rest = [path for path in found if path != kind]
    listed = kind_files(kind.read_text("utf-8", "replace")) if kind.stat().st_size <= MAX_FILE_BYTES else None
    return [kind, *(rest if listed is None else (directory / name for name in listed))]


def _read(kind: str, path: Path, root: str, problems: list[Problem]) -> SourceFile | None:
    from tasks_lib.definitions import SourceFile

    reason = hint = ""
    try:
        f"{path}{root}".encode()  # both are part of the cached definitions
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        text = data.decode("utf-8")
        if len(data) > MAX_FILE_BYTES:
            reason = f"is larger than {format_size(MAX_FILE_BYTES)}"
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
    except UnicodeDecodeError as error:
        reason, hint = f"invalid UTF-8 at byte {error.start}", "save the file as UTF-8"
    except UnicodeEncodeError:
        reason, hint = "the path is not valid UTF-8", "rename it, or set a relative `fetchdefs=`"
    if reason:
        problems.append(Problem(str(path), 1, "", reason, hint))
        return None
    path = Path(os.path.normpath(path))
    directory = path.parent.absolute()
    scripts = str(_scripts(Path(root))) if root else ""
    return SourceFile(kind=kind, path=str(path), text=text, directory=str(directory), root=root, scripts=scripts)


def _root_above(directory: Path) -> str:
    """Return the root of the Taskgraph repository whose kinds are in `directory`, "" for other definitions.

    Source: Taskgraph keeps its kinds in `taskcluster/kinds` (before 2023 in `taskcluster/ci`) below the root.
    """
    parts = directory.parent.name, directory.name
    return str(directory.parents[1]) if parts in (("taskcluster", "kinds"), ("taskcluster", "ci")) else ""


def _scripts(root: Path) -> Path:
    """Return the directory of a Taskgraph tree's toolchain scripts.

    Source: `toolchain-script` of Taskgraph runs `taskcluster/scripts/toolchain/NAME`, that of Gecko
    `taskcluster/scripts/misc/NAME`.
    """
    own = root / "taskcluster" / "scripts" / "toolchain"
    return own if own.is_dir() else own.with_name("misc")


def digest_of(path: str) -> Digest:
    """Return the digest of a script's or resource's content; a missing file has a digest of its own."""
    try:
        with Path(path).open("rb") as file:
            return Digest.sha256(hashlib.file_digest(file, "sha256").hexdigest())
    except OSError:
        return Digest.sha256(hashlib.sha256(b"missing:" + os.fsencode(path)).hexdigest())
