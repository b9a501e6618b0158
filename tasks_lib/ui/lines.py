"""The choice of a renderer, and the renderer for pipes and CI.

That one writes one flushed line per event, without control characters except the markers of the CI. It keeps doit's own
marks: `.  TASK` starts, `-- TASK` is up to date, `!! TASK` is ignored, `TaskFailed - taskid:TASK`.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from tasks_lib.errors import escape_text
from tasks_lib.named import NamedTuple
from tasks_lib.progress import describe_wait
from tasks_lib.ui.events import Event
from tasks_lib.ui.output import Output, OutputSettings, Renderer, escaped_lines, painted
from tasks_lib.ui.run_state import RunState, TaskRun, host_of
from tasks_lib.units import counted, format_duration, format_estimate, format_size

#: Maximum number of up-to-date tasks that are listed: ten thousand would hide other lines. The summary counts all.
MAX_UP_TO_DATE: Final = 100
#: Terminals that cannot move their cursor.
_DUMB: Final = frozenset({"", "dumb", "unknown"})
#: Events without a line, of which there are several for each task.
_UNSEEN: Final = frozenset({"advance", "done", "end"})
#: Seconds between two lines about a running task: CI services stop a job that writes nothing for ten minutes.
STILL_RUNNING_S: Final = 30.0


def create_renderer(kind: str, out: Output, state: RunState, output_settings: OutputSettings) -> Renderer:
    """Return a renderer; `kind` is "auto", "live", "lines" or "quiet"."""
    can_move = out.is_terminal and output_settings.terminal not in _DUMB
    automatic = "always" if can_move else "never"
    colour = automatic if output_settings.colour == "auto" else output_settings.colour
    if can_move and (kind == "live" or (kind == "auto" and not output_settings.ci)):
        from tasks_lib.ui.live import LiveRenderer  # rich is slow to import, needed only on a terminal

        return LiveRenderer(out, state, colour=colour)
    verbosity = "quiet" if kind == "quiet" else "all"
    return LinesRenderer(out, state, ci=output_settings.ci, colour=colour, verbosity=verbosity)


class LinesRenderer(Renderer):
    """Shows a run line by line; thread-safe."""

    interval_s = 1.0

    def __init__(self, out: Output, state: RunState, *, ci: str, colour: str, verbosity: str = "all") -> None:
        """Create a renderer.

        `ci` is "github", "gitlab" or anything else; `colour` is "always" or "never"; `verbosity` is "all", or "quiet"
        for warnings and failures only.
        """
        self._out, self._state, self._ci, self._colour, self._verbosity = out, state, ci, colour, verbosity
        self._lock = threading.Lock()
        self._named = 0
        self._open = False
        self._announced_s: dict[str, float] = {}

    def on_event(self, event: Event) -> None:
        """Write the line of an event of a running task."""
        if event.name in _UNSEEN or (event.name == "phase" and event.facts["phase"] != "wait"):
            return
        name, facts = escape_text(event.task), event.facts
        if event.name == "start":
            self._say(f".  {name}", "")
        elif event.name == "warn":
            if "role" in facts and self._verbosity == "all":
                return  # the last line of the task names the failed source
            self._say(f"{name}: {escape_text(str(facts['message']))}", "warn")
        elif event.name == "skip":
            self._say(f"{name}: skipped: {escape_text(str(facts['reason']))}", "warn")
        elif event.name == "phase" and facts["phase"] == "wait":
            self._say(f"{name}: {escape_text(_describe_retry(facts))}", "dim")

    def ended(self, name: str, outcome: str, fail: Any, kept: str) -> None:
        """Write how a task ended."""
        run = self._state.runs.get(name)
        if outcome == "failed":
            lines = [f"{fail.get_name()} - taskid:{escape_text(name)}", *escaped_lines(f"{fail.get_msg()}\n{kept}")]
            self._say("\n".join(lines) + "\n", "bad")
        elif outcome == "not-run":
            self._say(f"not run: {escape_text(name)}: it needs {escape_text(fail.message)}", "warn")
        elif run is not None and outcome != "skipped":
            self._say(f"ok {escape_text(name)}: {describe_success(run)}", "good")

    def passed(self, name: str, outcome: str) -> None:
        """Write the line of a task that does not run, as doit does."""
        if outcome == "up-to-date" and self._verbosity == "all":
            self._named += 1
            if self._named > MAX_UP_TO_DATE:
                return
            last = "" if self._named < MAX_UP_TO_DATE else "\n-- and more: see the summary for their number"
            self._say(f"-- {escape_text(name)}{last}", "dim")
        elif outcome == "ignored":
            self._say(f"!! {escape_text(name)}", "warn")

    def beat(self, now: float) -> None:
        """Write a line for each task that has been running for long, to show that it does not hang."""
        for run in self._state.active():
            if now - self._announced_s.setdefault(run.name, run.start_s) >= STILL_RUNNING_S:
                self._announced_s[run.name] = now
                self._say(f".. {escape_text(run.name)}: {describe_progress(run, now)}", "dim")

    def finish(self) -> None:
        """End the group of event lines and write the summary."""
        if self._open:
            self._write(self._group_end())
        quiet = self._verbosity == "quiet"
        totals = summarize_totals(self._state, time.monotonic())
        for line in summarize_store_problems(self._state) if quiet else totals:
            self._write(self._styled(line))
        for run, line in summarize_failures(self._state):
            text = "" if quiet else self._styled(line)
            self._write(text + (self._annotation(run) if self._ci == "github" else ""))
        for line in summarize_errors(self._state):
            self._write(self._styled(line))

    def _styled(self, line: SummaryLine) -> str:
        return painted(line.text, line.tone, self._colour) + "\n"

    def _say(self, text: str, tone: str) -> None:
        if self._verbosity == "quiet" and tone not in ("warn", "bad"):
            return
        shown = text
        if self._colour == "always":
            shown = "\n".join(painted(line, tone if line else "", self._colour) for line in text.split("\n"))
        with self._lock:
            if not self._open and self._ci in ("github", "gitlab") and self._verbosity == "all":
                self._open = True
                shown = self._group_begin() + shown
            self._write(shown + "\n")

    def _write(self, text: str) -> None:
        if text:
            self._out.write(text)

    def _group_begin(self) -> str:
        """Return the start of a group. Source: GitLab, "Custom collapsible sections"; GitHub, "Grouping log lines"."""
        if self._ci == "github":
            return "::group::doit\n"
        return f"\x1b[0Ksection_start:{int(time.time())}:doit\r\x1b[0Kdoit\n"

    def _group_end(self) -> str:
        return "::endgroup::\n" if self._ci == "github" else f"\x1b[0Ksection_end:{int(time.time())}:doit\r\x1b[0K\n"

    def _annotation(self, run: TaskRun) -> str:
        """Return an annotation of the definition. Source: GitHub, "Setting an error message"; toolkit's escapes."""
        place = str((getattr(self._state.tasks.get(run.name), "meta", None) or {}).get("defined", ""))
        file, _, line = place.rpartition(":")
        at = f"file={_escape_property(file)},line={line}," if file and line.isdigit() else ""
        text = "%0A".join(line.replace("%", "%25") for line in escaped_lines(run.message))
        return f"::error {at}title={_escape_property(escape_text(run.name))}::{text}\n"


