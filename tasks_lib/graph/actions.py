"""Actions of doit tasks: steps, and what `doit clean` removes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from doit.exceptions import TaskFailed

from tasks_lib import steps
from tasks_lib.context import Context
from tasks_lib.errors import CancelledError, FetchError
from tasks_lib.graph import task_info
from tasks_lib.graph.checks import FetchCheck
from tasks_lib.progress import Silent
from tasks_lib.steps import Artifact, Delivery, ToolchainBuild
from tasks_lib.ui.events import BUS


class Step(msgspec.Struct, frozen=True):
    """An action: runs a step and returns the values that `UpToDateCheck` looks for."""

    name: str
    key: str
    parts: tuple[Any, ...]
    verb: steps.Verb
    arguments: tuple[Any, ...]
    check: FetchCheck | None = None  # records more values with a success

    @property
    def identity(self) -> task_info.Identity:
        """The inputs that determine the output, by name; computed on access."""
        compute, *arguments = self.parts
        return dict(compute(*arguments))

    def __call__(self) -> dict[str, Any] | TaskFailed:
        """Run the step; report errors of this package as a message without a traceback."""
        progress = BUS.progress(self.name)
        self.arguments[0].build  # noqa: B018  # creates the directory
        try:
            skipped = getattr(steps, self.verb)(*self.arguments, progress)
        except CancelledError as error:  # not reported: the user requested the stop
            return TaskFailed(str(error), report=False)  # type: ignore[no-untyped-call]  # doit has no types
        except FetchError as error:
            return TaskFailed(str(error))  # type: ignore[no-untyped-call]  # doit has no types
        if skipped:
            BUS.say(self.name, "skip", {"reason": skipped})
            return {"key": ""}
        made = self.check.success() if self.check is not None else {}
        output = task_info.describe_output(*self.arguments)
        BUS.say(self.name, "output", task_info.make_absolute(output))
        return {"key": self.key, "identity": self.identity, **made, **output}


def step_of(task: Any) -> Step | None:
    """Return the step of a task, None for a task that this package did not create."""
    for action in task._actions:
        if isinstance(action, tuple) and isinstance(action[0], Step):
            return action[0]
    return None


def output_of(task: Any) -> task_info.OutputFacts:
    """Return what a task makes, with absolute paths; {} for a task that this package did not create."""
    step = step_of(task)
    return task_info.make_absolute(task_info.describe_output(*step.arguments)) if step is not None else {}


def remove_delivery(delivery: Delivery, dryrun: bool) -> None:
    """Remove the files that a delivery put into its directory (doit defines the name `dryrun`)."""
    if not dryrun:
        steps.tree_of(delivery).clear(Silent())


def remove_toolchain_build(context: Context, preparation: ToolchainBuild, dryrun: bool) -> None:
    """Clean a toolchain's directory; keep the files of its extractions, unless its command has worked on them."""
    if dryrun:
        return
    for path in (preparation.stamp, preparation.log):
        path.unlink(missing_ok=True)
    steps.clear_worked_fetches(
        context, preparation.worked, Silent()
    )  # else the next command would start from the files that this one left
    steps.remove_attempts(preparation)
    for delivery in preparation.deliveries:
        if delivery.entry.delivery == "place":
            steps.tree_of(delivery).clear(Silent())
    if preparation.output is not None:
        for target in list_targets(preparation.output):
            Path(target).unlink(missing_ok=True)


def list_targets(artifact: Artifact) -> list[str]:
    """Return the paths of an artifact: the one named by its identity, and the link whose path never changes."""
    return [str(artifact.path), *([str(artifact.link)] if artifact.link else [])]
