"""Versions: find the one of a URL, compare two, replace one by another. Pure: no I/O.

Versions compare as PEP 440 orders them: numbers by value, `1.0` equals `1.0.0`, `dev` before `a` before `b` before `rc`
before the release before `post`. The fallback for everything else, so that any two texts compare:

- A text is a sequence of numbers and words; other characters only separate them.
- A word that PEP 440 does not know, such as `final` or `p`, is later than the same version without it, and earlier than
  one with another number (1.0 < 1.0-p1 < 1.0.1). Two such words compare alphabetically.
- A single letter after the last number is a patch level (1.1.1 < 1.1.1a < 1.1.1w), although PEP 440 reads `a` as alpha.
- What follows `~` is earlier than the version without it (Debian).

Source: https://packaging.python.org/en/latest/specifications/version-specifiers/ ; deb-version(7) for `~`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

#: A longer text is compared by its start; no project has such a version.
_MAX_TEXT: Final = 128
#: Characters of a URL or a name that are searched.
_MAX_SEARCHED: Final = 4096

_BEFORE_RELEASE: Final = {
    "dev": 1, "nightly": 1, "snapshot": 1, "unstable": 1,
    "a": 2, "alpha": 2, "canary": 2, "preview": 4, "m": 2, "milestone": 2, "ea": 2,
    "b": 3, "beta": 3,
    "c": 4, "rc": 4, "pre": 4, "cr": 4,
}  # fmt: skip
_TILDE, _END, _LOCAL, _LATER, _NUMBER = 0, 5, 6, 7, 8
_SINGLE_LETTERS: Final = ("a", "b", "c", "m")
_TOKEN: Final = re.compile(r"[0-9]+|[a-z]+|\+|~|(?<=[0-9])-(?=[0-9])")

#: What compares as a version does: pairs of rank and text or number.
Key = tuple[tuple[int, int, str], ...]


def version_key(text: str) -> Key:
    """Return the key by which versions are sorted; equal versions have equal keys."""
    key: list[tuple[int, int, str]] = [(_NUMBER, 0, "")]  # the epoch
    epoch, mark, rest = text[:_MAX_TEXT].partition("!")
    if mark and epoch.isascii() and epoch.isdigit():
        key = [(_NUMBER, int(epoch), "")]
    else:
        rest = text[:_MAX_TEXT]
    tokens = _TOKEN.findall(rest.lower())
    for index, token in enumerate(tokens):
        entry = _entry(token, tokens[index + 1] if index + 1 < len(tokens) else "")
        if entry[0] != _NUMBER:
            _drop_zeros(key)
        key.append(entry)
    _drop_zeros(key)
    key.append((_END, 0, ""))
    return tuple(key)


def _drop_zeros(key: list[tuple[int, int, str]]) -> None:
    while len(key) > 1 and key[-1] == (_NUMBER, 0, ""):
        key.pop()


def _entry(token: str, after: str) -> tuple[int, int, str]:
    """Return the part of the key for a token, whose meaning depends on the token after it."""
    if token.isdigit():
        return _NUMBER, int(token), ""
    if token == "~":
        return _TILDE, 0, ""
    if token == "+":
        return _LOCAL, 0, ""
    if token in ("-", "post", "rev", "r"):  # PEP 440: 1.0-1 is 1.0.post1
        return _LATER, 0, ""
    if token in _BEFORE_RELEASE and (after.isdigit() or token not in _SINGLE_LETTERS):
        return _BEFORE_RELEASE[token], 0, ""
    return _LATER, 1, token


def is_newer(text: str, than: str) -> bool:
    """Return whether a version is newer than another one."""
    return version_key(text) > version_key(than)


def is_prerelease(text: str) -> bool:
    """Return whether a version precedes a release, such as `1.10.0-rc1`."""
    return any(rank < _END for rank, _, _ in version_key(text))


# -- tags and file names

_NUM: Final = r"[0-9]{1,14}"
_WORDS: Final = (
    "alpha|beta|preview|snapshot|nightly|milestone|canary|final|release|patch|post|pre|dev|rev|rc|cr|ga|ea|[abcmpr]"
)
_TAIL: Final = rf"""
    (?: [-._~+]? (?:{_WORDS}) [-._]? {_NUM} (?![A-Za-z]) (?:\.{_NUM}){{0,2}}      # -rc1, b2, .post1, p3, -beta.2
      | [-._~]? (?:alpha|beta|preview|snapshot|nightly|canary|pre|dev|rc) (?![A-Za-z0-9])
      | -(?!(?:32|64)(?![0-9])) [0-9]{{1,4}} (?![0-9A-Za-z])                      # -1: a revision
    ){{0,3}}
    (?: [a-z] (?![A-Za-z0-9]) )?                                                  # 1.1.1w
    (?: (?:\+|%2[Bb]) [0-9A-Za-z]{{1,40}} (?:\.[0-9]{{1,9}}){{0,3}} (?:-[0-9]{{1,4}} (?![0-9A-Za-z]))? )?  # +dfsg-1
