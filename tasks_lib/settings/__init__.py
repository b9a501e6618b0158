"""Settings: their names, defaults and bounds. `table.py` has the table of all settings.

A setting comes from the command line (`doit cache=DIR`), else from the environment (`FETCH_CACHE_DIR`), else from
`[tool.doit-fetch]` in pyproject.toml, else from its default. The entry points pass environment and file in; no other
module reads them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from tasks_lib.errors import SettingError, escape_text
from tasks_lib.fs.trust import Trust, set_aside_artifacts
from tasks_lib.host import digest_variables
from tasks_lib.limits import Limits
from tasks_lib.named import NamedTuple
from tasks_lib.network import Policy, TransportSettings, read_secret
from tasks_lib.platforms import ALL, HINT, parse_platform
from tasks_lib.settings.project_file import ProjectFile, find_misspelt, list_credentials, load_project, normalize_table
from tasks_lib.settings.table import CA_VARIABLES, CONVENTIONS, SECRETS, SETTINGS, VARIABLE, Setting
from tasks_lib.settings.value import GivenValue, list_effective, parse_store_list, read_setting
from tasks_lib.shard import Shard

if TYPE_CHECKING:
    from tasks_lib.fs.copying import LinkMode
    from tasks_lib.fs.files import Durability
    from tasks_lib.fs.trust import Parents
    from tasks_lib.store import StoreAddress

__all__ = [
    "CONVENTIONS",
    "SECRETS",
    "SETTINGS",
    "GivenValue",
    "ProjectFile",
    "Setting",
    "Settings",
    "find_misspelt",
    "list_credentials",
    "list_effective",
    "load_project",
]

#: Maximum number of digits of a timestamp, more than any valid one has.
_DIGITS: Final = 18


class Settings(NamedTuple):
    """The settings of a run."""

    fetchdefs: Path
    cache: Path
    build: Path
    jobs: int
    policy: Policy
    transport: TransportSettings
    limits: Limits
    git_protocols: tuple[str, ...]
    known_hosts: str
    durability: Durability
    lock_timeout_s: float
    trust_group: str
    shared: Path | None
    link_mode: LinkMode
    progress: str = "auto"
    events: str = ""
    source_date_epoch: int | None = None
    topsrcdir: str = ""
    level: int = 3
    cache_parents: Parents = "refuse"
    pass_env: tuple[str, ...] = ()
    passed: tuple[tuple[str, str], ...] = ()  # name and digest of each value, which may be a secret
    toolchain_network: str = "on"
    host_identity: str = ""
    platform: str = ""  # "" for that of this machine, or "all"
    shard: Shard | None = None
    shard_by: str = "key"
    stores: tuple[StoreAddress, ...] = ()
    store_write: str = "auto"
    store_trust: str = ""  # "": signed if there are trusted keys, else none
    github_api: str = ""

    @property
    def trust(self) -> Trust:
        """The users who may write to the cache.

        Raises:
            SettingError: the trusted group does not exist.
        """
        return Trust.of(self.trust_group, self.cache_parents)

    def judge_cache(self) -> list[str]:
        """Check who can write to the cache, before anything in it is read; return warnings.

        Raises:
            CacheUnavailableError: untrusted users can write to the cache or to a parent of it.
            SettingError: the trusted group does not exist.
        """
        trust = self.trust
        warnings = [line for root in (self.cache, self.shared) if root for line in trust.require_root(root)]
        return warnings + set_aside_artifacts(self.cache, trust)

    @classmethod
    def parse(
        cls, *, variables: Mapping[str, Any], environ: Mapping[str, str], project: Mapping[str, Any] | None = None
    ) -> Settings:
        """Return the settings; variables take precedence over the environment, the environment over the project.

        Args:
            variables: `name=value` words of doit's command line; unknown names are ignored.
            environ: the process environment.
            project: the table `[tool.doit-fetch]`, its keys with dashes or underscores.

        Raises:
            SettingError: a value is invalid, or the table has an unknown key.
        """
        table = normalize_table(project or {})
        values = {one.environ: read_setting(one, variables, environ, table) for one in SETTINGS}
        pass_env = _pass_env(str(values["FETCH_PASS_ENV"]))
        stores = _stores(str(values["FETCH_STORE"]), environ)
        cache, private = Path(str(values["FETCH_CACHE_DIR"])), str(values["FETCH_PRIVATE_CACHE_DIR"])
        return cls(
            fetchdefs=Path(str(values["FETCHDEFS_DIR"])),
            cache=Path(private) if private else cache,
            build=Path(str(values["FETCH_BUILD_DIR"])),
            jobs=max(1, int(values["FETCH_JOBS"])),
            policy=Policy(
                retries=int(values["FETCH_RETRIES"]),
                backoff_s=float(values["FETCH_BACKOFF_S"]),
                jobs_per_host=max(1, int(values["FETCH_JOBS_PER_HOST"])),
                network="off" if int(values["FETCH_OFFLINE"]) else "on",
                connections=max(1, int(values["FETCH_CONNECTIONS"])),
                split_size=int(values["FETCH_SPLIT_SIZE"]),
            ),
            transport=TransportSettings(
                connect_timeout_s=float(values["FETCH_CONNECT_TIMEOUT_S"]),
                stall_timeout_s=float(values["FETCH_STALL_TIMEOUT_S"]),
                min_rate_bps=float(values["FETCH_MIN_RATE_BPS"]),
                total_timeout_s=float(values["FETCH_TOTAL_TIMEOUT_S"]),
                ca_bundle=next(filter(None, map(environ.get, CA_VARIABLES)), ""),
                proxies=_proxies(environ),
                no_proxy=environ.get("no_proxy") or environ.get("NO_PROXY", ""),
                netrc=_netrc(environ),
                denied=_networks(str(values["FETCH_DENY_NETWORKS"])),
                credentials=list_credentials(table),
            ),
            limits=_limits(values),
            git_protocols=tuple(str(values["FETCH_GIT_PROTOCOLS"]).replace(",", " ").split()),
            known_hosts=str(values["FETCH_SSH_KNOWN_HOSTS"]),
            durability=cast("Durability", values["FETCH_DURABILITY"]),
            lock_timeout_s=float(values["FETCH_LOCK_TIMEOUT_S"]),
            trust_group=str(values["FETCH_CACHE_TRUST_GROUP"]),
            shared=cache if private else None,
            link_mode=cast("LinkMode", values["FETCH_LINK_MODE"]),
            progress=str(values["FETCH_PROGRESS"]),
            events=str(values["FETCH_EVENTS"]),
            source_date_epoch=_epoch(environ),
            cache_parents=cast("Parents", values["FETCH_CACHE_PARENTS"]),
            topsrcdir=str(values["FETCH_TOPSRCDIR"]),
            level=int(values["FETCH_LEVEL"]),
            pass_env=pass_env,
            passed=tuple(digest_variables(environ, pass_env).items()),
            toolchain_network=str(values["FETCH_TOOLCHAIN_NETWORK"]),
            host_identity=str(values["FETCH_HOST_IDENTITY"]),
            platform=_platform(str(values["FETCH_PLATFORM"])),
            shard=_shard(str(values["FETCH_SHARD"]), stores, environ),
            shard_by=str(values["FETCH_SHARD_BY"]),
            stores=stores,
            store_write=str(values["FETCH_STORE_WRITE"]),
            store_trust=str(values["FETCH_STORE_TRUST"]),
            github_api=_api(str(values["FETCH_GITHUB_API"])),
        )


def _platform(text: str) -> str:
    name = text if text in ("", ALL) else parse_platform(text)
    if text and not name:
        raise SettingError(f"invalid value {text[:80]!r} for FETCH_PLATFORM: unknown platform", hint=f"{HINT}, or all")
    return name


def _shard(text: str, stores: tuple[StoreAddress, ...], environ: Mapping[str, str]) -> Shard | None:
    """Return the shard of a run, None for a run of everything.

    Raises:
        SettingError: it is not a shard, or there is no store.
    """
    if not text:
        return None
    if not stores:
        raise SettingError(
            f"shard={escape_text(text)} needs a store: no other machine could use what this one fetches",
            hint="set store=URL or FETCH_STORE",
        )
    return Shard.parse(text, environ)


def _stores(text: str, environ: Mapping[str, str]) -> tuple[StoreAddress, ...]:
    """Return the stores; check that their token goes to one server, and not unencrypted over a network.

    Raises:
        SettingError: the URLs or the use of the token are invalid.
    """
    if not text:
        return ()
    addresses = parse_store_list(text)
    http = [one for one in addresses if one.scheme in ("https", "http")]
    if read_secret(environ, "FETCH_STORE_TOKEN"):
        if len(http) > 1:
            hint = 'name a variable for each host in [tool.doit-fetch.auth."HOST"] instead'
            raise SettingError("FETCH_STORE_TOKEN is for one http store, and there are several", hint=hint)
        if any(not one.is_private for one in http):
            hint = "use https, or a store on this machine"
            raise SettingError("FETCH_STORE_TOKEN is not sent over plain http to another machine", hint=hint)
    return addresses


def _networks(text: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(",") if word.strip() and word.strip() != "none")
    for word in words:
        try:
            ipaddress.ip_network(word)
        except ValueError as error:
            raise SettingError(
                f"invalid value {word[:80]!r} for FETCH_DENY_NETWORKS: expected a network in CIDR notation",
                hint="write a network such as 10.0.0.0/8, or none",
            ) from error
    return words


def _api(text: str) -> str:
    if text and not re.fullmatch(r"https?://[A-Za-z0-9\[][^\s?#@]*", text):
        raise SettingError(
            f"invalid value {escape_text(text[:80])!r} for FETCH_GITHUB_API: expected a URL without a query",
            hint="write a URL such as https://github.example.org/api/v3",
        )
    return text.rstrip("/")


def _pass_env(text: str) -> tuple[str, ...]:
    names = tuple(sorted({*text.replace(",", " ").split()}))
    for name in names:
        if not re.fullmatch(VARIABLE, name) or name.startswith("FETCH"):
            raise SettingError(
                f"invalid value {name[:80]!r} for FETCH_PASS_ENV: expected names of environment variables",
                hint="write names such as CC,CFLAGS; settings (FETCH_*) reach no command",
            )
    return names


def _limits(values: Mapping[str, str | int | float]) -> Limits:
    names = [
        one.environ
        for one in SETTINGS
        if one.environ.startswith(("FETCH_MAX_", "FETCH_FREE_", "FETCH_ZSTD_", "FETCH_XZ_"))
    ]
    numbers: dict[str, Any] = {name.removeprefix("FETCH_").lower(): int(values[name]) for name in names}
    return Limits(**numbers)


def _proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the proxy of each scheme. Source: the convention that curl documents ("Environment")."""
    both = environ.get("all_proxy") or environ.get("ALL_PROXY", "")
    forged = "REQUEST_METHOD" in environ  # under CGI a request header sets HTTP_PROXY. Source: CVE-2016-5385
    found = {
        "http": environ.get("http_proxy") or ("" if forged else environ.get("HTTP_PROXY", "")) or both,
        "https": environ.get("https_proxy") or environ.get("HTTPS_PROXY") or both,
    }
    return {scheme: proxy for scheme, proxy in found.items() if proxy}


def _epoch(environ: Mapping[str, str]) -> int | None:
    """Return SOURCE_DATE_EPOCH. Source: its specification at reproducible-builds.org: the digits of `date +%s`."""
    given = environ.get("SOURCE_DATE_EPOCH") or None
    if given is None:
        return None
    if not (given.isascii() and given.isdigit() and len(given) <= _DIGITS):
        what = f"invalid value {given[:80]!r} for SOURCE_DATE_EPOCH"
        raise SettingError(f"{what}: expected seconds since 1970", hint="use the output of `date +%s`")
    return int(given)


def _netrc(environ: Mapping[str, str]) -> str:
    home = environ.get("HOME", "")
    return environ.get("NETRC") or (f"{home}/.netrc" if home else "")
