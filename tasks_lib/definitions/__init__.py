"""Fetch definitions: YAML text -> frozen values, or every problem at once.

Pure: text in, values out; reading files is the loader's business.
"""

from tasks_lib.definitions.parse import SourceFile, json_schema, kind_files, parse
from tasks_lib.definitions.values import (
    Definitions,
    Fetch,
    FetchesEntry,
    FileReference,
    Git,
    GpgSignature,
    Hg,
    Run,
    StaticUrl,
    Toolchain,
)

__all__ = [
    "Definitions",
    "Fetch",
    "FetchesEntry",
    "FileReference",
    "Git",
    "GpgSignature",
    "Hg",
    "Run",
    "SourceFile",
    "StaticUrl",
    "Toolchain",
    "json_schema",
    "kind_files",
    "parse",
]
