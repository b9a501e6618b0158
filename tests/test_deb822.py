"""Paragraphs of fields: split from a stream, parsed, or refused with a reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks_lib.debian.deb822 import MAX_PARAGRAPH, parse_paragraph, select_paragraphs, split_paragraphs

_NAMES = st.sampled_from(["package", "version", "sha256", "x-a"])
_VALUES = st.text("ab:;", min_size=1, max_size=8)


def test_fields_and_continuation_lines() -> None:
    """Names are case-insensitive, values lose outer blanks, continuation lines keep their line breaks."""
    raw = b"Package: greet\nDescription:  a greeter \n prints\n .\n  a word\nSHA256:\tab\nX-\xc3\xa4: 1".replace(
        b"X-\xc3\xa4", b"X-A"
    )
    assert parse_paragraph(raw) == {
        "package": "greet",
        "description": "a greeter\nprints\n.\n a word",
        "sha256": "ab",
        "x-a": "1",
    }


def test_a_long_field() -> None:
    """The time for a field of many lines grows as its length does: a Release file may list 200,000 files."""
    lines = [f"{at:064x} 1 f{at}" for at in range(200_000)]
    assert parse_paragraph("SHA256:\n {}".format("\n ".join(lines)).encode()) == {"sha256": "\n".join(["", *lines])}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b" first", "continues no field"),
        (b"A: 1\n \nB: 2", "consists of blanks"),
        (b"A: 1\n\nB: 2", "expected `Field: value`"),
        (b"A: 1\na: 2", "occurs twice"),
        (b"no colon", "expected `Field: value`"),
        (b"#c: 1", "expected `Field: value`"),
        (b"-a: 1", "expected `Field: value`"),
        (b"A b: 1", "expected `Field: value`"),
        (b"A: \xff", "utf-8"),
        (b"A: 1\rB: 2\n\rC: 3", "expected `Field: value`"),
        (b"", "expected `Field: value`"),
    ],
)
def test_what_is_not_a_paragraph_is_refused(raw: bytes, reason: str) -> None:
    """Each fault has its reason."""
    with pytest.raises(ValueError, match=reason):
        parse_paragraph(raw)


@given(
    paragraphs=st.lists(st.dictionaries(_NAMES, _VALUES, min_size=1, max_size=4), max_size=5),
    gap=st.integers(2, 9),
    piece=st.integers(1, 40),
)
def test_a_stream_in_any_pieces_has_the_same_paragraphs(paragraphs: list[dict[str, str]], gap: int, piece: int) -> None:
    """Neither the sizes of the chunks nor the number of blank lines matters."""
    texts = ["\n".join(f"{name}: {value}" for name, value in one.items()) for one in paragraphs]
    raw = ("\n" * gap).join(texts).encode() + b"\n"
    chunks = [raw[at : at + piece] for at in range(0, len(raw), piece)]
    found = list(split_paragraphs(chunks))
    assert [parse_paragraph(one) for one in found] == paragraphs
    for name, value in {item for one in paragraphs for item in one.items()}:
        chosen = [one for one in found if f"\n{name}: {value}\n" in f"\n{one.decode()}\n"]
        selected = select_paragraphs(chunks, f"{name}: ".encode(), {value.encode()})
        assert list(selected) == [(value.encode(), one) for one in chosen]


@pytest.mark.slow
def test_an_endless_paragraph_is_refused() -> None:
    """Memory stays bounded, whatever the stream holds."""
    with pytest.raises(ValueError, match="more than"):
        list(split_paragraphs(b"x" * 1000 for _ in range(MAX_PARAGRAPH // 1000 + 2)))
