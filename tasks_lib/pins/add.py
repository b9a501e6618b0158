"""Add a definition: download, measure, look for evidence, then write it.

The steps, in order, each with the module that does it:

1. Check the URL (`add_url`), and whether it is defined already (`workspace`).
2. Ask the forge for the digest of a release's asset (`forge`).
3. Download once into the cache, and look into the content (`measure`).
4. Propose a name, what to strip, mirrors (`naming`, `mirror_groups`).
5. Look for signatures and lists beside the file, and verify them (`siblings`, `keys`).
6. Edit the text of the files (`edit`); write them when everything has succeeded (`workspace`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tasks_lib.definitions import Fetch, Git, StaticUrl
from tasks_lib.definitions.fields import check_name
from tasks_lib.definitions.schema import FieldError
from tasks_lib.definitions.values import file_name_of
from tasks_lib.digest import Integrity
from tasks_lib.errors import EditError, IntegrityError, escape_text
from tasks_lib.formats import format_from_name
from tasks_lib.network import redacted
from tasks_lib.pins import forge
from tasks_lib.pins.add_url import GivenUrl, parse_url
from tasks_lib.pins.commits import resolve_tag
from tasks_lib.pins.edit import add_to_list, insert_definition
from tasks_lib.pins.evidence import API_DIGEST, CACHED, FIRST_USE, LISTED, Evidence, rank
from tasks_lib.pins.keys import PublicKey, load_keys
from tasks_lib.pins.measure import Measured, Shape, inspect, measure, refuse_page
from tasks_lib.pins.mirror_groups import propose_group
from tasks_lib.pins.naming import file_name, has_ending, propose_name, propose_repository_name
from tasks_lib.pins.siblings import Locations, look_for_siblings
from tasks_lib.pins.workspace import Workspace, editing, key_path, keys_above, read_text, write_bytes
from tasks_lib.pins.yaml_style import Value
from tasks_lib.steps.commit import commit_archive
from tasks_lib.vcs.urls import display_url

_DODO: Final = "from doit_fetch import DOIT_CONFIG, task_fetchdefs\n"


@dataclass(frozen=True, kw_only=True)
class AddRequest:
    """What to add: a URL, and what the command line says about it.

    `strip` is "auto" or a number; `toolchain` is the name of one that gets the artifact, "" for none; `mode` is "write"
    or "dry-run".
    """

    url: str
    name: str = ""
    file: Path | None = None
    strip: str = "auto"
    prefix: str = ""
    key: Path | None = None
    toolchain: str = ""
    mode: str = "write"


@dataclass(kw_only=True)
class Added:
    """A definition as it is written: `content` is {} if the URL was defined already.

    `files` maps each file that changes to its new content.
    """

    name: str
    file: Path
    content: Mapping[str, Value]
    evidence: list[Evidence] = field(default_factory=list)
    integrity: Integrity | None = None
    notes: list[str] = field(default_factory=list)
    files: dict[Path, bytes] = field(default_factory=dict)


def add(workspace: Workspace, request: AddRequest) -> Added:
    """Add a definition, and write it unless the mode is "dry-run".

    Raises:
        EditError: the URL, the name or a file cannot be used.
        IntegrityError, SignatureError: the content is not what the evidence says; nothing is written.
        FetchError: it cannot be downloaded.
    """
    given = parse_url(request.url)
    known = workspace.find_url(given.url) if given.kind == "file" else _find_commit(workspace, given.url, given.tag)
    if known is not None and not request.name:
        _require_promised(known, given)
        added = Added(name=known.name, file=Path(known.file), content={})
        added.notes.append(f"{redacted(given.url)} is already defined as {known.name} ({known.file}:{known.line})")
    else:
        _check_given_name(workspace, request.name)
        added = _add_file(workspace, request, given) if given.kind == "file" else _add_commit(workspace, request, given)
    with editing(workspace):
        _edit(workspace, request, added)
        if request.mode == "write":
            for path, content in added.files.items():
                write_bytes(path, content)
    return added


def _require_promised(known: Fetch, given: GivenUrl) -> None:
    """Check that a definition has the digest that the fragment of its URL promises.

    Raises:
        IntegrityError: it has another one.
    """
    for one in given.expected:
        if isinstance(known.source, StaticUrl) and known.source.integrity.digest != one.digest:
            raise IntegrityError(
                f"{one.by} has {one.digest}, {known.name} has {known.source.integrity.digest}",
                hint=f"find out which of them is wrong, then: doit update {known.name}",
            )


def _check_given_name(workspace: Workspace, name: str) -> None:
    """Check a name before anything is downloaded.

    Raises:
        EditError: it is invalid, or taken.
    """
    if not name:
        return
    try:
        check_name(name)
    except FieldError as error:
        raise EditError(error.reason, hint=error.hint) from error
    _require_free(workspace, name)


def _require_free(workspace: Workspace, name: str) -> None:
    known = workspace.definitions.fetches.get(name)
    if known is not None:
        raise EditError(
            f"the name {name} is taken ({known.file}:{known.line})",
            hint=f"choose another one with --name, or move it to another version: doit update {name}",
        )


# --- files ------------------------------------------------------------------------------------


def _add_file(workspace: Workspace, request: AddRequest, given: GivenUrl) -> Added:
    """Return the definition of a file, after downloading and verifying it."""
    context, progress, url = workspace.context, workspace.progress, given.url
    keys = load_keys(workspace.keys, request.key)
    urls = _locations(workspace, url)
    asset = forge.find_asset(url, context.settings.github_api)
    promised = forge.read_digest(context, asset, progress) if asset is not None else None
    expected = (*given.expected, *([promised] if promised is not None else []))
    label = request.name or file_name(url) or redacted(url)
    measured = measure(context, label, urls, progress, written=url, headers={}, expected=expected)
    refuse_page(context, measured.integrity, url)
    shape = inspect(context, measured.integrity, url, progress)
    name = request.name or propose_name(url, shape.top)
    if not name:
        raise EditError(f"{redacted(url)} shows no name", hint="choose one with --name")
    _require_free(workspace, name)
    siblings = look_for_siblings(context, url, {}, progress)
    found = list(siblings.verify(measured.integrity, keys, Locations(url, urls[0])))
    evidence = [*found, *_other_evidence(given, promised, measured)]
    fields = _file_fields(workspace, request, url, name, measured.integrity, shape)
    for one in evidence:
        fields |= {key: value for key, value in one.fields.items() if key not in fields}
    added = Added(
        name=name,
        file=workspace.choose_file(request.file),
        content={"description": name, "fetch": fields},
        evidence=rank(evidence),
        integrity=measured.integrity,
    )
    added.notes += _file_notes(workspace, measured.integrity, shape, added)
    if request.key is not None and (key := _used_key(keys[0], added)) is not None:
        added.files[key.path] = key.content
    return added


def _locations(workspace: Workspace, url: str) -> tuple[str, ...]:
    """Return the URLs to ask for a URL.

    Raises:
        EditError: mirrors.yml blocks all of them.
    """
    places = workspace.mirrors.locations(url)
    allowed = tuple(place.url for place in places if not place.refused)
    if not allowed:
        raise EditError(
            f"{redacted(url)}: {places[0].refused}", hint="allow the host in mirrors.yml, or use another URL"
        )
    return allowed


def _other_evidence(given: GivenUrl, promised: object, measured: Measured) -> list[Evidence]:
    """Return the evidence that is not beside the file."""
    found = [Evidence(LISTED, one.by) for one in given.expected]
    if promised is not None:
        found.append(Evidence(API_DIGEST, "digest of the asset in the release"))
    if measured.known:
        found.append(Evidence(CACHED, f"the same bytes came from {measured.known}"))
    return found


def _file_fields(
    workspace: Workspace, request: AddRequest, url: str, name: str, integrity: Integrity, shape: Shape
) -> dict[str, Value]:
    """Return the keys of `fetch:` for a file, without those of signatures."""
    strip = int(bool(shape.top)) if request.strip == "auto" else int(request.strip)
    fields: dict[str, Value] = {"type": "static-url", "url": url}
    group = propose_group(url, workspace.mirrors)
    if group is not None:
        fields["mirrors"] = [group.url]
    fields |= {"sha256": integrity.digest.hex, "size": integrity.size}
    if (strip or request.prefix) and not shape.kind:
        raise EditError(f"{redacted(url)} is not an archive", hint="leave --strip and --prefix out")
    if strip or request.prefix:
        fields["artifact-name"] = f"{name}.tar.zst"
    elif shape.kind and not has_ending(file_name_of(url)) and format_from_name(file_name_of(url)) is None:
        fields["artifact-name"] = f"{name}.{shape.kind}"  # the name in the URL does not say that it is an archive
    if strip:
        fields["strip-components"] = strip
    if request.prefix:
        fields["add-prefix"] = request.prefix
    if shape.format:
        fields["format"] = shape.format
    return fields


def _file_notes(workspace: Workspace, integrity: Integrity, shape: Shape, added: Added) -> list[str]:
    notes = [f"{one.name} has the same content ({one.file}:{one.line})" for one in workspace.find_content(integrity)]
    if shape.fault:
        notes.append(f"it cannot be extracted: {shape.fault}")
    if added.evidence[0].kind == FIRST_USE:
        notes.append("compare the digest with an announcement of the project, if there is one")
    return notes


def _used_key(key: PublicKey, added: Added) -> PublicKey | None:
    """Return the given key if it verified something and is not in the directory of keys yet."""
    used = str(added.content.get("fetch", ""))
    is_used = (key.minisign or key.key_path) in used
    if not is_used:
        added.notes.append("no signature by the key that --key names was found")
    return key if is_used and not key.path.exists() else None


# --- commits ----------------------------------------------------------------------------------


def _find_commit(workspace: Workspace, url: str, tag: str) -> Fetch | None:
    """Return the definition of this commit of a repository."""
    for fetch in workspace.definitions.fetches.values():
        if isinstance(fetch.source, Git) and (fetch.source.repo, fetch.source.revision) == (url, tag):
            return fetch
    return None


def _add_commit(workspace: Workspace, request: AddRequest, given: GivenUrl) -> Added:
    """Return the definition of a commit, after fetching it."""
    commit = resolve_tag(workspace, given)
    known = _find_commit(workspace, given.url, commit.revision)
    if known is not None and not request.name:
        added = Added(name=known.name, file=Path(known.file), content={})
        added.notes.append(f"{commit.revision} is already defined as {known.name} ({known.file}:{known.line})")
        return added
    name = request.name or propose_repository_name(given.url, commit.tag or commit.revision[:12])
    _require_free(workspace, name)
    fields: dict[str, Value] = {"type": "git", "repo": given.url, "revision": commit.revision}
    if request.prefix:
        fields["path-prefix"] = request.prefix.rstrip("/")
    file = workspace.choose_file(request.file)
    content: dict[str, Value] = {"description": name, "fetch": fields}
    source = workspace.read_block(name, content, file).source
    assert isinstance(source, Git), "the block has this type"
    commit_archive(workspace.context, source, workspace.progress)
    what = f"tag {commit.tag}" if commit.tag else "commit"
    detail = f"{what} of {display_url(given.url)}"
    return Added(name=name, file=file, content=content, evidence=[Evidence(FIRST_USE, detail)])


# --- writing ----------------------------------------------------------------------------------


def _edit(workspace: Workspace, request: AddRequest, added: Added) -> None:
    """Compute the new content of every file.

    Raises:
        EditError: a file cannot be edited, or the definition is not valid.
    """
    mirrors = ""
    if added.content:
        mirrors = _edit_mirrors(workspace, added)
        workspace.read_block(added.name, added.content, added.file, mirrors)
        text = insert_definition(read_text(added.file), added.name, added.content, keys_above(added.file))
        added.files[added.file] = text.encode()
    if request.toolchain:
        _edit_toolchain(workspace, request.toolchain, added)
    if added.files and not Path("dodo.py").exists():
        added.files[Path("dodo.py")] = _DODO.encode()


def _edit_mirrors(workspace: Workspace, added: Added) -> str:
    """Return the new text of mirrors.yml if the definition needs a group that it lacks, else ""."""
    fields = added.content["fetch"]
    url = str(fields.get("url", "")) if isinstance(fields, Mapping) else ""
    group = propose_group(url, workspace.mirrors)
    if group is None or group.name in workspace.mirrors.groups:
        return ""
    file = workspace.mirrors_file
    text = read_text(file)
    block: dict[str, Value] = {"urls": list(group.urls)}
    if "groups" in text:
        text = insert_definition(text, group.name, block, ("groups",))
    else:
        text = insert_definition(text, "groups", {group.name: block})
    added.files[file] = text.encode()
    added.notes.append(f"{file}: the mirrors of {group.name}")
    return text


def _edit_toolchain(workspace: Workspace, word: str, added: Added) -> None:
    """Add the artifact to the fetches of a toolchain.

    Raises:
        EditError: there is no such toolchain.
    """
    name = word.removeprefix("toolchain:")
    try:
        toolchain = workspace.definitions.toolchain(name)
    except KeyError as error:
        raise EditError(f"no toolchain is named {escape_text(name)}", hint="`doit list --all` shows them") from error
    if any((entry.kind, entry.name) == ("fetch", added.name) for entry in toolchain.fetches):
        return
    file = Path(toolchain.file)
    text = add_to_list(read_text(file), (*key_path(toolchain), "fetches", "fetch"), added.name)
    added.files[file] = text.encode()
