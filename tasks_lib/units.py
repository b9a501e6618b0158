"""Format and parse sizes and durations for people.

Sizes use binary units (1 KiB = 1024 bytes), as settings, limits and the documentation do. Errors that compare two sizes
(expected and actual, needed and free) print bytes, because rounded numbers may look equal. JSON output has bytes and
seconds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

from tasks_lib.errors import SettingError, escape_text

#: Source: IEC 80000-13. `report/page/words.js` repeats these; tests/test_report_page.py compares both.
_SIZE_UNITS: Final = ("KiB", "MiB", "GiB", "TiB")
#: Bytes of each accepted unit; "kB" and its multiples are decimal (SI), a single letter is binary.
_BYTES: Final = {
    "": 1, "b": 1, "byte": 1, "bytes": 1,
    "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40,
    "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
}  # fmt: skip
_HOUR_S: Final = 3600.0
_DAY_S: Final = 24 * _HOUR_S
#: Seconds of each accepted unit; a number without unit is days.
_SECONDS: Final = {"": _DAY_S, "s": 1.0, "m": 60.0, "h": _HOUR_S, "d": _DAY_S, "w": 7 * _DAY_S}
#: Compiled on first use: a no-op run parses no size.
_NUMBER: Final = r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([a-z]*)"


def format_size(size: float) -> str:
    """Format a size in the largest unit that needs at most three digits before the point: `999 B`, `9.8 MiB`."""
    if size < 1024:
        return f"{size:.0f} B"
    size /= 1024
    units = iter(_SIZE_UNITS)
    unit = next(units)
    while size >= 999.95 and unit != _SIZE_UNITS[-1]:
        size /= 1024
        unit = next(units)
    return f"{math.floor(size * 10 + 0.5) / 10:.1f} {unit}"


def format_duration(seconds: float) -> str:
    """Format a measured duration: `0.12 s`, `8.3 s`, `2 min 05 s`, `3 h 20 min`."""
    if seconds < 1:
        return f"{max(seconds, 0):.2f} s"
    if seconds < 59.95:
        return f"{math.floor(seconds * 10 + 0.5) / 10:.1f} s"
    minutes, rest = divmod(math.floor(seconds + 0.5), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def format_estimate(seconds: float) -> str:
    """Format an estimated duration, without fractions: `12 s`, `2 min`, `3 h 20 min`."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def format_age(seconds: float) -> str:
    """Format an age in days, or in hours below one day: `30 d`, `2 h`."""
    return f"{seconds / _DAY_S:.0f} d" if seconds >= _DAY_S else f"{max(seconds, 0) / _HOUR_S:.0f} h"


def parse_size(text: str, name: str) -> int:
    """Parse a size such as `20GiB` or `500MB` into bytes; a number without unit is bytes.

    Raises:
        SettingError: `text` is not a size; the message names `name`.
    """
    return int(_parse(text, _BYTES, name, "a size such as 20GiB or 500MB"))


def parse_duration(text: str, name: str) -> float:
    """Parse a duration such as `30d` or `12h` into seconds; a number without unit is days.

    Raises:
        SettingError: `text` is not a duration; the message names `name`.
    """
    return _parse(text, _SECONDS, name, "a duration such as 30d or 12h")


def _parse(text: str, units: Mapping[str, float], name: str, expected: str) -> float:
    match = re.fullmatch(_NUMBER, text.strip().lower())
    if match is None or match[2] not in units:
        raise SettingError(f"invalid value '{escape_text(text[:80])}' for {name}: expected {expected}")
    return float(match[1]) * units[match[2]]


def counted(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun: `1 file`, `2 files`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
