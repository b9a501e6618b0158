"""Relative paths that stay where they are put, as values.

Pure: no I/O, and no resolving: a path is judged by its text, component by component.
"""

from __future__ import annotations

from typing import Final, Self

import msgspec

#: Longest component in bytes. Source: POSIX limits.h NAME_MAX, 255 on every Linux file system of note.
MAX_COMPONENT_BYTES: Final = 255
#: Longest path in bytes. Source: Linux limits.h PATH_MAX (4096 with the closing NUL).
MAX_PATH_BYTES: Final = 4095


class RelPath(msgspec.Struct, frozen=True, order=True):
    """A normalised relative slash path with no `.`, no `..`, no control character."""

    text: str

    def __post_init__(self) -> None:
        reason = _fault(self.text)
        if reason:
            raise ValueError(reason)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the path; one trailing slash is dropped, nothing else is repaired.

        Raises:
            ValueError: with the one reason why the text is no safe relative path.
        """
        return cls(text.removesuffix("/"))

    @property
    def components(self) -> tuple[str, ...]:
        """The parts between the slashes, at least one."""
        return tuple(self.text.split("/"))

    def __str__(self) -> str:
        return self.text


def _fault(text: str) -> str:
    if not text:
        return "is empty"
    if text.startswith("/"):
        return "is absolute"
    if "\\" in text:
        return "holds a backslash"
    if len(text.encode("utf-8", "surrogateescape")) > MAX_PATH_BYTES:
        return f"is longer than {MAX_PATH_BYTES} bytes"
    return next(filter(None, map(_component_fault, text.split("/"))), "")


def _component_fault(component: str) -> str:
    if component in ("", ".", ".."):
        return f"holds the component {component!r}"
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in component):
        return "holds a control character"
    if len(component.encode("utf-8", "surrogateescape")) > MAX_COMPONENT_BYTES:
        return f"holds a component longer than {MAX_COMPONENT_BYTES} bytes"
    return ""
