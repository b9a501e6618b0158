"""Field types of definitions (string, name, path, URL, digest): their readers and their JSON Schemas.

Pure: no I/O.
"""

from __future__ import annotations

import base64
import posixpath
import re
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote, urlsplit

from tasks_lib.definitions.schema import Field, FieldError, Location
from tasks_lib.definitions.yaml_tree import NULLS, Node, Scalar, Sequence, Tree
from tasks_lib.digest import Digest
from tasks_lib.platforms import parse_platform
from tasks_lib.relpath import RelPath

#: Maximum length of a field in characters; a one-page description has fewer than 4,000.
MAX_TEXT: Final = 65_536
#: Characters of a name, which becomes a doit task name, a directory and part of URLs.
NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._+~@-]*"
MAX_NAME: Final = 200
_NAME: Final = re.compile(NAME)
_DIGITS: Final = re.compile("[0-9]{1,19}")
#: Names that the build directory and the directory of a toolchain use themselves; case does not distinguish directories
#: on every file system. Source: `steps.plan`, `cli.report`.
RESERVED_NAMES: Final = frozenset({"artifacts", "extracted", "fetches", "report.html", "trace.json"})


_UNPRINTABLE: Final = re.compile(r"[\x00-\x20\x7f\\]")
#: URLs in which no check finds a fault, unless the scheme is not allowed: most URLs.
_PLAIN_URL: Final = re.compile(
    r"(https?)://[A-Za-z0-9][A-Za-z0-9.-]*(?::(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}))?/[A-Za-z0-9._~/+%@=&?-]*"
)


# --- readers: node -> value -------------------------------------------------------------------


def read_text(node: Node, _where: Location | None = None) -> str:
    """Return the text of a non-empty scalar.

    Raises:
        FieldError: it is a list, a mapping, empty, or too long.
    """
    if not isinstance(node, Scalar):
        raise FieldError("must be a string, not a list or a mapping", line=node.line)
    text = node.text
    if text in NULLS and (node.plain or not text):
        raise FieldError("is empty", "write a value or remove the key")
    if len(text) > MAX_TEXT:
        raise FieldError(f"is longer than {MAX_TEXT} characters")
    return text


def _prefix(node: Node, where: Location) -> str:
    if isinstance(node, Scalar) and not node.text and not node.plain:
        return ""
    prefix = read_text(node, where)
    _path(prefix)
    return prefix


def _path(text: str) -> RelPath:
    try:
        return RelPath.parse(text)
    except ValueError as error:
        raise FieldError(str(error), "use a relative path that does not leave its directory") from error


def read_relative_path(node: Node, where: Location) -> RelPath:
    """Return a relative path that does not leave its directory.

    Raises:
        FieldError: it is absolute or too long, or contains `..` or control characters.
    """
    return _path(read_text(node, where))


def read_name(node: Node, _where: Location | None = None) -> str:
    """Return a name that is safe as a task name, a directory and part of a URL.

    Raises:
        FieldError: it is empty or too long, or contains a character that is not allowed.
    """
    return check_name(read_text(node))


def check_name(name: str) -> str:
    """Return `name` if it is valid.

    Raises:
        FieldError: it is too long, contains a character that is not allowed, or ends with a platform.
    """
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise FieldError(
            f"invalid name {name!r}",
            "use letters, digits, '.', '_', '+', '~', '@' or '-', starting with a letter or digit;"
            f" at most {MAX_NAME} characters",
        )
    if "@" in name and parse_platform(name.rpartition("@")[2]):
        raise FieldError(f"the name {name!r} ends with a platform", "choose another name, or use `platforms:`")
    return name


def read_file_name(node: Node, where: Location) -> str:
    """Return a file name, which is a single path component.

    Raises:
        FieldError: it contains a slash or is not a safe path.
    """
    text = read_text(node, where)
    if "/" in text:
        raise FieldError("contains a slash", "use a single file name")
    return _path(text).text


def read_sha256(node: Node, where: Location) -> Digest:
    """Return a sha256 digest, in upper or lower case, with or without the prefix `sha256:`.

    Raises:
        FieldError: it is not 64 hex digits; another notation or algorithm is named.
    """
    text = read_text(node, where)
    try:
        return Digest.sha256(text.removeprefix("sha256:"))
    except ValueError as error:
        raise _explain_digest(text) from error


#: Other algorithms by the number of their hex digits, and the notations that begin with the name of one.
_OTHER_LENGTHS: Final = {32: "md5", 40: "sha1", 56: "sha224", 96: "sha384", 128: "sha512"}
_OTHER_ALGORITHM: Final = re.compile(r"(md5|sha1|sha224|sha384|sha512|sha3|blake2b|blake3)[-:_]", re.IGNORECASE)
#: Base64 of 32 bytes, as in an SRI. Source: https://www.w3.org/TR/SRI/, "hash-expression".
_BASE64: Final = re.compile(r"(?:sha256[-:])?([A-Za-z0-9+/]{43}=)(?:\?.*)?")