def _escape_property(text: str) -> str:
    for character in "%:,":
        text = text.replace(character, f"%{ord(character):02X}")
    return escape_text(text)


def _describe_retry(facts: Mapping[str, str | int | float]) -> str:
    if "url" not in facts:
        return describe_wait("wait", facts) or "waiting"
    reason = f": {facts['reason']}" if facts.get("reason") else ""
    return f"retries {facts['url']} in {facts.get('seconds', 0)} s{reason}"


def describe_success(run: TaskRun) -> str:
    """Return the source of the bytes and the duration of a run that succeeded."""
    took = format_duration(run.end_s - run.start_s)
    source = run.source
    if run.outcome == "adopted":
        place = f"store {escape_text(source.store)}" if source is not None and source.store else "the cache"
        return f"adopted from {place} in {took}"
    if run.outcome != "fetched" or source is None:
        return f"in {took}"
    size = format_size(source.size + source.resumed)
    resumed = f" ({format_size(source.resumed)} resumed)" if source.resumed else ""
    mirror = "mirror " if any(one.role == "origin" for one in run.failed_sources) else ""
    place = f"store {source.store}" if source.store else f"{mirror}{source.url}"
    return f"{size}{resumed} from {escape_text(place)}{_describe_failed(run)} in {took}"


def _describe_failed(run: TaskRun) -> str:
    """Return the sources that failed before the last one, "" for none: ` (origin: connection refused)`."""
    shown = [
        f"{one.role}{'' if one.role == 'origin' else f' {host_of(one.url)}'}: {shorten_reason(one.reason)}"
        for one in run.failed_sources[:_SOURCES]
    ]
    more = len(run.failed_sources) - len(shown)
    shown += [f"and {counted(more, 'more source')}"] if more > 0 else []
    return f" ({escape_text('; '.join(shown))})" if shown else ""


