"""`doit audit`: what makes definitions insecure, fragile or old, for people, programs and code scanning."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from tasks_lib.cli.definition_command import JSON, OFFLINE, DefinitionCommand, format_option
from tasks_lib.engine.base_command import STARTED_IN
from tasks_lib.errors import escape_text
from tasks_lib.progress import LineProgress, describe_wait
from tasks_lib.session import Session
from tasks_lib.ui.events import write_to_stderr

if TYPE_CHECKING:
    from tasks_lib.pins.audit import Report

#: Source: SARIF 2.1.0, OASIS Standard; GitHub, "SARIF support for code scanning".
_SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0.json"
#: Levels of findings; a warning unless it is named here. Source: SARIF 2.1.0 section 3.27.10.
_LEVELS: Final = {"advisory": "error", "dead-source": "error", "one-source": "note", "no-update-source": "note"}


class AuditCommand(DefinitionCommand):
    """`doit audit`."""

    name = "audit"
    doc_purpose = "show what makes definitions insecure, fragile or old"
    doc_usage = "[NAME...]"
    doc_description = (
        "Without names: all definitions. Asks every source for one byte and downloads nothing. "
        "Exit status: 0 nothing was found, which is no proof: what is not covered is shown; 1 something was found; "
        "2 unusable definitions; 3 invalid command line."
    )
    cmd_options = (
        format_option(("text", "lines"), ("json", "a list of definitions"), ("sarif", "SARIF 2.1.0")),
        JSON,
        {
            "name": "sarif", "short": "", "long": "sarif", "type": bool, "default": False,
            "help": "short for --format sarif",
        },
        {
            "name": "osv", "short": "", "long": "osv", "metavar": "DIR|URL", "type": str, "default": "",
            "help": "advisories: a directory or URL that holds ECOSYSTEM/all.zip",
        },
        OFFLINE,
    )  # fmt: skip

    def answer(self, session: Session, fetches: Sequence[Any], params: Any) -> int:
        """Write the findings; return the exit status."""
        from tasks_lib.pins.audit import audit  # loads the network, which `doit help` does not need

        form = "json" if params["json"] else "sarif" if params["sarif"] else params["format"]
        osv = params["osv"]
        if osv and "://" not in osv:
            osv = str(Path(STARTED_IN.get(), osv))
        reports = audit(session.context, fetches, osv, LineProgress(write_to_stderr, describe_wait))
        if form == "text":
            self._write_text(reports)
        else:
            self._write_document(reports, form)
        return int(any(report.findings for report in reports))

    def _write_text(self, reports: Sequence[Report]) -> None:
        for report in reports:
            place = escape_text(f"{report.file}:{report.line}: {report.name}")
            for finding in report.findings:
                self.outstream.write(f"{place}: {finding.code}: {escape_text(finding.message)}\n")
            for text in report.not_covered:
                self.outstream.write(f"{place}: not covered: {escape_text(text)}\n")
        count = sum(len(report.findings) for report in reports)
        unknown = sum(len(report.not_covered) for report in reports)
        self.outstream.write(f"{len(reports)} definitions: {count} findings; not covered: {unknown}\n")

    def _write_document(self, reports: Sequence[Report], form: str) -> None:
        document = format_sarif(reports) if form == "sarif" else [_as_json(report) for report in reports]
        self.outstream.write(f"{json.dumps(document, indent=2)}\n")
        for report in reports:
            for text in report.not_covered:
                sys.stderr.write(f"{escape_text(report.name)}: not covered: {escape_text(text)}\n")


def _as_json(report: Report) -> dict[str, Any]:
    findings = [finding._asdict() for finding in report.findings]
    return {"name": report.name, "file": report.file, "line": report.line, "findings": findings}


def format_sarif(reports: Sequence[Report]) -> dict[str, Any]:
    """Return the findings as a SARIF log; what is not covered are notifications of the tool."""
    from importlib.metadata import version  # slow to import, needed only for this format

    from tasks_lib.pins.audit import CODES

    rules = [
        {
            "id": code,
            "shortDescription": {"text": text},
            "defaultConfiguration": {"level": _level(code)},
        }
        for code, text in CODES.items()
    ]
    driver = {"name": "doit-fetch", "version": version("doit-fetch"), "rules": rules}
    results = [
        {
            "ruleId": finding.code,
            "ruleIndex": list(CODES).index(finding.code),
            "level": _level(finding.code),
            "message": {"text": f"{report.name}: {finding.message}"},
            "locations": [_locate(report)],
        }
        for report in reports
        for finding in report.findings
    ]
    notes = [
        {"level": "note", "message": {"text": f"{report.name}: not covered: {text}"}, "locations": [_locate(report)]}
        for report in reports
        for text in report.not_covered
    ]
    invocation = {"executionSuccessful": True, "toolExecutionNotifications": notes}
    run = {"tool": {"driver": driver}, "invocations": [invocation], "results": results}
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def _level(code: str) -> str:
    return _LEVELS.get(code, "warning")


def _locate(report: Report) -> dict[str, Any]:
    """Return the location of a definition; a relative path is relative to the current directory."""
    path = Path(report.file)
    uri = path.as_uri() if path.is_absolute() else quote(path.as_posix(), errors="surrogateescape")
    return {"physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": max(1, report.line)}}}
