"""Settings: their names, defaults and bounds.

A setting comes from the command line (`doit cache=DIR`), else from the environment (`FETCH_CACHE_DIR`), else from
`[tool.doit-fetch]` in pyproject.toml, else from its default. The entry points pass environment and file in; no other
module reads them.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from tasks_lib.directories import expand_cache, expand_home
from tasks_lib.errors import SettingError, escape_text
from tasks_lib.fs.trust import Trust, set_aside_artifacts
from tasks_lib.limits import Limits
from tasks_lib.network import LINK_LOCAL, HostCredential, Policy, TransportSettings, header_fault
from tasks_lib.vcs.urls import PROTOCOLS

if TYPE_CHECKING:
    from tasks_lib.cache import Options
    from tasks_lib.fs.copying import LinkMode
    from tasks_lib.fs.files import Durability
    from tasks_lib.fs.trust import Parents


class Setting(NamedTuple):
    """A setting: `variable` on doit's command line, `environ` in the environment; `choices`: its only valid values."""

    environ: str
    variable: str
    default: str | int | float
    meaning: str
    choices: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The name in `[tool.doit-fetch]`, with underscores."""
        return self.variable or self.environ.removeprefix("FETCH_").lower()


class GivenValue(NamedTuple):
    """The value given for a setting: `origin` is where it comes from, `name` is the setting's name there."""

    name: str
    value: Any
    origin: str