def shorten_reason(reason: str) -> str:
    """Return at most a line's part of a reason."""
    return reason if len(reason) <= _REASON else f"{reason[: _REASON - 3]}..."


def describe_progress(run: TaskRun, now: float) -> str:
    """Return the state of a running task: phase, bytes, rate and time left, or phase and time elapsed."""
    phase = run.phase
    if phase is None or not phase.total:
        doing = phase.name if phase else "running"
        return f"{doing} for {format_duration(now - run.start_s)}"
    done, rate = phase.size + phase.resumed, run.rate(now)
    left = f", {format_estimate((phase.total - done) / rate)} left" if rate > 0 and done <= phase.total else ""
    return f"{phase.name}: {format_size(done)} of {format_size(phase.total)}, {format_size(rate)}/s{left}"


#: Maximum numbers of hosts, slow tasks and failures in the summary, and of failed sources in the line of a task; the
#: report and the event log have all.
_HOSTS: Final = 5
_SOURCES: Final = 3
#: Most lines about stores that could not be written to.
_PROBLEMS: Final = 5
#: Longest reason of a failed source in a line, in characters.
_REASON: Final = 80
_SLOWEST: Final = 3
_FAILURES: Final = 50
#: Seconds below which the summary of a run has no line about slow tasks.
_SLOW_S: Final = 1.0
#: Outcomes in the order of the summary, with their labels.
OUTCOMES: Final = {
    "failed": "failed",
    "stopped": "stopped",
    "fetched": "fetched",
    "adopted": "adopted",
    "made": "made",
    "skipped": "skipped",
    "up-to-date": "cached",
    "ignored": "ignored",
    "not-run": "not run",
}


class SummaryLine(NamedTuple):
    """One line of the summary, with its tone."""

    text: str
    tone: str = ""


def summarize_totals(state: RunState, now: float) -> list[SummaryLine]:
    """Return the totals: counts with bytes and time, the next step after a stop, hosts, slowest tasks."""
    if not state.counts:
        return []
    fetched = sum(run.fetched_bytes for run in state.ended("fetched"))
    counts = []
    for outcome, label in OUTCOMES.items():
        if number := state.counts[outcome]:
            counts.append(f"{number:,} {label}" + (f" ({format_size(fetched)})" if outcome == "fetched" else ""))
    idle = "" if state.runs or state.counts["failed"] else "nothing to do"
    failed = state.counts["failed"] or state.counts["stopped"]
    tone = "bad" if failed else "good"
    text = ": ".join(filter(None, (idle, ", ".join(counts))))
    lines = [SummaryLine(f"{text}; {format_duration(now - state.begun_s)}", tone)]
    if state.counts["stopped"]:
        lines.append(SummaryLine("  run again to continue; partial downloads are resumed where possible", "dim"))
    return [*lines, *_stores(state), *_hosts(state), *_failed_sources(state), *_slowest(state, now)]


