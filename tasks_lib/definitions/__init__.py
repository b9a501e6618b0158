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
    Run,
    StaticUrl,
    Toolchain,
)

if TYPE_CHECKING:
    from tasks_lib.definitions.dialect import SourceFile, json_schema, kind_files, mirrors_schema, parse

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
    "Run",
    "SourceFile",
    "StaticUrl",
    "Toolchain",
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

    return getattr(import_module("tasks_lib.definitions.dialect"), name)
