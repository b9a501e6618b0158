"""`doit verify`, `doit prune` and `doit cache`: the command line of cache maintenance.

The commands need the definitions, not the tasks: they load dodo.py for its directory and settings, create no tasks and
do not open doit's database. Exit status: 0 success; 1 content is damaged or a limit is not met; 3 error; 130
interrupted.
"""

from __future__ import annotations

import abc
import contextlib
import gc
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from tasks_lib.cache.maintenance import InventoryItem
from tasks_lib.cli.project_command import ProjectCommand
from tasks_lib.context import Context
from tasks_lib.engine.base_command import OFFLINE, flag, option, usage_error
from tasks_lib.errors import CacheError, DefinitionError, escape_text
from tasks_lib.incremental.definition_files import load
from tasks_lib.incremental.resources import ReferencedFiles
from tasks_lib.layout import find_layout
from tasks_lib.progress import Facts, LineProgress, describe_wait
from tasks_lib.recipe import Configuration
from tasks_lib.session import Session
from tasks_lib.steps import Plan
from tasks_lib.steps.prune import (
    YOUNG,
    PruneDecision,
    PruneLimits,
    Referenced,
    Root,
    decide,
    find_referenced,
    remove,
    total_size,
)
from tasks_lib.steps.verify import Damage, Verification, VerifyReport
from tasks_lib.ui.events import write_to_stderr
from tasks_lib.units import counted, format_age, format_size, parse_duration, parse_size

#: Items that `doit cache` lists as the largest and as the oldest.
_MAX_LISTED: Final = 5
#: Seconds between two progress lines.
_PROGRESS_INTERVAL_S: Final = 5.0


class SessionCommand(ProjectCommand):
    """A command about the cache or the stores. Exit status 0: success; 1: as its help says; 3: error; 130: Ctrl-C."""

    doc_usage = ""
    failure = 3

    def work(self, session: Session, params: Any, args: list[str]) -> int:
        """Do the work; wait until the stores have what it obtained."""
        gc.disable()  # an inventory creates a million small values and frees none of them
        progress = LineProgress(write_to_stderr, describe_phase, _PROGRESS_INTERVAL_S)
        try:
            status = self.maintain(session.context, params, args, progress)
            _finish_uploads(session, progress)
            return status
        except KeyboardInterrupt:
            progress.cancel()
            sys.stderr.write("interrupted\n")
            return 130

    @abc.abstractmethod
    def maintain(self, context: Context, params: Any, args: list[str], progress: LineProgress) -> int:
        """Do the work; return the exit status."""


def _finish_uploads(session: Session, progress: LineProgress) -> None:
    """Wait until the stores have what a repair obtained, if it asked them."""
    fleet = session.opened_fleet
    if fleet is not None:
        fleet.finish(lambda: True, progress.warn)
        for problem in fleet.counts.problems:
            progress.warn(problem)


class VerifyCommand(SessionCommand):
    """`doit verify`."""

    name = "verify"
    doc_usage = "[TASK or GLOB ...]"
    doc_description: Any = (
        "Without names: every blob and result in the cache, every artifact and extracted tree of the definitions. "
        "Damaged content is reported and moved to quarantine. "
        "Exit status: 0 nothing is damaged, or all is repaired; 1 damaged; 3 error."
    )
    cmd_options = (
        flag("repair", "rebuild damaged content: fetch, repack, extract"),
        OFFLINE,
    )

    def maintain(self, context: Context, params: Any, args: list[str], progress: LineProgress) -> int:
        """Verify the content."""
        verification = Verification(context, load_plan(context), args, progress)
        report = verification.run(_print_damage, repair="yes" if params["repair"] else "no")
        return _print_summary(report, progress)


class PruneCommand(SessionCommand):
    """`doit prune`."""

    name = "prune"
    doc_description: Any = (
        "Content is needed if the current definitions refer to it, or those of another directory that used this cache, "
        "under any SOURCE_DATE_EPOCH and limits that were used there. "
        "Content that is younger than an hour is kept, unless --older-than is given; so is content in use or locked. "
        "Exit status: 0 success; 1 over --max-size; 3 error."
    )
    cmd_options = (
        option(
            "max-size",
            "remove the least recently used content until the cache has at most this size (20GiB, 500MB)",
            metavar="SIZE",
        ),
        option(
            "older-than",
            "remove content that was not used for this long (30d, 12h; 0 for all that is not needed)",
            metavar="AGE",
        ),
        flag("dry-run", "show what would be removed, why, and its size"),
    )

    def maintain(self, context: Context, params: Any, args: list[str], progress: LineProgress) -> int:
        """Prune the cache."""
        if args:
            raise usage_error(f"`prune` takes no task names, got {escape_text(args[0])!r}\nleave it out")
        older_than, max_size = params["older_than"], params["max_size"]
        bounds = PruneLimits(
            older_than_s=parse_duration(older_than, "--older-than") if older_than else None,
            max_size=parse_size(max_size, "--max-size") if max_size else None,
        )
        if params["dry_run"]:
            return _print_decisions(_decide_all(context, bounds), bounds, {}, "would be removed")
        with context.cache.maintenance.pruning(progress) as discard:

            def taken_away(item: InventoryItem) -> str:
                progress.check()
                return discard(item)

            verdicts, kept = remove(_decide_all(context, bounds), bounds, taken_away, time.time())
        return _print_decisions(verdicts, bounds, kept, "removed")


