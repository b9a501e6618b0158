"""Sizes and durations as people read and write them: formatting and parsing."""

from __future__ import annotations

from typing import Any

import pytest

from tasks_lib.errors import SettingError
from tasks_lib.units import format_age, format_duration, format_estimate, format_size, parse_duration, parse_size

FORMATTED: dict[str, tuple[Any, dict[Any, str]]] = {
    "size": (
        format_size,
        {
            0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 10_240_000: "9.8 MiB", 1023 << 10: "1.0 MiB",
            999 << 20: "999.0 MiB", 5 << 40: "5.0 TiB", 5 << 52: "20480.0 TiB",
        },
    ),
    "duration": (
        format_duration,
        {-1: "0.00 s", 0.123: "0.12 s", 59.94: "59.9 s", 59.96: "1 min 00 s", 60: "1 min 00 s", 3599.6: "1 h 00 min"},
    ),
    "estimate": (format_estimate, {0.1: "1 s", 99.4: "99 s", 100: "2 min", 5880: "98 min", 6000: "1 h 40 min"}),
    "age": (format_age, {-5: "0 h", 1800: "0 h", 7200: "2 h", 86_399: "24 h", 86_400: "1 d", 2_592_000: "30 d"}),
}  # fmt: skip


@pytest.mark.parametrize("case", FORMATTED)
def test_formats(case: str) -> None:
    """Few digits and a unit, never more than three digits before the point where a larger unit exists."""
    form, table = FORMATTED[case]
    assert {value: form(value) for value in table} == table


PARSED: dict[str, tuple[Any, dict[str, float]]] = {
    "size": (parse_size, {"20GiB": 20 << 30, "500MB": 500_000_000, "1.5 k": 1536, "7": 7, "12 bytes": 12, "2kb": 2000}),
    "duration": (parse_duration, {"30d": 2_592_000, "12h": 43_200, "1.5m": 90, "3": 259_200, "2 W": 1_209_600}),
}


@pytest.mark.parametrize("case", PARSED)
def test_parses(case: str) -> None:
    """Units are case-insensitive, with or without a space; IEC units are binary, SI units decimal."""
    parse, table = PARSED[case]
    assert {text: parse(text, "--option") for text in table} == table


@pytest.mark.parametrize("text", ["banana", "-1", "1e3", "12x", "", "9" * 400, "1.2.3GiB", "\x1b[31m"])
def test_refuses(text: str) -> None:
    """Any other text is refused with one line that names the option and an example."""
    with pytest.raises(SettingError, match=r"for --max-size: expected a size such as 20GiB or 500MB$") as refused:
        parse_size(text, "--max-size")
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("size", [0, 1, 999, 1536, 10_240_000, 20 << 30, 3 << 40])
def test_formatted_size_can_be_parsed(size: int) -> None:
    """Parsing a formatted size returns the size within half of its last digit."""
    text = format_size(size)
    unit = parse_size(f"1 {text.split()[1]}", "")
    assert abs(parse_size(text, "") - size) <= unit / 20 + 1
