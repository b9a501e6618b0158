"""Fetch definitions: YAML text -> frozen values, or every problem at once.

Pure: text in, values out; reading files is the loader's business. The parser is loaded when something is parsed: a
run whose definitions did not change needs the values only.
"""

from typing import TYPE_CHECKING, Any

from tasks_lib.definitions.values import (
    Checksums,
    Definitions,
    Fetch,
    FetchesEntry,
    FileReference,
    Git,
    GpgSignature,
    Hg,
    Minisign,
    Place,
    RefusedDefinition,
    StaticUrl,
    Toolchain,
    ToolchainRun,
)

if TYPE_CHECKING:
    from tasks_lib.definitions.mirrors import mirrors_schema
    from tasks_lib.definitions.parser import SourceFile, json_schema, kind_files, parse

__all__ = [
    "Checksums",
    "Definitions",
    "Fetch",
    "FetchesEntry",
    "FileReference",
    "Git",
    "GpgSignature",
    "Hg",
    "Minisign",
    "Place",
    "RefusedDefinition",
    "SourceFile",
    "StaticUrl",
    "Toolchain",
    "ToolchainRun",
    "json_schema",
    "kind_files",
    "mirrors_schema",
    "parse",
]


def __getattr__(name: str) -> Any:
    """Load the parser for the names that are its own. Source: PEP 562."""
    if name not in __all__:
        raise AttributeError(name)
    from importlib import import_module

    module = "mirrors" if name == "mirrors_schema" else "parser"
    return getattr(import_module(f"tasks_lib.definitions.{module}"), name)
