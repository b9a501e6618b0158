"""Analysis of a record: critical path, time per host and phase, and advice. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from tasks_lib.report.record import RunRecord
from tasks_lib.ui.run_state import host_of
from tasks_lib.units import counted, format_duration, format_size

#: Phases that wait for another machine.
_NETWORK: Final = frozenset({"connect", "first-byte", "body"})
#: Minimum share of a total, and minimum time in ms, to be mentioned in the advice.
_SHARE: Final = 0.5
_WORTH_MS: Final = 500.0
#: The host of `file:` URLs.
_LOCAL: Final = "files"
#: Maximum length of the critical path. Graphs have fewer levels; a damaged record must not cause an endless loop.
_MAX_STEPS: Final = 1000


class HostTotals(NamedTuple):
    """Statistics of one host: files and bytes served, ms spent with it, files that have no other source."""

    name: str
    files: int
    bytes: int
    ms: float
    alone: int


def find_critical_path(record: RunRecord) -> list[int]:
    """Return the tasks on the critical path, the first one first.

    Start at the task that ended last and follow, from each task, the dependency that ended last.
    """
    tasks = record["tasks"]
    ran = [number for number, task in enumerate(tasks) if "end" in task]
    if not ran:
        return []
    path = [max(ran, key=lambda number: tasks[number]["end"])]
    while len(path) < _MAX_STEPS:
        needs = [number for number in tasks[path[-1]].get("needs", ()) if "end" in tasks[number]]
        if not needs:
            break
        path.append(max(needs, key=lambda number: tasks[number]["end"]))
    return path[::-1]


def summarize_hosts(record: RunRecord) -> list[HostTotals]:
    """Return the contacted hosts, the one that took longest first."""
    totals: dict[str, list[Any]] = defaultdict(lambda: [0, 0, 0.0, 0])
    for task in record["tasks"]:
        bodies = [phase for phase in task.get("phases", ()) if phase[0] == "body" and len(phase) > 4]
        for name, start, end, size, url in _network_phases(task):
            host = totals[host_of(url)]
            host[1] += size if name == "body" else 0
            host[2] += end - start
        if bodies and task["outcome"] == "fetched":
            host = totals[host_of(bodies[-1][4])]
            host[0] += 1
            host[3] += len(task.get("sources", ())) < 2
    return sorted((HostTotals(name, *numbers) for name, numbers in totals.items()), key=lambda host: -host.ms)


class FailedHost(NamedTuple):
    """Sources of one host that failed although others provided the files: role, number of files, the usual reason."""

    role: str
    name: str
    files: int
    reason: str


def summarize_failed_sources(record: RunRecord) -> list[FailedHost]:
    """Return the hosts whose sources failed, the one with most files first."""
    reasons: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for task in record["tasks"]:
        for role, url, reason in task.get("failed_sources", ()):
            reasons[role, host_of(url)][reason] += 1
    found = [FailedHost(*key, some.total(), some.most_common(1)[0][0]) for key, some in reasons.items()]
    return sorted(found, key=lambda host: -host.files)


def _network_phases(task: RunRecord) -> Iterator[tuple[str, float, float, int, str]]:
    """Yield the phases spent with a host; a phase without a URL belongs to the URL of the phase before it."""
    url = ""
    for phase in task.get("phases", ()):
        url = phase[4] if len(phase) > 4 else url
        if phase[0] in _NETWORK and url:
            yield phase[0], phase[1], phase[2], phase[3] if len(phase) > 3 else 0, url


def sum_phases(record: RunRecord) -> dict[str, float]:
    """Return phase name -> total ms of all tasks."""
    totals: dict[str, float] = defaultdict(float)
    for task in record["tasks"]:
        for phase in task.get("phases", ()):
            totals[phase[0]] += phase[2] - phase[1]
    return dict(totals)


def build_advice(record: RunRecord) -> list[str]:
    """Return sentences of advice, the most important first."""
    rules = (_failures, _host, _waits, _queue, _path, _cache)
    return [sentence for rule in rules for sentence in rule(record)]


def _failures(record: RunRecord) -> Iterator[str]:
    if failed := record["counts"].get("failed", 0):
        message = "its message" if failed == 1 else "their messages"
        yield f"{counted(failed, 'task')} failed: see {message} for the next step. The rest of this page is about time."
    if stores := record.get("stores"):
        yield f"Shared stores: {stores}."
    if record["left_out"]:
        yield f"The record contains only {len(record['tasks']):,} tasks; {record['left_out']:,} more are not shown."


def _host(record: RunRecord) -> Iterator[str]:
    remote = [host for host in summarize_hosts(record) if host.name != _LOCAL]
    total = sum(host.ms for host in remote)
    if not remote or total < _WORTH_MS or remote[0].ms < _SHARE * total:
        return
    first = remote[0]
    share = f"{first.ms / total:.0%}".replace("%", " %")
    sentence = f"{share} of the time with servers ({format_duration(first.ms / 1000)}) was spent on {first.name}"
    if first.alone:
        which = "its file has" if first.files == 1 else f"{first.alone:,} of its {first.files:,} files have"
        yield f"{sentence}: add a mirror, {which} no other source."
    else:
        yield f"{sentence}: put a faster mirror first, or use a shared cache nearby."


def _waits(record: RunRecord) -> Iterator[str]:
    waited = sum_phases(record).get("wait", 0.0)
    if waited >= _WORTH_MS:
        tasks = sum(any(phase[0] == "wait" for phase in task.get("phases", ())) for task in record["tasks"])
        yield (
            f"{counted(tasks, 'task')} waited {format_duration(waited / 1000)} for a retry or for another process: "
            "put a source that is often unavailable after its mirrors."
        )


def _queue(record: RunRecord) -> Iterator[str]:
    loaded = _loaded_at(record)
    turns = [max(0.0, task["start"] - max(task["ready"], loaded)) for task in record["tasks"] if "end" in task]
    queued, ran, elapsed = sum(turns) + sum_phases(record).get("queue", 0.0), len(turns), record["elapsed"]
    if ran and elapsed >= _WORTH_MS and queued / ran > _SHARE / 2 * elapsed:
        yield (
            f"Ready tasks were queued for {format_duration(queued / ran / 1000)} on average: if network and servers "
            "allow it, increase FETCH_JOBS and FETCH_JOBS_PER_HOST."
        )


def _loaded_at(record: RunRecord) -> float:
    """Return when the first task had loaded the modules that it needs and began to work: until then none was queued."""
    begun = (phases[0][1] for task in record["tasks"] if (phases := task.get("phases")))
    return float(min(begun, default=0.0))


def _path(record: RunRecord) -> Iterator[str]:
    tasks = [record["tasks"][number] for number in find_critical_path(record)]
    whole = sum(task["end"] - task["start"] for task in tasks)
    if whole < _WORTH_MS:
        return
    longest = max(tasks, key=lambda task: task["end"] - task["start"])
    took = longest["end"] - longest["start"]
    if took < _SHARE * whole or len(tasks) < 2 or _is_local(longest):
        return
    words = {
        "fetch": "a nearer mirror or a shared cache would help most",
        "repack": "a shared cache would provide the repacked archive",
        "extract": "a smaller archive would help",
        "toolchain": "its command takes the time, faster downloads would not help",
    }
    share = f"{took / whole:.0%}".replace("%", " %")
    hint = words.get(longest["name"].partition(":")[0], "it takes most of the time")
    yield f"{share} of the critical path is {longest['name']} ({format_duration(took / 1000)}): {hint}."


def _is_local(task: RunRecord) -> bool:
    """Return whether a task copied a local file: neither a mirror nor a cache would make that faster."""
    urls = [url for _, _, _, _, url in _network_phases(task)]
    return bool(urls) and all(host_of(url) == _LOCAL for url in urls)


def _cache(record: RunRecord) -> Iterator[str]:
    counts = record["counts"]
    have = counts.get("adopted", 0) + counts.get("up-to-date", 0)
    whole = have + counts.get("fetched", 0) + counts.get("made", 0)
    if have and whole:
        share = f"{have / whole:.0%}".replace("%", " %")
        yield f"{share} of the tasks ({have:,}) were up to date or in the cache."
    elif counts.get("fetched", 0):
        size = sum(host.bytes for host in summarize_hosts(record) if host.name != _LOCAL)
        if not size:
            return
        yield f"The cache was empty: {format_size(size)} had to be fetched. Keep the cache directory between runs."
