"""How a run is told in words: sizes, rates, times, colours. Pure; nothing here writes."""

from __future__ import annotations

from typing import Final

from tasks_lib.errors import escaped

#: Select Graphic Rendition of each tone. Source: ECMA-48 section 8.3.117.
_TONES: Final = {"bad": "31", "good": "32", "warn": "33", "accent": "36", "dim": "2", "strong": "1"}


def painted(text: str, tone: str, colour: str) -> str:
    """Return `text` in a tone; `colour` is "never" or "always"."""
    return f"\x1b[{_TONES[tone]}m{text}\x1b[0m" if colour == "always" and tone else text


def size_text(size: float) -> str:
    """Return bytes with a decimal unit: `999 B`, `12.3 MB`."""
    if abs(size) < 1000:
        return f"{size:.0f} B"
    units = ["kB", "MB", "GB"]
    while units and abs(size) >= 999_950:
        units.pop(0)
        size /= 1000
    return f"{size / 1000:.1f} {units[0] if units else 'TB'}"


def time_text(seconds: float) -> str:
    """Return a span of time: `0.12 s`, `8.3 s`, `2 min 05 s`, `3 h 20 min`."""
    if seconds < 1:
        return f"{max(seconds, 0):.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def left_text(seconds: float) -> str:
    """Return an estimate, which no fraction makes better: `12 s`, `2 min`, `3 h 20 min`."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def counted(number: int, one: str, many: str = "") -> str:
    """Return `1 file`, `2 files`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def escaped_lines(text: str) -> list[str]:
    """Return outside text as printable lines without empty ones."""
    return [escaped(line.rstrip()) for line in text.split("\n") if line.strip()]
