"""Add a definition: download, measure, look for evidence, then write it.

The steps, in order, each with the module that does it:

1. Check the URL (`add_url`), and whether it is defined already (`workspace`).
2. Ask the forge for the digest of a release's asset (`forge`).
3. Download once into the cache, look into the content, and verify it with signatures and lists (`add_file`).
4. Do the same with the files of other platforms, if they are asked for (`add_platforms`).
5. Propose a name (`naming`), what to strip, and mirrors (`add_file`).
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
from tasks_lib.digest import Integrity
from tasks_lib.errors import EditError, IntegrityError, escape_text
from tasks_lib.network import redacted
from tasks_lib.pins import forge
from tasks_lib.pins.add_file import Content, Reshaping, obtain_content, write_fields
from tasks_lib.pins.add_platforms import (
    Platforms,
    add_siblings,
    keep_for_taskgraph,
    list_directory,
    rename_without_platform,
    require_platform,
    write_platforms,
)
from tasks_lib.pins.add_source import is_source_package, obtain_dsc
from tasks_lib.pins.add_url import GivenUrl, parse_url
from tasks_lib.pins.commits import resolve_tag
from tasks_lib.pins.edit import add_to_list, insert_definition
from tasks_lib.pins.evidence import FIRST_USE, Evidence, PublicKey, load_keys
from tasks_lib.pins.measure import Expected
from tasks_lib.pins.mirror_groups import propose_group
from tasks_lib.pins.naming import file_name, propose_name, propose_repository_name, without_platform
from tasks_lib.pins.workspace import Workspace, editing, key_path, keys_above, read_text, write_bytes
from tasks_lib.pins.yaml_text import Value
from tasks_lib.steps.commit import commit_archive
from tasks_lib.steps.definition_types import load_steps
from tasks_lib.vcs.urls import display_url

_DODO: Final = "from doit_fetch import DOIT_CONFIG, task_fetchdefs\n"


@dataclass(frozen=True, kw_only=True)
class AddRequest:
    """What to add: a URL, and what the command line says about it.

    `strip` is "auto" or a number; `toolchain` is the name of one that gets the artifact, "" for none; `mode` is "write"
    or "dry-run"; `scope` is "file", or "platforms" for the files of all platforms in the same release.
    """

    url: str
    name: str = ""
    file: Path | None = None
    strip: str = "auto"
    prefix: str = ""
    key: Path | None = None
    toolchain: str = ""
    mode: str = "write"
    scope: str = "file"


@dataclass(kw_only=True)
class Added:
    """A definition as it is written: `content` is {} if the URL was defined already.

    `platforms` has the content for each platform, {} without `platforms:`; `left_out` maps the names of files of other
    platforms to why they are not used. `files` maps each file that changes to its new content.
    """

    name: str
    file: Path
    content: Mapping[str, Value]
    url: str = ""
    evidence: list[Evidence] = field(default_factory=list)
    integrity: Integrity | None = None
    notes: list[str] = field(default_factory=list)
    platforms: dict[str, Content] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    files: dict[Path, bytes] = field(default_factory=dict)


def add(workspace: Workspace, request: AddRequest) -> Added:
    """Add a definition, and write it unless the mode is "dry-run".

    Raises:
        EditError, IntegrityError, SignatureError, FetchError: as `propose` and `apply`.
    """
    added = propose(workspace, request)
    apply(workspace, request, added)
    return added


def propose(workspace: Workspace, request: AddRequest) -> Added:
    """Return the definition to add, after downloading and verifying its content.

    Raises:
        EditError: the URL or the name cannot be used.
        IntegrityError, SignatureError: the content is not what the evidence says.
        FetchError: it cannot be downloaded.
    """
    given = parse_url(request.url)
    if request.scope == "platforms" and given.kind != "file":
        raise EditError(
            f"{redacted(given.url)} is a repository", hint="leave --platforms out, or give the URL of a file"
        )
    known = workspace.find_url(given.url) if given.kind == "file" else _find_commit(workspace, given.url, given.tag)
    if known is not None and not request.name:
        _require_promised(known, given)
        name = known.name.removesuffix(f"@{known.platform}" if known.platform else "")
        return _known(known, redacted(given.url), name)
    _check_given_name(workspace, request.name)
    if is_source_package(given) and request.scope == "file":
        return _add_source(workspace, request, given)
    return _add_file(workspace, request, given) if given.kind == "file" else _add_commit(workspace, request, given)


def apply(workspace: Workspace, request: AddRequest, added: Added) -> None:
    """Compute the new content of the files, and write them unless the mode is "dry-run".

    Raises:
        EditError: a file cannot be used.
    """
    with editing(workspace):
        _edit(workspace, request, added)
        if request.mode == "write":
            for path, content in added.files.items():
                write_bytes(path, content)


def _known(known: Fetch, what: str, name: str) -> Added:
    note = f"{what} is already defined as {known.name} ({known.file}:{known.line})"
    return Added(name=name, file=Path(known.file), content={}, notes=[note])


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
    """Return the definition of a file, after downloading and verifying it; of all platforms if that was asked for."""
    url = given.url
    own = require_platform(url) if request.scope == "platforms" else None
    keys = load_keys(workspace.keys, request.key)
    promised, names = _ask_release(workspace, request, url)
    label = request.name or file_name(url) or redacted(url)
    content = obtain_content(workspace, given, promised, keys, label)
    name = _choose_name(workspace, request, content)
    reshaping = Reshaping(request.strip, request.prefix)
    found = Platforms({}, {})
    if own is None:
        fields = write_fields(workspace, content, name, reshaping)
    else:
        found = add_siblings(workspace, own, content, names, keys)
        fields = write_platforms(workspace, found, name, reshaping, own.ending)
    file = workspace.choose_file(request.file)
    if own is not None and keys_above(file):
        fields = keep_for_taskgraph(fields, content)
    added = Added(
        name=name,
        file=file,
        content={"description": name, "fetch": fields},
        url=url,
        evidence=list(content.evidence),
        integrity=content.integrity,
        platforms=dict(sorted(found.contents.items())),
        left_out=found.left_out,
    )
    added.notes += _file_notes(workspace, content, added)
    return _with_key(added, keys[0]) if request.key is not None else added


def _ask_release(
    workspace: Workspace, request: AddRequest, url: str
) -> tuple[Expected | None, Mapping[str, Expected | None]]:
    """Return the digest that the API of the forge has for a file, and for platforms the names beside it."""
    context, progress = workspace.context, workspace.progress
    if request.scope == "file":
        return forge.read_digest(context, url, progress), {}
    asset = forge.find_asset(url, context.settings.github_api)
    if asset is None:
        return None, list_directory(workspace, url)
    assets = dict(forge.read_assets(context, asset, progress))
    return assets.get(asset.name), assets


def _choose_name(workspace: Workspace, request: AddRequest, content: Content) -> str:
    """Return the name of the definition of a file.

    Raises:
        EditError: there is none, or it is taken.
    """
    url, top = content.url, content.shape.top
    if request.scope == "platforms":
        url, top = rename_without_platform(url), without_platform(top)
    name = request.name or propose_name(url, top)
    if not name:
        raise EditError(f"{redacted(url)} shows no name", hint="choose one with --name")
    _require_free(workspace, name)
    return name


def _file_notes(workspace: Workspace, content: Content, added: Added) -> list[str]:
    contents = added.platforms or {"": content}
    notes = [
        f"{one.name} has the same content ({one.file}:{one.line})"
        for own in contents.values()
        for one in workspace.find_content(own.integrity)
    ]
    for platform, own in contents.items():
        if own.shape.fault:
            notes.append(f"{f'{platform}: ' if platform else ''}it cannot be extracted: {own.shape.fault}")
    if any(own.evidence[0].kind == FIRST_USE for own in contents.values()):
        notes.append("compare the digest with an announcement of the project, if there is one")
    if len(added.platforms) == 1:
        notes.append("no file of another platform was found")
    return notes


def _with_key(added: Added, key: PublicKey) -> Added:
    """Add the given key to the files if it verified something and is not in the directory of keys yet."""
    if (key.minisign or key.key_path) not in str(added.content.get("fetch", "")):
        added.notes.append("no signature by the key that --key names was found")
    elif not key.path.exists():
        added.files[key.path] = key.content
    return added


# --- source packages --------------------------------------------------------------------------


def _add_source(workspace: Workspace, request: AddRequest, given: GivenUrl) -> Added:
    """Return the definition of a source package, after downloading its files."""
    keys = load_keys(workspace.keys, request.key)
    found = obtain_dsc(workspace, given, keys)
    name = request.name or found.name
    _require_free(workspace, name)
    file = workspace.choose_file(request.file)
    content: dict[str, Value] = {"description": name, "fetch": found.fields()}
    fetch = Fetch(name=name, description=name, source=found.source, file=str(file), line=0)
    files = load_steps(workspace.context, fetch).obtain_downloads(workspace.progress)
    added = Added(
        name=name,
        file=file,
        content=content,
        url=given.url,
        evidence=list(found.evidence),
        integrity=found.integrity,
    )
    added.notes.append(f"the .dsc and {len(files) - 1} files of {found.package.name} {found.package.version}")
    return _with_key(added, keys[0]) if request.key is not None else added


# --- commits ----------------------------------------------------------------------------------


def _find_commit(workspace: Workspace, url: str, tag: str) -> Fetch | None:
    """Return the definition of this commit of a repository."""
    for fetch in workspace.definitions.fetches.values():
        if isinstance(fetch.source, Git) and (fetch.source.repo, fetch.source.revision) == (url, tag):
            return fetch
    return None


def _add_commit(workspace: Workspace, request: AddRequest, given: GivenUrl) -> Added:
    """Return the definition of a commit, after fetching it."""
    target = resolve_tag(workspace, given)
    known = _find_commit(workspace, given.url, target.commit)
    if known is not None and not request.name:
        return _known(known, target.commit, known.name)
    name = request.name or propose_repository_name(given.url, target.tag or target.commit[:12])
    _require_free(workspace, name)
    fields: dict[str, Value] = {"type": "git", "repo": given.url, "revision": target.commit}
    if request.prefix:
        fields["path-prefix"] = request.prefix.rstrip("/")
    file = workspace.choose_file(request.file)
    content: dict[str, Value] = {"description": name, "fetch": fields}
    source = workspace.read_block(name, content, file).source
    assert isinstance(source, Git), "the block has this type"
    commit_archive(workspace.context, source, workspace.progress)
    what = f"tag {target.tag}" if target.tag else "commit"
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
    group = propose_group(added.url, workspace.mirrors)
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
        EditError: no toolchain has this name.
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
