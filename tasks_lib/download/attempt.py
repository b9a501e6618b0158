"""One attempt: read a response into the partial download, resume if possible, and verify the result."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

from tasks_lib.cache import Cache, Partial
from tasks_lib.cache.results import list_previous_artifacts
from tasks_lib.download.hosts import Hosts
from tasks_lib.download.source_state import LOOK_BYTES, Assembly, Download, SourceState
from tasks_lib.download.split import RateMonitor, SlowDownloadError, SplitDownload, SplitPlan
from tasks_lib.errors import IntegrityError, SizeMismatchError, TransportError, escape_text
from tasks_lib.fs.local_urls import open_local, translate_read_errors
from tasks_lib.network import Policy
from tasks_lib.transport import Response, Transport, redacted

if TYPE_CHECKING:
    from tasks_lib.download.diagnosis import Diagnosis

#: Size in bytes up to which wrong content is read to its end in any case, and the multiple of the expected size: only
#: the digest of the whole content can be pinned, or shows that only `size:` is wrong.
_READ_WHOLE_BYTES: Final = 16 << 20
_READ_WHOLE_TIMES: Final = 2
#: Largest wrong content that is read to its end for the diagnosis.
_MAX_DIAGNOSED_BYTES: Final = 256 << 20

_Details = dict[str, str | int | float]


class _Received(NamedTuple):
    """A body that arrived: the facts for the provenance, and what returns the words for its sender in an error.

    `is_whole` says whether it was read to its end, and is the content itself, without a Content-Encoding.
    """

    facts: _Details
    describe_sender: Callable[[], str]
    is_whole: bool = True


class Reader:
    """Runs attempts; shared by all threads of a run."""

    def __init__(self, cache: Cache, transport: Transport, policy: Policy, hosts: Hosts) -> None:
        self._cache, self._transport, self._policy, self._hosts = cache, transport, policy, hosts
        self._segments = SplitDownload(transport, policy, hosts)

    def once(self, download: Download, source: SourceState) -> _Details:
        """Request the content from one source once and publish it as a blob; return the facts for the provenance.

        Raises:
            IntegrityError: the content does not match; it is in quarantine, and the message describes it.
            TransportError: the content is incomplete; the bytes that arrived are kept if they can be resumed.
        """
        if source.origin is None:
            facts: _Details = {"url": redacted(source.url)}
            self._read_file(download, source)
        else:
            facts = self._read_url(download, source)
        download.progress.phase("verify")
        self._cache.finish(download.partial)
        return facts

    # --- files

    def _read_file(self, download: Download, source: SourceState) -> None:
        partial, progress = download.partial, download.progress
        partial.restart("")
        progress.phase("body", url=redacted(source.url), total=partial.expected.size)
        limit = _diagnosed_bytes(partial.expected.size)
        with open_local(source.url) as file:
            while partial.size <= limit:
                space = partial.space(limit + 1 - partial.size)
                with translate_read_errors():
                    count = os.readv(file.fileno(), [space])
                if not count:
                    break
                partial.extend(count)
                progress.advance(count)
                progress.check()
        try:
            partial.verify()
        except IntegrityError as error:
            self._explain_mismatch(error, download, source, "", size=partial.size if partial.size <= limit else -1)
            raise

    # --- responses

    def _read_url(self, download: Download, source: SourceState) -> _Details:
        """Read one response to its end; split the download if it is slow."""
        assert source.origin is not None
        with self._hosts.turn(source.origin, redacted(source.url), download.progress):
            source.retry.begin()
            try:
                result = self._resume_split(download, source) or self._read_in_order(download, source)
            except TransportError:
                self._drop_repeated_secret(download)
                raise
        try:
            download.partial.verify()
        except IntegrityError as error:
            size = download.partial.size if result.is_whole else -1
            self._explain_mismatch(error, download, source, result.describe_sender(), size=size)
            raise
        return result.facts

    def _resume_split(self, download: Download, source: SourceState) -> _Received | None:
        """Fetch the pieces that an earlier attempt left; return None when there are none of this origin."""
        partial = download.partial
        here = partial.origin == str(source.origin)
        if not (partial.is_split and here and self._policy.connections > 1 and source.can_split):
            return None
        facts: _Details = {"url": redacted(source.url), "resumed": partial.size}
        download.progress.phase("body", url=redacted(source.url), total=partial.expected.size, resumed=partial.size)
        source.assembly = Assembly.SPLIT
        connections = self._segments.run(download, source, SplitPlan.of(download, source, self._policy, self._hosts))
        sender = f" (split download from {redacted(source.url)})"
        return _Received(facts | {"connections": connections}, lambda: sender)

    def _read_in_order(self, download: Download, source: SourceState) -> _Received:
        pace = RateMonitor(download, source, self._policy, self._hosts)
        try:
            with self._asked(download, source, pace) as response:
                self._begin_body(download, source, response)
                assert source.origin is not None
                self._hosts.alive(source.origin)
                source.assembly = Assembly.RESUMED if response.start > 0 else Assembly.ONE_RESPONSE
                facts = {name: self._redacted(fact) for name, fact in _response_facts(response).items()}
                result = _Received(facts, lambda: _describe_sender(response))
                pace.begin(response)
                is_whole = self._read_body(download, response)
        except SlowDownloadError as slow:
            source.assembly = Assembly.SPLIT
            connections = self._segments.run(download, source, slow.plan)
            return _Received(result.facts | {"connections": connections}, result.describe_sender)
        return result._replace(is_whole=is_whole)

    def _asked(
        self, download: Download, source: SourceState, check: Callable[[], None]
    ) -> contextlib.AbstractContextManager[Response]:
        """Return the context of a request for the bytes that are missing."""
        partial, size = download.partial, download.wanted.integrity.size
        resumable = partial.validator and 0 < partial.size < size
        # a validator is valid only at its own origin; elsewhere only the digest shows whether the parts match
        validator = partial.validator if partial.origin == str(source.origin) else ""
        download.progress.phase("connect", url=redacted(source.url), total=size)
        return self._transport.open(
            source.url,
            headers=download.headers_for(source.url),
            size=size,
            offset=partial.size if resumable else 0,
            validator=validator if resumable else "",
            ends=source.retry.ends,
            check=check,
            asked=lambda: download.progress.phase("first-byte", url=redacted(source.url), total=size),
        )

    def _begin_body(self, download: Download, source: SourceState, response: Response) -> None:
        """Let the partial download begin or continue with a response."""
        self._check_length(download, source, response)
        if response.start == 0:
            validator = response.validator
            is_clean = self._redacted(validator) == validator
            download.partial.restart(validator if is_clean else "", str(source.origin))
        total = download.wanted.integrity.size
        download.progress.phase("body", url=response.url, total=total, resumed=response.start)

    def _check_length(self, download: Download, source: SourceState, response: Response) -> None:
        """Reject a response of the wrong length, and read only what the diagnosis needs.

        The bytes of earlier responses are kept: they are not affected by a login page, for example.
        """
        partial, size, length = download.partial, download.wanted.integrity.size, response.length
        if response.start or length in (-1, size):
            return
        small = length <= _diagnosed_bytes(size) and not partial.size
        sample = LOOK_BYTES if small or response.kind.startswith("text/") else 0
        start = io.BytesIO()
        with contextlib.suppress(TransportError):
            for chunk in response.chunks(length if small else min(length, sample)):
                (partial.append if small else start.write)(chunk)
        message = f"expected {size} bytes, but the server announces {length}"
        error = SizeMismatchError(message, expected=size, actual=length)
        if partial.size and not small:
            self._explain(error, self._verdict(download, source, start, length), _describe_sender(response))
            raise error
        whole = -1 if small and response.encoding else length
        self._explain_mismatch(error, download, source, _describe_sender(response), size=whole)
        raise error

    @staticmethod
    def _read_body(download: Download, response: Response) -> bool:
        """Append the body; return whether it was read to its end.

        One byte more than expected shows that the body is too long; more bytes are read for the diagnosis only.
        """
        partial, progress = download.partial, download.progress
        size = partial.expected.size
        try:
            for count in response.receive(size + 1 - partial.size, partial.space):
                partial.extend(count)
                progress.advance(count)
                progress.check()
        except TransportError:
            if partial.size != size:  # a failure after the last expected byte does not matter
                raise
        if partial.size < size and partial.digest != str(partial.expected.digest):
            raise TransportError(f"the connection ended after {partial.size} of {size} bytes", transient=True)
        return (partial.size <= size or _read_rest(partial, response)) and not response.encoding

    # --- errors

    def _drop_repeated_secret(self, download: Download) -> None:
        """Drop an incomplete body that contains a credential: an error page, not the wanted content."""
        if 0 < download.partial.size <= _MAX_DIAGNOSED_BYTES:
            with download.partial.reading() as file:
                if self._transport.sent.are_in(file):
                    download.partial.restart("")

    def _redacted(self, fact: str | int | float) -> str | int | float:
        return self._transport.sent.redact(fact) if isinstance(fact, str) else fact

    def _explain_mismatch(
        self, error: IntegrityError, download: Download, source: SourceState, sender: str, *, size: int
    ) -> None:
        """Move wrong bytes to quarantine, and add to the error what they are, who sent them, and the next step.

        `size` is that of the whole content, -1 if it is unknown.
        """
        partial = download.partial
        is_whole = partial.size == size
        with partial.reading() as file:
            digest = partial.digest if is_whole else ""
            self._explain(error, self._verdict(download, source, file, max(size, partial.size), digest), sender)
            repeats_secret = self._transport.sent.are_in(file)
        error.pin = _format_pin(partial.digest, size) if is_whole and size else ""
        if repeats_secret:
            partial.restart("")
            error.message += "; not kept, because it contains a credential that was sent"
        elif partial.size:
            aside = partial.quarantine(f"{download.wanted.name}: {error.message}")
            error.message += f"; kept as {escape_text(str(aside))}"

    def _explain(self, error: IntegrityError, diagnosis: Diagnosis, sender: str) -> None:
        error.message += self._transport.sent.redact(f": {diagnosis.words}{sender}")
        error.hint = diagnosis.advice

    def _verdict(
        self, download: Download, source: SourceState, file: BinaryIO, size: int, digest: str = ""
    ) -> Diagnosis:
        from tasks_lib.download.diagnosis import diagnose  # slow to import, needed only for wrong bytes

        wanted = download.wanted
        return diagnose(
            file,
            size=size,
            expected=wanted.integrity,
            name=wanted.name_in_url(),
            digest=digest,
            earlier=list_previous_artifacts(self._cache.root, wanted.name),
            ends=source.retry.begin(),
            check=download.progress.check,
        )


def _diagnosed_bytes(size: int) -> int:
    """Return the size up to which content is read to its end although it has another size than the expected one."""
    return max(size + 1, min(max(_READ_WHOLE_TIMES * size, _READ_WHOLE_BYTES), _MAX_DIAGNOSED_BYTES))


def _read_rest(partial: Partial, response: Response) -> bool:
    """Append the rest of a body that is too long, within a limit; return whether it was read to its end."""
    limit = _diagnosed_bytes(partial.expected.size)
    try:
        for count in response.receive(limit + 1 - partial.size, partial.space):
            partial.extend(count)
    except TransportError:
        return False
    return partial.size <= limit and not response.broken


def _format_pin(digest: str, size: int) -> str:
    """Return digest and size as lines to paste into a definition."""
    return f"    {digest.replace(':', ': ')}\n    size: {size}"


def _response_facts(response: Response) -> _Details:
    facts: _Details = {"url": response.url}
    if "Date" in response.headers:
        facts["server_date"] = escape_text(response.headers["Date"][:64])
    return facts | ({"resumed": response.start} if response.start else {})


def _describe_sender(response: Response) -> str:
    """Return a description of the sender: status, media type, final URL, date, and the applied Content-Encoding."""
    kind = f" {escape_text(response.kind[:40])}" if response.kind else ""
    applied = (
        f"; the server applied Content-Encoding {escape_text(response.encoding[:40])}" if response.encoding else ""
    )
    date = f", {escape_text(response.headers['Date'][:40])}" if "Date" in response.headers else ""
    return f" (HTTP {response.status}{kind} from {response.url}{date}){applied}"
