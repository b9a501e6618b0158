"""Gecko's kind `packages`: the sources of packages that its tasks build. Pure: no I/O.

A task takes a .dsc or a tarball, changes it, and builds packages with the tools of a distribution. Only the source is
fetched here; what the task does with it is ignored.
Source: Gecko, `taskcluster/kinds/packages`, `transforms/job/debian_package.py` (read as documentation).
"""

from __future__ import annotations

from typing import Any, Final

from tasks_lib.definitions.debian_source_fields import read_source_file, source_places
from tasks_lib.definitions.fields import TEXT
from tasks_lib.definitions.schema import Field, FieldTable, Location, read_table
from tasks_lib.definitions.values import DebianSource, Fetch, file_name_of
from tasks_lib.definitions.yaml_tree import Node, Tree

#: The keys that name a source, and the form of it.
_FORMS: Final = ("dsc", "tarball")
_SOURCE: Final = Field(read_source_file, {})
_RUN: Final[FieldTable] = dict.fromkeys(_FORMS, _SOURCE)


def _read_run(node: Node, where: Location) -> dict[str, Any] | None:
    found = read_table(node, where, _RUN, lambda _: True)
    if found is None or len(found) == 1:
        return found
    if found:
        where.wrong("has both `dsc:` and `tarball:`", "remove one")
    else:
        where.refuse("has neither `dsc:` nor `tarball:`", "only the sources of packages are fetched, none is built")
    return None


_PACKAGE: Final[FieldTable] = {
    "description": TEXT,
    "run": Field(_read_run, {}).needed("add `run:` with `dsc:` or `tarball:`"),
}


def read_package(name: str, node: Node, where: Location) -> Fetch | None:
    """Return the source of a package as a fetch, or None after reporting a problem.

    Args:
        name: of the definition.
        node: the mapping, merged with the defaults of its kind.
        where: its position.
    """
    found = read_table(node, where, _PACKAGE, lambda _: True)
    run = node.items["run"] if found is not None and isinstance(node, Tree) else None
    if found is None or found["run"] is None or not isinstance(node, Tree) or not isinstance(run, Tree):
        return None
    ((form, file),) = found["run"].items()
    artifact = f"{name}.tar.zst" if form == "dsc" else file_name_of(file["url"])
    others = [key for key in node.items if key not in _PACKAGE]
    return Fetch(
        name=name,
        description=found.get("description", f"source of the package {name}").strip(),
        source=DebianSource(**source_places(file), artifact_name=artifact, form=form),
        ignored=(*others, *(f"run.{key}" for key in run.items if key not in _RUN)),
        file=where.file,
        line=where.line,
    )
