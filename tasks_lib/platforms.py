"""Platforms of content: `SYSTEM-MACHINE`, such as `linux-x86_64`, and other names of the same one. Pure: no I/O."""

from __future__ import annotations

import re
from typing import Final

#: The platform of results that do not depend on the machine: repacked archives, commits, downloads.
ANY_PLATFORM: Final = "any"
#: Name -> other names of the same system, or of the same machine.
#: Source: Go's GOOS and GOARCH; Node.js, `process.platform` and `process.arch`; Debian's ports; Rust's target triples.
_SYSTEMS: Final = {
    "linux": (),
    "macos": ("darwin", "mac", "osx", "macosx"),
    "windows": ("win", "win32", "win64"),
    "freebsd": (),
}
_MACHINES: Final = {
    "x86_64": ("amd64", "x64", "x86-64"),
    "aarch64": ("arm64",),
    "i686": ("i386", "i486", "i586", "x86", "386", "ia32"),
    "armv7": ("armv7l", "armv7hl", "armhf"),
    "armv6": ("armv6l", "armel"),
    "ppc64le": ("ppc64el", "powerpc64le"),
    "riscv64": ("riscv64gc",),
    "s390x": (),
    "loongarch64": ("loong64",),
}
_SYSTEM_OF: Final = {alias: name for name, others in _SYSTEMS.items() for alias in (name, *others)}
_MACHINE_OF: Final = {alias: name for name, others in _MACHINES.items() for alias in (name, *others)}
#: A platform in any of its spellings.
PATTERN: Final = f"({'|'.join(sorted(_SYSTEM_OF, reverse=True))})[-_/]({'|'.join(sorted(_MACHINE_OF, reverse=True))})"
#: A system or a machine as a word of a longer name.
_SYSTEM_WORD: Final = rf"(?<![A-Za-z0-9])(?:{'|'.join(sorted(_SYSTEM_OF, reverse=True))})(?![A-Za-z0-9])"
_MACHINE_WORD: Final = rf"(?<![A-Za-z0-9])(?:{'|'.join(sorted(_MACHINE_OF, reverse=True))})(?![A-Za-z0-9])"
#: The value of the setting that means every platform.
ALL: Final = "all"
EXAMPLES: Final = ("linux-x86_64", "linux-aarch64", "macos-aarch64", "macos-x86_64", "windows-x86_64")
HINT: Final = f"write a platform such as {', '.join(EXAMPLES)}"


def parse_platform(text: str) -> str:
    """Return the platform that a text names, "" if it names none."""
    found = re.fullmatch(PATTERN, text, re.IGNORECASE)
    return f"{_SYSTEM_OF[found[1].lower()]}-{_MACHINE_OF[found[2].lower()]}" if found else ""


def find_platform_words(name: str) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Return where a longer name, such as that of a file, has its system and its machine; None if one is missing.

    The last words count: `mac-tools-linux-amd64` is for Linux.
    """
    systems, machines = (list(re.finditer(word, name, re.IGNORECASE)) for word in (_SYSTEM_WORD, _MACHINE_WORD))
    return (systems[-1].span(), machines[-1].span()) if systems and machines else None


def name_platform(system: str, machine: str) -> str:
    """Return the platform of a machine, from the words of uname(1); unknown words stay as they are."""
    system, machine = system.lower(), machine.lower()
    return f"{_SYSTEM_OF.get(system, system)}-{_MACHINE_OF.get(machine, machine)}"
