"""HTTP header fields: parsed fast, and as Python parses them, except for blanks at the end of a value."""

from __future__ import annotations

import contextlib
import email.parser
import http.client
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks_lib.transport.response_head import Fields, ResponseHead, _read_fields

ODD = [b"A: 1", b"a:2", b"A : 3", b" folded", b"\tfolded", b"no colon", b": empty name", b"B:", b"C:  x \t", b"D: a\rb", b"E: \xe9\x00\x85", b"F\xe9: 1", b"From x", b"G: \x0b\x0c\x1c"]  # fmt: skip
ENDS = [b"\r\n", b"\n", b"\r\r\n"]


def read(head: bytes, parse: object) -> tuple[list[tuple[str, str]], list[str], object, bytes] | str:
    """Return fields, defects, payload and unread bytes, or the error.

    The line end after the payload does not count: Python 3.15 does not pass the empty line to its parser.
    """
    file = io.BytesIO(head)
    try:
        found = parse(file)  # type: ignore[operator]
    except http.client.HTTPException as error:
        return repr(error)
    return (
        [(name, value.rstrip(" \t")) for name, value in found.items()],
        [type(one).__name__ for one in found.defects],
        str(found.get_payload() or "").rstrip("\r\n"),
        file.read(),
    )


@given(
    st.lists(st.tuples(st.sampled_from(ODD) | st.binary(max_size=12), st.sampled_from(ENDS))),
    st.sampled_from(["\r\n", "\n", ""]),
)
@example([], "\r\n")
@example([(b"A : 3", b"\r\n")], "\r\n")
@example([(b"A: " + b"x" * 70_000, b"\r\n")], "\r\n")
def test_same_result_as_python(lines: list[tuple[bytes, bytes]], end: str) -> None:
    """Names, values, their order, defects, and the start of the body are the same for any header."""
    head = b"".join(line + stop for line, stop in lines) + end.encode() + b"body"
    with contextlib.suppress(http.client.HTTPException):
        assert all(value == value.strip(" \t") for value in _read_fields(io.BytesIO(head)).values())
    assert read(head, _read_fields) == read(head, http.client.parse_headers)


@pytest.mark.parametrize("odd", [b"", b" folded\r\n", b"no colon\r\n", b"A : 1\r\n"])
def test_valid_header_needs_no_email_parser(odd: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only an unusual header is passed to the email parser."""
    asked: list[str] = []

    def parsestr(_parser: email.parser.Parser, text: str) -> http.client.HTTPMessage:
        asked.append(text)
        return http.client.HTTPMessage()

    monkeypatch.setattr(email.parser.Parser, "parsestr", parsestr)
    _read_fields(io.BytesIO(b"Content-Length: 3\r\n" + odd + b"\r\n"))
    assert bool(asked) == bool(odd)


class Wire(io.BytesIO):
    """A connection that has received a response: what `http.client` asks of a socket."""

    def makefile(self, *_arguments: object) -> io.BufferedReader:
        """Return a file that reads the response."""
        return io.BufferedReader(io.BytesIO(self.getvalue()))


def begin(response: bytes, *, plainly: bool) -> tuple[object, ...] | None:
    """Return what the head says; None if it is not plain."""
    head = ResponseHead(Wire(response), method="GET")
    if plainly and not head._begin_plain():
        return None
    if not plainly:
        head._begin_any({})
    fields = dict(head.plain_fields or Fields(head.msg.items()))
    rest = head.fp.read()
    return head.status, head.reason, head.version, head.length, bool(head.chunked), bool(head.will_close), fields, rest


FRAMING = ["Content-Length: 4", "content-length:4", "Content-Length: 04", "Content-Length: -1", "Content-Length: 4, 4",
           "Transfer-Encoding: chunked", "Connection: close", "Connection: keep-alive", "Connection: Keep-Alive, x",
           "ETag: \"x\"", "X: 1", "x:  2 ", "X: \t1", "Set-Cookie: a", "Set-Cookie: b", ": no name", "folded: a\r\n b"]  # fmt: skip


@given(
    st.sampled_from(
        ["HTTP/1.1 200 OK", "HTTP/1.1 206 Partial Content", "HTTP/1.1 200 ", "HTTP/1.0 200 OK", "HTTP/1.1 404 No"]
    ),
    st.lists(st.sampled_from(FRAMING)),
)
@example("HTTP/1.1 200 OK", ["Content-Length: 4", "Set-Cookie: a", "Set-Cookie: b", "set-cookie: a"])
def test_plain_head_means_what_python_reads(status: str, lines: list[str]) -> None:
    """A head that is read plainly has the status, fields, framing and body that the ordinary way finds."""
    response = "\r\n".join([status, *lines, "", "body"]).encode()
    plain = begin(response, plainly=True)
    assert plain is None or plain == begin(response, plainly=False)


def test_ordinary_response_is_plain() -> None:
    """The head of a download from nginx is read plainly; the same head with an interim response is not."""
    head = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Length: 4\r\nConnection: keep-alive\r\n\r\nbody"
    assert begin(head, plainly=True) is not None
    assert begin(b"HTTP/1.1 100 Continue\r\n\r\n" + head, plainly=True) is None
