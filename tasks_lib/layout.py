"""Where the definitions are: a directory of kinds, a Taskgraph repository, or one file.

This module is fast to import: a no-op `doit` needs it.
Source: Taskgraph keeps its kinds in `taskcluster/kinds`, before 2023 in `taskcluster/ci`.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final

from tasks_lib.errors import UnknownNameError, escape_text
from tasks_lib.named import NamedTuple

#: Subdirectories of a directory of kinds, its file of mirrors, the directory of a project's own definitions, and below
#: the definitions the directory of the keys that sign results.
KINDS: Final = ("fetch", "toolchain", "image")
#: The subdirectory of Gecko's kind of packages, of whose sources a Taskgraph tree has fetches, too.
PACKAGES: Final = "packages"
MIRRORS: Final = "mirrors.yml"
OWN: Final = "fetchdefs"
STORE_KEYS: Final = "keys/store"
#: The groups of tasks that make the artifact of each kind, the last step first.
_MAKERS: Final = (("repack", "fetch"), ("toolchain",), ("image",))
_TASKCLUSTER: Final = "taskcluster"
_TREES: Final = ("kinds", "ci")
#: The trust domain of Gecko, and the package of its transforms. Source: Gecko, `taskcluster/config.yml`.
_GECKO: Final = "gecko"
_GECKO_TRANSFORMS: Final = "gecko_taskgraph."


class Layout(NamedTuple):
    """What a path of definitions means.

    Attributes:
        given: the path.
        taken: the directory of kinds, or the only file.
        kind: the kind of the only file, "" for a directory.
        root: the absolute root of the Taskgraph repository, "" for other definitions.
    """

    given: Path
    taken: Path
    kind: str
    root: str

    @property
    def places(self) -> list[Path]:
        """The directories and files that may hold definitions."""
        if self.kind:
            return list(dict.fromkeys((self.taken, self.taken.with_name("kind.yml"))))
        return [self.taken / kind for kind in self.kinds]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds whose definitions are read; `image` has another meaning in a Taskgraph tree, if any."""
        return (*KINDS[:2], PACKAGES) if self.root else KINDS

    @property
    def mirrors(self) -> list[Path]:
        """The files that may hold the mirrors; the first that exists is used."""
        beside = [self.given.parent] if self.kind else [self.given, self.taken]
        return list(dict.fromkeys(place / MIRRORS for place in (*beside, Path(OWN))))

    @property
    def mirrors_file(self) -> Path | None:
        """The file of mirrors, None if there is none."""
        return next((path for path in self.mirrors if os.path.isfile(path)), None)  # noqa: PTH113  # never raises

    @property
    def store_keys(self) -> Path:
        """The directory of the public keys whose signatures of results are trusted; it may be missing."""
        places = [path.parent / STORE_KEYS for path in self.mirrors]
        return next((path for path in places if os.path.isdir(path)), places[0])  # noqa: PTH112  # never raises

    @property
    def note(self) -> str:
        """What was taken, if it is not what was given; else ""."""
        return "" if self.taken == self.given else f"fetchdefs={self.given}: using {self.taken}"


def find_layout(given: Path) -> Layout:
    """Return the layout of the definitions at a path, which may not exist.

    Accept the root of a repository, its `taskcluster` directory, a directory of kinds, or one file.
    """
    if os.path.isfile(given):  # noqa: PTH113  # never raises
        kind_directory = next((path for path in given.parents[:2] if path.name in (*KINDS, PACKAGES)), given.parent)
        layout = Layout(given, given, KINDS[0], _root_above(kind_directory.parent))
        return layout._replace(kind=kind_directory.name) if kind_directory.name in layout.kinds else layout
    found = [path for path in _trees(given) if os.path.isdir(path)]  # noqa: PTH112  # never raises
    taken = next((path for path in found if _has_kinds(path)), next(iter(found), given))
    return Layout(given, taken, "", _root_above(taken))


