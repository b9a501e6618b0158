"""The end of a run in a few lines: what became of the tasks, where the bytes came from, every failure once more."""

from __future__ import annotations

from typing import Final, NamedTuple

from tasks_lib.errors import escaped
from tasks_lib.graph.reporter.ledger import Ledger, TaskRun
from tasks_lib.graph.reporter.words import counted, escaped_lines
from tasks_lib.units import format_duration, format_size

#: Hosts, slow tasks and failures that the summary names; the page and the event log have all.
_HOSTS: Final = 5
_SLOWEST: Final = 3
_FAILURES: Final = 50
#: A run shorter than this has no slow sources worth a line.
_SLOW_S: Final = 1.0
#: Outcomes in the order in which they are told, with their words.
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


class Line(NamedTuple):
    """One line and its tone."""

    text: str
    tone: str = ""


def totals(ledger: Ledger, now: float) -> list[Line]:
    """Return the counts with bytes and time, the next step after a stop, the hosts that gave bytes, what took long."""
    if not ledger.counts:
        return []
    fetched = sum(run.fetched_bytes for run in ledger.ended("fetched"))
    told = []
    for outcome, words in OUTCOMES.items():
        if number := ledger.counts[outcome]:
            told.append(f"{number:,} {words}" + (f" ({format_size(fetched)})" if outcome == "fetched" else ""))
    idle = "" if ledger.runs or ledger.counts["failed"] else "nothing to do"
    failed = ledger.counts["failed"] or ledger.counts["stopped"]
    tone = "bad" if failed else "good"
    said = ": ".join(filter(None, (idle, ", ".join(told))))
    lines = [Line(f"{said}; {format_duration(now - ledger.begun_s)}", tone)]
    if ledger.counts["stopped"]:
        lines.append(Line("  run again to go on; of a download that can be resumed only the rest is fetched", "dim"))
    return [*lines, *_hosts(ledger), *_slowest(ledger, now)]


def _hosts(ledger: Ledger) -> list[Line]:
    hosts = ledger.by_host()
    lines = []
    for host, (files, size, seconds) in list(hosts.items())[:_HOSTS]:
        rate = f", {format_size(size / seconds)}/s{' each' if files > 1 else ''}" if seconds > 0 else ""
        lines.append(Line(f"  from {escaped(host)}: {counted(files, 'file')}, {format_size(size)}{rate}", "dim"))
    if len(hosts) > _HOSTS:
        lines.append(Line(f"  and {counted(len(hosts) - _HOSTS, 'more host')}", "dim"))
    return lines


def _slowest(ledger: Ledger, now: float) -> list[Line]:
    if now - ledger.begun_s < _SLOW_S:
        return []
    runs = sorted(ledger.ended("fetched", "made", "failed"), key=lambda run: run.start_s - run.end_s)[:_SLOWEST]
    told = []
    for run in runs:
        source = f" from {escaped(run.source.url)}" if run.source else ""
        told.append(f"{escaped(run.name)} {format_duration(run.end_s - run.start_s)}{source}")
    return [Line(f"  slowest: {'; '.join(told)}", "dim")] if told else []


def failures(ledger: Ledger) -> list[tuple[TaskRun, list[Line]]]:
    """Return every failure once more: its name, then what happened and the next step, as the task said it."""
    found = list(ledger.ended("failed"))
    told = []
    for run in found[:_FAILURES]:
        lines = [Line(f"failed: {escaped(run.name)}", "bad")]
        lines += [Line(f"  {line}") for line in _shortened(escaped_lines(run.message))]
        told.append((run, lines))
    return told


def more_failures(ledger: Ledger) -> list[Line]:
    """Return how many failures were not repeated, and what doit itself could not do."""
    left = ledger.counts["failed"] - _FAILURES
    lines = [Line(f"and {counted(left, 'more failure')}; the lines above have all", "bad")] if left > 0 else []
    return lines + [Line(line, "bad") for error in ledger.errors for line in escaped_lines(error)]


def _shortened(lines: list[str]) -> list[str]:
    """Leave a traceback to the lines above: what was raised is enough here."""
    at = next((index for index, line in enumerate(lines) if line.startswith("Traceback")), None)
    if at is None:
        return lines
    return [*lines[:at], lines[-1], "this is a fault of the program: its traceback stands above"]
