"""`doit verify`, `doit prune` and `doit cache`: thin faces on the upkeep of the cache.

They need the definitions, not the tasks: dodo.py is loaded for its directory and settings, no task is made and doit's
database is not opened. Exit status: 0 all is well; 1 something is damaged, or a bound is not met; 3 it could not be
done; 130 interrupted.
"""

from __future__ import annotations

import abc
import gc
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from doit.exceptions import InvalidCommand

from tasks_lib.cache.maintenance import InventoryItem
from tasks_lib.context import Context
from tasks_lib.engine.base_command import BaseCommand, set_up
from tasks_lib.errors import CacheError, DefinitionError, FetchError, SettingError, escaped
from tasks_lib.incremental.definition_files import digest_of, load
from tasks_lib.progress import Facts, LineProgress, describe_wait
from tasks_lib.session import current_session
from tasks_lib.steps import Plan
from tasks_lib.steps.prune import PruneDecision, PruneLimits, Referenced, decide, referenced, remove, size_of
from tasks_lib.steps.verify import Damage, Verification, VerifyReport
from tasks_lib.tree import remove_tree
from tasks_lib.ui.events import write_to_stderr
from tasks_lib.units import format_age, format_size, parse_duration, parse_size

#: Things that `doit cache` names as the largest and as the oldest.
_NAMED: Final = 5
#: Seconds between two lines that say how far it is.
_EVERY_S: Final = 5.0


class _CacheCommand(BaseCommand, abc.ABC):
    """A command on the cache of this run's settings."""

    doc_usage = ""

    def execute(self, params: Any, args: list[str]) -> int:
        """Load dodo.py for its settings and do the work; every error of ours is one short text."""
        gc.disable()  # a survey makes a million small values and frees none of them
        set_up(self.loader, params)
        progress = LineProgress(write_to_stderr, _described, _EVERY_S)
        try:
            from doit_fetch import DOIT_CONFIG  # noqa: F401  # creates the session, also for a dodo.py without it

            found = current_session()
            assert found is not None
            return self.work(found.world, params, args, progress)
        except (SettingError, DefinitionError) as error:
            raise _refused(str(error)) from None
        except FetchError as error:
            sys.stderr.write(f"{error}\n")
            return 3
        except KeyboardInterrupt:
            progress.cancel()
            sys.stderr.write("interrupted\n")
            return 130

    @abc.abstractmethod
    def work(self, world: Context, params: Any, args: list[str], progress: LineProgress) -> int:
        """Do it; return the exit status."""


class VerifyCommand(_CacheCommand):
    """`doit verify`."""

    name = "verify"
    doc_purpose = "read the cache and what was extracted to the end, and compare with the digests"
    doc_usage = "[TASK or GLOB ...]"
    doc_description: Any = (
        "Without names: every blob and result of the cache, every artifact and extracted tree of the definitions. "
        "What is damaged goes to quarantine and is named. "
        "Exit status: 0 all is right, or repaired; 1 damaged; 3 it could not be done."
    )
    cmd_options = (
        {
            "name": "repair", "short": "", "long": "repair", "type": bool, "default": False,
            "help": "make again what is damaged: fetch, repack, extract",
        },
    )  # fmt: skip

    def work(self, world: Context, params: Any, args: list[str], progress: LineProgress) -> int:
        """Verify."""
        plan = plan_of(world, world.settings.fetchdefs)
        verification = Verification(world, plan, args, progress)
        report = verification.run(_tell_damage, repair="yes" if params["repair"] else "no")
        return _summed_up(report, progress)