def find_artifact_task(name: str, tasks: Container[str]) -> str:
    """Return the task that makes the artifact of the definition with this name, "" if there is none.

    Raises:
        UnknownNameError: definitions of several kinds have this name.
    """
    made = {groups[-1]: [task for group in groups if (task := f"{group}:{name}") in tasks] for groups in _MAKERS}
    found = {kind: tasks[0] for kind, tasks in made.items() if tasks}
    if len(found) > 1:
        raise ambiguous_name(name, found)
    return next(iter(found.values()), "")


def ambiguous_name(name: str, found: Mapping[str, str]) -> UnknownNameError:
    """Return the error for a name that definitions of several kinds have; `found` maps the kind to the full name."""
    kinds = " and of ".join(f"an {kind}" if kind == "image" else f"a {kind}" for kind in found)
    full = " or ".join(map(escape_text, found.values()))
    return UnknownNameError(f"{escape_text(name)!r} is the name of {kinds}", hint=f"write {full}")


def find_kind_directory(file: str) -> Path | None:
    """Return the directory of the kind to which a file of a Taskgraph tree belongs, None for other definitions."""
    return _find_kind_directory(os.path.dirname(os.path.abspath(file)))  # noqa: PTH100, PTH120  # a symlink is kept


@lru_cache(maxsize=1024)
def _find_kind_directory(directory: str) -> Path | None:
    path = Path(directory)
    return next((kind for kind in (path, *path.parents) if _root_above(kind.parent)), None)


def _trees(given: Path) -> Iterator[Path]:
    top = given if Path(os.path.abspath(given)).name == _TASKCLUSTER else given / _TASKCLUSTER  # noqa: PTH100
    return (top / name for name in _TREES)


def _has_kinds(directory: Path) -> bool:
    return any(os.path.isdir(directory / kind) for kind in (*KINDS, PACKAGES))  # noqa: PTH112  # never raises


def _root_above(directory: Path) -> str:
    """Return the root of the Taskgraph repository whose kinds are in a directory, "" for other definitions."""
    path = Path(os.path.abspath(directory))  # noqa: PTH100  # a symlink is kept
    if path.name not in _TREES:
        return ""
    is_tree = path.parent.name == _TASKCLUSTER or os.path.isfile(path.parent / "config.yml")  # noqa: PTH113  # never raises
    return str(path.parents[1]) if is_tree else ""


@cache
def load_tree_configuration(top: Path) -> dict[str, Any]:
    """Return the configuration of the Taskgraph tree in the directory `top`; {} if there is none."""
    found = (_load_yaml(path) for path in (top / "config.yml", top / "ci" / "config.yml"))
    return next((one for one in found if isinstance(one, dict)), {})


@cache
def load_transforms(kind_directory: Path) -> tuple[str, ...]:
    """Return the transforms of a kind."""
    found = _load_yaml(kind_directory / "kind.yml")
    listed = found.get("transforms") if isinstance(found, dict) else None
    return tuple(map(str, listed)) if isinstance(listed, list) else ()


def is_gecko(root: str, file: str) -> bool:
    """Return whether the scripts of a definition file in a Taskgraph tree expect Gecko's variables."""
    kind_directory = find_kind_directory(file)
    tops = [Path(root, _TASKCLUSTER), *([kind_directory.parents[1]] if kind_directory is not None else [])]
    if any(load_tree_configuration(top).get("trust-domain") == _GECKO for top in tops):
        return True
    return kind_directory is not None and any(
        one.startswith(_GECKO_TRANSFORMS) for one in load_transforms(kind_directory)
    )


def _load_yaml(path: Path) -> Any:
    try:
        text = path.read_text("utf-8")
    except (OSError, ValueError):
        return None
    import yaml  # slow to import, needed only by `doit info` and the commands of a Taskgraph tree

    try:
        return yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        return None
