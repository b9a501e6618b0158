"""The definition files of a project, as add and update read, edit and write them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from tasks_lib.context import Context
from tasks_lib.definitions import DebianSource, Definitions, Fetch, SourceFile, StaticUrl, Toolchain, parse
from tasks_lib.definitions.mirrors import Mirrors, parse_mirrors
from tasks_lib.definitions.parser import is_kind_file
from tasks_lib.digest import Integrity
from tasks_lib.errors import DefinitionError, EditError, Problem, escape_text
from tasks_lib.fs.atomic import read_umask
from tasks_lib.layout import OWN, find_layout
from tasks_lib.pins.edit import insert_definition
from tasks_lib.pins.yaml_text import KeyPath, Value
from tasks_lib.progress import Progress

#: The file for new definitions of a project with none or several.
_DEFAULT_FILE: Final = "fetches.yml"


class Workspace(NamedTuple):
    """A project: the context of the run, its definitions, and who hears of progress."""

    context: Context
    definitions: Definitions
    progress: Progress

    @property
    def keys(self) -> Path:
        """The directory of public keys, relative to the current one if possible, as `key-path:` is."""
        fetchdefs = self.context.settings.fetchdefs
        return Path(os.path.relpath(Path(OWN) if fetchdefs.is_file() else fetchdefs)) / "keys"

    @property
    def mirrors_file(self) -> Path:
        """The file of mirrors, which may not exist."""
        layout = find_layout(self.context.settings.fetchdefs)
        return layout.mirrors_file or layout.mirrors[0]

    @property
    def mirrors(self) -> Mirrors:
        """The mirrors."""
        return parse_mirrors(read_text(self.mirrors_file))

    def choose_file(self, given: Path | None) -> Path:
        """Return the file for a new definition: the given one, else the only one, else `fetches.yml`.

        Raises:
            EditError: the given file is not one that a run reads.
        """
        layout = find_layout(self.context.settings.fetchdefs)
        if layout.kind:
            return layout.taken
        directory = layout.taken / "fetch"
        if given is None:
            found = sorted([*directory.glob("*.yml"), *directory.glob("*.yaml")])
            files = [path for path in found if not is_kind_file(path.name)] or found
            return files[0] if len(files) == 1 else directory / _DEFAULT_FILE
        if given.suffix not in (".yml", ".yaml") or given.resolve().parent != directory.resolve():
            raise EditError(
                f"{escape_text(str(given))} is not a file of fetch definitions",
                hint=f"choose a file such as {escape_text(str(directory / _DEFAULT_FILE))}",
            )
        return directory / given.name

    def find_url(self, url: str) -> Fetch | None:
        """Return the definition of a URL."""
        for fetch in self.definitions.fetches.values():
            source = fetch.source
            if isinstance(source, StaticUrl | DebianSource) and url in (source.url, *source.mirrors):
                return fetch
        return None

    def find_content(self, integrity: Integrity) -> list[Fetch]:
        """Return the definitions with this content."""
        return [
            one
            for one in self.definitions.fetches.values()
            if isinstance(one.source, StaticUrl) and one.source.integrity == integrity
        ]

    def read_block(self, name: str, content: Mapping[str, Value], file: Path, more_mirrors: str = "") -> Fetch:
        """Return the value of a new definition.

        `more_mirrors` is the text of `mirrors.yml` after the edit, "" if it stays.

        Raises:
            EditError: the definition is not valid.
        """
        root = find_layout(self.context.settings.fetchdefs).root
        block = insert_definition("", name, content)
        place = file.with_name("definition.yml") if keys_above(file) else file  # the block has no keys above it
        own = SourceFile(kind="fetch", path=str(place), text=block, directory=str(file.absolute().parent), root=root)
        mirrors = SourceFile(
            kind="mirrors", path=str(self.mirrors_file), text=more_mirrors or read_text(self.mirrors_file)
        )
        try:
            found = parse([own, mirrors])
        except DefinitionError as error:
            raise EditError(_describe(error.problems), hint=error.problems[0].hint) from error
        if name not in found.fetches:
            raise EditError(found.refused[0].reason, hint=found.refused[0].hint)
        return found.fetches[name]


def _describe(problems: tuple[Problem, ...]) -> str:
    return "cannot be defined: " + "; ".join(
        f"{one.key.partition('.')[2] or one.key}: {one.reason}" for one in problems
    )


def key_path(definition: Fetch | Toolchain) -> KeyPath:
    """Return the keys above the content of a definition in its file."""
    return (*keys_above(Path(definition.file)), definition.name)


def keys_above(file: Path) -> KeyPath:
    """Return the keys above the definitions in a file."""
    return ("tasks",) if is_kind_file(str(file)) else ()


def read_text(path: Path) -> str:
    """Return the text of a file with its line breaks, "" if it does not exist.

    Raises:
        EditError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise EditError(f"{escape_text(str(path))} is not UTF-8", hint="convert it") from error
    except OSError as error:
        raise EditError(
            f"cannot read {escape_text(str(path))}: {error.strerror or error}", hint="check its permissions"
        ) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file atomically; keep its mode and a symlink to it; create its directory.

    Raises:
        EditError: it cannot be written.
    """
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~read_umask()
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123  # a descriptor
                file.write(content)
                os.fchmod(file.fileno(), mode)
            os.replace(name, target)  # noqa: PTH105  # two names
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)  # noqa: PTH108  # a name
            raise
    except OSError as error:
        raise EditError(
            f"cannot write {escape_text(str(path))}: {error.strerror or error}",
            hint="check the permissions of its directory and the free space",
        ) from error


@contextlib.contextmanager
def editing(workspace: Workspace) -> Iterator[None]:
    """Let one process at a time edit the files of a project."""
    name = hashlib.sha256(os.fsencode(workspace.context.settings.fetchdefs.absolute())).hexdigest()
    with workspace.context.cache.lock(name, workspace.progress, "the definitions"):
        yield


def to_json(value: Any) -> Any:
    """Return a value of a definition as JSON."""
    return {key: to_json(one) for key, one in value.items()} if isinstance(value, Mapping) else value
