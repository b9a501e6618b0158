"""`doit help`: doit's own command, with the effective defaults and the settings of the project."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Final

from doit.cmd_base import DoitCmdBase
from doit.cmd_help import Help as DoitHelp

from tasks_lib.engine import help_pages
from tasks_lib.engine.base_command import PURPOSES, BaseCommand, require_directory, usage_error
from tasks_lib.errors import SettingError, escape_lines
from tasks_lib.session import current_session

_HELP: Any = DoitHelp  # doit has no types
#: Name that a dodo.py defines if it has a task called "settings".
_OWN: Final = "task_settings"


class HelpCommand(BaseCommand, _HELP):  # type: ignore[misc]
    """`doit help`."""

    name = "help"

    def __init__(self, cmds: Any = None, **named: Any) -> None:
        """Keep the commands; unlike doit's own command, load only those that are needed."""
        DoitCmdBase.__init__(self, cmds=cmds, **named)  # type: ignore[no-untyped-call]  # doit has no types
        self.init_kwargs, self._cmds = named, cmds

    @cached_property
    def cmds(self) -> Mapping[str, Any]:
        """All commands by name, with their purposes; only commands of other packages are loaded."""
        return {
            name: SimpleNamespace(doc_purpose=PURPOSES[name]) if name in PURPOSES else self._cmds.get_plugin(name)
            for name in self._cmds
        }

    def print_usage(self, cmds: Mapping[str, Any]) -> None:
        """Write the list of commands and other help topics."""
        super().print_usage(cmds)
        if self._is_ours:
            sys.stdout.write(f"  {self.bin_name} help settings     show the settings of this project\n")

    def execute(self, params: Any, args: list[str]) -> int:
        """Show help on a command or on the settings; delegate other topics to doit.

        Raises:
            InvalidCommand: pyproject.toml cannot be read, or as `require_directory`; doit prints the message.
        """
        self._is_ours = help_pages.uses_doit_fetch(params)
        topic = args[0] if len(args) == 1 else ""
        if topic in self._cmds and topic != "task":
            command = self._cmds.get_plugin(topic)(cmds=self._cmds, **self.init_kwargs)
            sys.stdout.write(f"{help_pages.render_command_help(command, self.loader, params)}\n")
            return 0
        if topic == "settings" and self._is_ours:
            help_pages.load_config(self.loader, params)
            if _OWN not in (getattr(self.loader, "namespace", None) or ()):
                return self._show_settings()
            self.task_list = self.loader.load_tasks(cmd=self, pos_args=args)
            self._execute(args)
            return 0
        if topic not in ("", "task"):
            require_directory()
        return int(super().execute(params, args) or 0)

    def _execute(self, pos_args: list[str]) -> bool:
        """Show help on a task, or on the settings if no task has that name (dodo.py imports us indirectly)."""
        if super()._execute(pos_args):
            return True
        return current_session() is not None and pos_args == ["settings"] and self._show_settings() == 0

    def _show_settings(self) -> int:
        try:
            sys.stdout.write(f"{help_pages.render_settings_page()}\n")
        except SettingError as error:
            raise usage_error(escape_lines(str(error))) from None
        return 0
