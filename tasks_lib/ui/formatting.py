"""Text formatting for renderers: counts, colours, lines. Pure functions."""

from __future__ import annotations

from typing import Final

from tasks_lib.errors import escaped

#: Select Graphic Rendition of each tone. Source: ECMA-48 section 8.3.117.
_TONES: Final = {"bad": "31", "good": "32", "warn": "33", "accent": "36", "dim": "2", "strong": "1"}


def painted(text: str, tone: str, colour: str) -> str:
    """Return `text` in the colour of a tone; `colour` is "never" or "always"."""
    return f"\x1b[{_TONES[tone]}m{text}\x1b[0m" if colour == "always" and tone else text


def counted(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun: `1 file`, `2 files`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def escaped_lines(text: str) -> list[str]:
    """Return untrusted text as escaped lines, without empty lines."""
    return [escaped(line.rstrip()) for line in text.split("\n") if line.strip()]
