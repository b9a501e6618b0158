"""`doit update`: move definitions to other versions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tasks_lib.cli.project_command import DRY_RUN, FORMAT, PinCommand, select_fetches
from tasks_lib.definitions import Fetch
from tasks_lib.engine.base_command import JSON, flag, option, usage_error
from tasks_lib.errors import CancelledError, FetchError, escape_lines, escape_text
from tasks_lib.pins.commits import Target
from tasks_lib.pins.outdated import look_up
from tasks_lib.pins.update import Updated, UpdateRequest, update
from tasks_lib.pins.workspace import Workspace
from tasks_lib.progress import LineProgress
from tasks_lib.session import Session


class UpdateCommand(PinCommand):
    """`doit update`."""

    name = "update"
    doc_usage = "NAME..."
    doc_description = (
        "Without --to and --url: to the newest version; if there is none, the present URL is measured again. Only the "
        "lines that change are edited. Debian packages are resolved again, into their lock. Exit status: 0 success, "
        "also if nothing changed; 1 a definition could not be updated, and is as it was; 2 unusable definitions; "
        "3 invalid command line."
    )
    cmd_options = (
        flag("all", "all fetch definitions"),
        option("to", "version or tag; 1.10 and v1.10 mean the same tag"),
        option("url", "new URL, for one definition"),
        DRY_RUN,
        JSON,
        FORMAT,
    )

    def edit(self, session: Session, params: Any, args: list[str], progress: LineProgress) -> int:
        """Update the definitions one after the other; go on after a failure."""
        if bool(args) == params["all"]:
            raise usage_error("`update` needs names, or --all\n`doit help update` shows its options")
        fetches = select_fetches(session, args)
        if params["url"] and len(fetches) != 1:
            raise usage_error("--url is for one definition\nname only that one")
        if params["to"] and params["all"]:
            raise usage_error("--to is for named definitions\nname them")
        request = UpdateRequest(url=params["url"], to=params["to"], mode="dry-run" if params["dry_run"] else "write")
        workspace = Workspace(session.context, session.definitions, progress)
        targets = _find_newest(workspace, fetches, request)
        done = []
        for fetch in fetches:
            done.append(_update(workspace, fetch, request, targets[fetch.name]))
            if params["format"] != "json":
                self._show(done[-1], params)
        if params["format"] == "json":
            self.write_json([_to_json(one) for one in done])
        return int(any(one.state == "failed" for one in done))

    def _show(self, done: Updated, params: Any) -> None:
        """Write what became of a definition."""
        name = escape_text(done.name)
        if done.state == "failed":
            sys.stderr.write(f"{name}: {escape_lines(done.reason.removeprefix(f'{done.name}: '))}\n")
            return
        versions = f" {done.before or '?'} -> {done.after}" if done.before != done.after and done.after else ""
        would = "would be " if params["dry_run"] and done.state == "updated" else ""
        self.outstream.write(f"{name}: {would}{done.state}{escape_text(versions)}\n")
        self.write_lines(f"  note: {escape_lines(note)}" for note in done.notes)
        if done.state == "updated":
            self.write_lines(f"  {escape_text(line)}" for line in done.summary)
            self.write_lines(escape_text(line) for line in done.diff.splitlines())


def _find_newest(workspace: Workspace, fetches: list[Fetch], request: UpdateRequest) -> dict[str, Target]:
    """Return where each definition goes; nowhere if the command line says it, or if nothing newer is known."""
    targets = {fetch.name: Target() for fetch in fetches}
    if not request.to and not request.url:
        for one in look_up(workspace.context, fetches, workspace.progress):
            if one.state == "older":
                targets[one.name] = Target(one.newest, one.tag, one.commit, one.where)
            elif one.state in ("unknown", "unlisted"):
                workspace.progress.warn(f"{one.name}: the newest version is not known: {one.evidence}")
    return targets


def _update(workspace: Workspace, fetch: Fetch, request: UpdateRequest, newest: Target) -> Updated:
    """Update one definition; return a failure instead of raising it."""
    try:
        return update(workspace, fetch, request, newest)
    except CancelledError:
        raise
    except FetchError as error:
        return Updated(name=fetch.name, file=Path(fetch.file), state="failed", reason=str(error))


def _to_json(done: Updated) -> dict[str, Any]:
    return {
        "name": done.name,
        "file": str(done.file),
        "status": done.state,
        "from": done.before,
        "to": done.after,
        "where": done.where,
        "reason": done.reason,
        "changes": {key: {"old": old, "new": new} for key, (old, new) in done.changes.items()},
        "tree": done.tree._asdict() if done.tree is not None else None,
        "diff": done.diff,
        "notes": done.notes,
    }