def _explain_digest(text: str) -> FieldError:
    copy = "copy the output of `sha256sum`"
    digits = text.removeprefix("sha256:")
    if found := _BASE64.fullmatch(text):
        return FieldError("expected 64 hex digits, got base64 (SRI)", f"write {base64.b64decode(found[1]).hex()}")
    other = _OTHER_ALGORITHM.match(text)
    algorithm = other[1].lower() if other else ""
    if re.fullmatch("[0-9a-fA-F]+", digits):
        algorithm = _OTHER_LENGTHS.get(len(digits), "")
    if algorithm:
        return FieldError(f"{algorithm} is not supported: only sha256 is", copy)
    return FieldError(f"expected 64 hex digits, got {len(digits)} characters: {digits[:80]!r}", copy)


def read_count(node: Node, where: Location) -> int:
    """Return a non-negative integer.

    Raises:
        FieldError: it has a character other than a digit, or does not fit in 63 bits.
    """
    text = read_text(node, where)
    if not _DIGITS.fullmatch(text) or int(text) >= 2**63:
        raise FieldError(f"must be a non-negative integer, got {text[:40]!r}", "write digits only, at most 2**63 - 1")
    return int(text)


def read_bool(node: Node, where: Location) -> bool:
    """Return a boolean.

    Raises:
        FieldError: it is another word than true, yes, on, false, no or off.
    """
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    word = read_text(node, where).lower()
    if word not in words:
        raise FieldError(f"must be true or false, got {word[:40]!r}")
    return words[word]


def url_reader(*schemes: str) -> Callable[[Node, Location], str]:
    """Return a reader of URLs with one of these schemes."""

    def read(node: Node, where: Location) -> str:
        return check_download_url(read_text(node, where), schemes)

    return read


def check_download_url(url: str, schemes: tuple[str, ...]) -> str:
    """Return `url` if it can be requested.

    Raises:
        FieldError: it has another scheme, no host, spaces or control characters, or credentials.
    """
    if (plain := _PLAIN_URL.fullmatch(url)) and plain[1] in schemes:
        return url
    if _UNPRINTABLE.search(url):
        raise FieldError("contains a space, a backslash or a control character", "percent-encode it")
    scheme = url.partition("?")[0].partition(":")[0].lower()
    if scheme not in schemes or ":" not in url:
        hint = "use the https form of this origin" if scheme == "ftp" else f"use {' or '.join(schemes)}"
        raise FieldError(f"the URL scheme {scheme[:20]!r} is not supported", hint)
    if scheme in ("http", "https"):
        _check_host(url)
    if scheme == "file" and "%00" in url:
        raise FieldError("contains a NUL (%00)", "use the path of an existing file")
    if scheme == "mirror" and not re.fullmatch(rf"mirror://{NAME}/.+", url):
        raise FieldError("has no mirror group or no path", "write mirror://GROUP/PATH")
    return url


def resolve_url(url: str, where: Location) -> str:
    """Return `url`; resolve a relative `file:` URL against the directory of the YAML file."""
    if not url.lower().startswith("file:"):
        return url
    path = url[5:]
    if path.startswith("//"):
        path = "/" + path[2:].partition("/")[2]  # a host in a file URL is ignored, as RFC 8089 section 2 allows
    return "file://" + posixpath.normpath(posixpath.join(quote(where.base, errors="surrogateescape"), path))


def _check_host(url: str) -> None:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        if host and not host.isascii():
            host.encode("idna")
    except ValueError as error:
        raise FieldError(f"invalid URL: {error}") from error
    if port == 0:
        raise FieldError("port 0 cannot be used", "omit the port to use the default")
    if not host or not re.match(r"https?://", url, re.IGNORECASE):
        raise FieldError("has no host", "write https://host/path")
    if parts.username is not None or parts.password is not None:
        raise FieldError("contains a user name or password", "use `headers:` or a netrc file for credentials")


def list_of(read: Callable[[Node, Location], Any]) -> Callable[[Node, Location], tuple[Any, ...]]:
    """Return a reader of lists whose items `read` reads; it reports every invalid item."""

    def read_list(node: Node, where: Location) -> tuple[Any, ...]:
        if not isinstance(node, Sequence):
            raise FieldError("must be a list", "write `- item` lines, or [item, item]", node.line)
        values = []
        for item in node.items:
            try:
                values.append(read(item, where))
            except FieldError as error:
                where.wrong(error.reason, error.hint, error.line or item.line)
        return tuple(values)

    return read_list


def one_or_list(read: Callable[[Node, Location], Any]) -> Callable[[Node, Location], tuple[Any, ...]]:
    """Return a reader of one value or a list of them."""
    many = list_of(read)

    def read_either(node: Node, where: Location) -> tuple[Any, ...]:
        return many(node, where) if isinstance(node, Sequence) else (read(node, where),)

    return read_either


def default_of(node: Node) -> Node | None:
    """Return the value of a node for unknown parameters: the `default:` below its `by-*:` keys, None if there is none.

    Source: taskgraph `util/keyed_by`.
    """
    while (key := _by_key(node)) and isinstance(node, Tree):
        choices = node.items[key]
        default = choices.items.get("default") if isinstance(choices, Tree) else None
        if default is None:
            return None
        node = default
    return node


