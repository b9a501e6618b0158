"""doit's tables of plug-ins, filled when something is asked for that is not ours.

doit looks through the metadata of every installed package for them, five milliseconds for each table at each command,
although nearly all runs name what is registered here.
Source: doit 0.37, `DoitCmdBase.get_backends`, `Run.get_reporters`, `CmdOption.choices`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any


class Late(Mapping[str, Any]):
    """The plug-ins behind one option of a command; doit's help and its check of a given value ask for all of them."""

    def __init__(
        self, options: Any, option: str, ours: Mapping[str, Callable[[], Any]], stock: Callable[[], Mapping[str, Any]]
    ) -> None:
        """Keep what is known, and how the rest is found.

        Args:
            options: the parser of the command's options.
            option: the name of the option; a command may have none of that name.
            ours: name -> how what is registered here is loaded.
            stock: doit's own way, which also tells the option all choices.
        """
        self._options, self._option, self._ours, self._stock = options, option, ours, stock
        self._all: Mapping[str, Any] | None = None
        if option in options:
            options[option].choices = _Choices(self._choices)

    def _choices(self) -> Mapping[str, str]:
        self._whole()
        choices: Mapping[str, str] = self._options[self._option].choices
        return choices

    def _whole(self) -> Mapping[str, Any]:
        if self._all is None:
            self._all = self._stock()
        return self._all

    def __getitem__(self, name: str) -> Any:
        return self._ours[name]() if name in self._ours else self._whole()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole())

    def __len__(self) -> int:
        return len(self._whole())


class _Choices(Mapping[str, str]):
    """What an option may be, with a word for each; `found` fills in the true ones."""

    def __init__(self, found: Callable[[], Mapping[str, str]]) -> None:
        self._found = found

    def __getitem__(self, name: str) -> str:
        return self._found()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found())

    def __len__(self) -> int:
        return len(self._found())
