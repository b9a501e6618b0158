"""Steps of a run, in order: fetch, repack, deliver (extract or place), build a toolchain.

Each step first reuses results from the cache and reports to its `Progress`. No step depends on doit.
"""

from tasks_lib.steps.artifacts import fetch, history, is_published, needs_network, published_by, repack
from tasks_lib.steps.extract import deliver, delivered_by, extraction_of, is_delivered, start_over
from tasks_lib.steps.plan import Artifact, Delivery, Plan, ToolchainBuild
from tasks_lib.steps.toolchain import SKIPPED, build_toolchain, built_by, is_built

__all__ = [
    "SKIPPED",
    "Artifact",
    "Delivery",
    "Plan",
    "ToolchainBuild",
    "build_toolchain",
    "built_by",
    "deliver",
    "delivered_by",
    "extraction_of",
    "fetch",
    "history",
    "is_built",
    "is_delivered",
    "is_published",
    "needs_network",
    "published_by",
    "repack",
    "start_over",
]
