"""Newest versions of definitions: ask each project once, then compare what it has with what each definition has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal, NamedTuple

from tasks_lib.context import Context
from tasks_lib.definitions import Fetch, Git, Hg
from tasks_lib.definitions.expressions import compile_expression
from tasks_lib.errors import CancelledError, FetchError, HttpStatusError, escape_text
from tasks_lib.network import redacted
from tasks_lib.pins.answers import Candidate, Upstream, UpstreamAnswer
from tasks_lib.pins.pages import Pages, describe_failure, map_concurrently
from tasks_lib.pins.questions import Inquiry, Question, inquire
from tasks_lib.pins.versions import (
    Tag,
    find_version,
    has_common_prefix,
    is_newer,
    is_prerelease,
    is_version,
    middle,
    parse_tag,
    spell_like,
    version_at,
    version_key,
)
from tasks_lib.progress import Progress, Stoppable
from tasks_lib.vcs.urls import display_url

#: Endings of archives, of which a project may choose another one for a new version.
_ARCHIVE: Final = re.compile(r"\.(?:tar\.(?:gz|bz2|xz|zst|lz|lzma|Z)|tgz|tbz2?|txz|tzst|zip|tar)$")


LookupState = Literal["current", "older", "unknown", "unlisted", "not covered"]
#: Statuses of a page or repository that does not exist.
_MISSING: Final = (404, 410)


class Newest(NamedTuple):
    """The newest version of a definition; `have` and `newest` are "" if unknown.

    `state`: "current", "older" (a newer version exists), "unknown" (upstream did not answer), "unlisted" (no place that
    lists versions is known, or it lists none), or "not covered" (there is no version to compare). `evidence` is what
    names the version, or the reason. `tag` and `commit` are those of the newest version, "" if unknown.
    """

    name: str
    have: str
    newest: str
    where: str
    evidence: str
    state: LookupState
    tag: str = ""
    commit: str = ""


class _VersionMatch(NamedTuple):
    """A candidate that is a version of the project."""

    version: str
    candidate: Candidate


def look_up(context: Context, fetches: Iterable[Fetch], progress: Progress) -> list[Newest]:
    """Return the newest version of each definition, in their order; each project is asked once.

    Raises:
        CancelledError: the run was asked to stop.
        CacheUnavailableError: the cache cannot be used.
    """
    inquiries = [inquire(fetch, context.settings.github_api) for fetch in fetches]
    questions = list(dict.fromkeys(one.question for one in inquiries if one.question is not None))
    stoppable = Stoppable(progress)
    answers = _ask(Upstream(context, Pages(context, stoppable), stoppable), questions, stoppable)
    return [_judge(one, answers) for one in inquiries]


def _ask(
    upstream: Upstream, questions: list[Question], progress: Stoppable
) -> Mapping[Question, UpstreamAnswer | FetchError]:
    def ask(question: Question) -> UpstreamAnswer | FetchError:
        try:
            return upstream.ask(question)
        except CancelledError:
            raise
        except FetchError as error:
            return error

    return dict(zip(questions, map_concurrently(ask, questions, progress), strict=True))


def _judge(inquiry: Inquiry, answers: Mapping[Question, UpstreamAnswer | FetchError]) -> Newest:
    name, have = inquiry.fetch.name, inquiry.have
    if inquiry.question is None:
        # a version of which nothing newer can be found is not known to be the newest one
        state: LookupState = "unlisted" if have or inquiry.update.origin else "not covered"
        return Newest(name, have, "", "", inquiry.reason, state)
    answer = answers[inquiry.question]
    if isinstance(answer, FetchError):
        question = inquiry.question
        where = display_url(question.url) if question.kind == "git-tags" else redacted(question.url)
        state = "unlisted" if isinstance(answer, HttpStatusError) and answer.status in _MISSING else "unknown"
        return Newest(name, have, "", where, describe_failure(answer), state)
    if (present := _find_present(inquiry, answer)) is not None:
        inquiry, have = inquiry._replace(present=present), present.version
    matches = list(_matches(inquiry, answer))
    if not matches:
        return Newest(name, have, "", answer.where, f"no version found among {_count(answer)}", "unlisted")
    newest = max(matches, key=lambda one: version_key(one.version))
    if not have:
        return Newest(name, "", newest.version, answer.where, "the present version is not known", "unlisted")
    if not is_newer(newest.version, have):
        return Newest(name, have, have, answer.where, f"{_count(answer)}, none newer", "current")
    candidate, version = newest.candidate, spell_like(newest.version, have)
    evidence = f"{candidate.kind} {escape_text(candidate.text[:80])}"
    tag = candidate.text if candidate.kind in ("tag", "release") else ""
    return Newest(name, have, version, answer.where, evidence, "older", tag, candidate.commit)


def _count(answer: UpstreamAnswer) -> str:
    kind = answer.candidates[0].kind if answer.candidates else "tag"
    count = len(answer.candidates)
    return f"{count} {kind}{'' if count == 1 else 's'}"


def _find_present(inquiry: Inquiry, answer: UpstreamAnswer) -> Tag | None:
    """Return the tag at the commit of a definition, of several one of the usual series, the newest one of that."""
    source = inquiry.fetch.source
    if not isinstance(source, Git | Hg):
        return None
    at = (parse_tag(one.text) for one in answer.candidates if one.commit == source.revision)
    found = [tag for tag in at if tag is not None]
    usual = [tag for tag in found if has_common_prefix(tag, "", inquiry.names)]
    return max(usual or found, key=lambda tag: version_key(tag.version), default=None)


def _matches(inquiry: Inquiry, answer: UpstreamAnswer) -> Iterator[_VersionMatch]:
    """Yield the candidates that are versions of the project and are not excluded."""
    update = inquiry.update
    ignore = compile_expression(update.ignore) if update.ignore else None
    for candidate in answer.candidates:
        versions = _expressed(update.match, candidate) if update.match else _derived(inquiry, candidate)
        for version in versions:
            if not version or (ignore is not None and (ignore.search(version) or ignore.search(_name(candidate)))):
                continue
            if update.prereleases or not (candidate.state or _is_prerelease(version, candidate)):
                yield _VersionMatch(version, candidate)


def _name(candidate: Candidate) -> str:
    """Return the text of a tag or a link, "" for a text with many versions."""
    return "" if candidate.kind == "text" else candidate.text


def _is_prerelease(version: str, candidate: Candidate) -> bool:
    tag = parse_tag(_name(candidate))
    return is_prerelease(version) or (tag is not None and is_prerelease(tag.version))


def _expressed(expression: str, candidate: Candidate) -> Iterator[str]:
    """Yield the versions that the expression of a definition finds."""
    pattern = compile_expression(expression)
    group = 1 if pattern.groups else 0
    for found in pattern.finditer(candidate.text):
        if candidate.kind == "text":  # the version may go on after the group: 2.0 of 2.0-rc1
            yield version_at(candidate.text, found.start(group)) or find_version(found[group])
        elif found[group]:
            tag = parse_tag(found[1]) if group else parse_tag(candidate.text) if candidate.kind != "link" else None
            yield tag.version if tag is not None else find_version(candidate.text)


def _derived(inquiry: Inquiry, candidate: Candidate) -> Iterator[str]:
    """Yield the version of a candidate that is named as the present one is."""
    if candidate.kind == "link":
        yield from filter(None, (_between(candidate.text, *pattern) for pattern in inquiry.patterns))
        return
    tag = parse_tag(candidate.text) if candidate.kind in ("tag", "release") else None
    present = inquiry.present or Tag("", "")
    if tag is not None and is_version(tag.version) and has_common_prefix(tag, present.prefix, inquiry.names):
        yield tag.version


def _between(name: str, before: str, after: str) -> str:
    """Return the version of a link that is named as a file or directory of the definition, "" for another one."""
    ending = _ARCHIVE.search(after)
    if ending is not None:
        own = _ARCHIVE.search(name)
        if own is None:
            return ""
        name, after = name[: own.start()], after[: ending.start()]
    version = middle(name, before, after)
    return version if is_version(version) else ""
