"""Where newer versions of a definition are listed: derived from its URL, unless `update:` says it. Pure: no I/O."""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from tasks_lib.definitions import Debian, DebianSource, Fetch, Git, StaticUrl
from tasks_lib.definitions.values import Update
from tasks_lib.pins.versions import Tag, find_version, parse_tag, split_at, split_directory
from tasks_lib.vcs.urls import repository_name, strip_query

#: The API of GitHub. Source: https://docs.github.com/en/rest
GITHUB_API: Final = "https://api.github.com"
_GITHUB: Final = ("github.com", "www.github.com", "codeload.github.com", "raw.githubusercontent.com")
_NAME: Final = r"[A-Za-z0-9_.][\w.-]{0,99}"
#: URLs of files of a forge: the repository, and the tag. Source: the URLs of GitHub, GitLab and Gitea.
_FORGE: Final = (
    re.compile(
        rf"/(?P<path>{_NAME}/{_NAME})/(?:releases/download|archive/refs/tags|archive|tarball|zipball)/(?P<tag>[^/?]+)",
        re.A,
    ),
    re.compile(rf"/(?P<path>{_NAME}/{_NAME})/(?:legacy\.)?(?:tar\.gz|zip)/(?:refs/tags/)?(?P<tag>[^/?]+)$", re.A),
    re.compile(
        rf"/(?P<path>{_NAME}(?:/{_NAME}){{1,5}})/-/(?:archive|releases)/(?P<tag>[^/?]+)/", re.A
    ),
)  # fmt: skip
_SUFFIX: Final = re.compile(r"\.(?:tar\.[a-z0-9]{1,4}|tgz|zip|tar)$")


class Inner(NamedTuple):
    """A directory between the page and the files whose name is the start of a version, such as `v6.x`."""

    before: str
    after: str
    rest: str  # path below it


class Question(NamedTuple):
    """What is asked once for all definitions of a project.

    `url` is a repository for "git-tags", a repository below the API for "github", a page for "html".
    """

    kind: Literal["git-tags", "github", "html"]
    url: str
    inner: Inner | None = None


class Inquiry(NamedTuple):
    """The question for one definition and what its answer is compared with.

    `question` is None if nothing can be asked, for the `reason`. `present` is the tag in use, if the URL has one;
    `names` are those of the project; `patterns` are texts before and after the version of a file or directory.
    """

    fetch: Fetch
    have: str
    question: Question | None = None
    reason: str = ""
    present: Tag | None = None
    names: tuple[str, ...] = ()
    patterns: tuple[tuple[str, str], ...] = ()

    @property
    def update(self) -> Update:
        """What the definition says about look-ups."""
        return getattr(self.fetch.source, "update", None) or Update()


def inquire(fetch: Fetch, api: str) -> Inquiry:
    """Return what to ask for a definition; `api` is the base URL of the API of a forge, "" for GitHub's."""
    source = fetch.source
    if isinstance(source, StaticUrl):
        return _inquire_file(fetch, source, api)
    if isinstance(source, Debian):
        return Inquiry(fetch, "", reason="not covered: `doit update` resolves the packages again")
    if isinstance(source, DebianSource):
        return Inquiry(fetch, "", reason="not covered: newer source packages are not looked up")
    have = find_version(source.artifact_name) or find_version(fetch.name)
    inquiry = Inquiry(fetch, have, names=(repository_name(strip_query(source.repo)).removesuffix(".git"), fetch.name))
    update = inquiry.update
    if isinstance(source, Git) and update.origin in ("", "git-tags"):
        return inquiry._replace(question=Question("git-tags", update.url or source.repo))
    return _explicit(inquiry, source.repo, urlsplit(source.repo).path.strip("/").removesuffix(".git"), api)


