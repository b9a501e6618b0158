"""doit's commands, as they are here: `run` with the pooled runner.

Registered by entry points of the installed package, so that they hold from every directory and with `-f`. For a
`dodo.py` that has nothing of ours they are doit's own.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from doit import cmd_run

from tasks_lib.errors import OfflineError
from tasks_lib.graph.offline import refuse_missing
from tasks_lib.graph.reporter.asked import QUIET, shown
from tasks_lib.graph.runner import Interruption, PooledRunner, Pools, stop_children

#: Where `doit run` looks for its runners; doit has no types.
_DOIT: Any = cmd_run


def house() -> Any:
    """Return what the porch built, None when no dodo.py asked for it."""
    porch = sys.modules.get("tasks_lib.graph.porch")
    return getattr(porch, "HOUSE", None)


class Run(cmd_run.Run):
    """`doit run`, and so bare `doit`."""

    name = "run"
    cmd_options: Any = (*cmd_run.Run.cmd_options, QUIET)

    def execute(self, params: Any, args: list[str]) -> int:
        """Run; the exit status is doit's, or 128 + N after signal N."""
        self._asked = params["num_process"] if "num_process" in params._non_default_keys else None
        self._interruption = Interruption()
        with contextlib.ExitStack() as self._stack:
            self._replace_runner()
            try:
                with shown(params):
                    status = int(super().execute(params, args) or 0)  # type: ignore[no-untyped-call]
            except OfflineError as error:
                sys.stderr.write(f"ERROR: offline: {error}\n")
                status = 1
            except KeyboardInterrupt:  # while the tasks were loaded: nothing ran
                return 130
            if self._interruption.signal:
                return self._ended(self._interruption.status)
        return status

    def _replace_runner(self) -> None:
        """Let doit make our runner instead of its own, but for `-P process`."""
        threads, serial = _DOIT.MThreadRunner, _DOIT.Runner

        def restore() -> None:
            _DOIT.MThreadRunner, _DOIT.Runner = threads, serial

        self._stack.callback(restore)
        _DOIT.MThreadRunner = lambda *words: self._runner(threads, words)
        _DOIT.Runner = lambda *words: self._runner(serial, words)

    def _runner(self, stock: Any, words: tuple[Any, ...]) -> Any:
        found = house()
        if found is None:
            return stock(*words)
        if found.settings.policy.network == "off":
            refuse_missing(self.control.tasks, self.control.selected_tasks or ())
        self._stack.enter_context(self._interruption.installed())
        pools = Pools.of(network=found.settings.jobs, asked=self._asked)
        self._made = PooledRunner(*words, pools=pools, interruption=self._interruption)
        return self._made

    def _ended(self, status: int) -> int:
        """Leave nothing running that was started here; a worker that hangs cannot hold the process."""
        stop_children()
        if self._made.stuck:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        return status
