"""Named tuples that are cheap to create behave as those of `typing`."""

from __future__ import annotations

import pickle
import typing
from typing import Any

import pytest

from tasks_lib import named


class Ours(named.NamedTuple):
    """A point."""

    x: int
    y: str = "y"

    @property
    def text(self) -> str:
        """Both."""
        return f"{self.x}{self.y}"

    @classmethod
    def of(cls, x: int) -> Ours:
        """Return a point."""
        return cls(x)


class Theirs(typing.NamedTuple):
    """A point."""

    x: int
    y: str = "y"

    @property
    def text(self) -> str:
        """Both."""
        return f"{self.x}{self.y}"

    @classmethod
    def of(cls, x: int) -> Theirs:
        """Return a point."""
        return cls(x)


@pytest.mark.parametrize(
    "ask",
    [
        lambda one: one(1),
        lambda one: one.of(2).text,
        lambda one: one(1, y="z")._replace(x=3)._asdict(),
        lambda one: tuple(pickle.loads(pickle.dumps(one(1)))),
        lambda one: (one._fields, one._field_defaults, one.__doc__, one.__module__, one.__qualname__[-1]),
        lambda one: typing.get_type_hints(one),
    ],
    ids=["value", "method", "replace", "pickle", "class", "types"],
)
def test_a_class_is_as_that_of_typing(ask: Any) -> None:
    """Values, methods, defaults, copies and the facts of the class agree."""
    assert ask(Ours) == ask(Theirs)
