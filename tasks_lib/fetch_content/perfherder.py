"""The line that Perfherder reads from a task's log. Source: the contract, section 1.6."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tasks_lib.fetch_content.porch import log


def report(seconds: float, environ: Mapping[str, str]) -> None:
    """Log how long all artifacts took; in automation also into the file that the environment names.

    Raises:
        OSError: that file cannot be written.
    """
    suite = {"name": "fetch_content", "value": seconds, "lowerIsBetter": True, "shouldAlert": False, "subtests": []}
    text = json.dumps({"framework": {"name": "build_metrics"}, "suites": [suite]})
    log(f"PERFHERDER_DATA: {text}")
    path = environ.get("PERFHERDER_FETCH_CONTENT_JSON_PATH")
    if path and environ.get("MOZ_AUTOMATION") == "1":
        Path(path).write_text(text, "utf-8")