def describe_stores(state: RunState) -> str:
    """Return what came from and went to shared stores: `104 from store H (51 MB), 2 from origin, pushed 2`."""
    stores, pushed = state.by_store(), state.pushed
    if not stores and not pushed.files:
        return ""
    words = [f"{files} from store {name} ({format_size(size)})" for name, (files, size) in stores.items()]
    fetched = sum(run.source is not None and not run.source.store for run in state.ended("fetched"))
    words += [f"{fetched} from origin"] if fetched else []
    words += [f"pushed {pushed.files}"] if pushed.files else []
    return ", ".join(words)


def _stores(state: RunState) -> list[SummaryLine]:
    words = describe_stores(state)
    lines = [SummaryLine(f"  {escape_text(words)}", "dim")] if words else []
    return lines + summarize_store_problems(state)


def summarize_store_problems(state: RunState) -> list[SummaryLine]:
    """Return what could not be written to the stores; with `store_write=always` it is the reason of exit status 1."""
    return [SummaryLine(f"  {problem}", "warn") for problem in state.pushed.problems[:_PROBLEMS]]


def _failed_sources(state: RunState) -> list[SummaryLine]:
    failed = state.by_failed_source()
    lines = []
    for (role, host), reasons in list(failed.items())[:_HOSTS]:
        reason = shorten_reason(Counter(reasons).most_common(1)[0][0])
        lines.append(
            SummaryLine(
                f"  {role} {escape_text(host)} failed for {counted(len(reasons), 'file')}: {escape_text(reason)}",
                "warn",
            )
        )
    if len(failed) > _HOSTS:
        lines.append(SummaryLine(f"  and {counted(len(failed) - _HOSTS, 'more failed source')}", "warn"))
    return lines


def _hosts(state: RunState) -> list[SummaryLine]:
    hosts = state.by_host()
    lines = []
    for host, (files, size, seconds) in list(hosts.items())[:_HOSTS]:
        rate = f", {format_size(size / seconds)}/s{' each' if files > 1 else ''}" if seconds > 0 else ""
        lines.append(
            SummaryLine(f"  from {escape_text(host)}: {counted(files, 'file')}, {format_size(size)}{rate}", "dim")
        )
    if len(hosts) > _HOSTS:
        lines.append(SummaryLine(f"  and {counted(len(hosts) - _HOSTS, 'more host')}", "dim"))
    return lines


def _slowest(state: RunState, now: float) -> list[SummaryLine]:
    if now - state.begun_s < _SLOW_S:
        return []
    runs = sorted(state.ended("fetched", "made", "failed"), key=lambda run: run.start_s - run.end_s)[:_SLOWEST]
    slowest = []
    for run in runs:
        source = f" from {escape_text(run.source.url)}" if run.source else ""
        slowest.append(f"{escape_text(run.name)} {format_duration(run.end_s - run.start_s)}{source}")
    return [SummaryLine(f"  slowest: {'; '.join(slowest)}", "dim")] if slowest else []


def summarize_failures(state: RunState) -> list[tuple[TaskRun, SummaryLine]]:
    """Return the failed tasks, each with its line of the summary; its message is in the lines above."""
    failed = list(state.ended("failed"))[:_FAILURES]
    return [(run, SummaryLine(f"failed: {escape_text(run.name)}", "bad")) for run in failed]


def summarize_errors(state: RunState) -> list[SummaryLine]:
    """Return the number of failures that the summary omits, and doit's own errors."""
    left = state.counts["failed"] - _FAILURES
    lines = [SummaryLine(f"and {counted(left, 'more failure')}; see the lines above", "bad")] if left > 0 else []
    return lines + [SummaryLine(line, "bad") for error in state.errors for line in escaped_lines(error)]
