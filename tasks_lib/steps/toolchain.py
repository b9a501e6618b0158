"""Toolchains: deliver the fetches, run the command on them, and cache its output under the recipe key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from tasks_lib.cache import Result
from tasks_lib.context import Context
from tasks_lib.errors import ToolError, escape_text
from tasks_lib.fs.locks import locked
from tasks_lib.progress import Progress
from tasks_lib.steps.artifacts import adopt_shared_result, publish, publish_from_cache, share_result
from tasks_lib.steps.attempt import Attempt, begin_attempt, remove_attempts
from tasks_lib.steps.builds import Delivery, ToolchainBuild
from tasks_lib.steps.checks import is_placed, tree_of
from tasks_lib.steps.command import build_environment, list_isolation, list_words
from tasks_lib.steps.extract import (
    clear_worked_fetches,
    deliver,
    remove_stale_entries,
)
from tasks_lib.tree.recorded_tree import os_errors_as_tree_errors

#: Exit status of a command that cannot run on this machine. Source: Automake manual, "Scripts-based Testsuites".
SKIPPED: Final = 77
_CHUNK: Final = 1 << 20


def build_toolchain(context: Context, preparation: ToolchainBuild, progress: Progress) -> str:
    """Place the remaining fetches, run the command, and cache its output; return "" or why the command was skipped.

    If the cache has an output with this key, use it and do not run the command.

    Raises:
        ToolError: a resource or the command is missing, an input file changed, the command failed, or it did not write
            its artifact.
        TreeError, BlobMissingError, BlobCorruptError, CacheUnavailableError, CancelledError: as the earlier steps.
    """
    _check_resources(preparation)
    wanted = [one.record.stem for one in preparation.deliveries]
    with os_errors_as_tree_errors(preparation.directory):
        preparation.directory.mkdir(parents=True, exist_ok=True)
        if not _has_command(preparation):  # an earlier definition may have had one
            clear_worked_fetches(context, preparation.worked, progress)
        remove_stale_entries(context, preparation.fetches, preparation.records, wanted, progress)
        if not _adopt(context, preparation, progress):
            with (
                context.cache.lock(preparation.key, progress),
                locked(preparation.lock, timeout_s=context.settings.lock_timeout_s, progress=progress),
            ):
                adopted = _adopt(context, preparation, progress) or _adopt_shared(context, preparation, progress)
                skipped = "" if adopted else _build(context, preparation, progress)
            if skipped:
                return skipped
        preparation.stamp.write_text(json.dumps({"key": preparation.key}), "ascii")
    return ""


def _adopt(context: Context, preparation: ToolchainBuild, progress: Progress) -> bool:
    """Publish the recorded output and deliver the fetches; return False if the command has to run.

    This needs no lock: a recorded output never changes, and each delivery has its own lock.
    """
    if _has_command(preparation) and (
        preparation.output is None or not publish_from_cache(context, preparation.output)
    ):
        return False
    _deliver_missing(context, preparation, progress)
    if not preparation.worked.exists():
        remove_attempts(preparation)
    return True


def _adopt_shared(context: Context, preparation: ToolchainBuild, progress: Progress) -> bool:
    """As `_adopt`, with the output that another machine of this platform made and a store holds."""
    output = preparation.output
    if output is None or not _has_command(preparation):
        return False
    name, platform = output.path.name, preparation.host.platform
    return adopt_shared_result(context, output.key, name, platform, progress) and _adopt(context, preparation, progress)


def _check_resources(preparation: ToolchainBuild) -> None:
    """Reject a resource that matches no file: the key covers only the names and contents of files."""
    toolchain = preparation.toolchain
    for one in toolchain.run.resources if toolchain.run else ():
        if one.text in preparation.unmatched and not Path(one.path).is_file():
            raise ToolError(
                f"toolchain {toolchain.name}: resource {escape_text(one.text)} matches no file",
                hint="list files, directories or patterns that the command reads",
            )


def _build(context: Context, preparation: ToolchainBuild, progress: Progress) -> str:
    clear_worked_fetches(context, preparation.worked, progress)
    for delivery in preparation.deliveries:
        if not tree_of(delivery).holds(delivery.key):  # the command starts with unmodified fetches
            deliver(context, delivery, progress)
    isolation = list_isolation(preparation, context.environ)
    attempt = begin_attempt(preparation, context.settings.lock_timeout_s, progress)
    command = list_words(preparation)
    progress.phase("run", command=escape_text(" ".join(command))[:200])
    status = attempt.execute([*isolation, *command], build_environment(context, attempt), progress)
    if status == SKIPPED:
        return (
            _last_lines(preparation.log, 1)
            or f"the command exited with status {SKIPPED}: not supported on this machine"
        )
    if status:
        how = f"exited with status {status}" if status > 0 else f"was killed by signal {-status}"
        raise ToolError(
            f"toolchain {preparation.toolchain.name}: the command {how}: {_last_lines(preparation.log, 1)}",
            hint=f"see the full output in {preparation.log}",
        )
    if preparation.output is not None:
        _cache_output(context, attempt)
    return ""


def _has_command(preparation: ToolchainBuild) -> bool:
    run = preparation.toolchain.run
    return run is not None and bool(run.command or run.script)


def _deliver_missing(context: Context, preparation: ToolchainBuild, progress: Progress) -> None:
    """Deliver missing fetches; if a command ran in the directory, remove all fetches first and deliver them again."""
    if not all(_is_present(preparation, one) for one in preparation.deliveries):
        clear_worked_fetches(context, preparation.worked, progress)
    for delivery in preparation.deliveries:
        if not _is_present(preparation, delivery):
            deliver(context, delivery, progress)


def _is_present(preparation: ToolchainBuild, delivery: Delivery) -> bool:
    """Return whether a fetch is placed, or was extracted by its task and not removed since."""
    if delivery.entry.delivery == "place":
        return is_placed(preparation, delivery)
    return tree_of(delivery).key() == delivery.key


def _cache_output(context: Context, attempt: Attempt) -> None:
    preparation = attempt.preparation
    run, output = preparation.toolchain.run, preparation.output
    if run is None or output is None:
        raise AssertionError("only a command has an output")
    artifact = attempt.uploads / str(run.toolchain_artifact)
    if artifact.is_symlink() or not artifact.is_file():
        raise ToolError(
            f"toolchain {preparation.toolchain.name}: no {run.toolchain_artifact} in $UPLOAD_DIR after the command",
            hint=f"see the full output in {preparation.log}",
        )
    with artifact.open("rb") as file, context.cache.writer() as writer:
        while chunk := file.read(_CHUNK):
            writer.write(chunk)
        integrity = writer.commit()
    context.cache.record(Result(key=output.key, integrity=integrity, provenance={"made": "here"}))
    share_result(context, output.key, integrity, preparation.host.platform)
    publish(context, integrity, output)


def _last_lines(log: Path, count: int) -> str:
    """Return the last non-blank lines of a log, escaped."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 8192))
            lines = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    except OSError:
        return ""
    return escape_text("; ".join(lines[-count:])[:300])
