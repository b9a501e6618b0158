"""The API of GitHub: the assets of a release, and their digests.

Source: https://docs.github.com/en/rest/releases ; `digest` of assets since June 2025.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote, unquote, urlsplit

import msgspec

from tasks_lib.context import Context
from tasks_lib.definitions.headers import is_private_route
from tasks_lib.digest import Digest
from tasks_lib.errors import FetchError
from tasks_lib.network import read_secret, redacted
from tasks_lib.pins.measure import Expected
from tasks_lib.pins.pages import Pages, describe_failure
from tasks_lib.pins.questions import GITHUB_API
from tasks_lib.progress import Progress

_HOST: Final = "github.com"
_ASSET: Final = re.compile(r"/([^/]+)/([^/]+)/releases/download/(.+)/([^/]+)")
_TOKENS: Final = ("GITHUB_TOKEN", "GH_TOKEN")
#: Largest answer in bytes, assets in a page, and most pages.
_MAX_BYTES: Final = 16 << 20
_PAGE: Final = 100
_MAX_PAGES: Final = 5


class Asset(NamedTuple):
    """A file of a release, by the parts of its URL."""

    owner: str
    repository: str
    tag: str
    name: str


def find_asset(url: str, api: str) -> Asset | None:
    """Return the release asset that a URL names, None if it names none; with an `api` of its own, of any host."""
    parts = urlsplit(url)
    found = _ASSET.fullmatch(parts.path)
    if found is None or (not api and (parts.hostname or "").lower() != _HOST):
        return None
    return Asset(*(unquote(one) for one in found.groups()))


def api_headers(base: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a request to the API; the token only where it travels encrypted.

    Raises:
        SettingError: the token has a character that HTTP does not allow.
    """
    headers = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
    token = next(filter(None, (read_secret(environ, one) for one in _TOKENS)), "")
    return headers | ({"Authorization": f"Bearer {token}"} if token and is_private_route(base) else {})


def read_digest(context: Context, url: str, progress: Progress) -> Expected | None:
    """Return the digest that the API has for a file, None if that is not an asset, has none or cannot be asked."""
    asset = find_asset(url, context.settings.github_api)
    if asset is None:
        return None
    return next((digest for name, digest in read_assets(context, asset, progress) if name == asset.name), None)


def read_assets(context: Context, asset: Asset, progress: Progress) -> Iterator[tuple[str, Expected | None]]:
    """Yield the names of the assets in the release of one, each with its digest if the API has one.

    It ends with a warning if the API cannot be asked.
    """
    base = context.settings.github_api or GITHUB_API
    place = f"{base}/repos/{quote(asset.owner)}/{quote(asset.repository)}/releases"
    try:
        release = _ask(context, f"{place}/tags/{quote(asset.tag, safe='')}", base, progress)
        for one in _list_assets(context, release, place, base, progress):
            yield str(one.get("name")), _expected(one.get("digest"), base)
    except (FetchError, ValueError) as error:
        reason = describe_failure(error) if isinstance(error, FetchError) else "the answer is not understood"
        progress.warn(f"the API of the forge is not asked further: {reason}")


def _expected(digest: object, base: str) -> Expected | None:
    """Return the digest of an asset; those from before June 2025 have none."""
    if not isinstance(digest, str) or re.fullmatch("sha256:[0-9a-f]{64}", digest) is None:
        return None
    return Expected(Digest.parse(digest), f"the API at {redacted(base)}")


def _list_assets(
    context: Context, release: Any, place: str, base: str, progress: Progress
) -> Iterator[Mapping[str, Any]]:
    """Yield the assets of a release: those in the answer, and then those of its pages."""
    if not isinstance(release, dict):
        return
    own = release.get("assets")
    yield from _mappings(own)
    number = release.get("id")
    if not isinstance(number, int):
        return
    for page in range(1, _MAX_PAGES + 1):
        more = _ask(context, f"{place}/{number}/assets?per_page={_PAGE}&page={page}", base, progress)
        yield from _mappings(more)
        if not isinstance(more, list) or len(more) < _PAGE:
            return


def _mappings(found: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(found, list):
        yield from (one for one in found if isinstance(one, dict))


def _ask(context: Context, url: str, base: str, progress: Progress) -> Any:
    """Return the JSON of an answer.

    Raises:
        FetchError: there is none.
        ValueError: it is not JSON.
    """
    page = Pages(context, progress).get(url, limit=_MAX_BYTES, headers=api_headers(base, context.environ))
    try:
        return msgspec.json.decode(page.text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError("invalid JSON") from error