#: Every setting, in the order of the documentation.
SETTINGS: Final = (
    Setting("FETCHDEFS_DIR", "fetchdefs", "fetchdefs", "definitions: a directory, a Taskgraph repository, or one file"),
    Setting(
        "FETCH_TOPSRCDIR",
        "topsrcdir",
        "",
        "repository around a nested Taskgraph tree, with its scripts and keys",
    ),
    Setting("FETCH_PASS_ENV", "pass_env", "", "variables that commands of toolchains see, such as CC,CFLAGS"),
    Setting(
        "FETCH_TOOLCHAIN_NETWORK",
        "toolchain_network",
        "on",
        "network of the commands of toolchains: on, or off (a network namespace of their own)",
        ("on", "off"),
    ),
    Setting("FETCH_HOST_IDENTITY", "host_identity", "", "what else toolchains depend on, such as an image's digest"),
    Setting("FETCH_LEVEL", "level", 3, "level in Taskcluster's index paths"),
    Setting(
        "FETCH_CACHE_DIR",
        "cache",
        "cache",
        "directory of the cache, which may be deleted at any time; user: one for all projects",
    ),
    Setting("FETCH_BUILD_DIR", "build", "build", "directory of extracted trees and toolchains"),
    Setting("FETCH_PRIVATE_CACHE_DIR", "private_cache", "", "directory to write to; FETCH_CACHE_DIR is then read-only"),
    Setting("FETCH_CACHE_TRUST_GROUP", "trust_group", "", "group whose members may also write to the cache"),
    Setting(
        "FETCH_CACHE_PARENTS",
        "cache_parents",
        "refuse",
        "a parent directory of the cache that others can write to: refuse, warn or ignore it",
        ("refuse", "warn", "ignore"),
    ),
    Setting("FETCH_DURABILITY", "durability", "full", "full: survives a power loss; fast: no fsync", ("full", "fast")),
    Setting(
        "FETCH_LINK_MODE",
        "link_mode",
        "auto",
        "how files are placed: auto, reflink, copy, hardlink",
        ("auto", "reflink", "copy", "hardlink"),
    ),
    Setting("FETCH_LOCK_TIMEOUT_S", "lock_timeout", 1800.0, "seconds to wait for another process"),
    Setting("FETCH_OFFLINE", "offline", 0, "1: do not use the network"),
    Setting("FETCH_JOBS", "jobs", 16, "concurrent downloads, unless doit's -n is given"),
    Setting("FETCH_JOBS_PER_HOST", "jobs_per_host", 16, "concurrent requests to one host"),
    Setting("FETCH_RETRIES", "retries", 3, "retries of one source after its first attempt"),
    Setting(
        "FETCH_BACKOFF_S", "backoff", 1.0, "first delay between attempts, in seconds; doubles each time, with jitter"
    ),
    Setting("FETCH_CONNECT_TIMEOUT_S", "connect_timeout", 10.0, "connection timeout in seconds"),
    Setting("FETCH_STALL_TIMEOUT_S", "stall_timeout", 30.0, "timeout in seconds when no data arrives"),
    Setting("FETCH_MIN_RATE_BPS", "min_rate", 1024.0, "minimum bytes per second, averaged over any minute"),
    Setting(
        "FETCH_TOTAL_TIMEOUT_S",
        "total_timeout",
        0.0,
        "timeout in seconds for all attempts at one source; 0: derived from the size",
    ),
    Setting("FETCH_CONNECTIONS", "connections", 16, "maximum connections for one large file that downloads slowly"),
    Setting("FETCH_SPLIT_SIZE", "split_size", 16 << 20, "size in bytes from which a file counts as large"),
    Setting("FETCH_DENY_NETWORKS", "deny_networks", ",".join(LINK_LOCAL), "networks that are never contacted"),
    Setting(
        "FETCH_GIT_PROTOCOLS", "git_protocols", " ".join(PROTOCOLS), "protocols allowed for repositories and submodules"
    ),
    Setting("FETCH_SSH_KNOWN_HOSTS", "known_hosts", "", "known_hosts file for ssh, instead of the user's"),
    Setting(
        "FETCH_PROGRESS",
        "progress",
        "auto",
        "progress display: auto, live, lines or quiet",
        ("auto", "live", "lines", "quiet"),
    ),
    Setting("FETCH_EVENTS", "events", "", "file to append events to, one line of JSON each"),
    Setting("FETCH_MAX_TOTAL_BYTES", "", Limits().max_total_bytes, "maximum content bytes of one archive"),
    Setting("FETCH_MAX_MEMBER_BYTES", "", Limits().max_member_bytes, "maximum content bytes of one entry"),
    Setting("FETCH_MAX_ENTRIES", "", Limits().max_entries, "maximum entries of one archive"),
    Setting(
        "FETCH_MAX_METADATA_BYTES",
        "",
        Limits().max_metadata_bytes,
        "maximum bytes of one metadata record of an archive",
    ),
    Setting("FETCH_MAX_PATH_BYTES", "", Limits().max_path_bytes, "maximum bytes of one path in an archive"),
    Setting("FETCH_MAX_COMPONENT_BYTES", "", Limits().max_component_bytes, "maximum bytes of one path component"),
    Setting(
        "FETCH_MAX_NAMES_BYTES",
        "",
        Limits().max_names_bytes,
        "maximum bytes of all paths and link targets of an archive",
    ),
    Setting("FETCH_MAX_DEPTH", "", Limits().max_depth, "maximum components of one path"),
    Setting(
        "FETCH_MAX_RATIO", "", Limits().max_ratio, "maximum ratio decompressed : compressed, beyond FETCH_FREE_BYTES"
    ),
    Setting(
        "FETCH_FREE_BYTES", "", Limits().free_bytes, "decompressed bytes of an archive exempt from FETCH_MAX_RATIO"
    ),
    Setting("FETCH_ZSTD_MAX_WINDOW_LOG", "", Limits().zstd_max_window_log, "maximum log2 of the zstd window size"),
    Setting("FETCH_XZ_MEMLIMIT_MIB", "", Limits().xz_memlimit_mib, "maximum MiB of memory for decoding xz"),
)


