"""doit's tables of plug-ins, filled when a name is used that is not ours.

To fill a table, doit reads the metadata of every installed package: 3 ms with 17 packages, 8 ms with 150.
Source: doit 0.37, `DoitCmdBase.get_backends`, `Run.get_reporters`, `CmdOption.choices`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any


class PluginTable(Mapping[str, Any]):
    """A table that doit fills on the first access, except to a name that is `ours`."""

    def __init__(self, fill: Callable[[], Mapping[str, Any]], ours: Mapping[str, Callable[[], Any]]) -> None:
        """Keep how to fill the table, and how to import what is ours by name."""
        self._fill, self._ours = fill, ours
        self._table: Mapping[str, Any] | None = None

    @classmethod
    def of_option(
        cls, option: Any, fill: Callable[[], Mapping[str, Any]], ours: Mapping[str, Callable[[], Any]]
    ) -> PluginTable:
        """Return the table of an option; its choices, which `fill` sets, are filled on first access, too."""
        table = cls(fill, ours)

        def choices() -> Mapping[str, Any]:
            table._filled()
            found: Mapping[str, Any] = option.choices
            return found

        option.choices = cls(choices, {})
        return table

    @property
    def imported(self) -> list[Any]:
        """The plug-ins that doit imported: none, or all."""
        return [] if self._table is None else [*self._table.values()]

    def _filled(self) -> Mapping[str, Any]:
        if self._table is None:
            self._table = self._fill()
        return self._table

    def __getitem__(self, name: str) -> Any:
        return self._ours[name]() if name in self._ours else self._filled()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._filled())

    def __len__(self) -> int:
        return len(self._filled())
