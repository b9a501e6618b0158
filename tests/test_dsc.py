"""What a .dsc says, and every reason to refuse one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks_lib.debian.source import MAX_FILES, parse_dsc, require_covered, signed_text
from tasks_lib.errors import FetchError, SignatureError, SourcePackageError, UnsafePathError

SHA = "ab" * 32
HEAD = "Format: 3.0 (quilt)\nSource: greet\nVersion: 1:1.0-2\n"
GOOD = (
    f"{HEAD}Checksums-Sha256:\n {SHA} 12 greet_1.0.orig.tar.gz\n {SHA} 7 greet_1.0-2.debian.tar.xz\n"
    f"Files:\n {'0' * 32} 12 greet_1.0.orig.tar.gz\n {'0' * 32} 7 greet_1.0-2.debian.tar.xz\n"
)


def listed(*lines: str, more: str = "") -> str:
    return f"{HEAD}Checksums-Sha256:\n" + "".join(f" {line}\n" for line in lines) + more


def clearsigned(text: str, header: str = "Hash: SHA512\n") -> str:
    """Return a text in the form of a clear-signed one; the signature is not a valid one."""
    return (
        f"-----BEGIN PGP SIGNED MESSAGE-----\n{header}\n{text}\n"
        "-----BEGIN PGP SIGNATURE-----\n\nabcd\n-----END PGP SIGNATURE-----\n"
    )


@pytest.mark.parametrize("text", [GOOD, clearsigned(GOOD), f"\n{GOOD}\n"])
def test_a_dsc_names_its_files(text: str) -> None:
    """Signed or not, it says the same; the name of the .dsc has no epoch."""
    found = parse_dsc(text.encode(), "x.dsc")
    assert (found.name, found.version, found.dsc_name) == ("greet", "1:1.0-2", "greet_1.0-2.dsc")
    assert [(one.name, one.integrity.size) for one in found.files] == [
        ("greet_1.0-2.debian.tar.xz", 7),
        ("greet_1.0.orig.tar.gz", 12),
    ]
    assert {one.integrity.digest.hex for one in found.files} == {SHA}


REFUSED = {
    "no source": (GOOD.replace("Source: greet\n", ""), "no field Source"),
    "a source with a slash": (GOOD.replace("Source: greet", "Source: a/b"), "invalid Source"),
    "no version": (GOOD.replace("Version: 1:1.0-2\n", ""), "no field Version"),
    "a version with a slash": (GOOD.replace("1:1.0-2", "1/2"), "invalid Version"),
    "no list": (HEAD, "expected 1 to"),
    "only md5": (f"{HEAD}Files:\n {'0' * 32} 1 a\n", "a has no sha256"),
    "a file that only md5 names": (listed(f"{SHA} 1 a", more=f"Files:\n {'0' * 32} 1 b\n"), "b has no sha256"),
    "two sizes": (listed(f"{SHA} 1 a", more=f"Files:\n {'0' * 32} 2 a\n"), "a has two sizes, 2 and 1"),
    "listed twice": (listed(f"{SHA} 1 a", f"{SHA} 1 a"), "a is listed twice"),
    "a short digest": (listed(f"{SHA[1:]} 1 a"), "expected a digest, a size and a file name"),
    "an upper-case digest": (listed(f"{SHA.upper()} 1 a"), "expected a digest, a size and a file name"),
    "a negative size": (listed(f"{SHA} -1 a"), "expected a digest, a size and a file name"),
    "no size": (listed(f"{SHA} a"), "expected a digest, a size and a file name"),
    "a word too many": (listed(f"{SHA} 1 a b"), "expected a digest, a size and a file name"),
    "itself": (listed(f"{SHA} 1 greet_1.0-2.dsc"), "lists itself among its files"),
    "two paragraphs": (f"{GOOD}\n{GOOD}", "expected `Field: value`"),
    "a field twice": (f"{GOOD}Source: evil\n", "occurs twice"),
    "too many files": (listed(*(f"{SHA} 1 a{n}" for n in range(MAX_FILES + 1))), "expected 1 to"),
    "empty": ("", "is not a .dsc"),
    "a page": ("<!DOCTYPE html>\n<html>\n", "is not a .dsc"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_a_dsc_is_refused(case: str) -> None:
    """Each fault has its reason, on one line."""
    text, reason = REFUSED[case]
    with pytest.raises(SourcePackageError) as caught:
        parse_dsc(text.encode(), "x.dsc")
    assert reason in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", ["../a", "a/b", "/a", "..", ".", ".hidden", "-x", "a\x1bb", "a\\b", "a" * 251])
def test_the_name_of_a_file_stays_in_its_directory(name: str) -> None:
    """A name is one plain path component."""
    with pytest.raises(UnsafePathError, match="unsafe name of a file"):
        parse_dsc(listed(f"{SHA} 1 {name}").encode(), "x.dsc")


UNCOVERED = {
    "text before": f"Source: evil\n{clearsigned(GOOD)}",
    "a blank line before": f"\n{clearsigned(GOOD)}",
    "text after": f"{clearsigned(GOOD)}Source: evil\n",
    "two texts": clearsigned(GOOD) * 2,
    "a field in the header": clearsigned(GOOD, "Hash: SHA512\nSource: evil\n"),
    "no end": clearsigned(GOOD).rpartition("-----END")[0],
    "no signature": clearsigned(GOOD).partition("-----BEGIN PGP SIGNATURE")[0],
    "only a signature": "-----BEGIN PGP SIGNATURE-----\n\nabcd\n-----END PGP SIGNATURE-----\n",
    "another block": clearsigned(GOOD.replace("Files:", "-----BEGIN PGP MESSAGE-----\nFiles:")),
}


@pytest.mark.parametrize("case", UNCOVERED)
def test_text_around_the_signed_one_is_refused(case: str) -> None:
    """A reader could take it for the .dsc."""
    with pytest.raises(SignatureError, match="does not cover all of it"):
        parse_dsc(UNCOVERED[case].encode(), "x.dsc")


def test_gpg_and_dpkg_read_the_same_text() -> None:
    """What gpg verified must be the whole text, apart from blanks at the ends of lines."""
    content = clearsigned(GOOD).encode()
    require_covered(content, GOOD.replace("greet\n", "greet  \n").encode())
    with pytest.raises(SignatureError, match="gpg read another text"):
        require_covered(content, GOOD.replace("1.0-2", "1.0-3").encode())


def test_escaped_dashes_are_read_as_gpg_reads_them() -> None:
    """Source: RFC 9580 section 7.2, dash-escaped text."""
    assert signed_text(clearsigned("- -a\nb").encode()) == b"-a\nb\n"


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_refused_cleanly(content: bytes) -> None:
    """Nothing but an error of this package is raised."""
    with pytest.raises(FetchError):
        parse_dsc(content, "x.dsc")
