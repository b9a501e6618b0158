"""doit's commands, as they are here: names, globs and paths for all of them, the pooled runner for `run`.

Registered by entry points of the installed package, so that they hold from every directory and with `-f`. For a
`dodo.py` that has nothing of ours they are doit's own.
"""

from __future__ import annotations

import contextlib
import gc
import getopt
import multiprocessing
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, Final

from doit import cmd_run
from doit.cmd_clean import Clean as DoitClean
from doit.cmd_forget import Forget as DoitForget
from doit.cmd_list import List as DoitList
from doit.exceptions import InvalidCommand

from tasks_lib.engine.base_command import BaseCommand, report_closed_output
from tasks_lib.engine.loader import Loader
from tasks_lib.errors import FetchError, OfflineError, escaped
from tasks_lib.graph.names import UnknownNameError
from tasks_lib.session import current_session

if TYPE_CHECKING:
    from tasks_lib.engine.runner import PooledRunner

#: Exit statuses: a task failed, or something is missing; nothing is called so; nothing could run; Ctrl-C before
#: anything ran.
FAILED: Final = 1
NOT_FOUND: Final = 2
NOTHING_RAN: Final = 3
INTERRUPTED: Final = 130

#: Where `doit run` looks for its runners; doit has no types.
_DOIT: Any = cmd_run


#: An option of doit's own kind.
QUIET: Final = {
    "name": "quiet",
    "short": "q",
    "long": "quiet",
    "type": bool,
    "default": False,
    "help": "tell warnings and failures only; the same as `-r quiet`",
}

# doit's classes as something without types: each command's `_execute` takes what its own options are called
_LIST: Any = DoitList
_FORGET: Any = DoitForget
_CLEAN: Any = DoitClean


class Named(BaseCommand):
    """A command that takes names, globs and paths of targets, and says what is wrong in a line."""

    loader: Any
    params: Any
    sel_tasks: Any

    def __new__(cls, *words: Any, **named: Any) -> Any:
        """Make a command; what is loaded by now stays: no look for garbage needs to go through it, at the end least.

        Not later: dodo.py is loaded next, and what that leaves open is found at the end only if it is looked at.
        """
        del words, named
        gc.freeze()
        return super().__new__(cls)

    def parse_execute(self, in_args: list[str]) -> int:
        """Execute what was written; options may stand after names too."""
        if not self.execute_tasks:  # words after the name of a task that runs may be options of that task
            with contextlib.suppress(getopt.GetoptError):
                parser = self.cmdparser
                options, words = getopt.gnu_getopt(in_args, parser.get_short(), parser.get_long())
                in_args = [word for option in options for word in option if word] + words
        return int(super().parse_execute(in_args))

    def telling(self) -> contextlib.AbstractContextManager[None]:
        """Prepare for telling what happens."""
        return contextlib.nullcontext()

    def execute(self, params: Any, args: list[str]) -> int:
        """Execute; a word that means nothing, a closed pipe and Ctrl-C end without a traceback."""
        self.params = params
        gc.disable()  # what is loaded stays: looking for garbage in it costs a third of the time
        self.loader = Loader(self.loader)
        try:
            with self.telling():
                status = int(super().execute(params, args) or 0)
        except FetchError as error:
            return _refused(error)
        except InvalidCommand as error:
            if current_session() is None or error.not_found is None:
                raise
            return _refused(self.loader.unknown(str(error.not_found)))
        except OSError as error:
            if error.filename is None or error.filename != params.get("outfile"):
                raise
            raise InvalidCommand(report_closed_output(error.filename, error)) from None  # type: ignore[no-untyped-call]
        except KeyboardInterrupt:
            return INTERRUPTED
        finally:
            gc.enable()  # what a dodo.py left open is found by the last look, and its buffers are written
            _let_signals_end_us()
        return status


def _refused(error: FetchError) -> int:
    """Tell why nothing was done, and return the exit status that says so."""
    statuses = {UnknownNameError: NOT_FOUND, OfflineError: FAILED}
    sys.stderr.write(f"ERROR: {error}\n")
    return statuses.get(type(error), NOTHING_RAN)


