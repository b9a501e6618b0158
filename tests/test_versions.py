"""Versions: which one a URL names, how two compare, and how one replaces another."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version

from tasks_lib.pins.versions import (
    find_version,
    has_common_prefix,
    is_newer,
    is_prerelease,
    parse_tag,
    replace_version,
    spell_like,
    version_key,
)

#: Characters of versions, and some that are in none.
TEXTS = st.text("0123456789abcrv.-_+~!/%é\x00 ", max_size=20) | st.text(max_size=20)
NUMBERS = st.lists(st.integers(0, 30), min_size=1, max_size=4).map(lambda parts: ".".join(map(str, parts)))
SUFFIXES = st.lists(
    st.sampled_from(["a1", "b2", "rc1", "rc2", ".post1", ".post2", ".dev1"]),
    max_size=3,
    unique_by=lambda word: word.strip(".")[0],
).map(lambda words: "".join(sorted(words, key=lambda word: (word[0] == ".", word[:2] == ".d"))))
VERSIONS = st.builds("".join, st.tuples(NUMBERS, SUFFIXES)).filter(
    lambda text: len([one for one in ("a", "b", "rc") if one in text]) < 2
)


@settings(deadline=None)
@given(VERSIONS, VERSIONS)
def test_versions_compare_as_packaging_does(one: str, other: str) -> None:
    """Versions that PEP 440 knows have its order."""
    assert (version_key(one) < version_key(other)) == (Version(one) < Version(other))
    assert (version_key(one) == version_key(other)) == (Version(one) == Version(other))
    assert is_prerelease(one) == Version(one).is_prerelease


@settings(deadline=None)
@given(TEXTS, TEXTS, TEXTS)
def test_the_order_is_total(one: str, two: str, three: str) -> None:
    """Any texts compare: exactly one of less, equal, greater; and the order is transitive."""
    assert (version_key(one) < version_key(two)) + (version_key(one) == version_key(two)) + is_newer(one, two) == 1
    first, middle, last = sorted((one, two, three), key=version_key)
    assert version_key(first) <= version_key(middle) <= version_key(last)
    assert version_key(first) <= version_key(last)


@pytest.mark.parametrize(
    "ascending",
    [
        "1.9.0 1.10.0-rc1 1.10.0",
        "1.0.dev1 1.0a1 1.0b1 1.0rc1 1.0 1.0+dfsg 1.0.post1 1.0.1 1.1",
        "1.0~rc1 1.0 1.0-1 1.0-2 1.0p1 1.0.1",
        "1.1.1 1.1.1a 1.1.1w 1.1.2",
        "2023a 2023c 2024a",
        "2023-09-30 2023-11-01 2024-01-01",
        "20230930 20231101",
        "8_5_0 8_10_0",
        "1.0-beta.2 1.0-beta.11 1.0",
        "17.0.8+7 17.0.9+9 21.0.1+12",
        "99.0 1!1.0",
    ],
)  # fmt: skip
def test_order(ascending: str) -> None:
    """Versions as projects write them are in the order of their publication."""
    versions = ascending.split()
    assert sorted(versions, key=version_key) == versions
    assert all(is_newer(later, earlier) for earlier, later in pairwise(versions))


def test_equal_versions() -> None:
    """Trailing zeros and separators make no difference."""
    assert len({version_key(text) for text in ("1.2", "1.2.0", "1_2", "01.2", "1.2.0.0")}) == 1
    assert version_key("1.0rc") == version_key("1.0-RC0") == version_key("1.0.0rc0")


URLS = {
    "https://h/gnu/hello/hello-2.12.1.tar.gz": "2.12.1",
    "https://h/gnu/gcc/gcc-11.4.0/gcc-11.4.0.tar.xz": "11.4.0",
    "https://h/c/c/releases/download/curl-8_5_0/curl-8.5.0.tar.gz": "8.5.0",
    "https://h/o/r/releases/download/v1.2.3/tool-linux-x86_64.tar.gz": "1.2.3",
    "https://h/o/r/releases/download/v1.2.3/tool2-python3.11-linux-x86_64.tar.gz": "1.2.3",
    "https://h/o/r/releases/download/20231101/cpython-3.11.6+20231101-x86_64-linux.tar.gz": "20231101",
    "https://h/o/r/releases/download/latest/x.zip": "",
    "https://h/o/r/archive/refs/tags/v1.2.3.tar.gz": "1.2.3",
    "https://h/o/r/archive/v1.2.3.tar.gz": "1.2.3",
    "https://h/o/r/archive/4d2a1b0c4d2a1b0c4d2a1b0c4d2a1b0c4d2a1b0c.tar.gz": "",
    "https://h/o/r/tar.gz/refs/tags/v1.2.3": "1.2.3",
    "https://h/g/p/-/archive/v1.2.3/p-v1.2.3.tar.gz": "1.2.3",
    "https://h/api/v1/crates/serde/1.0.190/download": "1.0.190",
    "https://h/crates/serde/serde-1.0.190.crate": "1.0.190",
    f"https://h/packages/ab/cd/{'ef01' * 15}/requests-2.31.0-py3-none-any.whl": "2.31.0",
    "https://h/numpy-1.26.2-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl": "1.26.2",
    "https://h/@scope/pkg/-/pkg-1.2.3.tgz": "1.2.3",
    "https://h/dl/go1.21.4.linux-amd64.tar.gz": "1.21.4",
    "https://h/release/1.83.0/source/boost_1_83_0.tar.gz": "1_83_0",
    "https://h/dist/v20.9.0/node-v20.9.0-linux-x64.tar.xz": "20.9.0",
    "https://h/download/jdk-21.0.1%2B12/jdk.tar.gz": "21.0.1+12",
    "https://h/source/openssl-1.1.1w.tar.gz": "1.1.1w",
    "https://h/less/less-643.tar.gz": "643",
    "https://h/releases/tzdata2023c.tar.gz": "2023c",
    "https://h/foo-2023-11-01.tar.gz": "2023-11-01",
    "https://h/foo-20231101.tar.gz": "20231101",
    "https://h/foo/1.2.3/download": "1.2.3",
    "https://h/pool/foo_1.2.3+dfsg.orig.tar.gz": "1.2.3+dfsg",
    "https://h/pool/foo_1.2.3-4_amd64.deb": "1.2.3-4",
    "https://h/get?file=foo-1.2.tar.gz": "1.2",
    "https://h/v1.2.3": "1.2.3",
    "https://h/v1.2.3.zip": "1.2.3",
    "https://h/kernel/v6.x/linux-6.6.1.tar.xz": "6.6.1",
    "https://h/1.10.0-rc1/foo-1.10.0-rc1.tar.gz": "1.10.0-rc1",
    "https://h/foo-1.0.0-beta.2-linux64.zip": "1.0.0-beta.2",
    "https://h/llvmorg-17.0.6/clang+llvm-17.0.6-x86_64-linux-gnu-ubuntu-22.04.tar.xz": "17.0.6",
    "https://h/zig-linux-x86_64-0.11.0.tar.xz": "0.11.0",
    "https://h/Python-3.11.4.tar.xz": "3.11.4",
    "https://127.0.0.1:8080/a/foo.tar.gz": "",
    "https://h/foo.tar.gz#sha256=12.3": "",
    "mirror:gnu/hello-2.12.1.tar.gz": "2.12.1",
}


@pytest.mark.parametrize(("url", "version"), URLS.items())
def test_version_of_a_url(url: str, version: str) -> None:
    """The version of a URL is found beside machines, systems, dates and digests; a new one can replace it."""
    assert find_version(url) == version
    if version:
        changed = replace_version(url, version, "77.8.9")
        assert version_key(find_version(changed)) == version_key("77.8.9")
        assert replace_version(url, version, version) == url


@pytest.mark.parametrize(
    ("old", "new", "text", "expected"),
    [
        ("1.2.3", "1.3.0", "https://1.2.3.4/foo-1.2.3/bar_1_2_3-1.2.34.tar.gz", "https://1.2.3.4/foo-1.3.0/bar_1_3_0-1.2.34.tar.gz"),
        ("2.78.1", "2.80.0", "https://h/glib/2.78/glib-2.78.1.tar.xz", "https://h/glib/2.80/glib-2.80.0.tar.xz"),
        ("5.9", "6.1", "https://h/v5.x/linux-5.9.tar.xz", "https://h/v6.x/linux-6.1.tar.xz"),
        ("8.5.0", "8.6.0", "https://h/curl-8_5_0/curl-8.5.0.tgz", "https://h/curl-8_6_0/curl-8.6.0.tgz"),
        ("1.0+dfsg", "1.1+dfsg", "https://h/a_1.0%2Bdfsg.tar.gz", "https://h/a_1.1%2Bdfsg.tar.gz"),
        ("643", "650", "https://h:643/643f/less-643.tar.gz", "https://h:643/643f/less-650.tar.gz"),
        ("1.1.1", "1.1.2", "openssl-1.1.1w", "openssl-1.1.1w"),
        ("1.2", "1.3", "lib-1.2.tar.zst", "lib-1.3.tar.zst"),
        ("1.2", "1.3", "lib-1.2/", "lib-1.3/"),
        ("", "1.3", "lib-1.2/", "lib-1.2/"),
    ],
)  # fmt: skip
def test_replace_version(old: str, new: str, text: str, expected: str) -> None:
    """Each occurrence changes in its own spelling; other numbers and the host stay."""
    assert replace_version(text, old, new) == expected


@pytest.mark.parametrize(
    ("text", "prefix", "version"),
    [
        ("v1.2.3", "v", "1.2.3"), ("1.2.3", "", "1.2.3"), ("release-1.2", "release-", "1.2"), ("REL_16_1", "REL_", "16_1"),
        ("OpenSSL_1_1_1w", "OpenSSL_", "1_1_1w"), ("go1.21.4", "go", "1.21.4"), ("foo/v1.2.3", "foo/v", "1.2.3"),
        ("v1.10.0-rc1", "v", "1.10.0-rc1"), ("2023-11-01", "", "2023-11-01"), ("foo2-1.0", "foo2-", "1.0"),
        ("r123", "r", "123"), ("jdk-21.0.1+12", "jdk-", "21.0.1+12"), ("x86_64-1.0", "x86_64-", "1.0"),
    ],
)  # fmt: skip
def test_parse_tag(text: str, prefix: str, version: str) -> None:
    """A tag is a prefix and a version."""
    assert parse_tag(text) == (prefix, version)


@settings(deadline=None)
@given(TEXTS)
def test_any_tag_is_parsed_or_refused(text: str) -> None:
    """A tag is split without loss, or it has no version."""
    tag = parse_tag(text)
    assert tag is None or (tag.prefix + tag.version == text and tag.version[0].isdigit())


@pytest.mark.parametrize("text", ["nightly", "latest", "", "v", "x" * 200 + "1.0", "1.0 beta two"])
def test_no_version(text: str) -> None:
    """A tag without a version, or with more than a version, is none of a release."""
    assert parse_tag(text) is None


@pytest.mark.parametrize(
    ("present", "tag", "common"),
    [
        ("v", "1.10.0", True), ("", "v1.10.0", True), ("v", "release-1.10.0", True), ("v", "tool-1.10.0", True), ("v", "Tool_v1.10.0", True),
        ("v", "other-1.10.0", False), ("other-", "other-1.10.0", True), ("other-", "v1.10.0", False), ("v", "sub/v1.10.0", False),
    ],
)  # fmt: skip
def test_series_of_tags(present: str, tag: str, common: bool) -> None:
    """Usual prefixes and names of the project belong together; another prefix is another series."""
    found = parse_tag(tag)
    assert found is not None
    assert has_common_prefix(found, present, ("tool",)) is common


def test_spelling() -> None:
    """A version of a tag is written as the present one is."""
    assert spell_like("8_6_0", "8.5.0") == "8.6.0"
    assert spell_like("1.84.0", "1_83_0") == "1_84_0"
    assert spell_like("1.2", "1.1") == "1.2"


@settings(deadline=None)
@given(TEXTS | st.from_regex(r"[0-9a-f._-]{0,60}", fullmatch=True), TEXTS, TEXTS)
def test_hostile_text(text: str, old: str, new: str) -> None:
    """No text makes the functions fail."""
    find_version(text)
    find_version(f"https://{text}/{old}?{new}")
    replace_version(text, old, new)


@pytest.mark.parametrize(
    "part", ["1.", "1-", "1a", "a1", "rc1.", "-", "v1_", "x86_64-", "f0", "9", "releases/download/", "%2B", "é"]
)
def test_long_text_is_bounded(part: str) -> None:
    """A megabyte of any pattern is searched without growing time: only its start counts."""
    text = part * (1_000_000 // len(part))
    find_version(text)
    find_version(f"https://h/{text}")
    assert parse_tag(text) is None
    version_key(text)
