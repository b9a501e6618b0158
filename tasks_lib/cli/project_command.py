"""Base of the commands that need the definitions of a project, and no tasks."""

from __future__ import annotations

import abc
import sys
from typing import Any

from tasks_lib.engine.base_command import BaseCommand, load_dodo, require_session, usage_error, yield_to_task
from tasks_lib.errors import DefinitionError, FetchError, SettingError, UnknownNameError, escape_lines
from tasks_lib.session import Session


class ProjectCommand(BaseCommand, abc.ABC):
    """A command about a project. Exit status: 0 success; 1 failure; `unusable` for invalid definitions; 3 usage error.

    A name that no definition has is a usage error.
    """

    name: str
    #: Exit status if the definitions cannot be used: 3 where nothing can be done without them, 2 where they are judged.
    unusable = 3

    def execute(self, params: Any, args: list[str]) -> int:
        """Run the command; a task of the dodo.py that has its name runs instead.

        Raises:
            InvalidCommand: the command line or a setting is wrong, or dodo.py does not use this package; doit prints
                the message.
        """
        session = self.start(params)
        try:
            return self.work(session, params, args)
        except DefinitionError as error:
            sys.stderr.write(f"ERROR: {escape_lines(str(error))}\n")
            return self.unusable
        except (UnknownNameError, SettingError) as error:
            raise usage_error(escape_lines(str(error))) from None
        except FetchError as error:
            sys.stderr.write(f"ERROR: {escape_lines(str(error))}\n")
            return 1
        except KeyboardInterrupt:
            return 130

    def start(self, params: Any) -> Session:
        """Load dodo.py; return the session that it started.

        Raises:
            InvalidCommand: as `execute`.
        """
        load_dodo(self.loader, params)
        yield_to_task(self.name, self.loader)
        return require_session(self.name)

    @abc.abstractmethod
    def work(self, session: Session, params: Any, args: list[str]) -> int:
        """Do the work; return the exit status.

        Raises:
            InvalidCommand: the command line is wrong.
            FetchError: it fails.
        """
