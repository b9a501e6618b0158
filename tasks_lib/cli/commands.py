"""doit's commands, extended: all of them accept names, globs and paths, and `run` uses the pooled runner.

They are registered by entry points of the installed package, so they work from every directory and with `-f`. For a
`dodo.py` that does not use this package they behave as doit's own.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import sys
from typing import Any, Final

from doit.cmd_clean import Clean as DoitClean
from doit.cmd_forget import Forget as DoitForget
from doit.cmd_list import List as DoitList
from doit.cmd_run import Run as DoitRun
from doit.exceptions import InvalidCommand

from tasks_lib.engine.base_command import OFFLINE, BaseCommand, flag, format_write_error, option, usage_error
from tasks_lib.engine.loader import Loader
from tasks_lib.engine.plugin_table import PluginTable
from tasks_lib.engine.state import StateBackend
from tasks_lib.errors import FetchError, OfflineError, UnknownNameError, escape_lines, escape_text
from tasks_lib.session import current_session

#: Exit statuses: a task failed or content is missing; unknown name; nothing could run; Ctrl-C before anything ran.
FAILED: Final = 1
NOT_FOUND: Final = 2
NOTHING_RAN: Final = 3
INTERRUPTED: Final = 130

#: Packages whose plugins of doit leave no file open.
_OURS: Final = ("doit.", "tasks_lib.")

#: Option in doit's format.
QUIET: Final = flag("quiet", "show only warnings and failures; same as `-r quiet`", short="q")

#: Option in doit's format.
ON: Final = option("on", "fetch and repack on the workers of a Dask cluster, dask://HOST:PORT; they write to the store")

# untyped aliases of doit's classes: the parameters of each command's `_execute` are the names of its options
_RUN: Any = DoitRun
_LIST: Any = DoitList
_FORGET: Any = DoitForget
_CLEAN: Any = DoitClean


class TaskCommand(BaseCommand):
    """A command that accepts names, globs and paths of targets, and reports errors in a few lines."""

    name: str
    loader: Any
    params: Any
    sel_tasks: Any
    dep_manager: Any

    def __new__(cls, *words: Any, **named: Any) -> Any:
        """Create a command and freeze the objects loaded so far, so that no garbage collection scans them.

        This must not happen later: dodo.py is loaded next, and the final collection must still find the files that it
        leaves open.
        """
        del words, named
        gc.freeze()
        return super().__new__(cls)

    def get_backends(self) -> PluginTable:
        """Return doit's backends and ours."""
        return PluginTable.of_option(
            self.cmdparser["backend"], super().get_backends, {"doit-fetch": lambda: StateBackend}
        )

    def reporting(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which the command runs and reports."""
        return contextlib.nullcontext()

    def execute(self, params: Any, args: list[str]) -> int:
        """Execute the command; unknown names, closed pipes and Ctrl-C end it without a traceback."""
        self.params = params
        gc.disable()  # loaded objects live to the end: collecting among them takes a third of the time
        self.loader = Loader(self.loader, self.name)
        try:
            with self.reporting():
                status = int(super().execute(params, args) or 0)
        except FetchError as error:
            return _print_refusal(error)
        except InvalidCommand as error:
            if current_session() is None or error.not_found is None:
                raise
            return _print_refusal(self.loader.unknown(str(error.not_found)))
        except OSError as error:
            if error.filename is None or error.filename != params.get("outfile"):
                raise
            raise usage_error(format_write_error(error.filename, error)) from None
        except KeyboardInterrupt:
            return INTERRUPTED
        finally:
            gc.enable()  # the final collection closes files that dodo.py left open, which flushes their buffers
            if not (self.loader.has_own_names() or self._has_plugins()):
                gc.freeze()  # no object of a user is left to collect
            _restore_sigint()
        return status

    def _has_plugins(self) -> bool:
        """Return whether a reporter or the database of doit is not ours, and so may leave a file open."""
        loaded = [*self.reporters.imported] if isinstance(self, RunCommand) else []
        if self.dep_manager is not None:
            loaded.append(type(self.dep_manager.backend))
        return not all(one.__module__.startswith(_OURS) for one in loaded)


def _print_refusal(error: FetchError) -> int:
    """Print why nothing was done; return the matching exit status."""
    statuses = {UnknownNameError: NOT_FOUND, OfflineError: FAILED}
    sys.stderr.write(f"ERROR: {escape_lines(str(error))}\n")
    return statuses.get(type(error), NOTHING_RAN)


def _restore_sigint() -> None:
    """Restore the default action of SIGINT, so that Ctrl-C during interpreter exit does not print a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        with contextlib.suppress(ValueError):  # not the main thread: only that one handles signals
            signal.signal(signal.SIGINT, signal.SIG_DFL)


class RunCommand(TaskCommand, _RUN):  # type: ignore[misc]
    """`doit run`, also the default command of bare `doit`."""

    name = "run"
    cmd_options: Any = (*DoitRun.cmd_options, QUIET, OFFLINE, ON)

    def execute(self, params: Any, args: list[str]) -> int:
        """Run the tasks; return doit's exit status, or 128 + N after signal N."""
        from tasks_lib.engine.running import Running  # loads the runner and the reporters, which only `run` needs

        with Running(self, params) as self._running:
            return self._running.end(super().execute(params, args))

    def get_reporters(self) -> PluginTable:
        """Return doit's reporters and ours."""
        ours = {"fetch": lambda: self._running.reporter}
        return PluginTable.of_option(self.cmdparser["reporter"], super().get_reporters, ours)

    def reporting(self) -> contextlib.AbstractContextManager[None]:
        """Return a context that selects the reporter."""
        return self._running.reporting()

    @property
    def scope(self) -> str:
        """Which tasks a run without names loads: "stamp" when a matching snapshot may replace them, else "all"."""
        given = self.params._non_default_keys
        needs_all = (
            self.params["on"] or self.params["always"] or self.params["single"] or self.params["par_type"] == "process"
        )
        reporter = self.params["reporter"]
        is_default = "reporter" not in given and (reporter == "fetch" or hasattr(reporter, "standing"))
        accepts_summary = self.params["quiet"] or is_default
        tracks_forget = self.params["backend"] == "doit-fetch"  # other backends do not report forgotten tasks
        return "stamp" if tracks_forget and accepts_summary and not needs_all else "all"


class ListCommand(TaskCommand, _LIST):  # type: ignore[misc]
    """`doit list`."""

    name = "list"

    @property
    def scope(self) -> str:
        """Which tasks are loaded: "groups" when only groups are listed (no names, no `--all`), else "all"."""
        return "all" if self.params["subtasks"] or self.params["status"] else "groups"


class ForgetCommand(TaskCommand, _FORGET):  # type: ignore[misc]
    """`doit forget`; without names it forgets the default tasks, or all groups if there are no defaults."""

    name = "forget"

    def _execute(self, forget_sub: bool, forget_disable_default: bool, forget_all: bool) -> int:
        if not forget_all:
            self.sel_tasks = self.loader.selection(self.task_list, self.sel_tasks)
        super()._execute(forget_sub, forget_disable_default, forget_all)
        return 0


class CleanCommand(TaskCommand, _CLEAN):  # type: ignore[misc]
    """`doit clean`."""

    name = "clean"

    def execute(self, params: Any, args: list[str]) -> int:
        """Clean the selected tasks.

        Raises:
            InvalidCommand: a file cannot be removed; doit prints the message.
        """
        try:
            return super().execute(params, args)
        except OSError as error:
            if error.filename is None:
                raise
            message = f"cannot remove {escape_text(str(error.filename))}: {error.strerror}\ncheck its permissions"
            raise usage_error(message) from None

    def _execute(self, dryrun: bool, cleandep: bool, cleanall: bool, cleanforget: bool, pos_args: Any = None) -> int:
        if self.sel_tasks is not None and not cleanall:  # default tasks may contain unknown names
            self.sel_tasks = self.loader.selection(self.task_list, self.sel_tasks)
        super()._execute(dryrun, cleandep, cleanall, cleanforget, pos_args)
        return 0
