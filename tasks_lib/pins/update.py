"""Move a definition to another version, or measure its present URL again.

The steps, in order: choose the new URL or commit; download and measure it, as `add` does; verify the signatures that
the definition has; compare the trees; edit the lines that change. A failure of any step leaves the file as it was.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec

from tasks_lib import recipe
from tasks_lib.context import Context
from tasks_lib.definitions import Debian, DebianSource, Fetch, Git, Hg, StaticUrl
from tasks_lib.definitions.values import file_name_of
from tasks_lib.digest import Integrity
from tasks_lib.errors import EditError, FetchError
from tasks_lib.formats import Reshape
from tasks_lib.network import redacted
from tasks_lib.pins import forge
from tasks_lib.pins.add_url import GivenUrl, is_relative, parse_url
from tasks_lib.pins.commits import Target, find_commit
from tasks_lib.pins.debian_lock import update_lock
from tasks_lib.pins.edit import read_value, set_values
from tasks_lib.pins.measure import inspect, measure, refuse_page
from tasks_lib.pins.tree_diff import EntryTable, TreeDiff, compare, list_tree
from tasks_lib.pins.versions import Tag, find_version, parse_tag, replace_version, spell_like
from tasks_lib.pins.workspace import Workspace, editing, key_path, read_text, write_bytes
from tasks_lib.pins.yaml_text import KeyPath
from tasks_lib.progress import Progress, Silent
from tasks_lib.signature.gpg import read_key_file
from tasks_lib.steps.commit import commit_archive
from tasks_lib.steps.definition_types import list_read_files
from tasks_lib.steps.signatures import verify_signatures
from tasks_lib.steps.static_url import request_headers

#: Keys of `fetch:` whose text may hold the version, beside `url` and `mirrors`.
_VERSIONED: Final[tuple[KeyPath, ...]] = (
    ("artifact-name",),
    ("add-prefix",),
    ("path-prefix",),
    ("gpg-signature", "sig-url"),
    ("minisign", "sig-url"),
    ("checksums", "url"),
    ("checksums", "signed-by", "sig-url"),
)


@dataclass(frozen=True, kw_only=True)
class UpdateRequest:
    """What the command line says: another URL, a version, and "write" or "dry-run"."""

    url: str = ""
    to: str = ""
    mode: str = "write"


_NOT_COMPARED: Final = ("tree: not compared: the cache lacks the old content, or it is not an archive",)


@dataclass(kw_only=True)
class Updated:
    """What became of one definition.

    `changes` maps keys of `fetch:`, joined by dots, to the old and the new value; `tree` is None if one of the two
    versions has no tree here; `summary` are lines on how the contents differ.
    """

    name: str
    file: Path
    state: Literal["updated", "unchanged", "failed"] = "unchanged"
    before: str = ""
    after: str = ""
    where: str = ""
    reason: str = ""
    changes: dict[str, tuple[str, str]] = field(default_factory=dict)
    tree: TreeDiff | None = None
    summary: tuple[str, ...] = ()
    diff: str = ""
    notes: list[str] = field(default_factory=list)


#: What `update` moves to another version.
PinnedSource = StaticUrl | Git | Hg


class _Revised(NamedTuple):
    """A new source, and the values that its definition gets."""

    source: PinnedSource
    values: Mapping[KeyPath, str | int]


def update(workspace: Workspace, fetch: Fetch, request: UpdateRequest, newest: Target) -> Updated:
    """Move one definition, and write its file unless the mode is "dry-run".

    `newest` is the newest version, an empty target if nothing newer is known.

    Raises:
        CancelledError: the run was asked to stop.
        FetchError: the new content cannot be had or is not signed as required, or the file cannot be edited.
    """
    if isinstance(fetch.source, Debian):
        return _update_lock(workspace, fetch, fetch.source, request)
    file = Path(fetch.file)
    done = Updated(name=fetch.name, file=file, where=newest.where)
    raw = read_value(read_text(file), (*key_path(fetch), "fetch"))
    if not isinstance(raw, dict):
        raise EditError(f"{file} has no block of the definition's own", hint="edit the file by hand")
    if isinstance(fetch.source, StaticUrl):
        revised = _revise_file(workspace, fetch, fetch.source, raw, request, newest, done)
    elif isinstance(fetch.source, DebianSource):
        raise EditError(
            "the definition is a source package, which `doit update` does not move",
            hint="add the other version with `doit add URL.dsc`, or edit url, sha256 and size",
        )
    else:
        revised = _revise_commit(workspace, fetch.source, request, newest, done)
    done.changes = {
        ".".join(path): (str(old), str(new))
        for path, new in revised.values.items()
        if (old := _value_at(raw, path)) is not None and str(old) != str(new)
    }
    if done.changes:
        done.state = "updated"
        done.tree = _compare(workspace, fetch.source, revised.source)
        done.summary = tuple(done.tree.lines()) if done.tree is not None else _NOT_COMPARED
        values = {path: value for path, value in revised.values.items() if ".".join(path) in done.changes}
        _write(workspace, fetch, request, values, done)
    return done


def _update_lock(workspace: Workspace, fetch: Fetch, source: Debian, request: UpdateRequest) -> Updated:
    """Resolve Debian packages again, and write their lock."""
    if request.url or request.to:
        raise EditError(
            "a definition of Debian packages has neither a URL nor a version of its own",
            hint="to resolve the packages at another time, set `snapshot:` and run: doit update NAME",
        )
    with editing(workspace):
        found = update_lock(workspace, fetch, source, request.mode)
    done = Updated(name=fetch.name, file=Path(source.lock_file), where=source.suites[0].uri)
    done.before, done.after = found.dates()
    if found.is_changed:
        done.state, done.changes, done.diff = "updated", found.changes(), found.diff(done.file)
        done.summary = tuple(found.summary())
    return done


def _value_at(raw: Any, path: KeyPath) -> Any:
    """Return the value at a path of keys and positions, None if there is none."""
    for key in path:
        if isinstance(raw, dict):
            raw = raw.get(key)
        else:
            raw = raw[int(key)] if isinstance(raw, list) and key.isdecimal() and int(key) < len(raw) else None
    return raw


def _write(
    workspace: Workspace, fetch: Fetch, request: UpdateRequest, values: Mapping[KeyPath, str | int], done: Updated
) -> None:
    """Edit the file; keep the difference."""
    with editing(workspace):
        before = read_text(done.file)
        own = (*key_path(fetch), "fetch")
        tags = {(*own, "revision"): done.after} if done.after and not isinstance(fetch.source, StaticUrl) else {}
        after = set_values(before, {(*own, *path): value for path, value in values.items()}, tags)
        lines = difflib.unified_diff(
            before.splitlines(keepends=True), after.splitlines(keepends=True), f"a/{done.file}", f"b/{done.file}"
        )
        done.diff = "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)
        if request.mode == "write":
            write_bytes(done.file, after.encode())


# --- files ------------------------------------------------------------------------------------


def _revise_file(
    workspace: Workspace,
    fetch: Fetch,
    source: StaticUrl,
    raw: Mapping[str, Any],
    request: UpdateRequest,
    newest: Target,
    done: Updated,
) -> _Revised:
    """Return the new source of a file, downloaded, measured and verified, and its values."""
    written = str(raw.get("url", source.url))
    old = find_version(written)
    given = _choose_url(written, old, request, newest)
    new = find_version(given.url)
    done.before, done.after = old, new

    def renew(text: str) -> str:
        return replace_version(text, old, new) if old and new else text

    values: dict[KeyPath, str | int] = {("url",): given.url}
    for path in _list_versioned(raw):
        values[path] = renew(str(_value_at(raw, path)))
    moved = _move(workspace, fetch, source, given.url, renew)
    integrity = _measure(workspace, fetch.name, moved, given)
    revised = msgspec.structs.replace(moved, integrity=integrity)
    values |= {("sha256",): integrity.digest.hex, ("size",): integrity.size}
    shape = inspect(workspace.context, integrity, revised.url, workspace.progress)
    if shape.fault:
        done.notes.append(f"it cannot be extracted: {shape.fault}")
    if revised.vouchers:
        keys = {path: Integrity.of(read_key_file(path, "key-path")).digest for path in list_read_files(revised)}
        verdict = recipe.verdict_key(revised, keys)
        verify_signatures(workspace.context, fetch.name, revised, verdict, workspace.progress)
    return _Revised(revised, values)


def _choose_url(written: str, old: str, request: UpdateRequest, newest: Target) -> GivenUrl:
    """Return the new URL: the given one, that of the given version, that of the newest one, or the present one.

    Raises:
        EditError: the given URL cannot be used, or the present one has no version to replace.
    """
    if request.url:
        return parse_url(request.url)
    version = newest.version
    if request.to:
        tag = parse_tag(request.to) or Tag("", request.to)
        version = spell_like(tag.version, old)
    if not version:
        return GivenUrl(written, "file")
    if not old:
        raise EditError(f"the version in {redacted(written)} is not known", hint="give the new URL with --url")
    return GivenUrl(replace_version(written, old, version), "file")


def _list_versioned(raw: Mapping[str, Any]) -> Iterator[KeyPath]:
    """Yield the paths of the values that may hold the version."""
    mirrors = raw.get("mirrors")
    yield from (("mirrors", str(index)) for index in range(len(mirrors) if isinstance(mirrors, list) else 0))
    yield from (path for path in _VERSIONED if isinstance(_value_at(raw, path), str))


def _move(workspace: Workspace, fetch: Fetch, source: StaticUrl, url: str, renew: Callable[[str], str]) -> StaticUrl:
    """Return the source at another URL, with the old integrity."""
    is_default = source.artifact_name == source.file_name
    gpg, minisign, sums = source.gpg_signature, source.minisign, source.checksums
    signer = sums.signed_by if sums is not None else None
    moved = msgspec.structs.replace(
        source,
        url=renew(source.url) if is_relative(url) else url,
        mirrors=tuple(map(renew, source.mirrors)),
        artifact_name=file_name_of(url) if is_default else renew(source.artifact_name),
        add_prefix=renew(source.add_prefix),
        gpg_signature=msgspec.structs.replace(gpg, sig_url=renew(gpg.sig_url)) if gpg is not None else None,
        minisign=msgspec.structs.replace(minisign, sig_url=renew(minisign.sig_url)) if minisign is not None else None,
        checksums=msgspec.structs.replace(
            sums, url=renew(sums.url), signed_by=msgspec.structs.replace(signer, sig_url=renew(signer.sig_url))
        )
        if sums is not None and signer is not None
        else None,
        rewritten=(),
    )
    if not source.rewritten:
        return moved
    return msgspec.structs.replace(moved, rewritten=workspace.mirrors.places(fetch, moved))


def _measure(workspace: Workspace, name: str, source: StaticUrl, given: GivenUrl) -> Integrity:
    """Download the content of a source, and return its integrity.

    Raises:
        EditError: mirrors.yml blocks every URL, or the content is a web page.
        FetchError: as `measure`.
    """
    context, progress = workspace.context, workspace.progress
    urls = source.locations
    if not urls:
        raise EditError("mirrors.yml blocks every URL of the definition", hint="allow the host there")
    promised = forge.read_digest(context, source.url, progress)
    same = urls[0] == source.url
    measured = measure(
        context,
        file_name_of(source.url),  # messages begin with the name of the definition
        urls,
        progress,
        written=source.url,
        headers=request_headers(context, name, source) if same else {},
        expected=(*given.expected, *([promised] if promised is not None else [])),
    )
    refuse_page(context, measured.integrity, source.url)
    return measured.integrity


# --- commits ----------------------------------------------------------------------------------


def _revise_commit(
    workspace: Workspace,
    source: Git | Hg,
    request: UpdateRequest,
    newest: Target,
    done: Updated,
) -> _Revised:
    """Return the new commit, fetched, and its values."""
    repo, revision = source.repo, source.revision
    tag = request.to
    if request.url:
        given = parse_url(request.url)
        repo, tag = given.url, given.tag or tag
    if tag:
        found = find_commit(workspace, source, repo, tag)
        revision, done.after = found.commit, found.tag if found.tag != found.commit else ""
    elif newest.commit and not request.url:
        revision, done.after = newest.commit, newest.tag or newest.version
    revised = msgspec.structs.replace(source, repo=repo, revision=revision)
    commit_archive(workspace.context, revised, workspace.progress)
    values: dict[KeyPath, str | int] = {("revision",): revision}
    if repo != source.repo:
        values["repo",] = repo
    return _Revised(revised, values)


# --- trees ------------------------------------------------------------------------------------


def _compare(workspace: Workspace, before: PinnedSource, after: PinnedSource) -> TreeDiff | None:
    """Return how the trees differ, None if one of them is not here."""
    old, new = (_tree(workspace.context, one, workspace.progress) for one in (before, after))
    return compare(old, new) if old is not None and new is not None else None


def _tree(context: Context, source: PinnedSource, progress: Progress) -> EntryTable | None:
    if isinstance(source, StaticUrl):
        return list_tree(
            context,
            source.integrity,
            source.file_name,
            progress,
            format=source.format,
            reshape=Reshape(strip=source.strip_components, prefix=source.add_prefix),
            limits=context.limits((*source.archive, *source.shape)),
        )
    try:
        integrity = commit_archive(context, source, Silent())
    except FetchError:  # the old commit may be gone
        return None
    return list_tree(context, integrity, source.artifact_name, progress)
