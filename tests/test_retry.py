"""The retry policy: how long each user of the network waits, when it does not, and that every wait can be cancelled."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from tasks_lib import gil
from tasks_lib.cache import Cache
from tasks_lib.download import Downloader
from tasks_lib.download.unverified import UnverifiedDownloader, UnverifiedRequest
from tasks_lib.errors import (
    AllSourcesFailedError,
    CancelledError,
    FetchError,
    HttpStatusError,
    TransportError,
    UnreachableError,
)
from tasks_lib.fetch_content.run import Run
from tasks_lib.network import Policy, TransportSettings
from tasks_lib.progress import LineProgress, Progress, Silent
from tasks_lib.retry import Retry, iterate_sources, retry_after_s
from tasks_lib.settings import Settings
from tasks_lib.steps.commit import commit_archive
from tasks_lib.transport import Transport
from tests.githost import http
from tests.origin import Origin, OriginRequest, in_turn, reply, serving
from tests.project import CLEAN, DODO, ROOT, definition, written
from tests.repositories import FILES, made
from tests.test_downloader import BODY, wanted
from tests.test_git import make_context, source

#: Seconds that a source has in these tests, when it is to have time for a wait of hours, and the time of the others.
AGES_S, TOTAL_S = 1e6, 60.0
POLICY = Policy(retries=1, backoff_s=0.0)


class Watching(LineProgress):
    """A progress that records waits as (URL, seconds, reason)."""

    def __init__(self) -> None:
        super().__init__(lambda _line: None, lambda _name, _facts: "")
        self.waits: list[tuple[str, float, str]] = []

    def phase(self, name: str, **facts: str | int | float) -> None:
        if name == "wait":
            self.waits.append((str(facts.get("url")), float(facts["seconds"]), str(facts.get("reason"))))


class Stopping(Watching):
    """A progress that cancels when the first wait begins."""

    def phase(self, name: str, **facts: str | int | float) -> None:
        super().phase(name, **facts)
        if name == "wait":
            self.cancel()


@dataclass
class Server:
    """A server that answers with 503 and Retry-After `refusals` times, and then with the content."""

    url: str
    refuse: Callable[[str, int], None]
    requests: Callable[[], int]


User = Callable[[Path, tuple[str, ...], float, Progress], object]
Sleep = Callable[[float], None]


def pinned(root: Path, urls: tuple[str, ...], total_s: float, progress: Progress, sleep: Sleep = time.sleep) -> object:
    transport = Transport(TransportSettings(total_timeout_s=total_s))
    return Downloader(Cache(root / "cache"), transport, POLICY, sleep).obtain(wanted(*urls), progress)


def unpinned(
    root: Path, urls: tuple[str, ...], total_s: float, progress: Progress, sleep: Sleep = time.sleep
) -> object:
    transport = Transport(TransportSettings(total_timeout_s=total_s))
    asked = UnverifiedRequest(name="a", urls=urls, limit=1 << 20)
    return UnverifiedDownloader(Cache(root / "cache"), transport, POLICY, sleep).obtain(asked, progress)


def secret(root: Path, urls: tuple[str, ...], total_s: float, progress: Progress) -> object:
    variables = {"cache": str(root / "cache"), "retries": "1", "backoff": "0", "total_timeout": str(total_s)}
    assert isinstance(progress, LineProgress)
    return Run(Settings.parse(variables=variables, environ={}), {}, progress).read(urls[0], 1 << 20)


def repository(root: Path, urls: tuple[str, ...], total_s: float, progress: Progress) -> object:
    home = make_context(root / "cache", retries="1", backoff="0", total_timeout=str(total_s))
    url, _, commit = urls[0].partition("#")
    return commit_archive(home, source(url, commit), progress)


@contextlib.contextmanager
def file_server(_root: Path) -> Iterator[Server]:
    with serving({"/a": reply(BODY)}) as origin:

        def refuse(retry_after: str, times: int) -> None:
            refusals = [reply(b"", "503 Busy", Retry_After=retry_after)] * times
            origin.answers["/a"] = in_turn(*refusals, reply(BODY))

        yield Server(f"{origin.url}/a", refuse, lambda: len(origin.requests))


@contextlib.contextmanager
def git_server(root: Path) -> Iterator[Server]:
    commit = made(root / "r", FILES)
    with http(root) as host:

        def refuse(retry_after: str, times: int) -> None:
            host.faults, host.retry_after = [503] * times, retry_after

        yield Server(
            f"{host.url}/r/.git#{commit}", refuse, lambda: sum(line.startswith("GET") for line in host.requests)
        )


USERS: dict[str, tuple[User, Callable[[Path], contextlib.AbstractContextManager[Server]]]] = {
    "pinned": (pinned, file_server),
    "unpinned": (unpinned, file_server),
    "repository": (repository, git_server),
    "secret": (secret, file_server),
}


def date(seconds: float) -> str:
    """Return an HTTP date that many seconds from now."""
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


#: Retry-After, made when the test runs -> seconds that are waited for.
KEPT: dict[str, tuple[Callable[[], str], list[float]]] = {
    "0": (lambda: "0", []),
    "1": (lambda: "1", [1.0]),
    "a date gone by": (lambda: date(-3600), []),
    "neither": (lambda: "soon", []),
}


@pytest.mark.slow
@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("case", KEPT)
def test_a_wait_within_the_time_is_kept(tmp_path: Path, user: str, case: str) -> None:
    """Each user waits as long as the server asks, reports the wait, and retries once."""
    (ask, server), (text, waits) = USERS[user], KEPT[case]
    watching = Watching()
    with server(tmp_path) as one:
        one.refuse(text(), 1)
        ask(tmp_path, (one.url,), TOTAL_S, watching)
        assert one.requests() == 2
    assert [seconds for _, seconds, _ in watching.waits] == waits
    assert all(one.url.startswith(url) and "503" in reason for url, _, reason in watching.waits)


#: Retry-After -> what the message says of it.
TOO_LONG: dict[str, tuple[Callable[[], str], str]] = {
    "seconds": (lambda: "3600", "asks to wait 3600 s"),
    "a date": (lambda: date(3600), "asks to wait 3[56].. s"),
    "the very time": (lambda: "60", "asks to wait 60 s"),
}


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("case", TOO_LONG)
def test_a_longer_wait_ends_the_source(tmp_path: Path, user: str, case: str) -> None:
    """Each user gives up at once when the wait exceeds its deadline; the error has both times and the setting."""
    (ask, server), (text, printed) = USERS[user], TOO_LONG[case]
    watching = Watching()
    with server(tmp_path) as one:
        one.refuse(text(), 9)
        with pytest.raises(FetchError, match=rf"503.*{printed}, but \d.* s are left.*FETCH_TOTAL_TIMEOUT_S=\d+ allows"):
            ask(tmp_path, (one.url,), TOTAL_S, watching)
        assert one.requests() == 1
    assert watching.waits == []


@pytest.mark.parametrize(
    ("user", "default_s"), [("pinned", 300), ("unpinned", 300), ("secret", 300), ("repository", 7200)]
)
def test_the_time_without_a_setting(tmp_path: Path, user: str, default_s: int) -> None:
    """Without FETCH_TOTAL_TIMEOUT_S the size decides, or the most that is accepted; a repository has two hours."""
    ask, server = USERS[user]
    with server(tmp_path) as one:
        one.refuse("8000", 9)
        with pytest.raises(FetchError, match=f"FETCH_TOTAL_TIMEOUT_S={8000 + default_s} allows"):
            ask(tmp_path, (one.url,), 0.0, Watching())


def test_the_time_of_a_large_file_of_unknown_size(tmp_path: Path) -> None:
    """The default deadline grows with the size."""
    stopping = Stopping()
    with file_server(tmp_path) as one:
        one.refuse("8000", 9)
        asked = UnverifiedRequest(name="a", urls=(one.url,), limit=1 << 30)
        with pytest.raises(CancelledError):
            UnverifiedDownloader(Cache(tmp_path / "cache"), Transport(), POLICY).obtain(asked, stopping)
    assert [seconds for _, seconds, _ in stopping.waits] == [8000]


@pytest.mark.slow
@pytest.mark.parametrize("user", ["pinned", "unpinned"])
@pytest.mark.parametrize(
    ("retry_after", "first", "second"),
    [
        (lambda: "0", 2, 0),
        (lambda: "1", 2, 0),
        (lambda: date(2), 2, 0),
        (lambda: "30", 1, 1),
        (lambda: date(30), 1, 1),
        (lambda: "3600", 1, 1),
        (lambda: date(3600), 1, 1),
    ],
    ids=["0", "1", "a date soon", "30", "a date", "too long", "a date too far"],
)
def test_another_place_comes_first(
    tmp_path: Path, user: str, retry_after: Callable[[], str], first: int, second: int
) -> None:
    """A short wait is kept although there is another source; instead of a long wait, that source is tried first."""
    ask, server = USERS[user]
    watching = Watching()
    with server(tmp_path) as one, server(tmp_path) as other:
        one.refuse(retry_after(), 1)
        ask(tmp_path, (one.url, other.url), TOTAL_S, watching)
        assert (one.requests(), other.requests()) == (first, second)
    assert len(watching.waits) <= first - 1


@pytest.mark.parametrize("ask", [pinned, unpinned])
def test_a_postponed_place_is_still_waited_for(tmp_path: Path, ask: Callable[..., object]) -> None:
    """When the others fail, the rest of the wait is kept; the source that is ready first is tried first."""
    watching = Watching()
    with file_server(tmp_path) as one, file_server(tmp_path) as two, serving({}) as none:
        one.refuse("3000", 1)
        two.refuse("2000", 9)
        ask(tmp_path, (one.url, two.url, f"{none.url}/a"), AGES_S, watching, lambda _: None)
        assert (one.requests(), two.requests(), len(none.requests)) == (2, 3, 1)
    assert [url for url, _, _ in watching.waits] == [two.url, two.url, one.url]
    assert [seconds > 1000 for _, seconds, _ in watching.waits] == [True] * 3


@pytest.mark.parametrize("user", ["pinned", "unpinned"])
def test_a_place_that_ended_is_not_asked_again(tmp_path: Path, user: str) -> None:
    """When every source fails, one with a too long wait was tried once, and the error has each reason."""
    ask, server = USERS[user]
    with server(tmp_path) as one, serving({}) as other:
        one.refuse("3600", 9)
        with pytest.raises(AllSourcesFailedError) as caught:
            ask(tmp_path, (one.url, f"{other.url}/a"), TOTAL_S, Watching())
        assert (one.requests(), len(other.requests)) == (1, 1)
    assert [attempt.url for attempt in caught.value.attempts] == [one.url, f"{other.url}/a"]
    assert "asks to wait 3600 s" in str(caught.value) and "HTTP 404" in str(caught.value)


# --- stopping


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("text", [lambda: "7200", lambda: date(7200)], ids=["seconds", "a date"])
def test_a_wait_ends_when_the_run_stops(tmp_path: Path, user: str, text: Callable[[], str]) -> None:
    """A wait of hours within the deadline ends when the run is cancelled, without another request."""
    ask, server = USERS[user]
    watching = Stopping()
    with server(tmp_path) as one:
        one.refuse(text(), 9)
        with pytest.raises(CancelledError):
            ask(tmp_path, (one.url,), AGES_S, watching)
        assert one.requests() == 1
    assert [7000 < seconds <= 7200 for _, seconds, _ in watching.waits] == [True]


@pytest.mark.parametrize("user", ["pinned", "unpinned"])
def test_a_postponed_wait_ends_when_the_run_stops(tmp_path: Path, user: str) -> None:
    """The rest of a wait, after the other sources failed, ends when the run is cancelled, too."""
    ask, server = USERS[user]
    with server(tmp_path) as one, serving({}) as other:
        one.refuse("7200", 9)
        with pytest.raises(CancelledError):
            ask(tmp_path, (one.url, f"{other.url}/a"), AGES_S, Stopping())
        assert (one.requests(), len(other.requests)) == (1, 1)


@pytest.mark.parametrize("user", ["pinned", "unpinned", "secret"])
def test_an_answer_that_does_not_come_ends_when_the_run_stops(tmp_path: Path, user: str) -> None:
    """Waiting for a server that does not answer ends when the run is cancelled, not at the deadline."""
    watching = Watching()

    def mute(connection: socket.socket, _request: OriginRequest) -> None:
        watching.cancel()
        connection.recv(1)

    with serving({"/a": mute}) as origin:
        with pytest.raises(CancelledError):
            USERS[user][0](tmp_path, (f"{origin.url}/a",), AGES_S, watching)
        assert len(origin.requests) == 1


BUSY = reply(b"", "503 Busy", Retry_After="7200")


def doit_download(root: Path, origin: Origin) -> list[str]:
    text = definition("lib", f"{origin.url}/a", BODY)
    written(root, {"dodo.py": DODO, "fetchdefs/fetch/all.yml": text})
    return ["doit", "-r", "lines", "fetch:lib"]


def doit_repository(root: Path, origin: Origin) -> list[str]:
    text = f"r:\n  description: r\n  fetch: {{type: git, repo: {origin.url}, revision: {'a' * 40}}}\n"
    written(root, {"dodo.py": DODO, "fetchdefs/fetch/all.yml": text})
    return ["doit", "-r", "lines", "fetch:r"]


def task_artifact(_root: Path, _origin: Origin) -> list[str]:
    return ["tasks_lib.fetch_content", "task-artifacts", "-d", "fetches"]


def ssh_secret(_root: Path, _origin: Origin) -> list[str]:
    return [
        "tasks_lib.fetch_content",
        "git-checkout-archive",
        "--ssh-key-secret",
        "s",
        "ssh://h/r",
        "a" * 40,
        "x.tar.zst",
    ]


#: What is run -> what it says when it waits, and its status after SIGINT.
COMMANDS: dict[str, tuple[Callable[[Path, Origin], list[str]], str, int]] = {
    "pinned": (doit_download, " in 7200", 130),
    "unpinned": (task_artifact, "sleeping for 7200", -signal.SIGINT),
    "repository": (doit_repository, " in 7200", 130),
    "secret": (ssh_secret, "sleeping for 7200", -signal.SIGINT),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_an_interrupt_ends_a_wait(tmp_path: Path, case: str) -> None:
    """Ctrl-C ends each command that waits for hours, after one request."""
    command, printed, status = COMMANDS[case]
    paths = ("/a", "/info/refs", "/api/queue/v1/task/TASK/artifacts/public/a", "/api/secrets/v1/secret/s")
    with serving(dict.fromkeys(paths, BUSY)) as origin:
        fetches = json.dumps([{"artifact": "public/a", "task": "TASK", "extract": False}])
        names = ("TASKCLUSTER_ROOT_URL", "TASKCLUSTER_PROXY_URL")
        environ = {**CLEAN, **dict.fromkeys(names, origin.url), "MOZ_FETCHES": fetches, "PYTHONPATH": str(ROOT)}
        environ |= {"FETCH_BACKOFF_S": "0", "FETCH_TOTAL_TIMEOUT_S": "1000000", "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(
            [sys.executable, "-m", *command(tmp_path, origin)],
            cwd=tmp_path, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            before = list(itertools.takewhile(lambda line: printed not in line, process.stdout))
            process.send_signal(signal.SIGINT)
            after = process.communicate()[0]
        assert process.returncode == status, "".join(before) + after
        assert len(origin.requests) == 1
    assert "Traceback" not in after


# --- the policy itself


def waited(policy: Policy, errors: list[TransportError], total_s: float = 1e6, others: int = 0) -> list[float]:
    """Return the seconds that one source waits after each of these errors."""
    watching = Watching()
    retry = Retry(policy, total_s, lambda _: None)
    for error in errors:
        retry.again(error, watching, "u", others)
    return [seconds for _, seconds, _ in watching.waits]


def status(number: int, retry_after: float | None = None) -> HttpStatusError:
    return HttpStatusError("busy", status=number, transient=True, retry_after_s=retry_after)


@pytest.mark.parametrize(("number", "factor"), [(500, 1), (502, 1), (429, 5), (503, 5)])
def test_backoff_doubles_with_full_jitter(number: int, factor: int) -> None:
    """Pauses are random below a bound that doubles up to 30 s; five times that after 429 and 503."""
    runs = [waited(Policy(retries=4, backoff_s=2.0), [status(number)] * 6) for _ in range(200)]
    for attempt in range(4):
        found, most = [run[attempt] for run in runs], min(30.0, 2.0 * factor * 2**attempt)
        assert 0.9 * most < max(found) <= most and min(found) < 0.1 * most
    assert max(map(len, runs)) == 4


def test_jitter_is_above_what_the_server_asks_for_and_within_the_time() -> None:
    """A wait is never shorter than Retry-After, nor longer than the remaining time."""
    found = [waited(Policy(retries=1, backoff_s=9.0), [status(503, 20.0)], total_s=22.0)[0] for _ in range(100)]
    assert 20.0 <= min(found) < 21.0 < max(found) <= 22.0


def test_what_is_not_asked_again() -> None:
    """A permanent failure, exhausted retries and an expired deadline end a source without a wait."""
    assert waited(Policy(), [TransportError("refused")]) == []
    assert waited(Policy(retries=0), [status(503)]) == []
    assert waited(Policy(), [status(503)], total_s=0.0) == []


def test_a_silent_place_is_left_for_the_others_at_once() -> None:
    """A source that does not answer is retried after the others, without a wait, with its own deadline."""
    watching = Watching()
    retries = [Retry(POLICY, 60.0), Retry(POLICY, 60.0)]
    order = []
    for number, others in iterate_sources(retries, watching):
        order.append(number)
        retries[number].begin()
        retries[number].again(UnreachableError("nobody", transient=True), watching, "u", others)
    assert order == [0, 1, 0]
    assert watching.waits == []


def test_wrong_content_is_asked_for_once_more() -> None:
    """Damage in transit is repaired by one more request, if a retry is left."""
    assert [
        Retry(Policy(retries=0), 1.0).once_more(),
        (retry := Retry(Policy(), 1.0)).once_more(),
        retry.once_more(),
    ] == [
        False,
        True,
        False,
    ]


def test_a_wait_gives_the_turn_away() -> None:
    """A serialized thread lets others run while it waits, and continues serialized afterwards."""
    seen: list[object] = []
    retry = Retry(POLICY, 60.0, lambda _: seen.append(gil._own.turn))
    with gil.run_alone:
        retry.again(status(503, 0.15), Silent(), "u")
        assert gil._own.turn
    assert seen == [0, 0]


@pytest.mark.parametrize(("text", "seconds"), [("0", 0), (" 120 ", 120), ("Sun, 06 Nov 1994 08:49:37 GMT", 0)])
def test_retry_after(text: str, seconds: float) -> None:
    """Seconds and dates are parsed; a past date means no wait."""
    assert retry_after_s(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5", "1.5", "9" * 400, "Sun, 99 Nov 1994 08:49:37 GMT", "\u0661"])
def test_no_retry_after(text: str) -> None:
    """A value that is neither a number of seconds nor a date is ignored."""
    assert retry_after_s(text) is None
