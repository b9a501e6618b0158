"""A file that `add` defines: download it, verify it with all evidence there is, and write the keys of its `fetch:`."""

from __future__ import annotations

from typing import NamedTuple

from tasks_lib.definitions.values import file_name_of
from tasks_lib.digest import Integrity
from tasks_lib.errors import EditError
from tasks_lib.formats import format_from_name
from tasks_lib.network import redacted
from tasks_lib.pins.add_url import GivenUrl
from tasks_lib.pins.evidence import API_DIGEST, CACHED, LISTED, Evidence, PublicKey, rank
from tasks_lib.pins.measure import Expected, Measured, Shape, inspect, measure, refuse_page
from tasks_lib.pins.mirror_groups import propose_group
from tasks_lib.pins.naming import has_ending
from tasks_lib.pins.siblings import Locations, look_for_siblings
from tasks_lib.pins.workspace import Workspace
from tasks_lib.pins.yaml_text import Value


class Content(NamedTuple):
    """A file in the cache: the URL that a definition writes, what it is, and its evidence, strongest first."""

    url: str
    integrity: Integrity
    shape: Shape
    evidence: tuple[Evidence, ...]


class Reshaping(NamedTuple):
    """What the command line says about the artifact; `strip` is "auto" or a number."""

    strip: str
    prefix: str


def obtain_content(
    workspace: Workspace, given: GivenUrl, promised: Expected | None, keys: list[PublicKey], label: str
) -> Content:
    """Download and verify a file.

    `promised` is the digest that the API of the forge has; `label` is the name in messages.

    Raises:
        EditError: the URL is blocked, or returned a web page.
        IntegrityError, SignatureError: the content is not what the evidence says.
        AllSourcesFailedError, OfflineError, CacheUnavailableError, CancelledError: as `measure`.
    """
    context, progress, url = workspace.context, workspace.progress, given.url
    urls = find_locations(workspace, url)
    expected = (*given.expected, *([promised] if promised is not None else []))
    measured = measure(context, label, urls, progress, written=url, headers={}, expected=expected)
    refuse_page(context, measured.integrity, url)
    shape = inspect(context, measured.integrity, url, progress)
    siblings = look_for_siblings(context, url, {}, progress)
    found = list(siblings.verify(measured.integrity, keys, Locations(url, urls[0])))
    evidence = rank([*found, *_other_evidence(given, promised, measured)])
    return Content(url, measured.integrity, shape, tuple(evidence))


def find_locations(workspace: Workspace, url: str) -> tuple[str, ...]:
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


def _other_evidence(given: GivenUrl, promised: Expected | None, measured: Measured) -> list[Evidence]:
    """Return the evidence that is not beside the file."""
    found = [Evidence(LISTED, one.by) for one in given.expected]
    if promised is not None:
        found.append(Evidence(API_DIGEST, "digest of the asset in the release"))
    if measured.known:
        found.append(Evidence(CACHED, f"the same bytes came from {measured.known}"))
    return found


def write_fields(workspace: Workspace, content: Content, name: str, reshaping: Reshaping) -> dict[str, Value]:
    """Return the keys of `fetch:` for a file.

    Raises:
        EditError: it is to be stripped, and is not an archive.
    """
    url, shape = content.url, content.shape
    strip = int(bool(shape.top)) if reshaping.strip == "auto" else int(reshaping.strip)
    fields: dict[str, Value] = {"type": "static-url", "url": url}
    group = propose_group(url, workspace.mirrors)
    if group is not None:
        fields["mirrors"] = [group.url]
    fields |= {"sha256": content.integrity.digest.hex, "size": content.integrity.size}
    fields |= _artifact_fields(content, name, strip, reshaping.prefix)
    for one in content.evidence:
        fields |= {key: value for key, value in one.fields.items() if key not in fields}
    return fields


def _artifact_fields(content: Content, name: str, strip: int, prefix: str) -> dict[str, Value]:
    """Return the keys about the artifact.

    Raises:
        EditError: it is to be stripped, and is not an archive.
    """
    url, shape = content.url, content.shape
    fields: dict[str, Value] = {}
    if (strip or prefix) and not shape.kind:
        raise EditError(f"{redacted(url)} is not an archive", hint="leave --strip and --prefix out")
    if strip or prefix:
        fields["artifact-name"] = f"{name}.tar.zst"
    elif shape.kind and not has_ending(file_name_of(url)) and format_from_name(file_name_of(url)) is None:
        fields["artifact-name"] = f"{name}.{shape.kind}"  # the name in the URL does not say that it is an archive
    if strip:
        fields["strip-components"] = strip
    if prefix:
        fields["add-prefix"] = prefix
    if shape.format:
        fields["format"] = shape.format
    return fields