class CacheCommand(SessionCommand):
    """`doit cache`."""

    name = "cache"

    def maintain(self, context: Context, params: Any, args: list[str], progress: LineProgress) -> int:
        """Show the content."""
        del params, args, progress
        items = context.cache.maintenance.items()
        lines = [
            f"cache {context.cache.root.absolute()}",
            "",
            *_format_sizes(items),
            "",
            *_format_hit_rates(context.cache.maintenance.runs()),
        ]
        blobs = [item for item in items if item.kind in ("blob", "repository", "tree")]
        names = {item.inode: item.name for item in items if item.kind == "artifact"}
        now_s = time.time()
        largest = sorted(blobs, key=lambda item: -item.size)[:_MAX_LISTED]
        oldest = sorted(blobs, key=lambda item: item.written_s)[:_MAX_LISTED]
        lines += ["", "largest:", *(f"  {format_size(item.size):>10}  {_format_item(item, names)}" for item in largest)]
        ages = ((format_age(now_s - item.written_s), item) for item in oldest)
        lines += ["oldest:", *(f"  {age:>10}  {_format_item(item, names)}" for age, item in ages)]
        lines += ["used by the definitions in:"]
        lines += sorted(f"  {escape_text(str(path))}" for path in context.cache.maintenance.definitions().values())
        print_lines(lines)
        return 0


# --- prune


def load_plan(context: Context) -> Plan:
    """Return the plan of the definitions of this project, parsed anew, for the selected platform.

    Raises:
        DefinitionError: lists every problem of every file.
    """
    own, files = context.settings, ReferencedFiles(context.environ)
    definitions = load(own.fetchdefs, files=files, topsrcdir=own.topsrcdir, platform=own.platform)
    return Plan(definitions, context, context.configuration(definitions.passed), files)


def _roots(context: Context) -> Referenced:
    """Return what the current definitions need, and those of other directories that used this cache.

    A missing or empty directory needs nothing. If definitions are invalid, their needs are unknown.

    Raises:
        CacheError: the definitions of a directory cannot be read.
    """
    own = find_layout(context.settings.fetchdefs).taken.absolute()
    notes = {directory: note for note, directory in context.cache.maintenance.definitions().items()}
    roots = []
    for directory in sorted(
        path for path in {own, *notes} if path == own or path.is_file() or any(path.glob("*/*.y*ml"))
    ):
        try:
            topsrcdir = context.settings.topsrcdir if directory == own else ""
            definitions = load(
                directory,
                files=ReferencedFiles(context.environ),
                topsrcdir=topsrcdir,
                platform=context.settings.platform,
            )
        except DefinitionError as error:
            raise CacheError(
                f"cannot read the definitions in {escape_text(str(directory))}, which used this cache:"
                f" {str(error).splitlines()[0]}",
                hint="correct them or remove that directory: nothing is removed while their needs are unknown",
            ) from None
        own_configuration = context.configuration(definitions.passed)
        for configuration in _list_configurations(context, own_configuration, notes.get(directory)):
            if directory == own:  # trees of an earlier link mode are not needed here any more
                configuration = replace(configuration, link_mode=context.settings.link_mode)
            files = ReferencedFiles(context.environ, configuration.directory)
            roots.append(Root(Plan(definitions, context, configuration, files), configuration))
    return find_referenced(context, roots)


def _list_configurations(context: Context, own: Configuration, note: Path | None) -> list[Configuration]:
    """Return the configuration of this run, and those with which the definitions of a note used the cache."""
    configurations = [own]
    for line in context.cache.maintenance.configurations(note) if note is not None else ():
        with contextlib.suppress(ValueError):  # torn, or of another version
            configurations.append(Configuration.decode(line))
    return configurations


def _decide_all(context: Context, bounds: PruneLimits) -> list[PruneDecision]:
    return decide(
        context.cache.maintenance.items(), _roots(context), context.cache.maintenance.last_uses(), bounds, time.time()
    )


