"""What a project imports: for its dodo.py, and the Python API.

    from doit_fetch import DOIT_CONFIG, task_fetchdefs      # in dodo.py

    import doit_fetch
    doit_fetch.fetch("gmp")     # path of the artifact, obtained and verified if it is missing
    doit_fetch.tree("gmp")      # path of the extracted archive

Importing this module loads only the exceptions; doit and the implementation (`tasks_lib`) when a name is used.
Only this module and the programs (`doit-fetch`, `fetch-content`) read the environment. `doit_fetch.errors` has the
exceptions; their base is `FetchError`.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks_lib import errors

if TYPE_CHECKING:
    from tasks_lib.project import Project

__all__ = ["DOIT_CONFIG", "Project", "errors", "fetch", "task_fetchdefs", "tree"]  # noqa: F822  # some by __getattr__

#: `from doit_fetch.errors import FetchError` works although this module is not a package.
sys.modules[f"{__name__}.errors"] = errors

_projects: dict[object, Project] = {}
_lock = threading.Lock()


def fetch(name: str, *, project: str | os.PathLike[str] | Project = "", offline: bool | None = None) -> Path:
    """Return the path of an artifact; obtain or make it if it is missing.

    Args:
        name: the name or alias of a definition, or `fetch:NAME` or `toolchain:NAME`.
        project: a loaded project, or its directory; "" for the current directory or the closest one above it.
        offline: True to make no network request, False to allow them, None for the setting `offline`.

    Returns:
        An absolute path that stays the same when the definition changes. The file is read-only.

    Raises:
        errors.UnknownNameError: no definition has this name.
        errors.DefinitionError: definitions are invalid.
        errors.FetchError: the artifact cannot be obtained; its subclasses say why.
    """
    return _load(project, offline).fetch(name)


def tree(name: str, *, project: str | os.PathLike[str] | Project = "", offline: bool | None = None) -> Path:
    """Return the path of an extracted archive or of a toolchain's directory; make it if it is missing.

    Args:
        name: as for `fetch`.
        project: as for `fetch`.
        offline: as for `fetch`.

    Raises:
        errors.UnsupportedArchiveError: the artifact is not an archive.
        errors.FetchError: as `fetch`.
    """
    return _load(project, offline).tree(name)


def _load(project: str | os.PathLike[str] | Project, offline: bool | None) -> Project:
    """Return a project, which is loaded once until its definitions or settings change."""
    kind: type[Project] = __getattr__("Project")
    if isinstance(project, kind):
        return project
    directory = str(project)
    own = tuple(sorted(item for item in os.environ.items() if item[0].startswith("FETCH")))
    key = (os.path.abspath(directory or "."), bool(directory), offline, own)  # noqa: PTH100  # as text
    with _lock:
        if key not in _projects or not _projects[key].is_current():
            _projects[key] = kind.load(directory, offline=offline)
        return _projects[key]


def __getattr__(name: str) -> Any:
    """Load what a name needs on its first use. Source: PEP 562.

    Raises:
        AttributeError: this module has no such name.
        doit.exceptions.InvalidDodoFile: a setting or the cache cannot be used (DOIT_CONFIG and task_fetchdefs).
    """
    if name in ("DOIT_CONFIG", "task_fetchdefs"):
        from tasks_lib.engine import dodo  # loads doit

        globals().update(DOIT_CONFIG=dodo.start(os.environ), task_fetchdefs=dodo.task_fetchdefs)
    elif name == "Project":
        from tasks_lib import project  # a dodo.py does not need it

        project.use_environment(os.environ)
        globals().update(Project=project.Project)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals()[name]
