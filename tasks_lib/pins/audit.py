"""Audit of definitions: what makes them insecure, fragile or old. What cannot be known is said, never taken as good."""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from tasks_lib import recipe
from tasks_lib.context import Context
from tasks_lib.definitions import Checksums, Debian, DebianSource, Fetch, Git, Minisign, StaticUrl
from tasks_lib.errors import (
    CancelledError,
    FetchError,
    HttpStatusError,
    OfflineError,
    RedirectError,
    SignatureError,
    ToolError,
    TransportError,
    escape_text,
)
from tasks_lib.network import redacted
from tasks_lib.pins.answers import Upstream
from tasks_lib.pins.osv import AdvisoryVerdict, find_advisories
from tasks_lib.pins.outdated import Newest, look_up
from tasks_lib.pins.pages import Pages, Probe, map_concurrently
from tasks_lib.pins.questions import Question
from tasks_lib.pins.siblings import look_for_siblings
from tasks_lib.progress import Progress, Stoppable
from tasks_lib.signature import MAX_KEYS_BYTES, MAX_SIGNATURE_BYTES
from tasks_lib.signature.status import WARN_DAYS
from tasks_lib.steps.checks import find_pinned
from tasks_lib.steps.static_url import request_headers
from tasks_lib.vcs.urls import display_url

#: Every code of a finding, and its meaning.
CODES: Final = {
    "plain-http": "A URL uses plain http, so that everybody on the way sees and changes what is requested",
    "one-source": "Only one source has the content",
    "dead-source": "A source does not have the content any more, or its host does not answer",
    "redirect-drift": "A source redirects elsewhere than before, or serves something else",
    "unused-signature": "Upstream signs the file, but the definition verifies no signature",
    "key-expiry": "The key of a signature has expired or expires soon",
    "generated-archive": "A forge generates the archive on demand, and its bytes may change",
    "no-update-source": "Newer versions cannot be looked up",
    "advisory": "An advisory is known for this version",
}
#: Statuses that say nothing about the content. Source: RFC 9110 section 15.5, RFC 6585 section 4.
_NO_ANSWER: Final = (401, 403, 407, 429)
_GONE: Final = (404, 410)
#: Archives that a forge generates. Source: the URLs of GitHub, GitLab, Gitea and Bitbucket.
_GENERATED: Final = re.compile(
    r"https?://(?:codeload\.[^/]+/[^/]+/[^/]+/(?:legacy\.)?(?:tar\.gz|zip)/"
    r"|[^/]+/(?:[^/]+/){2,6}?-/archive/"
    r"|[^/]+/(?:[^/]+/){2,4}?(?:archive|tarball|zipball)/"
    r"|bitbucket\.org/[^/]+/[^/]+/get/)"
)
_SIGNATURES: Final = (".asc", ".sig", ".sign", ".minisig", "SHA256SUMS.asc")
#: Starts of signatures. Source: RFC 9580 section 6.2; minisign, "Signature format".
_ARMOR: Final = ("-----BEGIN PGP SIGNATURE-----", "untrusted comment:")
_PAGES: Final = ("text/html", "application/xhtml+xml")


class AuditFinding(NamedTuple):
    """A finding about a definition; `code` is one of `CODES`."""

    code: str
    message: str


class AuditReport(NamedTuple):
    """The findings about a definition, and what is not known about it."""

    name: str
    file: str
    line: int
    findings: tuple[AuditFinding, ...]
    not_covered: tuple[str, ...]


#: A finding, or a text about what is not covered.
AuditOutcome = AuditFinding | str


def audit(context: Context, fetches: Sequence[Fetch], osv: str, progress: Progress) -> list[AuditReport]:
    """Return the report about each definition, in their order.

    `osv` is the directory or URL of advisories, "" for none.

    Raises:
        SettingError: the directory of advisories does not exist.
        ArchiveError: an archive of advisories is damaged.
        CacheUnavailableError, CancelledError: as in every step.
    """
    verdicts = find_advisories(context, fetches, osv, progress) if osv else {}
    newest = {one.name: one for one in look_up(context, fetches, progress)}
    stoppable = Stoppable(progress)
    checks = _Checks(context, stoppable)

    def report(fetch: Fetch) -> AuditReport:
        outcomes = list(
            dict.fromkeys(
                [*checks.run(fetch), *_check_versions(newest[fetch.name]), *_list_advisories(verdicts.get(fetch.name))]
            )
        )
        findings = tuple(one for one in outcomes if isinstance(one, AuditFinding))
        return AuditReport(
            fetch.name, fetch.file, fetch.line, findings, tuple(one for one in outcomes if isinstance(one, str))
        )

    return map_concurrently(report, fetches, stoppable)


def _check_versions(newest: Newest) -> Iterator[AuditOutcome]:
    reason = newest.evidence.removeprefix("not covered: ")
    if newest.state == "unlisted":
        yield AuditFinding("no-update-source", f"newer versions cannot be looked up: {reason}; add `fetch.update`")
    elif newest.state in ("unknown", "not covered"):
        yield f"newer versions: {reason}"


