"""One attempt: an answer read into the partial download, resumed when it can be, judged at its end."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final, NamedTuple

from tasks_lib.cache import Cache
from tasks_lib.cache.previous import earlier
from tasks_lib.download.diagnosis import LOOK_BYTES, Diagnosis, diagnose
from tasks_lib.download.hosts import Hosts
from tasks_lib.download.local_files import open_local, readable
from tasks_lib.download.source_state import Assembly, Download, SourceState
from tasks_lib.download.split import RateMonitor, SlowDownloadError, SplitDownload, SplitPlan
from tasks_lib.errors import IntegrityError, SizeMismatchError, TransportError, escaped
from tasks_lib.network import Policy
from tasks_lib.transport import CHUNK, Response, Transport, redacted

#: Bytes beyond the promised size that are read of a wrong content, for its autopsy alone.
_BEYOND: Final = LOOK_BYTES
#: Largest wrong content that is read to its end for its autopsy.
_MAX_WRONG: Final = 256 << 20

#: Bytes from which a file is read in large pieces, and the pieces of a smaller one: many of those run at a time.
_LARGE: Final = 8 << 20
_SMALL_READ: Final = 256 << 10

_Details = dict[str, str | int | float]


class _Received(NamedTuple):
    """A body that arrived: the facts for the provenance, and the words that name its sender in an error."""

    facts: _Details
    sender: str


class Reader:
    """Makes attempts; shared by all threads of a run."""

    def __init__(self, store: Cache, transport: Transport, policy: Policy, hosts: Hosts) -> None:
        self._store, self._transport, self._policy, self._hosts = store, transport, policy, hosts
        self._segments = SplitDownload(transport, policy, hosts)

    def once(self, hunt: Download, trial: SourceState) -> _Details:
        """Ask one source once, and publish what it gave; return where it came from.

        Raises:
            IntegrityError: the content is not the promised one; it is in quarantine, and the message says what it is.
            TransportError: it did not arrive; what arrived stays when it can be resumed.
        """
        if trial.origin is None:
            facts: _Details = {"url": trial.url}
            self._read_file(hunt, trial)
        else:
            facts = self._read_url(hunt, trial)
        hunt.progress.phase("verify")
        self._store.finish(hunt.partial)
        return facts

    # --- files

    def _read_file(self, hunt: Download, trial: SourceState) -> None:
        partial, progress = hunt.partial, hunt.progress
        partial.restart("")
        progress.phase("body", url=trial.url, total=partial.expected.size)
        with open_local(trial.url) as file:
            while partial.size <= partial.expected.size:
                with readable():
                    chunk = file.read(min(CHUNK, partial.expected.size + 1 - partial.size))
                if not chunk:
                    break
                partial.append(chunk)
                progress.advance(len(chunk))
                progress.check()
        with self._explained(hunt, "", size=partial.size):
            partial.verify()

    # --- answers

    def _read_url(self, hunt: Download, trial: SourceState) -> _Details:
        """Read one answer to its end, over more connections when it comes slowly."""
        assert trial.origin is not None
        with self._hosts.turn(trial.origin, redacted(trial.url), hunt.progress):
            trial.retry.begin()
            result = self._in_pieces(hunt, trial) or self._in_order(hunt, trial)
        with self._explained(hunt, result.sender, size=hunt.partial.size):
            hunt.partial.verify()
        return result.facts

    def _in_pieces(self, hunt: Download, trial: SourceState) -> _Received | None:
        """Fetch the pieces that an earlier attempt left; return None when there are none of this origin."""
        partial = hunt.partial
        here = partial.origin == str(trial.origin)
        if not (partial.is_split and here and self._policy.connections > 1 and trial.can_split):
            return None
        facts: _Details = {"url": redacted(trial.url), "resumed": partial.size}
        hunt.progress.phase("body", url=redacted(trial.url), total=partial.expected.size, resumed=partial.size)
        trial.assembly = Assembly.SPLIT
        connections = self._segments.run(hunt, trial, SplitPlan.of(hunt, trial, self._policy, self._hosts))
        return _Received(facts | {"connections": connections}, f" (in pieces from {redacted(trial.url)})")

    def _in_order(self, hunt: Download, trial: SourceState) -> _Received:
        pace = RateMonitor(hunt, trial, self._policy, self._hosts)
        try:
            with self._asked(hunt, trial, pace) as response:
                assert trial.origin is not None
                self._hosts.alive(trial.origin)
                trial.assembly = Assembly.RESUMED if response.start > 0 else Assembly.ONE_RESPONSE
                result = _Received(_facts(response), _told(response))
                pace.begin(response)
                self._read_body(hunt, response)
        except SlowDownloadError as slow:
            trial.assembly = Assembly.SPLIT
            connections = self._segments.run(hunt, trial, slow.crew)
            return _Received(result.facts | {"connections": connections}, result.sender)
        return result

    @contextlib.contextmanager
    def _asked(self, hunt: Download, trial: SourceState, check: Callable[[], None]) -> Iterator[Response]:
        partial, size = hunt.partial, hunt.wanted.integrity.size
        resumable = partial.validator and 0 < partial.size < size
        # at another origin the validator says nothing; there the digest alone tells whether the parts fit
        validator = partial.validator if partial.origin == str(trial.origin) else ""
        hunt.progress.phase("connect", url=redacted(trial.url), total=size)
        with self._transport.open(
            trial.url,
            headers=hunt.wanted.headers_for(trial.url),
            size=size,
            offset=partial.size if resumable else 0,
            validator=validator if resumable else "",
            ends=trial.retry.ends,
            check=check,
            asked=lambda: hunt.progress.phase("first-byte", url=redacted(trial.url), total=size),
        ) as response:
            self._check_length(hunt, response)
            if response.start == 0:
                partial.restart(response.validator, str(trial.origin))
            hunt.progress.phase("body", url=response.url, total=size, resumed=response.start)
            yield response

    def _check_length(self, hunt: Download, response: Response) -> None:
        """Refuse an answer of another length at once; what there is of it is looked at, and no more.

        What an earlier answer brought stays: a login page says nothing about it.
        """
        partial, size, length = hunt.partial, hunt.wanted.integrity.size, response.length
        if response.start or length in (-1, size):
            return
        small = length <= min(size + _BEYOND, _MAX_WRONG) and not partial.size
        sample = LOOK_BYTES if small or response.kind.startswith("text/") else 0
        start = io.BytesIO()
        with contextlib.suppress(TransportError):
            for chunk in response.chunks(length if small else min(length, sample)):
                (partial.append if small else start.write)(chunk)
        told = f"expected {size} bytes, but the server announces {length}"
        error = SizeMismatchError(told, expected=size, actual=length)
        if partial.size and not small:
            self._explain(error, self._verdict(hunt, start, length), _told(response))
            raise error
        with self._explained(hunt, _told(response), size=length):
            raise error

    @staticmethod
    def _read_body(hunt: Download, response: Response) -> None:
        """Append the body; one byte more than promised is enough to know that it is too long."""
        partial, progress = hunt.partial, hunt.progress
        size = partial.expected.size
        try:
            for chunk in response.chunks(size + 1 - partial.size, CHUNK if size >= _LARGE else _SMALL_READ):
                partial.append(chunk)
                progress.advance(len(chunk))
                progress.check()
        except TransportError:
            if partial.size != size:  # what comes after the last promised byte is of no interest
                raise
        if partial.size < size:
            raise TransportError(f"the connection ended after {partial.size} of {size} bytes", transient=True)

    # --- what is wrong

    @contextlib.contextmanager
    def _explained(self, hunt: Download, told: str, *, size: int) -> Iterator[None]:
        """Put wrong bytes into quarantine, and say what they are, who sent them, and what to do."""
        try:
            yield
        except IntegrityError as error:
            with hunt.partial.reading() as file:
                self._explain(error, self._verdict(hunt, file, size), told)
            if hunt.partial.size:
                aside = hunt.partial.quarantine(f"{hunt.wanted.name}: {error.message}")
                error.message += f"; kept as {escaped(str(aside))}"
            raise

    @staticmethod
    def _explain(error: IntegrityError, verdict: Diagnosis, told: str) -> None:
        error.message += f": {verdict.words}{told}"
        error.hint = verdict.advice

    def _verdict(self, hunt: Download, file: BinaryIO, size: int) -> Diagnosis:
        wanted = hunt.wanted
        kept = earlier(self._store.root, wanted.name)
        return diagnose(file, size=size, expected=wanted.integrity, name=wanted.name_in_url(), earlier=kept)


def _facts(response: Response) -> _Details:
    facts: _Details = {"url": response.url}
    if "Date" in response.headers:
        facts["server_date"] = escaped(response.headers["Date"][:64])
    return facts | ({"resumed": response.start} if response.start else {})


def _told(response: Response) -> str:
    """Return who sent it: status, type, final URL and the server's date, and what was done to it."""
    kind = f" {escaped(response.kind[:40])}" if response.kind else ""
    applied = f"; the server applied Content-Encoding {escaped(response.encoding[:40])}" if response.encoding else ""
    date = f", {escaped(response.headers['Date'][:40])}" if "Date" in response.headers else ""
    return f" (HTTP {response.status}{kind} from {response.url}{date}){applied}"
