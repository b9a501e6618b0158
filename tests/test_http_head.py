"""HTTP header fields: parsed fast, and as Python parses them, except for blanks at the end of a value."""

from __future__ import annotations

import contextlib
import email.parser
import http.client
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks_lib.transport.http_connection import _read_fields

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
