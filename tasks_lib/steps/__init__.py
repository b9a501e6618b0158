"""Steps of a run, in order: fetch, repack, deliver (extract or place), build a toolchain.

Each step first reuses results from the cache and reports to its `Progress`. No step depends on doit.
"""

from tasks_lib.steps.artifacts import (
    describe_unconfirmed,
    fetch,
    find_integrity,
    is_asked,
    is_published,
    list_artifact_files,
    needs_network,
    read_provenance,
    repack,
    url_of,
)
from tasks_lib.steps.attempt import remove_attempts
from tasks_lib.steps.extract import clear_worked_fetches, deliver, extraction_of, is_delivered, list_delivery_files
from tasks_lib.steps.plan import Artifact, Delivery, Plan, ToolchainBuild
from tasks_lib.steps.toolchain import SKIPPED, build_toolchain, is_built, list_build_files, list_variables

__all__ = [
    "SKIPPED",
    "Artifact",
    "Delivery",
    "Plan",
    "ToolchainBuild",
    "build_toolchain",
    "clear_worked_fetches",
    "deliver",
    "describe_unconfirmed",
    "extraction_of",
    "fetch",
    "find_integrity",
    "is_asked",
    "is_built",
    "is_delivered",
    "is_published",
    "list_artifact_files",
    "list_build_files",
    "list_delivery_files",
    "list_variables",
    "needs_network",
    "read_provenance",
    "remove_attempts",
    "repack",
    "url_of",
]
