"""Render a record as one self-contained HTML page.

External text is embedded as JSON and displayed as text, never as markup. The page loads nothing: its content security
policy allows only its own style and scripts, by digest, and no connections.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from typing import Any, Final

from tasks_lib.report.analysis import (
    build_advice,
    find_critical_path,
    sum_phases,
    summarize_failed_sources,
    summarize_hosts,
)
from tasks_lib.report.record import RunRecord

#: The scripts, in dependency order.
_SCRIPTS: Final = ("words.js", "table.js", "timeline.js", "graph.js", "main.js")


def render_page(record: RunRecord) -> str:
    """Return the page as HTML."""
    style, script = _read_asset("page.css"), "\n".join(map(_read_asset, _SCRIPTS))
    data: dict[str, Any] = {
        "record": record,
        "critical": find_critical_path(record),
        "advice": build_advice(record),
        "hosts": [host._asdict() for host in summarize_hosts(record)],
        "failed": [host._asdict() for host in summarize_failed_sources(record)],
        "spent": sum_phases(record),
    }
    policy = (
        f"default-src 'none'; style-src '{_source(style)}'; script-src '{_source(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {"POLICY": policy, "STYLE": style, "SCRIPT": script, "RECORD": _escape_json(json.dumps(data))}
    text = _read_asset("page.html")
    for name, part in parts.items():
        text = text.replace(f"@{name}@", part, 1)
    return text


def _read_asset(name: str) -> str:
    return (files("tasks_lib.report") / "page" / name).read_text("utf-8")


def _source(text: str) -> str:
    """Return the policy source expression of an inline text. Source: Content Security Policy Level 3, section 2.3.1."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _escape_json(text: str) -> str:
    """Return JSON with `<`, `>` and `&` escaped, so that it cannot end the script element.

    Source: HTML, "Restrictions for contents of script elements".
    """
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
