"""Fields of each type of source: the keys below `fetch:`. Pure: no I/O.

Source for keys and defaults: taskgraph 24.2 `transforms/fetch.py` (read as documentation), Gecko's
`taskcluster/kinds/fetch`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from tasks_lib.definitions.debian_fields import DEBIAN
from tasks_lib.definitions.debian_source_fields import DEBIAN_SOURCE
from tasks_lib.definitions.fields import (
    ANYTHING,
    COUNT,
    FILE_NAME,
    PREFIX,
    RELATIVE,
    REVISION,
    SHA256,
    SWITCH,
    TEXT,
    check_download_url,
    list_of,
    one_of,
    read_text,
    resolve_url,
    url_field,
)
from tasks_lib.definitions.headers import HEADERS, is_private_route
from tasks_lib.definitions.schema import Field, FieldError, FieldTable, Location, read_table, schema_of
from tasks_lib.definitions.signature_fields import SIGNATURE_FIELDS
from tasks_lib.definitions.upstream import UPSTREAM_FIELDS
from tasks_lib.definitions.values import Git, Hg, StaticUrl, file_name_of
from tasks_lib.definitions.yaml_tree import Node
from tasks_lib.digest import Integrity
from tasks_lib.formats import FORMATS, SINGLE, format_from_name
from tasks_lib.network import has_reference
from tasks_lib.relpath import RelPath
from tasks_lib.vcs import urls

_NUMBERS: Final = {
    "max-total-bytes": "maximum content bytes of the archive",
    "max-ratio": "maximum ratio decompressed : compressed, beyond free-bytes",
    "free-bytes": "decompressed bytes exempt from max-ratio",
    "max-member-bytes": "maximum content bytes of one entry",
    "max-entries": "maximum entries",
    "max-metadata-bytes": "maximum bytes of one metadata record",
    "max-path-bytes": "maximum bytes of one path",
    "max-component-bytes": "maximum bytes of one path component",
    "max-names-bytes": "maximum bytes of all paths and link targets",
    "max-depth": "maximum components of one path",
    "zstd-max-window-log": "maximum log2 of the zstd window size",
    "xz-memlimit-mib": "maximum MiB of memory for decoding xz",
}
#: Limits and strictness for one archive; the keys are the field names of `archive.Limits`.
_ARCHIVE: Final[FieldTable] = {
    **{key: COUNT.about(doc) for key, doc in _NUMBERS.items()},
    "outward-symlinks": one_of("refuse", "keep").about(
        "keep: create symlinks that point outside the archive, but never follow them"
    ),
    "case-twins": one_of("refuse", "keep").about(
        "keep: allow a symlink and a directory whose names differ only in case"
    ),
    "trailing": one_of("refuse", "ignore").about("ignore: allow bytes after the end of the archive"),
    "end": one_of("required", "missing").about("missing: allow a tar without an end-of-archive block"),
}
#: Options that shape the tree, and so are part of the recipe key; the keys are the field names of `archive.Limits`.
_CONTROL_NAMES: Final[FieldTable] = {
    "control-names": one_of("refuse", "keep").about("keep: allow control characters in names, except NUL"),
}
_SHAPE: Final[FieldTable] = {
    "duplicates": one_of("refuse", "last").about("last: if several entries have the same name, use the last one"),
    **_CONTROL_NAMES,
    "zip-backslash": one_of("refuse", "separator").about(
        "separator: read backslashes in the names of a zip as slashes"
    ),
    "zip-prefix": one_of("refuse", "ignore").about("ignore: allow bytes that belong to no member of a zip"),
}


def _archive(node: Node, where: Location) -> tuple[tuple[str, int | str], ...]:
    found = read_table(node, where, _ARCHIVE) or {}
    return tuple((key.replace("-", "_"), value) for key, value in found.items())


#: Schemes that a definition may use; the settings decide which of them a run allows.
REPOSITORY_SCHEMES: Final = ("https", "ssh", "http", "git", "file")


def _origin(node: Node, where: Location) -> str:
    """Return the URL of the origin. A Taskgraph tree may have ftp URLs, which only mirrors.yml can replace."""
    return check_download_url(read_text(node), (*_ORIGINS, "ftp") if where.root else _ORIGINS)


_ORIGINS: Final = ("https", "http", "file", "mirror")


def _type(word: str, doc: str) -> Field:
    """Return the field of the type, which was read before its table was chosen."""
    return Field(read_text, {"enum": [word]}, doc, "use one of static-url, git, hg, debian, debian-source")


_NAMED: Final = FILE_NAME.about("file name of the artifact; a .tar.zst name requests a repack")
STATIC_URL: Final[FieldTable] = {
    "type": _type("static-url", "one file at a URL"),
    "url": Field(_origin, url_field(*_ORIGINS).schema)
    .needed("add the URL where upstream publishes the file")
    .about("the origin"),
    "mirrors": Field(
        list_of(url_field("https", "http", "file", "mirror").read),
        {"type": "array", "items": url_field("https", "http", "file", "mirror").schema},
        "other URLs with the same bytes, tried in order",
    ),
    "sha256": SHA256.needed("run `sha256sum` on the file that you reviewed").about("SHA-256 digest of the download"),
    "size": COUNT.needed("run `stat -c %s` on the file that you reviewed").about("size of the download in bytes"),
    "artifact-name": _NAMED,
    "strip-components": COUNT.about("number of leading path components to remove from every entry"),
    "add-prefix": PREFIX.about("text to put before the name of every entry, usually with a trailing slash"),
    **_SHAPE,
    "format": one_of(*FORMATS).about("format of the download, instead of the one that its name declares"),
    "executable": SWITCH.about("true: make a plain or single file executable"),
    "repack": one_of("auto", "never").about("never: strip and prefix names during extraction instead of repacking"),
    "headers": HEADERS,
    **SIGNATURE_FIELDS,
    "archive": Field(_archive, schema_of(_ARCHIVE), "limits for this archive, which override the settings"),
    **UPSTREAM_FIELDS,
}


def _repository_url(node: Node, where: Location) -> str:
    url = resolve_url(read_text(node, where), where)
    try:
        return urls.check_url(url, REPOSITORY_SCHEMES)
    except ValueError as error:
        raise FieldError(str(error), "write https://host/path or ssh://user@host/path") from error


GIT: Final[FieldTable] = {
    "type": _type("git", "a commit of a git repository"),
    "repo": Field(_repository_url, TEXT.schema).needed("add the URL of the repository").about("URL of the repository"),
    "revision": REVISION.needed("add the full commit id; branches and tags can move").about("full commit id"),
    "branch": ANYTHING.about("refused, because a branch moves"),
    "path-prefix": RELATIVE.about("directory of the content in the archive"),
    "artifact-name": _NAMED,
    "include-dot-git": SWITCH.about("keep .git in the archive"),
    "ssh-key": TEXT.about("environment variable or file that contains the key"),
    "fetch-mode": TEXT.about("accepted for compatibility with Taskgraph, and ignored"),
    **_CONTROL_NAMES,
    "archive": STATIC_URL["archive"],
    **UPSTREAM_FIELDS,
}
HG: Final[FieldTable] = {
    "type": _type("hg", "a changeset of a Mercurial repository"),
    **{
        key: GIT[key]
        for key in ("repo", "revision", "branch", "path-prefix", "artifact-name", "control-names", "archive")
    },
    **UPSTREAM_FIELDS,
}
SOURCES: Final[Mapping[str, FieldTable]] = {
    "static-url": STATIC_URL,
    "git": GIT,
    "hg": HG,
    "debian": DEBIAN,
    "debian-source": DEBIAN_SOURCE,
}


def read_static_url(found: dict[str, Any], where: Location) -> StaticUrl | None:
    """Return the download that the values of `STATIC_URL` describe, or None after reporting a problem."""
    url = resolve_url(found["url"], where)
    last = file_name_of(url)
    name = found.get("artifact-name") or last
    try:
        RelPath.parse(name)
        if last != name:
            RelPath.parse(last)
    except ValueError:
        where.wrong("cannot derive a file name from the URL", "add `artifact-name:`")
        return None
    if not _check_format(found, name, where):
        return None
    ends = _archive_suffix(name)
    starts = ends if last == name else _archive_suffix(last)
    declared = _archive_suffix(f".{found['format']}") if "format" in found else starts
    if starts and ends not in ("", starts, declared, "zst"):
        where.wrong(f"cannot repack a .{starts} archive as {name!r}", "use a .tar.zst name: no other format is created")
        return None
    headers = found.get("headers", ())
    if headers and url.startswith("mirror:"):
        where.wrong("`headers` require a single origin, but a mirror group has several", "use the URL of the origin")
    if headers and has_reference(headers) and not is_private_route(url):
        where.wrong("`headers` with ${NAME} are sent over https only, or over http to loopback", "use the https URL")
    return StaticUrl(
        url=url,
        integrity=Integrity(size=found["size"], digest=found["sha256"]),
        artifact_name=name,
        mirrors=tuple([resolve_url(mirror, where) for mirror in found.get("mirrors", ())]),
        shape=_shape(found),
        headers=headers,
        # Taskgraph uses everything after the last slash, including a query, and its digest depends on it
        taskgraph_name="" if "artifact-name" in found or name == (whole := url.rpartition("/")[2]) else whole,
        **{_AS_WRITTEN[key]: value for key, value in found.items() if key in _AS_WRITTEN},
    )


#: Keys of a `static-url` that are fields of `StaticUrl` as they were read, which has their defaults.
_AS_WRITTEN: Final = {
    key: key.replace("-", "_")
    for key in (
        "strip-components", "add-prefix", "format", "executable", "repack", "gpg-signature", "minisign",
        "checksums", "archive", "update", "purl",
    )
}  # fmt: skip


def _check_format(found: dict[str, Any], name: str, where: Location) -> bool:
    """Return whether the keys about format, names and mode fit each other; report a problem if they do not."""
    kind = found.get("format") or ""
    renamed = [key for key in ("strip-components", "add-prefix") if found.get(key)]
    if kind in SINGLE and (renamed or (name.endswith(".tar.zst") and "artifact-name" in found)):
        keys = ", ".join(renamed) or "a .tar.zst artifact"
        where.wrong(
            f"`format: {kind}` is a single file, which excludes {keys}", f"use `format: {SINGLE[kind]}` for a tar"
        )
        return False
    if found.get("executable") and (kind or format_from_name(name)) not in (None, *SINGLE):
        where.wrong("`executable: true` applies to a single file, not to an archive", "remove it")
        return False
    return True


def _shape(found: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    if found.keys().isdisjoint(_SHAPE):  # most definitions
        return ()
    return tuple((key.replace("-", "_"), found[key]) for key in _SHAPE if found.get(key, "refuse") != "refuse")


def _archive_suffix(name: str) -> str:
    """Return the normalized archive suffix of a file name, such as "gz" for .tgz and .tar.gz; "" for none."""
    found = _ARCHIVE_SUFFIX.search(name.lower())
    suffix = (found[1] or found[2]) if found else ""
    return _SAME_SUFFIX.get(suffix, suffix)


_ARCHIVE_SUFFIX: Final = re.compile(r"\.(?:tar\.(gz|bz2|xz|zst)|(tgz|tbz2|txz|tzst|tar|zip))$")
_SAME_SUFFIX: Final = {"tgz": "gz", "tbz2": "bz2", "txz": "xz", "tzst": "zst"}


def read_repository(found: dict[str, Any], where: Location) -> Git | Hg | None:
    """Return the commit that the values of `GIT` or `HG` describe, or None after reporting a problem."""
    prefix, name = _commit_names(urls.strip_query(found["repo"]), found)
    if not name.endswith(".tar.zst"):
        where.wrong(
            f"invalid artifact name {name!r}", "use a .tar.zst name: a repository is always archived as .tar.zst"
        )
        return None
    places = {
        "repo": found["repo"],
        "revision": found["revision"],
        "path_prefix": prefix,
        "artifact_name": name,
        "shape": _shape(found),
        "archive": found.get("archive", ()),
        "update": found.get("update"),
        "purl": found.get("purl", ""),
    }
    if found.get("type") == "hg":
        return Hg(**places)
    dot_git = "kept" if found.get("include-dot-git") else "dropped"
    taskgraph = _commit_names(found["repo"], found)
    names = taskgraph if taskgraph != (prefix, name) else ()
    return Git(**places, dot_git=dot_git, ssh_key=found.get("ssh-key", ""), taskgraph_names=names)


def _commit_names(repo: str, found: Mapping[str, Any]) -> tuple[str, str]:
    """Return path prefix and artifact name of a commit, by default made of the last segment of `repo`."""
    prefix = str(found.get("path-prefix") or urls.repository_name(repo))
    return prefix, found.get("artifact-name") or f"{prefix.replace('/', '-')}.tar.zst"
