"""Members: the blobs of which a definition consists, obtained in parallel, cached and shared as downloads are."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from urllib.parse import urlsplit

import msgspec

from tasks_lib.context import Context
from tasks_lib.definitions import Fetch, StaticUrl
from tasks_lib.digest import Integrity
from tasks_lib.download import Request
from tasks_lib.errors import AllSourcesFailedError
from tasks_lib.gil import serialized
from tasks_lib.network import redacted
from tasks_lib.parallel import open_pool
from tasks_lib.progress import FailedSource, Progress, Stoppable
from tasks_lib.steps.static_url import SMALL, build_request


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A blob of a definition; `urls` are tried in order, `home` is the one that names it."""

    path: str
    integrity: Integrity
    urls: tuple[str, ...]
    home: str

    @property
    def download(self) -> StaticUrl:
        """The blob as a download."""
        return StaticUrl(
            url=self.urls[0],
            mirrors=self.urls[1:],
            integrity=self.integrity,
            artifact_name=self.path.rpartition("/")[2],
            repack="never",
        )

    def request(self, context: Context, fetch: Fetch) -> Request:
        """Return what to download, from the places that mirrors.yml gives for the URLs."""
        source = self.download
        placed = msgspec.structs.replace(fetch, source=source, platforms=())
        source = msgspec.structs.replace(source, rewritten=context.mirrors.places(placed, source))
        request = build_request(context, f"{fetch.name}: {self.path}", source)
        return dataclasses.replace(request, home=self.home)


def obtain_members(
    context: Context, fetch: Fetch, members: Iterable[Member], progress: Progress, *, hint: str = ""
) -> None:
    """Obtain the blobs that the cache lacks; see `obtaining`.

    Raises:
        AllSourcesFailedError, OfflineError, CacheUnavailableError, CancelledError: as `obtaining`.
    """
    with obtaining(context, fetch, members, progress, hint=hint):
        pass


@contextlib.contextmanager
def obtaining(
    context: Context, fetch: Fetch, members: Iterable[Member], progress: Progress, *, hint: str = ""
) -> Iterator[Callable[[Integrity], None]]:
    """Obtain the blobs that the cache lacks while the block runs, in their order; the block ends when all are there.

    Yield a function that returns once the cache has a blob. If some have no source, the others are obtained before the
    context fails. A cached blob is not confirmed by its URL, as that of a download is: something signed names it.

    Args:
        context: the context of this run.
        fetch: the definition.
        members: its blobs.
        progress: receives the progress of all of them together.
        hint: the next step when a blob has no source; "" for that of a download.

    Raises:
        AllSourcesFailedError, OfflineError: a blob has no source; the hint says how many more have none.
        CacheUnavailableError, CancelledError: as `Downloader.obtain`.
    """
    lacking = list({one.integrity: one for one in members if not context.cache.has(one.integrity)}.values())
    if not lacking:
        yield lambda _: None
        return
    total = sum(one.integrity.size for one in lacking)
    progress.phase("connect", url=redacted(lacking[0].home), total=total)
    stoppable = Stoppable(progress)
    shared = _MemberProgress(stoppable, total)
    with open_pool(min(len(lacking), context.settings.jobs), stoppable, "member") as pool:
        tasks = {one.integrity: pool.submit(_obtain, context, fetch, one, shared) for one in lacking}
        with contextlib.suppress(AllSourcesFailedError):  # the block met one of the failures
            yield lambda integrity: tasks[integrity].result() if integrity in tasks else None
        failures = _await(list(tasks.values()))
    if failures:
        first, more = failures[0], len(failures) - 1
        first.hint = hint or first.hint
        first.hint += f"\n{more} more files of {fetch.name} have no source" if more else ""
        raise first


def _await(tasks: list[Future[None]]) -> list[AllSourcesFailedError]:
    """Wait for all tasks and return those failures after which the others go on; raise any other one at once."""
    pending = set(tasks)
    while pending:
        done, pending = wait(pending, return_when=FIRST_EXCEPTION)
        for task in done:
            if not isinstance(task.exception(), AllSourcesFailedError):
                task.result()
    failures = (task.exception() for task in tasks)
    return [error for error in failures if isinstance(error, AllSourcesFailedError)]


def _obtain(context: Context, fetch: Fetch, member: Member, progress: Progress) -> None:
    progress.check()
    with serialized(member.integrity.size, SMALL):
        name = f"{fetch.name}: {member.path}"
        if context.fleet is None or not context.sources.obtain_from_stores(name, member.integrity, progress):
            context.sources.obtain(member.request(context, fetch), progress)


class _MemberProgress:
    """The progress of all members as one phase; a source that fails for many of them is reported once.

    The phase has the host, or the store, that provides the first bytes.
    """

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._lock = progress, total, threading.Lock()
        self._has_begun = False
        self._failed: set[tuple[str, str]] = set()
        self.advance, self.check, self.warn = progress.advance, progress.check, progress.warn

    def phase(self, name: str, **facts: str | int | float) -> None:
        """Report the first phase with bytes for all members; ignore the others."""
        with self._lock:
            if name != "body" or self._has_begun:
                return
            self._has_begun = True
            host = urlsplit(str(facts.get("url", "")))._replace(path="/", query="", fragment="").geturl()
            store = {"store": facts["store"]} if "store" in facts else {}
            self._progress.phase("body", url=host, total=self._total, **store)

    def failed_source(self, source: FailedSource) -> None:
        """Report a source, unless another member reported its host."""
        key = source.role, urlsplit(source.url).netloc
        with self._lock:
            is_known = key in self._failed
            self._failed.add(key)
        if not is_known:
            self._progress.failed_source(source)
