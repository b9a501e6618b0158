"""Answers of upstream: the tags of a repository, the releases of a forge, the links of a page; kept for an hour."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Final, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

import msgspec

from tasks_lib.cache.lookups import Lookups
from tasks_lib.context import Context
from tasks_lib.definitions.expressions import compile_expression
from tasks_lib.errors import HttpStatusError, TransportError
from tasks_lib.network import redacted
from tasks_lib.pins.commits import list_refs
from tasks_lib.pins.forge import api_headers
from tasks_lib.pins.pages import Pages
from tasks_lib.pins.questions import Question
from tasks_lib.pins.versions import middle
from tasks_lib.progress import Progress
from tasks_lib.vcs.urls import display_url

#: Seconds for which an answer is kept. Source: issue 23.
KEPT_S: Final = 3600.0
#: Most bytes of a page and of one page of an API, and most pages of an API. Source: issue 23: pages of 100, at most 5.
_PAGE_BYTES: Final = 8 << 20
_API_BYTES: Final = 16 << 20
_MAX_PAGES: Final = 5
_PER_PAGE: Final = 100
#: Most candidates of an answer, and characters of one.
_MAX_CANDIDATES: Final = 20_000
_MAX_NAME: Final = 255
#: Characters of a page without links that are kept for `match`.
_MAX_TEXT: Final = 1 << 16
#: Directories that are named after the start of a version, such as `v6.x`, of which the newest are looked into.
_MAX_DIRECTORIES: Final = 3
#: Source: HTML, "the a element"; nginx ngx_http_autoindex_module and Apache mod_autoindex write one for each file.
_LINK: Final = r"""(?is)<a\s[^>]*?\bhref\s*=\s*("[^"]*"|'[^']*'|[^\s"'>]+)"""
_TAGS: Final = "refs/tags/"


Entry = TypeVar("Entry")


class Candidate(NamedTuple):
    """A tag, a release or a link that may be a version.

    `commit` is the commit of a tag, "" if unknown; `state` is "prerelease" if upstream calls it so.
    """

    text: str
    kind: str
    commit: str = ""
    state: str = ""


class UpstreamAnswer(NamedTuple):
    """The candidates of a question, and the URL that had them."""

    where: str
    candidates: tuple[Candidate, ...]


class _Release(msgspec.Struct):
    tag_name: str
    draft: bool = False
    prerelease: bool = False


class _NamedCommit(msgspec.Struct):
    sha: str = ""


class _NamedTag(msgspec.Struct):
    name: str
    commit: _NamedCommit | None = None


class Upstream:
    """Asks upstream, each question once in a run; several threads may use it."""

    def __init__(self, context: Context, pages: Pages, progress: Progress) -> None:
        self._context, self._pages, self._progress = context, pages, progress

    def ask(self, question: Question) -> UpstreamAnswer:
        """Return the answer of the last hour, or ask.

        Raises:
            TransportError: upstream does not answer, or its answer is not understood; `OfflineError` without network.
            ToolError: git is missing or failed.
            SettingError: a token has a character that HTTP does not allow.
            CancelledError: the run was asked to stop.
        """
        lookups = Lookups(self._context.cache.lookup_directory)
        key = msgspec.json.encode(question).decode()
        known = lookups.get(key, KEPT_S)
        if known is not None:
            try:
                return msgspec.json.decode(known, type=UpstreamAnswer)
            except msgspec.MsgspecError:
                pass  # written by another version
        ask = {"git-tags": self._ask_git, "github": self._ask_github, "html": self._ask_page}[question.kind]
        answer = ask(question)
        answer = answer._replace(candidates=answer.candidates[:_MAX_CANDIDATES])
        lookups.put(key, msgspec.json.encode(answer))
        return answer

    def _ask_git(self, question: Question) -> UpstreamAnswer:
        refs = list_refs(self._context, question.url, (f"{_TAGS}*",), self._progress)
        tags = {ref.removeprefix(_TAGS): target for ref, target in refs.items() if ref.startswith(_TAGS)}
        found = (
            Candidate(name, "tag", tags.get(f"{name}^{{}}", target))  # the commit of an annotated tag
            for name, target in tags.items()
            if len(name) <= _MAX_NAME and not name.endswith("^{}")
        )
        return UpstreamAnswer(display_url(question.url), tuple(found))

    def _ask_github(self, question: Question) -> UpstreamAnswer:
        """Ask for releases, and for tags if there are none."""
        releases = self._list_pages(question.url, "releases", list[_Release])
        found = [
            Candidate(one.tag_name, "release", state="prerelease" if one.prerelease else "")
            for one in releases
            if not one.draft
        ]
        if not found:
            tags = self._list_pages(question.url, "tags", list[_NamedTag])
            found = [Candidate(one.name, "tag", one.commit.sha if one.commit else "") for one in tags]
        return UpstreamAnswer(redacted(question.url), tuple(one for one in found if len(one.text) <= _MAX_NAME))

    def _list_pages(self, base: str, what: str, kind: type[list[Entry]]) -> list[Entry]:
        """Return all entries of a list; [] if the API does not have it."""
        found: list[Entry] = []
        headers = api_headers(base, self._context.environ)
        for number in range(1, _MAX_PAGES + 1):
            url = f"{base}/{what}?per_page={_PER_PAGE}&page={number}"
            try:
                page = self._pages.get(url, limit=_API_BYTES, headers=headers)
            except HttpStatusError as error:
                if error.status == 404 and what == "releases":
                    return []
                raise
            try:
                entries = msgspec.json.decode(page.text, type=kind)
            except msgspec.MsgspecError as error:
                message = f"{redacted(url)}: the answer is not a list of {what}: {error}"
                raise TransportError(message, hint="check `fetch.update` and the setting `github_api`") from error
            found += entries
            more = 'rel="next"' in page.links if page.links else len(entries) >= _PER_PAGE
            if not more:
                break
        return found

    def _ask_page(self, question: Question) -> UpstreamAnswer:
        page = self._pages.get(question.url, limit=_PAGE_BYTES)
        links = list(list_links(page.text))
        inner = question.inner
        if inner is None:
            found = [Candidate(name, "link") for name in links]
            # a page without links, such as a text with the newest version, is for `match`
            return UpstreamAnswer(page.url, tuple(found or [Candidate(page.text[:_MAX_TEXT], "text")]))
        directories = sorted(
            (name for name in dict.fromkeys(links) if _is_directory(middle(name, inner.before, inner.after))),
            key=lambda name: [int(part) for part in middle(name, inner.before, inner.after).split(".")],
        )
        found = []
        for name in directories[-_MAX_DIRECTORIES:]:
            place = f"{question.url}{name}/{inner.rest}{'/' if inner.rest else ''}"
            found += [Candidate(link, "link") for link in list_links(self._pages.get(place, limit=_PAGE_BYTES).text)]
        return UpstreamAnswer(page.url, tuple(found))


def _is_directory(version: str) -> bool:
    parts = version.split(".")
    return len(parts) < 5 and all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts)


def list_links(text: str) -> Iterator[str]:
    """Yield the last name in the path of each link of a page, percent-encoding resolved."""
    for found in compile_expression(_LINK).finditer(text):
        target = html.unescape(found[1].strip("\"'"))
        try:
            path = urlsplit(target).path
        except ValueError:
            continue
        name = unquote(path.rstrip("/").rpartition("/")[2])
        if name and len(name) <= _MAX_NAME and name not in (".", "..") and name.isprintable():
            yield name
