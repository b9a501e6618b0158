"""Write the generated files of the documentation: `python docs/generate.py`.

The keys and settings come from the tables of the package, the examples from this file. `tests/test_docs.py` fails when
a key or a setting has no example, when an example is invalid, and when a committed file is out of date.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from tasks_lib.definitions import json_schema
from tasks_lib.definitions.mirrors import mirrors_schema
from tasks_lib.settings import CONVENTIONS, SECRETS, SETTINGS, Setting

DOCS: Final = Path(__file__).parent
SHA: Final = "498449a994efeba527885c10405993427995d3f86b8768d8cdf8d9dd7c6b73e8"
REVISION: Final = "77f67d73445a383ffd8af095fb7a8e41f258e80f"
FINGERPRINT: Final = "343C2FF0FBEE5EC2EDBEF399F3599FF828C67298"
MINISIGN: Final = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"

_STATIC_URL: Final = f"""\
gmp:
  description: GNU multiple precision arithmetic
  fetch:
    type: static-url
    url: https://ftpmirror.gnu.org/gnu/gmp/gmp-6.1.0.tar.bz2
    sha256: {SHA}
    size: 2383840
"""
_PLATFORMS: Final = """\
jq:
  description: jq, for each platform
  fetch:
    type: static-url
    executable: true
"""
_GIT: Final = f"""\
sccache:
  description: sccache, the commit that was reviewed
  fetch:
    type: git
    repo: https://github.com/mozilla/sccache
    revision: {REVISION}
"""
_HG: Final = f"""\
nss:
  description: NSS, the changeset that was reviewed
  fetch:
    type: hg
    repo: https://hg.mozilla.org/projects/nss
    revision: {REVISION}
"""
_DEBIAN: Final = f"""\
image-packages:
  description: what the image for builds is made of
  fetch:
    type: debian
    uri: https://deb.example.org/debian/
    suites: [bookworm]
    architectures: [amd64]
    packages: [git, zstd]
    signed-by: [{FINGERPRINT}]
    key-files: [fetchdefs/keys/debian.asc]
    lock: image-packages.lock
"""
_DEBIAN_SOURCE: Final = f"""\
valgrind-source:
  description: the source of valgrind as Debian has it
  fetch:
    type: debian-source
    dsc:
      url: https://deb.example.org/debian/pool/main/v/valgrind/valgrind_3.20.0-1.dsc
      sha256: {SHA}
      size: 2487
"""
_TOOLCHAIN: Final = """\
mpc:
  description: MPC, built against GMP
  fetches:
    fetch: [gmp]
  run:
    script: build-mpc.sh
    toolchain-artifact: mpc.tar
"""
_IMAGE: Final = """\
sdk:
  description: MPC on a minimal Debian
  base: image-packages
  layers:
    - fetches: [gmp]
      dest: /opt/gmp
  config: {}
"""
_SIGNED: Final = """\
    gpg-signature:
      sig-url: "{url}.sig"
      key-path: keys/gmp.asc
"""
_MINISIGNED: Final = f"""\
    minisign:
      public-key: {MINISIGN}
"""
_LISTED: Final = """\
    checksums:
      url: https://example.org/SHA256SUMS
      signed-by:
        key-path: keys/example.asc
