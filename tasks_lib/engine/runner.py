"""Run tasks in threads, with a limit for each class of task and a bounded look-ahead; losing no result at the end.

The main thread walks doit's graph, decides which tasks are up to date, and records results. Worker threads run actions
and check tasks with large files. A task names its class in `meta["pool"]`: `network` (downloads) or `cpu` (hashing,
compression, commands); all others share a third class. No exception of an action ends a worker. A signal only sets a
flag: running tasks are asked to stop, and the results of those that finish meanwhile are recorded.

Builds on doit 0.37: `Runner`, `TaskDispatcher._update_waiting`, `Dependency.get_status`; tests fail when they change.
"""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from typing import Any, Final

from doit.exceptions import BaseFail, InvalidDodoFile, TaskError, TaskFailed, UnmetDependency
from doit.runner import Runner

from tasks_lib.engine import slim_task
from tasks_lib.engine.checker import LARGE_FILE_SIZE
from tasks_lib.engine.pools import Pools
from tasks_lib.engine.signals import Interruption
from tasks_lib.engine.stdio import thread_local_stdio
from tasks_lib.errors import escape_text
from tasks_lib.gil import give_up, kept, released, run_alone
from tasks_lib.incremental.run_plan import RunPlan, finish_run
from tasks_lib.incremental.selection import needed
from tasks_lib.incremental.snapshot import SnapshotRow
from tasks_lib.session import current_session
from tasks_lib.ui.events import BUS
from tasks_lib.ui.run_state import Pushed

#: Ready tasks that are always prepared, and the maximum while a class of workers is idle.
_AHEAD: Final = 64
_MOST_AHEAD: Final = 4096
#: Nodes taken from doit's graph before finished tasks are collected.
_PULLS: Final = 32
#: Number of tasks above which the garbage collector skips them during the run.
_MANY: Final = 1000
#: Seconds that tasks have to stop after a signal; with saving and exit the total stays below two.
_DRAIN_S: Final = 1.2
#: Seconds for which the main thread yields the interpreter to busy workers: the time of a task or two.
_PAUSE_S: Final = 0.002
#: Seconds after which the main thread looks for a signal that did not wake it: one that came between its last look and
#: its wait, or one that another thread received. Source: CPython, `signal`, execution of Python signal handlers.
_SIGNAL_S: Final = 0.5

#: The classes for which the runner looks further ahead when their workers are idle.
_POOLS: Final = ("network", "cpu")
_CHECK: Final = "check"
_RUN: Final = "run"
_DROP: Final = "drop"


class _Workers:
    """The threads of one class, which take their work from `jobs`."""

    def __init__(self, pool: str) -> None:
        self.pool = pool
        self.jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.threads: list[threading.Thread] = []

    def next_job(self) -> Any:
        """Wait for a job; None to end the thread."""
        with contextlib.suppress(queue.Empty):
            return self.jobs.get(block=False)
        give_up()
        return self.jobs.get()