def _inquire_file(fetch: Fetch, source: StaticUrl, api: str) -> Inquiry:
    url = source.url if source.url in source.locations else next(iter(source.locations), "")
    version = find_version(url)
    inquiry = Inquiry(fetch, version or find_version(fetch.name), names=(_stem(fetch.name),))
    path = urlsplit(url).path
    patterns = tuple(filter(None, (split_at(unquote(name), version) for name in path.split("/")))) if version else ()
    inquiry = inquiry._replace(patterns=patterns)
    forge = _find_forge(url)
    if forge is not None:
        repository, tag = forge
        names = (*inquiry.names, *repository.split("/")[-1:])
        inquiry = inquiry._replace(present=parse_tag(_SUFFIX.sub("", unquote(tag))), names=names)
    if inquiry.update.origin:
        return _explicit(inquiry, url, forge[0] if forge else "", api)
    if not inquiry.have:
        return inquiry._replace(reason="not covered: the URL has no version")
    if not url.startswith(("https:", "http:")):
        return inquiry._replace(reason="not covered: only http and https URLs are looked up")
    question = _suggest(url, forge[0] if forge else "", version, api)
    return inquiry._replace(question=question, reason="" if question else "not covered: the path has no version")


def _suggest(url: str, repository: str, version: str, api: str) -> Question | None:
    """Return the question that a URL suggests."""
    parts = urlsplit(url)
    if repository and (api or (parts.hostname or "").lower() in _GITHUB):
        return Question("github", f"{api or GITHUB_API}/repos/{repository}")
    if repository:
        return Question("git-tags", f"{parts.scheme}://{parts.netloc}/{repository}.git")
    return _find_listing(url, version)


def _explicit(inquiry: Inquiry, url: str, repository: str, api: str) -> Inquiry:
    """Return the inquiry with the question that `update:` asks."""
    update = inquiry.update
    if update.origin == "github":
        repository = "/".join(update.url.rstrip("/").removesuffix(".git").split("/")[-2:]) if update.url else repository
        question = Question("github", f"{api or GITHUB_API}/repos/{repository}") if repository else None
    elif update.origin == "html":
        listing = Question("html", update.url) if update.url else _find_listing(url, inquiry.have)
        question = listing if url.startswith("http") or update.url else None
    else:
        parts = urlsplit(url)
        place = f"{parts.scheme}://{parts.netloc}/{repository}.git" if repository else ""
        question = Question("git-tags", update.url or place) if update.url or place else None
    if update.origin == "":
        return inquiry._replace(reason="not covered: no source of versions is known for Mercurial; add `fetch.update`")
    if question is None:
        return inquiry._replace(reason="not covered: `update` needs a `url`, which the URL does not suggest")
    return inquiry._replace(question=question)


def _find_forge(url: str) -> tuple[str, str] | None:
    """Return the repository and the tag of a file of a forge."""
    place = url.partition("?")[0].partition("#")[0]
    path = "/" + place.partition("://")[2].partition("/")[2]
    for pattern in _FORGE:
        if found := pattern.match(path):
            return found["path"], found["tag"]
    return None


def _stem(name: str) -> str:
    """Return the name of a definition without its version."""
    around = split_at(name, find_version(name)) if find_version(name) else None
    return around[0].rstrip("-_.@v") if around else name


def _find_listing(url: str, version: str) -> Question | None:
    """Return the page that lists a file and its other versions: above the first name in the path with the version."""
    parts = urlsplit(url)
    names = parts.path.split("/")
    base = f"{parts.scheme}://{parts.netloc}"
    for at, name in enumerate(names):
        if version and split_at(unquote(name), version):
            return Question("html", f"{base}{'/'.join(names[:at])}/")
        around = split_directory(name, version) if version else None
        if around is not None:
            end = next((end for end in range(at + 1, len(names)) if split_at(unquote(names[end]), version)), 0)
            inner = Inner(*around, "/".join(names[at + 1 : end]))
            return Question("html", f"{base}{'/'.join(names[:at])}/", inner) if end else None
    return None
