"""The command of a toolchain: its words, and the environment that it sees."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tasks_lib.context import Context
from tasks_lib.definitions import ToolchainRun
from tasks_lib.errors import ToolError
from tasks_lib.host import declared_environment, digest_variables, isolate_network
from tasks_lib.steps.attempt import Attempt
from tasks_lib.steps.builds import Delivery, ToolchainBuild


def list_words(preparation: ToolchainBuild) -> list[str]:
    """Return the words of the command."""
    run = preparation.toolchain.run
    if run is None:
        raise AssertionError("only a toolchain with `run` is executed")
    return [str(Path(run.script.path).absolute()), *run.arguments] if run.script else list(run.command)


def list_isolation(preparation: ToolchainBuild, environ: Mapping[str, str]) -> list[str]:
    """Return the words that run the command without network, [] if it may use it."""
    toolchain = preparation.toolchain
    if toolchain.run is None or preparation.host.network_of(toolchain.run) == "on":
        return []
    return isolate_network(toolchain.name, environ)


def build_environment(context: Context, attempt: Attempt) -> dict[str, str]:
    """Return the command's environment: the declared one, what definitions set, and what run-task sets.

    Source: Taskgraph's `fetches`: MOZ_FETCHES, MOZ_FETCHES_DIR.

    Raises:
        ToolError: a passed variable has another value than when the key was computed.
    """
    preparation = attempt.preparation
    passed = preparation.host.passed_to(preparation.toolchain.run or ToolchainRun())
    for name, digest in digest_variables(context.environ, passed).items():
        if digest != passed[name]:
            raise ToolError(
                f"toolchain {preparation.toolchain.name}: the variable {name} changed after the project was loaded",
                hint="load the project again",
            )
    fetches = sorted((_fetches_entry(one) for one in preparation.deliveries), key=lambda entry: str(entry["artifact"]))
    return {
        **_inherited_environment(context, preparation),
        **dict(preparation.env),
        "MOZ_FETCHES": json.dumps(fetches, sort_keys=True),
        **attempt.variables,
    }


def list_variables(context: Context, preparation: ToolchainBuild) -> list[str]:
    """Return the variables that the command sees, sorted: `NAME=value` of definitions, only the names of all others."""
    names = {*_inherited_environment(context, preparation), "MOZ_FETCHES"}
    names.update(Attempt(preparation, preparation.directory).variables)
    own = dict(preparation.env)
    return sorted([*(names - own.keys()), *(f"{name}={value}" for name, value in own.items())])


def _inherited_environment(context: Context, preparation: ToolchainBuild) -> dict[str, str]:
    """Return the variables of doit's environment that the command sees."""
    run = preparation.toolchain.run or ToolchainRun()
    return declared_environment(context.environ, preparation.host.passed_to(run))


def _fetches_entry(delivery: Delivery) -> dict[str, str | bool]:
    """Return one entry of MOZ_FETCHES. Source: taskgraph `use_fetches`."""
    entry: dict[str, str | bool] = {
        "artifact": f"public/{delivery.artifact.path.name}",
        "extract": delivery.entry.delivery == "extract",
        "task": delivery.artifact.task.replace(":", "-"),
    }
    return entry | ({"dest": str(delivery.entry.dest)} if delivery.entry.dest else {})