class PooledRunner(Runner):
    """Runs tasks in threads, with a limit for each class."""

    def __init__(self, *doit: Any, pools: Pools, interruption: Interruption, run_plan: RunPlan | None = None) -> None:
        super().__init__(*doit[:5])  # type: ignore[no-untyped-call]  # the arguments after these are `-n`, see `Pools`
        self._pools, self._interruption, self._run_plan = pools, interruption, run_plan
        self._done = interruption.wake
        self._ready: dict[str, deque[Any]] = defaultdict(deque)
        self._running: Counter[str] = Counter()
        self._workers: dict[str, _Workers] = {}
        self._statuses: dict[str, Any] = {}
        self._rows: dict[str, SnapshotRow | None] = {}
        self._tasks: Mapping[str, Any] = {}
        self._check: Any = None
        self._selected: list[str] = []
        self._held: dict[str, deque[Any]] = defaultdict(deque)  # nodes to check once the task of that name is done
        self._free: deque[Any] = deque()  # nodes whose setup task is done
        self._ending = False  # a task failed; the main thread may not have seen it yet
        self.stuck = 0

    def run_tasks(self, task_dispatcher: Any) -> None:
        """Run all tasks; return when all are done, one failed without `-c`, or a signal arrived.

        Raises:
            InvalidDodoFile: tasks wait for each other, or no thread can be started.
        """
        if len(task_dispatcher.tasks) > _MANY:
            gc.freeze()
        gc.enable()
        self._tasks = task_dispatcher.tasks
        self._selected = task_dispatcher.selected_tasks
        if self._run_plan is not None:
            self.reporter.standing(self._run_plan.up_to_date, self._run_plan.notes)
        self._check = self.dep_manager.get_status
        self.dep_manager.get_status = lambda task, *rest, **more: (
            self._statuses.pop(task.name, None) or self._check(task, *rest, **more)
        )  # a status that a worker determined wins
        try:
            with thread_local_stdio(), run_alone:  # this thread also makes many short system calls
                self._loop(task_dispatcher)
        finally:
            self.dep_manager.get_status = self._check
            self._end_workers()

    def _end_workers(self) -> None:
        """End the threads, and wait for them; a task that hangs keeps its thread.

        A thread that still runs when the interpreter ends keeps the namespace of dodo.py, and a file that dodo.py left
        open is then closed without a flush.
        """
        for workers in self._workers.values():
            for _ in workers.threads:
                workers.jobs.put(None)
        for workers in self._workers.values() if not self._busy() else ():
            for thread in workers.threads:
                thread.join()

    def _loop(self, dispatcher: Any) -> None:
        more: bool | None = True
        while not self._interruption.signal:
            if self._stop_running:
                self._ready.clear()
            else:
                more = self._pull(dispatcher)
            self._feed()
            if not self._busy():
                if self._stop_running or more is None:
                    return
                if not more and self._held:  # they wait for tasks that wait for them
                    self._begin(dispatcher, self._held_longest())
                elif not more and not any(self._ready.values()):
                    raise InvalidDodoFile("tasks wait for each other: `doit list --all --deps` shows the dependencies")
                continue
            with contextlib.suppress(queue.Empty):
                hungry = more and self._hungry()
                self._collect(dispatcher, self._done.get(block=False) if hungry else self._next_done())
        self._drain(dispatcher)

    def _next_done(self) -> Any:
        """Wait for a worker; while all have a next task, pause briefly so that several results arrive together.

        Raises:
            queue.Empty: no task is done yet; check for a signal.
        """
        with contextlib.suppress(queue.Empty):
            return self._done.get(block=False)
        with released:
            if self._pools.are_full(self._running):
                time.sleep(_PAUSE_S)
            return self._done.get(timeout=_SIGNAL_S)

    def _busy(self) -> int:
        return sum(self._running.values())

    # --- from the graph to the queues

    def _hungry(self) -> bool:
        """Whether to take more tasks from the graph."""
        ready = sum(map(len, self._ready.values()))
        if self._pools.total == 1:  # strictly sequential: the check of a task sees the files of the one before
            return not (ready or self._busy())
        if ready < _AHEAD:
            return True
        idle = any(not self._ready[pool] and self._running[pool] < self._pools.limit(pool) for pool in _POOLS)
        return idle and ready < _MOST_AHEAD

    def _pull(self, dispatcher: Any) -> bool | None:
        """Take nodes from the graph; return whether more may be ready now, None when none are left."""
        for _ in range(_PULLS):
            if self._stop_running or not self._hungry():
                return True
            try:
                node = self._free.popleft() if self._free else next(dispatcher.generator)
            except StopIteration:
                return None
            if node == "hold on":
                return False
            if name := _setup_of(dispatcher, node):
                self._held[name].append(node)
            else:
                self._begin(dispatcher, node)
        return True

    def _held_longest(self) -> Any:
        name = next(iter(self._held))
        node = self._held[name].popleft()
        if not self._held[name]:
            del self._held[name]
        return node

    def _begin(self, dispatcher: Any, node: Any) -> None:
        if node.run_status is None and self._is_known(node.task) and self._is_large(node.task):
            self._ready["cpu"].append((_CHECK, node))
            self._feed()
        else:
            self._select(dispatcher, node)

    def _is_known(self, task: Any) -> bool:
        """Whether doit has a record of its success; without one, our tasks run whatever the state of their files."""
        return not isinstance(task, slim_task.SlimTask) or bool(self.dep_manager.backend.in_(task.name))

    def _is_large(self, task: Any) -> bool:
        size = 0
        for path in (*task.file_dep, *task.targets):
            try:
                size += os.stat(path).st_size  # noqa: PTH116  # ten thousands of them: a Path costs more than the call
            except OSError:
                return False
        return size >= LARGE_FILE_SIZE

    def _select(self, dispatcher: Any, node: Any) -> None:
        row = self._rows.pop(node.task.name, None) or self._look(node.task)
        selected = self.select_task(node, dispatcher.tasks)  # type: ignore[no-untyped-call]
        if node.run_status == "up-to-date" and self._run_plan is not None:
            self._run_plan.note_up_to_date(node.task, row)
        if selected:
            pool = (node.task.meta or {}).get("pool", "")
            self._ready[pool].append((_RUN, node))
            self._feed()
        else:
            self._wake(dispatcher, node)

    def _wake(self, dispatcher: Any, node: Any) -> None:
        _wake(dispatcher, node)
        if node.run_status != "run":
            self._free.extend(self._held.pop(node.task.name, ()))

    def _look(self, task: Any) -> SnapshotRow | None:
        """Return the state of a task's files before the check, for the snapshot."""
        return self._run_plan.look(task) if self._run_plan is not None and self._is_known(task) else None

    # --- from the queues to the workers

    def _feed(self) -> None:
        """Start every task that may start; tasks that work on local files go before downloads."""
        for pool in sorted(self._ready, key=lambda one: one == "network"):
            jobs = self._ready[pool]
            while jobs and self._pools.has_room(pool, self._running):
                self._start(pool, jobs.popleft())

    def _start(self, pool: str, job: tuple[str, Any]) -> None:
        workers = self._workers.get(pool)
        if workers is None:
            workers = self._workers[pool] = _Workers(pool)
        self._running[pool] += 1
        if len(workers.threads) < min(self._running[pool], self._pools.limit(pool)):
            name = f"{pool or 'task'}-{len(workers.threads) + 1}"
            work = self._work_in_turns if pool == "network" else self._work
            thread = threading.Thread(target=work, args=(workers,), name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the limit of processes, or no memory: the threads that run do the rest
                if not workers.threads:
                    raise InvalidDodoFile("cannot start a thread\nraise the limit of processes (`ulimit -u`)") from None
            else:
                workers.threads.append(thread)
        workers.jobs.put(job)

    def _work_in_turns(self, workers: _Workers) -> None:
        """As `_work`, for tasks that end with `run_alone`: the next one continues in the same turn."""
        with kept:
            self._work(workers)

    def _work(self, workers: _Workers) -> None:
        while (job := workers.next_job()) is not None:
            kind, node = job
            if self._ending or self._stop_running or self._interruption.signal:
                self._done.put((_DROP, workers.pool, node, None))
                continue
            fail = None
            try:
                if kind == _CHECK:
                    self._rows[node.task.name] = self._look(node.task)
                    self._statuses[node.task.name] = self._check(node.task, self._tasks)
                else:
                    fail = self._executed(node.task)
            except BaseException as error:  # also SystemExit: the task fails, the worker goes on
                if kind == _RUN:
                    fail = TaskError(f"{type(error).__name__} in an action", error)  # type: ignore[no-untyped-call]
            if kind == _RUN:
                BUS.say(node.task.name, "done", {})
            if fail is not None and not self.continue_:
                self._ending = True
            self._done.put((kind, workers.pool, node, fail))

    def _executed(self, task: Any) -> BaseFail | None:
        fail: BaseFail | None = self.execute_task(task)  # type: ignore[no-untyped-call]
        prime = getattr(self.dep_manager.checker, "prime", None)  # a dodo.py may set another checker
        if fail is None and prime is not None:
            for path in task.file_dep:
                prime(path)
        return fail

    # --- from the workers to the database

    def _collect(self, dispatcher: Any, done: tuple[str, str, Any, Any] | None) -> None:
        if done is None:  # a signal
            return
        kind, pool, node, fail = done
        self._running[pool] -= 1
        if kind == _DROP:
            return
        if kind == _CHECK:
            if not (self._stop_running or self._interruption.signal):
                self._select(dispatcher, node)
            return
        if fail is not None and self._interruption.signal and _was_cancelled(fail):
            return  # asked to stop: neither failed nor known to be done
        self._record(node, fail)
        self._wake(dispatcher, node)

    def _record(self, node: Any, fail: Any) -> None:
        try:
            self.process_task_result(node, fail)  # type: ignore[no-untyped-call]
        except OSError as error:  # doit reads dependencies and handles only missing ones
            if error.filename is None:
                raise
            path = escape_text(str(error.filename))
            text = f"{path} cannot be read: {error.strerror}\ncheck its permissions and run again"
            self._handle_task_error(node, TaskFailed(text))  # type: ignore[no-untyped-call]
        if node.run_status == "successful":
            if self._run_plan is not None:
                self._run_plan.note_made(node.task)
            if isinstance(node.task, slim_task.SlimTask):
                node.task.release()
                if self._run_plan is None:  # else `settle` checks it again
                    node.task.release_checks()

    def _handle_task_error(self, node: Any, base_fail: BaseFail) -> None:
        """Count a failure; a task that did not run leaves the exit status to the failed task that it needs."""
        before = self.final_result
        super()._handle_task_error(node, base_fail)  # type: ignore[no-untyped-call]
        if isinstance(base_fail, UnmetDependency):
            self.final_result = before

    def finish(self) -> int:
        """Save and report; then write the snapshot for the next run, unless a signal asks for the end now."""
        plan, backend = self._run_plan, self.dep_manager.backend
        if plan is not None and self._interruption.signal:
            plan = None
        if plan is not None:
            backend.save()  # while the files that the last task made become old enough
            plan.settle()
        saved = plan is not None and backend.save()
        self.final_result = max(self.final_result, finish_uploads(self.reporter, self._interruption))
        status = int(super().finish())  # type: ignore[no-untyped-call]
        if plan is not None and saved:
            requested = (task.name for task in needed(self._tasks, self._selected) if task.actions)
            finish_run(plan, backend.name, requested)
        if len(self._tasks) > _MANY:
            gc.unfreeze()
        return status

    def _drain(self, dispatcher: Any) -> None:
        """Record tasks that finish within a moment; a second signal ends the wait."""
        self._ready.clear()
        ends = time.monotonic() + _DRAIN_S
        while self._busy() and self._interruption.times < 2 and (left := ends - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                with released:
                    done = self._done.get(timeout=left)
                self._collect(dispatcher, done)
        self.stuck = self._busy()


def finish_uploads(reporter: Any, interruption: Interruption) -> int:
    """Wait for what is being written to the stores, and let the reporter say what became of it.

    Return the exit status that it asks for: 1 if a store refused a run that must write (`store_write=always`).
    """
    session = current_session()
    fleet = session.opened_fleet if session is not None else None
    if session is None or fleet is None or fleet.uploads is None:
        return 0
    with released:
        fleet.finish(lambda: not interruption.signal, BUS.progress("doit").warn)
    report = getattr(reporter, "stores", None)  # a dodo.py may set another reporter
    if report is not None:
        counts = fleet.counts
        report(Pushed(counts.pushed, counts.pushed_bytes, tuple(counts.problems)))
    return int(fleet.was_refused and session.settings.store_write == "always")


def _setup_of(dispatcher: Any, node: Any) -> str:
    """Return which of the tasks that set one up is still to be done and goes before it, "" for none.

    It may depend on the value of that. doit waits for it only once the task is to run; one by one, what was selected
    before is done by then.
    """
    if node.run_status is not None:
        return ""
    setup = ((name, dispatcher.nodes.get(name)) for name in node.task.setup_tasks)
    return next((name for name, one in setup if one is not None and one.run_status in (None, "run")), "")


def _wake(dispatcher: Any, node: Any) -> None:
    """Let doit know that a node is done, or was looked at; what waited for it goes before what nobody waited for.

    doit puts it behind all that is ready: behind the downloads of a whole group, however early its own was done. And it
    would wait for ever for one that is both its `calc_dep` and its `task_dep`, since doit then clears one of the two.
    """
    for waiting_node in node.waiting_me if node.run_status != "run" else ():
        if node.task.name in waiting_node.wait_run_calc:
            waiting_node.wait_run.discard(node.task.name)
    before = len(dispatcher.ready)
    dispatcher._update_waiting(node)
    for _ in range(len(dispatcher.ready) - before):
        dispatcher.ready.appendleft(dispatcher.ready.pop())
    if node.run_status != "run":  # it was only looked at, and comes again once its setup tasks are done
        slim_task.release_node(node)


def _was_cancelled(fail: Any) -> bool:
    """Whether a task ended because it was asked to, and not for a fault of its own."""
    last = fail.traceback[-1] if fail.traceback else ""
    return not fail.report or last.startswith("tasks_lib.errors.CancelledError")