"""
_MIRRORS: Final = r"""
groups:
  gnu:
    urls: [https://ftpmirror.gnu.org/gnu/, https://ftp.gnu.org/gnu/]
rewrite:
  - match: https://github\.com/(.*)
    to: [https://cache.example.org/github/\1, direct]
content-addressed:
  - url: https://cache.example.org/cas/{sha256}
"""
_FILES: Final = {"fetch": _STATIC_URL + _DEBIAN, "toolchain": _TOOLCHAIN, "image": _IMAGE, "mirrors": _MIRRORS}


class Section(NamedTuple):
    """The keys of one mapping: where its schema and its place in `base` are, and an example for each key.

    An example is YAML below the mapping; it replaces the keys of `base` that it has. `keys` are those that the section
    shows, () for all.
    """

    title: str
    text: str
    kind: str
    schema: tuple[str | int, ...]
    base: str
    place: tuple[str | int, ...]
    examples: Mapping[str, str]
    keys: tuple[str, ...] = ()


_FETCH: Final = ("$defs", "fetch", "properties")
_CHAIN: Final = ("$defs", "toolchain", "properties")
_SOURCE: Final = (*_FETCH, "fetch", "oneOf")
_COMMIT: Final = {
    "repo": "repo: https://github.com/mozilla/sccache",
    "revision": f"revision: {REVISION}",
    "branch": "branch: main",
    "path-prefix": "path-prefix: sccache",
    "artifact-name": "artifact-name: sccache.tar.zst",
    "control-names": "control-names: keep",
    "archive": "archive: {max-entries: 2000000}",
}

_UPSTREAM: Final = {
    "update": "update: {from: git-tags, url: 'https://example.org/gmp.git'}",
    "purl": "purl: pkg:generic/gmp@6.1.0",
}

SECTIONS: Final = (
    Section(
        "A fetch",
        "A block in `fetchdefs/fetch/*.yml`; the key above it is its name. Keys that only Taskcluster uses"
        " (`run-on-projects`, `treeherder`, ...) are ignored ([Taskgraph](../taskgraph.md)).",
        "fetch",
        ("$defs", "fetch"),
        _STATIC_URL,
        ("gmp",),
        {
            "name": "name: gmp-6.1.0",
            "description": "description: GNU multiple precision arithmetic",
            "fetch": f"fetch: {{type: static-url, url: 'https://example.org/a.zip', sha256: {SHA}, size: 3}}",
            "fetch-alias": "fetch-alias: gmp-latest",
            "artifact-prefix": "artifact-prefix: public",
            "attributes": "attributes: {cached_task: false}",
        },
    ),
    Section(
        "A file at a URL",
        "`fetch:` with `type: static-url`. [Archives](../archives.md) explains the keys that shape the tree,"
        " [Signatures](../signatures.md) those that authenticate the download.",
        "fetch",
        (*_SOURCE, 0),
        _STATIC_URL,
        ("gmp", "fetch"),
        {
            "type": "type: static-url",
            "url": "url: https://ftpmirror.gnu.org/gnu/gmp/gmp-6.1.0.tar.bz2",
            "mirrors": "mirrors: [https://ftp.gnu.org/gnu/gmp/gmp-6.1.0.tar.bz2]",
            "sha256": f"sha256: {SHA}",
            "size": "size: 2383840",
            "artifact-name": "artifact-name: gmp.tar.zst",
            "strip-components": "strip-components: 1",
            "add-prefix": "add-prefix: gmp/",
            "duplicates": "duplicates: last\nartifact-name: gmp.tar.zst",
            "control-names": "control-names: keep",
            "zip-backslash": "zip-backslash: separator",
            "zip-prefix": "zip-prefix: ignore",
            "format": "format: tar.xz",
            "executable": "executable: true\nurl: https://example.org/tool",
            "repack": "repack: never\nartifact-name: gmp.tar.zst",
            "headers": "headers: {Authorization: 'Bearer ${TOKEN}'}",
            "gpg-signature": 'gpg-signature: {sig-url: "{url}.sig", key-path: keys/gmp.asc}',
            "minisign": f"minisign: {{public-key: {MINISIGN}}}",
            "checksums": "checksums: {url: https://example.org/SHA256SUMS, signed-by: {key-path: keys/example.asc}}",
            "archive": "archive: {max-entries: 2000000}",
            **_UPSTREAM,
        },
    ),
    Section(
        "`update:`",
        "Where newer versions are listed; `{}` is what the URL suggests. Neither this nor `purl` changes a key of the"
        " cache. [Newer versions](../how-to/outdated.md) explains it.",
        "fetch",
        (*_SOURCE, 0, "properties", "update"),
        _STATIC_URL + "    update: {from: html}\n",
        ("gmp", "fetch", "update"),
        {
            "from": "from: html",
            "url": "url: https://ftp.gnu.org/gnu/gmp/",
            "match": r"match: gmp-([0-9.]+)\.tar\.xz",
            "ignore": "ignore: '^7'",
            "prereleases": "prereleases: true",
        },
    ),
    Section(
        "A file for each platform",
        "`fetch:` with `type: static-url` and `platforms:`. Each platform has its own `url`, `size` and `sha256`; the"
        " other keys of a file at a URL may be beside `platforms:`, for every platform, or below one of them."
        " [Content for several platforms](../how-to/several-platforms.md) explains them.",
        "fetch",
        (*_SOURCE, 3),
        _PLATFORMS,
        ("jq", "fetch"),
        {
            "platforms": f"platforms:\n  linux-x86_64: {{url: 'https://example.org/jq', size: 3, sha256: {SHA}}}",
        },
        ("platforms",),
    ),
    Section(
        "`gpg-signature:`",
        "",
        "fetch",
        (*_SOURCE, 0, "properties", "gpg-signature"),
        _STATIC_URL + _SIGNED,
        ("gmp", "fetch", "gpg-signature"),
        {
            "sig-url": 'sig-url: "{url}.sig"',
            "key-path": "key-path: keys/gmp.asc",
            "fingerprint": f"fingerprint: {FINGERPRINT}",
        },
    ),
    Section(
        "`minisign:`",
        "",
        "fetch",
        (*_SOURCE, 0, "properties", "minisign"),
        _STATIC_URL + _MINISIGNED,
        ("gmp", "fetch", "minisign"),
        {"public-key": f"public-key: {MINISIGN}", "sig-url": 'sig-url: "{url}.minisig"'},
    ),
    Section(
        "`checksums:`",
        "",
        "fetch",
        (*_SOURCE, 0, "properties", "checksums"),
        _STATIC_URL + _LISTED,
        ("gmp", "fetch", "checksums"),
        {
            "url": "url: https://example.org/SHA256SUMS",
            "signed-by": "signed-by: {key-path: keys/example.asc}",
        },
    ),
    Section(
        "`checksums: signed-by:`",
        "Exactly one of `key-path` and `public-key`.",
        "fetch",
        (*_SOURCE, 0, "properties", "checksums", "properties", "signed-by"),
        _STATIC_URL + _LISTED.replace("        key-path: keys/example.asc\n", "        {}\n"),
        ("gmp", "fetch", "checksums", "signed-by"),
        {
            "sig-url": 'sig-url: "{url}.asc"\nkey-path: keys/example.asc',
            "key-path": "key-path: keys/example.asc",
            "fingerprint": f"fingerprint: {FINGERPRINT}\nkey-path: keys/example.asc",
            "public-key": f"public-key: {MINISIGN}",
        },
    ),
    Section(
        "`archive:`",
        "Limits and strictness for one archive. A number overrides the [setting](settings.md#limits-of-archives) of the"
        " same name.",
        "fetch",
        (*_SOURCE, 0, "properties", "archive"),
        _STATIC_URL + "    archive: {}\n",
        ("gmp", "fetch", "archive"),
        {
            "max-total-bytes": "max-total-bytes: 107374182400",
            "max-ratio": "max-ratio: 1000",
            "free-bytes": "free-bytes: 2147483648",
            "max-member-bytes": "max-member-bytes: 1048576",
            "max-entries": "max-entries: 5000000",
            "max-metadata-bytes": "max-metadata-bytes: 4194304",
            "max-path-bytes": "max-path-bytes: 1024",
            "max-component-bytes": "max-component-bytes: 143",
            "max-names-bytes": "max-names-bytes: 268435456",
            "max-depth": "max-depth: 32",
            "zstd-max-window-log": "zstd-max-window-log: 31",
            "xz-memlimit-mib": "xz-memlimit-mib: 2048",
            "outward-symlinks": "outward-symlinks: keep",
            "case-twins": "case-twins: keep",
            "trailing": "trailing: ignore",
            "end": "end: missing",
        },
    ),
    Section(
        "A commit of git",
        "`fetch:` with `type: git`; [Commits as artifacts](../git.md) has the details.",
        "fetch",
        (*_SOURCE, 1),
        _GIT,
        ("sccache", "fetch"),
        {
            "type": "type: git",
            **_COMMIT,
            **_UPSTREAM,
            "include-dot-git": "include-dot-git: true",
            "ssh-key": "ssh-key: SCCACHE_KEY",
            "fetch-mode": "fetch-mode: shallow",
        },
    ),
    Section(
        "A changeset of Mercurial",
        "`fetch:` with `type: hg`.",
        "fetch",
        (*_SOURCE, 2),
        _HG,
        ("nss", "fetch"),
        {
            "type": "type: hg",
            **_COMMIT,
            **_UPSTREAM,
            "repo": "repo: https://hg.mozilla.org/projects/nss",
            "path-prefix": "path-prefix: nss",
            "artifact-name": "artifact-name: nss.tar.zst",
        },
    ),
    Section(
        "Debian packages",
        "`fetch:` with `type: debian`; [Debian packages](../how-to/debian.md) has the details.",
        "fetch",
        (*_SOURCE, 4),
        _DEBIAN,
        ("image-packages", "fetch"),
        {
            "type": "type: debian",
            "suites": "suites: [bookworm, bookworm-updates]",
            "components": "components: [main, contrib]",
            "architectures": "architectures: [amd64, arm64]",
            "packages": "packages: [git, zstd=1.5.4+dfsg2-5]",
            "essential": "essential: true",
            "uri": "uri: {bookworm: https://deb.example.org/debian/}",
            "snapshot": "snapshot: 20261101T000000Z",
            "snapshots": "snapshots: https://snapshot.example.org/debian/@SNAPSHOTID@/",
            "signed-by": f"signed-by: [{FINGERPRINT}]",
            "key-files": "key-files: fetchdefs/keys/debian.asc",
            "lock": "lock: image-packages.lock",
            "artifact-name": "artifact-name: packages.tar.zst",
            "purl": _UPSTREAM["purl"],
        },
    ),
    Section(
        "The source of a Debian package",
        "`fetch:` with `type: debian-source`; [Source packages](../how-to/debian-source.md) has the details.",
        "fetch",
        (*_SOURCE, 5),
        _DEBIAN_SOURCE,
        ("valgrind-source", "fetch"),
        {
            "type": "type: debian-source",
            "dsc": f"dsc: {{url: 'https://deb.example.org/valgrind_3.20.0-1.dsc', sha256: {SHA}, size: 2487}}",
            "signed-by": f"signed-by: [{FINGERPRINT}]\nkey-files: fetchdefs/keys/maintainer.asc",
            "key-files": f"key-files: fetchdefs/keys/maintainer.asc\nsigned-by: [{FINGERPRINT}]",
            "artifact-name": "artifact-name: valgrind-source.tar.zst",
            "purl": "purl: pkg:deb/debian/valgrind@1:3.20.0-1?arch=source",
        },
    ),
    Section(
        "`dsc:`",
        "The .dsc of a source package. The files that it names are beside each of its URLs.",
        "fetch",
        (*_SOURCE, 5, "properties", "dsc"),
        _DEBIAN_SOURCE,
        ("valgrind-source", "fetch", "dsc"),
        {
            "url": "url: https://deb.example.org/debian/pool/main/v/valgrind/valgrind_3.20.0-1.dsc",
            "mirrors": "mirrors: ['https://mirror.example.org/debian/pool/main/v/valgrind/valgrind_3.20.0-1.dsc']",
            "sha256": f"sha256: {SHA}",
            "size": "size: 2487",
        },
    ),
    Section(
        "A toolchain",
        "A block in `fetchdefs/toolchain/*.yml`; the key above it is its name.",
        "toolchain",
        ("$defs", "toolchain"),
        _TOOLCHAIN,
        ("mpc",),
        {
            "name": "name: mpc-1.3",
            "description": "description: MPC, built against GMP",
            "fetches": "fetches: {fetch: [gmp]}",
            "run": "run: {script: build-mpc.sh, toolchain-artifact: mpc.tar}",
            "dependencies": "dependencies: {gmp: fetch-gmp}",
            "worker": "worker: {env: {LC_ALL: C}}",
            "worker-type": "worker-type: b-linux",
            "index-search": "index-search: gecko.cache.level-3",
            "attributes": "attributes: {artifact_prefix: public}",
        },
    ),
    Section(
        "`fetches:`",
        "A list for each kind. An entry is a name, or a mapping with the keys of the next section.",
        "toolchain",
        (*_CHAIN, "fetches"),
        _TOOLCHAIN,
        ("mpc", "fetches"),
        {"fetch": "fetch: [{artifact: gmp, dest: sources}]", "toolchain": "toolchain: [binutils]"},
    ),
    Section(
        "An entry of `fetches:`",
        "",
        "toolchain",
        (*_CHAIN, "fetches", "properties", "fetch", "items", "oneOf", 1),
        _TOOLCHAIN.replace("[gmp]", "[{artifact: gmp}]"),
        ("mpc", "fetches", "fetch", 0),
        {
            "artifact": "artifact: gmp",
            "dest": "dest: sources",
            "extract": "extract: false",
            "verify-hash": "verify-hash: true",
        },
    ),
    Section(
        "`run:`",
        "The command works in `$MOZ_FETCHES_DIR` and writes its output to `$UPLOAD_DIR`. Exit status 77 means: not on"
        " this machine.",
        "toolchain",
        (*_CHAIN, "run"),
        _TOOLCHAIN.partition("    script")[0].replace("run:", "run: {}"),
        ("mpc", "run"),
        {
            "using": "using: toolchain-script",
            "command": "command: [make, -C, gmp]",
            "script": "script: build-mpc.sh",
            "arguments": "arguments: [--enable-shared]",
            "pass-env": "pass-env: [CC, CFLAGS]",
            "network": "network: false",
            "resources": "resources: [patches/, '**/*.toml']",
            "toolchain-artifact": "toolchain-artifact: mpc.tar\nscript: build-mpc.sh",
            "toolchain-alias": "toolchain-alias: mpc-latest",
            "toolchain-env": "toolchain-env: {CC: gcc}",
            "env": "env: {CFLAGS: -O2}",
            "index-search": "index-search: gecko.cache.level-3",
        },
    ),
    Section(
        "`worker:`",
        "",
        "toolchain",
        (*_CHAIN, "worker"),
        _TOOLCHAIN + "  worker: {}\n",
        ("mpc", "worker"),
        {"env": "env: {LC_ALL: C}", "docker-image": "docker-image: {in-tree: deb12}"},
    ),
    Section(
        "An image",
        "A block in `fetchdefs/image/*.yml`; the key above it is its name. [Build an image](../how-to/images.md) has"
        " the details.",
        "image",
        ("$defs", "image"),
        _IMAGE,
        ("sdk",),
        {
            "description": "description: MPC on a minimal Debian",
            "base": "base: image-packages",
            "mmdebstrap": "mmdebstrap: 1.3.5\nbase: image-packages",
            "layers": "layers: [{fetches: [gmp], dest: /opt/gmp}]",
            "config": "config: {cmd: [/bin/sh]}",
            "attributes": "attributes: {cached_task: false}",
        },
    ),
    Section(
        "A layer of an image",
        "Either `fetches` or `toolchain`. An entry is a name, or a mapping as under `fetches:`; its `dest` is then"
        " below that of the layer.",
        "image",
        ("$defs", "image", "properties", "layers", "items"),
        _IMAGE.replace("    - fetches: [gmp]\n      dest: /opt/gmp", "    - dest: /opt"),
        ("sdk", "layers", 0),
        {
            "fetches": "fetches: [gmp, {artifact: image-packages, extract: false}]",
            "toolchain": "toolchain: binutils",
            "dest": "dest: /opt/gmp\nfetches: [gmp]",
        },
    ),
    Section(
        "`config:`",
        "What [the OCI specification](https://github.com/opencontainers/image-spec/blob/main/config.md) calls `Cmd`,"
        " `Entrypoint`, `Env`, `User`, `WorkingDir` and `Labels`. A `cmd` or `entrypoint` that is a string is a command"
        " line of `/bin/sh`.",
        "image",
        ("$defs", "image", "properties", "config"),
        _IMAGE,
        ("sdk", "config"),
        {
            "cmd": "cmd: [/opt/gmp/bin/check, --all]",
            "entrypoint": "entrypoint: [/usr/bin/env]",
            "env": "env: {PATH: '/opt/gmp/bin:/usr/bin:/bin'}",
            "user": "user: 1000:1000",
            "workdir": "workdir: /work",
            "labels": "labels: {org.opencontainers.image.source: 'https://example.org/sdk'}",
        },
    ),
    Section(
        "`mirrors.yml`",
        "The file `fetchdefs/mirrors.yml` adds sources for all definitions; [Mirrors](../mirrors.md) explains it.",
        "mirrors",
        (),
        _MIRRORS,
        (),
        {
            "groups": "groups: {gnu: {urls: [https://ftp.gnu.org/gnu/]}}",
            "rewrite": r"rewrite: [{match: 'https://github\.com/(.*)', to: ['https://cache.example.org/\1', direct]}]",
            "content-addressed": "content-addressed: [{url: 'https://cache.example.org/cas/{sha256}'}]",
            "allow": "allow: [example.org, gnu.org]",
            "block": "block: [ftp.example.org]",
            "blocked-message": "blocked-message: ask for a mirror in the channel build",
        },
    ),
    Section(
        "`mirrors.yml`: a group",
        "",
        "mirrors",
        ("properties", "groups", "additionalProperties"),
        _MIRRORS,
        ("groups", "gnu"),
        {"urls": "urls: [https://ftp.gnu.org/gnu/]", "go-on": "go-on: not-found"},
    ),
    Section(
        "`mirrors.yml`: a rule of `rewrite:`",
        "",
        "mirrors",
        ("properties", "rewrite", "items"),
        _MIRRORS,
        ("rewrite", 0),
        {
            "match": r"match: https://github\.com/(.*)",
            "to": r"to: [https://cache.example.org/github/\1, direct]",
            "go-on": "go-on: not-found",
        },
    ),
    Section(
        "`mirrors.yml`: a content-addressed server",
        "",
        "mirrors",
        ("properties", "content-addressed", "items"),
        _MIRRORS,
        ("content-addressed", 0),
        {
            "url": "url: https://cache.example.org/cas/{sha256}",
            "place": "place: first",
            "go-on": "go-on: not-found",
        },
    ),
)

#: A value for each setting, other than its default.
VALUES: Final = {
    "FETCHDEFS_DIR": "third_party/fetchdefs",
    "FETCH_TOPSRCDIR": "../gecko",
    "FETCH_PASS_ENV": "CC,CFLAGS",
    "FETCH_TOOLCHAIN_NETWORK": "off",
    "FETCH_HOST_IDENTITY": "sha256:0123abcd",
    "FETCH_PLATFORM": "macos-aarch64",
    "FETCH_LEVEL": "1",
    "FETCH_CACHE_DIR": "user",
    "FETCH_BUILD_DIR": "out",
    "FETCH_PRIVATE_CACHE_DIR": "my-cache",
    "FETCH_CACHE_TRUST_GROUP": "ci",
    "FETCH_CACHE_PARENTS": "warn",
    "FETCH_DURABILITY": "fast",
    "FETCH_LINK_MODE": "hardlink",
    "FETCH_LOCK_TIMEOUT_S": "60",
    "FETCH_SHARD": "3/50",
    "FETCH_SHARD_BY": "size",
    "FETCH_OFFLINE": "1",
    "FETCH_JOBS": "8",
    "FETCH_JOBS_PER_HOST": "4",
    "FETCH_RETRIES": "5",
    "FETCH_BACKOFF_S": "0.5",
    "FETCH_CONNECT_TIMEOUT_S": "5",
    "FETCH_STALL_TIMEOUT_S": "60",
    "FETCH_MIN_RATE_BPS": "10240",
    "FETCH_TOTAL_TIMEOUT_S": "600",
    "FETCH_CONNECTIONS": "1",
    "FETCH_SPLIT_SIZE": "67108864",
    "FETCH_STORE": "https://cache.example.org/store",
    "FETCH_STORE_WRITE": "always",
    "FETCH_STORE_TRUST": "none",
    "FETCH_GITHUB_API": "https://github.example.org/api/v3",
    "FETCH_DENY_NETWORKS": "10.0.0.0/8,169.254.0.0/16",
    "FETCH_GIT_PROTOCOLS": "https",
    "FETCH_SSH_KNOWN_HOSTS": "ci/known_hosts",
    "FETCH_PROGRESS": "lines",
    "FETCH_EVENTS": "events.jsonl",
    "FETCH_MAX_TOTAL_BYTES": "107374182400",
    "FETCH_MAX_MEMBER_BYTES": "1048576",
    "FETCH_MAX_ENTRIES": "5000000",
    "FETCH_MAX_METADATA_BYTES": "4194304",
    "FETCH_MAX_PATH_BYTES": "1024",
    "FETCH_MAX_COMPONENT_BYTES": "143",
    "FETCH_MAX_NAMES_BYTES": "268435456",
    "FETCH_MAX_DEPTH": "32",
    "FETCH_MAX_RATIO": "1000",
    "FETCH_FREE_BYTES": "2147483648",
    "FETCH_ZSTD_MAX_WINDOW_LOG": "31",
    "FETCH_XZ_MEMLIMIT_MIB": "2048",
}
#: The page that explains a setting further.
_PAGES: Final = {
    "FETCHDEFS_DIR": "taskgraph",
    "FETCH_TOPSRCDIR": "taskgraph",
    "FETCH_LEVEL": "taskgraph",
    "FETCH_PLATFORM": "how-to/several-platforms",
    "FETCH_SHARD": "scale",
    "FETCH_SHARD_BY": "scale",
    **dict.fromkeys(("FETCH_PASS_ENV", "FETCH_TOOLCHAIN_NETWORK", "FETCH_HOST_IDENTITY"), "graph"),
    **dict.fromkeys(
        (
            "FETCH_CACHE_DIR", "FETCH_PRIVATE_CACHE_DIR", "FETCH_CACHE_TRUST_GROUP", "FETCH_CACHE_PARENTS",
            "FETCH_DURABILITY", "FETCH_LINK_MODE", "FETCH_LOCK_TIMEOUT_S",
        ),
        "cache",
    ),
    **dict.fromkeys(
        (
            "FETCH_RETRIES", "FETCH_BACKOFF_S", "FETCH_CONNECT_TIMEOUT_S", "FETCH_STALL_TIMEOUT_S",
            "FETCH_MIN_RATE_BPS", "FETCH_TOTAL_TIMEOUT_S", "FETCH_CONNECTIONS", "FETCH_SPLIT_SIZE",
            "FETCH_GITHUB_API",
            "FETCH_DENY_NETWORKS",
        ),
        "network",
    ),
    **dict.fromkeys(("FETCH_STORE", "FETCH_STORE_WRITE", "FETCH_STORE_TRUST"), "how-to/shared-store"),
    "FETCH_OFFLINE": "graph",
    "FETCH_JOBS": "graph",
    "FETCH_GIT_PROTOCOLS": "git",
    "FETCH_SSH_KNOWN_HOSTS": "git",
    "FETCH_PROGRESS": "reporter",
    "FETCH_EVENTS": "events",
}  # fmt: skip
_NOTE: Final = "<!-- Generated by docs/generate.py from the tables of the package. Do not edit. -->\n"


def files() -> dict[Path, str]:
    """Return the text of each generated file."""
    return {
        DOCS / "fetchdefs.schema.json": json.dumps(json_schema(), indent=2) + "\n",
        DOCS / "mirrors.schema.json": json.dumps(mirrors_schema(), indent=2) + "\n",
        DOCS / "reference/definitions.md": "".join(_definitions()),
        DOCS / "reference/settings.md": "".join(_settings()),
    }


def schema_at(section: Section) -> dict[str, Any]:
    """Return the JSON Schema of the mapping of a section."""
    found: Any = mirrors_schema() if section.kind == "mirrors" else json_schema()
    for step in section.schema:
        found = found[step]
    if section.keys:
        kept = {key: found["properties"][key] for key in section.keys}
        found = found | {"properties": kept, "required": [key for key in found["required"] if key in kept]}
    return dict(found)


def _definitions() -> Iterator[str]:
    yield f"{_NOTE}\n# Keys of definitions\n"
    yield "\nEvery key, its values, and an example. A key in bold is required. "
    yield "[Use the schema in an editor](../how-to/editor.md) to have them completed and checked while you type.\n"
    for section in SECTIONS:
        schema = schema_at(section)
        yield f"\n## {section.title}\n\n" + (f"{section.text}\n\n" if section.text else "")
        yield "| key | value | meaning | example |\n|---|---|---|---|\n"
        for key, field in schema["properties"].items():
            name = f"**`{key}`**" if key in schema.get("required", ()) else f"`{key}`"
            example = "<br>".join(_code(line) for line in section.examples[key].splitlines())
            yield f"| {name} | {_values(field)} | {_cell(field['description'])} | {example} |\n"


def _values(field: Mapping[str, Any]) -> str:
    """Return the values that a key can have."""
    if "enum" in field:
        return ", ".join(map(_code, field["enum"]))
    if "oneOf" in field:
        return " or ".join(dict.fromkeys(_values(one) for one in field["oneOf"]))
    kind = field.get("type", "any")
    if kind == "array":
        return f"list of {_values(field['items'])}s" if "type" in field["items"] else "list"
    words = {"object": "mapping", "integer": "number", "boolean": "`true`, `false`"}
    return " or ".join(words.get(one, one) for one in ([kind] if isinstance(kind, str) else kind))


def _settings() -> Iterator[str]:
    yield f"{_NOTE}\n# Settings\n"
    yield """
A setting comes from the command line (`doit jobs=8`), else from the environment (`FETCH_JOBS=8`), else from
`[tool.doit-fetch]` in the pyproject.toml beside dodo.py (`jobs = 8`), else it has its default. `doit help settings`
shows every setting, its value and its origin. An invalid value is an error that names the setting; a name that looks
like a setting gets a warning.

```toml title=pyproject.toml
[tool.doit-fetch]
cache = "user"
jobs-per-host = 4
```

A directory that begins with `~/` is in the user's home directory. `cache = "user"` is `doit-fetch` in `$XDG_CACHE_HOME`
or `~/.cache` (on macOS `~/Library/Caches`); [Share a cache](../how-to/shared-cache.md) says when to use it. The Python
API and `doit-fetch` read the same settings. A word for doit, such as `offline=1`, works with every command of doit.

| setting | environment | default | meaning | example |
|---|---|---|---|---|
"""
    yield from (_row(one) for one in SETTINGS if one.variable)
    yield """
## Limits of archives

These have no name on the command line. In pyproject.toml, their name is the variable in lower case without `FETCH_`.
A definition can override them with the keys of [`archive:`](definitions.md#archive).

| setting | environment | default | meaning | example |
|---|---|---|---|---|
"""
    yield from (_row(one) for one in SETTINGS if not one.variable)
    yield "\n## Variables of other programs\n\n"
    yield f"doit-fetch honours {', '.join(map(_code, CONVENTIONS))}.\n"
    yield f"\nSecrets of [shared stores](../how-to/shared-store.md): {', '.join(map(_code, SECRETS))}.\n"
    yield """
## Credentials

`[tool.doit-fetch.auth."HOST"]` in pyproject.toml names a header and the environment variable that holds its value:

```toml title=pyproject.toml
[tool.doit-fetch.auth."gitlab.example.org"]
header = "PRIVATE-TOKEN"
env = "GITLAB_TOKEN"
```

[Private artifacts](../how-to/private-artifacts.md) has the other ways.
"""


def _row(one: Setting) -> str:
    default = f"{one.default:.10g}" if isinstance(one.default, float) else str(one.default)
    value = VALUES[one.environ]
    example = _code(f"doit {one.variable}={value}" if one.variable else f"{one.environ}={value} doit")
    page = f" ([more](../{_PAGES[one.environ]}.md))" if one.environ in _PAGES else ""
    choices = f"; one of {', '.join(map(_code, one.choices))}" if one.choices else ""
    meaning = _cell(one.meaning) + choices + page
    cells = (f"`{one.key}`", f"`{one.environ}`", _code(default) if default else "", meaning, example)
    return f"| {' | '.join(cells)} |\n"


def _code(text: object) -> str:
    return f"`{str(text).replace('|', chr(92) + '|')}`"


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, "utf-8")
