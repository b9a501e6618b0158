"""Checks of doit tasks: whether the output of the last success is unchanged."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec

from tasks_lib import steps
from tasks_lib.cache import identify_url
from tasks_lib.definitions import Fetch
from tasks_lib.errors import escape_text
from tasks_lib.steps import Artifact, Delivery

#: Maximum number of missing files that are listed.
_MAX_LISTED: Final = 5


class UpToDateCheck(msgspec.Struct, frozen=True):
    """An uptodate item: true if the last success had this key and its output is unchanged."""

    key: str
    is_unchanged: Callable[..., bool]
    arguments: tuple[Any, ...]
    sources: tuple[str, ...] = ()  # files whose content is part of the key
    variables: tuple[str, ...] = ()  # variables whose values are part of the key and of no setting
    # doit inspects each callable in each run; a precomputed signature makes a no-op run a fifth faster
    __signature__: ClassVar = inspect.Signature(
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("task", "values")]
    )

    def __call__(self, task: Any, values: Mapping[str, Any]) -> bool:
        """Return whether the task is up to date; `forget` deletes the values, so that the task runs."""
        del task  # doit passes it to every check by name
        return values.get("key") == self.key and self.is_unchanged(*self.arguments)

    def holds(self) -> bool:
        """Return whether the output is unchanged, regardless of doit's state."""
        return self.is_unchanged(*self.arguments)

    def inputs(self) -> Iterator[str]:
        """Yield the files on which `holds` depends: while none of them changes, the result does not change."""
        yield from _INPUTS[self.is_unchanged](*self.arguments)

    def note(self) -> str:
        """Return what is not confirmed about an output that is up to date, "" for nothing."""
        return ""

    def explain_change(self) -> list[str]:
        """Return the changes of the output since the last success, for a success with this key."""
        missing = [path for path in self.inputs() if not os.path.lexists(path)]
        reasons = [f"{escape_text(path)} is missing" for path in missing[:_MAX_LISTED]]
        reasons += [f"and {len(missing) - _MAX_LISTED} more are missing"] if len(missing) > _MAX_LISTED else []
        return reasons or ["its output was changed by something else"]

    def history(self) -> dict[str, Any]:
        """Return the recorded provenance of the output; {} if there is none."""
        history: dict[str, Any] = {}
        for one in self.arguments[1:]:
            artifact = getattr(one, "output", one)
            if isinstance(artifact, Artifact):
                history |= steps.read_provenance(self.arguments[0], artifact)
        return history

    def __repr__(self) -> str:
        return f"made and unchanged (key {self.key[:16]})"


class FetchCheck(UpToDateCheck, frozen=True, kw_only=True):
    """The check of a fetch: also false while the URL of its definition was not asked for the cached content.

    The last success knows the URL that it asked, so that the cache need not be read.
    """

    definition: Fetch

    @property
    def url(self) -> str:
        """What identifies the URL of the definition."""
        return identify_url(steps.url_of(self.definition))

    def __call__(self, task: Any, values: Mapping[str, Any]) -> bool:
        """Return whether the task is up to date; a success of an earlier version did not record its URL."""
        return values.get("url") in (None, self.url) and UpToDateCheck.__call__(self, task, values)

    def holds(self) -> bool:
        """Return whether the output of a run that succeeded is unchanged, and the URL was asked."""
        return UpToDateCheck.holds(self) and self._was_asked()

    def _was_asked(self) -> bool:
        """Return whether a run that succeeded asked the URL if it had to: always, unless the network is off."""
        context = self.arguments[0]
        return context.settings.policy.network != "off" or steps.is_asked(context, self.definition)

    def note(self) -> str:
        """Return what is not confirmed about the content, "" for nothing."""
        return steps.describe_unconfirmed(self.arguments[0], self.definition)

    def explain_change(self) -> list[str]:
        """Return the changes of the output since the last success, first a URL that is to be asked."""
        note = "" if steps.is_asked(self.arguments[0], self.definition) else self.note()
        return [note] if note else UpToDateCheck.explain_change(self)

    def history(self) -> dict[str, Any]:
        """Return the recorded provenance of the content, and what is not confirmed about it."""
        note = self.note()
        return UpToDateCheck.history(self) | ({"content": note} if note else {})

    def success(self) -> dict[str, str]:
        """Return the values to record with a success: the URL, if it was asked."""
        return {"url": self.url if self._was_asked() else ""}


def note_of(task: Any) -> str:
    """Return what is not confirmed about the output of a task, "" for nothing."""
    return "; ".join(filter(None, (check.note() for check, *_ in task.uptodate if isinstance(check, UpToDateCheck))))


def is_delivery_unchanged(delivery: Delivery, worked: Path) -> bool:
    """Return whether a delivery is unchanged; if `worked` exists, a command has changed it, and only the key counts."""
    if not worked.exists():
        return steps.is_delivered(delivery)
    return steps.tree_of(delivery).key() == delivery.key and delivery.destination.is_dir()


def delivery_inputs(delivery: Delivery, worked: Path) -> Iterable[str]:
    """Return the files on which `is_delivery_unchanged` depends."""
    known = (str(delivery.record),) if worked.exists() else steps.list_delivery_files(delivery)
    way = takewhile(worked.parent.__ne__, (delivery.destination, *delivery.destination.parents))  # none is a symlink
    return (str(worked), *map(str, way), *known)


_INPUTS: Final[Mapping[Callable[..., bool], Callable[..., Iterable[str]]]] = {
    steps.is_published: steps.list_artifact_files,
    steps.is_delivered: steps.list_delivery_files,
    steps.is_built: steps.list_build_files,
    is_delivery_unchanged: delivery_inputs,
}
