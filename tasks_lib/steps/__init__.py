"""Steps of a run, in order: fetch, repack, deliver (extract or place), build a toolchain.

Each step first reuses results from the cache and reports to its `Progress`. No step depends on doit. The modules that
change files are imported on first use: `doit info`, and a run that finds everything up to date, need only the checks.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Literal

from tasks_lib.steps.builds import Artifact, Delivery, ImageBuild, LayerBuild, ToolchainBuild
from tasks_lib.steps.checks import (
    describe_unconfirmed,
    find_integrity,
    is_asked,
    is_built,
    is_delivered,
    is_published,
    list_artifact_files,
    list_build_files,
    list_delivery_files,
    needs_network,
    read_provenance,
    tree_of,
    url_of,
)
from tasks_lib.steps.definition_types import fail_refused, fetch, skip_unavailable
from tasks_lib.steps.plan import Plan

if TYPE_CHECKING:
    from tasks_lib.steps.artifacts import link_artifact, publish_from_cache
    from tasks_lib.steps.attempt import remove_attempts
    from tasks_lib.steps.command import list_variables
    from tasks_lib.steps.extract import clear_worked_fetches, deliver
    from tasks_lib.steps.image import build_image, has_layers, lay_out_image, obtain_layers
    from tasks_lib.steps.repacking import repack
    from tasks_lib.steps.toolchain import SKIPPED, build_toolchain

__all__ = [
    "SKIPPED",
    "Artifact",
    "Delivery",
    "ImageBuild",
    "LayerBuild",
    "Plan",
    "ToolchainBuild",
    "Verb",
    "build_image",
    "build_toolchain",
    "clear_worked_fetches",
    "deliver",
    "describe_unconfirmed",
    "fail_refused",
    "fetch",
    "find_integrity",
    "has_layers",
    "is_asked",
    "is_built",
    "is_delivered",
    "is_published",
    "lay_out_image",
    "link_artifact",
    "list_artifact_files",
    "list_build_files",
    "list_delivery_files",
    "list_variables",
    "needs_network",
    "obtain_layers",
    "publish_from_cache",
    "read_provenance",
    "remove_attempts",
    "repack",
    "skip_unavailable",
    "tree_of",
    "url_of",
]

#: Names of the steps that a task runs.
Verb = Literal["fetch", "repack", "deliver", "build_toolchain", "build_image", "fail_refused", "skip_unavailable"]
#: Name -> module of what is imported on first use.
_MODULES: Final = {
    "link_artifact": "artifacts",
    "publish_from_cache": "artifacts",
    "repack": "repacking",
    "deliver": "extract",
    "clear_worked_fetches": "extract",
    "build_toolchain": "toolchain",
    "build_image": "image",
    "has_layers": "image",
    "lay_out_image": "image",
    "obtain_layers": "image",
    "list_variables": "command",
    "SKIPPED": "toolchain",
    "remove_attempts": "attempt",
}


def __getattr__(name: str) -> Any:
    """Import a step on first access to its name. Source: PEP 562."""
    if name not in _MODULES:
        raise AttributeError(name)
    return getattr(import_module(f"tasks_lib.steps.{_MODULES[name]}"), name)
