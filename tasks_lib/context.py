"""Build what every step needs from settings and environment: the one composition root of graph and fetch_content."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal

from tasks_lib.cache import Cache
from tasks_lib.formats import mtime_for, writer_version
from tasks_lib.limits import Limits
from tasks_lib.network import RepositorySettings
from tasks_lib.settings import Settings

if TYPE_CHECKING:
    from tasks_lib.download import Downloader
    from tasks_lib.download.unverified import UnverifiedDownloader
    from tasks_lib.signature import Gpg
    from tasks_lib.transport import Transport


if TYPE_CHECKING:
    shared = cached_property
else:

    class shared(cached_property):  # noqa: N801  # reads as the decorator that it is
        """A cached property that two threads never compute twice; since Python 3.12 that of functools has no lock."""

        def __get__(self, instance: Any, owner: type | None = None) -> Any:
            with instance.lock:
                return super().__get__(instance, owner)


class Context:
    """Hold what the steps of one run share; each part is created on first use."""

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        *,
        mirrors: Literal["definitions", "none"] = "definitions",
    ) -> None:
        """Create it.

        Args:
            settings: of the run.
            environ: what a toolchain's command inherits.
            mirrors: "definitions": their `mirrors.yml` says where a redirect may lead; "none": anywhere.
        """
        self.settings: Final = settings
        self.environ: Final = environ
        self._mirrors: Final = mirrors
        self.lock: Final = threading.RLock()
        # directory of records -> the list of deliveries, for which it was looked through in this run
        self.looked_through: Final[dict[str, object]] = {}

    @shared
    def store(self) -> Cache:
        """The store."""
        return Cache(self.settings.cache, self.settings.store)

    @shared
    def _transport(self) -> Transport:
        from tasks_lib.transport import Transport

        own = self.settings.transport
        if self._mirrors == "none":
            return Transport(own)
        try:
            text = (self.settings.fetchdefs / "mirrors.yml").read_text("utf-8")
        except (OSError, UnicodeDecodeError):  # there is none, or the definitions were refused for it
            return Transport(own)
        from tasks_lib.definitions.mirrors import mirrors_of

        # where definitions lead is judged with them; a redirect may lead anywhere
        return Transport(own, mirrors_of(text).refusal)

    @shared
    def sources(self) -> Downloader:
        """Where blobs come from; what opens sockets is loaded when the first one is needed."""
        from tasks_lib.download import Downloader

        return Downloader(self.store, self._transport, self.settings.policy)

    @shared
    def unpinned(self) -> UnverifiedDownloader:
        """Where content comes from that nobody pinned."""
        from tasks_lib.download.unverified import UnverifiedDownloader

        return UnverifiedDownloader(self.store, self._transport, self.settings.policy)

    @shared
    def gpg(self) -> Gpg:
        """gpg, as the environment finds it."""
        from tasks_lib.signature import Gpg

        return Gpg(self.environ.get("PATH", os.defpath))

    @property
    def repositories(self) -> RepositorySettings:
        """How programs that fetch from repositories are run."""
        return RepositorySettings(
            environ=self.environ,
            transport=self.settings.transport,
            protocols=self.settings.git_protocols,
            known_hosts=self.settings.known_hosts,
            max_bytes=self.settings.limits.max_total_bytes,
        )

    @property
    def mtime(self) -> int:
        """The time of every entry of the archives that this run writes."""
        return mtime_for(self.settings.source_date_epoch)

    @property
    def writer_version(self) -> str:
        """What the keys of the archives that this run writes contain."""
        return writer_version(self.mtime)

    def limits(self, own: tuple[tuple[str, int | str], ...]) -> Limits:
        """Return the limits of an archive whose definition says `own`; the settings say the rest."""
        named: dict[str, Any] = dict(own)
        return self.settings.limits._replace(**named)
