"""doit's tables of plug-ins, filled when a name is used that is not ours.

To fill a table, doit reads the metadata of every installed package: 3 ms with 17 packages, 8 ms with 150.
Source: doit 0.37, `DoitCmdBase.get_backends`, `Run.get_reporters`, `CmdOption.choices`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tasks_lib.engine.base_command import usage_error
from tasks_lib.errors import escape_text


class PluginTable(Mapping[str, Any]):
    """A table that doit fills on the first access, except to a name that is `ours`.

    doit checks only the names of the command line; an access checks those of DOIT_CONFIG and doit.cfg.

    Raises:
        InvalidCommand: no plug-in has this name, or a plug-in cannot be imported.
    """

    def __init__(self, kind: str, fill: Callable[[], Mapping[str, Any]], ours: Mapping[str, Callable[[], Any]]) -> None:
        """Keep the option's name, how to fill the table, and how to import what is ours by name."""
        self._kind, self._fill, self._ours = kind, fill, ours
        self._table: Mapping[str, Any] | None = None

    @classmethod
    def of_option(
        cls, option: Any, fill: Callable[[], Mapping[str, Any]], ours: Mapping[str, Callable[[], Any]]
    ) -> PluginTable:
        """Return the table of an option; its choices, which `fill` sets, are filled on first access, too."""
        table = cls(option.name, fill, ours)

        def choices() -> Mapping[str, Any]:
            table._filled()
            found: Mapping[str, Any] = option.choices
            return found

        option.choices = cls(option.name, choices, {})
        return table

    @property
    def imported(self) -> list[Any]:
        """The plug-ins that doit imported: none, or all."""
        return [] if self._table is None else [*self._table.values()]

    def _filled(self) -> Mapping[str, Any]:
        if self._table is None:
            try:
                self._table = self._fill()
            except Exception as error:
                if type(error) is not Exception:  # doit raises one for a module or an attribute that does not exist
                    raise
                next_step = "correct its table in doit.cfg or pyproject.toml, or uninstall its package"
                raise usage_error(f"{escape_text(str(error))}\n{next_step}") from None
        return self._table

    def __contains__(self, name: object) -> bool:
        return name in self._ours or name in self._filled()

    def __getitem__(self, name: str) -> Any:
        if name in self._ours:
            return self._ours[name]()
        if name not in self._filled():
            known = ", ".join(sorted({*self._filled(), *self._ours}))
            raise usage_error(f"unknown {self._kind} {escape_text(str(name))!r}\nexpected one of {known}")
        return self._filled()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._filled())

    def __len__(self) -> int:
        return len(self._filled())