#: The table of credentials in `[tool.doit-fetch]`: `auth."HOST"` or `auth."HOST:PORT"`, each with `header` and `env`.
_AUTH: Final = "auth"
_AUTH_HOST: Final = re.compile(r"(?P<host>[a-z0-9_][a-z0-9_.-]*|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: The table of settings in a pyproject.toml, what its name may look like, and the similarity from which another name
#: counts as misspelt.
_TABLE: Final = "tool.doit-fetch"
_NAMED: Final = re.compile(r"do-?it[^a-z\n]{0,9}f", re.IGNORECASE)
_ALIKE_TABLE: Final = 0.8
#: Similarity to a setting's name from which an unknown name counts as misspelt: in the environment, and on the command
#: line, which may contain variables of the dodo.py.
_ALIKE: Final = (0.82, 0.9)
#: The settings that are directories, and the errno values for a path that cannot be a directory.
_DIRECTORIES: Final = (
    "FETCHDEFS_DIR",
    "FETCH_TOPSRCDIR",
    "FETCH_CACHE_DIR",
    "FETCH_BUILD_DIR",
    "FETCH_PRIVATE_CACHE_DIR",
)
#: Those that are caches.
_CACHES: Final = ("FETCH_CACHE_DIR", "FETCH_PRIVATE_CACHE_DIR")
_INVALID_PATH_ERRNOS: Final = (errno.ELOOP, errno.ENAMETOOLONG)
#: Timeouts that must not be zero; zero does not disable them.
_NONZERO_TIMEOUTS: Final = frozenset({"FETCH_CONNECT_TIMEOUT_S", "FETCH_STALL_TIMEOUT_S"})
#: Maximum number of digits of a timestamp, more than any valid one has.
_DIGITS: Final = 18
_MAX_PORT: Final = 65535
#: Variables that name the trusted certificates, in order of precedence.
_CA_VARIABLES: Final = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
#: Environment variables shared with other programs; a proxy variable may contain a password.
CONVENTIONS: Final = (
    *_CA_VARIABLES,
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "NETRC",
    "SOURCE_DATE_EPOCH",
    "XDG_CACHE_HOME",
)


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
    passed: tuple[tuple[str, str], ...] = ()  # name and digest of the value of each of them
    toolchain_network: str = "on"
    host_identity: str = ""

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

    @property
    def cache_options(self) -> Options:
        """The options of the cache.

        Raises:
            SettingError: the trusted group does not exist.
        """
        from tasks_lib.cache import Options  # slow to import, needed only when the cache is opened

        return Options(
            durability=self.durability,
            lock_timeout_s=self.lock_timeout_s,
            trust=self.trust,
            shared=self.shared,
        )

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
        table = _table(project or {})
        values = {one.environ: _value(one, variables, environ, table) for one in SETTINGS}
        pass_env = _pass_env(str(values["FETCH_PASS_ENV"]))
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
                ca_bundle=next(filter(None, map(environ.get, _CA_VARIABLES)), ""),
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
            passed=tuple(_digest_variables(environ, pass_env)),
            toolchain_network=str(values["FETCH_TOOLCHAIN_NETWORK"]),
            host_identity=str(values["FETCH_HOST_IDENTITY"]),
        )


