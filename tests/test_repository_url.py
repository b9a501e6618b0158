"""Repository URLs: validation before they are passed to git or hg."""

from __future__ import annotations

import pytest

from tasks_lib.vcs.urls import PROTOCOLS, check_url, display_url, host_of, join_url, repository_name, scheme_of

GOOD = {
    "https://github.com/a/b.git": ("https", "github.com", "b.git"),
    "ssh://git@h.example:22/a/b/": ("ssh", "h.example:22", "b"),
    "git@github.com:a/b.git": ("ssh", "github.com", "b.git"),
    "git@h:b": ("ssh", "h", "b"),
    "http://[::1]:8000/r": ("http", "[::1]:8000", "r"),
    "git://h/r": ("git", "h", "r"),
}


@pytest.mark.parametrize("url", GOOD)
def test_good(url: str) -> None:
    """Common forms of git URLs are accepted and parsed."""
    assert check_url(url, PROTOCOLS) == url
    assert (scheme_of(url), host_of(url), repository_name(url)) == GOOD[url]


@pytest.mark.parametrize(
    "url",
    [
        "", "/etc", "../x", "x", "-x", "--upload-pack=x", "ext::sh -c x", "ext::x", "fd::3", "file:///r", "ftp://h/r",
        "ssh://-oProxyCommand=x/r", "ssh://-u@h/r", "https://-h/r", "https:///r", "https://u@h/r", "https://u:p@h/r",
        "ssh://u:p@h/r", "-u@h:r", "u@-h:r", "https://h/a b", "https://h/a\nb", "https://h/%0a", "https://h/%00x",
        "https://h\\@evil/r", "https://h:x/r", "transport::https://h/r", "https::h", "HTTPS", "u@h:", "u@h:a:b",
        "https://" + "a" * 9000,
    ],
)  # fmt: skip
def test_refused(url: str) -> None:
    """Options, commands, other transports, credentials and control characters are rejected."""
    with pytest.raises(ValueError, match=r"\w"):
        check_url(url, PROTOCOLS)


def test_file() -> None:
    """A file URL has an absolute path and no host; it is accepted only if `file` is an allowed scheme."""
    assert check_url("file:///a/b", ("file",)) == "file:///a/b"
    for url in ("file://h/a", "file:a", "file:///"[:7]):
        with pytest.raises(ValueError, match=r"\w"):
            check_url(url, ("file",))


JOINED = {
    ("https://h/a/b.git", "../c.git"): "https://h/a/c.git",
    ("https://h/a/b/", "./c"): "https://h/a/b/c",
    ("https://h/a/b", "../../x/./y/"): "https://h/x/y",
    ("git@h:a/b", "../c"): "git@h:a/c",
    ("git@h:/a/b", "../c"): "git@h:/a/c",
    ("file:///a/b", "../c"): "file:///a/c",
    ("https://h/a", "https://other/x"): "https://other/x",
    ("https://h/a", "-x"): "-x",
}


def test_a_path_is_reported_as_a_path() -> None:
    """A path is not reported as a transport that is not allowed."""
    with pytest.raises(ValueError, match="has no transport"):
        check_url("/srv/lib", PROTOCOLS)


@pytest.mark.parametrize(("parent", "text"), JOINED)
def test_joined(parent: str, text: str) -> None:
    """A relative URL is resolved against the URL of its parent, an absolute one is unchanged."""
    assert join_url(parent, text) == JOINED[parent, text]


@pytest.mark.parametrize("text", ["../..", "../../x", "../../../evil.example/x", ".."])
def test_joined_stays_on_its_host(text: str) -> None:
    """A relative URL must not leave the host of its parent, and its path must not be empty."""
    with pytest.raises(ValueError, match=r"leaves the host of its parent|has no repository path"):
        join_url("https://h/a", text)


def test_shown() -> None:
    """Messages do not show the user, password or query."""
    assert display_url("https://u:p@h/a?t=1") == "https://h/a"
