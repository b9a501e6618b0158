"""What `doit run` adds to doit's own: the pooled runner, the reporter, signals, and the check of offline runs."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from typing import TYPE_CHECKING, Any, Final, Self

from doit import cmd_run

from tasks_lib.engine.pools import Pools
from tasks_lib.engine.reporter import Reporter, shown
from tasks_lib.engine.runner import PooledRunner
from tasks_lib.engine.signals import Interruption, stop_children
from tasks_lib.errors import SettingError
from tasks_lib.session import current_session

if TYPE_CHECKING:
    from tasks_lib.engine.dask_runner import DaskRunner
    from tasks_lib.incremental.run_plan import RunPlan
    from tasks_lib.session import Session

#: The module in which `doit run` looks up its runners; doit has no types.
_DOIT: Any = cmd_run


class ProcessRunner(_DOIT.MRunner):  # type: ignore[misc]
    """doit's runner for `-P process`, with processes that inherit the tasks: an unpickled task cannot run.

    Source: doit 0.37, `Task.__getstate__`. Python 3.14 changed the default start method on Linux from fork to
    forkserver.
    """

    def run_tasks(self, task_dispatcher: Any) -> None:
        """Run all tasks; keep a start method that dodo.py has set."""
        if multiprocessing.get_start_method(allow_none=True) is None:
            multiprocessing.set_start_method("fork")
        super().run_tasks(task_dispatcher)


class Running:
    """Context in which the command `run` executes with the runners of this package instead of doit's."""

    #: The reporter of this package.
    reporter: Final = Reporter

    def __init__(self, command: Any, params: Any) -> None:
        self._command, self._params = command, params
        self._asked = params["num_process"] if "num_process" in params._non_default_keys else None
        self._interruption = Interruption()
        self._runners: list[PooledRunner | DaskRunner] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        threads, serial, processes = _DOIT.MThreadRunner, _DOIT.Runner, _DOIT.MRunner

        def restore() -> None:
            _DOIT.MThreadRunner, _DOIT.Runner, _DOIT.MRunner = threads, serial, processes

        self._stack.callback(restore)
        _DOIT.MRunner = ProcessRunner
        _DOIT.MThreadRunner = lambda *words: self._create_runner(threads, words)
        _DOIT.Runner = lambda *words: self._create_runner(serial, words)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def reporting(self) -> contextlib.AbstractContextManager[None]:
        """Return a context that selects the reporter."""
        return shown(self._params)

    def end(self, status: int) -> int:
        """Return the exit status: that of a signal if one stopped the run. Exit at once if a worker hangs."""
        if not self._interruption.signal or not self._runners:
            return status
        stop_children()
        if self._runners[0].stuck:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(self._interruption.status)
        return self._interruption.status

    def _create_runner(self, stock: Any, words: tuple[Any, ...]) -> Any:
        session, command = current_session(), self._command
        if session is None:
            return stock(*words)
        if self._params["on"]:
            return self._create_remote_runner(session, words)
        run_plan = command.loader.run_plan
        if session.settings.policy.network == "off" or session.settings.stores:
            self._prepare(session, run_plan)
        self._stack.enter_context(self._interruption.installed())
        pools = Pools.of(network=session.settings.jobs, asked=self._asked)
        runner = PooledRunner(*words, pools=pools, interruption=self._interruption, run_plan=run_plan)
        self._runners.append(runner)
        return runner

    def _prepare(self, session: Session, run_plan: RunPlan | None) -> None:
        """Refuse an offline run that lacks something; let the stores know what a run asks for."""
        from tasks_lib.engine import downloads  # loads the steps, which a no-op that uses no store does not need

        control = self._command.control
        selected = control.selected_tasks or ()
        if session.settings.policy.network == "off":
            downloads.refuse_missing(control.tasks, selected)
        if session.settings.stores and not (run_plan is not None and run_plan.is_noop):
            fleet = session.context.fleet  # a key that is not usable ends the run here, not each of its tasks
            if fleet is not None:
                fleet.expect(lambda: downloads.list_blobs(session.context, control.tasks, selected))

    def _create_remote_runner(self, session: Session, words: tuple[Any, ...]) -> DaskRunner:
        try:
            from tasks_lib.engine.dask_runner import DaskRunner  # an optional dependency
        except ImportError as error:
            raise SettingError("--on needs Dask", hint="pip install 'doit-fetch[dask]'") from error
        runner = DaskRunner(*words, address=self._params["on"], session=session, interruption=self._interruption)
        self._stack.enter_context(self._interruption.installed())
        self._runners.append(runner)
        return runner
