"""The table of settings: names, defaults and meanings."""

from __future__ import annotations

from typing import Final

from tasks_lib.limits import Limits
from tasks_lib.named import NamedTuple
from tasks_lib.network import LINK_LOCAL
from tasks_lib.vcs.urls import PROTOCOLS


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
    Setting(
        "FETCH_PLATFORM",
        "platform",
        "",
        "platform of the content, such as linux-aarch64 (default: this machine's); all",
    ),
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
    Setting("FETCH_SHARD", "shard", "", "part that a bare run fetches: 3/50, or auto in a CI matrix"),
    Setting("FETCH_SHARD_BY", "shard_by", "key", "how to form shards: key, or size for equal bytes", ("key", "size")),
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
    Setting(
        "FETCH_STORE",
        "store",
        "",
        "shared stores, in the order in which they are asked before the origin; `none` for no store",
    ),
    Setting(
        "FETCH_STORE_WRITE",
        "store_write",
        "auto",
        "when to write to stores: auto (in a CI's push to a protected ref), always or never",
        ("auto", "always", "never"),
    ),
    Setting(
        "FETCH_STORE_TRUST",
        "store_trust",
        "",
        "results to use: signed, any or none; default: signed if keys/store/*.pub exists, else none",
        ("signed", "any", "none"),
    ),
    Setting("FETCH_GITHUB_API", "github_api", "", "base URL of the API for release assets; GitHub's by default"),
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
#: The name of an environment variable.
VARIABLE: Final = r"[A-Za-z_][A-Za-z0-9_]*"
#: Variables that name the trusted certificates, in order of precedence.
CA_VARIABLES: Final = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
#: Environment variables with secrets of stores: read when they are needed, never shown, and not settings.
SECRETS: Final = ("FETCH_STORE_TOKEN", "FETCH_STORE_SIGNING_KEY")
#: The setting whose value is not quoted while it is invalid: a URL may contain a password.
STORE: Final = "FETCH_STORE"
#: Environment variables shared with other programs; a proxy variable may contain a password.
CONVENTIONS: Final = (
    *CA_VARIABLES,
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "NETRC",
    "SOURCE_DATE_EPOCH",
    "XDG_CACHE_HOME",
)
