"""Keys of a fetch definition about its upstream: where newer versions are listed, and its package URL. Pure: no I/O."""

from __future__ import annotations

import re
from typing import Any, Final

from tasks_lib.definitions.expressions import compile_expression
from tasks_lib.definitions.fields import SWITCH, TEXT, check_download_url, one_of, read_text
from tasks_lib.definitions.schema import Field, FieldError, FieldTable, Location, read_table, schema_of
from tasks_lib.definitions.values import Update
from tasks_lib.definitions.yaml_tree import Node
from tasks_lib.vcs import urls

#: Longest regular expression in characters.
_MAX_EXPRESSION: Final = 1000
#: Schemes of repositories that may be asked for tags.
_REPOSITORIES: Final = ("https", "ssh", "http", "git", "file")
#: A repository of a forge: `OWNER/REPO`, or its URL. Source: GitHub, "Reserved names" (letters, digits, `-`, `.`, `_`).
_FORGE_REPOSITORY: Final = re.compile(r"(?:https?://[^/?#]+/)?[A-Za-z0-9][\w.-]{0,99}/[\w.-]{1,100}/?", re.ASCII)
#: Source: https://github.com/package-url/purl-spec, "purl"; the parts are percent-encoded.
_PURL: Final = re.compile(r"pkg:[A-Za-z][A-Za-z0-9.+-]*/[\x21-\x7e]+")


def _expression(node: Node, where: Location) -> str:
    text = read_text(node, where)
    if len(text) > _MAX_EXPRESSION:
        raise FieldError(f"is longer than {_MAX_EXPRESSION} characters")
    try:
        groups = compile_expression(text).groups
    except ValueError as error:
        raise FieldError(f"invalid regular expression: {error}", "use the syntax of RE2") from error
    if groups > 1:
        raise FieldError(f"has {groups} groups", "use one group around the version, and (?:...) for the others")
    return text


_EXPRESSION: Final = Field(_expression, {"type": "string", "minLength": 1, "maxLength": _MAX_EXPRESSION})
_UPDATE: Final[FieldTable] = {
    "from": one_of("git-tags", "github", "html").about(
        "where newer versions are listed: the tags of a git repository, GitHub's API, or a page with links;"
        " by default what the URL of the definition suggests"
    ),
    "url": TEXT.about(
        "repository (git-tags, github) or page (html); by default derived from the URL of the definition"
    ),
    "match": _EXPRESSION.about(
        "regular expression (RE2) that must occur in a tag or file name; its group, if it has one, is the version"
    ),
    "ignore": _EXPRESSION.about("regular expression (RE2); a tag, file name or version in which it occurs is not used"),
    "prereleases": SWITCH.about("true: use versions such as 1.10.0-rc1 too"),
}


def _update(node: Node, where: Location) -> Update | None:
    found = read_table(node, where, _UPDATE)
    if found is None:
        return None
    origin, url = found.get("from", ""), found.get("url", "")
    if url:
        _check_url(origin, url)
    return Update(
        origin=origin,
        url=url,
        match=found.get("match", ""),
        ignore=found.get("ignore", ""),
        prereleases=found.get("prereleases", False),
    )


def _check_url(origin: str, url: str) -> None:
    """Check the URL of a look-up.

    Raises:
        FieldError: it cannot be asked for versions in this way.
    """
    if not origin:
        raise FieldError("`url` needs `from`", "add `from: git-tags`, `from: github` or `from: html`")
    if origin == "html":
        check_download_url(url, ("https", "http"))
    elif origin == "github":
        if not _FORGE_REPOSITORY.fullmatch(url):
            raise FieldError(f"invalid repository {url[:80]!r}", "write OWNER/REPO or https://github.com/OWNER/REPO")
    else:
        try:
            urls.check_url(url, _REPOSITORIES)
        except ValueError as error:
            raise FieldError(f"the URL {error}", "write https://host/path") from error


def _purl(node: Node, where: Location) -> str:
    text = read_text(node, where)
    if not _PURL.fullmatch(text):
        raise FieldError(
            f"invalid package URL {text[:80]!r}", "write pkg:TYPE/NAME@VERSION, such as pkg:pypi/flask@3.0.0"
        )
    return text


#: Keys of every type of source; locators, never part of a key.
UPSTREAM_FIELDS: Final[dict[str, Any]] = {
    "update": Field(_update, schema_of(_UPDATE), "where `doit outdated` and `doit update` look for newer versions"),
    "purl": Field(_purl, {"type": "string", "pattern": "^pkg:[A-Za-z][A-Za-z0-9.+-]*/"}).about(
        "package URL, for `doit audit` and `doit sbom`, instead of the one that the URL suggests"
    ),
}
