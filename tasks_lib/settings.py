"""Settings: the one place that knows their names, defaults and bounds.

A setting comes from the command line (`doit cache=DIR`), else from the environment (`FETCH_CACHE_DIR`), else from
`[tool.doit-fetch]` in pyproject.toml, else from its default. Environment and file are handed in by a porch; nothing
below this floor reads them.
"""

from __future__ import annotations

import errno
import ipaddress
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from tasks_lib.errors import SettingError
from tasks_lib.limits import Limits
from tasks_lib.network import LINK_LOCAL, Policy, TransportSettings
from tasks_lib.vcs.urls import PROTOCOLS

if TYPE_CHECKING:
    from tasks_lib.cache import Options
    from tasks_lib.fs.copying import LinkMode
    from tasks_lib.fs.files import Durability


class Setting(NamedTuple):
    """One setting: `variable` on doit's command line, `environ` in the environment; `choices` are all it may be."""

    environ: str
    variable: str
    default: str | int | float
    meaning: str
    choices: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The name in `[tool.doit-fetch]`, with underscores."""
        return self.variable or self.environ.removeprefix("FETCH_").lower()


class Given(NamedTuple):
    """What is given for a setting: the `name` it has there, the value, and the `origin`: where that is."""

    name: str
    value: Any
    origin: str


#: Every setting, in the order of the documentation.
SETTINGS: Final = (
    Setting("FETCHDEFS_DIR", "fetchdefs", "fetchdefs", "directory of the definitions"),
    Setting("FETCH_CACHE_DIR", "cache", "cache", "directory of the cache; may be deleted at any time"),
    Setting("FETCH_BUILD_DIR", "build", "build", "directory of extracted trees and toolchains"),
    Setting("FETCH_PRIVATE_CACHE_DIR", "private_cache", "", "write here; FETCH_CACHE_DIR is then only read"),
    Setting("FETCH_CACHE_TRUST_GROUP", "trust_group", "", "group whose members may write the cache too"),
    Setting("FETCH_DURABILITY", "durability", "full", "full: survives a power loss; fast: no fsync", ("full", "fast")),
    Setting(
        "FETCH_LINK_MODE",
        "link_mode",
        "auto",
        "how content is placed: auto, reflink, copy, hardlink",
        ("auto", "reflink", "copy", "hardlink"),
    ),
    Setting("FETCH_LOCK_TIMEOUT_S", "lock_timeout", 1800.0, "seconds to wait for another process"),
    Setting("FETCH_OFFLINE", "offline", 0, "1: open no socket"),
    Setting("FETCH_JOBS", "jobs", 16, "downloads at the same time, when doit's -n does not say"),
    Setting("FETCH_JOBS_PER_HOST", "jobs_per_host", 16, "requests to one host at the same time"),
    Setting("FETCH_RETRIES", "retries", 3, "retries of one source after its first attempt"),
    Setting("FETCH_BACKOFF_S", "backoff", 1.0, "first pause between two attempts, in seconds; doubles, with jitter"),
    Setting("FETCH_CONNECT_TIMEOUT_S", "connect_timeout", 10.0, "seconds to connect"),
    Setting("FETCH_STALL_TIMEOUT_S", "stall_timeout", 30.0, "seconds without a byte"),
    Setting("FETCH_MIN_RATE_BPS", "min_rate", 1024.0, "bytes per second that must arrive over any minute of waiting"),
    Setting("FETCH_TOTAL_TIMEOUT_S", "total_timeout", 0.0, "seconds for one source, all attempts; 0: from the size"),
    Setting("FETCH_CONNECTIONS", "connections", 16, "connections that one large file may have when it comes slowly"),
    Setting("FETCH_SPLIT_SIZE", "split_size", 16 << 20, "bytes from which a file is large"),
    Setting("FETCH_DENY_NETWORKS", "deny_networks", ",".join(LINK_LOCAL), "networks that are never asked"),
    Setting("FETCH_GIT_PROTOCOLS", "git_protocols", " ".join(PROTOCOLS), "transports of repositories and submodules"),
    Setting("FETCH_SSH_KNOWN_HOSTS", "known_hosts", "", "file with the keys of ssh hosts, instead of the user's"),
    Setting(
        "FETCH_PROGRESS",
        "progress",
        "auto",
        "how a run is shown: auto, live, lines or quiet",
        ("auto", "live", "lines", "quiet"),
    ),
    Setting("FETCH_EVENTS", "events", "", "file to which every event is appended as a line of JSON"),
    Setting("FETCH_MAX_TOTAL_BYTES", "", Limits().max_total_bytes, "content of one archive"),
    Setting("FETCH_MAX_MEMBER_BYTES", "", Limits().max_member_bytes, "content of one entry"),
    Setting("FETCH_MAX_ENTRIES", "", Limits().max_entries, "entries of one archive"),
    Setting("FETCH_MAX_METADATA_BYTES", "", Limits().max_metadata_bytes, "one metadata record of an archive"),
    Setting("FETCH_MAX_PATH_BYTES", "", Limits().max_path_bytes, "one path in an archive"),
    Setting("FETCH_MAX_COMPONENT_BYTES", "", Limits().max_component_bytes, "one component of such a path"),
    Setting("FETCH_MAX_DEPTH", "", Limits().max_depth, "components of such a path"),
    Setting("FETCH_MAX_RATIO", "", Limits().max_ratio, "decompressed : compressed, once FETCH_FREE_BYTES came out"),
    Setting("FETCH_FREE_BYTES", "", Limits().free_bytes, "bytes of an archive that need no ratio"),
    Setting("FETCH_ZSTD_MAX_WINDOW_LOG", "", Limits().zstd_max_window_log, "log2 of a zstd window"),
    Setting("FETCH_XZ_MEMLIMIT_MIB", "", Limits().xz_memlimit_mib, "MiB for decoding xz"),
)


#: How alike a name of the environment and one of the command line is to a setting's when it is taken for a mistake;
#: words of the command line may well be a dodo.py's own.
_ALIKE: Final = (0.82, 0.9)
#: The settings that are directories, and what a system says of a path that can never be one.
_DIRECTORIES: Final = ("FETCHDEFS_DIR", "FETCH_CACHE_DIR", "FETCH_BUILD_DIR", "FETCH_PRIVATE_CACHE_DIR")
_NO_PLACE: Final = (errno.ELOOP, errno.ENAMETOOLONG)
#: Times of which zero is none, and no way to say that there is no limit.
_NOT_ZERO: Final = frozenset({"FETCH_CONNECT_TIMEOUT_S", "FETCH_STALL_TIMEOUT_S"})
#: Digits that a time may have: more than any clock will show.
_DIGITS: Final = 18
#: Who says whom to trust, the first one that is set.
_TRUST: Final = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
#: Variables of the environment that other programs read too; a proxy's may hold a password.
CONVENTIONS: Final = (*_TRUST, "http_proxy", "https_proxy", "all_proxy", "no_proxy", "NETRC", "SOURCE_DATE_EPOCH")


class Settings(NamedTuple):
    """What a run is told from outside."""

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

    @property
    def store(self) -> Options:
        """How the store is to behave; the store is loaded for that.

        Raises:
            SettingError: there is no such group.
        """
        from tasks_lib.cache import Options, Trust

        return Options(
            durability=self.durability,
            lock_timeout_s=self.lock_timeout_s,
            trust=Trust.of(self.trust_group),
            shared=self.shared,
        )

    @classmethod
    def parse(
        cls, *, variables: Mapping[str, Any], environ: Mapping[str, str], project: Mapping[str, Any] | None = None
    ) -> Settings:
        """Return the settings that these three say, the first one before the second before the third.

        Args:
            variables: `name=value` words of doit's command line; unknown names belong to someone else.
            environ: the process environment.
            project: the table `[tool.doit-fetch]`, its keys with dashes or underscores.

        Raises:
            SettingError: a value that cannot be used, or an unknown key of the table.
        """
        table = _table(project or {})
        values = {one.environ: _value(one, variables, environ, table) for one in SETTINGS}
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
                ca_bundle=next(filter(None, map(environ.get, _TRUST)), ""),
                proxies=_proxies(environ),
                no_proxy=environ.get("no_proxy") or environ.get("NO_PROXY", ""),
                netrc=_netrc(environ),
                denied=_networks(str(values["FETCH_DENY_NETWORKS"])),
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
        )


def misspelt(variables: Iterable[str], environ: Iterable[str]) -> list[str]:
    """Return a line for each name that is nearly a setting's: it belongs to someone else, or what it says is not done.

    Args:
        variables: names of doit's command line.
        environ: names of the environment.
    """
    names = {one.environ for one in SETTINGS}, {one.variable for one in SETTINGS} - {""}
    given = [name for name in environ if name.startswith("FETCH")], variables
    odd = [(name, known, like) for known, some, like in zip(names, given, _ALIKE, strict=True) for name in some]
    odd = [(name, known, like) for name, known, like in odd if name not in known]
    if not odd:
        return []
    import difflib

    pairs = ((name, difflib.get_close_matches(name, known, n=1, cutoff=like)) for name, known, like in odd)
    return [f"{name} is no setting and changes nothing; did you mean {close[0]}?" for name, close in pairs if close]


def project_table(path: Path) -> Mapping[str, Any]:
    """Return `[tool.doit-fetch]` of a pyproject.toml, {} when there is none.

    Raises:
        SettingError: the file is no TOML, or that is no table.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    if "doit-fetch" not in text:
        return {}  # nothing for us: parsing other people's tables costs more than reading the file
    import tomllib

    try:
        table = tomllib.loads(text).get("tool", {}).get("doit-fetch", {})
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"{path} is no TOML: {error}", hint="correct it, or set FETCH_* variables") from error
    if not isinstance(table, dict):
        raise SettingError(f"{path}: [tool.doit-fetch] is no table", hint="write `name = value` lines below it")
    return table


