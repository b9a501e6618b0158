"""Mirror groups of well-known servers, as text for `mirrors.yml`. Pure: no I/O."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from tasks_lib.definitions.mirrors import Mirrors


class MirrorGroup(NamedTuple):
    """A group, and the path of a file in it."""

    name: str
    urls: tuple[str, ...]
    path: str

    @property
    def url(self) -> str:
        """The file in this group, for `mirrors:`."""
        return f"mirror://{self.name}/{self.path}"


#: Well-known servers: expressions for URLs, whose group is the path, and the servers with the same files.
#: Source: the projects' pages about mirrors.
_KNOWN: Final = (
    (
        "gnu",
        (r"https?://(?:ftp|ftpmirror)\.gnu\.org/(?:pub/)?gnu/(.+)",),
        ("https://ftpmirror.gnu.org/gnu/", "https://mirrors.kernel.org/gnu/", "https://ftp.gnu.org/gnu/"),
    ),
    (
        "savannah",
        (r"https?://download(?:-mirror)?\.savannah\.(?:non)?gnu\.org/releases/(.+)",),
        ("https://download.savannah.gnu.org/releases/", "https://download-mirror.savannah.gnu.org/releases/"),
    ),
    (
        "gcc",
        (r"https?://(?:gcc\.gnu|sourceware)\.org/pub/gcc/(.+)",),
        ("https://gcc.gnu.org/pub/gcc/", "https://sourceware.org/pub/gcc/", "https://mirrors.kernel.org/sourceware/gcc/"),
    ),
    (
        "kernel",
        (r"https?://(?:(?:cdn|www|mirrors(?:\.edge)?)\.)?kernel\.org/pub/(.+)",),
        ("https://cdn.kernel.org/pub/", "https://mirrors.edge.kernel.org/pub/", "https://www.kernel.org/pub/"),
    ),
    (
        "debian",
        (r"https?://(?:deb|ftp(?:\.[a-z]{2})?)\.debian\.org/debian/(.+)",),
        ("https://deb.debian.org/debian/", "https://ftp.debian.org/debian/"),
    ),
    (
        "sourceforge",
        (
            r"https?://(?:downloads|prdownloads|[a-z]+\.dl)\.sourceforge\.net/project/([^?]+)",
            r"https?://sourceforge\.net/projects/([^/]+)/files/([^?]+)/download",
        ),
        ("https://downloads.sourceforge.net/project/", "https://master.dl.sourceforge.net/project/"),
    ),
    (
        "apache",
        (r"https?://(?:dlcdn|downloads)\.apache\.org/(.+)", r"https?://archive\.apache\.org/dist/(.+)"),
        ("https://dlcdn.apache.org/", "https://downloads.apache.org/", "https://archive.apache.org/dist/"),
    ),
)  # fmt: skip


def propose_group(url: str, mirrors: Mirrors) -> MirrorGroup | None:
    """Return the group with more places for a URL, None if there is none or `mirrors.yml` provides them already."""
    if mirrors.is_rewritten(url):
        return None
    for name, group in mirrors.groups.items():
        base = next((one for one in group.urls if url.startswith(one) and len(url) > len(one)), "")
        if base:
            return MirrorGroup(name, group.urls, url.removeprefix(base))
    for name, patterns, urls in _KNOWN:
        for pattern in patterns:
            if (found := re.fullmatch(pattern, url)) and name not in mirrors.groups:
                return MirrorGroup(name, urls, "/".join(found.groups()))
    return None