"""
#: A version with at least two numbers, or a date.
_DOTTED: Final = re.compile(
    rf"(?<![0-9A-Za-z.]) (?:[A-Za-z]{{1,24}})? (?P<v>{_NUM} (?:[._]{_NUM}){{1,6}} {_TAIL}"
    rf"| [12][0-9]{{3}}-[01][0-9]-[0-3][0-9] (?![0-9])) (?![0-9])",
    re.VERBOSE,
)
#: A version of one number, which a separator or `v` precedes.
_SINGLE: Final = re.compile(
    rf"(?: (?<=[-_@=]) | (?<![0-9A-Za-z.])[vVrR]? | (?<=[A-Za-z])(?=(?:19|20)[0-9]{{2}}[a-z]?(?![0-9A-Za-z])) )"
    rf"(?P<v>[0-9]{{1,14}} (?![0-9]) {_TAIL}) (?![0-9A-Za-z])",
    re.VERBOSE,
)
#: A version that is the whole rest of a tag.
_TAG: Final = re.compile(
    rf"(?P<v>{_NUM}(?:[._-]{_NUM}){{0,6}} {_TAIL} (?:[-._+][0-9A-Za-z]{{1,24}}){{0,3}})$", re.VERBOSE
)
#: What looks like a version and is none: machines, digests, formats, languages.
_NOT_VERSIONS: Final = re.compile(
    r"x86[-_]64|x86|x64|x32|amd64|i[3-6]86|aarch64\w*|arm64\w*|armv?[0-9]\w{0,4}|ppc64\w*|riscv64\w*|s390x?|mips\w{0,6}"
    r"|win(?:dows)?[-_]?(?:32|64|10|11)|linux[-_]?(?:32|64|gnu)|(?:32|64)-?bit|manylinux[\w.]{0,24}|musllinux[\w.]{0,24}"
    r"|(?:el|fc|vc|vs)[0-9]{1,4}|(?:cpython-|cp|pypy|py|python)[0-9]{1,3}(?:\.[0-9]{1,2})?(?![.0-9])|abi3"
    r"|sha-?(?:1|224|256|384|512)|md5|utf-?8|base64"
    r"|(?<![0-9a-z.])(?=[0-9]{0,63}[a-f])(?=[a-f]{0,63}[0-9])[0-9a-f]{7,64}(?![0-9a-z.])"
    r"|\.(?:tar|gz|bz2|xz|zst|tgz|zip|7z|lz4|deb|rpm|crate|whl|mp[34])(?![0-9a-z])",
    re.IGNORECASE,
)
#: Systems and compilers whose version a name may have beside its own.
_PLATFORMS: Final = re.compile(
    r"(?:macosx?|osx|darwin|ubuntu|debian|fedora|centos|alpine|glibc|musl|freebsd|msvc|mingw|cuda|gcc|clang)"
    r"[-_]?[0-9]{1,4}(?:[._][0-9]{1,4}){0,2}",
    re.IGNORECASE,
)
_PREFIXES: Final = re.compile(r"(?:.*[/@])?(?:v|ver|version|r|rel|release|tags?)?[-_./]?", re.IGNORECASE)


class Tag(NamedTuple):
    """A tag of a release: `prefix` and `version` together are its text."""

    prefix: str
    version: str


def parse_tag(text: str) -> Tag | None:
    """Split a tag or a version, such as `release-1.2` or `v1.2`, before its version; return None if it has none."""
    if len(text) > _MAX_TEXT:
        return None
    for start in _starts(text):
        if _TAG.match(text, start):
            return Tag(text[:start], text[start:])
    return None


def _starts(text: str) -> Iterator[int]:
    """Yield where the version of a tag may start: first at a number that another one follows."""
    masked = _NOT_VERSIONS.sub(_blank, text)
    yield from (found.start() for found in re.finditer(r"(?<![0-9])(?<![0-9][._])[0-9]{1,14}[._][0-9]", masked))
    yield from (found.start() for found in re.finditer(r"(?<![0-9])(?<![0-9][._])[0-9]", masked))


def spell_like(version: str, other: str) -> str:
    """Return a version with the separators of another one: `8_6_0` as `8.6.0` if the other one is `8.5.0`."""
    if "." in other and "_" not in other and "." not in version:
        return version.replace("_", ".")
    if "_" in other and "." not in other and "_" not in version:
        return version.replace(".", "_")
    return version


def has_common_prefix(tag: Tag, present: str, names: tuple[str, ...]) -> bool:
    """Return whether a tag belongs to the releases of a project.

    Its repository may have several series of tags. `present` is the prefix of the tag in use; `names` are those of the
    project.
    """
    prefix = tag.prefix
    if prefix == present:
        return True
    return _is_usual(present, names) and _is_usual(prefix, names)


def _is_usual(prefix: str, names: tuple[str, ...]) -> bool:
    lowered = prefix.lower()
    for name in names:
        rest = lowered.removeprefix(name.lower())
        if rest != lowered and rest[:1] in ("", "-", "_", ".", "/", "v"):
            lowered = rest.lstrip("-_./")
            break
    return "/" not in lowered and _PREFIXES.fullmatch(lowered) is not None


# -- URLs

_TAG_SEGMENT: Final = re.compile(
    r"/(?:releases/download|archive(?:/refs/tags)?|refs/tags|tags|tarball|zipball|(?:tar\.gz|zip)(?:/refs/tags)?)/([^/?]{1,200})"
)


def find_version(url: str) -> str:
    """Return the version that a URL names, "" for none.

    The tag of a forge's URL comes first, then the last name of the path, then the names before it, then the query. A
    version of several numbers comes before one of a single number.
    """
    place, query = _parts(url)
    names = [name for name in reversed(place.split("/")) if name]
    tag = _TAG_SEGMENT.search(place)
    if tag is not None:
        version = _first((tag[1],), _DOTTED) or _first((tag[1],), _SINGLE)
        if version:
            return _spelling(version, names)
    return (
        _first(names, _DOTTED) or _first(names[:1], _SINGLE) or _first((query,), _DOTTED) or _first(names[1:], _V_ONLY)
    )


_V_ONLY: Final = re.compile(r"(?<![^/])[vVrR](?P<v>[0-9]{2,14})(?![0-9A-Za-z._])")


def _spelling(version: str, names: list[str]) -> str:
    """Return the version as the file name writes it, if that is the version of the tag."""
    other = _first(names[:1], _DOTTED)
    return other if other and version_key(other) == version_key(version) else version


def _first(names: Sequence[str], pattern: re.Pattern[str]) -> str:
    for name in names:
        masked = _NOT_VERSIONS.sub(_blank, name)
        found = pattern.search(_PLATFORMS.sub(_blank, masked)) or pattern.search(masked)
        if found is not None:
            return re.sub("%2[Bb]", "+", name[found.start("v") : found.end("v")])
    return ""


def _blank(found: re.Match[str]) -> str:
    return " " * len(found[0])


def _parts(url: str) -> tuple[str, str]:
    """Return the path and the query of a URL, of which the fragment is dropped."""
    place, _, query = url[:_MAX_SEARCHED].partition("#")[0].partition("?")
    if "://" in place:
        place = place.partition("://")[2].partition("/")[2]
    return place, query


def replace_version(text: str, old: str, new: str) -> str:
    """Return a text, such as a URL or a name, with a new version wherever it has the old one.

    The separators of each place are kept (`8_5_0` becomes `8_6_0`). A directory that is the start of the old version,
    such as `2.78` or `v6.x`, becomes that of the new one.
    """
    if not old or old == new:
        return text
    scheme, mark, rest = text.partition("://") if "://" in text else ("", "", text)
    host, slash, place = rest.partition("/") if mark else ("", "", rest)
    for one, other in _spellings(old, new):
        place = _occurrences(one).sub(lambda _, other=other: other, place)  # type: ignore[misc]  # mypy and defaults
    return scheme + mark + host + slash + "/".join(_directory(name, old, new) for name in place.split("/"))


def _occurrences(version: str) -> re.Pattern[str]:
    """Return an expression for a version that is not a part of another number or version."""
    after = r"(?![0-9]|\.[0-9]|[a-z](?![a-z]))" if re.search(r"[._-]", version) else "(?![0-9A-Za-z]|\\.[0-9])"
    return re.compile(rf"(?<![0-9])(?<![0-9]\.){re.escape(version)}{after}")


def _spellings(old: str, new: str) -> Iterator[tuple[str, str]]:
    """Yield both versions in each form that URLs and names use."""
    seen = set()
    for separator in ("", ".", "_", "-"):
        for plus in ("+", "%2B"):
            one, other = (_spell(text, separator).replace("+", plus) for text in (old, new))
            if one not in seen:
                seen.add(one)
                yield one, other


def _spell(version: str, separator: str) -> str:
    return re.sub(r"(?<=[0-9])[._](?=[0-9])", separator, version) if separator else version


def split_at(text: str, version: str) -> tuple[str, str] | None:
    """Return what is before and after a version in a text, None if the text does not have it."""
    for one, _ in _spellings(version, version):
        found = _occurrences(one).search(text)
        if found is not None:
            return text[: found.start()], text[found.end() :]
    return None


def middle(text: str, before: str, after: str) -> str:
    """Return what is between two texts, "" if the text does not begin and end with them."""
    if not (text.startswith(before) and text.endswith(after) and len(text) > len(before) + len(after)):
        return ""
    return text[len(before) : len(text) - len(after)]


def split_directory(name: str, version: str) -> tuple[str, str] | None:
    """Return what is before and after the start of a version that a directory has as its name, such as `v6.x`."""
    found = _PARTIAL.fullmatch(name)
    if found is None:
        return None
    parts, olds = found[2].split("."), re.findall(r"[0-9]+", version)
    if len(parts) >= len(olds) or parts != olds[: len(parts)]:
        return None
    if len(parts) == 1 and not (found[1] or found[3] or len(parts[0]) > 1):
        return None  # `/1/` may be anything
    return found[1], found[3] or ""


_PARTIAL: Final = re.compile(r"(v?)([0-9]{1,9}(?:\.[0-9]{1,9}){0,3})(\.x)?")


def version_at(text: str, start: int) -> str:
    """Return the version that starts there in a text, "" for none."""
    there = text[start : start + _MAX_TEXT]
    found = _DOTTED.match(there) or _SINGLE.match(there)
    return there[: found.end("v")] if found is not None and found.start("v") == 0 else ""


def is_version(text: str) -> bool:
    """Return whether a text is a version and nothing else: `1.2-docs` is not."""
    return len(text) <= _MAX_TEXT and any(_whole(pattern, text) for pattern in (_DOTTED, _SINGLE))


def _whole(pattern: re.Pattern[str], text: str) -> bool:
    found = pattern.match(text)
    return found is not None and (found.start("v"), found.end("v")) == (0, len(text))


def _directory(name: str, old: str, new: str) -> str:
    """Return a directory of the path; one that is named after the start of the old version gets the new one's."""
    around, news = split_directory(name, old), re.findall(r"[0-9]+", new)
    count = len(name.removesuffix(".x").split("."))
    if around is None or name == new or len(news) < count:
        return name
    return around[0] + ".".join(news[:count]) + around[1]
