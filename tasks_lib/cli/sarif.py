"""SARIF, the format that code scanning reads. Source: SARIF 2.1.0, OASIS Standard; GitHub, "SARIF support"."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

_SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0.json"


class SarifRule(NamedTuple):
    """What a result is an instance of; `level` is "error", "warning" or "note". Source: SARIF 2.1.0 section 3.27.10."""

    text: str
    level: str = "warning"


class SarifResult(NamedTuple):
    """A result: the name of its rule, a message, and a line of a file; a relative path is below the current directory.

    A note about the run itself has the rule "".
    """

    rule: str
    message: str
    file: str
    line: int


def format_sarif(
    rules: Mapping[str, SarifRule], results: Iterable[SarifResult], notes: Iterable[SarifResult] = ()
) -> dict[str, Any]:
    """Return a log with one run, ready for JSON; `notes` are notifications of the tool and no findings."""
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
            **_describe(one),
        }
        for one in results
    ]
    notifications = [{"level": "note", **_describe(one)} for one in notes]
    invocation = {"executionSuccessful": True, "toolExecutionNotifications": notifications}
    run = {"tool": {"driver": driver}, "invocations": [invocation], "results": found}
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def _describe(one: SarifResult) -> dict[str, Any]:
    """Return the message and the location of a result."""
    path = Path(one.file)
    uri = path.as_uri() if path.is_absolute() else quote(path.as_posix(), errors="surrogateescape")
    place = {"artifactLocation": {"uri": uri}, "region": {"startLine": max(1, one.line)}}
    return {"message": {"text": one.message}, "locations": [{"physicalLocation": place}]}
