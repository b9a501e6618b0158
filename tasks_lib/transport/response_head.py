"""The head of a response: status line and fields. Plain heads are parsed here, unusual ones by Python's own parsers."""

from __future__ import annotations

import email.parser
import http.client
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Self, cast

#: An unambiguous field line. Source: RFC 9110 section 5.6.2 (token), RFC 9112 section 5.
_FIELD: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n]*\r?\n")
#: Most bytes of a line. Source: CPython's http.client, `_MAXLINE`.
_MAX_LINE: Final = 1 << 16
#: Most lines and bytes of a head. Source: curl, `MAX_HTTP_RESP_HEADER_COUNT` and `MAX_HTTP_RESP_HEADER_SIZE`.
_MAX_FIELDS: Final = 5000
_MAX_HEAD: Final = 300 << 10
#: The status line of an interim response; 101 (Switching Protocols) is final. Source: RFC 9110 section 15.2.
_INTERIM: Final = re.compile(rb"HTTP/1\.[0-9]+[ \t]+1(?!01)[0-9]{2}\s")
#: Fields that determine the end of the body, and fields that determine whether the connection is kept.
#: Source: RFC 9112 sections 6.3 and 9.3; http.client reads the last two in HTTP/1.0 responses.
_LENGTH: Final = frozenset({"transfer-encoding", "content-length"})
_FRAMING: Final = _LENGTH | {"connection", "keep-alive", "proxy-connection"}


def _read_lines(file: io.BufferedIOBase) -> list[bytes]:
    """Return the field lines of a head, including the empty line that ends it (b"" at the end of the stream).

    Raises:
        http.client.HTTPException: a line is too long, or there are too many.
    """
    lines: list[bytes] = []
    size = 0
    while True:
        line = file.readline(_MAX_LINE + 1)
        if len(line) > _MAX_LINE:
            raise http.client.LineTooLong("header line")
        lines.append(line)
        size += len(line)
        if line in (b"\r\n", b"\n", b""):
            return lines
        if len(lines) > _MAX_FIELDS:
            raise http.client.HTTPException(f"got more than {_MAX_FIELDS} headers")
        if size > _MAX_HEAD:
            raise http.client.HTTPException(f"got more than {_MAX_HEAD} bytes of headers")


def _read_fields(file: io.BufferedIOBase) -> http.client.HTTPMessage:
    """Return the fields of a head. Only unusual lines use Python's email parser, which is ten times slower.

    Strip whitespace around values, which neither Python nor urllib3 does. Source: RFC 9112 section 5.1.

    Raises:
        http.client.HTTPException: as `_read_lines`.
    """
    lines = _read_lines(file)
    head = http.client.HTTPMessage()
    if not lines[-1] or not all(map(_FIELD.fullmatch, lines[:-1])):
        # as `http.client.parse_headers`, which accepts only 100 lines
        head = email.parser.Parser(http.client.HTTPMessage).parsestr(b"".join(lines).decode("iso-8859-1"))
        given = head.items()
        for name, _ in given:
            del head[name]
    else:
        parts = (line.decode("iso-8859-1").rstrip("\r\n").partition(":") for line in lines[:-1])
        given = [(name, value) for name, _, value in parts]
    for name, value in given:
        head.set_raw(name, value.strip(" \t"))
    return head


def _framing_fields(fields: http.client.HTTPMessage) -> list[tuple[str, str]]:
    """Return the fields that determine the end of the body and whether the connection is kept, unfolded."""
    both = "Transfer-Encoding" in fields and "Content-Length" in fields
    wanted = _LENGTH if both else _FRAMING
    framing = [("Connection", "close")] if both else []  # Source: RFC 9112 section 6.3, item 3
    for name, value in fields.items():
        if name.lower() in wanted:
            framing.append((name, value.replace("\r", " ").replace("\n", " ")))  # Source: RFC 9112 section 5.2
    return framing