def _by_key(node: Node | None) -> str:
    return next((key for key in node.items if key.startswith("by-")), "") if isinstance(node, Tree) else ""


def name_keyed(key: str, node: Node | None) -> list[str]:
    """Return a note for `doit info` if the value of `key` depends on parameters of which the default is used."""
    by = _by_key(node)
    return [f"{key}.{by} (its default is used)"] if by else []


def _read_keyed_names(node: Node, where: Location) -> tuple[str, ...]:
    """Return names that may depend on parameters; the default of such names, () for null."""
    node_or_none = default_of(node)
    items = node_or_none.items if isinstance(node_or_none, Sequence) else [node_or_none]
    found = [default_of(item) for item in items if item is not None]
    return tuple(read_name(item, where) for item in found if not (item is None or _is_null(item)))


def _is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.is_null


def one_of(*words: str) -> Field:
    """Return a field whose value is one of these words."""

    def read(node: Node, _where: Location) -> str:
        word = read_text(node)
        if word not in words:
            raise FieldError(f"invalid value {word[:40]!r}", f"use {' or '.join(words)}")
        return word

    return Field(read, {"enum": list(words)})


def read_pairs(node: Node, _where: Location) -> tuple[tuple[str, str], ...]:
    """Return a mapping of strings as pairs.

    Raises:
        FieldError: it is not a mapping, or a value is not a string.
    """
    if not isinstance(node, Tree):
        raise FieldError("must be a mapping of strings", "write `NAME: value` lines", node.line)
    return tuple((key, _pair_text(value, key)) for key, value in node.items.items())


def _pair_text(node: Node, key: str) -> str:
    if not isinstance(node, Scalar):
        raise FieldError(f"the value of {key!r} must be a string", line=node.line)
    return node.text


def hex_reader(lengths: tuple[int, ...], what: str) -> Callable[[Node, Location], str]:
    """Return a reader of hex digits of one of these lengths, which it converts to lower case."""

    def read(node: Node, where: Location) -> str:
        text = read_text(node, where).replace(" ", "").lower()
        if len(text) not in lengths or not re.fullmatch("[0-9a-f]+", text):
            raise FieldError(
                f"invalid {what} {text[:80]!r}", f"expected the full {' or '.join(map(str, lengths))} hex digits"
            )
        return text

    return read


def _minisign_key(node: Node, where: Location) -> str:
    """Return the base64 text of a minisign public key. Source: minisign, "Public key format": 42 bytes in base64."""
    text = read_text(node, where)
    if not re.fullmatch("[A-Za-z0-9+/]{56}", text):
        raise FieldError(f"invalid minisign public key {text[:80]!r}", "copy the second line of the .pub file (RW...)")
    return text


# --- fields -----------------------------------------------------------------------------------

_TEXT: Final[dict[str, Any]] = {"type": "string", "minLength": 1}
TEXT: Final = Field(read_text, _TEXT)
ANYTHING: Final = Field(lambda _node, _where: None, {})
NAME_FIELD: Final = Field(read_name, {"type": "string", "pattern": f"^{NAME}$", "maxLength": MAX_NAME})
NAMES: Final = Field(
    one_or_list(read_name), {"oneOf": [NAME_FIELD.schema, {"type": "array", "items": NAME_FIELD.schema}]}
)
#: Names that may depend on parameters of Taskcluster: `by-project:` with a `default:`.
KEYED_NAMES: Final = Field(_read_keyed_names, {"oneOf": [*NAMES.schema["oneOf"], {"type": ["object", "null"]}]})
SHA256: Final = Field(read_sha256, {"type": "string", "pattern": "^(sha256:)?[0-9A-Fa-f]{64}$"})
COUNT: Final = Field(read_count, {"type": "integer", "minimum": 0})
SWITCH: Final = Field(read_bool, {"type": "boolean"})
RELATIVE: Final = Field(read_relative_path, _TEXT)
PREFIX: Final = Field(_prefix, {"type": "string"})
FILE_NAME: Final = Field(read_file_name, {"type": "string", "pattern": "^[^/]+$"})
TEXTS: Final = Field(list_of(read_text), {"type": "array", "items": _TEXT})
PAIRS: Final = Field(read_pairs, {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}})
FINGERPRINT: Final = Field(hex_reader((40, 64), "primary key fingerprint"), _TEXT)
MINISIGN_KEY: Final = Field(_minisign_key, {"type": "string", "pattern": "^[A-Za-z0-9+/]{56}$"})
REVISION: Final = Field(
    hex_reader((40, 64), "commit id"),
    {"type": "string", "pattern": "^[0-9A-Fa-f]{40}([0-9A-Fa-f]{24})?$"},
)


def url_field(*schemes: str) -> Field:
    """Return a field whose value is a URL with one of these schemes."""
    return Field(url_reader(*schemes), {"type": "string", "pattern": f"^({'|'.join(schemes)}):"})
