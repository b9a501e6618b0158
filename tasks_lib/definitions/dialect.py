"""Text -> definitions: the dialect of Taskgraph's fetch and toolchain kinds, with mirrors and file URLs.

Every problem of every file is found in one go. A key or a type that is not known is refused by name.
Pure: no I/O. Source for keys and defaults: taskgraph 24.2 `transforms/fetch.py` and `transforms/run`
(read as documentation), Gecko's `taskcluster/kinds/{fetch,toolchain}`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from tasks_lib import repository_url
from tasks_lib.definitions.fields import (
    ANYTHING,
    COUNT,
    FILE_NAME,
    HEADERS,
    NAME_FIELD,
    NAMES,
    PAIRS,
    PREFIX,
    RELATIVE,
    REVISION,
    SHA256,
    SWITCH,
    TEXT,
    TEXTS,
    Field,
    FieldError,
    Table,
    Where,
    list_of,
    name_of,
    nearest,
    one_of,
    read_table,
    resolved,
    schema_of,
    text_of,
    url_field,
)
from tasks_lib.definitions.values import (
    FetchesEntry,
    FileReference,
    Git,
    Hg,
    Run,
    StaticUrl,
    file_name_of,
)
from tasks_lib.definitions.vouchers import VOUCHERS
from tasks_lib.definitions.yaml_tree import Node, Scalar, Sequence, Tree
from tasks_lib.digest import Integrity
from tasks_lib.relpath import RelPath

#: Keys of a task that mean something to Taskcluster and nothing here.
#: Source: taskgraph task, run and toolchain schemas.
IGNORED: Final = (
    r"^(treeherder|docker-image|expires-after|worker|worker-.*|run-on-.*|run-task.*|scopes|routes|extra|index|priority|tier)$",
    r"^(label|dependencies|soft-dependencies|if-dependencies|optimization|when|shipping-.*|always-target|tags)$",
    r"^(attributes|task-from|use-.*|needs-sccache|deadline-after|from-deps|requires|copy-attributes|retries)$",
    r"^(python-version|local-.*|require-signing|secrets|platform|job-symbol|trigger-.*|stable-.*)$",
)
_RUN_IGNORED: Final = (
    r"^(using|sparse-profile|toolchain-env|toolchain-extract|tooltool.*|cwd|checkout.*|cache.*|run-as-root|use-.*|job-script|exec-with|workdir|platform|target-.*|digest-data)$",
)
#: Keys of `kind.yml` beside the tasks. Source: taskgraph `kind` schema.
KIND_IGNORED: Final = (
    r"^(loader|transforms|kind-dependencies|kind-.*|not-for-locales|only-for-.*|defaults|attributes|.*-defaults|.*-from)$",
)

_REFUSED_TYPES: Final = {
    "chromium-fetch": "it runs a script of Mozilla's and asks for 'latest': not reproducible",
    "cft-chromedriver-fetch": "it runs a script of Mozilla's and asks for 'latest': not reproducible",
    "onnxruntime-deps-fetch": "it runs a shell script of Mozilla's",
    "crx3-url": "it runs a script of Mozilla's that rewrites the extension",
    "fetch-url": "it is the form of 2018, before types",
}

_NUMBERS: Final = (
    "max-total-bytes", "max-ratio", "free-bytes", "max-member-bytes", "max-entries", "max-metadata-bytes",
    "max-path-bytes", "max-component-bytes", "max-depth", "zstd-max-window-log", "xz-memlimit-mib",
)  # fmt: skip
#: What one archive may cost, and how strictly it is read: the names of `Limits`, which `archive` owns.
_ARCHIVE: Final[Table] = {
    **dict.fromkeys(_NUMBERS, COUNT),
    "outward-symlinks": one_of("refuse", "keep").about("keep: symlinks that lead outside are made, never followed"),
    "case-twins": one_of("refuse", "keep").about("keep: a symlink may differ from a directory in case only"),
}


def _archive(node: Node, where: Where) -> tuple[tuple[str, int | str], ...]:
    found = read_table(node, where, _ARCHIVE) or {}
    return tuple((key.replace("-", "_"), value) for key, value in found.items())


#: What a definition may name; the settings say which of these a run uses.
REPOSITORY_SCHEMES: Final = ("https", "ssh", "http", "git", "file")

_NAMED: Final = FILE_NAME.about("file name of the artifact; a .tar.zst name asks for a repack")
_STATIC_URL: Final[Table] = {
    "type": TEXT,
    "url": url_field("https", "http", "file", "mirror")
    .needed("where upstream publishes the bytes")
    .about("the origin"),
    "mirrors": Field(
        list_of(url_field("https", "http", "file", "mirror").read),
        {"type": "array", "items": url_field("https", "http", "file", "mirror").schema},
        "more URLs with the same bytes, tried in order",
    ),
    "sha256": SHA256.needed("run `sha256sum` on the file that you reviewed").about("of the downloaded bytes"),
    "size": COUNT.needed("run `stat -c %s` on the file that you reviewed").about("bytes of the download"),
    "artifact-name": _NAMED,
    "strip-components": COUNT.about("leading path components to drop from every entry"),
    "add-prefix": PREFIX.about("text put before every entry's name, usually ending in a slash"),
    "duplicates": one_of("refuse", "last").about("last: of entries with one name the last one counts"),
    "headers": HEADERS.about("request headers, sent to the origin only"),
    **VOUCHERS,
    "archive": Field(_archive, schema_of(_ARCHIVE), "limits of this archive, over those of the settings"),
}


def _repository_url(node: Node, where: Where) -> str:
    url = resolved(text_of(node, where), where)
    try:
        return repository_url.checked(url, REPOSITORY_SCHEMES)
    except ValueError as error:
        raise FieldError(str(error), "write https://host/path or ssh://user@host/path") from error


_GIT: Final[Table] = {
    "type": TEXT,
    "repo": Field(_repository_url, TEXT.schema).needed("URL of the repository").about("URL of the repository"),
    "revision": REVISION.needed("full commit id: a branch or tag moves").about("full commit id"),
    "branch": ANYTHING.about("refused: a branch moves"),
    "path-prefix": RELATIVE.about("directory of the content in the archive"),
    "artifact-name": _NAMED,
    "include-dot-git": SWITCH.about("keep .git in the archive"),
    "ssh-key": TEXT.about("names the key: an environment variable or a file"),
    "fetch-mode": TEXT.about("accepted for Taskgraph and ignored"),
    "archive": _STATIC_URL["archive"],
}
_HG: Final[Table] = {
    key: _GIT[key] for key in ("type", "repo", "revision", "branch", "path-prefix", "artifact-name", "archive")
}
_SOURCES: Final[Mapping[str, Table]] = {"static-url": _STATIC_URL, "git": _GIT, "hg": _HG}


def _static_url(found: dict[str, Any], where: Where) -> StaticUrl | None:
    url = resolved(found["url"], where)
    # Taskgraph takes what follows the last slash, a query included, and its digest depends on it
    name = found.get("artifact-name") or url.rpartition("/")[2]
    try:
        RelPath.parse(name)
        RelPath.parse(file_name_of(url))
    except ValueError:
        where.wrong("no file name can be taken from the URL", "add `artifact-name:`")
        return None
    strip, prefix = found.get("strip-components", 0), found.get("add-prefix", "")
    duplicates = found.get("duplicates", "refuse")
    if (strip or prefix or duplicates == "last") and not name.endswith(".tar.zst"):
        where.wrong(
            f"strip-components, add-prefix and duplicates make a .tar.zst, but the artifact is called {name!r}",
            "add `artifact-name: NAME.tar.zst`",
        )
        return None
    ends, starts = _archive_suffix(name), _archive_suffix(file_name_of(url))
    if starts and ends not in ("", starts, "zst"):
        where.wrong(f"a .{starts} archive cannot become {name!r}", "only .tar.zst archives are made: name it so")
        return None
    if found.get("headers") and url.startswith("mirror:"):
        where.wrong("`headers` go to one origin, and a mirror group has many", "write the URL of that origin")
    return StaticUrl(
        url=url,
        integrity=Integrity(size=found["size"], digest=found["sha256"]),
        artifact_name=name,
        mirrors=tuple(resolved(mirror, where) for mirror in found.get("mirrors", ())),
        strip_components=strip,
        add_prefix=prefix,
        duplicates=duplicates,
        headers=found.get("headers", ()),
        gpg_signature=found.get("gpg-signature"),
        minisign=found.get("minisign"),
        checksums=found.get("checksums"),
        archive=found.get("archive", ()),
    )


def _archive_suffix(name: str) -> str:
    """Return which archive a file name says it is, in one word of each kind; "" for none."""
    same = {"tgz": "gz", "tbz2": "bz2", "txz": "xz", "tzst": "zst"}
    found = re.search(r"\.(?:tar\.(gz|bz2|xz|zst)|(tgz|tbz2|txz|tzst|tar|zip))$", name.lower())
    suffix = (found[1] or found[2]) if found else ""
    return same.get(suffix, suffix)


def _repository(found: dict[str, Any], where: Where) -> Git | Hg | None:
    prefix = str(found.get("path-prefix") or repository_url.name_of(found["repo"]))
    name = found.get("artifact-name") or f"{prefix.replace('/', '-')}.tar.zst"
    if not name.endswith(".tar.zst"):
        where.wrong(f"the artifact {name!r} is no .tar.zst", "only .tar.zst archives are made of a repository")
        return None
    places = {
        "repo": found["repo"],
        "revision": found["revision"],
        "path_prefix": prefix,
        "artifact_name": name,
        "archive": found.get("archive", ()),
    }
    if found.get("type") == "hg":
        return Hg(**places)
    dot_git = "kept" if found.get("include-dot-git") else "dropped"
    return Git(**places, dot_git=dot_git, ssh_key=found.get("ssh-key", ""))


def _source(node: Node, where: Where) -> StaticUrl | Git | Hg | None:
    kind = node.items.get("type") if isinstance(node, Tree) else None
    if not isinstance(kind, Scalar) or not isinstance(node, Tree):
        raise FieldError("has no `type:`", f"one of {', '.join(_SOURCES)}")
    table = _SOURCES.get(kind.text)
    if table is None:
        place, reason = where.at("type", kind.line), f"the type {kind.text!r} is not supported"
        if kind.text in _REFUSED_TYPES:
            place.refuse(f"{reason}: {_REFUSED_TYPES[kind.text]}", "use static-url")
        else:
            place.wrong(reason, nearest(kind.text, _SOURCES))
        return None
    if table is not _STATIC_URL and "branch" in node.items:
        place = where.at("branch", node.lines["branch"])
        place.refuse("a branch moves, so the content would change under the same definition", "pin `revision:`")
        return None
    found = read_table(node, where, table)
    if found is None:
        return None
    return _static_url(found, where) if kind.text == "static-url" else _repository(found, where)


FETCH: Final[Table] = {
    "name": NAME_FIELD,
    "description": TEXT.needed("say in one line what it is"),
    "fetch": Field(
        _source, {"oneOf": [schema_of(_STATIC_URL), schema_of(_GIT), schema_of(_HG)]}, "what to obtain"
    ).needed("say what to obtain: type, url, sha256, size"),
    "fetch-alias": NAME_FIELD.about("another name, which toolchains may use"),
    "artifact-prefix": RELATIVE.about("directory of the artifact on Taskcluster"),
    "attributes": ANYTHING,
}

_ENTRY: Final[Table] = {
    "artifact": NAME_FIELD.needed("name of the fetch or toolchain"),
    "dest": RELATIVE.about("directory below the fetches directory"),
    "extract": SWITCH.about("false: place the artifact as it is"),
    "verify-hash": SWITCH.about("accepted for Taskgraph; every artifact is verified here"),
}
_ENTRIES_SCHEMA: Final[dict[str, Any]] = {
    "type": "array",
    "items": {"oneOf": [NAME_FIELD.schema, schema_of(_ENTRY)]},
}


def _entry(kind: str, node: Node, where: Where) -> FetchesEntry | None:
    if isinstance(node, Scalar):
        return FetchesEntry(kind=kind, name=name_of(node), line=node.line)
    found = read_table(node, where, _ENTRY)
    if found is None:
        return None
    delivery = "extract" if found.get("extract", True) else "place"
    return FetchesEntry(kind=kind, name=found["artifact"], dest=found.get("dest"), delivery=delivery, line=node.line)


def _fetches(node: Node, where: Where) -> tuple[FetchesEntry, ...]:
    if not isinstance(node, Tree):
        raise FieldError("must map `fetch:` and `toolchain:` to lists", line=node.line)
    entries: list[FetchesEntry] = []
    for kind, items in node.items.items():
        place = where.at(kind, node.lines[kind])
        if kind not in ("fetch", "toolchain"):
            place.wrong(f"fetches of the kind {kind!r} are not supported", "use fetch or toolchain")
        elif not isinstance(items, Sequence):
            place.wrong("must be a list", "write `- name` lines", items.line)
        else:
            entries += [entry for item in items.items if (entry := _noted_entry(kind, item, place))]
    return tuple(entries)


def _noted_entry(kind: str, node: Node, where: Where) -> FetchesEntry | None:
    try:
        return _entry(kind, node, where)
    except FieldError as wrong:
        where.wrong(wrong.reason, wrong.hint, wrong.line or node.line)
        return None


def _aliases(node: Node, where: Where) -> tuple[str, ...]:
    if isinstance(node, Tree):  # Gecko's `by-project:`; which project this is cannot be known here
        return ()
    aliases: tuple[str, ...] = NAMES.read(node, where)
    return aliases


def _command(node: Node, where: Where) -> tuple[str, ...]:
    """Return the words to execute; a text is a line for the shell."""
    return ("/bin/sh", "-c", text_of(node)) if isinstance(node, Scalar) else TEXTS.read(node, where)


_RUN: Final[Table] = {
    "command": Field(_command, {"oneOf": [TEXT.schema, TEXTS.schema]}, "words to execute, or one line for the shell"),
    "script": TEXT.about("file to execute, relative to the YAML file"),
    "arguments": TEXTS.about("of the script"),
    "resources": TEXTS.about("files that the script reads, relative to the YAML file; part of its identity"),
    "toolchain-artifact": RELATIVE.about("what it leaves in $UPLOAD_DIR"),
    "toolchain-alias": Field(_aliases, {}, "more names of the toolchain"),
    "env": PAIRS.about("environment of the command; part of its identity"),
}


def _run(node: Node, where: Where) -> tuple[Run | None, tuple[str, ...]]:
    found = read_table(node, where, _RUN, matcher(_RUN_IGNORED))
    if found is None:
        return None, ()
    aliases = found.get("toolchain-alias", ())
    if "command" in found and "script" in found:
        where.wrong("has both `command` and `script`", "keep one")
    if "command" not in found and "script" not in found:
        if "toolchain-artifact" in found:
            where.wrong("names a toolchain-artifact, but nothing makes it", "add `command:` or `script:`")
        return None, aliases
    artifact = found.get("toolchain-artifact")
    run = Run(
        command=found.get("command", ()),
        script=_script(found["script"], where) if "script" in found else None,
        arguments=found.get("arguments", ()),
        resources=tuple(_resource(text, where) for text in found.get("resources", ())),
        env=found.get("env", ()),
        toolchain_artifact=_left(artifact, where) if artifact else None,
    )
    return run, aliases


def _script(text: str, where: Where) -> FileReference:
    base = where.scripts or posixpath.dirname(where.file)
    return FileReference(text=text, path=posixpath.normpath(posixpath.join(base, text)))


def _resource(text: str, where: Where) -> FileReference:
    base = where.root or posixpath.dirname(where.file)
    return FileReference(text=text, path=posixpath.normpath(posixpath.join(base, text)))


def _left(artifact: RelPath, where: Where) -> RelPath:
    """Return where a command leaves its artifact, below $UPLOAD_DIR.

    Source: Taskgraph publishes $UPLOAD_DIR under the directory of `toolchain-artifact`.
    """
    return RelPath(artifact.components[-1] if where.root else str(artifact).removeprefix("public/build/"))


TOOLCHAIN: Final[Table] = {
    "name": NAME_FIELD,
    "description": TEXT.needed("say in one line what it is"),
    "fetches": Field(
        _fetches,
        {
            "type": "object",
            "properties": {"fetch": _ENTRIES_SCHEMA, "toolchain": _ENTRIES_SCHEMA},
            "additionalProperties": False,
        },
        "artifacts placed in its fetches directory",
    ),
    "run": Field(_run, schema_of(_RUN, _RUN_IGNORED), "what it executes there"),
    "attributes": ANYTHING,
}


def matcher(patterns: Iterable[str]) -> Any:
    """Return a check whether a key matches one of the patterns."""
    compiled = re.compile("|".join(patterns))
    return lambda key: compiled.match(key) is not None


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of one definition file of either kind."""
    kinds = {"fetch": schema_of(FETCH, IGNORED), "toolchain": schema_of(TOOLCHAIN, IGNORED)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "doit-fetch definitions: names of fetches (fetch/*.yml) or of toolchains (toolchain/*.yml)",
        "type": "object",
        "properties": {"task-defaults": {"type": "object"}, "job-defaults": {"type": "object"}},
        "additionalProperties": {"anyOf": [{"$ref": f"#/$defs/{kind}"} for kind in kinds]},
        "$defs": kinds,
    }