def _let_signals_end_us() -> None:
    """Nothing is left to do but to leave: Ctrl-C now is an end by signal, not a traceback out of Python's own exit."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        with contextlib.suppress(ValueError):  # not the main thread, to which no signal comes
            signal.signal(signal.SIGINT, signal.SIG_DFL)


class ProcessRunner(_DOIT.MRunner):  # type: ignore[misc]
    """doit's runner of `-P process`, whose processes inherit the tasks: what pickle leaves of a task cannot run.

    Source: doit 0.37, `Task.__getstate__`. Python 3.14 changed the default of Linux from fork to forkserver.
    """

    def run_tasks(self, task_dispatcher: Any) -> None:
        """Run everything; a start method that dodo.py chose stays."""
        if multiprocessing.get_start_method(allow_none=True) is None:
            multiprocessing.set_start_method("fork")
        super().run_tasks(task_dispatcher)


class RunCommand(Named, _DOIT.Run):  # type: ignore[misc]
    """`doit run`, and so bare `doit`."""

    name = "run"
    cmd_options: Any = (*cmd_run.Run.cmd_options, QUIET)

    def execute(self, params: Any, args: list[str]) -> int:
        """Run; the exit status is doit's, or 128 + N after signal N."""
        from tasks_lib.engine.signals import Interruption  # what runs is loaded to run

        self._asked = params["num_process"] if "num_process" in params._non_default_keys else None
        self._interruption = Interruption()
        self._runners: list[PooledRunner] = []
        with contextlib.ExitStack() as self._stack:
            self._replace_runner()
            status = super().execute(params, args)
            if self._interruption.signal and self._runners:
                return self._ended(self._runners[0].stuck, self._interruption.status)
        return status

    def telling(self) -> contextlib.AbstractContextManager[None]:
        """Choose the reporter."""
        from tasks_lib.cli.json_fallback import shown

        return shown(self.params)

    @property
    def scope(self) -> str:
        """What a run without names loads: "stamp" when an answer without every single task is one."""
        given = self.params._non_default_keys
        whole = self.params["always"] or self.params["single"] or self.params["par_type"] == "process"
        reporter = self.params["reporter"]
        told = "reporter" not in given and (reporter == "fetch" or hasattr(reporter, "standing"))
        ours = self.params["quiet"] or told
        known = self.params["backend"] == "doit-fetch"  # another one does not say what was forgotten
        return "stamp" if known and ours and not whole else "all"

    def _replace_runner(self) -> None:
        """Let doit make our runners instead of its own."""
        threads, serial, processes = _DOIT.MThreadRunner, _DOIT.Runner, _DOIT.MRunner

        def restore() -> None:
            _DOIT.MThreadRunner, _DOIT.Runner, _DOIT.MRunner = threads, serial, processes

        self._stack.callback(restore)
        _DOIT.MRunner = ProcessRunner
        _DOIT.MThreadRunner = lambda *words: self._runner(threads, words)
        _DOIT.Runner = lambda *words: self._runner(serial, words)

    def _runner(self, stock: Any, words: tuple[Any, ...]) -> Any:
        found = current_session()
        if found is None:
            return stock(*words)
        from tasks_lib.engine.pools import Pools
        from tasks_lib.engine.runner import PooledRunner

        if found.settings.policy.network == "off":
            from tasks_lib.engine.offline import refuse_missing

            refuse_missing(self.control.tasks, self.control.selected_tasks or ())
        self._stack.enter_context(self._interruption.installed())
        pools = Pools.of(network=found.settings.jobs, asked=self._asked)
        runner = PooledRunner(*words, pools=pools, interruption=self._interruption, run_plan=self.loader.run_plan)
        self._runners.append(runner)
        return runner

    def _ended(self, stuck: int, status: int) -> int:
        """Leave nothing running that was started here; a worker that hangs cannot hold the process."""
        from tasks_lib.engine.signals import stop_children

        stop_children()
        if stuck:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)
        return status


class ListCommand(Named, _LIST):  # type: ignore[misc]
    """`doit list`."""

    name = "list"

    @property
    def scope(self) -> str:
        """Without names and `--all` only groups are shown, so only groups are loaded."""
        return "all" if self.params["subtasks"] or self.params["status"] else "groups"


class ForgetCommand(Named, _FORGET):  # type: ignore[misc]
    """`doit forget`; without names the default tasks, or all groups when there are no defaults."""

    name = "forget"

    def _execute(self, forget_sub: bool, forget_disable_default: bool, forget_all: bool) -> int:
        if not forget_all:
            self.sel_tasks = self.loader.selection(self.task_list, self.sel_tasks)
        super()._execute(forget_sub, forget_disable_default, forget_all)
        return 0


class CleanCommand(Named, _CLEAN):  # type: ignore[misc]
    """`doit clean`."""

    name = "clean"

    def execute(self, params: Any, args: list[str]) -> int:
        """Clean.

        Raises:
            InvalidCommand: a file cannot be removed; doit prints it.
        """
        try:
            return super().execute(params, args)
        except OSError as error:
            if error.filename is None:
                raise
            told = f"{escaped(str(error.filename))} cannot be removed: {error.strerror}\ncheck its permissions"
            raise InvalidCommand(told) from None  # type: ignore[no-untyped-call]

    def _execute(self, dryrun: bool, cleandep: bool, cleanall: bool, cleanforget: bool, pos_args: Any = None) -> int:
        if self.sel_tasks is not None and not cleanall:  # default tasks, which may name nothing
            self.sel_tasks = self.loader.selection(self.task_list, self.sel_tasks)
        super()._execute(dryrun, cleandep, cleanall, cleanforget, pos_args)
        return 0
