"""The files of the other platforms of a release: find them by their names, download and verify each."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from urllib.request import url2pathname

from tasks_lib.errors import AllSourcesFailedError, EditError, OfflineError, TransportError
from tasks_lib.network import redacted
from tasks_lib.pins.add_file import Content, Reshaping, find_locations, obtain_content, write_fields
from tasks_lib.pins.add_url import parse_url
from tasks_lib.pins.answers import list_links
from tasks_lib.pins.evidence import PublicKey
from tasks_lib.pins.measure import Expected
from tasks_lib.pins.naming import AssetName, choose_siblings, parse_asset_name, without_platform
from tasks_lib.pins.pages import Pages, describe_failure
from tasks_lib.pins.workspace import Workspace
from tasks_lib.pins.yaml_text import Value

#: Most bytes of the page of a directory, most names of a list, and most characters of a name.
_PAGE_BYTES: Final = 8 << 20
_MAX_NAMES: Final = 20_000
_MAX_NAME: Final = 255
#: Characters of names that URLs have as they are. Source: RFC 3986, section 3.3.
_SAFE: Final = "!$&'()*+,;=:@~"
#: Keys that each platform has of its own.
_OWN: Final = ("url", "mirrors", "sha256", "size")


class Platforms(NamedTuple):
    """The content for each platform, and the names that are left out: name -> reason."""

    contents: dict[str, Content]
    left_out: dict[str, str]


def require_platform(url: str) -> AssetName:
    """Return the parts of the name of the file at a URL.

    Raises:
        EditError: it contains no platform.
    """
    found = parse_asset_name(_last_name(url))
    if found is None:
        raise EditError(
            f"the file name in {redacted(url)} contains no platform, such as linux-amd64",
            hint="leave --platforms out, or use the URL of a file with a platform in its name",
        )
    return found


def rename_without_platform(url: str) -> str:
    """Return a URL with a file name from which a name for all platforms is derived."""
    return _beside(url, without_platform(_last_name(url)))


def add_siblings(
    workspace: Workspace, own: AssetName, content: Content, assets: Mapping[str, Expected | None], keys: list[PublicKey]
) -> Platforms:
    """Download and verify the files of the other platforms; leave out those that cannot be had.

    `own` and `content` are those of the given file; `assets` are the names beside it, with the digest that the API of
    the forge has.

    Raises:
        IntegrityError, SignatureError: one is not what the evidence says.
        CacheUnavailableError, CancelledError: as `obtain_content`.
    """
    chosen = choose_siblings(own, (name for name in assets if len(name) <= _MAX_NAME))
    found = Platforms({own.platform: content}, dict(chosen.left_out))
    for platform, name in chosen.assets.items():
        try:
            given = parse_url(_beside(content.url, name))
            found.contents[platform] = obtain_content(workspace, given, assets[name], keys, name)
        except (AllSourcesFailedError, OfflineError, EditError) as error:
            found.left_out[name] = describe_failure(error)
    return found


def list_directory(workspace: Workspace, url: str) -> dict[str, Expected | None]:
    """Return the names in the directory of a URL, {} if the server shows none."""
    place = _beside(find_locations(workspace, url)[0], "", query="")
    try:
        return dict.fromkeys(islice(_read_names(workspace, place), _MAX_NAMES))
    except (TransportError, OfflineError) as error:
        workspace.progress.warn(f"{redacted(place)} is not listed: {describe_failure(error)}")
    except OSError as error:
        workspace.progress.warn(f"{redacted(place)} is not listed: {error.strerror or error}")
    return {}


def _read_names(workspace: Workspace, place: str) -> Iterator[str]:
    parts = urlsplit(place)
    if parts.scheme == "file":
        return (path.name for path in Path(url2pathname(parts.path)).iterdir() if path.is_file())
    page = Pages(workspace.context, workspace.progress).get(place, limit=_PAGE_BYTES)
    return list_links(page.text)


def write_platforms(
    workspace: Workspace, found: Platforms, name: str, reshaping: Reshaping, ending: str
) -> dict[str, Value]:
    """Return the keys of `fetch:` for all platforms; content that cannot be reshaped is left out.

    Keys with the same value for each platform are above `platforms:`.

    The content of the given URL is the first one in `found`; `ending` is that of the name of its file.

    Raises:
        EditError: the content of the given URL cannot be reshaped.
    """
    entries: dict[str, dict[str, Value]] = {}
    for platform, content in list(found.contents.items()):
        try:
            entries[platform] = write_fields(workspace, content, name, reshaping)
        except EditError as error:
            if not entries:
                raise
            del found.contents[platform]
            found.left_out[_last_name(content.url)] = describe_failure(error)
    first, *others = entries.values()
    common = {
        key: value for key, value in first.items() if key not in _OWN and all(one.get(key) == value for one in others)
    }
    is_same_ending = all(_last_name(one.url).endswith(ending) for one in found.contents.values())
    if is_same_ending and not any("artifact-name" in one for one in entries.values()):
        common["artifact-name"] = name + ending
    return common | {"platforms": dict(sorted(_shorten(entries, common)))}


def keep_for_taskgraph(fields: dict[str, Value], content: Content) -> dict[str, Value]:
    """Return the keys of `fetch:` with those that Taskgraph's schema needs beside `platforms:`."""
    own: dict[str, Value] = {"url": content.url, "sha256": content.integrity.digest.hex, "size": content.integrity.size}
    return {"type": fields["type"], **own, **fields}


def _shorten(
    entries: Mapping[str, Mapping[str, Value]], common: Mapping[str, Value]
) -> Iterable[tuple[str, dict[str, Value]]]:
    """Yield the keys of each platform without those of all."""
    for platform, fields in entries.items():
        yield platform, {key: value for key, value in fields.items() if key not in common}


def _last_name(url: str) -> str:
    return unquote(posixpath.basename(urlsplit(url).path))


def _beside(url: str, name: str, query: str | None = None) -> str:
    """Return the URL of another name in the directory of a URL."""
    parts = urlsplit(url)
    path = parts.path.rpartition("/")[0] + "/" + quote(name, safe=_SAFE)
    return urlunsplit(parts._replace(path=path, query=parts.query if query is None else query))
