"""Base of the commands that work on artifacts and trees of a project, without tasks: path, export, prove."""

from __future__ import annotations

import abc
import sys
from typing import Any

from tasks_lib.engine.base_command import BaseCommand, load_dodo, require_session, usage_error, yield_to_task
from tasks_lib.errors import DefinitionError, FetchError, SettingError, UnknownNameError, escape_lines
from tasks_lib.session import Session


class ProjectCommand(BaseCommand, abc.ABC):
    """A command about a project. Exit status: 0 success; 1 failure; 3 usage error or error of the definitions."""

    name: str

    def execute(self, params: Any, args: list[str]) -> int:
        """Run the command; a task of the dodo.py that has its name runs instead.

        Raises:
            InvalidCommand: the command line or the definitions are wrong, or dodo.py does not use this package; doit
                prints the message.
        """
        load_dodo(self.loader, params)
        yield_to_task(self.name, self.loader)
        session = require_session(self.name)
        try:
            return self.work(session, params, args)
        except (UnknownNameError, SettingError, DefinitionError) as error:
            raise usage_error(escape_lines(str(error))) from None
        except FetchError as error:
            sys.stderr.write(f"{escape_lines(str(error))}\n")
            return 1
        except KeyboardInterrupt:
            return 130

    @abc.abstractmethod
    def work(self, session: Session, params: Any, args: list[str]) -> int:
        """Do the work; return the exit status.

        Raises:
            InvalidCommand: the command line is wrong.
            FetchError: it fails.
        """