class PruneCommand(_CacheCommand):
    """`doit prune`."""

    name = "prune"
    doc_purpose = "remove from the cache what no definitions need"
    doc_description: Any = (
        "Needed is what the current definitions reach, and those of every other directory that used this cache. "
        "Nothing goes that is younger than an hour, in use or locked. Exit status: 0 done; 1 over --max-size; 3 failed."
    )
    cmd_options = (
        {
            "name": "max_size", "short": "", "long": "max-size", "metavar": "SIZE", "type": str, "default": "",
            "help": "remove the longest unused until the cache is no larger (20GiB, 500MB)",
        },
        {
            "name": "older_than", "short": "", "long": "older-than", "metavar": "AGE", "type": str, "default": "",
            "help": "remove what was not used for so long (30d, 12h)",
        },
        {
            "name": "dry_run", "short": "", "long": "dry-run", "type": bool, "default": False,
            "help": "say what would go, why, and how much that is",
        },
    )  # fmt: skip

    def work(self, world: Context, params: Any, args: list[str], progress: LineProgress) -> int:
        """Prune."""
        if args:
            raise _refused(f"prune takes no names: {escaped(args[0])}")
        older_than, max_size = params["older_than"], params["max_size"]
        bounds = PruneLimits(
            older_than_s=parse_duration(older_than, "--older-than") if older_than else None,
            max_size=parse_size(max_size, "--max-size") if max_size else None,
        )
        if params["dry_run"]:
            return _told_verdicts(_judged(world, bounds), bounds, {}, "would go")
        with world.store.upkeep.pruning(progress) as discard:

            def taken_away(item: InventoryItem) -> str:
                progress.check()
                return discard(item, remove_tree)

            verdicts, kept = remove(_judged(world, bounds), bounds, taken_away, time.time())
        return _told_verdicts(verdicts, bounds, kept, "gone")


class CacheCommand(_CacheCommand):
    """`doit cache`."""

    name = "cache"
    doc_purpose = "show what the cache holds: sizes by kind, hit rates, the largest and the oldest"

    def work(self, world: Context, params: Any, args: list[str], progress: LineProgress) -> int:
        """Show."""
        del params, args, progress
        items = world.store.upkeep.items()
        lines = [f"cache {world.store.root.absolute()}", "", *_sizes(items), "", *_rates(world.store.upkeep.runs())]
        blobs = [item for item in items if item.kind in ("blob", "repository", "tree")]
        names = _human_names(items)
        now_s = time.time()
        largest = sorted(blobs, key=lambda item: -item.size)[:_NAMED]
        oldest = sorted(blobs, key=lambda item: item.written_s)[:_NAMED]
        lines += ["", "largest:", *(f"  {format_size(item.size):>10}  {_called(item, names)}" for item in largest)]
        ages = ((format_age(now_s - item.written_s), item) for item in oldest)
        lines += ["oldest:", *(f"  {age:>10}  {_called(item, names)}" for age, item in ages)]
        lines += ["used by the definitions in:"]
        lines += sorted(f"  {escaped(str(path))}" for path in world.store.upkeep.definitions().values())
        _say(lines)
        return 0


# --- prune


def plan_of(world: Context, fetchdefs: Path) -> Plan:
    """Return the plan of the definitions in a directory, for the cache of this run.

    Raises:
        DefinitionError: they cannot be read.
    """
    settings = world.settings
    return Plan(
        load(fetchdefs),
        cache=settings.cache,
        build=settings.build,
        writer_version=world.writer_version,
        digest_of=digest_of,
    )


def _roots(world: Context) -> Referenced:
    """Return what the current definitions need, and all others that used this cache.

    A directory that is gone, or empty, needs nothing; one whose definitions are wrong needs nobody knows what.

    Raises:
        StoreError: the definitions of a directory cannot be read.
    """
    own = world.settings.fetchdefs.absolute()
    directories = {own, *world.store.upkeep.definitions().values()}
    plans = []
    for directory in sorted(path for path in directories if path == own or any(path.glob("*/*.y*ml"))):
        try:
            plans.append(plan_of(world, directory))
        except DefinitionError as error:
            raise CacheError(
                f"{escaped(str(directory))} used this cache, and its definitions cannot be read:"
                f" {str(error).splitlines()[0]}",
                hint="correct them or remove that directory: nothing goes while it is unknown what they need",
            ) from None
    return referenced(world, plans)


def _judged(world: Context, bounds: PruneLimits) -> list[PruneDecision]:
    return decide(world.store.upkeep.items(), _roots(world), world.store.upkeep.last_uses(), bounds, time.time())


