"""Fields of a source of `type: debian-source`, and of the source of a package in Gecko's kind `packages`.

Pure: no I/O. Source for the terms: dsc(5); Gecko's `transforms/job/debian_package.py` (read as documentation).
"""

from __future__ import annotations

import posixpath
from typing import Any, Final

from tasks_lib.definitions.debian_fields import DEBIAN
from tasks_lib.definitions.fields import (
    COUNT,
    FILE_NAME,
    SHA256,
    check_download_url,
    list_of,
    read_text,
    resolve_url,
    url_field,
)
from tasks_lib.definitions.schema import Field, FieldError, FieldTable, Location, read_table, schema_of
from tasks_lib.definitions.upstream import UPSTREAM_FIELDS
from tasks_lib.definitions.values import DebianSource, file_name_of
from tasks_lib.definitions.yaml_tree import Node
from tasks_lib.relpath import RelPath

_ORIGINS: Final = ("https", "http", "file", "mirror")


def _origin(node: Node, where: Location) -> str:
    return resolve_url(check_download_url(read_text(node), _ORIGINS), where)


_FILE: Final[FieldTable] = {
    "url": Field(_origin, url_field(*_ORIGINS).schema)
    .needed("add the URL of the .dsc")
    .about("the origin of the .dsc; the files that it names are beside it"),
    "mirrors": Field(
        list_of(_origin),
        {"type": "array", "items": url_field(*_ORIGINS).schema},
        "other URLs of the same .dsc, each with the same files beside it, tried in order",
    ),
    "sha256": SHA256.needed("run `sha256sum` on the .dsc that you reviewed").about("SHA-256 digest of the .dsc"),
    "size": COUNT.needed("run `stat -c %s` on the .dsc that you reviewed").about("size of the .dsc in bytes"),
}
#: A file of a Taskgraph tree, whose size may be missing. Source: Gecko's `source_definition`, which has no size.
_FILE_OF_TREE: Final[FieldTable] = {**_FILE, "size": _FILE["size"]._replace(required="")}


def read_source_file(node: Node, where: Location) -> dict[str, Any] | None:
    """Return url, sha256, size and mirrors of a file, or None after reporting a problem."""
    found = read_table(node, where, _FILE_OF_TREE if where.root else _FILE)
    if found is not None and not _is_safe(file_name_of(found["url"])):
        raise FieldError("cannot derive a file name from the URL", "use the URL of a file")
    return found


def _is_safe(name: str) -> bool:
    try:
        RelPath.parse(name)
    except ValueError:
        return False
    return True


def _optional(key: str) -> Field:
    return DEBIAN[key]._replace(required="")


DEBIAN_SOURCE: Final[FieldTable] = {
    "type": Field(read_text, {"enum": ["debian-source"]}, "the source of a Debian package"),
    "dsc": Field(read_source_file, schema_of(_FILE), "the .dsc, which names the other files of the package").needed(
        "add a mapping with url, sha256 and size of the .dsc"
    ),
    "signed-by": _optional("signed-by").about(
        "fingerprints of the primary keys, any one of which must have signed the .dsc; without it, its digest suffices"
    ),
    "key-files": _optional("key-files"),
    "artifact-name": FILE_NAME.about("file name of the artifact; NAME.tar.zst by default"),
    "purl": UPSTREAM_FIELDS["purl"],
}


def read_debian_source(found: dict[str, Any], where: Location) -> DebianSource | None:
    """Return the source package that the values of `DEBIAN_SOURCE` describe, or None after reporting a problem."""
    name = found.get("artifact-name", "")
    if name and not name.endswith(".tar.zst"):
        where.wrong(f"invalid artifact name {name!r}", "use a .tar.zst name: the files are archived as .tar.zst")
        return None
    if ("signed-by" in found) != ("key-files" in found):
        where.wrong("`signed-by` and `key-files` belong together", "set both, or neither")
        return None
    return DebianSource(
        **source_places(found["dsc"]),
        artifact_name=name,
        signed_by=found.get("signed-by", ()),
        key_files=tuple(posixpath.join(where.root, str(path)) for path in found.get("key-files", ())),
        purl=found.get("purl", ""),
    )


def source_places(found: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a `DebianSource` that the values of a file are."""
    return {
        "url": found["url"],
        "digest": found["sha256"],
        "size": found.get("size", -1),
        "mirrors": found.get("mirrors", ()),
    }
