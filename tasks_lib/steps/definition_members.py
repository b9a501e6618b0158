"""The blobs of which a definition of Debian packages or of a source package consists, as far as they are known here."""

from __future__ import annotations

from pathlib import Path

from tasks_lib.context import Context
from tasks_lib.definitions import Debian, DebianSource
from tasks_lib.steps.debian import list_members
from tasks_lib.steps.members import Member
from tasks_lib.steps.pinned_file import to_member
from tasks_lib.steps.source_package import list_pinned_files


def list_definition_members(context: Context, source: Debian | DebianSource, directory: Path) -> list[Member]:
    """Return the files that the lock names, or the .dsc in the cache and the files that it names.

    `directory` is that to which the path of the lock is relative.
    """
    if isinstance(source, Debian):
        return list_members(source, directory)
    return [to_member(one) for one in list_pinned_files(context, source)]
