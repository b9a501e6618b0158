"""Request headers of definitions: their field, and references to variables of the environment in their values.

A message of this module contains the name or the position of a header, never its value. Pure: no I/O.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from tasks_lib.definitions.fields import TEXTS
from tasks_lib.definitions.schema import Field, FieldError, Location
from tasks_lib.definitions.yaml_tree import Node, Scalar, Sequence, Tree
from tasks_lib.network import DOLLAR, HEADER_NAME, Headers, header_fault

#: A reference whose name is not an upper-case one; only a name is quoted, since other text may be a secret.
_MISSPELT: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]{0,63})\}")


#: A header as written: a label for messages, name, value and line. The label is its position if its name may be part of
#: its value.
_Written = tuple[str, str, str, int]


def read_headers(node: Node, _where: Location) -> Headers:
    """Return request headers, written as a mapping (Taskgraph) or as a list of "Name: value" (Gecko).

    Raises:
        FieldError: HTTP does not allow a name or value, the transport sets the header itself, or a reference to the
            environment is misspelt.
    """
    written = list(_written(node))
    for label, name, value, line in written:
        if reason := header_fault(name, value) or _reference_fault(value):
            raise FieldError(f"{label}: {reason}", line=line)
    return tuple((name, value) for _, name, value, _ in written)


def _written(node: Node) -> Iterator[_Written]:
    if isinstance(node, Tree):
        pairs = list(node.items.items())
    elif isinstance(node, Sequence):
        pairs = [("", inner) for inner in node.items]
    else:
        raise FieldError("must be a mapping of headers, or a list", "write `Name: value` lines", node.line)
    for number, (key, inner) in enumerate(pairs, 1):
        if not isinstance(inner, Scalar):
            raise FieldError(f"header {number}: must be a string, not a list or a mapping", "quote it", inner.line)
        name, value = key, "" if inner.is_null else inner.text
        if isinstance(node, Sequence):
            name, _, value = (part.strip() for part in value.partition(":"))
        is_name = value and re.fullmatch(HEADER_NAME, name)
        yield f"header {name if is_name else number}", name, value, inner.line


def _reference_fault(value: str) -> str:
    """Return which reference to the environment is misspelt, with the next step; "" if none is."""
    for found in re.finditer(DOLLAR, value):
        if found[0] == "$":
            named = _MISSPELT.match(value, found.start())
            which = f"invalid reference ${{{named[1]}}}" if named else "'$' without a valid reference"
            return f"{which}: write ${{NAME}}, in upper case, for a variable of the environment, and $$ for a dollar"
    return ""


def is_private_route(url: str) -> bool:
    """Return whether nobody on the way to `url` can read a request: https, or http to this machine."""
    parts = urlsplit(url)
    if parts.scheme.lower() != "http":
        return True
    host = (parts.hostname or "").lower()
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


HEADERS: Final = Field(
    read_headers,
    {"oneOf": [{"type": "object", "additionalProperties": {"type": "string"}}, TEXTS.schema]},
    "request headers, sent only to the origin; ${NAME} is replaced from the environment, $$ is a dollar",
)