def _told_verdicts(verdicts: list[PruneDecision], bounds: PruneLimits, kept: Mapping[str, str], word: str) -> int:
    """Say what goes and why, what stays and why, and whether the bound is met; return the exit status."""
    told = [one for one in verdicts if one.item.kind != "lock"]  # empty files, of no interest to anybody
    going = [one for one in told if one.goes and one.item.path not in kept]
    staying = [one for one in told if not (one.goes and one.item.path not in kept)]
    lines = [f"{item.kind} {escaped(item.name)}: {format_size(item.size)}: {why}" for item, _, why, _ in going]
    lines += [f"stays: {escaped(one.item.path)}: {kept[one.item.path]}" for one in staying if one.item.path in kept]
    left = size_of(one.item for one in staying)
    freed = size_of(one.item for one in told) - left
    lines.append(f"{len(going)} {word}, {format_size(freed)}; {len(staying)} stay, {format_size(left)}")
    status = 0
    if bounds.max_size is not None and left > bounds.max_size:
        status = 1
        lines.append(
            f"still over --max-size ({format_size(bounds.max_size)}), since these stay: {_reasons(staying, kept)}"
        )
    _say(lines)
    return status


def _reasons(staying: list[PruneDecision], kept: Mapping[str, str]) -> str:
    by_reason: dict[str, list[InventoryItem]] = defaultdict(list)
    for one in staying:
        by_reason[kept.get(one.item.path, one.why)].append(one.item)
    return ", ".join(f"{format_size(size_of(items))} {why}" for why, items in sorted(by_reason.items()))


# --- verify


def _tell_damage(damage: Damage) -> None:
    tasks = ", ".join(damage.tasks) or "no current definition"
    _say([f"damaged {damage.kind} {escaped(damage.name)}: {escaped(damage.reason)}; needed by {escaped(tasks)}"])
    sys.stdout.flush()


def _summed_up(report: VerifyReport, progress: LineProgress) -> int:
    lines = [f"not checked: {escaped(text)}" for text in report.unchecked]
    lines += [f"not in the cache: {escaped(task)}" for task in report.missing]
    lines += [f"repaired: {escaped(task)}" for task in report.repaired]
    lines += [f"not repaired: {escaped(task)}" for task in report.failed]
    looked = ", ".join(f"{count} {kind}s" for kind, count in report.checked.items()) or "nothing"
    lines.append(f"verified {looked}, {format_size(progress.size)} read; {len(report.damaged)} damaged")
    _say(lines)
    unrepaired = [one for one in report.damaged if not set(one.tasks) & set(report.repaired)]
    return 1 if unrepaired or report.failed else 0


# --- cache


def _sizes(items: list[InventoryItem]) -> list[str]:
    by_kind: dict[str, list[InventoryItem]] = defaultdict(list)
    for item in items:
        by_kind[item.kind].append(item)
    lines = [f"  {kind:<12}{len(found):>8}{format_size(size_of(found)):>12}" for kind, found in sorted(by_kind.items())]
    return [*lines, f"  {'together':<12}{len(items):>8}{format_size(size_of(items)):>12}  (links counted once)"]


def _rates(runs: list[tuple[int, int, int]]) -> list[str]:
    if not runs:
        return ["no run is remembered"]

    def rate(some: Iterable[tuple[int, int, int]]) -> str:
        hits, missed = map(sum, zip(*((hits, missed) for _, hits, missed in some), strict=True))
        return f"{hits} of {hits + missed} found here ({100 * hits / max(1, hits + missed):.0f} %)"

    return [f"last run: {rate(runs[-1:])}", f"last {len(runs)} runs: {rate(runs)}"]


def _human_names(items: list[InventoryItem]) -> dict[tuple[int, int], str]:
    return {item.inode: item.name for item in items if item.kind == "artifact"}


def _called(item: InventoryItem, names: Mapping[tuple[int, int], str]) -> str:
    known = names.get(item.inode)
    return f"{item.kind} {escaped(item.name)}" + (f" ({escaped(known)})" if known else "")


# --- words


def _described(name: str, facts: Facts) -> str:
    """Return the line for a phase: who is waited for, or how much was read."""
    if name != "advance":
        return describe_wait(name, facts)
    size, total = float(facts["size"]), float(facts["total"])
    return f"{format_size(size)}{f' of {format_size(total)}' if total > size else ''} read"


def _say(lines: list[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def _refused(message: str) -> InvalidCommand:
    return InvalidCommand(message)  # type: ignore[no-untyped-call]  # doit has no types
