"""`doit sbom`: a bill of materials of what the definitions fetch."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tasks_lib.cli.project_command import DefinitionCommand
from tasks_lib.engine.base_command import (
    OFFLINE,
    OUTPUT_FILE,
    STARTED_IN,
    format_option,
    format_write_error,
    usage_error,
)
from tasks_lib.errors import ToolError
from tasks_lib.pins.materials import Material, list_materials
from tasks_lib.pins.spdx import write_spdx
from tasks_lib.project import Project
from tasks_lib.session import Session
from tasks_lib.ui.events import stderr_progress


class SbomCommand(DefinitionCommand):
    """`doit sbom`."""

    name = "sbom"
    doc_usage = "[NAME...]"
    doc_description = (
        "Without names: all definitions. The name of a toolchain or an image means what it is made of. Makes no "
        "request. With SOURCE_DATE_EPOCH, the same definitions give the same bytes. CycloneDX needs the extra `sbom`. "
        "Exit status: 0 success; 1 failure; 2 unusable definitions; 3 invalid command line."
    )
    cmd_options = (
        format_option(("cyclonedx-1.6", "JSON"), ("cyclonedx-1.7", "JSON"), ("spdx-2.3", "JSON")),
        OUTPUT_FILE,
        OFFLINE,
    )

    def work(self, session: Session, params: Any, args: list[str]) -> int:
        """Answer for the definitions that the arguments name, or that a toolchain or image among them is made of."""
        chosen = {one.name for one in Project(session, stderr_progress()).select(args)}
        return self.answer(session, [one for one in session.definitions.fetches.values() if one.name in chosen], params)

    def answer(self, session: Session, fetches: Sequence[Any], params: Any) -> int:
        """Write the bill of materials; return the exit status.

        Raises:
            ToolError: the extra `sbom` is not installed.
            InvalidCommand: the file cannot be written.
        """
        materials = list_materials(session.context, session.definitions, fetches)
        epoch = session.settings.source_date_epoch
        created_s = int(time.time()) if epoch is None else epoch
        text = write(materials, params["format"], created_s)
        if not params["into"]:
            self.outstream.write(text)
            return 0
        try:
            Path(STARTED_IN.get(), params["into"]).write_text(text, "utf-8")
        except OSError as error:
            raise usage_error(format_write_error(params["into"], error)) from None
        return 0


def write(materials: Sequence[Material], form: str, created_s: int) -> str:
    """Return a bill of materials in one of the formats.

    Raises:
        ToolError: the extra `sbom` is not installed.
    """
    tool = version("doit-fetch")
    identity = hashlib.sha256(
        f"{form} {tool} {created_s} {materials!r}".encode("utf-8", "backslashreplace")
    ).hexdigest()
    if form == "spdx-2.3":
        return write_spdx(materials, tool=tool, created_s=created_s, identity=identity)
    try:
        from tasks_lib.pins.cyclonedx import write_cyclonedx  # an optional dependency
    except ModuleNotFoundError as error:
        raise ToolError(
            f"--format {form} needs the library cyclonedx-python-lib",
            hint="install doit-fetch[sbom], or use --format spdx-2.3",
        ) from error
    return write_cyclonedx(materials, version=form[-3:], tool=tool, created_s=created_s, identity=identity)