def find_misspelt(variables: Iterable[str], environ: Iterable[str]) -> list[str]:
    """Return a warning for each unknown name that is similar to the name of a setting.

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
    import difflib  # needed only for a name that is not a setting

    pairs = ((name, difflib.get_close_matches(name, known, n=1, cutoff=like)) for name, known, like in odd)
    return [f"ignoring unknown setting {name}; did you mean {close[0]}?" for name, close in pairs if close]


class ProjectFile(NamedTuple):
    """`[tool.doit-fetch]` of a pyproject.toml, and a warning for each table whose name is similar."""

    table: Mapping[str, Any]
    warnings: list[str]


def load_project(path: Path) -> ProjectFile:
    """Return the settings in a pyproject.toml; without a file there are none.

    Raises:
        SettingError: the file cannot be read or is not valid TOML, or the value is not a table.
    """
    try:
        text = path.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return ProjectFile({}, [])
    except OSError as error:
        raise SettingError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingError(f"{path}: not UTF-8 at byte {error.start}") from error
    if not _NAMED.search(text):
        return ProjectFile({}, [])  # parsing takes longer than reading: skip a file without our table
    import tomllib  # slow to import, needed only when pyproject.toml may have our table

    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingError(_describe_toml_error(path, error)) from error
    tools = content.get("tool", {})
    table = tools.get("doit-fetch", {}) if isinstance(tools, dict) else {}
    if not isinstance(table, dict):
        raise SettingError(f"{path}: [tool.doit-fetch] is not a table", hint="write `name = value` lines below it")
    return ProjectFile(table, _find_misspelt_tables(path, content))


def _describe_toml_error(path: Path, error: ValueError) -> str:
    """Return the error as `file:line:column: reason`. Source: tomllib, which names the position in the message only."""
    reason, _, position = str(error).rpartition(" (at ")
    found = re.fullmatch(r"line ([0-9]+), column ([0-9]+)\)", position)
    place = f"{path}:{found[1]}:{found[2]}" if found else str(path)
    return f"{place}: invalid TOML: {reason if found else error}"


def _find_misspelt_tables(path: Path, content: Mapping[str, Any]) -> list[str]:
    """Return a warning for each table whose name is similar to `tool.doit-fetch`."""
    tables = [(name, value) for name, value in content.items() if isinstance(value, dict)]
    names = [f"{name}.{inner}" for name, value in tables for inner in value] + [name for name, _ in tables]
    doit = content.get("tool", {}).get("doit", {})
    names += [f"tool.doit.{inner}" for inner in doit] if isinstance(doit, dict) else []
    odd = [name for name in names if _NAMED.search(name) and not name.startswith(_TABLE)]
    if not odd:
        return []
    import difflib  # needed only for a name that is not ours

    close = difflib.get_close_matches(_TABLE, odd, cutoff=_ALIKE_TABLE)
    return [f"{path}: [{name}] is not read; did you mean [{_TABLE}]?" for name in close]


def list_effective(
    variables: Mapping[str, Any], environ: Mapping[str, str], project: Mapping[str, Any]
) -> Iterator[tuple[Setting, GivenValue, str]]:
    """Yield each setting, its effective value, and why the value is invalid ("" if it is valid)."""
    table = _normalize_keys(project)
    for one in SETTINGS:
        given = _find_given(one, variables, environ, table)
        try:
            yield one, given._replace(value=_value(one, variables, environ, table)), ""
        except SettingError as error:
            yield one, given, str(error).splitlines()[0]


def list_credentials(project: Mapping[str, Any]) -> tuple[HostCredential, ...]:
    """Return the credentials of hosts in the table `[tool.doit-fetch]`.

    Raises:
        SettingError: one is invalid; the message quotes no value, which may be a misplaced secret.
    """
    table = project.get(_AUTH, {})
    if not isinstance(table, dict):
        raise _auth_error("", "expected a table for each host")
    return tuple(_credential(host, row) for host, row in table.items())


def _normalize_keys(project: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace("-", "_"): value for name, value in project.items()}


def _table(project: Mapping[str, Any]) -> dict[str, Any]:
    """Return the project's table with keys as in `Setting.key`."""
    known = {one.key for one in SETTINGS} | {_AUTH}
    table = _normalize_keys(project)
    for name in table:
        if name not in known:
            import difflib  # needed only for an error

            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else "run `doit help settings` to list the settings"
            raise SettingError(f"[tool.doit-fetch]: unknown key {name!r}", hint=hint)
    return table


def _find_given(
    one: Setting, variables: Mapping[str, Any], environ: Mapping[str, str], table: Mapping[str, Any]
) -> GivenValue:
    """Return the value from the first source that has one."""
    places = (
        GivenValue(one.variable, variables.get(one.variable) if one.variable else None, "command line"),
        GivenValue(one.environ, environ.get(one.environ), "environment"),
        GivenValue(f"[tool.doit-fetch] {one.key}", table.get(one.key), "pyproject.toml"),
    )
    return next(
        (place for place in places if place.value not in (None, "")), GivenValue(one.environ, one.default, "default")
    )


def _value(
    one: Setting, variables: Mapping[str, Any], environ: Mapping[str, str], table: Mapping[str, Any]
) -> str | int | float:
    name, given, _ = _find_given(one, variables, environ, table)
    if given == "":
        return ""
    value = _parse_value(one, name, given)
    if one.environ not in _DIRECTORIES:
        return value
    path = (expand_cache if one.environ in _CACHES else expand_home)(str(value), environ)
    if not path:
        hint = "set XDG_CACHE_HOME to an absolute path, or write the directory"
        raise SettingError(f"invalid value 'user' for {name}: neither XDG_CACHE_HOME nor HOME is set", hint=hint)
    return _directory(name, path)


