"""Which definitions the words of a command line mean: the one policy of every command. Pure: no I/O."""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Iterable
from typing import Final, Literal

from tasks_lib.definitions.values import Definitions, Fetch, Image, Toolchain
from tasks_lib.errors import UnknownNameError, escape_text, suggest
from tasks_lib.layout import ambiguous_name

DefinitionKind = Literal["fetch", "toolchain", "image"]
#: The kinds of definitions.
KINDS: Final[tuple[DefinitionKind, ...]] = ("fetch", "toolchain", "image")
_GLOB: Final = frozenset("*?[")


def find_definition(
    definitions: Definitions, word: str, kinds: tuple[DefinitionKind, ...] = KINDS
) -> Fetch | Toolchain | Image:
    """Return the definition with this name or alias, which may begin with its kind and end with its platform.

    Raises:
        UnknownNameError: there is none, it is not available for the platform of this run, or definitions of several
            kinds have this name.
    """
    kind, _, name = definitions.canonical_name(word).rpartition(":")
    found: dict[str, Fetch | Toolchain | Image] = {}
    for wanted in kinds:
        if kind in ("", wanted):
            with contextlib.suppress(KeyError):
                found[wanted] = _resolve(definitions, wanted, name)
    found = {wanted: one for wanted, one in found.items() if one.name == name} or found  # names before aliases
    if len(found) > 1:
        raise ambiguous_name(name, {wanted: f"{wanted}:{name}" for wanted in found})
    if found:
        return next(iter(found.values()))
    for one in definitions.skipped:
        if one.task in (word, *(f"{wanted}:{name}" for wanted in kinds)):
            raise UnknownNameError(f"{one.task}: {one.reason}", hint=one.hint or f"see {one.place}")
    known = [name for wanted in kinds for name in _names(definitions, wanted)]
    hint = suggest(name, known) or "`doit list --all` shows the definitions"
    what = "definition" if kinds == KINDS else f"{kinds[0]} definition"
    raise UnknownNameError(f"no {what} is named {escape_text(word)!r}", hint=escape_text(hint))


def find_definitions(
    definitions: Definitions, words: Iterable[str], kinds: tuple[DefinitionKind, ...] = KINDS
) -> list[Fetch | Toolchain | Image]:
    """Return the definitions that the words mean, each once, in the order of the words; a word may be a glob.

    Raises:
        UnknownNameError: as `find_definition`, for a glob that matches nothing too.
    """
    found: dict[tuple[type, str], Fetch | Toolchain | Image] = {}
    for word in words:
        kind, _, pattern = word.rpartition(":")
        matches = [
            f"{wanted}:{name}"
            for wanted in kinds
            if kind in ("", wanted) and _GLOB.intersection(word)
            for name in fnmatch.filter(_names(definitions, wanted), pattern)
        ]
        for name in matches or [word]:
            one = find_definition(definitions, name, kinds)
            found[type(one), one.name] = one
    return list(found.values())


def _resolve(definitions: Definitions, kind: DefinitionKind, name: str) -> Fetch | Toolchain | Image:
    if kind == "image":
        return definitions.images[name]
    return definitions.fetch(name) if kind == "fetch" else definitions.toolchain(name)


def _names(definitions: Definitions, kind: DefinitionKind) -> Iterable[str]:
    return definitions.kinds[kind]