def _list_advisories(verdict: AdvisoryVerdict | None) -> Iterator[AuditOutcome]:
    if verdict is None:
        yield "advisories: no source was given; use --osv"
        return
    for one in verdict.advisories:
        fixed = f"; fixed in {one.fixed}" if one.fixed else ""
        yield AuditFinding("advisory", f"{one.identity}: {one.summary or 'no summary'}{fixed}")
    if verdict.not_covered:
        yield f"advisories: {verdict.not_covered}"


class _Checks:
    """The checks of one definition at a time; several threads may use them."""

    def __init__(self, context: Context, progress: Progress) -> None:
        self._context, self._progress = context, progress
        self._pages = Pages(context, progress)
        self._upstream = Upstream(context, self._pages, progress)
        self._dead: dict[str, str] = {}  # host -> reason

    def run(self, fetch: Fetch) -> Iterator[AuditOutcome]:
        """Yield the outcomes of all checks but that of advisories."""
        source = fetch.source
        if isinstance(source, DebianSource):
            yield from self._check_source_package(fetch, source)
            return
        yield from _check_urls(fetch)
        if isinstance(source, StaticUrl):
            live = yield from self._check_sources(fetch, source)
            yield from self._check_siblings(fetch, source, live)
            yield from self._check_keys(source)
        elif isinstance(source, Git):
            yield from self._check_repository(source)
        elif isinstance(source, Debian):
            yield "sources: repositories of Debian packages are not asked; `doit update` resolves again"
        else:
            yield "sources: repositories of Mercurial are not asked"

    def _check_source_package(self, fetch: Fetch, source: DebianSource) -> Iterator[AuditOutcome]:
        """Yield the outcomes for the file that a source package pins; the files beside it are where it is."""
        integrity = find_pinned(self._context, source)
        if integrity is None:
            yield "sources: the definition has no size, and the file was not fetched yet"
            return
        pinned = source.file(integrity)
        places = self._context.mirrors.places(msgspec.structs.replace(fetch, source=pinned), pinned)
        pinned = msgspec.structs.replace(pinned, rewritten=places)
        placed = msgspec.structs.replace(fetch, source=pinned)
        yield from _check_urls(placed)
        yield from self._check_sources(placed, pinned)
        for path in source.key_files:
            for fingerprint in source.signed_by:
                yield from self._check_key(path, path, fingerprint)

    def _check_repository(self, source: Git) -> Iterator[AuditOutcome]:
        try:
            self._upstream.ask(Question("git-tags", source.repo))
        except (OfflineError, ToolError) as error:
            yield f"sources: {error.message}"
        except CancelledError:
            raise
        except FetchError as error:
            yield AuditFinding("dead-source", error.message)

    def _headers(self, fetch: Fetch, source: StaticUrl, url: str) -> dict[str, str]:
        return dict(request_headers(self._context, fetch.name, source)) if url == source.url else {}

    def _check_sources(self, fetch: Fetch, source: StaticUrl) -> Generator[AuditOutcome, None, str]:
        """Yield what the sources say, without downloading; return the first one that answers, "" for none."""
        live = ""
        for url in (url for url in source.locations if urlsplit(url).scheme in ("http", "https")):
            if reason := self._dead.get(_host(url)):
                yield AuditFinding("dead-source", f"{redacted(url)}: {reason}")
                continue
            try:
                yield from self._check_source(fetch, source, url)
                live = live or url
            except OfflineError:
                yield "sources and signatures: the network is off"
                return ""
            except CancelledError:
                raise
            except FetchError as error:
                yield self._judge_failure(url, error)
        return live

    def _check_source(self, fetch: Fetch, source: StaticUrl, url: str) -> Iterator[AuditOutcome]:
        """Yield what a source says.

        Raises:
            FetchError: it does not say that it has the content.
        """
        probe = self._pages.probe(url, size=source.integrity.size, headers=self._headers(fetch, source, url))
        known = self._context.cache.result(recipe.fetch_key(source.integrity))
        recorded = str(known.provenance.get("url", "")) if known is not None else ""
        if reason := _describe_drift(source, url, probe, recorded):
            yield AuditFinding("redirect-drift", f"{redacted(url)} {reason}")

    def _judge_failure(self, url: str, error: FetchError) -> AuditOutcome:
        shown = redacted(url)
        if isinstance(error, RedirectError):
            return AuditFinding("redirect-drift", f"{shown}: {error.message}")
        if isinstance(error, HttpStatusError):
            if error.status == 206:
                return AuditFinding("redirect-drift", f"{shown} serves content of another size: {error.message}")
            if error.status in _NO_ANSWER:
                return f"sources: {shown}: HTTP status {error.status}"
            reason = f"HTTP status {error.status}" + (": the file is gone" if error.status in _GONE else "")
            return AuditFinding("dead-source", f"{shown}: {reason}")
        reason = error.message.removeprefix(f"{_host(url)}: ")  # the URL names the host
        self._dead[_host(url)] = reason
        return AuditFinding("dead-source", f"{shown}: {reason}")

    def _check_siblings(self, fetch: Fetch, source: StaticUrl, live: str) -> Iterator[AuditOutcome]:
        if source.vouchers or not live:
            return
        try:
            headers = self._headers(fetch, source, live)
            siblings = look_for_siblings(self._context, live, headers, self._progress)
        except CancelledError:
            raise
        except FetchError as error:
            yield f"signatures: {error.message}"
            return
        if siblings.failure:
            yield f"signatures: {siblings.failure}"
        for url in (siblings.existing[name].url for name in _SIGNATURES if name in siblings.existing):
            if self._is_signature(url, headers):
                yield AuditFinding("unused-signature", f"{redacted(url)} exists, but no signature is verified")

    def _is_signature(self, url: str, headers: Mapping[str, str]) -> bool:
        """Return whether a URL has a signature: a server may answer a HEAD for everything, or for nothing."""
        try:
            text = self._pages.get(url, limit=MAX_SIGNATURE_BYTES, headers=headers).text
        except TransportError:
            return False
        return text.startswith(_ARMOR) or text[:1] > "\x7f"  # a binary OpenPGP packet, decoded with replacements

    def _check_keys(self, source: StaticUrl) -> Iterator[AuditOutcome]:
        for voucher in source.vouchers:
            key = voucher.signed_by if isinstance(voucher, Checksums) else voucher
            if isinstance(key, Minisign):
                continue  # minisign keys do not expire
            yield from self._check_key(str(key.key_path), key.key_file, key.fingerprint)

    def _check_key(self, written: str, key_file: str, pinned: str) -> Iterator[AuditOutcome]:
        path = escape_text(written)
        try:
            with Path(key_file).open("rb") as file:
                keys = file.read(MAX_KEYS_BYTES)
            expiries = self._context.gpg.list_expiries(keys, pinned, self._progress)
        except OSError as error:
            yield f"key expiry: {path}: {error.strerror}"
            return
        except (ToolError, SignatureError) as error:
            yield f"key expiry: {path}: {error.message}"
            return
        now = time.time()
        for fingerprint, expires in expiries.items():
            days = int((expires - now) // 86400)
            if expires and days < WARN_DAYS:
                date = datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%d")
                verb = f"expires in {days} days," if expires > now else "expired"
                yield AuditFinding("key-expiry", f"key {fingerprint} of {path} {verb} on {date}")


def _check_urls(fetch: Fetch) -> Iterator[AuditOutcome]:
    """Yield what the definition itself shows."""
    source = fetch.source
    if isinstance(source, Debian | DebianSource):
        return  # plain HTTP is usual: the indexes are signed
    if not isinstance(source, StaticUrl):
        if source.repo.startswith(("http:", "git:")):
            yield AuditFinding("plain-http", f"{display_url(source.repo)} is not encrypted")
        return
    for url in _list_urls(source):
        if url.lower().startswith("http:"):
            yield AuditFinding("plain-http", f"{redacted(url)} is not encrypted")
    # a content-addressed source may have the content, or not
    if len(set(source.locations)) < 2:
        only = redacted(next(iter(source.locations), source.url))
        yield AuditFinding("one-source", f"only {only} has the content: add `mirrors:` or a group in mirrors.yml")
    if _GENERATED.match(source.url):
        message = "is generated on demand: use a file of the release, or `type: git`"
        yield AuditFinding("generated-archive", f"{redacted(source.url)} {message}")


def _list_urls(source: StaticUrl) -> Iterable[str]:
    """Return the URLs of the content and of its signatures, each once."""
    found = [*source.locations]
    for voucher in source.vouchers:
        if isinstance(voucher, Checksums):
            found.append(voucher.url.replace("{url}", source.url))
            found.append(voucher.signed_by.sig_url.replace("{url}", voucher.url))
        else:
            found.append(voucher.sig_url.replace("{url}", source.url))
    return dict.fromkeys(found)


def _describe_drift(source: StaticUrl, url: str, probe: Probe, recorded: str) -> str:
    """Return how a response differs from what the definition and its last download say, "" if it does not.

    `recorded` is the final URL of the last download, "" if it is not known.
    """
    if probe.size not in (-1, source.integrity.size):
        return f"announces {probe.size} bytes instead of {source.integrity.size}"
    if probe.kind in _PAGES and probe.size == -1 and not source.file_name.lower().endswith((".html", ".htm", ".xhtml")):
        return "answers with a page of a browser"
    here, there = redacted(url), probe.url
    if probe.moved:
        return f"moved permanently to {probe.moved}"
    if recorded == here and there != here:
        return f"redirects to {there} now"
    own = {redacted(place.url) for place in source.places}
    if recorded and recorded not in own and there != here and _host(recorded) != _host(there):
        return f"redirects to {there} now, formerly to {recorded}"
    return ""


def _host(url: str) -> str:
    return urlsplit(url).netloc
