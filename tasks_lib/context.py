"""The context of a run: build shared objects from settings and environment. Used by the graph and fetch_content."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from tasks_lib.cache import Cache, Options
from tasks_lib.errors import ToolError
from tasks_lib.formats import UNPACKED_VERSION, mtime_for, writer_version
from tasks_lib.fs.files import make_ignored_directory
from tasks_lib.host import digest_variables, machine_platform, platform_name
from tasks_lib.layout import find_layout
from tasks_lib.limits import Limits
from tasks_lib.network import Policy, RepositorySettings, TransportSettings
from tasks_lib.platforms import ALL
from tasks_lib.recipe import Configuration, Host, ImageDefaults
from tasks_lib.settings import Settings
from tasks_lib.vcs.urls import endpoint_of

if TYPE_CHECKING:
    from tasks_lib.definitions.mirrors import Mirrors
    from tasks_lib.download import Downloader
    from tasks_lib.download.unverified import UnverifiedDownloader
    from tasks_lib.network import Headers
    from tasks_lib.progress import Progress
    from tasks_lib.signature import Gpg
    from tasks_lib.store.fleet import Fleet
    from tasks_lib.store.opening import Opening
    from tasks_lib.transport import Transport


if TYPE_CHECKING:
    shared = cached_property
else:

    class shared(cached_property):  # noqa: N801  # used as a decorator
        """A cached property with a lock, so that threads compute it once; functools dropped its lock in Python 3.12."""

        def __get__(self, instance: Any, owner: type | None = None) -> Any:
            with instance.lock:
                return super().__get__(instance, owner)


#: Results of a shard that may wait until they are written: what a kill loses, beside what is being downloaded.
_SHARD_BACKLOG: Final = 64


class Context:
    """Objects that the steps of one run share; each is created on first use."""

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        *,
        mirrors: Literal["definitions", "none"] = "definitions",
        load_headers: Callable[[], Mapping[str, Headers]] = dict,
        artifact_paths: Callable[[str, int], Mapping[str, str]] = lambda _domain, _level: {},
    ) -> None:
        """Create the context without opening anything.

        Args:
            settings: the settings of the run.
            environ: the environment that a toolchain's command inherits.
            mirrors: "definitions": the `mirrors.yml` of the definitions restricts redirects; "none": no restriction.
            load_headers: reads the headers of each definition from its file, for values that are not cached.
            artifact_paths: returns which artifacts of Taskcluster's tasks the definitions reach, as `store.opening`.
        """
        self.settings: Final = settings
        self.environ: Final = environ
        self._mirrors: Final = mirrors
        self._load_headers: Final = load_headers
        self._artifact_paths: Final = artifact_paths
        self.lock: Final = threading.RLock()
        # digest and URL of the content that this run fetched from the URLs of definitions: all of it is confirmed
        self.fetched: Final[set[tuple[str, str]]] = set()
        # directory of manifests -> the deliveries for which stale entries were removed in this run
        self.cleaned_fetches: Final[dict[str, object]] = {}

    @shared
    def build(self) -> Path:
        """The build directory; the first access creates it, if it can be created: each step reports its own errors."""
        with contextlib.suppress(OSError):
            make_ignored_directory(self.settings.build, self.settings.durability)
        return self.settings.build

    @shared
    def cache(self) -> Cache:
        """The cache."""
        own = self.settings
        options = Options(own.durability, own.lock_timeout_s, trust=own.trust, shared=own.shared)
        return Cache(own.cache, options)

    @shared
    def mirrors(self) -> Mirrors:
        """What `mirrors.yml` says; nothing if it is missing or cannot be read."""
        from tasks_lib.definitions.mirrors import Mirrors, parse_mirrors  # needed only when a task downloads

        path = find_layout(self.settings.fetchdefs).mirrors_file
        try:
            return parse_mirrors(path.read_text("utf-8")) if path is not None else Mirrors()
        except (OSError, UnicodeDecodeError):  # missing, or already reported when loading definitions
            return Mirrors()

    @shared
    def transport(self) -> Transport:
        """The HTTP client."""
        own = self.settings.transport
        if self._mirrors == "none":
            return self._connect(own)
        # the URLs of definitions were checked when they were loaded; a redirect was not
        return self._connect(own, refusal=self.mirrors.refusal)

    def _connect(self, settings: TransportSettings, **rules: Callable[[str], str]) -> Transport:
        from tasks_lib.transport import Transport  # slow to import, needed only when a task downloads

        return Transport(settings, **rules, environ=self.environ)

    @shared
    def sources(self) -> Downloader:
        """The downloader of blobs."""
        from tasks_lib.download import Downloader  # slow to import, needed only when a task downloads

        return Downloader(self.cache, self.transport, self.settings.policy, fleet=self.fleet)

    @shared
    def fleet(self) -> Fleet | None:
        """The shared stores, None if the settings name none.

        Raises:
            SettingError: a key or a credential is not usable, or an extra is not installed.
        """
        return self.opening.fleet() if self.settings.stores else None

    @property
    def opening(self) -> Opening:
        """What the stores are opened with."""
        from tasks_lib.store.opening import Opening  # slow to import, needed only with a store

        own = self.settings
        return Opening(
            addresses=own.stores,
            settings=own.transport,
            connect=self._connect,
            environ=self.environ,
            cache=self.cache,
            keys=find_layout(own.fetchdefs).store_keys,
            trust=own.store_trust,
            write=own.store_write,
            network=own.policy.network,
            paths=self._artifact_paths,
            # what a killed shard had fetched but not written is fetched again by another machine
            backlog=_SHARD_BACKLOG if own.shard is not None else sys.maxsize,
        )

    @property
    def opened_fleet(self) -> Fleet | None:
        """The shared stores if this run asked for them, else None."""
        found: Fleet | None = vars(self).get("fleet")
        return found

    @shared
    def unverified(self) -> UnverifiedDownloader:
        """The downloader of content without a known digest."""
        return self._unverified(self.transport, self.settings.policy)

    def asking_once(self, transport: Transport) -> UnverifiedDownloader:
        """Return a downloader of content without a known digest from a store, which is never waited for."""
        return self._unverified(transport, self.settings.policy._replace(retries=0))

    def _unverified(self, transport: Transport, policy: Policy) -> UnverifiedDownloader:
        from tasks_lib.download.unverified import UnverifiedDownloader  # slow to import, needed only when it downloads

        return UnverifiedDownloader(self.cache, transport, policy)

    @shared
    def written_headers(self) -> Mapping[str, Headers]:
        """The headers of each definition as written in its file, with the names of variables.

        Raises:
            DefinitionError: a file is not valid any more.
        """
        return self._load_headers()

    @shared
    def gpg(self) -> Gpg:
        """The gpg program, found in the PATH of the environment."""
        from tasks_lib.signature import Gpg  # slow to import, needed only with signatures

        return Gpg(self.environ.get("PATH", os.defpath))

    def judge_repository(self, url: str, progress: Progress) -> None:
        """Check that the host of a checked repository URL is not in a denied network.

        Raises:
            TransportError: it is.
            CancelledError: the run is cancelled.
        """
        scheme, host, port = endpoint_of(url)
        if host:
            self.transport.judge(scheme, host, port, progress.check)

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

    @property
    def image_defaults(self) -> ImageDefaults:
        """The properties of images that their definitions do not contain."""
        selected = self.settings.platform
        platform = machine_platform() if selected in ("", ALL) else selected
        return ImageDefaults(
            machine=platform.partition("-")[2],
            created_s=self.settings.source_date_epoch,
            find_builder=self._find_mmdebstrap,
        )

    def _find_mmdebstrap(self) -> tuple[str, str]:
        """Return version and path of mmdebstrap, "" if it does not run here: the step that needs it reports that."""
        from tasks_lib.image.rootfs import find_mmdebstrap, mmdebstrap_version  # needed only for images with a base

        path = self.environ.get("PATH")
        with contextlib.suppress(ToolError):
            return mmdebstrap_version(path), find_mmdebstrap(path)
        return "", ""

    def configuration(self, passed: Iterable[str] = ()) -> Configuration:
        """Return everything besides the definitions that shapes the names of cache items in this run.

        Args:
            passed: names of the variables that definitions pass to their commands.
        """
        return Configuration(
            writer_version=self.writer_version,
            trees=UNPACKED_VERSION,
            limits=self.settings.limits._asdict(),
            link_mode=self.settings.link_mode,
            directory=str(Path.cwd()),
            host=Host(
                platform=platform_name(),
                identity=self.settings.host_identity,
                network=self.settings.toolchain_network,
                passed=self.settings.pass_env,
                variables=digest_variables(self.environ, passed) | dict(self.settings.passed),
            ),
        )

    def limits(self, own: tuple[tuple[str, int | str], ...]) -> Limits:
        """Return the limits of an archive: `own`, from its definition, over those of the settings."""
        named: dict[str, Any] = dict(own)
        return self.settings.limits._replace(**named)
