"""`doit store`: show what the shared stores can do, copy content and results to and from them, and prune them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from tasks_lib.cli.maintenance import SessionCommand, load_plan, print_lines
from tasks_lib.context import Context
from tasks_lib.definitions import Definitions, Fetch, Image, Toolchain
from tasks_lib.definitions.lookup import find_definitions
from tasks_lib.engine.base_command import flag, from_start, option, usage_error
from tasks_lib.errors import SettingError, StoreError, escape_text
from tasks_lib.incremental.selection import closure
from tasks_lib.progress import LineProgress
from tasks_lib.steps.stores import describe_stores, list_shared_items, prune_store, pull, push
from tasks_lib.store.fleet import Counts
from tasks_lib.store.records import generate_key
from tasks_lib.units import format_size, parse_duration

_ACTIONS: Final = ("status", "push", "pull", "keygen", "prune")


class StoreCommand(SessionCommand):
    """`doit store`."""

    name = "store"
    doc_usage = "[push [NAME ...] | pull [NAME ...] | keygen FILE | prune]"
    doc_description: Any = (
        "Without a word: what each store can do: reads, writes, ranges, latency, clock, whose results are used. "
        "`push` writes content and results of the cache that the stores lack, of all definitions or of those named; "
        "`pull` brings them into the cache. `keygen FILE` makes a key that signs results, and FILE.pub. "
        "`prune` deletes what was not written for long, where the store can list; it keeps what these definitions "
        "need, unless --all is given. "
        "Exit status: 0 success; 1 a store failed, was not asked or must not be written to; 3 error."
    )
    cmd_options = (
        flag("dry-run", "push, prune: show what would be written or deleted"),
        option("older-than", "prune: delete what was written longer ago than this (90d, 12h)", metavar="AGE"),
        flag("all", "prune: also delete what these definitions need"),
        flag("yes", "prune: delete without --dry-run first"),
    )

    def maintain(self, context: Context, params: Any, args: list[str], progress: LineProgress) -> int:
        """Do one of the actions."""
        action, names = (args[0], args[1:]) if args else ("status", [])
        if action not in _ACTIONS:
            raise usage_error(f"unknown word {escape_text(action)!r}: expected one of {', '.join(_ACTIONS[1:])}")
        if action == "keygen":
            return _keygen(names)
        if not context.settings.stores:
            hint = "set store=URL, FETCH_STORE, or `store` in [tool.doit-fetch]"
            raise SettingError("no store is configured", hint=hint)
        offline = [one.name for one in context.opening.unreachable]
        print_lines([f"store {name}: not asked, because the network is off" for name in offline])
        return max(self._use_stores(action, names, context, params, progress), int(bool(offline)))

    def _use_stores(self, action: str, names: list[str], context: Context, params: Any, progress: LineProgress) -> int:
        if action == "push":
            return _push(context, names, params, progress)
        if action == "pull":
            return _pull(context, names, progress)
        if names:
            raise usage_error(f"`store {action}` takes no names, got {escape_text(names[0])!r}\nleave it out")
        return _prune(context, params) if action == "prune" else _status(context)


def _select(definitions: Definitions, names: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Return the fetches, toolchains and images that the names mean; all without names."""
    if not names:
        return list(definitions.fetches), list(definitions.toolchains), list(definitions.images)
    found = find_definitions(definitions, names)
    fetches, toolchains, images = (
        [one.name for one in found if isinstance(one, kind)] for kind in (Fetch, Toolchain, Image)
    )
    return fetches, toolchains, images


def _list_items(context: Context, names: list[str]) -> list[Any]:
    plan = load_plan(context)
    chosen = closure(plan.definitions, *_select(plan.definitions, names))
    return list(list_shared_items(context, plan, *chosen))


def _keygen(names: list[str]) -> int:
    if len(names) != 1:
        raise usage_error("`store keygen` needs the name of one file\nfor example: doit store keygen writer.key")
    path = Path(names[0])
    keyid = generate_key(from_start(names[0]))
    print_lines(
        [
            f"wrote {path} (secret: give it to the writers as FETCH_STORE_SIGNING_KEY) and {path}.pub",
            f"key id {keyid}",
            f"commit {path.name}.pub to keys/store/ of the definitions, so that its results are used",
        ]
    )
    return 0


def _push(context: Context, names: list[str], params: Any, progress: LineProgress) -> int:
    opening, counts = context.opening, Counts()
    verdict = opening.verdict
    if not verdict.writes:
        print_lines([f"nothing is written: {verdict.reason}", "set store_write=always to write from here"])
        return 1
    items = _list_items(context, names)
    writer = opening.writer(opening.members(), counts)
    keys: list[str] = []
    result = push(context, items, writer, progress, keys.append if params["dry_run"] else None)
    lines = sorted(keys)
    word = "to push" if params["dry_run"] else f"pushed ({format_size(counts.pushed_bytes)})"
    failed = f", {result.failed} not written" if result.failed else ""
    lines.append(f"{result.written} {word}, {result.unchanged} unchanged{failed}, {result.absent} not in the cache")
    if not writer.signs:
        lines.append("only content: without FETCH_STORE_SIGNING_KEY no result is written")
    print_lines([*counts.problems, *lines])
    return 1 if counts.problems else 0


def _pull(context: Context, names: list[str], progress: LineProgress) -> int:
    items = _list_items(context, names)
    pulled, absent = pull(context, items, progress)
    fleet = context.fleet
    size = sum(size for _, size in fleet.counts.read.values()) if fleet is not None else 0
    present = len(items) - pulled - absent
    print_lines([f"{pulled} pulled ({format_size(size)}), {present} in the cache, {absent} in no store"])
    return 1 if fleet is not None and fleet.has_failed else 0


def _prune(context: Context, params: Any) -> int:
    if not params["older_than"]:
        raise usage_error(
            "`store prune` needs --older-than AGE\nfor example: doit store prune --older-than 90d --dry-run"
        )
    older_than_s = parse_duration(params["older_than"], "--older-than")
    if not params["dry_run"] and not params["yes"]:
        raise usage_error(
            "`store prune` deletes for every user of the store\nadd --dry-run to see what it would delete, or --yes"
        )
    opening = context.opening
    if not params["dry_run"] and not opening.verdict.writes:
        print_lines([f"nothing is deleted: {opening.verdict.reason}", "set store_write=always to delete from here"])
        return 1
    plan = None if params["all"] else load_plan(context)
    status = 0
    for member in opening.members():
        try:
            decided = prune_store(context, member.store, plan, time.time() - older_than_s, dry_run=params["dry_run"])
        except StoreError as error:
            print_lines(str(error).split("\n"))
            status = 1
            continue
        word = "would be deleted" if params["dry_run"] else "deleted"
        lines = [f"{one.key}: {format_size(one.size)}" for one in decided.going]
        freed = format_size(sum(one.size for one in decided.going))
        print_lines([*lines, f"store {member.name}: {len(decided.going)} {word}, {freed}; {decided.kept} kept"])
    return status


def _status(context: Context) -> int:
    lines, status = describe_stores(context.opening)
    print_lines(lines)
    return status
