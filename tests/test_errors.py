"""Errors can be pickled, and untrusted text is escaped."""

import pickle

import pytest

from tasks_lib import errors


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain-ü.txt", "plain-ü.txt"),
        ("a\nb", r"a\nb"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        (b"caf\xe9", r"caf\xe9"),
        ("\udce9", r"\udce9"),
        ("##[group]a ###vso[b]", r"#\x23[group]a ##\x23vso[b]"),
        ("a ##VSO[b] ##teamcity[c", r"a #\x23VSO[b] #\x23teamcity[c"),
        (" ::add-mask::a ::b::", r" :\x3aadd-mask::a :\x3ab::"),
        ("section_start:1:a\r\x1b[0K", r"section\x5fstart:1:a\r\x1b[0K"),
        ("travis_fold:end:a", r"travis\x5ffold:end:a"),
        ("std::string ## a #[b] [::1] section_x", "std::string ## a #[b] [::1] section_x"),
    ],
)
def test_escaped(text: str | bytes, shown: str) -> None:
    """Control characters, bidirectional overrides and undecodable bytes are shown as escapes."""
    assert errors.escape_text(text) == errors.escape_text(shown) == shown


@pytest.mark.parametrize(
    "error",
    [
        errors.FetchError("what", hint="next"),
        errors.DefinitionError((errors.Problem("a.yml", 3, "x.url", "is empty", "write one"),)),
        errors.HttpStatusError("404", status=404, hint="look", transient=False),
        errors.DigestMismatchError("differs", expected="sha256:a", actual="sha256:b"),
        errors.UnsafeEntryError(archive="a.tar", reason="leaves", code="X", entry=b"../x", offset=512),
        errors.AllSourcesFailedError("none", attempts=(errors.FailedAttempt("https://a.invalid/", "refused"),)),
    ],
)
def test_errors_survive_pickling(error: errors.FetchError) -> None:
    """An error that is sent to another process keeps its class, text and fields."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__


def test_text_of_an_archive_error() -> None:
    """The text is one line with archive, escaped entry, offset, reason and code."""
    error = errors.UnsafeEntryError(
        archive="a.tar.gz", entry=b"../\x1b", offset=1024, reason="leaves the destination", code="DOTDOT"
    )
    assert str(error) == r"a.tar.gz: entry '../\x1b' (offset 1024): leaves the destination [DOTDOT]"


@pytest.mark.parametrize(("line", "text"), [(3, "a.yml:3: x: is empty"), (0, "a.yml: x: is empty")])
def test_problem_of_a_whole_file(line: int, text: str) -> None:
    """A problem in line 0 concerns the whole file; its text has no line number."""
    assert str(errors.Problem("a.yml", line, "x", "is empty", "")) == text
