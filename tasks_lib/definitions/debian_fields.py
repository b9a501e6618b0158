"""Fields of a source of `type: debian`. Pure: no I/O.

Source for the terms: sources.list(5) ("Deb822-Style Format"), apt.conf(5) (`@SNAPSHOTID@`), Debian Policy 4.7, 5.6.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

from tasks_lib.definitions.fields import (
    FILE_NAME,
    NAME,
    RELATIVE,
    SWITCH,
    TEXT,
    check_download_url,
    hex_reader,
    list_of,
    one_or_list,
    read_relative_path,
    read_text,
    resolve_url,
)
from tasks_lib.definitions.schema import Field, FieldError, FieldTable, Location
from tasks_lib.definitions.upstream import UPSTREAM_FIELDS
from tasks_lib.definitions.values import Debian, Suite
from tasks_lib.definitions.yaml_tree import Node, Tree
from tasks_lib.errors import suggest
from tasks_lib.relpath import RelPath

#: Where apt puts the time of a snapshot into a URI. Source: apt.conf(5), "Acquire::Snapshots::URI".
SNAPSHOT_ID: Final = "@SNAPSHOTID@"
#: The format of the time of a snapshot in a definition, for `datetime.strptime`.
SNAPSHOT_TIME: Final = "%Y%m%dT%H%M%SZ"
_SNAPSHOT: Final = r"[0-9]{8}T[0-9]{6}Z"
_SUITE: Final = r"[A-Za-z0-9][A-Za-z0-9._+~-]*(?:/[A-Za-z0-9][A-Za-z0-9._+~-]*)*"
_COMPONENT: Final = r"[a-z0-9][a-z0-9._+-]*(?:/[a-z0-9][a-z0-9._+-]*)*"
_ARCHITECTURE: Final = r"(?!all$)[a-z0-9][a-z0-9-]*"
#: A name, optionally with the version that is wanted. apt removes what a name with a final `-` means.
_PACKAGE: Final = r"[a-z0-9][a-z0-9+.-]*[a-z0-9+.](?:=[A-Za-z0-9][A-Za-z0-9.+:~-]*)?"


def _words(pattern: str, what: str, example: str) -> Field:
    """Return a field that is a list of distinct words, at least one."""

    def read_word(node: Node, where: Location) -> str:
        word = read_text(node, where)
        if len(word) > _MAX_WORD or not re.fullmatch(pattern, word):
            raise FieldError(f"invalid {what} {word[:80]!r}", f"write a name such as {example}")
        return word

    return _list(read_word, {"type": "string", "pattern": f"^(?:{pattern})$", "maxLength": _MAX_WORD})


_MAX_WORD: Final = 255


def _list(read: Callable[[Node, Location], Any], item: dict[str, Any]) -> Field:
    def read_list(node: Node, where: Location) -> tuple[Any, ...]:
        before = len(where.problems)
        found = list_of(read)(node, where)
        if not found and len(where.problems) == before:
            raise FieldError("is empty", "list at least one", node.line)
        if twice := next((one for at, one in enumerate(found) if one in found[:at]), None):
            where.wrong(f"{twice} is listed twice", "remove one")
        return found

    return Field(read_list, {"type": "array", "items": item, "minItems": 1, "uniqueItems": True})


def _uri(node: Node, where: Location) -> tuple[str, str]:
    """Return the URI of a repository without a final slash, and as it is written."""
    text = read_text(node, where)
    if not re.fullmatch(rf"mirror://{NAME}/?", text):
        check_download_url(text, ("https", "http", "file", "mirror"))
    if urlsplit(text).query or "#" in text:
        raise FieldError("has a query or a fragment", "write the directory that has `dists/`")
    return resolve_url(text, where).rstrip("/"), text


def _uris(node: Node, where: Location) -> dict[str, tuple[str, str]]:
    """Return the URI of each suite, resolved and as written; "" is the suite of a URI for all of them."""
    if not isinstance(node, Tree):
        return {"": _uri(node, where)}
    return {suite: _uri(inner, where.at(suite, node.lines[suite])) for suite, inner in node.items.items()}


def _snapshot(node: Node, _where: Location) -> str:
    text = read_text(node)
    try:
        if re.fullmatch(_SNAPSHOT, text):
            datetime.strptime(text, SNAPSHOT_TIME)
            return text
    except ValueError:
        pass  # for example a 13th month
    raise FieldError(f"invalid time {text[:40]!r}", "write it as 20261101T000000Z")


def _fingerprint(node: Node, where: Location) -> str:
    return hex_reader((40, 64), "primary key fingerprint")(node, where).upper()


def _lock(node: Node, where: Location) -> RelPath:
    path = read_relative_path(node, where)
    if path.text.endswith((".yml", ".yaml")):
        raise FieldError("has the name of a file of definitions", "write a name such as NAME.lock")
    return path


_ONE_OR_MORE: Final[dict[str, Any]] = {"oneOf": [TEXT.schema, {"type": "array", "items": TEXT.schema, "minItems": 1}]}
_BY_SUITE: Final[dict[str, Any]] = {
    "oneOf": [TEXT.schema, {"type": "object", "additionalProperties": TEXT.schema, "minProperties": 1}]
}
DEBIAN: Final[FieldTable] = {
    "type": Field(read_text, {"enum": ["debian"]}, "Debian packages with their dependencies"),
    "suites": _words(_SUITE, "suite", "bookworm")
    .needed("list the suites, such as [bookworm, bookworm-updates]")
    .about("suites of the repository; the packages come from the newest versions in all of them"),
    "components": _words(_COMPONENT, "component", "main").about("components of the suites; [main] by default"),
    "architectures": _words(_ARCHITECTURE, "architecture", "amd64")
    .needed("list the architectures, such as [amd64]")
    .about("architectures for which the packages are resolved, each on its own"),
    "packages": _words(_PACKAGE, "package", "git or git=1:2.39.5-0+deb12u2").about(
        "packages to resolve with their dependencies, without recommended ones; NAME=VERSION requests a version"
    ),
    "essential": SWITCH.about("true: add the essential packages, which a root file system needs"),
    "uri": Field(
        _uris, _BY_SUITE, "directory with `dists/`: a URL or mirror://GROUP/, or a mapping of each suite to one"
    ).needed("add the URL of the directory with `dists/`, or mirror://GROUP/"),
    "snapshot": Field(
        _snapshot,
        {"type": "string", "pattern": f"^{_SNAPSHOT}$"},
        "time at which the packages are resolved, as 20261101T000000Z",
    ),
    "snapshots": Field(
        _uris,
        _BY_SUITE,
        f"as `uri`, of the states at other times, with {SNAPSHOT_ID} for the time; URI/{SNAPSHOT_ID} by default",
    ),
    "signed-by": _list(_fingerprint, TEXT.schema)
    .needed("list the fingerprints of the primary keys that sign the suites")
    .about("fingerprints of the primary keys, any one of which must have signed each suite"),
    "key-files": Field(
        one_or_list(read_relative_path), _ONE_OR_MORE, "files with these keys, relative to the repository root"
    ).needed("add the files with the public keys, relative to the repository root"),
    "lock": Field(_lock, RELATIVE.schema, "file with the resolved packages, beside the YAML file").needed(
        "name the file that `doit update` writes, such as NAME.lock"
    ),
    "artifact-name": FILE_NAME.about("file name of the artifact; NAME.tar.zst by default"),
    "purl": UPSTREAM_FIELDS["purl"],
}


def read_debian(found: dict[str, Any], where: Location) -> Debian | None:
    """Return the packages that the values of `DEBIAN` describe, or None after reporting a problem."""
    before = len(where.problems)
    name = found.get("artifact-name", "")
    if name and not name.endswith(".tar.zst"):
        where.wrong(f"invalid artifact name {name!r}", "use a .tar.zst name: the packages are archived as .tar.zst")
    if "packages" not in found and not found.get("essential"):
        where.wrong("has no packages", "add `packages:` or `essential: true`")
    names = [one.partition("=")[0] for one in found.get("packages", ())]
    if twice := next((one for at, one in enumerate(names) if one in names[:at]), None):
        where.wrong(f"`packages` has two versions of {twice}", "keep one: apt installs one version of a package")
    for key in ("uri", "snapshots"):
        for unknown in sorted({*found.get(key, {})} - {"", *found["suites"]}):
            where.wrong(f"`{key}` has the unknown suite {unknown!r}", suggest(unknown, found["suites"]))
    suites = tuple(_suite(one, found, where) for one in found["suites"])
    if len(where.problems) > before:
        return None
    return Debian(
        suites=suites,
        architectures=found["architectures"],
        packages=found.get("packages", ()),
        components=found.get("components", ("main",)),
        essential=found.get("essential", False),
        signed_by=found["signed-by"],
        key_files=tuple(posixpath.join(where.root, str(path)) for path in found["key-files"]),
        lock_file=posixpath.join(posixpath.dirname(where.file), str(found["lock"])),
        artifact_name=name,
        snapshot=found.get("snapshot", ""),
        purl=found.get("purl", ""),
    )


def _suite(name: str, found: dict[str, Any], where: Location) -> Suite:
    """Return a suite with its URIs; report a missing one."""
    uri, written = _of_suite(found["uri"], name)
    if not uri:
        where.wrong(f"`uri` has no URI for the suite {name!r}", "add it")
    snapshots, _ = _of_suite(found.get("snapshots", {}), name)
    if "snapshot" in found and not snapshots:
        snapshots = uri if SNAPSHOT_ID in uri else f"{uri}/{SNAPSHOT_ID}"
    if snapshots and SNAPSHOT_ID not in snapshots:
        where.wrong(f"`snapshots` has no {SNAPSHOT_ID}", "write it where the URI has the time")
    if SNAPSHOT_ID in uri and "snapshot" not in found:
        where.wrong(f"`uri` has {SNAPSHOT_ID}, but there is no `snapshot`", "add `snapshot: 20261101T000000Z`")
    return Suite(name=name, uri=uri, written=written, snapshots=snapshots)


def _of_suite(uris: dict[str, tuple[str, str]], suite: str) -> tuple[str, str]:
    return uris.get(suite) or uris.get("") or ("", "")