def _print_decisions(verdicts: list[PruneDecision], bounds: PruneLimits, kept: Mapping[str, str], word: str) -> int:
    """Print what is removed and kept, why, and whether the limit is met; return the exit status."""
    shown = [one for one in verdicts if one.item.kind != "lock"]  # lock files are empty
    going = [one for one in shown if one.goes and one.item.path not in kept]
    staying = [one for one in shown if not (one.goes and one.item.path not in kept)]
    lines = [f"{item.kind} {escape_text(item.name)}: {format_size(item.size)}: {why}" for item, _, why, _ in going]
    lines += [f"kept: {escape_text(one.item.path)}: {kept[one.item.path]}" for one in staying if one.item.path in kept]
    left = total_size(one.item for one in staying)
    freed = total_size(one.item for one in shown) - left
    reasons = f" ({_count_reasons(staying, kept)})" if staying else ""
    lines.append(f"{len(going)} {word}, {format_size(freed)}; {len(staying)} kept, {format_size(left)}{reasons}")
    status = 0
    if bounds.max_size is not None and left > bounds.max_size:
        status = 1
        lines.append(
            f"still over --max-size ({format_size(bounds.max_size)}), because these are kept: "
            f"{_format_reasons(staying, kept)}"
        )
    print_lines(lines)
    return status


def _count_reasons(staying: list[PruneDecision], kept: Mapping[str, str]) -> str:
    """Return the number of items for each reason to stay, and the option that lifts the reason."""
    counts = Counter(kept.get(one.item.path, one.why) for one in staying)
    words = (f"{count} {why}" + (": --older-than 0" if why == YOUNG else "") for why, count in sorted(counts.items()))
    return "; ".join(words)


def _format_reasons(staying: list[PruneDecision], kept: Mapping[str, str]) -> str:
    by_reason: dict[str, list[InventoryItem]] = defaultdict(list)
    for one in staying:
        by_reason[kept.get(one.item.path, one.why)].append(one.item)
    return ", ".join(f"{format_size(total_size(items))} {why}" for why, items in sorted(by_reason.items()))


# --- verify


def _print_damage(damage: Damage) -> None:
    tasks = ", ".join(damage.tasks) or "no current definition"
    reason = f"{escape_text(damage.reason)}; needed by {escape_text(tasks)}"
    print_lines([f"damaged {damage.kind} {escape_text(damage.name)}: {reason}"])
    sys.stdout.flush()


def _print_summary(report: VerifyReport, progress: LineProgress) -> int:
    lines = [f"not checked: {escape_text(text)}" for text in report.unchecked]
    lines += [escape_text(text) for text in report.unconfirmed]
    lines += [f"not in the cache: {escape_text(task)}" for task in report.missing]
    lines += [f"repaired: {escape_text(task)}" for task in report.repaired]
    lines += [f"not repaired: {escape_text(task)}" for task in report.failed]
    checked = ", ".join(counted(count, kind) for kind, count in report.checked.items()) or "nothing"
    unconfirmed = f", {len(report.unconfirmed)} not confirmed" if report.unconfirmed else ""
    lines.append(f"verified {checked}, {format_size(progress.size)} read; {len(report.damaged)} damaged{unconfirmed}")
    print_lines(lines)
    unrepaired = [one for one in report.damaged if not set(one.tasks) & set(report.repaired)]
    return 1 if unrepaired or report.failed else 0


# --- cache


def _format_sizes(items: list[InventoryItem]) -> list[str]:
    by_kind: dict[str, list[InventoryItem]] = defaultdict(list)
    for item in items:
        by_kind[item.kind].append(item)
    lines = [
        f"  {kind:<12}{len(found):>8}{format_size(total_size(found)):>12}" for kind, found in sorted(by_kind.items())
    ]
    return [*lines, f"  {'total':<12}{len(items):>8}{format_size(total_size(items)):>12}  (links counted once)"]


def _format_hit_rates(runs: list[tuple[int, int, int]]) -> list[str]:
    if not runs:
        return ["no runs recorded"]

    def rate(some: Iterable[tuple[int, int, int]]) -> str:
        hits, missed = map(sum, zip(*((hits, missed) for _, hits, missed in some), strict=True))
        return f"{hits} of {hits + missed} hits ({100 * hits / max(1, hits + missed):.0f} %)"

    return [f"last run: {rate(runs[-1:])}", f"last {counted(len(runs), 'run')}: {rate(runs)}"]


def _format_item(item: InventoryItem, names: Mapping[tuple[int, int], str]) -> str:
    known = names.get(item.inode)
    return f"{item.kind} {escape_text(item.name)}" + (f" ({escape_text(known)})" if known else "")


# --- text


def describe_phase(name: str, facts: Facts) -> str:
    """Return the progress line of a phase: what it waits for, or how much was read."""
    if name != "advance":
        return describe_wait(name, facts)
    size, total = float(facts["size"]), float(facts["total"])
    return f"{format_size(size)}{f' of {format_size(total)}' if total > size else ''} read"


def print_lines(lines: list[str]) -> None:
    """Write escaped lines to stdout."""
    sys.stdout.write("".join(f"{escape_text(line)}\n" for line in lines))