def in_force(
    variables: Mapping[str, Any], environ: Mapping[str, str], project: Mapping[str, Any]
) -> Iterator[tuple[Setting, Given, str]]:
    """Yield each setting, its value in force, and why that value cannot be used ("" when it can)."""
    table = _keyed(project)
    for one in SETTINGS:
        given = _given(one, variables, environ, table)
        try:
            yield one, given._replace(value=_value(one, variables, environ, table)), ""
        except SettingError as error:
            yield one, given, str(error).splitlines()[0]


def _keyed(project: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace("-", "_"): value for name, value in project.items()}


def _table(project: Mapping[str, Any]) -> dict[str, Any]:
    """Return the project's table by our names."""
    known = {one.key for one in SETTINGS}
    table = _keyed(project)
    for name in table:
        if name not in known:
            import difflib

            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else "`doit help settings` lists the settings"
            raise SettingError(f"[tool.doit-fetch] has the unknown key {name!r}", hint=hint)
    return table


def _given(one: Setting, variables: Mapping[str, Any], environ: Mapping[str, str], table: Mapping[str, Any]) -> Given:
    """Return what the first place says that says anything."""
    places = (
        Given(one.variable, variables.get(one.variable) if one.variable else None, "command line"),
        Given(one.environ, environ.get(one.environ), "environment"),
        Given(f"[tool.doit-fetch] {one.key}", table.get(one.key), "pyproject.toml"),
    )
    return next(
        (place for place in places if place.value not in (None, "")), Given(one.environ, one.default, "default")
    )


