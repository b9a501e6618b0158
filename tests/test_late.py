"""Plug-ins that are looked for only when something is asked for that is not ours."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tasks_lib.engine.late import Late


def test_what_is_ours_needs_no_look_at_others() -> None:
    """What is registered here comes at once; another name, a list or the choices of the option ask for all, once."""
    looks: list[str] = []

    def stock() -> dict[str, Any]:
        looks.append("look")
        option.choices = {"dbm": "of doit"}
        return {"dbm": "theirs", "fetch": "stock's idea of ours"}

    option = SimpleNamespace(choices={})
    found = Late({"backend": option}, "backend", {"fetch": lambda: "ours"}, stock)
    assert (found["fetch"], looks) == ("ours", [])
    assert (found["dbm"], list(found), dict(option.choices)) == ("theirs", ["dbm", "fetch"], {"dbm": "of doit"})
    assert looks == ["look"]


def test_choices_ask_by_themselves() -> None:
    """A check of a given value, before any plug-in was asked for, knows all of them."""
    option = SimpleNamespace(choices={})

    def stock() -> dict[str, Any]:
        option.choices = {"dbm": "of doit"}
        return {}

    Late({"backend": option}, "backend", {}, stock)
    assert "dbm" in option.choices
    assert len(option.choices) == 1
