"""Values of definitions <-> plain lists and words, for a cache that is read faster than YAML.

A value is `{class name: [its fields in order]}`, a tuple is a list. Reading makes values by their own initialisers, so
they are born valid however the cache was damaged. Pure: no I/O.
"""

from __future__ import annotations

from typing import Any, Final

from tasks_lib import digest, relpath
from tasks_lib.definitions import values


def _fields_of(kind: type[Any]) -> tuple[str, ...]:
    """Return the names of the fields of a value's class, () for another one."""
    return tuple(getattr(kind, "__struct_fields__", ())) or tuple(getattr(kind, "_fields", ()))


_CLASSES: Final[dict[str, type[Any]]] = {
    name: one
    for module in (values, digest, relpath)
    for name, one in vars(module).items()
    if isinstance(one, type) and _fields_of(one)
}
_NAMES: Final = {one: (name, _fields_of(one)) for name, one in _CLASSES.items()}
_FIELDS: Final = {name: (one, _NAMES[one][1]) for name, one in _CLASSES.items()}


def packed(value: Any) -> Any:
    """Return a value as lists, words and numbers.

    Raises:
        TypeError: it is none of ours.
    """
    if value is None or isinstance(value, str | int | float | bool):
        return value
    named = _NAMES.get(type(value))
    if named is None and isinstance(value, tuple):
        return [packed(one) for one in value]
    if named is None:
        raise TypeError(f"{type(value).__name__} is no value of a definition")
    return {named[0]: [packed(getattr(value, name)) for name in named[1]]}


def unpacked(made: Any) -> Any:
    """Return the value that `packed` took apart.

    Raises:
        ValueError: it is none, or not a valid one.
    """
    if isinstance(made, list):
        return tuple([unpacked(one) for one in made])
    if not isinstance(made, dict):
        return made
    try:
        ((name, parts),) = made.items()
        kind, names = _FIELDS[name]
        return kind(**{field: unpacked(part) for field, part in zip(names, parts, strict=True)})
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError("no value of a definition") from error
