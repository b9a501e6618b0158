"""The context of a run: build shared objects from settings and environment. Used by the graph and fetch_content."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal

from tasks_lib.cache import Cache
from tasks_lib.formats import mtime_for, writer_version
from tasks_lib.layout import find_layout
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

    class shared(cached_property):  # noqa: N801  # used as a decorator
        """A cached property with a lock, so that threads compute it once; functools dropped its lock in Python 3.12."""

        def __get__(self, instance: Any, owner: type | None = None) -> Any:
            with instance.lock:
                return super().__get__(instance, owner)


class Context:
    """Objects that the steps of one run share; each is created on first use."""

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        *,
        mirrors: Literal["definitions", "none"] = "definitions",
    ) -> None:
        """Create the context without opening anything.

        Args:
            settings: the settings of the run.
            environ: the environment that a toolchain's command inherits.
            mirrors: "definitions": the `mirrors.yml` of the definitions restricts redirects; "none": no restriction.
        """
        self.settings: Final = settings
        self.environ: Final = environ
        self._mirrors: Final = mirrors
        self.lock: Final = threading.RLock()
        # directory of manifests -> the deliveries for which stale entries were removed in this run
        self.cleaned_fetches: Final[dict[str, object]] = {}

    @shared
    def cache(self) -> Cache:
        """The cache."""
        return Cache(self.settings.cache, self.settings.cache_options)

    @shared
    def _transport(self) -> Transport:
        from tasks_lib.transport import Transport  # slow to import, needed only when a task downloads

        own = self.settings.transport
        if self._mirrors == "none":
            return Transport(own)
        path = find_layout(self.settings.fetchdefs).mirrors_file
        try:
            text = path.read_text("utf-8") if path is not None else ""
        except (OSError, UnicodeDecodeError):  # missing, or already reported when loading definitions
            return Transport(own)
        from tasks_lib.definitions.mirrors import parse_mirrors  # needed only when a task downloads

        # the URLs of definitions were checked when they were loaded; a redirect was not
        return Transport(own, parse_mirrors(text).refusal)

    @shared
    def sources(self) -> Downloader:
        """The downloader of blobs."""
        from tasks_lib.download import Downloader  # slow to import, needed only when a task downloads

        return Downloader(self.cache, self._transport, self.settings.policy)

    @shared
    def unverified(self) -> UnverifiedDownloader:
        """The downloader of content without a known digest."""
        from tasks_lib.download.unverified import UnverifiedDownloader  # slow to import, needed only when it downloads

        return UnverifiedDownloader(self.cache, self._transport, self.settings.policy)

    @shared
    def gpg(self) -> Gpg:
        """The gpg program, found in the PATH of the environment."""
        from tasks_lib.signature import Gpg  # slow to import, needed only with signatures

        return Gpg(self.environ.get("PATH", os.defpath))

    @property
    def repositories(self) -> RepositorySettings:
        """The settings for running git and hg."""
        return RepositorySettings(
            environ=self.environ,
            transport=self.settings.transport,
            protocols=self.settings.git_protocols,
            known_hosts=self.settings.known_hosts,
            max_bytes=self.settings.limits.max_total_bytes,
        )

    @property
    def mtime(self) -> int:
        """The modification time of every entry of the archives that this run writes."""
        return mtime_for(self.settings.source_date_epoch)

    @property
    def writer_version(self) -> str:
        """The version of the archive writer, part of the keys of archives that this run writes."""
        return writer_version(self.mtime)

    def limits(self, own: tuple[tuple[str, int | str], ...]) -> Limits:
        """Return the limits of an archive: `own`, from its definition, over those of the settings."""
        named: dict[str, Any] = dict(own)
        return self.settings.limits._replace(**named)
