"""Fetch definitions: parse YAML text into immutable values, or report all problems at once.

Pure: no I/O; `incremental.definition_files` reads the files. The parser is imported on first use, because a run with
unchanged definitions needs only the values.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tasks_lib.definitions.values import (
    Checksums,
    Debian,
    DebianSource,
    Definitions,
    Fetch,
    FetchesEntry,
    FileReference,
    Git,
    GpgSignature,
    Hg,
    Image,
    ImageConfig,
    ImageLayer,
    IndexInputs,
    Minisign,
    Place,
    RefusedDefinition,
    StaticUrl,
    Suite,
    Toolchain,
    ToolchainRun,
)

if TYPE_CHECKING:
    from tasks_lib.definitions.mirrors import mirrors_schema
    from tasks_lib.definitions.parser import SourceFile, json_schema, list_kind_files, parse, refuse

__all__ = [
    "Checksums",
    "Debian",
    "DebianSource",
    "Definitions",
    "Fetch",
    "FetchesEntry",
    "FileReference",
    "Git",
    "GpgSignature",
    "Hg",
    "Image",
    "ImageConfig",
    "ImageLayer",
    "IndexInputs",
    "Minisign",
    "Place",
    "RefusedDefinition",
    "SourceFile",
    "StaticUrl",
    "Suite",
    "Toolchain",
    "ToolchainRun",
    "json_schema",
    "list_kind_files",
    "mirrors_schema",
    "parse",
    "refuse",
]


def __getattr__(name: str) -> Any:
    """Import the parser on first access to one of its names. Source: PEP 562."""
    if name not in __all__:
        raise AttributeError(name)
    module = "mirrors" if name == "mirrors_schema" else "parser"
    return getattr(import_module(f"tasks_lib.definitions.{module}"), name)