class Fields(Mapping[str, str]):
    """The fields of a head by name, in any case; the values of a repeated field are joined, equal ones count once."""

    __slots__ = ("_values",)

    def __init__(self, given: Sequence[tuple[str, str]]) -> None:
        self._values = {name.lower(): value for name, value in given}
        if len(self._values) < len(given):
            self._values = self._joined(given)

    @staticmethod
    def _joined(given: Iterable[tuple[str, str]]) -> dict[str, str]:
        values: dict[str, str] = {}
        repeated: dict[str, dict[str, None]] = {}
        for name, value in given:
            key = name.lower()
            if key in values:
                repeated.setdefault(key, {values[key]: None})[value] = None
            else:
                values[key] = value
        for key, several in repeated.items():
            values[key] = ", ".join(several)
        return values

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of a field; `Mapping.get` raises and catches an exception for each missing one."""
        return self._values.get(name.lower(), default)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


#: A plain head: a response with content, framed by its length, on a connection that stays open.
#: Source: RFC 9112 sections 4, 5 and 6.3; RFC 9110 sections 5.5 and 5.6.2.
_PLAIN_HEAD: Final = re.compile(
    rb"HTTP/1\.1 (20[06]) ([\x20-\x7e]*)\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e]*\r\n){1,100})\r\n"
)
_LENGTH_VALUE: Final = re.compile(r"[0-9]{1,18}")


class PlainHead(NamedTuple):
    """What a plain head says: the last two are the size of the body, and where it begins."""

    status: int
    reason: str
    fields: Fields
    length: int
    end: int

    @classmethod
    def parse(cls, data: bytes) -> Self | None:
        """Return the plain head with which `data` begins, None if it is incomplete or not plain."""
        found = _PLAIN_HEAD.match(data)
        if found is None:
            return None
        lines = found[3].decode("ascii").split("\r\n")
        fields = Fields([(name, value.strip(" \t")) for name, _, value in [line.partition(":") for line in lines[:-1]]])
        length = fields.get("content-length", "")
        is_framed = _LENGTH_VALUE.fullmatch(length) and "transfer-encoding" not in fields
        if not is_framed or fields.get("connection", "keep-alive").lower() != "keep-alive":
            return None
        return cls(int(found[1]), found[2].decode("ascii").strip(), fields, int(length), found.end())


class ResponseHead(http.client.HTTPResponse):
    """A response that skips every interim response (Python skips only 100) and parses ordinary fields fast.

    `plain_fields` are the fields of a plain head, and `left` are the bytes of its body that were not read.
    """

    plain_fields: Fields | None = None
    left = 0
    _buffered = 0  # bytes of it that arrived with the head

    def __init__(self, sock: Any, debuglevel: int = 0, method: str | None = None, url: str | None = None) -> None:
        super().__init__(sock, debuglevel, method, url)
        self.asked_method = method or "GET"

    def begin(self, **options: Any) -> None:
        """Read the head; Python derives the framing of the body from the status line and the framing fields."""
        if self.asked_method != "GET" or not self._begin_plain():  # the response to HEAD has a length and no content
            self._begin_any(options)

    def _begin_plain(self) -> bool:
        """Read a plain head that arrived in one piece; return False if the head is not, and is still to be read."""
        file: Any = self.fp
        received = file.peek()
        plain = PlainHead.parse(received)
        if plain is None:
            return False
        file.read(plain.end)
        self._buffered = len(received) - plain.end
        self.version, self.status, self.reason = 11, plain.status, plain.reason
        self.chunked, self.will_close = False, self._buffered > plain.length
        self.length = self.left = plain.length
        self.plain_fields = plain.fields
        return True

    def receive(self, view: memoryview) -> int:
        """Read at least one byte of a plain body into `view` and return their number; 0 at the end of the stream.

        `BufferedReader.readinto1` would wait for more than it has buffered.
        """
        file: Any = self.fp
        count: int = file.readinto1(view[: self._buffered]) if self._buffered else file.raw.readinto(view)
        self._buffered = max(0, self._buffered - count)
        return count

    def _begin_any(self, options: dict[str, Any]) -> None:
        file: Any = self.fp
        status_line = file.readline(_MAX_LINE + 1)
        while _INTERIM.match(status_line):
            _read_lines(file)
            status_line = file.readline(_MAX_LINE + 1)
        fields = _read_fields(file) if status_line.startswith(b"HTTP/") else http.client.HTTPMessage()
        head = "".join(f"{name}: {value}\r\n" for name, value in _framing_fields(fields))
        self.fp = cast(Any, io.BytesIO(status_line + head.encode("iso-8859-1") + b"\r\n"))
        try:
            super().begin(**options)
        finally:
            self.fp = file
        self.headers = self.msg = fields
