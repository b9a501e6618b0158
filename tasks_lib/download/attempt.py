"""One attempt: read a response into the partial download, resume if possible, and verify the result."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final, NamedTuple

from tasks_lib.cache import Cache
from tasks_lib.cache.results import list_previous_artifacts
from tasks_lib.download.diagnosis import LOOK_BYTES, Diagnosis, diagnose
from tasks_lib.download.hosts import Hosts
from tasks_lib.download.local_files import open_local, translate_read_errors
from tasks_lib.download.source_state import Assembly, Download, SourceState
from tasks_lib.download.split import RateMonitor, SlowDownloadError, SplitDownload, SplitPlan
from tasks_lib.errors import IntegrityError, SizeMismatchError, TransportError, escape_text
from tasks_lib.network import Policy
from tasks_lib.transport import CHUNK, Response, Transport, redacted

#: Bytes read beyond the expected size of wrong content, for the diagnosis only.
_EXTRA_BYTES: Final = LOOK_BYTES
#: Largest wrong content that is read to its end for the diagnosis.
_MAX_DIAGNOSED_BYTES: Final = 256 << 20

#: Least size in bytes of a file that is read in chunks of `CHUNK`, and the chunk size for smaller files: many of those
#: are downloaded at the same time.
_LARGE: Final = 8 << 20
_SMALL_READ: Final = 256 << 10

_Details = dict[str, str | int | float]


class _Received(NamedTuple):
    """A body that arrived: the facts for the provenance, and the words that name its sender in an error."""

    facts: _Details
    sender: str


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
        with open_local(source.url) as file:
            while partial.size <= partial.expected.size:
                with translate_read_errors():
                    chunk = file.read(min(CHUNK, partial.expected.size + 1 - partial.size))
                if not chunk:
                    break
                partial.append(chunk)
                progress.advance(len(chunk))
                progress.check()
        with self._explain_mismatch(download, source, "", size=partial.size):
            partial.verify()

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
        with self._explain_mismatch(download, source, result.sender, size=download.partial.size):
            download.partial.verify()
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
        return _Received(facts | {"connections": connections}, f" (split download from {redacted(source.url)})")

    def _read_in_order(self, download: Download, source: SourceState) -> _Received:
        pace = RateMonitor(download, source, self._policy, self._hosts)
        try:
            with self._asked(download, source, pace) as response:
                assert source.origin is not None
                self._hosts.alive(source.origin)
                source.assembly = Assembly.RESUMED if response.start > 0 else Assembly.ONE_RESPONSE
                facts = {name: self._redacted(fact) for name, fact in _response_facts(response).items()}
                result = _Received(facts, _describe_sender(response))
                pace.begin(response)
                self._read_body(download, response)
        except SlowDownloadError as slow:
            source.assembly = Assembly.SPLIT
            connections = self._segments.run(download, source, slow.plan)
            return _Received(result.facts | {"connections": connections}, result.sender)
        return result

    @contextlib.contextmanager
    def _asked(self, download: Download, source: SourceState, check: Callable[[], None]) -> Iterator[Response]:
        partial, size = download.partial, download.wanted.integrity.size
        resumable = partial.validator and 0 < partial.size < size
        # a validator is valid only at its own origin; elsewhere only the digest shows whether the parts match
        validator = partial.validator if partial.origin == str(source.origin) else ""
        download.progress.phase("connect", url=redacted(source.url), total=size)
        with self._transport.open(
            source.url,
            headers=download.headers_for(source.url),
            size=size,
            offset=partial.size if resumable else 0,
            validator=validator if resumable else "",
            ends=source.retry.ends,
            check=check,
            asked=lambda: download.progress.phase("first-byte", url=redacted(source.url), total=size),
        ) as response:
            self._check_length(download, source, response)
            if response.start == 0:
                is_clean = self._redacted(response.validator) == response.validator
                partial.restart(response.validator if is_clean else "", str(source.origin))
            download.progress.phase("body", url=response.url, total=size, resumed=response.start)
            yield response

    def _check_length(self, download: Download, source: SourceState, response: Response) -> None:
        """Reject a response of the wrong length at once, and read only what the diagnosis needs.

        The bytes of earlier responses are kept: they are not affected by a login page, for example.
        """
        partial, size, length = download.partial, download.wanted.integrity.size, response.length
        if response.start or length in (-1, size):
            return
        small = length <= min(size + _EXTRA_BYTES, _MAX_DIAGNOSED_BYTES) and not partial.size
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
        with self._explain_mismatch(download, source, _describe_sender(response), size=length):
            raise error

    @staticmethod
    def _read_body(download: Download, response: Response) -> None:
        """Append the body; read at most one byte more than expected, which shows that the body is too long."""
        partial, progress = download.partial, download.progress
        size = partial.expected.size
        try:
            for chunk in response.chunks(size + 1 - partial.size, CHUNK if size >= _LARGE else _SMALL_READ):
                partial.append(chunk)
                progress.advance(len(chunk))
                progress.check()
        except TransportError:
            if partial.size != size:  # a failure after the last expected byte does not matter
                raise
        if partial.size < size:
            raise TransportError(f"the connection ended after {partial.size} of {size} bytes", transient=True)

    # --- errors

    def _drop_repeated_secret(self, download: Download) -> None:
        """Drop an incomplete body that contains a credential: an error page, not the wanted content."""
        if 0 < download.partial.size <= _MAX_DIAGNOSED_BYTES:
            with download.partial.reading() as file:
                if self._transport.sent.are_in(file):
                    download.partial.restart("")

    def _redacted(self, fact: str | int | float) -> str | int | float:
        return self._transport.sent.redact(fact) if isinstance(fact, str) else fact

    @contextlib.contextmanager
    def _explain_mismatch(self, download: Download, source: SourceState, sender: str, *, size: int) -> Iterator[None]:
        """Move wrong bytes to quarantine, and add to the error what they are, who sent them, and the next step."""
        try:
            yield
        except IntegrityError as error:
            with download.partial.reading() as file:
                self._explain(error, self._verdict(download, source, file, size), sender)
                repeats_secret = self._transport.sent.are_in(file)
            if repeats_secret:
                download.partial.restart("")
                error.message += "; not kept, because it contains a credential that was sent"
            elif download.partial.size:
                aside = download.partial.quarantine(f"{download.wanted.name}: {error.message}")
                error.message += f"; kept as {escape_text(str(aside))}"
            raise

    def _explain(self, error: IntegrityError, diagnosis: Diagnosis, sender: str) -> None:
        error.message += self._transport.sent.redact(f": {diagnosis.words}{sender}")
        error.hint = diagnosis.advice

    def _verdict(self, download: Download, source: SourceState, file: BinaryIO, size: int) -> Diagnosis:
        wanted = download.wanted
        return diagnose(
            file,
            size=size,
            expected=wanted.integrity,
            name=wanted.name_in_url(),
            earlier=list_previous_artifacts(self._cache.root, wanted.name),
            ends=source.retry.begin(),
            check=download.progress.check,
        )


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
