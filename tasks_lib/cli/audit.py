"""`doit audit`: what makes definitions insecure, fragile or old, for people, programs and code scanning."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tasks_lib.cli.project_command import DefinitionCommand
from tasks_lib.cli.sarif import SarifResult, SarifRule, format_sarif
from tasks_lib.engine.base_command import JSON, OFFLINE, STARTED_IN, flag, format_option, option, usage_error
from tasks_lib.errors import escape_text
from tasks_lib.pins.audit import CODES, AuditReport, audit
from tasks_lib.session import Session
from tasks_lib.ui.events import stderr_progress
from tasks_lib.units import counted

#: Levels of findings; a warning unless it is named here. Source: SARIF 2.1.0 section 3.27.10.
_LEVELS: Final = {"advisory": "error", "dead-source": "error", "one-source": "note", "no-update-source": "note"}


class AuditCommand(DefinitionCommand):
    """`doit audit`."""

    name = "audit"
    doc_usage = "[NAME...]"
    doc_description = (
        "Without names: all definitions. Asks every source for one byte and downloads nothing. "
        "Exit status: 0 nothing was found; what was not covered is shown; 1 something was found; "
        "2 unusable definitions; 3 invalid command line."
    )
    cmd_options = (
        format_option(("text", "lines"), ("json", "a list of definitions"), ("sarif", "SARIF 2.1.0")),
        JSON,
        flag("sarif", "short for --format sarif"),
        option("osv", "advisories: a directory or URL that holds ECOSYSTEM/all.zip", metavar="DIR|URL"),
        OFFLINE,
    )

    def answer(self, session: Session, fetches: Sequence[Any], params: Any) -> int:
        """Write the findings; return the exit status."""
        given = {name for name in ("json", "sarif") if params[name]}
        given |= {params["format"]} if "format" in params._non_default_keys else set()
        if len(given) > 1:
            raise usage_error("--json, --sarif and --format name different formats\ngive one of them")
        form = given.pop() if given else params["format"]
        osv = params["osv"]
        if osv and "://" not in osv:
            osv = str(Path(STARTED_IN.get(), osv))
        reports = audit(session.context, fetches, osv, stderr_progress())
        if form == "text":
            self._write_text(reports)
        else:
            self._write_document(reports, form)
        return int(any(report.findings for report in reports))

    def _write_text(self, reports: Sequence[AuditReport]) -> None:
        for report in reports:
            place = escape_text(f"{report.file}:{report.line}: {report.name}")
            for finding in report.findings:
                self.outstream.write(f"{place}: {finding.code}: {escape_text(finding.message)}\n")
            for text in report.not_covered:
                self.outstream.write(f"{place}: not covered: {escape_text(text)}\n")
        count = sum(len(report.findings) for report in reports)
        unknown = sum(len(report.not_covered) for report in reports)
        self.outstream.write(
            f"{counted(len(reports), 'definition')}: {counted(count, 'finding')}; not covered: {unknown}\n"
        )

    def _write_document(self, reports: Sequence[AuditReport], form: str) -> None:
        document = _to_sarif(reports) if form == "sarif" else [_as_json(report) for report in reports]
        self.outstream.write(f"{json.dumps(document, indent=2)}\n")
        for report in reports:
            for text in report.not_covered:
                sys.stderr.write(f"{escape_text(report.name)}: not covered: {escape_text(text)}\n")


def _as_json(report: AuditReport) -> dict[str, Any]:
    findings = [finding._asdict() for finding in report.findings]
    return {"name": report.name, "file": report.file, "line": report.line, "findings": findings}


def _to_sarif(reports: Sequence[AuditReport]) -> dict[str, Any]:
    """Return the findings as a SARIF log; what is not covered are notifications of the tool."""
    rules = {code: SarifRule(text, _LEVELS.get(code, "warning")) for code, text in CODES.items()}
    results = [
        SarifResult(finding.code, f"{report.name}: {finding.message}", report.file, report.line)
        for report in reports
        for finding in report.findings
    ]
    notes = [
        SarifResult("", f"{report.name}: not covered: {text}", report.file, report.line)
        for report in reports
        for text in report.not_covered
    ]
    return format_sarif(rules, results, notes)
