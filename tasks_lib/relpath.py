"""Relative paths that cannot leave their base directory, as a value type.

Pure: no I/O. Validation looks at the text only, component by component; it resolves no symlinks.
"""

from __future__ import annotations

import re
from typing import Final, Self

import msgspec

#: Longest component in bytes. Source: POSIX limits.h NAME_MAX, 255 on all common Linux file systems.
MAX_COMPONENT_BYTES: Final = 255
#: Longest path in bytes. Source: Linux limits.h PATH_MAX (4096 with the terminating NUL).
MAX_PATH_BYTES: Final = 4095

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
#: Paths of one component in which no check finds a fault: most file names.
_PLAIN: Final = re.compile(r"[A-Za-z0-9_+~@-][A-Za-z0-9_+~@.-]{0,127}")


class RelPath(msgspec.Struct, frozen=True, order=True):
    """A normalised relative path with slashes and without `.`, `..` and control characters."""

    text: str

    def __post_init__(self) -> None:
        reason = _fault(self.text)
        if reason:
            raise ValueError(reason)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a path; one trailing slash is dropped, nothing else is normalised.

        Raises:
            ValueError: the text is not a safe relative path; the message is the reason ("is absolute").
        """
        return cls(text.removesuffix("/"))

    @property
    def components(self) -> tuple[str, ...]:
        """The parts between the slashes, at least one."""
        return tuple(self.text.split("/"))

    def __str__(self) -> str:
        return self.text


def _fault(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return ""
    if not text:
        return "is empty"
    if text.startswith("/"):
        return "is absolute"
    if "\\" in text:
        return "contains a backslash"
    if len(text.encode("utf-8", "surrogateescape")) > MAX_PATH_BYTES:
        return f"is longer than {MAX_PATH_BYTES} bytes"
    return next(filter(None, map(_component_fault, text.split("/"))), "")


def _component_fault(component: str) -> str:
    if component in ("", ".", ".."):
        return f"contains the component {component!r}"
    if _CONTROL.search(component):
        return "contains a control character"
    if len(component.encode("utf-8", "surrogateescape")) > MAX_COMPONENT_BYTES:
        return f"contains a component longer than {MAX_COMPONENT_BYTES} bytes"
    return ""