def _value(
    one: Setting, variables: Mapping[str, Any], environ: Mapping[str, str], table: Mapping[str, Any]
) -> str | int | float:
    name, given, _ = _given(one, variables, environ, table)
    if given == "":
        return ""
    value = _read(one, name, given)
    return _directory(name, str(value), environ.get("HOME", "")) if one.environ in _DIRECTORIES else value


def _read(one: Setting, name: str, given: Any) -> str | int | float:
    if isinstance(one.default, str):
        if not isinstance(given, str) or "\0" in given:  # TOML has lists, numbers and any character
            raise SettingError(
                f"{name}={str(given)[:80]!r} is no text", hint=f'write it as "..."; it means: {one.meaning}'
            )
        if one.choices and given not in one.choices:
            raise SettingError(
                f"{name}={given[:80]!r} is none of {', '.join(one.choices)}",
                hint="`doit help settings` lists the settings",
            )
        return given
    word = str(given).lower()
    try:
        value = type(one.default)({"true": 1, "yes": 1, "on": 1, "false": 0, "no": 0, "off": 0}.get(word, word))
    except (ValueError, OverflowError):
        value = -1
    if not 0 <= value < 1 << 62:
        said = f"{name}={str(given)[:80]!r}"
        raise SettingError(f"{said} is no number of zero or more", hint=f"it means: {one.meaning}")
    if not value and one.environ in _NOT_ZERO:
        raise SettingError(f"{name}=0 leaves no time for anything", hint=f"it means: {one.meaning}")
    return value


def _directory(name: str, given: str, home: str) -> str:
    """Return where a directory is or will be; `~/` is the home of the user, as a shell has it."""
    path = home + given[1:] if home and given.startswith("~/") else given
    reason = ""
    try:
        os.stat(path)  # noqa: PTH116  # a text
    except FileNotFoundError:
        reason = "is a symlink that leads nowhere" if os.path.islink(path) else ""  # noqa: PTH114
    except OSError as error:
        reason = f"can be no directory: {error.strerror}" if error.errno in _NO_PLACE else ""
    if reason:
        raise SettingError(f"{name}={given[:80]!r} {reason}", hint="correct that, or name another directory")
    return path


def _networks(text: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(",") if word.strip() and word.strip() != "none")
    for word in words:
        try:
            ipaddress.ip_network(word)
        except ValueError as error:
            raise SettingError(
                f"FETCH_DENY_NETWORKS: {word[:80]!r} is no network", hint="write 10.0.0.0/8, or none"
            ) from error
    return words


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
        said = f"SOURCE_DATE_EPOCH={given[:80]!r}"
        raise SettingError(f"{said} is no number of seconds since 1970", hint="write what `date +%s` prints")
    return int(given)


def _netrc(environ: Mapping[str, str]) -> str:
    home = environ.get("HOME", "")
    return environ.get("NETRC") or (f"{home}/.netrc" if home else "")
