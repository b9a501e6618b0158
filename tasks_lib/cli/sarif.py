"""SARIF, the format that code scanning reads. Source: SARIF 2.1.0, OASIS Standard; GitHub, "SARIF support"."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote

_SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0.json"


class SarifRule(NamedTuple):
    """What a result is an instance of; `level` is "error", "warning" or "note"."""

    text: str
    level: str = "warning"


class SarifResult(NamedTuple):
    """A result: the id of its rule, a message, and a line of a file; the path is relative."""

    rule: str
    message: str
    file: str
    line: int


def format_sarif(rules: Mapping[str, SarifRule], results: Iterable[SarifResult]) -> dict[str, Any]:
    """Return a log with one run, ready for JSON."""
    from importlib.metadata import version  # slow to import, needed only for this format

    driver = {
        "name": "doit-fetch",
        "version": version("doit-fetch"),
        "rules": [
            {"id": name, "shortDescription": {"text": rule.text}, "defaultConfiguration": {"level": rule.level}}
            for name, rule in rules.items()
        ],
    }
    found = [
        {
            "ruleId": one.rule,
            "ruleIndex": list(rules).index(one.rule),
            "level": rules[one.rule].level,
            "message": {"text": one.message},
            "locations": [locate(one.file, one.line)],
        }
        for one in results
    ]
    run = {"tool": {"driver": driver}, "results": found, "columnKind": "unicodeCodePoints"}
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def locate(file: str, line: int) -> dict[str, Any]:
    """Return a line of a file as a location. Source: SARIF 2.1.0 section 3.28."""
    uri = quote(file.encode("utf-8", "surrogateescape"))
    return {"physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": max(line, 1)}}}