def _parse_value(one: Setting, name: str, given: Any) -> str | int | float:
    if isinstance(one.default, str):
        if not isinstance(given, str) or "\0" in given:  # TOML allows lists, numbers and any character
            raise SettingError(
                f"invalid value {str(given)[:80]!r} for {name}: expected a string",
                hint=f'write it as "..."; meaning: {one.meaning}',
            )
        if one.choices and given not in one.choices:
            raise SettingError(
                f"invalid value {given[:80]!r} for {name}: expected one of {', '.join(one.choices)}",
                hint="run `doit help settings` to list the settings",
            )
        return given
    word = str(given).lower()
    try:
        value = type(one.default)({"true": 1, "yes": 1, "on": 1, "false": 0, "no": 0, "off": 0}.get(word, word))
    except (ValueError, OverflowError):
        value = -1
    if not 0 <= value < 1 << 62:
        what = f"invalid value {str(given)[:80]!r} for {name}"
        raise SettingError(f"{what}: expected a non-negative number", hint=f"meaning: {one.meaning}")
    if not value and one.environ in _NONZERO_TIMEOUTS:
        raise SettingError(f"invalid value 0 for {name}: must be greater than zero", hint=f"meaning: {one.meaning}")
    return value


def _directory(name: str, path: str) -> str:
    """Return the path of a directory, which may not exist yet."""
    reason = ""
    try:
        os.stat(path)  # noqa: PTH116  # a str
    except FileNotFoundError:
        reason = "dangling symlink" if os.path.islink(path) else ""  # noqa: PTH114
    except OSError as error:
        reason = str(error.strerror) if error.errno in _INVALID_PATH_ERRNOS else ""
    if reason:
        raise SettingError(
            f"invalid value {path[:80]!r} for {name}: {reason}", hint="correct the path, or use another directory"
        )
    return path


def _credential(host: str, row: Any) -> HostCredential:
    found = _AUTH_HOST.fullmatch(_idna(host.lower()))
    if found is None or int(found["port"] or 0) > _MAX_PORT:
        raise _auth_error(host, "expected HOST or HOST:PORT")
    if not isinstance(row, dict) or set(row) != {"header", "env"}:
        raise _auth_error(host, "expected exactly the keys `header` and `env`")
    header, env = row["header"], row["env"]
    if not isinstance(header, str) or header_fault(header, "x"):
        raise _auth_error(host, "`header` is not the name of a header that may be set")
    if not isinstance(env, str) or not _VARIABLE.fullmatch(env):
        raise _auth_error(host, "`env` is not the name of an environment variable")
    return HostCredential(found["host"].strip("[]"), int(found["port"] or 0), header, env)


def _idna(host: str) -> str:
    try:
        return host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        return ""


def _auth_error(host: str, reason: str) -> SettingError:
    place = f"[tool.doit-fetch.auth{f'.{json.dumps(escape_text(host[:80]))}' if host else ''}]"
    hint = 'write [tool.doit-fetch.auth."gitlab.example"] with header = "PRIVATE-TOKEN" and env = "GITLAB_TOKEN"'
    return SettingError(f"{place}: {reason}", hint=hint)


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


def _pass_env(text: str) -> tuple[str, ...]:
    names = tuple(sorted({*text.replace(",", " ").split()}))
    for name in names:
        if not _VARIABLE.fullmatch(name) or name.startswith("FETCH"):
            raise SettingError(
                f"invalid value {name[:80]!r} for FETCH_PASS_ENV: expected names of environment variables",
                hint="write names such as CC,CFLAGS; settings (FETCH_*) reach no command",
            )
    return names


def _digest_variables(environ: Mapping[str, str], names: tuple[str, ...]) -> Iterable[tuple[str, str]]:
    """Return name and digest of passed variables; a value, which may be a secret, is not part of the settings."""
    if not names:
        return ()
    from tasks_lib.host import digest_variables  # slow to import, needed only for passed variables

    return digest_variables(environ, names).items()


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
