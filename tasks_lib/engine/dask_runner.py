"""Run fetches and repacks on the workers of a Dask cluster: `doit run --on dask://HOST:PORT`.

This process selects the tasks, orders them in batches, and shows what the workers report. The workers keep the content
in their own caches and write it to the store, which is where other machines, and the next run, find it: nothing is
recorded in doit's database here. A batch of a worker that is lost runs again on another one, which finds in the store
what was finished.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError
from typing import Any, Final

from distributed import Client
from doit.exceptions import TaskFailed, UnmetDependency
from doit.runner import FAILURE, Runner

from tasks_lib import batch
from tasks_lib.definitions import Fetch
from tasks_lib.engine.signals import Interruption
from tasks_lib.errors import FetchError, SettingError, ToolError, escape_text
from tasks_lib.graph.actions import step_of
from tasks_lib.incremental.selection import needed, owner_of
from tasks_lib.session import Session
from tasks_lib.ui.events import BUS, Event

#: Batches in flight for each thread of the workers: one works, the next one waits.
_PER_THREAD: Final = 2
#: Seconds to wait for the scheduler at the start, and without an answer of it during the run.
_CONNECT_S: Final = 10.0
_SILENT_S: Final = 20.0
#: Seconds between two looks at signals and at the connection.
_LOOK_S: Final = 0.5
#: Packages whose loggers print tracebacks when a connection is lost.
_NOISY: Final = ("asyncio", "distributed", "tornado")

#: The task names and the content of a batch.
_Part = tuple[list[str], bytes]


class DaskRunner(Runner):
    """Runs the fetch and repack tasks of a run on the workers of a Dask cluster."""

    def __init__(self, *doit: Any, address: str, session: Session, interruption: Interruption) -> None:
        """Connect to the scheduler.

        Raises:
            SettingError: the address is invalid, the run is offline, or Dask is not installed.
            ToolError: the scheduler does not answer.
        """
        super().__init__(*doit[:5])  # type: ignore[no-untyped-call]  # the arguments after these are `-n`
        if session.settings.policy.network == "off":
            raise SettingError("--on needs the network, and the run is offline", hint="run without offline=1")
        self._session, self._interruption = session, interruption
        self._client = connect(address)
        self._address = address
        self._answered_s = time.monotonic()
        self._is_ending = False  # a task failed, and the others need not run
        self._is_waiting = False  # for a worker, and has said so
        self.stuck = 0

    def run_tasks(self, task_dispatcher: Any) -> None:
        """Run the selected tasks and what they need, until all are done, one failed without `-c`, or a signal arrived.

        Raises:
            ToolError: a task cannot run on another machine, a worker is not usable, or the scheduler is gone.
        """
        tasks = {task.name: task for task in needed(task_dispatcher.tasks, task_dispatcher.selected_tasks)}
        try:
            self._run(tasks, self._batches(tasks))
        finally:
            with contextlib.suppress(Exception):  # the scheduler may be gone
                self._client.close(timeout=2)

    def _batches(self, tasks: Mapping[str, Any]) -> Iterator[_Part]:
        """Yield the task names and the content of each batch."""
        fetches = {name: step_of(task) for name, task in tasks.items() if name.startswith("fetch:")}
        others = [name for name, task in tasks.items() if task.actions and owner_of(name)[0] != "fetch"]
        if others or any(step is None or not isinstance(step.arguments[1], Fetch) for step in fetches.values()):
            name = escape_text(next(iter(others), next(iter(fetches))))
            raise ToolError(f"{name}: only fetches and repacks run on other machines", hint=f"run `doit {name}` here")
        shared = batch.list_shared_files(self._session.settings)
        names = list(fetches)
        for at in range(0, len(names), batch.SIZE):
            part: dict[str, Fetch] = {}
            for name in names[at : at + batch.SIZE]:
                step = fetches[name]
                assert step is not None, "checked above"
                part[step.arguments[1].name] = step.arguments[1]
            repacked = [name for name in part if f"repack:{name}" in tasks]
            found = [*(f"fetch:{name}" for name in part), *(f"repack:{name}" for name in repacked)]
            yield found, batch.make_batch(part, repacked, self._session.context.written_headers, shared)

    def _run(self, tasks: Mapping[str, Any], batches: Iterator[_Part]) -> None:
        futures: dict[Any, list[str]] = {}
        has_more = True
        while True:
            if self._interruption.signal:
                self._client.cancel(list(futures))
                return
            while has_more and not self._is_ending and len(futures) < self._window():
                has_more = self._submit(next(batches, None), tasks, futures)
            if not futures:
                return
            future = self._next_done()
            self._check_connection()
            if future is not None:
                self._collect(future, futures.pop(future), tasks)
            else:
                self._explain_wait(next(iter(futures.values()))[0])

    def _next_done(self) -> Any:
        """Return a future that is done; None after a moment, or at once after a signal."""
        with contextlib.suppress(queue.Empty):
            return self._interruption.wake.get(timeout=_LOOK_S)

    def _window(self) -> int:
        """Return how many batches may be in flight."""
        return max(1, self._count_threads() or 0) * _PER_THREAD

    def _count_threads(self) -> int | None:
        """Return the number of the workers' threads, None while there is no connection."""
        if self._is_connected():
            with contextlib.suppress(OSError):  # the connection was lost just now
                return int(sum(self._client.nthreads().values()))
        return None

    def _explain_wait(self, task: str) -> None:
        """Say that there is no worker, once until one comes."""
        threads = self._count_threads()
        if threads is None:
            return
        if not threads and not self._is_waiting:
            message = f"waiting for a worker of {escape_text(self._address)}: start one with `dask worker`"
            BUS.say(task, "warn", {"message": message})
        self._is_waiting = not threads

    def _submit(
        self, part: tuple[list[str], bytes] | None, tasks: Mapping[str, Any], futures: dict[Any, list[str]]
    ) -> bool:
        """Submit a batch; return False if there is none left."""
        if part is None:
            return False
        for name in part[0]:
            self.reporter.get_status(tasks[name])
        future = self._client.submit(batch.run_batch, part[1], pure=False)
        futures[future] = part[0]
        future.add_done_callback(self._interruption.wake.put)
        return True

    def _is_connected(self) -> bool:
        return bool(self._client.status == "running")

    def _check_connection(self) -> None:
        if self._is_connected():
            self._answered_s = time.monotonic()
        elif time.monotonic() - self._answered_s > _SILENT_S:
            raise self._gone()

    def _gone(self) -> ToolError:
        return ToolError(
            f"the Dask scheduler at {escape_text(self._address)} does not answer any more",
            hint="start it, then run again: the store has what is finished",
        )

    def _collect(self, future: Any, names: list[str], tasks: Mapping[str, Any]) -> None:
        """Report what became of the tasks of a batch.

        Raises:
            ToolError: the scheduler is gone, and with it the result; or the worker is not usable.
        """
        try:
            error = future.exception()
            content = future.result() if error is None else b""
        except (CancelledError, OSError) as gone:
            raise self._gone() from gone
        if isinstance(error, CancelledError):
            raise self._gone()
        if isinstance(error, FetchError):
            raise ToolError(f"a worker of {escape_text(self._address)}: {error.message}", hint=error.hint)
        if error is not None:
            message = f"{type(error).__name__}: {escape_text(str(error))[:500]}"
            for name in names:
                self._fail(tasks[name], TaskFailed(message))  # type: ignore[no-untyped-call]  # doit has no types
            return
        result = batch.read_result(content)
        self._relay(result, names, tasks)
        for name in names:
            self._report(tasks[name], result.failed)

    def _relay(self, result: batch.BatchResult, names: list[str], tasks: Mapping[str, Any]) -> None:
        """Pass the events of a batch on, as if they happened just now in a thread with the name of the worker."""
        begun_s = time.monotonic() - result.seconds
        known = set(names)
        for note in result.notes:
            if note.task not in known:
                continue
            if note.name == "start":
                self.reporter.execute_task(tasks[note.task])
            else:
                BUS.relay(Event(note.task, note.name, begun_s + note.at_s, result.worker, note.facts))

    def _report(self, task: Any, failed: Mapping[str, str]) -> None:
        fetch = f"fetch:{owner_of(task.name)[1]}"
        if task.name in failed:
            self._fail(task, TaskFailed(failed[task.name]))  # type: ignore[no-untyped-call]
        elif fetch in failed:
            self._fail(task, UnmetDependency(fetch))  # type: ignore[no-untyped-call]
        else:
            self.reporter.add_success(task)

    def _fail(self, task: Any, fail: Any) -> None:
        self.reporter.add_failure(task, fail)
        if isinstance(fail, TaskFailed):
            self.final_result = max(self.final_result, FAILURE)
        if not self.continue_:
            self._is_ending = True


def connect(address: str) -> Any:
    """Return a client of the scheduler at `dask://HOST:PORT` or `tls://HOST:PORT`.

    For `tls` the certificates are those of Dask's own configuration. Source: Dask documentation, "TLS/SSL".

    Raises:
        SettingError: the address is invalid.
        ToolError: the scheduler does not answer.
    """
    scheme, separator, place = address.partition("://")
    if scheme not in ("dask", "tls") or not separator or ":" not in place or "@" in place:
        raise SettingError(
            f"invalid value {escape_text(address)!r} for --on", hint="write dask://HOST:PORT or tls://HOST:PORT"
        )
    for name in [name for name in logging.root.manager.loggerDict if name.split(".")[0] in _NOISY]:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    target = address if scheme == "tls" else f"tcp://{place}"
    try:
        return Client(target, timeout=_CONNECT_S, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TypeError) as error:
        reason = escape_text(str(error))[:200]
        certificates = ", or check distributed.comm.tls in Dask's configuration" if scheme == "tls" else ""
        raise ToolError(
            f"cannot reach the Dask scheduler at {escape_text(address)}: {reason}",
            hint=f"start it with `dask scheduler`, or check the address{certificates}",
        ) from error
