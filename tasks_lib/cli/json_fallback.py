"""Reporter selection of `doit run`, and its JSON document when nothing can run."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks_lib.engine.reporter import JsonReporter
from tasks_lib.ui.json_output import refusal
from tasks_lib.ui.output import Output


@contextlib.contextmanager
def shown(params: Any) -> Iterator[None]:
    """Select the reporter in doit's `params`; write the JSON document if an error ends the run before it does."""
    if params["quiet"]:
        params["reporter"] = "quiet"
    JsonReporter.spoke = False
    try:
        yield
    except BaseException as error:
        if params["reporter"] == "json" and not JsonReporter.spoke:
            text = json.dumps(refusal(str(error) or type(error).__name__)) + "\n"
            _write(text, params["outfile"])
        raise


def _write(text: str, outfile: Any) -> None:
    if isinstance(outfile, str):
        with contextlib.suppress(OSError):
            Path(outfile).write_text(text, "utf-8")
    else:
        Output(sys.stdout).write(text)
